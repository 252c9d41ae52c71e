/*
 * A checkpoint into one file: list its tensors, choose types, write, read back.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "condition.h"
#include "convert.h"
#include "cpu/pool.h"
#include "files.h"
#include "formats/blocks.h"
#include "formats/write.h"

#define PANEL (1 << 22)             // numbers of a panel, at most
#define PANEL_ROWS 4096

/* A tensor, as the model asks for it and as it is written. */
typedef struct Item {
    WanPart part;
    char name[112];                 // official
    int vector, nb_dims;
    int64_t dim[WAN_MAX_DIMS];
    WanSource source;               // stored NULL: of a model without files
    int merged;                     // LoRA files change it
    char written[160];
    WanHeadTensor head;
    uint64_t sum;                   // of its numbers, as they read back
} Item;

typedef struct Work {
    const WanModel *m;
    const int *type;
    WanExpert expert;               // of two the one that is written
    int gguf;
    WanPart part;                   // that is being listed
    WanLora *lora;
    Item *item;
    int count, room, no_memory;
    WanPool pool;                   // of scales
    const void *spiece;             // the tokenizer's bytes: the file's, or own
    char *own;
    WanConvertReport *r;
} Work;

/* A panel that threads share by rows. */
typedef struct Panel {
    const Item *it;
    const float *whole;             // the merged tensor, or NULL: its source
    float *in, *back;               // as meant; as decoded
    uint8_t *out;
    int64_t row, rows;
    struct Row {
        double error, norm;
        uint64_t sum;
        int bad;                    // see row_error()
    } *each;
} Panel;

static const char *const part_name[] = { "transformer", "text encoder", "VAE",
                                         "image encoder" };

/* Parts as bits. */
static unsigned wanted(const int type[WAN_CONVERT_PARTS])
{
    unsigned parts = 0;

    for (int i = 0; i < WAN_CONVERT_PARTS; i++)
        parts |= (unsigned)(type[i] != WAN_CONVERT_NONE) << i;
    return parts;
}

/* ------------------------------------------------------------- the list */

/* As ComfyUI names them in files that hold all parts; official words but for
 * the text encoder, and for CLIP those of its file. */
static const struct {
    const char *prefix;
    WanNaming naming;
} outside[] = {
    [WAN_PART_DIT]  = { "model.diffusion_model.", WAN_NAMES_OFFICIAL },
    [WAN_PART_T5]   = { "text_encoders.umt5xxl.transformer.",
                        WAN_NAMES_DIFFUSERS },
    [WAN_PART_VAE]  = { "vae.", WAN_NAMES_OFFICIAL },
    [WAN_PART_CLIP] = { "clip_vision.", WAN_NAMES_OFFICIAL },
};
static const char spiece_name[] = "text_encoders.spiece_model";

static int is_second(const Work *w, WanPart part)
{
    return part == WAN_PART_DIT && w->expert == WAN_EXPERT_LOW;
}

/* The file that a part is read from, and its words. */
static const WanWeights *weights_of(const Work *w, WanPart part)
{
    return is_second(w, part) ? w->m->file2 : wan_model_weights(w->m, part);
}

static WanNaming naming_of(const Work *w, WanPart part)
{
    return is_second(w, part) ? w->m->naming2 : w->m->naming[part];
}

static WanNaming naming_out(const Work *w, WanPart part)
{
    return part == WAN_PART_CLIP ? w->m->naming[part] : outside[part].naming;
}

static void list_tensor(void *opaque, const char *name, int vector,
                        int nb_dims, const int64_t *dim)
{
    Work *w = opaque;
    const WanNaming naming = naming_out(w, w->part);
    char other[120];
    Item *it;

    if (w->count == w->room) {
        const int room = w->room ? 2 * w->room : 1024;

        it = realloc(w->item, room * sizeof(*it));
        if (!it) {
            w->no_memory = 1;
            return;
        }
        w->item = it;
        w->room = room;
    }
    it = &w->item[w->count++];
    *it = (Item){ .part = w->part, .vector = vector, .nb_dims = nb_dims };
    snprintf(it->name, sizeof(it->name), "%s", name);
    memcpy(it->dim, dim, nb_dims * sizeof(*dim));
    snprintf(it->written, sizeof(it->written), "%s%s", outside[w->part].prefix,
             wan_name_in(naming, w->part, name, other, sizeof(other)));
    memcpy(it->head.dim, it->dim, sizeof(it->dim));
    it->head.nb_dims = wan_stored_dims(naming, w->part, name, nb_dims,
                                       it->head.dim);
}

/* A VAE file may hold the decoder alone. */
static int has_encoder(const WanModel *m)
{
    return !m->files[0] || wan_condition_encodes(m) ||
           wan_codec_has_encoder(&m->vae.config,
                                 wan_model_weights(m, WAN_PART_VAE),
                                 m->naming[WAN_PART_VAE]);
}

/* All tensors of a part, by binding its shapes. Of CLIP with the block that is
 * not run: files have it. */
static int list_part(Work *w, WanPart part)
{
    const WanModel *m = w->m;
    WanPool pool = { 0 };
    WanBinder b = { .part = part, .pool = &pool, .log = &m->log,
                    .naming = m->naming[part], .visit = list_tensor,
                    .visit_opaque = w };
    WanClipConfig whole = m->clip.config;
    WanDit dit = { 0 };
    WanT5 t5 = { 0 };
    WanCodec vae = { 0 };
    WanClip clip = { 0 };
    int ret = 0;

    if (part == WAN_PART_VAE && m->vae.config.family == WAN_VAE_TAEHV)
        return wan_error(&m->log, WAN_ERR(ENOSYS), "%s: a tiny VAE is not "
                         "converted: leave it out (none), and name it where "
                         "it is used", wan_weights_path(wan_model_weights(m,
                         part)));
    w->part = part;
    whole.layers++;
    if (part == WAN_PART_DIT)
        ret = wan_dit_bind(&dit, &m->dit.config, &b);
    else if (part == WAN_PART_T5)
        ret = wan_t5_bind(&t5, &m->t5.config, &b);
    else if (part == WAN_PART_VAE)
        ret = wan_codec_bind(&vae, &m->vae.config, has_encoder(m), &b);
    else if (m->info.clip_dim)
        ret = wan_clip_bind(&clip, &whole, &b);
    wan_dit_free(&dit);
    wan_t5_free(&t5);
    wan_clip_free(&clip);
    wan_pool_free(&pool);
    if (ret >= 0 && w->no_memory)
        ret = wan_error_memory(&m->log, part_name[part], "its tensors");
    return ret;
}

/* Where the tensors of the list are stored, with all that binding checks. */
static int find_sources(Work *w, const WanInterrupt *interrupt)
{
    WanBinder b = { .pool = &w->pool, .log = &w->m->log,
                    .interrupt = interrupt };

    for (int i = 0; i < w->count; i++) {
        Item *it = &w->item[i];

        b.part = it->part;
        b.naming = naming_of(w, it->part);
        b.weights = weights_of(w, it->part);
        if (wan_bind_source(&b, &it->source, it->name, it->vector, it->nb_dims,
                            it->dim) < 0)
            return b.error;
        it->merged = w->lora && it->part == WAN_PART_DIT &&
                     wan_lora_has(w->lora, it->name);
    }
    return 0;
}

static const WanStored *spiece_inside(const WanModel *m)
{
    return m->spiece || !m->tokenizer ? NULL :
           wan_weights_find(wan_model_weights(m, WAN_PART_T5), "spiece_model");
}

/* How many tensors of the files that are read have no place in the list. */
static int count_left(const Work *w)
{
    int left = -(spiece_inside(w->m) != NULL);

    for (int p = 0; p < WAN_CONVERT_PARTS; p++) {
        const WanWeights *file = is_second(w, p) ? w->m->file2
                                                 : w->m->files[p];
        int read = 0;

        for (int q = 0; q < WAN_CONVERT_PARTS; q++)
            read |= w->type[q] != WAN_CONVERT_NONE &&
                    weights_of(w, q) == file;
        if (read && file)
            left += wan_weights_count(file);
    }
    for (int i = 0; i < w->count; i++)
        left -= 1 + (w->item[i].source.scale.nb_dims > 0);
    return left;
}

/* ---------------------------------------------------------------- types */

static int starts(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

/* Is it one of the matrices that types in blocks are for? */
static int in_blocks(const Item *it)
{
    return !it->vector && it->head.nb_dims == 2 &&
           (it->part == WAN_PART_T5 ||
            (it->part == WAN_PART_DIT && (starts(it->name, "blocks.") ||
                                          starts(it->name, "vace_blocks."))) ||
            (it->part == WAN_PART_CLIP &&
             starts(it->name, "visual.transformer.")));
}

/* A type in blocks, or the next of which rows of that length are whole ones;
 * WAN_NB_TYPES: there is none. */
static WanType whole_blocks(WanType type, int64_t cols)
{
    static const WanType smaller[WAN_NB_TYPES] = {
        [WAN_Q2_K] = WAN_Q4_0, [WAN_Q3_K] = WAN_Q4_0, [WAN_Q4_K] = WAN_Q5_0,
        [WAN_Q5_K] = WAN_Q5_1, [WAN_Q6_K] = WAN_Q8_0,
    };

    if (cols % wan_type_block(type) && smaller[type])
        type = smaller[type];
    return cols % wan_type_block(type) ? WAN_NB_TYPES : type;
}

/* The type that it has, if it can stay. */
static WanType kept_type(const Work *w, const Item *it)
{
    const WanType type = it->source.stored ? it->source.stored->type
                                           : WAN_BF16;

    if (type == WAN_F32 || type == WAN_F16)
        return it->source.scale.nb_dims ? WAN_BF16 : type;
    if (wan_type_block(type) == 1)
        return type == WAN_I8 || it->source.scale.nb_dims || w->gguf ||
               it->merged ? WAN_BF16 : type;
    /* what is in blocks, but has no rows of them */
    return it->head.nb_dims == 2 &&
           it->head.dim[1] % wan_type_block(type) == 0 ? type : WAN_F32;
}

static int choose_type(const Work *w, Item *it)
{
    const WanStored *s = it->source.stored;
    const int asked = w->type[it->part];
    const WanType half = !s || s->type == WAN_BF16 ? WAN_BF16 : WAN_F16;
    const int tokens = it->part == WAN_PART_T5 &&
                       !strcmp(it->name, "token_embedding.weight");
    WanType type;

    if (it->vector)
        type = WAN_F32;
    else if (asked == WAN_CONVERT_KEEP)
        type = kept_type(w, it);
    else if (wan_type_block(asked) == 1)
        type = asked;
    else if (!in_blocks(it))
        type = half;
    else if ((type = whole_blocks(tokens && asked != WAN_Q8_0 ? WAN_Q6_K
                                                              : asked,
                                  it->head.dim[1])) == WAN_NB_TYPES)
        type = half;

    it->head.type = type;
    if (in_blocks(it) && asked >= 0 && wan_type_block(asked) > 1 && !tokens)
        w->r->fallen += type != (WanType)asked;
    if (wan_type_block(type) > 1 && !w->gguf)
        return wan_error(&w->m->log, WAN_ERR(EINVAL), "%s: safetensors has no "
                         "type %s, in which the %s's %s is; f32, f16 and bf16 "
                         "can be", s ? s->file : w->m->name,
                         wan_type_name(type), part_name[it->part], it->name);
    if (wan_type_block(type) > 1 && !wan_blocks_encoded(type) &&
        (it->merged || (s && s->type != type)))
        return wan_error(&w->m->log, WAN_ERR(EINVAL), "%s: tensor %s: type %s "
                         "is read, but not written anew", s ? s->file : "",
                         it->name, wan_type_name(type));
    return 0;
}

/* Is it written with the bytes that it has? */
static int is_copied(const Item *it)
{
    return it->source.stored->type == it->head.type && !it->merged &&
           !it->source.scale.nb_dims;
}

int wan_convert_type(int *type, WanPart part, const char *word)
{
    *type = !strcmp(word, "keep") ? WAN_CONVERT_KEEP :
            !strcmp(word, "none") ? WAN_CONVERT_NONE : WAN_NB_TYPES;
    for (int t = 0; t < WAN_NB_TYPES && *type == WAN_NB_TYPES; t++) {
        const char *name = wan_type_name(t);
        size_t n = 0;

        while (word[n] && tolower((unsigned char)word[n]) ==
                          tolower((unsigned char)name[n]))
            n++;
        if (word[n] || name[n])
            continue;
        if (t <= WAN_BF16 || (part != WAN_PART_VAE && wan_blocks_encoded(t)))
            *type = t;
    }
    return *type == WAN_NB_TYPES ? -1 : 0;
}

/* Larger elements first: in safetensors, which has no gaps, so all are
 * aligned. Else the order of the list. */
static int by_size(const void *pa, const void *pb)
{
    const Item *a = pa, *b = pb;
    const int sa = wan_type_block(a->head.type) > 1 ? 1
                                       : wan_type_size(a->head.type);
    const int sb = wan_type_block(b->head.type) > 1 ? 1
                                       : wan_type_size(b->head.type);
    const int parts = (int)a->part - (int)b->part;

    return sa != sb ? sb - sa : parts ? parts : strcmp(a->name, b->name);
}

/* List, find, choose; sizes by part and type go to the report. */
static int plan(Work *w, const WanInterrupt *interrupt)
{
    int ret = 0;

    *w->r = (WanConvertReport){ 0 };
    for (int p = 0; p < WAN_CONVERT_PARTS && ret >= 0; p++)
        if (w->type[p] != WAN_CONVERT_NONE)
            ret = list_part(w, p);
    if (ret >= 0 && w->m->files[0])
        ret = find_sources(w, interrupt);
    for (int i = 0; i < w->count && ret >= 0; i++)
        ret = choose_type(w, &w->item[i]);
    if (ret < 0)
        return ret;
    if (w->m->files[0])
        w->r->left = count_left(w);
    qsort(w->item, w->count, sizeof(*w->item), by_size);
    for (int i = 0; i < w->count; i++) {
        Item *it = &w->item[i];
        WanConvertTally *t = &w->r->tally[it->part][it->head.type];
        int64_t n = 1;

        for (int k = 0; k < it->nb_dims; k++)
            n *= it->dim[k];
        it->head.name = it->written;
        it->head.bytes = wan_type_bytes(it->head.type, n);
        t->tensors++;
        t->bytes += it->head.bytes;
        w->r->bytes += it->head.bytes;
    }
    return 0;
}

static void work_free(Work *w)
{
    free(w->item);
    free(w->own);
    wan_pool_free(&w->pool);
    wan_lora_close(&w->lora);
}

int wan_convert_sizes(WanConvertReport *r, const WanModel *m,
                      const int type[WAN_CONVERT_PARTS])
{
    Work w = { .m = m, .type = type, .gguf = 1, .r = r };
    const int ret = plan(&w, NULL);

    work_free(&w);
    return ret;
}

/* --------------------------------------------------------------- panels */

static int panel_alloc(Panel *p, const Work *w)
{
    int64_t numbers = 0;

    for (int i = 0; i < w->count; i++) {
        const WanSource *s = &w->item[i].source;
        const int64_t rows = PANEL / (s->cols ? s->cols : 1);
        const int64_t n = (rows ? rows : 1) * s->cols;

        if (n > numbers)
            numbers = n;
    }
    *p = (Panel){ .in = malloc((numbers + 1) * sizeof(float)),
                  .back = malloc((numbers + 1) * sizeof(float)),
                  .out = malloc((numbers + 1) * sizeof(float)),
                  .each = malloc(PANEL_ROWS * sizeof(*p->each)) };
    return p->in && p->back && p->out && p->each ? 0 :
           wan_error_memory(&w->m->log, "conversion", "a panel of rows");
}

static void panel_free(Panel *p)
{
    free(p->in);
    free(p->back);
    free(p->out);
    free(p->each);
}

/* The rows of the next panel, from p->row on. */
static int64_t panel_rows(const Panel *p)
{
    const WanSource *s = &p->it->source;
    const int64_t fit = PANEL / (s->cols ? s->cols : 1);
    int64_t n = fit < 1 ? 1 : fit < PANEL_ROWS ? fit : PANEL_ROWS;

    return n < s->rows - p->row ? n : s->rows - p->row;
}

/* Order counts. */
static uint64_t add_sum(uint64_t sum, uint64_t v)
{
    sum = (sum ^ v) * 0x9e3779b97f4a7c15;
    return sum ^ sum >> 29;
}

#define LANES 8                     // that don't wait for each other

static uint64_t sum_row(const float *x, int64_t n)
{
    uint64_t lane[LANES] = { 0 }, sum = n;
    int64_t i = 0;
    uint32_t u;

    for (; i + 2 * LANES <= n; i += 2 * LANES)
        for (int k = 0; k < LANES; k++) {
            uint64_t two;

            memcpy(&two, x + i + 2 * k, sizeof(two));
            lane[k] = add_sum(lane[k], two);
        }
    for (int k = 0; k < LANES; k++)
        sum = add_sum(sum, lane[k]);
    for (; i < n; i++) {
        memcpy(&u, x + i, sizeof(u));
        sum = add_sum(sum, u);
    }
    return sum;
}

/* sum (a - b)^2, b NULL: sum a^2, in one order on every machine. */
static double squares(const float *a, const float *b, int64_t n)
{
    double lane[LANES] = { 0 }, sum = 0;
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            const double e = b ? (double)a[i + k] - b[i + k] : a[i + k];

            lane[k] += e * e;
        }
    for (; i < n; i++) {
        const double e = b ? (double)a[i] - b[i] : a[i];

        sum += e * e;
    }
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}

enum { FINE, NOT_FINITE, NO_PLACE };

/* Row i of a panel: read, encode, decode, compare. */
static void encode_row(void *arg, int64_t i, int worker)
{
    const Panel *p = arg;
    const Item *it = p->it;
    const WanSource *s = &it->source;
    const int64_t n = s->cols, row = p->row + i;
    const WanType type = it->head.type;
    float *back = p->back + i * n;
    uint8_t *out = p->out + wan_type_bytes(type, n) * i;
    struct Row *r = &p->each[i];
    const float *in = p->whole ? p->whole + row * n : p->in + i * n;

    (void)worker;
    *r = (struct Row){ .bad = FINE };
    if (!p->whole)
        wan_source_rows(p->in + i * n, s, row, 1);
    if (is_copied(it))
        memcpy(out, (const uint8_t *)s->stored->data +
                    wan_type_bytes(type, row * n), wan_type_bytes(type, n));
    for (int64_t k = 0; k < n; k++)
        if (!isfinite(in[k]))
            r->bad = NOT_FINITE;
    if (r->bad)
        return;
    if (!is_copied(it))
        wan_from_f32(out, type, in, n);
    wan_to_f32(back, out, type, n, 1);
    r->error = squares(back, in, n);
    r->norm = squares(in, NULL, n);
    if (!isfinite(r->error))
        r->bad = NO_PLACE;
    r->sum = sum_row(back, n);
}

/* Row i of a tensor that was written. */
static void check_row(void *arg, int64_t i, int worker)
{
    const Panel *p = arg;
    const int64_t n = p->it->source.cols;

    (void)worker;
    wan_source_rows(p->back + i * n, &p->it->source, p->row + i, 1);
    p->each[i].sum = sum_row(p->back + i * n, n);
}

static int row_error(const Work *w, const Item *it, int64_t row, int bad)
{
    const char *file = it->source.stored->file;

    if (bad == NOT_FINITE)
        return wan_error(&w->m->log, WAN_ERR(EDOM), "%s: tensor %s, row %lld: "
                         "a number that is not finite", file, it->name,
                         (long long)row);
    return wan_error(&w->m->log, WAN_ERR(EDOM), "%s: tensor %s, row %lld: "
                     "numbers too large for %s; bf16 or f32 can be", file,
                     it->name, (long long)row, wan_type_name(it->head.type));
}

/* -------------------------------------------------------------- writing */

/* A tensor with the differences of LoRA files, all of it: free() it. */
static int merge(float **out, Work *w, const Item *it,
                 const WanInterrupt *interrupt)
{
    const WanSource *s = &it->source;
    const int64_t n = s->rows * s->cols;
    const int64_t rows = it->nb_dims > 1 ? it->dim[0] : 1;

    *out = malloc(n * sizeof(**out));
    if (!*out)
        return wan_error_memory(&w->m->log, s->stored->file, it->name);
    wan_source_rows(*out, s, 0, s->rows);
    return wan_lora_merge(w->lora, it->name, *out, rows, n / rows, interrupt,
                          &w->m->log);
}

static int write_tensor(WanOut *o, Work *w, Item *it, Panel *p, int threads,
                        const WanInterrupt *interrupt)
{
    WanConvertTally *t = &w->r->tally[it->part][it->head.type];
    float *whole = NULL;
    int ret = wan_out_pad(o, it->head.offset);

    if (ret >= 0 && it->merged)
        ret = merge(&whole, w, it, interrupt);
    p->it = it;
    p->whole = whole;
    for (p->row = 0; ret >= 0 && p->row < it->source.rows; p->row += p->rows) {
        p->rows = panel_rows(p);
        if (wan_interrupted(interrupt)) {
            ret = WAN_CANCELLED;
            break;
        }
        wan_cpu_pool_run(threads, p->rows, NULL, encode_row, p);
        for (int64_t i = 0; i < p->rows && ret >= 0; i++) {
            if (p->each[i].bad)
                ret = row_error(w, it, p->row + i, p->each[i].bad);
            t->error += p->each[i].error;
            t->norm += p->each[i].norm;
            it->sum = add_sum(it->sum, p->each[i].sum);
        }
        if (ret >= 0)
            ret = wan_out_put(o, p->out,
                              wan_type_bytes(it->head.type,
                                             p->rows * it->source.cols));
    }
    free(whole);
    wan_weights_forget(weights_of(w, it->part), it->source.stored);
    return ret;
}

static int read_spiece(Work *w)
{
    const WanStored *inside = spiece_inside(w->m);
    size_t bytes = 0;
    int ret = 0;

    if (w->type[WAN_PART_T5] == WAN_CONVERT_NONE)
        return 0;
    if (inside) {
        w->spiece = inside->data;
        bytes = (size_t)inside->bytes;
    } else if (w->m->spiece) {
        ret = wan_read_file(&w->own, &bytes, w->m->spiece, 64 << 20,
                            &w->m->log);
        w->spiece = w->own;
    }
    w->r->tokenizer = ret < 0 ? 0 : (int64_t)bytes;
    return ret;
}

/* The head, and each tensor's place in the file; the tokenizer is the last
 * one, *spiece says where. */
static int make_head(WanBytes *b, WanHeadTensor *spiece, Work *w)
{
    WanHeadTensor *t = calloc(w->count + 1, sizeof(*t));
    WanBytes config = { 0 };
    WanHeadKey keys[] = {
        { "general.architecture", "wan" }, { "general.name", w->m->name },
        { WAN_CONFIG_KEY, NULL },
    };
    const int first = w->gguf ? 0 : 2;
    int n = w->count, ret = WAN_ERR(ENOMEM);

    wan_config_text(&config, &w->m->dit.config, &w->m->info);
    wan_put(&config, "", 1);
    if (t && !config.failed) {
        keys[2].text = (const char *)config.data;
        for (int i = 0; i < n; i++)
            t[i] = w->item[i].head;
        if (w->r->tokenizer)
            t[n++] = (WanHeadTensor){ .name = spiece_name,
                                      .type = w->gguf ? WAN_I8 : WAN_U8,
                                      .nb_dims = 1,
                                      .dim = { w->r->tokenizer } };
        ret = (w->gguf ? wan_gguf_head : wan_safetensors_head)
              (b, t, n, keys + first, 3 - first);
        for (int i = 0; i < w->count; i++)
            w->item[i].head = t[i];
        *spiece = t[w->count];
    }
    free(t);
    free(config.data);
    return ret < 0 || b->failed ? wan_error_memory(&w->m->log, w->m->name,
                                                   "the head of its file") : 0;
}

static int write_all(WanOut *o, Work *w, const WanConvert *c, Panel *p,
                     int threads, const WanInterrupt *interrupt)
{
    WanHeadTensor spiece = { 0 };
    WanBytes head = { 0 };
    int64_t size;
    int ret;

    if ((ret = read_spiece(w)) < 0 ||
        (ret = make_head(&head, &spiece, w)) < 0)
        goto end;
    size = w->r->tokenizer ? spiece.offset + spiece.bytes : 0;
    for (int i = 0; i < w->count; i++)
        if (w->item[i].head.offset + w->item[i].head.bytes > size)
            size = w->item[i].head.offset + w->item[i].head.bytes;
    w->r->bytes = size;
    if (c->dry)
        goto end;
    if ((ret = wan_out_space(o, size)) < 0 ||
        (ret = wan_out_put(o, head.data, head.n)) < 0)
        goto end;
    for (int i = 0; i < w->count && ret >= 0; i++) {
        ret = write_tensor(o, w, &w->item[i], p, threads, interrupt);
        if (c->progress)
            c->progress(c->progress_opaque, (double)o->pos / (double)size);
    }
    if (ret >= 0 && w->lora)
        ret = wan_lora_end(w->lora, &w->m->log);
    if (ret >= 0 && w->r->tokenizer &&
        (ret = wan_out_pad(o, spiece.offset)) >= 0)
        ret = wan_out_put(o, w->spiece, spiece.bytes);
    if (ret >= 0)
        ret = wan_out_sync(o);
end:
    free(head.data);
    return ret;
}

/* --------------------------------------------------------- reading back */

static int differs(const Work *w, const WanOut *o, const char *what)
{
    return wan_error(&w->m->log, WAN_ERR(EIO), "%s: %s reads back differently "
                     "from what was written", o->part, what);
}

/* The file opens as a model, which has the same numbers. */
static int check_model(const WanOut *o, const Work *w, const WanConvert *c)
{
    const WanModelInfo *was = &w->m->info, *is;
    WanDitConfig config = w->m->dit.config;
    WanModelParams params = *c->model;
    WanModel *m;
    int ret;

    config.experts = 1;                 // the file has one
    params.path = o->part;
    params.text_encoder = params.vae = params.clip = params.tokenizer = NULL;
    params.lora = params.model2 = NULL;
    params.log_level = WAN_LOG_ERROR;   // warnings were told
    if ((ret = wan_model_open_parts(&m, &params, wanted(w->type))) < 0)
        return ret;
    is = &m->info;
    if (memcmp(&m->dit.config, &config, sizeof(config)) ||
        is->width != was->width || is->height != was->height ||
        is->frames != was->frames || is->steps != was->steps ||
        is->guidance != was->guidance || is->shift != was->shift)
        ret = differs(w, o, WAN_CONFIG_KEY);
    wan_model_close(&m);
    return ret;
}

/* A tensor by the model's own name for it, as the binder b finds it. */
static int check_tensor(const WanOut *o, const Work *w, const Item *written,
                        WanBinder *b, Panel *p, int threads,
                        const WanInterrupt *interrupt)
{
    Item it = *written;
    uint64_t sum = 0;

    if (wan_bind_source(b, &it.source, it.name, it.vector, it.nb_dims,
                        it.dim) < 0)
        return b->error;
    if (it.source.stored->type != it.head.type || it.source.scale.nb_dims ||
        it.source.stored->nb_dims != it.head.nb_dims ||
        memcmp(it.source.stored->dim, it.head.dim,
               it.head.nb_dims * sizeof(*it.head.dim)))
        return differs(w, o, it.written);
    it.source.rows = written->source.rows;      // those that were summed up
    it.source.cols = written->source.cols;
    p->it = &it;
    for (p->row = 0; p->row < it.source.rows; p->row += p->rows) {
        p->rows = panel_rows(p);
        if (wan_interrupted(interrupt))
            return WAN_CANCELLED;
        wan_cpu_pool_run(threads, p->rows, NULL, check_row, p);
        for (int64_t i = 0; i < p->rows; i++)
            sum = add_sum(sum, p->each[i].sum);
    }
    wan_weights_forget(b->weights, it.source.stored);
    return sum == it.sum ? 0 : differs(w, o, it.written);
}

/* Whoever opens the file finds what was meant: by the model's own names, with
 * types and shapes, and every number. */
static int check_written(const WanOut *o, Work *w, const WanConvert *c,
                         Panel *p, int threads, const WanInterrupt *interrupt)
{
    WanBinder b = { .pool = &w->pool, .log = &w->m->log };
    const WanStored *spiece;
    WanWeights *file;
    int ret;

    if ((ret = wan_weights_open(&file, o->part, &w->m->log)) < 0)
        return ret;
    b.weights = file;
    for (int i = 0; i < w->count && ret >= 0; i++) {
        b.part = w->item[i].part;
        b.naming = naming_out(w, b.part);
        ret = check_tensor(o, w, &w->item[i], &b, p, threads, interrupt);
    }
    spiece = wan_weights_find(file, "spiece_model");
    if (ret >= 0 && w->r->tokenizer &&
        (!spiece || spiece->bytes != w->r->tokenizer ||
         memcmp(spiece->data, w->spiece, spiece->bytes)))
        ret = differs(w, o, spiece_name);
    wan_weights_close(&file);
    /* without the transformer it is no model yet */
    return ret < 0 || c->type[WAN_PART_DIT] == WAN_CONVERT_NONE
           ? ret : check_model(o, w, c);
}

/* ----------------------------------------------------------------- all */

static int ends(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);

    return n > k && !strcmp(s + n - k, end);
}

static int check_params(const WanConvert *c, int gguf, const WanLog *log)
{
    if (!gguf && !ends(c->out, ".safetensors"))
        return wan_error(log, WAN_ERR(EINVAL), "%s: a name that ends in .gguf "
                         "or .safetensors can be", c->out);
    for (int i = 0; i < WAN_CONVERT_PARTS && !gguf; i++)
        if (c->type[i] >= 0 && wan_type_block(c->type[i]) > 1)
            return wan_error(log, WAN_ERR(EINVAL), "%s: safetensors has no "
                             "type %s; a name that ends in .gguf can be",
                             c->out, wan_type_name(c->type[i]));
    return 0;
}

static int open_source(WanModel **m, Work *w, const WanConvert *c,
                       const WanLog *log)
{
    const unsigned parts = wanted(c->type);
    const int lora = c->model->lora && *c->model->lora;
    const char *slash = strrchr(c->out, '/');
    int ret;

    if (!parts)
        return wan_error(log, WAN_ERR(EINVAL), "%s: no part is wanted",
                         c->out);
    if (lora && !(parts & 1 << WAN_PART_DIT))
        return wan_error(log, WAN_ERR(EINVAL), "option lora: the transformer "
                         "is not wanted");
    ret = wan_model_open_parts(m, c->model, parts);
    if (ret >= 0 && (*m)->info.experts > 1 && parts & 1 << WAN_PART_DIT &&
        !(w->expert = wan_expert_word(slash ? slash + 1 : c->out)))
        return wan_error(log, WAN_ERR(EINVAL), "%s: the model has two experts, "
                         "and a file holds one: high_noise or low_noise in "
                         "its name says which", c->out);
    if (ret < 0 || !lora)
        return ret;
    return wan_lora_open(&w->lora, c->model->lora, (*m)->loras, w->expert,
                         wan_dev_threads(c->model->threads), log);
}

/* The other parts lie beside the high-noise expert. */
static void choose_parts(Work *w, int type[WAN_CONVERT_PARTS])
{
    for (int i = 0; i < WAN_CONVERT_PARTS; i++)
        if (w->expert == WAN_EXPERT_LOW && i != WAN_PART_DIT)
            type[i] = WAN_CONVERT_NONE;
    w->type = type;
}

int wan_convert(WanConvertReport *r, const WanConvert *c)
{
    const WanLog log = { c->model->log, c->model->log_opaque,
                         c->model->log_level };
    const WanInterrupt interrupt = { c->model->interrupted,
                                     c->model->interrupted_opaque };
    const int threads = wan_dev_threads(c->model->threads);
    Work w = { .gguf = ends(c->out, ".gguf"), .r = r };
    int type[WAN_CONVERT_PARTS];
    WanOut o = { .fd = -1 };
    WanModel *m = NULL;
    Panel p = { 0 };
    int ret;

    if ((ret = check_params(c, w.gguf, &log)) < 0)
        return ret;
    wan_cpu_pool_open(threads, &log);
    if ((!c->dry && (ret = wan_out_open(&o, c->out, &log)) < 0) ||
        (ret = open_source(&m, &w, c, &log)) < 0)
        goto end;
    w.m = m;
    memcpy(type, c->type, sizeof(type));
    choose_parts(&w, type);
    if ((ret = plan(&w, &interrupt)) < 0 ||
        (ret = panel_alloc(&p, &w)) < 0 ||
        (ret = write_all(&o, &w, c, &p, threads, &interrupt)) < 0 || c->dry ||
        (ret = check_written(&o, &w, c, &p, threads, &interrupt)) < 0)
        goto end;
    ret = wan_out_finish(&o);
end:
    wan_out_close(&o);
    panel_free(&p);
    work_free(&w);
    wan_model_close(&m);
    wan_cpu_pool_close();
    return ret;
}
