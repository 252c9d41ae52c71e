/*
 * GGUF: a list of keys and values, a list of tensors, then their data.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Dimensions are written fastest first. Of the keys these are used: the
 * alignment of data, the shapes of tensors that were stored flat, libwan's own
 * wan.config, and a text encoder's vocabulary, which becomes the tensor
 * spiece_model that ComfyUI's text encoders carry. Files without any key are
 * whole files too.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../config.h"
#include "formats.h"
#include "write.h"

#define MAX_NESTED 4            // arrays in arrays; nobody writes any
#define ORIG_SHAPE "comfy.gguf.orig_shape."

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

/* Bytes of a value; 0: as many as it says itself. */
static const uint8_t value_size[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
#define NB_VALUES (sizeof(value_size) / sizeof(value_size[0]))

/* A value as it lies in the file; of an array its elements. */
typedef struct Value {
    uint32_t type, element;     // element: of an array
    uint64_t count;             // 1, or of an array
    const uint8_t *data;
} Value;

typedef struct Text {
    const char *s;
    size_t n;
} Text;

/* The true shape of a tensor that is stored flat. */
typedef struct Shape {
    Text tensor;
    int nb_dims;
    int64_t dim[WAN_STORED_MAX_DIMS];
} Shape;

typedef struct Tensor {
    Text name;
    uint64_t offset;
    WanStored t;
} Tensor;

typedef struct Reader {
    const WanFile *f;
    const WanLog *log;
    const uint8_t *p, *end;
    uint64_t alignment;
    Shape *shape;               // by tensor, once all keys are read
    int nb_shapes, shape_room;
    Value model, tokens, scores, types, charsmap;   // of the tokenizer
    Value config;
    Tensor *tensor;
    int nb_tensors;
} Reader;

static uint32_t u32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t u64(const uint8_t *p)
{
    return u32(p) | (uint64_t)u32(p + 4) << 32;
}

static int cut_off(const Reader *r, const char *what)
{
    return wan_error(r->log, WAN_INVALIDDATA, "%s: %s reaches out of the file "
                     "(byte %" PRId64 " of %" PRId64 ")", r->f->path, what,
                     (int64_t)(r->p - r->f->data), r->f->size);
}

/* The next n bytes, or NULL. */
static const uint8_t *take(Reader *r, uint64_t n)
{
    const uint8_t *p = r->p;

    if (n > (uint64_t)(r->end - p))
        return NULL;
    r->p += n;
    return p;
}

static int take_text(Reader *r, Text *t)
{
    const uint8_t *n = take(r, 8);
    const uint8_t *s = n ? take(r, u64(n)) : NULL;

    if (!s)
        return -1;
    *t = (Text){ (const char *)s, u64(n) };
    return 0;
}

static int is_text(const Text *t, const char *s)
{
    return t->n == strlen(s) && !memcmp(t->s, s, t->n);
}

static int begins(const Text *t, const char *s)
{
    return t->n >= strlen(s) && !memcmp(t->s, s, strlen(s));
}

/* How much of a name goes into a line. */
static int shown(const Text *t)
{
    return t->n < 200 ? (int)t->n : 200;
}

/* ------------------------------------------------------------ the keys */

/* Skip count values of a type; -1: they reach out of the file, or nobody
 * knows what they are. */
static int skip_values(Reader *r, uint32_t type, uint64_t count, int depth)
{
    Text text;

    if (type >= NB_VALUES || depth > MAX_NESTED)
        return -1;
    if (value_size[type])
        return count <= (uint64_t)(r->end - r->p) &&
               take(r, count * value_size[type]) ? 0 : -1;
    for (uint64_t i = 0; i < count; i++) {
        if (type == ARRAY) {
            const uint8_t *head = take(r, 12);

            if (!head ||
                skip_values(r, u32(head), u64(head + 4), depth + 1) < 0)
                return -1;
        } else if (take_text(r, &text) < 0) {
            return -1;
        }
    }
    return 0;
}

static int read_value(Reader *r, Value *v)
{
    const uint8_t *type = take(r, 4), *head;

    if (!type)
        return -1;
    *v = (Value){ .type = u32(type), .element = u32(type), .count = 1 };
    if (v->type == ARRAY) {
        if (!(head = take(r, 12)))
            return -1;
        v->element = u32(head);
        v->count = u64(head + 4);
    }
    v->data = r->p;
    return skip_values(r, v->element, v->count, v->type == ARRAY);
}

/* One of the integer types at p. */
static int64_t integer(const uint8_t *p, uint32_t type)
{
    switch (type) {
    case U32: return u32(p);
    case I32: return (int32_t)u32(p);
    case U64:
    case I64: return (int64_t)u64(p);
    default:  return -1;
    }
}

/* comfy.gguf.orig_shape.TENSOR: dimensions, slowest first. */
static int read_shape(Reader *r, const Text *key, const Value *v)
{
    const size_t prefix = strlen(ORIG_SHAPE);
    Shape *s;

    if (r->nb_shapes == r->shape_room) {
        const int room = r->shape_room ? 2 * r->shape_room : 64;

        s = realloc(r->shape, room * sizeof(*s));
        if (!s)
            return wan_error_memory(r->log, r->f->path, "its shapes");
        r->shape = s;
        r->shape_room = room;
    }
    s = &r->shape[r->nb_shapes];
    *s = (Shape){ .tensor = { key->s + prefix, key->n - prefix } };
    if (v->type == ARRAY && v->count >= 1 && v->count <= WAN_STORED_MAX_DIMS) {
        for (uint64_t i = 0; i < v->count; i++)
            s->dim[i] = integer(v->data + i * value_size[v->element],
                                v->element);
        s->nb_dims = (int)v->count;
    }
    if (wan_shape_bytes(s->nb_dims, s->dim, 1) < 1 || !s->nb_dims)
        return wan_error(r->log, WAN_INVALIDDATA, "%s: %.*s is no list of 1 "
                         "to %d dimensions", r->f->path, shown(key), key->s,
                         WAN_STORED_MAX_DIMS);
    r->nb_shapes++;
    return 0;
}

static int read_alignment(Reader *r, const Value *v)
{
    const int64_t n = integer(v->data, v->type);

    if (n < 1 || n > 1 << 30 || n & (n - 1))
        return wan_error(r->log, WAN_INVALIDDATA, "%s: general.alignment is no "
                         "power of two up to 2^30", r->f->path);
    r->alignment = n;
    return 0;
}

static int read_key(Reader *r)
{
    const struct { const char *key; Value *value; } kept[] = {
        { "tokenizer.ggml.model", &r->model },
        { "tokenizer.ggml.tokens", &r->tokens },
        { "tokenizer.ggml.scores", &r->scores },
        { "tokenizer.ggml.token_type", &r->types },
        { "tokenizer.ggml.precompiled_charsmap", &r->charsmap },
        { WAN_CONFIG_KEY, &r->config },
    };
    char what[256];
    Text key;
    Value v;

    if (take_text(r, &key) < 0)
        return cut_off(r, "a key");
    if (read_value(r, &v) < 0) {
        snprintf(what, sizeof(what), "the value of %.*s is of an unknown type "
                 "or", shown(&key), key.s);
        return cut_off(r, what);
    }
    for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++)
        if (is_text(&key, kept[i].key))
            *kept[i].value = v;
    if (is_text(&key, "general.alignment"))
        return read_alignment(r, &v);
    return begins(&key, ORIG_SHAPE) ? read_shape(r, &key, &v) : 0;
}

static int compare_texts(const Text *a, const Text *b)
{
    const int order = memcmp(a->s, b->s, a->n < b->n ? a->n : b->n);

    return order ? order : (a->n > b->n) - (a->n < b->n);
}

static int by_tensor(const void *pa, const void *pb)
{
    const Shape *a = pa, *b = pb;

    return compare_texts(&a->tensor, &b->tensor);
}

/* --------------------------------------------------------- the tensors */

/* GGUF's numbers of the types; NULL: a gap. Those that are not read have a
 * name alone, see WanStored.foreign. */
static const struct {
    const char *name;
    WanType type;
} types[] = {
    [0] = { "F32", WAN_F32 },    [1] = { "F16", WAN_F16 },
    [2] = { "Q4_0", WAN_Q4_0 },  [3] = { "Q4_1", WAN_Q4_1 },
    [6] = { "Q5_0", WAN_Q5_0 },  [7] = { "Q5_1", WAN_Q5_1 },
    [8] = { "Q8_0", WAN_Q8_0 },  [9] = { "Q8_1", WAN_NB_TYPES },
    [10] = { "Q2_K", WAN_Q2_K }, [11] = { "Q3_K", WAN_Q3_K },
    [12] = { "Q4_K", WAN_Q4_K }, [13] = { "Q5_K", WAN_Q5_K },
    [14] = { "Q6_K", WAN_Q6_K }, [15] = { "Q8_K", WAN_NB_TYPES },
    [16] = { "IQ2_XXS", WAN_NB_TYPES }, [17] = { "IQ2_XS", WAN_NB_TYPES },
    [18] = { "IQ3_XXS", WAN_NB_TYPES }, [19] = { "IQ1_S", WAN_NB_TYPES },
    [20] = { "IQ4_NL", WAN_IQ4_NL },    [21] = { "IQ3_S", WAN_NB_TYPES },
    [22] = { "IQ2_S", WAN_NB_TYPES },   [23] = { "IQ4_XS", WAN_IQ4_XS },
    [24] = { "I8", WAN_I8 },     [25] = { "I16", WAN_I16 },
    [26] = { "I32", WAN_I32 },   [27] = { "I64", WAN_I64 },
    [28] = { "F64", WAN_F64 },   [29] = { "IQ1_M", WAN_NB_TYPES },
    [30] = { "BF16", WAN_BF16 }, [34] = { "TQ1_0", WAN_NB_TYPES },
    [35] = { "TQ2_0", WAN_NB_TYPES },   [39] = { "MXFP4", WAN_NB_TYPES },
};
#define NB_TYPES (sizeof(types) / sizeof(types[0]))

static int tensor_error(const Reader *r, const Tensor *t, int error,
                        const char *what)
{
    return wan_error(r->log, error, "%s: tensor %.*s: %s", r->f->path,
                     shown(&t->name), t->name.s, what);
}

/* What a tensor of count elements takes. A foreign one is there by name: how
 * long it is nobody asks. */
static int set_type(const Reader *r, Tensor *t, uint32_t id, int64_t count)
{
    const int64_t cols = t->t.nb_dims ? t->t.dim[t->t.nb_dims - 1] : 1;
    int64_t blocks;
    char what[64];

    if (id >= NB_TYPES || !types[id].name) {
        snprintf(what, sizeof(what), "unknown type %" PRIu32, id);
        return tensor_error(r, t, WAN_ERR(ENOSYS), what);
    }
    t->t.type = types[id].type;
    if (t->t.type == WAN_NB_TYPES) {
        t->t.type = WAN_U8;
        t->t.foreign = types[id].name;
        return 0;
    }
    if (cols % wan_type_block(t->t.type))
        return tensor_error(r, t, WAN_INVALIDDATA, "its rows are not whole "
                            "blocks of its type");
    blocks = count / wan_type_block(t->t.type);
    t->t.bytes = wan_shape_bytes(1, &blocks, wan_type_size(t->t.type));
    if (t->t.bytes < 0)
        return tensor_error(r, t, WAN_INVALIDDATA, "impossible dimensions");
    return 0;
}

/* Give t the shape that it had before it was stored flat. */
static int set_shape(const Reader *r, Tensor *t, int64_t count)
{
    const Shape key = { .tensor = t->name }, *s;

    s = r->nb_shapes ? bsearch(&key, r->shape, r->nb_shapes, sizeof(key),
                               by_tensor) : NULL;
    if (!s)
        return 0;
    if (wan_shape_bytes(s->nb_dims, s->dim, 1) != count)
        return tensor_error(r, t, WAN_INVALIDDATA, ORIG_SHAPE " has another "
                            "number of elements");
    t->t.nb_dims = s->nb_dims;
    memcpy(t->t.dim, s->dim, sizeof(s->dim));
    return 0;
}

/* name; u32 nb_dims; u64 dims; u32 type; u64 offset */
static int read_tensor(Reader *r, Tensor *t)
{
    const uint8_t *p;
    uint32_t nb_dims;
    int64_t count;
    int ret;

    if (take_text(r, &t->name) < 0 || !(p = take(r, 4)))
        return cut_off(r, "the list of tensors");
    nb_dims = u32(p);
    if (nb_dims > WAN_STORED_MAX_DIMS)
        return tensor_error(r, t, WAN_INVALIDDATA, "more than 8 dimensions");
    if (!(p = take(r, 8 * (uint64_t)nb_dims + 12)))
        return cut_off(r, "the list of tensors");
    t->t.nb_dims = (int)nb_dims;
    for (uint32_t i = 0; i < nb_dims; i++)
        t->t.dim[nb_dims - 1 - i] = (int64_t)u64(p + 8 * i);
    p += 8 * nb_dims;
    t->offset = u64(p + 4);
    count = wan_shape_bytes(t->t.nb_dims, t->t.dim, 1);
    if (count < 0)
        return tensor_error(r, t, WAN_INVALIDDATA, "impossible dimensions");
    ret = set_type(r, t, u32(p), count);
    return ret < 0 ? ret : set_shape(r, t, count);
}

static int by_offset(const void *pa, const void *pb)
{
    const Tensor *a = pa, *b = pb;

    return a->offset != b->offset ? (a->offset > b->offset) -
                                    (a->offset < b->offset)
         : (a->t.bytes > b->t.bytes) - (a->t.bytes < b->t.bytes);
}

/* Where data begins; every tensor must lie in it, alone. */
static int place_tensors(Reader *r)
{
    const uint64_t head = r->p - r->f->data;
    const uint64_t start = (head + r->alignment - 1) & ~(r->alignment - 1);
    const uint64_t size = start < (uint64_t)r->f->size ? r->f->size - start
                                                       : 0;
    uint64_t at = 0;

    qsort(r->tensor, r->nb_tensors, sizeof(*r->tensor), by_offset);
    for (int i = 0; i < r->nb_tensors; i++) {
        Tensor *t = &r->tensor[i];

        if (t->offset % r->alignment)
            return tensor_error(r, t, WAN_INVALIDDATA, "its offset is no "
                                "multiple of general.alignment");
        if (t->offset > size || (uint64_t)t->t.bytes > size - t->offset)
            return tensor_error(r, t, WAN_INVALIDDATA, "its data reaches out "
                                "of the file, which may be cut off");
        if (t->offset < at)
            return tensor_error(r, t, WAN_INVALIDDATA, "its data begins "
                                "inside another tensor's");
        at = t->offset + t->t.bytes;
        t->t.data = r->f->data + (size ? start + t->offset : 0);
    }
    return 0;
}

/* -------------------------------------------------------- the tokenizer */

/* A spiece.model that is being written: protobuf. p NULL: only counted. */
typedef struct Writer {
    uint8_t *p;
    uint64_t n;
} Writer;

static void put_byte(Writer *w, uint8_t v)
{
    if (w->p)
        w->p[w->n] = v;
    w->n++;
}

static void put_varint(Writer *w, uint64_t v)
{
    for (; v > 127; v >>= 7)
        put_byte(w, (uint8_t)(v | 128));
    put_byte(w, (uint8_t)v);
}

static void put_bytes(Writer *w, int field, const void *s, uint64_t n)
{
    put_varint(w, field << 3 | 2);
    put_varint(w, n);
    if (w->p && n)
        memcpy(w->p + w->n, s, n);
    w->n += n;
}

/* A piece's fields: text, score, type. */
static void put_piece(Writer *w, const Text *text, const uint8_t *score,
                      uint32_t type)
{
    put_bytes(w, 1, text->s, text->n);
    put_varint(w, 2 << 3 | 5);
    for (int i = 0; i < 4; i++)
        put_byte(w, score[i]);
    put_varint(w, 3 << 3);
    put_varint(w, type);
}

/* What converters fill the ids behind the vocabulary with. The ids of
 * <extra_id_0> and so on are known without. */
static int is_filler(const Text *t)
{
    return begins(t, "[PAD") || begins(t, "<extra_id_");
}

/* The first n tokens as pieces, and the charsmap. */
static void put_model(Writer *w, const Reader *r, uint64_t n)
{
    Reader in = { .p = r->tokens.data, .end = r->f->data + r->f->size };
    const int has_map = r->charsmap.type == ARRAY &&
                        r->charsmap.element <= I8;

    for (uint64_t i = 0; i < n; i++) {
        const uint8_t *score = r->scores.data + 4 * i;
        const uint32_t type = u32(r->types.data + 4 * i);
        Writer one = { 0 };
        Text text = { 0 };

        take_text(&in, &text);
        put_piece(&one, &text, score, type);
        put_varint(w, 1 << 3 | 2);
        put_varint(w, one.n);
        put_piece(w, &text, score, type);
    }
    if (has_map && r->charsmap.count) {
        Writer map = { 0 };

        put_bytes(&map, 2, r->charsmap.data, r->charsmap.count);
        put_varint(w, 3 << 3 | 2);
        put_varint(w, map.n);
        put_bytes(w, 2, r->charsmap.data, r->charsmap.count);
    }
}

/* Tokens, scores and types as the tensor spiece_model, where the file has them
 * and they are of sentencepiece's unigram kind, which is called t5. */
static int add_tokenizer(WanWeights *w, Reader *r)
{
    static const char name[] = "spiece_model";
    Reader in = { .p = r->tokens.data, .end = r->f->data + r->f->size };
    WanStored t = { .type = WAN_U8, .nb_dims = 1 };
    Text text = { 0 };
    Writer out = { 0 };
    uint64_t used = 0;

    if (r->model.type == STRING) {
        in.p = r->model.data;
        take_text(&in, &text);
        in.p = r->tokens.data;
    }
    if (!is_text(&text, "t5") || !r->tokens.count)
        return 0;
    if (r->tokens.element != STRING || r->scores.element != F32 ||
        (r->types.element != I32 && r->types.element != U32) ||
        r->scores.count != r->tokens.count ||
        r->types.count != r->tokens.count)
        return wan_error(r->log, WAN_INVALIDDATA, "%s: its tokenizer has %"
                         PRIu64 " tokens, %" PRIu64 " scores and %" PRIu64
                         " types, or of other types than string, f32 and i32",
                         r->f->path, r->tokens.count, r->scores.count,
                         r->types.count);
    for (uint64_t i = 0; i < r->tokens.count; i++) {
        take_text(&in, &text);
        if (!is_filler(&text))
            used = i + 1;
    }

    put_model(&out, r, used);
    t.bytes = t.dim[0] = (int64_t)out.n;
    out = (Writer){ .p = wan_weights_alloc(w, t.bytes) };
    if (!out.p)
        return wan_error_memory(r->log, r->f->path, "its tokenizer");
    put_model(&out, r, used);
    t.data = out.p;
    return wan_weights_add(w, r->f, name, strlen(name), &t, r->log);
}

/* wan.config as what a safetensors file has in its metadata. */
static int add_config(WanWeights *w, Reader *r)
{
    Reader in = { .p = r->config.data, .end = r->f->data + r->f->size };
    cJSON *metadata = NULL;
    char *text = NULL;
    Text t = { 0 };

    if (r->config.type != STRING)
        return 0;
    take_text(&in, &t);
    text = strndup(t.s, t.n);
    metadata = cJSON_CreateObject();
    if (!text || !metadata ||
        !cJSON_AddStringToObject(metadata, WAN_CONFIG_KEY, text)) {
        cJSON_Delete(metadata);
        free(text);
        return wan_error_memory(r->log, r->f->path, WAN_CONFIG_KEY);
    }
    free(text);
    wan_weights_set_metadata(w, metadata);
    return 0;
}

/* ----------------------------------------------------------------- all */

/* Magic, version, counts: what can be is read on. */
static int read_header(Reader *r, uint64_t *tensors, uint64_t *keys)
{
    const uint8_t *p = take(r, 24);
    const uint32_t version = p ? u32(p + 4) : 0;

    if (!p)
        return cut_off(r, "the header");
    if (version && !(version & 0xffff))
        return wan_error(r->log, WAN_ERR(ENOSYS), "%s: a GGUF file in "
                         "big-endian order is not read", r->f->path);
    if (version != 2 && version != 3)
        return wan_error(r->log, WAN_ERR(ENOSYS), "%s: GGUF version %" PRIu32
                         " is not read, 2 and 3 are", r->f->path, version);
    *tensors = u64(p + 8);
    *keys = u64(p + 16);
    /* the shortest key takes 13 bytes, the shortest tensor 24 */
    if (*keys > (uint64_t)r->f->size / 13 ||
        *tensors > (uint64_t)r->f->size / 24 || *tensors > WAN_MAX_STORED)
        return wan_error(r->log, WAN_INVALIDDATA, "%s: %" PRIu64 " tensors and "
                         "%" PRIu64 " keys, more than a file of %" PRId64
                         " bytes holds", r->f->path, *tensors, *keys,
                         r->f->size);
    return 0;
}

static int read_all(WanWeights *w, Reader *r)
{
    uint64_t tensors = 0, keys = 0;
    int ret = read_header(r, &tensors, &keys);

    for (; ret >= 0 && keys; keys--)
        ret = read_key(r);
    if (ret < 0)
        return ret;
    if (r->nb_shapes)
        qsort(r->shape, r->nb_shapes, sizeof(*r->shape), by_tensor);

    r->tensor = calloc(tensors + 1, sizeof(*r->tensor));
    if (!r->tensor)
        return wan_error_memory(r->log, r->f->path, "its tensors");
    for (; (uint64_t)r->nb_tensors < tensors; r->nb_tensors++)
        if ((ret = read_tensor(r, &r->tensor[r->nb_tensors])) < 0)
            return ret;
    if ((ret = place_tensors(r)) < 0)
        return ret;
    for (int i = 0; i < r->nb_tensors; i++) {
        const Tensor *t = &r->tensor[i];

        ret = wan_weights_add(w, r->f, t->name.s, t->name.n, &t->t, r->log);
        if (ret < 0)
            return ret;
    }
    ret = add_config(w, r);
    return ret < 0 ? ret : add_tokenizer(w, r);
}

int wan_gguf_read(WanWeights *w, const WanFile *f, const WanLog *log)
{
    Reader r = { .f = f, .log = log, .p = f->data, .end = f->data + f->size,
                 .alignment = 32 };
    const int ret = read_all(w, &r);

    free(r.shape);
    free(r.tensor);
    return ret;
}

/* -------------------------------------------------------------- writing */

#define ALIGN 32                // what a file without the key has

static void put_text(WanBytes *b, const char *s)
{
    wan_put_le(b, strlen(s), 8);
    wan_put(b, s, strlen(s));
}

int wan_gguf_head(WanBytes *b, WanHeadTensor *t, int n,
                  const WanHeadKey *keys, int nb_keys)
{
    int64_t at = 0;

    wan_put(b, "GGUF\3\0\0\0", 8);
    wan_put_le(b, n, 8);
    wan_put_le(b, nb_keys + 1, 8);
    for (int i = 0; i < nb_keys; i++) {
        put_text(b, keys[i].key);
        wan_put_le(b, STRING, 4);
        put_text(b, keys[i].text);
    }
    put_text(b, "general.quantization_version");
    wan_put_le(b, U32, 4);
    wan_put_le(b, 2, 4);                // of the blocks that blocks.c reads
    for (int i = 0; i < n; i++) {
        uint32_t id = 0;
        int64_t count = 1;

        while (id < NB_TYPES && (!types[id].name || types[id].type != t[i].type))
            id++;
        if (id == NB_TYPES)
            return -1;
        put_text(b, t[i].name);
        wan_put_le(b, t[i].nb_dims, 4);
        for (int k = t[i].nb_dims; k > 0; k--) {
            count *= t[i].dim[k - 1];
            wan_put_le(b, t[i].dim[k - 1], 8);
        }
        wan_put_le(b, id, 4);
        wan_put_le(b, at, 8);
        t[i].bytes = wan_type_bytes(t[i].type, count);
        t[i].offset = at;
        at = (at + t[i].bytes + ALIGN - 1) / ALIGN * ALIGN;
    }
    for (int i = 0; i < n; i++)
        t[i].offset += (int64_t)(b->n + ALIGN - 1) / ALIGN * ALIGN;
    return 0;
}
