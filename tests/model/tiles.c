/*
 * The transformer's goldens with products on tiles (AMX) that are played in C:
 * amx.c comes from tests/emu.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#define main all_of_dit
#include "dit.c"
#undef main

#include "cpu/amx.h"
#include "emu/tiles.h"

static void on_tiles(const char *device)
{
    dut = device;
    RUN(head48_cpu);
    RUN(head128_shards_cpu);
    RUN(image_cpu);
    RUN(times_cpu);
    RUN(vace_cpu);
    RUN(gguf_q8_0_cpu);
    RUN(gguf_q4_k_cpu);
    RUN(branches);
}

/* All that was multiplied before was. */
TEST(they_were)
{
    const WanTileCount count = wan_tile_count();

    printf("# %ld configurations, %ld products in BF16, %ld in 8 bits\n",
           count.config, count.bf16, count.int8);
    CHECK(count.bf16 && count.int8);
}

int main(void)
{
    if (!WAN_KNOWS_AMX) {
        printf("ok 1 - tiles # SKIP no such products in this build\n1..1\n");
        return 0;
    }
    on_tiles("cpu-bf16");
    on_tiles("cpu-int8");
    RUN(they_were);
    return test_end();
}
