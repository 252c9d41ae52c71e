/*
 * Which of cuDNN's engines take the graphs we build, for cards that are not
 * there.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * cuDNN plans for a card it is given a description of. Plans of attention are
 * compiled (NVRTC) and loaded through the driver, for which the stand-in
 * libcuda.so.1 that standin.sh makes is enough: it computes nothing. What is
 * planned here, a card of that kind can be expected to run; how fast, and
 * whether rightly, only the card can say.
 *
 *     plans [90 [conv]]   one architecture, perhaps convolution alone, plans
 *                         listed as number x engine (bytes of workspace);
 *                         else all, briefly
 */

#include <stdarg.h>
#include <time.h>

#include "../test.h"
#include "../../wan/cuda/cudnn.h"

/* A shape names what is not zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))

static int only, verbose;       // an architecture; list engines
static WanCudnn *cudnn;
static int arch;

/* ---------------------------------------------------------------- cards */

typedef struct Card {
    int arch;
    const char *name;
    int sms, shared, shared_sm, ctas, threads;  // of a block, of an SM
    long memory, l2;
} Card;

static const Card cards[] = {
    { 80,  "NVIDIA A100-SXM4-80GB",   108, 166912, 167936, 32, 2048, 80, 40 },
    { 86,  "NVIDIA GeForce RTX 3090",  82, 101376, 102400, 16, 1536, 24, 6 },
    { 89,  "NVIDIA GeForce RTX 4090", 128, 101376, 102400, 24, 1536, 24, 72 },
    { 90,  "NVIDIA H100 80GB HBM3",   132, 232448, 233472, 32, 2048, 80, 50 },
    { 100, "NVIDIA B200",             148, 232448, 233472, 32, 2048, 180, 126 },
    { 120, "NVIDIA GeForce RTX 5090", 170, 101376, 102400, 24, 1536, 32, 96 },
};

static int open_card(const Card *c)
{
    char json[1400];

    arch = c->arch;
    snprintf(json, sizeof(json), "{\"deviceName\":\"%s\",\"maxGridSize\":"
             "[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
             "\"regsPerBlock\":65536,\"multiProcessorCount\":%d,"
             "\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
             "\"maxSharedMemoryPerBlockOptin\":%d,"
             "\"reservedSharedMemoryPerBlock\":1024,"
             "\"maxSharedMemoryPerSM\":%d,\"maxRegistersPerSM\":65536,"
             "\"maxCtasPerSM\":%d,\"maxThreadsPerBlock\":1024,"
             "\"maxThreadsPerSM\":%d,\"pciDeviceId\":0,\"isTccDriver\":0,"
             "\"supportCoopLaunch\":1,\"totalGlobalMem\":%ld,"
             "\"smClockRateKHz\":1700000,\"memClockRateKHz\":2600000,"
             "\"l2CacheSize\":%ld,\"cudaDeviceId\":0,\"deviceVer\":%d,"
             "\"driverVer\":13000}", c->name, c->sms, c->shared, c->shared_sm,
             c->ctas, c->threads, c->memory << 30, c->l2 << 20, c->arch * 10);
    return wan_cudnn_open(&cudnn, json, NULL);
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Plans op; whether it is as expected. */
static int expect(const WanCudnnOp *op, int64_t workspace, int max, int wanted,
                  const char *fmt, ...)
{
    WanCudnnPlan plan[64];
    const double start = seconds();
    const int n = wan_cudnn_plans(cudnn, op, workspace, plan, max);
    char what[200];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    if (verbose) {
        printf("# sm_%d %s: %d plans, %.2f s:", arch, what, n,
               seconds() - start);
        for (int i = 0, j; i < n; i = j) {
            int64_t most = 0;

            for (j = i; j < n && plan[j].engine == plan[i].engine; j++)
                most = plan[j].workspace > most ? plan[j].workspace : most;
            printf(" %dx%lld(%lld)", j - i, (long long)plan[i].engine,
                   (long long)most);
        }
        printf(" %s\n", n ? "" : wan_cudnn_text(cudnn));
    }
    for (int i = 0; i < n; i++)
        wan_cudnn_plan_free(cudnn, &plan[i]);
    return CHECKF(!wanted == !n, "sm_%d %s: %d plans, %s wanted: %s", arch,
                  what, n, wanted ? "some" : "none", wan_cudnn_text(cudnn));
}

/* ------------------------------------------------------------ attention */

/* Grids of tokens: 832 x 480 and 1280 x 720 at 81 frames, q, k and v beside
 * each other and the result in q's place; a chunk of three latents against all
 * of a stream's; the VAE's middle at both sizes. */
TEST(attention)
{
    static const struct { int heads, size; int64_t lq, lk, pitch, y_pitch; }
    a[] = {
        { 12, 128, 32760, 32760, 3 * 1536, 3 * 1536 },  // 1.3B
        { 12, 128, 75600, 75600, 3 * 1536, 3 * 1536 },
        { 40, 128, 32760, 32760, 3 * 5120, 3 * 5120 },  // 14B
        { 40, 128, 75600, 75600, 3 * 5120, 3 * 5120 },
        { 12, 128, 4680, 32760, 1536, 1536 },
        { 40, 128, 32760, 32760, 5120, 5120 },
        { 1, 384, 6240, 6240, 3 * 384, 384 },
        { 1, 384, 14400, 14400, 3 * 384, 384 },
    };

    for (int i = 0; i < COUNT(a); i++) {
        const int64_t C = a[i].heads * a[i].size;
        WanTensor q = wan_tensor_of(NULL, WAN_BF16, a[i].lq, C), y = q;
        WanTensor k = wan_tensor_of(NULL, WAN_BF16, a[i].lk, C);
        const WanAttentionArgs args = { .heads = a[i].heads };
        WanCudnnOp op;

        q.pitch = k.pitch = a[i].pitch;
        y.pitch = a[i].y_pitch;
        for (int f16 = 0; f16 < 1 + (a[i].size == 384); f16++) {
            if (f16)
                q.type = k.type = y.type = WAN_F16;
            CHECK(wan_cuda_attention_scratch(1, &q, &k, &args) >
                  WAN_CUDNN_SDPA_WORKSPACE);
            op = wan_cudnn_attention(&y, &q, &k, &k, &args);
            expect(&op, WAN_CUDNN_SDPA_WORKSPACE, verbose ? 2 : 1, 1,
                   "attention %dx%d %lldx%lld pitch %lld %s", a[i].heads,
                   a[i].size, (long long)a[i].lq, (long long)a[i].lk,
                   (long long)a[i].pitch, wan_type_name(q.type));
        }
    }
}

/* ---------------------------------------------------------- convolution */

typedef struct ConvShape {
    int scale;                  // rows and columns: the latent's times this
    int64_t t, in, out;         // t: frames of the result, steady state
    int kt, k;
    int stride_t, stride, add;
} ConvShape;

/* What the VAE asks cuDNN for, decoder then encoder: each shape once. */
static const ConvShape shapes[] = {
    { 1, 1, 16,  384, 3, 3 },                   // conv1
    { 1, 1, 384, 384, 3, 3 },                   // middle, level 0
    { 1, 1, 384, 384, 3, 3, .add = 1 },
    { 1, 1, 384, 768, 3, 1 },                   // twice the frames
    { 2, 2, 192, 384, 3, 3 },                   // level 1
    { 2, 2, 384, 384, 3, 3, .add = 1 },
    { 2, 2, 384, 768, 3, 1 },
    { 4, 4, 192, 192, 3, 3 },                   // level 2
    { 4, 4, 192, 192, 3, 3, .add = 1 },
    { 8, 4, 96,  96,  3, 3 },                   // level 3
    { 8, 4, 96,  96,  3, 3, .add = 1 },
    { 8, 1, 96,  96,  3, 3 },                   // encoder, a first frame
    { 8, 4, 96,  96,  1, 3, .stride = 2 },
    { 4, 4, 96,  192, 3, 3 },
    { 4, 4, 192, 192, 1, 3, .stride = 2 },
    { 2, 2, 192, 192, 3, 1, .stride_t = 2 },
    { 2, 2, 192, 384, 3, 3 },
    { 2, 2, 384, 384, 1, 3, .stride = 2 },
    { 1, 1, 384, 384, 3, 1, .stride_t = 2 },
    { 1, 1, 384, 32,  3, 3 },                   // head
};

static void conv_shape(const ConvShape *s, int64_t h, int64_t w, WanType type)
{
    const int st = s->stride_t + !s->stride_t;
    const int stride = s->stride + !s->stride;
    const int64_t H = h * s->scale, W = w * s->scale;
    const WanTensor x = wan_tensor_of(NULL, type, (s->t - 1) * st + s->kt, H,
                                      W, s->in);
    const WanTensor y = wan_tensor_of(NULL, type, s->t, H / stride,
                                      W / stride, s->out);
    const WanConv conv = {
        wan_tensor_of(NULL, WAN_F32, s->out, s->in, s->kt, s->k, s->k),
        wan_tensor_of(NULL, WAN_F32, s->out),
    };
    const WanConvArgs a = { st, stride, 1, s->add };

    const WanCudnnOp op = wan_cudnn_conv(&y, &x, &conv, &a);

    CHECK(wan_cuda_conv_scratch(1, &y, &x, &conv, &a) >
          WAN_CUDNN_CONV_WORKSPACE);
    expect(&op, WAN_CUDNN_CONV_WORKSPACE, verbose ? 64 : 2, 1,
           "conv [%d,%d,%d,%d] to %d %dx%dx%d stride %d %d add %d %s",
           (int)x.dim[0], (int)H, (int)W, (int)s->in, (int)s->out, s->kt,
           s->k, s->k, st, stride, s->add, wan_type_name(type));
}

TEST(convolution)
{
    static const int64_t latent[][2] = { { 60, 104 }, { 90, 160 } };

    for (int i = 0; i < COUNT(shapes); i++)
        for (int s = 0; s < 2; s++)
            for (int f16 = 0; f16 < 2; f16++)
                conv_shape(&shapes[i], latent[s][0], latent[s][1],
                           f16 ? WAN_F16 : WAN_BF16);
}

/* The check can fail: a result of another shape, and no room to work. */
TEST(refusals)
{
    const WanTensor x = wan_tensor_of(NULL, WAN_BF16, 6, 60, 104, 96);
    WanTensor y = wan_tensor_of(NULL, WAN_BF16, 4, 60, 104, 96);
    const WanConv conv = {
        wan_tensor_of(NULL, WAN_F32, 96, 96, 3, 3, 3),
        wan_tensor_of(NULL, WAN_F32, 96),
    };
    const WanConvArgs a = { 1, 1, 1, 0 };
    WanCudnnOp op = wan_cudnn_conv(&y, &x, &conv, &a);

    expect(&op, -1, 64, 0, "less than no workspace");
    expect(&op, 0, 64, 1, "no workspace");
    op.y[1]--;
    expect(&op, WAN_CUDNN_CONV_WORKSPACE, 64, 0, "a row too few");
    op.y[1]++;
    op.before[1] = 0;
    expect(&op, WAN_CUDNN_CONV_WORKSPACE, 64, 0, "no padding above");
}

int main(int argc, char **argv)
{
    only = argc > 1 ? atoi(argv[1]) : 0;
    verbose = only != 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < COUNT(cards); i++) {
        if (only && cards[i].arch != only)
            continue;
        const int ret = open_card(&cards[i]);

        if (ret == WAN_ERR(ENOSYS)) {
            printf("ok 1 # SKIP no cuDNN 9.15 or newer (libcudnn.so.9)\n1..1\n");
            return 0;
        }
        if (!CHECK(ret == 0))
            return 1;
        if (!i || only)
            printf("# cuDNN %d\n", wan_cudnn_version(cudnn));
        printf("# sm_%d\n", arch);
        if (argc < 3)
            RUN(attention);
        RUN(convolution);
        RUN(refusals);
        wan_cudnn_close(&cudnn);
    }
    return test_end();
}
