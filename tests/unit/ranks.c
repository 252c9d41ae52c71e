/*
 * Ranks of which one is lost: who is named, who is not, and what becomes of the
 * others.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * One that hangs is a process that stops itself. It goes on when the host sends
 * it CONT, as a launcher does before it ends all. Machines are namespaces of
 * names, where they can be had.
 */

#include <dirent.h>
#include <sched.h>
#include <sys/ptrace.h>

#include "ranks_watch.h"
#include "../ranks.h"
#include "../test.h"

/* The silence by which a rank is lost here: s. */
#define HANGS 2

static char line[256];          // the last error of this process
static int lines;
static int elsewhere;           // each is on a machine of its own

static void keep_line(void *opaque, enum WanLogLevel level, const char *text)
{
    (void)opaque, (void)level;
    snprintf(line, sizeof(line), "%s", text);
    lines++;
}

static const WanLog test_log = { keep_line, NULL, WAN_LOG_ERROR };

/* All are there, and in a job. */
static WanRanks *begin(WanTransport *t)
{
    char name[32], *data;
    WanRanks *r;
    int64_t n;

    lines = 0;
    snprintf(name, sizeof(name), "node%d", t->rank);
    if (elsewhere && (unshare(CLONE_NEWUTS) < 0 ||
                      sethostname(name, strlen(name)) < 0))
        puts("# no namespace of names can be made here");
    if (!CHECK(wan_ranks_meet(&r, t, !t->rank, &test_log) == 0))
        _exit(2);
    wan_watch_hangs(r->watch, HANGS);
    if (!t->rank)
        CHECK(wan_ranks_begin(r, "x", 1) == 0);
    else if (CHECK(wan_ranks_wait(r, &data, &n) == 1))
        free(data);
    return r;
}

/* Eight bytes with everybody, or their notes alone. */
static int exchange(WanRanks *r, int notes_alone, const int *cancel)
{
    WanParcel out[MOST], in[MOST];
    uint64_t own = 1, got[MOST];

    for (int q = 0; q < r->size; q++) {
        out[q] = (WanParcel){ &own, sizeof(own) };
        in[q] = (WanParcel){ &got[q], sizeof(*got) };
    }
    return (notes_alone ? wan_ranks_promise : wan_ranks_exchange)
           (r, out, in, "numbers", cancel);
}

/* One line was said, of that rank. */
static void named(int rank, const char *why)
{
    char name[32];

    snprintf(name, sizeof(name), "rank %d (process ", rank);
    CHECKF(lines == 1 && !strncmp(line, name, strlen(name)) &&
           strstr(line, why), "%d lines: %s", lines, line);
}

static char state(const WanRanks *r, int rank)
{
    char path[64], c = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)r->info[rank].pid);
    if ((f = fopen(path, "r"))) {
        if (fscanf(f, "%*d (%*[^)]) %c", &c) != 1)
            c = 0;
        fclose(f);
    }
    return c;
}

static void wait_for_state(const WanRanks *r, int rank, char c)
{
    while (state(r, rank) != c)
        usleep(10000);
}

/* It leaves without closing, as nobody waits for it. */
static int leave(void)
{
    fflush(stdout);
    return test_failures != 0;
}

/* The exit status of each is 0. */
static void all_end(int size, RanksMain host, RanksMain other, void *arg)
{
    int status[MOST];

    ranks_run_all(size, host, arg, other, arg, status);
    for (int r = 0; r < size; r++)
        CHECKF(!status[r], "rank %d of %d ended with %d", r, size, status[r]);
}

/* ------------------------------------------------------ who was lost first */

/* Rank 2 dies, then rank 1 leaves because of it. The host, who has no thread
 * that sees it happen, looks when both are gone. */
static int looks_late(WanTransport *t, void *arg)
{
    WanRanks *r;

    (void)arg;
    t->beat = NULL;
    r = begin(t);
    wait_for_state(r, 2, 'Z');
    wait_for_state(r, 1, 'Z');
    CHECK(exchange(r, 0, NULL) == WAN_ERR(EIO));
    named(2, "is gone");
    return leave();
}

static int leaves_or_dies(WanTransport *t, void *arg)
{
    WanRanks *r;

    (void)arg;
    t->beat = NULL;
    r = begin(t);
    if (t->rank == 2)
        return leave();
    CHECK(exchange(r, 0, NULL) == WAN_ERR(EIO));
    named(2, "is gone");
    return leave();
}

TEST(first_by_word)
{
    all_end(3, looks_late, leaves_or_dies, NULL);
}

/* Rank *arg dies, the launcher ends the other one before it can say so. The
 * host's thread has seen the first. */
static int looks_in_time(WanTransport *t, void *arg)
{
    const int first = *(int *)arg;
    WanRanks *r = begin(t);

    while (wan_watch_lost(r->watch).rank < 0)
        usleep(10000);
    kill(r->info[3 - first].pid, SIGUSR1);
    wait_for_state(r, 3 - first, 'Z');
    CHECK(exchange(r, 0, NULL) == WAN_ERR(EIO));
    named(first, "is gone");
    return leave();
}

static void exits(int number)
{
    (void)number;
    _exit(0);
}

static int is_ended_or_dies(WanTransport *t, void *arg)
{
    const int first = *(int *)arg;

    signal(SIGUSR1, exits);
    begin(t);
    if (t->rank != first)
        for (;;)
            pause();
    return leave();
}

TEST(first_by_time)
{
    all_end(3, looks_in_time, is_ended_or_dies, &(int){ 1 });
    all_end(3, looks_in_time, is_ended_or_dies, &(int){ 2 });
}

/* ----------------------------------------------------------- one that hangs */

/* *arg: it stops between its notes and its data, not before them. */
static int waits(WanTransport *t, void *arg)
{
    WanRanks *r = begin(t);

    (void)arg;
    CHECK(exchange(r, 0, NULL) == WAN_ERR(EIO));
    named(1, elsewhere ? "gave no sign of life for 2 s"
             : "gave no sign of life for 2 s: it is stopped");
    kill(r->info[1].pid, SIGCONT);
    return leave();
}

static int hangs(WanTransport *t, void *arg)
{
    const int *in_data = arg;
    WanRanks *r;

    if (t->rank != 1)
        return waits(t, arg);
    r = begin(t);
    if (*in_data)
        CHECK(exchange(r, 1, NULL) == 0);
    raise(SIGSTOP);
    CHECK(exchange(r, 0, NULL) == WAN_ERR(EIO));
    named(1, "gave no sign of life for 2 s");
    return leave();
}

TEST(hangs_before_its_notes)
{
    all_end(3, waits, hangs, &(int){ 0 });
}

TEST(hangs_in_data)
{
    all_end(3, waits, hangs, &(int){ 1 });
}

TEST(hangs_elsewhere)
{
    elsewhere = 1;
    all_end(3, waits, hangs, &(int){ 1 });
    elsewhere = 0;
}

/* The host itself hangs. */
static int host_hangs(WanTransport *t, void *arg)
{
    WanRanks *r = begin(t);

    (void)arg;
    raise(SIGSTOP);
    CHECK(exchange(r, 0, NULL) == WAN_ERR(EIO));
    named(0, "gave no sign of life for 2 s");
    return leave();
}

static int waits_for_host(WanTransport *t, void *arg)
{
    WanRanks *r = begin(t);

    (void)arg;
    CHECK(exchange(r, 0, NULL) == WAN_ERR(EIO));
    named(0, "gave no sign of life for 2 s: it is stopped");
    kill(r->info[0].pid, SIGCONT);
    return leave();
}

TEST(host_hangs)
{
    all_end(3, host_hangs, waits_for_host, NULL);
}

/* -------------------------------------------- cancelled, closed beside it */

static int closed_in_order, cancelled;

static void cancel_it(int number)
{
    (void)number;
    __atomic_store_n(&cancelled, 1, __ATOMIC_RELAXED);
}

static void note_close(WanTransport *t, int ordered)
{
    closed_in_order = ordered;
    free(t);
}

/* It would wait for ever, and for the one that has stopped does not. */
static int is_cancelled(WanTransport *t, void *arg)
{
    WanRanks *r = begin(t);
    const int64_t pid = r->info[1].pid;

    (void)arg;
    r->patience = 1e9;
    t->close = note_close;
    wait_for_state(r, 1, 'T');
    signal(SIGALRM, cancel_it);
    alarm(1);
    CHECK(exchange(r, 0, &cancelled) == WAN_CANCELLED);
    CHECK(lines == 0);
    closed_in_order = -1;
    wan_ranks_close(&r);
    CHECK(closed_in_order == 0);
    kill(pid, SIGCONT);
    return leave();
}

/* It has been told meanwhile that it may go. */
static int stops(WanTransport *t, void *arg)
{
    WanRanks *r = begin(t);

    (void)arg;
    raise(SIGSTOP);
    CHECK(exchange(r, 0, NULL) == WAN_CANCELLED && lines == 0);
    return leave();
}

TEST(cancelled_while_one_hangs)
{
    all_end(2, is_cancelled, stops, NULL);
}

TEST(cancelled_while_one_elsewhere_hangs)
{
    elsewhere = 1;
    all_end(2, is_cancelled, stops, NULL);
    elsewhere = 0;
}

/* As by MPI, nobody is gone before the host closes. */
static int closes(WanTransport *t, void *arg)
{
    WanRanks *r = begin(t);
    const WanRankInfo host = r->info[0];
    const int rank = t->rank;
    char *data;
    int64_t n;

    (void)arg;
    t->close = note_close;
    if (rank)
        CHECK(wan_ranks_wait(r, &data, &n) == 0);
    wan_ranks_close(&r);
    CHECK(closed_in_order == 1);
    while (rank && wan_process_start(host.pid) == host.start)
        usleep(10000);
    return leave();
}

TEST(all_close)
{
    all_end(3, closes, closes, NULL);
}

/* ------------------------------------------------------------ no reason */

/* A process of its own, that is no rank. */
static pid_t beside(void (*act)(pid_t pid), pid_t pid)
{
    const pid_t own = fork();

    if (!own) {
        act(pid);
        _exit(0);
    }
    return own;
}

/* What a debugger does to all threads of a process; they go on when it ends. */
static void trace(pid_t pid, int stop)
{
    char path[64];
    struct dirent *e;
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    if (!(tasks = opendir(path)))
        _exit(1);
    while ((e = readdir(tasks))) {
        const pid_t t = atoi(e->d_name);

        if (t > 0 && (ptrace(stop ? PTRACE_INTERRUPT : PTRACE_SEIZE, t, NULL,
                             NULL) < 0 ||
                      (stop && waitpid(t, NULL, __WALL) < 0)))
            _exit(1);
    }
    closedir(tasks);
}

/* Those of other machines must hear of it before it stops anything. */
static void debug(pid_t pid)
{
    trace(pid, 0);
    if (elsewhere)
        sleep(1);
    trace(pid, 1);
    sleep(2 * HANGS);
}

static int exchanges(WanTransport *t, void *arg)
{
    WanRanks *r = begin(t);

    (void)arg;
    CHECKF(exchange(r, 0, NULL) == 0 && !lines, "%s", line);
    return leave();
}

/* Rank 1 is held by a debugger while the host waits for it. */
static int is_debugged(WanTransport *t, void *arg)
{
    WanRanks *r = begin(t);
    int status;

    (void)arg;
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    waitpid(beside(debug, getpid()), &status, 0);
    if (status)
        puts("# no process can be debugged here");
    CHECKF(exchange(r, 0, NULL) == 0 && !lines, "%s", line);
    return leave();
}

TEST(debugger)
{
    all_end(2, exchanges, is_debugged, NULL);
}

TEST(debugger_elsewhere)
{
    elsewhere = 1;
    all_end(2, exchanges, is_debugged, NULL);
    elsewhere = 0;
}

static void wake(pid_t pid)
{
    sleep(2 * HANGS);
    kill(pid, SIGCONT);
}

/* Nothing is heard meanwhile; how often. */
static int mute, beats;

static void mute_beat(WanTransport *t, uint8_t sign, uint8_t *from)
{
    if (__atomic_load_n(&mute, __ATOMIC_RELAXED))
        __atomic_fetch_add(&beats, 1, __ATOMIC_RELAXED);
    else
        wires_beat(t, sign, from);
}

static void set_mute(int value)
{
    __atomic_store_n(&mute, value, __ATOMIC_RELAXED);
}

/* The host is stopped for longer than a rank may be silent, as by the sleep of a
 * laptop; what it sees first then is that rank 1 gave no sign. */
static int sleeps(WanTransport *t, void *arg)
{
    WanRanks *r;
    pid_t waker;

    (void)arg;
    t->beat = mute_beat;
    r = begin(t);
    waker = beside(wake, getpid());
    set_mute(1);
    raise(SIGSTOP);
    while (!__atomic_load_n(&beats, __ATOMIC_RELAXED))
        usleep(1000);
    set_mute(0);
    CHECK(wan_watch_lost(r->watch).rank < 0);
    CHECKF(exchange(r, 0, NULL) == 0 && !lines, "%s", line);
    waitpid(waker, NULL, 0);
    return leave();
}

static int waits_long(WanTransport *t, void *arg)
{
    WanRanks *r = begin(t);

    (void)arg;
    wan_watch_hangs(r->watch, 1e9);
    CHECKF(exchange(r, 0, NULL) == 0 && !lines, "%s", line);
    return leave();
}

TEST(sleep)
{
    all_end(2, sleeps, waits_long, NULL);
}

int main(void)
{
    signal(SIGCHLD, SIG_DFL);
    RUN(first_by_word);
    RUN(first_by_time);
    RUN(hangs_before_its_notes);
    RUN(hangs_in_data);
    RUN(hangs_elsewhere);
    RUN(host_hangs);
    RUN(cancelled_while_one_hangs);
    RUN(cancelled_while_one_elsewhere_hangs);
    RUN(all_close);
    RUN(debugger);
    RUN(debugger_elsewhere);
    RUN(sleep);
    return test_end();
}
