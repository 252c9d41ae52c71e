/*
 * Step caching.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * EasyCache: Zhou et al., "Less is Enough: Training-Free Video Diffusion
 * Acceleration via Runtime-Adaptive Caching". MagCache: Ma et al., "MagCache:
 * Fast Video Generation with Magnitude-Aware Cache". The rules are those of
 * the authors' code for Wan 2.1.
 */

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stepcache.h"

#define EASY_THRESHOLD 0.05
#define EASY_RETAIN 10
#define MAX_THRESHOLD 100.

/* ------------------------------------------------------------- requests */

int wan_stepcache_branches(const WanRequest *r)
{
    return 1 + (r->guidance != 1 || (r->guidance2 && r->guidance2 != 1));
}

__attribute__((format(printf, 3, 4)))
static int bad(const WanLog *log, const char *option, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return wan_error(log, WAN_ERR(EINVAL), "option %s: %s", option, text);
}

/* Options that belong to another kind, or to any. */
static int check_kind(const WanRequest *r, const WanLog *log)
{
    if ((unsigned)r->cache > WAN_CACHE_MAG)
        return bad(log, "cache", "%d is none", r->cache);
    if (r->cache == WAN_CACHE_NONE && r->cache_threshold)
        return bad(log, "cache_threshold", "there is no cache");
    if (r->cache == WAN_CACHE_NONE && r->cache_retain)
        return bad(log, "cache_retain", "there is no cache");
    if (r->cache != WAN_CACHE_MAG && r->cache_run)
        return bad(log, "cache_run", "only cache mag has it");
    if (r->cache != WAN_CACHE_MAG && r->cache_table)
        return bad(log, "cache_table", "only cache mag has one");
    if (!(r->cache_threshold >= 0 && r->cache_threshold <= MAX_THRESHOLD))
        return bad(log, "cache_threshold", "%g; 0 to %g can be",
                   r->cache_threshold, MAX_THRESHOLD);
    if (r->cache_run < 0 || r->cache_run > WAN_MAX_STEPS)
        return bad(log, "cache_run", "%d; 0 to %d can be", r->cache_run,
                   WAN_MAX_STEPS);
    return 0;
}

static int init_easy(WanStepCache *c, const WanRequest *r, const WanLog *log)
{
    if (!(r->cache_retain >= 0 && r->cache_retain <= r->steps) ||
        r->cache_retain != floor(r->cache_retain))
        return bad(log, "cache_retain", "%g; with cache easy a whole number "
                   "of steps can be, 0 to %d", r->cache_retain, r->steps);
    c->threshold = r->cache_threshold ? r->cache_threshold : EASY_THRESHOLD;
    c->retain = r->cache_retain ? (int)r->cache_retain : EASY_RETAIN;
    return 0;
}

static int find_table(WanCacheTable *t, int published, const WanRequest *r,
                      const WanModelInfo *info, const WanLog *log)
{
    const int branches = wan_stepcache_branches(r);
    int ret;

    if (!r->cache_table)
        return published ? 0 : bad(log, "cache", "mag needs a table of "
                                   "ratios, and none is known for %s: "
                                   "measure one with wan-info --calibrate "
                                   "and give it as cache_table", info->name);
    if ((ret = wan_cache_table_read(t, r->cache_table, log)) < 0)
        return ret;
    if (strcmp(t->model, info->name))
        return bad(log, "cache_table", "%s was measured with %s, the model is "
                   "%s", r->cache_table, t->model, info->name);
    if (t->branches < branches)
        return bad(log, "cache_table", "%s was measured without guidance, "
                   "which is %g here", r->cache_table, r->guidance != 1
                   ? r->guidance : r->guidance2);
    return 0;
}

static int init_mag(WanStepCache *c, const WanRequest *r,
                    const WanModelInfo *info, const WanLog *log)
{
    WanCacheDefaults defaults;
    WanCacheTable t;
    const int known = wan_cache_table_published(&t, &defaults, info);
    int ret;

    if (!(r->cache_retain >= 0 && r->cache_retain <= 1))
        return bad(log, "cache_retain", "%g; with cache mag a share of the "
                   "steps can be, 0 to 1", r->cache_retain);
    if ((ret = find_table(&t, known, r, info, log)) < 0)
        return ret;
    for (int b = 0; b < c->branches; b++)
        for (int i = 0; i < c->steps; i++)
            c->ratio[b][i] = wan_cache_table_at(&t, b, r->steps - c->steps + i,
                                                r->steps);
    c->threshold = r->cache_threshold ? r->cache_threshold
                                      : defaults.threshold;
    c->run = r->cache_run ? r->cache_run : defaults.run;
    c->retain = (int)(2 * c->steps * (r->cache_retain ? r->cache_retain
                                                      : defaults.retain));
    return 0;
}

int wan_stepcache_init(WanStepCache *c, const WanRequest *r,
                       const WanModelInfo *info, const WanLog *log)
{
    const int ret = check_kind(r, log), n = wan_stepcache_branches(r);

    if (ret < 0)
        return ret;
    *c = (WanStepCache){ .kind = r->cache, .steps = r->steps,
                         .most = n, .branches = n };
    if (r->video)
        c->steps -= wan_schedule_first(r->steps, r->strength);
    return c->kind == WAN_CACHE_EASY ? init_easy(c, r, log) :
           c->kind == WAN_CACHE_MAG ? init_mag(c, r, info, log) : 0;
}

void wan_stepcache_measure(WanStepCache *c, const WanRequest *r)
{
    const int n = wan_stepcache_branches(r);

    *c = (WanStepCache){ .kind = WAN_CACHE_MAG, .steps = r->steps,
                         .most = n, .branches = n,
                         .retain = 2 * r->steps, .measuring = 1 };
    for (int b = 0; b < n; b++)         // what no expert makes stays so
        for (int i = 0; i < r->steps; i++)
            c->ratio[b][i] = 1;
}

void wan_stepcache_measured(WanCacheTable *t, const WanStepCache *c,
                            const WanModelInfo *info)
{
    *t = (WanCacheTable){ .steps = c->steps, .branches = c->most };
    snprintf(t->model, sizeof(t->model), "%s", info->name);
    memcpy(t->ratio, c->ratio, sizeof(t->ratio));
}

/* ---------------------------------------------------------------- rules */

static int count(WanStepCache *c, int branch, int computed)
{
    c->skip[branch] = !computed;
    c->calls++;
    c->skipped += !computed;
    return computed;
}

int wan_easycache_asks(const WanStepCache *c, int i)
{
    return i > c->first && i >= c->retain && i < c->steps - 1;
}

/* The error is what v may have changed by, as a part of it: the rate at which
 * it changed with x last time, by how far x has gone since. What is no number
 * is not below the threshold. */
int wan_easycache_rule(WanStepCache *c, int i, double moved, double size)
{
    const int asks = wan_easycache_asks(c, i);
    int computed;

    if (asks)
        c->error[0] += c->rate * moved / size;
    computed = !asks || !(c->error[0] < c->threshold);
    if (computed)
        c->error[0] = 0;
    for (int b = 0; b < c->branches; b++)
        count(c, b, computed);
    return computed;
}

void wan_easycache_computed(WanStepCache *c, double changed, double moved)
{
    c->rate = changed / moved;
}

/* The error is how far |r| may be from the residual that would be added, over
 * all calls since that was computed. */
int wan_magcache_rule(WanStepCache *c, int i, int b)
{
    int computed = 1;

    if (2 * i + b >= c->retain && i > c->first) {
        c->change[b] *= c->ratio[b][i];
        c->skips[b]++;
        c->error[b] += fabs(1 - c->change[b]);
        computed = !(c->error[b] < c->threshold && c->skips[b] <= c->run);
    }
    if (computed) {
        c->change[b] = 1;
        c->error[b] = 0;
        c->skips[b] = 0;
    }
    return count(c, b, computed);
}

/* -------------------------------------------------------------- tensors */

void wan_stepcache_begin(WanDev *d, WanStepCache *c, const WanDitConfig *dit,
                         const WanTensor *x)
{
    const int64_t L = wan_count(x) / (4 * x->dim[0]);

    c->calls = c->skipped = 0;
    wan_stepcache_restart(c, 0, c->most);
    if (c->kind == WAN_CACHE_EASY) {
        c->before = wan_tmp_like(d, x);
        c->input = wan_tmp_like(d, x);
        c->output = wan_tmp_like(d, x);
        if (c->branches > 1)
            c->difference = wan_tmp_like(d, x);
        c->norms[0] = wan_tmp(d, wan_rows(x));
    }
    for (int b = 0; c->kind == WAN_CACHE_MAG && b < c->branches; b++) {
        c->residual[b] = wan_tmp(d, wan_share(d, L).n, dit->dim);
        if (c->measuring) {
            c->norms[b] = wan_tmp(d, L);
            c->last_norms[b] = wan_tmp(d, L);
        }
    }
}

void wan_stepcache_restart(WanStepCache *c, int i, int branches)
{
    c->first = i;
    c->branches = branches;
    c->rate = NAN;
    for (int b = 0; b < branches; b++) {
        c->error[b] = c->skips[b] = 0;
        c->change[b] = 1;
    }
}

/* The mean of |a - b|; b may be NULL. */
static double mean_abs(WanDev *d, WanStepCache *c, const WanTensor *a,
                       const WanTensor *b)
{
    const int64_t rows = wan_rows(a);
    float *host = calloc(rows, sizeof(*host));
    double sum = 0;

    if (!host) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for the sums of a step");
        return 0;
    }
    wan_op_row_norm(d, &c->norms[0], a, b, 1);
    wan_op_share(d, &c->norms[0]);      // all ranks skip the same steps
    wan_op_download(d, host, &c->norms[0]);
    for (int64_t i = 0; i < rows; i++)
        sum += host[i];
    free(host);
    return sum / wan_count(a);
}

static void easy_forward(WanDev *d, WanStepCache *c, int i, WanTensor v[],
                         const WanTensor *x, const WanDitInput *in)
{
    double moved = 0, size = 0;

    if (wan_easycache_asks(c, i)) {
        moved = mean_abs(d, c, x, &c->before);
        size = mean_abs(d, c, &c->output, NULL);
    }
    const int computed = wan_easycache_rule(c, i, moved, size);

    wan_op_copy(d, &c->before, x);
    if (!computed) {
        const WanTensor *first[] = { x, &c->output, &c->input };
        const WanTensor *second[] = { x, &c->difference };

        wan_op_lincomb(d, &v[0], 3, (double[]){ 1, 1, -1 }, first);
        if (c->branches > 1)
            wan_op_lincomb(d, &v[1], 2, (double[]){ 1, 1 }, second);
        return;
    }
    wan_dit_forward(d, v, c->branches, in);
    if (i > c->first)
        wan_easycache_computed(c, mean_abs(d, c, &v[0], &c->output),
                               mean_abs(d, c, x, &c->input));
    wan_op_copy(d, &c->input, x);
    wan_op_copy(d, &c->output, &v[0]);
    if (c->branches > 1) {
        const WanTensor *both[] = { &v[1], x };

        wan_op_lincomb(d, &c->difference, 2, (double[]){ 1, -1 }, both);
    }
}

/* The mean over tokens of |r| / |r of the step before|, to 5 decimals. */
static void measure(WanDev *d, WanStepCache *c, int i, int b)
{
    const int64_t L = wan_rows(&c->residual[b]);
    float *host = calloc(2 * L, sizeof(*host));
    double sum = 0;

    if (!host) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for the norms of tokens");
        return;
    }
    wan_op_row_norm(d, &c->norms[b], &c->residual[b], NULL, 2);
    if (i > c->first) {
        wan_op_download(d, host, &c->norms[b]);
        wan_op_download(d, host + L, &c->last_norms[b]);
    }
    for (int64_t k = 0; k < L; k++)
        sum += (double)host[k] / host[L + k];
    c->ratio[b][i] = i > c->first ? rint(sum / L * 1e5) / 1e5 : 1;
    wan_op_copy(d, &c->last_norms[b], &c->norms[b]);
    free(host);
}

/* tokens = X0 + r of the branches that are skipped; of the others residual
 * keeps X0, so that it takes no memory more. */
static void mag_before(WanDev *d, WanStepCache *c, WanTensor tokens[],
                       const int computed[])
{
    for (int b = c->branches - 1; b >= 0; b--) {
        const WanTensor *sum[] = { &tokens[0], &c->residual[b] };

        if (!computed[b]) {
            wan_op_lincomb(d, &tokens[b], 2, (double[]){ 1, 1 }, sum);
            continue;
        }
        wan_op_copy(d, &c->residual[b], &tokens[0]);
        if (b)
            wan_op_copy(d, &tokens[b], &tokens[0]);
    }
}

static void mag_forward(WanDev *d, WanStepCache *c, int i, WanTensor v[],
                        const WanDitInput *in)
{
    const WanMark mark = wan_mark(d);
    const int n = c->branches;
    WanTensor tokens[WAN_DIT_BRANCHES];
    int computed[WAN_DIT_BRANCHES], all = 1;

    for (int b = 0; b < n; b++) {
        computed[b] = wan_magcache_rule(c, i, b);
        all &= computed[b];
    }
    wan_dit_embed(d, tokens, n, in);
    mag_before(d, c, tokens, computed);
    if (all)                            // a block's weights serve both
        wan_dit_blocks(d, tokens, 0, n, in);
    for (int b = 0; b < n && !all; b++)
        if (computed[b])
            wan_dit_blocks(d, tokens, b, 1, in);
    for (int b = 0; b < n; b++) {
        const WanTensor *difference[] = { &tokens[b], &c->residual[b] };

        if (computed[b])
            wan_op_lincomb(d, &c->residual[b], 2, (double[]){ 1, -1 },
                           difference);
        if (c->measuring)
            measure(d, c, i, b);
    }
    wan_dit_head(d, v, tokens, n, in);
    wan_release(d, mark);
}

void wan_stepcache_forward(WanDev *d, WanStepCache *c, int i, WanTensor v[],
                           const WanTensor *x, const WanDitInput *in)
{
    if (c->kind == WAN_CACHE_EASY)
        easy_forward(d, c, i, v, x, in);
    else if (c->kind == WAN_CACHE_MAG)
        mag_forward(d, c, i, v, in);
    else {
        for (int b = 0; b < c->branches; b++)
            count(c, b, 1);
        wan_dit_forward(d, v, c->branches, in);
    }
}
