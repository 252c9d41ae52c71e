/*
 * Attention and convolution on a card: our kernels and cuDNN against the F32
 * kernels at the models' shapes, and how fast each is.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 *     own [DEVICE]
 *
 * Rates are of the best of five runs, on random numbers. The op's own line in
 * the log says which of cuDNN's plans it has chosen.
 */

#include "../test.h"
#include "../../wan/cuda/cudnn.h"
#include "../../wan/cuda/own.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))

/* A shape names what is not zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

static WanDev *d;

/* n rows of normal numbers in a type. */
static WanTensor random_rows(WanType type, int64_t rows, int64_t cols,
                             uint64_t seed)
{
    WanTensor t = wan_tmp_type(d, type, rows, cols);
    const WanMark mark = wan_mark(d);
    const int64_t step = 4096;

    for (int64_t i = 0; i < rows; i += step) {
        const int64_t n = rows - i < step ? rows - i : step;
        WanTensor f = wan_tmp(d, n, cols), part = wan_slice(&t, i, n);

        wan_op_noise(d, &f, WAN_RNG_CUDA, seed + i, 270336);
        wan_op_copy(d, &part, &f);
        wan_release(d, mark);
    }
    return t;
}

/* Relative difference of the last rows of a from those of b. */
static double difference(const WanTensor *a, const WanTensor *b)
{
    const int64_t rows = wan_rows(a) < 500 ? wan_rows(a) : 500;
    const int64_t n = rows * wan_cols(a);
    float *host[2] = { malloc(n * 4), malloc(n * 4) };
    const WanMark mark = wan_mark(d);
    double rel;

    for (int k = 0; k < 2; k++) {
        const WanTensor *t = k ? b : a;
        const WanTensor end = wan_slice(t, wan_rows(t) - rows, rows);
        WanTensor f = wan_tmp(d, rows, wan_cols(a));

        wan_op_copy(d, &f, &end);
        wan_op_download(d, host[k], &f);
    }
    rel = d->error ? INFINITY : test_rel_l2(host[0], host[1], n);
    wan_release(d, mark);
    free(host[0]);
    free(host[1]);
    return rel;
}

/* Milliseconds of a call, the best of five after one. */
#define TIME(ms, call) do { \
        cudaEvent_t e[2]; \
        float t_; \
        cudaEventCreate(&e[0]), cudaEventCreate(&e[1]); \
        for (int r_ = 0; r_ < 6; r_++) { \
            cudaEventRecord(e[0], wan_cuda_stream(d)); \
            call; \
            cudaEventRecord(e[1], wan_cuda_stream(d)); \
            cudaEventSynchronize(e[1]); \
            cudaEventElapsedTime(&t_, e[0], e[1]); \
            if (r_ == 1 || (r_ > 1 && t_ < (ms))) \
                (ms) = t_; \
        } \
        cudaEventDestroy(e[0]), cudaEventDestroy(e[1]); \
    } while (0)

/* ------------------------------------------------------------ attention */

typedef struct AttentionShape {
    int heads, size;
    int64_t lq, lk, tail;
    int add;
} AttentionShape;

static void attention_shape(const AttentionShape *s)
{
    const WanMark mark = wan_mark(d);
    const int64_t C = s->heads * s->size, last = s->lq < 500 ? s->lq : 500;
    const double flops = 4.0 * s->lq * s->lk * C;
    WanTensor qkv = random_rows(WAN_BF16, s->lq, 3 * C, 1);
    WanTensor q = wan_columns(&qkv, 0, C), k = wan_columns(&qkv, C, C);
    WanTensor v = wan_columns(&qkv, 2 * C, C);
    WanTensor y = random_rows(WAN_BF16, s->lq, C, 2);
    WanTensor want = wan_tmp(d, last, C);
    double ms = 0;

    if (s->lk != s->lq) {
        k = random_rows(WAN_BF16, s->lk, C, 3);
        v = random_rows(WAN_BF16, s->lk, C, 4);
    }
    WanOwnAttention a = {
        .y = want.data, .y_type = WAN_F32, .y_pitch = C,
        .q = (uint16_t *)q.data + (s->lq - last) * q.pitch, .q_pitch = q.pitch,
        .k = k.data, .k_pitch = k.pitch, .v = v.data, .v_pitch = v.pitch,
        .q_type = WAN_BF16, .kv_type = WAN_BF16, .lq = last, .lk = s->lk,
        .heads = s->heads, .size = s->size,
        .scale = (float)(1 / sqrt((double)s->size)),
        .tail = s->tail > 1 ? logf((float)s->tail) : 0,
    };
    wan_attention_f32(&a, wan_cuda_stream(d));

    printf("# attention %d x %d, %lld on %lld keys%s:\n", s->heads, s->size,
           (long long)s->lq, (long long)s->lk, s->tail > 1 ? ", tail" : "");
    a.q = q.data;
    a.y = y.data;
    a.y_type = WAN_BF16;
    a.lq = s->lq;
    for (int i = 0; i < WAN_FLASH_VARIANTS && wan_flash_fits(&a); i++) {
        wan_op_fill(d, &y, NAN);
        TIME(ms, wan_flash(&a, i, wan_cuda_stream(d)));
        wan_cuda_launched(d, "flash");
        const double e = difference(&y, &want);

        printf("#   flash %d: %8.3f ms %6.0f TFLOP/s, error %.2e\n", i, ms,
               flops / ms * 1e-9, e);
        CHECKF(e < 4e-3, "flash %d: %s", i, d->message);
    }
    for (int tune = 0; tune < 2; tune++) {
        d->tune = tune;
        for (int i = 0; i < 8; i++)     // until plans are chosen by time
            wan_op_attention(d, &y, &q, &k, &v, .heads = s->heads,
                             .tail = s->tail);
        wan_op_fill(d, &y, NAN);
        TIME(ms, wan_op_attention(d, &y, &q, &k, &v, .heads = s->heads,
                                  .tail = s->tail));
        const double e = difference(&y, &want);

        printf("#   the op%s:  %8.3f ms %6.0f TFLOP/s, error %.2e\n",
               tune ? ", tuned" : "", ms, flops / ms * 1e-9, e);
        CHECKF(e < 4e-3, "the op: %s", d->message);
    }

    /* the result in place of q, as the transformer asks; of another pitch, and
     * so by another plan */
    d->tune = 0;
    wan_op_attention(d, &q, &q, &k, &v, .heads = s->heads, .tail = s->tail);
    CHECKF(difference(&q, &y) < 4e-3, "in place: %s", d->message);
    wan_release(d, mark);
}

TEST(attention)
{
    static const AttentionShape shapes[] = {
        { 12, 128, 32760, 32760 },          // 1.3B, 832 x 480 x 81
        { 40, 128, 32760, 32760 },          // 14B
        { 12, 128, 4680, 32760 },           // streaming
        { 12, 128, 1560, 1560 },            // one frame
        { 12, 128, 32760, 41, 472 },        // text
        { 40, 128, 32760, 257 },            // image
        { 1, 384, 6240, 6240 },             // the VAE's middle
        { 16, 80, 257, 257 },               // the image encoder
        { 3, 64, 4099, 1027, 9 }, { 2, 96, 127, 4097 },
    };

    for (int i = 0; i < COUNT(shapes); i++)
        attention_shape(&shapes[i]);
}

/* ---------------------------------------------------------- convolution */

typedef struct ConvShape {
    int64_t t, h, w, in, out;               // t, h, w of the result
    int kt, k;
    WanConvArgs a;
} ConvShape;

static void conv_shape(const ConvShape *s)
{
    const WanMark mark = wan_mark(d);
    const int up = s->a.upsample == 2 ? 2 : 1, st = s->a.stride == 2 ? 2 : 1;
    const int tt = s->a.stride_t == 2 ? 2 : 1;
    const int64_t T = (s->t - 1) * tt + s->kt, H = s->h * st / up;
    const int64_t W = s->w * st / up, taps = s->kt * s->k * s->k;
    const double flops = 2.0 * s->t * s->h * s->w * s->out * taps * s->in;
    WanTensor xr = random_rows(WAN_BF16, T * H * W, s->in, 1);
    WanTensor x = wan_reshape(&xr, T, H, W, s->in);
    WanTensor yr = random_rows(WAN_BF16, s->t * s->h * s->w, s->out, 2);
    WanTensor y = wan_reshape(&yr, s->t, s->h, s->w, s->out);
    WanTensor wantr = wan_tmp_type(d, WAN_BF16, s->t * s->h * s->w, s->out);
    const int64_t n = s->out * s->in * taps;
    float *weight = malloc((n + s->out) * sizeof(*weight));
    WanConv w = {
        wan_tensor_of(weight, WAN_F32, s->out, s->in, s->kt, s->k, s->k),
        wan_tensor_of(weight + n, WAN_F32, s->out),
    };
    WanOwnConv o;
    double ms = 0, own_ms = 0;
    uint32_t u = 1;

    for (int64_t i = 0; i < n + s->out; i++) {
        u = u * 1664525u + 1013904223u;
        weight[i] = (float)((int32_t)u * 0x1p-31 / (i < n ? sqrt(n / s->out)
                                                          : 1));
    }
    /* The device's weights, by our kernels alone. */
    o = (WanOwnConv){
        .y = wantr.data, .x = x.data, .bias = wan_cuda_weight(d, &w.bias),
        .w = wan_cuda_weight(d, &w.weight),
        .y_type = WAN_BF16, .x_type = WAN_BF16,
        .w_type = wan_cuda_weight_type(d, &w.weight),
        .tin = T, .h = H, .width = W, .in = s->in, .t = s->t, .ho = s->h,
        .wo = s->w, .out = s->out, .kt = s->kt, .kh = s->k, .kw = s->k,
        .stride_t = tt, .stride = st, .pad_r = s->k == 3 && st == 1,
        .pad_c = s->k == 3 && st == 1, .phases = up,
    };
    WanTensor summed = wan_tmp_type(d, WAN_BF16, 16 * s->out * s->kt, s->in);
    if (up == 2) {
        wan_conv_phase_weights(summed.data, o.w, o.w_type, s->out, s->kt,
                               s->in, wan_cuda_stream(d));
        o.w = summed.data;
        o.kh = o.kw = 2;
    }
    wan_conv_f32(&o, wan_cuda_stream(d));
    printf("# conv [%d,%d,%d,%d] to %d, %dx%dx%d stride %d %d up %d:\n",
           (int)T, (int)H, (int)W, (int)s->in, (int)s->out, s->kt, s->k, s->k,
           tt, st, up);

    o.y = y.data;
    wan_op_fill(d, &y, NAN);
    TIME(own_ms, wan_conv_mma(&o, wan_cuda_stream(d)));
    wan_cuda_launched(d, "conv");
    double e = difference(&yr, &wantr);
    printf("#   ours:   %8.3f ms %6.0f TFLOP/s, error %.2e\n", own_ms,
           flops / own_ms * 1e-9, e);
    CHECKF(e < 2.5e-3, "ours: error %.2e %s", e, d->message);

    for (int tune = 0; tune < 2; tune++) {     // cuDNN's bias is rounded too
        d->tune = tune;
        for (int i = 0; i < 8; i++)     // until plans are chosen by time
            wan_op_conv_(d, &y, &x, &w, s->a);
        wan_op_fill(d, &y, NAN);
        TIME(ms, wan_op_conv_(d, &y, &x, &w, s->a));
        e = difference(&yr, &wantr);
        printf("#   the op%s: %8.3f ms %6.0f TFLOP/s, error %.2e\n",
               tune ? ", tuned" : "", ms, flops / ms * 1e-9, e);
        CHECKF(e < 4e-3, "the op: error %.2e %s", e, d->message);
    }

    /* y += : from zeros the same, but for a plan of another order */
    wan_op_fill(d, &y, 0);
    WanConvArgs add = s->a;
    add.add = 1;
    wan_op_conv_(d, &y, &x, &w, add);
    e = difference(&yr, &wantr);
    CHECKF(e < 4e-3, "add: error %.2e %s", e, d->message);
    wan_dev_forget(d);          // it knows weights by their address
    wan_release(d, mark);
    free(weight);
}

TEST(convolution)
{
    static const ConvShape shapes[] = {
        { 1, 60,  104, 16,  384, 3, 3 },
        { 1, 60,  104, 384, 384, 3, 3 },
        { 1, 60,  104, 384, 768, 3, 1 },
        { 2, 120, 208, 192, 384, 3, 3 },
        { 2, 120, 208, 384, 384, 3, 3 },
        { 4, 240, 416, 192, 192, 3, 3 },
        { 4, 480, 832, 96,  96,  3, 3 },
        { 4, 480, 832, 96,  3,   3, 3 },
        { 2, 240, 416, 384, 192, 1, 3, .a = { .upsample = 2 } },
        { 4, 480, 832, 192, 96,  1, 3, .a = { .upsample = 2 } },
        { 4, 240, 416, 96,  96,  1, 3, .a = { .stride = 2 } },
        { 2, 120, 208, 192, 192, 3, 1, .a = { .stride_t = 2 } },
        { 4, 480, 832, 3,   96,  3, 3 },
        { 1, 60,  104, 384, 32,  3, 3 },
        { 1, 7,   13,  24,  40,  3, 3 },
    };

    for (int i = 0; i < COUNT(shapes); i++)
        conv_shape(&shapes[i]);
}

static void print_log(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque, (void)level;
    printf("# %s\n", line);
}

int main(int argc, char **argv)
{
    const WanLog log = { print_log, NULL, WAN_LOG_VERBOSE };

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (wan_dev_open(&d, argc > 1 ? argv[1] : "cuda", 1, INT64_C(6) << 30,
                     &log) < 0) {
        printf("Bail out! no device\n");
        return 1;
    }
    if (argc < 3 || !strcmp(argv[2], "attention"))
        RUN(attention);
    if (argc < 3 || !strcmp(argv[2], "convolution"))
        RUN(convolution);
    wan_dev_close(&d);
    return test_end();
}
