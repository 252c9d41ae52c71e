/*
 * Over which nodes memory is spread, by the files of made-up kernels.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <sys/stat.h>

#include "nodes.h"
#include "weights_util.h"

#ifdef __linux__

/* A file of a node, or of all; NULL: it is not there. */
static void put_file(const char *name, const char *text)
{
    char path[100];
    Bytes b = { 0 };

    if (!text)
        return;
    snprintf(path, sizeof(path), "sys/devices/system/node/%s", name);
    for (char *slash = path; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        mkdir(scratch(path), 0700);
    }
    put_str(&b, text);
    write_file(scratch(path), &b);
}

typedef struct Machine {
    const char *memory;         // has_memory
    const char *cpus[3];        // of each node
} Machine;

/* What comes out, as a mask of nodes. */
static unsigned nodes_of(const Machine *m, const char *affinity, int threads)
{
    cpu_set_t cpus, nodes;
    char name[32], root[1200];
    unsigned mask = 0;
    int nb;

    put_file("has_memory", m->memory);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "node%d/cpulist", i);
        put_file(name, m->cpus[i]);
    }
    CPU_ZERO(&cpus);
    for (; *affinity; affinity++)
        CPU_SET(*affinity - '0', &cpus);
    snprintf(root, sizeof(root), "%s", scratch(""));
    root[strlen(root) - 1] = 0;
    nb = wan_nodes_in(&nodes, root, &cpus, threads);
    CHECKF(nb != 1 && (!nb || nb == CPU_COUNT(&nodes)), "%d nodes", nb);
    for (int i = 0; nb && i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &nodes)) {
            CHECK(i < 3);
            mask |= 1u << i;
        }
    scratch_clean();
    return mask;
}

#define EXPECT(mask, m, affinity, threads) \
    do { \
        const unsigned got_ = nodes_of(m, affinity, threads); \
        CHECKF(got_ == (mask), "%d threads on %s: %#x", threads, affinity, \
               got_); \
    } while (0)

TEST(one_node)
{
    const Machine m = { "0\n", { "0-7\n" } };

    for (int threads = 1; threads <= 9; threads++)
        EXPECT(0, &m, "01234567", threads);
}

TEST(two_nodes)
{
    const Machine m = { "0-1\n", { "0-3\n", "4-7\n" } };
    const Machine mixed = { "0,1\n", { "0-1,4-5\n", "2,3,6-7\n" } };

    for (int threads = 1; threads <= 9; threads++) {
        EXPECT(threads > 4 ? 3 : 0, &m, "01234567", threads);
        EXPECT(threads > 4 ? 3 : 0, &mixed, "01234567", threads);
    }
}

/* What counts are the CPUs that may be used. */
TEST(affinity)
{
    const Machine m = { "0-2\n", { "0-3\n", "4-7\n", "8-9\n" } };

    for (int threads = 1; threads <= 9; threads++) {
        EXPECT(0, &m, "0123", threads);
        EXPECT(0, &m, "56", threads);
        EXPECT(threads > 3 ? 3 : 0, &m, "3456", threads);
        EXPECT(threads > 1 ? 5 : 0, &m, "18", threads);
    }
    EXPECT(0, &m, "", 4);
}

/* Memory without CPUs, as of cards and expanders; CPUs without memory. */
TEST(halves_of_nodes)
{
    const Machine memory = { "0-2\n", { "0-1\n", "\n", "2-3\n" } };
    const Machine alone = { "0-1\n", { "0-3\n", "\n" } };
    const Machine cpus = { "0,2\n", { "0-1\n", "2-3\n", "4-5\n" } };
    const Machine one = { "1\n", { "0-3\n", "4-7\n" } };

    EXPECT(5, &memory, "0123", 4);
    EXPECT(0, &alone, "0123", 8);
    EXPECT(5, &cpus, "012345", 6);
    EXPECT(0, &one, "01234567", 8);
}

TEST(garbage)
{
    static const char *const bad[] = {
        "", "x\n", "0-\n", "-1\n", "1-0\n", "0-1", "0-1\n\n", "0-1\nx", "0,,1\n",
        ",0\n", "0-1,\n", "0 -1\n", "0-1024\n", "0-99999999999999999999\n",
        "0-1-2\n", "0x1\n", "\xff\n", " \n",
    };
    char longer[20001];

    memset(longer, '1', sizeof(longer));
    for (size_t i = 1; i < sizeof(longer); i += 2)
        longer[i] = ',';
    longer[sizeof(longer) - 1] = 0;
    for (size_t i = 0; i <= sizeof(bad) / sizeof(*bad); i++) {
        const char *text = i < sizeof(bad) / sizeof(*bad) ? bad[i] : longer;
        const Machine list = { text, { "0-1\n", "2-3\n" } };
        const Machine node = { "0-1\n", { "0-1\n", text } };

        CHECKF(!nodes_of(&list, "0123", 4), "has_memory: '%.9s'", text);
        CHECKF(!nodes_of(&node, "0123", 4), "cpulist: '%.9s'", text);
    }
}

TEST(missing)
{
    const Machine none = { 0 };
    const Machine list = { NULL, { "0-1\n", "2-3\n" } };
    const Machine node = { "0-1\n", { "0-1\n" } };
    const Machine many = { "0-1023\n", { "0-1\n", "2-3\n" } };

    EXPECT(0, &none, "0123", 4);
    EXPECT(0, &list, "0123", 4);
    EXPECT(0, &node, "0123", 4);
    EXPECT(0, &many, "0123", 4);
}

/* On this machine, whatever it is: the pages are good, and the calling thread
 * has its own way again. */
TEST(wishes)
{
    const size_t bytes = 1 << 16;
    char *p = aligned_alloc(1 << 16, bytes);

    if (!CHECK(p))
        return;
    for (int threads = 1; threads <= 1024; threads *= 32) {
        wan_nodes_spread(p, bytes, threads);
        memset(p, threads, bytes);
        const int spread = wan_nodes_enter(threads);
        wan_nodes_leave(spread);
        CHECK(wan_nodes_enter(threads) == spread);
        wan_nodes_leave(spread);
    }
    free(p);
}

int main(void)
{
    RUN(one_node);
    RUN(two_nodes);
    RUN(affinity);
    RUN(halves_of_nodes);
    RUN(garbage);
    RUN(missing);
    RUN(wishes);
    return test_end();
}

#else

int main(void)
{
    return test_end();
}

#endif
