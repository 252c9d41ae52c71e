/*
 * Few-step families: how each is sampled, and what its files are known by.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_PRESET_H
#define WAN_PRESET_H

#include "sampler.h"
#include "weights.h"

/* All are without guidance. */
typedef struct WanPreset {
    const char *name;       // of option preset
    const char *family;     // for log lines
    int dim;                // width of its transformers, 0: any
    enum WanSampler sampler;
    int steps;              // unless told otherwise
    int most;               // that its authors run, 0: any number
    double shift;           // 0: the model's
    int warp;               // see WanSampling
    double timesteps[9];    // the first ones as they are; 0: even steps
    const char *words[3][2];    // a name with both words is one of its files
    const char *tensor;     // which only its files have, in block 0; or NULL
    struct {                // causal models
        int block;          // latent frames; 0: it is none
        int window, sink;
        int recache;        // at a switch of prompts
        int nb_first;       // timesteps of the first block; 0: as the others
        const double *first;
    } causal;
} WanPreset;

/**
 * The family of that name, for a transformer of width dim.
 *
 * @return 0; *out is NULL for "none". WAN_ERR(EINVAL): there is no such name;
 *         a line says so
 */
int wan_preset_find(const WanPreset **out, const char *name, int dim,
                    const WanLog *log);

/**
 * Recognise the family of a file: by its tensors if they are given, else by
 * its name and the folders it is in, as far as the first that names a Wan
 * model; else by the dict that a training put its tensors in.
 *
 * @param by   set to what told
 * @return NULL: none
 */
const WanPreset *wan_preset_recognise(const char **by, const char *path,
                                      const WanWeights *w, int dim);

/* Files of a family that would be run wrongly: a model with a second timestep
 * is refused and so is Rolling Forcing's, one with sparse attention warned of.
 * 0 or WAN_ERR(ENOSYS). */
int wan_preset_check(const char *path, const WanWeights *w,
                     const WanLog *log);

/* The list that a run which has none takes in place of even steps; NULL: it
 * does not. */
const double *wan_preset_timesteps(const WanPreset *p, const WanSampling *s);

#endif /* WAN_PRESET_H */
