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

#include "emu/device.h"
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

int wan_cuda_wait(WanDev *d, const char *op)
{
    (void)op;
    return !cudaStreamSynchronize(wan_cuda_stream(d));
}

/* nccl.c's: there are no other ranks */
int wan_nccl_look(WanDev *d) { return !d->error; }

/* quant.cu's; of what is asked for here, at once */
static int conversions;

int wan_cuda_convert(cudaStream_t s, void *y, WanType ty, const void *x,
                     WanType tx, int64_t O, int64_t I, int64_t P, float scale)
{
    (void)s;
    CHECK(P == 1 && scale == 1);
    conversions++;
    convert(y, ty, x, tx, O * I, 1);
    return 0;
}

/* ----------------------------------------------------------------- fixture */

#define MATRICES 40

typedef struct Fixture {
    WanDev dev;
    WanBackend backend;
    WanCuda cuda;
    WanTensor w[MATRICES], more[MATRICES][2];   // used as one; or absent
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

/* Scales that are numbers, and any bytes behind them. */
static void random_blocks(unsigned char *p, WanType type, int64_t n)
{
    const int size = wan_type_size(type);

    for (int64_t i = 0; i < wan_type_bytes(type, n); i++)
        p[i] = i % size % 2 && i % size < 4 ? 0x20 + random_u32() % 8
                                            : random_u32() & 0xff;
}

/* Random numbers, and at *want what the device should have, behind which it
 * goes on; the scale that has. */
static WanTensor make_part(WanTensor t, int conv, WanType to, char **want,
                           float *scale)
{
    const WanType from = t.type;
    const int64_t n = wan_count(&t), row = n / t.dim[0], I = t.dim[1];
    unsigned char *p = calloc(n, 4);
    float *all = malloc(n * sizeof(*all)), amax = 0;

    if (n < 1 || n > 1 << 24)
        abort();
    t.data = p;
    if (wan_type_block(from) > 1)
        random_blocks(p, from, n);
    for (int64_t k = 0; k < n && wan_type_block(from) == 1; k++) {
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
    wan_to_f32(all, p, from, n, 1);
    for (int64_t k = 0; k < n; k++)
        amax = fmaxf(amax, fabsf(all[k]));
    *scale = to == WAN_F8_E4M3 && from != to ? amax / 448 : 1;
    for (int64_t k = 0; k < n; k++) {
        /* element k of the device's order lies at j of the file's */
        const int64_t in = k % row;
        const int64_t j = !conv ? k : k / row * row + in % I * 27 + in / I;
        const float v = all[j];
        const uint16_t h = wan_f32_to_bf16(v);

        if (to == WAN_F32)
            memcpy(*want + 4 * k, &v, 4);
        else if (to == WAN_F8_E4M3)
            wan_to_e4m3((uint8_t *)*want + k, &v, 1, 1 / *scale);
        else
            memcpy(*want + 2 * k, &h, 2);
    }
    *want += n * wan_type_size(to);
    free(all);
    return t;
}

static const WanType any_type[] = { WAN_F32, WAN_BF16, WAN_F16, WAN_F8_E4M3 };

/* Any type; a fifth of them convolutions; a quarter three matrices in one
 * page, each of its own type, the second hardly a row. Of the others most may
 * be rounded to e4m3, and half of these have the sides for it. A seventh is in
 * blocks. */
static void make_matrix(Fixture *f, int i)
{
    const int blocks = i % 7 == 6;
    const WanType from = !blocks ? any_type[i % 4] :
                         i % 2 ? WAN_Q8_0 : WAN_Q4_K, act = f->backend.act;
    const WanTensor x = wan_tensor_of(NULL, act, 1, 1);
    const int conv = !blocks && i % 5 == 0, parts = !conv && i % 4 == 2 ? 3 : 1;
    const int even = !conv && parts == 1 && i % 3 && i / 4 % 2 == 0;
    const int64_t O = 5 + i % 7, I = 8 + i % 3;
    const int64_t K = blocks ? 256 : (100 + i * 7 % 60) / (even ? 16 : 1) *
                                     (even ? 16 : 1);
    WanTensor t[3] = {
        conv ? wan_tensor_of(NULL, from, O, I, 3, 3, 3)
             : wan_tensor_of(NULL, from, even ? 32 : 11 + i % 13, K),
        wan_tensor_of(NULL, any_type[(i + 1) % 4], 1, K),
        wan_tensor_of(NULL, any_type[(i + i / 4) % 4], 7 + i % 11, K),
    };
    int64_t n = 0;
    char *want;

    for (int k = 0; k < parts; k++)
        n += wan_count(&t[k]);
    f->e4m3[i] = !conv && parts == 1 && i % 3;
    f->bytes[i] = wan_cuda_page_bytes(&t[0], f->e4m3[i], &x, &f->type[i]);
    if (parts == 1)
        CHECK(f->type[i] == (act == WAN_F32 || conv ? act :
                             from == WAN_F8_E4M3 || even ? WAN_F8_E4M3
                                                         : WAN_BF16));
    else
        f->bytes[i] = n * wan_type_size(f->type[i] = act);
    CHECK(f->bytes[i] == n * wan_type_size(f->type[i]));
    f->want[i] = want = malloc(f->bytes[i]);
    f->w[i] = make_part(t[0], conv, f->type[i], &want, &f->scale[i]);
    for (int k = 1; k < parts; k++)
        f->more[i][k - 1] = make_part(t[k], 0, act, &want, &f->scale[i]);
}

/* The parts of matrix i; how many. */
static int parts_of(const Fixture *f, int i, const WanTensor **w)
{
    w[0] = &f->w[i];
    w[1] = &f->more[i][0];
    w[2] = &f->more[i][1];
    return w[1]->nb_dims ? 3 : 1;
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
                for (int k = i; k < i + 6 && k < end; k++) {
                    const WanTensor *w[WAN_PAGE_PARTS];
                    const int n = parts_of(f, k, w);

                    wan_pager_note_parts(p, n, w, w[0]->nb_dims == 5,
                                         f->type[k], f->bytes[k]);
                }
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
        free(f->more[i][0].data);
        free(f->more[i][1].data);
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
    const WanTensor *w[WAN_PAGE_PARTS];
    const int n = parts_of(f, i, w);
    float scale = 1;
    const void *p = w[0]->nb_dims == 5 ? wan_cuda_weight(d, w[0]) :
                    n > 1 ? wan_cuda_matrices(d, n, w, f->type[i])
                          : wan_cuda_matrix(d, w[0], f->type[i], &scale);

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

/* Vectors one behind the other, in each type once, where the last bytes of the
 * arena are for them; what is in the arena is used only if it lies so. */
TEST(vectors_as_one)
{
    Fixture *f = fixture(WAN_BF16, 8, 7);
    WanDev *d = &f->dev;
    char want[2][4 * 60], *end[2] = { want[0], want[1] };
    WanTensor v[3], in[3];
    float one;
    const WanTensor *const p[] = { &v[0], &v[1], &v[2] };
    const WanTensor *const q[] = { &in[0], &in[1], &in[2] };

    wan_cuda_weights_stage(d, 0);
    wrong = compared = conversions = 0;
    for (int i = 0; i < 3; i++) {
        char *bf16 = end[1];

        v[i] = make_part(wan_tensor_of(NULL, WAN_F32, 10 + 10 * i, 1), 0,
                         WAN_F32, &end[0], &one);
        for (int64_t k = 0; k < wan_count(&v[i]); k++, bf16 += 2) {
            const uint16_t h = wan_f32_to_bf16(((float *)v[i].data)[k]);

            memcpy(bf16, &h, 2);
        }
        end[1] = bf16;
        v[i] = wan_reshape(&v[i], wan_count(&v[i]));
    }
    for (int k = 0; k < 4; k++) {
        const WanType type = k & 1 ? WAN_BF16 : WAN_F32;
        const char *at = wan_cuda_vectors(d, 3, p, type);

        CHECK(at >= d->base + d->size / WAN_PAGE_ALIGN * WAN_PAGE_ALIGN - 1024 &&
              at < d->base + d->size);
        put(f->cuda.stream, (Item){ COMPARE, (void *)at, want[k & 1],
                                    60 * wan_type_size(type), NULL, 0 });
    }
    CHECK(wan_cuda_vectors(d, 1, p, WAN_F32) !=
          wan_cuda_vectors(d, 3, p, WAN_F32));
    cudaStreamSynchronize(f->cuda.stream);
    CHECK(compared == 4 && !wrong && !d->error);

    memcpy(d->base, want[0], sizeof(want[0]));
    for (int i = 0; i < 3; i++) {
        in[i] = v[i];
        in[i].data = i ? (float *)in[i - 1].data + wan_count(&in[i - 1])
                       : (void *)d->base;
    }
    CHECK(wan_cuda_vectors(d, 3, q, WAN_F32) == d->base);
    CHECK(!conversions);
    /* in another type it is converted, once, where it is */
    const char *bf16 = wan_cuda_vectors(d, 3, q, WAN_BF16);

    CHECK(bf16 && !memcmp(bf16, want[1], 2 * 60));
    CHECK(wan_cuda_vectors(d, 3, q, WAN_BF16) == bf16 && conversions == 1);
    in[2].data = (float *)in[2].data + 1;
    CHECK(!wan_cuda_vectors(d, 3, q, WAN_F32) && !d->error);
    CHECK(!wan_cuda_vectors(d, 3, q, WAN_BF16) && !d->error);
    for (int i = 0; i < 3; i++)
        free(v[i].data);
    fixture_free(f);
}

int main(void)
{
    RUN(everything_stays);
    RUN(much_passes_through);
    RUN(uses_that_are_skipped);
    RUN(cancel_while_waiting);
    RUN(without_a_pager);
    RUN(vectors_as_one);
    return test_end();
}
