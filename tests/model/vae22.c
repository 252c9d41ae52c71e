/*
 * Wan 2.2's VAE against the official code, layer by layer and chunk by chunk,
 * its two layouts of a file, and that no later frame changes an earlier one.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The official float32 run is up to 8e-7 from the truth (relative L2).
 */

#include "codec.h"
#include "model_test.h"

#define LIMIT 4e-6

typedef struct Vae {
    WanWeights *weights;
    WanPool pool;
    WanCodec codec;
} Vae;

#define OFFICIAL "tiny/wan22-ti2v-5b/Wan2.2_VAE.pth"
#define DIFFUSERS \
    "tiny/wan22-ti2v-5b-diffusers/vae/diffusion_pytorch_model.safetensors"

static void open_vae(Vae *v, const char *file)
{
    WanVaeConfig c;
    WanBinder b = { .part = WAN_PART_VAE, .pool = &v->pool, .log = &test_log };

    *v = (Vae){ 0 };
    if (wan_weights_open(&v->weights, golden_path(file), &test_log) < 0 ||
        wan_config_vae(&c, &b.naming, v->weights, &test_log) < 0)
        golden_fail("can't be read", file);
    CHECK(c.family == WAN_VAE_WAN22 && c.dim == 5 && c.encoder_dim == 3);
    CHECK(wan_config_holds(v->weights, WAN_PART_VAE));
    b.weights = v->weights;
    CHECK(wan_codec_bind(&v->codec, &c, 1, &b) == 0);
    CHECK(v->codec.family->channels == 48 && v->codec.family->stride == 16 &&
          wan_codec_multiple(&v->codec) == 32);
}

static void close_vae(Vae *v)
{
    wan_weights_close(&v->weights);
    wan_pool_free(&v->pool);
}

/* Decode the first T frames of z into out, [3, F, H, W]; to free(). */
static float *decode(WanDev *d, const WanCodec *vae, const GoldenTensor *z,
                     int64_t T)
{
    const int64_t h = z->dim[2], w = z->dim[3], HW = 256 * h * w;
    const int64_t F = 4 * (T - 1) + 1;
    float *out = malloc(3 * F * HW * sizeof(*out));
    WanTensor latent = wan_tmp(d, 48, z->dim[1], h, w);
    WanTensor rgb = wan_tmp(d, 4, 16 * h, 16 * w, 3);
    WanCodecStream s;
    int64_t f = 0;

    wan_op_upload(d, &latent, z->data);
    wan_codec_begin_decode(d, &s, vae, h, w);
    for (int64_t t = 0; t < T; t++) {
        WanTensor now = wan_slice(&rgb, 0, t ? 4 : 1);

        wan_codec_decode(d, &now, vae, &s, &latent);
        CHECKF(!wan_dev_error(d), "%s", d->message);
        float *v = values_of(d, &now);

        for (int64_t i = 0; i < now.dim[0]; i++, f++)
            for (int64_t p = 0; p < HW; p++)
                for (int c = 0; c < 3; c++)
                    out[(c * F + f) * HW + p] = v[(i * HW + p) * 3 + c];
        free(v);
    }
    CHECK(f == F);
    return out;
}

/* Encode the first F frames of a video [3, .., H, W] in groups of 1, 4, 4, ...
 * frames. */
static WanTensor encode(WanDev *d, const WanCodec *vae,
                        const GoldenTensor *video, int64_t F)
{
    const int64_t H = video->dim[2], W = video->dim[3];
    WanTensor latent = wan_tmp(d, 48, (F - 1) / 4 + 1, H / 16, W / 16);
    WanTensor all = wan_tmp(d, 3, video->dim[1], H, W);
    WanCodecStream s;

    wan_op_upload(d, &all, video->data);
    wan_codec_begin_encode(d, &s, vae, H, W);
    for (int64_t t = 0; t < latent.dim[1]; t++) {
        const WanMark mark = wan_mark(d);
        int n;
        const int64_t from = wan_codec_group(vae, t, &n);
        WanTensor rgb = wan_tmp(d, n, H, W, 3);

        wan_op_channels_last(d, &rgb, &all, from, &vae->one, &vae->zero);
        wan_codec_encode(d, &latent, vae, &s, &rgb);
        CHECKF(!wan_dev_error(d), "%s", d->message);
        wan_release(d, mark);
    }
    return latent;
}

static void all_cases(const char *device, const char *file)
{
    Golden *g = golden_open("vae22.safetensors");
    WanDev *d = open_dev(device);
    double worst = 0;
    Vae v;

    open_vae(&v, file);
    for (int i = 0; i < 4; i++) {
        const WanMark mark = wan_mark(d);
        char name[32];

        snprintf(name, sizeof(name), "decode%d.z", i);
        const GoldenTensor *z = golden_find(g, name);
        snprintf(name, sizeof(name), "decode%d.out", i);
        const GoldenTensor *out = golden_find(g, name);
        float *video = decode(d, &v.codec, z, z->dim[1]);
        const double err = test_rel_l2(video, out->data, out->n);

        CHECKF(err <= limit_on(device, LIMIT), "%s: relative L2 %.2e", name,
               err);
        free(video);

        snprintf(name, sizeof(name), "encode%d.video", i);
        const GoldenTensor *in = golden_find(g, name);
        snprintf(name, sizeof(name), "encode%d.out", i);
        const GoldenTensor *want = golden_find(g, name);
        const WanTensor latent = encode(d, &v.codec, in, in->dim[1]);
        const double back = tensor_rel_l2(d, &latent, want->data, want->n);

        CHECKF(wan_count(&latent) == want->n &&
               back <= limit_on(device, LIMIT), "%s: relative L2 %.2e", name,
               back);
        worst = fmax(worst, fmax(err, back));
        wan_release(d, mark);
    }
    printf("# %s: worst %.2e\n", device, worst);
    close_vae(&v);
    wan_dev_close(&d);
    golden_close(&g);
}

TEST(cases_ref) { all_cases("ref", OFFICIAL); }
TEST(cases_cpu) { all_cases(dut, OFFICIAL); }
TEST(cases_diffusers) { all_cases(dut, DIFFUSERS); }

/* 26 taps of the decoder and 23 of the encoder in each of two chunks: the first
 * frame, and a later one. */
static void stages(const char *device)
{
    Golden *g = golden_open("vae22_stages.safetensors");
    WanDev *d = open_dev(device);
    Taps taps = { g, "", limit_on(device, LIMIT), 1, 0, 0 };
    const GoldenTensor *z = golden_find(g, "decode.z");
    const GoldenTensor *out = golden_find(g, "decode.out");
    const GoldenTensor *video = golden_find(g, "encode.video");
    const GoldenTensor *want = golden_find(g, "encode.out");
    Vae v;

    open_vae(&v, OFFICIAL);
    d->tap = check_tap;
    d->tap_opaque = &taps;
    float *pixels = decode(d, &v.codec, z, z->dim[1]);
    double err = test_rel_l2(pixels, out->data, out->n);
    CHECKF(err <= taps.limit, "decoded: relative L2 %.2e", err);
    CHECKF(taps.seen == 2 * 27, "%d stages of the decoder seen", taps.seen);
    const WanTensor latent = encode(d, &v.codec, video, video->dim[1]);
    err = tensor_rel_l2(d, &latent, want->data, want->n);
    CHECKF(err <= taps.limit, "encoded: relative L2 %.2e", err);
    CHECKF(taps.seen == 2 * (27 + 24), "%d stages seen", taps.seen);
    printf("# %s: worst stage %.2e\n", device, taps.worst);
    free(pixels);
    close_vae(&v);
    wan_dev_close(&d);
    golden_close(&g);
}

TEST(stages_ref) { stages("ref"); }
TEST(stages_cpu) { stages(dut); }

/* The beginning of a sequence gives the same bits as the sequence alone: what is
 * streamed knows nothing of its future, and all of its past. */
TEST(beginnings)
{
    Golden *g = golden_open("vae22.safetensors");
    WanDev *d = open_dev(dut);
    const GoldenTensor *z = golden_find(g, "decode3.z");
    const GoldenTensor *video = golden_find(g, "encode3.video");
    const int64_t T = z->dim[1], F = 4 * T - 3;
    const int64_t HW = 256 * z->dim[2] * z->dim[3];
    Vae v;

    open_vae(&v, OFFICIAL);
    float *whole = decode(d, &v.codec, z, T);
    const WanTensor all = encode(d, &v.codec, video, F);
    float *latents = values_of(d, &all);
    for (int64_t t = 1; t < T; t++) {
        const WanMark mark = wan_mark(d);
        const int64_t f = 4 * t - 3, n = wan_count(&all) / 48 / T;
        float *some = decode(d, &v.codec, z, t);
        const WanTensor few = encode(d, &v.codec, video, f);
        float *values = values_of(d, &few);

        for (int c = 0; c < 3; c++)
            CHECKF(!memcmp(some + c * f * HW, whole + c * F * HW,
                           f * HW * sizeof(float)),
                   "decoding %d of %d, plane %d", (int)t, (int)T, c);
        for (int c = 0; c < 48; c++)
            CHECKF(!memcmp(values + c * t * n, latents + c * T * n,
                           t * n * sizeof(float)),
                   "encoding %d of %d, channel %d", (int)t, (int)T, c);
        free(values);
        free(some);
        wan_release(d, mark);
    }
    free(latents);
    free(whole);
    close_vae(&v);
    wan_dev_close(&d);
    golden_close(&g);
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN_REF(cases_ref);
    RUN(cases_cpu);
    RUN_ROUNDED(cases_cpu);
    RUN(cases_diffusers);
    RUN_REF(stages_ref);
    RUN(stages_cpu);
    RUN_ROUNDED(stages_cpu);
    RUN(beginnings);
    return test_end();
}
