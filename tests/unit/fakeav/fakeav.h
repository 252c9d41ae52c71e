/*
 * What wan_worker.c and wan_windows.c need of FFmpeg, made up: tests/unit runs
 * them without one, so that sanitizers see their threads and frames.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_FAKEAV_H
#define WAN_FAKEAV_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define HAVE_PTHREADS 1
#define AV_VERSION_INT(a, b, c) ((a) << 16 | (b) << 8 | (c))
#define LIBAVUTIL_VERSION_INT AV_VERSION_INT(59, 39, 100)

#define AVERROR(e) (-(e))
#define AVERROR_EOF (-0x20464f45)
#define AVERROR_EXIT (-0x54495845)
#define AVERROR_EXTERNAL (-0x20545845)
#define FFMAX(a, b) ((a) > (b) ? (a) : (b))
#define FFMIN(a, b) ((a) < (b) ? (a) : (b))

typedef struct AVRational { int num, den; } AVRational;
typedef struct AVFrame { int64_t pts; } AVFrame;

static inline void *av_mallocz(size_t size) { return calloc(1, size); }
static inline void *av_calloc(size_t n, size_t size) { return calloc(n, size); }
static inline void av_free(void *p) { free(p); }
static inline void av_freep(void *p)
{
    free(*(void **)p);
    *(void **)p = NULL;
}
static inline void av_frame_free(AVFrame **f) { av_freep(f); }
static inline AVFrame *av_frame_clone(const AVFrame *f)
{
    AVFrame *copy = malloc(sizeof(*copy));

    if (copy)
        *copy = *f;
    return copy;
}

static inline int64_t av_gettime_relative(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}
#define av_sat_add64(a, b) ((a) + (b))
#define av_sat_sub64(a, b) ((a) - (b))
static inline int64_t av_rescale_q(int64_t a, AVRational from, AVRational to)
{
    return a * from.num * to.den / ((int64_t)from.den * to.num);
}
static inline int ff_thread_setname(const char *name)
{
    return pthread_setname_np(pthread_self(), name);
}

#endif /* WAN_FAKEAV_H */
