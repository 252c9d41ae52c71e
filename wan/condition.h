/*
 * What stands beside the noise: images and videos of a request, and how the
 * network sees them.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * One row of a table (condition.c) per WanTask says how many images there
 * are, whether there may be controls, what is reserved for them, in how many units they are encoded, and what
 * the network gets in place of the bare latent. The driver calls the functions
 * below at the ends of its stages and knows no task; where a row has nothing
 * to do they do nothing.
 */

#ifndef WAN_CONDITION_H
#define WAN_CONDITION_H

#include "model.h"
#include "vace.h"

#define WAN_MAX_IMAGES 2

/* An image of the request: the part of it that is used. */
typedef struct WanGiven {
    float *rgb;                     // [3, h, w], -1 to 1; NULL until read
    int x, y, w, h;
} WanGiven;

typedef struct WanCondition {
    const WanModel *model;
    const struct WanConditionKind *kind;
    int width, height, frames;      // of the video
    int nb_images;
    WanGiven image[WAN_MAX_IMAGES]; // first and last
    float **video;                  // [frames] of [3, height, width], -1 to 1;
                                    // NULL until read, each again when encoded

    /* In the job's arena. */
    WanTensor input;                // [36, T, h, w]: noise, mask,
                                    // conditioning latent
    WanTensor clip;                 // [257 * images, clip_dim]
    WanMark encoder_mark;           // the VAE encoder's memory lies above
    WanCodecStream stream;          // of the VAE encoder
    WanDitContext context;          // keys and values of clip
    WanTensor first;                // [channels, 1, h, w]: kept in the latent
    WanTensor start;                // [channels, T, h, w]: the video's latent
    WanVace vace;

    /* What a causal video begins with: the image, or frames of a clip. */
    int nb_given;                   // frames, the image as often as it is in
                                    // them; 0: it begins with noise
    float *clip_rgb;                // [nb_given, 3, H, W]; NULL until read
    WanTensor given;                // [channels, groups of those, h, w]
} WanCondition;

/**
 * Whether the request has the images that the model takes, and no others.
 *
 * @return 0, or WAN_ERR(EINVAL) with a line that names the option
 */
int wan_condition_check(const WanRequest *r, const WanModel *m);

/** How many images a model of this kind takes, and how many it must have. */
int wan_condition_images(const WanModel *m);
int wan_condition_needs(const WanModel *m);

/** Whether it reads pixels through the VAE's encoder. */
int wan_condition_encodes(const WanModel *m);

/**
 * Take in an image of the caller's, of a kind and size that are read.
 *
 * @param own    what this library knows of it
 * @param option what it was given as, for the line
 * @return 0, or WAN_ERR(EINVAL), said
 */
int wan_condition_take(WanImage *own, const WanImage *img, const char *option,
                       const WanLog *log);

/** Whether its planes have memory, as wan_job_open() needs it: likewise. */
int wan_condition_pixels(const WanImage *own, const char *option,
                         const WanLog *log);

/**
 * The size of a video of about that many pixels for an image of iw x ih, as
 * the reference finds it for models of this kind.
 *
 * @param w,h multiples of info.size_multiple; 0: the image is too narrow
 */
void wan_condition_fit(const WanModel *m, double area, int iw, int ih, int *w,
                       int *h);

/** Begin for a request that was checked: where its images lie. No pixel is
 *  read, so a plan needs no more than their sizes. */
void wan_condition_init(WanCondition *c, const WanModel *m,
                        const WanRequest *r);

/**
 * Copy the pixels of images and video out of the request.
 *
 * @return 0, or WAN_ERR(ENOMEM), said. wan_condition_free() in either case
 */
int wan_condition_read(WanCondition *c, const WanRequest *r);
void wan_condition_free(WanCondition *c);

/** Bytes of the pixels as they are kept until they are encoded. */
int64_t wan_condition_bytes(const WanCondition *c);

/**
 * Of images larger than the video the one that takes most, as c would be with
 * images of the video's size: what a job that does not fit may be told.
 *
 * @param c     one that was not read
 * @return its number, -1: there is no image
 */
int wan_condition_shrink(WanCondition *c);

/** Frames that the latent has in front of the video's own: they are sampled
 *  with it, and not decoded. */
int wan_condition_lead(const WanCondition *c);

/** The condition's tensors, above the latent of [channels, T, h, w]. */
void wan_condition_reserve(WanCondition *c, WanDev *d, const WanTensor *latent);

/** Units of encoding, 0: nothing is to be encoded. */
int wan_condition_units(const WanCondition *c);

/** Encode unit i of them, in order. */
void wan_condition_encode(WanCondition *c, WanDev *d, int i);

/** What rank 0 encoded, to all. */
void wan_condition_share(WanCondition *c, WanDev *d);

/** What all steps of a transformer share; once for each that makes some. */
void wan_condition_begin_steps(WanCondition *c, WanDev *d, const WanDit *dit);

/** Add what steps begin from, besides noise, to the first latent: that much of
 *  it. */
void wan_condition_start(const WanCondition *c, WanDev *d, WanTensor *x,
                         double share);

/**
 * What the network gets at a step.
 *
 * @param x     the latent [channels, T, h, w]
 * @return x, or the condition's tensor with x in front
 */
const WanTensor *wan_condition_input(WanCondition *c, WanDev *d,
                                     const WanTensor *x);

/** The time of a transformer's step, 0 to 1000: what is given may have
 *  another. */
void wan_condition_time(const WanCondition *c, WanDev *d, WanDitTime *out,
                        const WanDit *dit, double t);

/** Put what stays as it was given into the latent: before the first step and
 *  after each. */
void wan_condition_keep(const WanCondition *c, WanDev *d, WanTensor *x);

/** The images' keys and values for cross-attention, or NULL. */
const WanDitContext *wan_condition_context(const WanCondition *c);

/** VACE's contexts, *n of them. */
const WanDitVace *wan_condition_vace(const WanCondition *c, int *n);

#endif /* WAN_CONDITION_H */
