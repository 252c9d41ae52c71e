/*
 * checkop: every op of a backend against its definition, and the definitions
 * against loops written once more.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 *     checkop                 the tests, as TAP, of the processor's backends,
 *                             with its instructions for products, with those of
 *                             AVX2 alone, and without
 *     checkop DEVICE [--plain | --beside-f32] [GROUP]
 *                             of one: cpu, cpu-bf16, cpu-int8, cuda, cuda-f32;
 *                             --plain: without those instructions;
 *                             --beside-f32: as if there were none for BF16
 *     checkop --bench [all|DEVICE [ROWS]]
 *                             rates of the large ops, see bench.c
 *
 * One program, so one translation unit: the files beside it are parts of it.
 */

#include "checkop.h"
#include "../../wan/cpu/bf16.h"
#include "../../wan/cpu/f32.h"
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

/* By what products are made. */
enum {
    BEST,                       // by what the processor has
    PLAIN,                      // by plain loops, in F32 by AVX2 or oneDNN
    BESIDE_F32                  // what is not in 8 bits: in F32, not BF16
};

/* 0, or -1: there is no such device. group NULL: all, or those of products,
 * which are what the processor's backends differ in. */
static int check(const char *device, int how, int products,
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
    plain_loops = how == PLAIN;
    test_seed = 1;              // the numbers are those of a run of this alone
#ifdef __aarch64__
    sums_to_odd = wan_bf16_native() && how != PLAIN;
#endif
    wan_bf16_plain(how == PLAIN);
    wan_int8_plain(how == PLAIN);
    wan_int8_no_bf16(how == BESIDE_F32);
    wan_f32_at_most(how == PLAIN ? WAN_F32_AVX2 : WAN_F32_AVX512);
    printf("# %s%s\n", device, how == BESIDE_F32 ? ", else F32" :
           how == BEST ? "" : strcmp(device, "cpu") ? ", plain loops"
                                                    : ", AVX2");
    for (int i = 0; i < COUNT(groups); i++)
        if (group ? !strcmp(group, groups[i].name)
                  : !products || groups[i].products)
            groups[i].run();
    wan_bf16_plain(0);
    wan_int8_plain(0);
    wan_int8_no_bf16(0);
    wan_f32_at_most(WAN_F32_AVX512);
    printf("# largest error / tolerance: %.2f\n", worst_ratio);
    wan_dev_close(&ref);
    wan_dev_close(&dut);
    return 0;
}

int main(int argc, char **argv)
{
    const int how = argc > 2 && !strcmp(argv[2], "--plain") ? PLAIN
                  : argc > 2 && !strcmp(argv[2], "--beside-f32") ? BESIDE_F32
                  : BEST;

    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        const char *device = argc > 2 ? argv[2] : "all";
        const int rows = argc > 3 ? atoi(argv[3]) : 0;

        return strcmp(device, "all") ? bench(device, rows) : bench_all(rows);
    }
    if (argc > 1) {
        if (check(argv[1], how, how != BEST,
                  argc > 2 + (how != BEST) ? argv[2 + (how != BEST)] : NULL) < 0)
            return 1;
    } else if (check("cpu", BEST, 0, NULL) < 0 ||
               (wan_f32_native() == WAN_F32_AVX512 &&
                check("cpu", PLAIN, 1, "linear") < 0) ||
               check("cpu-bf16", BEST, 1, NULL) < 0 ||
               check("cpu-int8", BEST, 1, "linear") < 0 ||
               check("cpu-int8", BEST, 1, "attention") < 0 ||
               check("cpu-int8", BEST, 1, "ring") < 0 ||
               (wan_bf16_native() && check("cpu-bf16", PLAIN, 1, NULL) < 0) ||
               (wan_int8_native() &&
                (check("cpu-int8", PLAIN, 1, "linear") < 0 ||
                 check("cpu-int8", PLAIN, 1, "attention") < 0)) ||
               check("cpu-int8", BESIDE_F32, 1, "linear") < 0 ||
               check("cpu-int8", BESIDE_F32, 1, "attention") < 0 ||
               check("cpu-int8", BESIDE_F32, 1, "conv") < 0) {
        return 1;
    }
    return test_end();
}
