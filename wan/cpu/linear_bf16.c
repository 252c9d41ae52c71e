/*
 * The linear layer on the CPU in BF16: tiles of the output, one thread each.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A tile is up to 504 rows by 256 columns. Its rows of x are rounded once, and
 * kept by the worker for the tiles that follow with the same rows; its weights
 * are packed from where they lie, 1024 inputs, which are whole blocks of any
 * type, at a time, so that there is no second copy of them: that costs 2 % of
 * the products of 504 rows. As in F32 (linear.c) sizes and bits depend neither
 * on the number of threads nor on which rows there are.
 */

#include "bf16.h"
#include "cpu.h"

enum {
    ROWS = 504, COLS = 256, DEPTH = 1024,
    TILES = 4, LEAST_COLS = 48,         // where there would be fewer tiles
    WORK = 1 << 21,                     // multiplications of such a tile
    TILE_ROWS = 24                      // whole tiles of registers
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
    int64_t depth;                      // inputs as they are rounded
    int64_t worker_bytes;
} Linear;

/* What a worker has in scratch. */
typedef struct Worker {
    int64_t row_tile;                   // whose x is rounded, -1: none
    uint16_t *x;                        // [rows, depth]
    uint16_t *panel;                    // packed, [COLS, DEPTH]
    float *sum;                         // [rows, COLS]
    float *wide;                        // [WAN_BF16_COLS, DEPTH]
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
    const int64_t head = aligned(sizeof(Worker));
    const int64_t x = aligned(l->rows * l->depth * sizeof(uint16_t));
    const int64_t panel = COLS * DEPTH * sizeof(uint16_t);
    const int64_t sum = aligned(l->rows * COLS * sizeof(float));
    char *p = (char *)w;

    if (w)
        *w = (Worker){
            .row_tile = -1,
            .x = (uint16_t *)(p + head),
            .panel = (uint16_t *)(p + head + x),
            .sum = (float *)(p + head + x + panel),
            .wide = (float *)(p + head + x + panel + sum),
        };
    return head + x + panel + sum + WAN_BF16_COLS * DEPTH * sizeof(float);
}

/* ----------------------------------------------------------- one tile */

/* Inputs [k, k + kn) of n columns from n0 on, packed. */
static void pack(const Worker *own, const WanTensor *w, int64_t K, int64_t n0,
                 int64_t n, int64_t k, int64_t kn)
{
    const char *src = (const char *)w->data +
                      wan_type_bytes(w->type, n0 * K + k);

    if (w->type == WAN_BF16) {
        wan_bf16_pack_rows16(own->panel, (const uint16_t *)src, K, n, kn);
        return;
    }
    for (int64_t from = 0, cols; from < n; from += cols) {
        int64_t step;
        uint16_t *dst = own->panel + wan_bf16_at(n, kn, from, &step);

        cols = wan_bf16_panel(n - from);
        cols = cols < n - from ? cols : n - from;
        if (w->type == WAN_F32 && (uintptr_t)src % sizeof(float) == 0) {
            wan_bf16_pack_rows(dst, (const float *)src + from * K, K, cols, kn);
            continue;
        }
        for (int64_t c = 0; c < cols; c++)
            wan_cpu_to_f32(own->wide + c * kn, src +
                           wan_type_bytes(w->type, (from + c) * K), w->type,
                           kn);
        wan_bf16_pack_rows(dst, own->wide, kn, cols, kn);
    }
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
        for (int64_t r = 0; r < m; r++)
            wan_bf16_round(own->x + r * l->depth, wan_row(l->x, i0 + r), K, 1);
    own->row_tile = row_tile;
    for (int64_t k = 0; k < K; k += DEPTH) {
        const int64_t kn = K - k < DEPTH ? K - k : DEPTH;

        pack(own, w, K, n0, n, k, kn);
        wan_bf16_product(m, n, wan_bf16_depth(kn), 1, NULL, own->x + k,
                         l->depth, own->panel, k > 0, own->sum, ld);
    }
    for (int64_t r = 0; r < m; r++)
        wan_cpu_finish_row(wan_row(l->y, i0 + r) + p->col + n0,
                           own->sum + r * ld, n,
                           wan_cpu_from(scale, per_column ? n0 : 0),
                           per_column, wan_cpu_from(&p->w->bias, n0),
                           l->a->act, wan_cpu_from(l->a->gate, n0), l->a->add);
}

/* ------------------------------------------------------------ the entry */

/* COLS, or less where threads would find few tiles. */
static int64_t tile_cols(int64_t rows, int64_t n, int64_t k,
                         int64_t row_tiles)
{
    int64_t tiles = wan_ceil_div(n, COLS);

    while (row_tiles * tiles < TILES && n >= (tiles + 1) * LEAST_COLS &&
           rows * n * k >= (tiles + 1) * WORK)
        tiles++;
    return tiles ? wan_bf16_cols(wan_ceil_div(n, tiles)) : COLS;
}

/* The memory of it, but for the parts. */
static Linear plan(const WanTensor *y, const WanTensor *x)
{
    const int64_t M = wan_rows(y), tiles = wan_ceil_div(M, ROWS);
    Linear l = {
        .row_tiles = tiles, .depth = wan_bf16_depth(wan_cols(x)),
        .rows = tiles ? wan_ceil_div(wan_ceil_div(M, tiles), TILE_ROWS) *
                        TILE_ROWS : 0,
    };

    l.worker_bytes = lay_out(&l, NULL);
    return l;
}

static void run(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                const WanLinear *const *w, const WanLinearArgs *a)
{
    Linear l = plan(y, x);
    int64_t col = 0;

    l.d = d;
    l.y = y;
    l.x = x;
    l.a = a;
    for (int i = 0; i < n; i++) {
        const int64_t N = w[i]->weight.dim[0];
        Part *p = &l.part[i];

        p->w = w[i];
        p->col = col;
        p->cols = tile_cols(l.rows, N, wan_cols(x), l.row_tiles * n);
        p->tiles = wan_ceil_div(N, p->cols);
        l.col_tiles += p->tiles;
        col += N;
    }
    for (int i = 0; i < d->threads; i++)
        lay_out(&l, worker_of(&l, i));
    wan_cpu_parallel(d, l.row_tiles * l.col_tiles, tile, &l);
}

static int is_rounded(const WanLinear *w)
{
    return w->least != WAN_PRECISION_F32;
}

int64_t wan_cpu_linear_bf16_scratch(int threads, const WanTensor *y,
                                    const WanTensor *x, const WanLinear *w,
                                    const WanLinearArgs *a)
{
    if (!is_rounded(w))
        return wan_cpu_linear_scratch(threads, y, x, w, a);
    return threads * plan(y, x).worker_bytes;
}

void wan_cpu_linear_bf16(WanDev *d, WanTensor *y, const WanTensor *x,
                         const WanLinear *w, const WanLinearArgs *a)
{
    if (is_rounded(w))
        run(d, y, x, 1, &w, a);
    else
        wan_cpu_linear(d, y, x, w, a);
}

int wan_cpu_linear_n_bf16_fits(const WanTensor *y, const WanTensor *x, int n,
                               const WanLinear *const *w)
{
    (void)y, (void)x;
    for (int i = 0; i < n; i++)
        if (!is_rounded(w[i]))
            return 0;
    return 1;
}

void wan_cpu_linear_n_bf16(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                           const WanLinear *const *w)
{
    const WanLinearArgs plain = { 0 };

    run(d, y, x, n, w, &plain);
}
