/*
 * CUDA's execution model on the host: the scheduler.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Threads are fibers with stacks of their own that are kept from launch to
 * launch. On x86-64 a switch is a few moves; elsewhere ucontext, which asks
 * the kernel each time, does it (and with -DEMU_UCONTEXT everywhere).
 */

#include "emu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifdef EMU_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) || defined(EMU_UCONTEXT)
#define EMU_SYSTEM_SWITCH 1
#include <ucontext.h>
#endif

#define STACK_BYTES (256 << 10)
#define MAX_THREADS 1024
#define STATIC_LIMIT (48 << 10)     // shared bytes without opt-in
#define GUARD 64                    // bytes past shared memory, looked at

EmuIndex threadIdx, blockIdx, blockDim, gridDim;
EmuOrder emu_order;
EmuStats emu_stats;
int64_t emu_dynamic_limit = STATIC_LIMIT;

/* ------------------------------------------------------------ switching */

#ifndef EMU_SYSTEM_SWITCH
struct Context { void *sp; };

extern "C" void emu_switch(void **save, void *sp);
asm(".text\n"
    ".type emu_switch, @function\n"
    "emu_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n"
    "    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n"
    "    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size emu_switch, .-emu_switch\n");

static void context_switch(Context *from, Context *to)
{
    emu_switch(&from->sp, to->sp);
}

static void context_make(Context *c, char *stack, void (*fn)())
{
    void **sp = (void **)(stack + STACK_BYTES) - 1;

    *sp-- = NULL;               // fn returns never; keeps the ABI's alignment
    *sp-- = (void *)fn;
    for (int i = 0; i < 6; i++)
        *sp-- = NULL;
    c->sp = sp + 1;
}
#else
typedef ucontext_t Context;

static void context_switch(Context *from, Context *to)
{
    swapcontext(from, to);
}

static void context_make(Context *c, char *stack, void (*fn)())
{
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = STACK_BYTES;
    c->uc_link = NULL;
    makecontext(c, fn, 0);
}
#endif

/* --------------------------------------------------------------- threads */

enum State { READY, AT_SHUFFLE, AT_BARRIER, DONE };

struct Fiber {
    Context context;
    char *stack;
    State state;
    EmuIndex index;
    const char *what;           // where it waits
    uint32_t mask;
    uint64_t slot[2];           // what it gives: its latest two shuffles
    int parity;
};

struct Shared { const void *key; char *p; int64_t bytes; };

static Fiber fibers[MAX_THREADS];
static Context scheduler;
static Fiber *now;              // the one that runs
static const std::function<void()> *body;
static const char *kernel_name = "no kernel";
static std::vector<Shared> shared;  // of this block; [0]: the launch's
static int nb_threads;
static uint32_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)random_state * n >> 32);
}

void emu_fatal(const char *fmt, ...)
{
    va_list ap;

    printf("# kernel %s, block (%u,%u,%u)", kernel_name, blockIdx.x,
           blockIdx.y, blockIdx.z);
    if (now)
        printf(", thread (%u,%u,%u)", threadIdx.x, threadIdx.y, threadIdx.z);
    printf(": ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    abort();
}

static void to_scheduler()
{
    Fiber *const f = now;
#ifdef EMU_ASAN
    void *fake;
    static const void *bottom;
    static size_t size;

    __sanitizer_start_switch_fiber(&fake, bottom, size);
    context_switch(&f->context, &scheduler);
    __sanitizer_finish_switch_fiber(fake, &bottom, &size);
#else
    context_switch(&f->context, &scheduler);
#endif
}

/* Where fibers begin, and begin anew with every block. */
static void fiber_main()
{
#ifdef EMU_ASAN
    const void *bottom;
    size_t size;

    __sanitizer_finish_switch_fiber(NULL, &bottom, &size);
#endif
    for (;;) {
        (*body)();
        now->state = DONE;
        to_scheduler();
    }
}

static void resume(Fiber *f)
{
    now = f;
    threadIdx = f->index;
#ifdef EMU_ASAN
    void *fake;

    __sanitizer_start_switch_fiber(&fake, f->stack, STACK_BYTES);
    context_switch(&scheduler, &f->context);
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#else
    context_switch(&scheduler, &f->context);
#endif
    now = NULL;
}

/* -------------------------------------------------------- meeting points */

unsigned emu_lane()
{
    return (unsigned)(now - fibers) % 32;
}

void emu_barrier()
{
    now->state = AT_BARRIER;
    now->what = "__syncthreads";
    to_scheduler();
}

uint64_t emu_shuffle(const char *what, uint32_t mask, uint64_t value,
                     unsigned from)
{
    Fiber *const warp = now - emu_lane();
    /* The other slot may still be read by slower lanes. */
    const int parity = now->parity ^= 1;

    if (!(mask >> emu_lane() & 1))
        emu_fatal("%s by a lane its mask %08x leaves out", what, mask);
    now->slot[parity] = value;
    now->state = AT_SHUFFLE;
    now->what = what;
    now->mask = mask;
    to_scheduler();
    if (from > 31 || !(mask >> from & 1))
        emu_fatal("%s reads lane %u, which mask %08x leaves out", what, from,
                  mask);
    return warp[from].slot[parity];
}

/* Lets those go on whose whole mask waits at one shuffle; how many. */
static int release_warp(Fiber *warp, int lanes)
{
    int released = 0;

    for (int i = 0; i < lanes; i++) {
        const uint32_t mask = warp[i].mask;
        int here = 0, wanted = 0;

        if (warp[i].state != AT_SHUFFLE)
            continue;
        for (int k = 0; k < 32; k++) {
            if (!(mask >> k & 1))
                continue;
            wanted++;
            if (k >= lanes || warp[k].state == DONE ||
                warp[k].state == AT_BARRIER)
                emu_fatal("%s: lane %d waits for lane %d, which %s",
                          warp[i].what, i, k, k >= lanes ? "does not exist" :
                          warp[k].state == DONE ? "has ended" :
                          "is at a barrier");
            if (warp[k].state != AT_SHUFFLE)
                continue;
            if (warp[k].mask != mask || strcmp(warp[k].what, warp[i].what) ||
                warp[k].parity != warp[i].parity)
                emu_fatal("lane %d is at %s, lane %d at %s: masks %08x, %08x",
                          i, warp[i].what, k, warp[k].what, mask,
                          warp[k].mask);
            here++;
        }
        if (here < wanted)
            continue;
        for (int k = 0; k < 32; k++)
            if (mask >> k & 1)
                warp[k].state = READY;
        released += here;
        emu_stats.shuffles++;
    }
    return released;
}

/* Each lane that can go on, until it waits; whether some can again. */
static int run_warp(int w)
{
    Fiber *const warp = &fibers[32 * w];
    const int lanes = std::min(32, nb_threads - 32 * w);
    int order[32];

    for (int i = 0; i < lanes; i++)
        order[i] = emu_order == EMU_REVERSE ? lanes - 1 - i : i;
    if (emu_order == EMU_RANDOM)
        for (int i = lanes - 1; i > 0; i--)
            std::swap(order[i], order[random_below(i + 1)]);
    for (int i = 0; i < lanes; i++)
        if (warp[order[i]].state == READY)
            resume(&warp[order[i]]);
    return release_warp(warp, lanes);
}

static void run_block()
{
    const int warps = (nb_threads + 31) / 32;

    for (int i = 0; i < nb_threads; i++) {
        fibers[i].state = READY;
        fibers[i].parity = 0;
    }
    for (;;) {
        int count[4] = { 0 };

        /* In order and in reverse, a warp runs to the block's next barrier
         * before another begins: as far ahead as any card can let it. */
        for (int i = 0; i < warps && emu_order != EMU_RANDOM; i++) {
            const int w = emu_order == EMU_REVERSE ? warps - 1 - i : i;

            while (run_warp(w))
                ;
        }
        for (int left = emu_order == EMU_RANDOM; left; ) {
            left = 0;
            for (int i = 0; i < 2 * warps; i++)
                left += run_warp((int)random_below(warps));
            for (int i = 0; i < warps && !left; i++)
                left += run_warp(i);
        }
        for (int i = 0; i < nb_threads; i++)
            count[fibers[i].state]++;
        if (count[DONE] == nb_threads)
            return;
        if (count[AT_BARRIER] + count[DONE] < nb_threads)
            emu_fatal("deadlock: %d threads at a barrier, %d at a shuffle",
                      count[AT_BARRIER], count[AT_SHUFFLE]);
        if (count[DONE])
            emu_fatal("%d threads at a barrier, %d have ended",
                      count[AT_BARRIER], count[DONE]);
        for (int i = 0; i < nb_threads; i++)
            fibers[i].state = READY;
        emu_stats.barriers++;
    }
}

/* --------------------------------------------------------- shared memory */

/* Exactly that large under ASan, else with a guard. */
static void shared_add(const void *key, int64_t bytes)
{
    char *p = (char *)aligned_alloc(64, (bytes + GUARD + 63) / 64 * 64);

#ifdef EMU_ASAN
    free(p);
    p = (char *)malloc(bytes);      // 16 aligned, red zones around
#else
    memset(p + bytes, 0xa5, GUARD);
#endif
    memset(p, 0xff, bytes);         // NaN
    shared.push_back({ key, p, bytes });
}

static void shared_end()
{
    for (const Shared &s : shared) {
#ifndef EMU_ASAN
        for (int i = 0; i < GUARD; i++)
            if (s.p[s.bytes + i] != (char)0xa5)
                emu_fatal("wrote past %d bytes of shared memory",
                          (int)s.bytes);
#endif
        free(s.p);
    }
    shared.clear();
}

void *emu_shared(const void *key, int64_t bytes)
{
    int64_t total = bytes;

    for (const Shared &s : shared) {
        if (s.key == key)
            return s.p;
        total += s.bytes;
    }
    if (total > STATIC_LIMIT)
        emu_fatal("%d bytes of shared memory, more than %d", (int)total,
                  STATIC_LIMIT);
    shared_add(key, bytes);
    return shared.back().p;
}

void *emu_dynamic_shared(int64_t align)
{
    if (align > 16 || !shared[0].bytes)
        emu_fatal("no dynamic shared memory, or aligned to %d", (int)align);
    return shared[0].p;
}

/* ---------------------------------------------------------------- launch */

void emu_launch(const char *kernel, dim3 grid, dim3 block,
                int64_t shared_bytes, const std::function<void()> &thread)
{
    const int64_t blocks = grid.whole * grid.y * grid.z;

    kernel_name = kernel;
    nb_threads = (int)std::min<int64_t>(block.whole * block.y * block.z,
                                        MAX_THREADS + 1);
    if (nb_threads < 1 || nb_threads > MAX_THREADS || block.z > 64)
        emu_fatal("a block of %u x %u x %u", block.x, block.y, block.z);
    if (blocks < 1 || grid.whole > INT32_MAX || grid.y > 65535 ||
        grid.z > 65535)
        emu_fatal("a grid of %lld x %u x %u", (long long)grid.whole, grid.y,
                  grid.z);
    if (shared_bytes < 0 || shared_bytes > emu_dynamic_limit)
        emu_fatal("%lld bytes of shared memory", (long long)shared_bytes);

    body = &thread;
    gridDim = { grid.x, grid.y, grid.z };
    blockDim = { block.x, block.y, block.z };
    for (int i = 0; i < nb_threads; i++) {
        Fiber *const f = &fibers[i];
        const unsigned u = i;

        f->index = { u % block.x, u / block.x % block.y,
                     u / block.x / block.y };
        if (f->stack)
            continue;
        f->stack = (char *)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (f->stack == MAP_FAILED)
            emu_fatal("no memory for stacks");
        context_make(&f->context, f->stack, fiber_main);
    }

    std::vector<int> order(blocks);
    for (int64_t i = 0; i < blocks; i++)
        order[i] = (int)(emu_order == EMU_REVERSE ? blocks - 1 - i : i);
    if (emu_order == EMU_RANDOM)
        for (int64_t i = blocks - 1; i > 0; i--)
            std::swap(order[i], order[random_below((uint32_t)i + 1)]);
    for (int at : order) {
        const unsigned u = at;

        blockIdx = { u % grid.x, u / grid.x % grid.y, u / grid.x / grid.y };
        shared_add(NULL, shared_bytes);
        run_block();
        shared_end();
    }
    emu_stats.launches++;
    emu_stats.blocks += blocks;
    emu_stats.threads += blocks * nb_threads;
    kernel_name = "no kernel";
    emu_dynamic_limit = STATIC_LIMIT;
}

/* --------------------------------------------------------------- numbers */

uint8_t to_e4m3(float x)
{
    const uint8_t sign = signbit(x) ? 0x80 : 0;
    const double a = fabs((double)x);
    int best = 0;

    if (isnan(x))
        return 0x7f;
    for (int v = 0; v < 0x7f; v++) {        // nearest of all; ties to even
        const double e = fabs(wan_e4m3_to_f32((uint8_t)v) - a);
        const double b = fabs(wan_e4m3_to_f32((uint8_t)best) - a);

        if (e < b || (e == b && !(v & 1)))
            best = v;
    }
    return sign | (uint8_t)best;
}

/* -------------------------------------------------- for programs in C */

extern "C" void emu_set_order(int order)
{
    emu_order = (EmuOrder)order;
    random_state = 1;
}

extern "C" const char *emu_summary()
{
    static char s[160];

    snprintf(s, sizeof(s), "%lld launches, %lld blocks, %lld threads, %lld "
             "barriers, %lld shuffles", (long long)emu_stats.launches,
             (long long)emu_stats.blocks, (long long)emu_stats.threads,
             (long long)emu_stats.barriers, (long long)emu_stats.shuffles);
    return s;
}
