/*
 * Attention on the CPU in BF16, and with scores in 8 bits: as in F32
 * (attention.c), but with q, k, v and P rounded before their products.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Scores are of base 2: q is multiplied by scale log2 e before it is rounded,
 * then P = 2^(S - m). Sums of P are of what was not rounded yet. Behind the first
 * block of keys, which finds m, S is nowhere in memory where the processor has
 * the instructions for that (wan_bf16_weights()).
 *
 * A worker keeps the packed keys and values of one head for the tiles that
 * follow, which are of the same head as long as there are some: with two threads
 * each head is packed twice, and not once for every 120 queries. Many keys, of
 * which two copies would not fit into the last cache, are packed once for all
 * threads, head by head.
 *
 * In 8 bits (int8.h) each query and each key has a scale of its own, and keys
 * are smoothed first, as in SageAttention (arXiv 2410.02367): their mean is
 * taken off, which adds the same to all scores of a query, so nothing to its
 * softmax, but may be much larger than what keys differ by. The mean is a sum
 * of blocks' sums in their order, whatever the number of threads and heads. P V
 * stays in BF16. A key that is not finite makes the mean and so all of its head
 * NaN.
 */

#include <math.h>
#include <string.h>

#include "bf16.h"
#include "cpu.h"
#include "int8.h"
#include "simd.h"

enum {
    QUERIES = 120,              // whole tiles of registers: 6, 8, 12 rows
    KEYS = 512,
    MANY = 8192,                // keys that are packed once for all
    PART = 256,                 // keys of one WanInt8Columns
    FEWEST_INT8 = 1024,
    WIDEST_INT8 = 256,          // numbers of a head
    PANEL_COLS = 64             // of packed columns, at most
};

#define LOG2_E 1.44269504f

typedef struct Attention {
    WanDev *d;
    WanTensor *y;
    const WanTensor *q, *k, *v;
    const WanAttentionArgs *a;
    int int8;                   // Q K^T, else BF16
    int64_t D, depth, cols;     // of a head: as it is, as inputs, as columns
    int64_t rows, row_tiles;    // queries of a tile, tiles of a head
    int64_t block;              // bytes of a block of packed keys
    int64_t value_block;        // numbers of one of values
    int64_t worker_bytes;
    float *mean;                // of keys [C], behind it their blocks' sums
    char *keys;                 // of head, for all workers; NULL: each its own
    uint16_t *values;
    int64_t head;
} Attention;

/* Of keys in 8 bits; a block has KEYS / PART of them. */
typedef struct Part {
    WanInt8Columns columns;
    int8_t b[];                 // packed [PART, depth]
} Part;

typedef struct Worker {
    int64_t head;               // whose keys and values are packed, -1: none
    char *keys;                 // block by block
    uint16_t *values;
    uint16_t *q;                // [rows, depth]; in 8 bits
    uint8_t *q8;                // that
    float *scale;               // and what it is multiplied by [rows]
    float *smooth;              // keys of a panel less the mean [64, D]
    uint16_t *p;                // [rows, KEYS]
    float *s;                   // [rows, KEYS]
    float *o;                   // [rows, cols]
    float (*parts)[16];         // of sums of P [rows]
    float *line;                // T5's bias by distance
} Worker;

static int64_t aligned(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static int is_many(const Attention *t)
{
    return wan_rows(t->k) >= MANY;
}

static int64_t blocks(const Attention *t)
{
    return wan_ceil_div(wan_rows(t->k), KEYS);
}

/* Lay a worker's memory out; returns its bytes. w NULL: count. */
static int64_t lay_out(const Attention *t, Worker *w)
{
    int64_t at = aligned(sizeof(Worker));
    Worker own = { .head = -1 };

#define PLACE(field, numbers) \
    (own.field = (void *)((char *)w + at), \
     at += aligned((numbers) * (int64_t)sizeof(*own.field)))
    PLACE(keys, is_many(t) ? 0 : blocks(t) * t->block);
    PLACE(values, is_many(t) ? 0 : blocks(t) * t->value_block);
    PLACE(q, t->int8 ? 0 : QUERIES * t->depth);
    PLACE(q8, t->int8 ? QUERIES * t->depth : 0);
    PLACE(scale, t->int8 ? QUERIES : 0);
    PLACE(smooth, t->int8 ? PANEL_COLS * t->D : 0);
    PLACE(p, QUERIES * KEYS);
    PLACE(s, QUERIES * KEYS);
    PLACE(o, QUERIES * t->cols);
    PLACE(parts, QUERIES);
    PLACE(line, QUERIES + KEYS);
#undef PLACE
    if (w)
        *w = own;
    return at;
}

static Worker *worker_of(const Attention *t, int worker)
{
    return (Worker *)((char *)t->d->scratch + worker * t->worker_bytes);
}

/* ------------------------------------------------------------- softmax */

/* P of one row of a block, and its sum. The maximum is that of the first block;
 * it moves where a score is so far above that numbers would leave their range,
 * and what was summed shrinks. */
static void row_exp2(uint16_t *p, const float *s, int64_t n, int first,
                     float *max, double *total, float *o, int64_t D)
{
    float above, sum;

    if (first) {
        *max = wan_bf16_max(s, n);
        *total = 0;
    }
    sum = wan_bf16_exp2(p, s, n, *max, &above);
    if (above > WAN_BF16_ABOVE) {
        const float shrink = exp2f(-above);

        *total *= shrink;
        for (int64_t c = 0; c < D; c++)
            o[c] *= shrink;
        *max += above;
        sum = wan_bf16_exp2(p, s, n, *max, &above);
    }
    *total += sum;
}

/* ----------------------------------------------------------------- mean */

WAN_SIMD static void subtract(float *y, const float *a, const float *b,
                              int64_t n)
{
    WAN_APART
    for (int64_t c = 0; c < n; c++)
        y[c] = a[c] - b[c];
}

WAN_SIMD static void add(float *y, const float *x, int64_t n)
{
    WAN_APART
    for (int64_t c = 0; c < n; c++)
        y[c] += x[c];
}

static float *sum_of(const Attention *t, int64_t b)
{
    return t->mean + (b + 1) * wan_cols(t->k);
}

static void sum_block(void *arg, int64_t b, int worker)
{
    const Attention *t = arg;
    const int64_t C = wan_cols(t->k), end = (b + 1) * KEYS;
    float *sum = sum_of(t, b);

    (void)worker;
    memcpy(sum, wan_row(t->k, b * KEYS), C * sizeof(*sum));
    for (int64_t j = b * KEYS + 1; j < end && j < wan_rows(t->k); j++)
        add(sum, wan_row(t->k, j), C);
}

static void find_mean(Attention *t)
{
    const int64_t C = wan_cols(t->k);

    wan_cpu_parallel(t->d, blocks(t), sum_block, t);
    memcpy(t->mean, sum_of(t, 0), C * sizeof(*t->mean));
    for (int64_t b = 1; b < blocks(t); b++)
        add(t->mean, sum_of(t, b), C);
    for (int64_t c = 0; c < C; c++)
        t->mean[c] /= (float)wan_rows(t->k);
}

/* ---------------------------------------------------------------- tiles */

static Part *part(const Attention *t, char *block, int64_t i)
{
    return (Part *)(block + i * (t->block / (KEYS / PART)));
}

/* Keys [j, j + n) of a head, n <= PART, less the mean. */
static void pack_part(const Attention *t, Part *p, float *smooth, int64_t head,
                      int64_t j, int64_t n)
{
    const float *mean = t->mean + head * t->D;
    int64_t cols;

    for (int64_t from = 0; from < n; from += cols) {
        cols = wan_bf16_panel(n - from);
        cols = cols < n - from ? cols : n - from;
        for (int64_t c = 0; c < cols; c++)
            subtract(smooth + c * t->D,
                     wan_row(t->k, j + from + c) + head * t->D, mean, t->D);
        wan_int8_pack(p->b + from * t->depth, &p->columns, (int)from, smooth,
                      WAN_F32, t->D, cols, t->D);
    }
}

/* Keys and values [j, j + n) of a head. */
static void pack_block(const Attention *t, Worker *own, char *keys,
                       uint16_t *values, int64_t head, int64_t j, int64_t n)
{
    const int64_t b = j / KEYS;
    char *block = keys + b * t->block;

    if (!t->int8)
        wan_bf16_pack_rows((uint16_t *)block, wan_row(t->k, j) + head * t->D,
                           t->k->pitch, n, t->D);
    for (int64_t i = 0; i < n && t->int8; i += PART)
        pack_part(t, part(t, block, i / PART), own->smooth, head, j + i,
                  n - i < PART ? n - i : PART);
    wan_bf16_pack(values + b * t->value_block,
                  wan_row(t->v, j) + head * t->D, t->v->pitch, t->D, n);
}

static void pack_for_all(void *arg, int64_t b, int worker)
{
    const Attention *t = arg;
    const int64_t j = b * KEYS, left = wan_rows(t->k) - j;

    pack_block(t, worker_of(t, worker), t->keys, t->values, t->head, j,
               left < KEYS ? left : KEYS);
}

static void round_queries(const Attention *t, Worker *own, int64_t head,
                          int64_t i, int64_t m)
{
    const float scale = t->a->scale * LOG2_E;

    for (int64_t r = 0; r < m; r++) {
        const float *q = wan_row(t->q, i + r) + head * t->D;

        if (t->int8)
            own->scale[r] = scale *
                            wan_int8_round(own->q8 + r * t->depth, q, t->D);
        else
            wan_bf16_round(own->q + r * t->depth, q, t->D, scale);
    }
}

/* S = Q K^T of m queries and the n keys of a block. */
static void scores(const Attention *t, Worker *own, char *block, int64_t m,
                   int64_t n, int64_t ld)
{
    if (!t->int8)
        wan_bf16_product(m, n, t->depth, 1, NULL, own->q, t->depth,
                         (uint16_t *)block, 0, own->s, ld);
    for (int64_t i = 0; i < n && t->int8; i += PART) {
        const Part *p = part(t, block, i / PART);

        wan_int8_product(m, n - i < PART ? n - i : PART, t->depth, own->q8,
                         t->depth, own->scale, 1, p->b, &p->columns, 0,
                         own->s + i, ld);
    }
}

/* Queries [i, i + m) of a head. */
typedef struct Tile {
    int64_t head, i, m;
    float max[QUERIES];
    double total[QUERIES];
} Tile;

/* P of keys [j, j + n), whose scores are made first. */
static void weigh(const Attention *t, Worker *own, Tile *w, char *block,
                  int64_t j, int64_t n)
{
    const WanAttentionArgs *a = t->a;
    const int64_t ld = wan_bf16_cols(n);

    scores(t, own, block, w->m, n, ld);
    if (a->rel_bias)
        wan_cpu_add_rel_bias(own->s, ld, w->m, n, w->i, j, a->rel_bias,
                             w->head, LOG2_E, own->line);
    if (a->tail > 1 && j + n == wan_rows(t->k))
        for (int64_t r = 0; r < w->m; r++)
            own->s[r * ld + n - 1] += log2f((float)a->tail);
    for (int64_t r = 0; r < w->m; r++)
        row_exp2(own->p + r * ld, own->s + r * ld, n, j == 0, &w->max[r],
                 &w->total[r], own->o + r * t->cols, t->D);
}

/* The same in one, if there is such a product, nothing comes to the scores, and
 * there are maxima of keys before them; 0: it is not done. A row whose maximum
 * has to move is done again, alone: what comes of a row hangs on no other. */
static int weigh_at_once(const Attention *t, Worker *own, Tile *w, char *block,
                         int64_t j, int64_t n)
{
    const WanAttentionArgs *a = t->a;
    const int64_t ld = wan_bf16_cols(n);

    if (!j || t->int8 || a->rel_bias || a->tail > 1 ||
        !wan_bf16_weights(w->m, n, t->depth, own->q, t->depth,
                          (uint16_t *)block, w->max, own->p, ld, own->parts))
        return 0;
    for (int64_t r = 0; r < w->m; r++) {
        double sum = 0;

        for (int i = 0; i < 16; i++)
            sum += own->parts[r][i];
        if (!(sum > exp2(WAN_BF16_ABOVE))) {
            w->total[r] += sum;
            continue;
        }
        wan_bf16_product(1, n, t->depth, 1, NULL, own->q + r * t->depth,
                         t->depth, (uint16_t *)block, 0, own->s, ld);
        row_exp2(own->p + r * ld, own->s, n, 0, &w->max[r], &w->total[r],
                 own->o + r * t->cols, t->D);
    }
    return 1;
}

/* One head of some queries. y may be q: these rows and columns of q are read
 * by this tile alone, and before they are written. */
static void tile(void *arg, int64_t index, int worker)
{
    const Attention *t = arg;
    Worker *own = worker_of(t, worker);
    const int64_t Lq = wan_rows(t->q), Lk = wan_rows(t->k), D = t->D;
    const int64_t i = index % t->row_tiles * t->rows;
    Tile w = {
        .head = t->keys ? t->head : index / t->row_tiles,
        .i = i, .m = Lq - i < t->rows ? Lq - i : t->rows,
    };
    const int packed = t->keys || own->head == w.head;
    char *keys = t->keys ? t->keys : own->keys;
    const uint16_t *values = t->keys ? t->values : own->values;

    own->head = -1;
    round_queries(t, own, w.head, i, w.m);
    for (int64_t j = 0; j < Lk; j += KEYS) {
        const int64_t n = Lk - j < KEYS ? Lk - j : KEYS, b = j / KEYS;

        if (wan_dev_cancelled(t->d))
            return;
        if (!packed)
            pack_block(t, own, own->keys, own->values, w.head, j, n);
        if (!weigh_at_once(t, own, &w, keys + b * t->block, j, n))
            weigh(t, own, &w, keys + b * t->block, j, n);
        wan_bf16_product(w.m, D, wan_bf16_depth(n), 1, NULL, own->p,
                         wan_bf16_cols(n), values + b * t->value_block, j > 0,
                         own->o, t->cols);
    }
    own->head = w.head;
    for (int64_t r = 0; r < w.m; r++)
        wan_cpu_store_head(wan_row(t->y, i + r) + w.head * D,
                           own->o + r * t->cols, D, w.total[r], t->a->add);
}

/* Self-attention of the transformer at sizes where it counts: that of text and
 * images has fewer keys, a tail or a sum, that of T5 a bias, that of the VAEs
 * one wide head. */
static int fits_int8(const WanTensor *k, const WanAttentionArgs *a, int64_t D)
{
    return wan_rows(k) >= FEWEST_INT8 && D <= WIDEST_INT8 && !a->rel_bias &&
           a->tail <= 1 && !a->add;
}

static Attention plan(const WanTensor *q, const WanTensor *k,
                      const WanAttentionArgs *a, int int8)
{
    const int64_t D = wan_cols(q) / a->heads;
    const int64_t tiles = wan_ceil_div(wan_rows(q), QUERIES);
    Attention t = {
        .q = q, .k = k, .a = a, .int8 = int8 && fits_int8(k, a, D),
        .D = D, .cols = wan_bf16_cols(D),
        .row_tiles = tiles,
        .rows = tiles ? wan_ceil_div(wan_ceil_div(wan_rows(q), tiles), 24) * 24
                      : 0,
        .value_block = wan_bf16_packed(D, KEYS),
    };

    t.depth = t.int8 ? wan_int8_depth(D) : wan_bf16_depth(D);
    t.block = t.int8 ? KEYS / PART * aligned(sizeof(Part) + PART * t.depth)
                     : wan_bf16_packed(KEYS, D) * (int64_t)sizeof(uint16_t);
    t.worker_bytes = lay_out(&t, NULL);
    return t;
}

/* Bytes of the mean of keys and what it is made of. */
static int64_t mean_bytes(const Attention *t)
{
    return t->int8 ? aligned((1 + blocks(t)) * wan_cols(t->k) *
                             (int64_t)sizeof(float)) : 0;
}

/* Of a head's packed keys, for all. */
static int64_t key_bytes(const Attention *t)
{
    return aligned(blocks(t) * t->block);
}

static int64_t scratch(int threads, const WanTensor *q, const WanTensor *k,
                       const WanAttentionArgs *a, int int8)
{
    const Attention t = plan(q, k, a, int8);
    const int64_t values = aligned(blocks(&t) * t.value_block *
                                   (int64_t)sizeof(uint16_t));

    return threads * t.worker_bytes + mean_bytes(&t) +
           (is_many(&t) ? key_bytes(&t) + values : 0);
}

static void attention(WanDev *d, WanTensor *y, const WanTensor *q,
                      const WanTensor *k, const WanTensor *v,
                      const WanAttentionArgs *a, int int8)
{
    Attention t = plan(q, k, a, int8);
    char *behind = (char *)d->scratch + d->threads * t.worker_bytes;

    t.d = d;
    t.y = y;
    t.v = v;
    t.mean = (float *)behind;
    behind += mean_bytes(&t);
    for (int i = 0; i < d->threads; i++)
        lay_out(&t, worker_of(&t, i));
    if (t.int8)
        find_mean(&t);
    if (!is_many(&t)) {
        wan_cpu_parallel(d, a->heads * t.row_tiles, tile, &t);
        return;
    }
    t.keys = behind;
    t.values = (uint16_t *)(behind + key_bytes(&t));
    for (t.head = 0; t.head < a->heads; t.head++) {
        wan_cpu_parallel(d, blocks(&t), pack_for_all, &t);
        wan_cpu_parallel(d, t.row_tiles, tile, &t);
    }
}

int64_t wan_cpu_attention_bf16_scratch(int threads, const WanTensor *q,
                                       const WanTensor *k,
                                       const WanAttentionArgs *a)
{
    return scratch(threads, q, k, a, 0);
}

void wan_cpu_attention_bf16(WanDev *d, WanTensor *y, const WanTensor *q,
                            const WanTensor *k, const WanTensor *v,
                            const WanAttentionArgs *a)
{
    attention(d, y, q, k, v, a, 0);
}

int64_t wan_cpu_attention_int8_scratch(int threads, const WanTensor *q,
                                       const WanTensor *k,
                                       const WanAttentionArgs *a)
{
    return scratch(threads, q, k, a, 1);
}

void wan_cpu_attention_int8(WanDev *d, WanTensor *y, const WanTensor *q,
                            const WanTensor *k, const WanTensor *v,
                            const WanAttentionArgs *a)
{
    attention(d, y, q, k, v, a, 1);
}
