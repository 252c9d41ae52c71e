/*
 * wan-info --report: the machine and the build, for who reports a fault.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * What is shown is to be pasted where everybody reads it: of paths only the
 * last part.
 */

#include <ctype.h>
#include <glob.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../wan/dev.h"
#include "report.h"

extern char **environ;

/* The flags that the loops of libwan and oneDNN choose by. */
static const char *const cpu_flags[] = {
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
    "amx_int8", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2",
};

/* ---------------------------------------------------------------- lines */

static int in_word(char c)
{
    return c && !isspace((unsigned char)c) && !strchr("\"'()=|;,", c);
}

void report_line(const char *label, const char *line, const char *dir)
{
    const size_t skip = dir && strcmp(dir, ".") && strcmp(dir, "/")
                        ? strlen(dir) : 0;

    printf("  %-13s ", label);
    while (*line) {
        size_t n = 0;
        const char *start = line;

        if (skip && !strncmp(line, dir, skip) && line[skip] == '/') {
            line += skip + 1;
            continue;
        }
        while (in_word(line[n])) {
            if (line[n] == '/' && in_word(line[n + 1]))
                start = line + n + 1;
            n++;
        }
        line += n ? n : 1;
        fwrite(start, 1, (size_t)(line - start), stdout);
    }
    putchar('\n');
}

/* What follows the key and its separator in a small text file of the system's,
 * 0: it is not there. */
static int value_in(char *dst, size_t size, const char *path, const char *key)
{
    FILE *f = fopen(path, "r");
    char line[8192];
    int found = 0;

    while (f && !found && fgets(line, sizeof(line), f)) {
        const char *v = line + strlen(key);

        if (strncmp(line, key, strlen(key)))
            continue;
        v += strspn(v, " \t:=\"");
        snprintf(dst, size, "%.*s", (int)strcspn(v, "\"\n"), v);
        found = 1;
    }
    if (f)
        fclose(f);
    return found;
}

/* -------------------------------------------------------------- sections */

static void show_build(void)
{
    printf("libwan %u.%u.%u\n", wan_version() >> 16, wan_version() >> 8 & 255,
           wan_version() & 255);
    printf("  build         CUDA %s, oneDNN %s, "
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
           "sanitizers, "
#endif
#ifndef __clang__
           "gcc "
#endif
           "%s\n", WAN_HAVE_CUDA ? "yes" : "no",
           WAN_HAVE_ONEDNN ? "yes" : "no", __VERSION__);
}

static void show_system(void)
{
    struct utsname u;
    char name[256] = "";

    value_in(name, sizeof(name), "/etc/os-release", "PRETTY_NAME");
    if (!uname(&u))
        printf("  system        %s %s %s%s%s\n", u.sysname, u.release,
               u.machine, *name ? ", " : "", name);
}

static void show_cpu(void)
{
    char name[256] = "unknown", flags[8192];
    cpu_set_t set;

    if (!value_in(name, sizeof(name), "/proc/cpuinfo", "model name"))
        value_in(name, sizeof(name), "/proc/cpuinfo", "CPU part");
    printf("  processor     %s\n", name);
    if (value_in(flags, sizeof(flags), "/proc/cpuinfo", "flags") ||
        value_in(flags, sizeof(flags), "/proc/cpuinfo", "Features")) {
        printf("  of its flags ");
        for (size_t i = 0; i < sizeof(cpu_flags) / sizeof(*cpu_flags); i++)
            for (const char *p = flags; (p = strstr(p, cpu_flags[i])); p++) {
                const char after = p[strlen(cpu_flags[i])];

                if ((p == flags || p[-1] == ' ') && (!after || after == ' ')) {
                    printf(" %s", cpu_flags[i]);
                    break;
                }
            }
        putchar('\n');
    }
    printf("  cores         %ld", sysconf(_SC_NPROCESSORS_ONLN));
    if (!sched_getaffinity(0, sizeof(set), &set))
        printf(", %d for this process", CPU_COUNT(&set));
    printf("; threads by default %d\n", wan_dev_threads(0));
}

/* With unit "": a plain number. */
static void show_limit(const char *name, int which, const char *unit)
{
    const double divisor = !*unit ? 1 : *unit == 'G' ? 1 << 30 : 1 << 20;
    struct rlimit r;

    if (getrlimit(which, &r) < 0)
        return;
    if (r.rlim_cur == RLIM_INFINITY)
        printf("%s unlimited", name);
    else
        printf("%s %.0f%s%s", name, r.rlim_cur / divisor, *unit ? " " : "",
               unit);
}

static void show_memory(void)
{
    const int64_t free_bytes = wan_dev_available("cpu", NULL);
    const double all = (double)sysconf(_SC_PHYS_PAGES) *
                       (double)sysconf(_SC_PAGESIZE);

    printf("  memory        %.1f GB", all / 1e9);
    if (free_bytes < INT64_MAX)
        printf(", %.1f GB to be had (control groups counted)",
               free_bytes / 1e9);
    printf("\n  limits        ");
    show_limit("address space", RLIMIT_AS, "GiB");
    show_limit(", data", RLIMIT_DATA, "GiB");
    show_limit(", stack", RLIMIT_STACK, "MiB");
    show_limit(", locked", RLIMIT_MEMLOCK, "MiB");
    show_limit(", files", RLIMIT_NOFILE, "");
    show_limit(", threads", RLIMIT_NPROC, "");
    putchar('\n');
}

static void print_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    (void)level;
    report_line("cuda", line, NULL);
}

static void show_gpus(void)
{
    const WanLog log = { print_line, NULL, WAN_LOG_ERROR };
    char name[256];
    glob_t g = { 0 };

    glob("/proc/driver/nvidia/gpus/*/information", 0, NULL, &g);
    for (size_t i = 0; i < g.gl_pathc; i++)
        if (value_in(name, sizeof(name), g.gl_pathv[i], "Model"))
            printf("  GPU           %s\n", name);
    globfree(&g);
    if (value_in(name, sizeof(name), "/proc/driver/nvidia/version",
                 "NVRM version"))
        printf("  driver        %s\n", name);
    if (WAN_HAVE_CUDA && wan_dev_known("cuda", &log)) {
        const int64_t bytes = wan_dev_available("cuda", NULL);

        if (bytes < INT64_MAX)
            printf("  cuda          %.1f GB free\n", bytes / 1e9);
    }
}

/* --------------------------------------------------------------- ffmpeg */

/* What a program prints, opened for reading; NULL: it can't be run. */
static FILE *run(pid_t *child, const char *path, const char *argument)
{
    int ends[2];

    if (pipe(ends) < 0)
        return NULL;
    fflush(stdout);
    *child = fork();
    if (!*child) {
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        execl(path, path, "-hide_banner", argument, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    if (*child > 0)
        return fdopen(ends[0], "r");
    close(ends[0]);
    return NULL;
}

static void show_ffmpeg(void)
{
    static const char *const arguments[] = { "-version", "-filters" };
    char path[PATH_MAX], line[512], *slash;
    const ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 16);
    int filters = 0;

    if (n < 0)
        return;
    path[n] = 0;
    if (!(slash = strrchr(path, '/')))
        return;
    strcpy(slash + 1, "ffmpeg");
    if (access(path, X_OK) < 0) {
        printf("  ffmpeg        none beside this program\n");
        return;
    }
    for (int i = 0; i < 2; i++) {
        pid_t child;
        FILE *f = run(&child, path, arguments[i]);

        for (int k = 0; f && fgets(line, sizeof(line), f); k++) {
            line[strcspn(line, "\n")] = 0;
            if (!i && !k)
                printf("  ffmpeg        %s\n", line);
            filters += i && (strstr(line, " wan_t2v ") ||
                             strstr(line, " wan_i2v "));
        }
        if (f) {
            fclose(f);
            waitpid(child, NULL, 0);
        }
    }
    printf("  its filters   %d of libwan's\n", filters);
}

static void show_environment(void)
{
    for (char **e = environ; *e; e++) {
        const char *value = strchr(*e, '='), *slash = strrchr(*e, '/');

        if (!strncmp(*e, "WAN_", 4) && value)
            printf("  environment   %.*s=%s\n", (int)(value - *e), *e,
                   slash ? slash + 1 : value + 1);
    }
}

void report_machine(void)
{
    show_build();
    show_system();
    show_cpu();
    show_memory();
    show_gpus();
    show_ffmpeg();
    show_environment();
}
