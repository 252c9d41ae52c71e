/*
 * Numbers into blocks: one encoder a type, and a table of them. blocks.c reads
 * what is written here, and says how each type is laid out.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A group of numbers with a scale, and in some types a minimum, of its own is
 * rounded to whole steps. The scale is the least squares fit of one of 8
 * roundings: that which stretches the group over all its steps, and some that
 * are a little coarser or finer and cut or waste the outermost. In types whose
 * groups' scales are small integers themselves these are rounded next, and the
 * numbers once more, to the scales that there will be. Every candidate is a
 * lane of its own, so sums run in one order on every machine.
 */

#include <assert.h>
#include <math.h>
#include <string.h>

#include "../clones.h"
#include "blocks.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF    // gcc has it off with -std=c11
#endif

#define SMALL 32                // numbers of a block
#define LARGE 256               // of one whose type ends in K
#define LANES 8

/* No scale above 0 is below 2^-24, the least f16: what is closer to 0 than
 * half of that is 0. */
#define TINY 0x1p-26f

/* One number of each candidate, and what a comparison of them gives. A vector
 * by name, since loops with a limit in them stay scalar. */
typedef float Lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t Mask __attribute__((vector_size(LANES * 4)));
#define SELECT(mask, a, b) \
    ((Lanes)(((Mask)(a) & (mask)) | ((Mask)(b) & ~(mask))))

/* To the nearest whole number, ties to even, |v| < 2^22: of numbers and of
 * lanes. */
#define NEAREST(v) ((v) + 12582912.0f - 12582912.0f)

/* The step that v is rounded to, from lo to hi. NaN: lo. */
WAN_INLINE int step(float v, int lo, int hi)
{
    v = v > lo ? v : lo;
    return (int)NEAREST(v < hi ? v : hi);
}

WAN_INLINE float inverse(float d)
{
    return d ? 1 / d : 0;
}

/* v as f16 at p, and what is there then. */
WAN_INLINE float put_f16(uint8_t *p, float v)
{
    const uint16_t h = wan_f32_to_f16(v);

    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
    return wan_f16_to_f32(h);
}

/* The s of x = s q with whole q, -half <= q < half. Its sign is that which
 * gives the number that is furthest from 0 the step -half. */
WAN_INLINE float fit_scale(const float *restrict x, int n, int half)
{
    const Lanes lo = (Lanes){ 0 } - (float)half, hi = -lo - 1.0f;
    Lanes xq = { 0 }, qq = { 0 }, rate;
    float peak = 0, best = 0, scale = 0;

    for (int j = 0; j < n; j++)
        peak = fabsf(x[j]) > fabsf(peak) ? x[j] : peak;
    if (!(fabsf(peak) >= TINY))
        return 0;
    for (int k = 0; k < LANES; k++)
        rate[k] = -((float)half + 0.2f * (float)(k - LANES / 2)) / peak;
    for (int j = 0; j < n; j++) {
        Lanes q = rate * x[j];

        q = SELECT(q > lo, q, lo);
        q = SELECT(q < hi, q, hi);
        q = NEAREST(q);
        xq += q * x[j];
        qq += q * q;
    }
    for (int k = 0; k < LANES; k++) {
        const float gain = qq[k] > 0 ? xq[k] / qq[k] * xq[k] : 0;

        if (gain > best) {              // what is left of sum x^2 is least
            best = gain;
            scale = xq[k] / qq[k];
        }
    }
    return scale;
}

/* The s and m of x = s q + m with whole q, 0 <= q <= top. below: m is not
 * above 0. */
WAN_INLINE void fit_line(float *scale, float *least, const float *restrict x,
                         int n, int top, int below)
{
    const Lanes last = (Lanes){ 0 } + (float)top;
    Lanes q1 = { 0 }, q2 = { 0 }, qu = { 0 }, rate;
    float lo = x[0], hi = x[0], u1 = 0;
    double best = HUGE_VAL;

    for (int j = 1; j < n; j++) {
        lo = x[j] < lo ? x[j] : lo;
        hi = x[j] > hi ? x[j] : hi;
    }
    lo = below && lo > 0 ? 0 : lo;
    *scale = 0;
    *least = lo;
    if (!(hi - lo >= TINY))
        return;
    *scale = (hi - lo) / (float)top;    // if sums overflow
    for (int k = 0; k < LANES; k++)
        rate[k] = ((float)top + 0.25f * (float)(k - LANES / 2)) / (hi - lo);
    for (int j = 0; j < n; j++) {
        const float u = x[j] - lo;      // never below 0
        Lanes q = rate * u;

        q = SELECT(q < last, q, last);
        q = NEAREST(q);
        u1 += u;
        q1 += q;
        q2 += q * q;
        qu += q * u;
    }
    for (int k = 0; k < LANES; k++) {
        const double det = (double)n * q2[k] - (double)q1[k] * q1[k];
        double s = (hi - lo) / top, m = 0, error;

        if (det > 0) {
            s = ((double)n * qu[k] - (double)u1 * q1[k]) / det;
            m = ((double)q2[k] * u1 - (double)q1[k] * qu[k]) / det;
        }
        if (below && lo + m > 0) {
            m = -(double)lo;
            s = (qu[k] - m * q1[k]) / q2[k];
        }
        /* less sum u^2, which all have */
        error = s * s * q2[k] + n * m * m +
                2 * (s * m * q1[k] - s * qu[k] - m * u1);
        if (s > 0 && error < best) {
            best = error;
            *scale = (float)s;
            *least = (float)(lo + m);
        }
    }
}

/* ------------------------------------------------------- blocks of 32 */

/* Steps of a block, and of each number the low four bits: those of the first
 * half, then of the second. Fifth bits, if any, come back. */
WAN_INLINE uint32_t put_nibbles(uint8_t *p, const int *q)
{
    uint32_t fifth = 0;

    for (int j = 0; j < 16; j++)
        p[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
    for (int j = 0; j < 32; j++)
        fifth |= (uint32_t)(q[j] >> 4 & 1) << j;
    return fifth;
}

WAN_INLINE void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

WAN_INLINE void by_scale(int *q, uint8_t *p, const float *x, int half)
{
    const float rate = inverse(put_f16(p, fit_scale(x, SMALL, half)));

    for (int j = 0; j < SMALL; j++)
        q[j] = step(x[j] * rate, -half, half - 1) + half;
}

WAN_INLINE void by_line(int *q, uint8_t *p, const float *x, int top)
{
    float s, m, rate;

    fit_line(&s, &m, x, SMALL, top, 0);
    rate = inverse(put_f16(p, s));
    m = put_f16(p + 2, m);
    for (int j = 0; j < SMALL; j++)
        q[j] = step((x[j] - m) * rate, 0, top);
}

WAN_INLINE void q4_0(uint8_t *restrict p, const float *restrict x)
{
    int q[SMALL];

    by_scale(q, p, x, 8);
    put_nibbles(p + 2, q);
}

WAN_INLINE void q4_1(uint8_t *restrict p, const float *restrict x)
{
    int q[SMALL];

    by_line(q, p, x, 15);
    put_nibbles(p + 4, q);
}

WAN_INLINE void q5_0(uint8_t *restrict p, const float *restrict x)
{
    int q[SMALL];

    by_scale(q, p, x, 16);
    put_u32(p + 2, put_nibbles(p + 6, q));
}

WAN_INLINE void q5_1(uint8_t *restrict p, const float *restrict x)
{
    int q[SMALL];

    by_line(q, p, x, 31);
    put_u32(p + 4, put_nibbles(p + 8, q));
}

/* 127 steps each way are fine enough without a search. */
WAN_INLINE void q8_0(uint8_t *restrict p, const float *restrict x)
{
    float peak = 0, rate;

    for (int j = 0; j < SMALL; j++)
        peak = fabsf(x[j]) > peak ? fabsf(x[j]) : peak;
    rate = inverse(put_f16(p, peak / 127));
    for (int j = 0; j < SMALL; j++)
        p[2 + j] = (uint8_t)step(x[j] * rate, -127, 127);
}

/* ------------------------------------------------------ blocks of 256 */

/* n groups' scales and minima as integers up to top of d and m, which go to p;
 * a group's numbers are rounded to the steps that this leaves, up to steps. */
WAN_INLINE void lines(int *q, int *scale, int *least, uint8_t *p,
                      const float *restrict x, int n, int top, int steps)
{
    const int size = LARGE / n;
    float s[16], m[16], s_peak = 0, m_peak = 0, d, dm;

    for (int g = 0; g < n; g++) {
        fit_line(&s[g], &m[g], x + g * size, size, steps, 1);
        s_peak = s[g] > s_peak ? s[g] : s_peak;
        m_peak = -m[g] > m_peak ? -m[g] : m_peak;
    }
    d = put_f16(p, s_peak / (float)top);
    dm = put_f16(p + 2, m_peak / (float)top);
    for (int g = 0; g < n; g++) {
        scale[g] = step(s[g] * inverse(d), 0, top);
        least[g] = step(-m[g] * inverse(dm), 0, top);

        const float rate = inverse(d * (float)scale[g]);
        const float minus = dm * (float)least[g];

        for (int j = g * size; j < (g + 1) * size; j++)
            q[j] = step((x[j] + minus) * rate, 0, steps);
    }
}

/* 16 groups' scales as integers from -units to units - 1 of d, which goes to
 * p, and their numbers. */
WAN_INLINE void scales(int *q, int *scale, uint8_t *p,
                       const float *restrict x, int units, int half)
{
    float s[16], peak = 0, d;

    for (int g = 0; g < 16; g++) {
        s[g] = fit_scale(x + 16 * g, 16, half);
        peak = fabsf(s[g]) > fabsf(peak) ? s[g] : peak;
    }
    d = put_f16(p, peak / (float)-units);
    for (int g = 0; g < 16; g++) {
        scale[g] = step(s[g] * inverse(d), -units, units - 1);

        const float rate = inverse(d * (float)scale[g]);

        for (int j = 16 * g; j < 16 * g + 16; j++)
            q[j] = step(x[j] * rate, -half, half - 1) + half;
    }
}

WAN_INLINE void q2_k(uint8_t *restrict p, const float *restrict x)
{
    int q[LARGE], scale[16], least[16];

    lines(q, scale, least, p + 80, x, 16, 15, 3);
    memset(p, 0, 80);
    for (int g = 0; g < 16; g++) {
        uint8_t *part = p + 16 + g / 8 * 32 + g % 2 * 16;

        p[g] = (uint8_t)(scale[g] | least[g] << 4);
        for (int j = 0; j < 16; j++)
            part[j] |= (uint8_t)(q[16 * g + j] << g % 8 / 2 * 2);
    }
}

WAN_INLINE void q3_k(uint8_t *restrict p, const float *restrict x)
{
    int q[LARGE], scale[16];

    scales(q, scale, p + 108, x, 32, 4);
    memset(p, 0, 108);
    for (int g = 0; g < 16; g++) {
        uint8_t *part = p + 32 + g / 8 * 32 + g % 2 * 16, *s = p + 96;
        uint8_t *third = p + g % 2 * 16;
        const int v = scale[g] + 32;

        s[g % 8] |= (uint8_t)((v & 15) << g / 8 * 4);
        s[8 + g % 4] |= (uint8_t)(v >> 4 << g / 4 * 2);
        for (int j = 0; j < 16; j++) {
            part[j] |= (uint8_t)((q[16 * g + j] & 3) << g % 8 / 2 * 2);
            third[j] |= (uint8_t)(q[16 * g + j] >> 2 << g / 2);
        }
    }
}

/* Scale and minimum of group g of eight into the 12 bytes of all, zeros
 * before. */
WAN_INLINE void put_six_bits(uint8_t *s, int g, int scale, int least)
{
    if (g < 4) {
        s[g] |= (uint8_t)scale;
        s[g + 4] |= (uint8_t)least;
    } else {
        s[g + 4] = (uint8_t)((scale & 15) | (least & 15) << 4);
        s[g - 4] |= (uint8_t)(scale >> 4 << 6);
        s[g] |= (uint8_t)(least >> 4 << 6);
    }
}

WAN_INLINE void q4_k(uint8_t *restrict p, const float *restrict x)
{
    int q[LARGE], scale[8], least[8];

    lines(q, scale, least, p, x, 8, 63, 15);
    memset(p + 4, 0, 140);
    for (int g = 0; g < 8; g++) {
        uint8_t *part = p + 16 + g / 2 * 32;

        put_six_bits(p + 4, g, scale[g], least[g]);
        for (int j = 0; j < 32; j++)
            part[j] |= (uint8_t)(q[32 * g + j] << g % 2 * 4);
    }
}

WAN_INLINE void q5_k(uint8_t *restrict p, const float *restrict x)
{
    int q[LARGE], scale[8], least[8];

    lines(q, scale, least, p, x, 8, 63, 31);
    memset(p + 4, 0, 172);
    for (int g = 0; g < 8; g++) {
        uint8_t *fifth = p + 16, *part = p + 48 + g / 2 * 32;

        put_six_bits(p + 4, g, scale[g], least[g]);
        for (int j = 0; j < 32; j++) {
            part[j] |= (uint8_t)((q[32 * g + j] & 15) << g % 2 * 4);
            fifth[j] |= (uint8_t)(q[32 * g + j] >> 4 << g);
        }
    }
}

WAN_INLINE void q6_k(uint8_t *restrict p, const float *restrict x)
{
    int q[LARGE], scale[16];

    scales(q, scale, p + 208, x, 128, 32);
    memset(p, 0, 208);
    for (int g = 0; g < 16; g++) {
        const int h = g / 8, s = g % 8 / 2, i = g % 2 * 16;
        uint8_t *low = p + 64 * h + s % 2 * 32 + i;
        uint8_t *high = p + 128 + 32 * h + i;

        p[192 + g] = (uint8_t)scale[g];
        for (int j = 0; j < 16; j++) {
            low[j] |= (uint8_t)((q[16 * g + j] & 15) << s / 2 * 4);
            high[j] |= (uint8_t)(q[16 * g + j] >> 4 << 2 * s);
        }
    }
}

/* -------------------------------------------------------------- all */

#define ENCODER(block, numbers, bytes) \
    WAN_SIMD static void block##_stored(uint8_t *p, const float *x, int64_t n) \
    { \
        for (; n > 0; n -= (numbers), x += (numbers), p += (bytes)) \
            block(p, x); \
    }

ENCODER(q4_0, SMALL, 18)
ENCODER(q4_1, SMALL, 20)
ENCODER(q5_0, SMALL, 22)
ENCODER(q5_1, SMALL, 24)
ENCODER(q8_0, SMALL, 34)
ENCODER(q2_k, LARGE, 84)
ENCODER(q3_k, LARGE, 110)
ENCODER(q4_k, LARGE, 144)
ENCODER(q5_k, LARGE, 176)
ENCODER(q6_k, LARGE, 210)

typedef void (*Encoder)(uint8_t *, const float *, int64_t);

static Encoder encoder(WanType type)
{
    static const Encoder table[WAN_NB_TYPES] = {
        [WAN_Q4_0] = q4_0_stored, [WAN_Q4_1] = q4_1_stored,
        [WAN_Q5_0] = q5_0_stored, [WAN_Q5_1] = q5_1_stored,
        [WAN_Q8_0] = q8_0_stored, [WAN_Q2_K] = q2_k_stored,
        [WAN_Q3_K] = q3_k_stored, [WAN_Q4_K] = q4_k_stored,
        [WAN_Q5_K] = q5_k_stored, [WAN_Q6_K] = q6_k_stored,
    };
    return table[type];
}

int wan_blocks_encoded(WanType type)
{
    return encoder(type) != NULL;
}

void wan_blocks_from_f32(void *dst, const float *src, WanType type, int64_t n)
{
    assert(encoder(type) && n % wan_type_block(type) == 0);
    encoder(type)(dst, src, n);
}
