/*
 * Ranks over MPI: the only file that knows it, a module of its own.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Notes are small messages, which every MPI sends without waiting for their
 * receiver. Data goes in pieces that MPI's counts can hold. Nothing waits inside
 * MPI, so that who waits can look at cancel flags and at whether the others live.
 * The thread of signs of life calls it too: a lock is held for each call alone.
 */

#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ranks.h"

enum { TAG_NOTE = 1, TAG_DATA, TAG_SIGN, TAG_LAST };

#define PIECE (1 << 30)         // bytes
#define PIECE_FAR (60 << 10)    // to another machine, see below
#define EAGER 20000             // looks before the first nap
#define LOOKS 2000              // between two questions whether all live

typedef struct Mpi {
    WanTransport t;
    MPI_Comm comm;              // our own
    int started;                // MPI is ours to end
    pthread_mutex_t lock;       // one thread at a time calls it
    int torn;                   // data is under way to memory that is left: MPI
                                // must not go on with it
    MPI_Request sign[WAN_MAX_RANKS];    // under way to each: one, as who is
    uint8_t own[WAN_MAX_RANKS];         // silent may take none
    uint8_t near[WAN_MAX_RANKS];        // it shares memory with this one
} Mpi;

/* Of what goes at once to that rank or from it. Open MPI asks the receiver of
 * more than 64 KB over TCP to fetch it, and then moves one direction after the
 * other: half of what a link carries. Both sides cut alike. */
static int64_t piece(const Mpi *m, int rank)
{
    return rank < WAN_MAX_RANKS && m->near[rank] ? PIECE : PIECE_FAR;
}

static int tell(WanTransport *t, int rank, const WanNote *note)
{
    Mpi *m = (Mpi *)t;
    int ret;

    pthread_mutex_lock(&m->lock);
    ret = MPI_Send(note, sizeof(*note), MPI_BYTE, rank, TAG_NOTE, m->comm);
    pthread_mutex_unlock(&m->lock);
    return ret ? WAN_ERR(EIO) : 0;
}

static int hear(WanTransport *t, int rank, WanNote *note)
{
    Mpi *m = (Mpi *)t;
    int there = 0, ret;

    pthread_mutex_lock(&m->lock);
    ret = MPI_Iprobe(rank, TAG_NOTE, m->comm, &there, MPI_STATUS_IGNORE);
    if (!ret && there)
        ret = MPI_Recv(note, sizeof(*note), MPI_BYTE, rank, TAG_NOTE, m->comm,
                       MPI_STATUS_IGNORE);
    pthread_mutex_unlock(&m->lock);
    return ret ? WAN_ERR(EIO) : there;
}

static void beat(WanTransport *t, uint8_t sign, uint8_t *from)
{
    Mpi *m = (Mpi *)t;

    pthread_mutex_lock(&m->lock);
    for (int q = 0; q < t->size && !m->torn; q++) {
        int there = 0;

        if (q == t->rank)
            continue;
        if (!MPI_Test(&m->sign[q], &there, MPI_STATUS_IGNORE) && there) {
            m->own[q] = sign;
            MPI_Isend(&m->own[q], 1, MPI_BYTE, q, TAG_SIGN, m->comm,
                      &m->sign[q]);
        }
        while (!MPI_Iprobe(q, TAG_SIGN, m->comm, &there, MPI_STATUS_IGNORE) &&
               there)
            MPI_Recv(&from[q], 1, MPI_BYTE, q, TAG_SIGN, m->comm,
                     MPI_STATUS_IGNORE);
    }
    pthread_mutex_unlock(&m->lock);
}

/* The pieces of parcels from or to the others. */
static int64_t pieces(const Mpi *m, const WanParcel *p)
{
    int64_t n = 0;

    for (int q = 0; q < m->t.size; q++)
        if (q != m->t.rank)
            n += (p[q].bytes + piece(m, q) - 1) / piece(m, q);
    return n;
}

/* Begin to move them; the number of requests, or below 0. */
static int64_t begin(Mpi *m, MPI_Request *req, const WanParcel *p, int send)
{
    int64_t n = 0;

    for (int i = 0; i < m->t.size; i++) {
        /* everybody begins with another, so that none gets all at once */
        const int q = (m->t.rank + (send ? i : m->t.size - i)) % m->t.size;

        const int64_t most = piece(m, q);

        if (q == m->t.rank)
            continue;
        for (int64_t at = 0; at < p[q].bytes; at += most) {
            const int64_t left = p[q].bytes - at;
            const int bytes = (int)(left < most ? left : most);
            char *data = (char *)p[q].data + at;

            if (send ? MPI_Isend(data, bytes, MPI_BYTE, q, TAG_DATA, m->comm,
                                 &req[n])
                     : MPI_Irecv(data, bytes, MPI_BYTE, q, TAG_DATA, m->comm,
                                 &req[n]))
                return WAN_ERR(EIO);
            n++;
        }
    }
    return n;
}

static int exchange(WanTransport *t, const WanParcel *out, const WanParcel *in,
                    int (*alive)(void *), void *arg)
{
    const struct timespec nap = { 0, 100000 };
    Mpi *m = (Mpi *)t;
    const int64_t most = pieces(m, in) + pieces(m, out);
    MPI_Request *req = malloc((most + 1) * sizeof(*req));
    MPI_Status *status = malloc((most + 1) * sizeof(*status));
    int64_t gets, puts = 0;
    int done = 0, ret = 0;

    if (!req || !status) {
        free(req);
        free(status);
        return WAN_ERR(ENOMEM);
    }
    pthread_mutex_lock(&m->lock);
    if ((gets = begin(m, req, in, 0)) < 0 ||
        (puts = begin(m, req + gets, out, 1)) < 0)
        ret = WAN_ERR(EIO);
    pthread_mutex_unlock(&m->lock);
    for (int looks = 1; ret >= 0 && !done; looks++) {
        pthread_mutex_lock(&m->lock);
        if (MPI_Testall((int)(gets + puts), req, &done, status))
            ret = WAN_ERR(EIO);
        pthread_mutex_unlock(&m->lock);
        if (ret < 0)
            break;
        if (!done && looks < (t->behind ? 0 : EAGER))
            sched_yield();
        else if (!done)
            nanosleep(&nap, NULL);
        if (!done && looks % LOOKS == 0)
            ret = alive(arg);
    }
    if (ret < 0) {
        pthread_mutex_lock(&m->lock);
        m->torn = 1;
        pthread_mutex_unlock(&m->lock);
    }
    free(status);
    free(req);                  // of a broken exchange: nothing follows it
    return ret;
}

/* What else was on its way: MPI ends with nothing left. */
static void drain(Mpi *m)
{
    WanNote got;
    MPI_Status s;

    for (int q = 0; q < m->t.size; q++) {
        if (q == m->t.rank)
            continue;
        MPI_Wait(&m->sign[q], MPI_STATUS_IGNORE);
        MPI_Send(NULL, 0, MPI_BYTE, q, TAG_LAST, m->comm);
    }
    for (int q = 0; q < m->t.size; q++) {
        int ret = q == m->t.rank;

        for (s.MPI_TAG = TAG_NOTE; !ret && s.MPI_TAG != TAG_LAST; )
            ret = MPI_Recv(&got, sizeof(got), MPI_BYTE, q, MPI_ANY_TAG, m->comm,
                           &s);
    }
}

static void end(WanTransport *t, int ordered)
{
    Mpi *m = (Mpi *)t;

    /* Without order MPI would wait for the ones that are gone: the launcher
     * ends what is left. */
    if (ordered) {
        if (t->size <= WAN_MAX_RANKS)
            drain(m);
        MPI_Comm_free(&m->comm);
        if (m->started)
            MPI_Finalize();
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* Who shares memory with this one; unknown: nobody. */
static void find_near(Mpi *m)
{
    const int size = m->t.size < WAN_MAX_RANKS ? m->t.size : WAN_MAX_RANKS;
    MPI_Comm shared;
    MPI_Group here, all;

    if (MPI_Comm_split_type(m->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL,
                            &shared))
        return;
    MPI_Comm_group(shared, &here);
    MPI_Comm_group(m->comm, &all);
    for (int q = 0; q < size; q++) {
        int its = MPI_UNDEFINED;

        m->near[q] = !MPI_Group_translate_ranks(all, 1, &q, here, &its) &&
                     its != MPI_UNDEFINED;
    }
    MPI_Group_free(&here);
    MPI_Group_free(&all);
    MPI_Comm_free(&shared);
}

__attribute__((visibility("default")))
WanTransport *wan_transport_mpi(char *why, size_t size)
{
    Mpi *m = calloc(1, sizeof(*m));
    int there = 0, threads = MPI_THREAD_SINGLE;

    if (!m) {
        snprintf(why, size, "no memory");
        return NULL;
    }
    MPI_Initialized(&there);
    /* One thread at a time, not always the same. */
    if (there)
        MPI_Query_thread(&threads);
    else if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &threads)) {
        snprintf(why, size, "it can't be started");
        free(m);
        return NULL;
    }
    m->started = !there;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (threads < MPI_THREAD_SERIALIZED ||
        MPI_Comm_dup(MPI_COMM_WORLD, &m->comm)) {
        snprintf(why, size, threads < MPI_THREAD_SERIALIZED
                 ? "it can't be called from one thread after another"
                 : "its processes can't reach each other");
        if (m->started)
            MPI_Finalize();
        free(m);
        return NULL;
    }
    MPI_Comm_rank(m->comm, &m->t.rank);
    MPI_Comm_size(m->comm, &m->t.size);
    find_near(m);
    m->t.tell = tell;
    m->t.hear = hear;
    m->t.exchange = exchange;
    m->t.close = end;
    for (int q = 0; q < WAN_MAX_RANKS; q++)
        m->sign[q] = MPI_REQUEST_NULL;
    pthread_mutex_init(&m->lock, NULL);
    /* where MPI is another's the lock is not, nor are its threads ours to add */
    if (m->started || threads == MPI_THREAD_MULTIPLE)
        m->t.beat = beat;
    return &m->t;
}
