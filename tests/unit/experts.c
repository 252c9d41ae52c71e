/*
 * Wan 2.2's two experts by their names: what files and folders are called in
 * the repositories that people have them from.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "../../wan/experts.h"
#include "test.h"

static const struct {
    const char *high, *low;
} pairs[] = {
    { "high_noise_model/diffusion_pytorch_model.safetensors.index.json",
      "low_noise_model/diffusion_pytorch_model.safetensors.index.json" },
    { "/m/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
      "/m/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors" },
    { "Wan2_2-I2V-A14B-HIGH_fp8_e4m3fn_scaled_KJ.safetensors",
      "Wan2_2-I2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors" },
    { "x/HighNoise/Wan2.2-T2V-A14B-HighNoise-Q4_K_M.gguf",
      "x/LowNoise/Wan2.2-T2V-A14B-LowNoise-Q4_K_M.gguf" },
    { "wan22HighNoise.gguf", "wan22LowNoise.gguf" },
    { "HIGH/a.gguf", "LOW/a.gguf" },
    { "a high-noise.gguf", "a low-noise.gguf" },
    { "a.high noise.gguf", "a.low noise.gguf" },
};

TEST(pairs_of_names)
{
    for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
        char *other;

        CHECKF(wan_expert_of(pairs[i].high) == WAN_EXPERT_HIGH, "%s",
               pairs[i].high);
        CHECKF(wan_expert_of(pairs[i].low) == WAN_EXPERT_LOW, "%s",
               pairs[i].low);
        CHECK(wan_expert_partner(&other, pairs[i].high) == 0);
        CHECKF(other && !strcmp(other, pairs[i].low), "%s", other);
        free(other);
        CHECK(wan_expert_partner(&other, pairs[i].low) == 0);
        CHECKF(other && !strcmp(other, pairs[i].high), "%s", other);
        free(other);
    }
}

/* Words that are parts of others, or of folders further up. */
TEST(no_names)
{
    static const char *const none[] = {
        "wan2.1_t2v_14B_low_vram.safetensors", "slow_noise.gguf",
        "flow_high.gguf", "HIGHRES.gguf", "high_noise/a/b.gguf", "highway.pth",
        "", "/", "transformer_2", "low_nois",
    };
    char *other;

    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++) {
        CHECKF(!wan_expert_of(none[i]), "%s", none[i]);
        CHECK(wan_expert_partner(&other, none[i]) == 0);
        CHECKF(!other, "%s", other);
        free(other);
    }
}

/* Diffusers' first folder is any model's; the second is an expert's. */
TEST(folders_of_diffusers)
{
    char *other;

    CHECK(!wan_expert_of("a/transformer/b.safetensors"));
    CHECK(wan_expert_of("a/transformer_2/b.safetensors") == WAN_EXPERT_LOW);
    CHECK(wan_expert_partner(&other, "a/transformer/b.safetensors") == 0);
    CHECK(other && !strcmp(other, "a/transformer_2/b.safetensors"));
    free(other);
    CHECK(wan_expert_partner(&other, "transformer_2/b") == 0);
    CHECK(other && !strcmp(other, "transformer/b"));
    free(other);
}

/* A folder is stronger than a name. */
TEST(folder_first)
{
    CHECK(wan_expert_of("LowNoise/high_noise.gguf") == WAN_EXPERT_LOW);
    CHECK(!strcmp(wan_expert_name(WAN_EXPERT_LOW), "low-noise"));
    CHECK(!strcmp(wan_expert_name(WAN_EXPERT_HIGH), "high-noise"));
    CHECK(wan_expert_word("x_high_noise.gguf") == WAN_EXPERT_HIGH);
    CHECK(!wan_expert_word("x.gguf"));
}

int main(void)
{
    RUN(pairs_of_names);
    RUN(no_names);
    RUN(folders_of_diffusers);
    RUN(folder_first);
    return test_end();
}
