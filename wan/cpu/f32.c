/*
 * Products of F32 factors on processors with AVX-512, and which there are.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A product holds a tile of sums in registers, rows times vectors of 16
 * columns: 6 x 4, 8 x 3, 12 x 2 or 12 x 1, of 32 registers. For each input that
 * is one load for each vector of b and one broadcast for each row of a. The
 * order of a sum is written down here and not left to the compiler, since its
 * bits are to be those of oneDNN.
 */

#include <string.h>

#define TARGET "avx512f,avx512bw,avx512vl,avx512dq"

#include "avx512.h"
#include "f32.h"

#if WAN_KNOWS_AVX512

static int most = WAN_F32_AVX512;       // less is a test's wish

void wan_f32_at_most(int what)
{
    most = what;
}

int wan_f32_native(void)
{
    if (most >= WAN_F32_AVX512 && wan_has_avx512())
        return WAN_F32_AVX512;
    return most >= WAN_F32_AVX2 && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma") ? WAN_F32_AVX2 : WAN_F32_NONE;
}

/* ------------------------------------------------------------- packing */

NATIVE static void pack(float *b, const float *w, int64_t ld, int64_t n,
                        int64_t k, float scale)
{
    const __m512 by = _mm512_set1_ps(scale);

    for (int64_t c = 0; c < WAN_F32_COLS; c += 16)
        for (int64_t p = 0; p < k; p += 16) {
            const int left = k - p < 16 ? (int)(k - p) : 16;
            const __mmask16 in = (1u << left) - 1;
            __m512i r[16];

#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                r[i] = c + i < n ? _mm512_maskz_loadu_epi32(
                                       in, w + (c + i) * ld + p)
                                 : _mm512_setzero_si512();
            turn(r);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                if (i < left)
                    _mm512_storeu_ps(b + (p + i) * WAN_F32_COLS + c,
                                     _mm512_mul_ps(by, (__m512)r[i]));
        }
}

/* Words of two inputs are turned, then taken apart. */
NATIVE static void pack16(float *b, const uint16_t *w, int64_t ld, int64_t n,
                          int64_t k)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);

    for (int64_t c = 0; c < WAN_F32_COLS; c += 16)
        for (int64_t p = 0; p < k; p += 32) {
            const int left = k - p < 32 ? (int)(k - p) : 32;
            const __mmask32 in = (__mmask32)((UINT64_C(1) << left) - 1);
            __m512i r[16];

#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                r[i] = c + i < n ? _mm512_maskz_loadu_epi16(
                                       in, w + (c + i) * ld + p)
                                 : _mm512_setzero_si512();
            turn(r);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                float *out = b + (p + 2 * i) * WAN_F32_COLS + c;

                if (2 * i < left)
                    _mm512_storeu_si512(out, _mm512_slli_epi32(r[i], 16));
                if (2 * i + 1 < left)
                    _mm512_storeu_si512(out + WAN_F32_COLS,
                                        _mm512_and_si512(r[i], high));
            }
        }
}

/* ------------------------------------------------------------- products */

/* One tile of sums; rows and vectors are constants. last: the columns that the
 * last vector has. */
NATIVE_INLINE void tile(int rows, int vectors, int64_t k, float alpha,
                        const float *a, int64_t lda, const float *b,
                        int64_t ldb, __mmask16 last, int add, float *c,
                        int64_t ldc)
{
    const __m512 by = _mm512_set1_ps(alpha);
    __m512 sum[24];

#pragma GCC unroll 24
    for (int i = 0; i < rows * vectors; i++)
        sum[i] = _mm512_setzero_ps();
    for (int64_t p = 0; p < k; p++, a++, b += ldb) {
        __m512 w[4];

#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            w[v] = v + 1 < vectors ? _mm512_loadu_ps(b + 16 * v)
                                   : _mm512_maskz_loadu_ps(last, b + 16 * v);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const __m512 x = _mm512_set1_ps(a[r * lda]);

#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[r * vectors + v] =
                    _mm512_fmadd_ps(x, w[v], sum[r * vectors + v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const __mmask16 m = v + 1 < vectors ? 0xffff : last;
            float *out = c + r * ldc + 16 * v;
            __m512 s = _mm512_mul_ps(by, sum[r * vectors + v]);

            if (add)
                s = _mm512_add_ps(_mm512_maskz_loadu_ps(m, out), s);
            _mm512_mask_storeu_ps(out, m, s);
        }
}

/* All rows of so many vectors: as many at a time as there are registers for,
 * then what is left. */
#define TILE(rows, vectors) \
    tile(rows, vectors, k, alpha, a, lda, b, ldb, last, add, c, ldc)
#define COLUMNS(vectors, most)                                                \
NATIVE static void columns_##vectors(                                         \
    int64_t m, int64_t k, float alpha, const float *a, int64_t lda,           \
    const float *b, int64_t ldb, __mmask16 last, int add, float *c,           \
    int64_t ldc)                                                              \
{                                                                             \
    for (; m >= most; m -= most, a += most * lda, c += most * ldc)            \
        TILE(most, vectors);                                                  \
    if (most > 6 && m >= 6) {                                                 \
        TILE(6, vectors);                                                     \
        m -= 6, a += 6 * lda, c += 6 * ldc;                                   \
    }                                                                         \
    switch (m) {                                                              \
    case 1: TILE(1, vectors); break;                                          \
    case 2: TILE(2, vectors); break;                                          \
    case 3: TILE(3, vectors); break;                                          \
    case 4: TILE(4, vectors); break;                                          \
    case 5: TILE(5, vectors); break;                                          \
    }                                                                         \
}
COLUMNS(4, 6)
COLUMNS(3, 8)
COLUMNS(2, 12)
COLUMNS(1, 12)

NATIVE static void product(int64_t m, int64_t n, int64_t k, float alpha,
                           const float *a, int64_t lda, const float *b,
                           int64_t ldb, int add, float *c, int64_t ldc)
{
    static void (*const columns[])(int64_t, int64_t, float, const float *,
                                   int64_t, const float *, int64_t, __mmask16,
                                   int, float *, int64_t) = {
        columns_1, columns_2, columns_3, columns_4,
    };

    for (int64_t j = 0, cols; j < n; j += cols) {
        /* Five or six vectors are twice three: a tile of few vectors reads
         * more for what it computes. */
        const int64_t left = (n - j + 15) / 16;
        const int64_t v = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;

        cols = 16 * v < n - j ? 16 * v : n - j;
        columns[v - 1](m, k, alpha, a, lda, b + j, ldb,
                       (__mmask16)(0xffff >> (16 * v - cols)), add, c + j,
                       ldc);
    }
}

/* --------------------------------------------------------- which of them */

void wan_f32_pack(float *b, const float *w, int64_t ld, int64_t n, int64_t k,
                  float scale)
{
    (wan_f32_native() == WAN_F32_AVX512 ? pack : wan_f32_avx2_pack)(
        b, w, ld, n, k, scale);
}

void wan_f32_pack16(float *b, const uint16_t *w, int64_t ld, int64_t n,
                    int64_t k)
{
    (wan_f32_native() == WAN_F32_AVX512 ? pack16 : wan_f32_avx2_pack16)(
        b, w, ld, n, k);
}

void wan_f32_product(int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb,
                     int add, float *c, int64_t ldc)
{
    (wan_f32_native() == WAN_F32_AVX512 ? product : wan_f32_avx2_product)(
        m, n, k, alpha, a, lda, b, ldb, add, c, ldc);
}

#else

void wan_f32_at_most(int what)
{
    (void)what;
}

int wan_f32_native(void)
{
    return WAN_F32_NONE;
}

/* Of these none is called. */
void wan_f32_pack(float *b, const float *w, int64_t ld, int64_t n, int64_t k,
                  float scale)
{
    (void)b, (void)w, (void)ld, (void)n, (void)k, (void)scale;
}

void wan_f32_pack16(float *b, const uint16_t *w, int64_t ld, int64_t n,
                    int64_t k)
{
    (void)b, (void)w, (void)ld, (void)n, (void)k;
}

void wan_f32_product(int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb,
                     int add, float *c, int64_t ldc)
{
    (void)m, (void)n, (void)k, (void)alpha, (void)a, (void)lda, (void)b;
    (void)ldb, (void)add, (void)c, (void)ldc;
}

#endif
