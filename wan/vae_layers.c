/*
 * The layers that the causal VAEs are made of, streamed.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Activations are [T, H, W, C], in the backend's type. A causal convolution
 * sees two frames of its own past; streaming keeps them in WanCodecStream, zero
 * at the start, so that a chunk of frames gives what the whole sequence would.
 */

#include <stdio.h>

#include "vae_layers.h"

/* -------------------------------------------------------------- binding */

void wan_vae_bind_conv(WanBinder *b, WanVaeConv *c, const char *prefix,
                       int64_t out, int64_t in, int kt, int ks, int *pasts)
{
    char name[128];

    snprintf(name, sizeof(name), "%s.weight", prefix);
    wan_bind_matrix(b, &c->conv.weight, name, out, in, kt, ks, ks);
    snprintf(name, sizeof(name), "%s.bias", prefix);
    wan_bind_vector(b, &c->conv.bias, name, out);
    c->past = kt > 1 ? (*pasts)++ : -1;
}

void wan_vae_bind_res(WanBinder *b, WanVaeRes *r, const char *prefix,
                      int64_t in, int64_t out, int *pasts)
{
    char name[112];

#define NAME(suffix) (snprintf(name, sizeof(name), "%s." suffix, prefix), name)
    wan_bind_vector(b, &r->gamma[0], NAME("residual.0.gamma"), in);
    wan_vae_bind_conv(b, &r->conv[0], NAME("residual.2"), out, in, 3, 3, pasts);
    wan_bind_vector(b, &r->gamma[1], NAME("residual.3.gamma"), out);
    wan_vae_bind_conv(b, &r->conv[1], NAME("residual.6"), out, out, 3, 3,
                      pasts);
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

void wan_vae_bind_middle(WanBinder *b, WanVaeMiddle *m, const char *prefix,
                         int64_t C, int *pasts)
{
    char name[96];

    snprintf(name, sizeof(name), "%s.0", prefix);
    wan_vae_bind_res(b, &m->res0, name, C, C, pasts);
    snprintf(name, sizeof(name), "%s.1", prefix);
    bind_attn(b, &m->attn, name, C);
    snprintf(name, sizeof(name), "%s.2", prefix);
    wan_vae_bind_res(b, &m->res2, name, C, C, pasts);
}

/* -------------------------------------------------------------- history */

void wan_vae_zero_past(WanDev *d, WanCodecStream *s, const WanVaeConv *c,
                       int frames, int64_t h, int64_t w)
{
    WanTensor *past = &s->past[c->past];

    *past = wan_tmp_act(d, frames, h, w, c->conv.weight.dim[1]);
    wan_op_fill(d, past, 0);
}

void wan_vae_zero_res(WanDev *d, WanCodecStream *s, const WanVaeRes *r,
                      int64_t h, int64_t w)
{
    wan_vae_zero_past(d, s, &r->conv[0], 2, h, w);
    wan_vae_zero_past(d, s, &r->conv[1], 2, h, w);
}

WanTensor wan_vae_causal_input(WanDev *d, WanCodecStream *s,
                               const WanVaeConv *c, int64_t T, WanTensor *now)
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

void wan_vae_remember(WanDev *d, WanCodecStream *s, const WanVaeConv *c,
                      const WanTensor *in)
{
    WanTensor *past = &s->past[c->past];
    const WanTensor last = wan_slice(in, in->dim[0] - past->dim[0],
                                     past->dim[0]);

    wan_op_copy(d, past, &last);
}

/* --------------------------------------------------------------- layers */

void wan_vae_norm_conv(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanTensor *gamma, const WanVaeConv *c,
                       WanCodecStream *s, int add)
{
    const WanMark mark = wan_mark(d);
    WanTensor now, in = wan_vae_causal_input(d, s, c, x->dim[0], &now);

    wan_op_l2_norm(d, &now, x, gamma, WAN_ACT_SILU);
    wan_op_conv(d, y, &in, &c->conv, .add = add, .rows = s->rows);
    wan_vae_remember(d, s, c, &in);
    wan_release(d, mark);
}

void wan_vae_residual(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanVaeRes *r, WanCodecStream *s)
{
    const WanMark mark = wan_mark(d);
    WanTensor mid = wan_tmp_like(d, y);

    wan_vae_norm_conv(d, &mid, x, &r->gamma[0], &r->conv[0], s, 0);
    if (r->shortcut.weight.nb_dims)
        wan_op_linear(d, y, x, &r->shortcut);
    wan_vae_norm_conv(d, y, &mid, &r->gamma[1], &r->conv[1], s, 1);
    wan_release(d, mark);
}

/* x += proj softmax(q k^T / sqrt(C)) v, frame by frame */
static void attention(WanDev *d, WanTensor *x, const WanVaeAttn *a,
                      const WanCodecStream *s)
{
    const int64_t w = x->dim[2], n = x->dim[1] * w, C = x->dim[3];

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
        wan_op_attention(d, &h, &q, &k, &v, .heads = 1, .rows = s->rows * w,
                         .lot = w);
        wan_op_linear(d, &xt, &h, &a->proj, .add = 1);
        wan_release(d, mark);
    }
}

WanTensor wan_vae_double_time(WanDev *d, const WanTensor *x,
                              const WanVaeConv *c, WanCodecStream *s)
{
    const int64_t T = x->dim[0], H = x->dim[1], W = x->dim[2], C = x->dim[3];
    WanTensor y = wan_tmp_act(d, 2 * T, H, W, C);
    const WanMark mark = wan_mark(d);
    WanTensor both = wan_tmp_act(d, T, H, W, 2 * C);
    WanTensor now, in = wan_vae_causal_input(d, s, c, T, &now);

    wan_op_copy(d, &now, x);
    wan_op_conv(d, &both, &in, &c->conv);
    wan_vae_remember(d, s, c, &in);
    for (int64_t t = 0; t < 2 * T; t++) {
        const WanTensor from = wan_slice(&both, t / 2, 1);
        const WanTensor half = wan_columns(&from, t % 2 * C, C);
        WanTensor to = wan_slice(&y, t, 1);

        wan_op_copy(d, &to, &half);
    }
    wan_release(d, mark);
    return y;
}

void wan_vae_middle(WanDev *d, WanTensor *x, const WanVaeMiddle *m,
                    WanCodecStream *s, const char *side)
{
    const long chunk = (long)s->frames;

    wan_vae_residual(d, x, x, &m->res0, s);
    wan_tap(d, x, "%s.middle.0.chunk%ld", side, chunk);
    attention(d, x, &m->attn, s);
    wan_tap(d, x, "%s.middle.1.chunk%ld", side, chunk);
    wan_vae_residual(d, x, x, &m->res2, s);
    wan_tap(d, x, "%s.middle.2.chunk%ld", side, chunk);
}

WanTensor wan_vae_widen(WanDev *d, const WanTensor *x, const WanVaeRes *r,
                        int64_t width, WanCodecStream *s)
{
    WanTensor y = *x;

    if (r->shortcut.weight.nb_dims)
        y = wan_tmp_act(d, x->dim[0], x->dim[1], x->dim[2], width);
    wan_vae_residual(d, &y, x, r, s);
    return y;
}
