/*
 * Video from text and from images with the Wan 2.1 models, through libwan
 *
 * This file is part of FFmpeg.
 *
 * FFmpeg is free software; you can redistribute it and/or
 * modify it under the terms of the GNU Lesser General Public
 * License as published by the Free Software Foundation; either
 * version 2.1 of the License, or (at your option) any later version.
 *
 * FFmpeg is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the GNU
 * Lesser General Public License for more details.
 *
 * You should have received a copy of the GNU Lesser General Public
 * License along with FFmpeg; if not, write to the Free Software
 * Foundation, Inc., 51 Franklin Street, Fifth Floor, Boston, MA 02110-1301 USA
 */

/**
 * @file
 * wan_t2v: a video source that makes clips from a sentence.
 * wan_i2v: a filter that makes clips from an image, its first input frame, and
 * a sentence, or lets its input go on where it ends.
 * wan_v2v: a filter that makes its input anew, frame by frame, in windows that a
 * model can take, see wan_windows.h.
 *
 * A clip takes seconds to hours. init() checks what can be checked without
 * the model, the output's config_props() opens the model, so that what is
 * wrong is refused before the first frame is asked for. From then on a worker
 * makes the clips, see wan_worker.h, by the callbacks begin_clip(), read_clip()
 * and end_clip() here; the graph's thread takes their frames in activate() and
 * gives them their times. What both threads use is under s->settings, the rest
 * is the worker's once it runs: its line in WanContext says so.
 *
 * wan_i2v takes its input in almost any format and converts the one image it
 * needs itself, in float, by the tags of the frame, see wan_frames.h: in extend
 * mode the frames that pass must stay as they are.
 *
 * With hwframes=1 the output is CUDA frames: libwan works in the context of
 * the graph's CUDA device and writes into the planes of frames from the pool of
 * the output link, see wait_for_readers(). Nothing passes through the host.
 */

#include "config.h"
#include "config_components.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wan.h>

#include "libavutil/avstring.h"
#include "libavutil/buffer.h"
#include "libavutil/cpu.h"
#include "libavutil/dict.h"
#include "libavutil/error.h"
#include "libavutil/frame.h"
#include "libavutil/hwcontext.h"
#include "libavutil/imgutils.h"
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/opt.h"
#include "libavutil/parseutils.h"
#include "libavutil/pixdesc.h"
#include "libavutil/random_seed.h"
#include "libavutil/sha.h"
#include "libavutil/thread.h"
#include "libavutil/time.h"
#include "formats.h"
#include "video.h"
#include "wan_compat.h"
#include "wan_frames.h"
#include "wan_windows.h"
#include "wan_worker.h"

#define WAIT_US       100000            ///< how long activate() blocks at most
#define LOG_US       1000000            ///< progress lines are this far apart
#define CLOCK_LOG_US 60000000           ///< and those about the clock
#define AHEAD_US     2000000            ///< default of ahead with clips=0
#define TAIL_WINDOW  21                 ///< latent frames that extend reads into,
                                        ///< where the window holds all
#define SETTLE_US    300000             ///< a file that is written needs to rest
#define MAX_TEXT       65536            ///< bytes of a prompt
#define DEFAULT_STRENGTH 0.8

/* Terms of IPTC: what a trained model made; what it made a part of. */
#define TYPES "http://cv.iptc.org/newscodes/digitalsourcetype/"
#define SOURCE_TYPE    TYPES "trainedAlgorithmicMedia"
#define COMPOSITE_TYPE TYPES "compositeWithTrainedAlgorithmicMedia"

/* GB 45438: 1 is generated; the rest is for those who publish it to fill in. */
#define AIGC "{\"Label\":\"1\",\"ContentProducer\":\"\",\"ProduceID\":\"\"," \
             "\"ReservedCode1\":\"\",\"ContentPropagator\":\"\"," \
             "\"PropagateID\":\"\",\"ReservedCode2\":\"\"}"

/* The same two for a picture, as XMP on one line. */
#define XMP "<?xpacket begin=\"\xef\xbb\xbf\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>" \
    "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF " \
    "xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">" \
    "<rdf:Description rdf:about=\"\" " \
    "xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\" " \
    "xmlns:TC260=\"http://www.tc260.org.cn/ns/AIGC/1.0/\">" \
    "<Iptc4xmpExt:DigitalSourceType>" SOURCE_TYPE \
    "</Iptc4xmpExt:DigitalSourceType><TC260:AIGC>" AIGC "</TC260:AIGC>" \
    "</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>"

/** Marks our unregistered SEI messages; a random UUID, fixed for ever. */
static const uint8_t label_uuid[16] = {
    0x9a, 0xd6, 0xc2, 0xa1, 0x6f, 0xcd, 0x46, 0xcf,
    0x80, 0x95, 0xe4, 0x21, 0xa0, 0x81, 0x89, 0x03,
};

enum Mode { MODE_FIRST, MODE_EXTEND };
enum Late { LATE_WAIT, LATE_REPEAT };
enum Join { JOIN_CUT, JOIN_FADE };

/** A file with a text, as it was when it was last looked at. */
typedef struct Watch {
    uint8_t *seen;
    int size;                           ///< or an AVERROR: it can't be read
} Watch;

/** How a clip is sampled; what is -1 or NULL stands for the preset's number. */
typedef struct Sampling {
    char *preset;
    int steps, sampler, warp;
    double guidance, shift, sigma_max;
    double guidance2, boundary;         ///< of two experts
    char *timesteps;
    double *list;                       ///< its numbers
    int nb_list;
} Sampling;

/** How a causal model makes blocks; what is -1 stands for the preset's. */
typedef struct Causal {
    int causal;
    int block, first_block, window, sink;
    int positions, on_switch, sink_reset;
    char *first_timesteps;
    double *list;                       ///< its numbers
    int nb_list;
} Causal;

typedef struct WanContext {
    const AVClass *class;

    /* options; what is -1, 0 or NULL stands for the model's number */
    char *model_path;
    char *model2;
    char *vae, *text_encoder, *tokenizer, *clip, *lora;
    char *prompt, *promptfile;          ///< after init() prompt has the text
    char *negative_prompt, *negative_promptfile;
    int w, h;
    int frames;
    int64_t duration_us;
    char *rate_str;
    AVRational sar;
    Sampling sampling;
    Causal blocks;
    char *weights;
    char *seed_str;
    int rng, rng_threads;
    int cache, cache_run;
    double cache_threshold, cache_retain;
    char *cache_table;
    char *device;
    int precision, fp8;
    int64_t memory;
    enum AVPixelFormat format;
    int dither;
    int hwframes;
    int label;
    int clips;
    int64_t ahead_us;
    int late;
    char *slate_path;
    int join, join_frames;
    int reload;
    int preview;
    int vae_scale;
    char *last_image_path;
    int mode;

    int seed_given;
    uint64_t seed;                      ///< of the first clip
    AVRational rate;                    ///< 0/1: the model's
    AVRational time_base;               ///< of the output
    enum AVPixelFormat out_format;      ///< of the output, in host memory
    AVBufferRef *hw_frames;             ///< its pool, of CUDA frames
    int ahead;                          ///< frames
    void *cuda_context;                 ///< of hwframes: where libwan works
    char cuda_device[16];               ///< its card, as libwan calls it
    int is_causal;                      ///< clips are made block by block
    int tail_frames;                    ///< that a causal or VACE clip goes on
                                        ///< from, at most; 0: from one image

    /* wan_i2v */
    uint8_t *blank_pixels;
    WanImage blank;                     ///< stands for the image to come
    AVFrame *last_frame;                ///< of FLF2V
    WanImage last_image;                ///< its pixels
    AVFrame *start;                     ///< the next clip goes on from this;
                                        ///< the worker's, once it runs
    AVFrame **tail;                     ///< and these before it, with it: a
                                        ///< ring of tail_frames
    int64_t nb_tail;                    ///< seen so far
    int odd_size;                       ///< frames pass, no clip can follow
    int input_ended;
    int damaged;                        ///< its first frame was
    int64_t input_duration;             ///< of its last frame
    int warned;                         ///< about what is lost in the image

    /* wan_v2v */
    int redraws;                        ///< it is that
    double strength;
    int mask;                           ///< there is a second input
    int keep;
    int out_w, out_h;                   ///< of the output; w and h the model's
    int cover;                          ///< the input is cut to a given size
    const WanImage **video;             ///< [frames], all blank: stands for a
                                        ///< window
    FFWanWindows windows;               ///< the graph's
    FFWanWindow handed;                 ///< to the worker; under settings
    FFWanWindow window;                 ///< the worker's, of props alone once
                                        ///< its job runs
    int left;                           ///< frames to come of what was handed
    int last_handed;
    AVFrame *unmasked;                  ///< waits for its mask
    AVFrame *mask_now, *mask_next;      ///< the mask at that time; a later one
    int mask_ended;

    /* VACE */
    char *reference_paths;
    double context_scale;
    AVFrame **reference;
    WanImage *reference_image;
    const WanImage **references;
    int nb_references;
    WanControl control;                 ///< of plans, and of wan_t2v's clips
    const WanControl *controls[1];

    char *manual;                       ///< page about models; the demo is used
    WanModel *model;
    const WanModelInfo *info;
    int opening;                        ///< inside wan_model_open(), or a job
                                        ///< is opened in the graph's thread
    int quiet;                          ///< of libwan's lines pass only errors
    double load_seconds;

    /* under settings, with prompt, negative_prompt and sampling */
    pthread_mutex_t settings;
    int settings_ready;
    int clip_index;                     ///< clips begun

    /* the worker's */
    int64_t clip_start;                 ///< when the last one was begun, us
    int nb_read;                        ///< of its frames
    int nb_given;                       ///< of them to the queue
    int skip;                           ///< frames it repeats: of what it goes
                                        ///< on from
    int64_t block;                      ///< that is read
    char *block_prompt;                 ///< what it was made with
    AVFrame *rgb;                       ///< gbrpf32 on the way to the output
    AVFrame **held;                     ///< the end of a clip, gbrpf32, to be
    int nb_held, held_pos;              ///< mixed with the start of the next
    AVDictionary *meta;                 ///< of every frame of the clip
    AVBufferRef *sei;                   ///< likewise
    Watch watch[2];                     ///< promptfile, negative_promptfile

    /* the graph's */
    FFWanWorker *worker;
    int64_t delivered;                  ///< frames made or repeated so far
    int64_t taken;                      ///< of them made
    int64_t first_pts;                  ///< of the first of them
    int units_seen;                     ///< of the worker's
    int64_t previews;                   ///< handed out
    int settled;                        ///< one of two outputs is configured
    int64_t last_line;                  ///< when progress was logged, us
    FFWanClock clock;                   ///< since the first frame
    int64_t taken_at;                   ///< when the last one was, us
    AVFrame *shown;                     ///< what it repeats
    int64_t clock_line;                 ///< when it was logged, us
    int64_t clock_repeats;              ///< since then
    AVDictionary *tags;                 ///< of a file with its frames
} WanContext;

#define OFFSET(x) offsetof(WanContext, x)
#define FLAGS (AV_OPT_FLAG_FILTERING_PARAM | AV_OPT_FLAG_VIDEO_PARAM)
#define RFLAGS (FLAGS | AV_OPT_FLAG_RUNTIME_PARAM)

/* What all three have; "threads" is an option of every filter. */
#define MODEL_OPTIONS \
    { "model",    "set checkpoint directory or file (default: $WAN_MODEL, then the demo model)", OFFSET(model_path), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "model2",   "set the low-noise one of two experts, if model has the other alone", OFFSET(model2), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "prompt",     "set text that describes the video", OFFSET(prompt),     AV_OPT_TYPE_STRING, {.str = NULL}, .flags = RFLAGS }, \
    { "promptfile", "set file with the prompt in UTF-8", OFFSET(promptfile), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS  }, \
    { "negative_prompt",     "set text that describes what to avoid",     OFFSET(negative_prompt),     AV_OPT_TYPE_STRING, {.str = NULL}, .flags = RFLAGS }, \
    { "negative_promptfile", "set file with the negative prompt in UTF-8", OFFSET(negative_promptfile), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS  }, \
    { "size",     "set video size (default: from the model)", OFFSET(w),      AV_OPT_TYPE_IMAGE_SIZE, {.str = NULL}, .flags = FLAGS }, \
    { "s",        "set video size (default: from the model)", OFFSET(w),      AV_OPT_TYPE_IMAGE_SIZE, {.str = NULL}, .flags = FLAGS }, \
    { "frames",   "set frames of a clip, 4n+1, -1: the model's", OFFSET(frames), AV_OPT_TYPE_INT,  {.i64 = -1}, -1, INT_MAX, FLAGS }, \
    { "preset",   "set few-step family: auto, none, lightx2v, fastwan, causvid, rcm, self-forcing, causal-forcing, causal-forcing-frame, longlive, demo", OFFSET(sampling.preset), AV_OPT_TYPE_STRING, {.str = "auto"}, .flags = RFLAGS }, \
    { "steps",    "set number of denoising steps, -1: the model's", OFFSET(sampling.steps), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 1000, RFLAGS }, \
    { "guidance", "set strength of the prompt, 1: ignore the negative prompt, -1: the model's", OFFSET(sampling.guidance), AV_OPT_TYPE_DOUBLE, {.dbl = -1}, -1, 100, RFLAGS }, \
    { "guidance2", "set guidance of the low-noise one of two experts, -1: guidance, if that is given, else the model's", OFFSET(sampling.guidance2), AV_OPT_TYPE_DOUBLE, {.dbl = -1}, -1, 100, RFLAGS }, \
    { "boundary", "set where the low-noise one of two experts takes over, 0 to 1, -1: the model's", OFFSET(sampling.boundary), AV_OPT_TYPE_DOUBLE, {.dbl = -1}, -1, 1, RFLAGS }, \
    { "shift",    "set time shift of the noise levels, -1: the model's", OFFSET(sampling.shift), AV_OPT_TYPE_DOUBLE, {.dbl = -1}, -1, 100, RFLAGS }, \
    { "sampler",  "set solver", OFFSET(sampling.sampler), AV_OPT_TYPE_INT, {.i64 = -1}, -1, WAN_SAMPLER_RCM, RFLAGS, .unit = "sampler" }, \
        { "auto",  "the preset's, else unipc", 0, AV_OPT_TYPE_CONST, {.i64 = -1},           .flags = RFLAGS, .unit = "sampler" }, \
        { "unipc", "UniPC of order 2",     0, AV_OPT_TYPE_CONST, {.i64 = WAN_SAMPLER_UNIPC}, .flags = RFLAGS, .unit = "sampler" }, \
        { "dpm++", "DPM++ 2M",             0, AV_OPT_TYPE_CONST, {.i64 = WAN_SAMPLER_DPMPP}, .flags = RFLAGS, .unit = "sampler" }, \
        { "euler", "Euler",                0, AV_OPT_TYPE_CONST, {.i64 = WAN_SAMPLER_EULER}, .flags = RFLAGS, .unit = "sampler" }, \
        { "dmd",   "to the clean estimate and back by fresh noise", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_SAMPLER_DMD}, .flags = RFLAGS, .unit = "sampler" }, \
        { "rcm",   "likewise, by the levels of rCM; 4 steps at most", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_SAMPLER_RCM}, .flags = RFLAGS, .unit = "sampler" }, \
    { "timesteps", "set timesteps of euler and dmd in place of steps, such as 1000|750|500|250", OFFSET(sampling.timesteps), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = RFLAGS }, \
    { "warp",     "set whether timesteps are shifted, -1: the preset's", OFFSET(sampling.warp), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 1, RFLAGS }, \
    { "sigma_max", "set noise at the start of rcm, -1: the preset's", OFFSET(sampling.sigma_max), AV_OPT_TYPE_DOUBLE, {.dbl = -1}, -1, 1e6, RFLAGS }, \
    { "causal",   "set whether the model is causal and makes block by block", OFFSET(blocks.causal), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 1, FLAGS, .unit = "causal" }, \
        { "auto", "as the preset says",    0, AV_OPT_TYPE_CONST, {.i64 = -1}, .flags = FLAGS, .unit = "causal" }, \
    { "block",    "set latent frames of a causal model's block, -1: the preset's", OFFSET(blocks.block), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 64, FLAGS }, \
    { "first_block", "set latent frames of its first block, 0: as the others", OFFSET(blocks.first_block), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 64, FLAGS }, \
    { "window",   "set latent frames that it looks back on, with the block, 0: all, -1: the preset's", OFFSET(blocks.window), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 4001, FLAGS }, \
    { "sink",     "set how many of them are the video's first, -1: the preset's", OFFSET(blocks.sink), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 4001, FLAGS }, \
    { "positions", "set from where it counts time", OFFSET(blocks.positions), AV_OPT_TYPE_INT, {.i64 = -1}, -1, WAN_POSITIONS_WINDOW, FLAGS, .unit = "positions" }, \
        { "auto",  "as the preset says",   0, AV_OPT_TYPE_CONST, {.i64 = -1}, .flags = FLAGS, .unit = "positions" }, \
        { "absolute", "the video's start", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_POSITIONS_ABSOLUTE}, .flags = FLAGS, .unit = "positions" }, \
        { "window", "the window's start",  0, AV_OPT_TYPE_CONST, {.i64 = WAN_POSITIONS_WINDOW}, .flags = FLAGS, .unit = "positions" }, \
    { "switch",   "set what a new prompt does with what was made", OFFSET(blocks.on_switch), AV_OPT_TYPE_INT, {.i64 = -1}, -1, WAN_SWITCH_RECACHE, FLAGS, .unit = "switch" }, \
        { "auto",  "as the preset says",   0, AV_OPT_TYPE_CONST, {.i64 = -1}, .flags = FLAGS, .unit = "switch" }, \
        { "plain", "nothing, the scene turns slowly", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_SWITCH_PLAIN}, .flags = FLAGS, .unit = "switch" }, \
        { "recache", "it is looked at again under the new prompt", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_SWITCH_RECACHE}, .flags = FLAGS, .unit = "switch" }, \
    { "sink_reset", "set whether that makes a new sink, -1: the preset's", OFFSET(blocks.sink_reset), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 1, FLAGS }, \
    { "first_timesteps", "set timesteps of the first block", OFFSET(blocks.first_timesteps), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "weights",  "set weights of a training's file: ema, generator", OFFSET(weights), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "seed",     "set seed of the noise, -1: random", OFFSET(seed_str), AV_OPT_TYPE_STRING, {.str = "-1"}, .flags = FLAGS }, \
    { "rng",      "set generator of the noise", OFFSET(rng), AV_OPT_TYPE_INT, {.i64 = WAN_RNG_CUDA}, WAN_RNG_CUDA, WAN_RNG_CPU, FLAGS, .unit = "rng" }, \
        { "cuda", "as PyTorch on a GPU",   0, AV_OPT_TYPE_CONST, {.i64 = WAN_RNG_CUDA}, .flags = FLAGS, .unit = "rng" }, \
        { "cpu",  "as PyTorch on the CPU", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_RNG_CPU},  .flags = FLAGS, .unit = "rng" }, \
    { "rng_threads", "set launch size of the GPU whose noise is reproduced", OFFSET(rng_threads), AV_OPT_TYPE_INT, {.i64 = 270336}, 1, INT_MAX, FLAGS }, \
    { "cache",    "set what stands for steps that differ little", OFFSET(cache), AV_OPT_TYPE_INT, {.i64 = WAN_CACHE_NONE}, WAN_CACHE_NONE, WAN_CACHE_MAG, FLAGS, .unit = "cache" }, \
        { "none", "every step is computed", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_CACHE_NONE}, .flags = FLAGS, .unit = "cache" }, \
        { "easy", "EasyCache",             0, AV_OPT_TYPE_CONST, {.i64 = WAN_CACHE_EASY}, .flags = FLAGS, .unit = "cache" }, \
        { "mag",  "MagCache",              0, AV_OPT_TYPE_CONST, {.i64 = WAN_CACHE_MAG},  .flags = FLAGS, .unit = "cache" }, \
    { "cache_threshold", "set how much may change before a step is computed again, -1: the model's", OFFSET(cache_threshold), AV_OPT_TYPE_DOUBLE, {.dbl = -1}, -1, 100, FLAGS }, \
    { "cache_retain", "set steps (easy) or share of them (mag) that are computed in any case, -1: the default", OFFSET(cache_retain), AV_OPT_TYPE_DOUBLE, {.dbl = -1}, -1, 1000, FLAGS }, \
    { "cache_run",   "set longest run of steps that mag skips, -1: the model's", OFFSET(cache_run), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 1000, FLAGS }, \
    { "cache_table", "set file with ratios for mag, of wan-info --calibrate", OFFSET(cache_table), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "device",   "set device: auto, cpu, cuda, cuda:N, cuda:N-M, ref", OFFSET(device), AV_OPT_TYPE_STRING, {.str = "auto"}, .flags = FLAGS }, \
    { "precision", "set what large products are multiplied in", OFFSET(precision), AV_OPT_TYPE_INT, {.i64 = WAN_PRECISION_AUTO}, WAN_PRECISION_AUTO, WAN_PRECISION_INT8, FLAGS, .unit = "precision" }, \
        { "auto", "bf16 where the device has it, else f32", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_PRECISION_AUTO}, .flags = FLAGS, .unit = "precision" }, \
        { "f32",  "nothing is rounded",    0, AV_OPT_TYPE_CONST, {.i64 = WAN_PRECISION_F32},  .flags = FLAGS, .unit = "precision" }, \
        { "bf16", "both factors are rounded to 16 bits", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_PRECISION_BF16}, .flags = FLAGS, .unit = "precision" }, \
        { "int8", "those of the transformer's blocks and large scores to 8", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_PRECISION_INT8}, .flags = FLAGS, .unit = "precision" }, \
    { "fp8",      "set when a GPU multiplies in 8 bits", OFFSET(fp8), AV_OPT_TYPE_INT, {.i64 = WAN_FP8_AUTO}, WAN_FP8_AUTO, WAN_FP8_ON, FLAGS, .unit = "fp8" }, \
        { "auto", "with matrices that the checkpoint stores so", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_FP8_AUTO}, .flags = FLAGS, .unit = "fp8" }, \
        { "off",  "never",                 0, AV_OPT_TYPE_CONST, {.i64 = WAN_FP8_OFF},  .flags = FLAGS, .unit = "fp8" }, \
        { "on",   "in all blocks of the transformer", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_FP8_ON}, .flags = FLAGS, .unit = "fp8" }, \
    { "memory",   "set memory limit in bytes, 0: what is free", OFFSET(memory), AV_OPT_TYPE_INT64, {.i64 = 0}, 0, INT64_MAX, FLAGS }, \
    { "vae",          "set file or directory of the VAE",          OFFSET(vae),          AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "vae_scale",    "set whether a tiny VAE takes latents times their std plus mean", OFFSET(vae_scale), AV_OPT_TYPE_INT, {.i64 = WAN_VAE_SCALE_AUTO}, WAN_VAE_SCALE_AUTO, WAN_VAE_SCALE_ON, FLAGS, .unit = "vae_scale" }, \
        { "auto", "as the name of its file says, else its type", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_VAE_SCALE_AUTO}, .flags = FLAGS, .unit = "vae_scale" }, \
        { "off",  "as TAEHV",              0, AV_OPT_TYPE_CONST, {.i64 = WAN_VAE_SCALE_OFF}, .flags = FLAGS, .unit = "vae_scale" }, \
        { "on",   "as LightTAE",           0, AV_OPT_TYPE_CONST, {.i64 = WAN_VAE_SCALE_ON},  .flags = FLAGS, .unit = "vae_scale" }, \
    { "text_encoder", "set file or directory of the text encoder", OFFSET(text_encoder), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "tokenizer",    "set file or directory of the tokenizer",    OFFSET(tokenizer),    AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "clip",         "set file or directory of the image encoder", OFFSET(clip),        AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "lora",         "set LoRA files, path[=strength][|path...]", OFFSET(lora),     AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "label",    "mark the frames as AI-generated", OFFSET(label), AV_OPT_TYPE_BOOL, {.i64 = 1}, 0, 1, FLAGS }, \
    { "preview",  "add an output with a small picture of every step", OFFSET(preview), AV_OPT_TYPE_BOOL, {.i64 = 0}, 0, 1, FLAGS }, \
    { "reload",   "look at the files of prompts again before each clip", OFFSET(reload), AV_OPT_TYPE_BOOL, {.i64 = 0}, 0, 1, FLAGS }

/* What a VACE checkpoint can be told besides a video. */
#define CONTROL_OPTIONS \
    { "reference", "set pictures of who or what is to be seen, path[|path...], for VACE", OFFSET(reference_paths), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "context_scale", "set how strongly a VACE model follows them and its video", OFFSET(context_scale), AV_OPT_TYPE_DOUBLE, {.dbl = 1}, 0, 10, FLAGS }

/* With an input. */
#define KEPT_OPTIONS \
    CONTROL_OPTIONS, \
    { "keep", "set frames that VACE keeps of a window or clip in the next, 4n+1, -1: 9 at most", OFFSET(keep), AV_OPT_TYPE_INT, {.i64 = -1}, -1, INT_MAX, FLAGS }

/* What those have that decide on a clip's length and time themselves. */
#define CLIP_OPTIONS \
    { "duration", "set duration of a clip, rounded up to 4n+1 frames", OFFSET(duration_us), AV_OPT_TYPE_DURATION, {.i64 = -1}, -1, INT64_MAX, FLAGS }, \
    { "d",        "set duration of a clip, rounded up to 4n+1 frames", OFFSET(duration_us), AV_OPT_TYPE_DURATION, {.i64 = -1}, -1, INT64_MAX, FLAGS }, \
    { "rate",     "set video rate (default: the model's)", OFFSET(rate_str), AV_OPT_TYPE_STRING,   {.str = NULL}, .flags = FLAGS }, \
    { "r",        "set video rate (default: the model's)", OFFSET(rate_str), AV_OPT_TYPE_STRING,   {.str = NULL}, .flags = FLAGS }, \
    { "sar",      "set video sample aspect ratio",         OFFSET(sar),      AV_OPT_TYPE_RATIONAL, {.dbl = 1}, 0, INT_MAX, FLAGS }, \
    { "format",   "set pixel format, none: the one the graph prefers", OFFSET(format), AV_OPT_TYPE_PIXEL_FMT, {.i64 = AV_PIX_FMT_YUV420P}, AV_PIX_FMT_NONE, INT_MAX, FLAGS }, \
    { "dither",   "set how values become levels of 8 and 10 bits", OFFSET(dither), AV_OPT_TYPE_INT, {.i64 = WAN_DITHER_NONE}, WAN_DITHER_NONE, WAN_DITHER_BAYER, FLAGS, .unit = "dither" }, \
        { "none",  "YUV rounded, RGB cut", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_DITHER_NONE},  .flags = FLAGS, .unit = "dither" }, \
        { "bayer", "ordered, by an 8x8 pattern", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_DITHER_BAYER}, .flags = FLAGS, .unit = "dither" }, \
    { "hwframes", "give CUDA frames of that format, on the device of the graph", OFFSET(hwframes), AV_OPT_TYPE_BOOL, {.i64 = 0}, 0, 1, FLAGS }, \
    { "clips",    "set number of clips one after another, 0: without end", OFFSET(clips), AV_OPT_TYPE_INT, {.i64 = 1}, 0, INT_MAX, FLAGS }, \
    { "ahead",    "set duration of finished video that may wait while the next clip is made (default: 2 with clips=0, else 0)", OFFSET(ahead_us), AV_OPT_TYPE_DURATION, {.i64 = -1}, -1, INT64_MAX, FLAGS }, \
    { "late",     "set what becomes of a frame that is not there in time", OFFSET(late), AV_OPT_TYPE_INT, {.i64 = LATE_WAIT}, LATE_WAIT, LATE_REPEAT, FLAGS, .unit = "late" }, \
        { "wait",   "it is waited for",    0, AV_OPT_TYPE_CONST, {.i64 = LATE_WAIT},   .flags = FLAGS, .unit = "late" }, \
        { "repeat", "the last one is shown again, by the clock", 0, AV_OPT_TYPE_CONST, {.i64 = LATE_REPEAT}, .flags = FLAGS, .unit = "late" }, \
    { "slate",    "set file of the picture that late=repeat shows before the first frame (default: black)", OFFSET(slate_path), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }

/* ------------------------------------------------------------ libwan glue */

static int map_error(int ret)
{
    switch (ret) {
    case WAN_INVALIDDATA:
        return AVERROR_INVALIDDATA;
    case WAN_CANCELLED:
        return AVERROR_EXIT;
    case WAN_EOF:
        return AVERROR_EOF;
    case WAN_ERR(EAGAIN):               /* means something else to a graph */
    case WAN_ERR(EDOM):
    case WAN_ERR(EIO):
        return AVERROR_EXTERNAL;
    }
    return ret > -4096 ? AVERROR(-ret) : AVERROR_EXTERNAL;
}

/* Called from whichever thread is inside libwan. */
static void log_line(void *opaque, enum WanLogLevel level, const char *line)
{
    AVFilterContext *ctx = opaque;
    const WanContext *s  = ctx->priv;
    int av_level;

    switch (level) {
    case WAN_LOG_ERROR:   av_level = AV_LOG_ERROR;   break;
    case WAN_LOG_WARNING: av_level = AV_LOG_WARNING; break;
    case WAN_LOG_INFO:    av_level = AV_LOG_INFO;    break;
    case WAN_LOG_VERBOSE: av_level = AV_LOG_VERBOSE; break;
    default:              av_level = AV_LOG_DEBUG;   break;
    }
    if (!s->quiet || level == WAN_LOG_ERROR)
        av_log(ctx, av_level, "%s\n", line);
}

static enum WanLogLevel log_level(void)
{
    int level = av_log_get_level();

    return level >= AV_LOG_DEBUG   ? WAN_LOG_DEBUG   :
           level >= AV_LOG_VERBOSE ? WAN_LOG_VERBOSE :
           level >= AV_LOG_INFO    ? WAN_LOG_INFO    :
           level >= AV_LOG_WARNING ? WAN_LOG_WARNING : WAN_LOG_ERROR;
}

/** Has the user asked the whole graph to stop? From the graph thread only. */
static int interrupted(const AVFilterContext *ctx)
{
#ifdef FF_FILTER_INTERRUPT
    return ff_filter_interrupted(ctx);
#else
    return 0;
#endif
}

static int open_interrupted(void *opaque)
{
    const AVFilterContext *ctx = opaque;
    const WanContext *s = ctx->priv;

    return s->opening && interrupted(ctx);
}

/** Is this wan_v2v? Constant where that is not built, as below. */
static int redraws(const AVFilterContext *ctx)
{
    return CONFIG_WAN_V2V_FILTER && ((const WanContext *)ctx->priv)->redraws;
}

/** Is this wan_i2v? Constant where that is not built, nor what it links. */
static int from_image(const AVFilterContext *ctx)
{
    return CONFIG_WAN_I2V_FILTER && ctx->nb_inputs && !redraws(ctx);
}

/** Does it hand on its input, and needs no model? */
static int passes(const AVFilterContext *ctx)
{
    return redraws(ctx) && !((const WanContext *)ctx->priv)->strength;
}

/** What one job makes, in words. */
static const char *job_name(const AVFilterContext *ctx)
{
    return redraws(ctx) ? "window" : "clip";
}

/**
 * Threads for libwan, 0: one a processor. A graph that nobody limited has one
 * more than there are processors, 16 at most; that is no limit.
 */
static int nb_threads(AVFilterContext *ctx)
{
    const int unlimited = FFMIN(av_cpu_count(), 16);
    const int allowed   = ctx->graph ? ctx->graph->nb_threads : 0;

    if (allowed < 1 || allowed >= unlimited)
        return ctx->nb_threads;
    return ff_filter_get_nb_threads(ctx);
}

static void model_params(AVFilterContext *ctx, WanModelParams *p)
{
    const WanContext *s = ctx->priv;

    wan_model_params_default(p);
    p->path               = s->model_path;
    p->model2             = s->model2;
    p->text_encoder       = s->text_encoder;
    p->vae                = s->vae;
    p->vae_scale          = s->vae_scale;
    p->tokenizer          = s->tokenizer;
    p->clip               = s->clip;
    p->lora               = s->lora;
    p->precision          = s->precision;
    p->fp8                = s->fp8;
    p->weights            = s->weights;
    p->device             = *s->cuda_device ? s->cuda_device : s->device;
    p->cuda_context       = s->cuda_context;
    p->threads            = nb_threads(ctx);
    p->memory             = s->memory;
    p->log                = log_line;
    p->log_opaque         = ctx;
    p->log_level          = log_level();
    p->processes          = 1;
    p->interrupted        = open_interrupted;
    p->interrupted_opaque = ctx;
}

/* ---------------------------------------------------------------- options */

/**
 * Check a text and make it ours: valid UTF-8 without NUL, at most MAX_TEXT
 * bytes, line ends at its end cut off.
 *
 * @param out  freed and replaced, unless it is refused
 */
static int set_text(AVFilterContext *ctx, const char *option,
                    const uint8_t *text, size_t size, char **out)
{
    const uint8_t *pos = text, *end;
    char *copy;

    while (size && (text[size - 1] == '\n' || text[size - 1] == '\r'))
        size--;
    if (size > MAX_TEXT) {
        av_log(ctx, AV_LOG_ERROR, "%s: longer than %d bytes\n",
               option, MAX_TEXT);
        return AVERROR(EINVAL);
    }
    for (end = text + size; pos < end;) {
        const uint8_t *at = pos;
        int32_t code;

        if (av_utf8_decode(&code, &pos, end,
                           AV_UTF8_FLAG_ACCEPT_NON_CHARACTERS) < 0 || !code) {
            av_log(ctx, AV_LOG_ERROR, "%s: %s at byte %d\n", option,
                   *at ? "invalid UTF-8" : "a NUL", (int)(at - text));
            return AVERROR(EINVAL);
        }
    }
    copy = av_malloc(size + 1);
    if (!copy)
        return AVERROR(ENOMEM);
    memcpy(copy, text, size);
    copy[size] = 0;
    av_free(*out);
    *out = copy;
    return 0;
}

/** Wait until a pipe has more, or ends. @return 0, or an AVERROR */
static int wait_readable(const AVFilterContext *ctx, int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    int ret;

    do {
        if (interrupted(ctx))
            return AVERROR_EXIT;
        ret = poll(&p, 1, WAIT_US / 1000);
    } while (!ret || (ret < 0 && errno == EINTR));
    return ret < 0 ? AVERROR(errno) : 0;
}

/**
 * Read a small file to its end.
 *
 * @param ctx  NULL: what could be waited for, for ever, is refused; else the
 *             wait for the end of a pipe ends when the graph is interrupted
 * @return its size, at most max + 1, or an AVERROR
 */
static int read_small(const AVFilterContext *ctx, const char *path,
                      uint8_t *buf, int max)
{
    struct stat st;
    int n = 0, ret = 1, pipe = 0, fd = open(path, O_RDONLY | O_NONBLOCK);

    if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fstat(fd, &st) < 0)
        ret = AVERROR(errno);
    else if (S_ISDIR(st.st_mode))
        ret = AVERROR(EISDIR);
    else if ((pipe = !S_ISREG(st.st_mode)) && !ctx)
        ret = AVERROR(ESPIPE);
    while (ret > 0 && n <= max) {
        if (pipe && (ret = wait_readable(ctx, fd)) < 0)
            break;
        ret = read(fd, buf + n, max + 1 - n);
        if (ret >= 0)
            n += ret;
        else
            ret = errno == EAGAIN || errno == EINTR ? 1 : AVERROR(errno);
    }
    if (fd >= 0)
        close(fd);
    return ret < 0 ? ret : n;
}

/** Look at a file. @return 0, with what there is to see; AVERROR(ENOMEM) */
static int look(const AVFilterContext *ctx, Watch *w, const char *path)
{
    uint8_t *buf = av_malloc(MAX_TEXT + 1);

    if (!buf)
        return AVERROR(ENOMEM);
    av_free(w->seen);
    w->seen = buf;
    w->size = read_small(ctx, path, buf, MAX_TEXT);
    return 0;
}

static int looks_equal(const Watch *a, const Watch *b)
{
    return a->size == b->size &&
           (a->size <= 0 || !memcmp(a->seen, b->seen, a->size));
}

/**
 * The text of a file, checked.
 *
 * @param level  of the line that says what is wrong
 * @param out    freed and replaced, unless the text is refused
 */
static int text_of(AVFilterContext *ctx, const Watch *w, const char *option,
                   const char *path, int level, char **out)
{
    const int bom = w->size >= 3 && !memcmp(w->seen, "\xEF\xBB\xBF", 3);
    char *text = NULL;
    int ret;

    if (w->size < 0) {
        av_log(ctx, level, "%s: cannot read '%s': %s\n", option, path,
               w->size == AVERROR(ESPIPE) ? "it is no file, but a pipe or a "
               "device" : av_err2str(w->size));
        return w->size;
    }
    ret = set_text(ctx, option, w->seen + 3 * bom, w->size - 3 * bom, &text);
    if (ret >= 0)
        FFSWAP(char *, *out, text);
    av_free(text);
    return ret;
}

/** The type of what a path leads to, 0 if it leads nowhere. */
static mode_t type_of(const char *path)
{
    struct stat st;

    return stat(path, &st) < 0 ? 0 : st.st_mode & S_IFMT;
}

/** Is it a pipe or a device, which has an end but is read once only? */
static int is_read_once(const char *path)
{
    const mode_t type = type_of(path);

    return type && type != S_IFREG && type != S_IFDIR;
}

/**
 * One of the pairs text and textfile; *text stays NULL when neither is set, and
 * when it comes from a pipe: read_pipe() has that.
 */
static int load_text(AVFilterContext *ctx, Watch *w, const char *option,
                     char **text, const char *file)
{
    const WanContext *s = ctx->priv;
    char name[32];
    int ret;

    if (!file)
        return *text ? set_text(ctx, option, *text, strlen(*text), text) : 0;

    snprintf(name, sizeof(name), "%sfile", option);
    if (*text) {
        av_log(ctx, AV_LOG_ERROR, "%s and %s exclude each other\n",
               option, name);
        return AVERROR(EINVAL);
    }
    if (is_read_once(file)) {
        if (!s->reload)
            return 0;
        av_log(ctx, AV_LOG_ERROR, "reload=1: %s: '%s' is a pipe or a device "
               "and can't be looked at again\n", name, file);
        return AVERROR(EINVAL);
    }
    ret = look(NULL, w, file);
    return ret < 0 ? ret : text_of(ctx, w, name, file, AV_LOG_ERROR, text);
}

/**
 * The text of a pair that comes from a pipe, once the graph is the one that
 * runs: programs make another before it, to look at its pads. One that has been
 * read gives nothing, which is no text.
 */
static int read_pipe(AVFilterContext *ctx, Watch *w, const char *option,
                     char **text, const char *file)
{
    char name[32];
    int ret;

    if (!file || *text)
        return 0;
    snprintf(name, sizeof(name), "%sfile", option);
    ret = look(ctx, w, file);
    if (ret < 0 || w->size == AVERROR_EXIT)
        return ret < 0 ? ret : w->size;
    if (!w->size && type_of(file) == S_IFIFO) {
        av_log(ctx, AV_LOG_ERROR, "%s: '%s' is a pipe that has nothing, or "
               "nothing more: it can be read once\n", name, file);
        return AVERROR(EINVAL);
    }
    return text_of(ctx, w, name, file, AV_LOG_ERROR, text);
}

static int read_pipes(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    int ret = read_pipe(ctx, &s->watch[0], "prompt", &s->prompt, s->promptfile);

    return ret < 0 ? ret : read_pipe(ctx, &s->watch[1], "negative_prompt",
                                     &s->negative_prompt,
                                     s->negative_promptfile);
}

/**
 * Has the file changed since it was last looked at, and is it at rest? Whoever
 * writes it in place is waited for a moment; who takes longer is met half way,
 * and should write another file and rename it.
 */
static int has_changed(AVFilterContext *ctx, Watch *w, const char *path)
{
    const WanContext *s = ctx->priv;
    Watch now = { 0 }, then = { 0 };
    int changed = 0, tries;

    for (tries = 0; tries < 5 && look(NULL, &now, path) >= 0; tries++) {
        if (!tries && looks_equal(&now, w))
            break;
        /* an empty file is what a writer begins with */
        changed = tries && looks_equal(&now, &then) && (now.size || tries == 4);
        if (changed || ff_wan_worker_pause(s->worker, SETTLE_US))
            break;
        FFSWAP(Watch, now, then);
    }
    if (changed)
        FFSWAP(Watch, *w, now);
    av_free(now.seen);
    av_free(then.seen);
    return changed;
}

/** Take in what a file of a pair says now, if it is new and a text. */
static void reload_text(AVFilterContext *ctx, Watch *w, const char *option,
                        char **text, const char *file)
{
    WanContext *s = ctx->priv;
    char name[32], *new = NULL;
    int differs;

    if (!file || !has_changed(ctx, w, file))
        return;
    snprintf(name, sizeof(name), "%sfile", option);
    if (text_of(ctx, w, name, file, AV_LOG_WARNING, &new) < 0) {
        av_log(ctx, AV_LOG_WARNING, "%s: the text stays as it was\n", name);
        return;
    }
    pthread_mutex_lock(&s->settings);
    differs = strcmp(*text, new);
    FFSWAP(char *, *text, new);
    pthread_mutex_unlock(&s->settings);
    if (differs)
        av_log(ctx, AV_LOG_INFO, "%s: '%s' has a new text\n", name, file);
    av_free(new);
}

/** Seeds have 64 bits, the parser of numbers only 53. */
static int parse_seed(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const char *str = s->seed_str ? s->seed_str : "";
    char *end;

    if (!strcmp(str, "-1"))
        return 0;
    errno = 0;
    s->seed = strtoull(str, &end, 10);
    if (*str < '0' || *str > '9' || *end || errno) {
        av_log(ctx, AV_LOG_ERROR, "seed=%s: must be -1 (random) or a whole "
               "number from 0 to %"PRIu64"\n", str, UINT64_MAX);
        return AVERROR(EINVAL);
    }
    s->seed_given = 1;
    return 0;
}

static int check_device(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;
    const char *d = s->device ? s->device : "";

    if (!strcmp(d, "auto") || !strcmp(d, "cpu") || !strcmp(d, "cuda") ||
        !strcmp(d, "ref"))
        return 0;
    /* what a list of cards is libwan knows */
    if (av_strstart(d, "cuda:", &d) && *d && strspn(d, "0123456789-,") == strlen(d) &&
        (strlen(d) < 4 || strpbrk(d, "-,")))
        return 0;
    av_log(ctx, AV_LOG_ERROR, "device=%s: must be auto, cpu, cuda, cuda:N, "
           "cuda:N-M or ref\n", s->device ? s->device : "");
    return AVERROR(EINVAL);
}

static int check_format(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;
    const char *name = av_get_pix_fmt_name(s->format);
    char names[128] = "";
    int i;

    if (s->format == AV_PIX_FMT_NONE && !s->hwframes)
        return 0;
    for (i = 0; i < FF_WAN_NB_PIXEL_FORMATS; i++) {
        if (s->hwframes && !ff_wan_pixel_formats[i].cuda)
            continue;
        if (s->format == ff_wan_pixel_formats[i].av)
            return 0;
        av_strlcatf(names, sizeof(names), "%s%s", *names ? ", " : "",
                    av_get_pix_fmt_name(ff_wan_pixel_formats[i].av));
    }
    av_log(ctx, AV_LOG_ERROR, "format=%s: must be one of %s%s\n",
           name ? name : "none", names,
           s->hwframes ? " with hwframes=1" : ", none");
    return AVERROR(EINVAL);
}

/** What of CUDA frames can be known before the graph has a device. */
static int check_hwframes(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;

    if (!s->hwframes)
        return 0;
    if ((strcmp(s->device, "auto") && !av_strstart(s->device, "cuda", NULL)) ||
        strpbrk(s->device, "-,")) {
        av_log(ctx, AV_LOG_ERROR, "device=%s: with hwframes=1 it must be auto, "
               "cuda or cuda:N\n", s->device);
        return AVERROR(EINVAL);
    }
    if (!CONFIG_CUDA) {
        av_log(ctx, AV_LOG_ERROR, "hwframes=1: this FFmpeg was built without "
               "CUDA, which needs nv-codec-headers\n");
        return AVERROR(ENOSYS);
    }
    return 0;
}

/** A model's default, or a number in [min, max]? A NaN passes the parser. */
static int check_number(AVFilterContext *ctx, const char *option, double v,
                        double min, double max)
{
    if (v == -1 || (v >= min && v <= max))
        return 0;
    av_log(ctx, AV_LOG_ERROR, "%s=%g: must be from %g to %g, or -1 for the "
           "model's default\n", option, v, min, max);
    return AVERROR(EINVAL);
}

static int parse_timesteps(AVFilterContext *ctx, const char *option,
                           const char *text, double **list, int *nb)
{
    int n;

    av_freep(list);
    *nb = 0;
    if (!text || !strcmp(text, "none"))
        return 0;
    n = wan_timesteps_parse(NULL, 0, text);
    if (n < 0) {
        av_log(ctx, AV_LOG_ERROR, "%s=%s: must be numbers such as "
               "1000|750|500|250\n", option, text);
        return AVERROR(EINVAL);
    }
    *list = av_malloc_array(n, sizeof(**list));
    if (!*list)
        return AVERROR(ENOMEM);
    *nb = wan_timesteps_parse(*list, n, text);
    return 0;
}

/** What of the sampling can be known without the model. */
static int check_sampling(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    Sampling *a   = &s->sampling;
    int ret;

    if ((ret = check_number(ctx, "steps", a->steps, 1, 1000)) < 0 ||
        (ret = check_number(ctx, "guidance", a->guidance, 0, 100)) < 0 ||
        (ret = check_number(ctx, "guidance2", a->guidance2, 0.001, 100)) < 0 ||
        (ret = check_number(ctx, "boundary", a->boundary, 0, 1)) < 0 ||
        (ret = check_number(ctx, "shift", a->shift, 0.01, 100)) < 0 ||
        (ret = check_number(ctx, "sigma_max", a->sigma_max, 15, 1e6)) < 0)
        return ret;
    return parse_timesteps(ctx, "timesteps", a->timesteps, &a->list,
                           &a->nb_list);
}

static int check_frames(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;
    int below = (s->frames - 1) / 4 * 4 + 1;

    if (s->frames == -1 || (s->frames > 0 && s->frames % 4 == 1))
        return 0;
    if (s->frames == 0)
        av_log(ctx, AV_LOG_ERROR, "frames=0: must be 4n+1, at least 1\n");
    else if (below > INT_MAX - 4)
        av_log(ctx, AV_LOG_ERROR, "frames=%d: must be 4n+1; the nearest is "
               "%d\n", s->frames, below);
    else
        av_log(ctx, AV_LOG_ERROR, "frames=%d: must be 4n+1; the nearest are "
               "%d and %d\n", s->frames, below, below + 4);
    return AVERROR(EINVAL);
}

/** Nobody named a model: take the small one that comes with libwan. */
static int choose_demo(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    WanDemo demo;

    if (wan_demo_model(&demo, from_image(ctx) ? WAN_TASK_I2V
                                              : WAN_TASK_T2V) < 0) {
        av_log(ctx, AV_LOG_ERROR, "no model: set the option model or the "
               "environment variable WAN_MODEL to a Wan checkpoint; the demo "
               "model is not installed, it is share/demo of libwan's source "
               "and belongs in %s\n", demo.model);
        return AVERROR(EINVAL);
    }
    s->model_path = av_strdup(demo.model);
    s->manual     = av_strdup(demo.manual);
    return s->model_path && s->manual ? 0 : AVERROR(ENOMEM);
}

static int check_model_path(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    WanModelParams params;
    int ret;

    if (!s->model_path) {
        const char *env = getenv("WAN_MODEL");

        if (env && *env) {
            av_log(ctx, AV_LOG_VERBOSE, "WAN_MODEL is %s\n", env);
            s->model_path = av_strdup(env);
            if (!s->model_path)
                return AVERROR(ENOMEM);
        } else if ((ret = choose_demo(ctx)) < 0)
            return ret;
    }
    model_params(ctx, &params);
    s->quiet = 1;                       /* wan_model_open() says it again */
    ret = wan_model_probe(&params);
    s->quiet = 0;
    return ret < 0 ? map_error(ret) : 0;
}

static int config_props_preview(AVFilterLink *outlink);

static AVFilterLink *preview_link(const AVFilterContext *ctx)
{
    return ctx->nb_outputs > 1 ? ctx->outputs[1] : NULL;
}

/** The output of the option preview, once. */
static int add_preview(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;
    AVFilterPad pad = {
        .name         = "preview",
        .type         = AVMEDIA_TYPE_VIDEO,
        .config_props = config_props_preview,
    };

    return s->preview && ctx->nb_outputs < 2 ? ff_append_outpad(ctx, &pad) : 0;
}

/* Runs twice in some programs: looks only, and leaves nothing behind but the
 * output that it adds. */
static av_cold int init(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    int ret;

    if (pthread_mutex_init(&s->settings, NULL))
        return AVERROR(ENOMEM);
    s->settings_ready = 1;
    if ((ret = load_text(ctx, &s->watch[0], "prompt", &s->prompt,
                         s->promptfile)) < 0 ||
        (ret = load_text(ctx, &s->watch[1], "negative_prompt",
                         &s->negative_prompt, s->negative_promptfile)) < 0)
        return ret;
    if (!s->prompt && !s->promptfile) {
        av_log(ctx, AV_LOG_ERROR, "no prompt: set prompt or promptfile\n");
        return AVERROR(EINVAL);
    }
    if (s->rate_str && (ret = av_parse_video_rate(&s->rate, s->rate_str)) < 0) {
        av_log(ctx, AV_LOG_ERROR, "rate=%s: not a frame rate\n", s->rate_str);
        return ret;
    }
    if (s->frames != -1 && s->duration_us != -1) {
        av_log(ctx, AV_LOG_ERROR, "frames and duration exclude each other\n");
        return AVERROR(EINVAL);
    }
    if (s->duration_us == 0) {
        av_log(ctx, AV_LOG_ERROR, "duration=0: must be more than 0\n");
        return AVERROR(EINVAL);
    }
    if (ctx->nb_inputs && s->keep != -1 && (s->keep < 1 || s->keep % 4 != 1)) {
        av_log(ctx, AV_LOG_ERROR, "keep=%d: must be 4n+1: 1, 5, 9, ...\n",
               s->keep);
        return AVERROR(EINVAL);
    }
    if (s->reload && !s->promptfile && !s->negative_promptfile) {
        av_log(ctx, AV_LOG_ERROR, "reload=1: there is neither promptfile nor "
               "negative_promptfile to look at again\n");
        return AVERROR(EINVAL);
    }
    if (s->slate_path && s->late != LATE_REPEAT) {
        av_log(ctx, AV_LOG_ERROR, "slate=%s: it is shown with late=repeat "
               "only\n", s->slate_path);
        return AVERROR(EINVAL);
    }
    if ((ret = check_frames(ctx)) < 0 ||
        (ret = check_sampling(ctx)) < 0 ||
        (ret = parse_timesteps(ctx, "first_timesteps",
                               s->blocks.first_timesteps, &s->blocks.list,
                               &s->blocks.nb_list)) < 0 ||
        (ret = check_number(ctx, "cache_threshold", s->cache_threshold, 1e-6,
                            100)) < 0 ||
        (ret = check_number(ctx, "cache_retain", s->cache_retain, 1e-6,
                            1000)) < 0 ||
        (ret = check_number(ctx, "cache_run", s->cache_run, 1, 1000)) < 0 ||
        (ret = parse_seed(ctx)) < 0 ||
        (ret = check_device(ctx)) < 0 ||
        (ret = check_format(ctx)) < 0 ||
        (ret = check_hwframes(ctx)) < 0 ||
        (!passes(ctx) && (ret = check_model_path(ctx)) < 0))
        return ret;
    return add_preview(ctx);
}

/* ------------------------------------------------------------ CUDA frames */

#if CONFIG_CUDA

static AVCUDADeviceContext *cuda_of(const AVFilterContext *ctx)
{
    return ((AVHWDeviceContext *)ctx->hw_device_ctx->data)->hwctx;
}

/** Find which card the graph's CUDA device is, by the number libwan has. */
static int find_card(AVFilterContext *ctx, int *card)
{
    AVCUDADeviceContext *cuda = cuda_of(ctx);
    CudaFunctions *cu = cuda->internal->cuda_dl;
    CUdevice device, other;
    CUcontext popped;
    int count, i, ret;

    if ((ret = CHECK_CU(cu->cuCtxPushCurrent(cuda->cuda_ctx))) < 0)
        return ret;
    ret = CHECK_CU(cu->cuCtxGetDevice(&device));
    CHECK_CU(cu->cuCtxPopCurrent(&popped));
    if (ret < 0 || (ret = CHECK_CU(cu->cuDeviceGetCount(&count))) < 0)
        return ret;
    for (i = 0; i < count; i++) {
        if ((ret = CHECK_CU(cu->cuDeviceGet(&other, i))) < 0)
            return ret;
        if (other == device) {
            *card = i;
            return 0;
        }
    }
    return AVERROR_BUG;
}

/**
 * The order of work on a frame. The buffers of a pool come back while what
 * read them may still be queued on the stream of the device, as FFmpeg's CUDA
 * filters do it: so before libwan writes, on a stream of its own, that stream
 * must have run dry. wan_job_frame() in turn returns when the pixels are
 * there: whatever is queued after it finds them, on any stream.
 */
static int wait_for_readers(AVFilterContext *ctx)
{
    AVCUDADeviceContext *cuda = cuda_of(ctx);
    CudaFunctions *cu = cuda->internal->cuda_dl;
    CUcontext popped;
    int ret = CHECK_CU(cu->cuCtxPushCurrent(cuda->cuda_ctx));

    if (ret < 0)
        return ret;
    ret = CHECK_CU(cu->cuStreamSynchronize(cuda->stream));
    CHECK_CU(cu->cuCtxPopCurrent(&popped));
    return ret;
}

/** Let libwan work on the CUDA device that the graph was given. */
static int open_cuda(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const AVHWDeviceContext *device;
    int card, ret;

    if (!s->hwframes)
        return 0;
    if (!ctx->hw_device_ctx) {
        av_log(ctx, AV_LOG_ERROR, "hwframes=1: the graph has no CUDA device: "
               "use -init_hw_device cuda=c -filter_hw_device c, and "
               "-filter_complex instead of -f lavfi\n");
        return AVERROR(EINVAL);
    }
    device = (const AVHWDeviceContext *)ctx->hw_device_ctx->data;
    if (device->type != AV_HWDEVICE_TYPE_CUDA) {
        av_log(ctx, AV_LOG_ERROR, "hwframes=1: the device of the graph is of "
               "type %s, not cuda: name another by -filter_hw_device\n",
               av_hwdevice_get_type_name(device->type));
        return AVERROR(EINVAL);
    }
    if ((ret = find_card(ctx, &card)) < 0)
        return ret;
    s->cuda_context = cuda_of(ctx)->cuda_ctx;
    /* a card that is named by number must be that one: libwan looks */
    if (av_strstart(s->device, "cuda:", NULL))
        av_strlcpy(s->cuda_device, s->device, sizeof(s->cuda_device));
    else
        snprintf(s->cuda_device, sizeof(s->cuda_device), "cuda:%d", card);
    return 0;
}

#else

static int open_cuda(AVFilterContext *ctx)        { return 0; }
static int wait_for_readers(AVFilterContext *ctx) { return AVERROR(ENOSYS); }

#endif /* CONFIG_CUDA */

/** The pool of frames of the output, whose size is known. */
static int open_pool(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    WanContext *s = ctx->priv;
    AVHWFramesContext *frames;
    AVBufferRef *ref;
    int ret;

    if (!s->hwframes)
        return 0;
    ref = av_hwframe_ctx_alloc(ctx->hw_device_ctx);
    if (!ref)
        return AVERROR(ENOMEM);
    frames = (AVHWFramesContext *)ref->data;
    frames->format    = AV_PIX_FMT_CUDA;
    frames->sw_format = s->format;
    frames->width     = s->w;
    frames->height    = s->h;
    ret = av_hwframe_ctx_init(ref);
    if (ret < 0) {
        av_log(ctx, AV_LOG_ERROR, "hwframes=1: no CUDA frames of %s, %dx%d: "
               "%s\n", av_get_pix_fmt_name(s->format), s->w, s->h,
               av_err2str(ret));
        av_buffer_unref(&ref);
        return ret;
    }
    av_buffer_unref(&WAN_LINK(outlink)->hw_frames_ctx);
    WAN_LINK(outlink)->hw_frames_ctx = ref;
    av_buffer_unref(&s->hw_frames);
    s->hw_frames = av_buffer_ref(ref);
    return s->hw_frames ? 0 : AVERROR(ENOMEM);
}

/* ----------------------------------------------------------------- images */

static int decode_interrupted(void *opaque)
{
    return interrupted(opaque);
}

/** A black image of that size, or a white one. */
static int make_image(WanImage *image, uint8_t **pixels, int width, int height,
                      int level)
{
    const size_t size = 3LL * width * height;

    av_freep(pixels);
    *pixels = av_malloc(size);
    if (!*pixels)
        return AVERROR(ENOMEM);
    memset(*pixels, level, size);
    *image = (WanImage) {
        .size   = sizeof(*image), .format = WAN_PIX_RGB24,
        .width  = width, .height = height, .data = { *pixels },
        .stride = { 3 * width },
    };
    return 0;
}

/**
 * What of the images can be had before the input's first frame: its size, and
 * the last image.
 */
static int open_images(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const AVIOInterruptCB interrupt = { decode_interrupted, ctx };
    const AVFilterLink *in = ctx->inputs[0];
    int flf = s->info->images_needed > 1 || s->last_image_path, ret;

    if (flf && !s->last_image_path) {
        av_log(ctx, AV_LOG_ERROR, "no last_image: %s is a first-last-frame "
               "checkpoint and needs the file of the last frame\n",
               s->info->name);
        return AVERROR(EINVAL);
    }
    if (s->last_image_path && s->info->images_most < 2) {
        av_log(ctx, AV_LOG_ERROR, "last_image=%s: %s takes none, only a "
               "first-last-frame checkpoint and Wan 2.2's experts do\n",
               s->last_image_path, s->info->name);
        return AVERROR(EINVAL);
    }
    if (flf && s->clips != 1) {
        av_log(ctx, AV_LOG_ERROR, "clips=%d: must be 1, %s ends with "
               "last_image\n", s->clips, s->info->name);
        return AVERROR(EINVAL);
    }

    /* all its rows are one */
    av_freep(&s->blank_pixels);
    s->blank_pixels = av_calloc(in->w, 3);
    if (!s->blank_pixels)
        return AVERROR(ENOMEM);
    s->blank = (WanImage) {
        .size   = sizeof(s->blank), .format = WAN_PIX_RGB24,
        .width  = in->w, .height = in->h, .data = { s->blank_pixels },
    };

    if (flf) {
        av_frame_free(&s->last_frame);
        ret = ff_wan_decode_file(ctx, &s->last_frame, "last_image",
                                 s->last_image_path, &interrupt);
        if (ret < 0)
            return ret;
        ff_wan_describe(&s->last_image, s->last_frame);
    }
    return 0;
}

/** Does the model follow a control video and pictures? */
static int is_vace(const WanContext *s)
{
    return s->info->task == WAN_TASK_VACE;
}

static void free_references(WanContext *s)
{
    int i;

    for (i = 0; i < s->nb_references; i++)
        av_frame_free(&s->reference[i]);
    s->nb_references = 0;
    av_freep(&s->reference);
    av_freep(&s->reference_image);
    av_freep(&s->references);
}

/** Read the pictures of the option reference. */
static int open_references(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const AVIOInterruptCB interrupt = { decode_interrupted, ctx };
    const char *paths = s->reference_paths ? s->reference_paths : "";
    int ret = 0, max = 1, i;

    free_references(s);
    for (i = 0; paths[i]; i++)
        max += paths[i] == '|';
    s->reference       = av_calloc(max, sizeof(*s->reference));
    s->reference_image = av_calloc(max, sizeof(*s->reference_image));
    s->references      = av_calloc(max, sizeof(*s->references));
    if (!s->reference || !s->reference_image || !s->references)
        return AVERROR(ENOMEM);
    while (*paths && ret >= 0) {
        const int n = s->nb_references;
        char *path  = av_get_token(&paths, "|");

        if (!path)
            return AVERROR(ENOMEM);
        ret = ff_wan_decode_file(ctx, &s->reference[n], "reference", path,
                                 &interrupt);
        av_free(path);
        if (ret < 0)
            return ret;
        ff_wan_describe(&s->reference_image[n], s->reference[n]);
        s->references[n] = &s->reference_image[n];
        s->nb_references++;
        paths += *paths == '|';
    }
    return ret;
}

/** A control with the pictures alone, or with a window's frames as well. */
static WanControl make_control(const WanContext *s, const WanImage **video,
                               const WanImage **mask)
{
    return (WanControl) {
        .size = sizeof(WanControl), .video = video, .mask = mask,
        .nb_frames = video ? s->frames : 0, .references = s->references,
        .nb_references = s->nb_references, .scale = s->context_scale,
    };
}

/* ---------------------------------------------------------------- request */

/** What a causal model is asked beside a clip's sampling. */
static void ask_blocks(const WanContext *s, WanRequest *rq)
{
    const Causal *c = &s->blocks;

    if (!c->causal) {                   /* what the preset says of it, too */
        rq->causal = rq->block = rq->first_block = rq->window = rq->sink = 0;
        rq->positions          = WAN_POSITIONS_ABSOLUTE;
        rq->prompt_switch      = WAN_SWITCH_PLAIN;
        rq->sink_reset         = rq->nb_first_timesteps = 0;
        rq->first_timesteps    = NULL;
    }
    if (c->block != -1)
        rq->block = c->block;
    if (c->first_block != -1)
        rq->first_block = c->first_block;
    if (c->window != -1)
        rq->window = c->window;
    if (c->sink != -1)
        rq->sink = c->sink;
    if (c->positions != -1)
        rq->positions = c->positions;
    if (c->on_switch != -1)
        rq->prompt_switch = c->on_switch;
    if (c->sink_reset != -1)
        rq->sink_reset = c->sink_reset;
    if (c->first_timesteps) {
        rq->first_timesteps    = c->list;
        rq->nb_first_timesteps = c->nb_list;
    }
    if (rq->causal && !s->clips)
        rq->frames = 0;
}

/** An ordinary checkpoint that is to be run as a causal one is of a family
 *  that nobody told. */
static const char *preset_of(const WanContext *s)
{
    const char *name = s->sampling.preset;

    return s->blocks.causal == 1 && (!strcmp(name, "none") ||
           (!strcmp(name, "auto") && !strcmp(s->info->preset, "none")))
           ? "self-forcing" : name;
}

/** What the next clip is asked to be: the preset's numbers, then ours. */
static int make_request(const WanContext *s, WanRequest *rq)
{
    const Sampling *a = &s->sampling;
    int ret;

    wan_request_default(rq, s->model);
    if ((ret = wan_request_preset(rq, s->model, preset_of(s))) < 0)
        return map_error(ret);
    rq->prompt = s->prompt;
    if (s->negative_prompt)
        rq->negative_prompt = s->negative_prompt;
    rq->width  = s->w;
    rq->height = s->h;
    rq->frames = s->frames;
    if (a->steps != -1 || a->list)
        rq->steps = a->steps != -1 ? a->steps : a->nb_list;
    if (a->guidance != -1)
        rq->guidance = rq->guidance2 = a->guidance;
    if (a->guidance2 != -1)
        rq->guidance2 = a->guidance2;
    if (a->boundary != -1)
        rq->boundary = a->boundary;
    if (a->shift != -1)
        rq->shift = a->shift;
    if (a->sampler != -1)
        rq->sampler = a->sampler;
    if (a->warp != -1)
        rq->warp = a->warp;
    if (a->sigma_max != -1)
        rq->sigma_max = a->sigma_max;
    rq->timesteps    = a->list;
    rq->nb_timesteps = a->nb_list;
    rq->rng         = s->rng;
    rq->rng_threads = s->rng_threads;
    rq->seed        = s->seed + (s->redraws ? 0 : s->clip_index);
    rq->cache       = s->cache;
    rq->cache_table = s->cache_table;
    if (s->cache_threshold != -1)
        rq->cache_threshold = s->cache_threshold;
    if (s->cache_retain != -1)
        rq->cache_retain = s->cache_retain;
    if (s->cache_run != -1)
        rq->cache_run = s->cache_run;
    rq->preview     = s->preview;
    ask_blocks(s, rq);
    if (is_vace(s)) {
        rq->controls    = s->controls;
        rq->nb_controls = 1;
    } else if (s->video) {
        rq->video    = s->video;
        rq->nb_video = s->frames;
        rq->strength = s->strength;
    } else if (s->blank.width)
        rq->image = &s->blank;
    if (s->last_frame)
        rq->last_image = &s->last_image;
    return 0;
}

static int nearest_multiple(const WanModelInfo *info, int v)
{
    int mul = info->size_multiple;
    int up = v % mul >= mul - v % mul;

    return av_clip(v / mul + up, 1, info->size_max / mul) * mul;
}

/** Size for the image: its aspect as it is shown, the model's area. */
static int fit_image(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const AVFilterLink *in = ctx->inputs[0];
    AVRational sar = in->sample_aspect_ratio, shape = { in->w, in->h };
    WanRequest rq;
    int ret;

    if (sar.num < 1 || sar.den < 1)
        sar = av_make_q(1, 1);
    if (s->sar.num > 0)
        sar = av_div_q(sar, s->sar);
    if (av_cmp_q(sar, av_make_q(1, 1)))
        shape = av_mul_q(shape, sar);

    wan_request_default(&rq, s->model);
    ret = wan_request_fit(&rq, s->model, shape.num, shape.den);
    if (ret < 0)
        return map_error(ret);
    s->w = rq.width;
    s->h = rq.height;
    av_log(ctx, AV_LOG_INFO, "%dx%d for the input of %dx%d, sample aspect "
           "ratio %d:%d\n", s->w, s->h, in->w, in->h,
           in->sample_aspect_ratio.num, in->sample_aspect_ratio.den);
    return 0;
}

/** Can a clip go on in the size of the input? Says what could. */
static int check_extend_size(AVFilterContext *ctx, int level)
{
    const WanContext *s = ctx->priv;
    const AVFilterLink *inlink = ctx->inputs[0];
    const int mul = s->info->size_multiple;
    const int w = nearest_multiple(s->info, inlink->w);
    const int h = nearest_multiple(s->info, inlink->h);

    if (inlink->w % mul == 0 && inlink->h % mul == 0)
        return 0;
    av_log(ctx, level, "mode=extend: the input is %dx%d, width and height must "
           "be multiples of %d; the nearest is %dx%d: put the filter "
           "scale=%d:%d before it\n", inlink->w, inlink->h, mul, w, h, w, h);
    return AVERROR(EINVAL);
}

/**
 * The clip takes after the input: what was asked otherwise is refused. A size
 * that no clip can have is refused when the input ends in it: a graph is made
 * anew when the size changes in mid-stream, and another one may follow.
 */
static int settle_extend(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    AVFilterLink *inlink = ctx->inputs[0];
    const AVRational rate = WAN_LINK(inlink)->frame_rate;

    if (s->w && (s->w != inlink->w || s->h != inlink->h)) {
        av_log(ctx, AV_LOG_ERROR, "size=%dx%d: mode=extend keeps the size of "
               "its input, %dx%d; scale that\n", s->w, s->h, inlink->w,
               inlink->h);
        return AVERROR(EINVAL);
    }
    if (rate.num > 0 && rate.den > 0) {
        if (s->rate.num && av_cmp_q(s->rate, rate)) {
            av_log(ctx, AV_LOG_ERROR, "rate=%s: mode=extend keeps the frame "
                   "rate of its input, %d/%d; put the filter fps before it\n",
                   s->rate_str, rate.num, rate.den);
            return AVERROR(EINVAL);
        }
        s->rate = rate;
    }
    s->w   = inlink->w;
    s->h   = inlink->h;
    s->sar = inlink->sample_aspect_ratio;
    return 0;
}

/**
 * The output has the input's size, unless one was given: the model gets what is
 * next above that it can make.
 */
static int settle_redraw(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const AVFilterLink *in = ctx->inputs[0];
    const AVRational rate  = WAN_LINK(ctx->inputs[0])->frame_rate;
    const int mul = s->info->size_multiple, max = s->info->size_max / mul * mul;

    s->out_w = s->w ? s->w : in->w;
    s->out_h = s->h ? s->h : in->h;
    if (!s->w && (in->w > max || in->h > max)) {
        av_log(ctx, AV_LOG_ERROR, "input: %dx%d; sides up to %d can be: give "
               "option size, or scale it before\n", in->w, in->h, max);
        return AVERROR(EINVAL);
    }
    if (!s->w) {
        s->w = FFALIGN(in->w, mul);
        s->h = FFALIGN(in->h, mul);
    }
    s->cover = s->out_w != in->w || s->out_h != in->h;
    s->sar   = in->sample_aspect_ratio;
    if (rate.num > 0 && rate.den > 0)
        s->rate = rate;
    return 0;
}

/** Is there one scene that does not end? */
static int is_endless(const WanContext *s)
{
    return s->is_causal && !s->clips;
}

/** Fill in size, rate and frames, which the model decides if nobody did. */
static int settle_shape(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    int mul = s->info->size_multiple, ret;

    if (redraws(ctx) && (ret = settle_redraw(ctx)) < 0)
        return ret;
    if (from_image(ctx)) {
        ret = s->mode == MODE_EXTEND ? settle_extend(ctx) :
              !s->w                  ? fit_image(ctx)     : 0;
        if (ret < 0)
            return ret;
    }
    if (!s->w) {
        s->w = s->info->width;
        s->h = s->info->height;
    }
    if (from_image(ctx) && s->mode == MODE_EXTEND)
        s->odd_size = check_extend_size(ctx, AV_LOG_WARNING) < 0;
    else if (s->w % mul || s->h % mul) {
        av_log(ctx, AV_LOG_ERROR, "size=%dx%d: width and height must be "
               "multiples of %d; the nearest is %dx%d\n", s->w, s->h, mul,
               nearest_multiple(s->info, s->w),
               nearest_multiple(s->info, s->h));
        return AVERROR(EINVAL);
    }
    if ((s->w + 128LL) * (s->h + 128LL) >= INT_MAX / 8) {    /* imgutils.c */
        av_log(ctx, AV_LOG_ERROR, "size=%dx%d: too large\n", s->w, s->h);
        return AVERROR(EINVAL);
    }

    if (!s->rate.num)
        s->rate = av_make_q(s->info->rate_num, s->info->rate_den);

    if (is_endless(s) && (s->frames != -1 || s->duration_us != -1)) {
        av_log(ctx, AV_LOG_ERROR, "%s: with clips=0 a causal model makes one "
               "scene without end\n", s->frames != -1 ? "frames" : "duration");
        return AVERROR(EINVAL);
    }
    if (s->duration_us != -1) {
        int64_t n = av_rescale_q_rnd(s->duration_us, AV_TIME_BASE_Q,
                                     av_inv_q(s->rate), AV_ROUND_UP);

        if (n < 0 || n > INT_MAX - 4) {
            av_log(ctx, AV_LOG_ERROR, "duration=%g: too long\n",
                   s->duration_us / 1e6);
            return AVERROR(EINVAL);
        }
        s->frames = (n + 2) / 4 * 4 + 1;
    } else if (s->frames == -1)
        s->frames = s->info->frames;

    if (s->frames == 1 && from_image(ctx) &&
        (s->mode == MODE_EXTEND || s->clips != 1)) {
        av_log(ctx, AV_LOG_ERROR, "frames=1: a clip that goes on from a frame "
               "does not repeat it, so it must have 5 or more\n");
        return AVERROR(EINVAL);
    }
    return 0;
}

/**
 * Bytes of the frames that wait to be taken, of those held back, and of a window
 * and the frames that are collected for the next.
 */
static int64_t waiting_bytes(const WanContext *s)
{
    const int64_t frame = av_image_get_buffer_size(s->out_format, s->w, s->h,
                                                   32);
    const int64_t rgb   = 12LL * s->w * s->h;
    const int64_t input = s->redraws && s->video ? s->frames + 1LL
                                                 : s->tail_frames;

    return (ff_wan_worker_frames(s->ahead) + input) * FFMAX(frame, 0) +
           (s->join_frames + input) * rgb;
}

/** Frames of a causal model's block. */
static int block_frames(const WanContext *s)
{
    WanRequest rq;

    return make_request(s, &rq) < 0 ? 0 : 4 * rq.block;
}

/** How far the worker may run ahead, and how its clips are joined. */
static int settle_ahead(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const int64_t us = s->ahead_us != -1 ? s->ahead_us :
                       s->clips          ? 0           : AHEAD_US;
    int64_t n = av_rescale_q_rnd(us, AV_TIME_BASE_Q, av_inv_q(s->rate),
                                 AV_ROUND_UP);

    if (s->is_causal && s->ahead_us == -1)
        n = block_frames(s);
    if (n < 0 || n > INT_MAX / 2) {
        av_log(ctx, AV_LOG_ERROR, "ahead=%g: too long\n", us / 1e6);
        return AVERROR(EINVAL);
    }
    s->ahead = n;

    if (s->join == JOIN_CUT || s->clips == 1 || is_endless(s)) {
        s->join_frames = 0;
        return 0;
    }
    if (s->frames == 1) {
        av_log(ctx, AV_LOG_ERROR, "join=fade: a clip of one frame can't be "
               "mixed with another\n");
        return AVERROR(EINVAL);
    }
    if (s->join_frames == -1)
        s->join_frames = av_clip(lrint(av_q2d(s->rate) / 2), 1, s->frames / 2);
    if (s->join_frames < 1 || s->join_frames > s->frames / 2) {
        av_log(ctx, AV_LOG_ERROR, "join_frames=%d: a clip of %d frames can be "
               "mixed with the one before and the one after over %d at most\n",
               s->join_frames, s->frames, s->frames / 2);
        return AVERROR(EINVAL);
    }
    av_freep(&s->held);
    s->held = av_calloc(s->join_frames, sizeof(*s->held));
    return s->held ? 0 : AVERROR(ENOMEM);
}

/** How many frames a VACE model's window or clip has from the one before. */
static int settle_keep(AVFilterContext *ctx, int *n)
{
    const WanContext *s = ctx->priv;

    *n = s->keep != -1 ? s->keep : FFMIN(9, s->frames / 2 / 4 * 4 + 1);
    if (*n < s->frames || s->frames == 1)
        return 0;
    av_log(ctx, AV_LOG_ERROR, "keep=%d: a %s has %d frames, so %d at most can "
           "be kept\n", s->keep, job_name(ctx), s->frames, s->frames - 4);
    return AVERROR(EINVAL);
}

/** As many blank frames as the model gets, once it is clear that it takes so
 *  many. */
static int make_video(WanContext *s)
{
    WanRequest rq;
    int i, ret;

    av_freep(&s->video);
    s->control = make_control(s, NULL, NULL);
    if ((ret = make_request(s, &rq)) < 0)
        return ret;
    rq.image  = NULL;
    rq.width  = s->info->width;         /* ours may yet become another */
    rq.height = s->info->height;
    if ((ret = wan_request_check(&rq, s->model)) < 0)
        return map_error(ret);
    s->video = av_malloc_array(s->frames, sizeof(*s->video));
    if (!s->video)
        return AVERROR(ENOMEM);
    for (i = 0; i < s->frames; i++)
        s->video[i] = &s->blank;
    s->control = make_control(s, s->video, s->video);
    return 0;
}

/** How long a window is, and how much of it the next one has too. */
static int settle_windows(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    int ret;

    s->ahead       = 0;
    s->join_frames = FFMIN(FF_WAN_CHUNK, s->frames / 2);
    if (is_vace(s) && (ret = settle_keep(ctx, &s->join_frames)) < 0)
        return ret;
    if (s->frames == 1)
        s->join_frames = 0;             /* each frame is alone */
    if ((ret = make_image(&s->blank, &s->blank_pixels, s->w, s->h, 0)) < 0 ||
        (ret = make_video(s)) < 0)
        return ret;
    av_freep(&s->held);
    s->held = av_calloc(s->join_frames + 1, sizeof(*s->held));
    if (!s->held)
        return AVERROR(ENOMEM);
    return ff_wan_windows_init(&s->windows, s->frames, s->join_frames);
}

/**
 * Do the frames that wait fit beside the work? Where the work is in a card's
 * memory and the frames are not, nobody here knows how much there is for them.
 */
static int check_ahead(AVFilterContext *ctx, const WanPlan *plan)
{
    const WanContext *s = ctx->priv;
    const int64_t work  = FFMAX(plan->work_bytes, plan->least_bytes);

    if ((!s->ahead && !s->video) || (plan->least_bytes && !s->hwframes) ||
        waiting_bytes(s) <= plan->available_bytes - work)
        return 0;
    if (s->video) {
        av_log(ctx, AV_LOG_ERROR, "frames=%d: those of a window take %.3g GB, "
               "the work %.3g GB, and there are %.3g GB: make frames or size "
               "smaller\n", s->frames, waiting_bytes(s) / 1e9, work / 1e9,
               plan->available_bytes / 1e9);
        return AVERROR(ENOMEM);
    }
    av_log(ctx, AV_LOG_ERROR, "ahead=%g: %d frames that wait take %.3g GB, the "
           "work %.3g GB, and there are %.3g GB: make ahead smaller\n",
           s->ahead / av_q2d(s->rate), ff_wan_worker_frames(s->ahead),
           waiting_bytes(s) / 1e9, work / 1e9, plan->available_bytes / 1e9);
    return AVERROR(ENOMEM);
}

/** Open the model, which must be of the filter's kind. */
static int load_model(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const int64_t start = av_gettime_relative();
    WanModelParams params;
    WanRequest rq;
    int ret;

    if (interrupted(ctx))
        return AVERROR_EXIT;

    model_params(ctx, &params);
    wan_model_close(&s->model);
    s->opening = 1;
    ret = wan_model_open(&s->model, &params);
    s->opening = 0;
    if (ret < 0)
        return map_error(ret);
    s->info = wan_model_info(s->model);
    s->load_seconds = (av_gettime_relative() - start) / 1e6;
    if (s->manual)
        av_log(ctx, AV_LOG_INFO, "no model was given, so this is the small "
               "demo model %s; for others see %s\n", s->model_path, s->manual);

    if ((ret = make_request(s, &rq)) < 0)
        return ret;
    s->is_causal = rq.causal;
    if (s->is_causal && redraws(ctx)) {
        av_log(ctx, AV_LOG_ERROR, "model=%s: %s is run as a causal model, which "
               "draws no video again; causal=0:preset=none runs it as others "
               "are\n", s->model_path, s->info->name);
        return AVERROR(EINVAL);
    }
    if (s->info->task != WAN_TASK_TI2V && !is_vace(s) &&
        (s->info->task == WAN_TASK_T2V) == from_image(ctx) &&
        !(s->is_causal && from_image(ctx))) {
        av_log(ctx, AV_LOG_ERROR, "model=%s: %s makes video from %s: use the "
               "filter %s\n", s->model_path, s->info->name,
               from_image(ctx) ? "a prompt alone" : "an image and a prompt",
               from_image(ctx) ? "wan_t2v" : "wan_i2v");
        return AVERROR(EINVAL);
    }
    return 0;
}

/** What a checkpoint of the kind has no use for. */
static int check_control(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;
    const char *option  = s->mask               ? "mask"          :
                          s->reference_paths    ? "reference"     :
                          s->context_scale != 1 ? "context_scale" :
                          ctx->nb_inputs && s->keep != -1 ? "keep" : NULL;

    if (is_vace(s) && redraws(ctx) && s->strength != DEFAULT_STRENGTH) {
        av_log(ctx, AV_LOG_ERROR, "strength=%g: %s is a VACE checkpoint and "
               "takes none: it follows its video, and context_scale says how "
               "strongly\n", s->strength, s->info->name);
        return AVERROR(EINVAL);
    }
    if (is_vace(s) || !option)
        return 0;
    av_log(ctx, AV_LOG_ERROR, "%s: %s takes none, only a VACE checkpoint does\n",
           option, s->info->name);
    return AVERROR(EINVAL);
}

/** Frames that fill whole blocks of a causal model, of n at most; 0: not one
 *  block. */
static int whole_blocks(const WanRequest *rq, int64_t n)
{
    const int first = rq->first_block ? rq->first_block : rq->block;
    const int64_t groups = (n - 1) / 4 + 1;

    return n < 1 || groups < first ? 0 :
           1 + 4 * (first + (groups - first) / rq->block * rq->block - 1);
}

/** Blocks of a causal video that are not made. */
static int given_blocks(const WanRequest *rq)
{
    const int first = rq->first_block ? rq->first_block : rq->block;

    return !rq->causal  ? 0 :
           rq->nb_clip  ? 1 + ((rq->nb_clip - 1) / 4 + 1 - first) / rq->block :
           rq->image    ? 1 : 0;
}

/** How many of the frames seen last the next clip goes on from; 0: from one
 *  image. A VACE model keeps them in front of what it makes. */
static int tail_length(const WanContext *s, const WanRequest *rq)
{
    const int64_t n = FFMIN(s->nb_tail, s->tail_frames);

    if (!is_vace(s))
        return whole_blocks(rq, n);
    return s->tail_frames ? 1 + FFMAX(n - 1, 0) / 4 * 4 : 0;
}

/** How many of the input's last frames a clip goes on from: a causal one from as
 *  many as the window holds beside a block that is made. */
static int settle_tail(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    WanRequest rq;
    int ret;

    s->tail_frames = 0;
    if (!from_image(ctx))
        return 0;
    if (is_vace(s)) {
        if ((ret = settle_keep(ctx, &s->tail_frames)) < 0 ||
            (ret = make_video(s)) < 0)
            return ret;
    } else if (s->is_causal && s->mode == MODE_EXTEND) {
        if ((ret = make_request(s, &rq)) < 0)
            return ret;
        s->tail_frames = whole_blocks(&rq, 1 + 4LL *
                                      ((rq.window ? rq.window : TAIL_WINDOW) -
                                       rq.block - 1));
    }
    if (!s->tail_frames)
        return 0;
    av_freep(&s->tail);
    s->tail = av_calloc(s->tail_frames, sizeof(*s->tail));
    return s->tail ? 0 : AVERROR(ENOMEM);
}

/** The clip goes on from n images in place of one. Its frames are n, less the
 *  one that a clip goes on from otherwise, and its own. */
static void ask_tail(WanRequest *rq, const WanImage *const *image, int n)
{
    rq->image   = NULL;
    rq->clip    = image;
    rq->nb_clip = n;
    if (rq->frames)
        rq->frames += n - 1;
}

/** See that the request can be met, and say what it takes. */
static int check_plan(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const WanImage **blanks = NULL;
    char length[32] = "without end";
    WanRequest rq;
    WanPlan plan;
    WanJob *job = NULL;
    int ret, i;

    if ((ret = make_request(s, &rq)) < 0)
        return ret;
    if (s->tail_frames && rq.causal) {
        blanks = av_malloc_array(s->tail_frames, sizeof(*blanks));
        if (!blanks)
            return AVERROR(ENOMEM);
        for (i = 0; i < s->tail_frames; i++)
            blanks[i] = &s->blank;
        ask_tail(&rq, blanks, s->tail_frames);
    }
    if ((ret = wan_request_check(&rq, s->model)) < 0 ||
        (ret = wan_plan(&plan, s->model, &rq)) < 0) {
        av_free(blanks);
        return map_error(ret);
    }
    if (rq.causal)
        av_log(ctx, AV_LOG_INFO, "%s: causal, preset %s: blocks of %d latent "
               "frames, a window of %d with a sink of %d: %.3g GB of keys and "
               "values\n", s->info->name, rq.preset, plan.block, plan.window,
               rq.sink, plan.cache_bytes / 1e9);
    if (rq.image && rq.causal && rq.block > 1 && rq.first_block != 1)
        av_log(ctx, AV_LOG_INFO, "an image fills a block: it is encoded as %d "
               "frames, all but the last of which are left out\n",
               1 + 4 * ((rq.first_block ? rq.first_block : rq.block) - 1));
    if (rq.frames)
        snprintf(length, sizeof(length), "%d frames", rq.frames);
    av_log(ctx, AV_LOG_INFO, "%s: %dx%d, %s, %d steps: %"PRId64" "
           "tokens, needs %.3g GB of memory (weights %.3g, work %.3g, frames "
           "that wait %.3g) of %.3g GB\n", s->info->name, rq.width, rq.height,
           length, rq.steps, plan.tokens, (plan.weight_bytes +
           plan.work_bytes + waiting_bytes(s)) / 1e9, plan.weight_bytes / 1e9,
           plan.work_bytes / 1e9, waiting_bytes(s) / 1e9,
           plan.available_bytes / 1e9);

    /* libwan alone knows whether that fits; the memory itself is taken when
     * the clip starts, there may be other sources before us */
    s->quiet   = 1;
    s->opening = 1;
    ret = wan_job_open(&job, s->model, &rq);
    s->opening = 0;
    wan_job_close(&job);
    s->quiet   = 0;
    av_free(blanks);
    return ret < 0 ? map_error(ret) : check_ahead(ctx, &plan);
}

/**
 * Open the model and settle what is made with it, so that what is wrong fails
 * here, where every program gives an exit code for it.
 */
static int open_model(AVFilterContext *ctx, enum AVPixelFormat format)
{
    WanContext *s = ctx->priv;
    int ret;

    s->out_format = s->hwframes ? s->format : format;
    if ((ret = read_pipes(ctx)) < 0 || (ret = load_model(ctx)) < 0 ||
        (ret = check_control(ctx)) < 0 || (ret = open_references(ctx)) < 0 ||
        (from_image(ctx) && (ret = open_images(ctx)) < 0) ||
        (ret = settle_shape(ctx)) < 0)
        return ret;
    s->control     = make_control(s, NULL, NULL);
    s->controls[0] = &s->control;
    if ((ret = redraws(ctx) ? settle_windows(ctx) : settle_ahead(ctx)) < 0 ||
        (ret = settle_tail(ctx)) < 0)
        return ret;
    return s->odd_size ? 0 : check_plan(ctx);
}

/* ------------------------------------------------------------------ clips */

/* Callbacks of the worker, in its thread, but for log_progress(). */

static void log_progress(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const int64_t now = av_gettime_relative();
    const WanProgress *p;
    FFWanStatus status;
    char clip[32] = "";
    double each;

    if (now - s->last_line < LOG_US)
        return;
    ff_wan_worker_status(s->worker, &status);
    p = &status.progress;
    if (status.units == s->units_seen || p->done < 1)
        return;
    s->units_seen = status.units;
    s->last_line  = now;

    if (s->clips != 1 && !is_endless(s))
        snprintf(clip, sizeof(clip), "%s %d: ", job_name(ctx), status.clip);
    if (s->is_causal && p->stage >= WAN_STAGE_STEPS) {
        av_log(ctx, AV_LOG_INFO, "%sblock %"PRId64", steps %.3g s and decoding "
               "%.3g s so far\n", clip, p->block + 1, p->steps, p->decode);
        return;
    }
    switch (p->stage) {
    case WAN_STAGE_TEXT:
        av_log(ctx, AV_LOG_INFO, "%stext %d/%d, %.3g s\n", clip, p->done,
               p->total, p->text);
        break;
    case WAN_STAGE_IMAGE:
        av_log(ctx, AV_LOG_INFO, "%s%s %d/%d, %.3g s\n", clip,
               redraws(ctx) ? "video" : "image", p->done, p->total, p->image);
        break;
    case WAN_STAGE_STEPS:
        each = p->steps / p->done;
        av_log(ctx, AV_LOG_INFO, "%sstep %d/%d, %.3g s a step, %.0f s left\n",
               clip, p->done, p->total, each, each * (p->total - p->done));
        break;
    case WAN_STAGE_DECODE:
        each = p->decode / p->done;
        av_log(ctx, AV_LOG_INFO, "%sdecode %d/%d, %.3g s a chunk, %.0f s "
               "left\n", clip, p->done, p->total, each,
               each * (p->total - p->done));
        break;
    }
}

/** What a label says to those who read it. */
static void label_text(const WanContext *s, const char *type, char text[512])
{
    const unsigned v = wan_version();

    snprintf(text, 512, "AI-generated by libwan %u.%u.%u (%.200s); digital "
             "source type %s", v >> 16, v >> 8 & 255, v & 255, s->info->name,
             type);
}

/** Frames that follow are made with that prompt. */
static int label_prompt(WanContext *s, const char *prompt)
{
    struct AVSHA *sha = av_sha_alloc();
    uint8_t digest[32];
    char hex[2 * sizeof(digest) + 1];
    int i, ret;

    if (!sha)
        return AVERROR(ENOMEM);
    av_sha_init(sha, 256);
    av_sha_update(sha, prompt, strlen(prompt));
    av_sha_final(sha, digest);
    av_free(sha);
    for (i = 0; i < sizeof(digest); i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    if ((ret = av_dict_set(&s->meta, "lavfi.wan.prompt_digest", hex, 0)) < 0)
        return ret;
    return av_dict_set(&s->meta, "lavfi.wan.prompt", prompt, 0);
}

/** Make what all frames of a clip carry. */
static int make_labels(WanContext *s, const WanRequest *rq)
{
    static const char *const precision[] = {
        [WAN_PRECISION_F32] = "f32", [WAN_PRECISION_BF16] = "bf16",
        [WAN_PRECISION_INT8] = "int8",
    };
    const unsigned v = wan_version();
    char version[32], text[512];
    int ret;

    snprintf(version, sizeof(version), "%u.%u.%u", v >> 16, v >> 8 & 255,
             v & 255);

    av_dict_free(&s->meta);
    av_buffer_unref(&s->sei);
    if ((ret = av_dict_set(&s->meta, "lavfi.wan.version", version, 0)) < 0 ||
        (ret = av_dict_set(&s->meta, "lavfi.wan.model", s->info->name, 0)) < 0)
        return ret;
    if ((ret = av_dict_set_int(&s->meta, "lavfi.wan.clip", s->clip_index,
                               0)) < 0)
        return ret;
    snprintf(text, sizeof(text), "%g", rq->strength);
    if (rq->video && (ret = av_dict_set(&s->meta, "lavfi.wan.strength", text,
                                        0)) < 0)
        return ret;
    snprintf(text, sizeof(text), "%"PRIu64, rq->seed);
    if ((ret = av_dict_set(&s->meta, "lavfi.wan.seed", text, 0)) < 0 ||
        (ret = av_dict_set_int(&s->meta, "lavfi.wan.steps", rq->steps, 0)) < 0)
        return ret;
    if ((ret = av_dict_set(&s->meta, "lavfi.wan.precision",
                           precision[s->info->precision], 0)) < 0)
        return ret;
    snprintf(text, sizeof(text), "%g", rq->guidance);
    if ((ret = av_dict_set(&s->meta, "lavfi.wan.guidance", text, 0)) < 0)
        return ret;
    snprintf(text, sizeof(text), "%g", rq->guidance2);
    if (s->info->boundary > 0 &&
        (ret = av_dict_set(&s->meta, "lavfi.wan.guidance2", text, 0)) < 0)
        return ret;
    snprintf(text, sizeof(text), "%g", rq->boundary);
    if (s->info->boundary > 0 &&
        (ret = av_dict_set(&s->meta, "lavfi.wan.boundary", text, 0)) < 0)
        return ret;
    if ((ret = label_prompt(s, rq->prompt)) < 0)
        return ret;
    if (!s->label)
        return 0;

    if ((ret = av_dict_set(&s->meta, "lavfi.wan.generated", "1", 0)) < 0 ||
        (ret = av_dict_set(&s->meta, "lavfi.wan.digital_source_type",
                           SOURCE_TYPE, 0)) < 0 ||
        (ret = av_dict_set(&s->meta, "xmp", XMP, 0)) < 0)
        return ret;
    label_text(s, SOURCE_TYPE, text);
    s->sei = av_buffer_alloc(sizeof(label_uuid) + strlen(text));
    if (!s->sei)
        return AVERROR(ENOMEM);
    memcpy(s->sei->data, label_uuid, sizeof(label_uuid));
    memcpy(s->sei->data + sizeof(label_uuid), text, strlen(text));
    return 0;
}

static int more_clips(const WanContext *s)
{
    if (s->redraws)
        return !s->window.last;
    return !s->clips || s->clip_index < s->clips;
}

/** What the next clip is asked to be, with texts and a list of its own. */
static int take_settings(WanContext *s, WanRequest *rq, char **prompt,
                         char **negative, double **list)
{
    int ret;

    pthread_mutex_lock(&s->settings);
    ret = make_request(s, rq);
    *prompt = av_strdup(s->prompt);
    if (rq->negative_prompt)
        *negative = av_strdup(rq->negative_prompt);
    if (rq->timesteps)
        *list = av_memdup(rq->timesteps, rq->nb_timesteps * sizeof(**list));
    if (!*prompt || (rq->negative_prompt && !*negative) ||
        (rq->timesteps && !*list))
        ret = AVERROR(ENOMEM);
    rq->prompt          = *prompt;
    rq->negative_prompt = *negative;
    rq->timesteps       = *list;
    s->clip_index++;
    pthread_mutex_unlock(&s->settings);
    return ret;
}

/** The window that was handed over. @return 0, or AVERROR_EOF: there is none */
static int take_window(WanContext *s)
{
    pthread_mutex_lock(&s->settings);
    ff_wan_window_free(&s->window);
    FFSWAP(FFWanWindow, s->window, s->handed);
    pthread_mutex_unlock(&s->settings);
    return s->window.nb ? 0 : AVERROR_EOF;
}

/** The images of a window as the model gets them; what the input does not fill
 *  is its last frame. */
typedef struct Redraw {
    AVFrame **frame;                    ///< [window.nb], of the model's size,
                                        ///< or NULL
    WanImage *image;                    ///< of them, or of what stands for them
    const WanImage **video;             ///< [frames]
    AVFrame **mask;                     ///< likewise
    WanImage *mask_image;
    const WanImage **masks;
    WanImage white;                     ///< a mask that keeps nothing
    uint8_t *white_pixels;
    WanControl control;
    const WanControl *controls[1];
} Redraw;

static void free_redraw(const WanContext *s, Redraw *r)
{
    int i;

    for (i = 0; r->frame && i < s->window.nb; i++)
        av_frame_free(&r->frame[i]);
    for (i = 0; r->mask && i < s->window.nb; i++)
        av_frame_free(&r->mask[i]);
    av_freep(&r->frame);
    av_freep(&r->image);
    av_freep(&r->video);
    av_freep(&r->mask);
    av_freep(&r->mask_image);
    av_freep(&r->masks);
    av_freep(&r->white_pixels);
}

/** A frame of the input as RGB of the model's size. */
static int redraw_input(AVFilterContext *ctx, AVFrame **out, const AVFrame *in)
{
    WanContext *s = ctx->priv;
    AVFrame *rgb  = NULL;
    int ret = ff_wan_to_rgb(ctx, &rgb, in, "input", &s->warned);

    if (ret < 0)
        return ret;
    if (rgb->width != s->w || rgb->height != s->h)
        ret = ff_wan_resize(out, rgb, s->w, s->h, s->cover);
    else
        FFSWAP(AVFrame *, *out, rgb);
    av_frame_free(&rgb);
    return ret;
}

/** Keep of a frame what its output will have, but no pixels. */
static int drop_pixels(AVFrame **frame)
{
    AVFrame *props = av_frame_alloc();
    int ret;

    if (!props)
        return AVERROR(ENOMEM);
    props->format = (*frame)->format;
    ret = av_frame_copy_props(props, *frame);
    av_frame_free(frame);
    *frame = props;
    return ret;
}

/** Frame i of a window and its mask. With VACE what the last window had too is as
 *  that made it, and kept; a frame without a mask is made anew. */
static int redraw_frame(AVFilterContext *ctx, Redraw *r, int i)
{
    WanContext *s  = ctx->priv;
    FFWanInput *in = &s->window.in[i];
    int ret = 0;

    if (is_vace(s) && i < s->window.overlap) {
        ff_wan_describe(&r->image[i], s->held[i]);
        r->mask_image[i] = s->blank;
        return drop_pixels(&in->frame);
    }
    r->mask_image[i] = r->white;
    if (in->mask && (ret = ff_wan_to_mask(ctx, &r->mask[i], in->mask, in->frame,
                                          s->w, s->h, s->cover, "mask")) >= 0)
        ff_wan_describe(&r->mask_image[i], r->mask[i]);
    if (ret >= 0)
        ret = redraw_input(ctx, &r->frame[i], in->frame);
    if (ret >= 0)
        ff_wan_describe(&r->image[i], r->frame[i]);
    return ret < 0 ? ret : drop_pixels(&in->frame);
}

static int begin_window(AVFilterContext *ctx, Redraw *r, WanRequest *rq)
{
    WanContext *s = ctx->priv;
    const int nb  = s->window.nb;
    int i, ret;

    r->frame      = av_calloc(nb, sizeof(*r->frame));
    r->image      = av_calloc(nb, sizeof(*r->image));
    r->video      = av_calloc(s->frames, sizeof(*r->video));
    r->mask       = av_calloc(nb, sizeof(*r->mask));
    r->mask_image = av_calloc(nb, sizeof(*r->mask_image));
    r->masks      = av_calloc(s->frames, sizeof(*r->masks));
    if (!r->frame || !r->image || !r->video || !r->mask || !r->mask_image ||
        !r->masks)
        return AVERROR(ENOMEM);
    if ((ret = make_image(&r->white, &r->white_pixels, s->w, s->h, 255)) < 0)
        return ret;
    for (i = 0; i < nb; i++) {
        if (ff_wan_worker_pause(s->worker, 0))
            return AVERROR_EXIT;
        if ((ret = redraw_frame(ctx, r, i)) < 0)
            return ret;
    }
    for (i = 0; i < s->frames; i++) {
        r->video[i] = &r->image[FFMIN(i, nb - 1)];
        r->masks[i] = &r->mask_image[FFMIN(i, nb - 1)];
    }
    r->control     = make_control(s, r->video, r->masks);
    r->controls[0] = &r->control;
    if (is_vace(s))
        rq->controls = r->controls;
    else
        rq->video = r->video;
    return 0;
}

/** Frames that a clip goes on from, as libwan reads them. */
typedef struct Tail {
    int nb;
    AVFrame **frame;
    WanImage *image;
    const WanImage **list;
    /* With VACE they are a clip's first ones, and the list has all of it. */
    const WanImage **mask;
    void *row[3];                       ///< of these: all rows are one
    WanImage unknown, kept, made;
    WanControl control;
    const WanControl *controls[1];
} Tail;

static void free_tail(Tail *t)
{
    int i;

    for (i = 0; t->frame && i < t->nb; i++)
        av_frame_free(&t->frame[i]);
    for (i = 0; i < FF_ARRAY_ELEMS(t->row); i++)
        av_freep(&t->row[i]);
    av_freep(&t->frame);
    av_freep(&t->image);
    av_freep(&t->list);
    av_freep(&t->mask);
}

/** A VACE model's clip: those frames are kept, what follows is made. */
static int ask_kept(WanContext *s, Tail *t, WanRequest *rq)
{
    const int w = t->image[0].width, h = t->image[0].height;
    float *grey = t->row[0] = av_malloc_array(w, sizeof(*grey));
    uint8_t *black = t->row[1] = av_calloc(w, 3);
    uint8_t *white = t->row[2] = av_malloc_array(w, 3);
    int i;

    t->mask = av_malloc_array(s->frames, sizeof(*t->mask));
    if (!grey || !black || !white || !t->mask)
        return AVERROR(ENOMEM);
    for (i = 0; i < w; i++)
        grey[i] = 0.5;
    memset(white, 255, 3LL * w);
    t->unknown = (WanImage) {
        .size = sizeof(WanImage), .format = WAN_PIX_GBRPF32, .width = w,
        .height = h, .data = { grey, grey, grey },
    };
    t->kept = (WanImage) {
        .size = sizeof(WanImage), .format = WAN_PIX_RGB24, .width = w,
        .height = h, .data = { black },
    };
    t->made         = t->kept;
    t->made.data[0] = white;
    for (i = 0; i < s->frames; i++) {
        if (i >= t->nb)
            t->list[i] = &t->unknown;
        t->mask[i] = i < t->nb ? &t->kept : &t->made;
    }
    t->control     = make_control(s, t->list, t->mask);
    t->controls[0] = &t->control;
    rq->controls   = t->controls;
    return 0;
}

/** Of the frames seen last as many as tail_length() says; of an image alone
 *  that. free_tail() in any case, when the job was opened. */
static int read_tail(AVFilterContext *ctx, Tail *t, WanRequest *rq)
{
    WanContext *s = ctx->priv;
    int i, ret;

    t->nb    = tail_length(s, rq);
    t->frame = av_calloc(t->nb, sizeof(*t->frame));
    t->image = av_calloc(t->nb, sizeof(*t->image));
    t->list  = av_calloc(is_vace(s) ? s->frames : t->nb, sizeof(*t->list));
    if (!t->frame || !t->image || !t->list)
        return AVERROR(ENOMEM);
    for (i = 0; i < t->nb; i++) {
        const int64_t at = s->nb_tail - t->nb + i;

        ret = ff_wan_to_rgb(ctx, &t->frame[i],
                            s->nb_tail ? s->tail[at % s->tail_frames] : s->start,
                            "input", &s->warned);
        if (ret < 0)
            return ret;
        ff_wan_describe(&t->image[i], t->frame[i]);
        t->list[i] = &t->image[i];
    }
    av_log(ctx, AV_LOG_VERBOSE, "clip %d goes on from %d frames\n",
           s->clip_index, t->nb);
    if (is_vace(s))
        return ask_kept(s, t, rq);
    ask_tail(rq, t->list, t->nb);
    return 0;
}

/** What is made from here on is that block, with that prompt. */
static int set_block(WanContext *s, int64_t block, const char *prompt)
{
    char *own = av_strdup(prompt);

    if (!own)
        return AVERROR(ENOMEM);
    av_free(s->block_prompt);
    s->block_prompt = own;
    s->block        = block;
    return 0;
}

/** Another block: with the prompt as it is now. */
static int turn(void *opaque, WanJob *job)
{
    AVFilterContext *ctx = opaque;
    WanContext *s = ctx->priv;
    char *prompt;
    int ret = 0;

    if (s->reload)
        reload_text(ctx, &s->watch[0], "prompt", &s->prompt, s->promptfile);
    pthread_mutex_lock(&s->settings);
    prompt = av_strdup(s->prompt);
    pthread_mutex_unlock(&s->settings);
    if (!prompt)
        return AVERROR(ENOMEM);
    if (strcmp(prompt, s->block_prompt)) {
        ret = wan_job_prompt(job, prompt);
        if (ret < 0)
            ret = map_error(ret);
        else
            ret = label_prompt(s, prompt);
        if (ret >= 0)
            av_log(ctx, AV_LOG_INFO, "block %"PRId64": another prompt\n",
                   s->block + 2);
    }
    if (ret >= 0)
        ret = set_block(s, s->block + 1, prompt);
    av_free(prompt);
    return ret;
}

static int begin_clip(void *opaque, WanJob **job)
{
    AVFilterContext *ctx = opaque;
    WanContext *s = ctx->priv;
    char *prompt = NULL, *negative = NULL, strength[32] = "";
    double *list = NULL;
    AVFrame *frame = NULL;
    Redraw redraw = { 0 };
    WanImage image;
    WanRequest rq;
    Tail tail = { 0 };
    int ret;

    if (redraws(ctx) ? take_window(s) < 0 : !more_clips(s))
        return AVERROR_EOF;
    if (s->reload) {
        reload_text(ctx, &s->watch[0], "prompt", &s->prompt, s->promptfile);
        reload_text(ctx, &s->watch[1], "negative_prompt", &s->negative_prompt,
                    s->negative_promptfile);
    }
    if ((ret = take_settings(s, &rq, &prompt, &negative, &list)) < 0)
        goto end;
    if (rq.video)
        snprintf(strength, sizeof(strength), ", strength %g", rq.strength);
    av_log(ctx, AV_LOG_INFO, "%s %d: seed %"PRIu64", %d steps of %s, "
           "guidance %g, shift %g%s%s%s\n", job_name(ctx), s->clip_index,
           rq.seed, rq.steps, wan_sampler_name(rq.sampler), rq.guidance,
           rq.shift, strcmp(rq.preset, "none") ? ", preset " : "",
           strcmp(rq.preset, "none") ? rq.preset : "", strength);

    if ((ret = make_labels(s, &rq)) < 0 ||
        (ret = set_block(s, 0, rq.prompt)) < 0)
        goto end;
    s->clip_start = av_gettime_relative();
    s->nb_read = s->nb_given = 0;
    if (tail_length(s, &rq) > 0) {
        if ((ret = read_tail(ctx, &tail, &rq)) < 0)
            goto end;
        s->skip = s->mode == MODE_EXTEND || s->clip_index > 1 ? tail.nb : 0;
    } else if (from_image(ctx)) {
        /* what goes on from a frame does not show it again */
        s->skip = s->mode == MODE_EXTEND || s->clip_index > 1;
        ret = ff_wan_to_rgb(ctx, &frame, s->start, "input", &s->warned);
        if (ret < 0)
            goto end;
        ff_wan_describe(&image, frame);
        rq.image = &image;
    }
    s->block = -given_blocks(&rq);
    if (redraws(ctx) && (ret = begin_window(ctx, &redraw, &rq)) < 0)
        goto end;
    ret = wan_job_open(job, s->model, &rq);
    if (ret < 0)
        ret = map_error(ret);
end:
    free_redraw(s, &redraw);
    free_tail(&tail);
    av_frame_free(&frame);
    av_free(prompt);
    av_free(negative);
    av_free(list);
    return ret;
}

static void end_clip(void *opaque, const WanProgress *p)
{
    AVFilterContext *ctx = opaque;
    const WanContext *s = ctx->priv;
    double load = s->clip_index == 1 ? s->load_seconds : 0;
    char image[32] = "";

    if (ctx->nb_inputs)
        snprintf(image, sizeof(image), "%s %.3g, ",
                 redraws(ctx) ? "video" : "image", p->image);
    av_log(ctx, AV_LOG_INFO, "%s %d: %d frames in %.3g s: load %.3g, text "
           "%.3g, %ssteps %.3g, decode %.3g\n", job_name(ctx), s->clip_index,
           s->nb_given,
           load + (av_gettime_relative() - s->clip_start) / 1e6, load, p->text,
           image, p->steps, p->decode);
}

/* ----------------------------------------------------------------- frames */

static int64_t get_duration(const AVFrame *frame)
{
#if LAVU_FROM(57, 30)                   /* 6.0 */
    return frame->duration;
#else
    return frame->pkt_duration;
#endif
}

static void set_duration(AVFrame *frame, int64_t duration)
{
#if LAVU_FROM(57, 30)                   /* 6.0 */
    frame->duration = duration;
#else
    frame->pkt_duration = duration;
#endif
}

/** All properties of a frame but its time; its colours are set. */
static int set_props(WanContext *s, AVFrame *frame)
{
    int ret;

    frame->pict_type = AV_PICTURE_TYPE_I;
#if LAVU_FROM(58, 7)                    /* 6.1 */
    frame->flags    |= AV_FRAME_FLAG_KEY;
#else
    frame->key_frame = 1;
#endif
    frame->sample_aspect_ratio = s->sar;

    if (s->sei) {
        AVBufferRef *sei = av_buffer_ref(s->sei);

        if (!sei || !av_frame_new_side_data_from_buf(frame,
                        AV_FRAME_DATA_SEI_UNREGISTERED, sei)) {
            av_buffer_unref(&sei);
            return AVERROR(ENOMEM);
        }
    }
    ret = av_dict_copy(&frame->metadata, s->meta, 0);
    if (ret >= 0 && s->is_causal)
        ret = av_dict_set_int(&frame->metadata, "lavfi.wan.block",
                              FFMAX(s->block, 0), 0);
    return ret;
}

/** A frame of the output, with its colours and without pixels. */
static int output_frame(AVFilterContext *ctx, AVFrame **out)
{
    const WanContext *s = ctx->priv;
    int ret;

    if (!s->hw_frames) {
        ret = ff_wan_new_frame(out, s->out_format, s->w, s->h);
    } else {
        *out = av_frame_alloc();
        if (!*out)
            return AVERROR(ENOMEM);
        ret = av_hwframe_get_buffer(s->hw_frames, *out, 0);
        if (ret >= 0)
            ret = wait_for_readers(ctx);
    }
    if (ret < 0)
        av_frame_free(out);
    else
        ff_wan_set_colours(*out);
    return ret;
}

/** gbrpf32 as a frame of the output. */
static int output_of(AVFilterContext *ctx, AVFrame **out, const AVFrame *rgb)
{
    const WanContext *s = ctx->priv;
    AVFrame *host;
    int ret = ff_wan_new_frame(&host, s->out_format, s->w, s->h);

    *out = NULL;
    if (ret < 0)
        return ret;
    ff_wan_set_colours(host);
    ret = ff_wan_store_rgb(ctx, host, rgb, "output");
    if (ret >= 0 && s->hw_frames) {
        ret = output_frame(ctx, out);
        if (ret >= 0)
            ret = av_hwframe_transfer_data(*out, host, 0);
        if (ret >= 0)                   /* it is queued; host goes now */
            ret = wait_for_readers(ctx);
    } else if (ret >= 0)
        FFSWAP(AVFrame *, *out, host);
    av_frame_free(&host);
    if (ret < 0)
        av_frame_free(out);
    return ret;
}

/**
 * wan_job_frame() into a frame.
 *
 * @return 1; 0: none is finished; AVERROR_EOF: that was the clip; an AVERROR
 */
static int read_into(WanContext *s, WanJob *job, AVFrame *frame)
{
    WanImage image;
    int ret;

    ff_wan_describe(&image, frame);
    image.dither = s->dither;
    ret = wan_job_frame(job, &image);
    return ret >= 0 ? 1 : ret == WAN_ERR(EAGAIN) ? 0 : map_error(ret);
}

/* The readers that follow return as read_into(). */

/** Read a frame of the job with the format and the tags of the input. */
static int read_as_input(AVFilterContext *ctx, WanJob *job, AVFrame *frame)
{
    WanContext *s = ctx->priv;
    int ret;

    frame->color_primaries = s->start->color_primaries;
    frame->color_trc       = s->start->color_trc;
    frame->color_range     = s->start->color_range;
    frame->colorspace      = s->start->colorspace;
    frame->chroma_location = s->start->chroma_location;
    if (ff_wan_as_made(frame))
        return read_into(s, job, frame);
    if (!s->rgb) {
        if (s->dither)
            av_log(ctx, AV_LOG_WARNING, "dither: not in %s with the colours of "
                   "the input, which is rounded\n",
                   av_get_pix_fmt_name(frame->format));
        if ((ret = ff_wan_new_frame(&s->rgb, AV_PIX_FMT_GBRPF32, frame->width,
                                    frame->height)) < 0)
            return ret;
    }
    ret = read_into(s, job, s->rgb);
    if (ret <= 0)
        return ret;
    ret = ff_wan_store_rgb(ctx, frame, s->rgb, "input");
    return ret < 0 ? ret : 1;
}

/** Read the next frame of the job into a frame of the output. */
static int read_frame(AVFilterContext *ctx, WanJob *job, AVFrame **out)
{
    WanContext *s = ctx->priv;
    int ret = output_frame(ctx, out);

    if (ret < 0)
        return ret;
    if (from_image(ctx) && s->mode == MODE_EXTEND)
        ret = read_as_input(ctx, job, *out);
    else
        ret = read_into(s, job, *out);
    if (ret <= 0)
        av_frame_free(out);
    return ret;
}

/** Read the next frame of the job as gbrpf32. */
static int read_rgb(AVFilterContext *ctx, WanJob *job, AVFrame **out)
{
    WanContext *s = ctx->priv;
    int ret = ff_wan_new_frame(out, AV_PIX_FMT_GBRPF32, s->w, s->h);

    if (ret >= 0)
        ret = read_into(s, job, *out);
    if (ret <= 0)
        av_frame_free(out);
    return ret;
}

/** Read a frame of a clip's start and mix it with the end of the last one. */
static int read_mixed(AVFilterContext *ctx, WanJob *job, AVFrame **out)
{
    WanContext *s = ctx->priv;
    AVFrame *rgb = NULL;
    int ret = read_rgb(ctx, job, &rgb);

    *out = NULL;
    if (ret <= 0)
        return ret;
    ff_wan_mix(rgb, s->held[s->held_pos],
               (s->held_pos + 1.f) / (s->nb_held + 1));
    av_frame_free(&s->held[s->held_pos++]);
    ret = output_of(ctx, out, rgb);
    av_frame_free(&rgb);
    return ret < 0 ? ret : 1;
}

static int read_preview(void *opaque, WanJob *job, const WanProgress *progress,
                        AVFrame **out)
{
    AVFilterContext *ctx = opaque;
    WanContext *s = ctx->priv;
    WanImage image;
    int ret = ff_wan_new_frame(out, AV_PIX_FMT_RGB24, s->w / 4, s->h / 4);

    if (ret < 0)
        return ret;
    ff_wan_describe(&image, *out);
    ret = wan_job_preview(job, &image);
    if (ret < 0)
        ret = map_error(ret);
    else
        ret = set_props(s, *out);
    if (ret >= 0)
        ret = av_dict_set_int(&(*out)->metadata, "lavfi.wan.step",
                              progress->done, 0);
    ff_wan_set_colours(*out);
    if (progress->done == progress->total && !more_clips(s))
        (*out)->opaque = s;             /* the last of all */
    if (ret < 0)
        av_frame_free(out);
    return ret;
}

/** The next clip goes on from this frame, unless another one follows. */
static int keep_start(WanContext *s, const AVFrame *frame)
{
    AVFrame **place;

    av_frame_free(&s->start);
    s->start = av_frame_clone(frame);
    if (!s->start)
        return AVERROR(ENOMEM);
    if (!s->tail_frames)
        return 0;
    place = &s->tail[s->nb_tail++ % s->tail_frames];
    av_frame_free(place);
    *place = av_frame_clone(frame);
    return *place ? 0 : AVERROR(ENOMEM);
}

/** How a frame of the running clip is read, by its place in the clip. */
static int read_next(AVFilterContext *ctx, WanJob *job, AVFrame **frame,
                     int *hold)
{
    WanContext *s = ctx->priv;

    *hold = s->join_frames && s->nb_read >= s->frames - s->join_frames &&
            more_clips(s);
    if (*hold)
        return read_rgb(ctx, job, frame);
    if (s->held_pos < s->nb_held)
        return read_mixed(ctx, job, frame);
    return read_frame(ctx, job, frame);
}

static int read_clip(void *opaque, WanJob *job, AVFrame **out)
{
    AVFilterContext *ctx = opaque;
    WanContext *s = ctx->priv;
    AVFrame *frame = NULL;
    int hold, ret;

    for (;;) {
        ret = read_next(ctx, job, &frame, &hold);
        if (ret <= 0)
            return ret;
        s->nb_read++;
        if (s->skip) {
            s->skip--;
            av_frame_free(&frame);
            continue;
        }
        if ((ret = set_props(s, frame)) < 0 ||
            (from_image(ctx) && (ret = keep_start(s, frame)) < 0)) {
            av_frame_free(&frame);
            return ret;
        }
        if (!hold)
            break;
        if (s->held_pos == s->nb_held)
            s->held_pos = s->nb_held = 0;
        s->held[s->nb_held++] = frame;
    }
    s->nb_given++;
    *out = frame;
    return 1;
}

/** What a frame of the input becomes; all else of it stays. */
static int redrawn(AVFilterContext *ctx, AVFrame **out, const AVFrame *rgb,
                   const AVFrame *in)
{
    /* they speak of pixels that are gone */
    static const enum AVFrameSideDataType gone[] = {
        AV_FRAME_DATA_MOTION_VECTORS, AV_FRAME_DATA_FILM_GRAIN_PARAMS,
        AV_FRAME_DATA_VIDEO_ENC_PARAMS,
    };
    WanContext *s = ctx->priv;
    AVFrame *sized = NULL;
    int i, ret = 0;

    *out = NULL;
    if (rgb->width != s->out_w || rgb->height != s->out_h) {
        if ((ret = ff_wan_resize(&sized, rgb, s->out_w, s->out_h, 0)) < 0)
            return ret;
        rgb = sized;
    }
    if ((ret = ff_wan_new_frame(out, s->out_format, s->out_w, s->out_h)) < 0 ||
        (ret = av_frame_copy_props(*out, in)) < 0 ||
        (ret = ff_wan_store_rgb(ctx, *out, rgb, "input")) < 0)
        goto end;
    for (i = 0; i < FF_ARRAY_ELEMS(gone); i++)
        av_frame_remove_side_data(*out, gone[i]);
    (*out)->flags &= ~AV_FRAME_FLAG_CORRUPT;
    (*out)->decode_error_flags = 0;
    ret = set_props(s, *out);
    (*out)->sample_aspect_ratio = in->sample_aspect_ratio;
end:
    av_frame_free(&sized);
    if (ret < 0)
        av_frame_free(out);
    return ret;
}

/**
 * What becomes of frame i of a window that shares frames with another one: it is
 * mixed with what the last one made of it and held for the next, or with VACE,
 * which kept them, made one of them.
 *
 * @return 1: it is to leave; 0: not, *rgb is taken
 */
static int share(WanContext *s, AVFrame **rgb, int i)
{
    const FFWanWindow *w = &s->window;
    const int held = w->last ? -1 : i - (w->nb - s->join_frames);
    const int done = is_vace(s) && i < w->overlap;

    if (done)                           /* as it left, not as it came out */
        FFSWAP(AVFrame *, *rgb, s->held[i]);
    else if (i < w->overlap)
        ff_wan_mix(*rgb, s->held[i], (i + 1.f) / (w->overlap + 1));
    if (i < w->overlap)
        av_frame_free(&s->held[i]);
    if (held >= 0 && (done || !is_vace(s)))
        FFSWAP(AVFrame *, s->held[held], *rgb);
    else if (held >= 0 && !(s->held[held] = av_frame_clone(*rgb)))
        return AVERROR(ENOMEM);
    if (*rgb && done)
        av_frame_free(rgb);
    return !!*rgb;
}

/** As read_clip(). */
static int read_window(void *opaque, WanJob *job, AVFrame **out)
{
    AVFilterContext *ctx = opaque;
    WanContext *s = ctx->priv;
    const FFWanWindow *w = &s->window;
    AVFrame *rgb;
    int i, ret;

    for (;;) {
        if (s->nb_read == w->nb)        /* the rest was made up */
            return AVERROR_EOF;
        ret = read_rgb(ctx, job, &rgb);
        if (ret <= 0)
            return ret;
        i   = s->nb_read++;
        ret = share(s, &rgb, i);
        if (ret > 0)
            break;
        if (ret < 0) {
            av_frame_free(&rgb);
            return ret;
        }
    }
    ret = redrawn(ctx, out, rgb, w->in[i].frame);
    av_frame_free(&rgb);
    s->nb_given += ret >= 0;
    return ret < 0 ? ret : 1;
}

static int flush_window(void *opaque, AVFrame **frame)
{
    return 0;                           /* it is not whole without the next */
}

/** The end of a clip that no other one follows. */
static int flush_held(void *opaque, AVFrame **frame)
{
    AVFilterContext *ctx = opaque;
    WanContext *s = ctx->priv;
    int ret;

    if (s->held_pos == s->nb_held)
        return 0;
    ret = output_of(ctx, frame, s->held[s->held_pos]);
    if (ret >= 0)
        ret = av_frame_copy_props(*frame, s->held[s->held_pos]);
    if (ret < 0) {
        av_frame_free(frame);
        return 0;
    }
    ff_wan_set_colours(*frame);         /* gbrpf32 has others */
    av_frame_free(&s->held[s->held_pos++]);
    return 1;
}

/* ------------------------------------------------------------ the graph's */

/** Free all but the options; after it no clip can follow. */
static void shut_down(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    int i;

    ff_wan_worker_stop(&s->worker);
    wan_model_close(&s->model);
    s->info = NULL;
    av_dict_free(&s->meta);
    av_dict_free(&s->tags);
    av_buffer_unref(&s->sei);
    av_buffer_unref(&s->hw_frames);
    av_frame_free(&s->start);
    av_frame_free(&s->rgb);
    av_frame_free(&s->shown);
    av_frame_free(&s->last_frame);
    av_freep(&s->blank_pixels);
    for (; s->held_pos < s->nb_held; s->held_pos++)
        av_frame_free(&s->held[s->held_pos]);
    for (i = 0; s->redraws && s->held && i < s->join_frames; i++)
        av_frame_free(&s->held[i]);
    av_freep(&s->held);
    av_freep(&s->video);
    ff_wan_windows_free(&s->windows);
    ff_wan_window_free(&s->handed);
    ff_wan_window_free(&s->window);
    av_frame_free(&s->unmasked);
    av_frame_free(&s->mask_now);
    av_frame_free(&s->mask_next);
    free_references(s);
    for (i = 0; s->tail && i < s->tail_frames; i++)
        av_frame_free(&s->tail[i]);
    av_freep(&s->tail);
    s->nb_tail = 0;
    av_freep(&s->block_prompt);
    for (i = 0; i < FF_ARRAY_ELEMS(s->watch); i++)
        av_freep(&s->watch[i].seen);
}

static int start_worker(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const FFWanMaker maker = {
        .opaque    = ctx,
        .begin     = begin_clip,
        .read      = redraws(ctx) ? read_window : read_clip,
        .end       = end_clip,
        .flush     = redraws(ctx) ? flush_window : flush_held,
        .map_error = map_error,
        .preview   = s->preview ? read_preview : NULL,
        .turn      = s->is_causal ? turn : NULL,
    };
    int ret;

    if (!s->seed_given) {
        s->seed = av_get_random_seed();
        s->seed_given = 1;
    }
    ret = ff_wan_worker_start(&s->worker, &maker, s->ahead, s->join_frames);
    if (ret < 0)
        av_log(ctx, AV_LOG_ERROR, "cannot start a thread\n");
    return ret;
}

/**
 * What a file says of itself that has frames of this filter. Its first one may
 * be the slate or of the input, so all that leave have it, not only those that
 * are generated. The prefix is what the ffmpeg tool looks for.
 */
static int make_tags(WanContext *s)
{
    const char *type = s->mode == MODE_EXTEND || s->redraws ? COMPOSITE_TYPE
                                                            : SOURCE_TYPE;
    char text[512];
    int ret;

    if (!s->label)
        return 0;
    label_text(s, type, text);
    if ((ret = av_dict_set(&s->tags, "lavfi.tag.AIGC", AIGC, 0)) < 0 ||
        (ret = av_dict_set(&s->tags, "lavfi.tag.DigitalSourceType", type,
                           0)) < 0)
        return ret;
    return av_dict_set(&s->tags, "lavfi.tag.comment", text, 0);
}

/** Hand a frame on, with what it has to say to a file. */
static int send_frame(AVFilterLink *outlink, AVFrame *frame)
{
    const WanContext *s = outlink->src->priv;
    const int ret = av_dict_copy(&frame->metadata, s->tags, 0);

    if (ret < 0) {
        av_frame_free(&frame);
        return ret;
    }
    return ff_filter_frame(outlink, frame);
}

/** Time of the nth frame, which the frame rate alone decides. */
static int64_t frame_pts(const WanContext *s, int64_t n)
{
    return av_sat_add64(s->first_pts,
                        av_rescale_q(n, av_inv_q(s->rate), s->time_base));
}

/** The time of the next frame, or where there is none of the end. */
static int64_t next_pts(const WanContext *s)
{
    return s->redraws ? s->first_pts : frame_pts(s, s->delivered);
}

/** Give a frame its time, if it has none from the input. */
static void stamp(WanContext *s, AVFrame *frame)
{
    if (s->redraws) {
        s->left--;
        s->delivered++;
        if (frame->pts != AV_NOPTS_VALUE)
            s->first_pts = av_sat_add64(frame->pts, get_duration(frame));
        return;
    }
    frame->pts = frame_pts(s, s->delivered);
    set_duration(frame, frame_pts(s, ++s->delivered) - frame->pts);
}

/** What late=repeat shows before the first frame. */
static int open_slate(AVFilterContext *ctx)
{
    const AVIOInterruptCB interrupt = { decode_interrupted, ctx };
    WanContext *s = ctx->priv;
    AVFrame *picture = NULL, *rgb = NULL;
    int ret = 0;

    if (s->late != LATE_REPEAT || s->mode == MODE_EXTEND)
        return 0;
    if (s->slate_path)
        ret = ff_wan_decode_file(ctx, &picture, "slate", s->slate_path,
                                 &interrupt);
    if (ret >= 0)
        ret = ff_wan_fit(&rgb, picture, s->w, s->h);
    if (ret >= 0)
        ret = output_of(ctx, &s->shown, rgb);
    if (ret >= 0)
        s->shown->sample_aspect_ratio = s->sar;
    av_frame_free(&picture);
    av_frame_free(&rgb);
    return ret;
}

/** Seconds that what is made is behind the clock. */
static double seconds_late(const WanContext *s)
{
    const int64_t until = ff_wan_clock_until(&s->clock, frame_pts(s, s->taken));

    return until < 0 ? -until / 1e6 : 0;
}

static void log_clock(AVFilterContext *ctx, int repeated)
{
    WanContext *s = ctx->priv;
    const int64_t now = av_gettime_relative();

    s->clock_repeats += repeated;
    if (!s->clock_line)
        s->clock_line = now;
    if (now - s->clock_line < CLOCK_LOG_US)
        return;
    av_log(ctx, AV_LOG_INFO, "by the clock: %"PRId64" frames, %"PRId64" "
           "repeated since the last such line, what is made is %.2f s late\n",
           s->delivered, s->clock_repeats, seconds_late(s));
    s->clock_line    = now;
    s->clock_repeats = 0;
}

/** The last frame again; of what came with it only our label. */
static int repeat_shown(const WanContext *s, AVFrame **frame)
{
    int i;

    *frame = av_frame_clone(s->shown);
    if (!*frame)
        return AVERROR(ENOMEM);
    for (i = (*frame)->nb_side_data - 1; i >= 0; i--)
        if ((*frame)->side_data[i]->type != AV_FRAME_DATA_SEI_UNREGISTERED)
            av_frame_remove_side_data(*frame, (*frame)->side_data[i]->type);
    return av_dict_set(&(*frame)->metadata, "lavfi.wan.repeated", "1", 0);
}

/** What was taken is what is repeated next. */
static int keep_shown(WanContext *s, const AVFrame *frame)
{
    av_frame_free(&s->shown);
    s->shown = av_frame_clone(frame);
    s->taken++;
    return s->shown ? 0 : AVERROR(ENOMEM);
}

/** As ff_wan_worker_take(), but by the clock: the last frame is repeated. */
static int take_by_clock(AVFilterContext *ctx, AVFrame **frame)
{
    WanContext *s = ctx->priv;
    const int64_t pts = frame_pts(s, s->delivered);
    char late[32];
    int64_t wait;
    int ret, repeated;

    ff_wan_clock_start(&s->clock, pts, s->time_base);
    wait = ff_wan_clock_until(&s->clock, pts);
    if (wait > 0) {
        av_usleep(FFMIN(wait, WAIT_US));
        if (wait > WAIT_US)
            return 0;
    }
    snprintf(late, sizeof(late), "%.3f", seconds_late(s));
    ret = ff_wan_worker_take(s->worker, frame, 0, 0);
    if (ret < 0)
        return ret;
    repeated = !ret;
    ret = repeated ? repeat_shown(s, frame) : keep_shown(s, *frame);
    if (ret >= 0)
        ret = av_dict_set(&(*frame)->metadata, "lavfi.wan.late", late, 0);
    if (ret < 0) {
        av_frame_free(frame);
        return ret;
    }
    log_clock(ctx, repeated);
    return 1;
}

/**
 * As ff_wan_worker_take(), for late=wait. With ahead a frame leaves in its time,
 * or one frame's time after the last if that is sooner, and earlier only if no
 * more can wait: -re begins with a burst, and then takes what there is until it
 * has caught up with its own start. Without ahead there is a pause between
 * clips in any case.
 */
static int take_made(AVFilterContext *ctx, AVFrame **frame)
{
    WanContext *s = ctx->priv;
    const int64_t pts = frame_pts(s, s->delivered);
    int64_t hold = 0;
    int ret;

    if (s->ahead && s->clock.start)
        hold = FFMIN(ff_wan_clock_until(&s->clock, pts),
                     s->taken_at + 1000000 / av_q2d(s->rate) -
                     av_gettime_relative());
    ret = ff_wan_worker_take(s->worker, frame, WAIT_US, hold);
    if (ret > 0) {
        s->taken_at = av_gettime_relative();
        ff_wan_clock_start(&s->clock, pts, s->time_base);
    }
    return ret;
}

/** Does the graph's thread wait for frames in their own time? */
static int is_paced(const WanContext *s)
{
    return s->ahead || s->late == LATE_REPEAT;
}

/**
 * The user wants all to end: what is made already is handed out, but not what
 * lies far ahead, which would be taken one by one in its own time.
 */
static int end_interrupted(AVFilterContext *ctx, AVFrame **frame)
{
    WanContext *s = ctx->priv;

    if (s->worker && !is_paced(s) && ff_wan_worker_take(s->worker, frame, 0, 0) > 0)
        return 1;
    av_log(ctx, AV_LOG_WARNING, "interrupted, %"PRId64" frames delivered\n",
           s->delivered);
    return AVERROR_EOF;
}

/**
 * @return 1: *frame is the next; 0: none yet, ask again; AVERROR_EOF: there
 *         will be none; another AVERROR: an error, logged
 */
static int next_frame(AVFilterContext *ctx, AVFrame **frame)
{
    WanContext *s = ctx->priv;
    FFWanStatus status = { 0 };
    int ret = 0;

    *frame = NULL;
    if (interrupted(ctx))
        return end_interrupted(ctx, frame);
    if (!s->worker)
        ret = start_worker(ctx);
    if (ret >= 0)
        ret = s->late == LATE_REPEAT ? take_by_clock(ctx, frame)
                                     : take_made(ctx, frame);
    if (ret >= 0)
        log_progress(ctx);
    else if (ret != AVERROR_EOF) {
        if (s->worker)
            ff_wan_worker_status(s->worker, &status);
        av_log(ctx, AV_LOG_ERROR, "stopped in %s %d: %s; %"PRId64" frames "
               "delivered\n", job_name(ctx), FFMAX(status.clip, 1),
               av_err2str(ret), s->delivered);
    }
    return ret;
}

/* ---------------------------------------------------------------- filters */

static int is_wanted(AVFilterLink *link)
{
    return link && ff_outlink_frame_wanted(link);
}

static int add_formats(const WanContext *s, AVFilterFormats **list)
{
    int i, ret;

    if (s->hwframes)
        return ff_add_format(list, AV_PIX_FMT_CUDA);
    for (i = 0; i < FF_WAN_NB_PIXEL_FORMATS; i++)
        if (s->format == AV_PIX_FMT_NONE || s->format == ff_wan_pixel_formats[i].av)
            if ((ret = ff_add_format(list, ff_wan_pixel_formats[i].av)) < 0)
                return ret;
    return 0;
}

#if LAVFI_FROM(10, 4)
static int offer_preview(const AVFilterContext *ctx,
                         AVFilterFormatsConfig **out)
{
    AVFilterFormats *formats = NULL;
    int ret;

    if (ctx->nb_outputs < 2)
        return 0;
    if ((ret = ff_add_format(&formats, AV_PIX_FMT_RGB24)) < 0 ||
        (ret = ff_formats_ref(formats, &out[1]->formats)) < 0 ||
        (ret = ff_formats_ref(ff_all_color_spaces(),
                              &out[1]->color_spaces)) < 0)
        return ret;
    return ff_formats_ref(ff_all_color_ranges(), &out[1]->color_ranges);
}

/*
 * Spaces and ranges count for YUV only, but are agreed on before a format is:
 * RGB leaves them open.
 */
static int offer_output(const AVFilterContext *ctx,
                        AVFilterFormatsConfig *out)
{
    const WanContext *s = ctx->priv;
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(s->format);
    AVFilterFormats *formats = NULL, *spaces = NULL, *ranges = NULL;
    int ret;

    if ((ret = add_formats(s, &formats)) < 0 ||
        (ret = ff_formats_ref(formats, &out->formats)) < 0)
        return ret;
    if (desc && desc->flags & AV_PIX_FMT_FLAG_RGB)
        return 0;
    if ((ret = ff_add_format(&spaces, AVCOL_SPC_BT709)) < 0 ||
        (ret = ff_formats_ref(spaces, &out->color_spaces)) < 0 ||
        (ret = ff_add_format(&ranges, AVCOL_RANGE_MPEG)) < 0)
        return ret;
    return ff_formats_ref(ranges, &out->color_ranges);
}

static int query_formats_t2v(const AVFilterContext *ctx,
                             AVFilterFormatsConfig **cfg_in,
                             AVFilterFormatsConfig **cfg_out)
{
    const int ret = offer_preview(ctx, cfg_out);

    return ret < 0 ? ret : offer_output(ctx, cfg_out[0]);
}
#else
static int offer_preview(AVFilterContext *ctx)
{
    AVFilterFormats *formats = NULL;
    int ret;

    if (!preview_link(ctx))
        return 0;
    ret = ff_add_format(&formats, AV_PIX_FMT_RGB24);
    return ret < 0 ? ret :
           ff_formats_ref(formats, &preview_link(ctx)->incfg.formats);
}

static int query_formats_t2v(AVFilterContext *ctx)
{
    AVFilterFormats *formats = NULL;
    int ret;

    if ((ret = offer_preview(ctx)) < 0 ||
        (ret = add_formats(ctx->priv, &formats)) < 0)
        return ret;
    return ff_set_common_formats(ctx, formats);
}
#endif

/** The model's opinion on the options as they are now. */
static int check_request(const WanContext *s)
{
    WanRequest rq;
    int ret;

    if (!s->model)
        return 0;
    if ((ret = make_request(s, &rq)) < 0)
        return ret;
    if (rq.causal != s->is_causal) {
        av_log((void *)s, AV_LOG_ERROR, "preset=%s: clips that are made block "
               "by block, as those of causal models, and others can't follow "
               "one another\n", s->sampling.preset);
        return AVERROR(EINVAL);
    }
    ret = wan_request_check(&rq, s->model);
    return ret < 0 ? map_error(ret) : 0;
}

static int command_text(AVFilterContext *ctx, const char *cmd, const char *arg,
                        char **text)
{
    char *old = *text, *new = NULL;
    int ret = set_text(ctx, cmd, arg, strlen(arg), &new);

    if (ret < 0)
        return ret;
    *text = new;
    ret = check_request(ctx->priv);
    if (ret < 0) {
        *text = old;
        av_free(new);
        return ret;
    }
    av_free(old);
    return 0;
}

static void free_sampling(Sampling *a)
{
    av_freep(&a->preset);
    av_freep(&a->timesteps);
    av_freep(&a->list);
}

/** An option of the sampling; all are as they were if it can't be. */
static int command_sampling(AVFilterContext *ctx, const char *cmd,
                            const char *arg)
{
    WanContext *s = ctx->priv;
    Sampling old  = s->sampling;
    int ret = 0;

    s->sampling.preset    = av_strdup(old.preset);
    s->sampling.timesteps = av_strdup(old.timesteps);
    s->sampling.list      = NULL;
    if (!s->sampling.preset || (old.timesteps && !s->sampling.timesteps))
        ret = AVERROR(ENOMEM);
    if (ret >= 0)
        ret = av_opt_set(s, cmd, arg, 0);
    if (!strcmp(cmd, "guidance"))       /* alone it sets both */
        s->sampling.guidance2 = -1;
    if (ret >= 0)
        ret = check_sampling(ctx);
    if (ret >= 0)
        ret = check_request(s);
    if (ret < 0)
        FFSWAP(Sampling, old, s->sampling);
    free_sampling(&old);
    return ret;
}

static int process_command(AVFilterContext *ctx, const char *cmd,
                           const char *arg, char *res, int res_len, int flags)
{
    WanContext *s = ctx->priv;
    int clip, ret;

    if (!arg)
        arg = "";
    pthread_mutex_lock(&s->settings);
    if (!strcmp(cmd, "prompt"))
        ret = command_text(ctx, cmd, arg, &s->prompt);
    else if (!strcmp(cmd, "negative_prompt"))
        ret = command_text(ctx, cmd, arg, &s->negative_prompt);
    else if (av_match_name(cmd, "preset,steps,guidance,guidance2,boundary,shift,"
                                "sampler,timesteps,warp,sigma_max"))
        ret = command_sampling(ctx, cmd, arg);
    else
        ret = AVERROR(ENOSYS);
    clip = s->clip_index;
    pthread_mutex_unlock(&s->settings);
    if (ret < 0)
        return ret;

    if (s->is_causal && !strcmp(cmd, "prompt"))
        av_log(ctx, AV_LOG_VERBOSE, "%s: applies from the next block\n", cmd);
    else if (is_endless(s) && clip)
        av_log(ctx, AV_LOG_WARNING, "%s: too late, the scene has begun\n", cmd);
    else if (s->clips && clip >= s->clips)
        av_log(ctx, AV_LOG_WARNING, "%s: too late, the last clip has begun\n",
               cmd);
    else
        av_log(ctx, AV_LOG_VERBOSE, "%s: applies from %s %d\n", cmd,
               job_name(ctx), clip + 1);
    return 0;
}

/* Also after an init() that failed or never ran. */
static av_cold void uninit(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;

    shut_down(ctx);
    av_freep(&s->sampling.list);
    av_freep(&s->blocks.list);
    if (s->settings_ready)
        pthread_mutex_destroy(&s->settings);
    s->settings_ready = 0;
    av_freep(&s->manual);
}

/**
 * Hand out the previews that wait, or drop them if nobody looks any more. The
 * end comes with the last one: FFmpeg aborts when a nullsink that waits is
 * given an end alone, in a graph without inputs.
 */
static int deliver_previews(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    AVFilterLink *link = preview_link(ctx);
    AVFrame *frame;
    int last, ret = 0;

    while (ret >= 0 && link && s->worker &&
           ff_wan_worker_take_preview(s->worker, &frame) > 0) {
        last          = !!frame->opaque;
        frame->opaque = NULL;
        frame->pts    = s->previews++;
        set_duration(frame, 1);
        if (ff_outlink_get_status(link))
            av_frame_free(&frame);
        else
            ret = send_frame(link, frame);
        if (last && ret >= 0 && !ff_outlink_get_status(link))
            ff_outlink_set_status(link, AVERROR_EOF, s->previews);
    }
    return ret;
}

/** End all outputs; pts is the time of the video's. */
static void set_status(AVFilterContext *ctx, int status, int64_t pts)
{
    WanContext *s = ctx->priv;
    AVFilterLink *links[] = { ctx->outputs[0], preview_link(ctx) };
    int i;

    for (i = 0; i < 2; i++)
        if (links[i] && !ff_outlink_get_status(links[i]))
            ff_outlink_set_status(links[i], status, i ? s->previews : pts);
}

/** Hand out what is generated, when it is wanted. */
static int deliver(AVFilterContext *ctx, AVFilterLink *outlink)
{
    WanContext *s = ctx->priv;
    AVFrame *frame;
    int ret, previews;

    if (!is_wanted(outlink) && !is_wanted(preview_link(ctx)))
        return FFERROR_NOT_READY;

    ret = next_frame(ctx, &frame);
    previews = deliver_previews(ctx);
    if (previews < 0) {
        av_frame_free(&frame);
        ret = previews;
    }
    if (ret > 0) {
        stamp(s, frame);
        ret = send_frame(outlink, frame);
        /* who wants a picture of the next clip may want no frame of this */
        if (is_wanted(preview_link(ctx)))
            ff_filter_set_ready(ctx, 10);
        return ret;
    }
    if (!ret) {
        ff_filter_set_ready(ctx, 10);
        return 0;
    }
    /* An error must stay: one that is only returned is asked for again. */
    shut_down(ctx);
    set_status(ctx, ret, next_pts(s));
    return ret == AVERROR_EOF ? 0 : ret;
}

/* ---------------------------------------------------------------- wan_t2v */

static int activate_t2v(AVFilterContext *ctx)
{
    AVFilterLink *outlink = ctx->outputs[0];
    const int status = ff_outlink_get_status(outlink);

    if (status) {
        set_status(ctx, status, 0);
        shut_down(ctx);
        return 0;
    }
    return deliver(ctx, outlink);
}

/** Is it one that can be read? */
static int check_input(AVFilterContext *ctx, AVFilterLink *inlink,
                       const char *what)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(inlink->format);

    if (desc->flags & AV_PIX_FMT_FLAG_HWACCEL) {
        const AVBufferRef *ref = WAN_LINK(inlink)->hw_frames_ctx;
        const AVHWFramesContext *frames = ref ? (void *)ref->data : NULL;

        av_log(ctx, AV_LOG_ERROR, "%s: %s frames lie on a device: put the "
               "filters hwdownload,format=%s before this one\n", what, desc->name,
               frames ? av_get_pix_fmt_name(frames->sw_format) : "nv12");
        return AVERROR(EINVAL);
    }
#if LAVFI_FROM(9, 15)                   /* 7.0 */
    return ff_wan_check_matrix(ctx, inlink->format, inlink->colorspace, what);
#else
    return 0;
#endif
}

/**
 * Open all. With two outputs the first of them that is configured does, which
 * is either.
 */
static int settle(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    AVFilterLink *outlink = ctx->outputs[0];
    int ret;

    if (s->settled) {
        s->settled = 0;
        return 0;
    }
    if ((ctx->nb_inputs > 0 &&
         (ret = check_input(ctx, ctx->inputs[0], "input")) < 0) ||
        (ctx->nb_inputs > 1 &&
         (ret = check_input(ctx, ctx->inputs[1], "mask")) < 0) ||
        (ret = open_cuda(ctx)) < 0 ||
        (ret = open_model(ctx, outlink->format)) < 0 ||
        (ret = open_pool(outlink)) < 0 || (ret = open_slate(ctx)) < 0 ||
        (ret = make_tags(s)) < 0)
        return ret;
    s->settled = ctx->nb_outputs > 1;
    return 0;
}

static int config_props_t2v(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    WanContext *s = ctx->priv;
    int ret = settle(ctx);

    if (ret < 0)
        return ret;
    s->time_base = av_inv_q(s->rate);
    outlink->w   = s->w;
    outlink->h   = s->h;
    outlink->sample_aspect_ratio  = s->sar;
    outlink->time_base            = s->time_base;
    WAN_LINK(outlink)->frame_rate = s->rate;
    return 0;
}

static int config_props_preview(AVFilterLink *outlink)
{
    const WanContext *s = outlink->src->priv;
    int ret = settle(outlink->src);

    if (ret < 0)
        return ret;
    outlink->w = s->w / 4;
    outlink->h = s->h / 4;
    outlink->sample_aspect_ratio  = s->sar;
    outlink->time_base            = av_make_q(1, 1);
    WAN_LINK(outlink)->frame_rate = av_make_q(1, 1);
    return 0;
}

static const AVOption wan_t2v_options[] = {
    MODEL_OPTIONS,
    CLIP_OPTIONS,
    CONTROL_OPTIONS,
    { "join",     "set what is between clips", OFFSET(join), AV_OPT_TYPE_INT, {.i64 = JOIN_CUT}, JOIN_CUT, JOIN_FADE, FLAGS, .unit = "join" },
        { "cut",  "nothing",               0, AV_OPT_TYPE_CONST, {.i64 = JOIN_CUT},  .flags = FLAGS, .unit = "join" },
        { "fade", "the end of one and the start of the next are mixed", 0, AV_OPT_TYPE_CONST, {.i64 = JOIN_FADE}, .flags = FLAGS, .unit = "join" },
    { "join_frames", "set frames that are mixed, -1: half a second, at most half a clip", OFFSET(join_frames), AV_OPT_TYPE_INT, {.i64 = -1}, -1, INT_MAX, FLAGS },
    { NULL }
};

AVFILTER_DEFINE_CLASS(wan_t2v);

static const AVFilterPad wan_t2v_outputs[] = {
    {
        .name         = "default",
        .type         = AVMEDIA_TYPE_VIDEO,
        .config_props = config_props_t2v,
    },
};

const WAN_FILTER ff_vsrc_wan_t2v = {
    .WAN_PUB(name)        = "wan_t2v",
    .WAN_PUB(description) = NULL_IF_CONFIG_SMALL("Make video from text with a "
                                                 "Wan model."),
    .WAN_PUB(priv_class)  = &wan_t2v_class,
    .WAN_PUB(flags)       = WAN_FLAGS | AVFILTER_FLAG_DYNAMIC_OUTPUTS,
    .WAN_PUB(inputs)      = NULL,
    .priv_size            = sizeof(WanContext),
    .init                 = init,
    .uninit               = uninit,
    .activate             = activate_t2v,
    .flags_internal       = FF_FILTER_FLAG_HWFRAME_AWARE,
    .process_command      = process_command,
    FILTER_OUTPUTS(wan_t2v_outputs),
    WAN_QUERY_FUNC(query_formats_t2v),
};

/* ---------------------------------------------------------------- wan_i2v */

#if CONFIG_WAN_I2V_FILTER || CONFIG_WAN_V2V_FILTER

/**
 * What the input may be: all that can be converted to RGB, and for who gives
 * such frames back again. Frames on devices come last, and so only where there
 * is nothing else: check_input() then says more than the graph would.
 */
static int add_input_formats(AVFilterFormats **list, int both)
{
    int hw, ret;

    for (hw = 0; hw < 2; hw++) {
        const AVPixFmtDescriptor *desc = NULL;

        while ((desc = av_pix_fmt_desc_next(desc))) {
            if (hw ? !(desc->flags & AV_PIX_FMT_FLAG_HWACCEL)
                   : !ff_wan_convertible(desc, both))
                continue;
            if ((ret = ff_add_format(list, av_pix_fmt_desc_get_id(desc))) < 0)
                return ret;
        }
    }
    return 0;
}

#endif

#if CONFIG_WAN_I2V_FILTER

static const AVOption wan_i2v_options[] = {
    MODEL_OPTIONS,
    CLIP_OPTIONS,
    { "last_image", "set file of the last frame, for first-last-frame models and Wan 2.2's experts", OFFSET(last_image_path), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS },
    { "mode",     "set what becomes of the input", OFFSET(mode), AV_OPT_TYPE_INT, {.i64 = MODE_FIRST}, MODE_FIRST, MODE_EXTEND, FLAGS, .unit = "mode" },
        { "first",  "its first frame is the start, the rest is not read", 0, AV_OPT_TYPE_CONST, {.i64 = MODE_FIRST},  .flags = FLAGS, .unit = "mode" },
        { "extend", "it passes, and goes on from its last frame",         0, AV_OPT_TYPE_CONST, {.i64 = MODE_EXTEND}, .flags = FLAGS, .unit = "mode" },
    KEPT_OPTIONS,
    { NULL }
};

AVFILTER_DEFINE_CLASS(wan_i2v);

static av_cold int init_i2v(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;

    if (s->mode == MODE_EXTEND && s->format != AV_PIX_FMT_YUV420P &&
        s->format != AV_PIX_FMT_NONE) {
        av_log(ctx, AV_LOG_ERROR, "format=%s: mode=extend keeps the format of "
               "its input; put the filter format=%s before it\n",
               av_get_pix_fmt_name(s->format), av_get_pix_fmt_name(s->format));
        return AVERROR(EINVAL);
    }
    if (s->mode == MODE_EXTEND && s->slate_path) {
        av_log(ctx, AV_LOG_ERROR, "slate=%s: mode=extend begins with its "
               "input, there is no time for one\n", s->slate_path);
        return AVERROR(EINVAL);
    }
    if (s->mode == MODE_EXTEND && s->hwframes) {
        av_log(ctx, AV_LOG_ERROR, "hwframes=1: mode=extend keeps the frames of "
               "its input, which lie in host memory; put the filter hwupload "
               "behind it\n");
        return AVERROR(EINVAL);
    }
    return init(ctx);
}

#if LAVFI_FROM(10, 4)
static int query_formats_i2v(const AVFilterContext *ctx,
                             AVFilterFormatsConfig **cfg_in,
                             AVFilterFormatsConfig **cfg_out)
{
    const WanContext *s = ctx->priv;
    AVFilterFormats *formats = NULL;
    int ret;

    if ((ret = offer_preview(ctx, cfg_out)) < 0 ||
        (ret = add_input_formats(&formats, s->mode == MODE_EXTEND)) < 0)
        return ret;
    if (s->mode == MODE_EXTEND)
        return ff_set_common_formats2(ctx, cfg_in, cfg_out, formats);
    ret = ff_formats_ref(formats, &cfg_in[0]->formats);
    return ret < 0 ? ret : offer_output(ctx, cfg_out[0]);
}
#else
static int query_formats_i2v(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;
    AVFilterFormats *in = NULL, *out = NULL;
    int ret;

    if ((ret = offer_preview(ctx)) < 0 ||
        (ret = add_input_formats(&in, s->mode == MODE_EXTEND)) < 0)
        return ret;
    if (s->mode == MODE_EXTEND)
        return ff_set_common_formats(ctx, in);
    if ((ret = ff_formats_ref(in, &ctx->inputs[0]->outcfg.formats)) < 0 ||
        (ret = add_formats(s, &out)) < 0)
        return ret;
    return ff_formats_ref(out, &ctx->outputs[0]->incfg.formats);
}
#endif

/** In which the input's times and those of our frames are whole. */
static AVRational common_time_base(AVRational input, AVRational frame)
{
    const int64_t den = input.den / av_gcd(input.den, frame.den) *
                        (int64_t)frame.den;

    if (den > INT_MAX)                  /* there is none: the finer one */
        return av_cmp_q(input, frame) < 0 ? input : frame;
    return av_make_q(av_gcd(input.num, frame.num), den);
}

static int config_props_i2v(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    AVFilterLink *inlink = ctx->inputs[0];
    WanContext *s = ctx->priv;
    int ret;

    if ((ret = settle(ctx)) < 0)
        return ret;
    s->time_base = s->mode == MODE_EXTEND
                   ? inlink->time_base
                   : common_time_base(inlink->time_base, av_inv_q(s->rate));
    outlink->w   = s->w;
    outlink->h   = s->h;
    outlink->sample_aspect_ratio  = s->sar;
    outlink->time_base            = s->time_base;
    WAN_LINK(outlink)->frame_rate = s->mode == MODE_EXTEND
                                    ? WAN_LINK(inlink)->frame_rate : s->rate;
#if LAVFI_FROM(10, 7)                   /* 8.0; what the link has of its input */
    if (s->mode == MODE_FIRST) {
        av_frame_side_data_remove_by_props(&outlink->side_data,
                                           &outlink->nb_side_data,
                                           AV_SIDE_DATA_PROP_SIZE_DEPENDENT);
        av_frame_side_data_remove_by_props(&outlink->side_data,
                                           &outlink->nb_side_data,
                                           AV_SIDE_DATA_PROP_COLOR_DEPENDENT);
    }
#endif
    return 0;
}

/** How long a frame of the input is shown: as it says, or as the last was. */
static int64_t shown_for(const WanContext *s, const AVFrame *frame)
{
    int64_t duration = get_duration(frame);

    if (duration <= 0 && s->start && s->start->pts != AV_NOPTS_VALUE &&
        frame->pts != AV_NOPTS_VALUE)
        duration = frame->pts - s->start->pts;
    if (duration <= 0)
        duration = av_rescale_q(1, av_inv_q(s->rate), s->time_base);
    return FFMAX(duration, 1);
}

/** The time of the first frame in ticks of the output, 0 where it has none. */
static int64_t start_time(AVFilterContext *ctx, int64_t pts)
{
    const WanContext *s = ctx->priv;
    int64_t start = 0;

    if (pts != AV_NOPTS_VALUE)
        start = av_rescale_q(pts, ctx->inputs[0]->time_base, s->time_base);
    if (start != INT64_MIN)
        return start;
    av_log(ctx, AV_LOG_WARNING, "input: its time, %"PRId64" of %d/%d s, can't "
           "be told in %d/%d s; the clip starts at 0\n", pts,
           ctx->inputs[0]->time_base.num, ctx->inputs[0]->time_base.den,
           s->time_base.num, s->time_base.den);
    return 0;
}

/** A frame of the input: in first mode the only one, else it passes. */
static int take_input(AVFilterContext *ctx, AVFrame *frame)
{
    AVFilterLink *inlink = ctx->inputs[0];
    WanContext *s = ctx->priv;

    if (s->mode == MODE_EXTEND) {
        int ret;

        s->input_duration = shown_for(s, frame);
        if (frame->pts != AV_NOPTS_VALUE)
            s->first_pts = frame->pts;
        if (s->late == LATE_REPEAT)
            ff_wan_clock_start(&s->clock, s->first_pts, s->time_base);
        s->first_pts = av_sat_add64(s->first_pts, s->input_duration);
        ret = keep_start(s, frame);
        if (ret < 0) {
            av_frame_free(&frame);
            return ret;
        }
        return send_frame(ctx->outputs[0], frame);
    }

    if (ff_wan_is_damaged(frame)) {     /* the next one may be whole */
        if (!s->damaged)
            av_log(ctx, AV_LOG_WARNING, "input: the decoder says that the "
                   "first frame is damaged; one that is not is waited for\n");
        s->damaged = 1;
        av_frame_free(&frame);
        ff_filter_set_ready(ctx, 10);
        return 0;
    }
    s->start = frame;
    s->input_ended = 1;
    s->first_pts = start_time(ctx, frame->pts);
    ff_inlink_set_status(inlink, AVERROR_EOF);
    ff_filter_set_ready(ctx, 10);
    return 0;
}

/** The frame rate of frames so many ticks apart. */
static AVRational rate_of(int64_t ticks, AVRational time_base)
{
    const int64_t apart = av_rescale(ticks, time_base.num, 1);
    AVRational rate = { 0 };

    if (apart > 0)                      /* else too far to be counted */
        av_reduce(&rate.num, &rate.den, time_base.den, apart, INT_MAX);
    return rate.num ? rate : av_make_q(1, INT_MAX);
}

/** The end of the input. @return 0: generate, else the status that ends us */
static int end_input(AVFilterContext *ctx, int status)
{
    WanContext *s = ctx->priv;
    const AVRational rate = WAN_LINK(ctx->inputs[0])->frame_rate;

    s->input_ended = 1;
    if (status != AVERROR_EOF || interrupted(ctx))
        return status;
    if (!s->start) {
        av_log(ctx, AV_LOG_ERROR, "the input has no %sframe to start from\n",
               s->damaged ? "undamaged " : "");
        return AVERROR_INVALIDDATA;
    }
    if (s->odd_size)
        return check_extend_size(ctx, AV_LOG_ERROR);
    if (s->mode == MODE_EXTEND && s->late == LATE_REPEAT &&
        !(s->shown = av_frame_clone(s->start)))
        return AVERROR(ENOMEM);
    if (s->mode == MODE_EXTEND && !s->rate_str && (!rate.num || !rate.den))
        s->rate = rate_of(s->input_duration, s->time_base);
    return 0;
}

static int activate_i2v(AVFilterContext *ctx)
{
    AVFilterLink *inlink  = ctx->inputs[0];
    AVFilterLink *outlink = ctx->outputs[0];
    WanContext *s = ctx->priv;
    AVFrame *frame;
    int64_t pts;
    int ret, status = ff_outlink_get_status(outlink);

    if (status) {
        ff_inlink_set_status(inlink, status);
        set_status(ctx, status, 0);
        shut_down(ctx);
        return 0;
    }
    if (s->input_ended)
        return deliver(ctx, outlink);

    ret = ff_inlink_consume_frame(inlink, &frame);
    if (ret > 0)
        ret = take_input(ctx, frame);
    else if (!ret && ff_inlink_acknowledge_status(inlink, &status, &pts)) {
        ret = end_input(ctx, status);
        if (!ret)
            return deliver(ctx, outlink);
    } else if (!ret) {
        if (!is_wanted(outlink) && !is_wanted(preview_link(ctx)))
            return FFERROR_NOT_READY;
        ff_inlink_request_frame(inlink);
        return 0;
    }
    if (ret >= 0) {
        /* a frame that passed is no preview: ask for the next */
        if (is_wanted(preview_link(ctx)))
            ff_filter_set_ready(ctx, 10);
        return 0;
    }
    shut_down(ctx);
    s->input_ended = 1;
    ff_inlink_set_status(inlink, ret);
    set_status(ctx, ret, s->first_pts);
    return ret == AVERROR_EOF ? 0 : ret;
}

static const AVFilterPad wan_i2v_inputs[] = {
    {
        .name         = "default",
        .type         = AVMEDIA_TYPE_VIDEO,
    },
};

static const AVFilterPad wan_i2v_outputs[] = {
    {
        .name         = "default",
        .type         = AVMEDIA_TYPE_VIDEO,
        .config_props = config_props_i2v,
    },
};

const WAN_FILTER ff_vf_wan_i2v = {
    .WAN_PUB(name)        = "wan_i2v",
    .WAN_PUB(description) = NULL_IF_CONFIG_SMALL("Make video from an image "
                                                 "and text with a Wan model."),
    .WAN_PUB(priv_class)  = &wan_i2v_class,
    .WAN_PUB(flags)       = WAN_FLAGS | AVFILTER_FLAG_DYNAMIC_OUTPUTS,
    .priv_size            = sizeof(WanContext),
    .init                 = init_i2v,
    .uninit               = uninit,
    .activate             = activate_i2v,
    .flags_internal       = FF_FILTER_FLAG_HWFRAME_AWARE,
    .process_command      = process_command,
    FILTER_INPUTS(wan_i2v_inputs),
    FILTER_OUTPUTS(wan_i2v_outputs),
    WAN_QUERY_FUNC(query_formats_i2v),
};

#endif /* CONFIG_WAN_I2V_FILTER */

/* ---------------------------------------------------------------- wan_v2v */

#if CONFIG_WAN_V2V_FILTER

static const AVOption wan_v2v_options[] = {
    MODEL_OPTIONS,
    { "strength", "set how much of the input is made anew, 0: nothing", OFFSET(strength), AV_OPT_TYPE_DOUBLE, {.dbl = DEFAULT_STRENGTH}, 0, 1, FLAGS },
    { "mask",     "add an input with a mask for VACE: white is made anew, black kept", OFFSET(mask), AV_OPT_TYPE_BOOL, {.i64 = 0}, 0, 1, FLAGS },
    KEPT_OPTIONS,
    { NULL }
};

AVFILTER_DEFINE_CLASS(wan_v2v);

/** The input of the option mask, once. */
static int add_mask(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;
    AVFilterPad pad = { .name = "mask", .type = AVMEDIA_TYPE_VIDEO };

    return s->mask && ctx->nb_inputs < 2 ? ff_append_inpad(ctx, &pad) : 0;
}

/* Options that it does not have stand for what it does. */
static av_cold int init_v2v(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    int ret;

    s->redraws     = 1;
    s->duration_us = -1;
    s->format      = AV_PIX_FMT_NONE;
    if (!(s->strength >= 0 && s->strength <= 1)) {      /* a NaN passes */
        av_log(ctx, AV_LOG_ERROR, "strength=%g: must be from 0 to 1\n",
               s->strength);
        return AVERROR(EINVAL);
    }
    if (passes(ctx) && s->preview) {
        av_log(ctx, AV_LOG_ERROR, "preview=1: with strength=0 there are no "
               "steps to be seen\n");
        return AVERROR(EINVAL);
    }
    ret = init(ctx);
    return ret < 0 ? ret : add_mask(ctx);
}

#if LAVFI_FROM(10, 4)
/** A mask need have nothing of the video. */
static int accept_mask(const AVFilterContext *ctx, AVFilterFormatsConfig **in)
{
    AVFilterFormats *formats = NULL;
    int ret;

    if (ctx->nb_inputs < 2)
        return 0;
    if ((ret = add_input_formats(&formats, 0)) < 0 ||
        (ret = ff_formats_ref(formats, &in[1]->formats)) < 0 ||
        (ret = ff_formats_ref(ff_all_color_spaces(),
                              &in[1]->color_spaces)) < 0)
        return ret;
    return ff_formats_ref(ff_all_color_ranges(), &in[1]->color_ranges);
}

static int query_formats_v2v(const AVFilterContext *ctx,
                             AVFilterFormatsConfig **cfg_in,
                             AVFilterFormatsConfig **cfg_out)
{
    AVFilterFormats *formats = NULL;
    int ret;

    if (passes(ctx))
        return ff_set_common_formats2(ctx, cfg_in, cfg_out,
                                      ff_all_formats(AVMEDIA_TYPE_VIDEO));
    if ((ret = offer_preview(ctx, cfg_out)) < 0 ||
        (ret = accept_mask(ctx, cfg_in)) < 0 ||
        (ret = add_input_formats(&formats, 1)) < 0)
        return ret;
    return ff_set_common_formats2(ctx, cfg_in, cfg_out, formats);
}
#else
static int accept_mask(AVFilterContext *ctx)
{
    AVFilterFormats *formats = NULL;
    int ret;

    if (ctx->nb_inputs < 2)
        return 0;
    ret = add_input_formats(&formats, 0);
    return ret < 0 ? ret : ff_formats_ref(formats,
                                          &ctx->inputs[1]->outcfg.formats);
}

static int query_formats_v2v(AVFilterContext *ctx)
{
    AVFilterFormats *formats = NULL;
    int ret;

    if (passes(ctx))
        return ff_set_common_formats(ctx, ff_all_formats(AVMEDIA_TYPE_VIDEO));
    if ((ret = offer_preview(ctx)) < 0 || (ret = accept_mask(ctx)) < 0 ||
        (ret = add_input_formats(&formats, 1)) < 0)
        return ret;
    return ff_set_common_formats(ctx, formats);
}
#endif

static int config_props_v2v(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    AVFilterLink *inlink = ctx->inputs[0];
    WanContext *s = ctx->priv;
    int ret;

    outlink->time_base            = inlink->time_base;
    outlink->sample_aspect_ratio  = inlink->sample_aspect_ratio;
    WAN_LINK(outlink)->frame_rate = WAN_LINK(inlink)->frame_rate;
    outlink->w = inlink->w;
    outlink->h = inlink->h;
    if (passes(ctx))
        return 0;
    if ((ret = settle(ctx)) < 0)
        return ret;
    outlink->w = s->out_w;
    outlink->h = s->out_h;
#if LAVFI_FROM(10, 7)                   /* 8.0; what the link has of its input */
    if (s->cover)
        av_frame_side_data_remove_by_props(&outlink->side_data,
                                           &outlink->nb_side_data,
                                           AV_SIDE_DATA_PROP_SIZE_DEPENDENT);
#endif
    return 0;
}

/** Hand the next window over to the worker, if it is complete. */
static int hand_over(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    FFWanWindow next;
    int ret = ff_wan_windows_next(&s->windows, &next);

    if (ret <= 0)
        return ret;
    s->left        = is_vace(s) ? next.nb - next.overlap :
                     next.last  ? next.nb : next.nb - s->join_frames;
    s->last_handed = next.last;
    pthread_mutex_lock(&s->settings);
    FFSWAP(FFWanWindow, s->handed, next);
    pthread_mutex_unlock(&s->settings);
    return 1;
}

/** The input has ended so. @return 0: go on, else the status that ends us */
static int end_video(AVFilterContext *ctx, int status)
{
    WanContext *s = ctx->priv;

    if (status != AVERROR_EOF)
        return status;
    if (interrupted(ctx)) {
        av_log(ctx, AV_LOG_WARNING, "interrupted, %"PRId64" frames delivered\n",
               s->delivered);
        return status;
    }
    ff_wan_windows_end(&s->windows);
    if (ff_wan_windows_pending(&s->windows))
        return 0;
    av_log(ctx, AV_LOG_WARNING, "the input has no frame\n");
    return status;
}

/** Of another size than the first a frame is made to fit, but its format stays. */
static int check_frame(AVFilterContext *ctx, const AVFrame *frame)
{
    const WanContext *s = ctx->priv;

    if (frame->format == s->out_format)
        return 0;
    av_log(ctx, AV_LOG_ERROR, "input: its format changes from %s to %s in "
           "mid-stream; put the filter format=%s before this one\n",
           av_get_pix_fmt_name(s->out_format),
           av_get_pix_fmt_name(frame->format),
           av_get_pix_fmt_name(s->out_format));
    return AVERROR(EINVAL);
}

/** Is the mask that waits the one of the frame that waits, or still later? */
static int mask_is_later(const AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;

    return s->mask_now && s->mask_next->pts != AV_NOPTS_VALUE &&
           s->unmasked->pts != AV_NOPTS_VALUE &&
           av_compare_ts(s->mask_next->pts, ctx->inputs[1]->time_base,
                         s->unmasked->pts, ctx->inputs[0]->time_base) > 0;
}

/**
 * Find the mask of the frame that waits: the last one at its time, so that one of
 * another rate or length will do.
 *
 * @param mask  a new reference, NULL where there is no second input
 * @return 1; 0: it is waited for; an AVERROR, logged if it is ours
 */
static int find_mask(AVFilterContext *ctx, AVFrame **mask)
{
    WanContext *s = ctx->priv;
    int ret, status;
    int64_t pts;

    *mask = NULL;
    if (ctx->nb_inputs < 2)
        return 1;
    while (!s->mask_ended) {
        if (s->mask_next && mask_is_later(ctx))
            break;
        if (s->mask_next) {
            av_frame_free(&s->mask_now);
            FFSWAP(AVFrame *, s->mask_now, s->mask_next);
        }
        ret = ff_inlink_consume_frame(ctx->inputs[1], &s->mask_next);
        if (ret < 0)
            return ret;
        if (ret)
            continue;
        if (!ff_inlink_acknowledge_status(ctx->inputs[1], &status, &pts)) {
            ff_inlink_request_frame(ctx->inputs[1]);
            return 0;
        }
        if (status != AVERROR_EOF)
            return status;
        s->mask_ended = 1;
    }
    if (!s->mask_now) {
        av_log(ctx, AV_LOG_ERROR, "mask: the second input has no frame\n");
        return AVERROR_INVALIDDATA;
    }
    *mask = av_frame_clone(s->mask_now);
    return *mask ? 1 : AVERROR(ENOMEM);
}

/**
 * Take the next frame of the input.
 *
 * @return 1: it is in s->unmasked; 0: it is waited for; AVERROR_EOF: windows
 *         have the last one; another AVERROR
 */
static int next_input(AVFilterContext *ctx)
{
    AVFilterLink *inlink = ctx->inputs[0];
    WanContext *s = ctx->priv;
    int ret, status;
    int64_t pts;

    if (s->unmasked)
        return 1;
    ret = ff_inlink_consume_frame(inlink, &s->unmasked);
    if (ret > 0)
        ret = check_frame(ctx, s->unmasked);
    else if (!ret && ff_inlink_acknowledge_status(inlink, &status, &pts))
        return status;
    else if (!ret) {
        ff_inlink_request_frame(inlink);
        return 0;
    }
    return ret < 0 ? ret : 1;
}

/**
 * Take frames of the input until a window is complete.
 *
 * @return 1: one is handed over; 0: an input is waited for; else the status that
 *         ends us
 */
static int collect(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    AVFrame *mask;
    int ret;

    while (!(ret = hand_over(ctx))) {
        ret = interrupted(ctx) ? AVERROR_EOF : next_input(ctx);
        if (ret < 0)
            ret = end_video(ctx, ret);
        else if (ret > 0 && (ret = find_mask(ctx, &mask)) > 0) {
            ff_wan_windows_put(&s->windows, s->unmasked, mask);
            s->unmasked = NULL;
            continue;
        } else
            return ret;
        if (ret < 0)
            return ret;
    }
    return ret;
}

/** strength=0. */
static int pass(AVFilterContext *ctx)
{
    AVFilterLink *inlink  = ctx->inputs[0];
    AVFilterLink *outlink = ctx->outputs[0];
    AVFrame *frame;
    int ret = ff_inlink_consume_frame(inlink, &frame), status;
    int64_t pts;

    if (ret > 0)
        return ff_filter_frame(outlink, frame);
    if (!ret && ff_inlink_acknowledge_status(inlink, &status, &pts))
        ff_outlink_set_status(outlink, status, pts);
    else if (!ret && is_wanted(outlink))
        ff_inlink_request_frame(inlink);
    return ret;
}

/** No more is wanted of them. */
static void end_inputs(AVFilterContext *ctx, int status)
{
    int i;

    for (i = 0; i < ctx->nb_inputs; i++)
        ff_inlink_set_status(ctx->inputs[i], status);
}

static int activate_v2v(AVFilterContext *ctx)
{
    AVFilterLink *outlink = ctx->outputs[0];
    WanContext *s = ctx->priv;
    int ret, status = ff_outlink_get_status(outlink);

    if (status) {
        end_inputs(ctx, status);
        set_status(ctx, status, 0);
        shut_down(ctx);
        return 0;
    }
    if (passes(ctx))
        return pass(ctx);
    if (s->left || s->last_handed)
        return deliver(ctx, outlink);
    if (!is_wanted(outlink) && !is_wanted(preview_link(ctx)))
        return FFERROR_NOT_READY;
    ret = collect(ctx);
    if (ret > 0)
        return deliver(ctx, outlink);
    if (!ret)
        return 0;
    shut_down(ctx);
    end_inputs(ctx, ret);
    set_status(ctx, ret, s->first_pts);
    return ret == AVERROR_EOF ? 0 : ret;
}

/* Frames that wait here when the graph is taken down are lost: say so. */
static av_cold void uninit_v2v(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    const int lost = ff_wan_windows_pending(&s->windows) + !!s->unmasked;

    if (lost)
        av_log(ctx, AV_LOG_WARNING, "%d frames of the input are lost: the graph "
               "was taken down before its end, as for a change of size or format "
               "in mid-stream\n", lost);
    uninit(ctx);
}

static const AVFilterPad wan_v2v_inputs[] = {
    {
        .name         = "default",
        .type         = AVMEDIA_TYPE_VIDEO,
    },
};

static const AVFilterPad wan_v2v_outputs[] = {
    {
        .name         = "default",
        .type         = AVMEDIA_TYPE_VIDEO,
        .config_props = config_props_v2v,
    },
};

const WAN_FILTER ff_vf_wan_v2v = {
    .WAN_PUB(name)        = "wan_v2v",
    .WAN_PUB(description) = NULL_IF_CONFIG_SMALL("Make video anew after a text "
                                                 "with a Wan model."),
    .WAN_PUB(priv_class)  = &wan_v2v_class,
    .WAN_PUB(flags)       = AVFILTER_FLAG_DYNAMIC_INPUTS |
                            AVFILTER_FLAG_DYNAMIC_OUTPUTS,
    .priv_size            = sizeof(WanContext),
    .init                 = init_v2v,
    .uninit               = uninit_v2v,
    .activate             = activate_v2v,
    .process_command      = process_command,
    FILTER_INPUTS(wan_v2v_inputs),
    FILTER_OUTPUTS(wan_v2v_outputs),
    WAN_QUERY_FUNC(query_formats_v2v),
};

#endif /* CONFIG_WAN_V2V_FILTER */
