/*
 * What stands beside the noise: the images of a request, and how the network
 * sees them.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "abi.h"
#include "condition.h"
#include "image.h"
#include "sampler.h"

/* A row's work; what stands below `read` may be NULL: then there is none, or
 * the latent is what the network gets, at one time. */
struct WanConditionKind {
    const char *task;               // for people
    int images, needed;             // most, and least
    int encodes;                    // it reads pixels without images too
    int (*check)(const WanRequest *r, const WanModel *m);   // its controls;
                                    // NULL: it takes none
    void (*init)(WanCondition *c, const WanRequest *r);     // and theirs
    int64_t (*bytes)(const WanCondition *c);
    int (*take)(WanCondition *c, const WanRequest *r);
    void (*free)(WanCondition *c);
    void (*fit)(int *w, int *h, double area, double aspect, int multiple);
    void (*place)(WanCondition *c, int i, const WanImage *img);
    int (*read)(float *rgb, const WanGiven *part, const WanImage *img);
    void (*reserve)(WanCondition *c, WanDev *d, const WanTensor *latent);
    int (*units)(const WanCondition *c);
    void (*encode)(WanCondition *c, WanDev *d, int i);
    void (*begin_steps)(WanCondition *c, WanDev *d, const WanDit *dit);
    void (*start)(const WanCondition *c, WanDev *d, WanTensor *x,
                  double share);
    const WanTensor *(*input)(WanCondition *c, WanDev *d, const WanTensor *x);
    void (*time)(const WanCondition *c, WanDev *d, WanDitTime *out,
                 const WanDit *dit, double t);
    void (*keep)(const WanCondition *c, WanDev *d, WanTensor *x);
};

/* ------------------------- images as further channels, through CLIP or not */

/* The area's rows and columns at that aspect, each rounded down. */
static void channels_fit(int *w, int *h, double area, double aspect, int k)
{
    *h = (int)(floor(sqrt(area * aspect) / (k / 2)) / 2) * k;
    *w = (int)(floor(sqrt(area / aspect) / (k / 2)) / 2) * k;
}

/* What of the request's image is used. The last one is cut to the aspect of
 * the video around its centre; the first decides the aspect and is stretched
 * what the multiple of 16 asks for, as the reference does both. */
static void channels_place(WanCondition *c, int i, const WanImage *img)
{
    int w = img->width, h = img->height, x = 0, y = 0;

    if (i && (w != c->image[0].w || h != c->image[0].h)) {
        const int cut_w = (int)((int64_t)h * c->width / c->height);
        const int cut_h = (int)((int64_t)w * c->height / c->width);

        if (cut_w > 0 && cut_w < w)
            x = (w - cut_w) / 2, w = cut_w;
        else if (cut_h > 0 && cut_h < h)
            y = (h - cut_h) / 2, h = cut_h;
    }
    c->image[i] = (WanGiven){ .x = x, .y = y, .w = w, .h = h };
}

static int channels_read(float *rgb, const WanGiven *part, const WanImage *img)
{
    wan_image_read(rgb, img, part->x, part->y, part->w, part->h);
    return 0;
}

static int latent_frames(const WanCondition *c)
{
    return (c->frames - 1) / WAN_TIME_STRIDE + 1;
}

static void channels_reserve(WanCondition *c, WanDev *d,
                             const WanTensor *latent)
{
    c->input = wan_tmp(d, c->model->dit.config.in_dim, latent->dim[1],
                       latent->dim[2], latent->dim[3]);
}

static void clip_reserve(WanCondition *c, WanDev *d, const WanTensor *latent)
{
    channels_reserve(c, d, latent);
    c->clip = wan_tmp(d, c->nb_images * WAN_CLIP_TOKENS,
                      c->model->info.clip_dim);
}

/* An image of the request in device memory, [3, h, w]. */
static WanTensor upload_image(WanCondition *c, WanDev *d, int i)
{
    WanTensor t = wan_tmp(d, 3, c->image[i].h, c->image[i].w);

    wan_op_upload(d, &t, c->image[i].rgb);
    return t;
}

/* mask[k, t] of frames [4 t - 3 .. 4 t] (the first frame alone): 1 where the
 * frame is given. */
static void make_mask(const WanCondition *c, WanDev *d, WanTensor *mask)
{
    const int64_t T = mask->dim[1], n = mask->dim[2] * mask->dim[3];
    float *host = calloc(4 * T * n, sizeof(*host));

    if (!host) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for the mask");
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        for (int k = 0; k < 4; k++)
            host[k * T * n + i] = 1;
        if (c->nb_images > 1)
            host[(3 * T + T - 1) * n + i] = 1;
    }
    wan_op_upload(d, mask, host);
    free(host);
}

/* The images' CLIP tokens. */
static void clip_encode(WanCondition *c, WanDev *d)
{
    for (int i = 0; i < c->nb_images; i++) {
        const WanMark mark = wan_mark(d);
        const WanTensor image = upload_image(c, d, i);
        WanTensor tokens = wan_slice(&c->clip, i * WAN_CLIP_TOKENS,
                                     WAN_CLIP_TOKENS);

        wan_clip_encode(d, &tokens, &c->model->clip, &image);
        wan_release(d, mark);
    }
    wan_op_finite(d, &c->clip, "image encoder: a token");
    wan_tap(d, &c->clip, "clip_fea");
}

/* The mask, the tokens of those that have some, and the encoder's history. */
static void begin_encode(WanCondition *c, WanDev *d)
{
    WanTensor mask = wan_slice(&c->input, WAN_LATENT_CHANNELS, 4);

    wan_dev_stage(d, WAN_STAGE_IMAGE);
    wan_section(d, "mask");
    make_mask(c, d, &mask);
    if (c->clip.nb_dims)
        clip_encode(c, d);
    c->encoder_mark = wan_mark(d);
    wan_codec_begin_encode(d, &c->stream, &c->model->vae, c->height,
                           c->width);
}

/* frame [1, H, W, 3] from rgb [3, h, w] of the host. */
static void place_pixels(WanCondition *c, WanDev *d, WanTensor *frame,
                         const float *rgb, int h, int w)
{
    const WanCodec *vae = &c->model->vae;
    const WanMark mark = wan_mark(d);
    WanTensor image = wan_tmp(d, 3, h, w);
    WanTensor sized = wan_tmp(d, 3, c->height, c->width);
    const WanTensor frames = wan_reshape(&sized, 3, 1, c->height, c->width);

    wan_op_upload(d, &image, rgb);
    wan_op_resize(d, &sized, &image);
    wan_op_channels_last(d, frame, &frames, 0, &vae->one, &vae->zero);
    wan_release(d, mark);
}

/* Frame f of the video [first, grey, grey, ..., last], [1, H, W, 3]; grey is
 * there. */
static void place_frame(WanCondition *c, WanDev *d, WanTensor *frame, int f)
{
    const int which = !f ? 0 : f == c->frames - 1 && c->nb_images > 1 ? 1 : -1;

    if (which >= 0)
        place_pixels(c, d, frame, c->image[which].rgb, c->image[which].h,
                     c->image[which].w);
}

/* The frames of that video that latent frame t is made of. */
static void channels_encode(WanCondition *c, WanDev *d, int t)
{
    const WanCodec *vae = &c->model->vae;
    const int T = latent_frames(c);
    int n;
    const int64_t from = wan_codec_group(vae, t, &n);

    if (!t)
        begin_encode(c, d);

    const WanMark mark = wan_mark(d);
    WanTensor latent = wan_slice(&c->input, WAN_LATENT_CHANNELS + 4,
                                 WAN_LATENT_CHANNELS);
    WanTensor rgb = wan_tmp(d, n, c->height, c->width, 3);

    wan_section(d, "frames of group %d", t);
    wan_op_fill(d, &rgb, 0);
    for (int k = 0; k < n; k++) {
        WanTensor frame = wan_slice(&rgb, k, 1);

        place_frame(c, d, &frame, from + k < c->frames ? (int)from + k
                                                       : c->frames - 1);
    }
    wan_codec_encode(d, &latent, vae, &c->stream, &rgb);
    wan_release(d, mark);
    if (t < T - 1)
        return;
    wan_release(d, c->encoder_mark);
    wan_op_finite(d, &latent, "VAE encoder: the conditioning latent");
    wan_tap(d, &latent, "y_latent");
}

static void clip_begin_steps(WanCondition *c, WanDev *d, const WanDit *dit)
{
    wan_dit_image(d, &c->context, dit, &c->clip);
}

static const WanTensor *channels_input(WanCondition *c, WanDev *d,
                                       const WanTensor *x)
{
    WanTensor noise = wan_slice(&c->input, 0, WAN_LATENT_CHANNELS);

    wan_op_copy(d, &noise, x);
    return &c->input;
}

/* --------------------------------------- the first latent frame, kept at t = 0 */

/* Of the sizes that round the width down first and the height down first the
 * one whose aspect is nearer. */
static void first_fit(int *w, int *h, double area, double aspect, int k)
{
    const double wide = sqrt(area / aspect), high = area / wide;
    const double w1 = floor(wide / k) * k, h2 = floor(high / k) * k;
    const double h1 = w1 > 0 ? floor(area / w1 / k) * k : 0;
    const double w2 = h2 > 0 ? floor(area / h2 / k) * k : 0;
    const double r1 = h1 / w1 / aspect, r2 = h2 / w2 / aspect;
    const int first = h1 > 0 && (!(w2 > 0) ||
                                 fmax(r1, 1 / r1) < fmax(r2, 1 / r2));

    *w = (int)(first ? w1 : w2);
    *h = (int)(first ? h1 : h2);
}

/* All of it: what is kept of it has the size of the video. */
static void first_place(WanCondition *c, int i, const WanImage *img)
{
    (void)img;
    c->image[i] = (WanGiven){ .w = c->width, .h = c->height };
}

static int first_read(float *rgb, const WanGiven *part, const WanImage *img)
{
    return wan_image_cover(rgb, img, part->w, part->h, WAN_LANCZOS);
}

static void first_reserve(WanCondition *c, WanDev *d, const WanTensor *latent)
{
    if (c->nb_images)
        c->first = wan_tmp(d, latent->dim[0], 1, latent->dim[2],
                           latent->dim[3]);
}

static int first_units(const WanCondition *c)
{
    return c->nb_images;
}

static void first_encode(WanCondition *c, WanDev *d, int i)
{
    const WanCodec *vae = &c->model->vae;
    const WanMark mark = wan_mark(d);

    wan_dev_stage(d, WAN_STAGE_IMAGE);
    WanTensor rgb = wan_tmp(d, 1, c->height, c->width, 3);

    wan_codec_begin_encode(d, &c->stream, vae, c->height, c->width);
    const WanTensor image = upload_image(c, d, i);
    const WanTensor frames = wan_reshape(&image, 3, 1, c->height, c->width);

    wan_op_channels_last(d, &rgb, &frames, 0, &vae->one, &vae->zero);
    wan_codec_encode(d, &c->first, vae, &c->stream, &rgb);
    wan_release(d, mark);
    wan_op_finite(d, &c->first, "image: its latent");
    wan_tap(d, &c->first, "z_image");
}

static void first_time(const WanCondition *c, WanDev *d, WanDitTime *out,
                       const WanDit *dit, double t)
{
    if (!c->nb_images) {
        wan_dit_time(d, out, dit, t);
    } else {
        const WanDitSpan span[] = {
            { 0, c->first.dim[2] * c->first.dim[3] / 4 }, { t, 0 },
        };

        /* behind a single latent frame there is no rest */
        wan_dit_times(d, out, dit, latent_frames(c) > 1 ? 2 : 1, span);
    }
}

static void first_keep(const WanCondition *c, WanDev *d, WanTensor *x)
{
    const int64_t n = x->dim[2] * x->dim[3];

    if (!c->nb_images)
        return;
    const WanTensor first = wan_reshape(&c->first, x->dim[0], n);
    const WanTensor all = wan_reshape(x, x->dim[0], x->dim[1] * n);
    WanTensor place = wan_columns(&all, 0, n);

    wan_op_copy(d, &place, &first);
}

/* ------------------------ a start in the middle: the latent of a whole video */

static int64_t start_bytes(const WanCondition *c)
{
    return (int64_t)c->frames * 3 * sizeof(float) * c->width * c->height;
}

/* Frames of another size than the video cover it and are cut. */
static int start_take(WanCondition *c, const WanRequest *r)
{
    const WanLog *log = &c->model->log;
    WanImage img;
    int ret;

    if (!(c->video = calloc(c->frames, sizeof(*c->video))))
        return wan_error_memory(log, "job", "the video");
    for (int i = 0; i < c->frames; i++) {
        if ((ret = wan_condition_take(&img, r->video[i], "video", log)) < 0 ||
            (ret = wan_condition_pixels(&img, "video", log)) < 0)
            return ret;
        if (!(c->video[i] = malloc(start_bytes(c) / c->frames)))
            return wan_error_memory(log, "job", "the video");
        if (img.width == c->width && img.height == c->height)
            wan_image_read(c->video[i], &img, 0, 0, c->width, c->height);
        else if (wan_image_cover(c->video[i], &img, c->width, c->height,
                                 WAN_LANCZOS) < 0)
            return wan_error_memory(log, "job", "the video");
    }
    return 0;
}

static void start_free(WanCondition *c)
{
    for (int i = 0; c->video && i < c->frames; i++)
        free(c->video[i]);
    free(c->video);
}

static void start_reserve(WanCondition *c, WanDev *d, const WanTensor *latent)
{
    c->start = wan_tmp_like(d, latent);
}

/* Frame f of the video, [1, H, W, 3]. A plan has no pixels. */
static void start_frame(WanCondition *c, WanDev *d, WanTensor *frame, int f)
{
    const WanCodec *vae = &c->model->vae;
    const WanMark mark = wan_mark(d);
    WanTensor rgb = wan_tmp(d, 3, c->height, c->width);
    const WanTensor frames = wan_reshape(&rgb, 3, 1, c->height, c->width);

    wan_op_upload(d, &rgb, c->video ? c->video[f] : NULL);
    wan_op_channels_last(d, frame, &frames, 0, &vae->one, &vae->zero);
    wan_release(d, mark);
}

/* The frames that latent frame t is made of, which are not needed again. */
static void start_encode(WanCondition *c, WanDev *d, int t)
{
    const WanCodec *vae = &c->model->vae;
    const int last = c->frames - 1;
    int n;
    const int from = (int)wan_codec_group(vae, t, &n);

    if (!t) {
        wan_dev_stage(d, WAN_STAGE_IMAGE);
        c->encoder_mark = wan_mark(d);
        wan_codec_begin_encode(d, &c->stream, vae, c->height, c->width);
    }

    const WanMark mark = wan_mark(d);
    WanTensor rgb = wan_tmp(d, n, c->height, c->width, 3);

    wan_section(d, "frames of group %d", t);
    for (int f = from; f < from + n; f++) {
        WanTensor frame = wan_slice(&rgb, f - from, 1);

        start_frame(c, d, &frame, f < last ? f : last);
    }
    wan_codec_encode(d, &c->start, vae, &c->stream, &rgb);
    wan_release(d, mark);
    for (int f = from; c->video && f < from + n && f <= last; f++) {
        free(c->video[f]);
        c->video[f] = NULL;
    }
    if (t < latent_frames(c) - 1)
        return;
    wan_release(d, c->encoder_mark);
    wan_op_finite(d, &c->start, "VAE encoder: the video's latent");
    wan_tap(d, &c->start, "z");
}

static void start_start(const WanCondition *c, WanDev *d, WanTensor *x,
                        double share)
{
    const WanTensor *both[] = { x, &c->start };

    wan_op_lincomb(d, x, 2, (double[]){ 1, share }, both);
    wan_tap(d, x, "x_start");
}

/* ------------------------- what a causal video goes on from, its first latents */

/* An image fills a block: it is there in all its frames. */
static int given_frames(const WanRequest *r)
{
    const int block = r->first_block ? r->first_block : r->block;

    return r->clip ? r->nb_clip
                   : r->image ? 1 + WAN_TIME_STRIDE * (block - 1) : 0;
}

static int given_groups(const WanCondition *c)
{
    return c->nb_given ? (c->nb_given - 1) / WAN_TIME_STRIDE + 1 : 0;
}

static void given_reserve(WanCondition *c, WanDev *d, const WanTensor *latent)
{
    if (c->nb_given)
        c->given = wan_tmp(d, latent->dim[0], given_groups(c), latent->dim[2],
                           latent->dim[3]);
}

static void given_encode(WanCondition *c, WanDev *d, int t)
{
    const WanCodec *vae = &c->model->vae;
    const int64_t frame_size = (int64_t)3 * c->height * c->width;
    int n;
    const int64_t from = wan_codec_group(vae, t, &n);

    if (!t) {
        wan_dev_stage(d, WAN_STAGE_IMAGE);
        c->encoder_mark = wan_mark(d);
        wan_codec_begin_encode(d, &c->stream, vae, c->height, c->width);
    }
    const WanMark mark = wan_mark(d);
    WanTensor rgb = wan_tmp(d, n, c->height, c->width, 3);

    wan_section(d, "frames of group %d", t);
    for (int k = 0; k < n; k++) {
        const int64_t f = from + k < c->nb_given ? from + k : c->nb_given - 1;
        WanTensor frame = wan_slice(&rgb, k, 1);

        if (c->nb_images)
            place_pixels(c, d, &frame, c->image[0].rgb, c->image[0].h,
                         c->image[0].w);
        else
            place_pixels(c, d, &frame,
                         c->clip_rgb ? c->clip_rgb + f * frame_size : NULL,
                         c->height, c->width);
    }
    wan_codec_encode(d, &c->given, vae, &c->stream, &rgb);
    wan_release(d, mark);
    if (t < given_groups(c) - 1)
        return;
    wan_release(d, c->encoder_mark);
    wan_op_finite(d, &c->given, "VAE encoder: what the video goes on from");
    wan_tap(d, &c->given, "initial_latent");
}

static int64_t given_bytes(const WanCondition *c)
{
    return c->nb_images ? 0 : (int64_t)3 * sizeof(float) * c->width *
                              c->height * c->nb_given;
}

static void given_init(WanCondition *c, const WanRequest *r)
{
    c->nb_given = given_frames(r);
}

static int given_take(WanCondition *c, const WanRequest *r)
{
    const WanLog *log = &c->model->log;

    if (!given_bytes(c))
        return 0;
    if (!(c->clip_rgb = malloc(given_bytes(c))))
        return wan_error_memory(log, "job", "the clip");
    for (int i = 0; i < c->nb_given; i++) {
        WanImage img;
        int ret;

        if ((ret = wan_condition_take(&img, r->clip[i], "clip", log)) < 0 ||
            (ret = wan_condition_pixels(&img, "clip", log)) < 0)
            return ret;
        wan_image_read(c->clip_rgb + (int64_t)i * 3 * c->width * c->height,
                       &img, 0, 0, c->width, c->height);
    }
    return 0;
}

static void given_free(WanCondition *c)
{
    free(c->clip_rgb);
}

static int given_check(const WanRequest *r, const WanModel *m)
{
    const int block = r->block, first = r->first_block ? r->first_block : block;
    const int least = 1 + WAN_TIME_STRIDE * (first - 1);
    const int step = WAN_TIME_STRIDE * block;

    if (!r->clip && !r->nb_clip)
        return 0;
    if (r->image)
        return wan_error_option(&m->log, "clip", "there is an image too");
    if (!r->clip || r->nb_clip < least || (r->nb_clip - least) % step)
        return wan_error_option(&m->log, "clip", "%d frames; whole blocks must "
                                "be: %d, %d, %d, ...", r->nb_clip, least,
                                least + step, least + 2 * step);
    for (int i = 0; i < r->nb_clip; i++) {
        WanImage img;
        const int ret = wan_condition_take(&img, r->clip[i], "clip", &m->log);

        if (ret < 0)
            return ret;
        if (img.width != r->width || img.height != r->height)
            return wan_error_option(&m->log, "clip", "frame %d is %dx%d, the "
                                    "video %dx%d", i, img.width, img.height,
                                    r->width, r->height);
    }
    return 0;
}

/* ------------------------------------------------------------ the table */

#define CHANNELS                                                              \
    .fit = channels_fit, .place = channels_place, .read = channels_read,      \
    .units = latent_frames, .encode = channels_encode, .input = channels_input
#define CLIP .reserve = clip_reserve, .begin_steps = clip_begin_steps

static const struct WanConditionKind kinds[] = {
    [WAN_TASK_T2V]   = { "text-to-video", .fit = channels_fit },
    [WAN_TASK_I2V]   = { "image-to-video", 1, 1, CHANNELS, CLIP },
    [WAN_TASK_FLF2V] = { "first-last-frame", 2, 2, CHANNELS, CLIP },
    [WAN_TASK_TI2V]  = { "text-and-image-to-video", 1, 0,
        .fit = first_fit, .place = first_place, .read = first_read,
        .reserve = first_reserve, .units = first_units,
        .encode = first_encode, .time = first_time, .keep = first_keep },
    [WAN_TASK_VACE]  = { "VACE", .fit = channels_fit, .encodes = 1,
        .check = wan_vace_check, .init = wan_vace_init,
        .bytes = wan_vace_bytes, .take = wan_vace_read, .free = wan_vace_free,
        .reserve = wan_vace_reserve, .units = wan_vace_units,
        .encode = wan_vace_encode, .begin_steps = wan_vace_begin_steps },
};

/* In place of a task's row, if the request has a video to be drawn again. */
static const struct WanConditionKind video_to_video = {
    "video-to-video", .bytes = start_bytes, .take = start_take,
    .free = start_free, .reserve = start_reserve, .units = latent_frames,
    .encode = start_encode, .start = start_start,
};

/* Wan 2.2's experts have no CLIP, and take a last frame too. */
static const struct WanConditionKind experts_image = {
    "image-to-video", 2, 1, CHANNELS, .reserve = channels_reserve
};

/* Of a causal job, whatever its model is. */
static const struct WanConditionKind causal = {
    "causal", 1, .fit = channels_fit, .check = given_check, .init = given_init,
    .bytes = given_bytes, .take = given_take, .free = given_free,
    .place = channels_place, .read = channels_read, .reserve = given_reserve,
    .units = given_groups, .encode = given_encode,
};

static const struct WanConditionKind *kind_of(const WanModel *m)
{
    return m->info.task == WAN_TASK_I2V && !m->info.clip_dim
           ? &experts_image : &kinds[m->info.task];
}

static const struct WanConditionKind *kind_asked(const WanModel *m,
                                                 const WanRequest *r)
{
    return r->causal ? &causal : r->video ? &video_to_video : kind_of(m);
}

/* --------------------------------------------------- what the driver calls */

static const WanImage *given(const WanRequest *r, int i)
{
    return i ? r->last_image : r->image;
}

static const char *option(int i)
{
    return i ? "last_image" : "image";
}

int wan_condition_images(const WanModel *m)
{
    return kind_of(m)->images;
}

int wan_condition_needs(const WanModel *m)
{
    return kind_of(m)->needed;
}

int wan_condition_encodes(const WanModel *m)
{
    const struct WanConditionKind *kind = kind_of(m);

    return kind->encodes || kind->images > 0;
}

int wan_condition_take(WanImage *own, const WanImage *img, const char *option,
                       const WanLog *log)
{
    int ret;

    if (!img)
        return wan_error_option(log, option, "one of its images is not there");
    if ((ret = wan_abi_in(own, sizeof(*own), img, WAN_IMAGE_LEAST, "WanImage",
                          log)) < 0)
        return ret;
    if (own->width < 1 || own->height < 1 ||
        own->width > 1 << 15 || own->height > 1 << 15)
        return wan_error_option(log, option, "%dx%d; sides from 1 to %d can "
                                "be", own->width, own->height, 1 << 15);
    if (own->format != WAN_PIX_RGB24 && own->format != WAN_PIX_GBRP &&
        own->format != WAN_PIX_GBRPF32)
        return wan_error_option(log, option, "it must be rgb24, gbrp or "
                                "gbrpf32");
    return 0;
}

int wan_condition_pixels(const WanImage *own, const char *option,
                         const WanLog *log)
{
    for (int p = 0; p < 4; p++) {
        const int64_t row = wan_image_row_bytes(own->format, own->width, p);

        if (row && (!own->data[p] ||
                    (own->stride[p] && llabs(own->stride[p]) < row)))
            return wan_error_option(log, option, "plane %d of an image has no "
                                    "memory, or a stride of less than its "
                                    "%lld bytes a row", p, (long long)row);
    }
    return 0;
}

void wan_condition_fit(const WanModel *m, double area, int iw, int ih, int *w,
                       int *h)
{
    kind_of(m)->fit(w, h, area, (double)ih / iw,
                            m->info.size_multiple);
}

static int check_video(const WanRequest *r, const WanModel *m)
{
    WanImage own;
    int ret;

    if (m->info.task != WAN_TASK_T2V && m->info.task != WAN_TASK_TI2V)
        return wan_error_option(&m->log, "video", "%s is a %s checkpoint; "
                                "text-to-video ones draw a video again",
                                m->info.name, kinds[m->info.task].task);
    if (r->image || r->last_image)
        return wan_error_option(&m->log, option(!r->image), "there is a video, "
                                "which has frames of its own");
    if (!m->vae.encodes)
        return wan_error_option(&m->log, "video", "the VAE's file has no "
                                "encoder, so no video can be read");
    if (r->nb_video != r->frames)
        return wan_error_option(&m->log, "video", "it has %d frames, but "
                                "frames is %d", r->nb_video, r->frames);
    if (!(r->strength > 0 && r->strength <= 1))
        return wan_error_option(&m->log, "strength", "%g; above 0, to 1 can "
                                "be", r->strength);
    if (wan_schedule_first(r->steps, r->strength) == r->steps)
        return wan_error_option(&m->log, "strength", "%g of %d steps is none; "
                                "%g is the smallest that makes one",
                                r->strength, r->steps,
                                ceil(1e6 / r->steps) / 1e6);
    for (int i = 0; i < r->nb_video; i++)
        if ((ret = wan_condition_take(&own, r->video[i], "video",
                                      &m->log)) < 0)
            return ret;
    return 0;
}

int wan_condition_check(const WanRequest *r, const WanModel *m)
{
    const struct WanConditionKind *kind = r->causal ? &causal : kind_of(m);

    if (r->nb_controls && !kind->check)
        return wan_error_option(&m->log, "controls", "%s is a %s checkpoint "
                                "and takes none", m->info.name, kind->task);
    if (r->video && !r->causal)
        return check_video(r, m);
    for (int i = 0; i < WAN_MAX_IMAGES; i++) {
        const WanImage *image = given(r, i);
        const int wanted = i < kind->needed;
        WanImage own;
        int ret;

        if (image ? i >= kind->images : wanted)
            return wan_error_option(&m->log, option(i), "%s is a %s "
                                    "checkpoint and takes %s", m->info.name,
                                    kind->task, wanted ? "one" : "none");
        if (image && (ret = wan_condition_take(&own, image, option(i),
                                               &m->log)) < 0)
            return ret;
    }
    return kind->check ? kind->check(r, m) : 0;
}

void wan_condition_init(WanCondition *c, const WanModel *m,
                        const WanRequest *r)
{
    *c = (WanCondition){
        .model = m, .kind = kind_asked(m, r),
        .width = r->width, .height = r->height, .frames = r->frames,
    };
    while (c->nb_images < c->kind->images && given(r, c->nb_images)) {
        c->kind->place(c, c->nb_images, given(r, c->nb_images));
        c->nb_images++;
    }
    if (c->kind->init)
        c->kind->init(c, r);
}

static int64_t image_bytes(const WanGiven *image)
{
    return (int64_t)3 * sizeof(float) * image->w * image->h;
}

int64_t wan_condition_bytes(const WanCondition *c)
{
    int64_t bytes = 0;

    for (int i = 0; i < c->nb_images; i++)
        bytes += image_bytes(&c->image[i]);
    return bytes + (c->kind->bytes ? c->kind->bytes(c) : 0);
}

int wan_condition_shrink(WanCondition *c)
{
    int large = -1;
    int64_t most = 0;

    for (int i = 0; i < c->nb_images; i++) {
        if (image_bytes(&c->image[i]) > most) {
            most = image_bytes(&c->image[i]);
            large = i;
        }
        c->image[i].w = c->width;
        c->image[i].h = c->height;
    }
    return large;
}

int wan_condition_read(WanCondition *c, const WanRequest *r)
{
    for (int i = 0; i < c->nb_images; i++) {
        WanGiven *image = &c->image[i];
        const WanLog *log = &c->model->log;
        WanImage own;
        int ret;

        if ((ret = wan_condition_take(&own, given(r, i), option(i), log)) < 0 ||
            (ret = wan_condition_pixels(&own, option(i), log)) < 0)
            return ret;
        if (!(image->rgb = malloc(image_bytes(image))) ||
            c->kind->read(image->rgb, image, &own) < 0)
            return wan_error_memory(log, "job",
                                    i ? "the last image" : "the image");
    }
    return c->kind->take ? c->kind->take(c, r) : 0;
}

void wan_condition_free(WanCondition *c)
{
    for (int i = 0; i < WAN_MAX_IMAGES; i++)
        free(c->image[i].rgb);
    if (c->kind && c->kind->free)
        c->kind->free(c);
}

int wan_condition_lead(const WanCondition *c)
{
    return c->vace.references;
}

void wan_condition_reserve(WanCondition *c, WanDev *d, const WanTensor *latent)
{
    if (c->kind->reserve)
        c->kind->reserve(c, d, latent);
}

int wan_condition_units(const WanCondition *c)
{
    return c->kind->units ? c->kind->units(c) : 0;
}

void wan_condition_encode(WanCondition *c, WanDev *d, int i)
{
    c->kind->encode(c, d, i);
}

void wan_condition_share(WanCondition *c, WanDev *d)
{
    WanTensor *const encoded[] = { &c->input, &c->clip, &c->first, &c->start,
                                   &c->given };

    for (size_t i = 0; i < sizeof(encoded) / sizeof(*encoded); i++)
        if (encoded[i]->nb_dims)
            wan_op_share(d, encoded[i]);
    for (int k = 0; k < c->vace.nb; k++)
        wan_op_share(d, &c->vace.context[k].context);
}

void wan_condition_begin_steps(WanCondition *c, WanDev *d, const WanDit *dit)
{
    if (c->kind->begin_steps)
        c->kind->begin_steps(c, d, dit);
}

void wan_condition_start(const WanCondition *c, WanDev *d, WanTensor *x,
                         double share)
{
    if (c->kind->start)
        c->kind->start(c, d, x, share);
}

const WanTensor *wan_condition_input(WanCondition *c, WanDev *d,
                                     const WanTensor *x)
{
    return c->kind->input ? c->kind->input(c, d, x) : x;
}

void wan_condition_time(const WanCondition *c, WanDev *d, WanDitTime *out,
                        const WanDit *dit, double t)
{
    if (c->kind->time)
        c->kind->time(c, d, out, dit, t);
    else
        wan_dit_time(d, out, dit, t);
}

void wan_condition_keep(const WanCondition *c, WanDev *d, WanTensor *x)
{
    if (c->kind->keep)
        c->kind->keep(c, d, x);
}

const WanDitContext *wan_condition_context(const WanCondition *c)
{
    return c->context.k.nb_dims ? &c->context : NULL;
}

const WanDitVace *wan_condition_vace(const WanCondition *c, int *n)
{
    *n = c->vace.nb;
    return c->vace.context;
}
