/*
 * The rotary embedding, with and without the norm before it.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include "kernel.h"

/* x: [L, C] in place. */
struct Rope {
    void *x;
    int64_t pitch;
    const float *gain;          // [C]
    float eps;
    int C;
    int half;                   // pairs of a head
    int h, w;                   // of the grid, w fastest
    int first;                  // token of row 0
    int pairs[3];
    const float *table[3];      // [position, pairs] of cos, sin
};

#define ROPE_VECS 2             // vectors of 8 elements a thread keeps
#define ROPE_THREADS 1024

/* turn[p] = cos, sin of pair p of every head, for the block's token. */
static __device__ inline void rope_turns(const Rope &a, float2 *turn)
{
    const int i = a.first + blockIdx.x;
    const int at[3] = { i / a.w / a.h, i / a.w % a.h, i % a.w };

    for (int p = threadIdx.x; p < a.half; p += blockDim.x) {
        const int axis = p < a.pairs[0] ? 0
                       : p < a.pairs[0] + a.pairs[1] ? 1 : 2;
        const int q = p - (axis > 0 ? a.pairs[0] : 0)
                        - (axis > 1 ? a.pairs[1] : 0);
        const float *const t = (axis == 0 ? a.table[0] : axis == 1
                                ? a.table[1] : a.table[2]) + 2 *
            ((int64_t)(axis == 0 ? at[0] : axis == 1 ? at[1] : at[2]) *
             (axis == 0 ? a.pairs[0] : axis == 1 ? a.pairs[1] : a.pairs[2]) +
             q);

        turn[p] = make_float2(t[0], t[1]);
    }
    __syncthreads();
}

/* (x, y) turned. */
static __device__ inline float2 rotate(float x, float y, float2 turn)
{
    return make_float2(x * turn.x - y * turn.y, x * turn.y + y * turn.x);
}

/* One block per token, the row in registers, rounded once at the end. */
template<typename T, bool NORM>
static __global__ void __launch_bounds__(ROPE_THREADS) rope_kernel(Rope a)
{
    T *const x = (T *)a.x + blockIdx.x * a.pitch;
    Vec<8> v[ROPE_VECS];
    float r = 1;
    WAN_SHARED(float, part, 32);
    WAN_DYNAMIC_SHARED(float2, turn);                       // [half]

    WAN_UNROLL
    for (int i = 0; i < ROPE_VECS; i++)
        if (vector_column(i, 8) < a.C)
            v[i] = load<8>(x + vector_column(i, 8));
    rope_turns(a, turn);
    if (NORM) {
        float squares = 0;

    WAN_UNROLL
        for (int i = 0; i < ROPE_VECS; i++)
            if (vector_column(i, 8) < a.C)
                for (int k = 0; k < 8; k++)
                    squares += v[i].v[k] * v[i].v[k];
        r = 1 / sqrtf(block_sum(squares, part) / a.C + a.eps);
    }
    WAN_UNROLL
    for (int i = 0; i < ROPE_VECS; i++) {
        const int c = vector_column(i, 8);
        int p = c / 2 % a.half;

        if (c >= a.C)
            continue;
        if (NORM) {
            const Vec<8> g = load<8>(a.gain + c);

            for (int k = 0; k < 8; k++)
                v[i].v[k] *= r * g.v[k];
        }
        for (int k = 0; k < 8; k += 2) {
            const float2 z = rotate(v[i].v[k], v[i].v[k + 1], turn[p]);

            v[i].v[k] = z.x;
            v[i].v[k + 1] = z.y;
            p = p + 1 < a.half ? p + 1 : 0;
        }
        store<8>(x + c, v[i]);
    }
}

/* Any C and alignment: pair by pair. */
template<typename T, bool NORM>
static __global__ void rope_any_kernel(Rope a)
{
    T *const x = (T *)a.x + blockIdx.x * a.pitch;
    float r = 1;
    WAN_SHARED(float, part, 32);
    WAN_DYNAMIC_SHARED(float2, turn);                       // [half]

    rope_turns(a, turn);
    if (NORM) {
        float squares = 0;

        for (int c = threadIdx.x; c < a.C; c += blockDim.x)
            squares += to_float(x[c]) * to_float(x[c]);
        /* its barrier, or the warp's shuffles, end the reading of x */
        r = 1 / sqrtf(block_sum(squares, part) / a.C + a.eps);
    }
    for (int p = threadIdx.x; p < a.C / 2; p += blockDim.x) {
        const float re = to_float(x[2 * p]), im = to_float(x[2 * p + 1]);
        const float2 z = rotate(re * (NORM ? r * a.gain[2 * p] : 1),
                                im * (NORM ? r * a.gain[2 * p + 1] : 1),
                                turn[p % a.half]);

        x[2 * p] = from_float<T>(z.x);
        x[2 * p + 1] = from_float<T>(z.y);
    }
}

template<bool NORM>
static void rope(WanDev *d, const char *op, WanTensor *x,
                 const WanTensor *gain, float eps, const WanRope *r)
{
    Rope a = {};

    a.x = x->data;
    a.pitch = x->pitch;
    a.gain = wan_vector(d, gain);
    a.eps = eps;
    a.C = (int)wan_cols(x);
    a.h = r->grid[1];
    a.w = r->grid[2];
    a.first = (int)r->first;
    for (int i = 0; i < 3; i++) {
        a.pairs[i] = r->pairs[i];
        a.half += r->pairs[i];
        a.table[i] = wan_vector(d, &r->table[i]);
    }
    if (!wan_rows(x) || d->error)
        return;
    const bool fast = wan_vectors(x, 8) && wan_vectors(a.gain) &&
                      a.C <= 8 * ROPE_VECS * ROPE_THREADS;

    with_type(d, op, x, [&](auto t) {
        typedef decltype(t) T;

        WAN_LAUNCH((fast ? rope_kernel<T, NORM> : rope_any_kernel<T, NORM>),
                   wan_rows(x),
                   fast ? wan_block(wan_div_up(a.C, 8 * ROPE_VECS),
                                    ROPE_THREADS)
                        : wan_block(a.C / 2, 256),
                   a.half * sizeof(float2), wan_cuda_stream(d), a);
    });
    wan_cuda_launched(d, op);
}

extern "C" void wan_cuda_rope(WanDev *d, WanTensor *x, const WanRope *r)
{
    rope<false>(d, "rope", x, NULL, 0, r);
}

extern "C" void wan_cuda_rms_norm_rope(WanDev *d, WanTensor *x,
                                       const WanTensor *gain, float eps,
                                       const WanRope *r)
{
    rope<true>(d, "rms_norm_rope", x, gain, eps, r);
}
