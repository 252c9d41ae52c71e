/*
 * Attention and convolution in our own kernels: where cuDNN is absent, does
 * not offer the form, or is slower; and, in F32, what the others are tested
 * against. All pointers are the device's. Launches, as all kernels': ask
 * wan_cuda_launched() afterwards.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CUDA_OWN_H
#define WAN_CUDA_OWN_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "tensor.h"

/* ----------------------------------------------- attention (flash.cu) */

/* y[i] (+)= sum over j of softmax_j(scale q[i] k[j] + bias) v[j], head by
 * head; the heads of a row lie side by side. */
typedef struct WanOwnAttention {
    void *y;
    const void *q, *k, *v;
    WanType y_type, q_type, kv_type;    // F32, F16, BF16
    int64_t y_pitch, q_pitch, k_pitch, v_pitch; // elements
    int64_t lq, lk;
    int heads, size;
    float scale;
    float tail;             // added to the last key's score: ln of its count
    const float *rel_bias;  // [32, heads] or NULL: by T5's bucket of j - i
    int add;
} WanOwnAttention;

/* Ways to cut the tensor-core kernel; all give the same result up to
 * rounding. A bench tries them in turn. */
enum { WAN_FLASH_VARIANTS = 3 };

/* Whether the tensor-core kernel takes it: BF16, heads of 64, 80, 96 or 128,
 * rows on 16 bytes, no rel_bias, scale > 0. */
int wan_flash_fits(const WanOwnAttention *a);
void wan_flash(const WanOwnAttention *a, int variant,
                      cudaStream_t stream);

/* The plain kernel in F32 on any types, heads of at most 512. */
void wan_attention_f32(const WanOwnAttention *a, cudaStream_t stream);

/* ------------------------------------------- convolution (conv_own.cu) */

/*
 * y[t, r, c, o] (+)= bias[o] + sum over dt, dr, dc, i of
 *     w[o, dt, dr, dc, i] x[t st + dt, r s + dr - pad_r, c s + dc - pad_c, i]
 * with zeros outside x. x: [Tin, H, W, I], y: [T, Ho, Wo, O].
 *
 * phases = 2: the input is nearest-upsampled by two. Output row 2r + p, of
 * phase p = 0, 1, is then a convolution of its own with kernel rows summed,
 * padded by kh - 1 rows above in phase 0 and none in phase 1; columns alike.
 * w is then [2, 2, O, kt, kh, kw, I], one set a phase, and Ho = 2 H; with
 * kernels of one row and column all phases have the same set.
 */
typedef struct WanOwnConv {
    void *y;
    const void *x, *w;
    const float *bias;
    WanType y_type, x_type, w_type;
    int64_t tin, h, width, in;          // of x
    int64_t t, ho, wo, out;             // of y
    int kt, kh, kw;
    int stride_t, stride;
    int pad_r, pad_c;                   // of phases = 1
    int phases;
    int add;
} WanOwnConv;

/* Tensor cores, F32 sums: x and w both BF16 or both F16. */
void wan_conv_mma(const WanOwnConv *c, cudaStream_t stream);

/* F32 products and sums; x and w of any type. */
void wan_conv_f32(const WanOwnConv *c, cudaStream_t stream);

/* The summed weights of the phases: to [2, 2, O, kt, 2, 2, I] from
 * [O, kt, 3, 3, I], rounded once, both of that type. */
void wan_conv_phase_weights(void *to, const void *from, WanType type,
                                   int64_t out, int kt, int64_t in,
                                   cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif /* WAN_CUDA_OWN_H */
