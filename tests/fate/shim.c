/*
 * What an overloaded or badly kept machine does to a program, for LD_PRELOAD.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 *   SHIM_THREAD=N   the Nth thread that is created can't be had: EAGAIN
 *   SHIM_CLOCK=N    the Nth look at the wall clock is an hour ahead, as if it
 *                   was set back right after it. The main thread's do not
 *                   count: ffmpeg's own loop waits by that clock.
 *   SHIM_FULL=N     the Nth write to a file finds no space left: ENOSPC
 *   SHIM_SYNC=N     the Nth time that a file is to be on the disk it can't: EIO
 *   SHIM_DAMAGE=N   the Nth write to a file changes a bit in its middle
 *   SHIM_INT=N, SHIM_TERM=N   before it the process gets that signal
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Is this the call that the variable counts to? */
static int is_the_one(const char *variable, int *calls)
{
    const char *n = getenv(variable);

    return n && __atomic_add_fetch(calls, 1, __ATOMIC_RELAXED) == atoi(n);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                   void *(*fn)(void *), void *arg)
{
    static int calls;
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *),
                void *);

    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return is_the_one("SHIM_THREAD", &calls) ? EAGAIN
                                             : real(thread, attr, fn, arg);
}

static int ahead(void)
{
    static int calls;

    return syscall(SYS_gettid) != getpid() && is_the_one("SHIM_CLOCK", &calls);
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    int (*real)(struct timeval *, void *);
    int ret;

    *(void **)&real = dlsym(RTLD_NEXT, "gettimeofday");
    ret = real(tv, zone);
    if (ahead())
        tv->tv_sec += 3600;
    return ret;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
    int (*real)(clockid_t, struct timespec *);
    int ret;

    *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    ret = real(clock, ts);
    if (clock == CLOCK_REALTIME && ahead())
        ts->tv_sec += 3600;
    return ret;
}

/* Standard streams do not count. */
ssize_t write(int fd, const void *data, size_t n)
{
    static int full, damage, interrupt, terminate;
    ssize_t (*real)(int, const void *, size_t), ret;
    char *copy;

    *(void **)&real = dlsym(RTLD_NEXT, "write");
    if (fd <= STDERR_FILENO)
        return real(fd, data, n);
    if (is_the_one("SHIM_INT", &interrupt))
        raise(SIGINT);
    if (is_the_one("SHIM_TERM", &terminate))
        raise(SIGTERM);
    if (is_the_one("SHIM_FULL", &full)) {
        errno = ENOSPC;
        return -1;
    }
    if (!is_the_one("SHIM_DAMAGE", &damage) || !(copy = malloc(n)))
        return real(fd, data, n);
    memcpy(copy, data, n);
    copy[n / 2] ^= 1;
    ret = real(fd, copy, n);
    free(copy);
    return ret;
}

int fsync(int fd)
{
    static int calls;
    int (*real)(int);

    *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    if (!is_the_one("SHIM_SYNC", &calls))
        return real(fd);
    errno = EIO;
    return -1;
}
