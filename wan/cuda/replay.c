/*
 * Work that comes again: launches kept as a CUDA graph.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The first time a stretch is issued as it is, so that plans are made, code is
 * loaded and weights arrive, none of which may happen while a stream records.
 * The second time the stream records, and what it has is launched as one;
 * later it is launched at once. What a stretch reads and writes from outside,
 * and where the arena stood, must be the same, else it begins anew. Numbers
 * that kernels get by value are not compared: they may depend on shapes alone.
 *
 * What is more work than the host may run ahead stays op by op: launches are
 * nothing beside it, and a cancelled job would end later.
 *
 * Nothing is recorded while weights pass through a ring: their places change.
 * Recording may fail, as a library may do what it must not: then the stretch
 * is issued once more, and after some failures nothing is recorded any more.
 * No job fails for it.
 */

#include <stdlib.h>
#include <string.h>

#include "cuda.h"

#define FAILURES 3              // then it is left

/* A stretch as it was last asked for. */
typedef struct Stretch {
    int key;
    int nb_in;
    WanTensor in[WAN_REPLAY_TENSORS];
    WanMark mark;               // of the arena
    int seen;                   // it was issued once
    cudaGraphExec_t exec;       // NULL: not recorded
    double flops, bytes;        // of its ops
    int64_t uses;               // of weights, in the pager's order
} Stretch;

typedef struct WanCudaReplay {
    Stretch *stretch;
    int nb, failures;
    int now;                    // the one being issued, -1: none

    double flops, bytes;        // the device's when it began
    int64_t turn;               // the pager's
    const WanLog *log;          // the device's, which is silent while the
                                // stream records
} WanCudaReplay;

static WanCudaReplay *state(WanCuda *c)
{
    if (!c->replay && (c->replay = calloc(1, sizeof(*c->replay))))
        c->replay->now = -1;
    return c->replay;
}

static int same_tensor(const WanTensor *a, const WanTensor *b)
{
    int same = a->data == b->data && a->type == b->type &&
               a->nb_dims == b->nb_dims && a->pitch == b->pitch;

    for (int i = 0; same && i < a->nb_dims; i++)
        same = a->dim[i] == b->dim[i];
    return same;
}

static int same(const WanDev *d, const Stretch *s, int nb, const WanTensor *in)
{
    int same = s->nb_in == nb && s->mark == wan_mark(d);

    for (int i = 0; same && i < nb; i++)
        same = same_tensor(&s->in[i], &in[i]);
    return same;
}

static void drop(Stretch *s)
{
    if (s->exec)
        cudaGraphExecDestroy(s->exec);
    s->exec = NULL;
    s->seen = 0;
}

/* The stretch of that key, as it is asked for now; -1: no memory. */
static int find(WanDev *d, WanCudaReplay *r, int key, int nb,
                const WanTensor *in)
{
    Stretch *s;
    int i = 0;

    while (i < r->nb && r->stretch[i].key != key)
        i++;
    if (i == r->nb) {
        s = realloc(r->stretch, (r->nb + 1) * sizeof(*s));
        if (!s)
            return -1;
        r->stretch = s;
        s[r->nb++] = (Stretch){ .key = key, .nb_in = -1 };
    }
    s = &r->stretch[i];
    if (!same(d, s, nb, in)) {
        if (s->exec)            // it may be under way
            cudaStreamSynchronize(wan_cuda_stream(d));
        drop(s);
        s->nb_in = nb;
        memcpy(s->in, in, nb * sizeof(*in));
        s->mark = wan_mark(d);
    }
    return i;
}

/* A recording, or the launch of one, did not work: said once. */
static void failed(WanDev *d, WanCudaReplay *r, Stretch *s, const char *why)
{
    cudaGetLastError();
    drop(s);
    if (!r->failures++)
        wan_log(d->log, WAN_LOG_DEBUG, "cuda: stretch %d is launched op by op: "
                "%s", s->key, why);
}

/* Launch what was recorded, and count it as if it was issued. */
static int launch(WanDev *d, WanCudaReplay *r, Stretch *s)
{
    const cudaError_t e = cudaGraphLaunch(s->exec, wan_cuda_stream(d));

    if (e) {
        failed(d, r, s, cudaGetErrorString(e));
        return 0;
    }
    d->flops += s->flops;
    d->bytes += s->bytes;
    wan_cuda_weights_skip(d, s->uses);
    return 1;
}

static void record(WanDev *d, WanCuda *c, WanCudaReplay *r, Stretch *s)
{
    /* Of this thread alone: others load weights meanwhile. */
    const cudaError_t e = cudaStreamBeginCapture(c->stream,
                                       cudaStreamCaptureModeThreadLocal);

    if (e) {
        failed(d, r, s, cudaGetErrorString(e));
        return;
    }
    c->recording = 1;
    r->log = d->log;
    d->log = NULL;              // what fails now is tried again
}

static int begin(WanDev *d, WanCuda *c, WanCudaReplay *r, int key, int nb,
                 const WanTensor *in)
{
    const int i = find(d, r, key, nb, in);

    if (i < 0)
        return 1;
    if (r->stretch[i].exec && launch(d, r, &r->stretch[i]))
        return 0;
    r->now = i;
    r->flops = d->flops;
    r->bytes = d->bytes;
    r->turn = wan_cuda_weights_turn(d);
    if (r->stretch[i].seen && r->failures < FAILURES &&
        r->stretch[i].flops <= WAN_CUDA_PACE_FLOPS)
        record(d, c, r, &r->stretch[i]);
    return 1;
}

/* The stream has recorded: make a graph of it and launch it. 1: it must be
 * issued once more. */
static int end_record(WanDev *d, WanCuda *c, WanCudaReplay *r, Stretch *s)
{
    cudaGraph_t graph = NULL;
    cudaError_t e = cudaStreamEndCapture(c->stream, &graph);

    c->recording = 0;
    d->log = r->log;
    s->bytes = d->bytes - r->bytes;
    s->uses = wan_cuda_weights_turn(d) - r->turn;
    if (!e && !d->error)
        e = cudaGraphInstantiate(&s->exec, graph, 0);
    if (!e && !d->error)
        e = cudaGraphLaunch(s->exec, c->stream);
    if (graph)
        cudaGraphDestroy(graph);
    if (!e && !d->error)
        return 0;
    if (d->error == WAN_CANCELLED) {
        cudaGetLastError();
        drop(s);
        return 0;
    }
    failed(d, r, s, d->error ? d->message : cudaGetErrorString(e));
    d->error = 0;
    d->message[0] = 0;
    d->flops = r->flops;
    d->bytes = r->bytes;
    return 1;
}

int wan_cuda_replay(WanDev *d, int key, int nb, const WanTensor *in)
{
    WanCuda *c = wan_cuda(d);
    WanCudaReplay *r = state(c);

    if (!r)
        return !d->replaying;
    if (!d->replaying)
        return wan_cuda_weights_stay(d) ? begin(d, c, r, key, nb, in) : 1;
    if (r->now < 0)             // it was issued, and nobody took note
        return 0;
    if (c->recording && end_record(d, c, r, &r->stretch[r->now]))
        return 1;
    r->stretch[r->now].flops = d->flops - r->flops;
    r->stretch[r->now].seen = !d->error;
    r->now = -1;
    return 0;
}

void wan_cuda_replay_forget(WanDev *d)
{
    WanCudaReplay *r = wan_cuda(d)->replay;
    int some = 0;

    for (int i = 0; r && i < r->nb; i++)
        some |= r->stretch[i].exec != NULL;
    if (some)                   // they may be under way
        cudaStreamSynchronize(wan_cuda_stream(d));
    for (int i = 0; r && i < r->nb; i++)
        drop(&r->stretch[i]);
}

void wan_cuda_replay_close(WanDev *d)
{
    WanCuda *c = wan_cuda(d);

    if (!c->replay)
        return;
    wan_cuda_replay_forget(d);
    free(c->replay->stretch);
    free(c->replay);
    c->replay = NULL;
}
