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

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "libavutil/avstring.h"
#include "libavutil/common.h"
#include "libavutil/display.h"
#include "libavutil/error.h"
#include "libavutil/hwcontext.h"
#include "libavutil/intfloat.h"
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/pixdesc.h"
#include "libavcodec/avcodec.h"
#include "libswscale/swscale.h"
#include "wan_compat.h"
#include "wan_frames.h"

const FFWanPixelFormat ff_wan_pixel_formats[FF_WAN_NB_PIXEL_FORMATS] = {
    { AV_PIX_FMT_YUV420P,   WAN_PIX_YUV420P,   1 },
    { AV_PIX_FMT_NV12,      WAN_PIX_NV12,      1 },
    { AV_PIX_FMT_YUV444P,   WAN_PIX_YUV444P,   1 },
    { AV_PIX_FMT_YUV420P10, WAN_PIX_YUV420P10, 0 },
    { AV_PIX_FMT_P010,      WAN_PIX_P010,      1 },
    { AV_PIX_FMT_GBRP,      WAN_PIX_GBRP,      0 },
    { AV_PIX_FMT_RGB24,     WAN_PIX_RGB24,     0 },
    { AV_PIX_FMT_GBRPF32,   WAN_PIX_GBRPF32,   0 },
};

enum AVPixelFormat ff_wan_pixels_of(const AVFrame *frame)
{
    if (!frame->hw_frames_ctx)
        return frame->format;
    return ((const AVHWFramesContext *)frame->hw_frames_ctx->data)->sw_format;
}

/** @param out  the frame in host memory; a new one */
static int download(AVFrame **out, const AVFrame *in)
{
    AVFrame *frame = av_frame_alloc();
    int ret;

    *out = NULL;
    if (!frame)
        return AVERROR(ENOMEM);
    if ((ret = av_hwframe_transfer_data(frame, in, 0)) < 0 ||
        (ret = av_frame_copy_props(frame, in)) < 0)
        av_frame_free(&frame);
    *out = frame;
    return ret;
}

static enum WanPixelFormat wan_format(enum AVPixelFormat format)
{
    int i;

    for (i = 0; i < FF_WAN_NB_PIXEL_FORMATS; i++)
        if (ff_wan_pixel_formats[i].av == format)
            return ff_wan_pixel_formats[i].wan;
    return -1;
}

void ff_wan_describe(WanImage *image, const AVFrame *frame)
{
    int i;

    memset(image, 0, sizeof(*image));
    image->size   = sizeof(*image);
    image->format = wan_format(ff_wan_pixels_of(frame));
    image->width  = frame->width;
    image->height = frame->height;
    for (i = 0; i < 4; i++) {
        image->data[i]   = frame->data[i];
        image->stride[i] = frame->linesize[i];
    }
}

/** Does black to white take all levels? Untagged YUV does not, in FFmpeg. */
static int full_range(const AVFrame *frame)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(frame->format);

    switch (frame->format) {
    case AV_PIX_FMT_YUVJ411P:
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ444P:
        return 1;
    }
    if (desc->nb_components < 3)        /* grey is, unless it says no */
        return frame->color_range != AVCOL_RANGE_MPEG;
    return frame->color_range == AVCOL_RANGE_JPEG;
}

static int is_yuv(const AVPixFmtDescriptor *desc)
{
    return desc->nb_components >= 3 && !(desc->flags & AV_PIX_FMT_FLAG_RGB);
}

int ff_wan_convertible(const AVPixFmtDescriptor *desc, int both)
{
    if (desc->nb_components < 1 ||
        desc->flags & (AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_BAYER) ||
        av_strstart(desc->name, "xyz", NULL))
        return 0;
    if (desc->flags & AV_PIX_FMT_FLAG_FLOAT &&
        (desc->comp[0].depth != 32 || is_yuv(desc)))
        return 0;
    /* alpha would have to be made up */
    return !both || !(desc->flags & (AV_PIX_FMT_FLAG_ALPHA |
                                     AV_PIX_FMT_FLAG_BITSTREAM |
                                     AV_PIX_FMT_FLAG_PAL));
}

/** Colours of a pixel: 3, or 1 if it is grey. */
static int nb_colours(const AVPixFmtDescriptor *desc)
{
    return desc->nb_components < 3 && !(desc->flags & AV_PIX_FMT_FLAG_PAL) ? 1
                                                                           : 3;
}

/** Weights of R and B in Y; what has no tag is BT.601, as in all of FFmpeg. */
static int matrix(enum AVColorSpace space, float *kr, float *kb)
{
    switch (space) {
    case AVCOL_SPC_BT709:      *kr = 0.2126; *kb = 0.0722; return 0;
    case AVCOL_SPC_FCC:        *kr = 0.30;   *kb = 0.11;   return 0;
    case AVCOL_SPC_SMPTE240M:  *kr = 0.212;  *kb = 0.087;  return 0;
    case AVCOL_SPC_BT2020_NCL: *kr = 0.2627; *kb = 0.0593; return 0;
    case AVCOL_SPC_BT470BG:
    case AVCOL_SPC_SMPTE170M:
    case AVCOL_SPC_UNSPECIFIED:
        *kr = 0.299;
        *kb = 0.114;
        return 0;
    }
    return AVERROR(ENOSYS);
}

int ff_wan_check_matrix(void *log, int format, enum AVColorSpace space,
                        const char *what)
{
    const char *name = av_color_space_name(space);
    float kr, kb;

    if (!is_yuv(av_pix_fmt_desc_get(format)) || matrix(space, &kr, &kb) >= 0)
        return 0;
    av_log(log, AV_LOG_ERROR, "%s: YUV of matrix %s has no conversion here; "
           "convert it first, for example scale=out_color_matrix=bt709\n",
           what, name ? name : "unknown");
    return AVERROR(ENOSYS);
}

/** Which component is alpha, -1 if none is; that of a palette stands behind RGB. */
static int alpha_component(const AVPixFmtDescriptor *desc)
{
    if (!(desc->flags & AV_PIX_FMT_FLAG_ALPHA))
        return -1;
    return desc->flags & AV_PIX_FMT_FLAG_PAL ? 3 : desc->nb_components - 1;
}

/** A component of a frame: its plane, its levels, where its samples lie. */
typedef struct Component {
    const AVPixFmtDescriptor *desc;
    int w, h;
    float zero, range;                  ///< 0 and 1 are zero and zero + range
    float step_x, step_y;               ///< pixels from sample to sample
    float x, y;                         ///< where the first lies
    uint32_t *line;                     ///< w integers
    float *v;                           ///< w x h samples
} Component;

static void close_component(Component *p)
{
    av_freep(&p->line);
    av_freep(&p->v);
}

static int open_component(Component *p, const AVFrame *frame, int c)
{
    const int loc = frame->chroma_location;
    int depth, alpha, chroma, sx, sy;

    memset(p, 0, sizeof(*p));
    p->desc = av_pix_fmt_desc_get(frame->format);
    depth   = p->desc->flags & AV_PIX_FMT_FLAG_PAL ? 8 : p->desc->comp[c].depth;
    alpha   = c == alpha_component(p->desc);
    chroma  = c > 0 && !alpha && is_yuv(p->desc);
    sx      = chroma ? p->desc->log2_chroma_w : 0;
    sy      = chroma ? p->desc->log2_chroma_h : 0;
    p->w    = AV_CEIL_RSHIFT(frame->width, sx);
    p->h    = AV_CEIL_RSHIFT(frame->height, sy);

    if (p->desc->flags & AV_PIX_FMT_FLAG_FLOAT) {
        p->range = 1;
    } else if (p->desc->flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL) ||
               alpha || full_range(frame)) {
        p->zero  = chroma ? ldexpf(1, depth - 1) : 0;
        p->range = ldexpf(1, depth) - 1;
    } else {
        p->zero  = ldexpf(chroma ? 128 : 16, depth - 8);
        p->range = ldexpf(chroma ? 224 : 219, depth - 8);
    }

    p->step_x = 1 << sx;
    p->step_y = 1 << sy;
    if (loc == AVCHROMA_LOC_CENTER || loc == AVCHROMA_LOC_TOP ||
        loc == AVCHROMA_LOC_BOTTOM)
        p->x = (p->step_x - 1) / 2;     /* else left, the default */
    if (loc == AVCHROMA_LOC_BOTTOMLEFT || loc == AVCHROMA_LOC_BOTTOM)
        p->y = p->step_y - 1;
    else if (loc != AVCHROMA_LOC_TOPLEFT && loc != AVCHROMA_LOC_TOP)
        p->y = (p->step_y - 1) / 2;

    p->line = av_malloc_array(p->w, sizeof(*p->line));
    p->v    = av_malloc_array((size_t)p->w * p->h, sizeof(*p->v));
    if (!p->line || !p->v) {
        close_component(p);
        return AVERROR(ENOMEM);
    }
    return 0;
}

static void load_component(Component *p, const AVFrame *frame, int c)
{
    const int is_float = p->desc->flags & AV_PIX_FMT_FLAG_FLOAT;
    const int palette  = p->desc->flags & AV_PIX_FMT_FLAG_PAL;
    float *v = p->v;
    int x, y;

    if (frame->format == AV_PIX_FMT_MONOWHITE) {        /* 1 is black */
        p->zero  = 1;
        p->range = -1;
    }
    for (y = 0; y < p->h; y++) {
        av_read_image_line2(p->line, (const uint8_t **)frame->data,
                            frame->linesize, p->desc, 0, y, palette ? 0 : c,
                            p->w, 0, 4);
        for (x = 0; x < p->w && palette; x++) {         /* of native ARGB */
            const uint32_t *argb = (const uint32_t *)frame->data[1];

            p->line[x] = argb[p->line[x]] >> (c < 3 ? 16 - 8 * c : 24) & 255;
        }
        for (x = 0; x < p->w; x++, v++)
            *v = ((is_float ? av_int2float(p->line[x]) : p->line[x]) -
                  p->zero) / p->range;
    }
}

/** What is not 8 bits of RGB, which libwan cuts as its reference, is rounded. */
static void store_component(Component *p, AVFrame *frame, int c)
{
    const int is_float = p->desc->flags & AV_PIX_FMT_FLAG_FLOAT;
    const int depth = p->desc->comp[c].depth;
    const int cut = p->desc->flags & AV_PIX_FMT_FLAG_RGB && depth == 8;
    const double max = ldexp(1, depth) - 1;
    const float *v = p->v;
    int x, y;

    for (y = 0; y < p->h; y++) {
        for (x = 0; x < p->w; x++, v++) {
            const float level = *v * p->range + p->zero;

            p->line[x] = is_float ? av_float2int(*v) :
                         cut      ? (uint32_t)level  :
                         (uint32_t)av_clipd(rint(level), 0, max);
        }
        av_write_image_line2(p->line, frame->data, frame->linesize, p->desc, 0,
                             y, c, p->w, 4);
    }
}

/** The value at a pixel: between samples in proportion, edges repeat. */
static float sample(const Component *p, int x, int y)
{
    const float u = (x - p->x) / p->step_x, w = (y - p->y) / p->step_y;
    const int i = floorf(u), j = floorf(w);
    const float *a = p->v + (size_t)av_clip(j,     0, p->h - 1) * p->w;
    const float *b = p->v + (size_t)av_clip(j + 1, 0, p->h - 1) * p->w;
    const int l = av_clip(i, 0, p->w - 1), r = av_clip(i + 1, 0, p->w - 1);

    return (a[l] + (a[r] - a[l]) * (u - i)) * (1 - (w - j)) +
           (b[l] + (b[r] - b[l]) * (u - i)) * (w - j);
}

/**
 * Weight of a value at a distance from a sample: one between pixels is their
 * mean, one on a pixel is 1 2 1, as libwan has it.
 */
static float gather_weight(float distance, float at, float step)
{
    if (at != floorf(at))
        return fabsf(distance) < step / 2;
    return FFMAX(1 - fabsf(distance) / step, 0);
}

/** Gather full-size values into samples. */
static void gather(Component *p, const float *full, int width, int height)
{
    const int sx = p->step_x, sy = p->step_y;
    float *v = p->v;
    int i, j, x, y;

    for (j = 0; j < p->h; j++) {
        for (i = 0; i < p->w; i++) {
            const float cx = p->x + i * sx, cy = p->y + j * sy;
            float sum = 0, weight = 0;

            for (y = ceilf(cy - sy); y <= cy + sy; y++) {
                const float wy   = gather_weight(y - cy, cy, sy);
                const float *row = full + (size_t)av_clip(y, 0, height - 1) *
                                          width;

                for (x = ceilf(cx - sx); x <= cx + sx; x++) {
                    const float w = wy * gather_weight(x - cx, cx, sx);

                    sum    += w * row[av_clip(x, 0, width - 1)];
                    weight += w;
                }
            }
            *v++ = sum / weight;
        }
    }
}

/** To [0, 1]; NaN to 0. */
static float unit(float v)
{
    return v > 0 ? FFMIN(v, 1) : 0;
}

static float *rgb_row(const AVFrame *rgb, int c, int y)
{
    static const int plane[3] = { 2, 0, 1 };        /* R, G, B in gbrp */

    return (float *)(rgb->data[plane[c]] + y * rgb->linesize[plane[c]]);
}

static int read_component(Component *p, const AVFrame *frame, int c)
{
    const int ret = open_component(p, frame, c);

    if (ret >= 0)
        load_component(p, frame, c);
    return ret;
}

/** Were the colours multiplied by alpha? Where nobody says so, they were not. */
static int is_premultiplied(const AVFrame *frame)
{
#if LAVU_FROM(60, 11)                   /* 8.1 */
    return frame->alpha_mode == AVALPHA_MODE_PREMULTIPLIED &&
           alpha_component(av_pix_fmt_desc_get(frame->format)) >= 0;
#else
    return 0;
#endif
}

/** Convert a frame to gbrpf32, by its tags. */
static int load_rgb(void *log, AVFrame *rgb, const AVFrame *in,
                    const char *what)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(in->format);
    const int yuv = is_yuv(desc), n = nb_colours(desc);
    Component p[3] = { 0 }, alpha = { 0 };
    float kr = 0, kb = 0;
    int c, x, y, ret;

    ret = ff_wan_check_matrix(log, in->format, in->colorspace, what);
    for (c = 0; c < n && ret >= 0; c++)
        ret = read_component(&p[c], in, c);
    if (ret >= 0 && is_premultiplied(in))
        ret = read_component(&alpha, in, alpha_component(desc));
    if (ret < 0)
        goto end;
    if (yuv)
        matrix(in->colorspace, &kr, &kb);

    for (y = 0; y < in->height; y++) {
        float *r = rgb_row(rgb, 0, y), *g = rgb_row(rgb, 1, y);
        float *b = rgb_row(rgb, 2, y);

        for (x = 0; x < in->width; x++) {
            const size_t at = (size_t)y * in->width + x;

            r[x] = g[x] = b[x] = p[0].v[at];
            if (yuv) {
                r[x] += 2 * (1 - kr) * sample(&p[2], x, y);
                b[x] += 2 * (1 - kb) * sample(&p[1], x, y);
                g[x]  = (g[x] - kr * r[x] - kb * b[x]) / (1 - kr - kb);
            } else if (n == 3) {
                g[x] = p[1].v[at];
                b[x] = p[2].v[at];
            }
            if (alpha.v && alpha.v[at] > 0) {
                r[x] /= alpha.v[at];
                g[x] /= alpha.v[at];
                b[x] /= alpha.v[at];
            }
            r[x] = unit(r[x]);
            g[x] = unit(g[x]);
            b[x] = unit(b[x]);
        }
    }
end:
    for (c = 0; c < n; c++)
        close_component(&p[c]);
    close_component(&alpha);
    return ret;
}

int ff_wan_store_rgb(void *log, AVFrame *out, const AVFrame *rgb,
                     const char *what)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(out->format);
    const int yuv = is_yuv(desc), n = nb_colours(desc);
    const int w = out->width, h = out->height;
    float kr, kb, *full;
    Component p;
    int c, x, y, ret = ff_wan_check_matrix(log, out->format, out->colorspace,
                                          what);

    if (ret < 0)
        return ret;
    if (matrix(out->colorspace, &kr, &kb) < 0)          /* grey, RGB */
        matrix(AVCOL_SPC_UNSPECIFIED, &kr, &kb);
    full = av_malloc_array((size_t)w * h, sizeof(*full));
    if (!full)
        return AVERROR(ENOMEM);
    for (c = 0; c < FF_ARRAY_ELEMS(out->buf) && out->buf[c]; c++)
        memset(out->buf[c]->data, 0, out->buf[c]->size);    /* lines are ORed */

    for (c = 0; c < n && ret >= 0; c++) {
        ret = open_component(&p, out, c);
        if (ret < 0)
            break;
        for (y = 0; y < h; y++) {
            const float *r = rgb_row(rgb, 0, y), *g = rgb_row(rgb, 1, y);
            const float *b = rgb_row(rgb, 2, y);
            float *v = full + (size_t)y * w;

            for (x = 0; x < w; x++) {
                const float luma = kr * r[x] + (1 - kr - kb) * g[x] +
                                   kb * b[x];

                if (n == 3 && !yuv)
                    v[x] = c == 0 ? r[x] : c == 1 ? g[x] : b[x];
                else
                    v[x] = c == 0 ? luma :
                           c == 1 ? (b[x] - luma) / 2 / (1 - kb)
                                  : (r[x] - luma) / 2 / (1 - kr);
            }
        }
        if (p.w == w && p.h == h)
            memcpy(p.v, full, (size_t)w * h * sizeof(*full));
        else
            gather(&p, full, w, h);
        store_component(&p, out, c);
        close_component(&p);
    }
    av_free(full);
    return ret;
}

int ff_wan_new_frame(AVFrame **out, int format, int width, int height)
{
    AVFrame *frame = av_frame_alloc();
    int ret;

    *out = NULL;
    if (!frame)
        return AVERROR(ENOMEM);
    frame->format = format;
    frame->width  = width;
    frame->height = height;
    ret = av_frame_get_buffer(frame, 0);
    if (ret < 0)
        av_frame_free(&frame);
    *out = frame;
    return ret;
}

int ff_wan_is_damaged(const AVFrame *frame)
{
    return frame->flags & AV_FRAME_FLAG_CORRUPT || frame->decode_error_flags;
}

/** @return 1: not all pixels are opaque; 0: they are; AVERROR(ENOMEM) */
static int has_transparency(const AVFrame *frame)
{
    const int c = alpha_component(av_pix_fmt_desc_get(frame->format));
    Component p;
    size_t i, n;
    int ret;

    if (c < 0)
        return 0;
    ret = read_component(&p, frame, c);
    if (ret < 0)
        return ret;
    n = (size_t)p.w * p.h;
    for (i = 0; i < n && p.v[i] >= 1; i++)
        ;
    close_component(&p);
    return i < n;
}

/** Say once what of an image is lost on the way to a model. */
static int warn_losses(void *log, const AVFrame *frame, const char *what,
                       int *warned)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(frame->format);
    int ret;

    if (*warned)
        return 0;
    *warned = 1;
    ret = has_transparency(frame);
    if (ret < 0)
        return ret;
    if (ret)
        av_log(log, AV_LOG_WARNING, "%s: %s: alpha is dropped; to see it, "
               "overlay the image on a background first\n", what, desc->name);
    if (frame->color_trc == AVCOL_TRC_SMPTE2084 ||
        frame->color_trc == AVCOL_TRC_ARIB_STD_B67 ||
        frame->color_trc == AVCOL_TRC_LINEAR)
        av_log(log, AV_LOG_WARNING, "%s: transfer %s is taken as if it were "
               "BT.709; map the tones first\n", what,
               av_color_transfer_name(frame->color_trc));
    if (ff_wan_is_damaged(frame))
        av_log(log, AV_LOG_WARNING, "%s: the decoder says it is damaged\n",
               what);
    return 0;
}

static int check_convertible(void *log, const AVFrame *in, const char *what)
{
    if (ff_wan_convertible(av_pix_fmt_desc_get(in->format), 0))
        return 0;
    av_log(log, AV_LOG_ERROR, "%s: no conversion from pixel format %s\n", what,
           av_get_pix_fmt_name(in->format));
    return AVERROR(ENOSYS);
}

/** The size that covers width x height in the shape of a picture. */
static void cover_size(int *w, int *h, const AVFrame *picture)
{
    if ((int64_t)picture->width * *h > (int64_t)*w * picture->height)
        *w = av_rescale(*h, picture->width, picture->height);
    else
        *h = av_rescale(*w, picture->height, picture->width);
}

int ff_wan_to_mask(void *log, AVFrame **out, const AVFrame *in,
                   const AVFrame *video, int width, int height, int cover,
                   const char *what)
{
    Component p;
    int w = width, h = height;
    int c, x, y, ret = check_convertible(log, in, what);

    if (ret < 0 || (ret = read_component(&p, in, 0)) < 0)
        return ret;
    if (cover)
        cover_size(&w, &h, video);
    ret = ff_wan_new_frame(out, AV_PIX_FMT_GBRPF32, width, height);
    for (c = 0; c < 3 && ret >= 0; c++)
        for (y = 0; y < height; y++) {
            const int64_t row = (2LL * (y + (h - height) / 2) + 1) * p.h / (2 * h);

            for (x = 0; x < width; x++) {
                const int64_t at = (2LL * (x + (w - width) / 2) + 1) * p.w / (2 * w);

                rgb_row(*out, c, y)[x] = unit(p.v[row * p.w + at]);
            }
        }
    close_component(&p);
    return ret;
}

int ff_wan_to_rgb(void *log, AVFrame **out, const AVFrame *in,
                  const char *what, int *warned)
{
    int ret;

    if (in->hw_frames_ctx) {            /* our own: a clip before ended so */
        AVFrame *host;

        ret = download(&host, in);
        if (ret >= 0)
            ret = ff_wan_to_rgb(log, out, host, what, warned);
        av_frame_free(&host);
        return ret;
    }
    if ((ret = check_convertible(log, in, what)) < 0 ||
        (ret = warn_losses(log, in, what, warned)) < 0)
        return ret;
    if (in->format == AV_PIX_FMT_RGB24 || in->format == AV_PIX_FMT_GBRP) {
        *out = av_frame_clone(in);
        return *out ? 0 : AVERROR(ENOMEM);
    }
    ret = ff_wan_new_frame(out, AV_PIX_FMT_GBRPF32, in->width, in->height);
    if (ret < 0)
        return ret;
    ret = load_rgb(log, *out, in, what);
    if (ret < 0)
        av_frame_free(out);
    return ret;
}

/**
 * Turn or mirror a picture as its file wants it to be shown: a pixel (x, y) of
 * it is seen at (a x + c y, b x + d y), of which the signs count. Phones store
 * what their sensor saw, and the eight ways to hold one.
 *
 * @param rgb  rgb24, gbrp or gbrpf32; replaced
 * @param m    a display matrix: a b u, c d v, x y w
 */
static int turn_upright(AVFrame **rgb, const int32_t *m)
{
    const int32_t a = m[0], b = m[1], c = m[3], d = m[4];
    const int on_side = !a && !d;
    const AVFrame *in = *rgb;
    const int w = in->width, h = in->height;
    const int size = in->format == AV_PIX_FMT_RGB24   ? 3 :
                     in->format == AV_PIX_FMT_GBRPF32 ? 4 : 1;
    AVFrame *out;
    int p, x, y, ret;

    ret = ff_wan_new_frame(&out, in->format, on_side ? h : w, on_side ? w : h);
    if (ret < 0)
        return ret;
    for (p = 0; p < 3 && in->data[p]; p++)
        for (y = 0; y < out->height; y++)
            for (x = 0; x < out->width; x++) {
                const int fx = on_side ? y : x, fy = on_side ? x : y;
                const int from_x = (on_side ? b : a) < 0 ? w - 1 - fx : fx;
                const int from_y = (on_side ? c : d) < 0 ? h - 1 - fy : fy;

                memcpy(out->data[p] + y * out->linesize[p] + x * size,
                       in->data[p] + from_y * in->linesize[p] + from_x * size,
                       size);
            }
    av_frame_free(rgb);
    *rgb = out;
    return 0;
}

/** Show a picture as its display matrix says, if rows and columns stay such. */
static int apply_orientation(void *log, AVFrame **rgb, const AVFrame *frame,
                             const char *option, const char *path)
{
    const AVFrameSideData *side =
        av_frame_get_side_data(frame, AV_FRAME_DATA_DISPLAYMATRIX);
    const int32_t *m;

    if (!side || side->size < 9 * sizeof(*m))
        return 0;
    m = (const int32_t *)side->data;
    if ((m[0] && m[4] && !m[1] && !m[3]) || (!m[0] && !m[4] && m[1] && m[3]))
        return turn_upright(rgb, m);
    av_log(log, AV_LOG_WARNING, "%s=%s: it is to be turned by %.3g degrees, "
           "which is not done\n", option, path,
           -av_display_rotation_get(m));
    return 0;
}

/** The first frame of the first video stream. */
static int decode_frame(AVFrame *frame, AVFormatContext *fmt,
                        AVCodecContext *dec, int stream)
{
    AVPacket *packet = av_packet_alloc();
    int ret;

    if (!packet)
        return AVERROR(ENOMEM);
    for (;;) {
        ret = avcodec_receive_frame(dec, frame);
        if (ret != AVERROR(EAGAIN))
            break;
        do {
            av_packet_unref(packet);
            ret = av_read_frame(fmt, packet);
        } while (ret >= 0 && packet->stream_index != stream);
        if (ret < 0 && ret != AVERROR_EOF)
            break;
        ret = avcodec_send_packet(dec, ret < 0 ? NULL : packet);
        if (ret < 0)
            break;
    }
    av_packet_free(&packet);
    if (ret == AVERROR_EOF || (ret >= 0 && ff_wan_is_damaged(frame)))
        return AVERROR_INVALIDDATA;
    return ret;
}

/** Is it something that could be waited for without an end, by any name? */
static int is_pipe(const char *path)
{
    struct stat st;

    if (av_strstart(path, "pipe:", NULL) || av_strstart(path, "fd:", NULL))
        return 1;
    av_strstart(path, "file:", &path);
    return !stat(path, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

int ff_wan_decode_file(void *log, AVFrame **out, const char *option,
                       const char *path, const AVIOInterruptCB *interrupt)
{
    AVFormatContext *fmt = avformat_alloc_context();
    AVCodecContext *dec  = NULL;
    AVFrame *frame       = av_frame_alloc();
    const AVCodec *codec = NULL;
    int ret = AVERROR(ENOMEM), warned = 0, stream;

    if (!fmt || !frame)
        goto end;
    fmt->interrupt_callback = *interrupt;
    if (is_pipe(path)) {                /* libavformat would not be interrupted */
        ret = AVERROR(ESPIPE);
        goto end;
    }
    if ((ret = avformat_open_input(&fmt, path, NULL, NULL)) < 0)
        goto end;
#if !LAVU_FROM(58, 7)                   /* 6.1; from then on the decoder does it */
    av_format_inject_global_side_data(fmt);
#endif
    if ((ret = avformat_find_stream_info(fmt, NULL)) < 0 ||
        (ret = av_find_best_stream(fmt, AVMEDIA_TYPE_VIDEO, -1, -1, &codec,
                                   0)) < 0)
        goto end;
    stream = ret;
    ret = AVERROR(ENOMEM);
    dec = avcodec_alloc_context3(codec);
    if (!dec)
        goto end;
    /* half a picture would be taken for a whole one */
    dec->err_recognition = AV_EF_CRCCHECK | AV_EF_EXPLODE;
    if ((ret = avcodec_parameters_to_context(dec,
                   fmt->streams[stream]->codecpar)) < 0 ||
        (ret = avcodec_open2(dec, codec, NULL)) < 0 ||
        (ret = decode_frame(frame, fmt, dec, stream)) < 0)
        goto end;
    if ((ret = ff_wan_to_rgb(log, out, frame, option, &warned)) >= 0 &&
        (ret = apply_orientation(log, out, frame, option, path)) < 0)
        av_frame_free(out);
end:
    if (ret < 0)
        av_log(log, AV_LOG_ERROR, "%s=%s: cannot read an image: %s\n", option, path,
               ret == AVERROR(ESPIPE) ? "a pipe; give a file"
                                      : av_err2str(ret));
    av_frame_free(&frame);
    avcodec_free_context(&dec);
    avformat_close_input(&fmt);
    return ret;
}

void ff_wan_set_colours(AVFrame *frame)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(ff_wan_pixels_of(frame));

    frame->color_primaries = AVCOL_PRI_BT709;
    frame->color_trc       = AVCOL_TRC_BT709;
    if (desc->flags & AV_PIX_FMT_FLAG_RGB) {
        frame->color_range = AVCOL_RANGE_JPEG;
        frame->colorspace  = AVCOL_SPC_RGB;
    } else {
        frame->color_range = AVCOL_RANGE_MPEG;
        frame->colorspace  = AVCOL_SPC_BT709;
    }
    frame->chroma_location = desc->log2_chroma_w ? AVCHROMA_LOC_LEFT
                                                 : AVCHROMA_LOC_UNSPECIFIED;
}

int ff_wan_as_made(const AVFrame *frame)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(frame->format);

    if ((int)wan_format(frame->format) < 0)
        return 0;
    return desc->flags & AV_PIX_FMT_FLAG_RGB ||
           (frame->colorspace == AVCOL_SPC_BT709 && !full_range(frame) &&
            (!desc->log2_chroma_w ||
             frame->chroma_location == AVCHROMA_LOC_UNSPECIFIED ||
             frame->chroma_location == AVCHROMA_LOC_LEFT));
}


/* --------------------------------------------------------- pictures, fades */

/** Fill gbrpf32 with black. */
static void blacken(AVFrame *rgb)
{
    int c, y;

    for (c = 0; c < 3; c++)
        for (y = 0; y < rgb->height; y++)
            memset(rgb_row(rgb, c, y), 0, rgb->width * sizeof(float));
}

/** A picture scaled, into a frame of its own: swscale writes past a row's end.
 * One that has the size is not given to it: 8.1's made a few values of 0 to 1. */
static int scale(AVFrame **out, const AVFrame *in, int w, int h)
{
    struct SwsContext *sws;
    int ret;

    if (in->format == AV_PIX_FMT_GBRPF32 && in->width == w && in->height == h) {
        *out = av_frame_clone(in);
        return *out ? 0 : AVERROR(ENOMEM);
    }
    sws = sws_getContext(in->width, in->height, in->format, w, h,
                         AV_PIX_FMT_GBRPF32, SWS_BICUBIC, NULL, NULL, NULL);
    ret = sws ? ff_wan_new_frame(out, AV_PIX_FMT_GBRPF32, w, h)
              : AVERROR(ENOMEM);
    if (ret >= 0)
        sws_scale(sws, (const uint8_t *const *)in->data, in->linesize, 0,
                  in->height, (*out)->data, (*out)->linesize);
    sws_freeContext(sws);
    return ret;
}

/** Middle on middle; what bicubic scaling overshoots is cut. */
static void paste(AVFrame *to, const AVFrame *rgb)
{
    const int left = (to->width - rgb->width) / 2;
    const int top  = (to->height - rgb->height) / 2;
    const int w = FFMIN(to->width, rgb->width);
    const int h = FFMIN(to->height, rgb->height);
    int c, x, y;

    for (c = 0; c < 3; c++)
        for (y = 0; y < h; y++) {
            const float *in = rgb_row(rgb, c, FFMAX(-top, 0) + y) +
                              FFMAX(-left, 0);
            float *out = rgb_row(to, c, FFMAX(top, 0) + y) + FFMAX(left, 0);

            for (x = 0; x < w; x++)
                out[x] = unit(in[x]);
        }
}

int ff_wan_fit(AVFrame **out, const AVFrame *rgb, int width, int height)
{
    AVFrame *scaled = NULL;
    int w = width, h = height;
    int ret = ff_wan_new_frame(out, AV_PIX_FMT_GBRPF32, width, height);

    if (ret < 0)
        return ret;
    blacken(*out);
    if (!rgb)
        return 0;
    if ((int64_t)rgb->width * height < (int64_t)width * rgb->height)
        w = FFMAX(av_rescale(height, rgb->width, rgb->height), 1);
    else
        h = FFMAX(av_rescale(width, rgb->height, rgb->width), 1);
    ret = scale(&scaled, rgb, w, h);
    if (ret >= 0)
        paste(*out, scaled);
    else
        av_frame_free(out);
    av_frame_free(&scaled);
    return ret;
}

int ff_wan_resize(AVFrame **out, const AVFrame *rgb, int width, int height,
                  int cover)
{
    AVFrame *scaled = NULL;
    int w = width, h = height;
    int ret = ff_wan_new_frame(out, AV_PIX_FMT_GBRPF32, width, height);

    if (ret < 0)
        return ret;
    if (cover)
        cover_size(&w, &h, rgb);
    ret = scale(&scaled, rgb, w, h);
    if (ret >= 0)
        paste(*out, scaled);
    else
        av_frame_free(out);
    av_frame_free(&scaled);
    return ret;
}

/** BT.709's curve and back: a signal in [0, 1] as an amount of light. */
static float to_light(float v)
{
    return v < 0.081f ? v / 4.5f : powf((v + 0.099f) / 1.099f, 1 / 0.45f);
}

static float from_light(float l)
{
    return l < 0.018f ? l * 4.5f : 1.099f * powf(l, 0.45f) - 0.099f;
}

void ff_wan_mix(AVFrame *to, const AVFrame *from, float weight)
{
    int c, x, y;

    for (c = 0; c < 3; c++)
        for (y = 0; y < to->height; y++) {
            const float *a = rgb_row(from, c, y);
            float *b = rgb_row(to, c, y);

            for (x = 0; x < to->width; x++)
                b[x] = from_light(to_light(a[x]) * (1 - weight) +
                                  to_light(b[x]) * weight);
        }
}
