/*
 * Noise against PyTorch's own numbers and published known answers.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <time.h>

#include "golden.h"
#include "rng.h"
#include "test.h"

/* The largest difference between v and a JSON list. */
static double distance(const float *v, const cJSON *list)
{
    double max = 0;
    const cJSON *x;

    cJSON_ArrayForEach(x, list)
        max = fmax(max, fabsf(*v++ - (float)x->valuedouble));
    return max;
}

/* torch.randn on the CPU, all seeds and sizes of the golden */
static void cpu_cases(const char *which)
{
    cJSON *json = golden_json("torch_randn.json");
    const cJSON *c;
    int count = 0;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(json, which)) {
        const char *seed = cJSON_GetObjectItem(c, "seed")->valuestring;
        const int n = cJSON_GetObjectItem(c, "n")->valueint;
        const cJSON *last = cJSON_GetObjectItem(c, "last16");
        float *v = malloc((size_t)n * sizeof(*v));
        double d, sum = 0, squares = 0;

        wan_randn_cpu(v, n, strtoull(seed, NULL, 10), 0);
        d = distance(v, cJSON_GetObjectItem(c, "first"));
        if (last)
            d = fmax(d, distance(v + n - 16, last));
        for (int i = 0; i < n; i++) {
            sum += v[i];
            squares += (double)v[i] * v[i];
        }
        CHECKF(n < 16 ? d == 0 : d <= 1.5e-6, "seed %s n %d: %g", seed, n,
               d);
        CHECK(fabs(sum - cJSON_GetObjectItem(c, "sum_f64")->valuedouble) <=
              3e-7 * n);
        CHECK(fabs(squares - cJSON_GetObjectItem(c, "sumsq_f64")->valuedouble)
              <= 1e-6 * n);
        free(v);
        count++;
    }
    CHECKF(count == 90, "%d cases", count);
    cJSON_Delete(json);
}

TEST(cpu_avx2_build) { cpu_cases("cases"); }
TEST(cpu_plain_build) { cpu_cases("cases_scalar"); }

TEST(cpu_takes_the_low_half_of_the_seed)
{
    float a[33], b[33];

    wan_randn_cpu(a, 33, 42, 0);
    wan_randn_cpu(b, 33, 42 | UINT64_C(7) << 32, 0);
    CHECK(!memcmp(a, b, sizeof(a)));
}

TEST(nothing_is_written_for_n_0)
{
    float x = 5;

    wan_randn_cpu(&x, 0, 1, 0);
    wan_randn_cuda(&x, 0, 1, 256, 0);
    CHECK(x == 5);
}

/* the vectors of the Random123 distribution */
TEST(philox_known_answers)
{
    static const uint32_t kat[3][10] = {
        { 0, 0, 0, 0, 0, 0,
          0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { ~0u, ~0u, ~0u, ~0u, ~0u, ~0u,
          0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344,
          0xa4093822, 0x299f31d0,
          0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 },
    };

    for (int i = 0; i < 3; i++) {
        uint32_t out[4];

        wan_philox(out, kat[i], kat[i] + 4);
        CHECK(!memcmp(out, kat[i] + 6, sizeof(out)));
    }
}

TEST(cuda_known_answers)
{
    static const float want[] = {
        -0.92466259f, -0.42534415f, -2.6438457f, 0.14518388f,
        -0.12086647f, -0.57972580f, -0.62285155f,
    };
    float v[256], one;

    wan_randn_cuda(v, 256, 0, 270336, 0);
    for (int i = 0; i < 7; i++)
        CHECKF(fabsf(v[i] - want[i]) <= 1e-6f, "%d: %.8g", i, v[i]);
    wan_randn_cuda(&one, 1, 0, 270336, 0);
    CHECK(one == v[0]);
}

/* Element e belongs to thread e mod T, its round and lane to e / T. */
static float cuda_element(int64_t e, int64_t T, uint64_t seed, uint64_t skip)
{
    const uint64_t i = (uint64_t)(e % T), j = (uint64_t)(e / T / 4) + skip;
    const int lane = e / T % 4;
    const uint32_t counter[4] = { (uint32_t)j, j >> 32, (uint32_t)i, i >> 32 };
    const uint32_t key[2] = { (uint32_t)seed, seed >> 32 };
    uint32_t w[4];
    double u, a;

    wan_philox(w, counter, key);
    u = w[lane / 2 * 2] * 0x1p-32 + 0x1p-33;
    a = (w[lane / 2 * 2 + 1] * 0x1p-32 + 0x1p-33) * 2 * acos(-1);
    return (float)(sqrt(-2 * log(u)) * (lane % 2 ? cos(a) : sin(a)));
}

TEST(cuda_layout)
{
    static const struct { int64_t n; int threads, T, used; } cases[] = {
        { 1, 270336, 256, 1 },     { 256, 270336, 256, 1 },
        { 257, 270336, 512, 1 },   { 1000, 512, 512, 1 },
        { 2048, 512, 512, 1 },     { 2049, 512, 512, 2 },
        { 10007, 768, 768, 4 },    { 10007, 1000, 768, 4 },
        { 5000, 0, 256, 5 },       { 300001, 270336, 270336, 1 },
    };
    const uint64_t seed = UINT64_C(0x123456789abcdef0);

    for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++) {
        const int64_t n = cases[k].n;
        float *v = malloc((size_t)(n + 1) * sizeof(*v));
        const uint64_t skip = k % 2 ? 3 + ((uint64_t)k << 32) : 0;
        double max = 0;

        v[n] = 5;
        wan_randn_cuda(v, n, seed, cases[k].threads, skip);
        for (int64_t e = 0; e < n; e++)
            max = fmax(max, fabs(v[e] - cuda_element(e, cases[k].T, seed,
                                                     skip)));
        CHECK(wan_randn_used_cuda(n, cases[k].threads) ==
              (uint64_t)cases[k].used);
        CHECKF(max < 1e-5, "case %d: %g", (int)k, max);
        CHECK(v[n] == 5);
        free(v);
    }
}

/* Whole blocks of 16, and pairs below 16, are one stream however they are
 * drawn. A last block that is not whole uses 16 words more. */
TEST(cpu_draws_continue)
{
    static const int sizes[] = { 16, 48, 1152, 2, 6 };
    float all[3 * 1152], part[1152];

    for (size_t k = 0; k < sizeof(sizes) / sizeof(*sizes); k++) {
        const int n = sizes[k], count = n < 16 ? 14 / n : 3;
        uint64_t skip = 0;

        wan_randn_cpu(all, count * n, 7, 0);
        for (int i = 0; i < count; i++) {
            wan_randn_cpu(part, n, 7, skip);
            CHECKF(!memcmp(part, all + i * n, n * sizeof(*part)),
                   "draw %d of %d", i, n);
            skip += wan_randn_used_cpu(n);
        }
    }
    CHECK(wan_randn_used_cpu(33) == 49);
}

TEST(a_480p_latent_is_quick)
{
    const int64_t n = 16 * 21 * 60 * 104;
    float *v = malloc((size_t)n * sizeof(*v));
    clock_t t = clock();

    wan_randn_cuda(v, n, 1, 270336, 0);
    printf("# cuda: %.3f s\n", (double)(clock() - t) / CLOCKS_PER_SEC);
    t = clock();
    wan_randn_cpu(v, n, 1, 0);
    printf("# cpu: %.3f s\n", (double)(clock() - t) / CLOCKS_PER_SEC);
    CHECK(isfinite(v[n - 1]));
    free(v);
}

int main(void)
{
    RUN(cpu_avx2_build);
    RUN(cpu_plain_build);
    RUN(cpu_takes_the_low_half_of_the_seed);
    RUN(nothing_is_written_for_n_0);
    RUN(philox_known_answers);
    RUN(cuda_known_answers);
    RUN(cuda_layout);
    RUN(cpu_draws_continue);
    RUN(a_480p_latent_is_quick);
    return test_end();
}
