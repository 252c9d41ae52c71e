/*
 * Fuzz: config.json.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <stdlib.h>

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is accepted must make defaults that a request can have. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const WanDitConfig dit = { .dim = 96, .heads = 2, .layers = 2 };
    WanConfigFile c;
    WanModelInfo i;
    char name[64];

    if (wan_config_parse(&c, (const char *)data, size, "fuzz", NULL) < 0)
        return 0;
    wan_config_defaults(&i, &dit, &c, "fuzz", (WanExpert)(data[0] % 3), name,
                        sizeof(name));
    if (i.width % i.size_multiple || i.height % i.size_multiple ||
        i.width < 1 || i.width > i.size_max || i.height < 1 ||
        i.height > i.size_max || i.frames < 1 || i.frames % 4 != 1 ||
        i.steps < 1 || !(i.guidance >= 0 && i.guidance <= 100) ||
        !(i.shift > 0 && i.shift <= 100))
        abort();
    return 0;
}
