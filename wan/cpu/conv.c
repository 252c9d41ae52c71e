/*
 * Convolution on the CPU: for each tap of the kernel, one matrix product of a
 * band of pixels, shifted, with that tap's [I, O] weights.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A band is some rows of one output frame. For each frame of the kernel its
 * input rows are copied into the worker's scratch with the zeros around them,
 * so that one shift holds for every pixel of the band: with rows P pixels
 * apart, output pixel r P + c meets input pixel r P + c + shift at each tap.
 * The columns of zeros between rows give outputs that nobody reads.
 *
 *   stride 2     four planes, one for each parity of row and column
 *   upsample 2   four phases of the output, each a 2x2 kernel over the input
 *                as it is; taps that read the same pixel are summed first
 *   few inputs   all taps of a tile of pixels summed in registers
 *   few outputs  the products of all taps side by side, then shifted sums
 *
 * In BF16 pixels are rounded as they are copied, all taps of a frame of the
 * kernel are one product whose sums stay in registers, and few inputs are
 * nothing special (bf16.h).
 *
 * Weights are widened and turned to [phase][frame][tap][panel of O][I][its
 * columns] first, in BF16 to [phase][frame] of the factor that bf16.h packs. Sizes do not depend on the number of threads, so neither do
 * the results; a pixel's depend on no other, so neither do they on which rows
 * there are (ranks.h): products have whole tiles of rows and few columns. The
 * rows that fill them up are what stands behind the band in scratch, and make
 * outputs that nobody reads either.
 */

#include "bf16.h"
#include "cpu.h"
#include "sgemm.h"
#include "simd.h"

enum {
    PIXELS = 512,       // of a band, about
    WIDE_PIXELS = 4096, // of a band with few channels
    FEW = 32,           // channels
    COLS = 256,         // of a panel: of so few oneDNN takes all rows one way
    TURN = 8,           // input channels turned in one go
    EIGHTS = 12         // sums of eight channels: what AVX2 has registers for
};

typedef struct Conv {
    WanDev *d;
    WanTensor *y;
    const WanTensor *x;
    const WanConv *w;
    const WanConvArgs *a;

    int64_t I, O, kt, k;
    int phases, taps;           // of one frame of the kernel
    int64_t shift[4][9];        // in pixels, by phase and tap
    int64_t H, W, P;            // a phase's rows and columns, its row pitch
    int64_t rows, bands;        // rows of a band, bands of a frame
    int64_t planes, plane;      // planes and their pixels
    int bf16;                   // else F32
    int few;                    // inputs
    int scatter;                // few outputs
    int64_t n, cols;            // columns of a product, of a panel of them
    int64_t depth, pixel_bytes; // numbers and bytes of a pixel in planes
    int64_t pitch, z_pitch;     // floats of a pixel's sums, of its products
    int64_t frame_weights;      // numbers of a frame of the kernel
    int64_t weights;            // floats in scratch
    int64_t packed, sums, worker_floats;    // a worker's, in floats
    int failed;                 // a product had no memory
} Conv;

/* ------------------------------------------------------------- geometry */

/* Rows of products that make so many. */
static int64_t tiles(int64_t rows)
{
    return wan_ceil_div(rows, WAN_SGEMM_ROWS) * WAN_SGEMM_ROWS;
}

static Conv plan(const WanTensor *y, const WanTensor *x, const WanConv *w,
                 const WanConvArgs *a, int bf16)
{
    const WanTensor *wt = &w->weight;
    const int stride = a->stride, up = a->upsample;
    Conv s = {
        .y = (WanTensor *)y, .x = x, .w = w, .a = a,
        .O = wt->dim[0], .I = wt->dim[1], .kt = wt->dim[2], .k = wt->dim[3],
        .phases = up * up, .bf16 = bf16,
    };
    int64_t most;

    s.taps = s.k == 1 ? 1 : up == 2 ? 4 : 9;
    s.H = y->dim[1] / up;
    s.W = y->dim[2] / up;
    s.P = s.W + (s.k == 1 ? 0 : stride == 2 ? 1 : 2);
    s.scatter = s.O * s.taps <= FEW && s.k == 3 && stride == 1 && up == 1;
    s.few = !s.scatter && s.I < FEW && s.taps > 1 && !bf16;
    most = (s.scatter || s.few ? WIDE_PIXELS : PIXELS) / s.P;
    s.bands = wan_ceil_div(s.H, most > 0 ? most : 1);
    s.rows = s.bands ? wan_ceil_div(s.H, s.bands) : 0;
    s.planes = stride == 2 ? 4 : 1;
    s.plane = (s.rows + (s.k == 1 ? 0 : stride == 2 ? 1 : 2)) * s.P;
    s.n = s.scatter ? s.O * s.taps : s.O;
    s.cols = s.few ? s.n : wan_pad16(wan_ceil_div(s.n,
                                                  wan_ceil_div(s.n, COLS)));

    for (int p = 0; p < s.phases && s.k == 3; p++)
        for (int t = 0; t < s.taps; t++) {
            if (up == 2)
                s.shift[p][t] = (p / 2 + t / 2) * s.P + p % 2 + t % 2;
            else if (stride == 2)
                s.shift[p][t] = (t / 3 % 2 * 2 + t % 3 % 2) * s.plane +
                                t / 6 * s.P + t % 3 / 2;
            else
                s.shift[p][t] = t / 3 * s.P + t % 3;
        }

    s.depth = bf16 ? wan_bf16_depth(s.I) : s.I;
    s.pixel_bytes = s.depth * (bf16 ? sizeof(uint16_t) : sizeof(float));
    s.pitch = bf16 ? wan_bf16_cols(s.O) : s.O;
    s.z_pitch = bf16 ? wan_bf16_cols(s.n) : s.n;
    if (bf16) {
        s.frame_weights = s.scatter ? wan_bf16_packed(s.n, s.depth)
                                    : wan_bf16_packed(s.O, s.taps * s.depth);
        s.packed = wan_ceil_div(s.planes * s.plane * s.depth, 2);
        s.weights = wan_ceil_div(s.phases * s.kt * s.frame_weights, 2);
    } else {
        s.frame_weights = s.taps * s.I * s.O;
        s.packed = s.k == 1 ? 0
                            : (s.planes * s.plane + WAN_SGEMM_ROWS) * s.I;
        s.weights = s.phases * s.kt * s.frame_weights;
    }
    s.weights = wan_pad16(s.weights);
    s.sums = tiles(s.rows * s.P) * s.pitch;
    /* planes, sums of a band, weights being turned, products before they are
     * scattered */
    s.worker_floats =
        wan_pad16(s.packed) + wan_pad16(s.sums) +
        wan_pad16(TURN * s.kt * s.k * s.k) +
        wan_pad16(s.scatter ? tiles(s.plane) * s.z_pitch : 0);
    return s;
}

/* -------------------------------------------------------------- weights */

/* Which of a 3x3 kernel's taps phase p of an upsampled output sums into its
 * tap t, along one axis: 0 | 1 2 for the even, 0 1 | 2 for the odd pixel. */
static void sum_range(int p, int t, int *from, int *to)
{
    *from = t ? 1 + p : 0;
    *to = t ? 3 : 1 + p;
}

/* The kernel k x k of one input, output and frame as phase p's tap t. */
static float tap_weight(const Conv *s, const float *w, int p, int t)
{
    int r0, r1, c0, c1;
    float sum = 0;

    if (s->k == 1 || s->phases == 1)
        return w[t];
    sum_range(p / 2, t / 2, &r0, &r1);
    sum_range(p % 2, t % 2, &c0, &c1);
    for (int r = r0; r < r1; r++)
        for (int c = c0; c < c1; c++)
            sum += w[r * 3 + c];
    return sum;
}

/* Columns of the panel that begins at column c. */
static int64_t panel(const Conv *s, int64_t c)
{
    return s->n - c < s->cols ? s->n - c : s->cols;
}

/* Where an output's weights go: from first on, so far for each input and tap. */
typedef struct Place {
    int64_t first, input, tap;
} Place;

static Place place_of(const Conv *s, int64_t o)
{
    const int64_t c = o / s->cols * s->cols;

    if (s->scatter)
        return (Place){ o, s->taps * s->O, s->O };
    return (Place){ c * s->I + o - c, panel(s, c), s->O * s->I };
}

/* Likewise of a tap in BF16, so far for two inputs; the second of them is
 * behind the first. */
static Place place_of_pairs(const Conv *s, int64_t o, int t)
{
    Place at;

    if (s->scatter) {
        at.first = wan_bf16_at(s->n, s->depth, t * s->O + o, &at.input);
    } else {
        at.first = wan_bf16_at(s->O, s->taps * s->depth, o, &at.input);
        at.first += t * s->depth / 2 * at.input;
    }
    return at;
}

/* Weights in [m][kt][k * k] of output o and inputs from i0 on to their places. */
static void turn_f32(const Conv *s, const float *in, int64_t o, int64_t i0,
                     int64_t m)
{
    const Place at = place_of(s, o);
    float *dst = s->d->scratch;

    for (int64_t i = 0; i < m; i++)
        for (int64_t dt = 0; dt < s->kt; dt++, in += s->k * s->k)
            for (int p = 0; p < s->phases; p++)
                for (int t = 0; t < s->taps; t++)
                    dst[(p * s->kt + dt) * s->frame_weights + at.first +
                        (i0 + i) * at.input + t * at.tap] =
                        tap_weight(s, in, p, t);
}

static void turn_bf16(const Conv *s, const float *in, int64_t o, int64_t i0,
                      int64_t m)
{
    const int64_t kk = s->k * s->k;

    for (int t = 0; t < s->taps; t++) {
        const Place at = place_of_pairs(s, o, t);

        for (int p = 0; p < s->phases; p++)
            for (int64_t dt = 0; dt < s->kt; dt++) {
                uint16_t *dst = (uint16_t *)s->d->scratch + at.first +
                                (p * s->kt + dt) * s->frame_weights;

                for (int64_t i = 0; i < m; i++)
                    dst[(i0 + i) / 2 * at.input + (i0 + i) % 2] =
                        wan_f32_to_bf16(tap_weight(s, in + (i * s->kt + dt) *
                                                   kk, p, t));
            }
    }
}

/* Input channels [index * TURN, ...) of all outputs to their places. */
static void turn_weights(void *arg, int64_t index, int worker)
{
    Conv *s = arg;
    const WanTensor *w = &s->w->weight;
    const int64_t I = s->I, kt = s->kt, kk = s->k * s->k;
    const int64_t i0 = index * TURN, m = I - i0 < TURN ? I - i0 : TURN;
    float *in = (float *)s->d->scratch + s->weights +
                worker * s->worker_floats;

    for (int64_t o = 0; o < s->O; o++) {
        wan_cpu_to_f32(in, (const char *)w->data + (o * I + i0) * kt * kk *
                           wan_type_size(w->type), w->type, m * kt * kk);
        if (s->bf16)
            turn_bf16(s, in, o, i0, m);
        else
            turn_f32(s, in, o, i0, m);
    }
}

/* --------------------------------------------------------------- a band */

/* Row r of frame t of the input, -1 and H those beside it; NULL: zeros. */
static const float *input_row(const Conv *s, int64_t t, int64_t r)
{
    const int64_t H = s->x->dim[1], W = s->x->dim[2];
    const WanTensor *beside = r < 0 ? s->a->above : s->a->below;

    if (r >= 0 && r < H)
        return wan_row(s->x, (t * H + r) * W);
    return beside ? wan_row(beside, t * W) : NULL;
}

/* So many pixels into planes; returns what is behind them. NULL: zeros. */
static char *put(const Conv *s, char *dst, const float *in, int64_t pixels)
{
    if (!in)
        memset(dst, 0, pixels * s->pixel_bytes);
    else if (!s->bf16)
        memcpy(dst, in, pixels * s->pixel_bytes);
    else if (s->depth == s->I)
        wan_bf16_round((uint16_t *)dst, in, pixels * s->I, 1);
    else
        for (int64_t i = 0; i < pixels; i++)
            wan_bf16_round((uint16_t *)dst + i * s->depth, in + i * s->I, s->I,
                           1);
    return dst + pixels * s->pixel_bytes;
}

/* The input of output rows [r0, r0 + rows) from frame t, into planes. */
static void pack(const Conv *s, char *dst, int64_t t, int64_t r0,
                 int64_t rows)
{
    const int64_t H = s->x->dim[1], W = s->x->dim[2], I = s->I;
    const float *frame = wan_row(s->x, t * H * W);

    if (s->k == 1) {
        put(s, dst, frame + r0 * W * I, rows * W);
        return;
    }
    if (s->planes == 1) {
        for (int64_t r = r0 - 1; r < r0 + rows + 1; r++) {
            const float *in = input_row(s, t, r);

            dst = put(s, dst, NULL, 1);
            dst = put(s, dst, in, W);
            dst = put(s, dst, NULL, 1);
        }
        return;
    }
    for (int q = 0; q < 4; q++)
        for (int64_t r = 0; r < rows + 1; r++)
            for (int64_t c = 0; c < s->P; c++) {
                const int64_t row = 2 * (r0 + r) + q / 2 - s->a->centre;
                const int64_t col = 2 * c + q % 2 - s->a->centre;
                const int inside = row >= 0 && row < H && col >= 0 && col < W;

                put(s, dst + (q * s->plane + r * s->P + c) * s->pixel_bytes,
                    inside ? frame + (row * W + col) * I : NULL, 1);
            }
}

/* Eight floats wherever they lie. */
typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));

/* All taps of a tile of pixels and output channels, whose sums stay in
 * registers. */
WAN_INLINE void few_tile(const Conv *s, int pixels, int eights, float *sum,
                         const float *in, const float *w, int phase,
                         int first)
{
    Eight acc[EIGHTS] = { { 0 } };

    for (int t = 0; t < s->taps; t++) {
        const float *x = in + s->shift[phase][t] * s->I;

        for (int64_t i = 0; i < s->I; i++, w += s->O)
            for (int p = 0; p < pixels; p++)
                for (int c = 0; c < eights; c++)
                    acc[p * eights + c] += x[p * s->I + i] *
                                           ((const Eight *)w)[c];
    }
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < eights; c++) {
            Eight *out = (Eight *)(sum + p * s->O) + c;

            if (first)
                *out = acc[p * eights + c];
            else
                *out += acc[p * eights + c];
        }
}

/* The same of one pixel and one channel. */
WAN_INLINE void few_one(const Conv *s, float *sum, const float *in,
                        const float *w, int phase, int first)
{
    float acc = 0;

    for (int t = 0; t < s->taps; t++)
        for (int64_t i = 0; i < s->I; i++, w += s->O)
            acc += in[s->shift[phase][t] * s->I + i] * *w;
    *sum = first ? acc : *sum + acc;
}

/* sum (+)= all taps of few inputs, m pixels. */
WAN_SIMD static void few_inputs(const Conv *s, float *sum, const float *in,
                                const float *w, int64_t m, int phase,
                                int first)
{
    const int64_t I = s->I, O = s->O;
    int64_t o = 0;

    for (; o + 16 <= O; o += 16) {
        int64_t i = 0;

        for (; i + EIGHTS / 2 <= m; i += EIGHTS / 2)
            few_tile(s, EIGHTS / 2, 2, sum + i * O + o, in + i * I, w + o,
                     phase, first);
        for (; i < m; i++)
            few_tile(s, 1, 2, sum + i * O + o, in + i * I, w + o, phase,
                     first);
    }
    for (; o + 8 <= O; o += 8) {
        int64_t i = 0;

        for (; i + EIGHTS <= m; i += EIGHTS)
            few_tile(s, EIGHTS, 1, sum + i * O + o, in + i * I, w + o, phase,
                     first);
        for (; i < m; i++)
            few_tile(s, 1, 1, sum + i * O + o, in + i * I, w + o, phase,
                     first);
    }
    for (; o < O; o++)
        for (int64_t i = 0; i < m; i++)
            few_one(s, sum + i * O + o, in + i * I, w + o, phase, first);
}

/* z [m, n] (+)= in [m, k] w [panel][k, its columns]. But for inputs that are
 * read where they lie there are whole tiles of rows behind m. */
static int product(const Conv *s, int64_t m, int64_t k, const float *in,
                   const float *w, int add, float *z)
{
    const int64_t rows = s->k == 1 ? m : tiles(m);
    int ret = 0;

    for (int64_t c = 0; c < s->n && !ret; c += s->cols)
        ret = wan_sgemm_rows(0, rows, panel(s, c), k, 1, in, k, w + c * k,
                             panel(s, c), add, z + c, s->n);
    return ret;
}

/* sum (+)= all taps, m pixels: as one product in BF16. */
static void products_bf16(const Conv *s, float *sum, const uint16_t *in,
                          const uint16_t *w, int64_t m, int phase, int first)
{
    int64_t shift[9];

    for (int t = 0; t < s->taps; t++)
        shift[t] = s->shift[phase][t] * s->depth;
    wan_bf16_product(m, s->O, s->depth, s->taps, shift, in, s->depth, w,
                     !first, sum, s->pitch);
}

/* sum (+)= each tap's product with the planes; m pixels. */
static int products(const Conv *s, float *sum, const float *in,
                    const float *w, int64_t m, int phase, int first)
{
    const int64_t I = s->I, O = s->O;
    int ret = 0;

    if (s->few) {
        few_inputs(s, sum, in, w, m, phase, first);
        return 0;
    }
    for (int t = 0; t < s->taps && !ret; t++)
        ret = product(s, m, I, in + s->shift[phase][t] * I, w + t * I * O,
                      !first || t, sum);
    return ret;
}

/* sum[i] (+)= the shifted products z [pixels, taps * O] */
WAN_SIMD static void scatter_sums(const Conv *s, float *sum, const float *z,
                                  int64_t m, int first)
{
    const int64_t O = s->O, pitch = s->pitch;

    for (int64_t i = 0; i < m; i++)
        for (int64_t o = 0; o < O; o++) {
            float v = first ? 0 : sum[i * pitch + o];

            for (int t = 0; t < 9; t++)
                v += z[(i + s->shift[0][t]) * s->z_pitch + t * O + o];
            sum[i * pitch + o] = v;
        }
}

/* n pixels `step` pixels apart: y (+)= sum + bias, then relu. */
WAN_SIMD static void store(float *y, const float *sum, int64_t pitch,
                           int64_t n, int64_t step, const float *bias,
                           int64_t O, int add, int relu)
{
    for (int64_t c = 0; c < n; c++, y += step * O, sum += pitch) {
        if (add)
            WAN_APART
            for (int64_t o = 0; o < O; o++)
                y[o] += sum[o] + bias[o];
        else
            WAN_APART
            for (int64_t o = 0; o < O; o++)
                y[o] = sum[o] + bias[o];
        if (relu)
            WAN_APART
            for (int64_t o = 0; o < O; o++)
                y[o] = wan_reluf(y[o]);
    }
}

/* One frame of the kernel: sum (+)= its taps of m pixels, rows of a band. */
static int frame_taps(const Conv *s, float *sum, const void *in, int64_t rows,
                      int64_t m, int phase, int64_t dt, float *z)
{
    const int64_t pixels = (rows + 2) * s->P;
    const int64_t at = (phase * s->kt + dt) * s->frame_weights;
    const float *w = (const float *)s->d->scratch + at;
    const uint16_t *w16 = (const uint16_t *)s->d->scratch + at;
    int ret = 0;

    if (!s->scatter && s->bf16)
        products_bf16(s, sum, in, w16, m, phase, dt == 0);
    if (!s->scatter)
        return s->bf16 ? 0 : products(s, sum, in, w, m, phase, dt == 0);
    if (s->bf16)
        wan_bf16_product(pixels, s->n, s->depth, 1, NULL, in, s->depth, w16, 0,
                         z, s->z_pitch);
    else
        ret = product(s, pixels, s->I, in, w, 0, z);
    if (ret >= 0)
        scatter_sums(s, sum, z, m, dt == 0);
    return ret;
}

static void band(void *arg, int64_t index, int worker)
{
    Conv *s = arg;
    const WanTensor *x = s->x, *y = s->y;
    const int up = s->a->upsample;
    const int64_t t = index / s->bands, r0 = index % s->bands * s->rows;
    const int64_t rows = s->H - r0 < s->rows ? s->H - r0 : s->rows;
    const int64_t m = (rows - 1) * s->P + s->W;
    float *packed = (float *)s->d->scratch + s->weights +
                    worker * s->worker_floats;
    float *sum = packed + wan_pad16(s->packed);
    float *z = sum + wan_pad16(s->sums);

    if (rows <= 0)
        return;
    for (int p = 0; p < s->phases; p++) {
        for (int64_t dt = 0; dt < s->kt; dt++) {
            const int64_t from = t * s->a->stride_t + dt;
            const float *in = packed;

            if (wan_dev_cancelled(s->d))
                return;
            if (s->k == 1 && !s->bf16)
                in = wan_row(x, (from * x->dim[1] + r0) * x->dim[2]);
            else if (s->kt > 1 || p == 0)
                pack(s, (char *)packed, from, r0, rows);
            if (frame_taps(s, sum, in, rows, m, p, dt, z) < 0) {
                __atomic_store_n(&s->failed, 1, __ATOMIC_RELAXED);
                return;
            }
        }
        for (int64_t r = 0; r < rows; r++) {
            const int64_t row = (r0 + r) * up + p / 2;

            store(wan_row(y, (t * y->dim[1] + row) * y->dim[2] + p % 2),
                  sum + r * s->P * s->pitch, s->pitch, s->W, up,
                  s->w->bias.data, s->O, s->a->add,
                  s->a->act == WAN_ACT_RELU);
        }
    }
}

/* ------------------------------------------------------------ the entry */

static int64_t scratch(int threads, const Conv *s)
{
    return (s->weights + threads * s->worker_floats) * (int64_t)sizeof(float);
}

static void run(WanDev *d, Conv *s)
{
    s->d = d;
    if (s->bf16 && (s->O % WAN_BF16_COLS || s->depth != s->I || s->scatter))
        memset(d->scratch, 0, s->weights * sizeof(float));
    wan_cpu_parallel(d, wan_ceil_div(s->I, TURN), turn_weights, s);
    wan_cpu_parallel(d, s->y->dim[0] * s->bands, band, s);
    if (s->failed)
        wan_dev_fail(d, WAN_ERR(ENOMEM), "conv: no memory for a product");
}

int64_t wan_cpu_conv_scratch(int threads, const WanTensor *y,
                             const WanTensor *x, const WanConv *w,
                             const WanConvArgs *a)
{
    const Conv s = plan(y, x, w, a, 0);

    return scratch(threads, &s);
}

void wan_cpu_conv(WanDev *d, WanTensor *y, const WanTensor *x,
                  const WanConv *w, const WanConvArgs *a)
{
    Conv s = plan(y, x, w, a, 0);

    run(d, &s);
}

int64_t wan_cpu_conv_bf16_scratch(int threads, const WanTensor *y,
                                  const WanTensor *x, const WanConv *w,
                                  const WanConvArgs *a)
{
    const Conv s = plan(y, x, w, a, 1);

    return scratch(threads, &s);
}

void wan_cpu_conv_bf16(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanConv *w, const WanConvArgs *a)
{
    Conv s = plan(y, x, w, a, 1);

    run(d, &s);
}
