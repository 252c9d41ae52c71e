/*
 * Where the parts of a checkpoint lie, and the model that comes with libwan.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi.h"
#include "config.h"
#include "files.h"
#include "places.h"

/* Names to try in a directory, best first. Of those that a '*' makes many the
 * first by the alphabet counts: a variant, or a shard, which brings the
 * others. */
static const char *const dit_names[] = {
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model*.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "transformer/diffusion_pytorch_model*.safetensors",
    NULL
};
static const char *const t5_names[] = {
    "models_t5_umt5-xxl-enc-bf16.pth",
    "text_encoder/model.safetensors.index.json",
    "text_encoder/model.safetensors",
    "text_encoder/model*.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    NULL
};
static const char *const t5_own_names[] = {
    "models_t5_umt5-xxl-enc-bf16.pth",
    "text_encoder/model.safetensors.index.json",
    "text_encoder/model.safetensors",
    "text_encoder/model*.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    "model*.safetensors",
    NULL
};
static const char *const vae_names[] = {
    "Wan2.1_VAE.pth",
    "Wan2.2_VAE.pth",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model*.safetensors",
    "wan_2.1_vae.safetensors",
    "Wan2.1_VAE.safetensors",
    "wan2.2_vae.safetensors",
    "Wan2.2_VAE.safetensors",
    NULL
};
/* A directory given for the VAE itself may be Diffusers' vae/. */
static const char *const vae_own_names[] = {
    "Wan2.1_VAE.pth",
    "Wan2.2_VAE.pth",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model*.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model*.safetensors",
    "wan_2.1_vae.safetensors",
    "wan2.2_vae.safetensors",
    NULL
};
static const char *const clip_names[] = {
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    "image_encoder/model.safetensors.index.json",
    "image_encoder/model.safetensors",
    "image_encoder/model*.safetensors",
    "clip_vision_h.safetensors",
    NULL
};
static const char *const clip_own_names[] = {
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    "model.safetensors.index.json",
    "model.safetensors",
    "model*.safetensors",
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
static const char *const lora_names[] = {
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.bin",
    NULL
};

/* Where weight files of any name are looked at: in a directory, and in those of
 * Diffusers and ComfyUI there. */
static const char *const dit_folders[] = {
    "", "transformer", "diffusion_models", "unet", "models/diffusion_models",
    "models/unet", "split_files/diffusion_models", "HighNoise", "LowNoise",
    NULL
};
static const char *const t5_folders[] = {
    "", "text_encoder", "text_encoders", "clip", NULL
};
static const char *const vae_folders[] = { "", "vae", NULL };
static const char *const clip_folders[] = {
    "", "image_encoder", "clip_vision", NULL
};

typedef struct Part {
    const char *what, *option;
    const char *const *names;   // in the checkpoint's directory
    const char *const *own;     // in a directory given for it
    const char *const *folders; // for files of other names; NULL: none can be
} Part;

static const Part parts[] = {
    [WAN_PART_DIT]  = { "transformer", "model", dit_names, dit_names,
                        dit_folders },
    [WAN_PART_T5]   = { "text encoder", "text_encoder", t5_names,
                        t5_own_names, t5_folders },
    [WAN_PART_VAE]  = { "VAE", "vae", vae_names, vae_own_names, vae_folders },
    [WAN_PART_CLIP] = { "image encoder", "clip", clip_names, clip_own_names,
                        clip_folders },
};
static const Part second = { "low-noise expert", "model2", dit_names, dit_names,
                             dit_folders };
static const Part tokenizer = { "tokenizer", "tokenizer", tokenizer_names,
                                tokenizer_names, NULL };
static const Part lora = { "LoRA", "lora", lora_names, lora_names, NULL };

enum { KIND_NONE, KIND_FILE, KIND_DIR };

/* What a path leads to; an error if that can't be looked at. */
static int kind_of(const char *path, const WanLog *log)
{
    struct stat st;

    if (!stat(path, &st))
        return S_ISDIR(st.st_mode) ? KIND_DIR : KIND_FILE;
    return errno == ENOENT || errno == ENOTDIR ? KIND_NONE
                                               : wan_error_file(log, path,
                                                                errno);
}

/* Whether a name is taken, be it by a link that leads nowhere. */
static int is_taken(const char *path)
{
    struct stat st;

    return !lstat(path, &st);
}

int wan_files_exists(const char *path)
{
    struct stat st;

    return !stat(path, &st);
}

static int ends_in(const char *dir, const char *name)
{
    const char *slash = strrchr(dir, '/');

    return !strcmp(slash ? slash + 1 : dir, name);
}

/* The first file of a pattern with '*' in its last part: 1 and *out, or 0. */
static int match(char **out, const char *pattern, const WanLog *log)
{
    char *dir = wan_path_parent(pattern);
    DIR *d = dir ? opendir(dir) : NULL;
    const struct dirent *e;
    struct stat st;
    char *best = NULL;
    int ret = 0;

    if (!dir)
        ret = wan_error_memory(log, pattern, "its path");
    else if (!d && errno != ENOENT && errno != ENOTDIR)
        ret = wan_error_file(log, dir, errno);
    while (d && ret >= 0 && (e = readdir(d))) {
        if (fnmatch(strrchr(pattern, '/') + 1, e->d_name, FNM_PERIOD) ||
            (best && strcmp(best, e->d_name) < 0) ||
            fstatat(dirfd(d), e->d_name, &st, 0) < 0 || S_ISDIR(st.st_mode))
            continue;
        free(best);
        if (!(best = strdup(e->d_name)))
            ret = wan_error_memory(log, dir, "its names");
    }
    if (d)
        closedir(d);
    if (best && !(*out = wan_path_join(dir, best)))
        ret = wan_error_memory(log, dir, "its names");
    else if (best)
        ret = 1;
    free(best);
    free(dir);
    return ret;
}

/* The first of the names that is a file in dir: 1 and *out, or 0. */
static int look(char **out, const char *dir, const char *const *names,
                const WanLog *log)
{
    for (; *names; names++) {
        char *path = wan_path_join(dir, *names);
        int ret = path ? 0 : wan_error_memory(log, dir, "its names");

        *out = NULL;
        if (path && strchr(*names, '*')) {
            ret = match(out, path, log);
            free(path);
        } else if (path) {
            ret = kind_of(path, log);
            if (ret == KIND_FILE)
                *out = path;
            else
                free(path);
            ret = ret == KIND_DIR ? 0 : ret;
        }
        if (ret)
            return ret < 0 ? ret : 1;
    }
    return 0;
}

/* The one file of that name in dir, if there is one: 1 and *out, or 0. What is
 * there and no file is not passed over. */
static int look_one(char **out, const char *dir, const char *name,
                    const WanLog *log)
{
    const char *const names[] = { name, NULL };
    int ret = look(out, dir, names, log);
    char *path = ret ? NULL : wan_path_join(dir, name);

    if (ret)
        return ret;
    if (!path)
        return wan_error_memory(log, dir, "its names");
    if (kind_of(path, NULL) == KIND_DIR)
        ret = wan_error_file(log, path, EISDIR);
    else if (is_taken(path))
        ret = wan_error(log, WAN_ERR(ENOENT), "%s: a link that leads nowhere",
                        path);
    free(path);
    return ret;
}

/* A name of the list that something else than a file has, or NULL. */
static const char *taken_in(const char *dir, const char *const *names)
{
    for (; *names; names++) {
        char *path = wan_path_join(dir, *names);
        const int taken = path && is_taken(path);

        free(path);
        if (taken)
            return *names;
    }
    return NULL;
}

/* The line of a part that is not in where; s: the search for it, or NULL. */
static int missing(const char *what, const char *where,
                   const char *const *names, const WanSearch *s,
                   const char *option, const WanLog *log)
{
    const char *other = taken_in(where, names);
    const int searched = s && *s->looked, noted = s && *s->note;
    char list[512];
    size_t n = 0;

    list[0] = 0;
    for (; *names && n < sizeof(list); names++)
        n += snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "",
                      *names);
    return wan_error(log, WAN_ERR(ENOENT), "%s: no %s here: %s%slooked for "
                     "%s%s%s%s%s%s%s", where, what, other ? other : "",
                     other ? " is there but no file; " : "", list,
                     searched ? ", and at the weight files in " : "",
                     searched ? s->looked : "",
                     noted ? "; one is not read: " : "", noted ? s->note : "",
                     option ? "; or give option " : "", option ? option : "");
}

/* also: where else it was looked for, or NULL. */
static int not_there(const char *path, const char *option, const char *also,
                     const WanLog *log)
{
    return wan_error(log, WAN_ERR(ENOENT), "%s: %s (option %s)%s%s", path,
                     strerror(ENOENT), option, also ? ", nor in " :
                     *path == '~' ? "; of ~ alone ~/ is known" : "",
                     also ? also : "");
}

/* A side of a transformer's matrix, 0: its shapes don't say. */
static int side_of(const WanWeights *w, const char *matrix, int side)
{
    static const WanNaming naming[] = { WAN_NAMES_OFFICIAL,
                                        WAN_NAMES_DIFFUSERS };
    char name[160];

    for (int i = 0; i < 2; i++) {
        const WanStored *t = wan_weights_find(w,
            wan_name_in(naming[i], WAN_PART_DIT, matrix, name, sizeof(name)));

        if (t && t->nb_dims == 2 && t->dim[side] <= INT_MAX)
            return (int)t->dim[side];
    }
    return 0;
}

/* What the transformer's file says of the parts that go with it. */
static int read_dit(WanFiles *f, const WanLog *log)
{
    WanWeights *w;
    WanDitConfig c;
    WanNaming naming;
    int ret;

    if (f->holds)
        return 0;
    if ((ret = wan_weights_open(&w, f->dit, log)) < 0)
        return ret;
    for (int part = WAN_PART_DIT; part <= WAN_PART_CLIP; part++)
        f->holds |= (unsigned)wan_config_holds(w, (WanPart)part) << part;
    f->text_dim = side_of(w, "text_embedding.0.weight", 1);
    f->latents = side_of(w, "head.head.weight", 0) / 4;
    if (!(f->holds & 1u << WAN_PART_DIT))
        ret = wan_config_dit(&c, &naming, w, NULL, log);    // says why
    wan_weights_close(&w);
    return ret;
}

/* ComfyUI's: there vae/diffusion_pytorch_model.safetensors may be any model's,
 * so names don't count. */
static int is_models(const char *dir)
{
    static const char *const kinds[] = { "diffusion_models", "text_encoders",
                                         NULL };

    return taken_in(dir, kinds) != NULL;
}

/* From a path the user gave: a file, or a directory with one. s: the search in
 * it for files of any name, or NULL. */
static int find_given(char **out, const char *given, const Part *part,
                      WanSearch *s, const WanLog *log)
{
    char *path;
    int ret = wan_place(&path, given, log);

    if (ret < 0)
        return ret;
    switch ((ret = kind_of(path, log))) {
    case KIND_NONE:
        ret = not_there(path, part->option, NULL, log);
        break;
    case KIND_FILE:
        *out = path;
        return 0;
    case KIND_DIR:
        ret = s && is_models(path) ? wan_search(out, s, path) : 0;
        if (!ret)
            ret = look(out, path, part->own, log);
        if (!ret && s && !*s->looked)
            ret = wan_search(out, s, path);
        if (!ret)
            ret = missing(part->what, path, part->own, s, NULL, log);
        break;
    }
    free(path);
    return ret < 0 ? ret : 0;
}

static WanSearch search_for(WanPart which, const Part *part,
                            const WanInterrupt *interrupt, const WanLog *log)
{
    return (WanSearch){ .part = which, .what = part->what,
                        .option = part->option, .folders = part->folders,
                        .interrupt = interrupt, .log = log };
}

/* A part as it was given, from the checkpoint's directory by its name, or from
 * ComfyUI's folders or the directory by what it is. *out stays NULL if it is
 * inside the transformer's file. */
static int find_part(char **out, const char *given, WanPart which, WanFiles *f,
                     const WanModelParams *p, const WanLog *log)
{
    const Part *part = &parts[which];
    const WanInterrupt interrupt = { p->interrupted, p->interrupted_opaque };
    WanSearch s = search_for(which, part, &interrupt, log);
    int ret;

    if (f->without & 1u << which)
        return 0;
    s.tiny = given && *given;
    if (given && *given) {
        ret = find_given(out, given, part, &s, log);
    } else if (!(ret = look(out, f->base, part->names, log)) &&
               (ret = read_dit(f, log)) >= 0 && !(f->holds & 1u << which)) {
        s.text_dim = f->text_dim;
        s.latents = f->latents;
        if (f->models)
            ret = wan_search(out, &s, f->models);
        if (!ret)
            ret = wan_search(out, &s, f->base);
        if (!ret)
            ret = missing(part->what, f->base, part->names, &s, part->option,
                          log);
    }
    wan_search_end(&s);
    return ret < 0 ? ret : 0;
}

/* ---------------------------------------------------------- two experts */

static const char *const expert_folders[] = { "high_noise_model",
                                              "low_noise_model" };

/* The official folders of both experts in dir: 1; 0: there is neither. With
 * p's own second file the first one's will do. */
static int look_experts(WanFiles *f, const char *dir, const WanModelParams *p,
                        const WanLog *log)
{
    const int given = p->model2 && *p->model2;
    char **const out[] = { &f->dit, &f->dit2 };
    int found[WAN_EXPERTS] = { 0 };

    for (int i = 0; i < WAN_EXPERTS - given; i++) {
        char *path = wan_path_join(dir, expert_folders[i]);

        found[i] = path ? look(out[i], path, dit_names, log)
                        : wan_error_memory(log, dir, "its path");
        free(path);
        if (found[i] < 0)
            return found[i];
    }
    if (found[0] + found[1] == 0)
        return 0;
    for (int i = 0; i < WAN_EXPERTS - given; i++)
        if (!found[i])
            return wan_error(log, WAN_ERR(ENOENT), "%s: of Wan 2.2's two "
                             "experts only %s is here; looked for a "
                             "transformer in %s", dir, expert_folders[!i],
                             expert_folders[i]);
    return 1;
}

/* Whether two paths lead to one file. */
static int same_file(const char *a, const char *b)
{
    struct stat x, y;

    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

/* Two files that were given as a pair: what their names say, or nobody knows
 * better. */
static int check_pair(const WanFiles *f, const WanLog *log)
{
    const WanExpert a = wan_expert_of(f->dit), b = wan_expert_of(f->dit2);

    if (same_file(f->dit, f->dit2))
        return wan_error(log, WAN_ERR(EINVAL), "option model2: %s is the file "
                         "of model too; it must be the other expert's",
                         f->dit2);
    if (a && a == b)
        return wan_error(log, WAN_ERR(EINVAL), "option model2: %s and %s are "
                         "both the %s expert, by their names", f->dit, f->dit2,
                         wan_expert_name(a));
    if (a == WAN_EXPERT_LOW || b == WAN_EXPERT_HIGH)
        return wan_error(log, WAN_ERR(EINVAL), "option model2: %s is the %s "
                         "expert, by its name, and belongs to option model%s",
                         b ? f->dit2 : f->dit, wan_expert_name(b ? b : a),
                         b ? "" : "2");
    if (!a || !b)
        wan_log(log, WAN_LOG_INFO, "%s is taken for the high-noise expert and "
                "%s for the low-noise one, as model and model2 were given: "
                "names don't tell", f->dit, f->dit2);
    return 0;
}

/* The partner of a file under its own name or, in a folder of its own, under
 * one of a transformer's names: 1 and *out; 0 and *wanted, where it was looked
 * for (NULL: nowhere); both to free(). */
static int look_partner(char **out, char **wanted, const char *path,
                        const WanLog *log)
{
    char *dir = NULL, *own = NULL;
    int ret = 0;

    *out = NULL;
    if (wan_expert_partner(wanted, path) < 0)
        return wan_error_memory(log, path, "its path");
    if (!*wanted)
        return 0;
    if ((ret = kind_of(*wanted, log)) == KIND_FILE) {
        *out = *wanted;
        *wanted = NULL;
        return 1;
    }
    if (ret >= 0 && (!(dir = wan_path_parent(*wanted)) ||
                     !(own = wan_path_parent(path))))
        ret = wan_error_memory(log, path, "its path");
    else if (ret >= 0)
        ret = strcmp(dir, own) ? look(out, dir, dit_names, log) : 0;
    free(dir);
    free(own);
    return ret;
}

/* Whether the last two parts of a path are a file's of Wan 2.2: HIGH or LOW
 * alone may be any file's. */
static int is_wan22(const char *path)
{
    static const char *const words[] = { "noise", "transformer_2", "a14b",
                                         "wan2.2", "wan2_2", "wan22" };
    const char *p = strrchr(path, '/');

    while (p && p > path && p[-1] != '/')
        p--;
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        if (strcasestr(p ? p : path, words[i]))
            return 1;
    return 0;
}

/* A file has one expert's name and the other is not there: it goes on alone. */
static void find_alone(WanFiles *f, const char *wanted, const WanLog *log)
{
    if (is_wan22(f->dit))
        f->alone = wan_expert_of(f->dit);
    if (f->alone)
        wan_log(log, WAN_LOG_WARNING, "%s: Wan 2.2's %s expert, by its name: "
                "alone it makes all steps, and is half a model. The other "
                "would be %s; option model2 names one", f->dit,
                wan_expert_name(f->alone), wanted);
}

/* The other expert, if there is one: as it was given, or by the name that
 * belongs to it. */
static int find_second(WanFiles *f, const WanModelParams *p, const WanLog *log)
{
    const WanInterrupt interrupt = { p->interrupted, p->interrupted_opaque };
    WanSearch s = search_for(WAN_PART_DIT, &second, &interrupt, log);
    char *wanted = NULL;
    int ret = 0;

    if (p->model2 && *p->model2) {
        ret = find_given(&f->dit2, p->model2, &second, &s, log);
        wan_search_end(&s);
        return ret < 0 ? ret : check_pair(f, log);
    }
    if (!f->dit2 && (ret = look_partner(&f->dit2, &wanted, f->dit, log)) > 0 &&
        wan_expert_of(f->dit) == WAN_EXPERT_LOW) {
        char *low = f->dit;

        f->dit = f->dit2;
        f->dit2 = low;
    }
    if (!ret && !f->dit2)
        find_alone(f, wanted, log);
    free(wanted);
    if (ret >= 0 && f->dit2)
        wan_log(log, WAN_LOG_INFO, "%s and %s: the high-noise and the "
                "low-noise expert, by their names", f->dit, f->dit2);
    return ret < 0 ? ret : 0;
}

/* The other parts lie beside a folder that holds a transformer alone. A folder
 * by Diffusers' name that was given itself may hold all. */
static int leave_subfolder(WanFiles *f, const WanLog *log)
{
    const int diffusers = ends_in(f->base, "transformer");
    char *up;

    if (!(diffusers && (f->single || f->dit2)) &&
        !ends_in(f->base, "transformer_2") &&
        !ends_in(f->base, expert_folders[0]) &&
        !ends_in(f->base, expert_folders[1]))
        return 0;
    if (!(up = wan_path_join(f->base, "..")))
        return wan_error_memory(log, f->base, "its path");
    free(f->base);
    f->base = up;
    return 0;
}

/* The transformer of a directory: by its name, or the one that is one, or the
 * pair. */
static int find_dit_in(WanFiles *f, const char *path, const WanModelParams *p,
                       const WanLog *log)
{
    const WanInterrupt interrupt = { p->interrupted, p->interrupted_opaque };
    WanSearch s = search_for(WAN_PART_DIT, &parts[WAN_PART_DIT], &interrupt,
                             log);
    int ret = look(&f->dit, path, dit_names, log);

    if (!ret && !(ret = look_experts(f, path, p, log)) &&
        !(ret = wan_search(&f->dit, &s, path)))
        ret = missing("transformer", path, dit_names, &s, NULL, log);
    wan_search_end(&s);
    return ret;
}

/* The transformer: a file, or in a directory; and the directory its parts are
 * looked for in. */
static int find_dit(WanFiles *f, const char *path, const WanModelParams *p,
                    const WanLog *log)
{
    int ret = kind_of(path, log);

    switch (ret) {
    case KIND_NONE:
        return not_there(path, "model", NULL, log);
    case KIND_FILE:
        f->single = 1;
        f->dit = strdup(path);
        f->base = wan_path_parent(path);
        break;
    case KIND_DIR:
        f->base = strdup(path);
        if (f->base && (ret = find_dit_in(f, path, p, log)) < 0)
            return ret;
        break;
    default:
        return ret;
    }
    return f->base && f->dit ? 0 : wan_error_memory(log, path, "its path");
}

/* What lies beside a transformer's file under that name, or *out stays NULL. */
static int look_beside(char **out, const char *file, const char *name,
                       const WanLog *log)
{
    return file ? wan_files_beside(out, file, name, log) : 0;
}

/* ComfyUI's folders around the transformer in dir, and where LoRA files lie. A
 * transformer of such a folder has its parts there or beside it: what is in
 * vae/ under a name of Diffusers' may be any model's. */
static int find_models(WanFiles *f, const char *dir, const WanLog *log)
{
    const int ret = wan_place_models(&f->models, dir, log);

    if (ret < 0)
        return ret;
    if (ret && !f->single && strlen(f->models) >= strlen(f->base)) {
        free(f->base);
        if (!(f->base = strdup(dir)))
            return wan_error_memory(log, dir, "its path");
    }
    f->loras = wan_path_join(f->models ? f->models : f->base, "loras");
    return f->loras ? 0 : wan_error_memory(log, dir, "its path");
}

/* The model's own tokenizer, else one beside the text encoder; with neither
 * the text encoder's file may hold it. */
static int find_tokenizer(WanFiles *f, const WanLog *log)
{
    char *dir = f->t5 ? wan_path_parent(f->t5) : NULL;
    char *up = dir ? wan_path_parent(dir) : NULL;   // around text_encoder/
    int ret = f->t5 && !up ? wan_error_memory(log, f->t5, "its path")
                           : look(&f->tokenizer, f->base, tokenizer_names,
                                  log);

    if (!ret && dir)
        ret = look(&f->tokenizer, dir, tokenizer_names, log);
    if (!ret && up)
        ret = look(&f->tokenizer, up, tokenizer_names, log);
    free(dir);
    free(up);
    return ret < 0 ? ret : 0;
}

int wan_files_find(WanFiles *f, const WanModelParams *p, const WanLog *log)
{
    char *path, *dir;
    int ret;

    if (!p->path || !*p->path)
        return wan_error(log, WAN_ERR(EINVAL), "option model: no checkpoint "
                         "was given");
    if ((ret = wan_place(&path, p->path, log)) < 0)
        return ret;
    ret = find_dit(f, path, p, log);
    free(path);
    if (ret < 0)
        return ret;
    if ((ret = find_second(f, p, log)) < 0 ||
        (ret = leave_subfolder(f, log)) < 0)
        return ret;
    dir = wan_path_parent(f->dit);
    if (!dir)
        return wan_error_memory(log, f->dit, "its path");
    ret = look_one(&f->config, dir, "config.json", log);
    if (ret >= 0)
        ret = look_beside(&f->config2, f->dit2, "config.json", log);
    if (ret >= 0 && f->dit2 && ends_in(dir, "transformer"))
        ret = look_one(&f->index, f->base, "model_index.json", log);
    if (ret >= 0)
        ret = find_models(f, dir, log);
    free(dir);

    if (ret < 0 ||
        (ret = find_part(&f->t5, p->text_encoder, WAN_PART_T5, f, p,
                         log)) < 0 ||
        (ret = find_part(&f->vae, p->vae, WAN_PART_VAE, f, p, log)) < 0)
        return ret;
    if (p->tokenizer && *p->tokenizer)
        return find_given(&f->tokenizer, p->tokenizer, &tokenizer, NULL, log);
    return find_tokenizer(f, log);
}

int wan_files_find_clip(WanFiles *f, const WanModelParams *p,
                        const WanLog *log)
{
    return find_part(&f->clip, p->clip, WAN_PART_CLIP, f, p, log);
}

int wan_files_lora(char **out, const char *path, const char *loras,
                   const WanLog *log)
{
    static const char *const ends[] = { "", ".safetensors" };

    *out = NULL;
    if (!loras || *path == '/' || *path == '~' || is_taken(path))
        return find_given(out, path, &lora, NULL, log);
    for (int i = 0; i < 2; i++) {
        const size_t size = strlen(loras) + strlen(path) + 16;
        char *inside = malloc(size);
        int ret = inside ? snprintf(inside, size, "%s/%s%s", loras, path,
                                    ends[i]) > 0 && is_taken(inside)
                         : wan_error_memory(log, path, "its path");

        if (ret > 0)
            ret = find_given(out, inside, &lora, NULL, log);
        free(inside);
        if (ret < 0 || *out)
            return ret;
    }
    return not_there(path, "lora", loras, log);
}

int wan_files_beside(char **out, const char *path, const char *name,
                     const WanLog *log)
{
    char *dir = wan_path_parent(path);
    int ret = dir ? look_one(out, dir, name, log)
                  : wan_error_memory(log, path, "its path");

    free(dir);
    return ret;
}

void wan_files_free(WanFiles *f)
{
    free(f->base);
    free(f->models);
    free(f->loras);
    free(f->dit);
    free(f->config);
    free(f->dit2);
    free(f->config2);
    free(f->index);
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
    char *path = wan_path_join(dir, name);

    if (!path || !realpath(path, dst))
        snprintf(dst, PATH_MAX, "%s", path ? path : dir);
    free(path);
}

static int demo_in(WanDemo *out, const char *share, enum WanTask task)
{
    resolve(out->model, share, task == WAN_TASK_T2V ? "demo/t2v" : "demo/i2v");
    resolve(out->manual, share, "models.md");
    return kind_of(out->model, NULL) == KIND_DIR;
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

int wan_file_open(int *fd, int64_t *size, const char *path, const WanLog *log)
{
    struct stat st;
    int ret = 0;

    /* no waiting for the other end of a pipe that bears the name */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 || fstat(*fd, &st) < 0)
        ret = wan_error_file(log, path, errno);
    else if (S_ISDIR(st.st_mode))
        ret = wan_error_file(log, path, EISDIR);
    else if (!S_ISREG(st.st_mode))
        ret = wan_error(log, WAN_INVALIDDATA, "%s: not a file, but a pipe or "
                        "device", path);
    else if (!st.st_size)
        ret = wan_error(log, WAN_INVALIDDATA, "%s: 0 bytes, the file is "
                        "empty", path);
    if (ret >= 0) {
        *size = st.st_size;
        return 0;
    }
    if (*fd >= 0)
        close(*fd);
    return ret;
}

int wan_read_file(char **out, size_t *bytes, const char *path, size_t limit,
                  const WanLog *log)
{
    int64_t size, n = 0;
    char *p = NULL;
    int fd, ret = wan_file_open(&fd, &size, path, log);

    *out = NULL;
    if (ret < 0)
        return ret;
    if ((uint64_t)size > limit) {
        ret = wan_error(log, WAN_INVALIDDATA, "%s: %lld bytes, at most %zu "
                        "can be", path, (long long)size, limit);
        goto end;
    }
    p = malloc((size_t)size + 1);
    if (!p) {
        ret = wan_error_memory(log, path, "its content");
        goto end;
    }
    while (n < size) {
        const ssize_t got = read(fd, p + n, (size_t)(size - n));

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            ret = got < 0 ? wan_error_file(log, path, errno) :
                  wan_error(log, WAN_INVALIDDATA, "%s: became shorter while "
                            "it was read", path);
            goto end;
        }
        n += got;
    }
    p[n] = 0;
    *bytes = (size_t)n;
    *out = p;
    p = NULL;
end:
    free(p);
    close(fd);
    return ret;
}
