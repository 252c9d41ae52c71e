/*
 * Exchanges behind other work of this rank: a thread makes them.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * It is there for those few exchanges alone, and ranks are called by it alone
 * until it has ended. A thread that can't be had costs time, nothing else: the
 * exchanges are made at once.
 */

#include <signal.h>

#include "cpu/pool.h"
#include "ranks.h"

static void *make(void *arg)
{
    WanBehind *b = arg;

    for (int i = 0; i < b->n && b->ret >= 0; i++)
        b->ret = wan_ranks_exchange(b->ranks, b->exchange[i].out,
                                    b->exchange[i].in, b->exchange[i].what,
                                    b->cancel);
    return NULL;
}

void wan_ranks_behind(WanBehind *b, WanRanks *r, const WanExchange *x, int n,
                      const int *cancel)
{
    sigset_t saved;

    *b = (WanBehind){ .ranks = r, .exchange = x, .n = n, .cancel = cancel };
    r->transport->behind = 1;
    wan_block_signals(&saved);
    b->started = !pthread_create(&b->thread, NULL, make, b);
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    if (!b->started)
        make(b);
}

int wan_ranks_join(WanBehind *b)
{
    if (b->started)
        pthread_join(b->thread, NULL);
    b->started = 0;
    b->ranks->transport->behind = 0;
    return b->ret;
}
