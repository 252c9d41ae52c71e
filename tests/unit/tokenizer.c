/*
 * Token ids against the official path's, and damaged models.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <time.h>

#include "golden.h"
#include "test.h"
#include "tokenizer.h"

/* ------------------------------------------------------------ log lines */

static char line[512];
static int lines;

static void keep_line(void *opaque, enum WanLogLevel level, const char *text)
{
    (void)opaque;
    CHECK(level == WAN_LOG_ERROR || strstr(text, "never match"));
    snprintf(line, sizeof(line), "%s", text);
    lines++;
}

static const WanLog keep = { keep_line, NULL, WAN_LOG_DEBUG };

/* --------------------------------------------------------------- goldens */

static WanTokenizer *golden_tokenizer(void)
{
    WanTokenizer *t = NULL;
    size_t bytes;
    char *file = golden_read("tokenizer/spiece.model", &bytes);

    if (wan_tokenizer_open(&t, file, bytes, "spiece.model", &keep) < 0)
        golden_fail(line, "tokenizer/spiece.model");
    free(file);
    return t;
}

static void expect(const WanTokenizer *t, const char *text, const cJSON *list)
{
    const int total = cJSON_GetArraySize(list);
    int32_t ids[WAN_TEXT_LEN];
    int cut = -1, i = 0, same = 1;
    const int n = wan_tokenizer_encode(t, ids, &cut, text, &keep);
    const cJSON *id;

    CHECK(n == (total < WAN_TEXT_LEN ? total : WAN_TEXT_LEN));
    CHECK(n + cut == total);
    cJSON_ArrayForEach(id, list) {
        if (i + 1 < n)
            same &= ids[i] == id->valueint;
        i++;
    }
    CHECKF(same && n > 0 && ids[n - 1] == 1, "\"%.60s\"", text);
}

TEST(goldens)
{
    WanTokenizer *t = golden_tokenizer();
    cJSON *json = golden_json("tokenizer/prompts.json");
    const cJSON *c;
    int count = 0;

    CHECK(wan_tokenizer_vocab(t) == 3372);
    cJSON_ArrayForEach(c, cJSON_GetObjectItem(json, "cases")) {
        const cJSON *text = cJSON_GetObjectItem(c, "text");
        const cJSON *clean = cJSON_GetObjectItem(c, "cleaned");
        const cJSON *ids = cJSON_GetObjectItem(c, "ids");

        if (text)
            expect(t, text->valuestring, ids);
        if (clean)
            expect(t, clean->valuestring, ids);
        count++;
    }
    CHECKF(count == 190, "%d cases", count);
    cJSON_Delete(json);
    wan_tokenizer_close(&t);
    CHECK(!t);
}

TEST(refuses_what_is_not_a_prompt)
{
    WanTokenizer *t = golden_tokenizer();
    char *big = malloc((1 << 20) + 2);
    int32_t ids[WAN_TEXT_LEN];

    lines = 0;
    CHECK(wan_tokenizer_encode(t, ids, NULL, "a cat\xff", &keep) ==
          WAN_ERR(EINVAL));
    CHECK(!strcmp(line, "prompt: not UTF-8 at byte 5 (0xff)"));
    CHECK(wan_tokenizer_encode(t, ids, NULL, "a cat\xff", NULL) ==
          WAN_ERR(EINVAL));
    memset(big, 'x', (1 << 20) + 1);
    big[(1 << 20) + 1] = 0;
    CHECK(wan_tokenizer_encode(t, ids, NULL, big, &keep) == WAN_ERR(EINVAL));
    CHECK(!strcmp(line, "prompt: 1048577 bytes, at most 1048576 are taken"));
    CHECK(lines == 2);
    free(big);
    wan_tokenizer_close(&t);
    wan_tokenizer_close(&t);
}

TEST(long_prompts_are_quick)
{
    static const char *const worst[] = {
        "cat ", "x", "猫", "😀", "<", "<extra_id_", "<extra_id_1", "</s>", "▁",
        "the a 0000 ", "<0x", "<extra_id_1>",
    };
    WanTokenizer *t = golden_tokenizer();

    for (size_t i = 0; i < sizeof(worst) / sizeof(*worst); i++) {
        const size_t n = strlen(worst[i]), count = 100000 / n;
        char *text = malloc(n * count + 1);
        int32_t ids[WAN_TEXT_LEN];
        clock_t clk;
        double s;

        for (size_t k = 0; k < count; k++)
            memcpy(text + k * n, worst[i], n);
        text[n * count] = 0;
        clk = clock();
        CHECK(wan_tokenizer_encode(t, ids, NULL, text, NULL) > 0);
        s = (double)(clock() - clk) / CLOCKS_PER_SEC;
        CHECKF(s < 2, "\"%s\": %.2f s", worst[i], s);
        free(text);
    }
    wan_tokenizer_close(&t);
}

/* --------------------------------------------------------- made-up models */

typedef struct Bytes {
    uint8_t p[16384];
    size_t n;
} Bytes;

static void varint(Bytes *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        b->p[b->n++] = (uint8_t)(v | 0x80);
    b->p[b->n++] = (uint8_t)v;
}

static void bytes(Bytes *b, int field, const void *p, size_t n)
{
    varint(b, (uint64_t)field << 3 | 2);
    varint(b, n);
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void number(Bytes *b, int field, uint64_t v)
{
    varint(b, (uint64_t)field << 3);
    varint(b, v);
}

static void piece_n(Bytes *b, const char *text, size_t n, float score, int type)
{
    static Bytes m;

    m.n = 0;
    bytes(&m, 1, text, n);
    varint(&m, 2 << 3 | 5);
    memcpy(m.p + m.n, &score, 4);
    m.n += 4;
    if (type != 1)
        number(&m, 3, (uint64_t)type);
    bytes(b, 1, m.p, m.n);
}

static void piece(Bytes *b, const char *text, float score, int type)
{
    piece_n(b, text, strlen(text), score, type);
}

/* <pad> 0, </s> 1, <s> 2, <unk> 3, ▁ 4, a 5, b 6, ab 7, é 8 */
static void small_model(Bytes *b)
{
    b->n = 0;
    piece(b, "<pad>", 0, 3);
    piece(b, "</s>", 0, 3);
    piece(b, "<s>", 0, 3);
    piece(b, "<unk>", 0, 2);
    piece(b, "▁", -1, 1);
    piece(b, "a", -2, 1);
    piece(b, "b", -2, 1);
    piece(b, "ab", -3, 1);
    piece(b, "é", -3, 1);
}

static void charsmap(Bytes *b, const uint32_t *unit, uint32_t n,
                     const char *pool, size_t pool_bytes)
{
    static Bytes map, spec;

    map.n = spec.n = 0;
    n *= 4;
    memcpy(map.p, &n, 4);
    memcpy(map.p + 4, unit, n);
    memcpy(map.p + 4 + n, pool, pool_bytes);
    bytes(&spec, 2, map.p, 4 + n + pool_bytes);
    bytes(b, 3, spec.p, spec.n);
}

static int open_bytes(WanTokenizer **t, const Bytes *b)
{
    uint8_t *exact = malloc(b->n ? b->n : 1);   // ASan sees a step too far
    int ret;

    memcpy(exact, b->p, b->n);
    line[0] = 0;
    ret = wan_tokenizer_open(t, exact, b->n, "x.model", &keep);
    free(exact);
    CHECK(!*t == (ret < 0));
    return ret;
}

/* ids in decimal */
static const char *encoded(const WanTokenizer *t, const char *text)
{
    static char out[512];
    int32_t ids[WAN_TEXT_LEN];
    const int n = wan_tokenizer_encode(t, ids, NULL, text, &keep);
    int len = 0;

    out[0] = 0;
    if (n < 0)
        strcpy(out, n == WAN_INVALIDDATA ? "refused" : "error");
    for (int i = 0; i < n && i < 40; i++)
        len += snprintf(out + len, sizeof(out) - (size_t)len, "%s%d",
                        i ? " " : "", ids[i]);
    return out;
}

static void expect_ids(const WanTokenizer *t, const char *text,
                       const char *want)
{
    const char *got = encoded(t, text);

    CHECKF(!strcmp(got, want), "\"%s\": %s, not %s", text, got, want);
}

TEST(words_and_special_tokens)
{
    static Bytes b;
    WanTokenizer *t;

    small_model(&b);
    if (!CHECK(!open_bytes(&t, &b)))
        return;
    CHECK(wan_tokenizer_vocab(t) == 309);
    expect_ids(t, "", "1");
    expect_ids(t, "  a b ", "4 5 4 6 1");
    expect_ids(t, "aab", "4 5 7 1");
    expect_ids(t, "xyzazz xé", "4 3 5 3 4 3 8 1");
    expect_ids(t, "a</s>b </s> <pad><unk><s>", "4 5 1 4 6 4 1 4 0 3 2 1");
    expect_ids(t, "<extra_id_0>a<extra_id_299><extra_id_42>",
               "308 4 5 9 266 1");
    expect_ids(t, "<extra_id_300>", "4 3 5 3 1");
    expect_ids(t, "<extra_id_00>", "4 3 5 3 1");
    expect_ids(t, "<extra_id_>", "4 3 5 3 1");
    expect_ids(t, "<extra_id_1", "4 3 5 3 1");
    wan_tokenizer_close(&t);

    /* of equal sums the one with the longest last piece; a model may lack ▁ */
    b.n = 0;
    piece(&b, "</s>", 0, 3);
    piece(&b, "<unk>", 0, 2);
    piece(&b, "0", -4.1f, 1);
    piece(&b, "00", -6.7f, 6);
    piece(&b, "[w]", 0, 4);
    if (!CHECK(!open_bytes(&t, &b)))
        return;
    expect_ids(t, "000 00000 [w]0", "1 2 3 1 2 3 3 1 4 2 0");
    expect_ids(t, "<pad>", "1 0");
    wan_tokenizer_close(&t);

    /* runs that can be cut in several ways of one sum */
    b.n = 0;
    piece(&b, "</s>", 0, 3);
    piece(&b, "<unk>", 0, 2);
    piece(&b, "-", -3, 1);
    piece(&b, "--", -5, 1);
    piece(&b, "---", -7, 1);
    piece(&b, "----", -8, 1);
    piece(&b, "▁", -1, 1);
    if (!CHECK(!open_bytes(&t, &b)))
        return;
    expect_ids(t, "-----", "6 2 5 0");          // - ---- before ---- -
    expect_ids(t, "------", "6 3 5 0");         // -- ---- before the others
    expect_ids(t, "---------", "6 2 5 5 0");
    wan_tokenizer_close(&t);

    /* an unknown character costs 10 more than the worst piece */
    b.n = 0;
    piece(&b, "</s>", 0, 3);
    piece(&b, "<unk>", 0, 2);
    piece(&b, "a", 9, 1);
    piece(&b, "qa", 0, 1);
    piece(&b, "b", 11, 1);
    piece(&b, "qb", 0, 1);
    if (!CHECK(!open_bytes(&t, &b)))
        return;
    expect_ids(t, "qa", "1 3 0");
    expect_ids(t, "qb", "1 4 0");
    wan_tokenizer_close(&t);
}

/* Pieces without text, or with another one's, take an id and no part. */
TEST(pieces_that_never_match)
{
    static Bytes b;
    WanTokenizer *t;

    small_model(&b);
    piece(&b, "", -1, 1);
    piece(&b, "ab", -1, 1);
    piece(&b, "", -1, 1);
    piece(&b, "ba", -3, 1);
    if (!CHECKF(!open_bytes(&t, &b), "%s", line))
        return;
    CHECK(wan_tokenizer_vocab(t) == 313);
    expect_ids(t, "ab", "4 7 1");
    expect_ids(t, "ba", "4 12 1");
    expect_ids(t, "x<extra_id_0>", "4 3 312 1");
    wan_tokenizer_close(&t);
}

/* A -> b, AB -> two spaces and b, é -> e with a cut character behind */
TEST(charsmaps)
{
    static uint32_t unit[1536];
    static const char pool[] = "b\0  b\0e";
    static Bytes b;
    WanTokenizer *t;

    unit[0] = 256u << 10;
    unit[256 ^ 'A'] = 'A' | 0x100 | (256u ^ 'A' ^ 512) << 10;
    unit[512] = 0x80000000u;
    unit[512 ^ 'B'] = 'B' | 0x100 | (512u ^ 'B' ^ 768) << 10;
    unit[768] = 0x80000000u | 2;
    unit[256 ^ 0xc3] = 0xc3 | (256u ^ 0xc3 ^ 1024) << 10;
    unit[1024 ^ 0xa9] = 0xa9 | 0x100 | (1024u ^ 0xa9 ^ 1280) << 10;
    unit[1280] = 0x80000000u | 6;

    small_model(&b);
    charsmap(&b, unit, 1536, pool, sizeof(pool));
    if (!CHECK(!open_bytes(&t, &b)))
        return;
    expect_ids(t, "aA", "4 7 1");
    expect_ids(t, "aAB aAC", "4 5 4 6 4 7 3 1");
    expect_ids(t, "ABa", "4 6 5 1");
    expect_ids(t, "é", "4 3 1");
    wan_tokenizer_close(&t);

    unit[512] = 0x80000000u | 600;          // past the pool: no replacement
    unit[1024 ^ 0xa9] |= 0x7ffffc00;        // past the trie
    unit[256 ^ 0xc3] |= 0x100;              // a key of half a character
    unit[1024] = 0x80000000u;
    small_model(&b);
    charsmap(&b, unit, 1536, pool, sizeof(pool));
    if (!CHECK(!open_bytes(&t, &b)))
        return;
    expect_ids(t, "aA aAB", "4 5 3 4 5 4 6 1");
    lines = 0;
    expect_ids(t, "aéé", "refused");
    CHECK(strstr(line, "charsmap") && lines == 1);
    wan_tokenizer_close(&t);

    for (uint32_t n = 0; n < 3; n++) {      // sizes 0, past the end, no 0
        small_model(&b);
        charsmap(&b, unit, n == 1 ? 16 : n, pool, n == 2 ? 1 : 0);
        CHECK(open_bytes(&t, &b) == WAN_INVALIDDATA);
        CHECK(strstr(line, "x.model") && strstr(line, "precompiled_charsmap"));
    }
}

static void refused(const Bytes *b, const char *word)
{
    WanTokenizer *t;

    lines = 0;
    CHECK(open_bytes(&t, b) == WAN_INVALIDDATA);
    CHECKF(lines == 1 && strstr(line, "x.model") && strstr(line, word),
           "not about \"%s\": %s", word, line);
    wan_tokenizer_close(&t);
}

TEST(damaged_models_are_refused)
{
    static Bytes b, m;
    static char huge[300];

    b.n = 0;
    refused(&b, "unknown characters");
    memcpy(b.p, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b.n = 11);
    refused(&b, "cut off");
    memset(b.p, 0xff, b.n = 12);
    refused(&b, "cut off");
    memcpy(b.p, "\x0b", b.n = 1);
    refused(&b, "wire type");

#define WITH(what, word) (small_model(&b), what, refused(&b, word))
    WITH(piece(&b, "\xc3", 0, 1), "UTF-8");
    WITH(piece(&b, "q", NAN, 1), "score");
    WITH(piece(&b, "q", -INFINITY, 1), "score");
    WITH(piece(&b, "q", 0, 2), "second");
    WITH(piece(&b, "q", 0, 7), "type");
    WITH(piece(&b, "q", 0, 0), "type");
    memset(huge, 'q', sizeof(huge));
    WITH(piece_n(&b, huge, 257, 0, 1), "piece 9");
    m.n = 0;
    number(&m, 3, 2);
    WITH(bytes(&b, 2, m.p, m.n), "unigram");

    b.n = 0;
    piece(&b, "<unk>", 0, 2);
    refused(&b, "</s>");
    b.n = 0;
    piece(&b, "</s>", 0, 3);
    refused(&b, "unknown characters");
}

TEST(a_model_cut_anywhere)
{
    static Bytes b;
    size_t whole;
    int opened = 0;

    small_model(&b);
    whole = b.n;
    for (b.n = 0; b.n <= whole; b.n++) {
        WanTokenizer *t;

        if (!open_bytes(&t, &b))
            opened++;
        wan_tokenizer_close(&t);
    }
    CHECKF(opened == 6, "%d", opened);      // after <unk> and each behind it
}

int main(void)
{
    RUN(goldens);
    RUN(refuses_what_is_not_a_prompt);
    RUN(long_prompts_are_quick);
    RUN(words_and_special_tokens);
    RUN(pieces_that_never_match);
    RUN(charsmaps);
    RUN(damaged_models_are_refused);
    RUN(a_model_cut_anywhere);
    return test_end();
}
