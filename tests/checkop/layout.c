/*
 * Tests of the ops that only move numbers.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

TEST(patchify)
{
    const int64_t I = 5, T = 3, H = 4, W = 10, L = T * H / 2 * W / 2;
    Pair x = pair_random(0, I, T, H, W), y = pair_out(3, L, I * 4);
    const float *in = x.ref.data;
    int bad = 0;

    wan_op_patchify(ref, &y.ref, &x.ref, 2);
    wan_op_patchify(dut, &y.dut, &x.dut, 2);
    for (int64_t l = 0; l < L; l++)
        for (int64_t k = 0; k < I * 4; k++) {
            const int64_t t = l / (H / 2 * W / 2), i = l / (W / 2) % (H / 2);
            const int64_t j = l % (W / 2), c = k / 4, q = k / 2 % 2, r = k % 2;

            bad += wan_row(&y.ref, l)[k] !=
                   in[((c * T + t) * H + 2 * i + q) * W + 2 * j + r];
        }
    CHECKF(!bad, "%d wrong", bad);
    expect_close(&y, 1e-30, "patchify");
    pair_free(&x), pair_free(&y);
}

TEST(unpatchify)
{
    const int64_t O = 5, T = 3, H = 4, W = 10, L = T * H / 2 * W / 2;
    Pair z = pair_random(3, L, O * 4), x = pair_out(0, O, T, H, W);
    const float *out = x.ref.data;
    int bad = 0;

    wan_op_unpatchify(ref, &x.ref, &z.ref);
    wan_op_unpatchify(dut, &x.dut, &z.dut);
    for (int64_t l = 0; l < L; l++)
        for (int64_t k = 0; k < O * 4; k++) {
            const int64_t t = l / (H / 2 * W / 2), i = l / (W / 2) % (H / 2);
            const int64_t j = l % (W / 2), c = k % O, q = k / O / 2;
            const int64_t r = k / O % 2;

            bad += wan_row(&z.ref, l)[k] !=
                   out[((c * T + t) * H + 2 * i + q) * W + 2 * j + r];
        }
    CHECKF(!bad, "%d wrong", bad);
    expect_close(&x, 1e-30, "unpatchify");
    pair_free(&x), pair_free(&z);
}

TEST(channels_last)
{
    Pair x = pair_random(0, 16, 5, 3, 7), y = pair_out(0, 2, 3, 7, 16);
    Pair a = pair_random(0, 16), b = pair_random(0, 16);
    const float *in = x.ref.data, *out = y.ref.data;
    double worst = 0;

    wan_op_channels_last(ref, &y.ref, &x.ref, 3, &a.ref, &b.ref);
    wan_op_channels_last(dut, &y.dut, &x.dut, 3, &a.dut, &b.dut);
    for (int64_t c = 0; c < 16; c++)
        for (int64_t t = 0; t < 2; t++)
            for (int64_t p = 0; p < 21; p++) {
                const double want = in[(c * 5 + 3 + t) * 21 + p] *
                                    (double)wan_row(&a.ref, 0)[c] +
                                    wan_row(&b.ref, 0)[c];

                worst = fmax(worst, fabs(out[(t * 21 + p) * 16 + c] - want));
            }
    CHECKF(worst < 1e-6, "%g", worst);
    expect_close(&y, 1e-7, "channels_last");
    pair_free(&x), pair_free(&y), pair_free(&a), pair_free(&b);
}

TEST(embed)
{
    static const WanType type[] = { WAN_F32, WAN_F16, WAN_BF16, WAN_F8_E5M2 };
    static const int32_t ids[] = { 3, 0, 99, 3, 50 };

    for (int k = 0; k < COUNT(type); k++) {
        WanTensor table = weight_random(type[k], 1, 100, 33);
        Pair y = pair_out(2, 5, 33);
        int bad = 0;

        wan_op_embed(ref, &y.ref, &table, ids);
        wan_op_embed(dut, &y.dut, &table, ids);
        for (int i = 0; i < 5; i++)
            for (int c = 0; c < 33; c++)
                bad += wan_row(&y.ref, i)[c] !=
                       (float)weight_value(&table, ids[i] * 33 + c);
        CHECKF(!bad, "%s: %d wrong", wan_type_name(type[k]), bad);
        expect_close(&y, 1e-30, "embed");
        free(table.data);
        pair_free(&y);
    }
}

TEST(transfers)
{
    Pair y = pair_out(0, 7, 9);
    float host[63], back[64];

    for (int i = 0; i < 63; i++)
        host[i] = random_normal();
    back[63] = -1;
    wan_op_upload(ref, &y.ref, host);
    wan_op_upload(dut, &y.dut, host);
    expect_close(&y, 1e-30, "upload");
    wan_op_download(dut, back, &y.dut);
    CHECK(!memcmp(host, back, sizeof(host)) && back[63] == -1);
    pair_free(&y);
}

TEST(noise)
{
    for (int rng = WAN_RNG_CUDA; rng <= WAN_RNG_CPU; rng++) {
        Pair y = pair_out(0, 16, 3, 5, 7);

        wan_op_noise(ref, &y.ref, (enum WanRng)rng, 42, 270336);
        wan_op_noise(dut, &y.dut, (enum WanRng)rng, 42, 270336);
        expect_close(&y, 1e-30, "noise");
        pair_free(&y);
    }
}

static void test_layout(void)
{
    RUN(patchify);
    RUN(unpatchify);
    RUN(channels_last);
    RUN(embed);
    RUN(transfers);
    RUN(noise);
}
