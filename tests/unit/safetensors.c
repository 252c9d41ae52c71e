/*
 * safetensors and index JSON: what is read, and that damage is refused.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "weights_util.h"

#define FILE_NAME "a.safetensors"
#define T(type, shape, range) \
    "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" range "}"

/* every type, an empty tensor, a scalar, an odd address, escapes, padding */
static const char all_kinds[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"u8\":"     T("U8", "[3]", "[0,3]") ","
    "\"matrix\":" T("F32", "[2,3]", "[3,27]") ","
    "\"scalar\":" T("F64", "[]", "[27,35]") ","
    "\"empty\":"  T("BF16", "[4,0]", "[35,35]") ","
    "\"half\":"   T("F16", "[1,1,2,1]", "[35,39]") ","
    "\"e4\":"     T("F8_E4M3", "[1]", "[39,40]") ","
    "\"e5\":"     T("F8_E5M2", "[1]", "[40,41]") ","
    "\"b\\u0061d\\n\":" T("BOOL", "[1]", "[41,42]") ","
    "\"i64\":"    T("I64", "[1]", "[42,50]") ","
    "\"u32\":"    T("U32", "[1]", "[50,54]") ","
    "\"bf\":"     T("BF16", "[2]", "[54,58]")
    "}   ";

TEST(reads_every_type)
{
    Bytes b = safetensors(all_kinds, 58);
    const WanStored *s;
    WanWeights *w;
    uint8_t *held;

    if (!CHECK(open_copy(&w, &held, FILE_NAME, b.p, b.n) == 0))
        return;
    CHECK(wan_weights_count(w) == 11);
    CHECK(!strcmp(wan_weights_path(w), FILE_NAME));
    s = wan_weights_find(w, "matrix");
    if (CHECK(s)) {
        CHECK(s->type == WAN_F32 && s->nb_dims == 2 && s->bytes == 24);
        CHECK(s->dim[0] == 2 && s->dim[1] == 3);
        CHECK(!strcmp(s->file, FILE_NAME) && !strcmp(s->raw_name, "matrix"));
        CHECK(((const uint8_t *)s->data)[0] == 3);
        CHECK(((const uint8_t *)s->data)[23] == 26);
    }
    s = wan_weights_find(w, "scalar");
    CHECK(s && s->nb_dims == 0 && s->bytes == 8 && s->type == WAN_F64);
    s = wan_weights_find(w, "empty");
    CHECK(s && s->nb_dims == 2 && s->bytes == 0 && s->type == WAN_BF16);
    s = wan_weights_find(w, "bad\n");
    CHECK(s && s->type == WAN_BOOL);
    s = wan_weights_find(w, "u32");
    CHECK(s && s->type == WAN_I32);
    CHECK(!wan_weights_find(w, "Matrix") && !wan_weights_find(w, ""));
    CHECK(!wan_weights_at(w, -1) && !wan_weights_at(w, 11));
    wan_weights_close(&w);
    CHECK(!w);
    wan_weights_close(&w);
    free(held);
    drop(&b);
}

TEST(refuses_every_truncation)
{
    Bytes b = safetensors(all_kinds, 58);

    for (size_t n = 0; n < b.n; n++) {
        const int ret = try_open(FILE_NAME, b.p, n);
        CHECKF(ret == WAN_INVALIDDATA, "%zu bytes: %d", n, ret);
    }
    CHECK(try_open(FILE_NAME, b.p, b.n) == 0);
    put_lit(&b, "x");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "end at byte 58 of 59");
}

/* Bytes that belong to no tensor: between them, before, and zeros behind. */
TEST(reads_over_gaps)
{
    Bytes b = safetensors("{\"b\":" T("U8", "[2]", "[9,11]") ",\"a\":"
                          T("F32", "[1]", "[4,8]") "}", 11);
    uint8_t *held;
    WanWeights *w;

    put_zeros(&b, 4096);
    if (CHECKF(!open_copy(&w, &held, FILE_NAME, b.p, b.n), "%s", last_line)) {
        const WanStored *s = wan_weights_find(w, "b");

        CHECK(s && ((const uint8_t *)s->data)[0] == 9);
        s = wan_weights_find(w, "a");
        CHECK(s && ((const uint8_t *)s->data)[3] == 7);
    }
    wan_weights_close(&w);
    free(held);
    put_zeros(&b, 1);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "end at byte 11");
}

/* Types that libwan has no word for: nothing of the file is lost but them. */
TEST(foreign_types)
{
    static const struct { const char *type, *shape; int bytes; } c[] = {
        { "C64", "[2]", 16 }, { "F8_E8M0", "[4]", 4 }, { "F4", "[4,6]", 12 },
        { "F6_E2M3", "[8]", 6 }, { "F8_E4M3FNUZ", "[3]", 3 },
    };

    for (size_t i = 0; i < sizeof(c) / sizeof(*c); i++) {
        WanPool pool = { 0 };
        WanBinder binder = { .pool = &pool, .log = &test_log };
        char json[300], words[80];
        uint8_t *held;
        WanTensor t;
        Bytes b;

        snprintf(json, sizeof(json), "{\"a\":" T("F32", "[1]", "[0,4]") ","
                 "\"z\":" T("%s", "%s", "[4,%d]") "}", c[i].type, c[i].shape,
                 4 + c[i].bytes);
        b = safetensors(json, 4 + c[i].bytes);
        if (!CHECKF(!open_copy((WanWeights **)&binder.weights, &held,
                               FILE_NAME, b.p, b.n), "%s", last_line))
            continue;
        wan_bind_vector(&binder, &t, "a", 1);
        CHECK(wan_binder_end(&binder) == 0);
        wan_bind_vector(&binder, &t, "z", strtol(c[i].shape + 1, NULL, 10));
        snprintf(words, sizeof(words), "found %s", c[i].type);
        CHECK(wan_binder_end(&binder) == WAN_INVALIDDATA);
        CHECKF(strstr(last_line, words) || strstr(last_line, "expected ["),
               "%s", last_line);
        wan_pool_free(&pool);
        wan_weights_close((WanWeights **)&binder.weights);
        free(held);
        /* the file's bytes must be there as for any other */
        snprintf(json, sizeof(json), "{\"z\":" T("%s", "%s", "[0,%d]") "}",
                 c[i].type, c[i].shape, c[i].bytes - 1);
        drop(&b);
        b = safetensors(json, 20);
        refused(&b, FILE_NAME, WAN_INVALIDDATA, "its shape takes");
    }
}

TEST(survives_every_changed_byte)
{
    static const uint8_t change[] = { 0, 1, 0x80, 0xff, '"', '{', '[', '9', '-' };
    Bytes b = safetensors(all_kinds, 58);

    for (size_t i = 0; i < b.n - 58; i++) {
        const uint8_t was = b.p[i];

        for (size_t k = 0; k < sizeof(change); k++) {
            b.p[i] = change[k];
            try_open(FILE_NAME, b.p, b.n);
        }
        b.p[i] = was;
    }
    drop(&b);
}

TEST(refuses_bad_headers)
{
    static const struct {
        const char *json;
        int data, error;
        const char *words;
    } bad[] = {
        { "", 0, WAN_INVALIDDATA, "header is not JSON" },
        { "[]", 0, WAN_INVALIDDATA, "not a JSON object" },
        { "{} x", 0, WAN_INVALIDDATA, "goes on at byte 3" },
        { "{\"a\":1}", 0, WAN_INVALIDDATA, "tensor a" },
        { "{\"a\":[1]}", 0, WAN_INVALIDDATA, "tensor a" },
        { "{\"a\":{}}", 0, WAN_INVALIDDATA, "tensor a" },
        { "{\"a\":" T("F32", "[1]", "[0,4]") ",\"a\":" T("F32", "[1]", "[4,8]")
          "}", 8, WAN_INVALIDDATA, "a is there twice" },
        { "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[1],"
          "\"data_offsets\":[0,4]}}", 4, WAN_INVALIDDATA, "each once" },
        { "{\"\":" T("F32", "[1]", "[0,4]") "}", 4, WAN_INVALIDDATA,
          "name is empty" },
        { "{\"a\":" T("F31", "[1]", "[0,4]") "}", 4, WAN_INVALIDDATA,
          "unknown dtype 'F31'" },
        { "{\"a\":" T("F32", "[1.5]", "[0,4]") "}", 4, WAN_INVALIDDATA,
          "dimension 0" },
        { "{\"a\":" T("F32", "[-1]", "[0,4]") "}", 4, WAN_INVALIDDATA,
          "dimension 0" },
        { "{\"a\":" T("F32", "[\"1\"]", "[0,4]") "}", 4, WAN_INVALIDDATA,
          "dimension 0" },
        { "{\"a\":" T("F32", "[1,9007199254740994]", "[0,4]") "}", 4,
          WAN_INVALIDDATA, "dimension 1" },
        { "{\"a\":" T("F32", "[4294967296,4294967296]", "[0,0]") "}", 0,
          WAN_INVALIDDATA, "its shape takes -1" },
        { "{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4,
          WAN_INVALIDDATA, "more than 8" },
        { "{\"a\":" T("F32", "[2]", "[0,4]") "}", 4, WAN_INVALIDDATA,
          "takes 8 bytes, its data_offsets give it 4" },
        { "{\"a\":" T("F32", "[1]", "[4,0]") "}", 4, WAN_INVALIDDATA,
          "reach out" },
        { "{\"a\":" T("F32", "[1]", "[4,8]") "}", 4, WAN_INVALIDDATA,
          "reach out" },
        { "{\"a\":" T("F32", "[1]", "[0]") "}", 4, WAN_INVALIDDATA,
          "not two offsets" },
        { "{\"a\":" T("F32", "[1]", "[0,1e300]") "}", 4, WAN_INVALIDDATA,
          "not two offsets" },
        { "{\"a\":" T("F32", "[1]", "[-4,0]") "}", 4, WAN_INVALIDDATA,
          "not two offsets" },
        { "{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":"
          T("F32", "[2]", "[4,12]") "}", 12, WAN_INVALIDDATA,
          "tensor b begins at byte 4 of the data, inside" },
        { "{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":"
          T("F32", "[1]", "[0,4]") "}", 4, WAN_INVALIDDATA, "inside" },
        { "{\"a\":" T("F32", "[1]", "[4,8]") ",\"b\":"
          T("F32", "[1]", "[4,8]") "}", 8, WAN_INVALIDDATA,
          "tensor a begins at byte 4 of the data, with a gap" },
        { "{\"a\":" T("F32", "[1]", "[0,4]") "}", 5, WAN_INVALIDDATA,
          "end at byte 4 of 5" },
        { "{\"__metadata__\":{},\"__metadata__\":{}}", 0, WAN_INVALIDDATA,
          "__metadata__" },
        { "{\"__metadata__\":{\"_quantization_metadata\":\"{\\\"layers\\\":"
          "{\\\"b.0\\\":{\\\"format\\\":\\\"nvfp4\\\"}}}\"}}", 0,
          WAN_ERR(ENOSYS), "layer b.0: quantisation 'nvfp4'" },
        { "{\"__metadata__\":{\"_quantization_metadata\":\"{\\\"layers\\\":"
          "[1]}\"}}", 0, WAN_INVALIDDATA, "names no format" },
        { "{\"__metadata__\":{\"_quantization_metadata\":\"nonsense\"}}", 0,
          WAN_INVALIDDATA, "_quantization_metadata is not JSON" },
        { "{\"model.diffusion_model.a\":" T("F32", "[1]", "[0,4]") ",\"a\":"
          T("F32", "[1]", "[4,8]") "}", 8, WAN_INVALIDDATA, "there twice" },
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Bytes b = safetensors(bad[i].json, bad[i].data);

        refused(&b, FILE_NAME, bad[i].error, bad[i].words);
    }
}

TEST(refuses_absurd_headers)
{
    Bytes b = { 0 };

    put_le(&b, UINT64_MAX, 8);
    put_lit(&b, "{}");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a safetensors file");

    put_le(&b, (uint64_t)INT64_MAX - 7, 8);
    put_lit(&b, "{}");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a safetensors file");

    put_le(&b, 3, 8);
    put_lit(&b, "{}");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a safetensors file");

    put_le(&b, 3, 8);
    put_lit(&b, "{}\0");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "zero byte at 2");

    /* 10000 deep */
    put_le(&b, 5 + 20000, 8);
    put_lit(&b, "{\"a\":");
    for (int i = 0; i < 10000; i++)
        put_lit(&b, "[");
    for (int i = 0; i < 9999; i++)
        put_lit(&b, "]");
    put_lit(&b, "}");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not JSON");

    /* more values than any table has */
    put_le(&b, 6 + (6 << 20), 8);
    put_lit(&b, "{\"a\":[");
    for (int i = 0; i < 3 << 20; i++)
        put_lit(&b, "1,");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "values, at most");
}

TEST(knows_other_files)
{
    Bytes b = { 0 };

    refused(&b, "empty", WAN_INVALIDDATA, "not a safetensors file");
    put_lit(&b, "GGUF\3\0\0\0");
    refused(&b, "x.gguf", WAN_INVALIDDATA, "the header reaches out");
    put_lit(&b, "\x80\2\x8a\nl\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\2M");
    refused(&b, "old.pth", WAN_ERR(ENOSYS), "before 1.6");
    put_lit(&b, "version https://git-lfs.github.com/spec/v1\noid sha256:0");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "Git LFS");
    put_lit(&b, "<!DOCTYPE html><html>");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a safetensors file");
}

TEST(comfy_quant_formats)
{
    static const struct {
        const char *text;
        int error;
        const char *words;
    } c[] = {
        { "{\"format\":\"float8_e4m3fn\"}", 0, "" },
        { "{\"format\":\"float8_e5m2\",\"full\":true}", 0, "" },
        { "{\"format\":\"nvfp4\"}", WAN_ERR(ENOSYS), "'nvfp4'" },
        { "{\"format\":\"int8_tensorwise\"}", 0, "" },
        { "{\"format\":\"int8_tensorwise\",\"convrot\":true}",
          WAN_ERR(ENOSYS), "convrot" },
        { "{\"format\":\"int4\"}", WAN_ERR(ENOSYS), "'int4'" },
        { "{\"format\":8}", WAN_INVALIDDATA, "names no format" },
        { "float8_e4m3fn", WAN_INVALIDDATA, "not JSON" },
    };

    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        const int n = (int)strlen(c[i].text);
        char json[200];
        Bytes b;

        snprintf(json, sizeof(json), "{\"b.q.comfy_quant\":"
                 T("U8", "[%d]", "[0,%d]") "}", n, n);
        b = safetensors(json, 0);
        put_str(&b, c[i].text);
        if (!c[i].error) {
            CHECKF(try_open(FILE_NAME, b.p, b.n) == 0, "%s", c[i].text);
            drop(&b);
        } else {
            refused(&b, FILE_NAME, c[i].error, c[i].words);
        }
    }
}

/* A shard with one F32 tensor of one element. */
static void write_shard(const char *file, const char *tensor)
{
    char json[200];
    Bytes b;

    snprintf(json, sizeof(json), "{\"%s\":" T("F32", "[1]", "[0,4]") "}",
             tensor);
    b = safetensors(json, 4);
    write_file(scratch(file), &b);
}

static int open_path(const char *path, int *count)
{
    WanWeights *w;
    int ret;

    last_line[0] = 0;
    ret = wan_weights_open(&w, path, &test_log);
    *count = w ? wan_weights_count(w) : -1;
    wan_weights_close(&w);
    return ret;
}

TEST(index_and_shards)
{
    static const char *const made[] = {
        "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors",
        "m.safetensors.index.json"
    };
    static const struct {
        const char *json;
        int error;
        const char *words;
    } c[] = {
        { "{\"metadata\":{\"total_size\":8},\"weight_map\":{"
          "\"a\":\"m-00001-of-00002.safetensors\","
          "\"b\":\"m-00002-of-00002.safetensors\"}}", 0, "" },
        { "\xef\xbb\xbf{\"weight_map\":{"      /* a byte order mark */
          "\"a\":\"m-00001-of-00002.safetensors\","
          "\"b\":\"m-00002-of-00002.safetensors\"}}", 0, "" },
        { "{\"weight_map\":{\"a\":\"m-00002-of-00002.safetensors\"}}",
          WAN_INVALIDDATA, "tensor a is not in its shard m-00002" },
        { "{\"weight_map\":{\"a\":\"m-00001-of-00002.safetensors\","
          "\"b\":\"m-00001-of-00002.safetensors\"}}", WAN_INVALIDDATA,
          "tensor b is not in its shard m-00001" },
        { "{\"weight_map\":{\"a\":\"m-00002-of-00002.safetensors\","
          "\"b\":\"m-00001-of-00002.safetensors\"}}", WAN_INVALIDDATA,
          "tensor b is not in its shard m-00001" },
        { "{\"weight_map\":{\"a\":\"m-00003-of-00002.safetensors\"}}",
          WAN_ERR(ENOENT), "m-00003-of-00002.safetensors: No such file" },
        { "{\"weight_map\":{\"a\":\"../m-00001-of-00002.safetensors\"}}",
          WAN_INVALIDDATA, "tensor a: its shard" },
        { "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", WAN_INVALIDDATA,
          "'/etc/passwd' is not a file name" },
        { "{\"weight_map\":{\"a\":\"x\\\\y\"}}", WAN_INVALIDDATA, "its shard" },
        { "{\"weight_map\":{\"a\":\"..\"}}", WAN_INVALIDDATA, "its shard" },
        { "{\"weight_map\":{\"a\":\".\"}}", WAN_INVALIDDATA, "its shard" },
        { "{\"weight_map\":{\"a\":\"\"}}", WAN_INVALIDDATA, "its shard" },
        { "{\"weight_map\":{\"a\":7}}", WAN_INVALIDDATA, "its shard" },
        { "{\"weight_map\":{\"a\":\"m.safetensors.index.json\"}}",
          WAN_INVALIDDATA, "an index where" },
        { "{\"weight_map\":{}}", WAN_INVALIDDATA, "no weight_map" },
        { "{\"weight_map\":[\"a\"]}", WAN_INVALIDDATA, "no weight_map" },
        { "{\"dim\":1536}", WAN_INVALIDDATA, "no weight_map" },
        { "{\"weight_map\":{\"a\":", WAN_INVALIDDATA, "not JSON" },
        { "{", WAN_INVALIDDATA, "not JSON" },
    };
    int count;

    write_shard(made[0], "a");
    write_shard(made[1], "b");
    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        Bytes b = { 0 };
        int ret;

        put_str(&b, c[i].json);
        write_file(scratch(made[2]), &b);
        ret = open_path(scratch(made[2]), &count);
        CHECKF(ret == c[i].error, "%d for %s: %s", ret, c[i].json, last_line);
        CHECKF(strstr(last_line, c[i].words), "'%s' is not in: %s",
               c[i].words, last_line);
        CHECK(count == (c[i].error ? -1 : 2));
    }

    /* either shard brings the other, and needs it */
    CHECK(open_path(scratch(made[0]), &count) == 0 && count == 2);
    CHECK(open_path(scratch(made[1]), &count) == 0 && count == 2);
    write_shard(made[1], "a");
    CHECK(open_path(scratch(made[0]), &count) == WAN_INVALIDDATA);
    CHECKF(strstr(last_line, "a is there twice"), "%s", last_line);
    unlink(scratch(made[1]));
    CHECK(open_path(scratch(made[0]), &count) == WAN_ERR(ENOENT));
    CHECKF(strstr(last_line, made[1]), "%s", last_line);
    scratch_clean();
}

TEST(shard_numbers)
{
    static const struct {
        const char *file;
        int error;
    } c[] = {
        { "x-00001-of-00001.safetensors", 0 },
        { "x-00002-of-00001.safetensors", WAN_INVALIDDATA },
        { "x-00000-of-00001.safetensors", WAN_INVALIDDATA },
        { "x-00000-of-00000.safetensors", WAN_INVALIDDATA },
        { "x-1-of-1.safetensors", 0 },
        /* ordinary names */
        { "x-0001-of-00002.safetensors", 0 },
        { "x00001-of-00002.safetensors", 0 },
        { "-of-00002.safetensors", 0 },
        { "2.safetensors", 0 },
        { ".safetensors", 0 },
        { "x-00001-of-00002.bin", 0 },
    };
    int count;

    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        int ret;

        write_shard(c[i].file, "a");
        ret = open_path(scratch(c[i].file), &count);
        CHECKF(ret == c[i].error, "%s: %d", c[i].file, ret);
        unlink(scratch(c[i].file));
    }
    scratch_clean();
}

TEST(paths_that_are_no_files)
{
    int count;

    CHECK(open_path("no/such/file", &count) == WAN_ERR(ENOENT));
    CHECKF(!strncmp(last_line, "no/such/file: ", 14), "%s", last_line);
    CHECK(open_path(".", &count) == WAN_ERR(EISDIR));
    CHECK(open_path("/dev/null", &count) == WAN_INVALIDDATA);
    CHECKF(strstr(last_line, "/dev/null"), "%s", last_line);
}

TEST(golden_shards)
{
    const char *dir = "wan-t2v-hd128/diffusion_pytorch_model";
    char name[200];
    int one, all;

    snprintf(name, sizeof(name), "%s.safetensors.index.json", dir);
    CHECKF(open_path(tiny(name), &all) == 0, "%s", last_line);
    CHECKF(all == 15 + 2 * 27, "%d tensors", all);
    snprintf(name, sizeof(name), "%s-00002-of-00003.safetensors", dir);
    CHECKF(open_path(tiny(name), &one) == 0, "%s", last_line);
    CHECK(one == all);
    scratch_clean();
}

int main(void)
{
    RUN(reads_every_type);
    RUN(refuses_every_truncation);
    RUN(reads_over_gaps);
    RUN(foreign_types);
    RUN(survives_every_changed_byte);
    RUN(refuses_bad_headers);
    RUN(refuses_absurd_headers);
    RUN(knows_other_files);
    RUN(comfy_quant_formats);
    RUN(index_and_shards);
    RUN(shard_numbers);
    RUN(paths_that_are_no_files);
    RUN(golden_shards);
    return test_end();
}
