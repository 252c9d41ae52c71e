/*
 * The norms, and the residual sums that are fused with them.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Each reads its row once, keeps it in registers between statistics and
 * result, and writes once. Variances are of differences from the mean, and what
 * the f32 mean misses is found with them, so a residual stream far from zero
 * loses nothing.
 */

#include "kernel.h"

/* ------------------------------------------- layer norm and RMS norm */

/* x += gate * branch; y = norm(x) * (one + gain) + bias. [L, C], pitches in
 * elements; gate, gain, bias: [C] or NULL. */
struct Norm {
    void *y, *x;
    const void *branch;
    int64_t y_pitch, x_pitch, branch_pitch;
    const float *gate, *gain, *bias;
    float one, eps;
    int C;
};

#define NORM_VECS 4         // vectors of 4 elements a thread keeps
#define NORM_THREADS 512    // so the widest row is 8192

/* (v - mean - rest) * r is the norm; near + rest is the mean to twice the
 * precision. */
struct Moments { float near, rest, r; };

/* From the sums of (v - near)^2 and v - near, whose mean is all but zero. */
static __device__ inline Moments moments(const Norm &a, float near,
                                         float2 sums)
{
    const float rest = sums.y / a.C;

    return { near, rest,
             1 / sqrtf(fmaxf(sums.x / a.C - rest * rest, 0) + a.eps) };
}

/* What stands between a vector of x and one of y. */
static __device__ inline Vec<4> norm_apply(const Norm &a, Vec<4> v, int c,
                                           Moments m)
{
    for (int k = 0; k < 4; k++)
        v.v[k] = (v.v[k] - m.near - m.rest) * m.r;
    if (a.gain) {
        const Vec<4> g = load<4>(a.gain + c);

        for (int k = 0; k < 4; k++)
            v.v[k] *= a.one + g.v[k];
    }
    if (a.bias) {
        const Vec<4> b = load<4>(a.bias + c);

        for (int k = 0; k < 4; k++)
            v.v[k] += b.v[k];
    }
    return v;
}

/* One block per row, at most NORM_VECS vectors a thread. BRANCH: there is
 * one; RMS: no mean. The norm sees x rounded to its type. A thread writes where
 * it alone has read, so y may be x, or the branch. */
template<typename TX, typename TB, typename TY, bool BRANCH, bool RMS>
static __global__ void __launch_bounds__(NORM_THREADS) norm_kernel(Norm a)
{
    TX *const x = (TX *)a.x + blockIdx.x * a.x_pitch;
    TY *const y = (TY *)a.y + blockIdx.x * a.y_pitch;
    const TB *const branch = (const TB *)a.branch +
                             (BRANCH ? blockIdx.x * a.branch_pitch : 0);
    Vec<4> v[NORM_VECS];
    float sum = 0, squares = 0, rest = 0, near = 0;
    WAN_SHARED(float, part, 96);

    WAN_UNROLL
    for (int i = 0; i < NORM_VECS; i++) {
        const int c = vector_column(i, 4);

        if (c < a.C)
            v[i] = load<4>(x + c);
        else
            v[i] = Vec<4>{ { 0, 0, 0, 0 } };
    }
    WAN_UNROLL
    for (int i = 0; i < NORM_VECS; i++) {
        const int c = vector_column(i, 4);

        if (BRANCH && c < a.C) {
            const Vec<4> b = load<4>(branch + c);

            if (a.gate) {
                const Vec<4> g = load<4>(a.gate + c);

                for (int k = 0; k < 4; k++)
                    v[i].v[k] += g.v[k] * b.v[k];
            } else {
                for (int k = 0; k < 4; k++)
                    v[i].v[k] += b.v[k];
            }
            store<4>(x + c, v[i]);
            for (int k = 0; k < 4; k++)
                v[i].v[k] = to_float(from_float<TX>(v[i].v[k]));
        }
        for (int k = 0; k < 4; k++)
            sum += v[i].v[k];
    }
    if (!RMS)
        near = block_sum(sum, part) / a.C;
    WAN_UNROLL
    for (int i = 0; i < NORM_VECS; i++)
        if (vector_column(i, 4) < a.C)
            for (int k = 0; k < 4; k++) {
                const float u = v[i].v[k] - near;

                squares += u * u;
                rest += RMS ? 0 : u;
            }

    const Moments m = moments(a, near, block_sum2(squares, rest, part + 32));
    WAN_UNROLL
    for (int i = 0; i < NORM_VECS; i++) {
        const int c = vector_column(i, 4);

        if (c < a.C)
            store<4>(y + c, norm_apply(a, v[i], c, m));
    }
}

/* The same for any C and any alignment: one block per row, elements one by
 * one, read again for each pass. A thread meets the same elements each time,
 * so y may be x, or the branch. */
template<typename TX, typename TB, typename TY, bool BRANCH, bool RMS>
static __global__ void norm_any_kernel(Norm a)
{
    TX *const x = (TX *)a.x + blockIdx.x * a.x_pitch;
    TY *const y = (TY *)a.y + blockIdx.x * a.y_pitch;
    const TB *const branch = (const TB *)a.branch +
                             (BRANCH ? blockIdx.x * a.branch_pitch : 0);
    float sum = 0, squares = 0, rest = 0, near = 0;
    WAN_SHARED(float, part, 96);

    for (int c = threadIdx.x; c < a.C; c += blockDim.x) {
        float v = to_float(x[c]);

        if (BRANCH) {
            v += (a.gate ? a.gate[c] : 1) * to_float(branch[c]);
            x[c] = from_float<TX>(v);
            v = to_float(x[c]);
        }
        sum += v;
    }
    if (!RMS)
        near = block_sum(sum, part) / a.C;
    for (int c = threadIdx.x; c < a.C; c += blockDim.x) {
        const float u = to_float(x[c]) - near;

        squares += u * u;
        rest += RMS ? 0 : u;
    }

    const Moments m = moments(a, near, block_sum2(squares, rest, part + 32));
    for (int c = threadIdx.x; c < a.C; c += blockDim.x) {
        float v = (to_float(x[c]) - m.near - m.rest) * m.r;

        if (a.gain)
            v *= a.one + a.gain[c];
        if (a.bias)
            v += a.bias[c];
        y[c] = from_float<TY>(v);
    }
}

template<bool BRANCH, bool RMS>
static void norm(WanDev *d, const char *op, WanTensor *y, const WanTensor *x,
                 const WanTensor *branch, Norm a)
{
    const int64_t rows = wan_rows(x);
    const bool fast = wan_vectors(x, 4) && wan_vectors(y, 4) &&
                      (!BRANCH || wan_vectors(branch, 4)) &&
                      wan_vectors(a.gate) && wan_vectors(a.gain) &&
                      wan_vectors(a.bias) &&
                      wan_cols(x) <= 4 * NORM_VECS * NORM_THREADS;

    if (!rows || d->error)
        return;
    a.C = (int)wan_cols(x);
    a.x = x->data, a.x_pitch = x->pitch;
    a.y = y->data, a.y_pitch = y->pitch;
    if (BRANCH)
        a.branch = branch->data, a.branch_pitch = branch->pitch;

    with_type(d, op, x, [&](auto tx) {
        with_type(d, op, y, [&](auto ty) {
            with_type(d, op, BRANCH ? branch : x, [&](auto tb) {
                typedef decltype(tx) TX;
                typedef decltype(ty) TY;
                typedef std::conditional_t<BRANCH, decltype(tb), float> TB;

                if (fast)
                    WAN_LAUNCH((norm_kernel<TX, TB, TY, BRANCH, RMS>), rows,
                               wan_block(wan_div_up(a.C, 4 * NORM_VECS),
                                         NORM_THREADS),
                               0, wan_cuda_stream(d), a);
                else
                    WAN_LAUNCH((norm_any_kernel<TX, TB, TY, BRANCH, RMS>),
                               rows, wan_block(a.C, 256), 0,
                               wan_cuda_stream(d), a);
            });
        });
    });
    wan_cuda_launched(d, op);
}

extern "C" void wan_cuda_layer_norm(WanDev *d, WanTensor *y,
                                    const WanTensor *x, const WanTensor *gain,
                                    const WanTensor *bias, float eps)
{
    Norm a = {};

    a.gain = wan_vector(d, gain);
    a.bias = wan_vector(d, bias);
    a.eps = eps;
    norm<false, false>(d, "layer_norm", y, x, NULL, a);
}

extern "C" void wan_cuda_modulate(WanDev *d, WanTensor *y, const WanTensor *x,
                                  const WanTensor *shift,
                                  const WanTensor *scale, float eps)
{
    Norm a = {};

    a.gain = wan_vector(d, scale);
    a.bias = wan_vector(d, shift);
    a.one = 1;
    a.eps = eps;
    norm<false, false>(d, "modulate", y, x, NULL, a);
}

extern "C" void wan_cuda_rms_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                                  const WanTensor *gain, float eps)
{
    Norm a = {};

    a.gain = wan_vector(d, gain);
    a.eps = eps;
    norm<false, true>(d, "rms_norm", y, x, NULL, a);
}

/* gate_add and the norm that follows it: layer_norm with one = 0, modulate
 * with one = 1. */
extern "C" void wan_cuda_gate_add_norm(WanDev *d, WanTensor *y, WanTensor *x,
                                       const WanTensor *branch,
                                       const WanTensor *gate,
                                       const WanTensor *gain,
                                       const WanTensor *bias, float one,
                                       float eps)
{
    Norm a = {};

    a.gate = wan_vector(d, gate);
    a.gain = wan_vector(d, gain);
    a.bias = wan_vector(d, bias);
    a.one = one;
    a.eps = eps;
    norm<true, false>(d, "gate_add_norm", y, x, branch, a);
}

/* ------------------------------------------------------- the VAE's norm */

/* y = act(x / max(|x|, 1e-12) * sqrt(C) * gain), rows of C channels. */
struct L2Norm {
    void *y;
    const void *x;
    int64_t y_pitch, x_pitch, rows;
    const float *gain;
    int C, silu;
    int lanes;              // of a warp that share a row, a power of two
};

#define L2_VECS 3           // vectors of 8 elements a lane keeps: 96, 192 and
                            // 384 channels are 4, 8 and 16 lanes, none idle
#define L2_THREADS 256

static __device__ inline float l2_scale(float squares, int C)
{
    return sqrtf((float)C) / fmaxf(sqrtf(squares), 1e-12f);
}

static __device__ inline float silu(float x)
{
    return x / (1 + expf(-x));
}

/* a.lanes neighbouring lanes per row. */
template<typename TX, typename TY>
static __global__ void __launch_bounds__(L2_THREADS) l2_norm_kernel(L2Norm a)
{
    const int lane = threadIdx.x & (a.lanes - 1);
    const int64_t row = (int64_t)blockIdx.x * (blockDim.x / a.lanes) +
                        threadIdx.x / a.lanes;
    const TX *const x = (const TX *)a.x + row * a.x_pitch;
    TY *const y = (TY *)a.y + row * a.y_pitch;
    const int C = row < a.rows ? a.C : 0;   // every lane takes part in sums
    Vec<8> v[L2_VECS];
    float squares = 0;

    WAN_UNROLL
    for (int i = 0; i < L2_VECS; i++)
        if (8 * (lane + i * a.lanes) < C)
            v[i] = load<8>(x + 8 * (lane + i * a.lanes));
    WAN_UNROLL
    for (int i = 0; i < L2_VECS; i++)
        if (8 * (lane + i * a.lanes) < C)
            for (int k = 0; k < 8; k++)
                squares += v[i].v[k] * v[i].v[k];

    const float r = l2_scale(lanes_sum(squares, a.lanes), a.C);
    WAN_UNROLL
    for (int i = 0; i < L2_VECS; i++) {
        const int c = 8 * (lane + i * a.lanes);

        if (c < C) {
            const Vec<8> g = load<8>(a.gain + c);

            for (int k = 0; k < 8; k++) {
                v[i].v[k] *= r * g.v[k];
                if (a.silu)
                    v[i].v[k] = silu(v[i].v[k]);
            }
            store<8>(y + c, v[i]);
        }
    }
}

/* Any C and alignment: a warp per row, element by element. */
template<typename TX, typename TY>
static __global__ void __launch_bounds__(L2_THREADS)
l2_norm_any_kernel(L2Norm a)
{
    const int lane = threadIdx.x % 32;
    const int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) +
                        threadIdx.x / 32;
    const TX *const x = (const TX *)a.x + row * a.x_pitch;
    TY *const y = (TY *)a.y + row * a.y_pitch;
    float squares = 0;

    if (row >= a.rows)      // the whole warp
        return;
    for (int c = lane; c < a.C; c += 32)
        squares += to_float(x[c]) * to_float(x[c]);
    const float r = l2_scale(warp_sum(squares), a.C);
    for (int c = lane; c < a.C; c += 32) {
        const float v = to_float(x[c]) * (r * a.gain[c]);

        y[c] = from_float<TY>(a.silu ? silu(v) : v);
    }
}

extern "C" void wan_cuda_l2_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                                 const WanTensor *gain, WanAct act)
{
    L2Norm a = {};

    a.y = y->data, a.y_pitch = y->pitch;
    a.x = x->data, a.x_pitch = x->pitch;
    a.rows = wan_rows(x);
    a.C = (int)wan_cols(x);
    a.gain = wan_vector(d, gain);
    a.silu = act == WAN_ACT_SILU;
    a.lanes = 32;
    if (!a.rows || d->error)
        return;
    const bool fast = wan_vectors(x, 8) && wan_vectors(y, 8) &&
                      wan_vectors(a.gain) && a.C <= 8 * L2_VECS * 32;
    while (fast && a.lanes > 1 && a.C <= 8 * L2_VECS * a.lanes / 2)
        a.lanes /= 2;

    with_any_type(d, "l2_norm", x, [&](auto tx) {
        with_any_type(d, "l2_norm", y, [&](auto ty) {
            typedef decltype(tx) TX;
            typedef decltype(ty) TY;

            WAN_LAUNCH((fast ? l2_norm_kernel<TX, TY>
                             : l2_norm_any_kernel<TX, TY>),
                       wan_div_up(a.rows, L2_THREADS / a.lanes), L2_THREADS, 0,
                       wan_cuda_stream(d), a);
        });
    });
    wan_cuda_launched(d, "l2_norm");
}

/* --------------------------------------------------- norms of the rows */

#define ROW_THREADS 256

/* One block per row. a, b: [L, C], pitches in elements; b or NULL; y: [L]. */
static __global__ void __launch_bounds__(ROW_THREADS)
row_norm_kernel(float *y, const float *a, int64_t a_pitch, const float *b,
                int64_t b_pitch, int C, int p)
{
    float sum = 0;
    WAN_SHARED(float, part, 32);

    a += blockIdx.x * a_pitch;
    b += b ? blockIdx.x * b_pitch : 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        const float u = a[c] - (b ? b[c] : 0);

        sum += p == 1 ? fabsf(u) : u * u;
    }
    sum = block_sum(sum, part);
    if (!threadIdx.x)
        y[blockIdx.x] = p == 1 ? sum : sqrtf(sum);
}

extern "C" void wan_cuda_row_norm(WanDev *d, WanTensor *y, const WanTensor *a,
                                  const WanTensor *b, int p)
{
    const int64_t L = wan_rows(a);
    const int C = (int)wan_cols(a);

    if (!L || d->error)
        return;
    WAN_LAUNCH(row_norm_kernel, L, wan_block(C, ROW_THREADS), 0,
               wan_cuda_stream(d), (float *)y->data, (const float *)a->data,
               a->pitch, b ? (const float *)b->data : NULL,
               b ? b->pitch : 0, C, p);
    wan_cuda_launched(d, "row_norm");
}
