/*
 * Memory of machines that have several nodes of it (NUMA).
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Linux has a page on the node of the thread that touches it first. Threads
 * claim tiles as they become free and the arena's pages pass from tensor to
 * tensor, so that is any node, or one for all where a single thread came first:
 * then its memory alone serves everybody. What all threads share is therefore
 * spread evenly over the nodes they run on. Threads that one node has CPUs for are
 * left to Linux: where it keeps them together, their pages are best with them.
 */

#include "nodes.h"

#ifdef __linux__
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__linux__) && defined(SYS_mbind) && \
    defined(SYS_get_mempolicy) && defined(SYS_set_mempolicy)
#define WAN_HAVE_POLICY 1
#endif

/* ------------------------------------------------------- the kernel's files */

#ifdef __linux__

/* A number below CPU_SETSIZE, and what follows it; -1: there is none. */
static int number(const char **s)
{
    int n = 0, digits = 0;

    for (; **s >= '0' && **s <= '9' && n < CPU_SETSIZE; (*s)++, digits++)
        n = n * 10 + **s - '0';
    return digits && n < CPU_SETSIZE ? n : -1;
}

/* "0-3,8-11\n" as bits, a line of nothing as none; -1: it is no such list. */
static int parse_list(cpu_set_t *set, const char *s)
{
    CPU_ZERO(set);
    while (*s != '\n') {
        const int first = number(&s);
        int last = first;

        if (*s == '-') {
            s++;
            last = number(&s);
        }
        if (first < 0 || last < first)
            return -1;
        for (int i = first; i <= last; i++)
            CPU_SET(i, set);
        if (*s == ',' && s[1] != '\n')
            s++;
        else if (*s != '\n')
            return -1;
    }
    return s[1] ? -1 : 0;
}

static int read_list(cpu_set_t *set, const char *root, const char *name)
{
    char path[PATH_MAX], text[8192];    // 1024 numbers are less
    size_t n;
    FILE *f;

    snprintf(path, sizeof(path), "%s/sys/devices/system/node/%s", root, name);
    if (!(f = fopen(path, "re")))
        return -1;
    n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = 0;
    return strlen(text) == n ? parse_list(set, text) : -1;
}

int wan_nodes_in(cpu_set_t *nodes, const char *root, const cpu_set_t *cpus,
                 int threads)
{
    cpu_set_t memory, own;
    char name[32];
    int most = 0;

    CPU_ZERO(nodes);
    if (read_list(&memory, root, "has_memory") < 0)
        return 0;
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &memory))
            continue;
        snprintf(name, sizeof(name), "node%d/cpulist", i);
        if (read_list(&own, root, name) < 0)
            return 0;
        CPU_AND(&own, &own, cpus);
        const int n = CPU_COUNT(&own);
        if (n)
            CPU_SET(i, nodes);
        most = n > most ? n : most;
    }
    return threads > most && CPU_COUNT(nodes) > 1 ? CPU_COUNT(nodes) : 0;
}

#endif

/* --------------------------------------------------------------- policies */

#ifdef WAN_HAVE_POLICY

/* Of linux/mempolicy.h. */
#define DEFAULT 0L
#define INTERLEAVE 3L
#define BITS (CPU_SETSIZE + 1UL)        // the kernel leaves the last one out

/* The machine's nodes for so many threads, where nobody else has chosen. */
static int choose(cpu_set_t *nodes, int threads)
{
    cpu_set_t cpus;
    int policy;

    return threads > 1 && !sched_getaffinity(0, sizeof(cpus), &cpus) &&
           wan_nodes_in(nodes, "", &cpus, threads) &&
           !syscall(SYS_get_mempolicy, &policy, NULL, 0UL, NULL, 0UL) &&
           policy == DEFAULT;
}

void wan_nodes_spread(void *p, size_t bytes, int threads)
{
    cpu_set_t nodes;

    if (choose(&nodes, threads))        // a container may refuse it
        syscall(SYS_mbind, p, bytes, INTERLEAVE, &nodes, BITS, 0L);
}

int wan_nodes_enter(int threads)
{
    cpu_set_t nodes;

    return choose(&nodes, threads) &&
           !syscall(SYS_set_mempolicy, INTERLEAVE, &nodes, BITS);
}

void wan_nodes_leave(int entered)
{
    if (entered)
        syscall(SYS_set_mempolicy, DEFAULT, NULL, 0UL);
}

#else

void wan_nodes_spread(void *p, size_t bytes, int threads)
{
    (void)p, (void)bytes, (void)threads;
}

int wan_nodes_enter(int threads)
{
    (void)threads;
    return 0;
}

void wan_nodes_leave(int entered)
{
    (void)entered;
}

#endif
