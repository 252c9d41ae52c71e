/*
 * Products on tiles (AMX): order of sums, rests, and what is not touched.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Two programs: unit/amx has amx.c compiled with the tiles of tests/emu, so that
 * sanitizers see each access; unit/amx_code (AMX_CODE) has the library's own,
 * whose instructions are executed one by one in a handler where the processor
 * does not know them. Where it does, that is a test of the processor.
 */

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/amx.h"
#include "cpu/bf16.h"
#include "cpu/int8.h"
#include "emu/tiles.h"
#include "numbers.h"
#include "test.h"
#ifdef AMX_CODE
#include "emu/tile_trap.h"
#else
#define wan_tile_native() 0
#endif

#if defined(AMX_CODE) && !WAN_KNOWS_AMX

int main(void)
{
    printf("ok 1 - amx_code # SKIP no such code in this build\n1..1\n");
    return 0;
}

#else

#define COUNT(a) (int)(sizeof(a) / sizeof(*(a)))

enum { MOST_TAPS = 9, MOST_K = 200 };

/* One product of matrices of BF16, all memory as large as it has to be. */
typedef struct Case {
    int64_t m, n, k, lda, ldc;
    int taps, add;
    int64_t shift[MOST_TAPS], last;
    uint16_t *a, *w, *b;        // w [n, taps * k], b: packed
    float *before;              // [m, ldc]
} Case;

static int64_t floats(const Case *c)
{
    return (c->m - 1) * c->ldc + wan_bf16_cols(c->n);
}

static uint16_t number(int whole)
{
    return wan_f32_to_bf16(whole ? (float)(random_u32() % 9) - 4
                                 : random_normal());
}

static Case make(int64_t m, int64_t n, int64_t k, int taps, int add,
                 int whole)
{
    Case c = { .m = m, .n = n, .k = k, .taps = taps, .add = add };
    int64_t size;

    c.lda = k + random_u32() % 3 * 2;
    c.ldc = wan_bf16_cols(n) + random_u32() % 3 * 4;
    for (int t = 0; t < taps; t++) {
        c.shift[t] = random_u32() % 8 * 2;
        c.last = c.shift[t] > c.last ? c.shift[t] : c.last;
    }
    size = c.last + (m - 1) * c.lda + k;
    c.a = malloc(size * sizeof(*c.a));
    c.w = malloc(n * taps * k * sizeof(*c.w));
    c.b = malloc(wan_bf16_packed(n, taps * k) * sizeof(*c.b));
    c.before = malloc(floats(&c) * sizeof(*c.before));
    for (int64_t i = 0; i < size; i++)
        c.a[i] = number(whole);
    for (int64_t i = 0; i < n * taps * k; i++)
        c.w[i] = number(whole);
    for (int64_t i = 0; i < floats(&c); i++)
        c.before[i] = whole ? (float)(random_u32() % 100) : random_normal();
    return c;
}

static void drop(Case *c)
{
    free(c->a), free(c->w), free(c->b), free(c->before);
}

/* Rows [r, r + rows) by tiles, or by plain loops; to be freed. */
static float *product(const Case *c, int64_t r, int64_t rows, int plain)
{
    const int64_t size = floats(c) - (c->m - rows) * c->ldc;
    float *out = malloc(size * sizeof(*out));

    memcpy(out, c->before + r * c->ldc, size * sizeof(*out));
    if (plain) {
        wan_bf16_plain(1);
        wan_bf16_product(rows, c->n, c->k, c->taps, c->shift,
                         c->a + r * c->lda, c->lda, c->b, c->add, out, c->ldc);
        wan_bf16_plain(0);
    } else {
        wan_amx_bf16_product(rows, c->n, c->k, c->taps, c->shift,
                             c->a + r * c->lda, c->lda, c->b, c->add, out,
                             c->ldc);
    }
    return out;
}

static float flushed(float f)
{
    return fpclassify(f) == FP_SUBNORMAL ? copysignf(0, f) : f;
}

static float wide(uint16_t h)
{
    return flushed(wan_bf16_to_f32(h));
}

/* sum + n inputs on one tile, as bf16.h says. */
static float some(float sum, const uint16_t *a, const uint16_t *w, int64_t n)
{
    float even = 0, odd = 0;

    for (int64_t i = 0; i < n; i += 2) {
        even = flushed(fmaf(wide(a[i]), wide(w[i]), even));
        odd = flushed(fmaf(wide(a[i + 1]), wide(w[i + 1]), odd));
    }
    return flushed(flushed(sum) + flushed(even + odd));
}

static float ordered(const Case *c, int64_t r, int64_t col)
{
    static const uint16_t none[MOST_TAPS * MOST_K];
    const uint16_t *w = col < c->n ? c->w + col * c->taps * c->k : none;
    const int64_t whole = c->k / 32 * 32;
    float sum = c->add ? c->before[r * c->ldc + col] : 0;

    for (int t = 0; t < c->taps; t++)
        for (int64_t i = 0; i < whole; i += 32)
            sum = some(sum, c->a + c->shift[t] + r * c->lda + i,
                       w + t * c->k + i, 32);
    for (int t = 0; t < c->taps && whole < c->k; t++)
        sum = some(sum, c->a + c->shift[t] + r * c->lda + whole,
                   w + t * c->k + whole, c->k - whole);
    return sum;
}

static int same(float a, float b)
{
    return (isnan(a) && isnan(b)) || !memcmp(&a, &b, sizeof(a));
}

/* The bits are those of the order that is written down, columns that only fill
 * a panel are as if their weights were 0, and what lies between rows is as it
 * was. */
static void check_order(const Case *c)
{
    float *got = product(c, 0, c->m, 0);
    int wrong = 0;

    for (int64_t i = 0; i < floats(c); i++) {
        const int64_t r = i / c->ldc, col = i % c->ldc;
        const float want = col < wan_bf16_cols(c->n) ? ordered(c, r, col)
                                                     : c->before[i];

        if (!same(got[i], want) && !wrong++)
            CHECKF(0, "%dx%dx%d, %d taps, add %d: [%d, %d] %.9g, not %.9g",
                   (int)c->m, (int)c->n, (int)c->k, c->taps, c->add, (int)r,
                   (int)col, got[i], want);
    }
    CHECKF(!wrong, "%d of %d", wrong, (int)floats(c));
    free(got);
}

/* Within what the order of a sum of F32 may differ. */
static void check_plain(const Case *c)
{
    float *got = product(c, 0, c->m, 0), *want = product(c, 0, c->m, 1);
    double worst = 0;

    for (int64_t r = 0; r < c->m; r++)
        for (int64_t col = 0; col < c->n; col++) {
            const int64_t i = r * c->ldc + col, K = c->taps * c->k;
            double all = c->add ? fabs(c->before[i]) : 0, err;

            for (int t = 0; t < c->taps; t++)
                for (int64_t j = 0; j < c->k; j++)
                    all += fabs(
                        (double)wide(c->a[c->shift[t] + r * c->lda + j]) *
                        wide(c->w[col * K + t * c->k + j]));
            err = fabs((double)got[i] - want[i]) /
                  (0x1p-24 * (double)(K + 2) * all + 0x1p-120);
            worst = err > worst || isnan(err) ? err : worst;
        }
    CHECKF(worst <= 1, "%dx%dx%d, %d taps, add %d: %g of what may be",
           (int)c->m, (int)c->n, (int)c->k, c->taps, c->add, worst);
    free(got), free(want);
}

static void pack(Case *c)
{
    wan_bf16_pack_rows16(c->b, c->w, c->taps * c->k, c->n, c->taps * c->k);
}

static const int64_t some_m[] = { 1, 2, 15, 16, 17, 31, 32, 33, 49, 70 };
static const int64_t some_n[] = { 1, 16, 17, 40, 64, 65, 80, 96, 112, 130 };
static const int64_t some_k[] = { 2, 4, 30, 32, 34, 62, 64, 66, 98, 128,
                                MOST_K };

static Case any(int i, int whole)
{
    const int taps = i % 3 ? 1 : 1 + random_u32() % MOST_TAPS;

    return make(some_m[i % COUNT(some_m)], some_n[i / COUNT(some_m) % 10],
                some_k[i % COUNT(some_k)], taps, random_u32() % 2, whole);
}

TEST(order)
{
    for (int i = 0; i < 100; i++) {
        Case c = any(i, 0);

        pack(&c);
        check_order(&c);
        check_plain(&c);
        drop(&c);
    }
}

/* Numbers of few bits: no sum is rounded, so the bits are those of any order. */
TEST(whole_numbers)
{
    for (int i = 0; i < 100; i++) {
        Case c = any(i, 1);
        float *got, *want;

        pack(&c);
        got = product(&c, 0, c.m, 0);
        want = product(&c, 0, c.m, 1);
        CHECKF(!memcmp(got, want, floats(&c) * sizeof(*got)),
               "%dx%dx%d, %d taps", (int)c.m, (int)c.n, (int)c.k, c.taps);
        free(got), free(want);
        drop(&c);
    }
}

/* A row alone has the bits that it has among others. */
TEST(rows)
{
    static const int64_t m[] = { 16, 17, 33, 70 };

    for (int i = 0; i < COUNT(m); i++) {
        Case c = make(m[i], 80, 98, 2, i % 2, 0);
        float *all;

        pack(&c);
        all = product(&c, 0, c.m, 0);
        for (int64_t r = 0; r < c.m; r++) {
            float *one = product(&c, r, 1, 0);

            CHECKF(!memcmp(one, all + r * c.ldc, c.n * sizeof(*one)),
                   "row %d of %d", (int)r, (int)c.m);
            free(one);
        }
        free(all);
        drop(&c);
    }
}

/* NaN and infinities come out where plain loops have them, and nowhere else. */
TEST(not_finite)
{
    static const uint16_t odd[] = { 0x7fc0, 0xffc1, 0x7f80, 0xff80, 0 };

    for (int i = 0; i < 40; i++) {
        Case c = make(some_m[i % 10], 70, some_k[i % 11], 1 + i % 2, i & 1, 0);
        float *got, *want;
        int wrong = 0;

        for (int j = 0; j < 3; j++) {
            c.a[random_u32() % (c.last + (c.m - 1) * c.lda + c.k)] =
                odd[random_u32() % COUNT(odd)];
            c.w[random_u32() % (c.n * c.taps * c.k)] =
                odd[random_u32() % COUNT(odd)];
        }
        if (i & 2)
            c.before[random_u32() % c.n] = i & 4 ? NAN : INFINITY;
        pack(&c);
        got = product(&c, 0, c.m, 0);
        want = product(&c, 0, c.m, 1);
        for (int64_t r = 0; r < c.m; r++)
            for (int64_t col = 0; col < c.n; col++) {
                const float g = got[r * c.ldc + col];
                const float w = want[r * c.ldc + col];

                wrong += isnan(g) != isnan(w) ||
                         ((isinf(g) || isinf(w)) && g != w);
            }
        CHECKF(!wrong, "%dx%dx%d: %d", (int)c.m, (int)c.n, (int)c.k, wrong);
        free(got), free(want);
        check_order(&c);
        drop(&c);
    }
}

/* Denormal factors, sums and what is added to: all of them 0. */
TEST(denormals)
{
    for (int i = 0; i < 12; i++) {
        Case c = make(some_m[i % 10], 40, some_k[i % 11], 1, i & 1, 0);
        const int64_t size = c.last + (c.m - 1) * c.lda + c.k;

        for (int64_t j = 0; j < size; j++)
            c.a[j] = (uint16_t)(i % 3 == 0 ? c.a[j] & 0x807f
                              : i % 3 == 1 ? (c.a[j] & 0x807f) | 0x2080
                              : c.a[j]);        // 2^-62
        for (int64_t j = 0; j < c.n * c.k && i % 3 == 1; j++)
            c.w[j] = (uint16_t)((c.w[j] & 0x807f) | 0x1f00);    // 2^-65
        for (int64_t j = 0; j < floats(&c); j++)
            if (random_u32() % 2)
                c.before[j] *= 0x1p-128f;
        pack(&c);
        check_order(&c);
        drop(&c);
    }
}

/* In 8 bits the bits are those of plain loops. */
TEST(products_in_8_bits)
{
    static const int64_t k[] = { 1, 64, 67, 130, 1024 };

    if (!WAN_KNOWS_AMX)
        return;                 // int8.c comes to no tiles either
    for (int i = 0; i < COUNT(some_m) * COUNT(some_n); i++) {
        const int64_t M = some_m[i % COUNT(some_m)];
        const int64_t N = some_n[i / COUNT(some_m)], K = k[i % COUNT(k)];
        const int64_t depth = wan_int8_depth(K), lda = depth + i % 3 * 5;
        const int64_t ldc = wan_bf16_cols(N) + i % 2 * 16;
        const int64_t size = (M - 1) * ldc + wan_bf16_cols(N);
        WanInt8Columns columns;
        uint8_t *a = malloc((M - 1) * lda + depth);
        int8_t *b = malloc(wan_bf16_cols(N) * depth);
        float *x = malloc(K * sizeof(*x)), *w = malloc(N * K * sizeof(*w));
        float *c[2], scale[2 * 70];
        const long before = wan_tile_count().int8;

        for (int64_t r = 0; r < M; r++) {
            for (int64_t j = 0; j < K; j++)
                x[j] = random_normal();
            scale[2 * r] = wan_int8_round(a + r * lda, x, K);
        }
        for (int64_t j = 0; j < N * K; j++)
            w[j] = random_normal();
        if (i % 7 == 6)
            scale[0] = NAN;
        wan_int8_pack(b, &columns, 0, w, WAN_F32, K, N, K);
        for (int plain = 0; plain < 2; plain++) {
            wan_int8_plain(plain);
            c[plain] = malloc(size * sizeof(float));
            for (int64_t j = 0; j < size; j++)
                c[plain][j] = (float)j;
            wan_int8_product(M, N, depth, a, lda, scale, 2, b, &columns, i & 1,
                             c[plain], ldc);
        }
        wan_int8_plain(0);
        CHECKF(!memcmp(c[0], c[1], size * sizeof(float)), "%dx%dx%d", (int)M,
               (int)N, (int)K);
        CHECK(wan_tile_native() || wan_tile_count().int8 > before);
        free(a), free(b), free(x), free(w), free(c[0]), free(c[1]);
    }
}

/* bf16.c comes here, but not where plain loops are asked for; and leaves no tile
 * behind. */
TEST(way_in)
{
    Case c = make(33, 40, 66, 1, 0, 0);
    const long before = wan_tile_count().bf16;
    float *out;

    pack(&c);
    out = product(&c, 0, c.m, 1);
    CHECK(wan_tile_count().bf16 == before);
    wan_bf16_product(c.m, c.n, c.k, 1, NULL, c.a, c.lda, c.b, 0, out, c.ldc);
    if (WAN_KNOWS_AMX)
        CHECK(wan_tile_native() || wan_tile_count().bf16 > before);
    CHECK(!wan_tile_configured());
    free(out);
    drop(&c);
}

/* Tiles of one thread are not those of another. */
static void *repeat(void *arg)
{
    const Case *c = arg;
    float *want = product(c, 0, c->m, 0);
    int differ = 0;

    for (int i = 0; i < 20; i++) {
        float *got = product(c, 0, c->m, 0);

        differ += memcmp(got, want, floats(c) * sizeof(*got)) != 0;
        free(got);
    }
    free(want);
    return (void *)(intptr_t)differ;
}

TEST(threads)
{
    pthread_t thread[2];
    Case c[2] = { make(70, 64, 98, 1, 0, 0), make(17, 48, 30, 3, 1, 0) };

    for (int i = 0; i < 2; i++) {
        pack(&c[i]);
        CHECK(!pthread_create(&thread[i], NULL, repeat, &c[i]));
    }
    for (int i = 0; i < 2; i++) {
        void *differ;

        pthread_join(thread[i], &differ);
        CHECKF(!differ, "thread %d: %d", i, (int)(intptr_t)differ);
        check_order(&c[i]);
        drop(&c[i]);
    }
}

/* ------------------------------------------------- the emulation itself */

#ifndef AMX_CODE

static uint8_t config[64];

static void tile(int t, int rows, int colsb)
{
    config[0] = 1;
    config[16 + 2 * t] = (uint8_t)colsb;
    config[48 + t] = (uint8_t)rows;
}

/* 0: 4 x 8 sums of 4 x 3 by 3 x 8 words in 1 and 2. */
static void three(void)
{
    memset(config, 0, sizeof(config));
    tile(0, 4, 32);
    tile(1, 4, 12);
    tile(2, 3, 32);
}

static void misuse(int i)
{
    static uint8_t memory[1024];

    three();
    switch (i) {
    case 0: wan_tile_zero(0); return;
    case 1: wan_tile_load(0, memory, 64); return;
    case 2: wan_tile_store(0, memory, 64); return;
    case 3: wan_tile_dpbf16(0, 1, 2); return;
    case 4: config[0] = 2; break;
    case 5: config[2] = 1; break;
    case 6: config[56] = 1; break;
    case 7: tile(7, 17, 64); break;
    case 8: tile(7, 16, 65); break;
    case 9: tile(7, 1, 0); break;
    case 10: tile(7, 0, 4); break;
    default: wan_tile_config(config);
    }
    switch (i) {
    case 11: wan_tile_load(3, memory, 64); break;
    case 12: wan_tile_dpbf16(0, 1, 1); break;
    case 13: wan_tile_dpbf16(0, 2, 1); break;
    case 14: wan_tile_dpbusd(1, 0, 2); break;
    case 15: tile(1, 4, 8); wan_tile_config(config);
             wan_tile_dpbusd(0, 1, 2); break;
    case 16: tile(1, 4, 10); wan_tile_config(config);
             wan_tile_dpbf16(0, 1, 2); break;
    case 17: tile(0, 3, 32); wan_tile_config(config);
             wan_tile_dpbf16(0, 1, 2); break;
    case 18: tile(2, 3, 36); wan_tile_config(config);
             wan_tile_dpbf16(0, 1, 2); break;
    case 19: wan_tile_release(); wan_tile_zero(0); break;
    default: wan_tile_config(config);
    }
}
#define MISUSES 20

/* Each ends the program, but not what is allowed. */
TEST(faults)
{
    fflush(stdout);
    for (int i = 0; i <= MISUSES; i++) {
        const pid_t child = fork();
        int status = 0;

        if (!child) {
            if (!freopen("/dev/null", "w", stderr))
                _exit(2);
            misuse(i);
            if (i == MISUSES)
                wan_tile_dpbf16(0, 1, 2);
            _exit(0);
        }
        waitpid(child, &status, 0);
        CHECKF(i == MISUSES ? status == 0 : WIFSIGNALED(status) &&
               WTERMSIG(status) == SIGABRT, "misuse %d: %x", i, status);
    }
}

/* Small numbers that can be done by hand. */
TEST(by_hand)
{
    static const uint16_t a[2][4] = { { 0x3f80, 0x4000, 0x4040, 0x4080 },
                                      { 0xbf80, 0x0000, 0x0001, 0x3f80 } };
    static const uint16_t b[2][2] = { { 0x3f80, 0x40a0 }, { 0x40c0, 0x3f00 } };
    static const uint8_t a8[4] = { 255, 1, 2, 200 };
    static const int8_t b8[4] = { -128, 127, -3, 4 };
    float c[2] = { 100, 0x1p-130f };
    int32_t sum = INT32_MIN;

    memset(config, 0, sizeof(config));
    tile(0, 2, 4);
    tile(1, 2, 8);
    tile(2, 2, 4);
    tile(3, 1, 4);
    tile(4, 1, 4);
    tile(5, 1, 4);
    wan_tile_config(config);
    wan_tile_load(0, c, 4);
    wan_tile_load(1, a, 8);
    wan_tile_load(2, b, 4);
    wan_tile_dpbf16(0, 1, 2);
    wan_tile_store(0, c, 4);
    CHECKF(c[0] == 100 + 1 + 2 * 5 + 3 * 6 + 4 * 0.5f && c[1] == -0.5f,
           "%g %g", c[0], c[1]);
    wan_tile_load(3, &sum, 4);
    wan_tile_load(4, a8, 4);
    wan_tile_load(5, b8, 4);
    wan_tile_dpbusd(3, 4, 5);
    wan_tile_store(3, &sum, 4);
    CHECKF(sum == INT32_MAX - 255 * 128 + 127 - 6 + 800 + 1, "%d", (int)sum);
    wan_tile_release();
}

#endif

int main(void)
{
#ifdef AMX_CODE
    wan_tile_trap();
    printf("# tiles are %s\n", wan_tile_native() ? "the processor's"
                                                 : "emulated");
#endif
    RUN(order);
    RUN(whole_numbers);
    RUN(rows);
    RUN(not_finite);
    RUN(denormals);
    RUN(products_in_8_bits);
    RUN(way_in);
    RUN(threads);
#ifndef AMX_CODE
    RUN(faults);
    RUN(by_hand);
#endif
    return test_end();
}

#endif
