/*
 * The linear layer, through cuBLASLt.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Row-major y [M, N] = x [M, K] W [N, K]^T is, in the library's column-major
 * words, D = A^T B with A = W seen as K x N, B = x seen as K x M: no copies,
 * and a bias of one number a row of D is ours. Sums are F32 whatever the
 * types. F32 inputs meet F32 weights (the time embedding, the head, and all of
 * cuda-f32) without TF32.
 *
 * Bias and GELU are part of the product where the library offers it. What it
 * can't do comes after in one pass of our own (linear_own.cu): SiLU, the exact
 * GELU, gates, scales by row.
 *
 * Matrices in e4m3 meet rows of x in e4m3, rounded on the spot with one scale
 * for some thousand rows; sums are F32 all the way (no "fast accumulation",
 * which keeps 14 bits), results BF16 or F32. Where the card or the library has
 * no such product the matrix is widened to BF16, which holds e4m3 exactly.
 *
 * The library's first suggestion for a shape is taken, so that results are the
 * same from run to run; WanDev.tune times them all.
 */

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "linear_own.h"

#define PLANS 64                // shapes in a job: about 20
#define SUGGESTIONS 8
#define TUNE_FLOPS 1e9          // smaller products are not worth a timing

/* Rows of a result that is finished in a second pass, or of x that are
 * rounded to e4m3, at a time. */
#ifndef PASS_ROWS                       // a test has few
#define PASS_ROWS (128 * 132)
#endif

typedef enum Epilogue { PLAIN, BIAS_F32, BIAS_BF16, GELU_F32, GELU_BF16,
                        GELU } Epilogue;

/* What a plan is for; all bytes count, so it is zeroed first. */
typedef struct Shape {
    int64_t M, N, K, x_pitch, y_pitch;
    WanType x, y;
    Epilogue epilogue;
    int add;
    int align;                  // of all pointers: 2 to 16
} Shape;

typedef struct Plan {
    Shape shape;
    int usable;                 // the library offers something
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
} Plan;

typedef struct WanCublas {
    void *lib;
    cublasLtHandle_t handle;
    Plan plan[PLANS];
    int nb_plans;

    __typeof__(&cublasLtCreate) create;
    __typeof__(&cublasLtDestroy) destroy;
    __typeof__(&cublasLtGetStatusString) status;
    __typeof__(&cublasLtMatmul) matmul;
    __typeof__(&cublasLtMatmulAlgoGetHeuristic) heuristic;
    __typeof__(&cublasLtMatmulDescCreate) desc_create;
    __typeof__(&cublasLtMatmulDescDestroy) desc_destroy;
    __typeof__(&cublasLtMatmulDescSetAttribute) desc_set;
    __typeof__(&cublasLtMatrixLayoutCreate) layout_create;
    __typeof__(&cublasLtMatrixLayoutDestroy) layout_destroy;
    __typeof__(&cublasLtMatmulPreferenceCreate) pref_create;
    __typeof__(&cublasLtMatmulPreferenceDestroy) pref_destroy;
    __typeof__(&cublasLtMatmulPreferenceSetAttribute) pref_set;
} WanCublas;

/* ---------------------------------------------------------------- library */

static int load(WanCublas *l)
{
    static const char *const names[] = { "libcublasLt.so.13",
                                         "libcublasLt.so.12" };
    const struct { void **fn; const char *name; } symbol[] = {
#define SYMBOL(field, name) { (void **)&l->field, "cublasLt" #name }
        SYMBOL(create, Create), SYMBOL(destroy, Destroy),
        SYMBOL(status, GetStatusString), SYMBOL(matmul, Matmul),
        SYMBOL(heuristic, MatmulAlgoGetHeuristic),
        SYMBOL(desc_create, MatmulDescCreate),
        SYMBOL(desc_destroy, MatmulDescDestroy),
        SYMBOL(desc_set, MatmulDescSetAttribute),
        SYMBOL(layout_create, MatrixLayoutCreate),
        SYMBOL(layout_destroy, MatrixLayoutDestroy),
        SYMBOL(pref_create, MatmulPreferenceCreate),
        SYMBOL(pref_destroy, MatmulPreferenceDestroy),
        SYMBOL(pref_set, MatmulPreferenceSetAttribute),
#undef SYMBOL
    };

    l->lib = wan_cuda_library(2, names);
    for (size_t i = 0; i < sizeof(symbol) / sizeof(*symbol); i++)
        if (!l->lib || !(*symbol[i].fn = dlsym(l->lib, symbol[i].name)))
            return 0;
    return 1;
}

/* The job's handle; NULL: d has failed. */
static WanCublas *library(WanDev *d)
{
    WanCuda *c = wan_cuda(d);
    WanCublas *l = c->blas;
    cublasStatus_t s;

    if (l)
        return l->handle ? l : NULL;
    if (!(l = c->blas = calloc(1, sizeof(*l)))) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for cuBLASLt");
        return NULL;
    }
    if (!load(l)) {
        wan_dev_fail(d, WAN_ERR(ENOSYS), "device cuda: libcublasLt.so.13 or "
                     ".12 can't be loaded; is it in the library path?");
        return NULL;
    }
    s = l->create(&l->handle);
    if (!wan_cuda_check(d, s == CUBLAS_STATUS_SUCCESS, "cublasLtCreate",
                        l->status(s))) {
        l->handle = NULL;
        return NULL;
    }
    return l;
}

static void plan_free(WanCublas *l, Plan *p)
{
    if (p->op)
        l->desc_destroy(p->op);
    if (p->a)
        l->layout_destroy(p->a);
    if (p->b)
        l->layout_destroy(p->b);
    if (p->d)
        l->layout_destroy(p->d);
}

void wan_cublas_close(WanCublas **lp)
{
    WanCublas *l = *lp;

    *lp = NULL;
    if (!l)
        return;
    for (int i = 0; i < l->nb_plans; i++)
        plan_free(l, &l->plan[i]);
    if (l->handle)
        l->destroy(l->handle);
    /* The library stays: it has put code of its own on the context. */
    free(l);
}

/* ------------------------------------------------------------------ plans */

static cudaDataType_t data_type(WanType t)
{
    return t == WAN_F8_E4M3 ? CUDA_R_8F_E4M3 :
           t == WAN_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

#define SET(attribute, value) \
    l->desc_set(p->op, CUBLASLT_MATMUL_DESC_##attribute, &(value), \
                sizeof(value))

/* The pointers of a plan that change from call to call; NULL: it has none. */
static int set_pointers(WanCublas *l, Plan *p, const void *bias,
                        const float *x_scale)
{
    return (bias && SET(BIAS_POINTER, bias)) ||
           (x_scale && SET(B_SCALE_POINTER, x_scale));
}

static int describe(WanCublas *l, Plan *p)
{
    const Shape *s = &p->shape;
    const cudaDataType_t tx = data_type(s->x), ty = data_type(s->y);
    const cublasOperation_t yes = CUBLAS_OP_T, no = CUBLAS_OP_N;
    const int8_t exact = 0;
    const cudaDataType_t tb = s->epilogue == BIAS_F32 ||
                              s->epilogue == GELU_F32 ? CUDA_R_32F
                                                      : CUDA_R_16BF;
    const cublasLtEpilogue_t e =
        s->epilogue == PLAIN ? CUBLASLT_EPILOGUE_DEFAULT :
        s->epilogue == GELU ? CUBLASLT_EPILOGUE_GELU :
        s->epilogue >= GELU_F32 ? CUBLASLT_EPILOGUE_GELU_BIAS
                                : CUBLASLT_EPILOGUE_BIAS;
    int bad = l->desc_create(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);

    bad = bad || SET(TRANSA, yes) || SET(TRANSB, no) || SET(EPILOGUE, e);
    if (s->epilogue != PLAIN && s->epilogue != GELU)
        bad = bad || SET(BIAS_DATA_TYPE, tb);
    if (s->x == WAN_F8_E4M3)
        bad = bad || SET(FAST_ACCUM, exact);
    return !bad && !l->layout_create(&p->a, tx, s->K, s->N, s->K) &&
           !l->layout_create(&p->b, tx, s->K, s->M, s->x_pitch) &&
           !l->layout_create(&p->d, ty, s->N, s->M, s->y_pitch);
}

#undef SET

/* What the library suggests for the plan, best first. */
static int suggest(WanCublas *l, const Plan *p,
                   cublasLtMatmulHeuristicResult_t *r)
{
    const uint64_t workspace = WAN_CUDA_BLAS_WORKSPACE;
    /* Split sums are added in an order of their own only where there are too
     * few rows to fill a card otherwise; as F32, not in y's type. */
    const uint32_t split = p->shape.M >= 1024 ?
        CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t align = p->shape.align;
    cublasLtMatmulPreference_t pref;
    int n = 0;

    if (l->pref_create(&pref))
        return 0;
#define SET(attribute, value) \
    l->pref_set(pref, CUBLASLT_MATMUL_PREF_##attribute, &(value), sizeof(value))
    if (SET(MAX_WORKSPACE_BYTES, workspace) ||
        SET(REDUCTION_SCHEME_MASK, split) ||
        SET(MIN_ALIGNMENT_A_BYTES, align) ||
        SET(MIN_ALIGNMENT_B_BYTES, align) ||
        SET(MIN_ALIGNMENT_C_BYTES, align) ||
        SET(MIN_ALIGNMENT_D_BYTES, align) ||
        l->heuristic(l->handle, p->op, p->a, p->b, p->d, p->d, pref,
                     SUGGESTIONS, r, &n))
        n = 0;
#undef SET
    l->pref_destroy(pref);
    while (n > 0 && r[n - 1].state)
        n--;
    return n > 0 && !r[0].state ? n : 0;
}

/* The weights of n layers on the device, one behind the other. Of more than
 * one none has a scale or is in e4m3, and all have a bias or none. */
typedef struct Matrix {
    const void *w;
    float alpha;                // x W^T is multiplied with
    const float *x_scale;       // and with this, on the device, where x is in
                                // e4m3; else NULL
    int n;
    const WanLinear *const *lin;
} Matrix;

typedef struct Operands {
    void *y;
    const void *x, *w;
    float alpha;
    void *workspace;
} Operands;

static cublasStatus_t multiply(WanDev *d, WanCublas *l, const Plan *p,
                               const cublasLtMatmulAlgo_t *algo,
                               const Operands *o)
{
    const float beta = p->shape.add ? 1 : 0;

    return l->matmul(l->handle, p->op, &o->alpha, o->w, p->a, o->x, p->b,
                     &beta, o->y, p->d, o->y, p->d, algo, o->workspace,
                     WAN_CUDA_BLAS_WORKSPACE, wan_cuda_stream(d));
}

/* The fastest of n suggestions; the result is written again and again, so it
 * must not be one that is added to. */
static int fastest(WanDev *d, WanCublas *l, const Plan *p,
                   const cublasLtMatmulHeuristicResult_t *r, int n,
                   const Operands *o)
{
    const cudaStream_t stream = wan_cuda_stream(d);
    cudaEvent_t begin = NULL, end = NULL;
    float best = 0, ms;
    int which = 0;

    if (cudaEventCreate(&begin) || cudaEventCreate(&end))
        n = 0;
    for (int i = 0; i < n; i++) {
        int bad = multiply(d, l, p, &r[i].algo, o);

        bad = bad || cudaEventRecord(begin, stream);
        for (int k = 0; k < 4; k++)
            bad = bad || multiply(d, l, p, &r[i].algo, o);
        bad = bad || cudaEventRecord(end, stream) ||
              cudaEventSynchronize(end) ||
              cudaEventElapsedTime(&ms, begin, end);
        if (!bad && (!best || ms < best)) {
            best = ms;
            which = i;
        }
    }
    cudaGetLastError();
    if (begin)
        cudaEventDestroy(begin);
    if (end)
        cudaEventDestroy(end);
    return which;
}

/* The plan of a shape; not usable: the library has nothing for it. */
static Plan *find_plan(WanDev *d, WanCublas *l, const Shape *s,
                       const void *bias, const float *x_scale,
                       const Operands *o)
{
    cublasLtMatmulHeuristicResult_t r[SUGGESTIONS];
    Plan *p;
    int n, i = 0;

    for (p = l->plan; p < l->plan + l->nb_plans; p++)
        if (!memcmp(&p->shape, s, sizeof(*s)))
            return p;
    if (l->nb_plans == PLANS) {         // tests alone have so many
        for (i = 0; i < PLANS; i++)
            plan_free(l, &l->plan[i]);
        l->nb_plans = 0;
    }
    p = &l->plan[l->nb_plans++];
    memset(p, 0, sizeof(*p));
    p->shape = *s;
    if (!describe(l, p) || set_pointers(l, p, bias, x_scale))
        return p;
    n = suggest(l, p, r);
    if (!n)
        return p;
    i = 0;
    if (d->tune && !s->add &&
        2.0 * s->M * s->N * s->K >= TUNE_FLOPS)
        i = fastest(d, l, p, r, n, o);
    p->algo = r[i].algo;
    p->usable = 1;
    return p;
}

/* ------------------------------------------------------------ the product */

static int alignment(const void *a, const void *b, const void *c,
                     int64_t x_bytes, int64_t y_bytes)
{
    const uintptr_t all = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c |
                          (uintptr_t)x_bytes | (uintptr_t)y_bytes | 16;

    return (int)(all & -all);
}

/* y = x W^T alpha with that epilogue; 0: the library does not offer it. */
static int by_library(WanDev *d, WanTensor *y, const WanTensor *x,
                      const Matrix *w, int add, Epilogue e, const void *bias)
{
    WanCublas *l = library(d);
    const Operands o = { y->data, x->data, w->w, w->alpha, d->scratch };
    cublasStatus_t status;
    Shape s;
    Plan *p;

    if (!l)
        return 0;
    memset(&s, 0, sizeof(s));
    s.M = wan_rows(y), s.N = wan_cols(y), s.K = wan_cols(x);
    s.x_pitch = x->pitch, s.y_pitch = y->pitch;
    s.x = x->type, s.y = y->type;
    s.epilogue = e, s.add = add;
    s.align = alignment(y->data, x->data, w->w,
                        x->pitch * wan_type_size(x->type),
                        y->pitch * wan_type_size(y->type));
    p = find_plan(d, l, &s, bias, w->x_scale, &o);
    if (!p->usable || set_pointers(l, p, bias, w->x_scale))
        return 0;
    status = multiply(d, l, p, &p->algo, &o);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED ||
        status == CUBLAS_STATUS_INVALID_VALUE) {    // suggested it was, though
        p->usable = 0;
        return 0;
    }
    return wan_cuda_check(d, status == CUBLAS_STATUS_SUCCESS, "linear",
                          l->status(status));
}

/* y (+)= x W^T alpha, in the library or, but in e4m3, without it; 0: not done
 * or d has failed. */
static int product(WanDev *d, WanTensor *y, const WanTensor *x,
                   const Matrix *w, int add)
{
    WanOwnProduct own = {
        .y = y->data, .x = x->data, .w = w->w, .y_type = y->type,
        .x_type = x->type, .w_type = x->type, .M = wan_rows(y),
        .N = wan_cols(y), .K = wan_cols(x), .y_pitch = y->pitch,
        .x_pitch = x->pitch, .alpha = w->alpha, .add = add,
    };

    if (by_library(d, y, x, w, add, PLAIN, NULL))
        return 1;
    if (d->error || x->type == WAN_F8_E4M3)
        return 0;
    wan_product(&own, wan_cuda_stream(d));
    wan_cuda_launched(d, "linear");
    return !d->error;
}

static int has_bias(const Matrix *w)
{
    return w->lin[0]->bias.nb_dims != 0;
}

/* The biases of the layers, one behind the other. */
static const void *biases(WanDev *d, const Matrix *w, WanType type)
{
    const WanTensor *v[WAN_PAGE_PARTS] = { NULL };

    for (int i = 0; i < w->n; i++)
        v[i] = &w->lin[i]->bias;
    return wan_cuda_vectors(d, w->n, v, type);
}

/* The product with its bias and GELU in one, if the library can. */
static int in_one(WanDev *d, WanTensor *y, const WanTensor *x, const Matrix *w,
                  const WanLinearArgs *a)
{
    const int gelu = a->act == WAN_ACT_GELU_TANH;
    const void *bias = NULL;

    if (!has_bias(w))
        return by_library(d, y, x, w, a->add, gelu ? GELU : PLAIN, NULL);
    if (x->type != WAN_F8_E4M3) {       // whose bias is BF16 always
        if (!(bias = biases(d, w, WAN_F32)))
            return 0;
        if (by_library(d, y, x, w, a->add, gelu ? GELU_F32 : BIAS_F32, bias))
            return 1;
        if (d->error || y->type == WAN_F32)
            return 0;
    }
    /* As autocast rounds it. */
    if (!(bias = biases(d, w, WAN_BF16)))
        return 0;
    return by_library(d, y, x, w, a->add, gelu ? GELU_BF16 : BIAS_BF16, bias);
}

/* -------------------------------------------------------------- two passes */

static int scales_rows(const WanLinear *w)
{
    return w->scale.nb_dims && wan_count(&w->scale) > 1;
}

/* Whether the sum needs memory of its own before it can be finished. */
static int two_passes(const WanTensor *y, const WanTensor *x,
                      const WanLinear *w, const WanLinearArgs *a)
{
    return a->gate || (a->add && (a->act || scales_rows(w))) ||
           (x->type == WAN_F32 && y->type != WAN_F32);
}

static int64_t pass_rows(const WanTensor *y)
{
    return wan_rows(y) < PASS_ROWS ? wan_rows(y) : PASS_ROWS;
}

static int64_t aligned(int64_t bytes)
{
    return (bytes + WAN_PAGE_ALIGN - 1) / WAN_PAGE_ALIGN * WAN_PAGE_ALIGN;
}

/* Of the sum, where it needs memory. */
static int64_t sum_bytes(const WanTensor *y, const WanTensor *x,
                         const WanLinear *w, const WanLinearArgs *a)
{
    return two_passes(y, x, w, a) ? aligned(pass_rows(y) * wan_cols(y) *
                                            wan_type_size(x->type)) : 0;
}

/* Of a matrix in e4m3, widened, or of rows of x in e4m3 and their scale: one
 * is needed at a time. */
static int64_t e4m3_bytes(const WanTensor *y, const WanTensor *x,
                          const WanLinear *w)
{
    const int64_t K = wan_cols(x);
    const int64_t wide = 2 * wan_cols(y) * K;
    const int64_t rows = w->e4m3 ? aligned(pass_rows(y) * K) + WAN_PAGE_ALIGN
                                 : 0;

    if (wan_cuda_matrix_type(&w->weight, w->e4m3, x) != WAN_F8_E4M3)
        return 0;
    return wide > rows ? wide : rows;
}

/* In this order, behind each other. */
int64_t wan_cuda_linear_scratch(int threads, const WanTensor *y,
                                const WanTensor *x, const WanLinear *w,
                                const WanLinearArgs *a)
{
    (void)threads;
    return WAN_CUDA_BLAS_WORKSPACE + sum_bytes(y, x, w, a) +
           e4m3_bytes(y, x, w);
}

/* t = x W^T alpha, then y = [y +] gate * act(t scale + bias), by rows; apart:
 * t is not y but in scratch. 0: there is no such product, or d has failed. */
static int finish(WanDev *d, WanTensor *y, const WanTensor *x,
                  const Matrix *w, const WanLinearArgs *a, int apart)
{
    const int64_t M = wan_rows(y), N = wan_cols(y), step = pass_rows(y);
    WanOwnFinish f = { .act = a->act, .add = apart && a->add };

    if (has_bias(w) && !(f.bias = biases(d, w, WAN_F32)))
        return 0;
    if (scales_rows(w->lin[0]) &&
        !(f.scale = wan_cuda_weight(d, &w->lin[0]->scale)))
        return 0;
    if (a->gate && !(f.gate = wan_cuda_weight(d, a->gate)))
        return 0;
    if (!apart) {               // without an act, bias and sum commute
        if (!product(d, y, x, w, a->add))
            return 0;
        if (f.bias || f.scale || f.act)
            wan_finish(d, y, y, f);
        return !d->error;
    }
    for (int64_t i = 0; i < M; i += step) {
        const int64_t n = M - i < step ? M - i : step;
        const WanTensor xi = wan_slice(x, i, n);
        WanTensor yi = wan_slice(y, i, n);
        WanTensor t = wan_tensor_of((char *)d->scratch +
                                    WAN_CUDA_BLAS_WORKSPACE,
                                    x->type == WAN_F32 ? WAN_F32 : WAN_BF16,
                                    n, N);

        if (!product(d, &t, &xi, w, 0))
            return 0;
        wan_finish(d, &yi, &t, f);
    }
    return !d->error;
}

/* One way or the other; 0: no way, or d has failed. */
static int compute(WanDev *d, WanTensor *y, const WanTensor *x,
                   const Matrix *w, const WanLinearArgs *a, int apart)
{
    /* The epilogue's GELU comes after the sum with y; ours never does. In
     * F32 ours is the exact one. */
    const int one = !apart && !scales_rows(w->lin[0]) &&
                    (a->act == WAN_ACT_NONE ||
                     (a->act == WAN_ACT_GELU_TANH && x->type != WAN_F32 &&
                      !a->add));

    if (one && in_one(d, y, x, w, a))
        return 1;
    return !d->error && finish(d, y, x, w, a, apart);
}

/* ------------------------------------------------------------------- e4m3 */

/* W as BF16 in scratch. */
static void widen(WanDev *d, Matrix *wide, const Matrix *w, void *at)
{
    const WanTensor *t = &w->lin[0]->weight;
    const int64_t N = t->dim[0], K = wan_count(t) / N;

    *wide = *w;
    wide->w = at;
    wan_cuda_convert(wan_cuda_stream(d), at, WAN_BF16, w->w, WAN_F8_E4M3, N, K,
                     1, 1);
    wan_cuda_launched(d, "linear");
}

/* With x in e4m3, some rows at a time; `at` is for what e4m3_bytes() has. */
static void in_e4m3(WanDev *d, WanTensor *y, const WanTensor *x,
                    const Matrix *w, const WanLinearArgs *a, int apart,
                    void *at)
{
    const int64_t M = wan_rows(y), step = pass_rows(y);
    float *scale = (float *)((char *)at + aligned(step * wan_cols(x)));
    Matrix narrow = *w, wide;

    narrow.x_scale = scale;
    for (int64_t i = 0; i < M && !d->error; i += step) {
        const int64_t n = M - i < step ? M - i : step;
        const WanTensor xi = wan_slice(x, i, n);
        WanTensor yi = wan_slice(y, i, n);
        WanTensor q = wan_tensor_of(at, WAN_F8_E4M3, n, wan_cols(x));

        wan_cuda_quant_e4m3(d, &q, scale, &xi);
        if (d->error || compute(d, &yi, &q, &narrow, a, apart) ||
            d->error)
            continue;
        widen(d, &wide, w, at);
        compute(d, &yi, &xi, &wide, a, apart);
    }
}

/* ------------------------------------------------------------- the entries */

/* As [rows, columns], whatever its dimensions. */
static WanTensor matrix(const WanTensor *t)
{
    WanTensor m = *t;

    m.nb_dims = 2;
    m.dim[0] = wan_rows(t);
    m.dim[1] = wan_cols(t);
    return m;
}

void wan_cuda_linear(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanLinear *w, const WanLinearArgs *a)
{
    WanTensor ym = matrix(y);
    const WanTensor xm = matrix(x);
    const WanType type = wan_cuda_matrix_type(&w->weight, w->e4m3, x);
    const int apart = two_passes(y, x, w, a);
    void *at = (char *)d->scratch + WAN_CUDA_BLAS_WORKSPACE +
               sum_bytes(y, x, w, a);
    Matrix m = { .n = 1, .lin = &w }, wide;

    if (!wan_rows(y))
        return;
    m.w = wan_cuda_matrix(d, &w->weight, type, &m.alpha);
    if (!m.w)
        return;
    if (w->scale.nb_dims && !scales_rows(w))
        m.alpha *= *(const float *)w->scale.data;

    if (type != WAN_F8_E4M3) {
        compute(d, &ym, &xm, &m, a, apart);
    } else if (w->e4m3 && wan_cuda(d)->arch >= WAN_CUDA_E4M3_ARCH &&
               wan_cols(y) % 16 == 0 && wan_cols(x) % 16 == 0) {
        in_e4m3(d, &ym, &xm, &m, a, apart, at);
    } else {
        widen(d, &wide, &m, at);
        compute(d, &ym, &xm, &wide, a, apart);
    }
}

int wan_cuda_linear_n_fits(const WanTensor *y, const WanTensor *x, int n,
                           const WanLinear *const *w)
{
    for (int i = 0; i < n; i++)
        if (wan_cuda_matrix_type(&w[i]->weight, w[i]->e4m3, x) != x->type ||
            w[i]->scale.nb_dims ||
            !w[i]->bias.nb_dims != !w[0]->bias.nb_dims)
            return 0;
    return y->type == x->type;
}

void wan_cuda_linear_n(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                       const WanLinear *const *w)
{
    const WanLinearArgs plain = { 0 };
    WanTensor ym = matrix(y);
    const WanTensor xm = matrix(x), *part[WAN_PAGE_PARTS];
    Matrix m = { .alpha = 1, .n = n, .lin = w };

    if (!wan_rows(y))
        return;
    for (int i = 0; i < n; i++)
        part[i] = &w[i]->weight;
    if (!has_bias(&m) || biases(d, &m, WAN_F32))
        m.w = wan_cuda_matrices(d, n, part, x->type);
    if (m.w) {
        compute(d, &ym, &xm, &m, &plain, 0);
        return;
    }
    /* Somebody has put them into the arena, apart from each other. */
    for (int64_t i = 0, at = 0; i < n && !d->error; i++) {
        WanTensor yi = wan_columns(&ym, at, part[i]->dim[0]);

        wan_cuda_linear(d, &yi, &xm, w[i], &plain);
        at += part[i]->dim[0];
    }
}
