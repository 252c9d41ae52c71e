/*
 * What the Wan filters do otherwise from one FFmpeg to another
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

#ifndef AVFILTER_WAN_COMPAT_H
#define AVFILTER_WAN_COMPAT_H

#include "config.h"
#include "config_components.h"
#include "libavutil/version.h"
#include "libavfilter/version.h"
#include "avfilter.h"
#include "filters.h"

/* What differs between FFmpeg 5.1 and 9.0. */
#define LAVFI_FROM(maj, min) \
    (LIBAVFILTER_VERSION_INT >= AV_VERSION_INT(maj, min, 100))
#define LAVU_FROM(maj, min) \
    (LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(maj, min, 100))
#if LAVFI_FROM(11, 0)                   /* 8.0 */
#define WAN_FILTER FFFilter
#define WAN_PUB(x) p.x
#else
#define WAN_FILTER AVFilter
#define WAN_PUB(x) x
#endif
#if LAVFI_FROM(10, 4)                   /* 7.1 */
#define WAN_LINK(l) ff_filter_link(l)
#define WAN_QUERY_FUNC FILTER_QUERY_FUNC2
#else
#include "internal.h"
#define WAN_LINK(l) (l)
#define WAN_QUERY_FUNC FILTER_QUERY_FUNC
#endif
#ifdef AVFILTER_FLAG_HWDEVICE           /* 6.1; before, all filters get it */
#define WAN_FLAGS AVFILTER_FLAG_HWDEVICE
#else
#define WAN_FLAGS 0
#endif
#if CONFIG_CUDA                         /* wants nv-codec-headers */
#include "libavutil/cuda_check.h"
#include "libavutil/hwcontext_cuda_internal.h"
#define CHECK_CU(x) FF_CUDA_CHECK_DL(ctx, cu, x)
#endif

#endif /* AVFILTER_WAN_COMPAT_H */
