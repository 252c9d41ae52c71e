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
 * Encode n token ids.
 *
 * Only the real tokens are run: the padding that the reference masks changes
 * no other row.
 *
 * @param y   [n, D]
 * @param ids n of them on the host, each below config.vocab
 */
void wan_t5_encode(WanDev *d, WanTensor *y, const WanT5 *m,
                   const int32_t *ids);

#endif /* WAN_T5_H */
