/*
 * Exchanges behind other work: they arrive, in their order; and what becomes of
 * them when the host is cancelled or a rank fails.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <errno.h>

#include "../test.h"
#include "ranks.h"

enum { RANKS = 3, NUMBERS = 1 << 14, TIMES = 3 };

/* A thread that is a rank. */
typedef struct Rank {
    pthread_t thread;
    WanTransport *t;
    WanRanks *r;
    int (*play)(struct Rank *);
    int ret;                    // what it saw
} Rank;

static int numbers[RANKS][2][TIMES][RANKS][NUMBERS];    // sent, got

/* What rank `from` sends `to` in exchange i. */
static int number(int i, int from, int to, int k)
{
    return ((i * RANKS + from) * RANKS + to) * NUMBERS + k;
}

static void lay_out(WanExchange x[TIMES], int me)
{
    memset(numbers[me], 0, sizeof(numbers[me]));
    for (int i = 0; i < TIMES; i++) {
        x[i] = (WanExchange){ "numbers", { { 0 } }, { { 0 } } };
        for (int q = 0; q < RANKS; q++) {
            int *out = numbers[me][0][i][q];

            for (int k = 0; k < NUMBERS; k++)
                out[k] = number(i, me, q, k);
            x[i].out[q] = (WanParcel){ out, sizeof(numbers[0][0][0][0]) };
            x[i].in[q] = (WanParcel){ numbers[me][1][i][q],
                                      sizeof(numbers[0][0][0][0]) };
        }
    }
}

static int arrived(int me)
{
    for (int i = 0; i < TIMES; i++)
        for (int q = 0; q < RANKS; q++)
            for (int k = 0; k < NUMBERS; k++)
                if (numbers[me][1][i][q][k] != number(i, q, me, k))
                    return 0;
    return 1;
}

/* The exchanges of a rank, and work beside them. */
static int exchange_behind(Rank *rank, const int *cancel)
{
    WanExchange x[TIMES];
    WanBehind b;
    volatile double work = 0;

    lay_out(x, rank->r->rank);
    wan_ranks_behind(&b, rank->r, x, TIMES, cancel);
    for (int i = 0; i < 100000; i++)
        work = work + i;
    return wan_ranks_join(&b);
}

static int exchanges(Rank *rank)
{
    const int ret = exchange_behind(rank, NULL);

    return ret < 0 ? ret : arrived(rank->r->rank) && !rank->t->behind;
}

/* The host ends its job in place of its exchanges; the others hear so. */
static int host_is_cancelled(Rank *rank)
{
    const int cancel = !rank->r->rank;
    const int ret = exchange_behind(rank, &cancel);

    wan_ranks_end(rank->r, rank->r->rank ? 0 : ret, "");
    return ret;
}

/* The last rank says that it failed in place of its exchanges. */
static int one_fails(Rank *rank)
{
    if (rank->r->rank < RANKS - 1)
        return exchange_behind(rank, NULL);
    wan_ranks_end(rank->r, WAN_ERR(EIO), "a test");
    return 0;
}

static void *run(void *arg)
{
    Rank *rank = arg;

    rank->ret = wan_ranks_meet(&rank->r, rank->t, !rank->t->rank, NULL);
    if (rank->ret >= 0)
        rank->ret = rank->play(rank);
    wan_ranks_close(&rank->r);
    return NULL;
}

static void play(Rank rank[RANKS], int (*part)(Rank *))
{
    WanTransport *t[RANKS];

    if (!CHECK(wan_transport_threads(t, RANKS) == 0))
        return;
    for (int q = 0; q < RANKS; q++) {
        rank[q] = (Rank){ .t = t[q], .play = part };
        CHECK(!pthread_create(&rank[q].thread, NULL, run, &rank[q]));
    }
    for (int q = 0; q < RANKS; q++)
        pthread_join(rank[q].thread, NULL);
}

TEST(arrive)
{
    Rank rank[RANKS];

    play(rank, exchanges);
    for (int q = 0; q < RANKS; q++)
        CHECKF(rank[q].ret == 1, "rank %d: %d", q, rank[q].ret);
}

TEST(host_cancelled)
{
    Rank rank[RANKS];

    play(rank, host_is_cancelled);
    for (int q = 0; q < RANKS; q++)
        CHECKF(rank[q].ret == WAN_CANCELLED, "rank %d: %d", q, rank[q].ret);
}

TEST(one_fails)
{
    Rank rank[RANKS];

    play(rank, one_fails);
    CHECKF(rank[0].ret == WAN_ERR(EIO), "host: %d", rank[0].ret);
    CHECK(rank[1].ret < 0);         // of it, or of the host that has left
}

int main(void)
{
    RUN(arrive);
    RUN(host_cancelled);
    RUN(one_fails);
    return test_end();
}
