/*
 * The pager, with a device that is made up.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The made-up device has two queues, as a GPU has a compute and a copy
 * stream: work is put in at once and done later, in any interleaving that the
 * waits between the queues allow. A computation looks at its page's memory
 * when it is done, not when it is put in: a copy that came too late, or one
 * over a page still needed, shows.
 */

#include <string.h>

#include "pager.h"
#include "test.h"
#include "wan.h"

static uint64_t seed;

static uint32_t random_u32(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return seed >> 32;
}

#define MAX_PAGES 200
#define MAX_WORK 100000

typedef struct Work {
    int page;
    int64_t place, bytes;
    int64_t wait;               // work of the other queue to be done before
} Work;

typedef struct Device {
    WanPager *pager;
    WanTensor weight[MAX_PAGES];
    short *memory;              // page + 1 of each WAN_PAGE_ALIGN bytes
    Work compute[MAX_WORK], copy[MAX_WORK];
    int64_t computes, copies, computed, copied;     // put in, done
    int64_t used_at[MAX_PAGES]; // computes when the page's use was put in
    int64_t copied_at[MAX_PAGES];
    int64_t copied_bytes;
    int wrong;
} Device;

/* A chance for both queues to go on. */
static void run_some(Device *d, int n)
{
    while (n-- > 0) {
        if (random_u32() & 1) {
            const Work *w = &d->copy[d->copied];

            if (d->copied < d->copies && w->wait <= d->computed) {
                for (int64_t i = 0; i < w->bytes; i += WAN_PAGE_ALIGN)
                    d->memory[(w->place + i) / WAN_PAGE_ALIGN] = w->page + 1;
                d->copied++;
            }
        } else {
            const Work *w = &d->compute[d->computed];

            if (d->computed < d->computes && w->wait <= d->copied) {
                for (int64_t i = 0; i < w->bytes; i += WAN_PAGE_ALIGN)
                    d->wrong += d->memory[(w->place + i) / WAN_PAGE_ALIGN] !=
                                w->page + 1;
                d->computed++;
            }
        }
    }
}

/* As the copier does: up to n copies. */
static int put_copies(Device *d, int n)
{
    int made = 0;

    while (made < n) {
        WanPage *after, *page = wan_pager_next(d->pager, &after);

        if (!page)
            break;
        const int i = (int)((WanTensor *)page->key - d->weight);
        d->copy[d->copies++] = (Work){
            i, page->place, page->bytes,
            after ? d->used_at[(WanTensor *)after->key - d->weight] : 0
        };
        d->copied_at[i] = d->copies;
        d->copied_bytes += page->bytes;
        page->state = WAN_PAGE_COPIED;
        made++;
    }
    return made;
}

/* As an op does. */
static int use(Device *d, int i)
{
    WanPage *page = wan_pager_use(d->pager, &d->weight[i]);

    if (!CHECKF(page != NULL, "page %d is not known", i))
        return 0;
    for (int tries = 0; page->state != WAN_PAGE_COPIED; tries++)
        if (!put_copies(d, 1) || tries > 1000)
            return CHECKF(0, "page %d never comes", i);
    put_copies(d, random_u32() % 3);    // between asking and launching
    d->compute[d->computes++] = (Work){ i, page->place, page->bytes,
                                        d->copied_at[i] };
    d->used_at[i] = d->computes;
    return 1;
}

/* A stage of n pages of up to most units; uses in order, each page `twice`
 * per block of `block`, then over again. */
static Device *device(int n, int most, int block, int stage)
{
    Device *d = calloc(1, sizeof(*d));

    d->pager = wan_pager_alloc();
    wan_pager_stage(d->pager, stage);
    wan_pager_work(d->pager, 1000);
    wan_pager_repeat(d->pager);
    for (int first = 0; first < n; first += block)
        for (int branch = 0; branch < 2; branch++)
            for (int i = first; i < first + block && i < n; i++) {
                const int64_t units = 1 + i * 7919 % most;

                wan_pager_note(d->pager, &d->weight[i], 0, WAN_BF16,
                               units * WAN_PAGE_ALIGN - 3);
            }
    return d;
}

static void device_free(Device *d)
{
    wan_pager_free(&d->pager);
    free(d->memory);
    free(d);
}

static void place(Device *d, int stage, int64_t bytes)
{
    const WanPagerStage *s = &d->pager->stage[stage];

    wan_pager_fit(d->pager, bytes);
    CHECK((wan_pager_streams(d->pager, stage) > 0) == (s->bytes > s->room));
    d->memory = calloc(s->room / WAN_PAGE_ALIGN + 1, sizeof(*d->memory));
    wan_pager_begin(d->pager, stage);
    CHECK(s->ring + s->ring_bytes <= s->room);
}

TEST(what_fits_stays)
{
    Device *d = device(60, 9, 10, 2);
    int64_t least, full;

    seed = 1;
    wan_pager_need(d->pager, &least, &full);
    CHECK(least < full);
    place(d, 2, full);
    for (int round = 0; round < 5; round++)
        for (int k = 0; k < d->pager->now->nb_uses; k++) {
            if (!use(d, d->pager->now->use[k]))
                break;
            put_copies(d, 3);
            run_some(d, 5);
        }
    run_some(d, 100000);
    CHECK(d->computed == d->computes && !d->wrong);
    CHECKF(d->copied_bytes == d->pager->now->bytes, "%lld copied of %lld",
           (long long)d->copied_bytes, (long long)d->pager->now->bytes);
    device_free(d);
}

/* Any size between the two, any interleaving: always the right bytes. */
TEST(what_does_not_fit_passes_through)
{
    for (int t = 0; t < 300; t++) {
        seed = t + 1;
        Device *d = device(20 + random_u32() % 100, 1 + random_u32() % 12,
                           1 + random_u32() % 11, 2);
        const int eager = random_u32() % 4, lazy = 1 + random_u32() % 12;
        int64_t least, full, rounds = 0;

        wan_pager_need(d->pager, &least, &full);
        place(d, 2, least + (full - least) * (t % 16) / 16);
        const WanPagerStage *s = d->pager->now;
        for (; rounds < 4; rounds++)
            for (int k = 0; k < s->nb_uses; k++) {
                if (!use(d, s->use[k]))
                    rounds = 100;
                put_copies(d, eager);
                run_some(d, lazy);
            }
        run_some(d, 100000);
        CHECKF(d->computed == d->computes && d->copied == d->copies,
               "%d: the queues wait for each other", t);
        CHECKF(!d->wrong, "%d: %d times wrong memory", t, d->wrong);
        device_free(d);
    }
}

/* Both branches of guidance use a block's pages one after the other: the ring
 * holds them that long. */
TEST(a_block_used_twice_is_copied_once)
{
    Device *d = device(160, 5, 8, 2);
    int64_t least, full, stay = 0;

    seed = 3;
    wan_pager_need(d->pager, &least, &full);
    place(d, 2, least + (full - least) * 3 / 4);
    const WanPagerStage *s = d->pager->now;
    for (int i = 0; i < s->nb_pages; i++)
        stay += s->page[i].stays ? s->page[i].bytes : 0;
    CHECK(stay > 0 && stay < s->bytes);
    CHECK(wan_pager_streams(d->pager, 2) == s->bytes - stay);
    wan_pager_begin(d->pager, 2);
    for (int round = 0; round < 3; round++)
        for (int k = 0; k < s->nb_uses; k++)
            if (use(d, s->use[k]))
                put_copies(d, 2), run_some(d, 6);
    CHECK(!d->wrong);
    CHECKF(d->copied_bytes <= stay + 4 * (s->bytes - stay),
           "%lld copied; %lld stay, %lld pass", (long long)d->copied_bytes,
           (long long)stay, (long long)(s->bytes - stay));
    device_free(d);
}

/* A listener makes ops of its own, with matrices before their turn. */
TEST(out_of_turn)
{
    for (int t = 0; t < 100; t++) {
        seed = 1000 + t;
        Device *d = device(64, 6, 8, 2);
        int64_t least, full;

        wan_pager_need(d->pager, &least, &full);
        place(d, 2, least + (full - least) * (t % 5) / 4);
        const WanPagerStage *s = d->pager->now;
        for (int round = 0; round < 2; round++)
            for (int k = 0; k < s->nb_uses; k++) {
                if (!use(d, s->use[k]))
                    break;
                if (random_u32() % 4 == 0 &&
                    !use(d, s->use[random_u32() % s->nb_uses]))
                    break;
                put_copies(d, random_u32() % 3);
                run_some(d, random_u32() % 8);
            }
        run_some(d, 100000);
        CHECKF(d->computed == d->computes && !d->wrong, "%d: %d wrong", t,
               d->wrong);
        device_free(d);
    }
}

/* Step caching: a round may end after its first pages and go on with its last
 * one, or be left out. What comes later finds what it wants all the same. */
TEST(rounds_left_out)
{
    for (int t = 0; t < 100; t++) {
        seed = 2000 + t;
        Device *d = device(64, 6, 8, 2);
        int64_t least, full;

        wan_pager_need(d->pager, &least, &full);
        place(d, 2, least + (full - least) * (t % 5) / 4);
        const WanPagerStage *s = d->pager->now;
        for (int round = 0; round < 9; round++) {
            const int what = round ? random_u32() % 3 : 2;

            for (int k = 0; k < s->nb_uses && what; k++) {
                if (what == 1 && k == 2)
                    k = s->nb_uses - 1;
                if (!use(d, s->use[k]))
                    break;
                put_copies(d, random_u32() % 3);
                run_some(d, random_u32() % 8);
            }
        }
        run_some(d, 100000);
        CHECKF(d->computed == d->computes && !d->wrong, "%d: %d wrong", t,
               d->wrong);
        device_free(d);
    }
}

TEST(the_copier_runs_ahead)
{
    Device *d = device(64, 1, 64, 2);
    const int64_t unit = WAN_PAGE_ALIGN;

    seed = 5;
    place(d, 2, 4 * unit + 10 * unit);      // work of 1000: 4 units
    const WanPagerStage *s = d->pager->now;
    CHECK(s->room == 10 * unit && s->ring_bytes == 4 * unit);
    CHECK(put_copies(d, 1000) > 0);
    /* Before anything is used the ring is full, and no page is behind it. */
    CHECK(d->pager->head - d->pager->tail == 4 * unit);
    CHECK(!put_copies(d, 1000));
    use(d, 0);
    CHECK(!put_copies(d, 1000));            // it may be in use
    device_free(d);
}

TEST(stages_share_the_memory)
{
    WanPager *p = wan_pager_alloc();
    WanTensor w[4];
    int64_t least, full;

    memset(w, 0, sizeof(w));
    for (int stage = 0; stage < 2; stage++) {
        wan_pager_stage(p, stage);
        wan_pager_work(p, stage ? 100 : 5000);
        wan_pager_note(p, &w[2 * stage], 0, WAN_BF16, stage ? 9000 : 100);
        wan_pager_note(p, &w[2 * stage + 1], 0, WAN_BF16, 50);
    }
    p->vectors = 300;
    wan_pager_need(p, &least, &full);
    /* the larger sum of work and matrices, not the sum of both stages */
    CHECKF(full == 256 + 9216 + 256 + 512, "%lld", (long long)full);
    wan_pager_fit(p, full);
    CHECK(!wan_pager_streams(p, 0) && !wan_pager_streams(p, 1));
    CHECK(p->stage[0].room == full - 512 - 5120);
    /* Another stage's matrix is not this one's. */
    wan_pager_begin(p, 1);
    CHECK(!wan_pager_use(p, &w[0]) && wan_pager_use(p, &w[2]));
    wan_pager_free(&p);
    CHECK(!p);
}

/* Some matrices that are used as one: a page that the first is known by. */
TEST(parts_are_a_page)
{
    WanPager *p = wan_pager_alloc();
    WanTensor w[4];
    const WanTensor *const three[] = { &w[0], &w[1], &w[2] };
    int64_t least, full;
    WanPage *page;

    memset(w, 0, sizeof(w));
    for (int i = 0; i < 4; i++)
        w[i] = wan_tensor_of(NULL, WAN_F16, 3 + i, 10);
    wan_pager_stage(p, 0);
    for (int twice = 0; twice < 2; twice++) {
        wan_pager_note_parts(p, 3, three, 0, WAN_BF16, 500);
        wan_pager_note(p, &w[3], 0, WAN_BF16, 100);
    }
    wan_pager_need(p, &least, &full);
    CHECK(!p->error && p->stage[0].nb_pages == 2 && full == 512 + 256);
    wan_pager_fit(p, full);
    wan_pager_begin(p, 0);
    page = wan_pager_use(p, &w[0]);
    CHECK(page && page->parts == 3 && page->weight[2].dim[0] == 5);
    CHECK(!wan_pager_use(p, &w[1]));
    page = wan_pager_use(p, &w[3]);
    CHECK(page && page->parts == 1);
    /* not in two pages of a stage */
    wan_pager_note(p, &w[0], 0, WAN_BF16, 60);
    CHECK(p->error == WAN_ERR(EINVAL) && p->stage[0].nb_pages == 2);
    /* nor with a scale for each */
    p->error = 0;
    wan_pager_stage(p, 1);
    wan_pager_note_parts(p, 3, three, 0, WAN_F8_E4M3, 250);
    CHECK(p->error == WAN_ERR(EINVAL) && !p->stage[1].nb_pages);
    wan_pager_free(&p);
}

int main(void)
{
    RUN(what_fits_stays);
    RUN(what_does_not_fit_passes_through);
    RUN(a_block_used_twice_is_copied_once);
    RUN(out_of_turn);
    RUN(rounds_left_out);
    RUN(the_copier_runs_ahead);
    RUN(stages_share_the_memory);
    RUN(parts_are_a_page);
    return test_end();
}
