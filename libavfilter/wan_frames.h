/*
 * Frames of the Wan filters: pixels, colours, pictures from files
 *
 * This file is part of FFmpeg.
 *
 * FFmpeg is free software; you can redistribute it and/or
 * modify it under the terms of the GNU Lesser General Public
 * License as published by the Free Software Foundation; either
 * version 2.1 of the License, or (at your option) any later version.
 *
 * FFmpeg is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the GNU
 * Lesser General Public License for more details.
 *
 * You should have received a copy of the GNU Lesser General Public
 * License along with FFmpeg; if not, write to the Free Software
 * Foundation, Inc., 51 Franklin Street, Fifth Floor, Boston, MA 02110-1301 USA
 */

/**
 * @file
 * Between AVFrames of any format and what libwan reads and writes. RGB in
 * floats is gbrpf32, values from 0 to 1, by BT.709's curve unless it came from
 * a file with other tags.
 *
 * Conversions are our own: libswscale keeps 8 bits of many formats on the way
 * to float, and another chroma filter than libwan. It does scale, where a
 * picture's size is not the video's.
 */

#ifndef AVFILTER_WAN_FRAMES_H
#define AVFILTER_WAN_FRAMES_H

#include <wan.h>

#include "libavutil/frame.h"
#include "libavutil/pixdesc.h"
#include "libavformat/avformat.h"

#define FF_WAN_NB_PIXEL_FORMATS 8

/** What libwan writes. */
typedef struct FFWanPixelFormat {
    enum AVPixelFormat av;
    enum WanPixelFormat wan;
    int cuda;                           ///< of CUDA frames too, in all versions
} FFWanPixelFormat;

extern const FFWanPixelFormat ff_wan_pixel_formats[FF_WAN_NB_PIXEL_FORMATS];

/** What the pixels of a frame are, wherever they lie. */
enum AVPixelFormat ff_wan_pixels_of(const AVFrame *frame);

/** The pixels of a frame as libwan sees them; the frame must live as long. */
void ff_wan_describe(WanImage *image, const AVFrame *frame);

/** @param out  a frame with its buffers, or NULL after an error */
int ff_wan_new_frame(AVFrame **out, int format, int width, int height);

/** Colours as libwan makes them. */
void ff_wan_set_colours(AVFrame *frame);

/** Could libwan write this frame, with these tags? */
int ff_wan_as_made(const AVFrame *frame);

/** Can the pixels be converted to RGB, and if both, back again? */
int ff_wan_convertible(const AVPixFmtDescriptor *desc, int both);

/**
 * Is there a conversion for YUV of this matrix? Other formats have none.
 *
 * @param what  has that matrix, for the log
 * @return 0, or AVERROR(ENOSYS), logged
 */
int ff_wan_check_matrix(void *log, int format, enum AVColorSpace space,
                        const char *what);

/** Does the decoder say that something is missing? */
int ff_wan_is_damaged(const AVFrame *frame);

/**
 * Convert a frame to a format that libwan reads, by its tags.
 *
 * @param out     a new reference; rgb24 and gbrp pass as they are
 * @param what    the input's or the option's name, for the log
 * @param warned  set when something was said of what is lost; then no more
 */
int ff_wan_to_rgb(void *log, AVFrame **out, const AVFrame *in,
                  const char *what, int *warned);

/**
 * A frame as the mask of another one, by its first component alone: luma, or red,
 * in the range that its tags say. It is laid over that frame, and then has the
 * size that ff_wan_resize() would give that: its pixels are the nearest ones, so
 * black and white stay what they are.
 *
 * @param out    gbrpf32, all three alike, a new frame
 * @param video  the frame, of which the size counts
 * @param what   the input's name, for the log
 */
int ff_wan_to_mask(void *log, AVFrame **out, const AVFrame *in,
                   const AVFrame *video, int width, int height, int cover,
                   const char *what);

/**
 * Convert gbrpf32 to the format and by the tags of a frame of that size.
 *
 * @param what  has those tags, for the log
 */
int ff_wan_store_rgb(void *log, AVFrame *out, const AVFrame *rgb,
                     const char *what);

/**
 * Read an image, or the first frame of a video, as ff_wan_to_rgb() has it, upright.
 * Half a picture is refused, and so is a pipe, which could be waited for without
 * an end.
 *
 * @param option  whose file it is, for the log
 */
int ff_wan_decode_file(void *log, AVFrame **out, const char *option,
                       const char *path, const AVIOInterruptCB *interrupt);

/**
 * A picture scaled into width x height, its shape kept, on black.
 *
 * @param out  gbrpf32, a new frame
 * @param rgb  rgb24, gbrp or gbrpf32; NULL: black alone
 */
int ff_wan_fit(AVFrame **out, const AVFrame *rgb, int width, int height);

/**
 * A picture scaled to width x height: all of it, whatever becomes of its shape,
 * or with `cover` its middle, in its own shape.
 *
 * @param out  gbrpf32, a new frame
 * @param rgb  rgb24, gbrp or gbrpf32
 */
int ff_wan_resize(AVFrame **out, const AVFrame *rgb, int width, int height,
                  int cover);

/**
 * Mix light: to = to * weight + from * (1 - weight). Both are gbrpf32 by
 * BT.709's curve, of one size.
 */
void ff_wan_mix(AVFrame *to, const AVFrame *from, float weight);

#endif /* AVFILTER_WAN_FRAMES_H */
