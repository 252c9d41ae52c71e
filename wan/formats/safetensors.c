/*
 * safetensors: a JSON table of tensors, then their bytes; and the index JSON
 * of a checkpoint in several such files.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 *     u64 n | n bytes of JSON | data, which every tensor has its share of,
 *                               without overlap
 *
 * The format knows no gaps. Some writers leave them, to align or in place of
 * what they took out: nothing depends on what lies there. More at the end than
 * some zeros belongs to tensors that the table does not have.
 */

#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../json.h"
#include "formats.h"
#include "write.h"

#define MAX_HEADER 100000000    // the format's own limit
#define MAX_PADDING 4096        // zeros behind the last tensor

static const struct {
    const char *name;
    WanType type;
    int bits;
} dtypes[] = {
    { "F32", WAN_F32, 32 }, { "F16", WAN_F16, 16 }, { "BF16", WAN_BF16, 16 },
    { "F8_E4M3", WAN_F8_E4M3, 8 }, { "F8_E5M2", WAN_F8_E5M2, 8 },
    { "F64", WAN_F64, 64 }, { "BOOL", WAN_BOOL, 8 },
    { "I64", WAN_I64, 64 }, { "I32", WAN_I32, 32 }, { "I16", WAN_I16, 16 },
    { "I8", WAN_I8, 8 }, { "U8", WAN_U8, 8 },
    /* nothing reads these: indexed as the signed type of their size */
    { "U64", WAN_I64, 64 }, { "U32", WAN_I32, 32 }, { "U16", WAN_I16, 16 },
    /* nor these, see WanStored.foreign */
    { "F4", WAN_U8, 4 }, { "F6_E2M3", WAN_U8, 6 }, { "F6_E3M2", WAN_U8, 6 },
    { "F8_E8M0", WAN_U8, 8 }, { "F8_E4M3FNUZ", WAN_U8, 8 },
    { "F8_E5M2FNUZ", WAN_U8, 8 }, { "C64", WAN_U8, 64 },
};
#define FOREIGN 15              // the first of the latter

/* One tensor of the header. */
typedef struct Entry {
    const char *name;
    WanStored t;
    int64_t begin, end;     // bytes from the start of the data
} Entry;

/* A count or offset; doubles hold integers exactly up to 2^53 only. */
static int whole_number(int64_t *out, const cJSON *item)
{
    const double v = cJSON_IsNumber(item) ? item->valuedouble : -1;

    if (!(v >= 0 && v <= 0x1p53) || v != (double)(int64_t)v)
        return -1;
    *out = (int64_t)v;
    return 0;
}

/* The one member of that name, or NULL: no object, none or several. */
static const cJSON *member(const cJSON *object, const char *name)
{
    const cJSON *found = NULL, *it;

    if (!cJSON_IsObject(object))
        return NULL;
    cJSON_ArrayForEach(it, object) {
        if (strcmp(it->string, name))
            continue;
        if (found)
            return NULL;
        found = it;
    }
    return found;
}

static int entry_read(Entry *e, const cJSON *item, const WanFile *f,
                      int64_t data_size, const WanLog *log)
{
    const cJSON *dtype = member(item, "dtype"), *shape = member(item, "shape");
    const cJSON *range = member(item, "data_offsets"), *it;
    WanStored *t = &e->t;
    size_t k;

    *e = (Entry){ .name = item->string };
    if (!cJSON_IsObject(item) || !cJSON_IsString(dtype) ||
        !cJSON_IsArray(shape) || !cJSON_IsArray(range)) {
        wan_log(log, WAN_LOG_ERROR, "%s: tensor %s: dtype, shape and "
                "data_offsets are not there, each once", f->path, e->name);
        return WAN_INVALIDDATA;
    }

    for (k = 0; k < sizeof(dtypes) / sizeof(dtypes[0]); k++)
        if (!strcmp(dtype->valuestring, dtypes[k].name))
            break;
    if (k == sizeof(dtypes) / sizeof(dtypes[0])) {
        wan_log(log, WAN_LOG_ERROR, "%s: tensor %s: unknown dtype '%s'",
                f->path, e->name, dtype->valuestring);
        return WAN_INVALIDDATA;
    }
    t->type = dtypes[k].type;
    t->foreign = k < FOREIGN ? NULL : dtypes[k].name;

    cJSON_ArrayForEach(it, shape) {
        if (t->nb_dims == WAN_STORED_MAX_DIMS) {
            wan_log(log, WAN_LOG_ERROR, "%s: tensor %s: more than %d "
                    "dimensions", f->path, e->name, WAN_STORED_MAX_DIMS);
            return WAN_INVALIDDATA;
        }
        if (whole_number(&t->dim[t->nb_dims++], it) < 0) {
            wan_log(log, WAN_LOG_ERROR, "%s: tensor %s: dimension %d is not "
                    "a count", f->path, e->name, t->nb_dims - 1);
            return WAN_INVALIDDATA;
        }
    }

    if (cJSON_GetArraySize(range) != 2 ||
        whole_number(&e->begin, range->child) < 0 ||
        whole_number(&e->end, range->child->next) < 0) {
        wan_log(log, WAN_LOG_ERROR, "%s: tensor %s: data_offsets are not two "
                "offsets", f->path, e->name);
        return WAN_INVALIDDATA;
    }
    if (e->begin > e->end || e->end > data_size) {
        wan_log(log, WAN_LOG_ERROR, "%s: tensor %s: data_offsets [%" PRId64
                ", %" PRId64 "] reach out of the %" PRId64 " bytes of data",
                f->path, e->name, e->begin, e->end, data_size);
        return WAN_INVALIDDATA;
    }
    t->bytes = wan_shape_bytes(t->nb_dims, t->dim, dtypes[k].bits);
    t->bytes = t->bytes < 0 ? -1 : t->bytes / 8;
    if (t->bytes != e->end - e->begin) {
        wan_log(log, WAN_LOG_ERROR, "%s: tensor %s: its shape takes %" PRId64
                " bytes, its data_offsets give it %" PRId64, f->path, e->name,
                t->bytes, e->end - e->begin);
        return WAN_INVALIDDATA;
    }
    return 0;
}

static int by_begin(const void *pa, const void *pb)
{
    const Entry *a = pa, *b = pb;

    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return (a->end > b->end) - (a->end < b->end);
}

/* The format's name in a quantised layer's description. */
static int quant_check(const char *path, const char *layer,
                       const cJSON *description, const WanLog *log)
{
    const cJSON *format = member(description, "format");

    if (!cJSON_IsString(format)) {
        wan_log(log, WAN_LOG_ERROR, "%s: layer %s: its quantisation names no "
                "format", path, layer);
        return WAN_INVALIDDATA;
    }
    if (cJSON_IsTrue(member(description, "convrot")))
        return wan_error(log, WAN_ERR(ENOSYS), "%s: layer %s: its quantisation "
                         "turns it (convrot), which is not read", path, layer);
    if (strcmp(format->valuestring, "float8_e4m3fn") &&
        strcmp(format->valuestring, "float8_e5m2") &&
        strcmp(format->valuestring, "int8_tensorwise"))
        return wan_error(log, WAN_ERR(ENOSYS), "%s: layer %s: quantisation "
                         "'%s' is not read, only float8_e4m3fn, float8_e5m2 "
                         "and int8_tensorwise", path, layer,
                         format->valuestring);
    return 0;
}

int wan_comfy_quant_check(const WanStored *t, const WanLog *log)
{
    cJSON *json = NULL;
    int ret;

    if (t->type != WAN_U8 || !t->data || t->bytes > 1 << 16) {
        wan_log(log, WAN_LOG_ERROR, "%s: tensor %s is not a JSON text",
                t->file, t->raw_name);
        return WAN_INVALIDDATA;
    }
    ret = wan_json_parse(&json, t->file, t->raw_name, t->data, t->bytes, log);
    if (ret >= 0)
        ret = quant_check(t->file, t->raw_name, json, log);
    cJSON_Delete(json);
    return ret;
}

/* __metadata__: strings by name. Only _quantization_metadata changes what
 * the tensors mean: {"layers": {layer: {"format": ..}}}. */
static int metadata_check(const cJSON *metadata, const WanFile *f,
                          const WanLog *log)
{
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(metadata,
                                                    "_quantization_metadata");
    const cJSON *layers, *it;
    cJSON *json;
    int ret;

    if (!cJSON_IsString(text))
        return 0;
    ret = wan_json_parse(&json, f->path, "_quantization_metadata",
                         text->valuestring, strlen(text->valuestring), log);
    if (ret < 0)
        return ret;
    layers = member(json, "layers");
    cJSON_ArrayForEach(it, layers) {
        ret = quant_check(f->path, it->string ? it->string : "?", it, log);
        if (ret < 0)
            break;
    }
    cJSON_Delete(json);
    return ret;
}

/* Of two tensors that share bytes the one that left a gap is out of place. */
static int overlap(const Entry *entry, int i, const WanFile *f,
                   const WanLog *log)
{
    const Entry *e = &entry[i], *prev = e - 1;
    const int64_t before = i > 1 ? prev[-1].end : 0;

    if (prev->begin > before)
        return wan_error(log, WAN_INVALIDDATA, "%s: tensor %s begins at byte %"
                         PRId64 " of the data, with a gap to the one before "
                         "it, which ends at %" PRId64 ", and ends inside of "
                         "%s", f->path, prev->name, prev->begin, before,
                         e->name);
    return wan_error(log, WAN_INVALIDDATA, "%s: tensor %s begins at byte %"
                     PRId64 " of the data, inside the one before it, which "
                     "ends at %" PRId64, f->path, e->name, e->begin,
                     prev->end);
}

static int is_zero(const uint8_t *p, int64_t n)
{
    while (n > 0 && !p[n - 1])
        n--;
    return n <= 0;
}

int wan_safetensors_read(WanWeights *w, const WanFile *f, const WanLog *log)
{
    uint64_t n = 0;
    int64_t data_size, at = 0;
    cJSON *header = NULL;
    const cJSON *it, *metadata = NULL;
    Entry *entry = NULL;
    int count = 0, room = 0;
    int ret = WAN_INVALIDDATA;

    for (int i = 7; i >= 0 && f->size >= 8; i--)
        n = n << 8 | f->data[i];
    if (f->size < 8 || n > (uint64_t)f->size - 8 || n > MAX_HEADER) {
        wan_log(log, WAN_LOG_ERROR, "%s: not a safetensors file, or cut off: "
                "a header of %" PRIu64 " bytes in a file of %" PRId64,
                f->path, n, f->size);
        goto fail;
    }
    data_size = f->size - 8 - (int64_t)n;
    ret = wan_json_parse(&header, f->path, "safetensors header", f->data + 8,
                         n, log);
    if (ret < 0)
        goto fail;

    cJSON_ArrayForEach(it, header)
        room++;
    entry = calloc(room + 1, sizeof(*entry));
    if (!entry) {
        ret = wan_error_memory(log, f->path, "its tensors");
        goto fail;
    }
    cJSON_ArrayForEach(it, header) {
        if (!strcmp(it->string, "__metadata__")) {
            if (metadata || !cJSON_IsObject(it)) {
                wan_log(log, WAN_LOG_ERROR, "%s: __metadata__ is not one "
                        "object", f->path);
                ret = WAN_INVALIDDATA;
                goto fail;
            }
            metadata = it;
            ret = metadata_check(it, f, log);
        } else {
            ret = entry_read(&entry[count++], it, f, data_size, log);
        }
        if (ret < 0)
            goto fail;
    }

    qsort(entry, count, sizeof(*entry), by_begin);
    ret = WAN_INVALIDDATA;
    for (int i = 0; i < count; i++) {
        if (entry[i].begin < at) {
            ret = overlap(entry, i, f, log);
            goto fail;
        }
        at = entry[i].end;
    }
    if (data_size - at > MAX_PADDING ||
        !is_zero(f->data + f->size - (data_size - at), data_size - at)) {
        wan_log(log, WAN_LOG_ERROR, "%s: its tensors end at byte %" PRId64
                " of %" PRId64 " bytes of data", f->path, at, data_size);
        goto fail;
    }

    for (int i = 0; i < count; i++) {
        entry[i].t.data = f->data + 8 + n + entry[i].begin;
        ret = wan_weights_add(w, f, entry[i].name, strlen(entry[i].name),
                              &entry[i].t, log);
        if (ret < 0)
            goto fail;
    }
    wan_weights_set_metadata(w, cJSON_DetachItemFromObjectCaseSensitive(
                                header, "__metadata__"));
    ret = 0;
fail:
    free(entry);
    cJSON_Delete(header);
    return ret;
}

/* A shard lies beside its index: a plain file name. */
static int is_plain_name(const char *s)
{
    return *s && !strpbrk(s, "/\\") && !strstr(s, "..") && strcmp(s, ".");
}

static int by_shard(const void *pa, const void *pb)
{
    const WanShardEntry *a = pa, *b = pb;
    const int order = strcmp(a->shard, b->shard);

    return order ? order : strcmp(a->tensor, b->tensor);
}

int wan_shard_map_read(WanShardMap *map, const WanFile *f, const WanLog *log)
{
    cJSON *json = NULL;
    const cJSON *list, *it;
    int ret = WAN_INVALIDDATA, room = 0;

    *map = (WanShardMap){ 0 };
    if (f->size > MAX_HEADER) {
        wan_log(log, WAN_LOG_ERROR, "%s: an index of %" PRId64 " bytes, at "
                "most %d are read", f->path, f->size, MAX_HEADER);
        goto fail;
    }
    ret = wan_json_parse(&json, f->path, "index", f->data, f->size, log);
    if (ret < 0)
        goto fail;
    list = member(json, "weight_map");
    if (!cJSON_IsObject(list) || !list->child) {
        wan_log(log, WAN_LOG_ERROR, "%s: not the index of a checkpoint: no "
                "weight_map with tensors", f->path);
        ret = WAN_INVALIDDATA;
        goto fail;
    }

    cJSON_ArrayForEach(it, list)
        room++;
    map->entry = calloc(room, sizeof(*map->entry));
    if (!map->entry)
        goto no_memory;
    cJSON_ArrayForEach(it, list) {
        WanShardEntry *e = &map->entry[map->count];

        if (!cJSON_IsString(it) || !is_plain_name(it->valuestring)) {
            wan_log(log, WAN_LOG_ERROR, "%s: tensor %s: its shard '%s' is not "
                    "a file name in the same directory", f->path, it->string,
                    cJSON_IsString(it) ? it->valuestring : "");
            ret = WAN_INVALIDDATA;
            goto fail;
        }
        map->count++;
        e->tensor = strdup(it->string);
        e->shard = strdup(it->valuestring);
        if (!e->tensor || !e->shard)
            goto no_memory;
    }
    qsort(map->entry, map->count, sizeof(*map->entry), by_shard);

    cJSON_Delete(json);
    return 0;
no_memory:
    ret = wan_error_memory(log, f->path, "the index");
fail:
    cJSON_Delete(json);
    wan_shard_map_free(map);
    return ret;
}

void wan_shard_map_free(WanShardMap *map)
{
    for (int i = 0; i < map->count; i++) {
        free(map->entry[i].tensor);
        free(map->entry[i].shard);
    }
    free(map->entry);
    *map = (WanShardMap){ 0 };
}

/* -------------------------------------------------------------- writing */

#define ALIGN 64                // of the first tensor

int wan_safetensors_head(WanBytes *b, WanHeadTensor *t, int n,
                         const WanHeadKey *keys, int nb_keys)
{
    int64_t at = 0;

    wan_put_le(b, 0, 8);
    wan_putf(b, "{\"__metadata__\":{\"format\":\"pt\"");
    for (int i = 0; i < nb_keys; i++) {
        cJSON *item = cJSON_CreateString(keys[i].text);
        char *text = item ? cJSON_PrintUnformatted(item) : NULL;

        wan_putf(b, ",\"%s\":", keys[i].key);
        wan_put(b, text, text ? strlen(text) : 0);
        b->failed |= !text;
        cJSON_free(text);
        cJSON_Delete(item);
    }
    wan_put(b, "}", 1);
    for (int i = 0; i < n; i++) {
        int64_t count = 1;
        int k = 0;

        while (k < FOREIGN && dtypes[k].type != t[i].type)
            k++;
        if (k == FOREIGN)
            return -1;
        wan_putf(b, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t[i].name,
                 dtypes[k].name);
        for (int d = 0; d < t[i].nb_dims; d++) {
            count *= t[i].dim[d];
            wan_putf(b, "%s%" PRId64, d ? "," : "", t[i].dim[d]);
        }
        t[i].bytes = wan_type_bytes(t[i].type, count);
        t[i].offset = at;
        at += t[i].bytes;
        wan_putf(b, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}",
                 t[i].offset, at);
    }
    wan_put(b, "}", 1);
    while (b->n % ALIGN && !b->failed)
        wan_put(b, " ", 1);
    for (int i = 0; i < 8 && !b->failed; i++)
        b->data[i] = (uint8_t)((b->n - 8) >> 8 * i);
    for (int i = 0; i < n; i++)
        t[i].offset += (int64_t)b->n;
    return 0;
}
