/*
 * Names of tensors: official, as Diffusers and Hugging Face have them, and as
 * llama.cpp names a text encoder's. And the shapes that files have.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "formats.h"

/* A name that begins with "official" begins with "other" there; # is a
 * number. The first rule that fits holds. */
typedef struct Rule {
    const char *official, *other;
} Rule;

static const Rule dit[] = {
    { "text_embedding.0.",   "condition_embedder.text_embedder.linear_1." },
    { "text_embedding.2.",   "condition_embedder.text_embedder.linear_2." },
    { "time_embedding.0.",   "condition_embedder.time_embedder.linear_1." },
    { "time_embedding.2.",   "condition_embedder.time_embedder.linear_2." },
    { "time_projection.1.",  "condition_embedder.time_proj." },
    { "img_emb.proj.0.",     "condition_embedder.image_embedder.norm1." },
    { "img_emb.proj.1.",     "condition_embedder.image_embedder.ff.net.0.proj." },
    { "img_emb.proj.3.",     "condition_embedder.image_embedder.ff.net.2." },
    { "img_emb.proj.4.",     "condition_embedder.image_embedder.norm2." },
    { "img_emb.emb_pos",     "condition_embedder.image_embedder.pos_embed" },
    { "blocks.#.self_attn.",  "blocks.#.attn1." },
    { "blocks.#.cross_attn.", "blocks.#.attn2." },
    { "blocks.#.",           "blocks.#." },
    { "vace_blocks.#.self_attn.",  "vace_blocks.#.attn1." },
    { "vace_blocks.#.cross_attn.", "vace_blocks.#.attn2." },
    { "vace_blocks.#.before_proj.", "vace_blocks.#.proj_in." },
    { "vace_blocks.#.after_proj.",  "vace_blocks.#.proj_out." },
    { "vace_blocks.#.",      "vace_blocks.#." },
    { "head.head.",          "proj_out." },
    { "head.modulation",     "scale_shift_table" },
    { NULL, NULL }
};

/* The same for what follows, where the rule above ends in '.' */
static const Rule dit_rest[] = {
    { "modulation", "scale_shift_table" },
    { "q.",         "to_q." },
    { "k.",         "to_k." },
    { "v.",         "to_v." },
    { "o.",         "to_out.0." },
    { "k_img.",     "add_k_proj." },
    { "v_img.",     "add_v_proj." },
    { "norm_k_img.", "norm_added_k." },
    { "norm3.",     "norm2." },
    { "ffn.0.",     "ffn.net.0.proj." },
    { "ffn.2.",     "ffn.net.2." },
    { NULL, NULL }
};

static const Rule t5[] = {
    { "token_embedding.",      "shared." },
    { "blocks.#.norm1.",       "encoder.block.#.layer.0.layer_norm." },
    { "blocks.#.attn.",        "encoder.block.#.layer.0.SelfAttention." },
    { "blocks.#.pos_embedding.embedding.",
      "encoder.block.#.layer.0.SelfAttention.relative_attention_bias." },
    { "blocks.#.norm2.",       "encoder.block.#.layer.1.layer_norm." },
    { "blocks.#.ffn.gate.0.",  "encoder.block.#.layer.1.DenseReluDense.wi_0." },
    { "blocks.#.ffn.fc1.",     "encoder.block.#.layer.1.DenseReluDense.wi_1." },
    { "blocks.#.ffn.fc2.",     "encoder.block.#.layer.1.DenseReluDense.wo." },
    { "norm.",                 "encoder.final_layer_norm." },
    { NULL, NULL }
};

static const Rule t5_llama[] = {
    { "token_embedding.",      "token_embd." },
    { "blocks.#.norm1.",       "enc.blk.#.attn_norm." },
    { "blocks.#.attn.q.",      "enc.blk.#.attn_q." },
    { "blocks.#.attn.k.",      "enc.blk.#.attn_k." },
    { "blocks.#.attn.v.",      "enc.blk.#.attn_v." },
    { "blocks.#.attn.o.",      "enc.blk.#.attn_o." },
    { "blocks.#.pos_embedding.embedding.", "enc.blk.#.attn_rel_b." },
    { "blocks.#.norm2.",       "enc.blk.#.ffn_norm." },
    { "blocks.#.ffn.gate.0.",  "enc.blk.#.ffn_gate." },
    { "blocks.#.ffn.fc1.",     "enc.blk.#.ffn_up." },
    { "blocks.#.ffn.fc2.",     "enc.blk.#.ffn_down." },
    { "norm.",                 "enc.output_norm." },
    { NULL, NULL }
};

static const Rule vae[] = {
    { "conv1.",                 "quant_conv." },
    { "conv2.",                 "post_quant_conv." },
    { "encoder.conv1.",         "encoder.conv_in." },
    { "encoder.head.0.",        "encoder.norm_out." },
    { "encoder.head.2.",        "encoder.conv_out." },
    { "encoder.downsamples.#.downsamples.0.",
      "encoder.down_blocks.#.resnets.0." },
    { "encoder.downsamples.#.downsamples.1.",
      "encoder.down_blocks.#.resnets.1." },
    { "encoder.downsamples.#.downsamples.2.",
      "encoder.down_blocks.#.downsampler." },
    { "encoder.downsamples.#.", "encoder.down_blocks.#." },
    { "encoder.middle.0.",      "encoder.mid_block.resnets.0." },
    { "encoder.middle.1.",      "encoder.mid_block.attentions.0." },
    { "encoder.middle.2.",      "encoder.mid_block.resnets.1." },
    { "decoder.conv1.",         "decoder.conv_in." },
    { "decoder.head.0.",        "decoder.norm_out." },
    { "decoder.head.2.",        "decoder.conv_out." },
    { "decoder.middle.0.",      "decoder.mid_block.resnets.0." },
    { "decoder.middle.1.",      "decoder.mid_block.attentions.0." },
    { "decoder.middle.2.",      "decoder.mid_block.resnets.1." },
    { "decoder.upsamples.#.upsamples.0.", "decoder.up_blocks.#.resnets.0." },
    { "decoder.upsamples.#.upsamples.1.", "decoder.up_blocks.#.resnets.1." },
    { "decoder.upsamples.#.upsamples.2.", "decoder.up_blocks.#.resnets.2." },
    { "decoder.upsamples.#.upsamples.3.", "decoder.up_blocks.#.upsampler." },
    { "decoder.upsamples.0.",   "decoder.up_blocks.0.resnets.0." },
    { "decoder.upsamples.1.",   "decoder.up_blocks.0.resnets.1." },
    { "decoder.upsamples.2.",   "decoder.up_blocks.0.resnets.2." },
    { "decoder.upsamples.3.",   "decoder.up_blocks.0.upsamplers.0." },
    { "decoder.upsamples.4.",   "decoder.up_blocks.1.resnets.0." },
    { "decoder.upsamples.5.",   "decoder.up_blocks.1.resnets.1." },
    { "decoder.upsamples.6.",   "decoder.up_blocks.1.resnets.2." },
    { "decoder.upsamples.7.",   "decoder.up_blocks.1.upsamplers.0." },
    { "decoder.upsamples.8.",   "decoder.up_blocks.2.resnets.0." },
    { "decoder.upsamples.9.",   "decoder.up_blocks.2.resnets.1." },
    { "decoder.upsamples.10.",  "decoder.up_blocks.2.resnets.2." },
    { "decoder.upsamples.11.",  "decoder.up_blocks.2.upsamplers.0." },
    { "decoder.upsamples.12.",  "decoder.up_blocks.3.resnets.0." },
    { "decoder.upsamples.13.",  "decoder.up_blocks.3.resnets.1." },
    { "decoder.upsamples.14.",  "decoder.up_blocks.3.resnets.2." },
    { NULL, NULL }
};

static const Rule vae_rest[] = {
    { "residual.0.", "norm1." },
    { "residual.2.", "conv1." },
    { "residual.3.", "norm2." },
    { "residual.6.", "conv2." },
    { "shortcut.",   "conv_shortcut." },
    { NULL, NULL }
};

/* attn.to_qkv has no one counterpart: attn.{q,k,v} are its thirds. */
static const Rule clip[] = {
    { "visual.cls_embedding",    "vision_model.embeddings.class_embedding" },
    { "visual.pos_embedding",
      "vision_model.embeddings.position_embedding.weight" },
    { "visual.patch_embedding.", "vision_model.embeddings.patch_embedding." },
    { "visual.pre_norm.",        "vision_model.pre_layrnorm." },
    { "visual.transformer.#.norm1.",
      "vision_model.encoder.layers.#.layer_norm1." },
    { "visual.transformer.#.norm2.",
      "vision_model.encoder.layers.#.layer_norm2." },
    { "visual.transformer.#.attn.q.",
      "vision_model.encoder.layers.#.self_attn.q_proj." },
    { "visual.transformer.#.attn.k.",
      "vision_model.encoder.layers.#.self_attn.k_proj." },
    { "visual.transformer.#.attn.v.",
      "vision_model.encoder.layers.#.self_attn.v_proj." },
    { "visual.transformer.#.attn.proj.",
      "vision_model.encoder.layers.#.self_attn.out_proj." },
    { "visual.transformer.#.mlp.0.",
      "vision_model.encoder.layers.#.mlp.fc1." },
    { "visual.transformer.#.mlp.2.",
      "vision_model.encoder.layers.#.mlp.fc2." },
    { "visual.post_norm.",       "vision_model.post_layernorm." },
    { NULL, NULL }
};

/* Official names have no rules. */
static const struct {
    const Rule *rules, *rest;
} tables[][4] = {
    [WAN_NAMES_DIFFUSERS] = {
        [WAN_PART_DIT]  = { dit, dit_rest },
        [WAN_PART_T5]   = { t5, NULL },
        [WAN_PART_VAE]  = { vae, vae_rest },
        [WAN_PART_CLIP] = { clip, NULL },
    },
    [WAN_NAMES_LLAMA] = { [WAN_PART_T5] = { t5_llama, NULL } },
};

/* How much of name the rule's side covers, 0: it doesn't fit. *number is set
 * to the digits that # stands for. */
static size_t fits(const char *pattern, const char *name, const char **number,
                   int *digits)
{
    const char *p = name;

    *digits = 0;
    for (; *pattern; pattern++) {
        if (*pattern == '#') {
            *number = p;
            while (isdigit((unsigned char)*p))
                p++;
            *digits = (int)(p - *number);
            if (!*digits)
                return 0;
        } else if (*p++ != *pattern) {
            return 0;
        }
    }
    if (pattern[-1] != '.' && *p)   // a whole name, not a beginning
        return 0;
    return p - name;
}

/* Append the other side of the first rule that fits; how much of name that
 * was, 0: none does. */
static size_t rewrite(const Rule *rules, const char *name, char *dst,
                      size_t size)
{
    for (const Rule *r = rules; r && r->official; r++) {
        const char *number = NULL, *hash = strchr(r->other, '#');
        int digits;
        const size_t used = fits(r->official, name, &number, &digits);

        if (!used)
            continue;
        if (hash)
            snprintf(dst, size, "%.*s%.*s%s", (int)(hash - r->other),
                     r->other, digits, number, hash + 1);
        else
            snprintf(dst, size, "%s", r->other);
        return used;
    }
    return 0;
}

const char *wan_name_in(WanNaming naming, WanPart part, const char *official,
                        char *dst, size_t size)
{
    size_t used, n;

    dst[0] = 0;
    used = rewrite(tables[naming][part].rules, official, dst, size);
    n = strlen(dst);
    if (used)
        used += rewrite(tables[naming][part].rest, official + used, dst + n,
                        size - n);
    n = strlen(dst);
    snprintf(dst + n, size - n, "%s", official + used);
    return dst;
}

/* "before": only there; or else the prefix is an ordinary word */
static const struct {
    const char *prefix, *before;
} prefixes[] = {
    { "model.", "" },
    { "module.", "" },
    { "net.", "" },
    { "diffusion_model.", "" },
    { "first_stage_model.", "" },
    { "vae.", "" },
    { "text_encoders.umt5xxl.transformer.", "" },
    { "text_encoders.t5xxl.transformer.", "" },
    { "text_encoders.umt5xxl.", "spiece_model" },
    { "text_encoders.", "spiece_model" },
    { "clip_vision.", "" },
    { "visual_model.", "vision_model." },
    { "visual_model.", "visual." },
};

/* What programs that train put between the words of a name. */
static const char *const wrappers[] = {
    "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.",
};
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

/* Bytes of the prefix that name has, 0: none. */
static size_t prefix(const char *name)
{
    for (size_t i = 0; i < COUNT(prefixes); i++) {
        const size_t n = strlen(prefixes[i].prefix);
        const char *rest = name + n, *before = prefixes[i].before;

        /* each part of an all-in-one file has its own marker */
        if (!strncmp(name, prefixes[i].prefix, n) &&
            !strncmp(rest, before, strlen(before)) && *rest &&
            strcmp(rest, "scaled_fp8"))
            return n;
    }
    return 0;
}

void wan_name_clean(char *dst, const char *name)
{
    char *end = dst, *begin = dst;

    while (*name) {
        size_t skip = 0;

        for (size_t i = 0; i < COUNT(wrappers) && !skip; i++)
            if (!strncmp(name, wrappers[i], strlen(wrappers[i])))
                skip = strlen(wrappers[i]);
        if (!skip)
            *end++ = *name;
        name += skip ? skip : 1;
    }
    *end = 0;
    for (size_t n; (n = prefix(begin)); )
        begin += n;
    memmove(dst, begin, strlen(begin) + 1);
}

/* -------------------------------------------------------------- shapes */

static int ends(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);

    return n >= k && !strcmp(s + n - k, end);
}

static int set_dims(int64_t *to, int nb_dims, const int64_t *dim)
{
    memcpy(to, dim, nb_dims * sizeof(*dim));
    return nb_dims;
}

int wan_stored_dims(WanNaming naming, WanPart part, const char *official,
                    int nb_dims, int64_t dim[WAN_MAX_DIMS])
{
    const int64_t n = dim[0], k = nb_dims > 1 ? dim[1] : 1;
#define DIMS(...) \
    set_dims(dim, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), \
             (int64_t[]){__VA_ARGS__})

    if (part == WAN_PART_DIT) {
        if (ends(official, "modulation") || ends(official, "emb_pos"))
            return DIMS(1, n, k);
    } else if (part == WAN_PART_CLIP) {
        if (naming != WAN_NAMES_OFFICIAL)
            return ends(official, "cls_embedding") ? DIMS(k) : nb_dims;
        if (ends(official, "cls_embedding") ||
            ends(official, "pos_embedding"))
            return DIMS(1, n, k);
    } else if (part == WAN_PART_VAE) {
        if (ends(official, "norm.gamma"))
            return DIMS(n, 1, 1);
        if (ends(official, "gamma"))
            return DIMS(n, 1, 1, 1);
        if (ends(official, "to_qkv.weight") || ends(official, "proj.weight"))
            return DIMS(n, k, 1, 1);
        if (ends(official, "resample.1.weight"))
            return DIMS(n, k, 3, 3);
        if (nb_dims == 2)
            return DIMS(n, k, 1, 1, 1);
    }
    return nb_dims;
#undef DIMS
}
