/*
 * TI2V beside its goldens: the size for an image, its resizing in bytes, a
 * video of one frame, and VAEs of the other model.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "image.h"
#include "model_test.h"

static WanModel *open_shapes(const char *name)
{
    WanModelParams p;
    WanModel *m = NULL;

    wan_model_params_default(&p);
    params_backend(&p, "cpu");
    p.log = print_log;
    CHECK(wan_model_open_shapes(&m, name, &p) == 0);
    return m;
}

/* The official rules, for a model of each. */
static void sizes(const char *model, const char *list)
{
    static char text[1 << 14];
    FILE *f = fopen(golden_path("wan22_sizes.json"), "rb");
    const size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
    cJSON *root = cJSON_ParseWithLength(text, n), *c;
    WanModel *m = open_shapes(model);
    int seen = 0;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(root, list)) {
        const cJSON *image = cJSON_GetObjectItem(c, "image")->child;
        const cJSON *size = cJSON_GetObjectItem(c, "size")->child;
        WanRequest rq;

        wan_request_default(&rq, m);
        rq.width = cJSON_GetObjectItem(c, "area")->valueint;
        rq.height = 1;
        CHECK(wan_request_fit(&rq, m, image->valueint,
                              image->next->valueint) == 0);
        CHECKF(rq.width == size->valueint && rq.height == size->next->valueint,
               "%dx%d in %d: %dx%d, not %dx%d", image->valueint,
               image->next->valueint,
               cJSON_GetObjectItem(c, "area")->valueint, rq.width, rq.height,
               size->valueint, size->next->valueint);
        seen++;
    }
    CHECKF(seen > 5, "%d sizes", seen);
    if (f)
        fclose(f);
    cJSON_Delete(root);
    wan_model_close(&m);
}

TEST(sizes_of_ti2v) { sizes("ti2v-5B", "ti2v"); }
TEST(sizes_of_i2v) { sizes("i2v-14B", "i2v_a14b"); }

TEST(too_narrow)
{
    WanModel *m = open_shapes("ti2v-5B");
    WanRequest rq;

    wan_request_default(&rq, m);
    CHECK(wan_request_fit(&rq, m, 1, 1 << 15) == WAN_ERR(EINVAL));
    CHECK(wan_request_fit(&rq, m, 1 << 15, 1) == WAN_ERR(EINVAL));
    wan_model_close(&m);
}

TEST(defaults)
{
    WanModel *m = open_shapes("ti2v-5B");
    const WanModelInfo *i = wan_model_info(m);

    CHECK(i->width == 1280 && i->height == 704 && i->frames == 121);
    CHECK(i->rate_num == 24 && i->rate_den == 1 && i->steps == 50);
    CHECK(i->guidance == 5 && i->shift == 5 && i->size_multiple == 32);
    CHECK(i->task == WAN_TASK_TI2V && !i->clip_dim);
    CHECK(!strcmp(i->name, "Wan2.2 TI2V 5B"));
    wan_model_close(&m);
}

static WanImage image_of(const GoldenTensor *t)
{
    return (WanImage){ .size = sizeof(WanImage), .format = WAN_PIX_RGB24,
                       .width = (int)t->dim[1], .height = (int)t->dim[0],
                       .data = { (void *)t->raw },
                       .stride = { 3 * t->dim[1] } };
}

/* Scaled, cut and rounded as the official code's library does it: every byte. */
static void cover(const char *golden)
{
    Golden *g = golden_open(golden);
    const GoldenTensor *want = golden_find(g, "image_resized");
    const WanImage img = image_of(golden_find(g, "image0"));
    const int h = (int)want->dim[0], w = (int)want->dim[1];
    float *rgb = malloc(sizeof(*rgb) * 3 * w * h);
    int bad = 0;

    CHECK(wan_image_cover(rgb, &img, w, h, WAN_LANCZOS) == 0);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < w * h; i++)
            bad += lrintf((rgb[c * w * h + i] + 1) / 2 * 255) !=
                   ((const uint8_t *)want->raw)[3 * i + c];
    CHECKF(!bad, "%s: %d bytes of %d differ", golden, bad, 3 * w * h);
    free(rgb);
    golden_close(&g);
}

TEST(cover_smaller) { cover("pipeline-wan22-ti2v-i2v-unipc4.safetensors"); }
TEST(cover_other_shape) { cover("pipeline-wan22-ti2v-i2v-dpm5.safetensors"); }

/* The same pixels in planes and in floats; one pixel to many; nothing read
 * beside the image. */
TEST(cover_formats)
{
    enum { W = 7, H = 5 };
    uint8_t packed[3 * W * H], plane[3][W * H];
    float wide[3][W * H], rgb[3][3 * 32 * 64];
    WanImage img[3] = {
        { .format = WAN_PIX_RGB24, .data = { packed }, .stride = { 3 * W } },
        { .format = WAN_PIX_GBRP, .data = { plane[1], plane[2], plane[0] },
          .stride = { W, W, W } },
        { .format = WAN_PIX_GBRPF32, .data = { wide[1], wide[2], wide[0] },
          .stride = { 4 * W, 4 * W, 4 * W } },
    };

    for (int i = 0; i < 3 * W * H; i++) {
        packed[i] = (uint8_t)(i * 37 % 256);
        plane[i % 3][i / 3] = packed[i];
        wide[i % 3][i / 3] = packed[i] / 255.f;
    }
    for (int k = 0; k < 3; k++) {
        img[k].width = W, img[k].height = H;
        CHECK(wan_image_cover(rgb[k], &img[k], 64, 32, WAN_LANCZOS) == 0);
        CHECK(!memcmp(rgb[k], rgb[0], sizeof(rgb[0])));
    }
    img[0].width = img[0].height = 1;
    CHECK(wan_image_cover(rgb[0], &img[0], 64, 32, WAN_LANCZOS) == 0);
    for (int i = 0; i < 3 * 32 * 64; i++)
        CHECK(rgb[0][i] == (packed[i / 2048] / 255.f - 0.5f) / 0.5f);
}

/* All bytes of a small video in a checksum. */
static uint64_t digest(WanModel *m, WanRequest *rq)
{
    uint8_t rgb[3 * 64 * 32];
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = 64, .height = 32, .data = { rgb },
                     .stride = { 3 * 64 } };
    uint64_t sum = 14695981039346656037u;
    WanJob *job;
    int ret;

    rq->prompt = "a red ball";
    rq->width = 64, rq->height = 32;
    rq->steps = 2;
    if (!CHECK(wan_job_open(&job, m, rq) == 0))
        return 0;
    while ((ret = wan_job_step(job, NULL)) >= 0) {
        while ((ret = wan_job_frame(job, &img)) >= 0)
            for (size_t i = 0; i < sizeof(rgb); i++)
                sum = (sum ^ rgb[i]) * 1099511628211u;
        if (ret == WAN_EOF)
            break;
    }
    CHECKF(ret == WAN_EOF, "%s", wan_strerror(ret));
    wan_job_close(&job);
    return sum;
}

/* A single frame is the image, whatever the noise; more frames are not. */
TEST(one_frame)
{
    Golden *g = golden_open("pipeline-wan22-ti2v-i2v-dpm5.safetensors");
    WanModel *m = open_tiny("tiny/wan22-ti2v-5b", dut);
    const WanImage img = image_of(golden_find(g, "image0"));
    uint64_t sum[2][2];
    WanRequest rq;

    for (int more = 0; more < 2; more++)
        for (int seed = 0; seed < 2; seed++) {
            wan_request_default(&rq, m);
            rq.image = &img;
            rq.frames = 1 + 4 * more;
            rq.seed = seed;
            sum[more][seed] = digest(m, &rq);
        }
    CHECK(sum[0][0] == sum[0][1]);
    CHECK(sum[1][0] != sum[1][1]);
    rq.last_image = &img;
    CHECK(wan_request_check(&rq, m) == WAN_ERR(EINVAL));
    rq.last_image = NULL;
    rq.preview = 1;
    CHECK(wan_request_check(&rq, m) == WAN_ERR(EINVAL));
    rq.preview = 0;
    CHECK(wan_request_check(&rq, m) == 0);
    rq.width = 48;
    CHECK(wan_request_check(&rq, m) == WAN_ERR(EINVAL));
    wan_model_close(&m);
    golden_close(&g);
}

static char last_line[512];

static void keep_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level == WAN_LOG_ERROR)
        snprintf(last_line, sizeof(last_line), "%s", line);
}

/* Each model with the other's VAE: refused, both named. */
TEST(other_vae)
{
    static const struct { const char *model, *vae, *says; } pair[] = {
        { "tiny/wan22-ti2v-5b", "tiny/wan-t2v/Wan2.1_VAE.pth",
          "the Wan 2.1 VAE, of latents with 16 channels" },
        { "tiny/wan-t2v", "tiny/wan22-ti2v-5b/Wan2.2_VAE.pth",
          "the Wan 2.2 VAE, of latents with 48 channels" },
    };

    for (int i = 0; i < 2; i++) {
        char path[4096], vae[4096], rest[4096];
        WanModelParams p;
        WanModel *m;

        wan_model_params_default(&p);
        snprintf(path, sizeof(path), "%s", golden_path(pair[i].model));
        snprintf(vae, sizeof(vae), "%s", golden_path(pair[i].vae));
        snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
        p.path = path;
        p.vae = vae;
        p.text_encoder = p.tokenizer = rest;
        params_backend(&p, "cpu");
        p.log = keep_line;
        CHECK(wan_model_open(&m, &p) == WAN_INVALIDDATA && !m);
        CHECKF(strstr(last_line, pair[i].says) &&
               strstr(last_line, strrchr(pair[i].vae, '/')) &&
               strstr(last_line, pair[i].model), "%s", last_line);
    }
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN_REF(sizes_of_ti2v);
    RUN_REF(sizes_of_i2v);
    RUN_REF(too_narrow);
    RUN_REF(defaults);
    RUN_REF(cover_smaller);
    RUN_REF(cover_other_shape);
    RUN_REF(cover_formats);
    RUN(one_frame);
    RUN_REF(other_vae);
    return test_end();
}
