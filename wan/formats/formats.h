/*
 * Containers: what a reader of one is given, and what it fills.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A reader gets one file in memory, every byte of it hostile, and adds its
 * tensors to the index. It has checked each of them: that its data lies in
 * the file, and that type, shape and size agree. Readers return 0 or an
 * error, and log the one line that says why.
 */

#ifndef WAN_FORMATS_H
#define WAN_FORMATS_H

#include <cjson/cJSON.h>

#include "../weights.h"

/* More than any checkpoint has; keeps what a hostile file can cost small. */
#define WAN_MAX_STORED (1 << 20)

typedef struct WanFile {
    char *path;
    const uint8_t *data;
    int64_t size;
    int mapped;             // data is ours to unmap
    struct WanFile *next;
} WanFile;

/**
 * Open a file that is in memory already. Shards that it names are looked for
 * beside path.
 *
 * @param data must live until wan_weights_close()
 */
int wan_weights_open_memory(WanWeights **out, const char *path,
                            const void *data, size_t size, const WanLog *log);

/**
 * Add one tensor to the index.
 *
 * @param t    all but name, raw_name and file
 * @param name len bytes, as in the file; copied
 */
int wan_weights_add(WanWeights *w, const WanFile *f, const char *name,
                    size_t len, const WanStored *t, const WanLog *log);

/* Keep a file's metadata, an object or NULL, which becomes w's. Of several
 * files the first one's counts. */
void wan_weights_set_metadata(WanWeights *w, cJSON *metadata);

/* Memory that lives as long as w, for what a reader makes of its file; NULL:
 * there is none. */
void *wan_weights_alloc(WanWeights *w, int64_t bytes);

/**
 * Elements of a shape, times size (of one in bytes, or in bits).
 *
 * @return the product, or -1: a dimension is negative or the product, of an
 *         empty shape that of the other dimensions, is over 2^62
 */
int64_t wan_shape_bytes(int nb_dims, const int64_t *dim, int size);

int wan_safetensors_read(WanWeights *w, const WanFile *f, const WanLog *log);
int wan_torch_zip_read(WanWeights *w, const WanFile *f, const WanLog *log);

/* The dict a reader is asked for, or NULL; and the one that it took, of static
 * storage. */
const char *wan_weights_wanted(const WanWeights *w);
void wan_weights_taken(WanWeights *w, const char *dict);
int wan_gguf_read(WanWeights *w, const WanFile *f, const WanLog *log);

/* What a *.safetensors.index.json says: which tensor is in which shard. */
typedef struct WanShardEntry {
    char *tensor, *shard;
} WanShardEntry;

typedef struct WanShardMap {
    WanShardEntry *entry;   // by shard, then tensor
    int count;
} WanShardMap;

int wan_shard_map_read(WanShardMap *map, const WanFile *f, const WanLog *log);
void wan_shard_map_free(WanShardMap *map);

/* <layer>.comfy_quant, a JSON text in a U8 tensor: 0 if it names a format
 * that we read, float8_e4m3fn, float8_e5m2 or int8_tensorwise. */
int wan_comfy_quant_check(const WanStored *t, const WanLog *log);

/* A LoRA file that is in memory already, of strength 1; data must live until
 * wan_lora_close(). */
int wan_lora_open_memory(WanLora **out, const char *path, const void *data,
                         size_t size, const WanLog *log);

/* A tensor's name without what all-in-one files and training programs put
 * before and into it. dst has room for all of name. */
void wan_name_clean(char *dst, const char *name);

#endif /* WAN_FORMATS_H */
