/*
 * A small picture of what a step foresees.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_PREVIEW_H
#define WAN_PREVIEW_H

#include "codec.h"

#define WAN_PREVIEW_SCALE 2     // pixels of a latent position, each way

/* What a latent position's pixels are made of: its channels and 1. */
#define WAN_PREVIEW_TERMS (WAN_LATENT_CHANNELS + 1)
#define WAN_PREVIEW_VALUES (WAN_PREVIEW_SCALE * WAN_PREVIEW_SCALE * 3)

typedef struct WanPreview {
    const WanCodec *vae;
    int lead;                   // frames in front that are not the clip's
    WanTensor rgb;              // [2h, 2w, 3], -1 to 1: of the last step
    /* Of a VAE that is too slow to be asked at every step, the linear map
     * nearest to it: values in the order row, column, colour. */
    float map[WAN_PREVIEW_VALUES][WAN_PREVIEW_TERMS];
} WanPreview;

/**
 * Reserve the picture, and find the map by decoding a few small latents of
 * noise, always the same ones.
 *
 * @param latent [16, T, h, w], of which pictures will be made
 * @param lead   of its frames those in front that are not the clip's
 */
void wan_preview_begin(WanDev *d, WanPreview *p, const WanCodec *vae,
                       const WanTensor *latent, int lead);

/**
 * The picture of a step: the latent frame in the middle of x - sigma v, the
 * clip as the step foresees it.
 *
 * @param x, v  [16, T, h, w]: what the network was run on, and its answer
 */
void wan_preview_step(WanDev *d, WanPreview *p, const WanTensor *x,
                      const WanTensor *v, double sigma);

/* Bytes of the host's that a step takes for a moment. */
int64_t wan_preview_bytes(int width, int height);

#endif /* WAN_PREVIEW_H */
