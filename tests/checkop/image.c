/*
 * Tests of the pixel formats.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "../../wan/image.h"

#define IMAGE_GUARD 0xa5

typedef struct TestImage {
    WanImage img;
    uint8_t *base[3];
    int64_t bytes[3];
} TestImage;

/* Planes with 5 bytes between rows, bottom row first if flipped. */
static TestImage image_make(enum WanPixelFormat format, int w, int h, int flip)
{
    TestImage t = { .img = { .format = format, .width = w, .height = h } };

    for (int p = 0; p < 3; p++) {
        const int64_t row = wan_image_row_bytes(format, w, p) + 5;
        const int rows = wan_image_rows(format, h, p);

        if (!rows)
            continue;
        t.bytes[p] = row * rows;
        t.base[p] = malloc(t.bytes[p]);
        memset(t.base[p], IMAGE_GUARD, t.bytes[p]);
        t.img.data[p] = t.base[p] + (flip ? (rows - 1) * row : 0);
        t.img.stride[p] = flip ? -row : row;
    }
    return t;
}

static void image_free(TestImage *t)
{
    for (int p = 0; p < 3; p++)
        free(t->base[p]);
}

static double image_get(const TestImage *t, int plane, int i, int j)
{
    const char *row = (char *)t->img.data[plane] + i * t->img.stride[plane];
    uint16_t h;
    float f;

    if (t->img.format == WAN_PIX_YUV420P10) {
        memcpy(&h, row + 2 * j, 2);
        return h;
    }
    if (t->img.format == WAN_PIX_P010) {    // what is below is 0
        memcpy(&h, row + 2 * j, 2);
        return h / 64.0;
    }
    if (t->img.format == WAN_PIX_GBRPF32) {
        memcpy(&f, row + 4 * j, 4);
        return f;
    }
    return (uint8_t)row[j];
}

/* The channel (R, G, B or Y, Cb, Cr) of sample j of a row, and in *x its column
 * among that channel's. */
static int image_channel(enum WanPixelFormat format, int plane, int j, int *x)
{
    static const int gbr[] = { 1, 2, 0 };

    *x = j;
    if (format == WAN_PIX_GBRP || format == WAN_PIX_GBRPF32)
        return gbr[plane];
    if (format == WAN_PIX_RGB24)
        *x = j / 3, plane = j % 3;
    if (plane && (format == WAN_PIX_NV12 || format == WAN_PIX_P010))
        *x = j / 2, plane = 1 + j % 2;
    return plane;
}

/* Samples in a row of a plane. */
static int image_cols(enum WanPixelFormat format, int w, int plane)
{
    const int bytes = format == WAN_PIX_YUV420P10 ||
                      format == WAN_PIX_P010 ? 2 :
                      format == WAN_PIX_GBRPF32 ? 4 : 1;

    return (int)wan_image_row_bytes(format, w, plane) / bytes;
}

/* One sample before it becomes a level, from the definitions in double. */
static double image_value(enum WanPixelFormat format, const float *rgb, int w,
                         int h, int plane, int i, int j)
{
    const int half = plane && format != WAN_PIX_YUV444P;
    const double big = format == WAN_PIX_YUV420P10 ||
                       format == WAN_PIX_P010 ? 4 : 1;
    double u[3] = { 0 }, total = 0, y;

    if (format == WAN_PIX_RGB24 || format == WAN_PIX_GBRP ||
        format == WAN_PIX_GBRPF32) {
        const int c = image_channel(format, plane, j, &j);
        const float v = rgb[(i * w + j) * 3 + c];
        const float n = (fminf(fmaxf(v, -1), 1) + 1) / 2;

        return format == WAN_PIX_GBRPF32 ? n : n * 255.0f;
    }
    plane = image_channel(format, plane, j, &j);
    for (int q = 0; q <= half; q++)
        for (int s = -half; s <= half; s++) {
            int row = half ? 2 * i + q : i, col = half ? 2 * j + s : j;
            const double weight = s ? 1 : 2;

            col = col < 0 ? 0 : col >= w ? w - 1 : col;
            total += weight;
            for (int c = 0; c < 3; c++) {
                const float v = rgb[(row * w + col) * 3 + c];

                u[c] += weight * (fmin(fmax(v, -1), 1) + 1) / 2;
            }
        }
    (void)h;
    for (int c = 0; c < 3; c++)
        u[c] /= total;
    y = 0.2126 * u[0] + 0.7152 * u[1] + 0.0722 * u[2];
    return (plane == 0 ? 16 + 219 * y :
            plane == 1 ? 128 + 224 * (u[2] - y) / (2 * (1 - 0.0722)) :
                         128 + 224 * (u[0] - y) / (2 * (1 - 0.2126))) * big;
}

/* The sample as it should be, but that those of YUV are not rounded. */
static double image_want(enum WanPixelFormat format, const float *rgb, int w,
                         int h, int plane, int i, int j)
{
    const double v = image_value(format, rgb, w, h, plane, i, j);

    return format == WAN_PIX_RGB24 || format == WAN_PIX_GBRP ? floor(v) : v;
}

static void image_case(enum WanPixelFormat format, int w, int h, int flip)
{
    const int exact = format == WAN_PIX_RGB24 || format == WAN_PIX_GBRP ||
                      format == WAN_PIX_GBRPF32;
    TestImage t = image_make(format, w, h, flip);
    Pair rgb = pair_fill(pair_out(0, h, w, 3), 0.7, 0);
    double worst = 0;
    int guard = 0;

    wan_op_image(dut, &t.img, &rgb.dut);
    dut_done();
    CHECK(!wan_dev_error(dut));
    for (int p = 0; p < 3; p++) {
        for (int i = 0; i < wan_image_rows(format, h, p); i++) {
            const uint8_t *end = (uint8_t *)t.img.data[p] +
                                 i * t.img.stride[p] +
                                 wan_image_row_bytes(format, w, p);

            for (int j = 0; j < image_cols(format, w, p); j++)
                worst = fmax(worst, fabs(image_get(&t, p, i, j) -
                                         image_want(format, rgb.ref.data, w,
                                                    h, p, i, j)));
            for (int k = 0; k < 5; k++)
                guard += end[k] != IMAGE_GUARD;
        }
    }
    /* rounded samples lie within half a level of the exact value */
    CHECKF(worst <= (exact ? 0 : 0.501), "format %d %dx%d: %g off", format, w,
           h, worst);
    CHECKF(!guard, "format %d %dx%d: wrote beside the rows", format, w, h);
    image_free(&t);
    pair_free(&rgb);
}

TEST(image_formats)
{
    for (int f = WAN_PIX_YUV420P; f <= WAN_PIX_P010; f++) {
        image_case((enum WanPixelFormat)f, 16, 16, 0);
        image_case((enum WanPixelFormat)f, 2, 2, 1);
        image_case((enum WanPixelFormat)f, 50, 6, 1);
    }
}

/* Known colours, the ends of the ranges, NaN. */
TEST(image_levels)
{
    static const struct {
        float rgb[3];
        int yuv[3], rgb8[3];
    } at[] = {
        { { -1, -1, -1 }, { 16, 128, 128 }, { 0, 0, 0 } },
        { { 1, 1, 1 }, { 235, 128, 128 }, { 255, 255, 255 } },
        { { 9, -9, -9 }, { 63, 102, 240 }, { 255, 0, 0 } },
        { { -1, 1, -1 }, { 173, 42, 26 }, { 0, 255, 0 } },
        { { -1, -1, 1 }, { 32, 240, 118 }, { 0, 0, 255 } },
        { { 0, 0, 0 }, { 126, 128, 128 }, { 127, 127, 127 } },
        { { NAN, NAN, NAN }, { 16, 128, 128 }, { 0, 0, 0 } },
    };

    for (int k = 0; k < COUNT(at); k++)
        for (int f = WAN_PIX_YUV420P; f <= WAN_PIX_P010; f++) {
            const int ten = f == WAN_PIX_YUV420P10 || f == WAN_PIX_P010;
            const int pairs = f == WAN_PIX_NV12 || f == WAN_PIX_P010;
            TestImage t = image_make((enum WanPixelFormat)f, 2, 2, 0);
            float rgb[12];

            for (int i = 0; i < 12; i++)
                rgb[i] = at[k].rgb[i % 3];
            wan_image_write(&t.img, rgb);
            for (int p = 0; p < 3; p++) {
                static const int gbr[] = { 1, 2, 0 };
                const double v = f == WAN_PIX_RGB24
                    ? image_get(&t, 0, 1, 3 + p) : pairs && p
                    ? image_get(&t, 1, 0, p - 1) : image_get(&t, p, 0, 0);
                const double want =
                    ten ? at[k].yuv[p] * 4 :
                    pairs || f <= WAN_PIX_YUV420P10 ? at[k].yuv[p] :
                    f == WAN_PIX_RGB24 ? at[k].rgb8[p] :
                    f == WAN_PIX_GBRP ? at[k].rgb8[gbr[p]] :
                    at[k].rgb8[gbr[p]] == 127 ? 0.5 :
                    at[k].rgb8[gbr[p]] / 255.0;

                CHECKF(fabs(v - want) <= (ten ? 2 : 0), "colour %d format %d plane "
                       "%d: %g, not %g", k, f, p, v, want);
            }
            image_free(&t);
        }
}

/* Bayer's 8x8 matrix; channels at other cells. */
TEST(image_bayer)
{
    static const int rows[2][8] = { { 0, 32, 8, 40, 2, 34, 10, 42 },
                                    { 48, 16, 56, 24, 50, 18, 58, 26 } };

    for (int i = 0; i < 16; i++)
        CHECK(wan_bayer(0, i % 8, i / 8) ==
              (2 * rows[i / 8][i % 8] + 1) / 128.0f);
    for (int c = 0; c < 3; c++)
        for (int at = 0; at < 9; at++) {        // where the 8x8 begin
            uint64_t seen = 0;

            for (int i = 0; i < 64; i++)
                seen |= UINT64_C(1) << (int)(wan_bayer(c, at + i % 8,
                                                       3 * at + i / 8) * 64);
            CHECKF(seen == UINT64_MAX, "channel %d at %d", c, at);
        }
    for (int i = 0; i < 64; i++) {
        const int r = (int)(wan_bayer(0, i % 8, i / 8) * 4);
        const int g = (int)(wan_bayer(1, i % 8, i / 8) * 4);
        const int b = (int)(wan_bayer(2, i % 8, i / 8) * 4);

        CHECKF(r != g && g != b && b != r, "at %d", i);
    }
}

/* The mean of 8x8 samples of one colour is the colour. */
TEST(image_dither_mean)
{
    enum { N = 16 };            // chroma has an 8x8 of its own

    for (int f = WAN_PIX_YUV420P; f <= WAN_PIX_P010; f++)
        for (int k = 0; k < 20; k++) {
            TestImage t = image_make((enum WanPixelFormat)f, N, N, 0);
            Pair rgb = pair_out(0, N, N, 3);
            double worst = 0;

            for (int c = 0; c < 3; c++) {
                const float v = (float)(random_normal() * 0.5);

                for (int i = 0; i < N * N; i++)
                    pair_set(&rgb, i, c, v);
            }
            t.img.dither = WAN_DITHER_BAYER;
            wan_op_image(dut, &t.img, &rgb.dut);
            dut_done();
            for (int p = 0; p < 3; p++) {
                const int cols = image_cols((enum WanPixelFormat)f, N, p);
                double sum[3] = { 0 };
                int n[3] = { 0 }, x;

                for (int i = 0; i < 8 && cols; i++)
                    for (int j = 0; j < cols; j++) {
                        const int c = image_channel((enum WanPixelFormat)f, p,
                                                    j, &x);
                        if (x < 8)
                            sum[c] += image_get(&t, p, i, j) -
                                      image_value((enum WanPixelFormat)f,
                                                  rgb.ref.data, N, N, p, i, j);
                        n[c] += x < 8;
                    }
                for (int c = 0; c < 3; c++)
                    worst = fmax(worst, n[c] ? fabs(sum[c] / n[c]) : 0);
            }
            CHECKF(worst <= (f == WAN_PIX_GBRPF32 ? 0 : 1 / 128.0 + 1e-4),
                   "format %d: %g off", f, worst);
            image_free(&t);
            pair_free(&rgb);
        }
}

/* Where each sample stands: floor(v + the pattern), at most a level from what
 * it is without; floats are what they are without. */
static void dither_case(enum WanPixelFormat format, int w, int h, int flip)
{
    TestImage t = image_make(format, w, h, flip);
    TestImage none = image_make(format, w, h, flip);
    TestImage same = image_make(format, w, h, flip);
    Pair rgb = pair_fill(pair_out(0, h, w, 3), 0.7, 0);
    int wrong = 0, far = 0, differ = 0, x;

    t.img.dither = same.img.dither = WAN_DITHER_BAYER;
    wan_op_image(dut, &none.img, &rgb.dut);
    wan_op_image(dut, &t.img, &rgb.dut);
    dut_done();
    wan_image_write(&same.img, rgb.ref.data);
    for (int p = 0; p < 3; p++) {
        for (int i = 0; i < wan_image_rows(format, h, p); i++)
            for (int j = 0; j < image_cols(format, w, p); j++) {
                const int c = image_channel(format, p, j, &x);
                const double got = image_get(&t, p, i, j);
                const double was = image_get(&none, p, i, j);
                const double v = image_value(format, rgb.ref.data, w, h, p, i,
                                             j) + wan_bayer(c, x, i);

                differ += got != was;
                far += fabs(got - was) > 1;
                wrong += format != WAN_PIX_GBRPF32 &&
                         fabs(v - rint(v)) > 1e-3 && got != floor(v);
            }
        CHECKF(!t.bytes[p] || !memcmp(t.base[p], same.base[p], t.bytes[p]),
               "format %d %dx%d: not the definition's bytes", format, w, h);
    }
    CHECKF(!wrong, "format %d %dx%d: %d wrong", format, w, h, wrong);
    CHECKF(!far, "format %d %dx%d: %d far", format, w, h, far);
    CHECKF(format == WAN_PIX_GBRPF32 ? !differ : w < 16 || differ,
           "format %d %dx%d: %d differ", format, w, h, differ);
    image_free(&t), image_free(&none), image_free(&same);
    pair_free(&rgb);
}

TEST(image_dither)
{
    for (int f = WAN_PIX_YUV420P; f <= WAN_PIX_P010; f++) {
        dither_case((enum WanPixelFormat)f, 16, 16, 0);
        dither_case((enum WanPixelFormat)f, 2, 2, 1);
        dither_case((enum WanPixelFormat)f, 50, 38, 1);
    }
}

/* Black, white and greys that are a level stay that level all over; NaN is
 * black. */
TEST(image_dither_flat)
{
    static const float grey[] = { -1, 1, NAN, 9, -9, 2 / 219.0f * 100 - 1 };

    for (int k = 0; k < COUNT(grey); k++)
        for (int f = WAN_PIX_YUV420P; f <= WAN_PIX_P010; f++) {
            TestImage t = image_make((enum WanPixelFormat)f, 16, 16, 0);
            const int rgb8 = f == WAN_PIX_RGB24 || f == WAN_PIX_GBRP;
            float rgb[16 * 16 * 3];
            int differ = 0;

            if (f == WAN_PIX_GBRPF32 || (rgb8 && k == 5)) {
                image_free(&t);
                continue;
            }
            for (int i = 0; i < COUNT(rgb); i++)
                rgb[i] = grey[k];
            t.img.dither = WAN_DITHER_BAYER;
            wan_image_write(&t.img, rgb);
            for (int p = 0; p < 3; p++)
                for (int i = 0; i < wan_image_rows(t.img.format, 16, p); i++)
                    for (int j = 0; j < image_cols(t.img.format, 16, p); j++) {
                        const double size = f == WAN_PIX_YUV420P10 ||
                                            f == WAN_PIX_P010 ? 4 : 1;
                        const int black = k == 0 || k == 2 || k == 4;
                        const int y = k == 5 ? 116 : black ? 16 : 235;
                        const double want =
                            rgb8 ? (black ? 0 : 255) : (p ? 128 : y) * size;

                        differ += image_get(&t, p, i, j) != want;
                    }
            CHECKF(!differ, "grey %d format %d: %d differ", k, f, differ);
            image_free(&t);
        }
}

static void test_image(void)
{
    RUN_F32(image_formats);
    RUN(image_levels);
    RUN(image_bayer);
    RUN_F32(image_dither_mean);
    RUN_F32(image_dither);
    RUN(image_dither_flat);
}
