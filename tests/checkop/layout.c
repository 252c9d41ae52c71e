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

TEST(channels_first)
{
    /* Frames 1 and 2 of 4 are written, from 16 of 21 channels. */
    Pair x = pair_random(0, 2, 3, 7, 21), y = pair_random(0, 16, 4, 3, 7);
    Pair a = pair_random(0, 16), b = pair_random(0, 16);
    float *out = y.ref.data, before[16 * 4 * 21];
    double worst = 0;
    int touched = 0;

    memcpy(before, out, sizeof(before));
    wan_op_channels_first(ref, &y.ref, 1, &x.ref, &a.ref, &b.ref);
    wan_op_channels_first(dut, &y.dut, 1, &x.dut, &a.dut, &b.dut);
    for (int64_t c = 0; c < 16; c++)
        for (int64_t t = 0; t < 4; t++)
            for (int64_t p = 0; p < 21; p++) {
                const int64_t i = (c * 4 + t) * 21 + p;

                if (t < 1 || t > 2) {
                    touched += out[i] != before[i];
                    continue;
                }
                const double want = wan_row(&x.ref, (t - 1) * 21 + p)[c] *
                                    (double)wan_row(&a.ref, 0)[c] +
                                    wan_row(&b.ref, 0)[c];
                worst = fmax(worst, fabs(out[i] - want));
            }
    CHECKF(worst < 1e-6 && !touched, "%g, %d", worst, touched);
    expect_close(&y, 1e-7, "channels_first");
    pair_free(&x), pair_free(&y), pair_free(&a), pair_free(&b);
}

/* Shapes of a fold: positions of the small side, channels of the large one and
 * of the small one, frames in front. */
static const struct {
    int T, H, W, a, b, lead;
    WanFold fold;
} folds[] = {
    { 3, 2, 5, 3, 12, 0, { .t = 1, .s = 2, .columns_first = 1 } },
    { 2, 3, 1, 6, 6, 0, { .t = 1, .s = 2 } },
    { 1, 2, 3, 5, 10, 1, { .t = 2, .s = 2 } },
    { 2, 2, 3, 5, 10, 0, { .t = 2, .s = 2, .add = 1 } },
    { 3, 1, 2, 7, 7, 1, { .t = 2, .s = 2, .add = 1 } },
    { 2, 3, 4, 40, 10, 0, { .t = 1, .s = 3 } },
};

/* Element of many [t T - lead, s H, s W, C] that is element e of position
 * (t, i, j), -1: it lies in front. */
static int64_t unfolded(int k, int t, int i, int j, int64_t e)
{
    const WanFold f = folds[k].fold;
    const int64_t K = f.t * f.s * f.s, c = e / K, part = e % K;
    const int64_t dt = part / (f.s * f.s);
    const int64_t dh = f.columns_first ? part % f.s : part / f.s % f.s;
    const int64_t dw = f.columns_first ? part / f.s % f.s : part % f.s;
    const int64_t frame = t * f.t + dt - folds[k].lead;

    return frame < 0 ? -1 :
           ((frame * folds[k].H * f.s + i * f.s + dh) * folds[k].W * f.s +
            j * f.s + dw) * folds[k].a + c;
}

/* Both ways; with .add onto what is there. */
TEST(fold)
{
    for (int k = 0; k < COUNT(folds); k++) {
        const WanFold f = folds[k].fold;
        const int T = folds[k].T, H = folds[k].H, W = folds[k].W;
        const int a = folds[k].a, b = folds[k].b, n = a * f.t * f.s * f.s / b;
        Pair many = pair_random(0, T * f.t - folds[k].lead, H * f.s, W * f.s,
                                a);
        Pair few = f.add ? pair_random(0, T, H, W, b)
                         : pair_out(0, T, H, W, b);
        const int64_t N = wan_count(&few.ref);
        double *want = malloc(N * sizeof(*want)), worst = 0;

        for (int64_t p = 0; p < N; p++) {
            const int64_t at = p / b;

            want[p] = f.add ? wan_row(&few.ref, at)[p % b] : 0;
            for (int64_t e = p % b * n; e < (p % b + 1) * n; e++) {
                const int64_t q = unfolded(k, (int)(at / W / H),
                                           (int)(at / W % H), (int)(at % W),
                                           e);

                want[p] += q < 0 ? 0 : ((float *)many.ref.data)[q] / n;
            }
        }
        wan_op_fold_(ref, &few.ref, &many.ref, f);
        wan_op_fold_(dut, &few.dut, &many.dut, f);
        for (int64_t p = 0; p < N; p++)
            worst = fmax(worst, fabs(want[p] - ((float *)few.ref.data)[p]));
        CHECKF(worst < 1e-6, "%d: %g", k, worst);
        expect_close(&few, tolerance(n), "fold %d", k);
        free(want);
        pair_free(&many), pair_free(&few);
    }
}

TEST(unfold)
{
    for (int k = 0; k < COUNT(folds); k++) {
        const WanFold f = folds[k].fold;
        const int T = folds[k].T, H = folds[k].H, W = folds[k].W;
        const int a = folds[k].a, b = folds[k].b, n = a * f.t * f.s * f.s / b;
        Pair few = pair_random(0, T, H, W, b);
        Pair many = f.add
            ? pair_random(0, T * f.t - folds[k].lead, H * f.s, W * f.s, a)
            : pair_out(0, T * f.t - folds[k].lead, H * f.s, W * f.s, a);
        const int64_t N = wan_count(&many.ref);
        float *want = malloc(N * sizeof(*want));
        int bad = 0;

        memcpy(want, many.ref.data, N * sizeof(*want));
        for (int64_t p = 0; p < wan_count(&few.ref) * n; p++) {
            const int64_t at = p / n / b, e = p % ((int64_t)n * b);
            const int64_t q = unfolded(k, (int)(at / W / H),
                                       (int)(at / W % H), (int)(at % W), e);

            if (q >= 0)
                want[q] = wan_row(&few.ref, at)[e / n] +
                          (f.add ? want[q] : 0);
        }
        wan_op_unfold_(ref, &many.ref, &few.ref, f);
        wan_op_unfold_(dut, &many.dut, &few.dut, f);
        for (int64_t p = 0; p < N; p++)
            bad += want[p] != ((float *)many.ref.data)[p];
        CHECKF(!bad, "%d: %d wrong", k, bad);
        expect_close(&many, tolerance(1), "unfold %d", k);
        free(want);
        pair_free(&many), pair_free(&few);
    }
}

/* Weights of the four taps at fraction f, as PyTorch's documentation gives
 * them: a = -0.75. */
static void cubic_weights(double w[4], double f)
{
    const double a = -0.75;

    for (int k = 0; k < 4; k++) {
        const double d = fabs(f - (k - 1));

        w[k] = d <= 1 ? (a + 2) * d * d * d - (a + 3) * d * d + 1
                      : a * d * d * d - 5 * a * d * d + 8 * a * d - 4 * a;
    }
}

TEST(resize)
{
    static const int size[][4] = {      // h, w -> H, W
        { 5, 7, 11, 3 }, { 1, 1, 4, 4 }, { 9, 9, 9, 9 }, { 33, 2, 16, 31 },
        { 40, 60, 224, 224 },
    };

    for (int k = 0; k < COUNT(size); k++) {
        const int h = size[k][0], w = size[k][1], H = size[k][2];
        const int W = size[k][3];
        Pair x = pair_random(0, 3, h, w), y = pair_out(0, 3, H, W);
        double worst = 0;

        wan_op_resize(ref, &y.ref, &x.ref);
        wan_op_resize(dut, &y.dut, &x.dut);
        for (int c = 0; c < 3; c++)
            for (int i = 0; i < H; i++)
                for (int j = 0; j < W; j++) {
                    const double si = (i + 0.5) * h / H - 0.5;
                    const double sj = (j + 0.5) * w / W - 0.5;
                    double wi[4], wj[4], want = 0;

                    cubic_weights(wi, si - floor(si));
                    cubic_weights(wj, sj - floor(sj));
                    for (int p = 0; p < 4; p++)
                        for (int q = 0; q < 4; q++) {
                            const int a = (int)fmin(fmax(floor(si) + p - 1, 0),
                                                    h - 1);
                            const int b = (int)fmin(fmax(floor(sj) + q - 1, 0),
                                                    w - 1);
                            want += wi[p] * wj[q] *
                                    wan_row(&x.ref, c * h + a)[b];
                        }
                    worst = fmax(worst, fabs(wan_row(&y.ref, c * H + i)[j] -
                                             want));
                }
        CHECKF(worst < 1e-6, "%dx%d to %dx%d: %g", w, h, W, H, worst);
        expect_close(&y, 1e-6, "resize");
        pair_free(&x), pair_free(&y);
    }
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
        /* a card's fast sine is off by 2^-21 */
        expect_close(&y, rng == WAN_RNG_CUDA && dut->backend->device ? 1e-6
                                                                     : 1e-30,
                     "noise");
        pair_free(&y);
    }
}

/* Drawn frame by frame: the same numbers in other places. */
TEST(noise_by_frames)
{
    const int C = 16, f = 3, hw = 5 * 7, n = C * f * hw;
    WanNoise second = { .rng = WAN_RNG_CPU, .seed = 42 };
    Pair plain = pair_out(0, f, C, 5, 7), y = pair_out(0, C, f, 5, 7);
    const float *want = plain.ref.data, *got = y.ref.data;
    int bad = 0;

    second.skip = wan_noise_used(&second, n);
    wan_op_draw(ref, &plain.ref, &second);
    second.frame_major = 1;
    wan_op_draw(ref, &y.ref, &second);
    wan_op_draw(dut, &y.dut, &second);
    expect_close(&y, 1e-30, "noise by frames");
    for (int i = 0; i < n; i++)
        bad += got[i] != want[(i / hw % f * C + i / hw / f) * hw + i % hw];
    CHECKF(!bad, "%d in the wrong place", bad);
    pair_free(&plain);
    pair_free(&y);
}

static void test_layout(void)
{
    RUN(patchify);
    RUN(unpatchify);
    RUN(channels_last);
    RUN(channels_first);
    RUN(fold);
    RUN(unfold);
    RUN_F32(resize);
    RUN(embed);
    RUN_F32(transfers);
    RUN_F32(noise);
    RUN_F32(noise_by_frames);
}
