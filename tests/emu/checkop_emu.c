/*
 * checkop on the emulated kernels, and what no op of the CPU can show: number
 * types, pitches and addresses that vectors don't fit, and that the order in
 * which threads run changes nothing.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * All tests run three times, with threads in order, in reverse and in a
 * random order. Every output must have the same bits each time: a barrier too
 * few makes them differ.
 */

#include "../checkop/checkop.h"
#include "backend.h"

/* Outputs of the first pass, in the order of checks; later ones are held to
 * them. */
static uint64_t *outputs;
static int nb_outputs, outputs_size, output_at, first_pass = 1, differing;

static void note_bits(const void *data, int64_t bytes)
{
    const uint8_t *p = data;
    uint64_t h = 14695981039346656037u;

    for (int64_t i = 0; i < bytes; i++)
        h = (h ^ p[i]) * 1099511628211u;
    if (first_pass) {
        if (nb_outputs == outputs_size) {
            outputs_size = outputs_size * 2 + 1024;
            outputs = realloc(outputs, outputs_size * sizeof(*outputs));
        }
        outputs[nb_outputs++] = h;
        return;
    }
    if (output_at >= nb_outputs || outputs[output_at] != h) {
        printf("# output %d differs from that of threads in order\n",
               output_at);
        test_failed(__FILE__, __LINE__, "same bits in any order");
        differing++;
    }
    output_at++;
}

static void note(const WanTensor *t)
{
    const int64_t size = wan_type_size(t->type), row = wan_cols(t) * size;
    char *dense = malloc(wan_rows(t) * row + 1);

    for (int64_t i = 0; i < wan_rows(t); i++)
        memcpy(dense + i * row,
               (const char *)t->data + i * t->pitch * size, row);
    note_bits(dense, wan_rows(t) * row);
    free(dense);
}

#undef expect_close
#define expect_close(pair, tol, ...) \
    (note(&(pair)->dut), \
     expect_close_(__FILE__, __LINE__, (pair), (tol), __VA_ARGS__))

#include "../checkop/norm.c"
#include "../checkop/rope.c"
#include "../checkop/elem.c"
#include "../checkop/layout.c"
#include "../checkop/image.c"
#include "types.c"

int main(void)
{
    static const char *const order[] = { "in order", "in reverse",
                                         "in a random order" };
    const int64_t arena = INT64_C(64) << 20;

    if (wan_dev_open(&ref, "ref", 1, arena, NULL) < 0 ||
        emu_open(&dut, arena) < 0) {
        printf("Bail out! no device\n");
        return 1;
    }
    for (int i = 0; i < 3; i++) {
        const double start = now();

        printf("# threads %s\n", order[i]);
        emu_set_order(i);
        test_seed = 1;
        first_pass = !i;
        output_at = 0;
        test_norm();
        test_rope();
        test_elem();
        test_layout();
        test_image();
        test_types();
        printf("# %.1f s\n", now() - start);
    }
    printf("# %s, %d outputs\n", emu_summary(), nb_outputs);
    printf("# largest error / tolerance: %.2f\n", worst_ratio);
    free(outputs);
    wan_dev_close(&ref);
    emu_close(&dut);
    return test_end();
}
