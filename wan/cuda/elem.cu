/*
 * Elementwise ops: what moves through memory once and is no norm.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A block takes a piece of one row, 8 elements a thread where all tensors
 * can be read so. Dense tensors are one long row.
 */

#include <stdlib.h>

#include "kernel.h"

#define ELEM_THREADS 256

/* ----------------------------------------------------------- the pieces */

/* Rows and columns of an elementwise op over up to three tensors. */
struct Shape {
    int64_t rows;
    int cols;
    int step;               // elements a thread takes: 8 or 1
    int threads;
    int per_row;            // blocks
};

/* flat: rows may be run together. */
static Shape shape_of(int n, const WanTensor *const *t, bool flat)
{
    Shape s = { wan_rows(t[0]), (int)wan_cols(t[0]), 8, 0, 0 };
    WanTensor v[3];

    for (int i = 0; i < n; i++)
        flat = flat && t[i]->pitch == wan_cols(t[i]);
    // threads past the end count columns too
    flat = flat && wan_count(t[0]) < INT32_MAX - 8 * ELEM_THREADS;
    if (flat) {
        s.cols = (int)wan_count(t[0]);
        s.rows = s.cols > 0;
    }
    for (int i = 0; i < n; i++) {
        v[i] = *t[i];
        if (flat) {
            v[i].nb_dims = 1;
            v[i].dim[0] = v[i].pitch = s.cols;
        }
        if (!wan_vectors(&v[i], 8))
            s.step = 1;
    }
    s.threads = wan_block(wan_div_up(s.cols, s.step), ELEM_THREADS);
    s.per_row = (int)wan_div_up(s.cols, (int64_t)s.step * s.threads);
    return s;
}

/* This thread's row, and its first column: none of its own past the end. */
struct Place { int64_t row; int col; };

template<int N> static __device__ inline Place place(int per_row)
{
    const unsigned row = blockIdx.x / per_row, piece = blockIdx.x % per_row;

    return { row, (int)((piece * blockDim.x + threadIdx.x) * N) };
}

template<int N, typename T> static __device__ inline Vec<N> get(const T *p)
{
    if constexpr (N == 1)
        return Vec<1>{ { to_float(*p) } };
    else
        return load<N>(p);
}

template<int N, typename T>
static __device__ inline void put(T *p, const Vec<N> &v)
{
    if constexpr (N == 1)
        *p = from_float<T>(v.v[0]);
    else
        store<N>(p, v);
}

/* ----------------------------------------------------------- functions */

/* By name, and uniform over a launch: memory is what takes the time. */
enum Function { COPY = WAN_ACT_NONE, SILU = WAN_ACT_SILU,
                GELU_TANH = WAN_ACT_GELU_TANH, GELU_ERF = WAN_ACT_GELU_ERF,
                RELU = WAN_ACT_RELU, TANH3 = WAN_ACT_TANH3,
                MUL = WAN_NB_ACTS, GEGLU };

/* x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) */
static __device__ inline float gelu_tanh(float x)
{
    const float u = 0.79788456f * (x + 0.044715f * x * x * x);

    return x / (1 + expf(-2 * u));
}

static __device__ inline float apply(Function f, float a, float b)
{
    switch (f) {
    case SILU:      return a / (1 + expf(-a));
    case GELU_TANH: return gelu_tanh(a);
    case GELU_ERF:  return 0.5f * a * erfcf(-0.70710678f * a);
    case RELU:      return a < 0 ? 0 : a;
    case TANH3:     return 3 * tanhf(a / 3);
    case MUL:       return a * b;
    case GEGLU:     return gelu_tanh(a) * b;
    default:        return a;
    }
}

/* y = f(a), or f(a, b) with b of type tb. y may be a or b. */
template<int N, typename TY, typename TX>
static __global__ void __launch_bounds__(ELEM_THREADS)
map_kernel(TY *y, int64_t y_pitch, const TX *a, int64_t a_pitch, const void *b,
           int64_t b_pitch, WanType tb, int cols, int per_row, Function f)
{
    const Place at = place<N>(per_row);
    const int64_t bi = at.row * b_pitch + at.col;

    if (at.col >= cols)
        return;
    Vec<N> u = get<N>(a + at.row * a_pitch + at.col), v = u;
    if (b)
        v = tb == WAN_F32  ? get<N>((const float *)b + bi)
          : tb == WAN_BF16 ? get<N>((const bf16 *)b + bi)
                           : get<N>((const f16 *)b + bi);
    for (int k = 0; k < N; k++)
        u.v[k] = apply(f, u.v[k], v.v[k]);
    put<N>(y + at.row * y_pitch + at.col, u);
}

static void map(WanDev *d, const char *op, Function f, WanTensor *y,
                const WanTensor *a, const WanTensor *b)
{
    const WanTensor *const t[3] = { y, a, b };
    const Shape s = shape_of(b ? 3 : 2, t, true);

    if (b)
        with_any_type(d, op, b, [](auto) {});   // it is one
    if (!s.rows || d->error)
        return;
    with_any_type(d, op, y, [&](auto ty) {
        with_any_type(d, op, a, [&](auto tx) {
            typedef decltype(ty) TY;
            typedef decltype(tx) TX;

            WAN_LAUNCH((s.step > 1 ? map_kernel<8, TY, TX>
                                   : map_kernel<1, TY, TX>),
                       s.rows * s.per_row, s.threads, 0, wan_cuda_stream(d),
                       (TY *)y->data, y->pitch, (const TX *)a->data, a->pitch,
                       b ? b->data : NULL, b ? b->pitch : 0,
                       b ? b->type : WAN_F32, s.cols, s.per_row, f);
        });
    });
    wan_cuda_launched(d, op);
}

extern "C" void wan_cuda_act(WanDev *d, WanTensor *y, const WanTensor *x,
                             WanAct act)
{
    map(d, "act", (Function)act, y, x, NULL);
}

extern "C" void wan_cuda_mul(WanDev *d, WanTensor *y, const WanTensor *a,
                             const WanTensor *b)
{
    map(d, "mul", MUL, y, a, b);
}

extern "C" void wan_cuda_geglu(WanDev *d, WanTensor *y, const WanTensor *g,
                               const WanTensor *u)
{
    map(d, "geglu", GEGLU, y, g, u);
}

/* x where kernels can read it: it may be one of the model's f32 vectors and
 * tables. */
static WanTensor readable(WanDev *d, const WanTensor *x)
{
    WanTensor t = *x;

    t.data = (void *)wan_vector(d, x);
    return t;
}

/* Any types: this is the cast too. */
extern "C" void wan_cuda_copy(WanDev *d, WanTensor *y, const WanTensor *x)
{
    const WanTensor in = readable(d, x);

    map(d, "copy", COPY, y, &in, NULL);
}

/* ------------------------------------------------------------- gate_add */

/* y += gate * x; gate: [cols] or NULL. */
template<int N, typename TY, typename TX>
static __global__ void __launch_bounds__(ELEM_THREADS)
gate_add_kernel(TY *y, int64_t y_pitch, const TX *x, int64_t x_pitch,
                const float *gate, int cols, int per_row)
{
    const Place at = place<N>(per_row);

    if (at.col >= cols)
        return;
    Vec<N> v = get<N>(y + at.row * y_pitch + at.col);
    const Vec<N> u = get<N>(x + at.row * x_pitch + at.col);
    if (gate) {
        const Vec<N> g = get<N>(gate + at.col);

        for (int k = 0; k < N; k++)
            v.v[k] += g.v[k] * u.v[k];
    } else {
        for (int k = 0; k < N; k++)
            v.v[k] += u.v[k];
    }
    put<N>(y + at.row * y_pitch + at.col, v);
}

extern "C" void wan_cuda_gate_add(WanDev *d, WanTensor *y, const WanTensor *x,
                                  const WanTensor *gate)
{
    const float *const g = wan_vector(d, gate);
    const WanTensor in = readable(d, x);
    const WanTensor *const t[2] = { y, &in };
    Shape s = shape_of(2, t, !g);

    if (!wan_vectors(g) && s.step > 1)
        s = { s.rows, s.cols, 1, wan_block(s.cols, ELEM_THREADS),
              (int)wan_div_up(s.cols, ELEM_THREADS) };
    if (!s.rows || d->error)
        return;
    with_any_type(d, "gate_add", y, [&](auto ty) {
        with_any_type(d, "gate_add", &in, [&](auto tx) {
            typedef decltype(ty) TY;
            typedef decltype(tx) TX;

            WAN_LAUNCH((s.step > 1 ? gate_add_kernel<8, TY, TX>
                                   : gate_add_kernel<1, TY, TX>),
                       s.rows * s.per_row, s.threads, 0, wan_cuda_stream(d),
                       (TY *)y->data, y->pitch, (const TX *)in.data, in.pitch,
                       g, s.cols, s.per_row);
        });
    });
    wan_cuda_launched(d, "gate_add");
}

/* -------------------------------------------------------------- lincomb */

#define LINCOMB_MAX 6

struct Terms {
    const float *x[LINCOMB_MAX];
    double coef[LINCOMB_MAX];
    int n;
};

/* Sums in double, as the definition: a solver's coefficients cancel, and
 * four million of them are nothing to any card. y may be one of x. */
static __global__ void __launch_bounds__(ELEM_THREADS)
lincomb_kernel(float *y, Terms t, int64_t count)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    double sum = 0;

    if (i >= count)
        return;
    WAN_UNROLL
    for (int k = 0; k < LINCOMB_MAX; k++)
        if (k < t.n)
            sum += t.coef[k] * t.x[k][i];
    y[i] = (float)sum;
}

extern "C" void wan_cuda_lincomb(WanDev *d, WanTensor *y, int n,
                                 const double *coef, const WanTensor *const *x)
{
    const int64_t count = wan_count(y);
    Terms t = {};

    t.n = n;
    for (int k = 0; k < n; k++) {
        t.coef[k] = coef[k];
        t.x[k] = wan_vector(d, x[k]);
    }
    if (!count || d->error)
        return;
    WAN_LAUNCH(lincomb_kernel, wan_div_up(count, ELEM_THREADS), ELEM_THREADS,
               0, wan_cuda_stream(d), (float *)y->data, t, count);
    wan_cuda_launched(d, "lincomb");
}

/* --------------------------------------------------------- fill, finite */

template<int N, typename T>
static __global__ void __launch_bounds__(ELEM_THREADS)
fill_kernel(T *y, int64_t pitch, int cols, int per_row, float value)
{
    const Place at = place<N>(per_row);
    Vec<N> v;

    if (at.col >= cols)
        return;
    for (int k = 0; k < N; k++)
        v.v[k] = value;
    put<N>(y + at.row * pitch + at.col, v);
}

extern "C" void wan_cuda_fill(WanDev *d, WanTensor *y, float value)
{
    const WanTensor *const t[1] = { y };
    const Shape s = shape_of(1, t, true);

    if (!s.rows || d->error)
        return;
    with_any_type(d, "fill", y, [&](auto ty) {
        typedef decltype(ty) T;

        WAN_LAUNCH((s.step > 1 ? fill_kernel<8, T> : fill_kernel<1, T>),
                   s.rows * s.per_row, s.threads, 0, wan_cuda_stream(d),
                   (T *)y->data, y->pitch, s.cols, s.per_row, value);
    });
    wan_cuda_launched(d, "fill");
}

/* flag becomes 1 if there is a NaN or an infinity. Any number of threads may
 * write that; none does in a good run. */
template<int N, typename T>
static __global__ void __launch_bounds__(ELEM_THREADS)
finite_kernel(uint32_t *flag, const T *x, int64_t pitch, int cols, int per_row)
{
    const Place at = place<N>(per_row);
    bool bad = false;

    if (at.col >= cols)
        return;
    const Vec<N> v = get<N>(x + at.row * pitch + at.col);
    for (int k = 0; k < N; k++)
        bad |= (__float_as_uint(v.v[k]) & 0x7f800000u) == 0x7f800000u;
    if (bad)
        *flag = 1;
}

/* Waits: asked once a step and once a chunk, after all of its work. */
extern "C" void wan_cuda_finite(WanDev *d, const WanTensor *x,
                                const char *what)
{
    const WanTensor *const t[1] = { x };
    const Shape s = shape_of(1, t, true);
    uint32_t *const flag = wan_cuda_flag(d);

    if (!s.rows || d->error)
        return;
    *flag = 0;
    with_any_type(d, "finite", x, [&](auto tx) {
        typedef decltype(tx) T;

        WAN_LAUNCH((s.step > 1 ? finite_kernel<8, T> : finite_kernel<1, T>),
                   s.rows * s.per_row, s.threads, 0, wan_cuda_stream(d), flag,
                   (const T *)x->data, x->pitch, s.cols, s.per_row);
    });
    wan_cuda_launched(d, "finite");
    if (wan_cuda_wait(d, "finite") && *(volatile uint32_t *)flag)
        wan_dev_fail(d, WAN_ERR(EDOM), "%s is not finite", what);
}

/* ---------------------------------------------------------------- embed */

/* Element i of a dense host array. */
static void host_set(void *p, WanType type, int64_t i, float v)
{
    if (type == WAN_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = type == WAN_BF16 ? wan_f32_to_bf16(v)
                                              : wan_f32_to_f16(v);
}

/* The table stays in the file's mapping: it is 2 GB for UMT5, and a prompt
 * asks for a few dozen rows. They go up in y's type, and are waited for: a
 * card that reads pageable memory itself need not have done so when the call
 * is back. */
extern "C" void wan_cuda_embed(WanDev *d, WanTensor *y, const WanTensor *table,
                               const int32_t *ids)
{
    const int64_t n = wan_rows(y), C = wan_cols(y);
    const int64_t step = wan_type_bytes(table->type, table->pitch);
    const size_t bytes = C * wan_type_size(y->type);
    float *const row = (float *)malloc(C * sizeof(*row) + n * bytes + 1);
    char *const rows = (char *)(row + C);

    if (!row) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "embed: no memory for %lld rows",
                     (long long)n);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        wan_to_f32(row, (const char *)table->data + ids[i] * step,
                   table->type, C, 1);
        for (int64_t c = 0; c < C; c++)
            host_set(rows + i * bytes, y->type, c, row[c]);
    }
    if (n)
        wan_cuda_ok(d, cudaMemcpy2DAsync(
            y->data, y->pitch * wan_type_size(y->type), rows, bytes, bytes, n,
            cudaMemcpyDefault, wan_cuda_stream(d)), "embed");
    wan_cuda_wait(d, "embed");
    free(row);
}
