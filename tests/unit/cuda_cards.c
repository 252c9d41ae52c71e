/*
 * Whole videos by several cards of one process, device=cuda:0-2, on cards that
 * are made up: the same bits as by one.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * A card computes as the CPU does, and its data goes to the others by nccl.c and
 * an NCCL that is played. So all else is what it is with real ones: the names,
 * the threads that serve, their models, the order of exchanges.
 */

#undef WAN_HAVE_CUDA
#define WAN_HAVE_CUDA 1
#include "../../wan/dev.c"

#include "cards.h"
#include "fakecuda/nccl_played.h"
#include "model/model_test.h"
#include "ops.h"

/* --------------------------------------------------------- made-up devices */

enum { CARDS = 5 };

static WanOps card_ops;             // the CPU's; see main()
static int fails_on;                // the card that fails in its next exchange
static int no_way;                  // between cards, atomic
static int uses[CARDS];             // devices opened on each card, atomic

static int card_usable(int index, const WanLog *log)
{
    if (index < CARDS)
        return 0;
    return wan_error(log, WAN_ERR(ENOSYS), "device cuda:%d: this machine has "
                     "cuda:0 to cuda:%d", index, CARDS - 1);
}

static int64_t card_available(int index, void *context)
{
    (void)index, (void)context;
    return INT64_C(4) << 30;
}

static int card_joins(const WanLog *log)
{
    if (!__atomic_load_n(&no_way, __ATOMIC_RELAXED))
        return wan_nccl_there(log);
    return wan_error(log, WAN_ERR(ENOSYS), "no way between cards");
}

static int card_open(WanDev *d)
{
    const int ret = wan_backend_cpu.open(d);
    WanCuda *c = calloc(1, sizeof(*c));

    d->priv = c;
    c->device = played_rank = d->index;
    c->stream = (cudaStream_t)c;
    __atomic_fetch_add(&uses[d->index], 1, __ATOMIC_RELAXED);
    return ret;
}

static void card_close(WanDev *d)
{
    free(d->priv);
    if (wan_backend_cpu.close)
        wan_backend_cpu.close(d);
}

static void *card_alloc(WanDev *d, int64_t bytes)
{
    return wan_backend_cpu.alloc(d, bytes);
}

static void card_free(WanDev *d, void *p, int64_t bytes)
{
    wan_nccl_leave(d);
    wan_backend_cpu.free(d, p, bytes);
}

static void card_exchange(WanDev *d, const WanParcel *out, const WanParcel *in)
{
    if (fails_on && fails_on == d->index)
        wan_dev_fail(d, WAN_ERR(EIO), "cuda:%d (made up): exchange: it failed",
                     d->index);
    else
        wan_nccl_exchange(d, out, in);
}

/* Whatever they are called for: both compute in F32. */
#define CARD(named, type) { \
    .name = named, .ops = &card_ops, .act = WAN_F32, .device = 1, \
    .precision = type, \
    .hidden_rows = 4096, .open = card_open, .close = card_close, \
    .usable = card_usable, .available = card_available, \
    .alloc = card_alloc, .free = card_free, .joins = card_joins, \
    .join = wan_nccl_join, .join_bytes = 1, .exchange = card_exchange, \
}
const WanBackend wan_backend_cuda = CARD("cuda", WAN_PRECISION_BF16);
const WanBackend wan_backend_cuda_f32 = CARD("cuda-f32", WAN_PRECISION_F32);

/* ------------------------------------------------------------------- names */

static char last[512];

static void keep_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level <= WAN_LOG_ERROR)
        snprintf(last, sizeof(last), "%s", line);
}
static const WanLog quiet = { keep_line, NULL, WAN_LOG_ERROR };

static int lists(const char *device, int nb, const int *card)
{
    WanCardList l;

    return wan_cards_read(&l, device, &quiet) == 0 && l.nb == nb &&
           !memcmp(l.card, card, nb * sizeof(*card));
}

TEST(names)
{
    const int none[1] = { 0 };
    WanCardList l;
    char name[32];

    CHECK(lists("cuda:0-3", 4, (int[]){ 0, 1, 2, 3 }));
    CHECK(lists("cuda:5,0,2-3", 4, (int[]){ 5, 0, 2, 3 }));
    CHECK(lists("cuda:1-1", 1, (int[]){ 1 }));
    CHECK(lists("cuda", 0, none) && lists("cuda:12", 0, none));
    CHECK(lists("cpu", 0, none) && lists("cpu:0-3", 0, none));
    CHECK(wan_cards_read(&l, "cuda-f32:0,7", &quiet) == 0);
    CHECK(!strcmp(wan_cards_name(&l, 1, name, sizeof(name)), "cuda-f32:7"));
    for (const char *const *s = (const char *const[]){ "cuda:0-", "cuda:-1",
         "cuda:3-1", "cuda:0,,1", "cuda:0,", "cuda:0-2,1", "cuda:0-64",
         "cuda:0-9999", "cuda:0-1x", "cuda:0-1-2", NULL }; *s; s++)
        CHECKF(wan_cards_read(&l, *s, &quiet) == WAN_ERR(EINVAL) &&
               strstr(last, *s), "%s: %s", *s, last);
}

/* ------------------------------------------------------------------ videos */

typedef struct Made {
    char *data;
    size_t n;
    FILE *file;
} Made;

static void keep(void *opaque, const char *name, const WanTensor *t)
{
    Made *m = opaque;

    if (!strncmp(name, "latents", 7) || strstr(name, ".x0."))
        fwrite(t->data, sizeof(float), wan_count(t), m->file);
}

static const char *folder = "tiny/wan-t2v";
static int redraws;             // clips are made from a video

static WanModel *open_on(const char *device)
{
    return open_tiny_of(folder, device, NULL);
}

static int causal;              // videos are made block by block

static WanRequest small_video(const WanModel *m)
{
    WanRequest rq;

    wan_request_default(&rq, m);
    rq.prompt = "a red ball";
    rq.width = 48;
    rq.height = 64;
    rq.frames = 5;
    rq.steps = 2;
    if (causal) {
        CHECK(wan_request_preset(&rq, m, "self-forcing") == 0);
        rq.frames = 17;
        rq.block = 1;
        rq.window = 3;
        rq.sink = 1;
        rq.prompt_switch = WAN_SWITCH_RECACHE;
    }
    if (redraws) {
        static uint8_t rgb[3 * 48 * 64];
        static WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                                .width = 48, .height = 64, .data = { rgb },
                                .stride = { 3 * 48 } };
        static const WanImage *const video[] = { &img, &img, &img, &img, &img };

        for (size_t i = 0; i < sizeof(rgb); i++)
            rgb[i] = (uint8_t)(i * 97 % 251);
        rq.video = video;
        rq.nb_video = 5;
    }
    return rq;
}

/* Its latents after each step and its frames; how the job ended. */
static int make(Made *out, WanModel *m)
{
    const WanRequest rq = small_video(m);
    uint8_t *rgb = malloc(3 * rq.width * rq.height);
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                           .width = rq.width, .height = rq.height,
                           .data = { rgb }, .stride = { 3 * rq.width } };
    WanProgress p = { .stage = WAN_STAGE_TEXT };
    WanJob *job = NULL;
    int ret;

    out->file = open_memstream(&out->data, &out->n);
    if ((ret = wan_job_open(&job, m, &rq)) >= 0) {
        wan_job_tap(job, keep, out);
        while ((ret = wan_job_step(job, &p)) >= 0) {
            if (causal && p.block == 1 && p.block_done)
                CHECK(wan_job_prompt(job, "a blue box") == 0);
            while ((ret = wan_job_frame(job, &img)) >= 0)
                fwrite(rgb, 3 * rq.width, rq.height, out->file);
            if (ret == WAN_EOF)
                break;
        }
    }
    wan_job_close(&job);
    fclose(out->file);
    free(rgb);
    return ret;
}

static Made one;                // by one CPU

static void same_by(const char *device, int cards)
{
    WanModel *m = open_on(device);
    const WanRequest rq = small_video(m);
    WanPlan plan;

    CHECK(wan_plan(&plan, m, &rq) == 0 && plan.processes == cards);
    CHECK((plan.sent_bytes > 0) == (cards > 1));
    for (int clip = 0; clip < 2; clip++) {
        Made made = { 0 };

        played.moved = 0;
        CHECK(make(&made, m) == WAN_EOF);
        CHECKF(made.n == one.n && !memcmp(made.data, one.data, one.n),
               "%s, clip %d: other bits, %zu of %zu bytes", device, clip, made.n,
               one.n);
        CHECK((played.moved > 0) == (cards > 1));
        free(made.data);
    }
    wan_model_close(&m);
    CHECK(played.inits == played.aborts);
}

/* Two and three divide the heads, five do not. */
TEST(same_bits)
{
    WanModel *m = open_on("cpu");

    CHECK(make(&one, m) == WAN_EOF && one.n > 0);
    wan_model_close(&m);
    same_by("cuda:1", 1);
    same_by("cuda:2-2", 1);
    memset(uses, 0, sizeof(uses));
    same_by("cuda:0-1", 2);
    CHECK(uses[0] == 2 && uses[1] == 2 && !uses[2]);
    same_by("cuda:4,0,2", 3);
    same_by("cuda:0-4", 5);
}

/* Blocks look back on those before, two of them under another prompt. */
TEST(causal_bits)
{
    const Made clip = one;
    WanModel *m = open_on("cpu");

    causal = 1;
    CHECK(make(&one, m) == WAN_EOF && one.n > 0);
    wan_model_close(&m);
    same_by("cuda:0-1", 2);
    same_by("cuda:0-2", 3);
    same_by("cuda:0-4", 5);
    causal = 0;
    free(one.data);
    one = clip;
}

/* VACE; a video that is drawn again. */
TEST(same_bits_encoded)
{
    const Made t2v = one;

    for (redraws = 0; redraws < 2; redraws++) {
        folder = redraws ? "tiny/wan-t2v" : "tiny/wan-vace";
        WanModel *m = open_on("cpu");

        CHECK(make(&one, m) == WAN_EOF && one.n > 0);
        CHECK(one.n != t2v.n || memcmp(one.data, t2v.data, one.n));
        wan_model_close(&m);
        same_by("cuda:0-1", 2);
        same_by("cuda:0-4", 5);
        free(one.data);
    }
    redraws = 0;
    one = t2v;
}

static int opens(const char *device)
{
    WanModelParams p;
    WanModel *m = NULL;
    char path[4096];
    int ret;

    snprintf(path, sizeof(path), "%s", golden_path("tiny/wan-t2v"));
    wan_model_params_default(&p);
    p.path = path;
    p.device = device;
    p.log = keep_line;
    p.log_level = WAN_LOG_ERROR;
    *last = 0;
    ret = wan_model_open(&m, &p);
    wan_model_close(&m);
    return ret;
}

TEST(refused)
{
    CHECKF(opens("cuda:0-7") == WAN_ERR(ENOSYS) &&
           strstr(last, "device cuda:5: this machine has cuda:0 to cuda:4"),
           "%s", last);
    CHECKF(opens("cuda:0,0") == WAN_ERR(EINVAL) && strstr(last, "twice"), "%s",
           last);
    played.missing = -1;
    CHECKF(opens("cuda:0-1") == WAN_ERR(ENOSYS) && strstr(last, "libnccl.so.2"),
           "%s", last);
    CHECK(opens("cuda:1") == 0);        // one needs none
    played.missing = 0;
    CHECK(opens("cuda:0-1") == 0);
}

/* After a clip that failed; closes the model. */
static void next_is_whole(WanModel *m)
{
    Made made = { 0 };

    CHECK(make(&made, m) == WAN_EOF);
    CHECK(made.n == one.n && !memcmp(made.data, one.data, one.n));
    free(made.data);
    wan_model_close(&m);
}

/* A card fails in a clip: one line of the host, and the next clip is whole. */
TEST(a_card_fails)
{
    WanModel *m = open_on("cuda:0-2");
    const WanLog log = m->log;
    Made made = { 0 };

    m->log = quiet;
    fails_on = 2;
    *last = 0;
    CHECK(make(&made, m) == WAN_ERR(EIO));
    CHECKF(strstr(last, "rank 2 ") && strstr(last, "cuda:2 (made up)"), "%s",
           last);
    free(made.data);
    fails_on = 0;
    m->log = log;
    next_is_whole(m);
    CHECK(played.inits == played.aborts);
}

/* The others can't join in the first clip, in the next they can. */
TEST(joined_later)
{
    WanModel *m = open_on("cuda:0-2");
    const WanLog log = m->log;
    Made made = { 0 };

    m->log = quiet;
    __atomic_store_n(&no_way, 1, __ATOMIC_RELAXED);
    CHECK(make(&made, m) == WAN_ERR(EIO));
    CHECKF(strstr(last, "no way between cards"), "%s", last);
    free(made.data);
    __atomic_store_n(&no_way, 0, __ATOMIC_RELAXED);
    m->log = log;
    next_is_whole(m);
}

/* Cancelled in its steps; the next clip is whole. */
TEST(cancelled)
{
    WanModel *m = open_on("cuda:0-2");
    const WanRequest rq = small_video(m);
    WanProgress p = { .stage = WAN_STAGE_TEXT };
    Made made = { 0 };
    WanJob *job;

    if (!CHECK(wan_job_open(&job, m, &rq) == 0))
        return;
    do
        CHECK(wan_job_step(job, &p) == 0);
    while (p.stage != WAN_STAGE_STEPS);
    wan_job_cancel(job);
    CHECK(wan_job_step(job, &p) == WAN_CANCELLED);
    wan_job_close(&job);
    CHECK(make(&made, m) == WAN_EOF);
    CHECK(made.n == one.n && !memcmp(made.data, one.data, one.n));
    free(made.data);
    wan_model_close(&m);
    CHECK(played.inits == played.aborts);
}

int main(void)
{
    card_ops = *wan_backend_cpu.ops;
    RUN(names);
    RUN(same_bits);
    RUN(causal_bits);
    RUN(same_bits_encoded);
    RUN(refused);
    RUN(a_card_fails);
    RUN(joined_later);
    RUN(cancelled);
    free(one.data);
    return test_end();
}
