/*
 * VACE: control videos, masks and references as contexts of the transformer.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * arXiv 2503.07598. Units of encoding, for each context: its references, each
 * as a video of one frame; the latent frames of V (1 - M); those of V M.
 */

#include <math.h>
#include <stdlib.h>

#include "abi.h"
#include "condition.h"
#include "image.h"

#define bad(m, ...) wan_error_option(&(m)->log, __VA_ARGS__)

/* ------------------------------------------------------------- requests */

/* A request without controls has one of nothing but the prompt. */
static int nb_controls(const WanRequest *r)
{
    return r->nb_controls ? r->nb_controls : 1;
}

/* Control i as this library knows it. */
static int take_control(WanControl *own, const WanRequest *r, int i,
                        const WanModel *m)
{
    *own = (WanControl){ .scale = 1 };
    if (!r->nb_controls)
        return 0;
    if (!r->controls[i])
        return bad(m, "controls", "number %d of %d is not there", i + 1,
                   r->nb_controls);
    return wan_abi_in(own, sizeof(*own), r->controls[i], WAN_CONTROL_LEAST,
                      "WanControl", &m->log);
}

/* A list of frames, each as large as the first of the control's video. */
static int check_frames(const WanControl *c, const WanImage *const *list,
                        const char *option, const WanModel *m)
{
    WanImage first, own;
    int ret = wan_condition_take(&first, c->video[0], "video", &m->log);

    for (int i = 0; i < c->nb_frames && ret >= 0; i++) {
        ret = wan_condition_take(&own, list[i], option, &m->log);
        if (ret >= 0 &&
            (own.width != first.width || own.height != first.height))
            ret = bad(m, option, "frame %d is %dx%d, the control video's first "
                      "%dx%d", i + 1, own.width, own.height, first.width,
                      first.height);
    }
    return ret;
}

static int check_video(const WanControl *c, const WanRequest *r,
                       const WanModel *m)
{
    int ret;

    if (!c->video)
        return c->mask ? bad(m, "mask", "there is no video that it is of") :
               c->nb_frames ? bad(m, "video", "%d frames, and no list of them",
                                  c->nb_frames) : 0;
    if (c->nb_frames != r->frames)
        return bad(m, "video", "a control of %d frames; the request has %d",
                   c->nb_frames, r->frames);
    ret = check_frames(c, c->video, "video", m);
    return ret < 0 || !c->mask ? ret : check_frames(c, c->mask, "mask", m);
}

static int check_references(const WanControl *c, const WanModel *m)
{
    int ret = 0;

    if (c->nb_references < 0 || c->nb_references > WAN_MAX_REFERENCES ||
        (c->nb_references && !c->references))
        return bad(m, "reference", "a list of %d%s; %d at most can be",
                   c->nb_references, c->references ? "" : " that is not there",
                   WAN_MAX_REFERENCES);
    for (int i = 0; i < c->nb_references && ret >= 0; i++) {
        WanImage own;

        ret = wan_condition_take(&own, c->references[i], "reference", &m->log);
    }
    return ret;
}

int wan_vace_check(const WanRequest *r, const WanModel *m)
{
    int first = 0;

    if (r->nb_controls < 0 || r->nb_controls > WAN_CONTROLS ||
        (r->nb_controls && !r->controls))
        return bad(m, "controls", "a list of %d%s; %d at most can be",
                   r->nb_controls, r->controls ? "" : " that is not there",
                   WAN_CONTROLS);
    for (int i = 0; i < nb_controls(r); i++) {
        WanControl c;
        int ret;

        if ((ret = take_control(&c, r, i, m)) < 0 ||
            (ret = check_video(&c, r, m)) < 0 ||
            (ret = check_references(&c, m)) < 0)
            return ret;
        if (!(c.scale >= 0 && c.scale <= WAN_MAX_SCALE))
            return bad(m, "context_scale", "%g; 0 to %g can be", c.scale,
                       WAN_MAX_SCALE);
        if (i && c.nb_references != first)
            return bad(m, "reference", "control %d has %d, the first %d: they "
                       "are frames in front of each, as many", i + 1,
                       c.nb_references, first);
        first = c.nb_references;
    }
    return 0;
}

/* --------------------------------------------------- the reference's sizes */

/* Of the frames whose times, both ends counted, hold that of frame j of F the
 * first. Ends are floats, as the reference's reader of files has them; so at
 * the very border it may be the frame before. */
int wan_source_frame(int frame, int frames, int nb, double rate)
{
    const float last = ((float)((nb - 1) / rate) + (float)(nb / rate)) / 2;
    const double t = frame * ((double)last / (frames - 1));
    int i;

    if (frame < 1 || frame >= frames || nb < 1 || !(rate > 0))
        return 0;
    i = (int)fmin(t * rate + 1, nb - 1);
    while (i > 0 && (float)(i / rate) >= t)
        i--;
    return i;
}

/* A frame has as many positions as the source, or as are asked for; there are as
 * many frames as the source has, or as the tokens that are asked for make of
 * that. */
int wan_request_fit_video(WanRequest *r, const WanModel *m, int width,
                          int height, int nb)
{
    const int k = m->info.size_multiple;
    const double most = (double)r->width * r->height / (k * k);
    const double tokens = most * ((r->frames - 1) / WAN_TIME_STRIDE + 1);
    const double area = fmin(most, (double)(height / k) * (width / k));
    int T, h = 0, w = 0;

    if (width < k || height < k || nb < 1 || !(area >= 1 && tokens >= area))
        return bad(m, "video", "a control of %d frames of %dx%d; one of %dx%d "
                   "is the least", nb, width, height, k, k);
    T = (int)fmin(fmin((nb - 1) / WAN_TIME_STRIDE, WAN_MAX_FRAMES /
                       WAN_TIME_STRIDE) + 1, floor(tokens / area));
    h = (int)rint(sqrt(area * ((double)height / width)));
    if (h > 0)
        w = (int)(area / h);
    if (h < 1 || w < 1 || h * k > m->info.size_max ||
        w * k > m->info.size_max)
        return bad(m, "video", "%dx%d is too narrow for a video of %.0f "
                   "pixels a frame; give option size", width, height,
                   area * k * k);
    r->width = w * k;
    r->height = h * k;
    r->frames = WAN_TIME_STRIDE * (T - 1) + 1;
    return 0;
}

/* --------------------------------------------------------------- pixels */

static int64_t frame_pixels(const WanCondition *c)
{
    return (int64_t)c->width * c->height;
}

static int latent_frames(const WanCondition *c)
{
    return (c->frames - 1) / WAN_TIME_STRIDE + 1;
}

/* A context of scale 0 gives nothing: it is neither encoded nor run. */
void wan_vace_init(WanCondition *c, const WanRequest *r)
{
    WanVace *v = &c->vace;

    for (int i = 0; i < nb_controls(r); i++) {
        WanControl own;

        take_control(&own, r, i, c->model);
        v->references = own.nb_references;
        if (!own.scale)
            continue;
        v->control[v->nb] = (WanVaceControl){ .number = i,
                                              .has_video = own.video != NULL,
                                              .has_mask = own.mask != NULL };
        v->scale[v->nb++] = own.scale;
    }
}

/* With what is laid out for the device: the channels of a mask. */
int64_t wan_vace_bytes(const WanCondition *c)
{
    const WanVace *v = &c->vace;
    int64_t frames = v->nb ? latent_frames(c) + v->references : 0;

    for (int k = 0; k < v->nb; k++)
        frames += 3 * v->references +
                  c->frames * (3 * v->control[k].has_video +
                               v->control[k].has_mask);
    return frames * frame_pixels(c) * (int64_t)sizeof(float);
}

/* An image onto [3, H, W]: so that it covers it, or all of it on a canvas. */
static int cover(float *rgb, const WanCondition *c, const WanImage *img)
{
    if (img->width != c->width || img->height != c->height)
        return wan_image_cover(rgb, img, c->width, c->height, WAN_BICUBIC);
    wan_image_read(rgb, img, 0, 0, c->width, c->height);
    return 0;
}

static int canvas(float *rgb, const WanCondition *c, const WanImage *img)
{
    wan_image_canvas(rgb, img, c->width, c->height);
    return 0;
}

static int read_image(float *rgb, const WanCondition *c, const WanImage *img,
                      const char *option,
                      int (*put)(float *rgb, const WanCondition *c,
                                 const WanImage *img))
{
    const WanLog *log = &c->model->log;
    WanImage own;
    int ret;

    if ((ret = wan_condition_take(&own, img, option, log)) < 0 ||
        (ret = wan_condition_pixels(&own, option, log)) < 0)
        return ret;
    return put(rgb, c, &own) < 0 ? wan_error_memory(log, "job", option) : 0;
}

/* Memory for n planes of a frame; NULL, said. */
static float *planes_alloc(const WanCondition *c, int64_t n, const char *what)
{
    float *p = malloc(n * frame_pixels(c) * sizeof(*p));

    if (!p)
        wan_error_memory(&c->model->log, "job", what);
    return p;
}

static int read_video(WanVaceControl *v, const WanCondition *c,
                      const WanControl *own)
{
    int ret = 0;

    if (!(v->video = planes_alloc(c, 3 * c->frames, "the control video")))
        return WAN_ERR(ENOMEM);
    for (int i = 0; i < c->frames && ret >= 0; i++)
        ret = read_image(v->video + 3 * i * frame_pixels(c), c, own->video[i],
                         "video", cover);
    return ret;
}

/* The first channel, 0 to 1. */
static int read_mask(WanVaceControl *v, const WanCondition *c,
                     const WanControl *own)
{
    const int64_t HW = frame_pixels(c);
    float *rgb = planes_alloc(c, 3, "the mask");
    int ret = 0;

    if (!rgb || !(v->mask = planes_alloc(c, c->frames, "the mask")))
        ret = WAN_ERR(ENOMEM);
    for (int i = 0; i < c->frames && ret >= 0; i++) {
        ret = read_image(rgb, c, own->mask[i], "mask", cover);
        for (int64_t p = 0; p < HW && ret >= 0; p++)
            v->mask[i * HW + p] = (rgb[p] + 1) / 2;
    }
    free(rgb);
    return ret;
}

static int read_references(WanVaceControl *v, const WanCondition *c,
                           const WanControl *own)
{
    const int n = own->nb_references;
    int ret = 0;

    if (!(v->references = planes_alloc(c, 3 * n, "the references")))
        return WAN_ERR(ENOMEM);
    for (int i = 0; i < n && ret >= 0; i++)
        ret = read_image(v->references + 3 * i * frame_pixels(c), c,
                         own->references[i], "reference", canvas);
    return ret;
}

int wan_vace_read(WanCondition *c, const WanRequest *r)
{
    for (int k = 0; k < c->vace.nb; k++) {
        WanVaceControl *v = &c->vace.control[k];
        WanControl own;
        int ret;

        if ((ret = take_control(&own, r, v->number, c->model)) < 0 ||
            (v->has_video && (ret = read_video(v, c, &own)) < 0) ||
            (v->has_mask && (ret = read_mask(v, c, &own)) < 0) ||
            (c->vace.references && (ret = read_references(v, c, &own)) < 0))
            return ret;
    }
    return 0;
}

static void free_pixels(WanVaceControl *v)
{
    free(v->video);
    free(v->mask);
    free(v->references);
    v->video = v->mask = v->references = NULL;
}

void wan_vace_free(WanCondition *c)
{
    for (int k = 0; k < c->vace.nb; k++)
        free_pixels(&c->vace.control[k]);
}

/* ------------------------------------------------------------- encoding */

void wan_vace_reserve(WanCondition *c, WanDev *d, const WanTensor *latent)
{
    for (int k = 0; k < c->vace.nb; k++)
        c->vace.context[k].context = wan_tmp(d, WAN_VACE_CHANNELS,
                                             latent->dim[1], latent->dim[2],
                                             latent->dim[3]);
}

/* Without a video both parts of it are grey: one is encoded. */
static int control_units(const WanCondition *c, int k)
{
    return c->vace.references +
           latent_frames(c) * (1 + c->vace.control[k].has_video);
}

int wan_vace_units(const WanCondition *c)
{
    int n = 0;

    for (int k = 0; k < c->vace.nb; k++)
        n += control_units(c, k);
    return n;
}

/* host [64, n + T, h, w]: channel 8 y + x of position (i, j) is row 8 i + y,
 * column 8 j + x of the mask; frame t is that of F which is nearest to it. In
 * front, beside references, nothing is made anew. */
static void pack_mask(float *host, const float *mask, const WanCondition *c)
{
    const int T = latent_frames(c), n = c->vace.references;
    const int h = c->height / WAN_SPACE_STRIDE;
    const int w = c->width / WAN_SPACE_STRIDE;

    for (int ch = 0; ch < WAN_VACE_MASK; ch++)
        for (int t = -n; t < T; t++) {
            const int f = (2 * t + 1) * c->frames / (2 * T);

            for (int i = 0; i < h; i++)
                for (int j = 0; j < w; j++) {
                    const int y = WAN_SPACE_STRIDE * i + ch / WAN_SPACE_STRIDE;
                    const int x = WAN_SPACE_STRIDE * j + ch % WAN_SPACE_STRIDE;

                    *host++ = t < 0 ? 0 : !mask ? 1 :
                              mask[((int64_t)f * c->height + y) * c->width +
                                   x];
                }
        }
}

static void begin_context(WanCondition *c, WanDev *d, int k)
{
    WanTensor *all = &c->vace.context[k].context;
    WanTensor mask = wan_slice(all, 2 * WAN_LATENT_CHANNELS, WAN_VACE_MASK);
    float *host = NULL;

    wan_section(d, "VACE context %d", k);
    wan_op_fill(d, all, 0);
    if (!d->plan && !(host = malloc(wan_count(&mask) * sizeof(*host)))) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for the mask");
        return;
    }
    if (host)
        pack_mask(host, c->vace.control[k].mask, c);
    wan_op_upload(d, &mask, host);
    free(host);
}

/* Frames of a latent into 16 channels of a context, behind `lead` frames. */
static void put_latent(WanDev *d, WanTensor *context, int channel, int64_t lead,
                       const WanTensor *z)
{
    const int64_t n = z->dim[2] * z->dim[3];
    const WanTensor part = wan_slice(context, channel, WAN_LATENT_CHANNELS);
    const WanTensor all = wan_reshape(&part, WAN_LATENT_CHANNELS,
                                      context->dim[1] * n);
    const WanTensor from = wan_reshape(z, WAN_LATENT_CHANNELS, z->dim[1] * n);
    WanTensor to = wan_columns(&all, lead * n, z->dim[1] * n);

    wan_op_copy(d, &to, &from);
}

/* rgb [3, H, W] of the host, or NULL while planning, to a frame [1, H, W, 3]. */
static void put_frame(WanCondition *c, WanDev *d, WanTensor *frame,
                      const float *rgb)
{
    const WanCodec *vae = &c->model->vae;
    const WanMark mark = wan_mark(d);
    WanTensor planes = wan_tmp(d, 3, 1, c->height, c->width);

    wan_op_upload(d, &planes, rgb);
    wan_op_channels_last(d, frame, &planes, 0, &vae->one, &vae->zero);
    wan_release(d, mark);
}

static void encode_reference(WanCondition *c, WanDev *d, int k, int i)
{
    const float *all = c->vace.control[k].references;
    const WanCodec *vae = &c->model->vae;
    WanTensor *context = &c->vace.context[k].context;
    const WanMark mark = wan_mark(d);
    int n;

    wan_codec_group(vae, 0, &n);
    WanTensor z = wan_tmp(d, WAN_LATENT_CHANNELS, 1, context->dim[2],
                          context->dim[3]);
    WanTensor rgb = wan_tmp(d, n, c->height, c->width, 3);

    wan_section(d, "reference %d", i);
    wan_codec_begin_encode(d, &c->stream, vae, c->height, c->width);
    for (int f = 0; f < n; f++) {
        WanTensor frame = wan_slice(&rgb, f, 1);

        put_frame(c, d, &frame, all ? all + 3 * i * frame_pixels(c) : NULL);
    }
    wan_codec_encode(d, &z, vae, &c->stream, &rgb);
    put_latent(d, context, 0, i, &z);
    wan_release(d, mark);
}

/* Frame f of V (1 - M), or of V M, into host [3, H, W]; M is 0 or 1. */
static void mask_frame(float *host, const WanVaceControl *v,
                       const WanCondition *c, int changed, int f)
{
    const int64_t HW = frame_pixels(c);
    const float *rgb = v->video + 3 * f * HW, *mask = v->mask + f * HW;

    for (int64_t p = 0; p < HW; p++)
        for (int ch = 0; ch < 3; ch++)
            host[ch * HW + p] = (mask[p] > 0.5f) == changed
                                ? rgb[ch * HW + p] : 0;
}

/* Frame f of that as [1, H, W, 3]. */
static void place_frame(WanCondition *c, WanDev *d, WanTensor *frame, int k,
                        int changed, int f)
{
    const WanVaceControl *v = &c->vace.control[k];
    float *host = NULL;

    if (!v->has_video || (!v->has_mask && !changed)) {
        wan_op_fill(d, frame, 0);
    } else if (d->plan) {
        put_frame(c, d, frame, NULL);
    } else if (!v->has_mask) {
        put_frame(c, d, frame, v->video + 3 * f * frame_pixels(c));
    } else if ((host = malloc(3 * frame_pixels(c) * sizeof(*host)))) {
        mask_frame(host, v, c, changed, f);
        put_frame(c, d, frame, host);
    } else {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for a frame of the "
                     "control video");
    }
    free(host);
}

/* The frames of V (1 - M), or of V M, that latent frame t is made of; with the
 * last of them that latent's place in the context. */
static void encode_group(WanCondition *c, WanDev *d, int k, int changed, int t)
{
    const WanCodec *vae = &c->model->vae;
    WanTensor *context = &c->vace.context[k].context, *z = &c->vace.latent;
    const int T = latent_frames(c);
    int n;
    const int64_t from = wan_codec_group(vae, t, &n);

    if (!t) {
        c->encoder_mark = wan_mark(d);
        *z = wan_tmp(d, WAN_LATENT_CHANNELS, T, context->dim[2],
                     context->dim[3]);
        wan_codec_begin_encode(d, &c->stream, vae, c->height, c->width);
    }
    const WanMark mark = wan_mark(d);
    WanTensor rgb = wan_tmp(d, n, c->height, c->width, 3);

    wan_section(d, "frames of group %d", t);
    for (int f = 0; f < n; f++) {
        WanTensor frame = wan_slice(&rgb, f, 1);

        place_frame(c, d, &frame, k, changed,
                    from + f < c->frames ? (int)from + f : c->frames - 1);
    }
    wan_codec_encode(d, z, vae, &c->stream, &rgb);
    wan_release(d, mark);
    if (t < T - 1)
        return;
    put_latent(d, context, changed * WAN_LATENT_CHANNELS, c->vace.references,
               z);
    if (!c->vace.control[k].has_video)
        put_latent(d, context, WAN_LATENT_CHANNELS, c->vace.references, z);
    wan_release(d, c->encoder_mark);
}

void wan_vace_encode(WanCondition *c, WanDev *d, int i)
{
    const int n = c->vace.references, T = latent_frames(c);
    int k = 0;

    if (!i)
        wan_dev_stage(d, WAN_STAGE_IMAGE);
    while (i >= control_units(c, k))
        i -= control_units(c, k++);
    if (!i)
        begin_context(c, d, k);
    if (i < n)
        encode_reference(c, d, k, i);
    else
        encode_group(c, d, k, (i - n) / T, (i - n) % T);
    if (i < control_units(c, k) - 1)
        return;
    free_pixels(&c->vace.control[k]);
    wan_op_finite(d, &c->vace.context[k].context, "control %d: its context",
                  c->vace.control[k].number + 1);
    wan_tap(d, &c->vace.context[k].context, "vace_context");
}

void wan_vace_begin_steps(WanCondition *c, WanDev *d, const WanDit *dit)
{
    for (int k = 0; k < c->vace.nb; k++) {
        WanTensor *scale = &c->vace.context[k].scale;

        *scale = wan_tmp(d, dit->config.dim);
        wan_op_fill(d, scale, (float)c->vace.scale[k]);
    }
}
