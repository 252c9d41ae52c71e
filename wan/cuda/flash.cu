/*
 * Attention in our own kernels, one on tensor cores and one in F32.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Both walk over tiles of keys and keep, for each query, the largest score so
 * far m, the sum l of e^(score - m) and O, the sum of e^(score - m) v: when a
 * larger score comes, l and O shrink by e^(old m - new m). At the end
 * y = O / l. Scores in the exponent's units are score * log2(e), so that
 * e^x is one exp2.
 */

#include "any.h"
#include "mma.h"
#include "own.h"

#define LOG2E 1.4426950408889634f

/* ------------------------------------------------------- tensor cores */

typedef struct FlashArgs {
    uint16_t *y;
    const uint16_t *q, *k, *v;
    int64_t y_pitch, q_pitch, k_pitch, v_pitch;
    int lq, lk;
    float scale;                // score = (q k) scale; here times log2(e)
    float tail;                 // added to q k of the last key
    int add;
} FlashArgs;

/* Rows of shared memory are one 16-byte chunk longer than a head: an odd
 * number of chunks, so the 8 rows that ldmatrix reads at once lie in
 * different banks. */
template<int D> struct FlashTile {
    static constexpr int chunks = D / 8;
    static constexpr int pitch = D + 8;
    static_assert(D % 16 == 0, "an even number of chunks");
};

/* Begin to copy rows [row, row + ROWS) of one head into a tile; zeros where
 * there are none. */
template<int D, int ROWS, int THREADS>
static __device__ inline void flash_load(uint16_t *tile, const uint16_t *src,
                                         int64_t pitch, int row, int rows)
{
    constexpr int chunks = FlashTile<D>::chunks;

    #pragma unroll
    for (int i = 0; i < (ROWS * chunks + THREADS - 1) / THREADS; i++) {
        const int at = i * THREADS + threadIdx.x;
        const int r = at / chunks, c = at % chunks;

        if (ROWS * chunks % THREADS && at >= ROWS * chunks)
            break;
        const bool valid = row + r < rows;
        cp_async_16(tile + r * FlashTile<D>::pitch + c * 8,
                    src + (valid ? row + r : 0) * pitch + c * 8, valid);
    }
}

/* s = q k^T: 16 queries of this warp, KEYS keys of the tile. */
template<int D, int KEYS>
static __device__ inline void flash_scores(float (&s)[KEYS / 8][4],
                                           const uint32_t (&q)[D / 16][4],
                                           const uint16_t *k)
{
    const int lane = threadIdx.x % 32;
    /* Matrices of ldmatrix: keys 0-7 and 8-15 of sixteen, each twice, for
     * elements 0-7 and 8-15. K's rows are columns of K^T: no transposing. */
    const uint16_t *row = k + (lane % 8 + lane / 16 * 8) *
                              FlashTile<D>::pitch + lane / 8 % 2 * 8;

    #pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
    #pragma unroll
    for (int e = 0; e < D / 16; e++)
        #pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            uint32_t b[4];

            ldmatrix_x4(b, row + j * 16 * FlashTile<D>::pitch + e * 16);
            mma_16816<bf16>(s[2 * j], q[e], b[0], b[1]);
            mma_16816<bf16>(s[2 * j + 1], q[e], b[2], b[3]);
        }
}

/* The last tile: keys beyond the end do not count, the last counts more. */
template<int KEYS>
static __device__ inline void flash_end(float (&s)[KEYS / 8][4], int key,
                                        const FlashArgs &a)
{
    const int column = key + threadIdx.x % 4 * 2;

    #pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = column + j * 8 + i % 2;

            if (at == a.lk - 1)
                s[j][i] += a.tail;
            if (at >= a.lk)
                s[j][i] = -INFINITY;
        }
}

/* s becomes e^(s - m), o and the sums shrink where the maximum has grown.
 * Rows g and g + 8 of the warp's sixteen: index i / 2 of a fragment. */
template<int D, int KEYS>
static __device__ inline void flash_softmax(float (&s)[KEYS / 8][4],
                                            float (&o)[D / 8][4],
                                            float (&max)[2], float (&sum)[2],
                                            float scale)
{
    float now[2] = { max[0], max[1] };

    #pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
        now[0] = fmaxf(now[0], fmaxf(s[j][0], s[j][1]));
        now[1] = fmaxf(now[1], fmaxf(s[j][2], s[j][3]));
    }
    #pragma unroll
    for (int r = 0; r < 2; r++) {       // over the four lanes of a row
        now[r] = fmaxf(now[r], __shfl_xor_sync(FULL_WARP, now[r], 1));
        now[r] = fmaxf(now[r], __shfl_xor_sync(FULL_WARP, now[r], 2));
    }
    if (__any_sync(FULL_WARP, now[0] > max[0] || now[1] > max[1])) {
        const float shrink[2] = { exp2_fast((max[0] - now[0]) * scale),
                                  exp2_fast((max[1] - now[1]) * scale) };

        sum[0] *= shrink[0];
        sum[1] *= shrink[1];
        #pragma unroll
        for (int e = 0; e < D / 8; e++)
            #pragma unroll
            for (int i = 0; i < 4; i++)
                o[e][i] *= shrink[i / 2];
        max[0] = now[0];
        max[1] = now[1];
    }
    const float shift[2] = { max[0] * scale, max[1] * scale };
    #pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            s[j][i] = exp2_fast(s[j][i] * scale - shift[i / 2]);
            sum[i / 2] += s[j][i];      // of this lane's columns
        }
}

/* o += p v. Scores lie as an accumulator does, two of which side by side are
 * the left operand of the next product. */
template<int D, int KEYS>
static __device__ inline void flash_values(float (&o)[D / 8][4],
                                           const float (&p)[KEYS / 8][4],
                                           const uint16_t *v)
{
    const int lane = threadIdx.x % 32;
    const uint16_t *row = v + lane % 16 * FlashTile<D>::pitch + lane / 16 * 8;

    #pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
        const uint32_t a[4] = {
            pack<bf16>(p[2 * j][0], p[2 * j][1]),
            pack<bf16>(p[2 * j][2], p[2 * j][3]),
            pack<bf16>(p[2 * j + 1][0], p[2 * j + 1][1]),
            pack<bf16>(p[2 * j + 1][2], p[2 * j + 1][3]),
        };

        #pragma unroll
        for (int e = 0; e < D / 16; e++) {
            uint32_t b[4];

            ldmatrix_x4_trans(b, row + j * 16 * FlashTile<D>::pitch + e * 16);
            mma_16816<bf16>(o[2 * e], a, b[0], b[1]);
            mma_16816<bf16>(o[2 * e + 1], a, b[2], b[3]);
        }
    }
}

/*
 * One block: QUERIES queries of one head, 16 a warp. Neighbouring blocks
 * share a head, so that its keys and values stay in L2. Shared memory holds
 * two tiles of keys and two of values; the queries pass through it once and
 * stay in registers. A block reads its part of q before it writes the same
 * part of y: y may be q.
 *
 * AHEAD: the scores of the next tile are issued before this tile's softmax,
 * which then runs beside them. Keys are loaded one tile further ahead than
 * values, so both have a whole tile's time to arrive.
 */
template<int D, int QUERIES, int KEYS, bool AHEAD>
static __global__ void __launch_bounds__(QUERIES * 2)
flash_kernel(FlashArgs a)
{
    constexpr int threads = QUERIES * 2, pitch = FlashTile<D>::pitch;
    constexpr int tile = KEYS * pitch;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first = blockIdx.x * QUERIES, head = blockIdx.y * D;
    const int tiles = (a.lk + KEYS - 1) / KEYS;
    const uint16_t *k = a.k + head, *v = a.v + head;
    uint32_t q[D / 16][4];
    float o[D / 8][4], max[2] = { -INFINITY, -INFINITY }, sum[2] = { 0, 0 };
    float s[KEYS / 8][4];
    WAN_DYNAMIC_SHARED(uint16_t, shared);
    uint16_t *const ks = shared, *const vs = shared + 2 * tile;

    static_assert(QUERIES <= 4 * KEYS, "queries pass through the four tiles");
    flash_load<D, QUERIES, threads>(shared, a.q + head, a.q_pitch, first,
                                    a.lq);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    #pragma unroll
    for (int e = 0; e < D / 16; e++)
        ldmatrix_x4(q[e], shared + (warp * 16 + lane % 16) * pitch +
                          lane / 16 * 8 + e * 16);
    __syncthreads();

    #pragma unroll
    for (int e = 0; e < D / 8; e++)
        o[e][0] = o[e][1] = o[e][2] = o[e][3] = 0;
    flash_load<D, KEYS, threads>(ks, k, a.k_pitch, 0, a.lk);
    cp_async_commit();
    if (AHEAD) {
        cp_async_wait<0>();
        __syncthreads();
        if (tiles > 1)
            flash_load<D, KEYS, threads>(ks + tile, k, a.k_pitch, KEYS, a.lk);
        flash_load<D, KEYS, threads>(vs, v, a.v_pitch, 0, a.lk);
        cp_async_commit();
        flash_scores<D, KEYS>(s, q, ks);
        if (tiles == 1)
            flash_end<KEYS>(s, 0, a);
    } else {
        flash_load<D, KEYS, threads>(vs, v, a.v_pitch, 0, a.lk);
        cp_async_commit();
    }

    #pragma unroll 1
    for (int j = 0; j < tiles; j++) {
        const int here = j % 2 * tile, next = tile - here;

        /* What this tile reads is here, for every warp; and every warp is
         * done with the buffers of the tile before. */
        cp_async_wait<0>();
        __syncthreads();
        if (AHEAD) {
            float t[KEYS / 8][4];

            if (j + 2 < tiles)
                flash_load<D, KEYS, threads>(ks + here, k, a.k_pitch,
                                             (j + 2) * KEYS, a.lk);
            if (j + 1 < tiles)
                flash_load<D, KEYS, threads>(vs + next, v, a.v_pitch,
                                             (j + 1) * KEYS, a.lk);
            cp_async_commit();
            if (j + 1 < tiles)
                flash_scores<D, KEYS>(t, q, ks + next);
            flash_softmax<D, KEYS>(s, o, max, sum, a.scale);
            flash_values<D, KEYS>(o, s, vs + here);
            if (j + 2 == tiles)
                flash_end<KEYS>(t, (j + 1) * KEYS, a);
            #pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
                #pragma unroll
                for (int c = 0; c < 4; c++)
                    s[i][c] = t[i][c];
        } else {
            if (j + 1 < tiles) {
                flash_load<D, KEYS, threads>(ks + next, k, a.k_pitch,
                                             (j + 1) * KEYS, a.lk);
                flash_load<D, KEYS, threads>(vs + next, v, a.v_pitch,
                                             (j + 1) * KEYS, a.lk);
            }
            cp_async_commit();
            flash_scores<D, KEYS>(s, q, ks + here);
            if (j + 1 == tiles)
                flash_end<KEYS>(s, j * KEYS, a);
            flash_softmax<D, KEYS>(s, o, max, sum, a.scale);
            flash_values<D, KEYS>(o, s, vs + here);
        }
    }

    #pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = first + warp * 16 + lane / 4 + r * 8;
        uint16_t *y = a.y + row * a.y_pitch + head + lane % 4 * 2;

        sum[r] += __shfl_xor_sync(FULL_WARP, sum[r], 1);
        sum[r] += __shfl_xor_sync(FULL_WARP, sum[r], 2);
        if (row >= a.lq)
            continue;
        const float inv = 1 / sum[r];
        #pragma unroll
        for (int e = 0; e < D / 8; e++) {
            uint32_t *to = reinterpret_cast<uint32_t *>(y + e * 8);
            float low = o[e][2 * r] * inv, high = o[e][2 * r + 1] * inv;

            if (a.add) {
                const float2 old = unpack<bf16>(*to);

                low += old.x;
                high += old.y;
            }
            *to = pack<bf16>(low, high);
        }
    }
}

template<int D, int QUERIES, int KEYS, bool AHEAD>
static void flash_launch(const WanOwnAttention *a, const FlashArgs &f,
                         cudaStream_t stream)
{
    const auto kernel = flash_kernel<D, QUERIES, KEYS, AHEAD>;
    const int bytes = 4 * KEYS * FlashTile<D>::pitch * 2;
    const dim3 grid((unsigned)wan_div_up(a->lq, QUERIES), (unsigned)a->heads);

    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         bytes);
    WAN_LAUNCH(kernel, grid, QUERIES * 2, bytes, stream, f);
}

template<int D>
static void flash_variant(const WanOwnAttention *a, const FlashArgs &f,
                          int variant, cudaStream_t stream)
{
    if (variant == 0)
        flash_launch<D, 128, 64, true>(a, f, stream);
    else if (variant == 1)
        flash_launch<D, 128, 64, false>(a, f, stream);
    else
        flash_launch<D, 64, 64, false>(a, f, stream);
}

extern "C" int wan_flash_fits(const WanOwnAttention *a)
{
    const uintptr_t address = (uintptr_t)a->y | (uintptr_t)a->q |
                              (uintptr_t)a->k | (uintptr_t)a->v;

    return a->y_type == WAN_BF16 && a->q_type == WAN_BF16 &&
           a->kv_type == WAN_BF16 && !a->rel_bias && a->scale > 0 &&
           (a->size == 64 || a->size == 80 || a->size == 96 ||
            a->size == 128) && address % 16 == 0 &&
           (a->y_pitch | a->q_pitch | a->k_pitch | a->v_pitch) % 8 == 0 &&
           a->lq < INT32_MAX - 128 && a->lk < INT32_MAX - 128;
}

extern "C" void wan_flash(const WanOwnAttention *a, int variant,
                          cudaStream_t stream)
{
    const FlashArgs f = {
        (uint16_t *)a->y, (const uint16_t *)a->q, (const uint16_t *)a->k,
        (const uint16_t *)a->v, a->y_pitch, a->q_pitch, a->k_pitch,
        a->v_pitch, (int)a->lq, (int)a->lk, a->scale * LOG2E,
        a->tail / a->scale, a->add,
    };

    if (a->size == 64)
        flash_variant<64>(a, f, variant, stream);
    else if (a->size == 80)
        flash_variant<80>(a, f, variant, stream);
    else if (a->size == 96)
        flash_variant<96>(a, f, variant, stream);
    else
        flash_variant<128>(a, f, variant, stream);
}

/* ------------------------------------------------------------------ F32 */

enum { ROWS = 64, COLS = 64, DEPTH = 16, VALUES = 4096 };

/* T5's bucket, as wan_t5_bucket(): exact below 8, then logarithmic. */
static __device__ inline int t5_bucket(int delta)
{
    const int behind = delta > 0 ? 16 : 0, n = delta < 0 ? -delta : delta;

    return behind + (n < 8 ? n : 8 + (n >= 12) + (n >= 16) + (n >= 23) +
                     (n >= 32) + (n >= 46) + (n >= 64) + (n >= 91));
}

/*
 * One block: 64 queries of one head against 64 keys at a time. 256 threads
 * as 16 x 16: thread (ty, tx) has scores of queries 4 ty + i and keys
 * tx + 16 j, and columns tx + 16 c of O, c < NC, for its four queries.
 * Products are read from shared memory, DEPTH elements of the heads at a time
 * for the scores and as many values as fit into VALUES floats.
 */
template<int NC>
static __global__ void __launch_bounds__(256)
attention_f32_kernel(WanOwnAttention a)
{
    constexpr int width = 16 * NC, depth = VALUES / width;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, D = a.size;
    const int64_t first = (int64_t)blockIdx.x * ROWS, head = blockIdx.y;
    WAN_SHARED(float, qs, ROWS * (DEPTH + 1));
    WAN_SHARED(float, ks, COLS * (DEPTH + 1));
    WAN_SHARED(float, ps, ROWS * (COLS + 1));
    WAN_SHARED(float, vs, VALUES);
    float o[4][NC], max[4], sum[4];     // in registers: all loops unrolled

    #pragma unroll
    for (int i = 0; i < 4; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
        #pragma unroll
        for (int c = 0; c < NC; c++)
            o[i][c] = 0;
    }
    for (int64_t key = 0; key < a.lk; key += COLS) {
        float s[4][4] = { { 0 } };

        for (int e = 0; e < D; e += DEPTH) {
            for (int at = threadIdx.x; at < ROWS * DEPTH; at += 256) {
                const int r = at / DEPTH, c = at % DEPTH;

                qs[r * (DEPTH + 1) + c] = first + r < a.lq && e + c < D ?
                    load_any(a.q, a.q_type, (first + r) * a.q_pitch +
                                            head * D + e + c) : 0;
                ks[r * (DEPTH + 1) + c] = key + r < a.lk && e + c < D ?
                    load_any(a.k, a.kv_type, (key + r) * a.k_pitch +
                                             head * D + e + c) : 0;
            }
            __syncthreads();
            for (int c = 0; c < DEPTH; c++)
                #pragma unroll
                for (int i = 0; i < 4; i++)
                    #pragma unroll
                    for (int j = 0; j < 4; j++)
                        s[i][j] += qs[(4 * ty + i) * (DEPTH + 1) + c] *
                                   ks[(tx + 16 * j) * (DEPTH + 1) + c];
            __syncthreads();
        }
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            float now = max[i], shrink;

            #pragma unroll
            for (int j = 0; j < 4; j++) {
                const int64_t at = key + tx + 16 * j;

                s[i][j] *= a.scale;
                if (a.rel_bias && at < a.lk)
                    s[i][j] += a.rel_bias[t5_bucket((int)(at - (first +
                                   4 * ty + i))) * a.heads + head];
                if (at == a.lk - 1)
                    s[i][j] += a.tail;
                if (at >= a.lk)
                    s[i][j] = -INFINITY;
                now = fmaxf(now, s[i][j]);
            }
            for (int lane = 8; lane; lane /= 2)
                now = fmaxf(now, __shfl_xor_sync(FULL_WARP, now, lane));
            shrink = expf(max[i] - now);
            max[i] = now;
            sum[i] *= shrink;
            #pragma unroll
            for (int c = 0; c < NC; c++)
                o[i][c] *= shrink;
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                const float p = expf(s[i][j] - now);

                sum[i] += p;
                ps[(4 * ty + i) * (COLS + 1) + tx + 16 * j] = p;
            }
        }
        for (int from = 0; from < COLS; from += depth) {
            for (int at = threadIdx.x; at < VALUES; at += 256) {
                const int r = at / width, c = at % width;

                vs[at] = key + from + r < a.lk && c < D ?
                    load_any(a.v, a.kv_type, (key + from + r) * a.v_pitch +
                                             head * D + c) : 0;
            }
            __syncthreads();
            for (int r = 0; r < depth; r++)
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float p = ps[(4 * ty + i) * (COLS + 1) + from + r];

                    #pragma unroll
                    for (int c = 0; c < NC; c++)
                        o[i][c] += p * vs[r * width + tx + 16 * c];
                }
            __syncthreads();
        }
    }
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t row = first + 4 * ty + i;
        const float total = lanes_sum(sum[i], 16);

        if (row >= a.lq)
            continue;
        #pragma unroll
        for (int c = 0; c < NC; c++) {
            const int64_t at = row * a.y_pitch + head * D + tx + 16 * c;

            if (tx + 16 * c < D)
                store_any(a.y, a.y_type, at, o[i][c] / total +
                          (a.add ? load_any(a.y, a.y_type, at) : 0));
        }
    }
}

extern "C" void wan_attention_f32(const WanOwnAttention *a,
                                  cudaStream_t stream)
{
    const dim3 grid((unsigned)wan_div_up(a->lq, ROWS), (unsigned)a->heads);
    const auto kernel = a->size <= 128 ? attention_f32_kernel<8> :
                        a->size <= 256 ? attention_f32_kernel<16> :
                                         attention_f32_kernel<32>;

    WAN_LAUNCH(kernel, grid, 256, 0, stream, *a);
}
