/*
 * Where the parts of a checkpoint lie.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_FILES_H
#define WAN_FILES_H

#include "weights.h"

/* Paths of the parts, each malloc'd or NULL. */
typedef struct WanFiles {
    int single;         // a transformer file was given
    char *base;         // the checkpoint's directory
    char *models;       // ComfyUI's around it, or NULL
    char *loras;        // where LoRA files lie that are given by name alone;
                        // may be NULL
    char *dit;          // weight file or index
    char *config;       // the transformer's config.json; may be NULL
    char *dit2;         // of two experts the low-noise one; NULL: there is one
                        // transformer
    char *config2;      // its config.json; may be NULL
    char *index;        // model_index.json, of Diffusers' pair; may be NULL
    WanExpert alone;    // the one expert that dit is by its names, of a pair
                        // whose other one is not there
    char *t5, *vae;     // weight files or indices; NULL: inside dit
    char *tokenizer;    // spiece.model; NULL: look inside the text encoder
    char *clip;         // wan_files_find_clip()
    int text_dim;       // the transformer's, once its header was read; else 0
    int latents;        // channels of the latents it makes, likewise
    unsigned holds;     // bits of the parts inside it, likewise
    unsigned without;   // the caller's: of the parts that are not wanted
} WanFiles;

/**
 * Find the parts of a checkpoint: by their names in the official and the
 * Diffusers layout, else by what is in the weight files beside a transformer,
 * in ComfyUI's folders, or in the directory. What p names is taken from there.
 *
 * @param f  zeroed by the caller but for without; wan_files_free() in any case
 * @return 0; WAN_ERR(ENOENT): the line names the part, what was looked for and
 *         where; WAN_ERR(EINVAL): no path, or several files that could be
 *         meant, or experts that are no pair; WAN_CANCELLED; WAN_ERR(ENOMEM);
 *         or as wan_error_file() has it
 */
int wan_files_find(WanFiles *f, const WanModelParams *p, const WanLog *log);
void wan_files_free(WanFiles *f);

/* The same for the image encoder, which only image models have. */
int wan_files_find_clip(WanFiles *f, const WanModelParams *p,
                        const WanLog *log);

/* A LoRA file, or the one in a directory, or else in the folder loras (or
 * NULL), with or without its .safetensors; free() it. */
int wan_files_lora(char **out, const char *path, const char *loras,
                   const WanLog *log);

/* A file of that name in the directory of path: 1 and *out, free() it; 0:
 * there is none; or an error. */
int wan_files_beside(char **out, const char *path, const char *name,
                     const WanLog *log);

int wan_files_exists(const char *path);

/**
 * Open a regular file for reading; no pipe is waited for.
 *
 * @param size its bytes, at least 1
 * @return 0; WAN_INVALIDDATA: it is empty, or no file; or as
 *         wan_error_file() has it
 */
int wan_file_open(int *fd, int64_t *size, const char *path, const WanLog *log);

/**
 * Read a whole small file.
 *
 * @param out   NUL-terminated for convenience, free() it
 * @param limit refuse more bytes than this with WAN_INVALIDDATA
 */
int wan_read_file(char **out, size_t *bytes, const char *path, size_t limit,
                  const WanLog *log);

#endif /* WAN_FILES_H */
