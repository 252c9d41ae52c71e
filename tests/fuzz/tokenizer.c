/*
 * Fuzz the tokenizer: a model of any bytes, and the texts behind it.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Input: u16 size of the model, the model, the text.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode(const WanTokenizer *t, const char *text)
{
    int32_t ids[WAN_TEXT_LEN];
    int cut = 0;
    const int n = wan_tokenizer_encode(t, ids, &cut, text, NULL);

    if (n == 0 || n > WAN_TEXT_LEN || cut < 0)
        abort();
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= wan_tokenizer_vocab(t))
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    WanTokenizer *t;
    uint8_t *model;
    char *text;
    size_t n;

    if (size < 2)
        return 0;
    n = data[0] | data[1] << 8;
    data += 2;
    size -= 2;
    if (n > size)
        n = size;
    model = malloc(n + !n);
    text = malloc(size - n + 1);
    memcpy(model, data, n);
    memcpy(text, data + n, size - n);
    text[size - n] = 0;

    if (wan_tokenizer_open(&t, model, n, "fuzz", NULL) >= 0) {
        encode(t, text);
        encode(t, "a ab\xc3\xa9 A AB <s></s><extra_id_7>\xf0\x9f\x98\x80");
    }
    wan_tokenizer_close(&t);
    free(model);
    free(text);
    return 0;
}
