/*
 * Beside cuBLASLt's products: a plain one for shapes it declines, and what
 * its epilogues can't do.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include "any.h"
#include "linear_own.h"

/* -------------------------------------------------------- plain product */

#define TILE 16

/* y = (x W^T) alpha, in F32; a block makes 16 x 16 results. */
static __global__ void __launch_bounds__(TILE * TILE)
product_kernel(WanOwnProduct a)
{
    WAN_SHARED(float, xs, TILE * (TILE + 1));
    WAN_SHARED(float, ws, TILE * (TILE + 1));
    const int col = threadIdx.x % TILE, row = threadIdx.x / TILE;
    const int64_t m0 = (int64_t)blockIdx.x * TILE;  // there may be many
    const int64_t n0 = (int64_t)blockIdx.y * TILE;
    float sum = 0;

    for (int64_t k = 0; k < a.K; k += TILE) {
        const bool in = k + col < a.K;

        xs[row * (TILE + 1) + col] = in && m0 + row < a.M ?
            load_any(a.x, a.x_type, (m0 + row) * a.x_pitch + k + col) : 0;
        ws[row * (TILE + 1) + col] = in && n0 + row < a.N ?
            load_any(a.w, a.w_type, (n0 + row) * a.K + k + col) : 0;
        __syncthreads();
        for (int i = 0; i < TILE; i++)
            sum += xs[row * (TILE + 1) + i] * ws[col * (TILE + 1) + i];
        __syncthreads();
    }
    if (m0 + row < a.M && n0 + col < a.N) {
        const int64_t at = (m0 + row) * a.y_pitch + n0 + col;

        sum *= a.alpha;
        if (a.add)
            sum += load_any(a.y, a.y_type, at);
        store_any(a.y, a.y_type, at, sum);
    }
}

extern "C" void wan_product(const WanOwnProduct *a, cudaStream_t stream)
{
    const dim3 grid((unsigned)wan_div_up(a->M, TILE),
                    (unsigned)wan_div_up(a->N, TILE));

    WAN_LAUNCH(product_kernel, grid, TILE * TILE, 0, stream, *a);
}

/* --------------------------------------------------------------- finish */

#define FINISH_THREADS 256

static __device__ inline float activate(WanAct act, float v)
{
    switch (act) {
    case WAN_ACT_SILU:
        return v / (1 + expf(-v));
    case WAN_ACT_GELU_TANH:
        return v / (1 + expf(-2 * 0.79788456f * (v + 0.044715f * v * v * v)));
    case WAN_ACT_GELU_ERF:
        return 0.5f * v * erfcf(-0.70710678f * v);
    case WAN_ACT_RELU:
        return v < 0 ? 0 : v;
    case WAN_ACT_TANH3:
        return 3 * tanhf(v / 3);
    default:
        return v;
    }
}

/* Column c of a result whose sum is v: act(v scale + bias) gate. */
static __device__ inline float finished(const WanOwnFinish &a, int c, float v)
{
    if (a.scale)
        v *= a.scale[c];
    if (a.bias)
        v += a.bias[c];
    v = activate(a.act, v);
    return a.gate ? v * a.gate[c] : v;
}

/* A block takes FINISH_THREADS * N columns of one row. */
template<int N, typename TY, typename TX>
static __global__ void __launch_bounds__(FINISH_THREADS)
finish_kernel(WanOwnFinish a)
{
    const int64_t row = blockIdx.x / a.per_row;
    const int c = (int)((blockIdx.x % a.per_row) * blockDim.x + threadIdx.x) *
                  N;
    TY *y = (TY *)a.y + row * a.y_pitch + c;
    const TX *x = (const TX *)a.x + row * a.x_pitch + c;

    if (c >= a.cols)
        return;
    if constexpr (N == 1) {
        const float v = finished(a, c, to_float(*x));

        *y = from_float<TY>(a.add ? to_float(*y) + v : v);
    } else {
        Vec<N> v = load<N>(x), old;

        if (a.add)
            old = load<N>((const TY *)y);
        for (int i = 0; i < N; i++) {
            v.v[i] = finished(a, c + i, v.v[i]);
            if (a.add)
                v.v[i] += old.v[i];
        }
        store<N>(y, v);
    }
}

extern "C" void wan_finish(WanDev *d, WanTensor *y, const WanTensor *x,
                           WanOwnFinish a)
{
    const bool vectors = wan_vectors(y, 4) && wan_vectors(x, 4);

    a.y = y->data;
    a.x = x->data;
    a.y_pitch = y->pitch;
    a.x_pitch = x->pitch;
    a.cols = (int)wan_cols(y);
    const int threads = wan_block(wan_div_up(a.cols, vectors ? 4 : 1),
                                  FINISH_THREADS);

    a.per_row = (int)wan_div_up(a.cols, (int64_t)threads * (vectors ? 4 : 1));
    if (!wan_rows(y))
        return;
    with_type(d, "linear", y, [&](auto ty) {
        with_type(d, "linear", x, [&](auto tx) {
            typedef decltype(ty) TY;
            typedef decltype(tx) TX;

            WAN_LAUNCH((vectors ? finish_kernel<4, TY, TX>
                                : finish_kernel<1, TY, TX>),
                       wan_rows(y) * a.per_row, threads, 0,
                       wan_cuda_stream(d), a);
        });
    });
    wan_cuda_launched(d, "linear");
}
