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

/**
 * The other way, to the nearest that a search finds: the same bits on every
 * machine. What has no place (a scale beyond f16, numbers that are not finite)
 * decodes to what is not finite, or to garbage.
 *
 * @param dst  at any alignment
 * @param type one that wan_blocks_encoded() knows: all but IQ4_NL, IQ4_XS
 */
void wan_blocks_from_f32(void *dst, const float *src, WanType type, int64_t n);
int wan_blocks_encoded(WanType type);

#endif /* WAN_BLOCKS_H */
