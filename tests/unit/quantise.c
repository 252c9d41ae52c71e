/*
 * Blocks encoded: how far what is decoded is from what was given.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "formats/blocks.h"
#include "test.h"

/* What a type may lose of normally distributed numbers: relative L2. */
static const struct {
    WanType type;
    double loss;
} types[] = {
    { WAN_Q4_0, 0.095 }, { WAN_Q4_1, 0.085 }, { WAN_Q5_0, 0.048 },
    { WAN_Q5_1, 0.043 }, { WAN_Q8_0, 0.0065 }, { WAN_Q2_K, 0.31 },
    { WAN_Q3_K, 0.17 }, { WAN_Q4_K, 0.085 }, { WAN_Q5_K, 0.043 },
    { WAN_Q6_K, 0.021 },
};
#define NB_TYPES (int)(sizeof(types) / sizeof(types[0]))

#define N 4096                  // numbers tried at a time, whole blocks

static uint64_t state;

static double uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-53;
}

static float normal(void)
{
    return (float)(sqrt(-2 * log(uniform() + 1e-300)) *
                   cos(6.283185307179586 * uniform()));
}

/* y: x encoded and decoded. */
static void there_and_back(float *y, const float *x, WanType type, int n)
{
    static uint8_t block[N * 2];

    memset(block, 0xa5, sizeof(block));     // what was there is overwritten
    wan_from_f32(block, type, x, n);
    CHECK(block[wan_type_bytes(type, n)] == 0xa5);
    wan_to_f32(y, block, type, n, 1);
}

TEST(normal_numbers)
{
    static float x[N], y[N];

    for (int t = 0; t < NB_TYPES; t++)
        for (int scale = -12; scale <= 12; scale += 6) {
            double loss;

            state = 1;
            for (int i = 0; i < N; i++)
                x[i] = ldexpf(normal(), scale);
            there_and_back(y, x, types[t].type, N);
            loss = test_rel_l2(y, x, N);
            CHECKF(loss < types[t].loss, "%s at 2^%d: %g",
                   wan_type_name(types[t].type), scale, loss);
            /* and it is a type of that many bits, not a better one */
            CHECKF(loss > types[t].loss / 2, "%s at 2^%d: %g",
                   wan_type_name(types[t].type), scale, loss);
        }
}

/* The plain rounding that is the least to expect: the scale that stretches a
 * group over its steps. */
static double plain(const float *x, int n, int size, int top, int signs)
{
    double left = 0, all = 0;

    for (int g = 0; g < n; g += size) {
        double lo = x[g], hi = x[g], s;

        for (int j = g; j < g + size; j++) {
            lo = fmin(lo, x[j]);
            hi = fmax(hi, x[j]);
            all += (double)x[j] * x[j];
        }
        if (signs) {
            hi = fmax(-lo, hi);
            lo = 0;
        }
        s = (hi - lo) / top;
        for (int j = g; j < g + size; j++)
            left += pow(s * rint((x[j] - lo) / s) + lo - x[j], 2);
    }
    return sqrt(left / all);
}

TEST(no_worse_than_plain_rounding)
{
    static float x[N], y[N];
    static const struct {
        WanType type;
        int size, top, signs;
    } how[] = {
        { WAN_Q4_0, 32, 7, 1 }, { WAN_Q4_1, 32, 15, 0 },
        { WAN_Q5_0, 32, 15, 1 }, { WAN_Q5_1, 32, 31, 0 },
        { WAN_Q8_0, 32, 127, 1 }, { WAN_Q2_K, 16, 3, 0 },
        { WAN_Q3_K, 16, 3, 1 }, { WAN_Q4_K, 32, 15, 0 },
        { WAN_Q5_K, 32, 31, 0 }, { WAN_Q6_K, 16, 31, 1 },
    };

    state = 2;
    for (int i = 0; i < N; i++)
        x[i] = normal() * (1 + (float)(i / 32 % 5));
    for (size_t t = 0; t < sizeof(how) / sizeof(how[0]); t++) {
        const double bound = plain(x, N, how[t].size, how[t].top,
                                   how[t].signs);
        double loss;

        there_and_back(y, x, how[t].type, N);
        loss = test_rel_l2(y, x, N);
        /* scales in 4 bits, and those of f16, cost some of it */
        CHECKF(loss < bound * 1.02, "%s: %g, plain %g",
               wan_type_name(how[t].type), loss, bound);
    }
}

TEST(zeros_stay)
{
    static float x[N], y[N];

    memset(x, 0, sizeof(x));
    for (int t = 0; t < NB_TYPES; t++) {
        memset(y, 1, sizeof(y));
        there_and_back(y, x, types[t].type, N);
        for (int i = 0; i < N; i++)
            if (!CHECKF(y[i] == 0, "%s", wan_type_name(types[t].type)))
                break;
    }
}

/* Numbers that a type has are kept: what decoding gives, with all steps in use
 * and scales that are powers of two. */
TEST(exact_where_it_can_be)
{
    static const struct {
        WanType type;
        int group, lo, hi;          // steps, and how many numbers share a scale
        int unit;                   // groups' scales as integers of d up to it
        float least;                // minimum of all groups
    } how[] = {
        { WAN_Q4_0, 32, -8, 7, 1, 0 }, { WAN_Q4_1, 32, 0, 15, 1, -1.75f },
        { WAN_Q5_0, 32, -16, 15, 1, 0 }, { WAN_Q5_1, 32, 0, 31, 1, 3.5f },
        { WAN_Q8_0, 32, -127, 127, 1, 0 }, { WAN_Q2_K, 16, 0, 3, 15, -30 },
        { WAN_Q3_K, 16, -4, 3, 32, 0 }, { WAN_Q4_K, 32, 0, 15, 63, -63 },
        { WAN_Q5_K, 32, 0, 31, 63, -63 }, { WAN_Q6_K, 16, -32, 31, 128, 0 },
    };
    static float x[N], y[N];

    for (size_t t = 0; t < sizeof(how) / sizeof(how[0]); t++) {
        const int block = wan_type_block(how[t].type);

        state = 3;
        for (int i = 0; i < N; i++) {
            const int g = i % block / how[t].group, j = i % how[t].group;
            const int unit = g ? 1 + g * 7 % how[t].unit : how[t].unit;
            const int range = how[t].hi - how[t].lo;
            /* both ends are there, the rest is anything */
            const int q = j < 2 ? j * range : (int)(uniform() * (range + 1));

            x[i] = ldexpf((float)(unit * (q + how[t].lo)), -4) + how[t].least;
        }
        there_and_back(y, x, how[t].type, N);
        for (int i = 0; i < N; i++)
            if (!CHECKF(y[i] == x[i], "%s, number %d: %.9g for %.9g",
                        wan_type_name(how[t].type), i, y[i], x[i]))
                break;
    }
}

/* What was rounded once is not moved far again. */
TEST(again)
{
    static float x[N], y[N], z[N];

    for (int t = 0; t < NB_TYPES; t++) {
        state = 4;
        for (int i = 0; i < N; i++)
            x[i] = normal();
        there_and_back(y, x, types[t].type, N);
        there_and_back(z, y, types[t].type, N);
        CHECKF(test_rel_l2(z, y, N) < types[t].loss / 3, "%s: %g",
               wan_type_name(types[t].type), test_rel_l2(z, y, N));
    }
}

/* One number far from all others, all on one side, all equal, hardly any at
 * all: nothing that is not finite comes of it, and nothing worse than 0, but
 * for some least steps of a scale or minimum in f16. */
TEST(odd_blocks)
{
    static float x[N], y[N];

    for (int kind = 0; kind < 6; kind++)
        for (int t = 0; t < NB_TYPES; t++) {
            double left = 0, all = 0;

            state = 5;
            for (int i = 0; i < N; i++)
                x[i] = kind == 0 ? i % 256 == 77 ? 1000 : normal() :
                       kind == 1 ? 100 + normal() :
                       kind == 2 ? -100 + normal() :
                       kind == 3 ? 0.3f :
                       kind == 4 ? ldexpf(normal(), -24) :
                                   ldexpf(normal(), -140);
            there_and_back(y, x, types[t].type, N);
            for (int i = 0; i < N; i++) {
                left += pow((double)y[i] - x[i], 2);
                all += pow(x[i], 2);
            }
            CHECKF(isfinite(left) && left <= all * 1.0001 + N * 0x1p-44,
                   "%s, kind %d: %g of %g", wan_type_name(types[t].type), kind,
                   left, all);
        }
}

/* What has no place must be seen by whoever decodes it, and nothing here may
 * depend on it: the caller names the tensor. */
TEST(not_finite_or_too_large)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, 3e38f, -3e38f };
    static float x[256], y[256];

    for (int t = 0; t < NB_TYPES; t++)
        for (size_t k = 0; k < sizeof(odd) / sizeof(odd[0]); k++) {
            int bad = 0;

            state = 6;
            for (int i = 0; i < 256; i++)
                x[i] = normal();
            x[100] = odd[k];
            there_and_back(y, x, types[t].type, 256);
            for (int i = 0; i < 256; i++)
                bad |= !isfinite(y[i]);
            /* NaN is never the largest, so it may hide; infinities may not */
            CHECKF(bad || isnan(odd[k]), "%s of %g",
                   wan_type_name(types[t].type), odd[k]);
        }
}

TEST(which_types)
{
    int known = 0;

    for (int t = WAN_Q4_0; t < WAN_NB_TYPES; t++)
        known += wan_blocks_encoded(t);
    CHECK(known == NB_TYPES);
    CHECK(!wan_blocks_encoded(WAN_IQ4_NL) && !wan_blocks_encoded(WAN_F32));
}

int main(void)
{
    RUN(normal_numbers);
    RUN(no_worse_than_plain_rounding);
    RUN(zeros_stay);
    RUN(exact_where_it_can_be);
    RUN(again);
    RUN(odd_blocks);
    RUN(not_finite_or_too_large);
    RUN(which_types);
    return test_end();
}
