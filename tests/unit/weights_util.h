/*
 * For the tests of weight files: bytes to put together, log lines to look at.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_WEIGHTS_UTIL_H
#define WAN_WEIGHTS_UTIL_H

#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700
#endif

#include <stdarg.h>
#include <unistd.h>

#include "../test.h"
#include "../../wan/formats/formats.h"

/* ------------------------------------------------------------------ log */

static char last_line[2048];    // the last error line
static int error_lines;

static inline void keep_line(void *opaque, enum WanLogLevel level,
                             const char *line)
{
    (void)opaque;
    if (level > WAN_LOG_ERROR)
        return;
    snprintf(last_line, sizeof(last_line), "%s", line);
    error_lines++;
}

static const WanLog test_log = { keep_line, NULL, WAN_LOG_ERROR };

/* ---------------------------------------------------------------- bytes */

typedef struct Bytes {
    uint8_t *p;
    size_t n, room;
} Bytes;

static inline void put(Bytes *b, const void *src, size_t n)
{
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n) + 64;
        b->p = realloc(b->p, b->room);
        if (!b->p)
            abort();
    }
    if (n)
        memcpy(b->p + b->n, src, n);
    b->n += n;
}

static inline void put_le(Bytes *b, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        put(b, &(uint8_t){ v >> 8 * i & 255 }, 1);
}

static inline void put_str(Bytes *b, const char *s)
{
    put(b, s, strlen(s));
}

/* A literal that may hold zeros. */
#define put_lit(b, s) put((b), (s), sizeof(s) - 1)

static inline void put_zeros(Bytes *b, size_t n)
{
    while (n--)
        put(b, "", 1);
}

static inline void drop(Bytes *b)
{
    free(b->p);
    *b = (Bytes){ 0 };
}

/* A safetensors file with that header and data bytes 0, 1, 2, ... */
static inline Bytes safetensors(const char *json, size_t data)
{
    Bytes b = { 0 };

    put_le(&b, strlen(json), 8);
    put_str(&b, json);
    for (size_t i = 0; i < data; i++)
        put(&b, &(uint8_t){ i }, 1);
    return b;
}

/* ------------------------------------------------------------------ zip */

typedef struct ZipMaker {
    Bytes file, directory;
    int count;
    int zip64;          // sizes and offsets in extra fields
} ZipMaker;

static inline void zip_add(ZipMaker *z, const char *name, const void *data,
                           size_t n)
{
    const size_t at = z->file.n, len = strlen(name);
    const size_t pad = (64 - (at + 30 + len + 4) % 64) % 64;

    put_le(&z->file, 0x04034b50, 4);
    put_le(&z->file, 45, 2);
    put_le(&z->file, 8, 2);             // sizes follow: 0 here
    put_zeros(&z->file, 2 + 4 + 12);
    put_le(&z->file, len, 2);
    put_le(&z->file, 4 + pad, 2);
    put_str(&z->file, name);
    put_lit(&z->file, "FB");
    put_le(&z->file, pad, 2);
    put_zeros(&z->file, pad);
    put(&z->file, data, n);

    put_le(&z->directory, 0x02014b50, 4);
    put_le(&z->directory, 45, 2);
    put_le(&z->directory, 45, 2);
    put_le(&z->directory, 8, 2);
    put_zeros(&z->directory, 2 + 4 + 4);
    put_le(&z->directory, z->zip64 ? 0xffffffff : n, 4);
    put_le(&z->directory, z->zip64 ? 0xffffffff : n, 4);
    put_le(&z->directory, len, 2);
    put_le(&z->directory, z->zip64 ? 4 + 4 + 28 : 0, 2);
    put_zeros(&z->directory, 2 + 2 + 2 + 4);
    put_le(&z->directory, z->zip64 ? 0xffffffff : at, 4);
    put_str(&z->directory, name);
    if (z->zip64) {
        put_lit(&z->directory, "xx");   // another field before it
        put_le(&z->directory, 4, 2);
        put_zeros(&z->directory, 4);
        put_le(&z->directory, 1, 2);
        put_le(&z->directory, 24, 2);
        put_le(&z->directory, n, 8);
        put_le(&z->directory, n, 8);
        put_le(&z->directory, at, 8);
    }
    z->count++;
}

/* The file; z is empty then. */
static inline Bytes zip_finish(ZipMaker *z)
{
    const size_t at = z->file.n;
    Bytes b;

    put(&z->file, z->directory.p, z->directory.n);
    if (z->zip64) {
        const size_t end = z->file.n;

        put_le(&z->file, 0x06064b50, 4);
        put_le(&z->file, 44, 8);
        put_le(&z->file, 45, 2);
        put_le(&z->file, 45, 2);
        put_zeros(&z->file, 8);
        put_le(&z->file, z->count, 8);
        put_le(&z->file, z->count, 8);
        put_le(&z->file, z->directory.n, 8);
        put_le(&z->file, at, 8);
        put_le(&z->file, 0x07064b50, 4);
        put_zeros(&z->file, 4);
        put_le(&z->file, end, 8);
        put_le(&z->file, 1, 4);
    }
    put_le(&z->file, 0x06054b50, 4);
    put_zeros(&z->file, 4);
    put_le(&z->file, z->zip64 ? 0xffff : z->count, 2);
    put_le(&z->file, z->zip64 ? 0xffff : z->count, 2);
    put_le(&z->file, z->zip64 ? 0xffffffff : z->directory.n, 4);
    put_le(&z->file, z->zip64 ? 0xffffffff : at, 4);
    put_le(&z->file, 0, 2);
    b = z->file;
    drop(&z->directory);
    *z = (ZipMaker){ 0 };
    return b;
}

/* --------------------------------------------------------------- opening */

/* Open a copy that ends where the bytes do, so that ASan sees the end. The
 * copy is kept in *held, to be freed after the weights. */
static inline int open_copy(WanWeights **w, uint8_t **held, const char *path,
                            const void *p, size_t n)
{
    *held = n ? malloc(n) : calloc(1, 1);
    if (!*held)
        abort();
    if (n)
        memcpy(*held, p, n);
    last_line[0] = 0;
    error_lines = 0;
    return wan_weights_open_memory(w, path, *held, n, &test_log);
}

/* Open and close; every byte of every tensor is looked at. */
static inline int try_open(const char *path, const void *p, size_t n)
{
    uint8_t *held;
    WanWeights *w;
    int ret = open_copy(&w, &held, path, p, n);
    volatile uint8_t seen;

    for (int i = 0; w && i < wan_weights_count(w); i++) {
        const WanStored *s = wan_weights_at(w, i);

        for (int64_t k = 0; s->data && k < s->bytes; k++)
            seen = ((const uint8_t *)s->data)[k];
    }
    (void)seen;
    CHECK((ret < 0) == !w);
    CHECKF(error_lines == (ret < 0), "%d error lines, returned %d: %s",
           error_lines, ret, last_line);
    wan_weights_close(&w);
    free(held);
    return ret;
}

/* Is it refused with that error, in a line that has these words and names
 * the file? */
static inline int refused(Bytes *b, const char *path, int error,
                          const char *words)
{
    const int ret = try_open(path, b->p, b->n);

    drop(b);
    return CHECKF(ret == error, "%d instead of %d for '%s': %s", ret, error,
                  words, last_line) &
           CHECKF(strstr(last_line, words) && strstr(last_line, path),
                  "'%s' is not in: %s", words, last_line);
}

/* ----------------------------------------------------------------- files */

static char scratch_dir[1024];

/* A name in a directory that scratch_clean() removes, with all in it. */
static inline const char *scratch(const char *name)
{
    static char path[4][1200];
    static int turn;

    if (!scratch_dir[0]) {
        const char *tmp = getenv("TMPDIR");

        snprintf(scratch_dir, sizeof(scratch_dir), "%s/wan-test-XXXXXX",
                 tmp ? tmp : P_tmpdir);
        if (!mkdtemp(scratch_dir))
            abort();
    }
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", scratch_dir, name);
    return path[turn];
}

static inline void write_file(const char *path, Bytes *b)
{
    FILE *f = fopen(path, "wb");

    if (!f || (b->n && fwrite(b->p, 1, b->n, f) != b->n) || fclose(f))
        abort();
    drop(b);
}

static inline void scratch_clean(void)
{
    char command[1200];

    snprintf(command, sizeof(command), "rm -rf '%s'", scratch_dir);
    if (scratch_dir[0] && system(command))
        printf("# %s is left\n", scratch_dir);
    scratch_dir[0] = 0;
}

/* A file of a tiny checkpoint, "wan-t2v/config.json": from $WAN_GOLDEN/tiny,
 * or unpacked from $WAN_GOLDEN/wan-t2v.tar.xz. */
static inline const char *tiny(const char *name)
{
    static char path[4][1200];
    static int turn;
    const int top = (int)strcspn(name, "/");
    const char *dir = getenv("WAN_GOLDEN");
    char command[3000];

    if (!dir)
        dir = "tests/golden";
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof(path[turn]), "%s/tiny/%s", dir, name);
    if (!access(path[turn], R_OK))
        return path[turn];
    snprintf(path[turn], sizeof(path[turn]), "%s", scratch(name));
    if (access(path[turn], R_OK)) {
        snprintf(command, sizeof(command), "tar -xJf '%s/%.*s.tar.xz' -C '%s'",
                 dir, top, name, scratch_dir);
        CHECKF(!system(command), "%s", command);
    }
    return path[turn];
}

/* A safetensors file that is put together of tensors. */
typedef struct Maker {
    Bytes header, data;
} Maker;

static inline void add(Maker *m, const char *name, const char *type, int nb_dims,
                const int64_t *dim, const void *data, int64_t bytes)
{
    char text[400];

    put_str(&m->header, m->header.n ? ",\"" : "{\"");
    put_str(&m->header, name);
    snprintf(text, sizeof(text), "\":{\"dtype\":\"%s\",\"shape\":[", type);
    put_str(&m->header, text);
    for (int i = 0; i < nb_dims; i++) {
        snprintf(text, sizeof(text), "%s%lld", i ? "," : "",
                 (long long)dim[i]);
        put_str(&m->header, text);
    }
    snprintf(text, sizeof(text), "],\"data_offsets\":[%zu,%zu]}", m->data.n,
             m->data.n + (size_t)bytes);
    put_str(&m->header, text);
    put(&m->data, data, (size_t)bytes);
}

static inline void add_file(Maker *m, const char *prefix, const char *file)
{
    WanWeights *w;

    if (wan_weights_open(&w, tiny(file), &test_log) < 0)
        abort();
    for (int i = 0; i < wan_weights_count(w); i++) {
        const WanStored *s = wan_weights_at(w, i);
        char name[300];

        snprintf(name, sizeof(name), "%s%s", prefix, s->name);
        add(m, name, wan_type_name(s->type), s->nb_dims, s->dim, s->data,
            s->bytes);
    }
    wan_weights_close(&w);
}

static inline void write_all(Maker *m, const char *path)
{
    Bytes file = { 0 };

    put_str(&m->header, "}");
    put_le(&file, m->header.n, 8);
    put(&file, m->header.p, m->header.n);
    put(&file, m->data.p, m->data.n);
    write_file(path, &file);
    drop(&m->header);
    drop(&m->data);
}

#endif /* WAN_WEIGHTS_UTIL_H */
