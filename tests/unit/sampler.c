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

static int init(WanSchedule *s, enum WanSampler sampler, int steps,
                double shift)
{
    return wan_schedule_init(s, &(WanSampling){
        .sampler = sampler, .steps = steps, .shift = shift,
        .sigma_max = WAN_RCM_SIGMA });
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

        if (!CHECK(!init(&s, sampler_of(name), steps, shift)))
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

    CHECK(!init(&s, WAN_SAMPLER_EULER, 4, 5));
    for (int i = 0; i <= 4; i++)
        CHECK(s.sigma[i] == (float)want[i]);
    for (int i = 0; i < 4; i++)
        CHECK(fabs(s.timestep[i] - 1000 * want[i]) < 1e-9);
    wan_schedule_free(&s);
}

TEST(refuses_what_is_out_of_range)
{
    static const double list[] = { 1000, 500, 500, 0 }, nan = NAN;
    static const struct {
        int sampler, steps;
        double shift;
        const double *timesteps;
        double sigma_max;
    } bad[] = {
        { 0, 0, 5, NULL, 80 }, { 0, -1, 5, NULL, 80 }, { 0, 1001, 5, NULL, 80 },
        { 0, 4, 0, NULL, 80 }, { 0, 4, -1, NULL, 80 },
        { 0, 4, 100.5, NULL, 80 }, { 0, 4, NAN, NULL, 80 },
        { 0, 4, INFINITY, NULL, 80 }, { 5, 4, 5, NULL, 80 },
        /* no list for those, or none that falls to above 0 */
        { 0, 2, 5, list, 80 }, { 1, 2, 5, list, 80 }, { 4, 2, 5, list, 80 },
        { 2, 3, 5, list, 80 }, { 3, 3, 8, list, 80 }, { 3, 1, 8, list + 3, 80 },
        { 3, 1, 8, &nan, 80 },
        { 4, 5, 5, NULL, 80 }, { 4, 4, 5, NULL, 14 }, { 4, 4, 5, NULL, NAN },
        { 4, 4, 5, NULL, INFINITY },
    };
    WanSchedule s;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        const WanSampling p = { (enum WanSampler)bad[i].sampler, bad[i].steps,
                                bad[i].shift, bad[i].timesteps, 0,
                                bad[i].sigma_max, 0 };

        CHECKF(wan_schedule_init(&s, &p) == WAN_ERR(EINVAL), "%d", (int)i);
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

        CHECK(!init(&s, sampler_of(name), steps, shift));
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

    for (int k = 0; k < 5 * 6 * 3; k++) {
        static const double shift[] = { 0.01, 5, 100 };
        const enum WanSampler sampler = (enum WanSampler)(k % 5);
        const int n = steps[k / 5 % 6];
        const double x0 = 0.375, noise = -1.25;
        double t[WAN_S_NB] = { noise, 0, NAN, NAN, NAN, NAN, noise };
        WanCombination c[WAN_MAX_COMBINATIONS];
        WanSchedule s;

        CHECK(!init(&s, sampler, sampler == WAN_SAMPLER_RCM && n > 4 ? 4 : n,
                    shift[k / 30]));
        /* unipc and rcm begin at sigma < 1: start there too */
        t[WAN_S_X] = x0 + s.sigma[0] * (noise - x0);
        for (int i = 0; i < s.steps; i++) {
            const int nb = (t[WAN_S_V] = noise - x0, wan_solver_step(&s, i, c));

            for (int a = 0; a < nb; a++) {
                double sum = 0;
                for (int j = 0; j < WAN_S_NB; j++)
                    if (c[a].coef[j]) {
                        CHECK(wan_solver_uses(&s, j));
                        sum += c[a].coef[j] * t[j];
                    }
                CHECK(wan_solver_uses(&s, c[a].dst));
                t[c[a].dst] = sum;
            }
            t[WAN_S_M2] = t[WAN_S_M1];
            t[WAN_S_M1] = t[WAN_S_M0];
            CHECKF(fabs(t[WAN_S_X] - x0 - s.sigma[i + 1] * (noise - x0)) < 1e-6,
                   "sampler %d, %d steps, step %d: %g", sampler, s.steps, i,
                   t[WAN_S_X]);
        }
        wan_schedule_free(&s);
    }
}

/* -------------------------------------------------------- few-step rules */

static int number(const cJSON *c, const char *key, int otherwise)
{
    const cJSON *v = cJSON_GetObjectItem(c, key);

    return !v ? otherwise : cJSON_IsBool(v) ? cJSON_IsTrue(v) : v->valueint;
}

/* A golden's case; list has room for its steps. */
static WanSampling few(const cJSON *c, double *list)
{
    const char *kind = cJSON_GetObjectItem(c, "kind")->valuestring;
    const cJSON *steps = cJSON_GetObjectItem(c, "steps"), *x;
    WanSampling p = { .sampler = WAN_SAMPLER_EULER, .shift = 8, .sigma_max = 80 };

    if (!strcmp(kind, "rcm")) {
        p.sampler = WAN_SAMPLER_RCM;
        p.steps = steps->valueint;
        p.sigma_max = number(c, "sigma_max", 80);
        return p;
    }
    cJSON_ArrayForEach(x, steps)
        list[p.steps++] = x->valuedouble;
    p.timesteps = list;
    p.warp = number(c, "warp", !strcmp(kind, "lightx2v"));
    p.shift = number(c, "shift", 8);
    if (!strcmp(kind, "dmd") || !strcmp(kind, "causvid"))
        p.sampler = WAN_SAMPLER_DMD;
    return p;
}

/* Numbers of a case's list, where it has one, are the schedule's to the bit;
 * sigmas may be one step of a float apart. */
static void check_list(const cJSON *c, WanSchedule *s)
{
    const cJSON *x;
    int i = 0;

    cJSON_ArrayForEach(x, cJSON_GetObjectItem(c, "sigmas"))
        CHECK(fabs(s->sigma[i++] / x->valuedouble - 1) < 1.2e-7 ||
              !x->valuedouble);
    i = 0;
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(c, "timesteps")) {
        if (!number(c, "bf16_t", 1))    // a variant that none of ours runs
            s->timestep[i] = x->valuedouble;
        CHECKF(s->timestep[i] == x->valuedouble, "timestep %d: %.17g, %.17g", i,
               s->timestep[i], x->valuedouble);
        i++;
    }
}

TEST(few_step_rules_follow_their_programs)
{
    Golden *g = golden_open("fewstep-traces.safetensors");
    cJSON *cases = golden_meta(g, "cases");
    const cJSON *c;
    double worst = 0;
    int count = 0;

    cJSON_ArrayForEach(c, cases) {
        const char *name = cJSON_GetObjectItem(c, "name")->valuestring;
        const GoldenTensor *x1, *want, *truth;
        double list[16];
        const WanSampling p = few(c, list);
        char key[64];
        WanSchedule s;
        Run r;

        snprintf(key, sizeof(key), "%s.x1", name);
        x1 = golden_find(g, key);
        want = golden_find(g, name);
        snprintf(key, sizeof(key), "%s.f64", name);
        truth = golden_find(g, key);
        if (!CHECK(!wan_schedule_init(&s, &p) && want->dim[0] == p.steps))
            continue;
        check_list(c, &s);
        r = run_open(x1->data, x1->n);
        for (int64_t k = 0; k < r.n; k++)
            r.t[WAN_S_X][k] *= (float)s.start;
        for (int i = 0; i < s.steps; i++) {
            float *x = malloc((size_t)r.n * sizeof(*x));
            double d, d64;

            if (i < s.steps - 1 && s.sampler >= WAN_SAMPLER_DMD) {
                snprintf(key, sizeof(key), "%s.noise.%d", name, i);
                memcpy(r.t[WAN_S_NOISE], golden_find(g, key)->data,
                       (size_t)r.n * sizeof(*x));
            }
            memcpy(x, r.t[WAN_S_X], (size_t)r.n * sizeof(*x));
            run_step(&r, &s, i);
            /* of dmd the golden has the clean estimates */
            for (int64_t k = 0; k < r.n; k++)
                x[k] = s.sampler == WAN_SAMPLER_DMD
                       ? x[k] - s.sigma[i] * r.t[WAN_S_V][k]
                       : r.t[WAN_S_X][k];
            d = test_rel_l2(x, want->data + i * r.n, (size_t)r.n);
            d64 = test_rel_l2(x, truth->data + i * r.n, (size_t)r.n);
            CHECKF(d <= 1e-6 && d64 <= 1e-6, "%s step %d: %g, %g", name, i, d,
                   d64);
            worst = fmax(worst, fmax(d, d64));
            count++;
            free(x);
        }
        run_close(&r);
        wan_schedule_free(&s);
    }
    printf("# %d samples, worst relative L2 %.2g\n", count, worst);
    CHECKF(count == 39, "%d samples", count);
    cJSON_Delete(cases);
    golden_close(&g);
}

/* A start in the middle is the end of the whole schedule, and solvers have no
 * memory there. */
TEST(strength_drops_the_first_steps)
{
    static const struct { int steps; double strength; int first; } rule[] = {
        { 6, 0.7, 2 }, { 8, 0.5, 4 }, { 8, 0.65, 3 }, { 50, 0.58, 22 },
        { 50, 1, 0 }, { 50, 0.02, 49 }, { 50, 0.0199, 50 }, { 1, 1, 0 },
    };

    for (size_t i = 0; i < sizeof(rule) / sizeof(*rule); i++)
        CHECKF(wan_schedule_first(rule[i].steps, rule[i].strength) ==
               rule[i].first, "%d of %d steps, %g: %d", rule[i].first,
               rule[i].steps, rule[i].strength,
               wan_schedule_first(rule[i].steps, rule[i].strength));
    for (int sampler = 0; sampler <= WAN_SAMPLER_RCM; sampler++) {
        WanSampling p = { .sampler = sampler, .steps = 4, .shift = 5,
                          .sigma_max = 80 };
        WanCombination c[WAN_MAX_COMBINATIONS];
        WanSchedule whole, s;

        CHECK(!wan_schedule_init(&whole, &p));
        p.strength = 0.5;
        CHECK(!wan_schedule_init(&s, &p));
        CHECK(s.first == 2 && s.steps == 2 && s.start == s.sigma[0]);
        for (int i = 0; i <= s.steps; i++)
            CHECK(s.sigma[i] == whole.sigma[i + 2]);
        for (int i = 0; i < s.steps; i++)
            CHECK(s.timestep[i] == whole.timestep[i + 2]);
        for (int k = wan_solver_step(&s, 0, c) - 1; k >= 0; k--)
            CHECK(!c[k].coef[WAN_S_M1] && !c[k].coef[WAN_S_M2] &&
                  !c[k].coef[WAN_S_PREV]);
        wan_schedule_free(&whole);
        wan_schedule_free(&s);
        p.strength = 0.2;
        CHECK(wan_schedule_init(&s, &p) == WAN_ERR(EINVAL));
    }
}

TEST(lists_in_text)
{
    static const char *const bad[] = {
        "", "|", "1000|", "|1000", "1000||500", "1000,500", "a", "1000|b",
        "1000|500x",
    };
    double t[3] = { 0, 0, -1 };

    CHECK(wan_timesteps_parse(t, 2, "1000|937.5|500") == 3);
    CHECK(t[0] == 1000 && t[1] == 937.5 && t[2] == -1);
    CHECK(wan_timesteps_parse(t, 2, "1e3") == 1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        CHECKF(wan_timesteps_parse(t, 2, bad[i]) == WAN_ERR(EINVAL), "'%s'",
               bad[i]);
    /* what is a number, but no timestep, is found later */
    CHECK(wan_timesteps_parse(t, 2, "1000|nan") == 2);
    CHECK(wan_timesteps_check(t, 2) == 1);
    CHECK(wan_timesteps_check((double[]){ 1000, 2, 2 }, 3) == 2);
    CHECK(wan_timesteps_check((double[]){ 1000.5 }, 1) == 0);
    CHECK(wan_timesteps_check((double[]){ 1000, 0.25 }, 2) == 2);
}

int main(void)
{
    RUN(schedules_are_the_official_ones);
    RUN(euler_is_the_distilled_models_list);
    RUN(refuses_what_is_out_of_range);
    RUN(solvers_follow_the_official_traces);
    RUN(a_perfect_network_gives_x0);
    RUN(few_step_rules_follow_their_programs);
    RUN(strength_drops_the_first_steps);
    RUN(lists_in_text);
    return test_end();
}
