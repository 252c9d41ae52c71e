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

/* One sample, from the definitions in double. */
static double image_want(enum WanPixelFormat format, const float *rgb, int w,
                         int h, int plane, int i, int j)
{
    static const int gbr[] = { 1, 2, 0 };
    const int half = plane && format != WAN_PIX_YUV444P;
    const double big = format == WAN_PIX_YUV420P10 ||
                       format == WAN_PIX_P010 ? 4 : 1;
    double u[3] = { 0 }, total = 0, y;

    if (format == WAN_PIX_RGB24 || format == WAN_PIX_GBRP ||
        format == WAN_PIX_GBRPF32) {
        const int rgb24 = format == WAN_PIX_RGB24;
        const int c = rgb24 ? j % 3 : gbr[plane];
        const float v = rgb[(i * w + (rgb24 ? j / 3 : j)) * 3 + c];
        const float n = (fminf(fmaxf(v, -1), 1) + 1) / 2;

        return format == WAN_PIX_GBRPF32 ? n : floor(n * 255.0f);
    }
    if (plane && (format == WAN_PIX_NV12 || format == WAN_PIX_P010))
        plane += j & 1, j /= 2;
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
        const int bytes = format == WAN_PIX_YUV420P10 ||
                          format == WAN_PIX_P010 ? 2 :
                          format == WAN_PIX_GBRPF32 ? 4 : 1;
        const int cols = (int)wan_image_row_bytes(format, w, p) / bytes;

        for (int i = 0; i < wan_image_rows(format, h, p); i++) {
            const uint8_t *end = (uint8_t *)t.img.data[p] +
                                 i * t.img.stride[p] + cols * bytes;

            for (int j = 0; j < cols; j++)
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

static void test_image(void)
{
    RUN_F32(image_formats);
    RUN(image_levels);
}
