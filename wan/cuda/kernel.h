/*
 * What the kernels share: launching, number types, vectors, reductions.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * C++17. Kernels compile under nvcc and, for tests/emu, as plain C++ against
 * emu.h, which plays the few words of CUDA used here: keep to them.
 *
 * Kernels compute in f32. A row is read in vectors of 4 or 8 elements where
 * its address, pitch and length allow (wan_vectors()); each kernel has a path
 * for when they don't. Offsets of rows are 64 bit, inside a row 32 bit.
 */

#ifndef WAN_CUDA_KERNEL_H
#define WAN_CUDA_KERNEL_H

#include <math.h>
#include <stdint.h>

#include <type_traits>

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

typedef __nv_bfloat16 bf16;
typedef __half f16;

/* kernel may be a pointer to one: picked by type, see with_type(). */
#define WAN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ((kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__))

#define WAN_UNROLL _Pragma("unroll")

/* Shared memory of a block: a number known here, or the launch's. */
#define WAN_SHARED(type, name, n) __shared__ type name[n]
#define WAN_DYNAMIC_SHARED(type, name) \
    extern __shared__ __align__(16) unsigned char wan_dynamic_shared[]; \
    type *const name = reinterpret_cast<type *>(wan_dynamic_shared)

#define WAN_CHECK_ALIGNED(p, bytes) ((void)0)

/* Pairs of 16 bit numbers in a word, the first in the low half. */
static __device__ inline uint32_t pack_bf16(float low, float high)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t &>(v);
}

static __device__ inline uint32_t pack_f16(float low, float high)
{
    const __half2 v = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t &>(v);
}

static __device__ inline float2 unpack_f16(uint32_t w)
{
    return __half22float2(reinterpret_cast<const __half2 &>(w));
}

/* e4m3, saturating at 448, to nearest even; and e4m3, e5m2 to f32. */
static __device__ inline uint8_t to_e4m3(float x)
{
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

static __device__ inline float from_e4m3(uint8_t v)
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(v, __NV_E4M3)));
}

static __device__ inline float from_e5m2(uint8_t v)
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(v, __NV_E5M2)));
}

#else
#include "emu.h"
#endif

/* One element of weights in fp8: storage only. */
struct e4m3 { uint8_t bits; };
struct e5m2 { uint8_t bits; };

/* ------------------------------------------------------------- numbers */

static __device__ inline float to_float(float x) { return x; }
static __device__ inline float to_float(bf16 x)  { return float(x); }
static __device__ inline float to_float(f16 x)   { return float(x); }
static __device__ inline float to_float(e4m3 x)  { return from_e4m3(x.bits); }
static __device__ inline float to_float(e5m2 x)  { return from_e5m2(x.bits); }

/* To nearest even. f16 overflows to infinity, where the finite check sees
 * it. */
template<typename T> static __device__ inline T from_float(float x)
{
    return T(x);
}

static __device__ inline float2 unpack_bf16(uint32_t w)
{
    return make_float2(__uint_as_float(w << 16),
                       __uint_as_float(w & 0xffff0000u));
}

template<typename T> static __device__ inline float2 unpack(uint32_t w);
template<> __device__ inline float2 unpack<bf16>(uint32_t w)
{
    return unpack_bf16(w);
}
template<> __device__ inline float2 unpack<f16>(uint32_t w)
{
    return unpack_f16(w);
}

template<typename T> static __device__ inline uint32_t pack(float a, float b);
template<> __device__ inline uint32_t pack<bf16>(float a, float b)
{
    return pack_bf16(a, b);
}
template<> __device__ inline uint32_t pack<f16>(float a, float b)
{
    return pack_f16(a, b);
}

/* ------------------------------------------------------------- vectors */

/* N elements as f32, in registers. */
template<int N> struct Vec { float v[N]; };

/* N = 4 or 8 elements from an address that is a multiple of their size, or
 * of 16 bytes where that is less: one or two loads. */
template<int N> static __device__ inline Vec<N> load(const float *p)
{
    Vec<N> r;

    WAN_CHECK_ALIGNED(p, 16);
    for (int i = 0; i < N; i += 4) {
        const float4 f = *reinterpret_cast<const float4 *>(p + i);

        r.v[i] = f.x, r.v[i + 1] = f.y, r.v[i + 2] = f.z, r.v[i + 3] = f.w;
    }
    return r;
}

template<int N, typename T> static __device__ inline Vec<N> load(const T *p)
{
    Vec<N> r;
    uint32_t w[N / 2];

    static_assert(sizeof(T) == 2 && (N == 4 || N == 8), "16 bit, 4 or 8");
    WAN_CHECK_ALIGNED(p, 2 * N);
    if (N == 8) {
        const uint4 u = *reinterpret_cast<const uint4 *>(p);

        w[0] = u.x, w[1] = u.y, w[N / 2 - 2] = u.z, w[N / 2 - 1] = u.w;
    } else {
        const uint2 u = *reinterpret_cast<const uint2 *>(p);

        w[0] = u.x, w[1] = u.y;
    }
    for (int i = 0; i < N / 2; i++) {
        const float2 f = unpack<T>(w[i]);

        r.v[2 * i] = f.x, r.v[2 * i + 1] = f.y;
    }
    return r;
}

template<int N> static __device__ inline void store(float *p, const Vec<N> &r)
{
    WAN_CHECK_ALIGNED(p, 16);
    for (int i = 0; i < N; i += 4)
        *reinterpret_cast<float4 *>(p + i) =
            make_float4(r.v[i], r.v[i + 1], r.v[i + 2], r.v[i + 3]);
}

template<int N, typename T>
static __device__ inline void store(T *p, const Vec<N> &r)
{
    uint32_t w[N / 2];

    static_assert(sizeof(T) == 2 && (N == 4 || N == 8), "16 bit, 4 or 8");
    WAN_CHECK_ALIGNED(p, 2 * N);
    for (int i = 0; i < N / 2; i++)
        w[i] = pack<T>(r.v[2 * i], r.v[2 * i + 1]);
    if (N == 8)
        *reinterpret_cast<uint4 *>(p) =
            make_uint4(w[0], w[1], w[N / 2 - 2], w[N / 2 - 1]);
    else
        *reinterpret_cast<uint2 *>(p) = make_uint2(w[0], w[1]);
}

/* First column of this thread's i-th vector of n elements, in a row that the
 * block shares so that neighbours read neighbours. */
static __device__ inline int vector_column(int i, int n)
{
    return n * (int)(threadIdx.x + i * blockDim.x);
}

/* ---------------------------------------------------------- reductions */

#define FULL_WARP 0xffffffffu

/* Over groups of n lanes, n a power of two; every lane gets the result. All
 * 32 lanes of the warp must call. */
static __device__ inline float lanes_sum(float v, int n)
{
    for (int lane = n / 2; lane; lane /= 2)
        v += __shfl_xor_sync(FULL_WARP, v, lane);
    return v;
}

static __device__ inline float warp_sum(float v)
{
    return lanes_sum(v, 32);
}

static __device__ inline float warp_max(float v)
{
    for (int lane = 16; lane; lane /= 2)
        v = fmaxf(v, __shfl_xor_sync(FULL_WARP, v, lane));
    return v;
}

/* Over the block, a multiple of 32 threads in x; every thread calls and gets
 * the same bits. part: 32 floats of shared memory that no earlier reduction
 * of this kernel has used since a barrier: so one barrier is enough. */
static __device__ inline float block_sum(float v, float *part)
{
    v = warp_sum(v);
    if (blockDim.x <= 32)
        return v;
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++)
        v += part[i];
    return v;
}

/* Two sums at one barrier; part: 64 floats. */
static __device__ inline float2 block_sum2(float a, float b, float *part)
{
    a = warp_sum(a);
    b = warp_sum(b);
    if (blockDim.x <= 32)
        return make_float2(a, b);
    if (threadIdx.x % 32 == 0) {
        part[threadIdx.x / 32] = a;
        part[32 + threadIdx.x / 32] = b;
    }
    __syncthreads();
    a = b = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++) {
        a += part[i];
        b += part[32 + i];
    }
    return make_float2(a, b);
}

static __device__ inline float block_max(float v, float *part)
{
    v = warp_max(v);
    if (blockDim.x <= 32)
        return v;
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0];
    for (unsigned i = 1; i < blockDim.x / 32; i++)
        v = fmaxf(v, part[i]);
    return v;
}

/* ------------------------------------------------------------ launching */

#include "cuda.h"

/* f(T()) with the C++ type of a tensor: what launchers pick a kernel's
 * instance with. The DiT's and text encoder's are F32 and BF16, the VAE's
 * F16 too. */
template<typename F>
static inline void with_type(WanDev *d, const char *op, const WanTensor *t,
                             F f)
{
    if (t->type == WAN_F32)
        f(float());
    else if (t->type == WAN_BF16)
        f(bf16());
    else
        wan_dev_fail(d, WAN_ERR(EINVAL), "%s: %s is not F32 or BF16", op,
                     wan_type_name(t->type));
}

template<typename F>
static inline void with_any_type(WanDev *d, const char *op, const WanTensor *t,
                                 F f)
{
    if (t->type == WAN_F16)
        f(f16());
    else
        with_type(d, op, t, f);
}

/* Whether each row of t may be read n elements at a time. */
static inline bool wan_vectors(const WanTensor *t, int n)
{
    const int64_t size = wan_type_size(t->type);
    const int64_t align = n * size < 16 ? n * size : 16;

    return wan_cols(t) % n == 0 && (uintptr_t)t->data % align == 0 &&
           t->pitch * size % align == 0;
}

/* And an f32 vector; an absent one may. */
static inline bool wan_vectors(const float *v)
{
    return (uintptr_t)v % 16 == 0;
}

/* An optional f32 vector where kernels can read it; NULL: absent. */
static inline const float *wan_vector(WanDev *d, const WanTensor *t)
{
    if (!t || !t->nb_dims)
        return NULL;
    return (const float *)(wan_cuda_is_device(d, t->data)
                           ? t->data : wan_cuda_weight(d, t));
}

static inline int64_t wan_div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Threads of a block, whole warps, for n pieces of work; at most max. */
static inline int wan_block(int64_t n, int max)
{
    return n >= max ? max : n < 32 ? 32 : (int)wan_div_up(n, 32) * 32;
}

#endif /* WAN_CUDA_KERNEL_H */
