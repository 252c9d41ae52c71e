/*
 * Ranks: the processes that make one video together, and what they exchange.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * All ranks run the same job. Rank 0 is the host, whose caller gives requests
 * and takes frames; the others serve (serve.c). Tokens are split by rows: rank
 * r of P has rows L r / P to L (r + 1) / P of every matrix of tokens, so no row
 * is padded, and none is there twice. Text, image keys and the latent are small
 * and on all ranks.
 *
 * An exchange is two things: a note from each rank to each other, which says
 * what it is about to exchange or that it has ended, then the data. A rank
 * whose job has ended says so in place of its next note and goes on, so that
 * nobody waits for one that does not come; notes of a job that is over are
 * thrown away by whoever finds them. A host that is cancelled carries out what
 * it has promised, and ends the job in place of its next note. Where the others
 * keep it waiting for that, it tells them to quit, and the ranks have served.
 * What carries both is a WanTransport: MPI (ranks_mpi.c), memory between threads
 * (ranks_threads.c), or sockets in tests. Data between devices goes another way,
 * behind the same notes.
 */

#ifndef WAN_RANKS_H
#define WAN_RANKS_H

#include <pthread.h>

#include "log.h"

/* The most processes of a job. */
#define WAN_MAX_RANKS 64

enum WanNoteKind {
    WAN_NOTE_DATA = 1,  // data of that many bytes follows, from all to all
    WAN_NOTE_JOB,       // host: a job begins, its request follows
    WAN_NOTE_END,       // host: the job is closed
    WAN_NOTE_FAIL,      // the job failed at this rank; text says why
    WAN_NOTE_QUIT,      // host: no job will come
    WAN_NOTE_DONE,      // the device has done what was promised in that job,
                        // which has ended here
    WAN_NOTE_LOST,      // rank `number` is lost, text says how: who told this
                        // leaves because of it
    WAN_NOTE_BYE        // the host's QUIT was heard, and nothing will follow
};

/* Signs of life. */
enum {
    WAN_SIGN = 1,
    WAN_SIGN_TRACED = 2 // a debugger has the process
};

typedef struct WanNote {
    uint32_t kind, job;     // jobs are counted from 1
    uint64_t number;        // exchange of the job
    int64_t bytes;          // that follow for the receiver
    int32_t error;          // of FAIL
    char text[228];         // what is exchanged, or why it failed
} WanNote;

/* Bytes for, or from, one rank. */
typedef struct WanParcel {
    void *data;
    int64_t bytes;          // 0: nothing is sent
} WanParcel;

/* Who a rank is. The same in every version, so that versions can be told. */
typedef struct WanRankInfo {
    char magic[8];          // "wan-rank"
    char version[24];       // of libwan
    char node[64];          // name of the machine
    char cpu[64];           // what products are computed with
    int64_t pid, start;     // the process, and when it began
    int32_t host;           // it is not there to serve
    int32_t spare[19];
} WanRankInfo;

/* What carries notes and data. Functions return 0 or WAN_ERR(EIO), when the
 * other side is gone or the transport broken. Called by one thread at a time. */
typedef struct WanTransport WanTransport;
struct WanTransport {
    int rank, size;
    /* A note to another rank; waits for nobody. */
    int (*tell)(WanTransport *t, int rank, const WanNote *note);
    /* The next note of that rank; 1, or 0: there is none yet. */
    int (*hear)(WanTransport *t, int rank, WanNote *note);
    /* out[q] to, in[q] from every other rank q, each of which is in the same
     * call or about to be. Calls alive() now and then, and ends with what it
     * returns below 0. */
    int (*exchange)(WanTransport *t, const WanParcel *out, const WanParcel *in,
                    int (*alive)(void *arg), void *arg);
    /* A sign of life to all others, and from[q] the last that came from rank q
     * since the call before, or 0. By another thread, beside the others. NULL:
     * none can hang alone. */
    void (*beat)(WanTransport *t, uint8_t sign, uint8_t *from);
    /* ordered: the other ranks close too. */
    void (*close)(WanTransport *t, int ordered);
    int behind;             // an exchange has the threads' work beside it: who
                            // waits sleeps at once
};

typedef struct WanWatch WanWatch;

typedef struct WanRanks {
    int rank, size;
    WanTransport *transport;    // owned; NULL: only planned with
    WanRankInfo info[WAN_MAX_RANKS];
    WanWatch *watch;            // ranks_watch.h
    WanLog log;
    uint32_t job;               // the last that began
    uint64_t number;            // its next exchange
    int busy;                   // a job has them
    int broken;                 // a rank is lost: nothing more is possible
    int lost;                   // which was the first, -1: that is not known
    int torn;                   // data is under way to memory that is left: the
                                // transport must not be used again
    int quit;                   // host, atomic: the others were told to
    const int *cancel;          // of the exchange; NULL: it has none
    int (*interrupted)(void *opaque);   // of the job that is opened; NULL: none
    void *interrupted_opaque;
    double stopped_at;          // when that was first seen set, s; 0: never
    double patience;            // how long a host that is cancelled waits for
                                // those it has promised data to, s
    int elsewhere;              // it waits for other than the host's note
    int64_t least_parcel;       // bytes that are worth an exchange of their own,
                                // the same at all; 0: as attention has it
    /* A rank's next, heard there: what it promised, that its job or it ends. */
    WanNote early[WAN_MAX_RANKS][4];
    int nb_early[WAN_MAX_RANKS];
} WanRanks;

/**
 * Meet: every rank tells who it is. Takes the transport in either case.
 *
 * @return 0, or WAN_ERR(EINVAL): the ranks don't go together, the line says
 *         which and why; WAN_ERR(EIO): one is gone
 */
int wan_ranks_meet(WanRanks **out, WanTransport *t, int host,
                   const WanLog *log);

/* Host: tells the others to quit. Takes NULL. */
void wan_ranks_close(WanRanks **r);

/* Whether they are threads of one process. */
int wan_ranks_are_threads(const WanRanks *r);

/* "4 processes on 2 machines", "4 cards" */
const char *wan_ranks_text(const WanRanks *r, char *buf, size_t size);

/* ----------------------------------------------------------------- jobs */

/** Host: a job begins, which others get as these bytes. WAN_CANCELLED: it was
 *  interrupted. */
int wan_ranks_begin(WanRanks *r, const void *request, int64_t bytes);

/**
 * Others: wait for a job.
 *
 * @param request free() it
 * @return 1; 0: the host has no more; WAN_ERR(EIO)
 */
int wan_ranks_wait(WanRanks *r, char **request, int64_t *bytes);

/** Others: whether the host has told to quit, for who does other work. */
int wan_ranks_told_to_quit(WanRanks *r);

/** The job is over at this rank, because of an error or not (0). */
void wan_ranks_end(WanRanks *r, int error, const char *text);

/**
 * Whether all ranks have the same value, such as a checksum of weights.
 *
 * @param bytes at most 256
 * @param what  of the line: "rank 2 on HOST has other WHAT"
 * @return 0, WAN_ERR(EINVAL), or as the exchange
 */
int wan_ranks_agree(WanRanks *r, const void *value, int bytes,
                    const char *what, const int *cancel);

/** value, of so many bytes, becomes rank 0's on all; as the exchange. */
int wan_ranks_hand_out(WanRanks *r, void *value, int64_t bytes,
                       const char *what, const int *cancel);

/**
 * Exchange: out[q] goes to rank q, in[q] comes from it; own parcels are
 * copied. Logs what went wrong.
 *
 * @param what   names the exchange: all ranks must be at the same
 * @param cancel looked at before it begins, and while others let it wait for
 *               seconds
 * @return 0; WAN_CANCELLED; WAN_ERR(EIO): a rank has failed, is gone or at
 *         another place
 */
int wan_ranks_exchange(WanRanks *r, const WanParcel *out, const WanParcel *in,
                       const char *what, const int *cancel);

/**
 * The notes of an exchange alone, whose data goes between devices: when all
 * ranks have got 0 each of them begins to move it.
 */
int wan_ranks_promise(WanRanks *r, const WanParcel *out, const WanParcel *in,
                      const char *what, const int *cancel);

/**
 * Wait for what hangs on other ranks, such as data that was promised.
 *
 * @param done asked again and again: 1, 0: not yet, or below 0, which ends it
 * @return 0; as done(); or as wan_ranks_exchange(), and what was promised may
 *         not come
 */
int wan_ranks_wait_for(WanRanks *r, int (*done)(void *arg), void *arg,
                       const int *cancel);

/** Whether to go on waiting, for who does so elsewhere: as
 *  wan_ranks_wait_for(), of which it is a look. */
int wan_ranks_look(WanRanks *r, const int *cancel);

/* An exchange, laid out. */
typedef struct WanExchange {
    const char *what;
    WanParcel out[WAN_MAX_RANKS], in[WAN_MAX_RANKS];
} WanExchange;

/* Exchanges that are under way. */
typedef struct WanBehind {
    WanRanks *ranks;
    const WanExchange *exchange;
    const int *cancel;
    int n, ret, started;
    pthread_t thread;
} WanBehind;

/**
 * Make n exchanges, one after the other as wan_ranks_exchange() does, while the
 * caller does other work, in which nothing of r may be called.
 *
 * @param b      the caller's, as x; both live until wan_ranks_join()
 * @param cancel likewise
 */
void wan_ranks_behind(WanBehind *b, WanRanks *r, const WanExchange *x, int n,
                      const int *cancel);

/** Wait until they are made; as wan_ranks_exchange(), of the first that failed. */
int wan_ranks_join(WanBehind *b);

/** The job has ended here, and the device has nothing of it left to do; or it
 *  has failed (wait 0). Tells the others, and waits until all say so. The host
 *  waits as long as its patience lasts. */
void wan_ranks_settle(WanRanks *r, int wait);

/* -------------------------------------------------------------- the split */

/* Rows [first, first + n) of many. */
typedef struct WanShare {
    int64_t first, n;
} WanShare;

/* Ranks [first, first + size), which have rows among them. */
typedef struct WanTeam {
    int first, size;
} WanTeam;

/* Of so many rows those of one of a team; it may have none. */
static inline WanShare wan_share_of(WanTeam t, int rank, int64_t rows)
{
    const int size = t.size;
    const int64_t first = rows * (rank -= t.first) / size;

    return (WanShare){ first, rows * (rank + 1) / size - first };
}

/* --------------------------------------------------------------- threads */

/**
 * Transports of ranks that are threads of this process.
 *
 * @param out size of them, one for each, which closes its own
 * @return 0, or WAN_ERR(ENOMEM)
 */
int wan_transport_threads(WanTransport **out, int size);

/* ------------------------------------------------------------------- MPI */

/**
 * The ranks that an MPI launcher started this process among: looks at the
 * environment, and only if there is more than one process opens the library.
 * Once a process: later calls give the same ranks.
 *
 * @param out  NULL: it is alone; not to be closed
 * @param host 1, or 0: this one serves
 * @return 0; WAN_ERR(ENOSYS): this build has no MPI, or its module can't be
 *         opened; or as wan_ranks_meet()
 */
int wan_ranks_from_launcher(WanRanks **out, int host, const WanLog *log);

/** Serve jobs until the host has no more. See tools/wan-worker.c. */
int wan_ranks_serve(WanRanks *r, int threads, const char *device,
                    const WanLog *log);

#endif /* WAN_RANKS_H */
