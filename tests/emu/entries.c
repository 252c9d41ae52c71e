/*
 * attention.c and conv.c on the host: what they ask of whom, and that it is
 * the op.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Our kernels are emulated. In cuDNN's place stands a function that does what
 * a WanCudnnOp says by plain loops in double, so that shapes, paddings,
 * strides, pitches, types and workspace are proven to be the op's; or that
 * refuses, so that our kernels must do. attention.c is built with a small
 * LARGE. Results are held to the ref backend.
 */

#include "../numbers.h"
#include "../test.h"
#include "cudnn.h"
#include "device.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))

/* A case names what is not zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

static WanDev *ref, *dut;
static int refuse;              // cuDNN is not there
static int cudnn_calls;
static WanBackend backend;      // dut's

/* ------------------------------------------------ in the device's place */

/* The device's copy of a convolution's weights: [O, kt, kh, kw, I], of the
 * activations' type; of others, F32. Kept until the case ends. */
static void *copies[64];
static int nb_copies;

const void *wan_cuda_weight(WanDev *d, const WanTensor *w)
{
    const WanType type = wan_cuda_weight_type(d, w);
    int64_t n, taps;
    void *p;

    if (w->nb_dims < 5)
        return w->data;
    n = wan_count(w);
    taps = n / w->dim[0] / w->dim[1];
    p = copies[nb_copies++] = malloc(n * wan_type_size(type));
    for (int64_t i = 0; i < n; i++)     // i: [O, taps, I]
        typed_set(p, type, i, (float)typed_get(w->data, w->type,
                            (i / w->dim[1] / taps * w->dim[1] +
                             i % w->dim[1]) * taps + i / w->dim[1] % taps));
    return p;
}

void wan_cuda_copy(WanDev *d, WanTensor *y, const WanTensor *x)
{
    const int64_t C = wan_cols(x);

    (void)d;
    for (int64_t i = 0; i < wan_count(x); i++)
        typed_set(y->data, y->type, i / C * y->pitch + i % C,
                  (float)typed_get(x->data, x->type,
                                   i / C * x->pitch + i % C));
}

/* ------------------------------------------------------ in cuDNN's place */

static void do_sdpa(const WanCudnnOp *op, const WanCudnnData *t)
{
    const int64_t D = op->size;
    double *out = malloc(op->lq * op->heads * D * sizeof(*out));
    double *p = malloc(op->lk * sizeof(*p));

    for (int64_t i = 0; i < op->lq; i++)
        for (int64_t h = 0; h < op->heads; h++) {
            double total = 0;

            for (int64_t j = 0; j < op->lk; j++) {
                double s = 0;
                for (int64_t e = 0; e < D; e++)
                    s += typed_get(t->x, op->type, i * op->q_pitch + h * D + e) *
                         typed_get(t->w, op->type, j * op->k_pitch + h * D + e);
                total += p[j] = exp(s * t->scale);
            }
            for (int64_t e = 0; e < D; e++) {
                double o = 0;
                for (int64_t j = 0; j < op->lk; j++)
                    o += p[j] * typed_get(t->bias, op->type,
                                    j * op->v_pitch + h * D + e);
                out[(i * op->heads + h) * D + e] = o / total;
            }
        }
    for (int64_t i = 0; i < op->lq; i++)
        for (int64_t c = 0; c < op->heads * D; c++)
            typed_set(t->y, op->type, i * op->y_pitch + c,
                (float)out[i * op->heads * D + c]);
    free(out);
    free(p);
}

static void do_conv(const WanCudnnOp *op, const WanCudnnData *t)
{
    const int64_t *X = op->x, *Y = op->y, *K = op->kernel;

    for (int a = 0; a < 3; a++)
        CHECKF((X[a] + op->before[a] + op->after[a] - K[a]) / op->stride[a] +
               1 == Y[a], "dimension %d of the result", a);
    for (int64_t i = 0; i < Y[0] * Y[1] * Y[2] * Y[3]; i++) {
        const int64_t o = i % Y[3], w = i / Y[3] % Y[2];
        const int64_t h = i / Y[3] / Y[2] % Y[1], f = i / Y[3] / Y[2] / Y[1];
        double sum = typed_get(t->bias, op->type, o) +
                     (op->add ? typed_get(t->y, op->type, i) : 0);

        for (int64_t k = 0; k < K[0] * K[1] * K[2]; k++) {
            const int64_t tf = f * op->stride[0] - op->before[0] +
                               k / K[2] / K[1];
            const int64_t th = h * op->stride[1] - op->before[1] +
                               k / K[2] % K[1];
            const int64_t tw = w * op->stride[2] - op->before[2] + k % K[2];

            if (tf < 0 || th < 0 || tw < 0 || tf >= X[0] || th >= X[1] ||
                tw >= X[2])
                continue;
            for (int64_t c = 0; c < X[3]; c++)
                sum += typed_get(t->x, op->type,
                                   ((tf * X[1] + th) * X[2] + tw) * X[3] + c) *
                       typed_get(t->w, op->type,
                           (o * K[0] * K[1] * K[2] + k) * X[3] + c);
        }
        typed_set(t->y, op->type, i, (float)sum);
    }
}

int wan_cudnn_run(WanDev *d, const WanCudnnOp *op, const WanCudnnData *data,
                  int64_t y_bytes, int in_place, WanCudnnRival rival,
                  const void *opaque)
{
    const char *ws = data->workspace, *scratch = d->scratch;
    const int64_t rows = op->kind == WAN_CUDNN_SDPA ? op->lq
                                                    : op->y[0] * op->y[1] * op->y[2];
    const int64_t cols = op->kind == WAN_CUDNN_SDPA ? op->heads * op->size
                                                    : op->y[3];
    const int64_t pitch = op->kind == WAN_CUDNN_SDPA ? op->y_pitch : cols;

    cudnn_calls++;
    CHECK((uintptr_t)ws % 256 == 0 && ws >= scratch &&
          ws + data->workspace_bytes <= scratch + d->scratch_bytes);
    CHECK(y_bytes == ((rows - 1) * pitch + cols) * 2);
    CHECK(op->type == WAN_BF16 || op->type == WAN_F16);
    if (refuse)
        return 0;
    memset(data->workspace, 0xa5, data->workspace_bytes);
    if (rival) {        // it must do the same: both into memory beside y
        char *beside = malloc(y_bytes), *before = malloc(y_bytes);

        memcpy(before, data->y, y_bytes);
        memcpy(beside, data->y, y_bytes);
        rival(opaque, beside, NULL);
        do_conv(op, data);
        for (int64_t i = 0; i < rows * cols; i++)
            if (!CHECK(fabs(typed_get(beside, op->type, i) -
                            typed_get(data->y, op->type, i)) <=
                       0x1p-6 * (1 + fabs(typed_get(data->y, op->type, i)))))
                break;
        free(beside);
        free(before);
        return 1;
    }
    CHECK(in_place == (data->y == data->x));
    do_sdpa(op, data);
    return 1;
}

/* ---------------------------------------------------------------- cases */

/* The same values on both devices; NaN where scale is 0. */
typedef struct Both { WanTensor ref, dut; } Both;

static Both both(WanType type, double scale, int64_t extra, int n,
                 const int64_t *dim)
{
    const WanTensor shape = wan_tensor(NULL, type, n, dim);
    const int64_t cols = wan_cols(&shape), rows = wan_rows(&shape);
    Both b = { wan_tmp(ref, rows, cols + extra),
               wan_tmp_type(dut, type, rows, cols + extra) };

    for (int64_t i = 0; i < rows * (cols + extra); i++) {
        ((float *)b.ref.data)[i] = typed_set(b.dut.data, type, i,
            scale ? random_normal() * (float)scale : NAN);
    }
    b.ref = wan_columns(&b.ref, 0, cols);
    b.dut = wan_columns(&b.dut, 0, cols);
    if (n > 2) {
        b.ref = wan_reshape_(&b.ref, n, dim);
        b.dut = wan_reshape_(&b.dut, n, dim);
    }
    return b;
}

#define BOTH(type, scale, extra, ...) \
    both(type, scale, extra, \
         (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
         (const int64_t[]){__VA_ARGS__})

static double difference(const Both *b)
{
    const int64_t rows = wan_rows(&b->ref), cols = wan_cols(&b->ref);
    double err = 0, sum = 0;

    for (int64_t i = 0; i < rows * cols; i++) {
        const double v = wan_row(&b->ref, i / cols)[i % cols];
        const double e = typed_get(b->dut.data, b->dut.type,
                             i / cols * b->dut.pitch + i % cols) - v;
        err += e * e;
        sum += v * v;
    }
    return err == err ? sqrt(err / sum) : INFINITY;
}

static void forget(WanMark r, WanMark u)
{
    wan_release(ref, r);
    wan_release(dut, u);
    while (nb_copies)
        free(copies[--nb_copies]);
}

typedef struct AttentionCase {
    int64_t lq, lk, extra, tail;
    int heads, size, bias, add, in_place;
    WanType type, y_type;
    int cudnn;                  // whether it is to be asked
} AttentionCase;

static void attention_case(const AttentionCase *c)
{
    const WanMark r = wan_mark(ref), u = wan_mark(dut);
    const int64_t C = c->heads * c->size;
    Both q = BOTH(c->type, 1, c->extra, c->lq, C);
    Both k = BOTH(c->type, 1, c->extra, c->lk, C);
    Both v = BOTH(c->type, 1, c->extra + 8, c->lk, C);
    Both other = BOTH(c->y_type, c->add, c->extra, c->lq, C);
    Both *y = c->in_place ? &q : &other;
    const WanTensor table = BOTH(WAN_F32, 1, 0, 32, c->heads).dut;
    const WanAttentionArgs a = {
        .heads = c->heads, .tail = c->tail, .add = c->add,
        .rel_bias = c->bias ? &table : NULL,
    };
    const int before = cudnn_calls;
    double e;

    backend.act = c->type == WAN_F32 ? WAN_BF16 : c->type;
    wan_op_attention_(ref, &y->ref, &q.ref, &k.ref, &v.ref, a);
    wan_op_attention_(dut, &y->dut, &q.dut, &k.dut, &v.dut, a);
    e = difference(y);
    CHECKF(e < (c->y_type == WAN_F32 && c->type == WAN_F32 ? 1e-6 : 4e-3) &&
           !dut->error && !ref->error, "%dx%d, %d of %d: error %.3g, %s%s",
           (int)c->lq, (int)c->lk, c->heads, c->size, e, dut->message,
           ref->message);
    CHECKF(cudnn_calls - before == c->cudnn, "cuDNN asked %d times",
           cudnn_calls - before);
    forget(r, u);
}

TEST(attention)
{
    static const AttentionCase cases[] = {
        { 40, 70, 8, 0, 2, 128, .type = WAN_BF16, .y_type = WAN_BF16, .cudnn = 1 },
        { 40, 70, 8, 0, 2, 128, .in_place = 1, .type = WAN_BF16,
          .y_type = WAN_BF16, .cudnn = 1 },
        { 40, 70, 0, 0, 1, 384, .type = WAN_F16, .y_type = WAN_F16, .cudnn = 1 },
        { 40, 70, 0, 9, 2, 64, .type = WAN_BF16, .y_type = WAN_BF16 },
        { 40, 70, 0, 0, 2, 80, .add = 1, .type = WAN_BF16, .y_type = WAN_BF16 },
        { 40, 70, 0, 0, 4, 64, .bias = 1, .type = WAN_BF16, .y_type = WAN_BF16 },
        { 5, 7, 0, 0, 1, 64, .type = WAN_BF16, .y_type = WAN_BF16 },  // small
        { 40, 70, 1, 0, 2, 128, .type = WAN_BF16, .y_type = WAN_BF16 }, // odd
        { 40, 70, 0, 0, 2, 128, .type = WAN_BF16, .y_type = WAN_F32 },
        { 40, 70, 3, 5, 2, 24, .add = 1, .bias = 1, .type = WAN_F32,
          .y_type = WAN_F32 },
    };

    for (refuse = 0; refuse < 2; refuse++)
        for (int i = 0; i < COUNT(cases); i++)
            attention_case(&cases[i]);
}

/* Blocks into a ring, composed of these entries: copies, and attention over
 * what is held. */
static void ring_case(WanType type, int cudnn)
{
    enum { SINK = 10, ROWS = 70, BLOCK = 20, C = 128 };
    const WanMark r = wan_mark(ref), u = wan_mark(dut);
    Both keys = BOTH(type, 1, 0, ROWS, C), values = BOTH(type, 1, 0, ROWS, C);
    int64_t at = 0, held = 0;

    backend.act = type == WAN_F32 ? WAN_BF16 : type;
    for (int i = 0; i < 6; i++) {
        Both q = BOTH(type, 1, 8, BLOCK, C), k = BOTH(type, 1, 8, BLOCK, C);
        Both v = BOTH(type, 1, 16, BLOCK, C), y = BOTH(type, 0, 8, BLOCK, C);
        const int before = cudnn_calls;
        WanRing a = { .heads = 1, .sink = SINK, .at = at };
        double e;

        held = held + BLOCK < ROWS ? held + BLOCK : ROWS;
        a.held = held;
        wan_op_ring_attention_(ref, &y.ref, &q.ref, &k.ref, &v.ref, &keys.ref,
                               &values.ref, a);
        wan_op_ring_attention_(dut, &y.dut, &q.dut, &k.dut, &v.dut, &keys.dut,
                               &values.dut, a);
        e = difference(&y);
        CHECKF(e < (type == WAN_F32 ? 1e-6 : 4e-3) && !dut->error, "block %d: "
               "error %.3g, %s", i, e, dut->message);
        CHECK(difference(&keys) == 0 && difference(&values) == 0);
        CHECK((cudnn_calls > before) == cudnn);
        at += BLOCK;
        if (at >= ROWS)
            at = SINK + at - ROWS;
    }
    forget(r, u);
}

TEST(ring_attention)
{
    refuse = 0;
    ring_case(WAN_BF16, 1);
    ring_case(WAN_F32, 0);
}

typedef struct ConvCase {
    int64_t t, h, w, in, out;   // t, h, w of the input
    int kt, k;
    WanConvArgs a;
    WanType type, y_type;
    int cudnn;
} ConvCase;

static void conv_case(const ConvCase *c)
{
    const WanMark r = wan_mark(ref), u = wan_mark(dut);
    const int up = c->a.upsample == 2 ? 2 : 1, st = c->a.stride == 2 ? 2 : 1;
    const int tt = c->a.stride_t == 2 ? 2 : 1, terms = c->kt * c->k * c->k;
    const int before = cudnn_calls;
    Both x = BOTH(c->type, 1, 0, c->t, c->h, c->w, c->in);
    Both y = BOTH(c->y_type, c->a.add, 0, (c->t - c->kt) / tt + 1,
                  c->h * up / st, c->w * up / st, c->out);
    Both weight = BOTH(WAN_F32, 1 / sqrt((double)terms * c->in), 0, c->out,
                       c->in, c->kt, c->k, c->k);
    Both bias = BOTH(WAN_F32, 1, 0, 1, c->out);
    float *w = weight.ref.data;
    double e;

    for (int64_t i = 0; i < wan_count(&weight.ref) && c->type != WAN_F32; i++)
        w[i] = wan_bf16_to_f32(wan_f32_to_bf16(w[i]));
    const WanConv conv = { weight.ref,
                           wan_tensor_of(bias.ref.data, WAN_F32, c->out) };

    backend.act = c->type;
    wan_op_conv_(ref, &y.ref, &x.ref, &conv, c->a);
    wan_op_conv_(dut, &y.dut, &x.dut, &conv, c->a);
    e = difference(&y);
    CHECKF(e < (c->type == WAN_F32 ? 1e-6 : 3e-3) && !dut->error &&
           !ref->error, "[%d,%d,%d,%d] to %d: error %.3g, %s%s", (int)c->t,
           (int)c->h, (int)c->w, (int)c->in, (int)c->out, e, dut->message,
           ref->message);
    CHECKF(cudnn_calls - before == c->cudnn, "cuDNN asked %d times",
           cudnn_calls - before);
    forget(r, u);
}

/* In elem.cu's place; y may be x. */
static void relu(WanDev *d, WanTensor *y, const WanTensor *x, WanAct act)
{
    (void)d, (void)act;
    for (int64_t i = 0; i < wan_count(x); i++)
        if (x->type == WAN_F32)
            ((float *)y->data)[i] = fmaxf(((float *)x->data)[i], 0);
        else if (((uint16_t *)x->data)[i] & 0x8000)
            ((uint16_t *)y->data)[i] = 0;
}

TEST(convolution)
{
    static const ConvCase cases[] = {
        { 4, 5, 6, 16, 24, 3, 3, .cudnn = 1 },
        { 4, 5, 6, 16, 24, 3, 3, .a = { .add = 1 }, .cudnn = 1 },
        { 3, 4, 6, 8, 16, 1, 3, .a = { .stride = 2 }, .cudnn = 1 },
        { 3, 4, 6, 8, 16, 1, 3, .a = { .stride = 2, .centre = 1,
                                       .act = WAN_ACT_RELU }, .cudnn = 1 },
        { 2, 3, 5, 8, 16, 1, 3, .a = { .upsample = 2, .add = 1,
                                       .act = WAN_ACT_RELU } },
        { 5, 2, 3, 8, 16, 3, 1, .a = { .stride_t = 2 }, .cudnn = 1 },
        { 2, 3, 5, 8, 16, 1, 3, .a = { .upsample = 2 } },
        { 3, 3, 5, 8, 16, 2, 3, .a = { .upsample = 2, .add = 1 } },
        { 2, 3, 5, 8, 8, 2, 1, .a = { .upsample = 2 } },
        { 3, 4, 5, 16, 3, 3, 3 },
        { 3, 4, 5, 3, 16, 3, 3 },
        { 3, 4, 5, 16, 8, 3, 3, .y_type = WAN_F32 },
    };

    for (refuse = 0; refuse < 2; refuse++)
        for (int i = 0; i < COUNT(cases); i++) {
            ConvCase c = cases[i];

            c.type = WAN_BF16;
            c.y_type = c.y_type == WAN_F32 && i == COUNT(cases) - 1 ? WAN_F32
                                                                    : WAN_BF16;
            conv_case(&c);
        }
}

int main(void)
{
    static WanOps ops;
    static WanCuda cuda;

    if (wan_dev_open(&ref, "ref", 1, 64 << 20, NULL) < 0 ||
        wan_dev_open(&dut, "cpu", 1, 128 << 20, NULL) < 0) {
        printf("Bail out! no device\n");
        return 1;
    }
    const WanBackend *const cpu = dut->backend;

    ops = *cpu->ops;
    ops.attention = wan_cuda_attention;
    ops.attention_scratch = wan_cuda_attention_scratch;
    ops.copy = wan_cuda_copy;
    ops.act = relu;
    ops.conv = wan_cuda_conv;
    ops.conv_scratch = wan_cuda_conv_scratch;
    backend = *cpu;
    backend.ops = &ops;
    dut->backend = &backend;
    dut->priv = &cuda;
    RUN(attention);
    RUN(ring_attention);
    RUN(convolution);
    dut->backend = cpu;
    dut->priv = NULL;
    wan_dev_close(&ref);
    wan_dev_close(&dut);
    return test_end();
}
