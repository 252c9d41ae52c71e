/*
 * Attention and convolutions in BF16 with products on tiles (AMX) that are
 * played in C: amx.c comes from tests/emu. Linear layers and 8 bits are in
 * model/tiles.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#define main all_of_checkop
#include "checkop.c"
#undef main

#include "cpu/amx.h"
#include "emu/tiles.h"

static void check_tiles(const char *group)
{
    const long before = wan_tile_count().bf16;

    if (check("cpu-bf16", 0, 1, group) < 0)
        exit(1);
    if (wan_tile_count().bf16 == before) {
        printf("Bail out! %s is not on tiles\n", group);
        exit(1);
    }
}

int main(void)
{
    if (!WAN_KNOWS_AMX) {
        printf("ok 1 - tiles # SKIP no such products in this build\n1..1\n");
        return 0;
    }
    check_tiles("attention");
    check_tiles("conv");
    return test_end();
}
