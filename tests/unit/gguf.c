/*
 * GGUF: types, shapes and the vocabulary that are read, and that damage is
 * refused.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "golden.h"
#include "gguf_util.h"
#include "model.h"
#include "ops.h"

#define FILE_NAME "a.gguf"
#define UMT5 "tiny/gguf/umt5/umt5-encoder-Q8_0.gguf"
#define Q8_0_MODEL "tiny/gguf/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf"
#define SHAPE "comfy.gguf.orig_shape."

/* Types by GGUF's numbers. */
enum { F32, F16, Q4_0, IQ2_XS = 17, I8 = 24, I16, I32, I64, F64, BF16 = 30,
       Q8_0 = 8, Q4_K = 12 };

/* ----------------------------------------------------------------- types */

/* Decoded, each type has the bits that the gguf package computes. */
static void type_is_exact(Golden *values, const char *word, WanType type)
{
    static const char *const tensor[][2] = {
        { "blocks.0.ffn.0.weight", "weight" },
        { "blocks.0.ffn.2.weight", "raw" },
    };
    char file[64], name[64];
    WanWeights *w;

    snprintf(file, sizeof(file), "tiny/gguf/types/%s.gguf", word);
    if (!CHECKF(!wan_weights_open(&w, golden_path(file), &test_log), "%s: %s", file,
                last_line))
        return;
    for (int i = 0; i < 2; i++) {
        const WanStored *s = wan_weights_find(w, tensor[i][0]);
        const GoldenTensor *want;

        snprintf(name, sizeof(name), "%s.%s", wan_type_name(type),
                 tensor[i][1]);
        if (!(want = golden_look(values, name)))
            continue;           // plain types have one
        CHECK(s && s->type == type && wan_stored_count(s) == want->n);
        CHECK(s->nb_dims == 2 && s->dim[0] == want->dim[0] &&
              s->dim[1] == want->dim[1]);

        float *got = malloc(want->n * sizeof(*got));
        char *shifted = malloc(s->bytes + 1);

        wan_to_f32(got, s->data, s->type, want->n, 1);
        CHECKF(!memcmp(got, want->data, want->n * sizeof(*got)), "%s", name);
        /* by rows, and at an odd address */
        memcpy(shifted + 1, s->data, s->bytes);
        for (int64_t r = s->dim[0] - 1; r >= 0; r--)
            wan_to_f32(got + r * s->dim[1], shifted + 1 +
                       wan_type_bytes(type, r * s->dim[1]), type, s->dim[1],
                       2);
        for (int64_t k = 0; k < want->n; k++)
            CHECK(got[k] == 2 * want->data[k] || isnan(want->data[k]));
        free(got);
        free(shifted);
    }
    wan_weights_close(&w);
}

TEST(types)
{
    static const struct {
        const char *word;
        WanType type;
    } c[] = {
        { "f16", WAN_F16 }, { "bf16", WAN_BF16 }, { "q4_0", WAN_Q4_0 },
        { "q4_1", WAN_Q4_1 }, { "q5_0", WAN_Q5_0 }, { "q5_1", WAN_Q5_1 },
        { "q8_0", WAN_Q8_0 }, { "q2_k", WAN_Q2_K }, { "q3_k", WAN_Q3_K },
        { "q4_k", WAN_Q4_K }, { "q5_k", WAN_Q5_K }, { "q6_k", WAN_Q6_K },
        { "iq4_nl", WAN_IQ4_NL }, { "iq4_xs", WAN_IQ4_XS },
    };
    Golden *values = golden_open("tiny/gguf/types/values.safetensors");

    for (size_t i = 0; i < sizeof(c) / sizeof(*c); i++)
        type_is_exact(values, c[i].word, c[i].type);
    golden_close(&values);
}

/* A linear layer by blocks is one by their numbers: whole panels, parts of
 * them, more columns than a tile. */
TEST(linear_layers)
{
    static const int64_t shape[][3] = {     // rows, K, N
        { 3, 512, 8 }, { 530, 512, 8 }, { 2, 2560, 300 },
    };
    WanDev *d;

    if (!CHECK(!wan_dev_open(&d, "cpu", 2, 64 << 20, &test_log)))
        return;
    for (int type = WAN_Q4_0; type < WAN_NB_TYPES; type++) {
        for (int c = 0; c < 3; c++) {
            const int64_t L = shape[c][0], K = shape[c][1], N = shape[c][2];
            const int64_t bytes = wan_type_bytes(type, N * K);
            const int scale = type == WAN_Q2_K ? 80 : type == WAN_Q3_K ? 108 :
                              type == WAN_Q6_K ? 208 : 0;
            const WanMark mark = wan_mark(d);
            WanTensor x = wan_tmp(d, L, K), y = wan_tmp(d, L, N);
            WanTensor want = wan_tmp(d, L, N);
            uint8_t *blocks = malloc(bytes);
            float *f = malloc(N * K * sizeof(*f));
            WanLinear l = { .weight = wan_tensor_of(blocks, type, N, K) };

            for (int64_t i = 0; i < bytes; i++)
                blocks[i] = (uint8_t)(i * i * 31 + i / 7);
            /* scales that are numbers: d, and m beside it */
            for (int64_t i = 0; i < bytes; i += wan_type_size(type))
                blocks[i + scale + 1] = blocks[i + scale + 1] % 0x30;
            if (type == WAN_Q4_1 || type == WAN_Q5_1 || type == WAN_Q2_K ||
                type == WAN_Q4_K || type == WAN_Q5_K)
                for (int64_t i = 0; i < bytes; i += wan_type_size(type))
                    blocks[i + scale + 3] = blocks[i + scale + 3] % 0x30;
            for (int64_t i = 0; i < L * K; i++)
                wan_row(&x, 0)[i] = (float)(i % 97) / 97 - 0.5f;
            wan_op_linear(d, &y, &x, &l);
            wan_to_f32(f, blocks, type, N * K, 1);
            l.weight = wan_tensor_of(f, WAN_F32, N, K);
            wan_op_linear(d, &want, &x, &l);
            const double err = test_rel_l2(wan_row(&y, 0), wan_row(&want, 0),
                                           L * N);

            CHECKF(!wan_dev_error(d) && err < 1e-6, "%s, %d: %.1e",
                   wan_type_name(type), c, err);
            free(f);
            free(blocks);
            wan_release(d, mark);
        }
    }
    wan_dev_close(&d);
}

/* -------------------------------------------------------------- binding */

typedef struct Fixture {
    WanWeights *w;
    uint8_t *held;
    WanPool pool;
    WanBinder b;
} Fixture;

static void open_fixture(Fixture *f, GgufMaker *g)
{
    Bytes b = gguf_finish(g);

    *f = (Fixture){ 0 };
    if (open_copy(&f->w, &f->held, FILE_NAME, b.p, b.n) < 0)
        golden_fail(last_line, FILE_NAME);
    f->b = (WanBinder){ .weights = f->w, .pool = &f->pool, .log = &test_log };
    drop(&b);
}

static void close_fixture(Fixture *f)
{
    wan_pool_free(&f->pool);
    wan_weights_close(&f->w);
    free(f->held);
}

/* What of a file of blocks stays where it is, and what becomes F32. */
TEST(binding)
{
    GgufMaker g = { 0 };
    Fixture f;
    WanTensor t;
    WanLinear l;
    float want[256];

    gguf_tensor(&g, "m.weight", Q8_0, 2 * 34, 32, 2);
    gguf_tensor(&g, "v", Q8_0, 34, 32);
    gguf_tensor(&g, "flat", Q8_0, 8 * 34, 256);         // [256] or [1, 256]
    gguf_tensor(&g, "foreign", IQ2_XS, 74, 256);        // not read, not in the way
    put_le(gguf_array(&g, SHAPE "flat", GGUF_I32, 2), 16, 4);
    put_le(&g.keys, 16, 4);
    open_fixture(&f, &g);

    const WanStored *m = wan_weights_find(f.w, "m.weight");
    const WanStored *flat = wan_weights_find(f.w, "flat");
    wan_bind_linear(&f.b, &l, "m", 2, 32, 0);
    CHECK(l.weight.type == WAN_Q8_0 && l.weight.data == m->data);
    wan_bind_vector(&f.b, &t, "v", 32);
    CHECK(t.type == WAN_F32 && ((float *)t.data)[1] ==
          3 * wan_f16_to_f32(0x100));
    CHECK(flat->nb_dims == 2 && flat->dim[0] == 16);
    wan_bind_matrix(&f.b, &t, "flat", 16, 16);          // rows within blocks
    wan_to_f32(want, flat->data, WAN_Q8_0, 256, 1);
    CHECK(t.type == WAN_F32 && !memcmp(t.data, want, sizeof(want)));
    CHECK(wan_binder_end(&f.b) == 0);
    wan_bind_matrix(&f.b, &t, "foreign", 256);
    CHECK(wan_binder_end(&f.b) == WAN_INVALIDDATA);
    CHECKF(strstr(last_line, "tensor foreign: expected F32, F16, BF16, fp8 or "
                  "a type in blocks, found IQ2_XS"), "%s", last_line);
    close_fixture(&f);
}

/* Kernels [D, C, 1, 2, 2] as converters flatten them. */
TEST(flat_kernels)
{
    static const struct {
        int nb_dims;
        uint64_t dim[5];            // fastest first
        int ok;
    } c[] = {
        { 5, { 2, 2, 1, 16, 8 }, 1 }, { 4, { 2, 2, 1, 128 }, 1 },
        { 2, { 64, 8 }, 1 }, { 2, { 256, 2 }, 1 }, { 1, { 512 }, 1 },
        { 4, { 2, 2, 16, 8 }, 1 }, { 3, { 4, 16, 8 }, 1 },
        { 5, { 2, 2, 1, 8, 16 }, 0 }, { 2, { 8, 64 }, 0 },
        { 2, { 128, 4 }, 0 }, { 2, { 256, 4 }, 0 }, { 1, { 256 }, 0 },
        { 2, { 0, 64 }, 0 },
    };

    for (size_t i = 0; i < sizeof(c) / sizeof(*c); i++) {
        GgufMaker g = { 0 };
        size_t n = 4;
        Fixture f;
        WanTensor t;

        for (int k = 0; k < c[i].nb_dims; k++)
            n *= c[i].dim[k];
        gguf_tensor_(&g, "k", F32, n, c[i].nb_dims, c[i].dim);
        open_fixture(&f, &g);
        wan_bind_matrix(&f.b, &t, "k", 8, 16, 1, 2, 2);
        CHECKF(wan_binder_end(&f.b) == (c[i].ok ? 0 : WAN_INVALIDDATA),
               "%zu: %s", i, last_line);
        if (c[i].ok && c[i].nb_dims < 4) {      // a matrix is not
            f.b.error = 0;
            wan_bind_matrix(&f.b, &t, "k", 16, 32);
            CHECK(wan_binder_end(&f.b) == WAN_INVALIDDATA);
            CHECK(strstr(last_line, "tensor k: expected [16, 32], found"));
        }
        close_fixture(&f);
    }
}

/* --------------------------------------------------------- the tokenizer */

/* The vocabulary inside makes the ids that spiece.model makes. */
TEST(vocabulary)
{
    WanWeights *w;
    WanTokenizer *inside, *beside;
    const WanStored *s;
    cJSON *json = golden_json("tokenizer/prompts.json");
    const cJSON *c;
    char *file;
    size_t bytes;
    int texts = 0;

    if (!CHECK(!wan_weights_open(&w, golden_path(UMT5), &test_log)))
        return;
    s = wan_weights_find(w, "spiece_model");
    if (!CHECK(s && s->type == WAN_U8) ||
        !CHECKF(!wan_tokenizer_open(&inside, s->data, s->bytes, s->file,
                                    &test_log), "%s", last_line))
        return;
    file = golden_read("tokenizer/spiece.model", &bytes);
    CHECK(!wan_tokenizer_open(&beside, file, bytes, "spiece.model",
                              &test_log));
    free(file);
    CHECK(wan_tokenizer_vocab(inside) == wan_tokenizer_vocab(beside));
    cJSON_ArrayForEach(c, cJSON_GetObjectItem(json, "cases")) {
        const cJSON *text = cJSON_GetObjectItem(c, "text");
        int32_t a[WAN_TEXT_LEN], b[WAN_TEXT_LEN];
        int n, m;

        if (!text)
            continue;
        n = wan_tokenizer_encode(inside, a, NULL, text->valuestring,
                                 &test_log);
        m = wan_tokenizer_encode(beside, b, NULL, text->valuestring,
                                 &test_log);
        CHECKF(n == m && n > 0 && !memcmp(a, b, n * sizeof(*a)), "\"%.60s\"",
               text->valuestring);
        texts++;
    }
    CHECK(texts > 100);
    cJSON_Delete(json);
    wan_tokenizer_close(&inside);
    wan_tokenizer_close(&beside);
    wan_weights_close(&w);
}

/* A model that has no spiece.model anywhere. */
TEST(vocabulary_of_a_model)
{
    static const char *const part[] = {
        "diffusion_pytorch_model.safetensors", "config.json",
        "Wan2.1_VAE.pth",
    };
    WanModelParams p;
    WanModel *m;

    (void)scratch(part[0]);
    for (size_t i = 0; i < sizeof(part) / sizeof(*part); i++) {
        char from[64], full[4096];

        snprintf(from, sizeof(from), "tiny/wan-t2v/%s", part[i]);
        if (!realpath(golden_path(from), full))
            golden_fail("is not there", from);
        CHECK(!symlink(full, scratch(part[i])));
    }
    wan_model_params_default(&p);
    p.path = scratch_dir;
    p.text_encoder = golden_path(UMT5);
    p.device = "cpu";
    p.log = keep_line;
    p.log_level = WAN_LOG_ERROR;
    CHECKF(!wan_model_open(&m, &p), "%s", last_line);
    CHECK(m && wan_tokenizer_vocab(m->tokenizer) == 3372);
    wan_model_close(&m);
    scratch_clean();
}

/* A file with so many tokens, scores and types, and bytes of charsmap. */
static Bytes with_tokenizer(const char *model, uint32_t text, uint64_t tokens,
                            uint64_t scores, uint64_t types, uint64_t map)
{
    static const char *const word[] = { "<pad>", "</s>", "<unk>", "a",
                                        "[PAD4]", "<extra_id_0>" };
    static const uint32_t kind[] = { 3, 3, 2, 1, 5, 4 };
    GgufMaker g = { 0 };

    gguf_string(&g, "tokenizer.ggml.model", model);
    gguf_array(&g, "tokenizer.ggml.tokens", text, tokens);
    for (uint64_t i = 0; i < tokens; i++) {
        if (text == GGUF_STRING)
            gguf_text(&g.keys, word[i % 6]);
        else
            put_le(&g.keys, i, 4);
    }
    gguf_array(&g, "tokenizer.ggml.scores", GGUF_F32, scores);
    put_zeros(&g.keys, 4 * scores);
    gguf_array(&g, "tokenizer.ggml.token_type", GGUF_I32, types);
    for (uint64_t i = 0; i < types; i++)
        put_le(&g.keys, kind[i % 6], 4);
    gguf_array(&g, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, map);
    put_zeros(&g.keys, map);
    return gguf_finish(&g);
}

/* Whether b has a spiece_model, and how many ids that has. */
static int tokens_of(Bytes *b)
{
    uint8_t *held;
    WanWeights *w;
    WanTokenizer *t;
    const WanStored *s;
    int n = 0;

    CHECKF(!open_copy(&w, &held, FILE_NAME, b->p, b->n), "%s", last_line);
    s = w ? wan_weights_find(w, "spiece_model") : NULL;
    if (s && CHECKF(!wan_tokenizer_open(&t, s->data, s->bytes, s->file,
                                        &test_log), "%s", last_line)) {
        n = wan_tokenizer_vocab(t) - 300;
        wan_tokenizer_close(&t);
    }
    wan_weights_close(&w);
    free(held);
    drop(b);
    return n;
}

TEST(vocabularies_of_other_kinds)
{
    Bytes b = with_tokenizer("t5", GGUF_STRING, 6, 6, 6, 0);

    CHECK(tokens_of(&b) == 4);      // what fills the table is left out
    b = with_tokenizer("gpt2", GGUF_STRING, 6, 6, 6, 0);
    CHECK(tokens_of(&b) == 0);
    b = with_tokenizer("t5", GGUF_STRING, 0, 6, 6, 0);
    CHECK(tokens_of(&b) == 0);

    /* the charsmap goes on to the tokenizer, which refuses this one */
    uint8_t *held;
    WanWeights *w;
    WanTokenizer *t;
    b = with_tokenizer("t5", GGUF_STRING, 6, 6, 6, 9);
    CHECK(!open_copy(&w, &held, FILE_NAME, b.p, b.n));
    const WanStored *s = wan_weights_find(w, "spiece_model");
    CHECK(s && wan_tokenizer_open(&t, s->data, s->bytes, s->file,
                                  &test_log) == WAN_INVALIDDATA);
    CHECKF(strstr(last_line, "precompiled_charsmap"), "%s", last_line);
    wan_weights_close(&w);
    free(held);
    drop(&b);

    b = with_tokenizer("t5", GGUF_STRING, 6, 5, 6, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "6 tokens, 5 scores and 6 types");
    b = with_tokenizer("t5", GGUF_STRING, 6, 6, 0, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "6 tokens, 6 scores and 0 types");
    b = with_tokenizer("t5", GGUF_U32, 6, 6, 6, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "other types than string");
}

/* ----------------------------------------------------------- bad input */

/* Keys of every type, shapes, a vocabulary, plain and quantised tensors, one
 * of them empty. */
static Bytes all_kinds(void)
{
    GgufMaker g = { .align = 64 };
    Bytes *b;

    put_le(gguf_key(&g, "general.alignment", GGUF_U32), 64, 4);
    gguf_string(&g, "general.architecture", "wan");
    put_le(gguf_key(&g, "a", GGUF_BOOL), 1, 1);
    put_le(gguf_key(&g, "b", GGUF_I16), 1, 2);
    put_le(gguf_key(&g, "c", GGUF_F64), 1, 8);
    b = gguf_array(&g, "d", GGUF_ARRAY, 2);
    for (int i = 0; i < 2; i++) {
        put_le(b, GGUF_U8, 4);
        put_le(b, 3, 8);
        put_zeros(b, 3);
    }
    b = gguf_array(&g, SHAPE "x", GGUF_I64, 3);
    for (int i = 2; i < 5; i++)
        put_le(b, i == 2 ? 16 : i == 3 ? 4 : 8, 8);
    gguf_array(&g, "e", GGUF_STRING, 1);
    gguf_text(&g.keys, "text");
    gguf_tensor(&g, "x", Q8_0, 16 * 34, 256, 2);
    gguf_tensor(&g, "y", I16, 10, 5);
    gguf_tensor(&g, "empty", F16, 0, 0, 3);
    gguf_tensor(&g, "scalar", F64, 8, 1);
    gguf_tensor(&g, "z", Q4_K, 2 * 144, 256, 1, 1, 2);
    return gguf_finish(&g);
}

TEST(reads_all_kinds)
{
    Bytes b = all_kinds();
    uint8_t *held;
    WanWeights *w;
    const WanStored *s;

    if (!CHECKF(!open_copy(&w, &held, FILE_NAME, b.p, b.n), "%s", last_line))
        return;
    CHECK(wan_weights_count(w) == 5);
    s = wan_weights_find(w, "x");
    CHECK(s && s->nb_dims == 3 && s->dim[0] == 16 && s->dim[1] == 4 &&
          s->dim[2] == 8 && s->bytes == 16 * 34 && s->type == WAN_Q8_0);
    CHECK(s && ((uintptr_t)s->data - (uintptr_t)held) % 64 == 0 &&
          ((const uint8_t *)s->data)[33] == 33);
    s = wan_weights_find(w, "z");
    CHECK(s && s->nb_dims == 4 && s->dim[0] == 2 && s->dim[3] == 256);
    s = wan_weights_find(w, "y");
    CHECK(s && s->type == WAN_I16 && s->bytes == 10);
    wan_weights_close(&w);
    free(held);

    /* version 2 is the same; the others are told apart */
    b.p[4] = 2;
    CHECK(try_open(FILE_NAME, b.p, b.n) == 0);
    b.p[4] = 1;
    CHECK(try_open(FILE_NAME, b.p, b.n) == WAN_ERR(ENOSYS));
    CHECK(strstr(last_line, "version 1"));
    b.p[4] = 4;
    CHECK(try_open(FILE_NAME, b.p, b.n) == WAN_ERR(ENOSYS));
    b.p[4] = 0;
    CHECK(try_open(FILE_NAME, b.p, b.n) == WAN_ERR(ENOSYS));
    b.p[7] = 3;
    CHECK(try_open(FILE_NAME, b.p, b.n) == WAN_ERR(ENOSYS));
    CHECK(strstr(last_line, "big-endian"));
    drop(&b);
}

TEST(refuses_every_truncation)
{
    Bytes b = all_kinds();

    for (size_t n = 4; n < b.n; n++) {
        const int ret = try_open(FILE_NAME, b.p, n);

        CHECKF(ret == WAN_INVALIDDATA, "%zu bytes: %d", n, ret);
    }
    put_lit(&b, "more");
    CHECK(try_open(FILE_NAME, b.p, b.n) == 0);
    drop(&b);
}

TEST(survives_every_changed_byte)
{
    static const uint8_t change[] = { 0, 1, 8, 9, 0x7f, 0x80, 0xff };
    Bytes b = all_kinds();

    for (size_t i = 4; i < b.n; i++) {
        const uint8_t was = b.p[i];

        for (size_t k = 0; k < sizeof(change); k++) {
            b.p[i] = change[k];
            try_open(FILE_NAME, b.p, b.n);
        }
        b.p[i] = was;
    }
    drop(&b);
}

/* Counts that lie, by themselves. */
TEST(refuses_lying_counts)
{
    static const uint64_t lie[] = { 1000, UINT64_C(1) << 32,
                                    UINT64_C(1) << 60, UINT64_MAX };
    const size_t header = 24;

    for (int i = 0; i < 4; i++) {
        for (int at = 8; at <= 16; at += 8) {
            Bytes b = { 0 };

            put_lit(&b, "GGUF\3\0\0\0");
            put_le(&b, at == 8 ? lie[i] : 0, 8);
            put_le(&b, at == 16 ? lie[i] : 0, 8);
            put_zeros(&b, 1000);
            refused(&b, FILE_NAME, WAN_INVALIDDATA, "more than a file of");
        }
        for (uint32_t type = GGUF_U8; type <= GGUF_F64; type++) {
            GgufMaker g = { 0 };
            Bytes b;

            gguf_array(&g, "key.that.lies", type, lie[i]);
            b = gguf_finish(&g);
            refused(&b, FILE_NAME, WAN_INVALIDDATA, "key.that.lies");
        }
        GgufMaker g = { 0 };
        Bytes b;

        put_le(gguf_key(&g, "long", GGUF_STRING), lie[i], 8);
        b = gguf_finish(&g);
        refused(&b, FILE_NAME, WAN_INVALIDDATA, "the value of long");
        gguf_string(&g, "", "");
        b = gguf_finish(&g);
        memset(b.p + header, 0, 8);
        for (int k = 0; k < 8; k++)
            b.p[header + k] = (uint8_t)(lie[i] >> 8 * k);
        refused(&b, FILE_NAME, WAN_INVALIDDATA, "a key reaches out");
        gguf_tensor(&g, "", F32, 4, 1);
        b = gguf_finish(&g);
        for (int k = 0; k < 8; k++)
            b.p[header + k] = (uint8_t)(lie[i] >> 8 * k);
        refused(&b, FILE_NAME, WAN_INVALIDDATA, "list of tensors reaches out");
    }
}

TEST(refuses_bad_values)
{
    static const uint64_t alignment[] = { 0, 3, 33, UINT32_MAX };
    GgufMaker g = { 0 };
    Bytes b;

    gguf_key(&g, "strange", 13);
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "value of strange is of an "
            "unknown type");
    for (int i = 0; i < 8; i++) {       // arrays in arrays in arrays
        if (!i)
            gguf_array(&g, "deep", GGUF_ARRAY, 1);
        put_le(&g.keys, GGUF_ARRAY, 4);
        put_le(&g.keys, 1, 8);
    }
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "value of deep");

    for (int i = 0; i < 4; i++) {
        put_le(gguf_key(&g, "general.alignment", GGUF_U32), alignment[i], 4);
        b = gguf_finish(&g);
        refused(&b, FILE_NAME, WAN_INVALIDDATA, "general.alignment");
    }
    gguf_string(&g, "general.alignment", "32");
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "general.alignment");

    gguf_string(&g, SHAPE "x", "1");
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, SHAPE "x is no list");
    put_zeros(gguf_array(&g, SHAPE "x", GGUF_I32, 9), 36);
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, SHAPE "x is no list");
    put_le(gguf_array(&g, SHAPE "x", GGUF_F32, 1), 1, 4);
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, SHAPE "x is no list");
    put_le(gguf_array(&g, SHAPE "x", GGUF_I64, 2), UINT64_C(1) << 33, 8);
    put_le(&g.keys, UINT64_C(1) << 33, 8);
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, SHAPE "x is no list");
    put_le(gguf_array(&g, SHAPE "x", GGUF_I32, 1), 5, 4);
    gguf_tensor(&g, "x", F32, 16, 4);
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "another number of elements");
}

TEST(refuses_bad_tensors)
{
    static const struct {
        uint32_t type;
        int nb_dims;
        uint64_t dim[9], offset;
        int error;
        const char *words;
    } c[] = {
        { F32, 9, { 1, 1, 1, 1, 1, 1, 1, 1, 1 }, 0, WAN_INVALIDDATA,
          "more than 8 dimensions" },
        { F32, 1, { UINT64_MAX }, 0, WAN_INVALIDDATA, "impossible dim" },
        { F32, 2, { 1u << 31, UINT64_C(1) << 40 }, 0, WAN_INVALIDDATA,
          "impossible dim" },
        { Q4_K, 2, { 256, UINT64_C(1) << 54 }, 0, WAN_INVALIDDATA,
          "of the file" },
        { F32, 1, { 17 }, 0, WAN_INVALIDDATA, "of the file" },
        { F32, 1, { 1 }, 64, WAN_INVALIDDATA, "of the file" },
        { F32, 1, { 0 }, 96, WAN_INVALIDDATA, "of the file" },
        { F32, 1, { 1 }, UINT64_MAX - 31, WAN_INVALIDDATA, "of the file" },
        { F32, 1, { 1 }, 4, WAN_INVALIDDATA, "its offset is no multiple" },
        { Q8_0, 1, { 33 }, 0, WAN_INVALIDDATA, "not whole blocks" },
        { Q4_K, 2, { 32, 8 }, 0, WAN_INVALIDDATA, "not whole blocks" },
        { Q8_0, 0, { 0 }, 0, WAN_INVALIDDATA, "not whole blocks" },
        { 4, 1, { 32 }, 0, WAN_ERR(ENOSYS), "unknown type 4" },
        { 4096, 1, { 32 }, 0, WAN_ERR(ENOSYS), "unknown type 4096" },
    };
    GgufMaker g = { 0 };
    Bytes b;

    for (size_t i = 0; i < sizeof(c) / sizeof(*c); i++) {
        gguf_info(&g, "bad.one", c[i].type, c[i].offset, c[i].nb_dims,
                  c[i].dim);
        put_zeros(&g.data, 64);
        b = gguf_finish(&g);
        refused(&b, FILE_NAME, c[i].error, c[i].words);
    }
    gguf_tensor(&g, "a", F32, 40, 10);
    gguf_info(&g, "b", F32, 32, 1, (const uint64_t[]){ 8 });
    put_zeros(&g.data, 64);
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "tensor b: its data begins inside");
    gguf_tensor(&g, "a", F32, 4, 1);
    gguf_tensor(&g, "a", F32, 4, 1);
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "a is there twice");
    gguf_tensor(&g, "", F32, 4, 1);
    b = gguf_finish(&g);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "name is empty");
}

#define FRAME (3 * 32 * 32)

/* A video of one frame: 0 or the error. */
static int make_frame(WanModel *m, uint8_t rgb[FRAME])
{
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                           .width = 32, .height = 32,
                           .data = { rgb }, .stride = { 3 * 32 } };
    WanRequest rq;
    WanJob *job;
    int ret;

    wan_request_default(&rq, m);
    rq.prompt = "a cat";
    rq.width = rq.height = 32;
    rq.frames = rq.steps = 1;
    rq.rng = WAN_RNG_CPU;
    ret = wan_job_open(&job, m, &rq);
    while (ret >= 0 && (ret = wan_job_step(job, NULL)) >= 0) {
        ret = wan_job_frame(job, &img);
        if (ret != WAN_ERR(EAGAIN))
            break;
        ret = 0;
    }
    wan_job_close(&job);
    return ret;
}

/* A scale that is no number is not seen in a file; the first step sees it. */
TEST(scales_that_are_no_numbers)
{
    size_t bytes;
    char *file = golden_read(Q8_0_MODEL, &bytes), rest[4096];
    uint8_t rgb[FRAME];
    WanModelParams p;
    WanWeights *w;
    WanModel *m;
    Bytes b = { 0 };
    int ret;

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    put(&b, file, bytes);
    free(file);
    CHECK(!wan_weights_open_memory(&w, FILE_NAME, b.p, b.n, &test_log));
    const WanStored *s = wan_weights_find(w, "blocks.0.self_attn.q.weight");
    CHECK(s && s->type == WAN_Q8_0);
    memcpy((uint8_t *)s->data + 34, "\x00\x7e", 2);     // of the second block
    wan_weights_close(&w);
    write_file(scratch(FILE_NAME), &b);
    file = golden_read("tiny/gguf/wan-t2v-q8_0/config.json", &bytes);
    put(&b, file, bytes);
    free(file);
    write_file(scratch("config.json"), &b);

    wan_model_params_default(&p);
    p.path = scratch(FILE_NAME);
    p.text_encoder = p.vae = p.tokenizer = rest;
    p.device = "cpu";
    p.log = keep_line;
    p.log_level = WAN_LOG_ERROR;
    if (!CHECKF(!wan_model_open(&m, &p), "%s", last_line))
        return;
    error_lines = 0;
    ret = make_frame(m, rgb);
    CHECKF(ret == WAN_ERR(EDOM) && error_lines == 1 &&
           strstr(last_line, "step 1 of 1: the latent is not finite"),
           "%d: %s", ret, last_line);
    wan_model_close(&m);
    scratch_clean();
}

/* The tensors of a checkpoint as stable-diffusion.cpp writes them: a prefix,
 * no leading dimensions of 1, at most four dimensions. */
static Bytes converted(const char *path, const char *prefix)
{
    GgufMaker g = { 0 };
    WanWeights *w;
    Bytes b;

    if (wan_weights_open(&w, golden_path(path), &test_log) < 0)
        golden_fail(last_line, path);
    for (int i = 0; i < wan_weights_count(w); i++) {
        const WanStored *s = wan_weights_at(w, i);
        uint64_t dim[WAN_STORED_MAX_DIMS];
        char name[256];
        int n = 0, k = 0;

        while (k < s->nb_dims - 1 && s->dim[k] == 1)
            k++;
        for (int last = s->nb_dims - 1; last >= k; last--) {
            if (n < 4)
                dim[n++] = s->dim[last];
            else
                dim[n - 1] *= s->dim[last];
        }
        snprintf(name, sizeof(name), "%s%s", prefix, s->name);
        CHECK(s->type == WAN_F32);
        gguf_tensor_(&g, name, F32, s->bytes, n, dim);
        memcpy(g.data.p + g.data.n - s->bytes, s->data, s->bytes);
    }
    wan_weights_close(&w);
    b = gguf_finish(&g);
    return b;
}

/* A VAE in GGUF makes the pixels that it makes in its own file. */
TEST(vae)
{
    Bytes b = converted("tiny/wan-t2v/Wan2.1_VAE.pth", "first_stage_model.");
    char path[4096];
    uint8_t rgb[2][FRAME];
    WanModelParams p;

    write_file(scratch("vae.gguf"), &b);
    snprintf(path, sizeof(path), "%s", golden_path("tiny/wan-t2v"));
    wan_model_params_default(&p);
    p.path = path;
    p.device = "cpu";
    p.log = keep_line;
    p.log_level = WAN_LOG_ERROR;
    for (int i = 0; i < 2; i++) {
        WanModel *m;

        p.vae = i ? scratch("vae.gguf") : NULL;
        if (!CHECKF(!wan_model_open(&m, &p), "%s", last_line))
            return;
        CHECKF(!make_frame(m, rgb[i]), "%s", last_line);
        wan_model_close(&m);
    }
    CHECK(!memcmp(rgb[0], rgb[1], FRAME));
    scratch_clean();
}

/* ------------------------------------------------------------------ LoRA */

typedef struct Factor {
    const char *name;
    int rows, cols;
} Factor;

/* Number i of a tensor: small, and another one for each. */
static float factor_value(const char *name, int64_t i)
{
    unsigned h = 2166136261u + (unsigned)i * 40503u;

    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return ((int)(h >> 16 & 0xff) - 128) / 1024.f;
}

/* A safetensors file of these in F32; one of [1, 1] is an alpha of 2. */
static void write_lora(const char *file, const Factor *f, int n)
{
    char json[4096] = "{";
    int64_t at = 0;
    Bytes b;

    for (int i = 0; i < n; i++) {
        const int64_t end = at + 4 * f[i].rows * f[i].cols;

        snprintf(json + strlen(json), sizeof(json) - strlen(json),
                 "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d,%d],"
                 "\"data_offsets\":[%d,%d]}", i ? "," : "", f[i].name,
                 f[i].rows, f[i].cols, (int)at, (int)end);
        at = end;
    }
    b = safetensors(strcat(json, "}"), 0);
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < f[i].rows * f[i].cols; k++) {
            const float v = f[i].rows * f[i].cols > 1
                            ? factor_value(f[i].name, k) : 2;

            put(&b, &v, 4);
        }
    write_file(scratch(file), &b);
}

/* w [N, K] += scale * B A */
static void add_by_hand(float *w, int64_t N, int64_t K, const Factor *f,
                        double scale)
{
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < K; j++) {
            double sum = w[i * K + j];

            for (int r = 0; r < f[0].rows; r++)
                sum += scale * factor_value(f[1].name, i * f[0].rows + r) *
                       factor_value(f[0].name, r * K + j);
            w[i * K + j] = (float)sum;
        }
}

/* y of a layer with products beside it, and of one whose matrix has them. */
static void compare_layers(WanDev *d, const WanLinear *l, float *merged,
                           WanLinearArgs a)
{
    const int64_t N = l->weight.dim[0], K = l->weight.dim[1], L = 5;
    const WanMark mark = wan_mark(d);
    WanTensor x = wan_tmp(d, L, K), y = wan_tmp(d, L, N);
    WanTensor want = wan_tmp(d, L, N), gate = wan_tmp(d, N);
    WanLinear whole = { .weight = wan_tensor_of(merged, WAN_F32, N, K),
                        .bias = l->bias };
    const int gated = a.gate != NULL;

    a.gate = gated ? &gate : NULL;
    for (int64_t i = 0; i < L * K; i++)
        wan_row(&x, 0)[i] = (float)(i % 89) / 89 - 0.5f;
    for (int64_t i = 0; i < N; i++)
        wan_row(&gate, 0)[i] = (float)(i % 7) - 3;
    wan_op_fill(d, &y, 1);
    wan_op_fill(d, &want, 1);
    wan_op_linear_(d, &y, &x, l, a);
    wan_op_linear_(d, &want, &x, &whole, a);
    const double err = test_rel_l2(wan_row(&y, 0), wan_row(&want, 0), L * N);

    CHECKF(!wan_dev_error(d) && err < 1e-6, "act %d, add %d, gate %d: %.1e",
           a.act, a.add, gated, err);
    wan_release(d, mark);
}

/* A matrix in blocks stays as it is; what a file adds is computed beside it. */
TEST(lora)
{
    static const Factor one[] = {
        { "blocks.0.self_attn.q.lora_A.weight", 4, 96 },
        { "blocks.0.self_attn.q.lora_B.weight", 96, 4 },
        { "blocks.0.self_attn.q.alpha", 1, 1 },
        { "blocks.0.ffn.0.lora_A.weight", 3, 96 },
        { "blocks.0.ffn.0.lora_B.weight", 128, 3 },
        { "blocks.0.cross_attn.k.diff", 96, 96 },
        { "blocks.0.cross_attn.v.lora_A.weight", 2, 95 },   // does not fit
        { "blocks.0.cross_attn.v.lora_B.weight", 96, 2 },
    }, two[] = {
        { "diffusion_model.blocks.0.self_attn.q.lora_down.weight", 7, 96 },
        { "diffusion_model.blocks.0.self_attn.q.lora_up.weight", 96, 7 },
    };
    const WanTensor gate = { 0 };
    char path[4096], rest[4096], list[4096];
    float f[128 * 96];
    uint8_t rgb[FRAME];
    WanModelParams p;
    WanModel *m;
    WanDev *d;

    write_lora("one", one, sizeof(one) / sizeof(*one));
    write_lora("two", two, 2);
    snprintf(list, sizeof(list), "%s|%s=0.5", scratch("one"), scratch("two"));
    snprintf(path, sizeof(path), "%s", golden_path(Q8_0_MODEL));
    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    wan_model_params_default(&p);
    p.path = path;
    p.text_encoder = p.vae = p.tokenizer = rest;
    p.lora = list;
    p.device = "cpu";
    p.log = keep_line;
    p.log_level = WAN_LOG_ERROR;
    if (!CHECKF(!wan_model_open(&m, &p), "%s", last_line) ||
        !CHECK(!wan_dev_open(&d, "cpu", 2, 16 << 20, &test_log)))
        return;

    const WanDitBlock *b = &m->dit.blocks[0];
    const WanLinear *q = &b->self_attn.q, *ffn = &b->ffn[0];
    CHECK(q->weight.type == WAN_Q8_0 && q->nb_low == 2);
    wan_to_f32(f, q->weight.data, WAN_Q8_0, 96 * 96, 1);
    add_by_hand(f, 96, 96, one, 2. / 4);
    add_by_hand(f, 96, 96, two, 0.5);
    compare_layers(d, q, f, (WanLinearArgs){ 0 });
    compare_layers(d, q, f, (WanLinearArgs){ .add = 1 });
    compare_layers(d, q, f, (WanLinearArgs){ .gate = &gate });
    CHECK(ffn->weight.type == WAN_Q8_0 && ffn->nb_low == 1);
    wan_to_f32(f, ffn->weight.data, WAN_Q8_0, 128 * 96, 1);
    add_by_hand(f, 128, 96, one + 3, 1);
    compare_layers(d, ffn, f, (WanLinearArgs){ .act = WAN_ACT_GELU_TANH });
    CHECK(b->cross_attn.k.weight.type == WAN_BF16 && !b->cross_attn.k.nb_low);
    CHECK(b->cross_attn.v.weight.type == WAN_Q8_0 && !b->cross_attn.v.nb_low);
    wan_dev_close(&d);

    /* memory that was planned is enough for it */
    CHECKF(!make_frame(m, rgb), "%s", last_line);
    wan_model_close(&m);
    scratch_clean();
}

/* Parts of one checkpoint, as of any other. */
TEST(shards)
{
    static const char *const file[] = { "m-00001-of-00002.gguf",
                                        "m-00002-of-00002.gguf" };
    WanWeights *w;

    for (int i = 0; i < 2; i++) {
        GgufMaker g = { 0 };
        Bytes b;

        gguf_tensor(&g, i ? "b" : "a", F32, 4, 1);
        b = gguf_finish(&g);
        write_file(scratch(file[i]), &b);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(!wan_weights_open(&w, scratch(file[i]), &test_log));
        CHECK(w && wan_weights_find(w, "a") && wan_weights_find(w, "b"));
        wan_weights_close(&w);
    }
    scratch_clean();
}

int main(void)
{
    RUN(types);
    RUN(linear_layers);
    RUN(binding);
    RUN(flat_kernels);
    RUN(vocabulary);
    RUN(vocabulary_of_a_model);
    RUN(vocabularies_of_other_kinds);
    RUN(reads_all_kinds);
    RUN(refuses_every_truncation);
    RUN(survives_every_changed_byte);
    RUN(refuses_lying_counts);
    RUN(refuses_bad_values);
    RUN(refuses_bad_tensors);
    RUN(scales_that_are_no_numbers);
    RUN(vae);
    RUN(lora);
    RUN(shards);
    scratch_clean();
    return test_end();
}
