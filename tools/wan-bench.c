/*
 * wan-bench: what each op of a full-size model takes, beside the ceilings of
 * the same device in the same run.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Weights are random numbers made on the device, one block's for all blocks,
 * so that no checkpoint is needed and the largest model fits. Results are
 * numbers nobody looks at; times are those of a real run, as no op's time
 * depends on what it computes.
 *
 * The table waits after each op, which adds some microseconds to it; the
 * lines 'whole' do not.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../wan/codec.h"
#include "../wan/dit.h"
#include "../wan/kvcache.h"
#include "../wan/t5.h"
#include "bench_cache.h"

#define TOOL "wan-bench"
#include "tool.h"

#define TOKENS 128                      // of a prompt
#define CAUSAL 3                        // latent frames of a causal block

static const char usage_text[] =
"usage: wan-bench [options]\n"
"       wan-bench --clip=MODEL [options]\n"
"\n"
"  --device=NAME   cuda, cuda:N, cpu [auto]\n"
"  --precision=P   of products: auto, f32, bf16, int8 [auto]\n"
"  --model=NAME    t2v-1.3B, t2v-14B, i2v-14B, ti2v-5B, t2v-a14b, i2v-a14b\n"
"                  (either expert's step), vace-1.3B, vace-14B [t2v-1.3B]\n"
"  --size=WxH      [832x480]\n"
"  --frames=N      4n+1 [81]\n"
"  --blocks=N      blocks of the transformer that are run [all]\n"
"  --window=N      a step as causal models make it: 3 latent frames, one branch,\n"
"                  that look back on N of them\n"
"  --stages=LIST   of text,step,decode [text,step,decode]\n"
"  --repeat=N      times a whole stage is timed [3]\n"
"  --op-by-op      launch each op by itself: no CUDA graphs\n"
"  --tune          time what libraries suggest for each shape, take the best\n"
"  --fp8           the transformer's blocks in e4m3\n"
"\n"
"  --clip=MODEL    a text-to-video checkpoint: make a clip without and with each\n"
"                  cache, and compare; with --device, --precision, --size,\n"
"                  --frames\n"
"  --cache=LIST    of easy and mag, each with :THRESHOLD or not\n"
"                  [easy,easy:0.1,easy:0.2]\n"
"  --cache-table=F for mag: a table of wan-info --calibrate\n"
"  --prompt=TEXT   [a ball bounces]\n"
"  --steps=N       [the model's]\n";

typedef struct Options {
    const char *device, *model, *stages;
    enum WanPrecision precision;
    int width, height, frames, blocks, window, repeat, op_by_op, tune, fp8;
    BenchClip clip;
} Options;

/* ------------------------------------------------------- random weights */

/* A tensor of one block stands for those of all. */
typedef struct Place {
    char name[96];
    void *data;
} Place;

typedef struct Places {
    WanDev *d;
    Place place[1024];
    int nb;
    WanTensor noise;                    // f32, a stretch to copy from
    int plan;
    int e4m3;                           // what lies in blocks is
} Places;

/* The same name without its block's number. */
static void generic(char *dst, size_t size, const char *name)
{
    size_t n = 0;

    for (; *name && n + 1 < size; name++)
        if (!strncmp(name, "blocks.", 7)) {
            n += snprintf(dst + n, size - n, "blocks.*");
            name += 7;
            while (name[1] >= '0' && name[1] <= '9')
                name++;
        } else {
            dst[n++] = *name;
        }
    dst[n < size ? n : size - 1] = 0;
}

/* Of numbers from 2^-5 to 2^-3: words of four, as no op writes e4m3. */
static void fill_e4m3(Places *p, WanTensor *t)
{
    static uint32_t word[1 << 18];
    const int64_t n = wan_count(t) / 4, most = 1 << 18;

    for (uint32_t i = 0, r = 1; i < 1 << 18; i++) {
        r = r * 1664525 + 1013904223;
        word[i] = (r >> 3 & 0x8f8f8f8f) | 0x10101010;
    }
    for (int64_t i = 0; i < n; i += most) {
        WanTensor to = wan_tensor_of((char *)t->data + 4 * i, WAN_F32,
                                     n - i < most ? n - i : most);

        wan_op_upload(p->d, &to, (const float *)word);
    }
}

static void fill_random(Places *p, WanTensor *t)
{
    const int64_t n = wan_count(t), step = wan_count(&p->noise);

    for (int64_t i = 0; i < n; i += step) {
        const int64_t m = n - i < step ? n - i : step;
        WanTensor to = wan_tensor_of((char *)t->data +
                                     i * wan_type_size(t->type), t->type, m);
        const WanTensor from = wan_slice(&p->noise, 0, m);

        wan_op_copy(p->d, &to, &from);
    }
}

static const Place *find(const Places *p, const char *key)
{
    for (int i = 0; i < p->nb; i++)
        if (!strcmp(p->place[i].name, key))
            return &p->place[i];
    return NULL;
}

/* 0, 1 or 2 for what is Q's, K's or V's of an attention, and then its name
 * becomes Q's; else -1. */
static int qkv(char *name)
{
    static const char before[] = "attn.";
    char *letter = strstr(name, before);
    const char *which = NULL;

    if (letter && letter[sizeof(before) - 1] && letter[sizeof(before)] == '.')
        which = strchr("qkv", *(letter += sizeof(before) - 1));
    if (!which)
        return -1;
    *letter = 'q';
    return which[1] == 'k' ? 0 : which[1] ? 1 : 2;
}

/* Memory of the arena for what is bound; where F32 meets it, F32. Q, K and V
 * lie one behind the other, as one product takes them. */
static void *place(void *opaque, const char *name, WanType *type,
                   int64_t count)
{
    Places *p = opaque;
    char key[96];
    const Place *have;
    WanTensor t;
    int part;

    if (*type != WAN_F32 && p->e4m3 && !strncmp(name, "blocks.", 7))
        *type = WAN_F8_E4M3;
    else if (*type != WAN_F32)
        *type = strstr(name, "time_") || !strncmp(name, "head.", 5) ||
                !strncmp(name, "conv", 4) ? WAN_F32 : p->d->backend->act;
    generic(key, sizeof(key), name);
    part = qkv(key);
    have = find(p, key);
    if (have && part > 0 && have->data)
        return (char *)have->data + part * count * wan_type_size(*type);
    if (have)
        return have->data;
    if (!strcmp(key, "token_embedding.weight"))
        return NULL;                    // stays on the host: not timed
    t = wan_tmp_type(p->d, *type, part < 0 ? count : 3 * count);
    if (!p->plan && *type == WAN_F8_E4M3)
        fill_e4m3(p, &t);
    else if (!p->plan)
        fill_random(p, &t);
    if (p->nb < 1024) {
        snprintf(p->place[p->nb].name, sizeof(key), "%s", key);
        p->place[p->nb++].data = t.data;
    }
    return t.data;
}

/* ---------------------------------------------------------------- times */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* A line of the table: ops of one kind and shape. */
typedef struct Row {
    char line[160];
    int count;
    double seconds, flops, bytes;
} Row;

#define ROWS 512

typedef struct Table {
    WanDev *d;
    Row row[ROWS];
    int nb, running;                    // -1: none
    double start, flops, bytes;         // when it began
} Table;

static void close_row(Table *t)
{
    wan_dev_wait(t->d);
    if (t->running < 0)
        return;
    Row *r = &t->row[t->running];

    r->seconds += now() - t->start;
    r->flops += t->d->flops - t->flops;
    r->count++;
    t->running = -1;
}

/* Called as each op begins: the one before is over when the device waits. The
 * new one's bytes are counted already, its work is not. */
static void on_line(void *opaque, const char *line)
{
    Table *t = opaque;
    int i = 0;

    close_row(t);
    if (*line == '#')
        return;
    while (i < t->nb && strcmp(t->row[i].line, line))
        i++;
    if (i == ROWS)
        return;
    if (i == t->nb) {
        t->row[t->nb++] = (Row){ 0 };
        snprintf(t->row[i].line, sizeof(t->row[i].line), "%s", line);
    }
    t->row[i].bytes += t->d->bytes - t->bytes;
    t->running = i;
    t->flops = t->d->flops;
    t->bytes = t->d->bytes;
    t->start = now();
}

/* ------------------------------------------------------------- ceilings */

typedef struct Ceilings {
    double flops, bytes;                // a second
} Ceilings;

static Ceilings measure(WanDev *d, const WanTensor *noise)
{
    const int gpu = d->backend->device;
    const int64_t n = gpu ? 8192 : 1024, words = gpu ? 1 << 28 : 1 << 24;
    const WanMark mark = wan_mark(d);
    WanTensor x = wan_tmp_act(d, n, n), y = wan_tmp_act(d, n, n);
    WanTensor w = wan_tmp_act(d, n, n);
    const WanLinear l = { .weight = w };
    Ceilings c = { 0, 0 };
    double start = 0;
    Places p = { .d = d, .noise = *noise };

    fill_random(&p, &x);
    fill_random(&p, &w);
    for (int i = 0; i < 13 && !wan_dev_error(d); i++) {
        if (i == 3) {
            wan_dev_wait(d);
            start = now();
        }
        wan_op_linear(d, &y, &x, &l);
    }
    wan_dev_wait(d);
    c.flops = 10 * 2.0 * n * n * n / (now() - start);
    wan_release(d, mark);

    WanTensor from = wan_tmp(d, words), to = wan_tmp(d, words);

    for (int i = 0; i < 13 && !wan_dev_error(d); i++) {
        if (i == 3) {
            wan_dev_wait(d);
            start = now();
        }
        wan_op_copy(d, &to, &from);
    }
    wan_dev_wait(d);
    c.bytes = 10 * 8.0 * words / (now() - start);
    wan_release(d, mark);
    return c;
}

/* --------------------------------------------------------------- stages */

typedef struct Bench {
    Options o;
    WanDev *d;
    WanDit dit;
    WanKvCache past;                // with --window, all of it in use
    WanT5 t5;
    const WanCodecFamily *codec;    // of the model's VAE, bound or not
    WanCodec vae;
    WanPool pool;
    Table table;
    Ceilings top;
} Bench;

static int by_time(const void *a, const void *b)
{
    const double x = ((const Row *)a)->seconds, y = ((const Row *)b)->seconds;

    return x < y ? 1 : x > y ? -1 : 0;
}

static void print_table(Bench *b, const char *stage)
{
    Table *t = &b->table;
    double sum = 0;

    qsort(t->row, t->nb, sizeof(t->row[0]), by_time);
    for (int i = 0; i < t->nb; i++)
        sum += t->row[i].seconds;
    printf("\n%s, op by op\n   ms each  count  share   TFLOP/s    %%     GB/s"
           "    %%  op\n", stage);
    for (int i = 0; i < t->nb; i++) {
        const Row *r = &t->row[i];

        if (r->seconds < sum * 0.002)
            break;
        printf("%10.3f %6d %5.1f%% %9.1f %4.0f %8.0f %4.0f  %s\n",
               r->seconds / r->count * 1e3, r->count, 100 * r->seconds / sum,
               r->flops / r->seconds / 1e12,
               100 * r->flops / r->seconds / b->top.flops,
               r->bytes / r->seconds / 1e9,
               100 * r->bytes / r->seconds / b->top.bytes, r->line);
    }
    printf("%10.3f ms in all\n", sum * 1e3);
    t->nb = 0;
}

/* Twice to warm up, as what is repeated may be recorded the second time; once
 * with a look at each op, then whole, the median. */
static void run(Bench *b, const char *stage, void (*fn)(Bench *b))
{
    const WanMark mark = wan_mark(b->d);
    double time[16] = { 0 }, flops = 0;
    const int n = b->o.repeat;

    for (int i = -3; i < n && !wan_dev_error(b->d); i++) {
        if (i == -1) {
            b->table.running = -1;
            b->table.bytes = b->d->bytes;
            b->d->trace = on_line;
            b->d->trace_opaque = &b->table;
        }
        flops = b->d->flops;
        const double start = now();
        fn(b);
        wan_release(b->d, mark);
        if (i == -1)
            on_line(&b->table, "#");
        b->d->trace = NULL;
        wan_dev_wait(b->d);
        if (i >= 0)
            time[i] = now() - start;
        flops = b->d->flops - flops;
    }
    if (wan_dev_error(b->d))
        return;
    print_table(b, stage);
    for (int i = 1; i < n; i++)         // a few: insertion
        for (int k = i; k > 0 && time[k] < time[k - 1]; k--) {
            const double t = time[k];

            time[k] = time[k - 1], time[k - 1] = t;
        }
    printf("%s whole: %.3f ms, %.1f TFLOP, %.1f TFLOP/s (%.0f %% of the "
           "product's)\n", stage, time[n / 2] * 1e3, flops / 1e12,
           flops / time[n / 2] / 1e12,
           100 * flops / time[n / 2] / b->top.flops);
    fflush(stdout);
}

static void text(Bench *b)
{
    const int32_t ids[TOKENS] = { 0 }, *const prompt = ids;
    WanTensor y = wan_tmp(b->d, TOKENS, b->t5.config.dim);
    WanT5 m = b->t5;
    /* The table of the vocabulary is not there: a row is enough. */
    float *row = calloc(m.config.dim, sizeof(*row));

    m.token_embedding = wan_tensor_of(row, WAN_F32, 1, m.config.dim);
    if (row)
        wan_t5_encode(b->d, 1, &y, &m, &prompt);
    wan_dev_wait(b->d);
    free(row);
}

/* Both branches of a guided step; the one of a causal step. */
static void step(Bench *b)
{
    const WanDitConfig *c = &b->dit.config;
    const int64_t T = b->o.window ? CAUSAL : (b->o.frames - 1) / 4 + 1;
    const int n = b->o.window ? 1 : 2;
    const int64_t h = b->o.height / b->codec->stride;
    const int64_t w = b->o.width / b->codec->stride;
    WanDev *d = b->d;
    WanTensor x = wan_tmp(d, c->in_dim, T, h, w);
    WanTensor v[2] = { wan_tmp(d, c->out_dim, T, h, w),
                       wan_tmp(d, c->out_dim, T, h, w) };
    WanTensor prompt = wan_tmp(d, TOKENS, c->text_dim), clip;
    WanDitContext ctx[2], image;
    WanDitVace vace;
    WanDitTime time;
    WanRope rope;

    wan_op_noise(d, &x, WAN_RNG_CUDA, 1, 270336);
    wan_op_noise(d, &prompt, WAN_RNG_CUDA, 2, 270336);
    for (int i = 0; i < n; i++)
        wan_dit_text(d, &ctx[i], &b->dit, &prompt);
    if (c->clip_dim) {
        clip = wan_tmp(d, 257, c->clip_dim);
        wan_op_noise(d, &clip, WAN_RNG_CUDA, 3, 270336);
        wan_dit_image(d, &image, &b->dit, &clip);
    }
    if (c->nb_vace) {
        vace.context = wan_tmp(d, WAN_VACE_CHANNELS, T, h, w);
        vace.scale = wan_tmp(d, c->dim);
        wan_op_noise(d, &vace.context, WAN_RNG_CUDA, 5, 270336);
        wan_op_fill(d, &vace.scale, 1);
    }
    wan_dit_rope(d, &rope, c, (int)T, (int)h / 2, (int)w / 2);
    wan_dit_time(d, &time, &b->dit, 500);
    wan_dit_forward(d, v, n, &(WanDitInput){ &b->dit, &x, &time, ctx,
                                             c->clip_dim ? &image : NULL,
                                             .rope = &rope, .vace = &vace,
                                             .nb_vace = c->nb_vace > 0,
                                             .past = b->o.window ? &b->past : NULL });
}

static void decode(Bench *b)
{
    const int64_t h = b->o.height / b->codec->stride;
    const int64_t w = b->o.width / b->codec->stride;
    WanDev *d = b->d;
    WanTensor z = wan_tmp(d, b->codec->channels, 3, h, w);
    WanTensor rgb = wan_tmp(d, 4, b->o.height, b->o.width, 3);
    WanCodecStream s;

    wan_op_noise(d, &z, WAN_RNG_CUDA, 4, 270336);
    wan_codec_begin_decode(d, &s, &b->vae, h, w);
    for (int t = 0; t < 3; t++) {
        WanTensor part = wan_slice(&rgb, 0, t ? 4 : 1);

        wan_codec_decode(d, &part, &b->vae, &s, &z);
    }
}

/* Keys and values of all layers, as many frames as are looked back on. */
static void look_back(Bench *b, Places *p)
{
    const int side = 2 * b->codec->stride;

    wan_kvcache_init(&b->past, b->o.window, 0, (int64_t)(b->o.width / side) *
                     (b->o.height / side));
    wan_kvcache_reserve(&b->past, b->d, b->dit.config.layers,
                        b->dit.config.heads, b->dit.config.dim);
    for (int64_t i = 0; i <= b->o.window; i += CAUSAL)
        wan_kvcache_place(&b->past, i, CAUSAL);
    if (!p->plan) {
        fill_random(p, &b->past.k);
        fill_random(p, &b->past.v);
    }
}

static int wanted(const Bench *b, const char *stage)
{
    return strstr(b->o.stages, stage) != NULL;
}

/* Everything that takes memory, for the plan and for real. */
static int load(Bench *b, int plan)
{
    WanDitConfig dit;
    WanT5Config t5;
    WanVaeConfig vae;
    WanClipConfig clip;
    static Places p;
    WanBinder binder = { .plan_type = WAN_BF16, .pool = &b->pool,
                         .place = place, .place_opaque = &p };

    if (wan_config_named(b->o.model, &dit, &t5, &vae, &clip) < 0)
        return usage("--model %s: t2v-1.3B, t2v-14B, i2v-14B, ti2v-5B, t2v-a14b, "
                     "i2v-a14b, vace-1.3B or vace-14B can be", b->o.model);
    b->codec = wan_codec_family(vae.family);
    if (b->o.width % (2 * b->codec->stride) ||
        b->o.height % (2 * b->codec->stride))
        return usage("--size %dx%d: %s takes multiples of %d", b->o.width,
                     b->o.height, b->o.model, 2 * b->codec->stride);
    if (b->o.window && (b->o.window < CAUSAL || dit.nb_vace || dit.clip_dim))
        return usage("--window %d: %d or more, of a text-to-video model, can be",
                     b->o.window, CAUSAL);
    if (b->o.blocks > 0 && b->o.blocks < dit.layers)
        wan_config_cut(&dit, b->o.blocks);
    p = (Places){ .d = b->d, .plan = plan };
    p.noise = wan_tmp(b->d, b->d->backend->device ? 1 << 26 : 1 << 20);
    if (!plan) {
        const WanTensor *in[] = { &p.noise };

        wan_op_noise(b->d, &p.noise, WAN_RNG_CUDA, 7, 270336);
        wan_op_lincomb(b->d, &p.noise, 1, (double[]){ 0.02 }, in);
        b->top = measure(b->d, &p.noise);
    }
    binder.part = WAN_PART_T5;
    if (wanted(b, "text"))
        wan_t5_bind(&b->t5, &t5, &binder);
    binder.part = WAN_PART_DIT;
    binder.e4m3 = WAN_E4M3_STORED;
    p.e4m3 = b->o.fp8;
    p.nb = 0;
    if (wanted(b, "step"))
        wan_dit_bind(&b->dit, &dit, &binder);
    p.e4m3 = 0;
    if (wanted(b, "step") && b->o.window)
        look_back(b, &p);
    binder.part = WAN_PART_VAE;
    p.nb = 0;
    if (wanted(b, "decode"))
        wan_codec_bind(&b->vae, &vae, 0, &binder);
    return wan_dev_error(b->d) || binder.error ? 1 : 0;
}

static void unload(Bench *b)
{
    wan_t5_free(&b->t5);
    wan_dit_free(&b->dit);
}

static void print_log(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque, (void)level;
    fprintf(stderr, "wan-bench: %s\n", line);
}

static int bench(const Options *o)
{
    static Bench b;
    const WanLog log = { print_log, NULL, WAN_LOG_VERBOSE };
    WanChoice choice;
    int64_t bytes;
    int ret;

    b = (Bench){ .o = *o };
    if (wan_dev_choose(&choice, o->device, o->precision, &log) < 0 ||
        wan_dev_open_plan(&b.d, choice.name, 0, &log) < 0)
        return 1;
    wan_dev_say_choice(&choice, &log);
    ret = load(&b, 1);
    const WanMark mark = wan_mark(b.d);
    void (*const fn[])(Bench *) = { text, step, decode };
    static const char *const name[] = { "text", "step", "decode" };

    for (int i = 0; i < 3 && !ret; i++)
        if (wanted(&b, name[i])) {
            fn[i](&b);
            wan_release(b.d, mark);
        }
    /* and what the ceilings are measured with */
    bytes = b.d->peak + (b.d->backend->device ? INT64_C(3) << 30 : 200 << 20);
    unload(&b);
    wan_dev_close(&b.d);
    if (ret || wan_dev_open(&b.d, choice.name, 0, bytes, &log) < 0)
        return 1;
    b.d->op_by_op = o->op_by_op;
    b.d->tune = o->tune;
    ret = load(&b, 0);
    if (!ret) {
        setvbuf(stdout, NULL, _IOLBF, 0);   // who is stopped has said so far
        printf("%s %dx%d, %d frames on %s: products %.1f TFLOP/s, copies "
               "%.0f GB/s read and written\n", o->model, o->width, o->height,
               o->frames, choice.name, b.top.flops / 1e12, b.top.bytes / 1e9);
        for (int i = 0; i < 3; i++)
            if (wanted(&b, name[i])) {
                b.table.d = b.d;
                run(&b, name[i], fn[i]);
            }
        ret = wan_dev_error(b.d) != 0;
    }
    unload(&b);
    wan_pool_free(&b.pool);
    wan_dev_close(&b.d);
    return ret;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "device", 1, NULL, 'd' }, { "model", 1, NULL, 'm' },
        { "size", 1, NULL, 's' }, { "frames", 1, NULL, 'f' },
        { "blocks", 1, NULL, 'b' }, { "window", 1, NULL, 'w' },
        { "stages", 1, NULL, 'S' }, { "repeat", 1, NULL, 'r' },
        { "op-by-op", 0, NULL, 'o' }, { "tune", 0, NULL, 't' },
        { "precision", 1, NULL, 'P' },
        { "fp8", 0, NULL, '8' }, { "clip", 1, NULL, 'C' },
        { "cache", 1, NULL, 'c' }, { "cache-table", 1, NULL, 'T' },
        { "prompt", 1, NULL, 'p' }, { "steps", 1, NULL, 'n' },
        { "help", 0, NULL, 'h' }, { 0 }
    };
    Options o = {
        .device = "auto", .model = "t2v-1.3B", .stages = "text,step,decode",
        .repeat = 3,
        .clip = { .prompt = "a ball bounces",
                  .cache = "easy,easy:0.1,easy:0.2" },
    };
    char end;
    int c, ret = 0;

    while ((c = next_option(argc, argv, options)) >= 0) {
        switch (c) {
        case 'd': o.device = optarg; break;
        case 'm': o.model = optarg; break;
        case 'S': o.stages = optarg; break;
        case 's':
            if (sscanf(optarg, "%dx%d%c", &o.width, &o.height, &end) != 2 ||
                o.width < 16 || o.height < 16 || o.width % 16 ||
                o.height % 16 || o.width > 8192 || o.height > 8192)
                return usage("--size %s: WxH in multiples of 16 can be",
                             optarg);
            break;
        case 'f':
            ret = parse_int(&o.frames, "frames", optarg, 4001);
            if (!ret && o.frames % 4 != 1)
                ret = usage("--frames %s: 4n+1 can be", optarg);
            break;
        case 'b': ret = parse_int(&o.blocks, "blocks", optarg, 1000); break;
        case 'w': ret = parse_int(&o.window, "window", optarg, 1000); break;
        case 'r': ret = parse_int(&o.repeat, "repeat", optarg, 16); break;
        case 'o': o.op_by_op = 1; break;
        case 't': o.tune = 1; break;
        case 'P': ret = parse_precision(&o.precision, optarg); break;
        case '8': o.fp8 = 1; break;
        case 'C': o.clip.model = optarg; break;
        case 'c': o.clip.cache = optarg; break;
        case 'T': o.clip.table = optarg; break;
        case 'p': o.clip.prompt = optarg; break;
        case 'n': ret = parse_int(&o.clip.steps, "steps", optarg, 1000); break;
        case 'h': fputs(usage_text, stdout); return 0;
        default:  return usage("%s is not known or lacks its value",
                               argv[optind - 1]);
        }
        if (ret)
            return ret;
    }
    if (optind < argc)
        return usage("%s: there are options alone", argv[optind]);
    if (o.clip.model) {
        o.clip.device = o.device;
        o.clip.precision = o.precision;
        o.clip.width = o.width;
        o.clip.height = o.height;
        o.clip.frames = o.frames;
        return bench_cache(&o.clip);
    }
    if (!o.width)
        o.width = 832, o.height = 480;
    o.frames = o.frames ? o.frames : 81;
    return bench(&o);
}
