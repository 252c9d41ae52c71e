/*
 * Models by the paths that people give: the home folder, a hub's cache,
 * ComfyUI's folders, directories of files with names of their own.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <fcntl.h>
#include <sys/wait.h>

#include "../../wan/places.h"
#include "files_util.h"

#define DIT "diffusion_pytorch_model.safetensors"
#define T5 "models_t5_umt5-xxl-enc-bf16.pth"
#define VAE "Wan2.1_VAE.pth"

/* A folder in a folder; it may be there. */
static const char *below(const char *dir, const char *name)
{
    const char *path = at(dir, name);

    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        abort();
    return path;
}

static void write_text(const char *dir, const char *name, const char *text)
{
    Bytes b = { 0 };

    put_str(&b, text);
    write_file(at(dir, name), &b);
}

/* A matrix, or with one column a vector, of numbers of 8 bits. */
static void add_matrix(Maker *m, const char *name, int64_t rows, int64_t cols)
{
    static const char zeros[64 * 64];
    const int64_t dim[2] = { rows, cols };

    if (rows * cols > (int64_t)sizeof(zeros))
        abort();
    add(m, name, "F8_E4M3", cols > 1 ? 2 : 1, dim, zeros, rows * cols);
}

/* A file with two tensors of a number each. */
static void write_tensors(const char *dir, const char *name, const char *one,
                          const char *two)
{
    Maker m = { { 0 }, { 0 } };

    add_matrix(&m, one, 1, 1);
    add_matrix(&m, two, 1, 1);
    write_all(&m, at(dir, name));
}

/* A UMT5 of half the width that the transformer reads. */
static void write_other_umt5(const char *dir, const char *name)
{
    Maker m = { { 0 }, { 0 } };

    add_matrix(&m, "token_embedding.weight", 64, 32);
    add_matrix(&m, "blocks.0.attn.q.weight", 32, 32);
    add_matrix(&m, "blocks.0.ffn.fc1.weight", 64, 32);
    add_matrix(&m, "blocks.0.pos_embedding.embedding.weight", 32, 4);
    write_all(&m, at(dir, name));
}

/* Wan 2.1's VAE, but narrower than the tiny one, as pruned ones are. */
static void write_pruned_vae(const char *dir, const char *name)
{
    Maker m = { { 0 }, { 0 } };

    add_matrix(&m, "decoder.upsamples.0.residual.0.gamma", 16, 1);
    add_matrix(&m, "decoder.head.0.gamma", 4, 1);
    write_all(&m, at(dir, name));
}

static void expect_told(int ret, const char *words)
{
    CHECKF(ret == 0, "%d: %s", ret, last_line);
    CHECKF(strstr(told, words), "'%s' is not in: %s", words, told);
}

/* -------------------------------------------------------------- the home */

TEST(home)
{
    char dir[1500];
    WanModelParams p;

    snprintf(dir, sizeof(dir), "%s", official("home"));
    setenv("HOME", scratch_dir, 1);
    CHECKF(open_path("~/home") == 0, "%s", last_line);
    CHECKF(open_path("~/home/" DIT) == 0, "%s", last_line);
    setenv("HOME", dir, 1);
    CHECKF(open_path("~") == 0, "%s", last_line);
    CHECKF(open_path("~/") == 0, "%s", last_line);

    wan_model_params_default(&p);
    p.path = dir;
    p.vae = "~/" VAE;
    p.text_encoder = "~";
    p.tokenizer = "~/spiece.model";
    CHECKF(open_model(&p) == 0, "%s", last_line);
    p.lora = "~/none.safetensors=0.5";
    expect(open_model(&p), WAN_ERR(ENOENT), dir);
    expect(open_path("~/none"), WAN_ERR(ENOENT), "/home/none");
    expect(open_path("~nobody/x"), WAN_ERR(ENOENT), "of ~ alone ~/ is known");
    unsetenv("HOME");
    expect(open_path("~/x"), WAN_ERR(ENOENT), "HOME is not set");

    /* what has the name itself is meant */
    if (chdir(scratch_dir) < 0)
        abort();
    official("~");
    CHECKF(open_path("~") == 0, "%s", last_line);
    CHECKF(open_path("~/" DIT) == 0, "%s", last_line);
    if (chdir("/") < 0)
        abort();
}

/* ------------------------------------------------------------ hub's cache */

/* snapshots/NAME of links into blobs/, as a hub's client leaves them. */
static void add_snapshot(const char *cache, const char *name, int64_t time)
{
    static const char *const files[] = { DIT, "config.json", T5, VAE };
    const char *dir = below(below(cache, "snapshots"), name);
    const char *blobs = below(cache, "blobs");
    struct timespec when[2] = { { .tv_sec = time }, { .tv_sec = time } };
    char blob[64], target[80];

    for (int i = 0; i < 4; i++) {
        char file[200];

        snprintf(blob, sizeof(blob), "%d0e5c4", i);
        snprintf(target, sizeof(target), "../../blobs/%s", blob);
        snprintf(file, sizeof(file), "wan-t2v/%s", files[i]);
        link_golden(blobs, blob, file);
        link_to(target, dir, files[i]);
    }
    link_golden(below(below(dir, "google"), "umt5-xxl"), "spiece.model",
                "wan-t2v/google/umt5-xxl/spiece.model");
    if (utimensat(AT_FDCWD, dir, when, 0) < 0)
        abort();
}

TEST(hub_cache)
{
    char cache[1500];
    const char *refs;
    WanModelParams p;

    snprintf(cache, sizeof(cache), "%s", folder("models--Wan-AI--Wan2.1"));
    below(cache, "snapshots");
    expect(open_path(cache), WAN_ERR(ENOENT),
           "without a snapshot: looked in refs/main and snapshots");
    add_snapshot(cache, "37ec512", 1000);
    expect_told(open_path(cache), "the only one is taken, 37ec512");
    add_snapshot(cache, "b8fff73", 3000);
    add_snapshot(cache, "0ad98c1", 2000);
    expect_told(open_path(cache), "none of its 3 snapshots, so the newest one "
                "is taken, b8fff73");
    CHECKF(open_path(at(cache, "")) == 0, "%s", last_line);

    refs = below(cache, "refs");
    unlink(at(at(cache, "snapshots/b8fff73"), DIT));
    expect(open_path(cache), WAN_ERR(ENOENT), "b8fff73: no transformer here");
    write_text(refs, "main", "0ad98c1\n");
    CHECKF(open_path(cache) == 0 && !*told, "%s%s", last_line, told);
    write_text(refs, "main", "fffffff");
    expect(open_path(cache), WAN_ERR(ENOENT), "b8fff73: no transformer here");
    CHECKF(strstr(told, "refs/main names fffffff, which is not among"), "%s",
           told);
    /* nothing outside is taken for a snapshot */
    write_text(refs, "main", "37ec512/../../../home");
    expect(open_path(cache), WAN_ERR(ENOENT), "b8fff73: no transformer here");
    write_text(refs, "main", "37ec512");

    wan_model_params_default(&p);
    p.path = golden_path("tiny/wan-t2v");
    p.vae = p.text_encoder = p.tokenizer = cache;
    CHECKF(open_model(&p) == 0, "%s", last_line);
}

/* --------------------------------------------------------------- ComfyUI */

/* The text encoder as ComfyUI has it, with its tokenizer inside. */
static void write_t5(const char *dir, const char *name, const char *prefix)
{
    Maker m = { { 0 }, { 0 } };
    char full[300];
    size_t bytes;
    char *spiece = golden_read("tiny/wan-t2v/google/umt5-xxl/spiece.model",
                               &bytes);
    int64_t n = (int64_t)bytes;

    add_file(&m, prefix, "wan-t2v/" T5);
    snprintf(full, sizeof(full), "%sspiece_model", prefix);
    add(&m, full, "U8", 1, &n, spiece, n);
    write_all(&m, at(dir, name));
    free(spiece);
}

/* models/ with one of each kind, under names that say nothing. */
static const char *comfy(const char *name)
{
    static char dir[1500];
    const char *models;

    snprintf(dir, sizeof(dir), "%s", folder(name));
    models = dir;
    link_golden(below(models, "diffusion_models"), "a.safetensors",
                "wan-t2v/" DIT);
    link_golden(at(models, "diffusion_models"), "config.json",
                "wan-t2v/config.json");
    write_t5(below(models, "text_encoders"), "b.safetensors", "");
    link_golden(below(models, "vae"), "c.pth", "wan-t2v/" VAE);
    /* of other models, some under the names that are looked for elsewhere */
    write_tensors(at(models, "vae"), "diffusion_pytorch_model.safetensors",
                  "encoder.conv_in.weight", "decoder.conv_in.weight");
    link_golden(at(models, "vae"), "taew2_1.pth", "taew2_1/taew2_1.pth");
    write_tensors(at(models, "text_encoders"), "t5xxl.safetensors",
                  "shared.weight", "encoder.block.0.layer.0.SelfAttention."
                  "q.weight");
    write_pruned_vae(at(models, "vae"), "a_lightvae.safetensors");
    write_other_umt5(at(models, "text_encoders"), "a_umt5_base.safetensors");
    write_tensors(at(models, "text_encoders"), "clip_l.safetensors",
                  "text_model.embeddings.position_ids", "text_projection");
    write_tensors(at(models, "diffusion_models"), "other.safetensors",
                  "x_embedder.proj.weight", "pos_embed");
    return dir;
}

/* Of two VAEs the one whose latents the transformer makes, though the other is
 * wider here. */
TEST(comfy_two_vaes)
{
    char dir[1500], dit[1500];

    snprintf(dir, sizeof(dir), "%s", comfy("two_vaes"));
    link_golden(at(dir, "vae"), "d.pth", "wan22-ti2v-5b/Wan2.2_VAE.pth");
    expect_told(open_path(at(dir, "diffusion_models/a.safetensors")),
                "vae/c.pth: the VAE, by its tensors");
    snprintf(dit, sizeof(dit), "%s", below(at(dir, "diffusion_models"), "x"));
    link_golden(dit, "e.safetensors", "wan22-ti2v-5b/" DIT);
    link_golden(dit, "config.json", "wan22-ti2v-5b/config.json");
    expect_told(open_path(at(dit, "e.safetensors")),
                "vae/d.pth: the VAE, by its tensors");
}

TEST(comfy_folders)
{
    char dir[1500], root[1500];
    WanModelParams p;

    snprintf(dir, sizeof(dir), "%s", comfy("comfy"));
    expect_told(open_path(at(dir, "diffusion_models/a.safetensors")),
                "text_encoders/b.safetensors: the text encoder, by its");
    CHECKF(strstr(told, "vae/c.pth: the VAE, by its tensors"), "%s", told);
    expect_told(open_path(dir), "diffusion_models/a.safetensors: the transf");

    /* around it, below it, from inside, and by the older names */
    snprintf(root, sizeof(root), "%s", folder("root"));
    link_to("../comfy", root, "models");
    CHECKF(open_path(root) == 0, "%s", last_line);
    snprintf(root, sizeof(root), "%s", folder("hub"));
    link_to("../comfy", root, "split_files");
    CHECKF(open_path(root) == 0, "%s", last_line);
    if (chdir(at(dir, "diffusion_models")) < 0)
        abort();
    CHECKF(open_path("a.safetensors") == 0, "%s", last_line);
    if (chdir("/") < 0)
        abort();
    below(dir, "unet");
    below(dir, "clip");
    below(below(dir, "diffusion_models/Wan"), "2.1");
    if (rename(at(dir, "text_encoders/b.safetensors"),
               at(dir, "clip/b.safetensors")) < 0 ||
        rename(at(dir, "diffusion_models/a.safetensors"),
               at(dir, "diffusion_models/Wan/2.1/a.safetensors")) < 0 ||
        rename(at(dir, "diffusion_models/config.json"),
               at(dir, "diffusion_models/Wan/2.1/config.json")) < 0)
        abort();
    CHECKF(open_path(dir) == 0, "%s", last_line);
    CHECKF(open_path(at(dir, "diffusion_models/Wan/2.1/a.safetensors")) == 0,
           "%s", last_line);

    /* given for one part */
    wan_model_params_default(&p);
    p.path = golden_path("tiny/wan-t2v");
    p.vae = dir;
    p.text_encoder = at(dir, "clip");
    expect_told(open_model(&p), "clip/b.safetensors: the text encoder");
    p.text_encoder = NULL;

    /* a tiny VAE alone will do there, and only there */
    below(dir, "tiny");
    link_golden(at(dir, "tiny"), "t.safetensors",
                "taew2_1/taew2_1.safetensors");
    p.vae = at(dir, "tiny");
    expect_told(open_model(&p), "tiny/t.safetensors: the VAE");
    p.vae = NULL;

    /* several */
    link_golden(at(dir, "unet"), "z.safetensors", "wan-i2v/" DIT);
    expect(open_path(dir), WAN_ERR(EINVAL), "2 files here are a transformer "
           "(diffusion_models/Wan/2.1/a.safetensors, unet/z.safetensors): "
           "name one by option model");
    CHECKF(open_path(at(dir, "diffusion_models/Wan/2.1/a.safetensors")) == 0,
           "%s", last_line);
    write_t5(at(dir, "text_encoders"), "b2.safetensors",
             "text_encoders.umt5xxl.transformer.");
    expect(open_path(at(dir, "diffusion_models/Wan/2.1/a.safetensors")),
           WAN_ERR(EINVAL), "name one by option text_encoder");
    /* twice the same is one */
    unlink(at(dir, "text_encoders/b2.safetensors"));
    link_to("../clip/b.safetensors", dir, "text_encoders/b2.safetensors");
    CHECKF(open_path(at(dir, "diffusion_models/Wan/2.1/a.safetensors")) == 0,
           "%s", last_line);

    /* the pruned one alone, which is not whole here; none */
    unlink(at(dir, "vae/c.pth"));
    expect(open_path(at(dir, "diffusion_models/Wan/2.1/a.safetensors")),
           WAN_INVALIDDATA, "vae/a_lightvae.safetensors: tensor");
    unlink(at(dir, "vae/a_lightvae.safetensors"));
    expect(open_path(at(dir, "diffusion_models/Wan/2.1/a.safetensors")),
           WAN_ERR(ENOENT), "comfy/vae, ");
    CHECKF(strstr(last_line, "no VAE here") &&
           strstr(last_line, "or give option vae"), "%s", last_line);
}

TEST(comfy_images)
{
    char dir[1500];

    snprintf(dir, sizeof(dir), "%s", comfy("comfy_i2v"));
    link_golden(at(dir, "diffusion_models"), "a.safetensors", "wan-i2v/" DIT);
    link_golden(at(dir, "diffusion_models"), "config.json",
                "wan-i2v/config.json");
    expect(open_path(dir), WAN_ERR(ENOENT), "no image encoder here");
    link_golden(below(dir, "clip_vision"), "d.pth",
                "wan-i2v/models_clip_open-clip-xlm-roberta-large-vit-huge-14"
                ".pth");
    expect_told(open_path(dir), "clip_vision/d.pth: the image encoder");
}

/* ---------------------------------------------------------- two experts */

#define HIGH "wan22-t2v-a14b/high_noise_model/"
#define LOW "wan22-t2v-a14b/low_noise_model/"

/* models/ with a pair under these names in diffusion_models. */
static const char *comfy_pair(const char *name, const char *high,
                              const char *low)
{
    const char *dir = comfy(name), *dits = at(dir, "diffusion_models");

    unlink(at(dits, "a.safetensors"));
    link_golden(dits, high, HIGH DIT);
    link_golden(dits, low, LOW DIT);
    link_golden(dits, "config.json", HIGH "config.json");
    return dir;
}

/* A pair alone in a folder, by the names of both; with a third file nobody
 * knows which is meant, but who names one finds its partner. */
TEST(comfy_experts)
{
    static const char high[] = "wan2.2_t2v_high_noise_14B_fp16.safetensors";
    static const char low[] = "wan2.2_t2v_low_noise_14B_fp16.safetensors";
    char dir[1500];

    snprintf(dir, sizeof(dir), "%s", comfy_pair("pair", high, low));
    expect_told(open_path(dir), "low_noise_14B_fp16.safetensors: the high-noise"
                " and the low-noise expert, by their names");
    link_golden(at(dir, "diffusion_models"), "z.safetensors", "wan-t2v/" DIT);
    expect(open_path(dir), WAN_ERR(EINVAL), "3 files here are a transformer");
    expect_told(open_path(at(at(dir, "diffusion_models"), high)),
                "by their names");
    expect_told(open_path(at(at(dir, "diffusion_models"), low)),
                "by their names");
}

/* As repositories of GGUF files have them: a folder for each. */
TEST(gguf_experts)
{
    char dir[1500];

    snprintf(dir, sizeof(dir), "%s", official("gguf22"));
    unlink(at(dir, DIT));
    link_golden(below(dir, "HighNoise"), "T2V-HighNoise-Q8_0.gguf", HIGH DIT);
    link_golden(at(dir, "HighNoise"), "config.json", HIGH "config.json");
    link_golden(below(dir, "LowNoise"), "T2V-LowNoise-Q8_0.gguf", LOW DIT);
    link_golden(at(dir, "LowNoise"), "config.json", LOW "config.json");
    expect_told(open_path(dir), "LowNoise/T2V-LowNoise-Q8_0.gguf: the "
                "high-noise and the low-noise expert, by their names");
}

/* Two files as they are given: what their names say against it. */
TEST(given_experts)
{
    WanModelParams p;
    char dir[1500];

    snprintf(dir, sizeof(dir), "%s", official("given"));
    link_golden(dir, "config.json", HIGH "config.json");
    link_golden(dir, "a.safetensors", HIGH DIT);
    link_golden(dir, "b.safetensors", LOW DIT);
    link_golden(dir, "x_high_noise.safetensors", HIGH DIT);
    link_golden(dir, "y_low_noise.safetensors", LOW DIT);
    link_golden(dir, "z_low_noise.safetensors", HIGH DIT);
    wan_model_params_default(&p);
    p.path = at(dir, "a.safetensors");
    p.model2 = at(dir, "b.safetensors");
    expect_told(open_model(&p), "a.safetensors is taken for the high-noise "
                "expert and ");
    p.path = at(dir, "x_high_noise.safetensors");
    p.model2 = at(dir, "y_low_noise.safetensors");
    expect(open_model(&p), 0, "");
    CHECKF(!strstr(told, "taken for"), "%s", told);

    p.path = at(dir, "y_low_noise.safetensors");
    p.model2 = at(dir, "x_high_noise.safetensors");
    expect(open_model(&p), WAN_ERR(EINVAL), "x_high_noise.safetensors is the "
           "high-noise expert, by its name, and belongs to option model");
    p.model2 = at(dir, "a.safetensors");
    expect(open_model(&p), WAN_ERR(EINVAL), "y_low_noise.safetensors is the "
           "low-noise expert, by its name, and belongs to option model2");
    p.path = at(dir, "a.safetensors");
    p.model2 = at(dir, "x_high_noise.safetensors");
    expect(open_model(&p), WAN_ERR(EINVAL), "is the file of model too");
    p.path = at(dir, "z_low_noise.safetensors");
    p.model2 = at(dir, "y_low_noise.safetensors");
    expect(open_model(&p), WAN_ERR(EINVAL), "are both the low-noise expert, "
           "by their names");
    p.path = at(dir, "a.safetensors");
    p.model2 = at(dir, "none.safetensors");
    expect(open_model(&p), WAN_ERR(ENOENT), "(option model2)");
    p.model2 = golden_path("tiny/wan-t2v/" DIT);
    expect(open_model(&p), WAN_INVALIDDATA, "are no pair of experts: ");
    p.model2 = NULL;
    p.path = at(dir, "y_low_noise.safetensors");
    expect(open_model(&p), 0, "half a model");
}

/* Loops, links to nowhere, pipes, damage: passed over, and told if the part is
 * not found. */
TEST(comfy_in_the_way)
{
    char dir[1500];

    snprintf(dir, sizeof(dir), "%s", comfy("comfy_way"));
    link_to("..", at(dir, "diffusion_models"), "up");
    link_to("x", at(dir, "vae"), "x");
    link_to("nowhere", at(dir, "vae"), "y.safetensors");
    if (mkfifo(at(dir, "vae/z.safetensors"), 0600) < 0)
        abort();
    write_text(at(dir, "text_encoders"), "page.safetensors", "<html>no</html>");
    CHECKF(open_path(dir) == 0, "%s", last_line);
    unlink(at(dir, "text_encoders/b.safetensors"));
    expect(open_path(dir), WAN_ERR(ENOENT), "one is not read: ");
    CHECKF(strstr(last_line, "text_encoders/page.safetensors"), "%s",
           last_line);
}

/* Loras by their names alone. */
TEST(loras_by_name)
{
    char dir[1500];
    WanModelParams p;

    snprintf(dir, sizeof(dir), "%s", comfy("comfy_lora"));
    wan_model_params_default(&p);
    p.path = at(dir, "diffusion_models/a.safetensors");
    p.lora = "ball.safetensors=0.5";
    expect(open_model(&p), WAN_ERR(ENOENT), "comfy_lora/loras");
    write_text(below(below(dir, "loras"), "wan"), "ball.safetensors", "no");
    p.lora = "wan/ball=0.5";
    expect(open_model(&p), WAN_INVALIDDATA, "loras/wan/ball.safetensors");
    p.lora = "wan/ball.safetensors";
    expect(open_model(&p), WAN_INVALIDDATA, "loras/wan/ball.safetensors");
    /* what is there is meant before it */
    if (chdir(scratch_dir) < 0)
        abort();
    write_text(below(scratch_dir, "wan"), "ball.safetensors", "");
    expect(open_model(&p), WAN_INVALIDDATA, "wan/ball.safetensors: 0 bytes");
    if (chdir("/") < 0)
        abort();
}

/* ----------------------------------------------------------------- GGUF */

TEST(gguf_directory)
{
    char dir[1500];

    snprintf(dir, sizeof(dir), "%s", folder("gguf"));
    link_golden(dir, "wan2.1-t2v-Q8_0.gguf",
                "gguf/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf");
    link_golden(dir, "config.json", "gguf/wan-t2v-q8_0/config.json");
    link_golden(dir, "umt5-xxl-encoder-Q8_0.gguf",
                "gguf/umt5/umt5-encoder-Q8_0.gguf");
    expect(open_path(dir), WAN_ERR(ENOENT), "no VAE here");
    link_golden(dir, VAE, "wan-t2v/" VAE);
    expect_told(open_path(dir), "wan2.1-t2v-Q8_0.gguf: the transformer");
    CHECKF(open_path(at(dir, "wan2.1-t2v-Q8_0.gguf")) == 0, "%s", last_line);

    link_golden(dir, "wan2.1-t2v-Q4.gguf",
                "gguf/wan-t2v-sdcpp/wan2.1-t2v-sdcpp.gguf");
    expect(open_path(dir), WAN_ERR(EINVAL), "gguf: 2 files here are a "
           "transformer (wan2.1-t2v-Q4.gguf, wan2.1-t2v-Q8_0.gguf): name one");
    CHECKF(open_path(at(dir, "wan2.1-t2v-Q4.gguf")) == 0, "%s", last_line);
    link_golden(dir, "umt5.safetensors", "wan-t2v/" T5);
    expect(open_path(at(dir, "wan2.1-t2v-Q4.gguf")), WAN_ERR(EINVAL),
           "2 files here are a text encoder (umt5-xxl-encoder-Q8_0.gguf, "
           "umt5.safetensors): name one by option text_encoder");

    /* in the folders of Diffusers' layout */
    snprintf(dir, sizeof(dir), "%s", folder("gguf_diffusers"));
    link_golden(below(dir, "transformer"), "q8.gguf",
                "gguf/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf");
    link_golden(at(dir, "transformer"), "config.json",
                "gguf/wan-t2v-q8_0/config.json");
    link_golden(below(dir, "text_encoder"), "q8.gguf",
                "gguf/umt5/umt5-encoder-Q8_0.gguf");
    link_golden(below(dir, "vae"), "vae.pth", "wan-t2v/" VAE);
    CHECKF(open_path(dir) == 0, "%s", last_line);
    CHECKF(open_path(at(dir, "transformer/q8.gguf")) == 0, "%s", last_line);
}

/* A folder of everything: some files are looked at, not all. */
TEST(many_files)
{
    char dir[1500], name[64];

    snprintf(dir, sizeof(dir), "%s", folder("many"));
    link_golden(dir, "a.safetensors", "wan-t2v/" DIT);
    link_golden(dir, "config.json", "wan-t2v/config.json");
    for (int i = 0; i < 2 * WAN_SEARCH_FILES; i++) {
        snprintf(name, sizeof(name), "m%d.safetensors", i);
        write_tensors(dir, name, "x", "y");
    }
    write_t5(dir, "z.safetensors", "");
    expect(open_path(at(dir, "a.safetensors")), WAN_ERR(ENOENT),
           "no text encoder here");
    CHECKF(strstr(told, "of its weight files 128 were looked at for the text "
                  "encoder and 130 were not; option text_encoder names one"),
           "%s", told);
}

/* What may not be read is passed over, and told. */
TEST(no_permission)
{
    char dir[1500];
    int status = 0;
    pid_t child;

    snprintf(dir, sizeof(dir), "%s", comfy("comfy_closed"));
    chmod(scratch_dir, 0755);
    chmod(dir, 0755);
    chmod(at(dir, "diffusion_models"), 0755);
    chmod(at(dir, "text_encoders"), 0755);
    chmod(at(dir, "vae"), 0);
    fflush(stdout);
    child = fork();
    if (!child) {
        test_failures = 0;
        if (!geteuid() && seteuid(65534) < 0)
            _exit(0);
        expect(open_path(at(dir, "diffusion_models/a.safetensors")),
               WAN_ERR(ENOENT), "comfy_closed/vae: Permission denied");
        fflush(stdout);
        _exit(test_failures != 0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
    chmod(at(dir, "vae"), 0700);
}

/* Asked between files, as while weights are read. */
static int stop(void *opaque)
{
    (void)opaque;
    return 1;
}

TEST(interrupted)
{
    WanModelParams p;
    WanModel *m;

    wan_model_params_default(&p);
    p.path = at(comfy("comfy_stop"), "diffusion_models");
    p.interrupted = stop;
    CHECK(wan_model_probe(&p) == WAN_CANCELLED);
    CHECK(wan_model_open(&m, &p) == WAN_CANCELLED);
}

int main(void)
{
    RUN(home);
    RUN(hub_cache);
    RUN(comfy_folders);
    RUN(comfy_two_vaes);
    RUN(comfy_images);
    RUN(comfy_experts);
    RUN(gguf_experts);
    RUN(given_experts);
    RUN(comfy_in_the_way);
    RUN(loras_by_name);
    RUN(gguf_directory);
    RUN(many_files);
    RUN(no_permission);
    RUN(interrupted);
    scratch_clean();
    return test_end();
}
