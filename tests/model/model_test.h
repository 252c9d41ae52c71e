/*
 * What the model tests share: the tiny checkpoints, and taps held against
 * golden tensors.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_MODEL_TEST_H
#define WAN_MODEL_TEST_H

#include "golden.h"
#include "model.h"
#include "test.h"

#define ARENA (256 << 20)       // bytes, far above any tiny model's need

/* The device under test beside ref: cpu, or the program's argument. */
static const char *dut = "cpu";

/* Tests of ref are left out when another device is asked for. */
#define RUN_REF(name) \
    do { \
        if (!strcmp(dut, "cpu")) \
            RUN(name); \
    } while (0)

/* What is exact on the processor once more with its products rounded. */
#define RUN_ROUNDED(name) \
    do { \
        if (!strcmp(dut, "cpu")) { \
            dut = "cpu-bf16"; \
            test_run(#name "_bf16", test_##name); \
            dut = "cpu-int8"; \
            test_run(#name "_int8", test_##name); \
            dut = "cpu"; \
        } \
    } while (0)

static inline void choose_device(int argc, char **argv)
{
    if (argc > 1)
        dut = argv[1];
}

/* What may be wrong on a device where limit holds on the CPU. Sums of a GPU in
 * F32 are in another order. In BF16 each product's operands are rounded by
 * 2^-9: some layers of them make about 1 %; with 8 bits in the transformer's
 * blocks it is up to 3 %. */
static inline double limit_on(const char *device, double limit)
{
    return !strncmp(device, "cuda-f32", 8) ? 4 * limit :
           !strncmp(device, "cuda", 4) || strstr(device, "-bf16") ? 3e-2 :
           strstr(device, "-int8") ? 6e-2 : limit;
}

/* A backend by its name, as users ask for it: "cpu-bf16" is device cpu with
 * precision bf16, and "cpu" is exact. */
static inline void params_backend(WanModelParams *p, const char *backend)
{
    static char device[64];
    static const char *const suffix[] = { "-f32", "-bf16", "-int8" };

    snprintf(device, sizeof(device), "%s", backend);
    p->device = device;
    p->precision = strncmp(backend, "cuda", 4) ? WAN_PRECISION_F32
                                               : WAN_PRECISION_AUTO;
    for (int i = 0; i < 3; i++) {
        char *at = strstr(device, suffix[i]);

        if (!at)
            continue;
        memmove(at, at + strlen(suffix[i]), strlen(at + strlen(suffix[i])) + 1);
        p->precision = (enum WanPrecision)(WAN_PRECISION_F32 + i);
    }
}

static inline void print_log(void *opaque, enum WanLogLevel level,
                             const char *line)
{
    (void)opaque;
    if (level <= WAN_LOG_WARNING)
        printf("# %s\n", line);
}

static const WanLog test_log = { print_log, NULL, WAN_LOG_WARNING };

/* A tiny checkpoint of the golden directory, of a host of ranks or NULL; what
 * the folder lacks comes from wan-t2v. Ends the program on failure. */
static inline WanModel *open_tiny_of(const char *folder, const char *device,
                                     WanRanks *ranks)
{
    char path[4096], rest[4096], clip[4096];
    WanModelParams p;
    WanModel *m;

    snprintf(path, sizeof(path), "%s", golden_path(folder));
    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    snprintf(clip, sizeof(clip), "%s", golden_path("tiny/wan-i2v"));
    wan_model_params_default(&p);
    p.path = path;
    params_backend(&p, device);
    p.threads = 2;
    p.log = print_log;
    p.log_level = WAN_LOG_WARNING;
    if (!strstr(folder, "diffusers") || strstr(folder, "a14b") ||
        strstr(folder, "vace")) {
        p.text_encoder = p.tokenizer = rest;
        p.vae = strstr(folder, "wan22-ti2v") ? NULL : rest;
        p.clip = clip;
    }
    if (wan_model_open(&m, &p) < 0 ||
        (ranks && wan_model_join(m, ranks, &p) < 0))
        golden_fail("can't be opened as a model", path);
    return m;
}

static inline WanModel *open_tiny(const char *folder, const char *device)
{
    return open_tiny_of(folder, device, NULL);
}

static inline WanDev *open_dev(const char *device)
{
    WanDev *d;

    if (wan_dev_open(&d, device, 2, ARENA, &test_log) < 0)
        golden_fail("can't be opened", device);
    return d;
}

/* The values of a tensor of the device, to free(). */
static inline float *values_of(WanDev *d, const WanTensor *t)
{
    float *v = calloc(wan_count(t) + 1, sizeof(*v));

    wan_op_download(d, v, t);
    return v;
}

/* test_rel_l2() of a tensor of the device. */
static inline double tensor_rel_l2(WanDev *d, const WanTensor *t,
                                   const float *want, size_t n)
{
    float *v = values_of(d, t);
    const double err = test_rel_l2(v, want, n);

    free(v);
    return err;
}

/* The images of a golden, as it has them. */
static inline void golden_images(WanImage image[2], Golden *g)
{
    for (int i = 0; i < 2; i++) {
        const GoldenTensor *t = golden_look(g, i ? "image1" : "image0");

        if (t)
            image[i] = (WanImage){ .size = sizeof(WanImage),
                                   .format = WAN_PIX_RGB24,
                                   .width = (int)t->dim[1],
                                   .height = (int)t->dim[0],
                                   .data = { (void *)t->raw },
                                   .stride = { 3 * t->dim[1] } };
    }
}

/* The VACE control of a golden. */
typedef struct GoldenControl {
    WanControl control;
    const WanControl *list[WAN_CONTROLS];   // that one alone
    WanImage image[2][16], reference[4];
    const WanImage *pointer[3][16];
    uint8_t *mask;                          // [f, h, w, 3]
    float *grey;                            // of a frame that is not given
} GoldenControl;

static inline void golden_control_free(GoldenControl *c)
{
    free(c->mask);
    free(c->grey);
}

static inline WanImage golden_rgb(const uint8_t *rgb, int64_t h, int64_t w)
{
    return (WanImage){ .size = sizeof(WanImage), .format = WAN_PIX_RGB24,
                       .width = (int)w, .height = (int)h,
                       .data = { (void *)rgb }, .stride = { 3 * w } };
}

static inline void golden_clip(GoldenControl *c, Golden *g)
{
    const GoldenTensor *rgb = golden_find(g, "in.frames_u8");
    const GoldenTensor *mask = golden_find(g, "in.mask_u8");
    const GoldenTensor *given = golden_look(g, "in.given");
    const int64_t f = rgb->dim[0], h = rgb->dim[1], w = rgb->dim[2];

    c->mask = malloc(3 * mask->n);
    c->grey = malloc(h * w * sizeof(*c->grey));
    for (int64_t i = 0; i < 3 * mask->n; i++)
        c->mask[i] = mask->raw[i / 3];
    for (int64_t i = 0; i < h * w; i++)
        c->grey[i] = 0.5f;
    for (int i = 0; i < f && i < 16; i++) {
        c->image[0][i] = golden_rgb(rgb->raw + i * 3 * h * w, h, w);
        c->image[1][i] = golden_rgb(c->mask + i * 3 * h * w, h, w);
        if (given && !given->raw[i])
            c->image[0][i] = (WanImage){
                .size = sizeof(WanImage), .format = WAN_PIX_GBRPF32,
                .width = (int)w, .height = (int)h,
                .data = { c->grey, c->grey, c->grey },
                .stride = { 4 * w, 4 * w, 4 * w },
            };
        for (int k = 0; k < 2; k++)
            c->pointer[k][i] = &c->image[k][i];
    }
    c->control.video = c->pointer[0];
    c->control.mask = c->pointer[1];
    c->control.nb_frames = (int)f;
}

static inline void golden_control(GoldenControl *c, Golden *g, const cJSON *a)
{
    const cJSON *scale = cJSON_GetObjectItem(a, "context_scale");
    const GoldenTensor *t;
    char name[16];

    *c = (GoldenControl){ .control = { .size = sizeof(WanControl),
                                       .scale = scale ? scale->valuedouble
                                                      : 1 },
                          .list = { &c->control } };
    if (golden_look(g, "in.frames_u8"))
        golden_clip(c, g);
    for (int i = 0; snprintf(name, sizeof(name), "ref%d", i),
                    (t = golden_look(g, name)); i++) {
        c->reference[i] = golden_rgb(t->raw, t->dim[0], t->dim[1]);
        c->pointer[2][i] = &c->reference[i];
        c->control.nb_references = i + 1;
    }
    c->control.references = c->pointer[2];
}

static inline int golden_number(const cJSON *a, const char *key,
                                int otherwise)
{
    const cJSON *v = cJSON_GetObjectItem(a, key);

    return v ? v->valueint : otherwise;
}

/* Fill rq from the golden's arguments of generate(). */
static inline void golden_request(WanRequest *rq, const WanModel *m,
                                  const Golden *g, const cJSON *a,
                                  const WanImage image[2])
{
    const cJSON *size = cJSON_GetObjectItem(a, "size");
    const cJSON *scale = cJSON_GetObjectItem(a, "guide_scale");
    const char *solver = cJSON_GetStringValue(
        cJSON_GetObjectItem(a, "sample_solver"));

    wan_request_default(rq, m);
    if (size) {
        rq->width = size->child->valueint;
        rq->height = size->child->next->valueint;
    } else {        // image models: about that area, in the image's aspect
        rq->width = golden_number(a, "max_area", 0);
        rq->height = 1;
        CHECK(wan_request_fit(rq, m, image[0].width, image[0].height) == 0);
    }
    rq->image = image[0].size ? &image[0] : NULL;
    rq->last_image = image[1].size ? &image[1] : NULL;
    rq->prompt = cJSON_GetStringValue(cJSON_GetObjectItem(a, "prompt"));
    rq->negative_prompt = golden_meta_string(g, "negative_prompt");
    rq->frames = golden_number(a, "frame_num", 81);
    rq->steps = golden_number(a, "sampling_steps", 50);
    rq->seed = golden_number(a, "seed", 0);
    rq->guidance = scale->valuedouble;
    if (cJSON_IsArray(scale)) {             // of low noise, of high noise
        rq->guidance2 = scale->child->valuedouble;
        rq->guidance = scale->child->next->valuedouble;
        rq->boundary = atof(golden_meta_string(g, "boundary"));
    }
    rq->shift = cJSON_GetObjectItem(a, "shift")->valuedouble;
    rq->sampler = solver && !strcmp(solver, "dpm++") ? WAN_SAMPLER_DPMPP
                                                     : WAN_SAMPLER_UNIPC;
    rq->rng = WAN_RNG_CPU;
}

/* The video that a golden starts from, if it does. */
typedef struct GoldenVideo {
    WanImage frame[16];
    const WanImage *list[16];
    int first_step;
} GoldenVideo;

static inline void golden_video(GoldenVideo *v, WanRequest *rq, Golden *g,
                                const cJSON *a)
{
    const GoldenTensor *t = golden_look(g, "in.frames_u8");

    memset(v, 0, sizeof(*v));
    if (!t)
        return;
    const int h = (int)t->dim[1], w = (int)t->dim[2];

    for (int i = 0; i < t->dim[0]; i++) {
        v->frame[i] = (WanImage){ .size = sizeof(WanImage),
                                  .format = WAN_PIX_RGB24, .width = w,
                                  .height = h, .stride = { 3 * w },
                                  .data = { (uint8_t *)t->raw + 3 * w * h * i } };
        v->list[i] = &v->frame[i];
    }
    rq->video = v->list;
    rq->nb_video = (int)t->dim[0];
    rq->strength = cJSON_GetObjectItem(a, "strength")->valuedouble;
    v->first_step = atoi(golden_meta_string(g, "first_step"));
}

/* Taps of one run against tensors "prefix + name". */
typedef struct Taps {
    Golden *golden;
    const char *prefix;
    double limit;           // relative L2
    int channels_last;      // taps are [.., C], goldens [C, ..]
    int seen;
    double worst;
} Taps;

static inline void check_tap(void *opaque, const char *name,
                             const WanTensor *t)
{
    Taps *taps = opaque;
    char full[256];
    const GoldenTensor *g;
    float *v;
    double err;

    snprintf(full, sizeof(full), "%s%s", taps->prefix, name);
    if (!(g = golden_look(taps->golden, full)))
        return;
    if (!strcmp(name, "conv2.chunk0"))
        return;             // the golden holds all chunks
    const int64_t n = wan_count(t), C = wan_cols(t), rows = n / C;
    v = malloc(n * sizeof(*v));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < C; c++)
            v[taps->channels_last ? c * rows + i : i * C + c] =
                wan_row(t, i)[c];

    /* Either may hold more rows of the same width: goldens show only the
     * first of some, and we keep one of the text's equal padded rows. */
    CHECKF(g->n == n || !taps->channels_last, "%s: %lld values, golden %lld",
           full, (long long)n, (long long)g->n);
    err = test_rel_l2(v, g->data, g->n < n ? g->n : n);
    taps->seen++;
    CHECKF(err <= taps->limit, "%s: relative L2 %.2e, limit %.1e", full, err,
           taps->limit);
    if (err > taps->worst)
        taps->worst = err;
    free(v);
}

#endif /* WAN_MODEL_TEST_H */
