/*
 * What the files of the CPU backends share.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CPU_CPU_H
#define WAN_CPU_CPU_H

#include "../ops.h"

/* ------------------------------------------------------------ cpu.c */

/* Bytes this process may still take: what the kernel calls available and
 * what its control group and those above it leave, whichever is less. */
int64_t wan_cpu_memory_available(int index, void *context);

/* The same by the kernel's files as they lie below root: "", or a test's. */
int64_t wan_cpu_memory_in(const char *root);

/* Pages that are given as they are touched; NULL when bytes is more than is
 * available. */
void *wan_cpu_alloc(WanDev *d, int64_t bytes);
void wan_cpu_free(WanDev *d, void *p, int64_t bytes);

/**
 * Call fn(arg, i, worker) for every i < n on the device's threads, in any
 * order; worker < d->threads tells who runs. Stops handing out work when the
 * device is cancelled. wan_sgemm() inside fn keeps to its thread. Not from
 * inside of fn.
 */
void wan_cpu_parallel(WanDev *d, int64_t n,
                      void (*fn)(void *arg, int64_t i, int worker), void *arg);

static inline int64_t wan_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Rows of c elements that make one call of a memory-bound fn worth it. */
static inline int64_t wan_cpu_chunk(int64_t c)
{
    return c < 16384 ? wan_ceil_div(16384, c > 0 ? c : 1) : 1;
}

/* Elements rounded up to whole cache lines. */
static inline int64_t wan_pad16(int64_t n)
{
    return (n + 15) / 16 * 16;
}

/* ------------------------------------- ref.c: entries the other shares */

void wan_ref_lincomb(WanDev *d, WanTensor *y, int n, const double *coef,
                     const WanTensor *const *x);
void wan_ref_upload(WanDev *d, WanTensor *y, const float *host);
void wan_ref_download(WanDev *d, float *host, const WanTensor *x);
void wan_ref_row_norm(WanDev *d, WanTensor *y, const WanTensor *a,
                      const WanTensor *b, int p);
void wan_ref_finite(WanDev *d, const WanTensor *x, const char *what);
void wan_ref_embed(WanDev *d, WanTensor *y, const WanTensor *table,
                   const int32_t *ids);
void wan_ref_patchify(WanDev *d, WanTensor *tokens, const WanTensor *x,
                      int n);
void wan_ref_unpatchify(WanDev *d, WanTensor *x, const WanTensor *z);
void wan_ref_channels_last(WanDev *d, WanTensor *y, const WanTensor *x,
                           int64_t t0, const WanTensor *scale,
                           const WanTensor *shift);
void wan_ref_channels_first(WanDev *d, WanTensor *y, int64_t t0,
                            const WanTensor *x, const WanTensor *scale,
                            const WanTensor *shift);
void wan_ref_fold(WanDev *d, WanTensor *y, const WanTensor *x,
                  const WanFold *a);
void wan_ref_fold_row(WanTensor *y, const WanTensor *x, const WanFold *a,
                      int64_t row);         // of y
void wan_ref_unfold(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanFold *a);
void wan_ref_unfold_row(WanTensor *y, const WanTensor *x, const WanFold *a,
                        int64_t row);       // of x
void wan_ref_resize(WanDev *d, WanTensor *y, const WanTensor *x);
void wan_ref_image(WanDev *d, const WanImage *img, const WanTensor *rgb);
void wan_ref_noise(WanDev *d, WanTensor *y, const WanNoise *n);

/* ------------------------------------------------- the fast entries */

/* linear.c */
void wan_cpu_linear(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanLinear *w, const WanLinearArgs *a);
int64_t wan_cpu_linear_scratch(int threads, const WanTensor *y,
                               const WanTensor *x, const WanLinear *w,
                               const WanLinearArgs *a);

int wan_cpu_linear_n_fits(const WanTensor *y, const WanTensor *x, int n,
                          const WanLinear *const *w);
void wan_cpu_linear_n(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                      const WanLinear *const *w);

/* What stands behind a product, for n columns of one row: y (+)= gate * act(s *
 * scale + bias), s the sums, which are changed. Absent vectors are NULL; scale
 * has one value or, with scale_step 1, n. */
void wan_cpu_finish_row(float *y, float *s, int64_t n, const float *scale,
                        int scale_step, const float *bias, WanAct act,
                        const float *gate, int add);

/* Values of a vector from column n on, or NULL if it is absent. */
static inline const float *wan_cpu_from(const WanTensor *t, int64_t n)
{
    return t && t->nb_dims ? (const float *)t->data + n : NULL;
}

/* linear_rounded.c: layers in BF16, or those that may be in 8 bits and others
 * in BF16; what may not be rounded is wan_cpu_linear()'s. */
void wan_cpu_linear_bf16(WanDev *d, WanTensor *y, const WanTensor *x,
                         const WanLinear *w, const WanLinearArgs *a);
void wan_cpu_linear_int8(WanDev *d, WanTensor *y, const WanTensor *x,
                         const WanLinear *w, const WanLinearArgs *a);
int64_t wan_cpu_linear_bf16_scratch(int threads, const WanTensor *y,
                                    const WanTensor *x, const WanLinear *w,
                                    const WanLinearArgs *a);
int64_t wan_cpu_linear_int8_scratch(int threads, const WanTensor *y,
                                    const WanTensor *x, const WanLinear *w,
                                    const WanLinearArgs *a);
int wan_cpu_linear_n_bf16_fits(const WanTensor *y, const WanTensor *x, int n,
                               const WanLinear *const *w);
int wan_cpu_linear_n_int8_fits(const WanTensor *y, const WanTensor *x, int n,
                               const WanLinear *const *w);
void wan_cpu_linear_n_bf16(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                           const WanLinear *const *w);
void wan_cpu_linear_n_int8(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                           const WanLinear *const *w);

/* n numbers of a weight type to f32. */
void wan_cpu_to_f32(float *dst, const void *src, WanType type, int64_t n);

/* attention.c */
void wan_cpu_attention(WanDev *d, WanTensor *y, const WanTensor *q,
                       const WanTensor *k, const WanTensor *v,
                       const WanAttentionArgs *a);
int64_t wan_cpu_attention_scratch(int threads, const WanTensor *q,
                                  const WanTensor *k,
                                  const WanAttentionArgs *a);

/* y (+)= o / total, D numbers. */
void wan_cpu_store_head(float *y, const float *o, int64_t D, double total,
                        int add);

/* T5's bias by distance alone, for m queries from i and n keys from j: scores s
 * are [m, n], rows ld apart, and multiples of unit. line: room for m + n. */
void wan_cpu_add_rel_bias(float *s, int64_t ld, int64_t m, int64_t n,
                          int64_t i, int64_t j, const WanTensor *bias,
                          int64_t head, float unit, float *line);

/* attention_rounded.c: in BF16, or with scores of large self-attentions in 8
 * bits. */
void wan_cpu_attention_bf16(WanDev *d, WanTensor *y, const WanTensor *q,
                            const WanTensor *k, const WanTensor *v,
                            const WanAttentionArgs *a);
int64_t wan_cpu_attention_bf16_scratch(int threads, const WanTensor *q,
                                       const WanTensor *k,
                                       const WanAttentionArgs *a);
void wan_cpu_attention_int8(WanDev *d, WanTensor *y, const WanTensor *q,
                            const WanTensor *k, const WanTensor *v,
                            const WanAttentionArgs *a);
int64_t wan_cpu_attention_int8_scratch(int threads, const WanTensor *q,
                                       const WanTensor *k,
                                       const WanAttentionArgs *a);

/* conv.c */
void wan_cpu_conv(WanDev *d, WanTensor *y, const WanTensor *x,
                  const WanConv *w, const WanConvArgs *a);
int64_t wan_cpu_conv_scratch(int threads, const WanTensor *y,
                             const WanTensor *x, const WanConv *w,
                             const WanConvArgs *a);

void wan_cpu_conv_bf16(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanConv *w, const WanConvArgs *a);
int64_t wan_cpu_conv_bf16_scratch(int threads, const WanTensor *y,
                                  const WanTensor *x, const WanConv *w,
                                  const WanConvArgs *a);

/* norm.c */
void wan_cpu_layer_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                        const WanTensor *gain, const WanTensor *bias,
                        float eps);
void wan_cpu_modulate(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanTensor *shift, const WanTensor *scale,
                      float eps);
void wan_cpu_gate_add_norm(WanDev *d, WanTensor *y, WanTensor *x,
                           const WanTensor *branch, const WanTensor *gate,
                           const WanTensor *gain, const WanTensor *bias,
                           float one, float eps);
void wan_cpu_rms_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanTensor *gain, float eps);
void wan_cpu_rope(WanDev *d, WanTensor *x, const WanRope *rope);
void wan_cpu_rms_norm_rope(WanDev *d, WanTensor *x, const WanTensor *gain,
                           float eps, const WanRope *rope);
void wan_cpu_l2_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *gain, WanAct act);

/* elem.c */
void wan_cpu_act(WanDev *d, WanTensor *y, const WanTensor *x, WanAct act);
void wan_cpu_mul(WanDev *d, WanTensor *y, const WanTensor *a,
                 const WanTensor *b);
void wan_cpu_geglu(WanDev *d, WanTensor *y, const WanTensor *g,
                   const WanTensor *u);
void wan_cpu_gate_add(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanTensor *gate);
void wan_cpu_copy(WanDev *d, WanTensor *y, const WanTensor *x);
void wan_cpu_fill(WanDev *d, WanTensor *y, float value);
void wan_cpu_fold(WanDev *d, WanTensor *y, const WanTensor *x,
                  const WanFold *a);
void wan_cpu_unfold(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanFold *a);

#endif /* WAN_CPU_CPU_H */
