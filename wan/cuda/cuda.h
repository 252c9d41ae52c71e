/*
 * The CUDA backend's inside: one device's state, what entries may call, and
 * the entries themselves.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Tensors of the arena have device pointers. Weights have host pointers into
 * a mapping or a pool, which an entry turns into device pointers with
 * wan_cuda_weight(). Entries launch on wan_cuda_stream() and return: they
 * never wait (but where ops.h says so), print or end the process. The front
 * door has made the device's context current and restores the caller's when
 * the entry returns.
 *
 * Activations are of d->backend->act, BF16 or (device cuda-f32) F32; any
 * activation or F32 tensor may be either, so kernels take F32 and BF16 (the
 * VAE's F16 too) for inputs and outputs independently and compute in F32.
 */

#ifndef WAN_CUDA_CUDA_H
#define WAN_CUDA_CUDA_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "ops.h"

/* Compute capabilities below are refused. */
#define WAN_CUDA_MIN_ARCH 80

/* And from this one on e4m3 is multiplied. */
#define WAN_CUDA_E4M3_ARCH 89

/* The host runs ahead of the device by two marks at most, so that a cancelled
 * job ends soon: 20 TFLOP are 30 ms of an H100. */
#define WAN_CUDA_PACE_FLOPS 20e12

/* Workspace a matrix product may take from d->scratch. */
#define WAN_CUDA_BLAS_WORKSPACE (INT64_C(32) << 20)

typedef struct WanCuda {
    int device;                     // its number
    int arch;                       // 90 for sm_90
    int sms;                        // multiprocessors
    int64_t shared_bytes;           // a block may have with opt-in
    char name[64];                  // "NVIDIA H100 80GB HBM3"
    struct WanCudaDriver *driver;   // device.c
    void *context;                  // CUcontext everything happens in
    int retained;                   // it is the primary one, retained by us

    cudaStream_t stream;            // all computing
    cudaStream_t copy_stream;       // weights on their way
    cudaEvent_t pace[2];            // how far ahead the host may run
    double pace_flops;              // d->flops at the last mark
    int paces;                      // marks so far
    uint32_t *flag;                 // page-locked, the device writes it too

    struct WanCudaWeights *weights; // weights.c
    struct WanCudaReplay *replay;   // replay.c; NULL until first used
    int recording;                  // the stream keeps launches for later
    struct WanCublas *blas;         // linear.c; NULL until first used
    struct WanCudnn *cudnn;         // cudnn.c; NULL until first used
    struct WanNccl *nccl;           // nccl.c; NULL: no other ranks
} WanCuda;

static inline WanCuda *wan_cuda(const WanDev *d)
{
    return (WanCuda *)d->priv;
}

/* ---------------------------------------------- for entries (device.c) */

static inline cudaStream_t wan_cuda_stream(const WanDev *d)
{
    return wan_cuda(d)->stream;
}

/* Whether comparison with F32 is wanted: F32 activations, no TF32. */
static inline int wan_cuda_strict(const WanDev *d)
{
    return d->backend->act == WAN_F32;
}

/* After a launch: keeps the first CUDA error in d. */
void wan_cuda_launched(WanDev *d, const char *op);

/* Any CUDA call: keeps a failure in d; whether it went well. */
int wan_cuda_ok(WanDev *d, cudaError_t e, const char *what);

/* A library's status: unless ok, "what: text" becomes d's error (EIO).
 * Returns ok. */
int wan_cuda_check(WanDev *d, int ok, const char *what, const char *text);

/* Wait for all that was launched; 0 when the device has failed. */
int wan_cuda_wait(WanDev *d, const char *op);

/* A word that kernels can write and, after wan_cuda_wait(), the host reads.
 * The same address on both sides; one user at a time. */
static inline uint32_t *wan_cuda_flag(const WanDev *d)
{
    return wan_cuda(d)->flag;
}

/* Whether kernels can read p: memory of the arena, or in a test of its own. */
int wan_cuda_readable(const void *p);
static inline int wan_cuda_is_device(const WanDev *d, const void *p)
{
    return ((const char *)p >= d->base &&
            (const char *)p < d->base + d->size) ||
           (!d->pager && wan_cuda_readable(p));
}

/* Open a shared library by the first of n names that is there, tried in the
 * system's path, then in the folders configure was given; NULL: none. */
void *wan_cuda_library(int n, const char *const *names);

/* ------------------------------------------------- weights (weights.c) */

/*
 * The device's copy of a weight or vector, dense; NULL: d has failed. Good
 * for work launched by the running entry alone. w->data itself where it is
 * arena memory already.
 *
 * Vectors are F32. Convolutions [O, I, kt, kh, kw] lie there as
 * [O, kt, kh, kw, I], of wan_cuda_weight_type().
 */
const void *wan_cuda_weight(WanDev *d, const WanTensor *w);

/* F32 on cuda-f32, else BF16. */
static inline WanType wan_cuda_weight_type(const WanDev *d, const WanTensor *w)
{
    (void)w;
    return d->backend->act;
}

/* The same of a matrix [N, K] in any float type, as F32, BF16 or e4m3, times
 * *scale: what was rounded to e4m3 has one, of all else it is 1. */
const void *wan_cuda_matrix(WanDev *d, const WanTensor *w, WanType type,
                            float *scale);

/* The same of n matrices of as many columns, one behind the other, as F32 or
 * BF16, and of vectors, which are never paged. NULL: d has failed; or they are
 * arena memory already, but of several types or not one behind the other. */
const void *wan_cuda_matrices(WanDev *d, int n, const WanTensor *const *w,
                              WanType type);
const void *wan_cuda_vectors(WanDev *d, int n, const WanTensor *const *v,
                             WanType type);

/* As what the device has a matrix where it meets x: as x's type; but where
 * that is BF16, e4m3 stays what it is, and a matrix that may be rounded to it
 * is if its sides are what products in e4m3 take, multiples of 16. Known
 * without the device, for the plan; a card or library that has no such product
 * widens it when it is used. */
WanType wan_cuda_matrix_type(const WanTensor *w, int e4m3, const WanTensor *x);

/* For device.c: a device's part of the weights, its vectors in the last
 * d->pager->vectors bytes of the arena. */
int wan_cuda_weights_open(WanDev *d);
void wan_cuda_weights_close(WanDev *d);
void wan_cuda_weights_stage(WanDev *d, int stage);
void wan_cuda_weights_forget(WanDev *d);
void wan_cuda_weights_used(WanDev *d);      // after each entry
int64_t wan_cuda_page_bytes(const WanTensor *w, int e4m3, const WanTensor *x,
                            WanType *type);

/* For replay.c: whether all weights of the stage stay where they are; where in
 * the order of uses they are, and that n uses are over. */
int wan_cuda_weights_stay(WanDev *d);
int64_t wan_cuda_weights_turn(WanDev *d);
void wan_cuda_weights_skip(WanDev *d, int64_t n);

/* replay.c. Forget what was recorded, as weights or plans change. */
int wan_cuda_replay(WanDev *d, int key, int nb, const WanTensor *in);
void wan_cuda_replay_forget(WanDev *d);
void wan_cuda_replay_close(WanDev *d);

/* Make the device's context current in a thread of our own, for good. */
void wan_cuda_adopt_thread(const WanCuda *c);

/* ------------------------------------------------------------- entries */

/* linear.c */
void wan_cuda_linear(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanLinear *w, const WanLinearArgs *a);
int64_t wan_cuda_linear_scratch(int threads, const WanTensor *y,
                                const WanTensor *x, const WanLinear *w,
                                const WanLinearArgs *a);
int wan_cuda_linear_n_fits(const WanTensor *y, const WanTensor *x, int n,
                           const WanLinear *const *w);
void wan_cuda_linear_n(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                       const WanLinear *const *w);
void wan_cublas_close(struct WanCublas **b);

/* attention.c, flash.cu */
void wan_cuda_attention(WanDev *d, WanTensor *y, const WanTensor *q,
                        const WanTensor *k, const WanTensor *v,
                        const WanAttentionArgs *a);
int64_t wan_cuda_attention_scratch(int threads, const WanTensor *q,
                                   const WanTensor *k,
                                   const WanAttentionArgs *a);

/* conv.c */
void wan_cuda_conv(WanDev *d, WanTensor *y, const WanTensor *x,
                   const WanConv *w, const WanConvArgs *a);
int64_t wan_cuda_conv_scratch(int threads, const WanTensor *y,
                              const WanTensor *x, const WanConv *w,
                              const WanConvArgs *a);

/* cudnn.c */
void wan_cudnn_close(struct WanCudnn **c);

/* norm.cu */
void wan_cuda_layer_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                         const WanTensor *gain, const WanTensor *bias,
                         float eps);
void wan_cuda_modulate(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanTensor *shift, const WanTensor *scale,
                       float eps);
void wan_cuda_gate_add_norm(WanDev *d, WanTensor *y, WanTensor *x,
                            const WanTensor *branch, const WanTensor *gate,
                            const WanTensor *gain, const WanTensor *bias,
                            float one, float eps);
void wan_cuda_rms_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanTensor *gain, float eps);
void wan_cuda_l2_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanTensor *gain, WanAct act);

void wan_cuda_row_norm(WanDev *d, WanTensor *y, const WanTensor *a,
                       const WanTensor *b, int p);

/* rope.cu */
void wan_cuda_rope(WanDev *d, WanTensor *x, const WanRope *rope);
void wan_cuda_rms_norm_rope(WanDev *d, WanTensor *x, const WanTensor *gain,
                            float eps, const WanRope *rope);

/* elem.cu */
void wan_cuda_act(WanDev *d, WanTensor *y, const WanTensor *x, WanAct act);
void wan_cuda_mul(WanDev *d, WanTensor *y, const WanTensor *a,
                  const WanTensor *b);
void wan_cuda_geglu(WanDev *d, WanTensor *y, const WanTensor *g,
                    const WanTensor *u);
void wan_cuda_gate_add(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanTensor *gate);
void wan_cuda_lincomb(WanDev *d, WanTensor *y, int n, const double *coef,
                      const WanTensor *const *x);
void wan_cuda_copy(WanDev *d, WanTensor *y, const WanTensor *x); // any types
void wan_cuda_fill(WanDev *d, WanTensor *y, float value);
void wan_cuda_finite(WanDev *d, const WanTensor *x, const char *what);
/* Gathers its rows on the host: the table stays there. */
void wan_cuda_embed(WanDev *d, WanTensor *y, const WanTensor *table,
                    const int32_t *ids);

/* image.cu */
void wan_cuda_patchify(WanDev *d, WanTensor *tokens, const WanTensor *x,
                       int p);
void wan_cuda_unpatchify(WanDev *d, WanTensor *x, const WanTensor *z);
void wan_cuda_channels_last(WanDev *d, WanTensor *y, const WanTensor *x,
                            int64_t t0, const WanTensor *scale,
                            const WanTensor *shift);
void wan_cuda_channels_first(WanDev *d, WanTensor *y, int64_t t0,
                             const WanTensor *x, const WanTensor *scale,
                             const WanTensor *shift);
void wan_cuda_fold(WanDev *d, WanTensor *y, const WanTensor *x,
                   const WanFold *a);
void wan_cuda_unfold(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanFold *a);
void wan_cuda_resize(WanDev *d, WanTensor *y, const WanTensor *x);
void wan_cuda_image(WanDev *d, const WanImage *img, const WanTensor *rgb);
int64_t wan_cuda_image_scratch(int threads, const WanTensor *rgb);

/* noise.cu */
void wan_cuda_noise(WanDev *d, WanTensor *y, const WanNoise *n);

/* quant.cu: y = e4m3(x / scale[0]), scale = max|x| / 448 (1 when x is 0).
 * x: [M, K] F32 or BF16; y: [M, K] F8_E4M3 dense; scale: one F32. */
void wan_cuda_quant_e4m3(WanDev *d, WanTensor *y, float *scale,
                         const WanTensor *x);
int wan_cuda_convert(cudaStream_t s, void *y, WanType ty, const void *x,
                     WanType tx, int64_t O, int64_t I, int64_t P,
                     float scale);

/* device.c */
void wan_cuda_upload(WanDev *d, WanTensor *y, const float *host);
void wan_cuda_download(WanDev *d, float *host, const WanTensor *x);

extern const WanOps wan_cuda_ops;

#ifdef __cplusplus
}
#endif

#endif /* WAN_CUDA_CUDA_H */
