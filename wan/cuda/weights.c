/*
 * Weights on the device: who copies what the pager wants.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A few threads read the mapped files, convert and lay out what they read, in
 * page-locked buffers of their own, and put the copies on a stream beside the
 * computing one. Events go both ways: a matrix is computed with when its copy
 * is over, and its place is given to another when its last use is over. The
 * order is the pager's; results do not depend on who is faster.
 *
 * A matrix that is rounded to e4m3 is read twice, the first time for its
 * largest number, which decides the scale of all of it.
 *
 * Without a pager (tests of ops and models) a weight is copied when it is
 * first used, into memory of its own, and stays.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nccl.h"

#define THREADS 4                       // page cache to page-locked memory:
                                        // about 10 GB/s each
#define BUFFERS 2                       // a thread fills one, one is copied
#ifndef CHUNK                           // a test has small ones
#define CHUNK (INT64_C(8) << 20)        // bytes of a buffer
#endif

#define PIECE 256                       // numbers converted at a time: whole
                                        // blocks of any type

/* A weight that stays in memory of its own, or a vector; or some of them one
 * behind the other. */
typedef struct Kept {
    const void *key;                    // of the first
    int64_t count;                      // of all
    WanType type;
    void *data;
    int owned;                          // by cudaMalloc()
    float scale;                        // of what was rounded to e4m3, else 1
} Kept;

/* What a page of the running stage has besides. */
typedef struct Copy {
    cudaEvent_t loaded, used;
    int64_t rows_begun, rows_left;      // given to threads; not yet issued
    int waited;                         // the computing stream has
    int measuring;                      // rows are read for amax, not copied
    uint32_t amax;                      // bits of the largest magnitude so far
    float scale;                        // 0: not known yet
} Copy;

/* Some rows of a page. */
typedef struct Chunk {
    WanPage *page;
    int64_t row, rows;
    int measure;
    float scale;
} Chunk;

typedef struct WanCudaWeights {
    WanDev *d;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t thread[THREADS];
    int nb_threads, ready;              // ready: lock and conditions exist
    int quit, busy;                     // busy: chunks in the hands of threads
    cudaError_t error;                  // of a thread
    WanPage *current;                   // handed out chunk by chunk
    Copy *copies;                       // of the running stage's pages
    int nb_copies;
    char *region;                       // of the running stage
    cudaEvent_t turn[2];                // from stage to stage

    WanPage *in_use[8];                 // pages of the ring, by this entry
    int nb_in_use;

    Kept *kept;                         // hashed by key
    int nb_kept, kept_size;             // a power of two
    char *vectors, *vectors_end;        // in the arena
} WanCudaWeights;

/* ----------------------------------------------------------- conversion */

static uint16_t round_bf16(uint32_t u)
{
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);      // NaN stays one
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Whether a matrix' numbers change with a scale on their way. */
static int rounds(WanType to, WanType from)
{
    return to == WAN_F8_E4M3 && from != to;
}

/* The bits of the largest of n magnitudes, which order as integers do; of a
 * NaN, if there is one. */
static uint32_t measure(const void *src, WanType from, int64_t n)
{
    uint32_t amax = 0, u[PIECE];
    float f[PIECE];

    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t m = n - i < PIECE ? n - i : PIECE;

        wan_to_f32(f, (const char *)src + wan_type_bytes(from, i), from, m, 1);
        memcpy(u, f, m * sizeof(*u));
        for (int64_t k = 0; k < m; k++)
            amax = (u[k] & 0x7fffffff) > amax ? u[k] & 0x7fffffff : amax;
    }
    return amax;
}

/* What e4m3 is multiplied with so that its 448 is the largest number. */
static float scale_of(uint32_t amax)
{
    float f;

    memcpy(&f, &amax, sizeof(f));
    return amax ? f / 448 : 1;
}

/* n elements from any float type or one in blocks, at any alignment, to F32,
 * BF16 or, divided by the scale, e4m3. */
static void convert(void *dst, WanType to, const void *src, WanType from,
                    int64_t n, float scale)
{
    const unsigned char *s = src;
    uint16_t *d = dst;

    if (to == from) {
        memcpy(dst, src, n * wan_type_size(to));
    } else if (to == WAN_F32) {
        wan_to_f32(dst, src, from, n, 1);
    } else if (from == WAN_F32 && to == WAN_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint32_t u;

            memcpy(&u, s + 4 * i, 4);
            d[i] = round_bf16(u);
        }
    } else {
        float f[PIECE];

        for (int64_t i = 0; i < n; i += PIECE) {
            const int64_t m = n - i < PIECE ? n - i : PIECE;

            wan_to_f32(f, s + wan_type_bytes(from, i), from, m, 1);
            if (to == WAN_F8_E4M3) {
                wan_to_e4m3((uint8_t *)dst + i, f, m, 1 / scale);
                continue;
            }
            for (int64_t k = 0; k < m; k++) {
                uint32_t u;

                memcpy(&u, &f[k], 4);
                d[i + k] = round_bf16(u);
            }
        }
    }
}

/* Rows of a matrix: the first dimension. */
static int64_t row_count(const WanTensor *w)
{
    return wan_count(w) / w->dim[0];
}

/* Of some, one behind the other. */
static int64_t all_rows(int n, const WanTensor *w)
{
    int64_t rows = 0;

    while (n-- > 0)
        rows += w[n].dim[0];
    return rows;
}

static int64_t all_count(int n, const WanTensor *w)
{
    int64_t count = 0;

    while (n-- > 0)
        count += wan_count(&w[n]);
    return count;
}

/* Rows [row, row + rows) of w in the device's type and layout; one row's
 * worth of memory behind the result is used too. */
static void fill_part(char *dst, const WanTensor *w, int conv, WanType type,
                      float scale, int64_t row, int64_t rows)
{
    const int64_t n = row_count(w), size = wan_type_size(type);
    const char *src = (const char *)w->data + wan_type_bytes(w->type, row * n);
    const int64_t I = conv ? w->dim[1] : n, taps = n / I;
    char *tmp = dst + rows * n * size;

    if (taps == 1) {
        convert(dst, type, src, w->type, rows * n, scale);
        return;
    }
    /* [I, taps] to [taps, I] */
    for (int64_t r = 0; r < rows; r++, dst += n * size) {
        convert(tmp, type, src + wan_type_bytes(w->type, r * n), w->type, n,
                scale);
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < I; i++)
                memcpy(dst + (t * I + i) * size, tmp + (i * taps + t) * size,
                       size);
    }
}

/* The same of n matrices one behind the other. */
static void fill(char *dst, int n, const WanTensor *w, int conv, WanType type,
                 float scale, int64_t row, int64_t rows)
{
    for (int i = 0; i < n && rows; i++) {
        const int64_t left = w[i].dim[0] - row;
        const int64_t here = left < rows ? left : rows;

        if (left <= 0) {
            row -= w[i].dim[0];
            continue;
        }
        fill_part(dst, &w[i], conv, type, scale, row, here);
        dst += here * row_count(&w[i]) * wan_type_size(type);
        rows -= here;
        row = 0;
    }
}

WanType wan_cuda_matrix_type(const WanTensor *w, int e4m3, const WanTensor *x)
{
    const int64_t N = w->dim[0], K = wan_count(w) / N;

    if (x->type != WAN_BF16 || w->nb_dims == 5)
        return x->type;
    if (w->type == WAN_F8_E4M3)
        return WAN_F8_E4M3;
    return e4m3 && N % 16 == 0 && K % 16 == 0 ? WAN_F8_E4M3 : WAN_BF16;
}

int64_t wan_cuda_page_bytes(const WanTensor *w, int e4m3, const WanTensor *x,
                            WanType *type)
{
    *type = wan_cuda_matrix_type(w, e4m3, x);
    return wan_count(w) * wan_type_size(*type);
}

/* ------------------------------------------------- what stays by itself */

static Kept *look(WanCudaWeights *w, const void *key, int64_t count,
                  WanType type)
{
    uint64_t h = (uintptr_t)key * UINT64_C(0x9e3779b97f4a7c15) >> 20;

    for (;; h++) {
        Kept *k = &w->kept[h & (w->kept_size - 1)];

        if (!k->key || (k->key == key && k->count == count && k->type == type))
            return k;
    }
}

static int grow_kept(WanCudaWeights *w)
{
    const int size = w->kept_size ? 2 * w->kept_size : 1024;
    Kept *old = w->kept, *more = calloc(size, sizeof(*more));
    const int n = w->kept_size;

    if (!more)
        return 0;
    w->kept = more;
    w->kept_size = size;
    for (int i = 0; i < n; i++)
        if (old[i].key)
            *look(w, old[i].key, old[i].count, old[i].type) = old[i];
    free(old);
    return 1;
}

/* The copy of n tensors, one behind the other, that is made once, when it is
 * first asked for. One alone may be rounded to e4m3. */
static const void *keep(WanDev *d, int n, const WanTensor *t, int conv,
                        WanType type, float *scale)
{
    WanCudaWeights *w = wan_cuda(d)->weights;
    const int64_t count = all_count(n, t), bytes = count * wan_type_size(type);
    const int64_t place = (bytes + WAN_PAGE_ALIGN - 1) / WAN_PAGE_ALIGN *
                          WAN_PAGE_ALIGN;
    Kept *k;
    char *host;

    if (2 * w->nb_kept >= w->kept_size && !grow_kept(w)) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for a table of weights");
        return NULL;
    }
    k = look(w, t->data, count, type);
    *scale = k->scale;
    if (k->key)
        return k->data;

    *k = (Kept){ t->data, count, type, NULL, 0, 1 };
    if (rounds(type, t->type))
        k->scale = scale_of(measure(t->data, t->type, count));
    *scale = k->scale;
    if (t->nb_dims < 5 && place <= w->vectors_end - w->vectors) {
        k->data = w->vectors;
        w->vectors += place;
    } else {
        if (!wan_cuda_ok(d, cudaMalloc(&k->data, bytes), "memory for a weight"))
            goto fail;
        k->owned = 1;
    }
    w->nb_kept++;
    if (wan_cuda_is_device(d, t->data) && !rounds(type, t->type)) {
        const int64_t row = row_count(t), I = conv ? t->dim[1] : row;

        /* A bench's, which no host reads. */
        wan_cuda_convert(wan_cuda_stream(d), k->data, type, t->data, t->type,
                         all_rows(n, t), I, row / I, 1);
        wan_cuda_launched(d, "loading");
        return d->error ? NULL : k->data;
    }
    if (n == 1 && !conv && t->type == type) {
        /* The runtime has read a model's memory, which is not page-locked,
         * when this returns. */
        wan_cuda_ok(d, cudaMemcpyAsync(k->data, t->data, bytes,
                                       cudaMemcpyHostToDevice,
                                       wan_cuda_stream(d)), "loading");
        return d->error ? NULL : k->data;
    }
    host = malloc(bytes + row_count(t) * wan_type_size(type));
    if (!host) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory to load a weight");
        return NULL;
    }
    fill(host, n, t, conv, type, *scale, 0, all_rows(n, t));
    if (wan_cuda_ok(d, cudaMemcpyAsync(k->data, host, bytes,
                                       cudaMemcpyHostToDevice,
                                       wan_cuda_stream(d)), "loading"))
        wan_cuda_wait(d, "loading");
    free(host);
    return d->error ? NULL : k->data;
fail:
    *k = (Kept){ 0 };
    return NULL;
}

void wan_cuda_weights_forget(WanDev *d)
{
    WanCudaWeights *w = wan_cuda(d)->weights;

    wan_cuda_replay_forget(d);
    cudaStreamSynchronize(wan_cuda_stream(d));
    for (int i = 0; i < w->kept_size; i++)
        if (w->kept[i].owned)
            cudaFree(w->kept[i].data);
    free(w->kept);
    w->kept = NULL;
    w->nb_kept = w->kept_size = 0;
}

/* --------------------------------------------------------------- threads */

static Copy *copy_of(const WanPage *page)
{
    return page->opaque;
}

static int64_t page_rows(const WanPage *page)
{
    return all_rows(page->parts, page->weight);
}

/* Rows that a buffer holds, and one to turn a convolution round in. */
static int64_t chunk_rows(const WanPage *page)
{
    const int64_t row = row_count(page->weight) * wan_type_size(page->type);

    return CHUNK / row > 1 ? CHUNK / row - 1 : 0;
}

/* All rows of a page are still to be read: once, or, where they have a scale
 * that is not known, twice. Those have one part. */
static void begin_copy(WanPage *page)
{
    Copy *copy = copy_of(page);
    const int scaled = rounds(page->type, page->weight->type);

    copy->rows_begun = 0;
    copy->rows_left = page_rows(page);
    copy->measuring = scaled && !copy->scale;
    if (!scaled)
        copy->scale = 1;
}

/* Under the lock: the next piece of work; 0: none. */
static int claim(WanCudaWeights *w, Chunk *c)
{
    const WanCuda *cuda = wan_cuda(w->d);
    WanPage *after = NULL;
    Copy *copy;
    int64_t left;

    if (w->error)
        return 0;
    if (!w->current) {
        w->current = wan_pager_next(w->d->pager, &after);
        if (!w->current)
            return 0;
        begin_copy(w->current);
        if (after)
            w->error = cudaStreamWaitEvent(cuda->copy_stream,
                                           copy_of(after)->used, 0);
    }
    copy = copy_of(w->current);
    left = page_rows(w->current) - copy->rows_begun;
    if (!left)
        return 0;               // the last rows are being measured
    *c = (Chunk){ w->current, copy->rows_begun, chunk_rows(w->current),
                  copy->measuring, copy->scale };
    if (c->rows > left)
        c->rows = left;
    copy->rows_begun += c->rows;
    if (c->rows == left && !copy->measuring)
        w->current = NULL;
    w->busy++;
    return 1;
}

/* Under the lock: a piece was read for its largest number. */
static void measured(WanCudaWeights *w, const Chunk *c, uint32_t amax)
{
    Copy *copy = copy_of(c->page);

    if (amax > copy->amax)
        copy->amax = amax;
    if (!(copy->rows_left -= c->rows)) {
        copy->scale = scale_of(copy->amax);
        begin_copy(c->page);
    }
    w->busy--;
    pthread_cond_broadcast(&w->done);
}

/* Under the lock: a piece is on its way. */
static void finish(WanCudaWeights *w, const Chunk *c, cudaError_t e)
{
    Copy *copy = copy_of(c->page);

    if (!e && !(copy->rows_left -= c->rows)) {
        e = cudaEventRecord(copy->loaded, wan_cuda(w->d)->copy_stream);
        copy->waited = 0;
        c->page->state = WAN_PAGE_COPIED;
    }
    if (e && !w->error)
        w->error = e;
    w->busy--;
    pthread_cond_broadcast(&w->done);
}

static uint32_t measure_rows(const Chunk *c)
{
    const WanTensor *t = c->page->weight;
    const int64_t n = row_count(t);

    return measure((const char *)t->data +
                   wan_type_bytes(t->type, c->row * n), t->type, c->rows * n);
}

static void *copier(void *arg)
{
    WanCudaWeights *w = arg;
    const WanCuda *cuda = wan_cuda(w->d);
    char *buffer[BUFFERS] = { NULL };
    cudaEvent_t copied[BUFFERS] = { NULL };
    cudaError_t e = cudaSuccess;
    unsigned turn = 0;
    Chunk c;

    wan_cuda_adopt_thread(cuda);
    for (int i = 0; i < BUFFERS && !e; i++) {
        e = cudaHostAlloc((void **)&buffer[i], CHUNK, cudaHostAllocDefault);
        if (!e)
            e = cudaEventCreateWithFlags(&copied[i], cudaEventDisableTiming |
                                                     cudaEventBlockingSync);
    }

    pthread_mutex_lock(&w->lock);
    if (e)
        w->error = e;
    while (!w->quit) {
        if (!claim(w, &c)) {
            pthread_cond_wait(&w->work, &w->lock);
            continue;
        }
        pthread_cond_broadcast(&w->work);       // there may be more
        const WanPage *page = c.page;
        const int64_t row = row_count(page->weight) *
                            wan_type_size(page->type);
        char *dst = w->region + page->place + c.row * row;

        if (c.measure) {
            pthread_mutex_unlock(&w->lock);
            const uint32_t amax = measure_rows(&c);

            pthread_mutex_lock(&w->lock);
            measured(w, &c, amax);
            continue;
        }
        const int b = turn++ % BUFFERS;

        pthread_mutex_unlock(&w->lock);
        e = cudaEventSynchronize(copied[b]);
        if (!e) {
            fill(buffer[b], page->parts, page->weight, page->conv, page->type,
                 c.scale, c.row, c.rows);
            e = cudaMemcpyAsync(dst, buffer[b], c.rows * row,
                                cudaMemcpyHostToDevice, cuda->copy_stream);
        }
        if (!e)
            e = cudaEventRecord(copied[b], cuda->copy_stream);
        pthread_mutex_lock(&w->lock);
        finish(w, &c, e);
    }
    pthread_mutex_unlock(&w->lock);

    for (int i = 0; i < BUFFERS; i++) {
        if (copied[i]) {
            cudaEventSynchronize(copied[i]);
            cudaEventDestroy(copied[i]);
        }
        if (buffer[i])
            cudaFreeHost(buffer[i]);
    }
    return NULL;
}

/* --------------------------------------------------------------- stages */

static void free_copies(WanCudaWeights *w)
{
    for (int i = 0; i < w->nb_copies; i++) {
        if (w->copies[i].loaded)
            cudaEventDestroy(w->copies[i].loaded);
        if (w->copies[i].used)
            cudaEventDestroy(w->copies[i].used);
    }
    free(w->copies);
    w->copies = NULL;
    w->nb_copies = 0;
}

static int alloc_copies(WanDev *d, WanCudaWeights *w, WanPagerStage *s)
{
    w->copies = calloc(s->nb_pages + 1, sizeof(*w->copies));
    if (!w->copies) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for a list of weights");
        return 0;
    }
    w->nb_copies = s->nb_pages;
    for (int i = 0; i < s->nb_pages; i++) {
        Copy *c = &w->copies[i];

        s->page[i].opaque = c;
        if (!chunk_rows(&s->page[i])) {
            wan_dev_fail(d, WAN_ERR(ENOSYS), "a weight of %lld columns is too "
                         "wide", (long long)row_count(s->page[i].weight));
            return 0;
        }
        if (!wan_cuda_ok(d, cudaEventCreateWithFlags(&c->loaded,
                         cudaEventDisableTiming), "an event") ||
            !wan_cuda_ok(d, cudaEventCreateWithFlags(&c->used,
                         cudaEventDisableTiming), "an event"))
            return 0;
    }
    return 1;
}

/* No thread has work, and none will get any. */
static void drain(WanCudaWeights *w)
{
    pthread_mutex_lock(&w->lock);
    w->current = NULL;
    if (w->d->pager)
        w->d->pager->now = NULL;
    while (w->busy)
        pthread_cond_wait(&w->done, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

void wan_cuda_weights_stage(WanDev *d, int stage)
{
    const WanCuda *cuda = wan_cuda(d);
    WanCudaWeights *w = cuda->weights;
    WanPagerStage *s = &d->pager->stage[stage];
    const int threads = d->threads < THREADS ? d->threads : THREADS;

    if (!w->vectors) {
        w->vectors_end = d->base + d->size / WAN_PAGE_ALIGN * WAN_PAGE_ALIGN;
        w->vectors = w->vectors_end - d->pager->vectors / WAN_PAGE_ALIGN *
                                      WAN_PAGE_ALIGN;
    }
    if (cuda->nccl)             // threads wait for the device below
        wan_cuda_wait(d, "stage");
    wan_cuda_replay_forget(d);
    drain(w);
    free_copies(w);
    /* What computes still may read the last stage's weights where the new
     * ones go, and what is on its way may land where the arena will be. */
    if (!wan_cuda_ok(d, cudaEventRecord(w->turn[0], cuda->stream), "stage") ||
        !wan_cuda_ok(d, cudaStreamWaitEvent(cuda->copy_stream, w->turn[0], 0),
                     "stage") ||
        !wan_cuda_ok(d, cudaEventRecord(w->turn[1], cuda->copy_stream),
                     "stage") ||
        !wan_cuda_ok(d, cudaStreamWaitEvent(cuda->stream, w->turn[1], 0),
                     "stage") ||
        !alloc_copies(d, w, s))
        return;

    pthread_mutex_lock(&w->lock);
    d->top = (s->work + WAN_PAGE_ALIGN - 1) / WAN_PAGE_ALIGN * WAN_PAGE_ALIGN;
    w->region = d->base + d->top;
    wan_pager_begin(d->pager, stage);
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
    while (w->nb_threads < threads) {
        if (pthread_create(&w->thread[w->nb_threads], NULL, copier, w)) {
            wan_dev_fail(d, WAN_ERR(ENOMEM), "no thread to load weights with");
            return;
        }
        w->nb_threads++;
    }
}

/* ------------------------------------------------------------ for entries */

/* Wait for a thread, but not longer than the user wants. */
static void wait_done(WanCudaWeights *w)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 50000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&w->done, &w->lock, &t);
}

/* The place of a page of n matrices that is being paged; NULL: it is not, or d
 * failed. */
static const void *paged(WanDev *d, int n, const WanTensor *t, WanType type,
                         float *scale)
{
    const WanCuda *cuda = wan_cuda(d);
    WanCudaWeights *w = cuda->weights;
    WanPage *page;
    Copy *copy;
    int ready;

    if (!d->pager)
        return NULL;
    pthread_mutex_lock(&w->lock);
    page = wan_pager_use(d->pager, t);
    if (!page || page->type != type || page->parts != n) {
        pthread_mutex_unlock(&w->lock);
        return NULL;
    }
    pthread_cond_broadcast(&w->work);
    while (page->state != WAN_PAGE_COPIED && !w->error && !d->error &&
           !wan_dev_cancelled(d)) {
        wait_done(w);
        if (cuda->nccl)         // its place may be freed behind their data
            wan_nccl_look(d);
    }
    ready = page->state == WAN_PAGE_COPIED;
    *scale = copy_of(page)->scale;
    pthread_mutex_unlock(&w->lock);
    if (d->error)
        return NULL;
    if (!ready) {
        if (w->error)
            wan_cuda_ok(d, w->error, "loading weights");
        else
            wan_dev_fail(d, WAN_CANCELLED, "cancelled");
        return NULL;
    }

    copy = copy_of(page);
    if (!copy->waited) {
        if (!wan_cuda_ok(d, cudaStreamWaitEvent(cuda->stream, copy->loaded, 0),
                         "loading weights"))
            return NULL;
        copy->waited = 1;
    }
    if (!page->stays && w->nb_in_use < 8)
        w->in_use[w->nb_in_use++] = page;
    return w->region + page->place;
}

void wan_cuda_weights_used(WanDev *d)
{
    const WanCuda *cuda = wan_cuda(d);
    WanCudaWeights *w = cuda->weights;

    for (int i = 0; i < w->nb_in_use; i++)
        wan_cuda_ok(d, cudaEventRecord(copy_of(w->in_use[i])->used,
                                       cuda->stream), "a weight's use");
    w->nb_in_use = 0;
}

/* Whether they have one type and each begins where the one before ends. */
static int adjacent(int n, const WanTensor *t)
{
    for (int i = 1; i < n; i++)
        if (t[i].type != t->type ||
            (const char *)t[i].data != (const char *)t[i - 1].data +
            wan_type_bytes(t[i - 1].type, wan_count(&t[i - 1])))
            return 0;
    return 1;
}

static const void *find(WanDev *d, const WanTensor *t, int conv, WanType type,
                        float *scale)
{
    const void *p;

    *scale = 1;
    if (wan_cuda_is_device(d, t->data) && t->type == type)
        return t->data;
    p = paged(d, 1, t, type, scale);
    return p || d->error ? p : keep(d, 1, t, conv, type, scale);
}

const void *wan_cuda_matrix(WanDev *d, const WanTensor *w, WanType type,
                            float *scale)
{
    return find(d, w, 0, type, scale);
}

const void *wan_cuda_weight(WanDev *d, const WanTensor *w)
{
    float one;

    if (w->nb_dims == 5)
        return find(d, w, 1, wan_cuda_weight_type(d, w), &one);
    if (wan_cuda_is_device(d, w->data))
        return w->data;
    return keep(d, 1, w, 0, WAN_F32, &one);
}

/* Of n, matrices or vectors. */
static const void *find_all(WanDev *d, int n, const WanTensor *const *w,
                            WanType type, int pages)
{
    WanTensor t[WAN_PAGE_PARTS];
    const void *p = NULL;
    float one;

    for (int i = 0; i < n; i++)
        t[i] = *w[i];
    if (wan_cuda_is_device(d, t->data)) {
        if (!adjacent(n, t))
            return NULL;
        if (t->type == type)
            return t->data;
    }
    if (pages)
        p = paged(d, n, t, type, &one);
    return p || d->error ? p : keep(d, n, t, 0, type, &one);
}

const void *wan_cuda_matrices(WanDev *d, int n, const WanTensor *const *w,
                              WanType type)
{
    return find_all(d, n, w, type, 1);
}

const void *wan_cuda_vectors(WanDev *d, int n, const WanTensor *const *v,
                             WanType type)
{
    return find_all(d, n, v, type, 0);
}

/* ----------------------------------------------------------- for replay.c */

int wan_cuda_weights_stay(WanDev *d)
{
    return !d->pager || wan_pager_all_stay(d->pager);
}

int64_t wan_cuda_weights_turn(WanDev *d)
{
    WanCudaWeights *w = wan_cuda(d)->weights;
    int64_t at = 0;

    if (d->pager) {
        pthread_mutex_lock(&w->lock);
        at = d->pager->at;
        pthread_mutex_unlock(&w->lock);
    }
    return at;
}

void wan_cuda_weights_skip(WanDev *d, int64_t n)
{
    WanCudaWeights *w = wan_cuda(d)->weights;

    if (d->pager) {
        pthread_mutex_lock(&w->lock);
        wan_pager_skip(d->pager, n);
        pthread_mutex_unlock(&w->lock);
    }
}

/* ----------------------------------------------------------------- life */

/* One whose deadlines are by the clock that nobody sets. */
static int init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    int ret = pthread_condattr_init(&attr);

    if (ret)
        return ret;
    ret = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (!ret)
        ret = pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
    return ret;
}

int wan_cuda_weights_open(WanDev *d)
{
    WanCudaWeights *w = calloc(1, sizeof(*w));

    if (!w)
        return WAN_ERR(ENOMEM);
    wan_cuda(d)->weights = w;
    w->d = d;
    if (pthread_mutex_init(&w->lock, NULL) ||
        pthread_cond_init(&w->work, NULL) || init_cond(&w->done))
        return WAN_ERR(ENOMEM);
    w->ready = 1;
    for (int i = 0; i < 2; i++)
        if (cudaEventCreateWithFlags(&w->turn[i], cudaEventDisableTiming))
            return WAN_ERR(ENOMEM);
    return 0;
}

void wan_cuda_weights_close(WanDev *d)
{
    WanCuda *cuda = wan_cuda(d);
    WanCudaWeights *w = cuda->weights;

    cuda->weights = NULL;
    if (!w)
        return;
    if (w->ready) {
        pthread_mutex_lock(&w->lock);
        w->quit = 1;
        pthread_cond_broadcast(&w->work);
        pthread_mutex_unlock(&w->lock);
        for (int i = 0; i < w->nb_threads; i++)
            pthread_join(w->thread[i], NULL);
        cudaStreamSynchronize(cuda->copy_stream);
        cudaStreamSynchronize(cuda->stream);
        pthread_cond_destroy(&w->work);
        pthread_cond_destroy(&w->done);
        pthread_mutex_destroy(&w->lock);
    }
    free_copies(w);
    for (int i = 0; i < w->kept_size; i++)
        if (w->kept[i].owned)
            cudaFree(w->kept[i].data);
    free(w->kept);
    for (int i = 0; i < 2; i++)
        if (w->turn[i])
            cudaEventDestroy(w->turn[i]);
    free(w);
}
