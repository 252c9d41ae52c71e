/*
 * The causal VAE of Wan 2.1: its weights. The row of the family is
 * wan_codec_vae.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_VAE_H
#define WAN_VAE_H

#include "vae_layers.h"

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
