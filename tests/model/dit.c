/*
 * The diffusion transformer against the official code, stage by stage.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The official float32 run is 1e-7 to 1e-6 from the truth (relative L2). The
 * limit is below what small mistakes cost: a float32 time sinusoid 2.4e-6, an
 * eps of 1e-5 5.7e-6, the wrong GELU 5e-6.
 */

#include "model_test.h"

#define LIMIT 2e-6
#define TI2V_STAGES 10
#define VACE_STAGES 13          // with those of the side stack, and its hints

/* A case's timestep, or that of each latent frame of n tokens; how many spans
 * that is. */
static int spans(WanDitSpan *span, const cJSON *t, int64_t n)
{
    const cJSON *one;
    int nb = 0;

    if (!cJSON_IsArray(t)) {
        span[0] = (WanDitSpan){ t->valuedouble, 0 };
        return 1;
    }
    cJSON_ArrayForEach(one, t) {
        if (!nb || one->valuedouble != span[nb - 1].t)
            span[nb++] = (WanDitSpan){ one->valuedouble, 0 };
        span[nb - 1].tokens += n;
    }
    return nb;
}

/* The velocity of case i of g: [[f, h, w], tokens of text, timestep], of two
 * experts with "high" or "low" in front. */
static WanTensor forward(WanDev *d, const WanModel *m, Golden *g, int i)
{
    cJSON *cases = golden_meta(g, "cases");
    const cJSON *grid = cJSON_GetArrayItem(cases, i)->child;
    const char *expert = cJSON_GetStringValue(grid);
    const WanDit *dit = wan_model_dit(m, expert && !strcmp(expert, "low"));
    WanDitSpan span[WAN_DIT_SPANS];
    char name[64];
    WanDitContext text, image;
    WanDitInput in = { .dit = dit };
    WanDitVace vace;
    WanDitTime time;
    WanRope rope;

    snprintf(name, sizeof(name), "case%d.in.x", i);
    const GoldenTensor *x = golden_find(g, name);
    snprintf(name, sizeof(name), "case%d.in.context", i);
    const GoldenTensor *context = golden_find(g, name);
    snprintf(name, sizeof(name), "case%d.in.y", i);
    const GoldenTensor *y = golden_look(g, name);
    snprintf(name, sizeof(name), "case%d.in.clip_fea", i);
    const GoldenTensor *clip = golden_look(g, name);
    grid = expert ? grid->next : grid;
    snprintf(name, sizeof(name), "case%d.in.vace_context", i);
    const GoldenTensor *beside = golden_look(g, name);
    CHECK(grid->child->valueint == x->dim[1]);

    WanTensor v = wan_tmp(d, x->dim[0], x->dim[1], x->dim[2], x->dim[3]);
    WanTensor xt = wan_tmp(d, dit->config.in_dim, x->dim[1], x->dim[2],
                           x->dim[3]);
    WanTensor noise = wan_slice(&xt, 0, x->dim[0]);
    WanTensor ctx = wan_tmp(d, context->dim[0], context->dim[1]);
    wan_op_upload(d, &noise, x->data);
    if (y) {
        WanTensor rest = wan_slice(&xt, x->dim[0], y->dim[0]);

        wan_op_upload(d, &rest, y->data);
    }
    if (clip) {
        WanTensor tokens = wan_tmp(d, clip->dim[0] * clip->dim[1],
                                   clip->dim[2]);

        wan_op_upload(d, &tokens, clip->data);
        wan_dit_image(d, &image, dit, &tokens);
    }
    if (beside) {
        vace.context = wan_tmp(d, beside->dim[0], x->dim[1], x->dim[2],
                               x->dim[3]);
        vace.scale = wan_tmp(d, m->dit.config.dim);
        wan_op_upload(d, &vace.context, beside->data);
        wan_op_fill(d, &vace.scale,
                    (float)grid->next->next->next->valuedouble);
        in.vace = &vace;
        in.nb_vace = 1;
    }
    wan_op_upload(d, &ctx, context->data);
    wan_dit_text(d, &text, dit, &ctx);
    wan_dit_times(d, &time, dit,
                  spans(span, grid->next->next,
                        x->dim[2] / 2 * (x->dim[3] / 2)), span);
    wan_dit_rope(d, &rope, &dit->config, (int)x->dim[1],
                 (int)x->dim[2] / 2, (int)x->dim[3] / 2);
    in.x = &xt;
    in.time = &time;
    in.text = &text;
    in.image = clip ? &image : NULL;
    in.rope = &rope;
    wan_dit_forward(d, &v, 1, &in);
    CHECK(!wan_dev_error(d));
    cJSON_Delete(cases);
    return v;
}

/* All cases of golden whose outputs out has; the worst error. */
static double forward_cases(const char *device, Golden *g, Golden *out,
                          const char *folder, Taps *taps)
{
    WanModel *m = open_tiny(folder, device);
    WanDev *d = open_dev(device);
    const double limit = limit_on(device, LIMIT);
    double worst = 0;
    int seen = 0;

    for (int i = 0; i < 3; i++) {
        const WanMark mark = wan_mark(d);
        const GoldenTensor *want;
        char name[64];

        snprintf(name, sizeof(name), "case%d.out", i);
        if (!(want = golden_look(out, name)))
            continue;
        d->tap = taps && !i ? check_tap : NULL;
        d->tap_opaque = taps;
        const WanTensor v = forward(d, m, g, i);
        const double err = tensor_rel_l2(d, &v, want->data, want->n);

        CHECKF(err <= limit, "%s: relative L2 %.2e, limit %.1e", name, err,
               limit);
        wan_release(d, mark);
        worst = fmax(worst, err);
        seen++;
    }
    CHECK(seen);
    wan_dev_close(&d);
    wan_model_close(&m);
    return worst;
}

static void forward_all(const char *device, const char *golden,
                        const char *folder, int stages)
{
    Golden *g = golden_open(golden);
    Taps taps = { g, "case0.", limit_on(device, LIMIT), 0, 0, 0 };

    forward_cases(device, g, g, folder, &taps);
    CHECKF(taps.seen == stages, "%d stages seen of %d", taps.seen, stages);
    printf("# %s: worst stage %.2e\n", device, taps.worst);
    golden_close(&g);
}

TEST(head48_ref) { forward_all("ref", "dit-t2v.safetensors", "tiny/wan-t2v", 15); }
TEST(head48_cpu) { forward_all(dut, "dit-t2v.safetensors", "tiny/wan-t2v", 15); }
TEST(head48_diffusers)
{
    forward_all(dut, "dit-t2v.safetensors", "tiny/wan-t2v-diffusers", 15);
}
TEST(head128_shards_ref)
{
    forward_all("ref", "dit-t2v-hd128.safetensors", "tiny/wan-t2v-hd128", 15);
}
TEST(head128_shards_cpu)
{
    forward_all(dut, "dit-t2v-hd128.safetensors", "tiny/wan-t2v-hd128", 15);
}

TEST(image_ref) { forward_all("ref", "dit-i2v.safetensors", "tiny/wan-i2v", 16); }
TEST(image_cpu) { forward_all(dut, "dit-i2v.safetensors", "tiny/wan-i2v", 16); }
TEST(two_images_cpu)
{
    forward_all(dut, "dit-flf2v.safetensors", "tiny/wan-flf2v", 15);
}

/* Either expert, by its case's word. */
TEST(experts_ref)
{
    forward_all("ref", "dit-wan22-t2v-a14b.safetensors", "tiny/wan22-t2v-a14b",
                1);
    forward_all("ref", "dit-wan22-i2v-a14b.safetensors", "tiny/wan22-i2v-a14b",
                1);
}
TEST(experts_cpu)
{
    forward_all(dut, "dit-wan22-t2v-a14b.safetensors", "tiny/wan22-t2v-a14b",
                1);
    forward_all(dut, "dit-wan22-i2v-a14b.safetensors", "tiny/wan22-i2v-a14b",
                1);
    forward_all(dut, "dit-wan22-i2v-a14b.safetensors",
                "tiny/wan22-i2v-a14b-diffusers", 1);
}

/* A time for each latent frame. */
TEST(times_ref)
{
    forward_all("ref", "dit-wan22-ti2v-5b.safetensors", "tiny/wan22-ti2v-5b",
                TI2V_STAGES);
}
TEST(times_cpu)
{
    forward_all(dut, "dit-wan22-ti2v-5b.safetensors", "tiny/wan22-ti2v-5b",
                TI2V_STAGES);
}

#define VACE "dit-vace.safetensors"
TEST(vace_ref) { forward_all("ref", VACE, "tiny/wan-vace", VACE_STAGES); }
TEST(vace_cpu) { forward_all(dut, VACE, "tiny/wan-vace", VACE_STAGES); }
TEST(vace_diffusers)
{
    forward_all(dut, VACE, "tiny/wan-vace-diffusers", VACE_STAGES);
}

/* Quantised files: what their numbers, dequantised, give by the same code in
 * float64. */
static void forward_gguf(const char *device, const char *golden,
                         const char *folder, const char *file)
{
    char path[128];
    Golden *g = golden_open(golden), *out;

    snprintf(path, sizeof(path), "tiny/gguf/%s/out.safetensors", folder);
    out = golden_open(path);
    snprintf(path, sizeof(path), "tiny/gguf/%s/%s", folder, file);
    printf("# %s: worst output %.2e\n", device,
           forward_cases(device, g, out, path, NULL));
    golden_close(&out);
    golden_close(&g);
}

#define Q8_0 "dit-t2v.safetensors", "wan-t2v-q8_0", "wan2.1-t2v-Q8_0.gguf"
#define Q4_K "dit-t2v-hd128.safetensors", "wan-t2v-hd128-q4_k_m", \
             "wan2.1-t2v-hd128-Q4_K_M.gguf"
#define SDCPP "dit-t2v.safetensors", "wan-t2v-sdcpp", \
              "wan2.1-t2v-sdcpp.gguf"

TEST(gguf_q8_0_ref) { forward_gguf("ref", Q8_0); }
TEST(gguf_q8_0_cpu) { forward_gguf(dut, Q8_0); }
TEST(gguf_q4_k_ref) { forward_gguf("ref", Q4_K); }
TEST(gguf_q4_k_cpu) { forward_gguf(dut, Q4_K); }
TEST(gguf_sdcpp_cpu) { forward_gguf(dut, SDCPP); }

/* Taps of a run, one behind the other. */
typedef struct Record {
    float *v;
    int64_t n, at;              // at: held against, in the second run
    int taps, differ;
} Record;

static void record_tap(void *opaque, const char *name, const WanTensor *t)
{
    Record *r = opaque;
    const int64_t rows = wan_rows(t), cols = wan_cols(t);

    (void)name;
    r->taps++;
    r->v = realloc(r->v, (r->n + rows * cols) * sizeof(*r->v));
    for (int64_t i = 0; i < rows; i++, r->n += cols)
        memcpy(r->v + r->n, wan_row(t, i), cols * sizeof(*r->v));
}

static void compare_tap(void *opaque, const char *name, const WanTensor *t)
{
    Record *r = opaque;
    const int64_t rows = wan_rows(t), cols = wan_cols(t);

    r->taps--;
    for (int64_t i = 0; i < rows; i++, r->at += cols)
        if (r->at + cols > r->n ||
            memcmp(r->v + r->at, wan_row(t, i), cols * sizeof(*r->v))) {
            CHECKF(r->differ++, "%s differs", name);
            return;
        }
}

/* Blocks against the same numbers in F16: every stage, bit for bit. */
TEST(gguf_stages)
{
    static const char *const path[] = {
        "tiny/gguf/wan-t2v-q8_0/plain",
        "tiny/gguf/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf",
    };
    Golden *g = golden_open("dit-t2v.safetensors");
    WanDev *d = open_dev("cpu");
    Record r = { 0 };

    d->tap_opaque = &r;
    for (int i = 0; i < 2; i++) {
        WanModel *m = open_tiny(path[i], "cpu");
        const WanMark mark = wan_mark(d);

        CHECK(m->dit.blocks[0].ffn[0].weight.type ==
              (i ? WAN_Q8_0 : WAN_F16));
        d->tap = i ? compare_tap : record_tap;
        forward(d, m, g, 0);
        wan_release(d, mark);
        wan_model_close(&m);
    }
    CHECK(r.n && r.at == r.n && !r.taps);
    free(r.v);
    wan_dev_close(&d);
    golden_close(&g);
}

/* Two branches side by side give what each gives alone, bit for bit. */
static void side_by_side(const char *golden, const char *folder)
{
    Golden *g = golden_open(golden);
    const GoldenTensor *beside = golden_look(g, "case0.in.vace_context");
    WanModel *m = open_tiny(folder, dut);
    WanDev *d = open_dev(dut);
    const GoldenTensor *x = golden_find(g, "case0.in.x");
    WanTensor xt = wan_tmp(d, x->dim[0], x->dim[1], x->dim[2], x->dim[3]);
    WanTensor alone[2], both[2];
    WanDitContext text[2];
    WanDitVace vace;
    WanDitTime time;
    WanRope rope;

    if (beside) {
        vace.context = wan_tmp(d, beside->dim[0], x->dim[1], x->dim[2],
                               x->dim[3]);
        vace.scale = wan_tmp(d, m->dit.config.dim);
        wan_op_upload(d, &vace.context, beside->data);
        wan_op_fill(d, &vace.scale, 0.7f);
    }

    for (int b = 0; b < 2; b++) {
        char name[32];

        snprintf(name, sizeof(name), "case%d.in.context", b);
        const GoldenTensor *c = golden_find(g, name);
        WanTensor ctx = wan_tmp(d, c->dim[0], c->dim[1]);

        alone[b] = wan_tmp_like(d, &xt);
        both[b] = wan_tmp_like(d, &xt);
        wan_op_upload(d, &ctx, c->data);
        wan_dit_text(d, &text[b], &m->dit, &ctx);
    }
    wan_op_upload(d, &xt, x->data);
    wan_dit_time(d, &time, &m->dit, 500);
    wan_dit_rope(d, &rope, &m->dit.config, (int)x->dim[1],
                 (int)x->dim[2] / 2, (int)x->dim[3] / 2);
    WanDitInput in = { .dit = &m->dit, .x = &xt, .time = &time, .rope = &rope,
                       .vace = &vace, .nb_vace = m->dit.config.nb_vace > 0 };

    for (int b = 0; b < 2; b++) {
        in.text = &text[b];
        wan_dit_forward(d, &alone[b], 1, &in);
    }
    in.text = text;
    wan_dit_forward(d, both, 2, &in);
    CHECK(!wan_dev_error(d));
    float *v[4] = { values_of(d, &alone[0]), values_of(d, &both[0]),
                    values_of(d, &alone[1]), values_of(d, &both[1]) };

    for (int b = 0; b < 2; b++)
        CHECKF(!memcmp(v[2 * b], v[2 * b + 1], x->n * sizeof(float)),
               "branch %d differs", b);
    CHECK(memcmp(v[0], v[2], x->n * sizeof(float)));
    for (int i = 0; i < 4; i++)
        free(v[i]);
    wan_dev_close(&d);
    wan_model_close(&m);
    golden_close(&g);
}

TEST(branches) { side_by_side("dit-t2v.safetensors", "tiny/wan-t2v"); }
TEST(vace_branches) { side_by_side("dit-vace.safetensors", "tiny/wan-vace"); }

/* The rotary embedding alone, for four head sizes. */
static void rope(const char *device)
{
    /* F32 on every device */
    const double rope_limit = strcmp(device, "ref") && strcmp(device, "cpu")
                              ? 8e-7 : 2e-7;
    Golden *g = golden_open("rope_time.safetensors");
    cJSON *cases = golden_meta(g, "cases"), *c;
    WanDev *d = open_dev(device);

    cJSON_ArrayForEach(c, cases) {
        const int hd = cJSON_GetObjectItem(c, "head_dim")->valueint;
        const int heads = cJSON_GetObjectItem(c, "heads")->valueint;
        const cJSON *grid = cJSON_GetObjectItem(c, "grid_fhw")->child;
        const WanDitConfig config = { .dim = hd * heads, .heads = heads };
        const WanMark mark = wan_mark(d);
        char name[32];
        WanRope r;

        snprintf(name, sizeof(name), "hd%d.in", hd);
        const GoldenTensor *in = golden_find(g, name);
        snprintf(name, sizeof(name), "hd%d.out", hd);
        const GoldenTensor *out = golden_find(g, name);
        WanTensor x = wan_tmp(d, in->n / (hd * heads), hd * heads);
        wan_op_upload(d, &x, in->data);
        wan_dit_rope(d, &r, &config, grid->valueint, grid->next->valueint,
                     grid->next->next->valueint);
        wan_op_rope(d, &x, &r);
        const double err = tensor_rel_l2(d, &x, out->data, out->n);
        CHECKF(!wan_dev_error(d) && err < rope_limit, "head size %d: %.2e", hd,
               err);
        wan_release(d, mark);
    }
    cJSON_Delete(cases);
    wan_dev_close(&d);
    golden_close(&g);
}

TEST(rope_ref) { rope("ref"); }
TEST(rope_cpu) { rope(dut); }

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN_REF(rope_ref);
    RUN(rope_cpu);
    RUN_REF(head48_ref);
    RUN(head48_cpu);
    RUN_ROUNDED(head48_cpu);
    RUN(head48_diffusers);
    RUN_REF(head128_shards_ref);
    RUN(head128_shards_cpu);
    RUN_ROUNDED(head128_shards_cpu);
    RUN_REF(image_ref);
    RUN(image_cpu);
    RUN_ROUNDED(image_cpu);
    RUN(two_images_cpu);
    RUN_REF(experts_ref);
    RUN(experts_cpu);
    RUN_REF(times_ref);
    RUN(times_cpu);
    RUN_ROUNDED(times_cpu);
    RUN_REF(vace_ref);
    RUN(vace_cpu);
    RUN_ROUNDED(vace_cpu);
    RUN(vace_diffusers);
    RUN_REF(gguf_q8_0_ref);
    RUN(gguf_q8_0_cpu);
    RUN_ROUNDED(gguf_q8_0_cpu);
    RUN_REF(gguf_q4_k_ref);
    RUN(gguf_q4_k_cpu);
    RUN_ROUNDED(gguf_q4_k_cpu);
    RUN(gguf_sdcpp_cpu);
    RUN_REF(gguf_stages);
    RUN(branches);
    RUN_ROUNDED(branches);
    RUN(vace_branches);
    return test_end();
}
