/*
 * Where the parts of a checkpoint lie.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_FILES_H
#define WAN_FILES_H

#include "log.h"

/* Paths of the parts, each malloc'd or NULL. */
typedef struct WanFiles {
    char *base;         // the checkpoint's directory
    char *dit;          // weight file or index
    char *config;       // the transformer's config.json; may be NULL
    char *t5, *vae;     // weight files or indices
    char *tokenizer;    // spiece.model; NULL: look inside the text encoder
    char *clip;         // wan_files_find_clip()
} WanFiles;

/**
 * Find the parts of a checkpoint by name: the official layout, the Diffusers
 * layout, or a transformer file with the rest beside it; the parts that p
 * names are taken from there.
 *
 * @param f  zeroed by the caller; wan_files_free() in any case
 * @return 0; WAN_ERR(ENOENT): the line names the part and what was looked
 *         for; WAN_ERR(EINVAL): no path; WAN_ERR(ENOMEM)
 */
int wan_files_find(WanFiles *f, const WanModelParams *p, const WanLog *log);
void wan_files_free(WanFiles *f);

/* The same for the image encoder, which only image models have. */
int wan_files_find_clip(WanFiles *f, const WanModelParams *p,
                        const WanLog *log);

/**
 * Read a whole small file.
 *
 * @param out   NUL-terminated for convenience, free() it
 * @param limit refuse more bytes than this with WAN_INVALIDDATA
 */
int wan_read_file(char **out, size_t *bytes, const char *path, size_t limit,
                  const WanLog *log);

#endif /* WAN_FILES_H */
