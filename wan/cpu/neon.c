/*
 * Products in BF16 and 8 bits by arm64's own instructions.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A register has four columns of b and, of a row of a, four pairs of BF16 or
 * four times four of 8 bits; an instruction (bfdot, sudot) takes one of these
 * for all four columns. A product holds 6 rows x 16 columns in 24 of the 32
 * registers, has 6 for a, and for b two: of 22 loads it makes 96 of these. In
 * blocks of 8 bits, which have two sums, it is 6 x 8, and 14 loads make 48.
 *
 * The instructions are called by name: clang below 16 has functions for them
 * only where all it compiles may use them.
 */

#include "neon.h"

#if WAN_KNOWS_NEON

/* All of this file, whatever processor the others are compiled for. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("bf16,i8mm"))), \
                             apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+bf16+i8mm")
#pragma GCC optimize("no-schedule-insns")   // it moves loads up, sums to memory
#endif

#include <arm_neon.h>
#include <string.h>
#include <sys/auxv.h>

#include "bf16.h"
#include "simd.h"

enum { ROWS = 6 };              // of a tile

int wan_neon_bf16(void)
{
    return getauxval(AT_HWCAP2) >> 14 & 1;      // HWCAP2_BF16
}

int wan_neon_int8(void)
{
    return getauxval(AT_HWCAP2) >> 13 & 1;      // HWCAP2_I8MM
}

/* ----------------------------------------------------- the instructions */

/* sum += w x, of x one pair or four numbers for all columns of w. */
#define LANE(i) \
WAN_INLINE float32x4_t dot_##i(float32x4_t sum, uint16x8_t w, uint16x8_t x)   \
{                                                                             \
    __asm__("bfdot %0.4s, %1.8h, %2.2h[" #i "]"                               \
            : "+w"(sum) : "w"(w), "w"(x));                                    \
    return sum;                                                               \
}                                                                             \
WAN_INLINE int32x4_t dot8_##i(int32x4_t sum, int8x16_t w, uint8x16_t x)       \
{                                                                             \
    __asm__("sudot %0.4s, %1.16b, %2.4b[" #i "]"                              \
            : "+w"(sum) : "w"(w), "w"(x));                                    \
    return sum;                                                               \
}
LANE(0)
LANE(1)
LANE(2)
LANE(3)

WAN_INLINE float32x4_t dot(float32x4_t sum, uint16x8_t w, uint16x8_t x,
                           int lane)
{
    return lane == 0 ? dot_0(sum, w, x) : lane == 1 ? dot_1(sum, w, x)
         : lane == 2 ? dot_2(sum, w, x) : dot_3(sum, w, x);
}

WAN_INLINE int32x4_t dot8(int32x4_t sum, int8x16_t w, uint8x16_t x, int lane)
{
    return lane == 0 ? dot8_0(sum, w, x) : lane == 1 ? dot8_1(sum, w, x)
         : lane == 2 ? dot8_2(sum, w, x) : dot8_3(sum, w, x);
}

/* sum += the four numbers of each word of w */
WAN_INLINE int32x4_t add_up(int32x4_t sum, int8x16_t w)
{
    __asm__("usdot %0.4s, %1.16b, %2.16b"
            : "+w"(sum) : "w"(vdupq_n_u8(1)), "w"(w));
    return sum;
}

WAN_INLINE uint16x4_t to_bf16(float32x4_t f)
{
    uint16x4_t h;

    __asm__("bfcvtn %0.4h, %1.4s" : "=w"(h) : "w"(f));
    return h;
}

/* Four times four words, turned. */
WAN_INLINE void turn(uint32x4_t r[4])
{
    const uint32x4x2_t a = vtrnq_u32(r[0], r[1]), b = vtrnq_u32(r[2], r[3]);

    for (int i = 0; i < 2; i++) {
        r[i] = vcombine_u32(vget_low_u32(a.val[i]), vget_low_u32(b.val[i]));
        r[2 + i] = vcombine_u32(vget_high_u32(a.val[i]),
                                vget_high_u32(b.val[i]));
    }
}

/* ------------------------------------------------------------- packing */

/* Eight numbers, 0 behind those that are there. */
WAN_INLINE uint16x8_t eight(const void *w, int bf16, int64_t at, int64_t left)
{
    uint16_t h[8] = { 0 };
    float f[8] = { 0 };

    if (bf16) {
        const uint16_t *in = (const uint16_t *)w + at;

        if (left >= 8)
            return vld1q_u16(in);
        memcpy(h, in, left * sizeof(*h));
        return vld1q_u16(h);
    }

    const float *in = (const float *)w + at;

    if (left < 8) {
        memcpy(f, in, left * sizeof(*f));
        in = f;
    }
    return vcombine_u16(to_bf16(vld1q_f32(in)), to_bf16(vld1q_f32(in + 4)));
}

/* Of W [n, k]: four columns by eight inputs at a time. */
WAN_INLINE void pack_rows(uint16_t *b, const void *w, int bf16, int64_t ld,
                          int64_t n, int64_t k)
{
    const int64_t depth = wan_bf16_depth(k);

    for (int64_t from = 0; from < n; from += 16, b += 16 * depth)
        for (int64_t i = 0; i < depth; i += 8)
            for (int c = 0; c < 16; c += 4) {
                uint16_t *out = b + 16 * i + 2 * c;
                uint32x4_t r[4];

                for (int j = 0; j < 4; j++)
                    r[j] = from + c + j < n
                         ? vreinterpretq_u32_u16(eight(w, bf16,
                               (from + c + j) * ld + i, k - i))
                         : vdupq_n_u32(0);
                turn(r);
                for (int j = 0; j < 4; j++)
                    if (i + 2 * j < depth)
                        vst1q_u16(out + 32 * j, vreinterpretq_u16_u32(r[j]));
            }
}

void wan_neon_pack_rows16(uint16_t *b, const uint16_t *w, int64_t ld,
                          int64_t n, int64_t k)
{
    pack_rows(b, w, 1, ld, n, k);
}

void wan_neon_pack_rows(uint16_t *b, const float *w, int64_t ld, int64_t n,
                        int64_t k)
{
    pack_rows(b, w, 0, ld, n, k);
}

/* Of B [k, n]: two rows of eight are two vectors of pairs. */
void wan_neon_pack(uint16_t *b, const float *v, int64_t ld, int64_t n,
                   int64_t k)
{
    for (int64_t from = 0; from < n; from += 16)
        for (int64_t i = 0; i < k; i += 2)
            for (int64_t c = from; c < from + 16; c += 8, b += 16) {
                uint16x8x2_t pair = { { vdupq_n_u16(0), vdupq_n_u16(0) } };

                for (int j = 0; j < 2; j++)
                    if (c < n && i + j < k)
                        pair.val[j] = eight(v, 0, (i + j) * ld + c, n - c);
                vst2q_u16(b, pair);
            }
}

/* Four numbers of a column as F32, 0 behind those that are left. */
WAN_INLINE float32x4_t four(const void *w, int bf16, int64_t at, int64_t left)
{
    uint16_t h[4] = { 0 };
    float f[4] = { 0 };

    if (left >= 4)
        return bf16 ? vreinterpretq_f32_u32(vshll_n_u16(
                          vld1_u16((const uint16_t *)w + at), 16))
                    : vld1q_f32((const float *)w + at);
    if (left > 0 && bf16)
        memcpy(h, (const uint16_t *)w + at, left * sizeof(*h));
    else if (left > 0)
        memcpy(f, (const float *)w + at, left * sizeof(*f));
    return bf16 ? vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(h), 16))
                : vld1q_f32(f);
}

WAN_INLINE uint32_t column8(const void *w, int bf16, int64_t at, int64_t k,
                            float *squares)
{
    const uint32x4_t sign = vdupq_n_u32(0x7fffffff);
    uint32x4_t most[2] = { vdupq_n_u32(0), vdupq_n_u32(0) };
    float32x4_t sum[2] = { vdupq_n_f32(0), vdupq_n_f32(0) };

    for (int64_t i = 0; i < k; i += 8)
        for (int j = 0; j < 2; j++) {
            const float32x4_t f = four(w, bf16, at + i + 4 * j,
                                       k - i - 4 * j);

            sum[j] = vfmaq_f32(sum[j], f, f);
            most[j] = vmaxq_u32(most[j], vandq_u32(vreinterpretq_u32_f32(f),
                                                   sign));
        }
    *squares = vaddvq_f32(vaddq_f32(sum[0], sum[1]));
    return vmaxvq_u32(vmaxq_u32(most[0], most[1]));
}

uint32_t wan_neon_column8(const void *w, WanType type, int64_t at, int64_t k,
                          float *squares)
{
    return type == WAN_BF16 ? column8(w, 1, at, k, squares)
                            : column8(w, 0, at, k, squares);
}

/* Sixteen numbers of a column, rounded to the nearest of `by` of them. */
WAN_INLINE uint32x4_t sixteen(const void *w, int bf16, int64_t at,
                              int64_t left, float by)
{
    int16x8_t half[2];

    for (int i = 0; i < 2; i++) {
        int32x4_t n[2];

        for (int j = 0; j < 2; j++) {
            const int from = 8 * i + 4 * j;

            n[j] = vcvtnq_s32_f32(vmulq_n_f32(
                four(w, bf16, at + from, left >= 16 ? 4 : left - from), by));
        }
        half[i] = vuzp1q_s16(vreinterpretq_s16_s32(n[0]),
                             vreinterpretq_s16_s32(n[1]));
    }
    return vreinterpretq_u32_s8(vuzp1q_s8(vreinterpretq_s8_s16(half[0]),
                                          vreinterpretq_s8_s16(half[1])));
}

WAN_INLINE void pack8(int8_t *b, const void *w, int bf16, int64_t ld,
                      int64_t n, int64_t k, const float *by, int32_t *sum)
{
    int32x4_t total[4] = { vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0),
                           vdupq_n_s32(0) };

    for (int64_t i = 0; i < wan_int8_depth(k); i += 16, b += 4 * 64)
        for (int c = 0; c < 4; c++) {
            uint32x4_t r[4];

            for (int j = 0; j < 4; j++)
                r[j] = 4 * c + j < n
                     ? sixteen(w, bf16, (4 * c + j) * ld + i, k - i,
                               by[4 * c + j])
                     : vdupq_n_u32(0);
            turn(r);
            for (int j = 0; j < 4; j++) {
                const int8x16_t v = vreinterpretq_s8_u32(r[j]);

                total[c] = add_up(total[c], v);
                vst1q_s8(b + 64 * j + 16 * c, v);
            }
        }
    for (int c = 0; c < 4; c++)
        vst1q_s32(sum + 4 * c, total[c]);
}

void wan_neon_pack8(int8_t *b, int cols, const void *w, WanType type,
                    int64_t ld, int64_t n, int64_t k, const float *by,
                    int32_t *sum)
{
    (void)cols;
    if (type == WAN_BF16)
        pack8(b, w, 1, ld, n, k, by, sum);
    else
        pack8(b, w, 0, ld, n, k, by, sum);
}

#define Q8_0_BYTES 34           // two of the scale, F16, and the numbers

void wan_neon_pack_blocks(int8_t *b, int cols, const char *w, int64_t ld,
                          int64_t n, int64_t blocks)
{
    (void)cols;
    for (int64_t i = 0; i < blocks; i++, w += Q8_0_BYTES,
         b += 16 * WAN_INT8_BLOCK_BYTES)
        for (int c = 0; c < 16; c += 4) {
            int32x4_t total = vdupq_n_s32(0);
            uint16_t scale[4] = { 0 };
            uint32x4_t r[2][4];

            for (int j = 0; j < 4; j++) {
                const char *in = w + (c + j) * ld;

                r[0][j] = r[1][j] = vdupq_n_u32(0);
                if (c + j >= n)
                    continue;
                memcpy(&scale[j], in, sizeof(scale[j]));
                memcpy(&r[0][j], in + 2, sizeof(r[0][j]));
                memcpy(&r[1][j], in + 18, sizeof(r[1][j]));
            }
            for (int h = 0; h < 2; h++) {
                turn(r[h]);
                for (int j = 0; j < 4; j++) {
                    const int8x16_t v = vreinterpretq_s8_u32(r[h][j]);

                    total = add_up(total, v);
                    vst1q_s8(b + (2 + 4 * h + j) * 64 + 4 * c, v);
                }
            }

            const float32x4_t by = vcvt_f32_f16(vreinterpret_f16_u16(
                vld1_u16(scale)));

            total = vnegq_s32(vshlq_n_s32(total, 7));
            vst1q_s8(b + 4 * c, vreinterpretq_s8_s32(total));
            vst1q_s8(b + 64 + 4 * c, vreinterpretq_s8_f32(
                vaddq_f32(by, vsubq_f32(by, by))));
        }
}

/* ------------------------------------------------------------- products */

/* What one or four pairs of inputs add to a tile of sums. */
WAN_INLINE void add_pairs(float32x4_t (*sum)[4], int rows, int pairs,
                          const uint16_t *a, int64_t lda, const uint16_t *b)
{
    uint16x8_t x[ROWS];

#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        uint32_t pair;

        memcpy(&pair, a + r * lda, sizeof(pair));
        x[r] = pairs == 4 ? vld1q_u16(a + r * lda)
                          : vreinterpretq_u16_u32(vdupq_n_u32(pair));
    }
#pragma GCC unroll 4
    for (int p = 0; p < pairs; p++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            const uint16x8_t w = vld1q_u16(b + 32 * p + 8 * v);

#pragma GCC unroll 6
            for (int r = 0; r < rows; r++)
                sum[r][v] = dot(sum[r][v], w, x[r], p);
        }
}

WAN_INLINE void tile(int rows, int64_t k, int taps, const int64_t *shift,
                     const uint16_t *a, int64_t lda, const uint16_t *b,
                     int add, float *c, int64_t ldc)
{
    float32x4_t sum[ROWS][4];

#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            sum[r][v] = add ? vld1q_f32(c + r * ldc + 4 * v) : vdupq_n_f32(0);
    for (int t = 0; t < taps; t++) {
        const uint16_t *x = a + shift[t];
        int64_t i = k;

        for (; i >= 8; i -= 8, x += 8, b += 4 * 32)
            add_pairs(sum, rows, 4, x, lda, b);
        for (; i > 0; i -= 2, x += 2, b += 32)
            add_pairs(sum, rows, 1, x, lda, b);
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            vst1q_f32(c + r * ldc + 4 * v, sum[r][v]);
}

/* Of m rows the last ones, fewer than a tile has: each number of them is code
 * of its own. */
#define LAST_ROWS(m, tile, ...)                                               \
    switch (m) {                                                              \
    case 1: tile(1, __VA_ARGS__); break;                                      \
    case 2: tile(2, __VA_ARGS__); break;                                      \
    case 3: tile(3, __VA_ARGS__); break;                                      \
    case 4: tile(4, __VA_ARGS__); break;                                      \
    case 5: tile(5, __VA_ARGS__); break;                                      \
    }

void wan_neon_panel(int64_t m, int cols, int64_t k, int taps,
                    const int64_t *shift, const uint16_t *a, int64_t lda,
                    const uint16_t *b, int add, float *c, int64_t ldc)
{
    (void)cols;
    for (; m >= ROWS; m -= ROWS, a += ROWS * lda, c += ROWS * ldc)
        tile(ROWS, k, taps, shift, a, lda, b, add, c, ldc);
    LAST_ROWS(m, tile, k, taps, shift, a, lda, b, add, c, ldc)
}

/* What sixteen inputs add to a tile of sums, `vectors` of the panel's. */
WAN_INLINE void add_inputs(int32x4_t *sum, int rows, int vectors,
                           const uint8_t *a, int64_t lda, const int8_t *b)
{
    uint8x16_t x[ROWS];

#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        x[r] = vld1q_u8(a + r * lda);
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const int8x16_t w = vld1q_s8(b + 64 * q + 16 * v);

#pragma GCC unroll 6
            for (int r = 0; r < rows; r++)
                sum[r * vectors + v] = dot8(sum[r * vectors + v], w, x[r], q);
        }
}

/* Four of a row: (c +) s by */
WAN_INLINE void put(float *c, int add, float32x4_t s, float32x4_t by)
{
    vst1q_f32(c, add ? vfmaq_f32(vld1q_f32(c), s, by) : vmulq_f32(s, by));
}

/* The sums begin as what 128 in each number of a adds, taken off. */
WAN_INLINE void tile8(int rows, int64_t k, const uint8_t *a, int64_t lda,
                      const int8_t *b, const WanInt8Result *to, int64_t row)
{
    int32x4_t sum[ROWS * 4];

#pragma GCC unroll 24
    for (int i = 0; i < rows * 4; i++)
        sum[i] = vnegq_s32(vshlq_n_s32(vld1q_s32(to->sum + i % 4 * 4), 7));
    a += row * lda;
    for (; k > 0; k -= 16, a += 16, b += 4 * 64)
        add_inputs(sum, rows, 4, a, lda, b);
#pragma GCC unroll 24
    for (int i = 0; i < rows * 4; i++) {
        const int64_t r = row + i / 4;
        const int v = i % 4 * 4;

        put(to->c + r * to->ld + v, to->add, vcvtq_f32_s32(sum[i]),
            vmulq_n_f32(vld1q_f32(to->by + v), to->scale[r * to->step]));
    }
}

void wan_neon_panel8(int64_t m, int cols, int64_t k, const uint8_t *a,
                     int64_t lda, const int8_t *b, const WanInt8Result *to)
{
    int64_t row = 0;

    (void)cols;
    for (; m - row >= ROWS; row += ROWS)
        tile8(ROWS, k, a, lda, b, to, row);
    LAST_ROWS(m - row, tile8, k, a, lda, b, to, row)
}

/* As tile8(), of eight columns of blocks from col on: of each block the sums
 * are scaled before the next. */
WAN_INLINE void tile_blocks(int rows, int64_t k, const uint8_t *a, int64_t lda,
                            const int8_t *b, const WanInt8Result *to,
                            int64_t row, int col)
{
    float32x4_t total[ROWS * 2];

#pragma GCC unroll 12
    for (int i = 0; i < rows * 2; i++)
        total[i] = vdupq_n_f32(0);
    a += row * lda;
    b += 4 * col;
    for (; k > 0; k -= WAN_INT8_BLOCK, a += WAN_INT8_BLOCK,
         b += 16 * WAN_INT8_BLOCK_BYTES) {
        int32x4_t sum[ROWS * 2];

#pragma GCC unroll 12
        for (int i = 0; i < rows * 2; i++)
            sum[i] = vreinterpretq_s32_s8(vld1q_s8(b + i % 2 * 16));
        add_inputs(sum, rows, 2, a, lda, b + 2 * 64);
        add_inputs(sum, rows, 2, a + 16, lda, b + 6 * 64);
#pragma GCC unroll 12
        for (int i = 0; i < rows * 2; i++)
            total[i] = vfmaq_f32(total[i], vcvtq_f32_s32(sum[i]),
                                 vreinterpretq_f32_s8(
                                     vld1q_s8(b + 64 + i % 2 * 16)));
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows * 2; i++) {
        const int64_t r = row + i / 2;

        put(to->c + r * to->ld + col + i % 2 * 4, to->add, total[i],
            vdupq_n_f32(to->scale[r * to->step]));
    }
}

void wan_neon_blocks(int64_t m, int cols, int64_t k, const uint8_t *a,
                     int64_t lda, const int8_t *b, const WanInt8Result *to)
{
    for (int col = 0; col < cols; col += 8) {
        int64_t row = 0;

        for (; m - row >= ROWS; row += ROWS)
            tile_blocks(ROWS, k, a, lda, b, to, row, col);
        LAST_ROWS(m - row, tile_blocks, k, a, lda, b, to, row, col)
    }
}

/* ---------------------------------------------------------------- softmax */

/* 2^x = 2^n 2^f for -126 <= x <= 127, as in bf16.c. */
WAN_INLINE float32x4_t exp2_of(float32x4_t x)
{
    const float32x4_t middle = vdupq_n_f32(12582912.0f);
    const float32x4_t t = vaddq_f32(x, middle);
    const float32x4_t f = vsubq_f32(x, vsubq_f32(t, middle));
    float32x4_t p = vdupq_n_f32(0.00961813f);

    p = vfmaq_f32(vdupq_n_f32(0.0555041f), p, f);
    p = vfmaq_f32(vdupq_n_f32(0.240226507f), p, f);
    p = vfmaq_f32(vdupq_n_f32(0.693147182f), p, f);
    p = vfmaq_f32(vdupq_n_f32(1), p, f);
    return vmulq_f32(p, vreinterpretq_f32_s32(vaddq_s32(
        vshlq_n_s32(vreinterpretq_s32_f32(t), 23),
        vdupq_n_s32(0x3f800000))));
}

float wan_neon_exp2(uint16_t *p, const float *s, int64_t n, float max,
                    float *above)
{
    float32x4_t sum = vdupq_n_f32(0), most = vdupq_n_f32(-126);

    for (int64_t j = 0; j < n; j += 4) {
        const int64_t left = n - j;
        float32x4_t x, e;

        if (left >= 4) {
            x = vld1q_f32(s + j);
        } else {                        // the last one is there four times
            float last[4];

            for (int i = 0; i < 4; i++)
                last[i] = s[i < left ? j + i : n - 1];
            x = vld1q_f32(last);
        }
        x = vmaxq_f32(vsubq_f32(x, vdupq_n_f32(max)), vdupq_n_f32(-126));
        most = vmaxnmq_f32(most, x);    // of a NaN the other
        e = exp2_of(x);
        if (left < 4) {
            const uint32_t lane[4] = { 1, left > 1, left > 2, 0 };

            e = vbslq_f32(vtstq_u32(vld1q_u32(lane), vdupq_n_u32(1)), e,
                          vdupq_n_f32(0));
        }
        sum = vaddq_f32(sum, e);
        vst1_u16(p + j, to_bf16(e));
    }
    *above = vmaxvq_f32(most);
    return vaddvq_f32(sum);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
