/*
 * Memory of machines that have several nodes of it (NUMA).
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_NODES_H
#define WAN_NODES_H

#include <stddef.h>

#ifdef __linux__
#include <sched.h>

/**
 * Over which nodes memory that so many threads share is interleaved: those that
 * have memory and one of the CPUs.
 *
 * @param nodes as the kernel takes them, a bit each
 * @param root  the kernel's files lie below it: "", or a test's
 * @param cpus  on which the threads may run
 * @return how many; 0: none, as one node has CPUs for all the threads, or the
 *         files don't say
 */
int wan_nodes_in(cpu_set_t *nodes, const char *root, const cpu_set_t *cpus,
                 int threads);
#endif

/* Wish for that, for pages that nobody has touched. Not where the calling
 * thread has a policy already, such as numactl's. */
void wan_nodes_spread(void *p, size_t bytes, int threads);

/* The same for what the calling thread makes the system read or allocate until
 * it leaves, with the number that it got. */
int wan_nodes_enter(int threads);
void wan_nodes_leave(int entered);

#endif /* WAN_NODES_H */
