/*
 * The image encoder against the official code.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The official float32 run is 2e-6 to 5e-6 from the truth (relative L2), the
 * bicubic resize included.
 */

#include "image.h"
#include "model_test.h"

#define LIMIT 2e-5

static void encode_all(const char *device)
{
    Golden *g = golden_open("clip.safetensors");
    WanModel *m = open_tiny("tiny/wan-i2v", device);
    WanDev *d = open_dev(device);
    const double limit = limit_on(device, LIMIT);

    for (int i = 0; i < 2; i++) {
        const WanMark mark = wan_mark(d);
        char name[32];

        snprintf(name, sizeof(name), "case%d.image", i);
        const GoldenTensor *t = golden_find(g, name);
        snprintf(name, sizeof(name), "case%d.out", i);
        const GoldenTensor *out = golden_find(g, name);
        const int h = (int)t->dim[0], w = (int)t->dim[1];
        const WanImage img = { .format = WAN_PIX_RGB24, .width = w,
                               .height = h, .data = { (void *)t->raw },
                               .stride = { 3 * w } };
        WanTensor image = wan_tmp(d, 3, h, w);
        WanTensor y = wan_tmp(d, WAN_CLIP_TOKENS, m->clip.config.dim);

        float *rgb = malloc(3 * (size_t)h * w * sizeof(*rgb));

        wan_image_read(rgb, &img, 0, 0, w, h);
        wan_op_upload(d, &image, rgb);
        free(rgb);
        wan_clip_encode(d, &y, &m->clip, &image);
        CHECK(!wan_dev_error(d));
        const double err = tensor_rel_l2(d, &y, out->data, out->n);
        CHECKF(err <= limit, "%dx%d: relative L2 %.2e, limit %.1e", w, h, err,
               limit);
        printf("# %s, %dx%d: %.2e\n", device, w, h, err);
        wan_release(d, mark);
    }
    wan_dev_close(&d);
    wan_model_close(&m);
    golden_close(&g);
}

TEST(official_ref) { encode_all("ref"); }
TEST(official_cpu) { encode_all(dut); }

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN_REF(official_ref);
    RUN(official_cpu);
    RUN_ROUNDED(official_cpu);
    return test_end();
}
