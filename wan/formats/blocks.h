/*
 * Numbers that GGUF keeps in blocks with scales of their own.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_BLOCKS_H
#define WAN_BLOCKS_H

#include "../tensor.h"

/**
 * Decode n numbers, whole blocks, to f32: the bits that ggml's own decoders
 * give.
 *
 * @param src  at any alignment
 * @param type one whose wan_type_block() is above 1
 */
void wan_blocks_to_f32(float *dst, const void *src, WanType type, int64_t n);

#endif /* WAN_BLOCKS_H */
