/*
 * checkop --bench [all|DEVICE [ROWS]]: rates of the large ops at the model's own
 * shapes; of ROWS the linear ones alone. all, if none is named: each of the
 * processor's backends whose number format it multiplies.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Each line gives the best of a few passes and its ratio to plain
 * wan_sgemm() with all threads, measured in turn with it: for linear at the
 * same shape, for attention and convolution to the best of any shape. The
 * ratio is given twice, of wall time and of the threads' processor time: on a
 * machine that others use too, the second is the one to read. The last column is
 * a share of what the processor's own instruction can do (ceiling.h), measured
 * in the same run, by processor time too; for int8 of that of its own number
 * format, also where an op stays in BF16.
 */

#include <unistd.h>

#include "ceiling.h"

static WanDev *bench_dev;

typedef struct Timing {
    double wall, cpu;
} Timing;

static const Timing timing_none = { 1e9, 1e9 };

static Timing bench_best = { 1e9, 1e9 };    // of any sgemm, s a GFLOP
static double bench_ceiling;                // GFLOP/s of a core

static Timing timing_start(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (Timing){ now(), t.tv_sec + t.tv_nsec * 1e-9 };
}

/* The best of each so far and since the start. */
static void timing_stop(Timing *best, Timing start)
{
    const Timing end = timing_start();

    best->wall = fmin(best->wall, end.wall - start.wall);
    best->cpu = fmin(best->cpu, end.cpu - start.cpu);
}

static float *bench_floats(int64_t n)
{
    float *p = aligned_alloc(64, (n * 4 + 63) / 64 * 64);

    for (int64_t i = 0; i < n; i++)
        p[i] = (int32_t)random_u32() * 0x1p-31f;
    return p;
}

static WanTensor bench_tensor(int nb_dims, const int64_t *dim)
{
    WanTensor t = wan_tensor(NULL, WAN_F32, nb_dims, dim);

    t.data = bench_floats(wan_count(&t));
    return t;
}
#define bench_tensor(...) \
    bench_tensor((int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), \
                 (const int64_t[]){__VA_ARGS__})

/* base: seconds of plain sgemm for a GFLOP. */
static void bench_line(const char *name, double flops, Timing t, Timing base)
{
    const double g = flops * 1e-9;

    printf("%-38s %8.1f ms %7.1f GFLOP/s %5.0f %% %5.0f %% cpu", name,
           t.wall * 1e3, g / t.wall, 100 * base.wall * g / t.wall,
           100 * base.cpu * g / t.cpu);
    if (bench_ceiling)
        printf(" %5.0f %%", 100 * g / t.cpu / bench_ceiling);
    putchar('\n');
    fflush(stdout);
}

static Timing per_gflop(Timing t, double flops)
{
    return (Timing){ t.wall / flops * 1e9, t.cpu / flops * 1e9 };
}

/* oneDNN's own threads take part here alone; they spin for some time after. */
static void time_sgemm(Timing *best, int64_t m, int64_t n, int64_t k,
                       const float *a, const float *b, float *c)
{
    Timing start;

    wan_f32_at_most(WAN_F32_NONE);
    start = timing_start();
    wan_sgemm(1, m, n, k, 1, a, k, b, k, 0, c, n);
    timing_stop(best, start);
    wan_f32_at_most(WAN_F32_AVX512);
    usleep(30000);
}

static void bench_linear(int64_t m, int64_t n, int64_t k)
{
    static const struct { WanType type; int full; const char *name; } kind[] = {
        { WAN_F32, 0, "f32" }, { WAN_F32, 1, "f32 bias gelu" },
        { WAN_BF16, 0, "bf16" }, { WAN_BF16, 1, "bf16 bias gate add" },
        { WAN_Q8_0, 0, "q8_0" },
    };
    WanTensor x = bench_tensor(m, k), y = bench_tensor(m, n);
    WanTensor bias = bench_tensor(n), gate = bench_tensor(n);
    WanTensor w32 = bench_tensor(n, k);
    WanTensor w16 = weight_random(WAN_BF16, 1, 1, 1);
    WanTensor w8 = wan_tensor_of(malloc(wan_type_bytes(WAN_Q8_0, n * k)),
                                 WAN_Q8_0, n, k);
    const double flops = 2.0 * m * n * k;
    Timing plain = timing_none, best[COUNT(kind)];
    Timing base;
    char name[80];

    w16.data = realloc(w16.data, n * k * 2);
    w16.dim[0] = n;
    w16.dim[1] = w16.pitch = k;
    for (int64_t i = 0; i < n * k; i++)
        ((uint16_t *)w16.data)[i] = wan_f32_to_bf16(((float *)w32.data)[i]);

    wan_from_f32(w8.data, WAN_Q8_0, w32.data, n * k);
    for (int i = 0; i < COUNT(kind); i++)
        best[i] = timing_none;
    for (int pass = 0; pass < 4; pass++) {
        Timing t;

        time_sgemm(&plain, m, n, k, x.data, w32.data, y.data);
        for (int i = 0; i < COUNT(kind); i++) {
            const WanLinear w = { .weight = kind[i].type == WAN_F32 ? w32 :
                                            kind[i].type == WAN_BF16 ? w16
                                                                     : w8,
                                  .bias = kind[i].full ? bias
                                                       : (WanTensor){ 0 },
                                  .least = WAN_PRECISION_INT8 };
            const int add = kind[i].full && kind[i].type == WAN_BF16;

            t = timing_start();
            wan_op_linear(bench_dev, &y, &x, &w,
                          .act = kind[i].full && !add ? WAN_ACT_GELU_TANH
                                                      : WAN_ACT_NONE,
                          .gate = add ? &gate : NULL);
            timing_stop(&best[i], t);
        }
    }
    base = per_gflop(plain, flops);
    bench_best.wall = fmin(bench_best.wall, base.wall);
    bench_best.cpu = fmin(bench_best.cpu, base.cpu);
    snprintf(name, sizeof(name), "sgemm %dx%d, %d terms", (int)m, (int)n,
             (int)k);
    bench_line(name, flops, plain, base);
    for (int i = 0; i < COUNT(kind); i++) {
        snprintf(name, sizeof(name), "  linear %s", kind[i].name);
        bench_line(name, flops, best[i], base);
    }
    free(x.data), free(y.data), free(bias.data), free(gate.data);
    free(w32.data), free(w16.data), free(w8.data);
}

/* The sgemm that attention and conv are measured by, once more, now. */
static void bench_peak(void)
{
    static float *a, *b, *c;
    const int64_t m = 1024, n = 1536, k = 1536;
    Timing best = timing_none;

    if (!a) {
        a = bench_floats(m * k);
        b = bench_floats(n * k);
        c = bench_floats(m * n);
    }
    time_sgemm(&best, m, n, k, a, b, c);
    best = per_gflop(best, 2.0 * m * n * k);
    bench_best.wall = fmin(bench_best.wall, best.wall);
    bench_best.cpu = fmin(bench_best.cpu, best.cpu);
}

static void bench_attention(int64_t lq, int64_t lk, int heads, int64_t size)
{
    const int64_t C = heads * size;
    WanTensor q = bench_tensor(lq, C), y = bench_tensor(lq, C);
    WanTensor k = bench_tensor(lk, C), v = bench_tensor(lk, C);
    Timing best = timing_none;
    char name[80];

    for (int pass = 0; pass < 4; pass++) {
        Timing t;

        bench_peak();
        t = timing_start();
        wan_op_attention(bench_dev, &y, &q, &k, &v, .heads = heads);
        timing_stop(&best, t);
    }
    snprintf(name, sizeof(name), "attention %dx%d, %d x %d", (int)lq,
             (int)lk, heads, (int)size);
    bench_line(name, 4.0 * lq * lk * C, best,
               bench_best);
    free(q.data), free(y.data), free(k.data), free(v.data);
}

static void bench_conv(int64_t t, int64_t h, int64_t w, int64_t i, int64_t o,
                       int64_t kt, int64_t kk, int up)
{
    WanTensor x = bench_tensor(t + kt - 1, h, w, i);
    WanTensor y = bench_tensor(t, h * up, w * up, o);
    WanConv c = { bench_tensor(o, i, kt, kk, kk), bench_tensor(o) };
    Timing best = timing_none;
    char name[80];

    for (int pass = 0; pass < 3; pass++) {
        Timing s;

        bench_peak();
        s = timing_start();
        wan_op_conv(bench_dev, &y, &x, &c, .upsample = up);
        timing_stop(&best, s);
    }
    snprintf(name, sizeof(name), "conv %dx%dx%d %d>%d %dx%dx%d%s", (int)t,
             (int)(h * up), (int)(w * up), (int)i, (int)o, (int)kt, (int)kk,
             (int)kk, up == 2 ? " up" : "");
    bench_line(name, 2.0 * wan_count(&y) * i * kt * kk * kk, best,
               bench_best);
    free(x.data), free(y.data), free(c.weight.data), free(c.bias.data);
}

static int bench(const char *device, int rows)
{
    static const int64_t shape[][2] = { { 1536, 1536 }, { 8960, 1536 },
                                        { 1536, 8960 } };
    static const int64_t tokens[] = { 576, 2048 };
    char name[64];

    if (wan_dev_open(&bench_dev, device, 0, INT64_C(1) << 30, NULL) < 0)
        return 1;
    bench_ceiling = ceiling(bench_dev->backend->precision);
    printf("%s, %d threads; sgemm is %s's; a core's ceiling is %.0f GFLOP/s\n"
           "%63s %5s %9s %7s\n", device, bench_dev->threads,
           wan_sgemm_name(name, sizeof(name)), bench_ceiling, "of sgemm:",
           "wall", "cpu", "ceiling");
    for (int i = 0; i < COUNT(tokens); i++)
        for (int j = 0; j < COUNT(shape) && (!rows || !i); j++)
            bench_linear(rows ? rows : tokens[i], shape[j][0], shape[j][1]);
    if (!rows) {
        bench_attention(2048, 2048, 12, 128);
        bench_attention(576, 512, 12, 128);
        bench_attention(1536, 1536, 1, 384);
        bench_conv(1, 240, 416, 96, 96, 3, 3, 1);
        bench_conv(1, 120, 208, 192, 192, 3, 3, 1);
        bench_conv(1, 60, 104, 384, 384, 3, 3, 1);
        bench_conv(1, 18, 32, 384, 384, 3, 3, 1);
        bench_conv(1, 120, 208, 192, 96, 1, 3, 2);
        bench_conv(2, 60, 104, 384, 768, 3, 1, 1);
        bench_conv(1, 60, 104, 192, 384, 1, 1, 1);
        bench_conv(1, 240, 416, 96, 3, 3, 3, 1);
        bench_conv(1, 60, 104, 16, 384, 3, 3, 1);
        bench_conv(1, 240, 416, 3, 96, 3, 3, 1);
    }
    if (wan_dev_error(bench_dev))
        printf("%s\n", bench_dev->message);
    wan_dev_close(&bench_dev);
    return 0;
}

static int bench_all(int rows)
{
    return bench("cpu", rows) ||
           (wan_bf16_native() && bench("cpu-bf16", rows)) ||
           (wan_int8_native() && bench("cpu-int8", rows));
}
