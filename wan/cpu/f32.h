/*
 * Products of F32 factors on processors with AVX-512 or AVX2.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * What sgemm.c and linear.c use instead of oneDNN where the processor has one
 * of them. The bits are the same with both: those of oneDNN on AVX-512, see
 * wan_f32_depth().
 *
 * The right factor lies as [k, n]. One that is transposed is packed first:
 * wan_f32_cols() columns, of each input their numbers beside one another, those
 * behind the last column 0 up to a whole vector. F32 or BF16 becomes that in one
 * pass, so weights of a file are not widened before.
 */

#ifndef WAN_CPU_F32_H
#define WAN_CPU_F32_H

#include <stdint.h>

/* What all functions below are made of here; none may be called of NONE. */
enum { WAN_F32_NONE, WAN_F32_AVX2, WAN_F32_AVX512 };
int wan_f32_native(void);

/* As if the processor had no more than that; for tests. Not while anything
 * computes. */
void wan_f32_at_most(int what);

#define WAN_F32_COLS 64         // of a packed panel at most
#define WAN_F32_COLS_AVX2 48
static inline int64_t wan_f32_cols(void)
{
    return wan_f32_native() == WAN_F32_AVX2 ? WAN_F32_COLS_AVX2 : WAN_F32_COLS;
}

#define WAN_F32_DEPTH 384       // inputs of one product at most
#define WAN_F32_COPIED 100

/* How many inputs the next product takes, where so many of k are left: a sum
 * is made in their order, then added to what there is. As oneDNN does it the
 * last two are of about the same length, but not of a long b that it copies,
 * which is one that is transposed and has more than WAN_F32_COPIED columns. */
static inline int64_t wan_f32_depth(int64_t left, int64_t k, int copied)
{
    enum { D = WAN_F32_DEPTH };

    return left <= D ? left : left >= 2 * D || (copied && k >= 2 * D) ? D
                     : (left + 1) / 2;
}

/* b [k, wan_f32_cols()] of w [n, k], rows ld elements apart, no more columns
 * than that; times scale, if that is of F32. */
void wan_f32_pack(float *b, const float *w, int64_t ld, int64_t n, int64_t k,
                  float scale);
void wan_f32_pack16(float *b, const uint16_t *w, int64_t ld, int64_t n,
                    int64_t k);             // of BF16

/* c [m, n] (+)= alpha a b: a [m, k], b [k, n], rows ldb apart. */
void wan_f32_product(int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb,
                     int add, float *c, int64_t ldc);

/* These by AVX2: f32_avx2.c. */
void wan_f32_avx2_pack(float *b, const float *w, int64_t ld, int64_t n,
                       int64_t k, float scale);
void wan_f32_avx2_pack16(float *b, const uint16_t *w, int64_t ld, int64_t n,
                         int64_t k);
void wan_f32_avx2_product(int64_t m, int64_t n, int64_t k, float alpha,
                          const float *a, int64_t lda, const float *b,
                          int64_t ldb, int add, float *c, int64_t ldc);

#endif /* WAN_CPU_F32_H */
