/*
 * The causal VAE of Wan 2.1, streamed in both directions.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <stdio.h>
#include <string.h>

#include "vae.h"

/* Widths of the decoder in units of the base: in and out of each level's
 * residual blocks. An Up halves its level's width. */
static const int level_in[4] = { 4, 2, 2, 1 }, level_out[4] = { 4, 4, 2, 1 };

/* And of the encoder. A Down keeps its level's width. */
static const int encoder_in[4] = { 1, 1, 2, 4 }, encoder_out[4] = { 1, 2, 4, 4 };

/* -------------------------------------------------------------- binding */

static void bind_decoder(WanVae *m, WanBinder *b)
{
    const int64_t dim = m->config.dim;
    char name[96];
    int pasts = 0, index = 0;   // of decoder.upsamples

    wan_bind_linear(b, &m->conv2, "conv2", WAN_LATENT_CHANNELS,
                    WAN_LATENT_CHANNELS, 1);
    wan_vae_bind_conv(b, &m->decoder.conv1, "decoder.conv1", 4 * dim,
                      WAN_LATENT_CHANNELS, 3, 3, &pasts);
    wan_vae_bind_middle(b, &m->decoder.middle, "decoder.middle", 4 * dim,
                        &pasts);
    for (int l = 0; l < 4; l++) {
        const int64_t in = level_in[l] * dim, out = level_out[l] * dim;

        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof(name), "decoder.upsamples.%d", index++);
            wan_vae_bind_res(b, &m->decoder.level[l].res[i], name,
                             i ? out : in, out, &pasts);
        }
        if (l == 3)
            break;
        WanVaeUp *up = &m->decoder.level[l].up;
        if (l < 2) {
            snprintf(name, sizeof(name), "decoder.upsamples.%d.time_conv",
                     index);
            wan_vae_bind_conv(b, &up->time_conv, name, 2 * out, out, 3, 1,
                              &pasts);
        }
        snprintf(name, sizeof(name), "decoder.upsamples.%d.resample.1",
                 index++);
        wan_vae_bind_conv(b, &up->resample, name, out / 2, out, 1, 3, &pasts);
    }
    wan_bind_vector(b, &m->decoder.head_gamma, "decoder.head.0.gamma", dim);
    wan_vae_bind_conv(b, &m->decoder.head, "decoder.head.2", 3, dim, 3, 3,
                      &pasts);
}

static void bind_encoder(WanVae *m, WanBinder *b)
{
    const int64_t dim = m->config.dim, Z = 2 * WAN_LATENT_CHANNELS;
    char name[96];
    int pasts = 0, index = 0;   // of encoder.downsamples

    wan_bind_linear(b, &m->conv1, "conv1", Z, Z, 1);
    wan_vae_bind_conv(b, &m->encoder.conv1, "encoder.conv1", dim, 3, 3, 3,
                      &pasts);
    for (int l = 0; l < 4; l++) {
        const int64_t in = encoder_in[l] * dim, out = encoder_out[l] * dim;

        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof(name), "encoder.downsamples.%d", index++);
            wan_vae_bind_res(b, &m->encoder.level[l].res[i], name,
                             i ? out : in, out, &pasts);
        }
        if (l == 3)
            break;
        WanVaeDown *down = &m->encoder.level[l].down;
        snprintf(name, sizeof(name), "encoder.downsamples.%d.resample.1",
                 index);
        wan_vae_bind_conv(b, &down->resample, name, out, out, 1, 3, &pasts);
        if (l > 0) {
            snprintf(name, sizeof(name), "encoder.downsamples.%d.time_conv",
                     index);
            wan_vae_bind_conv(b, &down->time_conv, name, out, out, 3, 1,
                              &pasts);
        }
        index++;
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
    wan_codec_scales(b, WAN_LATENT_CHANNELS, wan_codec_mean, wan_codec_std,
                     &m->std, &m->mean, &m->to_std, &m->to_mean);
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
    for (int l = 0; l < 4; l++, h *= 2, w *= 2) {
        for (int i = 0; i < 3; i++)
            wan_vae_zero_res(d, s, &m->decoder.level[l].res[i], h, w);
        if (l < 2)
            wan_vae_zero_past(d, s, &m->decoder.level[l].up.time_conv, 2, h,
                              w);
        if (l == 3)
            wan_vae_zero_past(d, s, &m->decoder.head, 2, h, w);
    }
}

static void begin_encode(WanDev *d, WanCodecStream *s, const void *net,
                         int64_t H, int64_t W)
{
    const WanVae *m = net;

    wan_section(d, "encoder history");
    s->frames = 0;
    wan_vae_zero_past(d, s, &m->encoder.conv1, 2, H, W);
    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 2; i++)
            wan_vae_zero_res(d, s, &m->encoder.level[l].res[i], H, W);
        if (l == 3)
            break;
        H /= 2;
        W /= 2;
        if (l > 0)
            wan_vae_zero_past(d, s, &m->encoder.level[l].down.time_conv, 1, H,
                              W);
    }
    wan_vae_zero_res(d, s, &m->encoder.middle.res0, H, W);
    wan_vae_zero_res(d, s, &m->encoder.middle.res2, H, W);
    wan_vae_zero_past(d, s, &m->encoder.head, 2, H, W);
}

static WanTensor upsample(WanDev *d, const WanTensor *x, const WanVaeUp *up,
                          WanCodecStream *s, int index)
{
    WanTensor t = *x, y;

    if (up->time_conv.conv.weight.nb_dims && s->frames > 0) {
        t = wan_vae_double_time(d, x, &up->time_conv, s);
        wan_tap(d, &t, "decoder.upsamples.%d.time", index);
    }
    y = wan_tmp_act(d, t.dim[0], 2 * t.dim[1], 2 * t.dim[2], t.dim[3] / 2);
    wan_op_conv(d, &y, &t, &up->resample.conv, .upsample = 2,
                .rows = s->rows);
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
    WanTensor now, in = wan_vae_causal_input(d, s, &m->decoder.conv1, 1, &now);
    int index = 0;

    wan_section(d, "decode frame %ld", chunk);
    WanTensor z = wan_tmp(d, 1, h, w, Z);
    wan_op_channels_last(d, &z, latent, wan_codec_at(s), &m->std, &m->mean);
    z = wan_codec_own(d, s, &z);
    wan_op_linear(d, &now, &z, &m->conv2);                      // [1, h, w, 16]
    wan_tap(d, &now, "conv2.chunk%ld", chunk);
    wan_op_conv(d, &x, &in, &m->decoder.conv1.conv,
                .rows = s->rows);                               // [1, h, w, 4 dim]
    wan_vae_remember(d, s, &m->decoder.conv1, &in);
    wan_tap(d, &x, "decoder.conv1.chunk%ld", chunk);

    wan_vae_middle(d, &x, &m->decoder.middle, s, "decoder");

    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 3; i++, index++) {
            x = wan_vae_widen(d, &x, &m->decoder.level[l].res[i],
                              level_out[l] * dim, s);
            wan_tap(d, &x, "decoder.upsamples.%d.chunk%ld", index, chunk);
        }
        if (l < 3) {
            x = upsample(d, &x, &m->decoder.level[l].up, s, index);
            wan_tap(d, &x, "decoder.upsamples.%d.chunk%ld", index++, chunk);
        }
    }

    wan_vae_norm_conv(d, rgb, &x, &m->decoder.head_gamma, &m->decoder.head, s,
                      0);
    wan_tap(d, rgb, "decoder.head.2.chunk%ld", chunk);
    s->frames++;
    wan_release(d, mark);
}

/* Half the rows and columns; then half the frames, but the stream's first
 * frame stays and becomes the past of those that follow. */
static WanTensor downsample(WanDev *d, const WanTensor *x,
                            const WanVaeDown *down, WanCodecStream *s)
{
    const int64_t T = x->dim[0], H = x->dim[1] / 2, W = x->dim[2] / 2;
    const int64_t C = x->dim[3];
    const WanVaeConv *c = &down->time_conv;
    WanTensor y, now, in;

    if (!c->conv.weight.nb_dims || !s->frames) {
        y = wan_tmp_act(d, T, H, W, C);
        wan_op_conv(d, &y, x, &down->resample.conv, .stride = 2);
        if (c->conv.weight.nb_dims)
            wan_vae_remember(d, s, c, &y);
        return y;
    }
    y = wan_tmp_act(d, T / 2, H, W, C);
    const WanMark mark = wan_mark(d);
    in = wan_vae_causal_input(d, s, c, T, &now);
    wan_op_conv(d, &now, x, &down->resample.conv, .stride = 2);
    wan_op_conv(d, &y, &in, &c->conv, .stride_t = 2);
    wan_vae_remember(d, s, c, &in);
    wan_release(d, mark);
    return y;
}

static void encode(WanDev *d, WanTensor *latent, const void *net,
                   WanCodecStream *s, const WanTensor *rgb)
{
    const WanVae *m = net;
    const int64_t T = rgb->dim[0], H = rgb->dim[1], W = rgb->dim[2];
    const int64_t dim = m->config.dim, Z = 2 * WAN_LATENT_CHANNELS;
    const long chunk = (long)s->frames;
    const WanMark mark = wan_mark(d);
    WanTensor x = wan_tmp_act(d, T, H, W, dim);
    int index = 0;

    wan_section(d, "encode group %ld", chunk);
    {
        const WanMark in_mark = wan_mark(d);
        WanTensor now, in = wan_vae_causal_input(d, s, &m->encoder.conv1, T,
                                                 &now);

        wan_op_copy(d, &now, rgb);
        wan_op_conv(d, &x, &in, &m->encoder.conv1.conv);        // [T, H, W, dim]
        wan_vae_remember(d, s, &m->encoder.conv1, &in);
        wan_release(d, in_mark);
    }
    wan_tap(d, &x, "encoder.conv1.chunk%ld", chunk);

    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 2; i++, index++) {
            x = wan_vae_widen(d, &x, &m->encoder.level[l].res[i],
                              encoder_out[l] * dim, s);
            wan_tap(d, &x, "encoder.downsamples.%d.chunk%ld", index, chunk);
        }
        if (l < 3) {
            x = downsample(d, &x, &m->encoder.level[l].down, s);
            wan_tap(d, &x, "encoder.downsamples.%d.chunk%ld", index++, chunk);
        }
    }
    wan_vae_middle(d, &x, &m->encoder.middle, s, "encoder");

    WanTensor h = wan_tmp(d, 1, x.dim[1], x.dim[2], Z), mu = wan_tmp_like(d, &h);
    wan_vae_norm_conv(d, &h, &x, &m->encoder.head_gamma, &m->encoder.head, s,
                      0);
    wan_tap(d, &h, "encoder.head.2.chunk%ld", chunk);
    wan_op_linear(d, &mu, &h, &m->conv1);
    /* The first 16 channels are the mean; the variance is not used. */
    wan_op_channels_first(d, latent, wan_codec_at(s), &mu, &m->to_std, &m->to_mean);
    s->frames++;
    wan_release(d, mark);
}

const WanCodecFamily wan_codec_vae = {
    .name = "Wan 2.1 VAE", .net_bytes = sizeof(WanVae), .first_group = 1,
    .channels = WAN_LATENT_CHANNELS, .stride = WAN_SPACE_STRIDE,
    .bind = bind,
    .begin_decode = begin_decode, .decode = decode,
    .begin_encode = begin_encode, .encode = encode,
};
