/*
 * The diffusion transformer: latent, time and text to velocity.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_DIT_H
#define WAN_DIT_H

#include "config.h"
#include "kvcache.h"

typedef struct WanAttn {
    WanLinear q, k, v, o;
    WanTensor norm_q, norm_k;           // [D]
} WanAttn;

/* Affine LayerNorm. */
typedef struct WanNorm {
    WanTensor weight, bias;             // [C]
} WanNorm;

typedef struct WanDitBlock {
    WanTensor modulation;               // [6, D]
    WanAttn self_attn, cross_attn;
    struct {                            // the image branch; absent in T2V
        WanLinear k_img, v_img;
        WanTensor norm_k_img;           // [D]
    } cross_img;
    WanNorm norm3;                      // before cross_attn
    WanLinear ffn[2];                   // ffn.0 [F, D], ffn.2 [D, F]
} WanDitBlock;

typedef struct WanDit {
    WanDitConfig config;
    WanLinear patch_embedding;          // [D, in, 1, 2, 2]
    WanLinear text_embedding[2];        // .0 [D, text], .2 [D, D]
    WanLinear time_embedding[2];        // .0 [D, freq], .2 [D, D]
    WanLinear time_projection;          // .1 [6D, D]
    struct {                            // absent in T2V
        WanTensor emb_pos;              // [514, clip]; FLF2V alone
        WanNorm norm[2];                // proj.0 [clip], proj.4 [D]
        WanLinear linear[2];            // proj.1 [clip, clip], proj.3 [D, clip]
    } img_emb;
    WanDitBlock *blocks;                // of the config's layers; behind them
                                        // those of VACE's side stack
    struct {                            // VACE alone
        WanLinear patch_embedding;      // [D, 96, 1, 2, 2]
        WanLinear before_proj;          // vace_blocks.0.before_proj [D, D]
        WanLinear *after_proj;          // vace_blocks.J.after_proj [D, D]
    } vace;
    struct {
        WanLinear head;                 // [4 out, D]
        WanTensor modulation;           // [2, D]
    } head;
} WanDit;

/* Bind all tensors, the image branch where the config has one;
 * WAN_ERR(ENOMEM) or the binder's error. Free with wan_dit_free() in any
 * case. */
int wan_dit_bind(WanDit *m, const WanDitConfig *config, WanBinder *b);
void wan_dit_free(WanDit *m);

/**
 * A prompt or an image as the transformer reads it: every block's
 * cross-attention keys and values. They depend on nothing else, so they are
 * made once.
 *
 * A text is zero-padded to 512 rows, all of which are attended to. The padded
 * rows are equal: one is kept and counts tail times.
 */
typedef struct WanDitContext {
    WanTensor k, v;                     // [blocks, rows, D]
    int64_t tail;                       // multiplicity of the last row
} WanDitContext;

/**
 * @param out  tensors are taken from the arena and stay until it is released
 *             below them
 * @param text [n, text_dim], 1 <= n <= 512
 */
void wan_dit_text(WanDev *d, WanDitContext *out, const WanDit *m,
                  const WanTensor *text);

/* The memory of such a context for any text, of WAN_TEXT_LEN rows; and the same
 * into what was made so, or of a text of as many rows by a transformer of the
 * same shape: the memory stays where it is. */
void wan_dit_text_reserve(WanDev *d, WanDitContext *out, const WanDit *m);
void wan_dit_text_again(WanDev *d, WanDitContext *out, const WanDit *m,
                        const WanTensor *text);

/**
 * The same of CLIP features; for models with an image branch. Both guidance
 * branches share it.
 *
 * @param clip [257 * images, clip_dim]
 */
void wan_dit_image(WanDev *d, WanDitContext *out, const WanDit *m,
                   const WanTensor *clip);

/* The most stretches of tokens with a time each. */
#define WAN_DIT_SPANS 8

/* Tokens one behind the other that have one time, 0 to 1000. */
typedef struct WanDitSpan {
    double t;
    int64_t tokens;                     // of the last: not read, all the rest
} WanDitSpan;

/* The time embedding, shared by all forwards of a step: of every span once,
 * however many tokens it has. */
typedef struct WanDitTime {
    int n;                              // spans
    int64_t end[WAN_DIT_SPANS];         // token behind each but the last
    WanTensor e;                        // [n, D], for the head
    WanTensor e0;                       // [6 n, D], for the blocks
} WanDitTime;

/* As wan_dit_text(); n spans, 1 to WAN_DIT_SPANS. */
void wan_dit_times(WanDev *d, WanDitTime *out, const WanDit *m, int n,
                   const WanDitSpan *span);

/* One time for all tokens, 0 to 1000. */
void wan_dit_time(WanDev *d, WanDitTime *out, const WanDit *m, double t);

/* Rotary tables of a grid of tokens, from the arena. */
void wan_dit_rope(WanDev *d, WanRope *rope, const WanDitConfig *c,
                  int frames, int rows, int cols);

/* One context of VACE: a side stack of blocks reads it and gives hints to the
 * main ones. */
typedef struct WanDitVace {
    WanTensor context;                  // [96, T, H, W] for an x of T, H, W
    WanTensor scale;                    // [D]: by what its hints are multiplied
} WanDitVace;
/* Other times for the frames of such tables: at[grid[0]], which may be any. */
void wan_dit_rope_at(WanDev *d, WanRope *rope, const int64_t *at);

/* Guidance asks for two: with the prompt and with the negative one. */
#define WAN_DIT_BRANCHES 2

/* What a forward is made of. */
typedef struct WanDitInput {
    const WanDit *dit;
    const WanTensor *x;                 // [in_dim, T, H, W], dense; H and W
                                        // even; image models: 16 of noise, 4
                                        // of mask, 16 of the conditioning
                                        // latent
    const WanDitTime *time;
    const WanDitContext *text;          // one a branch
    const WanDitContext *image;         // NULL without an image branch
    const WanRope *rope;
    const WanDitVace *vace;             // nb_vace contexts, WAN_CONTROLS at
    int nb_vace;                        // most; both branches see all
    void (*after)(void *opaque, int block); // of each block, once its ops were
    void *opaque;                           // issued; NULL: nobody asks
    /* Of frames before x, which x is attended to with and becomes part of: as
     * the frames of wan_kvcache_place(). NULL: x stands alone. */
    WanKvCache *past;
} WanDitInput;

/**
 * v[b] = velocity of the latent x at that time under that image and prompt
 * text[b], for all n branches. They go through the blocks together: what is
 * before the first text is computed once, and a block's weights are used by
 * all before the next block's.
 *
 * @param v [out_dim, T, H, W] each, dense
 * @param n 1 to WAN_DIT_BRANCHES
 */
void wan_dit_forward(WanDev *d, WanTensor v[], int n, const WanDitInput *in);

/*
 * The same in its three parts, for who does something between them.
 * wan_dit_embed() takes the tokens of n branches from the arena, [L, D], this
 * rank's share of the L there are, and fills in the first: all begin the same. wan_dit_blocks() sends n of them
 * from branch first on through all blocks; before block 0 the first of these
 * n holds for all. wan_dit_head() makes v of all n.
 */
void wan_dit_embed(WanDev *d, WanTensor tokens[], int n,
                   const WanDitInput *in);
void wan_dit_blocks(WanDev *d, WanTensor tokens[], int first, int n,
                    const WanDitInput *in);
void wan_dit_head(WanDev *d, WanTensor v[], const WanTensor tokens[], int n,
                  const WanDitInput *in);

/* As far as x's keys and values in in->past need it: the last block ends with
 * its own. */
void wan_dit_keep(WanDev *d, const WanDitInput *in);

#endif /* WAN_DIT_H */
