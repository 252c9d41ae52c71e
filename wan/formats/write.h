/*
 * Writing checkpoints: heads of containers, and a file that is there whole or
 * not at all.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_WRITE_H
#define WAN_WRITE_H

#include "../weights.h"

/* A growing piece of bytes; free(data). After failed nothing is added. */
typedef struct WanBytes {
    uint8_t *data;
    size_t n, size;
    int failed;                 // no memory
} WanBytes;

void wan_put(WanBytes *b, const void *data, size_t n);
void wan_put_le(WanBytes *b, uint64_t v, int n);    // the n low bytes of v
__attribute__((format(printf, 2, 3)))
void wan_putf(WanBytes *b, const char *fmt, ...);

/* A tensor as a head describes it. */
typedef struct WanHeadTensor {
    const char *name;           // of letters, digits, '.', '_'
    WanType type;
    int nb_dims;
    int64_t dim[WAN_MAX_DIMS];
    int64_t bytes;              // set, and from the beginning of the file:
    int64_t offset;
} WanHeadTensor;

/* A key and its text, UTF-8. */
typedef struct WanHeadKey {
    const char *key, *text;
} WanHeadKey;

/**
 * The head of a file with these tensors, data in this order behind it. Padding
 * before a tensor's offset is up to who writes the file. Look at b->failed.
 *
 * @param b empty; data may begin beyond its n
 * @return 0, or -1: the container has no such type
 */
int wan_safetensors_head(WanBytes *b, WanHeadTensor *t, int n,
                         const WanHeadKey *keys, int nb_keys);
int wan_gguf_head(WanBytes *b, WanHeadTensor *t, int n,
                  const WanHeadKey *keys, int nb_keys);

/* A file that is being written under a name of its own beside its place. */
typedef struct WanOut {
    char *path, *part;          // where it goes; where it is until then
    int fd;
    int64_t pos, synced;
    const WanLog *log;
} WanOut;

/**
 * Begin a file.
 *
 * @return 0; WAN_ERR(EEXIST): there is one of that name; or as
 *         wan_error_file() has it. wan_out_close() in any case
 */
int wan_out_open(WanOut *o, const char *path, const WanLog *log);

/* WAN_ERR(ENOSPC) if fewer bytes are free where it lies. */
int wan_out_space(const WanOut *o, int64_t bytes);

/* Append n bytes; zeros up to a position. 0, or as wan_error_file() has it. */
int wan_out_put(WanOut *o, const void *data, int64_t n);
int wan_out_pad(WanOut *o, int64_t pos);

/* What was written is on the disk, and read from there from now on. */
int wan_out_sync(WanOut *o);

/* Give it its name, if nothing has taken that: WAN_ERR(EEXIST). */
int wan_out_finish(WanOut *o);

/* What was not finished is removed. */
void wan_out_close(WanOut *o);

#endif /* WAN_WRITE_H */
