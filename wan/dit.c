/*
 * The diffusion transformer.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * L tokens of width D on a grid f x h x w; F the width of the feed-forward.
 * Execution order of the norms: norm1 (self), norm3 (cross), norm2 (ffn);
 * norm1 and norm2 have no weights.
 *
 * VACE has a second stack of such blocks beside the main one. It begins at the
 * same tokens and a context, and after some of the main blocks what it has come
 * to is added to their tokens; nothing goes the other way.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "dit.h"
#include "tokenizer.h"

/* Of the two LayerNorms in img_emb; all others have the config's. */
#define IMAGE_EPS 1e-5f

/* -------------------------------------------------------------- binding */

static void bind_attn(WanBinder *b, WanAttn *w, const char *prefix, int64_t D)
{
    char name[96];

#define NAME(suffix) (snprintf(name, sizeof(name), "%s." suffix, prefix), name)
    wan_bind_linear(b, &w->q, NAME("q"), D, D, 1);
    wan_bind_linear(b, &w->k, NAME("k"), D, D, 1);
    wan_bind_linear(b, &w->v, NAME("v"), D, D, 1);
    wan_bind_linear(b, &w->o, NAME("o"), D, D, 1);
    wan_bind_vector(b, &w->norm_q, NAME("norm_q.weight"), D);
    wan_bind_vector(b, &w->norm_k, NAME("norm_k.weight"), D);
#undef NAME
}

static void bind_block(WanBinder *b, WanDitBlock *w, const WanDitConfig *c,
                       const char *prefix)
{
    const int64_t D = c->dim, F = c->ffn;
    char name[64];

#define NAME(suffix) (snprintf(name, sizeof(name), "%s." suffix, prefix), name)
    wan_bind_vector(b, &w->modulation, NAME("modulation"), 6, D);
    bind_attn(b, &w->self_attn, NAME("self_attn"), D);
    wan_bind_vector(b, &w->norm3.weight, NAME("norm3.weight"), D);
    wan_bind_vector(b, &w->norm3.bias, NAME("norm3.bias"), D);
    bind_attn(b, &w->cross_attn, NAME("cross_attn"), D);
    if (c->clip_dim) {
        wan_bind_linear(b, &w->cross_img.k_img, NAME("cross_attn.k_img"),
                        D, D, 1);
        wan_bind_linear(b, &w->cross_img.v_img, NAME("cross_attn.v_img"),
                        D, D, 1);
        wan_bind_vector(b, &w->cross_img.norm_k_img,
                        NAME("cross_attn.norm_k_img.weight"), D);
    }
    wan_bind_linear(b, &w->ffn[0], NAME("ffn.0"), F, D, 1);
    wan_bind_linear(b, &w->ffn[1], NAME("ffn.2"), D, F, 1);
#undef NAME
}

/* The side stack, behind the main blocks. */
static void bind_vace(WanBinder *b, WanDit *m)
{
    const WanDitConfig *c = &m->config;
    const int64_t D = c->dim;
    char name[64];

    for (int j = 0; j < c->nb_vace; j++) {
        snprintf(name, sizeof(name), "vace_blocks.%d", j);
        bind_block(b, &m->blocks[c->layers + j], c, name);
        snprintf(name, sizeof(name), "vace_blocks.%d.after_proj", j);
        wan_bind_linear(b, &m->vace.after_proj[j], name, D, D, 1);
    }
}

int wan_dit_bind(WanDit *m, const WanDitConfig *c, WanBinder *b)
{
    const int64_t D = c->dim;
    const WanBinderE4m3 e4m3 = b->e4m3;
    const enum WanPrecision least = b->least;
    char name[32];

    m->config = *c;
    m->blocks = calloc(c->layers + c->nb_vace, sizeof(*m->blocks));
    m->vace.after_proj = calloc(c->nb_vace + 1, sizeof(*m->vace.after_proj));
    if (!m->blocks || !m->vace.after_proj)
        return wan_error_memory(b->log, "model", "its blocks");

    /* What everything goes through is not rounded for the little that it
     * takes; blocks alone may be. */
    if (e4m3 == WAN_E4M3_ALL)
        b->e4m3 = WAN_E4M3_STORED;

    /* A convolution whose kernel is its stride: a row is one patch. */
    wan_bind_matrix(b, &m->patch_embedding.weight, "patch_embedding.weight",
                    D, c->in_dim, 1, 2, 2);
    wan_bind_vector(b, &m->patch_embedding.bias, "patch_embedding.bias", D);
    wan_bind_linear(b, &m->text_embedding[0], "text_embedding.0", D,
                    c->text_dim, 1);
    wan_bind_linear(b, &m->text_embedding[1], "text_embedding.2", D, D, 1);
    b->least = WAN_PRECISION_F32;
    wan_bind_linear(b, &m->time_embedding[0], "time_embedding.0", D,
                    c->freq_dim, 1);
    wan_bind_linear(b, &m->time_embedding[1], "time_embedding.2", D, D, 1);
    wan_bind_linear(b, &m->time_projection, "time_projection.1", 6 * D, D, 1);
    b->least = WAN_PRECISION_BF16;
    if (c->clip_dim) {
        const int64_t C = c->clip_dim;

        if (c->clip_tokens)
            wan_bind_vector(b, &m->img_emb.emb_pos, "img_emb.emb_pos",
                            c->clip_tokens, C);
        wan_bind_vector(b, &m->img_emb.norm[0].weight, "img_emb.proj.0.weight",
                        C);
        wan_bind_vector(b, &m->img_emb.norm[0].bias, "img_emb.proj.0.bias", C);
        wan_bind_linear(b, &m->img_emb.linear[0], "img_emb.proj.1", C, C, 1);
        wan_bind_linear(b, &m->img_emb.linear[1], "img_emb.proj.3", D, C, 1);
        wan_bind_vector(b, &m->img_emb.norm[1].weight, "img_emb.proj.4.weight",
                        D);
        wan_bind_vector(b, &m->img_emb.norm[1].bias, "img_emb.proj.4.bias", D);
    }
    if (c->nb_vace) {
        wan_bind_matrix(b, &m->vace.patch_embedding.weight,
                        "vace_patch_embedding.weight", D, WAN_VACE_CHANNELS, 1,
                        2, 2);
        wan_bind_vector(b, &m->vace.patch_embedding.bias,
                        "vace_patch_embedding.bias", D);
        wan_bind_linear(b, &m->vace.before_proj, "vace_blocks.0.before_proj",
                        D, D, 1);
    }

    b->e4m3 = e4m3;
    b->least = WAN_PRECISION_INT8;
    for (int i = 0; i < c->layers; i++) {
        snprintf(name, sizeof(name), "blocks.%d", i);
        bind_block(b, &m->blocks[i], c, name);
    }
    bind_vace(b, m);
    b->least = WAN_PRECISION_F32;
    wan_bind_vector(b, &m->head.modulation, "head.modulation", 2, D);
    wan_bind_linear(b, &m->head.head, "head.head", 4 * c->out_dim, D, 1);
    b->least = least;
    return wan_binder_end(b);
}

void wan_dit_free(WanDit *m)
{
    free(m->blocks);
    free(m->vace.after_proj);
    m->blocks = NULL;
    m->vace.after_proj = NULL;
}

/* ------------------------------------------------------- context, time */

/* k = rms(Wk ctx), v = Wv ctx for every block,
 * ctx = W2 gelu(W1 pad(text) + b1) + b2 */
static void text_keys(WanDev *d, WanDitContext *out, const WanDit *m,
                      const WanTensor *text)
{
    const WanDitConfig *c = &m->config;
    const int64_t D = c->dim, n = wan_rows(text), rows = out->k.dim[1];
    const WanMark mark = wan_mark(d);
    WanTensor padded = wan_tmp_act(d, rows, c->text_dim);
    WanTensor h = wan_tmp_act(d, rows, D), ctx = wan_tmp_act(d, rows, D);
    WanTensor real = wan_slice(&padded, 0, n);

    wan_section(d, "text context");
    wan_op_fill(d, &padded, 0);
    wan_op_copy(d, &real, text);
    wan_op_linear(d, &h, &padded, &m->text_embedding[0],
                  .act = WAN_ACT_GELU_TANH);                    // [n + 1, D]
    wan_op_linear(d, &ctx, &h, &m->text_embedding[1]);
    wan_tap(d, &ctx, "text");

    for (int i = 0; i < c->layers + c->nb_vace; i++) {
        const WanAttn *w = &m->blocks[i].cross_attn;
        WanTensor k = wan_slice(&out->k, i, 1), v = wan_slice(&out->v, i, 1);

        wan_section(d, "text keys of block %d", i);
        wan_op_linear(d, &k, &ctx, &w->k);
        wan_op_rms_norm(d, &k, &k, &w->norm_k, c->eps);
        wan_op_linear(d, &v, &ctx, &w->v);
    }
    wan_release(d, mark);
}

/* Rows that are kept of a text of n. */
static int64_t text_rows(WanDitContext *out, int64_t n)
{
    const int64_t rows = n < WAN_TEXT_LEN ? n + 1 : n;

    out->tail = WAN_TEXT_LEN - rows + 1;
    return rows;
}

static int all_blocks(const WanDit *m)
{
    return m->config.layers + m->config.nb_vace;
}

void wan_dit_text(WanDev *d, WanDitContext *out, const WanDit *m,
                  const WanTensor *text)
{
    const int64_t rows = text_rows(out, wan_rows(text));

    out->k = wan_tmp_act(d, all_blocks(m), rows, m->config.dim);
    out->v = wan_tmp_act(d, all_blocks(m), rows, m->config.dim);
    text_keys(d, out, m, text);
}

void wan_dit_text_reserve(WanDev *d, WanDitContext *out, const WanDit *m)
{
    out->k = wan_tmp_act(d, all_blocks(m), WAN_TEXT_LEN, m->config.dim);
    out->v = wan_tmp_act(d, all_blocks(m), WAN_TEXT_LEN, m->config.dim);
}

void wan_dit_text_again(WanDev *d, WanDitContext *out, const WanDit *m,
                        const WanTensor *text)
{
    const int64_t rows = text_rows(out, wan_rows(text));

    out->k = wan_tensor_of(out->k.data, out->k.type, all_blocks(m), rows,
                           m->config.dim);
    out->v = wan_tensor_of(out->v.data, out->v.type, all_blocks(m), rows,
                           m->config.dim);
    text_keys(d, out, m, text);
}

/* k = rms(Wk img), v = Wv img for every block,
 * img = LN(W4 gelu_erf(W2 LN(clip + pos)));  these norms' eps is 1e-5 */
void wan_dit_image(WanDev *d, WanDitContext *out, const WanDit *m,
                   const WanTensor *clip)
{
    const WanDitConfig *c = &m->config;
    const int64_t D = c->dim, rows = wan_rows(clip);
    WanMark mark;

    out->tail = 1;
    out->k = wan_tmp_act(d, c->layers, rows, D);
    out->v = wan_tmp_act(d, c->layers, rows, D);

    mark = wan_mark(d);
    WanTensor x = wan_tmp(d, rows, c->clip_dim), y = wan_tmp(d, rows, D);
    WanTensor h = wan_tmp_act(d, rows, c->clip_dim), u = wan_tmp_like(d, &h);
    WanTensor img = wan_tmp_act(d, rows, D);

    wan_section(d, "image context");
    wan_op_copy(d, &x, clip);
    if (m->img_emb.emb_pos.nb_dims)
        wan_op_gate_add(d, &x, &m->img_emb.emb_pos, NULL);
    wan_op_layer_norm(d, &h, &x, &m->img_emb.norm[0].weight,
                      &m->img_emb.norm[0].bias, IMAGE_EPS);
    wan_op_linear(d, &u, &h, &m->img_emb.linear[0], .act = WAN_ACT_GELU_ERF);
    wan_op_linear(d, &y, &u, &m->img_emb.linear[1]);            // [rows, D]
    wan_op_layer_norm(d, &img, &y, &m->img_emb.norm[1].weight,
                      &m->img_emb.norm[1].bias, IMAGE_EPS);
    wan_tap(d, &img, "image_context");

    for (int i = 0; i < c->layers; i++) {
        const WanDitBlock *w = &m->blocks[i];
        WanTensor k = wan_slice(&out->k, i, 1), v = wan_slice(&out->v, i, 1);

        wan_section(d, "image keys of block %d", i);
        wan_op_linear(d, &k, &img, &w->cross_img.k_img);
        wan_op_rms_norm(d, &k, &k, &w->cross_img.norm_k_img, c->eps);
        wan_op_linear(d, &v, &img, &w->cross_img.v_img);
    }
    wan_release(d, mark);
}

/* s = [cos(t w), sin(t w)], w_i = 10000^(-i/half), in double as the reference
 * does it */
static void sinusoid(float *s, double t, int half)
{
    for (int i = 0; i < half; i++) {
        const double angle = t * pow(10000, -(double)i / half);

        s[i] = (float)cos(angle);
        s[half + i] = (float)sin(angle);
    }
}

/* e = W2 silu(W1 s + b1) + b2; e0 = W3 silu(e) + b3, a row a span */
void wan_dit_times(WanDev *d, WanDitTime *out, const WanDit *m, int n,
                   const WanDitSpan *span)
{
    const WanDitConfig *c = &m->config;
    const int64_t D = c->dim;
    float *s = malloc((size_t)n * c->freq_dim * sizeof(*s));
    WanMark mark;

    wan_section(d, "time");
    *out = (WanDitTime){ .n = n };
    out->e = wan_tmp(d, n, D);
    out->e0 = wan_tmp(d, 6 * n, D);
    for (int i = 0; i < n; i++)
        out->end[i] = (i ? out->end[i - 1] : 0) + span[i].tokens;
    if (!s) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for the time embedding");
        return;
    }
    for (int i = 0; i < n; i++)
        sinusoid(s + (size_t)i * c->freq_dim, span[i].t, c->freq_dim / 2);

    mark = wan_mark(d);
    WanTensor waves = wan_tmp(d, n, c->freq_dim), h = wan_tmp(d, n, D);
    WanTensor e0 = wan_reshape(&out->e0, n, 6 * D);

    wan_op_upload(d, &waves, s);
    wan_op_linear(d, &h, &waves, &m->time_embedding[0], .act = WAN_ACT_SILU);
    wan_op_linear(d, &out->e, &h, &m->time_embedding[1]);
    wan_op_act(d, &h, &out->e, WAN_ACT_SILU);
    wan_op_linear(d, &e0, &h, &m->time_projection);
    wan_tap(d, &out->e, "time_e");
    wan_tap(d, &out->e0, "time_e0");
    wan_release(d, mark);
    free(s);
}

void wan_dit_time(WanDev *d, WanDitTime *out, const WanDit *m, double t)
{
    wan_dit_times(d, out, m, 1, &(WanDitSpan){ .t = t });
}

static int64_t tokens_of(const WanDitInput *in)
{
    return wan_count(in->x) / (4 * in->dit->config.in_dim);
}

/* The spans that this rank's tokens are in, counted from its first token. */
static WanDitTime own_time(const WanDev *d, const WanDitInput *in)
{
    const WanShare own = wan_share(d, tokens_of(in));
    const WanDitTime *all = in->time;
    WanDitTime t = { 0 };
    int s = 0;

    while (s < all->n - 1 && all->end[s] <= own.first)
        s++;
    t.e = wan_slice(&all->e, s, 1);
    t.e0 = wan_slice(&all->e0, 6 * s, 6);
    for (; s < all->n - 1 && all->end[s] < own.first + own.n; s++)
        t.end[t.n++] = all->end[s] - own.first;
    t.n++;
    t.e.dim[0] *= t.n;
    t.e0.dim[0] *= t.n;
    return t;
}

/* The rows of x, one a token, that are in span s. */
static WanTensor in_span(const WanTensor *x, const WanDitTime *time, int s)
{
    const int64_t from = s ? time->end[s - 1] : 0;
    const int64_t end = s < time->n - 1 ? time->end[s] : wan_rows(x);

    return wan_slice(x, from, end - from);
}

/* Pair j of an axis with d elements of a head turns by pos * 10000^(-2j/d);
 * positions are 0, 1, ... without a list of them. */
static void turn_axis(WanDev *d, WanRope *rope, int a, const int64_t *pos)
{
    const int n = rope->grid[a], p = rope->pairs[a];
    WanTensor part = wan_slice(&rope->table[a], 0, n);
    float *table = malloc((size_t)n * p * 2 * sizeof(*table));

    if (!table) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for rotary tables");
        return;
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < p; j++) {
            const double angle = (pos ? pos[i] : i) *
                                 pow(10000, -(double)j / p);

            table[2 * (i * p + j)] = (float)cos(angle);
            table[2 * (i * p + j) + 1] = (float)sin(angle);
        }
    }
    wan_op_upload(d, &part, table);
    free(table);
}

void wan_dit_rope_at(WanDev *d, WanRope *rope, const int64_t *at)
{
    turn_axis(d, rope, 0, at);
}

/* Of the pairs of a head a third each (rounded down) goes to rows and
 * columns, the rest to frames. */
void wan_dit_rope(WanDev *d, WanRope *rope, const WanDitConfig *c,
                  int frames, int rows, int cols)
{
    const int pairs = c->dim / c->heads / 2;

    *rope = (WanRope){
        .first = wan_share(d, (int64_t)frames * rows * cols).first,
        .heads = c->heads,
        .grid = { frames, rows, cols },
        .pairs = { pairs - 2 * (pairs / 3), pairs / 3, pairs / 3 },
    };
    for (int a = 0; a < 3; a++) {
        rope->table[a] = wan_tmp(d, rope->grid[a], 2 * rope->pairs[a]);
        turn_axis(d, rope, a, NULL);
    }
}

/* ---------------------------------------------------------------- blocks */

/* q, k, v of h [L, D] side by side, as attention wants them. Keys that are kept
 * unturned are turned where they are read. */
static void query_key_value(WanDev *d, WanTensor qkv[3], const WanTensor *h,
                            const WanAttn *w, const WanDitInput *in, int block)
{
    const int64_t D = wan_cols(h);
    const float eps = in->dit->config.eps;
    WanTensor all = wan_tmp_act(d, wan_rows(h), 3 * D);

    for (int i = 0; i < 3; i++)
        qkv[i] = wan_columns(&all, i * D, D);
    wan_op_linear_n(d, &all, h, &w->q, &w->k, &w->v);           // [L, 3D]
    wan_tap(d, &qkv[0], "block%d.self_attn.q", block);
    wan_tap(d, &qkv[1], "block%d.self_attn.k", block);
    wan_tap(d, &qkv[2], "block%d.self_attn.v", block);
    wan_op_rms_norm_rope(d, &qkv[0], &w->norm_q, eps, in->rope); // norm over D,
    if (in->past && in->past->rope.table[0].nb_dims)             // rope per head
        wan_op_rms_norm(d, &qkv[1], &qkv[1], &w->norm_k, eps);
    else
        wan_op_rms_norm_rope(d, &qkv[1], &w->norm_k, eps, in->rope);
}

/* y = Attention(q, k, v) with what is kept of frames before, and these become
 * part of it; y may be q, and NULL as q. */
static void attend_past(WanDev *d, WanTensor *y, const WanTensor *q,
                        const WanTensor *k, const WanTensor *v,
                        const WanDitInput *in, int block)
{
    const WanKvCache *past = in->past;
    WanTensor keys = wan_kvcache_layer(&past->k, block);
    WanTensor values = wan_kvcache_layer(&past->v, block);

    wan_op_ring_attention(d, y, q, k, v, &keys, &values,
                          .heads = in->rope->heads,
                          .sink = past->sink * past->tokens,
                          .at = past->at, .held = past->held,
                          .rows = wan_rope_rows(in->rope),
                          .rope = past->rope.table[0].nb_dims ? &past->rope
                                                              : NULL);
}

/* h = Wo Attention(rope(norm(Wq h)), rope(norm(Wk h)), Wv h) */
static void self_attention(WanDev *d, WanTensor *h, const WanAttn *w,
                           const WanDitInput *in, int block)
{
    const WanMark mark = wan_mark(d);
    WanTensor qkv[3], *q = &qkv[0];

    query_key_value(d, qkv, h, w, in, block);
    if (in->past)                                               // replaces q
        attend_past(d, q, q, &qkv[1], &qkv[2], in, block);
    else
        wan_op_attention(d, q, q, &qkv[1], &qkv[2], .heads = in->rope->heads,
                         .rows = wan_rope_rows(in->rope));
    wan_op_linear(d, h, q, &w->o);
    wan_tap(d, h, "block%d.self_attn", block);
    wan_release(d, mark);
}

/* h = Wo (Attention(q, k, v) + Attention(q, k_img, v_img)), q = norm(Wq h);
 * k and v of the prompt and of the image, each with its own softmax */
static void cross_attention(WanDev *d, WanTensor *h, const WanAttn *w,
                            const WanDitContext *text,
                            const WanDitContext *image, int heads, float eps,
                            int block)
{
    const WanMark mark = wan_mark(d);
    const WanTensor k = wan_slice(&text->k, block, 1);
    const WanTensor v = wan_slice(&text->v, block, 1);
    WanTensor q = wan_tmp_like(d, h), a = q;

    wan_op_linear(d, &q, h, &w->q);                             // [L, D]
    wan_op_rms_norm(d, &q, &q, &w->norm_q, eps);
    if (image)                  // q is used twice, so the result can't be in it
        a = wan_tmp_like(d, h);
    wan_op_attention(d, &a, &q, &k, &v, .heads = heads, .tail = text->tail);
    if (image) {
        const WanTensor ki = wan_slice(&image->k, block, 1);
        const WanTensor vi = wan_slice(&image->v, block, 1);

        wan_op_attention(d, &a, &q, &ki, &vi, .heads = heads, .add = 1);
    }
    wan_op_linear(d, h, &a, &w->o);
    wan_tap(d, h, "block%d.cross_attn", block);
    wan_release(d, mark);
}

/* x += gate * (W2 gelu(W1 h + b1) + b2), some rows at a time: the hidden
 * layer is three to six times as wide as the model. */
static void feed_forward(WanDev *d, WanTensor *x, const WanTensor *h,
                         const WanDitBlock *w, const WanTensor *gate, int F)
{
    const WanMark mark = wan_mark(d);
    const int64_t L = wan_rows(x), most = d->backend->hidden_rows;
    const int64_t step = L < most ? L : most;
    WanTensor hidden = wan_tmp_act(d, step, F);

    for (int64_t i = 0; i < L; i += step) {
        const int64_t n = L - i < step ? L - i : step;
        const WanTensor hi = wan_slice(h, i, n);
        WanTensor xi = wan_slice(x, i, n), u = wan_slice(&hidden, 0, n);

        wan_op_linear(d, &u, &hi, &w->ffn[0], .act = WAN_ACT_GELU_TANH);
        wan_op_linear(d, &xi, &u, &w->ffn[1], .gate = gate);
    }
    wan_release(d, mark);
}

/* The feed-forward's branch for a tap: the model holds its sum with x alone. */
static void tap_feed_forward(WanDev *d, const WanTensor *h,
                             const WanDitBlock *w, int F, int block)
{
    const WanMark mark = wan_mark(d);

    if (d->tap) {
        WanTensor u = wan_tmp_act(d, wan_rows(h), F);
        WanTensor y = wan_tmp(d, wan_rows(h), wan_cols(h));

        wan_op_linear(d, &u, h, &w->ffn[0], .act = WAN_ACT_GELU_TANH);
        wan_op_linear(d, &y, &u, &w->ffn[1]);
        wan_tap(d, &y, "block%d.ffn", block);
    }
    wan_release(d, mark);
}

/* What a block is modulated by in a span: modulation + e0, six rows of shift,
 * scale, gate; twice. */
static WanTensor part_of(const WanTensor *mod, int span, int k)
{
    return wan_slice(mod, 6 * span + k, 1);
}

/* h = LN(x) (1 + m1) + m0 */
static void modulate(WanDev *d, WanTensor *h, const WanTensor *x,
                     const WanTensor *mod, const WanDitTime *time, float eps)
{
    for (int s = 0; s < time->n; s++) {
        const WanTensor shift = part_of(mod, s, 0), scale = part_of(mod, s, 1);
        const WanTensor xs = in_span(x, time, s);
        WanTensor hs = in_span(h, time, s);

        wan_op_modulate(d, &hs, &xs, &shift, &scale, eps);
    }
}

/* x += m2 h; h = LN(x) * norm3 */
static void join_attention(WanDev *d, WanTensor *h, WanTensor *x,
                           const WanTensor *mod, const WanNorm *norm3,
                           const WanDitTime *time, float eps)
{
    for (int s = 0; s < time->n; s++) {
        const WanTensor gate = part_of(mod, s, 2);
        WanTensor hs = in_span(h, time, s), xs = in_span(x, time, s);

        wan_op_gate_add_norm(d, &hs, &xs, &hs, &gate, &norm3->weight,
                             &norm3->bias, eps);
    }
}

/* x += h; h = LN(x) (1 + m4) + m3 */
static void join_text(WanDev *d, WanTensor *h, WanTensor *x,
                      const WanTensor *mod, const WanDitTime *time, float eps)
{
    for (int s = 0; s < time->n; s++) {
        const WanTensor shift = part_of(mod, s, 3), scale = part_of(mod, s, 4);
        WanTensor hs = in_span(h, time, s), xs = in_span(x, time, s);

        wan_op_gate_add_modulate(d, &hs, &xs, &hs, NULL, &shift, &scale, eps);
    }
}

/* modulation + e0, [6 spans, D] from the arena */
static WanTensor block_modulation(WanDev *d, const WanDitBlock *w,
                                  const WanDitTime *time)
{
    WanTensor mod = wan_tmp(d, 6 * time->n, wan_cols(&time->e0));

    wan_op_copy(d, &mod, &time->e0);
    for (int s = 0; s < time->n; s++) {
        WanTensor all = wan_slice(&mod, 6 * s, 6);

        wan_op_gate_add(d, &all, &w->modulation, NULL);
    }
    return mod;
}

/* One block of n branches of guidance, x[b] each; from the config's layers on
 * it is one of the side stack. The first block of a stack gets the same tokens
 * for all: until the text comes in, one is enough. */
static void block_forward(WanDev *d, WanTensor x[], int n, int i,
                          const WanDitInput *in, const WanDitContext text[])
{
    const WanDitConfig *c = &in->dit->config;
    const WanDitBlock *w = &in->dit->blocks[i];
    const WanDitTime *time = in->time;
    const int side = i >= c->layers, same = !i || i == c->layers;
    const WanMark mark = wan_mark(d);
    WanTensor h = wan_tmp_act(d, wan_rows(&x[0]), c->dim);

    wan_section(d, side ? "VACE block %d" : "block %d",
                side ? i - c->layers : i);
    const WanTensor mod = block_modulation(d, w, time);

    for (int b = 0; b < n; b++) {
        if (!same || !b) {
            modulate(d, &h, &x[b], &mod, time, c->eps);
            wan_tap(d, &h, "block%d.norm1_modulated", i);
            self_attention(d, &h, &w->self_attn, in, i);
            join_attention(d, &h, &x[b], &mod, &w->norm3, time, c->eps);
            for (int o = 1; o < n && same; o++)
                wan_op_copy(d, &x[o], &x[0]);
        } else {
            wan_op_layer_norm(d, &h, &x[b], &w->norm3.weight, &w->norm3.bias,
                              c->eps);
        }
        wan_tap(d, &h, "block%d.norm3", i);
        cross_attention(d, &h, &w->cross_attn, &text[b], in->image, c->heads,
                        c->eps, i);
        join_text(d, &h, &x[b], &mod, time, c->eps);
        tap_feed_forward(d, &h, w, c->ffn, i);
        for (int s = 0; s < time->n; s++) {
            const WanTensor gate = part_of(&mod, s, 5);
            const WanTensor hs = in_span(&h, time, s);
            WanTensor xs = in_span(&x[b], time, s);

            feed_forward(d, &xs, &hs, w, &gate, c->ffn);
        }
        if (side)
            wan_tap(d, &x[b], "vace_block%d", i - c->layers);
    }
    wan_release(d, mark);
}

/* Block i as far as its keys and values. */
static void block_keep(WanDev *d, const WanTensor *x, int i,
                       const WanDitInput *in)
{
    const WanDitBlock *w = &in->dit->blocks[i];
    const WanMark mark = wan_mark(d);
    WanTensor h = wan_tmp_act(d, wan_rows(x), wan_cols(x)), qkv[3];

    wan_section(d, "keys of block %d", i);
    const WanTensor mod = block_modulation(d, w, in->time);

    modulate(d, &h, x, &mod, in->time, in->dit->config.eps);
    query_key_value(d, qkv, &h, &w->self_attn, in, i);
    attend_past(d, NULL, NULL, &qkv[1], &qkv[2], in, i);
    wan_release(d, mark);
}

/* All that a block's ops read and write, for wan_dev_replay(). */
static int block_tensors(WanTensor all[WAN_REPLAY_TENSORS],
                         const WanTensor x[], int n, int i,
                         const WanDitInput *in, const WanDitContext text[])
{
    const WanDitBlock *w = &in->dit->blocks[i];
    int nb = 0;

    for (int b = 0; b < n; b++) {
        all[nb++] = x[b];
        all[nb++] = text[b].k;
        all[nb++] = text[b].v;
    }
    if (in->image) {
        all[nb++] = in->image->k;
        all[nb++] = in->image->v;
    }
    if (in->past) {                         // what is held; the key has where
        const WanTensor keys = wan_kvcache_layer(&in->past->k, i);
        const WanTensor values = wan_kvcache_layer(&in->past->v, i);

        all[nb++] = wan_slice(&keys, 0, in->past->held);
        all[nb++] = wan_slice(&values, 0, in->past->held);
        all[nb++] = in->past->rope.table[0];
    }
    for (int a = 0; a < 3; a++)
        all[nb++] = in->rope->table[a];
    all[nb++] = in->time->e0;
    all[nb++] = w->modulation;              // which model's block it is
    all[nb++] = w->ffn[1].weight;
    return nb;
}

/* v = unpatchify(Whead (LN(x) (1 + m1) + m0) + b), m = modulation + e */
static void head_forward(WanDev *d, WanTensor *v, const WanTensor *x,
                         const WanDit *m, const WanDitTime *time)
{
    const WanDitConfig *c = &m->config;
    const WanMark mark = wan_mark(d);
    WanTensor h = wan_tmp_like(d, x);
    WanTensor z = wan_tmp(d, wan_rows(x), 4 * c->out_dim);
    WanTensor mod = wan_tmp(d, 2, c->dim);
    WanTensor shift = wan_slice(&mod, 0, 1), scale = wan_slice(&mod, 1, 1);

    wan_section(d, "head");
    for (int s = 0; s < time->n; s++) {
        const WanTensor e = wan_slice(&time->e, s, 1);
        const WanTensor xs = in_span(x, time, s);
        WanTensor hs = in_span(&h, time, s);

        wan_op_copy(d, &mod, &m->head.modulation);
        wan_op_gate_add(d, &shift, &e, NULL);
        wan_op_gate_add(d, &scale, &e, NULL);
        wan_op_modulate(d, &hs, &xs, &shift, &scale, c->eps);
    }
    wan_op_linear(d, &z, &h, &m->head.head);                    // [n, 64]
    const WanTensor all = wan_op_gather(d, &z, wan_count(v) / wan_cols(&z));
    wan_tap(d, &all, "head");                                   // [L, 64]
    wan_op_unpatchify(d, v, &all);
    wan_release(d, mark);
}

void wan_dit_embed(WanDev *d, WanTensor tokens[], int n, const WanDitInput *in)
{
    const WanDitConfig *c = &in->dit->config;
    const int64_t L = tokens_of(in), own = wan_share(d, L).n;

    for (int b = 0; b < n; b++)
        tokens[b] = wan_tmp(d, own, c->dim);
    const WanMark mark = wan_mark(d);
    WanTensor patches = wan_tmp_act(d, L, 4 * c->in_dim);

    wan_section(d, "patches");
    wan_op_patchify(d, &patches, in->x, 2);
    const WanTensor mine = wan_op_scatter(d, &patches);
    wan_op_linear(d, &tokens[0], &mine,
                  &in->dit->patch_embedding);                   // [own, D]
    wan_release(d, mark);
    wan_tap(d, &tokens[0], "tokens");
}

/* Some branches on their way through the blocks. */
typedef struct Run {
    const WanDitInput *in;              // its times are this rank's tokens'
    const WanDitContext *text;          // of the first of them
    int first, n;
    WanTensor *x;                       // [L, D] each
    WanTensor side[WAN_CONTROLS][WAN_DIT_BRANCHES];     // of VACE's contexts
} Run;

/* A stretch for each choice of branches, so that a device which remembers what
 * it launched need not forget it when another choice comes between; and for
 * each context that block i of the side stack goes through, or each place in
 * the ring of what is looked back on. */
static void run_block(WanDev *d, const Run *r, int i, int context,
                      WanTensor x[])
{
    const WanDitInput *in = r->in;
    const WanDit *m = in->dit;
    const int blocks = all_blocks(m);
    const int choice = r->first + WAN_DIT_BRANCHES * (r->n - 1);
    const int place = in->past ? (int)(in->past->at / in->past->tokens)
                               : context;
    const int key = i + (choice + WAN_DIT_BRANCHES * WAN_DIT_BRANCHES *
                         place) * blocks;
    WanTensor all[WAN_REPLAY_TENSORS];
    const int nb = block_tensors(all, x, r->n, i, in, r->text);

    while (wan_dev_replay(d, key, nb, all))
        block_forward(d, x, r->n, i, in, r->text);
}

/* c = Wbefore embed(context) + x, for x before the first block: as yet the same
 * for all branches. Of the context, which is on all ranks, its own rows. */
static void begin_side(WanDev *d, Run *r, int k)
{
    const WanDit *m = r->in->dit;
    const WanTensor *x = &r->x[0];
    WanTensor *c = r->side[k];

    for (int b = 0; b < r->n; b++)
        c[b] = wan_tmp_like(d, x);
    const WanMark mark = wan_mark(d);
    const WanShare own = wan_share(d, tokens_of(r->in));
    WanTensor patches = wan_tmp_act(d, tokens_of(r->in),
                                    4 * WAN_VACE_CHANNELS);
    WanTensor tokens = wan_tmp_act(d, own.n, wan_cols(x));

    wan_section(d, "VACE patches");
    wan_op_patchify(d, &patches, &r->in->vace[k].context, 2);   // [L, 384]
    const WanTensor mine = wan_slice(&patches, own.first, own.n);
    wan_op_linear(d, &tokens, &mine,
                  &m->vace.patch_embedding);                    // [own, D]
    wan_tap(d, &tokens, "vace_tokens");
    wan_op_linear(d, &c[0], &tokens, &m->vace.before_proj);
    wan_tap(d, &c[0], "vace_blocks.0.before_proj");
    wan_op_gate_add(d, &c[0], x, NULL);
    wan_release(d, mark);
}

/* The hint for a tap: the model holds its sum with x alone. */
static void tap_hint(WanDev *d, const WanTensor *h, const WanLinear *w, int j)
{
    const WanMark mark = wan_mark(d);

    if (d->tap) {
        WanTensor y = wan_tmp(d, wan_rows(h), wan_cols(h));

        wan_op_linear(d, &y, h, w);
        wan_tap(d, &y, "hint%d", j);
    }
    wan_release(d, mark);
}

/* x += scale (Wafter c + b), where c goes on as it is */
static void add_hints(WanDev *d, const Run *r, int j)
{
    const WanLinear *w = &r->in->dit->vace.after_proj[j];
    const WanMark mark = wan_mark(d);
    WanTensor h = wan_tmp_act(d, wan_rows(&r->x[0]), wan_cols(&r->x[0]));

    wan_section(d, "hint %d", j);
    for (int k = 0; k < r->in->nb_vace; k++)
        for (int b = 0; b < r->n; b++) {
            wan_op_copy(d, &h, &r->side[k][b]);
            tap_hint(d, &h, w, j);
            wan_op_linear(d, &r->x[b], &h, w, .gate = &r->in->vace[k].scale);
        }
    wan_release(d, mark);
}

void wan_dit_blocks(WanDev *d, WanTensor tokens[], int first, int n,
                    const WanDitInput *in)
{
    const WanDitConfig *c = &in->dit->config;
    const WanMark mark = wan_mark(d);
    const WanDitTime time = own_time(d, in);
    WanDitInput own = *in;
    Run r = { .in = &own, .text = &in->text[first], .first = first, .n = n,
              .x = &tokens[first] };
    int j = 0;                          // the side stack's next block

    own.time = &time;
    for (int k = 0; k < in->nb_vace; k++)
        begin_side(d, &r, k);
    for (int i = 0; i < c->layers; i++) {
        const int hint = in->nb_vace && j < c->nb_vace &&
                         c->vace_layer[j] == i;

        for (int k = 0; k < in->nb_vace && hint; k++)
            run_block(d, &r, c->layers + j, k, r.side[k]);
        run_block(d, &r, i, 0, r.x);
        if (hint)
            add_hints(d, &r, j++);
        if (in->after)
            in->after(in->opaque, i);
        for (int b = 0; b < n; b++)
            wan_tap(d, &r.x[b], "block%d", i);
    }
    wan_release(d, mark);
}

void wan_dit_keep(WanDev *d, const WanDitInput *in)
{
    const int last = in->dit->config.layers - 1;
    const WanMark mark = wan_mark(d);
    WanTensor tokens;
    const Run r = { .in = in, .text = in->text, .n = 1, .x = &tokens };

    wan_dit_embed(d, &tokens, 1, in);
    for (int i = 0; i < last; i++)
        run_block(d, &r, i, 0, &tokens);
    block_keep(d, &tokens, last, in);
    wan_release(d, mark);
}

void wan_dit_head(WanDev *d, WanTensor v[], const WanTensor tokens[], int n,
                  const WanDitInput *in)
{
    const WanDitTime time = own_time(d, in);

    for (int b = 0; b < n; b++) {
        head_forward(d, &v[b], &tokens[b], in->dit, &time);
        wan_tap(d, &v[b], "out");
    }
}

void wan_dit_forward(WanDev *d, WanTensor v[], int n, const WanDitInput *in)
{
    const WanMark mark = wan_mark(d);
    const int first = d->halves ? wan_half(d) : 0;
    WanTensor tokens[WAN_DIT_BRANCHES];

    if (d->halves)                      // the other half has the other branch
        n = 1;
    wan_dit_embed(d, &tokens[first], n, in);
    wan_dit_blocks(d, tokens, first, n, in);
    wan_dit_head(d, &v[first], &tokens[first], n, in);
    wan_release(d, mark);
    if (d->halves)
        wan_op_swap(d, &v[!first], &v[first]);
}
