/*
 * Products of factors in 8 bits, with scales.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Built as bf16.c is: plain loops, and the same with intrinsics, for arm64 in
 * neon.c.
 *
 * Packed blocks lie in panels of 32 columns, or 16 at the end and on arm64. Each
 * block of a panel is ten vectors for 16 columns: what their sums begin as,
 * since a's numbers have 128 added, their scales, and eight times four inputs.
 * A product holds a block's sums and those in F32 in registers, so half as many
 * tiles of each: 6 x 2 or 12 x 1.
 */

#include <math.h>
#include <string.h>

#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"

#include "amx.h"
#include "avx512.h"
#include "bf16.h"
#include "int8.h"
#include "neon.h"
#include "simd.h"

#define ROWS 96                 // that stay in the cache from panel to panel

static int plain;               // although there is better: a test's wish

void wan_int8_plain(int yes)
{
    plain = yes;
}

int wan_int8_native(void)
{
#if WAN_KNOWS_BF16
    return wan_has_avx512() && __builtin_cpu_supports("avx512vnni");
#elif WAN_KNOWS_NEON
    return wan_neon_int8();
#else
    return 0;
#endif
}

static int no_bf16;             // a test's wish

void wan_int8_no_bf16(int yes)
{
    no_bf16 = yes;
}

int wan_int8_beside_f32(void)
{
    return no_bf16 || (wan_int8_native() && !wan_bf16_native());
}

/* ---------------------------------------------------------- plain loops */

/* Of the bits of magnitudes, which are in the order of the numbers, NaN last. */
static float largest(uint32_t bits)
{
    return bits < 0x7f800000 ? wan_bits_f32(bits) : NAN;
}

WAN_INLINE int32_t whole(float f)
{
    return (int32_t)wan_f32_bits(f + 12582912.0f) - 0x4b400000;
}

WAN_SIMD static uint32_t plain_largest(const float *src, int64_t k)
{
    uint32_t most = 0;

    for (int64_t i = 0; i < k; i++) {
        const uint32_t u = wan_f32_bits(src[i]) & 0x7fffffff;

        most = u > most ? u : most;
    }
    return most;
}

/* No number is above 127, but a product that is looked at is not fused with the
 * sum that rounds it: the bits are those of machines that fuse nothing. */
WAN_INLINE int32_t scaled(float number, float by)
{
    const float f = number * by;

    return whole(wan_choose(f > 127, 127, f));
}

WAN_SIMD static void plain_round8(uint8_t *dst, const float *src, int64_t k,
                                 float by)
{
    WAN_APART
    for (int64_t i = 0; i < k; i++)
        dst[i] = (uint8_t)(scaled(src[i], by) + 128);
}

static float number(const void *w, WanType type, int64_t at)
{
    uint16_t h;

    if (type != WAN_BF16)
        return ((const float *)w)[at];
    memcpy(&h, (const uint16_t *)w + at, sizeof(h));
    return wan_bits_f32((uint32_t)h << 16);
}

/* The largest magnitude's bits and the sum of squares of a column. */
static uint32_t plain_column(const void *w, WanType type, int64_t at,
                             int64_t k, float *squares)
{
    uint32_t most = 0;

    *squares = 0;
    for (int64_t i = 0; i < k; i++) {
        const float f = number(w, type, at + i);
        const uint32_t u = wan_f32_bits(f) & 0x7fffffff;

        *squares += f * f;
        most = u > most ? u : most;
    }
    return most;
}

/* Sixteen columns of a panel that is so wide; absent ones are 0. */
static void plain_pack(int8_t *b, int cols, const void *w, WanType type,
                       int64_t ld, int64_t n, int64_t k, const float *by,
                       int32_t *sum)
{
    for (int c = 0; c < WAN_BF16_COLS; c++) {
        sum[c] = 0;
        for (int64_t i = 0; i < wan_int8_depth(k); i++) {
            int8_t *out = b + i / 4 * 4 * cols + 4 * c + i % 4;

            *out = c < n && i < k
                 ? (int8_t)scaled(number(w, type, c * ld + i), by[c]) : 0;
            sum[c] += *out;
        }
    }
}

typedef WanInt8Result Result;

WAN_INLINE Result at(const Result *to, int64_t row, int64_t col)
{
    Result r = *to;

    r.scale += row * r.step;
    if (r.by) {
        r.by += col;
        r.sum += col;
    }
    r.c += row * r.ld + col;
    return r;
}

/* 16 sums of a row, less what 128 in each number of a adds. */
WAN_INLINE void put(const Result *out, const int32_t *sum)
{
    for (int l = 0; l < WAN_BF16_COLS; l++) {
        const float s = (float)(sum[l] - 128 * out->sum[l]);
        const float by = out->scale[0] * out->by[l];

        out->c[l] = out->add ? out->c[l] + s * by : s * by;
    }
}

WAN_SIMD static void plain_panel8(int64_t m, int cols, int64_t k,
                                 const uint8_t *a, int64_t lda,
                                 const int8_t *b, const Result *to)
{
    for (int64_t r = 0; r < m; r++)
        for (int j = 0; j < cols; j += WAN_BF16_COLS) {
            const Result out = at(to, r, j);
            int32_t sum[WAN_BF16_COLS] = { 0 };

            for (int64_t i = 0; i < k; i += 4)
                for (int l = 0; l < WAN_BF16_COLS; l++)
                    for (int q = 0; q < 4; q++)
                        sum[l] += a[r * lda + i + q] *
                                  b[i * cols + 4 * (j + l) + q];
            put(&out, sum);
        }
}

#if WAN_KNOWS_AMX

/* What leaves tiles, see wan_amx_int8_product(). */
WAN_SIMD static void put_block(const void *opaque, int64_t row, int64_t col,
                               int64_t rows, int64_t cols, const int32_t *sum)
{
    for (int64_t r = 0; r < rows; r++, sum += WAN_AMX_COLS)
        for (int64_t j = 0; j < cols; j += WAN_BF16_COLS) {
            const Result out = at(opaque, row + r, col + j);

            put(&out, sum + j);
        }
}

#endif

#define Q8_0_BYTES 34           // two of the scale, F16, and the numbers

/* As plain_pack(), of blocks; rows of w ld bytes apart. A scale that is infinite
 * becomes NaN: infinities of either sign are summed. */
static void plain_pack_blocks(int8_t *b, int cols, const char *w, int64_t ld,
                              int64_t n, int64_t blocks)
{
    for (int64_t i = 0; i < blocks; i++, b += WAN_INT8_BLOCK_BYTES * cols)
        for (int c = 0; c < WAN_BF16_COLS; c++) {
            char block[Q8_0_BYTES] = { 0 };
            int32_t start = 0;
            uint16_t scale;
            float by;

            if (c < n)
                memcpy(block, w + c * ld + i * Q8_0_BYTES, sizeof(block));
            memcpy(&scale, block, sizeof(scale));
            by = wan_f16_to_f32(scale);
            by += by - by;
            for (int j = 0; j < WAN_INT8_BLOCK; j++) {
                const int8_t v = (int8_t)block[2 + j];

                b[(2 + j / 4) * 4 * cols + 4 * c + j % 4] = v;
                start -= 128 * v;
            }
            memcpy(b + 4 * c, &start, sizeof(start));
            memcpy(b + 4 * (cols + c), &by, sizeof(by));
        }
}

/* fmaf(): the bits of the instructions, also where nothing is fused. */
WAN_SIMD static void plain_blocks(int64_t m, int cols, int64_t k,
                                  const uint8_t *a, int64_t lda,
                                  const int8_t *b, const Result *to)
{
    for (int64_t r = 0; r < m; r++)
        for (int j = 0; j < cols; j += WAN_BF16_COLS) {
            const Result out = at(to, r, j);
            const int8_t *block = b + 4 * j;
            float total[WAN_BF16_COLS] = { 0 };

            for (int64_t i = 0; i < k; i += WAN_INT8_BLOCK,
                 block += WAN_INT8_BLOCK_BYTES * cols) {
                int32_t sum[WAN_BF16_COLS];
                float by[WAN_BF16_COLS];

                memcpy(sum, block, sizeof(sum));
                memcpy(by, block + 4 * cols, sizeof(by));
                for (int p = 0; p < WAN_INT8_BLOCK; p += 4)
                    for (int l = 0; l < WAN_BF16_COLS; l++)
                        for (int q = 0; q < 4; q++)
                            sum[l] += a[r * lda + i + p + q] *
                                      block[(8 + p) * cols + 4 * l + q];
                for (int l = 0; l < WAN_BF16_COLS; l++)
                    total[l] = fmaf((float)sum[l], by[l], total[l]);
            }
            for (int l = 0; l < WAN_BF16_COLS; l++)
                out.c[l] = out.add ? fmaf(total[l], out.scale[0], out.c[l])
                                   : total[l] * out.scale[0];
        }
}

/* -------------------------------------------------------- AVX512-VNNI */

#if WAN_KNOWS_BF16

NATIVE static uint32_t native_largest(const float *src, int64_t k)
{
    const __m512i sign = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_setzero_si512();

    for (int64_t i = 0; i < k; i += 16) {
        const __m512i u = _mm512_maskz_loadu_epi32(first(k - i), src + i);

        most = _mm512_max_epu32(most, _mm512_and_si512(u, sign));
    }
    return _mm512_reduce_max_epu32(most);
}

NATIVE static void native_round8(uint8_t *dst, const float *src, int64_t k,
                                float by)
{
    const __m512 scale = _mm512_set1_ps(by);
    const __m512i middle = _mm512_set1_epi32(128);

    for (int64_t i = 0; i < k; i += 16) {
        const __mmask16 m = first(k - i);
        const __m512i u = _mm512_cvtps_epi32(
            _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(m, src + i)));

        _mm_mask_storeu_epi8(dst + i, m, _mm512_cvtepi32_epi8(
            _mm512_add_epi32(u, middle)));
    }
}

/* Sixteen numbers of a column from `at` on, as far as there are so many. */
NATIVE_INLINE __m512 sixteen(const void *w, int bf16, int64_t at, int64_t left)
{
    const __mmask16 m = first(left);

    if (!bf16)
        return _mm512_maskz_loadu_ps(m, (const float *)w + at);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(
        _mm256_maskz_loadu_epi16(m, (const uint16_t *)w + at)), 16));
}

NATIVE_INLINE uint32_t column(const void *w, int bf16, int64_t at, int64_t k,
                              float *squares)
{
    const __m512i sign = _mm512_set1_epi32(0x7fffffff);
    __m512i most[2] = { _mm512_setzero_si512(), _mm512_setzero_si512() };
    __m512 sum[2] = { _mm512_setzero_ps(), _mm512_setzero_ps() };

    for (int64_t i = 0; i < k; i += 32)
        for (int j = 0; j < 2; j++) {
            const __m512 f = sixteen(w, bf16, at + i + 16 * j, k - i - 16 * j);

            sum[j] = _mm512_fmadd_ps(f, f, sum[j]);
            most[j] = _mm512_max_epu32(most[j], _mm512_and_si512(
                _mm512_castps_si512(f), sign));
        }
    *squares = _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
    return _mm512_reduce_max_epu32(_mm512_max_epu32(most[0], most[1]));
}

NATIVE static uint32_t native_column(const void *w, WanType type, int64_t at,
                                     int64_t k, float *squares)
{
    return type == WAN_BF16 ? column(w, 1, at, k, squares)
                            : column(w, 0, at, k, squares);
}

NATIVE_INLINE void pack(int8_t *b, int cols, const void *w, int bf16,
                        int64_t ld, int64_t n, int64_t k, const float *by,
                        int32_t *sum)
{
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i total = _mm512_setzero_si512();

    for (int64_t i = 0; i < k; i += 64) {
        __m512i r[16];

        for (int c = 0; c < 16; c++) {
            __m128i part[4];

#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                part[j] = c < n ? _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(
                    _mm512_mul_ps(_mm512_set1_ps(by[c]),
                                  sixteen(w, bf16, c * ld + i + 16 * j,
                                          k - i - 16 * j))))
                                : _mm_setzero_si128();
            r[c] = _mm512_inserti32x4(_mm512_inserti32x4(_mm512_inserti32x4(
                _mm512_castsi128_si512(part[0]), part[1], 1), part[2], 2),
                part[3], 3);
        }
        turn(r);
#pragma GCC unroll 16
        for (int q = 0; q < 16; q++) {
            total = _mm512_dpbusd_epi32(total, ones, r[q]);
            _mm512_storeu_si512(b + (i + 4 * q) * cols, r[q]);
        }
    }
    _mm512_storeu_si512(sum, total);
}

NATIVE static void native_pack(int8_t *b, int cols, const void *w,
                               WanType type, int64_t ld, int64_t n, int64_t k,
                               const float *by, int32_t *sum)
{
    if (type == WAN_BF16)
        pack(b, cols, w, 1, ld, n, k, by, sum);
    else
        pack(b, cols, w, 0, ld, n, k, by, sum);
}

/* Of the intrinsic gcc copies each sum and writes it to the stack. */
NATIVE_INLINE void multiply_add(__m512i *sum, __m512i u8, __m512i s8)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(u8), "v"(s8));
}

/* What four inputs add to a tile of sums; rows and vectors are constants. */
NATIVE_INLINE void add_inputs(__m512i *sum, int rows, int vectors,
                              const uint8_t *a, int64_t lda, const int8_t *b)
{
    __m512i w[4];

#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        w[v] = _mm512_loadu_si512(b + 64 * v);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        int32_t x;

        memcpy(&x, a + r * lda, sizeof(x));

        const __m512i xr = _mm512_set1_epi32(x);

#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            multiply_add(&sum[r * vectors + v], xr, w[v]);
    }
}

/* 16 of a row: (c +) s by */
NATIVE_INLINE void put_row(float *c, int add, __m512 s, __m512 by)
{
    _mm512_storeu_ps(c, add ? _mm512_fmadd_ps(s, by, _mm512_loadu_ps(c))
                            : _mm512_mul_ps(s, by));
}

/* One tile of sums; rows and vectors are constants. They begin as what 128 in
 * each number of a adds, taken off. */
NATIVE_INLINE void tile(int rows, int vectors, int64_t k, const uint8_t *a,
                        int64_t lda, const int8_t *b, const Result *to)
{
    __m512i sum[24];

#pragma GCC unroll 24
    for (int i = 0; i < rows * vectors; i++)
        sum[i] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(
            _mm512_loadu_si512(to->sum + 16 * (i % vectors)), 7));
    for (int64_t i = 0; i < k; i += 4, a += 4, b += 64 * vectors)
        add_inputs(sum, rows, vectors, a, lda, b);
#pragma GCC unroll 24
    for (int i = 0; i < rows * vectors; i++) {
        const int64_t r = i / vectors, v = i % vectors;
        const __m512 by = _mm512_mul_ps(
            _mm512_set1_ps(to->scale[r * to->step]),
            _mm512_loadu_ps(to->by + 16 * v));

        put_row(to->c + r * to->ld + 16 * v, to->add,
                _mm512_cvtepi32_ps(sum[i]), by);
    }
}

NATIVE static void native_pack_blocks(int8_t *b, int cols, const char *w,
                                      int64_t ld, int64_t n, int64_t blocks)
{
    const __m512i ones = _mm512_set1_epi8(1);

    for (int64_t i = 0; i < blocks; i += 2) {
        const int both = i + 1 < blocks;
        uint16_t scale[2][16] = { { 0 } };
        __m512i r[16];

        for (int c = 0; c < 16; c++) {
            const char *p = w + c * ld + i * Q8_0_BYTES;
            __m256i part[2] = { _mm256_setzero_si256(),
                                _mm256_setzero_si256() };

            for (int h = 0; h <= both && c < n; h++, p += Q8_0_BYTES) {
                memcpy(&scale[h][c], p, sizeof(scale[h][c]));
                part[h] = _mm256_loadu_si256((const __m256i *)(p + 2));
            }
            r[c] = _mm512_inserti64x4(_mm512_castsi256_si512(part[0]), part[1],
                                      1);
        }
        turn(r);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++, b += WAN_INT8_BLOCK_BYTES * cols) {
            __m512i total = _mm512_setzero_si512();

            if (h > both)
                break;
#pragma GCC unroll 8
            for (int q = 0; q < 8; q++) {
                total = _mm512_dpbusd_epi32(total, ones, r[8 * h + q]);
                _mm512_storeu_si512(b + (2 + q) * 4 * cols, r[8 * h + q]);
            }
            _mm512_storeu_si512(b, _mm512_sub_epi32(
                _mm512_setzero_si512(), _mm512_slli_epi32(total, 7)));

            const __m512 by = _mm512_cvtph_ps(
                _mm256_loadu_si256((const __m256i *)scale[h]));

            _mm512_storeu_ps(b + 4 * cols, _mm512_add_ps(by, _mm512_sub_ps(
                by, by)));
        }
    }
}

/* As tile(), of blocks: of each the sums are scaled before the next. */
NATIVE_INLINE void tile_blocks(int rows, int vectors, int64_t k,
                               const uint8_t *a, int64_t lda, const int8_t *b,
                               const Result *to)
{
    __m512 total[12];

#pragma GCC unroll 12
    for (int i = 0; i < rows * vectors; i++)
        total[i] = _mm512_setzero_ps();
    for (; k > 0; k -= WAN_INT8_BLOCK) {
        const int8_t *by = b + 64 * vectors;
        __m512i sum[12];

#pragma GCC unroll 12
        for (int i = 0; i < rows * vectors; i++)
            sum[i] = _mm512_loadu_si512(b + 64 * (i % vectors));
        b += 2 * 64 * vectors;
#pragma GCC unroll 8
        for (int q = 0; q < 8; q++, a += 4, b += 64 * vectors)
            add_inputs(sum, rows, vectors, a, lda, b);
#pragma GCC unroll 12
        for (int i = 0; i < rows * vectors; i++)
            total[i] = _mm512_fmadd_ps(
                _mm512_cvtepi32_ps(sum[i]),
                _mm512_loadu_ps(by + 64 * (i % vectors)), total[i]);
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows * vectors; i++) {
        const int64_t r = i / vectors, v = i % vectors;

        put_row(to->c + r * to->ld + 16 * v, to->add, total[i],
                _mm512_set1_ps(to->scale[r * to->step]));
    }
}

/* All rows of a panel of so many vectors. */
#define PANEL(name, tile, vectors, most)                                      \
NATIVE static void native_##name##_##vectors(int64_t m, int64_t k,            \
                                             const uint8_t *a, int64_t lda,   \
                                             const int8_t *b,                 \
                                             const Result *to)                \
{                                                                             \
    Result c = *to;                                                           \
                                                                              \
    for (; m >= most; m -= most, a += most * lda, c = at(&c, most, 0))        \
        tile(most, vectors, k, a, lda, b, &c);                                \
    if (most > 6 && m >= 6) {                                                 \
        tile(6, vectors, k, a, lda, b, &c);                                   \
        m -= 6, a += 6 * lda, c = at(&c, 6, 0);                               \
    }                                                                         \
    switch (m) {                                                              \
    case 1: tile(1, vectors, k, a, lda, b, &c); break;                        \
    case 2: tile(2, vectors, k, a, lda, b, &c); break;                        \
    case 3: tile(3, vectors, k, a, lda, b, &c); break;                        \
    case 4: tile(4, vectors, k, a, lda, b, &c); break;                        \
    case 5: tile(5, vectors, k, a, lda, b, &c); break;                        \
    }                                                                         \
}
PANEL(panel, tile, 4, 6)
PANEL(panel, tile, 3, 8)
PANEL(panel, tile, 2, 12)
PANEL(panel, tile, 1, 12)
PANEL(blocks, tile_blocks, 2, 6)
PANEL(blocks, tile_blocks, 1, 12)

static void native_panel8(int64_t m, int cols, int64_t k, const uint8_t *a,
                         int64_t lda, const int8_t *b, const Result *to)
{
    switch (cols / 16) {
    case 4: native_panel_4(m, k, a, lda, b, to); break;
    case 3: native_panel_3(m, k, a, lda, b, to); break;
    case 2: native_panel_2(m, k, a, lda, b, to); break;
    default: native_panel_1(m, k, a, lda, b, to); break;
    }
}

static void native_blocks(int64_t m, int cols, int64_t k, const uint8_t *a,
                          int64_t lda, const int8_t *b, const Result *to)
{
    if (cols > 16)
        native_blocks_2(m, k, a, lda, b, to);
    else
        native_blocks_1(m, k, a, lda, b, to);
}

#elif WAN_KNOWS_NEON

#define native_largest plain_largest
#define native_round8 plain_round8
#define native_column wan_neon_column8
#define native_pack wan_neon_pack8
#define native_panel8 wan_neon_panel8
#define native_pack_blocks wan_neon_pack_blocks
#define native_blocks wan_neon_blocks

#endif

#if WAN_KNOWS_BF16 || WAN_KNOWS_NEON
#define EITHER(name, ...) \
    (wan_int8_native() && !plain ? native_##name(__VA_ARGS__) \
                                 : plain_##name(__VA_ARGS__))

#else

#define EITHER(name, ...) plain_##name(__VA_ARGS__)

#endif

/* --------------------------------------------------------- either of them */

/* So that the largest becomes 127; 0 has no scale. */
static float scale_of(float most)
{
    return most / 127;
}

static float inverse(float scale)
{
    return scale >= 0x1p-126f ? 1 / scale : 0;
}

float wan_int8_round(uint8_t *dst, const float *src, int64_t k)
{
    const float scale = scale_of(largest(EITHER(largest, src, k)));

    EITHER(round8, dst, src, k, inverse(scale));
    memset(dst + k, 128, wan_int8_depth(k) - k);
    return scale;
}

/* Whether rounding in steps of scale, off by a twelfth of its square on
 * average, costs a column of k numbers too much of its norm. */
static int too_rough(float scale, int64_t k, float squares)
{
    const float lost = scale * scale / 12 * (float)k;

    return !(lost <= (float)(WAN_INT8_LOSS * WAN_INT8_LOSS) * squares);
}

int wan_int8_pack(int8_t *b, WanInt8Columns *columns, int at, const void *w,
                  WanType type, int64_t ld, int64_t n, int64_t k)
{
    const int64_t size = type == WAN_BF16 ? sizeof(uint16_t) : sizeof(float);
    int rough = 0, cols;

    for (int64_t from = 0; from < n; from += cols) {
        cols = wan_bf16_panel(n - from);
        for (int64_t c = from; c < from + cols; c += WAN_BF16_COLS) {
            const int64_t have = n - c < WAN_BF16_COLS ? n - c
                                                       : WAN_BF16_COLS;
            const void *rows = (const char *)w + c * ld * size;
            float by[WAN_BF16_COLS] = { 0 };

            for (int64_t i = 0; i < have; i++) {
                float squares;
                const float scale = scale_of(largest(
                    EITHER(column, rows, type, i * ld, k, &squares)));

                rough += too_rough(scale, k, squares);
                columns->scale[at + c + i] = scale;
                by[i] = inverse(scale);
            }
            for (int64_t i = have; i < WAN_BF16_COLS; i++)
                columns->scale[at + c + i] = 0;
            EITHER(pack, b + from * wan_int8_depth(k) + 4 * (c - from), cols,
                   rows, type, ld, have, k, by, columns->sum + at + c);
        }
    }
    return rough;
}

void wan_int8_product(int64_t m, int64_t n, int64_t k, const uint8_t *a,
                      int64_t lda, const float *scale, int64_t step,
                      const int8_t *b, const WanInt8Columns *columns, int add,
                      float *c, int64_t ldc)
{
    const Result to = { scale, step, columns->scale, columns->sum, add, c,
                        ldc };
    int cols;

#if WAN_KNOWS_AMX
    if (!plain && wan_amx_int8()) {
        wan_amx_int8_product(m, n, k, a, lda, b, put_block, &to);
        return;
    }
#endif
    for (int64_t r = 0; r < m; r += ROWS) {
        const int64_t rows = m - r < ROWS ? m - r : ROWS;
        const int8_t *panel = b;

        for (int64_t from = 0; from < n; from += cols) {
            const Result part = at(&to, r, from);

            cols = wan_bf16_panel(n - from);
            EITHER(panel8, rows, cols, k, a + r * lda, lda, panel, &part);
            panel += k * cols;
        }
    }
}

/* Columns of the panel of blocks that begins where so many are left. */
static int blocks_panel(int64_t left)
{
    const int cols = wan_bf16_panel(left);

    return cols > 2 * WAN_BF16_COLS ? 2 * WAN_BF16_COLS : cols;
}

void wan_int8_pack_blocks(int8_t *b, const void *w, int64_t ld, int64_t n,
                          int64_t k)
{
    const int64_t row = ld / WAN_INT8_BLOCK * Q8_0_BYTES;
    const int64_t blocks = k / WAN_INT8_BLOCK;
    int cols;

    for (int64_t from = 0; from < n; from += cols) {
        cols = blocks_panel(n - from);
        for (int c = 0; c < cols; c += WAN_BF16_COLS)
            EITHER(pack_blocks, b + 4 * c, cols,
                   (const char *)w + (from + c) * row, row, n - from - c,
                   blocks);
        b += wan_int8_blocks_bytes(cols, k);
    }
}

void wan_int8_product_blocks(int64_t m, int64_t n, int64_t k,
                             const uint8_t *a, int64_t lda,
                             const float *scale, int64_t step,
                             const int8_t *b, int add, float *c, int64_t ldc)
{
    const Result to = { .scale = scale, .step = step, .add = add, .c = c,
                        .ld = ldc };
    int cols;

    for (int64_t r = 0; r < m; r += ROWS) {
        const int64_t rows = m - r < ROWS ? m - r : ROWS;
        const int8_t *panel = b;

        for (int64_t from = 0; from < n; from += cols) {
            const Result part = at(&to, r, from);

            cols = blocks_panel(n - from);
            EITHER(blocks, rows, cols, k, a + r * lda, lda, panel, &part);
            panel += wan_int8_blocks_bytes(cols, k);
        }
    }
}
