/*
 * CUDA's execution model on the host, for tests of kernels without a card.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * kernel.h includes this where the compiler is not nvcc. Each thread of a
 * block is a fiber; barriers, warp votes and shuffles hand over to a
 * scheduler, which lets a warp go on when the lanes that the mask names have
 * come, and a block when all its threads have. So what a missing barrier
 * breaks depends on the order threads run in: emu_order has three, and
 * results must not differ.
 *
 * Found at once, with a line that names the kernel, and abort(): a barrier or
 * shuffle that not all reach, a shuffle from a lane that is not there, a
 * launch CUDA would refuse, a vector access at a wrong address, a write past
 * shared memory. Shared memory begins as NaN in every block. ASan and UBSan
 * see kernels as the plain code they are.
 */

#ifndef WAN_EMU_H
#define WAN_EMU_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>

#include "cuda_runtime_api.h"

extern "C" {
#include "tensor.h"     // the conversions between number types
}

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

/* ------------------------------------------------------------- running */

struct dim3 {
    unsigned x, y, z;
    dim3(int64_t x = 1, unsigned y = 1, unsigned z = 1)
        : x((unsigned)x), y(y), z(z), whole(x) {}
    int64_t whole;              // x before it was cut to 32 bits
};

/* Of the thread that runs. */
struct EmuIndex { unsigned x, y, z; };
extern EmuIndex threadIdx, blockIdx, blockDim, gridDim;

/* Order of blocks, warps and lanes between two meeting points. */
enum EmuOrder { EMU_FORWARD, EMU_REVERSE, EMU_RANDOM };
extern EmuOrder emu_order;

struct EmuStats { int64_t launches, blocks, threads, barriers, shuffles; };
extern EmuStats emu_stats;

void emu_launch(const char *kernel, dim3 grid, dim3 block,
                int64_t shared_bytes, const std::function<void()> &thread);
[[noreturn]] void emu_fatal(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));

template<typename... P, typename... A>
static inline void emu_run(const char *name, dim3 grid, dim3 block,
                           int64_t shared_bytes, void (*kernel)(P...), A... a)
{
    emu_launch(name, grid, block, shared_bytes, [=]() { kernel(a...); });
}

#define WAN_UNROLL

#define WAN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ((void)(stream), emu_run(#kernel, (grid), (block), (shared_bytes), \
                             (kernel), __VA_ARGS__))

/* Dynamic shared memory beyond 48 kB is asked for, launch by launch; every
 * card from sm_80 on has 99 kB. */
extern int64_t emu_dynamic_limit;
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
template<typename K>
static inline void cudaFuncSetAttribute(K, int, int64_t bytes)
{
    if (bytes > 99 << 10)
        emu_fatal("%d bytes of dynamic shared memory", (int)bytes);
    emu_dynamic_limit = bytes > 48 << 10 ? bytes : 48 << 10;
}

/* ------------------------------------------------------ shared memory */

/* The block's memory of that key; the first thread to ask makes it. */
void *emu_shared(const void *key, int64_t bytes);
void *emu_dynamic_shared(int64_t align);

#define WAN_SHARED(type, name, n) \
    static const char name##_key = 0; \
    type *const name = (type *)emu_shared(&name##_key, (n) * sizeof(type))
#define WAN_DYNAMIC_SHARED(type, name) \
    type *const name = (type *)emu_dynamic_shared(alignof(type))

#define WAN_CHECK_ALIGNED(p, bytes) \
    ((uintptr_t)(p) % (bytes) \
     ? emu_fatal("a vector of %d bytes at %p", (int)(bytes), \
                 (const void *)(p)) \
     : (void)0)

/* --------------------------------------------------- meeting points */

void emu_barrier();
/* What lane `from` gave in the same call; all lanes of the mask meet. */
uint64_t emu_shuffle(const char *what, uint32_t mask, uint64_t value,
                     unsigned from);
unsigned emu_lane();

static inline void __syncthreads() { emu_barrier(); }

static inline void __syncwarp(uint32_t mask = 0xffffffffu)
{
    emu_shuffle("__syncwarp", mask, 0, emu_lane());
}

template<typename T>
static inline T emu_shuffle_as(const char *what, uint32_t mask, T v,
                               unsigned from)
{
    uint64_t bits = 0;

    static_assert(sizeof(T) <= sizeof(bits), "at most 64 bits");
    memcpy(&bits, &v, sizeof(v));
    bits = emu_shuffle(what, mask, bits, from);
    memcpy(&v, &bits, sizeof(v));
    return v;
}

template<typename T>
static inline T __shfl_xor_sync(uint32_t mask, T v, int lanes)
{
    return emu_shuffle_as("__shfl_xor_sync", mask, v, emu_lane() ^ lanes);
}

template<typename T>
static inline T __shfl_sync(uint32_t mask, T v, int lane)
{
    return emu_shuffle_as("__shfl_sync", mask, v, lane % 32);
}

/* Blocks run one after another: plain operations. */
template<typename T> static inline T atomicMax(T *p, T v)
{
    const T old = *p;
    *p = old > v ? old : v;
    return old;
}

/* ------------------------------------------------------------- numbers */

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };

static inline float2 make_float2(float x, float y) { return { x, y }; }
static inline float4 make_float4(float x, float y, float z, float w)
{
    return { x, y, z, w };
}
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return { x, y }; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return { x, y, z, w };
}

static inline float __uint_as_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint32_t __float_as_uint(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline uint32_t __umulhi(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b >> 32);
}

static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline int __float2int_rn(float x) { return (int)lrintf(x); }
#define __sincosf emu_sincosf        // glibc has one of its own
static inline void emu_sincosf(float x, float *s, float *c)
{
    *s = sinf(x);
    *c = cosf(x);
}
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

struct bf16 {
    uint16_t bits;
    bf16() = default;
    explicit bf16(float f) : bits(wan_f32_to_bf16(f)) {}
    explicit operator float() const { return wan_bf16_to_f32(bits); }
};

struct f16 {
    uint16_t bits;
    f16() = default;
    explicit f16(float f) : bits(wan_f32_to_f16(f)) {}
    explicit operator float() const { return wan_f16_to_f32(bits); }
};

static inline uint32_t pack_bf16(float low, float high)
{
    return (uint32_t)bf16(high).bits << 16 | bf16(low).bits;
}

static inline uint32_t pack_f16(float low, float high)
{
    return (uint32_t)f16(high).bits << 16 | f16(low).bits;
}

static inline float2 unpack_f16(uint32_t w)
{
    return { wan_f16_to_f32((uint16_t)w), wan_f16_to_f32(w >> 16) };
}

static inline float from_e4m3(uint8_t v) { return wan_e4m3_to_f32(v); }
static inline float from_e5m2(uint8_t v) { return wan_e5m2_to_f32(v); }

/* Saturating, to nearest even, as the device converts. */
uint8_t to_e4m3(float x);

#endif /* WAN_EMU_H */
