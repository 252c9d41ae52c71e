/*
 * The causal VAE of Wan 2.2 (TI2V-5B): its weights. The row of the family is
 * wan_codec_vae22.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_VAE22_H
#define WAN_VAE22_H

#include "vae_layers.h"

#define WAN_VAE22_CHANNELS 48
#define WAN_VAE22_FOLDED 12     // channels of 2 x 2 pixels

/* Names: encoder.downsamples.L.downsamples.K, decoder.upsamples.L.upsamples.K;
 * the last K is down or up. */
typedef struct WanVae22 {
    WanVaeConfig config;
    WanTensor mean, std;                // [48] f32: latent = (mu - mean) / std
    WanTensor to_mean, to_std;          // the way back: x / std - mean / std
    WanLinear conv1, conv2;             // [96, 96] encoding, [48, 48] decoding
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
} WanVae22;

#endif /* WAN_VAE22_H */
