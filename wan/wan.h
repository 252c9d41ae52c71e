/*
 * libwan: the Wan 2.1 video models in C
 *
 * This file is part of libwan.
 *
 * libwan is free software; you can redistribute it and/or
 * modify it under the terms of the GNU Lesser General Public
 * License as published by the Free Software Foundation; either
 * version 2.1 of the License, or (at your option) any later version.
 *
 * libwan is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the GNU
 * Lesser General Public License for more details.
 */

/**
 * @file
 * libwan turns a sentence, or a picture and a sentence, into video with the
 * open Wan models, 2.1 and 2.2.
 *
 * Two objects. A WanModel is an opened checkpoint: to its users immutable,
 * shared by any number of threads and jobs; it keeps up to 32 MiB of encoded
 * prompts, so the same words are encoded once. A WanJob is one video being
 * made: its noise, its memory, its decoder history; one thread at a time drives
 * it.
 *
 *     WanModelParams mp;
 *     wan_model_params_default(&mp);
 *     mp.path = "Wan2.1-T2V-1.3B";
 *     ret = wan_model_open(&model, &mp);
 *
 *     WanRequest rq;
 *     wan_request_default(&rq, model);
 *     rq.prompt = "a red ball bounces on a wet street";
 *     ret = wan_job_open(&job, model, &rq);
 *     while ((ret = wan_job_step(job, &progress)) >= 0) {
 *         while ((ret = wan_job_frame(job, &image)) >= 0)
 *             write(image);
 *         if (ret == WAN_EOF)
 *             break;
 *     }
 *     wan_job_close(&job);
 *     wan_model_close(&model);
 *
 * Functions that can fail return a negative number: -errno, or one of the
 * WAN_ codes below. The cause was then logged in one line through the
 * callback of the model, which names the file, tensor or field. Nothing here
 * is process-wide: no settings, no abort, no output but through the callback.
 * All jobs on the CPU share their threads, which begin with the first of them,
 * sleep without work, take no signals, and are gone with the last.
 *
 * Text is UTF-8. Sizes are in pixels, memory in bytes, times in seconds.
 *
 * A program compiled against this header goes on working with later libraries
 * of the same WAN_VERSION_MAJOR, which is the soname's number: structs only
 * grow, at their ends. That is why those which a caller fills in begin with
 * their size as the caller knows it, and why some functions are macros that
 * pass a sizeof. For other languages: the functions behind them end in _sized.
 */

#ifndef WAN_WAN_H
#define WAN_WAN_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WAN_VERSION_MAJOR 1
#define WAN_VERSION_MINOR 1
#define WAN_VERSION_MICRO 0

#ifndef WAN_API
#define WAN_API __attribute__((visibility("default")))
#endif

/** A negative error from a positive errno constant. */
#define WAN_ERR(e) (-(e))

/** All frames of the job were read. Not an error. */
#define WAN_EOF         (-0x57450001)
/** A file's content is damaged or not what its name promises. */
#define WAN_INVALIDDATA (-0x57450002)
/** The job was cancelled by wan_job_cancel(). */
#define WAN_CANCELLED   (-0x57450003)

/**
 * @return the library's version as major << 16 | minor << 8 | micro; compare
 *         with the WAN_VERSION_ macros to see whether header and library fit
 */
WAN_API unsigned wan_version(void);

/** @return a short English text for an error code; static storage */
WAN_API const char *wan_strerror(int error);

/* ---------------------------------------------------------------- log */

enum WanLogLevel {
    WAN_LOG_ERROR,      /**< why a call failed; one line a failure */
    WAN_LOG_WARNING,    /**< goes on, but not quite as asked */
    WAN_LOG_INFO,       /**< what was opened and chosen, once a model or job */
    WAN_LOG_VERBOSE,    /**< stage by stage */
    WAN_LOG_DEBUG       /**< op by op */
};

/**
 * Receives one line without its newline. May be called from any thread that
 * calls the library, never from others.
 */
typedef void (*WanLogCallback)(void *opaque, enum WanLogLevel level,
                               const char *line);

/* -------------------------------------------------------------- model */

typedef struct WanModel WanModel;

enum WanTask {
    WAN_TASK_T2V,       /**< text to video; one frame makes an image */
    WAN_TASK_I2V,       /**< a first frame and text to video */
    WAN_TASK_FLF2V,     /**< first and last frame and text to video */
    WAN_TASK_TI2V,      /**< text to video, from a first frame if there is one
                             (Wan 2.2 TI2V-5B) */
    WAN_TASK_VACE       /**< text to video, after a control video, around what
                             is kept of one, with who is on pictures, or none
                             of it: WanRequest.controls */
};

enum WanSampler {
    WAN_SAMPLER_UNIPC,  /**< UniPC of order 2 */
    WAN_SAMPLER_DPMPP,  /**< DPM++ 2M */
    WAN_SAMPLER_EULER,
    WAN_SAMPLER_DMD,    /**< to the clean estimate, and back by fresh noise */
    WAN_SAMPLER_RCM     /**< likewise, by rCM's noise levels; 4 steps at most */
};

/**
 * What stands for the transformer in steps that differ little from the last
 * computed one. Faster, and another video.
 */
enum WanCache {
    WAN_CACHE_NONE,     /**< every step is computed */
    WAN_CACHE_EASY,     /**< EasyCache: whole steps */
    WAN_CACHE_MAG       /**< MagCache: the blocks of a branch of guidance */
};

/** Which of PyTorch's two generators the noise reproduces. */
enum WanRng { WAN_RNG_CUDA, WAN_RNG_CPU };

/**
 * When the transformer's blocks multiply in 8 bits (e4m3), as GPUs from
 * compute capability 8.9 on can: faster, and matrices take half the memory of
 * BF16, but less exact. Elsewhere it is without effect.
 */
enum WanFp8 {
    WAN_FP8_AUTO,       /**< with matrices that the checkpoint stores so */
    WAN_FP8_OFF,        /**< never: such matrices are widened */
    WAN_FP8_ON          /**< always: others are rounded as they are loaded */
};

/**
 * What large products are multiplied in. Sums, the residual stream, norms,
 * softmax, the time embedding, the head and the solver are F32 in each.
 */
enum WanPrecision {
    WAN_PRECISION_AUTO, /**< BF16 where the device multiplies it natively (a
                             GPU, a processor with AVX512-BF16 or arm64's
                             FEAT_BF16), else F32; "ref": F32 */
    WAN_PRECISION_F32,
    WAN_PRECISION_BF16, /**< both factors are rounded to it. On a processor that
                             doesn't multiply it: works, slower than F32 */
    WAN_PRECISION_INT8  /**< likewise, but for the matrices of the transformer's
                             blocks: 8 bits with a scale for each token and each
                             output; and scores of long self-attentions. CPU
                             alone */
};

/**
 * Which latents a tiny VAE takes: those of the sampler (TAEHV), or those times
 * their standard deviation plus mean (LightTAE). Without effect on others.
 */
enum WanVaeScale {
    WAN_VAE_SCALE_AUTO,         /**< as the file's name says, else its type */
    WAN_VAE_SCALE_OFF,
    WAN_VAE_SCALE_ON
};

typedef struct WanModelParams {
    size_t size;                /**< of this struct, set by
                                     wan_model_params_default() */
    /**
     * Checkpoint: a directory in the official or the Diffusers layout, a
     * model's folder in a hub's cache, ComfyUI's models folder, a directory of
     * such files, or a transformer file (.safetensors,
     * .safetensors.index.json, .gguf, .pth) whose other parts lie beside it,
     * in ComfyUI's folders or are named below. "~/" is the home folder, here
     * and below. Required; see wan_demo_model() when the user names none.
     */
    const char *path;
    const char *text_encoder;   /**< other file or directory, or NULL */
    const char *vae;            /**< likewise; may be a tiny one, TAEHV's
                                     taew2_1 or LightTAE */
    const char *tokenizer;      /**< spiece.model or its directory; NULL: the
                                     model's, else beside the text encoder */
    const char *clip;           /**< image encoder of I2V; likewise */
    /** LoRA files, path[=strength][|path...], merged into the transformer as it
     *  is opened (a copy of each weight they change); a path is a file or a
     *  folder with one, or else a name in the folder loras beside the model;
     *  NULL: none. Of two experts a file changes the one that @high or @low at
     *  the end of its item names; else the one that its tensors' or its own
     *  name tells; else both. The log says which. */
    const char *lora;
    /** "auto", "cpu", "cuda", "cuda:N"; "ref" is the plain scalar definition
     *  on the CPU, slow, the same bits on every machine of one libm. Since 1.1
     *  "cuda:0-7", "cuda:0,2,5": jobs are made by all of these cards together,
     *  as by processes, see below; threads of the model serve until it is
     *  closed. */
    const char *device;
    enum WanFp8 fp8;
    int threads;                /**< CPU threads, 0 = one a core */
    /** Limit in bytes for a job's work, 0 = what the machine has free. On
     *  the CPU weights are mapped: they are cache, and not counted. On a GPU
     *  it is the device's memory, with the weights; what does not fit is
     *  copied as it is used. Libraries there take some hundred MB more. */
    int64_t memory;
    /** The CUcontext to work in, as FFmpeg's AVCUDADeviceContext.cuda_ctx has
     *  it, of the device that is named; it must outlive the model's jobs.
     *  NULL: the device's primary context. In either case the caller's
     *  current context is the same after every call as before. */
    void *cuda_context;
    WanLogCallback log;         /**< NULL: silent */
    void *log_opaque;
    enum WanLogLevel log_level; /**< lines above it are not made */
    /** Polled while weights are read, and between pieces of merging lora;
     *  nonzero ends wan_model_open() with WAN_CANCELLED. May be NULL. */
    int (*interrupted)(void *opaque);
    void *interrupted_opaque;
    enum WanVaeScale vae_scale; /**< since 1.1, as all that follows */
    /** 1: if an MPI launcher started this process with wan-workers beside it,
     *  they compute jobs together, see docs/cluster.md. Else, and with 0, this
     *  process computes alone. With 1 interrupted is polled in wan_job_open() too while
     *  that waits for the others, and ends it: it must live as the model. */
    int processes;
    /** The low-noise one of Wan 2.2's two experts, where path leads
     *  to the high-noise one alone: a file or a directory with one. NULL:
     *  looked for beside path by the names that the official repositories,
     *  Diffusers, ComfyUI and GGUF files have; one that is not there leaves
     *  path's alone, for all steps. */
    const char *model2;
    /** Which weights of a training's file that has several: "ema" or
     *  "generator"; NULL: ema if it is there. */
    const char *weights;
    /** Of products. What the model has then is said in its log and in its
     *  WanModelInfo. Processes and cards that make jobs together have the same,
     *  that of the first. */
    enum WanPrecision precision;
    int reserved;               /**< 0 */
} WanModelParams;

/** What a checkpoint is, read from its tensors. Strings live as the model.
 *  The library makes it; it may be longer than this header knows. */
typedef struct WanModelInfo {
    const char *name;           /**< "Wan2.1 T2V 1.3B", or by its numbers */
    enum WanTask task;
    int dim, heads, layers, ffn;
    int text_dim, text_layers;
    int vae_dim;
    int clip_dim;               /**< of the image encoder, 0: none */
    int64_t parameters;         /**< of the transformer, of each expert */
    int64_t weight_bytes;       /**< of all parts as stored */
    int size_multiple;          /**< width and height are multiples of this */
    int size_max;               /**< and at most this */
    /* the defaults of this checkpoint: what its config.json says by the keys
     * size, frames, steps, guidance and shift, else what docs/models.md
     * documents for its architecture */
    int width, height, frames, steps;
    int rate_num, rate_den;     /**< frames a second */
    double guidance, shift;
    const char *negative_prompt;
    /** The few-step family that was recognised, whose steps, guidance and
     *  shift are above then; else "none". See wan_request_preset(). */
    const char *preset;
    enum WanSampler sampler;
    int experts;                /**< since 1.1, as all that follows: 2 of Wan
                                     2.2's pairs, else 1 */
    double guidance2;           /**< of two: the low-noise one's */
    double boundary;            /**< of two: where that one takes over, as a
                                     part of 1000; else 0 */
    int images_needed;          /**< images that a request must have, */
    int images_most;            /**< and may have: 2 are first and last */
    enum WanPrecision precision;    /**< what products are made in: never AUTO */
    int precision_native;       /**< 0: by plain loops, as the processor doesn't
                                     multiply that type */
} WanModelInfo;

/** Fill p with defaults: device "auto", all else 0 or NULL. */
#define wan_model_params_default(p) \
    wan_model_params_default_sized((p), sizeof(WanModelParams))
WAN_API void wan_model_params_default_sized(WanModelParams *p, size_t size);

/**
 * Open a checkpoint: find its parts, map them, bind every tensor by name,
 * type and shape, load the tokenizer. The weights themselves are read when
 * they are first used; of two experts those of the second while the first one
 * makes its last step, when the first one's leave the process.
 *
 * @param out  the model; on failure NULL. Close with wan_model_close()
 * @param p    copied; its strings are not kept
 * @return 0, or WAN_ERR(ENOENT): a part is missing, the line says which and
 *         which names were looked for; WAN_INVALIDDATA: a part is damaged or
 *         of another architecture; WAN_ERR(ENOSYS): a checkpoint, a device or
 *         a precision of it that this build has no code for; WAN_ERR(EINVAL): a
 *         field of p, or wan_model_params_default() was not called;
 *         WAN_ERR(EACCES): a file or folder may not be read; WAN_ERR(EISDIR),
 *         ELOOP, ENAMETOOLONG, EMFILE, ENFILE, ENODEV or EIO, as the system
 *         says it of a file; WAN_ERR(ENOMEM); WAN_CANCELLED
 */
WAN_API int wan_model_open(WanModel **out, const WanModelParams *p);

/**
 * Check cheaply that path could be opened: it exists, and its transformer,
 * text encoder and VAE are found. Reads no weights, at most their headers.
 *
 * @return as wan_model_open()
 */
WAN_API int wan_model_probe(const WanModelParams *p);

/** The small model that comes with libwan, and the page about all models. */
typedef struct WanDemo {
    char model[4096];           /**< for WanModelParams.path */
    char manual[4096];          /**< docs/models.md, for people */
} WanDemo;

/**
 * Find the demo model, for those who have no checkpoint yet: share/demo of
 * the source, as it was installed.
 *
 * Looked for in ../share/libwan from the directory of the library (or of the
 * program, if it is linked statically), which is where a build tree and an
 * installation that was moved have it, then in the data directory that was
 * configured.
 *
 * @param task WAN_TASK_T2V or WAN_TASK_I2V
 * @return 0, or WAN_ERR(ENOENT): it is not installed, out->model says where
 *         it would be; WAN_ERR(ENOSYS): there is none for this task
 */
#define wan_demo_model(out, task) \
    wan_demo_model_sized((out), sizeof(WanDemo), (task))
WAN_API int wan_demo_model_sized(WanDemo *out, size_t size, enum WanTask task);

/** Drop the caller's reference; jobs keep theirs. Sets *m to NULL. */
WAN_API void wan_model_close(WanModel **m);

/** @return what the checkpoint is; lives as long as the model */
WAN_API const WanModelInfo *wan_model_info(const WanModel *m);

/* ---------------------------------------------------------------- job */

typedef struct WanJob WanJob;

enum WanPixelFormat {
    WAN_PIX_YUV420P,    /**< 3 planes, 8 bit, BT.709 limited, chroma left */
    WAN_PIX_YUV444P,    /**< 3 planes, 8 bit, BT.709 limited */
    WAN_PIX_YUV420P10,  /**< 3 planes, 10 bit in native 16, BT.709 limited */
    WAN_PIX_GBRP,       /**< 3 planes, 8 bit: G, B, R, full range */
    WAN_PIX_RGB24,      /**< 1 plane, 8 bit: RGB RGB, full range */
    WAN_PIX_GBRPF32,    /**< 3 planes, native float in [0,1]: G, B, R */
    WAN_PIX_NV12,       /**< YUV420P in 2 planes: Y; Cb and Cr in turn */
    WAN_PIX_P010        /**< YUV420P10 likewise, in the upper 10 of 16 bits */
};

/** How a value becomes one of the levels of 8 or 10 bits; floats stay. */
enum WanDither {
    WAN_DITHER_NONE,    /**< RGB is cut, as the reference does it (half a level
                             darker in the mean); YUV is the nearest level */
    WAN_DITHER_BAYER    /**< the level below or above, by an ordered 8x8
                             pattern: the mean is the value. The pattern is
                             the same in every frame */
};

/**
 * Where pixels go (or come from): the caller's memory. Where a job on a GPU
 * writes its frames it may be that GPU's, of the model's context.
 */
typedef struct WanImage {
    size_t size;                /**< sizeof(WanImage) */
    enum WanPixelFormat format;
    int width, height;
    enum WanDither dither;      /**< of frames; what is read has none */
    void *data[4];
    ptrdiff_t stride[4];        /**< bytes from row to row, may be negative;
                                     0 in what a request has: all rows are one */
} WanImage;

#define WAN_CONTROLS 8          /**< most contexts of a request */

/**
 * One VACE context: a control video, or one of which a part is kept, and
 * pictures of who or what is to be in it. Images are as WanRequest.image is.
 * wan_job_open() copies the pixels. What is kept is only followed, not copied
 * into the result: whoever wants it exact puts it back.
 */
typedef struct WanControl {
    size_t size;                /**< sizeof(WanControl) */
    /**
     * nb_frames of them, as many as the request's frames, all of one size:
     * it covers the request's and is cut. Of a frame of which nothing is known
     * all is mid-grey, 0.5 in GBRPF32. NULL: there is none, references alone.
     */
    const WanImage *const *video;
    /**
     * Likewise, as large as video: 0 keeps what video has there, the largest
     * value is made anew; of colours the red. Pixels part at one half, but the
     * network sees the values. NULL: all is made anew.
     */
    const WanImage *const *mask;
    int nb_frames;
    int nb_references;          /**< up to 16, trained: 3; as many in each of a
                                     request's controls */
    /** In any size: all of each in the middle of white, if that has another
     *  shape than the request. Each is a latent frame more to be computed. */
    const WanImage *const *references;
    double scale;               /**< of its hints, 0 to 10; 1 as trained */
} WanControl;
/**
 * How a causal model counts the times of the latent frames it looks back on.
 */
enum WanPositions {
    WAN_POSITIONS_ABSOLUTE,     /**< from the start of the video */
    WAN_POSITIONS_WINDOW        /**< from the oldest frame in the window */
};

/** What a causal model does with what it made, when the prompt changes. */
enum WanSwitch {
    WAN_SWITCH_PLAIN,           /**< nothing: the scene turns slowly */
    WAN_SWITCH_RECACHE          /**< looks at it again under the new prompt */
};

/** One video to make. wan_request_default() fills in the model's numbers. */
typedef struct WanRequest {
    size_t size;                /**< of this struct, set by
                                     wan_request_default() */
    const char *prompt;         /**< required, may be "" */
    const char *negative_prompt;/**< NULL: the project's default */
    /**
     * The first frame (I2V, FLF2V; TI2V may have one) and the last (FLF2V;
     * Wan 2.2's I2V experts may have one; see WanModelInfo.images_most):
     * RGB24, GBRP or GBRPF32 in any size. The image is resized to the video's
     * size; see wan_request_fit(). For TI2V it covers the video and is cut.
     * NULL for T2V. wan_job_open() copies the pixels.
     */
    const WanImage *image, *last_image;
    int width, height;          /**< multiples of WanModelInfo.size_multiple */
    int frames;                 /**< 4n+1; of a causal job also 0: without end */
    int steps;                  /**< 1 to 1000 */
    double guidance;            /**< 0 to 100; exactly 1: one forward a step */
    double shift;               /**< 0.01 to 100: time shift of the sigmas */
    enum WanSampler sampler;
    uint64_t seed;
    enum WanRng rng;
    int rng_threads;            /**< launch size of the CUDA generator */
    enum WanCache cache;        /**< since 1.1, as all that follows */
    int cache_run;              /**< MAG: most steps in a row that a branch may
                                     be skipped; 0: the model's */
    double cache_threshold;     /**< more skips, and less like it, the larger
                                     it is, up to 100; 0: 0.05 for EASY, the
                                     model's for MAG */
    double cache_retain;        /**< what is computed in any case at the
                                     start. EASY: steps, 0: 10; MAG: a share of
                                     the steps, 0: 0.2. The last step is always
                                     computed with EASY, the first with both */
    const char *cache_table;    /**< MAG: a file of wan-info --calibrate; NULL:
                                     the table that is built in for the model */
    /** The few-step family that it is sampled as, set by
     *  wan_request_default() and wan_request_preset(); NULL: none. Steps that
     *  are not listed below are the first ones of its list, if it has one. */
    const char *preset;
    /** euler, dmd: timesteps in place of even ones or the preset's; falling,
     *  from 1000 at most to above 0; as many as steps. NULL: none. */
    const double *timesteps;
    int nb_timesteps;
    int warp;                   /**< 1: they go through the table of shift, as
                                     even ones do; 0: they are as they are */
    double sigma_max;           /**< of rcm, 15 to 1e6: noise at the start; 0:
                                     80 */
    int preview;                /**< 1: wan_job_preview() has a picture of each
                                     step */
    int nb_video;               /**< of video: as many as frames */
    /**
     * Video to video with T2V and TI2V: the frames that are drawn again, RGB24,
     * GBRP or GBRPF32 in any size (what is not the video's covers it and is
     * cut); NULL: none. wan_job_open() copies the pixels.
     */
    const WanImage *const *video;
    /** Above 0, to 1: how much of them becomes noise, and so how many of the
     *  steps are made, the last steps * strength of them; at least one. */
    double strength;
    /** VACE: what the video follows or keeps, up to WAN_CONTROLS; their hints
     *  add. Without any the video is made from its prompt alone. */
    const WanControl *const *controls;
    int nb_controls;
    int reserved;               /**< 0 */
    /** Of two experts: 0 to 1. The high-noise one makes the steps whose
     *  timestep is at least 1000 boundary, the low-noise one the rest. */
    double boundary;
    /** The low-noise expert's guidance, up to 100; guidance is the other's. 0:
     *  the model's, as long as guidance is the model's too, else guidance: who
     *  sets guidance alone sets both. */
    double guidance2;
    /**
     * 1: block by block, each looking back on those before it, as causal models
     * do; their pixels come as each is done. What follows is for them alone;
     * of others it is 0 and NULL. A causal job has guidance 1 and sampler dmd,
     * takes image, and its first frames are that or clip, decoded. Its noise:
     * with a number of frames and WAN_RNG_CPU one generator, all blocks' first
     * noise and then that of all their steps in turn; else each block has a
     * generator of its own, made from seed and the block's number.
     */
    int causal;
    int block;                  /**< latent frames of a block, 1 to 64 */
    int first_block;            /**< of the first; 0: as the others */
    int window;                 /**< latent frames that are looked at, the
                                     block's own among them; 0: all, and 21 in
                                     a video without end */
    int sink;                   /**< of them, the video's first that stay */
    enum WanPositions positions;
    enum WanSwitch prompt_switch;
    int sink_reset;             /**< 1: recache has the window's first frames
                                     as a new sink */
    const double *first_timesteps;  /**< of the first block; NULL: as others */
    int nb_first_timesteps;
    /** What the video goes on from: frames of its size, formats as image's, as
     *  many as make whole blocks: 9, 21, 33, ... with blocks of 3; any 4n+1
     *  with blocks of 1. wan_job_open() copies the pixels. */
    int nb_clip;
    const WanImage *const *clip;
} WanRequest;

enum WanStage {
    WAN_STAGE_TEXT,     /**< prompts through the text encoder */
    WAN_STAGE_IMAGE,    /**< images and videos through CLIP and the VAE's
                             encoder */
    WAN_STAGE_STEPS,    /**< denoising */
    WAN_STAGE_DECODE,   /**< latents to pixels */
    WAN_STAGE_DONE
};

/** Where a job stands after a wan_job_step(). */
typedef struct WanProgress {
    enum WanStage stage;        /**< of the unit just done */
    int done, total;            /**< units of this stage */
    double seconds;             /**< the unit just done */
    double text, image, steps, decode; /**< seconds of each stage so far */
    int calls;                  /**< since 1.1: of the transformer so far, one a
                                     branch of guidance in each step */
    int skipped;                /**< of them that WanRequest.cache left out */
    int64_t block;              /**< of a causal job, the one in work, of those
                                     that are made; 0 first */
    int block_done;             /**< 1: the next unit begins another one, which
                                     a wan_job_prompt() now is for */
    int reserved;
} WanProgress;

/** What a request needs before anything is loaded, see wan_plan(). */
typedef struct WanPlan {
    int64_t weight_bytes;       /**< as stored; mapped from the files; of two
                                     experts the larger one's */
    int64_t work_bytes;         /**< the job's own memory at its peak */
    int64_t available_bytes;    /**< the limit, or what the machine has free */
    /** Of a device with memory of its own: the least that work and weights
     *  can do with, and with what all weights of a stage stay; 0 on the CPU.
     *  Of two experts one is there at a time. */
    int64_t least_bytes, full_bytes;
    /** Weights that must be copied again at every step, since less than
     *  full_bytes is available. */
    int64_t stream_bytes;
    int64_t tokens;             /**< L, the transformer's sequence */
    /** of all prompts, of the images, of one step, of all frames; with
     *  several processes this one's part */
    double text_flops, image_flops, step_flops, decode_flops;
    int processes;              /**< since 1.1, as all that follows: that
                                     compute the job */
    int window;                 /**< see cache_bytes */
    double sent_bytes;          /**< that this one sends to others at a step */
    /** Of a causal job: bytes of work_bytes for keys and values of the window,
     *  of so many latent frames, and the work of a block. Its step_flops are
     *  those of a full window, decode_flops a block's. */
    int64_t cache_bytes;
    double block_flops;
    int block;
    int reserved;               /**< 0 */
    double decode_sent_bytes;   /**< that this one sends to others while all
                                     frames are decoded */
    int exchanges;              /**< with others at a step */
    int decode_exchanges;       /**< while all frames are decoded */
    /** Of a step's, what goes while this one computes, and what that is. */
    double behind_bytes, behind_flops;
    int behind_exchanges;
    int begin_exchanges;        /**< before the steps */
    double begin_sent_bytes;    /**< that this one sends to others then: what it
                                     encoded of prompts and images */
    double block_sent_bytes;    /**< of a causal job: in a block, as block_flops;
                                     its decode_sent_bytes are a block's */
} WanPlan;

/** Fill r with the defaults of the model; prompt stays NULL. */
#define wan_request_default(r, m) \
    wan_request_default_sized((r), sizeof(WanRequest), (m))
WAN_API void wan_request_default_sized(WanRequest *r, size_t size,
                                       const WanModel *m);

/**
 * Ask for the sampling of a few-step family: sets steps, guidance, guidance2,
 * shift, sampler, timesteps, warp, sigma_max, and causal with what it is for but
 * clip, each of which may then be changed.
 *
 * @param name "lightx2v", "fastwan", "causvid", "rcm"; of causal models
 *             "self-forcing", "causal-forcing", "causal-forcing-frame",
 *             "longlive", "demo"; "none": the numbers of an ordinary model; "auto":
 *             what the checkpoint or a LoRA was recognised as, which
 *             wan_request_default() has done already
 * @return 0; WAN_ERR(EINVAL): there is none of that name, r stays as it was
 */
WAN_API int wan_request_preset(WanRequest *r, const WanModel *m,
                               const char *name);

/**
 * Read a list for WanRequest.timesteps, such as "1000|750|500|250".
 *
 * @param out  the first max of them
 * @return how many there are, or WAN_ERR(EINVAL): text is no such list
 */
WAN_API int wan_timesteps_parse(double *out, int max, const char *text);

/** @return "unipc", "dpm++", "euler", "dmd", "rcm"; NULL: there is none */
WAN_API const char *wan_sampler_name(enum WanSampler sampler);

/**
 * Choose the size for an image as the reference does: about the area of r's
 * present width x height, the image's aspect, multiples of
 * WanModelInfo.size_multiple.
 *
 * @param width, height  of the image, its pixels being square
 * @return 0, or WAN_ERR(EINVAL): the image is empty or so narrow that a side
 *         would vanish, or pass WanModelInfo.size_max
 */
WAN_API int wan_request_fit(WanRequest *r, const WanModel *m, int width,
                            int height);

/**
 * Choose size and length for a control video as VACE's own code does: as many
 * tokens as r asks for with its present width, height and frames at most, in
 * the video's aspect, and no more frames or pixels a frame than the video has.
 * (Its code knows 832x480 and 1280x720, 81 frames.) What is longer is thinned
 * out: wan_source_frame().
 *
 * Since 1.1.
 *
 * @param width, height  of the video, its pixels being square
 * @param nb             frames that it has; with a mask the shorter's
 * @return 0, or WAN_ERR(EINVAL): it is empty, or as wan_request_fit()
 */
WAN_API int wan_request_fit_video(WanRequest *r, const WanModel *m, int width,
                                  int height, int nb);

/**
 * The frame of a video that stands for a frame of a shorter one, as VACE's own
 * code chooses it. Since 1.1.
 *
 * @param frame  from 0 on, of frames in all
 * @param nb     frames that the video has, rate of them a second
 * @return from 0 to nb - 1
 */
WAN_API int wan_source_frame(int frame, int frames, int nb, double rate);

/**
 * Check a request against the model. wan_job_open() does it too.
 *
 * @return 0, or WAN_ERR(EINVAL) with a line that names the field and says
 *         what is accepted
 */
WAN_API int wan_request_check(const WanRequest *r, const WanModel *m);

/**
 * Count what a request needs, by running the model's code on shapes alone.
 *
 * @return 0, or as wan_request_check()
 */
#define wan_plan(out, m, r) wan_plan_sized((out), sizeof(WanPlan), (m), (r))
WAN_API int wan_plan_sized(WanPlan *out, size_t size, const WanModel *m,
                           const WanRequest *r);

/**
 * Begin a video: check the request, reserve its memory.
 *
 * @param out  the job; on failure NULL. Close with wan_job_close()
 * @param m    the job holds a reference until it is closed
 * @param r    copied with its strings and timesteps
 * @return 0, or WAN_ERR(EINVAL): see wan_request_check(); WAN_ERR(ENOMEM):
 *         the line says what is needed and what is there, or which image is
 *         too large; with WanModelParams.processes WAN_CANCELLED, or
 *         WAN_ERR(EIO): another process has failed or is gone
 */
WAN_API int wan_job_open(WanJob **out, WanModel *m, const WanRequest *r);

/**
 * Another prompt for a causal job, from its next block on. Of several before
 * that the last one counts.
 *
 * Since 1.1.
 *
 * @param text UTF-8; not kept
 * @return 0, or WAN_ERR(EINVAL): the job is not causal, or text not UTF-8;
 *         the job goes on as it was
 */
WAN_API int wan_job_prompt(WanJob *job, const char *text);

/**
 * Do one unit of work: encode one prompt or an image, one denoising step, or
 * decode one latent frame. Call until wan_job_frame() returns WAN_EOF. A causal
 * job has steps and decodes in turn, block by block. With frames
 * waiting to be read it does nothing and returns 0.
 *
 * @param job       the video being made; NULL, as an open that failed leaves
 *                  it, is refused with WAN_ERR(EINVAL)
 * @param progress  where the job stands now, or NULL
 * @return 0, or WAN_CANCELLED; WAN_ERR(EDOM): a number stopped being finite,
 *         the line names step and tensor; WAN_ERR(EIO): the device failed.
 *         After an error only wan_job_close() is left.
 */
#define wan_job_step(job, progress) \
    wan_job_step_sized((job), (progress), sizeof(WanProgress))
WAN_API int wan_job_step_sized(WanJob *job, WanProgress *progress,
                               size_t size);

/**
 * Copy the next finished frame into caller memory.
 *
 * A decoded chunk holds 1 frame at the start of a video, 4 afterwards.
 *
 * The pixels are there when it returns, on a GPU too: whoever reads them need
 * not wait for a stream of libwan's. The planes may be written as soon as it is
 * called: work of the caller's that still reads them must have ended.
 *
 * @param job the video being made; one thread at a time
 * @param img planes to fill, owned by the caller: the WanRequest's width x
 *            height in pixels, strides in bytes
 * @return 0, or WAN_ERR(EAGAIN): none is ready, call wan_job_step(); WAN_EOF:
 *         all were read; WAN_ERR(EINVAL): wrong format, size, stride or
 *         dither, the line says which
 */
WAN_API int wan_job_frame(WanJob *job, const WanImage *img);

/**
 * Copy a small picture of the step just done into caller memory: what the step
 * foresees in the middle of the clip, at its latent frame frames / 8. It is
 * there after each wan_job_step() of WAN_STAGE_STEPS, until the next.
 *
 * A tiny VAE decodes it. Of others it is a guess: the map linear in the latent
 * that is nearest to the VAE, found anew for each job by decoding some noise.
 *
 * Since 1.1.
 *
 * @param job the video being made; one thread at a time; its request's preview
 *            must be 1
 * @param img as of wan_job_frame(), of a quarter of the request's width and
 *            height
 * @return 0, or WAN_ERR(EAGAIN): the unit just done was no step;
 *         WAN_ERR(EINVAL): preview is 0, or as wan_job_frame()
 */
WAN_API int wan_job_preview(WanJob *job, const WanImage *img);

/**
 * Make the job stop: a running wan_job_step() returns WAN_CANCELLED within a
 * fraction of a second. Any thread, any number of times, until the job is
 * closed.
 */
WAN_API void wan_job_cancel(WanJob *job);

/** Free the job. No other call on it may be running. Sets *job to NULL. */
WAN_API void wan_job_close(WanJob **job);

#ifdef __cplusplus
}
#endif

#endif /* WAN_WAN_H */
