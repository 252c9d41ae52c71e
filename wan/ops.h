/*
 * The ops: every equation the models are written in, on any backend.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The functions here are the front door. Each checks its shapes, writes the
 * trace, counts the work, looks at the cancel flag and the first error, and
 * hands the same arguments to the backend's entry. An entry that a backend
 * leaves NULL runs as a composition of other entries, given with each op as
 * "composed". Destination first, then sources, weights, options.
 *
 * Inputs and outputs are values: f32, or the backend's type of activations
 * (backend->act, f32 on the CPU), each on its own, so that an op may read one
 * and write the other. Where f32 is said, or in lincomb, resize, upload and
 * noise, it is f32 alone. Matrices [L, C] may be views with a pitch wider
 * than C. y may be x where it says so; else outputs overlap no input. Gains,
 * biases, gates, tables are f32 (weights.h converts them); matrices of
 * weights have any float type of the file, or are in blocks. Sums are f32 or better whatever
 * the types.
 *
 * The ref backend's entry, a plain loop with sums in double, is each op's
 * definition.
 */

#ifndef WAN_OPS_H
#define WAN_OPS_H

#include "dev.h"
#include "weights.h"

typedef enum WanAct { WAN_ACT_NONE, WAN_ACT_SILU, WAN_ACT_GELU_TANH,
                      WAN_ACT_GELU_ERF, WAN_ACT_RELU,
                      WAN_ACT_TANH3,        // 3 tanh(x / 3)
                      WAN_NB_ACTS } WanAct;

/* ------------------------------------------------------------ linear */

typedef struct WanLinearArgs {
    WanAct act;
    int add;                // y += instead of y =
    const WanTensor *gate;  // [N] f32: y += gate * (x W^T + b); implies add
} WanLinearArgs;

/**
 * y = act(x W^T * scale + b); with .add: y += ...; with .gate: y += gate * ...
 * (act before the gate). y: [M, N], x: [M, K], W: [N, K] of any float type.
 * With w->e4m3 a device may round x, some thousand rows with one scale, and W,
 * with one for all, to e4m3. Where w has products of low rank beside W, they
 * are computed one after the other and added to y, before the act, which does
 * not go with .add or .gate then.
 */
#define wan_op_linear(d, y, x, w, ...) \
    wan_op_linear_((d), (y), (x), (w), (WanLinearArgs){ __VA_ARGS__ })
void wan_op_linear_(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanLinear *w, WanLinearArgs a);

/**
 * y = x [W0; W1; ...]^T * scale + [b0, b1, ...]: some layers of one input,
 * their results side by side, of which wan_columns() makes views.
 * wan_op_linear_n(d, &y, &x, &q, &k, &v): y [M, Nq + Nk + Nv], x [M, K]; two
 * to WAN_PAGE_PARTS layers. Composed: linear into the columns of each.
 */
#define wan_op_linear_n(d, y, x, ...) \
    wan_op_linear_n_((d), (y), (x), \
                     (int)(sizeof((const WanLinear *[]){__VA_ARGS__}) / \
                           sizeof(const WanLinear *)), \
                     (const WanLinear *const[]){__VA_ARGS__})
void wan_op_linear_n_(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                      const WanLinear *const *w);

/* --------------------------------------------------------- attention */

typedef struct WanAttentionArgs {
    int heads;              // C / heads is the head size
    float scale;            // of q k^T; 0: 1 / sqrt(head size)
    const WanTensor *rel_bias; // [32, heads] f32: T5's bias, added to the
                            // scaled score: rel_bias[bucket(j - i), head]
    int64_t tail;           // the last key counts this many times (0: once)
    int add;                // y += instead of y =
    int64_t rows;           // k and v are this rank's of so many, see ranks;
                            // 0: they are whole
    int64_t lot;            // ranks have whole lots of so many rows (0: 1)
} WanAttentionArgs;

/**
 * y = softmax(scale q k^T + bias) v, head by head, no mask.
 * q, y: [Lq, C]; k, v: [Lk, C]. y may be q (without .add). Memory is linear
 * in Lq and Lk. Identical keys at the end are folded: .tail = n adds ln n to
 * the last key's score, which is exact.
 *
 * With .rows, q, k, v and y are a rank's share of the rows of a longer sequence
 * and the keys of all ranks are attended to, in their order. Where the heads
 * can be divided among the ranks, each gets all rows of its heads and gives the
 * results back; else each gets all keys and values. Neither changes a bit.
 */
#define wan_op_attention(d, y, q, k, v, ...) \
    wan_op_attention_((d), (y), (q), (k), (v), \
                      (WanAttentionArgs){ __VA_ARGS__ })
void wan_op_attention_(WanDev *d, WanTensor *y, const WanTensor *q,
                       const WanTensor *k, const WanTensor *v,
                       WanAttentionArgs a);

typedef struct WanRing {
    int heads;
    float scale;            // as of attention
    int64_t sink;           // rows that the ring does not come back to
    int64_t at;             // row of the block's first token
    int64_t held;           // rows that are attended to, the block's among them
    const struct WanRope *rope; // what turns keys as they are read, a grid of
                            // held rows; NULL: they are kept as they are read
    int64_t rows;           // of the block, of which q, k and v are this rank's;
                            // 0: they are whole
} WanRing;

/**
 * Attention of a block of tokens to kept keys and values, which the block's
 * own become part of. First rows of k and v go to rows at, at + 1, ... of keys
 * and values; behind the last of these comes row sink: a ring behind rows that
 * stay. Then y = softmax(scale q rope(keys)^T) values over the first held
 * rows, head by head, no mask; in which order they lie is nothing to the sum.
 * q, y: [Lq, C]; k, v: [n, C]; keys, values: [R, C] each, dense. y may be q.
 * y and q NULL: the block's are kept, and that is all.
 * Composed: copy; with .rope a copy of the keys and rope; attention.
 */
#define wan_op_ring_attention(d, y, q, k, v, keys, values, ...) \
    wan_op_ring_attention_((d), (y), (q), (k), (v), (keys), (values), \
                           (WanRing){ __VA_ARGS__ })
void wan_op_ring_attention_(WanDev *d, WanTensor *y, const WanTensor *q,
                            const WanTensor *k, const WanTensor *v,
                            WanTensor *keys, WanTensor *values, WanRing a);

/* Columns that a rank keeps of keys and values of C, in so many heads: all, where
 * it is alone. */
int64_t wan_ring_width(const WanDev *d, int heads, int64_t C);

/* T5's bucket of key position - query position, 0 to 31 (spec/text: 16 for
 * keys behind, exact below 8, logarithmic to 91). */
int wan_t5_bucket(int64_t delta);

/* ------------------------------------------------------- convolution */

/* Weights of a convolution. */
typedef struct WanConv {
    WanTensor weight;       // [O, I, kt, kh, kw], as stored
    WanTensor bias;         // [O] f32
} WanConv;

typedef struct WanConvArgs {
    int stride_t;           // 0 or 1: one; 2
    int stride;             // of rows and columns, 0 or 1: one; 2
    int upsample;           // 2: x is read nearest-upsampled by 2 in rows and
                            // columns; 0 or 1: as it is
    int add;                // y += instead of y =
    int centre;             // with stride 2: zeros on every side
    WanAct act;             // of the result, what is added included: none or
                            // relu
    const WanTensor *above, *below; // [Tin, 1, W, I] of x's type, dense: the
                            // rows beside x's, at stride 1; NULL: zeros
    int64_t rows;           // x and y are this rank's part of frames that are
                            // cut between so many rows, however many each is
                            // by now, see ranks; 0: they are whole
} WanConvArgs;

/**
 * Convolution over frames, rows, columns; channels last.
 * x: [Tin, H, W, I], y: [T, Ho, Wo, O], both dense rows of channels.
 *
 * Time is never padded: T = (Tin - kt) / stride_t + 1; causal history stands
 * in x's first frames. Rows and columns: kernels are 1 or 3; 3 at stride 1 is
 * zero-padded by one on every side (Ho = H * upsample); 3 at stride 2 by one
 * row below and one column right alone, or with .centre as at stride 1 (Ho =
 * H / 2, H even).
 *
 * With .above and .below x and y are rows of a higher frame. With .rows, at
 * stride 1, these are the last and the first row of the ranks beside this one,
 * which send them. Neither changes a bit. Composed, where the backend's entry
 * knows zeros alone (conv_beside): the rows are put around a copy of x, and what
 * comes out for them is left out.
 */
#define wan_op_conv(d, y, x, w, ...) \
    wan_op_conv_((d), (y), (x), (w), (WanConvArgs){ __VA_ARGS__ })
void wan_op_conv_(WanDev *d, WanTensor *y, const WanTensor *x,
                  const WanConv *w, WanConvArgs a);

/* -------------------------------------------------------------- norms */

/* y = LN(x) * gain + bias, row by row; population variance; y may be x.
 * x, y: [L, C]; gain, bias: [C], both absent (NULL) for the plain norm. */
void wan_op_layer_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanTensor *gain, const WanTensor *bias,
                       float eps);

/* y = LN(x) * (1 + scale) + shift; y may be x. shift, scale: [C].
 * Composed: layer_norm with gain = 1 + scale made in scratch. */
void wan_op_modulate(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *shift, const WanTensor *scale,
                     float eps);

/* A branch joins its residual stream, and the norm of the sum:
 * x += gate * branch; y = LN(x) * gain + bias. x, y, branch: [L, C]; gate:
 * [C], or NULL: x += branch; gain, bias as above. The norm is of x as it is
 * stored; y may be branch, but not x. Composed: gate_add, layer_norm. */
void wan_op_gate_add_norm(WanDev *d, WanTensor *y, WanTensor *x,
                          const WanTensor *branch, const WanTensor *gate,
                          const WanTensor *gain, const WanTensor *bias,
                          float eps);

/* x += gate * branch; y = LN(x) * (1 + scale) + shift, likewise. Composed:
 * gate_add, modulate. */
void wan_op_gate_add_modulate(WanDev *d, WanTensor *y, WanTensor *x,
                              const WanTensor *branch, const WanTensor *gate,
                              const WanTensor *shift, const WanTensor *scale,
                              float eps);

/* y = x / sqrt(mean(x^2) + eps) * gain; y may be x. x: [L, C]. */
void wan_op_rms_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *gain, float eps);

/* The rotary embedding of a grid of tokens (f, h, w), w fastest. */
typedef struct WanRope {
    int heads;
    int grid[3];            // f, h, w: L = f * h * w
    int pairs[3];           // pairs of a head that turn with each axis; their
                            // sum is half the head size
    WanTensor table[3];     // [grid[a], pairs[a] * 2] f32: cos, sin
    int64_t first;          // token that the first row is: a rank has its share
} WanRope;

/* Tokens of the whole grid. */
static inline int64_t wan_rope_rows(const WanRope *r)
{
    return (int64_t)r->grid[0] * r->grid[1] * r->grid[2];
}

/* x: [n, C] in place, n tokens from .first on: pair p of each head, elements
 * (2p, 2p + 1), is turned by its axis' angle at the token's position:
 * (a, b) -> (a cos - b sin, a sin + b cos). */
void wan_op_rope(WanDev *d, WanTensor *x, const WanRope *rope);

/* rms_norm over all C, then rope, in place. Composed: these two. */
void wan_op_rms_norm_rope(WanDev *d, WanTensor *x, const WanTensor *gain,
                          float eps, const WanRope *rope);

/* The VAE's norm: y = act(x / max(|x|_2, 1e-12) * sqrt(C) * gain), row by
 * row; act is WAN_ACT_NONE or WAN_ACT_SILU; y may be x. Any number of
 * leading dimensions. */
void wan_op_l2_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanTensor *gain, WanAct act);

/* y[i] = |a_i - b_i|_p, row by row, the sum of magnitudes (p = 1) or the root
 * of the sum of squares (p = 2); b may be NULL: |a_i|_p. y: [L]; a, b: [L, C]
 * of one shape, f32. Any number of leading dimensions. */
void wan_op_row_norm(WanDev *d, WanTensor *y, const WanTensor *a,
                     const WanTensor *b, int p);

/* -------------------------------------------------------- elementwise */

/* y = act(x); y may be x. */
void wan_op_act(WanDev *d, WanTensor *y, const WanTensor *x, WanAct act);

/* y = a * b, all of one shape; y may be a or b. */
void wan_op_mul(WanDev *d, WanTensor *y, const WanTensor *a,
                const WanTensor *b);

/* y = gelu_tanh(g) * u; y may be g or u. Composed: act, mul. */
void wan_op_geglu(WanDev *d, WanTensor *y, const WanTensor *g,
                  const WanTensor *u);

/* y += gate * x; gate: [C], or NULL: y += x. */
void wan_op_gate_add(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *gate);

/* y = sum over i < n of coef[i] * x[i], f32 of one shape and dense; sums in
 * double on the CPU; y may be any x[i]. n is 1 to 6. */
void wan_op_lincomb(WanDev *d, WanTensor *y, int n, const double *coef,
                    const WanTensor *const *x);

/* y = x, shapes equal; pitches and types may differ. */
void wan_op_copy(WanDev *d, WanTensor *y, const WanTensor *x);

/* y = value. */
void wan_op_fill(WanDev *d, WanTensor *y, float value);

/* y [n...] = host data, dense f32 of y's count. The data may go after the
 * call. */
void wan_op_upload(WanDev *d, WanTensor *y, const float *host);

/* host = x as dense f32, and everything before it has happened. Waits. */
void wan_op_download(WanDev *d, float *host, const WanTensor *x);

/* Fails the device with WAN_ERR(EDOM) if x holds a NaN or an infinity; the text
 * names it: "step 3: the latent" makes "step 3: the latent is not finite". */
__attribute__((format(printf, 3, 4)))
void wan_op_finite(WanDev *d, const WanTensor *x, const char *fmt, ...);

/* --------------------------------------------------------------- ranks */

/* Where a device has ranks (ranks.h), each has wan_share() of the rows of a
 * matrix of tokens. Alone, the first two hand their argument back and share
 * does nothing. All of x is dense; what they return is from the arena. */

/* This rank's rows of the x [L, C] of its team's first; what x holds on others
 * is not read. */
WanTensor wan_op_scatter(WanDev *d, const WanTensor *x);

/* [L, C], the rows of the team in their order, on each of it: x [n, C] are this
 * one's of them. */
WanTensor wan_op_gather(WanDev *d, const WanTensor *x, int64_t L);

/* x becomes rank 0's, whatever its shape. Composed: a scatter and a gather of
 * its elements. */
void wan_op_share(WanDev *d, WanTensor *x);

/* y becomes the x of the rank that has this one's place in the other half. Of one
 * shape, dense. */
void wan_op_swap(WanDev *d, WanTensor *y, const WanTensor *x);

/* y [T, H, W, C] becomes whole on rank 0: x [T, n, W, C], dense, are this rank's
 * rows of each frame, rows as in conv. Others' y has a shape alone. */
void wan_op_collect(WanDev *d, WanTensor *y, const WanTensor *x, int64_t rows);

/* ------------------------------------------- text, latents and pixels */

/* y[i] = table[ids[i]]: y [n, D], table [V, D] of any float type; ids on the
 * host. */
void wan_op_embed(WanDev *d, WanTensor *y, const WanTensor *table,
                  const int32_t *ids);

/* tokens [f*h*w, I*p*p] from x [I, f, p*h, p*w], p by p positions a token:
 * feature (c*p + q)*p + r of token (t, i, j) is x[c, t, p*i + q, p*j + r]. */
void wan_op_patchify(WanDev *d, WanTensor *tokens, const WanTensor *x, int p);

/* x [O, f, 2h, 2w] from z [f*h*w, 4*O]: x[c, t, 2i+q, 2j+r] is feature
 * (q*2 + r)*O + c of token (t, i, j). Not patchify's order. */
void wan_op_unpatchify(WanDev *d, WanTensor *x, const WanTensor *z);

/* y [T, H, W, C] from x [C, T', H, W], frames [t0, t0 + T):
 * y = x * scale[c] + shift[c]; scale, shift: [C]. */
void wan_op_channels_last(WanDev *d, WanTensor *y, const WanTensor *x,
                          int64_t t0, const WanTensor *scale,
                          const WanTensor *shift);

/* The way back: frames [t0, t0 + T) of y [C, T', H, W] from the first C
 * channels of x [T, H, W, C'], C' >= C: y = x * scale[c] + shift[c]. */
void wan_op_channels_first(WanDev *d, WanTensor *y, int64_t t0,
                           const WanTensor *x, const WanTensor *scale,
                           const WanTensor *shift);

/* How channels lie in a frame of fewer positions: element c * (t s s) + (dt s
 * + dh) s + dw is channel c of frame t T + dt, row s H + dh, column s W + dw. */
typedef struct WanFold {
    int t, s;               // frames, and rows and columns that are one
    int columns_first;      // (dt s + dw) s + dh in place of that
    int add;                // y += instead of y =
} WanFold;

/**
 * Frames, rows and columns become channels, or the mean of some.
 * x: [t T - lead, s H, s W, a], y: [T, H, W, b], lead < t: as many frames of
 * zeros stand in front of x. b divides a t s s; channel o of y is the mean of
 * as many elements in a row as it is times smaller.
 */
#define wan_op_fold(d, y, x, ...) \
    wan_op_fold_((d), (y), (x), (WanFold){ __VA_ARGS__ })
void wan_op_fold_(WanDev *d, WanTensor *y, const WanTensor *x, WanFold a);

/**
 * The way back: channels become frames, rows and columns, each channel of x
 * several elements in a row where y is larger.
 * x: [T, H, W, a], y: [t T - lead, s H, s W, b], lead < t: as many of the
 * first frames are left out. a divides b t s s.
 */
#define wan_op_unfold(d, y, x, ...) \
    wan_op_unfold_((d), (y), (x), (WanFold){ __VA_ARGS__ })
void wan_op_unfold_(WanDev *d, WanTensor *y, const WanTensor *x, WanFold a);

/* Bicubic resize of planes, y [C, H, W] from x [C, h, w]: a = -0.75, pixel
 * centres at halves, no antialiasing, edges repeated, no clamp, as PyTorch's
 * interpolate(mode="bicubic", align_corners=False). */
void wan_op_resize(WanDev *d, WanTensor *y, const WanTensor *x);

/* One frame of pixels into caller memory: rgb [H, W, 3] f32, -1 to 1, is
 * clamped and converted as image.h says. Waits until it is there. */
void wan_op_image(WanDev *d, const WanImage *img, const WanTensor *rgb);

/* Which numbers of PyTorch's generators, see rng.h. */
typedef struct WanNoise {
    enum WanRng rng;
    uint64_t seed;
    int threads;            // WAN_RNG_CUDA: the launch
    uint64_t skip;          // what earlier draws used
    int frame_major;        // drawn as [f, C, ...] for a y of [C, f, ...]
} WanNoise;

/* y [n...] = count(y) normal values, in y's order or frame by frame. */
void wan_op_draw(WanDev *d, WanTensor *y, const WanNoise *n);

/* The first of a generator. */
static inline void wan_op_noise(WanDev *d, WanTensor *y, enum WanRng rng,
                                uint64_t seed, int threads)
{
    const WanNoise first = { rng, seed, threads, 0, 0 };

    wan_op_draw(d, y, &first);
}

/* How far such a draw moves its generator on: the next one's skip is more by
 * that. */
uint64_t wan_noise_used(const WanNoise *n, int64_t count);

/* ------------------------------------------------------------- table */

/* What a backend fills. Same contracts; shapes have been checked, there was
 * no error before. NULL: the composed form. Ops that run for more than a
 * tenth of a second look at wan_dev_cancelled() and stop early. */
struct WanOps {
    void (*linear)(WanDev *, WanTensor *y, const WanTensor *x,
                   const WanLinear *w, const WanLinearArgs *a);
    /* Where linear_n_fits says so, from shapes and types alone, so that the
     * plan knows what will be one page; with linear's scratch. */
    void (*linear_n)(WanDev *, WanTensor *y, const WanTensor *x, int n,
                     const WanLinear *const *w);
    int (*linear_n_fits)(const WanTensor *y, const WanTensor *x, int n,
                         const WanLinear *const *w);
    int rows_apart;             // no bit of a row that these give depends on
                                // the other rows, but of layers in 8 bits
    void (*attention)(WanDev *, WanTensor *y, const WanTensor *q,
                      const WanTensor *k, const WanTensor *v,
                      const WanAttentionArgs *a);    // .scale is filled in
    void (*ring_attention)(WanDev *, WanTensor *y, const WanTensor *q,
                           const WanTensor *k, const WanTensor *v,
                           WanTensor *keys, WanTensor *values,
                           const WanRing *a);   // with attention's scratch
    void (*conv)(WanDev *, WanTensor *y, const WanTensor *x,
                 const WanConv *w, const WanConvArgs *a); // strides, upsample
                                                    // are at least 1
    int conv_beside;            // conv knows .above and .below
    void (*layer_norm)(WanDev *, WanTensor *y, const WanTensor *x,
                       const WanTensor *gain, const WanTensor *bias,
                       float eps);
    void (*modulate)(WanDev *, WanTensor *y, const WanTensor *x,
                     const WanTensor *shift, const WanTensor *scale,
                     float eps);
    /* Both of that name: y = LN(x) * (one + gain) + bias, one is 0 or 1. */
    void (*gate_add_norm)(WanDev *, WanTensor *y, WanTensor *x,
                          const WanTensor *branch, const WanTensor *gate,
                          const WanTensor *gain, const WanTensor *bias,
                          float one, float eps);
    void (*rms_norm)(WanDev *, WanTensor *y, const WanTensor *x,
                     const WanTensor *gain, float eps);
    void (*rope)(WanDev *, WanTensor *x, const WanRope *rope);
    void (*rms_norm_rope)(WanDev *, WanTensor *x, const WanTensor *gain,
                          float eps, const WanRope *rope);
    void (*l2_norm)(WanDev *, WanTensor *y, const WanTensor *x,
                    const WanTensor *gain, WanAct act);
    void (*row_norm)(WanDev *, WanTensor *y, const WanTensor *a,
                     const WanTensor *b, int p);
    void (*act)(WanDev *, WanTensor *y, const WanTensor *x, WanAct act);
    void (*mul)(WanDev *, WanTensor *y, const WanTensor *a,
                const WanTensor *b);
    void (*geglu)(WanDev *, WanTensor *y, const WanTensor *g,
                  const WanTensor *u);
    void (*gate_add)(WanDev *, WanTensor *y, const WanTensor *x,
                     const WanTensor *gate);
    void (*lincomb)(WanDev *, WanTensor *y, int n, const double *coef,
                    const WanTensor *const *x);
    void (*copy)(WanDev *, WanTensor *y, const WanTensor *x);
    void (*fill)(WanDev *, WanTensor *y, float value);
    void (*upload)(WanDev *, WanTensor *y, const float *host);
    void (*download)(WanDev *, float *host, const WanTensor *x);
    void (*finite)(WanDev *, const WanTensor *x, const char *what);
    void (*embed)(WanDev *, WanTensor *y, const WanTensor *table,
                  const int32_t *ids);
    void (*patchify)(WanDev *, WanTensor *tokens, const WanTensor *x, int p);
    void (*unpatchify)(WanDev *, WanTensor *x, const WanTensor *z);
    void (*channels_last)(WanDev *, WanTensor *y, const WanTensor *x,
                          int64_t t0, const WanTensor *scale,
                          const WanTensor *shift);
    void (*channels_first)(WanDev *, WanTensor *y, int64_t t0,
                           const WanTensor *x, const WanTensor *scale,
                           const WanTensor *shift);
    void (*fold)(WanDev *, WanTensor *y, const WanTensor *x,
                 const WanFold *a);
    void (*unfold)(WanDev *, WanTensor *y, const WanTensor *x,
                   const WanFold *a);
    void (*resize)(WanDev *, WanTensor *y, const WanTensor *x);
    void (*image)(WanDev *, const WanImage *img, const WanTensor *rgb);
    void (*noise)(WanDev *, WanTensor *y, const WanNoise *n);

    /* Bytes an entry wants in d->scratch while it runs, from the arguments of
     * the op alone, so that plan counts the same; NULL: none. */
    int64_t (*linear_scratch)(int threads, const WanTensor *y,
                              const WanTensor *x, const WanLinear *w,
                              const WanLinearArgs *a);
    int64_t (*attention_scratch)(int threads, const WanTensor *q,
                                 const WanTensor *k,
                                 const WanAttentionArgs *a);
    int64_t (*conv_scratch)(int threads, const WanTensor *y,
                            const WanTensor *x, const WanConv *w,
                            const WanConvArgs *a);
    int64_t (*image_scratch)(int threads, const WanTensor *rgb);
};

#endif /* WAN_OPS_H */
