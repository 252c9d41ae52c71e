/*
 * Fuzz the cleaning of prompts: any bytes in, well-formed text with single
 * spaces out, or a refusal.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *clean;
    size_t n;

    memcpy(text, data, size);
    text[size] = 0;
    n = strlen(text);
    clean = wan_text_clean(text);
    if (!clean != (wan_utf8_check(text, n) < n))
        abort();
    if (clean) {
        n = strlen(clean);
        if (wan_utf8_check(clean, n) < n || strstr(clean, "  ") ||
            (n && (clean[0] == ' ' || clean[n - 1] == ' ')))
            abort();
    }
    free(clean);
    free(text);
    return 0;
}
