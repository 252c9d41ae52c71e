/*
 * Causal models against their authors' code: every noise that is drawn, every
 * step's clean estimate, kept keys and values, the pixels.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The official float32 runs are 3e-7 to 7e-7 from the truth; the smallest of
 * the mistakes that were planted in them changed 6e-4.
 */

#include "causal_case.h"
#include "kvcache.h"

#define LIMIT 2e-6              // 4e-6 through the VAE's encoder

/* A golden's run. */
typedef struct Run {
    CausalCase c;
    WanModel *model;
    double limit, worst;
    int seen;                   // tensors that were held against the golden's
    int contexts;
    int64_t noises;             // latent frames of noise
} Run;

static void run_open(Run *r, const char *name, const char *device)
{
    *r = (Run){ .model = NULL };
    causal_open(&r->c, name);
    r->model = open_tiny(causal_folder(&r->c), device);
    causal_request(&r->c, r->model);
    r->limit = limit_on(device, r->c.rq.image || r->c.rq.clip ? 2 * LIMIT
                                                              : LIMIT);
}

static void run_close(Run *r)
{
    wan_model_close(&r->model);
    causal_close(&r->c);
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
        g = golden_find(r->c.golden, context);
        hold_against(r, context, t->data, wan_count(t), g, 0);
        return;
    }
    if (sscanf(name, "block%*d.noise%n", &n) == 0 && n && !name[n]) {
        float *v = by_frames(t);

        g = golden_find(r->c.golden, "noise");
        hold_against(r, name, v, wan_count(t), g,
                     r->noises * wan_count(t) / t->dim[1]);
        r->noises += t->dim[1];
        free(v);
        return;
    }
    if (!(g = golden_look(r->c.golden, name)))
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

static void golden_run(const char *name, const char *device)
{
    Run r;
    WanJob *job;
    WanProgress p = { 0 };
    int ret = 0, frames = 0, off = 0, asked = 0;

    run_open(&r, name, device);
    const GoldenTensor *u8 = golden_look(r.c.golden, "frames_u8");
    const int bytes = r.c.rq.width * r.c.rq.height * 3;
    uint8_t *rgb = malloc(bytes);
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = r.c.rq.width, .height = r.c.rq.height,
                     .data = { rgb }, .stride = { 3 * r.c.rq.width } };

    if (CHECK(wan_job_open(&job, r.model, &r.c.rq) == 0)) {
        wan_job_tap(job, check_taps, &r);
        while ((ret = wan_job_step(job, &p)) >= 0 && p.stage != WAN_STAGE_DONE) {
            /* it is there when the block that begins there or behind begins */
            if (!asked && causal_switches(&r.c, &p)) {
                CHECK(wan_job_prompt(job, causal_prompt(&r.c, 1)) == 0);
                asked = 1;
            }
            while (wan_job_frame(job, &img) >= 0)
                off += u8 ? bytes_off(u8, frames++, rgb) : (frames++, 0);
        }
        CHECKF(ret == 0 && frames == r.c.rq.frames, "%d frames, %s", frames,
               wan_strerror(ret));
        CHECK(wan_job_frame(job, &img) == WAN_EOF);
        wan_job_close(&job);
    }
    CHECKF(r.seen == shown(r.c.golden), "%s: %d tensors seen of %d", name,
           r.seen, shown(r.c.golden));
    CHECK(r.contexts == 1 + (causal_switch_at(&r.c) >= 0));
    CHECK(r.noises == golden_find(r.c.golden, "noise")->dim[0]);
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
