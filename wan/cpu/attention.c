/*
 * Attention on the CPU: tiles of queries against blocks of keys, the softmax
 * kept as a running maximum and sum, so that memory does not grow with the
 * number of tokens.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * For each block of keys: S = scale Q K^T + bias; with m the new maximum of
 * each row, P = e^(S - m); the sum so far shrinks by e^(old m - m), then
 * total += row sums of P, O += P V. At the end y = O / total. A query's sums
 * depend on no other query.
 */

#include <math.h>

#include "cpu.h"
#include "sgemm.h"
#include "simd.h"

enum { QUERIES = 5 * WAN_SGEMM_ROWS, KEYS = 512 };

typedef struct Attention {
    WanDev *d;
    WanTensor *y;
    const WanTensor *q, *k, *v;
    const WanAttentionArgs *a;
    int64_t rows, row_tiles;    // queries of a tile, tiles of a head
    int64_t worker_floats;
    int failed;
} Attention;

/* s = e^(s - max); returns the sum. */
WAN_INLINE double row_exp(float *s, int64_t n, float max)
{
    float lane[WAN_LANES] = { 0 };
    double sum = 0;
    int64_t j = 0;

    WAN_VECTORS
    for (; j + WAN_LANES <= n; j += WAN_LANES)
        for (int l = 0; l < WAN_LANES; l++) {
            const float p = wan_expf(s[j + l] - max);
            s[j + l] = p;
            lane[l] += p;
        }
    for (; j < n; j++) {
        s[j] = wan_expf(s[j] - max);
        sum += s[j];
    }
    for (int l = 0; l < WAN_LANES; l++)
        sum += lane[l];
    return sum;
}

/* One row of a block. first: nothing was summed before. */
WAN_SIMD static void softmax_row(float *s, int64_t n, int first, float *max,
                                 double *total, float *o, int64_t D)
{
    const float old = *max, here = wan_max_of(s, n);
    const float now = first || here > old ? here : old;

    if (first) {
        *total = 0;
    } else if (now != old) {
        const float shrink = wan_expf(old - now);

        *total *= shrink;
        WAN_APART
        for (int64_t c = 0; c < D; c++)
            o[c] *= shrink;
    }
    *max = now;
    *total += row_exp(s, n, now);
}

WAN_SIMD static void store_head(float *y, const float *o, int64_t D,
                                double total, int add)
{
    const float r = 1 / total;

    if (add)
        WAN_APART
        for (int64_t c = 0; c < D; c++)
            y[c] += o[c] * r;
    else
        WAN_APART
        for (int64_t c = 0; c < D; c++)
            y[c] = o[c] * r;
}

void wan_cpu_store_head(float *y, const float *o, int64_t D, double total,
                        int add)
{
    store_head(y, o, D, total, add);
}

void wan_cpu_add_rel_bias(float *s, int64_t ld, int64_t m, int64_t n,
                          int64_t i, int64_t j, const WanTensor *bias,
                          int64_t head, float unit, float *line)
{
    for (int64_t t = 0; t < m + n - 1; t++)
        line[t] = unit *
                  wan_row(bias, wan_t5_bucket(j - i - (m - 1) + t))[head];
    for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < n; c++)
            s[r * ld + c] += line[m - 1 - r + c];
}

/* One head of some queries. y may be q: these rows and columns of q are read
 * by this tile alone, and for the last time before they are written. */
static void tile(void *arg, int64_t index, int worker)
{
    Attention *t = arg;
    const WanAttentionArgs *a = t->a;
    const int64_t Lq = wan_rows(t->q), Lk = wan_rows(t->k);
    const int64_t D = wan_cols(t->q) / a->heads;
    const int64_t head = index / t->row_tiles;
    const int64_t i = index % t->row_tiles * t->rows;
    const int64_t m = Lq - i < t->rows ? Lq - i : t->rows;
    const float *q = wan_row(t->q, i) + head * D;
    float *s = (float *)t->d->scratch + worker * t->worker_floats;
    float *o = s + QUERIES * KEYS;                          // [m, D]
    float *line = o + wan_pad16(QUERIES * D);
    float max[QUERIES];
    double total[QUERIES];
    int ret = 0;

    for (int64_t j = 0; j < Lk && !ret; j += KEYS) {
        const int64_t n = Lk - j < KEYS ? Lk - j : KEYS;

        if (wan_dev_cancelled(t->d))
            return;
        ret = wan_sgemm_rows(1, m, n, D, a->scale, q, t->q->pitch,
                             wan_row(t->k, j) + head * D, t->k->pitch, 0, s,
                             n);
        if (ret < 0)
            break;
        if (a->rel_bias)
            wan_cpu_add_rel_bias(s, n, m, n, i, j, a->rel_bias, head, 1, line);
        if (a->tail > 1 && j + n == Lk)
            for (int64_t r = 0; r < m; r++)
                s[r * n + n - 1] += logf((float)a->tail);
        for (int64_t r = 0; r < m; r++)
            softmax_row(s + r * n, n, j == 0, &max[r], &total[r], o + r * D,
                        D);
        ret = wan_sgemm_rows(0, m, D, n, 1, s, n,
                             wan_row(t->v, j) + head * D, t->v->pitch, j > 0,
                             o, D);
    }
    if (ret < 0) {
        __atomic_store_n(&t->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (int64_t r = 0; r < m; r++)
        wan_cpu_store_head(wan_row(t->y, i + r) + head * D, o + r * D, D,
                           total[r], a->add);
}

static int64_t worker_floats(const WanTensor *q, const WanAttentionArgs *a)
{
    return QUERIES * KEYS + wan_pad16(QUERIES * (wan_cols(q) / a->heads)) +
           (a->rel_bias ? QUERIES + KEYS : 0);
}

int64_t wan_cpu_attention_scratch(int threads, const WanTensor *q,
                                  const WanTensor *k,
                                  const WanAttentionArgs *a)
{
    (void)k;
    return threads * worker_floats(q, a) * (int64_t)sizeof(float);
}

void wan_cpu_attention(WanDev *d, WanTensor *y, const WanTensor *q,
                       const WanTensor *k, const WanTensor *v,
                       const WanAttentionArgs *a)
{
    Attention t = {
        .d = d, .y = y, .q = q, .k = k, .v = v, .a = a,
        .row_tiles = wan_ceil_div(wan_rows(q), QUERIES),
        .worker_floats = worker_floats(q, a),
    };

    if (!t.row_tiles)
        return;
    t.rows = wan_sgemm_tile(wan_rows(q), t.row_tiles);
    wan_cpu_parallel(d, a->heads * t.row_tiles, tile, &t);
    if (t.failed)
        wan_dev_fail(d, WAN_ERR(ENOMEM), "attention: no memory for a product");
}
