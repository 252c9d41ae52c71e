/*
 * The backend "cuda-emu": our kernels' launchers over host memory.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_EMU_BACKEND_H
#define WAN_EMU_BACKEND_H

#include "cuda.h"

/* As wan_dev_open(); the table has what elem.cu, image.cu, noise.cu, norm.cu
 * and rope.cu hold, other entries are the CPU's. */
int emu_open(WanDev **out, int64_t bytes);
void emu_close(WanDev **d);

/* 0: threads run in order, 1: in reverse, 2: in a random one. */
void emu_set_order(int order);

/* "1234 launches, ...", since the program began. */
const char *emu_summary(void);

/* What cuda.h has not. */
void wan_cuda_quant_rows_e4m3(WanDev *d, WanTensor *y, float *scale,
                              const WanTensor *x);
int64_t wan_cuda_image_scratch(int threads, const WanTensor *rgb);

#endif /* WAN_EMU_BACKEND_H */
