/*
 * The threads that the CPU's work runs on: one pool for the whole process.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CPU_POOL_H
#define WAN_CPU_POOL_H

#include <signal.h>

#include "../log.h"

/**
 * Become a user of the pool, which then has threads - 1 helpers or more. With
 * those that can't be had it does without, and says so once. Any thread. What
 * the helpers take of the address space is taken when it returns.
 */
void wan_cpu_pool_open(int threads, const WanLog *log);

/* The helpers end with the last user. */
void wan_cpu_pool_close(void);

/**
 * Call fn(arg, i, worker) for every i < n, in any order, on the calling thread
 * and as many helpers as are free, at most threads - 1; worker < threads is
 * another one for each thread that runs, 0 the caller. Returns when all calls
 * have. Between open and close, any number of callers at once, but not from
 * inside of fn.
 *
 * @param cancel  no more calls once it is not 0, set from any thread; or NULL
 */
void wan_cpu_pool_run(int threads, int64_t n, const int *cancel,
                      void (*fn)(void *arg, int64_t i, int worker),
                      void *arg);

/* For a thread about to be made: signals are the host's business, but for those
 * that a thread raises itself. */
void wan_block_signals(sigset_t *saved);

#endif /* WAN_CPU_POOL_H */
