/*
 * Machine code for tiles (AMX) on processors that don't know it.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * An instruction that is not known is a signal, SIGILL, whose handler decodes
 * it, lets tiles.c do what it says to the memory and the thread's tiles, and
 * goes on behind it. So compiled code is run as it is: the operands that the
 * assembler was given, the addresses that the compiler made.
 */

#include "cpu/amx.h"
#include "tile_trap.h"
#include "tiles.h"

#if WAN_KNOWS_AMX

#include <signal.h>
#include <string.h>
#include <ucontext.h>

int __real_wan_amx_bf16(void);
int __real_wan_amx_int8(void);
int __wrap_wan_amx_bf16(void);
int __wrap_wan_amx_int8(void);

static int trapped;

int wan_tile_native(void)
{
    return __real_wan_amx_bf16() && __real_wan_amx_int8();
}

int __wrap_wan_amx_bf16(void)
{
    return trapped;
}

int __wrap_wan_amx_int8(void)
{
    return trapped;
}

/* By the processor's numbers. */
static const int reg[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15
};

typedef struct Operand {
    const uint8_t *end;         // of the instruction
    int64_t address, stride;
} Operand;

/* What a ModRM byte that means memory means; x and b: the fourth bits of index
 * and base. */
static Operand operand(const uint8_t *p, int x, int b, const greg_t *g)
{
    const int mod = *p >> 6, rm = *p & 7;
    int base = rm | b << 3, none = 0;
    Operand o = { 0 };
    int32_t far;

    p++;
    if (rm == 4) {
        const int index = (*p >> 3 & 7) | x << 3;

        base = (*p & 7) | b << 3;
        none = !mod && (*p & 7) == 5;
        if (index != 4)
            o.stride = (int64_t)((uint64_t)g[reg[index]] << (*p >> 6));
        p++;
    }
    memcpy(&far, p, sizeof(far));
    if (!none && !(mod == 0 && rm == 5))
        o.address = g[reg[base]];
    if (mod == 1)
        o.address += (int8_t)*p++;
    else if (mod == 2 || none || (!mod && rm == 5))
        o.address += far, p += 4;
    if (!mod && rm == 5)
        o.address += (int64_t)(intptr_t)p;
    o.end = p;
    return o;
}

/* The instruction at p; returns where the next is, or NULL: it is none of
 * these. */
static const uint8_t *execute(const uint8_t *p, const greg_t *g)
{
    enum { NONE, P66, PF3, PF2 };       // the prefix that a VEX byte stands for
    const int x = !(p[1] & 0x40), b = !(p[1] & 0x20);
    const int prefix = p[2] & 3, v = ~p[2] >> 3 & 15;
    const int memory = p[4] >> 6 != 3, t = p[4] >> 3 & 7, rm = p[4] & 7;
    Operand o = { 0 };

    if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || p[2] & 0x84)
        return NULL;            // VEX of 3 bytes, 0F38, W0, 128 bits
    if (memory)
        o = operand(p + 4, x, b, g);
    if (p[3] == 0x49 && memory && prefix == NONE) {
        wan_tile_config((const void *)(intptr_t)o.address);
        return o.end;
    }
    if (p[3] == 0x49 && !memory && prefix == NONE && p[4] == 0xc0) {
        wan_tile_release();
        return p + 5;
    }
    if (p[3] == 0x49 && !memory && prefix == PF2) {
        wan_tile_zero(t);
        return p + 5;
    }
    if (p[3] == 0x4b && memory && rm == 4 && prefix == PF2) {
        wan_tile_load(t, (const void *)(intptr_t)o.address, o.stride);
        return o.end;
    }
    if (p[3] == 0x4b && memory && rm == 4 && prefix == PF3) {
        wan_tile_store(t, (void *)(intptr_t)o.address, o.stride);
        return o.end;
    }
    if (p[3] == 0x5c && !memory && prefix == PF3) {
        wan_tile_dpbf16(t, rm, v);
        return p + 5;
    }
    if (p[3] == 0x5e && !memory && prefix == P66) {
        wan_tile_dpbusd(t, rm, v);
        return p + 5;
    }
    return NULL;
}

static void handle(int number, siginfo_t *info, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *next = execute((const uint8_t *)(intptr_t)g[REG_RIP], g);

    (void)info;
    if (next)
        g[REG_RIP] = (greg_t)(intptr_t)next;
    else
        signal(number, SIG_DFL);        // and so it comes again
}

void wan_tile_trap(void)
{
    struct sigaction a = { .sa_flags = SA_SIGINFO };

    a.sa_sigaction = handle;
    if (!wan_tile_native())
        sigaction(SIGILL, &a, NULL);
    trapped = 1;
}

#endif
