/*
 * MagCache's ratios: how much each step changes what the blocks add.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A ratio is |r| of a step by |r| of the step before, in the mean over the
 * tokens, r being the residual that all blocks together add. It depends on the
 * checkpoint and the noise level and hardly on anything else, so it is measured
 * once and for all: tables of known checkpoints are built in, others are files
 * that wan-info --calibrate writes.
 */

#ifndef WAN_CACHETABLE_H
#define WAN_CACHETABLE_H

#include "log.h"
#include "sampler.h"

typedef struct WanCacheTable {
    char model[64];             // WanModelInfo.name of the checkpoint
    int steps;                  // of the run it was measured in
    int branches;               // 1: measured without guidance
    double ratio[2][WAN_MAX_STEPS];     // with the prompt, and with the
                                // negative one; the first step's is 1
} WanCacheTable;

/* What MagCache's authors use with a checkpoint. */
typedef struct WanCacheDefaults {
    double threshold;
    int run;                    // longest run of skipped calls
    double retain;              // share of calls that are always computed
} WanCacheDefaults;

/* The numbers for a checkpoint, and the table that is published for it;
 * 0: there is none, and t is not touched. */
int wan_cache_table_published(WanCacheTable *t, WanCacheDefaults *defaults,
                              const WanModelInfo *info);

/**
 * Read a table of wan-info --calibrate: JSON, an object with
 *   wan_cache_table   1, the version
 *   model             WanModelInfo.name
 *   cond, uncond      a ratio a step; no uncond: measured without guidance
 * and keys that are not read.
 *
 * @return 0; WAN_INVALIDDATA: not such a file; or as wan_read_file()
 */
int wan_cache_table_read(WanCacheTable *t, const char *path,
                         const WanLog *log);

/* The same of a text; path is what error lines call it. */
int wan_cache_table_parse(WanCacheTable *t, const char *text, size_t bytes,
                          const char *path, const WanLog *log);

/* Write one, which must not exist; note: how it was measured, for people. */
int wan_cache_table_write(const WanCacheTable *t, const char *path,
                          const char *note, const WanLog *log);

/* Whether it could be written there; leaves nothing behind. */
int wan_cache_table_writable(const char *path, const WanLog *log);

/* The ratio of step i of steps: the nearest of the table's. */
double wan_cache_table_at(const WanCacheTable *t, int branch, int i,
                          int steps);

#endif /* WAN_CACHETABLE_H */
