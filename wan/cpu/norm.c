/*
 * Norms and the rotary embedding on the CPU: a pass for the sum, a pass for
 * the result, rows spread over the threads.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <math.h>

#include "cpu.h"
#include "simd.h"

typedef struct Rows {
    WanTensor *y;
    const WanTensor *x;
    const float *gain, *bias;   // or NULL
    float one;                  // added to the gain
    WanTensor *stream;          // x, where a branch is added to it
    const WanTensor *branch;
    const float *gate;          // or NULL
    float eps;
    WanAct act;
    const WanRope *rope;        // or NULL
    int64_t chunk;              // rows a call
    void (*row)(const struct Rows *r, int64_t i);
} Rows;

static void some_rows(void *arg, int64_t i, int worker)
{
    const Rows *r = arg;
    const int64_t end = (i + 1) * r->chunk, rows = wan_rows(r->x);

    (void)worker;
    for (int64_t k = i * r->chunk; k < end && k < rows; k++)
        r->row(r, k);
}

static void run(WanDev *d, Rows *r)
{
    r->chunk = wan_cpu_chunk(wan_cols(r->x));
    wan_cpu_parallel(d, wan_ceil_div(wan_rows(r->x), r->chunk), some_rows, r);
}

static const float *vector(const WanTensor *t)
{
    return t && t->nb_dims ? t->data : NULL;
}

WAN_INLINE double lane_sum(const double *lane)
{
    double s = 0;

    for (int l = 0; l < WAN_LANES; l++)
        s += lane[l];
    return s;
}

WAN_INLINE double sum(const float *x, int64_t n)
{
    double lane[WAN_LANES] = { 0 };
    int64_t i = 0;

    for (; i + WAN_LANES <= n; i += WAN_LANES)
        for (int l = 0; l < WAN_LANES; l++)
            lane[l] += x[i + l];
    for (; i < n; i++)
        lane[0] += x[i];
    return lane_sum(lane);
}

/* sum of (x - mean)^2 */
WAN_INLINE double sum_squares(const float *x, int64_t n, double mean)
{
    double lane[WAN_LANES], first = 0;
    int64_t i = 0;

    if (n >= WAN_LANES)         // rows of a small VAE have fewer
        for (int l = 0; l < WAN_LANES; l++)
            lane[l] = 0;
    for (; i + WAN_LANES <= n; i += WAN_LANES)
        for (int l = 0; l < WAN_LANES; l++) {
            const double v = x[i + l] - mean;
            lane[l] += v * v;
        }
    if (i) {
        first = lane[0];
    }
    for (; i < n; i++)
        first += (x[i] - mean) * (x[i] - mean);
    if (n < WAN_LANES)
        return first;
    lane[0] = first;
    return lane_sum(lane);
}

/* --------------------------------------------- layer norm, modulation */

/* The mean is taken off in f32 after its own low part, so that a row far from
 * zero loses nothing. */
WAN_INLINE void norm_row(const Rows *r, int64_t i)
{
    const int64_t C = wan_cols(r->x);
    const float *x = wan_row(r->x, i), *gain = r->gain, *bias = r->bias;
    float *y = wan_row(r->y, i);
    const double mean = sum(x, C) / C;
    const float scale = 1 / sqrt(sum_squares(x, C, mean) / C + r->eps);
    const float hi = mean, lo = mean - hi, one = r->one;

    if (gain)
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] = (x[c] - hi - lo) * scale * (one + gain[c]) + bias[c];
    else
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] = (x[c] - hi - lo) * scale;
}

WAN_SIMD static void layer_norm_row(const Rows *r, int64_t i)
{
    norm_row(r, i);
}

/* The row is whole before its norm begins, so y may be the branch. */
WAN_SIMD static void gate_add_norm_row(const Rows *r, int64_t i)
{
    const int64_t C = wan_cols(r->x);
    const float *branch = wan_row(r->branch, i), *gate = r->gate;
    float *x = wan_row(r->stream, i);

    if (gate)
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            x[c] += gate[c] * branch[c];
    else
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            x[c] += branch[c];
    norm_row(r, i);
}

void wan_cpu_layer_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                        const WanTensor *gain, const WanTensor *bias,
                        float eps)
{
    run(d, &(Rows){ .y = y, .x = x, .gain = vector(gain),
                    .bias = vector(bias), .eps = eps,
                    .row = layer_norm_row });
}

void wan_cpu_modulate(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanTensor *shift, const WanTensor *scale,
                      float eps)
{
    run(d, &(Rows){ .y = y, .x = x, .gain = vector(scale),
                    .bias = vector(shift), .one = 1, .eps = eps,
                    .row = layer_norm_row });
}

void wan_cpu_gate_add_norm(WanDev *d, WanTensor *y, WanTensor *x,
                           const WanTensor *branch, const WanTensor *gate,
                           const WanTensor *gain, const WanTensor *bias,
                           float one, float eps)
{
    run(d, &(Rows){ .y = y, .x = x, .stream = x, .branch = branch,
                    .gate = vector(gate), .gain = vector(gain),
                    .bias = vector(bias), .one = one, .eps = eps,
                    .row = gate_add_norm_row });
}

/* --------------------------------------------------------- rms norm, rope */

/* Turns the pairs of token i, (f, h, w) of the grid. */
WAN_INLINE void rope_row(float *x, int64_t i, const WanRope *r)
{
    const int64_t at[3] = {
        i / r->grid[2] / r->grid[1], i / r->grid[2] % r->grid[1],
        i % r->grid[2],
    };

    for (int h = 0; h < r->heads; h++)
        for (int a = 0; a < 3; a++) {
            const int pairs = r->pairs[a];
            const float *turn = (const float *)r->table[a].data +
                                at[a] * pairs * 2;

            for (int p = 0; p < pairs; p++) {
                const float re = x[2 * p], im = x[2 * p + 1];

                x[2 * p]     = re * turn[2 * p] - im * turn[2 * p + 1];
                x[2 * p + 1] = re * turn[2 * p + 1] + im * turn[2 * p];
            }
            x += 2 * pairs;
        }
}

WAN_SIMD static void rms_norm_row(const Rows *r, int64_t i)
{
    const int64_t C = wan_cols(r->x);
    const float *x = wan_row(r->x, i), *gain = r->gain;
    float *y = wan_row(r->y, i);

    if (gain) {
        const float scale = 1 / sqrt(sum_squares(x, C, 0) / C + r->eps);

        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] = x[c] * scale * gain[c];
    }
    if (r->rope)
        rope_row(y, i + r->rope->first, r->rope);
}

void wan_cpu_rms_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanTensor *gain, float eps)
{
    run(d, &(Rows){ .y = y, .x = x, .gain = vector(gain), .eps = eps,
                    .row = rms_norm_row });
}

void wan_cpu_rope(WanDev *d, WanTensor *x, const WanRope *rope)
{
    run(d, &(Rows){ .y = x, .x = x, .rope = rope, .row = rms_norm_row });
}

void wan_cpu_rms_norm_rope(WanDev *d, WanTensor *x, const WanTensor *gain,
                           float eps, const WanRope *rope)
{
    run(d, &(Rows){ .y = x, .x = x, .gain = vector(gain), .eps = eps,
                    .rope = rope, .row = rms_norm_row });
}

/* ------------------------------------------------------- the VAE's norm */

WAN_SIMD static void l2_norm_row(const Rows *r, int64_t i)
{
    const int64_t C = wan_cols(r->x);
    const float *x = wan_row(r->x, i), *gain = r->gain;
    float *y = wan_row(r->y, i);
    const double norm = sqrt(sum_squares(x, C, 0));
    const float scale = sqrt((double)C) / (norm > 1e-12 ? norm :
                                           norm <= 1e-12 ? 1e-12 : norm);

    if (r->act == WAN_ACT_SILU)
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] = wan_siluf(x[c] * scale * gain[c]);
    else
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] = x[c] * scale * gain[c];
}

void wan_cpu_l2_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *gain, WanAct act)
{
    run(d, &(Rows){ .y = y, .x = x, .gain = vector(gain), .act = act,
                    .row = l2_norm_row });
}
