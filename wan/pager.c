/*
 * The pager.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <stdlib.h>

#include "pager.h"
#include "wan.h"

/* A ring of this part of a stage's matrices evens out the differences between
 * an op's time and its matrix' way to the device. */
#define RING_PART 16

static int64_t aligned(int64_t bytes)
{
    return (bytes + WAN_PAGE_ALIGN - 1) / WAN_PAGE_ALIGN * WAN_PAGE_ALIGN;
}

static const void *key_of(const WanTensor *w)
{
    return w->data ? w->data : (const void *)w;
}

/* ------------------------------------------------------------- planning */

WanPager *wan_pager_alloc(void)
{
    WanPager *p = calloc(1, sizeof(*p));

    for (int i = 0; p && i < WAN_PAGER_STAGES; i++)
        p->stage[i].repeat = -1;
    return p;
}

void wan_pager_free(WanPager **pp)
{
    WanPager *p = *pp;

    *pp = NULL;
    if (!p)
        return;
    for (int i = 0; i < WAN_PAGER_STAGES; i++) {
        free(p->stage[i].page);
        free(p->stage[i].use);
    }
    free(p->queue);
    free(p);
}

void wan_pager_stage(WanPager *p, int stage)
{
    p->noting = stage;
}

void wan_pager_work(WanPager *p, int64_t bytes)
{
    if (bytes > p->stage[p->noting].work)
        p->stage[p->noting].work = bytes;
}

void wan_pager_repeat(WanPager *p)
{
    p->stage[p->noting].repeat = p->stage[p->noting].nb_uses;
}

/* Room for one more of an array that grows by doubling; 0: no memory. */
static int grow(void *array, int n, size_t size)
{
    void **a = array, *more;

    if (n & (n - 1) || (n && n < 64))
        return 1;
    more = realloc(*a, (n ? 2 * (size_t)n : 64) * size);
    if (more)
        *a = more;
    return more != NULL;
}

void wan_pager_note(WanPager *p, const WanTensor *w, int conv, WanType type,
                    int64_t bytes)
{
    wan_pager_note_parts(p, 1, &w, conv, type, bytes);
}

void wan_pager_note_parts(WanPager *p, int n, const WanTensor *const *w,
                          int conv, WanType type, int64_t bytes)
{
    WanPagerStage *s = &p->stage[p->noting];
    const void *key = key_of(w[0]);
    int i = 0;

    while (i < s->nb_pages && s->page[i].key != key)
        i++;
    if ((i < s->nb_pages && s->page[i].parts != n) ||
        (n > 1 && type == WAN_F8_E4M3)) {
        p->error = WAN_ERR(EINVAL);
        return;
    }
    if (!grow(&s->use, s->nb_uses, sizeof(*s->use)) ||
        (i == s->nb_pages && !grow(&s->page, i, sizeof(*s->page)))) {
        p->error = WAN_ERR(ENOMEM);
        return;
    }
    if (i == s->nb_pages) {
        bytes = aligned(bytes);
        s->page[s->nb_pages++] = (WanPage){
            .key = key, .parts = n, .conv = conv, .type = type,
            .bytes = bytes
        };
        for (int k = 0; k < n; k++)
            s->page[i].weight[k] = *w[k];
        s->bytes += bytes;
        if (bytes > s->largest)
            s->largest = bytes;
    }
    s->use[s->nb_uses++] = i;
}

/* The least ring: one matrix is used while the next is on its way. */
static int64_t least_ring(const WanPagerStage *s)
{
    return s->bytes < 2 * s->largest ? s->bytes : 2 * s->largest;
}

void wan_pager_need(const WanPager *p, int64_t *least, int64_t *full)
{
    *least = *full = 0;
    for (int i = 0; i < WAN_PAGER_STAGES; i++) {
        const WanPagerStage *s = &p->stage[i];
        const int64_t low = aligned(s->work) + least_ring(s);
        const int64_t high = aligned(s->work) + s->bytes;

        *least = low > *least ? low : *least;
        *full = high > *full ? high : *full;
    }
    *least += aligned(p->vectors);
    *full += aligned(p->vectors);
}

static void fit_stage(WanPagerStage *s)
{
    int64_t stay = s->bytes, used = 0;
    double debt = 0;

    s->ring_bytes = 0;
    if (s->bytes > s->room) {
        s->ring_bytes = s->bytes / RING_PART;
        if (s->ring_bytes < least_ring(s))
            s->ring_bytes = least_ring(s);
        if (s->ring_bytes > s->room)
            s->ring_bytes = s->room;
        s->ring_bytes -= s->ring_bytes % WAN_PAGE_ALIGN;
        stay = s->room - s->ring_bytes;
    }
    /* Of every stretch of pages the same part passes through the ring, so
     * that copies have the time of what stays to hide behind. */
    for (int i = 0; i < s->nb_pages; i++) {
        WanPage *page = &s->page[i];

        debt += page->bytes * (1 - (double)stay / s->bytes);
        page->stays = debt < page->bytes && used + page->bytes <= stay;
        if (page->stays) {
            page->place = used;
            used += page->bytes;
        } else {
            debt -= page->bytes;
        }
    }
    s->ring = used;
}

void wan_pager_fit(WanPager *p, int64_t bytes)
{
    for (int i = 0; i < WAN_PAGER_STAGES; i++) {
        WanPagerStage *s = &p->stage[i];

        s->room = bytes - aligned(p->vectors) - aligned(s->work);
        s->room -= s->room % WAN_PAGE_ALIGN;
        fit_stage(s);
    }
}

/* -------------------------------------------------------------- running */

void wan_pager_begin(WanPager *p, int stage)
{
    WanPagerStage *s = &p->stage[stage];

    p->now = s;
    p->at = -1;
    p->planned = p->first = p->last = p->head = p->tail = p->uses = 0;
    p->wanted = p->after = NULL;

    free(p->queue);
    p->queue = calloc(s->nb_pages + 1, sizeof(*p->queue));
    if (!p->queue)
        p->error = WAN_ERR(ENOMEM);
    for (int i = 0; i < s->nb_pages; i++) {
        s->page[i].state = WAN_PAGE_ABSENT;
        s->page[i].last_use = -1;
        s->page[i].used = 0;
    }
}

/* The page of use v, counted on over all rounds; NULL: behind the end. */
static WanPage *page_at(const WanPagerStage *s, int64_t v)
{
    if (v >= s->nb_uses) {
        if (s->repeat < 0 || s->repeat >= s->nb_uses)
            return NULL;
        v = s->repeat + (v - s->nb_uses) % (s->nb_uses - s->repeat);
    }
    return v < 0 ? NULL : &s->page[s->use[v]];
}

/* A place in the ring for a page, where the oldest may have to go; 0: they
 * are still needed. */
static int reserve(WanPager *p, WanPage *page)
{
    const WanPagerStage *s = p->now;
    const int64_t R = s->ring_bytes;
    const int n = s->nb_pages + 1;

    for (;;) {
        int64_t begin = p->head;

        if (p->first == p->last)
            begin = p->head = p->tail = 0;
        if (begin % R + page->bytes > R)
            begin += R - begin % R;             // no page is in two pieces
        if (begin + page->bytes - p->tail <= R) {
            page->begin = begin;
            page->place = s->ring + begin % R;
            p->head = begin + page->bytes;
            p->queue[p->last++ % n] = (int)(page - s->page);
            return 1;
        }
        if (p->first == p->last)
            return 0;                           // larger than the ring
        WanPage *oldest = &s->page[p->queue[p->first % n]];
        if (oldest->last_use >= p->at || oldest->state != WAN_PAGE_COPIED)
            return 0;
        oldest->state = WAN_PAGE_ABSENT;
        if (!p->after || oldest->used > p->after_used) {
            p->after = oldest;
            p->after_used = oldest->used;       // it may come back
        }
        p->first++;
        p->tail = p->first == p->last ? p->head
                : s->page[p->queue[p->first % n]].begin;
    }
}

WanPage *wan_pager_next(WanPager *p, WanPage **after)
{
    const WanPagerStage *s = p->now;
    WanPage *page;

    *after = NULL;
    if (!s || p->error)
        return NULL;
    if ((page = p->wanted)) {
        p->wanted = NULL;
        if (page->state == WAN_PAGE_ABSENT) {
            page->state = WAN_PAGE_PLANNED;
            return page;
        }
    }
    for (; p->planned <= p->at + s->nb_uses; p->planned++) {
        page = page_at(s, p->planned);
        if (!page)
            return NULL;
        if (page->state == WAN_PAGE_ABSENT) {
            if (!page->stays && !reserve(p, page))
                return NULL;
            page->state = WAN_PAGE_PLANNED;
            page->last_use = p->planned++;
            *after = page->stays ? NULL : p->after;
            return page;
        }
        page->last_use = p->planned;
    }
    return NULL;
}

static WanPage *find(WanPager *p, const void *key)
{
    const WanPagerStage *s = p->now;
    WanPage *page = s ? page_at(s, p->at) : NULL;

    if (!s || p->error)
        return NULL;
    if (page && page->key == key)
        return page;                            // once more
    page = page_at(s, p->at + 1);
    if (page && page->key == key) {
        p->at++;
        return page;
    }
    /* Out of turn, as a test's taps are: what stays is simply there, for the
     * rest the turn moves on to its next use. */
    for (int i = 0; i < s->nb_pages; i++)
        if (s->page[i].key == key && s->page[i].stays) {
            if (s->page[i].state == WAN_PAGE_ABSENT)
                p->wanted = &s->page[i];
            return &s->page[i];
        }
    for (int64_t v = p->at + 2; v <= p->at + 1 + s->nb_uses; v++) {
        page = page_at(s, v);
        if (!page)
            return NULL;
        if (page->key == key) {
            p->at = v;
            if (p->planned < v)
                p->planned = v;
            return page;
        }
    }
    return NULL;
}

static WanPage *use(WanPager *p, const void *key)
{
    WanPage *page = find(p, key);

    if (page)
        page->used = ++p->uses;
    return page;
}

WanPage *wan_pager_use(WanPager *p, const WanTensor *w)
{
    return use(p, key_of(w));
}

int wan_pager_all_stay(const WanPager *p)
{
    return p->now && !p->now->ring_bytes;
}

void wan_pager_skip(WanPager *p, int64_t n)
{
    p->at += n;
    p->uses += n;
}

int64_t wan_pager_streams(WanPager *p, int stage)
{
    const WanPagerStage *s = &p->stage[stage];
    const int64_t end = s->nb_uses + (s->repeat < 0 ? 0 : s->nb_uses -
                                                          s->repeat);
    WanPage *page, *after;
    int64_t sum = 0;

    /* A round to fill the ring, and one that counts. */
    wan_pager_begin(p, stage);
    for (int64_t v = 0; v < end; v++) {
        use(p, page_at(s, v)->key);
        while ((page = wan_pager_next(p, &after))) {
            page->state = WAN_PAGE_COPIED;
            if (v >= s->nb_uses)
                sum += page->bytes;
        }
    }
    p->now = NULL;
    return s->ring_bytes ? sum : 0;
}
