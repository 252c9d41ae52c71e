/*
 * checkop: every op of a backend against its definition, and the definitions
 * against loops written once more.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 *     checkop [DEVICE]        the tests, as TAP; cpu, cuda, cuda-f32
 *     checkop --bench [rows]  rates of the large ops, see bench.c
 *
 * One program, so one translation unit: the files beside it are parts of it.
 */

#include "checkop.h"
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

static const struct { const char *name; void (*run)(void); } groups[] = {
    { "linear", test_linear }, { "attention", test_attention },
    { "conv", test_conv },     { "norm", test_norm },
    { "rope", test_rope },     { "elem", test_elem },
    { "layout", test_layout }, { "image", test_image },
    { "ring", test_ring },
};

int main(int argc, char **argv)
{
    const WanLog log = { print_log, NULL, WAN_LOG_VERBOSE };
    const int64_t arena = INT64_C(256) << 20;

    if (argc > 1 && !strcmp(argv[1], "--bench"))
        return bench(argc > 2 ? atoi(argv[2]) : 0);
    if (wan_dev_open(&ref, "ref", 1, arena, &log) < 0 ||
        wan_dev_open(&dut, argc > 1 ? argv[1] : "cpu", 2, arena, &log) < 0) {
        printf("Bail out! no device\n");
        return 1;
    }
    dut_act = dut->backend->act;
    for (int i = 0; i < COUNT(groups); i++)
        if (argc < 3 || !strcmp(argv[2], groups[i].name))
            groups[i].run();
    printf("# largest error / tolerance: %.2f\n", worst_ratio);
    wan_dev_close(&ref);
    wan_dev_close(&dut);
    return test_end();
}
