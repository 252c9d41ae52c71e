/*
 * Schedules and solvers: coefficients in double, no tensors inside.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * UniPC is order 2 in its bh2 form ("UniPC: A Unified Predictor-Corrector
 * Framework", Zhao et al. 2023), DPM-Solver++ is 2M with midpoints (Lu et
 * al. 2022), both for flow matching: alpha = 1 - sigma and
 * lambda = ln(alpha / sigma). Where lambda is infinite, at sigma 0 and 1, the
 * limits are written out. DMD ("Improved Distribution Matching Distillation",
 * Yin et al. 2024) and rCM ("Large Scale Diffusion Distillation via
 * Score-Regularized Continuous-Time Consistency", Zheng et al. 2025) go to x0
 * and back to less noise; timesteps and sigmas are those of the programs that
 * published the models: FastVideo, CausVid, TurboDiffusion, LightX2V.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampler.h"
#include "tensor.h"

const char *wan_sampler_name(enum WanSampler sampler)
{
    static const char *const name[] = { "unipc", "dpm++", "euler", "dmd",
                                        "rcm" };

    return (unsigned)sampler < sizeof(name) / sizeof(*name) ? name[sampler]
                                                            : NULL;
}

int wan_timesteps_parse(double *out, int max, const char *text)
{
    for (int n = 0; ; text++) {
        char *end;
        const double t = strtod(text, &end);

        if (end == text || (*end && *end != '|'))
            return WAN_ERR(EINVAL);
        if (n < max)
            out[n] = t;
        n++;
        text = end;
        if (!*end)
            return n;
    }
}

static double shifted(double shift, double base)
{
    return shift * base / (1 + (shift - 1) * base);
}

static void even_steps(WanSchedule *s, double shift)
{
    const int cut = s->sampler == WAN_SAMPLER_UNIPC ||
                    s->sampler == WAN_SAMPLER_DPMPP;
    /* the reference's 0.999 went through a float */
    const double max = s->sampler == WAN_SAMPLER_UNIPC ? 0.999f : 1;

    for (int i = 0; i < s->steps; i++) {
        const double base = i * (-max / s->steps) + max;
        const double sigma = shifted(shift, base);

        s->sigma[i] = (float)sigma;
        s->timestep[i] = cut ? trunc(1000 * sigma) : 1000 * sigma;
    }
}

/* Of the training's table, 1000 timesteps of which t need be none. */
static double nearest_sigma(double shift, double t)
{
    double best = 1;

    for (int k = 1; k < 1000; k++) {
        const double sigma = shifted(shift, 1 - k / 1000.);

        if (fabs(1000 * sigma - t) < fabs(1000 * best - t))
            best = sigma;
    }
    return best;
}

static void listed_steps(WanSchedule *s, const WanSampling *p)
{
    for (int i = 0; i < s->steps; i++) {
        const double x = p->timesteps[i];
        const double sigma = p->warp ? shifted(p->shift, x / 1000) :
                             p->sampler == WAN_SAMPLER_DMD
                             ? nearest_sigma(p->shift, x) : x / 1000;

        s->sigma[i] = (float)sigma;
        s->timestep[i] = p->warp ? s->sigma[i] * 1000 : x;
    }
}

static void rcm_steps(WanSchedule *s, double sigma_max)
{
    const double angle[WAN_RCM_STEPS] = { atan(sigma_max), 1.5, 1.4, 1 };

    for (int i = 0; i < s->steps; i++) {
        const double sigma = sin(angle[i]) / (sin(angle[i]) + cos(angle[i]));

        s->sigma[i] = (float)sigma;
        s->timestep[i] = wan_bf16_to_f32(wan_f32_to_bf16((float)sigma * 1000));
    }
    s->start = s->sigma[0];
}

int wan_timesteps_check(const double *timesteps, int n)
{
    double before = INFINITY;

    for (int i = 0; i < n; i++) {
        if (!(timesteps[i] > 0 && timesteps[i] <= 1000 &&
              timesteps[i] < before))
            return i;
        before = timesteps[i];
    }
    return n;
}

static int is_valid(const WanSampling *p)
{
    if ((unsigned)p->sampler > WAN_SAMPLER_RCM || p->steps < 1 ||
        p->steps > WAN_MAX_STEPS || !(p->shift >= 0.01 && p->shift <= 100))
        return 0;
    if (!(p->strength >= 0 && p->strength <= 1) ||
        (p->strength && wan_schedule_first(p->steps, p->strength) == p->steps))
        return 0;
    if (p->sampler == WAN_SAMPLER_RCM)      // angles must fall
        return p->steps <= WAN_RCM_STEPS && p->sigma_max > tan(1.5) &&
               isfinite(p->sigma_max) && !p->timesteps;
    return !p->timesteps ||
           ((p->sampler == WAN_SAMPLER_EULER || p->sampler == WAN_SAMPLER_DMD) &&
            wan_timesteps_check(p->timesteps, p->steps) == p->steps);
}

/* Its double arithmetic is part of the rule: 50 * 0.58 makes 28 steps. */
int wan_schedule_first(int steps, double strength)
{
    const int run = (int)(steps * strength);

    return steps - (run < steps ? run : steps);
}

/* Begin in the middle: solvers count steps from the first that is run. */
static void start_late(WanSchedule *s, double strength)
{
    s->first = wan_schedule_first(s->steps, strength);
    s->steps -= s->first;
    memmove(s->sigma, s->sigma + s->first,
            (s->steps + 1) * sizeof(*s->sigma));
    memmove(s->timestep, s->timestep + s->first,
            s->steps * sizeof(*s->timestep));
    s->start = s->sigma[0];
}

int wan_schedule_init(WanSchedule *s, const WanSampling *p)
{
    memset(s, 0, sizeof(*s));
    if (!is_valid(p))
        return WAN_ERR(EINVAL);

    s->sampler = p->sampler;
    s->steps = p->steps;
    s->start = 1;
    s->frame_major = p->sampler == WAN_SAMPLER_DMD;
    s->sigma = calloc((size_t)p->steps + 1, sizeof(*s->sigma));
    s->timestep = calloc((size_t)p->steps, sizeof(*s->timestep));
    if (!s->sigma || !s->timestep) {
        wan_schedule_free(s);
        return WAN_ERR(ENOMEM);
    }

    if (p->sampler == WAN_SAMPLER_RCM)
        rcm_steps(s, p->sigma_max);
    else if (p->timesteps)
        listed_steps(s, p);
    else
        even_steps(s, p->shift);
    if (p->strength)
        start_late(s, p->strength);
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

/* x' = (1 - sigma') (x - sigma v) + sigma' noise */
static int renoise(const WanSchedule *s, int i, WanCombination *c)
{
    const double next = s->sigma[i + 1];

    c[0].dst = WAN_S_X;
    c[0].coef[WAN_S_X] = 1 - next;
    c[0].coef[WAN_S_V] = (next - 1) * s->sigma[i];
    c[0].coef[WAN_S_NOISE] = next;
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
    if (s->sampler == WAN_SAMPLER_DMD || s->sampler == WAN_SAMPLER_RCM)
        return renoise(s, i, c);

    c[0].dst = WAN_S_M0;
    c[0].coef[WAN_S_X] = 1;
    c[0].coef[WAN_S_V] = -(double)s->sigma[i];
    if (s->sampler == WAN_SAMPLER_DPMPP)
        return 1 + dpmpp(s, i, c + 1);
    return 1 + unipc(s, i, c + 1);
}

int wan_solver_uses(const WanSchedule *s, int tensor)
{
    const int draws = s->sampler == WAN_SAMPLER_DMD ||
                      s->sampler == WAN_SAMPLER_RCM;

    return tensor == WAN_S_X || tensor == WAN_S_V ||
           (tensor == WAN_S_NOISE ? draws
                                  : !draws && s->sampler != WAN_SAMPLER_EULER);
}
