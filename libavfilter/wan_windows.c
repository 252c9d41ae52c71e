/*
 * The windows in which wan_v2v makes a video of any length
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

#include <string.h>

#include "libavutil/error.h"
#include "libavutil/frame.h"
#include "libavutil/macros.h"
#include "libavutil/mem.h"
#include "wan_windows.h"

int ff_wan_windows_init(FFWanWindows *w, int size, int overlap)
{
    ff_wan_windows_free(w);
    w->size    = size;
    w->overlap = overlap;
    w->in      = av_calloc(size + 1, sizeof(*w->in));
    return w->in ? 0 : AVERROR(ENOMEM);
}

int ff_wan_windows_pending(const FFWanWindows *w)
{
    return w->nb - w->shared;
}

void ff_wan_windows_put(FFWanWindows *w, AVFrame *frame, AVFrame *mask)
{
    w->in[w->nb++] = (FFWanInput){ frame, mask };
}

void ff_wan_windows_end(FFWanWindows *w)
{
    w->ended = 1;
}

static int copy_input(FFWanInput *to, const FFWanInput *from)
{
    to->frame = av_frame_clone(from->frame);
    if (from->mask)
        to->mask = av_frame_clone(from->mask);
    return to->frame && (to->mask || !from->mask) ? 0 : AVERROR(ENOMEM);
}

static void free_inputs(FFWanInput *in, int nb)
{
    int i;

    for (i = 0; i < nb; i++) {
        av_frame_free(&in[i].frame);
        av_frame_free(&in[i].mask);
    }
}

/** The next window begins with the last frames of the one that was taken. */
static void move_on(FFWanWindows *w, int taken)
{
    const int gone = taken - w->overlap;

    free_inputs(w->in, gone);
    memmove(w->in, w->in + gone, (w->nb - gone) * sizeof(*w->in));
    w->nb    -= gone;
    w->shared = w->overlap;
}

int ff_wan_windows_next(FFWanWindows *w, FFWanWindow *out)
{
    const int whole = w->nb > w->size;
    int i;

    memset(out, 0, sizeof(*out));
    if (!whole && !(w->ended && ff_wan_windows_pending(w)))
        return 0;
    out->in = av_calloc(w->size, sizeof(*out->in));
    if (!out->in)
        return AVERROR(ENOMEM);
    out->nb      = FFMIN(w->nb, w->size);
    out->overlap = w->shared;
    out->last    = !whole;
    for (i = 0; i < out->nb; i++)
        if (copy_input(&out->in[i], &w->in[i]) < 0) {
            ff_wan_window_free(out);
            return AVERROR(ENOMEM);
        }
    if (whole)
        move_on(w, out->nb);
    else {
        free_inputs(w->in, w->nb);
        w->nb = w->shared = 0;
    }
    return 1;
}

void ff_wan_window_free(FFWanWindow *w)
{
    free_inputs(w->in, w->nb);
    av_freep(&w->in);
    memset(w, 0, sizeof(*w));
}

void ff_wan_windows_free(FFWanWindows *w)
{
    free_inputs(w->in, w->nb);
    av_freep(&w->in);
    memset(w, 0, sizeof(*w));
}
