/*
 * Data between the cards of several ranks: NCCL, opened at run time.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * An exchange is a group of sends and receives on the stream that computes, so
 * that nobody waits on the host. Its notes have been exchanged before, so every
 * rank issues it or none does: whatever is on a stream will end, but for a rank
 * that dies or fails then. So who waits for the device looks at the others, and
 * gives the communicator up where one is gone, which ends what hangs on it.
 *
 * Nothing waits inside of NCCL either: the communicator does not block, and what
 * a call has begun is asked for until it is over.
 *
 * A communicator is a job's, as its device's context is. NCCL may still be
 * sending from this rank's memory when its own stream is through, so none is
 * taken down before all ranks' streams are (wan_ranks_settle()).
 */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nccl.h"

/* ----------------------------------------------------- what NCCL declares */

/* Of its documented interface what is used; the same since 2.14, the first
 * whose communicators need not block. */
#define LEAST_VERSION 21400

typedef struct Comm *Comm;
typedef struct UniqueId { char internal[128]; } UniqueId;
enum { SUCCESS = 0, IN_PROGRESS = 7 };
enum { UINT8 = 1 };

/* Of 2.14. It has grown at its end: from its version the library knows what is
 * not there. */
typedef struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
} Config;
#define MAGIC 0xcafebeef

struct WanNccl {
    void *lib;
    Comm comm;                  // NULL: not yet, or given up

    int (*GetVersion)(int *version);
    const char *(*GetErrorString)(int result);
    int (*GetUniqueId)(UniqueId *id);
    int (*CommInitRankConfig)(Comm *comm, int size, UniqueId id, int rank,
                              Config *config);
    int (*CommGetAsyncError)(Comm comm, int *result);
    int (*CommAbort)(Comm comm);
    int (*GroupStart)(void);
    int (*GroupEnd)(void);
    int (*Send)(const void *data, size_t count, int type, int rank, Comm comm,
                cudaStream_t stream);
    int (*Recv)(void *data, size_t count, int type, int rank, Comm comm,
                cudaStream_t stream);
};

typedef struct WanNccl WanNccl;

static WanNccl *nccl(const WanDev *d)
{
    return wan_cuda(d)->nccl;
}

static int resolve(WanNccl *n)
{
    const struct { void **fn; const char *name; } symbol[] = {
        { (void **)&n->GetVersion,         "ncclGetVersion" },
        { (void **)&n->GetErrorString,     "ncclGetErrorString" },
        { (void **)&n->GetUniqueId,        "ncclGetUniqueId" },
        { (void **)&n->CommInitRankConfig, "ncclCommInitRankConfig" },
        { (void **)&n->CommGetAsyncError,  "ncclCommGetAsyncError" },
        { (void **)&n->CommAbort,          "ncclCommAbort" },
        { (void **)&n->GroupStart,         "ncclGroupStart" },
        { (void **)&n->GroupEnd,           "ncclGroupEnd" },
        { (void **)&n->Send,               "ncclSend" },
        { (void **)&n->Recv,               "ncclRecv" },
    };

    for (size_t i = 0; i < sizeof(symbol) / sizeof(*symbol); i++)
        if (!(*symbol[i].fn = dlsym(n->lib, symbol[i].name)))
            return 0;
    return 1;
}

/* The library, in n->lib, and its functions. */
static int library(WanNccl *n, const WanLog *log)
{
    static const char *const names[] = { "libnccl.so.2" };
    int version = 0;

    if (!(n->lib = wan_cuda_library(1, names)))
        return wan_error(log, WAN_ERR(ENOSYS), "device cuda: several cards need "
                         "NCCL, and there is no libnccl.so.2; its package is "
                         "libnccl2, or Python's nvidia-nccl-cu12 or -cu13");
    if (!resolve(n) || n->GetVersion(&version) || version < LEAST_VERSION)
        return wan_error(log, WAN_ERR(ENOSYS), "device cuda: libnccl.so.2 is too "
                         "old, several cards need NCCL 2.%d or newer",
                         LEAST_VERSION / 100 % 100);
    return version;
}

/* A library that has been asked for more than its version stays: it has threads
 * of its own. */
int wan_nccl_there(const WanLog *log)
{
    WanNccl n = { 0 };
    const int ret = library(&n, log);

    if (n.lib)
        dlclose(n.lib);
    return ret < 0 ? ret : 0;
}

/* --------------------------------------------------------------- failures */

/* What has begun is broken off, on the device too. */
static void give_up(WanNccl *n)
{
    const Comm comm = n->comm;

    n->comm = NULL;
    if (comm)
        n->CommAbort(comm);
}

/* A wait has ended so; whether it went well. */
static int well(WanDev *d, int ret)
{
    if (ret < 0) {
        wan_dev_end(d, ret);
        give_up(nccl(d));
    }
    return ret >= 0;
}

/* Of a call's result: what it began goes on or has been done. */
static int goes(int result)
{
    return result == SUCCESS || result == IN_PROGRESS;
}

static int fine(WanDev *d, int result, const char *what)
{
    return wan_cuda_check(d, goes(result), what,
                          nccl(d)->GetErrorString(result));
}

/* ------------------------------------------------------------------ waits */

/* What the communicator has begun is done: 1; 0: not yet; WAN_ERR(EIO). */
static int begun(void *arg)
{
    WanDev *d = arg;
    int state = SUCCESS, result;

    if ((result = nccl(d)->CommGetAsyncError(nccl(d)->comm, &state)) == SUCCESS)
        result = state;
    if (!fine(d, result, "NCCL"))
        return WAN_ERR(EIO);
    return result == SUCCESS;
}

static int wait_begun(WanDev *d)
{
    return well(d, wan_ranks_wait_for(d->ranks, begun, d, &d->cancel));
}

typedef struct Wait {
    WanDev *d;
    cudaEvent_t event;
    const char *op;
} Wait;

static int happened(void *arg)
{
    const Wait *w = arg;
    const cudaError_t e = cudaEventQuery(w->event);
    int ret;

    if (e != cudaErrorNotReady)
        return wan_cuda_ok(w->d, e, w->op) ? 1 : WAN_ERR(EIO);
    cudaGetLastError();         // it counts as one
    ret = begun(w->d);
    return ret < 0 ? ret : 0;
}

int wan_nccl_wait(WanDev *d, cudaEvent_t event, const char *op)
{
    Wait w = { d, event, op };

    if (!nccl(d)->comm)         // nothing hangs on the others any more
        return wan_cuda_ok(d, cudaEventSynchronize(event), op);
    return well(d, wan_ranks_wait_for(d->ranks, happened, &w, &d->cancel));
}

int wan_nccl_look(WanDev *d)
{
    int ret;

    if (!nccl(d)->comm)
        return !d->error;
    ret = wan_ranks_look(d->ranks, &d->cancel);
    return well(d, ret < 0 ? ret : begun(d));
}

/* ----------------------------------------------------------------- joining */

/* What ranks tell each other. */
typedef struct Hello {
    UniqueId id;                // of rank 0
    char card[32];              // "0000:17:00.0"
} Hello;

/* A card computes for one rank. */
static int check_cards(WanDev *d, const Hello *hello)
{
    const WanRankInfo *info = d->ranks->info;

    for (int q = 1; q < d->ranks->size; q++)
        for (int p = 0; p < q; p++)
            if (!strcmp(info[p].node, info[q].node) &&
                !strncmp(hello[p].card, hello[q].card, sizeof(hello->card)))
                return wan_error(d->log, WAN_ERR(EINVAL), "ranks %d and %d on "
                                 "%s have one card, %.31s: each needs its own",
                                 p, q, info[q].node, hello[q].card);
    return 0;
}

static int meet(WanDev *d, UniqueId *id)
{
    const WanRanks *r = d->ranks;
    WanParcel out[WAN_MAX_RANKS], in[WAN_MAX_RANKS];
    Hello own = { 0 }, hello[WAN_MAX_RANKS];
    int ret;

    if (!wan_cuda_ok(d, cudaDeviceGetPCIBusId(own.card, sizeof(own.card),
                                              wan_cuda(d)->device), "its bus") ||
        (!r->rank && !fine(d, nccl(d)->GetUniqueId(&own.id), "NCCL: its id")))
        return WAN_ERR(EIO);
    for (int q = 0; q < r->size; q++) {
        out[q] = (WanParcel){ &own, sizeof(own) };
        in[q] = (WanParcel){ &hello[q], sizeof(own) };
    }
    if ((ret = wan_ranks_exchange(d->ranks, out, in, "cards", &d->cancel)) < 0)
        return ret;
    *id = hello->id;
    return check_cards(d, hello);
}

static int join(WanDev *d)
{
    WanNccl *n = nccl(d);
    Config config = { sizeof(config), MAGIC, LEAST_VERSION, 0 };
    UniqueId id;
    int version, ret;

    if ((version = library(n, d->log)) < 0)
        return version;
    if ((ret = meet(d, &id)) < 0)
        return ret;
    if (!fine(d, n->CommInitRankConfig(&n->comm, d->ranks->size, id,
                                       d->ranks->rank, &config),
              "NCCL: joining the cards") || !wait_begun(d))
        return d->error;
    wan_log(d->log, WAN_LOG_VERBOSE, "cuda:%d: NCCL %d.%d.%d between %d cards",
            wan_cuda(d)->device, version / 10000, version / 100 % 100,
            version % 100, d->ranks->size);
    return 0;
}

int wan_nccl_join(WanDev *d)
{
    int ret;

    if (!(wan_cuda(d)->nccl = calloc(1, sizeof(WanNccl))))
        return wan_error_memory(d->log, "NCCL", "its state");
    if ((ret = join(d)) < 0)
        wan_dev_end(d, ret);
    return ret;
}

void wan_nccl_leave(WanDev *d)
{
    WanCuda *c = wan_cuda(d);
    WanNccl *n = c->nccl;
    const int whole = !d->error || d->error == WAN_CANCELLED;
    Wait last = { d, c->pace[0], "ending" };

    if (!n)
        return;
    if (n->comm && whole && !d->ranks->quit && !d->ranks->broken &&
        !cudaEventRecord(last.event, c->stream))
        well(d, wan_ranks_wait_for(d->ranks, happened, &last, &d->cancel));
    else
        give_up(n);
    wan_ranks_settle(d->ranks, n->comm != NULL);
    give_up(n);
    free(n);
    c->nccl = NULL;
}

/* ---------------------------------------------------------------- exchange */

static int move(WanNccl *n, const WanRanks *r, cudaStream_t s,
                const WanParcel *out, const WanParcel *in)
{
    int result = n->GroupStart(), ended;

    /* everybody begins with another */
    for (int i = 1; i < r->size && goes(result); i++) {
        const int to = (r->rank + i) % r->size;
        const int from = (r->rank + r->size - i) % r->size;

        if (out[to].bytes)
            result = n->Send(out[to].data, out[to].bytes, UINT8, to, n->comm, s);
        if (in[from].bytes && goes(result))
            result = n->Recv(in[from].data, in[from].bytes, UINT8, from,
                             n->comm, s);
    }
    ended = n->GroupEnd();
    return goes(result) ? ended : result;
}

/* Threads of one process share locks of the driver. One that waits for its card
 * with such a lock, as loading a kernel may, would keep others from issuing what
 * its card waits for: so none goes on before all have issued theirs. Whoever is
 * cancelled sees it afterwards. */
static void wait_issued(WanDev *d)
{
    const WanParcel none[WAN_MAX_RANKS] = { { 0 } };

    if (wan_ranks_are_threads(d->ranks))
        well(d, wan_ranks_promise(d->ranks, none, none, "issued", NULL));
}

void wan_nccl_exchange(WanDev *d, const WanParcel *out, const WanParcel *in)
{
    const WanRanks *r = d->ranks;
    const WanParcel *from = &out[r->rank], *to = &in[r->rank];

    if (from->bytes && from->data != to->data &&
        !wan_cuda_ok(d, cudaMemcpyAsync(to->data, from->data, from->bytes,
                                        cudaMemcpyDeviceToDevice,
                                        wan_cuda_stream(d)), "exchange"))
        return;
    /* The first one makes connections; what follows is put behind it on the
     * stream when it is there. */
    if (fine(d, move(nccl(d), r, wan_cuda_stream(d), out, in), "exchange") &&
        wait_begun(d))
        wait_issued(d);
}
