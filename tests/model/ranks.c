/*
 * Whole videos by one to four processes: the same bits; and what becomes of the
 * others when one is cancelled.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * That those of one process are the official ones is pipeline.c's. The host's
 * latents after each step and its frames go into a file, which is compared.
 */

#include "model_test.h"
#include "../ranks.h"

typedef struct Video {
    const char *golden, *folder, *device;
    enum WanCache cache;
    int ranks;
    FILE *file;                 // what was made
    int latents;                // of that the latents alone
} Video;

static int serve(WanTransport *t, void *arg)
{
    WanRanks *r;
    int ret;

    (void)arg;
    if (wan_ranks_meet(&r, t, 0, &test_log) < 0)
        return 1;
    ret = wan_ranks_serve(r, 1, NULL, &test_log);
    wan_ranks_close(&r);
    return ret < 0;
}

static void keep(void *opaque, const char *name, const WanTensor *t)
{
    Video *v = opaque;

    if (!strncmp(name, "latents", 7))
        fwrite(t->data, sizeof(float), wan_count(t), v->file);
}

static int make(Video *v, WanModel *m)
{
    Golden *g = golden_open(v->golden);
    cJSON *a = golden_meta(g, "arguments");
    WanImage image[2] = { { 0 } };
    WanRequest rq;
    WanPlan plan;
    WanJob *job;
    int ret;

    golden_images(image, g);
    golden_request(&rq, m, g, a, image);
    rq.cache = v->cache;
    rq.cache_threshold = v->cache ? 1 : 0;
    rq.cache_retain = v->cache ? 1 : 0;
    CHECK(wan_plan(&plan, m, &rq) == 0 && plan.processes == v->ranks);
    CHECK((plan.sent_bytes > 0) == (v->ranks > 1));
    if (!CHECK(wan_job_open(&job, m, &rq) == 0))
        return 1;
    wan_job_tap(job, keep, v);
    uint8_t *rgb = malloc(3 * rq.width * rq.height);
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                           .width = rq.width, .height = rq.height,
                           .data = { rgb }, .stride = { 3 * rq.width } };

    while ((ret = wan_job_step(job, NULL)) >= 0) {
        while ((ret = wan_job_frame(job, &img)) >= 0)
            if (!v->latents)
                fwrite(rgb, 3 * rq.width, rq.height, v->file);
        if (ret == WAN_EOF)
            break;
    }
    CHECKF(ret == WAN_EOF, "ended with %s", wan_strerror(ret));
    free(rgb);
    wan_job_close(&job);
    cJSON_Delete(a);
    golden_close(&g);
    return 0;
}

/* Twice: the second clip finds what the first left. */
static int host(WanTransport *t, void *arg)
{
    Video *v = arg;
    WanRanks *r = NULL;
    WanModel *m;

    if (v->ranks > 1 && !CHECK(wan_ranks_meet(&r, t, 1, &test_log) == 0))
        return 1;
    m = open_tiny_of(v->folder, v->device, r);
    make(v, m);
    if (v->ranks == 2) {
        rewind(v->file);
        make(v, m);
    }
    wan_model_close(&m);
    wan_ranks_close(&r);
    fflush(v->file);
    return test_failures != 0;
}

static long size_of(FILE *f)
{
    fseek(f, 0, SEEK_END);
    return ftell(f);
}

/* The first bytes that differ, -1: none. */
static long differ(FILE *a, FILE *b)
{
    const long n = size_of(a);

    if (n != size_of(b))
        return n < size_of(b) ? n : size_of(b);
    rewind(a);
    rewind(b);
    for (long i = 0; i < n; i++)
        if (getc(a) != getc(b))
            return i;
    return -1;
}

/* ------------------------------------------------------- cancelled, closed */

static void keep_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)level;
    snprintf(opaque, 256, "%s", line);
}

static WanRequest small_video(const WanModel *m)
{
    WanRequest rq;

    wan_request_default(&rq, m);
    rq.prompt = "x";
    rq.width = rq.height = 64;
    rq.frames = 5;
    rq.steps = 3;
    return rq;
}

static int open_video(WanJob **job, WanModel *m, int processes)
{
    const WanRequest rq = small_video(m);
    WanPlan plan;

    CHECK(wan_plan(&plan, m, &rq) == 0 && plan.processes == processes);
    return CHECK(wan_job_open(job, m, &rq) == 0);
}

/* A clip is cancelled in its steps, the next one is closed there, the third has
 * all of its steps. */
static int cancels(WanTransport *t, void *arg)
{
    WanProgress p = { .stage = WAN_STAGE_TEXT };
    WanRanks *r;
    WanModel *m;
    WanJob *job;

    (void)arg;
    if (!CHECK(wan_ranks_meet(&r, t, 1, &test_log) == 0))
        return 1;
    m = open_tiny_of("tiny/wan-t2v", "cpu", r);
    for (int clip = 0; clip < 3 && open_video(&job, m, t->size); clip++) {
        do
            CHECK(wan_job_step(job, &p) == 0);
        while (p.stage != (clip < 2 ? WAN_STAGE_STEPS : WAN_STAGE_DECODE));
        if (!clip) {
            wan_job_cancel(job);
            CHECK(wan_job_step(job, &p) == WAN_CANCELLED);
        }
        wan_job_close(&job);
    }
    wan_model_close(&m);
    wan_ranks_close(&r);
    return test_failures != 0;
}

/* The exit status of each is 0. */
static void all_end(int size, RanksMain host, RanksMain other)
{
    int status[MOST];

    ranks_run_all(size, host, NULL, other, NULL, status);
    for (int r = 0; r < size; r++)
        CHECKF(!status[r], "rank %d of %d ended with %d", r, size, status[r]);
}

TEST(cancelled)
{
    all_end(2, cancels, serve);
    all_end(3, cancels, serve);
}

/* One exchange of 8 bytes with everybody. */
static int exchange(WanRanks *r, const int *cancel)
{
    uint64_t own = 1;

    return wan_ranks_agree(r, &own, sizeof(own), "number", cancel);
}

/* Another rank, that has heard of a job. */
static WanRanks *meet_and_wait(WanTransport *t)
{
    WanRanks *r;
    char *data;
    int64_t n;

    CHECK(wan_ranks_meet(&r, t, 0, &test_log) == 0);
    CHECK(wan_ranks_wait(r, &data, &n) == 1);
    free(data);
    return r;
}

/* It is told that there are no more, and is whole. */
static int leave(WanRanks *r)
{
    char *data;
    int64_t n;

    CHECK(wan_ranks_wait(r, &data, &n) == 0 && !r->broken);
    wan_ranks_close(&r);
    return test_failures != 0;
}

/* It quits while others exchange. */
static int quits(WanTransport *t, void *arg)
{
    WanRanks *r;

    (void)arg;
    CHECK(wan_ranks_meet(&r, t, 1, &test_log) == 0);
    CHECK(wan_ranks_begin(r, "x", 1) == 0);
    wan_ranks_close(&r);
    return test_failures != 0;
}

static int exchanges(WanTransport *t, void *arg)
{
    WanRanks *r = meet_and_wait(t);

    (void)arg;
    CHECK(exchange(r, NULL) == WAN_CANCELLED);
    return leave(r);
}

TEST(quit_in_place_of_a_note)
{
    all_end(2, quits, exchanges);
    all_end(3, quits, exchanges);
}

static int cancel;

static void cancel_it(int number)
{
    (void)number;
    __atomic_store_n(&cancel, 1, __ATOMIC_RELAXED);
}

/* The host, which the others may keep waiting for a moment; an alarm cancels. */
static WanModel *open_impatient(WanRanks **r, WanTransport *t)
{
    CHECK(wan_ranks_meet(r, t, 1, &test_log) == 0);
    (*r)->patience = 0.2;
    signal(SIGALRM, cancel_it);
    return open_tiny_of("tiny/wan-t2v", "cpu", *r);
}

/* It is cancelled while others let it wait, and goes on alone. */
static int waits(WanTransport *t, void *arg)
{
    WanRanks *r;
    WanModel *m;
    WanJob *job;

    (void)arg;
    m = open_impatient(&r, t);
    CHECK(wan_ranks_begin(r, "x", 1) == 0);
    alarm(1);
    CHECK(exchange(r, &cancel) == WAN_CANCELLED && r->quit && !r->broken);
    wan_ranks_end(r, WAN_CANCELLED, NULL);
    for (int clip = 0; clip < 2 && open_video(&job, m, 1); clip++) {
        CHECK(wan_job_step(job, NULL) == 0);
        wan_job_close(&job);
    }
    CHECK(m->said == 2);
    wan_model_close(&m);
    wan_ranks_close(&r);
    return test_failures != 0;
}

/* Rank 1 never comes to the exchange, the others wait for it. */
static int lets_wait(WanTransport *t, void *arg)
{
    WanRanks *r = meet_and_wait(t);

    (void)arg;
    if (r->rank > 1)
        CHECK(exchange(r, NULL) == WAN_CANCELLED);
    return leave(r);
}

TEST(cancelled_while_it_waits)
{
    all_end(2, waits, lets_wait);
    all_end(3, waits, lets_wait);
}

static int interrupt(void *opaque)
{
    return __atomic_load_n((int *)opaque, __ATOMIC_RELAXED);
}

/* A job that waits for the others in being opened is interrupted. */
static int opens(WanTransport *t, void *arg)
{
    WanRanks *r;
    WanModel *m = open_impatient(&r, t);
    const WanRequest rq = small_video(m);
    WanJob *job;

    (void)arg;
    m->interrupted = interrupt;
    m->interrupted_opaque = &cancel;
    alarm(1);
    CHECK(wan_job_open(&job, m, &rq) == WAN_CANCELLED);
    CHECK(r->quit && !r->broken);
    wan_model_close(&m);
    wan_ranks_close(&r);
    return test_failures != 0;
}

/* It has the request, and hears while it is busy that it may leave. */
static int opens_slowly(WanTransport *t, void *arg)
{
    WanRanks *r = meet_and_wait(t);

    (void)arg;
    while (!wan_ranks_told_to_quit(r))
        usleep(10000);
    return leave(r);
}

TEST(interrupted_while_it_opens)
{
    all_end(2, opens, opens_slowly);
}

/* Ranks have merged other LoRA files. */
static int other_lora(WanTransport *t, void *arg)
{
    char last[256] = "";
    const WanLog log = { keep_line, last, WAN_LOG_ERROR };
    WanRequest rq;
    WanRanks *r;
    WanModel *m;
    WanJob *job;

    (void)arg;
    CHECK(wan_ranks_meet(&r, t, 1, &test_log) == 0);
    m = open_tiny_of("tiny/wan-t2v", "cpu", r);
    wan_request_default(&rq, m);
    rq.prompt = "x";
    rq.width = rq.height = 64;
    rq.frames = 5;
    m->lora_sum++;
    m->log = log;
    CHECK(wan_job_open(&job, m, &rq) == WAN_ERR(EINVAL));
    CHECKF(strstr(last, "rank 1 ") && strstr(last, "other LoRA files"), "%s",
           last);
    wan_model_close(&m);
    wan_ranks_close(&r);
    return test_failures != 0;
}

TEST(lora)
{
    all_end(2, other_lora, serve);
}

/* A VACE model's clips are the host's alone, with all of the cores. They may
 * have fewer tokens than there are processes. */
static int alone(WanTransport *t, void *arg)
{
    WanRequest rq;
    WanRanks *r;
    WanModel *m;
    WanJob *job;

    (void)arg;
    CHECK(wan_ranks_meet(&r, t, 1, &test_log) == 0);
    m = open_tiny_of("tiny/wan-vace", "cpu", r);
    for (int clip = 0; clip < 2 && open_video(&job, m, 1); clip++) {
        CHECK(wan_job_step(job, NULL) == 0);
        wan_job_close(&job);
    }
    CHECK(m->said == 2 && m->threads == 2 && m->threads_alone == 2);
    wan_request_default(&rq, m);
    rq.prompt = "x";
    rq.width = rq.height = 16;
    rq.frames = 1;
    CHECK(wan_request_check(&rq, m) == 0);
    wan_model_close(&m);
    wan_ranks_close(&r);
    return test_failures != 0;
}

TEST(vace)
{
    all_end(2, alone, serve);
}

/* ------------------------------------------------------------ the same bits */

static void same_bits(const char *golden, const char *folder,
                      const char *device, enum WanCache cache)
{
    FILE *one = NULL;

    for (int ranks = 1; ranks <= 4; ranks++) {
        Video v = { golden, folder, device, cache, ranks, tmpfile(), 0 };

        CHECKF(!ranks_run(ranks, host, &v, serve, NULL), "%s by %d", golden,
               ranks);
        if (one) {
            const long at = differ(one, v.file);

            CHECKF(at < 0, "%s on %s: %d processes differ at byte %ld of %ld",
                   golden, device, ranks, at, size_of(one));
            fclose(v.file);
        } else {
            one = v.file;
            CHECK(size_of(one) > 0);
        }
    }
    fclose(one);
}

TEST(t2v_ref)
{
    same_bits("pipeline-t2v-unipc4.safetensors", "tiny/wan-t2v", "ref", 0);
}
TEST(t2v)
{
    same_bits("pipeline-t2v-unipc4.safetensors", "tiny/wan-t2v", "cpu", 0);
}
TEST(t2v_dpm)
{
    same_bits("pipeline-t2v-dpm4.safetensors", "tiny/wan-t2v", "cpu", 0);
}
TEST(t2v_image)
{
    same_bits("pipeline-t2v-image.safetensors", "tiny/wan-t2v", "cpu", 0);
}
TEST(head128)
{
    same_bits("pipeline-t2v-hd128.safetensors", "tiny/wan-t2v-hd128", "cpu",
              0);
}
TEST(easycache)
{
    same_bits("pipeline-t2v-unipc10.safetensors", "tiny/wan-t2v", "cpu",
              WAN_CACHE_EASY);
}
TEST(i2v)
{
    same_bits("pipeline-i2v-unipc4.safetensors", "tiny/wan-i2v", "cpu", 0);
}
TEST(flf2v)
{
    same_bits("pipeline-flf2v-unipc4.safetensors", "tiny/wan-flf2v", "cpu", 0);
}
TEST(ti2v)
{
    same_bits("pipeline-wan22-ti2v-unipc5.safetensors", "tiny/wan22-ti2v-5b",
              "cpu", 0);
}
TEST(ti2v_image)
{
    same_bits("pipeline-wan22-ti2v-i2v-unipc4.safetensors", "tiny/wan22-ti2v-5b",
              "cpu", 0);
}

/* On a device where the bits of a product depend on its rows: two processes, on
 * cards one each, are as near to one as a golden is. */
TEST(near)
{
    const char *const golden = "pipeline-t2v-unipc4.safetensors";
    Video v[2];
    double square = 0, error = 0;
    float a, b;

    for (int i = 0; i < 2; i++) {
        v[i] = (Video){ golden, "tiny/wan-t2v", dut, 0, i + 1, tmpfile(), 1 };
        CHECKF(!ranks_run(i + 1, host, &v[i], serve, NULL), "%s by %d", dut,
               i + 1);
    }
    CHECK(size_of(v[0].file) > 0 && size_of(v[0].file) == size_of(v[1].file));
    rewind(v[0].file);
    rewind(v[1].file);
    while (fread(&a, sizeof(a), 1, v[0].file) == 1 &&
           fread(&b, sizeof(b), 1, v[1].file) == 1) {
        square += (double)a * a;
        error += ((double)a - b) * ((double)a - b);
    }
    printf("# two processes on %s: %.2e of one\n", dut, sqrt(error / square));
    CHECK(sqrt(error / square) <= limit_on(dut, 0));
    fclose(v[0].file);
    fclose(v[1].file);
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    if (argc > 1) {
        RUN(near);
        return test_end();
    }
    RUN(t2v_ref);
    RUN(t2v);
    RUN(t2v_dpm);
    RUN(t2v_image);
    RUN(head128);
    RUN(easycache);
    RUN(i2v);
    RUN(flf2v);
    RUN(ti2v);
    RUN(ti2v_image);
    RUN(cancelled);
    RUN(quit_in_place_of_a_note);
    RUN(cancelled_while_it_waits);
    RUN(interrupted_while_it_opens);
    RUN(lora);
    RUN(vace);
    return test_end();
}
