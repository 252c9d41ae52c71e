/*
 * Tests of libavfilter/wan_worker.c: the worker of the filters, on jobs that
 * are made up and an FFmpeg that is.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <limits.h>
#include <unistd.h>

#include "../../libavfilter/wan_worker.c"

#include "test.h"

#define SECOND 1000000

/* ----------------------------------------------------------- made-up jobs */

/* Of frames 1 and then 4 a unit, after some steps; each takes a moment. */
struct WanJob {
    int steps, frames;          // to do, to decode
    int ready;                  // decoded, not read
    int cancelled;
};

static int unit_us;             // what a unit takes
static int fail_in_clip;        // its first step fails; 0: none does
static int open_jobs;
static int clip_of_job;

int wan_job_step_sized(WanJob *j, WanProgress *p, size_t size)
{
    CHECK(size == sizeof(*p));
    for (int us = unit_us; us > 0; us -= 10000) {
        if (__atomic_load_n(&j->cancelled, __ATOMIC_RELAXED))
            return WAN_CANCELLED;
        usleep(us < 10000 ? us : 10000);
    }
    if (clip_of_job == fail_in_clip)
        return WAN_ERR(EDOM);
    p->stage = WAN_STAGE_STEPS;
    p->done++;
    if (j->steps-- > 0)
        return 0;
    p->stage = WAN_STAGE_DECODE;
    j->ready = j->frames % 4 == 1 ? 1 : 4;
    return 0;
}

void wan_job_cancel(WanJob *j)
{
    __atomic_store_n(&j->cancelled, 1, __ATOMIC_RELAXED);
}

void wan_job_close(WanJob **j)
{
    if (*j)
        open_jobs--;
    free(*j);
    *j = NULL;
}

/* ------------------------------------------------------------- the maker */

/* frame->pts is clip * 100 + number */
typedef struct Clips {
    int clips, frames, steps;
    int later_steps;            // of clips after the first, if not 0
    int begun, ended, read;     // clips, clips, frames of this one
    int held;                   // of flush
    int begin_error;            // of the first clip
    int previews;               // made, if they are asked for
} Clips;

static int begin(void *opaque, WanJob **job)
{
    Clips *c = opaque;

    if (c->begin_error)
        return c->begin_error;
    if (c->begun == c->clips)
        return AVERROR_EOF;
    *job = calloc(1, sizeof(**job));
    **job = (WanJob){ .frames = c->frames,
                      .steps = c->begun && c->later_steps ? c->later_steps
                                                          : c->steps };
    clip_of_job = __atomic_add_fetch(&c->begun, 1, __ATOMIC_RELAXED);
    c->read = 0;
    open_jobs++;
    return 0;
}

static AVFrame *new_frame(int64_t pts)
{
    AVFrame *f = calloc(1, sizeof(*f));

    f->pts = pts;
    return f;
}

static int read_frame(void *opaque, WanJob *job, AVFrame **frame)
{
    Clips *c = opaque;

    if (!job->ready)
        return job->frames ? 0 : AVERROR_EOF;
    job->ready--;
    job->frames--;
    *frame = new_frame(c->begun * 100 + c->read++);
    return 1;
}

static void end(void *opaque, const WanProgress *p)
{
    Clips *c = opaque;

    CHECK(p->stage == WAN_STAGE_DECODE);
    c->ended++;
}

static int flush(void *opaque, AVFrame **frame)
{
    Clips *c = opaque;

    if (!c->held)
        return 0;
    *frame = new_frame(-c->held--);
    return 1;
}

static int map(int ret)
{
    return ret == WAN_CANCELLED ? AVERROR_EXIT : ret;
}

static int preview(void *opaque, WanJob *job, const WanProgress *p,
                   AVFrame **frame)
{
    Clips *c = opaque;

    (void)job;
    CHECK(p->stage == WAN_STAGE_STEPS);
    *frame = new_frame(__atomic_fetch_add(&c->previews, 1, __ATOMIC_RELAXED));
    return 0;
}

static FFWanWorker *start_maker(Clips *c, int ahead, int previews)
{
    const FFWanMaker maker = {
        .opaque = c, .begin = begin, .read = read_frame, .end = end,
        .flush = flush, .map_error = map, .preview = previews ? preview : NULL,
    };
    FFWanWorker *w = NULL;

    CHECK(ff_wan_worker_start(&w, &maker, ahead, c->held) == 0);
    return w;
}

static FFWanWorker *start(Clips *c, int ahead)
{
    return start_maker(c, ahead, 0);
}

static int begun(Clips *c)
{
    return __atomic_load_n(&c->begun, __ATOMIC_RELAXED);
}

static int nb_waiting(FFWanWorker *w)
{
    int n;

    pthread_mutex_lock(&w->lock);
    n = w->nb;
    pthread_mutex_unlock(&w->lock);
    return n;
}

/* The next frame's number, or what take says. */
static int64_t next(FFWanWorker *w)
{
    AVFrame *f = NULL;
    int ret;
    int64_t pts;

    while (!(ret = ff_wan_worker_take(w, &f, 100000, 0)))
        ;
    if (ret < 0)
        return ret;
    pts = f->pts;
    free(f);
    return pts;
}

/* ----------------------------------------------------------------- tests */

/* All frames in order, whatever the worker may run ahead. */
TEST(order)
{
    static const int aheads[] = { 0, 1, 7, 40 };

    for (int i = 0; i < 4; i++) {
        Clips c = { .clips = 5, .frames = 9, .steps = 3 };
        FFWanWorker *w = start(&c, aheads[i]);

        for (int clip = 1; clip <= c.clips; clip++)
            for (int n = 0; n < c.frames; n++)
                if (!CHECK(next(w) == clip * 100 + n))
                    break;
        CHECK(next(w) == AVERROR_EOF && next(w) == AVERROR_EOF);
        CHECK(c.ended == 5 && open_jobs == 0);
        ff_wan_worker_stop(&w);
        CHECK(!w);
    }
}

/* ahead = 0: nothing is begun that nobody asked a frame of. */
TEST(nothing_unasked)
{
    Clips c = { .clips = 3, .frames = 5 };
    FFWanWorker *w = start(&c, 0);
    FFWanStatus status;

    usleep(20000);
    CHECK(begun(&c) == 0);
    for (int n = 0; n < 5; n++)
        CHECK(next(w) == 100 + n);
    usleep(20000);
    CHECKF(begun(&c) == 1, "%d clips", begun(&c));
    CHECK(next(w) == 200);
    ff_wan_worker_status(w, &status);
    CHECK(status.clip == 2 && status.progress.stage == WAN_STAGE_DECODE);
    ff_wan_worker_stop(&w);
}

/* ahead > 0: the next clip is made while frames wait, and no more than that. */
TEST(ahead_and_no_further)
{
    Clips c = { .clips = 1000, .frames = 9, .steps = 2 };
    FFWanWorker *w = start(&c, 20);
    AVFrame *f = NULL;

    usleep(20000);
    CHECK(begun(&c) == 0);              // the first waits for somebody
    CHECK(next(w) == 100);
    for (int i = 0; i < 100000 && nb_waiting(w) <= 20; i++)
        usleep(1000);
    usleep(50000);
    const int waiting = nb_waiting(w);
    CHECKF(waiting > 20 && waiting <= ff_wan_worker_frames(20), "%d wait",
           waiting);
    const int clips = begun(&c);
    CHECKF(clips >= 3 && clips <= 4, "%d clips", clips);
    usleep(50000);
    CHECK(begun(&c) == clips);          // nobody reads: it pauses
    for (int i = 0; i < waiting; i++) { // all of it at once
        CHECK(ff_wan_worker_take(w, &f, 0, 0) == 1);
        free(f);
    }
    ff_wan_worker_stop(&w);
    CHECK(open_jobs == 0);
}

/* Frames before an error come first, then what was held back, then the error,
 * for ever. */
TEST(error_after_its_frames)
{
    Clips c = { .clips = 3, .frames = 5, .held = 2 };
    FFWanWorker *w = start(&c, 8);

    fail_in_clip = 2;
    for (int n = 0; n < 5; n++)
        CHECK(next(w) == 100 + n);
    CHECK(next(w) == -2 && next(w) == -1);
    CHECK(next(w) == WAN_ERR(EDOM) && next(w) == WAN_ERR(EDOM));
    CHECK(c.ended == 1);
    ff_wan_worker_stop(&w);
    fail_in_clip = 0;

    FFWanStatus status;
    Clips none = { .begin_error = AVERROR(ENOMEM) };
    w = start(&none, 0);
    CHECK(next(w) == AVERROR(ENOMEM));
    ff_wan_worker_status(w, &status);
    CHECK(status.clip == 1);            // the one that could not begin
    ff_wan_worker_stop(&w);
}

/* Stopped at any moment, it ends soon and leaves nothing. */
TEST(stop_at_any_time)
{
    for (int i = 0; i < 60; i++) {
        Clips c = { .clips = 1000, .frames = 9, .steps = 5 };
        FFWanWorker *w = start(&c, i % 3 * 6);
        AVFrame *f = NULL;

        unit_us = i % 2 * 200;
        for (int n = 0; n < i / 6; n++)
            if (ff_wan_worker_take(w, &f, i % 5 * 300, 0) > 0)
                free(f);
        ff_wan_worker_stop(&w);
        CHECK(open_jobs == 0);
    }
    unit_us = 0;
    FFWanWorker *none = NULL;
    ff_wan_worker_stop(&none);
}

/* A callback that pauses does not keep the worker. */
static FFWanWorker *pausing;

static int begin_slowly(void *opaque, WanJob **job)
{
    (void)opaque, (void)job;
    return ff_wan_worker_pause(pausing, 200 * SECOND) ? AVERROR_EXIT : AVERROR_EOF;
}

TEST(stop_within_a_pause)
{
    const FFWanMaker maker = { .begin = begin_slowly };
    AVFrame *f = NULL;
    int64_t before;

    CHECK(ff_wan_worker_start(&pausing, &maker, 0, 0) == 0);
    CHECK(ff_wan_worker_take(pausing, &f, 20000, 0) == 0);
    before = av_gettime_relative();
    ff_wan_worker_stop(&pausing);
    CHECK(av_gettime_relative() - before < 100 * SECOND);
}

/* A unit that takes minutes is cancelled, not waited for. */
TEST(stop_within_a_unit)
{
    Clips c = { .clips = 1, .frames = 1, .steps = 1 };
    FFWanWorker *w = start(&c, 0);
    AVFrame *f = NULL;
    int64_t before;

    unit_us = 200 * SECOND;
    CHECK(ff_wan_worker_take(w, &f, 20000, 0) == 0);
    before = av_gettime_relative();
    ff_wan_worker_stop(&w);
    CHECK(av_gettime_relative() - before < 100 * SECOND);
    unit_us = 0;
}

/* A wait ends when it says, though nothing comes. */
TEST(take_waits_as_long_as_asked)
{
    Clips c = { .clips = 1, .frames = 1, .steps = 1000 };
    FFWanWorker *w = start(&c, 0);
    AVFrame *f = NULL;
    int64_t before;

    unit_us = 1000;
    before = av_gettime_relative();
    CHECK(ff_wan_worker_take(w, &f, 30000, 0) == 0);
    const int64_t waited = av_gettime_relative() - before;
    CHECKF(waited >= 29000, "%lld us", (long long)waited);
    CHECK(ff_wan_worker_take(w, &f, 0, 0) == 0);
    ff_wan_worker_stop(&w);
    unit_us = 0;
}

/* A frame that need not leave stays, but not when no more can wait, and not at
 * the end. */
TEST(frames_are_held)
{
    /* five frames, and then nothing more for days */
    Clips c = { .clips = 2, .frames = 5, .later_steps = INT_MAX };
    FFWanWorker *w = start(&c, 20);
    AVFrame *f = NULL;
    int64_t before = av_gettime_relative();

    unit_us = 1000;
    CHECK(next(w) == 100);
    CHECK(ff_wan_worker_take(w, &f, 5000, 100 * SECOND) == 0);
    CHECK(ff_wan_worker_take(w, &f, 100 * SECOND, 20000) == 1);
    const int64_t waited = av_gettime_relative() - before;
    CHECKF(waited > 24000, "%lld us", (long long)waited);
    free(f);
    ff_wan_worker_stop(&w);
    unit_us = 0;

    Clips full = { .clips = 1000, .frames = 9, .steps = 2 };
    w = start(&full, 20);
    before = av_gettime_relative();
    CHECK(next(w) == 100);
    CHECK(ff_wan_worker_take(w, &f, 200 * SECOND, 190 * SECOND) == 1);
    CHECK(av_gettime_relative() - before < 100 * SECOND);
    free(f);
    ff_wan_worker_stop(&w);

    Clips last = { .clips = 1, .frames = 5 };
    w = start(&last, 20);
    before = av_gettime_relative();
    CHECK(next(w) == 100);
    for (int n = 1; n < 5; n++) {
        CHECK(ff_wan_worker_take(w, &f, 200 * SECOND, 190 * SECOND) == 1);
        free(f);
    }
    CHECK(av_gettime_relative() - before < 100 * SECOND);
    ff_wan_worker_stop(&w);
}

/* How many previews wait; each is the one after the last. */
static int64_t drain(FFWanWorker *w, int64_t n)
{
    AVFrame *f;

    for (; ff_wan_worker_take_preview(w, &f) > 0; n++) {
        CHECK(f->pts == n);
        free(f);
    }
    return n;
}

/* All come, in order, before the clip's first frame; a full ring holds the
 * worker up for as long as nobody takes, and no longer. */
TEST(previews_before_frames)
{
    Clips c = { .clips = 3, .frames = 9, .steps = 3 * FF_WAN_PREVIEWS };
    FFWanWorker *w = start_maker(&c, 0, 1);
    AVFrame *f;
    int64_t n = 0, frames = 0;
    int ret;

    unit_us = 0;
    while (ff_wan_worker_take(w, &f, 0, 0) == 0 &&
           __atomic_load_n(&c.previews, __ATOMIC_RELAXED) < FF_WAN_PREVIEWS)
        usleep(1000);
    usleep(20000);
    CHECK(__atomic_load_n(&c.previews, __ATOMIC_RELAXED) == FF_WAN_PREVIEWS);
    while ((ret = ff_wan_worker_take(w, &f, 100000, 0)) >= 0) {
        n = drain(w, n);
        if (!ret)
            continue;
        CHECK(n == (frames / 9 + 1) * 3 * FF_WAN_PREVIEWS);
        frames++;
        free(f);
    }
    CHECK(ret == AVERROR_EOF && frames == 27);
    ff_wan_worker_stop(&w);

    /* those that nobody took are freed */
    c = (Clips){ .clips = 1, .frames = 1, .steps = 3 };
    w = start_maker(&c, 0, 1);
    while (ff_wan_worker_take(w, &f, 100000, 0) == 0)
        usleep(1000);
    free(f);
    ff_wan_worker_stop(&w);
    CHECK(c.previews == 3);
}

TEST(the_clock)
{
    const AVRational tb = { 1, 16 };
    FFWanClock c = { 0 };

    ff_wan_clock_start(&c, 100, tb);
    CHECK(ff_wan_clock_until(&c, 100) <= 0);
    const int64_t before = av_gettime_relative() - c.start;
    const int64_t until = ff_wan_clock_until(&c, 116);
    const int64_t after = av_gettime_relative() - c.start;
    CHECKF(until <= SECOND - before && until >= SECOND - after, "%lld us",
           (long long)until);
    ff_wan_clock_start(&c, 0, tb);      // it runs already
    CHECK(c.first == 100);
    usleep(3000);
    CHECK(ff_wan_clock_until(&c, 100) <= -3000);
}

int main(void)
{
    RUN(order);
    RUN(nothing_unasked);
    RUN(ahead_and_no_further);
    RUN(error_after_its_frames);
    RUN(stop_at_any_time);
    RUN(stop_within_a_pause);
    RUN(stop_within_a_unit);
    RUN(take_waits_as_long_as_asked);
    RUN(frames_are_held);
    RUN(previews_before_frames);
    RUN(the_clock);
    return test_end();
}
