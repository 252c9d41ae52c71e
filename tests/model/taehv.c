/*
 * The tiny VAE against the public code: decoding, encoding, its two containers.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Goldens are frames first: z [T, 16, h, w], video [F, 3, H, W] in [0, 1]. The
 * public float32 run is up to 6.3e-7 from the truth (relative L2), 4e-6 at
 * most in one pixel.
 */

#include "codec.h"
#include "model_test.h"
#include "preview.h"

#define LIMIT 3e-6

typedef struct Tae {
    WanWeights *weights;
    WanPool pool;
    WanCodec codec;
} Tae;

static void open_tae(Tae *t, const char *file, int scaled)
{
    char name[96];
    WanVaeConfig c;
    WanBinder b = { .part = WAN_PART_VAE, .pool = &t->pool, .log = &test_log };

    *t = (Tae){ 0 };
    snprintf(name, sizeof(name), "tiny/taew2_1/%s", file);
    if (wan_weights_open(&t->weights, golden_path(name), &test_log) < 0 ||
        wan_config_vae(&c, &b.naming, t->weights, &test_log) < 0)
        golden_fail("can't be read", name);
    CHECK(c.family == WAN_VAE_TAEHV && c.dim == 8 && c.width[0] == 16 &&
          c.width[1] == 12 && c.width[2] == 8 && c.width[3] == 8);
    CHECK(!c.scaled);
    c.scaled = scaled;
    b.weights = t->weights;
    CHECK(wan_codec_bind(&t->codec, &c, 1, &b) == 0);
}

static void close_tae(Tae *t)
{
    wan_weights_close(&t->weights);
    wan_pool_free(&t->pool);
}

/* [T, C, h, w] of a golden to [C, T, h, w] on the device: its own inverse. */
static WanTensor turned(WanDev *d, const GoldenTensor *g, const float *std,
                        const float *mean)
{
    const int64_t T = g->dim[0], C = g->dim[1], n = g->dim[2] * g->dim[3];
    WanTensor t = wan_tmp(d, C, T, g->dim[2], g->dim[3]);
    float *v = malloc(g->n * sizeof(*v));

    for (int64_t i = 0; i < g->n; i++) {
        const int64_t c = i / n % C;
        const float x = g->data[i];

        v[(c * T + i / n / C) * n + i % n] = std ? (x - mean[c]) / std[c] : x;
    }
    wan_op_upload(d, &t, v);
    free(v);
    return t;
}

/* Of a latent [16, T, h, w] as it is made, from the golden's z. */
static double latent_error(WanDev *d, const WanTensor *latent,
                           const GoldenTensor *z)
{
    const int64_t T = z->dim[0], C = z->dim[1], n = z->dim[2] * z->dim[3];
    float *v = values_of(d, latent), *turn = malloc(z->n * sizeof(*turn));

    for (int64_t i = 0; i < z->n; i++)
        turn[i] = v[(i / n % C * T + i / n / C) * n + i % n];
    const double err = test_rel_l2(turn, z->data, z->n);
    free(turn);
    free(v);
    return err;
}

/* Decode and hand out [F, 3, H, W] in [0, 1], clamped. */
static float *decoded(WanDev *d, const WanCodec *codec,
                      const WanTensor *latent)
{
    const int64_t T = latent->dim[1], h = latent->dim[2], w = latent->dim[3];
    const int64_t HW = 64 * h * w;
    float *out = malloc((4 * T - 3) * 3 * HW * sizeof(*out));
    WanTensor rgb = wan_tmp(d, 4, 8 * h, 8 * w, 3);
    WanCodecStream s;
    int64_t f = 0;

    wan_codec_begin_decode(d, &s, codec, h, w);
    for (int64_t t = 0; t < T; t++) {
        WanTensor now = wan_slice(&rgb, 0, t ? 4 : 1);

        wan_codec_decode(d, &now, codec, &s, latent);
        CHECKF(!wan_dev_error(d), "%s", d->message);
        float *v = values_of(d, &now);

        for (int64_t i = 0; i < wan_count(&now); i++) {
            const float x = (v[i] + 1) / 2;

            out[((f + i / 3 / HW) * 3 + i % 3) * HW + i / 3 % HW] =
                x < 0 ? 0 : x > 1 ? 1 : x;
        }
        f += now.dim[0];
        free(v);
    }
    return out;
}

static double decode_error(WanDev *d, const WanCodec *codec, Golden *g, int i)
{
    const WanMark mark = wan_mark(d);
    char name[32];

    snprintf(name, sizeof(name), "decode%d.z", i);
    const WanTensor z = turned(d, golden_find(g, name), NULL, NULL);
    snprintf(name, sizeof(name), "decode%d.video", i);
    const GoldenTensor *video = golden_find(g, name);
    float *v = decoded(d, codec, &z);

    CHECK(video->dim[0] == 4 * z.dim[1] - 3);
    const double err = test_rel_l2(v, video->data, video->n);
    free(v);
    wan_release(d, mark);
    return err;
}

static void decode_all(const char *device, const char *file)
{
    Golden *g = golden_open("taehv.safetensors");
    WanDev *d = open_dev(device);
    double worst = 0;
    Tae t;

    open_tae(&t, file, 0);
    for (int i = 0; i < 4; i++) {
        const double err = decode_error(d, &t.codec, g, i);

        worst = err > worst ? err : worst;
        CHECKF(err <= limit_on(device, LIMIT), "decode%d: relative L2 %.2e",
               i, err);
    }
    printf("# %s, %s: worst %.2e\n", device, file, worst);
    close_tae(&t);
    wan_dev_close(&d);
    golden_close(&g);
}

TEST(decode_ref) { decode_all("ref", "taew2_1.safetensors"); }
TEST(decode_cpu) { decode_all(dut, "taew2_1.safetensors"); }
TEST(decode_pth) { decode_all(dut, "taew2_1.pth"); }
TEST(decode_doubled_grow)
{
    decode_all(dut, "taew2_1_doubled_tgrow.safetensors");
}

/* Encode in groups of four, the last filled with its last frame. */
static void encode(WanDev *d, const WanCodec *codec, const WanTensor *video,
                   WanTensor *latent)
{
    const int64_t F = video->dim[1], H = video->dim[2], W = video->dim[3];
    WanCodecStream s;

    *latent = wan_tmp(d, 16, (F + 3) / 4, H / 8, W / 8);
    wan_codec_begin_encode(d, &s, codec, H, W);
    for (int64_t t = 0; t < latent->dim[1]; t++) {
        const WanMark mark = wan_mark(d);
        int n;
        const int64_t from = wan_codec_group(codec, t, &n);
        WanTensor rgb = wan_tmp(d, n, H, W, 3);

        CHECK(n == 4);
        for (int k = 0; k < n; k++) {
            WanTensor frame = wan_slice(&rgb, k, 1);

            wan_op_channels_last(d, &frame, video,
                                 from + k < F ? from + k : F - 1, &codec->one,
                                 &codec->zero);
        }
        wan_codec_encode(d, latent, codec, &s, &rgb);
        CHECKF(!wan_dev_error(d), "%s", d->message);
        wan_release(d, mark);
    }
}

static void encode_all(const char *device)
{
    static const float half[3] = { 0.5f, 0.5f, 0.5f };
    Golden *g = golden_open("taehv.safetensors");
    WanDev *d = open_dev(device);
    double worst = 0;
    Tae t;

    open_tae(&t, "taew2_1.safetensors", 0);
    for (int i = 0; i < 4; i++) {
        const WanMark mark = wan_mark(d);
        char name[32];

        snprintf(name, sizeof(name), "encode%d.video", i);
        const WanTensor video = turned(d, golden_find(g, name), half, half);
        snprintf(name, sizeof(name), "encode%d.z", i);
        const GoldenTensor *z = golden_find(g, name);
        WanTensor latent;

        encode(d, &t.codec, &video, &latent);
        CHECK(wan_count(&latent) == z->n);
        const double err = latent_error(d, &latent, z);
        worst = err > worst ? err : worst;
        CHECKF(err <= limit_on(device, LIMIT), "%s: relative L2 %.2e", name,
               err);
        wan_release(d, mark);
    }
    printf("# %s: worst %.2e\n", device, worst);
    close_tae(&t);
    wan_dev_close(&d);
    golden_close(&g);
}

TEST(encode_ref) { encode_all("ref"); }
TEST(encode_cpu) { encode_all(dut); }

/* LightTAE's latents are z std + mean: given that, it is the same net. */
TEST(scaled_latents)
{
    static const float half[3] = { 0.5f, 0.5f, 0.5f };
    Golden *g = golden_open("taehv.safetensors");
    WanDev *d = open_dev(dut);
    const GoldenTensor *z = golden_find(g, "decode1.z");
    const GoldenTensor *video = golden_find(g, "decode1.video");
    const GoldenTensor *pixels = golden_find(g, "encode3.video");
    WanTensor latent, own, to[4], frames = turned(d, pixels, half, half);
    Tae light, plain;

    open_tae(&light, "taew2_1.safetensors", 1);
    open_tae(&plain, "taew2_1.safetensors", 0);
    const WanCodec *vae = &light.codec;
    WanBinder b = { .pool = &light.pool, .log = &test_log };
    wan_codec_scales(&b, 16, wan_codec_mean, wan_codec_std, &to[0], &to[1], &to[2], &to[3]);
    const WanTensor ours = turned(d, z, to[0].data, to[1].data);
    float *v = decoded(d, vae, &ours);
    const double err = test_rel_l2(v, video->data, video->n);
    CHECKF(err <= limit_on(dut, LIMIT), "relative L2 %.2e", err);
    free(v);

    encode(d, vae, &frames, &latent);
    encode(d, &plain.codec, &frames, &own);
    float *a = values_of(d, &latent), *want = values_of(d, &own);
    const int64_t n = wan_count(&own) / 16;
    for (int64_t i = 0; i < wan_count(&own); i++)
        want[i] = (want[i] - wan_row(&to[1], 0)[i / n]) /
                  wan_row(&to[0], 0)[i / n];
    const double back = test_rel_l2(a, want, wan_count(&own));
    CHECKF(back <= limit_on(dut, LIMIT), "encoded: relative L2 %.2e", back);
    free(a);
    free(want);
    close_tae(&light);
    close_tae(&plain);
    wan_dev_close(&d);
    golden_close(&g);
}

/* A step's picture: x - sigma v, its middle frame decoded after the one before,
 * boxes of 4 x 4 pixels. */
TEST(preview_is_decoded)
{
    Golden *g = golden_open("taehv.safetensors");
    WanDev *d = open_dev(dut);
    WanTensor x = turned(d, golden_find(g, "decode3.z"), NULL, NULL);
    WanTensor v = wan_tmp_like(d, &x), two = wan_tmp(d, 16, 2, 2, 3);
    WanTensor rgb = wan_tmp(d, 4, 16, 24, 3);
    const WanTensor *both[] = { &x, &v };
    float want[4 * 6 * 3] = { 0 };
    WanCodecStream s;
    WanPreview p;
    Tae t;

    open_tae(&t, "taew2_1.safetensors", 0);
    for (int i = 0; i < 32; i++) {              // frames 1 and 2 of 5
        const WanTensor all = wan_reshape(&x, 80, 2, 3);
        const WanTensor from = wan_slice(&all, i / 2 * 5 + 1 + i % 2, 1);
        WanTensor to = wan_reshape(&two, 32, 2, 3);

        to = wan_slice(&to, i, 1);
        wan_op_copy(d, &to, &from);
    }
    wan_codec_begin_decode(d, &s, &t.codec, 2, 3);
    WanTensor first = wan_slice(&rgb, 0, 1);
    wan_codec_decode(d, &first, &t.codec, &s, &two);
    wan_codec_decode(d, &rgb, &t.codec, &s, &two);
    float *full = values_of(d, &first);
    for (int i = 0; i < 16 * 24 * 3; i++)
        want[(i / 288 * 6 + i / 12 % 6) * 3 + i % 3] += full[i] / 16;
    free(full);

    /* x + 0.25 v is run on: what it foresees is x */
    wan_op_noise(d, &v, WAN_RNG_CPU, 1, 256);
    wan_op_lincomb(d, &x, 2, (double[]){ 1, 0.25 }, both);
    wan_preview_begin(d, &p, &t.codec, &x, 0);
    wan_preview_step(d, &p, &x, &v, 0.25);
    const double err = tensor_rel_l2(d, &p.rgb, want, 72);
    CHECKF(wan_count(&p.rgb) == 72 && err <= limit_on(dut, LIMIT),
           "relative L2 %.2e", err);
    close_tae(&t);
    wan_dev_close(&d);
    golden_close(&g);
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN_REF(decode_ref);
    RUN(decode_cpu);
    RUN_ROUNDED(decode_cpu);
    RUN(decode_pth);
    RUN(decode_doubled_grow);
    RUN_REF(encode_ref);
    RUN(encode_cpu);
    RUN_ROUNDED(encode_cpu);
    RUN(scaled_latents);
    RUN(preview_is_decoded);
    return test_end();
}
