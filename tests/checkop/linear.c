/*
 * Tests of the linear layer.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

static int plain_loops;         // although there are instructions

static double act_double(double v, WanAct act)
{
    const double u = 0.79788456080286535588 * (v + 0.044715 * v * v * v);

    return act == WAN_ACT_SILU ? v / (1 + exp(-v)) :
           act == WAN_ACT_GELU_TANH ? v / 2 * (1 + tanh(u)) :
           act == WAN_ACT_GELU_ERF ? v / 2 * (1 + erf(v / sqrt(2))) :
           act == WAN_ACT_RELU ? (v < 0 ? 0 : v) :
           act == WAN_ACT_TANH3 ? 3 * tanh(v / 3) : v;
}

typedef struct LinearCase {
    int64_t m, n, k, extra;
    WanType type;
    WanAct act;
    int bias, scale, add, gate; // scale: 0 none, 1 one, 2 one a column
    int e4m3;
    enum WanPrecision least;    // see WanLinear
} LinearCase;

/*
 * What rounding to e4m3 adds to the tolerance. It has 3 bits behind the point:
 * a number m 2^e, 1 <= m < 2, moves by at most 2^-4 2^e, evenly spread, so by
 * 2^-4 / sqrt(3) / m of itself in the root of the mean square: at most 0.036,
 * for all m alike 0.027. Errors of the K terms of a sum are independent, and
 * with terms of either sign sum and error both grow with the root of K: what
 * holds for a term holds for the sum, whatever K. If x and W are rounded the
 * squares add.
 */
static double e4m3_tolerance(const LinearCase *c)
{
    const int fits = c->n % 16 == 0 && c->k % 16 == 0;

    if (!c->e4m3 || !dut->backend->e4m3 || !dut->backend->e4m3(dut->index))
        return 0;
    return c->type == WAN_F8_E4M3 ? 0.036 : fits ? 0.036 * sqrt(2) : 0;
}

/* What layers may be rounded to, where a case says nothing. */
static enum WanPrecision default_least(void)
{
    return layers_int8 ? WAN_PRECISION_INT8 : WAN_PRECISION_AUTO;
}

/* Q8_0 in 8 bits is as the file has it: of two errors of the same size that do
 * not depend on one another x's remains. */
static double layer_tolerance(enum WanPrecision least, WanType type)
{
    const int exact = type == WAN_Q8_0 &&
                      dut->backend->precision == WAN_PRECISION_INT8;

    return least == WAN_PRECISION_F32 ? 0 :
           least != WAN_PRECISION_INT8 ? product_tolerance() :
           exact ? int8_tolerance() / sqrt(2) : int8_tolerance();
}

static void linear_case(const LinearCase *c)
{
    const enum WanPrecision least = c->least ? c->least : default_least();
    Pair x = pair_random(c->extra, c->m, c->k);
    Pair y = c->add || c->gate ? pair_random(c->extra, c->m, c->n)
                               : pair_out(c->extra, c->m, c->n);
    Pair bias = pair_random(0, c->n), gate = pair_random(0, c->n);
    Pair scale = pair_fill(pair_out(0, c->scale == 2 ? c->n : 1), 0.1, 1);
    WanLinear w = {
        .weight = weight_random(c->type, 1 / sqrt((double)c->k), c->n, c->k),
        .bias = c->bias ? bias.ref : (WanTensor){ 0 }, .e4m3 = c->e4m3,
        .scale = c->scale ? scale.ref : (WanTensor){ 0 },
        .least = least,
    };
    const WanLinearArgs a = { .act = c->act, .add = c->add,
                              .gate = c->gate ? &gate.ref : NULL };
    /* Weights of more bits than the activations are rounded to them. */
    const double rounded = dut_act == WAN_BF16 && (c->type == WAN_F32 ||
                                                   c->type == WAN_F16)
                           ? 0x1p-8 : 0;
    const double product = layer_tolerance(least, c->type);
    /* f8 weights are large numbers: a bias adds nothing to their length */
    double tol = (tolerance(c->k) + rounded + e4m3_tolerance(c) + product) *
                 (c->act ? 1.5 : 1);
    double *want = malloc(c->m * c->n * sizeof(*want)), err = 0, sum = 0;
    float *weight = malloc(c->n * c->k * sizeof(*weight));

    wan_to_f32(weight, w.weight.data, c->type, c->n * c->k, 1);
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t n = 0; n < c->n; n++) {
            double s = 0;

            for (int64_t k = 0; k < c->k; k++)
                s += (double)wan_row(&x.ref, i)[k] * weight[n * c->k + k];
            if (c->scale)
                s *= wan_row(&scale.ref, 0)[c->scale == 2 ? n : 0];
            if (c->bias)
                s += wan_row(&bias.ref, 0)[n];
            s = act_double(s, c->act);
            if (c->gate)
                s *= wan_row(&gate.ref, 0)[n];
            if (c->add || c->gate)
                s += wan_row(&y.ref, i)[n];
            want[i * c->n + n] = s;
        }
    wan_op_linear_(ref, &y.ref, &x.ref, &w, a);
    wan_op_linear_(dut, &y.dut, &x.dut, &w, a);
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t n = 0; n < c->n; n++) {
            const double e = wan_row(&y.ref, i)[n] - want[i * c->n + n];

            err += e * e;
            sum += want[i * c->n + n] * want[i * c->n + n];
        }
    CHECKF(err <= sum * 0x1p-46, "ref: %g", sqrt(err / sum));
    /* the sum of one result may be 0 by chance, its terms are not */
    if (c->m * c->n < 8 && sum < c->m * c->n * (1 + c->bias))
        tol *= sqrt(c->m * c->n * (1 + c->bias) / sum);
    expect_close(&y, tol, "%dx%dx%d pitch +%d %s act %d bias %d scale %d add "
                 "%d gate %d e4m3 %d least %d", (int)c->m, (int)c->n, (int)c->k,
                 (int)c->extra, wan_type_name(c->type), c->act, c->bias,
                 c->scale, c->add, c->gate, c->e4m3, least);
    free(want), free(weight);
    free(w.weight.data);
    pair_free(&x), pair_free(&y), pair_free(&bias), pair_free(&gate);
    pair_free(&scale);
}

TEST(linear_shapes)
{
    static const int64_t m[] = { 1, 7, 127, 513 }, n[] = { 1, 3, 24, 130 };
    static const int64_t k[] = { 1, 48, 130, 1027 };

    for (int i = 0; i < COUNT(m); i++)
        for (int j = 0; j < COUNT(n); j++)
            for (int l = 0; l < COUNT(k); l++)
                linear_case(&(LinearCase){ m[i], n[j], k[l], (i + j) % 3 * 5,
                                           .bias = l & 1 });
}

/* Whatever the number of inputs, of which devices take some at a time. */
TEST(linear_depths)
{
    static const WanType type[] = { WAN_BF16, WAN_F32, WAN_F16, WAN_F8_E4M3 };

    for (int k = 1; k <= 70; k++) {
        linear_case(&(LinearCase){ 1, 67, k, k % 4, type[k % 4] });
        linear_case(&(LinearCase){ 9, 35, k, k % 3 * 3, type[k % 4],
                                   .bias = 1 });
    }
}

/* And of columns and rows: panels and tiles of registers of every size. */
TEST(linear_widths)
{
    for (int n = 1; n <= 130; n++)
        linear_case(&(LinearCase){ n % 15 + 1, n, 50, n % 3, WAN_BF16 });
}

/* What may be rounded is said by the layer. */
TEST(linear_least)
{
    for (int least = WAN_PRECISION_AUTO; least <= WAN_PRECISION_INT8; least++)
        for (int i = 0; i < 4; i++)
            linear_case(&(LinearCase){ i & 1 ? 1 : 130, 131, 257, i, .bias = 1,
                                       .type = i & 2 ? WAN_F32 : WAN_BF16,
                                       .gate = i & 2, .least = least });
}

TEST(linear_types)
{
    static const WanType type[] = { WAN_F32, WAN_F16, WAN_BF16, WAN_F8_E4M3,
                                    WAN_F8_E5M2 };

    for (int i = 0; i < COUNT(type); i++) {
        linear_case(&(LinearCase){ 7, 130, 96, 0, type[i] });
        linear_case(&(LinearCase){ 65, 257, 1100, 3, type[i], .bias = 1,
                                   .scale = 1 });
        linear_case(&(LinearCase){ 1, 96, 2050, 0, type[i], .scale = 2 });
        linear_case(&(LinearCase){ 5, 600, 33, 0, type[i], .bias = 1,
                                   .scale = 2, .gate = 1 });
    }
}

TEST(linear_epilogues)
{
    for (int act = 0; act < WAN_NB_ACTS; act++)
        for (int i = 0; i < 24; i++)
            linear_case(&(LinearCase){ 33, 131, 48, i % 5, .act = act,
                                       .bias = i & 1, .scale = i / 2 % 3,
                                       .add = i / 6 % 2, .gate = i / 12 });
}

/* What may be rounded to e4m3; a device that has no such products takes it as
 * it is. */
TEST(linear_e4m3)
{
    static const WanType type[] = { WAN_F8_E4M3, WAN_BF16, WAN_F32, WAN_F16,
                                    WAN_F8_E5M2 };

    for (int i = 0; i < COUNT(type); i++)
        for (int k = 0; k < 16; k += 1 + UNDER_SANITIZERS * 4) {
            LinearCase c = { 33, 144, 1536, 0, type[i], .bias = k & 1,
                             .gate = k & 2, .e4m3 = 1 };

            c.scale = i % 4 ? 0 : k / 4 % 3;
            c.add = k / 4 == 1;
            c.act = k / 4 == 2 ? WAN_ACT_GELU_TANH : WAN_ACT_NONE;
            linear_case(&c);
            c.m = 1, c.n = 24, c.k = 96;        // not for the library
            linear_case(&c);
        }
}

/* What a device multiplies for v. */
static float as_factor(float v)
{
    uint16_t h;

    if (!product_tolerance())
        return v;
    h = wan_f32_to_bf16(v);
    return (float)typed_get(&h, WAN_BF16, 0);
}

/* Every bit pattern of the narrow types means the same on both devices, but
 * for numbers too small for their type, which may be 0. */
TEST(linear_widens_all_patterns)
{
    static const WanType type[] = { WAN_F16, WAN_BF16, WAN_F8_E4M3,
                                    WAN_F8_E5M2 };

    for (int t = 0; t < COUNT(type); t++) {
        const int64_t n = wan_type_size(type[t]) == 1 ? 256 : 65536;
        uint16_t *half = malloc(n * sizeof(*half));
        uint8_t *byte = malloc(n);
        WanLinear w = { .weight = wan_tensor_of(n > 256 ? (void *)half : byte,
                                                type[t], n, 1) };
        Pair x = pair_fill(pair_out(0, 1, 1), 0, 1), y = pair_out(0, 1, n);
        int bad = 0;

        for (int64_t i = 0; i < n; i++) {
            half[i] = (uint16_t)i;
            byte[i] = (uint8_t)i;
        }
        wan_op_linear(ref, &y.ref, &x.ref, &w);
        wan_op_linear(dut, &y.dut, &x.dut, &w);
        dut_done();
        for (int64_t i = 0; i < n; i++) {
            const float a = as_factor(wan_row(&y.ref, 0)[i]);
            const float b = wan_row(&y.dut, 0)[i];

            bad += !(a == b || (isnan(a) && isnan(b)) ||
                     (b == 0 && product_tolerance() > 0 && fabsf(a) < FLT_MIN));
        }
        CHECKF(!bad, "%s: %d of %d differ", wan_type_name(type[t]), bad,
               (int)n);
        free(half), free(byte);
        pair_free(&x), pair_free(&y);
    }
}

/* A file need not align its tensors. */
TEST(linear_unaligned_weights)
{
    static const WanType type[] = { WAN_F32, WAN_F16, WAN_BF16 };

    for (int t = 0; t < COUNT(type); t++) {
        const int64_t bytes = 70 * 130 * wan_type_size(type[t]);
        WanLinear w = { .weight = weight_random(type[t], 0.1, 70, 130),
                        .least = default_least() };
        char *odd = malloc(bytes + 1);
        Pair x = pair_random(0, 9, 130), y = pair_out(0, 9, 70);

        wan_op_linear(ref, &y.ref, &x.ref, &w);
        memcpy(odd + 1, w.weight.data, bytes);
        free(w.weight.data);
        w.weight.data = odd + 1;
        wan_op_linear(dut, &y.dut, &x.dut, &w);
        expect_close(&y, tolerance(130) + layer_tolerance(w.least, type[t]),
                     "%s", wan_type_name(type[t]));
        free(odd);
        pair_free(&x), pair_free(&y);
    }
}

/* Layers of one input, side by side: what each gives alone. */
static void linear_n_case(int n, int64_t m, int64_t k, int64_t extra, int bias,
                          int scaled, int mixed)
{
    static const WanType type[] = { WAN_BF16, WAN_F32, WAN_F16 };
    static const int64_t rows[] = { 24, 7, 130 };
    const int64_t cols = 31 + (n > 2 ? 130 : 0);
    Pair x = pair_random(extra, m, k), y = pair_out(extra, m, cols);
    Pair alone = pair_out(0, m, cols), b[3], scale = pair_random(0, 1);
    WanLinear w[3];
    int64_t at = 0;

    for (int i = 0; i < 3; i++) {
        b[i] = pair_random(0, rows[i]);
        w[i] = (WanLinear){
            .weight = weight_random(type[mixed ? i : 0], 1 / sqrt((double)k),
                                    rows[i], k),
            .bias = bias ? b[i].ref : (WanTensor){ 0 },
            .scale = scaled && i == 1 ? scale.ref : (WanTensor){ 0 },
            .least = default_least(),
        };
    }
    for (int k = 0; k < 2; k++) {
        WanDev *d = k ? dut : ref;
        WanTensor *to = k ? &y.dut : &y.ref;
        const WanTensor *in = k ? &x.dut : &x.ref;

        if (n == 2)
            wan_op_linear_n(d, to, in, &w[0], &w[1]);
        else
            wan_op_linear_n(d, to, in, &w[0], &w[1], &w[2]);
    }
    for (int i = 0; i < n; at += rows[i++]) {
        WanTensor part = wan_columns(&alone.ref, at, rows[i]);

        wan_op_linear(ref, &part, &x.ref, &w[i]);
    }
    for (int64_t i = 0; i < m; i++)
        CHECK(!memcmp(wan_row(&y.ref, i), wan_row(&alone.ref, i),
                      cols * sizeof(float)));
    expect_close(&y, tolerance(k) + layer_tolerance(w->least, WAN_BF16),
                 "%d of %dx%d pitch +%d bias %d scaled %d mixed %d", n, (int)m, (int)k, (int)extra, bias, scaled,
                 mixed);
    for (int i = 0; i < 3; i++) {
        free(w[i].weight.data);
        pair_free(&b[i]);
    }
    pair_free(&x), pair_free(&y), pair_free(&alone), pair_free(&scale);
}

TEST(linear_n)
{
    for (int i = 0; i < 32; i++)
        linear_n_case(2 + (i & 1), i & 2 ? 127 : 1, 130, i & 2 ? 5 : 0,
                      i >> 2 & 1, i >> 3 & 1, i >> 4 & 1);
}

/* On a CPU the bits are those of each layer alone, however many tiles there
 * are of either, and of what types. */
TEST(linear_n_bits)
{
    static const WanType type[] = { WAN_BF16, WAN_F32, WAN_F8_E4M3, WAN_F16 };
    static const struct { int64_t m, k, n[3]; } size[] = {
        { 63, 192, { 192, 192, 192 } }, { 1, 24, { 3, 16, 1 } },
        { 530, 100, { 257, 48, 304 } }, { 25, 1100, { 144, 512, 33 } },
    };

    for (int i = 0; i < 16; i++) {
        const int64_t m = size[i / 4].m, k = size[i / 4].k;
        const int64_t *n = size[i / 4].n, all = n[0] + n[1] + n[2];
        Pair x = pair_random(i % 2 * 3, m, k), y = pair_out(5, m, all);
        Pair alone = pair_out(0, m, all), bias = pair_random(0, all);
        WanLinear w[3];
        int64_t at = 0;

        for (int p = 0; p < 3; at += n[p++]) {
            WanTensor part = wan_columns(&alone.dut, at, n[p]);

            w[p] = (WanLinear){
                .weight = weight_random(type[i % 4 ? i % 4 : p], 0.1, n[p], k),
                .bias = i & 1 ? wan_columns(&bias.dut, at, n[p])
                              : (WanTensor){ 0 },
            };
            wan_op_linear(dut, &part, &x.dut, &w[p]);
        }
        wan_op_linear_n(dut, &y.dut, &x.dut, &w[0], &w[1], &w[2]);
        for (int64_t r = 0; r < m; r++)
            CHECKF(!memcmp(wan_row(&y.dut, r), wan_row(&alone.dut, r),
                           all * sizeof(float)), "case %d, row %d", i, (int)r);
        for (int p = 0; p < 3; p++)
            free(w[p].weight.data);
        pair_free(&x), pair_free(&y), pair_free(&alone), pair_free(&bias);
    }
}

/* Products of our own against what they stand for: oneDNN, with the same bits
 * where that is the one whose order of sums they have, and one another. */
TEST(linear_own_products)
{
    static const WanType type[] = { WAN_F32, WAN_BF16, WAN_F16, WAN_F8_E5M2 };
    static const int64_t m[] = { 1, 5, 23, 63, 517 };
    static const int64_t n[] = { 16, 33, 112, 250, 592 };
    static const int64_t k[] = { 1, 33, 385, 640, 1536, 2304 };
    const int best = wan_f32_native();
    char name[64];
    int same;

    wan_f32_at_most(WAN_F32_NONE);
    same = !strcmp(wan_sgemm_name(name, sizeof(name)), "oneDNN 2.6.3") &&
           best == WAN_F32_AVX512;
    printf("# %s; bits are %scompared\n", name, same ? "" : "not ");
    for (int i = 0; i < COUNT(m) * COUNT(n) * COUNT(k); i++) {
        const int64_t M = m[i % 5], N = n[i / 5 % 5], K = k[i / 25];
        const WanType t = type[(i + i / 5) % 4];
        Pair x = pair_random(i % 2 * 256, M, K), y = pair_out(i % 3, M, N);
        Pair own = pair_out(0, M, N);
        WanLinear w = { .weight = weight_random(t, 1 / sqrt(K), N, K) };

        wan_f32_at_most(WAN_F32_NONE);
        wan_op_linear(dut, &y.ref, &x.dut, &w);
        wan_op_linear(dut, &y.dut, &x.dut, &w);
        for (int with = best; with > WAN_F32_NONE; with--) {
            wan_f32_at_most(with);
            wan_op_linear(dut, with == best ? &y.dut : &own.dut, &x.dut, &w);
            expect_close(&y, tolerance(K), "%dx%dx%d %s", (int)M, (int)N,
                         (int)K, wan_type_name(t));
            for (int64_t r = 0; r < M; r++)
                CHECKF((!same || !memcmp(wan_row(&y.ref, r),
                                         wan_row(&y.dut, r),
                                         N * sizeof(float))) &&
                       (with == best || !memcmp(wan_row(&own.dut, r),
                                                wan_row(&y.dut, r),
                                                N * sizeof(float))),
                       "%dx%dx%d %s, row %d", (int)M, (int)N, (int)K,
                       wan_type_name(t), (int)r);
        }
        free(w.weight.data);
        pair_free(&x), pair_free(&y), pair_free(&own);
    }
    wan_f32_at_most(best);
}

/* In 8 bits plain loops give the bits of the processor's instruction. */
TEST(products_in_8_bits)
{
    static const int64_t m[] = { 1, 5, 13, 120 }, k[] = { 1, 67, 130, 1024 };
    static const int64_t n[] = { 1, 70, 256 };

    for (int i = 0; i < COUNT(m) * COUNT(n); i++) {
        const int64_t M = m[i % COUNT(m)], N = n[i / COUNT(m)];
        const int64_t K = k[(i + i / COUNT(m)) % COUNT(k)];
        const int64_t depth = wan_int8_depth(K), ld = wan_bf16_cols(N);
        Pair x = pair_random(3, M, K), y = pair_random(0, M, ld);
        WanTensor w = weight_random(i & 1 ? WAN_BF16 : WAN_F32, 1, N, K);
        static uint8_t a[2][120 * 1024];
        static int8_t b[2][256 * 1024];
        static WanInt8Columns columns[2];
        static float scale[2][120];

        for (int plain = 0; plain < 2; plain++) {
            wan_int8_plain(plain);
            for (int64_t r = 0; r < M; r++)
                scale[plain][r] = wan_int8_round(a[plain] + r * depth,
                                                 wan_row(&x.ref, r), K);
            wan_int8_pack(b[plain], &columns[plain], 0, w.data, w.type, K, N,
                          K);
            for (int add = 0; add < 2; add++)
                wan_int8_product(M, N, depth, a[plain], depth, scale[plain], 1,
                                 b[plain], &columns[plain], add,
                                 plain ? y.ref.data : y.dut.data, ld);
        }
        wan_int8_plain(plain_loops);
        CHECK(!memcmp(a[0], a[1], M * depth) &&
              !memcmp(b[0], b[1], ld * depth) &&
              !memcmp(scale[0], scale[1], M * sizeof(float)) &&
              !memcmp(columns[0].sum, columns[1].sum, ld * sizeof(int32_t)) &&
              !memcmp(columns[0].scale, columns[1].scale, ld * sizeof(float)));
        CHECKF(!memcmp(y.ref.data, y.dut.data, M * ld * sizeof(float)),
               "%dx%dx%d", (int)M, (int)N, (int)K);
        free(w.data);
        pair_free(&x), pair_free(&y);
    }
}

/* Blocks of Q8_0 as no encoder makes them: every byte, scales of either sign,
 * normal or not. */
static WanTensor blocks_of_all(int64_t n, int64_t k)
{
    WanTensor t = weight_random(WAN_Q8_0, 1, n, k);
    uint8_t *p = t.data;

    for (int64_t i = 0; i < wan_type_bytes(WAN_Q8_0, n * k); i++)
        p[i] = (uint8_t)(random_u32() >> 8);
    for (int64_t i = 0; i < n * k / 32; i++)
        p[34 * i + 1] &= 0x8f | (random_u32() & 0x30);  // below 2
    return t;
}

/* Likewise of blocks. */
TEST(products_of_blocks)
{
    static const int64_t m[] = { 1, 5, 13, 120 }, k[] = { 32, 96, 640, 1024 };
    static const int64_t n[] = { 1, 16, 17, 70, 256 };

    for (int i = 0; i < COUNT(m) * COUNT(n); i++) {
        const int64_t M = m[i % COUNT(m)], N = n[i / COUNT(m)];
        const int64_t K = k[(i + i / COUNT(m)) % COUNT(k)];
        const int64_t depth = wan_int8_depth(K), ld = wan_bf16_cols(N);
        const int64_t bytes = wan_int8_blocks_bytes(N, K);
        Pair x = pair_random(3, M, K), y = pair_random(0, M, ld);
        WanTensor w = blocks_of_all(N, K);
        uint8_t *a = malloc(M * depth);
        int8_t *b[2];
        float scale[120];

        for (int plain = 0; plain < 2; plain++) {
            wan_int8_plain(plain);
            b[plain] = malloc(bytes);
            for (int64_t r = 0; r < M; r++)
                scale[r] = wan_int8_round(a + r * depth, wan_row(&x.ref, r),
                                          K);
            wan_int8_pack_blocks(b[plain], w.data, K, N, K);
            for (int add = 0; add < 2; add++)
                wan_int8_product_blocks(M, N, K, a, depth, scale, 1, b[plain],
                                        add, plain ? y.ref.data : y.dut.data,
                                        ld);
        }
        wan_int8_plain(plain_loops);
        CHECK(!memcmp(b[0], b[1], bytes));
        CHECKF(!memcmp(y.ref.data, y.dut.data, M * ld * sizeof(float)),
               "%dx%dx%d", (int)M, (int)N, (int)K);
        free(w.data), free(a), free(b[0]), free(b[1]);
        pair_free(&x), pair_free(&y);
    }
}

TEST(q8_0_shapes)
{
    static const int64_t m[] = { 1, 7, 127, 513 }, n[] = { 1, 17, 24, 130, 300 };
    static const int64_t k[] = { 32, 96, 1056, 2080 };

    for (int i = 0; i < COUNT(m); i++)
        for (int j = 0; j < COUNT(n); j += 1 + UNDER_SANITIZERS)
            for (int l = i % 2; l < COUNT(k); l += 2)
                linear_case(&(LinearCase){ m[i], n[j], k[l], (i + j) % 3 * 5,
                                           WAN_Q8_0, .bias = l & 1,
                                           .scale = j % 3, .gate = i & 1 });
}

/* Inputs that are whole numbers times a power of two, with 127 among each
 * thousand, are not rounded. Then nothing is: what F32 allows. (Of one sum alone
 * terms may cancel.) */
TEST(q8_0_is_exact)
{
    static const int64_t m[] = { 1, 5, 67 }, n[] = { 3, 35, 300 };
    static const int64_t k[] = { 32, 96, 1056, 2080 };

    for (int i = 0; i < COUNT(m) * COUNT(n) * COUNT(k); i++) {
        const int64_t M = m[i % 3], N = n[i / 3 % 3], K = k[i / 9];
        const int64_t bytes = wan_type_bytes(WAN_Q8_0, N * K);
        WanTensor w = blocks_of_all(N, K);
        WanLinear l = { .weight = w, .least = WAN_PRECISION_INT8 };
        Pair x = pair_out(2, M, K), y = pair_out(1, M, N);
        char *odd = malloc(bytes + 1);

        for (int64_t r = 0; r < M; r++)
            for (int64_t c = 0; c < K; c++)
                pair_set(&x, r, c, ldexpf(c % 1024 == r % 32 ? 127 :
                         (float)((int)(random_u32() % 255) - 127), r % 9 - 4));
        wan_op_linear(ref, &y.ref, &x.ref, &l);
        memcpy(odd + 1, w.data, bytes);     // a file need not align it
        l.weight.data = odd + 1;
        wan_op_linear(dut, &y.dut, &x.dut, &l);
        expect_close(&y, tolerance(K), "%dx%dx%d", (int)M, (int)N, (int)K);
        free(odd), free(w.data);
        pair_free(&x), pair_free(&y);
    }
}

/* A column's thousand inputs that would lose too much to one far above them stay
 * in more bits, with those of its tile: each tile has some here. */
TEST(columns_with_outliers)
{
    static const int64_t m[] = { 1, 67, 517 }, n[] = { 5, 70, 300 };
    static const int64_t k[] = { 700, 1724, 2748 };
    static const WanType type[] = { WAN_F32, WAN_BF16, WAN_F16 };

    for (int i = 0; i < COUNT(m) * COUNT(n) * COUNT(k);
         i += 1 + UNDER_SANITIZERS * 4) {
        const int64_t M = m[i % 3], N = n[i / 3 % 3], K = k[i / 9];
        const WanType t = type[(i + i / 3) % 3];
        const int64_t rough = dut->int8.rough;
        WanLinear l = { .weight = weight_random(t, 1 / sqrt(K), N, K),
                        .least = WAN_PRECISION_INT8 };
        Pair x = pair_random(i % 2 * 3, M, K), y = pair_out(0, M, N);

        for (int64_t r = 0; r < N; r += 4)
            for (int64_t c = r % 32; c < K; c += 1024)
                typed_set((char *)l.weight.data, t, r * K + c, 8);
        wan_op_linear(ref, &y.ref, &x.ref, &l);
        wan_op_linear(dut, &y.dut, &x.dut, &l);
        CHECKF(dut->int8.rough > rough, "%dx%dx%d", (int)M, (int)N, (int)K);
        /* With one large term each sum on the way may be as large as the last. */
        expect_close(&y, 2 * tolerance(K) + product_tolerance(), "%dx%dx%d %s",
                     (int)M, (int)N, (int)K, wan_type_name(t));
        free(l.weight.data);
        pair_free(&x), pair_free(&y);
    }
}

static double distance(const Pair *p)
{
    double err = 0, sum = 0;

    for (int64_t r = 0; r < wan_rows(&p->ref); r++)
        for (int64_t c = 0; c < wan_cols(&p->ref); c++) {
            const double e = wan_row(&p->dut, r)[c] - wan_row(&p->ref, r)[c];

            err += e * e;
            sum += (double)wan_row(&p->ref, r)[c] * wan_row(&p->ref, r)[c];
        }
    return sqrt(err / sum);
}

/*
 * The same weights in Q8_0 and, decoded, with a scale for each column. x is off
 * alike. Of 1024 normal numbers as large as one another, whose largest is about
 * 3.3, so are the latter's, independently: the root of two times as much in all.
 * Where one block of 32 is 8 times the others the root of the mean square is
 * sqrt((31 + 64) / 32) = 1.7 and the largest some 8 times 2.1, the largest of 32:
 * steps of 2.9 times as much against it, so 3.1 times in all. Nothing is too
 * rough yet.
 */
TEST(q8_0_beside_columns)
{
    static const double least[] = { 1.4142 * 0.9, 3.1 * 0.8 };

    for (int uneven = 0; uneven < 2; uneven++) {
        const int64_t M = 64, N = 70, K = 1024;
        WanTensor w = weight_random(WAN_F32, 1, N, K), q = w;
        WanLinear l = { .least = WAN_PRECISION_INT8 };
        Pair x = pair_random(0, M, K), y = pair_out(0, M, N);
        const int64_t columns = dut->int8.columns, exact = dut->int8.exact;
        const int64_t rough = dut->int8.rough;
        double e[2];

        for (int64_t n = 0; n < N && uneven; n++)
            for (int64_t c = 0; c < 32; c++)
                ((float *)w.data)[n * K + n % 32 * 32 + c] *= 8;
        q.data = malloc(wan_type_bytes(WAN_Q8_0, N * K));
        q.type = WAN_Q8_0;
        wan_from_f32(q.data, WAN_Q8_0, w.data, N * K);
        wan_to_f32(w.data, q.data, WAN_Q8_0, N * K, 1);
        l.weight = w;
        wan_op_linear(ref, &y.ref, &x.ref, &l);
        wan_op_linear(dut, &y.dut, &x.dut, &l);
        e[0] = distance(&y);
        CHECK(dut->int8.columns == columns + N && dut->int8.exact == exact &&
              dut->int8.rough == rough);
        l.weight = q;
        wan_op_linear(dut, &y.dut, &x.dut, &l);
        e[1] = distance(&y);
        expect_close(&y, layer_tolerance(l.least, WAN_Q8_0), "uneven %d",
                     uneven);
        CHECKF(e[0] > e[1] * least[uneven], "uneven %d: columns %.3g, blocks "
               "%.3g", uneven, e[0], e[1]);
        CHECK(dut->int8.columns == columns + 2 * N &&
              dut->int8.exact == exact + N && dut->int8.rough == rough);
        free(w.data), free(q.data);
        pair_free(&x), pair_free(&y);
    }
}

/* Beside layers of other types, with whose rounded x it computes. */
TEST(q8_0_beside_others)
{
    static const WanType type[] = { WAN_Q8_0, WAN_BF16, WAN_Q8_0, WAN_F32 };
    static const int64_t n[] = { 144, 33, 260 };

    for (int i = 0; i < 4; i++) {
        const int64_t M = i & 1 ? 530 : 25, K = 1120;
        Pair x = pair_random(3, M, K), y = pair_out(5, M, 437);
        Pair alone = pair_out(0, M, 437);
        WanLinear w[3];
        int64_t at = 0;

        for (int p = 0; p < 3; at += n[p++]) {
            WanTensor part = wan_columns(&alone.dut, at, n[p]);

            w[p] = (WanLinear){
                .weight = weight_random(type[(i + p) % 4], 0.1, n[p], K),
                .least = default_least(),
            };
            wan_op_linear(dut, &part, &x.dut, &w[p]);
        }
        wan_op_linear_n(dut, &y.dut, &x.dut, &w[0], &w[1], &w[2]);
        for (int64_t r = 0; r < M; r++)
            CHECKF(!memcmp(wan_row(&y.dut, r), wan_row(&alone.dut, r),
                           437 * sizeof(float)), "case %d, row %d", i, (int)r);
        for (int p = 0; p < 3; p++)
            free(w[p].weight.data);
        pair_free(&x), pair_free(&y), pair_free(&alone);
    }
}

/* The bits of a row whatever rows there are: also where these decide how many
 * columns a tile has. */
static void same_rows(WanType type, int64_t N, int64_t K, int step)
{
    WanLinear w = { .weight = weight_random(type, 0.1, N, K),
                    .least = default_least() };
    Pair x = pair_random(0, 560, K), all = pair_out(0, 560, N);

    wan_op_linear(dut, &all.dut, &x.dut, &w);
    if (UNDER_SANITIZERS)
        step = 14;
    for (int64_t m = 1; m < 560; m += m < 30 ? step : 97) {
        const int64_t from = m * 7 % (560 - m);
        const WanTensor part = wan_slice(&x.dut, from, m);
        Pair y = pair_out(0, m, N);

        wan_op_linear(dut, &y.dut, &part, &w);
        for (int64_t r = 0; r < m; r++)
            CHECKF(!memcmp(wan_row(&y.dut, r), wan_row(&all.dut, from + r),
                           N * sizeof(float)), "%s, %dx%d, row %d of %d from "
                   "%d", wan_type_name(type), (int)N, (int)K, (int)r, (int)m,
                   (int)from);
        pair_free(&y);
    }
    free(w.weight.data);
    pair_free(&x), pair_free(&all);
}

TEST(linear_rows)
{
    static const WanType type[] = { WAN_F32, WAN_BF16, WAN_F8_E4M3 };

    for (int t = 0; t < COUNT(type); t++) {
        same_rows(type[t], 96, 1100, 1);
        if (UNDER_SANITIZERS)
            continue;
        same_rows(type[t], 192, 1100, 14);
        same_rows(type[t], 192, 3072, 14);
        same_rows(type[t], 400, 900, 14);
    }
    same_rows(WAN_Q8_0, 96, 1056, 1);
    same_rows(WAN_Q8_0, 400, 2080, 14);
}

/* The same bits whatever the number of threads. */
static void same_threads(WanType type, int64_t K)
{
    static const int threads[] = { 1, 7, 40 };
    WanLinear w = { .weight = weight_random(type, 0.1, 300, K),
                    .least = default_least() };
    Pair x = pair_random(0, 600, K), y = pair_out(0, 600, 300);

    wan_op_linear(dut, &y.dut, &x.dut, &w);
    for (int i = 0; i < COUNT(threads); i++) {
        WanDev *d;

        if (!CHECK(wan_dev_open(&d, dut->backend->name, threads[i], 512 << 20,
                                NULL) == 0))
            break;
        wan_op_fill(d, &y.ref, 0);
        wan_op_linear(d, &y.ref, &x.ref, &w);
        CHECKF(!memcmp(y.ref.data, y.dut.data, y.floats * sizeof(float)),
               "%s, %d threads", wan_type_name(type), threads[i]);
        wan_dev_close(&d);
    }
    free(w.weight.data);
    pair_free(&x), pair_free(&y);
}

TEST(linear_threads)
{
    same_threads(WAN_BF16, 1100);
    same_threads(WAN_Q8_0, 1120);
}

/* A row's bits don't depend on the others, which is what lets ranks have some
 * of them each. */
static void linear_on_both(Pair *y, const Pair *x, const WanLinear *w)
{
    wan_op_linear(ref, &y->ref, &x->ref, w);
    wan_op_linear(dut, &y->dut, &x->dut, w);
}

/* Rows and outputs with a NaN or an infinity, the others without. */
TEST(linear_special)
{
    static const int64_t k[] = { 1, 2, 33, 130, 1100 }, n[] = { 1, 40, 300 };
    const float special[] = { NAN, INFINITY, -INFINITY };

    for (int i = 0; i < COUNT(k) * COUNT(n); i++) {
        const int64_t K = k[i % COUNT(k)], N = n[i / COUNT(k)];
        WanLinear w = { .weight = weight_random(WAN_F32, 1, N, K),
                        .least = default_least() };
        Pair x = pair_random(3, 12, K), y = pair_out(2, 12, N);
        float *weight = w.weight.data;

        for (int64_t r = 1; r < 12; r += 3)
            pair_set(&x, r, r * 7 % K, special[r / 3 % 3]);
        for (int64_t o = 3; o < N; o += 13)
            weight[o * K + o % K] = special[o % 3];
        linear_on_both(&y, &x, &w);
        expect_kinds(&y, "12x%dx%d", (int)N, (int)K);
        free(w.weight.data);
        pair_free(&x), pair_free(&y);
    }
}

/* Likewise with blocks whose scale is none. */
TEST(q8_0_special)
{
    static const int64_t k[] = { 32, 96, 1120 }, n[] = { 1, 40, 300 };
    static const uint16_t special[] = { 0x7c00, 0xfc00, 0x7e00, 0x7c01 };

    for (int i = 0; i < COUNT(k) * COUNT(n); i++) {
        const int64_t K = k[i % COUNT(k)], N = n[i / COUNT(k)];
        WanLinear w = { .weight = weight_random(WAN_Q8_0, 1, N, K),
                        .least = default_least() };
        Pair x = pair_random(3, 12, K), y = pair_out(2, 12, N);
        char *block = w.weight.data;

        for (int64_t r = 1; r < 12; r += 3)
            pair_set(&x, r, r * 7 % K, r % 2 ? NAN : INFINITY);
        for (int64_t o = 3; o < N; o += 13)
            memcpy(block + 34 * (o * (K / 32) + o % (K / 32)),
                   &special[o % 4], 2);
        linear_on_both(&y, &x, &w);
        expect_kinds(&y, "12x%dx%d", (int)N, (int)K);
        free(w.weight.data);
        pair_free(&x), pair_free(&y);
    }
}

/* Too small to be normal: 0 or what it is, and nothing else. */
TEST(linear_denormal)
{
    for (int i = 0; i < 4; i++) {
        const int64_t K = i & 1 ? 5 : 67;
        WanLinear w = { .weight = weight_random(WAN_F32, i & 2 ? 1e-39 : 1, 40,
                                                K), .least = default_least() };
        Pair x = pair_fill(pair_out(1, 9, K), i & 2 ? 1 : 1e-39, 0);
        Pair y = pair_out(1, 9, 40);

        linear_on_both(&y, &x, &w);
        expect_tiny(&y, "%s", i & 2 ? "weights" : "inputs");
        pair_set(&x, 0, 0, 1);      // and beside others
        ((float *)w.weight.data)[0] = 1;
        linear_on_both(&y, &x, &w);
        expect_close(&y, tolerance(K) + layer_tolerance(w.least, WAN_F32),
                     "beside others");
        free(w.weight.data);
        pair_free(&x), pair_free(&y);
    }
}

static void test_linear(void)
{
    RUN(linear_shapes);
    RUN_FEW_BITS(linear_shapes);
    RUN_INT8(linear_shapes);
    RUN(linear_depths);
    RUN_FEW_BITS(linear_depths);
    RUN_INT8(linear_depths);
    RUN(linear_widths);
    RUN_FEW_BITS(linear_widths);
    RUN_INT8(linear_widths);
    RUN(linear_least);
    RUN(linear_types);
    RUN_FEW_BITS(linear_types);
    RUN_INT8(linear_types);
    RUN(linear_epilogues);
    RUN_INT8(linear_epilogues);
    RUN(linear_e4m3);
    RUN_F32(linear_widens_all_patterns);
    RUN(linear_unaligned_weights);
    RUN_FEW_BITS(linear_unaligned_weights);
    RUN_INT8(linear_unaligned_weights);
    RUN(linear_n);
    RUN_FEW_BITS(linear_n);
    RUN_INT8(linear_n);
    RUN_CPU(linear_n_bits);
    if (dut->backend->precision == WAN_PRECISION_F32)
        RUN_CPU(linear_own_products);
    RUN_CPU(q8_0_shapes);
    RUN_INT8(q8_0_shapes);
    RUN_CPU(q8_0_beside_others);
    RUN_INT8(q8_0_beside_others);
    RUN_CPU(q8_0_special);
    RUN_INT8(q8_0_special);
    if (dut->backend->precision == WAN_PRECISION_INT8) {
        RUN(products_in_8_bits);
        RUN(products_of_blocks);
        RUN(q8_0_is_exact);
        RUN(q8_0_beside_columns);
        RUN(columns_with_outliers);
    }
    RUN_CPU(linear_rows);
    RUN_CPU(linear_threads);
    RUN_CPU(linear_special);
    RUN_CPU(linear_denormal);
    RUN_INT8(linear_threads);
    RUN_INT8(linear_rows);
    RUN_INT8(linear_special);
    RUN_INT8(linear_denormal);
}
