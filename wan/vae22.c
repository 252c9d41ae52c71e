/*
 * The causal VAE of Wan 2.2, streamed in both directions.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Wan 2.1's layers on pixels in squares of 2 x 2, and past each level a way
 * without weights: positions folded into channels and averaged, or channels
 * repeated and unfolded. These ways remember nothing. In the stream's first
 * chunk a frame stands for two where time is halved, a zero before it, and one
 * of two is dropped where it is doubled.
 */

#include <stdio.h>

#include "vae.h"

#define CHANNELS 48
#define FOLDED 12     // channels of 2 x 2 pixels

/* Frames, and rows and columns, that a level's fold makes one of. */
typedef struct Fold {
    int t, s;                           // t 1, s 1: the last level
} Fold;

/* Widths in units of the base, in and out of a level's blocks; Up and Down keep
 * the width. */
static const int level_in[4] = { 4, 4, 4, 2 }, level_out[4] = { 4, 4, 2, 1 };
static const Fold level_up[4] = { { 2, 2 }, { 2, 2 }, { 1, 2 }, { 1, 1 } };

static const int encoder_in[4] = { 1, 1, 2, 4 };
static const int encoder_out[4] = { 1, 2, 4, 4 };
static const Fold level_down[4] = { { 1, 2 }, { 2, 2 }, { 2, 2 }, { 1, 1 } };

/* Latent statistics, per channel; the same in every checkpoint. */
static const float latent_mean[CHANNELS] = {
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
};
static const float latent_std[CHANNELS] = {
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
};

/* -------------------------------------------------------------- binding */

#define NAME(...) (snprintf(name, sizeof(name), __VA_ARGS__), name)

static void bind_decoder(WanVae *m, WanBinder *b)
{
    enum { Z = CHANNELS };
    const int64_t dim = m->config.dim;
    char name[96];
    int pasts = 0;

    wan_bind_linear(b, &m->conv2, "conv2", Z, Z, 1);
    wan_vae_bind_conv(b, &m->decoder.conv1, "decoder.conv1", 4 * dim, Z, 3, 3,
                      &pasts);
    wan_vae_bind_middle(b, &m->decoder.middle, "decoder.middle", 4 * dim,
                        &pasts);
    for (int l = 0; l < 4; l++) {
        const int64_t in = level_in[l] * dim, out = level_out[l] * dim;
        WanVaeUp *up = &m->decoder.level[l].up;

        for (int i = 0; i < 3; i++)
            wan_vae_bind_res(b, &m->decoder.level[l].res[i],
                             NAME("decoder.upsamples.%d.upsamples.%d", l, i),
                             i ? out : in, out, &pasts);
        if (level_up[l].t > 1)
            wan_vae_bind_conv(b, &up->time_conv,
                              NAME("decoder.upsamples.%d.upsamples.3."
                                   "time_conv", l), 2 * out, out, 3, 1,
                              &pasts);
        if (level_up[l].s > 1)
            wan_vae_bind_conv(b, &up->resample,
                              NAME("decoder.upsamples.%d.upsamples.3."
                                   "resample.1", l), out, out, 1, 3, &pasts);
    }
    wan_bind_vector(b, &m->decoder.head_gamma, "decoder.head.0.gamma", dim);
    wan_vae_bind_conv(b, &m->decoder.head, "decoder.head.2", FOLDED,
                      dim, 3, 3, &pasts);
}

static void bind_encoder(WanVae *m, WanBinder *b)
{
    enum { Z = 2 * CHANNELS };
    const int64_t dim = m->config.encoder_dim;
    char name[96];
    int pasts = 0;

    wan_bind_linear(b, &m->conv1, "conv1", Z, Z, 1);
    wan_vae_bind_conv(b, &m->encoder.conv1, "encoder.conv1", dim,
                      FOLDED, 3, 3, &pasts);
    for (int l = 0; l < 4; l++) {
        const int64_t in = encoder_in[l] * dim, out = encoder_out[l] * dim;
        WanVaeDown *down = &m->encoder.level[l].down;

        for (int i = 0; i < 2; i++)
            wan_vae_bind_res(b, &m->encoder.level[l].res[i],
                             NAME("encoder.downsamples.%d.downsamples.%d", l,
                                  i), i ? out : in, out, &pasts);
        if (level_down[l].s > 1)
            wan_vae_bind_conv(b, &down->resample,
                              NAME("encoder.downsamples.%d.downsamples.2."
                                   "resample.1", l), out, out, 1, 3, &pasts);
        if (level_down[l].t > 1)
            wan_vae_bind_conv(b, &down->time_conv,
                              NAME("encoder.downsamples.%d.downsamples.2."
                                   "time_conv", l), out, out, 3, 1, &pasts);
    }
    wan_vae_bind_middle(b, &m->encoder.middle, "encoder.middle", 4 * dim,
                        &pasts);
    wan_bind_vector(b, &m->encoder.head_gamma, "encoder.head.0.gamma",
                    4 * dim);
    wan_vae_bind_conv(b, &m->encoder.head, "encoder.head.2", Z, 4 * dim, 3, 3,
                      &pasts);
}

static int bind(void *net, const WanVaeConfig *c, int encoder, WanBinder *b)
{
    WanVae *m = net;

    m->config = *c;
    wan_codec_scales(b, CHANNELS, latent_mean, latent_std, &m->std,
                     &m->mean, &m->to_std, &m->to_mean);
    bind_decoder(m, b);
    if (encoder)
        bind_encoder(m, b);
    return wan_binder_end(b);
}

/* -------------------------------------------------------------- history */

static void begin_decode(WanDev *d, WanCodecStream *s, const void *net,
                         int64_t h, int64_t w)
{
    const WanVae *m = net;

    wan_section(d, "decoder history");
    s->frames = 0;
    wan_vae_zero_past(d, s, &m->decoder.conv1, 2, h, w);
    wan_vae_zero_res(d, s, &m->decoder.middle.res0, h, w);
    wan_vae_zero_res(d, s, &m->decoder.middle.res2, h, w);
    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 3; i++)
            wan_vae_zero_res(d, s, &m->decoder.level[l].res[i], h, w);
        if (level_up[l].t > 1)
            wan_vae_zero_past(d, s, &m->decoder.level[l].up.time_conv, 2, h,
                              w);
        h *= level_up[l].s;
        w *= level_up[l].s;
    }
    wan_vae_zero_past(d, s, &m->decoder.head, 2, h, w);
}

static void begin_encode(WanDev *d, WanCodecStream *s, const void *net,
                         int64_t H, int64_t W)
{
    const WanVae *m = net;

    wan_section(d, "encoder history");
    s->frames = 0;
    H /= 2;
    W /= 2;
    wan_vae_zero_past(d, s, &m->encoder.conv1, 2, H, W);
    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 2; i++)
            wan_vae_zero_res(d, s, &m->encoder.level[l].res[i], H, W);
        H /= level_down[l].s;
        W /= level_down[l].s;
        if (level_down[l].t > 1)
            wan_vae_zero_past(d, s, &m->encoder.level[l].down.time_conv, 1, H,
                              W);
    }
    wan_vae_zero_res(d, s, &m->encoder.middle.res0, H, W);
    wan_vae_zero_res(d, s, &m->encoder.middle.res2, H, W);
    wan_vae_zero_past(d, s, &m->encoder.head, 2, H, W);
}

/* --------------------------------------------------------------- decode */

/* The resampler's result for a tap: the model adds it to the short way. Other
 * ranks have no tap, and would not be there to exchange rows. */
static void tap_up(WanDev *d, const WanTensor *y, const WanTensor *t,
                   const WanVaeUp *up, int level, const WanCodecStream *s)
{
    const WanMark mark = wan_mark(d);

    if (d->tap && !s->rows) {
        WanTensor alone = wan_tmp_like(d, y);

        wan_op_conv(d, &alone, t, &up->resample.conv, .upsample = 2);
        wan_tap(d, &alone, "decoder.upsamples.%d.upsamples.3.chunk%ld", level,
                (long)s->frames);
    }
    wan_release(d, mark);
}

/* A level that makes four positions of one: unfold(x) + up(blocks(x)); x is
 * used up. */
static WanTensor up_level(WanDev *d, WanTensor *x, const WanVae *m, int l,
                          WanCodecStream *s)
{
    const int64_t out = level_out[l] * (int64_t)m->config.dim;
    const long chunk = (long)s->frames;
    const WanVaeUp *up = &m->decoder.level[l].up;
    const int t = chunk ? level_up[l].t : 1;
    WanTensor y = wan_tmp_act(d, x->dim[0] * t, 2 * x->dim[1], 2 * x->dim[2],
                              out);
    const WanMark mark = wan_mark(d);
    WanTensor h = *x;

    wan_op_unfold(d, &y, x, .t = level_up[l].t, .s = 2);
    wan_tap(d, &y, "decoder.upsamples.%d.avg_shortcut.chunk%ld", l, chunk);
    for (int i = 0; i < 3; i++) {
        h = wan_vae_widen(d, &h, &m->decoder.level[l].res[i], out, s);
        wan_tap(d, &h, "decoder.upsamples.%d.upsamples.%d.chunk%ld", l, i,
                chunk);
    }
    if (t > 1)
        h = wan_vae_double_time(d, &h, &up->time_conv, s);
    tap_up(d, &y, &h, up, l, s);
    wan_op_conv(d, &y, &h, &up->resample.conv, .upsample = 2, .add = 1,
                .rows = s->rows);
    wan_release(d, mark);
    return y;
}

static void decode(WanDev *d, WanTensor *rgb, const void *net,
                   WanCodecStream *s, const WanTensor *latent)
{
    const WanVae *m = net;
    const int64_t h = latent->dim[2], w = latent->dim[3], Z = latent->dim[0];
    const int64_t dim = m->config.dim;
    const long chunk = (long)s->frames;
    const WanMark mark = wan_mark(d);
    WanTensor x = wan_tmp_act(d, 1, wan_codec_share(d, s, h).n, w, 4 * dim);
    const WanMark in_mark = wan_mark(d);
    WanTensor now, in = wan_vae_causal_input(d, s, &m->decoder.conv1, 1, &now);

    wan_section(d, "decode frame %ld", chunk);
    WanTensor z = wan_tmp(d, 1, h, w, Z);
    wan_op_channels_last(d, &z, latent, wan_codec_at(s), &m->std, &m->mean);
    z = wan_codec_own(d, s, &z);
    wan_op_linear(d, &now, &z, &m->conv2);                      // [1, h, w, 48]
    wan_tap(d, &now, "conv2.chunk%ld", chunk);
    wan_op_conv(d, &x, &in, &m->decoder.conv1.conv, .rows = s->rows);
    wan_vae_remember(d, s, &m->decoder.conv1, &in);
    wan_release(d, in_mark);
    wan_tap(d, &x, "decoder.conv1.chunk%ld", chunk);            // [1, h, w, 4 dim]

    wan_vae_middle(d, &x, &m->decoder.middle, s, "decoder");
    for (int l = 0; l < 4; l++) {
        if (level_up[l].s > 1) {
            x = up_level(d, &x, m, l, s);
        } else {
            for (int i = 0; i < 3; i++) {
                x = wan_vae_widen(d, &x, &m->decoder.level[l].res[i],
                                  level_out[l] * dim, s);
                wan_tap(d, &x, "decoder.upsamples.%d.upsamples.%d.chunk%ld",
                        l, i, chunk);
            }
        }
        wan_tap(d, &x, "decoder.upsamples.%d.chunk%ld", l, chunk);
    }

    WanTensor squares = wan_tmp_act(d, x.dim[0], x.dim[1], x.dim[2],
                                    FOLDED);          // [T, 8h, 8w, 12]
    wan_vae_norm_conv(d, &squares, &x, &m->decoder.head_gamma,
                      &m->decoder.head, s, 0);
    wan_tap(d, &squares, "decoder.head.2.chunk%ld", chunk);
    wan_op_unfold(d, rgb, &squares, .t = 1, .s = 2, .columns_first = 1);
    s->frames++;
    wan_release(d, mark);
}

/* --------------------------------------------------------------- encode */

/* y += x with half the rows and columns; then half the frames, but the stream's
 * first frame stays and becomes the past of those that follow. */
static void downsample(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanVaeDown *down, int t, WanCodecStream *s,
                       int level)
{
    const WanMark mark = wan_mark(d);
    const WanVaeConv *c = &down->time_conv;
    WanTensor sum = wan_tmp_like(d, y), now, in;

    if (t > 1 && s->frames) {
        in = wan_vae_causal_input(d, s, c, x->dim[0], &now);
        wan_op_conv(d, &now, x, &down->resample.conv, .stride = 2);
        wan_op_conv(d, &sum, &in, &c->conv, .stride_t = 2);
        wan_vae_remember(d, s, c, &in);
    } else {
        wan_op_conv(d, &sum, x, &down->resample.conv, .stride = 2);
        if (t > 1)
            wan_vae_remember(d, s, c, &sum);
    }
    wan_tap(d, &sum, "encoder.downsamples.%d.downsamples.2.chunk%ld", level,
            (long)s->frames);
    wan_op_gate_add(d, y, &sum, NULL);
    wan_release(d, mark);
}

/* fold(x) + down(blocks(x)); x is used up. */
static WanTensor down_level(WanDev *d, WanTensor *x, const WanVae *m, int l,
                            WanCodecStream *s)
{
    const int64_t out = encoder_out[l] * (int64_t)m->config.encoder_dim;
    const long chunk = (long)s->frames;
    const Fold f = level_down[l];
    WanTensor y = wan_tmp_act(d, (x->dim[0] + f.t - 1) / f.t,
                              x->dim[1] / f.s, x->dim[2] / f.s, out);
    const WanMark mark = wan_mark(d);
    WanTensor h = *x;

    wan_op_fold(d, &y, x, .t = f.t, .s = f.s);
    wan_tap(d, &y, "encoder.downsamples.%d.avg_shortcut.chunk%ld", l, chunk);
    for (int i = 0; i < 2; i++) {
        h = wan_vae_widen(d, &h, &m->encoder.level[l].res[i], out, s);
        wan_tap(d, &h, "encoder.downsamples.%d.downsamples.%d.chunk%ld", l, i,
                chunk);
    }
    if (f.s > 1)
        downsample(d, &y, &h, &m->encoder.level[l].down, f.t, s, l);
    else
        wan_op_gate_add(d, &y, &h, NULL);
    wan_release(d, mark);
    wan_tap(d, &y, "encoder.downsamples.%d.chunk%ld", l, chunk);
    return y;
}

static void encode(WanDev *d, WanTensor *latent, const void *net,
                   WanCodecStream *s, const WanTensor *rgb)
{
    enum { Z = 2 * CHANNELS };
    const WanVae *m = net;
    const int64_t T = rgb->dim[0], H = rgb->dim[1] / 2, W = rgb->dim[2] / 2;
    const long chunk = (long)s->frames;
    const WanMark mark = wan_mark(d);
    WanTensor x = wan_tmp_act(d, T, H, W, m->config.encoder_dim);
    const WanMark in_mark = wan_mark(d);
    WanTensor now, in = wan_vae_causal_input(d, s, &m->encoder.conv1, T, &now);

    wan_section(d, "encode group %ld", chunk);
    wan_op_fold(d, &now, rgb, .t = 1, .s = 2, .columns_first = 1);
    wan_op_conv(d, &x, &in, &m->encoder.conv1.conv);            // [T, H, W, dim]
    wan_vae_remember(d, s, &m->encoder.conv1, &in);
    wan_release(d, in_mark);
    wan_tap(d, &x, "encoder.conv1.chunk%ld", chunk);

    for (int l = 0; l < 4; l++)
        x = down_level(d, &x, m, l, s);
    wan_vae_middle(d, &x, &m->encoder.middle, s, "encoder");

    WanTensor h = wan_tmp(d, 1, x.dim[1], x.dim[2], Z);
    WanTensor mu = wan_tmp_like(d, &h);
    wan_vae_norm_conv(d, &h, &x, &m->encoder.head_gamma, &m->encoder.head, s,
                      0);
    wan_tap(d, &h, "encoder.head.2.chunk%ld", chunk);
    wan_op_linear(d, &mu, &h, &m->conv1);
    /* The first 48 channels are the mean; the variance is not used. */
    wan_op_channels_first(d, latent, wan_codec_at(s), &mu, &m->to_std, &m->to_mean);
    s->frames++;
    wan_release(d, mark);
}

const WanCodecFamily wan_codec_vae22 = {
    .name = "Wan 2.2 VAE", .net_bytes = sizeof(WanVae), .first_group = 1,
    .channels = CHANNELS, .stride = 16,
    .bind = bind,
    .begin_decode = begin_decode, .decode = decode,
    .begin_encode = begin_encode, .encode = encode,
};
