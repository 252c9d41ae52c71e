/*
 * Checkpoints converted: the same numbers where nothing is rounded, near ones
 * where something is, and what can't be converted by name.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <sys/stat.h>
#include <unistd.h>

#include "convert.h"
#include "formats/formats.h"
#include "formats/write.h"
#include "model_test.h"

#define W 32
#define H 32
#define FRAMES 5
#define PIXELS (3 * W * H)
#define F WAN_F32
#define KEEP WAN_CONVERT_KEEP
#define NONE WAN_CONVERT_NONE

static char last[1024];         // the last error line
static char out[300];           // the converted file
static char rest[4096], clip[4096];
static WanConvertReport report;

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level == WAN_LOG_ERROR)
        snprintf(last, sizeof(last), "%s", line);
}

static const char *folder(void)
{
    static char dir[256];
    const char *tmp = getenv("TMPDIR");

    if (!*dir) {
        snprintf(dir, sizeof(dir), "%s/wan-convert-XXXXXX",
                 tmp ? tmp : P_tmpdir);
        if (!mkdtemp(dir))
            exit(1);
        strcat(dir, "/a");              // beside which nothing lies either
        mkdir(dir, 0777);
    }
    return dir;
}

/* A file of the folder; there is none of that name yet. */
static const char *fresh(const char *name)
{
    snprintf(out, sizeof(out), "%s/%s", folder(), name);
    unlink(out);
    return out;
}

static WanModelParams params(const char *path)
{
    WanModelParams p;

    wan_model_params_default(&p);
    p.path = path;
    params_backend(&p, dut);
    p.threads = 2;
    p.log = keep;
    last[0] = 0;
    return p;
}

/* What the tiny folders lack comes from wan-t2v, and CLIP from wan-i2v. */
static WanModelParams with_rest(const char *path)
{
    WanModelParams p = params(path);

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    snprintf(clip, sizeof(clip), "%s", golden_path("tiny/wan-i2v"));
    if (!strstr(path, "diffusers") || strstr(path, "vace")) {
        p.text_encoder = p.vae = p.tokenizer = rest;
        p.clip = clip;
    }
    return p;
}

static int convert(const WanModelParams *p, const char *name, int dit, int t5,
                   int vae, int clip_type)
{
    const WanConvert c = { .model = p, .out = fresh(name),
                           .type = { dit, t5, vae, clip_type } };

    return wan_convert(&report, &c);
}

/* ------------------------------------------------- what a model computes */

typedef struct Video {
    float latent[16 * 2 * (W / 8) * (H / 8)];
    float pixel[FRAMES * PIXELS];
} Video;

static void keep_latent(void *opaque, const char *name, const WanTensor *t)
{
    Video *v = opaque;

    if (!strncmp(name, "latents", 7) &&
        CHECK(wan_count(t) == sizeof(v->latent) / sizeof(float)))
        memcpy(v->latent, t->data, sizeof(v->latent));
}

/* A small video of the model, in floats; 0: there was none. */
static int make(Video *v, const WanModelParams *p)
{
    static uint8_t rgb[PIXELS];
    const WanImage still = { .size = sizeof(still), .format = WAN_PIX_RGB24,
                             .width = W, .height = H, .data = { rgb },
                             .stride = { 3 * W } };
    WanModel *m = NULL;
    WanJob *job = NULL;
    WanRequest rq;
    int frames = 0, ret = wan_model_open(&m, p);

    memset(v, 0, sizeof(*v));
    if (!CHECKF(ret >= 0, "%s", last))
        return 0;
    for (int i = 0; i < PIXELS; i++)
        rgb[i] = (uint8_t)(i * 7);
    wan_request_default(&rq, m);
    rq.width = W, rq.height = H, rq.frames = FRAMES, rq.steps = 2;
    rq.prompt = "a red ball";
    rq.image = m->info.clip_dim ? &still : NULL;
    rq.last_image = m->info.task == WAN_TASK_FLF2V ? &still : NULL;
    ret = wan_job_open(&job, m, &rq);
    if (ret >= 0)
        wan_job_tap(job, keep_latent, v);
    while (ret >= 0 && (ret = wan_job_step(job, NULL)) >= 0) {
        do {
            float *f = v->pixel + frames * PIXELS;
            WanImage img = {
                .size = sizeof(img), .format = WAN_PIX_GBRPF32, .width = W,
                .height = H, .data = { f, f + W * H, f + 2 * W * H },
                .stride = { 4 * W, 4 * W, 4 * W },
            };

            ret = wan_job_frame(job, frames < FRAMES ? &img : NULL);
            frames += ret >= 0;
        } while (ret >= 0 && frames < FRAMES);
        ret = ret == WAN_ERR(EAGAIN) ? 0 : frames == FRAMES ? WAN_EOF : ret;
    }
    wan_job_close(&job);
    wan_model_close(&m);
    return CHECKF(ret == WAN_EOF && frames == FRAMES, "%s", wan_strerror(ret));
}

/* How far the converted file's video is from that of the model: relative L2
 * of latents; pixels are compared too. -1: not a video. */
static double distance(const WanModelParams *p)
{
    static Video a, b;
    const WanModelParams q = params(out);

    if (!make(&a, p) || !make(&b, &q))
        return -1;
    if (!memcmp(&a, &b, sizeof(a)))
        return 0;
    CHECK(test_rel_l2(b.latent, a.latent, sizeof(a.latent) / 4) > 0);
    return test_rel_l2(b.latent, a.latent, sizeof(a.latent) / 4);
}

static void same(const char *tiny, const char *name, int dit, int t5, int vae,
                 int clip_type)
{
    char path[4096];

    snprintf(path, sizeof(path), "%s", golden_path(tiny));
    const WanModelParams p = with_rest(path);

    if (CHECKF(convert(&p, name, dit, t5, vae, clip_type) == 0, "%s: %s",
               tiny, last))
        CHECKF(distance(&p) == 0, "%s is not %s", name, tiny);
    unlink(out);
}

TEST(f32_gguf)
{
    same("tiny/wan-t2v", "a.gguf", F, F, F, F);
    CHECK(!report.fallen && !report.left && report.tokenizer > 0 &&
          report.tally[WAN_PART_DIT][F].error == 0 &&
          report.tally[WAN_PART_DIT][F].norm > 0);
    same("tiny/wan-t2v-diffusers", "a.gguf", F, F, F, F);
}

TEST(f32_safetensors)
{
    same("tiny/wan-t2v", "a.safetensors", F, F, F, F);
    same("tiny/wan-t2v-diffusers", "a.safetensors", F, F, F, F);
    same("tiny/wan-t2v-hd128", "a.safetensors", F, F, F, F);
}

TEST(f32_image)
{
    same("tiny/wan-i2v", "a.gguf", F, F, F, F);
    CHECK(report.left > 0);             // CLIP's log_scale
    same("tiny/wan-i2v", "a.safetensors", F, F, F, F);
    same("tiny/wan-flf2v", "a.gguf", F, F, F, F);
}

/* The side stack, its hints' places, and the encoder that it needs. */
TEST(f32_vace)
{
    same("tiny/wan-vace", "a.gguf", F, F, F, F);
    CHECK(!report.fallen && !report.left);
    same("tiny/wan-vace-diffusers", "a.safetensors", F, F, F, F);
}

/* Types that stay: what is in blocks too, from every maker. */
TEST(kept)
{
    same("tiny/wan-t2v", "a.gguf", KEEP, KEEP, KEEP, KEEP);
    same("tiny/wan-t2v", "a.safetensors", KEEP, KEEP, KEEP, KEEP);
    same("tiny/gguf/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf", "a.gguf", KEEP, KEEP,
         KEEP, KEEP);
    CHECK(report.tally[WAN_PART_DIT][WAN_Q8_0].tensors > 0);
    same("tiny/gguf/wan-t2v-hd128-q4_k_m/wan2.1-t2v-hd128-Q4_K_M.gguf",
         "a.gguf", KEEP, KEEP, KEEP, KEEP);
    CHECK(report.tally[WAN_PART_DIT][WAN_Q4_K].tensors > 0 &&
          report.tally[WAN_PART_DIT][WAN_Q6_K].tensors > 0);
    same("tiny/gguf/wan-t2v-sdcpp/wan2.1-t2v-sdcpp.gguf", "a.gguf", KEEP, KEEP,
         KEEP, KEEP);
}

/* Decoded blocks are what they stand for: in F32 the same. And the numbers of
 * the tiny transformer are all of BF16. */
TEST(decoded)
{
    same("tiny/wan-t2v", "a.gguf", WAN_BF16, KEEP, F, KEEP);
    same("tiny/gguf/wan-t2v-hd128-q4_k_m/wan2.1-t2v-hd128-Q4_K_M.gguf",
         "a.safetensors", F, F, F, F);
}

/* Twice converted is once converted. */
TEST(from_a_converted_file)
{
    char first[300];
    WanModelParams p;

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    p = params(rest);
    CHECK(convert(&p, "first.gguf", WAN_Q8_0, KEEP, WAN_F16, KEEP) == 0);
    snprintf(first, sizeof(first), "%s", out);
    p = params(first);
    if (CHECKF(convert(&p, "second.gguf", KEEP, KEEP, KEEP, KEEP) == 0, "%s",
               last))
        CHECK(distance(&p) == 0);
    unlink(out);
    unlink(first);
}

/* Rounding of the weights moves the latents; by how much, measured on these
 * checkpoints with some room. */
static void near(const char *tiny, int dit, int t5, int vae, double limit)
{
    char path[4096];
    double err;

    snprintf(path, sizeof(path), "%s", golden_path(tiny));
    const WanModelParams p = with_rest(path);

    if (!CHECKF(convert(&p, "a.gguf", dit, t5, vae, KEEP) == 0, "%s", last))
        return;
    err = distance(&p);
    CHECKF(err > 0 && err < limit, "%s, %s: %g", tiny, wan_type_name(dit),
           err);
    printf("# %s, %s: %g\n", tiny, wan_type_name(dit), err);
    unlink(out);
}

TEST(rounded)
{
    near("tiny/wan-t2v", WAN_F16, WAN_F16, WAN_F16, 2e-3);
    near("tiny/wan-t2v", WAN_Q8_0, WAN_Q8_0, WAN_F16, 2e-2);
    near("tiny/wan-i2v", WAN_Q8_0, WAN_Q8_0, WAN_F16, 2e-2);
    near("tiny/wan-vace", WAN_Q8_0, WAN_Q8_0, WAN_F16, 2e-2);
    near("tiny/wan-t2v-hd128", WAN_Q6_K, WAN_Q6_K, WAN_F16, 6e-2);
    near("tiny/wan-t2v-hd128", WAN_Q4_K, WAN_Q4_K, WAN_F16, 0.25);
}

/* The types by the rules of convert.h. Rows of 96 and of 128 are no blocks of
 * 256. */
TEST(which_types)
{
    WanModelParams p;
    const WanConvertTally *t;

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    p = params(rest);
    CHECK(convert(&p, "a.gguf", WAN_Q4_K, WAN_Q5_K, WAN_BF16, KEEP) == 0);
    t = report.tally[WAN_PART_DIT];
    /* 2 blocks of 10 matrices; embeddings, time and head: 7 */
    CHECK(t[WAN_Q5_0].tensors == 20 && report.fallen == 34);
    CHECKF(t[WAN_F16].tensors == 7, "%d", t[WAN_F16].tensors);
    CHECK(t[WAN_F32].tensors > 30 && !t[WAN_Q4_K].tensors);
    t = report.tally[WAN_PART_T5];
    CHECK(t[WAN_Q5_1].tensors == 14 && t[WAN_Q8_0].tensors == 1 &&
          t[WAN_F32].tensors == 7);     // the table in 6 bits at least: Q8_0
    t = report.tally[WAN_PART_VAE];
    CHECK(t[WAN_BF16].tensors > 30 && t[WAN_F32].tensors > 30);
    unlink(out);
    CHECK(wan_convert_type(&(int){ 0 }, WAN_PART_VAE, "q8_0") < 0);
    CHECK(wan_convert_type(&(int){ 0 }, WAN_PART_DIT, "iq4_nl") < 0);
    CHECK(wan_convert_type(&(int){ 0 }, WAN_PART_DIT, "i8") < 0);
    CHECK(wan_convert_type(&(int){ 0 }, WAN_PART_DIT, "Q8_0") == 0);
    CHECK(wan_convert_type(&(int){ 0 }, WAN_PART_DIT, "q8_") < 0);
}

/* Sizes are known before, from shapes too. */
TEST(sizes)
{
    const int type[] = { WAN_Q8_0, WAN_Q4_K, WAN_F16, WAN_F16 };
    WanModelParams p = params(NULL);
    WanConvertReport r;
    WanModel *m;

    if (CHECK(wan_model_open_shapes(&m, "t2v-1.3B", &p) == 0)) {
        CHECK(wan_convert_sizes(&r, m, type) == 0);
        CHECKF(r.bytes > 4.9e9 && r.bytes < 5.4e9, "%g", r.bytes / 1e9);
        CHECK(!r.fallen && r.tally[WAN_PART_T5][WAN_Q6_K].tensors == 1);
        wan_model_close(&m);
    }
    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    p = params(rest);
    if (CHECK(wan_model_open(&m, &p) == 0)) {
        int64_t whole;

        CHECK(wan_convert_sizes(&r, m, type) == 0);
        whole = r.bytes;
        wan_model_close(&m);
        CHECK(convert(&p, "a.gguf", type[0], type[1], type[2], type[3]) == 0);
        for (int i = 0; i < WAN_CONVERT_PARTS; i++)
            for (int k = 0; k < WAN_NB_TYPES; k++) {
                CHECK(r.tally[i][k].tensors == report.tally[i][k].tensors);
                whole -= report.tally[i][k].bytes;
            }
        CHECK(whole == 0);
        unlink(out);
    }
}

/* -------------------------------------------------------------------- LoRA */

/* A LoRA of rank 2 for one matrix and a difference for one gain. */
static const char *lora_file(void)
{
    static char path[300];
    static float data[2 * 96 + 96 * 2 + 96];
    WanHeadTensor t[] = {
        { .name = "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
          .nb_dims = 2, .dim = { 2, 96 } },
        { .name = "diffusion_model.blocks.0.self_attn.q.lora_B.weight",
          .nb_dims = 2, .dim = { 96, 2 } },
        { .name = "diffusion_model.blocks.1.norm3.diff", .nb_dims = 1,
          .dim = { 96 } },
    };
    WanBytes b = { 0 };
    FILE *f;

    snprintf(path, sizeof(path), "%s/lora.safetensors", folder());
    for (size_t i = 0; i < sizeof(data) / sizeof(*data); i++)
        data[i] = (float)((int)(i * 37 % 64) - 32) / 100;
    wan_safetensors_head(&b, t, 3, NULL, 0);
    f = fopen(path, "wb");
    if (!f || fwrite(b.data, 1, b.n, f) != b.n ||
        fwrite(data, 1, sizeof(data), f) != sizeof(data) || fclose(f))
        golden_fail("can't be written", path);
    free(b.data);
    return path;
}

TEST(lora_merged)
{
    char list[400];
    WanModelParams p;
    static Video plain, now;

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    snprintf(list, sizeof(list), "%s=0.7", lora_file());
    p = params(rest);
    p.lora = list;
    if (CHECKF(convert(&p, "a.gguf", F, KEEP, KEEP, KEEP) == 0, "%s", last))
        CHECK(distance(&p) < 1e-6);
    if (CHECKF(convert(&p, "a.gguf", WAN_Q8_0, KEEP, KEEP, KEEP) == 0, "%s",
               last))
        CHECK(distance(&p) < 2e-2);
    p.lora = NULL;                      // and it does something
    if (make(&plain, &p)) {
        p = params(out);
        CHECK(make(&now, &p) &&
              test_rel_l2(now.latent, plain.latent,
                          sizeof(now.latent) / 4) > 3e-2);
    }
    /* of none of which anything fits */
    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v-hd128"));
    snprintf(clip, sizeof(clip), "%s", golden_path("tiny/wan-t2v"));
    p = params(rest);
    p.text_encoder = p.vae = p.tokenizer = clip;
    p.lora = list;
    CHECK(convert(&p, "b.gguf", F, KEEP, KEEP, KEEP) == WAN_INVALIDDATA);
    CHECK(access(out, F_OK));
    p.lora = "nowhere.safetensors";
    CHECK(convert(&p, "b.gguf", NONE, KEEP, KEEP, KEEP) == WAN_ERR(EINVAL));
    CHECK(convert(&p, "b.gguf", F, KEEP, KEEP, KEEP) == WAN_ERR(ENOENT));
    unlink(lora_file());
    unlink(fresh("a.gguf"));
}

/* ------------------------------------------------------------- bad input */

/* The tiny transformer with one number of a tensor replaced. Its path. */
static const char *changed(const char *tensor, int64_t at, float v)
{
    static char path[300];
    char from[4096];
    size_t n;
    WanWeights *w;
    const WanStored *s;
    uint8_t *data = malloc(4 << 20);
    FILE *f;

    snprintf(from, sizeof(from), "%s",
             golden_path("tiny/wan-t2v/diffusion_pytorch_model.safetensors"));
    if (!data || !(f = fopen(from, "rb")))
        golden_fail("can't be read", from);
    n = fread(data, 1, 4 << 20, f);
    fclose(f);
    if (wan_weights_open_memory(&w, from, data, n, NULL) < 0 ||
        !(s = wan_weights_find(w, tensor)) || s->type != WAN_F32)
        golden_fail("no such tensor", tensor);
    memcpy((uint8_t *)s->data + 4 * at, &v, 4);
    wan_weights_close(&w);
    snprintf(path, sizeof(path), "%s/changed.safetensors", folder());
    if (!(f = fopen(path, "wb")) || fwrite(data, 1, n, f) != n || fclose(f))
        golden_fail("can't be written", path);
    free(data);
    return path;
}

static void refuse(const char *path, int type, int error, const char *line)
{
    WanModelParams p = params(path);
    char config[300];
    FILE *f;

    /* without a config.json nobody knows its heads */
    snprintf(config, sizeof(config), "%s/config.json", folder());
    if ((f = fopen(config, "w"))) {
        fputs("{\"num_heads\": 2}", f);
        fclose(f);
    }
    CHECK(convert(&p, "a.gguf", type, NONE, NONE, NONE) == error);
    CHECKF(strstr(last, line), "'%s' has no '%s'", last, line);
    CHECK(access(out, F_OK));           // nothing is left
    unlink(config);
    unlink(path);
}

TEST(numbers_that_have_no_place)
{
    refuse(changed("blocks.1.ffn.0.weight", 3 * 96 + 5, NAN), WAN_Q8_0,
           WAN_ERR(EDOM), "tensor blocks.1.ffn.0.weight, row 3: a number that "
           "is not finite");
    refuse(changed("blocks.1.ffn.0.weight", 3 * 96 + 5, -INFINITY), WAN_F32,
           WAN_ERR(EDOM), "tensor blocks.1.ffn.0.weight, row 3: a number that "
           "is not finite");
    refuse(changed("blocks.0.modulation", 96, NAN), KEEP, WAN_ERR(EDOM),
           "tensor blocks.0.modulation, row 1: a number that is not finite");
    refuse(changed("head.head.weight", 0, 1e6f), WAN_Q8_0, WAN_ERR(EDOM),
           "tensor head.head.weight, row 0: numbers too large for F16; bf16 or "
           "f32 can be");
    refuse(changed("blocks.0.ffn.2.weight", 128, 3e38f), WAN_Q5_1,
           WAN_ERR(EDOM), "tensor blocks.0.ffn.2.weight, row 1: numbers too "
           "large for Q5_1");
}

TEST(names_and_types)
{
    WanModelParams p;

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    p = params(rest);
    CHECK(convert(&p, "a.bin", F, F, F, F) == WAN_ERR(EINVAL));
    CHECK(strstr(last, "a.bin: a name that ends in .gguf or .safetensors"));
    CHECK(convert(&p, "a.safetensors", WAN_Q8_0, F, F, F) == WAN_ERR(EINVAL));
    CHECK(strstr(last, "safetensors has no type Q8_0"));
    CHECK(convert(&p, "a.gguf", NONE, NONE, NONE, NONE) == WAN_ERR(EINVAL));
    snprintf(rest, sizeof(rest), "%s",
             golden_path("tiny/gguf/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf"));
    CHECK(convert(&p, "a.safetensors", KEEP, NONE, NONE, NONE) ==
          WAN_ERR(EINVAL));
    CHECK(strstr(last, "Q8_0.gguf: safetensors has no type Q8_0, in which the "
                       "transformer's blocks."));
}

/* One part alone, for who has the others elsewhere. */
TEST(parts)
{
    char text[300];
    WanModelParams p;
    static Video a, b;

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    p = params(rest);
    CHECK(convert(&p, "text.gguf", NONE, F, NONE, NONE) == 0);
    CHECK(!report.tally[WAN_PART_DIT][F].tensors && report.tokenizer);
    snprintf(text, sizeof(text), "%s", out);
    CHECK(convert(&p, "dit.gguf", F, NONE, NONE, NONE) == 0);
    CHECK(!report.tally[WAN_PART_T5][F].tensors && !report.tokenizer);
    if (make(&a, &p)) {
        p = params(out);
        p.text_encoder = text;
        p.vae = rest;
        CHECK(make(&b, &p) && !memcmp(&a, &b, sizeof(a)));
    }
    unlink(text);
    unlink(out);
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN(f32_gguf);
    RUN(f32_safetensors);
    RUN(f32_image);
    RUN(f32_vace);
    RUN(kept);
    RUN(decoded);
    RUN(from_a_converted_file);
    RUN(rounded);
    RUN(which_types);
    RUN(sizes);
    RUN(lora_merged);
    RUN(numbers_that_have_no_place);
    RUN(names_and_types);
    RUN(parts);
    snprintf(rest, sizeof(rest), "%s", folder());
    rmdir(rest);
    *strrchr(rest, '/') = 0;
    rmdir(rest);
    return test_end();
}
