/*
 * The causal VAE, streamed in both directions.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Activations are [T, H, W, C], in the backend's type; latents and pixels are
 * F32. A causal convolution sees two frames of its
 * own past; streaming keeps them in WanCodecStream, zero at the start, so that
 * a chunk of frames gives what the whole sequence would.
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

static void bind_conv(WanBinder *b, WanVaeConv *c, const char *prefix,
                      int64_t out, int64_t in, int kt, int ks, int *pasts)
{
    char name[128];

    snprintf(name, sizeof(name), "%s.weight", prefix);
    wan_bind_matrix(b, &c->conv.weight, name, out, in, kt, ks, ks);
    snprintf(name, sizeof(name), "%s.bias", prefix);
    wan_bind_vector(b, &c->conv.bias, name, out);
    c->past = kt > 1 ? (*pasts)++ : -1;
}

static void bind_res(WanBinder *b, WanVaeRes *r, const char *prefix,
                     int64_t in, int64_t out, int *pasts)
{
    char name[112];

#define NAME(suffix) (snprintf(name, sizeof(name), "%s." suffix, prefix), name)
    wan_bind_vector(b, &r->gamma[0], NAME("residual.0.gamma"), in);
    bind_conv(b, &r->conv[0], NAME("residual.2"), out, in, 3, 3, pasts);
    wan_bind_vector(b, &r->gamma[1], NAME("residual.3.gamma"), out);
    bind_conv(b, &r->conv[1], NAME("residual.6"), out, out, 3, 3, pasts);
    if (in != out)
        wan_bind_linear(b, &r->shortcut, NAME("shortcut"), out, in, 1);
}

static void bind_attn(WanBinder *b, WanVaeAttn *a, const char *prefix,
                      int64_t C)
{
    char name[112];

    wan_bind_vector(b, &a->gamma, NAME("norm.gamma"), C);
    wan_bind_linear(b, &a->to_qkv, NAME("to_qkv"), 3 * C, C, 1);
    wan_bind_linear(b, &a->proj, NAME("proj"), C, C, 1);
#undef NAME
}

static void bind_middle(WanBinder *b, WanVaeMiddle *m, const char *prefix,
                        int64_t C, int *pasts)
{
    char name[96];

    snprintf(name, sizeof(name), "%s.0", prefix);
    bind_res(b, &m->res0, name, C, C, pasts);
    snprintf(name, sizeof(name), "%s.1", prefix);
    bind_attn(b, &m->attn, name, C);
    snprintf(name, sizeof(name), "%s.2", prefix);
    bind_res(b, &m->res2, name, C, C, pasts);
}

static void bind_decoder(WanVae *m, WanBinder *b)
{
    const int64_t dim = m->config.dim;
    char name[96];
    int pasts = 0, index = 0;   // of decoder.upsamples

    wan_bind_linear(b, &m->conv2, "conv2", WAN_LATENT_CHANNELS,
                    WAN_LATENT_CHANNELS, 1);
    bind_conv(b, &m->decoder.conv1, "decoder.conv1", 4 * dim,
              WAN_LATENT_CHANNELS, 3, 3, &pasts);
    bind_middle(b, &m->decoder.middle, "decoder.middle", 4 * dim, &pasts);
    for (int l = 0; l < 4; l++) {
        const int64_t in = level_in[l] * dim, out = level_out[l] * dim;

        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof(name), "decoder.upsamples.%d", index++);
            bind_res(b, &m->decoder.level[l].res[i], name, i ? out : in, out,
                     &pasts);
        }
        if (l == 3)
            break;
        WanVaeUp *up = &m->decoder.level[l].up;
        if (l < 2) {
            snprintf(name, sizeof(name), "decoder.upsamples.%d.time_conv",
                     index);
            bind_conv(b, &up->time_conv, name, 2 * out, out, 3, 1, &pasts);
        }
        snprintf(name, sizeof(name), "decoder.upsamples.%d.resample.1",
                 index++);
        bind_conv(b, &up->resample, name, out / 2, out, 1, 3, &pasts);
    }
    wan_bind_vector(b, &m->decoder.head_gamma, "decoder.head.0.gamma", dim);
    bind_conv(b, &m->decoder.head, "decoder.head.2", 3, dim, 3, 3, &pasts);
}

static void bind_encoder(WanVae *m, WanBinder *b)
{
    const int64_t dim = m->config.dim, Z = 2 * WAN_LATENT_CHANNELS;
    char name[96];
    int pasts = 0, index = 0;   // of encoder.downsamples

    wan_bind_linear(b, &m->conv1, "conv1", Z, Z, 1);
    bind_conv(b, &m->encoder.conv1, "encoder.conv1", dim, 3, 3, 3, &pasts);
    for (int l = 0; l < 4; l++) {
        const int64_t in = encoder_in[l] * dim, out = encoder_out[l] * dim;

        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof(name), "encoder.downsamples.%d", index++);
            bind_res(b, &m->encoder.level[l].res[i], name, i ? out : in, out,
                     &pasts);
        }
        if (l == 3)
            break;
        WanVaeDown *down = &m->encoder.level[l].down;
        snprintf(name, sizeof(name), "encoder.downsamples.%d.resample.1",
                 index);
        bind_conv(b, &down->resample, name, out, out, 1, 3, &pasts);
        if (l > 0) {
            snprintf(name, sizeof(name), "encoder.downsamples.%d.time_conv",
                     index);
            bind_conv(b, &down->time_conv, name, out, out, 3, 1, &pasts);
        }
        index++;
    }
    bind_middle(b, &m->encoder.middle, "encoder.middle", 4 * dim, &pasts);
    wan_bind_vector(b, &m->encoder.head_gamma, "encoder.head.0.gamma",
                    4 * dim);
    bind_conv(b, &m->encoder.head, "encoder.head.2", Z, 4 * dim, 3, 3, &pasts);
}

static int bind(void *net, const WanVaeConfig *c, int encoder, WanBinder *b)
{
    WanVae *m = net;

    m->config = *c;
    wan_codec_scales(b, 1, &m->std, &m->mean, &m->to_std, &m->to_mean);
    bind_decoder(m, b);
    if (encoder)
        bind_encoder(m, b);
    return wan_binder_end(b);
}

/* -------------------------------------------------------------- history */

static void zero_past(WanDev *d, WanCodecStream *s, const WanVaeConv *c,
                      int frames, int64_t h, int64_t w)
{
    WanTensor *past = &s->past[c->past];

    *past = wan_tmp_act(d, frames, h, w, c->conv.weight.dim[1]);
    wan_op_fill(d, past, 0);
}

static void zero_res(WanDev *d, WanCodecStream *s, const WanVaeRes *r,
                     int64_t h, int64_t w)
{
    zero_past(d, s, &r->conv[0], 2, h, w);
    zero_past(d, s, &r->conv[1], 2, h, w);
}

static void begin_decode(WanDev *d, WanCodecStream *s, const void *net,
                         int64_t h, int64_t w)
{
    const WanVae *m = net;

    wan_section(d, "decoder history");
    s->frames = 0;
    zero_past(d, s, &m->decoder.conv1, 2, h, w);
    zero_res(d, s, &m->decoder.middle.res0, h, w);
    zero_res(d, s, &m->decoder.middle.res2, h, w);
    for (int l = 0; l < 4; l++, h *= 2, w *= 2) {
        for (int i = 0; i < 3; i++)
            zero_res(d, s, &m->decoder.level[l].res[i], h, w);
        if (l < 2)
            zero_past(d, s, &m->decoder.level[l].up.time_conv, 2, h, w);
        if (l == 3)
            zero_past(d, s, &m->decoder.head, 2, h, w);
    }
}

static void begin_encode(WanDev *d, WanCodecStream *s, const void *net,
                         int64_t H, int64_t W)
{
    const WanVae *m = net;

    wan_section(d, "encoder history");
    s->frames = 0;
    zero_past(d, s, &m->encoder.conv1, 2, H, W);
    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 2; i++)
            zero_res(d, s, &m->encoder.level[l].res[i], H, W);
        if (l == 3)
            break;
        H /= 2;
        W /= 2;
        if (l > 0)
            zero_past(d, s, &m->encoder.level[l].down.time_conv, 1, H, W);
    }
    zero_res(d, s, &m->encoder.middle.res0, H, W);
    zero_res(d, s, &m->encoder.middle.res2, H, W);
    zero_past(d, s, &m->encoder.head, 2, H, W);
}

/* Input of a causal convolution: [P + T, H, W, C], its P frames of the past
 * in front (2; 1 where time is halved); the caller fills the T frames of *now and then calls remember(). */
static WanTensor causal_input(WanDev *d, WanCodecStream *s, const WanVaeConv *c,
                              int64_t T, WanTensor *now)
{
    const WanTensor *past = &s->past[c->past];
    const int64_t P = past->dim[0];
    WanTensor in = wan_tmp_act(d, P + T, past->dim[1], past->dim[2],
                               past->dim[3]);
    WanTensor before = wan_slice(&in, 0, P);

    wan_op_copy(d, &before, past);
    *now = wan_slice(&in, P, T);
    return in;
}

static void remember(WanDev *d, WanCodecStream *s, const WanVaeConv *c,
                     const WanTensor *in)
{
    WanTensor *past = &s->past[c->past];
    const WanTensor last = wan_slice(in, in->dim[0] - past->dim[0],
                                     past->dim[0]);

    wan_op_copy(d, past, &last);
}

/* --------------------------------------------------------------- layers */

/* y = conv(silu(rms(x) * gamma)), causal; with add: y += */
static void norm_conv(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanTensor *gamma, const WanVaeConv *c,
                      WanCodecStream *s, int add)
{
    const WanMark mark = wan_mark(d);
    WanTensor now, in = causal_input(d, s, c, x->dim[0], &now);

    wan_op_l2_norm(d, &now, x, gamma, WAN_ACT_SILU);
    wan_op_conv(d, y, &in, &c->conv, .add = add);
    remember(d, s, c, &in);
    wan_release(d, mark);
}

/* y = shortcut(x) + conv1(conv0(x)), each conv behind its norm; y may be x
 * when there is no shortcut */
static void residual(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanVaeRes *r, WanCodecStream *s)
{
    const WanMark mark = wan_mark(d);
    WanTensor mid = wan_tmp_like(d, y);

    norm_conv(d, &mid, x, &r->gamma[0], &r->conv[0], s, 0);
    if (r->shortcut.weight.nb_dims)
        wan_op_linear(d, y, x, &r->shortcut);
    norm_conv(d, y, &mid, &r->gamma[1], &r->conv[1], s, 1);
    wan_release(d, mark);
}

/* x += proj softmax(q k^T / sqrt(C)) v, frame by frame */
static void attention(WanDev *d, WanTensor *x, const WanVaeAttn *a)
{
    const int64_t n = x->dim[1] * x->dim[2], C = x->dim[3];

    for (int64_t t = 0; t < x->dim[0]; t++) {
        const WanMark mark = wan_mark(d);
        const WanTensor frame = wan_slice(x, t, 1);
        WanTensor xt = wan_reshape(&frame, n, C);
        WanTensor h = wan_tmp_act(d, n, C), qkv = wan_tmp_act(d, n, 3 * C);
        const WanTensor q = wan_columns(&qkv, 0, C);
        const WanTensor k = wan_columns(&qkv, C, C);
        const WanTensor v = wan_columns(&qkv, 2 * C, C);

        wan_op_l2_norm(d, &h, &xt, &a->gamma, WAN_ACT_NONE);
        wan_op_linear(d, &qkv, &h, &a->to_qkv);
        wan_op_attention(d, &h, &q, &k, &v, .heads = 1);
        wan_op_linear(d, &xt, &h, &a->proj, .add = 1);
        wan_release(d, mark);
    }
}

/* Twice the frames: [a1, b1, a2, b2, ...] where the convolution's first C
 * channels are the a and the others the b. Not for the stream's first frame. */
static WanTensor double_time(WanDev *d, const WanTensor *x,
                             const WanVaeConv *c, WanCodecStream *s)
{
    const int64_t T = x->dim[0], H = x->dim[1], W = x->dim[2], C = x->dim[3];
    WanTensor y = wan_tmp_act(d, 2 * T, H, W, C);
    const WanMark mark = wan_mark(d);
    WanTensor both = wan_tmp_act(d, T, H, W, 2 * C);
    WanTensor now, in = causal_input(d, s, c, T, &now);

    wan_op_copy(d, &now, x);
    wan_op_conv(d, &both, &in, &c->conv);
    remember(d, s, c, &in);
    for (int64_t t = 0; t < 2 * T; t++) {
        const WanTensor from = wan_slice(&both, t / 2, 1);
        const WanTensor half = wan_columns(&from, t % 2 * C, C);
        WanTensor to = wan_slice(&y, t, 1);

        wan_op_copy(d, &to, &half);
    }
    wan_release(d, mark);
    return y;
}

static WanTensor upsample(WanDev *d, const WanTensor *x, const WanVaeUp *up,
                          WanCodecStream *s, int index)
{
    WanTensor t = *x, y;

    if (up->time_conv.conv.weight.nb_dims && s->frames > 0) {
        t = double_time(d, x, &up->time_conv, s);
        wan_tap(d, &t, "decoder.upsamples.%d.time", index);
    }
    y = wan_tmp_act(d, t.dim[0], 2 * t.dim[1], 2 * t.dim[2], t.dim[3] / 2);
    wan_op_conv(d, &y, &t, &up->resample.conv, .upsample = 2);
    return y;
}

static void middle(WanDev *d, WanTensor *x, const WanVaeMiddle *m,
                   WanCodecStream *s, const char *side)
{
    const long chunk = (long)s->frames;

    residual(d, x, x, &m->res0, s);
    wan_tap(d, x, "%s.middle.0.chunk%ld", side, chunk);
    attention(d, x, &m->attn);
    wan_tap(d, x, "%s.middle.1.chunk%ld", side, chunk);
    residual(d, x, x, &m->res2, s);
    wan_tap(d, x, "%s.middle.2.chunk%ld", side, chunk);
}

/* A block that may widen: in place, or into new memory. */
static WanTensor widen(WanDev *d, const WanTensor *x, const WanVaeRes *r,
                       int64_t width, WanCodecStream *s)
{
    WanTensor y = *x;

    if (r->shortcut.weight.nb_dims)
        y = wan_tmp_act(d, x->dim[0], x->dim[1], x->dim[2], width);
    residual(d, &y, x, r, s);
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
    WanTensor x = wan_tmp_act(d, 1, h, w, 4 * dim);
    WanTensor now, in = causal_input(d, s, &m->decoder.conv1, 1, &now);
    int index = 0;

    wan_section(d, "decode frame %ld", chunk);
    WanTensor z = wan_tmp(d, 1, h, w, Z);
    wan_op_channels_last(d, &z, latent, chunk, &m->std, &m->mean);
    wan_op_linear(d, &now, &z, &m->conv2);                      // [1, h, w, 16]
    wan_tap(d, &now, "conv2.chunk%ld", chunk);
    wan_op_conv(d, &x, &in, &m->decoder.conv1.conv);            // [1, h, w, 4 dim]
    remember(d, s, &m->decoder.conv1, &in);
    wan_tap(d, &x, "decoder.conv1.chunk%ld", chunk);

    middle(d, &x, &m->decoder.middle, s, "decoder");

    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 3; i++, index++) {
            x = widen(d, &x, &m->decoder.level[l].res[i], level_out[l] * dim,
                      s);
            wan_tap(d, &x, "decoder.upsamples.%d.chunk%ld", index, chunk);
        }
        if (l < 3) {
            x = upsample(d, &x, &m->decoder.level[l].up, s, index);
            wan_tap(d, &x, "decoder.upsamples.%d.chunk%ld", index++, chunk);
        }
    }

    norm_conv(d, rgb, &x, &m->decoder.head_gamma, &m->decoder.head, s, 0);
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
            remember(d, s, c, &y);
        return y;
    }
    y = wan_tmp_act(d, T / 2, H, W, C);
    const WanMark mark = wan_mark(d);
    in = causal_input(d, s, c, T, &now);
    wan_op_conv(d, &now, x, &down->resample.conv, .stride = 2);
    wan_op_conv(d, &y, &in, &c->conv, .stride_t = 2);
    remember(d, s, c, &in);
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
        WanTensor now, in = causal_input(d, s, &m->encoder.conv1, T, &now);

        wan_op_copy(d, &now, rgb);
        wan_op_conv(d, &x, &in, &m->encoder.conv1.conv);        // [T, H, W, dim]
        remember(d, s, &m->encoder.conv1, &in);
        wan_release(d, in_mark);
    }
    wan_tap(d, &x, "encoder.conv1.chunk%ld", chunk);

    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 2; i++, index++) {
            x = widen(d, &x, &m->encoder.level[l].res[i], encoder_out[l] * dim,
                      s);
            wan_tap(d, &x, "encoder.downsamples.%d.chunk%ld", index, chunk);
        }
        if (l < 3) {
            x = downsample(d, &x, &m->encoder.level[l].down, s);
            wan_tap(d, &x, "encoder.downsamples.%d.chunk%ld", index++, chunk);
        }
    }
    middle(d, &x, &m->encoder.middle, s, "encoder");

    WanTensor h = wan_tmp(d, 1, x.dim[1], x.dim[2], Z), mu = wan_tmp_like(d, &h);
    norm_conv(d, &h, &x, &m->encoder.head_gamma, &m->encoder.head, s, 0);
    wan_tap(d, &h, "encoder.head.2.chunk%ld", chunk);
    wan_op_linear(d, &mu, &h, &m->conv1);
    /* The first 16 channels are the mean; the variance is not used. */
    wan_op_channels_first(d, latent, chunk, &mu, &m->to_std, &m->to_mean);
    s->frames++;
    wan_release(d, mark);
}

const WanCodecFamily wan_codec_vae = {
    .name = "Wan 2.1 VAE", .net_bytes = sizeof(WanVae), .first_group = 1,
    .bind = bind,
    .begin_decode = begin_decode, .decode = decode,
    .begin_encode = begin_encode, .encode = encode,
};
