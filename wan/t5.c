/*
 * The UMT5 text encoder: pre-norm blocks with a position bias of their own,
 * no biases, no scaling of scores.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <stdio.h>
#include <stdlib.h>

#include "t5.h"

#define EPS 1e-6f

int wan_t5_bind(WanT5 *m, const WanT5Config *c, WanBinder *b)
{
    const int64_t D = c->dim, A = c->attn_dim, F = c->ffn;
    char name[96];

    m->config = *c;
    m->blocks = calloc(c->layers, sizeof(*m->blocks));
    if (!m->blocks)
        return wan_error_memory(b->log, "model", "its blocks");

#define NAME(suffix) (snprintf(name, sizeof(name), "blocks.%d." suffix, i), name)
    wan_bind_matrix(b, &m->token_embedding, "token_embedding.weight",
                    c->vocab, D);
    for (int i = 0; i < c->layers; i++) {
        WanT5Block *w = &m->blocks[i];

        wan_bind_vector(b, &w->norm1, NAME("norm1.weight"), D);
        wan_bind_linear(b, &w->attn.q, NAME("attn.q"), A, D, 0);
        wan_bind_linear(b, &w->attn.k, NAME("attn.k"), A, D, 0);
        wan_bind_linear(b, &w->attn.v, NAME("attn.v"), A, D, 0);
        wan_bind_linear(b, &w->attn.o, NAME("attn.o"), D, A, 0);
        wan_bind_vector(b, &w->pos_embedding,
                        NAME("pos_embedding.embedding.weight"), 32, c->heads);
        wan_bind_vector(b, &w->norm2, NAME("norm2.weight"), D);
        wan_bind_linear(b, &w->ffn.gate, NAME("ffn.gate.0"), F, D, 0);
        wan_bind_linear(b, &w->ffn.fc1, NAME("ffn.fc1"), F, D, 0);
        wan_bind_linear(b, &w->ffn.fc2, NAME("ffn.fc2"), D, F, 0);
    }
    wan_bind_vector(b, &m->norm, "norm.weight", D);
#undef NAME
    return wan_binder_end(b);
}

void wan_t5_free(WanT5 *m)
{
    free(m->blocks);
    m->blocks = NULL;
}

/* x += Wo softmax(q k^T + B) v,  q, k, v = W rms(x), each prompt of y's by
 * itself */
static void attention(WanDev *d, WanTensor *x, int nb, const WanTensor *y,
                      const WanT5Block *w, const WanT5Config *c, int i)
{
    const WanMark mark = wan_mark(d);
    const int64_t n = wan_rows(x), A = c->attn_dim;
    WanTensor h = wan_tmp_act(d, n, c->dim), qkv = wan_tmp_act(d, n, 3 * A);
    WanTensor q = wan_columns(&qkv, 0, A), k = wan_columns(&qkv, A, A);
    WanTensor v = wan_columns(&qkv, 2 * A, A);

    wan_op_rms_norm(d, &h, x, &w->norm1, EPS);                  // [n, D]
    wan_op_linear_n(d, &qkv, &h, &w->attn.q, &w->attn.k,
                    &w->attn.v);                                // [n, 3A]
    for (int64_t p = 0, at = 0, np; p < nb; p++, at += np) {
        np = wan_rows(&y[p]);
        WanTensor qp = wan_slice(&q, at, np);
        const WanTensor kp = wan_slice(&k, at, np);
        const WanTensor vp = wan_slice(&v, at, np);

        wan_op_attention(d, &qp, &qp, &kp, &vp, .heads = c->heads, .scale = 1,
                         .rel_bias = &w->pos_embedding);
    }
    if (d->tap) {
        wan_op_linear(d, &h, &q, &w->attn.o);
        wan_tap(d, &h, "block%d.attn", i);
    }
    wan_op_linear(d, x, &q, &w->attn.o, .add = 1);
    wan_release(d, mark);
}

/* x += W2 (gelu(Wgate h) * (W1 h)),  h = rms(x) */
static void feed_forward(WanDev *d, WanTensor *x, const WanT5Block *w,
                         const WanT5Config *c, int i)
{
    const WanMark mark = wan_mark(d);
    const int64_t n = wan_rows(x);
    WanTensor h = wan_tmp_act(d, n, c->dim);
    WanTensor g = wan_tmp_act(d, n, c->ffn), u = wan_tmp_like(d, &g);

    wan_op_rms_norm(d, &h, x, &w->norm2, EPS);
    wan_op_linear(d, &g, &h, &w->ffn.gate);                     // [n, F]
    wan_op_linear(d, &u, &h, &w->ffn.fc1);
    wan_op_geglu(d, &g, &g, &u);
    if (d->tap) {
        wan_op_linear(d, &h, &g, &w->ffn.fc2);
        wan_tap(d, &h, "block%d.ffn", i);
    }
    wan_op_linear(d, x, &g, &w->ffn.fc2, .add = 1);
    wan_release(d, mark);
}

void wan_t5_encode(WanDev *d, int nb, WanTensor *y, const WanT5 *m,
                   const int32_t *const *ids)
{
    const WanMark mark = wan_mark(d);
    int64_t n = 0;

    for (int p = 0; p < nb; p++)
        n += wan_rows(&y[p]);
    WanTensor x = wan_tmp(d, n, m->config.dim);                 // [n, D]

    wan_section(d, "text encoder");
    for (int64_t p = 0, at = 0; p < nb; at += wan_rows(&y[p++])) {
        WanTensor xp = wan_slice(&x, at, wan_rows(&y[p]));

        wan_op_embed(d, &xp, &m->token_embedding, ids[p]);
    }
    for (int i = 0; i < m->config.layers; i++) {
        wan_section(d, "text block %d", i);
        attention(d, &x, nb, y, &m->blocks[i], &m->config, i);
        feed_forward(d, &x, &m->blocks[i], &m->config, i);
        wan_tap(d, &x, "block%d", i);
    }
    wan_section(d, "text end");
    for (int64_t p = 0, at = 0; p < nb; at += wan_rows(&y[p++])) {
        const WanTensor xp = wan_slice(&x, at, wan_rows(&y[p]));

        wan_op_rms_norm(d, &y[p], &xp, &m->norm, EPS);
    }
    wan_release(d, mark);
}
