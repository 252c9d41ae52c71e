/*
 * Pixels: from the VAE's numbers to the planes a caller wants.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * RGB in [-1, 1] is clamped (NaN becomes -1) and then
 *
 *   rgb24, gbrp     (x + 1) / 2 * 255, truncated, as the reference saves it
 *   gbrpf32         (x + 1) / 2
 *   yuv*            BT.709, limited range, rounded to nearest from float:
 *                   Y = 16 + 219 y, C = 128 + 224 c, times 4 for 10 bit
 *   nv12, p010      the numbers of yuv420p, yuv420p10; p010's times 64
 *
 * 4:2:0 chroma sits on the even luma columns, midway between two rows: the
 * filter is [1 2 1] / 4 along the row, its edge repeated, and the mean of the
 * two rows. Width and height must be even there.
 *
 * With WAN_DITHER_BAYER a value v of an integer format, in levels, 255 u or
 * the above, becomes floor(v + wan_bayer()). That is v plus an offset between
 * -1/2 and 1/2 of mean 0, rounded to nearest, RGB too: over 8x8 samples the
 * mean is v, within 1/128, and v that is a whole level stays it.
 */

#ifndef WAN_IMAGE_H
#define WAN_IMAGE_H

#include "wan.h"

#ifdef __CUDACC__               // image.cu wants the pattern as well
#define WAN_BOTH __host__ __device__
#else
#define WAN_BOTH
#endif

/**
 * The ordered pattern: from 1/128 to 127/128 in steps of 1/64, each once in
 * any 8x8 samples. Bayer's matrix: the bits of x ^ y and y in turn, the lowest
 * on top, so that the bits that differ between neighbours count most.
 *
 * @param c    R, G, B or Y, Cb, Cr. They take different cells of the pattern
 *             at the same place, in different quarters of its range.
 * @param x,y  the sample's column and row among those of its channel
 */
static WAN_BOTH inline float wan_bayer(int c, int x, int y)
{
    y += c >> 1 ? 5 : 0;
    x += c & 1 ? 5 : 0;
    x ^= y;
    return ((x & 1) << 6 | (y & 1) << 5 | (x & 2) << 3 | (y & 2) << 2 |
            (x & 4) | (y & 4) >> 1 | 1) / 128.f;
}

/* Bytes of one row of a plane; 0: the format has no such plane. */
int64_t wan_image_row_bytes(enum WanPixelFormat format, int width, int plane);

/* Rows of a plane. */
int wan_image_rows(enum WanPixelFormat format, int height, int plane);

/* img's planes from rgb [img->height, img->width, 3], dense. */
void wan_image_write(const WanImage *img, const float *rgb);

/**
 * The other way: rgb [3, h, w] in [-1, 1], dense, from the w x h pixels of
 * img at (x0, y0). img is RGB24, GBRP (p / 255) or GBRPF32.
 */
void wan_image_read(float *rgb, const WanImage *img, int x0, int y0, int w,
                    int h);

/* Filters, each as wide as the reduction: Lanczos with a = 3, and bicubic with
 * a = -0.5. */
typedef enum WanFilter { WAN_LANCZOS, WAN_BICUBIC } WanFilter;

/**
 * The middle of img, scaled until it covers w x h, as rgb [3, h, w] in [-1, 1].
 * A filter on bytes, first along rows, then along columns, each rounded to
 * bytes: what Pillow's resize() and a crop give. GBRPF32 is rounded to bytes
 * before.
 *
 * @return 0 or WAN_ERR(ENOMEM)
 */
int wan_image_cover(float *rgb, const WanImage *img, int w, int h,
                    WanFilter filter);

/**
 * All of img, as large as w x h takes it, in the middle of white, as rgb
 * [3, h, w] in [-1, 1]. Bilinear, pixel centres at halves, edges repeated, no
 * antialiasing, as PyTorch's interpolate(mode="bilinear",
 * align_corners=False); an img of w x h stays as it is. However narrow, it is
 * a pixel wide.
 */
void wan_image_canvas(float *rgb, const WanImage *img, int w, int h);

#endif /* WAN_IMAGE_H */
