/*
 * The linear layer on the CPU in BF16 or in 8 bits: tiles of the output, one
 * thread each.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A tile is up to 504 rows by 256 columns. Its rows of x are rounded once, and
 * kept by the worker for the tiles that follow with the same rows; its weights
 * are packed from where they lie, 1024 inputs, which are whole blocks of any
 * type, at a time, so that there is no second copy of them: that costs 2 % of
 * the products of 504 rows, 8 % of 72. Many threads get tiles of fewer rows, so
 * that none is idle for long. As in F32 (linear.c) bits depend neither on the
 * number of threads nor on which rows there are.
 *
 * In 8 bits each thousand inputs have scales of their own (int8.h), so that
 * weights are looked at while they are in the cache. Where one of a tile's
 * columns would lose too much, all of them are BF16 for these inputs, or F32
 * (wan_int8_beside_f32()). Q8_0 is multiplied as the file has it, so nothing of
 * it is lost.
 */

#include "bf16.h"
#include "cpu.h"
#include "int8.h"
#include "sgemm.h"

enum {
    ROWS = 504, COLS = 256, DEPTH = 1024,
    TILES = 4, LEAST_COLS = 48,         // where there would be fewer tiles
    WORK = 1 << 21,                     // multiplications of such a tile
    TILE_ROWS = 24,                     // whole tiles of registers
    FEWEST_ROWS = 72, FEW_THREADS = 4, TILES_EACH = 4,
    PANEL_COLS = 64                     // of packed columns, at most
};

typedef struct Part {
    const WanLinear *w;
    int64_t col;                        // its first one in y
    int64_t cols, tiles;                // columns of a tile, tiles of a row
} Part;

typedef struct Linear {
    WanDev *d;
    WanTensor *y;
    const WanTensor *x;
    const WanLinearArgs *a;
    Part part[WAN_PAGE_PARTS];
    int nb_parts;
    int64_t rows, row_tiles;            // of a tile, of y
    int64_t col_tiles;                  // of all parts
    int int8;                           // else BF16
    int64_t depth;                      // numbers of a row of rounded x
    int64_t panels;                     // of DEPTH inputs
    int64_t worker_bytes;
    int failed;                         // a product had no memory
} Linear;

_Static_assert(DEPTH / WAN_INT8_BLOCK * WAN_INT8_BLOCK_BYTES <=
               DEPTH * sizeof(uint16_t) && DEPTH % WAN_INT8_BLOCK == 0,
               "packed blocks have room where BF16 has");

/* What a worker has in scratch. */
typedef struct Worker {
    int64_t row_tile;                   // whose x is rounded, -1: none
    uint16_t *x;                        // [rows, depth]; in 8 bits the inputs
                                        // of a panel that is not [rows, DEPTH]
    uint16_t *panel;                    // packed, [COLS, DEPTH] or less bytes
    float *sum;                         // [rows, COLS]
    float *wide;                        // [PANEL_COLS, DEPTH]
    uint8_t *x8;                        // [rows, depth]
    float *scale;                       // of x8 [rows, panels]
    WanInt8Columns columns;             // of the packed panel
} Worker;

static int64_t aligned(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static Worker *worker_of(const Linear *l, int worker)
{
    return (Worker *)((char *)l->d->scratch + worker * l->worker_bytes);
}

/* Lay a worker's memory out; returns its bytes. w NULL: count. */
static int64_t lay_out(const Linear *l, Worker *w)
{
    int64_t at = aligned(sizeof(Worker));
    Worker own = { .row_tile = -1 };

#define PLACE(field, numbers) \
    (own.field = (void *)((char *)w + at), \
     at += aligned((numbers) * (int64_t)sizeof(*own.field)))
    PLACE(x, l->rows * (l->int8 ? DEPTH : l->depth));
    PLACE(panel, COLS * DEPTH);
    PLACE(sum, l->rows * COLS);
    PLACE(wide, PANEL_COLS * DEPTH);
    PLACE(x8, l->int8 ? l->rows * l->depth : 0);
    PLACE(scale, l->int8 ? l->rows * l->panels : 0);
#undef PLACE
    if (w)
        *w = own;
    return at;
}

/* ----------------------------------------------------------- one tile */

/* Inputs [k, k + kn) of n columns from n0 on, packed, in 8 bits if that is
 * asked for; returns how many columns are too rough then. */
static int pack(Worker *own, const WanTensor *w, int64_t K, int64_t n0,
                int64_t n, int64_t k, int64_t kn, int int8)
{
    const char *src = (const char *)w->data +
                      wan_type_bytes(w->type, n0 * K + k);
    const int in_place = w->type == WAN_BF16 ||
                         (w->type == WAN_F32 &&
                          (uintptr_t)src % sizeof(float) == 0);
    int rough = 0;

    for (int64_t from = 0, cols; from < n; from += cols) {
        const void *rows = src + wan_type_bytes(w->type, from * K);
        const WanType type = in_place ? w->type : WAN_F32;
        const int64_t ld = in_place ? K : kn;
        int8_t *dst8 = (int8_t *)own->panel + from * wan_int8_depth(kn);
        uint16_t *dst = own->panel + from * wan_bf16_depth(kn);

        cols = wan_bf16_panel(n - from);
        cols = cols < n - from ? cols : n - from;
        if (!in_place) {
            for (int64_t c = 0; c < cols; c++)
                wan_cpu_to_f32(own->wide + c * kn, src +
                               wan_type_bytes(w->type, (from + c) * K),
                               w->type, kn);
            rows = own->wide;
        }
        if (int8)
            rough += wan_int8_pack(dst8, &own->columns, (int)from, rows, type,
                                   ld, cols, kn);
        else if (type == WAN_BF16)
            wan_bf16_pack_rows16(dst, rows, ld, cols, kn);
        else
            wan_bf16_pack_rows(dst, rows, ld, cols, kn);
    }
    return rough;
}

/* m rows of x from i0 on, for all tiles of these. */
static void round_rows(const Linear *l, Worker *own, int64_t i0, int64_t m)
{
    const int64_t K = wan_cols(l->x);

    for (int64_t r = 0; r < m; r++) {
        const float *x = wan_row(l->x, i0 + r);

        if (!l->int8) {
            wan_bf16_round(own->x + r * l->depth, x, K, 1);
            continue;
        }
        for (int64_t p = 0; p < l->panels; p++) {
            const int64_t k = p * DEPTH, kn = K - k < DEPTH ? K - k : DEPTH;

            own->scale[r * l->panels + p] =
                wan_int8_round(own->x8 + r * l->depth + k, x + k, kn);
        }
    }
}

/* As panel(), of weights in blocks that are multiplied as they lie. */
static void blocks(const Linear *l, Worker *own, const WanTensor *w, int64_t i0,
                   int64_t m, int64_t n0, int64_t n, int64_t k, int64_t kn)
{
    const int64_t K = wan_cols(l->x);
    int8_t *packed = (int8_t *)own->panel;

    if (!i0) {
        __atomic_fetch_add(&l->d->int8.columns, n, __ATOMIC_RELAXED);
        __atomic_fetch_add(&l->d->int8.exact, n, __ATOMIC_RELAXED);
    }
    wan_int8_pack_blocks(packed, (const char *)w->data +
                         wan_type_bytes(w->type, n0 * K + k), K, n, kn);
    wan_int8_product_blocks(m, n, kn, own->x8 + k, l->depth,
                            own->scale + k / DEPTH, l->panels, packed, k > 0,
                            own->sum, wan_bf16_cols(n));
}

/* As panel(), in F32. */
static void wide_panel(Linear *l, Worker *own, const WanTensor *w, int64_t i0,
                       int64_t m, int64_t n0, int64_t n, int64_t k, int64_t kn)
{
    const int64_t K = wan_cols(l->x);

    for (int64_t from = 0; from < n; from += PANEL_COLS) {
        const int64_t cols = n - from < PANEL_COLS ? n - from : PANEL_COLS;

        for (int64_t c = 0; c < cols; c++)
            wan_cpu_to_f32(own->wide + c * kn, (const char *)w->data +
                           wan_type_bytes(w->type, (n0 + from + c) * K + k),
                           w->type, kn);
        if (wan_sgemm_rows(1, m, cols, kn, 1, wan_row(l->x, i0) + k,
                           l->x->pitch, own->wide, kn, k > 0, own->sum + from,
                           wan_bf16_cols(n)) < 0)
            __atomic_store_n(&l->failed, 1, __ATOMIC_RELAXED);
    }
}

/* sum (+)= inputs [k, k + kn) of m rows from i0 on by n columns from n0 on. */
static void panel(Linear *l, Worker *own, const WanTensor *w, int64_t i0,
                  int64_t m, int64_t n0, int64_t n, int64_t k, int64_t kn)
{
    const int64_t K = wan_cols(l->x), ld = wan_bf16_cols(n);
    const uint16_t *x = own->x + k;
    int64_t depth = l->depth;

    if (l->int8 && w->type == WAN_Q8_0) {
        blocks(l, own, w, i0, m, n0, n, k, kn);
        return;
    }
    if (l->int8) {
        const int rough = pack(own, w, K, n0, n, k, kn, 1);

        if (!i0) {
            __atomic_fetch_add(&l->d->int8.columns, n, __ATOMIC_RELAXED);
            __atomic_fetch_add(&l->d->int8.rough, rough, __ATOMIC_RELAXED);
        }
        if (!rough) {
            wan_int8_product(m, n, wan_int8_depth(kn), own->x8 + k, l->depth,
                             own->scale + k / DEPTH, l->panels,
                             (const int8_t *)own->panel, &own->columns, k > 0,
                             own->sum, ld);
            return;
        }
        if (wan_int8_beside_f32()) {
            wide_panel(l, own, w, i0, m, n0, n, k, kn);
            return;
        }
        x = own->x;
        depth = DEPTH;
        for (int64_t r = 0; r < m; r++)
            wan_bf16_round(own->x + r * DEPTH, wan_row(l->x, i0 + r) + k, kn,
                           1);
    }
    pack(own, w, K, n0, n, k, kn, 0);
    wan_bf16_product(m, n, wan_bf16_depth(kn), 1, NULL, x, depth, own->panel,
                     k > 0, own->sum, ld);
}

static void tile(void *arg, int64_t i, int worker)
{
    Linear *l = arg;
    Worker *own = worker_of(l, worker);
    const int64_t row_tile = i / l->col_tiles;
    const int64_t i0 = row_tile * l->rows, K = wan_cols(l->x);
    const int64_t left = wan_rows(l->y) - i0;
    const int64_t m = left < l->rows ? left : l->rows;
    int64_t col_tile = i % l->col_tiles;
    const Part *p = l->part;

    for (; col_tile >= p->tiles; p++)
        col_tile -= p->tiles;

    const WanTensor *w = &p->w->weight, *scale = &p->w->scale;
    const int per_column = scale->nb_dims && wan_count(scale) > 1;
    const int64_t n0 = col_tile * p->cols, N = w->dim[0];
    const int64_t n = N - n0 < p->cols ? N - n0 : p->cols;
    const int64_t ld = wan_bf16_cols(n);

    if (own->row_tile != row_tile)
        round_rows(l, own, i0, m);
    own->row_tile = row_tile;
    for (int64_t k = 0; k < K; k += DEPTH)
        panel(l, own, w, i0, m, n0, n, k, K - k < DEPTH ? K - k : DEPTH);
    for (int64_t r = 0; r < m; r++)
        wan_cpu_finish_row(wan_row(l->y, i0 + r) + p->col + n0,
                           own->sum + r * ld, n,
                           wan_cpu_from(scale, per_column ? n0 : 0),
                           per_column, wan_cpu_from(&p->w->bias, n0),
                           l->a->act, wan_cpu_from(l->a->gate, n0), l->a->add);
}

/* ------------------------------------------------------------ the entry */

/* COLS, or less where threads would find few tiles; of 8 bits columns of a tile
 * share what they are rounded to, so this knows no threads. */
static int64_t tile_cols(int64_t rows, int64_t n, int64_t k,
                         int64_t row_tiles)
{
    int64_t tiles = wan_ceil_div(n, COLS);

    while (row_tiles * tiles < TILES && n >= (tiles + 1) * LEAST_COLS &&
           rows * n * k >= (tiles + 1) * WORK)
        tiles++;
    return tiles ? wan_bf16_cols(wan_ceil_div(n, tiles)) : COLS;
}

/* Tiles of rows that many threads want: some for each with all its columns, as
 * few more as can be, since threads wait for the last. */
static int64_t tiles_for(int threads, int64_t rows, int64_t cols)
{
    const int64_t least = wan_ceil_div(rows, ROWS);
    const int64_t most = wan_ceil_div(rows, FEWEST_ROWS);
    const int64_t n = cols ? TILES_EACH * threads / wan_ceil_div(cols, COLS)
                           : 0;

    return threads <= FEW_THREADS || n < least ? least : n < most ? n : most;
}

static int64_t tile_rows(int64_t rows, int64_t tiles)
{
    return tiles ? wan_ceil_div(wan_ceil_div(rows, tiles), TILE_ROWS) *
                   TILE_ROWS : 0;
}

/* The memory of it, but for the parts. */
static Linear plan(int threads, const WanTensor *y, const WanTensor *x,
                   int int8)
{
    const int64_t M = wan_rows(y), K = wan_cols(x);
    Linear l = {
        .int8 = int8, .depth = int8 ? wan_int8_depth(K) : wan_bf16_depth(K),
        .panels = wan_ceil_div(K, DEPTH),
    };

    l.rows = tile_rows(M, tiles_for(threads, M, wan_cols(y)));
    l.row_tiles = l.rows ? wan_ceil_div(M, l.rows) : 0;
    l.worker_bytes = lay_out(&l, NULL);
    return l;
}

static void run(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                const WanLinear *const *w, const WanLinearArgs *a, int int8)
{
    Linear l = plan(d->threads, y, x, int8);
    const int64_t M = wan_rows(y), row_tiles = wan_ceil_div(M, ROWS);
    int64_t col = 0;

    l.d = d;
    l.y = y;
    l.x = x;
    l.a = a;
    for (int i = 0; i < n; i++) {
        const int64_t N = w[i]->weight.dim[0];
        Part *p = &l.part[l.nb_parts++];

        p->w = w[i];
        p->col = col;
        p->cols = tile_cols(tile_rows(M, row_tiles), N, wan_cols(x),
                            row_tiles * n);
        p->tiles = wan_ceil_div(N, p->cols);
        l.col_tiles += p->tiles;
        col += N;
    }
    for (int i = 0; i < d->threads; i++)
        lay_out(&l, worker_of(&l, i));
    wan_cpu_parallel(d, l.row_tiles * l.col_tiles, tile, &l);
    if (l.failed)
        wan_dev_fail(d, WAN_ERR(ENOMEM), "linear: no memory for a product");
}

/* What a layer is computed in where others are INT8 or BF16. */
static enum WanPrecision precision_of(const WanLinear *w,
                                      enum WanPrecision others)
{
    const enum WanPrecision least = w->least ? w->least : WAN_PRECISION_BF16;
    const enum WanPrecision p = least < others ? least : others;

    return p < others && wan_int8_beside_f32() ? WAN_PRECISION_F32 : p;
}

static int64_t scratch(int threads, const WanTensor *y, const WanTensor *x,
                       const WanLinear *w, const WanLinearArgs *a,
                       enum WanPrecision others)
{
    const enum WanPrecision p = precision_of(w, others);

    if (p == WAN_PRECISION_F32)
        return wan_cpu_linear_scratch(threads, y, x, w, a);
    return threads *
           plan(threads, y, x, p == WAN_PRECISION_INT8).worker_bytes;
}

static void linear(WanDev *d, WanTensor *y, const WanTensor *x,
                   const WanLinear *w, const WanLinearArgs *a,
                   enum WanPrecision others)
{
    const enum WanPrecision p = precision_of(w, others);

    if (p == WAN_PRECISION_F32)
        wan_cpu_linear(d, y, x, w, a);
    else
        run(d, y, x, 1, &w, a, p == WAN_PRECISION_INT8);
}

int64_t wan_cpu_linear_bf16_scratch(int threads, const WanTensor *y,
                                    const WanTensor *x, const WanLinear *w,
                                    const WanLinearArgs *a)
{
    return scratch(threads, y, x, w, a, WAN_PRECISION_BF16);
}

void wan_cpu_linear_bf16(WanDev *d, WanTensor *y, const WanTensor *x,
                         const WanLinear *w, const WanLinearArgs *a)
{
    linear(d, y, x, w, a, WAN_PRECISION_BF16);
}

int64_t wan_cpu_linear_int8_scratch(int threads, const WanTensor *y,
                                    const WanTensor *x, const WanLinear *w,
                                    const WanLinearArgs *a)
{
    return scratch(threads, y, x, w, a, WAN_PRECISION_INT8);
}

void wan_cpu_linear_int8(WanDev *d, WanTensor *y, const WanTensor *x,
                         const WanLinear *w, const WanLinearArgs *a)
{
    linear(d, y, x, w, a, WAN_PRECISION_INT8);
}

/* All of them alike, and rounded. */
static int fits(int n, const WanLinear *const *w, enum WanPrecision others)
{
    const enum WanPrecision first = precision_of(w[0], others);

    for (int i = 0; i < n; i++)
        if (precision_of(w[i], others) != first)
            return 0;
    return first != WAN_PRECISION_F32;
}

int wan_cpu_linear_n_bf16_fits(const WanTensor *y, const WanTensor *x, int n,
                               const WanLinear *const *w)
{
    (void)y, (void)x;
    return fits(n, w, WAN_PRECISION_BF16);
}

int wan_cpu_linear_n_int8_fits(const WanTensor *y, const WanTensor *x, int n,
                               const WanLinear *const *w)
{
    (void)y, (void)x;
    return fits(n, w, WAN_PRECISION_INT8);
}

void wan_cpu_linear_n_bf16(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                           const WanLinear *const *w)
{
    run(d, y, x, n, w, &(WanLinearArgs){ 0 }, 0);
}

void wan_cpu_linear_n_int8(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                           const WanLinear *const *w)
{
    run(d, y, x, n, w, &(WanLinearArgs){ 0 },
        precision_of(w[0], WAN_PRECISION_INT8) == WAN_PRECISION_INT8);
}
