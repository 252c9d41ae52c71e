/*
 * What a checkpoint is: architecture numbers, read from its tensors.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Shapes decide; a config.json is optional, adds what no shape tells (the
 * number of heads) and must agree with the rest. Source: docs/models.md.
 */

#ifndef WAN_CONFIG_H
#define WAN_CONFIG_H

#include "formats/write.h"

#define WAN_LATENT_CHANNELS 16
#define WAN_TIME_STRIDE 4       // pixel frames of a latent frame
#define WAN_SPACE_STRIDE 8      // pixels of a latent position, each way

/* What a request can ask, and a config.json name as its default. */
#define WAN_SIZE_MULTIPLE (2 * WAN_SPACE_STRIDE)
#define WAN_MAX_SIZE 8192       // width and height
#define WAN_MAX_FRAMES 4001
#define WAN_MAX_GUIDANCE 100.
#define WAN_MIN_SHIFT 0.01
#define WAN_MAX_SHIFT 100.
#define WAN_MIN_SIGMA_MAX 15.   // the next angle of rCM is 1.5: 14.1
#define WAN_MAX_SIGMA_MAX 1e6
#define WAN_MAX_REFERENCES 16   // pictures of a VACE context
#define WAN_MAX_SCALE 10.       // of its hints

/* A VACE context: latents of what is kept and of what may change, and a mask,
 * of which each position has all pixels. */
#define WAN_VACE_MASK (WAN_SPACE_STRIDE * WAN_SPACE_STRIDE)
#define WAN_VACE_CHANNELS (2 * WAN_LATENT_CHANNELS + WAN_VACE_MASK)
#define WAN_VACE_BLOCKS 64      // most that a transformer may have

typedef struct WanDitConfig {
    enum WanTask task;
    int experts;                // 2: of Wan 2.2's pair, both of this shape
    int dim, heads, layers, ffn;
    int in_dim, out_dim;        // latent channels: 16, or 36 with an image
    int text_dim, freq_dim;
    int clip_dim;               // of the image features read, 0: none
    int clip_tokens;            // of emb_pos: 514; 0: it has none
    int nb_vace;                // blocks of VACE's side stack, 0: it has none
    int vace_layer[WAN_VACE_BLOCKS];    // the blocks they give hints to, rising
    float eps;
} WanDitConfig;

/* The visual tower: a 224 x 224 image in patches of 14, and a class token. */
#define WAN_CLIP_SIZE 224
#define WAN_CLIP_PATCH 14
#define WAN_CLIP_TOKENS 257

typedef struct WanClipConfig {
    int dim, heads, mlp;
    int layers;                 // run; the file's last one is not
} WanClipConfig;

typedef struct WanT5Config {
    int vocab, dim, heads, attn_dim, ffn, layers;
} WanT5Config;

typedef enum WanVaeFamily { WAN_VAE_WAN21, WAN_VAE_WAN22,
                             WAN_VAE_TAEHV } WanVaeFamily;

typedef struct WanVaeConfig {
    WanVaeFamily family;
    int dim;                    // base width: 96; 2.2's decoder: 256; TAEHV's
                                // encoder: 64, or 0
    int encoder_dim;            // 2.2's: 160
    /* TAEHV's */
    int64_t width[4];           // of its decoder: 256, 128, 64, 64
    int64_t grow_rows[3];       // stored of its kernels that make frames
    int scaled;                 // its latents are not the sampler's, but
                                // those times std plus mean
    const char *scaled_by;      // how that is known
} WanVaeConfig;

#define WAN_TAEHV_MAX_WIDTH 4096

/* The keys of a config.json, -1: not there. Diffusers' words are known too. */
typedef struct WanConfigFile {
    int dim, heads, head_dim, layers, ffn, in_dim, out_dim, text_dim,
        freq_dim;
    double eps;
    char model_type[32];        // "" : not there
    char preset[32];            // of a converted file; likewise
    int width, height, frames, steps;   // defaults of requests: our own keys
    double guidance, guidance2, shift, boundary;
    int vace_in;
    int nb_vace;                        // of vace_layers, -1: not there
    int vace_layer[WAN_VACE_BLOCKS];
} WanConfigFile;

/**
 * Parse the text of a config.json.
 *
 * @param path what error lines call it
 * @return 0 or WAN_INVALIDDATA: not JSON, or a key whose value can't be
 */
int wan_config_parse(WanConfigFile *c, const char *text, size_t bytes,
                     const char *path, const WanLog *log);

/**
 * Tell what transformer a weight file holds.
 *
 * @param naming set to the words it uses
 * @param file   keys of its config.json; NULL: none
 * @return 0; WAN_INVALIDDATA: no Wan transformer, or shapes that disagree
 *         with each other or with the file; WAN_ERR(ENOSYS): a relative that
 *         is not covered (Fun, Animate, ...), the line names it
 */
int wan_config_dit(WanDitConfig *c, WanNaming *naming, const WanWeights *w,
                   const WanConfigFile *file, const WanLog *log);

/* The same for the text encoder, the VAE and the image encoder. */
int wan_config_t5(WanT5Config *c, WanNaming *naming, const WanWeights *w,
                  const WanLog *log);
int wan_config_vae(WanVaeConfig *c, WanNaming *naming, const WanWeights *w,
                   const WanLog *log);
int wan_config_clip(WanClipConfig *c, WanNaming *naming, const WanWeights *w,
                    const WanLog *log);

/* Whether two transformers are a pair of experts by their shapes; else a line
 * that says what differs. 0 or WAN_INVALIDDATA. */
int wan_config_pair(const WanDitConfig *a, const WanWeights *wa,
                    const WanDitConfig *b, const WanWeights *wb,
                    const WanLog *log);

/* The metadata of a file that holds a whole checkpoint: its config.json. */
#define WAN_CONFIG_KEY "wan.config"

/* What config.json calls a task: "t2v", ... */
const char *wan_config_task(enum WanTask task);

/* That text: what wan_config_parse() reads, with info's defaults, or without
 * (NULL). */
void wan_config_text(WanBytes *b, const WanDitConfig *c,
                     const WanModelInfo *info);

/* Whether a file has the tensors that a part is known by. */
int wan_config_holds(const WanWeights *w, WanPart part);

/* The known sizes by name, for plans and tools without a checkpoint:
 * "t2v-1.3B", "t2v-14B", "i2v-14B", "flf2v-14B", "ti2v-5B", "vace-1.3B",
 * "vace-14B", and the pairs "t2v-a14b" and "i2v-a14b". 0 or WAN_ERR(EINVAL). */
int wan_config_named(const char *name, WanDitConfig *dit, WanT5Config *t5,
                     WanVaeConfig *vae, WanClipConfig *clip);

/* The same with its first blocks alone, for tools. */
void wan_config_cut(WanDitConfig *c, int layers);

/* Fill info's name and documented defaults: the file's (NULL: none), else the
 * architecture's. I2V 480P and 720P have one shape: a "720" in the path tells
 * them apart. alone: the expert of a pair that is there, if names say so. */
void wan_config_defaults(WanModelInfo *info, const WanDitConfig *c,
                         const WanConfigFile *file, const char *path,
                         WanExpert alone, char *name, size_t name_size);

#endif /* WAN_CONFIG_H */
