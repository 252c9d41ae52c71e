/*
 * The visual tower of CLIP ViT-H/14.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Pre-norm blocks with biases; exact GELU; the output is what enters the last
 * block, without a final norm.
 */

#include <stdio.h>
#include <stdlib.h>

#include "clip.h"

#define EPS 1e-5f

/* Of the channels of a picture in [0, 1], as CLIP was trained. */
static const float mean[3] = { 0.48145466f, 0.4578275f, 0.40821073f };
static const float std[3] = { 0.26862954f, 0.26130258f, 0.27577711f };

static void bind_norm(WanBinder *b, WanNorm *n, const char *prefix, int64_t C)
{
    char name[128];

    snprintf(name, sizeof(name), "%s.weight", prefix);
    wan_bind_vector(b, &n->weight, name, C);
    snprintf(name, sizeof(name), "%s.bias", prefix);
    wan_bind_vector(b, &n->bias, name, C);
}

/* Rows [i*C, (i + 1)*C) of a fused projection. */
static WanLinear part_of(const WanLinear *l, int i, int64_t C)
{
    WanLinear part = *l;

    part.weight = wan_slice(&l->weight, i * C, C);
    part.bias = wan_slice(&l->bias, i * C, C);
    if (l->scale.nb_dims && wan_count(&l->scale) > 1)
        part.scale = wan_slice(&l->scale, i * C, C);
    return part;
}

int wan_clip_bind(WanClip *m, const WanClipConfig *c, WanBinder *b)
{
    const int64_t C = c->dim;
    char name[96];

    m->config = *c;
    m->blocks = calloc(c->layers, sizeof(*m->blocks));
    if (!m->blocks)
        return wan_error_memory(b->log, "model", "its blocks");

    wan_bind_matrix(b, &m->patch_embedding.weight,
                    "visual.patch_embedding.weight", C, 3, WAN_CLIP_PATCH,
                    WAN_CLIP_PATCH);
    wan_bind_vector(b, &m->cls_embedding, "visual.cls_embedding", 1, C);
    wan_bind_vector(b, &m->pos_embedding, "visual.pos_embedding",
                    WAN_CLIP_TOKENS, C);
    bind_norm(b, &m->pre_norm, "visual.pre_norm", C);

#define NAME(suffix) \
    (snprintf(name, sizeof(name), "visual.transformer.%d." suffix, i), name)
    for (int i = 0; i < c->layers; i++) {
        WanClipBlock *w = &m->blocks[i];

        bind_norm(b, &w->norm1, NAME("norm1"), C);
        if (b->naming == WAN_NAMES_OFFICIAL) {
            WanLinear qkv = { 0 };

            wan_bind_linear(b, &qkv, NAME("attn.to_qkv"), 3 * C, C, 1);
            if (!b->error) {
                w->attn.q = part_of(&qkv, 0, C);
                w->attn.k = part_of(&qkv, 1, C);
                w->attn.v = part_of(&qkv, 2, C);
            }
        } else {
            wan_bind_linear(b, &w->attn.q, NAME("attn.q"), C, C, 1);
            wan_bind_linear(b, &w->attn.k, NAME("attn.k"), C, C, 1);
            wan_bind_linear(b, &w->attn.v, NAME("attn.v"), C, C, 1);
        }
        wan_bind_linear(b, &w->attn.proj, NAME("attn.proj"), C, C, 1);
        bind_norm(b, &w->norm2, NAME("norm2"), C);
        wan_bind_linear(b, &w->mlp[0], NAME("mlp.0"), c->mlp, C, 1);
        wan_bind_linear(b, &w->mlp[1], NAME("mlp.2"), C, c->mlp, 1);
    }
#undef NAME
    return wan_binder_end(b);
}

void wan_clip_free(WanClip *m)
{
    free(m->blocks);
    m->blocks = NULL;
}

/* x = LN(concat(cls, W patches) + pos) */
static void embed(WanDev *d, WanTensor *x, const WanClip *m,
                  const WanTensor *image)
{
    const WanMark mark = wan_mark(d);
    const int S = WAN_CLIP_SIZE, P = WAN_CLIP_PATCH;
    WanTensor pixels = wan_tmp(d, 3, S, S);
    const WanTensor frames = wan_reshape(&pixels, 3, 1, S, S);
    WanTensor patches = wan_tmp_act(d, WAN_CLIP_TOKENS - 1, 3 * P * P);
    WanTensor cls = wan_slice(x, 0, 1);
    WanTensor rest = wan_slice(x, 1, WAN_CLIP_TOKENS - 1);

    wan_op_resize(d, &pixels, image);
    for (int c = 0; c < 3; c++) {
        /* [-1, 1] to [0, 1] to CLIP's statistics: a x + b */
        WanTensor plane = wan_slice(&pixels, c, 1), one = wan_tmp(d, 1, S, S);
        const WanTensor *in[] = { &plane, &one };

        wan_op_fill(d, &one, 1);
        wan_op_lincomb(d, &plane, 2, (double[]){ 0.5 / std[c],
                       (0.5 - mean[c]) / std[c] }, in);
    }
    wan_tap(d, &pixels, "pixels");
    wan_op_patchify(d, &patches, &frames, P);
    wan_op_linear(d, &rest, &patches, &m->patch_embedding);
    wan_op_copy(d, &cls, &m->cls_embedding);
    wan_op_gate_add(d, x, &m->pos_embedding, NULL);
    wan_op_layer_norm(d, x, x, &m->pre_norm.weight, &m->pre_norm.bias, EPS);
    wan_release(d, mark);
}

void wan_clip_encode(WanDev *d, WanTensor *x, const WanClip *m,
                     const WanTensor *image)
{
    const WanClipConfig *c = &m->config;
    const WanMark mark = wan_mark(d);
    const int64_t C = c->dim;
    WanTensor h = wan_tmp_act(d, WAN_CLIP_TOKENS, C);
    WanTensor qkv = wan_tmp_act(d, WAN_CLIP_TOKENS, 3 * C);
    WanTensor q = wan_columns(&qkv, 0, C), k = wan_columns(&qkv, C, C);
    WanTensor v = wan_columns(&qkv, 2 * C, C);
    WanTensor u = wan_tmp_act(d, WAN_CLIP_TOKENS, c->mlp);

    wan_section(d, "image encoder");
    embed(d, x, m, image);
    for (int i = 0; i < c->layers; i++) {
        const WanClipBlock *w = &m->blocks[i];

        wan_section(d, "image block %d", i);
        /* x += Wproj softmax(q k^T / sqrt(80)) v,  q, k, v = W LN(x) */
        wan_op_layer_norm(d, &h, x, &w->norm1.weight, &w->norm1.bias, EPS);
        wan_op_linear_n(d, &qkv, &h, &w->attn.q, &w->attn.k,
                        &w->attn.v);                            // [257, 3C]
        wan_op_attention(d, &q, &q, &k, &v, .heads = c->heads);
        wan_op_linear(d, x, &q, &w->attn.proj, .add = 1);
        /* x += W2 gelu(W1 LN(x)) */
        wan_op_layer_norm(d, &h, x, &w->norm2.weight, &w->norm2.bias, EPS);
        wan_op_linear(d, &u, &h, &w->mlp[0], .act = WAN_ACT_GELU_ERF);
        wan_op_linear(d, x, &u, &w->mlp[1], .add = 1);
    }
    wan_release(d, mark);
}
