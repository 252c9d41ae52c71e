/*
 * wan-info: what a checkpoint is, and what a request would need.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Reads names, shapes and types, never the weights; the needs come from
 * wan_plan(). With --shapes no checkpoint is needed. With --calibrate it makes
 * the steps of a clip, without its frames.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "condition.h"
#include "convert.h"
#include "marks.h"
#include "places.h"
#include "report.h"

#define TOOL "wan-info"
#include "tool.h"

#define MAX_INT (1 << 24)   // ranges are the library's to check

static const char usage_text[] =
"usage: wan-info MODEL [options]\n"
"       wan-info --shapes NAME [options]\n"
"       wan-info --report [MODEL]\n"
"       wan-info MODEL --calibrate FILE --prompt TEXT [options]\n"
"       wan-info --marks FILE\n"
"\n"
"Say what a checkpoint is and what making a video with it would need.\n"
"\n"
"  MODEL               a directory or a transformer file\n"
"  --shapes NAME       t2v-1.3B, t2v-14B, i2v-14B, flf2v-14B, ti2v-5B, t2v-a14b,\n"
"                      i2v-a14b, vace-1.3B, vace-14B, without a checkpoint\n"
"  --model2 F          the low-noise expert, where MODEL is the other one alone\n"
"  --text-encoder F, --vae F, --clip F, --tokenizer F\n"
"                      other files than the model's own\n"
"  --size WxH --frames N --steps N --guidance X --guidance2 X --boundary X\n"
"                      the request; what is not given is the model's default\n"
"  --preset NAME       few-step family: auto, none, lightx2v, fastwan, causvid,\n"
"                      rcm, self-forcing, causal-forcing, causal-forcing-frame,\n"
"                      longlive, demo [auto: as recognised]\n"
"  --endless, --window N\n"
"                      of causal models: a scene without end; latent frames\n"
"                      that are looked back on\n"
"  --weights NAME      of a training's file: ema or generator\n"
"  --prompt TEXT       count with this text, not with 512 tokens\n"
"  --memory BYTES      the limit to hold it against, with k, M, G, Ki, Mi, Gi\n"
"  --device NAME       auto, cpu or ref; in a build with CUDA cuda [auto]\n"
"  --precision NAME    of products: auto, f32, bf16 or int8 [auto: bf16 where the\n"
"                      device multiplies it, else f32]\n"
"  --fp8 MODE          8 bits in the transformer: auto, off or on [auto]\n"
"  --threads N         CPU threads [one a core]\n"
"  --ranks N           also what each of so many processes or cards would need\n"
"                      for one clip, and send at a step\n"
"  --speed T,G,M,C     predict what they take: T TFLOP/s that each computes, G Gbit/s\n"
"                      that each sends, M ms that an exchange takes beside, C GB/s\n"
"                      that each reads and writes in memory\n"
"  --convert           also how large wan-convert would make it\n"
"  --trace             list the operations of the request instead\n"
"  --report            add the build, the machine and what is said on opening,\n"
"                      without folders' names: to paste where a fault is told\n"
"  --calibrate FILE    make the request's steps, measure the ratios that the\n"
"                      filters' cache=mag needs, and write them to FILE, which\n"
"                      must not exist, for cache_table\n"
"  --marks FILE        list the marks of AI-generated content in a video or a\n"
"                      picture; exit status 0: there are some, 1: none\n"
"  --image F, --last-image F\n"
"                      what an image model looks at, PPM (P6, 8 bits)\n"
"  --shift X --seed N  of the steps [the model's, 0]\n"
"\n"
"In the trace, a section that has the lines of the one before it is a single\n"
"line: '# block 1: as block 0'. One denoising step stands for all.\n";

/* Of a rank, to predict with. */
typedef struct Speed {
    double flops, link, memory;         // a second: work, bytes; 0: not asked
    double exchange;                    // s of each, beside its bytes
} Speed;

typedef struct Options {
    WanModelParams model;
    const char *shapes, *prompt, *preset;
    const char *table, *image[2];       // of --calibrate
    int width, height, frames, steps;   // 0: the model's
    double guidance, shift;             // -1: the model's
    double guidance2, boundary;         // likewise
    uint64_t seed;
    int endless, window;                // window 0: the preset's
    int trace, convert;
    int ranks;                          // 0: not asked
    Speed speed;
    int report;
    char *dir;                          // of the model, not to be reported
    int errors;                         // lines logged
} Options;

static void show_line(void *opaque, enum WanLogLevel level, const char *line)
{
    Options *o = opaque;

    o->errors += level == WAN_LOG_ERROR;
    if (o->report)
        report_line(level == WAN_LOG_ERROR ? "error" : "said", line, o->dir);
    else
        fprintf(stderr, "wan-info: %s\n", line);
}

/* -------------------------------------------------------- command line */

static int parse_size(Options *o, const char *text)
{
    int n = 0;

    if (sscanf(text, "%9dx%9d%n", &o->width, &o->height, &n) != 2 ||
        text[n] || o->width < 1 || o->height < 1)
        return usage("--size %s: WxH can be, such as 832x480", text);
    return 0;
}

static int parse_bytes(int64_t *out, const char *text)
{
    static const char unit[] = "kMGT";
    const char *u;
    double v, base = 1000;
    char *end;

    v = strtod(text, &end);
    if (end != text && *end && (u = strchr(unit, *end == 'K' ? 'k' : *end))) {
        if (*++end == 'i') {
            base = 1024;
            end++;
        }
        for (; u >= unit; u--)
            v *= base;
    }
    if (end == text || *end || !(v >= 1 && v < 1e18))
        return usage("--memory %s: bytes can be, such as 8G or 8Gi", text);
    *out = (int64_t)v;
    return 0;
}

static int parse_fp8(enum WanFp8 *out, const char *text)
{
    static const char *const name[] = { "auto", "off", "on" };

    for (int i = 0; i < 3; i++)
        if (!strcmp(text, name[i])) {
            *out = (enum WanFp8)i;
            return 0;
        }
    return usage("--fp8 %s: auto, off or on can be", text);
}

static int parse_number(double *out, const char *option, const char *text)
{
    char *end;

    *out = strtod(text, &end);
    if (!*text || *end || !(*out >= 0))
        return usage("--%s %s: a number from 0 can be", option, text);
    return 0;
}

static int parse_speed(Speed *s, const char *text)
{
    double tera, gbit, ms, giga;
    int n = 0;

    if (sscanf(text, "%lf,%lf,%lf,%lf%n", &tera, &gbit, &ms, &giga, &n) != 4 ||
        text[n] || !(tera > 0 && gbit > 0 && ms >= 0 && giga > 0))
        return usage("--speed %s: four numbers can be, such as 2,10,1,50", text);
    *s = (Speed){ tera * 1e12, gbit * 1e9 / 8, giga * 1e9, ms * 1e-3 };
    return 0;
}

static int parse_seed(uint64_t *out, const char *text)
{
    char *end;

    errno = 0;
    *out = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno)
        return usage("--seed %s: a whole number from 0 can be", text);
    return 0;
}

/* 0, -1: help was shown, or the exit status of wrong use. */
static int parse(Options *o, int argc, char **argv)
{
    static const struct option known[] = {
        { "shapes", 1, NULL, 'S' }, { "size", 1, NULL, 's' },
        { "frames", 1, NULL, 'f' }, { "steps", 1, NULL, 'n' },
        { "guidance", 1, NULL, 'g' }, { "prompt", 1, NULL, 'p' },
        { "memory", 1, NULL, 'm' }, { "device", 1, NULL, 'd' },
        { "threads", 1, NULL, 't' }, { "trace", 0, NULL, 'T' },
        { "text-encoder", 1, NULL, 'x' }, { "vae", 1, NULL, 'v' },
        { "clip", 1, NULL, 'c' }, { "tokenizer", 1, NULL, 'k' },
        { "precision", 1, NULL, 'b' },
        { "fp8", 1, NULL, '8' }, { "report", 0, NULL, 'R' },
        { "convert", 0, NULL, 'V' },
        { "calibrate", 1, NULL, 'C' }, { "image", 1, NULL, 'i' },
        { "last-image", 1, NULL, 'l' }, { "shift", 1, NULL, 'F' },
        { "seed", 1, NULL, 'N' }, { "preset", 1, NULL, 'P' },
        { "model2", 1, NULL, '2' }, { "guidance2", 1, NULL, 'G' },
        { "boundary", 1, NULL, 'B' },
        { "endless", 0, NULL, 'E' }, { "window", 1, NULL, 'W' },
        { "weights", 1, NULL, 'w' }, { "ranks", 1, NULL, 'r' },
        { "speed", 1, NULL, 'e' },
        { "help", 0, NULL, 'h' }, { 0 },
    };
    int c, ret = 0;

    *o = (Options){ .guidance = -1, .shift = -1, .guidance2 = -1,
                    .boundary = -1, .preset = "auto" };
    wan_model_params_default(&o->model);
    o->model.log = show_line;
    o->model.log_opaque = o;
    o->model.log_level = WAN_LOG_WARNING;
    while (!ret && (c = next_option(argc, argv, known)) != -1) {
        switch (c) {
        case 'S': o->shapes = optarg; break;
        case 's': ret = parse_size(o, optarg); break;
        case 'f': ret = parse_int(&o->frames, "frames", optarg, MAX_INT); break;
        case 'n': ret = parse_int(&o->steps, "steps", optarg, MAX_INT); break;
        case 'g': ret = parse_number(&o->guidance, "guidance", optarg); break;
        case 'G': ret = parse_number(&o->guidance2, "guidance2", optarg); break;
        case 'B': ret = parse_number(&o->boundary, "boundary", optarg); break;
        case '2': o->model.model2 = optarg; break;
        case 'F': ret = parse_number(&o->shift, "shift", optarg); break;
        case 'N': ret = parse_seed(&o->seed, optarg); break;
        case 'C': o->table = optarg; break;
        case 'i': o->image[0] = optarg; break;
        case 'l': o->image[1] = optarg; break;
        case 'p': o->prompt = optarg; break;
        case 'P': o->preset = optarg; break;
        case 'E': o->endless = 1; break;
        case 'W': ret = parse_int(&o->window, "window", optarg, MAX_INT); break;
        case 'w': o->model.weights = optarg; break;
        case 'r': ret = parse_int(&o->ranks, "ranks", optarg, WAN_MAX_RANKS); break;
        case 'e': ret = parse_speed(&o->speed, optarg); break;
        case 'm': ret = parse_bytes(&o->model.memory, optarg); break;
        case 'd': o->model.device = optarg; break;
        case 'b': ret = parse_precision(&o->model.precision, optarg); break;
        case '8': ret = parse_fp8(&o->model.fp8, optarg); break;
        case 't': ret = parse_int(&o->model.threads, "threads", optarg, MAX_INT); break;
        case 'T': o->trace = 1; break;
        case 'R': o->report = 1; break;
        case 'V': o->convert = 1; break;
        case 'x': o->model.text_encoder = optarg; break;
        case 'v': o->model.vae = optarg; break;
        case 'c': o->model.clip = optarg; break;
        case 'k': o->model.tokenizer = optarg; break;
        case 'h':
            fputs(usage_text, stdout);
            return -1;
        default:
            return usage("%s is not known or lacks its value",
                         argv[optind - 1]);
        }
    }
    if (ret)
        return ret;
    if (optind < argc)
        o->model.path = argv[optind++];
    if (optind < argc)
        return usage("one MODEL, not more");
    if (!o->model.path == !o->shapes && !(o->report && !o->shapes))
        return usage("give either MODEL or --shapes");
    if (o->report)
        o->model.log_level = WAN_LOG_INFO;
    if (o->table && (o->shapes || !o->prompt))
        return usage("--calibrate needs a MODEL and a --prompt");
    if (o->speed.flops && !o->ranks)
        return usage("--speed belongs to --ranks");
    if (!o->table && (o->image[0] || o->image[1]))
        return usage("--image and --last-image belong to --calibrate");
    return 0;
}

/* ---------------------------------------------------------- description */

/* 1418996800 as "1,418,996,800". */
static const char *grouped(int64_t v, char buf[32])
{
    char digits[24];
    const int n = snprintf(digits, sizeof(digits), "%" PRId64, v);
    char *p = buf;

    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            *p++ = ',';
        *p++ = digits[i];
    }
    *p = 0;
    return buf;
}

/* "  825 tensors, 1,418,996,800 numbers: F32 0.02 GB, BF16 2.82 GB" */
static void show_stored(const WanWeights *w, const Options *o)
{
    const char *path = wan_weights_path(w), *slash = strrchr(path, '/');
    int64_t bytes[WAN_NB_TYPES] = { 0 }, numbers = 0;
    const char *between = ": ";
    char buf[32];

    for (int i = 0; i < wan_weights_count(w); i++) {
        const WanStored *t = wan_weights_at(w, i);

        bytes[t->type] += t->bytes;
        numbers += wan_stored_count(t);
    }
    printf("                %d tensors, %s numbers", wan_weights_count(w),
           grouped(numbers, buf));
    for (int t = 0; t < WAN_NB_TYPES; t++) {
        if (!bytes[t])
            continue;
        printf("%s%s %.3f GB", between, wan_type_name(t), bytes[t] / 1e9);
        between = ", ";
    }
    printf("\n                %s\n", o->report && slash ? slash + 1 : path);
}

typedef struct Count {
    int tensors;
    int64_t numbers;
} Count;

static void count_tensor(void *opaque, const char *name, int vector,
                         int nb_dims, const int64_t *dim)
{
    Count *c = opaque;
    int64_t n = 1;

    (void)name;
    (void)vector;
    for (int i = 0; i < nb_dims; i++)
        n *= dim[i];
    c->tensors++;
    c->numbers += n;
}

/* The same without files: what the library reads. */
static int show_shapes(const WanModel *m, WanPart part)
{
    Count c = { 0 };
    WanPool pool = { 0 };
    WanBinder b = { .part = part, .pool = &pool, .plan_type = WAN_BF16,
                    .visit = count_tensor, .visit_opaque = &c };
    WanDit dit = { 0 };
    WanT5 t5 = { 0 };
    WanCodec vae = { 0 };
    WanClip clip = { 0 };
    char buf[32];
    int ret;

    if (part == WAN_PART_DIT)
        ret = wan_dit_bind(&dit, &m->dit.config, &b);
    else if (part == WAN_PART_T5)
        ret = wan_t5_bind(&t5, &m->t5.config, &b);
    else if (part == WAN_PART_VAE)
        ret = wan_codec_bind(&vae, &m->vae.config, m->vae.encodes, &b);
    else
        ret = wan_clip_bind(&clip, &m->clip.config, &b);
    wan_dit_free(&dit);
    wan_t5_free(&t5);
    wan_clip_free(&clip);
    wan_pool_free(&pool);
    if (ret >= 0)
        printf("                %d tensors read, %s numbers\n", c.tensors,
               grouped(c.numbers, buf));
    return ret;
}

static int show_part(const WanModel *m, WanPart part, const Options *o)
{
    if (!m->files[part])
        return show_shapes(m, part);
    show_stored(m->files[part], o);
    return 0;
}

static int show_model(const WanModel *m, const Options *o)
{
    const WanModelInfo *i = wan_model_info(m);
    const WanDitConfig *d = &m->dit.config;
    const WanT5Config *t = &m->t5.config;
    const WanClipConfig *c = &m->clip.config;
    int ret;

    printf("%s\n", i->name);
    printf("  transformer   width %d, %d layers, %d heads of %d, "
           "feed-forward %d\n", d->dim, d->layers, d->heads,
           d->dim / d->heads, d->ffn);
    if (i->experts > 1)
        printf("                two experts; the first, from timestep %g on:\n",
               1000 * i->boundary);
    if (d->nb_vace)
        printf("                and %d VACE blocks, their hints after blocks %d "
               "to %d\n", d->nb_vace, d->vace_layer[0],
               d->vace_layer[d->nb_vace - 1]);
    if ((ret = show_part(m, WAN_PART_DIT, o)) < 0)
        return ret;
    if (i->experts > 1)
        printf("                the second, below:\n");
    if (m->file2)
        show_stored(m->file2, o);
    else if (i->experts > 1 && (ret = show_shapes(m, WAN_PART_DIT)) < 0)
        return ret;
    printf("  text encoder  width %d, %d layers, %d heads of %d, "
           "feed-forward %d, %d words\n", t->dim, t->layers, t->heads,
           t->attn_dim / t->heads, t->ffn, t->vocab);
    if ((ret = show_part(m, WAN_PART_T5, o)) < 0)
        return ret;
    printf("  VAE           %s, base width %d\n", m->vae.family->name,
           m->vae.config.dim);
    if ((ret = show_part(m, WAN_PART_VAE, o)) < 0)
        return ret;
    if (d->clip_dim) {
        printf("  CLIP          width %d, %d layers run, %d heads of %d, "
               "feed-forward %d\n", c->dim, c->layers, c->heads,
               c->dim / c->heads, c->mlp);
        if ((ret = show_part(m, WAN_PART_CLIP, o)) < 0)
            return ret;
    }
    if (m->tokenizer)
        printf("  tokenizer     %d ids\n", wan_tokenizer_vocab(m->tokenizer));
    printf("  defaults      %dx%d, %d frames at %g a second, %d steps, "
           "guidance %g", i->width, i->height, i->frames,
           (double)i->rate_num / i->rate_den, i->steps, i->guidance);
    if (i->experts > 1)
        printf(" and %g, boundary %g", i->guidance2, i->boundary);
    printf(", shift %g\n", i->shift);
    if (m->preset)
        printf("  preset        %s, recognised as %s: sampler %s\n",
               i->preset, m->preset->family, wan_sampler_name(i->sampler));
    return 0;
}

/* ----------------------------------------------------------------- plan */

static void show_plan(const WanPlan *p, const WanRequest *r,
                      const WanModel *m, const Options *o)
{
    const double step = p->step_flops / 1e12, text = p->text_flops / 1e12;
    const double image = p->image_flops / 1e12;
    const double decode = p->decode_flops / 1e12;

    printf("%dx%d, ", r->width, r->height);
    if (r->frames)
        printf("%d frames", r->frames);
    else
        printf("without end");
    printf(", %d steps, guidance %g\n", r->steps, r->guidance);
    printf("  tokens        %" PRId64 "\n", p->tokens);
    printf("  precision     %s\n", m->choice.why);
    printf("  work          %.3f GB", p->work_bytes / 1e9);
    if (p->full_bytes) {
        printf("\n  device        %.3f GB to keep all weights, %.3f GB at "
               "least", p->full_bytes / 1e9, p->least_bytes / 1e9);
        if (p->available_bytes < INT64_MAX)
            printf("; %.3f GB %s: %s", p->available_bytes / 1e9,
                   m->memory ? "given" : "free",
                   p->least_bytes > p->available_bytes ? "too little" :
                   p->stream_bytes ? "" : "a step's stay");
        if (p->stream_bytes)
            printf("%.3f GB are copied at every step", p->stream_bytes / 1e9);
    } else if (p->available_bytes < INT64_MAX)
        printf(" of %.3f GB %s: %s", p->available_bytes / 1e9,
               m->memory ? "given" : "free",
               p->work_bytes <= p->available_bytes ? "fits" : "too much");
    if (r->causal)
        printf("\n  window        %d latent frames, %.3f GB of keys and values; "
               "blocks of %d", p->window, p->cache_bytes / 1e9, p->block);
    if (m->files[0])
        printf("\n  weights       %.3f GB, mapped, and %.3f GB of copies",
               m->info.weight_bytes / 1e9, m->pool.bytes / 1e9);
    if (m->resting_bytes)
        printf("; %.3f GB of them rest at a time", m->resting_bytes / 1e9);
    printf("\n  text          %.4g TFLOP for %s %s\n", text,
           r->guidance != 1 ? "two prompts" : "a prompt",
           o->prompt && m->tokenizer ? "as given" : "of 512 tokens");
    if (image)
        printf("  image         %.4g TFLOP\n", image);
    printf("  a step        %.4g TFLOP, %s\n", step,
           r->guidance != 1 ? "both branches of guidance" : "not guided");
    printf("  decode        %.4g TFLOP\n", decode);
    if (r->causal)
        printf("  a block       %.4g TFLOP: its steps, clean pass and decoding "
               "under a full window\n", p->block_flops / 1e12);
    else
        printf("  whole         %.4g TFLOP\n",
               text + image + r->steps * step + decode);
}

/* ------------------------------------------------------------------ ranks */

static void show_rank(const char *who, const WanPlan *p)
{
    printf("  %-13s %.3f GB of work", who, p->work_bytes / 1e9);
    if (p->full_bytes)
        printf(", %.3f GB of a card to keep all weights, %.3f GB at least",
               p->full_bytes / 1e9, p->least_bytes / 1e9);
    printf("; a step %.4g TFLOP, %.4g GB sent\n", p->step_flops / 1e12,
           p->sent_bytes / 1e9);
    printf("%16sdecode %.4g TFLOP, %.4g GB sent\n", "", p->decode_flops / 1e12,
           p->decode_sent_bytes / 1e9);
    if (p->block)
        printf("%16sa block %.4g TFLOP, %.4g GB sent; %.3f GB of the work are "
               "keys and values\n", "", p->block_flops / 1e12,
               p->block_sent_bytes / 1e9, p->cache_bytes / 1e9);
    printf("%16sbefore the steps %.4g GB sent\n", "",
           p->begin_sent_bytes / 1e9);
}

/* The larger of both, number by number. */
static void most(WanPlan *a, const WanPlan *b)
{
#define MOST(field) a->field = a->field > b->field ? a->field : b->field
    MOST(work_bytes);
    MOST(full_bytes);
    MOST(least_bytes);
    MOST(step_flops);
    MOST(sent_bytes);
    MOST(decode_flops);
    MOST(decode_sent_bytes);
    MOST(begin_sent_bytes);
    MOST(exchanges);
    MOST(decode_exchanges);
    MOST(begin_exchanges);
    MOST(behind_bytes);
    MOST(behind_flops);
    MOST(behind_exchanges);
    MOST(block);
    MOST(block_flops);
    MOST(block_sent_bytes);
    MOST(cache_bytes);
#undef MOST
}

/* s that exchanges take on the link. */
static double moving(const Speed *s, double sent, int exchanges)
{
    return sent / s->link + exchanges * s->exchange;
}

/* Ranks wait for each other, so the slowest one's part is everybody's. It
 * computes, packs and unpacks, which moves every byte twice in its memory, and
 * sends, some of it while it computes. */
static double part(const Speed *s, const char *label, const char *what,
                   double flops, double sent, int exchanges, double hidden)
{
    const double computes = flops / s->flops + 2 * sent / s->memory;
    const double moves = moving(s, sent, exchanges);

    printf("  %-13s %s %.4g s: %.4g computing, %.4g in %d exchanges", label,
           what, computes + moves - hidden, computes, moves, exchanges);
    if (hidden > 0)
        printf(", %.4g of them hidden", hidden);
    printf("\n");
    return computes + moves - hidden;
}

/* s of exchanges at a step for which nobody waits. */
static double hidden(const Speed *s, const WanPlan *p)
{
    const double moves = moving(s, p->behind_bytes, p->behind_exchanges);
    const double computes = p->behind_flops / s->flops;

    return moves < computes ? moves : computes;
}

/* The host encodes texts alone, with its own speed. Of a causal video it is what a
 * block's steps and its decoding take. */
static void predict(const Speed *s, const WanRequest *r, const WanPlan *one,
                    const WanPlan *most, int n)
{
    const double text = r->causal ? 0 : one->text_flops + one->image_flops;
    const double alone = text + r->steps * one->step_flops + one->decode_flops;
    const double step = part(s, "predicted", "a step", most->step_flops,
                             most->sent_bytes, most->exchanges,
                             hidden(s, most));
    const double decode = part(s, "", "decode", most->decode_flops,
                               most->decode_sent_bytes,
                               most->decode_exchanges, 0);
    const double whole = text / s->flops + r->steps * step + decode;
    const double of_step = one->step_flops / s->flops / step;
    const double of_clip = alone / s->flops / whole;

    printf("%16sa step %.2f times as fast as by one, %.2f of %d; the %s "
           "%.2f times, %.2f\n", "", of_step, of_step / n, n,
           r->causal ? "block" : "clip", of_clip, of_clip / n);
}

/* One clip over several processes or cards: the host, and the most that any of
 * the others needs; one is the plan of one alone. */
static int show_ranks(WanModel *m, const WanRequest *r, const WanPlan *one,
                      const Options *o)
{
    const int n = o->ranks;
    WanRanks *const own = m->ranks;
    WanRanks ranks = { .size = n };
    WanPlan plan, host = { 0 }, others = { 0 };
    int ret = 0;

    m->ranks = &ranks;
    for (int q = 0; q < n; q++) {
        ranks.rank = q;
        if ((ret = wan_plan(&plan, m, r)) < 0)
            break;
        if (q)
            most(&others, &plan);
        else
            host = plan;
    }
    m->ranks = own;
    if (ret < 0)
        return ret;
    printf("by %d ranks\n", n);
    show_rank("the first", &host);
    if (n > 1)
        show_rank("each other", &others);
    most(&others, &host);
    if (o->speed.flops)
        predict(&o->speed, r, one, &others, n);
    return 0;
}

/* ------------------------------------------------------------- converted */

/* What one file of it would take, by some choices of types. */
static int show_converted(const WanModel *m)
{
    static const struct {
        const char *what;
        int dit, text;
    } choice[] = {
        { "all f16", WAN_F16, WAN_F16 },
        { "transformer q8_0, text encoder q8_0, the rest f16", WAN_Q8_0,
          WAN_Q8_0 },
        { "transformer q8_0, text encoder q4_k, the rest f16", WAN_Q8_0,
          WAN_Q4_K },
        { "transformer q4_k, text encoder q4_k, the rest f16", WAN_Q4_K,
          WAN_Q4_K },
    };

    printf("as one file by wan-convert%s\n", m->info.experts > 1 ? ", the "
           "first expert; the second takes a file alone" : "");
    for (size_t i = 0; i < sizeof(choice) / sizeof(*choice); i++) {
        const int type[] = { choice[i].dit, choice[i].text, WAN_F16, WAN_F16 };
        WanConvertReport r;
        const int ret = wan_convert_sizes(&r, m, type);

        if (ret < 0)
            return ret;
        printf("  %-52s %.3f GB\n", choice[i].what, r.bytes / 1e9);
    }
    return 0;
}

/* ---------------------------------------------------------------- trace */

/* A section of the trace: its heading and its lines, joined. */
typedef struct Section {
    char title[128];
    char *lines;
    size_t n, size;
} Section;

typedef struct Trace {
    Section now, before;        // being read, and the one before it
    char like[128];             // what before was printed as
    int no_memory;
} Trace;

/* "block 1" and "block 0" are of a kind, "head" and "block 29" are not. */
static int same_kind(const char *a, const char *b)
{
    const size_t n = strcspn(a, "0123456789");

    return a[n] && n == strcspn(b, "0123456789") && b[n] && !strncmp(a, b, n);
}

/* Print the section that is complete and make it the one before. */
static void end_section(Trace *t)
{
    const Section old = t->before;

    if (t->now.n && same_kind(t->now.title, t->before.title) &&
        t->now.n == t->before.n &&
        !memcmp(t->now.lines, t->before.lines, t->now.n)) {
        printf("# %s: as %s\n", t->now.title, t->like);
    } else {
        if (*t->now.title)
            printf("# %s\n", t->now.title);
        if (t->now.n)
            fwrite(t->now.lines, 1, t->now.n, stdout);
        memcpy(t->like, t->now.title, sizeof(t->like));
    }
    t->before = t->now;
    t->now = old;
    t->now.n = 0;
    *t->now.title = 0;
}

static void trace_line(void *opaque, const char *line)
{
    Trace *t = opaque;
    Section *s = &t->now;
    const size_t n = strlen(line);

    if (!strncmp(line, "# ", 2)) {
        end_section(t);
        snprintf(t->now.title, sizeof(t->now.title), "%s", line + 2);
        return;
    }
    if (s->n + n + 1 > s->size) {
        const size_t size = 2 * (s->n + n + 1);
        char *p = realloc(s->lines, size);

        if (!p) {
            t->no_memory = 1;
            return;
        }
        s->lines = p;
        s->size = size;
    }
    memcpy(s->lines + s->n, line, n);
    s->lines[s->n + n] = '\n';
    s->n += n + 1;
}

static int show_trace(WanPlan *plan, const WanModel *m, const WanRequest *r)
{
    Trace t = { 0 };
    int ret = wan_plan_trace(plan, m, r, trace_line, &t);

    if (ret >= 0) {
        end_section(&t);
        ret = t.no_memory ? WAN_ERR(ENOMEM) : 0;
    }
    free(t.now.lines);
    free(t.before.lines);
    return ret;
}

/* ------------------------------------------------------------ the program */

static int make_request(WanRequest *r, const WanModel *m, const Options *o)
{
    int ret;

    wan_request_default(r, m);
    if ((ret = wan_request_preset(r, m, o->preset)) < 0)
        return ret;
    r->prompt = o->prompt;
    if (o->width) {
        r->width = o->width;
        r->height = o->height;
    }
    if (o->frames || o->endless)
        r->frames = o->endless ? 0 : o->frames;
    if (o->window)
        r->window = o->window;
    if (o->steps)
        r->steps = o->steps;
    if (o->guidance >= 0)
        r->guidance = o->guidance;
    if (o->guidance2 >= 0 || o->guidance >= 0)
        r->guidance2 = o->guidance2 >= 0 ? o->guidance2 : o->guidance;
    if (o->boundary >= 0)
        r->boundary = o->boundary;
    if (o->shift >= 0)
        r->shift = o->shift;
    r->seed = o->seed;
    return 0;
}

/* The machine; whether a model follows. */
static int begin_report(Options *o)
{
    char *path = NULL;

    report_machine();
    if (o->model.path && wan_place(&path, o->model.path, NULL) >= 0)
        o->dir = wan_path_parent(path);
    free(path);
    printf("\n");
    return o->model.path || o->shapes;
}

int main(int argc, char **argv)
{
    Options o;
    WanModel *m = NULL;
    WanRequest r;
    WanPlan plan;
    int ret;

    if (argc > 1 && !strcmp(argv[1], "--marks"))
        return argc == 3 ? marks_show(argv[2])
                         : usage("--marks wants one file and nothing else");
    ret = parse(&o, argc, argv);
    if (ret)
        return ret < 0 ? 0 : ret;
    if (o.report && !begin_report(&o))
        return 0;
    if (o.shapes) {
        ret = wan_model_open_shapes(&m, o.shapes, &o.model);
        if (ret == WAN_ERR(EINVAL))
            return usage("--shapes %s is not known", o.shapes);
    } else {
        ret = wan_model_open(&m, &o.model);
    }
    if (ret < 0)
        goto fail;
    if ((ret = make_request(&r, m, &o)) < 0)
        goto fail;
    if (o.table) {
        ret = calibrate(m, &r, o.image, o.table);
    } else if (o.trace) {
        ret = show_trace(&plan, m, &r);
    } else if ((ret = wan_plan(&plan, m, &r)) >= 0 &&
               (ret = show_model(m, &o)) >= 0) {
        show_plan(&plan, &r, m, &o);
        if (o.ranks)
            ret = show_ranks(m, &r, &plan, &o);
        if (o.convert && ret >= 0)
            ret = show_converted(m);
    }
    if (ret < 0)
        goto fail;
    wan_model_close(&m);
    free(o.dir);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "wan-info: standard output can't be written\n");
        return 1;
    }
    return 0;
fail:
    if (!o.errors)
        show_line(&o, WAN_LOG_ERROR, wan_strerror(ret));
    wan_model_close(&m);
    free(o.dir);
    return !o.report;           // a report that tells an error is whole
}
