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

/**
 * @file
 * A model makes clips of some frames, a video has as many as it likes. So it is
 * cut into windows of `size` frames, each of which begins with the last
 * `overlap` of the one before. The last window has what is left. Frames of the
 * input are collected on the graph's thread; a window that is complete is handed
 * over as a whole. No more of them is kept than a window and one frame more,
 * which tells whether another window follows.
 */

#ifndef AVFILTER_WAN_WINDOWS_H
#define AVFILTER_WAN_WINDOWS_H

#include "libavutil/frame.h"

/** A frame of the input, and what belongs to it. */
typedef struct FFWanInput {
    AVFrame *frame;
    AVFrame *mask;                      ///< or NULL
} FFWanInput;

/** A window on its way through a model. */
typedef struct FFWanWindow {
    FFWanInput *in;
    int nb;                             ///< of them, 0: this is none
    int overlap;                        ///< of them that the one before had
    int last;                           ///< no other one follows
} FFWanWindow;

/** What is collected for the next one. */
typedef struct FFWanWindows {
    int size, overlap;
    FFWanInput *in;                     ///< [size + 1]
    int nb;
    int shared;                         ///< of them that the last window had
    int ended;                          ///< the input has no more
} FFWanWindows;

/** @param overlap  less than size */
int ff_wan_windows_init(FFWanWindows *w, int size, int overlap);

/** Frames of the input that no window had yet. */
int ff_wan_windows_pending(const FFWanWindows *w);

/** Take in a frame, and a mask or NULL; they are the window's now. Not after
 *  the end, and not while ff_wan_windows_next() has a window. */
void ff_wan_windows_put(FFWanWindows *w, AVFrame *frame, AVFrame *mask);

/** The input has no more. */
void ff_wan_windows_end(FFWanWindows *w);

/**
 * The next window, if it is complete.
 *
 * @return 1; 0: it is not, or the input had no more; AVERROR(ENOMEM)
 */
int ff_wan_windows_next(FFWanWindows *w, FFWanWindow *out);

/** Both take what is empty. */
void ff_wan_window_free(FFWanWindow *w);
void ff_wan_windows_free(FFWanWindows *w);

#endif /* AVFILTER_WAN_WINDOWS_H */
