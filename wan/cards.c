/*
 * Several cards of one process.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cards.h"
#include "cpu/pool.h"

/* ------------------------------------------------------------------- names */

static int bad(const WanLog *log, const char *device, const char *why)
{
    return wan_error(log, WAN_ERR(EINVAL), "device %.100s: %s; cuda:0-3 or "
                     "cuda:0,2,5 can be", device, why);
}

/* A number of three digits at most; -1: there is none. */
static int read_number(const char **p)
{
    const size_t n = strspn(*p, "0123456789");
    const int number = n && n < 4 ? atoi(*p) : -1;

    *p += n;
    return number;
}

static int add(WanCardList *list, int card)
{
    for (int i = 0; i < list->nb; i++)
        if (list->card[i] == card)
            return 0;
    if (list->nb == WAN_MAX_RANKS)
        return 0;
    list->card[list->nb++] = card;
    return 1;
}

int wan_cards_read(WanCardList *list, const char *device, const WanLog *log)
{
    const char *p = strchr(device, ':');
    int first, last;

    *list = (WanCardList){ .nb = 0 };
    if (strncmp(device, "cuda", 4) || !p || !strpbrk(p, "-,") ||
        p - device >= (int)sizeof(list->kind))
        return 0;
    memcpy(list->kind, device, p - device);
    do {
        p++;
        first = last = read_number(&p);
        if (*p == '-') {
            p++;
            last = read_number(&p);
        }
        if (first < 0 || last < first || (*p && *p != ','))
            return bad(log, device, "it is no list of cards");
        for (; first <= last; first++)
            if (!add(list, first))
                return bad(log, device, list->nb == WAN_MAX_RANKS
                           ? "it lists too many cards"
                           : "it lists a card twice");
    } while (*p);
    return 0;
}

const char *wan_cards_name(const WanCardList *list, int i, char *buf,
                           size_t size)
{
    snprintf(buf, size, "%s:%d", list->kind, list->card[i]);
    return buf;
}

/* ----------------------------------------------------------------- threads */

typedef struct Server {
    pthread_t thread;
    WanTransport *transport;
    char device[32];
    int threads;
} Server;

struct WanCards {
    WanRanks *ranks;            // the host's
    int nb;                     // threads that have begun
    Server server[WAN_MAX_RANKS];   // from 1
};

/* It says nothing: the host repeats why a rank failed. */
static void *serve(void *arg)
{
    const Server *s = arg;
    WanRanks *r;

    if (wan_ranks_meet(&r, s->transport, 0, NULL) >= 0) {
        wan_ranks_serve(r, s->threads, s->device, NULL);
        wan_ranks_close(&r);
    }
    return NULL;
}

static int start(WanCards *c, const WanCardList *list, WanTransport **t,
                 int threads)
{
    sigset_t saved;
    int e = 0;

    wan_block_signals(&saved);
    for (int i = 1; i < list->nb && !e; i++) {
        Server *s = &c->server[i];

        s->transport = t[i];
        s->threads = threads && threads < list->nb ? 1 : threads / list->nb;
        wan_cards_name(list, i, s->device, sizeof(s->device));
        if (!(e = pthread_create(&s->thread, NULL, serve, s)))
            c->nb++;
    }
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    return e;
}

static void join(WanCards *c)
{
    for (int i = 1; i <= c->nb; i++)
        pthread_join(c->server[i].thread, NULL);
    free(c);
}

int wan_cards_open(WanCards **out, const WanCardList *list, int threads,
                   const WanLog *log)
{
    WanTransport *t[WAN_MAX_RANKS];
    WanCards *c = calloc(1, sizeof(*c));
    int ret;

    *out = NULL;
    if (!c || wan_transport_threads(t, list->nb) < 0) {
        free(c);
        return wan_error_memory(log, "device cuda", "ranks");
    }
    if (start(c, list, t, threads)) {
        ret = wan_error_memory(log, "device cuda", "a thread for each card");
        for (int i = c->nb + 1; i < list->nb; i++)
            t[i]->close(t[i], 0);
        t[0]->close(t[0], 0);
        join(c);
        return ret;
    }
    if ((ret = wan_ranks_meet(&c->ranks, t[0], 1, log)) < 0) {
        join(c);
        return ret;
    }
    *out = c;
    return 0;
}

WanRanks *wan_cards_ranks(WanCards *c)
{
    return c->ranks;
}

void wan_cards_close(WanCards **cp)
{
    WanCards *c = *cp;

    *cp = NULL;
    if (!c)
        return;
    wan_ranks_close(&c->ranks);
    join(c);
}
