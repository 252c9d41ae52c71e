/*
 * What a path that a person gives stands for, and which weight files of some
 * folders are a part, by what is in them.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "codec.h"
#include "experts.h"
#include "files.h"
#include "places.h"

#define MAX_DEPTH 2         // folders in folders: diffusion_models/Wan/2.1/
#define MAX_REF 256         // bytes of refs/main: a hash and a newline

char *wan_path_join(const char *dir, const char *name)
{
    const size_t n = strlen(dir), size = n + strlen(name) + 2;
    char *path = malloc(size);

    if (path)
        snprintf(path, size, "%s%s%s", dir,
                 n && dir[n - 1] == '/' ? "" : "/", name);
    return path;
}

char *wan_path_parent(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static int is_folder(const char *path)
{
    struct stat st;

    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* Whether dir/name is a folder; or an error. */
static int has_folder(const char *dir, const char *name, const WanLog *log)
{
    char *path = wan_path_join(dir, name);
    const int ret = path ? is_folder(path)
                         : wan_error_memory(log, dir, "its path");

    free(path);
    return ret;
}

/* ------------------------------------------------------------- the home */

static int expand_home(char **out, const char *path, const WanLog *log)
{
    const char *home = getenv("HOME");
    struct stat st;

    if (path[0] != '~' || (path[1] && path[1] != '/') || !lstat(path, &st))
        *out = strdup(path);
    else if (!home || !*home)
        return wan_error(log, WAN_ERR(ENOENT), "%s: ~ is the home folder, and "
                         "the variable HOME is not set", path);
    else
        *out = path[1] ? wan_path_join(home, path + 2) : strdup(home);
    return *out ? 0 : wan_error_memory(log, path, "its path");
}

/* ------------------------------------------------------- a hub's cache */

/* The snapshot that refs/main names: 1 and *out, a name; 0: it names none that
 * could be. */
static int read_ref(char **out, const char *dir, const WanLog *log)
{
    char *path = wan_path_join(dir, "refs/main"), *text = NULL;
    size_t n = 0;
    int ret = path ? wan_read_file(&text, &n, path, MAX_REF, NULL)
                   : WAN_ERR(ENOMEM);

    free(path);
    if (ret == WAN_ERR(ENOMEM))
        return wan_error_memory(log, dir, "its refs");
    if (ret < 0)
        return 0;
    while (n && isspace((unsigned char)text[n - 1]))
        text[--n] = 0;
    if (n && *text != '.' && strlen(text) == n && !strchr(text, '/')) {
        *out = text;
        return 1;
    }
    free(text);
    return 0;
}

/* The name of the folder in dir that was changed last, and how many there are:
 * 1 and *out; 0: none. */
static int newest_folder(char **out, int *count, const char *dir,
                         const WanLog *log)
{
    DIR *d = opendir(dir);
    const struct dirent *e;
    struct timespec when = { 0 };
    struct stat st;
    int ret = 0;

    *count = 0;
    while (d && ret >= 0 && (e = readdir(d))) {
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, 0) < 0 ||
            !S_ISDIR(st.st_mode))
            continue;
        ++*count;
        if (*out && (st.st_mtim.tv_sec < when.tv_sec ||
                     (st.st_mtim.tv_sec == when.tv_sec &&
                      st.st_mtim.tv_nsec <= when.tv_nsec)))
            continue;
        when = st.st_mtim;
        free(*out);
        if (!(*out = strdup(e->d_name)))
            ret = wan_error_memory(log, dir, "its names");
    }
    if (d)
        closedir(d);
    return ret < 0 ? ret : *count > 0;
}

/* The folder of a hub's cache becomes that of a snapshot. */
static int choose_snapshot(char **path, const WanLog *log)
{
    char *all = wan_path_join(*path, "snapshots"), *name = NULL;
    int count, ret = all ? read_ref(&name, *path, log)
                         : wan_error_memory(log, *path, "its path");

    if (ret > 0 && !(ret = has_folder(all, name, log))) {
        wan_log(log, WAN_LOG_WARNING, "%s: refs/main names %s, which is not "
                "among its snapshots", *path, name);
        free(name);
        name = NULL;
    }
    if (!ret && (ret = newest_folder(&name, &count, all, log)) > 0)
        wan_log(log, WAN_LOG_INFO, "%s: refs/main names none of its %d "
                "snapshots, so the %s one is taken, %s", *path, count,
                count > 1 ? "newest" : "only", name);
    if (!ret)
        ret = wan_error(log, WAN_ERR(ENOENT), "%s: a hub's cache without a "
                        "snapshot: looked in refs/main and snapshots", *path);
    if (ret > 0) {
        free(*path);
        *path = wan_path_join(all, name);
        ret = *path ? 0 : wan_error_memory(log, all, "its path");
    }
    free(name);
    free(all);
    return ret;
}

/* A cache's folder of one model: models--OWNER--NAME, or what has been renamed
 * but has its insides. */
static int is_cache(const char *path, const WanLog *log)
{
    static const char prefix[] = "models--";
    const char *slash = strrchr(path, '/');
    const int ret = has_folder(path, "snapshots", log);

    if (ret <= 0 || !strncmp(slash ? slash + 1 : path, prefix,
                             sizeof(prefix) - 1))
        return ret;
    return has_folder(path, "blobs", log);
}

int wan_place(char **out, const char *path, const WanLog *log)
{
    int ret;

    *out = NULL;
    if ((ret = expand_home(out, path, log)) >= 0)
        for (size_t n = strlen(*out); n > 1 && (*out)[n - 1] == '/'; )
            (*out)[--n] = 0;
    if (ret >= 0 && (ret = is_cache(*out, log)) > 0)
        ret = choose_snapshot(out, log);
    if (ret < 0) {
        free(*out);
        *out = NULL;
    }
    return ret < 0 ? ret : 0;
}

/* ------------------------------------------------------------- ComfyUI */

/* How much of dir is the folder around diffusion_models or the like; -1: dir is
 * in no such folder. 0: it begins with one. */
static int around_models(const char *dir)
{
    static const char *const kinds[] = { "diffusion_models", "unet",
                                         "checkpoints" };
    size_t end = strlen(dir);

    for (int depth = 0; depth <= MAX_DEPTH && end; depth++) {
        size_t start = end;

        while (start && dir[start - 1] != '/')
            start--;
        for (int i = 0; i < 3; i++)
            if (strlen(kinds[i]) == end - start &&
                !strncmp(dir + start, kinds[i], end - start))
                return (int)start;
        for (end = start; end && dir[end - 1] == '/'; )
            end--;
    }
    return -1;
}

int wan_place_models(char **out, const char *dir, const WanLog *log)
{
    char real[PATH_MAX];
    int n = around_models(dir);

    if (n < 0 && realpath(dir, real) && (n = around_models(real)) >= 0)
        dir = real;
    if (n < 0)
        return 0;
    *out = n ? strndup(dir, n > 1 ? n - 1 : 1) : strdup(".");
    return *out ? 1 : wan_error_memory(log, dir, "its path");
}

/* ------------------------------------------------------------- a search */

struct WanSeen {
    dev_t dev;
    ino_t ino;
    char *path;             // of one that is the part, else NULL
    int width;              // the more the better
};

/* The first line about a file that is not read. */
static void keep_note(void *opaque, enum WanLogLevel level, const char *line)
{
    WanSearch *s = opaque;

    if (level == WAN_LOG_ERROR && !*s->note)
        snprintf(s->note, sizeof(s->note), "%s", line);
}

/* Whether the name is one that weights have. One shard stands for all. */
static int is_weights(const char *name)
{
    static const char *const ends[] = { ".safetensors", ".gguf", ".pth", ".pt",
                                        ".ckpt", ".bin" };
    const size_t n = strlen(name);
    const char *of = strstr(name, "-of-");
    int number;

    if (of && of - name >= 6 && sscanf(of - 6, "-%5d-of-", &number) == 1 &&
        number != 1)
        return 0;
    for (int i = 0; i < 6; i++)
        if (n > strlen(ends[i]) && !strcmp(name + n - strlen(ends[i]), ends[i]))
            return 1;
    return 0;
}

/* What scandir() keeps: weights, and what may be a folder. */
static int is_wanted(const struct dirent *e)
{
    return e->d_name[0] != '.' && (e->d_type != DT_REG ||
                                   is_weights(e->d_name));
}

/* Whether a file is the part; of those that are the widest are best. */
static int is_part(const WanSearch *s, const WanWeights *w, int *width)
{
    WanNaming naming;
    WanT5Config t5;
    WanVaeConfig vae;
    WanClipConfig clip;

    *width = 0;
    if (s->part == WAN_PART_DIT || wan_config_holds(w, WAN_PART_DIT))
        return s->part == WAN_PART_DIT && wan_config_holds(w, WAN_PART_DIT);
    if (s->part == WAN_PART_T5)
        return wan_config_t5(&t5, &naming, w, NULL) >= 0 &&
               (!s->text_dim || t5.dim == s->text_dim);
    if (s->part == WAN_PART_CLIP)
        return wan_config_clip(&clip, &naming, w, NULL) >= 0;
    if (wan_config_vae(&vae, &naming, w, NULL) < 0)
        return 0;
    if (s->latents && wan_codec_family(vae.family)->channels != s->latents)
        return 0;
    *width = vae.family == WAN_VAE_TAEHV ? 0 : vae.dim;
    return *width || s->tiny;
}

static int look_at(WanSearch *s, const char *path, const struct stat *st)
{
    const WanLog notes = { keep_note, s, WAN_LOG_ERROR };
    WanWeights *w;
    WanSeen *seen;
    int ret, width;

    for (int i = 0; i < s->nb_seen; i++)
        if (s->seen[i].dev == st->st_dev && s->seen[i].ino == st->st_ino)
            return 0;
    if (s->nb_seen == WAN_SEARCH_FILES) {
        s->passed++;
        return 0;
    }
    if (wan_interrupted(s->interrupt))
        return WAN_CANCELLED;
    if (!s->seen && !(s->seen = calloc(WAN_SEARCH_FILES, sizeof(*s->seen))))
        return wan_error_memory(s->log, path, "what is beside it");
    seen = &s->seen[s->nb_seen++];
    *seen = (WanSeen){ st->st_dev, st->st_ino, NULL, 0 };

    ret = wan_weights_open(&w, path, &notes);
    if (ret == WAN_ERR(ENOMEM))
        return wan_error_memory(s->log, path, "its tensors");
    if (ret < 0)
        return 0;
    if (is_part(s, w, &width)) {
        seen->width = width;
        if (!(seen->path = strdup(path)))
            ret = wan_error_memory(s->log, path, "its path");
    }
    wan_weights_close(&w);
    return ret;
}

/* One folder, and depth levels of folders in it, in the order of names. */
static int look_in(WanSearch *s, const char *dir, int depth)
{
    struct dirent **entry;
    const int n = scandir(dir, &entry, is_wanted, alphasort);
    int ret = 0;

    if (n < 0 && errno == ENOMEM)
        return wan_error_memory(s->log, dir, "its names");
    if (n < 0) {
        if (errno != ENOENT && errno != ENOTDIR && !*s->note)
            snprintf(s->note, sizeof(s->note), "%s: %s", dir, strerror(errno));
        return 0;
    }
    for (int i = 0; i < n; i++) {
        char *path = ret >= 0 ? wan_path_join(dir, entry[i]->d_name) : NULL;
        struct stat st;

        free(entry[i]);
        if (ret < 0)
            continue;
        if (!path)
            ret = wan_error_memory(s->log, dir, "its names");
        else if (stat(path, &st) < 0)
            wan_error_file(&(WanLog){ keep_note, s, WAN_LOG_ERROR }, path,
                           errno);
        else if (S_ISDIR(st.st_mode))
            ret = depth ? look_in(s, path, depth - 1) : 0;
        else if (S_ISREG(st.st_mode) && is_weights(strrchr(path, '/') + 1))
            ret = look_at(s, path, &st);
        free(path);
    }
    free(entry);
    return ret;
}

__attribute__((format(printf, 3, 4)))
static void append(char *dst, size_t size, const char *fmt, ...)
{
    const size_t n = strlen(dst);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(dst + n, size - n, fmt, ap);
    va_end(ap);
}

/* Of two transformers that were found the high-noise expert, if by their names
 * they are a pair; else NULL. */
static const WanSeen *pair_among(const WanSearch *s)
{
    const WanSeen *high = NULL, *low = NULL;
    char *partner;
    int pair;

    for (int i = 0; i < s->nb_seen; i++) {
        const WanSeen *seen = &s->seen[i];

        if (!seen->path)
            continue;
        if (wan_expert_of(seen->path) == WAN_EXPERT_HIGH && !high)
            high = seen;
        else if (wan_expert_of(seen->path) == WAN_EXPERT_LOW && !low)
            low = seen;
        else
            return NULL;
    }
    if (!high || !low || wan_expert_partner(&partner, high->path) < 0)
        return NULL;
    pair = partner && !strcmp(partner, low->path);
    free(partner);
    return pair ? high : NULL;
}

/* The one that was found in root, if one is best. */
static int choose(char **out, WanSearch *s, const char *root)
{
    const size_t n_root = strlen(root);
    const size_t skip = n_root + (root[n_root - 1] != '/');
    const WanSeen *best = NULL, *pair = NULL;
    char list[512] = "";
    int n = 0;

    for (int i = 0; i < s->nb_seen; i++)
        if (s->seen[i].path && (!best || s->seen[i].width > best->width))
            best = &s->seen[i];
    if (!best)
        return 0;
    if (s->part == WAN_PART_DIT && (pair = pair_among(s)))
        best = pair;
    for (int i = 0; i < s->nb_seen && !pair; i++)
        if (s->seen[i].path && s->seen[i].width == best->width)
            append(list, sizeof(list), "%s%s", n++ ? ", " : "",
                   s->seen[i].path + skip);
    if (n > 1)
        return wan_error(s->log, WAN_ERR(EINVAL), "%s: %d files here are a %s "
                         "(%s): name one by option %s", root, n, s->what, list,
                         s->option);
    wan_log(s->log, WAN_LOG_INFO, "%s: the %s, by its tensors", best->path,
            s->what);
    *out = strdup(best->path);
    return *out ? 1 : wan_error_memory(s->log, best->path, "its path");
}

int wan_search(char **out, WanSearch *s, const char *root)
{
    int ret = 0;

    for (int i = 0; s->folders[i] && ret >= 0; i++) {
        char *dir = *s->folders[i] ? wan_path_join(root, s->folders[i])
                                   : strdup(root);

        if (!dir)
            return wan_error_memory(s->log, root, "its path");
        if (is_folder(dir)) {
            append(s->looked, sizeof(s->looked), "%s%s", *s->looked ? ", " : "",
                   dir);
            ret = look_in(s, dir, *s->folders[i] ? MAX_DEPTH : 0);
        }
        free(dir);
    }
    if (ret >= 0 && s->passed)
        wan_log(s->log, WAN_LOG_WARNING, "%s: of its weight files %d were "
                "looked at for the %s and %d were not; option %s names one",
                root, s->nb_seen, s->what, s->passed, s->option);
    s->passed = 0;
    return ret < 0 ? ret : choose(out, s, root);
}

void wan_search_end(WanSearch *s)
{
    for (int i = 0; i < s->nb_seen; i++)
        free(s->seen[i].path);
    free(s->seen);
    s->seen = NULL;
    s->nb_seen = 0;
}
