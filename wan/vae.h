/*
 * The causal VAE of Wan 2.1: its weights. The row of the family is
 * wan_codec_vae.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_VAE_H
#define WAN_VAE_H

#include "codec.h"

/* Causal convolutions remember their last two inputs. Of the decoder 32: conv1,
 * middle 2 x 2, 12 residual blocks x 2, 2 time_convs, head. Of the encoder 24:
 * conv1, 8 residual blocks x 2, middle 2 x 2, head; its two time_convs
 * remember one frame. */

/* A convolution; past is its slot in the stream's history, -1: none. */
typedef struct WanVaeConv {
    WanConv conv;
    int past;
} WanVaeConv;

/* out = shortcut(x) + conv[1](silu(rms(conv[0](silu(rms(x)))))) */
typedef struct WanVaeRes {
    WanTensor gamma[2];                 // residual.0, residual.3
    WanVaeConv conv[2];                 // residual.2, residual.6
    WanLinear shortcut;                 // absent when the width stays
} WanVaeRes;

/* One single-head attention over the positions of a frame. */
typedef struct WanVaeAttn {
    WanTensor gamma;                    // norm
    WanLinear to_qkv, proj;             // [3C, C], [C, C]
} WanVaeAttn;

/* Twice the rows and columns, and with time_conv twice the frames. */
typedef struct WanVaeUp {
    WanVaeConv time_conv;               // [2C, C, 3, 1, 1]; absent: not 3-D
    WanVaeConv resample;                // [C / 2, C, 1, 3, 3]
} WanVaeUp;

/* Half the rows and columns, and with time_conv half the frames. */
typedef struct WanVaeDown {
    WanVaeConv resample;                // [C, C, 1, 3, 3]
    WanVaeConv time_conv;               // [C, C, 3, 1, 1]; absent: not 3-D
} WanVaeDown;

typedef struct WanVaeMiddle {
    WanVaeRes res0;
    WanVaeAttn attn;
    WanVaeRes res2;
} WanVaeMiddle;

typedef struct WanVae {
    WanVaeConfig config;
    WanTensor mean, std;                // [16] f32: latent = (mu - mean) / std
    WanTensor to_mean, to_std;          // the way back: x / std - mean / std
    WanLinear conv1, conv2;             // [32, 32] encoding, [16, 16] decoding
    struct {
        WanVaeConv conv1;
        WanVaeMiddle middle;
        struct { WanVaeRes res[3]; WanVaeUp up; } level[4]; // no up in the last
        WanTensor head_gamma;
        WanVaeConv head;
    } decoder;
    struct {                            // bound on request
        WanVaeConv conv1;
        struct { WanVaeRes res[2]; WanVaeDown down; } level[4];
        WanVaeMiddle middle;
        WanTensor head_gamma;
        WanVaeConv head;
    } encoder;
} WanVae;

#endif /* WAN_VAE_H */
