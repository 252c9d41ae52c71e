/*
 * Schedules and solvers: coefficients in double, no tensors inside.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * x = (1 - sigma) x0 + sigma noise; the network gives v = noise - x0. A
 * solver is a list of linear combinations of tensors that the pipeline keeps
 * (x, the last model outputs, ...): the sampler says which coefficients, the
 * ops do the sums on whatever device.
 */

#ifndef WAN_SAMPLER_H
#define WAN_SAMPLER_H

#include "wan.h"

#define WAN_MAX_STEPS 1000

typedef struct WanSchedule {
    enum WanSampler sampler;
    int steps;
    float *sigma;       // [steps + 1], falling, the last 0; f32 as reference
    double *timestep;   // [steps], what the network gets: integers, but Euler's
} WanSchedule;

/**
 * Sigmas and timesteps of a run. unipc: linspace(0.999f, 0), dpm++:
 * linspace(1, 0), both shifted by s x / (1 + (s - 1) x) and timesteps cut to
 * integers, as the official schedulers do; euler: sigmas of dpm++ and
 * timestep = 1000 sigma uncut, as step-distilled models are run.
 *
 * @return 0, WAN_ERR(EINVAL): steps or shift out of range, WAN_ERR(ENOMEM)
 */
int wan_schedule_init(WanSchedule *s, enum WanSampler sampler, int steps,
                      double shift);
void wan_schedule_free(WanSchedule *s);

/*
 * The tensors a solver works on, all shaped as the latent:
 *   X     in: the sample the network was run on; out: the next one
 *   M0    model output of this step as x0 prediction: m = x - sigma v
 *   M1,M2 those of the last and the one before
 *   PREV  the sample the last predictor started from (UniPC)
 *   V     the network's (guided) velocity
 */
enum { WAN_S_X, WAN_S_V, WAN_S_M0, WAN_S_M1, WAN_S_M2, WAN_S_PREV, WAN_S_NB };

/* dst = sum over i of coef[i] * tensor i; dst may be one of them. */
typedef struct WanCombination {
    int dst;
    double coef[WAN_S_NB];  // 0: not used (and must not be read: it may be
                            // uninitialised memory)
} WanCombination;

#define WAN_MAX_COMBINATIONS 4

/**
 * The sums of step i in order, to be run after V was computed at X and
 * timestep[i]. After them the caller renames M2 <- M1 <- M0 (rotating the
 * buffers; their contents must stay).
 *
 * @param c   at least WAN_MAX_COMBINATIONS
 * @return how many
 */
int wan_solver_step(const WanSchedule *s, int i, WanCombination *c);

#endif /* WAN_SAMPLER_H */
