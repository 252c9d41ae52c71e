/*
 * GGUF files to put together, piece by piece.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_GGUF_UTIL_H
#define WAN_GGUF_UTIL_H

#include "weights_util.h"

enum { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32,
       GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64 };

typedef struct GgufMaker {
    Bytes keys, infos, data;
    uint64_t nb_keys, nb_tensors;
    int align;                      // 0: 32
} GgufMaker;

static inline void gguf_text(Bytes *b, const char *s)
{
    put_le(b, strlen(s), 8);
    put_str(b, s);
}

/* A key and its type; the value is up to the caller. */
static inline Bytes *gguf_key(GgufMaker *g, const char *key, uint32_t type)
{
    gguf_text(&g->keys, key);
    put_le(&g->keys, type, 4);
    g->nb_keys++;
    return &g->keys;
}

static inline Bytes *gguf_array(GgufMaker *g, const char *key,
                                uint32_t element, uint64_t count)
{
    Bytes *b = gguf_key(g, key, GGUF_ARRAY);

    put_le(b, element, 4);
    put_le(b, count, 8);
    return b;
}

static inline void gguf_string(GgufMaker *g, const char *key, const char *s)
{
    gguf_text(gguf_key(g, key, GGUF_STRING), s);
}

/* A tensor's line; dims fastest first. */
static inline void gguf_info(GgufMaker *g, const char *name, uint32_t type,
                             uint64_t offset, int nb_dims,
                             const uint64_t *dim)
{
    gguf_text(&g->infos, name);
    put_le(&g->infos, nb_dims, 4);
    for (int i = 0; i < nb_dims; i++)
        put_le(&g->infos, dim[i], 8);
    put_le(&g->infos, type, 4);
    put_le(&g->infos, offset, 8);
    g->nb_tensors++;
}

/* A tensor and data for it, bytes of them: 0, 1, 2, ... */
#define gguf_tensor(g, name, type, bytes, ...) \
    gguf_tensor_((g), (name), (type), (bytes), \
                 (int)(sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)), \
                 (const uint64_t[]){__VA_ARGS__})
static inline void gguf_tensor_(GgufMaker *g, const char *name, uint32_t type,
                                size_t bytes, int nb_dims,
                                const uint64_t *dim)
{
    const int align = g->align ? g->align : 32;

    put_zeros(&g->data, (align - g->data.n % align) % align);
    gguf_info(g, name, type, g->data.n, nb_dims, dim);
    for (size_t i = 0; i < bytes; i++)
        put(&g->data, &(uint8_t){ i }, 1);
}

/* The file; g is empty then. */
static inline Bytes gguf_finish(GgufMaker *g)
{
    const int align = g->align ? g->align : 32;
    Bytes b = { 0 };

    put_lit(&b, "GGUF\3\0\0\0");
    put_le(&b, g->nb_tensors, 8);
    put_le(&b, g->nb_keys, 8);
    put(&b, g->keys.p, g->keys.n);
    put(&b, g->infos.p, g->infos.n);
    put_zeros(&b, (align - b.n % align) % align);
    put(&b, g->data.p, g->data.n);
    drop(&g->keys);
    drop(&g->infos);
    drop(&g->data);
    *g = (GgufMaker){ 0 };
    return b;
}

#endif /* WAN_GGUF_UTIL_H */
