/*
 * Fuzz: a table of MagCache's ratios.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <stdlib.h>
#include <string.h>

#include "cachetable.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is accepted must serve any number of steps. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int steps[] = { 1, 2, 7, 50, WAN_MAX_STEPS };
    static WanCacheTable t;

    if (wan_cache_table_parse(&t, (const char *)data, size, "fuzz", NULL) < 0)
        return 0;
    if (!memchr(t.model, 0, sizeof(t.model)) || t.branches < 1 ||
        t.branches > 2)
        abort();
    for (int k = 0; k < 5; k++)
        for (int b = 0; b < t.branches; b++)
            for (int i = 0; i < steps[k]; i++)
                if (!(wan_cache_table_at(&t, b, i, steps[k]) > 0))
                    abort();
    return 0;
}
