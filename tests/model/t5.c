/*
 * The text encoder against the official code, stage by stage.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The official float32 run is 2e-7 to 5e-7 from the truth (relative L2); the
 * limit allows another order of summation, and less than typical mistakes.
 */

#include "model_test.h"

#define LIMIT 2e-6

static void encode_all(const char *device, const char *folder)
{
    Golden *g = golden_open("t5.safetensors");
    WanModel *m = open_tiny(folder, device);
    WanDev *d = open_dev(device);
    const double limit = limit_on(device, LIMIT);
    Taps taps = { g, "layers_case1.", limit, 0, 0, 0 };

    for (int c = 0; c < 6; c++) {
        char name[32];
        int32_t ids[WAN_TEXT_LEN];
        int n = 0;
        const WanMark mark = wan_mark(d);

        snprintf(name, sizeof(name), "case%d.ids", c);
        const GoldenTensor *id = golden_find(g, name);
        snprintf(name, sizeof(name), "case%d.mask", c);
        const GoldenTensor *mask = golden_find(g, name);
        while (n < WAN_TEXT_LEN && mask->data[n])
            ids[n] = (int32_t)id->data[n], n++;
        snprintf(name, sizeof(name), "case%d.out", c);
        const GoldenTensor *out = golden_find(g, name);

        d->tap = c == 1 ? check_tap : NULL;
        d->tap_opaque = &taps;
        WanTensor y = wan_tmp(d, n, m->t5.config.dim);
        wan_t5_encode(d, &y, &m->t5, ids);
        CHECK(!wan_dev_error(d) && out->n == wan_count(&y));
        const double err = tensor_rel_l2(d, &y, out->data, out->n);
        CHECKF(err <= limit, "%s %s, %d tokens: relative L2 %.2e, limit %.1e",
               device, name, n, err, limit);
        wan_release(d, mark);
    }
    CHECKF(taps.seen == 6, "%d stages seen of 6", taps.seen);
    printf("# %s: worst stage %.2e\n", device, taps.worst);
    wan_dev_close(&d);
    wan_model_close(&m);
    golden_close(&g);
}

TEST(official_ref) { encode_all("ref", "tiny/wan-t2v"); }
TEST(official_cpu) { encode_all(dut, "tiny/wan-t2v"); }
TEST(diffusers_cpu) { encode_all(dut, "tiny/wan-t2v-diffusers"); }

/* Every distance a 512-token text can hold. */
TEST(relative_bucket)
{
    Golden *g = golden_open("t5.safetensors");
    const GoldenTensor *b = golden_find(g, "relative_bucket");

    for (int i = 0; i < b->n; i++)
        CHECKF(wan_t5_bucket(i - 511) == (int)b->data[i], "distance %d",
               i - 511);
    golden_close(&g);
}

int main(int argc, char **argv)
{
    choose_device(argc, argv);
    RUN(relative_bucket);
    RUN_REF(official_ref);
    RUN(official_cpu);
    RUN(diffusers_cpu);
    return test_end();
}
