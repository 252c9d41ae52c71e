/*
 * Products in BF16 and 8 bits, by the processor's instructions and by plain
 * loops: against sums in double, the bits of one against the other's, and
 * nothing read or written behind the arrays, which end where a page ends that
 * may be touched.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * checkop holds whole layers to their definition; this is about ends: rows and
 * columns that fill no tile, inputs that fill no register.
 */

#include <sys/mman.h>
#include <unistd.h>

#include "cpu/amx.h"
#include "cpu/bf16.h"
#include "cpu/int8.h"
#include "numbers.h"
#include "test.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))

static const int64_t rows[] = { 1, 2, 3, 4, 5, 6, 7, 12, 13, 25 };
static const int64_t columns[] = { 1, 15, 16, 17, 40, 64, 70, 100 };
static const int64_t inputs[] = { 1, 2, 6, 7, 8, 9, 16, 31, 70, 130 };

static void both_plain(int yes)
{
    wan_bf16_plain(yes);
    wan_int8_plain(yes);
}

/* --------------------------------------------------------------- memory */

static struct {
    void *p;
    size_t bytes;
} mapped[16];
static int nb_mapped;

/* Bytes of NaN, until drop(). What is behind them can't be read. */
static void *at_end(int64_t bytes)
{
    const int64_t page = sysconf(_SC_PAGESIZE);
    const int64_t size = (bytes + page - 1) / page * page;
    char *p = mmap(NULL, size + page, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED || mprotect(p + size, page, PROT_NONE) < 0 ||
        nb_mapped == COUNT(mapped))
        abort();
    memset(p, 0xff, size);
    mapped[nb_mapped].p = p;
    mapped[nb_mapped++].bytes = size + page;
    return p + size - bytes;
}

static void drop(void)
{
    while (nb_mapped--)
        munmap(mapped[nb_mapped].p, mapped[nb_mapped].bytes);
    nb_mapped = 0;
}

static float *normal_f32(int64_t n)
{
    float *p = at_end(n * sizeof(*p));

    for (int64_t i = 0; i < n; i++)
        p[i] = random_normal();
    return p;
}

static uint16_t *normal_bf16(int64_t n)
{
    uint16_t *p = at_end(n * sizeof(*p));

    for (int64_t i = 0; i < n; i++)
        p[i] = wan_f32_to_bf16(random_normal());
    return p;
}

static int same(const void *const p[2], int64_t bytes)
{
    return !memcmp(p[0], p[1], bytes);
}

/* ------------------------------------------------------------------ BF16 */

/* Where input i of column c is: bf16.h's description, once more. */
static double packed(const uint16_t *b, int64_t n, int64_t k, int64_t c,
                     int64_t i)
{
    int64_t step;
    const int64_t at = wan_bf16_at(n, k, c, &step);

    return wan_bf16_to_f32(b[at + i / 2 * step + i % 2]);
}

TEST(bf16_is_packed)
{
    for (int i = 0; i < COUNT(columns) * COUNT(inputs); i++) {
        const int64_t n = columns[i / COUNT(inputs)];
        const int64_t k = inputs[i % COUNT(inputs)];
        const int64_t size = wan_bf16_packed(n, k);
        const float *f = normal_f32(n * k), *g = normal_f32(n * k);
        const uint16_t *h = normal_bf16(n * k);
        int wrong = 0;

        for (int way = 0; way < 3; way++) {
            const uint16_t *const b[2] = { at_end(size * 2), at_end(size * 2) };

            for (int plain = 0; plain < 2; plain++) {
                uint16_t *to = (uint16_t *)b[plain];

                both_plain(plain);
                if (way == 0)
                    wan_bf16_pack_rows(to, f, k, n, k);
                else if (way == 1)
                    wan_bf16_pack_rows16(to, h, k, n, k);
                else
                    wan_bf16_pack(to, g, n, n, k);
            }
            CHECKF(same((const void *const *)b, size * 2), "way %d, %dx%d",
                   way, (int)n, (int)k);
            for (int64_t c = 0; c < n; c++)
                for (int64_t j = 0; j < k; j++) {
                    const float v = way == 0 ? f[c * k + j] :
                        way == 1 ? wan_bf16_to_f32(h[c * k + j]) : g[j * n + c];

                    wrong += packed(b[0], n, k, c, j) !=
                             wan_bf16_to_f32(wan_f32_to_bf16(v));
                }
            CHECKF(!wrong, "way %d, %dx%d: %d", way, (int)n, (int)k, wrong);
        }
        drop();
    }
}

/*
 * Sums of BF16 products, each of them exact in F32, against sums in double. A
 * sum of n numbers is off by some root of n roundings; where instructions round
 * to odd a rounding is up to 2^-23, a third of its square on average, so twice
 * what it is to nearest. Of each row alone the bits are the same.
 */
TEST(bf16_products)
{
    for (int i = 0; i < COUNT(rows) * COUNT(columns); i++) {
        const int64_t m = rows[i % COUNT(rows)], n = columns[i / COUNT(rows)];
        const int64_t k = wan_bf16_depth(inputs[i * 7 % COUNT(inputs)]);
        const int64_t ld = wan_bf16_cols(n), lda = k + 2 * (i % 3);
        const int taps = 1 + i % 3;
        const int64_t shift[] = { 0, 2 * lda, lda };
        const int64_t b_rows = taps * k;
        const uint16_t *a = normal_bf16((m + 2) * lda);
        const uint16_t *b = normal_bf16(wan_bf16_packed(n, b_rows));
        float *c[2] = { at_end(m * ld * 4), at_end(m * ld * 4) };
        float *row = at_end(ld * 4);
        const double tol = 0x1p-23 * (1 + sqrt((double)b_rows) / 5) * 1.5;

        for (int plain = 0; plain < 2; plain++) {
            double err = 0, sum = 0;

            both_plain(plain);
            for (int add = 0; add < 2; add++)
                wan_bf16_product(m, n, k, taps, taps > 1 ? shift : NULL, a,
                                 lda, b, add, c[plain], ld);
            for (int64_t r = 0; r < m; r++) {
                for (int64_t j = 0; j < n; j++) {
                    double s = 0;

                    for (int64_t p = 0; p < b_rows; p++)
                        s += 2 * packed(b, n, b_rows, j, p) * wan_bf16_to_f32(
                            a[shift[p / k] + r * lda + p % k]);
                    err += (c[plain][r * ld + j] - s) *
                           (c[plain][r * ld + j] - s);
                    sum += s * s;
                }
                for (int add = 0; add < 2; add++)
                    wan_bf16_product(1, n, k, taps, taps > 1 ? shift : NULL,
                                     a + r * lda, lda, b, add, row, ld);
                CHECKF(!memcmp(row, c[plain] + r * ld, n * sizeof(*row)),
                       "%dx%dx%d, row %d", (int)m, (int)n, (int)k, (int)r);
            }
            CHECKF(sqrt(err / sum) < tol, "%dx%dx%d, %d taps, plain %d: %.3g, "
                   "not %.3g", (int)m, (int)n, (int)k, taps, plain,
                   sqrt(err / sum), tol);
        }
        drop();
    }
}

/* Scores of a row, some far below the maximum that is given, which is not the
 * largest of each row. Of a polynomial that is 7.5e-5 off, rounded: 2^-8. */
TEST(bf16_exp2)
{
    for (int64_t n = 1; n < 70; n++) {
        float *s = normal_f32(n);
        const int64_t cols = wan_bf16_cols(n);
        uint16_t *p = at_end(cols * sizeof(*p));

        for (int64_t i = 0; i < n; i++)
            s[i] *= 30;
        for (int plain = 0; plain < 2; plain++) {
            float largest, above, sum, max;
            double want = 0;
            int wrong = 0;

            both_plain(plain);
            largest = wan_bf16_max(s, n);
            max = largest - (float)(n % 3);
            memset(p, 0xff, cols * sizeof(*p));
            sum = wan_bf16_exp2(p, s, n, max, &above);
            for (int64_t i = 0; i < n; i++) {
                const double x = fmax(s[i] - max, -126), e = exp2(x);
                const double has = wan_bf16_to_f32(p[i]);

                want += e;
                wrong += s[i] > largest ||
                         fabs(has - e) > e * 3.99e-3 + 0x1p-126;
            }
            for (int64_t i = n; i < cols; i++)
                wrong += p[i] != 0;
            CHECKF(!wrong && above == largest - max &&
                   fabs(sum - want) < want * 7.6e-5, "%d, plain %d: %d wrong, "
                   "above %g, sum %g, not %g", (int)n, plain, wrong, above,
                   sum, want);
        }
        drop();
    }
}

/* Against a product and what its scores weigh, in double, around the maximum
 * that is given; at 0x1p64 the caller has to look. */
TEST(bf16_weights)
{
    enum { DEPTH = 70, M = 25 };
    int done = 0, there = wan_bf16_native();

#if defined(__aarch64__)
    there = 0;
#elif WAN_KNOWS_AMX
    there = there && !wan_amx_bf16();
#endif

    both_plain(1);
    CHECK(!wan_bf16_weights(1, 64, 2, NULL, 2, NULL, NULL, NULL, 64, NULL));
    both_plain(0);
    for (int m = 1; m <= M; m++) {
        const int64_t n = 64 * (1 + m % 3), k = 2 * (1 + m * 7 % (DEPTH / 2));
        const float *x = normal_f32(m * k), *y = normal_f32(n * k);
        uint16_t *a = at_end(m * k * 2), *b = at_end(n * k * 2);
        uint16_t *p = at_end(m * n * 2);
        float *max = at_end(m * sizeof(*max));
        float *s = at_end(m * n * sizeof(*s));
        float (*parts)[16] = at_end(m * sizeof(*parts));
        int wrong = 0, sums = 0;

        for (int r = 0; r < m; r++)
            wan_bf16_round(a + r * k, x + r * k, k, 3);
        wan_bf16_pack_rows(b, y, k, n, k);
        wan_bf16_product(m, n, k, 1, NULL, a, k, b, 0, s, n);
        for (int r = 0; r < m; r++)     // one above what a float may be
            max[r] = wan_bf16_max(s + r * n, n) - (r == 7 ? 200 : r % 4);
        memset(p, 0xff, m * n * sizeof(*p));
        memset(parts, 0xff, m * sizeof(*parts));
        if (!wan_bf16_weights(m, n, k, a, k, b, max, p, n, parts)) {
            drop();
            continue;
        }
        done++;
        for (int r = 0; r < m; r++) {
            double sum = 0, want = 0;

            for (int i = 0; i < 16; i++)
                sum += parts[r][i];
            for (int64_t j = 0; j < n; j++) {
                const double e = exp2(fmax((double)s[r * n + j] - max[r],
                                           -126));

                want += e;
                wrong += r != 7 && fabs(wan_bf16_to_f32(p[r * n + j]) - e) >
                                   e * 4.1e-3 + 0x1p-126;
            }
            sums += r == 7 ? !(sum > 0x1p64) : fabs(sum - want) > want * 1e-4;
        }
        CHECKF(!wrong && !sums, "%dx%dx%d: %d wrong, %d sums", m, (int)n,
               (int)k, wrong, sums);
        drop();
    }
    CHECKF(done == (there ? M : 0), "%d", done);
}

/* -------------------------------------------------------------- 8 bits */

/* Sums are exact, so they are those of what was packed. */
TEST(int8_products)
{
    for (int i = 0; i < COUNT(rows) * COUNT(columns); i++) {
        const int64_t m = rows[i % COUNT(rows)], n = columns[i / COUNT(rows)];
        const int64_t k = inputs[i * 7 % COUNT(inputs)], ld = wan_bf16_cols(n);
        const int64_t depth = wan_int8_depth(k);
        const WanType type = i & 1 ? WAN_BF16 : WAN_F32;
        const float *x = normal_f32(m * k);
        const void *w = i & 1 ? (void *)normal_bf16(n * k)
                              : (void *)normal_f32(n * k);
        uint8_t *a = at_end(m * depth);
        int8_t *b[2] = { at_end(ld * depth), at_end(ld * depth) };
        float *c[2] = { at_end(m * ld * 4), at_end(m * ld * 4) };
        WanInt8Columns of[2];
        float scale[25];
        int wrong = 0;

        for (int plain = 0; plain < 2; plain++) {
            both_plain(plain);
            for (int64_t r = 0; r < m; r++)
                scale[r] = wan_int8_round(a + r * depth, x + r * k, k);
            wan_int8_pack(b[plain], &of[plain], 0, w, type, k, n, k);
            for (int add = 0; add < 2; add++)
                wan_int8_product(m, n, depth, a, depth, scale, 1, b[plain],
                                 &of[plain], add, c[plain], ld);
        }
        CHECKF(same((const void *const *)b, ld * depth) &&
               !memcmp(of[0].sum, of[1].sum, ld * sizeof(*of->sum)) &&
               !memcmp(of[0].scale, of[1].scale, ld * sizeof(*of->scale)) &&
               same((const void *const *)c, m * ld * 4), "%dx%dx%d", (int)m,
               (int)n, (int)k);
        for (int64_t r = 0; r < m; r++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                int64_t step;
                const int64_t at = wan_bf16_at(n, depth / 2, j, &step);

                for (int64_t p = 0; p < k; p++) {
                    const double v = type == WAN_F32
                        ? ((const float *)w)[j * k + p]
                        : wan_bf16_to_f32(((const uint16_t *)w)[j * k + p]);
                    const int8_t is = b[0][2 * (at + p / 4 * step) + p % 4];

                    wrong += fabs(is - v / of[0].scale[j]) > 0.5001;
                    sum += (a[r * depth + p] - 128) * is;
                }
                sum *= 2. * scale[r] * of[0].scale[j];
                wrong += fabs(c[0][r * ld + j] - sum) > 1e-6 * fabs(sum);
            }
        CHECKF(!wrong, "%dx%dx%d: %d of %d", (int)m, (int)n, (int)k, wrong,
               (int)(m * n));
        drop();
    }
}

TEST(int8_blocks)
{
    for (int i = 0; i < COUNT(rows) * COUNT(columns); i++) {
        const int64_t m = rows[i % COUNT(rows)], n = columns[i / COUNT(rows)];
        const int64_t k = 32 * (1 + i % 4), ld = wan_bf16_cols(n);
        const int64_t depth = wan_int8_depth(k);
        const int64_t bytes = wan_int8_blocks_bytes(n, k);
        const float *x = normal_f32(m * k);
        uint8_t *a = at_end(m * depth), *w = at_end(n * k / 32 * 34);
        int8_t *b[2] = { at_end(bytes), at_end(bytes) };
        float *c[2] = { at_end(m * ld * 4), at_end(m * ld * 4) };
        float *v = normal_f32(n * k), scale[25];
        double err = 0, of = 0;

        wan_from_f32(w, WAN_Q8_0, v, n * k);
        wan_to_f32(v, w, WAN_Q8_0, n * k, 1);
        for (int plain = 0; plain < 2; plain++) {
            both_plain(plain);
            for (int64_t r = 0; r < m; r++)
                scale[r] = wan_int8_round(a + r * depth, x + r * k, k);
            wan_int8_pack_blocks(b[plain], w, k, n, k);
            for (int add = 0; add < 2; add++)
                wan_int8_product_blocks(m, n, k, a, depth, scale, 1, b[plain],
                                        add, c[plain], ld);
        }
        CHECKF(same((const void *const *)b, bytes) &&
               same((const void *const *)c, m * ld * 4), "%dx%dx%d", (int)m,
               (int)n, (int)k);
        for (int64_t r = 0; r < m; r++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;

                for (int64_t p = 0; p < k; p++)
                    sum += 2. * scale[r] * (a[r * depth + p] - 128) *
                           v[j * k + p];
                err += (c[0][r * ld + j] - sum) * (c[0][r * ld + j] - sum);
                of += sum * sum;
            }
        CHECKF(sqrt(err / of) < 5e-7, "%dx%dx%d: %.3g", (int)m, (int)n,
               (int)k, sqrt(err / of));
        drop();
    }
}

int main(void)
{
    printf("# this processor multiplies BF16: %s, 8 bits: %s\n",
           wan_bf16_native() ? "yes" : "no", wan_int8_native() ? "yes" : "no");
    RUN(bf16_is_packed);
    RUN(bf16_products);
    RUN(bf16_exp2);
    RUN(bf16_weights);
    RUN(int8_products);
    RUN(int8_blocks);
    return test_end();
}
