/*
 * LoRA files: every way to name a module, what is added, what is refused.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <unistd.h>

#include "golden.h"
#include "model.h"
#include "test.h"

static char last[1024];         // the last warning or error

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level <= WAN_LOG_WARNING)
        snprintf(last, sizeof(last), "%s", line);
}

static WanModel *open_with(const char *lora, int *ret)
{
    WanModelParams p;
    WanModel *m;

    last[0] = 0;
    wan_model_params_default(&p);
    p.path = golden_path("tiny/wan-t2v");
    p.lora = lora;
    p.log = keep;
    *ret = wan_model_open(&m, &p);
    return m;
}

/* --------------------------------------------------- files to try it with */

typedef struct Entry {
    const char *name;
    int rows, cols;             // cols 0: [rows]; both 0: a scalar
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

/* A safetensors file of these; alpha is 1 everywhere. Its path. */
static const char *write_file(const char *name, const Entry *e, int n)
{
    static char path[4][300];
    static int next;
    char *p = path[next++ % 4], header[8192];
    size_t at = snprintf(header, sizeof(header), "{"), bytes = 0;
    FILE *f;

    for (int i = 0; i < n; i++) {
        const int count = (e[i].rows ? e[i].rows : 1) *
                          (e[i].cols ? e[i].cols : 1);

        at += snprintf(header + at, sizeof(header) - at, "%s\"%s\":{\"dtype\":"
                       "\"F32\",\"shape\":[", i ? "," : "", e[i].name);
        if (e[i].rows)
            at += snprintf(header + at, sizeof(header) - at, "%d", e[i].rows);
        if (e[i].cols)
            at += snprintf(header + at, sizeof(header) - at, ",%d", e[i].cols);
        at += snprintf(header + at, sizeof(header) - at,
                       "],\"data_offsets\":[%zu,%zu]}", bytes,
                       bytes + 4 * count);
        bytes += 4 * count;
    }
    at += snprintf(header + at, sizeof(header) - at, "}");
    snprintf(p, 300, "%s/%s", folder(), name);
    if (!(f = fopen(p, "wb")))
        exit(1);
    const uint64_t size = at;
    fwrite(&size, 8, 1, f);
    fwrite(header, 1, at, f);
    for (int i = 0; i < n; i++) {
        const int count = (e[i].rows ? e[i].rows : 1) *
                          (e[i].cols ? e[i].cols : 1);

        for (int k = 0; k < count; k++) {
            const float v = e[i].rows ? value(e[i].name, k) : 1;
            fwrite(&v, 4, 1, f);
        }
    }
    fclose(f);
    return p;
}
#define WRITE(name, e) write_file((name), (e), (int)(sizeof(e) / sizeof(*(e))))

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
    };
    int ret;
    WanModel *base = open_with(NULL, &ret);

    CHECK(ret == 0);
    for (int i = 0; i < 5; i++) {
        for (int alpha = 0; alpha < 2; alpha++) {
            const Entry e[] = { { c[i].a, 4, 96 }, { c[i].b, 96, 4 },
                                { c[i].alpha, 0, 0 } };
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

/* Whole differences of gains, biases, tables and the patch convolution. */
TEST(differences)
{
    static const Entry e[] = {
        { "diffusion_model.blocks.0.norm3.diff", 96, 0 },
        { "diffusion_model.head.head.diff_b", 64, 0 },
        { "diffusion_model.blocks.1.modulation.diff_m", 6, 96 },
        { "diffusion_model.patch_embedding.lora_A.weight", 2, 64 },
        { "diffusion_model.patch_embedding.lora_B.weight", 96, 2 },
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
    static const Entry e[] = { { "blocks.0.norm3.diff", 96, 0 } };
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
    static const Entry other[] = { { "unet.down.0.lora_A.weight", 4, 4 },
                                   { "unet.down.0.lora_B.weight", 4, 4 } };
    static const Entry loha[] = { { "blocks.0.self_attn.q.hada_w1_a", 4, 4 } };
    static const Entry half[] = { { "blocks.0.self_attn.q.lora_A.weight", 4,
                                    96 } };
    char list[400];

    refused("/nonexistent.safetensors", WAN_ERR(ENOENT), "nonexistent");
    refused(WRITE("o.safetensors", other), WAN_INVALIDDATA, "none of its 2");
    refused(WRITE("l.safetensors", loha), WAN_ERR(ENOSYS), "hada_w1_a");
    refused(WRITE("h.safetensors", half), WAN_INVALIDDATA, "none of its 1");
    snprintf(list, sizeof(list), "%s=much", WRITE("o.safetensors", other));
    refused(list, WAN_ERR(EINVAL), "much");
    refused("=1", WAN_ERR(EINVAL), "empty");
    refused("a|", WAN_ERR(ENOENT), "a");
}

/* What was trained for another width is skipped, the rest is used. */
TEST(misfits_are_skipped)
{
    static const Entry e[] = {
        { "blocks.0.norm3.diff", 96, 0 },
        { "blocks.0.self_attn.q.lora_A.weight", 4, 95 },
        { "blocks.0.self_attn.q.lora_B.weight", 96, 4 },
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
    RUN(differences);
    RUN(files_add);
    RUN(what_is_refused);
    RUN(misfits_are_skipped);
    snprintf(command, sizeof(command), "rm -rf '%s'", folder());
    return system(command) | test_end();
}
