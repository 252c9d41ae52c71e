/*
 * config.json: what is read, what is refused, what must agree.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <unistd.h>

#include "config.h"
#include "formats/formats.h"
#include "golden.h"
#include "test.h"

static char last[512];
static int lines;

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level > WAN_LOG_ERROR)
        return;
    snprintf(last, sizeof(last), "%s", line);
    lines++;
}

static const WanLog log_keep = { keep, NULL, WAN_LOG_WARNING };

static int parse(WanConfigFile *c, const char *text)
{
    last[0] = 0;
    return wan_config_parse(c, text, strlen(text), "config.json", &log_keep);
}

TEST(official_words)
{
    WanConfigFile c;

    CHECK(parse(&c, "{\"_class_name\": \"WanModel\", \"dim\": 1536, \"eps\": "
                "1e-06, \"ffn_dim\": 8960, \"num_heads\": 12, \"num_layers\": "
                "30, \"model_type\": \"t2v\", \"in_dim\": 16}") == 0);
    CHECK(c.dim == 1536 && c.heads == 12 && c.layers == 30 && c.ffn == 8960);
    CHECK(c.in_dim == 16 && c.out_dim == -1 && c.eps == 1e-6);
    CHECK(!strcmp(c.model_type, "t2v"));
}

TEST(diffusers_words)
{
    WanConfigFile c;

    CHECK(parse(&c, "{\"attention_head_dim\": 128, \"num_attention_heads\": 40,"
                "\"in_channels\": 36, \"image_dim\": null}") == 0);
    CHECK(c.heads == 40 && c.head_dim == 128 && c.in_dim == 36);
}

TEST(refused)
{
    static const char *const bad[] = {
        "", "[]", "{", "{\"dim\": \"big\"}", "{\"dim\": 0}", "{\"dim\": -4}",
        "{\"num_heads\": 1.5}", "{\"num_layers\": 1e300}", "{\"eps\": 0}",
        "{\"ffn_dim\": 99999999999}",
        "{\"size\": 160}", "{\"size\": [160, 96]}", "{\"size\": \"\"}",
        "{\"size\": \"160\"}", "{\"size\": \"160x\"}", "{\"size\": \"x96\"}",
        "{\"size\": \"160x96x1\"}", "{\"size\": \"160x96 \"}",
        "{\"size\": \" 160x96\"}", "{\"size\": \"160X96\"}",
        "{\"size\": \"-160x-96\"}", "{\"size\": \"+160x96\"}",
        "{\"size\": \"160x90\"}", "{\"size\": \"150x96\"}",
        "{\"size\": \"0x0\"}", "{\"size\": \"8208x16\"}",
        "{\"size\": \"16x16384\"}", "{\"size\": \"4294967312x16\"}",
        "{\"size\": true}", "{\"frames\": \"17\"}", "{\"frames\": 16}",
        "{\"frames\": 0}", "{\"frames\": -1}", "{\"frames\": 4005}",
        "{\"frames\": 17.5}", "{\"steps\": 0}", "{\"steps\": 1001}",
        "{\"steps\": [8]}", "{\"guidance\": -1}", "{\"guidance\": 100.5}",
        "{\"guidance\": \"5\"}", "{\"guidance\": 1e999}",
        "{\"shift\": 0}", "{\"shift\": -3}", "{\"shift\": 1e3}",
        "{\"shift\": {}}", "{\"vace_layers\": 2}", "{\"vace_layers\": []}",
        "{\"vace_layers\": [0, 0]}", "{\"vace_layers\": [4, 2]}",
        "{\"vace_layers\": [-1]}", "{\"vace_layers\": [0.5]}",
        "{\"vace_layers\": [1e3]}", "{\"vace_layers\": [\"0\"]}",
        "{\"vace_layers\": {\"a\": 0}}", "{\"vace_in_dim\": 0}",
    };
    WanConfigFile c;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        const char *key = strchr(bad[i], '"');
        char named[32] = "config.json: ";

        if (key && strchr(bad[i], ':'))     // the key with its quotes
            strncat(named, key, strcspn(key, ":"));
        CHECKF(parse(&c, bad[i]) == WAN_INVALIDDATA && strstr(last, named),
               "%s: '%s'", bad[i], last);
    }
}

/* The keys of ours: what a checkpoint's authors recommend. */
TEST(defaults)
{
    const WanDitConfig dit = { .dim = 1536, .layers = 30 };
    WanModelInfo info;
    WanConfigFile c;
    char name[64];

    CHECK(parse(&c, "{\"size\": \"160x96\", \"frames\": 17, \"steps\": 12, "
                "\"guidance\": 0, \"shift\": 2.5}") == 0);
    CHECK(c.width == 160 && c.height == 96 && c.frames == 17);
    CHECK(c.steps == 12 && c.guidance == 0 && c.shift == 2.5);
    wan_config_defaults(&info, &dit, &c, "", WAN_EXPERT_NONE, name,
                        sizeof(name));
    CHECK(info.width == 160 && info.height == 96 && info.frames == 17);
    CHECK(info.steps == 12 && info.guidance == 0 && info.shift == 2.5);

    /* the ends of what can be */
    CHECK(parse(&c, "{\"size\": \"16x8192\", \"frames\": 4001, \"steps\": "
                "1000, \"guidance\": 100, \"shift\": 0.01}") == 0);
    wan_config_defaults(&info, &dit, &c, "", WAN_EXPERT_NONE, name,
                        sizeof(name));
    CHECK(info.width == 16 && info.height == 8192 && info.frames == 4001);
    CHECK(info.steps == 1000 && info.guidance == 100 && info.shift == 0.01);

    /* each alone, the architecture's for the others */
    CHECK(parse(&c, "{\"frames\": 1, \"size\": null, \"shift\": null}") == 0);
    wan_config_defaults(&info, &dit, &c, "", WAN_EXPERT_NONE, name,
                        sizeof(name));
    CHECK(info.width == 832 && info.height == 480 && info.frames == 1);
    CHECK(info.steps == 50 && info.guidance == 6 && info.shift == 8);
    CHECK(parse(&c, "{}") == 0);
    wan_config_defaults(&info, &dit, &c, "", WAN_EXPERT_NONE, name,
                        sizeof(name));
    CHECK(info.frames == 81 && info.guidance == 6);
    wan_config_defaults(&info, &dit, NULL, "", WAN_EXPERT_NONE, name,
                        sizeof(name));
    CHECK(info.frames == 81 && info.guidance == 6 && info.width == 832);
}

/* A list that does not end, and the longest that can be. */
TEST(vace_layers)
{
    WanConfigFile c;
    char text[1024];
    int n = snprintf(text, sizeof(text), "{\"vace_layers\": [0");

    for (int i = 1; i < WAN_VACE_BLOCKS; i++)
        n += snprintf(text + n, sizeof(text) - n, ",%d", 2 * i);
    snprintf(text + n, sizeof(text) - n, "], \"vace_in_channels\": 96}");
    CHECK(parse(&c, text) == 0 && c.nb_vace == WAN_VACE_BLOCKS);
    CHECK(c.vace_layer[1] == 2 && c.vace_layer[63] == 126 && c.vace_in == 96);
    snprintf(text + n, sizeof(text) - n, ",998]}");
    CHECK(parse(&c, text) == WAN_INVALIDDATA && strstr(last, "vace_layers"));
    CHECK(parse(&c, "{}") == 0 && c.nb_vace == -1);
}

TEST(deep_nesting)
{
    static char text[200001];
    WanConfigFile c;

    memset(text, '[', sizeof(text) - 1);
    CHECK(parse(&c, text) == WAN_INVALIDDATA);
}

static int detect_in(const char *folder, WanDitConfig *c,
                     const WanConfigFile *file)
{
    char path[128];
    WanNaming naming;
    WanWeights *w;
    int ret;

    snprintf(path, sizeof(path), "tiny/%s/diffusion_pytorch_model.safetensors",
             folder);
    ret = wan_weights_open(&w, golden_path(path), &log_keep);
    if (!CHECK(ret == 0))
        return ret;
    ret = wan_config_dit(c, &naming, w, file, &log_keep);
    wan_weights_close(&w);
    return ret;
}

static int detect(WanDitConfig *c, const WanConfigFile *file)
{
    return detect_in("wan-t2v", c, file);
}

/* The side stack's blocks are counted; the list says where hints go, else they
 * are evenly spread. */
TEST(vace)
{
    static const char *const folder[] = { "wan-vace",
                                          "wan-vace-diffusers/transformer" };
    WanConfigFile file;
    WanDitConfig c;

    for (int i = 0; i < 2; i++) {
        parse(&file, "{\"num_heads\": 2}");
        CHECK(detect_in(folder[i], &c, &file) == 0);
        CHECK(c.task == WAN_TASK_VACE && c.layers == 4 && c.in_dim == 16);
        CHECK(c.nb_vace == 2 && c.vace_layer[0] == 0 && c.vace_layer[1] == 2);
        parse(&file, "{\"num_heads\": 2, \"vace_layers\": [1, 3]}");
        CHECK(detect_in(folder[i], &c, &file) == 0);
        CHECK(c.nb_vace == 2 && c.vace_layer[0] == 1 && c.vace_layer[1] == 3);
    }
    parse(&file, "{\"num_heads\": 2, \"vace_layers\": [0]}");
    CHECK(detect_in(folder[0], &c, &file) == WAN_INVALIDDATA);
    CHECKF(strstr(last, "lists 1 vace_layers up to 0, the tensors are 2"), "%s",
           last);
    parse(&file, "{\"num_heads\": 2, \"vace_layers\": [0, 4]}");
    CHECK(detect_in(folder[0], &c, &file) == WAN_INVALIDDATA);
    CHECK(strstr(last, "vace_layers up to 4"));
    parse(&file, "{\"num_heads\": 2, \"vace_in_dim\": 95}");
    CHECK(detect_in(folder[0], &c, &file) == WAN_INVALIDDATA);
    CHECK(strstr(last, "vace_in_dim 95"));
    parse(&file, "{\"num_heads\": 2, \"model_type\": \"t2v\"}");
    CHECK(detect_in(folder[0], &c, &file) == WAN_INVALIDDATA);
    CHECK(strstr(last, "model_type t2v, the tensors say vace"));
}

/* Experts of Wan 2.2 are two of one kind, and none of them is VACE's. */
TEST(pairs)
{
    WanConfigFile file;
    WanDitConfig vace, text;
    WanWeights *w;

    parse(&file, "{\"num_heads\": 2}");
    CHECK(detect_in("wan-vace", &vace, &file) == 0);
    text = vace;
    text.task = WAN_TASK_T2V;
    text.nb_vace = 0;
    CHECK(wan_weights_open(&w, golden_path("tiny/wan-t2v/diffusion_pytorch_"
                                           "model.safetensors"),
                           &log_keep) == 0);
    CHECK(wan_config_pair(&text, w, &text, w, &log_keep) == 0);
    CHECK(wan_config_pair(&text, w, &vace, w, &log_keep) == WAN_INVALIDDATA);
    CHECK(wan_config_pair(&vace, w, &text, w, &log_keep) == WAN_INVALIDDATA);
    CHECK(wan_config_pair(&vace, w, &vace, w, &log_keep) == WAN_INVALIDDATA);
    CHECKF(strstr(last, "nor VACE's blocks"), "%s", last);
    wan_weights_close(&w);
}

/* The table of positions without the branch that it is for. */
TEST(half_an_image_branch)
{
    static char bytes[4 << 20];
    char path[] = "/tmp/wan-config.XXXXXX";
    FILE *f = fopen(golden_path("tiny/wan-flf2v/diffusion_pytorch_model."
                                "safetensors"), "rb");
    const size_t n = f ? fread(bytes, 1, sizeof(bytes), f) : 0;
    const int fd = mkstemp(path);
    WanConfigFile file;
    WanNaming naming;
    WanDitConfig c;
    WanWeights *w;
    char *p = bytes;

    if (f)
        fclose(f);
    if (!CHECK(n > 0 && n < sizeof(bytes) && fd >= 0))
        return;
    while ((p = memmem(p, bytes + n - p, "img_emb.proj", 12)))
        p[11] = 'x';
    CHECK(write(fd, bytes, n) == (ssize_t)n);
    close(fd);
    parse(&file, "{\"num_heads\": 2}");
    if (CHECK(wan_weights_open(&w, path, &log_keep) == 0)) {
        CHECK(wan_config_dit(&c, &naming, w, &file, &log_keep) ==
              WAN_INVALIDDATA);
        CHECKF(strstr(last, "img_emb.proj.1.weight is missing"), "%s", last);
    }
    wan_weights_close(&w);
    unlink(path);
}

/* What config.json is written as is read as the same, for each known size. */
TEST(written_and_read)
{
    static const char *const name[] = { "t2v-1.3B", "ti2v-5B", "vace-1.3B",
                                        "vace-14B" };

    for (int i = 0; i < 4; i++) {
        WanBytes b = { 0 };
        WanConfigFile file;
        WanDitConfig c;
        WanT5Config t5;
        WanVaeConfig vae;
        WanClipConfig clip;

        CHECK(wan_config_named(name[i], &c, &t5, &vae, &clip) == 0);
        wan_config_text(&b, &c, NULL);
        CHECK(wan_config_parse(&file, (const char *)b.data, b.n, "text",
                               &log_keep) == 0);
        CHECK(file.dim == c.dim && file.layers == c.layers &&
              file.heads == c.heads && file.in_dim == c.in_dim);
        CHECK(!strcmp(file.model_type, wan_config_task(c.task)));
        CHECK(c.nb_vace ? file.nb_vace == c.nb_vace && file.vace_in == 96 &&
              !memcmp(file.vace_layer, c.vace_layer, sizeof(c.vace_layer))
                        : file.nb_vace == -1 && file.vace_in == -1);
        free(b.data);
    }
}

TEST(file_and_shapes_must_agree)
{
    WanConfigFile file;
    WanDitConfig c;

    CHECK(parse(&file, "{\"dim\": 96, \"num_heads\": 2}") == 0);
    CHECK(detect(&c, &file) == 0);
    CHECK(c.dim == 96 && c.heads == 2 && c.layers == 2 && c.ffn == 128);
    CHECK(c.task == WAN_TASK_T2V && c.text_dim == 64 && c.freq_dim == 256);
    parse(&file, "{\"num_layers\": 3, \"num_heads\": 2}");
    CHECK(detect(&c, &file) == WAN_INVALIDDATA && strstr(last, "num_layers 3"));
    /* a word that is no task of the family says nothing */
    parse(&file, "{\"model_type\": \"mine\", \"num_heads\": 2}");
    CHECK(detect(&c, &file) == 0);
    parse(&file, "{\"model_type\": \"t2v\", \"num_heads\": 2}");
    CHECK(detect(&c, &file) == 0);
    parse(&file, "{\"model_type\": \"i2v\", \"num_heads\": 2}");
    CHECK(detect(&c, &file) == WAN_INVALIDDATA);
    CHECKF(strstr(last, "model_type i2v, the tensors say t2v"), "%s", last);
    parse(&file, "{\"model_type\": \"vace\", \"num_heads\": 2}");
    CHECK(detect(&c, &file) == WAN_INVALIDDATA && strstr(last, "vace"));
    parse(&file, "{\"num_heads\": 7}");
    CHECK(detect(&c, &file) == WAN_INVALIDDATA && strstr(last, "7 heads"));
    parse(&file, "{\"num_heads\": 48}");    // an odd half: no rotary pairs
    CHECK(detect(&c, &file) == WAN_INVALIDDATA);
    /* Heads of the tiny model are in no shape: 96 is no multiple of 128. */
    CHECK(detect(&c, NULL) == WAN_INVALIDDATA && strstr(last, "num_heads"));
}

/* One line a failure, however many numbers a bad shape stands for. */
TEST(one_line)
{
    static const char json[] = "{\"head.modulation\":{\"dtype\":\"U8\","
        "\"shape\":[1],\"data_offsets\":[0,1]},\"patch_embedding.weight\":"
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]},"
        "\"token_embedding.weight\":{\"dtype\":\"U8\",\"shape\":[1],"
        "\"data_offsets\":[2,3]},\"visual.cls_embedding\":{\"dtype\":\"U8\","
        "\"shape\":[1],\"data_offsets\":[3,4]}}";
    uint8_t file[8 + sizeof(json) + 3] = { (sizeof(json) - 1) & 255,
                                           (sizeof(json) - 1) >> 8 };
    WanNaming naming;
    WanDitConfig dit;
    WanT5Config t5;
    WanClipConfig clip;
    WanWeights *w;

    memcpy(file + 8, json, sizeof(json) - 1);
    if (!CHECKF(wan_weights_open_memory(&w, "f", file, sizeof(file),
                                        &log_keep) == 0, "%s", last))
        return;
    lines = 0;
    CHECK(wan_config_dit(&dit, &naming, w, NULL, &log_keep) ==
          WAN_INVALIDDATA);
    CHECKF(lines == 1 && strstr(last, "patch_embedding"), "%d: %s", lines,
           last);
    lines = 0;
    CHECK(wan_config_t5(&t5, &naming, w, &log_keep) == WAN_INVALIDDATA);
    CHECKF(lines == 1, "%d: %s", lines, last);
    lines = 0;
    CHECK(wan_config_clip(&clip, &naming, w, &log_keep) == WAN_INVALIDDATA);
    CHECKF(lines == 1, "%d: %s", lines, last);
    wan_weights_close(&w);
}

static int left;                // allocations until the first that fails

static void *few(size_t n)
{
    return left-- > 0 ? malloc(n) : NULL;
}

/* Wrong text and no memory are told apart, whatever cJSON does not get. */
TEST(no_memory_is_not_damage)
{
    static const char *const good[] = {
        "{}", " {\"a\" : [ 1, -2.5e+3, true, false, null, {\"b\":{}} ] }\n",
        "{\"size\" : \"16x16\",\"x\":\"\\u00e9\\n\\ud83d\\ude00\"}",
        "\xef\xbb\xbf{\"dim\":96}",
    };
    static const char *const bad[] = {
        "{\"a\":}", "{\"a\" 1}", "{\"a\":\"\\ud83d\"}", "{\"a\":\"\\x\"}",
        "{\"a\":1e}", "{\"a\":nul}", "{\"a\":[1 2]}", "{a:1}", "{\"a\":1",
    };
    cJSON_Hooks hooks = { few, free };
    WanConfigFile c;
    int ret;

    cJSON_InitHooks(&hooks);
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        for (int n = 0; ; n++) {
            left = n;
            ret = parse(&c, good[i]);
            if (ret == 0)
                break;
            CHECKF(ret == WAN_ERR(ENOMEM), "%d of %s: %d, %s", n, good[i],
                   ret, last);
            CHECKF(strstr(last, "config.json: no memory"), "%s", last);
            if (!CHECK(n < 100))
                break;
        }
    left = 1000;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        CHECKF(parse(&c, bad[i]) == WAN_INVALIDDATA, "%s", bad[i]);
    cJSON_InitHooks(NULL);
}

TEST(not_a_transformer)
{
    WanNaming naming;
    WanDitConfig c;
    WanT5Config t5;
    WanVaeConfig vae;
    WanWeights *w;

    CHECK(wan_weights_open(&w, golden_path("tiny/wan-t2v/Wan2.1_VAE.pth"),
                           &log_keep) == 0);
    CHECK(wan_config_vae(&vae, &naming, w, &log_keep) == 0 && vae.dim == 8);
    CHECK(wan_config_dit(&c, &naming, w, NULL, &log_keep) == WAN_INVALIDDATA);
    CHECK(strstr(last, "Wan2.1_VAE.pth"));
    CHECK(wan_config_t5(&t5, &naming, w, &log_keep) == WAN_INVALIDDATA);
    wan_weights_close(&w);
}

TEST(known_sizes)
{
    WanDitConfig c;
    WanT5Config t5;
    WanVaeConfig vae;
    WanClipConfig clip;

    CHECK(wan_config_named("i2v-14B", &c, &t5, &vae, &clip) == 0);
    CHECK(c.in_dim == 36 && c.clip_dim == 1280 && c.task == WAN_TASK_I2V);
    CHECK(wan_config_named("t2v-14B", &c, &t5, &vae, &clip) == 0);
    CHECK(c.dim == 5120 && c.heads == 40 && t5.layers == 24 && vae.dim == 96);
    CHECK(wan_config_named("ti2v-5B", &c, &t5, &vae, &clip) == 0);
    CHECK(c.dim == 3072 && c.heads == 24 && c.in_dim == 48 && c.out_dim == 48 &&
          c.task == WAN_TASK_TI2V && !c.clip_dim);
    CHECK(vae.family == WAN_VAE_WAN22 && vae.dim == 256 &&
          vae.encoder_dim == 160);
    CHECK(wan_config_named("vace-14B", &c, &t5, &vae, &clip) == 0);
    CHECK(c.dim == 5120 && c.task == WAN_TASK_VACE && c.nb_vace == 8);
    wan_config_cut(&c, 6);
    CHECK(c.layers == 6 && c.nb_vace == 2 && c.vace_layer[1] == 5);
    CHECK(wan_config_named("vace-5B", &c, &t5, &vae, &clip) ==
          WAN_ERR(EINVAL));
    CHECK(wan_config_named("t2v-2B", &c, &t5, &vae, &clip) == WAN_ERR(EINVAL));
}

int main(void)
{
    RUN(official_words);
    RUN(diffusers_words);
    RUN(refused);
    RUN(defaults);
    RUN(vace_layers);
    RUN(deep_nesting);
    RUN(vace);
    RUN(pairs);
    RUN(half_an_image_branch);
    RUN(written_and_read);
    RUN(file_and_shapes_must_agree);
    RUN(one_line);
    RUN(no_memory_is_not_damage);
    RUN(not_a_transformer);
    RUN(known_sizes);
    return test_end();
}
