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

static void test_norm(void)
{
    RUN(norms);
    RUN(norms_of_odd_numbers);
}
