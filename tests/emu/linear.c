/*
 * linear.c and weights.c on the host, with a library of our own in cuBLASLt's
 * place: what they ask of it, and that it is the op.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The stand-in multiplies by plain loops what its descriptors say, and refuses
 * what the real one's manual refuses, or more, so that every way round is
 * taken. Our kernels are emulated. linear.c is built with a small PASS_ROWS.
 * Results are held to the ref backend: where x is rounded to e4m3, on x
 * rounded by the test itself.
 */

#include <cublasLt.h>
#include <dlfcn.h>

#include "../numbers.h"
#include "../test.h"
#include "device.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))
#define EXPORT __attribute__((visibility("default"), used))
#define ROWS 24                 // PASS_ROWS of linear.c
#ifdef __SANITIZE_ADDRESS__     // which watches what lies above the scratch
#define GUARD 0
#else
#define GUARD 1
#endif

/* A case names what is not zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

static WanDev *ref, *dut;
static WanCuda cuda;

/* --------------------------------------------------- in cuBLASLt's place */

static struct {
    int e4m3, f32_bias, bias, gelu, f32_d, odd_rows, all;
    int late;                   // an F32 bias, when it is to be added
} refuse;
static int products, e4m3_products;

typedef struct Desc {
    cublasOperation_t ta, tb;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    int bias_type;
    const float *sa, *sb;
    int8_t fast;
} Desc;

typedef struct Layout { cudaDataType type; uint64_t rows, cols; int64_t ld; } Layout;

EXPORT cublasStatus_t cublasLtCreate(cublasLtHandle_t *h)
{
    *h = (cublasLtHandle_t)8;
    return 0;
}
EXPORT cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    (void)h;
    return 0;
}
EXPORT const char *cublasLtGetStatusString(cublasStatus_t s)
{
    return s ? "refused" : "well";
}

EXPORT cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d,
                                               cublasComputeType_t c,
                                               cudaDataType_t scale)
{
    Desc *n = calloc(1, sizeof(*n));

    CHECK(c == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F);
    n->fast = 1;                // so that it must be said
    n->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    *d = (cublasLtMatmulDesc_t)n;
    return 0;
}
EXPORT cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    free(d);
    return 0;
}

EXPORT cublasStatus_t
cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                               cublasLtMatmulDescAttributes_t a,
                               const void *v, size_t size)
{
    Desc *d = (Desc *)desc;
    const struct { int attribute; void *to; size_t size; } field[] = {
        { CUBLASLT_MATMUL_DESC_TRANSA, &d->ta, sizeof(d->ta) },
        { CUBLASLT_MATMUL_DESC_TRANSB, &d->tb, sizeof(d->tb) },
        { CUBLASLT_MATMUL_DESC_EPILOGUE, &d->epilogue, sizeof(d->epilogue) },
        { CUBLASLT_MATMUL_DESC_BIAS_POINTER, &d->bias, sizeof(d->bias) },
        { CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &d->bias_type, 4 },
        { CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &d->sa, sizeof(d->sa) },
        { CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &d->sb, sizeof(d->sb) },
        { CUBLASLT_MATMUL_DESC_FAST_ACCUM, &d->fast, 1 },
    };

    for (int i = 0; i < COUNT(field); i++)
        if (field[i].attribute == (int)a && CHECK(field[i].size == size)) {
            memcpy(field[i].to, v, size);
            return 0;
        }
    return CUBLAS_STATUS_INVALID_VALUE;
}

EXPORT cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l,
                                                 cudaDataType type,
                                                 uint64_t rows, uint64_t cols,
                                                 int64_t ld)
{
    Layout *n = malloc(sizeof(*n));

    *n = (Layout){ type, rows, cols, ld };
    *l = (cublasLtMatrixLayout_t)n;
    return 0;
}
EXPORT cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    free(l);
    return 0;
}

EXPORT cublasStatus_t
cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    *p = (cublasLtMatmulPreference_t)8;
    return 0;
}
EXPORT cublasStatus_t
cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    (void)p;
    return 0;
}
EXPORT cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                     cublasLtMatmulPreferenceAttributes_t a,
                                     const void *v, size_t size)
{
    (void)p, (void)a, (void)v, (void)size;
    return 0;
}

static int has_bias(const Desc *d)
{
    return d->epilogue == CUBLASLT_EPILOGUE_BIAS ||
           d->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

static int has_gelu(const Desc *d)
{
    return d->epilogue == CUBLASLT_EPILOGUE_GELU ||
           d->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

/* What the manual says of e4m3, and what a test adds. */
static int offers(const Desc *d, const Layout *a, const Layout *b,
                  const Layout *y)
{
    const int narrow = a->type == CUDA_R_8F_E4M3;

    if (refuse.all || (refuse.gelu && has_gelu(d)) ||
        (refuse.bias && has_bias(d)) ||
        (refuse.f32_d && y->type == CUDA_R_32F) ||
        (refuse.odd_rows && y->cols < ROWS) || (refuse.e4m3 && narrow))
        return 0;
    if (!narrow)
        return !has_bias(d) || !refuse.f32_bias || d->bias_type == CUDA_R_16BF;
    CHECK(d->fast == 0 && d->sb);
    return b->type == CUDA_R_8F_E4M3 && a->rows % 16 == 0 &&
           a->cols % 16 == 0 && a->ld % 16 == 0 && b->ld % 16 == 0 &&
           (!has_bias(d) || d->bias_type == CUDA_R_16BF);
}

EXPORT cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d,
                               cublasLtMatrixLayout_t a,
                               cublasLtMatrixLayout_t b,
                               cublasLtMatrixLayout_t c,
                               cublasLtMatrixLayout_t y,
                               cublasLtMatmulPreference_t p, int most,
                               cublasLtMatmulHeuristicResult_t r[], int *n)
{
    (void)h, (void)p, (void)c, (void)most;
    *n = offers((Desc *)d, (Layout *)a, (Layout *)b, (Layout *)y);
    memset(r, 0, sizeof(*r));
    return *n ? 0 : CUBLAS_STATUS_NOT_SUPPORTED;
}

static WanType type_of(cudaDataType t)
{
    return t == CUDA_R_8F_E4M3 ? WAN_F8_E4M3 : t == CUDA_R_16BF ? WAN_BF16
                                                                : WAN_F32;
}

static double gelu(double v)
{
    return v / 2 * (1 + tanh(0.79788456080286535588 *
                             (v + 0.044715 * v * v * v)));
}

EXPORT cublasStatus_t
cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t desc,
               const void *alpha, const void *A, cublasLtMatrixLayout_t la,
               const void *B, cublasLtMatrixLayout_t lb, const void *beta,
               const void *C, cublasLtMatrixLayout_t lc, void *D,
               cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t *algo,
               void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    const Desc *d = (Desc *)desc;
    const Layout *a = (Layout *)la, *b = (Layout *)lb, *y = (Layout *)ld;
    const WanType ta = type_of(a->type), tb = type_of(b->type);
    const WanType ty = type_of(y->type);
    const double scale = *(const float *)alpha * (d->sa ? *d->sa : 1.) *
                         (d->sb ? *d->sb : 1.);

    (void)h, (void)algo, (void)stream;
    if (refuse.late && has_bias(d) && d->bias_type == CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    CHECK(offers(d, a, b, y) && la != lb && lc == ld && C == D);
    CHECK(d->ta == CUBLAS_OP_T && d->tb == CUBLAS_OP_N);
    CHECK(a->rows == b->rows && a->cols == y->rows && b->cols == y->cols);
    CHECK((char *)workspace == (char *)dut->scratch &&
          (int64_t)workspace_bytes == WAN_CUDA_BLAS_WORKSPACE);
    memset(workspace, 0xa5, 64);
    products++;
    e4m3_products += ta == WAN_F8_E4M3;
    for (uint64_t m = 0; m < y->cols; m++)
        for (uint64_t n = 0; n < y->rows; n++) {
            double s = 0;

            for (uint64_t k = 0; k < a->rows; k++)
                s += typed_get(A, ta, n * a->ld + k) *
                     typed_get(B, tb, m * b->ld + k);
            s *= scale;
            if (*(const float *)beta)
                s += *(const float *)beta * typed_get(D, ty, m * y->ld + n);
            if (has_bias(d))
                s += typed_get(d->bias, type_of((cudaDataType)d->bias_type), n);
            typed_set(D, ty, m * y->ld + n,
                      (float)(has_gelu(d) ? gelu(s) : s));
        }
    return 0;
}

/* ------------------------------------------------ in the device's place */

void *wan_cuda_library(int n, const char *const *names)
{
    (void)n, (void)names;
    return dlopen(NULL, RTLD_NOW);
}

int wan_cuda_wait(WanDev *d, const char *op) { (void)op; return !d->error; }
int wan_nccl_look(WanDev *d) { return !d->error; }

cudaError_t cudaMalloc(void **p, size_t n) { return !(*p = malloc(n)); }
cudaError_t cudaFree(void *p) { free(p); return 0; }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n,
                            enum cudaMemcpyKind k, cudaStream_t s)
{
    (void)k, (void)s;
    memcpy(to, from, n);
    return 0;
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f)
{
    (void)f;
    return cudaMalloc(p, n);
}
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
cudaError_t cudaGetLastError(void) { return 0; }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { (void)s; return 0; }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f)
{
    (void)s, (void)e, (void)f;
    return 0;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) { *e = NULL; return 0; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f)
{
    (void)f;
    return cudaEventCreate(e);
}
cudaError_t cudaEventDestroy(cudaEvent_t e) { (void)e; return 0; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    (void)e, (void)s;
    return 0;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) { (void)e; return 0; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)
{
    (void)a, (void)b;
    *ms = 1;
    return 0;
}

/* ---------------------------------------------------------------- cases */

/* The nearest e4m3 by search, ties to the even code, as a number. */
static float nearest_e4m3(double x)
{
    int best = 0;

    for (int v = 1; v < 127; v++) {
        const double e = fabs(wan_e4m3_to_f32((uint8_t)v) - fabs(x));
        const double b = fabs(wan_e4m3_to_f32((uint8_t)best) - fabs(x));

        if (e < b || (e == b && v % 2 == 0))
            best = v;
    }
    return copysignf(wan_e4m3_to_f32((uint8_t)best), (float)x);
}

/* n numbers as e4m3 with one scale would have them. */
static void round_e4m3(float *v, int64_t n)
{
    float amax = 0, s;

    for (int64_t i = 0; i < n; i++)
        amax = fmaxf(amax, fabsf(v[i]));
    s = amax > 0 ? amax / 448 : 1;
    for (int64_t i = 0; i < n; i++)
        v[i] = nearest_e4m3(v[i] * (1 / s)) * s;
}

typedef struct Case {
    int64_t m, n, k, extra;
    WanType w, y;               // of the weight, of the result
    int e4m3, bias, scale, add, gate;   // scale: 1 one, 2 one a row
    WanAct act;
    int arch;                   // 0: 90
    int narrow, wide;           // products that are to be seen, of each kind;
                                // -1: any number
} Case;

static void linear_case(const Case *c)
{
    const WanMark r = wan_mark(ref), u = wan_mark(dut);
    const int64_t pitch = c->k + c->extra;
    WanTensor x = wan_tmp_type(dut, WAN_BF16, c->m, pitch);
    WanTensor y = wan_tmp_type(dut, c->y, c->m, c->n + c->extra);
    WanTensor gate = wan_tmp(dut, c->n);
    WanTensor xr = wan_tmp(ref, c->m, c->k), exact = wan_tmp_like(ref, &xr);
    WanTensor yr = wan_tmp(ref, c->m, c->n), ye = wan_tmp_like(ref, &yr);
    float *bias = malloc(c->n * 4), *scale = malloc(c->n * 4);
    char *w = malloc(c->n * c->k * 4);
    float *wr = malloc(c->n * c->k * 4), *we = malloc(c->n * c->k * 4);
    const int rounded = c->narrow != 0;
    double err = 0, sum = 0, err_e = 0, sum_e = 0;
    int outside = 0;

    x = wan_columns(&x, 0, c->k);
    for (int64_t i = 0; i < c->m * pitch; i++)
        typed_set(x.data, WAN_BF16, i, NAN);
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t k = 0; k < c->k; k++) {
            wan_row(&exact, i)[k] = typed_set(x.data, WAN_BF16, i * pitch + k,
                                              random_normal());
        }
    memcpy(xr.data, exact.data, c->m * c->k * 4);
    for (int64_t i = 0; i < c->m && rounded; i += ROWS)
        round_e4m3(wan_row(&xr, i),
                   (c->m - i < ROWS ? c->m - i : ROWS) * c->k);
    for (int64_t i = 0; i < c->n * c->k; i++) {
        const float v = random_normal() / sqrtf((float)c->k);

        if (wan_type_size(c->w) == 1)   // neither NaN nor infinity
            w[i] = (char)((test_seed >> 40 & 0x80) | (test_seed >> 33) % 0x70);
        else
            typed_set(w, c->w, i, v);
        we[i] = wr[i] = (float)typed_get(w, c->w, i);
        /* a matrix that meets BF16 without being rounded to e4m3 */
        if (c->w == WAN_F32 && !(c->e4m3 && c->n % 16 == 0 &&
                                 c->k % 16 == 0))
            wr[i] = wan_bf16_to_f32(wan_f32_to_bf16(wr[i]));
    }
    if (c->e4m3 && c->w != WAN_F8_E4M3 && c->n % 16 == 0 && c->k % 16 == 0)
        round_e4m3(wr, c->n * c->k);
    for (int64_t i = 0; i < c->n; i++) {
        bias[i] = wan_bf16_to_f32(wan_f32_to_bf16(random_normal()));
        scale[i] = 0.3f + 0.1f * random_normal();
        ((float *)gate.data)[i] = random_normal();
    }
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t n = 0; n < y.pitch; n++) {
            typed_set(y.data, c->y, i * y.pitch + n,
                n < c->n && (c->add || c->gate) ? random_normal() : NAN);
            if (n < c->n)
                wan_row(&yr, i)[n] = wan_row(&ye, i)[n] =
                    (float)typed_get(y.data, c->y, i * y.pitch + n);
        }

    WanLinear l = {
        .weight = wan_tensor_of(w, c->w, c->n, c->k), .e4m3 = c->e4m3,
        .bias = c->bias ? wan_tensor_of(bias, WAN_F32, c->n)
                        : (WanTensor){ 0 },
        .scale = c->scale ? wan_tensor_of(scale, WAN_F32,
                                          c->scale > 1 ? c->n : 1)
                          : (WanTensor){ 0 },
    };
    const WanLinearArgs a = { .act = c->act, .add = c->add,
                              .gate = c->gate ? &gate : NULL };
    WanTensor out = wan_columns(&y, 0, c->n);

    cuda.arch = c->arch ? c->arch : 90;
    products = e4m3_products = 0;
    const int64_t end = dut->used + wan_cuda_linear_scratch(1, &out, &x, &l,
                                                            &a);
    if (GUARD)
        memset(dut->base + end, 0x5a, dut->top - end);
    wan_op_linear_(dut, &out, &x, &l, a);
    for (int64_t i = end; i < dut->top && GUARD; i++)
        outside |= dut->base[i] != 0x5a;
    wan_cuda_weights_forget(dut);

    l.weight = wan_tensor_of(wr, WAN_F32, c->n, c->k);
    wan_op_linear_(ref, &yr, &xr, &l, a);
    l.weight.data = we;
    wan_op_linear_(ref, &ye, &exact, &l, a);
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t n = 0; n < y.pitch; n++) {
            const double v = typed_get(y.data, c->y, i * y.pitch + n);

            if (n >= c->n) {
                outside |= v == v;
                continue;
            }
            err += (v - wan_row(&yr, i)[n]) * (v - wan_row(&yr, i)[n]);
            sum += (double)wan_row(&yr, i)[n] * wan_row(&yr, i)[n];
            err_e += (v - wan_row(&ye, i)[n]) * (v - wan_row(&ye, i)[n]);
            sum_e += (double)wan_row(&ye, i)[n] * wan_row(&ye, i)[n];
        }
    err = err == err ? sqrt(err / sum) : INFINITY;
    err_e = sqrt(err_e / sum_e);
    CHECKF(err < 4e-3 && !outside && !dut->error && !ref->error,
           "%dx%dx%d %s to %s, e4m3 %d bias %d scale %d add %d gate %d act %d: "
           "error %.3g%s %s", (int)c->m, (int)c->n, (int)c->k,
           wan_type_name(c->w), wan_type_name(c->y), c->e4m3, c->bias,
           c->scale, c->add, c->gate, c->act, err,
           outside ? ", wrote outside" : "", dut->message);
    /* What rounding costs, as checkop/linear.c derives it. */
    CHECKF(!rounded || err_e < 0.036 * (c->w == WAN_F8_E4M3 ? 1 : 1.4143) *
                               (c->act ? 1.5 : 1) + 4e-3,
           "rounding to e4m3: %.3g", err_e);
    CHECKF((c->narrow < 0 || e4m3_products == c->narrow) &&
           (c->wide < 0 || products - e4m3_products == c->wide),
           "%d products in e4m3, %d others; wanted %d, %d", e4m3_products,
           products - e4m3_products, c->narrow, c->wide);
    free(bias), free(scale), free(w), free(wr), free(we);
    wan_release(ref, r);
    wan_release(dut, u);
}

/* The library remembers what it was asked: begin anew. */
static void reset(void)
{
    wan_cublas_close(&cuda.blas);
}

/* Every form, with what the library may refuse of it. */
static void all_forms(Case c)
{
    static const WanAct acts[] = { WAN_ACT_NONE, WAN_ACT_GELU_TANH,
                                   WAN_ACT_SILU };

    for (int i = 0; i < 3 * 24; i++) {
        Case k = c;

        k.bias = i & 1;
        k.y = i & 2 ? WAN_F32 : WAN_BF16;
        k.scale = wan_type_size(c.w) == 1 ? i / 4 % 3 : 0;
        k.add = i / 12 % 3 == 1;
        k.gate = i / 12 % 3 == 2;
        k.act = acts[i / 36 + (i / 4 % 2)];
        if (refuse.f32_d && k.y == WAN_F32 && !k.gate &&
            !(k.add && (k.act || k.scale > 1))) {
            k.narrow = 0;       // nothing of e4m3 can be written there
            k.wide = -1;
        }
        linear_case(&k);
    }
}

TEST(bf16)
{
    for (int r = 0; r < 6; r++) {
        reset();
        memset(&refuse, 0, sizeof(refuse));
        refuse.f32_bias = r & 1;
        refuse.gelu = r >> 1 & 1;
        refuse.late = r >> 2;
        all_forms((Case){ 50, 24, 40, 8, WAN_BF16, .wide = -1 });
        all_forms((Case){ 5, 24, 40, 8, WAN_F32, .wide = -1 });
    }
}

TEST(e4m3)
{
    for (int r = 0; r < 4; r++) {
        reset();
        memset(&refuse, 0, sizeof(refuse));
        refuse.gelu = r & 1;
        refuse.f32_d = r >> 1;
        all_forms((Case){ 50, 32, 48, 8, WAN_F8_E4M3, .e4m3 = 1,
                          .narrow = 3 });
    }
    reset();
    memset(&refuse, 0, sizeof(refuse));
    all_forms((Case){ 50, 32, 48, 0, WAN_BF16, .e4m3 = 1, .narrow = 3 });
    all_forms((Case){ 7, 16, 64, 0, WAN_F32, .e4m3 = 1, .narrow = 1 });
    all_forms((Case){ 7, 16, 64, 0, WAN_F16, .e4m3 = 1, .narrow = 1 });
    all_forms((Case){ 7, 16, 64, 0, WAN_F8_E5M2, .e4m3 = 1, .narrow = 1 });
}

/* Where it can't be: BF16, of e4m3 as it is stored. */
TEST(widened)
{
    reset();
    memset(&refuse, 0, sizeof(refuse));
    all_forms((Case){ 50, 32, 48, 8, WAN_F8_E4M3, .e4m3 = 1, .arch = 86,
                      .wide = -1 });
    all_forms((Case){ 50, 32, 48, 8, WAN_F8_E4M3, .wide = -1 });
    all_forms((Case){ 50, 24, 40, 8, WAN_F8_E4M3, .e4m3 = 1, .wide = -1 });
    all_forms((Case){ 50, 32, 40, 8, WAN_BF16, .e4m3 = 1, .wide = -1 });
    all_forms((Case){ 50, 24, 48, 8, WAN_BF16, .e4m3 = 1, .wide = -1 });
    reset();
    refuse.e4m3 = 1;
    all_forms((Case){ 50, 32, 48, 8, WAN_F8_E4M3, .e4m3 = 1, .wide = -1 });
    all_forms((Case){ 50, 32, 48, 8, WAN_BF16, .e4m3 = 1, .wide = -1 });
    refuse.all = 1;             // our own product
    reset();
    all_forms((Case){ 50, 32, 48, 8, WAN_F8_E4M3, .e4m3 = 1 });
}

/* Layers of one input as one. */
typedef struct CaseN {
    int n;
    int64_t m, k, extra;
    WanType w, x, y;
    int bias;
    int mixed;                  // the second weight is F16; or stored as e4m3,
                                // if 2
    int e4m3, scale;            // of the second layer
    int arena;                  // weights and biases lie there: 1 one behind
                                // the other, 2 weights apart, 3 biases apart
    int products, narrow;       // that are to be seen; products -1: any number
} CaseN;

/* Host memory, or of the arena: behind what was made last, or apart. */
static void *memory(const CaseN *c, int64_t bytes, int apart)
{
    if (!c->arena)
        return malloc(bytes);
    if (apart)
        wan_tmp(dut, 1);
    return wan_tmp_type(dut, WAN_I8, bytes).data;
}

static void linear_n_case(const CaseN *c)
{
    static const int64_t rows[] = { 32, 16, 48 };
    const WanMark r = wan_mark(ref), u = wan_mark(dut);
    const int64_t N = c->n > 2 ? 96 : 48;
    const WanType second = c->mixed == 2 ? WAN_F8_E4M3 : WAN_F16;
    WanTensor x = wan_tmp_type(dut, c->x, c->m, c->k + c->extra);
    WanTensor y = wan_tmp_type(dut, c->y, c->m, N + c->extra);
    WanTensor alone = wan_tmp_type(dut, c->y, c->m, N);
    WanTensor xr = wan_tmp(ref, c->m, c->k), yr = wan_tmp(ref, c->m, N);
    char *w[3] = { NULL };
    float *wr[3], *bias[3] = { NULL }, scale = 0.7f;
    WanLinear l[3], lr[3];
    const WanLinear *layer[3] = { &l[0], &l[1], &l[2] };
    const WanLinear *layer_r[3] = { &lr[0], &lr[1], &lr[2] };
    const WanLinearArgs plain = { 0 };
    double err = 0, sum = 0;
    int outside = 0, differ = 0;

    x = wan_columns(&x, 0, c->k);
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t k = 0; k < x.pitch; k++) {
            typed_set(x.data, c->x, i * x.pitch + k,
                k < c->k ? random_normal() : NAN);
            if (k < c->k)
                wan_row(&xr, i)[k] = (float)typed_get(x.data, c->x,
                                                i * x.pitch + k);
        }
    for (int64_t i = 0; i < c->m * y.pitch; i++)
        typed_set(y.data, c->y, i, NAN);
    for (int i = 0; i < c->n; i++)
        w[i] = memory(c, rows[i] * c->k * wan_type_size(i == 1 && c->mixed
                                                        ? second : c->w),
                      c->arena == 2);
    for (int i = 0; i < c->n; i++)
        bias[i] = memory(c, rows[i] * 4, c->arena == 3);
    for (int i = 0; i < c->n; i++) {
        const WanType type = i == 1 && c->mixed ? second : c->w;

        wr[i] = malloc(rows[i] * c->k * 4);
        for (int64_t k = 0; k < rows[i] * c->k; k++) {
            if (type == WAN_F8_E4M3)
                w[i][k] = (char)(k * 5 % 0x50);
            else
                typed_set(w[i], type, k,
                          random_normal() / sqrtf((float)c->k));
            wr[i][k] = (float)typed_get(w[i], type, k);
            if (c->x == WAN_BF16)
                wr[i][k] = wan_bf16_to_f32(wan_f32_to_bf16(wr[i][k]));
        }
        for (int64_t k = 0; k < rows[i]; k++)
            bias[i][k] = wan_bf16_to_f32(wan_f32_to_bf16(random_normal()));
        l[i] = lr[i] = (WanLinear){
            .weight = wan_tensor_of(w[i], type, rows[i], c->k),
            .bias = c->bias ? wan_tensor_of(bias[i], WAN_F32, rows[i])
                            : (WanTensor){ 0 },
            .scale = c->scale && i == 1 ? wan_tensor_of(&scale, WAN_F32, 1)
                                        : (WanTensor){ 0 },
            .e4m3 = c->e4m3 && i == 1,
        };
        lr[i].weight = wan_tensor_of(wr[i], WAN_F32, rows[i], c->k);
    }

    WanTensor out = wan_columns(&y, 0, N);

    cuda.arch = 90;
    products = e4m3_products = 0;
    const int64_t end = dut->used + wan_cuda_linear_scratch(1, &out, &x,
                            layer[c->e4m3 || c->mixed == 2], &plain);
    if (GUARD)
        memset(dut->base + end, 0x5a, dut->top - end);
    wan_op_linear_n_(dut, &out, &x, c->n, layer);
    for (int64_t i = end; i < dut->top && GUARD; i++)
        outside |= dut->base[i] != 0x5a;
    const int seen = products, narrow = e4m3_products;

    for (int64_t i = 0, at = 0; i < c->n; at += rows[i++]) {
        WanTensor part = wan_columns(&alone, at, rows[i]);

        wan_op_linear_(dut, &part, &x, &l[i], plain);
    }
    wan_cuda_weights_forget(dut);
    wan_op_linear_n_(ref, &yr, &xr, c->n, layer_r);
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t n = 0; n < y.pitch; n++) {
            const double v = typed_get(y.data, c->y, i * y.pitch + n);

            if (n >= N) {
                outside |= v == v;
                continue;
            }
            differ += v != typed_get(alone.data, c->y, i * N + n);
            err += (v - wan_row(&yr, i)[n]) * (v - wan_row(&yr, i)[n]);
            sum += (double)wan_row(&yr, i)[n] * wan_row(&yr, i)[n];
        }
    err = err == err ? sqrt(err / sum) : INFINITY;
    CHECKF(err < (c->e4m3 ? 0.05 : c->y == WAN_F32 ? 1e-6 : 4e-3) &&
           !differ && !outside && !dut->error && !ref->error,
           "%d of %dx%d %s by %s to %s, bias %d mixed %d e4m3 %d scale %d "
           "arena %d: error %.3g, %d differ%s %s", c->n, (int)c->m, (int)c->k,
           wan_type_name(c->w), wan_type_name(c->x), wan_type_name(c->y),
           c->bias, c->mixed, c->e4m3, c->scale, c->arena, err, differ,
           outside ? ", wrote outside" : "", dut->message);
    CHECKF((c->products < 0 || seen == c->products) && narrow == c->narrow,
           "%d products, %d in e4m3; wanted %d, %d (bias %d arena %d)", seen,
           narrow, c->products, c->narrow, c->bias, c->arena);
    for (int i = 0; i < c->n; i++) {
        free(wr[i]);
        if (!c->arena) {
            free(w[i]);
            free(bias[i]);
        }
    }
    wan_release(ref, r);
    wan_release(dut, u);
}

/* Two and three, few rows and many, with bias and without. */
static void all_n(CaseN c, int products_each)
{
    for (int i = 0; i < 8; i++) {
        CaseN k = c;

        k.n = 2 + (i & 1);
        k.bias = i >> 1 & 1;
        k.m = i & 4 ? 50 : 7;
        k.extra = i & 4 ? 8 : 0;
        k.k = 48;
        k.products = products_each < 0 ? -1 : products_each ? k.n : 1;
        linear_n_case(&k);
    }
}

/* One product where they fit, whatever of it the library refuses. */
TEST(some_as_one)
{
    for (int r = 0; r < 4; r++) {
        reset();
        memset(&refuse, 0, sizeof(refuse));
        refuse.f32_bias = r == 1;
        refuse.bias = r == 2;
        refuse.all = r == 3;            // our own product
        for (int f32 = 0; f32 < 2; f32++) {
            const WanType x = f32 ? WAN_F32 : WAN_BF16;

            for (int arena = 0; arena < 2; arena++) {
                all_n((CaseN){ .w = WAN_BF16, .x = x, .y = x, .arena = arena },
                      r == 3 ? -1 : 0);
                all_n((CaseN){ .w = WAN_F32, .x = x, .y = x, .arena = arena },
                      r == 3 ? -1 : 0);
            }
            all_n((CaseN){ .w = WAN_BF16, .x = x, .y = x, .mixed = 1 },
                  r == 3 ? -1 : 0);
        }
    }
}

/* Each by itself where they don't: another type of result, a scale, e4m3; and
 * where somebody put them into the arena apart from each other. */
TEST(some_one_by_one)
{
    reset();
    memset(&refuse, 0, sizeof(refuse));
    all_n((CaseN){ .w = WAN_BF16, .x = WAN_BF16, .y = WAN_F32 }, 1);
    for (int f32 = 0; f32 < 2; f32++) {
        const WanType x = f32 ? WAN_F32 : WAN_BF16;

        all_n((CaseN){ .w = WAN_BF16, .x = x, .y = x, .scale = 1 }, 1);
        all_n((CaseN){ .w = x, .x = x, .y = x, .arena = 2 }, 1);
        for (int n = 2; n < 4; n++)
            linear_n_case(&(CaseN){ n, 50, 48, 8, x, x, x, .bias = 1,
                                    .arena = 3, .products = n });
    }
    all_n((CaseN){ .w = WAN_BF16, .x = WAN_BF16, .y = WAN_BF16, .mixed = 2 },
          1);
    for (int n = 2; n < 4; n++)
        linear_n_case(&(CaseN){ n, 20, 48, 8, WAN_BF16, WAN_BF16, WAN_BF16,
                                .bias = 1, .e4m3 = 1, .products = n,
                                .narrow = 1 });
}

int main(void)
{
    static WanOps ops;
    static WanBackend backend;

    if (wan_dev_open(&ref, "ref", 1, 4 << 20, NULL) < 0 ||
        wan_dev_open(&dut, "cpu", 1, WAN_CUDA_BLAS_WORKSPACE + (1 << 18),
                     NULL) < 0) {
        printf("Bail out! no device\n");
        return 1;
    }
    const WanBackend *const cpu = dut->backend;

    ops = *cpu->ops;
    ops.linear = wan_cuda_linear;
    ops.linear_n = wan_cuda_linear_n;
    ops.linear_n_fits = wan_cuda_linear_n_fits;
    ops.linear_scratch = wan_cuda_linear_scratch;
    backend = *cpu;
    backend.ops = &ops;
    backend.act = WAN_BF16;
    dut->backend = &backend;
    dut->priv = &cuda;
    if (wan_cuda_weights_open(dut) < 0)
        return 1;
    RUN(bf16);
    RUN(e4m3);
    RUN(widened);
    RUN(some_as_one);
    RUN(some_one_by_one);
    wan_cublas_close(&cuda.blas);
    wan_cuda_weights_close(dut);
    dut->backend = cpu;
    dut->priv = NULL;
    wan_dev_close(&ref);
    wan_dev_close(&dut);
    return test_end();
}
