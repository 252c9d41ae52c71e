/*
 * Schedules and solvers: coefficients in double, no tensors inside.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * UniPC is order 2 in its bh2 form ("UniPC: A Unified Predictor-Corrector
 * Framework", Zhao et al. 2023), DPM-Solver++ is 2M with midpoints (Lu et
 * al. 2022), both for flow matching: alpha = 1 - sigma and
 * lambda = ln(alpha / sigma). Where lambda is infinite, at sigma 0 and 1, the
 * limits are written out.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampler.h"

int wan_schedule_init(WanSchedule *s, enum WanSampler sampler, int steps,
                      double shift)
{
    /* the reference's 0.999 went through a float */
    const double max = sampler == WAN_SAMPLER_UNIPC ? 0.999f : 1;

    memset(s, 0, sizeof(*s));
    if ((sampler != WAN_SAMPLER_UNIPC && sampler != WAN_SAMPLER_DPMPP &&
         sampler != WAN_SAMPLER_EULER) ||
        steps < 1 || steps > WAN_MAX_STEPS || !(shift >= 0.01 && shift <= 100))
        return WAN_ERR(EINVAL);

    s->sampler = sampler;
    s->steps = steps;
    s->sigma = calloc((size_t)steps + 1, sizeof(*s->sigma));
    s->timestep = calloc((size_t)steps, sizeof(*s->timestep));
    if (!s->sigma || !s->timestep) {
        wan_schedule_free(s);
        return WAN_ERR(ENOMEM);
    }

    for (int i = 0; i < steps; i++) {
        const double base = i * (-max / steps) + max;
        const double sigma = shift * base / (1 + (shift - 1) * base);

        s->sigma[i] = (float)sigma;
        s->timestep[i] = sampler == WAN_SAMPLER_EULER ? 1000 * sigma
                                                      : trunc(1000 * sigma);
    }
    return 0;
}

void wan_schedule_free(WanSchedule *s)
{
    free(s->sigma);
    free(s->timestep);
    memset(s, 0, sizeof(*s));
}

static double lambda(double sigma)
{
    return log((1 - sigma) / sigma);
}

/* x += (sigma' - sigma) v */
static int euler(const WanSchedule *s, int i, WanCombination *c)
{
    c[0].dst = WAN_S_X;
    c[0].coef[WAN_S_X] = 1;
    c[0].coef[WAN_S_V] = (double)s->sigma[i + 1] - s->sigma[i];
    return 1;
}

/*
 * x' = st/s0 x - (1 - st) e (m + D / (2 r)), D = m - m1; e = exp(-h) - 1.
 * First order, without D, on the first and the last step.
 */
static int dpmpp(const WanSchedule *s, int i, WanCombination *c)
{
    const double s0 = s->sigma[i], st = s->sigma[i + 1];
    double h, e = -1;

    c->dst = WAN_S_X;
    if (i == s->steps - 1) {
        c->coef[WAN_S_M0] = 1;
        return 1;
    }
    h = lambda(st) - lambda(s0);
    if (s0 < 1)
        e = expm1(-h);
    e *= 1 - st;
    c->coef[WAN_S_X] = st / s0;
    c->coef[WAN_S_M0] = -e;
    if (i > 0 && s->sigma[i - 1] < 1) {     // else 1 / r is 0
        const double r = (lambda(s0) - lambda(s->sigma[i - 1])) / h;

        c->coef[WAN_S_M0] -= e / (2 * r);
        c->coef[WAN_S_M1] += e / (2 * r);
    }
    return 1;
}

/*
 * The corrector: redo the last step, from PREV at sigma s0 to st, now that
 * the model output m at its end is known.
 *
 * x = st/s0 prev - (1 - st) phi (m1 + rho1 D + rho2 (m - m1)),
 * D = (m2 - m1) / rk, where rho solves rho1 + rho2 = b1,
 * rk rho1 + rho2 = b2; on the step after the first there is no m2 and
 * rho2 = 1/2.
 */
static void unipc_correct(const WanSchedule *s, int i, WanCombination *c)
{
    const double s0 = s->sigma[i - 1], st = s->sigma[i];
    const double h = lambda(st) - lambda(s0), phi = expm1(-h);
    const double scale = -(1 - st) * phi;
    double rho2 = 0.5;

    c->dst = WAN_S_X;
    c->coef[WAN_S_PREV] = st / s0;
    c->coef[WAN_S_M1] = scale;
    if (i > 1) {
        const double rk = (lambda(s->sigma[i - 2]) - lambda(s0)) / h;
        const double g1 = phi / -h - 1, g2 = g1 / -h - 0.5;
        const double b1 = g1 / phi, b2 = 2 * g2 / phi;
        const double rho1 = (b1 - b2) / (1 - rk);

        rho2 = b1 - rho1;
        c->coef[WAN_S_M1] -= scale * rho1 / rk;
        c->coef[WAN_S_M2] += scale * rho1 / rk;
    }
    c->coef[WAN_S_M1] -= scale * rho2;
    c->coef[WAN_S_M0] += scale * rho2;
}

/* x' = st/s0 x - (1 - st) phi (m + D / 2), D = (m1 - m) / rk; no D at first */
static void unipc_predict(const WanSchedule *s, int i, WanCombination *c)
{
    const double s0 = s->sigma[i], st = s->sigma[i + 1];
    const double h = lambda(st) - lambda(s0), phi = expm1(-h);
    const double scale = -(1 - st) * phi;

    c->dst = WAN_S_X;
    c->coef[WAN_S_X] = st / s0;
    c->coef[WAN_S_M0] = scale;
    if (i > 0) {
        const double rk = (lambda(s->sigma[i - 1]) - lambda(s0)) / h;

        c->coef[WAN_S_M0] -= scale / (2 * rk);
        c->coef[WAN_S_M1] += scale / (2 * rk);
    }
}

static int unipc(const WanSchedule *s, int i, WanCombination *c)
{
    const int last = s->steps - 1;
    int n = 0;

    if (i == last) {        // the corrector would change nothing any more
        c->dst = WAN_S_X;
        c->coef[WAN_S_M0] = 1;
        return 1;
    }
    if (i > 0)
        unipc_correct(s, i, &c[n++]);
    if (i + 1 < last) {     // the next step corrects
        c[n].dst = WAN_S_PREV;
        c[n++].coef[WAN_S_X] = 1;
    }
    unipc_predict(s, i, &c[n++]);
    return n;
}

int wan_solver_step(const WanSchedule *s, int i, WanCombination *c)
{
    memset(c, 0, WAN_MAX_COMBINATIONS * sizeof(*c));
    if (s->sampler == WAN_SAMPLER_EULER)
        return euler(s, i, c);

    c[0].dst = WAN_S_M0;
    c[0].coef[WAN_S_X] = 1;
    c[0].coef[WAN_S_V] = -(double)s->sigma[i];
    if (s->sampler == WAN_SAMPLER_DPMPP)
        return 1 + dpmpp(s, i, c + 1);
    return 1 + unipc(s, i, c + 1);
}
