/*
 * LoRA files: every way to name a module, what is added, what is refused.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <limits.h>
#include <unistd.h>

#include "golden.h"
#include "model.h"
#include "test.h"

static char last[1024];         // the last warning or error
static char said[1024];         // the last line of any level
static char told[8192];         // all of them
static int polls, stop_at;      // the interrupt: asked, and when it says yes

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    const size_t n = *said ? strlen(told) : 0;

    (void)opaque;
    snprintf(said, sizeof(said), "%s", line);
    snprintf(told + n, sizeof(told) - n, "%s\n", line);
    if (level <= WAN_LOG_WARNING)
        snprintf(last, sizeof(last), "%s", line);
}

static int poll(void *opaque)
{
    (void)opaque;
    return ++polls == stop_at;
}

static WanModel *open_with(const char *lora, int *ret)
{
    WanModelParams p;
    WanModel *m;

    last[0] = said[0] = 0;
    polls = 0;
    wan_model_params_default(&p);
    p.path = golden_path("tiny/wan-t2v");
    p.lora = lora;
    p.log = keep;
    p.interrupted = poll;
    *ret = wan_model_open(&m, &p);
    return m;
}

/* --------------------------------------------------- files to try it with */

typedef struct Entry {
    const char *name;
    int rows, cols;             // cols 0: [rows]; both 0: a scalar
    const char *type;           // NULL: F32
    double number;              // of a scalar; 0: 1
} Entry;

/* Number i of a tensor: small, and another one for each. */
static float value(const char *name, int i)
{
    unsigned h = 2166136261u + i * 40503u;

    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return ((int)(h >> 16 & 0xff) - 128) / 1024.f;
}

static const char *folder(void)
{
    static char dir[256];

    if (!*dir) {
        const char *tmp = getenv("TMPDIR");

        snprintf(dir, sizeof(dir), "%s/wan-lora-XXXXXX", tmp ? tmp : P_tmpdir);
        if (!mkdtemp(dir))
            exit(1);
    }
    return dir;
}

static int count_of(const Entry *e)
{
    return (e->rows ? e->rows : 1) * (e->cols ? e->cols : 1);
}

static int size_of(const char *type)
{
    return !type || strstr(type, "32") ? 4 : strstr(type, "64") ? 8 :
           strstr(type, "16") ? 2 : 1;
}

/* v as that type, little-endian. */
static void put_number(FILE *f, const char *type, float v)
{
    const int64_t whole = (int64_t)v;
    const uint16_t half = type && *type == 'B' ? wan_f32_to_bf16(v)
                                               : wan_f32_to_f16(v);
    const double wide = v;

    if (!type)
        fwrite(&v, 4, 1, f);
    else if (!strcmp(type, "F64"))
        fwrite(&wide, 8, 1, f);
    else if (strstr(type, "F16"))
        fwrite(&half, 2, 1, f);
    else
        fwrite(&whole, size_of(type), 1, f);
}

/* A safetensors file of these, with that text as its metadata's object. Its
 * path. */
static const char *write_with(const char *name, const char *metadata,
                              const Entry *e, int n)
{
    static char path[4][300];
    static int next;
    char *p = path[next++ % 4], header[8192];
    size_t at = snprintf(header, sizeof(header), "{"), bytes = 0;
    FILE *f;

    if (metadata)
        at += snprintf(header + at, sizeof(header) - at,
                       "\"__metadata__\":%s%s", metadata, n ? "," : "");
    for (int i = 0; i < n; i++) {
        at += snprintf(header + at, sizeof(header) - at, "%s\"%s\":{\"dtype\":"
                       "\"%s\",\"shape\":[", i ? "," : "", e[i].name,
                       e[i].type ? e[i].type : "F32");
        if (e[i].rows)
            at += snprintf(header + at, sizeof(header) - at, "%d", e[i].rows);
        if (e[i].cols)
            at += snprintf(header + at, sizeof(header) - at, ",%d", e[i].cols);
        at += snprintf(header + at, sizeof(header) - at,
                       "],\"data_offsets\":[%zu,%zu]}", bytes,
                       bytes + size_of(e[i].type) * count_of(&e[i]));
        bytes += size_of(e[i].type) * count_of(&e[i]);
    }
    at += snprintf(header + at, sizeof(header) - at, "}");
    snprintf(p, 300, "%s/%s", folder(), name);
    if (!(f = fopen(p, "wb")))
        exit(1);
    const uint64_t size = at;
    fwrite(&size, 8, 1, f);
    fwrite(header, 1, at, f);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < count_of(&e[i]); k++)
            put_number(f, e[i].type, e[i].rows ? value(e[i].name, k) :
                                     e[i].number ? (float)e[i].number : 1);
    fclose(f);
    return p;
}

static const char *write_file(const char *name, const Entry *e, int n)
{
    return write_with(name, NULL, e, n);
}
#define WRITE(name, e) write_file((name), (e), (int)(sizeof(e) / sizeof(*(e))))

static void write_text(const char *name, const char *text)
{
    char path[300];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", folder(), name);
    f = fopen(path, "wb");
    if (!f || fputs(text, f) < 0 || fclose(f))
        exit(1);
}

static void remove_file(const char *name)
{
    char path[300];

    snprintf(path, sizeof(path), "%s/%s", folder(), name);
    unlink(path);
}

/* Largest error of now = base + scale * B A, A [rank, cols]. */
static double product_error(const WanTensor *now, const WanTensor *base,
                            const char *a, const char *b, int rank,
                            double scale)
{
    const int64_t rows = now->dim[0], cols = wan_count(now) / rows;
    double worst = 0;

    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            double want = ((float *)base->data)[i * cols + j];

            for (int r = 0; r < rank; r++)
                want += scale * value(b, (int)i * rank + r) *
                        value(a, r * (int)cols + (int)j);
            worst = fmax(worst, fabs(((float *)now->data)[i * cols + j] -
                                     want));
        }
    return worst;
}

/* ---------------------------------------------------------------- tests */

TEST(every_spelling)
{
    static const struct { const char *a, *b, *alpha; int block; } c[] = {
        { "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
          "diffusion_model.blocks.0.self_attn.q.lora_B.weight",
          "diffusion_model.blocks.0.self_attn.q.alpha", 0 },
        { "blocks.1.self_attn.q.lora_down.weight",
          "blocks.1.self_attn.q.lora_up.weight",
          "blocks.1.self_attn.q.alpha", 1 },
        { "transformer.blocks.0.attn1.to_q.lora_A.default.weight",
          "transformer.blocks.0.attn1.to_q.lora_B.default.weight",
          "transformer.blocks.0.attn1.to_q.alpha", 0 },
        { "lora_unet_blocks_1_self_attn_q.lora_down.weight",
          "lora_unet_blocks_1_self_attn_q.lora_up.weight",
          "lora_unet_blocks_1_self_attn_q.alpha", 1 },
        { "base_model.model.blocks.0.self_attn.q.lora.down.weight",
          "base_model.model.blocks.0.self_attn.q.lora.up.weight",
          "base_model.model.blocks.0.self_attn.q.alpha", 0 },
#define PAIR(module, a, b, block) \
    { module a ".weight", module b ".weight", module ".alpha", block }
        PAIR("lora_unet__blocks_0_self_attn_q", ".lora_down", ".lora_up", 0),
        PAIR("lora_unet_blocks_1.self_attn.q", ".lora_down", ".lora_up", 1),
        PAIR("transformer.blocks.0.attn1.to_q", ".lora_A.style",
             ".lora_B.style", 0),
        PAIR("transformer_2.blocks.1.attn1.to_q", ".lora_A", ".lora_B", 1),
        PAIR("unet.blocks.0.attn1.to_q", ".lora_A", ".lora_B", 0),
        PAIR("dit.blocks.0.self_attn.q", ".lora_A", ".lora_B", 0),
        PAIR("base_model.model.diffusion_model.blocks.0.self_attn.q",
             ".lora_A", ".lora_B", 0),
        PAIR("base_model.model.model.blocks.1.self_attn.q", ".lora_A",
             ".lora_B", 1),
        PAIR("lora_transformer_blocks_0_attn1_to_q", ".lora_down", ".lora_up",
             0),
        PAIR("lycoris_blocks_0_self_attn_q", ".lora_down", ".lora_up", 0),
        PAIR("pipe.dit.blocks.0.self_attn.q", "_lora.down", "_lora.up", 0),
    };
    const int n = (int)(sizeof(c) / sizeof(*c));
    int ret;
    WanModel *base = open_with(NULL, &ret);

    CHECK(ret == 0);
    for (int i = 0; i < n; i++) {
        for (int alpha = 0; alpha < 2; alpha++) {
            const Entry e[] = { { c[i].a, 4, 96, NULL, 0 },
                                { c[i].b, 96, 4, NULL, 0 },
                                { c[i].alpha, 0, 0, NULL, 0 } };
            char list[400];
            WanModel *m;

            snprintf(list, sizeof(list), "%s=0.5",
                     write_file("one.safetensors", e, 2 + alpha));
            m = open_with(list, &ret);
            if (!CHECKF(ret == 0, "%s: %s", c[i].a, last))
                continue;
            const int k = c[i].block;
            const double err = product_error(
                &m->dit.blocks[k].self_attn.q.weight,
                &base->dit.blocks[k].self_attn.q.weight, c[i].a, c[i].b, 4,
                0.5 * (alpha ? 1 / 4. : 1));
            CHECKF(err < 1e-7, "%s: off by %g", c[i].a, err);
            CHECKF(!*last, "%s", last);         // nothing is left over
            /* The other block is the file's own memory still. */
            CHECK(!memcmp(m->dit.blocks[!k].self_attn.q.weight.data,
                          base->dit.blocks[!k].self_attn.q.weight.data,
                          96 * 96 * 4));
            wan_model_close(&m);
        }
    }
    wan_model_close(&base);
}

/* What ranks compare: one value of a file makes another sum. */
TEST(sum)
{
    uint64_t sums[3];
    int ret;

    for (int i = 0; i < 3; i++) {
        const Entry e[] = {
            { "diffusion_model.blocks.0.self_attn.q.lora_down.weight", 4, 96,
              NULL, 0 },
            { "diffusion_model.blocks.0.self_attn.q.lora_up.weight", 96, 4,
              NULL, 0 },
            { "diffusion_model.blocks.0.self_attn.q.alpha", 0, 0, NULL, i + 1 },
        };
        WanModel *m = open_with(i ? WRITE("sum.safetensors", e) : NULL, &ret);

        if (!CHECKF(ret == 0, "%s", last))
            return;
        sums[i] = m->lora_sum;
        wan_model_close(&m);
    }
    CHECK(!sums[0] && sums[1] && sums[2] && sums[1] != sums[2]);
}

/* Whole differences of gains, biases, tables and the patch convolution. */
TEST(differences)
{
    static const Entry e[] = {
        { "diffusion_model.blocks.0.norm3.diff", 96, 0, NULL, 0 },
        { "diffusion_model.head.head.diff_b", 64, 0, NULL, 0 },
        { "diffusion_model.blocks.1.modulation.diff_m", 6, 96, NULL, 0 },
        { "diffusion_model.patch_embedding.lora_A.weight", 2, 64, NULL, 0 },
        { "diffusion_model.patch_embedding.lora_B.weight", 96, 2, NULL, 0 },
    };
    int ret;
    WanModel *base = open_with(NULL, &ret);
    WanModel *m = open_with(WRITE("diff.safetensors", e), &ret);

    if (!CHECKF(ret == 0, "%s", last))
        return;
    const struct { const WanTensor *now, *was; } t[] = {
        { &m->dit.blocks[0].norm3.weight, &base->dit.blocks[0].norm3.weight },
        { &m->dit.head.head.bias, &base->dit.head.head.bias },
        { &m->dit.blocks[1].modulation, &base->dit.blocks[1].modulation },
    };
    for (int k = 0; k < 3; k++)
        for (int64_t i = 0; i < wan_count(t[k].now); i++) {
            const double want = (double)((float *)t[k].was->data)[i] +
                                value(e[k].name, (int)i);
            if (!CHECKF(fabs(((float *)t[k].now->data)[i] - want) < 1e-6, "%s",
                        e[k].name))
                break;
        }
    CHECK(product_error(&m->dit.patch_embedding.weight,
                        &base->dit.patch_embedding.weight, e[3].name,
                        e[4].name, 2, 1) < 1e-6);
    wan_model_close(&m);
    wan_model_close(&base);
}

TEST(files_add)
{
    static const Entry e[] = { { "blocks.0.norm3.diff", 96, 0, NULL, 0 } };
    char list[700];
    int ret;
    WanModel *base = open_with(NULL, &ret), *m;

    snprintf(list, sizeof(list), "%s=2|%s=-0.5", WRITE("x.safetensors", e),
             WRITE("y.safetensors", e));
    m = open_with(list, &ret);
    if (!CHECKF(ret == 0, "%s", last))
        return;
    for (int i = 0; i < 96; i++) {
        const double was = ((float *)base->dit.blocks[0].norm3.weight.data)[i];

        CHECK(fabs(((float *)m->dit.blocks[0].norm3.weight.data)[i] - was -
                   1.5 * value(e[0].name, i)) < 1e-6);
    }
    wan_model_close(&m);
    wan_model_close(&base);
}

#define Q "transformer.blocks.0.attn1.to_q"
#define Q_A { Q ".lora_A.weight", 4, 96, NULL, 0 }
#define Q_B { Q ".lora_B.weight", 96, 4, NULL, 0 }
#define Q_ALPHA { Q ".alpha", 0, 0, NULL, 8 }
static const Entry q_pair[] = { Q_A, Q_B, Q_ALPHA };

/* That this file's change of block 0's q is B A times this. */
static void expect_factor(const char *lora, double factor, const char *what)
{
    int ret;
    WanModel *base = open_with(NULL, &ret), *m = open_with(lora, &ret);

    if (CHECKF(ret == 0, "%s: %s", what, last)) {
        const double err = product_error(&m->dit.blocks[0].self_attn.q.weight,
                                         &base->dit.blocks[0].self_attn.q
                                         .weight, q_pair[0].name,
                                         q_pair[1].name, 4, factor);
        CHECKF(err < 3e-7, "%s: off by %g", what, err);
    }
    wan_model_close(&m);
    wan_model_close(&base);
}

/* Files without alpha, whose factor stands elsewhere. */
TEST(factors_of_the_metadata)
{
#define DIFFUSERS(text) "{\"lora_adapter_metadata\":\"{" text "}\"}"
    static const struct { const char *metadata; double factor; } c[] = {
        { NULL, 1 },
        { "{\"format\":\"pt\"}", 1 },
        { DIFFUSERS("\\\"transformer.r\\\":4,\\\"transformer.lora_alpha\\\":8"),
          2 },
        { DIFFUSERS("\\\"r\\\":4,\\\"lora_alpha\\\":2"), 0.5 },
        { DIFFUSERS("\\\"transformer.lora_alpha\\\":8,"
                    "\\\"transformer.use_rslora\\\":true"), 4 },
        { DIFFUSERS("\\\"transformer.lora_alpha\\\":8,"
                    "\\\"transformer.alpha_pattern\\\":"
                    "{\\\"to_q\\\":12,\\\"q\\\":1}"), 3 },
        { DIFFUSERS("\\\"transformer.lora_alpha\\\":8,"
                    "\\\"transformer.alpha_pattern\\\":"
                    "{\\\"^to_q\\\":12,\\\"o_q\\\":1}"), 2 },
        { "{\"lora_alpha\":\"16\",\"r\":\"4\"}", 4 },
        { "{\"lora_alpha\":\"16\",\"rank\":\"4\"}", 4 },
    };

    for (size_t i = 0; i < sizeof(c) / sizeof(*c); i++) {
        expect_factor(write_with("f.safetensors", c[i].metadata, q_pair, 2),
                      c[i].factor, c[i].metadata ? c[i].metadata : "none");
        CHECKF(!*last, "%s", last);
    }
    /* the module's own is stronger */
    expect_factor(write_with("f.safetensors", c[2].metadata, q_pair, 3), 2,
                  "alpha");
    expect_factor(write_with("f.safetensors", c[3].metadata, q_pair, 3), 2,
                  "alpha");
}

TEST(factors_of_a_file_beside)
{
    write_text("adapter_config.json", "{\"r\":4,\"lora_alpha\":8}");
    expect_factor(write_with("f.safetensors", NULL, q_pair, 2), 2, "beside");
    write_text("adapter_config.json", "\xef\xbb\xbf{\"r\":4,\"lora_alpha\":8,"
               "\"use_rslora\":true}");
    expect_factor(write_with("f.safetensors", NULL, q_pair, 2), 4, "root");
    /* one of another file */
    write_text("adapter_config.json", "{\"r\":16,\"lora_alpha\":8}");
    expect_factor(write_with("f.safetensors", NULL, q_pair, 2), 1, "other");
    CHECKF(strstr(last, "adapter_config.json: is of rank 16"), "%s", last);
    remove_file("adapter_config.json");
}

/* alpha of any type of number. */
TEST(types_of_alpha)
{
    static const char *const types[] = { "F16", "BF16", "F64", "I64", "I32",
                                         "I16", "I8", "U8" };

    for (int i = 0; i < 8; i++) {
        const Entry e[] = { Q_A, Q_B,
                            { Q ".alpha", 0, 0, types[i], 8 } };

        expect_factor(write_file("f.safetensors", e, 3), 2, types[i]);
        CHECKF(!*last, "%s", last);
    }
}

/* now = was + factor * value(): largest error. */
static double sum_error(const WanTensor *now, const WanTensor *was,
                        const char *name, double factor)
{
    double worst = 0;

    for (int64_t i = 0; i < wan_count(now); i++)
        worst = fmax(worst, fabs(((float *)now->data)[i] -
                                 ((float *)was->data)[i] -
                                 factor * value(name, (int)i)));
    return worst;
}

/* Tables by their owner, biases of B, a difference beside B A. */
TEST(what_stands_beside)
{
    static const Entry e[] = {
        { "diffusion_model.blocks.1.diff_m", 6, 96, NULL, 0 },
        { "diffusion_model.head.diff_m", 2, 96, NULL, 0 },
        { "transformer.blocks.0.scale_shift_table.diff", 6, 96, NULL, 0 },
        { Q ".lora_B.bias", 96, 0, NULL, 0 },
        { "transformer.blocks.1.ffn.net.2.lora_B.style.bias", 96, 0, NULL, 0 },
        { "transformer.blocks.1.ffn.net.2.lora_A.style.weight", 2, 128, NULL,
          0 },
        { "transformer.blocks.1.ffn.net.2.lora_B.style.weight", 96, 2, NULL,
          0 },
        { Q ".diff", 96, 96, NULL, 0 },
        Q_A, Q_B, Q_ALPHA,
    };
    char list[400];
    int ret;
    WanModel *base = open_with(NULL, &ret), *m;

    snprintf(list, sizeof(list), "%s=0.5", WRITE("b.safetensors", e));
    m = open_with(list, &ret);
    if (!CHECKF(ret == 0 && !*last, "%s", last))
        return;
    const WanDit *a = &m->dit, *b = &base->dit;
    const struct { const WanTensor *now, *was; double factor; } t[] = {
        { &a->blocks[1].modulation, &b->blocks[1].modulation, 0.5 },
        { &a->head.modulation, &b->head.modulation, 0.5 },
        { &a->blocks[0].modulation, &b->blocks[0].modulation, 0.5 },
        { &a->blocks[0].self_attn.q.bias, &b->blocks[0].self_attn.q.bias, 1 },
        { &a->blocks[1].ffn[1].bias, &b->blocks[1].ffn[1].bias, 0.5 },
    };
    for (int i = 0; i < 5; i++) {
        const double err = sum_error(t[i].now, t[i].was, e[i].name,
                                     t[i].factor);
        CHECKF(err < 3e-7, "%s: off by %g", e[i].name, err);
    }
    /* both of one module: the sum's rest is B A's */
    WanTensor *q = &base->dit.blocks[0].self_attn.q.weight;
    float *sum = malloc(96 * 96 * sizeof(*sum));
    for (int i = 0; i < 96 * 96; i++)
        sum[i] = (float)(((float *)q->data)[i] + 0.5 * value(Q ".diff", i));
    const WanTensor both = wan_tensor_of(sum, WAN_F32, 96, 96);
    CHECK(product_error(&m->dit.blocks[0].self_attn.q.weight, &both,
                        q_pair[0].name, q_pair[1].name, 4, 0.5 * 2) < 3e-7);
    free(sum);
    wan_model_close(&m);
    wan_model_close(&base);
}

/* Of a file for Wan 2.2's two experts the first one's part is used. */
TEST(two_experts)
{
    static const Entry e[] = {
        Q_A, Q_B,
        { "transformer_2.blocks.0.attn1.to_q.lora_A.weight", 4, 96, NULL, 0 },
        { "transformer_2.blocks.0.attn1.to_q.lora_B.weight", 96, 4, NULL, 0 },
    };

    expect_factor(WRITE("two.safetensors", e), 1, "two");
    CHECKF(strstr(last, "2 of 4 tensors were not used"), "%s", last);
}

#define SECOND_A { "transformer_2.blocks.0.attn1.to_q.lora_A.weight", 4, 96, \
                   NULL, 0 }
#define SECOND_B { "transformer_2.blocks.0.attn1.to_q.lora_B.weight", 96, 4, \
                   NULL, 0 }

/* A pair of tiny/wan-t2v, twice. */
static WanModel *open_pair(const char *lora, int *ret)
{
    static const char *const link[] = { "a_high_noise.safetensors",
                                        "a_low_noise.safetensors",
                                        "config.json" };
    static char path[PATH_MAX];
    const char *rest = golden_path("tiny/wan-t2v");
    char target[PATH_MAX + 64], part[PATH_MAX];
    WanModelParams p;
    WanModel *m;

    snprintf(part, sizeof(part), "%s", rest);
    for (int i = 0; i < 3; i++) {
        snprintf(target, sizeof(target), "%s/%s", part, i < 2 ?
                 "diffusion_pytorch_model.safetensors" : "config.json");
        snprintf(path, sizeof(path), "%s/%s", folder(), link[i]);
        unlink(path);
        if (symlink(target, path) < 0)
            exit(1);
    }
    snprintf(path, sizeof(path), "%s/%s", folder(), link[0]);
    *last = *said = 0;
    wan_model_params_default(&p);
    p.path = path;
    p.text_encoder = p.vae = p.tokenizer = part;
    p.lora = lora;
    p.log = keep;
    *ret = wan_model_open(&m, &p);
    return m;
}

/* By what a file says: which of two experts is changed, and by what. */
TEST(each_expert)
{
    static const Entry both[] = { Q_A, Q_B, SECOND_A, SECOND_B };
    static const Entry second[] = { SECOND_A, SECOND_B };
    char list[8][700];
    const struct { const char *list; int high, low; const char *said; } c[] = {
        { list[0], 1, 1, "for both experts: no name tells" },
        { list[1], 1, 0, "for the high-noise expert, as it was asked for" },
        { list[2], 0, 1, "for the low-noise expert, as it was asked for" },
        { list[3], 0, 1, "for the low-noise expert, by its name" },
        { list[4], 1, 0, "for the high-noise expert, as it was asked for" },
        { list[5], 1, 2, "a part for each expert, by its tensors' names" },
        { list[6], 0, 2, "for the low-noise expert, by its tensors' names" },
    };
    int ret;
    WanModel *base = open_with(NULL, &ret), *m;
    const WanTensor *was = &base->dit.blocks[0].self_attn.q.weight;

    snprintf(list[0], 700, "%s=1", write_file("one.safetensors", q_pair, 2));
    snprintf(list[1], 700, "%s/one.safetensors=1@high", folder());
    snprintf(list[2], 700, "%s/one.safetensors@low", folder());
    snprintf(list[3], 700, "%s", write_file("x_low_noise.safetensors", q_pair,
                                            2));
    snprintf(list[4], 700, "%s/x_low_noise.safetensors@high", folder());
    snprintf(list[5], 700, "%s", WRITE("both.safetensors", both));
    snprintf(list[6], 700, "%s", WRITE("second.safetensors", second));
    for (size_t i = 0; i < sizeof(c) / sizeof(*c); i++) {
        m = open_pair(c[i].list, &ret);
        if (!CHECKF(ret == 0 && !*last, "%s: %s", c[i].list, last))
            continue;
        CHECKF(strstr(told, c[i].said), "'%s' is not in: %s", c[i].said, told);
        for (int k = 0; k < 2; k++) {
            const int by = k ? c[i].low : c[i].high;
            const Entry *e = by > 1 ? second : q_pair;
            const double err = product_error(
                &wan_model_dit(m, k)->blocks[0].self_attn.q.weight, was,
                e[0].name, e[1].name, 4, by ? 1 : 0);

            CHECKF(err < 1e-7, "%s, expert %d: off by %g", c[i].list, k, err);
        }
        wan_model_close(&m);
    }
    wan_model_close(&base);
    m = open_with(list[2], &ret);
    CHECKF(ret == WAN_ERR(EINVAL) && strstr(last, "the model has no two"),
           "%s", last);
}

TEST(folders_and_names)
{
    static const char *const files[] = { "adapter_model.safetensors",
                                         "pytorch_lora_weights.safetensors" };
    char list[700];

    for (int i = 0; i < 2; i++) {
        write_file(files[i], q_pair, 2);
        expect_factor(folder(), 1, files[i]);
        remove_file(files[i]);
    }
    /* a name with '=', with and without a strength */
    expect_factor(write_file("a=b.safetensors", q_pair, 2), 1, "a=b");
    expect_factor(write_file("a=2", q_pair, 2), 1, "a=2");
    snprintf(list, sizeof(list), "%s=0.5",
             write_file("a=b.safetensors", q_pair, 2));
    expect_factor(list, 0.5, "a=b=0.5");
}

/* A file of rank R for the second layer of a feed-forward, all zeros. */
static const char *write_rank(int rank)
{
    static char path[300];
    char header[1000];
    const char *module = "diffusion_model.blocks.0.ffn.2";
    const uint64_t n = snprintf(header, sizeof(header),
        "{\"%s.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[%d,128],"
        "\"data_offsets\":[0,%lld]},\"%s.lora_B.weight\":{\"dtype\":\"F32\","
        "\"shape\":[96,%d],\"data_offsets\":[%lld,%lld]}}", module, rank,
        512ll * rank, module, rank, 512ll * rank, 896ll * rank);
    FILE *f;

    snprintf(path, sizeof(path), "%s/rank.safetensors", folder());
    if (!(f = fopen(path, "wb")) || fwrite(&n, 8, 1, f) != 1 ||
        fwrite(header, 1, n, f) != n || fflush(f) ||
        ftruncate(fileno(f), (off_t)(8 + n + 896ll * rank)) || fclose(f))
        exit(1);
    return path;
}

TEST(merging_is_interrupted)
{
    int ret, plain, asked;
    WanModel *m = open_with(NULL, &ret);

    plain = polls;
    wan_model_close(&m);
    m = open_with(write_rank(8192), &ret);
    CHECKF(ret == 0, "%s", last);
    asked = polls;
    CHECKF(plain > 100 && asked == plain + 2, "%d and %d", plain, asked);
    wan_model_close(&m);
    for (stop_at = 1; stop_at <= asked; stop_at += 9) {
        m = open_with(write_rank(8192), &ret);
        CHECKF(ret == WAN_CANCELLED && !m && polls == stop_at, "%d of %d: %s",
               stop_at, asked, wan_strerror(ret));
        wan_model_close(&m);
    }
    stop_at = 0;
}

static void refused(const char *list, int error, const char *words)
{
    int ret;
    WanModel *m = open_with(list, &ret);

    CHECKF(ret == error && !m, "%s: %s", list, wan_strerror(ret));
    CHECKF(strstr(last, words), "'%s' in '%s'", words, last);
    wan_model_close(&m);
}

TEST(what_is_refused)
{
    static const Entry other[] = {
        { "unet.down.0.lora_A.weight", 4, 4, NULL, 0 },
        { "unet.down.0.lora_B.weight", 4, 4, NULL, 0 },
    };
    static const Entry loha[] = {
        { "blocks.0.self_attn.q.hada_w1_a", 4, 4, NULL, 0 },
    };
    static const Entry mid[] = { Q_A, Q_B,
                                 { Q ".lora_mid.weight", 4, 4, NULL, 0 } };
    static const Entry whole[] = { { Q ".lora_A.weight", 4, 96, "I8", 0 },
                                   Q_B };
    static const Entry nan[] = { Q_A, Q_B,
                                 { Q ".alpha", 0, 0, NULL, NAN } };
    static const Entry half[] = { { "blocks.0.self_attn.q.lora_A.weight", 4,
                                    96, NULL, 0 } };
    char list[400];

    refused("/nonexistent.safetensors", WAN_ERR(ENOENT), "nonexistent");
    refused(WRITE("o.safetensors", other), WAN_INVALIDDATA, "none of its 2");
    refused(WRITE("l.safetensors", loha), WAN_ERR(ENOSYS), "hada_w1_a");
    refused(WRITE("h.safetensors", half), WAN_INVALIDDATA, "none of its 1");
    refused(WRITE("mid.safetensors", mid), WAN_ERR(ENOSYS), "lora_mid");
    refused(WRITE("i8.safetensors", whole), WAN_INVALIDDATA, "i8.safetensors: "
            "tensor " Q ".lora_A.weight: expected F32");
    refused(WRITE("nan.safetensors", nan), WAN_INVALIDDATA, Q ".alpha");
    refused(write_rank(4000000), WAN_INVALIDDATA, "rank 4000000");
    refused(folder(), WAN_ERR(ENOENT), "adapter_model.safetensors");
    refused(write_with("p.safetensors", DIFFUSERS("\\\"lora_alpha\\\":8,"
            "\\\"alpha_pattern\\\":{\\\".*_q\\\":1}"), q_pair, 2),
            WAN_ERR(ENOSYS), "alpha_pattern '.*_q'");
    refused(write_with("p.safetensors", DIFFUSERS("\\\"lora_alpha\\\":[]"),
            q_pair, 2), WAN_INVALIDDATA, "lora_alpha");
    snprintf(list, sizeof(list), "%s=much", WRITE("o.safetensors", other));
    refused(list, WAN_ERR(EINVAL), "much");
    refused("=1", WAN_ERR(EINVAL), "empty");
    refused("a|", WAN_ERR(ENOENT), "a");
}

/* What was trained for another width is skipped, the rest is used. */
TEST(misfits_are_skipped)
{
    static const Entry e[] = {
        { "blocks.0.norm3.diff", 96, 0, NULL, 0 },
        { "blocks.0.self_attn.q.lora_A.weight", 4, 95, NULL, 0 },
        { "blocks.0.self_attn.q.lora_B.weight", 96, 4, NULL, 0 },
    };
    int ret;
    WanModel *m = open_with(WRITE("m.safetensors", e), &ret);

    CHECKF(ret == 0, "%s", last);
    CHECKF(strstr(last, "2 of 3 tensors were not used"), "%s", last);
    wan_model_close(&m);
}

int main(void)
{
    char command[300];

    RUN(every_spelling);
    RUN(sum);
    RUN(differences);
    RUN(files_add);
    RUN(factors_of_the_metadata);
    RUN(factors_of_a_file_beside);
    RUN(types_of_alpha);
    RUN(what_stands_beside);
    RUN(two_experts);
    RUN(each_expert);
    RUN(folders_and_names);
    RUN(merging_is_interrupted);
    RUN(what_is_refused);
    RUN(misfits_are_skipped);
    snprintf(command, sizeof(command), "rm -rf '%s'", folder());
    return system(command) | test_end();
}
