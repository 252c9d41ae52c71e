/*
 * VACE: control videos, masks and references as contexts of the transformer.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * F frames of a video V and a mask M, 1 where something new is made, and n
 * references become [96, n + T, h, w]: the latents of V (1 - M) and V M, 16
 * channels each, and M, each pixel of a position a channel. The references are
 * frames in front; so the latent that is sampled has as many more. This is a
 * row of condition.c; its functions are called by the driver through that.
 */

#ifndef WAN_VACE_H
#define WAN_VACE_H

#include "model.h"

/* A control of the request. Pixels are the host's; NULL until they are read,
 * and again once they are encoded. */
typedef struct WanVaceControl {
    int number;                     // of the request's
    int has_video, has_mask;        // else all is 0, all is made anew
    float *video;                   // [F, 3, H, W], -1 to 1
    float *mask;                    // [F, H, W], 0 to 1
    float *references;              // [n, 3, H, W], on their canvas
} WanVaceControl;

typedef struct WanVace {
    int nb;                         // contexts that count
    int references;                 // n, of each
    WanVaceControl control[WAN_CONTROLS];
    double scale[WAN_CONTROLS];
    WanTensor latent;               // [16, T, h, w] of what is being encoded
    WanDitVace context[WAN_CONTROLS];
} WanVace;

struct WanCondition;

int wan_vace_check(const WanRequest *r, const WanModel *m);
void wan_vace_init(struct WanCondition *c, const WanRequest *r);
int64_t wan_vace_bytes(const struct WanCondition *c);
int wan_vace_read(struct WanCondition *c, const WanRequest *r);
void wan_vace_free(struct WanCondition *c);
void wan_vace_reserve(struct WanCondition *c, WanDev *d,
                      const WanTensor *latent);
int wan_vace_units(const struct WanCondition *c);
void wan_vace_encode(struct WanCondition *c, WanDev *d, int i);
void wan_vace_begin_steps(struct WanCondition *c, WanDev *d,
                          const WanDit *dit);

#endif /* WAN_VACE_H */
