/*
 * Wan 2.2's two experts: which a file is, by its names, and where the other
 * lies.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "experts.h"

static const char *const words[] = { [WAN_EXPERT_HIGH] = "high",
                                     [WAN_EXPERT_LOW] = "low" };
static const char *const folders[] = { [WAN_EXPERT_HIGH] = "transformer",
                                       [WAN_EXPERT_LOW] = "transformer_2" };

static WanExpert other(WanExpert e)
{
    return e == WAN_EXPERT_HIGH ? WAN_EXPERT_LOW : WAN_EXPERT_HIGH;
}

const char *wan_expert_name(WanExpert e)
{
    return e == WAN_EXPERT_LOW ? "low-noise" : "high-noise";
}

/* Is there "noise" behind the word, with or without a sign between? */
static int before_noise(const char *behind)
{
    behind += *behind && strchr("_-. ", *behind);
    return !strncasecmp(behind, "noise", 5);
}

/* The expert that the word at name[i] means. Words begin where no letter is
 * before, or as HighNoise does in the middle of letters. */
static WanExpert word_at(const char *name, size_t i)
{
    const char *at = name + i;

    for (WanExpert e = WAN_EXPERT_HIGH; e <= WAN_EXPERT_LOW; e++) {
        const size_t n = strlen(words[e]);
        const int starts = !i || !isalpha((unsigned char)at[-1]) ||
                           (isupper((unsigned char)*at) &&
                            islower((unsigned char)at[1]));

        if (!starts || strncasecmp(at, words[e], n))
            continue;
        if (before_noise(at + n) ||
            (isupper((unsigned char)at[0]) && isupper((unsigned char)at[1]) &&
             !isalpha((unsigned char)at[n])))
            return e;
    }
    return WAN_EXPERT_NONE;
}

static WanExpert word_in(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const WanExpert e = word_at(name, i);

        if (e)
            return e;
    }
    return WAN_EXPERT_NONE;
}

WanExpert wan_expert_word(const char *name)
{
    return word_in(name, strlen(name));
}

/* Where the last two parts of a path begin: the folder's, 0 without one, and
 * the file's. */
static void last_two(const char *path, size_t *folder, size_t *file)
{
    const char *slash = strrchr(path, '/');

    *file = slash ? (size_t)(slash + 1 - path) : 0;
    *folder = *file ? *file - 1 : 0;
    while (*folder && path[*folder - 1] != '/')
        --*folder;
}

static int is_folder(const char *path, size_t begin, size_t end, WanExpert e)
{
    return end > begin && end - begin - 1 == strlen(folders[e]) &&
           !strncmp(path + begin, folders[e], end - begin - 1);
}

WanExpert wan_expert_of(const char *path)
{
    size_t folder, file;
    WanExpert e;

    last_two(path, &folder, &file);
    if (is_folder(path, folder, file, WAN_EXPERT_LOW))
        return WAN_EXPERT_LOW;
    e = word_in(path + folder, file - folder);
    return e ? e : word_in(path + file, strlen(path + file));
}

/* The other expert's word, written as this one's is: returns its length. */
static size_t put_word(char *dst, const char *like, WanExpert e)
{
    const size_t n = strlen(words[e]);

    for (size_t i = 0; i < n; i++) {
        const int upper = isupper((unsigned char)like[i ? 1 : 0]);

        dst[i] = upper ? (char)toupper((unsigned char)words[e][i])
                       : words[e][i];
    }
    return n;
}

int wan_expert_partner(char **out, const char *path)
{
    const size_t size = strlen(path);
    size_t folder, file, n = 0;
    int found = 0;
    char *p;

    last_two(path, &folder, &file);
    *out = NULL;
    if (!(p = malloc(2 * size + sizeof("transformer_2"))))
        return -1;
    for (size_t i = 0; i < size; ) {
        const WanExpert whole =
            i != folder ? WAN_EXPERT_NONE :
            is_folder(path, folder, file, WAN_EXPERT_HIGH) ? WAN_EXPERT_HIGH :
            is_folder(path, folder, file, WAN_EXPERT_LOW) ? WAN_EXPERT_LOW :
                                                            WAN_EXPERT_NONE;
        const WanExpert e = i < folder || whole ? WAN_EXPERT_NONE
                                                : word_at(path, i);

        if (whole) {
            strcpy(p + n, folders[other(whole)]);
            n += strlen(p + n);
            i += strlen(folders[whole]);
        } else if (e) {
            n += put_word(p + n, path + i, other(e));
            i += strlen(words[e]);
        } else {
            p[n++] = path[i++];
        }
        found |= whole || e;
    }
    p[n] = 0;
    if (found)
        *out = p;
    else
        free(p);
    return 0;
}
