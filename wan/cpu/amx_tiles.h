/*
 * The instructions on tiles that amx.c uses, each as one macro: a tile is named
 * by a digit.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * By inline assembly, which needs no flag of the compiler but an assembler that
 * knows them. The intrinsics of gcc before 13.3 say that a configuration has 8
 * bytes, so that the compiler may never write the others. A load does not say
 * what memory it reads: all of it was written before the configuration was
 * loaded, by WAN_TILE_STORE, or is not touched until the tiles are released.
 *
 * With WAN_AMX_EMULATED, which tests define, the same in C: tests/emu/tiles.c.
 */

#ifndef WAN_CPU_AMX_TILES_H
#define WAN_CPU_AMX_TILES_H

#include <stdint.h>

/* As LDTILECFG reads it. */
typedef struct WanTileConfig {
    uint8_t palette;            // 1: eight tiles of up to 16 rows of 64 bytes
    uint8_t start_row;
    uint8_t zero[14];
    uint16_t colsb[16];         // bytes of a row
    uint8_t rows[16];
} WanTileConfig;

_Static_assert(sizeof(WanTileConfig) == 64, "what LDTILECFG reads");

#if defined(WAN_AMX_EMULATED)

#include "emu/tiles.h"

#define WAN_TILE_CONFIG(config) wan_tile_config(config)
#define WAN_TILE_RELEASE() wan_tile_release()
#define WAN_TILE_ZERO(t) wan_tile_zero(t)
#define WAN_TILE_LOAD(t, from, stride) wan_tile_load(t, from, stride)
#define WAN_TILE_STORE(t, to, stride) wan_tile_store(t, to, stride)
#define WAN_TILE_DPBF16(c, a, b) wan_tile_dpbf16(c, a, b)
#define WAN_TILE_DPBUSD(c, a, b) wan_tile_dpbusd(c, a, b)

#else

#define WAN_TILE_CONFIG(config) \
    __asm__ volatile("ldtilecfg %0" : : "m"(*(config)) : "memory")
#define WAN_TILE_RELEASE() \
    __asm__ volatile("tilerelease" : : : "memory")
#define WAN_TILE_ZERO(t) \
    __asm__ volatile("tilezero %%tmm" #t : :)

/* Rows stride bytes apart. */
#define WAN_TILE_LOAD(t, from, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t \
                     : : "r"(from), "r"((int64_t)(stride)))
#define WAN_TILE_STORE(t, to, stride) \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" \
                     : : "r"(to), "r"((int64_t)(stride)) : "memory")

/* c += a b; b has pairs of numbers, or fours, of a row one behind the other. */
#define WAN_TILE_DPBF16(c, a, b) \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#define WAN_TILE_DPBUSD(c, a, b) \
    __asm__ volatile("tdpbusd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

#endif

#endif /* WAN_CPU_AMX_TILES_H */
