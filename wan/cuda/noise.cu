/*
 * PyTorch's noise on the device.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The CUDA generator draws here with the operations and in the order of
 * PyTorch's own kernel, so the bits are its bits: one fused multiply-add each
 * for u and the angle, logf and sqrtf as they are, the fast sine and cosine.
 * rng.c differs in the fast pair alone, by up to about 1e-6. The CPU
 * generator has one serial state: rng.c draws, the numbers go up.
 */

#include <stdlib.h>

#include "kernel.h"

extern "C" {
#include "rng.h"
#include "wan.h"
}

static __device__ inline void philox_round(uint32_t c[4], uint32_t k0,
                                           uint32_t k1)
{
    const uint32_t a = 0xd2511f53u, b = 0xcd9e8d57u;
    const uint32_t high_a = __umulhi(a, c[0]), high_b = __umulhi(b, c[2]);
    const uint32_t low_a = a * c[0], low_b = b * c[2];

    c[0] = high_b ^ c[1] ^ k0;
    c[1] = low_b;
    c[2] = high_a ^ c[3] ^ k1;
    c[3] = low_a;
}

/* Two words to two normal values, the sine first. */
static __device__ inline float2 box_muller(uint32_t x, uint32_t y)
{
    const float unit = 2.3283064e-10f;          // 2^-32
    const float turn = unit * 6.2831855f;       // 2^-32 of 2 pi
    const float u = __fmaf_rn((float)x, unit, unit / 2);
    const float a = __fmaf_rn((float)y, turn, turn / 2);
    const float r = sqrtf(-2 * logf(u));
    float s, c;

    __sincosf(a, &s, &c);
    return make_float2(s * r, c * r);
}

/* Thread i's round j of PyTorch's launch of T threads fills elements
 * i + T (4 j + 0..3), from the generator's round skip + j. Here a thread takes
 * rounds gridDim.y apart. */
static __global__ void randn_kernel(float *y, int64_t n, uint32_t seed_low,
                                    uint32_t seed_high, uint64_t skip)
{
    const int64_t T = (int64_t)gridDim.x * blockDim.x;
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (int64_t j = blockIdx.y; 4 * j * T + i < n; j += gridDim.y) {
        const uint64_t round = skip + (uint64_t)j;
        uint32_t word[4] = { (uint32_t)round, (uint32_t)(round >> 32),
                             (uint32_t)i, (uint32_t)(i >> 32) };
        uint32_t k0 = seed_low, k1 = seed_high;

        for (int r = 0; r < 10; r++) {
            philox_round(word, k0, k1);
            k0 += 0x9e3779b9u;
            k1 += 0xbb67ae85u;
        }

        const float2 p = box_muller(word[0], word[1]);
        const float2 q = box_muller(word[2], word[3]);
        const float v[4] = { p.x, p.y, q.x, q.y };

        for (int lane = 0; lane < 4; lane++)
            if (i + T * (4 * j + lane) < n)
                y[i + T * (4 * j + lane)] = v[lane];
    }
}

extern "C" void wan_cuda_noise(WanDev *d, WanTensor *y,
                               const WanNoise *which)
{
    const int64_t n = wan_count(y);
    int64_t blocks = which->threads / 256;

    if (!n)
        return;
    if (which->rng == WAN_RNG_CPU) {
        float *const host = (float *)malloc(n * sizeof(*host));

        if (!host) {
            wan_dev_fail(d, WAN_ERR(ENOMEM), "noise: no memory");
            return;
        }
        wan_randn_cpu(host, n, which->seed, which->skip);
        wan_cuda_upload(d, y, host);
        free(host);
        return;
    }

    blocks = blocks > wan_div_up(n, 256) ? wan_div_up(n, 256)
           : blocks < 1 ? 1 : blocks;
    const int64_t rounds = wan_div_up(n, blocks * 256 * 4);
    WAN_LAUNCH(randn_kernel,
               dim3((unsigned)blocks, rounds < 64 ? (unsigned)rounds : 64),
               256, 0, wan_cuda_stream(d), (float *)y->data, n,
               (uint32_t)which->seed, (uint32_t)(which->seed >> 32),
               which->skip);
    wan_cuda_launched(d, "noise");
}
