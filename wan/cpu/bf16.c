/*
 * Products of BF16 factors, and what stands around them.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Everything is there twice: as plain loops, in copies for each kind of
 * machine, and with the intrinsics of AVX512-BF16, which no compiler finds by
 * itself. Products a third time, on tiles: amx.c; what counts of it once more
 * for arm64: neon.c.
 *
 * A product holds a tile of sums in registers, rows times vectors of 16
 * columns: 6 x 4, 8 x 3, 12 x 2 or 12 x 1, of 32 registers. For each pair of
 * inputs that is one load for each vector of b and one broadcast for each row
 * of a. Panels of b are the outer loop: one is read again for each tile of
 * rows and stays in the second cache.
 */

#include <string.h>

#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"

#include "amx.h"
#include "avx512.h"
#include "bf16.h"
#include "neon.h"
#include "simd.h"

static int plain;               // although there is better: a test's wish

void wan_bf16_plain(int yes)
{
    plain = yes;
}

int wan_bf16_native(void)
{
#if WAN_KNOWS_BF16
    return wan_has_avx512() && __builtin_cpu_supports("avx512bf16");
#elif WAN_KNOWS_NEON
    return wan_neon_bf16();
#else
    return 0;
#endif
}

/* ---------------------------------------------------------- plain loops */

/* To nearest, ties to even; a NaN keeps a bit. */
WAN_INLINE uint16_t to_bf16(float f)
{
    const uint32_t u = wan_f32_bits(f);
    const uint32_t r = (u + 0x7fff + (u >> 16 & 1)) >> 16;

    return (uint16_t)wan_choose_bits((u & 0x7fffffff) > 0x7f800000,
                                     u >> 16 | 0x40, r);
}

WAN_INLINE float low(uint32_t pair)
{
    return wan_bits_f32(pair << 16);
}

WAN_INLINE float high(uint32_t pair)
{
    return wan_bits_f32(pair & 0xffff0000);
}

WAN_INLINE uint32_t pair_at(const uint16_t *p)
{
    uint32_t u;

    memcpy(&u, p, sizeof(u));
    return u;
}

WAN_SIMD static void plain_round(uint16_t *dst, const float *src, int64_t n,
                                 float scale)
{
    WAN_APART
    for (int64_t i = 0; i < n; i++)
        dst[i] = to_bf16(scale * src[i]);
}

/* Packed numbers are put one by one: input i of column c of k inputs, whose
 * columns are cols wide from `from` on. */
static uint16_t *place(uint16_t *b, int64_t depth, int64_t from, int cols,
                       int64_t c, int64_t i)
{
    return b + from * depth + i / 2 * 2 * cols + 2 * (c - from) + i % 2;
}

typedef struct Source {
    const void *data;
    int bf16;                   // else F32
    int64_t column, input;      // elements from one to the next
} Source;

static void pack_one_by_one(uint16_t *b, Source s, int64_t n, int64_t k)
{
    const int64_t depth = wan_bf16_depth(k);
    int cols;

    for (int64_t from = 0; from < n; from += cols) {
        cols = wan_bf16_panel(n - from);
        for (int64_t c = from; c < from + cols; c++)
            for (int64_t i = 0; i < depth; i++) {
                const int64_t at = c * s.column + i * s.input;
                uint16_t *out = place(b, depth, from, cols, c, i);

                if (c >= n || i >= k)
                    *out = 0;
                else if (s.bf16)
                    memcpy(out, (const uint16_t *)s.data + at, sizeof(*out));
                else
                    *out = to_bf16(((const float *)s.data)[at]);
            }
    }
}

static void plain_pack_rows16(uint16_t *b, const uint16_t *w, int64_t ld,
                              int64_t n, int64_t k)
{
    pack_one_by_one(b, (Source){ w, 1, ld, 1 }, n, k);
}

static void plain_pack_rows(uint16_t *b, const float *w, int64_t ld, int64_t n,
                            int64_t k)
{
    pack_one_by_one(b, (Source){ w, 0, ld, 1 }, n, k);
}

static void plain_pack(uint16_t *b, const float *v, int64_t ld, int64_t n,
                       int64_t k)
{
    pack_one_by_one(b, (Source){ v, 0, 1, ld }, n, k);
}

#define PLAIN_ROWS 4

/* One tile of sums: rows x 16 columns, of a panel of so many. */
WAN_INLINE void plain_tile(int rows, int64_t k, int taps, const int64_t *shift,
                           const uint16_t *a, int64_t lda, const uint16_t *b,
                           int cols, int add, float *c, int64_t ldc)
{
    float sum[PLAIN_ROWS][WAN_BF16_COLS];

    for (int r = 0; r < rows; r++)
        for (int j = 0; j < WAN_BF16_COLS; j++)
            sum[r][j] = add ? c[r * ldc + j] : 0;
    for (int t = 0; t < taps; t++)
        for (int64_t i = 0; i < k; i += 2, b += 2 * cols)
            for (int r = 0; r < rows; r++) {
                const uint32_t x = pair_at(a + shift[t] + r * lda + i);

                for (int j = 0; j < WAN_BF16_COLS; j++) {
                    const uint32_t w = pair_at(b + 2 * j);

                    sum[r][j] += low(x) * low(w);
                    sum[r][j] += high(x) * high(w);
                }
            }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < WAN_BF16_COLS; j++)
            c[r * ldc + j] = sum[r][j];
}

WAN_SIMD static void plain_panel(int64_t m, int cols, int64_t k, int taps,
                                 const int64_t *shift, const uint16_t *a,
                                 int64_t lda, const uint16_t *b, int add,
                                 float *c, int64_t ldc)
{
    for (int j = 0; j < cols; j += WAN_BF16_COLS)
        for (int64_t i = 0; i < m; i += PLAIN_ROWS) {
            const uint16_t *ai = a + i * lda, *bj = b + 2 * j;
            float *cij = c + i * ldc + j;

            if (m - i >= PLAIN_ROWS)
                plain_tile(PLAIN_ROWS, k, taps, shift, ai, lda, bj, cols, add,
                           cij, ldc);
            else
                plain_tile((int)(m - i), k, taps, shift, ai, lda, bj, cols,
                           add, cij, ldc);
        }
}

WAN_SIMD static float plain_max(const float *s, int64_t n)
{
    return wan_max_of(s, n);
}

WAN_SIMD static float plain_exp2(uint16_t *p, const float *s, int64_t n,
                                 float max, float *above)
{
    float lane[WAN_LANES] = { 0 }, sum = 0;
    int64_t j = 0;

    *above = wan_max_of(s, n) - max;
    WAN_VECTORS
    for (; j + WAN_LANES <= n; j += WAN_LANES)
        for (int l = 0; l < WAN_LANES; l++) {
            const float e = wan_expf((s[j + l] - max) * 0.69314718f);

            p[j + l] = to_bf16(e);
            lane[l] += e;
        }
    for (; j < n; j++) {
        const float e = wan_expf((s[j] - max) * 0.69314718f);

        p[j] = to_bf16(e);
        sum += e;
    }
    for (int l = 0; l < WAN_LANES; l++)
        sum += lane[l];
    return sum;
}

/* --------------------------------------------------------- AVX512-BF16 */

#if WAN_KNOWS_BF16

#define WEIGHTS_COLS 64         // of a panel of native_weights()
#define ROWS_4 6                // of a tile with so many vectors
#define ROWS_3 8
#define ROWS_2 12
#define ROWS_1 12

NATIVE static void native_round(uint16_t *dst, const float *src, int64_t n,
                                float scale)
{
    const __m512 by = _mm512_set1_ps(scale);

    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 k = first(n - i);
        const __m512 x = _mm512_mul_ps(by, _mm512_maskz_loadu_ps(k, src + i));

        _mm256_mask_storeu_epi16(dst + i, k,
                                 (__m256i)_mm512_cvtneps_pbh(x));
    }
}

/* Inputs [i, i + 32) of one column, BF16. */
NATIVE_INLINE __m512i column(const void *w, int bf16, int64_t at, int64_t left)
{
    const uint64_t all = left >= 32 ? ~0u : (UINT64_C(1) << left) - 1;

    if (bf16)
        return _mm512_maskz_loadu_epi16((__mmask32)all,
                                        (const uint16_t *)w + at);
    return (__m512i)_mm512_cvtne2ps_pbh(
        _mm512_maskz_loadu_ps((__mmask16)(all >> 16),
                              (const float *)w + at + 16),
        _mm512_maskz_loadu_ps((__mmask16)all, (const float *)w + at));
}

/* Of W [n, k]: 16 columns by 32 inputs at a time. */
NATIVE_INLINE void pack_rows(uint16_t *b, const void *w, int bf16, int64_t ld,
                             int64_t n, int64_t k)
{
    const int64_t pairs = wan_bf16_depth(k) / 2;
    int cols;

    for (int64_t from = 0; from < n; from += cols) {
        cols = wan_bf16_panel(n - from);
        for (int64_t c = from; c < from + cols; c += 16)
            for (int64_t p = 0; p < pairs; p += 16) {
                uint16_t *out = b + from * 2 * pairs + p * 2 * cols +
                                2 * (c - from);
                __m512i r[16];

#pragma GCC unroll 16
                for (int i = 0; i < 16; i++)
                    r[i] = c + i < n ? column(w, bf16, (c + i) * ld + 2 * p,
                                              k - 2 * p)
                                     : _mm512_setzero_si512();
                turn(r);
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++)
                    if (p + i < pairs)
                        _mm512_storeu_si512(out + i * 2 * cols, r[i]);
            }
    }
}

NATIVE static void native_pack_rows16(uint16_t *b, const uint16_t *w,
                                      int64_t ld, int64_t n, int64_t k)
{
    pack_rows(b, w, 1, ld, n, k);
}

NATIVE static void native_pack_rows(uint16_t *b, const float *w, int64_t ld,
                                    int64_t n, int64_t k)
{
    pack_rows(b, w, 0, ld, n, k);
}

/* Of B [k, n]: two rows of 16 are one vector of pairs. */
NATIVE static void native_pack(uint16_t *b, const float *v, int64_t ld,
                               int64_t n, int64_t k)
{
    const __m512i pairs = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    int cols;

    for (int64_t from = 0; from < n; from += cols) {
        cols = wan_bf16_panel(n - from);
        for (int64_t i = 0; i < k; i += 2)
            for (int64_t c = from; c < from + cols; c += 16, b += 32) {
                const __mmask16 m = first(n - c);
                const float *in = v + i * ld + c;
                const __m512 one = _mm512_maskz_loadu_ps(m, in);
                const __m512 two = i + 1 < k ? _mm512_maskz_loadu_ps(m, in + ld)
                                             : _mm512_setzero_ps();

                _mm512_storeu_si512(b, _mm512_permutexvar_epi16(
                    pairs, (__m512i)_mm512_cvtne2ps_pbh(two, one)));
            }
    }
}

/* Of k inputs of b's vectors what each row of a makes of them, onto sums; rows
 * and vectors are constants. */
NATIVE_INLINE void add_pairs(int rows, int vectors, int64_t k,
                             const uint16_t *a, int64_t lda,
                             const uint16_t *b, __m512 *sum)
{
    for (int64_t i = 0; i < k; i += 2, a += 2, b += 32 * vectors) {
        __m512bh w[4];

#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            w[v] = (__m512bh)_mm512_loadu_si512(b + 32 * v);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const __m512bh x =
                (__m512bh)_mm512_set1_epi32((int)pair_at(a + r * lda));

#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[r * vectors + v] =
                    _mm512_dpbf16_ps(sum[r * vectors + v], x, w[v]);
        }
    }
}

/* One tile of sums. */
NATIVE_INLINE void native_tile(int rows, int vectors, int64_t k, int taps,
                               const int64_t *shift, const uint16_t *a,
                               int64_t lda, const uint16_t *b, int add,
                               float *c, int64_t ldc)
{
    __m512 sum[24];

#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sum[r * vectors + v] = add ? _mm512_loadu_ps(c + r * ldc + 16 * v)
                                       : _mm512_setzero_ps();
    for (int t = 0; t < taps; t++, b += k * 16 * vectors)
        add_pairs(rows, vectors, k, a + shift[t], lda, b, sum);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(c + r * ldc + 16 * v, sum[r * vectors + v]);
}

/* All rows of a panel of so many vectors: as many at a time as there are
 * registers for, then what is left. */
#define PANEL(vectors, most)                                                  \
NATIVE static void native_panel_##vectors(                                    \
    int64_t m, int64_t k, int taps, const int64_t *shift, const uint16_t *a,  \
    int64_t lda, const uint16_t *b, int add, float *c, int64_t ldc)           \
{                                                                             \
    for (; m >= most; m -= most, a += most * lda, c += most * ldc)            \
        native_tile(most, vectors, k, taps, shift, a, lda, b, add, c, ldc);   \
    if (most > 6 && m >= 6) {                                                 \
        native_tile(6, vectors, k, taps, shift, a, lda, b, add, c, ldc);      \
        m -= 6, a += 6 * lda, c += 6 * ldc;                                   \
    }                                                                         \
    switch (m) {                                                              \
    case 1: native_tile(1, vectors, k, taps, shift, a, lda, b, add, c, ldc);  \
            break;                                                            \
    case 2: native_tile(2, vectors, k, taps, shift, a, lda, b, add, c, ldc);  \
            break;                                                            \
    case 3: native_tile(3, vectors, k, taps, shift, a, lda, b, add, c, ldc);  \
            break;                                                            \
    case 4: native_tile(4, vectors, k, taps, shift, a, lda, b, add, c, ldc);  \
            break;                                                            \
    case 5: native_tile(5, vectors, k, taps, shift, a, lda, b, add, c, ldc);  \
            break;                                                            \
    }                                                                         \
}
PANEL(4, ROWS_4)
PANEL(3, ROWS_3)
PANEL(2, ROWS_2)
PANEL(1, ROWS_1)

static void native_panel(int64_t m, int cols, int64_t k, int taps,
                         const int64_t *shift, const uint16_t *a, int64_t lda,
                         const uint16_t *b, int add, float *c, int64_t ldc)
{
    switch (cols / 16) {
    case 4: native_panel_4(m, k, taps, shift, a, lda, b, add, c, ldc); break;
    case 3: native_panel_3(m, k, taps, shift, a, lda, b, add, c, ldc); break;
    case 2: native_panel_2(m, k, taps, shift, a, lda, b, add, c, ldc); break;
    default: native_panel_1(m, k, taps, shift, a, lda, b, add, c, ldc); break;
    }
}

/* 2^x = 2^floor(x) 2^f; the polynomial is within 7.5e-5 of 2^f, where rounding P
 * to BF16 is up to 4e-3. From 128 on it is infinity. */
NATIVE_INLINE __m512 exp2_of(__m512 x)
{
    const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF |
                                         _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(0.0780245289f);

    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2260672f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6958335f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99992526f));
    return _mm512_scalef_ps(p, x);
}

NATIVE static float native_max(const float *s, int64_t n)
{
    __m512 most = _mm512_set1_ps(s[0]);

    for (int64_t j = 0; j < n; j += 16)
        most = _mm512_max_ps(_mm512_mask_loadu_ps(most, first(n - j), s + j),
                             most);
    return _mm512_reduce_max_ps(most);
}

NATIVE static float native_exp2(uint16_t *p, const float *s, int64_t n,
                                float max, float *above)
{
    const __m512 least = _mm512_set1_ps(-126);
    __m512 sum = _mm512_setzero_ps(), most = least;

    for (int64_t j = 0; j < n; j += 16) {
        const __mmask16 k = first(n - j);
        __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(k, s + j),
                                 _mm512_set1_ps(max));
        __m512 e;

        x = _mm512_max_ps(least, x);            // of a NaN the second
        most = _mm512_mask_max_ps(most, k, x, most);
        e = _mm512_maskz_mov_ps(k, exp2_of(x));
        sum = _mm512_add_ps(sum, e);
        _mm256_storeu_si256((__m256i *)(p + j),
                            (__m256i)_mm512_cvtneps_pbh(e));
    }
    *above = _mm512_reduce_max_ps(most);
    return _mm512_reduce_add_ps(sum);
}

/* A tile of weights: sums begin as what is taken off of them, and leave their
 * registers as what they weigh. */
NATIVE_INLINE void weights_tile(int rows, int64_t k, const uint16_t *a,
                                int64_t lda, const uint16_t *b,
                                const float *max, uint16_t *p, int64_t ldp,
                                float (*parts)[16])
{
    const __m512 least = _mm512_set1_ps(-126);
    __m512 s[24];

#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            s[r * 4 + v] = _mm512_set1_ps(-max[r]);
    add_pairs(rows, 4, k, a, lda, b, s);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        __m512 part = _mm512_loadu_ps(parts[r]);

#pragma GCC unroll 2
        for (int v = 0; v < 4; v += 2) {
            const __m512 e = exp2_of(_mm512_max_ps(least, s[r * 4 + v]));
            const __m512 f = exp2_of(_mm512_max_ps(least, s[r * 4 + v + 1]));

            part = _mm512_add_ps(part, _mm512_add_ps(e, f));
            _mm512_storeu_si512(p + r * ldp + 16 * v,
                                (__m512i)_mm512_cvtne2ps_pbh(f, e));
        }
        _mm512_storeu_ps(parts[r], part);
    }
}

NATIVE static void native_weights(int64_t m, int64_t n, int64_t k,
                                  const uint16_t *a, int64_t lda,
                                  const uint16_t *b, const float *max,
                                  uint16_t *p, int64_t ldp, float (*parts)[16])
{
    for (int64_t c = 0; c < n; c += WEIGHTS_COLS, b += WEIGHTS_COLS * k) {
        int64_t i = 0;

        for (; i + ROWS_4 <= m; i += ROWS_4)
            weights_tile(ROWS_4, k, a + i * lda, lda, b, max + i,
                         p + i * ldp + c, ldp, parts + i);
        for (; i < m; i++)
            weights_tile(1, k, a + i * lda, lda, b, max + i, p + i * ldp + c,
                         ldp, parts + i);
    }
}

#elif WAN_KNOWS_NEON

#define native_round plain_round
#define native_pack_rows16 wan_neon_pack_rows16
#define native_pack_rows wan_neon_pack_rows
#define native_pack wan_neon_pack
#define native_panel wan_neon_panel
#define native_max plain_max
#define native_exp2 wan_neon_exp2

#endif

#if WAN_KNOWS_BF16 || WAN_KNOWS_NEON
#define EITHER(name, ...) \
    (wan_bf16_native() && !plain ? native_##name(__VA_ARGS__) \
                                 : plain_##name(__VA_ARGS__))

#else

#define EITHER(name, ...) plain_##name(__VA_ARGS__)

#endif

/* --------------------------------------------------------- either of them */

void wan_bf16_round(uint16_t *dst, const float *src, int64_t n, float scale)
{
    EITHER(round, dst, src, n, scale);
    for (; n % WAN_BF16_DEPTH; n++)
        dst[n] = 0;
}

void wan_bf16_pack_rows16(uint16_t *b, const uint16_t *w, int64_t ld,
                          int64_t n, int64_t k)
{
    EITHER(pack_rows16, b, w, ld, n, k);
}

void wan_bf16_pack_rows(uint16_t *b, const float *w, int64_t ld, int64_t n,
                        int64_t k)
{
    EITHER(pack_rows, b, w, ld, n, k);
}

void wan_bf16_pack(uint16_t *b, const float *v, int64_t ld, int64_t n,
                   int64_t k)
{
    EITHER(pack, b, v, ld, n, k);
}

void wan_bf16_product(int64_t m, int64_t n, int64_t k, int taps,
                      const int64_t *shift, const uint16_t *a, int64_t lda,
                      const uint16_t *b, int add, float *c, int64_t ldc)
{
    static const int64_t none;
    int cols;

    shift = shift ? shift : &none;
#if WAN_KNOWS_AMX
    if (!plain && wan_amx_bf16()) {
        wan_amx_bf16_product(m, n, k, taps, shift, a, lda, b, add, c, ldc);
        return;
    }
#endif
    for (int64_t from = 0; from < n; from += cols) {
        cols = wan_bf16_panel(n - from);
        EITHER(panel, m, cols, k, taps, shift, a, lda, b, add, c + from, ldc);
        b += taps * k * cols;
    }
}

float wan_bf16_max(const float *s, int64_t n)
{
    return EITHER(max, s, n);
}

float wan_bf16_exp2(uint16_t *p, const float *s, int64_t n, float max,
                    float *above)
{
    for (int64_t i = n; i % WAN_BF16_COLS; i++)
        p[i] = 0;
    return EITHER(exp2, p, s, n, max, above);
}

int wan_bf16_weights(int64_t m, int64_t n, int64_t k, const uint16_t *a,
                     int64_t lda, const uint16_t *b, const float *max,
                     uint16_t *p, int64_t ldp, float (*parts)[16])
{
#if WAN_KNOWS_AMX
    if (wan_amx_bf16())
        return 0;
#endif
#if WAN_KNOWS_BF16
    if (!plain && wan_bf16_native() && n % WEIGHTS_COLS == 0) {
        memset(parts, 0, m * sizeof(*parts));
        native_weights(m, n, k, a, lda, b, max, p, ldp, parts);
        return 1;
    }
#else
    (void)m, (void)n, (void)k, (void)a, (void)lda, (void)b, (void)max, (void)p,
    (void)ldp, (void)parts;
#endif
    return 0;
}
