/*
 * The pager: which matrices a device keeps and which pass through it.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Devices with memory of their own need copies of the matrices in the mapped
 * files. A job's stages (text, image, steps, decode) each use other ones, in
 * an order that is always the same, so the plan device writes it down: the
 * pager then knows, before anything is loaded, what every stage will want
 * next. Model code knows nothing of this.
 *
 * A stage's work lies at the bottom of the device's memory and its matrices
 * above. If all fit they stay until the stage ends. If not, as many as fit
 * stay, spread evenly, and the others pass through a ring: space is given out
 * in the order of use, and taken back from the oldest page whose last use is
 * over. Copies run ahead of use as far as the ring has room. The results are
 * the same bits in either case.
 *
 * Nothing here touches a device or a thread: who copies asks
 * wan_pager_next(), who computes asks wan_pager_use(), under one lock.
 */

#ifndef WAN_PAGER_H
#define WAN_PAGER_H

#include "tensor.h"

#define WAN_PAGE_ALIGN 256
#define WAN_PAGE_PARTS 3            // Q, K and V
#define WAN_PAGER_STAGES 5          // as enum WanStage, and
#define WAN_PAGER_SECOND 4          // the steps of the second of two experts

typedef enum WanPageState {
    WAN_PAGE_ABSENT,                // not there
    WAN_PAGE_PLANNED,               // has a place, the copy is somebody's job
    WAN_PAGE_COPIED                 // the copy was issued
} WanPageState;

/* One matrix as the device keeps it; or some of as many columns that are used
 * as one, the rows of each behind those of the one before. */
typedef struct WanPage {
    const void *key;                // the (first) matrix' data, see
                                    // wan_pager_note()
    WanTensor weight[WAN_PAGE_PARTS];   // as they are stored
    int parts;
    int conv;                       // [O, I, kt, kh, kw]; alone
    WanType type;                   // as the device has it
    int64_t bytes;                  // there, a multiple of WAN_PAGE_ALIGN
    int stays;                      // else it passes through the ring
    int64_t place;                  // offset in the stage's region; of a page
                                    // in the ring, while it is there
    WanPageState state;
    int64_t begin;                  // of a page in the ring
    int64_t last_use;               // in the order that was planned
    int64_t used;                   // when it really was, last
    void *opaque;                   // the copier's own
} WanPage;

typedef struct WanPagerStage {
    int64_t work;                   // bytes of the arena at its peak
    WanPage *page;                  // in order of first use
    int nb_pages;
    int *use;                       // pages in order of use
    int nb_uses;
    int repeat;                     // use to go on with after the last; -1:
                                    // none
    int64_t bytes, largest;         // of all pages
    int64_t room;                   // of the region
    int64_t ring, ring_bytes;       // its place in the region; 0: no ring
} WanPagerStage;

typedef struct WanPager {
    WanPagerStage stage[WAN_PAGER_STAGES];
    int noting;                     // the stage being planned
    int error;                      // WAN_ERR(ENOMEM); WAN_ERR(EINVAL): a
                                    // matrix in two pages, some as one in
                                    // e4m3; or 0
    int64_t vectors;                // bytes the small tensors take

    /* The running stage. */
    WanPagerStage *now;
    int64_t at;                     // use that computes, -1: none yet
    int64_t planned;                // uses before have their copies planned
    WanPage *wanted;                // out of turn
    int *queue;                     // pages in the ring, oldest first
    int64_t first, last;            // of queue, counted on and on
    int64_t head, tail;             // of the ring, counted on and on
    WanPage *after;                 // the page taken away whose use was latest
    int64_t after_used;             // that use, counted as it happened
    int64_t uses;                   // so far
} WanPager;

/* ------------------------------------------------------------- planning */

WanPager *wan_pager_alloc(void);    // NULL: no memory
void wan_pager_free(WanPager **p);

/* What is noted from now on belongs to that stage. */
void wan_pager_stage(WanPager *p, int stage);

/* The running stage uses w now, in a convolution or not. In a model of shapes
 * w->data is NULL and w itself stands for it. bytes: what the device's copy
 * takes. */
void wan_pager_note(WanPager *p, const WanTensor *w, int conv, WanType type,
                    int64_t bytes);

/* It uses n matrices as one page, which is known by the first: that may be no
 * other page's in this stage. n: 1 to WAN_PAGE_PARTS; more than one are not in
 * e4m3, where each would have its own scale. */
void wan_pager_note_parts(WanPager *p, int n, const WanTensor *const *w,
                          int conv, WanType type, int64_t bytes);

/* The running stage has so much of its arena in use. */
void wan_pager_work(WanPager *p, int64_t bytes);

/* The uses from here to the end of the stage come again and again. */
void wan_pager_repeat(WanPager *p);

/* Bytes of device memory with which a job can run at all, and with which
 * nothing is copied twice. */
void wan_pager_need(const WanPager *p, int64_t *least, int64_t *full);

/* Lay every stage out in that much device memory, at least what
 * wan_pager_need() calls least. */
void wan_pager_fit(WanPager *p, int64_t bytes);

/* Bytes that are copied in each round of a stage that was laid out, once it
 * is running; 0: everything stays. Not while a stage runs. */
int64_t wan_pager_streams(WanPager *p, int stage);

/* -------------------------------------------------------------- running */

/* Start a stage: nothing is there. No copy may be under way. */
void wan_pager_begin(WanPager *p, int stage);

/**
 * The next copy to make, in order.
 *
 * @param after  the copy may begin when the last use of *after is over; NULL:
 *               at once
 * @return the page, now PLANNED, which the caller makes COPIED; NULL: there
 *         is nothing to do before the next wan_pager_use()
 */
WanPage *wan_pager_next(WanPager *p, WanPage **after);

/**
 * The page of the matrix, or of some by their first, that is used next. Uses
 * before it are over: whoever computes has recorded so before calling.
 *
 * @return the page; it is safe until the next call. Wait until it is COPIED,
 *         which wan_pager_next() brings about. NULL: not one of this stage.
 */
WanPage *wan_pager_use(WanPager *p, const WanTensor *w);

/* Whether all pages of the running stage stay: their places don't change. */
int wan_pager_all_stay(const WanPager *p);

/* n uses, counted by p->at, are over without having been asked for: of pages
 * that stay and are there. */
void wan_pager_skip(WanPager *p, int64_t n);

#endif /* WAN_PAGER_H */
