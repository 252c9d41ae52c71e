/*
 * One element of a float type that is known at run time.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CUDA_ANY_H
#define WAN_CUDA_ANY_H

#include "kernel.h"

/* p[i] of WAN_F32, WAN_BF16 or WAN_F16. */
static __device__ inline float load_any(const void *p, WanType type, int64_t i)
{
    if (type == WAN_F32)
        return ((const float *)p)[i];
    return type == WAN_BF16 ? to_float(((const bf16 *)p)[i])
                            : to_float(((const f16 *)p)[i]);
}

static __device__ inline void store_any(void *p, WanType type, int64_t i,
                                        float x)
{
    if (type == WAN_F32)
        ((float *)p)[i] = x;
    else if (type == WAN_BF16)
        ((bf16 *)p)[i] = from_float<bf16>(x);
    else
        ((f16 *)p)[i] = from_float<f16>(x);
}

#endif /* WAN_CUDA_ANY_H */
