/*
 * The layers that the causal VAEs of Wan 2.1 and 2.2 are made of.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_VAE_LAYERS_H
#define WAN_VAE_LAYERS_H

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
    WanVaeConv resample;                // [C, C, 1, 3, 3]; 2.1: half the rows
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

/* Bind by the checkpoint's names; *pasts counts the slots of the history. */
void wan_vae_bind_conv(WanBinder *b, WanVaeConv *c, const char *prefix,
                       int64_t out, int64_t in, int kt, int ks, int *pasts);
void wan_vae_bind_res(WanBinder *b, WanVaeRes *r, const char *prefix,
                      int64_t in, int64_t out, int *pasts);
void wan_vae_bind_middle(WanBinder *b, WanVaeMiddle *m, const char *prefix,
                         int64_t C, int *pasts);

/* Take what a layer remembers of inputs of h x w from the arena: zeros. */
void wan_vae_zero_past(WanDev *d, WanCodecStream *s, const WanVaeConv *c,
                       int frames, int64_t h, int64_t w);
void wan_vae_zero_res(WanDev *d, WanCodecStream *s, const WanVaeRes *r,
                      int64_t h, int64_t w);

/* Input of a causal convolution: [P + T, H, W, C], its P frames of the past
 * in front (2; 1 where time is halved); the caller fills the T frames of *now
 * and then calls wan_vae_remember(). */
WanTensor wan_vae_causal_input(WanDev *d, WanCodecStream *s,
                               const WanVaeConv *c, int64_t T, WanTensor *now);
void wan_vae_remember(WanDev *d, WanCodecStream *s, const WanVaeConv *c,
                      const WanTensor *in);

/* y = conv(silu(rms(x) * gamma)), causal; with add: y += */
void wan_vae_norm_conv(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanTensor *gamma, const WanVaeConv *c,
                       WanCodecStream *s, int add);

/* y = shortcut(x) + conv1(conv0(x)), each conv behind its norm; y may be x
 * when there is no shortcut */
void wan_vae_residual(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanVaeRes *r, WanCodecStream *s);

/* The same in place, or into new memory where it widens: the result. */
WanTensor wan_vae_widen(WanDev *d, const WanTensor *x, const WanVaeRes *r,
                        int64_t width, WanCodecStream *s);

/* side: for taps, "decoder" or "encoder". */
void wan_vae_middle(WanDev *d, WanTensor *x, const WanVaeMiddle *m,
                    WanCodecStream *s, const char *side);

/* Twice the frames: [a1, b1, a2, b2, ...] where the convolution's first C
 * channels are the a and the others the b. Not for the stream's first frame. */
WanTensor wan_vae_double_time(WanDev *d, const WanTensor *x,
                              const WanVaeConv *c, WanCodecStream *s);

#endif /* WAN_VAE_LAYERS_H */
