/*
 * The job: one video, from its prompt to its last frame.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * text -> context, noise -> steps -> frames; what stands beside the noise is
 * condition.c's. The same functions run on the plan backend, which is how a job
 * knows what memory to reserve. A recipe says in which order the stages come: a
 * clip once through all of them, a causal video (stream.c) block by block.
 */

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "abi.h"
#include "condition.h"
#include "image.h"
#include "model.h"
#include "preview.h"
#include "sampler.h"
#include "stepcache.h"
#include "stream.h"

/* Devices copy vectors one by one: a slice of one is rounded up again, and
 * some are wanted in 16 bits too. */
#define VECTORS_SLACK (1 << 20)

enum { COND, UNCOND };              // the two branches of guidance
static const char *const side[] = { "positive", "negative" };

typedef struct Recipe Recipe;

struct WanJob {
    WanModel *model;
    const Recipe *recipe;
    WanDev *dev;
    WanPager *pager;                // of devices with their own memory
    WanRanks *ranks;                // that compute it; NULL: this process alone
    int begun;                      // host: the others know of it
    int threads;
    const char *alone;              // a line: why the model's ranks do not
    WanRequest rq;                  // strings are not kept: see ids
    int32_t ids[2][WAN_TEXT_LEN];   // COND, UNCOND
    int nb_ids[2];
    int switching;                  // ids are of a prompt that is not encoded
    WanSchedule schedule;
    WanStepCache cache;
    WanStream blocks;               // of a causal job
    WanCondition condition;         // what stands beside the noise

    /* In the arena, oldest first. */
    WanTensor solver[WAN_S_NB];     // [channels, T, h, w] each
    WanMark latent_end;             // only the latent lies below
    WanTensor text[2];              // [n, text_dim]
    WanDitContext context[2];
    WanRope rope;
    WanPreview preview;             // if asked for; its picture
    WanCodecStream stream;
    WanTensor rgb;                  // [4, H, W, 3] of the last chunk

    WanProgress progress;
    int unit;                       // of the running stage, next to be done
    int previewed;                  // the unit just done has a picture
    int frames_ready, frames_given; // in rgb
    int64_t frames_total;           // handed out so far
    int expert;                     // number of the one that makes the steps
    int error;                      // what ended the job, 0: nothing
};

/* ------------------------------------------------------------- requests */

/* What of a request is for causal models, but for its clip. */
static void set_causal(WanRequest *r, const WanPreset *p)
{
    r->causal = p && p->causal.block;
    r->block = p ? p->causal.block : 0;
    r->first_block = 0;
    r->window = p ? p->causal.window : 0;
    r->sink = p ? p->causal.sink : 0;
    r->positions = WAN_POSITIONS_ABSOLUTE;
    r->prompt_switch = p && p->causal.recache ? WAN_SWITCH_RECACHE
                                              : WAN_SWITCH_PLAIN;
    r->sink_reset = 0;
    r->first_timesteps = p ? p->causal.first : NULL;
    r->nb_first_timesteps = p ? p->causal.nb_first : 0;
}

static WanRequest defaults(const WanModel *m)
{
    const WanModelInfo *i = &m->info;

    WanRequest r = {
        .width = i->width, .height = i->height, .frames = i->frames,
        .steps = i->steps, .guidance = i->guidance, .shift = i->shift,
        .sampler = i->sampler, .preset = i->preset,
        .warp = m->preset ? m->preset->warp : 0, .sigma_max = WAN_RCM_SIGMA,
        .rng_threads = 270336,      // an H100's launch
        .boundary = i->boundary,
        .strength = 0.8,            // as Diffusers has it
    };

    set_causal(&r, m->preset);
    return r;
}

int wan_request_preset(WanRequest *r, const WanModel *m, const char *name)
{
    WanRequest own = defaults(m);
    const WanPreset *p = m->preset;

    if (strcmp(name, "auto")) {
        const int ret = wan_preset_find(&p, name, m->info.dim, &m->log);

        if (ret < 0)
            return ret;
        own.preset = p ? p->name : "none";
        own.sampler = p ? p->sampler : WAN_SAMPLER_UNIPC;
        own.steps = p ? p->steps : m->plain.steps;
        own.guidance = p ? 1 : m->plain.guidance;
        if (own.guidance != m->info.guidance)
            own.guidance2 = p ? 1 : m->plain.guidance2;
        own.shift = p && p->shift ? p->shift : m->plain.shift;
        own.warp = p ? p->warp : 0;
    }
    r->preset = own.preset;
    r->sampler = own.sampler;
    r->steps = own.steps;
    r->guidance = own.guidance;
    if (r->size >= WAN_LEAST(WanRequest, guidance2))    // younger than this function
        r->guidance2 = own.guidance2;
    r->shift = own.shift;
    r->timesteps = NULL;
    r->nb_timesteps = 0;
    r->warp = own.warp;
    r->sigma_max = own.sigma_max;
    if (r->size >= WAN_LEAST(WanRequest, nb_first_timesteps))
        set_causal(r, p);
    return 0;
}

void wan_request_default_sized(WanRequest *r, size_t size, const WanModel *m)
{
    WanRequest rq = defaults(m);

    rq.size = size;
    wan_abi_out(r, size, &rq, sizeof(rq));
}

/* A caller's request with its images, as this library knows them. */
typedef struct Request {
    WanRequest rq;
    WanImage image[2];
} Request;

static int take_image(const WanImage **img, WanImage *own, const WanModel *m)
{
    const WanImage *given = *img;

    *img = given ? own : NULL;
    return given ? wan_abi_in(own, sizeof(*own), given, WAN_IMAGE_LEAST,
                              "WanImage", &m->log) : 0;
}

static int take_request(Request *out, const WanRequest *r, const WanModel *m)
{
    int ret;

    *out = (Request){ .rq = defaults(m) };
    if ((ret = wan_abi_in(&out->rq, sizeof(out->rq), r, WAN_REQUEST_LEAST,
                          "WanRequest", &m->log)) < 0 ||
        (ret = take_image(&out->rq.image, &out->image[0], m)) < 0)
        return ret;
    if (!out->rq.sigma_max)
        out->rq.sigma_max = WAN_RCM_SIGMA;
    if (!out->rq.guidance2)
        out->rq.guidance2 = m->info.experts > 1 &&
                            out->rq.guidance == m->info.guidance
                            ? m->info.guidance2 : out->rq.guidance;
    return take_image(&out->rq.last_image, &out->image[1], m);
}

#define bad(m, ...) wan_error_option(&(m)->log, __VA_ARGS__)

static int check_text(const char *text, const char *option, const WanModel *m)
{
    const size_t n = text ? strlen(text) : 0;
    const size_t ok = text ? wan_utf8_check(text, n) : 0;

    return ok == n ? 0 : bad(m, option, "not UTF-8 at byte %zu (0x%02x)", ok,
                             (unsigned char)text[ok]);
}

/* A preset's row, NULL: none. */
static int find_preset(const WanPreset **p, const WanRequest *r,
                       const WanModel *m)
{
    *p = NULL;
    return r->preset ? wan_preset_find(p, r->preset, m->info.dim, &m->log) : 0;
}

static int check_timesteps(const WanRequest *r, const WanModel *m)
{
    const int n = r->nb_timesteps;
    int i;

    if (r->sampler != WAN_SAMPLER_EULER && r->sampler != WAN_SAMPLER_DMD)
        return bad(m, "timesteps", "sampler %s has steps of its own; euler and "
                   "dmd take a list", wan_sampler_name(r->sampler));
    if (n < 1 || !r->timesteps)
        return bad(m, "timesteps", "a list of %d; at least 1 must be", n);
    if (n != r->steps)
        return bad(m, "steps", "%d, but timesteps lists %d", r->steps, n);
    if ((i = wan_timesteps_check(r->timesteps, n)) < n)
        return bad(m, "timesteps", "number %d is %g; they must fall, from 1000 "
                   "at most to above 0", i + 1, r->timesteps[i]);
    return 0;
}

static int check_sampling(const WanRequest *r, const WanModel *m)
{
    const WanPreset *p;

    if ((unsigned)r->sampler > WAN_SAMPLER_RCM)
        return bad(m, "sampler", "%d is none", r->sampler);
    if (find_preset(&p, r, m) < 0)
        return WAN_ERR(EINVAL);
    if (p && p->most && r->sampler == p->sampler && r->steps > p->most)
        return bad(m, r->nb_timesteps ? "timesteps" : "steps", "%d; preset %s "
                   "has %d at most", r->steps, p->name, p->most);
    if (r->sampler == WAN_SAMPLER_RCM && r->steps > WAN_RCM_STEPS)
        return bad(m, "steps", "%d; sampler rcm has %d at most", r->steps,
                   WAN_RCM_STEPS);
    if (r->warp != 0 && r->warp != 1)
        return bad(m, "warp", "%d; 0 or 1 can be", r->warp);
    if (!(r->sigma_max >= WAN_MIN_SIGMA_MAX &&
          r->sigma_max <= WAN_MAX_SIGMA_MAX))
        return bad(m, "sigma_max", "%g; %g to %g can be", r->sigma_max,
                   WAN_MIN_SIGMA_MAX, WAN_MAX_SIGMA_MAX);
    return r->timesteps || r->nb_timesteps ? check_timesteps(r, m) : 0;
}

/* What two experts have and one transformer has not. */
static int check_experts(const WanRequest *r, const WanModel *m)
{
    const int one = m->info.experts < 2;

    if (!(r->boundary >= 0 && r->boundary <= 1))
        return bad(m, "boundary", "%g; 0 to 1 can be", r->boundary);
    if (!(r->guidance2 >= 0 && r->guidance2 <= WAN_MAX_GUIDANCE))
        return bad(m, "guidance2", "%g; 0 to %g can be", r->guidance2,
                   WAN_MAX_GUIDANCE);
    if (one && r->boundary)
        return bad(m, "boundary", "%g, but %s has one transformer and no two "
                   "experts", r->boundary, m->info.name);
    if (one && r->guidance2 != r->guidance)
        return bad(m, "guidance2", "%g, but %s has one transformer and no two "
                   "experts", r->guidance2, m->info.name);
    return 0;
}

static int latent_frames(const WanRequest *r)
{
    return (r->frames - 1) / WAN_TIME_STRIDE + 1;
}

/* Latent frames of it, of a causal job. */
static int shortest_block(const WanRequest *r)
{
    return r->first_block && r->first_block < r->block ? r->first_block
                                                       : r->block;
}

/* Of a pass of the transformer, of a causal job the shortest. */
static int64_t tokens_of(const WanRequest *r, const WanModel *m)
{
    const int T = r->causal ? shortest_block(r) : latent_frames(r);

    return (int64_t)T * (r->height / m->info.size_multiple) *
           (r->width / m->info.size_multiple);
}

/* The ranks that compute a model's jobs; NULL: this process alone, as after they
 * were told to quit. */
static WanRanks *ranks_for(const WanModel *m)
{
    return m->ranks && __atomic_load_n(&m->ranks->quit, __ATOMIC_RELAXED)
           ? NULL : m->ranks;
}

/* Threads of such a job: where the ranks don't compute it, all of the machine's
 * cores are free for it. */
static int threads_for(const WanModel *m)
{
    return m->ranks && !ranks_for(m) ? m->threads_alone : m->threads;
}

static int check_request(const WanRequest *r, const WanModel *m)
{
    const WanRanks *ranks = ranks_for(m);
    const int k = m->info.size_multiple, max = m->info.size_max;

    if (!r->prompt)
        return bad(m, "prompt", "there is none");
    if (check_text(r->prompt, "prompt", m) < 0 ||
        check_text(r->negative_prompt, "negative_prompt", m) < 0)
        return WAN_ERR(EINVAL);
    if (r->width < k || r->height < k || r->width > max || r->height > max ||
        r->width % k || r->height % k)
        return bad(m, "size", "%dx%d; width and height must be multiples of "
                   "%d from %d to %d", r->width, r->height, k, k, max);
    if ((r->frames || !r->causal) &&
        (r->frames < 1 || r->frames > WAN_MAX_FRAMES ||
         r->frames % WAN_TIME_STRIDE != 1))
        return bad(m, "frames", "%d; it must be 4n+1: 1, 5, 9, ... 81, ... "
                   "%d", r->frames, WAN_MAX_FRAMES);
    if (r->steps < 1 || r->steps > WAN_MAX_STEPS)
        return bad(m, "steps", "%d; 1 to %d can be", r->steps, WAN_MAX_STEPS);
    if (!(r->guidance >= 0 && r->guidance <= WAN_MAX_GUIDANCE))
        return bad(m, "guidance", "%g; 0 to %g can be", r->guidance,
                   WAN_MAX_GUIDANCE);
    if (!(r->shift >= WAN_MIN_SHIFT && r->shift <= WAN_MAX_SHIFT))
        return bad(m, "shift", "%g; %g to %g can be", r->shift, WAN_MIN_SHIFT,
                   WAN_MAX_SHIFT);
    if (check_experts(r, m) < 0 || check_sampling(r, m) < 0)
        return WAN_ERR(EINVAL);
    if ((unsigned)r->rng > WAN_RNG_CPU)
        return bad(m, "rng", "%d is none", r->rng);
    if ((unsigned)r->preview > 1)
        return bad(m, "preview", "%d; 0 or 1 can be", r->preview);
    if (r->preview && m->vae.family->channels != WAN_LATENT_CHANNELS)
        return bad(m, "preview", "%s has none: its VAE's latents have %d "
                   "channels, %d can be", m->info.name,
                   m->vae.family->channels, WAN_LATENT_CHANNELS);
    if (r->rng_threads < 256 || r->rng_threads % 256)
        return bad(m, "rng_threads", "%d; a positive multiple of 256 can be",
                   r->rng_threads);
    WanStepCache cache;
    int ret;

    if ((ret = wan_stream_check(r, m)) < 0 ||
        (ret = wan_condition_check(r, m)) < 0)
        return ret;
    if (ranks && tokens_of(r, m) < ranks->size)
        return bad(m, "size", r->causal ? "%dx%d, a block of %d latent frames, "
                   "are %lld tokens, too few for %d processes"
                   : "%dx%d, %d frames are %lld tokens, too few for %d "
                   "processes", r->width, r->height,
                   r->causal ? shortest_block(r) : r->frames,
                   (long long)tokens_of(r, m), ranks->size);
    return wan_stepcache_init(&cache, r, &m->info, &m->log);
}

int wan_request_check(const WanRequest *r, const WanModel *m)
{
    Request own;
    const int ret = take_request(&own, r, m);

    return ret < 0 ? ret : check_request(&own.rq, m);
}

int wan_request_fit(WanRequest *r, const WanModel *m, int width, int height)
{
    const double area = (double)r->width * r->height;
    const int k = m->info.size_multiple;
    int w, h;

    if (width < 1 || height < 1)
        return bad(m, "image", "%dx%d is empty", width, height);
    wan_condition_fit(m, area, width, height, &w, &h);
    if (h < k || w < k)
        return bad(m, "image", "%dx%d is too narrow for a video of %.0f "
                   "pixels a frame; give option size", width, height, area);
    if (h > m->info.size_max || w > m->info.size_max)
        return bad(m, "image", "%dx%d would make a video of %dx%d, sides up to "
                   "%d can be; give option size", width, height, w, h,
                   m->info.size_max);
    r->width = w;
    r->height = h;
    return 0;
}

/* ------------------------------------------------------------- pipeline */

/* Of what is sampled: the video's, and those of the condition in front. */
static int sampled_frames(const WanJob *j)
{
    return latent_frames(&j->rq) + wan_condition_lead(&j->condition);
}

/* Whether any step has two branches. */
static int guided(const WanRequest *r)
{
    return wan_stepcache_branches(r) > 1;
}

/* Number of the expert that makes step i. */
static int expert_of(const WanJob *j, int i)
{
    return wan_model_expert(j->model, j->rq.boundary, j->schedule.timestep[i]);
}

static double guidance_of(const WanJob *j, int expert)
{
    return expert ? j->rq.guidance2 : j->rq.guidance;
}

/* Whether this process does what is not shared: texts, images, pictures. */
static int is_host(const WanJob *j)
{
    return !j->ranks || !j->ranks->rank;
}

/* Whether each branch of guidance is computed by a half of the ranks: where they
 * are even and all steps have both. That sends less: at two ranks nothing but
 * velocities, and where the heads can't be divided by the ranks but by half of
 * them, heads in place of whole keys and values. MagCache decides for each branch,
 * which halves would wait for. */
static int in_halves(const WanJob *j)
{
    return j->ranks && j->ranks->size % 2 == 0 && j->rq.guidance != 1 &&
           j->rq.guidance2 != 1 && j->cache.kind != WAN_CACHE_MAG;
}

/* Whether all ranks decode: where one would have no rows and that is a device,
 * whose kernels are not started for nothing, the host does. */
static int decodes_together(const WanJob *j)
{
    return j->ranks && (!j->dev->backend->device || j->ranks->size <=
                        j->rq.height / j->model->vae.family->stride);
}

/* Whether this process needs a branch's keys and values. */
static int has_branch(const WanJob *j, int branch)
{
    return !j->dev->halves || branch == wan_half(j->dev);
}

/* A draw from the request's generator into t: the first for the first x, the
 * others for the steps that want fresh noise. All are of one size. */
static void draw_noise(WanJob *j, WanTensor *t, int draw)
{
    WanNoise n = { .rng = j->rq.rng, .seed = j->rq.seed,
                   .threads = j->rq.rng_threads,
                   .frame_major = j->schedule.frame_major };

    n.skip = draw * wan_noise_used(&n, wan_count(t));
    wan_op_draw(j->dev, t, &n);
    wan_tap(j->dev, t, "noise%d", draw);
}

/* The latent and the solver's state, then the noise. */
static void begin(WanJob *j)
{
    WanDev *d = j->dev;
    const int64_t T = sampled_frames(j);
    const WanCodecFamily *vae = j->model->vae.family;
    const int64_t h = j->rq.height / vae->stride;
    const int64_t w = j->rq.width / vae->stride;

    wan_dev_stage(d, WAN_STAGE_TEXT);
    j->solver[WAN_S_X] = wan_tmp(d, vae->channels, T, h, w);
    j->latent_end = wan_mark(d);
    for (int i = 0; i < WAN_S_NB; i++)
        if (i != WAN_S_X && wan_solver_uses(&j->schedule, i))
            j->solver[i] = wan_tmp_like(d, &j->solver[WAN_S_X]);
    wan_section(d, "noise");
    draw_noise(j, &j->solver[WAN_S_X], 0);
    if (j->schedule.start != 1) {
        const WanTensor *x = &j->solver[WAN_S_X];

        wan_op_lincomb(d, &j->solver[WAN_S_X], 1, &j->schedule.start, &x);
    }
    for (int i = 0; i <= guided(&j->rq); i++)
        j->text[i] = wan_tmp(d, j->nb_ids[i], j->model->info.text_dim);
    wan_condition_reserve(&j->condition, d, &j->solver[WAN_S_X]);
}

/* Whether prompts go through the encoder's weights together: where neither
 * changes the other's bits. */
static int texts_together(const WanJob *j)
{
    return j->dev->backend->ops->rows_apart;
}

/* Prompts [from, to). */
static void encode_texts(WanJob *j, int from, int to)
{
    const int32_t *const ids[] = { j->ids[COND], j->ids[UNCOND] };

    wan_t5_encode(j->dev, to - from, &j->text[from], &j->model->t5, ids + from);
    for (int i = from; i < to; i++)
        wan_op_finite(j->dev, &j->text[i], "text encoder: the %s prompt's "
                      "encoding", side[i]);
}

/* Keep what was encoded for the jobs that follow. Only values that are there:
 * to hand them out waits for a device that works on its own. */
static void keep_text(WanJob *j, int branch)
{
    const int n = j->nb_ids[branch], dim = j->model->info.text_dim;
    float *host = malloc((size_t)n * dim * sizeof(*host));

    if (!host)
        return;
    wan_op_download(j->dev, host, &j->text[branch]);
    if (wan_dev_error(j->dev) >= 0)
        wan_prompts_put(j->model->prompts, j->ids[branch], n, dim, host);
    free(host);
}

/* A prompt that an earlier job encoded; 0: none did. */
static int recall_text(WanJob *j, int branch)
{
    float *kept = wan_prompts_get(j->model->prompts, j->ids[branch],
                                  j->nb_ids[branch], j->model->info.text_dim);

    if (!kept)
        return 0;
    wan_log(&j->model->log, WAN_LOG_VERBOSE, "the %s prompt was encoded for an "
            "earlier clip", side[branch]);
    wan_op_upload(j->dev, &j->text[branch], kept);
    free(kept);
    return 1;
}

/* Prompts [from, to) of the request: of an earlier job's, or encoded. */
static void take_texts(WanJob *j, int from, int to)
{
    int first = from, end = to;     // of those that are encoded

    while (first < end && recall_text(j, first))
        first++;
    while (first < end && recall_text(j, end - 1))
        end--;
    if (first < end)
        encode_texts(j, first, end);
    for (int i = first; i < end; i++)
        keep_text(j, i);
    for (int i = from; i < to; i++)
        wan_tap(j->dev, &j->text[i], i == COND ? "context" : "context_null");
}

static int stage_of(int expert)
{
    return expert ? WAN_PAGER_SECOND : WAN_STAGE_STEPS;
}

/* What all steps share: keys and values of the prompts and the image, rotary
 * tables. */
static void begin_steps(WanJob *j)
{
    const WanTensor *x = &j->solver[WAN_S_X];
    const WanDit *dit = wan_model_dit(j->model, j->expert = expert_of(j, 0));

    wan_dev_stage(j->dev, stage_of(j->expert));
    for (int i = 0; i <= guided(&j->rq); i++)
        wan_op_share(j->dev, &j->text[i]);
    wan_condition_share(&j->condition, j->dev);
    j->dev->halves = in_halves(j);
    for (int i = 0; i <= guided(&j->rq); i++)
        if (has_branch(j, i))
            wan_dit_text(j->dev, &j->context[i], dit, &j->text[i]);
    wan_condition_begin_steps(&j->condition, j->dev, dit);
    wan_condition_start(&j->condition, j->dev, &j->solver[WAN_S_X],
                        1 - j->schedule.start);
    wan_condition_keep(&j->condition, j->dev, &j->solver[WAN_S_X]);
    wan_section(j->dev, "rotary tables");
    wan_dit_rope(j->dev, &j->rope, &j->model->dit.config, (int)x->dim[1],
                 (int)x->dim[2] / 2, (int)x->dim[3] / 2);
    wan_stepcache_begin(j->dev, &j->cache, &j->model->dit.config, x);
    wan_stepcache_restart(&j->cache, 0, 1 + (guidance_of(j, j->expert) != 1));
    if (j->rq.preview)
        wan_preview_begin(j->dev, &j->preview, &j->model->vae, x,
                          wan_condition_lead(&j->condition));
}

/* The other expert takes over at step i: its weights take the place of those
 * that rest, and what the steps share is made anew where it depends on them.
 * The solver goes on. */
static void change_expert(WanJob *j, int i)
{
    const int expert = expert_of(j, i);
    const WanDit *dit = wan_model_dit(j->model, expert);
    const WanWeights *rests = wan_model_expert_file(j->model, j->expert);

    wan_dev_stage(j->dev, stage_of(expert));
    if (rests && !j->dev->plan)
        wan_weights_leave(rests, "");
    for (int b = 0; b <= guided(&j->rq); b++)
        if (has_branch(j, b))
            wan_dit_text_again(j->dev, &j->context[b], dit, &j->text[b]);
    wan_condition_begin_steps(&j->condition, j->dev, dit);
    wan_stepcache_restart(&j->cache, i, 1 + (guidance_of(j, expert) != 1));
    j->expert = expert;
}

static int is_cancelled(void *opaque)
{
    return wan_dev_cancelled(opaque);
}

/* In an expert's last step, when a block was used: its pages make room for
 * those of the same block of the expert that follows, which are read while the
 * blocks behind it compute. */
static void hand_over(void *opaque, int block)
{
    WanJob *j = opaque;
    const WanInterrupt interrupt = { is_cancelled, j->dev };
    const WanWeights *rests = wan_model_expert_file(j->model, j->expert);
    const WanWeights *next = wan_model_expert_file(j->model, !j->expert);
    char prefix[32];

    snprintf(prefix, sizeof(prefix), "blocks.%d.", block);
    if (rests)
        wan_weights_leave(rests, prefix);
    if (next)
        wan_weights_expect(next, prefix, j->threads, &interrupt);
}

/* Whether another expert makes the step behind i. */
static int is_last_of_expert(const WanJob *j, int i)
{
    return i + 1 < j->schedule.steps && expert_of(j, i + 1) != j->expert;
}

/* V = v_u + g (v_c - v_u) at X, then the solver's sums. */
static void denoise(WanJob *j, int i)
{
    WanDev *d = j->dev;
    const WanMark mark = wan_mark(d);
    const WanDit *dit = wan_model_dit(j->model, j->expert);
    const double g = guidance_of(j, j->expert);
    const int ends = is_last_of_expert(j, i) && !d->plan;
    WanTensor *s = j->solver;
    WanDitInput in = { .dit = dit, .text = j->context, .rope = &j->rope };
    WanCombination c[WAN_MAX_COMBINATIONS];
    WanDitTime time;

    wan_section(d, "step %d", i);
    in.x = wan_condition_input(&j->condition, d, &s[WAN_S_X]);
    in.image = wan_condition_context(&j->condition);
    in.vace = wan_condition_vace(&j->condition, &in.nb_vace);
    in.time = &time;
    in.after = ends ? hand_over : NULL;
    in.opaque = j;
    wan_condition_time(&j->condition, d, &time, dit, j->schedule.timestep[i]);
    WanTensor v[2] = { s[WAN_S_V] };            // COND, UNCOND
    if (g != 1)
        v[UNCOND] = wan_tmp_like(d, &s[WAN_S_V]);
    wan_stepcache_forward(d, &j->cache, i, v, &s[WAN_S_X], &in);
    wan_section(d, "guidance and solver");
    if (g != 1) {
        const WanTensor *both[] = { &v[COND], &v[UNCOND] };

        wan_op_lincomb(d, &s[WAN_S_V], 2, (double[]){ g, 1 - g }, both);
    }
    wan_tap(d, &s[WAN_S_V], "noise_pred%d", i);
    if (j->rq.preview)
        wan_preview_step(d, &j->preview, &s[WAN_S_X], &s[WAN_S_V],
                         j->schedule.sigma[i]);

    const int n = wan_solver_step(&j->schedule, i, c);
    for (int k = 0; k < n; k++) {
        const WanTensor *from[WAN_S_NB];
        double coef[WAN_S_NB];
        int terms = 0;

        if (c[k].coef[WAN_S_NOISE])
            draw_noise(j, &s[WAN_S_NOISE], i + 1);
        for (int t = 0; t < WAN_S_NB; t++) {
            if (c[k].coef[t]) {
                from[terms] = &s[t];
                coef[terms++] = c[k].coef[t];
            }
        }
        wan_op_lincomb(d, &s[c[k].dst], terms, coef, from);
    }
    wan_condition_keep(&j->condition, d, &s[WAN_S_X]);
    wan_op_finite(d, &s[WAN_S_X], "step %d of %d: the latent", i + 1,
                  j->schedule.steps);
    wan_tap(d, &s[WAN_S_X], "latents%d", i);

    /* M2 <- M1 <- M0, the oldest buffer serves next. */
    const WanTensor oldest = s[WAN_S_M2];
    s[WAN_S_M2] = s[WAN_S_M1];
    s[WAN_S_M1] = s[WAN_S_M0];
    s[WAN_S_M0] = oldest;
    wan_release(d, mark);
}

/* x without its first n frames, in memory of its own. */
static void drop_frames(WanDev *d, WanTensor *x, int64_t n)
{
    const int64_t C = x->dim[0], T = x->dim[1] - n, hw = x->dim[2] * x->dim[3];
    const WanTensor all = wan_reshape(x, C, x->dim[1] * hw);
    const WanTensor rest = wan_columns(&all, n * hw, T * hw);
    WanTensor own = wan_tmp(d, C, T, x->dim[2], x->dim[3]);
    WanTensor to = wan_reshape(&own, C, T * hw);

    wan_op_copy(d, &to, &rest);
    *x = own;
}

/* All but the video's latent makes room for the decoder. */
static void begin_decode(WanJob *j)
{
    WanTensor *x = &j->solver[WAN_S_X];
    const int64_t chunk = latent_frames(&j->rq) > 1 ? WAN_TIME_STRIDE : 1;
    const int64_t H = j->rq.height, W = j->rq.width;

    wan_release(j->dev, j->latent_end);
    wan_dev_stage(j->dev, WAN_STAGE_DECODE);
    j->dev->halves = 0;
    if (wan_condition_lead(&j->condition))
        drop_frames(j->dev, x, wan_condition_lead(&j->condition));
    j->rgb = is_host(j) ? wan_tmp(j->dev, chunk, H, W, 3)
                        : wan_tensor_of(NULL, WAN_F32, chunk, H, W, 3);
    (decodes_together(j) ? wan_codec_begin_rows : wan_codec_begin_decode)
        (j->dev, &j->stream, &j->model->vae, x->dim[2], x->dim[3]);
}

static void decode(WanJob *j)
{
    const int n = j->stream.frames ? WAN_TIME_STRIDE : 1;
    WanTensor rgb = wan_slice(&j->rgb, 0, n);

    wan_codec_decode_together(j->dev, &rgb, &j->model->vae, &j->stream,
                              &j->solver[WAN_S_X]);
    j->frames_ready = is_host(j) ? n : 0;
    j->frames_given = 0;
}

/* -------------------------------------------------------------- recipes */

/* How a video comes about. */
struct Recipe {
    int64_t (*latents)(const WanJob *j);    // frames that a step denoises
    /* Each kind of unit once, on a plan's device. */
    void (*plan)(WanJob *j, WanPlan *out);
    int (*units)(const WanJob *j, enum WanStage stage);
    void (*work)(WanJob *j, enum WanStage stage);   // of unit j->unit
    enum WanStage (*next)(WanJob *j, enum WanStage stage);
};

/* A clip: all of it through one stage after the other. */

static int64_t clip_latents(const WanJob *j)
{
    return sampled_frames(j);
}

static int clip_units(const WanJob *j, enum WanStage stage)
{
    switch (stage) {
    case WAN_STAGE_TEXT:    return texts_together(j) ? 1 : 1 + guided(&j->rq);
    case WAN_STAGE_IMAGE:   return is_host(j) ?
                                   wan_condition_units(&j->condition) : 0;
    case WAN_STAGE_STEPS:   return j->schedule.steps;
    case WAN_STAGE_DECODE:  return is_host(j) || decodes_together(j) ?
                                   latent_frames(&j->rq) : 0;
    default:                return 0;
    }
}

/* What the last step leaves to be said. */
static void end_steps(const WanJob *j)
{
    const WanStepCache *c = &j->cache;

    if (c->kind && !c->measuring)
        wan_log(&j->model->log, WAN_LOG_INFO, "cache: %d of %d calls of the "
                "transformer skipped", c->skipped, c->calls);
}

static void clip_work(WanJob *j, enum WanStage stage)
{
    WanProgress *p = &j->progress;

    switch (stage) {
    case WAN_STAGE_TEXT:
        if (!j->unit)
            begin(j);
        if (is_host(j))
            take_texts(j, j->unit, texts_together(j) ? 1 + guided(&j->rq)
                                                     : j->unit + 1);
        break;
    case WAN_STAGE_IMAGE:
        wan_condition_encode(&j->condition, j->dev, j->unit);
        break;
    case WAN_STAGE_STEPS:
        if (!j->unit)
            begin_steps(j);
        else if (expert_of(j, j->unit) != j->expert)
            change_expert(j, j->unit);
        denoise(j, j->unit);
        p->calls = j->cache.calls;
        p->skipped = j->cache.skipped;
        j->previewed = j->rq.preview;
        if (j->unit == j->schedule.steps - 1 && wan_dev_error(j->dev) >= 0)
            end_steps(j);
        break;
    default:
        if (!j->unit)
            begin_decode(j);
        decode(j);
        break;
    }
}

static enum WanStage clip_next(WanJob *j, enum WanStage stage)
{
    (void)j;
    return stage + 1;
}

/* The step that the second expert makes last stands for all of its. What a
 * step costs is the mean: one of them may be guided alone. */
static void plan_second(WanPlan *out, WanJob *j)
{
    const int steps = j->schedule.steps, before = j->expert;
    double flops;
    int first = 0;

    change_expert(j, steps - 1);
    wan_dev_repeat(j->dev);
    flops = j->dev->flops;
    denoise(j, steps - 1);
    flops = j->dev->flops - flops;
    while (expert_of(j, first) == before)
        first++;
    out->step_flops = (first * out->step_flops + (steps - first) * flops) /
                      steps;
}

/* Where prompts are encoded together, one alone, whose other was encoded for an
 * earlier job, may want more memory: fewer rows are cut into other tiles. That
 * is all there is of it in the plan. */
static void plan_texts(WanJob *j)
{
    WanDev *d = j->dev;
    const int n = 1 + guided(&j->rq), together = texts_together(j) ? n : 1;

    for (int i = 0; i < n; i += together)
        encode_texts(j, i, i + together);
    if (together == 1)
        return;

    void (*const trace)(void *, const char *) = d->trace;
    WanPager *const pager = d->pager;
    const double flops = d->flops;

    d->trace = NULL;
    d->pager = NULL;
    for (int i = 0; i < n; i++)
        encode_texts(j, i, i + 1);
    d->trace = trace;
    d->pager = pager;
    d->flops = flops;
}

static void clip_plan(WanJob *j, WanPlan *out)
{
    const int T = latent_frames(&j->rq), last = T < 3 ? T - 1 : 2;
    double before, sent;
    int exchanges;

    begin(j);
    if (is_host(j))
        plan_texts(j);
    out->text_flops = before = j->dev->flops;
    for (int i = 0; i < wan_condition_units(&j->condition) && is_host(j); i++)
        wan_condition_encode(&j->condition, j->dev, i);
    out->image_flops = j->dev->flops - before;
    begin_steps(j);
    out->begin_sent_bytes = j->dev->sent;
    out->begin_exchanges = j->dev->exchanges;
    wan_dev_repeat(j->dev);
    before = j->dev->flops;
    sent = j->dev->sent;
    exchanges = j->dev->exchanges;
    denoise(j, 0);
    out->step_flops = j->dev->flops - before;
    out->sent_bytes = j->dev->sent - sent;
    out->exchanges = j->dev->exchanges - exchanges;
    out->behind_bytes = j->dev->behind.sent;
    out->behind_flops = j->dev->behind.flops;
    out->behind_exchanges = j->dev->behind.exchanges;
    if (expert_of(j, j->schedule.steps - 1) != j->expert)
        plan_second(out, j);
    if (j->rq.preview)
        wan_op_image(j->dev, NULL, &j->preview.rgb);
    if (!is_host(j) && !decodes_together(j))
        return;
    begin_decode(j);
    for (int t = 0; t <= last; t++) {
        /* From the second chunk on all cost the same. */
        const int times = t == 2 ? T - 2 : 1;

        if (t == last)
            wan_dev_repeat(j->dev);
        before = j->dev->flops;
        sent = j->dev->sent;
        exchanges = j->dev->exchanges;
        decode(j);
        out->decode_flops += (j->dev->flops - before) * times;
        out->decode_sent_bytes += (j->dev->sent - sent) * times;
        out->decode_exchanges += (j->dev->exchanges - exchanges) * times;
    }
}

static const Recipe clip = { clip_latents, clip_plan, clip_units, clip_work,
                             clip_next };

/* A causal video: text and what it goes on from, then steps and pixels of one
 * block after the other; between them another text. */

static int64_t blocks_latents(const WanJob *j)
{
    return j->rq.block;
}

static void blocks_begin(WanJob *j)
{
    wan_dev_stage(j->dev, WAN_STAGE_TEXT);
    j->text[COND] = wan_tmp(j->dev, WAN_TEXT_LEN, j->model->info.text_dim);
    wan_stream_reserve(&j->blocks, j->dev, decodes_together(j));
    wan_condition_reserve(&j->condition, j->dev, &j->blocks.x);
    j->rgb = j->blocks.rgb;
}

static void blocks_text(WanJob *j)
{
    const WanTensor room = j->text[COND];

    wan_dev_stage(j->dev, WAN_STAGE_TEXT);
    j->text[COND] = wan_slice(&room, 0, j->nb_ids[COND]);
    if (is_host(j))
        take_texts(j, COND, COND + 1);
    wan_stream_text(&j->blocks, &j->text[COND]);
    j->text[COND] = room;
    j->switching = 0;
}

/* What the host has encoded goes to all, before it is used: a prompt, and at the
 * start what the video goes on from. */
static void blocks_share(WanJob *j)
{
    WanStream *s = &j->blocks;

    if (!s->text.nb_dims)
        return;
    wan_op_share(j->dev, &s->text);
    if (s->pos == s->start)
        wan_condition_share(&j->condition, j->dev);
}

/* Whether another prompt comes before the block that begins: the host tells the
 * others how many tokens it has, 0: it stays. */
static int blocks_switch(WanJob *j)
{
    WanDev *d = j->dev;
    int64_t n = j->switching ? j->nb_ids[COND] : 0;
    int ret;

    if (j->ranks && !wan_dev_error(d) &&
        (ret = wan_ranks_hand_out(j->ranks, &n, sizeof(n), "a prompt",
                                  &d->cancel)) < 0)
        wan_dev_end(d, ret);
    if (!is_host(j) && n)
        j->nb_ids[COND] = (int)n;
    return n != 0;
}

/* Frames that nobody asked for are not handed out. */
static void blocks_decode(WanJob *j)
{
    WanStream *s = &j->blocks;
    const int n = wan_stream_decode(s, j->dev, j->unit, &j->condition.given);
    const int drop = s->drop < n ? s->drop : n;

    s->drop -= drop;
    j->frames_ready = is_host(j) ? n : 0;
    j->frames_given = is_host(j) ? drop : 0;
}

static int blocks_units(const WanJob *j, enum WanStage stage)
{
    switch (stage) {
    case WAN_STAGE_TEXT:    return 1;
    case WAN_STAGE_IMAGE:   return j->blocks.codec.frames || !is_host(j)
                                   ? 0 : wan_condition_units(&j->condition);
    case WAN_STAGE_DONE:    return 0;
    case WAN_STAGE_DECODE:  if (!is_host(j) && !decodes_together(j))
                                return 0;
                            /* fall through */
    default:                return wan_stream_units(&j->blocks, stage);
    }
}

static void blocks_work(WanJob *j, enum WanStage stage)
{
    if (stage >= WAN_STAGE_STEPS)
        blocks_share(j);
    switch (stage) {
    case WAN_STAGE_TEXT:
        if (!j->rgb.nb_dims)
            blocks_begin(j);
        blocks_text(j);
        break;
    case WAN_STAGE_IMAGE:
        wan_condition_encode(&j->condition, j->dev, j->unit);
        break;
    case WAN_STAGE_STEPS:
        wan_stream_step(&j->blocks, j->dev, j->unit);
        j->progress.calls++;
        break;
    default:
        blocks_decode(j);
        break;
    }
    j->progress.block = j->blocks.number;
    j->progress.block_done = stage == WAN_STAGE_STEPS && j->blocks.keeping;
}

static enum WanStage blocks_next(WanJob *j, enum WanStage stage)
{
    const enum WanStage next = stage < WAN_STAGE_STEPS ? stage + 1
                               : wan_stream_next(&j->blocks, j->dev, stage);

    return stage == WAN_STAGE_STEPS && next == stage && blocks_switch(j)
           ? WAN_STAGE_TEXT : next;
}

/* The prompt may become the longest there is, while all the rest is there. */
static void blocks_plan(WanJob *j, WanPlan *out)
{
    WanDev *d = j->dev;
    WanPager *pager = d->pager;
    const int n = j->nb_ids[COND];
    double before;

    blocks_begin(j);
    const WanTensor room = j->text[COND], text = wan_slice(&room, 0, n);

    j->nb_ids[COND] = WAN_TEXT_LEN;
    if (is_host(j))
        encode_texts(j, COND, COND + 1);
    j->nb_ids[COND] = n;
    before = d->flops;
    d->pager = NULL;                // noted once
    j->text[COND] = text;
    if (is_host(j))
        encode_texts(j, COND, COND + 1);
    d->pager = pager;
    out->text_flops = d->flops - before;
    before = d->flops;
    for (int i = 0; i < wan_condition_units(&j->condition) && is_host(j); i++)
        wan_condition_encode(&j->condition, d, i);
    out->image_flops = d->flops - before;
    wan_stream_text(&j->blocks, &text);
    blocks_share(j);
    out->begin_sent_bytes = d->sent;
    out->begin_exchanges = d->exchanges;
    wan_stream_text(&j->blocks, &room);
    wan_stream_plan(&j->blocks, d, is_host(j) || decodes_together(j), out);
    if (j->ranks && is_host(j))     // whether the prompt is another one
        out->block_sent_bytes += (j->ranks->size - 1.) * sizeof(int64_t);
}

static const Recipe blocks = { blocks_latents, blocks_plan, blocks_units,
                               blocks_work, blocks_next };

/* ----------------------------------------------------------------- plan */

static int init_schedule(WanJob *j)
{
    const WanRequest *r = &j->rq;
    const WanPreset *p;
    WanSampling s = { .sampler = r->sampler, .steps = r->steps,
                      .shift = r->shift, .timesteps = r->timesteps,
                      .warp = r->warp, .sigma_max = r->sigma_max,
                      .strength = r->video ? r->strength : 0 };
    int ret = find_preset(&p, r, j->model);

    if (!s.timesteps && p)
        s.timesteps = wan_preset_timesteps(p, &s);
    if (ret >= 0)
        ret = wan_schedule_init(&j->schedule, &s);
    return ret == WAN_ERR(ENOMEM) ? wan_error_memory(&j->model->log, "job",
                                                     "its steps") : ret;
}

/* How the steps are made: their noise levels, and which may be left out. */
static int init_steps(WanJob *j, int measure)
{
    int ret;

    j->recipe = j->rq.causal ? &blocks : &clip;
    if (j->rq.causal)
        return measure ? bad(j->model, "cache", "a causal model skips no steps")
                       : wan_stream_init(&j->blocks, j->model, &j->rq);
    if ((ret = init_schedule(j)) < 0)
        return ret;
    if (!measure)
        return wan_stepcache_init(&j->cache, &j->rq, &j->model->info,
                                  &j->model->log);
    wan_stepcache_measure(&j->cache, &j->rq);
    return 0;
}

/* What the device needs, and what it will be given: all that is useful, at
 * most what is available. */
static int plan_weights(WanPlan *out, WanJob *j, int64_t *bytes)
{
    int64_t second;

    *bytes = out->work_bytes;
    if (!j->pager) {                // images wait in the same memory
        if (is_host(j))
            out->work_bytes += wan_condition_bytes(&j->condition);
        if (j->rq.preview)
            out->work_bytes += wan_preview_bytes(j->rq.width, j->rq.height);
        return 0;
    }
    if (j->pager->error < 0)
        return wan_error(&j->model->log, j->pager->error, "job: no memory for "
                         "its plan");
    wan_pager_need(j->pager, &out->least_bytes, &out->full_bytes);
    *bytes = out->full_bytes < out->available_bytes ? out->full_bytes
                                                    : out->available_bytes;
    if (*bytes >= out->least_bytes) {
        wan_pager_fit(j->pager, *bytes);
        out->stream_bytes = wan_pager_streams(j->pager, WAN_STAGE_STEPS);
        second = wan_pager_streams(j->pager, WAN_PAGER_SECOND);
        if (second > out->stream_bytes)
            out->stream_bytes = second;
    }
    return 0;
}

/* The whole pipeline on the plan backend: j has request and id counts. The
 * order in which it uses the weights is kept in j->pager. */
static int plan_job(WanPlan *out, int64_t *bytes, WanJob *j,
                    void (*trace)(void *, const char *), void *opaque)
{
    const WanModel *m = j->model;
    int ret = wan_dev_open_plan(&j->dev, m->device, j->threads, &m->log);

    if (ret < 0)
        return ret;
    j->dev->trace = trace;
    j->dev->trace_opaque = opaque;
    j->dev->ranks = j->ranks;
    if (j->dev->backend->page_bytes) {
        if (!(j->pager = wan_pager_alloc())) {
            wan_dev_close(&j->dev);
            return wan_error_memory(&m->log, "job", "its plan");
        }
        j->dev->pager = j->pager;
        j->pager->vectors = m->pool.vectors * 3 / 2 + VECTORS_SLACK;
    }
    *out = (WanPlan){
        .weight_bytes = m->info.weight_bytes - m->resting_bytes +
                        m->pool.bytes,
        .available_bytes = m->memory ? m->memory :
                           wan_dev_available(m->device, m->cuda_context),
        .processes = j->ranks ? j->ranks->size : 1,
    };
    if (j->ranks && !m->memory && out->available_bytes < INT64_MAX) {
        out->available_bytes -= j->dev->backend->join_bytes;
        if (out->available_bytes < 0)
            out->available_bytes = 0;
    }

    out->tokens = j->recipe->latents(j) *
                  (j->rq.height / m->info.size_multiple) *
                  (j->rq.width / m->info.size_multiple);
    j->recipe->plan(j, out);
    if (is_host(j)) {
        /* Frames go out above the decoder's history; no part of the trace. */
        WanTensor frame = wan_slice(&j->rgb, 0, 1);

        j->dev->trace = NULL;
        frame = wan_reshape(&frame, j->rq.height, j->rq.width, 3);
        wan_op_image(j->dev, NULL, &frame);
    }
    ret = wan_dev_error(j->dev);
    out->work_bytes = j->dev->peak;
    wan_dev_close(&j->dev);
    return ret < 0 ? ret : plan_weights(out, j, bytes);
}

int wan_plan_trace(WanPlan *out, const WanModel *m, const WanRequest *r,
                   void (*trace)(void *opaque, const char *line),
                   void *opaque)
{
    Request own;
    WanRequest rq;
    WanImage stand_in;
    WanJob *j;
    int64_t bytes;
    int ret;

    if ((ret = take_request(&own, r, m)) < 0)
        return ret;
    rq = own.rq;
    stand_in = (WanImage){ .size = sizeof(stand_in),
                           .format = WAN_PIX_RGB24, .width = rq.width,
                           .height = rq.height };
    rq.prompt = rq.prompt ? rq.prompt : "";
    if (wan_condition_needs(m) > 0 && !rq.image)
        rq.image = &stand_in;
    if (wan_condition_needs(m) > 1 && !rq.last_image)
        rq.last_image = &stand_in;
    if ((ret = check_request(&rq, m)) < 0)
        return ret;
    if (!(j = calloc(1, sizeof(*j))))
        return wan_error_memory(&m->log, "job", "its plan");
    j->model = (WanModel *)m;       // not changed, not freed
    j->ranks = ranks_for(m);
    j->threads = threads_for(m);
    j->rq = rq;
    wan_condition_init(&j->condition, m, &rq);
    j->nb_ids[COND] = j->nb_ids[UNCOND] = WAN_TEXT_LEN;
    if (m->tokenizer && own.rq.prompt) {
        const char *negative = rq.negative_prompt ? rq.negative_prompt
                                                  : m->info.negative_prompt;

        for (int i = 0; i < 2 && ret >= 0; i++)
            ret = j->nb_ids[i] = wan_tokenizer_encode(m->tokenizer, j->ids[i],
                                 NULL, i ? negative : rq.prompt, &m->log);
    }
    if (ret >= 0)
        ret = init_steps(j, 0);
    if (ret >= 0)
        ret = plan_job(out, &bytes, j, trace, opaque);
    wan_schedule_free(&j->schedule);
    wan_stream_free(&j->blocks);
    wan_pager_free(&j->pager);
    free(j);
    return ret;
}

int wan_plan_sized(WanPlan *out, size_t size, const WanModel *m,
                   const WanRequest *r)
{
    WanPlan plan;
    const int ret = wan_plan_trace(&plan, m, r, NULL, NULL);

    if (ret >= 0)
        wan_abi_out(out, size, &plan, sizeof(plan));
    return ret;
}

/* ----------------------------------------------------------- the public */

static void warn_of_cut(const WanModel *m, int cut, const char *option)
{
    if (cut)
        wan_log(&m->log, WAN_LOG_WARNING, "option %s: %d tokens do not fit "
                "into %d and are cut off", option, cut, WAN_TEXT_LEN);
}

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
    warn_of_cut(m, cut, option);
    return 0;
}

static int fits(const WanPlan *p)
{
    return (p->full_bytes ? p->least_bytes : p->work_bytes) <=
           p->available_bytes;
}

/* Would it fit with images no larger than the video? Then they are to blame:
 * the larger one. -1: no, or not known. */
static int large_image(const WanJob *j)
{
    WanJob other = *j;
    WanPlan plan;
    int64_t bytes;
    int large, ret;

    if ((large = wan_condition_shrink(&other.condition)) < 0)
        return -1;
    other.pager = NULL;
    ret = plan_job(&plan, &bytes, &other, NULL, NULL);
    wan_pager_free(&other.pager);
    return ret < 0 || !fits(&plan) ? -1 : large;
}

/* Which steps each of two experts makes. */
static void say_experts(const WanJob *j)
{
    const int steps = j->schedule.steps;
    int first = 0;

    if (j->model->info.experts < 2)
        return;
    while (first < steps && !expert_of(j, first))
        first++;
    wan_log(&j->model->log, WAN_LOG_INFO, "steps for the high-noise expert: "
            "%d, guidance %g; for the low-noise one: %d, guidance %g", first,
            j->rq.guidance, steps - first, j->rq.guidance2);
}

/* Would it fit if a switch of prompts did not look again? Then that is to
 * blame. */
static int large_switch(const WanJob *j)
{
    WanJob other = *j;
    WanPlan plan;
    int64_t bytes;
    int ret;

    if (!j->rq.causal || !j->blocks.recache)
        return 0;
    other.blocks.recache = 0;
    other.pager = NULL;
    ret = plan_job(&plan, &bytes, &other, NULL, NULL);
    wan_pager_free(&other.pager);
    return ret >= 0 && fits(&plan);
}

/* Whether it fits, and what does not. */
static int check_memory(const WanJob *j, const WanPlan *p)
{
    const WanModel *m = j->model;
    const WanRequest *r = &j->rq;
    const char *whose = m->memory ? "given by option memory" : "free";
    const int large = fits(p) ? -1 : large_image(j);

    if (large >= 0)
        return wan_error(&m->log, WAN_ERR(ENOMEM), "option %s: with its %dx%d "
                         "pixels the job needs %.3g GB of memory, %.3g GB are "
                         "%s: make that image smaller",
                         large ? "last_image" : "image",
                         j->condition.image[large].w,
                         j->condition.image[large].h, (p->full_bytes ? p->least_bytes
                                             : p->work_bytes) / 1e9,
                         p->available_bytes / 1e9, whose);
    if (!fits(p) && large_switch(j))
        return wan_error(&m->log, WAN_ERR(ENOMEM), "option switch: to recache "
                         "at a new prompt the job needs %.3g GB of memory, "
                         "%.3g GB are %s: plain needs less",
                         (p->full_bytes ? p->least_bytes : p->work_bytes) / 1e9,
                         p->available_bytes / 1e9, whose);
    if (!fits(p) && r->causal)
        return wan_error(&m->log, WAN_ERR(ENOMEM), "%dx%d, a window of %d "
                         "latent frames: %.3g GB of memory are needed, %.3g GB "
                         "of them keys and values; %.3g GB are %s: make size "
                         "or window smaller", r->width, r->height, p->window,
                         (p->full_bytes ? p->least_bytes : p->work_bytes) / 1e9,
                         p->cache_bytes / 1e9, p->available_bytes / 1e9, whose);
    if (!fits(p) && p->full_bytes)
        return wan_error(&m->log, WAN_ERR(ENOMEM), "%dx%d, %d frames need "
                         "%.3g GB of device memory, or %.3g GB to keep all "
                         "weights there; %.3g GB are %s: make size or frames "
                         "smaller", r->width, r->height, r->frames,
                         p->least_bytes / 1e9, p->full_bytes / 1e9,
                         p->available_bytes / 1e9, whose);
    if (!fits(p))
        return wan_error(&m->log, WAN_ERR(ENOMEM), "%dx%d, %d frames need "
                         "%.3g GB of memory besides %.3g GB of mapped "
                         "weights, %.3g GB are %s: make size or frames "
                         "smaller", r->width, r->height, r->frames,
                         p->work_bytes / 1e9, p->weight_bytes / 1e9,
                         p->available_bytes / 1e9, whose);
    if (p->stream_bytes)
        wan_log(&m->log, WAN_LOG_INFO, "%.3g GB of device memory would keep "
                "all weights, %.3g GB are %s: %.3g GB are copied at every "
                "step", p->full_bytes / 1e9, p->available_bytes / 1e9, whose,
                p->stream_bytes / 1e9);
    return 0;
}

/* The ranks of the model, unless they have a job: then this process computes
 * alone. The others get the request. */
static int take_ranks(WanJob *j, const WanRequest *r)
{
    WanModel *m = j->model;
    WanBytes b = { 0 };
    int ret;

    if (!m->ranks)
        return 0;
    if (!ranks_for(m)) {
        j->alone = "the processes beside this one were told to quit when a clip "
                   "was cancelled: this one goes on alone";
        return 0;
    }
    if (m->ranks->broken)
        return wan_error(&m->log, WAN_ERR(EIO), "the processes beside this one "
                         "have ended");
    if (__atomic_exchange_n(&m->ranks->busy, 1, __ATOMIC_ACQUIRE)) {
        wan_log(&m->log, WAN_LOG_WARNING, "the processes beside this one have "
                "another clip: this one is made alone");
        return 0;
    }
    j->ranks = m->ranks;
    if (m->ranks->rank)
        return 0;
    j->ranks->log = m->log;             // that of the job before may be gone
    j->ranks->interrupted = m->interrupted;
    j->ranks->interrupted_opaque = m->interrupted_opaque;
    wan_put(&b, m->given.data, m->given.n);
    wan_put_request(&b, r);
    ret = b.failed ? wan_error_memory(&m->log, "job", "its request")
                   : wan_ranks_begin(j->ranks, b.data, b.n);
    free(b.data);
    j->begun = 1;
    return ret;
}

/* That all ranks are about to compute the same. */
static int agree(WanJob *j)
{
    const WanModel *m = j->model;
    const WanStepCache *c = &j->cache;
    uint64_t weights = 0, table = WAN_SUM;
    char kind[16] = "";
    int ret;

    if (!j->ranks)
        return 0;
    snprintf(kind, sizeof(kind), "%s", j->dev->backend->name);
    if ((ret = wan_ranks_agree(j->ranks, kind, sizeof(kind), "devices",
                               &j->dev->cancel)) < 0)
        return ret;
    for (int i = 0; i < m->info.experts; i++)
        weights = 31 * weights + wan_weights_sum(wan_model_expert_file(m, i));
    if ((ret = wan_ranks_agree(j->ranks, &weights, sizeof(weights), "weights",
                               &j->dev->cancel)) < 0 ||
        (ret = wan_ranks_agree(j->ranks, &m->lora_sum, sizeof(m->lora_sum),
                               "LoRA files", &j->dev->cancel)) < 0)
        return ret;
    if (m->files[WAN_PART_VAE]) {
        weights = wan_weights_sum(m->files[WAN_PART_VAE]);
        if ((ret = wan_ranks_agree(j->ranks, &weights, sizeof(weights),
                                   "weights of the VAE",
                                   &j->dev->cancel)) < 0)
            return ret;
    }
    for (int i = 0; i < WAN_DIT_BRANCHES; i++)
        table = wan_sum(table, c->ratio[i], c->steps * sizeof(**c->ratio));
    if (c->kind == WAN_CACHE_MAG &&
        (ret = wan_ranks_agree(j->ranks, &table, sizeof(table), "a table of "
                               "the cache", &j->dev->cancel)) < 0)
        return ret;
    return wan_ranks_agree(j->ranks, j->nb_ids, sizeof(j->nb_ids),
                           "a tokenizer", &j->dev->cancel);
}

static int job_open(WanJob **out, WanModel *m, const WanRequest *asked,
                    int measure)
{
    const char *negative;
    Request own;
    const WanRequest *r = &own.rq;
    WanPlan plan;
    WanJob *j = NULL;
    int64_t bytes;
    int ret;

    *out = NULL;
    if ((ret = take_request(&own, asked, m)) < 0 ||
        (ret = check_request(r, m)) < 0)
        return ret;
    negative = r->negative_prompt ? r->negative_prompt
                                  : m->info.negative_prompt;
    if (!m->tokenizer)
        return wan_error(&m->log, WAN_ERR(ENOSYS), "job: a model of shapes "
                         "alone makes none");
    if (!(j = calloc(1, sizeof(*j))))
        return wan_error_memory(&m->log, "job", "its state");
    j->model = wan_model_ref(m);
    j->rq = *r;
    j->rq.prompt = j->rq.negative_prompt = NULL;
    j->threads = threads_for(m);

    j->rq.controls = NULL;
    wan_condition_init(&j->condition, m, r);
    if (!measure && (ret = take_ranks(j, r)) < 0)
        goto fail;
    if (!is_host(j))
        j->rq.preview = 0;
    if ((ret = tokenize(j, COND, r->prompt, "prompt")) < 0 ||
        (ret = tokenize(j, UNCOND, negative, "negative_prompt")) < 0 ||
        (ret = init_steps(j, measure)) < 0 ||
        (ret = plan_job(&plan, &bytes, j, NULL, NULL)) < 0 ||
        (ret = check_memory(j, &plan)) < 0)
        goto fail;
    j->rq.cache_table = NULL;
    if (is_host(j) && (ret = wan_condition_read(&j->condition, r)) < 0)
        goto fail;
    j->rq.video = NULL;
    j->rq.preset = NULL;
    j->rq.timesteps = j->rq.first_timesteps = NULL;
    j->rq.image = j->rq.last_image = NULL;
    j->rq.clip = NULL;
    memset(j->solver, 0, sizeof(j->solver));
    memset(&j->stream, 0, sizeof(j->stream));
    memset(&j->rgb, 0, sizeof(j->rgb));
    j->frames_ready = j->frames_given = 0;
    ret = wan_dev_open_in(&j->dev, m->device, j->threads, bytes,
                          m->cuda_context, &m->log);
    if (ret < 0)
        goto fail;
    j->dev->pager = j->pager;
    j->dev->ranks = j->ranks;
    if ((ret = agree(j)) < 0 || (ret = wan_dev_join(j->dev)) < 0)
        goto fail;
    if (j->ranks)                       // from here on there is a job to cancel
        j->ranks->interrupted = NULL;
    j->progress.total = j->recipe->units(j, WAN_STAGE_TEXT);
    say_experts(j);
    *out = j;
    return 0;
fail:
    wan_job_close(&j);
    return ret;
}

int wan_job_open(WanJob **out, WanModel *m, const WanRequest *r)
{
    return job_open(out, m, r, 0);
}

int wan_job_open_measure(WanJob **out, WanModel *m, const WanRequest *r)
{
    return job_open(out, m, r, 1);
}

const WanStepCache *wan_job_cache(const WanJob *j)
{
    return &j->cache;
}

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* Who computes it, once a model: a job that is only opened, to see whether it
 * could be made, says nothing. */
static void say_who(const WanJob *j)
{
    enum { TOGETHER = 1, ALONE = 2 };
    WanModel *m = j->model;
    const int what = j->alone ? ALONE : j->begun ? TOGETHER : 0;
    char text[64];

    if (!what || __atomic_fetch_or(&m->said, what, __ATOMIC_RELAXED) & what)
        return;
    if (j->alone)
        wan_log(&m->log, WAN_LOG_WARNING, "%s", j->alone);
    else
        wan_log(&m->log, WAN_LOG_INFO, "clip over %s, %d threads in this one",
                wan_ranks_text(j->ranks, text, sizeof(text)), j->threads);
}

int wan_job_step_sized(WanJob *j, WanProgress *progress, size_t size)
{
    const double start = now();

    if (!j)
        return WAN_ERR(EINVAL);
    if (j->error)
        return j->error;

    WanProgress *p = &j->progress;
    enum WanStage stage = p->stage;
    double *const spent[] = { &p->text, &p->image, &p->steps, &p->decode };

    j->previewed = 0;
    if (j->frames_given < j->frames_ready || stage == WAN_STAGE_DONE)
        goto end;
    while (stage != WAN_STAGE_DONE &&
           j->unit == j->recipe->units(j, stage)) {
        p->stage = stage = j->recipe->next(j, stage);
        j->unit = 0;
    }
    if (stage == WAN_STAGE_DONE)
        goto end;

    say_who(j);
    j->recipe->work(j, stage);
    if ((j->error = wan_dev_error(j->dev)) < 0) {
        j->frames_ready = j->frames_given = 0;
        return j->error;
    }
    p->done = ++j->unit;
    p->total = j->recipe->units(j, stage);
    p->seconds = now() - start;
    *spent[stage] += p->seconds;
end:
    if (progress)
        wan_abi_out(progress, size, p, sizeof(*p));
    return 0;
}

/* Whether a frame, or a preview, [height, width, 3] can be written there, and
 * what can't be. */
static int check_frame(const WanJob *j, const WanImage *img,
                       const WanTensor *frame)
{
    const WanLog *log = &j->model->log;
    const int width = (int)frame->dim[1], height = (int)frame->dim[0];

    if (!img)
        return wan_error(log, WAN_ERR(EINVAL), "frame: no image");
    if ((unsigned)img->format > WAN_PIX_P010)
        return wan_error(log, WAN_ERR(EINVAL), "frame: format %d is none",
                         img->format);
    if ((unsigned)img->dither > WAN_DITHER_BAYER)
        return wan_error(log, WAN_ERR(EINVAL), "frame: dither %d is none",
                         img->dither);
    if (img->width != width || img->height != height)
        return wan_error(log, WAN_ERR(EINVAL), "frame: an image of %dx%d, the "
                         "%s is %dx%d", img->width, img->height,
                         width == j->rq.width ? "video" : "preview", width,
                         height);
    for (int p = 0; p < 4; p++) {
        const int64_t row = wan_image_row_bytes(img->format, img->width, p);
        const ptrdiff_t s = img->stride[p] < 0 ? -img->stride[p]
                                               : img->stride[p];

        if (row && (!img->data[p] || s < row))
            return wan_error(log, WAN_ERR(EINVAL), "frame: plane %d has no "
                             "memory, or a stride of less than its %lld bytes "
                             "a row", p, (long long)row);
    }
    return 0;
}

static int write_frame(WanJob *j, const WanImage *img, const WanTensor *frame)
{
    WanImage own = { 0 };
    int ret;

    if ((ret = take_image(&img, &own, j->model)) < 0 ||
        (ret = check_frame(j, img, frame)) < 0)
        return ret;
    wan_op_image(j->dev, img, frame);
    return j->error = wan_dev_error(j->dev);
}

int wan_job_frame(WanJob *j, const WanImage *img)
{
    int ret;

    if (!j)
        return WAN_ERR(EINVAL);
    if (j->error)
        return j->error;
    if (j->frames_given >= j->frames_ready)
        return j->rq.frames && j->frames_total == j->rq.frames
               ? WAN_EOF : WAN_ERR(EAGAIN);

    WanTensor frame = wan_slice(&j->rgb, j->frames_given, 1);
    frame = wan_reshape(&frame, j->rq.height, j->rq.width, 3);
    if ((ret = write_frame(j, img, &frame)) < 0)
        return ret;
    j->frames_given++;
    j->frames_total++;
    return 0;
}

int wan_job_prompt(WanJob *j, const char *text)
{
    int32_t ids[WAN_TEXT_LEN];
    const WanModel *m;
    int cut, n;

    if (!j)
        return WAN_ERR(EINVAL);
    if (j->error)
        return j->error;
    m = j->model;
    if (!j->rq.causal)
        return bad(m, "prompt", "a clip keeps the one it has; a causal job's "
                   "can change");
    if (!text)
        return bad(m, "prompt", "there is none");
    if (check_text(text, "prompt", m) < 0)
        return WAN_ERR(EINVAL);
    if ((n = wan_tokenizer_encode(m->tokenizer, ids, &cut, text, &m->log)) < 0)
        return n;
    warn_of_cut(m, cut, "prompt");
    memcpy(j->ids[COND], ids, n * sizeof(*ids));
    j->nb_ids[COND] = n;
    j->switching = 1;
    return 0;
}

int wan_job_preview(WanJob *j, const WanImage *img)
{
    if (!j)
        return WAN_ERR(EINVAL);
    if (j->error)
        return j->error;
    if (!j->rq.preview)
        return wan_error(&j->model->log, WAN_ERR(EINVAL), "option preview: it "
                         "is 0, so steps have no picture");
    return j->previewed ? write_frame(j, img, &j->preview.rgb)
                        : WAN_ERR(EAGAIN);
}

void wan_job_tap(WanJob *j, void (*tap)(void *opaque, const char *name,
                                        const WanTensor *t), void *opaque)
{
    j->dev->tap = tap;
    j->dev->tap_opaque = opaque;
}

void wan_job_start_at(WanJob *j, int64_t pos)
{
    wan_stream_start(&j->blocks, pos);
}

void wan_job_cancel(WanJob *j)
{
    wan_dev_cancel(j->dev);
}

/* Columns of weights as they were multiplied: each in each step. */
static void say_int8(const WanJob *j)
{
    const WanDev *d = j->dev;
    char exact[96] = "";

    if (!d || !d->int8.columns)
        return;
    if (d->int8.exact)
        snprintf(exact, sizeof(exact), "; %.3g %% were multiplied as they are, "
                 "in Q8_0, and lost nothing",
                 100.0 * d->int8.exact / d->int8.columns);
    wan_log(&j->model->log, WAN_LOG_INFO, "int8: %.3g %% of the columns of "
            "weights stayed in more bits, as they would have lost over 5 %%%s",
            100.0 * d->int8.rough / d->int8.columns, exact);
}

void wan_job_close(WanJob **jp)
{
    WanJob *j = *jp;

    *jp = NULL;
    if (!j)
        return;
    say_int8(j);
    if (j->begun)
        wan_ranks_end(j->ranks, j->error, NULL);
    wan_dev_close(&j->dev);             // cards take leave of each other there
    if (j->begun) {
        j->ranks->log = (WanLog){ 0 };
        j->ranks->interrupted = NULL;
    }
    if (j->ranks)
        __atomic_store_n(&j->ranks->busy, 0, __ATOMIC_RELEASE);
    wan_pager_free(&j->pager);
    wan_schedule_free(&j->schedule);
    wan_stream_free(&j->blocks);
    wan_condition_free(&j->condition);
    wan_model_close(&j->model);
    free(j);
}
