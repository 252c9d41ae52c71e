/*
 * Whole videos against the official generate(): text, noise, steps, guidance,
 * solver, decoding, through the public interface.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The official float32 run is 4e-6 (latents) and 7e-6 (video) from the truth;
 * 8-bit frames differ by at most one level.
 */

#include "model_test.h"

#define LIMIT 5e-5

typedef struct Seen {
    Golden *golden;
    int last_step;
    int images;
    double limit, start_limit;
    int steps, contexts, starts;    // stages that were held against a golden
    double worst;
} Seen;

static void check_stage(void *opaque, const char *name, const WanTensor *t)
{
    Seen *seen = opaque;
    const GoldenTensor *g = NULL;
    const float *want = NULL;
    double err, limit = seen->limit;

    if (!strncmp(name, "latents", 7) || !strncmp(name, "noise_pred", 10)) {
        const char *digits = strpbrk(name, "0123456789");
        char key[16];

        snprintf(key, sizeof(key), "%.*s", (int)(digits - name), name);
        if (!(g = golden_look(seen->golden, key)))
            return;
        /* Goldens hold all steps, or the last alone. */
        if (g->n > wan_count(t))
            want = g->data + atoi(digits) * wan_count(t);
        else if (atoi(digits) == seen->last_step)
            want = g->data;
        else
            return;
        CHECK(g->n >= wan_count(t));
        seen->steps++;
    } else if (!strncmp(name, "context", 7)) {
        if (!(g = golden_look(seen->golden, name)))
            return;
        CHECK(g->n == wan_count(t));
        want = g->data;
        seen->contexts++;
    } else if (!strcmp(name, "clip_fea") || !strcmp(name, "y_latent") ||
               !strcmp(name, "z_image") || !strcmp(name, "vace_context")) {
        g = golden_find(seen->golden, name);
        CHECK(g->n == wan_count(t));
        want = g->data;
        seen->images++;
    } else if (!strcmp(name, "z") || !strcmp(name, "x_start")) {
        g = golden_find(seen->golden, name);
        CHECK(g->n == wan_count(t));
        want = g->data;
        limit = seen->start_limit;
        seen->starts++;
    } else {
        return;
    }
    err = test_rel_l2(t->data, want, wan_count(t));
    CHECKF(err <= limit, "%s: relative L2 %.2e, limit %.1e", name, err, limit);
    if (err > seen->worst)
        seen->worst = err;
}

static void generate(const char *golden, const char *folder,
                     const char *device)
{
    Golden *g = golden_open(golden);
    cJSON *a = golden_meta(g, "arguments");
    WanModel *m = open_tiny(folder, device);
    const GoldenTensor *video = golden_look(g, "video");
    Seen seen = { .golden = g, .limit = limit_on(device, LIMIT),
                  .start_limit = limit_on(device, 4e-6) };
    const int vace = m->info.task == WAN_TASK_VACE;
    WanImage image[2] = { { 0 } };
    GoldenControl control = { 0 };
    GoldenVideo in = { 0 };
    WanRequest rq;
    WanPlan plan;
    WanJob *job;
    int ret, frame = 0;

    golden_images(image, g);
    golden_request(&rq, m, g, a, image);
    if (vace) {
        golden_control(&control, g, a);
        rq.controls = control.list;
        rq.nb_controls = 1;
    } else {
        golden_video(&in, &rq, g, a);
    }
    seen.last_step = rq.steps - 1 - in.first_step;
    const int64_t HW = (int64_t)rq.width * rq.height;
    float *planes = malloc(3 * HW * sizeof(*planes));
    float *all = calloc(3 * HW * rq.frames, sizeof(*all));
    int64_t off_by_more = 0, differ = 0;

    CHECK(wan_plan(&plan, m, &rq) == 0 && plan.work_bytes > 0);
    if (!CHECK(wan_job_open(&job, m, &rq) == 0))
        goto end;
    wan_job_tap(job, check_stage, &seen);
    while ((ret = wan_job_step(job, NULL)) >= 0) {
        WanImage img = {
            .size = sizeof(img), .format = WAN_PIX_GBRPF32, .width = rq.width,
            .height = rq.height,
            .data = { planes, planes + HW, planes + 2 * HW },
            .stride = { rq.width * 4, rq.width * 4, rq.width * 4 },
        };

        while ((ret = wan_job_frame(job, &img)) >= 0) {
            for (int c = 0; c < 3; c++)     // G, B, R
                for (int64_t p = 0; p < HW; p++)
                    all[((c + 1) % 3 * rq.frames + frame) * HW + p] =
                        planes[c * HW + p] * 2 - 1;
            frame++;
        }
        if (ret == WAN_EOF)
            break;
        CHECK(ret == WAN_ERR(EAGAIN));
    }
    CHECKF(ret == WAN_EOF, "ended with %s", wan_strerror(ret));
    CHECKF(frame == rq.frames, "%d frames of %d", frame, rq.frames);
    CHECK(wan_job_frame(job, &(WanImage){ 0 }) == WAN_EOF);
    CHECK(wan_job_step(job, NULL) == 0);
    CHECKF(seen.contexts == 2, "%d texts", seen.contexts);
    CHECKF(seen.images == (!rq.image ? vace : m->info.clip_dim ? 2 : 1),
           "%d images", seen.images);
    CHECKF(seen.steps >= 1, "%d steps", seen.steps);
    CHECKF(seen.starts == (rq.video ? 2 : 0), "%d starts", seen.starts);

    if (video) {
        const double err = test_rel_l2(all, video->data, video->n);

        CHECK(video->n == 3 * HW * frame);
        CHECKF(err <= seen.limit, "video: relative L2 %.2e, limit %.1e", err,
               seen.limit);
        printf("# %s on %s: stages %.2e, video %.2e\n", golden, device,
               seen.worst, err);
        for (int64_t i = 0; i < video->n; i++) {
            const int x = (int)((all[i] + 1) / 2 * 255);
            const int y = (int)((video->data[i] + 1) / 2 * 255);

            differ += x != y;
            off_by_more += abs(x - y) > 1;
        }
        CHECKF(seen.limit > 1e-3 || (!off_by_more && differ <= video->n / 200),
               "8 bit: %lld of %lld differ, %lld by more than 1",
               (long long)differ,
               (long long)video->n, (long long)off_by_more);
    }
    wan_job_close(&job);
end:
    free(planes);
    free(all);
    golden_control_free(&control);
    cJSON_Delete(a);
    wan_model_close(&m);
    golden_close(&g);
}

TEST(unipc4_ref) { generate("pipeline-t2v-unipc4.safetensors", "tiny/wan-t2v", "ref"); }
TEST(unipc4_cpu) { generate("pipeline-t2v-unipc4.safetensors", "tiny/wan-t2v", dut); }
TEST(unipc4_diffusers)
{
    generate("pipeline-t2v-unipc4.safetensors", "tiny/wan-t2v-diffusers", dut);
}
TEST(unipc10_cpu) { generate("pipeline-t2v-unipc10.safetensors", "tiny/wan-t2v", dut); }
TEST(dpm4_cpu) { generate("pipeline-t2v-dpm4.safetensors", "tiny/wan-t2v", dut); }
TEST(image_cpu) { generate("pipeline-t2v-image.safetensors", "tiny/wan-t2v", dut); }
TEST(head128_cpu) { generate("pipeline-t2v-hd128.safetensors", "tiny/wan-t2v-hd128", dut); }

TEST(image_unipc4_ref) { generate("pipeline-i2v-unipc4.safetensors", "tiny/wan-i2v", "ref"); }
TEST(image_unipc4_cpu) { generate("pipeline-i2v-unipc4.safetensors", "tiny/wan-i2v", dut); }
TEST(image_dpm6_cpu) { generate("pipeline-i2v-dpm6.safetensors", "tiny/wan-i2v", dut); }
TEST(two_images_cpu) { generate("pipeline-flf2v-unipc4.safetensors", "tiny/wan-flf2v", dut); }

/* ---------------------------------------------------- few-step families */

/* A run along fewstep-*.safetensors: the draws in their order, the estimate
 * or sample of each step. */
typedef struct Few {
    Golden *golden;
    const double *sigma;    // DMD, whose golden has clean estimates; else NULL
    float *x;               // what the network was run on, [16, T, h, w]
    double limit, worst;
    int noises, steps;
} Few;

/* [16, T, h, w] from t, which is frame-major if the run is. */
static void few_golden(float *dst, const float *t, const WanTensor *like,
                       int frame_major)
{
    const int64_t C = like->dim[0], T = like->dim[1];
    const int64_t hw = like->dim[2] * like->dim[3];

    for (int64_t c = 0; c < C; c++)
        for (int64_t f = 0; f < T; f++)
            memcpy(dst + (c * T + f) * hw,
                   t + (frame_major ? f * C + c : c * T + f) * hw,
                   hw * sizeof(*dst));
}

static void check_few(void *opaque, const char *name, const WanTensor *t)
{
    Few *f = opaque;
    const int dmd = f->sigma != NULL;
    const int64_t n = wan_count(t);
    const int step = strpbrk(name, "0123456789") ?
                     atoi(strpbrk(name, "0123456789")) : 0;
    const float *got = t->data;
    float *want = malloc(n * sizeof(*want)), *mine = NULL;
    char key[32];
    double err;

    if (!strncmp(name, "noise_pred", 10) && dmd) {
        mine = malloc(n * sizeof(*mine));
        for (int64_t i = 0; i < n; i++)
            mine[i] = f->x[i] - f->sigma[step] * got[i];
        got = mine;
        few_golden(want, golden_find(f->golden, "steps")->data + step * n, t,
                   1);
        f->steps++;
    } else if (!strncmp(name, "noise_pred", 10)) {
        goto end;
    } else if (!strncmp(name, "noise", 5)) {
        snprintf(key, sizeof(key), step ? "renoise.%d" : "noise", step - 1);
        few_golden(want, golden_find(f->golden, key)->data, t, dmd);
        f->noises++;
    } else if (!strncmp(name, "latents", 7) && !dmd) {
        memcpy(want, golden_find(f->golden, "steps")->data + step * n,
               n * sizeof(*want));
        f->steps++;
    } else if (!strcmp(name, "context")) {
        memcpy(want, golden_find(f->golden, name)->data, n * sizeof(*want));
    } else if (strncmp(name, "latents", 7)) {
        goto end;
    }
    if (!strcmp(name, "noise0") || !strncmp(name, "latents", 7)) {
        f->x = realloc(f->x, n * sizeof(*f->x));
        memcpy(f->x, t->data, n * sizeof(*f->x));
    }
    if (strncmp(name, "latents", 7) || !dmd) {
        err = test_rel_l2(got, want, n);
        CHECKF(err <= f->limit, "%s: relative L2 %.2e, limit %.1e", name, err,
               f->limit);
        f->worst = fmax(f->worst, err);
    }
end:
    free(want);
    free(mine);
}

static void few_steps(const char *golden, const char *preset, int noises,
                      const char *device)
{
    /* entries of the table of shift 8 */
    static const double sigma[] = { 1, 28 / 37., 12 / 23. };
    Golden *g = golden_open(golden);
    cJSON *a = golden_meta(g, "case");
    const GoldenTensor *bytes = golden_find(g, "frames_u8");
    const int h = (int)bytes->dim[1], w = (int)bytes->dim[2];
    Few few = { .golden = g, .limit = limit_on(device, 2e-6),
                .sigma = strcmp(preset, "fastwan") ? NULL : sigma };
    WanModel *m = open_tiny("tiny/wan-t2v", device);
    uint8_t *rgb = malloc(3 * h * w);
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                           .width = w, .height = h, .data = { rgb },
                           .stride = { 3 * w } };
    int64_t differ = 0, off_by_more = 0;
    int ret, frame = 0;
    WanRequest rq;
    WanJob *job;

    wan_request_default(&rq, m);
    CHECK(wan_request_preset(&rq, m, preset) == 0);
    CHECK(rq.guidance == 1);
    rq.prompt = cJSON_GetStringValue(cJSON_GetObjectItem(a, "prompt"));
    rq.width = w, rq.height = h;
    rq.frames = (int)bytes->dim[0];
    rq.seed = golden_number(a, "seed", 0);
    rq.rng = WAN_RNG_CPU;
    ret = wan_job_open(&job, m, &rq);
    if (ret >= 0)
        wan_job_tap(job, check_few, &few);
    while (ret >= 0 && (ret = wan_job_step(job, NULL)) >= 0) {
        while ((ret = wan_job_frame(job, &img)) >= 0) {
            const uint8_t *want = bytes->raw + (int64_t)frame++ * 3 * h * w;

            for (int i = 0; i < 3 * h * w; i++) {
                differ += rgb[i] != want[i];
                off_by_more += abs(rgb[i] - want[i]) > 1;
            }
        }
        ret = ret == WAN_ERR(EAGAIN) ? 0 : ret;
    }
    CHECKF(ret == WAN_EOF && frame == bytes->dim[0], "%d frames, %s", frame,
           wan_strerror(ret));
    CHECKF(few.noises == noises && few.steps == rq.steps, "%d draws, %d steps",
           few.noises, few.steps);
    if (few.x && !few.sigma) {
        const GoldenTensor *last = golden_find(g, "last.f64");
        const double err = test_rel_l2(few.x, last->data, last->n);

        CHECKF(err <= few.limit, "the last latent: %.2e", err);
    }
    CHECKF(few.limit > 1e-3 || (!off_by_more && differ * 1000 < bytes->n),
           "8 bit: %lld of %lld differ, %lld by more than 1",
           (long long)differ, (long long)bytes->n, (long long)off_by_more);
    printf("# %s on %s: %.2e, %lld bytes differ\n", golden, device, few.worst,
           (long long)differ);
    wan_job_close(&job);
    free(few.x);
    free(rgb);
    cJSON_Delete(a);
    wan_model_close(&m);
    golden_close(&g);
}

TEST(lightx2v_ref) { few_steps("fewstep-lightx2v4.safetensors", "lightx2v", 1, "ref"); }
TEST(fastwan_ref) { few_steps("fewstep-fastwan3.safetensors", "fastwan", 3, "ref"); }
TEST(rcm_ref) { few_steps("fewstep-rcm4.safetensors", "rcm", 4, "ref"); }
TEST(lightx2v_cpu) { few_steps("fewstep-lightx2v4.safetensors", "lightx2v", 1, dut); }
TEST(fastwan_cpu) { few_steps("fewstep-fastwan3.safetensors", "fastwan", 3, dut); }
TEST(rcm_cpu) { few_steps("fewstep-rcm4.safetensors", "rcm", 4, dut); }

#define TI2V(name) "pipeline-wan22-ti2v-" name ".safetensors", \
                   "tiny/wan22-ti2v-5b"
TEST(ti2v_text_ref) { generate(TI2V("unipc5"), "ref"); }
TEST(ti2v_text_cpu) { generate(TI2V("unipc5"), dut); }
TEST(ti2v_image_ref) { generate(TI2V("i2v-unipc4"), "ref"); }
TEST(ti2v_image_cpu) { generate(TI2V("i2v-unipc4"), dut); }
TEST(ti2v_image_dpm5_cpu) { generate(TI2V("i2v-dpm5"), dut); }

TEST(v2v_unipc6_ref) { generate("pipeline-v2v-unipc6.safetensors", "tiny/wan-t2v", "ref"); }
TEST(v2v_unipc6_cpu) { generate("pipeline-v2v-unipc6.safetensors", "tiny/wan-t2v", dut); }
TEST(v2v_dpm8_cpu) { generate("pipeline-v2v-dpm8.safetensors", "tiny/wan-t2v", dut); }
#define A14B(name) "pipeline-wan22-" name ".safetensors"
#define T2V_A14B "tiny/wan22-t2v-a14b"
#define I2V_A14B "tiny/wan22-i2v-a14b"
TEST(experts_ref) { generate(A14B("t2v-edge3"), T2V_A14B, "ref"); }
TEST(experts_cpu) { generate(A14B("t2v-unipc6"), T2V_A14B, dut); }
TEST(experts_dpm8_cpu) { generate(A14B("t2v-dpm8"), T2V_A14B, dut); }
TEST(experts_edge3_cpu) { generate(A14B("t2v-edge3"), T2V_A14B, dut); }
TEST(experts_image_cpu) { generate(A14B("i2v-unipc5"), I2V_A14B, dut); }
TEST(experts_image_dpm4_cpu) { generate(A14B("i2v-dpm4"), I2V_A14B, dut); }
TEST(experts_diffusers)
{
    generate(A14B("i2v-unipc5"), I2V_A14B "-diffusers", dut);
}
TEST(experts_two_images_ref) { generate(A14B("flf2v-unipc4"), I2V_A14B, "ref"); }
TEST(experts_v2v_cpu)
{
    generate("pipeline-v2v-a14b-unipc8.safetensors", T2V_A14B, dut);
}
TEST(experts_two_images_cpu) { generate(A14B("flf2v-unipc4"), I2V_A14B, dut); }
#define VACE(name) "pipeline-vace-" name ".safetensors", "tiny/wan-vace"
TEST(vace_control_ref) { generate(VACE("control-unipc4"), "ref"); }
TEST(vace_control_cpu) { generate(VACE("control-unipc4"), dut); }
TEST(vace_inpaint_ref) { generate(VACE("inpaint-dpm5"), "ref"); }
TEST(vace_inpaint_cpu) { generate(VACE("inpaint-dpm5"), dut); }
TEST(vace_references_cpu) { generate(VACE("ref-unipc3"), dut); }
TEST(vace_extend_cpu) { generate(VACE("extend-unipc4"), dut); }

/* All frames of a small request, in a checksum; on a device with that much
 * memory, 0: what is free. */
static uint64_t digest(int64_t memory, WanPlan *plan)
{
    WanModel *m = open_tiny("tiny/wan-t2v", dut);
    uint64_t h = 14695981039346656037u;
    uint8_t rgb[3 * 64 * 48];
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = 64, .height = 48,
                     .data = { rgb }, .stride = { 3 * 64 } };
    WanRequest rq;
    WanJob *job;
    int ret;

    m->memory = memory;
    wan_request_default(&rq, m);
    rq.prompt = "a red ball";
    rq.width = 64, rq.height = 48;
    rq.frames = 9, rq.steps = 5;
    CHECK(wan_plan(plan, m, &rq) == 0);
    ret = wan_job_open(&job, m, &rq);
    while (ret >= 0 && (ret = wan_job_step(job, NULL)) >= 0) {
        while ((ret = wan_job_frame(job, &img)) >= 0)
            for (size_t i = 0; i < sizeof(rgb); i++)
                h = (h ^ rgb[i]) * 1099511628211u;
        ret = ret == WAN_ERR(EAGAIN) ? 0 : ret;
    }
    CHECKF(ret == WAN_EOF, "%s", wan_strerror(ret));
    wan_job_close(&job);
    wan_model_close(&m);
    return h;
}

/* With little memory weights pass through; the video is the same, bit for
 * bit. With much nobody looks at the ops either: blocks are replayed from the
 * third step on, see wan_dev_replay(). */
TEST(streamed_weights)
{
    WanPlan full, least;
    const uint64_t want = digest(0, &full);

    if (!full.full_bytes)
        return;                         // a device without memory of its own
    CHECK(full.full_bytes > full.least_bytes && !full.stream_bytes);
    CHECK(digest(full.least_bytes, &least) == want);
    CHECK(digest((full.least_bytes + full.full_bytes) / 2, &least) == want);
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN_REF(unipc4_ref);
    RUN(unipc4_cpu);
    RUN_ROUNDED(unipc4_cpu);
    RUN(unipc4_diffusers);
    RUN(unipc10_cpu);
    RUN(dpm4_cpu);
    RUN(image_cpu);
    RUN(head128_cpu);
    RUN_ROUNDED(head128_cpu);
    RUN_REF(image_unipc4_ref);
    RUN(image_unipc4_cpu);
    RUN_ROUNDED(image_unipc4_cpu);
    RUN(image_dpm6_cpu);
    RUN(two_images_cpu);
    RUN_REF(lightx2v_ref);
    RUN_REF(fastwan_ref);
    RUN_REF(rcm_ref);
    RUN(lightx2v_cpu);
    RUN(fastwan_cpu);
    RUN_ROUNDED(fastwan_cpu);
    RUN(rcm_cpu);
    RUN_REF(ti2v_text_ref);
    RUN(ti2v_text_cpu);
    RUN_ROUNDED(ti2v_text_cpu);
    RUN_REF(ti2v_image_ref);
    RUN(ti2v_image_cpu);
    RUN(ti2v_image_dpm5_cpu);
    RUN_REF(v2v_unipc6_ref);
    RUN(v2v_unipc6_cpu);
    RUN(v2v_dpm8_cpu);
    RUN_REF(experts_ref);
    RUN(experts_cpu);
    RUN_ROUNDED(experts_cpu);
    RUN(experts_dpm8_cpu);
    RUN(experts_edge3_cpu);
    RUN(experts_image_cpu);
    RUN(experts_image_dpm4_cpu);
    RUN(experts_diffusers);
    RUN_REF(experts_two_images_ref);
    RUN(experts_two_images_cpu);
    RUN(experts_v2v_cpu);
    RUN_REF(vace_control_ref);
    RUN(vace_control_cpu);
    RUN_ROUNDED(vace_control_cpu);
    RUN_REF(vace_inpaint_ref);
    RUN(vace_inpaint_cpu);
    RUN(vace_references_cpu);
    RUN(vace_extend_cpu);
    RUN(streamed_weights);
    return test_end();
}
