/*
 * flash.cu on the host, against sums in double.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Every case runs with threads in three orders and with asynchronous copies
 * that arrive at once, at the wait, or at either: the results must be the
 * same bits. Outputs begin as a pattern that must be gone from the view and
 * be untouched beside it.
 */

#include "matrix.h"
#include "own.h"

/* A test case names what is not zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

/* ---------------------------------------------------------------- cases */

struct Case {
    int64_t lq, lk;
    int heads, size;
    int64_t extra;              // between the rows of all
    WanType type;
    int variant;                // -1: the F32 kernel
    double spread;              // of the queries
    int64_t tail;
    bool add, in_place, bias;
    double scale;               // 0: 1 / sqrt(size)
};

static const char *name(const Case &c)
{
    static char s[160];

    snprintf(s, sizeof(s), "%dx%d, %d heads of %d, %s variant %d tail %d "
             "add %d in place %d bias %d", (int)c.lq, (int)c.lk, c.heads,
             c.size, wan_type_name(c.type), c.variant, (int)c.tail, c.add,
             c.in_place, c.bias);
    return s;
}

/* As the model's authors compute it. */
static int t5_bucket(int64_t delta)
{
    const int64_t n = delta < 0 ? -delta : delta;
    int b = (int)n;

    if (n >= 8) {
        b = 8 + (int)(log(n / 8.0) / log(128 / 8.0) * 8 + 1e-9);
        b = b > 15 ? 15 : b;
    }
    return b + (delta > 0 ? 16 : 0);
}

static double run_case(const Case &c)
{
    const int64_t C = c.heads * c.size;
    const float scale = (float)(c.scale ? c.scale : 1 / sqrt((double)c.size));
    std::vector<double> want(c.lq * C);
    std::vector<float> bias(32 * c.heads);
    std::vector<char> first;
    double error = 0, sum = 0;
    const uint64_t start = test_seed;

    for (int order = 0; order < 3; order++) {
        test_seed = start;
        Matrix q(c.type, c.lq, C, c.extra, c.spread ? c.spread : 1);
        Matrix k(c.type, c.lk, C, c.extra, 1), v(c.type, c.lk, C, c.extra, 1);
        Matrix other(c.type, c.lq, C, c.extra, c.add ? 1 : 0);
        Matrix &y = c.in_place ? q : other;

        for (float &b : bias)
            b = random_normal();
        for (int64_t i = 0; i < c.lq && !order; i++)
            for (int h = 0; h < c.heads; h++) {
                std::vector<double> p(c.lk);
                double total = 0, max = -1e300;

                for (int64_t j = 0; j < c.lk; j++) {
                    double s = 0;
                    for (int e = 0; e < c.size; e++)
                        s += q.value[i * C + h * c.size + e] *
                             k.value[j * C + h * c.size + e];
                    p[j] = s * scale;
                    if (c.bias)
                        p[j] += bias[t5_bucket(j - i) * c.heads + h];
                    if (c.tail > 1 && j == c.lk - 1)
                        p[j] += log((double)c.tail);
                    max = fmax(max, p[j]);
                }
                for (int64_t j = 0; j < c.lk; j++)
                    total += p[j] = exp(p[j] - max);
                for (int e = 0; e < c.size; e++) {
                    double o = 0;
                    for (int64_t j = 0; j < c.lk; j++)
                        o += p[j] * v.value[j * C + h * c.size + e];
                    want[i * C + h * c.size + e] = o / total +
                        (c.add ? y.value[i * C + h * c.size + e] : 0);
                }
            }

        const WanOwnAttention a = {
            y.data, q.data, k.data, v.data, c.type, c.type, c.type, y.pitch,
            q.pitch, k.pitch, v.pitch, c.lq, c.lk, c.heads, c.size, scale,
            c.tail > 1 ? logf((float)c.tail) : 0, c.bias ? bias.data() : NULL,
            c.add,
        };
        emu_order = (EmuOrder)order;
        emu_copies = (EmuCopies)order;
        if (c.variant < 0) {
            wan_attention_f32(&a, NULL);
        } else {
            CHECKF(wan_flash_fits(&a), "%s", name(c));
            wan_flash(&a, c.variant, NULL);
        }
        CHECKF(!emu_copies_left(), "%s: copies nobody waits for", name(c));
        CHECKF(y.beside_untouched(), "%s: wrote beside the view", name(c));

        std::vector<char> bytes((char *)y.data, (char *)y.data +
                                ((c.lq - 1) * y.pitch + C) * y.size());
        if (!order) {
            first = bytes;
            for (int64_t i = 0; i < c.lq * C; i++) {
                const double e = y.get(i / C, i % C) - want[i];

                error += e * e;
                sum += want[i] * want[i];
            }
        }
        CHECKF(bytes == first, "%s: another order, other bits", name(c));
    }
    return sqrt(error / sum);
}

static double worst;

static void check(const Case &c)
{
    const double e = run_case(c);
    /* bf16: p, y and, with add, the sum are rounded to 8 bits */
    const double tol = c.type == WAN_F32 ? 2e-6 + 2e-8 * c.spread
                       : c.variant < 0 ? 2.5e-3 : 3e-3;

    worst = e / tol > worst ? e / tol : worst;
    CHECKF(e <= tol, "%s: error %.3g, tolerance %.3g", name(c), e, tol);
}

/* ---------------------------------------------------------------- tests */

TEST(flash_shapes)
{
    static const int size[] = { 64, 80, 96, 128 };
    static const int64_t lk[] = { 1, 63, 64, 65, 130, 257 };

    for (int s = 0; s < 4; s++)
        for (int variant = 0; variant < WAN_FLASH_VARIANTS; variant++)
            for (int k = s % 2; k < 6; k += 2)
                check({ 17 + 30 * k, lk[k], 1 + (k + s) % 2, size[s],
                        k % 2 * 8, WAN_BF16, variant });
}

TEST(flash_options)
{
    for (int variant = 0; variant < WAN_FLASH_VARIANTS; variant++)
        for (int i = 0; i < 4; i++) {
            Case c = { 131, 150, 2, variant ? 80 : 128, 24, WAN_BF16, variant };

            c.tail = i & 1 ? 382 : 0;
            c.add = i & 2;
            c.in_place = i == 1;
            c.scale = i == 1 ? 0.05 : 0;
            check(c);
        }
    for (int variant = 0; variant < WAN_FLASH_VARIANTS; variant++) {
        check({ 5, 1, 1, 64, 0, WAN_BF16, variant, 1, 500 });
        check({ 5, 128, 1, 64, 0, WAN_BF16, variant, 1, 500 });
        check({ 5, 129, 1, 64, 0, WAN_BF16, variant, 1, 500 });
    }
}

/* Scores that rise by up to 500 from key to key, and fall. */
TEST(flash_far_scores)
{
    for (int variant = 0; variant < WAN_FLASH_VARIANTS; variant++)
        check({ 40, 200, 1, 64, 0, WAN_BF16, variant, 60 });
}

TEST(f32_shapes)
{
    static const int size[] = { 2, 24, 64, 128, 130, 256, 384, 512 };

    for (int s = 0; s < 8; s++)
        check({ 1 + 11 * s, 3 + 67 * (s % 3), 1 + s % 2, size[s], s % 3,
                WAN_F32, -1 });
    check({ 65, 129, 2, 24, 1, WAN_F32, -1, 1, 77, false, true });
    check({ 65, 70, 1, 384, 0, WAN_BF16, -1 });
    check({ 65, 70, 1, 40, 0, WAN_F16, -1, 1, 7, true });
    check({ 130, 140, 3, 16, 2, WAN_F32, -1, 1, 0, false, false, true, 1 });
    check({ 3, 200, 1, 16, 0, WAN_F32, -1, 60 });
}

int main()
{
    RUN(flash_shapes);
    RUN(flash_options);
    RUN(flash_far_scores);
    RUN(f32_shapes);
    printf("# worst error %.2f of its tolerance, %lld mma\n", worst,
           (long long)emu_mma_count / 32);
    return test_end();
}
