/*
 * The visual tower of CLIP ViT-H/14: an image to tokens.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CLIP_H
#define WAN_CLIP_H

#include "config.h"
#include "dit.h"

typedef struct WanClipBlock {
    WanNorm norm1, norm2;
    struct { WanLinear q, k, v, proj; } attn;   // to_qkv's three parts
    WanLinear mlp[2];                           // .0 [mlp, C], .2 [C, mlp]
} WanClipBlock;

typedef struct WanClip {
    WanClipConfig config;
    WanLinear patch_embedding;          // [C, 3, 14, 14], no bias
    WanTensor cls_embedding;            // [1, C]
    WanTensor pos_embedding;            // [257, C]
    WanNorm pre_norm;
    WanClipBlock *blocks;               // those that are run
} WanClip;

/* Bind; WAN_ERR(ENOMEM) or the binder's error. Free in any case. */
int wan_clip_bind(WanClip *m, const WanClipConfig *config, WanBinder *b);
void wan_clip_free(WanClip *m);

/**
 * The tokens of an image before the tower's last block.
 *
 * @param y     [257, C]
 * @param image [3, h, w] dense, R G B in [-1, 1], of any size; it is squeezed
 *              to 224 x 224 whatever its shape, as the reference does
 */
void wan_clip_encode(WanDev *d, WanTensor *y, const WanClip *m,
                     const WanTensor *image);

#endif /* WAN_CLIP_H */
