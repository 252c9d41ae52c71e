/*
 * The backend 'cuda': finding a device, its context, streams and memory, and
 * the table of entries.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The driver is opened at run time, so a build with CUDA runs, and says why it
 * can't compute there, on machines without one. All work happens in one
 * context: the caller's, or the device's primary one. It is made current
 * around every backend call and the caller's is restored after it, so that
 * neither FFmpeg's hardware frames nor another library sees a difference.
 */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nccl.h"

/* Kept free of what the device has left: modules, library handles. */
#define RESERVE (INT64_C(512) << 20)

/* ---------------------------------------------------------------- driver */

/* What the runtime has no call for. */
typedef struct WanCudaDriver {
    void *handle;
    int (*init)(unsigned flags);
    int (*driver_version)(int *version);
    int (*device_get)(int *device, int ordinal);
    int (*retain)(void **context, int device);
    int (*release)(int device);
    int (*push)(void *context);
    int (*pop)(void **context);
    int (*context_device)(int *device);
} WanCudaDriver;

/* 0, or WAN_ERR(ENOSYS): there is none. */
static int driver_open(WanCudaDriver *v)
{
    const struct { void **fn; const char *name; } symbol[] = {
        { (void **)&v->init,           "cuInit" },
        { (void **)&v->driver_version, "cuDriverGetVersion" },
        { (void **)&v->device_get,     "cuDeviceGet" },
        { (void **)&v->retain,         "cuDevicePrimaryCtxRetain" },
        { (void **)&v->release,        "cuDevicePrimaryCtxRelease_v2" },
        { (void **)&v->push,           "cuCtxPushCurrent_v2" },
        { (void **)&v->pop,            "cuCtxPopCurrent_v2" },
        { (void **)&v->context_device, "cuCtxGetDevice" },
    };

    v->handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < sizeof(symbol) / sizeof(*symbol); i++)
        if (!v->handle || !(*symbol[i].fn = dlsym(v->handle, symbol[i].name)))
            return WAN_ERR(ENOSYS);
    return 0;
}

static void driver_close(WanCudaDriver *v)
{
    if (v->handle)
        dlclose(v->handle);
    v->handle = NULL;
}

void *wan_cuda_library(int n, const char *const *names)
{
    char path[4096];
    void *lib;

    for (int i = 0; i < n; i++)
        if ((lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL)))
            return lib;
    for (const char *dir = WAN_CUDA_PATH; *dir; dir += *dir == ':') {
        const int len = (int)strcspn(dir, ":");

        for (int i = 0; i < n; i++) {
            snprintf(path, sizeof(path), "%.*s/%s", len, dir, names[i]);
            if ((lib = dlopen(path, RTLD_NOW | RTLD_LOCAL)))
                return lib;
        }
        dir += len;
    }
    return NULL;
}

/* ------------------------------------------------------------- device */

static int attribute(int device, enum cudaDeviceAttr a)
{
    int v = 0;

    cudaDeviceGetAttribute(&v, a, device);
    return v;
}

static int cuda_usable(int index, const WanLog *log)
{
    WanCudaDriver v = { 0 };
    int version = 0, count = 0, ret = WAN_ERR(ENOSYS);
    cudaError_t e;

    if (driver_open(&v) < 0) {
        wan_log(log, WAN_LOG_ERROR, "device cuda: there is no NVIDIA driver "
                "(libcuda.so.1); use device=cpu");
        goto end;
    }
    v.driver_version(&version);
    if (version / 1000 < CUDART_VERSION / 1000) {
        wan_log(log, WAN_LOG_ERROR, "device cuda: the driver is of CUDA "
                "%d.%d, this build needs one of CUDA %d.0 or newer",
                version / 1000, version / 10 % 100, CUDART_VERSION / 1000);
        goto end;
    }
    e = cudaGetDeviceCount(&count);
    if (e || !count) {
        wan_log(log, WAN_LOG_ERROR, "device cuda: no CUDA device (%s)",
                e ? cudaGetErrorString(e) : "none is visible");
        goto end;
    }
    if (index >= count) {
        char last[24] = "";

        if (count > 1)
            snprintf(last, sizeof(last), " to cuda:%d", count - 1);
        wan_log(log, WAN_LOG_ERROR, "device cuda:%d: this machine has cuda:0%s",
                index, last);
        goto end;
    }
    const int major = attribute(index, cudaDevAttrComputeCapabilityMajor);
    const int minor = attribute(index, cudaDevAttrComputeCapabilityMinor);
    if (10 * major + minor < WAN_CUDA_MIN_ARCH) {
        wan_log(log, WAN_LOG_ERROR, "device cuda:%d: compute capability %d.%d;"
                " %d.%d or newer can be", index, major, minor,
                WAN_CUDA_MIN_ARCH / 10, WAN_CUDA_MIN_ARCH % 10);
        goto end;
    }
    ret = 0;
end:
    cudaGetLastError();
    driver_close(&v);
    return ret;
}

/* Whether it multiplies e4m3, as far as that is known without it. */
static int cuda_e4m3(int index)
{
    if (cuda_usable(index, NULL) < 0)
        return 1;
    return 10 * attribute(index, cudaDevAttrComputeCapabilityMajor) +
           attribute(index, cudaDevAttrComputeCapabilityMinor) >=
           WAN_CUDA_E4M3_ARCH;
}

static void cuda_enter(WanDev *d)
{
    wan_cuda(d)->driver->push(wan_cuda(d)->context);
}

/* What the device has to do may hang on other ranks' data. */
static int wait_for(WanDev *d, cudaEvent_t event, const char *op)
{
    return wan_cuda(d)->nccl ? wan_nccl_wait(d, event, op)
                             : wan_cuda_ok(d, cudaEventSynchronize(event), op);
}

/* Let the host get no further ahead than two marks. */
static void pace(WanDev *d, WanCuda *c)
{
    if (d->error || c->recording ||
        d->flops < c->pace_flops + WAN_CUDA_PACE_FLOPS)
        return;
    c->pace_flops = d->flops;
    if (c->paces >= 2)
        wait_for(d, c->pace[c->paces % 2], "waiting");
    wan_cuda_ok(d, cudaEventRecord(c->pace[c->paces++ % 2], c->stream),
                "marking");
}

static void cuda_leave(WanDev *d)
{
    WanCuda *c = wan_cuda(d);
    void *own;

    if (c->weights)
        wan_cuda_weights_used(d);
    if (c->stream)
        pace(d, c);
    c->driver->pop(&own);
}

void wan_cuda_adopt_thread(const WanCuda *c)
{
    c->driver->push(c->context);
}

/* The caller's context must be of the device that was named. */
static int check_context(WanDev *d, WanCuda *c)
{
    int device = -1, named = -1, bad;
    void *own;

    if (!(bad = c->driver->push(c->context))) {
        bad = c->driver->context_device(&device);
        c->driver->pop(&own);
    }
    if (bad || c->driver->device_get(&named, d->index)) {
        c->context = NULL;      // nothing can be closed in it
        wan_log(d->log, WAN_LOG_ERROR, "device cuda:%d: the context that was "
                "given is none", d->index);
        return WAN_ERR(EINVAL);
    }
    if (device != named) {
        wan_log(d->log, WAN_LOG_ERROR, "device cuda:%d: the context that was "
                "given is of another device", d->index);
        return WAN_ERR(EINVAL);
    }
    return 0;
}

static int open_context(WanDev *d, WanCuda *c)
{
    int device, e;

    c->context = d->context;
    if (c->context)
        return check_context(d, c);
    if ((e = c->driver->init(0)) || (e = c->driver->device_get(&device,
                                                               d->index)) ||
        (e = c->driver->retain(&c->context, device))) {
        wan_log(d->log, WAN_LOG_ERROR, "device cuda:%d: it can't be opened "
                "(CUDA error %d); is another program using it alone?",
                d->index, e);
        return WAN_ERR(EIO);
    }
    c->retained = 1;
    return 0;
}

static int open_streams(WanCuda *c)
{
    cudaError_t e = cudaStreamCreateWithFlags(&c->stream,
                                              cudaStreamNonBlocking);

    if (!e)
        e = cudaStreamCreateWithFlags(&c->copy_stream, cudaStreamNonBlocking);
    for (int i = 0; i < 2 && !e; i++)
        e = cudaEventCreateWithFlags(&c->pace[i], cudaEventDisableTiming |
                                                  cudaEventBlockingSync);
    if (!e)
        e = cudaHostAlloc((void **)&c->flag, 64, cudaHostAllocMapped);
    return e;
}

static int cuda_open(WanDev *d)
{
    struct cudaDeviceProp prop;
    WanCuda *c;
    int e, ret;

    if ((ret = cuda_usable(d->index, d->log)) < 0)
        return ret;
    d->priv = c = calloc(1, sizeof(*c));
    if (!c || !(c->driver = calloc(1, sizeof(*c->driver))))
        return WAN_ERR(ENOMEM);
    c->device = d->index;
    if ((ret = driver_open(c->driver)) < 0 || (ret = open_context(d, c)) < 0)
        return ret;

    cuda_enter(d);
    e = cudaGetDeviceProperties(&prop, c->device);
    if (!e) {
        c->arch = 10 * prop.major + prop.minor;
        c->sms = prop.multiProcessorCount;
        c->shared_bytes = (int64_t)prop.sharedMemPerBlockOptin;
        snprintf(c->name, sizeof(c->name), "%.63s", prop.name);
        e = open_streams(c);
    }
    if (!e)
        ret = wan_cuda_weights_open(d);
    cuda_leave(d);
    if (e) {
        wan_log(d->log, WAN_LOG_ERROR, "device cuda:%d: %s", c->device,
                cudaGetErrorString(e));
        return e == cudaErrorMemoryAllocation ? WAN_ERR(ENOMEM) : WAN_ERR(EIO);
    }
    wan_log(d->log, WAN_LOG_VERBOSE, "device cuda:%d: %s, compute capability "
            "%d.%d, %d multiprocessors", c->device, c->name, c->arch / 10,
            c->arch % 10, c->sms);
    return ret;
}

static void cuda_close(WanDev *d)
{
    WanCuda *c = wan_cuda(d);
    int device;

    if (!c)
        return;
    if (c->context && c->driver->handle) {
        cuda_enter(d);
        wan_cuda_replay_close(d);
        wan_cudnn_close(&c->cudnn);
        wan_cublas_close(&c->blas);
        wan_cuda_weights_close(d);
        for (int i = 0; i < 2; i++)
            if (c->pace[i])
                cudaEventDestroy(c->pace[i]);
        if (c->stream)
            cudaStreamDestroy(c->stream);
        if (c->copy_stream)
            cudaStreamDestroy(c->copy_stream);
        if (c->flag)
            cudaFreeHost(c->flag);
        c->stream = NULL;
        cuda_leave(d);
        if (c->retained && !c->driver->device_get(&device, c->device))
            c->driver->release(device);
    }
    if (c->driver)
        driver_close(c->driver);
    free(c->driver);
    free(c);
    d->priv = NULL;
}

static int64_t cuda_available(int index, void *context)
{
    WanDev d = { .index = index, .context = context };
    size_t have = 0, all;
    cudaError_t e;

    /* Without a device, as a plan is made, it is not known. */
    if (cuda_usable(index, NULL) < 0)
        return INT64_MAX;
    WanCudaDriver v = { 0 };
    WanCuda c = { .driver = &v };
    int64_t left = INT64_MAX;
    void *own;
    int device;

    if (driver_open(&v) >= 0 && open_context(&d, &c) >= 0) {
        v.push(c.context);
        e = cudaMemGetInfo(&have, &all);
        v.pop(&own);
        left = e || (int64_t)have < RESERVE ? 0 : (int64_t)have - RESERVE;
        if (c.retained && !v.device_get(&device, index))
            v.release(device);
    }
    driver_close(&v);
    return left;
}

static void *cuda_alloc(WanDev *d, int64_t bytes)
{
    void *p = NULL;

    (void)d;
    if (cudaMalloc(&p, bytes > 0 ? bytes : 1)) {
        cudaGetLastError();
        return NULL;
    }
    return p;
}

static void cuda_free(WanDev *d, void *p, int64_t bytes)
{
    (void)bytes;
    /* Nothing may be under way into it. */
    wan_nccl_leave(d);
    wan_cuda_weights_close(d);
    cudaStreamSynchronize(wan_cuda_stream(d));
    cudaFree(p);
}

static void *cuda_shared_alloc(WanDev *d, int64_t bytes)
{
    void *p = NULL;

    wan_cuda_ok(d, cudaHostAlloc(&p, bytes > 0 ? bytes : 1,
                                 cudaHostAllocMapped), "shared memory");
    return p;
}

static void cuda_shared_free(WanDev *d, void *p)
{
    cudaStreamSynchronize(wan_cuda_stream(d));
    cudaFreeHost(p);
}

static void cuda_wait(WanDev *d)
{
    wan_cuda_wait(d, "waiting");
}

int wan_cuda_readable(const void *p)
{
    struct cudaPointerAttributes a;

    if (!p || cudaPointerGetAttributes(&a, p)) {
        cudaGetLastError();
        return 0;
    }
    return a.type != cudaMemoryTypeUnregistered;
}

/* ------------------------------------------------------------- errors */

int wan_cuda_ok(WanDev *d, cudaError_t e, const char *what)
{
    const WanCuda *c = wan_cuda(d);

    if (!e)
        return 1;
    cudaGetLastError();
    wan_dev_fail(d, e == cudaErrorMemoryAllocation ? WAN_ERR(ENOMEM)
                                                   : WAN_ERR(EIO),
                 "cuda:%d (%s): %s: %s", c->device, c->name, what,
                 cudaGetErrorString(e));
    return 0;
}

void wan_cuda_launched(WanDev *d, const char *op)
{
    wan_cuda_ok(d, cudaGetLastError(), op);
}

int wan_cuda_check(WanDev *d, int ok, const char *what, const char *text)
{
    const WanCuda *c = wan_cuda(d);

    if (!ok)
        wan_dev_fail(d, WAN_ERR(EIO), "cuda:%d (%s): %s: %s", c->device,
                     c->name, what, text);
    return ok;
}

/* Sleeps, so that a core is free for the encoder. */
int wan_cuda_wait(WanDev *d, const char *op)
{
    WanCuda *c = wan_cuda(d);

    if (d->error)
        return 0;
    return wan_cuda_ok(d, cudaEventRecord(c->pace[c->paces % 2], c->stream),
                       op) &&
           wait_for(d, c->pace[c->paces++ % 2], op);
}

/* --------------------------------------------------- to and from the host */

void wan_cuda_upload(WanDev *d, WanTensor *y, const float *host)
{
    if (wan_cuda_ok(d, cudaMemcpyAsync(y->data, host,
                                       wan_count(y) * sizeof(*host),
                                       cudaMemcpyDefault,
                                       wan_cuda_stream(d)), "upload"))
        wan_cuda_wait(d, "upload");
}

void wan_cuda_download(WanDev *d, float *host, const WanTensor *x)
{
    const int64_t rows = wan_rows(x), cols = wan_cols(x);
    const size_t size = wan_type_size(x->type);
    /* Narrow values arrive at the end of the memory that they will fill. */
    char *raw = (char *)host + rows * cols * (sizeof(*host) - size);

    if (!wan_cuda_ok(d, cudaMemcpy2DAsync(raw, cols * size, x->data,
                                          x->pitch * size, cols * size, rows,
                                          cudaMemcpyDefault,
                                          wan_cuda_stream(d)), "download") ||
        !wan_cuda_wait(d, "download") || x->type == WAN_F32)
        return;
    for (int64_t i = 0; i < rows * cols; i++) {
        float v;

        wan_to_f32(&v, raw + i * size, x->type, 1, 1);
        host[i] = v;
    }
}

/* -------------------------------------------------------------- table */

const WanOps wan_cuda_ops = {
    .linear         = wan_cuda_linear,
    .linear_n       = wan_cuda_linear_n,
    .linear_n_fits  = wan_cuda_linear_n_fits,
    .attention      = wan_cuda_attention,
    .conv           = wan_cuda_conv,
    .layer_norm     = wan_cuda_layer_norm,
    .modulate       = wan_cuda_modulate,
    .gate_add_norm  = wan_cuda_gate_add_norm,
    .rms_norm       = wan_cuda_rms_norm,
    .rope           = wan_cuda_rope,
    .rms_norm_rope  = wan_cuda_rms_norm_rope,
    .l2_norm        = wan_cuda_l2_norm,
    .row_norm       = wan_cuda_row_norm,
    .act            = wan_cuda_act,
    .mul            = wan_cuda_mul,
    .geglu          = wan_cuda_geglu,
    .gate_add       = wan_cuda_gate_add,
    .lincomb        = wan_cuda_lincomb,
    .copy           = wan_cuda_copy,
    .fill           = wan_cuda_fill,
    .upload         = wan_cuda_upload,
    .download       = wan_cuda_download,
    .finite         = wan_cuda_finite,
    .embed          = wan_cuda_embed,
    .patchify       = wan_cuda_patchify,
    .unpatchify     = wan_cuda_unpatchify,
    .channels_last  = wan_cuda_channels_last,
    .channels_first = wan_cuda_channels_first,
    .fold           = wan_cuda_fold,
    .unfold         = wan_cuda_unfold,
    .resize         = wan_cuda_resize,
    .image          = wan_cuda_image,
    .noise          = wan_cuda_noise,
    .linear_scratch    = wan_cuda_linear_scratch,
    .attention_scratch = wan_cuda_attention_scratch,
    .conv_scratch      = wan_cuda_conv_scratch,
    .image_scratch     = wan_cuda_image_scratch,
};

/* Of device memory, for NCCL: its buffers for some connections to each of seven
 * other cards. Not measured. */
#define JOIN_BYTES (INT64_C(512) << 20)

/* Rows of a hidden layer: 128 a tile for each of an H100's multiprocessors. */
#define HIDDEN_ROWS (128 * 132)

const WanBackend wan_backend_cuda = {
    .name = "cuda", .ops = &wan_cuda_ops, .act = WAN_BF16, .device = 1,
    .precision = WAN_PRECISION_BF16,
    .hidden_rows = HIDDEN_ROWS,
    .open = cuda_open, .close = cuda_close,
    .usable = cuda_usable, .available = cuda_available,
    .alloc = cuda_alloc, .free = cuda_free,
    .page_bytes = wan_cuda_page_bytes, .e4m3 = cuda_e4m3,
    .stage = wan_cuda_weights_stage,
    .forget = wan_cuda_weights_forget, .replay = wan_cuda_replay,
    .wait = cuda_wait,
    .joins = wan_nccl_there, .join = wan_nccl_join, .join_bytes = JOIN_BYTES,
    .exchange = wan_nccl_exchange,
    .shared_alloc = cuda_shared_alloc, .shared_free = cuda_shared_free,
    .enter = cuda_enter, .leave = cuda_leave,
};

/* The same in F32, for comparison: no TF32, nothing rounded. */
const WanBackend wan_backend_cuda_f32 = {
    .name = "cuda-f32", .ops = &wan_cuda_ops, .act = WAN_F32, .device = 1,
    .precision = WAN_PRECISION_F32,
    .hidden_rows = HIDDEN_ROWS,
    .open = cuda_open, .close = cuda_close,
    .usable = cuda_usable, .available = cuda_available,
    .alloc = cuda_alloc, .free = cuda_free,
    .page_bytes = wan_cuda_page_bytes, .stage = wan_cuda_weights_stage,
    .forget = wan_cuda_weights_forget, .replay = wan_cuda_replay,
    .wait = cuda_wait,
    .joins = wan_nccl_there, .join = wan_nccl_join, .join_bytes = JOIN_BYTES,
    .exchange = wan_nccl_exchange,
    .shared_alloc = cuda_shared_alloc, .shared_free = cuda_shared_free,
    .enter = cuda_enter, .leave = cuda_leave,
};
