/*
 * Pixels: from the VAE's numbers to the planes a caller wants.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

int64_t wan_image_row_bytes(enum WanPixelFormat format, int width, int plane)
{
    const int64_t w = width;

    switch (format) {
    case WAN_PIX_YUV420P:
        return plane > 2 ? 0 : plane ? w / 2 : w;
    case WAN_PIX_YUV420P10:
        return plane > 2 ? 0 : plane ? w / 2 * 2 : w * 2;
    case WAN_PIX_YUV444P:
    case WAN_PIX_GBRP:
        return plane > 2 ? 0 : w;
    case WAN_PIX_RGB24:
        return plane > 0 ? 0 : w * 3;
    case WAN_PIX_GBRPF32:
        return plane > 2 ? 0 : w * 4;
    case WAN_PIX_NV12:
        return plane > 1 ? 0 : w;
    case WAN_PIX_P010:
        return plane > 1 ? 0 : w * 2;
    }
    return 0;
}

int wan_image_rows(enum WanPixelFormat format, int height, int plane)
{
    const int half = format == WAN_PIX_YUV420P || format == WAN_PIX_NV12 ||
                     format == WAN_PIX_YUV420P10 || format == WAN_PIX_P010;

    if (!wan_image_row_bytes(format, 2, plane))
        return 0;
    return half && plane ? height / 2 : height;
}

/* [-1, 1] to [0, 1]; NaN to 0. */
static float unit(float x)
{
    if (!(x > -1))
        return 0;
    return x < 1 ? (x + 1) / 2 : 1;
}

static char *plane_row(const WanImage *img, int plane, int row)
{
    return (char *)img->data[plane] + row * img->stride[plane];
}

/* How the samples of YUV lie. */
typedef struct Layout {
    int bytes;                      // of a sample
    int half;                       // chroma at half the rows and columns
    int pairs;                      // Cb and Cr in turn in one plane
    int left;                       // bits a sample is moved up by
} Layout;

static const Layout layouts[] = {
    [WAN_PIX_YUV420P]   = { 1, 1, 0, 0 }, [WAN_PIX_NV12] = { 1, 1, 1, 0 },
    [WAN_PIX_YUV420P10] = { 2, 1, 0, 0 }, [WAN_PIX_P010] = { 2, 1, 1, 6 },
    [WAN_PIX_YUV444P]   = { 1, 0, 0, 0 },
};

/* The level of a sample of YUV: the nearest, or by the pattern. Values are
 * positive, so the conversion is floor(). */
static int level(const WanImage *img, int c, ptrdiff_t x, int y, float value)
{
    if (img->dither == WAN_DITHER_BAYER)
        return (int)(value + wan_bayer(c, (int)x, y));
    return (int)lrintf(value);
}

/* Planes may have any alignment. */
static void put(char *row, ptrdiff_t i, const Layout *l, int value)
{
    const int v = value << l->left;
    const uint8_t v8 = (uint8_t)v;
    const uint16_t v16 = (uint16_t)v;

    if (l->bytes == 1)
        memcpy(row + i, &v8, 1);
    else
        memcpy(row + 2 * i, &v16, 2);
}

static void write_rgb(const WanImage *img, const float *rgb)
{
    static const unsigned char plane_of[3] = { 2, 0, 1 };  // R, G, B in gbrp
    const int packed = img->format == WAN_PIX_RGB24;
    const int dither = img->dither == WAN_DITHER_BAYER;
    const int w = img->width;

    for (int i = 0; i < img->height; i++, rgb += (ptrdiff_t)w * 3) {
        for (int c = 0; c < 3; c++) {
            const int plane = packed ? 0 : plane_of[c];
            const int step = packed ? 3 : 1;
            char *out = plane_row(img, plane, i) + (packed ? c : 0);

            for (int j = 0; j < w; j++) {
                const float u = unit(rgb[(ptrdiff_t)j * 3 + c]);
                const float v = u * 255;

                if (img->format == WAN_PIX_GBRPF32)
                    memcpy(out + (ptrdiff_t)j * 4, &u, 4);
                else
                    out[(ptrdiff_t)j * step] = (char)(uint8_t)(
                        v + (dither ? wan_bayer(c, j, i) : 0));
            }
        }
    }
}

/* BT.709 from [0,1] RGB: y in [0,1], cb and cr in [-0.5, 0.5]. */
static float luma(const float u[3])
{
    return 0.2126f * u[0] + 0.7152f * u[1] + 0.0722f * u[2];
}

static void write_yuv(const WanImage *img, const float *rgb)
{
    const Layout *l = &layouts[img->format];
    const int half = l->half;
    const float unit_size = l->bytes == 2 ? 4 : 1;
    const ptrdiff_t w = img->width;

    for (int i = 0; i < img->height; i++) {
        char *out = plane_row(img, 0, i);

        for (ptrdiff_t j = 0; j < w; j++) {
            const float *p = rgb + (i * w + j) * 3;
            const float u[3] = { unit(p[0]), unit(p[1]), unit(p[2]) };

            put(out, j, l, level(img, 0, j, i,
                                 (16 + 219 * luma(u)) * unit_size));
        }
    }

    for (int i = 0; i < img->height >> half; i++) {
        char *cb = plane_row(img, 1, i);
        char *cr = l->pairs ? cb + l->bytes : plane_row(img, 2, i);

        for (ptrdiff_t j = 0; j < w >> half; j++) {
            float u[3] = { 0 };     // the colour under this chroma sample

            for (int q = 0; q <= half; q++) {
                const float *row = rgb + ((i << half) + q) * w * 3;

                for (int c = 0; c < 3; c++) {
                    if (half) {
                        const ptrdiff_t at = 2 * j, left = at ? at - 1 : 0;
                        const ptrdiff_t right = at + 1 < w ? at + 1 : at;

                        u[c] += (unit(row[left * 3 + c]) +
                                 2 * unit(row[at * 3 + c]) +
                                 unit(row[right * 3 + c])) * 0.125f;
                    } else {
                        u[c] = unit(row[j * 3 + c]);
                    }
                }
            }
            const float y = luma(u);
            const float b = (128 + 224 * (u[2] - y) / 1.8556f) * unit_size;
            const float r = (128 + 224 * (u[0] - y) / 1.5748f) * unit_size;
            put(cb, j << l->pairs, l, level(img, 1, j, i, b));
            put(cr, j << l->pairs, l, level(img, 2, j, i, r));
        }
    }
}

void wan_image_write(const WanImage *img, const float *rgb)
{
    switch (img->format) {
    case WAN_PIX_RGB24:
    case WAN_PIX_GBRP:
    case WAN_PIX_GBRPF32:
        write_rgb(img, rgb);
        break;
    case WAN_PIX_YUV420P:
    case WAN_PIX_YUV444P:
    case WAN_PIX_YUV420P10:
    case WAN_PIX_NV12:
    case WAN_PIX_P010:
        write_yuv(img, rgb);
        break;
    }
}

/* Channel c (R, G, B) of a pixel, 0 to 1. */
static float read_pixel(const WanImage *img, int c, int x, int y)
{
    static const int gbr[3] = { 2, 0, 1 };      // the plane of R, G, B
    const int plane = img->format == WAN_PIX_RGB24 ? 0 : gbr[c];
    const uint8_t *row = (const uint8_t *)img->data[plane] +
                         y * img->stride[plane];
    float v;

    switch (img->format) {
    case WAN_PIX_RGB24:
        return row[3 * x + c] / 255.f;
    case WAN_PIX_GBRP:
        return row[x] / 255.f;
    default:
        memcpy(&v, row + 4 * x, sizeof(v));
        return v;
    }
}

void wan_image_read(float *rgb, const WanImage *img, int x0, int y0, int w,
                    int h)
{
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                *rgb++ = (read_pixel(img, c, x0 + x, y0 + y) - 0.5f) / 0.5f;
}

/* -------------------------------------------------------------- filters */

#define LOBES 3
#define ONE (1 << 22)           // of a weight in fixed point

/* The inputs and weights of some outputs in a row. */
typedef struct Filter {
    int n, most;                // outputs; inputs of one at most
    int *from, *count;          // [n]
    int32_t *weight;            // [n, most]
} Filter;

static double sinc(double x)
{
    return x == 0 ? 1 : sin(M_PI * x) / (M_PI * x);
}

static double lanczos(double x)
{
    return x >= -LOBES && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0;
}

/* Keys' cubic, a = -1/2. */
static double cubic(double x)
{
    x = fabs(x);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 :
           x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

static const struct {
    double (*at)(double x);
    int reach;
} kernels[] = {
    [WAN_LANCZOS] = { lanczos, LOBES }, [WAN_BICUBIC] = { cubic, 2 },
};

static void filter_free(Filter *f)
{
    free(f->from);
    free(f->count);
    free(f->weight);
    *f = (Filter){ 0 };
}

/* Outputs [first, first + n) of `in` samples resized to `out`. */
static int filter_init(Filter *f, WanFilter kind, int in, int out, int first,
                       int n)
{
    const double scale = (double)in / out, wide = scale > 1 ? scale : 1;
    const double reach = kernels[kind].reach * wide;
    double *k;

    *f = (Filter){ .n = n, .most = (int)ceil(reach) * 2 + 1 };
    f->from = malloc(n * sizeof(*f->from));
    f->count = malloc(n * sizeof(*f->count));
    f->weight = calloc((size_t)n * f->most, sizeof(*f->weight));
    k = malloc(f->most * sizeof(*k));
    if (!f->from || !f->count || !f->weight || !k) {
        free(k);
        filter_free(f);
        return WAN_ERR(ENOMEM);
    }
    for (int o = 0; o < n; o++) {
        const double centre = (first + o + 0.5) * scale;
        const int lo = (int)fmax(centre - reach + 0.5, 0);
        const int hi = (int)fmin(centre + reach + 0.5, in);
        double sum = 0;

        for (int i = lo; i < hi; i++) {
            k[i - lo] = kernels[kind].at((i - centre + 0.5) * (1 / wide));
            sum += k[i - lo];
        }
        for (int i = 0; i < hi - lo; i++) {
            const double w = k[i] / sum * ONE;

            f->weight[(size_t)o * f->most + i] = (int32_t)(w < 0 ? w - 0.5
                                                                 : w + 0.5);
        }
        f->from[o] = lo;
        f->count[o] = hi - lo;
    }
    free(k);
    return 0;
}

/* Output o from samples `step` bytes apart; in: the first of them all. */
static uint8_t filtered(const Filter *f, int o, const uint8_t *in,
                        ptrdiff_t step)
{
    const int32_t *w = f->weight + (size_t)o * f->most;
    int64_t sum = ONE / 2;

    for (int i = 0; i < f->count[o]; i++)
        sum += (int64_t)w[i] * in[(f->from[o] + i) * step];
    return (uint8_t)(sum < 0 ? 0 : sum / ONE > 255 ? 255 : sum / ONE);
}

/* Row y of img in bytes, R, G, B. */
static void byte_row(uint8_t *row, const WanImage *img, int y)
{
    for (int x = 0; x < img->width; x++)
        for (int c = 0; c < 3; c++) {
            const float v = read_pixel(img, c, x, y);

            *row++ = (uint8_t)(!(v > 0) ? 0 : v < 1 ? lrintf(v * 255) : 255);
        }
}

int wan_image_cover(float *rgb, const WanImage *img, int w, int h,
                    WanFilter filter)
{
    const double sx = (double)w / img->width, sy = (double)h / img->height;
    const double scale = sx > sy ? sx : sy;
    const int W = (int)fmax(rint(img->width * scale), w);
    const int H = (int)fmax(rint(img->height * scale), h);
    Filter across = { 0 }, down = { 0 };
    uint8_t *row = NULL, *part = NULL;
    int ret;

    if ((ret = filter_init(&across, filter, img->width, W, (W - w) / 2,
                           w)) < 0 ||
        (ret = filter_init(&down, filter, img->height, H, (H - h) / 2,
                           h)) < 0)
        goto end;
    /* the rows that the crop is made of, [n, w, 3] */
    const int y0 = down.from[0];
    const int n = down.from[h - 1] + down.count[h - 1] - y0;

    row = malloc((size_t)img->width * 3);
    part = malloc((size_t)n * w * 3);
    if (!row || !part) {
        ret = WAN_ERR(ENOMEM);
        goto end;
    }
    for (int y = 0; y < n; y++) {
        byte_row(row, img, y0 + y);
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++)
                part[((size_t)y * w + x) * 3 + c] = filtered(&across, x,
                                                             row + c, 3);
    }
    for (int y = 0; y < h; y++)
        down.from[y] -= y0;
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                *rgb++ = (filtered(&down, y, part + (size_t)x * 3 + c,
                                   (ptrdiff_t)w * 3) / 255.f - 0.5f) / 0.5f;
end:
    filter_free(&across);
    filter_free(&down);
    free(row);
    free(part);
    return ret;
}

/* --------------------------------------------------------------- canvas */

/* Where output i of `out` reads `in` samples: between *at and *next, as much of
 * next as is returned. In float, as the reference has it. */
static float between(int *at, int *next, int i, int in, int out)
{
    const float from = (float)in / out * (i + 0.5f) - 0.5f;

    *at = from > 0 ? (int)from : 0;
    if (*at > in - 1)
        *at = in - 1;
    *next = *at < in - 1 ? *at + 1 : *at;
    return from > 0 ? from - *at : 0;
}

void wan_image_canvas(float *rgb, const WanImage *img, int w, int h)
{
    const double sx = (double)w / img->width, sy = (double)h / img->height;
    const double scale = sx < sy ? sx : sy;
    const int W = (int)fmax((int)(img->width * scale), 1);
    const int H = (int)fmax((int)(img->height * scale), 1);
    const int x0 = (w - W) / 2, y0 = (h - H) / 2;

    if (img->width == w && img->height == h) {
        wan_image_read(rgb, img, 0, 0, w, h);
        return;
    }
    for (int64_t i = 0; i < (int64_t)3 * w * h; i++)
        rgb[i] = 1;
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) {
            int xi[2], yi[2];
            const float v = between(&yi[0], &yi[1], y, img->height, H);
            const float u = between(&xi[0], &xi[1], x, img->width, W);

            for (int c = 0; c < 3; c++) {
                float row[2];

                for (int k = 0; k < 2; k++) {
                    const float a = read_pixel(img, c, xi[0], yi[k]);
                    const float b = read_pixel(img, c, xi[1], yi[k]);

                    row[k] = (1 - u) * ((a - 0.5f) / 0.5f) +
                             u * ((b - 0.5f) / 0.5f);
                }
                rgb[((int64_t)c * h + y0 + y) * w + x0 + x] =
                    (1 - v) * row[0] + v * row[1];
            }
        }
}
