/*
 * wan-parity: a job's stages as files, for tools/parity to hold against the
 * official code.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Makes one small video and writes, into a folder, what came in and out of
 * each stage: NAME.f32, little-endian floats in the order of memory, and
 * manifest.json with the request, the token ids, the timesteps and the shape
 * of every file. Noise is that of PyTorch's CPU generator.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../wan/json.h"
#include "../wan/model.h"
#include "../wan/rng.h"
#include "../wan/sampler.h"

#define TOOL "wan-parity"
#include "tool.h"

static const char usage_text[] =
"usage: wan-parity MODEL FOLDER [options]\n"
"\n"
"Write a job's stages into FOLDER, which is made.\n"
"\n"
"  --prompt TEXT --negative TEXT\n"
"  --size WxH          [256x256]\n"
"  --frames N          4n+1 [5]\n"
"  --steps N           [3]\n"
"  --guidance X --shift X --seed N\n"
"  --sampler NAME      unipc or dpm++ [unipc]\n"
"  --image FILE        of image models: a binary PPM of 8 bits\n"
"  --device NAME       [auto]\n"
"  --precision NAME    of products: auto, f32, bf16 or int8 [f32]\n"
"  --text-encoder F, --vae F, --clip F, --tokenizer F\n"
"                      other files than the model's own\n";

typedef struct Options {
    WanModelParams model;
    const char *folder, *prompt, *negative, *image;
    int width, height, frames, steps;
    double guidance, shift;             // -1: the model's
    uint64_t seed;
    enum WanSampler sampler;
    int errors;                         // lines logged
} Options;

static const char *const samplers[] = { "unipc", "dpm++" };

static void show_line(void *opaque, enum WanLogLevel level, const char *line)
{
    Options *o = opaque;

    o->errors += level == WAN_LOG_ERROR;
    fprintf(stderr, TOOL ": %s\n", line);
}

/* -------------------------------------------------------- command line */

static int parse_number(double *out, const char *option, const char *text)
{
    char *end;

    *out = strtod(text, &end);
    return *text && !*end && *out >= 0 ? 0 :
           usage("--%s %s: a number from 0 can be", option, text);
}

static int parse_sampler(enum WanSampler *out, const char *text)
{
    for (int i = 0; i < 2; i++)
        if (!strcmp(text, samplers[i])) {
            *out = (enum WanSampler)i;
            return 0;
        }
    return usage("--sampler %s: unipc or dpm++ can be", text);
}

static int parse_size(Options *o, const char *text)
{
    int n = 0;

    return sscanf(text, "%5dx%5d%n", &o->width, &o->height, &n) == 2 &&
           !text[n] ? 0 : usage("--size %s: WxH can be", text);
}

/* 0, -1: help was shown, or the exit status of wrong use. */
static int parse(Options *o, int argc, char **argv)
{
    static const struct option known[] = {
        { "prompt", 1, NULL, 'p' }, { "negative", 1, NULL, 'q' },
        { "size", 1, NULL, 's' }, { "frames", 1, NULL, 'f' },
        { "steps", 1, NULL, 'n' }, { "guidance", 1, NULL, 'g' },
        { "shift", 1, NULL, 'S' }, { "seed", 1, NULL, 'r' },
        { "sampler", 1, NULL, 'm' }, { "image", 1, NULL, 'i' },
        { "device", 1, NULL, 'd' }, { "text-encoder", 1, NULL, 'x' },
        { "vae", 1, NULL, 'v' }, { "clip", 1, NULL, 'c' },
        { "precision", 1, NULL, 'b' },
        { "tokenizer", 1, NULL, 'k' }, { "help", 0, NULL, 'h' }, { 0 },
    };
    int c, ret = 0;
    double v;

    *o = (Options){ .prompt = "A red ball bounces over a wet street.",
                    .width = 256, .height = 256, .frames = 5, .steps = 3,
                    .guidance = -1, .shift = -1 };
    wan_model_params_default(&o->model);
    o->model.log = show_line;
    o->model.log_opaque = o;
    o->model.log_level = WAN_LOG_WARNING;
    o->model.precision = WAN_PRECISION_F32;
    while (!ret && (c = next_option(argc, argv, known)) != -1) {
        switch (c) {
        case 'p': o->prompt = optarg; break;
        case 'q': o->negative = optarg; break;
        case 's': ret = parse_size(o, optarg); break;
        case 'f': ret = parse_int(&o->frames, "frames", optarg, 4001); break;
        case 'n': ret = parse_int(&o->steps, "steps", optarg, 1000); break;
        case 'g': ret = parse_number(&o->guidance, "guidance", optarg); break;
        case 'S': ret = parse_number(&o->shift, "shift", optarg); break;
        case 'r':
            ret = parse_number(&v, "seed", optarg);
            o->seed = v < 1e15 ? (uint64_t)v : 0;
            break;
        case 'm': ret = parse_sampler(&o->sampler, optarg); break;
        case 'i': o->image = optarg; break;
        case 'd': o->model.device = optarg; break;
        case 'b': ret = parse_precision(&o->model.precision, optarg); break;
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
    if (!ret && argc - optind != 2)
        return usage("MODEL and FOLDER are needed");
    o->model.path = argv[optind];
    o->folder = argv[optind + 1];
    return ret;
}

/* --------------------------------------------------------------- output */

typedef struct Output {
    const char *folder;
    cJSON *tensors;
    int error;                          // errno of the first failure
} Output;

/* NAME.suffix in the folder. */
static FILE *open_in(Output *o, const char *name, const char *suffix,
                     const char *mode)
{
    char path[4096];
    FILE *f = NULL;

    if (snprintf(path, sizeof(path), "%s/%s%s", o->folder, name, suffix) >=
        (int)sizeof(path))
        errno = ENAMETOOLONG;
    else
        f = fopen(path, mode);
    if (!f && !o->error)
        o->error = errno;
    return f;
}

static void close_in(Output *o, FILE *f)
{
    if (f && fclose(f) && !o->error)
        o->error = errno;
}

static void note_shape(Output *o, const char *name, int nb_dims,
                       const int64_t *dim)
{
    cJSON *shape = cJSON_AddArrayToObject(o->tensors, name);

    for (int i = 0; i < nb_dims; i++)
        cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)dim[i]));
}

static void write_floats(Output *o, const char *name, const WanTensor *t)
{
    const int64_t rows = wan_count(t) / wan_cols(t);
    FILE *f = open_in(o, name, ".f32", "wb");

    for (int64_t i = 0; f && i < rows; i++)
        if (fwrite(wan_row(t, i), sizeof(float), (size_t)wan_cols(t), f) !=
            (size_t)wan_cols(t) && !o->error)
            o->error = errno;
    close_in(o, f);
    note_shape(o, name, t->nb_dims, t->dim);
}

/* The taps of job.c; the models' own are for tests. */
static void keep_stage(void *opaque, const char *name, const WanTensor *t)
{
    static const char *const stages[] = { "context", "clip_fea", "y_latent",
                                          "noise_pred", "latents" };

    for (int i = 0; i < 5; i++)
        if (!strncmp(name, stages[i], strlen(stages[i]))) {
            write_floats(opaque, name, t);
            return;
        }
}

static void write_noise(Output *o, const WanRequest *rq)
{
    const int64_t dim[] = { WAN_LATENT_CHANNELS,
                            (rq->frames - 1) / WAN_TIME_STRIDE + 1,
                            rq->height / WAN_SPACE_STRIDE,
                            rq->width / WAN_SPACE_STRIDE };
    const int64_t n = dim[0] * dim[1] * dim[2] * dim[3];
    float *v = malloc((size_t)n * sizeof(*v));
    const WanTensor t = wan_tensor_of(v, WAN_F32, dim[0], dim[1], dim[2],
                                      dim[3]);

    if (!v) {
        o->error = ENOMEM;
        return;
    }
    wan_randn_cpu(v, n, rq->seed, 0);
    write_floats(o, "noise", &t);
    free(v);
}

/* ------------------------------------------------------------ the image */

/* A binary PPM; *pixels: free() it. */
static int read_ppm(WanImage *img, uint8_t **pixels, const char *path)
{
    FILE *f = fopen(path, "rb");
    int w = 0, h = 0, top = 0;
    const int header = f ? fscanf(f, "P6 %5d %5d %3d", &w, &h, &top) : 0;
    const size_t n = (size_t)w * (size_t)h * 3;

    *pixels = NULL;
    if (header == 3 && w > 0 && h > 0 && top == 255 && fgetc(f) != EOF &&
        (*pixels = malloc(n)) && fread(*pixels, 1, n, f) == n) {
        *img = (WanImage){ .size = sizeof(*img), .format = WAN_PIX_RGB24,
                           .width = w, .height = h, .data = { *pixels },
                           .stride = { 3 * w } };
        fclose(f);
        return 0;
    }
    fprintf(stderr, TOOL ": %s: %s\n", path, f ? "no binary PPM of 8 bits" :
            strerror(errno));
    if (f)
        fclose(f);
    return WAN_INVALIDDATA;
}

/* -------------------------------------------------------------- the job */

static int add_ids(cJSON *json, const char *name, const WanModel *m,
                   const char *text)
{
    int32_t ids[WAN_TEXT_LEN];
    const int n = wan_tokenizer_encode(m->tokenizer, ids, NULL, text, &m->log);

    if (n > 0)
        cJSON_AddItemToObject(json, name, cJSON_CreateIntArray(ids, n));
    return n;
}

/* What the other side has to know. */
static int describe(cJSON *json, const WanModel *m, const WanRequest *rq)
{
    const WanSampling sampling = { .sampler = rq->sampler, .steps = rq->steps,
                                   .shift = rq->shift };
    WanSchedule s;
    char version[32];
    int ret;

    snprintf(version, sizeof(version), "%u.%u.%u", wan_version() >> 16,
             wan_version() >> 8 & 255, wan_version() & 255);
    cJSON_AddStringToObject(json, "version", version);
    cJSON_AddStringToObject(json, "model", m->info.name);
    cJSON_AddStringToObject(json, "task", wan_config_task(m->info.task));
    cJSON_AddStringToObject(json, "device", m->device);
    cJSON_AddStringToObject(json, "precision",
                            wan_precision_name(m->info.precision));
    cJSON_AddStringToObject(json, "prompt", rq->prompt);
    cJSON_AddStringToObject(json, "negative_prompt", rq->negative_prompt);
    cJSON_AddStringToObject(json, "sampler", samplers[rq->sampler]);
    cJSON_AddNumberToObject(json, "width", rq->width);
    cJSON_AddNumberToObject(json, "height", rq->height);
    cJSON_AddNumberToObject(json, "frames", rq->frames);
    cJSON_AddNumberToObject(json, "steps", rq->steps);
    cJSON_AddNumberToObject(json, "guidance", rq->guidance);
    cJSON_AddNumberToObject(json, "shift", rq->shift);
    cJSON_AddNumberToObject(json, "seed", (double)rq->seed);
    if ((ret = add_ids(json, "ids", m, rq->prompt)) < 0 ||
        (ret = add_ids(json, "ids_null", m, rq->negative_prompt)) < 0 ||
        (ret = wan_schedule_init(&s, &sampling)) < 0)
        return ret;
    cJSON_AddItemToObject(json, "timesteps",
                          cJSON_CreateDoubleArray(s.timestep, s.steps));
    wan_schedule_free(&s);
    return 0;
}

/* All frames as [F, 3, H, W] from -1 to 1. */
static int make_video(Output *o, WanJob *job, const WanRequest *rq)
{
    const int64_t n = (int64_t)rq->width * rq->height;
    const int64_t dim[] = { rq->frames, 3, rq->height, rq->width };
    float *planes = malloc(3 * (size_t)n * sizeof(*planes));
    FILE *f = planes ? open_in(o, "video", ".f32", "wb") : NULL;
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_GBRPF32,
                     .width = rq->width, .height = rq->height };
    int ret = planes ? 0 : WAN_ERR(ENOMEM);

    for (int i = 0; i < 3; i++) {       // G, B, R into the order R, G, B
        img.data[i] = planes + (i + 1) % 3 * n;
        img.stride[i] = rq->width * (int)sizeof(float);
    }
    while (f && ret >= 0 && (ret = wan_job_step(job, NULL)) >= 0) {
        while ((ret = wan_job_frame(job, &img)) >= 0) {
            for (int64_t i = 0; i < 3 * n; i++)
                planes[i] = planes[i] * 2 - 1;
            if (fwrite(planes, sizeof(float), 3 * (size_t)n, f) !=
                3 * (size_t)n && !o->error)
                o->error = errno;
        }
        ret = ret == WAN_ERR(EAGAIN) ? 0 : ret;
    }
    close_in(o, f);
    free(planes);
    note_shape(o, "video", 4, dim);
    return ret == WAN_EOF ? 0 : ret;
}

static void write_manifest(Output *o, const cJSON *json)
{
    char *text = cJSON_Print(json);
    FILE *f = text ? open_in(o, "manifest", ".json", "w") : NULL;

    if (!text)
        o->error = ENOMEM;
    if (f && fprintf(f, "%s\n", text) < 0 && !o->error)
        o->error = errno;
    close_in(o, f);
    cJSON_free(text);
}

static void make_request(WanRequest *rq, const WanModel *m, const Options *o)
{
    wan_request_default(rq, m);
    wan_request_preset(rq, m, "none");  // the official code has none
    rq->prompt = o->prompt;
    rq->negative_prompt = o->negative ? o->negative : m->info.negative_prompt;
    rq->width = o->width;
    rq->height = o->height;
    rq->frames = o->frames;
    rq->steps = o->steps;
    rq->sampler = o->sampler;
    rq->seed = o->seed;
    rq->rng = WAN_RNG_CPU;
    if (o->guidance >= 0)
        rq->guidance = o->guidance;
    if (o->shift >= 0)
        rq->shift = o->shift;
}

static int run(Options *o, Output *out, cJSON *json)
{
    WanModel *m = NULL;
    WanJob *job = NULL;
    WanImage image;
    uint8_t *pixels = NULL;
    WanRequest rq;
    int ret = wan_model_open(&m, &o->model);

    if (ret < 0)
        return ret;
    make_request(&rq, m, o);
    if (o->image && (ret = read_ppm(&image, &pixels, o->image)) < 0) {
        o->errors++;
        goto end;
    }
    rq.image = o->image ? &image : NULL;
    if ((ret = describe(json, m, &rq)) < 0 ||
        (ret = wan_job_open(&job, m, &rq)) < 0)
        goto end;
    wan_job_tap(job, keep_stage, out);
    write_noise(out, &rq);
    ret = make_video(out, job, &rq);
end:
    wan_job_close(&job);
    wan_model_close(&m);
    free(pixels);
    return ret;
}

int main(int argc, char **argv)
{
    Options o;
    Output out = { 0 };
    cJSON *json;
    int ret = parse(&o, argc, argv);

    if (ret)
        return ret < 0 ? 0 : ret;
    out.folder = o.folder;
    json = cJSON_CreateObject();
    out.tensors = cJSON_AddObjectToObject(json, "tensors");
    if (!out.tensors)
        out.error = ENOMEM;
    else if (mkdir(o.folder, 0777) < 0 && errno != EEXIST)
        out.error = errno;
    if (!out.error)
        ret = run(&o, &out, json);
    if (!out.error && ret >= 0)
        write_manifest(&out, json);
    cJSON_Delete(json);
    if (out.error)
        fprintf(stderr, TOOL ": %s: %s\n", o.folder, strerror(out.error));
    else if (ret < 0 && !o.errors)
        fprintf(stderr, TOOL ": %s\n", wan_strerror(ret));
    return out.error || ret < 0;
}
