/*
 * The causal VAE: latent frames to pixel frames and back, chunk by chunk.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_VAE_H
#define WAN_VAE_H

#include "config.h"
#include "ops.h"

/* Causal convolutions of the decoder that remember their last two inputs:
 * conv1, middle 2 x 2, 12 residual blocks x 2, 2 time_convs, head. */
#define WAN_VAE_DECODER_PASTS 32

/* And of the encoder: conv1, 8 residual blocks x 2, middle 2 x 2, head; the
 * two time_convs remember one frame. */
#define WAN_VAE_ENCODER_PASTS 24

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
    WanTensor one, zero;                // [3]: pixels go in as they are
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

/* Bind what decoding needs, and with encoder != 0 what encoding does; the
 * binder's error. mean and std come from the binder's pool. */
int wan_vae_bind(WanVae *m, const WanVaeConfig *config, int encoder,
                 WanBinder *b);

/* A stream in one direction: the history of every causal convolution. */
typedef struct WanVaeStream {
    WanTensor past[WAN_VAE_DECODER_PASTS];  // [2 or 1, h, w, C] at their level
    int64_t frames;                     // latent frames done so far
} WanVaeStream;

/* Take the histories of a latent of h x w from the arena, all zero. */
void wan_vae_stream(WanDev *d, WanVaeStream *s, const WanVae *m,
                    int64_t h, int64_t w);

/**
 * Decode the stream's next latent frame.
 *
 * @param rgb    [1, 8h, 8w, 3] for the first frame, then [4, 8h, 8w, 3]; not
 *               clamped
 * @param latent [16, T, h, w] as sampled; frame s->frames is read
 */
void wan_vae_decode(WanDev *d, WanTensor *rgb, const WanVae *m,
                    WanVaeStream *s, const WanTensor *latent);

/* The same for encoding pixels of H x W. */
void wan_vae_encode_stream(WanDev *d, WanVaeStream *s, const WanVae *m,
                           int64_t H, int64_t W);

/**
 * Encode the stream's next group of frames.
 *
 * @param latent [16, T, H/8, W/8], normalised; frame s->frames is written
 * @param rgb    [1, H, W, 3] for the first group, then [4, H, W, 3]; -1 to 1
 */
void wan_vae_encode(WanDev *d, WanTensor *latent, const WanVae *m,
                    WanVaeStream *s, const WanTensor *rgb);

#endif /* WAN_VAE_H */
