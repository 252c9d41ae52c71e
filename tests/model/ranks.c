/*
 * Whole videos by one to four processes: the same bits; and what becomes of the
 * others when one is cancelled.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * That those of one process are the official ones is pipeline.c's. The host's
 * latents after each step and its frames go into a file, which is compared.
 */

#include "causal_case.h"
#include "../ranks.h"

typedef struct Video {
    const char *golden;         // NULL: a video of few rows
    const char *folder, *device;
    enum WanCache cache;
    const char *table;          // of MagCache, for a video of few rows
    int tiny_vae;               // TAEHV in place of the folder's
    int automatic;              // precision: of the device that is named
    const char *demo;           // the demo model's folder in place of another
    int twice;                  // VACE: the control once more
    int ranks;
    FILE *file;                 // what was made
    int latents;                // of that the latents alone
    int causal;                 // golden is one of those, or the demo model makes
                                // one; 2: with positions in the window
    const char *second;         // prompt, given in the steps of that block
    int second_block;
    double at_block;            // bytes sent when the last block was done
    double more;                // that this one sends beside those of a block;
                                // below 0: that is not planned
    int counted;                // blocks whose bytes were held against the plan
} Video;

/* Bytes that this process' transport has sent. */
static double sent;
static int (*send_on)(WanTransport *t, const WanParcel *out,
                      const WanParcel *in, int (*alive)(void *arg), void *arg);

static int counted(WanTransport *t, const WanParcel *out, const WanParcel *in,
                   int (*alive)(void *arg), void *arg)
{
    for (int q = 0; q < t->size; q++)
        sent += q == t->rank ? 0 : out[q].bytes;
    return send_on(t, out, in, alive, arg);
}

/* Attention takes its heads in groups for few bytes too. */
static int meet(WanRanks **r, WanTransport *t, int host)
{
    send_on = t->exchange;
    t->exchange = counted;

    const int ret = wan_ranks_meet(r, t, host, &test_log);

    if (ret >= 0)
        (*r)->least_parcel = 1;
    return ret;
}

static int serve(WanTransport *t, void *arg)
{
    WanRanks *r;
    int ret;

    (void)arg;
    if (meet(&r, t, 0) < 0)
        return 1;
    ret = wan_ranks_serve(r, 1, NULL, &test_log);
    wan_ranks_close(&r);
    return ret < 0;
}

static void keep(void *opaque, const char *name, const WanTensor *t)
{
    Video *v = opaque;

    if (!strncmp(name, "latents", 7) ||
        (v->causal && strstr(name, ".x0.")) || !strcmp(name, "initial_latent"))
        fwrite(t->data, sizeof(float), wan_count(t), v->file);
}

/* A prompt that is to be there for the next block, which sends it too, and frames
 * that are seen again. */
static void give_prompt(Video *v, WanModel *m, const WanRequest *rq, WanJob *job,
                        const WanProgress *p)
{
    WanRequest other = *rq;
    WanPlan plan;

    if (!v->second || p->stage != WAN_STAGE_STEPS || p->done != 1 ||
        p->block_done || p->block != v->second_block)
        return;
    other.prompt = v->second;
    CHECK(wan_job_prompt(job, v->second) == 0);
    CHECK(wan_plan(&plan, m, &other) == 0);
    v->more = rq->prompt_switch == WAN_SWITCH_PLAIN ? plan.begin_sent_bytes : -1;
}

/* To the byte: the first step, and each block that is like the planned one, which
 * has four frames of each latent one and a block behind it. */
static void count_block(Video *v, const WanRequest *rq, const WanPlan *plan,
                        const WanProgress *p)
{
    const double block = sent - v->at_block;
    const int given = rq->image || rq->clip;

    if (rq->causal && !p->block && p->stage == WAN_STAGE_STEPS &&
        p->done == 1 && !p->block_done && !given && !rq->first_block)
        CHECKF(sent == plan->begin_sent_bytes + plan->sent_bytes, "%.0f bytes "
               "sent by the first step, %.0f planned", sent,
               plan->begin_sent_bytes + plan->sent_bytes);
    if (!p->block_done)
        return;
    const double more = p->block == v->second_block + 1 ? v->more : 0;

    if (p->block > 0 && more >= 0) {
        CHECKF(block == plan->block_sent_bytes + more, "%.0f bytes sent in "
               "block %d, %.0f planned", block, (int)p->block,
               plan->block_sent_bytes + more);
        v->counted++;
    }
    v->at_block = sent;
}

static void make_request(Video *v, WanModel *m, const WanRequest *rq)
{
    WanProgress p = { .stage = WAN_STAGE_TEXT };
    WanPlan plan;
    WanJob *job;
    int steps = 0, ret;

    CHECK(wan_plan(&plan, m, rq) == 0 && plan.processes == v->ranks);
    CHECK((plan.sent_bytes > 0) == (v->ranks > 1));
    if (!CHECK(wan_job_open(&job, m, rq) == 0))
        return;
    wan_job_tap(job, keep, v);
    sent = v->at_block = v->more = v->counted = 0;
    uint8_t *rgb = malloc(3 * rq->width * rq->height);
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                           .width = rq->width, .height = rq->height,
                           .data = { rgb }, .stride = { 3 * rq->width } };

    while ((ret = wan_job_step(job, &p)) >= 0) {
        give_prompt(v, m, rq, job, &p);
        count_block(v, rq, &plan, &p);
        if (p.stage == WAN_STAGE_STEPS)
            steps = p.total;
        while ((ret = wan_job_frame(job, &img)) >= 0)
            if (!v->latents)
                fwrite(rgb, 3 * rq->width, rq->height, v->file);
        if (ret == WAN_EOF)
            break;
    }
    CHECKF(ret == WAN_EOF, "ended with %s", wan_strerror(ret));
    /* to the byte, where all steps are the same */
    const double planned = plan.begin_sent_bytes + plan.decode_sent_bytes +
                           steps * plan.sent_bytes;
    CHECKF(rq->cache || rq->causal || sent == planned, "%.0f bytes sent, %.0f planned, %.0f "
           "of them before the steps", sent, planned, plan.begin_sent_bytes);
    free(rgb);
    wan_job_close(&job);
}

static void make_golden(Video *v, WanModel *m)
{
    Golden *g = golden_open(v->golden);
    cJSON *a = golden_meta(g, "arguments");
    WanImage image[2] = { { 0 } };
    GoldenControl control = { 0 };
    GoldenVideo video = { 0 };
    WanRequest rq;

    golden_images(image, g);
    golden_request(&rq, m, g, a, image);
    if (wan_model_info(m)->task == WAN_TASK_VACE) {
        golden_control(&control, g, a);
        control.list[1] = control.list[0];
        rq.controls = control.list;
        rq.nb_controls = 1 + v->twice;
    } else {
        golden_video(&video, &rq, g, a);
    }
    rq.cache = v->cache;
    rq.cache_threshold = v->cache ? 1 : 0;
    rq.cache_retain = v->cache ? 1 : 0;
    make_request(v, m, &rq);
    golden_control_free(&control);
    cJSON_Delete(a);
    golden_close(&g);
}

static void make_causal(Video *v, WanModel *m)
{
    CausalCase c;

    causal_open(&c, v->golden);
    causal_request(&c, m);
    const int at = causal_switch_at(&c), block = c.rq.block;

    if (at >= 0) {
        v->second = causal_prompt(&c, 1);
        v->second_block = (at + block - 1) / block - 1;
    }
    make_request(v, m, &c.rq);
    CHECK(v->counted || c.rq.image || c.rq.clip || c.rq.frames < 30);
    v->second = NULL;
    causal_close(&c);
}

/* The demo model, whose heads come in groups, block by block: what it shows is of
 * no matter. */
static void make_causal_demo(Video *v, WanModel *m)
{
    static const double steps[] = { 1000, 500 };
    WanRequest rq;

    wan_request_default(&rq, m);
    CHECK(wan_request_preset(&rq, m, "self-forcing") == 0);
    rq.prompt = "a red ball";
    rq.width = rq.height = 64;
    rq.frames = 21;
    rq.block = 1;
    rq.window = 3;
    rq.sink = 1;
    rq.positions = v->causal > 1 ? WAN_POSITIONS_WINDOW
                                 : WAN_POSITIONS_ABSOLUTE;
    rq.prompt_switch = WAN_SWITCH_RECACHE;
    rq.timesteps = steps;
    rq.nb_timesteps = 2;
    rq.steps = 2;
    v->second = "a boat";
    v->second_block = 3;
    make_request(v, m, &rq);
    CHECK(v->counted == 3);
}

/* Ratios by which the branches skip other steps. */
static void write_table(const char *path, const WanModel *m)
{
    FILE *f = fopen(path, "w");

    if (!CHECK(f))
        return;
    fprintf(f, "{ \"wan_cache_table\": 1, \"model\": \"%s\", \"cond\": [1, 0.9, "
            "0.9, 0.9], \"uncond\": [1, 1, 9, 1] }", wan_model_info(m)->name);
    fclose(f);
}

/* The decoder has four rows, and the transformer 16 tokens. */
static void make_low(Video *v, WanModel *m)
{
    WanRequest rq;

    wan_request_default(&rq, m);
    rq.prompt = "x";
    rq.width = 4 * wan_model_info(m)->size_multiple;
    rq.height = 2 * wan_model_info(m)->size_multiple;
    rq.frames = 5;
    rq.steps = 1;
    if ((rq.cache_table = v->table)) {
        write_table(v->table, m);
        rq.steps = 4;
        rq.cache = WAN_CACHE_MAG;
        rq.cache_threshold = 1;
        rq.cache_retain = 0.25;
        rq.cache_run = 1;
    }
    make_request(v, m, &rq);
}

static void make(Video *v, WanModel *m)
{
    if (v->causal && v->demo)
        make_causal_demo(v, m);
    else if (v->causal)
        make_causal(v, m);
    else if (v->golden)
        make_golden(v, m);
    else
        make_low(v, m);
}

/* wan-t2v with another VAE, or in what the processor multiplies; or the demo. */
static WanModel *open_other(const Video *v, WanRanks *ranks)
{
    char path[4096], vae[4096];
    WanModelParams p;
    WanModel *m;

    snprintf(path, sizeof(path), "%s", golden_path("tiny/wan-t2v"));
    snprintf(vae, sizeof(vae), "%s",
             golden_path("tiny/taew2_1/taew2_1.safetensors"));
    wan_model_params_default(&p);
    p.path = v->demo ? v->demo : path;
    p.vae = v->tiny_vae ? vae : NULL;
    params_backend(&p, v->device);
    if (v->automatic)
        p.precision = WAN_PRECISION_AUTO;
    p.threads = 2;
    p.log = print_log;
    p.log_level = WAN_LOG_WARNING;
    if (wan_model_open(&m, &p) < 0 ||
        (ranks && wan_model_join(m, ranks, &p) < 0))
        golden_fail("can't be opened as a model", path);
    return m;
}

/* Twice: the second clip finds what the first left. */
static int host(WanTransport *t, void *arg)
{
    Video *v = arg;
    WanRanks *r = NULL;
    WanModel *m;

    if (v->ranks > 1 && !CHECK(meet(&r, t, 1) == 0))
        return 1;
    m = v->tiny_vae || v->automatic || v->demo
        ? open_other(v, r) : open_tiny_of(v->folder, v->device, r);
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

static void skip_frames(WanJob *job, const WanRequest *rq)
{
    uint8_t *rgb = malloc(3 * rq->width * rq->height);
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                           .width = rq->width, .height = rq->height,
                           .data = { rgb }, .stride = { 3 * rq->width } };

    while (wan_job_frame(job, &img) >= 0)
        continue;
    free(rgb);
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
    if (!CHECK(meet(&r, t, 1) == 0))
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

static void look(void *opaque, const char *name, const WanTensor *t)
{
    (void)opaque, (void)name, (void)t;
}

/* The same with scenes without end: one is cancelled in its second block, the next
 * is closed there, the third has an end, which nobody goes beyond for a tap. */
static int cancels_scenes(WanTransport *t, void *arg)
{
    WanProgress p;
    WanRanks *r;
    WanModel *m;
    WanJob *job;

    (void)arg;
    if (!CHECK(meet(&r, t, 1) == 0))
        return 1;
    m = open_tiny_of("tiny/wan-t2v", "cpu", r);
    for (int scene = 0; scene < 3; scene++) {
        WanRequest rq = small_video(m);

        CHECK(wan_request_preset(&rq, m, "causal-forcing-frame") == 0);
        rq.frames = scene < 2 ? 0 : 9;
        rq.window = 4;
        if (!CHECK(wan_job_open(&job, m, &rq) == 0))
            break;
        wan_job_tap(job, look, NULL);
        p = (WanProgress){ .stage = WAN_STAGE_TEXT };
        do {
            CHECK(wan_job_step(job, &p) == 0);
            skip_frames(job, &rq);
        } while (scene < 2 ? p.block < 1 || p.stage != WAN_STAGE_STEPS
                           : p.stage != WAN_STAGE_DONE);
        if (!scene) {
            wan_job_cancel(job);
            CHECK(wan_job_step(job, &p) == WAN_CANCELLED);
        }
        CHECK(m->said == 1 && !r->quit && !r->broken);
        wan_job_close(&job);
        rq.width = rq.height = 16;      // a block of one token
        CHECK(wan_request_check(&rq, m) == WAN_ERR(EINVAL));
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

TEST(causal_cancelled)
{
    all_end(2, cancels_scenes, serve);
    all_end(3, cancels_scenes, serve);
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

    CHECK(meet(&r, t, 0) == 0);
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
    CHECK(meet(&r, t, 1) == 0);
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
    CHECK(meet(r, t, 1) == 0);
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
    CHECK(meet(&r, t, 1) == 0);
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

/* ------------------------------------------------------------ the same bits */

/* The last of several numbers of ranks is 0. */
static void same_bits_by(const int *ranks, Video v)
{
    const char *name = v.golden ? v.golden : v.folder;
    FILE *one = NULL;

    for (v.ranks = 1; v.ranks; v.ranks = *ranks++) {
        v.file = tmpfile();
        CHECKF(!ranks_run(v.ranks, host, &v, serve, NULL), "%s by %d", name,
               v.ranks);
        if (one) {
            const long at = differ(one, v.file);

            CHECKF(at < 0, "%s on %s: %d processes differ at byte %ld of %ld",
                   name, v.device, v.ranks, at, size_of(one));
            fclose(v.file);
        } else {
            one = v.file;
            CHECK(size_of(one) > 0);
        }
    }
    fclose(one);
}

/* Where their number is not what a test is about. */
#if UNDER_SANITIZERS
static const int usual_ranks[] = { 3, 0 };
#else
static const int usual_ranks[] = { 2, 3, 4, 0 };
#endif

static void same_bits(const char *golden, const char *folder,
                      const char *device, enum WanCache cache)
{
    same_bits_by(usual_ranks,
                 (Video){ .golden = golden, .folder = folder,
                          .device = device, .cache = cache });
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
    same_bits("pipeline-i2v-dpm6.safetensors", "tiny/wan-i2v", "cpu", 0);
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
    same_bits("pipeline-wan22-ti2v-i2v-dpm5.safetensors", "tiny/wan22-ti2v-5b",
              "cpu", 0);
}

/* Both experts have both branches, and change while halves have one each. */
TEST(experts)
{
    same_bits("pipeline-wan22-t2v-unipc6.safetensors", "tiny/wan22-t2v-a14b",
              "cpu", 0);
    same_bits("pipeline-wan22-t2v-dpm8.safetensors", "tiny/wan22-t2v-a14b",
              "cpu", 0);
    same_bits("pipeline-wan22-t2v-edge3.safetensors", "tiny/wan22-t2v-a14b",
              "cpu", 0);
}
TEST(experts_image)
{
    same_bits("pipeline-wan22-i2v-unipc5.safetensors", "tiny/wan22-i2v-a14b",
              "cpu", 0);
    same_bits("pipeline-wan22-i2v-dpm4.safetensors", "tiny/wan22-i2v-a14b",
              "cpu", 0);
    same_bits("pipeline-wan22-flf2v-unipc4.safetensors", "tiny/wan22-i2v-a14b",
              "cpu", 0);
}

/* Block by block: the ring of keys and values is that of a rank's heads, or, where
 * two can't be divided by them, is all; positions, prompts, what it begins with. */
static void causal(const char *name, const char *folder, const char *device)
{
    char golden[64];

    snprintf(golden, sizeof(golden), "causal-%s.safetensors", name);
    same_bits_by(usual_ranks,
                 (Video){ .golden = golden, .folder = folder,
                          .device = device, .causal = 1 });
}

TEST(causal_blocks)
{
    causal("sf7", "tiny/wan-t2v", "cpu");
    causal("window", "tiny/wan-t2v", "cpu");
    causal("window-odd", "tiny/wan-t2v", "cpu");
    causal("window-nosink", "tiny/wan-t2v", "cpu");
    causal("hd128", "tiny/wan-t2v-hd128", "cpu");
    causal("infinity", "tiny/wan-t2v", "cpu");
}
TEST(causal_frames)
{
    causal("frame1", "tiny/wan-t2v", "cpu");
    causal("frame1-window", "tiny/wan-t2v", "cpu");
    causal("first-chunk", "tiny/wan-t2v", "cpu");
    causal("first1", "tiny/wan-t2v", "cpu");
}
TEST(causal_steps)
{
    causal("steps2", "tiny/wan-t2v", "cpu");
    causal("unwarped3", "tiny/wan-t2v", "cpu");
}
TEST(causal_prompts)
{
    causal("switch-plain", "tiny/wan-t2v", "cpu");
    causal("switch-recache", "tiny/wan-t2v", "cpu");
    causal("switch-recache-early", "tiny/wan-t2v", "cpu");
    causal("switch-recache-resetsink", "tiny/wan-t2v", "cpu");
    causal("infinity-switch", "tiny/wan-t2v", "cpu");
}
TEST(causal_begun)
{
    causal("image", "tiny/wan-t2v", "cpu");
    causal("image-first1", "tiny/wan-t2v", "cpu");
    causal("clip", "tiny/wan-t2v", "cpu");
}

/* Control videos, masks, references in front of the latent; several contexts; no
 * control at all. */
#define VACE(name) "pipeline-vace-" name ".safetensors", "tiny/wan-vace"
TEST(vace_ref) { same_bits(VACE("inpaint-dpm5"), "ref", 0); }
TEST(vace_control) { same_bits(VACE("control-unipc4"), "cpu", 0); }
TEST(vace_inpaint) { same_bits(VACE("inpaint-dpm5"), "cpu", 0); }
TEST(vace_references) { same_bits(VACE("ref-unipc3"), "cpu", 0); }
TEST(vace_extend) { same_bits(VACE("extend-unipc4"), "cpu", 0); }
TEST(vace_easycache)
{
    same_bits(VACE("control-unipc4"), "cpu", WAN_CACHE_EASY);
}
TEST(vace_several)
{
    same_bits_by((const int[]){ 2, 3, 0 },
                 (Video){ .golden = "pipeline-vace-inpaint-dpm5.safetensors",
                          .folder = "tiny/wan-vace", .device = "cpu",
                          .twice = 1 });
}
TEST(vace_few_rows)
{
    same_bits_by((const int[]){ 3, 6, 0 },
                 (Video){ .folder = "tiny/wan-vace", .device = "cpu" });
}

/* From a video: its latent goes to all, who make the last of the steps. */
TEST(v2v_ref)
{
    same_bits("pipeline-v2v-unipc6.safetensors", "tiny/wan-t2v", "ref", 0);
}
TEST(v2v)
{
    same_bits("pipeline-v2v-unipc6.safetensors", "tiny/wan-t2v", "cpu", 0);
}
TEST(v2v_dpm)
{
    same_bits("pipeline-v2v-dpm8.safetensors", "tiny/wan-t2v", "cpu", 0);
}
TEST(v2v_experts)
{
    same_bits("pipeline-v2v-a14b-unipc8.safetensors", "tiny/wan22-t2v-a14b",
              "cpu", 0);
}

/* Rounded products: a row's bits don't depend on the others either. */
TEST(bf16)
{
    causal("switch-recache", "tiny/wan-t2v", "cpu-bf16");
    same_bits("pipeline-t2v-unipc4.safetensors", "tiny/wan-t2v", "cpu-bf16", 0);
    same_bits("pipeline-i2v-unipc4.safetensors", "tiny/wan-i2v", "cpu-bf16", 0);
    same_bits(VACE("inpaint-dpm5"), "cpu-bf16", 0);
}
TEST(int8)
{
    causal("infinity-switch", "tiny/wan-t2v", "cpu-int8");
    same_bits("pipeline-t2v-unipc4.safetensors", "tiny/wan-t2v", "cpu-int8", 0);
}

/* Its branches skip other steps: they are not computed by halves. */
TEST(magcache)
{
    char path[] = "/tmp/wan-ranks-table-XXXXXX";

    close(mkstemp(path));
    same_bits_by((const int[]){ 2, 4, 0 },
                 (Video){ .folder = "tiny/wan-t2v", .device = "cpu",
                          .table = path });
    unlink(path);
}

/* More ranks than rows: some decode none; and rows that they can't divide. */
TEST(few_rows)
{
    static const int ranks[] = { 3, 6, 8, 0 };

    same_bits_by(ranks, (Video){ .folder = "tiny/wan-t2v", .device = "cpu" });
    same_bits_by(ranks, (Video){ .folder = "tiny/wan22-ti2v-5b",
                                 .device = "cpu" });
    same_bits_by(ranks, (Video){ .folder = "tiny/wan-t2v", .device = "cpu",
                                 .tiny_vae = 1 });
}

/* Two or three of the demo's six heads for each rank of a team, in as many
 * groups: the tiny models have two heads in all. */
static void demo_bits(const int *ranks, int causal)
{
    const char *root = getenv("SRC");
    char path[4096];

    snprintf(path, sizeof(path), "%s/share/demo/t2v", root ? root : ".");
    same_bits_by(ranks, (Video){ .folder = "the demo", .device = "cpu",
                                 .demo = path, .causal = causal });
}

TEST(grouped_heads)
{
    demo_bits((const int[]){ 3, 4, 6, 0 }, 0);
}
TEST(causal_grouped_heads)
{
    demo_bits(usual_ranks, 1);
    demo_bits(usual_ranks, 2);
}

/* -------------------------------------------------------------- precision */

/* Whether this process' processor multiplies BF16, as devices are told; -1: as
 * it is. How it multiplies is not touched. */
static int native = -1;

int __real_wan_bf16_native(void);
int __wrap_wan_bf16_native(void);
int __wrap_wan_bf16_native(void)
{
    return native < 0 ? __real_wan_bf16_native() : native;
}

typedef struct Mixed {
    Video v;
    int host, other;            // what they multiply
    FILE *lines;                // of the other, who says errors alone
} Mixed;

static int mixed_host(WanTransport *t, void *arg)
{
    Mixed *m = arg;

    native = m->host;
    return host(t, &m->v);
}

static void write_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)level;
    fprintf(opaque, "%s\n", line);
    fflush(opaque);
}

static int mixed_other(WanTransport *t, void *arg)
{
    Mixed *m = arg;
    const WanLog log = { write_line, m->lines, WAN_LOG_ERROR };
    WanRanks *r;
    int ret;

    native = m->other;
    if (meet(&r, t, 0) < 0)
        return 1;
    ret = wan_ranks_serve(r, 1, NULL, &log);
    wan_ranks_close(&r);
    return ret < 0;
}

/* The host's processor chooses for all. Who is slow in that says so, once. */
TEST(mixed_processors)
{
    for (int host_has = 0; host_has < 2; host_has++) {
        const char *device = host_has ? "cpu-bf16" : "cpu";
        Video one = { .folder = "tiny/wan-t2v", .device = device, .ranks = 1,
                      .file = tmpfile() };
        Mixed m = { .v = { .folder = "tiny/wan-t2v", .device = "cpu",
                           .ranks = 2, .automatic = 1, .file = tmpfile() },
                    .host = host_has, .other = !host_has, .lines = tmpfile() };
        char line[256] = "", second[256];

        CHECK(!ranks_run(1, host, &one, serve, NULL));
        CHECK(!ranks_run(2, mixed_host, &m, mixed_other, &m));
        CHECKF(differ(one.file, m.v.file) < 0, "not as on %s", device);
        rewind(m.lines);
        CHECKF(!fgets(line, sizeof(line), m.lines) == !host_has &&
               !fgets(second, sizeof(second), m.lines), "%s", line);
        CHECKF(!host_has || !strncmp(line, "precision: bf16 works, but slower",
                                     33), "%s", line);
        fclose(one.file);
        fclose(m.v.file);
        fclose(m.lines);
    }
}

/* ------------------------------------------------------------------ plans */

/* What each of some ranks needs, decodes and sends, added; memory is the most. */
static WanPlan planned(WanModel *m, int ranks, double guidance)
{
    WanPlan all = { 0 }, p;
    WanRequest rq;

    wan_request_default(&rq, m);
    rq.width = rq.height = 128;
    rq.frames = 9;
    rq.guidance = guidance;
    for (int r = 0; r < ranks; r++) {
        WanRanks planned = { .rank = r, .size = ranks };

        m->ranks = ranks > 1 ? &planned : NULL;
        CHECK(wan_plan(&p, m, &rq) == 0);
        all.decode_flops += p.decode_flops;
        all.sent_bytes += p.sent_bytes;
        all.decode_sent_bytes += p.decode_sent_bytes;
        all.exchanges = p.exchanges;
        if (p.work_bytes > all.work_bytes)
            all.work_bytes = p.work_bytes;
    }
    m->ranks = NULL;
    return all;
}

TEST(plan)
{
    WanModel *m = open_tiny("tiny/wan-t2v", "cpu");
    const WanPlan one = planned(m, 1, 5), two = planned(m, 2, 5);
    const WanPlan four = planned(m, 4, 5), six = planned(m, 6, 5);
    const double latent = 4. * WAN_LATENT_CHANNELS * 3 * 16 * 16;

    CHECK(!one.sent_bytes && !one.decode_sent_bytes);
    CHECK(two.decode_flops == one.decode_flops &&
          four.decode_flops == one.decode_flops &&
          six.decode_flops == one.decode_flops);
    CHECK(two.work_bytes < one.work_bytes && four.work_bytes < two.work_bytes);
    CHECKF(two.sent_bytes == 2 * latent, "%g bytes, %g are velocities",
           two.sent_bytes, 2 * latent);
    CHECK(planned(m, 2, 1).sent_bytes > 2 * latent);
    CHECK(!one.exchanges && two.exchanges == 1);
    /* 6 heads: four ranks would send whole keys and values of both branches */
    CHECK(four.sent_bytes < 2 * planned(m, 4, 1).sent_bytes);
    /* seams are 1, 3, 5; pixels all but the host's */
    CHECK(four.decode_sent_bytes > two.decode_sent_bytes &&
          six.decode_sent_bytes > four.decode_sent_bytes);
    wan_model_close(&m);
}

/* What one of some ranks needs of a scene without end. */
static WanPlan scene(WanModel *m, int rank, int ranks, int prompt_switch)
{
    WanRanks planned = { .rank = rank, .size = ranks };
    WanRequest rq;
    WanPlan p;

    wan_request_default(&rq, m);
    CHECK(wan_request_preset(&rq, m, "self-forcing") == 0);
    rq.width = rq.height = 128;
    rq.frames = 0;
    rq.window = 12;
    rq.prompt_switch = prompt_switch;
    m->ranks = ranks > 1 ? &planned : NULL;
    CHECK(wan_plan(&p, m, &rq) == 0 && p.processes == ranks);
    m->ranks = NULL;
    return p;
}

/* Keys and values of a rank's heads: of two, a half each; by three they can't be
 * divided. */
TEST(causal_plan)
{
    WanModel *m = open_tiny("tiny/wan-t2v", "cpu");
    const WanPlan one = scene(m, 0, 1, 0), two = scene(m, 0, 2, 0);
    const WanPlan other = scene(m, 1, 2, 0), three = scene(m, 1, 3, 0);

    CHECK(!one.sent_bytes && !one.block_sent_bytes && !one.begin_sent_bytes);
    CHECK(two.cache_bytes == one.cache_bytes / 2 &&
          other.cache_bytes == one.cache_bytes / 2);
    CHECK(three.cache_bytes == one.cache_bytes);
    CHECK(two.work_bytes < one.work_bytes && other.work_bytes < two.work_bytes &&
          three.work_bytes < one.work_bytes);
    CHECK(scene(m, 1, 2, 1).work_bytes > other.work_bytes);
    CHECK(two.block_sent_bytes > 4 * two.sent_bytes + two.decode_sent_bytes);
    CHECK(two.decode_flops + other.decode_flops == one.decode_flops);
    wan_model_close(&m);
}

/* Of a video, or of VACE: what a step sends is not more, pixels are the host's,
 * the others have their latent and no work with it. */
TEST(plan_encoded)
{
    static const char *const folder[] = { "tiny/wan-t2v", "tiny/wan-vace" };
    const double latent = 4. * WAN_LATENT_CHANNELS * 3 * 16 * 16;
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                           .width = 128, .height = 128 };
    const WanImage *frames[9];
    WanControl control = { .size = sizeof(control), .video = frames,
                           .mask = frames, .nb_frames = 9 };
    const WanControl *controls[] = { &control };

    for (int i = 0; i < 9; i++)
        frames[i] = &img;
    for (int vace = 0; vace < 2; vace++) {
        const double encoded = vace ? 6 * latent : latent;  // 96 channels
        WanModel *m = open_tiny(folder[vace], "cpu");
        WanRanks ranks = { .rank = 1, .size = 2 };
        WanPlan without, one, host, p;
        WanRequest rq;

        wan_request_default(&rq, m);
        rq.width = rq.height = 128;
        rq.frames = 9;
        rq.strength = 1;
        rq.controls = controls;
        rq.nb_controls = vace;
        control.scale = 0;
        m->ranks = &ranks;
        CHECK(wan_plan(&without, m, &rq) == 0);
        control.scale = 1;
        rq.video = vace ? NULL : frames;
        rq.nb_video = vace ? 0 : 9;
        CHECK(wan_plan(&p, m, &rq) == 0 && p.processes == 2);
        ranks.rank = 0;
        CHECK(wan_plan(&host, m, &rq) == 0);
        m->ranks = NULL;
        CHECK(wan_plan(&one, m, &rq) == 0 && one.image_flops > 0);
        CHECK(p.image_flops == 0 && host.image_flops == one.image_flops);
        CHECK(p.sent_bytes == latent && host.sent_bytes == latent);
        CHECKF(p.begin_sent_bytes - without.begin_sent_bytes ==
               encoded / 2, "%s: %g bytes before the steps", folder[vace],
               p.begin_sent_bytes);
        CHECKF(vace ? p.work_bytes < host.work_bytes :
               p.work_bytes <= without.work_bytes + encoded,
               "%s: %lld bytes of work, %lld without", folder[vace],
               (long long)p.work_bytes, (long long)without.work_bytes);
        wan_model_close(&m);
    }
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
        v[i] = (Video){ .golden = golden, .folder = "tiny/wan-t2v",
                        .device = dut, .ranks = i + 1, .file = tmpfile(),
                        .latents = 1 };
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
    RUN(experts);
    RUN(experts_image);
    RUN(vace_ref);
    RUN(vace_control);
    RUN(vace_inpaint);
    RUN(vace_references);
    RUN(vace_extend);
    RUN(vace_easycache);
    RUN(vace_several);
    RUN(vace_few_rows);
    RUN(v2v_ref);
    RUN(v2v);
    RUN(v2v_dpm);
    RUN(v2v_experts);
    RUN(magcache);
    RUN(causal_blocks);
    RUN(causal_frames);
    RUN(causal_steps);
    RUN(causal_prompts);
    RUN(causal_begun);
    RUN(bf16);
    RUN(int8);
    RUN(mixed_processors);
    RUN(few_rows);
    RUN(grouped_heads);
    RUN(causal_grouped_heads);
    RUN(cancelled);
    RUN(causal_cancelled);
    RUN(quit_in_place_of_a_note);
    RUN(cancelled_while_it_waits);
    RUN(interrupted_while_it_opens);
    RUN(lora);
    RUN(plan);
    RUN(causal_plan);
    RUN(plan_encoded);
    return test_end();
}
