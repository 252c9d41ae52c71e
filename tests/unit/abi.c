/*
 * A program compiled against wan.h 1.0, as a distribution has it, on the
 * library of today; and callers from before and after it.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * abi/wan-1.0.h is that header and is never changed: what it promises must
 * hold until the soname does not. Each struct stands between canaries, which a
 * library that grew would overwrite if it did not mind the caller's sizes.
 */

#include "abi/wan-1.0.h"

#include "test.h"

#define CANARY 0x5a

/* A struct as its caller knows it, and what lies behind it. */
#define GUARDED(type, name) \
    struct { type s; unsigned char canary[256]; } name; \
    memset(&name, CANARY, sizeof(name))
#define UNHARMED(name) unharmed(name.canary, sizeof(name.canary))

static int unharmed(const unsigned char *p, int n)
{
    for (int i = 0; i < n; i++)
        if (p[i] != CANARY)
            return 0;
    return 1;
}

static char last_line[256];

static void keep_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level == WAN_LOG_ERROR)
        snprintf(last_line, sizeof(last_line), "%s", line);
}

static WanModel *open_model(void)
{
    char path[4096];
    WanModel *m = NULL;

    GUARDED(WanModelParams, p);
    wan_model_params_default(&p.s);
    CHECK(UNHARMED(p));
    CHECK(!strcmp(p.s.device, "auto") && !p.s.lora && !p.s.memory);
    snprintf(path, sizeof(path), "%s/tiny/wan-t2v", getenv("WAN_GOLDEN"));
    p.s.path = path;
    p.s.device = "cpu";
    p.s.threads = 1;
    p.s.log = keep_line;
    CHECK(wan_model_open(&m, &p.s) == 0);
    CHECK(UNHARMED(p));
    return m;
}

TEST(an_old_program_makes_a_clip)
{
    WanModel *m = open_model();
    const WanModelInfo *info = wan_model_info(m);
    uint8_t *rgb = malloc(3 * 32 * 32);
    WanJob *job = NULL;
    int frames = 0, ret;

    GUARDED(WanRequest, rq);
    wan_request_default(&rq.s, m);
    CHECK(UNHARMED(rq));
    CHECK(rq.s.steps == info->steps && rq.s.guidance == info->guidance);
    rq.s.prompt = "a cat";
    rq.s.width = rq.s.height = 32;
    rq.s.frames = 5;
    rq.s.steps = 1;
    CHECK(wan_request_check(&rq.s, m) == 0);

    GUARDED(WanPlan, plan);
    CHECK(wan_plan(&plan.s, m, &rq.s) == 0 && plan.s.tokens == 8);
    CHECK(UNHARMED(plan));

    GUARDED(WanProgress, progress);
    GUARDED(WanImage, img);
    memset(&img.s, 0, sizeof(img.s));
    img.s.size = sizeof(img.s);
    img.s.format = WAN_PIX_RGB24;
    img.s.width = img.s.height = 32;
    img.s.data[0] = rgb;
    img.s.stride[0] = 3 * 32;
    CHECK(wan_job_open(&job, m, &rq.s) == 0);
    do {
        ret = wan_job_step(job, &progress.s);
        CHECK(ret == 0 && UNHARMED(progress));
        while (ret >= 0 && (ret = wan_job_frame(job, &img.s)) >= 0)
            frames++;
    } while (ret == WAN_ERR(EAGAIN));
    CHECKF(ret == WAN_EOF && frames == 5, "%d frames, %s", frames,
           wan_strerror(ret));
    CHECK(progress.s.stage == WAN_STAGE_DECODE && progress.s.done == 2);
    wan_job_close(&job);
    wan_model_close(&m);
    free(rgb);

    GUARDED(WanDemo, demo);
    wan_demo_model(&demo.s, WAN_TASK_T2V);
    CHECK(UNHARMED(demo) && *demo.s.model == '/');
}

#define LATER 64

/* A header to come has fields more, the last of them behind all that this
 * library knows. Left at 0 it means "as before"; set, it asks for what this
 * library can't do. */
TEST(a_later_program)
{
    WanModel *m = open_model();
    struct { WanRequest s; int64_t more[LATER]; } rq;
    struct { WanModelParams s; int64_t more[LATER]; } p;
    struct { WanPlan s; int64_t more[LATER]; } plan;
    WanModel *none = NULL;

    wan_request_default_sized(&rq.s, sizeof(rq), m);
    CHECK(rq.s.size == sizeof(rq) && rq.more[LATER - 1] == 0);
    rq.s.prompt = "a cat";
    CHECK(wan_request_check(&rq.s, m) == 0);
    CHECK(wan_plan_sized(&plan.s, sizeof(plan), m, &rq.s) == 0 &&
          plan.more[LATER - 1] == 0);
    rq.more[LATER - 1] = 1;
    CHECK(wan_request_check(&rq.s, m) == WAN_ERR(EINVAL));
    CHECKF(strstr(last_line, "WanRequest") && strstr(last_line, "newer"),
           "%s", last_line);

    wan_model_params_default_sized(&p.s, sizeof(p));
    CHECK(p.more[LATER - 1] == 0);
    p.s.path = "/nonexistent";
    CHECK(wan_model_open(&none, &p.s) == WAN_ERR(ENOENT));
    p.more[LATER - 1] = -1;
    CHECK(wan_model_open(&none, &p.s) == WAN_ERR(EINVAL));
    wan_model_close(&m);
}

/* A header between that and today's: what its struct does not reach is not
 * read, whatever lies there. */
TEST(programs_between)
{
    char path[4096];

    snprintf(path, sizeof(path), "%s/tiny/wan-t2v", getenv("WAN_GOLDEN"));
    for (size_t n = sizeof(WanModelParams); n < sizeof(WanModelParams) + 128;
         n += 4) {
        WanModel *m = NULL;

        GUARDED(WanModelParams, p);
        wan_model_params_default_sized(&p.s, n);
        p.s.path = path;
        p.s.device = "cpu";
        p.s.threads = 1;
        p.s.log = keep_line;
        CHECKF(wan_model_open(&m, &p.s) == 0, "%zu bytes: %s", n, last_line);
        CHECK(unharmed((unsigned char *)&p + n, (int)(sizeof(p) - n)));
        wan_model_close(&m);
    }
}

/* What has no size was not made by the function that gives it one. */
TEST(no_size)
{
    WanModel *m = open_model(), *none = NULL;
    WanModelParams p = { 0 };
    WanRequest rq = { 0 };

    CHECK(wan_model_open(&none, &p) == WAN_ERR(EINVAL) && !none);
    *last_line = 0;
    CHECK(wan_request_check(&rq, m) == WAN_ERR(EINVAL));
    CHECKF(strstr(last_line, "WanRequest"), "%s", last_line);
    wan_model_close(&m);
}

int main(void)
{
    RUN(an_old_program_makes_a_clip);
    RUN(a_later_program);
    RUN(programs_between);
    RUN(no_size);
    return test_end();
}
