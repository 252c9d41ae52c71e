/*
 * Fuzz target: one safetensors file.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "weights_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_weights("a.safetensors", data, size);
    return 0;
}
