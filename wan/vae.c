/*
 * The causal VAE decoder, streamed.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Activations are [T, H, W, C]. A causal convolution sees two frames of its
 * own past; streaming keeps them in WanVaeStream, zero at the start, so that
 * a chunk of frames gives what the whole sequence would.
 */

#include <stdio.h>
#include <string.h>

#include "vae.h"

/* Latent statistics of Wan 2.1, per channel; the same in every checkpoint. */
static const float latent_mean[WAN_LATENT_CHANNELS] = {
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
};
static const float latent_std[WAN_LATENT_CHANNELS] = {
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
};

/* Widths of the decoder in units of the base: in and out of each level's
 * residual blocks. An Up halves its level's width. */
static const int level_in[4] = { 4, 2, 2, 1 }, level_out[4] = { 4, 4, 2, 1 };

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

/* A table of 16 numbers of ours, where the model's own vectors live. */
static WanTensor constant(WanBinder *b, const float *v)
{
    float *p = wan_pool_alloc(b->pool, WAN_LATENT_CHANNELS * sizeof(*p));

    if (!p) {
        b->error = b->error ? b->error : WAN_ERR(ENOMEM);
        return (WanTensor){ 0 };
    }
    memcpy(p, v, WAN_LATENT_CHANNELS * sizeof(*p));
    return wan_tensor_of(p, WAN_F32, WAN_LATENT_CHANNELS);
}

int wan_vae_bind(WanVae *m, const WanVaeConfig *c, WanBinder *b)
{
    const int64_t dim = c->dim, Z = WAN_LATENT_CHANNELS;
    char name[96];
    int pasts = 0, index = 0;   // of decoder.upsamples

    m->config = *c;
    m->mean = constant(b, latent_mean);
    m->std = constant(b, latent_std);
    wan_bind_linear(b, &m->conv2, "conv2", Z, Z, 1);
    bind_conv(b, &m->decoder.conv1, "decoder.conv1", 4 * dim, Z, 3, 3, &pasts);
    bind_res(b, &m->decoder.middle.res0, "decoder.middle.0", 4 * dim, 4 * dim,
             &pasts);
    bind_attn(b, &m->decoder.middle.attn, "decoder.middle.1", 4 * dim);
    bind_res(b, &m->decoder.middle.res2, "decoder.middle.2", 4 * dim, 4 * dim,
             &pasts);

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
    return wan_binder_end(b);
}

/* -------------------------------------------------------------- history */

static void zero_past(WanDev *d, WanVaeStream *s, const WanVaeConv *c,
                      int64_t h, int64_t w)
{
    WanTensor *past = &s->past[c->past];

    *past = wan_tmp(d, 2, h, w, c->conv.weight.dim[1]);
    wan_op_fill(d, past, 0);
}

static void zero_res(WanDev *d, WanVaeStream *s, const WanVaeRes *r,
                     int64_t h, int64_t w)
{
    zero_past(d, s, &r->conv[0], h, w);
    zero_past(d, s, &r->conv[1], h, w);
}

void wan_vae_stream(WanDev *d, WanVaeStream *s, const WanVae *m,
                    int64_t h, int64_t w)
{
    wan_section(d, "decoder history");
    s->frames = 0;
    zero_past(d, s, &m->decoder.conv1, h, w);
    zero_res(d, s, &m->decoder.middle.res0, h, w);
    zero_res(d, s, &m->decoder.middle.res2, h, w);
    for (int l = 0; l < 4; l++, h *= 2, w *= 2) {
        for (int i = 0; i < 3; i++)
            zero_res(d, s, &m->decoder.level[l].res[i], h, w);
        if (l < 2)
            zero_past(d, s, &m->decoder.level[l].up.time_conv, h, w);
        if (l == 3)
            zero_past(d, s, &m->decoder.head, h, w);
    }
}

/* Input of a causal convolution: [2 + T, H, W, C], the past in front; the
 * caller fills the T frames of *now and then calls remember(). */
static WanTensor causal_input(WanDev *d, WanVaeStream *s, const WanVaeConv *c,
                              int64_t T, WanTensor *now)
{
    const WanTensor *past = &s->past[c->past];
    WanTensor in = wan_tmp(d, 2 + T, past->dim[1], past->dim[2], past->dim[3]);
    WanTensor before = wan_slice(&in, 0, 2);

    wan_op_copy(d, &before, past);
    *now = wan_slice(&in, 2, T);
    return in;
}

static void remember(WanDev *d, WanVaeStream *s, const WanVaeConv *c,
                     const WanTensor *in)
{
    const WanTensor last = wan_slice(in, in->dim[0] - 2, 2);

    wan_op_copy(d, &s->past[c->past], &last);
}

/* --------------------------------------------------------------- layers */

/* y = conv(silu(rms(x) * gamma)), causal; with add: y += */
static void norm_conv(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanTensor *gamma, const WanVaeConv *c,
                      WanVaeStream *s, int add)
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
                     const WanVaeRes *r, WanVaeStream *s)
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
        WanTensor h = wan_tmp(d, n, C), qkv = wan_tmp(d, n, 3 * C);
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
                             const WanVaeConv *c, WanVaeStream *s)
{
    const int64_t T = x->dim[0], H = x->dim[1], W = x->dim[2], C = x->dim[3];
    WanTensor y = wan_tmp(d, 2 * T, H, W, C);
    const WanMark mark = wan_mark(d);
    WanTensor both = wan_tmp(d, T, H, W, 2 * C);
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
                          WanVaeStream *s, int index)
{
    WanTensor t = *x, y;

    if (up->time_conv.conv.weight.nb_dims && s->frames > 0) {
        t = double_time(d, x, &up->time_conv, s);
        wan_tap(d, &t, "decoder.upsamples.%d.time", index);
    }
    y = wan_tmp(d, t.dim[0], 2 * t.dim[1], 2 * t.dim[2], t.dim[3] / 2);
    wan_op_conv(d, &y, &t, &up->resample.conv, .upsample = 2);
    return y;
}

void wan_vae_decode(WanDev *d, WanTensor *rgb, const WanVae *m,
                    WanVaeStream *s, const WanTensor *latent)
{
    const int64_t h = latent->dim[2], w = latent->dim[3], Z = latent->dim[0];
    const int64_t dim = m->config.dim;
    const long chunk = (long)s->frames;
    const WanMark mark = wan_mark(d);
    WanTensor x = wan_tmp(d, 1, h, w, 4 * dim);
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

    residual(d, &x, &x, &m->decoder.middle.res0, s);
    wan_tap(d, &x, "decoder.middle.0.chunk%ld", chunk);
    attention(d, &x, &m->decoder.middle.attn);
    wan_tap(d, &x, "decoder.middle.1.chunk%ld", chunk);
    residual(d, &x, &x, &m->decoder.middle.res2, s);
    wan_tap(d, &x, "decoder.middle.2.chunk%ld", chunk);

    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 3; i++, index++) {
            const WanVaeRes *r = &m->decoder.level[l].res[i];
            WanTensor y = x;

            if (r->shortcut.weight.nb_dims)
                y = wan_tmp(d, x.dim[0], x.dim[1], x.dim[2],
                            level_out[l] * dim);
            residual(d, &y, &x, r, s);
            x = y;
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
