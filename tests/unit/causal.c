/*
 * Causal jobs through wan.h: the ring's counters, requests that are refused,
 * videos without an end and what comes after a long time, prompts that change,
 * the plan at full size, files of a training.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <pthread.h>

#include "golden.h"
#include "kvcache.h"
#include "model.h"
#include "test.h"

enum { W = 32, H = 16 };        // of the videos

static char last[1024];         // the last error line

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level == WAN_LOG_ERROR)
        snprintf(last, sizeof(last), "%s", line);
}

static int try_model(WanModel **m, const char *folder, const char *weights,
                     int64_t memory)
{
    char path[4096], rest[4096], vae[4096];
    WanModelParams p;

    snprintf(path, sizeof(path), "%s", golden_path(folder));
    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    wan_model_params_default(&p);
    p.path = path;
    p.text_encoder = p.tokenizer = rest;
    // the quick one: nobody looks at pixels here
    snprintf(vae, sizeof(vae), "%s", golden_path("tiny/taew2_1/taew2_1.safetensors"));
    p.vae = vae;
    p.device = "cpu";
    p.precision = WAN_PRECISION_F32;
    p.threads = 2;
    p.memory = memory;
    p.weights = weights;
    p.log = keep;
    p.log_level = WAN_LOG_ERROR;
    return wan_model_open(m, &p);
}

static WanModel *open_model(const char *folder)
{
    WanModel *m = NULL;

    if (!CHECKF(try_model(&m, folder, NULL, 0) == 0, "%s", last))
        exit(1);
    return m;
}

static WanRequest small_request(const WanModel *m, const char *preset)
{
    WanRequest rq;

    wan_request_default(&rq, m);
    CHECK(wan_request_preset(&rq, m, preset) == 0);
    rq.prompt = "a cat";
    rq.width = W;
    rq.height = H;
    rq.frames = 9;
    return rq;
}

/* ------------------------------------------------------------- the ring */

/* Against a list: the first frames stay, then the oldest goes. */
static void ring(int window, int sink, int block, int64_t origin)
{
    int64_t held[64];
    int n = 0;
    WanKvCache c;

    wan_kvcache_init(&c, window, sink, 10);
    wan_kvcache_restart(&c, origin);
    for (int64_t f = origin; f < origin + 5 * window; f += block) {
        for (int i = 0; i < block; i++) {
            if (n == window) {
                memmove(held + sink, held + sink + 1,
                        (n - sink - 1) * sizeof(*held));
                n--;
            }
            held[n++] = f + i;
        }
        wan_kvcache_place(&c, f, block);
        CHECK(wan_kvcache_held(&c) == n && c.held == 10 * n);
        CHECK(c.at == 10 * wan_kvcache_slot(&c, f));
        for (int i = 0; i < n; i++)
            CHECKF(wan_kvcache_rank(&c, wan_kvcache_slot(&c, held[i])) == i,
                   "window %d, sink %d, block %d: frame %lld is not %d", window,
                   sink, block, (long long)held[i], i);
    }
}

TEST(ring_counters)
{
    static const int64_t from[] = { 0, 40, INT32_MAX - 20LL,
                                    INT64_C(1) << 40 };

    for (int i = 0; i < 4; i++) {
        ring(9, 3, 3, from[i]);
        ring(7, 1, 3, from[i]);
        ring(6, 0, 3, from[i]);
        ring(4, 1, 1, from[i]);
        ring(12, 3, 3, from[i]);
        ring(21, 0, 3, from[i]);
    }
}

/* ------------------------------------------------------------- requests */

static void refused(const WanRequest *rq, const WanModel *m, const char *says)
{
    *last = 0;
    CHECK(wan_request_check(rq, m) == WAN_ERR(EINVAL));
    CHECKF(strstr(last, says), "\"%s\" does not say \"%s\"", last, says);
}

/* Options of causal models on an ordinary one. */
TEST(ordinary_model)
{
    static const double list[] = { 1000 };
    static const struct { size_t field; const char *name; } fields[] = {
        { offsetof(WanRequest, block), "option block" },
        { offsetof(WanRequest, first_block), "option first_block" },
        { offsetof(WanRequest, window), "option window" },
        { offsetof(WanRequest, sink), "option sink" },
        { offsetof(WanRequest, positions), "option positions" },
        { offsetof(WanRequest, prompt_switch), "option switch" },
        { offsetof(WanRequest, sink_reset), "option sink_reset" },
    };
    WanModel *m = open_model("tiny/wan-t2v");
    const WanRequest rq = small_request(m, "none");
    WanRequest r;

    CHECK(wan_request_check(&rq, m) == 0);
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
        r = rq;
        *(int *)((char *)&r + fields[i].field) = 1;
        refused(&r, m, fields[i].name);
        CHECKF(strstr(last, "causal=1"), "%s", last);
    }
    r = rq;
    r.first_timesteps = list;
    r.nb_first_timesteps = 1;
    refused(&r, m, "option first_timesteps");
    r = rq;
    r.frames = 0;
    refused(&r, m, "option frames");
    r = rq;
    r.nb_clip = 1;
    refused(&r, m, "option clip");
    wan_model_close(&m);
}

TEST(what_can_not_be)
{
    static const double rising[] = { 500, 1000 };
    WanModel *m = open_model("tiny/wan-t2v");
    const WanRequest rq = small_request(m, "self-forcing");
    WanRequest r;

#define REFUSED(says, ...) \
    (r = rq, __VA_ARGS__, refused(&r, m, says))
    CHECK(wan_request_check(&rq, m) == 0);
    REFUSED("option window: 5 latent frames; a sink of 3 and a block of 3 "
            "need 6", r.window = 5, r.sink = 3);
    REFUSED("option window", r.frames = 0, r.sink = 19);
    REFUSED("option block", r.block = 0);
    REFUSED("option block", r.block = 65);
    REFUSED("option first_block", r.first_block = -1);
    REFUSED("option sink", r.sink = -1, r.window = 9);
    REFUSED("option guidance", r.guidance = 5);
    REFUSED("option sampler: unipc", r.sampler = WAN_SAMPLER_UNIPC);
    REFUSED("option cache", r.cache = WAN_CACHE_EASY);
    REFUSED("option preview", r.preview = 1);
    REFUSED("option positions", r.positions = 2);
    REFUSED("option switch", r.prompt_switch = 2);
    REFUSED("option sink_reset", r.sink_reset = 2);
    REFUSED("option causal", r.causal = 2);
    REFUSED("option frames", r.frames = 8);
    REFUSED("option timesteps: number 2 is 1000; they must fall",
            r.timesteps = rising, r.nb_timesteps = r.steps = 2);
    REFUSED("option first_timesteps: number 2 is 1000; they must fall",
            r.first_timesteps = rising, r.nb_first_timesteps = 2);
    r = rq;
    r.window = 6, r.sink = 3;
    CHECK(wan_request_check(&r, m) == 0);
    wan_model_close(&m);
}

/* Frames of a clip must be whole blocks, of the video's size. */
TEST(clips)
{
    static uint8_t grey[3 * W * H];
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = W, .height = H, .data = { grey },
                     .stride = { 3 * W } };
    const WanImage *clip[9];
    WanModel *m = open_model("tiny/wan-t2v");
    WanRequest rq = small_request(m, "self-forcing");

    for (int i = 0; i < 9; i++)
        clip[i] = &img;
    rq.clip = clip;
    rq.nb_clip = 5;
    refused(&rq, m, "option clip: 5 frames; whole blocks must be: 9, 21, 33");
    rq.nb_clip = 9;
    CHECKF(wan_request_check(&rq, m) == 0, "%s", last);
    rq.image = &img;
    refused(&rq, m, "option clip");
    rq.image = NULL;
    img.width = 48;
    refused(&rq, m, "option clip: frame 0 is 48x16, the video 32x16");
    wan_model_close(&m);
}

/* --------------------------------------------------------------- videos */

typedef struct Seen {
    float *x0[64];              // of the last step of each block
    int64_t n;
    int blocks;
} Seen;

static void see(void *opaque, const char *name, const WanTensor *t)
{
    Seen *s = opaque;
    int block, n = 0;

    if (sscanf(name, "block%d.x0.3%n", &block, &n) == 1 && n && block < 64) {
        s->n = wan_count(t);
        s->x0[block] = malloc(s->n * sizeof(float));
        memcpy(s->x0[block], t->data, s->n * sizeof(float));
        s->blocks = block + 1;
    }
}

static void forget(Seen *s)
{
    for (int i = 0; i < 64; i++)
        free(s->x0[i]);
    *s = (Seen){ 0 };
}

/* So many frames of a video from latent frame at on; prompts[i] is asked for
 * when block i is in work. */
static void watch(Seen *s, WanModel *m, const WanRequest *rq, int64_t at,
                  int frames, const char *const *prompts)
{
    static uint8_t rgb[3 * W * H];
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = W, .height = H, .data = { rgb },
                     .stride = { 3 * W } };
    WanProgress p = { 0 };
    WanJob *job;
    int64_t asked = -1;
    int ret = 0;

    if (!CHECKF(wan_job_open(&job, m, rq) == 0, "%s", last))
        return;
    wan_job_tap(job, see, s);
    if (at)
        wan_job_start_at(job, at);
    while (frames > 0 && (ret = wan_job_step(job, &p)) >= 0) {
        if (prompts && p.stage == WAN_STAGE_STEPS && p.block > asked) {
            asked = p.block;
            if (prompts[asked])
                CHECK(wan_job_prompt(job, prompts[asked]) == 0);
        }
        while (frames > 0 && (ret = wan_job_frame(job, &img)) >= 0)
            frames--;
        if (ret == WAN_EOF)
            break;
    }
    CHECKF(!frames && ret >= 0, "%d frames are missing: %s", frames,
           wan_strerror(ret));
    wan_job_close(&job);
}

static double apart(const Seen *a, const Seen *b, int block)
{
    return block < a->blocks && block < b->blocks
           ? test_rel_l2(a->x0[block], b->x0[block], a->n) : INFINITY;
}

/* With generators of its blocks' own a video of some frames is the beginning
 * of the one without end. */
TEST(without_end)
{
    WanModel *m = open_model("tiny/wan-t2v");
    WanRequest rq = small_request(m, "self-forcing");
    Seen some = { 0 }, endless = { 0 };

    rq.frames = 33;
    rq.window = 6;
    rq.sink = 1;
    watch(&some, m, &rq, 0, 33, NULL);
    rq.frames = 0;
    watch(&endless, m, &rq, 0, 57, NULL);
    CHECK(some.blocks == 3 && endless.blocks == 5);
    for (int i = 0; i < 3; i++)
        CHECKF(apart(&some, &endless, i) == 0, "block %d: %g", i,
               apart(&some, &endless, i));
    CHECK(apart(&endless, &endless, 3) == 0);
    CHECK(test_rel_l2(endless.x0[3], endless.x0[4], endless.n) > 0.1);
    forget(&some);
    forget(&endless);
    wan_model_close(&m);
}

/* 2^31 latent frames and more later: rotary positions are differences, so a
 * video that begins there is the one that begins at 0; and counters go on. */
static void later(int positions)
{
    static const int64_t at[] = { INT64_C(2147483646) / 3 * 3,
                                  (INT64_C(1) << 33) + 1 };
    static const char *const prompts[] = { NULL, NULL, "a dog", NULL, NULL };
    WanModel *m = open_model("tiny/wan-t2v");
    WanRequest rq = small_request(m, "longlive");
    Seen start = { 0 }, late = { 0 };

    rq.frames = 0;
    rq.window = 6;
    rq.sink = 1;
    rq.positions = positions;
    watch(&start, m, &rq, 0, 1 + 4 * 14, prompts);
    for (int i = 0; i < 2; i++) {
        watch(&late, m, &rq, at[i], 4 * 15, prompts);
        CHECK(start.blocks == 5 && late.blocks == 5);
        for (int b = 0; b < 5; b++)
            CHECKF(apart(&start, &late, b) < 1e-4, "block %d at %lld: %g", b,
                   (long long)at[i], apart(&start, &late, b));
        forget(&late);
    }
    forget(&start);
    wan_model_close(&m);
}

TEST(much_later) { later(WAN_POSITIONS_ABSOLUTE); }
TEST(much_later_in_the_window) { later(WAN_POSITIONS_WINDOW); }

/* A prompt comes with the next block and stays; the last of several counts. */
TEST(prompts)
{
    static const char *const cats[] = { "a dog", "a cat", NULL };
    static const char *const none[] = { NULL, NULL, NULL };
    WanModel *m = open_model("tiny/wan-t2v");
    WanRequest rq = small_request(m, "self-forcing");
    Seen a = { 0 }, b = { 0 };
    WanJob *job;

    rq.frames = 33;
    watch(&a, m, &rq, 0, 33, none);
    watch(&b, m, &rq, 0, 33, cats);
    CHECK(apart(&a, &b, 0) == 0);
    CHECK(apart(&a, &b, 1) > 1e-5);     // the dog
    CHECK(apart(&a, &b, 2) > 1e-6);     // its traces
    forget(&a);
    forget(&b);

    CHECK(wan_job_open(&job, m, &rq) == 0);
    CHECK(wan_job_prompt(job, NULL) == WAN_ERR(EINVAL));
    CHECK(wan_job_prompt(job, "\xff") == WAN_ERR(EINVAL));
    CHECKF(strstr(last, "option prompt: not UTF-8 at byte 0"), "%s", last);
    CHECK(wan_job_prompt(NULL, "x") == WAN_ERR(EINVAL));
    CHECK(wan_job_step(job, NULL) == 0);
    wan_job_close(&job);

    rq = small_request(m, "none");
    CHECK(wan_job_open(&job, m, &rq) == 0);
    CHECK(wan_job_prompt(job, "a dog") == WAN_ERR(EINVAL));
    CHECKF(strstr(last, "option prompt"), "%s", last);
    CHECK(wan_job_step(job, NULL) == 0);
    wan_job_close(&job);
    wan_model_close(&m);
}

/* ----------------------------------------------------------------- plan */

static int near(double a, double b, double part)
{
    return fabs(a - b) <= part * b;
}

/* 480x832 of 1.3B, by hand: products of L tokens with layers of D and F,
 * attention to the window and to the text. */
TEST(full_size)
{
    const double D = 1536, F = 8960, L = 3 * 1560, W = 12 * 1560, text = 512;
    const double layer = 2 * L * D * (4 * D + 2 * D + 2 * F) +
                         4 * L * D * (W + text);
    WanModelParams p;
    WanModel *m;
    WanRequest rq;
    WanPlan plan;

    wan_model_params_default(&p);
    p.device = "cpu";
    p.precision = WAN_PRECISION_F32;
    p.log = keep;
    CHECK(wan_model_open_shapes(&m, "t2v-1.3B", &p) == 0);
    wan_request_default(&rq, m);
    CHECK(wan_request_preset(&rq, m, "longlive") == 0);
    rq.frames = 0;
    CHECKF(wan_plan(&plan, m, &rq) == 0, "%s", last);
    CHECKF(near(plan.step_flops, 30 * layer, 0.02), "%g, by hand %g",
           plan.step_flops, 30 * layer);
    CHECKF(near(plan.block_flops, 4 * plan.step_flops + 29 * layer +
                2 * L * D * 3 * D + plan.decode_flops, 0.02), "%g",
           plan.block_flops);
    /* 287.5 MB a latent frame of 2 bytes a number; here there are 4 */
    CHECKF(plan.cache_bytes == INT64_C(30) * 2 * 1536 * 4 * 1560 * 12 &&
           near(plan.cache_bytes, 2 * 12 * 287.5e6, 0.001), "%lld",
           (long long)plan.cache_bytes);
    CHECK(plan.window == 12 && plan.block == 3 && plan.tokens == 4680);
    CHECK(plan.work_bytes > plan.cache_bytes);

    /* the longest there is takes the same memory */
    const int64_t endless = plan.work_bytes;

    rq.frames = WAN_MAX_FRAMES;
    CHECK(wan_plan(&plan, m, &rq) == 0 && plan.work_bytes == endless);
    CHECK(wan_request_preset(&rq, m, "self-forcing") == 0);
    rq.frames = 0;
    CHECK(wan_plan(&plan, m, &rq) == 0 && plan.window == 21);
    CHECK(near(plan.cache_bytes, 2 * 6.04e9, 0.001));
    rq.frames = 33;             // no more than there is
    CHECK(wan_plan(&plan, m, &rq) == 0 && plan.window == 9);
    CHECK(wan_request_preset(&rq, m, "longlive") == 0);
    rq.frames = 5;
    CHECK(wan_plan(&plan, m, &rq) == 0 && plan.window == 3);
    wan_model_close(&m);
}

/* What does not fit is said before anything is made, and what of it. */
TEST(no_room)
{
    WanModel *m = open_model("tiny/wan-t2v");
    WanRequest rq = small_request(m, "longlive");
    WanPlan with, without;
    WanJob *job = NULL;

    rq.frames = 0;
    rq.width = rq.height = 64;
    rq.window = 40;
    CHECK(wan_plan(&with, m, &rq) == 0);
    rq.prompt_switch = WAN_SWITCH_PLAIN;
    CHECK(wan_plan(&without, m, &rq) == 0);
    CHECK(without.work_bytes < with.work_bytes);
    wan_model_close(&m);

    CHECK(try_model(&m, "tiny/wan-t2v", NULL, without.work_bytes) == 0);
    CHECK(wan_job_open(&job, m, &rq) == 0);
    wan_job_close(&job);
    rq.prompt_switch = WAN_SWITCH_RECACHE;
    CHECK(wan_job_open(&job, m, &rq) == WAN_ERR(ENOMEM) && !job);
    CHECKF(strstr(last, "option switch: to recache"), "%s", last);
    rq.window = 400;
    CHECK(wan_job_open(&job, m, &rq) == WAN_ERR(ENOMEM) && !job);
    CHECKF(strstr(last, "a window of 400 latent frames"), "%s", last);
    wan_model_close(&m);
}

/* ---------------------------------------------------------------- files */

TEST(training_files)
{
    WanModel *m = open_model("tiny/self-forcing");
    WanRequest rq;

    CHECK(!strcmp(wan_model_info(m)->preset, "self-forcing"));
    wan_request_default(&rq, m);
    CHECK(rq.causal && rq.block == 3 && rq.steps == 4 && rq.guidance == 1);
    wan_model_close(&m);
    CHECK(try_model(&m, "tiny/self-forcing", "ema", 0) == 0);
    wan_model_close(&m);
    CHECK(try_model(&m, "tiny/self-forcing", "generator", 0) < 0);
    CHECKF(strstr(last, "self_forcing_dmd.pt"), "%s", last);
    CHECK(try_model(&m, "tiny/self-forcing", "best", 0) == WAN_ERR(EINVAL));
    CHECKF(strstr(last, "option weights: best is none"), "%s", last);
    CHECK(try_model(&m, "tiny/wan-t2v", "generator", 0) == WAN_ERR(EINVAL));
    CHECKF(strstr(last, "option weights") && strstr(last, "generator"), "%s",
           last);
}

int main(void)
{
    RUN(ring_counters);
    RUN(ordinary_model);
    RUN(what_can_not_be);
    RUN(clips);
    RUN(without_end);
    RUN(much_later);
    RUN(much_later_in_the_window);
    RUN(prompts);
    RUN(full_size);
    RUN(no_room);
    RUN(training_files);
    return test_end();
}
