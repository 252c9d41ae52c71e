/*
 * Attention on the CPU in BF16: as in F32 (attention.c), but with q, k, v and
 * P rounded before their products.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Scores are of base 2: q is multiplied by scale log2 e before it is rounded,
 * then P = 2^(S - m). Sums of P are of what was not rounded yet. A worker keeps
 * the packed keys and values of one head for the tiles that follow, which are
 * of the same head as long as there are some: with two threads each head is
 * packed twice, and not once for every 120 queries. Many keys, of which two
 * copies would not fit into the last cache, are packed once for all threads,
 * head by head.
 */

#include <math.h>
#include <string.h>

#include "bf16.h"
#include "cpu.h"

enum {
    QUERIES = 120,              // whole tiles of registers: 6, 8, 12 rows
    KEYS = 512,
    MANY = 8192                 // keys that are packed once for all
};

#define LOG2_E 1.44269504f

typedef struct Attention {
    WanDev *d;
    WanTensor *y;
    const WanTensor *q, *k, *v;
    const WanAttentionArgs *a;
    int64_t D, depth, cols;     // of a head: as it is, as inputs, as columns
    int64_t rows, row_tiles;    // queries of a tile, tiles of a head
    int64_t block;              // numbers of a block of packed keys
    int64_t value_block;        // likewise of values
    int64_t worker_bytes;
    uint16_t *keys, *values;    // of head, for all workers; NULL: each its own
    int64_t head;
} Attention;

typedef struct Worker {
    int64_t head;               // whose keys and values are packed, -1: none
    uint16_t *keys, *values;    // block by block
    uint16_t *q;                // [rows, depth]
    uint16_t *p;                // [rows, KEYS]
    float *s;                   // [rows, KEYS]
    float *o;                   // [rows, cols]
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
    PLACE(q, QUERIES * t->depth);
    PLACE(p, QUERIES * KEYS);
    PLACE(s, QUERIES * KEYS);
    PLACE(o, QUERIES * t->cols);
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

/* ---------------------------------------------------------------- tiles */

/* Keys and values [j, j + n) of a head. */
static void pack_block(const Attention *t, uint16_t *keys, uint16_t *values,
                       int64_t head, int64_t j, int64_t n)
{
    const int64_t b = j / KEYS;

    wan_bf16_pack_rows(keys + b * t->block, wan_row(t->k, j) + head * t->D,
                       t->k->pitch, n, t->D);
    wan_bf16_pack(values + b * t->value_block,
                  wan_row(t->v, j) + head * t->D, t->v->pitch, t->D, n);
}

static void pack_for_all(void *arg, int64_t b, int worker)
{
    const Attention *t = arg;
    const int64_t j = b * KEYS, left = wan_rows(t->k) - j;

    (void)worker;
    pack_block(t, t->keys, t->values, t->head, j, left < KEYS ? left : KEYS);
}

/* One head of some queries. y may be q: these rows and columns of q are read
 * by this tile alone, and before they are written. */
static void tile(void *arg, int64_t index, int worker)
{
    const Attention *t = arg;
    const WanAttentionArgs *a = t->a;
    Worker *own = worker_of(t, worker);
    const int64_t Lq = wan_rows(t->q), Lk = wan_rows(t->k), D = t->D;
    const int64_t head = t->keys ? t->head : index / t->row_tiles;
    const int64_t i = index % t->row_tiles * t->rows;
    const int64_t m = Lq - i < t->rows ? Lq - i : t->rows;
    const int packed = t->keys || own->head == head;
    const uint16_t *keys = t->keys ? t->keys : own->keys;
    const uint16_t *values = t->keys ? t->values : own->values;
    float max[QUERIES];
    double total[QUERIES];

    own->head = -1;
    for (int64_t r = 0; r < m; r++)
        wan_bf16_round(own->q + r * t->depth, wan_row(t->q, i + r) + head * D,
                       D, a->scale * LOG2_E);
    for (int64_t j = 0; j < Lk; j += KEYS) {
        const int64_t n = Lk - j < KEYS ? Lk - j : KEYS;
        const int64_t ld = wan_bf16_cols(n), b = j / KEYS;

        if (wan_dev_cancelled(t->d))
            return;
        if (!packed)
            pack_block(t, own->keys, own->values, head, j, n);
        wan_bf16_product(m, n, t->depth, 1, NULL, own->q, t->depth,
                         keys + b * t->block, 0, own->s, ld);
        if (a->rel_bias)
            wan_cpu_add_rel_bias(own->s, ld, m, n, i, j, a->rel_bias, head,
                                 LOG2_E, own->line);
        if (a->tail > 1 && j + n == Lk)
            for (int64_t r = 0; r < m; r++)
                own->s[r * ld + n - 1] += log2f((float)a->tail);
        for (int64_t r = 0; r < m; r++)
            row_exp2(own->p + r * ld, own->s + r * ld, n, j == 0, &max[r],
                     &total[r], own->o + r * t->cols, D);
        wan_bf16_product(m, D, wan_bf16_depth(n), 1, NULL, own->p, ld,
                         values + b * t->value_block, j > 0, own->o,
                         t->cols);
    }
    own->head = head;
    for (int64_t r = 0; r < m; r++)
        wan_cpu_store_head(wan_row(t->y, i + r) + head * D,
                           own->o + r * t->cols, D, total[r], a->add);
}

static Attention plan(const WanTensor *q, const WanTensor *k,
                      const WanAttentionArgs *a)
{
    const int64_t D = wan_cols(q) / a->heads;
    const int64_t tiles = wan_ceil_div(wan_rows(q), QUERIES);
    Attention t = {
        .q = q, .k = k, .a = a,
        .D = D, .depth = wan_bf16_depth(D), .cols = wan_bf16_cols(D),
        .row_tiles = tiles,
        .rows = tiles ? wan_ceil_div(wan_ceil_div(wan_rows(q), tiles), 24) * 24
                      : 0,
        .block = wan_bf16_packed(KEYS, D),
        .value_block = wan_bf16_packed(D, KEYS),
    };

    t.worker_bytes = lay_out(&t, NULL);
    return t;
}

/* Bytes of a head's packed keys, for all. */
static int64_t key_bytes(const Attention *t)
{
    return aligned(blocks(t) * t->block * (int64_t)sizeof(uint16_t));
}

int64_t wan_cpu_attention_bf16_scratch(int threads, const WanTensor *q,
                                       const WanTensor *k,
                                       const WanAttentionArgs *a)
{
    const Attention t = plan(q, k, a);
    const int64_t values = aligned(blocks(&t) * t.value_block *
                                   (int64_t)sizeof(uint16_t));

    return threads * t.worker_bytes +
           (is_many(&t) ? key_bytes(&t) + values : 0);
}

void wan_cpu_attention_bf16(WanDev *d, WanTensor *y, const WanTensor *q,
                            const WanTensor *k, const WanTensor *v,
                            const WanAttentionArgs *a)
{
    Attention t = plan(q, k, a);
    char *behind = (char *)d->scratch + d->threads * t.worker_bytes;

    t.d = d;
    t.y = y;
    t.v = v;
    for (int i = 0; i < d->threads; i++)
        lay_out(&t, worker_of(&t, i));
    if (!is_many(&t)) {
        wan_cpu_parallel(d, a->heads * t.row_tiles, tile, &t);
        return;
    }
    t.keys = (uint16_t *)behind;
    t.values = (uint16_t *)(behind + key_bytes(&t));
    for (t.head = 0; t.head < a->heads; t.head++) {
        wan_cpu_parallel(d, blocks(&t), pack_for_all, &t);
        wan_cpu_parallel(d, t.row_tiles, tile, &t);
    }
}
