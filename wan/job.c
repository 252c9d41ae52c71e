/*
 * The job: one video, from its prompt to its last frame.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * text -> context, noise -> steps -> frames. The same functions run on the
 * plan backend, which is how a job knows what memory to reserve.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"
#include "sampler.h"

enum { COND, UNCOND };              // the two branches of guidance

struct WanJob {
    WanModel *model;
    WanDev *dev;
    WanRequest rq;                  // strings are not kept: see ids
    int32_t ids[2][WAN_TEXT_LEN];   // COND, UNCOND
    int nb_ids[2];
    WanSchedule schedule;

    /* In the arena, oldest first. */
    WanTensor solver[WAN_S_NB];     // [16, T, h, w] each
    WanMark latent_end;             // only the latent lies below
    WanTensor text[2];              // [n, text_dim]
    WanDitText context[2];
    WanRope rope;
    WanVaeStream stream;
    WanTensor rgb;                  // [4, H, W, 3] of the last chunk

    WanProgress progress;
    int unit;                       // of the running stage, next to be done
    int frames_ready, frames_given; // in rgb
    int64_t frames_total;           // handed out so far
    int error;                      // what ended the job, 0: nothing
};

/* ------------------------------------------------------------- requests */

void wan_request_default(WanRequest *r, const WanModel *m)
{
    const WanModelInfo *i = &m->info;

    *r = (WanRequest){
        .width = i->width, .height = i->height, .frames = i->frames,
        .steps = i->steps, .guidance = i->guidance, .shift = i->shift,
        .rng_threads = 270336,      // an H100's launch
    };
}

__attribute__((format(printf, 3, 4)))
static int bad(const WanModel *m, const char *field, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    wan_log(&m->log, WAN_LOG_ERROR, "option %s: %s", field, text);
    return WAN_ERR(EINVAL);
}

int wan_request_check(const WanRequest *r, const WanModel *m)
{
    const int k = m->info.size_multiple, max = 8192;

    if (!r->prompt)
        return bad(m, "prompt", "there is none");
    if (r->width < k || r->height < k || r->width > max || r->height > max ||
        r->width % k || r->height % k)
        return bad(m, "size", "%dx%d; width and height must be multiples of "
                   "%d from %d to %d", r->width, r->height, k, k, max);
    if (r->frames < 1 || r->frames > 4001 || r->frames % WAN_TIME_STRIDE != 1)
        return bad(m, "frames", "%d; it must be 4n+1: 1, 5, 9, ... 81, ... "
                   "4001", r->frames);
    if (r->steps < 1 || r->steps > WAN_MAX_STEPS)
        return bad(m, "steps", "%d; 1 to %d can be", r->steps, WAN_MAX_STEPS);
    if (!(r->guidance >= 0 && r->guidance <= 100))
        return bad(m, "guidance", "%g; 0 to 100 can be", r->guidance);
    if (!(r->shift >= 0.01 && r->shift <= 100))
        return bad(m, "shift", "%g; 0.01 to 100 can be", r->shift);
    if ((unsigned)r->sampler > WAN_SAMPLER_EULER)
        return bad(m, "sampler", "%d is none", r->sampler);
    if ((unsigned)r->rng > WAN_RNG_CPU)
        return bad(m, "rng", "%d is none", r->rng);
    if (r->rng_threads < 256 || r->rng_threads % 256)
        return bad(m, "rng_threads", "%d; a positive multiple of 256 can be",
                   r->rng_threads);
    return 0;
}

/* ------------------------------------------------------------- pipeline */

static int latent_frames(const WanRequest *r)
{
    return (r->frames - 1) / WAN_TIME_STRIDE + 1;
}

static int guided(const WanRequest *r)
{
    return r->guidance != 1;
}

/* The latent and the solver's state, then the noise. */
static void begin(WanJob *j)
{
    WanDev *d = j->dev;
    const int64_t T = latent_frames(&j->rq);
    const int64_t h = j->rq.height / WAN_SPACE_STRIDE;
    const int64_t w = j->rq.width / WAN_SPACE_STRIDE;

    j->solver[WAN_S_X] = wan_tmp(d, WAN_LATENT_CHANNELS, T, h, w);
    j->latent_end = wan_mark(d);
    for (int i = 0; i < WAN_S_NB; i++)
        if (i != WAN_S_X)
            j->solver[i] = wan_tmp_like(d, &j->solver[WAN_S_X]);
    wan_section(d, "noise");
    wan_op_noise(d, &j->solver[WAN_S_X], j->rq.rng, j->rq.seed,
                 j->rq.rng_threads);
    for (int i = 0; i <= guided(&j->rq); i++)
        j->text[i] = wan_tmp(d, j->nb_ids[i], j->model->info.text_dim);
}

static void encode_text(WanJob *j, int branch)
{
    wan_t5_encode(j->dev, &j->text[branch], &j->model->t5, j->ids[branch]);
    wan_op_finite(j->dev, &j->text[branch], "text encoder: the %s prompt's "
                  "encoding", branch == COND ? "positive" : "negative");
    wan_tap(j->dev, &j->text[branch], branch == COND ? "context"
                                                     : "context_null");
}

/* What all steps share: keys and values of the prompts, rotary tables. */
static void begin_steps(WanJob *j)
{
    const WanTensor *x = &j->solver[WAN_S_X];

    for (int i = 0; i <= guided(&j->rq); i++)
        wan_dit_text(j->dev, &j->context[i], &j->model->dit, &j->text[i]);
    wan_section(j->dev, "rotary tables");
    wan_dit_rope(j->dev, &j->rope, &j->model->dit.config, (int)x->dim[1],
                 (int)x->dim[2] / 2, (int)x->dim[3] / 2);
}

/* V = v_u + g (v_c - v_u) at X, then the solver's sums. */
static void denoise(WanJob *j, int i)
{
    WanDev *d = j->dev;
    const WanMark mark = wan_mark(d);
    const WanDit *dit = &j->model->dit;
    const double g = j->rq.guidance;
    WanTensor *s = j->solver;
    WanCombination c[WAN_MAX_COMBINATIONS];
    WanDitTime time;

    wan_section(d, "step %d", i);
    wan_dit_time(d, &time, dit, j->schedule.timestep[i]);
    wan_dit_forward(d, &s[WAN_S_V], dit, &s[WAN_S_X], &time,
                    &j->context[COND], &j->rope);
    if (guided(&j->rq)) {
        WanTensor vu = wan_tmp_like(d, &s[WAN_S_V]);
        const WanTensor *both[] = { &s[WAN_S_V], &vu };

        wan_section(d, "unconditional");
        wan_dit_forward(d, &vu, dit, &s[WAN_S_X], &time, &j->context[UNCOND],
                        &j->rope);
        wan_section(d, "guidance and solver");
        wan_op_lincomb(d, &s[WAN_S_V], 2, (double[]){ g, 1 - g }, both);
    }
    wan_tap(d, &s[WAN_S_V], "noise_pred%d", i);

    const int n = wan_solver_step(&j->schedule, i, c);
    for (int k = 0; k < n; k++) {
        const WanTensor *from[WAN_S_NB];
        double coef[WAN_S_NB];
        int terms = 0;

        for (int t = 0; t < WAN_S_NB; t++) {
            if (c[k].coef[t]) {
                from[terms] = &s[t];
                coef[terms++] = c[k].coef[t];
            }
        }
        wan_op_lincomb(d, &s[c[k].dst], terms, coef, from);
    }
    wan_op_finite(d, &s[WAN_S_X], "step %d of %d: the latent", i + 1,
                  j->rq.steps);
    wan_tap(d, &s[WAN_S_X], "latents%d", i);

    /* M2 <- M1 <- M0, the oldest buffer serves next. */
    const WanTensor oldest = s[WAN_S_M2];
    s[WAN_S_M2] = s[WAN_S_M1];
    s[WAN_S_M1] = s[WAN_S_M0];
    s[WAN_S_M0] = oldest;
    wan_release(d, mark);
}

/* All but the latent makes room for the decoder. */
static void begin_decode(WanJob *j)
{
    const WanTensor *x = &j->solver[WAN_S_X];
    const int64_t chunk = x->dim[1] > 1 ? WAN_TIME_STRIDE : 1;

    wan_release(j->dev, j->latent_end);
    j->rgb = wan_tmp(j->dev, chunk, j->rq.height, j->rq.width, 3);
    wan_vae_stream(j->dev, &j->stream, &j->model->vae, x->dim[2], x->dim[3]);
}

static void decode(WanJob *j)
{
    const int n = j->stream.frames ? WAN_TIME_STRIDE : 1;
    WanTensor rgb = wan_slice(&j->rgb, 0, n);

    wan_vae_decode(j->dev, &rgb, &j->model->vae, &j->stream,
                   &j->solver[WAN_S_X]);
    wan_op_finite(j->dev, &rgb, "decoded chunk %lld: a pixel",
                  (long long)j->stream.frames);
    j->frames_ready = n;
    j->frames_given = 0;
}

/* ----------------------------------------------------------------- plan */

static int64_t available_memory(const WanModel *m)
{
    int64_t kb = -1;
    char line[128];
    FILE *f;

    if (m->memory)
        return m->memory;
    if ((f = fopen("/proc/meminfo", "r"))) {
        while (fgets(line, sizeof(line), f))
            if (sscanf(line, "MemAvailable: %lld kB", (long long *)&kb) == 1)
                break;
        fclose(f);
    }
    return kb > 0 ? kb * 1024 : INT64_MAX;
}

/* The whole pipeline on the plan backend: j has request and id counts. */
static int plan_job(WanPlan *out, WanJob *j,
                    void (*trace)(void *, const char *), void *opaque)
{
    const WanModel *m = j->model;
    const int T = latent_frames(&j->rq);
    double before;
    int ret = wan_dev_open_plan(&j->dev, m->device, m->threads, &m->log);

    if (ret < 0)
        return ret;
    j->dev->trace = trace;
    j->dev->trace_opaque = opaque;
    *out = (WanPlan){
        .weight_bytes = m->info.weight_bytes + m->pool.bytes,
        .available_bytes = available_memory(m),
        .tokens = (int64_t)T * (j->rq.height / 16) * (j->rq.width / 16),
    };

    begin(j);
    for (int i = 0; i <= guided(&j->rq); i++)
        encode_text(j, i);
    out->text_flops = j->dev->flops;
    begin_steps(j);
    before = j->dev->flops;
    denoise(j, 0);
    out->step_flops = j->dev->flops - before;
    begin_decode(j);
    for (int t = 0; t < T && t < 3; t++) {
        before = j->dev->flops;
        decode(j);
        /* From the second chunk on all cost the same. */
        out->decode_flops += (j->dev->flops - before) *
                             (t == 2 ? T - 2 : 1);
    }
    ret = wan_dev_error(j->dev);
    out->work_bytes = j->dev->peak;
    wan_dev_close(&j->dev);
    return ret;
}

int wan_plan_trace(WanPlan *out, const WanModel *m, const WanRequest *r,
                   void (*trace)(void *opaque, const char *line),
                   void *opaque)
{
    WanRequest rq = *r;
    WanJob *j;
    int ret;

    rq.prompt = rq.prompt ? rq.prompt : "";
    if ((ret = wan_request_check(&rq, m)) < 0)
        return ret;
    if (!(j = calloc(1, sizeof(*j))))
        return WAN_ERR(ENOMEM);
    j->model = (WanModel *)m;       // not changed, not freed
    j->rq = rq;
    j->nb_ids[COND] = j->nb_ids[UNCOND] = WAN_TEXT_LEN;
    if (m->tokenizer && r->prompt) {
        const char *negative = r->negative_prompt ? r->negative_prompt
                                                  : m->info.negative_prompt;

        for (int i = 0; i < 2 && ret >= 0; i++)
            ret = j->nb_ids[i] = wan_tokenizer_encode(m->tokenizer, j->ids[i],
                                 NULL, i ? negative : r->prompt, &m->log);
    }
    ret = wan_schedule_init(&j->schedule, rq.sampler, rq.steps, rq.shift);
    if (ret >= 0)
        ret = plan_job(out, j, trace, opaque);
    wan_schedule_free(&j->schedule);
    free(j);
    return ret;
}

int wan_plan(WanPlan *out, const WanModel *m, const WanRequest *r)
{
    return wan_plan_trace(out, m, r, NULL, NULL);
}

/* ----------------------------------------------------------- the public */

static int tokenize(WanJob *j, int branch, const char *text,
                    const char *option)
{
    const WanModel *m = j->model;
    int cut = 0;
    int ret = wan_tokenizer_encode(m->tokenizer, j->ids[branch], &cut, text,
                                   &m->log);

    if (ret < 0)
        return ret;
    j->nb_ids[branch] = ret;
    if (cut)
        wan_log(&m->log, WAN_LOG_WARNING, "option %s: %d tokens do not fit "
                "into %d and are cut off", option, cut, WAN_TEXT_LEN);
    return 0;
}

int wan_job_open(WanJob **out, WanModel *m, const WanRequest *r)
{
    const char *negative = r->negative_prompt ? r->negative_prompt
                                              : m->info.negative_prompt;
    WanPlan plan;
    WanJob *j = NULL;
    int ret;

    *out = NULL;
    if ((ret = wan_request_check(r, m)) < 0)
        return ret;
    if (!m->tokenizer)
        return WAN_ERR(ENOSYS);     // a model of shapes alone
    if (!(j = calloc(1, sizeof(*j))))
        return WAN_ERR(ENOMEM);
    j->model = wan_model_ref(m);
    j->rq = *r;
    j->rq.prompt = j->rq.negative_prompt = NULL;

    if ((ret = tokenize(j, COND, r->prompt, "prompt")) < 0 ||
        (ret = tokenize(j, UNCOND, negative, "negative_prompt")) < 0 ||
        (ret = wan_schedule_init(&j->schedule, r->sampler, r->steps,
                                 r->shift)) < 0 ||
        (ret = plan_job(&plan, j, NULL, NULL)) < 0)
        goto fail;
    if (plan.work_bytes > plan.available_bytes) {
        wan_log(&m->log, WAN_LOG_ERROR, "%dx%d, %d frames need %.2f GB of "
                "memory besides %.2f GB of mapped weights, %.2f GB are %s: "
                "make size or frames smaller", r->width, r->height, r->frames,
                plan.work_bytes / 1e9, plan.weight_bytes / 1e9,
                plan.available_bytes / 1e9,
                m->memory ? "given by option memory" : "free");
        ret = WAN_ERR(ENOMEM);
        goto fail;
    }
    memset(j->solver, 0, sizeof(j->solver));
    memset(&j->stream, 0, sizeof(j->stream));
    j->frames_ready = j->frames_given = 0;
    ret = wan_dev_open(&j->dev, m->device, m->threads, plan.work_bytes,
                       &m->log);
    if (ret < 0)
        goto fail;
    j->progress.total = 1 + guided(&j->rq);
    *out = j;
    return 0;
fail:
    wan_job_close(&j);
    return ret;
}

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* Units of a stage. */
static int stage_units(const WanJob *j, enum WanStage stage)
{
    switch (stage) {
    case WAN_STAGE_TEXT:    return 1 + guided(&j->rq);
    case WAN_STAGE_STEPS:   return j->rq.steps;
    case WAN_STAGE_DECODE:  return latent_frames(&j->rq);
    default:                return 0;
    }
}

int wan_job_step(WanJob *j, WanProgress *progress)
{
    WanProgress *p = &j->progress;
    const double start = now();
    enum WanStage stage = p->stage;
    double *spent;

    if (j->error)
        return j->error;
    if (j->frames_given < j->frames_ready || stage == WAN_STAGE_DONE)
        goto end;
    if (j->unit == stage_units(j, stage)) {     // on to the next stage
        p->stage = ++stage;
        j->unit = 0;
        if (stage == WAN_STAGE_DONE)
            goto end;
    }

    switch (stage) {
    case WAN_STAGE_TEXT:
        if (!j->unit)
            begin(j);
        encode_text(j, j->unit);
        spent = &p->text;
        break;
    case WAN_STAGE_STEPS:
        if (!j->unit)
            begin_steps(j);
        denoise(j, j->unit);
        spent = &p->steps;
        break;
    default:
        if (!j->unit)
            begin_decode(j);
        decode(j);
        spent = &p->decode;
        break;
    }
    if ((j->error = wan_dev_error(j->dev)) < 0) {
        j->frames_ready = j->frames_given = 0;
        return j->error;
    }
    p->done = ++j->unit;
    p->total = stage_units(j, stage);
    p->seconds = now() - start;
    *spent += p->seconds;
end:
    if (progress)
        *progress = *p;
    return 0;
}

static int image_fits(const WanImage *img, const WanRequest *rq)
{
    static const struct { unsigned char planes, bytes, log2_chroma; } f[] = {
        [WAN_PIX_YUV420P] = { 3, 1, 1 },   [WAN_PIX_YUV444P] = { 3, 1, 0 },
        [WAN_PIX_YUV420P10] = { 3, 2, 1 }, [WAN_PIX_GBRP] = { 3, 1, 0 },
        [WAN_PIX_RGB24] = { 1, 3, 0 },     [WAN_PIX_GBRPF32] = { 3, 4, 0 },
    };

    if ((unsigned)img->format > WAN_PIX_GBRPF32 || img->width != rq->width ||
        img->height != rq->height)
        return 0;
    for (int i = 0; i < f[img->format].planes; i++) {
        const int w = i ? img->width >> f[img->format].log2_chroma
                        : img->width;
        const ptrdiff_t s = img->stride[i] < 0 ? -img->stride[i]
                                               : img->stride[i];

        if (!img->data[i] || s < (ptrdiff_t)w * f[img->format].bytes)
            return 0;
    }
    return 1;
}

int wan_job_frame(WanJob *j, const WanImage *img)
{
    if (j->error)
        return j->error;
    if (j->frames_given >= j->frames_ready)
        return j->frames_total == j->rq.frames ? WAN_EOF : WAN_ERR(EAGAIN);
    if (!image_fits(img, &j->rq))
        return WAN_ERR(EINVAL);

    WanTensor frame = wan_slice(&j->rgb, j->frames_given, 1);
    frame = wan_reshape(&frame, j->rq.height, j->rq.width, 3);
    wan_op_image(j->dev, img, &frame);
    if ((j->error = wan_dev_error(j->dev)) < 0)
        return j->error;
    j->frames_given++;
    j->frames_total++;
    return 0;
}

void wan_job_tap(WanJob *j, void (*tap)(void *opaque, const char *name,
                                        const WanTensor *t), void *opaque)
{
    j->dev->tap = tap;
    j->dev->tap_opaque = opaque;
}

void wan_job_cancel(WanJob *j)
{
    wan_dev_cancel(j->dev);
}

void wan_job_close(WanJob **jp)
{
    WanJob *j = *jp;

    *jp = NULL;
    if (!j)
        return;
    wan_dev_close(&j->dev);
    wan_schedule_free(&j->schedule);
    wan_model_close(&j->model);
    free(j);
}
