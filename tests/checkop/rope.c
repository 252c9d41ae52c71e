/*
 * Tests of the rotary embedding.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

static void rope_case(int f, int h, int w, int heads, int p0, int p1, int p2,
                      int64_t extra, int norm)
{
    const int64_t pairs = p0 + p1 + p2, C = 2 * pairs * heads;
    const int64_t L = (int64_t)f * h * w;
    WanRope r = { heads, { f, h, w }, { p0, p1, p2 } };
    Pair x = pair_random(extra, L, C), g = pair_random(0, C);
    double *want = malloc(L * C * sizeof(*want)), err = 0, sum = 0;

    for (int a = 0; a < 3; a++) {
        r.table[a] = weight_random(WAN_F32, 1, r.grid[a], r.pairs[a] * 2);
        for (int64_t pos = 0; pos < r.grid[a]; pos++)
            for (int p = 0; p < r.pairs[a]; p++) {
                const double angle = pos * pow(1e4, -(double)p / r.pairs[a]);

                wan_row(&r.table[a], pos)[2 * p] = (float)cos(angle);
                wan_row(&r.table[a], pos)[2 * p + 1] = (float)sin(angle);
            }
    }
    /* as complex numbers, from the angle itself */
    for (int64_t i = 0; i < L; i++) {
        const int64_t pos[3] = { i / (h * w), i % (h * w) / w, i % w };
        double ss = 0, scale = 1;

        for (int64_t c = 0; c < C; c++)
            ss += (double)wan_row(&x.ref, i)[c] * wan_row(&x.ref, i)[c];
        if (norm)
            scale = 1 / sqrt(ss / C + 1e-6);
        for (int64_t p = 0; p < C / 2; p++) {
            const int64_t in = p % pairs;
            const int a = in < p0 ? 0 : in < p0 + p1 ? 1 : 2;
            const int64_t j = in - (a > 0 ? p0 : 0) - (a > 1 ? p1 : 0);
            const double angle = pos[a] * pow(1e4, -(double)j / r.pairs[a]);
            const float *v = wan_row(&x.ref, i) + 2 * p;
            const float *gain = wan_row(&g.ref, 0) + 2 * p;
            const double re = v[0] * scale * (norm ? gain[0] : 1);
            const double im = v[1] * scale * (norm ? gain[1] : 1);

            want[i * C + 2 * p]     = re * cos(angle) - im * sin(angle);
            want[i * C + 2 * p + 1] = re * sin(angle) + im * cos(angle);
        }
    }
    if (norm) {
        wan_op_rms_norm_rope(ref, &x.ref, &g.ref, 1e-6f, &r);
        wan_op_rms_norm_rope(dut, &x.dut, &g.dut, 1e-6f, &r);
    } else {
        wan_op_rope(ref, &x.ref, &r);
        wan_op_rope(dut, &x.dut, &r);
    }
    for (int64_t i = 0; i < L * C; i++) {
        const double e = wan_row(&x.ref, i / C)[i % C] - want[i];

        err += e * e;
        sum += want[i] * want[i];
    }
    CHECKF(sqrt(err) <= 2e-7 * sqrt(sum), "ref: %g", sqrt(err / sum));
    expect_close(&x, 2e-7, "%dx%dx%d, %d heads, pairs %d %d %d, norm %d", f,
                 h, w, heads, p0, p1, p2, norm);
    for (int a = 0; a < 3; a++)
        free(r.table[a].data);
    free(want);
    pair_free(&x), pair_free(&g);
}

TEST(rope_grids)
{
    for (int norm = 0; norm < 2; norm++) {
        rope_case(1, 1, 1, 1, 22, 21, 21, 0, norm);
        rope_case(3, 5, 7, 2, 22, 21, 21, 5, norm);
        rope_case(2, 3, 4, 3, 4, 4, 4, 1, norm);
        rope_case(4, 1, 9, 5, 8, 8, 8, 0, norm);
        rope_case(1, 13, 2, 1, 3, 1, 1, 2, norm);
    }
}

static void test_rope(void)
{
    RUN(rope_grids);
}
