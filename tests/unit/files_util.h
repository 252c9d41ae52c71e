/*
 * For the tests of what is found on a disk: folders of links to the tiny
 * checkpoints, files put together from them, a model opened and its lines kept.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_FILES_UTIL_H
#define WAN_FILES_UTIL_H

#include <limits.h>
#include <sys/stat.h>

#include "golden.h"
#include "model.h"
#include "weights_util.h"

static char said[2048];         // the last line of any level, but for what is
                                // said of every model
static char told[16384];        // all of them

static inline void keep_all(void *opaque, enum WanLogLevel level,
                            const char *line)
{
    const size_t n = strlen(told);

    if (!strncmp(line, "precision: ", 11))
        return;
    snprintf(said, sizeof(said), "%s", line);
    snprintf(told + n, sizeof(told) - n, "%s\n", line);
    keep_line(opaque, level, line);
}

static inline int open_model(const WanModelParams *given)
{
    WanModelParams p = *given;
    WanModel *m;
    int ret;

    last_line[0] = said[0] = told[0] = 0;
    error_lines = 0;
    p.log = keep_all;
    p.log_level = WAN_LOG_INFO;
    alarm(30);                  // a pipe that is waited for
    ret = wan_model_open(&m, &p);
    alarm(0);
    CHECKF(error_lines == (ret < 0), "%d lines for %d: %s", error_lines, ret,
           last_line);
    CHECKF(ret >= 0 || strcmp(wan_strerror(ret), "error"), "%d has no text",
           ret);
    wan_model_close(&m);
    return ret;
}

static inline int open_path(const char *path)
{
    WanModelParams p;

    wan_model_params_default(&p);
    p.path = path;
    return open_model(&p);
}

/* dir/name, in one of some buffers. */
static inline const char *at(const char *dir, const char *name)
{
    static char *path[64];
    static int turn;
    char *made;

    if (asprintf(&made, "%s/%s", dir, name) < 0)
        abort();
    turn = (turn + 1) % 64;
    free(path[turn]);
    return path[turn] = made;
}

static inline void link_to(const char *target, const char *dir,
                           const char *name)
{
    const char *path = at(dir, name);

    unlink(path);
    if (symlink(target, path) < 0)
        abort();
}

/* dir/name -> the golden checkpoint's file. */
static inline void link_golden(const char *dir, const char *name,
                               const char *file)
{
    char target[PATH_MAX];

    if (!realpath(tiny(file), target))
        abort();
    link_to(target, dir, name);
}

static inline const char *folder(const char *name)
{
    const char *dir = scratch(name);

    if (mkdir(dir, 0700) < 0)
        abort();
    return dir;
}

static inline void inside(char *dst, const char *dir, const char *name)
{
    if (snprintf(dst, 1500, "%s/%s", dir, name) >= 1500)
        abort();
}

/* All but the transformer of the official layout. */
static inline void link_rest(const char *dir)
{
    link_golden(dir, "models_t5_umt5-xxl-enc-bf16.pth",
                "wan-t2v/models_t5_umt5-xxl-enc-bf16.pth");
    link_golden(dir, "Wan2.1_VAE.pth", "wan-t2v/Wan2.1_VAE.pth");
    link_golden(dir, "spiece.model", "wan-t2v/google/umt5-xxl/spiece.model");
}

static inline const char *official(const char *name)
{
    const char *dir = folder(name);

    link_rest(dir);
    link_golden(dir, "diffusion_pytorch_model.safetensors",
                "wan-t2v/diffusion_pytorch_model.safetensors");
    link_golden(dir, "config.json", "wan-t2v/config.json");
    return dir;
}

static inline void expect(int ret, int error, const char *words)
{
    CHECKF(ret == error, "%d instead of %d: %s", ret, error, last_line);
    CHECKF(strstr(error < 0 ? last_line : said, words), "'%s' is not in: %s",
           words, error < 0 ? last_line : said);
}

#endif /* WAN_FILES_UTIL_H */
