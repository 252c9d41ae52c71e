/*
 * The pool of threads: every index once, callers that share it, cancelling,
 * threads that can't be had, and that nobody spins or is waited for in vain.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "cpu/pool.h"
#include "test.h"

/* Stands before the C library's: gives `left` threads, then no more. */
static int left = -1;           // -1: as many as are asked for

int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                   void *(*fn)(void *), void *arg)
{
    static int (*real)(pthread_t *, const pthread_attr_t *,
                       void *(*)(void *), void *);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    if (!left)
        return EAGAIN;
    if (left > 0)
        left--;
    return real(thread, attr, fn, arg);
}

static int lines;               // warnings so far
static char last[256];

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level <= WAN_LOG_WARNING) {
        snprintf(last, sizeof(last), "%s", line);
        lines++;
    }
}

static const WanLog log_keep = { keep, NULL, WAN_LOG_WARNING };

static int load(const int *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void store(int *p, int v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

/* Until *p is v, some minutes at most. */
static int wait_for(const int *p, int v)
{
    for (int i = 0; i < 1000000 && load(p) != v; i++)
        usleep(100);
    return load(p) == v;
}

static double seconds(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

enum { MOST = 3000, WORKERS = 8 };

typedef struct Seen {
    int count[MOST];            // calls by index
    int inside[WORKERS];        // calls that run, by worker
    int threads, wrong, calls;
    int cancel, cancel_at;
} Seen;

static void see(void *arg, int64_t i, int worker)
{
    Seen *s = arg;

    if (worker < 0 || worker >= s->threads ||
        __atomic_fetch_add(&s->inside[worker], 1, __ATOMIC_RELAXED))
        store(&s->wrong, 1);
    s->count[i]++;              // a race, if an index came twice
    __atomic_add_fetch(&s->calls, 1, __ATOMIC_RELAXED);
    for (volatile int k = 0; k < 100; k++)
        ;
    if (i == s->cancel_at)
        store(&s->cancel, 1);
    else if (s->cancel_at >= 0 && i > s->cancel_at)
        wait_for(&s->cancel, 1);        // whoever cancels may not have run yet
    __atomic_sub_fetch(&s->inside[worker], 1, __ATOMIC_RELAXED);
}

static void check_once(int threads, int64_t n)
{
    static Seen s;
    int once = 1;

    s = (Seen){ .threads = threads, .cancel_at = -1 };
    wan_cpu_pool_run(threads, n, &s.cancel, see, &s);
    for (int64_t i = 0; i < MOST; i++)
        once &= s.count[i] == (i < n);
    CHECKF(once && !s.wrong, "%d threads, %d indices", threads, (int)n);
}

TEST(every_index_once)
{
    for (int threads = 1; threads <= WORKERS; threads++) {
        wan_cpu_pool_open(threads, &log_keep);
        for (int64_t n = 0; n < 20; n++)
            check_once(threads, n);
        check_once(threads, MOST);
        check_once(1, MOST);
        wan_cpu_pool_close();
    }
    check_once(WORKERS, MOST);          // nobody opened it: the caller works
    CHECK(!lines);
}

TEST(cancelled)
{
    static Seen s;

    wan_cpu_pool_open(3, &log_keep);
    s = (Seen){ .threads = 3, .cancel_at = 20 };
    wan_cpu_pool_run(3, MOST, &s.cancel, see, &s);
    CHECKF(s.calls > 20 && s.calls < MOST && !s.wrong, "%d", s.calls);
    s.calls = 0;
    wan_cpu_pool_run(3, MOST, &s.cancel, see, &s);
    CHECK(!s.calls);
    wan_cpu_pool_run(3, 100, NULL, see, &s);
    CHECK(s.calls == 100);
    wan_cpu_pool_close();
}

typedef struct Caller {
    pthread_t thread;
    int threads, wrong;
} Caller;

static void *many_regions(void *arg)
{
    Caller *c = arg;
    static __thread Seen s;

    wan_cpu_pool_open(c->threads, &log_keep);
    for (int k = 0; k < 400; k++) {
        const int n = 1 + k * 7 % 61;

        s = (Seen){ .threads = c->threads, .cancel_at = k % 5 ? -1 : n / 2 };
        wan_cpu_pool_run(c->threads, n, &s.cancel, see, &s);
        for (int i = 0; i < n; i++)
            c->wrong |= s.count[i] != 1 && (k % 5 || s.count[i]);
        c->wrong |= s.wrong || s.calls > n;
    }
    wan_cpu_pool_close();
    return NULL;
}

TEST(several_callers)
{
    Caller c[5] = { { .threads = 1 } };

    for (int i = 0; i < 5; i++) {
        c[i].threads = 1 + i;
        pthread_create(&c[i].thread, NULL, many_regions, &c[i]);
    }
    for (int i = 0; i < 5; i++) {
        pthread_join(c[i].thread, NULL);
        CHECKF(!c[i].wrong, "caller %d", i);
    }
}

typedef struct Gate {
    int open, arrived;
} Gate;

static void stand(void *arg, int64_t i, int worker)
{
    Gate *g = arg;

    (void)i, (void)worker;
    __atomic_add_fetch(&g->arrived, 1, __ATOMIC_RELEASE);
    wait_for(&g->open, 1);
}

static void *stand_thread(void *arg)
{
    wan_cpu_pool_run(2, 2, NULL, stand, arg);
    return NULL;
}

/* The one helper stands in another region: who needs it not goes on, and who
 * does need it waits. */
TEST(a_busy_helper)
{
    Gate g = { 0 };
    pthread_t thread;

    wan_cpu_pool_open(2, &log_keep);
    pthread_create(&thread, NULL, stand_thread, &g);
    CHECK(wait_for(&g.arrived, 2));
    check_once(2, MOST);
    store(&g.open, 1);
    pthread_join(thread, NULL);
    wan_cpu_pool_close();
}

static void nap(void *arg, int64_t i, int worker)
{
    Gate *g = arg;

    (void)i;
    if (!worker)
        wait_for(&g->arrived, 1);
    __atomic_add_fetch(&g->arrived, 1, __ATOMIC_RELEASE);
    if (worker)
        usleep(100000);
}

/* Neither who waits for a helper nor helpers without work take the cores. */
TEST(waiting_sleeps)
{
    Gate g = { 0 };
    double cpu;

    wan_cpu_pool_open(8, &log_keep);
    check_once(8, MOST);
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    usleep(100000);
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    CHECKF(cpu < 0.03, "8 idle threads took %.3f s of 0.1 s", cpu);
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    wan_cpu_pool_run(2, 2, NULL, nap, &g);
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    CHECKF(cpu < 0.03, "a caller that waits took %.3f s of 0.1 s", cpu);
    wan_cpu_pool_close();
}

/* What cannot be had is done without, and said once. */
TEST(threads_that_cannot_be_had)
{
    for (int have = 0; have < 3; have++) {
        lines = 0;
        left = have;
        wan_cpu_pool_open(4, &log_keep);
        CHECKF(lines == 1 && strstr(last, "4 threads are wanted"), "%s", last);
        check_once(4, MOST);
        wan_cpu_pool_open(4, &log_keep);
        CHECK(lines == 1);
        left = -1;
        wan_cpu_pool_open(4, &log_keep);        // and now there are some
        check_once(4, MOST);
        CHECK(lines == 1);
        for (int i = 0; i < 3; i++)
            wan_cpu_pool_close();
    }
}

static void look(void *arg, int64_t i, int worker)
{
    static const int host[] = { SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1,
                                SIGPROF };
    int *bad = arg;
    sigset_t set;

    (void)i;
    usleep(1000);               // so that all come
    if (!worker)
        return;
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    for (size_t k = 0; k < sizeof(host) / sizeof(*host); k++)
        if (!sigismember(&set, host[k]))
            store(bad, host[k]);
    if (sigismember(&set, SIGSEGV) || sigismember(&set, SIGBUS))
        store(bad, SIGSEGV);
    store(bad + 1, 1);
}

TEST(signals_are_the_hosts)
{
    int bad[2] = { 0 };
    sigset_t set;

    wan_cpu_pool_open(3, &log_keep);
    for (int i = 0; i < 10000 && !bad[1]; i++)
        wan_cpu_pool_run(3, 10, NULL, look, bad);
    CHECKF(bad[1] && !bad[0], "signal %d", bad[0]);
    wan_cpu_pool_close();
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    CHECK(!sigismember(&set, SIGTERM));         // the caller's are as before
}

int main(void)
{
    RUN(every_index_once);
    RUN(cancelled);
    RUN(several_callers);
    RUN(a_busy_helper);
    RUN(waiting_sleeps);
    RUN(threads_that_cannot_be_had);
    RUN(signals_are_the_hosts);
    return test_end();
}
