/*
 * VACE beside its goldens: sizes and frames of a source, the references'
 * canvas, the mask's channels, several controls, and requests that can't be.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <limits.h>

#include "formats/formats.h"
#include "image.h"
#include "model_test.h"

#define FOLDER "tiny/wan-vace"

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

/* ------------------------------------------------------ sizes and pixels */

static void source(const WanModel *m, const cJSON *c)
{
    const int nb = golden_number(c, "frames", 0);
    const int rate = golden_number(c, "fps", 0);
    const int area = golden_number(c, "area", 0);
    const cJSON *id = cJSON_GetObjectItem(c, "frame_ids")->child;
    int wrong = 0;
    WanRequest rq;

    wan_request_default(&rq, m);
    CHECK(rq.frames == 81);
    rq.width = area;
    rq.height = 1;
    CHECK(wan_request_fit_video(&rq, m, golden_number(c, "width", 0),
                                golden_number(c, "height", 0), nb) == 0);
    CHECKF(rq.width == golden_number(c, "out_width", 0) &&
           rq.height == golden_number(c, "out_height", 0) &&
           rq.frames == golden_number(c, "out_frames", 0),
           "%d frames: %dx%d, %d frames", nb, rq.width, rq.height, rq.frames);
    for (int i = 0; i < rq.frames && id; i++, id = id->next)
        if (wan_source_frame(i, rq.frames, nb, rate) != id->valueint)
            CHECKF(wrong++, "%d frames: %d of %d is %d, not %d", nb, i,
                   rq.frames, wan_source_frame(i, rq.frames, nb, rate),
                   id->valueint);
    CHECK(!id);
}

/* What the official loader makes of sources, frame by frame. */
TEST(sources)
{
    char *text = golden_read("vace_source.json", NULL);
    cJSON *root = cJSON_Parse(text), *c;
    WanModel *m = open_shapes("vace-1.3B");
    int seen = 0;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(root, "cases")) {
        source(m, c);
        seen++;
    }
    CHECKF(seen == 10, "%d sources", seen);
    cJSON_Delete(root);
    wan_model_close(&m);
    free(text);
}

/* Sources that there is no size for, and frames that are not there. */
TEST(odd_sources)
{
    static const struct { int w, h, nb; } bad[] = {
        { 0, 0, 1 }, { 15, 480, 9 }, { 832, 480, 0 }, { 1 << 15, 16, 9 },
        { -832, -480, 81 }, { 832, 480, -1 },
    };
    WanModel *m = open_shapes("vace-1.3B");
    WanRequest rq, before;

    m->log.callback = NULL;
    wan_request_default(&rq, m);
    before = rq;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        CHECKF(wan_request_fit_video(&rq, m, bad[i].w, bad[i].h,
                                     bad[i].nb) == WAN_ERR(EINVAL) &&
               !memcmp(&rq, &before, sizeof(rq)), "%dx%d", bad[i].w, bad[i].h);
    CHECK(wan_request_fit_video(&rq, m, 16, 16, INT_MAX) == 0);
    CHECK(rq.width == 16 && rq.height == 16 && rq.frames == WAN_MAX_FRAMES);
    CHECK(wan_source_frame(-1, 9, 9, 16) == 0);
    CHECK(wan_source_frame(9, 9, 9, 16) == 0);
    CHECK(wan_source_frame(0, 1, 1, 16) == 0);
    CHECK(wan_source_frame(3, 9, 0, 16) == 0);
    CHECK(wan_source_frame(3, 9, 9, 0) == 0);
    CHECK(wan_source_frame(3, 9, 9, NAN) == 0);
    CHECK(wan_source_frame(8, 9, 300, 30) == 299);
    wan_model_close(&m);
}

TEST(defaults)
{
    static const struct {
        const char *name, *says;
        int width, height, blocks, last;
    } of[] = {
        { "vace-1.3B", "Wan2.1 VACE 1.3B", 832, 480, 15, 28 },
        { "vace-14B", "Wan2.1 VACE 14B", 1280, 720, 8, 35 },
    };

    for (int i = 0; i < 2; i++) {
        WanModel *m = open_shapes(of[i].name);
        const WanModelInfo *info = wan_model_info(m);
        const WanDitConfig *c = &m->dit.config;

        CHECK(info->task == WAN_TASK_VACE && !strcmp(info->name, of[i].says));
        CHECK(info->width == of[i].width && info->height == of[i].height);
        CHECK(info->frames == 81 && info->rate_num == 16 && info->steps == 50);
        CHECK(info->shift == 16 && info->guidance == 5 && !info->clip_dim);
        CHECK(c->nb_vace == of[i].blocks && c->vace_layer[0] == 0 &&
              c->vace_layer[c->nb_vace - 1] == of[i].last);
        wan_model_close(&m);
    }
}

static void canvas(const char *golden)
{
    Golden *g = golden_open(golden);
    const GoldenTensor *want = golden_find(g, "ref_canvas");
    const int h = (int)want->dim[2], w = (int)want->dim[3];
    const int64_t n = 3 * (int64_t)h * w;
    float *rgb = malloc(n * sizeof(*rgb));

    for (int i = 0; i < want->dim[0]; i++) {
        char name[16];

        snprintf(name, sizeof(name), "ref%d", i);
        const GoldenTensor *t = golden_find(g, name);
        const WanImage img = golden_rgb(t->raw, t->dim[0], t->dim[1]);

        wan_image_canvas(rgb, &img, w, h);
        const double err = test_rel_l2(rgb, want->data + i * n, n);

        CHECKF(err <= 2e-6, "%s of %s: %.2e", name, golden, err);
    }
    free(rgb);
    golden_close(&g);
}

TEST(canvas_one) { canvas("pipeline-vace-inpaint-dpm5.safetensors"); }
TEST(canvas_two) { canvas("pipeline-vace-ref-unipc3.safetensors"); }

/* A pixel fills the canvas' square; what is narrow is a line of one pixel; no
 * byte beside the image is read (the sanitizers look). */
TEST(canvas_extremes)
{
    enum { W = 64, H = 32, LONG = 3000 };
    static uint8_t line[3 * LONG];
    static float rgb[3][H][W];
    WanImage img = golden_rgb(line, 1, 1);

    wan_image_canvas(rgb[0][0], &img, W, H);
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            CHECK(rgb[1][y][x] == (x < 16 || x >= 48 ? 1 : -1));
    img = golden_rgb(line, 5, 7);               // to 44.8 x 32, cut
    wan_image_canvas(rgb[0][0], &img, W, H);
    for (int x = 0; x < W; x++)
        CHECK(rgb[2][7][x] == (x < 10 || x >= 54 ? 1 : -1));
    img = golden_rgb(line, 1, LONG);
    wan_image_canvas(rgb[0][0], &img, W, H);
    for (int y = 0; y < H; y++)
        CHECK(rgb[2][y][0] == (y == 15 ? -1 : 1));
    img = golden_rgb(line, LONG, 1);
    wan_image_canvas(rgb[0][0], &img, W, H);
    for (int x = 0; x < W; x++)
        CHECK(rgb[0][H - 1][x] == (x == 31 ? -1 : 1));
}

/* The weight of a source pixel at that distance, in source pixels, from where
 * an output is: Keys' cubic as wide as the reduction. */
static double keys(double x, double wide)
{
    x = fabs(x) / wide;
    return x < 1 ? 1 - 2.5 * x * x + 1.5 * x * x * x :
           x < 2 ? 2 - 4 * x + 2.5 * x * x - 0.5 * x * x * x : 0;
}

static int resized(const uint8_t *in, int step, int n, int i, int out)
{
    const double scale = (double)n / out, at = (i + 0.5) * scale;
    const double wide = scale > 1 ? scale : 1;
    double sum = 0, all = 0;

    for (int k = 0; k < n; k++) {
        const double w = keys(k + 0.5 - at, wide);

        sum += w * in[k * step];
        all += w;
    }
    return (int)fmin(fmax(floor(sum / all + 0.5), 0), 255);
}

/* A clip of another size covers the video, by the loops written once more:
 * bicubic with a = -1/2, along rows, then columns. */
TEST(cover_bicubic)
{
    static const struct { int w, h, W, H; } size[] = {
        { 40, 24, 32, 32 }, { 13, 9, 32, 16 }, { 90, 100, 16, 32 },
    };

    for (size_t s = 0; s < sizeof(size) / sizeof(*size); s++) {
        const int w = size[s].w, h = size[s].h, W = size[s].W, H = size[s].H;
        const double scale = fmax((double)W / w, (double)H / h);
        const int ow = (int)fmax(rint(w * scale), W);
        const int oh = (int)fmax(rint(h * scale), H);
        uint8_t *in = malloc(3 * w * h), *part = malloc(W * h);
        float *rgb = malloc(sizeof(*rgb) * 3 * W * H);
        const WanImage img = golden_rgb(in, h, w);
        int worst = 0;

        for (int i = 0; i < 3 * w * h; i++)
            in[i] = (uint8_t)(i * 97 % 251);
        CHECK(wan_image_cover(rgb, &img, W, H, WAN_BICUBIC) == 0);
        for (int c = 0; c < 3; c++) {
            for (int y = 0; y < h; y++)
                for (int x = 0; x < W; x++)
                    part[y * W + x] = (uint8_t)resized(in + y * 3 * w + c, 3,
                                                       w, x + (ow - W) / 2,
                                                       ow);
            for (int y = 0; y < H; y++)
                for (int x = 0; x < W; x++) {
                    const int want = resized(part + x, W, h,
                                             y + (oh - H) / 2, oh);
                    const int got = (int)lrintf((rgb[(c * H + y) * W + x] + 1)
                                                / 2 * 255);

                    worst = abs(got - want) > worst ? abs(got - want) : worst;
                }
        }
        CHECKF(worst <= 1, "%dx%d to %dx%d: %d levels", w, h, W, H, worst);
        free(in);
        free(part);
        free(rgb);
    }
}

/* ----------------------------------------------------------------- jobs */

/* A run of small requests: the context that was seen last, and the pixels. */
typedef struct Made {
    float *context;
    int64_t n, frames, position;    // [96, frames, h, w]; h w
    int contexts;
    float *video;                   // [F, 3 planes]
    int64_t nb_video;
} Made;

static void keep_context(void *opaque, const char *name, const WanTensor *t)
{
    Made *made = opaque;

    if (strcmp(name, "vace_context"))
        return;
    made->contexts++;
    made->n = wan_count(t);
    made->frames = t->dim[1];
    made->position = t->dim[2] * t->dim[3];
    made->context = realloc(made->context, made->n * sizeof(float));
    memcpy(made->context, t->data, made->n * sizeof(float));
}

static void make(Made *made, WanModel *m, const WanRequest *rq)
{
    const int64_t HW = (int64_t)rq->width * rq->height;
    int ret, frame = 0;
    WanJob *job;

    made->contexts = 0;
    made->nb_video = 3 * HW * rq->frames;
    made->video = realloc(made->video, made->nb_video * sizeof(float));
    ret = wan_job_open(&job, m, rq);
    if (ret >= 0)
        wan_job_tap(job, keep_context, made);
    while (ret >= 0 && (ret = wan_job_step(job, NULL)) >= 0) {
        do {
            float *p = made->video + 3 * HW * frame;
            const WanImage img = {
                .size = sizeof(img), .format = WAN_PIX_GBRPF32,
                .width = rq->width, .height = rq->height,
                .data = { p, p + HW, p + 2 * HW },
                .stride = { rq->width * 4, rq->width * 4, rq->width * 4 },
            };

            if (frame == rq->frames)
                break;
            ret = wan_job_frame(job, &img);
            frame += ret >= 0;
        } while (ret >= 0);
        if (frame == rq->frames)
            break;
        ret = ret == WAN_ERR(EAGAIN) ? 0 : ret;
    }
    CHECKF(ret >= 0 && frame == rq->frames, "%s", wan_strerror(ret));
    wan_job_close(&job);
}

static void made_free(Made *made)
{
    free(made->context);
    free(made->video);
}

static double distance(const Made *a, const Made *b)
{
    CHECK(a->nb_video == b->nb_video);
    return test_rel_l2(a->video, b->video, a->nb_video);
}

static void small_request(WanRequest *rq, const WanModel *m, int frames)
{
    wan_request_default(rq, m);
    rq->prompt = "a red ball";
    rq->width = rq->height = 32;
    rq->frames = frames;
    rq->steps = 2;
    rq->rng = WAN_RNG_CPU;
}

/* A clip of one colour a frame, grey levels; GBRP. */
typedef struct Clip {
    uint8_t plane[81][32 * 32];
    WanImage image[81];
    const WanImage *list[81];
} Clip;

static Clip clips[3];

static void clip_fill(Clip *c, int n, int level, int step)
{
    for (int i = 0; i < n; i++) {
        memset(c->plane[i], level + i * step, sizeof(c->plane[i]));
        c->image[i] = (WanImage){
            .size = sizeof(WanImage), .format = WAN_PIX_GBRP, .width = 32,
            .height = 32, .stride = { 32, 32, 32 },
            .data = { c->plane[i], c->plane[i], c->plane[i] },
        };
        c->list[i] = &c->image[i];
    }
}

/* Which frame's mask a latent frame has, and which pixel a channel. */
TEST(mask_channels)
{
    static const struct { int frames, of[21]; } want[] = {
        { 1, { 0 } }, { 5, { 1, 3 } }, { 9, { 1, 4, 7 } },
        { 13, { 1, 4, 8, 11 } }, { 17, { 1, 5, 8, 11, 15 } },
        { 81, { 1, 5, 9, 13, 17, 21, 25, 28, 32, 36, 40, 44, 48, 52, 55, 59,
                63, 67, 71, 75, 79 } },
    };
    WanModel *m = open_tiny(FOLDER, dut);
    WanControl c = { .size = sizeof(c), .scale = 1, .video = clips[0].list,
                     .mask = clips[1].list };
    const WanControl *list = &c;
    Made made = { 0 };
    WanRequest rq;

    clip_fill(&clips[0], 81, 200, 0);
    for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
        const int F = want[i].frames, T = (F - 1) / 4 + 1;

        clip_fill(&clips[1], F, 0, 1);
        for (int f = 0; f < F; f++)     // row 11, column 21
            clips[1].plane[f][11 * 32 + 21] = (uint8_t)(100 + f);
        small_request(&rq, m, F);
        rq.steps = 1;
        rq.guidance = 1;
        rq.controls = &list;
        rq.nb_controls = 1;
        c.nb_frames = F;
        make(&made, m, &rq);
        if (!CHECK(made.frames == T && made.position == 16))
            continue;
        for (int ch = 0; ch < 64; ch++)
            for (int t = 0; t < T; t++)
                for (int p = 0; p < 16; p++) {
                    const int marked = ch == 3 * 8 + 5 && p == 1 * 4 + 2;
                    const int level = want[i].of[t] + 100 * marked;
                    const float got = made.context[((32 + ch) * T + t) * 16 +
                                                   p];

                    if (fabs(got * 255 - level) > 1e-3)
                        CHECKF(0, "%d frames: channel %d of frame %d at %d is "
                               "%g, not %d", F, ch, t, p, got * 255, level);
                }
    }
    made_free(&made);
    wan_model_close(&m);
}

/* A run without controls is one of a context in which nothing is given; and
 * what is kept of a clip that is kept whole is the clip. */
TEST(nothing_given)
{
    WanModel *m = open_tiny(FOLDER, dut);
    WanControl c = { .size = sizeof(c), .scale = 1 };
    const WanControl *list = &c;
    Made none = { 0 }, empty = { 0 }, grey = { 0 };
    WanRequest rq;

    small_request(&rq, m, 5);
    make(&none, m, &rq);
    CHECK(none.contexts == 1);
    rq.controls = &list;
    rq.nb_controls = 1;
    make(&empty, m, &rq);
    CHECK(distance(&none, &empty) == 0);

    /* of a clip, and all is made anew: its latent is in the second part, that
     * of grey in the first; kept whole, the other way round */
    const int64_t half = 16 * none.frames * none.position;
    float *clip = malloc(half * sizeof(*clip));

    clip_fill(&clips[0], 5, 30, 40);
    clip_fill(&clips[1], 5, 0, 0);
    c.video = clips[0].list;
    c.nb_frames = 5;
    make(&grey, m, &rq);
    CHECK(!memcmp(grey.context, none.context, half * sizeof(float)));
    CHECK(memcmp(grey.context + half, none.context + half,
                 half * sizeof(float)));
    memcpy(clip, grey.context + half, half * sizeof(float));
    c.mask = clips[1].list;
    for (int level = 0; level < 256; level += 127) {    // 0, below half, above
        const int changed = level > 127;

        clip_fill(&clips[1], 5, level, 0);
        make(&grey, m, &rq);
        CHECK(!memcmp(grey.context + changed * half, clip,
                      half * sizeof(float)));
        CHECK(!memcmp(grey.context + !changed * half, none.context,
                      half * sizeof(float)));
    }
    free(clip);
    made_free(&none);
    made_free(&empty);
    made_free(&grey);
    wan_model_close(&m);
}

/* A clip and its mask of another size are what they are once they cover the
 * video; of a mask the red counts. */
TEST(other_size)
{
    enum { W = 40, H = 24, S = 32 };
    static uint8_t rgb[3 * W * H], coloured[3 * W * H];
    static float cover[2][3 * S * S];
    const WanImage large[2] = { golden_rgb(rgb, H, W),
                                golden_rgb(coloured, H, W) };
    WanModel *m = open_tiny(FOLDER, dut);
    Made direct = { 0 }, covered = { 0 };
    WanImage small[2];
    const WanImage *frame[2][2] = { { &large[0], &small[0] },
                                    { &large[1], &small[1] } };
    WanControl c = { .size = sizeof(c), .scale = 1, .nb_frames = 1 };
    const WanControl *list = &c;
    WanRequest rq;

    for (int i = 0; i < 3 * W * H; i++) {
        rgb[i] = (uint8_t)(i * 97 % 251);
        coloured[i] = i % 3 ? 255 : (uint8_t)(i * 61 % 241);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(wan_image_cover(cover[i], &large[i], S, S,
                              WAN_BICUBIC) == 0);
        for (int p = 0; p < 3 * S * S; p++)
            cover[i][p] = (cover[i][p] + 1) / 2;
        small[i] = (WanImage){
            .size = sizeof(WanImage), .format = WAN_PIX_GBRPF32, .width = S,
            .height = S, .stride = { 4 * S, 4 * S, 4 * S },
            .data = { cover[i] + S * S, cover[i] + 2 * S * S, cover[i] },
        };
    }
    small_request(&rq, m, 1);
    rq.controls = &list;
    rq.nb_controls = 1;
    c.video = &frame[0][0];
    c.mask = &frame[1][0];
    make(&direct, m, &rq);
    c.video = &frame[0][1];
    c.mask = &frame[1][1];
    make(&covered, m, &rq);
    if (CHECK(direct.n == covered.n && direct.n == 96 * 16)) {
        const double err = test_rel_l2(direct.context, covered.context,
                                       direct.n);

        CHECKF(err < 1e-6, "%.2e", err);
        /* the red of the pixel at the left and top */
        CHECK(fabs(direct.context[32 * 16] - cover[1][0]) < 1e-6);
    }
    made_free(&direct);
    made_free(&covered);
    wan_model_close(&m);
}

/* Hints add: two controls of half the scale are one of it. Without scale none
 * is run, which is what a scale next to nothing comes to. */
TEST(several_controls)
{
    WanModel *m = open_tiny(FOLDER, dut);
    WanControl c[3];
    const WanControl *list[] = { &c[0], &c[1], &c[2] };
    Made one = { 0 }, two = { 0 }, none = { 0 }, little = { 0 };
    WanRequest rq;

    clip_fill(&clips[0], 5, 30, 40);
    small_request(&rq, m, 5);
    for (int i = 0; i < 3; i++)
        c[i] = (WanControl){ .size = sizeof(c[i]), .video = clips[0].list,
                             .nb_frames = 5, .scale = i ? 0.35 : 0.7 };
    rq.controls = list;
    rq.nb_controls = 1;
    make(&one, m, &rq);
    rq.controls = list + 1;
    rq.nb_controls = 2;
    make(&two, m, &rq);
    CHECK(two.contexts == 2);
    CHECKF(distance(&one, &two) < limit_on(dut, 1e-5), "%.2e",
           distance(&one, &two));

    rq.controls = list;
    rq.nb_controls = 1;
    c[0].scale = 0;
    make(&none, m, &rq);
    CHECK(none.contexts == 0);
    c[0].scale = 1e-12;
    make(&little, m, &rq);
    CHECK(little.contexts == 1);
    CHECKF(distance(&none, &little) < limit_on(dut, 1e-5), "%.2e",
           distance(&none, &little));
    CHECK(distance(&none, &one) > 1e-3);
    rq.nb_controls = 3;
    c[0].scale = 0;
    make(&little, m, &rq);
    CHECKF(little.contexts == 2 && distance(&two, &little) == 0, "%d, %.2e",
           little.contexts, distance(&two, &little));
    made_free(&one);
    made_free(&two);
    made_free(&none);
    made_free(&little);
    wan_model_close(&m);
}

/* More references than the video has latent frames, with a preview, with a
 * cache: the plan counts them, the video has its own frames alone. */
TEST(many_references)
{
    Golden *g = golden_open("pipeline-vace-ref-unipc3.safetensors");
    const GoldenTensor *t = golden_find(g, "ref1");
    const WanImage img = golden_rgb(t->raw, t->dim[0], t->dim[1]);
    const WanImage *images[] = { &img, &img, &img, &img };
    WanModel *m = open_tiny(FOLDER, dut);
    WanControl c = { .size = sizeof(c), .scale = 1, .nb_references = 4,
                     .references = images };
    const WanControl *list = &c;
    Made plain = { 0 }, seen = { 0 };
    WanRequest rq;
    WanPlan plan;

    small_request(&rq, m, 1);
    rq.controls = &list;
    rq.nb_controls = 1;
    CHECK(wan_plan(&plan, m, &rq) == 0 && plan.tokens == 5 * 4);
    make(&plain, m, &rq);
    CHECK(plain.frames == 5);
    /* of a reference: its latent, zeros and no mask; as each, so all */
    for (int64_t ch = 0; ch < 96; ch++)
        for (int64_t f = 0; f < 4; f++)
            for (int64_t p = 0; p < plain.position; p++) {
                const float *at = plain.context + (ch * 5 + f) *
                                  plain.position + p;

                if (ch < 16 ? at[0] != at[-f * plain.position] : at[0] != 0)
                    CHECKF(0, "channel %d of reference %d is %g", (int)ch,
                           (int)f, at[0]);
            }
    rq.preview = 1;
    rq.cache = WAN_CACHE_EASY;
    rq.cache_threshold = 1e-9;
    make(&seen, m, &rq);
    CHECK(distance(&plain, &seen) == 0);
    made_free(&plain);
    made_free(&seen);
    wan_model_close(&m);
    golden_close(&g);
}

/* A tiny VAE takes its frames in groups of its own. */
TEST(tiny_vae)
{
    Golden *g = golden_open("pipeline-vace-inpaint-dpm5.safetensors");
    char path[4096], vae[4096], rest[4096];
    GoldenControl control;
    Made made = { 0 };
    WanModelParams p;
    WanRequest rq;
    WanModel *m;

    snprintf(path, sizeof(path), "%s", golden_path(FOLDER));
    snprintf(vae, sizeof(vae), "%s",
             golden_path("tiny/taew2_1/taew2_1.safetensors"));
    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    wan_model_params_default(&p);
    p.path = path;
    p.vae = vae;
    p.text_encoder = p.tokenizer = rest;
    params_backend(&p, dut);
    p.log = print_log;
    if (CHECK(wan_model_open(&m, &p) == 0)) {
        golden_control(&control, g, NULL);
        small_request(&rq, m, 5);
        rq.width = 64;
        rq.height = 48;
        rq.controls = control.list;
        rq.nb_controls = 1;
        make(&made, m, &rq);
        CHECK(made.contexts == 1 && made.frames == 3);
        golden_control_free(&control);
    }
    made_free(&made);
    wan_model_close(&m);
    golden_close(&g);
}

/* ------------------------------------------------------------ bad input */

static char last_line[512];
static int lines;

static void keep_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level > WAN_LOG_ERROR)
        return;
    snprintf(last_line, sizeof(last_line), "%s", line);
    lines++;
}

/* One line, that says so. */
static void refused(const WanModel *m, const WanRequest *rq, const char *says)
{
    int ret;

    lines = 0;
    *last_line = 0;
    ret = wan_request_check(rq, m);
    CHECKF(ret == WAN_ERR(EINVAL) && lines == 1 && strstr(last_line, says),
           "%d, %d lines: %s, not %s", ret, lines, last_line, says);
}

TEST(bad_controls)
{
    WanModel *m = open_tiny(FOLDER, "cpu"), *t2v = open_tiny("tiny/wan-t2v",
                                                             "cpu");
    const WanControl good = { .size = sizeof(good), .scale = 1,
                              .video = clips[0].list, .mask = clips[1].list,
                              .nb_frames = 5, .nb_references = 1,
                              .references = clips[2].list };
    WanControl c = good, other = good;
    const WanControl *list[WAN_CONTROLS + 1] = { &c, &other };
    WanImage wide;
    WanRequest rq;
    WanJob *job;

    clip_fill(&clips[0], 5, 30, 40);
    clip_fill(&clips[1], 5, 0, 60);
    clip_fill(&clips[2], 1, 90, 0);
    wide = clips[1].image[3];
    small_request(&rq, m, 5);
    rq.controls = list;
    rq.nb_controls = 2;
    m->log = t2v->log = (WanLog){ keep_line, NULL, WAN_LOG_WARNING };
    CHECK(wan_request_check(&rq, m) == 0);

#define REFUSED(change, says) \
    do { \
        c = other = good; \
        change; \
        refused(m, &rq, says); \
    } while (0)
    REFUSED(c.video = NULL, "option mask: there is no video");
    REFUSED((c.video = NULL, c.mask = NULL), "option video: 5 frames");
    REFUSED(c.nb_frames = 4, "option video: a control of 4 frames");
    REFUSED(c.nb_references = -1, "option reference: a list of -1");
    REFUSED(c.nb_references = 17, "option reference: a list of 17; 16");
    REFUSED(c.references = NULL, "option reference: a list of 1 that is not");
    REFUSED(other.nb_references = 0, "option reference: control 2 has 0");
    REFUSED(c.scale = NAN, "option context_scale: nan; 0 to 10");
    REFUSED(c.scale = -0.5, "option context_scale: -0.5");
    REFUSED(other.scale = 11, "option context_scale: 11");
    REFUSED(c.size = 3, "WanControl: its size is 3");
    c = other = good;

    wide.width = 16;
    clips[1].list[3] = &wide;
    refused(m, &rq, "option mask: frame 4 is 16x32, the control video's first "
            "32x32");
    clips[1].list[3] = NULL;
    refused(m, &rq, "option mask: one of its images is not there");
    clips[1].list[3] = &clips[1].image[3];
    clips[0].list[1] = &wide;
    refused(m, &rq, "option video: frame 2 is 16x32");
    clips[0].list[1] = &clips[0].image[1];
    wide.width = 1 << 16;
    clips[2].list[0] = &wide;
    refused(m, &rq, "option reference: 65536x32; sides from 1");
    wide = clips[2].image[0];
    wide.format = WAN_PIX_YUV420P;
    refused(m, &rq, "option reference: it must be rgb24");
    wide = clips[2].image[0];
    wide.data[1] = NULL;
    CHECK(wan_request_check(&rq, m) == 0);      // a plan needs no pixels
    CHECK(wan_job_open(&job, m, &rq) == WAN_ERR(EINVAL) && !job);
    CHECKF(strstr(last_line, "option reference: plane 1"), "%s", last_line);
    wide = clips[2].image[0];
    wide.stride[2] = -31;
    CHECK(wan_job_open(&job, m, &rq) == WAN_ERR(EINVAL) && !job);
    CHECKF(strstr(last_line, "plane 2"), "%s", last_line);
    clips[2].list[0] = &clips[2].image[0];

    rq.nb_controls = WAN_CONTROLS + 1;
    refused(m, &rq, "option controls: a list of 9; 8");
    rq.nb_controls = -1;
    refused(m, &rq, "option controls: a list of -1");
    rq.nb_controls = 3;
    refused(m, &rq, "option controls: number 3 of 3 is not there");
    rq.nb_controls = 1;
    rq.controls = NULL;
    refused(m, &rq, "option controls: a list of 1 that is not there");
    rq.controls = list;
    rq.image = &clips[2].image[0];
    refused(m, &rq, "option image: ");
    rq.image = NULL;
    refused(t2v, &rq, "option controls: Wan2.1 T2V (width 96, 2 layers) is a "
            "text-to-video checkpoint and takes none");
    rq.video = clips[0].list;           // to be drawn again: one or the other
    rq.nb_video = 5;
    refused(t2v, &rq, "option controls: ");
    refused(m, &rq, "option video: ");
    wan_model_close(&m);
    wan_model_close(&t2v);
}

/* A transformer file in memory, bound; 0 or the error. */
static int bind_bytes(const char *bytes, size_t n)
{
    const WanLog log = { keep_line, NULL, WAN_LOG_WARNING };
    WanConfigFile keys;
    WanPool pool = { 0 };
    WanBinder b = { .part = WAN_PART_DIT, .pool = &pool, .log = &log };
    WanDitConfig c;
    WanDit dit = { 0 };
    int ret;

    lines = 0;
    *last_line = 0;
    wan_config_parse(&keys, "{\"num_heads\": 2}", 16, "config.json", &log);
    if ((ret = wan_weights_open_memory((WanWeights **)&b.weights, "vace.file",
                                       bytes, n, &log)) >= 0 &&
        (ret = wan_config_dit(&c, &b.naming, b.weights, &keys, &log)) >= 0)
        ret = wan_dit_bind(&dit, &c, &b);
    wan_dit_free(&dit);
    wan_pool_free(&pool);
    wan_weights_close((WanWeights **)&b.weights);
    return ret;
}

/* Each tensor of the side stack missing in turn: never taken for a model
 * without one, and the line names it. */
TEST(missing_tensors)
{
    size_t n;
    char *bytes = golden_read(FOLDER "/diffusion_pytorch_model.safetensors",
                              &n);
    int seen = 0;

    CHECKF(bind_bytes(bytes, n) == 0, "%s", last_line);
    for (char *at = bytes + 8; (at = strstr(at, "\"vace_")); at += 6) {
        char name[64];

        snprintf(name, sizeof(name), "%.*s", (int)strcspn(at + 1, "\""), at + 1);
        at[1] = 'x';
        const int ret = bind_bytes(bytes, n);

        CHECKF(ret == WAN_INVALIDDATA && lines == 1, "%s: %d, %d lines", name,
               ret, lines);
        CHECKF(strstr(last_line, name) != NULL, "%s: %s", name, last_line);
        CHECK(strstr(last_line, "vace.file") != NULL);
        at[1] = 'v';
        seen++;
    }
    CHECKF(seen == 62, "%d tensors", seen);

    /* the blocks alone, as some publish them */
    char *head = strstr(bytes + 8, "\"head.modulation\"");
    if (CHECK(head != NULL)) {
        head[1] = 'x';
        CHECK(bind_bytes(bytes, n) == WAN_ERR(ENOSYS) && lines == 1);
        CHECKF(strstr(last_line, "VACE's blocks alone") != NULL, "%s",
               last_line);
        head[1] = 'h';
    }

    char *shape = strstr(bytes + 8, "[64,96,1,2,2]");
    if (CHECK(shape != NULL)) {
        memcpy(shape, "[96,64,1,2,2]", 13);
        CHECK(bind_bytes(bytes, n) == WAN_INVALIDDATA && lines == 1);
        CHECKF(strstr(last_line, "vace_patch_embedding.weight") &&
               strstr(last_line, "[64, 96, 1, 2, 2]"), "%s", last_line);
        memcpy(shape, "[64,48,2,2,2]", 13);
        CHECKF(bind_bytes(bytes, n) == WAN_INVALIDDATA && lines == 1, "%s",
               last_line);
    }
    free(bytes);
}

/* What is no number in a control is named, and no black video made of it. */
TEST(not_finite)
{
    WanModel *m = open_tiny(FOLDER, "cpu");
    static float plane[32 * 32] = { NAN };
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_GBRPF32,
                           .width = 32, .height = 32,
                           .data = { plane, plane, plane },
                           .stride = { 128, 128, 128 } };
    const WanImage *images[] = { &img };
    const WanControl c = { .size = sizeof(c), .scale = 1, .nb_references = 1,
                           .references = images };
    const WanControl *list = &c;
    WanRequest rq;
    WanJob *job;
    int ret;

    m->log = (WanLog){ keep_line, NULL, WAN_LOG_WARNING };
    small_request(&rq, m, 1);
    rq.controls = &list;
    rq.nb_controls = 1;
    ret = wan_job_open(&job, m, &rq);
    while (ret >= 0)
        ret = wan_job_step(job, NULL);
    CHECKF(ret == WAN_ERR(EDOM) && strstr(last_line, "control 1: its context"),
           "%d: %s", ret, last_line);
    wan_job_close(&job);
    wan_model_close(&m);
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN_REF(sources);
    RUN_REF(odd_sources);
    RUN_REF(defaults);
    RUN_REF(canvas_one);
    RUN_REF(canvas_two);
    RUN_REF(canvas_extremes);
    RUN_REF(cover_bicubic);
    RUN(mask_channels);
    RUN(nothing_given);
    RUN(other_size);
    RUN(several_controls);
    RUN(many_references);
    RUN(tiny_vae);
    RUN_REF(bad_controls);
    RUN_REF(missing_tensors);
    RUN_REF(not_finite);
    return test_end();
}
