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

#include <string.h>
#include <time.h>

#include "config.h"
#include "libavutil/common.h"
#include "libavutil/error.h"
#include "libavutil/frame.h"
#include "libavutil/macros.h"
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/thread.h"
#include "libavutil/time.h"
#include "libavutil/version.h"
#include "wan_worker.h"

struct FFWanWorker {
    FFWanMaker maker;
    int ahead;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;                ///< the worker may have something to do
    pthread_cond_t made;                ///< there is a frame, or the end

    /* under lock */
    WanJob *job;                        ///< to be cancelled
    AVFrame **queue;                    ///< a ring
    int size, first, nb;
    AVFrame *preview[FF_WAN_PREVIEWS];  ///< another ring
    int first_preview, nb_previews;
    int wanted;                         ///< the graph waits for a frame
    int64_t left;                       ///< when the last one left, us
    int64_t pace;                       ///< us that making one takes; 0: not
                                        ///< known before a clip is made
    int quit;
    int ended;                          ///< no more frames come
    int ret;                            ///< why
    FFWanStatus status;
};

/* ----------------------------------------------------------------- worker */

/** Frames that wait while another chunk is decoded. */
static int room(int ahead)
{
    return FFMAX(ahead, FF_WAN_CHUNK);
}

int ff_wan_worker_frames(int ahead)
{
    return room(ahead) + FF_WAN_CHUNK;
}

static int may_begin(const FFWanWorker *w)
{
    /* the first clip too waits for somebody who wants it */
    if (!w->ahead || !w->status.clip)
        return !w->nb && w->wanted;
    return w->nb <= room(w->ahead);
}

static int may_go_on(const FFWanWorker *w)
{
    return w->nb <= room(w->ahead) && w->nb_previews < FF_WAN_PREVIEWS;
}

/** @return 0, or AVERROR_EXIT when all is to end */
static int wait_until(FFWanWorker *w, int (*ready)(const FFWanWorker *w))
{
    int quit;

    pthread_mutex_lock(&w->lock);
    while (!w->quit && !ready(w))
        pthread_cond_wait(&w->work, &w->lock);
    quit = w->quit;
    pthread_mutex_unlock(&w->lock);
    return quit ? AVERROR_EXIT : 0;
}

static void put(FFWanWorker *w, AVFrame *frame)
{
    pthread_mutex_lock(&w->lock);
    w->queue[(w->first + w->nb++) % w->size] = frame;
    pthread_cond_signal(&w->made);
    pthread_mutex_unlock(&w->lock);
}

static int put_preview(FFWanWorker *w, WanJob *job, const WanProgress *p)
{
    AVFrame *frame = NULL;
    int ret = w->maker.preview(w->maker.opaque, job, p, &frame);

    if (ret < 0)
        return ret;
    pthread_mutex_lock(&w->lock);
    w->preview[(w->first_preview + w->nb_previews++) % FF_WAN_PREVIEWS] = frame;
    pthread_cond_signal(&w->made);
    pthread_mutex_unlock(&w->lock);
    return 0;
}

/** Show the job to those who may cancel it, or take it away. */
static void set_job(FFWanWorker *w, WanJob *job)
{
    pthread_mutex_lock(&w->lock);
    w->job = job;
    pthread_mutex_unlock(&w->lock);
}

/** Count the clip, which may fail to begin, and let nobody take it for the one
 *  before. */
static int begin_clip(FFWanWorker *w, WanJob **job)
{
    int ret;

    pthread_mutex_lock(&w->lock);
    w->status.clip++;
    w->status.progress = (WanProgress){ 0 };
    pthread_mutex_unlock(&w->lock);
    ret = w->maker.begin(w->maker.opaque, job);
    if (ret == AVERROR_EOF) {
        pthread_mutex_lock(&w->lock);
        w->status.clip--;
        pthread_mutex_unlock(&w->lock);
    }
    return ret;
}

/** One unit of a clip, and the frames that it finished. */
static int do_unit(FFWanWorker *w, WanJob *job, WanProgress *progress,
                   int64_t *frames)
{
    AVFrame *frame;
    int ret = wait_until(w, may_go_on);

    if (ret < 0)
        return ret;
    if (progress->block_done && w->maker.turn &&
        ((ret = wait_until(w, may_begin)) < 0 ||
         (ret = w->maker.turn(w->maker.opaque, job)) < 0))
        return ret;
    ret = wan_job_step(job, progress);
    if (ret < 0)
        return w->maker.map_error(ret);
    pthread_mutex_lock(&w->lock);
    w->status.progress = *progress;
    w->status.units++;
    pthread_mutex_unlock(&w->lock);
    if (progress->stage == WAN_STAGE_STEPS && w->maker.preview)
        return put_preview(w, job, progress);
    if (progress->stage < WAN_STAGE_DECODE)
        return 0;
    for (; (ret = w->maker.read(w->maker.opaque, job, &frame)) > 0; ++*frames)
        put(w, frame);
    return ret;
}

/** A clip of so many frames took that. */
static void set_pace(FFWanWorker *w, const WanProgress *p, int64_t frames)
{
    pthread_mutex_lock(&w->lock);
    w->pace = (p->text + p->image + p->steps + p->decode) * 1e6 /
              FFMAX(frames, 1);
    pthread_mutex_unlock(&w->lock);
}

/** @return AVERROR_EOF: there was no clip to make */
static int make_clip(FFWanWorker *w)
{
    WanProgress progress = { 0 };
    int64_t frames = 0;
    WanJob *job = NULL;
    int ret = wait_until(w, may_begin);

    if (ret < 0 || (ret = begin_clip(w, &job)) < 0)
        return ret;
    set_job(w, job);
    while (!(ret = do_unit(w, job, &progress, &frames)))
        ;
    set_job(w, NULL);
    if (ret == AVERROR_EOF) {
        set_pace(w, &progress, frames);
        w->maker.end(w->maker.opaque, &progress);
        ret = 0;
    }
    wan_job_close(&job);
    return ret;
}

static void name_thread(void)
{
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(59, 39, 100)        /* 7.1 */
    ff_thread_setname("wan");
#endif
}

static void *worker_main(void *arg)
{
    FFWanWorker *w = arg;
    AVFrame *frame;
    int ret;

    name_thread();
    do
        ret = make_clip(w);
    while (ret >= 0);
    while (ret != AVERROR_EXIT && w->maker.flush(w->maker.opaque, &frame) > 0)
        put(w, frame);

    pthread_mutex_lock(&w->lock);
    w->ended = 1;
    w->ret   = ret;
    pthread_cond_signal(&w->made);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* --------------------------------------------------------- the graph's side */

/**
 * A condition whose deadlines are by the clock that nobody sets. Where there is
 * no such choice (Apple, Windows) a wait ends by the wall's.
 */
#if defined(CLOCK_MONOTONIC) && HAVE_PTHREADS && !defined(__APPLE__)
#define WAIT_CLOCK CLOCK_MONOTONIC

static int init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    int ret = pthread_condattr_init(&attr);

    if (ret)
        return ret;
    ret = pthread_condattr_setclock(&attr, WAIT_CLOCK);
    if (!ret)
        ret = pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
    return ret;
}

static struct timespec deadline(int64_t us)
{
    struct timespec ts;

    clock_gettime(WAIT_CLOCK, &ts);
    us += ts.tv_nsec / 1000;
    ts.tv_sec += us / 1000000;
    ts.tv_nsec = us % 1000000 * 1000;
    return ts;
}
#else
static int init_cond(pthread_cond_t *cond)
{
    return pthread_cond_init(cond, NULL);
}

static struct timespec deadline(int64_t us)
{
    const int64_t t = av_gettime() + us;

    return (struct timespec){ .tv_sec  = t / 1000000,
                              .tv_nsec = t % 1000000 * 1000 };
}
#endif

int ff_wan_worker_start(FFWanWorker **out, const FFWanMaker *maker, int ahead,
                        int held)
{
    FFWanWorker *w = av_mallocz(sizeof(*w));
    int ret = AVERROR(ENOMEM);

    *out = NULL;
    if (!w)
        return AVERROR(ENOMEM);
    w->maker = *maker;
    w->ahead = ahead;
    w->size  = ff_wan_worker_frames(ahead) + held;
    w->queue = av_calloc(w->size, sizeof(*w->queue));
    if (!w->queue)
        goto fail_queue;
    ret = AVERROR_EXTERNAL;
    if (pthread_mutex_init(&w->lock, NULL))
        goto fail_queue;
    if (init_cond(&w->work))
        goto fail_work;
    if (init_cond(&w->made))
        goto fail_made;
    /* its EAGAIN would ask a graph to try again, for ever */
    if (pthread_create(&w->thread, NULL, worker_main, w))
        goto fail_thread;
    *out = w;
    return 0;
fail_thread:
    pthread_cond_destroy(&w->made);
fail_made:
    pthread_cond_destroy(&w->work);
fail_work:
    pthread_mutex_destroy(&w->lock);
fail_queue:
    av_freep(&w->queue);
    av_free(w);
    return ret;
}

int ff_wan_worker_pause(FFWanWorker *w, int64_t us)
{
    const struct timespec until = deadline(us);
    int quit;

    pthread_mutex_lock(&w->lock);
    while (!w->quit && !pthread_cond_timedwait(&w->work, &w->lock, &until))
        ;
    quit = w->quit;
    pthread_mutex_unlock(&w->lock);
    return quit;
}

/**
 * When the next frame may leave, which need not before `due`. If the queue is
 * full it may as soon as another one could be made: who takes all that waits
 * at once has a pause after it.
 */
static int64_t leaves_at(const FFWanWorker *w, int64_t due)
{
    if (!w->nb)
        return INT64_MAX;
    if (w->ended)
        return 0;
    return w->nb > room(w->ahead) ? FFMIN(due, w->left + w->pace) : due;
}

int ff_wan_worker_take(FFWanWorker *w, AVFrame **frame, int64_t us,
                       int64_t hold)
{
    const int64_t start = av_gettime_relative();
    int64_t now = start, at;
    int ret = 0;

    pthread_mutex_lock(&w->lock);
    w->wanted = 1;
    if (!w->nb)
        pthread_cond_signal(&w->work);
    while ((at = leaves_at(w, start + hold)) > now && now < start + us &&
           !(w->ended && !w->nb) && !w->nb_previews) {
        const struct timespec until = deadline(FFMIN(at, start + us) - now);

        pthread_cond_timedwait(&w->made, &w->lock, &until);
        now = av_gettime_relative();
    }
    if (at <= now) {
        *frame   = w->queue[w->first];
        w->first = (w->first + 1) % w->size;
        w->nb--;
        w->wanted = 0;
        w->left   = now;
        pthread_cond_signal(&w->work);
        ret = 1;
    } else if (w->ended && !w->nb)
        ret = w->ret;
    pthread_mutex_unlock(&w->lock);
    return ret;
}

int ff_wan_worker_take_preview(FFWanWorker *w, AVFrame **frame)
{
    int ret = 0;

    pthread_mutex_lock(&w->lock);
    if (w->nb_previews) {
        *frame           = w->preview[w->first_preview];
        w->first_preview = (w->first_preview + 1) % FF_WAN_PREVIEWS;
        w->nb_previews--;
        pthread_cond_signal(&w->work);
        ret = 1;
    }
    pthread_mutex_unlock(&w->lock);
    return ret;
}

void ff_wan_worker_status(FFWanWorker *w, FFWanStatus *out)
{
    pthread_mutex_lock(&w->lock);
    *out = w->status;
    pthread_mutex_unlock(&w->lock);
}

void ff_wan_worker_stop(FFWanWorker **wp)
{
    FFWanWorker *w = *wp;

    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->quit = 1;
    if (w->job)
        wan_job_cancel(w->job);
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    *wp = NULL;                         /* until then its callbacks use it */

    for (; w->nb_previews; w->nb_previews--) {
        av_frame_free(&w->preview[w->first_preview]);
        w->first_preview = (w->first_preview + 1) % FF_WAN_PREVIEWS;
    }
    for (; w->nb; w->nb--) {
        av_frame_free(&w->queue[w->first]);
        w->first = (w->first + 1) % w->size;
    }
    pthread_cond_destroy(&w->made);
    pthread_cond_destroy(&w->work);
    pthread_mutex_destroy(&w->lock);
    av_freep(&w->queue);
    av_free(w);
}

/* ------------------------------------------------------------------ clock */

void ff_wan_clock_start(FFWanClock *c, int64_t pts, AVRational time_base)
{
    if (c->start)
        return;
    c->start     = av_gettime_relative();
    c->first     = pts;
    c->time_base = time_base;
}

int64_t ff_wan_clock_until(const FFWanClock *c, int64_t pts)
{
    const int64_t due = av_rescale_q(av_sat_sub64(pts, c->first), c->time_base,
                                     (AVRational){ 1, 1000000 });

    return av_sat_add64(c->start, due) - av_gettime_relative();
}
