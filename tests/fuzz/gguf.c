/*
 * Fuzz target: one GGUF file, its vocabulary, and what model it is taken for.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "../../wan/config.h"
#include "../../wan/tokenizer.h"
#include "weights_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const WanLog log = { fuzz_line, NULL, WAN_LOG_DEBUG };
    const WanStored *s;
    WanTokenizer *t;
    WanDitConfig dit;
    WanT5Config t5;
    WanNaming naming;
    WanWeights *w;

    fuzz_weights("a.gguf", data, size);
    if (wan_weights_open_memory(&w, "a.gguf", data, size, &log) < 0)
        return 0;
    s = wan_weights_find(w, "spiece_model");
    if (s && s->data && s->type == WAN_U8 &&
        wan_tokenizer_open(&t, s->data, s->bytes, s->file, &log) >= 0)
        wan_tokenizer_close(&t);
    wan_config_dit(&dit, &naming, w, NULL, &log);
    wan_config_t5(&t5, &naming, w, &log);
    wan_weights_close(&w);
    return 0;
}
