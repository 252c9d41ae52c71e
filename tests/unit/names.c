/*
 * Tensor names: the tiny checkpoint in both layouts holds the same numbers
 * under the names that the rules give; the rest against the written tables.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "weights_util.h"

static const WanStored *find_other(const WanWeights *w, WanPart part,
                                   const char *official)
{
    char name[160];

    return wan_weights_find(w, wan_name_in(WAN_NAMES_DIFFUSERS, part, official,
                                           name, sizeof(name)));
}

static int same_values(const WanStored *a, const WanStored *b)
{
    const int64_t n = a->bytes / wan_type_size(a->type);
    float *x, *y;
    int same;

    if (n != b->bytes / wan_type_size(b->type))
        return 0;
    x = malloc((n + 1) * sizeof(*x));
    y = malloc((n + 1) * sizeof(*y));
    if (!x || !y)
        abort();
    wan_to_f32(x, a->data, a->type, n, 1);
    wan_to_f32(y, b->data, b->type, n, 1);
    same = !memcmp(x, y, n * sizeof(*x));
    free(x);
    free(y);
    return same;
}

/* Every tensor of a is, by its other name, in b, and b has no others. */
static void compare(WanPart part, const char *a, const char *b, int count)
{
    WanWeights *wa = NULL, *wb = NULL;
    char *hit;

    CHECKF(!wan_weights_open(&wa, tiny(a), &test_log), "%s", last_line);
    CHECKF(!wan_weights_open(&wb, tiny(b), &test_log), "%s", last_line);
    if (!wa || !wb)
        goto end;
    CHECKF(wan_weights_count(wa) == count, "%d", wan_weights_count(wa));
    CHECKF(wan_weights_count(wb) == count, "%d", wan_weights_count(wb));
    hit = calloc(wan_weights_count(wb) + 1, 1);
    for (int i = 0; hit && i < wan_weights_count(wa); i++) {
        const WanStored *s = wan_weights_at(wa, i), *o;

        o = find_other(wb, part, s->name);
        if (!CHECKF(o, "no counterpart of %s", s->name))
            continue;
        CHECKF(o->nb_dims == s->nb_dims &&
               !memcmp(o->dim, s->dim, s->nb_dims * sizeof(*s->dim)) &&
               same_values(s, o), "%s is not %s", o->name, s->name);
        CHECKF(!hit[o - wan_weights_at(wb, 0)]++, "%s twice", o->name);
    }
    free(hit);
end:
    wan_weights_close(&wa);
    wan_weights_close(&wb);
}

TEST(dit_layouts_agree)
{
    compare(WAN_PART_DIT, "wan-t2v/diffusion_pytorch_model.safetensors",
            "wan-t2v-diffusers/transformer/diffusion_pytorch_model.safetensors",
            15 + 2 * 27);
}

TEST(t5_layouts_agree)
{
    compare(WAN_PART_T5, "wan-t2v/models_t5_umt5-xxl-enc-bf16.pth",
            "wan-t2v-diffusers/text_encoder/model.safetensors", 2 * 10 + 2);
}

TEST(vae_layouts_agree)
{
    compare(WAN_PART_VAE, "wan-t2v/Wan2.1_VAE.pth",
            "wan-t2v-diffusers/vae/diffusion_pytorch_model.safetensors", 194);
}

TEST(written_tables)
{
    static const struct {
        WanPart part;
        const char *official, *other;
    } c[] = {
        { WAN_PART_DIT, "img_emb.proj.0.weight",
          "condition_embedder.image_embedder.norm1.weight" },
        { WAN_PART_DIT, "img_emb.proj.1.bias",
          "condition_embedder.image_embedder.ff.net.0.proj.bias" },
        { WAN_PART_DIT, "img_emb.proj.3.weight",
          "condition_embedder.image_embedder.ff.net.2.weight" },
        { WAN_PART_DIT, "img_emb.proj.4.bias",
          "condition_embedder.image_embedder.norm2.bias" },
        { WAN_PART_DIT, "img_emb.emb_pos",
          "condition_embedder.image_embedder.pos_embed" },
        { WAN_PART_DIT, "blocks.39.cross_attn.k_img.weight",
          "blocks.39.attn2.add_k_proj.weight" },
        { WAN_PART_DIT, "blocks.0.cross_attn.v_img.bias",
          "blocks.0.attn2.add_v_proj.bias" },
        { WAN_PART_DIT, "blocks.10.cross_attn.norm_k_img.weight",
          "blocks.10.attn2.norm_added_k.weight" },
        { WAN_PART_DIT, "vace_blocks.7.before_proj.weight",
          "vace_blocks.7.proj_in.weight" },
        { WAN_PART_DIT, "vace_blocks.14.after_proj.bias",
          "vace_blocks.14.proj_out.bias" },
        { WAN_PART_DIT, "vace_blocks.3.self_attn.o.weight",
          "vace_blocks.3.attn1.to_out.0.weight" },
        { WAN_PART_DIT, "vace_blocks.3.modulation",
          "vace_blocks.3.scale_shift_table" },
        { WAN_PART_DIT, "vace_patch_embedding.weight",
          "vace_patch_embedding.weight" },
        { WAN_PART_DIT, "blocks.x.modulation", "blocks.x.modulation" },
        { WAN_PART_DIT, "head.modulationx", "head.modulationx" },
        { WAN_PART_DIT, "something.else", "something.else" },
        { WAN_PART_DIT, "", "" },
        { WAN_PART_T5, "token_embedding.weight", "shared.weight" },
        { WAN_PART_T5, "blocks.23.ffn.gate.0.weight",
          "encoder.block.23.layer.1.DenseReluDense.wi_0.weight" },
        { WAN_PART_CLIP, "visual.cls_embedding",
          "vision_model.embeddings.class_embedding" },
        { WAN_PART_CLIP, "visual.pos_embedding",
          "vision_model.embeddings.position_embedding.weight" },
        { WAN_PART_CLIP, "visual.patch_embedding.weight",
          "vision_model.embeddings.patch_embedding.weight" },
        { WAN_PART_CLIP, "visual.pre_norm.bias",
          "vision_model.pre_layrnorm.bias" },
        { WAN_PART_CLIP, "visual.transformer.30.norm1.weight",
          "vision_model.encoder.layers.30.layer_norm1.weight" },
        { WAN_PART_CLIP, "visual.transformer.0.attn.q.weight",
          "vision_model.encoder.layers.0.self_attn.q_proj.weight" },
        { WAN_PART_CLIP, "visual.transformer.0.attn.proj.bias",
          "vision_model.encoder.layers.0.self_attn.out_proj.bias" },
        { WAN_PART_CLIP, "visual.transformer.9.mlp.0.weight",
          "vision_model.encoder.layers.9.mlp.fc1.weight" },
        { WAN_PART_CLIP, "visual.transformer.9.mlp.2.bias",
          "vision_model.encoder.layers.9.mlp.fc2.bias" },
    };
    char name[160], small[8];

    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        wan_name_in(WAN_NAMES_DIFFUSERS, c[i].part, c[i].official, name,
                    sizeof(name));
        CHECKF(!strcmp(name, c[i].other), "%s: %s", c[i].official, name);
        wan_name_in(WAN_NAMES_OFFICIAL, c[i].part, c[i].official, name,
                    sizeof(name));
        CHECK(!strcmp(name, c[i].official));
    }
    /* too small: cut off, never past the end */
    wan_name_in(WAN_NAMES_DIFFUSERS, WAN_PART_DIT, "blocks.0.self_attn.q.bias",
                small, sizeof(small));
    CHECK(!strcmp(small, "blocks."));
}

TEST(prefixes)
{
    static const char *const c[][2] = {
        { "model.diffusion_model.head.head.weight", "head.head.weight" },
        { "diffusion_model.blocks.0.modulation", "blocks.0.modulation" },
        { "first_stage_model.conv1.weight", "conv1.weight" },
        { "vae.decoder.conv1.weight", "decoder.conv1.weight" },
        { "text_encoders.umt5xxl.transformer.shared.weight",
          "shared.weight" },
        { "clip_vision.vision_model.pre_layrnorm.bias",
          "vision_model.pre_layrnorm.bias" },
        { "visual_model.vision_model.a", "vision_model.a" },
        { "model.visual.cls_embedding", "visual.cls_embedding" },
        { "text_encoders.spiece_model", "spiece_model" },
        { "text_encoders.umt5xxl.spiece_model", "spiece_model" },
        /* of programs that train, in any order and number */
        { "model.blocks.0.modulation", "blocks.0.modulation" },
        { "module.head.modulation", "head.modulation" },
        { "net.patch_embedding.weight", "patch_embedding.weight" },
        { "net.module.model.decoder.conv1.weight", "decoder.conv1.weight" },
        { "diffusion_model.diffusion_model.a", "a" },
        { "model._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module."
          "self_attn.q.weight", "blocks.0.self_attn.q.weight" },
        { "_orig_mod.head.modulation", "head.modulation" },
        /* not ours */
        { "model.", "model." },
        { "network.a", "network.a" },
        { "text_encoders.a", "text_encoders.a" },
        { "visual_model.a", "visual_model.a" },
        { "vae.", "vae." },
        { "vaexdecoder", "vaexdecoder" },
        { "text_encoders.umt5xxl.transformer.scaled_fp8",
          "text_encoders.umt5xxl.transformer.scaled_fp8" },
        { "blocks.0.modulation", "blocks.0.modulation" },
        { "", "" },
    };

    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        char name[200];

        wan_name_clean(name, c[i][0]);
        CHECKF(!strcmp(name, c[i][1]), "%s: %s", c[i][0], name);
    }
}

int main(void)
{
    RUN(dit_layouts_agree);
    RUN(t5_layouts_agree);
    RUN(vae_layouts_agree);
    RUN(written_tables);
    RUN(prefixes);
    scratch_clean();
    return test_end();
}
