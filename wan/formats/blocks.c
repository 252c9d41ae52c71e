/*
 * Block-quantised numbers, decoded: one function a type, and a table of them.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * d is the block's scale and m its minimum, both f16; types that end in K have
 * blocks of 256 in groups of 16 or 32, whose own scales are small integers in
 * units of d. Products and sums are rounded one by one, so every machine has
 * the same bits.
 */

#include <assert.h>

#include "../clones.h"
#include "blocks.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF    // gcc has it off with -std=c11
#endif

#define SMALL 32                // numbers of a block
#define LARGE 256               // of one whose type ends in K, and of IQ4_XS

WAN_INLINE uint32_t u16(const uint8_t *p)
{
    return p[0] | p[1] << 8;
}

WAN_INLINE uint32_t u32(const uint8_t *p)
{
    return u16(p) | u16(p + 2) << 16;
}

WAN_INLINE float f16(const uint8_t *p)
{
    return wan_f16_to_f32((uint16_t)u16(p));
}

/* ------------------------------------------------------- blocks of 32 */

/* d; 16 bytes of two numbers each: the low halves first, then the high. */
WAN_INLINE void q4_0(float *restrict y, const uint8_t *restrict p)
{
    const float d = f16(p);

    p += 2;
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 16; j++)
            y[16 * h + j] = d * (float)((p[j] >> 4 * h & 15) - 8);
}

/* d, m; as above. */
WAN_INLINE void q4_1(float *restrict y, const uint8_t *restrict p)
{
    const float d = f16(p), m = f16(p + 2);

    p += 4;
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 16; j++)
            y[16 * h + j] = d * (float)(p[j] >> 4 * h & 15) + m;
}

/* d; fifth bits, number j's in bit j; as above. */
WAN_INLINE void q5_0(float *restrict y, const uint8_t *restrict p)
{
    const float d = f16(p);
    const uint32_t fifth = u32(p + 2);

    p += 6;
    for (int j = 0; j < 16; j++) {
        const int a = (p[j] & 15) | (fifth >> j & 1) << 4;
        const int b = p[j] >> 4 | (fifth >> (j + 16) & 1) << 4;

        y[j] = d * (float)(a - 16);
        y[j + 16] = d * (float)(b - 16);
    }
}

WAN_INLINE void q5_1(float *restrict y, const uint8_t *restrict p)
{
    const float d = f16(p), m = f16(p + 2);
    const uint32_t fifth = u32(p + 4);

    p += 8;
    for (int j = 0; j < 16; j++) {
        const int a = (p[j] & 15) | (fifth >> j & 1) << 4;
        const int b = p[j] >> 4 | (fifth >> (j + 16) & 1) << 4;

        y[j] = d * (float)a + m;
        y[j + 16] = d * (float)b + m;
    }
}

/* d; 32 signed bytes. */
WAN_INLINE void q8_0(float *restrict y, const uint8_t *restrict p)
{
    const float d = f16(p);

    p += 2;
    for (int j = 0; j < 32; j++)
        y[j] = d * (float)(int8_t)p[j];
}

/* Four bits that stand for these: closer together around 0. */
static const int8_t steep[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
};

WAN_INLINE void steep_32(float *restrict y, float d,
                         const uint8_t *restrict p)
{
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)steep[p[j] & 15];
        y[j + 16] = d * (float)steep[p[j] >> 4];
    }
}

/* d; as Q4_0. */
WAN_INLINE void iq4_nl(float *restrict y, const uint8_t *restrict p)
{
    steep_32(y, f16(p), p + 2);
}

/* ------------------------------------------------------ blocks of 256 */

/* 16 groups' scale and minimum, four bits each; two bits a number; d, m. A
 * byte holds numbers of four groups: half h of the block has bytes 32 h on,
 * bits 2 s of them are its groups 2 s (bytes 0 to 15) and 2 s + 1. */
WAN_INLINE void q2_k(float *restrict y, const uint8_t *restrict p)
{
    const uint8_t *q = p + 16;
    const float d = f16(p + 80), m = f16(p + 82);

    for (int g = 0; g < 16; g++, y += 16) {
        const float scale = d * (float)(p[g] & 15);
        const float least = m * (float)(p[g] >> 4);
        const uint8_t *part = q + g / 8 * 32 + g % 2 * 16;
        const int shift = g % 8 / 2 * 2;

        for (int j = 0; j < 16; j++)
            y[j] = scale * (float)(part[j] >> shift & 3) - least;
    }
}

/* Third bits, inverted, of number j of each 32 in byte j; two bits a number,
 * laid out as above; 16 groups' scales of six bits: four in the nibbles of 8
 * bytes, two in 4 bytes behind them; d. */
WAN_INLINE void q3_k(float *restrict y, const uint8_t *restrict p)
{
    const uint8_t *q = p + 32, *s = p + 96;
    const float d = f16(p + 108);

    for (int g = 0; g < 16; g++, y += 16) {
        const int low = s[g % 8] >> g / 8 * 4 & 15;
        const int high = s[8 + g % 4] >> g / 4 * 2 & 3;
        const float scale = d * (float)((low | high << 4) - 32);
        const uint8_t *part = q + g / 8 * 32 + g % 2 * 16;
        const uint8_t *third = p + g % 2 * 16;
        const int shift = g % 8 / 2 * 2, bit = g / 2;

        for (int j = 0; j < 16; j++)
            y[j] = scale * (float)((part[j] >> shift & 3) +
                                   (third[j] >> bit & 1) * 4 - 4);
    }
}

/* Scale and minimum of group g of eight, six bits each in 12 bytes. */
WAN_INLINE void six_bits(int *scale, int *least, const uint8_t *s, int g)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *least = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        *least = s[g + 4] >> 4 | s[g] >> 6 << 4;
    }
}

/* d, m; scales and minima; each 32 bytes hold two groups, the low halves
 * first. */
WAN_INLINE void q4_k(float *restrict y, const uint8_t *restrict p)
{
    const uint8_t *q = p + 16;
    const float d = f16(p), m = f16(p + 2);

    for (int g = 0; g < 8; g++, y += 32) {
        const uint8_t *part = q + g / 2 * 32;
        const int shift = g % 2 * 4;
        int scale, least;

        six_bits(&scale, &least, p + 4, g);
        const float a = d * (float)scale, b = m * (float)least;

        for (int j = 0; j < 32; j++)
            y[j] = a * (float)(part[j] >> shift & 15) - b;
    }
}

/* d, m; scales and minima; fifth bits, group g's in bit g of 32 bytes; four
 * bits as above. */
WAN_INLINE void q5_k(float *restrict y, const uint8_t *restrict p)
{
    const uint8_t *fifth = p + 16, *q = p + 48;
    const float d = f16(p), m = f16(p + 2);

    for (int g = 0; g < 8; g++, y += 32) {
        const uint8_t *part = q + g / 2 * 32;
        const int shift = g % 2 * 4;
        int scale, least;

        six_bits(&scale, &least, p + 4, g);
        const float a = d * (float)scale, b = m * (float)least;

        for (int j = 0; j < 32; j++)
            y[j] = a * (float)((part[j] >> shift & 15) |
                               (fifth[j] >> g & 1) << 4) - b;
    }
}

/* Four low bits, two high bits, 16 groups' scales as signed bytes, d. Half h
 * of the block has low bits in bytes 64 h on and high bits in 32 h on; its
 * quarter s, 32 numbers, the low bits in bytes 32 (s % 2) on. */
WAN_INLINE void q6_k(float *restrict y, const uint8_t *restrict p)
{
    const float d = f16(p + 208);

    for (int g = 0; g < 16; g++, y += 16) {
        const int h = g / 8, s = g % 8 / 2, i = g % 2 * 16;
        const uint8_t *low = p + 64 * h + s % 2 * 32 + i;
        const uint8_t *high = p + 128 + 32 * h + i;
        const float scale = d * (float)(int8_t)p[192 + g];

        for (int j = 0; j < 16; j++)
            y[j] = scale * (float)(((low[j] >> s / 2 * 4 & 15) |
                                    (high[j] >> 2 * s & 3) << 4) - 32);
    }
}

/* d; two high bits of each of eight groups' scales; four low bits of them;
 * groups as in IQ4_NL. */
WAN_INLINE void iq4_xs(float *restrict y, const uint8_t *restrict p)
{
    const float d = f16(p);
    const uint32_t high = u16(p + 2);

    for (int g = 0; g < 8; g++) {
        const int low = p[4 + g / 2] >> g % 2 * 4 & 15;
        const int scale = low | (high >> 2 * g & 3) << 4;

        steep_32(y + 32 * g, d * (float)(scale - 32), p + 8 + 16 * g);
    }
}

/* -------------------------------------------------------------- all */

#define DECODER(block, numbers, bytes) \
    WAN_SIMD static void block##_all(float *y, const uint8_t *p, int64_t n) \
    { \
        for (; n > 0; n -= (numbers), y += (numbers), p += (bytes)) \
            block(y, p); \
    }

DECODER(q4_0, SMALL, 18)
DECODER(q4_1, SMALL, 20)
DECODER(q5_0, SMALL, 22)
DECODER(q5_1, SMALL, 24)
DECODER(q8_0, SMALL, 34)
DECODER(q2_k, LARGE, 84)
DECODER(q3_k, LARGE, 110)
DECODER(q4_k, LARGE, 144)
DECODER(q5_k, LARGE, 176)
DECODER(q6_k, LARGE, 210)
DECODER(iq4_nl, SMALL, 18)
DECODER(iq4_xs, LARGE, 136)

void wan_blocks_to_f32(float *dst, const void *src, WanType type, int64_t n)
{
    static void (*const decode[WAN_NB_TYPES])(float *, const uint8_t *,
                                              int64_t) = {
        [WAN_Q4_0] = q4_0_all, [WAN_Q4_1] = q4_1_all,
        [WAN_Q5_0] = q5_0_all, [WAN_Q5_1] = q5_1_all,
        [WAN_Q8_0] = q8_0_all, [WAN_Q2_K] = q2_k_all,
        [WAN_Q3_K] = q3_k_all, [WAN_Q4_K] = q4_k_all,
        [WAN_Q5_K] = q5_k_all, [WAN_Q6_K] = q6_k_all,
        [WAN_IQ4_NL] = iq4_nl_all, [WAN_IQ4_XS] = iq4_xs_all,
    };

    assert(decode[type] && n % wan_type_block(type) == 0);
    decode[type](dst, src, n);
}
