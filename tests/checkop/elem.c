/*
 * Tests of the elementwise ops, and of the functions they are made of.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "../../wan/cpu/simd.h"

static const int64_t elem_rows[] = { 1, 7, 129 }, elem_cols[] = { 1, 24, 515 };

/* e^x over all it accepts, in units of the last place. */
TEST(expf_accuracy)
{
    double worst = 0;
    float at = 0;

    for (int i = -87 * 1024; i <= 88 * 1024; i++) {
        const float x = i / 1024.0f, y = wan_expf(x);
        const double want = exp((double)x);
        const double e = fabs(y - want) / want * 0x1p24;

        if (!(e <= worst)) {
            worst = e;
            at = x;
        }
    }
    CHECKF(worst <= 3, "%.2f units at %g", worst, at);
    CHECK(wan_expf(0) == 1);
    CHECK(isnan(wan_expf(NAN)));
    CHECK(wan_expf(-INFINITY) >= 0 && wan_expf(-INFINITY) < 2e-38f);
    CHECK(isfinite(wan_expf(INFINITY)) && wan_expf(INFINITY) > 1e38f);
}

/* Activations against libm in double: within some units of the last place of
 * the result or, down the tail, where rounding x moves the result by more, of
 * a hundredth of x. */
TEST(activation_accuracy)
{
    static const char *const name[] = { "silu", "gelu_tanh", "gelu_erf" };

    for (int act = 0; act < 3; act++) {
        double worst = 0;
        float at = 0;

        for (int i = -50000; i <= 50000; i++) {
            const float x = i * 4e-4f;
            const float y = act == 0 ? wan_siluf(x) :
                            act == 1 ? wan_gelu_tanhf(x) : wan_gelu_erff(x);
            const double u = sqrt(2 / M_PI) *
                             (x + 0.044715 * (double)x * x * x);
            const double want = act == 0 ? x / (1 + exp(-(double)x)) :
                                act == 1 ? x / (1 + exp(-2 * u)) :
                                0.5 * x * erfc(-x / sqrt(2));
            const double e = fabs(y - want) / (fabs(want) + 0.01 * fabs(x) +
                                               1e-30) * 0x1p24;

            if (!(e <= worst)) {
                worst = e;
                at = x;
            }
        }
        CHECKF(worst <= 8, "%s: %.2f units at %g", name[act], worst, at);
    }
    for (int act = WAN_ACT_SILU; act <= WAN_ACT_GELU_ERF; act++) {
        static const float in[] = { NAN, 1e30f, -1e30f, INFINITY, 0 };
        Pair x = pair_out(0, 1, 5), y = pair_out(0, 1, 5);

        memcpy(x.dut.data, in, sizeof(in));
        wan_op_act(dut, &y.dut, &x.dut, act);
        dut_done();
        const float *v = y.dut.data;
        CHECKF(isnan(v[0]) && v[1] == 1e30f && v[2] <= 0 && v[2] > -1e-6f &&
               v[3] == INFINITY && v[4] == 0, "%d: %g %g %g %g %g", act, v[0],
               v[1], v[2], v[3], v[4]);
        pair_free(&x), pair_free(&y);
    }
}

/* Those that are not of the kind of SiLU. */
TEST(clamping_activations)
{
    static const float in[] = { NAN, 1e30f, -1e30f, INFINITY, -INFINITY, 0,
                                1e-6f, -0.5f };
    enum { N = COUNT(in) };
    Pair x = pair_out(0, 1, N), y = pair_out(0, 1, N);
    const float *v = y.dut.data;

    memcpy(x.dut.data, in, sizeof(in));
    wan_op_act(dut, &y.dut, &x.dut, WAN_ACT_RELU);
    dut_done();
    CHECK(isnan(v[0]));
    for (int i = 1; i < N; i++)
        CHECK(v[i] == (in[i] > 0 ? in[i] : 0));
    wan_op_act(dut, &y.dut, &x.dut, WAN_ACT_TANH3);
    dut_done();
    CHECK(isnan(v[0]));
    for (int i = 1; i < N; i++)
        CHECK(fabs(v[i] - 3 * tanh(in[i] / 3.)) <= 3e-7 * fabs(v[i]));
    pair_free(&x), pair_free(&y);
}

TEST(elementwise)
{
    for (int i = 0; i < COUNT(elem_rows); i++)
        for (int j = 0; j < COUNT(elem_cols); j++)
            for (int k = 0; k < 12; k++) {
                const int64_t L = elem_rows[i], C = elem_cols[j];
                const int place = k & 1;        // y is one of the inputs
                Pair a = pair_random(3, L, C), b = pair_random(0, L, C);
                Pair y = k >= 8 ? pair_random(i, L, C) : pair_out(i, L, C);
                Pair g = pair_random(0, C);
                Pair *out = place && k < 8 ? &a : &y;

                for (int n = 0; n < 2; n++) {
                    WanDev *d = n ? dut : ref;
                    WanTensor *ya = n ? &out->dut : &out->ref;
                    const WanTensor *xa = n ? &a.dut : &a.ref;
                    const WanTensor *xb = n ? &b.dut : &b.ref;
                    const WanTensor *xg = n ? &g.dut : &g.ref;

                    if (k < 4)
                        wan_op_act(d, ya, xa, (WanAct)(k < 2 || (i + j) % 2
                                                       ? k : k + 2));
                    else if (k < 6)
                        wan_op_mul(d, ya, xa, xb);
                    else if (k < 8)
                        wan_op_geglu(d, ya, xa, xb);
                    else if (k < 10)
                        wan_op_gate_add(d, ya, xa, place ? xg : NULL);
                    else if (k == 10)
                        wan_op_copy(d, ya, xa);
                    else
                        wan_op_fill(d, ya, 0.25f);
                }
                expect_close(out, 3e-7, "op %d [%d,%d]", k, (int)L, (int)C);
                pair_free(&a), pair_free(&b), pair_free(&y), pair_free(&g);
            }
}

TEST(gate_add_values)
{
    Pair x = pair_random(1, 5, 7), y = pair_random(2, 5, 7);
    Pair g = pair_random(0, 7);
    float want[35];

    for (int i = 0; i < 35; i++)
        want[i] = wan_row(&y.ref, i / 7)[i % 7] +
                  wan_row(&x.ref, i / 7)[i % 7] * wan_row(&g.ref, 0)[i % 7];
    wan_op_gate_add(ref, &y.ref, &x.ref, &g.ref);
    wan_op_gate_add(dut, &y.dut, &x.dut, &g.dut);
    dut_done();
    for (int i = 0; i < 35; i++) {
        CHECK(fabsf(wan_row(&y.ref, i / 7)[i % 7] - want[i]) < 1e-6f);
        CHECK(fabsf(wan_row(&y.dut, i / 7)[i % 7] - want[i]) < 1e-6f);
    }
    pair_free(&x), pair_free(&y), pair_free(&g);
}

TEST(lincomb)
{
    static const double coef[] = { 0.5, -2, 1e-3, 3, 0.25, 1 };

    for (int n = 1; n <= 6; n++) {
        Pair x[6], y = pair_out(0, 3, 41);
        const WanTensor *in[6];

        for (int i = 0; i < n; i++) {
            x[i] = pair_random(0, 3, 41);
            in[i] = &x[i].dut;
        }
        for (int i = 0; i < 123; i++) {
            double s = 0;

            for (int k = 0; k < n; k++)
                s += coef[k] * ((float *)x[k].ref.data)[i];
            ((float *)y.ref.data)[i] = (float)s;
        }
        /* onto the last of its inputs */
        WanTensor *out = n > 3 ? &x[n - 1].dut : &y.dut;
        wan_op_lincomb(dut, out, n, coef, in);
        if (out != &y.dut)
            wan_op_copy(dut, &y.dut, out);
        expect_close(&y, 1e-12, "of %d", n);
        for (int i = 0; i < n; i++)
            pair_free(&x[i]);
        pair_free(&y);
    }
}

/* f32 on any device, as what is measured is. */
TEST(row_norm)
{
    for (int k = 0; k < 3 * 3 * 4; k++) {
        const int64_t L = elem_rows[k % 3], C = elem_cols[k / 3 % 3];
        const int p = 1 + k / 9 % 2, two = k / 18;
        Pair a = pair_random(3, L, C), b = pair_random(1, L, C);
        Pair y = pair_out(0, L);

        wan_op_row_norm(ref, &y.ref, &a.ref, two ? &b.ref : NULL, p);
        wan_op_row_norm(dut, &y.dut, &a.dut, two ? &b.dut : NULL, p);
        expect_close(&y, tolerance(C), "%d of [%d,%d], b %d", p, (int)L,
                     (int)C, two);
        for (int64_t i = 0; i < L; i++) {
            double sum = 0;

            for (int64_t c = 0; c < C; c++) {
                const double u = wan_row(&a.ref, i)[c] -
                                 (two ? (double)wan_row(&b.ref, i)[c] : 0);

                sum += p == 1 ? fabs(u) : u * u;
            }
            CHECK(((float *)y.ref.data)[i] == (float)(p == 1 ? sum : sqrt(sum)));
        }
        pair_free(&a), pair_free(&b), pair_free(&y);
    }
}

TEST(finite)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };

    for (int i = 0; i < COUNT(bad); i++) {
        WanDev *d;
        Pair x = pair_random(4, 3, 50);     // the padding is NaN

        if (!CHECK(wan_dev_open(&d, "cpu", 1, 4096, NULL) == 0))
            return;
        wan_op_finite(d, &x.dut, "step %d: latent", 3);
        CHECK(!wan_dev_error(d));
        wan_row(&x.dut, 2)[49] = bad[i];
        wan_op_finite(d, &x.dut, "step %d: latent", 3);
        CHECK(wan_dev_error(d) == WAN_ERR(EDOM));
        CHECKF(!strcmp(d->message, "step 3: latent is not finite"), "%s",
               d->message);
        wan_dev_close(&d);
        pair_free(&x);
    }
}

static void test_elem(void)
{
    RUN(expf_accuracy);
    RUN_F32(activation_accuracy);
    RUN(clamping_activations);
    RUN(elementwise);
    RUN_F32(gate_add_values);
    RUN_F32(lincomb);
    RUN_F32(row_norm);
    RUN_CPU(finite);
}
