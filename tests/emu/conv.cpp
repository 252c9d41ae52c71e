/*
 * conv_own.cu on the host, against sums in double.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * As in attention.cpp: three orders of threads and of asynchronous copies, the
 * same bits from all.
 */

#include "matrix.h"
#include "own.h"

/* A test case names what is not zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

struct Case {
    WanType type;
    bool mma;
    int64_t t, h, w, in, out;   // t, h, w of the input
    int kt, k, stride_t, stride, up;
    bool add;
    WanType y_type;             // F32 or as x
    bool centre;
};

static const char *name(const Case &c)
{
    static char s[160];

    snprintf(s, sizeof(s), "%s %s [%d,%d,%d,%d] to %d, %dx%dx%d stride %d %d "
             "up %d add %d y %s", wan_type_name(c.type), c.mma ? "mma" : "f32",
             (int)c.t, (int)c.h, (int)c.w, (int)c.in, (int)c.out, c.kt, c.k,
             c.k, c.stride_t, c.stride, c.up, c.add, wan_type_name(c.y_type));
    return s;
}

/* By scattering each input to the outputs it reaches, unlike the kernels.
 * weight: [O, kt, k, k, I]. */
static void scatter(std::vector<double> &y, const int64_t *yd, const Matrix &x,
                    const Matrix &weight, const Case &c)
{
    const int pad = c.k == 3 && (c.stride == 1 || c.centre);

    for (int64_t ti = 0; ti < c.t; ti++)
        for (int64_t hi = 0; hi < c.h * c.up; hi++)
            for (int64_t wi = 0; wi < c.w * c.up; wi++)
                for (int64_t e = 0; e < c.kt * c.k * c.k; e++) {
                    const int64_t t = ti - e / c.k / c.k;
                    const int64_t r = hi + pad - e / c.k % c.k;
                    const int64_t q = wi + pad - e % c.k;
                    const int64_t from = (ti * c.h + hi / c.up) * c.w +
                                         wi / c.up;

                    if (t < 0 || r < 0 || q < 0 || t % c.stride_t ||
                        r % c.stride || q % c.stride ||
                        t / c.stride_t >= yd[0] || r / c.stride >= yd[1] ||
                        q / c.stride >= yd[2])
                        continue;
                    const int64_t to = (t / c.stride_t * yd[1] +
                                        r / c.stride) * yd[2] + q / c.stride;
                    for (int64_t o = 0; o < c.out; o++)
                        for (int64_t i = 0; i < c.in; i++)
                            y[to * c.out + o] += x.value[from * c.in + i] *
                                weight.value[(o * c.kt * c.k * c.k + e) *
                                             c.in + i];
                }
}

static double run_case(const Case &c)
{
    const int64_t taps = c.kt * c.k * c.k, n = taps * c.in;
    const int64_t yd[3] = { (c.t - c.kt) / c.stride_t + 1,
                            c.h * c.up / c.stride, c.w * c.up / c.stride };
    const int64_t rows = yd[0] * yd[1] * yd[2];
    const int pad = c.k == 3 && (c.stride == 1 || c.centre);
    std::vector<double> want(rows * c.out);
    std::vector<float> bias(c.out);
    std::vector<char> first;
    double error = 0, sum = 0;
    const uint64_t start = test_seed;

    for (int order = 0; order < 3; order++) {
        test_seed = start;
        Matrix x(c.type, c.t * c.h * c.w, c.in, 0, 1);
        Matrix w(c.type, c.out * taps, c.in, 0, 1 / sqrt((double)n));
        Matrix y(c.y_type, rows, c.out, 0, c.add ? 1 : 0);
        Matrix summed(c.type, 16 * c.out * c.kt, c.in, 0, 0);

        for (float &b : bias)
            b = random_normal();
        if (!order) {
            for (int64_t i = 0; i < rows * c.out; i++)
                want[i] = bias[i % c.out] + (c.add ? y.value[i] : 0);
            scatter(want, yd, x, w, c);
        }

        WanOwnConv a = {
            y.data, x.data, w.data, bias.data(), c.y_type, c.type, c.type, c.t,
            c.h, c.w, c.in, yd[0], yd[1], yd[2], c.out, c.kt, c.k, c.k, c.stride_t,
            c.stride, pad, pad, 1, c.add,
        };
        emu_order = (EmuOrder)order;
        emu_copies = (EmuCopies)order;
        if (c.up == 2) {
            a.phases = 2;
            if (c.k == 3) {
                wan_conv_phase_weights(summed.data, w.data, c.type, c.out,
                                       c.kt, c.in, NULL);
                a.w = summed.data;
                a.kh = a.kw = 2;
            }
        }
        if (c.mma)
            wan_conv_mma(&a, NULL);
        else
            wan_conv_f32(&a, NULL);
        CHECKF(!emu_copies_left(), "%s: copies nobody waits for", name(c));

        std::vector<char> bytes((char *)y.data, (char *)y.data +
                                rows * c.out * y.size());
        if (!order) {
            first = bytes;
            for (int64_t i = 0; i < rows * c.out; i++) {
                const double e = y.get(i / c.out, i % c.out) - want[i];

                error += e * e;
                sum += want[i] * want[i];
            }
        }
        CHECKF(bytes == first, "%s: another order, other bits", name(c));
    }
    return sqrt(error / sum);
}

static double worst;

static void check(Case c)
{
    c.stride_t += !c.stride_t;
    c.stride += !c.stride;
    c.up += !c.up;
    const double e = run_case(c);
    /* Rounding of y, and of the summed weights. */
    const double unit = c.type == WAN_BF16 ? 0x1.4p-9 : 0x1.4p-12;
    const double tol = (c.type != WAN_F32 && c.up == 2) ||
                       c.y_type != WAN_F32 ? unit : 1e-6;

    worst = e / tol > worst ? e / tol : worst;
    CHECKF(e <= tol, "%s: error %.3g, tolerance %.3g", name(c), e, tol);
}

/* Each form of the op, in a type, on a kernel. */
static void forms(WanType type, bool mma, WanType y)
{
    const Case c[] = {
        /*   t  h   w   in  out kt k */
        { type, mma, 3, 5,  9,  8,  24, 3, 3, .y_type = y },
        { type, mma, 4, 3,  4,  16, 96, 3, 3, .add = true, .y_type = y },
        { type, mma, 1, 6,  24, 40, 130, 1, 3, .y_type = y },
        { type, mma, 3, 3,  70, 24, 3,  3, 3, .y_type = y },
        { type, mma, 3, 5,  9,  3,  33, 3, 3, .y_type = y },    // Ci odd
        { type, mma, 2, 1,  1,  5,  3,  2, 3, .add = true, .y_type = y },
        { type, mma, 5, 2,  7,  32, 64, 3, 1, .y_type = y },
        { type, mma, 5, 2,  7,  32, 64, 3, 1, .stride_t = 2, .y_type = y },
        { type, mma, 2, 6,  8,  24, 40, 1, 3, .stride = 2, .y_type = y },
        { type, mma, 2, 6,  8,  24, 40, 1, 3, .stride = 2, .y_type = y,
          .centre = true },
        { type, mma, 5, 4,  2,  9,  20, 3, 3, .stride_t = 2, .stride = 2,
          .y_type = y },
        { type, mma, 2, 5,  6,  24, 40, 1, 3, .up = 2, .y_type = y },
        { type, mma, 3, 1,  9,  16, 8,  2, 3, .up = 2, .add = true,
          .y_type = y },
        { type, mma, 2, 3,  5,  8,  9,  2, 1, .up = 2, .y_type = y },
        { type, mma, 3, 2,  3,  64, 128, 3, 3, .add = true, .y_type = y },
        { type, mma, 3, 2,  3,  96, 192, 3, 3, .y_type = y },
    };

    for (const Case &one : c)
        check(one);
}

TEST(mma_bf16) { forms(WAN_BF16, true, WAN_BF16); }
TEST(mma_bf16_to_f32) { forms(WAN_BF16, true, WAN_F32); }
TEST(mma_f16) { forms(WAN_F16, true, WAN_F16); }
TEST(f32) { forms(WAN_F32, false, WAN_F32); }
TEST(f32_of_bf16) { forms(WAN_BF16, false, WAN_BF16); }

int main()
{
    RUN(mma_bf16);
    RUN(mma_bf16_to_f32);
    RUN(mma_f16);
    RUN(f32);
    RUN(f32_of_bf16);
    printf("# worst error %.2f of its tolerance, %lld mma\n", worst,
           (long long)emu_mma_count / 32);
    return test_end();
}
