/*
 * What stands beside the noise: the images of a request, and how the network
 * sees them.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <errno.h>
#include <stdlib.h>

#include "condition.h"
#include "image.h"

/* A row's work; each may be NULL: then there is none, or the latent is what
 * the network gets. */
struct WanConditionKind {
    const char *task;               // for people
    int images;
    void (*reserve)(WanCondition *c, WanDev *d, const WanTensor *latent);
    int (*units)(const WanCondition *c);
    void (*encode)(WanCondition *c, WanDev *d, int i);
    void (*begin_steps)(WanCondition *c, WanDev *d);
    const WanTensor *(*input)(WanCondition *c, WanDev *d, const WanTensor *x);
};

/* ------------------------------------- images as further channels, and CLIP */

static int latent_frames(const WanCondition *c)
{
    return (c->frames - 1) / WAN_TIME_STRIDE + 1;
}

static void channels_reserve(WanCondition *c, WanDev *d,
                             const WanTensor *latent)
{
    c->input = wan_tmp(d, c->model->dit.config.in_dim, latent->dim[1],
                       latent->dim[2], latent->dim[3]);
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

/* The images' CLIP tokens, the mask, and the encoder's history. */
static void begin_encode(WanCondition *c, WanDev *d)
{
    WanTensor mask = wan_slice(&c->input, WAN_LATENT_CHANNELS, 4);

    wan_dev_stage(d, WAN_STAGE_IMAGE);
    wan_section(d, "mask");
    make_mask(c, d, &mask);
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
    c->encoder_mark = wan_mark(d);
    wan_codec_begin_encode(d, &c->stream, &c->model->vae, c->height,
                           c->width);
}

/* Frame f of the video [first, grey, grey, ..., last], [1, H, W, 3]; grey is
 * there. */
static void place_frame(WanCondition *c, WanDev *d, WanTensor *frame, int f)
{
    const WanCodec *vae = &c->model->vae;
    const int which = !f ? 0 : f == c->frames - 1 && c->nb_images > 1 ? 1 : -1;
    const WanMark mark = wan_mark(d);

    if (which < 0)
        return;
    const WanTensor image = upload_image(c, d, which);
    WanTensor sized = wan_tmp(d, 3, c->height, c->width);
    const WanTensor frames = wan_reshape(&sized, 3, 1, c->height, c->width);

    wan_op_resize(d, &sized, &image);
    wan_op_channels_last(d, frame, &frames, 0, &vae->one, &vae->zero);
    wan_release(d, mark);
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

static void channels_begin_steps(WanCondition *c, WanDev *d)
{
    wan_dit_image(d, &c->context, &c->model->dit, &c->clip);
}

static const WanTensor *channels_input(WanCondition *c, WanDev *d,
                                       const WanTensor *x)
{
    WanTensor noise = wan_slice(&c->input, 0, WAN_LATENT_CHANNELS);

    wan_op_copy(d, &noise, x);
    return &c->input;
}

/* ------------------------------------------------------------ the table */

#define CHANNELS                                                              \
    .reserve = channels_reserve, .units = latent_frames,                      \
    .encode = channels_encode, .begin_steps = channels_begin_steps,           \
    .input = channels_input

static const struct WanConditionKind kinds[] = {
    [WAN_TASK_T2V]   = { "text-to-video" },
    [WAN_TASK_I2V]   = { "image-to-video", 1, CHANNELS },
    [WAN_TASK_FLF2V] = { "first-last-frame", 2, CHANNELS },
};

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
    return kinds[m->info.task].images;
}

int wan_condition_check(const WanRequest *r, const WanModel *m)
{
    for (int i = 0; i < WAN_MAX_IMAGES; i++) {
        const WanImage *image = given(r, i);
        const int wanted = i < wan_condition_images(m);

        if (!image != !wanted)
            return wan_error_option(&m->log, option(i), "%s is a %s "
                                    "checkpoint and takes %s", m->info.name,
                                    kinds[m->info.task].task,
                                    wanted ? "one" : "none");
        if (!image)
            continue;
        if (image->width < 1 || image->height < 1 ||
            image->width > 1 << 15 || image->height > 1 << 15)
            return wan_error_option(&m->log, option(i), "%dx%d; sides from 1 "
                                    "to %d can be", image->width,
                                    image->height, 1 << 15);
        if (image->format != WAN_PIX_RGB24 && image->format != WAN_PIX_GBRP &&
            image->format != WAN_PIX_GBRPF32)
            return wan_error_option(&m->log, option(i), "it must be rgb24, "
                                    "gbrp or gbrpf32");
    }
    return 0;
}

/* What of the request's image is used. The last one is cut to the aspect of
 * the video around its centre; the first decides the aspect and is stretched
 * what the multiple of 16 asks for, as the reference does both. */
static void place_image(WanCondition *c, int i, const WanImage *img)
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

void wan_condition_init(WanCondition *c, const WanModel *m,
                        const WanRequest *r)
{
    *c = (WanCondition){
        .model = m, .kind = &kinds[m->info.task],
        .width = r->width, .height = r->height, .frames = r->frames,
        .nb_images = wan_condition_images(m),
    };
    for (int i = 0; i < c->nb_images; i++)
        place_image(c, i, given(r, i));
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
    return bytes;
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

        if (!(image->rgb = malloc(image_bytes(image))))
            return wan_error_memory(&c->model->log, "job",
                                    i ? "the last image" : "the image");
        wan_image_read(image->rgb, given(r, i), image->x, image->y, image->w,
                       image->h);
    }
    return 0;
}

void wan_condition_free(WanCondition *c)
{
    for (int i = 0; i < WAN_MAX_IMAGES; i++)
        free(c->image[i].rgb);
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

void wan_condition_begin_steps(WanCondition *c, WanDev *d)
{
    if (c->kind->begin_steps)
        c->kind->begin_steps(c, d);
}

const WanTensor *wan_condition_input(WanCondition *c, WanDev *d,
                                     const WanTensor *x)
{
    return c->kind->input ? c->kind->input(c, d, x) : x;
}

const WanDitContext *wan_condition_context(const WanCondition *c)
{
    return c->nb_images ? &c->context : NULL;
}
