/*
 * The threads that the CPU's work runs on: one pool for the whole process.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A region is one wan_cpu_pool_run(). Its caller works as well and indices are
 * claimed one by one, so it needs nobody: it is over when what was claimed is
 * done, and a helper that did not wake up in time is not waited for. Several
 * callers share the helpers: one that is free goes where fewest went.
 *
 * Who waits, a helper for a region or a caller for the last index of a helper,
 * looks for SPIN nanoseconds and then sleeps. Longer, and where others want
 * the cores it would hold the one that the thread it waits for should have.
 */

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "pool.h"
#include "sgemm.h"

enum {
    SPIN = 5000,                // ns, measured: docs/performance.md
    CALM = 10000000,            // ns, some time slices
    STACK = 1 << 20             // bytes of a helper's
};

typedef struct Region {
    struct Region *next;        // the one opened after it
    void (*fn)(void *arg, int64_t i, int worker);
    void *arg;
    const int *cancel;
    int64_t n;
    int64_t claimed;            // indices, atomic
    int most, joined;           // helpers that may come, that came
    unsigned inside;            // that came and did not leave, atomic
    int sleeping;               // its caller, until inside is 0
} Region;

/* Of those that only contend for a moment. */
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
#define LOCK_INIT PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
#else
#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
#endif

static struct {
    pthread_mutex_t life;       // held by open and close
    int users;
    pthread_t *helper;
    int nb_helpers;
    int short_of;               // threads could not be had, and it was said

    pthread_mutex_t lock;       // of all below and of the regions
    pthread_cond_t work;        // helpers sleep here
    pthread_cond_t done;        // callers sleep here, and who opens
    Region *first;              // open regions, oldest first
    unsigned opened;            // counts regions, atomic: what spinning
                                // helpers look at
    int up, spinning, sleeping; // helpers
    int stop;
} pool = {
    .life = PTHREAD_MUTEX_INITIALIZER,
    .lock = LOCK_INIT,
    .work = PTHREAD_COND_INITIALIZER,
    .done = PTHREAD_COND_INITIALIZER,
};

/* ------------------------------------------------------------- waiting */

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Looks at *word while it is value, not for long. */
static void spin(const unsigned *word, unsigned value)
{
    const int64_t end = now() + SPIN;

    do {
        for (int i = 0; i < 16; i++) {
            if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value)
                return;
            relax();
        }
    } while (now() < end);
}

/* -------------------------------------------------------------- regions */

static int cancelled(const Region *r)
{
    return r->cancel && __atomic_load_n(r->cancel, __ATOMIC_RELAXED);
}

static void work(Region *r, int worker)
{
    int64_t i;

    while (!cancelled(r) &&
           (i = __atomic_fetch_add(&r->claimed, 1, __ATOMIC_RELAXED)) < r->n)
        r->fn(r->arg, i, worker);
}

/* Known to all from here on; sleeping helpers wake as they are wanted. */
static void open_region(Region *r)
{
    int wake;

    pthread_mutex_lock(&pool.lock);
    Region **end = &pool.first;
    while (*end)
        end = &(*end)->next;
    *end = r;
    __atomic_store_n(&pool.opened, pool.opened + 1, __ATOMIC_RELEASE);
    wake = r->most - pool.spinning;
    if (wake > pool.sleeping)
        wake = pool.sleeping;
    const int all = wake == pool.sleeping;
    pthread_mutex_unlock(&pool.lock);

    if (wake > 0 && all)
        pthread_cond_broadcast(&pool.work);
    else
        for (; wake > 0; wake--)
            pthread_cond_signal(&pool.work);
}

/* Nobody comes any more; wait for those who are inside. */
static void close_region(Region *r)
{
    unsigned inside;

    pthread_mutex_lock(&pool.lock);
    Region **at = &pool.first;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    inside = r->inside;
    pthread_mutex_unlock(&pool.lock);

    if (inside)
        spin(&r->inside, inside);
    if (!__atomic_load_n(&r->inside, __ATOMIC_ACQUIRE))
        return;
    pthread_mutex_lock(&pool.lock);
    r->sleeping = 1;
    while (r->inside)
        pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

void wan_cpu_pool_run(int threads, int64_t n, const int *cancel,
                      void (*fn)(void *arg, int64_t i, int worker), void *arg)
{
    Region r = {
        .fn = fn, .arg = arg, .cancel = cancel, .n = n,
        .most = (threads < n ? threads : (int)n) - 1,
    };
    const int saved = wan_sgemm_begin();

    if (r.most > 0) {
        open_region(&r);
        work(&r, 0);
        close_region(&r);
    } else {
        work(&r, 0);
    }
    wan_sgemm_end(saved);
}

/* -------------------------------------------------------------- helpers */

/* Where a helper is wanted most. Lock held, as in all below. */
static Region *choose(void)
{
    Region *best = NULL;

    for (Region *r = pool.first; r; r = r->next)
        if (r->joined < r->most && !cancelled(r) &&
            __atomic_load_n(&r->claimed, __ATOMIC_RELAXED) < r->n &&
            (!best || r->joined < best->joined))
            best = r;
    return best;
}

/* The caller's stack holds r: it is not touched once inside is less. */
static void help(Region *r)
{
    const int worker = ++r->joined;

    __atomic_add_fetch(&r->inside, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&pool.lock);
    work(r, worker);
    pthread_mutex_lock(&pool.lock);
    const int wake = r->sleeping;
    __atomic_sub_fetch(&r->inside, 1, __ATOMIC_RELEASE);
    if (wake)
        pthread_cond_broadcast(&pool.done);
}

/* What a helper knows of its core. */
typedef struct Core {
    long taken;                 // times that others took it
    int64_t calm;               // when that is long enough ago, ns
} Core;

/* Others want it too: a helper that spins then comes late to what follows. */
static int crowded(Core *c)
{
    const int64_t at = now();
    struct rusage u;

    if (!getrusage(RUSAGE_THREAD, &u) && u.ru_nivcsw != c->taken) {
        c->taken = u.ru_nivcsw;
        c->calm = at + CALM;
    }
    return at < c->calm;
}

static void wait_for_region(Core *core)
{
    const unsigned seen = pool.opened;

    pool.spinning++;
    pthread_mutex_unlock(&pool.lock);
    if (!crowded(core))
        spin(&pool.opened, seen);
    pthread_mutex_lock(&pool.lock);
    pool.spinning--;
    if (pool.opened != seen || pool.stop)
        return;
    pool.sleeping++;
    pthread_cond_wait(&pool.work, &pool.lock);
    pool.sleeping--;
}

/* What a thread's first allocation takes, which can be much, is taken before
 * it is up. One that gets nothing does nothing: OpenMP would end the process. */
static void *helper(void *unused)
{
    void *volatile some = malloc(4096);
    Core core = { 0 };

    (void)unused;
    pthread_setname_np(pthread_self(), "wan-cpu");
    free(some);
    if (some)
        wan_sgemm_begin();
    pthread_mutex_lock(&pool.lock);
    pool.up++;
    pthread_cond_broadcast(&pool.done);
    while (some && !pool.stop) {
        Region *r = choose();

        if (r)
            help(r);
        else
            wait_for_region(&core);
    }
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

/* ------------------------------------------------------- opening, closing */

void wan_block_signals(sigset_t *saved)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP,
                               SIGSYS };
    sigset_t set;

    sigfillset(&set);
    for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
        sigdelset(&set, own[i]);
    pthread_sigmask(SIG_SETMASK, &set, saved);
}

/* Up to n helpers in all, as many as can be had. */
static void start_helpers(int n)
{
    pthread_attr_t attr;
    sigset_t saved;
    pthread_t *more;

    if (n <= pool.nb_helpers || pthread_attr_init(&attr))
        return;
    pthread_attr_setstacksize(&attr, STACK);
    wan_block_signals(&saved);
    if ((more = realloc(pool.helper, n * sizeof(*more)))) {
        pool.helper = more;
        while (pool.nb_helpers < n &&
               !pthread_create(&more[pool.nb_helpers], &attr, helper, NULL))
            pool.nb_helpers++;
    }
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    pthread_attr_destroy(&attr);
    pthread_mutex_lock(&pool.lock);
    while (pool.up < pool.nb_helpers)
        pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

void wan_cpu_pool_open(int threads, const WanLog *log)
{
    int have, say = 0;

    pthread_mutex_lock(&pool.life);
    pool.users++;
    start_helpers(threads - 1);
    have = pool.nb_helpers + 1;
    if (threads > 1) {
        say = have < threads && !pool.short_of;
        pool.short_of = have < threads;
    }
    pthread_mutex_unlock(&pool.life);

    if (say)
        wan_log(log, WAN_LOG_WARNING, "%d threads are wanted and %d can be "
                "had: it goes on with those", threads, have);
}

void wan_cpu_pool_close(void)
{
    pthread_mutex_lock(&pool.life);
    if (!--pool.users) {
        pthread_mutex_lock(&pool.lock);
        pool.stop = 1;
        __atomic_store_n(&pool.opened, pool.opened + 1, __ATOMIC_RELEASE);
        pthread_mutex_unlock(&pool.lock);
        pthread_cond_broadcast(&pool.work);
        for (int i = 0; i < pool.nb_helpers; i++)
            pthread_join(pool.helper[i], NULL);
        pool.stop = 0;
        pool.nb_helpers = pool.up = 0;
        free(pool.helper);
        pool.helper = NULL;
    }
    pthread_mutex_unlock(&pool.life);
}
