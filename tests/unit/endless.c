/*
 * Scenes without end through the filters' worker: causal jobs of libwan with
 * prompts from other threads, and an FFmpeg that is made up.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <unistd.h>

#include "../../libavfilter/wan_worker.c"

#include "golden.h"
#include "test.h"

enum { W = 32, H = 16, BLOCK = 12 };    // of 3 latent frames; the first has 9

static void complain(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque, (void)level;
    printf("# %s\n", line);
}

static WanModel *open_model(void)
{
    char path[4096], rest[4096], vae[4096];
    WanModel *m = NULL;
    WanModelParams p;

    snprintf(path, sizeof(path), "%s", golden_path("tiny/self-forcing"));
    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    wan_model_params_default(&p);
    p.path = path;
    p.text_encoder = p.tokenizer = rest;
    snprintf(vae, sizeof(vae), "%s", golden_path("tiny/taew2_1/taew2_1.safetensors"));
    p.vae = vae;                // the quick one
    p.device = "cpu";
    p.threads = 2;
    p.log = complain;
    p.log_level = WAN_LOG_ERROR;
    if (!CHECK(wan_model_open(&m, &p) == 0))
        exit(1);
    return m;
}

static WanRequest request(const WanModel *m, const char *prompt)
{
    static const double steps[] = { 1000, 500 };
    WanRequest r;

    wan_request_default(&r, m);
    r.prompt = prompt;
    r.timesteps = steps;
    r.steps = r.nb_timesteps = 2;
    r.width = W;
    r.height = H;
    r.frames = 0;
    r.window = 6;
    r.seed = 5;
    return r;
}

/* --------------------------------------------------------------- the maker */

typedef struct Picture {
    AVFrame frame;              // first, so that it is freed as one
    int64_t block;
    int prompt;                 // of words[]
    uint8_t rgb[3 * W * H];
} Picture;

static const char *const words[] = { "a cat", "a dog", "a bird", "a red ball" };
#define WORDS ((int)(sizeof(words) / sizeof(*words)))

/* As vf_wan.c does it: whoever wants another prompt says so under a lock, and
 * the worker takes it as a block begins. */
typedef struct Scene {
    WanModel *model;
    pthread_mutex_t settings;
    int asked;                  // under it
    int prompt;                 // of the block in work
    int64_t block, read;
} Scene;

static int asked(Scene *s)
{
    int i;

    pthread_mutex_lock(&s->settings);
    i = s->asked;
    pthread_mutex_unlock(&s->settings);
    return i;
}

static void ask(Scene *s, int i)
{
    pthread_mutex_lock(&s->settings);
    s->asked = i;
    pthread_mutex_unlock(&s->settings);
}

static int begin(void *opaque, WanJob **job)
{
    Scene *s = opaque;

    s->prompt = asked(s);
    const WanRequest r = request(s->model, words[s->prompt]);

    return wan_job_open(job, s->model, &r);
}

static int turn(void *opaque, WanJob *job)
{
    Scene *s = opaque;
    const int i = asked(s);
    const int ret = i == s->prompt ? 0 : wan_job_prompt(job, words[i]);

    s->prompt = i;
    s->block++;
    return ret;
}

static int read_frame(void *opaque, WanJob *job, AVFrame **frame)
{
    Scene *s = opaque;
    Picture *p = calloc(1, sizeof(*p));
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                           .width = W, .height = H, .data = { p->rgb },
                           .stride = { 3 * W } };
    const int ret = wan_job_frame(job, &img);

    if (ret < 0) {
        free(p);
        return ret == WAN_ERR(EAGAIN) ? 0 : ret;
    }
    p->frame.pts = s->read++;
    p->block = s->block;
    p->prompt = s->prompt;
    *frame = &p->frame;
    return 1;
}

static void end(void *opaque, const WanProgress *p)
{
    (void)opaque, (void)p;
    CHECK(!"a scene without end has ended");
}

static int flush(void *opaque, AVFrame **frame)
{
    (void)opaque, (void)frame;
    return 0;
}

static int map_error(int ret)
{
    return ret == WAN_CANCELLED ? AVERROR_EXIT : ret;
}

static FFWanWorker *start(Scene *s, WanModel *m, int ahead)
{
    const FFWanMaker maker = {
        .opaque = s, .begin = begin, .read = read_frame, .end = end,
        .flush = flush, .map_error = map_error, .turn = turn,
    };
    FFWanWorker *w = NULL;

    *s = (Scene){ .model = m };
    pthread_mutex_init(&s->settings, NULL);
    CHECK(ff_wan_worker_start(&w, &maker, ahead, 0) == 0);
    return w;
}

static void stop(Scene *s, FFWanWorker *w)
{
    ff_wan_worker_stop(&w);
    pthread_mutex_destroy(&s->settings);
}

/* The next frame, freed by the caller; NULL: an error, told. */
static Picture *next(FFWanWorker *w)
{
    AVFrame *f = NULL;
    int ret;

    while (!(ret = ff_wan_worker_take(w, &f, 100000, 0)))
        ;
    return CHECKF(ret > 0, "%d", ret) ? (Picture *)f : NULL;
}

/* ----------------------------------------------------------------- tests */

/* The same frames as one thread gets that does it all. */
static void by_hand(WanModel *m, uint8_t *rgb, int n)
{
    const WanRequest r = request(m, words[0]);
    WanProgress p = { 0 };
    WanJob *job;
    int ret = 0;

    if (!CHECK(wan_job_open(&job, m, &r) == 0))
        return;
    while (n && ret >= 0) {
        WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                         .width = W, .height = H, .data = { rgb },
                         .stride = { 3 * W } };

        for (; n && !wan_job_frame(job, &img); n--)
            img.data[0] = rgb += 3 * W * H;
        if (p.block_done)
            CHECK(wan_job_prompt(job, words[(p.block + 1) % WORDS]) == 0);
        ret = wan_job_step(job, &p);
    }
    CHECK(ret >= 0);
    wan_job_close(&job);
}

/* ahead = 0: a prompt that comes behind the last frame of a block is the next
 * one's. Each block has another. */
TEST(the_next_block)
{
    enum { N = 9 + BLOCK + 1 };
    WanModel *m = open_model();
    uint8_t *rgb = malloc(3 * W * H * N);
    Scene s;
    FFWanWorker *w = start(&s, m, 0);

    by_hand(m, rgb, N);
    for (int i = 0; i < N; i++) {
        Picture *p = next(w);
        const int block = (i + 3) / BLOCK;

        if (!p)
            break;
        ask(&s, (i + 4) / BLOCK % WORDS);
        CHECKF(p->frame.pts == i && p->block == block && p->prompt == block,
               "frame %d: block %d, %s", i, (int)p->block, words[p->prompt]);
        CHECKF(!memcmp(p->rgb, rgb + 3 * W * H * i, sizeof(p->rgb)),
               "frame %d is another one", i);
        free(p);
    }
    stop(&s, w);
    free(rgb);
    wan_model_close(&m);
}

/* Somebody who changes the prompt and looks how it stands, as fast as it goes. */
typedef struct Viewer {
    Scene *scene;
    FFWanWorker *worker;
    int over;
} Viewer;

static void *fidget(void *arg)
{
    Viewer *v = arg;
    FFWanStatus status;

    for (int i = 0; !__atomic_load_n(&v->over, __ATOMIC_RELAXED); i++) {
        ask(v->scene, i % WORDS);
        ff_wan_worker_status(v->worker, &status);
        CHECK(status.clip <= 1);
        usleep(300);
    }
    return NULL;
}

/* Two streams of one model, each with its viewer; the model outlives its last
 * reference of ours in the jobs. A block has one prompt. */
TEST(prompts_from_elsewhere)
{
    enum { N = 9 + 2 * BLOCK };
    WanModel *m = open_model();
    Scene s[2];
    Viewer v[2];
    pthread_t thread[2];
    int64_t block[2] = { 0 };
    int prompt[2] = { 0 }, turns = 0;

    for (int i = 0; i < 2; i++) {
        v[i] = (Viewer){ .scene = &s[i], .worker = start(&s[i], m, 5 + i) };
        CHECK(!pthread_create(&thread[i], NULL, fidget, &v[i]));
    }
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 2; i++) {
            Picture *p = next(v[i].worker);

            if (!p)
                continue;
            CHECK(p->frame.pts == n && p->block == (n + 3) / BLOCK);
            CHECK(p->block != block[i] || !n || p->prompt == prompt[i]);
            turns += n && p->prompt != prompt[i];
            block[i] = p->block;
            prompt[i] = p->prompt;
            free(p);
        }
    CHECKF(turns > 0, "no prompt was taken");
    for (int i = 0; i < 2; i++) {
        __atomic_store_n(&v[i].over, 1, __ATOMIC_RELAXED);
        pthread_join(thread[i], NULL);
        stop(&s[i], v[i].worker);
    }
    wan_model_close(&m);
}

/* Stopped in any unit of any block, with a prompt that waits or without. */
TEST(stopped_at_any_time)
{
    WanModel *m = open_model();

    for (int i = 0; i < 6; i++) {
        Scene s;
        FFWanWorker *w = start(&s, m, i % 3 * 8);

        for (int n = 0; n < i * 3; n++) {
            ask(&s, i % 2 * n % WORDS);
            free(next(w));
        }
        usleep(i % 4 * 3000);
        stop(&s, w);
    }
    wan_model_close(&m);
}

int main(void)
{
    RUN(the_next_block);
    RUN(prompts_from_elsewhere);
    RUN(stopped_at_any_time);
    return test_end();
}
