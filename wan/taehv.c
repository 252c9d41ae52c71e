/*
 * TAEHV: a decoder and an encoder of 3x3 convolutions, a 25th of the VAE's work
 * and a 15th of its memory, streamed in both directions.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Activations are [T, H, W, C]. What is remembered of a frame is the input of
 * each of the nine Mem blocks, zero at the start.
 */

#include <stdio.h>

#include "taehv.h"

/* Frames that one becomes behind each level of the decoder, and that become
 * one before each of the encoder. */
static const int grow[WAN_TAEHV_LEVELS] = { 1, 2, 2 };
static const int pool[WAN_TAEHV_LEVELS] = { 2, 2, 1 };

/* Frames that the first latent frame gives before the clip's first one. */
#define DROPPED 3

/* -------------------------------------------------------------- binding */

#define NAME(...) (snprintf(name, sizeof(name), __VA_ARGS__), name)

static void bind_conv(WanBinder *b, WanConv *c, const char *prefix,
                      int64_t out, int64_t in)
{
    char name[64];

    wan_bind_matrix(b, &c->weight, NAME("%s.weight", prefix), out, in, 1, 3, 3);
    wan_bind_vector(b, &c->bias, NAME("%s.bias", prefix), out);
}

/* A convolution that has no bias in the file: all convolutions have one. */
static void bind_bare_conv(WanBinder *b, WanConv *c, const char *prefix,
                           int64_t out, int64_t in)
{
    static const float zero[WAN_TAEHV_MAX_WIDTH];
    char name[64];

    wan_bind_matrix(b, &c->weight, NAME("%s.weight", prefix), out, in, 1, 3, 3);
    c->bias = wan_codec_constant(b, (int)out, zero, NULL);
}

static void bind_mems(WanBinder *b, WanTaehvMem *mem, const char *side,
                      int index, int64_t C)
{
    char name[48];

    for (int i = 0; i < WAN_TAEHV_MEMS; i++)
        for (int k = 0; k < 3; k++)
            bind_conv(b, &mem[i].conv[k],
                      NAME("%s.%d.conv.%d", side, index + i, 2 * k), C,
                      k ? C : 2 * C);
}

/* The last n * C of the stored rows, one matrix for each of n frames. */
static void bind_grow(WanBinder *b, WanLinear *frame, int n,
                      const char *prefix, int64_t rows, int64_t C)
{
    WanLinear all;

    wan_bind_linear(b, &all, prefix, rows, C, 0);
    for (int j = 0; j < n; j++) {
        const int64_t row = rows + (j - n) * C;

        frame[j] = all;
        frame[j].weight = wan_slice(&all.weight, row, C);
        if (wan_count(&all.scale) > 1)
            frame[j].scale = wan_slice(&all.scale, row, C);
    }
}

static void bind_decoder(WanTaehv *m, WanBinder *b)
{
    const WanVaeConfig *c = &m->config;
    char name[48];
    int index = 3;              // of decoder: 6 layers a level

    bind_conv(b, &m->decoder.conv_in, "decoder.1", c->width[0],
              WAN_LATENT_CHANNELS);
    for (int l = 0; l < WAN_TAEHV_LEVELS; l++, index += 6) {
        bind_mems(b, m->decoder.level[l].mem, "decoder", index, c->width[l]);
        bind_grow(b, m->decoder.level[l].grow, grow[l],
                  NAME("decoder.%d.conv", index + 4), c->grow_rows[l],
                  c->width[l]);
        bind_bare_conv(b, &m->decoder.level[l].conv,
                       NAME("decoder.%d", index + 5), c->width[l + 1],
                       c->width[l]);
    }
    bind_conv(b, &m->decoder.conv_out, "decoder.22", 3,
              c->width[WAN_TAEHV_LEVELS]);
}

static void bind_encoder(WanTaehv *m, WanBinder *b)
{
    const int64_t C = m->config.dim;
    char name[48];
    int index = 2;              // of encoder: 5 layers a level

    bind_conv(b, &m->encoder.conv_in, "encoder.0", C, 3);
    for (int l = 0; l < WAN_TAEHV_LEVELS; l++, index += 5) {
        wan_bind_linear(b, &m->encoder.level[l].pool,
                        NAME("encoder.%d.conv", index), C, pool[l] * C, 0);
        bind_bare_conv(b, &m->encoder.level[l].conv,
                       NAME("encoder.%d", index + 1), C, C);
        bind_mems(b, m->encoder.level[l].mem, "encoder", index + 2, C);
    }
    bind_conv(b, &m->encoder.conv_out, "encoder.17", WAN_LATENT_CHANNELS, C);
}

static int bind(void *net, const WanVaeConfig *c, int encoder, WanBinder *b)
{
    static const float two[3] = { 2, 2, 2 }, half[3] = { 0.5f, 0.5f, 0.5f };
    WanTaehv *m = net;

    m->config = *c;
    wan_codec_scales(b, WAN_LATENT_CHANNELS,
                     c->scaled ? wan_codec_mean : NULL,
                     c->scaled ? wan_codec_std : NULL, &m->to_net,
                     &m->to_net_shift, &m->from_net, &m->from_net_shift);
    m->two = wan_codec_constant(b, 3, two, NULL);
    m->half = wan_codec_constant(b, 3, half, NULL);
    bind_decoder(m, b);
    if (encoder)
        bind_encoder(m, b);
    return wan_binder_end(b);
}

/* --------------------------------------------------------------- layers */

static void begin(WanDev *d, WanTensor *past, int64_t h, int64_t w, int64_t C)
{
    for (int i = 0; i < WAN_TAEHV_MEMS; i++) {
        past[i] = wan_tmp_act(d, 1, h, w, C);
        wan_op_fill(d, &past[i], 0);
    }
}

/* In place; past [1, H, W, C] becomes the last frame of x. rows as of conv. */
static void remembering(WanDev *d, WanTensor *x, const WanTaehvMem *m,
                        WanTensor *past, int64_t rows)
{
    const WanMark mark = wan_mark(d);
    const int64_t T = x->dim[0], C = x->dim[3];
    const WanTensor last = wan_slice(x, T - 1, 1);
    WanTensor in = wan_tmp_act(d, T, x->dim[1], x->dim[2], 2 * C);
    WanTensor a = wan_tmp_like(d, x), b = wan_tmp_like(d, x);

    for (int64_t t = 0; t < T; t++) {
        const WanTensor frame = wan_slice(&in, t, 1);
        const WanTensor now = wan_slice(x, t, 1);
        const WanTensor before = t ? wan_slice(x, t - 1, 1) : *past;
        WanTensor first = wan_columns(&frame, 0, C);
        WanTensor second = wan_columns(&frame, C, C);

        wan_op_copy(d, &first, &now);
        wan_op_copy(d, &second, &before);
    }
    wan_op_copy(d, past, &last);
    wan_op_conv(d, &a, &in, &m->conv[0], .act = WAN_ACT_RELU, .rows = rows);
    wan_op_conv(d, &b, &a, &m->conv[1], .act = WAN_ACT_RELU, .rows = rows);
    wan_op_conv(d, x, &b, &m->conv[2], .add = 1, .act = WAN_ACT_RELU,
                .rows = rows);
    wan_release(d, mark);
}

/* ------------------------------------------------------------- decoding */

static void begin_decode(WanDev *d, WanCodecStream *s, const void *net,
                         int64_t h, int64_t w)
{
    const WanTaehv *m = net;

    wan_section(d, "decoder history");
    s->frames = 0;
    for (int l = 0; l < WAN_TAEHV_LEVELS; l++, h *= 2, w *= 2)
        begin(d, &s->past[l * WAN_TAEHV_MEMS], h, w, m->config.width[l]);
}

/* What is left of a level behind its blocks: frame `frame` of those that x
 * [T, h, w, C] becomes, as y [1, 2h, 2w, C']. The 1x1 kernel that makes frames
 * comes behind the upsampling in the paper's order; it is the same before. */
static void grow_frame(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanLinear *kernel, int n, const WanConv *conv,
                       int64_t frame, WanAct act, int64_t rows)
{
    const WanMark mark = wan_mark(d);
    const WanTensor from = wan_slice(x, frame / n, 1);
    WanTensor g = wan_tmp_like(d, &from);

    wan_op_linear(d, &g, &from, &kernel[frame % n]);
    wan_op_conv(d, y, &g, conv, .upsample = 2, .act = act, .rows = rows);
    wan_release(d, mark);
}

/* rgb frame = 2 conv(x) - 1 */
static void to_rgb(WanDev *d, WanTensor *rgb, const WanTensor *x,
                   const WanTaehv *m, int64_t rows)
{
    const WanMark mark = wan_mark(d);
    WanTensor v = wan_tmp_act(d, 1, x->dim[1], x->dim[2], 3);

    wan_op_conv(d, &v, x, &m->decoder.conv_out, .rows = rows);
    wan_op_fill(d, rgb, -1);
    wan_op_gate_add(d, rgb, &v, &m->two);
    wan_release(d, mark);
}

static void decode(WanDev *d, WanTensor *rgb, const void *net,
                   WanCodecStream *s, const WanTensor *latent)
{
    const WanTaehv *m = net;
    const int64_t *width = m->config.width;
    const int64_t h = latent->dim[2], w = latent->dim[3];
    const WanMark mark = wan_mark(d);
    WanTensor z = wan_tmp(d, 1, h, w, WAN_LATENT_CHANNELS);
    WanTensor x = wan_tmp_act(d, 1, wan_codec_share(d, s, h).n, w, width[0]);

    wan_section(d, "decode frame %ld", (long)s->frames);
    wan_op_channels_last(d, &z, latent, wan_codec_at(s), &m->to_net,
                         &m->to_net_shift);
    z = wan_codec_own(d, s, &z);
    wan_op_act(d, &z, &z, WAN_ACT_TANH3);
    wan_op_conv(d, &x, &z, &m->decoder.conv_in, .act = WAN_ACT_RELU,
                .rows = s->rows);

    for (int l = 0;; l++) {
        for (int i = 0; i < WAN_TAEHV_MEMS; i++)
            remembering(d, &x, &m->decoder.level[l].mem[i],
                        &s->past[l * WAN_TAEHV_MEMS + i], s->rows);
        if (l == WAN_TAEHV_LEVELS - 1)
            break;
        WanTensor y = wan_tmp_act(d, x.dim[0] * grow[l], 2 * x.dim[1],
                                  2 * x.dim[2], width[l + 1]);

        for (int64_t t = 0; t < y.dim[0]; t++) {
            WanTensor frame = wan_slice(&y, t, 1);

            grow_frame(d, &frame, &x, m->decoder.level[l].grow, grow[l],
                       &m->decoder.level[l].conv, t, WAN_ACT_NONE, s->rows);
        }
        x = y;
    }
    /* Behind the last block frames are each for itself: those that nobody
     * sees are not made. */
    for (int64_t t = 0; t < rgb->dim[0]; t++) {
        const int last = WAN_TAEHV_LEVELS - 1;
        const WanMark frame_mark = wan_mark(d);
        WanTensor out = wan_slice(rgb, t, 1);
        WanTensor y = wan_tmp_act(d, 1, 2 * x.dim[1], 2 * x.dim[2],
                                  width[last + 1]);

        grow_frame(d, &y, &x, m->decoder.level[last].grow, grow[last],
                   &m->decoder.level[last].conv, s->frames ? t : t + DROPPED,
                   WAN_ACT_RELU, s->rows);
        to_rgb(d, &out, &y, m, s->rows);
        wan_release(d, frame_mark);
    }
    s->frames++;
    wan_release(d, mark);
}

/* ------------------------------------------------------------- encoding */

static void begin_encode(WanDev *d, WanCodecStream *s, const void *net,
                         int64_t H, int64_t W)
{
    const WanTaehv *m = net;

    wan_section(d, "encoder history");
    s->frames = 0;
    for (int l = 0; l < WAN_TAEHV_LEVELS; l++) {
        H /= 2;
        W /= 2;
        begin(d, &s->past[l * WAN_TAEHV_MEMS], H, W, m->config.dim);
    }
}

/* y [T, H/2, W/2, C] = conv(pool(n frames of x, channels side by side)), one
 * by one. */
static void shrink(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                   const WanLinear *kernel, const WanConv *conv)
{
    const int64_t H = x->dim[1], W = x->dim[2], C = x->dim[3];

    for (int64_t t = 0; t < y->dim[0]; t++) {
        const WanMark mark = wan_mark(d);
        WanTensor out = wan_slice(y, t, 1);
        WanTensor stack = wan_tmp_act(d, 1, H, W, n * C);
        WanTensor pooled = wan_tmp_act(d, 1, H, W, C);

        for (int k = 0; k < n; k++) {
            const WanTensor from = wan_slice(x, t * n + k, 1);
            WanTensor to = wan_columns(&stack, k * C, C);

            wan_op_copy(d, &to, &from);
        }
        wan_op_linear(d, &pooled, &stack, kernel);
        wan_op_conv(d, &out, &pooled, conv, .stride = 2, .centre = 1);
        wan_release(d, mark);
    }
}

static void encode(WanDev *d, WanTensor *latent, const void *net,
                   WanCodecStream *s, const WanTensor *rgb)
{
    const WanTaehv *m = net;
    const int64_t T = rgb->dim[0], H = rgb->dim[1], W = rgb->dim[2];
    const int64_t C = m->config.dim;
    const WanMark mark = wan_mark(d);
    WanTensor in = wan_tmp(d, T, H, W, 3), x = wan_tmp_act(d, T, H, W, C);

    wan_section(d, "encode group %ld", (long)s->frames);
    wan_op_fill(d, &in, 0.5f);
    wan_op_gate_add(d, &in, rgb, &m->half);
    wan_op_conv(d, &x, &in, &m->encoder.conv_in, .act = WAN_ACT_RELU);
    for (int l = 0; l < WAN_TAEHV_LEVELS; l++) {
        WanTensor y = wan_tmp_act(d, x.dim[0] / pool[l], x.dim[1] / 2,
                                  x.dim[2] / 2, C);

        shrink(d, &y, &x, pool[l], &m->encoder.level[l].pool,
               &m->encoder.level[l].conv);
        for (int i = 0; i < WAN_TAEHV_MEMS; i++)
            remembering(d, &y, &m->encoder.level[l].mem[i],
                        &s->past[l * WAN_TAEHV_MEMS + i], 0);
        x = y;
    }
    WanTensor z = wan_tmp(d, 1, x.dim[1], x.dim[2], WAN_LATENT_CHANNELS);
    wan_op_conv(d, &z, &x, &m->encoder.conv_out);
    wan_op_channels_first(d, latent, wan_codec_at(s), &z, &m->from_net,
                          &m->from_net_shift);
    s->frames++;
    wan_release(d, mark);
}

const WanCodecFamily wan_codec_taehv = {
    .name = "TAEHV", .net_bytes = sizeof(WanTaehv),
    .channels = WAN_LATENT_CHANNELS, .stride = WAN_SPACE_STRIDE,
    .quick = 1, .first_group = WAN_TIME_STRIDE,
    .bind = bind,
    .begin_decode = begin_decode, .decode = decode,
    .begin_encode = begin_encode, .encode = encode,
};
