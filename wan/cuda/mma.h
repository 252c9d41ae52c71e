/*
 * Tensor-core primitives of one warp, and 16-byte copies into shared memory
 * that overlap computing: what flash.cu and conv_own.cu are written in.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Each is one PTX instruction. Without nvcc, tests/emu/mma.h gives the same
 * functions by the instruction's definition, so that the kernels run on a CPU.
 *
 * Fragments of D[16, 8] += A[16, 16] B[16, 8], lane l, g = l / 4, t = l % 4:
 *   a[0], a[1]: rows g, g + 8, columns 2t, 2t + 1;  a[2], a[3]: columns + 8
 *   b[0]: rows 2t, 2t + 1 of column g;              b[1]: rows + 8
 *   d[0], d[1]: row g, columns 2t, 2t + 1;          d[2], d[3]: row g + 8
 */

#ifndef WAN_CUDA_MMA_H
#define WAN_CUDA_MMA_H

#include <stdint.h>

#include "kernel.h"

#ifdef __CUDACC__

/* d += a b of bf16 or f16. */
template<typename T>
static __device__ inline void mma_16816(float (&d)[4], const uint32_t (&a)[4],
                                        uint32_t b0, uint32_t b1);

#define WAN_MMA(T, name) \
    template<> \
    __device__ inline void mma_16816<T>(float (&d)[4], const uint32_t (&a)[4], \
                                        uint32_t b0, uint32_t b1) \
    { \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 " \
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)); \
    }
WAN_MMA(bf16, "bf16")
WAN_MMA(f16, "f16")
#undef WAN_MMA

/* Four 8 x 8 matrices of 16-bit elements: lanes 8i to 8i + 7 point at the
 * rows, 16 bytes each, of matrix i; r[i] is elements 2t, 2t + 1 of row g. */
static __device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)) : "memory");
}

/* The same, transposed: r[i] is elements g of rows 2t, 2t + 1. */
static __device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4],
                                                const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                 "{%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)) : "memory");
}

/* Begin to copy 16 bytes; zeros, and src is not read, unless valid. */
static __device__ inline void cp_async_16(void *shared, const void *src,
                                          bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(src),
                    "r"(valid ? 16 : 0) : "memory");
}

/* What this thread has begun becomes a group. */
static __device__ inline void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until all but the last N groups of this thread have arrived; others see
 * them after a barrier. */
template <int N>
static __device__ inline void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

/* 2^x to 2 ulp; 0 from -inf. */
static __device__ inline float exp2_fast(float x)
{
    float r;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

#else
#include <emu/mma.h>
#endif

#endif /* WAN_CUDA_MMA_H */
