/*
 * Weights: files mapped, their tensors indexed by name and bound.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "files.h"
#include "formats/formats.h"
#include "json.h"
#include "nodes.h"

struct WanWeights {
    char *path;
    WanFile *files;
    WanStored *stored;      // by name, once all files are read
    int count, room;
    cJSON *metadata;        // of the first file that has some
    WanPool made;           // what readers made beside the files
    const char *wanted;     // a dict of a torch file, while it is read
    const char *dict;       // the one that was read, if it has a name
};

/* -------------------------------------------------------------- files */

static void file_free(WanFile *f)
{
    if (!f)
        return;
    if (f->mapped)
        munmap((void *)f->data, f->size);
    free(f->path);
    free(f);
}

/* A file's entry in w; without data yet. */
static int file_new(WanFile **out, WanWeights *w, const char *path,
                    const WanLog *log)
{
    WanFile *f = calloc(1, sizeof(*f));

    if (!f || !(f->path = strdup(path))) {
        file_free(f);
        return wan_error_memory(log, path, "its tensors");
    }
    f->next = w->files;
    w->files = *out = f;
    return 0;
}

static int file_map(WanFile **out, WanWeights *w, const char *path,
                    const WanLog *log)
{
    int64_t size;
    void *data;
    int fd, ret = wan_file_open(&fd, &size, path, log);

    if (ret < 0)
        return ret;
    data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED)
        ret = wan_error_file(log, path, errno);
    close(fd);
    if (ret < 0)
        return ret;

    ret = file_new(out, w, path, log);
    if (ret < 0) {
        munmap(data, size);
        return ret;
    }
    (*out)->data = data;
    (*out)->size = size;
    (*out)->mapped = 1;
    return 0;
}

static int starts(const WanFile *f, const char *bytes, int n)
{
    return f->size >= n && !memcmp(f->data, bytes, n);
}

/* JSON begins with a brace, and its first eight bytes as the length of a
 * safetensors header are larger than any file. */
static int is_json(const WanFile *f)
{
    int64_t i = (int64_t)wan_json_bom(f->data, f->size);

    while (i < f->size && isspace(f->data[i]))
        i++;
    return i < f->size && f->data[i] == '{' &&
           (f->size < 8 || f->data[7] || f->data[6] || f->data[5]);
}

static int file_read(WanWeights *w, const WanFile *f, const WanLog *log)
{
    if (starts(f, "PK\3\4", 4) || starts(f, "PK\5\6", 4))
        return wan_torch_zip_read(w, f, log);
    if (starts(f, "GGUF", 4))
        return wan_gguf_read(w, f, log);
    if (starts(f, "\x80\2\x8a\nl\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15)) {
        wan_log(log, WAN_LOG_ERROR, "%s: a torch file of the form before 1.6 "
                "is not read, save it anew", f->path);
        return WAN_ERR(ENOSYS);
    }
    if (starts(f, "version https://git-lfs", 23)) {
        wan_log(log, WAN_LOG_ERROR, "%s: only the Git LFS pointer to a file, "
                "fetch the file itself", f->path);
        return WAN_INVALIDDATA;
    }
    if (is_json(f)) {
        wan_log(log, WAN_LOG_ERROR, "%s: an index where a file with tensors "
                "belongs", f->path);
        return WAN_INVALIDDATA;
    }
    return wan_safetensors_read(w, f, log);
}

/* -------------------------------------------------------------- index */

int64_t wan_shape_bytes(int nb_dims, const int64_t *dim, int size)
{
    int64_t n = size;
    int empty = 0;

    for (int i = 0; i < nb_dims; i++) {
        empty |= !dim[i];               // which hides no huge one beside it
        if (dim[i] < 0 ||
            __builtin_mul_overflow(n, dim[i] ? dim[i] : 1, &n) ||
            n > INT64_C(1) << 62)
            return -1;
    }
    return empty ? 0 : n;
}

int wan_weights_add(WanWeights *w, const WanFile *f, const char *name,
                    size_t len, const WanStored *t, const WanLog *log)
{
    WanStored *s;

    if (!len || memchr(name, 0, len)) {
        wan_log(log, WAN_LOG_ERROR, "%s: a tensor whose name is empty or "
                "holds a zero byte", f->path);
        return WAN_INVALIDDATA;
    }
    if (w->count == WAN_MAX_STORED) {
        wan_log(log, WAN_LOG_ERROR, "%s: more than %d tensors", f->path,
                WAN_MAX_STORED);
        return WAN_INVALIDDATA;
    }
    if (w->count == w->room) {
        const int room = w->room ? 2 * w->room : 256;

        s = realloc(w->stored, room * sizeof(*s));
        if (!s)
            goto no_memory;
        w->stored = s;
        w->room = room;
    }

    s = &w->stored[w->count];
    *s = *t;
    s->raw_name = malloc(2 * (len + 1));
    if (!s->raw_name)
        goto no_memory;
    memcpy(s->raw_name, name, len);
    s->raw_name[len] = 0;
    wan_name_clean(s->raw_name + len + 1, s->raw_name);
    s->name = s->raw_name + len + 1;
    s->file = f->path;
    w->count++;
    return 0;
no_memory:
    return wan_error_memory(log, f->path, "its tensors");
}

void *wan_weights_alloc(WanWeights *w, int64_t bytes)
{
    return wan_pool_alloc(&w->made, bytes);
}

static int by_name(const void *pa, const void *pb)
{
    const WanStored *a = pa, *b = pb;

    return strcmp(a->name, b->name);
}

/* Sort, and look at what can only be seen with all files read. */
static int index_finish(WanWeights *w, const WanLog *log)
{
    static const char quant[] = ".comfy_quant";
    int64_t bytes = 0;

    if (w->count)
        qsort(w->stored, w->count, sizeof(*w->stored), by_name);
    for (int i = 0; i < w->count; i++) {
        const WanStored *s = &w->stored[i];
        const size_t n = strlen(s->name);

        bytes += s->bytes;
        if (i && !strcmp(s[-1].name, s->name)) {
            wan_log(log, WAN_LOG_ERROR, "%s: tensor %s is there twice, also "
                    "as %s in %s", s->file, s->raw_name, s[-1].raw_name,
                    s[-1].file);
            return WAN_INVALIDDATA;
        }
        if (n >= sizeof(quant) &&
            !strcmp(s->name + n + 1 - sizeof(quant), quant)) {
            int ret = wan_comfy_quant_check(s, log);

            if (ret < 0)
                return ret;
        }
    }
    wan_log(log, WAN_LOG_VERBOSE, "%s: %d tensors, %" PRId64 " bytes", w->path,
            w->count, bytes);
    return 0;
}

/* The shards an index names, and that each holds what it should. */
static int open_indexed(WanWeights *w, const WanFile *index, const WanLog *log)
{
    const char *slash = strrchr(index->path, '/');
    const int folder = slash ? (int)(slash + 1 - index->path) : 0;
    WanShardMap map;
    int ret = wan_shard_map_read(&map, index, log);

    if (ret < 0)
        return ret;
    for (int i = 0; i < map.count; i++) {
        const size_t size = folder + strlen(map.entry[i].shard) + 1;
        char *path;
        WanFile *f;

        if (i && !strcmp(map.entry[i - 1].shard, map.entry[i].shard))
            continue;
        path = malloc(size);
        if (!path) {
            ret = wan_error_memory(log, index->path, "its shards");
            goto fail;
        }
        snprintf(path, size, "%.*s%s", folder, index->path,
                 map.entry[i].shard);
        ret = file_map(&f, w, path, log);
        free(path);
        if (ret >= 0)
            ret = file_read(w, f, log);
        if (ret < 0)
            goto fail;
    }
    ret = index_finish(w, log);
    if (ret < 0)
        goto fail;

    for (int i = 0; i < map.count; i++) {
        const WanShardEntry *e = &map.entry[i];
        char *name = malloc(strlen(e->tensor) + 1);
        const WanStored *s;

        if (!name) {
            ret = wan_error_memory(log, index->path, "its tensors");
            goto fail;
        }
        wan_name_clean(name, e->tensor);
        s = wan_weights_find(w, name);
        free(name);
        if (s && !strcmp(s->raw_name, e->tensor) &&
            !strcmp(s->file + folder, e->shard))
            continue;
        ret = wan_error(log, WAN_INVALIDDATA, "%s: tensor %s is not in its "
                        "shard %s", index->path, e->tensor, e->shard);
        goto fail;
    }
    ret = 0;
fail:
    wan_shard_map_free(&map);
    return ret;
}

/* Does path end in -0000i-of-0000n.safetensors or .gguf, digits as many? Then
 * i, n and where the first number begins. */
static int shard_number(const char *path, int *i, int *n, int *digits,
                        size_t *at)
{
    const char *tail = strrchr(path, '.');
    size_t end = tail ? (size_t)(tail - path) : 0, first, second;

    if (!tail || (strcmp(tail, ".safetensors") && strcmp(tail, ".gguf")))
        return 0;
    for (second = end; second && isdigit((unsigned char)path[second - 1]); )
        second--;
    *digits = (int)(end - second);
    if (*digits < 1 || *digits > 6 || second < 5u + *digits)
        return 0;
    first = second - 4 - *digits;
    if (strncmp(path + second - 4, "-of-", 4) || path[first - 1] != '-')
        return 0;
    *i = *n = 0;
    for (int k = 0; k < *digits; k++) {
        if (!isdigit((unsigned char)path[first + k]))
            return 0;
        *i = *i * 10 + path[first + k] - '0';
        *n = *n * 10 + path[second + k] - '0';
    }
    *at = first;
    return 1;
}

/* f, and if its name has a number the shards with the other numbers. */
static int open_single(WanWeights *w, const WanFile *f, const WanLog *log)
{
    int i, n, digits, ret;
    size_t at;
    char *path = NULL;

    ret = file_read(w, f, log);
    if (ret < 0)
        return ret;
    if (!shard_number(f->path, &i, &n, &digits, &at))
        return index_finish(w, log);
    if (i < 1 || i > n) {
        wan_log(log, WAN_LOG_ERROR, "%s: shard %d of %d, by its name", f->path,
                i, n);
        return WAN_INVALIDDATA;
    }

    path = strdup(f->path);
    if (!path)
        return wan_error_memory(log, f->path, "its shards");
    for (int k = 1; k <= n; k++) {
        char number[16];
        WanFile *other;

        if (k == i)
            continue;
        snprintf(number, sizeof(number), "%0*d", digits, k);
        memcpy(path + at, number, digits);
        ret = file_map(&other, w, path, log);
        if (ret >= 0)
            ret = file_read(w, other, log);
        if (ret < 0)
            goto fail;
    }
    ret = index_finish(w, log);
fail:
    free(path);
    return ret;
}

static int open_any(WanWeights **out, const char *path, const void *data,
                    size_t size, const char *dict, const WanLog *log)
{
    WanWeights *w = calloc(1, sizeof(*w));
    WanFile *f = NULL;
    int ret;

    *out = NULL;
    if (!w || !(w->path = strdup(path))) {
        ret = wan_error_memory(log, path, "its tensors");
        goto fail;
    }
    w->wanted = dict;
    if (data) {
        ret = file_new(&f, w, path, log);
        if (ret < 0)
            goto fail;
        f->data = data;
        f->size = size;
    } else {
        ret = file_map(&f, w, path, log);
        if (ret < 0)
            goto fail;
    }
    ret = is_json(f) ? open_indexed(w, f, log) : open_single(w, f, log);
    if (ret < 0)
        goto fail;

    w->wanted = NULL;
    *out = w;
    return 0;
fail:
    wan_weights_close(&w);
    return ret;
}

int wan_weights_open(WanWeights **out, const char *path, const WanLog *log)
{
    return open_any(out, path, NULL, 0, NULL, log);
}

int wan_weights_open_dict(WanWeights **out, const char *path,
                          const char *dict, const WanLog *log)
{
    return open_any(out, path, NULL, 0, dict, log);
}

const char *wan_weights_dict(const WanWeights *w)
{
    return w->dict;
}

const char *wan_weights_wanted(const WanWeights *w)
{
    return w->wanted;
}

void wan_weights_taken(WanWeights *w, const char *dict)
{
    w->dict = dict;
}

int wan_weights_open_memory(WanWeights **out, const char *path,
                            const void *data, size_t size, const WanLog *log)
{
    return open_any(out, path, data, size, NULL, log);
}

void wan_weights_close(WanWeights **pw)
{
    WanWeights *w = *pw;

    *pw = NULL;
    if (!w)
        return;
    while (w->files) {
        WanFile *f = w->files;

        w->files = f->next;
        file_free(f);
    }
    for (int i = 0; i < w->count; i++)
        free(w->stored[i].raw_name);
    free(w->stored);
    cJSON_Delete(w->metadata);
    wan_pool_free(&w->made);
    free(w->path);
    free(w);
}

const WanStored *wan_weights_find(const WanWeights *w, const char *name)
{
    const WanStored key = { .name = name };

    if (!w->count)
        return NULL;
    return bsearch(&key, w->stored, w->count, sizeof(key), by_name);
}

uint64_t wan_sum(uint64_t h, const void *data, size_t n)
{
    const unsigned char *p = data;

    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3;         // FNV-1a
    return h;
}

uint64_t wan_weights_sum(const WanWeights *w)
{
    enum { ENDS = 64 };
    uint64_t sum = 0;

    for (int i = 0; i < wan_weights_count(w); i++) {
        const WanStored *t = wan_weights_at(w, i);
        const size_t n = t->bytes < ENDS ? (size_t)t->bytes : ENDS;
        uint64_t h = wan_sum(WAN_SUM, t->raw_name, strlen(t->raw_name));

        h = wan_sum(h, t->dim, t->nb_dims * sizeof(*t->dim));
        h = wan_sum(h, &t->type, sizeof(t->type));
        if (t->data) {
            h = wan_sum(h, t->data, n);
            h = wan_sum(h, (const char *)t->data + t->bytes - n, n);
        }
        sum += h;
    }
    return sum;
}

int wan_weights_count(const WanWeights *w)
{
    return w->count;
}

const WanStored *wan_weights_at(const WanWeights *w, int i)
{
    return i >= 0 && i < w->count ? &w->stored[i] : NULL;
}

const char *wan_stored_type(const WanStored *s)
{
    return s->foreign ? s->foreign : wan_type_name(s->type);
}

void wan_weights_set_metadata(WanWeights *w, cJSON *metadata)
{
    if (w->metadata)
        cJSON_Delete(metadata);
    else
        w->metadata = metadata;
}

const char *wan_weights_metadata(const WanWeights *w, const char *key)
{
    return cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(w->metadata, key));
}

/* The whole pages of a tensor in a mapping: other memory would lose its
 * content. Their bytes, 0: there are none. */
static size_t pages_of(uintptr_t *first, const WanWeights *w,
                       const WanStored *s)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t at = (uintptr_t)s->data, end = at + (uintptr_t)s->bytes;

    *first = (at + page - 1) / page * page;
    for (const WanFile *f = w->files; f; f = f->next)
        if (f->mapped && at >= (uintptr_t)f->data &&
            end <= (uintptr_t)f->data + (uintptr_t)f->size &&
            *first + page <= end)
            return (end - *first) / page * page;
    return 0;
}

void wan_weights_forget(const WanWeights *w, const WanStored *s)
{
    uintptr_t first;
    const size_t bytes = pages_of(&first, w, s);

    if (bytes)
        madvise((void *)first, bytes, MADV_DONTNEED);
}

void wan_weights_leave(const WanWeights *w, const char *prefix)
{
    /* with the pages that two tensors share */
    for (const WanFile *f = w->files; f && !*prefix; f = f->next)
        if (f->mapped)
            madvise((void *)f->data, f->size, MADV_DONTNEED);
    for (int i = 0; i < w->count && *prefix; i++)
        if (!strncmp(w->stored[i].name, prefix, strlen(prefix)))
            wan_weights_forget(w, &w->stored[i]);
}

/* Linux reads no more at a time than a device's window, whatever it is asked
 * for: the least that devices have. */
#define WINDOW (128 << 10)

static void expect(const WanWeights *w, const WanStored *s,
                   const WanInterrupt *interrupt)
{
    uintptr_t first;
    const size_t bytes = pages_of(&first, w, s);

    for (size_t i = 0; i < bytes && !wan_interrupted(interrupt); i += WINDOW)
        madvise((void *)(first + i), bytes - i < WINDOW ? bytes - i : WINDOW,
                MADV_WILLNEED);
}

void wan_weights_expect(const WanWeights *w, const char *prefix, int threads,
                        const WanInterrupt *interrupt)
{
    const int spread = wan_nodes_enter(threads);

    for (int i = 0; i < w->count; i++)
        if (!strncmp(w->stored[i].name, prefix, strlen(prefix)))
            expect(w, &w->stored[i], interrupt);
    wan_nodes_leave(spread);
}

const char *wan_weights_path(const WanWeights *w)
{
    return w->path;
}

/* --------------------------------------------------------------- pool */

#define POOL_ALIGN 64
#define POOL_BLOCK (256 << 10)

struct WanPoolBlock {
    struct WanPoolBlock *next;
    int64_t size, used;         // both with this head
};

void *wan_pool_alloc(WanPool *pool, int64_t bytes)
{
    struct WanPoolBlock *block = pool->blocks;
    void *p;

    if (bytes < 0 || bytes > INT64_C(1) << 62 || (uint64_t)bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + POOL_ALIGN - 1) / POOL_ALIGN * POOL_ALIGN;
    if (!block || bytes > block->size - block->used) {
        const int64_t size = bytes + POOL_ALIGN > POOL_BLOCK ?
                             bytes + POOL_ALIGN : POOL_BLOCK;

        block = aligned_alloc(POOL_ALIGN, size);
        if (!block)
            return NULL;
        *block = (struct WanPoolBlock){ NULL, size, POOL_ALIGN };
        pool->bytes += size;
        /* the block with more left stays in front */
        if (pool->blocks && size - bytes - POOL_ALIGN <
                            pool->blocks->size - pool->blocks->used) {
            block->next = pool->blocks->next;
            pool->blocks->next = block;
        } else {
            block->next = pool->blocks;
            pool->blocks = block;
        }
    }
    p = (char *)block + block->used;
    block->used += bytes;
    return p;
}

void wan_pool_free(WanPool *pool)
{
    while (pool->blocks) {
        struct WanPoolBlock *block = pool->blocks;

        pool->blocks = block->next;
        free(block);
    }
    pool->bytes = 0;
}

/* ------------------------------------------------------------- binding */

/* [8960, 1536] */
static const char *shape_text(char *dst, size_t size, int nb_dims,
                              const int64_t *dim)
{
    size_t n = snprintf(dst, size, "[");

    for (int i = 0; i < nb_dims && n < size; i++)
        n += snprintf(dst + n, size - n, "%s%" PRId64, i ? ", " : "", dim[i]);
    if (n < size)
        snprintf(dst + n, size - n, "]");
    return dst;
}

/* The same but for dimensions of 1? */
static int same_shape(int na, const int64_t *a, int nb, const int64_t *b)
{
    int i = 0, k = 0;

    for (;;) {
        while (i < na && a[i] == 1)
            i++;
        while (k < nb && b[k] == 1)
            k++;
        if (i == na || k == nb)
            return i == na && k == nb;
        if (a[i++] != b[k++])
            return 0;
    }
}

/* Of a kernel, [D C, 1, 2, 2] or [D, 4 C] for [D, C, 1, 2, 2], [O I, 1, 1, 1]
 * for [O, I]: are dimensions that follow one another one? Or all numbers in
 * rows of 256, as converters store what they quantise though it is no
 * matrix? */
static int is_flat(int nb, const int64_t *dim, int flat_nb,
                   const int64_t *flat)
{
    int i = 0, k = 0;

    if (flat_nb == 2 && flat[1] == 256)
        return wan_shape_bytes(nb, dim, 1) == wan_shape_bytes(2, flat, 1);
    for (; k < flat_nb; k++) {
        int64_t n = 1;

        while (i < nb && n < flat[k])
            n *= dim[i++];
        if (n != flat[k])
            return 0;
    }
    while (i < nb && dim[i] == 1)
        i++;
    return i == nb;
}

static int is_float(WanType type)
{
    return type == WAN_F32 || type == WAN_F16 || type == WAN_BF16 ||
           type == WAN_F8_E4M3 || type == WAN_F8_E5M2 ||
           wan_type_block(type) > 1;
}

/* The scale tensors of LAYER.weight: LAYER.scale_weight or .weight_scale, and
 * so for other words than weight. How many there are; the first in *scale. */
static int find_scales(const WanBinder *b, const WanStored *s,
                       const WanStored **scale)
{
    const char *dot = strrchr(s->name, '.'), *word = dot ? dot + 1 : s->name;
    const int layer = (int)(word - s->name);
    char name[2][300];
    int n = 0;

    *scale = NULL;
    snprintf(name[0], sizeof(name[0]), "%.*sscale_%s", layer, s->name, word);
    snprintf(name[1], sizeof(name[1]), "%.*s%s_scale", layer, s->name, word);
    for (int i = 0; i < 2; i++) {
        const WanStored *found = wan_weights_find(b->weights, name[i]);

        n += found != NULL;
        *scale = *scale ? *scale : found;
    }
    return n;
}

/* Can a tensor be bound by its type? Whole numbers are with a scale alone. */
static int is_read(const WanBinder *b, const WanStored *s, int f64)
{
    const WanStored *scale;

    return !s->foreign && (is_float(s->type) || (f64 && s->type == WAN_F64) ||
                           (s->type == WAN_I8 && find_scales(b, s, &scale)));
}

static const WanStored *find_official(const WanBinder *b, const char *name,
                                      char *other, size_t size)
{
    const WanStored *s;

    wan_name_in(b->naming, b->part, name, other, size);
    s = wan_weights_find(b->weights, other);
    if (!s && b->part == WAN_PART_T5 && b->naming == WAN_NAMES_DIFFUSERS &&
        !strcmp(name, "token_embedding.weight"))    // tied: one or both
        s = wan_weights_find(b->weights, "encoder.embed_tokens.weight");
    return s;
}

/* The stored tensor of an official name, of that shape and a float type.
 * NULL: there are no weights, or b->error says why not. */
static const WanStored *want(WanBinder *b, const char *name, int nb_dims,
                             const int64_t *dim, int f64)
{
    char other[256], note[300] = "", expected[160], found[160];
    const WanStored *s;

    if (b->error)
        return NULL;
    if (wan_interrupted(b->interrupt)) {
        b->error = WAN_CANCELLED;
        return NULL;
    }
    if (b->visit)
        b->visit(b->visit_opaque, name, f64, nb_dims, dim);
    b->bound++;
    if (!b->weights)
        return NULL;

    b->bound--;
    b->error = WAN_INVALIDDATA;
    s = find_official(b, name, other, sizeof(other));
    if (strcmp(s ? s->raw_name : other, name))
        snprintf(note, sizeof(note), " (%s in the file)",
                 s ? s->raw_name : other);
    if (!s) {
        wan_log(b->log, WAN_LOG_ERROR, "%s: tensor %s%s is missing, expected "
                "%s", wan_weights_path(b->weights), name, note,
                shape_text(expected, sizeof(expected), nb_dims, dim));
    } else if (!same_shape(nb_dims, dim, s->nb_dims, s->dim) &&
               !((nb_dims > 3 || s->nb_dims > 3) &&
                 is_flat(nb_dims, dim, s->nb_dims, s->dim))) {
        wan_log(b->log, WAN_LOG_ERROR, "%s: tensor %s%s: expected %s, found "
                "%s", s->file, name, note,
                shape_text(expected, sizeof(expected), nb_dims, dim),
                shape_text(found, sizeof(found), s->nb_dims, s->dim));
    } else if (!is_read(b, s, f64)) {
        wan_log(b->log, WAN_LOG_ERROR, "%s: tensor %s%s: expected F32, F16, "
                "BF16, fp8 or a type in blocks, found %s%s", s->file, name,
                note, wan_stored_type(s), s->type == WAN_I8
                                          ? " without a scale" : "");
    } else if (!s->data) {
        b->error = WAN_ERR(ENOSYS);
        wan_log(b->log, WAN_LOG_ERROR, "%s: tensor %s%s is stored with strides "
                "(a transposed view), only dense tensors are read", s->file,
                name, note);
    } else {
        b->error = 0;
        b->bound++;
        b->numbers += wan_stored_count(s);
        return s;
    }
    return NULL;
}

static void *pool_take(WanBinder *b, const WanStored *s, int64_t bytes)
{
    void *p = wan_pool_alloc(b->pool, bytes);

    if (!p)
        b->error = wan_error_memory(b->log, s->file, s->raw_name);
    return p;
}

static void bind_f32(WanBinder *b, WanTensor *t, const WanStored *s)
{
    const int64_t n = wan_stored_count(s);

    t->type = WAN_F32;
    t->data = pool_take(b, s, n * (int64_t)sizeof(float));
    if (t->data)
        wan_to_f32(t->data, s->data, s->type, n, 1);
}

/* t as s is stored; SIMD and BLAS want whole elements aligned. Blocks are used
 * as they are where rows are whole ones. */
static void bind_stored(WanBinder *b, WanTensor *t, const WanStored *s)
{
    if (wan_type_block(s->type) > 1 &&
        (t->nb_dims != 2 || t->dim[1] % wan_type_block(s->type))) {
        bind_f32(b, t, s);
        return;
    }
    t->type = s->type;
    if (wan_type_block(s->type) == 1 &&
        (uintptr_t)s->data % wan_type_size(s->type)) {
        t->data = pool_take(b, s, s->bytes);
        if (!t->data)
            return;
        wan_log(b->log, WAN_LOG_VERBOSE, "%s: tensor %s is misaligned, copied",
                s->file, s->raw_name);
        memcpy(t->data, s->data, s->bytes);
    } else {
        t->data = (void *)s->data;
    }
}

/* One number for all of a tensor, or one for each row of its first dimension;
 * absent if it has none. */
static void bind_scale(WanBinder *b, WanTensor *t, const WanStored *weight,
                       int64_t rows)
{
    const int64_t one = 1;
    const WanStored *s;
    const int n = b->error ? 0 : find_scales(b, weight, &s);
    const int row_wise = n && !same_shape(1, &one, s->nb_dims, s->dim);
    char found[160];

    *t = (WanTensor){ 0 };
    if (n > 1)
        b->error = wan_error(b->log, WAN_INVALIDDATA, "%s: tensor %s has two "
                             "scales, %s is one", s->file, weight->raw_name,
                             s->raw_name);
    else if (n && ((row_wise && !same_shape(1, &rows, s->nb_dims, s->dim)) ||
                   s->foreign || !(is_float(s->type) || s->type == WAN_F64) ||
                   !s->data))
        b->error = wan_error(b->log, WAN_INVALIDDATA, "%s: tensor %s: expected "
                             "a scale [1] or [%" PRId64 "], found %s %s",
                             s->file, s->raw_name, rows, wan_stored_type(s),
                             shape_text(found, sizeof(found), s->nb_dims,
                                        s->dim));
    if (!n || b->error)
        return;
    *t = wan_tensor_of(NULL, WAN_F32, row_wise ? rows : 1);
    bind_f32(b, t, s);
}

/* A download that was stopped after the space for it was reserved: a trained
 * matrix is not all zeros, and hardly ends in a page of them. Two pages of each
 * matrix are looked at, and all of one whose are both empty. */
static void check_zeros(WanBinder *b, const WanStored *s)
{
    static const char zeros[4096];
    const char *p = s->data;
    const int64_t last = s->bytes - (int64_t)sizeof(zeros);
    int64_t at = 0;

    if (b->error || last < (int64_t)sizeof(zeros) ||
        memcmp(p + last, zeros, sizeof(zeros)))
        return;
    while (at < last && !memcmp(p + at, zeros, sizeof(zeros)))
        at += sizeof(zeros);
    if (at >= last)
        b->error = wan_error(b->log, WAN_INVALIDDATA, "%s: tensor %s is all "
                             "zeros: was the download stopped? Fetch the file "
                             "again", s->file, s->raw_name);
    else if (b->part != WAN_PART_T5 || !strstr(s->name, "embed"))
        wan_log(b->log, WAN_LOG_WARNING, "%s: tensor %s ends in zeros: was the "
                "download stopped?", s->file, s->raw_name);
}

/* Rows of t as f32, scale applied; absent: 1. */
static void widen_rows(float *dst, const WanTensor *t, const WanTensor *scale,
                       int64_t row, int64_t rows)
{
    const int64_t cols = wan_count(t) / t->dim[0];
    const float *s = scale->data;

    for (int64_t i = 0; i < rows; i++)
        wan_to_f32(dst + i * cols, (const char *)t->data +
                   wan_type_bytes(t->type, (row + i) * cols), t->type, cols,
                   !s ? 1 : s[wan_count(scale) > 1 ? row + i : 0]);
}

/* The type of a copy: what has 8 bits or fewer becomes BF16, its scale goes
 * in. */
static WanType copy_type(WanType type)
{
    return type == WAN_F32 || type == WAN_F16 ? type : WAN_BF16;
}

/* t, which has no place for a scale, with it applied. */
static void apply_scale(WanBinder *b, WanTensor *t, const WanStored *s,
                        const WanTensor *scale)
{
    const int64_t n = wan_count(t), cols = n ? n / t->dim[0] : 0;
    const WanType type = copy_type(t->type);
    const int64_t row_bytes = cols * wan_type_size(type);
    float *row;
    char *copy;

    if (b->error || !scale->nb_dims || !n)
        return;
    row = malloc(cols * sizeof(*row));
    copy = row ? pool_take(b, s, n * wan_type_size(type)) : NULL;
    if (!row)
        b->error = wan_error_memory(b->log, s->file, s->raw_name);
    for (int64_t i = 0; copy && i < t->dim[0]; i++) {
        widen_rows(row, t, scale, i, 1);
        wan_from_f32(copy + i * row_bytes, type, row, cols);
    }
    free(row);
    t->data = copy;
    t->type = type;
}

static void scale_vector(const WanBinder *b, WanTensor *t,
                         const WanTensor *scale)
{
    const int64_t n = wan_count(t), cols = n ? n / t->dim[0] : 1;
    const float *s = scale->data;
    float *v = t->data;

    for (int64_t i = 0; s && !b->error && i < n; i++)
        v[i] *= s[wan_count(scale) > 1 ? i / cols : 0];
}

/* t with the differences of the LoRA files: a copy in the stored type (8 bits
 * and blocks become BF16, a scale goes in), vectors in place. */
static void bind_lora(WanBinder *b, WanTensor *t, WanTensor *scale,
                      const char *name)
{
    const int64_t n = wan_count(t), rows = t->nb_dims > 1 ? t->dim[0] : 1;
    const WanType type = copy_type(t->type);
    const char *path = b->weights ? wan_weights_path(b->weights) : "";
    float *w;
    void *merged;

    if (!b->lora || b->error || !t->data || !n || !wan_lora_has(b->lora, name))
        return;
    w = malloc(n * sizeof(*w));
    merged = w ? wan_pool_alloc(b->pool, n * wan_type_size(type)) : NULL;
    if (!merged) {
        b->error = wan_error_memory(b->log, path, name);
        free(w);
        return;
    }
    widen_rows(w, t, scale, 0, t->dim[0]);
    b->error = wan_lora_merge(b->lora, name, w, rows, n / rows, b->interrupt,
                              b->log);
    wan_from_f32(merged, type, w, n);
    free(w);
    t->data = merged;
    t->type = type;
    *scale = (WanTensor){ 0 };
}

/* A or B of a LoRA, [n, k], copied, since its file is closed: in its stored
 * type, or F32. */
static WanLinear copy_factor(WanBinder *b, const WanStored *s, int64_t n,
                             int64_t k)
{
    WanLinear l = { .weight = wan_tensor_of(NULL, s->type, n, k) };

    if (s->type != WAN_BF16 && s->type != WAN_F16) {
        bind_f32(b, &l.weight, s);
    } else if ((l.weight.data = pool_take(b, s, s->bytes))) {
        memcpy(l.weight.data, s->data, s->bytes);
    }
    return l;
}

/* What LoRA files add to a matrix in blocks is computed beside it. 0: one of
 * them has no product there. */
static int bind_low_rank(WanBinder *b, WanLinear *l, const char *name)
{
    const int64_t N = l->weight.dim[0], K = l->weight.dim[1];
    WanLoraProduct *p = NULL;
    const int n = wan_lora_products(b->lora, name, N, K, &p, b->log);

    if (n < 0 && n != WAN_ERR(ENOSYS))
        b->error = n;
    if (n > 0)
        l->low = pool_take(b, p->a, n * sizeof(*l->low));
    for (int i = 0; i < n && !b->error; i++) {
        const int64_t rank = p[i].a->dim[0];
        WanLowRank *low = &l->low[l->nb_low++];
        float *scale = pool_take(b, p[i].b, sizeof(*scale));

        if (scale) {
            *scale = p[i].scale;
            low->down = copy_factor(b, p[i].a, rank, K);
        }
        if (!b->error) {
            low->up = copy_factor(b, p[i].b, N, rank);
            low->up.scale = wan_tensor_of(scale, WAN_F32, 1);
        }
    }
    free(p);
    return n != WAN_ERR(ENOSYS);
}

static void place(WanBinder *b, WanTensor *t, const char *name)
{
    if (!b->weights && b->place)
        t->data = b->place(b->place_opaque, name, &t->type, wan_count(t));
}

void wan_bind_matrix_(WanBinder *b, WanTensor *t, const char *name,
                      int nb_dims, const int64_t *dim)
{
    const WanStored *s = want(b, name, nb_dims, dim, 0);
    WanTensor scale;

    *t = wan_tensor(NULL, b->plan_type, nb_dims, dim);
    place(b, t, name);
    if (s) {
        bind_stored(b, t, s);
        check_zeros(b, s);
        bind_scale(b, &scale, s, dim[0]);
        apply_scale(b, t, s, &scale);
        scale = (WanTensor){ 0 };
        bind_lora(b, t, &scale, name);
    }
}

void wan_bind_vector_(WanBinder *b, WanTensor *t, const char *name,
                      int nb_dims, const int64_t *dim)
{
    const WanStored *s = want(b, name, nb_dims, dim, 1);
    WanTensor scale;

    *t = wan_tensor(NULL, WAN_F32, nb_dims, dim);
    place(b, t, name);
    if (b->pool)
        b->pool->vectors += (wan_count(t) * 4 + WAN_PAGE_ALIGN - 1) /
                            WAN_PAGE_ALIGN * WAN_PAGE_ALIGN;
    if (s) {
        bind_f32(b, t, s);
        bind_scale(b, &scale, s, dim[0]);
        scale_vector(b, t, &scale);
        scale = (WanTensor){ 0 };
        bind_lora(b, t, &scale, name);
    }
}

void wan_bind_linear(WanBinder *b, WanLinear *l, const char *prefix,
                     int64_t n, int64_t k, int bias)
{
    const int64_t shape[] = { n, k };
    const WanStored *s;
    char name[200];

    *l = (WanLinear){ .weight = wan_tensor(NULL, b->plan_type, 2, shape) };
    snprintf(name, sizeof(name), "%s.weight", prefix);
    s = want(b, name, 2, shape, 0);
    place(b, &l->weight, name);
    if (s) {
        bind_stored(b, &l->weight, s);
        check_zeros(b, s);
        bind_scale(b, &l->scale, s, n);
        if (b->error || !b->lora || wan_type_block(l->weight.type) == 1 ||
            !bind_low_rank(b, l, name))
            bind_lora(b, &l->weight, &l->scale, name);
    }
    l->e4m3 = b->e4m3 == WAN_E4M3_ALL ||
              (b->e4m3 == WAN_E4M3_STORED && l->weight.type == WAN_F8_E4M3);
    l->least = b->least;
    if (bias) {
        snprintf(name, sizeof(name), "%s.bias", prefix);
        wan_bind_vector(b, &l->bias, name, n);
    }
}

int wan_bind_source(WanBinder *b, WanSource *s, const char *name, int vector,
                    int nb_dims, const int64_t *dim)
{
    const WanStored *stored = want(b, name, nb_dims, dim, vector);

    *s = (WanSource){ .stored = stored, .rows = dim[0] };
    if (!stored)
        return b->error;
    s->cols = dim[0] ? wan_stored_count(stored) / dim[0] : 0;
    if (!vector)
        check_zeros(b, stored);
    bind_scale(b, &s->scale, stored, dim[0]);
    if (s->cols % wan_type_block(stored->type)) {
        s->cols *= s->rows;
        s->rows = 1;
        if (!b->error && wan_count(&s->scale) > 1)
            b->error = wan_error(b->log, WAN_ERR(ENOSYS), "%s: tensor %s: "
                                 "scales of rows that are not whole blocks",
                                 stored->file, stored->raw_name);
    }
    return b->error;
}

void wan_source_rows(float *dst, const WanSource *s, int64_t row, int64_t n)
{
    const WanTensor t = wan_tensor_of((void *)s->stored->data, s->stored->type,
                                      s->rows, s->cols);

    widen_rows(dst, &t, &s->scale, row, n);
}

int wan_binder_end(const WanBinder *b)
{
    return b->error;
}
