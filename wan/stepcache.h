/*
 * Step caching: when a step's blocks are skipped, and what is added instead.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Near each other in time the network does nearly the same. EasyCache (arXiv
 * 2507.02860) skips whole steps and adds the last computed difference between
 * output and input to the latent; MagCache (arXiv 2506.09045) skips the blocks
 * of one branch of guidance and adds their last computed sum to the tokens.
 * Solver, guidance and schedule go on as they are. Both change the video.
 *
 * The rules are functions of numbers alone; wan_stepcache_forward() measures
 * what they ask for and does what they say.
 */

#ifndef WAN_STEPCACHE_H
#define WAN_STEPCACHE_H

#include "cachetable.h"
#include "dit.h"

typedef struct WanStepCache {
    enum WanCache kind;
    int steps, most;            // N; branches of any step
    int branches;               // now: 2 with guidance
    int first;                  // step before which it remembers nothing
    double threshold;           // tau
    int retain;                 // EasyCache: steps, MagCache: calls, that are
                                // computed in any case
    int run;                    // MagCache's K
    double ratio[WAN_DIT_BRANCHES][WAN_MAX_STEPS];  // MagCache's q
    int measuring;              // the ratios are made, and nothing is skipped

    /* What the rules remember. */
    double rate;                // EasyCache's k; NAN: not known yet
    double error[WAN_DIT_BRANCHES];     // summed since the last computed
                                // call; EasyCache has the first alone
    double change[WAN_DIT_BRANCHES];    // MagCache's a, of |r| since then
    int skips[WAN_DIT_BRANCHES];        // MagCache's n

    int skip[WAN_DIT_BRANCHES]; // whether the last step left it out
    int calls, skipped;         // of the network so far, of both branches

    /* In the arena. EasyCache, [16, T, h, w]: the input of the step before;
     * of the last computed step input, output with the prompt, and output
     * less input with the negative one. */
    WanTensor before, input, output, difference;
    WanTensor residual[WAN_DIT_BRANCHES];   // MagCache, [L, D]: of the blocks
    WanTensor norms[2];         // norms of rows, as many as are asked for
    WanTensor last_norms[WAN_DIT_BRANCHES]; // measuring: of residual, [L]
} WanStepCache;

/**
 * Settle what a request asks for, with the defaults of the checkpoint.
 *
 * @return 0; WAN_ERR(EINVAL): the line names the option; or as
 *         wan_cache_table_read()
 */
int wan_stepcache_init(WanStepCache *c, const WanRequest *r,
                       const WanModelInfo *info, const WanLog *log);

/* Branches of guidance: 1 where no guidance is needed. */
int wan_stepcache_branches(const WanRequest *r);

/* Instead: MagCache that measures its ratios and skips nothing. */
void wan_stepcache_measure(WanStepCache *c, const WanRequest *r);

/* What was measured, once all steps were made. */
void wan_stepcache_measured(WanCacheTable *t, const WanStepCache *c,
                            const WanModelInfo *info);

/* ---------------------------------------------------------------- rules */

/* EasyCache's rule before step i: 1: compute it. moved: the mean of |x - x of
 * the step before|; size: that of the last computed |v|. Of steps for which
 * wan_easycache_asks() is 0 they may be anything. */
int wan_easycache_asks(const WanStepCache *c, int i);
int wan_easycache_rule(WanStepCache *c, int i, double moved, double size);

/* After a computed step but the first: the means of |v - last computed v| and
 * |x - last computed x|. */
void wan_easycache_computed(WanStepCache *c, double changed, double moved);

/* MagCache's rule before the blocks of a branch in step i. */
int wan_magcache_rule(WanStepCache *c, int i, int branch);

/* -------------------------------------------------------------- tensors */

/* Take what the steps remember from the arena; x: the latent. */
void wan_stepcache_begin(WanDev *d, WanStepCache *c, const WanDitConfig *dit,
                         const WanTensor *x);

/* Another transformer takes over at step i, with that many branches, at most
 * those that it began with: what the other one did says nothing of it. */
void wan_stepcache_restart(WanStepCache *c, int i, int branches);

/* Step i's wan_dit_forward(), or what stands for it. x: the latent, which is
 * the input's without what image models join to it; v: no tensor of the
 * cache. */
void wan_stepcache_forward(WanDev *d, WanStepCache *c, int i, WanTensor v[],
                           const WanTensor *x, const WanDitInput *in);

#endif /* WAN_STEPCACHE_H */
