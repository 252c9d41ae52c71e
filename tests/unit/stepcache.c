/*
 * Step caching's rules on the numbers of official runs, its tables, and what
 * is refused.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <errno.h>
#include <unistd.h>

#include "golden.h"
#include "stepcache.h"
#include "test.h"

static char last[512];
static int lines;

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level > WAN_LOG_ERROR)
        return;
    snprintf(last, sizeof(last), "%s", line);
    lines++;
}

static const WanLog log_keep = { keep, NULL, WAN_LOG_WARNING };

static const WanModelInfo small = { .name = "Wan2.1 T2V 1.3B", .dim = 1536,
                                    .layers = 30, .height = 480 };
static const WanModelInfo tiny = { .name = "tiny", .dim = 64, .layers = 2 };

static WanModelInfo large(enum WanTask task, int height)
{
    return (WanModelInfo){ .name = "Wan2.1 14B", .task = task, .dim = 5120,
                           .layers = 40, .height = height };
}

static WanRequest request(enum WanCache cache)
{
    return (WanRequest){ .steps = 50, .guidance = 5, .cache = cache };
}

static double meta_number(const cJSON *what, const char *key, double otherwise)
{
    const cJSON *v = cJSON_GetObjectItem(what, key);

    return v ? v->valuedouble : otherwise;
}

/* ---------------------------------------------------------------- rules */

/* The tables' nearest entries, the sums, the decisions of both branches. */
TEST(magcache_is_the_official_one)
{
    static const char *const name[] = { "stepcache-magcache.safetensors",
                                        "stepcache-magcache-i2v.safetensors",
                                        "stepcache-magcache-2.safetensors" };
    for (int k = 0; k < 3; k++) {
        const WanModelInfo model[] = { small, large(WAN_TASK_I2V, 480),
                                       small };
        Golden *g = golden_open(name[k]);
        cJSON *what = golden_meta(g, "case");
        const GoldenTensor *computed = golden_find(g, "computed");
        const GoldenTensor *q = golden_find(g, "ratios");
        const GoldenTensor *sum = golden_find(g, "accumulated");
        const int n = (int)q->n / 2;
        WanRequest rq = request(WAN_CACHE_MAG);
        WanStepCache c;

        rq.steps = n;
        rq.cache_threshold = meta_number(what, "thresh", 0);
        rq.cache_run = (int)meta_number(what, "K", 0);
        rq.cache_retain = meta_number(what, "retention", 0);
        CHECK(wan_stepcache_init(&c, &rq, &model[k], &log_keep) == 0);
        for (int i = 0; i < n; i++) {
            for (int b = 0; b < 2; b++) {
                if (k == 2)             // its own table
                    c.ratio[b][i] = golden_double(q, 2 * i + b);
                CHECKF(c.ratio[b][i] == golden_double(q, 2 * i + b), "%s: "
                       "ratio %d of branch %d", name[k], i, b);
                CHECKF(wan_magcache_rule(&c, i, b) ==
                       computed->raw[2 * i + b], "%s: step %d, branch %d",
                       name[k], i, b);
                CHECKF(fabs(c.error[b] - golden_double(sum, 2 * i + b)) <
                       1e-12, "%s: step %d, branch %d: %.17g", name[k], i, b,
                       c.error[b]);
            }
        }
        cJSON_Delete(what);
        golden_close(&g);
    }
}

/* Each branch by its own ratios: sums of |1 - product|, and the longest run. */
TEST(magcache_branches_are_apart)
{
    static const int want[2][9] = { { 1, 1, 0, 0, 0, 1, 0, 0, 0 },
                                    { 1, 0, 0, 1, 0, 0, 1, 0, 0 } };
    WanStepCache c = { .kind = WAN_CACHE_MAG, .steps = 9, .branches = 2,
                       .threshold = 0.05, .run = 3, .retain = 3,
                       .change = { 1, 1 } };

    for (int i = 0; i < 9; i++) {
        c.ratio[0][i] = i == 2 || i == 6 ? 1.001 : 1;
        c.ratio[1][i] = 0.99;
        for (int b = 0; b < 2; b++)
            CHECKF(wan_magcache_rule(&c, i, b) == want[b][i], "step %d, "
                   "branch %d: sum %g of %d", i, b, c.error[b], c.skips[b]);
    }
    CHECK(c.calls == 18 && c.skipped == 12);
}

/* The mean of |a - b| over a step's latent; of the noise, step -1. */
static double moved(Golden *g, int i, int from)
{
    const GoldenTensor *z = golden_find(g, "latents");
    const GoldenTensor *noise = golden_find(g, "noise");
    const float *a = i < 0 ? noise->data : z->data + i * noise->n;
    const float *b = from < 0 ? noise->data : z->data + from * noise->n;
    double s = 0;

    for (int64_t k = 0; k < noise->n; k++)
        s += fabs((double)a[k] - b[k]);
    return s / noise->n;
}

/* The goldens have the rates, the latents and the sums. The size of v follows
 * from the first sum after a computed step, and holds until the next. */
TEST(easycache_is_the_official_one)
{
    static const char *const name[] = { "stepcache-easycache.safetensors",
                                        "stepcache-easycache-2.safetensors" };
    int sums = 0;

    for (int k = 0; k < 2; k++) {
        Golden *g = golden_open(name[k]);
        cJSON *what = golden_meta(g, "case");
        const GoldenTensor *computed = golden_find(g, "computed");
        const GoldenTensor *rate = golden_find(g, "k");
        const GoldenTensor *sum = golden_find(g, "accumulated");
        const int n = (int)rate->n;
        WanRequest rq = request(WAN_CACHE_EASY);
        WanStepCache c;
        double size = 0;

        rq.steps = n;
        rq.cache_threshold = meta_number(what, "thresh", 0);
        rq.cache_retain = meta_number(what, "retain", 0);
        CHECK(wan_stepcache_init(&c, &rq, &small, &log_keep) == 0);
        for (int i = 0; i < n; i++) {
            const double dx = i ? moved(g, i - 1, i - 2) : 0;
            const double want = golden_double(sum, 2 * i);

            if (i && computed->raw[2 * (i - 1)] && want)
                size = golden_double(rate, i - 1) * dx / want;
            else if (i && computed->raw[2 * (i - 1)])
                size = 0;               // not known: infinitely far
            CHECKF(wan_easycache_rule(&c, i, dx, size) ==
                   computed->raw[2 * i], "%s: step %d", name[k], i);
            CHECK(c.skip[0] == c.skip[1]);
            CHECKF(fabs(c.error[0] - want) < 1e-6, "%s: step %d: %g, not %g",
                   name[k], i, c.error[0], want);
            sums += want > 0;
            if (i && !c.skip[0])
                wan_easycache_computed(&c, golden_double(rate, i), 1);
        }
        cJSON_Delete(what);
        golden_close(&g);
    }
    CHECKF(sums == 12, "%d sums", sums);
}

/* What can't be known is computed: no rate yet, nothing that moves. */
TEST(easycache_without_numbers)
{
    WanRequest rq = request(WAN_CACHE_EASY);
    WanStepCache c;

    rq.cache_retain = 1;
    CHECK(wan_stepcache_init(&c, &rq, &tiny, &log_keep) == 0);
    c.rate = NAN;
    CHECK(!wan_easycache_asks(&c, 0) && wan_easycache_rule(&c, 0, 0, 0));
    CHECK(wan_easycache_rule(&c, 1, 1e-9, 1) && c.error[0] == 0);
    wan_easycache_computed(&c, 0, 0);           // 0 / 0
    CHECK(wan_easycache_rule(&c, 2, 1e-9, 1));
    wan_easycache_computed(&c, 1, 1);
    CHECK(wan_easycache_rule(&c, 3, 1e-9, 0));  // v was 0
    CHECK(!wan_easycache_rule(&c, 4, 0.03, 1) && c.error[0] == 0.03);
    CHECK(wan_easycache_rule(&c, 5, 0.03, 1) && c.error[0] == 0);
    CHECK(!wan_easycache_rule(&c, 6, 0, 1));
    CHECK(!wan_easycache_asks(&c, 49) && wan_easycache_rule(&c, 49, 0, 1));
    CHECK(c.calls == 16 && c.skipped == 4);
}

/* ------------------------------------------------------------ defaults */

TEST(defaults)
{
    const WanModelInfo model[] = { small, large(WAN_TASK_T2V, 720),
                                   large(WAN_TASK_I2V, 480),
                                   large(WAN_TASK_I2V, 720) };
    static const struct { double tau; int run; double last; } want[] = {
        { 0.12, 4, 0.81838 }, { 0.24, 6, 0.86111 }, { 0.24, 6, 0.92617 },
        { 0.24, 6, 0.8679 },
    };
    WanRequest rq = request(WAN_CACHE_EASY);
    WanStepCache c;

    CHECK(wan_stepcache_init(&c, &rq, &tiny, &log_keep) == 0);
    CHECK(c.threshold == 0.05 && c.retain == 10 && c.branches == 2);
    rq = request(WAN_CACHE_MAG);
    for (int k = 0; k < 4; k++) {
        CHECK(wan_stepcache_init(&c, &rq, &model[k], &log_keep) == 0);
        CHECK(c.threshold == want[k].tau && c.run == want[k].run);
        CHECK(c.retain == 20 && c.ratio[0][0] == 1 && c.ratio[1][0] == 1);
        CHECK(c.ratio[0][49] == want[k].last);
    }
    /* another number of steps: the first is 1, a single one the last */
    rq.steps = 7;
    CHECK(wan_stepcache_init(&c, &rq, &small, &log_keep) == 0);
    CHECK(c.ratio[0][0] == 1 && c.ratio[1][6] == 0.81939 && c.retain == 2);
    rq.steps = 1;
    rq.guidance = 1;
    CHECK(wan_stepcache_init(&c, &rq, &small, &log_keep) == 0);
    CHECK(c.ratio[0][0] == 0.81838 && c.branches == 1);
    CHECK(wan_magcache_rule(&c, 0, 0));         // nothing to add yet
}

/* Halves go to the even entry: 5 of 3, by steps of 1/2. */
/* A branch that an expert without guidance leaves out is as it was: a ratio that
 * can be read again. */
TEST(what_is_not_measured)
{
    const WanRequest r = { .steps = 5, .guidance = 3, .guidance2 = 1 };
    WanStepCache c;

    wan_stepcache_measure(&c, &r);
    CHECK(c.most == 2 && c.ratio[1][4] == 1 && c.ratio[0][0] == 1);
}

TEST(nearest_entries)
{
    static const double want[] = { 1, 1, 2, 3, 3 };
    const WanCacheTable t = { .steps = 3, .branches = 1,
                              .ratio = { { 1, 2, 3 } } };

    for (int i = 0; i < 5; i++)
        CHECKF(wan_cache_table_at(&t, 0, i, 5) == want[i], "%d: %g", i,
               wan_cache_table_at(&t, 0, i, 5));
    CHECK(wan_cache_table_at(&t, 0, 0, 1) == 3);
    CHECK(wan_cache_table_at(&t, 0, 1, 2) == 3);
}

/* ------------------------------------------------------------- refused */

TEST(refused_options)
{
    const struct { WanRequest rq; const char *option; } bad[] = {
        { { .cache = (enum WanCache)3 }, "cache:" },
        { { .cache = (enum WanCache)-1 }, "cache:" },
        { { .cache_threshold = 0.1 }, "cache_threshold:" },
        { { .cache_retain = 1 }, "cache_retain:" },
        { { .cache_run = 1 }, "cache_run:" },
        { { .cache_table = "t" }, "cache_table:" },
        { { .cache = WAN_CACHE_EASY, .cache_run = 1 }, "cache_run:" },
        { { .cache = WAN_CACHE_EASY, .cache_table = "t" }, "cache_table:" },
        { { .cache = WAN_CACHE_EASY, .cache_threshold = NAN },
          "cache_threshold:" },
        { { .cache = WAN_CACHE_EASY, .cache_threshold = -0.1 },
          "cache_threshold:" },
        { { .cache = WAN_CACHE_MAG, .cache_threshold = INFINITY },
          "cache_threshold:" },
        { { .cache = WAN_CACHE_EASY, .cache_retain = 51 }, "cache_retain:" },
        { { .cache = WAN_CACHE_EASY, .cache_retain = 2.5 }, "cache_retain:" },
        { { .cache = WAN_CACHE_EASY, .cache_retain = -1 }, "cache_retain:" },
        { { .cache = WAN_CACHE_EASY, .cache_retain = NAN }, "cache_retain:" },
        { { .cache = WAN_CACHE_MAG, .cache_retain = 1.01 }, "cache_retain:" },
        { { .cache = WAN_CACHE_MAG, .cache_retain = NAN }, "cache_retain:" },
        { { .cache = WAN_CACHE_MAG, .cache_run = -1 }, "cache_run:" },
        { { .cache = WAN_CACHE_MAG, .cache_run = 1001 }, "cache_run:" },
    };
    WanStepCache c;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        WanRequest rq = bad[i].rq;

        rq.steps = 50;
        rq.guidance = 5;
        lines = 0;
        CHECKF(wan_stepcache_init(&c, &rq, &small, &log_keep) ==
               WAN_ERR(EINVAL), "%d", (int)i);
        CHECKF(lines == 1 && strstr(last, bad[i].option), "%d: %s", (int)i,
               last);
    }

    /* no table: how to make one */
    WanRequest rq = request(WAN_CACHE_MAG);
    const WanModelInfo flf2v = large(WAN_TASK_FLF2V, 720);

    lines = 0;
    CHECK(wan_stepcache_init(&c, &rq, &flf2v, &log_keep) == WAN_ERR(EINVAL));
    CHECKF(lines == 1 && strstr(last, "wan-info --calibrate") &&
           strstr(last, flf2v.name), "%s", last);
}

/* --------------------------------------------------------------- files */

static char path[] = "/tmp/wan-cachetable.XXXXXX";

static int with_file(const char *text, WanCacheTable *t)
{
    FILE *f = fopen(path, "wb");

    fputs(text, f);
    fclose(f);
    lines = 0;
    *last = 0;
    return wan_cache_table_read(t, path, &log_keep);
}

TEST(damaged_tables)
{
    static const char *const bad[] = {
        "", "{", "[]", "{}", "nonsense", "{\"wan_cache_table\": \"1\"}",
        "{\"wan_cache_table\": 2, \"model\": \"m\", \"cond\": [1]}",
        "{\"wan_cache_table\": 1, \"cond\": [1]}",
        "{\"wan_cache_table\": 1, \"model\": 3, \"cond\": [1]}",
        "{\"wan_cache_table\": 1, \"model\": \"\", \"cond\": [1]}",
        "{\"wan_cache_table\": 1, \"model\": \"0123456789012345678901234567890"
        "123456789012345678901234567890123456789\", \"cond\": [1]}",
        "{\"wan_cache_table\": 1, \"model\": \"m\"}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": 1}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": []}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": {\"a\": 1}}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": [1, null]}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": [1, 0]}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": [1, -1]}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": [1, 1e9]}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": [1, 1e999]}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": [1, \"1\"]}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": [1, 1], "
        "\"uncond\": [1]}",
        "{\"wan_cache_table\": 1, \"model\": \"m\", \"cond\": [1, 1], "
        "\"uncond\": null}",
    };
    static char many[16384] = "{\"wan_cache_table\": 1, \"model\": \"m\", "
                              "\"cond\": [1";
    WanCacheTable t;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        CHECKF(with_file(bad[i], &t) == WAN_INVALIDDATA, "%s", bad[i]);
        CHECKF(lines == 1 && strstr(last, path), "%s: %s", bad[i], last);
    }
    for (int i = 0; i < WAN_MAX_STEPS; i++)
        strcat(many, ", 1");
    strcat(many, "]}");
    CHECK(with_file(many, &t) == WAN_INVALIDDATA && strstr(last, "1000"));
    unlink(path);
    CHECK(wan_cache_table_read(&t, path, &log_keep) == WAN_ERR(ENOENT));
    CHECK(wan_cache_table_read(&t, "/tmp", &log_keep) < 0);
}

TEST(written_and_read)
{
    WanCacheTable t = { .model = "tiny", .steps = 9, .branches = 2 }, back;
    WanRequest rq = request(WAN_CACHE_MAG);
    WanStepCache c;

    for (int i = 0; i < 18; i++)
        t.ratio[i % 2][i / 2] = i < 2 ? 1 : (95000 + 11 * i) / 1e5;
    unlink(path);
    CHECK(wan_cache_table_writable(path, &log_keep) == 0);
    CHECK(access(path, F_OK) != 0);
    CHECK(wan_cache_table_write(&t, path, "9 steps", &log_keep) == 0);
    CHECK(wan_cache_table_read(&back, path, &log_keep) == 0);
    CHECK(!memcmp(&t, &back, sizeof(t)));

    lines = 0;                          // nothing is written over
    CHECK(wan_cache_table_writable(path, &log_keep) == WAN_ERR(EEXIST));
    CHECK(wan_cache_table_write(&t, path, "", &log_keep) == WAN_ERR(EEXIST));
    CHECK(lines == 2 && strstr(last, path));

    rq.cache_table = path;
    CHECK(wan_stepcache_init(&c, &rq, &tiny, &log_keep) == 0);
    CHECK(c.threshold == 0.12 && c.run == 2 && c.retain == 20);
    CHECK(c.ratio[1][49] == t.ratio[1][8]);

    lines = 0;                          // another model's
    CHECK(wan_stepcache_init(&c, &rq, &small, &log_keep) == WAN_ERR(EINVAL));
    CHECKF(lines == 1 && strstr(last, "tiny") && strstr(last, small.name) &&
           strstr(last, "cache_table"), "%s", last);

    t.branches = 1;                     // one branch is not both
    unlink(path);
    CHECK(wan_cache_table_write(&t, path, "", &log_keep) == 0);
    CHECK(wan_stepcache_init(&c, &rq, &tiny, &log_keep) == WAN_ERR(EINVAL));
    CHECKF(strstr(last, "guidance"), "%s", last);
    rq.guidance = 1;
    CHECK(wan_stepcache_init(&c, &rq, &tiny, &log_keep) == 0);

}

int main(void)
{
    close(mkstemp(path));
    RUN(magcache_is_the_official_one);
    RUN(magcache_branches_are_apart);
    RUN(easycache_is_the_official_one);
    RUN(easycache_without_numbers);
    RUN(defaults);
    RUN(what_is_not_measured);
    RUN(nearest_entries);
    RUN(refused_options);
    RUN(damaged_tables);
    RUN(written_and_read);
    unlink(path);
    return test_end();
}
