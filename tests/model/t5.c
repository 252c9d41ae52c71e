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

/* The prompt of a case; how many tokens it has. */
static int case_ids(int32_t *ids, Golden *g, int c)
{
    char name[32];
    int n = 0;

    snprintf(name, sizeof(name), "case%d.ids", c);
    const GoldenTensor *id = golden_find(g, name);
    snprintf(name, sizeof(name), "case%d.mask", c);
    const GoldenTensor *mask = golden_find(g, name);
    while (n < WAN_TEXT_LEN && mask->data[n])
        ids[n] = (int32_t)id->data[n], n++;
    return n;
}

/* m's encoder, held against outputs in out; how many there were. */
static int encode_cases(const char *device, WanModel *m, Golden *g,
                        Golden *out, Taps *taps)
{
    WanDev *d = open_dev(device);
    const double limit = limit_on(device, LIMIT);
    int seen = 0;

    for (int c = 0; c < 6; c++) {
        char name[32];
        int32_t ids[WAN_TEXT_LEN];
        const int32_t *const prompt = ids;
        const int n = case_ids(ids, g, c);
        const WanMark mark = wan_mark(d);

        snprintf(name, sizeof(name), "case%d.out", c);
        const GoldenTensor *want = golden_look(out, name);
        if (!want)
            continue;
        seen++;

        d->tap = taps && c == 1 ? check_tap : NULL;
        d->tap_opaque = taps;
        WanTensor y = wan_tmp(d, n, m->t5.config.dim);
        wan_t5_encode(d, 1, &y, &m->t5, &prompt);
        CHECK(!wan_dev_error(d) && want->n == wan_count(&y));
        const double err = tensor_rel_l2(d, &y, want->data, want->n);
        CHECKF(err <= limit, "%s %s, %d tokens: relative L2 %.2e, limit %.1e",
               device, name, n, err, limit);
        wan_release(d, mark);
    }
    wan_dev_close(&d);
    return seen;
}

static void encode_all(const char *device, const char *folder)
{
    Golden *g = golden_open("t5.safetensors");
    WanModel *m = open_tiny(folder, device);
    Taps taps = { g, "layers_case1.", limit_on(device, LIMIT), 0, 0, 0 };

    CHECK(encode_cases(device, m, g, g, &taps) == 6);
    CHECKF(taps.seen == 6, "%d stages seen of 6", taps.seen);
    printf("# %s: worst stage %.2e\n", device, taps.worst);
    wan_model_close(&m);
    golden_close(&g);
}

TEST(official_ref) { encode_all("ref", "tiny/wan-t2v"); }
TEST(official_cpu) { encode_all(dut, "tiny/wan-t2v"); }
TEST(diffusers_cpu) { encode_all(dut, "tiny/wan-t2v-diffusers"); }

/* The same encoder in Q8_0 by llama.cpp's names, its vocabulary inside. */
static void encode_gguf(const char *device)
{
    Golden *g = golden_open("t5.safetensors");
    Golden *out = golden_open("tiny/gguf/umt5/out-Q8_0.safetensors");
    char path[4096], rest[4096];
    WanModelParams p;
    WanModel *m;

    snprintf(path, sizeof(path), "%s",
             golden_path("tiny/gguf/umt5/umt5-encoder-Q8_0.gguf"));
    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    wan_model_params_default(&p);
    p.path = rest;
    p.text_encoder = path;
    params_backend(&p, device);
    p.threads = 2;
    p.log = print_log;
    if (wan_model_open(&m, &p) < 0)
        golden_fail("can't be opened as a text encoder", path);
    CHECK(m->t5.token_embedding.type == WAN_Q8_0);
    CHECK(encode_cases(device, m, g, out, NULL) == 4);
    wan_model_close(&m);
    golden_close(&out);
    golden_close(&g);
}

TEST(gguf_ref) { encode_gguf("ref"); }
TEST(gguf_cpu) { encode_gguf(dut); }

/* Both prompts of each pair in one pass: the same bits as in two where the
 * device's rows are apart, else as near as a golden is. */
TEST(together)
{
    Golden *g = golden_open("t5.safetensors");
    WanModel *m = open_tiny("tiny/wan-t2v", dut);
    WanDev *d = open_dev(dut);
    const int apart = d->backend->ops->rows_apart;
    static int32_t ids[2][WAN_TEXT_LEN];
    const int32_t *const prompt[] = { ids[0], ids[1] };
    int64_t most = 0;

    CHECK(apart || d->backend->device);
    for (int c = 0; c < 6 * 6; c++) {
        const int64_t n[] = { case_ids(ids[0], g, c / 6),
                              case_ids(ids[1], g, c % 6) };
        const int64_t dim = m->t5.config.dim;
        const WanMark mark = wan_mark(d);
        WanTensor one[2], both[2];

        most = n[0] + n[1] > most ? n[0] + n[1] : most;
        for (int i = 0; i < 2; i++) {
            one[i] = wan_tmp(d, n[i], dim);
            both[i] = wan_tmp(d, n[i], dim);
            wan_t5_encode(d, 1, &one[i], &m->t5, &prompt[i]);
        }
        wan_t5_encode(d, 2, both, &m->t5, prompt);
        for (int i = 0; i < 2; i++) {
            float *want = malloc(n[i] * dim * sizeof(*want));

            wan_op_download(d, want, &one[i]);
            const double err = tensor_rel_l2(d, &both[i], want, n[i] * dim);
            CHECKF(err <= (apart ? 0 : limit_on(dut, LIMIT)), "%s, prompt %d "
                   "of %d and %d tokens: %.2e from it alone", dut, i,
                   (int)n[0], (int)n[1], err);
            free(want);
        }
        wan_release(d, mark);
    }
    CHECKF(most > WAN_TEXT_LEN, "%d tokens", (int)most);
    CHECK(!wan_dev_error(d));
    wan_dev_close(&d);
    wan_model_close(&m);
    golden_close(&g);
}

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
    RUN_ROUNDED(official_cpu);
    RUN(diffusers_cpu);
    RUN_REF(gguf_ref);
    RUN(gguf_cpu);
    RUN_ROUNDED(gguf_cpu);
    RUN(together);
    RUN_ROUNDED(together);
    return test_end();
}
