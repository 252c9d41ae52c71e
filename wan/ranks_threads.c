/*
 * Ranks that are threads of one process: notes and data between them.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Notes are lists, one for each pair. For data a sender lays out where it is,
 * and its receiver copies it, so that nothing is kept. Little goes this way:
 * that of cards goes between cards.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ranks.h"

/* Between two questions whether to go on waiting: ns. */
#define LOOK 50000000

typedef struct Letter {
    WanNote note;
    struct Letter *next;
} Letter;

/* What one rank has for another. */
typedef struct Box {
    Letter *first, **last;
    const void *data;           // laid out; NULL: nothing is
    int64_t bytes;
} Box;

/* Shared by all; freed by the last one to close. */
typedef struct Room {
    pthread_mutex_t lock;
    pthread_cond_t moved;       // data was laid out or taken, or one has left
    int size, here;
    int gone[WAN_MAX_RANKS];
    Box *box;                   // [from * size + to]
} Room;

typedef struct Thread {
    WanTransport t;
    Room *room;
} Thread;

static Box *box(const Thread *me, int from, int to)
{
    return &me->room->box[from * me->room->size + to];
}

static int tell(WanTransport *t, int rank, const WanNote *note)
{
    Thread *me = (Thread *)t;
    Box *b = box(me, t->rank, rank);
    Letter *l = malloc(sizeof(*l));

    if (!l)
        return WAN_ERR(EIO);
    *l = (Letter){ *note, NULL };
    pthread_mutex_lock(&me->room->lock);
    *b->last = l;
    b->last = &l->next;
    pthread_mutex_unlock(&me->room->lock);
    return 0;
}

static int hear(WanTransport *t, int rank, WanNote *note)
{
    Thread *me = (Thread *)t;
    Box *b = box(me, rank, t->rank);
    Letter *l;
    int gone;

    pthread_mutex_lock(&me->room->lock);
    if ((l = b->first) && !(b->first = l->next))
        b->last = &b->first;
    gone = me->room->gone[rank];
    pthread_mutex_unlock(&me->room->lock);
    if (!l)
        return gone ? WAN_ERR(EIO) : 0;
    *note = l->note;
    free(l);
    return 1;
}

/* Take what is laid out for this rank: how many parcels are still to come, or
 * below 0. */
static int take(Thread *me, const WanParcel *in, int *got)
{
    int left = 0;

    for (int q = 0; q < me->t.size; q++) {
        Box *b = box(me, q, me->t.rank);

        if (q == me->t.rank || !in[q].bytes || got[q])
            continue;
        if (b->data && b->bytes != in[q].bytes)
            return WAN_ERR(EIO);
        if (b->data) {
            memcpy(in[q].data, b->data, b->bytes);
            b->data = NULL;
            got[q] = 1;
            pthread_cond_broadcast(&me->room->moved);
        } else if (me->room->gone[q]) {
            return WAN_ERR(EIO);
        } else {
            left++;
        }
    }
    return left;
}

/* How many of this rank's parcels still lie there, or below 0. */
static int lying(const Thread *me)
{
    int n = 0;

    for (int q = 0; q < me->t.size; q++)
        if (box(me, me->t.rank, q)->data) {
            if (me->room->gone[q])
                return WAN_ERR(EIO);
            n++;
        }
    return n;
}

/* What of an exchange has not happened; 0: all has. */
static int missing(Thread *me, const WanParcel *in, int *got)
{
    const int left = take(me, in, got), lie = lying(me);

    return left < 0 || lie < 0 ? WAN_ERR(EIO) : left + lie;
}

/* Something moves, or it is time to ask. */
static void wait_moved(Room *room)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += LOOK;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&room->moved, &room->lock, &t);
}

static int exchange(WanTransport *t, const WanParcel *out, const WanParcel *in,
                    int (*alive)(void *), void *arg)
{
    Thread *me = (Thread *)t;
    int got[WAN_MAX_RANKS] = { 0 }, ended = 0, ret;

    pthread_mutex_lock(&me->room->lock);
    for (int q = 0; q < t->size; q++)
        if (q != t->rank && out[q].bytes) {
            box(me, t->rank, q)->bytes = out[q].bytes;
            box(me, t->rank, q)->data = out[q].data;
        }
    pthread_cond_broadcast(&me->room->moved);
    while ((ret = missing(me, in, got)) > 0) {
        if ((ret = ended) < 0)
            break;
        wait_moved(me->room);
        pthread_mutex_unlock(&me->room->lock);
        ended = alive(arg);     // it may hear notes
        pthread_mutex_lock(&me->room->lock);
    }
    for (int q = 0; q < t->size; q++)
        box(me, t->rank, q)->data = NULL;
    pthread_mutex_unlock(&me->room->lock);
    return ret;
}

static void room_free(Room *room)
{
    for (int i = 0; room->box && i < room->size * room->size; i++)
        while (room->box[i].first) {
            Letter *l = room->box[i].first;

            room->box[i].first = l->next;
            free(l);
        }
    pthread_cond_destroy(&room->moved);
    pthread_mutex_destroy(&room->lock);
    free(room->box);
    free(room);
}

static void leave(WanTransport *t, int ordered)
{
    Thread *me = (Thread *)t;
    Room *room = me->room;
    int here;

    (void)ordered;
    pthread_mutex_lock(&room->lock);
    room->gone[t->rank] = 1;
    here = --room->here;
    pthread_cond_broadcast(&room->moved);
    pthread_mutex_unlock(&room->lock);
    if (!here)
        room_free(room);
    free(me);
}

static Room *room_alloc(int size)
{
    Room *room = calloc(1, sizeof(*room));
    pthread_condattr_t attr;

    if (!room)
        return NULL;
    pthread_mutex_init(&room->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&room->moved, &attr);
    pthread_condattr_destroy(&attr);
    room->size = room->here = size;
    room->box = calloc((size_t)size * size, sizeof(*room->box));
    if (!room->box) {
        room_free(room);
        return NULL;
    }
    for (int i = 0; i < size * size; i++)
        room->box[i].last = &room->box[i].first;
    return room;
}

int wan_transport_threads(WanTransport **out, int size)
{
    Room *room = room_alloc(size);
    Thread *t[WAN_MAX_RANKS];

    if (!room)
        return WAN_ERR(ENOMEM);
    for (int r = 0; r < size; r++) {
        if (!(t[r] = malloc(sizeof(*t[r])))) {
            while (r--)
                free(t[r]);
            room_free(room);
            return WAN_ERR(ENOMEM);
        }
        *t[r] = (Thread){ { r, size, tell, hear, exchange, NULL, leave, 0 },
                            room };
        out[r] = &t[r]->t;
    }
    return 0;
}
