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
 */

#ifndef WAN_IMAGE_H
#define WAN_IMAGE_H

#include "wan.h"

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

#endif /* WAN_IMAGE_H */
