/*
 * Convolution as a matrix product that is never laid out: rows are output
 * positions, the sum runs over taps and input channels, and each 16 bytes of
 * a row are fetched from where that tap finds them, zeros at the borders.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * y[m, o] = sum over k of a[m, k] w[o, k], k = ((dt * kh + dr) * kw + dc) *
 * I + i: the order in which the weights lie.
 */

#include "any.h"
#include "mma.h"
#include "own.h"

/* One phase of an upsampling convolution, or all of a plain one. */
static __device__ inline void conv_phase(WanOwnConv &c, int phase)
{
    if (c.phases != 2)
        return;
    c.pad_r = (c.kh - 1) * (1 - phase / 2);
    c.pad_c = (c.kw - 1) * (1 - phase % 2);
}

/* Row of y where position m of a phase goes. */
static __device__ inline int64_t conv_output(const WanOwnConv &c, uint32_t m,
                                             int phase)
{
    const uint32_t h = c.ho / c.phases, w = c.wo / c.phases;

    if (c.phases != 2)
        return m;
    return (int64_t)(m / w / h * c.ho + m / w % h * 2 + phase / 2) * c.wo +
           m % w * 2 + phase % 2;
}

/* Where a phase's weights begin. */
static __device__ inline int64_t conv_set(const WanOwnConv &c, int phase)
{
    return c.kh == 1 ? 0 : phase * c.out * c.kt * c.kh * c.kw * c.in;
}

/* Where a position's window begins in x. Offsets are of 32 bits, which keeps
 * them in registers: x has fewer than 2^32 elements. */
struct ConvRow {
    uint32_t frame;             // offset of its first frame's row 0, column 0
    int r, c;                   // may be -1: the padding
};

static __device__ inline ConvRow conv_row(const WanOwnConv &c, uint32_t m)
{
    const uint32_t h = c.ho / c.phases, w = c.wo / c.phases;
    ConvRow row = { 0, -(1 << 20), 0 };     // outside, whatever the tap

    if (m >= c.t * h * w)
        return row;
    row.frame = m / w / h * c.stride_t * (uint32_t)(c.h * c.width * c.in);
    row.r = (int)(m / w % h) * c.stride - c.pad_r;
    row.c = (int)(m % w) * c.stride - c.pad_c;
    return row;
}

static __device__ inline bool conv_inside(const WanOwnConv &c,
                                          const ConvRow &row, int dr, int dc)
{
    return (unsigned)(row.r + dr) < (unsigned)c.h &&
           (unsigned)(row.c + dc) < (unsigned)c.width;
}

/* Of x, elements: channel 0 where a tap reads. Only if inside. */
static __device__ inline uint32_t conv_at(const WanOwnConv &c,
                                          const ConvRow &row, int dt, int dr,
                                          int dc)
{
    return row.frame + ((uint32_t)(dt * (int)c.h + row.r + dr) *
                        (uint32_t)c.width + row.c + dc) * (uint32_t)c.in;
}

/* ------------------------------------------------------- tensor cores */

/* Tiles: 128 positions by COLS outputs, 32 terms at a time, four stages of
 * loads in flight. A row of 32 terms is five 16-byte chunks long, one of them
 * unused: an odd number, so ldmatrix meets no bank twice. */
enum { POSITIONS = 128, TERMS = 32, PITCH = 40, STAGES = 4, THREADS = 256 };

/* Terms [k, k + 8) of a row of a, one by one: channels not in eights. */
template<typename T>
static __device__ inline uint4 conv_gather(const WanOwnConv &c,
                                           const ConvRow &row, int k)
{
    const int terms = c.kt * c.kh * c.kw * (int)c.in;
    const uint16_t *x = (const uint16_t *)c.x;
    uint32_t word[4];

    #pragma unroll
    for (int i = 0; i < 8; i++, k++) {
        const int tap = k / (int)c.in;
        const int dt = tap / (c.kh * c.kw), dr = tap / c.kw % c.kh;
        const int dc = tap % c.kw;
        const uint32_t v = k < terms && conv_inside(c, row, dr, dc) ?
            x[conv_at(c, row, dt, dr, dc) + k % (int)c.in] : 0;

        word[i / 2] = i % 2 ? word[i / 2] | v << 16 : v;
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/*
 * blockIdx: tile of positions, tile of outputs, phase. 8 warps as 4 x 2: each
 * has 32 positions by COLS / 2 outputs.
 *
 * VECTORS: I is a multiple of 8, so that eight terms are of one tap and lie
 * side by side. Else they are fetched one by one and stored at once.
 */
template<typename T, int COLS, bool VECTORS>
static __global__ void __launch_bounds__(THREADS) conv_kernel(WanOwnConv c)
{
    constexpr int N = COLS / 2 / 8;             // fragments of a warp
    constexpr int a_tile = POSITIONS * PITCH, stage = a_tile + COLS * PITCH;
    constexpr int b_chunks = COLS * 4;          // of 16 bytes
    const int phase = blockIdx.z, lane = threadIdx.x % 32;
    const uint32_t first = blockIdx.x * POSITIONS;
    const int out = blockIdx.y * COLS, terms = c.kt * c.kh * c.kw * (int)c.in;
    const int warp_m = threadIdx.x / 32 % 4 * 32;
    const int warp_n = threadIdx.x / 128 * (COLS / 2);
    const uint16_t *x = (const uint16_t *)c.x;
    const uint16_t *w = (const uint16_t *)c.w + conv_set(c, phase);
    WAN_DYNAMIC_SHARED(uint16_t, shared);
    float sum[2][N][4];

    conv_phase(c, phase);

    /* This thread loads chunk tid % 4 of positions tid / 4 and + 64. */
    const int chunk = threadIdx.x % 4 * 8;
    const ConvRow row[2] = { conv_row(c, first + threadIdx.x / 4),
                             conv_row(c, first + threadIdx.x / 4 + 64) };
    /* And where its next eight terms are. */
    int k = chunk, i = chunk, dt = 0, dr = 0, dc = 0;

    const auto load = [&](int slot) {
        uint16_t *a = shared + slot * stage, *b = a + a_tile;

        if (VECTORS)
            while (i >= c.in && k < terms) {
                i -= (int)c.in;
                if (++dc == c.kw) {
                    dc = 0;
                    if (++dr == c.kh) {
                        dr = 0;
                        dt++;
                    }
                }
            }
        #pragma unroll
        for (int r = 0; r < 2; r++) {
            uint16_t *to = a + (threadIdx.x / 4 + r * 64) * PITCH + chunk;

            if (VECTORS) {
                const bool inside = k < terms && conv_inside(c, row[r], dr, dc);

                cp_async_16(to, x + (inside ? conv_at(c, row[r], dt, dr, dc) +
                                              i : 0), inside);
            } else {
                *reinterpret_cast<uint4 *>(to) = conv_gather<T>(c, row[r], k);
            }
        }
        #pragma unroll
        for (int n = 0; n < (b_chunks + THREADS - 1) / THREADS; n++) {
            const int o = (n * THREADS + threadIdx.x) / 4;
            uint16_t *to = b + o * PITCH + chunk;

            if (b_chunks % THREADS && o >= COLS)
                break;
            if (VECTORS) {
                const bool inside = k < terms && out + o < c.out;

                cp_async_16(to, w + (inside ? (out + o) * terms + k : 0),
                            inside);
            } else {
                #pragma unroll
                for (int e = 0; e < 8; e++)
                    to[e] = k + e < terms && out + o < c.out ?
                        w[(int64_t)(out + o) * terms + k + e] : 0;
            }
        }
        k += TERMS;
        i += TERMS;
    };

    #pragma unroll
    for (int m = 0; m < 2; m++)
        #pragma unroll
        for (int n = 0; n < N; n++)
            sum[m][n][0] = sum[m][n][1] = sum[m][n][2] = sum[m][n][3] = 0;

    const int steps = (terms + TERMS - 1) / TERMS;
    #pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            load(s);
        cp_async_commit();
    }
    #pragma unroll 1
    for (int s = 0; s < steps; s++) {
        /* Step s has arrived, for every warp; and every warp is done with
         * step s - 1, whose place is loaded next. */
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (s + STAGES - 1 < steps)
            load((s + STAGES - 1) % STAGES);
        cp_async_commit();

        const uint16_t *a = shared + s % STAGES * stage + (warp_m + lane % 16) *
                            PITCH + lane / 16 * 8;
        const uint16_t *b = shared + s % STAGES * stage + a_tile +
                            (warp_n + lane % 8 + lane / 16 * 8) * PITCH +
                            lane / 8 % 2 * 8;
        #pragma unroll
        for (int e = 0; e < TERMS; e += 16) {
            uint32_t fa[2][4];

            ldmatrix_x4(fa[0], a + e);
            ldmatrix_x4(fa[1], a + 16 * PITCH + e);
            #pragma unroll
            for (int n = 0; n < N; n += 2) {
                uint32_t fb[4];

                ldmatrix_x4(fb, b + n * 8 * PITCH + e);
                #pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma_16816<T>(sum[m][n], fa[m], fb[0], fb[1]);
                    mma_16816<T>(sum[m][n + 1], fa[m], fb[2], fb[3]);
                }
            }
        }
    }

    const int64_t rows = c.t * (c.ho / c.phases) * (c.wo / c.phases);
    #pragma unroll
    for (int m = 0; m < 2; m++)
        #pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t at = first + warp_m + m * 16 + r * 8 + lane / 4;

            if (at >= rows)
                continue;
            const int64_t to = conv_output(c, at, phase) * c.out;
            #pragma unroll
            for (int n = 0; n < N; n++) {
                const int o = out + warp_n + n * 8 + lane % 4 * 2;
                float low = sum[m][n][2 * r], high = sum[m][n][2 * r + 1];

                if (o >= c.out)
                    continue;
                low += c.bias[o];
                if (c.out % 2 == 0 && c.y_type != WAN_F32) {
                    uint32_t *y = (uint32_t *)((uint16_t *)c.y + to + o);

                    high += c.bias[o + 1];
                    if (c.add) {
                        const float2 old = c.y_type == WAN_BF16 ?
                            unpack<bf16>(*y) : unpack<f16>(*y);

                        low += old.x;
                        high += old.y;
                    }
                    *y = c.y_type == WAN_BF16 ? pack<bf16>(low, high)
                                              : pack<f16>(low, high);
                    continue;
                }
                store_any(c.y, c.y_type, to + o,
                          low + (c.add ? load_any(c.y, c.y_type, to + o) : 0));
                if (o + 1 < c.out)
                    store_any(c.y, c.y_type, to + o + 1, high +
                              c.bias[o + 1] +
                              (c.add ? load_any(c.y, c.y_type, to + o + 1)
                                     : 0));
            }
        }
}

template<typename T, int COLS, bool VECTORS>
static void conv_launch(const WanOwnConv *c, cudaStream_t stream)
{
    const auto kernel = conv_kernel<T, COLS, VECTORS>;
    const int bytes = STAGES * (POSITIONS + COLS) * PITCH * 2;
    const int64_t rows = c->t * (c->ho / c->phases) * (c->wo / c->phases);
    const dim3 grid((unsigned)wan_div_up(rows, POSITIONS),
                    (unsigned)wan_div_up(c->out, COLS),
                    (unsigned)(c->phases * c->phases));

    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         bytes);
    WAN_LAUNCH(kernel, grid, THREADS, bytes, stream, *c);
}

template<typename T>
static void conv_width(const WanOwnConv *c, cudaStream_t stream)
{
    if (c->in % 8)
        conv_launch<T, 96, false>(c, stream);
    else if (c->out <= 32)
        conv_launch<T, 32, true>(c, stream);
    else if (c->out % 128 == 0)
        conv_launch<T, 128, true>(c, stream);
    else
        conv_launch<T, 96, true>(c, stream);
}

extern "C" void wan_conv_mma(const WanOwnConv *c, cudaStream_t stream)
{
    if (c->x_type == WAN_BF16)
        conv_width<bf16>(c, stream);
    else
        conv_width<f16>(c, stream);
}

/* ------------------------------------------------------------------ F32 */

enum { F32_ROWS = 128, F32_COLS = 64, F32_TERMS = 16 };

/* 128 positions by 64 outputs; thread (ty, tx) of 16 x 16 has positions
 * ty + 16 i and outputs tx + 16 j. */
static __global__ void __launch_bounds__(256) conv_f32_kernel(WanOwnConv c)
{
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const int phase = blockIdx.z, out = blockIdx.y * F32_COLS;
    const uint32_t first = blockIdx.x * F32_ROWS;
    const int terms = c.kt * c.kh * c.kw * (int)c.in;
    const int64_t set = conv_set(c, phase);
    WAN_SHARED(float, as, F32_ROWS * (F32_TERMS + 1));
    WAN_SHARED(float, bs, F32_COLS * (F32_TERMS + 1));
    float sum[8][4] = { { 0 } };

    conv_phase(c, phase);
    for (int k = 0; k < terms; k += F32_TERMS) {
        const int at = k + tx, tap = at / (int)c.in, i = at % (int)c.in;
        const int dt = tap / (c.kh * c.kw), dr = tap / c.kw % c.kh;
        const int dc = tap % c.kw;

        for (int r = ty; r < F32_ROWS; r += 16) {
            const ConvRow row = conv_row(c, first + r);

            as[r * (F32_TERMS + 1) + tx] =
                at < terms && conv_inside(c, row, dr, dc) ?
                load_any(c.x, c.x_type, conv_at(c, row, dt, dr, dc) + i) : 0;
        }
        for (int r = ty; r < F32_COLS; r += 16)
            bs[r * (F32_TERMS + 1) + tx] = at < terms && out + r < c.out ?
                load_any(c.w, c.w_type, set + (int64_t)(out + r) * terms + at)
                : 0;
        __syncthreads();
        for (int t = 0; t < F32_TERMS; t++)
            #pragma unroll
            for (int i = 0; i < 8; i++)
                #pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] += as[(ty + 16 * i) * (F32_TERMS + 1) + t] *
                                 bs[(tx + 16 * j) * (F32_TERMS + 1) + t];
        __syncthreads();
    }

    const int64_t rows = c.t * (c.ho / c.phases) * (c.wo / c.phases);
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t m = first + ty + 16 * i;

        if (m >= rows)
            continue;
        const int64_t to = conv_output(c, m, phase) * c.out;
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            const int o = out + tx + 16 * j;

            if (o < c.out)
                store_any(c.y, c.y_type, to + o, sum[i][j] + c.bias[o] +
                          (c.add ? load_any(c.y, c.y_type, to + o) : 0));
        }
    }
}

extern "C" void wan_conv_f32(const WanOwnConv *c, cudaStream_t stream)
{
    const int64_t rows = c->t * (c->ho / c->phases) * (c->wo / c->phases);
    const dim3 grid((unsigned)wan_div_up(rows, F32_ROWS),
                    (unsigned)wan_div_up(c->out, F32_COLS),
                    (unsigned)(c->phases * c->phases));

    WAN_LAUNCH(conv_f32_kernel, grid, 256, 0, stream, *c);
}

/* ------------------------------------------------------ summed weights */

/* One element of [2, 2, O, kt, 2, 2, I] a thread. Kernel row e of phase 0
 * sums rows { 0 }, { 1, 2 } of three, of phase 1 { 0, 1 }, { 2 }. */
template<typename T>
static __global__ void phase_weights_kernel(T *to, const T *from, int64_t out,
                                            int kt, int64_t in)
{
    const int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t i = n % in, e = n / in;
    const int dc = e % 2, dr = e / 2 % 2;
    const int64_t ot = e / 4 % (out * kt);      // output and time together
    const int phase = (int)(e / 4 / (out * kt));
    float sum = 0;

    if (phase >= 4)
        return;
    for (int r = 0; r < 3; r++)
        for (int c = 0; c < 3; c++)
            if ((r > phase / 2) == dr && (c > phase % 2) == dc)
                sum += to_float(from[((ot * 3 + r) * 3 + c) * in + i]);
    to[n] = from_float<T>(sum);
}

template<typename T>
static void phase_weights(void *to, const void *from, int64_t out, int kt,
                          int64_t in, cudaStream_t stream)
{
    WAN_LAUNCH(phase_weights_kernel<T>,
               (unsigned)wan_div_up(16 * out * kt * in, 256), 256, 0, stream,
               (T *)to, (const T *)from, out, kt, in);
}

extern "C" void wan_conv_phase_weights(void *to, const void *from,
                                       WanType type, int64_t out, int kt,
                                       int64_t in, cudaStream_t stream)
{
    if (type == WAN_BF16)
        phase_weights<bf16>(to, from, out, kt, in, stream);
    else if (type == WAN_F16)
        phase_weights<f16>(to, from, out, kt, in, stream);
    else
        phase_weights<float>(to, from, out, kt, in, stream);
}
