/*
 * What a checkpoint is: detection from tensors, the known variants, defaults.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "json.h"
#include "sampler.h"

/* ------------------------------------------------------- config.json */

static int read_int(int *out, const cJSON *root, const char *key, int max,
                    const char *path, const WanLog *log)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(root, key);

    if (!v || cJSON_IsNull(v))
        return 0;
    if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble) ||
        v->valuedouble < 1 || v->valuedouble > max) {
        wan_log(log, WAN_LOG_ERROR, "%s: \"%s\" must be a whole number from "
                "1 to %d", path, key, max);
        return WAN_INVALIDDATA;
    }
    *out = (int)v->valuedouble;
    return 0;
}

static int read_number(double *out, const cJSON *root, const char *key,
                       double min, double max, const char *path,
                       const WanLog *log)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(root, key);

    if (!v || cJSON_IsNull(v))
        return 0;
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= min && v->valuedouble <= max)) {
        wan_log(log, WAN_LOG_ERROR, "%s: \"%s\" must be a number from %g to "
                "%g", path, key, min, max);
        return WAN_INVALIDDATA;
    }
    *out = v->valuedouble;
    return 0;
}

static int is_side(int v)
{
    return v >= WAN_SIZE_MULTIPLE && v <= WAN_MAX_SIZE &&
           v % WAN_SIZE_MULTIPLE == 0;
}

static int read_size(WanConfigFile *c, const cJSON *root, const char *path,
                     const WanLog *log)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(root, "size");
    char more;

    if (!v || cJSON_IsNull(v))
        return 0;
    if (!cJSON_IsString(v) ||
        v->valuestring[strspn(v->valuestring, "0123456789x")] ||
        sscanf(v->valuestring, "%4dx%4d%c", &c->width, &c->height,
               &more) != 2 ||
        !is_side(c->width) || !is_side(c->height)) {
        wan_log(log, WAN_LOG_ERROR, "%s: \"size\" must be text such as "
                "\"832x480\", multiples of %d from %d to %d", path,
                WAN_SIZE_MULTIPLE, WAN_SIZE_MULTIPLE, WAN_MAX_SIZE);
        return WAN_INVALIDDATA;
    }
    return 0;
}

/* The blocks that VACE's hints go to. */
static int read_vace_layers(WanConfigFile *c, const cJSON *root,
                            const char *path, const WanLog *log)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(root, "vace_layers");
    const cJSON *one;
    int n = 0, last = -1;

    if (!v || cJSON_IsNull(v))
        return 0;
    cJSON_ArrayForEach(one, v) {
        if (n == WAN_VACE_BLOCKS || !cJSON_IsNumber(one) ||
            !(one->valuedouble > last && one->valuedouble < 1000) ||
            one->valuedouble != floor(one->valuedouble))
            break;
        c->vace_layer[n++] = last = (int)one->valuedouble;
    }
    c->nb_vace = n;
    return cJSON_IsArray(v) && n && !one ? 0 :
           wan_error(log, WAN_INVALIDDATA, "%s: \"vace_layers\" must be a list "
                     "of blocks, rising, %d at most", path, WAN_VACE_BLOCKS);
}

/* What requests ask when they are not told otherwise. */
static int read_defaults(WanConfigFile *c, const cJSON *root,
                         const char *path, const WanLog *log)
{
    if (read_size(c, root, path, log) < 0 ||
        read_int(&c->frames, root, "frames", WAN_MAX_FRAMES, path, log) < 0 ||
        read_int(&c->steps, root, "steps", WAN_MAX_STEPS, path, log) < 0 ||
        read_number(&c->guidance, root, "guidance", 0, WAN_MAX_GUIDANCE,
                    path, log) < 0 ||
        read_number(&c->guidance2, root, "guidance2", 0, WAN_MAX_GUIDANCE,
                    path, log) < 0 ||
        read_number(&c->boundary, root, "boundary", 0, 1, path, log) < 0 ||
        read_number(&c->boundary, root, "boundary_ratio", 0, 1, path,
                    log) < 0 ||
        read_number(&c->shift, root, "shift", WAN_MIN_SHIFT, WAN_MAX_SHIFT,
                    path, log) < 0)
        return WAN_INVALIDDATA;
    if (c->frames > 0 && c->frames % WAN_TIME_STRIDE != 1) {
        wan_log(log, WAN_LOG_ERROR, "%s: \"frames\" is %d, it must be 4n+1: "
                "1, 5, 9, ... %d", path, c->frames, WAN_MAX_FRAMES);
        return WAN_INVALIDDATA;
    }
    return 0;
}

int wan_config_parse(WanConfigFile *c, const char *text, size_t bytes,
                     const char *path, const WanLog *log)
{
    const struct { const char *key; int *value; } keys[] = {
        { "dim", &c->dim }, { "num_heads", &c->heads },
        { "num_layers", &c->layers }, { "ffn_dim", &c->ffn },
        { "in_dim", &c->in_dim }, { "out_dim", &c->out_dim },
        { "freq_dim", &c->freq_dim }, { "text_dim", &c->text_dim },
        { "num_attention_heads", &c->heads },
        { "attention_head_dim", &c->head_dim },
        { "in_channels", &c->in_dim }, { "out_channels", &c->out_dim },
        { "vace_in_dim", &c->vace_in }, { "vace_in_channels", &c->vace_in },
    };
    const cJSON *v;
    cJSON *root = NULL;
    int ret = wan_json_parse(&root, path, "text", text, bytes, log);

    *c = (WanConfigFile){ -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, "", "",
                          -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, { 0 } };
    if (ret < 0)
        return ret;
    ret = WAN_INVALIDDATA;
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        if (read_int(keys[i].value, root, keys[i].key, 1 << 24, path,
                     log) < 0)
            goto end;
    if (read_defaults(c, root, path, log) < 0 ||
        read_vace_layers(c, root, path, log) < 0)
        goto end;

    v = cJSON_GetObjectItemCaseSensitive(root, "eps");
    if (cJSON_IsNumber(v)) {
        if (!(v->valuedouble > 0 && v->valuedouble < 1)) {
            wan_log(log, WAN_LOG_ERROR, "%s: \"eps\" must be above 0 and "
                    "below 1", path);
            goto end;
        }
        c->eps = v->valuedouble;
    }
    v = cJSON_GetObjectItemCaseSensitive(root, "model_type");
    if (cJSON_IsString(v))
        snprintf(c->model_type, sizeof(c->model_type), "%s", v->valuestring);
    v = cJSON_GetObjectItemCaseSensitive(root, "preset");
    if (cJSON_IsString(v))
        snprintf(c->preset, sizeof(c->preset), "%s", v->valuestring);
    ret = 0;
end:
    cJSON_Delete(root);
    return ret;
}

const char *wan_config_task(enum WanTask task)
{
    static const char *const name[] = { "t2v", "i2v", "flf2v", "ti2v", "vace" };

    return name[task];
}

void wan_config_text(WanBytes *b, const WanDitConfig *c,
                     const WanModelInfo *info)
{
    wan_putf(b, "{\n  \"_class_name\": \"%s\",\n"
             "  \"dim\": %d,\n  \"eps\": %.7g,\n  \"ffn_dim\": %d,\n"
             "  \"freq_dim\": %d,\n  \"in_dim\": %d,\n"
             "  \"model_type\": \"%s\",\n  \"num_heads\": %d,\n"
             "  \"num_layers\": %d,\n  \"out_dim\": %d,\n"
             "  \"text_len\": 512", c->nb_vace ? "VaceWanModel" : "WanModel",
             c->dim, c->eps, c->ffn, c->freq_dim, c->in_dim,
             wan_config_task(c->task), c->heads, c->layers, c->out_dim);
    for (int i = 0; i < c->nb_vace; i++)
        wan_putf(b, "%s%d", i ? ", " : ",\n  \"vace_layers\": [",
                 c->vace_layer[i]);
    if (c->nb_vace)
        wan_putf(b, "],\n  \"vace_in_dim\": %d", WAN_VACE_CHANNELS);
    if (info)
        wan_putf(b, ",\n  \"size\": \"%dx%d\",\n  \"frames\": %d",
                 info->width, info->height, info->frames);
    if (info && strcmp(info->preset, "none"))       // it has the numbers
        wan_putf(b, ",\n  \"preset\": \"%s\"", info->preset);
    else if (info)
        wan_putf(b, ",\n  \"steps\": %d,\n  \"guidance\": %.17g,\n"
                 "  \"shift\": %.17g", info->steps, info->guidance,
                 info->shift);
    if (info && info->experts > 1)
        wan_putf(b, ",\n  \"guidance2\": %.17g,\n  \"boundary\": %.17g",
                 info->guidance2, info->boundary);
    wan_putf(b, "\n}\n");
}

/* --------------------------------------------------------- detection */

static const WanStored *find(const WanWeights *w, WanNaming naming,
                             WanPart part, const char *official)
{
    char name[256];

    return wan_weights_find(w, wan_name_in(naming, part, official, name,
                                           sizeof(name)));
}

/* How many blocks "pattern" (with one %d) counts to. */
static int count_blocks(const WanWeights *w, WanNaming naming, WanPart part,
                        const char *pattern)
{
    char name[128];
    int n = 0;

    do
        snprintf(name, sizeof(name), pattern, n);
    while (find(w, naming, part, name) && ++n < 1000);
    return n;
}

/* Reads sizes off the tensors of a part; the first that can't be read is
 * logged, and makes all later ones -1. */
typedef struct Sizes {
    const WanWeights *w;
    WanNaming naming;
    WanPart part;
    const WanLog *log;
    int bad;
} Sizes;

/* Dimension i of a tensor that has nb_dims at least, or -1. */
static int dim_of(Sizes *s, const char *official, int nb_dims, int i)
{
    const WanStored *t = find(s->w, s->naming, s->part, official);

    if (s->bad)
        return -1;
    if (!t)
        s->bad = wan_error(s->log, WAN_INVALIDDATA, "%s: tensor %s is missing",
                           wan_weights_path(s->w), official);
    else if (t->nb_dims < nb_dims || t->dim[i] < 1 || t->dim[i] > 1 << 24)
        s->bad = wan_error(s->log, WAN_INVALIDDATA, "%s: tensor %s has an "
                           "impossible shape", t->file, t->name);
    return s->bad ? -1 : (int)t->dim[i];
}

/* Relatives of the family that share names but not the code. */
static const struct {
    const char *tensor, *what;
} relatives[] = {
    { "control_adapter.conv.weight", "a Fun control model" },
    { "ref_conv.weight", "a Fun reference model" },
    { "face_adapter.fuser_blocks.0.q_norm.weight", "Wan Animate" },
    { "casual_audio_encoder.encoder.conv.weight", "a speech-to-video model" },
    { "audio_proj.proj1.weight", "a talking-head model" },
    { "blocks.0.self_attn.q.int8_weight", "TurboWan quantised in blocks of "
      "128x128" },
};

static int check_key(const WanWeights *w, const char *key, int file,
                     int found, const WanLog *log)
{
    if (file < 0 || file == found)
        return 0;
    wan_log(log, WAN_LOG_ERROR, "%s: config.json says %s %d, the tensors say "
            "%d", wan_weights_path(w), key, file, found);
    return WAN_INVALIDDATA;
}

/* model_type where it is a word for a task of the family. First-last-frame
 * checkpoints call themselves i2v too. */
static int check_model_type(const WanWeights *w, const WanConfigFile *file,
                            enum WanTask task, const WanLog *log)
{
    static const char *const known[] = { "t2v", "i2v", "flf2v", "vace", "ti2v",
                                         "s2v", "animate" };
    const char *type = file->model_type, *found = wan_config_task(task);

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (!strcmp(type, known[i]) && strcmp(type, found) &&
            !(task == WAN_TASK_FLF2V && !strcmp(type, "i2v")))
            return wan_error(log, WAN_INVALIDDATA, "%s: config.json says "
                             "model_type %s, the tensors say %s",
                             wan_weights_path(w), type, found);
    return 0;
}

/* The channels of a kernel [dim, channels, 1, 2, 2] that may be stored flat. */
static int patch_channels(Sizes *s, const char *name, int dim)
{
    const WanStored *t = wan_weights_find(s->w, name);
    int64_t patch;

    if (s->bad)
        return -1;
    patch = t ? wan_stored_count(t) / dim : 0;
    if (patch < 4 || patch > 4 << 24 || patch % 4 ||
        wan_stored_count(t) % dim)
        s->bad = wan_error(s->log, WAN_INVALIDDATA, "%s: tensor %s %s",
                           wan_weights_path(s->w), name,
                           t ? "has an impossible shape" : "is missing");
    return (int)(patch / 4);
}

/* Whether there is a side stack: any of its tensors, for one that lacks others
 * is damaged and no other model. */
static int is_vace(const WanWeights *w, WanNaming naming)
{
    return wan_weights_find(w, "vace_patch_embedding.weight") ||
           find(w, naming, WAN_PART_DIT, "vace_blocks.0.ffn.0.weight") ||
           find(w, naming, WAN_PART_DIT, "vace_blocks.0.after_proj.weight");
}

/* The side stack: its blocks, and those they give hints to, which the file
 * lists; else they are evenly spread. */
static int vace_layers(WanDitConfig *c, Sizes *s, const WanConfigFile *file)
{
    const char *path = wan_weights_path(s->w);
    const int in = patch_channels(s, "vace_patch_embedding.weight", c->dim);
    /* by either, so that the one that is missing is said to be */
    const int by_ffn = count_blocks(s->w, s->naming, s->part,
                                    "vace_blocks.%d.ffn.0.weight");
    const int by_proj = count_blocks(s->w, s->naming, s->part,
                                     "vace_blocks.%d.after_proj.weight");
    const int n = by_ffn > by_proj ? by_ffn : by_proj;

    if (s->bad)
        return s->bad;
    if (in != WAN_VACE_CHANNELS)
        return wan_error(s->log, WAN_ERR(ENOSYS), "%s: a VACE model whose "
                         "contexts have %d channels; %d can be", path, in,
                         WAN_VACE_CHANNELS);
    if (n < 1 || n > WAN_VACE_BLOCKS || n > c->layers)
        return wan_error(s->log, WAN_INVALIDDATA, "%s: a VACE model of %d "
                         "vace_blocks beside %d blocks; 1 to %d can be", path,
                         n, c->layers, c->layers < WAN_VACE_BLOCKS
                         ? c->layers : WAN_VACE_BLOCKS);
    c->nb_vace = n;
    for (int j = 0; j < n; j++)
        c->vace_layer[j] = j * (c->layers / n);
    if (!file || file->nb_vace < 0)
        return 0;
    if (file->nb_vace != n || file->vace_layer[n - 1] >= c->layers)
        return wan_error(s->log, WAN_INVALIDDATA, "%s: config.json lists %d "
                         "vace_layers up to %d, the tensors are %d vace_blocks "
                         "and %d blocks", path, file->nb_vace,
                         file->vace_layer[file->nb_vace - 1], n, c->layers);
    memcpy(c->vace_layer, file->vace_layer, n * sizeof(*c->vace_layer));
    return 0;
}

/* What each task's transformers read and make. Those with 36 channels have an
 * image branch too, but for Wan 2.2's experts. */
static const struct {
    int in, out;
} channels[] = {
    [WAN_TASK_T2V]   = { 16, 16 }, [WAN_TASK_I2V]  = { 36, 16 },
    [WAN_TASK_FLF2V] = { 36, 16 }, [WAN_TASK_TI2V] = { 48, 48 },
    [WAN_TASK_VACE]  = { 16, 16 },
};

int wan_config_dit(WanDitConfig *c, WanNaming *naming, const WanWeights *w,
                   const WanConfigFile *file, const WanLog *log)
{
    const char *path = wan_weights_path(w);
    const WanPart part = WAN_PART_DIT;
    Sizes s = { w, WAN_NAMES_OFFICIAL, part, log, 0 };
    int out;

    memset(c, 0, sizeof(*c));
    c->experts = 1;
    if (wan_weights_find(w, "head.modulation")) {
        *naming = WAN_NAMES_OFFICIAL;
    } else if (wan_weights_find(w, "condition_embedder.time_proj.weight")) {
        *naming = WAN_NAMES_DIFFUSERS;
    } else if (is_vace(w, WAN_NAMES_OFFICIAL)) {
        return wan_error(log, WAN_ERR(ENOSYS), "%s: VACE's blocks alone, without "
                         "the transformer that they stand beside; a file with "
                         "both can be used", path);
    } else {
        wan_log(log, WAN_LOG_ERROR, "%s: no Wan transformer: it has neither "
                "head.modulation nor condition_embedder.time_proj.weight",
                path);
        return WAN_INVALIDDATA;
    }
    for (size_t i = 0; i < sizeof(relatives) / sizeof(*relatives); i++)
        if (wan_weights_find(w, relatives[i].tensor)) {
            wan_log(log, WAN_LOG_ERROR, "%s: %s is not supported (it has %s)",
                    path, relatives[i].what, relatives[i].tensor);
            return WAN_ERR(ENOSYS);
        }

    s.naming = *naming;
    c->dim = dim_of(&s, "patch_embedding.bias", 1, 0);
    c->in_dim = patch_channels(&s, "patch_embedding.weight", c->dim);
    c->ffn = dim_of(&s, "blocks.0.ffn.0.weight", 2, 0);
    c->text_dim = dim_of(&s, "text_embedding.0.weight", 2, 1);
    c->freq_dim = dim_of(&s, "time_embedding.0.weight", 2, 1);
    out = dim_of(&s, "head.head.weight", 2, 0);
    if (s.bad)
        return s.bad;
    c->layers = count_blocks(w, *naming, part, "blocks.%d.ffn.0.weight");
    c->out_dim = out / 4;

    const int branch = find(w, *naming, part, "img_emb.proj.0.bias") != NULL;

    if (is_vace(w, *naming))
        c->task = WAN_TASK_VACE;
    else if (find(w, *naming, part, "img_emb.emb_pos"))
        c->task = WAN_TASK_FLF2V;
    else if (branch || c->in_dim == channels[WAN_TASK_I2V].in)
        c->task = WAN_TASK_I2V;
    else
        c->task = c->out_dim == 48 ? WAN_TASK_TI2V : WAN_TASK_T2V;
    if (c->in_dim != channels[c->task].in ||
        c->out_dim != channels[c->task].out || out % 4) {
        wan_log(log, WAN_LOG_ERROR, "%s: a transformer with %d input and %d "
                "output channels%s is not supported; 16 (text) or 36 (image) "
                "and 16 can be, and Wan 2.2's TI2V with 48 and 48", path,
                c->in_dim, c->out_dim, branch ? "" : " and no image branch");
        return WAN_ERR(ENOSYS);
    }

    if (c->task == WAN_TASK_VACE && (s.bad = vace_layers(c, &s, file)) < 0)
        return s.bad;
    if (branch || c->task == WAN_TASK_FLF2V)
        c->clip_dim = dim_of(&s, "img_emb.proj.1.weight", 2, 1);
    if (s.bad)
        return s.bad;
    if (c->task == WAN_TASK_FLF2V) {
        const WanStored *t = find(w, *naming, part, "img_emb.emb_pos");

        if (t->nb_dims < 2 || t->dim[t->nb_dims - 2] != 2 * WAN_CLIP_TOKENS) {
            wan_log(log, WAN_LOG_ERROR, "%s: tensor %s is not a position "
                    "table of %d tokens", t->file, t->name,
                    2 * WAN_CLIP_TOKENS);
            return WAN_INVALIDDATA;
        }
        c->clip_tokens = 2 * WAN_CLIP_TOKENS;
    }

    c->eps = 1e-6f;
    c->heads = c->dim % 128 ? -1 : c->dim / 128;
    if (file) {
        int ret;

        if ((ret = check_model_type(w, file, c->task, log)) < 0 ||
            (ret = check_key(w, "dim", file->dim, c->dim, log)) < 0 ||
            (ret = check_key(w, "num_layers", file->layers, c->layers,
                             log)) < 0 ||
            (ret = check_key(w, "ffn_dim", file->ffn, c->ffn, log)) < 0 ||
            (ret = check_key(w, "in_dim", file->in_dim, c->in_dim, log)) < 0 ||
            (ret = check_key(w, "out_dim", file->out_dim, c->out_dim,
                             log)) < 0 ||
            (ret = check_key(w, "text_dim", file->text_dim, c->text_dim,
                             log)) < 0 ||
            (c->nb_vace && (ret = check_key(w, "vace_in_dim", file->vace_in,
                                            WAN_VACE_CHANNELS, log)) < 0) ||
            (ret = check_key(w, "freq_dim", file->freq_dim, c->freq_dim,
                             log)) < 0)
            return ret;
        if (file->heads > 0)
            c->heads = file->heads;
        if (file->eps > 0)
            c->eps = (float)file->eps;
        if (file->head_dim > 0 && (int64_t)file->head_dim * c->heads != c->dim) {
            wan_log(log, WAN_LOG_ERROR, "%s: config.json says %d heads of %d, "
                    "which is not the width %d", path, c->heads,
                    file->head_dim, c->dim);
            return WAN_INVALIDDATA;
        }
    }
    if (c->heads < 1) {
        wan_log(log, WAN_LOG_ERROR, "%s: the number of heads is not known: "
                "width %d is no multiple of 128 and there is no config.json "
                "with num_heads", path, c->dim);
        return WAN_INVALIDDATA;
    }
    if (c->dim % (2 * c->heads) || c->dim / c->heads < 6) {
        wan_log(log, WAN_LOG_ERROR, "%s: width %d does not split into %d heads "
                "of an even size of at least 6", path, c->dim, c->heads);
        return WAN_INVALIDDATA;
    }
    if (c->freq_dim % 2) {
        wan_log(log, WAN_LOG_ERROR, "%s: time_embedding.0.weight takes %d "
                "numbers, an odd sinusoid", path, c->freq_dim);
        return WAN_INVALIDDATA;
    }
    return 0;
}

int wan_config_pair(const WanDitConfig *a, const WanWeights *wa,
                    const WanDitConfig *b, const WanWeights *wb,
                    const WanLog *log)
{
    const struct { const char *what; double a, b; } number[] = {
        { "the width", a->dim, b->dim }, { "layers", a->layers, b->layers },
        { "heads", a->heads, b->heads },
        { "the feed-forward's width", a->ffn, b->ffn },
        { "input channels", a->in_dim, b->in_dim },
        { "output channels", a->out_dim, b->out_dim },
        { "the text's width", a->text_dim, b->text_dim },
        { "the sinusoid's width", a->freq_dim, b->freq_dim },
        { "image features' width", a->clip_dim, b->clip_dim },
        { "config.json's eps", a->eps, b->eps },
    };

    for (size_t i = 0; i < sizeof(number) / sizeof(*number); i++)
        if (number[i].a != number[i].b)
            return wan_error(log, WAN_INVALIDDATA, "%s and %s are no pair of "
                             "experts: %s: %g and %g", wan_weights_path(wa),
                             wan_weights_path(wb), number[i].what, number[i].a,
                             number[i].b);
    if (a->task != b->task || a->clip_dim || a->task == WAN_TASK_TI2V ||
        a->task == WAN_TASK_VACE)
        return wan_error(log, WAN_INVALIDDATA, "%s and %s are no pair of "
                         "experts: those of Wan 2.2 have 16 or 36 input "
                         "channels and neither an image branch nor VACE's "
                         "blocks", wan_weights_path(wa), wan_weights_path(wb));
    return 0;
}

int wan_config_t5(WanT5Config *c, WanNaming *naming, const WanWeights *w,
                  const WanLog *log)
{
    const WanPart part = WAN_PART_T5;
    Sizes s = { w, WAN_NAMES_OFFICIAL, part, log, 0 };
    int buckets;

    memset(c, 0, sizeof(*c));
    if (wan_weights_find(w, "token_embedding.weight")) {
        *naming = WAN_NAMES_OFFICIAL;
    } else if (wan_weights_find(w, "shared.weight") ||
               wan_weights_find(w, "encoder.embed_tokens.weight")) {
        *naming = WAN_NAMES_DIFFUSERS;
    } else if (wan_weights_find(w, "token_embd.weight")) {
        *naming = WAN_NAMES_LLAMA;
    } else {
        wan_log(log, WAN_LOG_ERROR, "%s: no UMT5 text encoder: it has neither "
                "token_embedding.weight nor shared.weight nor "
                "token_embd.weight",
                wan_weights_path(w));
        return WAN_INVALIDDATA;
    }
    c->layers = count_blocks(w, *naming, part, "blocks.%d.attn.q.weight");
    if (c->layers > 1 &&
        !find(w, *naming, part, "blocks.1.pos_embedding.embedding.weight")) {
        wan_log(log, WAN_LOG_ERROR, "%s: a T5, but not UMT5: block 1 has no "
                "position table of its own", wan_weights_path(w));
        return WAN_INVALIDDATA;
    }
    s.naming = *naming;
    c->attn_dim = dim_of(&s, "blocks.0.attn.q.weight", 2, 0);
    c->dim = dim_of(&s, "blocks.0.attn.q.weight", 2, 1);
    c->ffn = dim_of(&s, "blocks.0.ffn.fc1.weight", 2, 0);
    buckets = dim_of(&s, "blocks.0.pos_embedding.embedding.weight", 2, 0);
    c->heads = dim_of(&s, "blocks.0.pos_embedding.embedding.weight", 2, 1);
    if (s.bad)
        return s.bad;

    /* Either name of the table may be there: token_embedding maps to one. */
    const WanStored *e = find(w, *naming, part, "token_embedding.weight");
    if (!e)
        e = wan_weights_find(w, "encoder.embed_tokens.weight");
    if (!e || e->nb_dims != 2 || e->dim[0] < 1 || e->dim[0] > INT_MAX ||
        buckets != 32 || c->attn_dim % c->heads) {
        wan_log(log, WAN_LOG_ERROR, "%s: the text encoder's embedding, "
                "position table or heads have impossible shapes",
                wan_weights_path(w));
        return WAN_INVALIDDATA;
    }
    c->vocab = (int)e->dim[0];
    return 0;
}

/* TAEHV and LightTAE have one net and one set of names; one takes the latents
 * of the sampler, the other those times std plus mean. A file's name tells, or
 * the type it is stored in: TAEHV's is F16, LightTAE's another. */
static void find_scaled(WanVaeConfig *c, const WanWeights *w)
{
    const char *path = wan_weights_path(w), *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const WanStored *any = wan_weights_find(w, "decoder.22.bias");

    c->scaled_by = "by its name";
    if (strstr(name, "lighttae")) {
        c->scaled = 1;
    } else if (!strstr(name, "taew2_1") && !strstr(name, "taehv")) {
        c->scaled = any->type != WAN_F16;
        c->scaled_by = "by the type it is stored in";
    }
}

/* Files of the family for other models, that differ in these alone. */
static int refuse_taehv(const WanWeights *w, Sizes *s, const WanLog *log)
{
    const WanStored *super = wan_weights_find(w, "decoder.1.conv.0.weight");
    int latent, colours;

    if (super && super->nb_dims == 4 && super->dim[2] == 7)
        return wan_error(log, WAN_ERR(ENOSYS), "%s: a TAEHV of the kind "
                         "'super', which has another decoder; taew2_1 can be "
                         "used", wan_weights_path(w));
    latent = dim_of(s, "decoder.1.weight", 4, 1);
    colours = dim_of(s, "decoder.22.bias", 1, 0);
    if (!s->bad && (latent != WAN_LATENT_CHANNELS || colours != 3))
        return wan_error(log, WAN_ERR(ENOSYS), "%s: a TAEHV for another model%s:"
                         " it has %d latent channels and gives %d numbers a "
                         "pixel, Wan 2.1's taew2_1 has %d and 3",
                         wan_weights_path(w), latent == 48 ? ", Wan 2.2 "
                         "TI2V-5B" : "", latent, colours, WAN_LATENT_CHANNELS);
    return s->bad;
}

static int config_taehv(WanVaeConfig *c, const WanWeights *w,
                        const WanLog *log)
{
    static const char *const width[] = { "decoder.1.weight",
                                         "decoder.8.weight",
                                         "decoder.14.weight",
                                         "decoder.20.weight" };
    static const char *const grow[] = { "decoder.7.conv.weight",
                                        "decoder.13.conv.weight",
                                        "decoder.19.conv.weight" };
    Sizes s = { w, WAN_NAMES_OFFICIAL, WAN_PART_VAE, log, 0 };
    int ret = refuse_taehv(w, &s, log);

    if (ret < 0)
        return ret;
    for (int i = 0; i < 4; i++)
        c->width[i] = dim_of(&s, width[i], 4, 0);
    for (int i = 0; i < 3; i++)
        c->grow_rows[i] = dim_of(&s, grow[i], 2, 0);
    if (wan_weights_find(w, "encoder.0.weight"))
        c->dim = dim_of(&s, "encoder.0.weight", 4, 0);
    if (s.bad)
        return s.bad;
    for (int i = 0; i < 3; i++)
        if (c->grow_rows[i] < (i ? 2 : 1) * c->width[i])
            return wan_error(log, WAN_INVALIDDATA, "%s: tensor %s has %d rows, "
                             "%d are needed", wan_weights_path(w), grow[i],
                             (int)c->grow_rows[i],
                             (i ? 2 : 1) * (int)c->width[i]);
    for (int i = 0; i < 4; i++)
        if (c->width[i] > WAN_TAEHV_MAX_WIDTH || c->dim > WAN_TAEHV_MAX_WIDTH)
            return wan_error(log, WAN_INVALIDDATA, "%s: a TAEHV wider than %d",
                             wan_weights_path(w), WAN_TAEHV_MAX_WIDTH);
    find_scaled(c, w);
    return 0;
}

/* What each family is known by; the first that is there. */
static const struct {
    const char *tensor;
    WanVaeFamily family;
    WanNaming naming;
} vaes[] = {
    { "decoder.22.bias", WAN_VAE_TAEHV, WAN_NAMES_OFFICIAL },
    { "decoder.1.conv.0.weight", WAN_VAE_TAEHV, WAN_NAMES_OFFICIAL },
    { "decoder.upsamples.0.upsamples.0.residual.0.gamma", WAN_VAE_WAN22,
      WAN_NAMES_OFFICIAL },
    { "decoder.up_blocks.0.upsampler.resample.1.weight", WAN_VAE_WAN22,
      WAN_NAMES_DIFFUSERS },
    { "decoder.upsamples.0.residual.0.gamma", WAN_VAE_WAN21,
      WAN_NAMES_OFFICIAL },
    { "decoder.up_blocks.0.resnets.0.norm1.gamma", WAN_VAE_WAN21,
      WAN_NAMES_DIFFUSERS },
};

int wan_config_vae(WanVaeConfig *c, WanNaming *naming, const WanWeights *w,
                   const WanLog *log)
{
    Sizes s = { w, WAN_NAMES_OFFICIAL, WAN_PART_VAE, log, 0 };
    const size_t n = sizeof(vaes) / sizeof(*vaes);
    size_t i = 0;

    memset(c, 0, sizeof(*c));
    while (i < n && !wan_weights_find(w, vaes[i].tensor))
        i++;
    if (i == n) {
        wan_log(log, WAN_LOG_ERROR, "%s: no Wan VAE: it has neither "
                "decoder.upsamples.0.residual.0.gamma nor "
                "decoder.up_blocks.0.resnets.0.norm1.gamma nor, as Wan 2.2's, "
                "decoder.upsamples.0.upsamples.0.residual.0.gamma nor, as tiny "
                "ones, decoder.22.bias", wan_weights_path(w));
        return WAN_INVALIDDATA;
    }
    c->family = vaes[i].family;
    *naming = s.naming = vaes[i].naming;
    if (c->family == WAN_VAE_TAEHV)
        return config_taehv(c, w, log);
    c->dim = dim_of(&s, "decoder.head.0.gamma", 1, 0);
    if (c->family == WAN_VAE_WAN22)
        c->encoder_dim = dim_of(&s, "encoder.conv1.bias", 1, 0);
    return s.bad;
}

int wan_config_clip(WanClipConfig *c, WanNaming *naming, const WanWeights *w,
                    const WanLog *log)
{
    const WanPart part = WAN_PART_CLIP;
    Sizes s = { w, WAN_NAMES_OFFICIAL, part, log, 0 };

    memset(c, 0, sizeof(*c));
    if (wan_weights_find(w, "visual.cls_embedding")) {
        *naming = WAN_NAMES_OFFICIAL;
    } else if (wan_weights_find(w, "vision_model.embeddings.class_embedding")) {
        *naming = WAN_NAMES_DIFFUSERS;
    } else {
        wan_log(log, WAN_LOG_ERROR, "%s: no CLIP image encoder: it has neither "
                "visual.cls_embedding nor "
                "vision_model.embeddings.class_embedding",
                wan_weights_path(w));
        return WAN_INVALIDDATA;
    }
    s.naming = *naming;
    c->dim = dim_of(&s, "visual.patch_embedding.weight", 4, 0);
    c->mlp = dim_of(&s, "visual.transformer.0.mlp.0.weight", 2, 0);
    c->layers = count_blocks(w, *naming, part,
                             "visual.transformer.%d.mlp.0.weight") - 1;
    if (s.bad)
        return s.bad;
    /* Heads are in no shape and no file; ViT-H has 16 of 80. */
    c->heads = c->dim / 80;
    if (c->layers < 1 || c->dim % 80) {
        wan_log(log, WAN_LOG_ERROR, "%s: an image encoder of width %d with %d "
                "blocks is not supported: heads are 80 wide, and the last "
                "block is not run", wan_weights_path(w), c->dim,
                c->layers + 1);
        return WAN_ERR(ENOSYS);
    }
    return 0;
}

int wan_config_holds(const WanWeights *w, WanPart part)
{
    static const char *const tensors[][4] = {
        [WAN_PART_DIT]  = { "head.modulation",
                            "condition_embedder.time_proj.weight", NULL },
        [WAN_PART_T5]   = { "token_embedding.weight", "shared.weight",
                            "encoder.embed_tokens.weight",
                            "token_embd.weight" },
        [WAN_PART_VAE]  = { "decoder.upsamples.0.residual.0.gamma",
                            "decoder.up_blocks.0.resnets.0.norm1.gamma",
                            "decoder.upsamples.0.upsamples.0.residual.0.gamma",
                            "decoder.22.bias" },
        [WAN_PART_CLIP] = { "visual.cls_embedding",
                            "vision_model.embeddings.class_embedding", NULL },
    };

    for (int i = 0; i < 4 && tensors[part][i]; i++)
        if (wan_weights_find(w, tensors[part][i]))
            return 1;
    return 0;
}

/* ---------------------------------------------------- known variants */

int wan_config_named(const char *name, WanDitConfig *dit, WanT5Config *t5,
                     WanVaeConfig *vae, WanClipConfig *clip)
{
    const int flf2v = !strcmp(name, "flf2v-14B");
    const int i2v = flf2v || !strcmp(name, "i2v-14B");
    const int i2v22 = !strcmp(name, "i2v-a14b");
    const int pair = i2v22 || !strcmp(name, "t2v-a14b");
    const int vace = !strncmp(name, "vace-", 5);

    *clip = (WanClipConfig){ .dim = 1280, .heads = 16, .mlp = 5120,
                             .layers = 31 };
    *t5 = (WanT5Config){ .vocab = 256384, .dim = 4096, .heads = 64,
                         .attn_dim = 4096, .ffn = 10240, .layers = 24 };
    *vae = (WanVaeConfig){ .dim = 96 };
    *dit = (WanDitConfig){ .task = i2v22 ? WAN_TASK_I2V : WAN_TASK_T2V,
                           .experts = 1 + pair,
                           .in_dim = i2v22 ? 36 : 16, .out_dim = 16,
                           .text_dim = 4096, .freq_dim = 256, .eps = 1e-6f };
    if (!strcmp(name, "t2v-1.3B") || !strcmp(name, "vace-1.3B")) {
        dit->dim = 1536, dit->heads = 12, dit->layers = 30, dit->ffn = 8960;
    } else if (!strcmp(name, "ti2v-5B")) {
        dit->task = WAN_TASK_TI2V;
        dit->dim = 3072, dit->heads = 24, dit->layers = 30, dit->ffn = 14336;
        dit->in_dim = dit->out_dim = 48;
        *vae = (WanVaeConfig){ .family = WAN_VAE_WAN22, .dim = 256,
                               .encoder_dim = 160 };
    } else if (i2v || pair || !strcmp(name, "t2v-14B") ||
               !strcmp(name, "vace-14B")) {
        dit->dim = 5120, dit->heads = 40, dit->layers = 40, dit->ffn = 13824;
    } else {
        return WAN_ERR(EINVAL);
    }
    if (i2v) {
        dit->task = flf2v ? WAN_TASK_FLF2V : WAN_TASK_I2V;
        dit->in_dim = 36;
        dit->clip_dim = clip->dim;
        dit->clip_tokens = flf2v ? 2 * WAN_CLIP_TOKENS : 0;
    }
    if (vace) {
        const int step = dit->layers == 30 ? 2 : 5;     // blocks to a hint

        dit->task = WAN_TASK_VACE;
        dit->nb_vace = dit->layers / step;
        for (int j = 0; j < dit->nb_vace; j++)
            dit->vace_layer[j] = j * step;
    }
    return 0;
}

void wan_config_cut(WanDitConfig *c, int layers)
{
    c->layers = layers;
    while (c->nb_vace && c->vace_layer[c->nb_vace - 1] >= layers)
        c->nb_vace--;
}

/* The unwanted traits, in our words; Wan follows Chinese here best. */
static const char negative[] =
    "画质低劣，模糊不清，噪点，压缩痕迹，过度曝光，颜色失真，画面静止不动，"
    "字幕，水印，徽标，绘画质感，肢体畸形，手指变形，多余的肢体，面部扭曲，"
    "背景杂乱，人群拥挤，倒退行走";

/* Wan 2.2's pairs of experts, by task. */
static const struct {
    const char *name;
    double guidance[WAN_EXPERTS], shift, boundary;
} pairs[] = {
    [WAN_TASK_T2V] = { "Wan2.2 T2V", { 4, 3 }, 12, 0.875 },
    [WAN_TASK_I2V] = { "Wan2.2 I2V", { 3.5, 3.5 }, 5, 0.9 },
};

/* Whether it is of such a pair. Of an image model its tensors say so, of
 * others names alone. */
static int is_of_pair(const WanDitConfig *c, WanExpert alone)
{
    return (c->task == WAN_TASK_I2V && !c->clip_dim) ||
           (c->task == WAN_TASK_T2V && (c->experts > 1 || alone));
}

/* One that is alone makes all steps. */
static void pair_defaults(WanModelInfo *info, WanExpert alone)
{
    const int two = info->experts > 1;

    info->width = 1280;
    info->height = 720;
    info->steps = 40;
    info->shift = pairs[info->task].shift;
    info->guidance = pairs[info->task].guidance[alone == WAN_EXPERT_LOW];
    info->guidance2 = two ? pairs[info->task].guidance[1] : 0;
    info->boundary = two ? pairs[info->task].boundary : 0;
}

static void file_defaults(WanModelInfo *info, const WanConfigFile *file)
{
    const int two = info->experts > 1;

    if (file->width > 0) {
        info->width = file->width;
        info->height = file->height;
    }
    if (file->frames > 0)
        info->frames = file->frames;
    if (file->steps > 0)
        info->steps = file->steps;
    if (file->guidance >= 0)
        info->guidance = file->guidance;
    if (two && (file->guidance >= 0 || file->guidance2 >= 0))
        info->guidance2 = file->guidance2 >= 0 ? file->guidance2
                                               : file->guidance;
    if (file->shift > 0)
        info->shift = file->shift;
    if (two && file->boundary >= 0)
        info->boundary = file->boundary;
}

void wan_config_defaults(WanModelInfo *info, const WanDitConfig *c,
                         const WanConfigFile *file, const char *path,
                         WanExpert alone, char *name, size_t name_size)
{
    static const char *const task[] = { "Wan2.1 T2V", "Wan2.1 I2V",
                                        "Wan2.1 FLF2V", "Wan2.2 TI2V",
                                        "Wan2.1 VACE" };
    const int ti2v = c->task == WAN_TASK_TI2V;
    const int vace = c->task == WAN_TASK_VACE;
    const int five = ti2v && c->dim == 3072 && c->layers == 30;
    const int small = c->dim == 1536 && c->layers == 30;
    const int large = c->dim == 5120 && c->layers == 40;
    const int hd = c->task == WAN_TASK_I2V ? strstr(path, "720") != NULL
                                           : large;

    const int pair = is_of_pair(c, alone);
    const char *what = pair ? pairs[c->task].name : task[c->task];

    if (small || large || five)
        snprintf(name, name_size, "%s %s", what,
                 small ? "1.3B" : five ? "5B" : pair ? "A14B" : "14B");
    else
        snprintf(name, name_size, "%s (width %d, %d layers)", what, c->dim,
                 c->layers);
    info->name = name;
    info->task = c->task;
    info->experts = c->experts;
    info->dim = c->dim;
    info->heads = c->heads;
    info->layers = c->layers;
    info->ffn = c->ffn;
    info->text_dim = c->text_dim;
    info->clip_dim = c->clip_dim;
    info->size_multiple = WAN_SIZE_MULTIPLE;
    info->size_max = WAN_MAX_SIZE;
    info->negative_prompt = negative;
    info->preset = "none";

    /* The official command lines: 1.3B's README asks for shift 8 and
     * guidance 6, the code's own defaults serve the others. */
    info->width = hd || ti2v ? 1280 : 832;
    info->height = ti2v ? 704 : hd ? 720 : 480;
    info->frames = ti2v ? 121 : 81;
    info->rate_num = ti2v ? 24 : 16;
    info->rate_den = 1;
    info->steps = c->task == WAN_TASK_I2V ? 40 : 50;
    info->guidance = small && !vace ? 6 : 5;
    info->shift = vace || c->task == WAN_TASK_FLF2V ? 16 : small ? 8 :
                  c->task == WAN_TASK_I2V && !hd ? 3 : 5;

    if (pair)
        pair_defaults(info, alone);
    if (file)
        file_defaults(info, file);
}
