/*
 * Noise as PyTorch draws it, from either of its generators, on any machine.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_RNG_H
#define WAN_RNG_H

#include <stdint.h>

/* Draws have no state: a later one says by "skip" how far those before it
 * moved the generator on, which is the sum of their wan_randn_used_*(). */

/**
 * n standard normal values as torch.randn(n, generator=cpu, float32) with
 * manual_seed(seed) draws them: mt19937, Box-Muller in blocks of 16. Within
 * 1.3e-6 of any PyTorch build (their last bits differ among themselves);
 * n < 16: bit-exact.
 *
 * @param skip  words used before; draws of an odd n < 16 can't be continued
 */
void wan_randn_cpu(float *dst, int64_t n, uint64_t seed, uint64_t skip);
uint64_t wan_randn_used_cpu(int64_t n);

/**
 * The same from a CUDA generator: Philox4x32-10, four values a thread and
 * round.
 *
 * @param threads  the launch: threads per block (256) x blocks that fit the
 *                 card; 270336 for an H100. Fewer are used when n is smaller.
 * @param skip     rounds of each thread before, a quarter of PyTorch's offset
 */
void wan_randn_cuda(float *dst, int64_t n, uint64_t seed, int threads,
                    uint64_t skip);
uint64_t wan_randn_used_cuda(int64_t n, int threads);

/* One Philox4x32-10 block, for tests and the device kernel's oracle. */
void wan_philox(uint32_t out[4], const uint32_t counter[4],
                const uint32_t key[2]);

#endif /* WAN_RNG_H */
