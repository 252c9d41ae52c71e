/*
 * Causal models: a video block by block.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * n latent frames of a block, from frame pos of the video on; tokens of a
 * frame: h/2 * w/2.
 */

#include <errno.h>
#include <stdlib.h>

#include "stream.h"

/* ------------------------------------------------------------- requests */

#define bad(m, ...) wan_error_option(&(m)->log, __VA_ARGS__)

/* The first field that is of causal models alone and set. */
static const char *causal_field(const WanRequest *r)
{
    return r->block ? "block" : r->first_block ? "first_block" :
           r->window ? "window" : r->sink ? "sink" :
           r->positions ? "positions" : r->prompt_switch ? "switch" :
           r->sink_reset ? "sink_reset" :
           r->first_timesteps || r->nb_first_timesteps ? "first_timesteps" :
           r->clip || r->nb_clip ? "clip" : !r->frames ? "frames" : NULL;
}

static int first_of(const WanRequest *r)
{
    return r->first_block ? r->first_block : r->block;
}

static int check_blocks(const WanRequest *r, const WanModel *m)
{
    const int most = r->block > first_of(r) ? r->block : first_of(r);

    if (r->block < 1 || r->block > WAN_STREAM_BLOCK)
        return bad(m, "block", "%d; 1 to %d can be", r->block,
                   WAN_STREAM_BLOCK);
    if (r->first_block < 0 || r->first_block > WAN_STREAM_BLOCK)
        return bad(m, "first_block", "%d; 0 to %d can be", r->first_block,
                   WAN_STREAM_BLOCK);
    if (r->window < 0 || r->window > WAN_MAX_FRAMES)
        return bad(m, "window", "%d; 0 to %d can be", r->window,
                   WAN_MAX_FRAMES);
    if (r->sink < 0 || r->sink > WAN_MAX_FRAMES)
        return bad(m, "sink", "%d; 0 to %d can be", r->sink, WAN_MAX_FRAMES);
    if (r->window ? r->window < r->sink + most
                  : !r->frames && WAN_STREAM_WINDOW < r->sink + most)
        return bad(m, "window", "%d latent frames; a sink of %d and a block of "
                   "%d need %d", r->window ? r->window : WAN_STREAM_WINDOW,
                   r->sink, most, r->sink + most);
    return 0;
}

static int check_first_steps(const WanRequest *r, const WanModel *m)
{
    const int n = r->nb_first_timesteps;
    int i;

    if (!r->first_timesteps && !n)
        return 0;
    if (n < 1 || n > WAN_MAX_STEPS || !r->first_timesteps)
        return bad(m, "first_timesteps", "a list of %d; 1 to %d must be", n,
                   WAN_MAX_STEPS);
    if ((i = wan_timesteps_check(r->first_timesteps, n)) < n)
        return bad(m, "first_timesteps", "number %d is %g; they must fall, "
                   "from 1000 at most to above 0", i + 1,
                   r->first_timesteps[i]);
    return 0;
}

int wan_stream_check(const WanRequest *r, const WanModel *m)
{
    const char *field = causal_field(r);

    if ((unsigned)r->causal > 1)
        return bad(m, "causal", "%d; 0 or 1 can be", r->causal);
    if (!r->causal)
        return field ? bad(m, field, "it is for causal models, and %s is not "
                           "known as one; causal=1 runs it so", m->info.name)
                     : 0;
    if (m->info.task != WAN_TASK_T2V || m->info.experts > 1)
        return bad(m, "causal", "%s can't be run so, a text-to-video "
                   "checkpoint can", m->info.name);
    if (r->video || r->nb_controls)
        return bad(m, r->video ? "video" : "controls", "a causal job takes "
                   "none");
    if (r->sampler != WAN_SAMPLER_DMD)
        return bad(m, "sampler", "%s; causal models have dmd",
                   wan_sampler_name(r->sampler));
    if (r->guidance != 1)
        return bad(m, "guidance", "%g; causal models have none: 1 can be",
                   r->guidance);
    if (r->cache)
        return bad(m, "cache", "a causal model has so few steps that none is "
                   "skipped: none can be");
    if (r->preview)
        return bad(m, "preview", "%d; a causal job's frames come block by "
                   "block: 0 can be", r->preview);
    if ((unsigned)r->positions > WAN_POSITIONS_WINDOW)
        return bad(m, "positions", "%d is none", r->positions);
    if ((unsigned)r->prompt_switch > WAN_SWITCH_RECACHE)
        return bad(m, "switch", "%d is none", r->prompt_switch);
    if (r->sink_reset != 0 && r->sink_reset != 1)
        return bad(m, "sink_reset", "%d; 0 or 1 can be", r->sink_reset);
    if ((r->image || r->clip) && !m->vae.encodes)
        return bad(m, r->image ? "image" : "clip", "the file of the VAE has no "
                   "encoder for it");
    const int ret = check_blocks(r, m);

    return ret < 0 ? ret : check_first_steps(r, m);
}

/* ---------------------------------------------------------------- begin */

/* Even steps are listed, so that they have the timesteps of a list's table. */
static int make_schedule(WanSchedule *out, const WanRequest *r, int n,
                         const double *list, const WanLog *log)
{
    double *even = list ? NULL : malloc(n * sizeof(*even));
    int ret = list || even ? 0 : WAN_ERR(ENOMEM);

    for (int i = 0; even && i < n; i++)
        even[i] = 1000 - 1000. * i / n;
    if (ret >= 0)
        ret = wan_schedule_init(out, &(WanSampling){
                                    .sampler = WAN_SAMPLER_DMD, .steps = n,
                                    .shift = r->shift,
                                    .timesteps = list ? list : even,
                                    .warp = list ? r->warp : 1 });
    free(even);
    return ret == WAN_ERR(ENOMEM) ? wan_error_memory(log, "job", "its steps")
                                  : ret;
}

/* An image in a block of several frames is there in all of them: those before
 * the last are left out. */
static int image_drop(const WanRequest *r)
{
    return r->image ? WAN_TIME_STRIDE * (first_of(r) - 1) : 0;
}

static int block_frames(const WanStream *s)
{
    return s->pos ? s->block : s->first_block;
}

/* The most latent frames of a pass, and of what is held. */
static int most_block(const WanStream *s)
{
    return s->block > s->first_block ? s->block : s->first_block;
}

static int most_frames(const WanStream *s)
{
    return s->window > most_block(s) ? s->window : most_block(s);
}

/* Numbers in a latent frame. */
static int64_t frame_values(const WanStream *s)
{
    const WanCodecFamily *vae = s->model->vae.family;

    return (int64_t)vae->channels * (s->height / vae->stride) *
           (s->width / vae->stride);
}

int wan_stream_init(WanStream *s, const WanModel *m, const WanRequest *r)
{
    const int n = r->clip ? r->nb_clip : r->image ? 1 + image_drop(r) : 0;
    int64_t all, whole;
    int ret;

    *s = (WanStream){
        .model = m, .block = r->block, .first_block = first_of(r),
        .relative = r->positions == WAN_POSITIONS_WINDOW,
        .recache = r->prompt_switch == WAN_SWITCH_RECACHE,
        .reset = r->sink_reset, .width = r->width, .height = r->height,
        .given = n ? (n - 1) / WAN_TIME_STRIDE + 1 : 0, .drop = image_drop(r),
        .generator = { .rng = r->rng, .seed = r->seed,
                       .threads = r->rng_threads, .frame_major = 1 },
    };
    if (r->frames)
        s->frames = (r->frames + s->drop - 1) / WAN_TIME_STRIDE + 1;
    all = s->frames > s->first_block ? s->frames - s->first_block : 0;
    whole = s->first_block + (all + s->block - 1) / s->block * s->block;
    s->window = r->window ? r->window : (int)whole;
    if (!r->frames && !r->window)
        s->window = WAN_STREAM_WINDOW;
    if (r->frames && s->window > whole)
        s->window = (int)whole;             // more is never held
    s->n = block_frames(s);
    wan_kvcache_init(&s->cache, s->window,
                     !r->frames || s->window < whole ? r->sink : 0,
                     (int64_t)(r->width / m->info.size_multiple) *
                     (r->height / m->info.size_multiple));
    if (!(s->times = calloc(most_frames(s), sizeof(*s->times))))
        return wan_error_memory(&m->log, "job", "its times");
    ret = make_schedule(&s->steps, r, r->steps, r->timesteps, &m->log);
    if (ret >= 0 && r->nb_first_timesteps)
        ret = make_schedule(&s->first, r, r->nb_first_timesteps,
                            r->first_timesteps, &m->log);
    s->ordered = r->frames && r->rng == WAN_RNG_CPU;
    if (s->ordered && whole > s->given)
        s->drawn = (whole - s->given) *
                   wan_noise_used(&s->generator, frame_values(s));
    return ret;
}

void wan_stream_free(WanStream *s)
{
    wan_schedule_free(&s->steps);
    wan_schedule_free(&s->first);
    free(s->times);
    s->times = NULL;
}

void wan_stream_reserve(WanStream *s, WanDev *d, int rows)
{
    const WanDitConfig *c = &s->model->dit.config;
    const WanCodec *vae = &s->model->vae;
    const int64_t h = s->height / vae->family->stride;
    const int64_t w = s->width / vae->family->stride, C = vae->family->channels;
    const int n = s->recache ? most_frames(s) : most_block(s);

    s->x = wan_tmp(d, C, most_block(s), h, w);
    s->noise = wan_tmp_like(d, &s->x);
    if (s->recache)
        s->past = wan_tmp(d, C, s->window, h, w);
    wan_section(d, "keys and values");
    wan_kvcache_reserve(&s->cache, d, c->layers, c->heads, c->dim);
    wan_dit_rope(d, &s->rope, c, n, (int)h / 2, (int)w / 2);
    if (s->relative) {
        s->slots = wan_tmp(d, s->window, 2 * s->rope.pairs[0]);
        s->cache.rope = s->rope;
        s->cache.rope.first = 0;        // what is held is whole
        s->cache.rope.table[0] = s->slots;
    }
    wan_dit_text_reserve(d, &s->context, &s->model->dit);
    s->rgb = wan_is_host(d)
             ? wan_tmp(d, WAN_TIME_STRIDE, s->height, s->width, 3)
             : wan_tensor_of(NULL, WAN_F32, WAN_TIME_STRIDE, s->height,
                             s->width, 3);
    (rows ? wan_codec_begin_rows : wan_codec_begin_decode)(d, &s->codec, vae, h,
                                                           w);
    s->codec.frames = s->pos;
}

void wan_stream_text(WanStream *s, const WanTensor *text)
{
    s->text = *text;
    s->turned = 1;
}

/* Behind another stage: what all blocks share, and those under this prompt.
 * Decoding is part of the stage, whose weights stay from block to block. */
static void enter(WanStream *s, WanDev *d)
{
    if (!s->text.nb_dims)
        return;
    wan_dev_stage(d, WAN_STAGE_STEPS);
    wan_dit_text_again(d, &s->context, &s->model->dit, &s->text);
    s->text.nb_dims = 0;
}

static void seek(WanStream *s, int64_t pos)
{
    s->pos = pos;
    s->n = block_frames(s);
    s->codec.frames = pos;
}

void wan_stream_start(WanStream *s, int64_t pos)
{
    seek(s, pos);
    s->start = pos;
    wan_kvcache_restart(&s->cache, pos);
}

/* ------------------------------------------------------------ the passes */

/* The first n frames' worth of a buffer [channels, N, h, w]. */
static WanTensor frames_in(const WanTensor *buffer, int n)
{
    return wan_tensor_of(buffer->data, buffer->type, buffer->dim[0], n,
                         buffer->dim[2], buffer->dim[3]);
}

/* Frame i of y = frame k of x, [channels, ., h, w] both. */
static void copy_frame(WanDev *d, const WanTensor *y, int64_t i,
                       const WanTensor *x, int64_t k)
{
    const int64_t C = x->dim[0], n = x->dim[2] * x->dim[3];
    const WanTensor from = wan_reshape(x, C, x->dim[1] * n);
    const WanTensor to = wan_reshape(y, C, y->dim[1] * n);
    const WanTensor one = wan_columns(&from, k * n, n);
    WanTensor place = wan_columns(&to, i * n, n);

    wan_op_copy(d, &place, &one);
}

/* A pass over n frames from first on: where their keys go, and the times that
 * rotary tables have. */
static WanRope place(WanStream *s, WanDev *d, int64_t first, int n)
{
    WanKvCache *c = &s->cache;
    WanRope rope = s->rope;

    wan_kvcache_place(c, first, n);
    rope.grid[0] = n;
    rope.first = wan_share(d, wan_rope_rows(&rope)).first;
    rope.table[0] = wan_slice(&s->rope.table[0], 0, n);
    for (int i = 0; i < n; i++)
        s->times[i] = s->relative
                      ? wan_kvcache_rank(c, wan_kvcache_slot(c, first + i))
                      : first + i;
    wan_dit_rope_at(d, &rope, s->times);
    if (s->relative) {
        const int held = wan_kvcache_held(c);

        c->rope.table[0] = wan_slice(&s->slots, 0, held);
        for (int i = 0; i < held; i++)
            s->times[i] = wan_kvcache_rank(c, i);
        wan_dit_rope_at(d, &c->rope, s->times);
    }
    return rope;
}

/* For tests: what is held, oldest first, of the first layer's keys and of the
 * last one's values; of these own alone, the frames of the pass. */
static void tap_kept(const WanStream *s, WanDev *d, const char *pass,
                     int64_t number, int own)
{
    const WanKvCache *c = &s->cache;
    const WanMark mark = wan_mark(d);
    const int held = wan_kvcache_held(c);

    for (int k = 0; k < 2 && d->tap; k++) {
        const WanTensor *all = k ? &c->v : &c->k;
        const WanTensor layer = wan_kvcache_layer(all, k ? (int)all->dim[0] - 1
                                                         : 0);
        WanTensor sorted = wan_tmp_type(d, all->type, c->held, all->dim[2]);

        for (int i = 0; i < held; i++) {
            const WanTensor from = wan_slice(&layer, i * c->tokens, c->tokens);
            WanTensor to = wan_slice(&sorted, wan_kvcache_rank(c, i) *
                                     c->tokens, c->tokens);

            wan_op_copy(d, &to, &from);
        }
        if (k && own)
            sorted = wan_slice(&sorted, (held - c->frames) * c->tokens,
                               c->frames * c->tokens);
        wan_tap(d, &sorted, "%s%lld.%s", pass, (long long)number,
                k ? "v.last" : "k.first");
    }
    wan_release(d, mark);
}

/* Frames from first on leave the keys and values that later ones see. */
static void clean_pass(WanStream *s, WanDev *d, const WanTensor *x,
                       int64_t first)
{
    const WanMark mark = wan_mark(d);
    const WanRope rope = place(s, d, first, (int)x->dim[1]);
    WanDitTime time;

    wan_dit_time(d, &time, &s->model->dit, 0);
    wan_dit_keep(d, &(WanDitInput){ .dit = &s->model->dit, .x = x,
                                    .time = &time, .text = &s->context,
                                    .rope = &rope, .past = &s->cache });
    wan_release(d, mark);
}

static int is_given(const WanStream *s)
{
    return s->pos < s->given;
}

/* What the block leaves behind. */
static void finish(WanStream *s, WanDev *d)
{
    const WanTensor x = frames_in(&s->x, s->n);

    wan_section(d, "clean pass");
    clean_pass(s, d, &x, s->pos);
    for (int i = 0; i < s->n && s->recache; i++)
        copy_frame(d, &s->past, (s->pos + i) % s->window, &x, i);
    tap_kept(s, d, is_given(s) ? "initial" : "block",
             is_given(s) ? (s->pos ? 1 + (s->pos - s->first_block) / s->block
                                   : 0) : s->number, 1);
}

/* The frames that are held, once more under the new prompt. A sink that stays
 * from before the window is not touched; it would see nothing but itself. */
static void look_again(WanStream *s, WanDev *d)
{
    const WanMark mark = wan_mark(d);
    WanKvCache *c = &s->cache;
    int64_t first = s->pos - s->start < s->window ? s->start
                                                  : s->pos - s->window;

    wan_section(d, "frames again under the new prompt");
    if (s->reset)
        wan_kvcache_restart(c, first);
    else if (s->pos - c->origin > s->window)
        first += c->sink;
    const int n = (int)(s->pos - first);
    WanTensor x = wan_tmp(d, s->x.dim[0], n, s->x.dim[2], s->x.dim[3]);

    for (int i = 0; i < n; i++)
        copy_frame(d, &x, i, &s->past, (first + i) % s->window);
    clean_pass(s, d, &x, first);
    tap_kept(s, d, "recache", s->pos, 0);
    wan_release(d, mark);
}

/* -------------------------------------------------------------- a block */

static const WanSchedule *schedule(const WanStream *s)
{
    return !s->pos && s->first.steps ? &s->first : &s->steps;
}

/* Neighbouring seeds and blocks have nothing in common (Steele et al.,
 * "Fast Splittable Pseudorandom Number Generators", 2014). */
static uint64_t block_seed(uint64_t seed, int64_t number)
{
    uint64_t z = seed + (uint64_t)(number + 1) * UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* What the block begins with, i = 0, or step i adds. Of an ordered generator
 * all blocks' beginnings come first, frame by frame, then steps as they are
 * made. */
static void draw(WanStream *s, WanDev *d, WanTensor *t, int i)
{
    WanNoise n = s->generator;

    if (!s->ordered) {
        n.seed = block_seed(n.seed, s->number);
        n.skip = i * wan_noise_used(&n, wan_count(t));
    } else if (!i) {
        n.skip = (s->pos - s->given) * wan_noise_used(&n, frame_values(s));
    } else {
        n.skip = s->drawn;
        s->drawn += wan_noise_used(&n, wan_count(t));
    }
    wan_op_draw(d, t, &n);
}

/* x0 = x - sigma v; x = (1 - sigma') x0 + sigma' noise, but for the last */
static void denoise(WanStream *s, WanDev *d, int i)
{
    const WanSchedule *t = schedule(s);
    const WanMark mark = wan_mark(d);
    WanTensor x = frames_in(&s->x, s->n), noise = frames_in(&s->noise, s->n);
    WanTensor v = wan_tmp_like(d, &x);
    WanDitTime time;

    wan_section(d, "step %d", i);
    if (!i) {
        draw(s, d, &x, 0);
        wan_tap(d, &x, "block%lld.noise", (long long)s->number);
    }
    const WanRope rope = place(s, d, s->pos, s->n);

    wan_dit_time(d, &time, &s->model->dit, t->timestep[i]);
    wan_dit_forward(d, &v, 1, &(WanDitInput){
                        .dit = &s->model->dit, .x = &x, .time = &time,
                        .text = &s->context, .rope = &rope,
                        .past = &s->cache });
    wan_op_lincomb(d, &x, 2, (double[]){ 1, -(double)t->sigma[i] },
                   (const WanTensor *[]){ &x, &v });
    wan_tap(d, &x, "block%lld.x0.%d", (long long)s->number, i);
    if (i + 1 < t->steps) {
        const double next = t->sigma[i + 1];

        draw(s, d, &noise, i + 1);
        wan_tap(d, &noise, "block%lld.renoise.%d", (long long)s->number, i);
        wan_op_lincomb(d, &x, 2, (double[]){ 1 - next, next },
                       (const WanTensor *[]){ &x, &noise });
    }
    wan_op_finite(d, &x, "block %lld, step %d of %d: the latent",
                  (long long)s->number + 1, i + 1, t->steps);
    wan_release(d, mark);
}

static int looks_again(const WanStream *s)
{
    return s->turned && s->recache && s->pos > s->start;
}

int wan_stream_units(const WanStream *s, enum WanStage stage)
{
    if (stage == WAN_STAGE_DECODE)
        return s->frames && s->frames - s->pos < s->n
               ? (int)(s->frames - s->pos) : s->n;
    if (s->keeping)
        return 1;
    return looks_again(s) + (is_given(s) ? 0 : schedule(s)->steps);
}

void wan_stream_step(WanStream *s, WanDev *d, int i)
{
    enter(s, d);
    if (s->keeping)
        finish(s, d);
    else if (looks_again(s) && !i)
        look_again(s, d);
    else
        denoise(s, d, i - looks_again(s));
}

int wan_stream_decode(WanStream *s, WanDev *d, int i, const WanTensor *given)
{
    const int n = s->codec.frames ? WAN_TIME_STRIDE : 1;
    const WanTensor x = frames_in(&s->x, s->n);
    WanTensor rgb = wan_slice(&s->rgb, 0, n);

    enter(s, d);
    if (is_given(s))
        copy_frame(d, &x, i, given, s->pos + i);
    s->codec.first = s->pos;
    wan_codec_decode_together(d, &rgb, &s->model->vae, &s->codec, &x);
    return n;
}

static int is_last(const WanStream *s)
{
    return s->frames && s->pos + s->n >= s->frames;
}

static void next_block(WanStream *s)
{
    s->number += !is_given(s);
    s->pos += s->n;
    s->n = block_frames(s);
    s->keeping = s->turned = 0;
}

/* The last block's clean pass is for tests alone, and not with ranks: the others
 * don't know whether there is one. */
enum WanStage wan_stream_next(WanStream *s, const WanDev *d,
                              enum WanStage stage)
{
    if (stage == WAN_STAGE_STEPS && !s->keeping)
        return WAN_STAGE_DECODE;
    if (is_last(s) && (s->keeping || !d->tap || d->ranks))
        return WAN_STAGE_DONE;
    if (stage == WAN_STAGE_DECODE) {
        s->keeping = 1;
        return WAN_STAGE_STEPS;
    }
    next_block(s);
    return WAN_STAGE_STEPS;
}

/* ----------------------------------------------------------------- plan */

void wan_stream_plan(WanStream *s, WanDev *d, int decodes, WanPlan *out)
{
    const WanStream now = *s;
    const int blocks = (s->window + s->block - 1) / s->block;
    WanDev before;

    seek(s, s->first_block + (int64_t)blocks * s->block);
    if (looks_again(s))
        wan_stream_step(s, d, 0);
    enter(s, d);
    wan_dev_repeat(d);
    before = *d;
    wan_stream_step(s, d, looks_again(s));
    out->step_flops = d->flops - before.flops;
    out->sent_bytes = d->sent - before.sent;
    out->exchanges = d->exchanges - before.exchanges;
    out->behind_bytes = d->behind.sent - before.behind.sent;
    out->behind_flops = d->behind.flops - before.behind.flops;
    out->behind_exchanges = d->behind.exchanges - before.behind.exchanges;
    before = *d;
    for (int i = 0; i < s->n && decodes; i++)
        wan_stream_decode(s, d, i, NULL);
    out->decode_flops = d->flops - before.flops;
    out->decode_sent_bytes = d->sent - before.sent;
    out->decode_exchanges = d->exchanges - before.exchanges;
    before = *d;
    s->keeping = 1;
    wan_stream_step(s, d, 0);
    out->block_flops = s->steps.steps * out->step_flops + out->decode_flops +
                       d->flops - before.flops;
    out->block_sent_bytes = s->steps.steps * out->sent_bytes +
                            out->decode_sent_bytes + d->sent - before.sent;
    out->cache_bytes = 2 * wan_type_bytes(s->cache.k.type,
                                          wan_count(&s->cache.k));
    out->window = s->window;
    out->block = s->block;
    *s = now;
}
