/*
 * Attention in f32 for any head size, with every option of the op.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * For what is small or has an option the large kernels lack: the text
 * encoder's bias, the image encoder's head size, F32 activations. One block
 * per head and tile of queries; keys pass by in tiles of 32, a key to a lane,
 * with a running maximum and sum. A block reads the queries it replaces, so y
 * may be q.
 */

#include "kernel.h"

#define WARPS 4             // of a block
#define KEYS 32             // of a tile: one to a lane
#define CHUNK 64            // columns of k or v that are in shared memory
#define PITCH (CHUNK + 1)   // so that lanes meet different banks

struct Attention {
    void *y;
    const void *q, *k, *v;
    int64_t y_pitch, q_pitch, k_pitch, v_pitch;
    const float *rel_bias;  // [32, heads] or NULL
    int Lq, Lk, heads, D;   // D: the head size
    float scale, tail;      // tail: added to the last key's score
    int add;
};

static __device__ inline int t5_bucket(int delta)
{
    const int a = delta < 0 ? -delta : delta;
    const int bucket = a < 8 ? a : 8 + (a >= 12) + (a >= 16) + (a >= 23) +
                       (a >= 32) + (a >= 46) + (a >= 64) + (a >= 91);

    return bucket + (delta > 0 ? 16 : 0);
}

/* tile[j][c] = x[from + j, column + c], zero past the last key or column. */
template<typename T>
static __device__ inline void load_tile(float *tile, const T *x, int64_t pitch,
                                        int rows, int columns)
{
    for (int i = threadIdx.x; i < KEYS * CHUNK; i += blockDim.x) {
        const int j = i / CHUNK, c = i % CHUNK;

        tile[j * PITCH + c] = j < rows && c < columns
                            ? to_float(x[j * pitch + c]) : 0;
    }
}

/* Shared: q and out [4 Q, D], the tile, p [4 Q, 32]. Warp w has queries
 * w * Q to w * Q + Q - 1 of the tile; q is scaled. */
template<typename TX, typename TY, int Q>
static __global__ void __launch_bounds__(WARPS * 32)
attention_small_kernel(Attention a)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.y, q0 = blockIdx.x * WARPS * Q;
    const int64_t column = (int64_t)head * a.D;
    const TX *const k = (const TX *)a.k + column;
    const TX *const v = (const TX *)a.v + column;
    WAN_DYNAMIC_SHARED(float, shared);
    float *const q = shared, *const out = q + WARPS * Q * a.D;
    float *const tile = out + WARPS * Q * a.D;
    float *const p = tile + KEYS * PITCH;
    float max[Q], sum[Q];

    for (int i = threadIdx.x; i < WARPS * Q * a.D; i += blockDim.x) {
        const int row = q0 + i / a.D;

        q[i] = row < a.Lq ? to_float(((const TX *)a.q)[row * a.q_pitch +
                                                       column + i % a.D]) : 0;
        out[i] = 0;
    }
    for (int n = 0; n < Q; n++) {
        max[n] = -1e30f;            // finite: no NaN out of differences
        sum[n] = 0;
    }

    for (int j0 = 0; j0 < a.Lk; j0 += KEYS) {
        const int keys = min(KEYS, a.Lk - j0), j = j0 + lane;
        float s[Q], keep[Q];

        for (int n = 0; n < Q; n++)
            s[n] = 0;
        for (int c0 = 0; c0 < a.D; c0 += CHUNK) {
            const int columns = min(CHUNK, a.D - c0);

            __syncthreads();        // the tile is free; q is there
            load_tile(tile, k + j0 * a.k_pitch + c0, a.k_pitch, keys, columns);
            __syncthreads();
            for (int c = 0; c < columns; c++)
                for (int n = 0; n < Q; n++)
                    s[n] += q[(warp * Q + n) * a.D + c0 + c] *
                            tile[lane * PITCH + c];
        }

        for (int n = 0; n < Q; n++) {
            const int i = q0 + warp * Q + n;

            s[n] *= a.scale;
            if (a.rel_bias && lane < keys)
                s[n] += a.rel_bias[t5_bucket(j - i) * a.heads + head];
            if (j == a.Lk - 1)
                s[n] += a.tail;
            const float top = fmaxf(max[n], warp_max(lane < keys ? s[n]
                                                                 : -1e30f));
            const float e = lane < keys ? expf(s[n] - top) : 0;
            keep[n] = expf(max[n] - top);
            sum[n] = sum[n] * keep[n] + warp_sum(e);
            max[n] = top;
            p[(warp * Q + n) * KEYS + lane] = e;
        }
        for (int c0 = 0; c0 < a.D; c0 += CHUNK) {
            const int columns = min(CHUNK, a.D - c0);

            __syncthreads();        // the tile is free; p is there
            load_tile(tile, v + j0 * a.v_pitch + c0, a.v_pitch, keys, columns);
            __syncthreads();
            for (int c = lane; c < columns; c += 32)
                for (int n = 0; n < Q; n++) {
                    float *const o = &out[(warp * Q + n) * a.D + c0 + c];
                    float t = *o * keep[n];

                    for (int i = 0; i < KEYS; i++)
                        t += p[(warp * Q + n) * KEYS + i] *
                             tile[i * PITCH + c];
                    *o = t;
                }
        }
    }

    for (int n = 0; n < Q; n++) {
        const int i = q0 + warp * Q + n;
        TY *const y = (TY *)a.y + i * a.y_pitch + column;

        for (int c = lane; c < a.D && i < a.Lq; c += 32) {
            const float t = out[(warp * Q + n) * a.D + c] / sum[n];

            y[c] = from_float<TY>(a.add ? to_float(y[c]) + t : t);
        }
    }
}

/* Bytes of shared memory with q queries a warp. */
static int64_t shared_bytes(int q, int64_t D)
{
    return (2 * WARPS * q * D + KEYS * PITCH + WARPS * q * KEYS) *
           (int64_t)sizeof(float);
}

/* q, k and v are of one type, y of any; head sizes up to 1256. */
extern "C" void wan_cuda_attention_small(WanDev *d, WanTensor *y,
                                         const WanTensor *q,
                                         const WanTensor *k,
                                         const WanTensor *v,
                                         const WanAttentionArgs *args)
{
    const int64_t limit = 48 << 10;     // without opt-in, on every card
    Attention a = {};

    a.y = y->data, a.y_pitch = y->pitch;
    a.q = q->data, a.q_pitch = q->pitch;
    a.k = k->data, a.k_pitch = k->pitch;
    a.v = v->data, a.v_pitch = v->pitch;
    a.rel_bias = wan_vector(d, args->rel_bias);
    a.Lq = (int)wan_rows(q), a.Lk = (int)wan_rows(k);
    a.heads = args->heads;
    a.D = (int)(wan_cols(q) / args->heads);
    a.scale = args->scale;
    a.tail = args->tail > 1 ? (float)log((double)args->tail) : 0;
    a.add = args->add;
    if (q->type != k->type || k->type != v->type ||
        shared_bytes(1, a.D) > limit)
        wan_dev_fail(d, WAN_ERR(EINVAL), "attention: heads of %d, q, k, v of "
                     "%s, %s, %s", a.D, wan_type_name(q->type),
                     wan_type_name(k->type), wan_type_name(v->type));
    if (!a.Lq || d->error)
        return;

    const int n = shared_bytes(4, a.D) <= limit ? 4
                : shared_bytes(2, a.D) <= limit ? 2 : 1;
    with_any_type(d, "attention", q, [&](auto tx) {
        with_any_type(d, "attention", y, [&](auto ty) {
            typedef decltype(tx) TX;
            typedef decltype(ty) TY;

            WAN_LAUNCH((n == 4 ? attention_small_kernel<TX, TY, 4> :
                        n == 2 ? attention_small_kernel<TX, TY, 2>
                               : attention_small_kernel<TX, TY, 1>),
                       dim3((unsigned)wan_div_up(a.Lq, WARPS * n),
                            (unsigned)a.heads),
                       WARPS * 32, shared_bytes(n, a.D), wan_cuda_stream(d),
                       a);
        });
    });
    wan_cuda_launched(d, "attention_small");
}
