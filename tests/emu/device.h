/*
 * What device.c and replay.c give the other files of wan/cuda, in the simplest
 * form: for programs without a device. Include it in one file of a program.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_EMU_DEVICE_H
#define WAN_EMU_DEVICE_H

#include <errno.h>

#include "../../wan/cuda/cuda.h"

void wan_cuda_launched(WanDev *d, const char *op)
{
    (void)d, (void)op;          // emu.cpp ends the program
}

int wan_cuda_ok(WanDev *d, cudaError_t e, const char *what)
{
    if (e)
        wan_dev_fail(d, WAN_ERR(EIO), "%s: error %d", what, (int)e);
    return !e;
}

int wan_cuda_check(WanDev *d, int ok, const char *what, const char *text)
{
    if (!ok)
        wan_dev_fail(d, WAN_ERR(EIO), "%s: %s", what, text);
    return ok;
}

int wan_cuda_readable(const void *p)
{
    (void)p;
    return 0;                   // outside of the arena: a weight
}

void wan_cuda_adopt_thread(const WanCuda *c) { (void)c; }
void wan_cuda_replay_forget(WanDev *d) { (void)d; }

#endif /* WAN_EMU_DEVICE_H */
