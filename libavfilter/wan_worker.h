/*
 * The thread of the Wan filters that makes clips, its queue and its clock
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
 * A worker makes one clip after another, which takes seconds to hours each,
 * and queues their frames; the graph's thread takes them and never waits longer
 * than it says. What a clip is the worker learns from its maker's callbacks,
 * which run in the worker's thread.
 *
 * How far the worker runs ahead: within a clip a chunk is decoded while there
 * is room for it; the next clip is begun
 *   - with ahead > 0, at any time: its steps run while frames of the last one
 *     wait to be taken, up to `ahead` of them;
 *   - with ahead = 0, when all frames were taken and another one is asked for:
 *     nothing is made that nobody wanted, and which clip a command meets does
 *     not hang on timing.
 * The blocks of a clip that is made block by block are begun likewise.
 * A consumer that stops reading stops the worker; nothing grows.
 */

#ifndef AVFILTER_WAN_WORKER_H
#define AVFILTER_WAN_WORKER_H

#include <stdint.h>
#include <wan.h>

#include "libavutil/frame.h"
#include "libavutil/rational.h"

/** Frames a chunk adds to the queue at most. */
#define FF_WAN_CHUNK 4

/** Previews that wait at most: whoever asks for frames takes them too. */
#define FF_WAN_PREVIEWS 16

typedef struct FFWanWorker FFWanWorker;

/** What the worker makes; each callback runs in its thread, one at a time. */
typedef struct FFWanMaker {
    void *opaque;

    /**
     * Begin the next clip.
     *
     * @return 0; AVERROR_EOF: there is none; another AVERROR, logged
     */
    int (*begin)(void *opaque, WanJob **job);

    /**
     * Read the next finished frame of the job.
     *
     * @param frame  with all its properties but its time
     * @return 1; 0: none is finished; AVERROR_EOF: that was the clip;
     *         another AVERROR
     */
    int (*read)(void *opaque, WanJob *job, AVFrame **frame);

    /** All frames were read; the job is closed next. */
    void (*end)(void *opaque, const WanProgress *progress);

    /**
     * Clips will not go on, because of an error: what read() held back for the
     * next one.
     *
     * @return 1: *frame is a frame of it; 0: there is nothing more
     */
    int (*flush)(void *opaque, AVFrame **frame);

    /** An error of libwan's as an AVERROR. */
    int (*map_error)(int ret);

    /**
     * Make a picture of the step just done; NULL: there are none.
     *
     * @return 0 or an AVERROR
     */
    int (*preview)(void *opaque, WanJob *job, const WanProgress *progress,
                   AVFrame **frame);

    /**
     * The job's next unit begins another block, as a clip is begun: what is
     * asked for now is for it. NULL: nothing changes between blocks.
     *
     * @return 0 or an AVERROR
     */
    int (*turn)(void *opaque, WanJob *job);
} FFWanMaker;

/** Where the worker stands. */
typedef struct FFWanStatus {
    int clip;                           ///< begun so far
    int units;                          ///< done since the start
    WanProgress progress;               ///< after the last of them
} FFWanStatus;

/**
 * Start the thread. It does nothing before a frame is asked for.
 *
 * @param ahead  frames that may wait while the next clip is made
 * @param held   frames that the maker holds back at most
 * @return 0; AVERROR(ENOMEM); AVERROR_EXTERNAL: there is no thread to be had
 */
int ff_wan_worker_start(FFWanWorker **out, const FFWanMaker *maker, int ahead,
                        int held);

/** Frames the queue holds at most, for the plan of memory. */
int ff_wan_worker_frames(int ahead);

/**
 * Take the next frame.
 *
 * @param us    how long to wait for one, in microseconds by the monotonic clock
 * @param hold  for how long a frame need not leave: so long it stays, unless
 *              no more frames come, or the queue is full: then only as long as
 *              making one takes. Who takes all there is at once finds nothing
 *              while the next clip is begun
 * @return 1; 0: there is none yet, or a preview waits; AVERROR_EOF: all clips
 *         are made and taken; another AVERROR: what ended the worker, after the
 *         frames before it
 */
int ff_wan_worker_take(FFWanWorker *w, AVFrame **frame, int64_t us,
                       int64_t hold);

/** Take the next preview. @return 1, or 0: there is none now */
int ff_wan_worker_take_preview(FFWanWorker *w, AVFrame **frame);

void ff_wan_worker_status(FFWanWorker *w, FFWanStatus *out);

/**
 * For callbacks of the maker: wait, but not longer than the worker is wanted.
 *
 * @return 1 when all is to end
 */
int ff_wan_worker_pause(FFWanWorker *w, int64_t us);

/** Cancel what runs, wait for its end, a fraction of a second, and free all
 *  with the frames that were not taken. Sets *w to NULL. */
void ff_wan_worker_stop(FFWanWorker **w);

/**
 * The clock of a stream: its first frame leaves when it is asked for, the
 * others as much later as they are to be shown later.
 */
typedef struct FFWanClock {
    int64_t start;                      ///< monotonic, us; 0: not started
    int64_t first;                      ///< of the first frame, in ticks
    AVRational time_base;
} FFWanClock;

/** Start it, if it does not run, with the frame of that time. */
void ff_wan_clock_start(FFWanClock *c, int64_t pts, AVRational time_base);

/** @return microseconds until a frame of that time is due, below 0: since */
int64_t ff_wan_clock_until(const FFWanClock *c, int64_t pts);

#endif /* AVFILTER_WAN_WORKER_H */
