/*
 * Tests of the norms.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

static const int64_t norm_rows[] = { 1, 7, 127 };
static const int64_t norm_cols[] = { 1, 24, 48, 96, 130, 1536 };

enum { NORM_LN, NORM_AFFINE, NORM_MODULATE, NORM_RMS, NORM_L2, NORM_L2_SILU,
       NORM_KINDS };

static void norm_op(WanDev *d, int kind, WanTensor *y, const WanTensor *x,
                    const WanTensor *g, const WanTensor *b)
{
    switch (kind) {
    case NORM_LN:
        wan_op_layer_norm(d, y, x, NULL, NULL, 1e-6f);
        break;
    case NORM_AFFINE:
        wan_op_layer_norm(d, y, x, g, b, 1e-5f);
        break;
    case NORM_MODULATE:
        wan_op_modulate(d, y, x, b, g, 1e-6f);
        break;
    case NORM_RMS:
        wan_op_rms_norm(d, y, x, g, 1e-6f);
        break;
    default:
        wan_op_l2_norm(d, y, x, g,
                       kind == NORM_L2 ? WAN_ACT_NONE : WAN_ACT_SILU);
    }
}

/* One element, in moments about zero in long double, unlike the backends. */
static double norm_double(int kind, const float *x, int64_t C, int64_t c,
                          float g, float b)
{
    long double s = 0, ss = 0, var;

    for (int64_t i = 0; i < C; i++) {
        s += x[i];
        ss += (long double)x[i] * x[i];
    }
    var = ss / C - s / C * (s / C);
    var = var > 0 ? var : 0;
    if (kind <= NORM_MODULATE) {
        const double eps = kind == NORM_AFFINE ? 1e-5f : 1e-6f;
        const double n = (x[c] - s / C) / sqrtl(var + eps);

        return kind == NORM_LN ? n :
               kind == NORM_AFFINE ? n * g + b : n * (1.0 + g) + b;
    }
    if (kind == NORM_RMS)
        return x[c] / sqrtl(ss / C + 1e-6f) * g;
    const double n = x[c] / fmaxl(sqrtl(ss), 1e-12L) * sqrtl(C) * g;
    return kind == NORM_L2 ? n : n / (1 + exp(-n));
}

static void norm_case(int kind, int64_t rows, int64_t cols, double scale,
                      double shift, int in_place, double tol)
{
    const int64_t extra = rows % 3 * 4;
    Pair x = pair_fill(pair_out(extra, rows, cols), scale, shift);
    Pair y = pair_out(extra + in_place, rows, cols);
    Pair g = pair_random(0, cols), b = pair_random(0, cols);
    Pair *out = in_place ? &x : &y;
    double *want = malloc(rows * cols * sizeof(*want)), err = 0, sum = 0;

    for (int64_t i = 0; i < rows * cols; i++)
        want[i] = norm_double(kind, wan_row(&x.ref, i / cols), cols, i % cols,
                              wan_row(&g.ref, 0)[i % cols],
                              wan_row(&b.ref, 0)[i % cols]);
    norm_op(ref, kind, &out->ref, &x.ref, &g.ref, &b.ref);
    norm_op(dut, kind, &out->dut, &x.dut, &g.dut, &b.dut);
    for (int64_t i = 0; i < rows * cols; i++) {
        const double e = wan_row(&out->ref, i / cols)[i % cols] - want[i];

        err += e * e;
        sum += want[i] * want[i];
    }
    CHECKF(sqrt(err) <= sqrt(sum) * 0x1p-23, "ref: kind %d, %g", kind,
           sqrt(err / sum));
    expect_close(out, tol, "kind %d [%d,%d] in place %d", kind, (int)rows,
                 (int)cols, in_place);
    free(want);
    pair_free(&x), pair_free(&y), pair_free(&g), pair_free(&b);
}

TEST(norms)
{
    for (int kind = 0; kind < NORM_KINDS; kind++)
        for (int i = 0; i < COUNT(norm_rows); i++)
            for (int j = 0; j < COUNT(norm_cols); j++)
                norm_case(kind, norm_rows[i], norm_cols[j], 1, 0.5, i & 1,
                          2e-7);
}

/* A mean far from zero; numbers near the ends of the range; zeros. */
TEST(norms_of_odd_numbers)
{
    for (int kind = 0; kind < NORM_KINDS; kind++) {
        norm_case(kind, 7, 96, 1, 1000, 0, 3e-7);
        norm_case(kind, 7, 96, 1e15, 0, 0, 2e-7);
        norm_case(kind, 7, 96, 1e-15, 0, 0, 2e-7);
        norm_case(kind, 7, 96, 0, 0, 0, 2e-7);
    }
}

/* x += gate branch, y = norm(x), against loops written once more: x is the sum
 * rounded once, y the norm of that. */
static void gate_add_norm_case(int kind, int gated, int f32, int in_place,
                               int64_t rows, int64_t cols)
{
    const int64_t extra = rows % 3 * 4;
    const WanType act = dut_act;

    dut_act = f32 ? WAN_F32 : act;          // a residual stream, or the rest
    Pair x = pair_random(extra, rows, cols);
    dut_act = act;
    Pair b = pair_random(extra + 4, rows, cols);
    Pair y = pair_out(extra, rows, cols), *out = in_place ? &b : &y;
    Pair g = pair_random(0, cols), s = pair_random(0, cols);
    Pair h = pair_random(0, cols);
    const int affine = kind != NORM_LN;
    float *sum = malloc(rows * cols * sizeof(*sum));
    double err = 0, all = 0;
    int wrong = 0;

    for (int64_t i = 0; i < rows * cols; i++)
        sum[i] = wan_row(&x.ref, i / cols)[i % cols] +
                 (gated ? (double)wan_row(&g.ref, 0)[i % cols] : 1) *
                 wan_row(&b.ref, i / cols)[i % cols];
    for (int k = 0; k < 2; k++) {
        WanDev *d = k ? dut : ref;
        WanTensor *to = k ? &out->dut : &out->ref;
        WanTensor *stream = k ? &x.dut : &x.ref;
        const WanTensor *branch = k ? &b.dut : &b.ref;
        const WanTensor *gate = !gated ? NULL : k ? &g.dut : &g.ref;
        const WanTensor *gain = !affine ? NULL : k ? &s.dut : &s.ref;
        const WanTensor *bias = !affine ? NULL : k ? &h.dut : &h.ref;

        if (kind == NORM_MODULATE)
            wan_op_gate_add_modulate(d, to, stream, branch, gate, bias, gain,
                                     1e-6f);
        else
            wan_op_gate_add_norm(d, to, stream, branch, gate, gain, bias,
                                 kind == NORM_AFFINE ? 1e-5f : 1e-6f);
    }
    for (int64_t i = 0; i < rows * cols; i++) {
        const double want = norm_double(kind, sum + i / cols * cols, cols,
                                        i % cols,
                                        wan_row(&s.ref, 0)[i % cols],
                                        wan_row(&h.ref, 0)[i % cols]);
        const double e = wan_row(&out->ref, i / cols)[i % cols] - want;

        wrong += wan_row(&x.ref, i / cols)[i % cols] != sum[i];
        err += e * e;
        all += want * want;
    }
    CHECKF(!wrong && sqrt(err) <= sqrt(all) * 0x1p-23, "ref: kind %d gate %d, "
           "%d of x, %g", kind, gated, wrong, sqrt(err / all));
    expect_close(&x, 2e-7, "x: kind %d gate %d [%d,%d]", kind, gated,
                 (int)rows, (int)cols);
    expect_close(out, 3e-7, "y: kind %d gate %d f32 %d in place %d [%d,%d]",
                 kind, gated, f32, in_place, (int)rows, (int)cols);
    free(sum);
    pair_free(&x), pair_free(&b), pair_free(&y);
    pair_free(&g), pair_free(&s), pair_free(&h);
}

TEST(gate_add_norms)
{
    for (int k = 0; k < 3 * 8; k += 1 + UNDER_SANITIZERS * 4)
        for (int i = 0; i < COUNT(norm_rows); i++)
            for (int j = 0; j < COUNT(norm_cols); j++)
                gate_add_norm_case(k / 8, k & 1, k >> 1 & 1, k >> 2 & 1,
                                   norm_rows[i], norm_cols[j]);
}

static void test_norm(void)
{
    RUN(norms);
    RUN(norms_of_odd_numbers);
    RUN(gate_add_norms);
}
