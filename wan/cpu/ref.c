/*
 * The backend 'ref': what each op means, as plain loops.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * One thread, sums and transcendental functions in double, rounded to f32
 * once at the end. Every other implementation is tested against this one.
 */

#include <math.h>
#include <string.h>

#include "cpu.h"
#include "../image.h"
#include "../rng.h"

/* The values of a vector, or NULL if it is absent. */
static const float *vector(const WanTensor *t)
{
    return t && t->nb_dims ? t->data : NULL;
}

static double activate(double x, WanAct act)
{
    switch (act) {
    case WAN_ACT_SILU:
        return x / (1 + exp(-x));
    case WAN_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) *
                                   (x + 0.044715 * x * x * x)));
    case WAN_ACT_GELU_ERF:
        return 0.5 * x * erfc(-x * M_SQRT1_2);
    case WAN_ACT_RELU:
        return x < 0 ? 0 : x;
    case WAN_ACT_TANH3:
        return 3 * tanh(x / 3);
    default:
        return x;
    }
}

/* ------------------------------------------------------------- linear */

/* y[i, n] = act(sum_k x[i, k] w[n, k] * scale[n] + b[n]), gated, added. */
static void linear(WanDev *d, WanTensor *y, const WanTensor *x,
                   const WanLinear *w, const WanLinearArgs *a)
{
    const int64_t M = wan_rows(x), K = wan_cols(x), N = wan_cols(y);
    const WanType type = w->weight.type;
    const float *bias = vector(&w->bias), *scale = vector(&w->scale);
    const float *gate = vector(a->gate);
    float *row = d->scratch;                                // w[n, :]

    for (int64_t n = 0; n < N && !wan_dev_cancelled(d); n++) {
        wan_to_f32(row, (const char *)w->weight.data +
                        wan_type_bytes(type, n * K), type, K, 1);
        for (int64_t i = 0; i < M; i++) {
            const float *in = wan_row(x, i);
            float *out = wan_row(y, i) + n;
            double sum = 0;

            for (int64_t k = 0; k < K; k++)
                sum += (double)in[k] * row[k];
            if (scale)
                sum *= scale[wan_count(&w->scale) > 1 ? n : 0];
            if (bias)
                sum += bias[n];
            sum = activate(sum, a->act);
            if (gate)
                sum *= gate[n];
            *out = gate || a->add ? *out + sum : sum;
        }
    }
}

static int64_t linear_scratch(int threads, const WanTensor *y,
                              const WanTensor *x, const WanLinear *w,
                              const WanLinearArgs *a)
{
    (void)threads, (void)y, (void)w, (void)a;
    return wan_cols(x) * (int64_t)sizeof(float);
}

/* ---------------------------------------------------------- attention */

/* Each head h and query i: s[j] = scale q_i . k_j + bias; y_i = softmax(s) v.
 * The row of y may be the row of q: q is not read again after s. */
static void attention(WanDev *d, WanTensor *y, const WanTensor *q,
                      const WanTensor *k, const WanTensor *v,
                      const WanAttentionArgs *a)
{
    const int64_t Lq = wan_rows(q), Lk = wan_rows(k);
    const int64_t D = wan_cols(q) / a->heads;
    double *s = d->scratch;                                 // [Lk]

    for (int64_t i = 0; i < Lq && !wan_dev_cancelled(d); i++) {
        for (int64_t h = 0; h < a->heads; h++) {
            const float *qi = wan_row(q, i) + h * D;
            float *yi = wan_row(y, i) + h * D;
            double max = -INFINITY, total = 0;

            for (int64_t j = 0; j < Lk; j++) {
                const float *kj = wan_row(k, j) + h * D;

                s[j] = 0;
                for (int64_t c = 0; c < D; c++)
                    s[j] += (double)qi[c] * kj[c];
                s[j] *= a->scale;
                if (a->rel_bias)
                    s[j] += wan_row(a->rel_bias, wan_t5_bucket(j - i))[h];
                if (a->tail > 1 && j == Lk - 1)
                    s[j] += log((double)a->tail);
                max = fmax(max, s[j]);
            }
            for (int64_t j = 0; j < Lk; j++)
                total += s[j] = exp(s[j] - max);
            for (int64_t c = 0; c < D; c++) {
                double sum = 0;

                for (int64_t j = 0; j < Lk; j++)
                    sum += s[j] * wan_row(v, j)[h * D + c];
                yi[c] = a->add ? yi[c] + sum / total : sum / total;
            }
        }
    }
}

/* scale q k of one head: pair p of k is turned by its token's angles, which
 * rope->table has axis by axis; NULL: it is not. */
static double ring_score(const float *q, const float *k, int64_t D,
                         const WanRope *rope, int64_t token)
{
    double s = 0;

    if (!rope) {
        for (int64_t c = 0; c < D; c++)
            s += (double)q[c] * k[c];
        return s;
    }
    const int64_t cols = rope->grid[2], rows = rope->grid[1];
    const int64_t at[3] = { token / cols / rows, token / cols % rows,
                            token % cols };

    for (int a = 0; a < 3; a++) {
        const float *turn = wan_row(&rope->table[a], at[a]);

        for (int p = 0; p < rope->pairs[a]; p++, q += 2, k += 2) {
            const double cos = turn[2 * p], sin = turn[2 * p + 1];

            s += q[0] * (k[0] * cos - k[1] * sin) +
                 q[1] * (k[0] * sin + k[1] * cos);
        }
    }
    return s;
}

static void ring_attention(WanDev *d, WanTensor *y, const WanTensor *q,
                           const WanTensor *k, const WanTensor *v,
                           WanTensor *keys, WanTensor *values,
                           const WanRing *a)
{
    const int64_t C = wan_cols(keys), R = wan_rows(keys), D = C / a->heads;
    double *s = d->scratch;                                 // [held]

    for (int64_t i = 0, to = a->at; i < wan_rows(k); i++) {
        memcpy(wan_row(keys, to), wan_row(k, i), C * sizeof(float));
        memcpy(wan_row(values, to), wan_row(v, i), C * sizeof(float));
        to = to + 1 < R ? to + 1 : a->sink;
    }
    for (int64_t i = 0; q && i < wan_rows(q) && !wan_dev_cancelled(d); i++) {
        for (int64_t h = 0; h < C; h += D) {
            double max = -INFINITY, total = 0;

            for (int64_t j = 0; j < a->held; j++) {
                s[j] = a->scale * ring_score(wan_row(q, i) + h,
                                             wan_row(keys, j) + h, D,
                                             a->rope, j);
                max = fmax(max, s[j]);
            }
            for (int64_t j = 0; j < a->held; j++)
                total += s[j] = exp(s[j] - max);
            for (int64_t c = h; c < h + D; c++) {
                double sum = 0;

                for (int64_t j = 0; j < a->held; j++)
                    sum += s[j] * wan_row(values, j)[c];
                wan_row(y, i)[c] = sum / total;
            }
        }
    }
}

static int64_t attention_scratch(int threads, const WanTensor *q,
                                 const WanTensor *k,
                                 const WanAttentionArgs *a)
{
    (void)threads, (void)q, (void)a;
    return wan_rows(k) * (int64_t)sizeof(double);
}

/* -------------------------------------------------------- convolution */

/* Pixel of frame t in row r, column c of the upsampled input; NULL: zeros. */
static const float *conv_pixel(const WanTensor *x, const WanConvArgs *a,
                               int64_t t, int64_t r, int64_t c)
{
    const int64_t H = x->dim[1], W = x->dim[2], up = a->upsample;
    const WanTensor *beside = r < 0 ? a->above : a->below;

    if (c < 0 || c >= W * up)
        return NULL;
    if (r >= 0 && r < H * up)
        return wan_row(x, (t * H + r / up) * W + c / up);
    return beside ? wan_row(beside, t * W + c / up) : NULL;
}

/* One output: the sum over frames dt, rows dr, columns dc and channels, where
 * (t, r, c) is where the kernel begins in the upsampled input.
 * w: [I, kt, k, k] of this output's channel. */
static double conv_at(const WanTensor *x, const float *w, int64_t kt,
                      int64_t k, int64_t t, int64_t r, int64_t c,
                      const WanConvArgs *a)
{
    const int64_t I = x->dim[3];
    double sum = 0;

    for (int64_t dt = 0; dt < kt; dt++)
        for (int64_t dr = 0; dr < k; dr++)
            for (int64_t dc = 0; dc < k; dc++) {
                const float *in = conv_pixel(x, a, t + dt, r + dr, c + dc);

                for (int64_t i = 0; in && i < I; i++)
                    sum += (double)in[i] *
                           w[((i * kt + dt) * k + dr) * k + dc];
            }
    return sum;
}

static void conv(WanDev *d, WanTensor *y, const WanTensor *x,
                 const WanConv *w, const WanConvArgs *a)
{
    const int64_t T = y->dim[0], H = y->dim[1], W = y->dim[2], O = y->dim[3];
    const int64_t kt = w->weight.dim[2], k = w->weight.dim[3];
    const int64_t n = wan_count(&w->weight) / O;
    const int pad = k == 3 && (a->stride == 1 || a->centre);
    const float *bias = vector(&w->bias);
    float *wo = d->scratch;                                 // [I, kt, k, k]

    for (int64_t o = 0; o < O; o++) {
        wan_to_f32(wo, (const char *)w->weight.data +
                       o * n * wan_type_size(w->weight.type),
                   w->weight.type, n, 1);
        for (int64_t p = 0; p < T * H * W && !wan_dev_cancelled(d); p++) {
            const int64_t t = p / W / H, r = p / W % H, c = p % W;
            const double sum = bias[o] +
                conv_at(x, wo, kt, k, t * a->stride_t, r * a->stride - pad,
                        c * a->stride - pad, a);
            float *out = wan_row(y, p) + o;

            *out = activate(a->add ? *out + sum : sum, a->act);
        }
    }
}

static int64_t conv_scratch(int threads, const WanTensor *y,
                            const WanTensor *x, const WanConv *w,
                            const WanConvArgs *a)
{
    (void)threads, (void)x, (void)a;
    return wan_count(&w->weight) / wan_cols(y) * (int64_t)sizeof(float);
}

/* -------------------------------------------------------------- norms */

/* y = (x - mean) / sqrt(var + eps), then * (one + gain) + bias. */
static void norm_rows(WanTensor *y, const WanTensor *x, const float *gain,
                      const float *bias, double one, float eps)
{
    const int64_t C = wan_cols(x);

    for (int64_t i = 0; i < wan_rows(x); i++) {
        const float *in = wan_row(x, i);
        float *out = wan_row(y, i);
        double mean = 0, var = 0;

        for (int64_t c = 0; c < C; c++)
            mean += in[c];
        mean /= C;
        for (int64_t c = 0; c < C; c++)
            var += (in[c] - mean) * (in[c] - mean);
        const double r = 1 / sqrt(var / C + eps);
        for (int64_t c = 0; c < C; c++) {
            const double n = (in[c] - mean) * r;
            out[c] = gain ? n * (one + gain[c]) + bias[c] : n;
        }
    }
}

static void layer_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanTensor *gain, const WanTensor *bias,
                       float eps)
{
    (void)d;
    norm_rows(y, x, vector(gain), vector(bias), 0, eps);
}

static void modulate(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *shift, const WanTensor *scale,
                     float eps)
{
    (void)d;
    norm_rows(y, x, vector(scale), vector(shift), 1, eps);
}

/* y = x / sqrt(mean(x^2) + eps) * gain, row by row. */
static void rms_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *gain, float eps)
{
    const int64_t C = wan_cols(x);
    const float *g = vector(gain);

    (void)d;
    for (int64_t i = 0; i < wan_rows(x); i++) {
        const float *in = wan_row(x, i);
        float *out = wan_row(y, i);
        double ss = 0;

        for (int64_t c = 0; c < C; c++)
            ss += (double)in[c] * in[c];
        const double r = 1 / sqrt(ss / C + eps);
        for (int64_t c = 0; c < C; c++)
            out[c] = in[c] * r * g[c];
    }
}

/* Token i stands at (i / (h w), i / w % h, i % w). */
static void rope(WanDev *d, WanTensor *x, const WanRope *r)
{
    (void)d;
    for (int64_t i = 0; i < wan_rows(x); i++) {
        const int64_t token = r->first + i;
        const int64_t at[3] = {
            token / r->grid[2] / r->grid[1], token / r->grid[2] % r->grid[1],
            token % r->grid[2],
        };
        float *p = wan_row(x, i);

        for (int h = 0; h < r->heads; h++)
            for (int a = 0; a < 3; a++) {
                const float *turn = (const float *)r->table[a].data +
                                    at[a] * r->pairs[a] * 2;

                for (int j = 0; j < r->pairs[a]; j++, p += 2) {
                    const double cos = turn[2 * j], sin = turn[2 * j + 1];
                    const double re = p[0], im = p[1];

                    p[0] = re * cos - im * sin;
                    p[1] = re * sin + im * cos;
                }
            }
    }
}

/* y = act(x / max(|x|, 1e-12) * sqrt(C) * gain), row by row. */
static void l2_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanTensor *gain, WanAct act)
{
    const int64_t C = wan_cols(x);
    const float *g = vector(gain);

    (void)d;
    for (int64_t i = 0; i < wan_rows(x); i++) {
        const float *in = wan_row(x, i);
        float *out = wan_row(y, i);
        double ss = 0;

        for (int64_t c = 0; c < C; c++)
            ss += (double)in[c] * in[c];
        const double r = sqrt((double)C) / fmax(sqrt(ss), 1e-12);
        for (int64_t c = 0; c < C; c++)
            out[c] = activate(in[c] * r * g[c], act);
    }
}

void wan_ref_row_norm(WanDev *d, WanTensor *y, const WanTensor *a,
                      const WanTensor *b, int p)
{
    float *out = y->data;

    (void)d;
    for (int64_t i = 0; i < wan_rows(a); i++) {
        const float *in = wan_row(a, i), *from = b ? wan_row(b, i) : NULL;
        double sum = 0;

        for (int64_t c = 0; c < wan_cols(a); c++) {
            const double u = in[c] - (from ? (double)from[c] : 0);

            sum += p == 1 ? fabs(u) : u * u;
        }
        out[i] = (float)(p == 1 ? sum : sqrt(sum));
    }
}

/* -------------------------------------------------------- elementwise */

static void act(WanDev *d, WanTensor *y, const WanTensor *x, WanAct a)
{
    (void)d;
    for (int64_t i = 0; i < wan_rows(x); i++)
        for (int64_t c = 0; c < wan_cols(x); c++)
            wan_row(y, i)[c] = activate(wan_row(x, i)[c], a);
}

static void mul(WanDev *d, WanTensor *y, const WanTensor *a,
                const WanTensor *b)
{
    (void)d;
    for (int64_t i = 0; i < wan_rows(y); i++)
        for (int64_t c = 0; c < wan_cols(y); c++)
            wan_row(y, i)[c] = wan_row(a, i)[c] * wan_row(b, i)[c];
}

static void geglu(WanDev *d, WanTensor *y, const WanTensor *g,
                  const WanTensor *u)
{
    (void)d;
    for (int64_t i = 0; i < wan_rows(y); i++)
        for (int64_t c = 0; c < wan_cols(y); c++)
            wan_row(y, i)[c] = activate(wan_row(g, i)[c], WAN_ACT_GELU_TANH) *
                               wan_row(u, i)[c];
}

static void gate_add(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *gate)
{
    const float *g = vector(gate);

    (void)d;
    for (int64_t i = 0; i < wan_rows(y); i++)
        for (int64_t c = 0; c < wan_cols(y); c++)
            wan_row(y, i)[c] += (double)wan_row(x, i)[c] * (g ? g[c] : 1);
}

void wan_ref_lincomb(WanDev *d, WanTensor *y, int n, const double *coef,
                     const WanTensor *const *x)
{
    (void)d;
    for (int64_t i = 0; i < wan_count(y); i++) {
        double sum = 0;

        for (int k = 0; k < n; k++)
            sum += coef[k] * ((const float *)x[k]->data)[i];
        ((float *)y->data)[i] = sum;
    }
}

static void copy(WanDev *d, WanTensor *y, const WanTensor *x)
{
    (void)d;
    for (int64_t i = 0; i < wan_rows(y); i++)
        memcpy(wan_row(y, i), wan_row(x, i), wan_cols(y) * sizeof(float));
}

static void fill(WanDev *d, WanTensor *y, float value)
{
    (void)d;
    for (int64_t i = 0; i < wan_rows(y); i++)
        for (int64_t c = 0; c < wan_cols(y); c++)
            wan_row(y, i)[c] = value;
}

void wan_ref_upload(WanDev *d, WanTensor *y, const float *host)
{
    (void)d;
    memcpy(y->data, host, wan_count(y) * sizeof(*host));
}

void wan_ref_download(WanDev *d, float *host, const WanTensor *x)
{
    const int64_t rows = wan_rows(x), cols = wan_cols(x);

    (void)d;
    for (int64_t i = 0; i < rows; i++)
        memcpy(host + i * cols, wan_row(x, i), cols * sizeof(*host));
}

void wan_ref_finite(WanDev *d, const WanTensor *x, const char *what)
{
    for (int64_t i = 0; i < wan_rows(x); i++)
        for (int64_t c = 0; c < wan_cols(x); c++)
            if (!isfinite(wan_row(x, i)[c])) {
                wan_dev_fail(d, WAN_ERR(EDOM), "%s is not finite", what);
                return;
            }
}

/* --------------------------------------------- text, latents, pixels */

void wan_ref_embed(WanDev *d, WanTensor *y, const WanTensor *table,
                   const int32_t *ids)
{
    const int64_t step = wan_type_bytes(table->type, table->pitch);

    (void)d;
    for (int64_t i = 0; i < wan_rows(y); i++)
        wan_to_f32(wan_row(y, i), (const char *)table->data + ids[i] * step,
                   table->type, wan_cols(y), 1);
}

/* tokens[(t, i, j), (c*n + q)*n + r] = x[c, t, n*i + q, n*j + r] */
void wan_ref_patchify(WanDev *d, WanTensor *tokens, const WanTensor *x, int n)
{
    const int64_t I = x->dim[0], T = x->dim[1], H = x->dim[2], W = x->dim[3];
    const float *in = x->data;

    (void)d;
    for (int64_t c = 0; c < I; c++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = 0; i < H; i++)
                for (int64_t j = 0; j < W; j++)
                    wan_row(tokens, (t * (H / n) + i / n) * (W / n) + j / n)
                        [(c * n + i % n) * n + j % n] = *in++;
}

/* x[c, t, 2i+q, 2j+r] = z[(t, i, j), (q*2 + r)*O + c] */
void wan_ref_unpatchify(WanDev *d, WanTensor *x, const WanTensor *z)
{
    const int64_t O = x->dim[0], T = x->dim[1], H = x->dim[2], W = x->dim[3];
    float *out = x->data;

    (void)d;
    for (int64_t c = 0; c < O; c++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = 0; i < H; i++)
                for (int64_t j = 0; j < W; j++)
                    *out++ = wan_row(z, (t * (H / 2) + i / 2) * (W / 2) +
                                        j / 2)
                             [(i % 2 * 2 + j % 2) * O + c];
}

/* In the tensor of more positions the row of part k of a row of the other; -1:
 * in front of its first frame. */
static int64_t folded_row(const WanTensor *few, const WanTensor *many,
                          const WanFold *a, int64_t row, int k)
{
    const int64_t H = few->dim[1], W = few->dim[2];
    const int64_t lead = few->dim[0] * a->t - many->dim[0];
    const int64_t f = row / (H * W) * a->t + k / (a->s * a->s) - lead;
    const int slow = k / a->s % a->s, fast = k % a->s;
    const int64_t i = row / W % H * a->s + (a->columns_first ? fast : slow);
    const int64_t j = row % W * a->s + (a->columns_first ? slow : fast);

    return f < 0 ? -1 : (f * many->dim[1] + i) * many->dim[2] + j;
}

/* y[row, o] = sum over e < n of x[row of e, channel of e] / n */
void wan_ref_fold_row(WanTensor *y, const WanTensor *x, const WanFold *a,
                      int64_t row)
{
    const int K = a->t * a->s * a->s, n = (int)(x->dim[3] * K / y->dim[3]);
    float *out = wan_row(y, row);

    for (int64_t o = 0; o < y->dim[3]; o++) {
        double sum = 0;

        for (int64_t e = o * n; e < (o + 1) * n; e++) {
            const int64_t from = folded_row(y, x, a, row, (int)(e % K));

            sum += from < 0 ? 0 : wan_row(x, from)[e / K];
        }
        out[o] = (float)(sum / n) + (a->add ? out[o] : 0);
    }
}

void wan_ref_fold(WanDev *d, WanTensor *y, const WanTensor *x,
                  const WanFold *a)
{
    (void)d;
    for (int64_t i = 0; i < wan_rows(y); i++)
        wan_ref_fold_row(y, x, a, i);
}

/* y[row of k, o] = x[row, (o K + k) / n] for all k < K */
void wan_ref_unfold_row(WanTensor *y, const WanTensor *x, const WanFold *a,
                        int64_t row)
{
    const int K = a->t * a->s * a->s, n = (int)(y->dim[3] * K / x->dim[3]);
    const float *in = wan_row(x, row);

    for (int k = 0; k < K; k++) {
        const int64_t to = folded_row(x, y, a, row, k);
        float *out = to < 0 ? NULL : wan_row(y, to);

        for (int64_t o = 0; out && o < y->dim[3]; o++)
            out[o] = in[(o * K + k) / n] + (a->add ? out[o] : 0);
    }
}

void wan_ref_unfold(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanFold *a)
{
    (void)d;
    for (int64_t i = 0; i < wan_rows(x); i++)
        wan_ref_unfold_row(y, x, a, i);
}

/* y[t, i, j, c] = x[c, t0 + t, i, j] * scale[c] + shift[c] */
void wan_ref_channels_last(WanDev *d, WanTensor *y, const WanTensor *x,
                           int64_t t0, const WanTensor *scale,
                           const WanTensor *shift)
{
    const int64_t T = y->dim[0], HW = y->dim[1] * y->dim[2], C = y->dim[3];
    const float *a = vector(scale), *b = vector(shift);

    (void)d;
    for (int64_t c = 0; c < C; c++)
        for (int64_t t = 0; t < T; t++) {
            const float *in = (const float *)x->data +
                              (c * x->dim[1] + t0 + t) * HW;

            for (int64_t p = 0; p < HW; p++)
                wan_row(y, t * HW + p)[c] = (double)in[p] * a[c] + b[c];
        }
}

/* y[c, t0 + t, i, j] = x[t, i, j, c] * scale[c] + shift[c] */
void wan_ref_channels_first(WanDev *d, WanTensor *y, int64_t t0,
                            const WanTensor *x, const WanTensor *scale,
                            const WanTensor *shift)
{
    const int64_t T = x->dim[0], HW = x->dim[1] * x->dim[2], C = y->dim[0];
    const float *a = vector(scale), *b = vector(shift);

    (void)d;
    for (int64_t c = 0; c < C; c++)
        for (int64_t t = 0; t < T; t++) {
            float *out = (float *)y->data + (c * y->dim[1] + t0 + t) * HW;

            for (int64_t p = 0; p < HW; p++)
                out[p] = (double)wan_row(x, t * HW + p)[c] * a[c] + b[c];
        }
}

/* Keys' cubic with a = -0.75 at distance t. */
static double cubic(double t)
{
    const double a = -0.75;

    t = fabs(t);
    if (t <= 1)
        return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/* y[c, i, j] = sum over 4 x 4 taps around the source position of pixel (i, j) */
void wan_ref_resize(WanDev *d, WanTensor *y, const WanTensor *x)
{
    const int64_t h = x->dim[1], w = x->dim[2], H = y->dim[1], W = y->dim[2];

    for (int64_t row = 0; row < y->dim[0] * H; row++) {
        const int64_t c = row / H;
        const double si = (row % H + 0.5) * h / H - 0.5;
        const int64_t i0 = (int64_t)floor(si);

        if (wan_dev_cancelled(d))
            return;
        for (int64_t j = 0; j < W; j++) {
            const double sj = (j + 0.5) * w / W - 0.5;
            const int64_t j0 = (int64_t)floor(sj);
            double sum = 0;

            for (int64_t p = i0 - 1; p <= i0 + 2; p++) {
                const int64_t pi = p < 0 ? 0 : p >= h ? h - 1 : p;
                const float *in = wan_row(x, c * h + pi);

                for (int64_t q = j0 - 1; q <= j0 + 2; q++) {
                    const int64_t qj = q < 0 ? 0 : q >= w ? w - 1 : q;
                    sum += cubic(si - p) * cubic(sj - q) * in[qj];
                }
            }
            wan_row(y, row)[j] = sum;
        }
    }
}

void wan_ref_image(WanDev *d, const WanImage *img, const WanTensor *rgb)
{
    (void)d;
    wan_image_write(img, rgb->data);
}

void wan_ref_noise(WanDev *d, WanTensor *y, const WanNoise *n)
{
    (void)d;
    if (n->rng == WAN_RNG_CPU)
        wan_randn_cpu(y->data, wan_count(y), n->seed, n->skip);
    else
        wan_randn_cuda(y->data, wan_count(y), n->seed, n->threads, n->skip);
}

/* modulate and geglu: the front door's compositions would round in between;
 * rms_norm_rope and gate_add_norm are left to it, as both halves are here. */
static const WanOps ops = {
    .linear         = linear,
    .rows_apart     = 1,
    .attention      = attention,
    .ring_attention = ring_attention,
    .conv           = conv,
    .conv_beside    = 1,
    .layer_norm     = layer_norm,
    .modulate       = modulate,
    .rms_norm       = rms_norm,
    .rope           = rope,
    .l2_norm        = l2_norm,
    .row_norm       = wan_ref_row_norm,
    .act            = act,
    .mul            = mul,
    .geglu          = geglu,
    .gate_add       = gate_add,
    .lincomb        = wan_ref_lincomb,
    .copy           = copy,
    .fill           = fill,
    .upload         = wan_ref_upload,
    .download       = wan_ref_download,
    .finite         = wan_ref_finite,
    .embed          = wan_ref_embed,
    .patchify       = wan_ref_patchify,
    .unpatchify     = wan_ref_unpatchify,
    .channels_last  = wan_ref_channels_last,
    .channels_first = wan_ref_channels_first,
    .fold           = wan_ref_fold,
    .unfold         = wan_ref_unfold,
    .resize         = wan_ref_resize,
    .image          = wan_ref_image,
    .noise          = wan_ref_noise,
    .linear_scratch    = linear_scratch,
    .attention_scratch = attention_scratch,
    .conv_scratch      = conv_scratch,
};

const WanBackend wan_backend_ref = {
    .name      = "ref",
    .ops       = &ops,
    .act       = WAN_F32,
    .precision = WAN_PRECISION_F32,
    .hidden_rows = 4096,
    .available = wan_cpu_memory_available,
    .alloc     = wan_cpu_alloc,
    .free      = wan_cpu_free,
};
