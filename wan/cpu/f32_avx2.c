/*
 * Products of F32 factors on processors with AVX2 and no AVX-512.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * As f32.c has them, in the same order and with the same bits, by half as many
 * registers of half the length: tiles of 4 rows x 3 vectors of 8 columns, 6 x 2
 * or 12 x 1. There are no masks worth their time: columns that fill no vector
 * are a tile of their own.
 */

#include <string.h>

#define TARGET "avx2,fma"

#include "avx512.h"
#include "f32.h"

#if WAN_KNOWS_AVX512

enum { LANES = 8, COLS = WAN_F32_COLS_AVX2 };

/* ------------------------------------------------------------- packing */

/* Eight times eight words of 32 bits, turned. */
NATIVE_INLINE void turn8(__m256 r[LANES])
{
    __m256 t[LANES];

#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        r[i] = t[i];
}

/* Words of eight rows, bytes of them from each; what is not there is 0. */
NATIVE_INLINE void load8(__m256 r[LANES], const char *row, int64_t pitch,
                         int64_t rows, int64_t bytes)
{
    float part[LANES] = { 0 };

#pragma GCC unroll 8
    for (int i = 0; i < 8; i++, row += pitch) {
        if (i >= rows) {
            r[i] = _mm256_setzero_ps();
        } else if (bytes >= (int64_t)sizeof(part)) {
            r[i] = _mm256_loadu_ps((const float *)row);
        } else {
            memcpy(part, row, bytes);
            r[i] = _mm256_loadu_ps(part);
        }
    }
    turn8(r);
}

NATIVE void wan_f32_avx2_pack(float *b, const float *w, int64_t ld, int64_t n,
                              int64_t k, float scale)
{
    const __m256 by = _mm256_set1_ps(scale);

    for (int64_t c = 0; c < n; c += 8)
        for (int64_t p = 0; p < k; p += 8) {
            const int64_t left = k - p < 8 ? k - p : 8;
            float *out = b + p * COLS + c;
            __m256 r[LANES];

            load8(r, (const char *)(w + c * ld + p), ld * sizeof(*w), n - c,
                  left * sizeof(*w));
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                if (i < left)
                    _mm256_storeu_ps(out + i * COLS, _mm256_mul_ps(by, r[i]));
        }
}

/* Words of two inputs are turned, then taken apart. */
NATIVE void wan_f32_avx2_pack16(float *b, const uint16_t *w, int64_t ld,
                                int64_t n, int64_t k)
{
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);

    for (int64_t c = 0; c < n; c += 8)
        for (int64_t p = 0; p < k; p += 16) {
            const int64_t left = k - p < 16 ? k - p : 16;
            float *out = b + p * COLS + c;
            __m256 r[LANES];

            load8(r, (const char *)(w + c * ld + p), ld * sizeof(*w), n - c,
                  left * sizeof(*w));
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++, out += 2 * COLS) {
                const __m256i two = _mm256_castps_si256(r[i]);

                if (2 * i < left)
                    _mm256_storeu_si256((__m256i *)out,
                                        _mm256_slli_epi32(two, 16));
                if (2 * i + 1 < left)
                    _mm256_storeu_si256((__m256i *)(out + COLS),
                                        _mm256_and_si256(two, high));
            }
        }
}

/* ------------------------------------------------------------- products */

/* One tile of sums; rows, vectors and cut are constants. cut: of the one vector
 * there are only the columns that mask has. */
NATIVE_INLINE void tile(int rows, int vectors, int cut, int64_t k, float alpha,
                        const float *a, int64_t lda, const float *b,
                        int64_t ldb, __m256i mask, int add, float *c,
                        int64_t ldc)
{
    const __m256 by = _mm256_set1_ps(alpha);
    __m256 sum[12];

#pragma GCC unroll 12
    for (int i = 0; i < rows * vectors; i++)
        sum[i] = _mm256_setzero_ps();
    for (int64_t p = 0; p < k; p++, a++, b += ldb) {
        __m256 w[3];

#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++)
            w[v] = cut ? _mm256_maskload_ps(b, mask)
                       : _mm256_loadu_ps(b + 8 * v);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const __m256 x = _mm256_broadcast_ss(a + r * lda);

#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++)
                sum[r * vectors + v] =
                    _mm256_fmadd_ps(x, w[v], sum[r * vectors + v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) {
            float *out = c + r * ldc + 8 * v;
            __m256 s = _mm256_mul_ps(by, sum[r * vectors + v]);

            if (add)
                s = _mm256_add_ps(cut ? _mm256_maskload_ps(out, mask)
                                      : _mm256_loadu_ps(out), s);
            if (cut)
                _mm256_maskstore_ps(out, mask, s);
            else
                _mm256_storeu_ps(out, s);
        }
}

/* All rows of so many vectors: as many at a time as there are registers for,
 * then what is left. */
#define TILE(rows, vectors, cut) \
    tile(rows, vectors, cut, k, alpha, a, lda, b, ldb, mask, add, c, ldc)
#define COLUMNS(name, vectors, most, cut)                                     \
NATIVE static void name(int64_t m, int64_t k, float alpha, const float *a,    \
                        int64_t lda, const float *b, int64_t ldb,             \
                        __m256i mask, int add, float *c, int64_t ldc)         \
{                                                                             \
    for (; m >= most; m -= most, a += most * lda, c += most * ldc)            \
        TILE(most, vectors, cut);                                             \
    for (; m >= 3; m -= 3, a += 3 * lda, c += 3 * ldc)                        \
        TILE(3, vectors, cut);                                                \
    if (m == 2)                                                               \
        TILE(2, vectors, cut);                                                \
    else if (m)                                                               \
        TILE(1, vectors, cut);                                                \
}
COLUMNS(three, 3, 4, 0)
COLUMNS(two, 2, 6, 0)
COLUMNS(one, 1, 12, 0)
COLUMNS(some, 1, 12, 1)

NATIVE void wan_f32_avx2_product(int64_t m, int64_t n, int64_t k, float alpha,
                                 const float *a, int64_t lda, const float *b,
                                 int64_t ldb, int add, float *c, int64_t ldc)
{
    static const int32_t ones[2 * LANES] = { -1, -1, -1, -1, -1, -1, -1, -1 };
    static void (*const columns[])(int64_t, int64_t, float, const float *,
                                   int64_t, const float *, int64_t, __m256i,
                                   int, float *, int64_t) = {
        some, one, two, three,
    };
    const __m256i mask = _mm256_loadu_si256(
        (const __m256i *)(ones + LANES - n % LANES));

    for (int64_t j = 0, v; j < n; j += v ? v * LANES : n - j) {
        /* Four vectors are twice two: a tile of few vectors reads more for
         * what it computes. */
        const int64_t left = (n - j) / LANES;

        v = left == 4 ? 2 : left < 3 ? left : 3;
        columns[v](m, k, alpha, a, lda, b + j, ldb, mask, add, c + j, ldc);
    }
}

#endif
