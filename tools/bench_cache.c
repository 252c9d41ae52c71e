/*
 * wan-bench --clip: clips of one seed with and without a step cache.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * PSNR is of 8-bit RGB, over all pixels of the clip. The share of the time is
 * that of the steps alone: text, images and decoding are the same in all.
 */

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_cache.h"

/* A clip, and what it took. */
typedef struct Clip {
    uint8_t *rgb;
    double seconds;             // of its steps
    int calls, skipped;
} Clip;

static void print_log(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque, (void)level;
    fprintf(stderr, "wan-bench: %s\n", line);
}

static int make_clip(Clip *c, WanModel *m, const WanRequest *rq)
{
    const size_t bytes = 3 * (size_t)rq->width * rq->height;
    WanProgress p = { 0 };
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = rq->width, .height = rq->height,
                     .data = { c->rgb }, .stride = { 3 * rq->width } };
    WanJob *job;
    int ret = wan_job_open(&job, m, rq), frames = 0;

    while (ret >= 0 && frames < rq->frames &&
           (ret = wan_job_step(job, &p)) >= 0)
        while (frames < rq->frames && wan_job_frame(job, &img) >= 0)
            img.data[0] = c->rgb + ++frames * bytes;
    wan_job_close(&job);
    c->seconds = p.steps;
    c->calls = p.calls;
    c->skipped = p.skipped;
    return ret;
}

static double psnr(const uint8_t *a, const uint8_t *b, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (a[i] - b[i]) * (double)(a[i] - b[i]);
    return 10 * log10(255. * 255 * n / sum);
}

/* "easy:0.1" of length n. */
static int parse_cache(WanRequest *rq, const char *text, size_t n,
                       const char *table)
{
    char own[64], *threshold, *end;

    if (n >= sizeof(own))
        return 0;
    memcpy(own, text, n);
    own[n] = 0;
    if ((threshold = strchr(own, ':')))
        *threshold++ = 0;
    rq->cache = !strcmp(own, "easy") ? WAN_CACHE_EASY :
                !strcmp(own, "mag") ? WAN_CACHE_MAG : WAN_CACHE_NONE;
    rq->cache_table = rq->cache == WAN_CACHE_MAG ? table : NULL;
    rq->cache_threshold = threshold ? strtod(threshold, &end) : 0;
    return rq->cache && (!threshold || (*threshold && !*end));
}

/* The clip without, then with each cache of the list. */
static int compare(const BenchClip *b, WanModel *m, WanRequest *rq,
                   Clip *plain, Clip *cached)
{
    const size_t bytes = 3 * (size_t)rq->width * rq->height * rq->frames;
    int ret = make_clip(plain, m, rq), n;

    if (ret < 0)
        return ret;
    printf("%s, %dx%d, %d frames, %d steps: '%s'\n", wan_model_info(m)->name,
           rq->width, rq->height, rq->frames, rq->steps, rq->prompt);
    printf("%-16s %12s %8s %9s\n", "cache", "calls skipped", "time", "PSNR");
    for (const char *p = b->cache; *p; p += n + (p[n] == ',')) {
        n = (int)strcspn(p, ",");
        if (!parse_cache(rq, p, n, b->table)) {
            fprintf(stderr, "wan-bench: --cache %.*s: easy and mag can be, "
                    "with :THRESHOLD\n", n, p);
            return WAN_ERR(EINVAL);
        }
        if ((ret = make_clip(cached, m, rq)) < 0)
            return ret;
        printf("%-16.*s %4d of %3d %8.0f %% %6.1f dB\n", n, p,
               cached->skipped, cached->calls,
               100 * cached->seconds / plain->seconds,
               psnr(plain->rgb, cached->rgb, bytes));
    }
    return 0;
}

int bench_cache(const BenchClip *b)
{
    Clip plain = { 0 }, cached = { 0 };
    WanModelParams p;
    WanModel *m;
    WanRequest rq;
    int ret;

    wan_model_params_default(&p);
    p.path = b->model;
    p.device = b->device;
    p.precision = b->precision;
    p.log = print_log;
    p.log_level = WAN_LOG_WARNING;
    if (wan_model_open(&m, &p) < 0)
        return 1;
    wan_request_default(&rq, m);
    rq.prompt = b->prompt;
    if (b->width) {
        rq.width = b->width;
        rq.height = b->height;
    }
    rq.frames = b->frames ? b->frames : rq.frames;
    rq.steps = b->steps ? b->steps : rq.steps;
    ret = wan_request_check(&rq, m);
    if (ret >= 0) {
        const size_t bytes = 3 * (size_t)rq.width * rq.height;

        plain.rgb = calloc(rq.frames, bytes);
        cached.rgb = calloc(rq.frames, bytes);
        if (plain.rgb && cached.rgb) {
            ret = compare(b, m, &rq, &plain, &cached);
        } else {
            fprintf(stderr, "wan-bench: no memory for two clips\n");
            ret = WAN_ERR(ENOMEM);
        }
    }
    free(plain.rgb);
    free(cached.rgb);
    wan_model_close(&m);
    return ret < 0;
}
