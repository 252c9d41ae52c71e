/*
 * Causal models against their authors' code: every noise that is drawn, every
 * step's clean estimate, kept keys and values, the pixels.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The official float32 runs are 3e-7 to 7e-7 from the truth; the smallest of
 * the mistakes that were planted in them changed 6e-4.
 */

#include "kvcache.h"
#include "model_test.h"

#define LIMIT 2e-6              // 4e-6 through the VAE's encoder
#define MAX_CLIP 64

/* A golden's run. */
typedef struct Run {
    Golden *golden;
    cJSON *what;                // the metadata's "case"
    WanModel *model;
    WanRequest rq;
    double timesteps[2][8];     // and of the first block
    WanImage frame[MAX_CLIP];   // what it goes on from
    const WanImage *clip[MAX_CLIP];
    double limit, worst;
    int seen;                   // tensors that were held against the golden's
    int contexts;
    int64_t noises;             // latent frames of noise
} Run;

static int list_of(double out[8], const cJSON *list)
{
    const cJSON *v;
    int n = 0;

    cJSON_ArrayForEach(v, list)
        out[n++] = v->valuedouble;
    return n;
}

static int asks_for(const Run *r, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItem(r->what, key));
}

static void read_pixels(Run *r)
{
    const GoldenTensor *t = golden_look(r->golden, "pixels");
    const int64_t size = t ? t->dim[1] * t->dim[2] * 3 : 0;

    for (int i = 0; t && i < t->dim[0]; i++) {
        r->frame[i] = (WanImage){ .size = sizeof(WanImage),
                                  .format = WAN_PIX_RGB24,
                                  .width = (int)t->dim[2],
                                  .height = (int)t->dim[1],
                                  .data = { (void *)(t->raw + i * size) },
                                  .stride = { 3 * t->dim[2] } };
        r->clip[i] = &r->frame[i];
    }
    if (t && t->dim[0] == 1)
        r->rq.image = r->frame;
    if (t && t->dim[0] > 1) {
        r->rq.clip = r->clip;
        r->rq.nb_clip = (int)t->dim[0];
    }
}

static void run_open(Run *r, const char *name, const char *device)
{
    const cJSON *hw, *shift, *warp;
    WanRequest *rq = &r->rq;

    *r = (Run){ .golden = golden_open(name) };
    r->what = golden_meta(r->golden, "case");
    r->model = open_tiny(!strcmp(golden_meta_string(r->golden, "dit"),
                                 "wan-t2v") ? "tiny/wan-t2v"
                                            : "tiny/wan-t2v-hd128", device);
    hw = cJSON_GetObjectItem(r->what, "hw");
    shift = cJSON_GetObjectItem(r->what, "shift");
    warp = cJSON_GetObjectItem(r->what, "warp");
    wan_request_default(rq, r->model);
    CHECK(wan_request_preset(rq, r->model, "self-forcing") == 0);
    CHECK(rq->causal && rq->block == 3 && rq->steps == 4 && rq->warp);
    rq->prompt = cJSON_GetObjectItem(r->what, "prompts")->child->valuestring;
    rq->seed = golden_number(r->what, "seed", 0);
    rq->rng = WAN_RNG_CPU;
    rq->height = 8 * hw->child->valueint;
    rq->width = 8 * hw->child->next->valueint;
    rq->block = golden_number(r->what, "block", 0);
    rq->first_block = asks_for(r, "independent");
    rq->window = golden_number(r->what, "local", 0);
    rq->sink = golden_number(r->what, "sink", 0);
    rq->positions = asks_for(r, "infinity") ? WAN_POSITIONS_WINDOW
                                            : WAN_POSITIONS_ABSOLUTE;
    rq->prompt_switch = cJSON_GetObjectItem(r->what, "switch") &&
                        !asks_for(r, "plain_switch") ? WAN_SWITCH_RECACHE
                                                     : WAN_SWITCH_PLAIN;
    rq->sink_reset = cJSON_IsFalse(cJSON_GetObjectItem(r->what,
                                                       "global_sink"));
    rq->frames = 1 + 4 * (golden_number(r->what, "frames", 0) +
                          golden_number(r->what, "initial", 0) - 1);
    if (shift)
        rq->shift = shift->valuedouble;
    if (warp)
        rq->warp = cJSON_IsTrue(warp);
    if ((rq->nb_timesteps = list_of(r->timesteps[0], cJSON_GetObjectItem(
                                        r->what, "steps")))) {
        rq->timesteps = r->timesteps[0];
        rq->steps = rq->nb_timesteps;
    }
    if ((rq->nb_first_timesteps = list_of(r->timesteps[1], cJSON_GetObjectItem(
                                              r->what, "first_steps"))))
        rq->first_timesteps = r->timesteps[1];
    read_pixels(r);
    r->limit = limit_on(device, rq->image || rq->clip ? 2 * LIMIT : LIMIT);
}

static void run_close(Run *r)
{
    wan_model_close(&r->model);
    cJSON_Delete(r->what);
    golden_close(&r->golden);
}

/* [channels, frames, h, w] in the goldens' order, frame by frame. */
static float *by_frames(const WanTensor *t)
{
    const int64_t C = t->dim[0], n = t->dim[1], hw = t->dim[2] * t->dim[3];
    float *v = malloc(wan_count(t) * sizeof(*v));

    for (int64_t c = 0; c < C; c++)
        for (int64_t f = 0; f < n; f++)
            memcpy(v + (f * C + c) * hw,
                   (const float *)t->data + (c * n + f) * hw, hw * sizeof(*v));
    return v;
}

static void hold_against(Run *r, const char *name, const float *v, int64_t n,
                         const GoldenTensor *g, int64_t from)
{
    const double err = from + n <= g->n
                       ? test_rel_l2(v, g->data + from, n) : INFINITY;

    CHECKF(err <= r->limit, "%s: relative L2 %.2e, limit %.1e", name, err,
           r->limit);
    r->worst = fmax(r->worst, err);
}

static void check_taps(void *opaque, const char *name, const WanTensor *t)
{
    Run *r = opaque;
    const GoldenTensor *g;
    char context[32];
    int n = 0;

    if (!strcmp(name, "context")) {
        snprintf(context, sizeof(context), "context%d", r->contexts++);
        g = golden_find(r->golden, context);
        hold_against(r, context, t->data, wan_count(t), g, 0);
        return;
    }
    if (sscanf(name, "block%*d.noise%n", &n) == 0 && n && !name[n]) {
        float *v = by_frames(t);

        g = golden_find(r->golden, "noise");
        hold_against(r, name, v, wan_count(t), g,
                     r->noises * wan_count(t) / t->dim[1]);
        r->noises += t->dim[1];
        free(v);
        return;
    }
    if (!(g = golden_look(r->golden, name)))
        return;
    r->seen++;
    if (t->nb_dims == 4) {
        float *v = by_frames(t);

        CHECK(g->n == wan_count(t));
        hold_against(r, name, v, wan_count(t), g, 0);
        free(v);
    } else {
        CHECKF(g->n == wan_count(t), "%s: %lld values, golden %lld", name,
               (long long)wan_count(t), (long long)g->n);
        hold_against(r, name, t->data, wan_count(t), g, 0);
    }
}

/* Tensors of the golden that a run shows one by one. */
static int shown(const Golden *g)
{
    const cJSON *t;
    int n = 0;

    cJSON_ArrayForEach(t, g->header)
        n += !strncmp(t->string, "block", 5) ||
             !strncmp(t->string, "recache", 7) ||
             (!strncmp(t->string, "initial", 7) && !strstr(t->string, ".f64"));
    return n;
}

/* Bytes of frame i. */
static int bytes_off(const GoldenTensor *u8, int i, const uint8_t *rgb)
{
    const int64_t n = u8->n / u8->dim[0];
    int off = 0;

    for (int64_t k = 0; k < n; k++) {
        const int d = abs(rgb[k] - u8->raw[i * n + k]);

        CHECKF(d <= 1, "frame %d: a byte is %d from the golden's", i, d);
        off += d > 0;
    }
    return off;
}

/* When the prompt changes: the frame where it is asked for. */
static int switch_at(const Run *r)
{
    const cJSON *at = cJSON_GetObjectItem(r->what, "switch");

    return at ? at->child->valueint : -1;
}

static void golden_run(const char *name, const char *device)
{
    Run r;
    WanJob *job;
    WanProgress p = { 0 };
    int ret = 0, frames = 0, off = 0, asked = 0;

    run_open(&r, name, device);
    const GoldenTensor *u8 = golden_look(r.golden, "frames_u8");
    const int bytes = r.rq.width * r.rq.height * 3;
    uint8_t *rgb = malloc(bytes);
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = r.rq.width, .height = r.rq.height,
                     .data = { rgb }, .stride = { 3 * r.rq.width } };

    if (CHECK(wan_job_open(&job, r.model, &r.rq) == 0)) {
        wan_job_tap(job, check_taps, &r);
        while ((ret = wan_job_step(job, &p)) >= 0 && p.stage != WAN_STAGE_DONE) {
            /* it is there when the block that begins there or behind begins */
            if (!asked && switch_at(&r) >= 0 && p.stage == WAN_STAGE_STEPS &&
                (p.block + 1) * r.rq.block >= switch_at(&r)) {
                const cJSON *all = cJSON_GetObjectItem(r.what, "prompts");

                CHECK(wan_job_prompt(job, all->child->next->valuestring) == 0);
                asked = 1;
            }
            while (wan_job_frame(job, &img) >= 0)
                off += u8 ? bytes_off(u8, frames++, rgb) : (frames++, 0);
        }
        CHECKF(ret == 0 && frames == r.rq.frames, "%d frames, %s", frames,
               wan_strerror(ret));
        CHECK(wan_job_frame(job, &img) == WAN_EOF);
        wan_job_close(&job);
    }
    CHECKF(r.seen == shown(r.golden), "%s: %d tensors seen of %d", name,
           r.seen, shown(r.golden));
    CHECK(r.contexts == 1 + (switch_at(&r) >= 0));
    CHECK(r.noises == golden_find(r.golden, "noise")->dim[0]);
    CHECKF(!u8 || off < 0.005 * u8->n, "%d bytes are a level off", off);
    printf("# %s on %s: largest relative L2 %.2e; %d bytes a level off\n",
           name, device, r.worst, off);
    free(rgb);
    run_close(&r);
}

static const char *const goldens[] = {
    "sf7", "window", "window-odd", "window-nosink", "hd128", "frame1",
    "frame1-window", "image", "image-first1", "first1", "clip", "steps2",
    "first-chunk", "unwarped3", "switch-plain", "switch-recache",
    "switch-recache-early", "switch-recache-resetsink", "infinity",
    "infinity-switch",
};

static void every_golden(const char *device)
{
    for (size_t i = 0; i < sizeof(goldens) / sizeof(*goldens); i++) {
        char name[64];

        snprintf(name, sizeof(name), "causal-%s.safetensors", goldens[i]);
        golden_run(name, device);
    }
}

TEST(all_goldens) { every_golden(dut); }

TEST(ref_goldens)
{
    golden_run("causal-window-odd.safetensors", "ref");
    golden_run("causal-infinity-switch.safetensors", "ref");
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN(all_goldens);
    RUN_REF(ref_goldens);
    return test_end();
}
