/*
 * Beside cuBLASLt's products: a plain one for shapes it declines, and what
 * its epilogues can't do.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CUDA_LINEAR_OWN_H
#define WAN_CUDA_LINEAR_OWN_H

#include "cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y [M, N] = alpha x [M, K] W [N, K]^T, or +=; pitches in elements; F32 and
 * BF16; W dense. Sums in F32. Any shape; slow. */
typedef struct WanOwnProduct {
    void *y;
    const void *x, *w;
    WanType y_type, x_type, w_type;
    int64_t M, N, K, y_pitch, x_pitch;
    float alpha;
    int add;
} WanOwnProduct;

void wan_product(const WanOwnProduct *a, cudaStream_t stream);

/* y = [y +] gate * act(x * scale + bias); each but x may be absent (NULL, 0);
 * y may be x. The first four are the caller's. */
typedef struct WanOwnFinish {
    const float *scale, *bias, *gate;   // [N]
    WanAct act;
    int add;

    void *y;
    const void *x;
    int64_t y_pitch, x_pitch;
    int cols, per_row;
} WanOwnFinish;

void wan_finish(WanDev *d, WanTensor *y, const WanTensor *x, WanOwnFinish a);

#ifdef __cplusplus
}
#endif

#endif /* WAN_CUDA_LINEAR_OWN_H */
