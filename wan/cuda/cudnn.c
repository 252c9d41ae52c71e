/*
 * cuDNN's graph interface: descriptors, plans, and which plan is the fastest.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A descriptor is created, given attributes and finalized. Helpers keep the
 * first failure in c->status and do nothing after it, so building reads
 * straight down and is asked once.
 */

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cudnn_graph.h>
#include <cudnn_version.h>

#include "cudnn.h"

/* Wrong bf16 attention in 9.10, lost convolutions until 9.14. */
#define MIN_VERSION 91500

/* Older headers will do: the library's version is what counts. */
#if CUDNN_VERSION < 91301
#define CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR 41
#define CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC 2800
#define CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC 2801
#define CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC 2802
#define CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC 2803
#define CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC 2805
#endif
#if CUDNN_VERSION < 90800
#define CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR 38
#define CUDNN_ATTR_ENGINEHEUR_DEVICEPROP 204
#define CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP 407
#define CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION 2702
#endif

typedef cudnnBackendDescriptor_t Desc;

/* Names of tensors in a graph. */
enum { X = 1, W, V, Y, SCALE, BIAS, OLD, PRODUCT, SUM };

/* The use of a shape at which engines are timed, if WanDev.tune. Before, it is
 * the first that is offered: a shape of a video's first frame alone is not
 * worth more. */
#define TUNE_AT 8

/* A shape that was met, and what does it. */
typedef struct Choice {
    WanCudnnOp op;
    WanCudnnPlan plan;          // none: not offered, or the rival is faster
    int uses, tuned;
    struct Choice *next;
} Choice;

struct WanCudnn {
    void *lib;
    cudnnHandle_t handle;       // NULL: for a card that is not there
    Desc device;                // its description
    int version;
    pthread_mutex_t lock;       // the handle and all below: one at a time
    Choice *choices;

    Desc *all;                  // descriptors, the plans' aside
    int nb_all, room;
    int status;                 // of building: the first failure
    char text[256];

    size_t (*GetVersion)(void);
    cudnnStatus_t (*Create)(cudnnHandle_t *);
    cudnnStatus_t (*Destroy)(cudnnHandle_t);
    cudnnStatus_t (*SetStream)(cudnnHandle_t, cudaStream_t);
    void (*GetLastErrorString)(char *, size_t);
    cudnnStatus_t (*BackendCreateDescriptor)(cudnnBackendDescriptorType_t,
                                             Desc *);
    cudnnStatus_t (*BackendDestroyDescriptor)(Desc);
    cudnnStatus_t (*BackendFinalize)(Desc);
    cudnnStatus_t (*BackendSetAttribute)(Desc, cudnnBackendAttributeName_t,
                                         cudnnBackendAttributeType_t, int64_t,
                                         const void *);
    cudnnStatus_t (*BackendGetAttribute)(const Desc,
                                         cudnnBackendAttributeName_t,
                                         cudnnBackendAttributeType_t, int64_t,
                                         int64_t *, void *);
    cudnnStatus_t (*BackendExecute)(cudnnHandle_t, Desc, Desc);
};

const char *wan_cudnn_text(const WanCudnn *c)
{
    return c->text;
}

int wan_cudnn_version(const WanCudnn *c)
{
    return c->version;
}

/* ----------------------------------------------------------- descriptors */

static void note(WanCudnn *c, int status, const char *what)
{
    char text[200] = "";

    if (!status || c->status)
        return;
    c->status = status;
    c->GetLastErrorString(text, sizeof(text));
    text[strcspn(text, "\r\n")] = 0;
    snprintf(c->text, sizeof(c->text), "%s: status %d%s%.200s", what, status,
             text[0] ? ", " : "", text);
}

static void set(WanCudnn *c, Desc d, int name, int type, int64_t n,
                const void *value)
{
    if (!c->status)
        note(c, c->BackendSetAttribute(d, name, type, n, value),
             "set attribute");
}

#define SET(d, name, type, n, value) \
    set(c, d, CUDNN_ATTR_##name, CUDNN_TYPE_##type, n, value)

static Desc create(WanCudnn *c, int type)
{
    Desc d = NULL;

    if (!c->status)
        note(c, c->BackendCreateDescriptor(type, &d), "create descriptor");
    return d;
}

/* One that lives as long as the library is open. */
static Desc begin(WanCudnn *c, int type)
{
    Desc d;

    if (c->nb_all == c->room && !c->status) {
        const int room = c->room ? 2 * c->room : 256;
        Desc *all = realloc(c->all, room * sizeof(*all));

        if (!all) {
            c->status = -1;
            snprintf(c->text, sizeof(c->text), "out of memory");
            return NULL;
        }
        c->all = all;
        c->room = room;
    }
    d = create(c, type);
    if (d)
        c->all[c->nb_all++] = d;
    return d;
}

static void finalize(WanCudnn *c, Desc d, const char *what)
{
    if (!c->status)
        note(c, c->BackendFinalize(d), what);
}

static cudnnDataType_t data_type(WanType type)
{
    return type == WAN_BF16 ? CUDNN_DATA_BFLOAT16 :
           type == WAN_F16  ? CUDNN_DATA_HALF : CUDNN_DATA_FLOAT;
}

/* by_value: a number on the host; else virtual: it never reaches memory. */
static Desc tensor(WanCudnn *c, int64_t id, WanType type, int n,
                   const int64_t *dim, const int64_t *stride, bool by_value,
                   bool virtual)
{
    const cudnnDataType_t t = data_type(type);
    const int64_t align = by_value || type == WAN_F32 ? 4 : 16;
    const Desc d = begin(c, CUDNN_BACKEND_TENSOR_DESCRIPTOR);

    SET(d, TENSOR_UNIQUE_ID, INT64, 1, &id);
    SET(d, TENSOR_DATA_TYPE, DATA_TYPE, 1, &t);
    SET(d, TENSOR_BYTE_ALIGNMENT, INT64, 1, &align);
    SET(d, TENSOR_DIMENSIONS, INT64, n, dim);
    SET(d, TENSOR_STRIDES, INT64, n, stride);
    SET(d, TENSOR_IS_BY_VALUE, BOOLEAN, 1, &by_value);
    SET(d, TENSOR_IS_VIRTUAL, BOOLEAN, 1, &virtual);
    finalize(c, d, "tensor");
    return d;
}

/* ---------------------------------------------------------------- graphs */

/* [batch, heads, tokens, size]: the layout is in the strides. */
static Desc sdpa(WanCudnn *c, const WanCudnnOp *op)
{
    const int64_t one[4] = { 1, 1, 1, 1 }, s = op->size;
    const int64_t q[4] = { 1, op->heads, op->lq, s };
    const int64_t k[4] = { 1, op->heads, op->lk, s };
#define STRIDES(rows, pitch) (const int64_t[4]){ (rows) * (pitch), s, pitch, 1 }
    const Desc dq = tensor(c, X, op->type, 4, q,
                           STRIDES(op->lq, op->q_pitch), 0, 0);
    const Desc dk = tensor(c, W, op->type, 4, k,
                           STRIDES(op->lk, op->k_pitch), 0, 0);
    const Desc dv = tensor(c, V, op->type, 4, k,
                           STRIDES(op->lk, op->v_pitch), 0, 0);
    const Desc dy = tensor(c, Y, op->type, 4, q,
                           STRIDES(op->lq, op->y_pitch), 0, 0);
#undef STRIDES
    const Desc scale = tensor(c, SCALE, WAN_F32, 4, one, one, 1, 0);
    const Desc d = begin(c, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);

    SET(d, OPERATION_SDPA_FWD_QDESC, BACKEND_DESCRIPTOR, 1, &dq);
    SET(d, OPERATION_SDPA_FWD_KDESC, BACKEND_DESCRIPTOR, 1, &dk);
    SET(d, OPERATION_SDPA_FWD_VDESC, BACKEND_DESCRIPTOR, 1, &dv);
    SET(d, OPERATION_SDPA_FWD_ODESC, BACKEND_DESCRIPTOR, 1, &dy);
    SET(d, OPERATION_SDPA_FWD_SCALEDESC, BACKEND_DESCRIPTOR, 1, &scale);
    finalize(c, d, "attention");
    return d;
}

/* z = a + b, in F32. */
static Desc addition(WanCudnn *c, Desc a, Desc b, Desc z)
{
    const cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    const Desc pw = begin(c, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    Desc d;

    SET(pw, POINTWISE_MODE, POINTWISE_MODE, 1, &mode);
    SET(pw, POINTWISE_MATH_PREC, DATA_TYPE, 1, &f32);
    finalize(c, pw, "pointwise");
    d = begin(c, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    SET(d, OPERATION_POINTWISE_PW_DESCRIPTOR, BACKEND_DESCRIPTOR, 1, &pw);
    SET(d, OPERATION_POINTWISE_XDESC, BACKEND_DESCRIPTOR, 1, &a);
    SET(d, OPERATION_POINTWISE_BDESC, BACKEND_DESCRIPTOR, 1, &b);
    SET(d, OPERATION_POINTWISE_YDESC, BACKEND_DESCRIPTOR, 1, &z);
    finalize(c, d, "addition");
    return d;
}

/* [1, C, T, H, W] over channels-last memory of these strides. */
static Desc frames(WanCudnn *c, int64_t id, WanType type, const int64_t *dim,
                   const int64_t *stride, bool virtual)
{
    return tensor(c, id, type, 5,
                  (const int64_t[5]){ 1, dim[3], dim[0], dim[1], dim[2] },
                  (const int64_t[5]){ dim[0] * stride[0], 1, stride[0],
                                      stride[1], stride[2] }, 0, virtual);
}

/* y = conv(x, w) [+ old y] + bias: this order, and a bias of x's type, is what
 * ready engines know; an F32 bias leaves one that is compiled for each shape.
 * Returns how many operations. */
static int conv(WanCudnn *c, const WanCudnnOp *op, Desc *ops)
{
    const int64_t C = op->x[3], O = op->y[3], spatial = 3;
    const int64_t *k = op->kernel, one[3] = { 1, 1, 1 };
    const int64_t xs[3] = { op->x[1] * op->x[2] * C, op->x[2] * C, C };
    const int64_t ys[3] = { op->y[1] * op->y[2] * O, op->y[2] * O, O };
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const float alpha = 1, beta = 0;
    const Desc x = frames(c, X, op->type, op->x, xs, 0);
    const Desc w = tensor(c, W, op->type, 5,
                          (const int64_t[5]){ O, C, k[0], k[1], k[2] },
                          (const int64_t[5]){ k[0] * k[1] * k[2] * C, 1,
                                              k[1] * k[2] * C, k[2] * C, C },
                          0, 0);
    const Desc bias = tensor(c, BIAS, op->type, 5,
                             (const int64_t[5]){ 1, O, 1, 1, 1 },
                             (const int64_t[5]){ O, 1, O, O, O }, 0, 0);
    const Desc y = frames(c, Y, op->type, op->y, ys, 0);
    const Desc product = frames(c, PRODUCT, WAN_F32, op->y, ys, 1);
    const Desc cd = begin(c, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    int n = 0;

    SET(cd, CONVOLUTION_COMP_TYPE, DATA_TYPE, 1, &f32);
    SET(cd, CONVOLUTION_CONV_MODE, CONVOLUTION_MODE, 1, &mode);
    SET(cd, CONVOLUTION_SPATIAL_DIMS, INT64, 1, &spatial);
    SET(cd, CONVOLUTION_DILATIONS, INT64, 3, one);
    SET(cd, CONVOLUTION_FILTER_STRIDES, INT64, 3, op->stride);
    SET(cd, CONVOLUTION_PRE_PADDINGS, INT64, 3, op->before);
    SET(cd, CONVOLUTION_POST_PADDINGS, INT64, 3, op->after);
    finalize(c, cd, "convolution");

    ops[n] = begin(c, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    SET(ops[n], OPERATION_CONVOLUTION_FORWARD_ALPHA, FLOAT, 1, &alpha);
    SET(ops[n], OPERATION_CONVOLUTION_FORWARD_BETA, FLOAT, 1, &beta);
    SET(ops[n], OPERATION_CONVOLUTION_FORWARD_CONV_DESC, BACKEND_DESCRIPTOR, 1,
        &cd);
    SET(ops[n], OPERATION_CONVOLUTION_FORWARD_X, BACKEND_DESCRIPTOR, 1, &x);
    SET(ops[n], OPERATION_CONVOLUTION_FORWARD_W, BACKEND_DESCRIPTOR, 1, &w);
    SET(ops[n], OPERATION_CONVOLUTION_FORWARD_Y, BACKEND_DESCRIPTOR, 1,
        &product);
    finalize(c, ops[n++], "convolution forward");
    if (op->add) {
        const Desc old = frames(c, OLD, op->type, op->y, ys, 0);
        const Desc sum = frames(c, SUM, WAN_F32, op->y, ys, 1);

        ops[n++] = addition(c, product, old, sum);
        ops[n++] = addition(c, sum, bias, y);
    } else {
        ops[n++] = addition(c, product, bias, y);
    }
    return n;
}

static Desc graph(WanCudnn *c, const WanCudnnOp *op)
{
    Desc ops[3], g;
    int n = 1;

    if (op->kind == WAN_CUDNN_SDPA)
        ops[0] = sdpa(c, op);
    else
        n = conv(c, op, ops);
    g = begin(c, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    SET(g, OPERATIONGRAPH_OPS, BACKEND_DESCRIPTOR, n, ops);
    if (c->handle)
        SET(g, OPERATIONGRAPH_HANDLE, HANDLE, 1, &c->handle);
    finalize(c, g, "graph");
    return g;
}

/* ----------------------------------------------------------------- plans */

/* Whether results would depend on chance or be less exact than F32 sums of
 * products. Also the engine's number. */
static int unwanted(WanCudnn *c, Desc config, int64_t *number)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    Desc engine = begin(c, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    int64_t n = 0;

    *number = -1;
    if (c->status ||
        c->BackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                               CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine))
        return 0;
    c->BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
                           CUDNN_TYPE_INT64, 1, &n, number);
    n = 0;
    if (c->BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                               CUDNN_TYPE_NUMERICAL_NOTE,
                               CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, notes))
        return 0;
    for (int64_t i = 0; i < n && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++)
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC ||
            notes[i] == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION ||
            notes[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD)
            return 1;
    return 0;
}

static int plan_config(WanCudnn *c, Desc config, int64_t workspace,
                       WanCudnnPlan *plan)
{
    Desc p;
    int64_t n;

    if (unwanted(c, config, &plan->engine))
        return 0;
    p = create(c, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    SET(p, EXECUTION_PLAN_ENGINE_CONFIG, BACKEND_DESCRIPTOR, 1, &config);
    if (c->handle)
        SET(p, EXECUTION_PLAN_HANDLE, HANDLE, 1, &c->handle);
    else
        SET(p, EXECUTION_PLAN_DEVICEPROP, BACKEND_DESCRIPTOR, 1, &c->device);
    finalize(c, p, "plan");
    if (!c->status)
        note(c, c->BackendGetAttribute(p,
                    CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                    CUDNN_TYPE_INT64, 1, &n, &plan->workspace), "workspace");
    if (!c->status && plan->workspace <= workspace) {
        plan->descriptor = p;
        return 1;
    }
    if (!c->status)
        snprintf(c->text, sizeof(c->text), "workspace of %lld bytes",
                 (long long)plan->workspace);
    if (p)
        c->BackendDestroyDescriptor(p);
    return 0;
}

int wan_cudnn_plans(WanCudnn *c, const WanCudnnOp *op, int64_t workspace,
                    WanCudnnPlan *plan, int max)
{
    enum { CONFIGS = 64 };
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    Desc g, heur, config[CONFIGS] = { 0 };
    int64_t n = 0;
    int count = 0;

    c->status = 0;
    c->text[0] = 0;
    g = graph(c, op);
    heur = begin(c, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    SET(heur, ENGINEHEUR_OPERATION_GRAPH, BACKEND_DESCRIPTOR, 1, &g);
    SET(heur, ENGINEHEUR_MODE, HEUR_MODE, 1, &mode);
    if (!c->handle)
        SET(heur, ENGINEHEUR_DEVICEPROP, BACKEND_DESCRIPTOR, 1, &c->device);
    finalize(c, heur, "heuristics");
    for (int i = 0; i < CONFIGS; i++)
        config[i] = begin(c, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (!c->status)
        note(c, c->BackendGetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS,
                                       &n, config), "heuristics");
    /* n is how many there are, not how many were given */
    for (int64_t i = 0; i < n && i < CONFIGS && count < max; i++) {
        c->status = 0;
        count += plan_config(c, config[i], workspace, &plan[count]);
    }
    if (!n && !c->text[0])
        snprintf(c->text, sizeof(c->text), "no engine");
    c->status = 0;
    return count;
}

void wan_cudnn_plan_free(WanCudnn *c, WanCudnnPlan *plan)
{
    if (plan->descriptor)
        c->BackendDestroyDescriptor(plan->descriptor);
    plan->descriptor = NULL;
}

/* --------------------------------------------------------------- library */

static int resolve(WanCudnn *c)
{
    const struct { const char *name; void *to; } f[] = {
        { "cudnnGetVersion",                &c->GetVersion },
        { "cudnnCreate",                    &c->Create },
        { "cudnnDestroy",                   &c->Destroy },
        { "cudnnSetStream",                 &c->SetStream },
        { "cudnnGetLastErrorString",        &c->GetLastErrorString },
        { "cudnnBackendCreateDescriptor",   &c->BackendCreateDescriptor },
        { "cudnnBackendDestroyDescriptor",  &c->BackendDestroyDescriptor },
        { "cudnnBackendFinalize",           &c->BackendFinalize },
        { "cudnnBackendSetAttribute",       &c->BackendSetAttribute },
        { "cudnnBackendGetAttribute",       &c->BackendGetAttribute },
        { "cudnnBackendExecute",            &c->BackendExecute },
    };

    for (size_t i = 0; i < sizeof(f) / sizeof(*f); i++) {
        void *const p = dlsym(c->lib, f[i].name);

        if (!p)
            return 0;
        memcpy(f[i].to, &p, sizeof(p));
    }
    return 1;
}

static void describe_device(WanCudnn *c, const char *json)
{
    c->device = begin(c, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    SET(c->device, DEVICEPROP_JSON_REPRESENTATION, CHAR,
        (int64_t)strlen(json) + 1, json);
    finalize(c, c->device, "device properties");
}

int wan_cudnn_open(WanCudnn **out, const char *json, const WanLog *log)
{
    static const char *const names[] = { "libcudnn.so.9" };
    static const char *const nvrtc[] = { "libnvrtc.so.13", "libnvrtc.so.12" };
    WanCudnn *c = calloc(1, sizeof(*c));
    int ret = WAN_ERR(ENOSYS);

    if (!c)
        return WAN_ERR(ENOMEM);
    pthread_mutex_init(&c->lock, NULL);
    /* cuDNN compiles attention with it and looks for it by name alone: one
     * that is loaded is found. */
    wan_cuda_library(2, nvrtc);
    c->lib = wan_cuda_library(1, names);
    if (!c->lib) {
        wan_log(log, WAN_LOG_INFO, "cuDNN: no libcudnn.so.9; attention and "
                "convolution are slower without");
        goto fail;
    }
    if (!resolve(c)) {
        wan_log(log, WAN_LOG_INFO, "cuDNN: libcudnn.so.9 lacks functions of "
                "9.15; not used");
        goto fail;
    }
    c->version = (int)c->GetVersion();
    if (c->version < MIN_VERSION) {
        wan_log(log, WAN_LOG_INFO, "cuDNN: version %d.%d.%d is too old, 9.15 "
                "is needed; not used", c->version / 10000,
                c->version / 100 % 100, c->version % 100);
        goto fail;
    }
    if (json)
        describe_device(c, json);
    else
        note(c, c->Create(&c->handle), "cudnnCreate");
    if (c->status) {
        wan_log(log, WAN_LOG_INFO, "cuDNN: %s; not used", c->text);
        ret = WAN_ERR(EIO);
        goto fail;
    }
    *out = c;
    return 0;
fail:
    wan_cudnn_close(&c);
    return ret;
}

void wan_cudnn_close(WanCudnn **out)
{
    WanCudnn *c = *out;

    if (!c)
        return;
    while (c->choices) {
        Choice *const next = c->choices->next;

        wan_cudnn_plan_free(c, &c->choices->plan);
        free(c->choices);
        c->choices = next;
    }
    while (c->nb_all)
        c->BackendDestroyDescriptor(c->all[--c->nb_all]);
    free(c->all);
    if (c->handle)
        c->Destroy(c->handle);
    /* The library stays loaded: its threads and contexts outlive handles. */
    pthread_mutex_destroy(&c->lock);
    free(c);
    *out = NULL;
}

/* --------------------------------------------------------------- running */

/* y: where the result goes; old: what add reads. */
static int execute(WanCudnn *c, const WanCudnnOp *op, const WanCudnnPlan *plan,
                   const WanCudnnData *data, void *y, const void *old)
{
    const int sdpa_op = op->kind == WAN_CUDNN_SDPA;
    const int64_t id[] = { X, W, sdpa_op ? V : BIAS, Y, sdpa_op ? SCALE : OLD };
    const void *const pointer[] = {
        data->x, data->w, data->bias, y,
        sdpa_op ? (const void *)&data->scale : old,
    };
    const int64_t n = sdpa_op || op->add ? 5 : 4;
    Desc pack;

    c->status = 0;
    pack = create(c, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    SET(pack, VARIANT_PACK_UNIQUE_IDS, INT64, n, id);
    SET(pack, VARIANT_PACK_DATA_POINTERS, VOID_PTR, n, pointer);
    SET(pack, VARIANT_PACK_WORKSPACE, VOID_PTR, 1, &data->workspace);
    finalize(c, pack, "variant pack");
    if (!c->status)
        note(c, c->BackendExecute(c->handle, plan->descriptor, pack),
             "execute");
    if (pack)
        c->BackendDestroyDescriptor(pack);
    return !c->status;
}

/* Milliseconds of a plan, or of the rival; INFINITY: it fails, or is far from
 * the best so far. The first run loads code and does not count. */
static double time_one(WanDev *d, WanCudnn *c, const WanCudnnOp *op,
                       const WanCudnnPlan *plan, const WanCudnnData *data,
                       void *y, const void *old, WanCudnnRival rival,
                       const void *opaque, cudaEvent_t *event, double best)
{
    const cudaStream_t s = wan_cuda_stream(d);
    double least = INFINITY;

    for (int i = 0; i < 4; i++) {
        float ms;

        cudaEventRecord(event[0], s);
        if (!plan)
            rival(opaque, y, s);
        else if (!execute(c, op, plan, data, y, old))
            return INFINITY;
        cudaEventRecord(event[1], s);
        if (cudaEventSynchronize(event[1]) ||
            cudaEventElapsedTime(&ms, event[0], event[1]))
            return INFINITY;
        if (i > 0 && ms < least)
            least = ms;
        if (i > 0 && ms > 1.3 * best)
            break;
    }
    return least;
}

/* The fastest plan to the front; whether the rival beats it. */
static int choose(WanDev *d, WanCudnn *c, const WanCudnnOp *op,
                  const WanCudnnData *data, int64_t y_bytes, int in_place,
                  WanCudnnRival rival, const void *opaque, WanCudnnPlan *plan,
                  int n)
{
    cudaEvent_t event[2] = { 0 };
    void *beside = NULL;
    double best = INFINITY;
    int winner = 0, rival_wins = 0;

    if (n + !!rival < 2)
        return 0;
    if (in_place && cudaMalloc(&beside, (size_t)y_bytes)) {
        cudaGetLastError();     // no memory to try in: not a failure
        return 0;
    }
    if (!cudaEventCreate(&event[0]) && !cudaEventCreate(&event[1])) {
        void *const y = beside ? beside : data->y;

        for (int i = 0; i < n; i++) {
            const double ms = time_one(d, c, op, &plan[i], data, y, data->y,
                                       NULL, NULL, event, best);
            if (ms < best) {
                best = ms;
                winner = i;
            }
        }
        rival_wins = rival && time_one(d, c, op, NULL, data, y, data->y, rival,
                                       opaque, event, best) < best;
    }
    wan_log(d->log, WAN_LOG_VERBOSE, "cuDNN: %s, %.3f ms by engine %d, number "
            "%d of %d%s", op->kind == WAN_CUDNN_SDPA ? "attention" :
            "convolution", best, (int)plan[winner].engine, winner + 1, n,
            rival_wins ? "; ours is faster" : "");
    for (int i = 0; i < 2; i++)
        if (event[i])
            cudaEventDestroy(event[i]);
    cudaFree(beside);
    const WanCudnnPlan first = plan[0];
    plan[0] = plan[winner];
    plan[winner] = first;
    return rival_wins;
}

static Choice *find(WanCudnn *c, const WanCudnnOp *op)
{
    for (Choice *i = c->choices; i; i = i->next)
        if (!memcmp(&i->op, op, sizeof(*op)))
            return i;
    return NULL;
}

/* A shape that is met for the first time gets the first plan offered. */
static Choice *meet(WanDev *d, WanCudnn *c, const WanCudnnOp *op,
                    int64_t workspace)
{
    Choice *const choice = calloc(1, sizeof(*choice));

    if (!choice)
        return NULL;
    choice->op = *op;
    if (!wan_cudnn_plans(c, op, workspace, &choice->plan, 1))
        wan_log(d->log, WAN_LOG_VERBOSE, "cuDNN: %s not offered: %s",
                op->kind == WAN_CUDNN_SDPA ? "attention" : "convolution",
                c->text);
    choice->next = c->choices;
    c->choices = choice;
    return choice;
}

/* One that is used again and again gets the fastest. */
static void tune(WanDev *d, WanCudnn *c, Choice *choice,
                 const WanCudnnData *data, int64_t y_bytes, int in_place,
                 WanCudnnRival rival, const void *opaque)
{
    WanCudnnPlan plan[64] = { { 0 } };
    const int n = wan_cudnn_plans(c, &choice->op, data->workspace_bytes, plan,
                                  64);
    const int keep = n && !choose(d, c, &choice->op, data, y_bytes, in_place,
                                  rival, opaque, plan, n);

    wan_cuda_replay_forget(d);      // with this plan's kernels
    wan_cudnn_plan_free(c, &choice->plan);
    choice->tuned = 1;
    if (keep)
        choice->plan = plan[0];
    for (int i = keep; i < n; i++)
        wan_cudnn_plan_free(c, &plan[i]);
}

/* Opened with the first operation. What was not there is not looked for
 * again: it stays as an object without a handle. */
static WanCudnn *library(WanDev *d)
{
    WanCuda *const cuda = wan_cuda(d);

    if (!cuda->cudnn && wan_cudnn_open(&cuda->cudnn, NULL, d->log) < 0) {
        cuda->cudnn = calloc(1, sizeof(*cuda->cudnn));
        if (cuda->cudnn)
            pthread_mutex_init(&cuda->cudnn->lock, NULL);
    }
    return cuda->cudnn && cuda->cudnn->handle ? cuda->cudnn : NULL;
}

int wan_cudnn_run(WanDev *d, const WanCudnnOp *op, const WanCudnnData *data,
                  int64_t y_bytes, int in_place, WanCudnnRival rival,
                  const void *rival_opaque)
{
    WanCudnn *const c = library(d);
    Choice *choice;
    int done = 0;

    if (!c)
        return 0;
    pthread_mutex_lock(&c->lock);
    c->status = 0;
    note(c, c->SetStream(c->handle, wan_cuda_stream(d)), "set stream");
    choice = find(c, op);
    if (!choice)
        choice = meet(d, c, op, data->workspace_bytes);
    if (choice && choice->plan.descriptor && ++choice->uses >= TUNE_AT &&
        d->tune && !wan_cuda(d)->recording && !choice->tuned)
        tune(d, c, choice, data, y_bytes, in_place, rival, rival_opaque);
    if (choice && choice->plan.descriptor) {
        done = execute(c, op, &choice->plan, data, data->y, data->y);
        if (!done && choice->uses == 1) {   // planned, but not for this card
            wan_log(d->log, WAN_LOG_VERBOSE, "cuDNN: %s; not used", c->text);
            wan_cudnn_plan_free(c, &choice->plan);
        } else if (!done) {
            wan_cuda_check(d, 0, op->kind == WAN_CUDNN_SDPA ?
                           "cuDNN attention" : "cuDNN convolution", c->text);
            done = 1;
        }
    }
    pthread_mutex_unlock(&c->lock);
    return done;
}
