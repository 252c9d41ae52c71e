/*
 * Jobs through wan.h: requests that are refused, cancelling, sharing a model,
 * what goes wrong in the middle.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "golden.h"
#include "model.h"
#include "test.h"

static char last[1024];         // the last error line
static pthread_mutex_t last_lock = PTHREAD_MUTEX_INITIALIZER;

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    pthread_mutex_lock(&last_lock);
    if (level <= WAN_LOG_WARNING)
        snprintf(last, sizeof(last), "%s", line);
    pthread_mutex_unlock(&last_lock);
}

static WanModel *open_model(const char *device, int64_t memory)
{
    WanModelParams p;
    WanModel *m = NULL;

    wan_model_params_default(&p);
    p.path = golden_path("tiny/wan-t2v");
    p.device = device;
    p.threads = 2;
    p.memory = memory;
    p.log = keep;
    p.log_level = WAN_LOG_VERBOSE;
    if (!CHECKF(wan_model_open(&m, &p) == 0, "%s", last))
        exit(1);
    return m;
}

static WanRequest small_request(const WanModel *m)
{
    WanRequest rq;

    wan_request_default(&rq, m);
    rq.prompt = "a cat";
    rq.negative_prompt = "";
    rq.width = 32;
    rq.height = 16;
    rq.frames = 5;
    rq.steps = 2;
    rq.rng = WAN_RNG_CPU;
    return rq;
}

/* Run to the end; frames as rgb24 one after another in out, if given. */
static int run(WanModel *m, const WanRequest *rq, uint8_t *out)
{
    uint8_t *rgb = malloc(3 * rq->width * rq->height);
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = rq->width,
                     .height = rq->height, .data = { rgb },
                     .stride = { 3 * rq->width } };
    WanJob *job;
    int ret = wan_job_open(&job, m, rq);

    while (ret >= 0 && (ret = wan_job_step(job, NULL)) >= 0) {
        while ((ret = wan_job_frame(job, &img)) >= 0) {
            if (out) {
                memcpy(out, rgb, 3 * rq->width * rq->height);
                out += 3 * rq->width * rq->height;
            }
        }
        if (ret == WAN_EOF)
            break;
        if (ret == WAN_ERR(EAGAIN))
            ret = 0;
    }
    wan_job_close(&job);
    free(rgb);
    return ret;
}

/* The CPU has no products in 8 bits: it says so and goes on. */
TEST(fp8)
{
    WanModelParams p;
    WanModel *m;

    wan_model_params_default(&p);
    CHECK(p.fp8 == WAN_FP8_AUTO);
    p.path = golden_path("tiny/wan-t2v");
    p.device = "cpu";
    p.log = keep;
    for (int fp8 = WAN_FP8_AUTO; fp8 <= WAN_FP8_ON; fp8++) {
        last[0] = 0;
        p.fp8 = (enum WanFp8)fp8;
        CHECK(wan_model_open(&m, &p) == 0);
        CHECKF(!last[0] == (fp8 != WAN_FP8_ON), "%s", last);
        CHECK(fp8 != WAN_FP8_ON || strstr(last, "option fp8: device cpu"));
        CHECK(!m->dit.blocks[0].ffn[0].e4m3);
        wan_model_close(&m);
    }
    p.fp8 = (enum WanFp8)3;
    CHECK(wan_model_open(&m, &p) == WAN_ERR(EINVAL) && strstr(last, "fp8"));
}

static int said_precision;      // lines of it

static void count_precision(void *opaque, enum WanLogLevel level,
                            const char *line)
{
    said_precision += !strncmp(line, "precision: ", 11);
    keep(opaque, level, line);
}

/* What is opened is what was asked for, is in the model's description, and is
 * said once; and so it is of shapes, which say nothing. */
TEST(precision)
{
    static const struct {
        const char *device;
        enum WanPrecision asked;
        const char *opened;
    } list[] = {
        { "cpu", WAN_PRECISION_F32, "cpu" },
        { "cpu", WAN_PRECISION_BF16, "cpu-bf16" },
        { "ref", WAN_PRECISION_AUTO, "ref" },
        { "ref", WAN_PRECISION_F32, "ref" },
        { "ref", WAN_PRECISION_BF16, NULL },
        { "ref", WAN_PRECISION_INT8, NULL },
        { "cpu-bf16", WAN_PRECISION_AUTO, NULL },
        { "cpu-bf16", WAN_PRECISION_BF16, NULL },
        { "cpu", (enum WanPrecision)4, NULL },
        { "cpu", (enum WanPrecision)-1, NULL },
    };
    WanModelParams p;
    WanModel *m;

    wan_model_params_default(&p);
    CHECK(p.precision == WAN_PRECISION_AUTO && !p.reserved);
    p.path = golden_path("tiny/wan-t2v");
    p.log = count_precision;
    p.log_level = WAN_LOG_INFO;
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        int ret;

        p.device = list[i].device;
        p.precision = list[i].asked;
        said_precision = 0;
        last[0] = 0;
        ret = wan_model_open(&m, &p);
        CHECKF((ret < 0) == !list[i].opened, "%s %d", p.device, p.precision);
        if (ret < 0) {
            CHECKF(last[0] && !said_precision, "%s", last);
            CHECK(wan_model_probe(&p) == ret);
            CHECK(wan_model_open_shapes(&m, "t2v-1.3B", &p) == ret && !m);
            continue;
        }
        CHECKF(!strcmp(m->device, list[i].opened), "%s", m->device);
        CHECK(m->info.precision == (p.precision ? p.precision
                                                : WAN_PRECISION_F32));
        CHECK(m->info.precision_native == m->choice.native);
        CHECKF(said_precision == 1, "%d lines", said_precision);
        wan_model_close(&m);
        CHECK(wan_model_probe(&p) == 0);
        if (CHECK(wan_model_open_shapes(&m, "t2v-1.3B", &p) == 0))
            CHECK(!strcmp(m->device, list[i].opened));
        CHECKF(said_precision == 1, "%d lines", said_precision);
        wan_model_close(&m);
    }
    CHECKF(strstr(last, "option precision: -1 is none"), "%s", last);
    p.precision = WAN_PRECISION_AUTO;
    p.reserved = 1;
    CHECK(wan_model_open(&m, &p) == WAN_ERR(EINVAL));
    CHECKF(strstr(last, "reserved"), "%s", last);
}

/* A clip in BF16 is that of F32, nearly; the plan is of what will compute. */
TEST(bf16_clip)
{
    uint8_t out[2][5 * 32 * 16 * 3];
    double square = 0;
    int differ = 0;

    for (int i = 0; i < 2; i++) {
        WanModelParams p;
        WanModel *m;
        WanPlan plan;

        wan_model_params_default(&p);
        p.path = golden_path("tiny/wan-t2v");
        p.device = "cpu";
        p.threads = 2;
        p.log = keep;
        p.precision = i ? WAN_PRECISION_BF16 : WAN_PRECISION_F32;
        if (!CHECKF(wan_model_open(&m, &p) == 0, "%s", last))
            return;
        WanRequest rq = small_request(m);
        CHECK(wan_plan(&plan, m, &rq) == 0 && plan.work_bytes > 0);
        CHECK(run(m, &rq, out[i]) == WAN_EOF);
        wan_model_close(&m);
    }
    for (size_t k = 0; k < sizeof(*out); k++) {
        const double d = (double)out[0][k] - out[1][k];

        differ += d != 0;
        square += d * d;
    }
    CHECKF(differ > 0 && sqrt(square / sizeof(*out)) < 2, "%d differ, by %g",
           differ, sqrt(square / sizeof(*out)));
}

static char int8_line[256];     // what was said of columns in 8 bits

static void keep_int8(void *opaque, enum WanLogLevel level, const char *line)
{
    if (!strncmp(line, "int8: ", 6))
        snprintf(int8_line, sizeof(int8_line), "%s", line);
    keep(opaque, level, line);
}

/* How many columns stayed in BF16, and how many are as a file of Q8_0 has them:
 * all there, whose blocks have no other matrices. */
TEST(int8_columns)
{
    static const struct { const char *path, *end; } list[] = {
        { "tiny/wan-t2v", "lost over 5 %" },
        { "tiny/gguf/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf",
          "lost over 5 %; 100 % were multiplied as they are, in Q8_0, and lost "
          "nothing" },
    };
    char path[4096], rest[4096];

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    for (int i = 0; i < 2; i++) {
        WanModelParams p;
        WanModel *m;

        snprintf(path, sizeof(path), "%s", golden_path(list[i].path));
        wan_model_params_default(&p);
        p.path = path;
        p.text_encoder = p.vae = p.tokenizer = rest;
        p.device = "cpu";
        p.precision = WAN_PRECISION_INT8;
        p.threads = 2;
        p.log = keep_int8;
        p.log_level = WAN_LOG_INFO;
        int8_line[0] = 0;
        if (!CHECKF(wan_model_open(&m, &p) == 0, "%s", last))
            return;
        WanRequest rq = small_request(m);
        CHECK(run(m, &rq, NULL) == WAN_EOF);
        wan_model_close(&m);

        const size_t from = strlen(int8_line), n = strlen(list[i].end);
        CHECKF(from > n && !strcmp(int8_line + from - n, list[i].end), "%s",
               int8_line);
    }
}

/* Each impossible number is refused by its option's name. */
TEST(requests_are_checked)
{
    WanModel *m = open_model("cpu", 0);
    const WanRequest good = small_request(m);
    WanRequest rq;

#define REFUSED(field, value, option) \
    do { \
        rq = good; \
        rq.field = value; \
        last[0] = 0; \
        CHECKF(wan_request_check(&rq, m) == WAN_ERR(EINVAL), "%s = %s", \
               #field, #value); \
        CHECKF(strstr(last, option) != NULL, "'%s' in '%s'", option, last); \
    } while (0)

    CHECK(wan_request_check(&good, m) == 0);
    REFUSED(prompt, NULL, "prompt");
    REFUSED(prompt, "a \xff cat", "option prompt: not UTF-8 at byte 2");
    REFUSED(negative_prompt, "\xed\xa0\x80", "option negative_prompt: not");
    REFUSED(width, 0, "size");
    REFUSED(width, -16, "size");
    REFUSED(width, 33, "size");
    REFUSED(height, 24, "size");
    REFUSED(height, 1 << 30, "size");
    REFUSED(frames, 0, "frames");
    REFUSED(frames, -3, "frames");
    REFUSED(frames, 80, "frames");
    REFUSED(frames, 2147483645, "frames");
    REFUSED(steps, 0, "steps");
    REFUSED(steps, 1001, "steps");
    REFUSED(guidance, -1, "guidance");
    REFUSED(guidance, NAN, "guidance");
    REFUSED(guidance, INFINITY, "guidance");
    REFUSED(shift, 0, "shift");
    REFUSED(shift, NAN, "shift");
    REFUSED(sampler, (enum WanSampler)9, "sampler");
    REFUSED(rng, (enum WanRng)9, "rng");
    REFUSED(rng_threads, 0, "rng_threads");
    REFUSED(rng_threads, 1000, "rng_threads");
    wan_model_close(&m);
}

TEST(prompts)
{
    WanModel *m = open_model("cpu", 0);
    WanRequest rq = small_request(m);
    char *longer = malloc(100001);

    rq.steps = 1;
    rq.frames = 1;
    rq.prompt = "";
    CHECK(run(m, &rq, NULL) == WAN_EOF);
    for (int i = 0; i < 100000; i++)
        longer[i] = "a cat. "[i % 7];
    longer[100000] = 0;
    rq.prompt = longer;
    CHECK(run(m, &rq, NULL) == WAN_EOF);
    CHECKF(strstr(last, "cut"), "%s", last);
    rq.prompt = "a \xff cat";
    CHECK(run(m, &rq, NULL) == WAN_ERR(EINVAL));
    CHECKF(strstr(last, "UTF-8"), "%s", last);
    free(longer);
    wan_model_close(&m);
}

TEST(memory_is_said_before_sampling)
{
    WanModel *m = open_model("cpu", 1 << 20);
    WanRequest rq = small_request(m);
    WanPlan plan;
    WanJob *job;

    rq.width = rq.height = 512;
    CHECK(wan_plan(&plan, m, &rq) == 0);
    CHECK(plan.available_bytes == 1 << 20 && plan.work_bytes > 1 << 20);
    CHECK(plan.tokens == 2 * 32 * 32);
    CHECK(wan_job_open(&job, m, &rq) == WAN_ERR(ENOMEM) && !job);
    CHECKF(strstr(last, "need") && strstr(last, "memory"), "%s", last);
    wan_model_close(&m);
}

/* An input image takes memory too: it is refused before it is taken, and by
 * its own name. */
TEST(images_are_counted)
{
    /* one row for all: a large image without the memory of one */
    WanImage image = { .size = sizeof(image), .format = WAN_PIX_RGB24,
                       .width = 4000, .height = 4000, .data = { NULL } };
    static char base[4096];
    WanModelParams p;
    WanModel *m;
    WanPlan small, large;
    WanRequest rq;
    WanJob *job;

    snprintf(base, sizeof(base), "%s", golden_path("tiny/wan-t2v"));
    wan_model_params_default(&p);
    p.path = golden_path("tiny/wan-i2v");
    p.text_encoder = p.vae = p.tokenizer = base;
    p.threads = 1;
    p.memory = 300 << 20;
    p.log = keep;
    if (!CHECKF(wan_model_open(&m, &p) == 0, "%s", last))
        return;
    rq = small_request(m);
    rq.image = &image;
    image.data[0] = calloc(3, 4000);
    CHECK(wan_plan(&large, m, &rq) == 0);
    image.width = image.height = 16;
    image.stride[0] = 48;
    CHECK(wan_plan(&small, m, &rq) == 0);
    CHECKF(large.work_bytes - small.work_bytes >= 2 * 12 * 15900000ll,
           "%lld and %lld", (long long)small.work_bytes,
           (long long)large.work_bytes);
    image.width = image.height = 4000;
    image.stride[0] = 0;
    last[0] = 0;
    CHECK(wan_job_open(&job, m, &rq) == WAN_ERR(ENOMEM) && !job);
    CHECKF(strstr(last, "option image: with its 4000x4000 pixels"), "%s",
           last);
    image.width = image.height = 16;
    image.stride[0] = 48;
    CHECKF(wan_job_open(&job, m, &rq) == 0, "%s", last);
    wan_job_close(&job);
    /* where the video is what is large, it is named */
    rq.width = rq.height = 2048;
    CHECK(wan_job_open(&job, m, &rq) == WAN_ERR(ENOMEM));
    CHECKF(strstr(last, "2048x2048, 5 frames need"), "%s", last);
    free(image.data[0]);
    wan_model_close(&m);
}

/* A video that is drawn again: each impossible one by its option's name, and the
 * smallest strength is one that can be. */
TEST(video_requests_are_checked)
{
    static uint8_t pixels[3 * 32 * 16];
    WanModel *m = open_model("cpu", 0);
    WanImage frame = { .size = sizeof(frame), .format = WAN_PIX_RGB24,
                       .width = 32, .height = 16, .data = { pixels },
                       .stride = { 3 * 32 } };
    WanImage other = frame;
    const WanImage *video[5] = { &frame, &frame, &frame, &frame, &frame };
    WanRequest good = small_request(m), rq;

    good.video = video;
    good.nb_video = 5;
    CHECK(good.strength == 0.8);
    CHECK(wan_request_check(&good, m) == 0);
    REFUSED(nb_video, 4, "option video: it has 4 frames, but frames is 5");
    REFUSED(strength, 0, "option strength: 0; above 0, to 1 can be");
    REFUSED(strength, NAN, "option strength: nan");
    REFUSED(strength, 1.01, "option strength: 1.01");
    REFUSED(strength, 0.49, "option strength: 0.49 of 2 steps is none; 0.5 is "
            "the smallest that makes one");
    REFUSED(image, &frame, "option image: there is a video");
    video[3] = NULL;
    REFUSED(nb_video, 5, "option video: one of its images is not there");
    video[3] = &other;
    other.width = 0;
    REFUSED(nb_video, 5, "option video: 0x16; sides");
    other = frame;
    other.format = WAN_PIX_YUV420P;
    REFUSED(nb_video, 5, "option video: it must be rgb24");
    other = frame;
    other.size = 0;
    REFUSED(nb_video, 5, "WanImage: its size is 0");
    video[3] = &frame;

    for (rq = good; rq.steps <= WAN_MAX_STEPS; rq.steps++) {
        const char *smallest;

        rq.strength = 0.9 / rq.steps;
        CHECK(wan_request_check(&rq, m) == WAN_ERR(EINVAL));
        smallest = strstr(last, "is none; ");
        if (!CHECKF(smallest != NULL, "%s", last))
            break;
        rq.strength = atof(smallest + 9);
        if (!CHECKF(wan_request_check(&rq, m) == 0, "%d steps: %s", rq.steps,
                    last))
            break;
    }
    wan_model_close(&m);
}

#undef REFUSED

/* Its frames are memory; how far it goes is how many steps are made, and where
 * nothing is left of it it does not count any more. */
TEST(video_to_video)
{
    enum { FRAME = 3 * 32 * 16, CLIP = 5 * FRAME };
    static uint8_t pixels[2][FRAME], clip[3][CLIP];
    WanModel *m = open_model("cpu", 0);
    WanImage frame = { .size = sizeof(frame), .format = WAN_PIX_RGB24,
                       .width = 32, .height = 16, .data = { pixels[0] },
                       .stride = { 3 * 32 } };
    const WanImage *video[5] = { &frame, &frame, &frame, &frame, &frame };
    WanRequest rq = small_request(m);
    WanProgress p = { 0 };
    WanPlan bare, plan;
    WanJob *job;

    for (int i = 0; i < FRAME; i++)
        pixels[1][i] = (uint8_t)(i * 7);
    CHECK(wan_plan(&bare, m, &rq) == 0);
    rq.video = video;
    rq.nb_video = 5;
    rq.steps = 8;
    rq.strength = 0.4;
    CHECK(wan_plan(&plan, m, &rq) == 0);
    CHECK(plan.work_bytes >= bare.work_bytes + 4 * CLIP);
    CHECK(plan.image_flops > 0 && bare.image_flops == 0);

    CHECK(wan_job_open(&job, m, &rq) == 0);
    while (p.stage != WAN_STAGE_DECODE && !wan_job_step(job, &p))
        if (p.stage == WAN_STAGE_STEPS)
            CHECKF(p.total == 3, "%d steps", p.total);
        else if (p.stage == WAN_STAGE_IMAGE)
            CHECKF(p.total == 2, "%d groups of frames", p.total);
    wan_job_close(&job);

    rq.sampler = WAN_SAMPLER_DPMPP;     // whose noise is all there is at first
    rq.strength = 1;
    CHECK(run(m, &rq, clip[0]) == WAN_EOF);
    frame.data[0] = pixels[1];
    CHECK(run(m, &rq, clip[1]) == WAN_EOF);
    CHECK(!memcmp(clip[0], clip[1], CLIP));
    rq.strength = 0.9;
    CHECK(run(m, &rq, clip[2]) == WAN_EOF);
    CHECK(memcmp(clip[1], clip[2], CLIP));
    rq.video = NULL;
    CHECK(run(m, &rq, clip[2]) == WAN_EOF);
    CHECK(!memcmp(clip[0], clip[2], CLIP));
    wan_model_close(&m);
}

/* A size that is chosen is one that can be asked for. */
TEST(sizes_for_images)
{
    WanModel *m = open_model("cpu", 0);
    WanRequest rq = small_request(m);

    rq.width = 832;
    rq.height = 480;
    CHECK(wan_request_fit(&rq, m, 300, 400) == 0);
    CHECKF(rq.width == 544 && rq.height == 720, "%dx%d", rq.width, rq.height);
    CHECK(wan_request_check(&rq, m) == 0);
    rq.width = 832;
    rq.height = 480;
    for (int i = 0; i < 2; i++) {
        last[0] = 0;
        CHECK(wan_request_fit(&rq, m, i ? 11295 : 48, i ? 48 : 11295) ==
              WAN_ERR(EINVAL));
        CHECKF(strstr(last, "option image") && strstr(last, "8192"), "%s",
               last);
        CHECK(rq.width == 832 && rq.height == 480);
    }
    CHECK(wan_request_fit(&rq, m, 0, 5) == WAN_ERR(EINVAL));
    wan_model_close(&m);
}

/* guidance 1 runs one forward a step, and no negative prompt. */
TEST(guidance_one_is_half_the_work)
{
    WanModel *m = open_model("cpu", 0);
    WanRequest rq = small_request(m);
    WanPlan one, two;

    rq.width = rq.height = 256;     // so that the shared time is little
    rq.guidance = 1;
    CHECK(wan_plan(&one, m, &rq) == 0);
    rq.guidance = 5;
    CHECK(wan_plan(&two, m, &rq) == 0);
    CHECK(two.step_flops > 1.5 * one.step_flops &&
          two.step_flops < 2 * one.step_flops);
    rq = small_request(m);
    rq.guidance = 1;
    CHECK(run(m, &rq, NULL) == WAN_EOF);
    wan_model_close(&m);
}

static void frame_refused(WanJob *job, const WanImage *img, const char *words)
{
    last[0] = 0;
    CHECK(wan_job_frame(job, img) == WAN_ERR(EINVAL));
    CHECKF(strstr(last, words), "'%s' in '%s'", words, last);
}

TEST(frame_wants_fitting_planes)
{
    WanModel *m = open_model("cpu", 0);
    WanRequest rq = small_request(m);
    static uint8_t rgb[3 * 32 * 16];
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = 32, .height = 16,
                     .data = { rgb }, .stride = { 96 } };
    WanJob *job;

    rq.frames = 1;
    CHECK(wan_job_open(&job, m, &rq) == 0);
    CHECK(wan_job_frame(job, &img) == WAN_ERR(EAGAIN));
    while (wan_job_frame(job, &(WanImage){ 0 }) == WAN_ERR(EAGAIN))
        if (!CHECK(wan_job_step(job, NULL) == 0))
            break;
    img.stride[0] = 95;
    frame_refused(job, &img, "plane 0");
    img.stride[0] = 96;
    img.width = 16;
    frame_refused(job, &img, "16x16, the video is 32x16");
    img.width = 32;
    img.format = WAN_PIX_YUV420P;
    frame_refused(job, &img, "plane 1");                    // nor plane 2
    img.format = (enum WanPixelFormat)77;
    frame_refused(job, &img, "format 77");
    img.format = WAN_PIX_RGB24;
    img.dither = (enum WanDither)2;
    frame_refused(job, &img, "dither 2");
    frame_refused(job, NULL, "no image");
    img.dither = WAN_DITHER_BAYER;
    img.data[0] = rgb + 15 * 96;
    img.stride[0] = -96;
    CHECK(wan_job_frame(job, &img) == 0);                   // upside down
    CHECK(wan_job_frame(job, &img) == WAN_EOF);
    wan_job_close(&job);
    wan_model_close(&m);
}

/* A NaN among the weights ends the job with its step, not with noise. */
/* A picture after each step and at no other time; its size; the plan. */
TEST(previews)
{
    static const char *const vae[] = { NULL, "tiny/taew2_1/taew2_1.safetensors" };

    for (int i = 0; i < 2; i++) {
        char path[4096];
        unsigned char rgb[4 * 8 * 3], before[sizeof(rgb)] = { 0 };
        WanImage img = { sizeof(img), WAN_PIX_RGB24, 8, 4, WAN_DITHER_NONE,
                         { rgb }, { 24 } };
        WanModelParams p;
        WanModel *m = NULL;
        WanProgress progress = { 0 };
        WanPlan with, without;
        WanJob *job;
        int ret, seen = 0;

        wan_model_params_default(&p);
        snprintf(path, sizeof(path), "%s", golden_path("tiny/wan-t2v"));
        p.path = path;
        p.vae = vae[i] ? golden_path(vae[i]) : NULL;
        p.device = "cpu";
        p.threads = 2;
        p.log = keep;
        p.log_level = WAN_LOG_WARNING;
        if (!CHECKF(wan_model_open(&m, &p) == 0, "%s", last))
            return;
        WanRequest rq = small_request(m);

        CHECK(wan_job_open(&job, m, &rq) == 0);
        CHECK(wan_job_preview(job, &img) == WAN_ERR(EINVAL));
        CHECKF(strstr(last, "preview"), "%s", last);
        wan_job_close(&job);
        CHECK(wan_plan(&without, m, &rq) == 0);
        rq.preview = 2;
        CHECK(wan_request_check(&rq, m) == WAN_ERR(EINVAL));
        rq.preview = 1;
        CHECK(wan_plan(&with, m, &rq) == 0);
        CHECK(with.work_bytes > without.work_bytes);
        CHECK(with.step_flops >= without.step_flops);

        CHECK(wan_job_open(&job, m, &rq) == 0);
        CHECK(wan_job_preview(job, &img) == WAN_ERR(EAGAIN));
        while ((ret = wan_job_step(job, &progress)) >= 0 &&
               progress.stage < WAN_STAGE_DECODE) {
            const int step = progress.stage == WAN_STAGE_STEPS;

            CHECK(wan_job_preview(job, &img) == (step ? 0 : WAN_ERR(EAGAIN)));
            if (!step)
                continue;
            CHECK(memcmp(rgb, before, sizeof(rgb)));
            memcpy(before, rgb, sizeof(rgb));
            img.width = 32;
            CHECK(wan_job_preview(job, &img) == WAN_ERR(EINVAL));
            CHECKF(strstr(last, "8x4"), "%s", last);
            img.width = 8;
            seen++;
        }
        CHECK(ret == 0 && seen == rq.steps);
        CHECK(wan_job_preview(job, &img) == WAN_ERR(EAGAIN));
        wan_job_close(&job);
        wan_model_close(&m);
    }
}

TEST(not_finite_weights)
{
    WanModel *m = open_model("cpu", 0);
    WanRequest rq = small_request(m);

    ((float *)m->dit.head.head.bias.data)[5] = NAN;
    CHECK(run(m, &rq, NULL) == WAN_ERR(EDOM));
    CHECKF(strstr(last, "step 1 of 2"), "%s", last);
    wan_model_close(&m);
}

/* Work of the process: on a busy machine the same takes longer. */
static double work(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

typedef struct Canceller {
    WanJob *job;
    double at, done;
} Canceller;

static void *cancel_soon(void *opaque)
{
    Canceller *c = opaque;

    usleep(200000);
    c->at = work();
    wan_job_cancel(c->job);
    return NULL;
}

/* The scalar backend is slow enough to be caught inside one op. */
TEST(cancel_from_another_thread)
{
    WanModel *m = open_model("ref", 0);
    WanRequest rq = small_request(m);
    Canceller c = { 0 };
    pthread_t thread;
    int ret;

    rq.width = rq.height = 512;
    rq.frames = 17;
    rq.steps = 50;
    CHECK(wan_job_open(&c.job, m, &rq) == 0);
    pthread_create(&thread, NULL, cancel_soon, &c);
    while ((ret = wan_job_step(c.job, NULL)) == 0)
        ;
    c.done = work();
    pthread_join(thread, NULL);
    CHECK(ret == WAN_CANCELLED);
    CHECKF(c.done - c.at < 1, "%.2f s of work to stop", c.done - c.at);
    CHECK(wan_job_step(c.job, NULL) == WAN_CANCELLED);
    wan_job_close(&c.job);
    wan_model_close(&m);
}

typedef struct Runner {
    WanModel *model;
    WanRequest rq;
    uint8_t frames[5 * 3 * 32 * 16];
    int ret;
} Runner;

static void *run_thread(void *opaque)
{
    Runner *r = opaque;

    r->ret = run(r->model, &r->rq, r->frames);
    return NULL;
}

/* Jobs on one model do not see each other; the model outlives its handle. */
TEST(two_jobs_share_a_model)
{
    WanModel *m = open_model("cpu", 0);
    static Runner r[3];
    pthread_t thread[2];

    for (int i = 0; i < 3; i++) {
        r[i].model = m;
        r[i].rq = small_request(m);
        r[i].rq.seed = i == 1 ? 8 : 7;
    }
    run_thread(&r[2]);
    for (int i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, run_thread, &r[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 3; i++)
        CHECKF(r[i].ret == WAN_EOF, "job %d: %s", i, wan_strerror(r[i].ret));
    CHECK(!memcmp(r[0].frames, r[2].frames, sizeof(r[0].frames)));
    CHECK(memcmp(r[0].frames, r[1].frames, sizeof(r[0].frames)));

    WanRequest rq = small_request(m);
    WanJob *job;
    CHECK(wan_job_open(&job, m, &rq) == 0);
    wan_model_close(&m);
    CHECK(wan_job_step(job, NULL) == 0);
    wan_job_close(&job);
}

/* Rows that the encoder's first block had, and those of the two prompts. */
typedef struct Texts {
    int64_t encoded, rows[2];
    int taps;
} Texts;

static void count_rows(void *opaque, const char *name, const WanTensor *t)
{
    Texts *x = opaque;

    if (!strcmp(name, "block0"))
        x->encoded += wan_rows(t);
    if (!strcmp(name, "context") || !strcmp(name, "context_null")) {
        x->rows[name[7] != 0] = wan_rows(t);
        x->taps++;
    }
}

/* What the text stage of a job encodes. */
static Texts encode(WanModel *m, const WanRequest *rq)
{
    WanProgress p = { 0 };
    WanJob *job;
    Texts x = { 0 };

    if (!CHECK(wan_job_open(&job, m, rq) == 0))
        return x;
    wan_job_tap(job, count_rows, &x);
    do
        if (!CHECKF(wan_job_step(job, &p) == 0, "%s", last))
            break;
    while (p.done < p.total);
    CHECK(p.stage == WAN_STAGE_TEXT && x.taps == 1 + (rq->guidance != 1));
    CHECK(p.total == 1);                        // on the CPU together
    wan_job_close(&job);
    return x;
}

/* Words that an earlier job had are not encoded again, and the frames are the
 * same; other words are. */
TEST(prompts_are_encoded_once)
{
    WanModel *m = open_model("cpu", 0);
    WanRequest rq = small_request(m);
    static uint8_t frames[2][5 * 3 * 32 * 16];
    Texts x = encode(m, &rq);

    CHECK(x.encoded && x.encoded == x.rows[0] + x.rows[1]);
    CHECK(!encode(m, &rq).encoded);
    rq.prompt = "a dog on a roof";
    x = encode(m, &rq);
    CHECK(x.encoded && x.encoded == x.rows[0]);
    rq.negative_prompt = "a blurred picture of one";
    x = encode(m, &rq);
    CHECK(x.encoded && x.encoded == x.rows[1]);
    rq.guidance = 1;
    CHECK(!encode(m, &rq).encoded);
    CHECK(run(m, &rq, frames[0]) == WAN_EOF);
    wan_model_close(&m);
    m = open_model("cpu", 0);
    CHECK(run(m, &rq, frames[1]) == WAN_EOF);
    CHECK(!memcmp(frames[0], frames[1], sizeof(frames[0])));
    wan_model_close(&m);
}

/* Beside one that is kept a prompt is encoded alone, in other tiles than
 * together, which may want more: the plan has room for either. Keys and values
 * of 30 blocks would hide that. */
TEST(a_prompt_alone_fits)
{
    static char words[2][8 * WAN_TEXT_LEN];
    static int32_t ids[WAN_TEXT_LEN];
    const int32_t *const prompt = ids;
    WanModelParams p;
    WanModel *tiny = open_model("cpu", 0), *m;
    WanRequest rq;
    WanPlan plan;
    WanDev *d;

    wan_model_params_default(&p);
    p.device = "cpu";
    p.precision = WAN_PRECISION_BF16;
    p.threads = 4;
    p.log = keep;
    if (!CHECK(wan_model_open_shapes(&m, "t2v-1.3B", &p) == 0))
        return;
    for (int i = 0; i < 2; i++)
        for (int w = 0; w < (i ? 100 : 480); w++)
            strcat(words[i], "a ");
    wan_request_default(&rq, m);
    rq.prompt = words[0];
    rq.negative_prompt = words[1];
    rq.width = rq.height = 16;
    rq.frames = 1;
    m->tokenizer = tiny->tokenizer;
    m->dit.config.layers = 1;
    const int n = wan_tokenizer_encode(m->tokenizer, ids, NULL, words[0],
                                       &m->log);
    const int other = wan_tokenizer_encode(m->tokenizer, ids, NULL, words[1],
                                           &m->log);
    CHECKF(n <= 504 && n + other > 504, "%d and %d tokens", n, other);
    CHECK(wan_plan(&plan, m, &rq) == 0);

    CHECK(wan_dev_open_plan(&d, m->device, p.threads, NULL) == 0);
    WanTensor y = wan_tmp(d, n, m->t5.config.dim);
    wan_tmp(d, other, m->t5.config.dim);
    wan_t5_encode(d, 1, &y, &m->t5, &prompt);
    CHECKF(plan.work_bytes > d->peak, "%lld bytes are planned, %lld needed",
           (long long)plan.work_bytes, (long long)d->peak);
    wan_dev_close(&d);
    m->tokenizer = NULL;
    wan_model_close(&m);
    wan_model_close(&tiny);
}

int main(void)
{
    RUN(fp8);
    RUN(precision);
    RUN(bf16_clip);
    RUN(int8_columns);
    RUN(requests_are_checked);
    RUN(prompts);
    RUN(memory_is_said_before_sampling);
    RUN(images_are_counted);
    RUN(video_requests_are_checked);
    RUN(video_to_video);
    RUN(sizes_for_images);
    RUN(guidance_one_is_half_the_work);
    RUN(frame_wants_fitting_planes);
    RUN(previews);
    RUN(not_finite_weights);
    RUN(cancel_from_another_thread);
    RUN(two_jobs_share_a_model);
    RUN(prompts_are_encoded_once);
    RUN(a_prompt_alone_fits);
    return test_end();
}
