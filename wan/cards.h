/*
 * Several cards of one process: device=cuda:0-7.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * They are ranks, one a card: the host is whoever opened the model, the others
 * are threads that serve, each with a model of its own from the same files.
 */

#ifndef WAN_CARDS_H
#define WAN_CARDS_H

#include "ranks.h"

/* The cards that a name lists, in its order: "cuda:0-3", "cuda:0,2,5-7". */
typedef struct WanCardList {
    char kind[16];              // "cuda"
    int nb;                     // 0: the name lists none
    int card[WAN_MAX_RANKS];
} WanCardList;

/** Read a name of a device. 0, or WAN_ERR(EINVAL): it is a list that is wrong,
 *  the line says how. */
int wan_cards_read(WanCardList *list, const char *device, const WanLog *log);

/* "cuda:2", the name of the i-th. */
const char *wan_cards_name(const WanCardList *list, int i, char *buf,
                           size_t size);

typedef struct WanCards WanCards;

/**
 * Start a thread for each card but the first, which is the host's.
 *
 * @param threads CPU threads of all, 0: as many as there are cores
 * @return 0, WAN_ERR(ENOMEM), or as wan_ranks_meet()
 */
int wan_cards_open(WanCards **out, const WanCardList *list, int threads,
                   const WanLog *log);

/* Its ranks, as the host sees them. */
WanRanks *wan_cards_ranks(WanCards *c);

/* They have no job; waits until the threads have ended. Takes NULL. */
void wan_cards_close(WanCards **c);

#endif /* WAN_CARDS_H */
