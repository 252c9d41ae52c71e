/*
 * wan-bench --clip: what step caching saves, and what it costs.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_BENCH_CACHE_H
#define WAN_BENCH_CACHE_H

#include "wan.h"

typedef struct BenchClip {
    const char *model, *device;
    enum WanPrecision precision;
    const char *prompt;
    const char *cache;          // "easy,easy:0.1,mag": kind[:threshold] of each
    const char *table;          // for mag, or NULL
    int width, height, frames, steps;   // 0: the model's
} BenchClip;

/* Make the clip without a cache and with each; the exit status. */
int bench_cache(const BenchClip *b);

#endif /* WAN_BENCH_CACHE_H */
