/*
 * What the op tests share: two devices, and pairs of tensors that hold the
 * same values on each.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * ref is the definition, dut the device under test. Outputs begin as NaN, and
 * so does what lies between the rows of a pitched view: a value that was not
 * written and a write outside the view both show.
 *
 * On a device with activations of its own a pair's two sides have the same
 * values, rounded to them, and the result may be a rounding apart.
 */

#ifndef WAN_CHECKOP_H
#define WAN_CHECKOP_H

#include <stdarg.h>
#include <time.h>

#include "../numbers.h"
#include "../test.h"

/* A test case names what is not zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

static WanDev *ref, *dut;
static WanType dut_act = WAN_F32;   // of the dut's side of a pair
static double worst_ratio;          // of error to tolerance, over all checks

/* ------------------------------------------------------------- numbers */

static inline double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* For a result of n terms: rounding errors of a sum grow with the root of its
 * length, up to the blocks of some hundred that products add in. */
static inline double tolerance(int64_t n)
{
    return 0x1p-24 * (2 + sqrt(n < 1536 ? (double)n : 1536.0) / 5);
}

/* --------------------------------------------------------------- pairs */

typedef struct Pair {
    WanTensor ref, dut;
    void *base[2];
    int64_t floats;                 // of a base, padding too
} Pair;

/* Dense but for a pitch of `extra` more than the columns. Vectors are F32. */
static inline Pair pair_make(int64_t extra, int nb_dims, const int64_t *dim)
{
    Pair p = { .ref = wan_tensor(NULL, WAN_F32, nb_dims, dim) };

    p.ref.pitch += extra;
    p.dut = p.ref;
    p.dut.type = nb_dims > 1 ? dut_act : WAN_F32;
    p.floats = wan_rows(&p.ref) * p.ref.pitch;
    p.base[0] = p.ref.data = malloc((p.floats + 1) * sizeof(float));
    p.base[1] = p.dut.data = wan_dev_shared_alloc(dut, (p.floats + 1) *
                                                       sizeof(float));
    if (!p.base[0] || !p.base[1])
        abort();
    for (int64_t i = 0; i < p.floats; i++) {
        typed_set(p.ref.data, p.ref.type, i, NAN);
        typed_set(p.dut.data, p.dut.type, i, NAN);
    }
    return p;
}

/* Both sides' element [i, c]. */
static inline void pair_set(Pair *p, int64_t i, int64_t c, float v)
{
    wan_row(&p->ref, i)[c] = typed_set(p->dut.data, p->dut.type,
                                       i * p->dut.pitch + c, v);
}

static inline double dut_get(const Pair *p, int64_t i, int64_t c)
{
    return typed_get(p->dut.data, p->dut.type, i * p->dut.pitch + c);
}

/* The device is ready with all it was asked, and keeps no weights. */
static inline void dut_done(void)
{
    wan_dev_wait(dut);
    wan_dev_forget(dut);
}

#define pair_out(extra, ...) \
    pair_make((extra), (int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), \
              (const int64_t[]){__VA_ARGS__})

static inline Pair pair_fill(Pair p, double scale, double shift)
{
    for (int64_t i = 0; i < wan_rows(&p.ref); i++)
        for (int64_t c = 0; c < wan_cols(&p.ref); c++)
            pair_set(&p, i, c, (float)(random_normal() * scale + shift));
    return p;
}

#define pair_random(extra, ...) pair_fill(pair_out(extra, __VA_ARGS__), 1, 0)

/* A table of the model's: F32 on any device. */
static inline Pair pair_table(int64_t rows, int64_t cols)
{
    const WanType act = dut_act;
    Pair p;

    dut_act = WAN_F32;
    p = pair_random(0, rows, cols);
    dut_act = act;
    return p;
}

static inline void pair_free(Pair *p)
{
    free(p->base[0]);
    wan_dev_shared_free(dut, p->base[1]);
    *p = (Pair){ 0 };
}

/* Relative L2 over the view, and nothing written beside it. A GPU's functions
 * are a few units in the last place from the C library's, and what is stored
 * as BF16 was rounded, by 2^-8 of itself at most. */
#define expect_close(pair, tol, ...) \
    expect_close_(__FILE__, __LINE__, (pair), (tol), __VA_ARGS__)
__attribute__((format(printf, 5, 6)))
static inline void expect_close_(const char *file, int line, const Pair *p,
                                 double tol, const char *fmt, ...)
{
    const int64_t rows = wan_rows(&p->ref), cols = wan_cols(&p->ref);
    double err = 0, sum = 0, rel;
    int outside = 0;
    char what[160];
    va_list ap;

    dut_done();
    if (p->dut.type == WAN_BF16)
        tol += 0x1p-8;
    else if (dut->backend->device && tol > 1e-12)
        tol *= 4;
    for (int64_t i = 0; i < rows; i++) {
        const float *b = wan_row(&p->ref, i);

        for (int64_t c = 0; c < cols; c++) {
            const double a = dut_get(p, i, c);

            err += (a - b[c]) * (a - b[c]);
            sum += (double)b[c] * b[c];
        }
        for (int64_t c = cols; c < p->dut.pitch; c++)
            outside |= !isnan(dut_get(p, i, c)) || !isnan(b[c]);
    }
    rel = sum > 0 ? sqrt(err / sum) : sqrt(err);
    /* the mean error of few results scatters about that of many */
    tol *= 1 + 2 / sqrt((double)rows * cols + 1);
    if (rel / tol > worst_ratio)
        worst_ratio = rel / tol;
    if (rel <= tol && !outside && !dut->error && !ref->error)
        return;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    printf("# %s: error %.3g, tolerance %.3g%s%s%s\n", what, rel, tol,
           outside ? ", wrote beside the view" : "",
           ref->error ? ", ref: " : dut->error ? ", dut: " : "",
           ref->error ? ref->message : dut->error ? dut->message : "");
    test_failed(file, line, "expect_close");
}

/* ------------------------------------------------------------- weights */

/* A dense weight tensor of a stored type; both devices read the same. */
static inline WanTensor weight_make(WanType type, double scale, int nb_dims,
                                    const int64_t *dim)
{
    WanTensor t = wan_tensor(NULL, type, nb_dims, dim);
    const int64_t n = wan_count(&t);
    char *p = malloc(n * wan_type_size(type) + 1);

    t.data = p;
    for (int64_t i = 0; i < n; i++) {
        const float f = (float)(random_normal() * scale);
        const uint16_t h = type == WAN_BF16 ? wan_f32_to_bf16(f)
                                            : wan_f32_to_f16(f);
        if (type == WAN_F32)
            memcpy(p + 4 * i, &f, 4);
        else if (wan_type_size(type) == 2)
            memcpy(p + 2 * i, &h, 2);
        else    // neither NaN nor infinity in either fp8 type
            p[i] = (char)(random_u32() & 0x80) | (char)(random_u32() % 0x70);
    }
    return t;
}

#define weight_random(type, scale, ...) \
    weight_make((type), (scale), (int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), \
                (const int64_t[]){__VA_ARGS__})

static inline double weight_value(const WanTensor *t, int64_t i)
{
    float f;

    wan_to_f32(&f, (const char *)t->data + i * wan_type_size(t->type),
               t->type, 1, 1);
    return f;
}

/* A test of what is F32 on every device. */
#define RUN_F32(name) \
    do { \
        const WanType act_ = dut_act; \
        dut_act = WAN_F32; \
        RUN(name); \
        dut_act = act_; \
    } while (0)

/* One that opens devices of its own: the CPU's. */
#define RUN_CPU(name) \
    do { \
        if (!dut->backend->device) \
            RUN(name); \
    } while (0)

#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))

#endif /* WAN_CHECKOP_H */
