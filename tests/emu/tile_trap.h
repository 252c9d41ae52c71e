/*
 * Machine code for tiles (AMX) on processors that don't know it.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_EMU_TILE_TRAP_H
#define WAN_EMU_TILE_TRAP_H

/* From here on libwan uses tiles, and each instruction that the processor does
 * not execute is executed by tiles.c. For builds with WAN_KNOWS_AMX, linked with
 * -Wl,--wrap=wan_amx_bf16,--wrap=wan_amx_int8. */
void wan_tile_trap(void);

/* Whether the processor executes them itself. */
int wan_tile_native(void);

#endif /* WAN_EMU_TILE_TRAP_H */
