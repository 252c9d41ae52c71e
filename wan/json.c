/*
 * JSON texts from files: cJSON, with what it leaves open.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * cJSON says of a text that is wrong and of memory that is not there the same:
 * NULL. So a text that it did not take is read once more by rules that need no
 * memory.
 */

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

/* What a parsed text may cost: cJSON takes 64 bytes a value. */
#define MAX_VALUES (1 << 21)

size_t wan_json_bom(const void *text, size_t size)
{
    return size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0;
}

/* ------------------------------------------------------------- grammar */

static const char *blank(const char *p)
{
    return p + strspn(p, " \t\r\n");
}

static const char *digits(const char *p)
{
    const char *const begin = p;

    while (isdigit((unsigned char)*p))
        p++;
    return p > begin ? p : NULL;
}

static const char *number(const char *p)
{
    const char *const begin = p;

    p += *p == '-';
    p = *p == '0' ? p + 1 : digits(p);
    if (p && *p == '.')
        p = digits(p + 1);
    if (p && (*p == 'e' || *p == 'E')) {
        p++;
        p = digits(p + (*p == '+' || *p == '-'));
    }
    return p && p - begin < 63 ? p : NULL;      // cJSON's own limit
}

/* The number of \uNNNN at p, or -1. */
static int unit(const char *p)
{
    int v = 0;

    if (p[0] != '\\' || p[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        if (!isxdigit((unsigned char)p[i]))
            return -1;
        v = v * 16 + (isdigit((unsigned char)p[i]) ? p[i] - '0' :
                      (p[i] | 32) - 'a' + 10);
    }
    return v;
}

static const char *string(const char *p)
{
    if (*p++ != '"')
        return NULL;
    while (*p != '"') {
        if (!*p)
            return NULL;
        if (*p != '\\') {
            p++;
        } else if (p[1] == 'u') {
            const int v = unit(p), high = v >= 0xd800 && v < 0xdc00;
            const int low = high ? unit(p + 6) : 0;

            if (v < 0 || (v >= 0xdc00 && v < 0xe000) ||
                (high && (low < 0xdc00 || low > 0xdfff)))
                return NULL;
            p += high ? 12 : 6;
        } else if (p[1] && strchr("\"\\/bfnrt", p[1])) {
            p += 2;
        } else {
            return NULL;
        }
    }
    return p + 1;
}

/* Behind the value at p, or NULL: there is none. */
static const char *value(const char *p, int depth)
{
    static const char *const words[] = { "true", "false", "null" };
    const char close = *p == '{' ? '}' : ']';

    for (int i = 0; i < 3; i++)
        if (!strncmp(p, words[i], strlen(words[i])))
            return p + strlen(words[i]);
    if (*p == '"')
        return string(p);
    if (*p != '{' && *p != '[')
        return number(p);
    if (depth == CJSON_NESTING_LIMIT)
        return NULL;
    p = blank(p + 1);
    if (*p == close)
        return p + 1;
    for (;; p = blank(p + 1)) {
        if (close == '}') {
            if (!(p = string(p)) || *(p = blank(p)) != ':')
                return NULL;
            p = blank(p + 1);
        }
        if (!(p = value(p, depth + 1)))
            return NULL;
        p = blank(p);
        if (*p == close)
            return p + 1;
        if (*p != ',')
            return NULL;
    }
}

/* ------------------------------------------------------------- parsing */

int wan_json_parse(cJSON **out, const char *path, const char *what,
                   const void *text, size_t size, const WanLog *log)
{
    const size_t bom = wan_json_bom(text, size);
    const char *end = NULL;
    char *copy, *json;
    int values = 0, ret;

    *out = NULL;
    /* The copy ends in a zero, which keeps cJSON's lookahead inside it. */
    copy = malloc(size + 1);
    if (!copy)
        return wan_error_memory(log, path, what);
    if (size)
        memcpy(copy, text, size);
    copy[size] = 0;
    json = copy + bom;

    if (memchr(copy, 0, size)) {
        ret = wan_error(log, WAN_INVALIDDATA, "%s: the %s is not JSON: zero "
                        "byte at %td", path, what,
                        (char *)memchr(copy, 0, size) - copy);
        goto fail;
    }
    for (const char *p = json; *p; p++)
        values += *p == ',' || *p == ':' || *p == '[' || *p == '{';
    if (values > MAX_VALUES) {
        ret = wan_error(log, WAN_INVALIDDATA, "%s: the %s has %d values, at "
                        "most %d are read", path, what, values, MAX_VALUES);
        goto fail;
    }
    *out = cJSON_ParseWithLengthOpts(json, size - bom + 1, &end, 0);
    if (!*out && value(blank(json), 0)) {
        ret = wan_error_memory(log, path, what);
        goto fail;
    }
    if (!*out) {
        ret = wan_error(log, WAN_INVALIDDATA, "%s: the %s is not JSON: "
                        "stopped at byte %td of %zu", path, what,
                        end ? end - copy : 0, size);
        goto fail;
    }
    end = blank(end);
    if (*end) {
        ret = wan_error(log, WAN_INVALIDDATA, "%s: the %s goes on at byte "
                        "%td, behind the end of its JSON", path, what,
                        end - copy);
        goto fail;
    }
    if (!cJSON_IsObject(*out)) {
        ret = wan_error(log, WAN_INVALIDDATA, "%s: the %s is not a JSON "
                        "object", path, what);
        goto fail;
    }
    free(copy);
    return 0;
fail:
    cJSON_Delete(*out);
    *out = NULL;
    free(copy);
    return ret;
}
