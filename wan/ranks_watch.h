/*
 * Who of the ranks is there.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Of processes of this machine the system knows whether they are gone. One that
 * is there may hang: it was stopped, or its machine is gone. So a thread of each
 * process gives the others a sign of life four times a second, whatever its
 * process computes, and counts the seconds for which each of them gave none. It
 * counts those that it ran itself: a sleep of the machine, or a stop of all
 * processes, is nobody's silence. Nor is that of a process that a debugger has.
 */

#ifndef WAN_RANKS_WATCH_H
#define WAN_RANKS_WATCH_H

#include "ranks.h"

/* How long a rank may be silent: s. */
#define WAN_RANK_HANGS 15

/* Why a rank is lost, the end of its line. */
typedef struct WanLoss {
    int rank;                   // -1: all are there
    int there;                  // it may still hear of it
    char why[64];
} WanLoss;

/**
 * Watch all other ranks of a transport. Where that has no beat() there is no
 * thread, and only who is gone is known.
 *
 * @param info of all of them; must live as long
 * @return 0, or WAN_ERR(ENOMEM)
 */
int wan_watch_open(WanWatch **out, WanTransport *t, const WanRankInfo *info);

/* The transport hears no more of it. Takes NULL. */
void wan_watch_close(WanWatch **w);

/** The rank that was lost first; of NULL none is. */
WanLoss wan_watch_lost(WanWatch *w);

/** Whether a rank may be waited for in vain: it is stopped, or on another
 *  machine and silent for a moment. */
int wan_watch_doubts(WanWatch *w);

/** That rank leaves in order. */
void wan_watch_leaves(WanWatch *w, int rank);

/** The silence by which a rank is lost, for tests: s. */
void wan_watch_hangs(WanWatch *w, double silence);

/** Whether a rank is, or was, another process of this machine. */
int wan_rank_is_here(const WanRankInfo *i, const WanRankInfo *me);

/** When a process of this machine began, in ticks since boot; 0: it is gone. */
int64_t wan_process_start(int64_t pid);

#endif /* WAN_RANKS_WATCH_H */
