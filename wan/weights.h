/*
 * Weights: one view over the files checkpoints come in.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Files are mapped, never copied and never executed. Each container in
 * formats/ fills the index below; the model binds its tensors by name, type
 * and shape and sees no container. docs/models.md has the layouts. As with
 * any mapping, a file that another program cuts short while it is open ends
 * the process (SIGBUS) when its lost part is read.
 */

#ifndef WAN_WEIGHTS_H
#define WAN_WEIGHTS_H

#include "experts.h"
#include "log.h"
#include "pager.h"
#include "tensor.h"

#define WAN_STORED_MAX_DIMS 8

/* One tensor as its file holds it. */
typedef struct WanStored {
    const char *name;       // as in the file, less what wan_name_clean() takes
    char *raw_name;         // as in the file
    WanType type;
    int nb_dims;            // 0: a scalar, one element
    int64_t dim[WAN_STORED_MAX_DIMS];
    const void *data;       // in the mapping: any alignment, dense, row-major;
                            // NULL: a torch view with strides, can't be bound;
                            // of a type in blocks, they run on through rows
    int64_t bytes;
    const char *file;       // its path, for error lines
    const char *foreign;    // what the file calls its type, if libwan has no
                            // word for it: can't be bound; else NULL
} WanStored;

/* Elements of a stored tensor. */
static inline int64_t wan_stored_count(const WanStored *s)
{
    return s->bytes / wan_type_size(s->type) * wan_type_block(s->type);
}

typedef struct WanWeights WanWeights;

/**
 * Open a weight file and index its tensors.
 *
 * @param out  the index; on failure NULL. Close with wan_weights_close()
 * @param path a .safetensors file; a *.safetensors.index.json, whose shards
 *             lie beside it; a .gguf file; one numbered shard of either, which
 *             brings the others; a torch .pth (zip) file. What a file is, its
 *             first bytes say.
 * @return 0, or WAN_ERR(ENOENT) and the like of open(2), of a shard too;
 *         WAN_INVALIDDATA: a line names file, tensor and byte;
 *         WAN_ERR(ENOSYS): a format that is known but not read (old torch,
 *         other versions of GGUF, other types and quantisations);
 *         WAN_ERR(ENOMEM)
 */
int wan_weights_open(WanWeights **out, const char *path, const WanLog *log);

/* The same of a training's file: of several dicts of tensors the one of that
 * name, if there is one. NULL: the usual one. */
int wan_weights_open_dict(WanWeights **out, const char *path,
                          const char *dict, const WanLog *log);

/* Which dict the tensors are from, "generator_ema" for one; NULL: none has a
 * name. */
const char *wan_weights_dict(const WanWeights *w);

/* Unmap. Takes NULL and half-built objects; sets *w to NULL. */
void wan_weights_close(WanWeights **w);

/* The tensor of that name, or NULL. */
const WanStored *wan_weights_find(const WanWeights *w, const char *name);

/* All of them, i < wan_weights_count(w), in no particular order. */
int wan_weights_count(const WanWeights *w);

/* A checksum, begun with WAN_SUM, of bytes more. Of a file: of its tensors'
 * names, shapes and ends, in any order; it touches a page or two of each. */
#define WAN_SUM 0xcbf29ce484222325
uint64_t wan_sum(uint64_t h, const void *data, size_t n);
uint64_t wan_weights_sum(const WanWeights *w);

const WanStored *wan_weights_at(const WanWeights *w, int i);

/* The type of a tensor as its file calls it. */
const char *wan_stored_type(const WanStored *s);

/* A string of a safetensors header's __metadata__, or NULL; lives as w. */
const char *wan_weights_metadata(const WanWeights *w, const char *key);

/* A tensor will not be read again soon: its pages leave the process. */
void wan_weights_forget(const WanWeights *w, const WanStored *s);

/* The same of all whose names begin so; "": of all. */
void wan_weights_leave(const WanWeights *w, const char *prefix);

/* The path given to wan_weights_open(). */
const char *wan_weights_path(const WanWeights *w);

/* Which words a file uses for the tensors: the official repositories', those
 * of Diffusers and Hugging Face (ComfyUI uses one or the other), or, for a
 * text encoder, llama.cpp's. */
typedef enum WanNaming {
    WAN_NAMES_OFFICIAL,
    WAN_NAMES_DIFFUSERS,
    WAN_NAMES_LLAMA
} WanNaming;

typedef enum WanPart { WAN_PART_DIT, WAN_PART_T5, WAN_PART_VAE,
                       WAN_PART_CLIP } WanPart;

/**
 * Write the name a file of that naming uses for an official name. T5's
 * token_embedding.weight may be encoder.embed_tokens.weight too; CLIP's
 * attn.to_qkv is three tensors there, attn.q, attn.k and attn.v here.
 *
 * @param size 160 holds every name
 * @return dst; the official name itself when there is no rule for it
 */
const char *wan_name_in(WanNaming naming, WanPart part, const char *official,
                        char *dst, size_t size);

/**
 * The dimensions a file of that naming has where the model asks for these: with
 * those of 1, which PyTorch's modules want.
 *
 * @param dim those that were asked for, changed in place
 * @return how many
 */
int wan_stored_dims(WanNaming naming, WanPart part, const char *official,
                    int nb_dims, int64_t dim[WAN_MAX_DIMS]);

/* Small tensors that the model wants as f32 whatever the file holds: one
 * growing list of blocks, freed together. */
typedef struct WanPool {
    struct WanPoolBlock *blocks;
    int64_t bytes;
    int64_t vectors;        // bytes of all vectors bound, each rounded up to
                            // WAN_PAGE_ALIGN: what a device's copies take
} WanPool;

void *wan_pool_alloc(WanPool *pool, int64_t bytes);     // NULL: no memory
void wan_pool_free(WanPool *pool);

/* Differences to a transformer's weights, from one or more files. */
typedef struct WanLora WanLora;

/* Asked between pieces of long work: nonzero ends it with WAN_CANCELLED. */
typedef struct WanInterrupt {
    int (*poll)(void *opaque);  // NULL: never
    void *opaque;
} WanInterrupt;

static inline int wan_interrupted(const WanInterrupt *i)
{
    return i && i->poll && i->poll(i->opaque);
}

/* All tensors whose names begin so will be read soon, by so many threads: the
 * system is asked to have them in its cache, and reads while others compute. */
void wan_weights_expect(const WanWeights *w, const char *prefix, int threads,
                        const WanInterrupt *interrupt);

/**
 * Open LoRA files.
 *
 * @param list    path[=strength][@high|@low][|path...]; they add. A path is a
 *                file or a folder with one
 * @param loras   the folder in which a path is looked for that leads nowhere
 *                by itself, or NULL
 * @param expert  of two, whose files alone are kept: those that are meant for
 *                it by their item, by their tensors' names (transformer_2.) or
 *                by their own, or for both, which a line says; none of a
 *                single transformer
 * @param threads that merge, at least 1
 * @return 0, WAN_ERR(EINVAL): no such list; WAN_ERR(ENOSYS): another kind of
 *         adapter (LoHa, LoKr, DoRA), the line names it; or as
 *         wan_weights_open()
 */
int wan_lora_open(WanLora **out, const char *list, const char *loras,
                  WanExpert expert, int threads, const WanLog *log);
void wan_lora_close(WanLora **l);

/* File i, NULL: there are no more; its strength. */
const WanWeights *wan_lora_file(const WanLora *l, int i, float *strength);

/* Whether any file changes the tensor of that official name. */
int wan_lora_has(const WanLora *l, const char *name);

/* One product that a file adds to a matrix: scale * b a, a [rank, cols], b
 * [rows, rank]. */
typedef struct WanLoraProduct {
    const WanStored *a, *b;
    float scale;
} WanLoraProduct;

/**
 * All changes to the matrix of that name as products, for matrices that can't
 * be changed themselves. What does not fit is skipped with a warning.
 *
 * @param out free() it
 * @return how many; WAN_ERR(ENOSYS): one is no product, so all must be merged;
 *         WAN_ERR(ENOMEM)
 */
int wan_lora_products(WanLora *l, const char *name, int64_t rows,
                      int64_t cols, WanLoraProduct **out, const WanLog *log);

/* Add all changes to w [rows, cols], f32. What does not fit is skipped with a
 * warning. 0, WAN_CANCELLED or WAN_ERR(ENOMEM). */
int wan_lora_merge(WanLora *l, const char *name, float *w, int64_t rows,
                   int64_t cols, const WanInterrupt *interrupt,
                   const WanLog *log);

/* After all was bound: WAN_INVALIDDATA if nothing of a file was used; a
 * warning if something was not. */
int wan_lora_end(const WanLora *l, const WanLog *log);

/* Which linear layers may be computed in e4m3, see WanLinear. */
typedef enum WanBinderE4m3 {
    WAN_E4M3_NONE,
    WAN_E4M3_STORED,            // those that are stored so
    WAN_E4M3_ALL                // all that the model code leaves to it
} WanBinderE4m3;

/**
 * Binds the tensors of one part, in the order the model names them. The first
 * tensor that is missing or has another shape or type is logged with what was
 * expected and what was found; later calls do nothing; wan_binder_end() says
 * how it went. Names are official names.
 *
 * Without weights (weights NULL) shapes alone are bound: data stays NULL and
 * the type is plan_type, which is what the plan backend runs on. With a visit
 * callback each wanted tensor is also shown to it, so a tool that writes
 * checkpoints needs no second list.
 */
typedef struct WanBinder {
    const WanWeights *weights;
    WanNaming naming;
    WanPart part;
    WanPool *pool;              // where copies live: vectors as f32, and
                                // matrices that lie misaligned in their file
    WanType plan_type;
    WanLora *lora;              // merged into what is bound, or NULL
    WanBinderE4m3 e4m3;         // of linear layers
    enum WanPrecision least;    // likewise, see WanLinear
    const WanInterrupt *interrupt;  // asked for every tensor, or NULL
    const WanLog *log;
    void (*visit)(void *opaque, const char *name, int vector, int nb_dims,
                  const int64_t *dim);
    void *visit_opaque;
    /* Without weights: memory for a tensor, in a type that may be changed, for
     * a bench on random numbers; NULL: none. */
    void *(*place)(void *opaque, const char *name, WanType *type,
                   int64_t count);
    void *place_opaque;
    int error;                  // 0, or the first failure
    int bound;                  // tensors bound so far
    int64_t numbers;            // and their elements
} WanBinder;

/* A matrix product's weights: y = x W^T * scale + bias, and what LoRA files
 * add to a matrix in blocks: y += up(down(x)) for each. */
typedef struct WanLinear {
    WanTensor weight;           // [N, K], in the file's type
    WanTensor bias;             // [N] f32, or absent
    WanTensor scale;            // [1] or [N] f32 of a scaled fp8 file, or absent
    int e4m3;                   // x and W may be rounded to e4m3 where the
                                // device multiplies that
    enum WanPrecision least;    // what they may be rounded to on the CPU, if
                                // its backend does so: AUTO is BF16
    struct WanLowRank *low;     // in the pool
    int nb_low;
} WanLinear;

typedef struct WanLowRank {
    WanLinear down, up;         // [rank, K]; [N, rank] with one scale
} WanLowRank;

/* A matrix or larger: stays where and as it is stored, or is copied so that
 * its elements are aligned. The shape must match, but dimensions of 1 may
 * differ in place and number, and a kernel of a convolution may be stored
 * flat, see weights.c; the tensor has the dimensions asked for. Accepts F32,
 * F16, BF16, F8_E4M3, F8_E5M2, I8 with a scale, and the types in blocks: those
 * become f32 in the pool where they are no matrix of whole blocks a row. One
 * that has a scale becomes a BF16 copy with it. A large one of zeros alone is
 * refused: a download that was stopped. */
#define wan_bind_matrix(b, t, name, ...) \
    wan_bind_matrix_((b), (t), (name), \
                     (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                     (const int64_t[]){__VA_ARGS__})
void wan_bind_matrix_(WanBinder *b, WanTensor *t, const char *name,
                      int nb_dims, const int64_t *dim);

/* A gain, bias or table: becomes f32 in the pool, with its scale if it has one.
 * Shape rules as above, F64 is accepted too. Not finite values are kept. */
#define wan_bind_vector(b, t, name, ...) \
    wan_bind_vector_((b), (t), (name), \
                     (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                     (const int64_t[]){__VA_ARGS__})
void wan_bind_vector_(WanBinder *b, WanTensor *t, const char *name,
                      int nb_dims, const int64_t *dim);

/* prefix.weight [N, K], prefix.bias [N] if bias, and a scale tensor
 * (prefix.scale_weight or prefix.weight_scale: one number, or one a row) if
 * there, which stays beside the weight. */
void wan_bind_linear(WanBinder *b, WanLinear *l, const char *prefix,
                     int64_t n, int64_t k, int bias);

/* A tensor that is read once, by who has no use for it in memory. */
typedef struct WanSource {
    const WanStored *stored;
    WanTensor scale;            // [1] or [rows] f32 in the pool, or absent
    int64_t rows, cols;         // one row, if blocks run on through rows
} WanSource;

/* The tensor that a vector or matrix would be bound to: the same checks, and
 * lines. 0 or the binder's error. */
int wan_bind_source(WanBinder *b, WanSource *s, const char *name, int vector,
                    int nb_dims, const int64_t *dim);

/* n of its rows from row on as f32, scaled. */
void wan_source_rows(float *dst, const WanSource *s, int64_t row, int64_t n);

/* 0 or the first error. */
int wan_binder_end(const WanBinder *b);

#endif /* WAN_WEIGHTS_H */
