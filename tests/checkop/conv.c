/*
 * Tests of the convolution.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

typedef struct ConvCase {
    int64_t t, h, w, i, o, kt, k;   // t, h, w of the input
    int stride_t, stride, up, add;
    WanType type;
    int centre, relu;
} ConvCase;

/* By scattering each input to the outputs it reaches, unlike the backends. */
static void conv_double(double *y, const int64_t *yd, const WanTensor *x,
                        const WanConv *w, const ConvCase *c)
{
    const int pad = c->k == 3 && (c->stride == 1 || c->centre);
    const int64_t T = yd[0], H = yd[1], W = yd[2];

    for (int64_t ti = 0; ti < c->t; ti++)
        for (int64_t hi = 0; hi < c->h * c->up; hi++)
            for (int64_t wi = 0; wi < c->w * c->up; wi++)
                for (int64_t e = 0; e < c->kt * c->k * c->k; e++) {
                    const int64_t dt = e / c->k / c->k, dr = e / c->k % c->k;
                    const int64_t dc = e % c->k;
                    const int64_t t = ti - dt, r = hi + pad - dr;
                    const int64_t q = wi + pad - dc;
                    const float *in = wan_row(x, (ti * c->h + hi / c->up) *
                                                 c->w + wi / c->up);
                    double *out;

                    if (t < 0 || r < 0 || q < 0 || t % c->stride_t ||
                        r % c->stride || q % c->stride ||
                        t / c->stride_t >= T || r / c->stride >= H ||
                        q / c->stride >= W)
                        continue;
                    out = y + ((t / c->stride_t * H + r / c->stride) * W +
                               q / c->stride) * c->o;
                    for (int64_t o = 0; o < c->o; o++)
                        for (int64_t i = 0; i < c->i; i++)
                            out[o] += in[i] * weight_value(&w->weight,
                                ((o * c->i + i) * c->kt + dt) * c->k * c->k +
                                dr * c->k + dc);
                }
}

static void conv_case(ConvCase c)
{
    c.stride_t += !c.stride_t;
    c.stride += !c.stride;
    c.up += !c.up;
    const int64_t terms = c.i * c.kt * c.k * c.k;
    const int64_t yd[4] = { (c.t - c.kt) / c.stride_t + 1,
                            c.h * c.up / c.stride, c.w * c.up / c.stride,
                            c.o };
    Pair x = pair_random(0, c.t, c.h, c.w, c.i);
    Pair y = c.add ? pair_random(0, yd[0], yd[1], yd[2], yd[3])
                   : pair_out(0, yd[0], yd[1], yd[2], yd[3]);
    Pair bias = pair_random(0, c.o);
    WanConv w = {
        .weight = weight_random(c.type, 1 / sqrt((double)terms), c.o, c.i,
                                c.kt, c.k, c.k),
        .bias = bias.ref,
    };
    const WanConvArgs a = { c.stride_t, c.stride, c.up, c.add, c.centre,
                            c.relu ? WAN_ACT_RELU : WAN_ACT_NONE };
    const int64_t n = wan_count(&y.ref);
    /* taps that see the same pixel of what is upsampled have one factor, their
     * sum, which has more bits */
    const double product = c.up > 1 ? factor_tolerance() : product_tolerance();
    double *want = malloc(n * sizeof(*want)), err = 0, sum = 0;

    for (int64_t i = 0; i < n; i++)
        want[i] = wan_row(&bias.ref, 0)[i % c.o] +
                  (c.add ? ((float *)y.ref.data)[i] : 0);
    conv_double(want, yd, &x.ref, &w, &c);
    for (int64_t i = 0; c.relu && i < n; i++)
        want[i] = want[i] < 0 ? 0 : want[i];
    wan_op_conv_(ref, &y.ref, &x.ref, &w, a);
    wan_op_conv_(dut, &y.dut, &x.dut, &w, a);
    for (int64_t i = 0; i < n; i++) {
        const double e = ((float *)y.ref.data)[i] - want[i];

        err += e * e;
        sum += want[i] * want[i];
    }
    CHECKF(err <= sum * 0x1p-46, "ref: %g", sqrt(err / sum));
    expect_close(&y, tolerance(terms) + product, "[%d,%d,%d,%d] to %d, %dx%dx%d stride "
                 "%d %d up %d add %d centre %d relu %d %s", (int)c.t, (int)c.h, (int)c.w,
                 (int)c.i, (int)c.o, (int)c.kt, (int)c.k, (int)c.k,
                 c.stride_t, c.stride, c.up, c.add, c.centre, c.relu,
                 wan_type_name(c.type));
    free(want);
    free(w.weight.data);
    pair_free(&x), pair_free(&y), pair_free(&bias);
}

TEST(conv_channels)
{
    static const int64_t n[] = { 1, 3, 8, 16, 24, 33, 96 };

    for (int i = 0; i < COUNT(n); i++)
        for (int o = 0; o < COUNT(n); o++)
            if (n[i] * n[o] <= 96 * 24 || i == o)
                conv_case((ConvCase){ 3, 5, 9, n[i], n[o], 3, 3 });
}

TEST(conv_shapes)
{
    static const int64_t h[] = { 1, 2, 7, 30 }, w[] = { 1, 3, 18, 64 };

    for (int i = 0; i < COUNT(h); i++)
        for (int j = 0; j < COUNT(w); j++) {
            conv_case((ConvCase){ 2, h[i], w[j], 33, 24, 2, 3 });
            conv_case((ConvCase){ 2, h[i], w[j], 5, 3, 1, 3 });
            conv_case((ConvCase){ 3, h[i], w[j], 24, 8, 3, 1 });
        }
    conv_case((ConvCase){ 1, 3, 700, 33, 8, 1, 3 });   // rows past a band
    conv_case((ConvCase){ 1, 40, 150, 8, 3, 1, 3 });
    conv_case((ConvCase){ 1, 40, 150, 8, 40, 1, 3 });
}

TEST(conv_strides)
{
    for (int i = 0; i < 16; i++) {
        const int64_t c = i & 1 ? 3 : 40;

        conv_case((ConvCase){ 5, 6, i & 2 ? 2 : 38, c, i & 4 ? 3 : 24, 3, 3,
                              .stride_t = 1 + (i >> 3), .stride = 2 });
        conv_case((ConvCase){ 5, 4, 4, c, 16, 3, 1, .stride_t = 1 + (i & 1),
                              .add = i >> 1 & 1 });
    }
}

/* Zeros on every side, which the first row and column read. */
TEST(conv_centred)
{
    for (int i = 0; i < 8; i++)
        conv_case((ConvCase){ 1 + (i & 1), i & 1 ? 2 : 6, i & 2 ? 2 : 38,
                              i & 4 ? 3 : 40, i & 2 ? 3 : 24, 1, 3,
                              .stride = 2, .add = i & 1, .centre = 1,
                              .relu = i >> 2 });
    conv_case((ConvCase){ 1, 700, 34, 33, 8, 1, 3, .stride = 2, .centre = 1 });
}

TEST(conv_relu)
{
    for (int i = 0; i < 8; i++)
        conv_case((ConvCase){ 2, 6, 10, i & 1 ? 3 : 40, i & 2 ? 3 : 24, 1, 3,
                              .up = 1 + (i >> 2), .add = i & 1, .relu = 1 });
}

TEST(conv_upsampled)
{
    for (int i = 0; i < 16; i++)
        conv_case((ConvCase){ 1 + (i >> 3), i & 1 ? 1 : 6, i & 2 ? 37 : 2,
                              i & 4 ? 3 : 40, i & 2 ? 3 : 24, 1 + (i >> 3), 3,
                              .up = 2, .add = i & 1 });
    conv_case((ConvCase){ 2, 3, 5, 8, 9, 2, 1, .up = 2 });
}

TEST(conv_options)
{
    static const WanType type[] = { WAN_F16, WAN_BF16, WAN_F8_E4M3 };

    for (int i = 0; i < COUNT(type); i++) {
        conv_case((ConvCase){ 3, 6, 10, 48, 24, 3, 3, .type = type[i] });
        conv_case((ConvCase){ 3, 6, 10, 48, 3, 3, 3, .type = type[i],
                              .add = 1 });
        conv_case((ConvCase){ 1, 6, 10, 16, 40, 1, 3, .type = type[i],
                              .add = 1 });
    }
    conv_case((ConvCase){ 3, 8, 8, 384, 40, 3, 3 });    // the longest sums
}

/* --------------------------------------------------- rows of a higher frame */

/* Rows [r, r + n) of each frame of x [T, H, W, C], in memory of their own. */
static Pair pair_rows(const Pair *x, int64_t r, int64_t n)
{
    const int64_t *d = x->ref.dim, row = d[2] * d[3];
    Pair p = pair_out(0, d[0], n, d[2], d[3]);

    for (int64_t t = 0; t < d[0]; t++) {
        const int64_t to = t * n * row, from = (t * d[1] + r) * row;
        const size_t size = wan_type_size(p.dut.type);

        memcpy((float *)p.ref.data + to, (float *)x->ref.data + from,
               n * row * sizeof(float));
        memcpy((char *)p.dut.data + to * size,
               (char *)x->dut.data + from * size, n * row * size);
    }
    return p;
}

/* Whether a device that promises it made the same bits. */
static int same_bits(const Pair *a, const Pair *b)
{
    const size_t n = wan_count(&a->ref) * sizeof(float);

    return !memcmp(a->ref.data, b->ref.data, n) &&
           (dut->backend->device || !memcmp(a->dut.data, b->dut.data, n));
}

static void conv_on(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanTensor *above, const WanTensor *below,
                    const WanConv *w, const ConvCase *c)
{
    wan_op_conv(d, y, x, w, .upsample = c->up, .add = c->add,
                .act = c->relu ? WAN_ACT_RELU : WAN_ACT_NONE, .above = above,
                .below = below);
}

/* Frames that are cut into n rows each, the last piece into what is left: what
 * comes of each is what is there in the whole. */
static void cut_case(ConvCase c, int64_t n)
{
    c.up += !c.up;
    Pair x = pair_random(0, c.t, c.h, c.w, c.i), bias = pair_random(0, c.o);
    Pair before = pair_random(0, c.t - c.kt + 1, c.h * c.up, c.w * c.up, c.o);
    Pair y = pair_rows(&before, 0, c.h * c.up);
    WanConv w = { .weight = weight_random(WAN_F32, 1, c.o, c.i, c.kt, c.k, c.k),
                  .bias = bias.ref };

    conv_on(ref, &y.ref, &x.ref, NULL, NULL, &w, &c);
    conv_on(dut, &y.dut, &x.dut, NULL, NULL, &w, &c);
    dut_done();
    for (int64_t r = 0; r < c.h; r += n) {
        const int64_t m = c.h - r < n ? c.h - r : n, end = r + m;
        Pair part = pair_rows(&x, r, m);
        Pair above = pair_rows(&x, r ? r - 1 : 0, 1);
        Pair below = pair_rows(&x, end < c.h ? end : 0, 1);
        Pair got = pair_rows(&before, r * c.up, m * c.up);
        Pair want = pair_rows(&y, r * c.up, m * c.up);

        conv_on(ref, &got.ref, &part.ref, r ? &above.ref : NULL,
                end < c.h ? &below.ref : NULL, &w, &c);
        conv_on(dut, &got.dut, &part.dut, r ? &above.dut : NULL,
                end < c.h ? &below.dut : NULL, &w, &c);
        expect_close(&got, tolerance(c.i * c.kt * c.k * c.k) +
                     product_tolerance(), "rows %d to %d of [%d,%d,%d,%d] to %d, up %d "
                     "add %d", (int)r, (int)end - 1, (int)c.t, (int)c.h,
                     (int)c.w, (int)c.i, (int)c.o, c.up, c.add);
        CHECKF(same_bits(&got, &want), "rows %d to %d of [%d,%d,%d,%d] to %d, "
               "up %d add %d: other bits", (int)r, (int)end - 1, (int)c.t,
               (int)c.h, (int)c.w, (int)c.i, (int)c.o, c.up, c.add);
        pair_free(&part), pair_free(&above), pair_free(&below);
        pair_free(&got), pair_free(&want);
    }
    free(w.weight.data);
    pair_free(&x), pair_free(&y), pair_free(&before), pair_free(&bias);
}

static void cut_cases(void)
{
    for (int i = 0; i < 32; i++)
        cut_case((ConvCase){ 2, 7, i & 1 ? 37 : 10, i & 2 ? 3 : 40,
                             i & 4 ? 3 : 24, 1 + (i >> 4), 3,
                             .up = 1 + (i >> 3 & 1), .add = i & 1,
                             .relu = i >> 1 & 1 }, 1 + i % 3);
    cut_case((ConvCase){ 3, 5, 9, 33, 8, 3, 1 }, 2);
}

TEST(conv_cut)
{
    cut_cases();
    /* a product of so many rows and columns oneDNN would do another way than
     * one of fewer */
    cut_case((ConvCase){ 1, 16, 30, 600, 768, 1, 1 }, 4);
    cut_case((ConvCase){ 1, 9, 61, 48, 300, 1, 3 }, 4);     // panels
}

/* By an entry that knows zeros alone. */
TEST(conv_cut_composed)
{
    const WanBackend *backend = dut->backend;
    WanOps ops = *backend->ops;
    WanBackend other = *backend;

    ops.conv_beside = 0;
    other.ops = &ops;
    dut->backend = &other;
    cut_cases();
    dut->backend = backend;
}

/* Cancelled before it ends, an op leaves and the device says so. */
TEST(conv_cancel)
{
    WanDev *d;
    Pair x = pair_random(0, 1, 4, 4, 8), y = pair_out(0, 1, 4, 4, 8);
    Pair bias = pair_random(0, 8);
    WanConv w = { .weight = weight_random(WAN_F32, 1, 8, 8, 1, 3, 3),
                  .bias = bias.ref };

    if (!CHECK(wan_dev_open(&d, dut->backend->name, 2, 16 << 20, NULL) == 0))
        return;
    wan_dev_cancel(d);
    wan_op_conv(d, &y.dut, &x.dut, &w);
    CHECK(wan_dev_error(d) == WAN_CANCELLED);
    CHECK(isnan(wan_row(&y.dut, 0)[0]));
    wan_dev_close(&d);
    free(w.weight.data);
    pair_free(&x), pair_free(&y), pair_free(&bias);
}

/* Any number of channels in and out. */
TEST(conv_depths)
{
    for (int i = 1; i <= 70; i++) {
        conv_case((ConvCase){ 2, 3, 5, i, 9, 2, 3 });
        conv_case((ConvCase){ 1, 1, 6, i, 17, 1, 1 });
        conv_case((ConvCase){ 1, 2, 7, 9, i, 1, 3 });
    }
}

/* A pixel that is a NaN or an infinity is seen where the kernel reaches it. */
TEST(conv_special)
{
    static const ConvCase list[] = {
        { 3, 6, 10, 40, 24, 3, 3 }, { 2, 6, 10, 7, 3, 2, 3 },
        { 1, 5, 9, 33, 40, 1, 1 }, { 1, 6, 8, 40, 24, 1, 3, .stride = 2 },
        { 1, 5, 7, 40, 24, 1, 3, .up = 2 },
    };
    const float special[] = { NAN, INFINITY, -INFINITY };

    for (int i = 0; i < COUNT(list) * 3; i++) {
        const ConvCase c = list[i / 3];
        /* infinities of taps that are one factor, or not, add differently */
        const float v = c.up > 1 ? NAN : special[i % 3];
        const int up = c.up ? c.up : 1, stride = c.stride ? c.stride : 1;
        Pair x = pair_random(0, c.t, c.h, c.w, c.i), bias = pair_random(0, c.o);
        Pair y = pair_out(0, c.t - c.kt + 1, c.h * up / stride,
                          c.w * up / stride, c.o);
        WanConv w = { .weight = weight_random(WAN_F32, 1, c.o, c.i, c.kt, c.k,
                                              c.k), .bias = bias.ref };

        pair_set(&x, (c.t / 2 * c.h + 3) * c.w + 4, c.i - 1, v);
        wan_op_conv(ref, &y.ref, &x.ref, &w, .stride = stride, .upsample = up);
        wan_op_conv(dut, &y.dut, &x.dut, &w, .stride = stride, .upsample = up);
        expect_kinds(&y, "case %d, %g", i / 3, v);
        free(w.weight.data);
        pair_free(&x), pair_free(&y), pair_free(&bias);
    }
}

TEST(conv_denormal)
{
    for (int i = 0; i < 4; i++) {
        const int64_t I = i & 1 ? 33 : 3, O = i & 1 ? 24 : 3;
        Pair x = pair_fill(pair_out(0, 1, 5, 9, I), i & 2 ? 1 : 1e-39, 0);
        Pair y = pair_out(0, 1, 5, 9, O), bias = pair_fill(pair_out(0, O), 0, 0);
        WanConv w = { .weight = weight_random(WAN_F32, i & 2 ? 1e-39 : 1, O, I,
                                              1, 3, 3), .bias = bias.ref };

        wan_op_conv(ref, &y.ref, &x.ref, &w);
        wan_op_conv(dut, &y.dut, &x.dut, &w);
        expect_tiny(&y, "%s", i & 2 ? "weights" : "inputs");
        free(w.weight.data);
        pair_free(&x), pair_free(&y), pair_free(&bias);
    }
}

static void test_conv(void)
{
    RUN(conv_channels);
    RUN_FEW_BITS(conv_channels);
    RUN(conv_depths);
    RUN_FEW_BITS(conv_depths);
    RUN(conv_shapes);
    RUN_FEW_BITS(conv_shapes);
    RUN(conv_strides);
    RUN_FEW_BITS(conv_strides);
    RUN(conv_centred);
    RUN_FEW_BITS(conv_centred);
    RUN(conv_relu);
    RUN_FEW_BITS(conv_relu);
    RUN(conv_upsampled);
    RUN(conv_options);
    RUN_FEW_BITS(conv_options);
    RUN(conv_cut);
    RUN(conv_cut_composed);
    RUN_CPU(conv_special);
    RUN_CPU(conv_denormal);
    RUN_CPU(conv_cancel);
}
