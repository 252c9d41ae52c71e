/*
 * Weights on a CUDA device that is made up: its streams are threads that take
 * their time, its memory is the host's.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * weights.c itself is compiled in, with small buffers so that every matrix is
 * several copies. What computes compares its matrix with what it should be
 * when its turn comes, not when it is launched: a copy too late or too early
 * shows, as does a wrong conversion.
 */

#define CHUNK 4096

#include "../../wan/cuda/weights.c"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "test.h"

/* --------------------------------------------------------- made-up runtime */

enum Kind { COPY, RECORD, WAIT, COMPARE, STOP };

typedef struct Item {
    enum Kind kind;
    void *to;
    const void *from;
    size_t bytes;
    struct Event *event;
    long id;
} Item;

#define QUEUE 65536

struct Stream {
    pthread_t thread;
    Item queue[QUEUE];
    long put, done;
    unsigned seed;
};

struct Event { long recorded, happened; };

static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t fake_cond = PTHREAD_COND_INITIALIZER;
/* Read while a stream may still copy ahead. */
static _Atomic long wrong, compared, copied_bytes;

static void *stream_main(void *arg)
{
    struct Stream *s = arg;

    pthread_mutex_lock(&fake_lock);
    for (;;) {
        while (s->done == s->put)
            pthread_cond_wait(&fake_cond, &fake_lock);
        const Item i = s->queue[s->done % QUEUE];

        if (i.kind == STOP)
            break;
        while (i.kind == WAIT && i.event->happened < i.id)
            pthread_cond_wait(&fake_cond, &fake_lock);
        if (i.kind == RECORD)
            i.event->happened = i.id;
        if (i.kind == COPY || i.kind == COMPARE) {
            s->seed = s->seed * 1103515245 + 12345;
            const unsigned pause = s->seed >> 16 & 15;

            pthread_mutex_unlock(&fake_lock);
            if (pause < 3)
                usleep(pause * 40);
            int bad = 0;
            if (i.kind == COPY)
                memcpy(i.to, i.from, i.bytes);
            else
                bad = memcmp(i.to, i.from, i.bytes) != 0;
            pthread_mutex_lock(&fake_lock);
            wrong += bad;
            compared += i.kind == COMPARE;
            copied_bytes += i.kind == COPY ? (long)i.bytes : 0;
        }
        s->done++;
        pthread_cond_broadcast(&fake_cond);
    }
    pthread_mutex_unlock(&fake_lock);
    return NULL;
}

static cudaError_t put(struct Stream *s, Item i)
{
    pthread_mutex_lock(&fake_lock);
    while (s->put - s->done >= QUEUE)
        pthread_cond_wait(&fake_cond, &fake_lock);
    if (i.kind == RECORD)
        i.id = ++i.event->recorded;
    if (i.kind == WAIT)
        i.id = i.event->recorded;
    s->queue[s->put++ % QUEUE] = i;
    pthread_cond_broadcast(&fake_cond);
    pthread_mutex_unlock(&fake_lock);
    return cudaSuccess;
}

static struct Stream *stream_open(unsigned seed)
{
    struct Stream *s = calloc(1, sizeof(*s));

    s->seed = seed;
    pthread_create(&s->thread, NULL, stream_main, s);
    return s;
}

static void stream_close(struct Stream *s)
{
    put(s, (Item){ .kind = STOP });
    pthread_join(s->thread, NULL);
    free(s);
}

cudaError_t cudaMalloc(void **p, size_t n) { return !(*p = malloc(n)); }
cudaError_t cudaFree(void *p) { free(p); return cudaSuccess; }
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f)
{
    (void)f;
    return !(*p = malloc(n));
}
cudaError_t cudaFreeHost(void *p) { free(p); return cudaSuccess; }

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                            enum cudaMemcpyKind kind, cudaStream_t s)
{
    (void)kind;
    return put(s, (Item){ COPY, to, from, bytes, NULL, 0 });
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    pthread_mutex_lock(&fake_lock);
    for (const long until = s->put; s->done < until; )
        pthread_cond_wait(&fake_cond, &fake_lock);
    pthread_mutex_unlock(&fake_lock);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f)
{
    (void)f;
    return put(s, (Item){ .kind = WAIT, .event = e });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f)
{
    (void)f;
    return !(*e = calloc(1, sizeof(**e)));
}

/* An event that is still waited for lives on, as the real ones do: the test
 * is over soon. */
static struct Event *graveyard[1 << 16];
static int nb_graves;

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    pthread_mutex_lock(&fake_lock);
    graveyard[nb_graves++] = e;
    pthread_mutex_unlock(&fake_lock);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    return put(s, (Item){ .kind = RECORD, .event = e });
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    pthread_mutex_lock(&fake_lock);
    while (e->happened < e->recorded)
        pthread_cond_wait(&fake_cond, &fake_lock);
    pthread_mutex_unlock(&fake_lock);
    return cudaSuccess;
}

/* replay.c's and device.c's part */
void wan_cuda_replay_forget(WanDev *d) { (void)d; }
int wan_cuda_ok(WanDev *d, cudaError_t e, const char *what)
{
    if (e)
        wan_dev_fail(d, WAN_ERR(EIO), "%s: error %d", what, (int)e);
    return !e;
}
int wan_cuda_wait(WanDev *d, const char *op)
{
    (void)op;
    return !cudaStreamSynchronize(wan_cuda_stream(d));
}
int wan_cuda_readable(const void *p) { (void)p; return 0; }
void wan_cuda_adopt_thread(const WanCuda *c) { (void)c; }

/* ----------------------------------------------------------------- fixture */

#define MATRICES 40

typedef struct Fixture {
    WanDev dev;
    WanBackend backend;
    WanCuda cuda;
    WanTensor w[MATRICES];
    int e4m3[MATRICES];         // may be rounded to it
    WanType type[MATRICES];     // on the device
    float scale[MATRICES];
    char *want[MATRICES];
    int64_t bytes[MATRICES];
} Fixture;

static uint32_t state;

static uint32_t random_u32(void)
{
    state = state * 1664525 + 1013904223;
    return state >> 4;
}

/* Any type; a fifth of them convolutions, of the others half may be rounded to
 * e4m3, and half of these have the sides for it. */
static void make_matrix(Fixture *f, int i)
{
    static const WanType type[] = { WAN_F32, WAN_BF16, WAN_F16, WAN_F8_E4M3 };
    const WanType from = type[i % 4];
    const WanTensor x = wan_tensor_of(NULL, f->backend.act, 1, 1);
    const int conv = i % 5 == 0, even = i % 3 > 0 && i % 2;
    const int64_t O = 5 + i % 7, I = 8 + i % 3, K = 100 + i * 7 % 60;
    WanTensor t = conv ? wan_tensor_of(NULL, from, O, I, 3, 3, 3)
                       : wan_tensor_of(NULL, from, even ? 32 : 11 + i % 13,
                                       even ? K / 16 * 16 : K);
    const int64_t n = wan_count(&t), row = n / t.dim[0];
    unsigned char *p = calloc(n, 4);
    float amax = 0;

    f->e4m3[i] = !conv && i % 3;
    f->bytes[i] = wan_cuda_page_bytes(&t, f->e4m3[i], &x, &f->type[i]);
    const WanType to = f->type[i];

    CHECK(to == (f->backend.act == WAN_F32 || conv ? f->backend.act :
                 from == WAN_F8_E4M3 || even ? WAN_F8_E4M3 : WAN_BF16));
    CHECK(f->bytes[i] == n * wan_type_size(to));

    if (n < 1 || n > 1 << 24)
        abort();

    for (int64_t k = 0; k < n; k++) {
        const float v = (float)random_u32() / (1 << 24) - 8;
        const uint16_t h = from == WAN_BF16 ? wan_f32_to_bf16(v)
                                            : wan_f32_to_f16(v);

        if (from == WAN_F32)
            memcpy(p + 4 * k, &v, 4);
        else if (from == WAN_F8_E4M3)
            p[k] = random_u32() % 0x7f;
        else
            memcpy(p + 2 * k, &h, 2);
    }
    t.data = p;
    f->w[i] = t;
    f->want[i] = malloc(f->bytes[i]);
    for (int64_t k = 0; k < n; k++) {
        float v;

        wan_to_f32(&v, p + k * wan_type_size(from), from, 1, 1);
        amax = fmaxf(amax, fabsf(v));
    }
    f->scale[i] = to == WAN_F8_E4M3 && from != to ? amax / 448 : 1;
    for (int64_t k = 0; k < n; k++) {
        /* element k of the device's order lies at j of the file's */
        const int64_t in = k % row;
        const int64_t j = !conv ? k : k / row * row + in % I * 27 + in / I;
        float v;

        wan_to_f32(&v, p + j * wan_type_size(from), from, 1, 1);
        const uint16_t h = wan_f32_to_bf16(v);
        if (to == WAN_F32)
            memcpy(f->want[i] + 4 * k, &v, 4);
        else if (to == WAN_F8_E4M3)
            wan_to_e4m3((uint8_t *)f->want[i] + k, &v, 1, 1 / f->scale[i]);
        else
            memcpy(f->want[i] + 2 * k, &h, 2);
    }
}

/* Two stages: matrices 0 to 29, each twice in blocks of 6, again and again;
 * then the others. part 0: the least memory, 16: all that is useful. */
static Fixture *fixture(WanType act, int part, unsigned seed)
{
    Fixture *f = calloc(1, sizeof(*f));
    WanPager *p = wan_pager_alloc();
    int64_t least, full;

    state = seed;
    f->backend.act = act;
    f->dev.backend = &f->backend;
    f->dev.priv = &f->cuda;
    f->dev.threads = 1 + seed % 4;
    f->cuda.stream = stream_open(seed);
    f->cuda.copy_stream = stream_open(seed + 1);
    for (int i = 0; i < MATRICES; i++)
        make_matrix(f, i);
    for (int stage = 0; stage < 2; stage++) {
        wan_pager_stage(p, stage);
        wan_pager_work(p, 1000);
        wan_pager_repeat(p);
        const int first = stage ? 30 : 0, end = stage ? MATRICES : 30;

        for (int i = first; i < end; i += 6)
            for (int twice = 0; twice < 2; twice++)
                for (int k = i; k < i + 6 && k < end; k++)
                    wan_pager_note(p, &f->w[k], f->w[k].nb_dims == 5,
                                   f->type[k], f->bytes[k]);
    }
    p->vectors = 1024;
    wan_pager_need(p, &least, &full);
    f->dev.size = least + (full - least) * part / 16;
    wan_pager_fit(p, f->dev.size);
    f->dev.pager = p;
    f->dev.base = malloc(f->dev.size);
    CHECK(wan_cuda_weights_open(&f->dev) == 0);
    return f;
}

static void fixture_free(Fixture *f)
{
    wan_cuda_weights_close(&f->dev);
    wan_pager_free(&f->dev.pager);
    stream_close(f->cuda.stream);
    stream_close(f->cuda.copy_stream);
    free(f->dev.base);
    for (int i = 0; i < MATRICES; i++) {
        free(f->w[i].data);
        free(f->want[i]);
    }
    while (nb_graves)
        free(graveyard[--nb_graves]);
    free(f);
}

/* What an entry does: ask, launch, leave. */
static int use(Fixture *f, int i)
{
    WanDev *d = &f->dev;
    float scale = 1;
    const void *p = f->w[i].nb_dims == 5
                    ? wan_cuda_weight(d, &f->w[i])
                    : wan_cuda_matrix(d, &f->w[i], f->type[i], &scale);

    CHECKF(!p || scale == f->scale[i], "matrix %d: scale %g, not %g", i, scale,
           f->scale[i]);
    if (p)
        put(f->cuda.stream, (Item){ COMPARE, (void *)p, f->want[i],
                                    f->bytes[i], NULL, 0 });
    wan_cuda_weights_used(d);
    return p != NULL;
}

static void run(WanType act, int part, unsigned seed)
{
    Fixture *f = fixture(act, part, seed);
    int missing = 0, uses = 0;

    wrong = compared = copied_bytes = 0;
    for (int stage = 0; stage < 2; stage++) {
        wan_cuda_weights_stage(&f->dev, stage);
        const WanPagerStage *s = &f->dev.pager->stage[stage];

        for (int round = 0; round < 3; round++)
            for (int k = 0; k < s->nb_uses; k++, uses++)
                missing += !use(f, (int)((const WanPage *)&s->page[s->use[k]] -
                                         s->page) + (stage ? 30 : 0));
    }
    cudaStreamSynchronize(f->cuda.stream);
    CHECKF(!missing && !f->dev.error, "%d missing: %s", missing,
           f->dev.message);
    CHECKF(compared == uses && !wrong, "part %d, seed %u: %ld of %d wrong",
           part, seed, (long)wrong, uses);
    fixture_free(f);
}

/* ------------------------------------------------------------------- tests */

TEST(everything_stays)
{
    for (unsigned seed = 1; seed < 4; seed++)
        run(WAN_BF16, 16, seed);
    run(WAN_F32, 16, 9);
}

TEST(much_passes_through)
{
    for (unsigned seed = 1; seed < 9; seed++)
        run(WAN_BF16, seed % 16, seed);
    run(WAN_F32, 0, 10);
}

/* Of what stays, uses that a graph had are counted: the next one is in turn. */
TEST(uses_that_are_skipped)
{
    Fixture *f = fixture(WAN_BF16, 16, 6);
    const WanPager *p = f->dev.pager;

    wan_cuda_weights_stage(&f->dev, 0);
    CHECK(wan_cuda_weights_stay(&f->dev));
    wrong = 0;
    for (int round = 0; round < 3; round++)
        for (int k = 0; k < p->now->nb_uses; k++) {
            if (round && k == 6) {
                wan_cuda_weights_skip(&f->dev, 12);
                k += 12;
            }
            CHECK(wan_cuda_weights_turn(&f->dev) ==
                  round * p->now->nb_uses + k - 1);
            CHECK(use(f, p->now->use[k]));
        }
    cudaStreamSynchronize(f->cuda.stream);
    CHECK(!wrong && !f->dev.error);
    fixture_free(f);

    f = fixture(WAN_BF16, 3, 6);
    wan_cuda_weights_stage(&f->dev, 0);
    CHECK(!wan_cuda_weights_stay(&f->dev));
    fixture_free(f);
}

/* Cancelled while it waits for a copy that nobody makes. */
TEST(cancel_while_waiting)
{
    Fixture *f = fixture(WAN_BF16, 0, 3);

    f->dev.threads = 0;
    f->dev.cancel = 1;
    wan_cuda_weights_stage(&f->dev, 0);
    CHECK(!use(f, 0));
    CHECK(f->dev.error == WAN_CANCELLED);
    fixture_free(f);
}

/* Without a pager each is copied once and kept, until it is forgotten. */
TEST(without_a_pager)
{
    Fixture *f = fixture(WAN_BF16, 16, 5);
    WanPager *p = f->dev.pager;
    long bytes;

    f->dev.pager = NULL;
    wrong = copied_bytes = 0;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < MATRICES; i++)
            CHECK(use(f, i));
    cudaStreamSynchronize(f->cuda.stream);
    bytes = copied_bytes;
    wan_cuda_weights_forget(&f->dev);
    CHECK(use(f, 0));
    cudaStreamSynchronize(f->cuda.stream);
    CHECK(!wrong && copied_bytes == bytes + f->bytes[0]);
    f->dev.pager = p;
    fixture_free(f);
}

int main(void)
{
    RUN(everything_stays);
    RUN(much_passes_through);
    RUN(uses_that_are_skipped);
    RUN(cancel_while_waiting);
    RUN(without_a_pager);
    return test_end();
}
