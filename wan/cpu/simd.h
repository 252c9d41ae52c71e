/*
 * Vector code without intrinsics: loops that compilers vectorise, in a copy
 * for each kind of machine, and the few functions libm has only for scalars.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Sums run in a fixed number of lanes, so that the order of additions, and with
 * it the result, is the same on every machine but for fused multiply-adds.
 */

#ifndef WAN_CPU_SIMD_H
#define WAN_CPU_SIMD_H

#include <stdint.h>
#include <string.h>

#include "../clones.h"

/* Fused multiply-adds where the machine has them: -std=c11 turns them off. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize ("fp-contract=fast")
#endif

#define WAN_LANES 16

/* Before a loop whose index reads and writes nothing of another index, though
 * arrays may be the same: without it compilers check that they are apart, and
 * what is done in place is not vectorised. */
#if defined(__clang__)
#define WAN_APART _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define WAN_APART _Pragma("GCC ivdep")
#else
#define WAN_APART
#endif

/* Before another loop that must be vectorised: tests/compile.sh looks whether
 * gcc does it for AVX2. */
#define WAN_VECTORS

WAN_INLINE float wan_bits_f32(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

WAN_INLINE uint32_t wan_f32_bits(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    return u;
}

/* yes ? a : b, both computed. As bits, since a choice that is a branch keeps a
 * loop from being vectorised where the machine has no masks: AVX2. */
WAN_INLINE uint32_t wan_choose_bits(int yes, uint32_t a, uint32_t b)
{
    const uint32_t m = -(uint32_t)(yes != 0);

    return (a & m) | (b & ~m);
}

WAN_INLINE float wan_choose(int yes, float a, float b)
{
    return wan_bits_f32(wan_choose_bits(yes, wan_f32_bits(a),
                                        wan_f32_bits(b)));
}

/* e^x within 2 ulp for -87 <= x <= 88; flat outside, so never 0, infinite or
 * denormal; NaN stays. x = n ln 2 + r with |r| <= ln 2 / 2, n in the exponent;
 * adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
WAN_INLINE float wan_expf(float x)
{
    x = wan_choose(x < -87, -87, x);
    x = wan_choose(x > 88, 88, x);
    const float t = x * 1.44269504f + 12582912.0f;
    const float n = t - 12582912.0f;
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.98910306e-4f;

    p = p * r + 1.39336859e-3f;
    p = p * r + 8.33331089e-3f;
    p = p * r + 4.16664646e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1;
    return p * wan_bits_f32((wan_f32_bits(t) << 23) + 0x3f800000);
}

/* x / (1 + e^-x) */
WAN_INLINE float wan_siluf(float x)
{
    return x / (1 + wan_expf(-x));
}

/* A NaN stays one. */
WAN_INLINE float wan_reluf(float x)
{
    return wan_choose(x < 0, 0, x);
}

/* 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
WAN_INLINE float wan_gelu_tanhf(float x)
{
    return x / (1 + wan_expf(x * (-1.5957691216f - 0.0713548163f * x * x)));
}

/* 0.5 x erfc(-x / sqrt 2): x Phi(x). With a = |x| / sqrt 2,
 * erfc(a) = e^(-a^2) t P(t), t = 1 / (1 + 0.38 a), P fitted to 3e-8 for
 * a up to 10. */
WAN_INLINE float wan_gelu_erff(float x)
{
    const float a = wan_choose(x < 0, -x, x) * 0.70710678f;
    const float t = 1 / (1 + 0.38f * a);
    float p = 0.0596302628f;

    p = p * t - 0.265592308f;
    p = p * t + 0.370877396f;
    p = p * t - 0.169674971f;
    p = p * t + 0.235820385f;
    p = p * t + 0.136137502f;
    p = p * t + 0.204558153f;
    p = p * t + 0.213827211f;
    p = p * t + 0.21441639f;
    const float half = 0.5f * p * t * wan_expf(-a * a);     // Phi(-|x|)

    return x * wan_choose(x < 0, half, 1 - half);
}

/* The largest of n > 0 numbers. */
WAN_INLINE float wan_max_of(const float *s, int64_t n)
{
    float lane[WAN_LANES], max;
    int64_t j = 0;

    for (int l = 0; l < WAN_LANES; l++)
        lane[l] = s[0];
    for (; j + WAN_LANES <= n; j += WAN_LANES)
        for (int l = 0; l < WAN_LANES; l++)
            lane[l] = s[j + l] > lane[l] ? s[j + l] : lane[l];
    max = lane[0];
    for (int l = 1; l < WAN_LANES; l++)
        max = lane[l] > max ? lane[l] : max;
    for (; j < n; j++)
        max = s[j] > max ? s[j] : max;
    return max;
}

#endif /* WAN_CPU_SIMD_H */
