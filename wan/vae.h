/*
 * The causal VAE of Wan 2.1: its weights. The row of the family is
 * wan_codec_vae.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_VAE_H
#define WAN_VAE_H

#include "vae_layers.h"

/* The tensors of Wan 2.1's VAE and of 2.2's, C latent channels. Of 2.2 the names
 * are encoder.downsamples.L.downsamples.K, decoder.upsamples.L.upsamples.K; the
 * last K is down or up. */
typedef struct WanVae {
    WanVaeConfig config;
    WanTensor mean, std;                // [C] f32: latent = (mu - mean) / std
    WanTensor to_mean, to_std;          // the way back: x / std - mean / std
    WanLinear conv1, conv2;             // [2C, 2C] encoding, [C, C] decoding
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
