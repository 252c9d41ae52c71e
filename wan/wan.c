/*
 * The model: opening a checkpoint, what it is, its life.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "cards.h"
#include "condition.h"
#include "files.h"
#include "model.h"

unsigned wan_version(void)
{
    return WAN_VERSION_MAJOR << 16 | WAN_VERSION_MINOR << 8 |
           WAN_VERSION_MICRO;
}

const char *wan_strerror(int error)
{
    switch (error) {
    case 0:                 return "success";
    case WAN_EOF:           return "all frames were read";
    case WAN_INVALIDDATA:   return "damaged or unexpected data in a file";
    case WAN_CANCELLED:     return "cancelled";
    case WAN_ERR(EAGAIN):   return "no frame is ready yet";
    case WAN_ERR(EINVAL):   return "invalid argument";
    case WAN_ERR(ENOMEM):   return "not enough memory";
    case WAN_ERR(ENOENT):   return "no such file or directory";
    case WAN_ERR(ENOSYS):   return "not supported by this build";
    case WAN_ERR(EDOM):     return "a number stopped being finite";
    case WAN_ERR(EIO):      return "input/output or device error";
    case WAN_ERR(EACCES):   return "permission denied";
    case WAN_ERR(EISDIR):   return "a directory where a file is expected";
    case WAN_ERR(ELOOP):    return "links that lead to each other";
    case WAN_ERR(ENAMETOOLONG): return "a file name is too long";
    case WAN_ERR(EMFILE):
    case WAN_ERR(ENFILE):   return "too many open files";
    case WAN_ERR(ENODEV):   return "a file that can't be mapped";
    default:                return "error";
    }
}

void wan_model_params_default_sized(WanModelParams *p, size_t size)
{
    const WanModelParams d = { .size = size, .device = "auto",
                               .log_level = WAN_LOG_INFO };

    wan_abi_out(p, size, &d, sizeof(d));
}

/* A caller's params as this library knows them, and where their log goes. */
static int take_params(WanModelParams *own, WanLog *log,
                       const WanModelParams *p)
{
    *log = (WanLog){ p->log, p->log_opaque, p->log_level };
    wan_model_params_default(own);
    return wan_abi_in(own, sizeof(*own), p, WAN_PARAMS_LEAST,
                      "WanModelParams", p->size < WAN_PARAMS_LEAST ? NULL
                                                                   : log);
}

/* -------------------------------------------------------------- opening */

/* The device as its user names it. */
static const char *device_asked(const WanModelParams *p)
{
    return p->device && *p->device ? p->device : "auto";
}

/* What of the transformer may be multiplied in e4m3. */
static WanBinderE4m3 choose_e4m3(const WanModel *m, const WanModelParams *p)
{
    if (p->fp8 == WAN_FP8_OFF)
        return WAN_E4M3_NONE;
    if (wan_dev_e4m3(m->device))
        return p->fp8 == WAN_FP8_ON ? WAN_E4M3_ALL : WAN_E4M3_STORED;
    if (p->fp8 == WAN_FP8_ON)
        wan_log(&m->log, WAN_LOG_WARNING, "option fp8: device %s with "
                "precision %s has no products in 8 bits, as GPUs from compute "
                "capability 8.9 on have with bf16: it is without effect",
                device_asked(p), wan_precision_name(m->choice.precision));
    return WAN_E4M3_NONE;
}

/* A binder of a part: of the file that was given, else of the transformer's if
 * it is inside, else of the file that was found. */
static int open_part(WanBinder *b, WanModel *m, WanPart part,
                     const char *given, const char *path,
                     const WanInterrupt *interrupt)
{
    int ret = 0;

    *b = (WanBinder){ .part = part, .pool = &m->pool, .log = &m->log,
                      .interrupt = interrupt };
    if (!(given && *given) && wan_config_holds(m->files[0], part))
        b->weights = m->files[0];
    else
        ret = wan_weights_open(&m->files[part], path, &m->log);
    if (!b->weights)
        b->weights = m->files[part];
    return ret;
}

/* What a binder found out is kept; of shapes alone no weights are bound. */
static void settle(WanBinder *b, WanModel *m)
{
    m->naming[b->part] = b->naming;
    if (m->shapes)
        b->weights = NULL;
}

/* The keys of the checkpoint's config.json: that inside the file, else the one
 * beside it. 1, or 0: there is none. */
static int read_config(WanConfigFile *keys, const WanWeights *w,
                       const char *beside, const WanLog *log)
{
    const char *inside = wan_weights_metadata(w, WAN_CONFIG_KEY);
    size_t bytes;
    char *text;
    int ret;

    if (inside) {
        ret = wan_config_parse(keys, inside, strlen(inside),
                               wan_weights_path(w), log);
        return ret < 0 ? ret : 1;
    }
    if (!beside)
        return 0;
    ret = wan_read_file(&text, &bytes, beside, 1 << 20, log);
    if (ret < 0)
        return ret;
    ret = wan_config_parse(keys, text, bytes, beside, log);
    free(text);
    return ret < 0 ? ret : 1;
}

static void describe(WanModel *m, const WanDitConfig *c,
                     const WanConfigFile *file, const char *path,
                     WanExpert alone)
{
    wan_config_defaults(&m->info, c, file, path, alone, m->name,
                        sizeof(m->name));
    m->info.images_needed = wan_condition_needs(m);
    m->info.images_most = wan_condition_images(m);
    m->plain.steps = m->info.steps;
    m->plain.guidance = m->info.guidance;
    m->plain.guidance2 = m->info.guidance2;
    m->plain.shift = m->info.shift;
}

/* A family that the config names, as a converted file's does. */
static const WanPreset *named(const char **by, const WanModel *m,
                              const char *path, const WanConfigFile *file)
{
    const WanPreset *p = NULL;

    *by = "its configuration";
    if (file && *file->preset &&
        wan_preset_find(&p, file->preset, m->info.dim, NULL) < 0)
        wan_log(&m->log, WAN_LOG_WARNING, "%s: its configuration names preset "
                "%s, which is not known and not used", path, file->preset);
    return p;
}

/* The family of the transformer, and its numbers, which those of a config.json
 * override; else of a LoRA, of which that file knows nothing. */
static int recognise(WanModel *m, const char *path, const WanLora *lora,
                     const WanConfigFile *file)
{
    WanModelInfo *info = &m->info;
    const WanWeights *w;
    const char *by;
    const WanPreset *p = named(&by, m, path, file);
    int ret = wan_preset_check(path, m->files[0], &m->log);
    float strength;

    if (!p)
        p = wan_preset_recognise(&by, path, m->files[0], info->dim);
    for (int i = 0; ret >= 0 && (w = wan_lora_file(lora, i, &strength)); i++) {
        ret = wan_preset_check(wan_weights_path(w), w, &m->log);
        if (!p && strength &&
            (p = wan_preset_recognise(&by, wan_weights_path(w), NULL,
                                      info->dim))) {
            path = wan_weights_path(w);
            file = NULL;
        }
    }
    if (ret < 0 || !p)
        return ret;
    m->preset = p;
    info->preset = p->name;
    info->sampler = p->sampler;
    if (!file || file->steps < 0)
        info->steps = p->steps;
    if (!file || file->guidance < 0)
        info->guidance = 1;
    if (info->experts > 1 && (!file || file->guidance2 < 0))
        info->guidance2 = info->guidance;
    if ((!file || file->shift < 0) && p->shift)
        info->shift = p->shift;
    wan_log(&m->log, WAN_LOG_INFO, "%s: %s, by %s: preset %s, which is %d "
            "steps of %s, guidance %g, shift %g", path, p->family, by, p->name,
            info->steps, wan_sampler_name(p->sampler), info->guidance,
            info->shift);
    return 0;
}

/* A transformer's file, and what it is. */
typedef struct Found {
    WanWeights *w;              // the model's
    WanNaming naming;
    WanDitConfig config;
    WanConfigFile keys;
    int have_keys;
} Found;

/* A transformer's file; of a training's the weights that were asked for. */
static int open_weights(WanWeights **w, const char *path, const char *which,
                        const WanLog *log)
{
    static const char *const dict[][2] = {
        { "ema", "generator_ema" }, { "generator", "generator" },
    };
    const char *want, *has;
    int k = 0, ret;

    if (!which || !*which)
        return wan_weights_open(w, path, log);
    while (k < 2 && strcmp(which, dict[k][0]))
        k++;
    if (k == 2)
        return wan_error_option(log, "weights", "%s is none; ema and generator "
                                "are", which);
    want = dict[k][1];
    ret = wan_weights_open_dict(w, path, want, log);
    has = ret < 0 ? want : wan_weights_dict(*w);
    if (!has || strcmp(has, want))
        return wan_error_option(log, "weights", "%s has no %s, its weights "
                                "are %s%s", path, want, has ? "in " : "its "
                                "only ones", has ? has : "");
    return ret;
}

static int find_transformer(Found *x, WanWeights **w, const char *path,
                            const char *config, const char *which,
                            const WanLog *log)
{
    int ret = open_weights(w, path, which, log);

    if (ret < 0 || (ret = read_config(&x->keys, *w, config, log)) < 0)
        return ret;
    x->w = *w;
    x->have_keys = ret;
    return wan_config_dit(&x->config, &x->naming, *w,
                          x->have_keys ? &x->keys : NULL, log);
}

/* The boundary that Diffusers' index of a pair names, if the transformer's own
 * config.json has none. */
static int read_index(Found *x, const char *path, const WanLog *log)
{
    WanConfigFile index;
    int ret;

    if (!path || (x->have_keys && x->keys.boundary >= 0))
        return 0;
    if ((ret = read_config(&index, x->w, path, log)) < 0)
        return ret;
    if (!x->have_keys)
        x->keys = index;
    x->keys.boundary = index.boundary;
    x->have_keys = 1;
    return 0;
}

/* What the files are: one transformer or two of one shape. */
static int find_transformers(Found x[WAN_EXPERTS], WanModel *m,
                             const WanFiles *f, const char *which)
{
    int ret = find_transformer(&x[0], &m->files[0], f->dit, f->config, which,
                               &m->log);

    if (ret < 0)
        return ret;
    if (!f->dit2) {
        if (x[0].config.task == WAN_TASK_I2V && !x[0].config.clip_dim &&
            !f->alone)
            wan_log(&m->log, WAN_LOG_WARNING, "%s: one of Wan 2.2's two "
                    "image-to-video experts, by its tensors: alone it makes "
                    "all steps, and is half a model; option model2 names the "
                    "low-noise one", f->dit);
        return 0;
    }
    if ((ret = find_transformer(&x[1], &m->file2, f->dit2, f->config2, which,
                                &m->log)) < 0 ||
        (ret = wan_config_pair(&x[0].config, x[0].w, &x[1].config, x[1].w,
                               &m->log)) < 0)
        return ret;
    x[0].config.experts = x[1].config.experts = WAN_EXPERTS;
    return read_index(&x[0], f->index, &m->log);
}

/* Bind one of them, with the LoRA that is meant for it. */
static int bind_dit(WanModel *m, int expert, const Found *x, WanLora *lora,
                    const WanModelParams *p, const WanInterrupt *interrupt)
{
    WanDit *dit = expert ? &m->dit2 : &m->dit;
    WanBinder b = { .part = WAN_PART_DIT, .pool = &m->pool, .log = &m->log,
                    .interrupt = interrupt, .e4m3 = choose_e4m3(m, p),
                    .weights = x->w, .naming = x->naming, .lora = lora };
    int ret;

    *(expert ? &m->naming2 : &m->naming[WAN_PART_DIT]) = x->naming;
    if (m->shapes)
        b.weights = NULL;
    ret = wan_dit_bind(dit, &x->config, &b);
    m->info.parameters = b.numbers;
    if (ret >= 0 && lora)
        ret = wan_lora_end(lora, &m->log);
    if (ret >= 0 && dit->blocks[0].ffn[0].e4m3 && p->fp8 == WAN_FP8_AUTO)
        wan_log(&m->log, WAN_LOG_INFO, "%s: its matrices are in fp8, and so "
                "are products with them; with option fp8 off they are in BF16",
                wan_weights_path(x->w));
    return ret;
}

/* Of the files that are about to be merged. Strengths are in both's list. */
static uint64_t lora_sum(const WanLora *l)
{
    const WanWeights *w;
    float strength;
    uint64_t sum = 0;

    for (int i = 0; (w = wan_lora_file(l, i, &strength)); i++)
        sum = 31 * sum + wan_weights_sum(w);
    return sum;
}

static int open_dit(WanModel *m, const WanFiles *f, const WanModelParams *p,
                    const WanInterrupt *interrupt)
{
    const int given = p->lora && *p->lora;
    const WanConfigFile *keys;
    WanLora *lora = NULL;
    Found x[WAN_EXPERTS];
    int ret = find_transformers(x, m, f, p->weights);

    if (ret < 0)
        return ret;
    keys = x[0].have_keys ? &x[0].keys : NULL;
    describe(m, &x[0].config, keys, f->dit, f->alone);
    for (int i = 0; i < m->info.experts && ret >= 0; i++) {
        const WanExpert expert = m->info.experts < 2 ? WAN_EXPERT_NONE
                                 : i ? WAN_EXPERT_LOW : WAN_EXPERT_HIGH;

        if (given)
            ret = wan_lora_open(&lora, p->lora, f->loras, expert,
                                wan_dev_threads(m->threads), &m->log);
        m->lora_sum = 31 * m->lora_sum + lora_sum(lora);
        if (ret >= 0 && !i)
            ret = recognise(m, f->dit, lora, keys);
        if (m->shapes)                  // merged by whoever asked for them
            wan_lora_close(&lora);
        if (ret >= 0)
            ret = bind_dit(m, i, &x[i], lora, p, interrupt);
        wan_lora_close(&lora);
    }
    return ret;
}

static int open_t5(WanModel *m, const WanFiles *f, const WanModelParams *p,
                   const WanInterrupt *interrupt)
{
    WanBinder b;
    WanT5Config c;
    int ret;

    if ((ret = open_part(&b, m, WAN_PART_T5, p->text_encoder, f->t5,
                         interrupt)) < 0 ||
        (ret = wan_config_t5(&c, &b.naming, b.weights, &m->log)) < 0)
        return ret;
    settle(&b, m);
    if ((ret = wan_t5_bind(&m->t5, &c, &b)) < 0)
        return ret;
    if (c.dim != m->info.text_dim)
        return wan_error(&m->log, WAN_INVALIDDATA, "%s: the text encoder is %d "
                         "wide, the transformer %s reads %d",
                         wan_weights_path(wan_model_weights(m, WAN_PART_T5)),
                         c.dim, f->dit, m->info.text_dim);
    m->info.text_layers = c.layers;
    return 0;
}

static int open_vae(WanModel *m, const WanFiles *f, const WanModelParams *p,
                    const WanInterrupt *interrupt)
{
    WanBinder b;
    WanVaeConfig c;
    int encoder, ret;

    if ((ret = open_part(&b, m, WAN_PART_VAE, p->vae, f->vae,
                         interrupt)) < 0 ||
        (ret = wan_config_vae(&c, &b.naming, b.weights, &m->log)) < 0)
        return ret;
    m->info.vae_dim = c.dim;
    if (p->vae_scale) {
        c.scaled = p->vae_scale == WAN_VAE_SCALE_ON;
        c.scaled_by = "as option vae_scale says";
    }
    if (c.family == WAN_VAE_TAEHV)
        wan_log(&m->log, WAN_LOG_INFO, "%s: a tiny VAE; it takes latents %s, "
                "%s", wan_weights_path(b.weights), c.scaled ? "times std plus "
                "mean, as LightTAE" : "as they are sampled, as TAEHV",
                c.scaled_by);
    settle(&b, m);
    encoder = wan_condition_encodes(m) ||
              wan_codec_has_encoder(&c, wan_model_weights(m, WAN_PART_VAE),
                                    b.naming);
    if ((ret = wan_codec_bind(&m->vae, &c, encoder, &b)) < 0)
        return ret;
    if (m->vae.family->channels != m->dit.config.out_dim)
        return wan_error(&m->log, WAN_INVALIDDATA, "%s: the %s, of latents with "
                         "%d channels; the transformer %s makes %d",
                         wan_weights_path(wan_model_weights(m, WAN_PART_VAE)),
                         m->vae.family->name, m->vae.family->channels, f->dit,
                         m->dit.config.out_dim);
    m->info.size_multiple = wan_codec_multiple(&m->vae);
    if (m->info.width % m->info.size_multiple ||
        m->info.height % m->info.size_multiple)
        return wan_error(&m->log, WAN_INVALIDDATA, "%s: its configuration's "
                         "size is %dx%d, sides must be multiples of %d",
                         f->dit, m->info.width, m->info.height,
                         m->info.size_multiple);
    return 0;
}

static int open_clip(WanModel *m, const WanFiles *f, const WanModelParams *p,
                     const WanInterrupt *interrupt)
{
    WanBinder b;
    WanClipConfig c;
    int ret;

    if ((ret = open_part(&b, m, WAN_PART_CLIP, p->clip, f->clip,
                         interrupt)) < 0 ||
        (ret = wan_config_clip(&c, &b.naming, b.weights, &m->log)) < 0)
        return ret;
    if (c.dim != m->info.clip_dim)
        return wan_error(&m->log, WAN_INVALIDDATA, "%s: the image encoder is "
                         "%d wide, the transformer %s reads %d",
                         wan_weights_path(b.weights), c.dim, f->dit,
                         m->info.clip_dim);
    settle(&b, m);
    return wan_clip_bind(&m->clip, &c, &b);
}

/* From spiece.model, or from the tensor ComfyUI's text encoders carry, of bytes
 * without a sign or, in GGUF, with one. In a file that holds the transformer
 * too that is stronger than what lies beside. */
static int open_tokenizer(WanModel *m, const WanFiles *f, const char *given)
{
    const WanWeights *t5 = wan_model_weights(m, WAN_PART_T5);
    const WanStored *inside = wan_weights_find(t5, "spiece_model");
    const char *name = inside && !m->files[WAN_PART_T5] && !(given && *given)
                       ? NULL : f->tokenizer;
    char *data = NULL;
    size_t bytes;
    int ret;

    if (name) {
        ret = wan_read_file(&data, &bytes, name, 64 << 20, &m->log);
        if (ret >= 0)
            ret = wan_tokenizer_open(&m->tokenizer, data, bytes, name,
                                     &m->log);
        free(data);
        if (ret >= 0 && !(m->spiece = strdup(name)))
            ret = wan_error_memory(&m->log, name, "its path");
    } else if (inside && inside->data &&
               (inside->type == WAN_U8 || inside->type == WAN_I8)) {
        name = inside->file;
        ret = wan_tokenizer_open(&m->tokenizer, inside->data,
                                 (size_t)inside->bytes, name, &m->log);
    } else {
        ret = wan_error(&m->log, WAN_ERR(ENOENT), "%s: no tokenizer: "
                        "spiece.model is neither beside it, in "
                        "google/umt5-xxl or tokenizer, nor inside; give "
                        "option tokenizer", wan_weights_path(t5));
    }
    if (ret >= 0 && wan_tokenizer_vocab(m->tokenizer) > m->t5.config.vocab)
        return wan_error(&m->log, WAN_INVALIDDATA, "%s: the tokenizer has %d "
                         "ids, the text encoder %s rows for %d", name,
                         wan_tokenizer_vocab(m->tokenizer),
                         wan_weights_path(t5), m->t5.config.vocab);
    return ret;
}

static WanModel *model_alloc(const WanModelParams *p, const WanChoice *choice)
{
    const WanLog log = { p->log, p->log_opaque, p->log_level };
    WanModel *m = calloc(1, sizeof(*m));

    if (!m) {
        wan_error_memory(&log, p->path ? p->path : "model", "the model");
        return NULL;
    }
    m->refs = 1;
    m->log = log;
    m->threads = p->threads;
    m->memory = p->memory;
    m->cuda_context = p->cuda_context;
    m->choice = *choice;
    m->info.precision = choice->precision;
    m->info.precision_native = choice->native;
    m->device = strdup(choice->name);
    m->prompts = wan_prompts_alloc();
    if (!m->device || !m->prompts) {
        wan_error_memory(&log, p->path ? p->path : "model", "the model");
        wan_model_close(&m);
    }
    return m;
}

/* What a device is, of several cards the first one. Whether it is in this
 * machine nobody asks who only plans. */
static int choose_device(WanChoice *out, const WanModelParams *p, int planned,
                         const WanLog *log)
{
    const char *device = device_asked(p);
    WanCardList list;
    int ret = wan_cards_read(&list, device, log);

    for (int i = 0; ret >= 0 && (!i || i < list.nb); i++) {
        WanChoice own;
        char name[32];

        if (list.nb)
            device = wan_cards_name(&list, i, name, sizeof(name));
        ret = wan_dev_choose(&own, device, p->precision, log);
        if (ret >= 0 && !planned && !wan_dev_known(own.name, log))
            ret = WAN_ERR(ENOSYS);
        if (ret >= 0 && !i)
            *out = own;
    }
    return ret;
}

static int check_precision(const WanModelParams *p, const WanLog *log)
{
    if (!wan_precision_name(p->precision))
        return wan_error_option(log, "precision", "%d is none", p->precision);
    return p->reserved ? wan_error_option(log, "reserved", "it must be 0") : 0;
}

static int check_params(WanChoice *choice, const WanModelParams *p,
                        const WanLog *log)
{
    int ret;

    if (p->threads < 0 || p->threads > 1024) {
        wan_log(log, WAN_LOG_ERROR, "option threads: %d; 0 to 1024 can be",
                p->threads);
        return WAN_ERR(EINVAL);
    }
    if (p->memory < 0) {
        wan_log(log, WAN_LOG_ERROR, "option memory: it can't be negative");
        return WAN_ERR(EINVAL);
    }
    if ((unsigned)p->vae_scale > WAN_VAE_SCALE_ON) {
        wan_log(log, WAN_LOG_ERROR, "option vae_scale: %d is none",
                p->vae_scale);
        return WAN_ERR(EINVAL);
    }
    if ((unsigned)p->processes > 1) {
        wan_log(log, WAN_LOG_ERROR, "processes: %d; 0 or 1 can be",
                p->processes);
        return WAN_ERR(EINVAL);
    }
    if ((unsigned)p->fp8 > WAN_FP8_ON) {
        wan_log(log, WAN_LOG_ERROR, "option fp8: %d is none", p->fp8);
        return WAN_ERR(EINVAL);
    }
    ret = check_precision(p, log);
    return ret < 0 ? ret : choose_device(choice, p, 0, log);
}

int wan_model_join(WanModel *m, WanRanks *ranks, const WanModelParams *p)
{
    int here = 0, before = 0, ret;
    char device[64];

    if (p) {
        WanModelParams own = *p;

        own.precision = m->choice.precision;    // whatever theirs would be
        wan_put_params(&m->given, &own);
    }
    if (m->given.failed)
        return wan_error_memory(&m->log, "model", "its description");
    for (int q = 0; q < ranks->size; q++)
        if (!strcmp(ranks->info[q].node, ranks->info[ranks->rank].node)) {
            before += q < ranks->rank;
            here++;
        }
    ret = wan_dev_of_rank(device, sizeof(device), m->device, before, &m->log);
    if (ret < 0)
        return ret;
    if (m->cuda_context)
        return wan_error(&m->log, WAN_ERR(ENOSYS), "device %s: several cards or "
                         "processes don't work in a context that is given, as "
                         "hwframes=1 does", m->device);
    free(m->device);
    if (!(m->device = strdup(device)))
        return wan_error_memory(&m->log, "model", "the name of its device");
    m->ranks = ranks;
    m->threads_alone = m->threads;
    if (!m->threads)
        m->threads = wan_dev_threads(0) > here ? wan_dev_threads(0) / here : 1;
    return 0;
}

/* The processes beside this one, if it was started with some, or the cards that
 * it was given, of which the first is its own. */
static int find_ranks(WanModel *m, const WanModelParams *p)
{
    WanRanks *ranks = NULL;
    WanCardList list = { .nb = 0 };
    int ret = p->processes ? wan_ranks_from_launcher(&ranks, 1, &m->log) : 0;

    m->interrupted = p->interrupted;
    m->interrupted_opaque = p->interrupted_opaque;
    if (ret >= 0 && p->device)
        ret = wan_cards_read(&list, p->device, &m->log);
    if (ret >= 0 && list.nb > 1) {
        if (ranks)
            return wan_error(&m->log, WAN_ERR(EINVAL), "device %s: processes of "
                             "an MPI launcher have a card each; use device=%s",
                             p->device, list.kind);
        ret = wan_cards_open(&m->cards, &list, p->threads, &m->log);
        ranks = ret < 0 ? NULL : wan_cards_ranks(m->cards);
    }
    if (ret < 0 || !ranks || (ret = wan_model_join(m, ranks, p)) < 0)
        return ret;
    if (list.nb > 1 && p->threads)      // of all; the others have theirs
        m->threads = p->threads < list.nb ? 1 : p->threads / list.nb;
    return 0;
}

static int64_t stored_bytes(const WanWeights *w)
{
    int64_t sum = 0;

    for (int i = 0; w && i < wan_weights_count(w); i++)
        sum += wan_weights_at(w, i)->bytes;
    return sum;
}

/* Of the parts that are wanted weights, or shapes alone. */
static int open_parts(WanModel **out, const WanModelParams *params,
                      unsigned parts, int shapes)
{
    WanModelParams own;
    const WanModelParams *p = &own;
    WanInterrupt interrupt;
    WanLog log;
    WanFiles f = { .without = ~parts };
    WanChoice choice;
    WanModel *m = NULL;
    int ret;

    *out = NULL;
    if ((ret = take_params(&own, &log, params)) < 0 ||
        (ret = check_params(&choice, p, &log)) < 0 ||
        (ret = wan_files_find(&f, p, &log)) < 0)
        goto fail;
    ret = WAN_ERR(ENOMEM);
    if (!(m = model_alloc(p, &choice)))
        goto fail;
    m->shapes = shapes;
    if (!shapes && (ret = find_ranks(m, p)) < 0)
        goto fail;
    interrupt = (WanInterrupt){ p->interrupted, p->interrupted_opaque };
    if ((ret = open_dit(m, &f, p, &interrupt)) < 0 ||
        (m->info.clip_dim && parts & 1 << WAN_PART_CLIP &&
         ((ret = wan_files_find_clip(&f, p, &log)) < 0 ||
          (ret = open_clip(m, &f, p, &interrupt)) < 0)) ||
        (parts & 1 << WAN_PART_T5 &&
         (ret = open_t5(m, &f, p, &interrupt)) < 0) ||
        (parts & 1 << WAN_PART_VAE &&
         (ret = open_vae(m, &f, p, &interrupt)) < 0) ||
        (parts & 1 << WAN_PART_T5 &&
         (ret = open_tokenizer(m, &f, p->tokenizer)) < 0))
        goto fail;

    const int64_t first = stored_bytes(m->files[0]);

    m->info.weight_bytes = m->resting_bytes = stored_bytes(m->file2);
    if (first < m->resting_bytes)
        m->resting_bytes = first;
    for (int i = 0; i < 4; i++)
        m->info.weight_bytes += stored_bytes(m->files[i]);
    wan_log(&log, WAN_LOG_VERBOSE, "%s: %s, %.2f billion parameters%s, %.2f GB "
            "of weights in all", p->path, m->info.name,
            m->info.parameters / 1e9, m->file2 ? " in each expert" : "",
            m->info.weight_bytes / 1e9);
    if (!shapes)
        wan_dev_say_choice(&choice, &log);
    m->loras = f.loras;
    f.loras = NULL;
    wan_files_free(&f);
    *out = m;
    return 0;
fail:
    wan_files_free(&f);
    wan_model_close(&m);
    return ret;
}

int wan_model_open(WanModel **out, const WanModelParams *p)
{
    return open_parts(out, p, ~0u, 0);
}

int wan_model_open_parts(WanModel **out, const WanModelParams *p,
                         unsigned parts)
{
    return open_parts(out, p, parts, 1);
}

int wan_model_open_shapes(WanModel **out, const char *name,
                          const WanModelParams *p)
{
    WanDitConfig dit;
    WanT5Config t5;
    WanVaeConfig vae;
    WanClipConfig clip;
    WanBinder b = { .plan_type = WAN_BF16 };
    const WanLog log = { p->log, p->log_opaque, p->log_level };
    WanChoice choice;
    WanModel *m = NULL;
    int ret;

    *out = NULL;
    if ((ret = wan_config_named(name, &dit, &t5, &vae, &clip)) < 0 ||
        (ret = check_precision(p, &log)) < 0 ||
        (ret = choose_device(&choice, p, 1, &log)) < 0)
        return ret;
    if (!(m = model_alloc(p, &choice)))
        return WAN_ERR(ENOMEM);
    describe(m, &dit, NULL, name, WAN_EXPERT_NONE);
    b.pool = &m->pool;
    b.log = &m->log;
    b.e4m3 = choose_e4m3(m, p);
    if ((ret = wan_dit_bind(&m->dit, &dit, &b)) >= 0 && dit.experts > 1)
        ret = wan_dit_bind(&m->dit2, &dit, &b);
    b.e4m3 = WAN_E4M3_NONE;
    if (ret < 0 ||
        (ret = wan_t5_bind(&m->t5, &t5, &b)) < 0 ||
        (ret = wan_codec_bind(&m->vae, &vae, 1, &b)) < 0 ||
        (dit.clip_dim && (ret = wan_clip_bind(&m->clip, &clip, &b)) < 0)) {
        wan_model_close(&m);
        return ret;
    }
    m->info.size_multiple = wan_codec_multiple(&m->vae);
    *out = m;
    return 0;
}

int wan_model_probe(const WanModelParams *params)
{
    WanModelParams p;
    WanLog log;
    WanFiles f = { 0 };
    WanChoice choice;
    int ret = take_params(&p, &log, params);

    if (ret >= 0)
        ret = check_params(&choice, &p, &log);
    if (ret >= 0)
        ret = wan_files_find(&f, &p, &log);
    wan_files_free(&f);
    return ret;
}

/* ----------------------------------------------------------------- life */

WanModel *wan_model_ref(WanModel *m)
{
    __atomic_add_fetch(&m->refs, 1, __ATOMIC_RELAXED);
    return m;
}

void wan_model_close(WanModel **mp)
{
    WanModel *m = *mp;

    *mp = NULL;
    if (!m || __atomic_sub_fetch(&m->refs, 1, __ATOMIC_ACQ_REL))
        return;
    wan_cards_close(&m->cards);
    wan_dit_free(&m->dit);
    wan_dit_free(&m->dit2);
    wan_t5_free(&m->t5);
    wan_clip_free(&m->clip);
    wan_tokenizer_close(&m->tokenizer);
    wan_prompts_free(&m->prompts);
    wan_pool_free(&m->pool);
    for (int i = 0; i < 4; i++)
        wan_weights_close(&m->files[i]);
    wan_weights_close(&m->file2);
    free(m->device);
    free(m->given.data);
    free(m->spiece);
    free(m->loras);
    free(m);
}

const WanModelInfo *wan_model_info(const WanModel *m)
{
    return &m->info;
}
