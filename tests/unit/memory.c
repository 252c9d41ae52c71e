/*
 * What memory there is, by the files of a made-up kernel: control groups of
 * both versions, at every depth.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "cpu/cpu.h"
#include "weights_util.h"

static void put_file(const char *name, const char *text)
{
    char command[2600];
    Bytes b = { 0 };
    const char *path = scratch(name);

    snprintf(command, sizeof(command), "mkdir -p \"$(dirname '%s')\"", path);
    if (system(command))
        abort();
    put_str(&b, text);
    write_file(path, &b);
}

static void group(const char *dir, int version, const char *limit,
                  const char *used, const char *cache)
{
    static const char *const names[2][3] = {
        { "memory.max", "memory.current", "inactive_file" },
        { "memory.limit_in_bytes", "memory.usage_in_bytes",
          "total_inactive_file" },
    };
    char path[600], text[300];

    snprintf(path, sizeof(path), "sys/fs/cgroup/%s/%s", dir,
             names[version][0]);
    put_file(path, limit);
    snprintf(path, sizeof(path), "sys/fs/cgroup/%s/%s", dir,
             names[version][1]);
    put_file(path, used);
    snprintf(path, sizeof(path), "sys/fs/cgroup/%s/memory.stat", dir);
    snprintf(text, sizeof(text), "anon 5\n%s%s %s\n",
             version ? "inactive_file 3\n" : "", names[version][2], cache);
    put_file(path, text);
}

static void expect(int64_t bytes, const char *what)
{
    char root[1200];

    snprintf(root, sizeof(root), "%s", scratch(""));
    root[strlen(root) - 1] = 0;
    CHECKF(wan_cpu_memory_in(root) == bytes, "%s: %lld instead of %lld", what,
           (long long)wan_cpu_memory_in(root), (long long)bytes);
    scratch_clean();
}

#define MEMINFO "MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n"

TEST(without_groups)
{
    expect(INT64_MAX, "nothing at all");
    put_file("proc/meminfo", MEMINFO);
    expect(8192000000, "meminfo");
    put_file("proc/meminfo", MEMINFO);
    put_file("proc/self/cgroup", "0::/user.slice/a\n");
    group("user.slice/a", 0, "max\n", "7\n", "9");
    expect(8192000000, "no limit");
}

/* A service's own group, and those it is in. */
TEST(version_2)
{
    static const char *const limits[][2] = {
        { "system.slice/my.service", "system.slice" },
        { "system.slice", "system.slice/my.service" },
    };

    for (int i = 0; i < 2; i++) {
        put_file("proc/meminfo", MEMINFO);
        put_file("proc/self/cgroup", "0::/system.slice/my.service\n");
        group(limits[i][0], 0, "300000000\n", "100000000\n", "50000000");
        group(limits[i][1], 0, "900000000\n", "100000000\n", "1");
        expect(250000000, limits[i][0]);
    }
    /* a container that sees its own part as the root */
    put_file("proc/self/cgroup", "0::/\n");
    group(".", 0, "300\n", "100\n", "50");
    expect(250, "root");
    put_file("proc/self/cgroup", "0::/../../other\n");
    group(".", 0, "300\n", "400\n", "50");
    expect(0, "above the root, used up");
    group(".", 0, "300\n", "100\n", "50");
    expect(250, "no /proc/self/cgroup");
}

TEST(version_1)
{
    put_file("proc/meminfo", MEMINFO);
    put_file("proc/self/cgroup", "9:cpu,cpuacct:/docker/x\n"
             "4:hugetlb,memory:/docker/x\n1:name=systemd:/docker/x\n0::/\n");
    group("memory/docker/x", 1, "300000000\n", "100000000\n", "50000000");
    group("memory", 1, "9223372036854771712\n", "500000000\n", "1");
    expect(250000000, "docker");
    /* the group's path is the host's, the mount the container's own */
    put_file("proc/self/cgroup", "4:memory:/docker/x\n");
    group("memory", 1, "300\n", "100\n", "50");
    expect(250, "own mount");
    put_file("proc/meminfo", MEMINFO);
    put_file("proc/self/cgroup", "4:memoryless:/x\n");
    group("memory/x", 1, "300\n", "100\n", "50");
    expect(8192000000, "another controller");
}

int main(void)
{
    RUN(without_groups);
    RUN(version_2);
    RUN(version_1);
    return test_end();
}
