/*
 * The linear layer on the CPU: tiles of the output, one thread each.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A tile is up to 504 rows by 256 columns, narrower where there are few. Its
 * sum is gathered in the worker's scratch and goes through scale, bias,
 * activation, gate and add into y while it is in the cache. f32 weights are
 * used where they lie; other types are widened for each tile, a panel of 1024
 * inputs, which are whole blocks of any type, at a time: that costs little
 * beside the products of many rows. Tiles that follow one another share their
 * rows of x. Sizes do not depend on the number of threads, so neither do the
 * results; a row's depend on no other row, so neither do they on which rows
 * there are (ranks.h).
 */

#include <math.h>

#include "cpu.h"
#include "f32.h"
#include "sgemm.h"
#include "simd.h"

enum {
    ROWS = 21 * WAN_SGEMM_ROWS, COLS = 256, DEPTH = 1024,
    TILES = 4, LEAST_COLS = 48,         // where there would be fewer tiles
    WORK = 1 << 20                      // multiplications of such a tile
};

/* One layer of those that share x. */
typedef struct Part {
    const WanLinear *w;
    WanTensor y;
    int64_t cols, col_tiles;            // of a tile, of a row of tiles
} Part;

typedef struct Linear {
    WanDev *d;
    const WanTensor *x;
    const WanLinearArgs *a;
    Part part[WAN_PAGE_PARTS];
    int64_t rows;                       // of a tile
    int64_t row_tiles, col_tiles;       // of all parts
    int64_t worker_floats;
    int failed;                         // a product had no memory
} Linear;

/* --------------------------------------------------------- number types */

/* f16 without special hardware: exponents moved to f32's bias; 0 and the
 * subnormals by a subtraction that is exact. */
WAN_INLINE float widen_f16(uint16_t h)
{
    const uint32_t m = (uint32_t)(h & 0x7fff) << 13;
    const uint32_t e = m & 0x0f800000;
    const uint32_t normal = m + (112u << 23) +
                            (e == 0x0f800000 ? 112u << 23 : 0);
    const float sub = wan_bits_f32(m + (113u << 23)) - 0x1p-14f;
    const uint32_t u = wan_choose_bits(e != 0, normal, wan_f32_bits(sub));

    return wan_bits_f32(u | (uint32_t)(h & 0x8000) << 16);
}

WAN_INLINE float widen_e4m3(uint8_t v)
{
    const uint32_t m = (uint32_t)(v & 0x7f) << 20;
    const float sub = wan_bits_f32(m + (121u << 23)) - 0x1p-6f;
    const uint32_t normal = wan_choose_bits(m == 0x7f00000, 0x7fc00000,
                                            m + (120u << 23));
    const uint32_t u = wan_choose_bits((m & 0x7800000) != 0, normal,
                                       wan_f32_bits(sub));

    return wan_bits_f32(u | (uint32_t)(v & 0x80) << 24);
}

WAN_SIMD static void widen_16(float *dst, const void *src, int bf16,
                              int64_t n)
{
    const char *p = src;
    uint16_t h;

    if (bf16)
        WAN_APART
        for (int64_t i = 0; i < n; i++) {
            memcpy(&h, p + 2 * i, 2);
            dst[i] = wan_bits_f32((uint32_t)h << 16);
        }
    else
        WAN_APART
        for (int64_t i = 0; i < n; i++) {
            memcpy(&h, p + 2 * i, 2);
            dst[i] = widen_f16(h);
        }
}

WAN_SIMD static void widen_8(float *dst, const void *src, int e4m3, int64_t n)
{
    const uint8_t *p = src;

    if (e4m3)
        WAN_APART
        for (int64_t i = 0; i < n; i++)
            dst[i] = widen_e4m3(p[i]);
    else
        WAN_APART
        for (int64_t i = 0; i < n; i++)
            dst[i] = widen_f16((uint16_t)(p[i] << 8));
}

void wan_cpu_to_f32(float *dst, const void *src, WanType type, int64_t n)
{
    switch (type) {
    case WAN_BF16:
    case WAN_F16:
        widen_16(dst, src, type == WAN_BF16, n);
        break;
    case WAN_F8_E4M3:
    case WAN_F8_E5M2:
        widen_8(dst, src, type == WAN_F8_E4M3, n);
        break;
    default:
        wan_to_f32(dst, src, type, n, 1);
    }
}

/* ----------------------------------------------------------- one tile */

WAN_SIMD static void finish_row(float *y, float *s, int64_t n,
                                const float *scale, int scale_step,
                                const float *bias, WanAct act,
                                const float *gate, int add)
{
    if (scale)
        WAN_APART
        for (int64_t c = 0; c < n; c++)
            s[c] *= scale[c * scale_step];
    if (bias && !act && !gate && !add) {        // in one go
        WAN_APART
        for (int64_t c = 0; c < n; c++)
            y[c] = s[c] + bias[c];
        return;
    }
    if (bias)
        WAN_APART
        for (int64_t c = 0; c < n; c++)
            s[c] += bias[c];

    if (act == WAN_ACT_SILU)
        WAN_APART
        for (int64_t c = 0; c < n; c++)
            s[c] = wan_siluf(s[c]);
    else if (act == WAN_ACT_GELU_TANH)
        WAN_APART
        for (int64_t c = 0; c < n; c++)
            s[c] = wan_gelu_tanhf(s[c]);
    else if (act == WAN_ACT_GELU_ERF)
        WAN_APART
        for (int64_t c = 0; c < n; c++)
            s[c] = wan_gelu_erff(s[c]);
    else if (act == WAN_ACT_RELU)
        WAN_APART
        for (int64_t c = 0; c < n; c++)
            s[c] = wan_reluf(s[c]);
    else if (act == WAN_ACT_TANH3)
        for (int64_t c = 0; c < n; c++)
            s[c] = 3 * tanhf(s[c] / 3);

    if (gate)
        WAN_APART
        for (int64_t c = 0; c < n; c++)
            y[c] += gate[c] * s[c];
    else if (add)
        WAN_APART
        for (int64_t c = 0; c < n; c++)
            y[c] += s[c];
    else
        memcpy(y, s, n * sizeof(*y));
}

void wan_cpu_finish_row(float *y, float *s, int64_t n, const float *scale,
                        int scale_step, const float *bias, WanAct act,
                        const float *gate, int add)
{
    finish_row(y, s, n, scale, scale_step, bias, act, gate, add);
}

/* Whether the product can read the weights where they lie. */
static int in_place(const WanTensor *w)
{
    return w->type == WAN_F32 && (uintptr_t)w->data % sizeof(float) == 0;
}

/* sum [m, n] = x W^T, W's rows from n0 on. room: COLS * DEPTH floats. */
static int product(float *sum, int64_t m, int64_t n, const float *x,
                   int64_t pitch, const WanTensor *w, int64_t n0, int64_t K,
                   float *room)
{
    const int64_t depth = in_place(w) ? K : DEPTH;
    int ret = 0;

    for (int64_t k = 0; k < K && !ret; k += depth) {
        const int64_t kn = K - k < depth ? K - k : depth;
        const char *src = (const char *)w->data +
                          wan_type_bytes(w->type, n0 * K + k);
        const float *b = (const float *)src;
        int64_t ldb = K;

        if (!in_place(w)) {
            for (int64_t c = 0; c < n; c++)
                wan_cpu_to_f32(room + c * kn, src +
                               wan_type_bytes(w->type, c * K), w->type, kn);
            b = room;
            ldb = kn;
        }
        ret = wan_sgemm_rows(1, m, n, kn, 1, x + k, pitch, b, ldb, k > 0, sum,
                             n);
    }
    return ret;
}

/* The same, with the same bits, by products of our own: BF16 is packed from
 * where it lies, other types are widened for a panel of columns. */
static int own_product(float *sum, int64_t m, int64_t n, const float *x,
                       int64_t pitch, const WanTensor *w, int64_t n0,
                       int64_t K, float *room)
{
    const int64_t depth = in_place(w) ? K : DEPTH, C = wan_f32_cols();
    float *packed = room, *wide = room + C * WAN_F32_DEPTH;

    for (int64_t k = 0; k < K; k += depth)
        for (int64_t j = 0; j < n; j += C) {
            const int64_t kn = K - k < depth ? K - k : depth;
            const int64_t nj = n - j < C ? n - j : C;
            const char *src = (const char *)w->data +
                              wan_type_bytes(w->type, (n0 + j) * K + k);
            const float *b = in_place(w) ? (const float *)src : wide;

            for (int64_t c = 0; c < nj && b == wide && w->type != WAN_BF16; c++)
                wan_cpu_to_f32(wide + c * kn, src +
                               wan_type_bytes(w->type, c * K), w->type, kn);
            for (int64_t p = 0, z; p < kn; p += z) {
                z = wan_f32_depth(kn - p, kn, n > WAN_F32_COPIED);
                if (w->type == WAN_BF16)
                    wan_f32_pack16(packed, (const uint16_t *)src + p, K, nj, z);
                else
                    wan_f32_pack(packed, b + p, b == wide ? kn : K, nj, z, 1);
                wan_f32_product(m, nj, z, 1, x + k + p, pitch, packed, C,
                                k || p, sum + j, n);
            }
        }
    return 0;
}

static void tile(void *arg, int64_t i, int worker)
{
    Linear *l = arg;
    const int64_t i0 = i / l->col_tiles * l->rows;
    const Part *p = l->part;

    for (i %= l->col_tiles; i >= p->col_tiles; p++)
        i -= p->col_tiles;
    const WanTensor *w = &p->w->weight, *scale = &p->w->scale;
    const int64_t K = wan_cols(l->x), N = wan_cols(&p->y);
    const int64_t n0 = i * p->cols;
    const int64_t left = wan_rows(l->x) - i0;
    const int64_t m = left < l->rows ? left : l->rows;
    const int64_t n = N - n0 < p->cols ? N - n0 : p->cols;
    const int per_column = scale->nb_dims && wan_count(scale) > 1;
    float *sum = (float *)l->d->scratch + worker * l->worker_floats; // [m, n]
    const int ret = (wan_f32_native() ? own_product : product)(
        sum, m, n, wan_row(l->x, i0), l->x->pitch, w, n0, K,
        sum + l->rows * COLS);

    if (ret < 0) {
        __atomic_store_n(&l->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (int64_t r = 0; r < m; r++)
        wan_cpu_finish_row(wan_row(&p->y, i0 + r) + n0, sum + r * n, n,
                           wan_cpu_from(scale, per_column ? n0 : 0),
                           per_column, wan_cpu_from(&p->w->bias, n0),
                           l->a->act, wan_cpu_from(l->a->gate, n0), l->a->add);
}

/* ------------------------------------------------------------ the entry */

/* COLS, or less where threads would find few tiles and each has some ten
 * microseconds of work. Whole vectors of 16, and no more inputs than are cut the
 * same way however many columns there are (wan_f32_depth()), so that each sum is
 * made as in the wider tile: the bits are the same. others: tiles that there are
 * besides. */
static int64_t tile_cols(int64_t rows, int64_t n, int64_t k,
                         int64_t row_tiles, int64_t others)
{
    int64_t tiles = wan_ceil_div(n, COLS);

    if (n % 16 || !n)
        return COLS;
    while (row_tiles * tiles + others < TILES && k <= 2 * WAN_F32_DEPTH &&
           n >= (tiles + 1) * LEAST_COLS && rows * n * k >= (tiles + 1) * WORK)
        tiles++;
    return wan_pad16(wan_ceil_div(n, tiles));
}

static Linear plan(const WanTensor *x)
{
    Linear l = { .x = x, .row_tiles = wan_ceil_div(wan_rows(x), ROWS) };

    l.rows = wan_sgemm_tile(wan_rows(x), l.row_tiles);
    /* The widened panel is counted for f32 too: whether a file aligned its
     * data is not known when only shapes are. */
    l.worker_floats = l.rows * COLS + COLS * (int64_t)DEPTH;
    return l;
}

int64_t wan_cpu_linear_scratch(int threads, const WanTensor *y,
                               const WanTensor *x, const WanLinear *w,
                               const WanLinearArgs *a)
{
    (void)y, (void)w, (void)a;
    return threads * plan(x).worker_floats * (int64_t)sizeof(float);
}

/* n layers whose results stand side by side in y. */
static void linear(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                   const WanLinear *const *w, const WanLinearArgs *a)
{
    Linear l = plan(x);
    int64_t at = 0;

    l.d = d;
    l.a = a;
    for (int i = 0; i < n; i++) {
        const int64_t cols = w[i]->weight.dim[0];
        Part *p = &l.part[i];

        p->w = w[i];
        p->y = wan_columns(y, at, cols);
        p->cols = tile_cols(l.rows, cols, wan_cols(x), l.row_tiles,
                            (n - 1) * l.row_tiles);
        p->col_tiles = wan_ceil_div(cols, p->cols);
        l.col_tiles += p->col_tiles;
        at += cols;
    }
    wan_cpu_parallel(d, l.row_tiles * l.col_tiles, tile, &l);
    if (l.failed)
        wan_dev_fail(d, WAN_ERR(ENOMEM), "linear: no memory for a product");
}

void wan_cpu_linear(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanLinear *w, const WanLinearArgs *a)
{
    linear(d, y, x, 1, &w, a);
}

void wan_cpu_linear_n(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                      const WanLinear *const *w)
{
    linear(d, y, x, n, w, &(WanLinearArgs){ 0 });
}

int wan_cpu_linear_n_fits(const WanTensor *y, const WanTensor *x, int n,
                          const WanLinear *const *w)
{
    (void)y, (void)x, (void)n, (void)w;
    return 1;
}
