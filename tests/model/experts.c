/*
 * Wan 2.2's two experts as jobs drive them: which makes which steps, what a
 * request may ask, what a device and the page cache hold.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <sys/mman.h>
#include <unistd.h>

#include "model_test.h"
#include "sampler.h"

#define PAIR "tiny/wan22-t2v-a14b"

static char last_line[512];

static void keep_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level == WAN_LOG_ERROR)
        snprintf(last_line, sizeof(last_line), "%s", line);
}

static WanModel *open_shapes(const char *name, const char *device)
{
    WanModelParams p;
    WanModel *m = NULL;

    wan_model_params_default(&p);
    params_backend(&p, device);
    p.log = keep_line;
    CHECK(wan_model_open_shapes(&m, name, &p) == 0);
    return m;
}

/* ------------------------------------------------------ which makes which */

/* The official schedules: every timestep, and how many of them are the first
 * expert's. */
TEST(steps_of_each)
{
    static char text[1 << 14];
    FILE *f = fopen(golden_path("wan22_sizes.json"), "rb");
    const size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
    cJSON *root = cJSON_ParseWithLength(text, n), *c;
    int seen = 0;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(root, "experts")) {
        const char *kind = cJSON_GetStringValue(cJSON_GetObjectItem(c, "kind"));
        const char *solver = cJSON_GetStringValue(
            cJSON_GetObjectItem(c, "solver"));
        WanModel *m = open_shapes(!strcmp(kind, "t2v") ? "t2v-a14b"
                                                       : "i2v-a14b", "cpu");
        const WanSampling s = {
            .sampler = strcmp(solver, "dpm++") ? WAN_SAMPLER_UNIPC
                                               : WAN_SAMPLER_DPMPP,
            .steps = cJSON_GetObjectItem(c, "steps")->valueint,
            .shift = cJSON_GetObjectItem(c, "shift")->valuedouble,
        };
        const cJSON *t = cJSON_GetObjectItem(c, "timesteps")->child;
        WanSchedule schedule;
        int high = 0, i = 0;

        CHECK(wan_schedule_init(&schedule, &s) == 0);
        for (; t && i < s.steps; t = t->next, i++) {
            CHECK(schedule.timestep[i] == t->valuedouble);
            high += !wan_model_expert(m, m->info.boundary,
                                      schedule.timestep[i]);
        }
        CHECK(i == s.steps && !t);
        CHECKF(high == cJSON_GetObjectItem(c, "high")->valueint,
               "%s, %s, %d steps: %d", kind, solver, s.steps, high);
        seen++;
        wan_schedule_free(&schedule);
        wan_model_close(&m);
    }
    CHECKF(seen > 3, "%d schedules", seen);
    if (f)
        fclose(f);
    cJSON_Delete(root);
}

TEST(defaults)
{
    static const struct {
        const char *shapes, *name;
        int images[2];
        double guidance[2], shift, boundary;
    } model[] = {
        { "t2v-a14b", "Wan2.2 T2V A14B", { 0, 0 }, { 4, 3 }, 12, 0.875 },
        { "i2v-a14b", "Wan2.2 I2V A14B", { 1, 2 }, { 3.5, 3.5 }, 5, 0.9 },
    };

    for (int k = 0; k < 2; k++) {
        WanModel *m = open_shapes(model[k].shapes, "cpu");
        const WanModelInfo *i = wan_model_info(m);

        CHECK(!strcmp(i->name, model[k].name) && i->experts == 2);
        CHECK(i->guidance == model[k].guidance[0] &&
              i->guidance2 == model[k].guidance[1]);
        CHECK(i->shift == model[k].shift && i->boundary == model[k].boundary);
        CHECK(i->steps == 40 && i->width == 1280 && i->height == 720);
        CHECK(i->frames == 81 && i->rate_num == 16 && !i->clip_dim);
        CHECK(i->images_needed == model[k].images[0] &&
              i->images_most == model[k].images[1]);
        wan_model_close(&m);
    }
}

/* --------------------------------------------------------------- requests */

static int check(WanModel *m, double guidance, double guidance2,
                 double boundary)
{
    WanRequest rq;

    wan_request_default(&rq, m);
    rq.prompt = "";
    rq.width = rq.height = 32;
    rq.frames = 1;
    rq.guidance = guidance;
    rq.guidance2 = guidance2;
    rq.boundary = boundary;
    *last_line = 0;
    return wan_request_check(&rq, m);
}

TEST(what_can_be_asked)
{
    WanModel *m = open_shapes("t2v-a14b", "cpu");
    WanModel *one = open_shapes("t2v-14B", "cpu");

    CHECK(check(m, 5, 0, 0) == 0 && check(m, 5, 1, 1) == 0);
    CHECK(check(m, 5, 0, 1.5) == WAN_ERR(EINVAL) &&
          strstr(last_line, "option boundary: 1.5; 0 to 1 can be"));
    CHECK(check(m, 5, 0, -0.1) == WAN_ERR(EINVAL));
    CHECK(check(m, 5, 0, NAN) == WAN_ERR(EINVAL));
    CHECK(check(m, 5, 101, 0.5) == WAN_ERR(EINVAL) &&
          strstr(last_line, "option guidance2: 101; 0 to 100 can be"));
    CHECK(check(m, 5, NAN, 0.5) == WAN_ERR(EINVAL));
    CHECK(check(one, 5, 0, 0) == 0 && check(one, 5, 5, 0) == 0);
    CHECK(check(one, 5, 4, 0) == WAN_ERR(EINVAL) &&
          strstr(last_line, "Wan2.1 T2V 14B has one transformer"));
    CHECK(check(one, 5, 0, 0.5) == WAN_ERR(EINVAL) &&
          strstr(last_line, "option boundary: 0.5, but"));
    wan_model_close(&m);
    wan_model_close(&one);
}

/* A small clip's bytes in a checksum; its steps' branches in calls. */
static uint64_t digest(WanModel *m, WanRequest *rq, int *calls)
{
    uint8_t rgb[3 * 32 * 32];
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = 32, .height = 32, .data = { rgb },
                     .stride = { 3 * 32 } };
    uint64_t sum = 14695981039346656037u;
    WanProgress p = { 0 };
    WanJob *job;
    int ret;

    rq->prompt = "a red ball";
    rq->width = rq->height = 32;
    rq->frames = 5;
    if (!CHECK(wan_job_open(&job, m, rq) == 0))
        return 0;
    while ((ret = wan_job_step(job, &p)) >= 0) {
        while ((ret = wan_job_frame(job, &img)) >= 0)
            for (size_t i = 0; i < sizeof(rgb); i++)
                sum = (sum ^ rgb[i]) * 1099511628211u;
        if (ret == WAN_EOF)
            break;
    }
    CHECKF(ret == WAN_EOF, "%s", wan_strerror(ret));
    if (calls)
        *calls = p.calls - p.skipped;
    wan_job_close(&job);
    return sum;
}

static uint64_t guided(WanModel *m, double guidance, double guidance2,
                       int *calls)
{
    WanRequest rq;

    wan_request_default(&rq, m);
    rq.steps = 6;
    if (guidance)
        rq.guidance = guidance;
    rq.guidance2 = guidance2;
    return digest(m, &rq, calls);
}

/* guidance alone sets both; one expert may be guided alone. */
TEST(guidance_of_each)
{
    WanModel *m = open_tiny(PAIR, dut);
    const uint64_t model = guided(m, 0, 0, NULL), both = guided(m, 6, 0, NULL);
    int calls[4];

    CHECK(guided(m, 4, 3, &calls[0]) == model);
    CHECK(guided(m, 6, 6, NULL) == both && both != model);
    CHECK(guided(m, 6, 3, NULL) != both);
    guided(m, 1, 0, &calls[1]);
    guided(m, 1, 3, &calls[2]);
    guided(m, 4, 1, &calls[3]);
    CHECKF(calls[0] == 12 && calls[1] == 6 && calls[2] == 8 && calls[3] == 10,
           "%d %d %d %d", calls[0], calls[1], calls[2], calls[3]);
    wan_model_close(&m);
}

/* Whoever takes over remembers nothing: with a cache that skips all it may,
 * its first step is computed. */
TEST(caches)
{
    WanModel *m = open_tiny(PAIR, dut);
    WanRequest rq;
    int calls;

    for (int i = 0; i < 2; i++) {
        wan_request_default(&rq, m);
        rq.steps = 8;                   // 6 of them are the first expert's
        rq.cache = WAN_CACHE_EASY;
        rq.cache_threshold = 100;
        rq.cache_retain = 1;
        rq.boundary = i ? 0 : rq.boundary;
        digest(m, &rq, &calls);
        /* two steps before a change is known, and the last; the second
         * expert's first */
        CHECKF(calls == (i ? 6 : 8), "%d calls", calls);
    }
    wan_model_close(&m);
}

/* ----------------------------------------------------------------- memory */

/* A device has one expert at a time: what two take is what one takes, and the
 * second's biases, norms and modulations, 40 blocks of some 150,000 numbers. */
TEST(device_holds_one)
{
    WanModel *m, *one;
    WanRequest rq;
    WanPlan two, single;

    if (!WAN_HAVE_CUDA)
        return;
    m = open_shapes("t2v-a14b", "cuda");
    one = open_shapes("t2v-14B", "cuda");
    wan_request_default(&rq, m);
    CHECK(wan_plan(&two, m, &rq) == 0);
    wan_request_default(&rq, one);
    CHECK(wan_plan(&single, one, &rq) == 0);
    CHECKF(two.full_bytes >= single.full_bytes &&
           two.full_bytes < single.full_bytes + (32 << 20),
           "%.3f and %.3f GB", two.full_bytes / 1e9, single.full_bytes / 1e9);
    CHECKF(two.least_bytes < single.least_bytes + (32 << 20),
           "%.3f and %.3f GB", two.least_bytes / 1e9, single.least_bytes / 1e9);
    CHECK(two.work_bytes == single.work_bytes &&
          two.step_flops == single.step_flops);
    wan_model_close(&m);
    wan_model_close(&one);
}

/* Bytes of a file's mappings that are in this process, -1: not known. */
static long resident(const char *file)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[4096];
    unsigned long from, to;
    long sum = -1, kb;
    int ours = 0;

    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            ours = strstr(line, file) != NULL;
        else if (ours && sscanf(line, "Rss: %ld kB", &kb) == 1)
            sum = (sum < 0 ? 0 : sum) + 1024 * kb;
    }
    if (f)
        fclose(f);
    return sum;
}

/* After the switch the first expert's pages have left; a second clip has them
 * again. */
TEST(resting_weights_leave)
{
    WanModel *m = open_tiny(PAIR, "cpu");
    WanProgress p;
    WanRequest rq;
    WanJob *job;
    long before = 0, after = 0;

    wan_request_default(&rq, m);
    rq.prompt = "x";
    rq.width = rq.height = 32;
    rq.frames = 1;
    rq.steps = 4;                       // 3 of them are the first expert's
    for (int clip = 0; clip < 2; clip++) {
        CHECK(wan_job_open(&job, m, &rq) == 0);
        do {
            CHECK(wan_job_step(job, &p) == 0);
            if (p.stage == WAN_STAGE_STEPS && p.done == 2)
                before = resident("high_noise_model/");
        } while (p.stage != WAN_STAGE_STEPS || p.done < 4);
        after = resident("high_noise_model/");
        if (before > 0)
            CHECKF(before > 200000 && after == 0, "%ld, then %ld bytes",
                   before, after);
        wan_job_close(&job);
    }
    wan_model_close(&m);
}

/* The pages with a tensor's values. */
static void protect(const WanWeights *w, int how)
{
    const uintptr_t page = sysconf(_SC_PAGESIZE);

    for (int i = 0; i < wan_weights_count(w); i++) {
        const WanStored *t = wan_weights_at(w, i);
        const uintptr_t at = (uintptr_t)t->data / page * page;

        CHECK(!mprotect((void *)at, (uintptr_t)t->data + t->bytes - at, how));
    }
}

/* A job that no other process shares opens without a look at the weights: none
 * of them can be read while it does. */
TEST(opening_reads_no_weights)
{
    WanModel *m = open_tiny(PAIR, "cpu");
    WanRequest rq;
    WanJob *job;

    wan_request_default(&rq, m);
    rq.prompt = "x";
    rq.width = rq.height = 64;
    rq.frames = 1;
    protect(m->files[0], PROT_NONE);
    protect(m->file2, PROT_NONE);
    CHECK(wan_job_open(&job, m, &rq) == 0);
    protect(m->files[0], PROT_READ);
    protect(m->file2, PROT_READ);
    wan_job_close(&job);
    wan_model_close(&m);
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN_REF(steps_of_each);
    RUN_REF(defaults);
    RUN_REF(what_can_be_asked);
    RUN(guidance_of_each);
    RUN(caches);
    RUN_REF(device_holds_one);
    RUN_REF(resting_weights_leave);
    RUN_REF(opening_reads_no_weights);
    return test_end();
}
