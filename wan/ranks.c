/*
 * Ranks: meeting, jobs, exchanges; who is gone, who is elsewhere.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cpu/sgemm.h"
#include "ranks_watch.h"

/* Looks without sleep before the first, and the longest sleep: ns. */
#define EAGER 200
#define NAP 1000000
/* Naps between two looks at whether processes of this machine are there. */
#define NAPS_A_LOOK 500
/* Short naps between two looks at the others, of who waits for a device. */
#define LOOKS 500
/* Of a host that is cancelled, see WanRanks: s. */
#define PATIENCE 5
/* How long one that knows who is gone stays for the others to see, and for the
 * host: s. */
#define LINGER 2
#define LINGER_HOST 10

_Static_assert(sizeof(WanNote) == 256, "notes are the same for all ranks");
_Static_assert(sizeof(WanRankInfo) == 256, "it is the same in all versions");

/* ----------------------------------------------------------------- alive */

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* The next note of that kind of a rank, as far as they have come; they are kept
 * for who hears them in their turn. NULL: none, and *gone if the rank is. */
static const WanNote *heard(WanRanks *r, int rank, enum WanNoteKind kind,
                            int *gone)
{
    WanNote *early = r->early[rank];
    int *nb = &r->nb_early[rank], ret = 1;

    while (*nb < (int)(sizeof(r->early[0]) / sizeof(*early)) && !r->torn &&
           (ret = r->transport->hear(r->transport, rank, &early[*nb])) > 0)
        ++*nb;
    *gone = ret < 0;
    for (int i = 0; i < *nb; i++)
        if (early[i].kind == kind)
            return &early[i];
    return NULL;
}

int wan_ranks_told_to_quit(WanRanks *r)
{
    int gone;

    return heard(r, 0, WAN_NOTE_QUIT, &gone) != NULL;
}

/* What another rank has said of one that is lost; rank -1: nothing. */
static WanLoss told_loss(WanRanks *r)
{
    WanLoss lost = { .rank = -1 };
    int gone;

    for (int q = 0; q < r->size && lost.rank < 0; q++) {
        const WanNote *n = q == r->rank ? NULL
                           : heard(r, q, WAN_NOTE_LOST, &gone);

        if (n && n->number < (uint64_t)r->size) {
            lost.rank = (int)n->number;
            snprintf(lost.why, sizeof(lost.why), "%.*s",
                     (int)sizeof(lost.why) - 1, n->text);
        }
    }
    return lost;
}

/* Before this process leaves because of it: the others are to name the same
 * rank, not this one. */
static void tell_loss(WanRanks *r, WanLoss lost)
{
    WanNote n = { .kind = WAN_NOTE_LOST, .job = UINT32_MAX,
                  .number = lost.rank };

    snprintf(n.text, sizeof(n.text), "%s", lost.why);
    for (int q = 0; q < r->size && !r->torn; q++)
        if (q != r->rank && (q != lost.rank || lost.there))
            r->transport->tell(r->transport, q, &n);
}

/* Who was lost first, as far as it is known. */
static WanLoss first_loss(WanRanks *r)
{
    const WanLoss lost = told_loss(r);

    return lost.rank < 0 ? wan_watch_lost(r->watch) : lost;
}

/* The same, where the transport has failed and nobody is known to be lost: it
 * may come a moment later. */
static WanLoss wait_for_loss(WanRanks *r)
{
    const double until = now() + 1;
    WanLoss lost;

    while ((lost = first_loss(r)).rank < 0 && now() < until)
        nanosleep(&(struct timespec){ 0, 20 * NAP }, NULL);
    return lost;
}

/* Somebody is lost: by the host's order, or without. The one that was lost first
 * is named, whichever was found; -1: none was. */
static int broken(WanRanks *r, int rank, const char *why)
{
    WanLoss lost;

    if (r->rank && wan_ranks_told_to_quit(r))
        return WAN_CANCELLED;
    if (r->broken)
        return WAN_ERR(EIO);
    lost = rank < 0 ? wait_for_loss(r) : first_loss(r);
    if (lost.rank < 0) {
        lost.rank = rank;
        snprintf(lost.why, sizeof(lost.why), "%s", why);
    }
    r->broken = 1;
    r->lost = lost.rank;
    if (lost.rank < 0)
        return wan_error(&r->log, WAN_ERR(EIO), "ranks: %s", lost.why);
    tell_loss(r, lost);
    return wan_error(&r->log, WAN_ERR(EIO), "rank %d (process %lld on %s) %s",
                     lost.rank, (long long)r->info[lost.rank].pid,
                     r->info[lost.rank].node, lost.why);
}

static int stopped(const int *cancel)
{
    return cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED);
}

/* The host's job is to end, or not to begin. */
static int interrupted(const WanRanks *r)
{
    return stopped(r->cancel) ||
           (r->interrupted && r->interrupted(r->interrupted_opaque));
}

/* Whether it has waited long enough for the others since, or would wait in
 * vain. */
static int impatient(WanRanks *r)
{
    if (!interrupted(r))
        return 0;
    if (!r->stopped_at)
        r->stopped_at = now();
    return now() - r->stopped_at > r->patience || wan_watch_doubts(r->watch);
}

/* Whether to go on waiting: all are there, as far as this process or another one
 * knows, and nobody is to stop. */
static int all_alive(void *arg)
{
    WanRanks *r = arg;
    WanLoss lost;

    if (impatient(r) || (r->rank && r->elsewhere && wan_ranks_told_to_quit(r)))
        return WAN_CANCELLED;
    lost = first_loss(r);
    return lost.rank < 0 ? 0 : broken(r, lost.rank, lost.why);
}

/* One more look for something that is not there yet; naps grow. */
static int nap(WanRanks *r, int *looks)
{
    const int late = ++*looks - (r->transport->behind ? 0 : EAGER);
    struct timespec ts = { 0, late < 20 ? NAP / 20 : NAP };

    if (late <= 0) {
        sched_yield();
        return 0;
    }
    nanosleep(&ts, NULL);
    return late % NAPS_A_LOOK ? 0 : all_alive(r);
}

/* ----------------------------------------------------------------- notes */

static int tell(WanRanks *r, int rank, const WanNote *note)
{
    if (r->broken)
        return WAN_ERR(EIO);
    return r->transport->tell(r->transport, rank, note) < 0
           ? broken(r, rank, "can't be reached") : 0;
}

/* The next note of a rank; 1, 0: none yet, or below 0. */
static int next_note(WanRanks *r, int rank, WanNote *note)
{
    if (!r->nb_early[rank])
        return r->transport->hear(r->transport, rank, note);
    *note = r->early[rank][0];
    memmove(r->early[rank], r->early[rank] + 1,
            --r->nb_early[rank] * sizeof(*note));
    return 1;
}

/* A note that is not for who heard it: the rank's next again. */
static void push_back(WanRanks *r, int rank, const WanNote *note)
{
    memmove(r->early[rank] + 1, r->early[rank],
            r->nb_early[rank]++ * sizeof(*note));
    r->early[rank][0] = *note;
}

/* The next note of a rank that is not of a job before the running one. */
static int hear(WanRanks *r, int rank, WanNote *note)
{
    int looks = 0, ret;

    if (r->broken)
        return WAN_ERR(EIO);
    r->elsewhere = rank != 0;
    for (;;) {
        ret = next_note(r, rank, note);
        if (ret < 0)
            return broken(r, rank, "is gone");
        if (ret && note->kind == WAN_NOTE_LOST) {
            push_back(r, rank, note);
            return broken(r, rank, "is gone");
        }
        if (ret && note->job >= r->job) {
            note->text[sizeof(note->text) - 1] = 0;
            return 0;
        }
        if (impatient(r))
            return WAN_CANCELLED;
        if (!ret && (ret = nap(r, &looks)) < 0)
            return ret;
    }
}

/* A rank's job failed: it says why, and so does the host; the others end without
 * a word. */
static int failed(WanRanks *r, int rank, const WanNote *n)
{
    if (r->rank)
        return WAN_CANCELLED;
    return wan_error(&r->log, WAN_ERR(EIO), "rank %d (process %lld on %s) "
                     "failed: %.*s", rank, (long long)r->info[rank].pid,
                     r->info[rank].node, (int)sizeof(n->text),
                     *n->text ? n->text : wan_strerror(n->error));
}

/* Of a rank that has said so, and of one that is gone. */
static int failure(WanRanks *r)
{
    const WanNote *n;
    int gone;

    for (int q = 0; q < r->size; q++) {
        if (q == r->rank)
            continue;
        n = heard(r, q, WAN_NOTE_FAIL, &gone);
        if (n && n->job == r->job)
            return failed(r, q, n);
        if (gone)
            return broken(r, q, "is gone");
    }
    return 0;
}

/* Host: a rank has ended the job because another one's failed. */
static int left(WanRanks *r, int rank)
{
    const int ret = failure(r);

    return ret < 0 ? ret
           : wan_error(&r->log, WAN_ERR(EIO), "rank %d (process %lld on %s) has "
                       "ended the job", rank, (long long)r->info[rank].pid,
                       r->info[rank].node);
}

/* What a note in place of the one that was expected means. What is not of this
 * job is for wan_ranks_wait(). */
static int unexpected(WanRanks *r, int rank, const WanNote *n,
                      const WanNote *mine)
{
    if (n->kind == WAN_NOTE_FAIL)
        return failed(r, rank, n);
    if (!rank && (n->kind == WAN_NOTE_QUIT || n->kind == WAN_NOTE_JOB))
        push_back(r, rank, n);
    if (n->kind == WAN_NOTE_END || n->kind == WAN_NOTE_QUIT ||
        n->kind == WAN_NOTE_JOB || (n->kind == WAN_NOTE_DONE && r->rank))
        return WAN_CANCELLED;           // the host has closed it
    if (n->kind == WAN_NOTE_DONE)
        return left(r, rank);
    return wan_error(&r->log, WAN_ERR(EIO), "rank %d (process %lld on %s) is at "
                     "%s %llu of %lld bytes where this one is at %s %llu: they "
                     "don't compute the same", rank,
                     (long long)r->info[rank].pid, r->info[rank].node, n->text,
                     (unsigned long long)n->number, (long long)n->bytes,
                     mine->text, (unsigned long long)mine->number);
}

/* Notes from all to all that say the same. */
static int notes(WanRanks *r, const WanParcel *out, const WanParcel *in,
                 const char *what)
{
    WanNote mine = { .kind = WAN_NOTE_DATA, .job = r->job,
                     .number = r->number++ };
    WanNote n;
    int ret;

    snprintf(mine.text, sizeof(mine.text), "%s", what);
    for (int q = 0; q < r->size; q++) {
        mine.bytes = out[q].bytes;
        if (q != r->rank && (ret = tell(r, q, &mine)) < 0)
            return ret;
    }
    for (int q = 0; q < r->size; q++) {
        if (q == r->rank)
            continue;
        if ((ret = hear(r, q, &n)) < 0)
            return ret;
        if (n.kind != WAN_NOTE_DATA || n.job != r->job ||
            n.number != mine.number || n.bytes != in[q].bytes ||
            strcmp(n.text, mine.text))
            return unexpected(r, q, &n, &mine);
    }
    return 0;
}

/* The host leaves, whatever the others wait for. */
static void tell_quit(WanRanks *r)
{
    const WanNote quit = { .kind = WAN_NOTE_QUIT, .job = UINT32_MAX };

    for (int q = 1; q < r->size; q++)
        tell(r, q, &quit);
    __atomic_store_n(&r->quit, 1, __ATOMIC_RELAXED);
}

/* The data that the transport carries. */
static int data(WanRanks *r, const WanParcel *out, const WanParcel *in)
{
    int ret;

    r->elsewhere = 1;
    ret = r->transport->exchange(r->transport, out, in, all_alive, r);
    if (ret < 0 && ret != WAN_CANCELLED)
        ret = broken(r, -1, "an exchange was broken off");
    r->torn |= ret < 0;
    return ret;
}

/* Notes, then data, where the transport carries it. */
static int exchange(WanRanks *r, const WanParcel *out, const WanParcel *in,
                    const char *what, const int *cancel, int carried)
{
    int ret;

    r->cancel = cancel;
    r->stopped_at = 0;
    if (r->quit || interrupted(r)) {    // nothing was promised
        r->cancel = NULL;
        return WAN_CANCELLED;
    }
    ret = notes(r, out, in, what);
    if (ret >= 0 && carried)
        ret = data(r, out, in);
    r->cancel = NULL;
    if (ret == WAN_CANCELLED && !r->rank)
        tell_quit(r);
    return ret;
}

int wan_ranks_exchange(WanRanks *r, const WanParcel *out, const WanParcel *in,
                       const char *what, const int *cancel)
{
    const WanParcel *from = &out[r->rank], *to = &in[r->rank];
    const int ret = exchange(r, out, in, what, cancel, 1);

    if (ret >= 0 && from->bytes && from->data != to->data)
        memcpy(to->data, from->data, from->bytes);
    return ret;
}

int wan_ranks_promise(WanRanks *r, const WanParcel *out, const WanParcel *in,
                      const char *what, const int *cancel)
{
    return exchange(r, out, in, what, cancel, 0);
}

/* The host has closed the job. What it promised it has begun to send, unless it
 * failed. */
static int closed(WanRanks *r, const WanNote *n)
{
    if (!r->stopped_at)
        r->stopped_at = now();
    return (n->error && n->error != WAN_CANCELLED) ||
           now() - r->stopped_at > r->patience ? WAN_CANCELLED : 0;
}

/* Whether what was promised may not come, as a rank has ended its part. */
static int ended(WanRanks *r)
{
    const WanNote *n;
    int gone, ret;

    if ((ret = failure(r)) < 0 || !r->rank)
        return ret;
    if (wan_ranks_told_to_quit(r))
        return WAN_CANCELLED;
    n = heard(r, 0, WAN_NOTE_END, &gone);
    return n && n->job == r->job ? closed(r, n) : 0;
}

int wan_ranks_look(WanRanks *r, const int *cancel)
{
    int ret;

    r->cancel = cancel;
    r->elsewhere = 1;
    ret = r->broken ? WAN_ERR(EIO) : ended(r);
    if (!ret)
        ret = all_alive(r);
    r->cancel = NULL;
    if (ret == WAN_CANCELLED && !r->rank && !r->quit)
        tell_quit(r);
    return ret;
}

int wan_ranks_wait_for(WanRanks *r, int (*done)(void *arg), void *arg,
                       const int *cancel)
{
    int looks = 0, ret;

    r->stopped_at = 0;
    while (!(ret = done(arg))) {
        if (++looks < EAGER) {
            sched_yield();
            continue;
        }
        nanosleep(&(struct timespec){ 0, NAP / 10 }, NULL);
        if (looks % LOOKS == 0 && (ret = wan_ranks_look(r, cancel)) < 0)
            return ret;
    }
    return ret < 0 ? ret : 0;
}

/* Hear until that rank says that it is done with this job, or does other
 * things; 0: it is too late for that. */
static int hear_done(WanRanks *r, int rank, double until)
{
    WanNote n;
    int looks = 0, ret;

    for (;;) {
        if ((ret = next_note(r, rank, &n)) < 0)
            return 0;
        if (ret && (n.job > r->job || n.kind == WAN_NOTE_QUIT)) {
            push_back(r, rank, &n);
            return 1;
        }
        if (ret && n.job == r->job && n.kind == WAN_NOTE_DONE)
            return 1;
        if (!ret && ((!r->rank && now() > until) || nap(r, &looks) < 0))
            return 0;
    }
}

void wan_ranks_settle(WanRanks *r, int wait)
{
    const WanNote done = { .kind = WAN_NOTE_DONE, .job = r->job };
    const double until = now() + r->patience;

    r->elsewhere = 1;
    for (int q = 0; q < r->size && !r->broken; q++)
        if (q != r->rank)
            tell(r, q, &done);
    for (int q = 0; q < r->size && wait && !r->broken && !r->quit; q++)
        if (q != r->rank && !hear_done(r, q, until))
            break;
}

int wan_ranks_agree(WanRanks *r, const void *value, int bytes,
                    const char *what, const int *cancel)
{
    WanParcel out[WAN_MAX_RANKS], in[WAN_MAX_RANKS];
    char got[WAN_MAX_RANKS][256];
    int ret;

    for (int q = 0; q < r->size; q++) {
        out[q] = (WanParcel){ (void *)value, bytes };
        in[q] = (WanParcel){ got[q], bytes };
    }
    if ((ret = wan_ranks_exchange(r, out, in, what, cancel)) < 0)
        return ret;
    for (int q = 0; q < r->size; q++)
        if (memcmp(got[q], got[0], bytes))
            return wan_error(&r->log, WAN_ERR(EINVAL), "rank %d (process %lld "
                             "on %s) has other %s than rank 0 on %s", q,
                             (long long)r->info[q].pid, r->info[q].node, what,
                             r->info[0].node);
    return 0;
}

int wan_ranks_hand_out(WanRanks *r, void *value, int64_t bytes,
                       const char *what, const int *cancel)
{
    WanParcel out[WAN_MAX_RANKS] = { { 0 } }, in[WAN_MAX_RANKS] = { { 0 } };

    for (int q = 1; q < r->size && !r->rank; q++)
        out[q] = (WanParcel){ value, bytes };
    if (r->rank)
        in[0] = (WanParcel){ value, bytes };
    return wan_ranks_exchange(r, out, in, what, cancel);
}

/* --------------------------------------------------------------- meeting */

static void describe(WanRankInfo *me, int host)
{
    const unsigned v = wan_version();

    memset(me, 0, sizeof(*me));
    memcpy(me->magic, "wan-rank", sizeof(me->magic));
    snprintf(me->version, sizeof(me->version), "%u.%u.%u", v >> 16,
             v >> 8 & 255, v & 255);
    gethostname(me->node, sizeof(me->node) - 1);
    wan_sgemm_name(me->cpu, sizeof(me->cpu));
    me->pid = getpid();
    me->start = wan_process_start(me->pid);
    me->host = host;
}

static int go_together(WanRanks *r)
{
    const WanRankInfo *host = &r->info[0], *me = &r->info[r->rank];

    if (memcmp(host->magic, me->magic, sizeof(me->magic)))
        return wan_error(&r->log, WAN_ERR(EINVAL), "ranks: rank 0 is not of "
                         "libwan");
    if (!host->host)
        return wan_error(&r->log, WAN_ERR(EINVAL), "rank 0 is a wan-worker: "
                         "the first process must be ffmpeg, as in mpirun -n 1 "
                         "ffmpeg ... : -n %d wan-worker",
                         r->size > 1 ? r->size - 1 : 1);
    for (int q = 1; q < r->size; q++) {
        const WanRankInfo *i = &r->info[q];

        if (memcmp(i->magic, host->magic, sizeof(i->magic)) ||
            strncmp(i->version, host->version, sizeof(i->version)))
            return wan_error(&r->log, WAN_ERR(EINVAL), "rank %d on %.63s is of "
                             "libwan %.23s, rank 0 on %.63s of %.23s: they "
                             "must be of one", q, i->node, i->version,
                             host->node, host->version);
        if (i->host)
            return wan_error(&r->log, WAN_ERR(EINVAL), "rank %d on %.63s is "
                             "not a wan-worker: all but the first process must "
                             "be, as in mpirun -n 1 ffmpeg ... : -n %d "
                             "wan-worker", q, i->node, r->size - 1);
        if (strncmp(i->cpu, host->cpu, sizeof(i->cpu)) && !r->rank)
            wan_log(&r->log, WAN_LOG_WARNING, "rank %d on %.63s computes with "
                    "%.63s, rank 0 with %.63s: the last bits depend on who "
                    "computes what", q, i->node, i->cpu, host->cpu);
    }
    return 0;
}

int wan_ranks_meet(WanRanks **out, WanTransport *t, int host,
                   const WanLog *log)
{
    WanParcel send[WAN_MAX_RANKS], get[WAN_MAX_RANKS];
    WanRanks *r = NULL;
    int ret;

    *out = NULL;
    if (t->size > WAN_MAX_RANKS) {
        ret = wan_error(log, WAN_ERR(EINVAL), "ranks: %d processes, %d can be",
                        t->size, WAN_MAX_RANKS);
        goto fail;
    }
    if (!(r = calloc(1, sizeof(*r)))) {
        ret = wan_error_memory(log, "ranks", "their state");
        goto fail;
    }
    *r = (WanRanks){ .rank = t->rank, .size = t->size, .transport = t,
                     .patience = PATIENCE, .lost = -1 };
    if (log)
        r->log = *log;
    describe(&r->info[r->rank], host);
    for (int q = 0; q < r->size; q++) {
        send[q] = (WanParcel){ &r->info[r->rank], sizeof(*r->info) };
        get[q] = (WanParcel){ &r->info[q], sizeof(*r->info) };
    }
    if (t->exchange(t, send, get, all_alive, r) < 0) {
        ret = broken(r, -1, "the processes can't reach each other");
        goto fail;
    }
    if ((ret = go_together(r)) < 0)
        goto fail;
    if ((ret = wan_watch_open(&r->watch, t, r->info)) < 0) {
        ret = wan_error_memory(log, "ranks", "who watches the others");
        goto fail;
    }
    *out = r;
    return 0;
fail:
    t->close(t, ret == WAN_ERR(EINVAL));
    free(r);
    return ret;
}

/* The others look when they come to their next exchange: until then nobody else
 * is to be gone. The host may be long in coming, but for one that hangs. */
static void linger(const WanRanks *r)
{
    const struct timespec ts = { 0, 20 * NAP };
    const double begun = now();

    while (now() < begun + LINGER ||
           (now() < begun + LINGER_HOST && r->lost &&
            wan_process_start(r->info[0].pid) == r->info[0].start))
        nanosleep(&ts, NULL);
}

/* Host: whether a rank says that it closes too, as long as it may. */
static int hear_bye(WanRanks *r, int rank)
{
    WanNote n = { .kind = 0 };
    int looks = 0, ret;

    do
        if ((ret = next_note(r, rank, &n)) < 0 ||
            (!ret && (nap(r, &looks) < 0 || wan_watch_doubts(r->watch))))
            return 0;
    while (n.kind != WAN_NOTE_BYE);
    wan_watch_leaves(r->watch, rank);
    return 1;
}

/* Whether all ranks close the transport, which may wait for them. */
static int all_close(WanRanks *r)
{
    const WanNote bye = { .kind = WAN_NOTE_BYE, .job = UINT32_MAX };
    int all = !r->broken && !r->torn;

    if (!r->transport->beat)
        return all;
    if (r->rank)
        return all && tell(r, 0, &bye) >= 0;
    for (int q = 1; q < r->size && all; q++)
        all = hear_bye(r, q);
    return all;
}

void wan_ranks_close(WanRanks **rp)
{
    WanRanks *r = *rp;
    int ordered;

    *rp = NULL;
    if (!r)
        return;
    if (r->broken && wan_rank_is_here(&r->info[0], &r->info[r->rank]))
        linger(r);
    if (!r->rank && !r->broken && !r->quit)
        tell_quit(r);
    r->cancel = NULL;
    r->interrupted = NULL;
    ordered = all_close(r);
    wan_watch_close(&r->watch);
    r->transport->close(r->transport, ordered);
    free(r);
}

int wan_ranks_are_threads(const WanRanks *r)
{
    return r->size > 1 && r->info[0].pid == r->info[1].pid &&
           !strcmp(r->info[0].node, r->info[1].node);
}

const char *wan_ranks_text(const WanRanks *r, char *buf, size_t size)
{
    int nodes = 0;

    if (wan_ranks_are_threads(r)) {
        snprintf(buf, size, "%d cards", r->size);
        return buf;
    }

    for (int q = 0; q < r->size; q++) {
        int known = 0;

        for (int p = 0; p < q; p++)
            known |= !strcmp(r->info[p].node, r->info[q].node);
        nodes += !known;
    }
    snprintf(buf, size, "%d processes on %d machine%s", r->size, nodes,
             nodes > 1 ? "s" : "");
    return buf;
}

/* ------------------------------------------------------------------ jobs */

int wan_ranks_begin(WanRanks *r, const void *request, int64_t bytes)
{
    WanNote note = { .kind = WAN_NOTE_JOB, .bytes = bytes };
    WanParcel out[WAN_MAX_RANKS] = { { 0 } }, in[WAN_MAX_RANKS] = { { 0 } };
    int ret;

    note.job = ++r->job;
    r->number = 0;
    r->stopped_at = 0;
    for (int q = 1; q < r->size; q++) {
        if ((ret = tell(r, q, &note)) < 0)
            return ret;
        out[q] = (WanParcel){ (void *)request, bytes };
    }
    ret = r->transport->exchange(r->transport, out, in, all_alive, r);
    if (ret == WAN_CANCELLED) {
        r->torn = 1;
        tell_quit(r);
        return ret;
    }
    return ret < 0 ? broken(r, -1, "the request did not arrive") : 0;
}

int wan_ranks_wait(WanRanks *r, char **request, int64_t *bytes)
{
    WanParcel out[WAN_MAX_RANKS] = { { 0 } }, in[WAN_MAX_RANKS] = { { 0 } };
    WanNote n;
    int ret;

    do
        if ((ret = hear(r, 0, &n)) < 0)
            return ret;
    while (n.kind != WAN_NOTE_JOB && n.kind != WAN_NOTE_QUIT);
    if (n.kind == WAN_NOTE_QUIT)
        return 0;
    if (n.bytes < 0 || n.bytes > 1 << 24 || !(*request = malloc(n.bytes + 1)))
        return broken(r, 0, "sent a request that there is no memory for");
    in[0] = (WanParcel){ *request, *bytes = n.bytes };
    r->job = n.job;
    r->number = 0;
    r->elsewhere = 1;
    ret = r->transport->exchange(r->transport, out, in, all_alive, r);
    if (ret < 0 && ret != WAN_CANCELLED)
        ret = broken(r, 0, "is gone");
    r->torn |= ret < 0;
    if (ret < 0)
        free(*request);
    return ret == WAN_CANCELLED ? 0 : ret < 0 ? ret : 1;
}

void wan_ranks_end(WanRanks *r, int error, const char *text)
{
    WanNote n = { .kind = r->rank ? WAN_NOTE_FAIL : WAN_NOTE_END,
                  .job = r->job, .number = r->number, .error = error };

    if (r->quit || (r->rank && (!error || error == WAN_CANCELLED)))
        return;                         // as all of them, or as the host said
    snprintf(n.text, sizeof(n.text), "%s", text ? text : "");
    for (int q = 0; q < r->size && !r->broken; q++)
        if (q != r->rank)
            tell(r, q, &n);
}
