/*
 * The UMT5 text encoder.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_T5_H
#define WAN_T5_H

#include "config.h"
#include "ops.h"

/* The checkpoint's words; no biases anywhere. */
typedef struct WanT5Block {
    WanTensor norm1, norm2;             // [D] gains
    struct { WanLinear q, k, v, o; } attn;
    WanTensor pos_embedding;            // [32, heads]
    struct { WanLinear gate, fc1, fc2; } ffn;
} WanT5Block;

typedef struct WanT5 {
    WanT5Config config;
    WanTensor token_embedding;          // [vocab, D] as stored
    WanT5Block *blocks;
    WanTensor norm;                     // [D]
} WanT5;

/* Bind all tensors; WAN_ERR(ENOMEM) or the binder's error. Free with
 * wan_t5_free() in any case. */
int wan_t5_bind(WanT5 *m, const WanT5Config *config, WanBinder *b);
void wan_t5_free(WanT5 *m);

/**
 * Encode prompts in one pass over the weights.
 *
 * Only the real tokens are run: the padding that the reference masks changes
 * no other row. Rows of all prompts are one matrix but for attention, so where
 * the device's rows are not apart (WanOps.rows_apart) the last bits of one
 * depend on the others.
 *
 * @param nb  how many
 * @param y   of each [n, D]
 * @param ids of each n on the host, each below config.vocab
 */
void wan_t5_encode(WanDev *d, int nb, WanTensor *y, const WanT5 *m,
                   const int32_t *const *ids);

#endif /* WAN_T5_H */
