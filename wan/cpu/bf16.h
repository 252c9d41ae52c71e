/*
 * Products of BF16 factors, and what stands around them.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Both factors are rounded to BF16, sums are F32, over the inputs in their
 * order for each result, so that the bits of a row depend on no other row. On
 * a processor with AVX512-BF16 by its own instruction (vdpbf16ps), which takes
 * denormal numbers for 0; on arm64 with FEAT_BF16 by its own (bfdot), which
 * does so too and rounds to odd, not to nearest, so by up to a whole unit in the
 * last place: first a pair's two products to one number, then that and the sum
 * (with FEAT_EBF16 switched on it would not, but Linux leaves that off); else by
 * plain loops, which are slower than products in F32.
 *
 * On a processor with tiles (amx.c) the order is another, for all rows the same:
 * of each 32 inputs of a tap, and after those of all taps of what is left of
 * each, the even ones have a sum and the odd ones have a sum, from 0 on and in
 * their order; these two are added, and that to the result. There too denormal
 * numbers are 0, and sums that would be.
 *
 * The left factor a lies in rows. The right one is packed first, see
 * wan_bf16_at(): panels of up to 64 columns, of 16 on arm64, in each the pairs
 * of inputs one after another, of each pair the panel's columns, each with its
 * two numbers. A product reads that from the first byte to the last.
 */

#ifndef WAN_CPU_BF16_H
#define WAN_CPU_BF16_H

#include <stdint.h>

/* Whether the processor multiplies BF16. */
int wan_bf16_native(void);

/* Plain loops although it does: 1; for tests. Not while anything computes. */
void wan_bf16_plain(int yes);

/* What packed columns and inputs are rounded up to. */
#define WAN_BF16_COLS 16
#define WAN_BF16_DEPTH 2

static inline int64_t wan_bf16_cols(int64_t n)
{
    return (n + WAN_BF16_COLS - 1) / WAN_BF16_COLS * WAN_BF16_COLS;
}

static inline int64_t wan_bf16_depth(int64_t k)
{
    return (k + WAN_BF16_DEPTH - 1) / WAN_BF16_DEPTH * WAN_BF16_DEPTH;
}

/* Columns of the panel that begins where so many are left. Five or six times
 * 16 are two panels, since a product has registers for fewer rows of a narrow
 * one. On arm64 no product holds more than 16, and of a wider panel it would
 * read every fourth line of the cache, which has few places for those. */
static inline int wan_bf16_panel(int64_t left)
{
    const int64_t v = (left + WAN_BF16_COLS - 1) / WAN_BF16_COLS;

#ifdef __aarch64__
    return WAN_BF16_COLS;
#endif
    return WAN_BF16_COLS * (v == 5 || v == 6 ? 3 : v > 4 ? 4 : (int)v);
}

/* Elements that k inputs of n columns take, and where the first input of
 * column c lies; behind it the second, after *step the next pair. */
static inline int64_t wan_bf16_packed(int64_t n, int64_t k)
{
    return wan_bf16_cols(n) * wan_bf16_depth(k);
}

static inline int64_t wan_bf16_at(int64_t n, int64_t k, int64_t c,
                                  int64_t *step)
{
    int64_t from = 0;
    int cols;

    for (;; from += cols) {
        cols = wan_bf16_panel(n - from);
        if (c < from + cols)
            break;
    }
    *step = 2 * cols;
    return from * wan_bf16_depth(k) + 2 * (c - from);
}

/* dst[i] = scale * src[i] to nearest, ties to even; n up to the next multiple
 * of WAN_BF16_DEPTH are written, with zeros. */
void wan_bf16_round(uint16_t *dst, const float *src, int64_t n, float scale);

/* Pack the n columns of B = W^T: w [n, k], rows ld elements apart, of BF16 as
 * a file has it or F32. What is behind the last column or input becomes 0. */
void wan_bf16_pack_rows16(uint16_t *b, const uint16_t *w, int64_t ld,
                          int64_t n, int64_t k);
void wan_bf16_pack_rows(uint16_t *b, const float *w, int64_t ld, int64_t n,
                        int64_t k);

/* Likewise of B [k, n] itself, F32, rows ld apart. */
void wan_bf16_pack(uint16_t *b, const float *v, int64_t ld, int64_t n,
                   int64_t k);

/**
 * c (+)= a_0 b_0 + a_1 b_1 + ..., as one sum.
 *
 * @param shift a_t is [m, k] at a + shift[t], rows lda apart, k a multiple of
 *              WAN_BF16_DEPTH; t < taps. NULL: one, at a
 * @param b     taps * k packed inputs of n columns
 * @param add   0: c need not be initialised
 * @param c     [m, wan_bf16_cols(n)], rows ldc apart
 */
void wan_bf16_product(int64_t m, int64_t n, int64_t k, int taps,
                      const int64_t *shift, const uint16_t *a, int64_t lda,
                      const uint16_t *b, int add, float *c, int64_t ldc);

/* The largest of n numbers, n > 0. */
float wan_bf16_max(const float *s, int64_t n);

/* p[i] = 2^(s[i] - max) in BF16, i < n, then zeros up to WAN_BF16_COLS;
 * returns the sum of what was not rounded yet. *above becomes the largest
 * s[i] - max, which may be above 0 but not above WAN_BF16_ABOVE. A NaN stays
 * one, and below -126 it is as if -126. */
#define WAN_BF16_ABOVE 64
float wan_bf16_exp2(uint16_t *p, const float *s, int64_t n, float max,
                    float *above);

/**
 * wan_bf16_product() and wan_bf16_exp2() of its rows in one, where the processor
 * has instructions for that: scores never leave their registers.
 *
 * @param a, b   as of wan_bf16_product(), of one tap
 * @param max    of each row [m]
 * @param p      [m, n]: 2^(a b - max[row]) in BF16, rows ldp apart
 * @param parts  of each row become the sum of what was not rounded yet, in
 *               sixteen. Where scores are more than WAN_BF16_ABOVE above the
 *               maximum it is more than 2^WAN_BF16_ABOVE, maybe infinite
 * @return 1; 0: nothing was done, since the instructions are missing, are not
 *         the fastest way (amx.c), or n is no multiple of 64
 */
int wan_bf16_weights(int64_t m, int64_t n, int64_t k, const uint16_t *a,
                     int64_t lda, const uint16_t *b, const float *max,
                     uint16_t *p, int64_t ldp, float (*parts)[16]);

#endif /* WAN_CPU_BF16_H */
