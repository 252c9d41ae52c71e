/*
 * Who of the ranks is there: processes of this machine, signs of life.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/pool.h"
#include "ranks_watch.h"

/* Between two signs of life: s. */
#define BEAT 0.25
/* Silence after which one of another machine may not answer: s. */
#define DOUBT 1.5

struct WanWatch {
    WanTransport *transport;
    const WanRankInfo *info;
    pthread_t thread;
    int runs;                   // it does
    pthread_mutex_t lock;       // of what follows
    pthread_cond_t over;
    int ends;
    double hangs;
    double silent[WAN_MAX_RANKS];   // s that this process ran
    char state[WAN_MAX_RANKS];  // as in /proc; 0: of another machine
    uint8_t sign[WAN_MAX_RANKS];    // the last that was heard
    uint8_t left[WAN_MAX_RANKS];    // it is no longer watched
    WanLoss lost;
};

/* ------------------------------------------------------------- processes */

/* What /proc says of a process; 0: it is gone or a zombie. */
static char process_state(int64_t pid, int64_t *start)
{
    char path[64], line[1024], state = 0;
    const char *p;
    long long began = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)pid);
    if (!(f = fopen(path, "re")))
        return 0;
    if (fgets(line, sizeof(line), f) && (p = strrchr(line, ')')) &&
        (sscanf(p + 1, " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                "%*s %*s %*s %*s %*s %*s %lld", &state, &began) != 2 ||
         state == 'Z' || state == 'X'))
        state = 0;
    fclose(f);
    *start = began;
    return state;
}

int64_t wan_process_start(int64_t pid)
{
    int64_t start;

    return process_state(pid, &start) ? start : 0;
}

int wan_rank_is_here(const WanRankInfo *i, const WanRankInfo *me)
{
    return i->start && i->pid != me->pid && !strcmp(i->node, me->node);
}

/* Whether this process has a debugger. */
static int is_traced(void)
{
    char line[256];
    long tracer = 0;
    FILE *f = fopen("/proc/self/status", "re");

    while (f && fgets(line, sizeof(line), f) &&
           sscanf(line, "TracerPid: %ld", &tracer) != 1)
        ;
    if (f)
        fclose(f);
    return tracer != 0;
}

/* -------------------------------------------------------------- watching */

static void lose(WanWatch *w, int rank, int there, const char *why)
{
    if (w->lost.rank >= 0)
        return;
    w->lost.rank = rank;
    w->lost.there = there;
    snprintf(w->lost.why, sizeof(w->lost.why), "%s", why);
}

/* The processes of this machine. Of those that are found gone at once the host
 * is named last: a launcher makes it end when another has died. */
static void look(WanWatch *w)
{
    const WanRankInfo *me = &w->info[w->transport->rank];
    const int size = w->transport->size;
    int first = -1, gone = 0;

    for (int i = 1; i <= size; i++) {
        const int q = i % size;
        const WanRankInfo *of = &w->info[q];
        int64_t start;

        if (!wan_rank_is_here(of, me) || w->left[q])
            continue;
        w->state[q] = process_state(of->pid, &start);
        if (w->state[q] && start == of->start)
            continue;
        if (!gone++)
            first = q;
    }
    if (gone)
        lose(w, first, 0, gone == 1 ? "is gone"
             : "is gone, as others are: the launcher tells the first");
}

/* A debugger has it: it may be stopped for as long as somebody likes. */
static int is_debugged(const WanWatch *w, int q)
{
    return w->state[q] == 't' || w->sign[q] & WAN_SIGN_TRACED;
}

/* Signs of life of all, after so many seconds. */
static void beat(WanWatch *w, double seconds)
{
    const uint8_t own = WAN_SIGN | (is_traced() ? WAN_SIGN_TRACED : 0);
    uint8_t sign[WAN_MAX_RANKS] = { 0 };
    char why[sizeof(w->lost.why)];

    w->transport->beat(w->transport, own, sign);
    for (int q = 0; q < w->transport->size; q++) {
        if (sign[q])
            w->sign[q] = sign[q];
        w->silent[q] += seconds;
        if (q == w->transport->rank || sign[q] || is_debugged(w, q) ||
            w->left[q])
            w->silent[q] = 0;
        if (w->silent[q] <= w->hangs)
            continue;
        snprintf(why, sizeof(why), "gave no sign of life for %.3g s%s",
                 w->hangs, w->state[q] == 'T' ? ": it is stopped" : "");
        lose(w, q, 1, why);
    }
}

static double since(struct timespec *last)
{
    const struct timespec before = *last;

    clock_gettime(CLOCK_MONOTONIC, last);
    return last->tv_sec - before.tv_sec +
           (last->tv_nsec - before.tv_nsec) * 1e-9;
}

static void *watch(void *arg)
{
    WanWatch *w = arg;
    struct timespec last, until;
    double passed;

    clock_gettime(CLOCK_MONOTONIC, &last);
    pthread_mutex_lock(&w->lock);
    while (!w->ends) {
        until = last;
        until.tv_nsec += BEAT * 1e9;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&w->over, &w->lock, &until);
        if (w->ends)
            break;
        /* where it is more this process did not run either */
        passed = since(&last);
        look(w);
        beat(w, passed < 2 * BEAT ? passed : 2 * BEAT);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int wan_watch_open(WanWatch **out, WanTransport *t, const WanRankInfo *info)
{
    WanWatch *w = calloc(1, sizeof(*w));
    pthread_condattr_t attr;
    sigset_t saved;

    if (!(*out = w))
        return WAN_ERR(ENOMEM);
    w->transport = t;
    w->info = info;
    w->hangs = WAN_RANK_HANGS;
    w->lost.rank = -1;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->over, &attr);
    pthread_condattr_destroy(&attr);
    if (!t->beat)
        return 0;
    wan_block_signals(&saved);
    w->runs = !pthread_create(&w->thread, NULL, watch, w);
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    if (w->runs)
        return 0;
    wan_watch_close(out);
    return WAN_ERR(ENOMEM);
}

void wan_watch_close(WanWatch **wp)
{
    WanWatch *w = *wp;

    *wp = NULL;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->ends = 1;
    pthread_cond_signal(&w->over);
    pthread_mutex_unlock(&w->lock);
    if (w->runs)
        pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->over);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

WanLoss wan_watch_lost(WanWatch *w)
{
    WanLoss lost = { .rank = -1 };

    if (!w)
        return lost;
    pthread_mutex_lock(&w->lock);
    look(w);
    lost = w->lost;
    pthread_mutex_unlock(&w->lock);
    return lost;
}

int wan_watch_doubts(WanWatch *w)
{
    int doubts = 0;

    if (!w)
        return 0;
    pthread_mutex_lock(&w->lock);
    look(w);
    for (int q = 0; q < w->transport->size; q++)
        doubts |= w->state[q] ? w->state[q] == 'T' || w->state[q] == 't'
                              : w->silent[q] > DOUBT;
    doubts |= w->lost.rank >= 0;
    pthread_mutex_unlock(&w->lock);
    return doubts;
}

void wan_watch_leaves(WanWatch *w, int rank)
{
    pthread_mutex_lock(&w->lock);
    w->left[rank] = 1;
    w->state[rank] = 0;
    w->silent[rank] = 0;
    pthread_mutex_unlock(&w->lock);
}

void wan_watch_hangs(WanWatch *w, double silence)
{
    pthread_mutex_lock(&w->lock);
    w->hangs = silence;
    pthread_mutex_unlock(&w->lock);
}
