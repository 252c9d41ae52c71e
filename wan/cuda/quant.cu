/*
 * Number types: activations to fp8, weights from the file's type and order.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include "kernel.h"

#define THREADS 256
#define E4M3_MAX 448.0f

/* ------------------------------------------------ activations to fp8 */

static __device__ inline float amax_scale(float amax)
{
    return amax > 0 ? amax / E4M3_MAX : 1;
}

/* N elements of a row: one, or as a vector. */
template<int N, typename T>
static __device__ inline Vec<N> load_some(const T *p)
{
    if constexpr (N == 1)
        return Vec<1>{ { to_float(*p) } };
    else
        return load<N>(p);
}

/* v r as e4m3. */
static __device__ inline void store_e4m3(uint8_t *p, const Vec<1> &v, float r)
{
    *p = to_e4m3(v.v[0] * r);
}

static __device__ inline void store_e4m3(uint8_t *p, const Vec<8> &v, float r)
{
    uint32_t w[2] = { 0, 0 };

    for (int k = 0; k < 8; k++)
        w[k / 4] |= (uint32_t)to_e4m3(v.v[k] * r) << 8 * (k % 4);
    WAN_CHECK_ALIGNED(p, 8);
    *reinterpret_cast<uint2 *>(p) = make_uint2(w[0], w[1]);
}

/* A row per block. The bits of a non-negative float order as integers do. */
template<int N, typename T>
static __global__ void amax_kernel(uint32_t *amax, const T *x, int64_t pitch,
                                   int C)
{
    float m = 0;
    WAN_SHARED(float, part, 32);

    x += blockIdx.x * pitch;
    for (int c = threadIdx.x * N; c < C; c += blockDim.x * N) {
        const Vec<N> v = load_some<N>(x + c);

        for (int k = 0; k < N; k++)
            m = fmaxf(m, fabsf(v.v[k]));
    }
    m = block_max(m, part);
    if (threadIdx.x == 0)
        atomicMax(amax, __float_as_uint(m));
}

static __global__ void amax_to_scale_kernel(float *scale)
{
    *scale = amax_scale(*scale);
}

/* One scale for all, made before. A row per block. */
template<int N, typename T>
static __global__ void quant_kernel(uint8_t *y, const T *x, int64_t pitch,
                                    const float *scale, int C)
{
    const float r = 1 / *scale;

    x += blockIdx.x * pitch;
    y += (int64_t)blockIdx.x * C;
    for (int c = threadIdx.x * N; c < C; c += blockDim.x * N)
        store_e4m3(y + c, load_some<N>(x + c), r);
}

/* y = e4m3(x / scale[0]), scale = max|x| / 448, 1 when x is 0. x: [M, K];
 * y: [M, K] F8_E4M3, dense; scale: one F32 on the device. */
extern "C" void wan_cuda_quant_e4m3(WanDev *d, WanTensor *y, float *scale,
                                    const WanTensor *x)
{
    const int64_t M = wan_rows(x);
    const int K = (int)wan_cols(x);
    const bool vectors = wan_vectors(x, 8) && (uintptr_t)y->data % 8 == 0;
    const int threads = wan_block(wan_div_up(K, vectors ? 8 : 1), THREADS);

    if (!M || d->error ||
        !wan_cuda_ok(d, cudaMemsetAsync(scale, 0, sizeof(*scale),
                                        wan_cuda_stream(d)), "quant_e4m3"))
        return;
    with_type(d, "quant_e4m3", x, [&](auto t) {
        typedef decltype(t) T;

        WAN_LAUNCH((vectors ? amax_kernel<8, T> : amax_kernel<1, T>), M,
                   threads, 0, wan_cuda_stream(d), (uint32_t *)scale,
                   (const T *)x->data, x->pitch, K);
        WAN_LAUNCH(amax_to_scale_kernel, 1, 1, 0, wan_cuda_stream(d), scale);
        WAN_LAUNCH((vectors ? quant_kernel<8, T> : quant_kernel<1, T>), M,
                   threads, 0, wan_cuda_stream(d), (uint8_t *)y->data,
                   (const T *)x->data, x->pitch, (const float *)scale, K);
    });
    wan_cuda_launched(d, "quant_e4m3");
}

#define ROW_VECS 2          // vectors of 8 elements a thread keeps

/* The row stays in registers between its maximum and the quotients. */
template<typename T>
static __global__ void __launch_bounds__(1024)
quant_rows_kernel(uint8_t *y, const T *x, int64_t pitch, float *scale, int C)
{
    Vec<8> v[ROW_VECS];
    float m = 0;
    WAN_SHARED(float, part, 32);

    x += blockIdx.x * pitch;
    y += (int64_t)blockIdx.x * C;
    WAN_UNROLL
    for (int i = 0; i < ROW_VECS; i++) {
        const int c = vector_column(i, 8);

        if (c < C) {
            v[i] = load<8>(x + c);
            for (int k = 0; k < 8; k++)
                m = fmaxf(m, fabsf(v[i].v[k]));
        }
    }
    const float s = amax_scale(block_max(m, part)), r = 1 / s;
    WAN_UNROLL
    for (int i = 0; i < ROW_VECS; i++) {
        const int c = vector_column(i, 8);

        if (c < C)
            store_e4m3(y + c, v[i], r);
    }
    if (threadIdx.x == 0)
        scale[blockIdx.x] = s;
}

/* The same with a scale for each row: scale: [M] F32. K is a multiple of 16
 * up to 16384, as fp8 products ask anyway; x's rows are 16 byte aligned. */
extern "C" void wan_cuda_quant_rows_e4m3(WanDev *d, WanTensor *y, float *scale,
                                         const WanTensor *x)
{
    const int64_t M = wan_rows(x);
    const int K = (int)wan_cols(x);

    if (!M || d->error)
        return;
    if (!wan_vectors(x, 8) || K > 1024 * 8 * ROW_VECS ||
        (uintptr_t)y->data % 8) {
        wan_dev_fail(d, WAN_ERR(EINVAL), "quant_rows_e4m3: rows of %d", K);
        return;
    }
    with_type(d, "quant_rows_e4m3", x, [&](auto t) {
        typedef decltype(t) T;

        WAN_LAUNCH(quant_rows_kernel<T>, M,
                   wan_block(wan_div_up(K, 8 * ROW_VECS), 1024), 0,
                   wan_cuda_stream(d), (uint8_t *)y->data, (const T *)x->data,
                   x->pitch, scale, K);
    });
    wan_cuda_launched(d, "quant_rows_e4m3");
}

/* -------------------------------------------------------------- weights */

/* y[o, p, i] = x[o, i, p] * scale: [O, I, P] to [O, P, I]; P = 1 is a plain
 * conversion of O * I numbers. Writes are in order; reads of one thread block
 * stay in one o. y may not be x. */
template<typename TY, typename TX>
static __global__ void convert_kernel(TY *y, const TX *x, int64_t n, int I,
                                      int P, float scale)
{
    for (int64_t u = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; u < n;
         u += (int64_t)gridDim.x * blockDim.x) {
        int64_t from = u;

        if (P > 1) {
            const int64_t op = u / I;

            from = (op / P * I + u % I) * P + op % P;
        }
        y[u] = from_float<TY>(to_float(x[from]) * scale);
    }
}

/* y = x, n vectors of 8: a matrix that is widened for each product with it. */
static __global__ void widen_kernel(bf16 *y, const uint8_t *x, int64_t n)
{
    for (int64_t u = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; u < n;
         u += (int64_t)gridDim.x * blockDim.x) {
        WAN_CHECK_ALIGNED(x + 8 * u, 8);
        const uint2 w = *reinterpret_cast<const uint2 *>(x + 8 * u);
        Vec<8> v;

        for (int k = 0; k < 8; k++)
            v.v[k] = from_e4m3((uint8_t)((k < 4 ? w.x : w.y) >> 8 * (k % 4)));
        store<8>(y + 8 * u, v);
    }
}

/**
 * Convert weights on the device.
 *
 * y [O, P, I] of type ty (F32, BF16, F16), x [O, I, P] of type tx (these and
 * both fp8), P the taps of a convolution, 1 for a matrix; both dense device
 * memory that does not overlap. Launches on s.
 *
 * @return 0, or -1: a type that is not one of these
 */
extern "C" int wan_cuda_convert(cudaStream_t s, void *y, WanType ty,
                                const void *x, WanType tx, int64_t O,
                                int64_t I, int64_t P, float scale)
{
    const int64_t n = O * I * P;
    const int64_t blocks = wan_div_up(n, THREADS);
    int found = 0;
    const auto launch = [&](auto y_one, auto x_one) {
        typedef decltype(y_one) TY;
        typedef decltype(x_one) TX;

        found = 1;
        if (n)
            WAN_LAUNCH((convert_kernel<TY, TX>),
                       blocks < 65536 ? blocks : 65536, THREADS, 0, s,
                       (TY *)y, (const TX *)x, n, (int)I, (int)P, scale);
    };
    const auto from = [&](auto y_one) {
        switch (tx) {
        case WAN_F32:     launch(y_one, float()); break;
        case WAN_BF16:    launch(y_one, bf16()); break;
        case WAN_F16:     launch(y_one, f16()); break;
        case WAN_F8_E4M3: launch(y_one, e4m3()); break;
        case WAN_F8_E5M2: launch(y_one, e5m2()); break;
        default: break;
        }
    };

    if (ty == WAN_BF16 && tx == WAN_F8_E4M3 && P == 1 && scale == 1 &&
        n % 8 == 0 && (uintptr_t)y % 16 == 0 && (uintptr_t)x % 8 == 0) {
        const int64_t some = wan_div_up(n / 8, THREADS);

        if (n)
            WAN_LAUNCH(widen_kernel, some < 65536 ? some : 65536, THREADS, 0,
                       s, (bf16 *)y, (const uint8_t *)x, n / 8);
        return 0;
    }
    switch (ty) {
    case WAN_F32:  from(float()); break;
    case WAN_BF16: from(bf16()); break;
    case WAN_F16:  from(f16()); break;
    default: break;
    }
    return found ? 0 : -1;
}
