/*
 * Attention: cuDNN where there is much of it and the form is plain, else our
 * own kernels.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 *   BF16, F16; no option; large          cuDNN
 *   BF16, heads of 64, 80, 96, 128       flash.cu on tensor cores: text, with
 *                                        its counted last key; the image, with
 *                                        .add; and large without cuDNN
 *   all else                             flash.cu's plain kernel, in F32
 */

#include <math.h>

#include "cudnn.h"
#include "own.h"

/* Multiply-adds from which a plan, half a second to two to make for each
 * shape, is worth it: below, our own kernel loses less than 50 us a call. */
#ifndef LARGE
#define LARGE 2e10
#endif

/* Of the plain kernel. */
#define LARGEST_HEAD 512

static WanOwnAttention own(const WanTensor *y, const WanTensor *q,
                           const WanTensor *k, const WanTensor *v,
                           const WanAttentionArgs *a, const float *rel_bias)
{
    return (WanOwnAttention){
        .y = y->data, .q = q->data, .k = k->data, .v = v->data,
        .y_type = y->type, .q_type = q->type, .kv_type = k->type,
        .y_pitch = y->pitch, .q_pitch = q->pitch, .k_pitch = k->pitch,
        .v_pitch = v->pitch,
        .lq = wan_rows(q), .lk = wan_rows(k),
        .heads = a->heads, .size = (int)(wan_cols(q) / a->heads),
        .scale = a->scale,
        .tail = a->tail > 1 ? (float)log((double)a->tail) : 0,
        .rel_bias = rel_bias, .add = a->add,
    };
}

WanCudnnOp wan_cudnn_attention(const WanTensor *y, const WanTensor *q,
                               const WanTensor *k, const WanTensor *v,
                               const WanAttentionArgs *a)
{
    return (WanCudnnOp){
        .kind = WAN_CUDNN_SDPA, .type = q->type,
        .heads = a->heads, .size = wan_cols(q) / a->heads,
        .lq = wan_rows(q), .lk = wan_rows(k),
        .q_pitch = q->pitch, .k_pitch = k->pitch, .v_pitch = v->pitch,
        .y_pitch = y->pitch,
    };
}

/* Whether cuDNN is asked, as far as plan can know. */
static int large(const WanTensor *q, const WanTensor *k,
                 const WanAttentionArgs *a)
{
    const double work = 2.0 * wan_rows(q) * wan_rows(k) * wan_cols(q);

    return (q->type == WAN_BF16 || q->type == WAN_F16) &&
           q->type == k->type && !a->rel_bias && a->tail <= 1 && !a->add &&
           wan_cols(q) / a->heads % 8 == 0 && work >= LARGE;
}

static int by_cudnn(WanDev *d, WanTensor *y, const WanTensor *q,
                    const WanTensor *k, const WanTensor *v,
                    const WanAttentionArgs *a)
{
    const WanCudnnOp op = wan_cudnn_attention(y, q, k, v, a);
    const WanCudnnData data = {
        .x = q->data, .w = k->data, .bias = v->data, .y = y->data,
        .scale = a->scale, .workspace = wan_cudnn_workspace(d->scratch),
        .workspace_bytes = WAN_CUDNN_SDPA_WORKSPACE,
    };
    const uintptr_t at = (uintptr_t)y->data | (uintptr_t)q->data |
                         (uintptr_t)k->data | (uintptr_t)v->data;
    const int64_t bytes = ((wan_rows(y) - 1) * y->pitch + wan_cols(y)) *
                          wan_type_size(y->type);

    if (y->type != q->type || v->type != q->type || at % 16 ||
        (y->pitch | q->pitch | k->pitch | v->pitch) % 8)
        return 0;
    return wan_cudnn_run(d, &op, &data, bytes, y->data == q->data, NULL, NULL);
}

int64_t wan_cuda_attention_scratch(int threads, const WanTensor *q,
                                   const WanTensor *k,
                                   const WanAttentionArgs *a)
{
    (void)threads;
    return large(q, k, a) ? WAN_CUDNN_ALIGN + WAN_CUDNN_SDPA_WORKSPACE : 0;
}

void wan_cuda_attention(WanDev *d, WanTensor *y, const WanTensor *q,
                        const WanTensor *k, const WanTensor *v,
                        const WanAttentionArgs *a)
{
    WanOwnAttention o;

    if (!wan_rows(q))
        return;
    if (large(q, k, a) && by_cudnn(d, y, q, k, v, a))
        return;
    o = own(y, q, k, v, a, NULL);
    if (!a->rel_bias && wan_flash_fits(&o)) {
        wan_flash(&o, 0, wan_cuda_stream(d));
        wan_cuda_launched(d, "attention");
        return;
    }
    if (o.size > LARGEST_HEAD || k->type != v->type) {
        wan_dev_fail(d, WAN_ERR(ENOSYS), "attention: heads of %d, keys in %s, "
                     "values in %s: not on CUDA", o.size,
                     wan_type_name(k->type), wan_type_name(v->type));
        return;
    }
    if (a->rel_bias) {
        o.rel_bias = wan_cuda_weight(d, a->rel_bias);
        if (!o.rel_bias)
            return;
    }
    wan_attention_f32(&o, wan_cuda_stream(d));
    wan_cuda_launched(d, "attention");
}
