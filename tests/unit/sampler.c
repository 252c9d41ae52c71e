/*
 * Schedules exactly as the official schedulers', solvers along their traces.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "golden.h"
#include "sampler.h"
#include "test.h"

static enum WanSampler sampler_of(const char *name)
{
    return strcmp(name, "unipc") ? WAN_SAMPLER_DPMPP : WAN_SAMPLER_UNIPC;
}

TEST(schedules_are_the_official_ones)
{
    cJSON *json = golden_json("schedules.json");
    const cJSON *c, *x;
    int count = 0;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(json, "tables")) {
        const char *name = cJSON_GetObjectItem(c, "solver")->valuestring;
        const int steps = cJSON_GetObjectItem(c, "steps")->valueint;
        const double shift = cJSON_GetObjectItem(c, "shift")->valuedouble;
        int bad = 0, i = 0;
        WanSchedule s;

        if (!CHECK(!wan_schedule_init(&s, sampler_of(name), steps, shift)))
            continue;
        cJSON_ArrayForEach(x, cJSON_GetObjectItem(c, "sigmas"))
            bad += s.sigma[i++] != (float)x->valuedouble;
        CHECK(i == steps + 1);
        i = 0;
        cJSON_ArrayForEach(x, cJSON_GetObjectItem(c, "timesteps"))
            bad += s.timestep[i++] != x->valuedouble;
        CHECK(i == steps);
        CHECKF(!bad, "%s, %d steps, shift %g: %d differ", name, steps, shift,
               bad);
        wan_schedule_free(&s);
        count++;
    }
    CHECKF(count == 150, "%d tables", count);
    cJSON_Delete(json);
}

TEST(euler_is_the_distilled_models_list)
{
    static const double want[] = { 1, 0.9375, 0.83333333333333333, 0.625, 0 };
    WanSchedule s;

    CHECK(!wan_schedule_init(&s, WAN_SAMPLER_EULER, 4, 5));
    for (int i = 0; i <= 4; i++)
        CHECK(s.sigma[i] == (float)want[i]);
    for (int i = 0; i < 4; i++)
        CHECK(fabs(s.timestep[i] - 1000 * want[i]) < 1e-9);
    wan_schedule_free(&s);
}

TEST(refuses_what_is_out_of_range)
{
    static const struct { int sampler, steps; double shift; } bad[] = {
        { 0, 0, 5 }, { 0, -1, 5 }, { 0, 1001, 5 }, { 0, 4, 0 }, { 0, 4, -1 },
        { 0, 4, 100.5 }, { 0, 4, NAN }, { 0, 4, INFINITY }, { 3, 4, 5 },
    };
    WanSchedule s;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        CHECK(wan_schedule_init(&s, (enum WanSampler)bad[i].sampler,
                                bad[i].steps, bad[i].shift) ==
              WAN_ERR(EINVAL));
        CHECK(!s.sigma && !s.timestep);
    }
    wan_schedule_free(&s);
}

/* ------------------------------------------------------------- solvers */

/* The goldens' stand-in for the network. */
static double velocity(double x, double t)
{
    return 0.7 * x + 0.3 * sin(3 * x) - 0.2 * (t / 1000);
}

typedef struct Run {
    int64_t n;
    float *t[WAN_S_NB];
} Run;

/* All tensors but X begin as NaN: what must not be read is seen if it is. */
static Run run_open(const float *x, int64_t n)
{
    Run r = { .n = n };

    for (int k = 0; k < WAN_S_NB; k++) {
        r.t[k] = malloc((size_t)n * sizeof(float));
        for (int64_t i = 0; i < n; i++)
            r.t[k][i] = k == WAN_S_X ? x[i] : NAN;
    }
    return r;
}

static void run_close(Run *r)
{
    for (int k = 0; k < WAN_S_NB; k++)
        free(r->t[k]);
}

/* What the pipeline does in a step, in f32 as the ops do it. */
static void run_step(Run *r, const WanSchedule *s, int step)
{
    WanCombination c[WAN_MAX_COMBINATIONS];
    float *m2 = r->t[WAN_S_M2];
    int nb;

    for (int64_t i = 0; i < r->n; i++)
        r->t[WAN_S_V][i] = (float)velocity(r->t[WAN_S_X][i],
                                           s->timestep[step]);
    nb = wan_solver_step(s, step, c);
    CHECK(nb >= 1 && nb <= WAN_MAX_COMBINATIONS);
    for (int k = 0; k < nb; k++) {
        for (int64_t i = 0; i < r->n; i++) {
            float sum = 0;

            for (int j = 0; j < WAN_S_NB; j++)
                if (c[k].coef[j])
                    sum += (float)c[k].coef[j] * r->t[j][i];
            r->t[c[k].dst][i] = sum;
        }
    }
    r->t[WAN_S_M2] = r->t[WAN_S_M1];
    r->t[WAN_S_M1] = r->t[WAN_S_M0];
    r->t[WAN_S_M0] = m2;
}

TEST(solvers_follow_the_official_traces)
{
    Golden *g = golden_open("sampler_traces.safetensors");
    cJSON *cases = golden_meta(g, "cases");
    const cJSON *c;
    double worst = 0;
    int count = 0;

    cJSON_ArrayForEach(c, cases) {
        const char *name = cJSON_GetObjectItem(c, "solver")->valuestring;
        const int steps = cJSON_GetObjectItem(c, "steps")->valueint;
        const double shift = cJSON_GetObjectItem(c, "shift")->valuedouble;
        const GoldenTensor *x1, *want, *truth;
        char key[96];
        int first, len;
        WanSchedule s;
        Run r;

        len = snprintf(key, 64, "%s.s%d.shift%.1f", name, steps, shift);
        strcpy(key + len, ".x1");
        x1 = golden_find(g, key);
        strcpy(key + len, ".steps");
        want = golden_find(g, key);
        strcpy(key + len, ".steps.f64");
        truth = golden_find(g, key);
        first = steps - (int)want->dim[0];      // of the stored samples

        CHECK(!wan_schedule_init(&s, sampler_of(name), steps, shift));
        r = run_open(x1->data, x1->n);
        for (int i = 0; i < steps; i++) {
            const float *x = r.t[WAN_S_X];
            double d, d64;

            run_step(&r, &s, i);
            if (i < first)
                continue;
            d = test_rel_l2(x, want->data + (i - first) * r.n, (size_t)r.n);
            d64 = test_rel_l2(x, truth->data + (i - first) * r.n, (size_t)r.n);
            CHECKF(d <= 3e-6 && d64 <= 3e-6, "%s step %d: %g, %g", key, i, d,
                   d64);
            worst = fmax(worst, fmax(d, d64));
            count++;
        }
        run_close(&r);
        wan_schedule_free(&s);
    }
    printf("# %d samples, worst relative L2 %.2g\n", count, worst);
    CHECKF(count == 64, "%d samples", count);
    cJSON_Delete(cases);
    golden_close(&g);
}

/* With v = noise - x0 for one x0, every solver must end at it. */
TEST(a_perfect_network_gives_x0)
{
    static const int steps[] = { 1, 2, 3, 4, 50, 1000 };

    for (int k = 0; k < 3 * 6 * 3; k++) {
        static const double shift[] = { 0.01, 5, 100 };
        const double x0 = 0.375, noise = -1.25;
        double t[WAN_S_NB] = { noise, 0, NAN, NAN, NAN, NAN };
        WanCombination c[WAN_MAX_COMBINATIONS];
        WanSchedule s;

        CHECK(!wan_schedule_init(&s, (enum WanSampler)(k % 3),
                                 steps[k / 3 % 6], shift[k / 18]));
        /* unipc begins at sigma < 1: start there too */
        t[WAN_S_X] = x0 + s.sigma[0] * (noise - x0);
        for (int i = 0; i < s.steps; i++) {
            const int nb = (t[WAN_S_V] = noise - x0, wan_solver_step(&s, i, c));

            for (int a = 0; a < nb; a++) {
                double sum = 0;
                for (int j = 0; j < WAN_S_NB; j++)
                    if (c[a].coef[j])
                        sum += c[a].coef[j] * t[j];
                t[c[a].dst] = sum;
            }
            t[WAN_S_M2] = t[WAN_S_M1];
            t[WAN_S_M1] = t[WAN_S_M0];
            CHECKF(fabs(t[WAN_S_X] - x0 - s.sigma[i + 1] * (noise - x0)) < 1e-6,
                   "sampler %d, %d steps, step %d: %g", k % 3, s.steps, i,
                   t[WAN_S_X]);
        }
        wan_schedule_free(&s);
    }
}

int main(void)
{
    RUN(schedules_are_the_official_ones);
    RUN(euler_is_the_distilled_models_list);
    RUN(refuses_what_is_out_of_range);
    RUN(solvers_follow_the_official_traces);
    RUN(a_perfect_network_gives_x0);
    return test_end();
}
