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

#define WAN_RCM_STEPS 4     // at most
#define WAN_RCM_SIGMA 80.   // sigma_max, unless another one is asked for

/* What a run is asked to be. */
typedef struct WanSampling {
    enum WanSampler sampler;
    int steps;
    double shift;
    const double *timesteps;    // euler, dmd: [steps]; NULL: even ones
    int warp;                   // timesteps go through the shifted table
    double sigma_max;           // rcm
    double strength;            // above 0: it starts from what is given, of
                                // which that much becomes noise, 1 at most
} WanSampling;

typedef struct WanSchedule {
    enum WanSampler sampler;
    int first;          // steps before the first that is run
    int steps;          // that are run
    float *sigma;       // [steps + 1], falling, the last 0; f32 as reference
    double *timestep;   // [steps], what the network gets: integers of unipc
                        // and dpm++
    double start;       // the first x is the noise times this; with
                        // strength: plus what is given times 1 - this
    int frame_major;    // noise is drawn as [T, C, h, w]
} WanSchedule;

/* Of so many steps the first that is run when that much of what is given
 * becomes noise, 0 to 1; steps: none is. Diffusers' rule, in double. */
int wan_schedule_first(int steps, double strength);

/**
 * Sigmas and timesteps of a run. unipc: linspace(0.999f, 0), dpm++:
 * linspace(1, 0), both shifted by s x / (1 + (s - 1) x) and timesteps cut to
 * integers, as the official schedulers do. The others, with timesteps uncut,
 * are for step-distilled models:
 *
 *   euler, dmd  even: sigmas of dpm++, timestep = 1000 sigma.
 *               A list x, warped: sigma = shifted(x / 1000), likewise.
 *               A list as it is: timestep = x; sigma = x / 1000 for euler,
 *               that of the nearest of the 1000 shifted timesteps for dmd.
 *   rcm         sigma = sin a / (sin a + cos a) for a = atan(sigma_max), 1.5,
 *               1.4, 1; timestep = 1000 sigma in bf16; start = sigma_0.
 *
 * With strength steps before wan_schedule_first() are dropped: the solver begins
 * there, without a memory.
 *
 * @return 0, WAN_ERR(EINVAL): steps, shift, sigma_max or a timestep out of
 *         range, a strength that leaves no step; WAN_ERR(ENOMEM)
 */
int wan_schedule_init(WanSchedule *s, const WanSampling *p);
void wan_schedule_free(WanSchedule *s);

/* The first of n timesteps that is not in (0, 1000] or not below the one
 * before it; n: none. */
int wan_timesteps_check(const double *timesteps, int n);

/*
 * The tensors a solver works on, all shaped as the latent:
 *   X     in: the sample the network was run on; out: the next one
 *   M0    model output of this step as x0 prediction: m = x - sigma v
 *   M1,M2 those of the last and the one before
 *   PREV  the sample the last predictor started from (UniPC)
 *   V     the network's (guided) velocity
 *   NOISE fresh noise: the generator's next draw after the first X, one for
 *         each step that reads it (DMD, rCM)
 */
enum { WAN_S_X, WAN_S_V, WAN_S_M0, WAN_S_M1, WAN_S_M2, WAN_S_PREV,
       WAN_S_NOISE, WAN_S_NB };

/* Whether a schedule's steps use that tensor, the renaming below counted. */
int wan_solver_uses(const WanSchedule *s, int tensor);

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
