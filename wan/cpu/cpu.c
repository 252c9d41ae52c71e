/*
 * The backend 'cpu': its table, its threads, its memory.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu.h"
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

int64_t wan_cpu_memory_available(int index, void *context)
{
    int64_t have = kernel_number("/proc/meminfo", "MemAvailable:", 1024);
    const int64_t limit = kernel_number("/sys/fs/cgroup/memory.max", "", 1);
    const int64_t used = kernel_number("/sys/fs/cgroup/memory.current", "", 1);
    const int64_t cache = kernel_number("/sys/fs/cgroup/memory.stat",
                                        "inactive_file", 1);

    (void)index, (void)context;
    if (have < 0)
        have = INT64_MAX;
    if (limit >= 0 && used >= 0) {
        const int64_t left = limit - used + (cache > 0 ? cache : 0);
        if (left < have)
            have = left > 0 ? left : 0;
    }
    return have;
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

static const WanOps ops = {
    .linear         = wan_cpu_linear,
    .attention      = wan_cpu_attention,
    .conv           = wan_cpu_conv,
    .layer_norm     = wan_cpu_layer_norm,
    .modulate       = wan_cpu_modulate,
    .gate_add_norm  = wan_cpu_gate_add_norm,
    .rms_norm       = wan_cpu_rms_norm,
    .rope           = wan_cpu_rope,
    .rms_norm_rope  = wan_cpu_rms_norm_rope,
    .l2_norm        = wan_cpu_l2_norm,
    .act            = wan_cpu_act,
    .mul            = wan_cpu_mul,
    .geglu          = wan_cpu_geglu,
    .gate_add       = wan_cpu_gate_add,
    .lincomb        = wan_ref_lincomb,
    .copy           = wan_cpu_copy,
    .fill           = wan_cpu_fill,
    .upload         = wan_ref_upload,
    .download       = wan_ref_download,
    .finite         = wan_ref_finite,
    .embed          = wan_ref_embed,
    .patchify       = wan_ref_patchify,
    .unpatchify     = wan_ref_unpatchify,
    .channels_last  = wan_ref_channels_last,
    .channels_first = wan_ref_channels_first,
    .resize         = wan_ref_resize,
    .image          = wan_ref_image,
    .noise          = wan_ref_noise,
    .linear_scratch    = wan_cpu_linear_scratch,
    .attention_scratch = wan_cpu_attention_scratch,
    .conv_scratch      = wan_cpu_conv_scratch,
};

const WanBackend wan_backend_cpu = {
    .name      = "cpu",
    .ops       = &ops,
    .act       = WAN_F32,
    .hidden_rows = 4096,
    .open      = cpu_open,
    .available = wan_cpu_memory_available,
    .alloc     = cpu_alloc,
    .free      = cpu_free,
};
