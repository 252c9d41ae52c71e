/*
 * nccl.c on an NCCL that is played, between threads of a test: it keeps what it
 * is asked for and moves data as NCCL does, when all have asked.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Devices are the host's memory, and a stream does at once what it is given. A
 * communicator is asked how it is before what it began is done, as one that does
 * not block. With played.stuck a stream never gets to its end, as when another
 * rank's part does not come: until its communicator is aborted.
 */

#ifndef WAN_NCCL_PLAYED_H
#define WAN_NCCL_PLAYED_H

#include <pthread.h>

#include "../../../wan/cuda/nccl.c"
#include "test.h"

enum { PLAYED_RANKS = 8, PLAYED_CALLS = 64, PLAYED_WORLDS = 32 };

enum PlayedKind { GROUP_START, SEND, RECV, GROUP_END };

typedef struct PlayedCall {
    enum PlayedKind kind;
    int rank;                   // the other one
    size_t count;
    const void *data;
    cudaStream_t stream;
} PlayedCall;

/* Data between two ranks: one parcel at a time is on its way. */
typedef struct PlayedMail {
    char *data;
    size_t bytes;
} PlayedMail;

/* The ranks of one id. */
typedef struct PlayedWorld {
    int size, here, aborted;
    PlayedMail mail[PLAYED_RANKS][PLAYED_RANKS];    // from, to
} PlayedWorld;

struct Comm {
    PlayedWorld *world;
    int rank, size, asked;
    struct { void *data; size_t bytes; int wanted; } recv[PLAYED_RANKS];
    PlayedCall call[PLAYED_CALLS];      // the last ones
    int calls;
};

static struct {
    pthread_mutex_t lock;
    PlayedWorld world[PLAYED_WORLDS];
    int worlds, version;
    int missing;                        // ranks that have no library: bits
    int one_card;                       // all devices are the same
    int stuck;                          // streams that never end: a bit a rank
    int late;                           // who ends a group late: likewise
    int state;                          // what communicators answer, 0: as it is
    int inits, aborts, groups;
    int64_t moved;                      // bytes that came
    int drained;                        // ranks whose last wait went well: bits
    int early;                          // aborts before all were drained
} played = { .lock = PTHREAD_MUTEX_INITIALIZER, .version = 22809 };

/* Of the calling thread, which drives one device. */
static __thread Comm played_comm;
static __thread int played_group, played_rank;

#define PLAYED __attribute__((visibility("default"))) int

PLAYED ncclGetVersion(int *version)
{
    *version = played.version;
    return SUCCESS;
}

__attribute__((visibility("default")))
const char *ncclGetErrorString(int result)
{
    return result == 6 ? "remote process exited" : "played";
}

PLAYED ncclGetUniqueId(UniqueId *id)
{
    memset(id, 0, sizeof(*id));
    pthread_mutex_lock(&played.lock);
    id->internal[5] = (char)(1 + played.worlds++ % PLAYED_WORLDS);
    memset(&played.world[id->internal[5] - 1], 0, sizeof(*played.world));
    pthread_mutex_unlock(&played.lock);
    return SUCCESS;
}

PLAYED ncclCommInitRankConfig(Comm *comm, int size, UniqueId id, int rank,
                              Config *config)
{
    Comm c = calloc(1, sizeof(*c));

    CHECK(config->size == sizeof(*config) && config->magic == 0xcafebeef &&
          config->version == 21400 && !config->blocking);
    CHECK(rank >= 0 && rank < size && size <= PLAYED_RANKS);
    pthread_mutex_lock(&played.lock);
    c->world = &played.world[id.internal[5] - 1];
    CHECK(!c->world->size || c->world->size == size);
    c->world->size = c->size = size;
    c->world->here++;
    c->rank = rank;
    played.inits++;
    pthread_mutex_unlock(&played.lock);
    *comm = played_comm = c;
    return IN_PROGRESS;
}

/* Whether all that the group wants to receive has come. */
static int played_receive(Comm c)
{
    int missing = 0;

    for (int q = 0; q < c->size; q++) {
        PlayedMail *m = &c->world->mail[q][c->rank];

        if (!c->recv[q].wanted)
            continue;
        if (!m->data) {
            missing = 1;
            continue;
        }
        CHECK(m->bytes == c->recv[q].bytes);
        memcpy(c->recv[q].data, m->data, m->bytes);
        played.moved += m->bytes;
        c->recv[q].wanted = 0;
        free(m->data);
        m->data = NULL;
    }
    return !missing;
}

PLAYED ncclCommGetAsyncError(Comm c, int *result)
{
    pthread_mutex_lock(&played.lock);
    *result = played.state ? played.state :
              c->world->here < c->size || c->asked++ % 2 == 0 ||
              !played_receive(c) ? IN_PROGRESS : SUCCESS;
    pthread_mutex_unlock(&played.lock);
    return SUCCESS;
}

PLAYED ncclCommAbort(Comm c)
{
    pthread_mutex_lock(&played.lock);
    played.aborts++;
    played.early += played.drained != (1 << c->size) - 1;
    if (++c->world->aborted == c->size)
        for (int i = 0; i < PLAYED_RANKS * PLAYED_RANKS; i++)
            free(c->world->mail[i / PLAYED_RANKS][i % PLAYED_RANKS].data);
    pthread_mutex_unlock(&played.lock);
    played_comm = NULL;
    free(c);
    return SUCCESS;
}

static void played_note(Comm c, PlayedCall call)
{
    if (c)
        c->call[c->calls++ % PLAYED_CALLS] = call;
}

PLAYED ncclGroupStart(void)
{
    CHECK(!played_group++);
    played_note(played_comm, (PlayedCall){ .kind = GROUP_START });
    return SUCCESS;
}

PLAYED ncclGroupEnd(void)
{
    CHECK(!--played_group);
    played_note(played_comm, (PlayedCall){ .kind = GROUP_END });
    if (played.late >> played_rank & 1)
        nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
    pthread_mutex_lock(&played.lock);
    played.groups++;
    pthread_mutex_unlock(&played.lock);
    return IN_PROGRESS;
}

PLAYED ncclSend(const void *data, size_t count, int type, int rank, Comm c,
                cudaStream_t stream)
{
    PlayedMail *m = &c->world->mail[c->rank][rank];

    CHECK(played_group == 1 && type == 1 && rank != c->rank && count);
    played_note(c, (PlayedCall){ SEND, rank, count, data, stream });
    pthread_mutex_lock(&played.lock);
    CHECK(!m->data);            // the receiver was in the exchange before
    m->data = malloc(count);
    memcpy(m->data, data, count);
    m->bytes = count;
    pthread_mutex_unlock(&played.lock);
    return SUCCESS;
}

PLAYED ncclRecv(void *data, size_t count, int type, int rank, Comm c,
                cudaStream_t stream)
{
    CHECK(played_group == 1 && type == 1 && rank != c->rank && count);
    played_note(c, (PlayedCall){ RECV, rank, count, data, stream });
    CHECK(!c->recv[rank].wanted);
    c->recv[rank].data = data;
    c->recv[rank].bytes = count;
    c->recv[rank].wanted = 1;
    return SUCCESS;
}

/* ------------------------------------------------- of the runtime, device.c */

void *wan_cuda_library(int n, const char *const *names)
{
    CHECK(n == 1 && !strcmp(names[0], "libnccl.so.2"));
    return played.missing >> played_rank & 1 ? NULL : dlopen(NULL, RTLD_NOW);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                            enum cudaMemcpyKind kind, cudaStream_t s)
{
    CHECK(kind == cudaMemcpyDeviceToDevice && s);
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    (void)e, (void)s;
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    int stuck;

    (void)e;
    pthread_mutex_lock(&played.lock);
    stuck = played_comm && played.stuck >> played_rank & 1;
    played.drained |= !stuck << played_rank;
    pthread_mutex_unlock(&played.lock);
    return stuck ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    CHECKF(cudaEventQuery(e) == cudaSuccess, "a wait that would not end");
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device)
{
    snprintf(id, size, "0000:%02x:00.0", played.one_card ? 0x17 : device);
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) { return cudaSuccess; }

int wan_cuda_ok(WanDev *d, cudaError_t e, const char *what)
{
    if (e)
        wan_dev_fail(d, WAN_ERR(EIO), "%s", what);
    return !e;
}

int wan_cuda_check(WanDev *d, int ok, const char *what, const char *text)
{
    if (!ok)
        wan_dev_fail(d, WAN_ERR(EIO), "%s: %s", what, text);
    return ok;
}

#endif /* WAN_NCCL_PLAYED_H */
