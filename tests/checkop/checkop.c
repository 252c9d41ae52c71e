/*
 * checkop: every op of a backend against its definition, and the definitions
 * against loops written once more.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 *     checkop                 the tests, as TAP, of the processor's backends,
 *                             with its instructions for products, with those of
 *                             AVX2 alone, and without
 *     checkop DEVICE [--plain] [GROUP]
 *                             of one: cpu, cpu-bf16, cpu-int8, cuda, cuda-f32;
 *                             --plain: without those instructions
 *     checkop --bench [all|DEVICE [ROWS]]
 *                             rates of the large ops, see bench.c
 *
 * One program, so one translation unit: the files beside it are parts of it.
 */

#include "checkop.h"
#include "../../wan/cpu/bf16.h"
#include "../../wan/cpu/f32.h"
#include "../../wan/cpu/int8.h"
#include "../../wan/cpu/sgemm.h"

#include "linear.c"
#include "attention.c"
#include "conv.c"
#include "norm.c"
#include "rope.c"
#include "elem.c"
#include "layout.c"
#include "image.c"
#include "bench.c"

static void print_log(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque, (void)level;
    printf("# %s\n", line);
}

static const struct {
    const char *name;
    void (*run)(void);
    int products;
} groups[] = {
    { "linear", test_linear, 1 }, { "attention", test_attention, 1 },
    { "conv", test_conv, 1 },     { "norm", test_norm },
    { "rope", test_rope },        { "elem", test_elem },
    { "layout", test_layout },    { "image", test_image },
    { "ring", test_ring, 1 },
};

/* 0, or -1: there is no such device. plain: without the processor's instructions
 * for products, of F32 without AVX-512. group NULL: all, or those of products,
 * which are what the processor's backends differ in. */
static int check(const char *device, int plain, int products,
                 const char *group)
{
    const WanLog log = { print_log, NULL, WAN_LOG_VERBOSE };
    const int64_t arena = INT64_C(256) << 20;

    if (wan_dev_open(&ref, "ref", 1, arena, &log) < 0 ||
        wan_dev_open(&dut, device, 2, arena, &log) < 0) {
        printf("Bail out! no device\n");
        return -1;
    }
    dut_act = dut->backend->act;
    worst_ratio = 0;
    plain_loops = plain;
#ifdef __aarch64__
    sums_to_odd = wan_bf16_native() && !plain;
#endif
    wan_bf16_plain(plain);
    wan_int8_plain(plain);
    wan_f32_at_most(plain ? WAN_F32_AVX2 : WAN_F32_AVX512);
    printf("# %s%s\n", device, !plain ? "" : strcmp(device, "cpu")
           ? ", plain loops" : ", AVX2");
    for (int i = 0; i < COUNT(groups); i++)
        if (group ? !strcmp(group, groups[i].name)
                  : !products || groups[i].products)
            groups[i].run();
    wan_bf16_plain(0);
    wan_int8_plain(0);
    wan_f32_at_most(WAN_F32_AVX512);
    printf("# largest error / tolerance: %.2f\n", worst_ratio);
    wan_dev_close(&ref);
    wan_dev_close(&dut);
    return 0;
}

int main(int argc, char **argv)
{
    const int plain = argc > 2 && !strcmp(argv[2], "--plain");

    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        const char *device = argc > 2 ? argv[2] : "all";
        const int rows = argc > 3 ? atoi(argv[3]) : 0;

        return strcmp(device, "all") ? bench(device, rows) : bench_all(rows);
    }
    if (argc > 1) {
        if (check(argv[1], plain, plain,
                  argc > 2 + plain ? argv[2 + plain] : NULL) < 0)
            return 1;
    } else if (check("cpu", 0, 0, NULL) < 0 ||
               (wan_f32_native() == WAN_F32_AVX512 &&
                check("cpu", 1, 1, NULL) < 0) ||
               check("cpu-bf16", 0, 1, NULL) < 0 ||
               check("cpu-int8", 0, 1, "linear") < 0 ||
               check("cpu-int8", 0, 1, "attention") < 0 ||
               check("cpu-int8", 0, 1, "ring") < 0 ||
               (wan_bf16_native() && check("cpu-bf16", 1, 1, NULL) < 0) ||
               (wan_int8_native() && (check("cpu-int8", 1, 1, "linear") < 0 ||
                                      check("cpu-int8", 1, 1,
                                            "attention") < 0))) {
        return 1;
    }
    return test_end();
}
