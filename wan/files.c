/*
 * Where the parts of a checkpoint lie, and the model that comes with libwan.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi.h"
#include "files.h"

/* Names to try in a directory, best first. */
static const char *const dit_names[] = {
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model.safetensors",
    NULL
};
static const char *const t5_names[] = {
    "models_t5_umt5-xxl-enc-bf16.pth",
    "text_encoder/model.safetensors.index.json",
    "text_encoder/model.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    NULL
};
static const char *const vae_names[] = {
    "Wan2.1_VAE.pth",
    "vae/diffusion_pytorch_model.safetensors",
    "wan_2.1_vae.safetensors",
    "Wan2.1_VAE.safetensors",
    NULL
};
/* A directory given for the VAE itself may be Diffusers' vae/. */
static const char *const vae_own_names[] = {
    "Wan2.1_VAE.pth",
    "diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "wan_2.1_vae.safetensors",
    NULL
};
static const char *const clip_names[] = {
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    "image_encoder/model.safetensors.index.json",
    "image_encoder/model.safetensors",
    "clip_vision_h.safetensors",
    NULL
};
static const char *const clip_own_names[] = {
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    "model.safetensors.index.json",
    "model.safetensors",
    "image_encoder/model.safetensors",
    "clip_vision_h.safetensors",
    NULL
};
static const char *const tokenizer_names[] = {
    "google/umt5-xxl/spiece.model",
    "tokenizer/spiece.model",
    "spiece.model",
    NULL
};

enum Kind { KIND_NONE, KIND_FILE, KIND_DIR };

static enum Kind kind_of(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return KIND_NONE;
    return S_ISDIR(st.st_mode) ? KIND_DIR : KIND_FILE;
}

static char *join(const char *dir, const char *name)
{
    const size_t n = strlen(dir), size = n + strlen(name) + 2;
    char *path = malloc(size);

    if (path)
        snprintf(path, size, "%s%s%s", dir,
                 n && dir[n - 1] == '/' ? "" : "/", name);
    return path;
}

/* The directory a file lies in. */
static char *parent(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static int ends_in_transformer(const char *dir)
{
    const char *slash = strrchr(dir, '/');

    return !strcmp(slash ? slash + 1 : dir, "transformer");
}

/* The first of the names that is a file in dir: 1 and *out, or 0. */
static int look(char **out, const char *dir, const char *const *names)
{
    for (; *names; names++) {
        char *path = join(dir, *names);

        if (!path)
            return WAN_ERR(ENOMEM);
        if (kind_of(path) == KIND_FILE) {
            *out = path;
            return 1;
        }
        free(path);
    }
    return 0;
}

static int missing(const char *what, const char *where,
                   const char *const *names, const char *option,
                   const WanLog *log)
{
    char list[512];
    size_t n = 0;

    list[0] = 0;
    for (; *names && n < sizeof(list); names++)
        n += snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "",
                      *names);
    wan_log(log, WAN_LOG_ERROR, "%s: no %s here: looked for %s%s%s", where,
            what, list, option ? "; or give option " : "",
            option ? option : "");
    return WAN_ERR(ENOENT);
}

/* A part from the path the user gave (file or directory), or from base. */
static int find_part(char **out, const char *given, const char *const *own,
                     const char *base, const char *const *names,
                     const char *what, const char *option, const WanLog *log)
{
    int ret;

    if (given && *given) {
        switch (kind_of(given)) {
        case KIND_NONE:
            wan_log(log, WAN_LOG_ERROR, "%s: %s (option %s)", given,
                    strerror(ENOENT), option);
            return WAN_ERR(ENOENT);
        case KIND_FILE:
            *out = strdup(given);
            return *out ? 0 : WAN_ERR(ENOMEM);
        case KIND_DIR:
            ret = look(out, given, own);
            return ret ? ret < 0 ? ret : 0
                       : missing(what, given, own, NULL, log);
        }
    }
    ret = look(out, base, names);
    return ret ? ret < 0 ? ret : 0 : missing(what, base, names, option, log);
}

int wan_files_find(WanFiles *f, const WanModelParams *p, const WanLog *log)
{
    static const char *const config_name[] = { "config.json", NULL };
    char *base = NULL, *dir = NULL;
    int ret = 0;

    if (!p->path || !*p->path) {
        wan_log(log, WAN_LOG_ERROR, "option model: no checkpoint was given");
        return WAN_ERR(EINVAL);
    }
    switch (kind_of(p->path)) {
    case KIND_NONE:
        wan_log(log, WAN_LOG_ERROR, "%s: %s (option model)", p->path,
                strerror(errno));
        return WAN_ERR(ENOENT);
    case KIND_FILE:
        f->dit = strdup(p->path);
        base = parent(p->path);
        if (base && ends_in_transformer(base)) {    // Diffusers' subdirectory
            char *up = join(base, "..");

            free(base);
            base = up;
        }
        break;
    case KIND_DIR:
        base = strdup(p->path);
        ret = base ? look(&f->dit, base, dit_names) : 0;
        if (!ret && base)
            ret = missing("transformer", p->path, dit_names, NULL, log);
        break;
    }
    if (ret < 0)
        goto end;
    ret = WAN_ERR(ENOMEM);
    if (!base || !f->dit)
        goto end;
    dir = parent(f->dit);
    if (!dir || look(&f->config, dir, config_name) < 0)
        goto end;

    ret = find_part(&f->t5, p->text_encoder, t5_names, base, t5_names,
                    "text encoder", "text_encoder", log);
    if (ret < 0)
        goto end;
    ret = find_part(&f->vae, p->vae, vae_own_names, base, vae_names, "VAE",
                    "vae", log);
    if (ret < 0)
        goto end;
    if (p->tokenizer && *p->tokenizer) {
        ret = find_part(&f->tokenizer, p->tokenizer, tokenizer_names, base,
                        tokenizer_names, "tokenizer", "tokenizer", log);
        goto end;
    }

    /* The model's own tokenizer, else one beside the text encoder; with
     * neither the text encoder's file may hold it. */
    ret = look(&f->tokenizer, base, tokenizer_names);
    if (!ret) {
        free(dir);
        dir = parent(f->t5);
        ret = dir ? look(&f->tokenizer, dir, tokenizer_names) : WAN_ERR(ENOMEM);
    }
    if (!ret) {     // Diffusers: text_encoder/ and tokenizer/ side by side
        char *up = parent(dir);

        ret = up ? look(&f->tokenizer, up, tokenizer_names) : WAN_ERR(ENOMEM);
        free(up);
    }
    ret = ret < 0 ? ret : 0;
end:
    f->base = base;
    free(dir);
    return ret;
}

int wan_files_find_clip(WanFiles *f, const WanModelParams *p,
                        const WanLog *log)
{
    return find_part(&f->clip, p->clip, clip_own_names, f->base, clip_names,
                     "image encoder", "clip", log);
}

void wan_files_free(WanFiles *f)
{
    free(f->base);
    free(f->dit);
    free(f->config);
    free(f->t5);
    free(f->vae);
    free(f->tokenizer);
    free(f->clip);
    memset(f, 0, sizeof(*f));
}

/* ------------------------------------------------------- the demo model */

#ifndef WAN_DATADIR
#define WAN_DATADIR "/usr/local/share/libwan"
#endif

/* dir/name into dst [PATH_MAX], without links and dots if that exists. */
static void resolve(char *dst, const char *dir, const char *name)
{
    char *path = join(dir, name);

    if (!path || !realpath(path, dst))
        snprintf(dst, PATH_MAX, "%s", path ? path : dir);
    free(path);
}

static int demo_in(WanDemo *out, const char *share, enum WanTask task)
{
    resolve(out->model, share, task == WAN_TASK_T2V ? "demo/t2v" : "demo/i2v");
    resolve(out->manual, share, "models.md");
    return kind_of(out->model) == KIND_DIR;
}

static int find_demo(WanDemo *out, enum WanTask task)
{
    static const char here;     // an address inside this library
    char share[PATH_MAX];
    const char *slash;
    Dl_info self;

    _Static_assert(sizeof(out->model) == PATH_MAX, "realpath()");
    memset(out, 0, sizeof(*out));
    if (task != WAN_TASK_T2V && task != WAN_TASK_I2V)
        return WAN_ERR(ENOSYS);
    if (dladdr(&here, &self) && (slash = strrchr(self.dli_fname, '/')) &&
        slash - self.dli_fname < PATH_MAX / 2) {
        snprintf(share, sizeof(share), "%.*s/../share/libwan",
                 (int)(slash - self.dli_fname), self.dli_fname);
        if (demo_in(out, share, task))
            return 0;
    }
    return demo_in(out, WAN_DATADIR, task) ? 0 : WAN_ERR(ENOENT);
}

int wan_demo_model_sized(WanDemo *out, size_t size, enum WanTask task)
{
    WanDemo demo;
    const int ret = find_demo(&demo, task);

    wan_abi_out(out, size, &demo, sizeof(demo));
    return ret;
}

/* ---------------------------------------------------------- small files */

int wan_read_file(char **out, size_t *bytes, const char *path, size_t limit,
                  const WanLog *log)
{
    struct stat st;
    size_t n = 0;
    char *p = NULL;
    int ret = 0, fd = open(path, O_RDONLY | O_CLOEXEC);

    *out = NULL;
    if (fd < 0 || fstat(fd, &st) < 0) {
        ret = WAN_ERR(errno);
        wan_log(log, WAN_LOG_ERROR, "%s: %s", path, strerror(errno));
        goto end;
    }
    if (!S_ISREG(st.st_mode) || st.st_size <= 0 ||
        (uint64_t)st.st_size > limit) {
        wan_log(log, WAN_LOG_ERROR, "%s: %lld bytes, 1 to %zu can be", path,
                (long long)st.st_size, limit);
        ret = WAN_INVALIDDATA;
        goto end;
    }
    p = malloc((size_t)st.st_size + 1);
    if (!p) {
        ret = WAN_ERR(ENOMEM);
        goto end;
    }
    while (n < (size_t)st.st_size) {
        const ssize_t got = read(fd, p + n, (size_t)st.st_size - n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            ret = got < 0 ? WAN_ERR(errno) : WAN_INVALIDDATA;
            wan_log(log, WAN_LOG_ERROR, "%s: could not be read whole", path);
            goto end;
        }
        n += (size_t)got;
    }
    p[n] = 0;
    *bytes = n;
    *out = p;
    p = NULL;
end:
    free(p);
    if (fd >= 0)
        close(fd);
    return ret;
}
