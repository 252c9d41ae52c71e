/*
 * What a path that a person gives stands for, and which weight files of some
 * folders are a part, by what is in them.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_PLACES_H
#define WAN_PLACES_H

#include "weights.h"

/* dir/name, to free(); NULL: no memory. */
char *wan_path_join(const char *dir, const char *name);

/* The directory a file lies in, to free(); NULL: no memory. */
char *wan_path_parent(const char *path);

/**
 * The path that is meant. "~" and "~/" begin in the home folder unless there is
 * something of that very name; a folder of a hub's cache (models--OWNER--NAME
 * with snapshots/ in it) stands for the snapshot that refs/main names, without
 * that for the newest one, and the log says so. Every other path stays.
 *
 * @param out free() it
 * @return 0; WAN_ERR(ENOENT): there is no home or no snapshot; WAN_ERR(ENOMEM)
 */
int wan_place(char **out, const char *path, const WanLog *log);

/* The folder in which ComfyUI's kinds of files lie side by side (text_encoders,
 * vae, loras, ...), if dir is its diffusion_models, unet or checkpoints or lies
 * a little below: 1 and *out, free() it; 0: it is none; or an error. */
int wan_place_models(char **out, const char *dir, const WanLog *log);

typedef struct WanSeen WanSeen;

/* A search for the weight file that is a part. What it is its tensors say:
 * headers are read, never weights, and of WAN_SEARCH_FILES files at most. */
#define WAN_SEARCH_FILES 128

typedef struct WanSearch {
    WanPart part;
    const char *what, *option;      // for lines
    const char *const *folders;     // below a root, NULL at the end; "": the
                                    // root itself, without what is below it
    int text_dim;                   // that a text encoder must have, 0: any
    int latents;                    // channels that a VAE must have, 0: any
    int tiny;                       // a tiny VAE will do if there is no other
    const WanInterrupt *interrupt;  // may be NULL
    const WanLog *log;

    WanSeen *seen;                  // files that were looked at
    int nb_seen, passed;            // passed: too many, not looked at
    char looked[512];               // folders that were, for lines
    char note[512];                 // the first thing that could not be
} WanSearch;

/**
 * Look in the folders of a root. A file that is there twice through links
 * counts once; of VAEs with the transformer's channels the widest counts, as
 * pruned ones have the same names.
 *
 * @param out free() it
 * @return 1; 0: there is none; WAN_ERR(EINVAL): there are several, the line
 *         lists them and asks for one; WAN_CANCELLED; WAN_ERR(ENOMEM)
 */
int wan_search(char **out, WanSearch *s, const char *root);
void wan_search_end(WanSearch *s);

#endif /* WAN_PLACES_H */
