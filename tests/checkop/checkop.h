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
 * values, rounded to them, and the result may be a rounding apart. One that
 * rounds the factors of products itself is given more by product_tolerance();
 * and is tested again with numbers of few bits, which that does not change, to
 * what F32 allows.
 */

#ifndef WAN_CHECKOP_H
#define WAN_CHECKOP_H

#include <float.h>
#include <stdarg.h>
#include <time.h>

#include "../../wan/cpu/int8.h"
#include "../numbers.h"
#include "../test.h"

/* A test case names what is not zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

static WanDev *ref, *dut;
static WanType dut_act = WAN_F32;   // of the dut's side of a pair
static double worst_ratio;          // of error to tolerance, over all checks
static int few_bits;                // pairs and weights have those of BF16
static int layers_int8;             // may be rounded to it
static int sums_to_odd;             // of BF16 are rounded so, see bf16.h

/* ------------------------------------------------------------- numbers */

static inline double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* For a result of n terms: rounding errors of a sum grow with the root of its
 * length, up to the blocks of some hundred that products add in; those of BF16
 * have one sum. Rounding to odd is off by up to a unit, not half of one. */
static inline double tolerance(int64_t n)
{
    const double half = few_bits && sums_to_odd ? 0x1p-23 : 0x1p-24;

    return half * (2 + sqrt(n < 1536 || few_bits ? (double)n : 1536.0) / 5);
}

/* What is to be added for a product if the device rounds both factors: in BF16,
 * which has eight digits, each by 2^-8 of itself at most where it is just above a
 * power of two, half of that where just below the next. The terms of a long sum
 * are off independently of one another, on average by 2.3e-3; where one of few
 * outweighs the others it may be all of that. */
static inline double factor_tolerance(void)
{
    const WanBackend *b = dut->backend;

    if (b->precision == WAN_PRECISION_INT8 && wan_int8_beside_f32())
        return 0;
    return b->precision > WAN_PRECISION_F32 && b->act == WAN_F32 ? 0x1p-7 : 0;
}

static inline double product_tolerance(void)
{
    return few_bits ? 0 : factor_tolerance();
}

/* Likewise of a layer that may be rounded to 8 bits: to steps of the largest of
 * some hundred numbers over 127, which is three to four times their root of the
 * mean square, so each factor by up to 4 / 127 / sqrt(12) of itself. */
static inline double int8_tolerance(void)
{
    return dut->backend->precision == WAN_PRECISION_INT8 ? 0.0129
                                                         : product_tolerance();
}

static inline float to_few_bits(float v)
{
    const uint16_t h = wan_f32_to_bf16(v);

    return few_bits ? (float)typed_get(&h, WAN_BF16, 0) : v;
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
            pair_set(&p, i, c, to_few_bits((float)(random_normal() * scale +
                                                   shift)));
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
    const int blocks = wan_type_block(type) > 1;
    char *p = malloc(wan_type_bytes(type, n) + !blocks);

    t.data = p;
    if (blocks) {
        float *f = malloc(n * sizeof(*f));

        for (int64_t i = 0; i < n; i++)
            f[i] = (float)(random_normal() * scale);
        wan_from_f32(p, type, f, n);
        free(f);
        return t;
    }
    for (int64_t i = 0; i < n; i++) {
        const float f = to_few_bits((float)(random_normal() * scale));
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

/* One of products, once more with factors that rounding leaves alone. */
#define RUN_FEW_BITS(name) \
    do { \
        if (product_tolerance() > 0) { \
            few_bits = 1; \
            test_run(#name "_of_few_bits", test_##name); \
            few_bits = 0; \
        } \
    } while (0)

/* One of layers, with such that may be in 8 bits, on a device that does so. */
#define RUN_INT8(name) \
    do { \
        if (dut->backend->precision == WAN_PRECISION_INT8) { \
            layers_int8 = 1; \
            test_run(#name "_in_8_bits", test_##name); \
            layers_int8 = 0; \
        } \
    } while (0)

/* One that opens devices of its own: the CPU's. */
#define RUN_CPU(name) \
    do { \
        if (!dut->backend->device) \
            RUN(name); \
    } while (0)

/* Where the definition gives a NaN or an infinity the device does, elsewhere
 * not. In 8 bits there is no infinity: any number that is not finite. */
#define expect_kinds(pair, ...) \
    expect_kinds_(__FILE__, __LINE__, (pair), __VA_ARGS__)
__attribute__((format(printf, 4, 5)))
static inline void expect_kinds_(const char *file, int line, const Pair *p,
                                 const char *fmt, ...)
{
    const int64_t rows = wan_rows(&p->ref), cols = wan_cols(&p->ref);
    int bad = 0, special = 0;
    char what[160];
    va_list ap;

    dut_done();
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < cols; c++) {
            const double a = dut_get(p, i, c), b = wan_row(&p->ref, i)[c];

            special += !isfinite(b);
            if (isnan(b) ? isnan(a) : !isinf(b) ? isfinite(a) :
                layers_int8 ? !isfinite(a) : a == b)
                continue;
            if (!bad++)
                printf("# row %d, column %d: %g, not %g\n", (int)i, (int)c, a,
                       b);
        }
    if (!bad && special && !dut->error && !ref->error)
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    printf("# %s: %d of another kind, %d to be special\n", what, bad, special);
    test_failed(file, line, "expect_kinds");
}

/* Likewise of results that are as small as what went in: a device may take
 * that for 0. */
#define expect_tiny(pair, ...) \
    expect_tiny_(__FILE__, __LINE__, (pair), __VA_ARGS__)
__attribute__((format(printf, 4, 5)))
static inline void expect_tiny_(const char *file, int line, const Pair *p,
                                const char *fmt, ...)
{
    const int64_t rows = wan_rows(&p->ref), cols = wan_cols(&p->ref);
    double worst = 0;
    char what[160];
    va_list ap;

    dut_done();
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < cols; c++) {
            const double e = fabs(dut_get(p, i, c) - wan_row(&p->ref, i)[c]);

            if (!(e <= worst))          // nor a NaN
                worst = e;
        }
    if (worst <= 64 * 0x1p-126 && !dut->error && !ref->error)
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    printf("# %s: %g off\n", what, worst);
    test_failed(file, line, "expect_tiny");
}

#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))

#endif /* WAN_CHECKOP_H */
