/*
 * The VAE against the official code, layer by layer and chunk by
 * chunk.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The official float32 run is up to 1.2e-6 from the truth (relative L2).
 */

#include "model_test.h"

#define LIMIT 4e-6

/* Decode z and hand each chunk to out, [3, F, H, W] of the whole video. */
static void decode(WanDev *d, const WanCodec *vae, const GoldenTensor *z,
                   float *out)
{
    const int64_t T = z->dim[1], h = z->dim[2], w = z->dim[3];
    const int64_t F = 4 * (T - 1) + 1, HW = 64 * h * w;
    WanTensor latent = wan_tmp(d, 16, T, h, w);
    WanTensor rgb = wan_tmp(d, 4, 8 * h, 8 * w, 3);
    WanCodecStream s;
    int64_t f = 0;

    wan_op_upload(d, &latent, z->data);
    wan_codec_begin_decode(d, &s, vae, h, w);
    for (int64_t t = 0; t < T; t++) {
        WanTensor now = wan_slice(&rgb, 0, t ? 4 : 1);

        wan_codec_decode(d, &now, vae, &s, &latent);
        CHECK(!wan_dev_error(d));
        float *v = values_of(d, &now);

        for (int64_t i = 0; i < now.dim[0]; i++, f++)
            for (int64_t p = 0; p < HW; p++)
                for (int c = 0; c < 3; c++)
                    out[(c * F + f) * HW + p] = v[(i * HW + p) * 3 + c];
        free(v);
    }
    CHECK(f == F);
}

static void decode_all(const char *device, const char *folder)
{
    Golden *g = golden_open("vae.safetensors");
    WanModel *m = open_tiny(folder, device);
    WanDev *d = open_dev(device);

    for (int i = 0; i < 5; i++) {
        const WanMark mark = wan_mark(d);
        char name[32];

        snprintf(name, sizeof(name), "decode%d.z", i);
        const GoldenTensor *z = golden_find(g, name);
        snprintf(name, sizeof(name), "decode%d.out", i);
        const GoldenTensor *out = golden_find(g, name);
        float *video = malloc(out->n * sizeof(*video));

        decode(d, &m->vae, z, video);
        const double err = test_rel_l2(video, out->data, out->n);
        CHECKF(err <= limit_on(device, LIMIT), "%s: relative L2 %.2e", name,
               err);
        free(video);
        wan_release(d, mark);
    }
    wan_dev_close(&d);
    wan_model_close(&m);
    golden_close(&g);
}

TEST(decode_ref) { decode_all("ref", "tiny/wan-t2v"); }
TEST(decode_cpu) { decode_all(dut, "tiny/wan-t2v"); }
TEST(decode_diffusers) { decode_all(dut, "tiny/wan-t2v-diffusers"); }

/* 20 layers in each of the first two chunks, the first frame and a later one. */
static void stages(const char *device)
{
    Golden *g = golden_open("vae_stages.safetensors");
    WanModel *m = open_tiny("tiny/wan-t2v", device);
    WanDev *d = open_dev(device);
    Taps taps = { g, "", limit_on(device, LIMIT), 1, 0, 0 };
    const GoldenTensor *out = golden_find(g, "decode.out");
    float *video = malloc(out->n * sizeof(*video));

    d->tap = check_tap;
    d->tap_opaque = &taps;
    decode(d, &m->vae, golden_find(g, "decode.z"), video);
    const double err = test_rel_l2(video, out->data, out->n);
    CHECKF(err <= taps.limit, "whole: relative L2 %.2e", err);
    CHECKF(taps.seen == 2 * 20, "%d stages seen of 40", taps.seen);
    printf("# %s: worst stage %.2e\n", device, taps.worst);
    free(video);
    wan_dev_close(&d);
    wan_model_close(&m);
    golden_close(&g);
}

TEST(stages_ref) { stages("ref"); }
TEST(stages_cpu) { stages(dut); }

/* Encode [3, F, H, W] in groups of 1, 4, 4, ... frames. */
static void encode(WanDev *d, const WanCodec *vae, const GoldenTensor *video,
                   WanTensor *latent)
{
    const int64_t F = video->dim[1], H = video->dim[2], W = video->dim[3];
    WanTensor all = wan_tmp(d, 3, F, H, W);
    WanCodecStream s;

    *latent = wan_tmp(d, 16, (F - 1) / 4 + 1, H / 8, W / 8);
    wan_op_upload(d, &all, video->data);
    wan_codec_begin_encode(d, &s, vae, H, W);
    for (int64_t f = 0; f < F; f += f ? 4 : 1) {
        const WanMark mark = wan_mark(d);
        WanTensor rgb = wan_tmp(d, f ? 4 : 1, H, W, 3);

        wan_op_channels_last(d, &rgb, &all, f, &vae->one, &vae->zero);
        wan_codec_encode(d, latent, vae, &s, &rgb);
        CHECK(!wan_dev_error(d));
        wan_release(d, mark);
    }
}

static void encode_all(const char *device)
{
    Golden *g = golden_open("vae.safetensors");
    WanModel *m = open_tiny("tiny/wan-i2v", device);
    WanDev *d = open_dev(device);

    for (int i = 0; i < 3; i++) {
        const WanMark mark = wan_mark(d);
        WanTensor latent;
        char name[32];

        snprintf(name, sizeof(name), "encode%d.video", i);
        const GoldenTensor *video = golden_find(g, name);
        snprintf(name, sizeof(name), "encode%d.out", i);
        const GoldenTensor *out = golden_find(g, name);

        encode(d, &m->vae, video, &latent);
        const double err = tensor_rel_l2(d, &latent, out->data, out->n);
        CHECKF(wan_count(&latent) == out->n && err <= limit_on(device, LIMIT),
               "%s: relative L2 %.2e", name, err);
        wan_release(d, mark);
    }
    wan_dev_close(&d);
    wan_model_close(&m);
    golden_close(&g);
}

TEST(encode_ref) { encode_all("ref"); }
TEST(encode_cpu) { encode_all(dut); }

/* 16 layers in each of two chunks. */
TEST(encode_stages)
{
    Golden *g = golden_open("vae_stages.safetensors");
    WanModel *m = open_tiny("tiny/wan-i2v", dut);
    WanDev *d = open_dev(dut);
    Taps taps = { g, "", limit_on(dut, LIMIT), 1, 0, 0 };
    const GoldenTensor *out = golden_find(g, "encode.out");
    WanTensor latent;

    d->tap = check_tap;
    d->tap_opaque = &taps;
    encode(d, &m->vae, golden_find(g, "encode.video"), &latent);
    const double err = tensor_rel_l2(d, &latent, out->data, out->n);
    CHECKF(err <= taps.limit, "whole: relative L2 %.2e", err);
    CHECKF(taps.seen == 2 * 16, "%d stages seen of 32", taps.seen);
    printf("# worst stage %.2e\n", taps.worst);
    wan_dev_close(&d);
    wan_model_close(&m);
    golden_close(&g);
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN_REF(encode_ref);
    RUN(encode_cpu);
    RUN_ROUNDED(encode_cpu);
    RUN(encode_stages);
    RUN_REF(decode_ref);
    RUN(decode_cpu);
    RUN_ROUNDED(decode_cpu);
    RUN(decode_diffusers);
    RUN_REF(stages_ref);
    RUN(stages_cpu);
    RUN_ROUNDED(stages_cpu);
    return test_end();
}
