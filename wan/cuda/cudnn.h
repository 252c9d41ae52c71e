/*
 * cuDNN's graph interface, as far as attention and convolution need it.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The library is opened at run time, 9.15 or newer. An operation is described
 * by its shape alone, a WanCudnnOp. The first of the library's engines that is
 * offered does it, the same in every run; with WanDev.tune the fastest, found
 * by timing them once, and remembered as long as the device is open. Descriptors can be built for a card that is not there, from a JSON text
 * of its properties, so that a test can ask what each card would be offered.
 */

#ifndef WAN_CUDA_CUDNN_H
#define WAN_CUDA_CUDNN_H

#include "cuda.h"

/* Workspace an engine may have, of the op's scratch; engines that want more
 * are not used. Where the plan backend counts, no card can be asked. */
#define WAN_CUDNN_SDPA_WORKSPACE (INT64_C(1) << 20)
#define WAN_CUDNN_CONV_WORKSPACE (INT64_C(16) << 20)

/* Aligned so: ask for as much more. */
#define WAN_CUDNN_ALIGN 256
static inline void *wan_cudnn_workspace(void *scratch)
{
    return (void *)(((uintptr_t)scratch + WAN_CUDNN_ALIGN - 1) /
                    WAN_CUDNN_ALIGN * WAN_CUDNN_ALIGN);
}

typedef struct WanCudnn WanCudnn;

typedef enum WanCudnnKind { WAN_CUDNN_SDPA = 1, WAN_CUDNN_CONV } WanCudnnKind;

/* An operation but for its pointers; all fields make the key it is remembered
 * by, so begin with zeros. */
typedef struct WanCudnnOp {
    WanCudnnKind kind;
    WanType type;               // of all: BF16, F16
    int add;                    // convolution: y += instead of y =

    /* Attention: one batch, heads side by side in rows of these pitches. */
    int64_t heads, size, lq, lk;
    int64_t q_pitch, k_pitch, v_pitch, y_pitch;

    /* Convolution: [T, H, W, C] of x and y, channels last. */
    int64_t x[4], y[4];
    int64_t kernel[3], stride[3], before[3], after[3]; // T, H, W; padding
} WanCudnnOp;

/* What it reads and writes, on the device. */
typedef struct WanCudnnData {
    const void *x, *w, *bias;   // q, k, v; the bias is of op's type
    void *y;
    float scale;                // attention
    void *workspace;
    int64_t workspace_bytes;
} WanCudnnData;

/**
 * Another way to do the same, timed beside the library's, into y.
 */
typedef void (*WanCudnnRival)(const void *opaque, void *y, cudaStream_t s);

/**
 * Do op.
 *
 * The first time it is planned, which for attention takes a second; with
 * WanDev.tune, the eighth time all engines are planned and timed, which waits
 * for the device.
 *
 * @param y_bytes the result's memory from its first element to its last; where
 *        the op reads what it overwrites, engines are timed on memory of that
 *        size beside it, and when there is none the first one offered is taken
 * @param in_place whether y is also an input (add; or y is q)
 * @return 1: launched, or d has failed; 0: the library is not there, offers
 *         nothing for op, or the rival was faster: the caller does the work
 */
int wan_cudnn_run(WanDev *d, const WanCudnnOp *op, const WanCudnnData *data,
                  int64_t y_bytes, int in_place, WanCudnnRival rival,
                  const void *rival_opaque);

/* The operations that attention.c and conv.c ask for. */
WanCudnnOp wan_cudnn_attention(const WanTensor *y, const WanTensor *q,
                               const WanTensor *k, const WanTensor *v,
                               const WanAttentionArgs *a);
WanCudnnOp wan_cudnn_conv(const WanTensor *y, const WanTensor *x,
                          const WanConv *w, const WanConvArgs *a);

/* ----------------------------------------------------- for plan checks */

/* One engine's plan. */
typedef struct WanCudnnPlan {
    void *descriptor;
    int64_t engine, workspace;
} WanCudnnPlan;

/**
 * Open the library.
 *
 * @param json NULL: for the current device; else for a card described by this
 *        text, to plan but not to run
 * @return 0; WAN_ERR(ENOSYS): no such library, or too old; WAN_ERR(EIO): it
 *         doesn't start. One line is logged, at WAN_LOG_INFO.
 */
int wan_cudnn_open(WanCudnn **out, const char *json, const WanLog *log);

/**
 * Plan op with up to max engines, best guess first, none with more workspace.
 *
 * @return how many; 0: none, wan_cudnn_text() says why
 */
int wan_cudnn_plans(WanCudnn *c, const WanCudnnOp *op, int64_t workspace,
                    WanCudnnPlan *plan, int max);
void wan_cudnn_plan_free(WanCudnn *c, WanCudnnPlan *plan);

/* The library's words on what failed last. */
const char *wan_cudnn_text(const WanCudnn *c);
int wan_cudnn_version(const WanCudnn *c);   // 91900 for 9.19.0

#endif /* WAN_CUDA_CUDNN_H */
