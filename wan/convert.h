/*
 * A checkpoint into one file, in other types.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The file holds all parts that are wanted and the tokenizer, by names that
 * libwan reads again, the transformer's as ComfyUI has them in all-in-one
 * files; its config.json is in the metadata (WAN_CONFIG_KEY). Tensors that
 * libwan does not read are left out.
 *
 * Of Wan 2.2's two experts a file holds one, which its name tells
 * (wan_expert_word()): the high-noise one with the other parts, or the low-noise
 * one alone. Files of names that are partners are a pair again.
 *
 * A part's type is that of its matrices. Gains, biases, modulation, tables of
 * positions: F32. With a type in blocks
 * - the products of the transformer's blocks and of CLIP's, and all of the text
 *   encoder, are in it; its table of tokens is in Q6_K at least;
 * - the transformer's embeddings and head, and kernels of convolutions, are in
 *   BF16 if they were, else in F16;
 * - matrices whose rows are not whole blocks are in the type of blocks of 32
 *   that is next to it, else as the above (WanConvertReport.fallen).
 * What has that type already is copied.
 *
 * Memory: tensors go through in panels of 16 MB of F32 (one row, if it is
 * larger), three buffers in all; with LoRA one matrix as F32 beside them.
 */

#ifndef WAN_CONVERT_H
#define WAN_CONVERT_H

#include "model.h"

#define WAN_CONVERT_PARTS 4         // by WanPart
#define WAN_CONVERT_KEEP (-1)       // the type it has; 8 bits with a scale, and
                                    // what the container has not: BF16
#define WAN_CONVERT_NONE (-2)       // without that part

typedef struct WanConvert {
    const WanModelParams *model;    // what is read, its LoRA, log, interrupt
    const char *out;                // ends in .gguf or .safetensors; of two
                                    // experts its name tells which
    int type[WAN_CONVERT_PARTS];    // a WanType, or of the above
    int dry;                        // report alone, nothing is written
    void (*progress)(void *opaque, double share);   // or NULL
    void *progress_opaque;
} WanConvert;

/* Tensors of one part and type; what rounding did to them. */
typedef struct WanConvertTally {
    int tensors;
    int64_t bytes;
    double error, norm;             // sums of squares: differences, numbers
} WanConvertTally;

typedef struct WanConvertReport {
    WanConvertTally tally[WAN_CONVERT_PARTS][WAN_NB_TYPES];
    int64_t tokenizer;              // bytes
    int64_t bytes;                  // of the file
    int fallen;                     // matrices of other types than asked for,
                                    // for their rows
    int left;                       // tensors that were left out
} WanConvertReport;

/**
 * Write the file, and read it back: its tensors must have the names, types,
 * shapes and, decoded, the numbers that were meant. Until then it has another
 * name, and on failure it is removed.
 *
 * @return 0; WAN_ERR(EINVAL): the name or a type, the line says what can be;
 *         WAN_ERR(EEXIST): there is such a file; WAN_ERR(EDOM): a number is
 *         not finite, or not in its new type; WAN_ERR(ENOSPC), WAN_CANCELLED,
 *         WAN_ERR(EIO): it reads back differently; or as wan_model_open()
 */
int wan_convert(WanConvertReport *r, const WanConvert *c);

/* What it would be, of a model that is open or has shapes alone (as from BF16):
 * all but errors, and less the tokenizer of the latter. */
int wan_convert_sizes(WanConvertReport *r, const WanModel *m,
                      const int type[WAN_CONVERT_PARTS]);

/* "q8_0", "keep", "none": 0, or -1: no such type, or none that can be written
 * for that part. */
int wan_convert_type(int *type, WanPart part, const char *word);

#endif /* WAN_CONVERT_H */
