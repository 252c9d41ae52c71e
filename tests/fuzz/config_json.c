/*
 * Fuzz: config.json.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    WanConfigFile c;

    wan_config_parse(&c, (const char *)data, size, "fuzz", NULL);
    return 0;
}
