/*
 * nccl.c on an NCCL that is played: what it is asked for, and that nobody waits
 * for ever when a rank fails, is gone or is cancelled.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Ranks are threads, each with a device of its own that is its number.
 */

#include <errno.h>
#include <time.h>

#include "fakecuda/nccl_played.h"

enum { BYTES = 4096 };

/* What a rank does, and what became of it. */
typedef struct Rank {
    WanTransport *transport;
    void (*main)(struct Rank *self);
    int number, size;
    WanRanks *ranks;
    WanCuda cuda;
    WanDev dev;
    char line[256];             // the last of an error
    int lines, joined, broken;
    int vanishes;               // it goes without a word
    char mine[PLAYED_RANKS][BYTES], theirs[PLAYED_RANKS][BYTES];
} Rank;

static void keep(void *opaque, enum WanLogLevel level, const char *text)
{
    Rank *r = opaque;

    if (level <= WAN_LOG_ERROR) {
        r->lines++;
        snprintf(r->line, sizeof(r->line), "%s", text);
    }
}

static void *rank_main(void *arg)
{
    Rank *r = arg;
    const WanLog log = { keep, r, WAN_LOG_DEBUG };

    played_rank = r->number;
    if (!CHECK(wan_ranks_meet(&r->ranks, r->transport, !r->number, &log) == 0))
        return NULL;
    r->ranks->patience = 0.3;
    if (r->number) {
        char *request;
        int64_t n;

        CHECK(wan_ranks_wait(r->ranks, &request, &n) == 1);
        free(request);
    } else {
        CHECK(wan_ranks_begin(r->ranks, "x", 1) == 0);
    }
    r->cuda.device = r->number;
    r->cuda.stream = (cudaStream_t)&r->cuda;
    r->dev = (WanDev){ .priv = &r->cuda, .ranks = r->ranks, .log = &log };
    r->joined = wan_nccl_join(&r->dev);
    r->main(r);
    if (r->vanishes) {
        give_up(r->cuda.nccl);
        free(r->cuda.nccl);
    } else {
        wan_nccl_leave(&r->dev);
        CHECK(!r->cuda.nccl);
    }
    r->broken = r->ranks->broken;
    wan_ranks_close(&r->ranks);
    return NULL;
}

/* All ranks do so: returns when they have ended. */
static void run(Rank *rank, int size, void (*main)(Rank *))
{
    WanTransport *t[WAN_MAX_RANKS];
    pthread_t thread[PLAYED_RANKS];

    played.inits = played.aborts = played.groups = 0;
    played.drained = played.early = 0;
    played.moved = 0;
    if (!CHECK(wan_transport_threads(t, size) == 0))
        return;
    memset(rank, 0, size * sizeof(*rank));
    for (int r = 0; r < size; r++) {
        rank[r].transport = t[r];
        rank[r].main = main;
        rank[r].number = r;
        rank[r].size = size;
        pthread_create(&thread[r], NULL, rank_main, &rank[r]);
    }
    for (int r = 0; r < size; r++)
        pthread_join(thread[r], NULL);
    CHECK(played.inits == played.aborts);
}

/* One exchange: bytes of everybody for everybody, another number each, rank 2
 * sends rank 0 none. */
static size_t bytes_of(int from, int to)
{
    return from == 2 && to == 0 ? 0 : 100 * (from + 1) + to + 1;
}

static int exchange(Rank *r)
{
    WanParcel out[PLAYED_RANKS], in[PLAYED_RANKS];
    int ret;

    for (int q = 0; q < r->size; q++) {
        memset(r->mine[q], 16 * r->number + q, BYTES);
        out[q] = (WanParcel){ r->mine[q], bytes_of(r->number, q) };
        in[q] = (WanParcel){ r->theirs[q], bytes_of(q, r->number) };
    }
    if ((ret = wan_ranks_promise(r->ranks, out, in, "rows",
                                 &r->dev.cancel)) < 0)
        wan_dev_end(&r->dev, ret);
    else
        wan_nccl_exchange(&r->dev, out, in);
    return r->dev.error;
}

/* ------------------------------------------------------------ what is asked */

static void calls(Rank *r)
{
    const PlayedCall *c = played_comm->call;

    CHECK(r->joined == 0);
    for (int i = 0; i < 3; i++) {
        const int n = played_comm->calls;
        const int to[] = { (r->number + 1) % 3, (r->number + 2) % 3 };

        CHECK(exchange(r) == 0);
        pthread_mutex_lock(&played.lock);
        CHECK(played.groups >= 3 * (i + 1));    // nobody goes on before
        pthread_mutex_unlock(&played.lock);
        CHECK(c[n].kind == GROUP_START && (c += n + 1));
        for (int k = 0; k < 2; k++) {
            const int from = to[!k];

            if (bytes_of(r->number, to[k])) {
                CHECK(c->kind == SEND && c->rank == to[k] &&
                      c->count == bytes_of(r->number, to[k]) &&
                      c->data == r->mine[to[k]] &&
                      c->stream == r->cuda.stream);
                c++;
            }
            if (bytes_of(from, r->number)) {
                CHECK(c->kind == RECV && c->rank == from &&
                      c->count == bytes_of(from, r->number) &&
                      c->data == r->theirs[from] &&
                      c->stream == r->cuda.stream);
                c++;
            }
        }
        CHECK(c->kind == GROUP_END && c + 1 == played_comm->call +
                                               played_comm->calls);
        c = played_comm->call;
        for (int q = 0; q < 3; q++)
            for (size_t b = 0; b < bytes_of(q, r->number); b++)
                if (r->theirs[q][b] != 16 * q + r->number)
                    CHECKF(0, "rank %d byte %zu of %d", r->number, b, q);
    }
}

TEST(calls)
{
    static Rank rank[3];
    int64_t sent = 0;

    played.late = 2;
    run(rank, 3, calls);
    played.late = 0;
    for (int r = 0; r < 3; r++) {
        CHECK(!rank[r].lines);
        for (int q = 0; q < 3; q++)
            sent += q != r ? 3 * bytes_of(r, q) : 0;
    }
    CHECK(played.groups == 9 && played.moved == sent && played.inits == 3);
}

/* ------------------------------------------------------------------ joining */

static void nothing(Rank *r)
{
    CHECK(r->joined < 0 || !r->dev.error);
}

TEST(one_card_for_two)
{
    static Rank rank[2];

    played.one_card = 1;
    run(rank, 2, nothing);
    played.one_card = 0;
    for (int r = 0; r < 2; r++)
        CHECKF(rank[r].joined == WAN_ERR(EINVAL) && rank[r].lines == 1 &&
               strstr(rank[r].line, "ranks 0 and 1 on ") &&
               strstr(rank[r].line, "0000:17:00.0"), "%s", rank[r].line);
    CHECK(!played.inits);
}

static int there(Rank *r)
{
    const WanLog log = { keep, r, WAN_LOG_DEBUG };

    memset(r, 0, sizeof(*r));
    return wan_nccl_there(&log);
}

TEST(no_library)
{
    static Rank r;

    CHECK(there(&r) == 0 && !r.lines);
    played.version = 20800;
    CHECKF(there(&r) == WAN_ERR(ENOSYS) && r.lines == 1 &&
           strstr(r.line, "NCCL 2.14"), "%s", r.line);
    played.version = 22809;
    played.missing = 1;
    CHECKF(there(&r) == WAN_ERR(ENOSYS) && r.lines == 1 &&
           strstr(r.line, "libnccl.so.2") && strstr(r.line, "libnccl2"), "%s",
           r.line);
    played.missing = 0;
}

/* What serve.c does of a job that failed. */
static void end(Rank *r)
{
    if (r->joined == WAN_ERR(ENOSYS))
        wan_ranks_end(r->ranks, r->joined, r->line);
}

TEST(one_rank_has_no_library)
{
    static Rank rank[3];

    played.missing = 2;
    run(rank, 3, end);
    played.missing = 0;
    CHECK(rank[1].joined == WAN_ERR(ENOSYS));
    CHECKF(rank[0].joined == WAN_ERR(EIO) && rank[0].lines == 1 &&
           strstr(rank[0].line, "rank 1 ") &&
           strstr(rank[0].line, "libnccl.so.2"), "%s", rank[0].line);
    CHECK(rank[2].joined == WAN_CANCELLED && !rank[2].lines);
    CHECK(!played.inits);
}

/* ----------------------------------------------------------- nobody hangs */

/* Waits on the device until something ends that. */
static int wait_stuck(Rank *r)
{
    return wan_nccl_wait(&r->dev, r->cuda.pace[0], "waiting");
}

/* Rank 1's job fails when the others' streams wait for it. */
static void fails(Rank *r)
{
    CHECK(exchange(r) == 0);
    if (r->number == 1) {
        wan_dev_fail(&r->dev, WAN_ERR(EIO), "its card failed");
        wan_ranks_end(r->ranks, WAN_ERR(EIO), r->line);
        return;
    }
    CHECK(!wait_stuck(r));
    CHECK(r->dev.error == (r->number ? WAN_CANCELLED : WAN_ERR(EIO)));
    CHECK(wan_cuda(&r->dev)->nccl->comm == NULL);
    if (!r->number)
        wan_ranks_end(r->ranks, r->dev.error, NULL);
}

TEST(a_rank_fails)
{
    static Rank rank[3];

    played.stuck = 1 | 4;
    run(rank, 3, fails);
    played.stuck = 0;
    CHECKF(rank[0].lines == 1 && strstr(rank[0].line, "rank 1 ") &&
           strstr(rank[0].line, "its card failed"), "%s", rank[0].line);
    CHECK(!rank[2].lines);
}

/* Rank 1 is gone without a word. */
static void vanishes(Rank *r)
{
    CHECK(exchange(r) == 0);
    if (r->number == 1)
        r->vanishes = 1;
    else
        CHECK(!wait_stuck(r) && r->dev.error == WAN_ERR(EIO));
}

TEST(a_rank_is_gone)
{
    static Rank rank[3];

    played.stuck = 1 | 4;
    run(rank, 3, vanishes);
    played.stuck = 0;
    CHECKF(rank[0].lines == 1 && strstr(rank[0].line, "rank 1 ") &&
           strstr(rank[0].line, "is gone"), "%s", rank[0].line);
    /* the host may have left because of it */
    CHECKF(rank[2].lines == 1 && strstr(rank[2].line, "is gone"), "%s",
           rank[2].line);
}

/* What NCCL finds out by itself. */
static void breaks(Rank *r)
{
    CHECK(exchange(r) == 0);
    played.state = 6;
    CHECK(!wait_stuck(r) && r->dev.error == WAN_ERR(EIO));
    if (!r->number)
        wan_ranks_end(r->ranks, r->dev.error, NULL);
}

TEST(the_library_fails)
{
    static Rank rank[1];

    played.stuck = 1;
    run(rank, 1, breaks);
    played.stuck = played.state = 0;
    CHECKF(rank->lines == 1 && strstr(rank->line, "NCCL: remote process exited"),
           "%s", rank->line);
}

/* The host is cancelled while its stream waits for rank 1, and loses patience:
 * all leave, and the ranks are told to. */
static void cancels(Rank *r)
{
    CHECK(exchange(r) == 0);
    if (!r->number)
        wan_dev_cancel(&r->dev);
    CHECK(!wait_stuck(r) && r->dev.error == WAN_CANCELLED);
    if (!r->number)
        wan_ranks_end(r->ranks, WAN_CANCELLED, NULL);
}

TEST(the_host_is_cancelled)
{
    static Rank rank[3];

    played.stuck = 1 | 2 | 4;
    run(rank, 3, cancels);
    played.stuck = 0;
    CHECK(!rank[0].lines && !rank[1].lines && !rank[2].lines);
}

/* The host closes the job behind an exchange that the others are in: they end
 * with it, and the ranks are whole. Nobody takes NCCL down before all streams
 * are through. */
static void closes(Rank *r)
{
    CHECK(exchange(r) == 0);
    if (r->number)
        CHECK(exchange(r) == WAN_CANCELLED);
    else
        wan_ranks_end(r->ranks, 0, NULL);
}

TEST(the_host_closes)
{
    static Rank rank[4];

    run(rank, 4, closes);
    CHECK(played.early == 0 && played.aborts == 4);
    for (int r = 0; r < 4; r++)
        CHECK(!rank[r].lines && !rank[r].broken);
}

/* All have all of it; one is slow to leave. */
static void leaves(Rank *r)
{
    CHECK(exchange(r) == 0);
    if (r->number == r->size - 1)
        nanosleep(&(struct timespec){ 0, 100000000 }, NULL);
    if (!r->number)
        wan_ranks_end(r->ranks, 0, NULL);
}

TEST(nobody_leaves_before_all_are_through)
{
    static Rank rank[4];

    run(rank, 4, leaves);
    CHECK(played.early == 0 && played.aborts == 4);
}

int main(void)
{
    RUN(calls);
    RUN(no_library);
    RUN(one_card_for_two);
    RUN(one_rank_has_no_library);
    RUN(a_rank_fails);
    RUN(a_rank_is_gone);
    RUN(the_library_fails);
    RUN(the_host_is_cancelled);
    RUN(the_host_closes);
    RUN(nobody_leaves_before_all_are_through);
    return test_end();
}
