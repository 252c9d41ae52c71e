/*
 * Few-step families: what their files are recognised by, what is set then,
 * and which lists and numbers are refused.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <sys/stat.h>

#include "golden.h"
#include "model.h"
#include "weights_util.h"

#define DIT "wan-t2v/diffusion_pytorch_model.safetensors"

static char said[4096];         // all lines but the verbose ones, and but for
                                // what is said of every model

static void keep_all(void *opaque, enum WanLogLevel level, const char *line)
{
    const size_t n = strlen(said);

    if (!strncmp(line, "precision: ", 11))
        return;
    snprintf(said + n, sizeof(said) - n, "%s\n", line);
    keep_line(opaque, level, line);
}

/* A transformer's file, with the rest of the tiny model. */
static int open_model(WanModel **m, const char *path, const char *lora)
{
    char rest[4096];
    WanModelParams p;

    said[0] = last_line[0] = 0;
    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    wan_model_params_default(&p);
    p.path = path;
    p.text_encoder = p.vae = p.tokenizer = rest;
    p.device = "cpu";
    p.lora = lora;
    p.log = keep_all;
    return wan_model_open(m, &p);
}

static void check_numbers(const WanModel *m, const char *preset, int steps,
                          const char *sampler, double guidance, double shift)
{
    const WanModelInfo *i = wan_model_info(m);
    WanRequest rq;

    wan_request_default(&rq, m);
    CHECKF(!strcmp(rq.preset, preset) && !strcmp(i->preset, preset), "%s",
           rq.preset);
    CHECKF(rq.steps == steps && i->steps == steps, "%d steps", rq.steps);
    CHECKF(rq.guidance == guidance && i->guidance == guidance, "guidance %g",
           rq.guidance);
    CHECKF(rq.shift == shift && i->shift == shift, "shift %g", rq.shift);
    CHECKF(!strcmp(wan_sampler_name(rq.sampler), sampler) &&
           i->sampler == rq.sampler, "sampler %d", rq.sampler);
    CHECK(!rq.timesteps && !rq.nb_timesteps && rq.sigma_max == 80);
    rq.prompt = "";
    rq.width = rq.height = 32;
    CHECK(wan_request_check(&rq, m) == 0);
}

TEST(names_of_files_and_folders)
{
    static const struct { const char *path; int dim; const char *name; } of[] = {
        { "wan2.1_t2v_14b_lightx2v_4step.safetensors", 5120, "lightx2v" },
        { "x/Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors",
          5120, "lightx2v" },
        { "/m/Wan2.1-I2V-14B-480P-StepDistill-CfgDistill-Lightx2v/"
          "distill_models/distill_model.safetensors", 5120, "lightx2v" },
        { "lightx2v/Wan2.1-Distill-Models/a.safetensors", 5120, "lightx2v" },
        { "models--FastVideo--FastWan2.1-T2V-1.3B-Diffusers/snapshots/"
          "0123456789abcdef0123456789abcdef01234567/transformer/"
          "diffusion_pytorch_model.safetensors", 1536, "fastwan" },
        { "FastWan2.1-T2V-14B-480P-Diffusers/transformer/x", 5120, "fastwan" },
        { "CausVid/bidirectional_checkpoint2/model.pt", 1536, "causvid" },
        { "Wan21_CausVid_14B_T2V_lora_rank32.safetensors", 5120, "causvid" },
        { "/a b/TurboWan2.1-T2V-1.3B-480P.pth", 1536, "rcm" },
        { "TURBOWAN2.1-T2V-14B-720P/model.pth", 5120, "rcm" },
        /* the nearest name of a Wan model counts */
        { "fastwan/Wan2.1-T2V-14B/diffusion_pytorch_model.safetensors", 5120,
          NULL },
        { "causvid/wan2.1_t2v_1.3B_bf16.safetensors", 1536, NULL },
        { "fastwan/a/b/c/d/model.safetensors", 1536, NULL },
        { "lightx2v/model.safetensors", 5120, NULL },
        /* causal */
        { "CausVid/autoregressive_checkpoint/model.pt", 1536, NULL },
        { "checkpoints/self_forcing_dmd.pt", 1536, "self-forcing" },
        { "Causal-Forcing/chunkwise/causal_forcing.pt", 1536,
          "causal-forcing" },
        { "Causal-Forcing/framewise/causal_forcing.pt", 1536,
          "causal-forcing-frame" },
        { "causal-forcing++/framewise-2step.pt", 1536,
          "causal-forcing-frame" },
        { "LongLive-1.3B/models/longlive_base.pt", 1536, "longlive" },
        { "LongLive-1.3B/models/lora.pt", 1536, "longlive" },
        { "", 1536, NULL }, { "/", 1536, NULL }, { "///", 1536, NULL },
    };

    for (size_t i = 0; i < sizeof(of) / sizeof(*of); i++) {
        const char *by = "";
        const WanPreset *p = wan_preset_recognise(&by, of[i].path, NULL,
                                                  of[i].dim);

        CHECKF(!p == !of[i].name && (!p || !strcmp(p->name, of[i].name)),
               "%s: %s", of[i].path, p ? p->name : "none");
        CHECK(!p || !strcmp(by, "its name"));
    }
}

/* CausVid 14B has other steps than the 1.3B of the same name. */
TEST(rows_by_width)
{
    const WanPreset *p;
    WanSampling s = { .sampler = WAN_SAMPLER_EULER, .steps = 9, .shift = 5,
                      .sigma_max = 80 };

    CHECK(wan_preset_find(&p, "causvid", 5120, &test_log) == 0 &&
          p->sampler == WAN_SAMPLER_EULER && p->steps == 9);
    CHECK(wan_preset_timesteps(p, &s) == p->timesteps &&
          p->timesteps[8] == 74);
    s.steps = 10;
    CHECK(!wan_preset_timesteps(p, &s));
    CHECK(wan_preset_find(&p, "causvid", 1536, &test_log) == 0 &&
          p->sampler == WAN_SAMPLER_DMD);
    s = (WanSampling){ .sampler = WAN_SAMPLER_DMD, .steps = 2, .shift = 8,
                       .sigma_max = 80 };
    CHECK(wan_preset_timesteps(p, &s) == p->timesteps);
    s.steps = 4;                        // the warped list: even steps
    CHECK(!wan_preset_timesteps(p, &s));
    s.steps = 3;
    s.warp = 1;
    CHECK(!wan_preset_timesteps(p, &s));
    s.warp = 0;
    s.sampler = WAN_SAMPLER_UNIPC;
    CHECK(!wan_preset_timesteps(p, &s));
}

/* A copy of the tiny transformer, changed as a family's files are: kind 'g'
 * has a gate for sparse attention, 't' is TurboWan's, in its training's
 * words. */
static void write_dit(const char *path, char kind)
{
    const float zeros[8 * 8] = { 0 };
    Maker m = { { 0 }, { 0 } };
    WanWeights *w;

    if (wan_weights_open(&w, tiny(DIT), &test_log) < 0)
        abort();
    for (int i = 0; i < wan_weights_count(w); i++) {
        const WanStored *s = wan_weights_at(w, i);
        const int flat = kind == 't' && !strcmp(s->name, "patch_embedding.weight");
        char name[300];

        snprintf(name, sizeof(name), "%s%s", kind == 't' ? "net." : "",
                 s->name);
        add(&m, name, wan_type_name(s->type), flat ? 2 : s->nb_dims,
            flat ? (int64_t[]){ s->dim[0], 64 } : s->dim, s->data, s->bytes);
    }
    if (kind == 'g')
        add(&m, "blocks.0.to_gate_compress.weight", "F32", 2,
            (int64_t[]){ 8, 8 }, zeros, sizeof(zeros));
    if (kind == 't')
        add(&m, "net.blocks.0.self_attn.attn_op.local_attn.proj_l.weight",
            "F32", 2, (int64_t[]){ 8, 8 }, zeros, sizeof(zeros));
    wan_weights_close(&w);
    write_all(&m, path);
}

TEST(extra_tensors)
{
    const char *dir = scratch("families");
    char path[1500], config[1600], named[1600];
    WanModel *m;

    if (mkdir(dir, 0700) < 0)
        abort();
    snprintf(config, sizeof(config), "%s/config.json", dir);
    if (symlink(tiny("wan-t2v/config.json"), config) < 0)
        abort();
    snprintf(path, sizeof(path), "%s/plain.safetensors", dir);
    write_dit(path, 0);
    CHECKF(open_model(&m, path, NULL) == 0, "%s", last_line);
    CHECKF(!said[0], "%s", said);
    check_numbers(m, "none", 50, "unipc", 5, 5);
    wan_model_close(&m);

    snprintf(named, sizeof(named), "%s/wan2.1_t2v_lightx2v_4step.safetensors",
             dir);
    if (rename(path, named) < 0)
        abort();
    CHECKF(open_model(&m, named, NULL) == 0, "%s", last_line);
    CHECKF(strstr(said, "LightX2V") && strstr(said, "4 steps of euler") &&
           strstr(said, "by its name") &&
           strchr(said, '\n') == said + strlen(said) - 1, "%s", said);
    check_numbers(m, "lightx2v", 4, "euler", 1, 5);
    wan_model_close(&m);

    write_dit(path, 'g');
    CHECKF(open_model(&m, path, NULL) == 0, "%s", last_line);
    CHECKF(strstr(said, "to_gate_compress") &&
           strstr(said, "preset fastwan, which is 3 steps of dmd, guidance 1, "
                  "shift 8"), "%s", said);
    check_numbers(m, "fastwan", 3, "dmd", 1, 8);
    wan_model_close(&m);

    write_dit(path, 't');
    CHECKF(open_model(&m, path, NULL) == 0, "%s", last_line);
    CHECKF(strstr(said, "sparse-linear attention") &&
           strstr(said, "preset rcm, which is 4 steps of rcm"), "%s", said);
    check_numbers(m, "rcm", 4, "rcm", 1, 5);
    wan_model_close(&m);

    snprintf(named, sizeof(named), "%s/lightx2v_MeanFlow_2step.safetensors",
             dir);
    if (rename(path, named) < 0)
        abort();
    CHECK(open_model(&m, named, NULL) == WAN_ERR(ENOSYS));
    CHECKF(strstr(last_line, "mean-flow") && strstr(last_line, "MeanFlow_2step"),
           "%s", last_line);
    snprintf(path, sizeof(path), "%s/rolling_forcing_dmd.safetensors", dir);
    if (rename(named, path) < 0)
        abort();
    CHECK(open_model(&m, path, NULL) == WAN_ERR(ENOSYS));
    CHECKF(strstr(last_line, "Rolling Forcing") &&
           strstr(last_line, "rolling_forcing_dmd"), "%s", last_line);
}

/* A config.json's own numbers are stronger than a family's. */
TEST(config_json_is_stronger)
{
    const char *dir = scratch("fastwan-2"), *text =
        "{\"num_heads\": 4, \"steps\": 2, \"shift\": 7}";
    char path[1500];
    Bytes config = { 0 };
    WanModel *m;

    if (mkdir(dir, 0700) < 0)
        abort();
    snprintf(path, sizeof(path), "%s/config.json", dir);
    put_str(&config, text);
    write_file(path, &config);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    write_dit(path, 'g');
    CHECKF(open_model(&m, path, NULL) == 0, "%s", last_line);
    check_numbers(m, "fastwan", 2, "dmd", 1, 7);
    wan_model_close(&m);
}

/* A quantised file of TurboDiffusion's is refused by what it is. */
TEST(blocks_of_128)
{
    const char *path = scratch("TurboWan2.1-T2V-1.3B-480P-quant.safetensors");
    Maker m = { { 0 }, { 0 } };
    const int8_t byte[4] = { 1, 2, 3, 4 };
    WanModel *model;

    add(&m, "head.modulation", "F32", 1, (int64_t[]){ 1 }, byte, 4);
    add(&m, "blocks.0.self_attn.q.int8_weight", "I8", 2, (int64_t[]){ 2, 2 },
        byte, 4);
    write_all(&m, path);
    CHECK(open_model(&model, path, NULL) == WAN_ERR(ENOSYS));
    CHECKF(strstr(last_line, "int8_weight") && strstr(last_line, "TurboWan"),
           "%s", last_line);
}

static void write_lora(const char *path, int dim)
{
    const float one[1024] = { 1 };
    Maker m = { { 0 }, { 0 } };

    add(&m, "diffusion_model.blocks.0.self_attn.q.lora_A.weight", "F32", 2,
        (int64_t[]){ 1, dim }, one, 4 * dim);
    add(&m, "diffusion_model.blocks.0.self_attn.q.lora_B.weight", "F32", 2,
        (int64_t[]){ dim, 1 }, one, 4 * dim);
    write_all(&m, path);
}

TEST(loras)
{
    char plain[1500], distill[1500], list[3100];
    WanModel *m;
    int dim;

    if (open_model(&m, golden_path("tiny/wan-t2v"), NULL) < 0)
        abort();
    dim = m->info.dim;
    wan_model_close(&m);
    snprintf(plain, sizeof(plain), "%s", scratch("style.safetensors"));
    write_lora(plain, dim);
    snprintf(distill, sizeof(distill), "%s",
             scratch("lightx2v_T2V_14B_cfg_step_distill_lora_rank64.safetensors"));
    write_lora(distill, dim);

    CHECK(open_model(&m, golden_path("tiny/wan-t2v"), plain) == 0);
    check_numbers(m, "none", 50, "unipc", 5, 5);
    wan_model_close(&m);
    snprintf(list, sizeof(list), "%s|%s=0.9", plain, distill);
    CHECKF(open_model(&m, golden_path("tiny/wan-t2v"), list) == 0, "%s",
           last_line);
    CHECKF(strstr(said, "rank64.safetensors: LightX2V"), "%s", said);
    check_numbers(m, "lightx2v", 4, "euler", 1, 5);
    wan_model_close(&m);
    snprintf(list, sizeof(list), "%s=0", distill);      // not merged
    CHECK(open_model(&m, golden_path("tiny/wan-t2v"), list) == 0);
    check_numbers(m, "none", 50, "unipc", 5, 5);
    wan_model_close(&m);
}

TEST(presets_by_name)
{
    WanModel *m;
    WanRequest rq;

    if (open_model(&m, golden_path("tiny/wan-t2v"), NULL) < 0)
        abort();
    wan_request_default(&rq, m);
    CHECK(wan_request_preset(&rq, m, "fastwan") == 0);
    CHECK(rq.steps == 3 && rq.sampler == WAN_SAMPLER_DMD && rq.guidance == 1 &&
          rq.shift == 8 && !rq.warp);
    CHECK(wan_request_preset(&rq, m, "lightx2v") == 0);
    CHECK(rq.steps == 4 && rq.sampler == WAN_SAMPLER_EULER && rq.shift == 5 &&
          rq.warp);
    CHECK(wan_request_preset(&rq, m, "turbo") == WAN_ERR(EINVAL));
    CHECKF(strstr(last_line, "option preset: turbo is none"), "%s", last_line);
    CHECK(!strcmp(rq.preset, "lightx2v") && rq.steps == 4);
    CHECK(wan_request_preset(&rq, m, "self-forcing") == 0);
    CHECK(rq.causal && rq.block == 3 && !rq.window && !rq.sink &&
          rq.steps == 4 && rq.sampler == WAN_SAMPLER_DMD && rq.warp &&
          rq.shift == 5 && rq.guidance == 1);
    CHECK(wan_request_preset(&rq, m, "causal-forcing-frame") == 0);
    CHECK(rq.block == 1 && rq.steps == 4 && !rq.first_timesteps);
    CHECK(wan_request_preset(&rq, m, "longlive") == 0);
    CHECK(rq.block == 3 && rq.window == 12 && rq.sink == 3 &&
          rq.prompt_switch == WAN_SWITCH_RECACHE && !rq.sink_reset);
    CHECK(wan_request_preset(&rq, m, "demo") == 0);
    CHECK(rq.causal && rq.block == 1 && rq.window == 6 && !rq.sink &&
          rq.steps == 4 && rq.shift == 3 && rq.warp &&
          rq.nb_first_timesteps == 10 && rq.first_timesteps[9] == 100);
    CHECK(wan_request_preset(&rq, m, "none") == 0);
    CHECK(!rq.causal && !rq.nb_first_timesteps && !rq.block && !rq.window && !rq.sink &&
          rq.prompt_switch == WAN_SWITCH_PLAIN);
    CHECK(rq.steps == 50 && rq.sampler == WAN_SAMPLER_UNIPC &&
          rq.guidance == 5 && rq.shift == 5 && !rq.warp);
    CHECK(wan_request_preset(&rq, m, "auto") == 0 && rq.steps == 50);
    wan_model_close(&m);
}

/* Each list that can't be is refused by its option's name, in one line. */
TEST(lists_are_checked)
{
    static const double list[] = { 1000, 750, 750, 500, 250, 0, 1001 };
    const double nan[] = { 1000, NAN };
    WanModel *m;
    WanRequest good, rq;

    if (open_model(&m, golden_path("tiny/wan-t2v"), NULL) < 0)
        abort();
    wan_request_default(&good, m);
    good.prompt = "";
    good.width = good.height = 32;

#define REFUSED(name, words, ...) \
    do { \
        rq = good; \
        CHECK(wan_request_preset(&rq, m, name) == 0); \
        __VA_ARGS__; \
        last_line[0] = 0; \
        error_lines = 0; \
        CHECK(wan_request_check(&rq, m) == WAN_ERR(EINVAL)); \
        CHECKF(error_lines == 1 && strstr(last_line, words), "'%s' is not " \
               "in: %s", words, last_line); \
    } while (0)
#define LIST(from, n) rq.timesteps = (from), rq.nb_timesteps = rq.steps = (n)

    REFUSED("lightx2v", "option timesteps: number 3 is 750", LIST(list, 3));
    REFUSED("lightx2v", "option timesteps: number 4 is 0", LIST(list + 2, 4));
    REFUSED("lightx2v", "option timesteps: number 1 is 1001", LIST(list + 6, 1));
    REFUSED("lightx2v", "option timesteps: number 2 is nan", LIST(nan, 2));
    REFUSED("lightx2v", "option steps: 4, but timesteps lists 2",
            LIST(list, 2), rq.steps = 4);
    REFUSED("lightx2v", "option timesteps: a list of -1", LIST(list, 4),
            rq.nb_timesteps = -1);
    REFUSED("lightx2v", "option timesteps: a list of 4",
            rq.nb_timesteps = 4);
    REFUSED("fastwan", "option timesteps: 4; preset fastwan has 3 at most",
            LIST(list + 2, 4));
    REFUSED("fastwan", "option steps: 4; preset fastwan has 3 at most",
            rq.steps = 4);
    REFUSED("causvid", "option steps: 5; preset causvid has 4 at most",
            rq.steps = 5);
    REFUSED("rcm", "option steps: 5; preset rcm has 4 at most", rq.steps = 5);
    REFUSED("none", "option steps: 5; sampler rcm has 4 at most",
            rq.sampler = WAN_SAMPLER_RCM, rq.steps = 5);
    REFUSED("none", "option timesteps: sampler unipc has steps of its own",
            LIST(list, 2));
    REFUSED("rcm", "option timesteps: sampler rcm has steps of its own",
            LIST(list, 2));
    REFUSED("none", "option warp: 2", rq.warp = 2);
    REFUSED("rcm", "option sigma_max: 10", rq.sigma_max = 10);
    REFUSED("rcm", "option sigma_max: nan", rq.sigma_max = NAN);
    REFUSED("none", "option preset: what is none", rq.preset = "what");
#undef REFUSED

    /* what is given beside a preset is stronger */
    rq = good;
    CHECK(wan_request_preset(&rq, m, "fastwan") == 0);
    rq.steps = 2;
    CHECK(wan_request_check(&rq, m) == 0);
    rq.steps = 20;
    rq.sampler = WAN_SAMPLER_UNIPC;
    CHECK(wan_request_check(&rq, m) == 0);
    LIST(list + 3, 2);
    rq.sampler = WAN_SAMPLER_DMD;
    CHECK(wan_request_check(&rq, m) == 0);
    rq = good;
    rq.preset = NULL;
    CHECK(wan_request_check(&rq, m) == 0);
    wan_model_close(&m);
}

int main(void)
{
    RUN(names_of_files_and_folders);
    RUN(rows_by_width);
    RUN(extra_tensors);
    RUN(config_json_is_stronger);
    RUN(blocks_of_128);
    RUN(loras);
    RUN(presets_by_name);
    RUN(lists_are_checked);
    scratch_clean();
    return test_end();
}
