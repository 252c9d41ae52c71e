/*
 * The instructions on tiles (AMX) in C, as Intel's manual defines each.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Tiles and their configuration are the thread's own. What the processor would
 * answer with an exception ends the program (abort()) with a line that says why.
 */

#ifndef WAN_EMU_TILES_H
#define WAN_EMU_TILES_H

#include <stdint.h>

/* config: 64 bytes */
void wan_tile_config(const void *config);
void wan_tile_release(void);
void wan_tile_zero(int t);
void wan_tile_load(int t, const void *from, int64_t stride);
void wan_tile_store(int t, void *to, int64_t stride);
void wan_tile_dpbf16(int c, int a, int b);
void wan_tile_dpbusd(int c, int a, int b);

/* Whether this thread has a configuration. */
int wan_tile_configured(void);

/* What all threads together have done. */
typedef struct WanTileCount {
    long config, bf16, int8;
} WanTileCount;

WanTileCount wan_tile_count(void);

#endif /* WAN_EMU_TILES_H */
