/*
 * torch .pth: zip and pickle, what is read and what is refused.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "weights_util.h"

#define FILE_NAME "a.pth"

/* A tensor as torch.save() writes it. */
typedef struct View {
    const char *name, *storage, *key;
    int numel, offset, nb_dims;
    int dim[9], stride[9];
} View;

static void put_text(Bytes *p, const char *s)
{
    put_lit(p, "X");
    put_le(p, strlen(s), 4);
    put_str(p, s);
}

static void put_int(Bytes *p, int v)
{
    put_lit(p, "J");
    put_le(p, (uint32_t)v, 4);
}

static void put_counts(Bytes *p, const int *v, int n)
{
    put_lit(p, "(");
    for (int i = 0; i < n; i++)
        put_int(p, v[i]);
    put_lit(p, "t");
}

static void put_tensor(Bytes *p, const View *v)
{
    put_lit(p, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(p, "storage");
    put_lit(p, "ctorch\n");
    put_str(p, v->storage);
    put_lit(p, "\n");
    put_text(p, v->key);
    put_text(p, "cpu");
    put_int(p, v->numel);
    put_lit(p, "tQ");
    put_int(p, v->offset);
    put_counts(p, v->dim, v->nb_dims);
    put_counts(p, v->stride, v->nb_dims);
    put_lit(p, "\x89" "ccollections\nOrderedDict\n)RtR");
}

static void put_dict(Bytes *p, const View *v, int n)
{
    put_lit(p, "}(");
    for (int i = 0; i < n; i++) {
        put_text(p, v[i].name);
        put_tensor(p, &v[i]);
    }
    put_lit(p, "u");
}

/* An archive with that pickle and a storage data/0 of 32 bytes; p is freed. */
static Bytes archive(Bytes *p, int zip64)
{
    ZipMaker z = { .zip64 = zip64 };
    uint8_t data[32];

    for (int i = 0; i < 32; i++)
        data[i] = i;
    zip_add(&z, "x/data.pkl", p->p, p->n);
    zip_add(&z, "x/byteorder", "little", 6);
    zip_add(&z, "x/data/0", data, sizeof(data));
    zip_add(&z, "x/version", "3\n", 2);
    drop(p);
    return zip_finish(&z);
}

/* An archive whose state dict is one tensor. */
static Bytes one_tensor(View v)
{
    Bytes p = { 0 };

    put_lit(&p, "\x80\2");
    put_dict(&p, &v, 1);
    put_lit(&p, ".");
    return archive(&p, 0);
}

/* An archive with that pickle. */
#define pickled(s) pickled_((s), sizeof(s) - 1)
static Bytes pickled_(const char *s, size_t n)
{
    Bytes p = { 0 };

    put(&p, s, n);
    return archive(&p, 0);
}

static const View plain = { "a", "FloatStorage", "0", 8, 0, 2, { 2, 4 },
                            { 4, 1 } };
/* the same storage seen twice, from an offset; a scalar; trivial strides */
static const View several[] = {
    { "a", "FloatStorage", "0", 8, 0, 2, { 2, 4 }, { 4, 1 } },
    { "b", "FloatStorage", "0", 8, 2, 1, { 6 }, { 1 } },
    { "c", "FloatStorage", "0", 8, 7, 0, { 0 }, { 0 } },
    { "d", "HalfStorage", "0", 16, 1, 4, { 1, 3, 1, 5 }, { 99, 5, 7, 1 } },
    { "e", "FloatStorage", "0", 8, 8, 2, { 0, 4 }, { 4, 1 } },
    { "t", "FloatStorage", "0", 8, 0, 2, { 4, 2 }, { 1, 4 } },
    { "u", "ByteStorage", "0", 32, 3, 1, { 29 }, { 1 } },
};

static Bytes several_file(int zip64)
{
    Bytes p = { 0 };

    put_lit(&p, "\x80\2");
    put_dict(&p, several, 7);
    put_lit(&p, ".");
    return archive(&p, zip64);
}

TEST(reads_views)
{
    for (int zip64 = 0; zip64 < 2; zip64++) {
        Bytes b = several_file(zip64);
        const WanStored *s;
        WanPool pool = { 0 };
        WanBinder binder;
        WanTensor t;
        WanWeights *w;
        uint8_t *held;
        const int ret = open_copy(&w, &held, FILE_NAME, b.p, b.n);

        drop(&b);
        if (!CHECKF(ret == 0, "%s", last_line)) {
            free(held);
            continue;
        }
        CHECK(wan_weights_count(w) == 7);
        s = wan_weights_find(w, "a");
        CHECK(s && s->type == WAN_F32 && s->nb_dims == 2 && s->bytes == 32);
        CHECK(s && s->dim[0] == 2 && s->dim[1] == 4);
        CHECK(s && ((const uint8_t *)s->data)[31] == 31);
        s = wan_weights_find(w, "b");
        CHECK(s && s->bytes == 24 && ((const uint8_t *)s->data)[0] == 8);
        s = wan_weights_find(w, "c");
        CHECK(s && s->bytes == 4 && ((const uint8_t *)s->data)[0] == 28);
        s = wan_weights_find(w, "d");
        CHECK(s && s->type == WAN_F16 && s->bytes == 30 && s->data);
        CHECK(s && ((const uint8_t *)s->data)[0] == 2);
        s = wan_weights_find(w, "e");
        CHECK(s && s->bytes == 0);
        s = wan_weights_find(w, "t");
        CHECK(s && s->bytes == 32 && !s->data);     // transposed
        binder = (WanBinder){ .weights = w, .pool = &pool, .log = &test_log };
        wan_bind_matrix(&binder, &t, "t", 4, 2);
        CHECK(!t.data && wan_binder_end(&binder) == WAN_ERR(ENOSYS));
        CHECKF(strstr(last_line, "tensor t is stored with strides"), "%s",
               last_line);
        s = wan_weights_find(w, "u");
        CHECK(s && s->type == WAN_U8 && ((const uint8_t *)s->data)[0] == 3);
        wan_weights_close(&w);
        free(held);
    }
}

TEST(refuses_every_truncation)
{
    for (int zip64 = 0; zip64 < 2; zip64++) {
        Bytes b = several_file(zip64);

        for (size_t n = 0; n < b.n; n++)
            CHECK(try_open(FILE_NAME, b.p, n) < 0);
        CHECK(try_open(FILE_NAME, b.p, b.n) == 0);
        drop(&b);
    }
}

TEST(survives_every_changed_byte)
{
    static const uint8_t change[] = { 0, 1, 0x7f, 0x80, 0xff, '(', 't', 'u', 'R' };

    for (int zip64 = 0; zip64 < 2; zip64++) {
        Bytes b = several_file(zip64);

        for (size_t i = 0; i < b.n; i++) {
            const uint8_t was = b.p[i];

            for (size_t k = 0; k < sizeof(change); k++) {
                b.p[i] = change[k];
                try_open(FILE_NAME, b.p, b.n);
            }
            b.p[i] = was;
        }
        drop(&b);
    }
}

TEST(refuses_truncated_pickles)
{
    Bytes p = { 0 };

    put_lit(&p, "\x80\2");
    put_dict(&p, several, 7);
    for (size_t n = 0; n <= p.n; n++) {     // all but the '.'
        Bytes part = { 0 }, b;

        put(&part, p.p, n);
        b = archive(&part, 0);
        CHECK(try_open(FILE_NAME, b.p, b.n) == WAN_INVALIDDATA);
        CHECKF(strstr(last_line, "data.pkl"), "%s", last_line);
        drop(&b);
    }
    drop(&p);
}

TEST(nested_dicts_and_parameters)
{
    static const char *const usual[] = { "state_dict", "model", "module",
                                         "generator", "generator_ema",
                                         "generator_lora" };
    WanWeights *w;
    uint8_t *held;
    Bytes p = { 0 }, b;

    for (int i = 0; i < 6; i++) {
        put_lit(&p, "\x80\4\x95");
        put_le(&p, 100, 8);
        put_lit(&p, "ccollections\nOrderedDict\n)R\x94(");
        put_text(&p, "epoch");
        put_lit(&p, "K\7");
        put_text(&p, usual[i]);
        put_dict(&p, several, 2);
        put_lit(&p, "u}b.");        // with a BUILD
        b = archive(&p, 0);
        CHECKF(try_open(FILE_NAME, b.p, b.n) == 0, "%s", last_line);
        drop(&b);
    }

    /* of two the averaged one, and names as that program writes them */
    put_lit(&p, "\x80\2}(");
    put_text(&p, "generator");
    put_dict(&p, &several[0], 1);
    put_text(&p, "generator_ema");
    put_dict(&p, &(View){ "model._fsdp_wrapped_module.b", "FloatStorage", "0",
                          8, 2, 1, { 6 }, { 1 } }, 1);
    put_lit(&p, "u.");
    b = archive(&p, 0);
    if (CHECKF(open_copy(&w, &held, FILE_NAME, b.p, b.n) == 0, "%s",
               last_line)) {
        CHECK(wan_weights_count(w) == 1 && wan_weights_find(w, "b"));
        wan_weights_close(&w);
    }
    free(held);
    drop(&b);

    /* a parameter, through memo, the stack's global, and every number */
    put_lit(&p, "\x80\5}\x94(\x8c\1p\x8c\x0ctorch._utils\x8c\x12"
            "_rebuild_parameter\x93(");
    put_tensor(&p, &plain);
    put_lit(&p, "q\5h\5" "0\x88}tR"
            "X\1\0\0\0n(K\1M\2\0J\3\0\0\0\x8a\0\x8a\1\xff\x8a\2\0\1"
            "G\0\0\0\0\0\0\0\0N\x88\x89]\x8d\2\0\0\0\0\0\0\0hiK\1\x85K\1K\2\x86"
            "K\1K\2K\3\x87](K\1K\2e]K\1a}K\1K\2s}2" "0r\0\1\0\0j\0\1\0\0(K\1" "1t");
    put_lit(&p, "u.");
    b = archive(&p, 0);
    if (CHECKF(open_copy(&w, &held, FILE_NAME, b.p, b.n) == 0, "%s",
               last_line)) {
        CHECK(wan_weights_count(w) == 1 && wan_weights_find(w, "p"));
        wan_weights_close(&w);
    }
    free(held);
    drop(&b);
}

TEST(refuses_foreign_code)
{
    Bytes p = { 0 }, b;

    b = pickled("cos\nsystem\n(X\4\0\0\0idid" "tR.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "'os.system'");
    b = pickled("\x80\4\x8c\5posix\x8c\6system\x93\x8c\2id\x85R.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "'posix.system'");
    b = pickled("cbuiltins\neval\n.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "'builtins.eval'");
    b = pickled("ctorch._utils\n_rebuild_tensor_v2x\n.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "_rebuild_tensor_v2x'");
    b = pickled("ctorch\n_utils._rebuild_tensor_v2\n.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "refused");
    b = pickled("ctorch._utils._rebuild_tensor\nv2\n.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "refused");
    /* INST, OBJ, NEWOBJ, EXT1, PERSID, INT as text */
    b = pickled("(ios\nsystem\n.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "byte 1: refused: opcode 0x69");
    b = pickled("(o.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "opcode 0x6f");
    b = pickled(")\x81.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "opcode 0x81");
    b = pickled("\x82\1.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "opcode 0x82");
    b = pickled("Pid\n.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "opcode 0x50");
    b = pickled("I1\n.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "opcode 0x49");
    b = pickled("\x80\1.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "protocol 1");

    /* calls with other arguments, of other things */
    b = pickled("ccollections\nOrderedDict\n]\x85R.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "other arguments");
    b = pickled("ctorch._utils\n_rebuild_tensor_v2\n)R.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "other arguments");
    b = pickled("ctorch._utils\n_rebuild_parameter\nNNN\x87R.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "other arguments");
    b = pickled("ctorch\nFloatStorage\n)R.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "other arguments");
    b = pickled("ccollections\nOrderedDict\nNR.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a known function");
    b = pickled("})R.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a known function");
    b = pickled("K\1\x85Q.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a storage");
    b = pickled("(NNNNNtQ.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a storage");
    b = pickled("NQ.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a storage");

    /* a view of a storage without type, of something else */
    b = one_tensor((View){ "a", "ComplexFloatStorage", "0", 4, 0, 1, { 1 },
                           { 1 } });
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "'torch.ComplexFloatStorage'");
    put_lit(&p, "}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(NNNNNNtRs.");
    b = archive(&p, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "tensor a: no storage");
}

TEST(refuses_broken_machines)
{
    Bytes p = { 0 }, b;

    b = pickled(".");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "too few values");
    b = pickled("");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "cut off");
    b = pickled("0.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "too few");
    b = pickled("t.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "no mark");
    b = pickled("1.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "no mark");
    b = pickled("N(s.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "too few");
    b = pickled("NN(\x86.");        // not across a mark
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "too few");
    b = pickled("(NNu.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "too few");
    b = pickled("](NNu.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a dict");
    b = pickled("}(Nu.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a dict");
    b = pickled("}Na.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a list");
    b = pickled("h\0.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "memo 0 was never set");
    b = pickled("Nq\0j\xff\xff\xff\xff.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "memo 4294967295");
    b = pickled("Nr\xff\xff\xff\xff.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "memo 4294967295, at most");
    b = pickled("q\0.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "too few");
    b = pickled("X\xff\xff\xff\x7f" "a.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "cut off");
    b = pickled("\x8d\xff\xff\xff\xff\xff\xff\xff\xff" "a.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "cut off");
    b = pickled("\x8a\x09" "123456789.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "integer of 9 bytes");
    b = pickled("cos");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "cut off");
    b = pickled("NN\x93.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "without a name");
    b = pickled("N.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "no dict of tensors");
    b = pickled("}X\1\0\0\0aK\1s.");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "no dict of tensors");
    b = pickled("}q\0X\5\0\0\0modelh\0s.");         // a dict in itself
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "no dict of tensors");

    for (int i = 0; i < 2000; i++)
        put_lit(&p, "(");
    b = archive(&p, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "nested deeper than 1000");
    for (int i = 0; i < 1 << 20; i++)
        put_lit(&p, ")\x85\x85\x85");       // deep, without a mark
    put_lit(&p, ".");
    b = archive(&p, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "no dict of tensors");
    for (int i = 0; i < 5 << 20; i++)
        put_lit(&p, "N");
    b = archive(&p, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "more than 4194304 objects");
    put_lit(&p, "N");
    for (int i = 0; i < 5 << 20; i++)
        put_lit(&p, "2");
    b = archive(&p, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "more than 4194304 objects");
}

TEST(refuses_bad_views)
{
    static const struct {
        View v;
        const char *words;
    } bad[] = {
        { { "a", "FloatStorage", "0", 9, 0, 1, { 1 }, { 1 } },
          "a storage of 9 elements in 32 bytes" },
        { { "a", "FloatStorage", "0", -1, 0, 1, { 1 }, { 1 } },
          "a storage of -1" },
        { { "a", "FloatStorage", "0", 0x7fffffff, 0, 1, { 1 }, { 1 } },
          "a storage of 2147483647" },
        { { "a", "FloatStorage", "1", 8, 0, 1, { 1 }, { 1 } },
          "member 'data/1', is missing" },
        { { "a", "FloatStorage", "../data/0", 8, 0, 1, { 1 }, { 1 } },
          "is missing" },
        { { "a", "FloatStorage", "", 8, 0, 1, { 1 }, { 1 } }, "is missing" },
        { { "a", "FloatStorage", "0", 8, 1, 1, { 8 }, { 1 } },
          "a reaches out of its storage of 8" },
        { { "a", "FloatStorage", "0", 8, 9, 1, { 0 }, { 1 } }, "reaches out" },
        { { "a", "FloatStorage", "0", 8, 8, 0, { 0 }, { 0 } }, "reaches out" },
        { { "a", "FloatStorage", "0", 8, -1, 1, { 1 }, { 1 } }, "no storage" },
        { { "a", "FloatStorage", "0", 4, 0, 1, { 5 }, { 1 } }, "reaches out" },
        { { "a", "FloatStorage", "0", 8, 0, 1, { -1 }, { 1 } },
          "not two tuples" },
        { { "a", "FloatStorage", "0", 8, 7, 1, { 2 }, { -1 } },
          "not two tuples" },
        { { "a", "FloatStorage", "0", 8, 0, 9, { 1, 1, 1, 1, 1, 1, 1, 1, 1 },
            { 1, 1, 1, 1, 1, 1, 1, 1, 1 } }, "at most 8" },
        { { "a", "FloatStorage", "0", 8, 0, 2, { 4, 2 }, { 2, 3 } },
          "reaches out" },
        { { "a", "FloatStorage", "0", 8, 0, 3, { 0x7fffffff, 0x7fffffff,
            0x7fffffff }, { 0, 0, 0 } }, "reaches out" },
        { { "a", "FloatStorage", "0", 8, 0, 2, { 0x7fffffff, 0x7fffffff },
            { 0x7fffffff, 0x7fffffff } }, "reaches out" },
        { { "", "FloatStorage", "0", 8, 0, 1, { 8 }, { 1 } },
          "name is empty" },
    };
    Bytes p = { 0 }, b;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        b = one_tensor(bad[i].v);
        refused(&b, FILE_NAME, WAN_INVALIDDATA, bad[i].words);
    }

    put_lit(&p, "}(");
    for (int i = 0; i < 2; i++) {
        put_text(&p, "a");
        put_tensor(&p, &plain);
    }
    put_lit(&p, "u.");
    b = archive(&p, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "a is there twice");

    put_lit(&p, "}(K\1");
    put_tensor(&p, &plain);
    put_lit(&p, "u.");
    b = archive(&p, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a string");

    put_lit(&p, "}(X\3\0\0\0a\0b");
    put_tensor(&p, &plain);
    put_lit(&p, "u.");
    b = archive(&p, 0);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "zero byte");
}

/* The file with n bytes changed at an offset from a signature's last place. */
static Bytes lie_at(Bytes b, uint32_t signature, int offset, uint64_t v, int n)
{
    for (size_t at = b.n - 4; at > 0; at--) {
        const uint8_t *p = b.p + at;

        if ((p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24) != signature)
            continue;
        for (int i = 0; i < n; i++)
            b.p[at + offset + i] = v >> 8 * i;
        return b;
    }
    CHECK(!"the signature");
    return b;
}

TEST(refuses_zip_lies)
{
    enum { LOCAL = 0x04034b50, ENTRY = 0x02014b50, END = 0x06054b50,
           END64 = 0x06064b50, LOCATOR = 0x07064b50 };
    static const struct {
        int zip64;
        uint32_t signature;
        int offset;
        uint64_t v;
        int n;
        const char *words;
    } lies[] = {
        { 0, END, 4, 1, 2, "several volumes" },
        { 0, END, 8, 3, 2, "several volumes" },
        { 0, END, 8, 0x00030003, 4, "longer than its members" },
        { 0, END, 8, 0x00050005, 4, "more members" },
        { 0, END, 8, 0x7fff7fff, 4, "more members" },
        { 0, END, 12, 0x7fffffff, 4, "outside of the file" },
        { 0, END, 16, 0x7fffffff, 4, "outside of the file" },
        { 0, END, 16, 0xffffffff, 4, "no ZIP64 locator" },
        { 0, END, 16, 0, 4, "no directory record" },
        { 0, END, 20, 1, 2, "no end record" },
        { 0, ENTRY, 8, 1, 2, "encrypted" },
        { 0, ENTRY, 10, 8, 2, "compressed" },
        { 0, ENTRY, 20, 1, 4, "compressed" },
        { 0, ENTRY, 20, 0x7fffffff7fffffff, 8, "past the end" },
        { 0, ENTRY, 24, 0xffffffff, 4, "ZIP64 sizes" },
        { 0, ENTRY, 28, 0xffff, 2, "longer than the directory" },
        { 0, ENTRY, 42, 0xfffffffe, 4, "not where" },
        { 0, ENTRY, 42, 0, 4, "another name" },
        { 0, ENTRY, 46, 'y', 1, "another name" },
        { 0, LOCAL, 26, 0xffff, 2, "past the end" },
        { 0, LOCAL, 28, 0xffff, 2, "past the end" },
        { 0, LOCAL, 30, 'y', 1, "another name" },
        { 1, LOCATOR, 0, 0, 4, "no ZIP64 locator" },
        { 1, LOCATOR, 8, UINT64_MAX, 8, "where the locator says" },
        { 1, LOCATOR, 8, 0, 8, "where the locator says" },
        { 1, END64, 24, 1, 8, "several volumes" },
        { 1, END64, 40, UINT64_MAX, 8, "outside of the file" },
        { 1, END64, 48, UINT64_MAX, 8, "outside of the file" },
        { 1, END64, 48, UINT64_MAX - 200, 8, "outside of the file" },
        { 1, END64, 40, 1, 8, "more members" },
        { 1, ENTRY, 46 + 9 + 8, 2, 2, "ZIP64 sizes" },
        { 1, ENTRY, 46 + 9 + 10, 23, 2, "ZIP64 sizes" },
        { 1, ENTRY, 46 + 9 + 10, 0xffff, 2, "ZIP64 sizes" },
        { 1, ENTRY, 46 + 9 + 12, UINT64_MAX, 8, "compressed" },
        { 1, ENTRY, 46 + 9 + 28, UINT64_MAX, 8, "not where" },
        { 1, ENTRY, 46 + 9 + 28, INT64_MAX, 8, "not where" },
    };
    Bytes b;

    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        b = lie_at(several_file(lies[i].zip64), lies[i].signature,
                   lies[i].offset, lies[i].v, lies[i].n);
        if (!refused(&b, FILE_NAME, WAN_INVALIDDATA, lies[i].words))
            printf("# lie %zu\n", i);
    }
    /* a local header of which the file holds 2 bytes; 10, in a comment */
    b = several_file(0);
    b = lie_at(b, ENTRY, 42, b.n - 2, 4);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not where");
    b = several_file(0);
    b = lie_at(b, ENTRY, 42, b.n, 4);
    b.p[b.n - 2] = 10;
    put_lit(&b, "PK\3\4\0\0\0\0\0\0");
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not where");
}

TEST(refuses_other_archives)
{
    ZipMaker z = { 0 };
    Bytes b;

    zip_add(&z, "readme.txt", "x", 1);
    b = zip_finish(&z);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a torch file");
    zip_add(&z, "data.pkl", "}.", 2);       // without its folder
    b = zip_finish(&z);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a torch file");
    zip_add(&z, "a/b/data.pkl", "}.", 2);
    b = zip_finish(&z);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a torch file");
    zip_add(&z, "a/data.pkl", "}.", 2);
    zip_add(&z, "b/data.pkl", "}.", 2);
    b = zip_finish(&z);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a torch file");
    zip_add(&z, "a/data.pkl", "}.", 2);
    zip_add(&z, "a/data.pkl", "}.", 2);
    b = zip_finish(&z);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "two members are named 'a/data.pkl'");
    zip_add(&z, "a/data.pkl", "}.", 2);
    zip_add(&z, "a/byteorder", "big", 3);
    b = zip_finish(&z);
    refused(&b, FILE_NAME, WAN_ERR(ENOSYS), "byte order 'big'");
    zip_add(&z, "a/data.pkl", "}.", 2);
    zip_add(&z, "a/byteorder", "middle", 6);
    b = zip_finish(&z);
    refused(&b, FILE_NAME, WAN_ERR(ENOSYS), "byte order 'middle'");
    zip_add(&z, "", "", 0);
    b = zip_finish(&z);
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a torch file");
    b = zip_finish(&z);                     // an archive of nothing
    refused(&b, FILE_NAME, WAN_INVALIDDATA, "not a torch file");

    /* a comment may follow the end record */
    b = one_tensor(plain);
    b.p[b.n - 2] = 5;
    put_lit(&b, "hello");
    CHECK(try_open(FILE_NAME, b.p, b.n) == 0);
    drop(&b);
}

TEST(golden_files)
{
    static const struct {
        const char *name;
        int count;
        WanType type;
    } c[] = {
        { "wan-t2v/Wan2.1_VAE.pth", 194, WAN_F32 },
        { "wan-t2v/models_t5_umt5-xxl-enc-bf16.pth", 22, WAN_BF16 },
    };

    for (int i = 0; i < 2; i++) {
        WanWeights *w;

        if (!CHECKF(!wan_weights_open(&w, tiny(c[i].name), &test_log), "%s",
                    last_line))
            continue;
        CHECKF(wan_weights_count(w) == c[i].count, "%d", wan_weights_count(w));
        for (int k = 0; k < wan_weights_count(w); k++) {
            const WanStored *s = wan_weights_at(w, k);

            CHECK(s->type == c[i].type && s->data && s->bytes > 0);
        }
        wan_weights_close(&w);
    }
    scratch_clean();
}

int main(void)
{
    RUN(reads_views);
    RUN(refuses_every_truncation);
    RUN(survives_every_changed_byte);
    RUN(refuses_truncated_pickles);
    RUN(nested_dicts_and_parameters);
    RUN(refuses_foreign_code);
    RUN(refuses_broken_machines);
    RUN(refuses_bad_views);
    RUN(refuses_zip_lies);
    RUN(refuses_other_archives);
    RUN(golden_files);
    return test_end();
}
