/*
 * Element by element on the CPU.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <math.h>
#include <string.h>

#include "cpu.h"
#include "simd.h"

typedef struct Rows {
    WanTensor *y;
    const WanTensor *a, *b;     // or NULL
    const float *gate;          // or NULL
    float value;
    WanAct act;
    int64_t chunk;              // rows a call
    void (*row)(const struct Rows *r, int64_t i);
} Rows;

static void some_rows(void *arg, int64_t i, int worker)
{
    const Rows *r = arg;
    const int64_t end = (i + 1) * r->chunk, rows = wan_rows(r->y);

    (void)worker;
    for (int64_t k = i * r->chunk; k < end && k < rows; k++)
        r->row(r, k);
}

static void run(WanDev *d, Rows *r)
{
    r->chunk = wan_cpu_chunk(wan_cols(r->y));
    wan_cpu_parallel(d, wan_ceil_div(wan_rows(r->y), r->chunk), some_rows, r);
}

WAN_SIMD static void act_row(const Rows *r, int64_t i)
{
    const int64_t C = wan_cols(r->y);
    const float *x = wan_row(r->a, i);
    float *y = wan_row(r->y, i);

    switch (r->act) {
    case WAN_ACT_SILU:
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] = wan_siluf(x[c]);
        break;
    case WAN_ACT_GELU_TANH:
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] = wan_gelu_tanhf(x[c]);
        break;
    case WAN_ACT_GELU_ERF:
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] = wan_gelu_erff(x[c]);
        break;
    case WAN_ACT_RELU:
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] = wan_reluf(x[c]);
        break;
    case WAN_ACT_TANH3:                 // of latents alone
        for (int64_t c = 0; c < C; c++)
            y[c] = 3 * tanhf(x[c] / 3);
        break;
    default:
        memmove(y, x, C * sizeof(*y));
    }
}

void wan_cpu_act(WanDev *d, WanTensor *y, const WanTensor *x, WanAct act)
{
    run(d, &(Rows){ .y = y, .a = x, .act = act, .row = act_row });
}

WAN_SIMD static void mul_row(const Rows *r, int64_t i)
{
    const int64_t C = wan_cols(r->y);
    const float *a = wan_row(r->a, i), *b = wan_row(r->b, i);
    float *y = wan_row(r->y, i);

    WAN_APART
    for (int64_t c = 0; c < C; c++)
        y[c] = a[c] * b[c];
}

void wan_cpu_mul(WanDev *d, WanTensor *y, const WanTensor *a,
                 const WanTensor *b)
{
    run(d, &(Rows){ .y = y, .a = a, .b = b, .row = mul_row });
}

WAN_SIMD static void geglu_row(const Rows *r, int64_t i)
{
    const int64_t C = wan_cols(r->y);
    const float *g = wan_row(r->a, i), *u = wan_row(r->b, i);
    float *y = wan_row(r->y, i);

    WAN_APART
    for (int64_t c = 0; c < C; c++)
        y[c] = wan_gelu_tanhf(g[c]) * u[c];
}

void wan_cpu_geglu(WanDev *d, WanTensor *y, const WanTensor *g,
                   const WanTensor *u)
{
    run(d, &(Rows){ .y = y, .a = g, .b = u, .row = geglu_row });
}

WAN_SIMD static void gate_add_row(const Rows *r, int64_t i)
{
    const int64_t C = wan_cols(r->y);
    const float *x = wan_row(r->a, i), *gate = r->gate;
    float *y = wan_row(r->y, i);

    if (gate)
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] += gate[c] * x[c];
    else
        WAN_APART
        for (int64_t c = 0; c < C; c++)
            y[c] += x[c];
}

void wan_cpu_gate_add(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanTensor *gate)
{
    run(d, &(Rows){ .y = y, .a = x,
                    .gate = gate && gate->nb_dims ? gate->data : NULL,
                    .row = gate_add_row });
}

static void copy_row(const Rows *r, int64_t i)
{
    memcpy(wan_row(r->y, i), wan_row(r->a, i),
           wan_cols(r->y) * sizeof(float));
}

void wan_cpu_copy(WanDev *d, WanTensor *y, const WanTensor *x)
{
    run(d, &(Rows){ .y = y, .a = x, .row = copy_row });
}

static void fill_row(const Rows *r, int64_t i)
{
    const int64_t C = wan_cols(r->y);
    float *y = wan_row(r->y, i);

    for (int64_t c = 0; c < C; c++)
        y[c] = r->value;
}

void wan_cpu_fill(WanDev *d, WanTensor *y, float value)
{
    run(d, &(Rows){ .y = y, .value = value, .row = fill_row });
}

typedef struct Fold {
    WanTensor *y;
    const WanTensor *x;
    const WanFold *a;
    void (*row)(WanTensor *y, const WanTensor *x, const WanFold *a,
                int64_t row);
    int64_t rows, chunk;        // of the side with fewer positions
} Fold;

static void some_folds(void *arg, int64_t i, int worker)
{
    const Fold *f = arg;
    const int64_t end = (i + 1) * f->chunk;

    (void)worker;
    for (int64_t k = i * f->chunk; k < end && k < f->rows; k++)
        f->row(f->y, f->x, f->a, k);
}

/* Rows of the other side belong to one of these each. */
static void run_fold(WanDev *d, Fold f, int64_t elements)
{
    f.chunk = wan_cpu_chunk(elements);
    wan_cpu_parallel(d, wan_ceil_div(f.rows, f.chunk), some_folds, &f);
}

void wan_cpu_fold(WanDev *d, WanTensor *y, const WanTensor *x,
                  const WanFold *a)
{
    run_fold(d, (Fold){ .y = y, .x = x, .a = a, .row = wan_ref_fold_row,
                        .rows = wan_rows(y) }, wan_cols(x) * a->t * a->s * a->s);
}

void wan_cpu_unfold(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanFold *a)
{
    run_fold(d, (Fold){ .y = y, .x = x, .a = a, .row = wan_ref_unfold_row,
                        .rows = wan_rows(x) }, wan_cols(y) * a->t * a->s * a->s);
}
