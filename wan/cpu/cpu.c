/*
 * The backend 'cpu': its table, its threads, its memory.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../nodes.h"
#include "bf16.h"
#include "cpu.h"
#include "int8.h"
#include "pool.h"
#include "sgemm.h"

/* ------------------------------------------------------------- memory */

/* The number after a line's key in a file of the kernel, times unit. */
static int64_t kernel_number(const char *path, const char *key, int64_t unit)
{
    const size_t n = strlen(key);
    char line[256];
    int64_t value = -1;
    FILE *f = fopen(path, "re");

    if (!f)
        return -1;
    while (value < 0 && fgets(line, sizeof(line), f))
        if (!strncmp(line, key, n)) {
            long long v;

            if (sscanf(line + n, " %lld", &v) != 1 || v > INT64_MAX / unit)
                break;                  // "max": no limit
            value = v * unit;
        }
    fclose(f);
    return value;
}

/* The files of a control group that limits memory: version 2 and 1. */
static const struct {
    const char *mount, *limit, *used, *stat, *cache;
} groups[] = {
    { "/sys/fs/cgroup", "memory.max", "memory.current", "memory.stat",
      "inactive_file " },
    { "/sys/fs/cgroup/memory", "memory.limit_in_bytes",
      "memory.usage_in_bytes", "memory.stat", "total_inactive_file " },
};

/* What the group at dir leaves its members; INT64_MAX: it has no limit. What
 * it holds of files it gives back. */
static int64_t group_leaves(const char *dir, int version)
{
    char path[PATH_MAX + 32];
    int64_t limit, used, cache, left;

    snprintf(path, sizeof(path), "%s/%s", dir, groups[version].limit);
    limit = kernel_number(path, "", 1);
    snprintf(path, sizeof(path), "%s/%s", dir, groups[version].used);
    used = kernel_number(path, "", 1);
    if (limit < 0 || used < 0)
        return INT64_MAX;
    snprintf(path, sizeof(path), "%s/%s", dir, groups[version].stat);
    cache = kernel_number(path, groups[version].cache, 1);
    left = limit - used + (cache > 0 ? cache : 0);
    return left > 0 ? left : 0;
}

/* The tightest limit from the process' own group up to the root. group: its
 * path; where a container sees its own part alone it begins above that. */
static int64_t groups_leave(const char *root, int version, const char *group)
{
    char dir[PATH_MAX];
    const int top = snprintf(dir, sizeof(dir), "%s%s", root,
                             groups[version].mount);
    int64_t left = INT64_MAX;
    char *slash;

    if (!strstr(group, "/.."))
        snprintf(dir + top, sizeof(dir) - top, "%s", group);
    for (;;) {
        const int64_t here = group_leaves(dir, version);

        left = here < left ? here : left;
        slash = strrchr(dir, '/');
        if (!slash || slash < dir + top)
            return left;
        *slash = 0;
    }
}

/* Is "memory" among a line's controllers? */
static int has_memory(const char *list)
{
    const char *p = strstr(list, "memory");

    return p && (p == list || p[-1] == ',') && (!p[6] || p[6] == ',');
}

int64_t wan_cpu_memory_in(const char *root)
{
    char path[PATH_MAX], line[PATH_MAX];
    int64_t have, left;
    int seen[2] = { 0 };
    FILE *f;

    snprintf(path, sizeof(path), "%s/proc/meminfo", root);
    have = kernel_number(path, "MemAvailable:", 1024);
    have = have < 0 ? INT64_MAX : have;
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        char *list = strchr(line, ':'), *group;
        int version;

        if (!list || !(group = strchr(++list, ':')))
            continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        version = !*list ? 0 : 1;
        if (version && !has_memory(list))
            continue;
        left = groups_leave(root, version, group);
        have = left < have ? left : have;
        seen[version] = 1;
    }
    if (f)
        fclose(f);
    for (int version = 0; version < 2; version++) {     // no such file
        left = seen[version] ? have : groups_leave(root, version, "");
        have = left < have ? left : have;
    }
    return have;
}

int64_t wan_cpu_memory_available(int index, void *context)
{
    (void)index, (void)context;
    return wan_cpu_memory_in("");
}

/* Pages as wan_cpu_alloc() gives them, and room for more behind them. */
static char *map_pages(int64_t bytes, int64_t room)
{
    void *p;

    if (bytes < 0 || bytes > wan_cpu_memory_available(0, NULL))
        return NULL;
    p = mmap(NULL, bytes + room, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE
    madvise(p, bytes, MADV_HUGEPAGE);   // fewer TLB misses; only a wish
#endif
    return p;
}

void *wan_cpu_alloc(WanDev *d, int64_t bytes)
{
    (void)d;
    return map_pages(bytes ? bytes : 1, 0);
}

void wan_cpu_free(WanDev *d, void *p, int64_t bytes)
{
    (void)d;
    if (p)
        munmap(p, bytes ? bytes : 1);
}

/* ------------------------------------------------ threads and products */

static int cpu_open(WanDev *d)
{
    return wan_sgemm_open(d->log);
}

/* The arena, then the threads, from what is left but for the room that their
 * products want. */
static void *cpu_alloc(WanDev *d, int64_t bytes)
{
    const int64_t page = sysconf(_SC_PAGESIZE);
    const int64_t size = (bytes > 0 ? bytes + page - 1 : page) / page * page;
    const int64_t room = d->threads * wan_sgemm_room();
    char *p = map_pages(size, room);

    if (!p)
        return NULL;
    wan_nodes_spread(p, size, d->threads);
    wan_cpu_pool_open(d->threads, d->log);
    if (room)
        munmap(p + size, room);
    return p;
}

static void cpu_free(WanDev *d, void *p, int64_t bytes)
{
    wan_cpu_pool_close();
    wan_cpu_free(d, p, bytes);
}

void wan_cpu_parallel(WanDev *d, int64_t n,
                      void (*fn)(void *arg, int64_t i, int worker), void *arg)
{
    wan_cpu_pool_run(d->threads, n, &d->cancel, fn, arg);
}

/* -------------------------------------------------------------- table */

/* Which entries are the same in every precision. */
#define COMMON_ENTRIES \
    .rows_apart     = 1, \
    .conv_beside    = 1, \
    .layer_norm     = wan_cpu_layer_norm, \
    .modulate       = wan_cpu_modulate, \
    .gate_add_norm  = wan_cpu_gate_add_norm, \
    .rms_norm       = wan_cpu_rms_norm, \
    .rope           = wan_cpu_rope, \
    .rms_norm_rope  = wan_cpu_rms_norm_rope, \
    .l2_norm        = wan_cpu_l2_norm, \
    .row_norm       = wan_ref_row_norm, \
    .act            = wan_cpu_act, \
    .mul            = wan_cpu_mul, \
    .geglu          = wan_cpu_geglu, \
    .gate_add       = wan_cpu_gate_add, \
    .lincomb        = wan_ref_lincomb, \
    .copy           = wan_cpu_copy, \
    .fill           = wan_cpu_fill, \
    .upload         = wan_ref_upload, \
    .download       = wan_ref_download, \
    .finite         = wan_ref_finite, \
    .embed          = wan_ref_embed, \
    .patchify       = wan_ref_patchify, \
    .unpatchify     = wan_ref_unpatchify, \
    .channels_last  = wan_ref_channels_last, \
    .channels_first = wan_ref_channels_first, \
    .fold           = wan_cpu_fold, \
    .unfold         = wan_cpu_unfold, \
    .resize         = wan_ref_resize, \
    .image          = wan_ref_image, \
    .noise          = wan_ref_noise

static const WanOps ops_f32 = {
    COMMON_ENTRIES,
    .linear            = wan_cpu_linear,
    .linear_scratch    = wan_cpu_linear_scratch,
    .linear_n          = wan_cpu_linear_n,
    .linear_n_fits     = wan_cpu_linear_n_fits,
    .attention         = wan_cpu_attention,
    .attention_scratch = wan_cpu_attention_scratch,
    .conv              = wan_cpu_conv,
    .conv_scratch      = wan_cpu_conv_scratch,
};

static const WanOps ops_bf16 = {
    COMMON_ENTRIES,
    .linear            = wan_cpu_linear_bf16,
    .linear_n          = wan_cpu_linear_n_bf16,
    .linear_n_fits     = wan_cpu_linear_n_bf16_fits,
    .linear_scratch    = wan_cpu_linear_bf16_scratch,
    .attention         = wan_cpu_attention_bf16,
    .attention_scratch = wan_cpu_attention_bf16_scratch,
    .conv              = wan_cpu_conv_bf16,
    .conv_scratch      = wan_cpu_conv_bf16_scratch,
};

/* What is beside products in 8 bits, in what the processor multiplies. */
static void attention_int8(WanDev *d, WanTensor *y, const WanTensor *q,
                           const WanTensor *k, const WanTensor *v,
                           const WanAttentionArgs *a)
{
    (wan_int8_beside_f32() ? wan_cpu_attention : wan_cpu_attention_int8)(
        d, y, q, k, v, a);
}

static int64_t attention_int8_scratch(int threads, const WanTensor *q,
                                      const WanTensor *k,
                                      const WanAttentionArgs *a)
{
    return (wan_int8_beside_f32() ? wan_cpu_attention_scratch
                                  : wan_cpu_attention_int8_scratch)(threads, q,
                                                                    k, a);
}

static void conv_int8(WanDev *d, WanTensor *y, const WanTensor *x,
                      const WanConv *w, const WanConvArgs *a)
{
    (wan_int8_beside_f32() ? wan_cpu_conv : wan_cpu_conv_bf16)(d, y, x, w, a);
}

static int64_t conv_int8_scratch(int threads, const WanTensor *y,
                                 const WanTensor *x, const WanConv *w,
                                 const WanConvArgs *a)
{
    return (wan_int8_beside_f32() ? wan_cpu_conv_scratch
                                  : wan_cpu_conv_bf16_scratch)(threads, y, x,
                                                               w, a);
}

static const WanOps ops_int8 = {
    COMMON_ENTRIES,
    .linear            = wan_cpu_linear_int8,
    .linear_n          = wan_cpu_linear_n_int8,
    .linear_n_fits     = wan_cpu_linear_n_int8_fits,
    .linear_scratch    = wan_cpu_linear_int8_scratch,
    .attention         = attention_int8,
    .attention_scratch = attention_int8_scratch,
    .conv              = conv_int8,
    .conv_scratch      = conv_int8_scratch,
};

#define CPU_BACKEND(named, table, type) \
    .name      = named, \
    .ops       = table, \
    .act       = WAN_F32, \
    .precision = type, \
    .hidden_rows = 4096, \
    .open      = cpu_open, \
    .available = wan_cpu_memory_available, \
    .alloc     = cpu_alloc, \
    .free      = cpu_free

const WanBackend wan_backend_cpu = {
    CPU_BACKEND("cpu", &ops_f32, WAN_PRECISION_F32),
};

const WanBackend wan_backend_cpu_bf16 = {
    CPU_BACKEND("cpu-bf16", &ops_bf16, WAN_PRECISION_BF16),
    .native = wan_bf16_native,
};

const WanBackend wan_backend_cpu_int8 = {
    CPU_BACKEND("cpu-int8", &ops_int8, WAN_PRECISION_INT8),
    .native = wan_int8_native,
};
