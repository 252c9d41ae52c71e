/*
 * Noise as PyTorch draws it, from either of its generators, on any machine.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <math.h>

#include "rng.h"

#define PI 3.14159265358979323846

/* ------------------------------------------- the CPU generator: MT19937 */

#define MT_N 624
#define MT_M 397

typedef struct Mt {
    uint32_t state[MT_N];
    int next;               // MT_N: used up
} Mt;

static void mt_seed(Mt *mt, uint32_t seed)
{
    mt->state[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++) {
        const uint32_t s = mt->state[i - 1];
        mt->state[i] = 1812433253u * (s ^ s >> 30) + i;
    }
    mt->next = MT_N;
}

/* Word i of the next generation from words i, j = i + 1 and k = i + 397. */
static void mt_twist(uint32_t *s, int i, int j, int k)
{
    const uint32_t y = (s[i] & 0x80000000u) | (s[j] & 0x7fffffffu);

    s[i] = s[k] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
}

static uint32_t mt_u32(Mt *mt)
{
    uint32_t y;

    if (mt->next == MT_N) {
        for (int i = 0; i < MT_N - MT_M; i++)
            mt_twist(mt->state, i, i + 1, i + MT_M);
        for (int i = MT_N - MT_M; i < MT_N - 1; i++)
            mt_twist(mt->state, i, i + 1, i + MT_M - MT_N);
        mt_twist(mt->state, MT_N - 1, 0, MT_M - 1);
        mt->next = 0;
    }
    y = mt->state[mt->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* In [0, 1): 24 bits of one word, 53 bits of two. */
static float mt_float(Mt *mt)
{
    return (mt_u32(mt) & 0xffffff) * 0x1p-24f;
}

static double mt_double(Mt *mt)
{
    const uint64_t high = mt_u32(mt);

    return ((high << 32 | mt_u32(mt)) & (UINT64_MAX >> 11)) * 0x1p-53;
}

/* 16 uniform numbers become 16 normal ones, number j paired with j + 8. */
static void normal_block(float *d)
{
    for (int j = 0; j < 8; j++) {
        const float r = sqrtf(-2 * logf(1 - d[j]));
        const float a = (float)(2 * PI * d[j + 8]);

        d[j] = r * cosf(a);
        d[j + 8] = r * sinf(a);
    }
}

/* Pairs of two words a number, or a word each and 16 more for a last block. */
uint64_t wan_randn_used_cpu(int64_t n)
{
    return n < 16 ? (uint64_t)(n + 1) / 2 * 4 : (uint64_t)n + (n % 16 ? 16 : 0);
}

void wan_randn_cpu(float *dst, int64_t n, uint64_t seed, uint64_t skip)
{
    Mt mt;

    mt_seed(&mt, (uint32_t)seed);   // the high half is not used
    while (skip--)
        mt_u32(&mt);
    if (n < 16) {
        for (int64_t i = 0; i < n; i += 2) {
            const double a = 2 * PI * mt_double(&mt);
            const double r = sqrt(-2 * log1p(-mt_double(&mt)));

            dst[i] = (float)(r * cos(a));
            if (i + 1 < n)
                dst[i + 1] = (float)(r * sin(a));
        }
        return;
    }

    for (int64_t i = 0; i < n; i++)
        dst[i] = mt_float(&mt);
    for (int64_t i = 0; i + 16 <= n; i += 16)
        normal_block(dst + i);
    if (n % 16) {                   // the last 16 anew, over the block before
        for (int j = 0; j < 16; j++)
            dst[n - 16 + j] = mt_float(&mt);
        normal_block(dst + n - 16);
    }
}

/* ------------------------------------- the CUDA generator: Philox4x32-10 */

void wan_philox(uint32_t out[4], const uint32_t counter[4],
                const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xd2511f53 * c0;
        const uint64_t b = (uint64_t)0xcd9e8d57 * c2;

        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9e3779b9;
        k1 += 0xbb67ae85;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/*
 * Two words to two normal values, the sine first. The device forms u and a
 * with one fused multiply-add each; a product of two floats is exact in
 * double, so double arithmetic rounds as that does.
 */
static void box_muller(float out[2], uint32_t x, uint32_t y)
{
    const float unit = 2.3283064e-10f;          // 2^-32
    const float turn = unit * 6.2831855f;       // 2^-32 of 2 pi
    const float u = (float)((double)(float)x * unit + unit / 2);
    const float a = (float)((double)(float)y * turn + turn / 2);
    const float r = sqrtf(-2 * logf(u));

    out[0] = r * sinf(a);
    out[1] = r * cosf(a);
}

/* Threads of the launch for n numbers: blocks of 256. */
static int64_t launched(int64_t n, int threads)
{
    const int64_t need = (n + 255) / 256, most = threads / 256;
    const int64_t blocks = most < need ? most : need;

    return 256 * (blocks < 1 ? 1 : blocks);
}

uint64_t wan_randn_used_cuda(int64_t n, int threads)
{
    const int64_t each = 4 * launched(n, threads);

    return (uint64_t)((n + each - 1) / each);
}

void wan_randn_cuda(float *dst, int64_t n, uint64_t seed, int threads,
                    uint64_t skip)
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    const int64_t T = launched(n, threads);

    /* thread i's round j fills elements i + T (4 j + 0..3) */
    for (int64_t j = 0; 4 * j * T < n; j++) {
        float *const out = dst + 4 * j * T;
        const int64_t left = n - 4 * j * T;
        const uint64_t round = skip + (uint64_t)j;

        for (int64_t i = 0; i < T && i < left; i++) {
            const uint32_t counter[4] = {
                (uint32_t)round, (uint32_t)(round >> 32),
                (uint32_t)i, (uint32_t)(i >> 32),
            };
            uint32_t word[4];
            float v[4];

            wan_philox(word, counter, key);
            box_muller(v, word[0], word[1]);
            if (i + 2 * T < left)
                box_muller(v + 2, word[2], word[3]);
            for (int lane = 0; lane < 4 && i + lane * T < left; lane++)
                out[i + lane * T] = v[lane];
        }
    }
}
