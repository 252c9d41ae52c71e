/*
 * Fuzz target: one LoRA file, and all it changes of a small transformer.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "weights_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Some tensors of each kind, in shapes that the seeds fit. */
static const struct {
    const char *name;
    int rows, cols;
} tensors[] = {
    { "blocks.0.self_attn.q.weight", 4, 6 },
    { "blocks.0.self_attn.q.bias", 1, 4 },
    { "blocks.1.ffn.2.weight", 6, 4 }, { "blocks.1.ffn.2.bias", 1, 6 },
    { "blocks.0.modulation", 6, 4 }, { "head.modulation", 2, 4 },
    { "head.head.weight", 8, 4 }, { "patch_embedding.weight", 4, 8 },
    { "img_emb.emb_pos", 2, 4 }, { "blocks.0.norm3.weight", 1, 4 },
};

static int polls;

static int poll(void *opaque)
{
    (void)opaque;
    return ++polls > 20;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const WanLog log = { fuzz_line, NULL, WAN_LOG_DEBUG };
    const WanInterrupt interrupt = { poll, NULL };
    WanLora *l;
    int ret;

    polls = 0;
    ret = wan_lora_open_memory(&l, "a.safetensors", data, size, &log);
    if ((ret < 0) != !l)
        abort();
    for (size_t i = 0; l && i < sizeof(tensors) / sizeof(*tensors); i++) {
        const int rows = tensors[i].rows, cols = tensors[i].cols;
        float *w = calloc(rows * cols, sizeof(*w));

        if (wan_lora_has(l, tensors[i].name))
            wan_lora_merge(l, tensors[i].name, w, rows, cols, &interrupt,
                           &log);
        free(w);
    }
    if (l)
        wan_lora_end(l, &log);
    wan_lora_close(&l);
    return 0;
}
