/*
 * Products of factors in 8 bits, with scales.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A row of x and a column of W have a scale each, their largest magnitude over
 * 127, and what is between is rounded to a whole number; products are summed
 * exactly, in 32 bits. Good for some thousand inputs at a time, each time with
 * scales of its own. Rows are kept with 128 added, as the processor's
 * instruction (AVX512-VNNI, vpdpbusd; arm64's FEAT_I8MM, sudot) wants one
 * factor without a sign; what that adds to a sum is known for each column.
 *
 * The right factor is packed as in bf16.h, with four inputs where there are two.
 * On processors with tiles (amx.c) sums are made there, which changes no bit.
 *
 * Or W is of blocks of 32 inputs with a scale each, as GGUF's Q8_0 has them.
 * Those are multiplied as they are: the sum of a block is exact, and goes with
 * its scale into a sum in F32, so that only x is rounded. One whose scale is
 * not finite makes NaN. They use no tiles, which sums would leave after each.
 */

#ifndef WAN_CPU_INT8_H
#define WAN_CPU_INT8_H

#include <stdint.h>

#include "../tensor.h"

/* Whether the processor multiplies 8 bits so. */
int wan_int8_native(void);

/* Plain loops although it does: 1; for tests. Not while anything computes. */
void wan_int8_plain(int yes);

/* Whether what is not of 8 bits is F32 beside these products and not BF16, which
 * this processor does not multiply: AVX512-VNNI is older than AVX512-BF16. Not
 * where both are plain loops, which stand for a processor that has both. */
int wan_int8_beside_f32(void);

/* As if it were so: 1; for tests. Not while anything computes. */
void wan_int8_no_bf16(int yes);

/* What a product's sums are multiplied by, and where that goes. */
typedef struct WanInt8Result {
    const float *scale;         // of rows, step apart
    int64_t step;
    const float *by;            // of columns; NULL: packed blocks have them
    const int32_t *sum;         // likewise
    int add;
    float *c;                   // rows ld apart
    int64_t ld;
} WanInt8Result;

#define WAN_INT8_DEPTH 64       // what inputs are rounded up to

static inline int64_t wan_int8_depth(int64_t k)
{
    return (k + WAN_INT8_DEPTH - 1) / WAN_INT8_DEPTH * WAN_INT8_DEPTH;
}

/* k numbers of a row, and 128 up to wan_int8_depth(k) of them; returns the
 * scale: NaN if one is not finite. */
float wan_int8_round(uint8_t *dst, const float *src, int64_t k);

/* What goes with packed columns. */
typedef struct WanInt8Columns {
    float scale[256];
    int32_t sum[256];           // of a column's numbers
} WanInt8Columns;

/**
 * Pack n columns, at most 256 and whole panels of bf16.h but for the last, of
 * B = W^T: w [n, k], rows ld apart, of BF16 as a file has it, or F32.
 *
 * @param at where the first of them stands in a factor of more columns
 * @return how many columns would lose more than WAN_INT8_LOSS of their norm by
 *         it or are not finite; then what was packed is of no use
 */
#define WAN_INT8_LOSS 0.05
int wan_int8_pack(int8_t *b, WanInt8Columns *c, int at, const void *w,
                  WanType type, int64_t ld, int64_t n, int64_t k);

/**
 * c (+)= a b with the scales of both.
 *
 * @param a     m rows, lda bytes apart, of k numbers
 * @param scale of each row, step apart
 * @param k     a multiple of WAN_INT8_DEPTH
 * @param c     [m, wan_bf16_cols(n)], rows ldc apart
 */
void wan_int8_product(int64_t m, int64_t n, int64_t k, const uint8_t *a,
                      int64_t lda, const float *scale, int64_t step,
                      const int8_t *b, const WanInt8Columns *columns, int add,
                      float *c, int64_t ldc);

/* Blocks of inputs, and bytes that n columns of k inputs take, packed. */
#define WAN_INT8_BLOCK 32
#define WAN_INT8_BLOCK_BYTES (WAN_INT8_BLOCK + 8)   // with two words

static inline int64_t wan_int8_blocks_bytes(int64_t n, int64_t k)
{
    return (n + 15) / 16 * 16 * (k / WAN_INT8_BLOCK) * WAN_INT8_BLOCK_BYTES;
}

/**
 * Pack n columns of B = W^T, any number of them.
 *
 * @param b  of wan_int8_blocks_bytes(), as aligned as an int32_t
 * @param w  [n, k] of Q8_0, rows ld numbers apart, k and ld whole blocks
 */
void wan_int8_pack_blocks(int8_t *b, const void *w, int64_t ld, int64_t n,
                          int64_t k);

/**
 * c (+)= a b with the scales of both; as wan_int8_product(), but
 *
 * @param k a multiple of WAN_INT8_BLOCK
 * @param b from wan_int8_pack_blocks()
 */
void wan_int8_product_blocks(int64_t m, int64_t n, int64_t k,
                             const uint8_t *a, int64_t lda,
                             const float *scale, int64_t step,
                             const int8_t *b, int add, float *c, int64_t ldc);

#endif /* WAN_CPU_INT8_H */
