/*
 * Video from text with the Wan 2.1 models, through libwan
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
 *
 * A clip takes seconds to hours. init() checks what can be checked without
 * the model, the output's config_props() opens the model, so that what is
 * wrong is refused before the first frame is asked for. A worker thread then
 * does the steps, while activate() waits in slices of WAIT_US. A chunk of
 * frames is handed over by a baton, see Worker: the worker never touches
 * links or frames.
 */

#include "config_components.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <wan.h>

#include "libavutil/avstring.h"
#include "libavutil/buffer.h"
#include "libavutil/dict.h"
#include "libavutil/error.h"
#include "libavutil/file.h"
#include "libavutil/frame.h"
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/opt.h"
#include "libavutil/parseutils.h"
#include "libavutil/pixdesc.h"
#include "libavutil/random_seed.h"
#include "libavutil/sha.h"
#include "libavutil/thread.h"
#include "libavutil/time.h"
#include "libavutil/version.h"
#include "libavfilter/version.h"
#include "avfilter.h"
#include "filters.h"
#include "formats.h"
#include "video.h"

/* What differs between FFmpeg 5.1 and 9.0. */
#define LAVFI_FROM(maj, min) \
    (LIBAVFILTER_VERSION_INT >= AV_VERSION_INT(maj, min, 100))
#define LAVU_FROM(maj, min) \
    (LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(maj, min, 100))
#if LAVFI_FROM(11, 0)                   /* 8.0 */
#define WAN_FILTER FFFilter
#define WAN_PUB(x) p.x
#else
#define WAN_FILTER AVFilter
#define WAN_PUB(x) x
#endif
#if LAVFI_FROM(10, 4)                   /* 7.1 */
#define WAN_LINK(l) ff_filter_link(l)
#define WAN_QUERY_FUNC FILTER_QUERY_FUNC2
#else
#define WAN_LINK(l) (l)
#define WAN_QUERY_FUNC FILTER_QUERY_FUNC
#endif

#define WAIT_US       100000            ///< how long activate() blocks at most
#define LOG_US       1000000            ///< progress lines are this far apart
#define MAX_TEXT       65536            ///< bytes of a prompt
#define MAX_QUEUED         8            ///< a chunk is 1 or 4 frames

#define SOURCE_TYPE "http://cv.iptc.org/newscodes/digitalsourcetype/" \
                    "trainedAlgorithmicMedia"

/** Marks our unregistered SEI messages; a random UUID, fixed for ever. */
static const uint8_t label_uuid[16] = {
    0x9a, 0xd6, 0xc2, 0xa1, 0x6f, 0xcd, 0x46, 0xcf,
    0x80, 0x95, 0xe4, 0x21, 0xa0, 0x81, 0x89, 0x03,
};

static const struct PixelFormat {
    enum AVPixelFormat av;
    enum WanPixelFormat wan;
} pixel_formats[] = {
    { AV_PIX_FMT_YUV420P,   WAN_PIX_YUV420P   },
    { AV_PIX_FMT_YUV444P,   WAN_PIX_YUV444P   },
    { AV_PIX_FMT_YUV420P10, WAN_PIX_YUV420P10 },
    { AV_PIX_FMT_GBRP,      WAN_PIX_GBRP      },
    { AV_PIX_FMT_RGB24,     WAN_PIX_RGB24     },
    { AV_PIX_FMT_GBRPF32,   WAN_PIX_GBRPF32   },
};

/**
 * The thread that drives a job. The baton is paused: while it is 0 the job is
 * the worker's, while it is 1 the graph thread's, except that
 * wan_job_cancel() is allowed to both at any time. The worker pauses after
 * each unit that may have made frames and after an error.
 */
typedef struct Worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;                ///< paused or quit changed
    int started;
    WanJob *job;                        ///< set by the graph thread only
    /* under lock */
    int paused;
    int quit;
    int ret;                            ///< of the last step
    int units;                          ///< done since the thread was started
    WanProgress progress;               ///< after the last of them
} Worker;

typedef struct WanContext {
    const AVClass *class;

    /* options; what is -1, 0 or NULL stands for the model's number */
    char *model_path;
    char *vae, *text_encoder, *tokenizer, *clip;
    char *prompt, *promptfile;          ///< after init() prompt has the text
    char *negative_prompt, *negative_promptfile;
    int w, h;
    int frames;
    int64_t duration_us;
    char *rate_str;
    AVRational sar;
    int steps;
    double guidance, shift;
    int sampler;
    char *seed_str;
    int rng, rng_threads;
    char *device;
    int64_t memory;
    enum AVPixelFormat format;
    int label;
    int clips;

    int seed_given;
    uint64_t seed;                      ///< of the first clip
    AVRational rate;                    ///< 0/1: the model's

    WanModel *model;
    const WanModelInfo *info;
    int opening;                        ///< inside wan_model_open()
    int quiet;                          ///< of libwan's lines pass only errors
    double load_seconds;

    Worker worker;
    int clip_index;                     ///< clips begun
    int64_t clip_start;                 ///< when the last one was, us
    int64_t clip_pts;                   ///< its first frame
    int64_t next_pts;
    int units_seen;                     ///< of worker.units
    WanProgress progress;               ///< copy of the worker's
    int64_t last_line;                  ///< when progress was logged, us
    AVFrame *queue[MAX_QUEUED];         ///< frames ready to leave
    int nb_queued, queue_pos;
    AVDictionary *meta;                 ///< of every frame of the clip
    AVBufferRef *sei;                   ///< likewise
} WanContext;

#define OFFSET(x) offsetof(WanContext, x)
#define FLAGS (AV_OPT_FLAG_FILTERING_PARAM | AV_OPT_FLAG_VIDEO_PARAM)
#define RFLAGS (FLAGS | AV_OPT_FLAG_RUNTIME_PARAM)

/* "threads" is an option that every filter has. */
#define COMMON_OPTIONS \
    { "model",    "set checkpoint directory or file (default: $WAN_MODEL)", OFFSET(model_path), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "prompt",     "set text that describes the video", OFFSET(prompt),     AV_OPT_TYPE_STRING, {.str = NULL}, .flags = RFLAGS }, \
    { "promptfile", "set file with the prompt in UTF-8", OFFSET(promptfile), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS  }, \
    { "negative_prompt",     "set text that describes what to avoid",     OFFSET(negative_prompt),     AV_OPT_TYPE_STRING, {.str = NULL}, .flags = RFLAGS }, \
    { "negative_promptfile", "set file with the negative prompt in UTF-8", OFFSET(negative_promptfile), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS  }, \
    { "size",     "set video size (default: the model's)", OFFSET(w),      AV_OPT_TYPE_IMAGE_SIZE, {.str = NULL}, .flags = FLAGS }, \
    { "s",        "set video size (default: the model's)", OFFSET(w),      AV_OPT_TYPE_IMAGE_SIZE, {.str = NULL}, .flags = FLAGS }, \
    { "frames",   "set frames of a clip, 4n+1, -1: the model's", OFFSET(frames), AV_OPT_TYPE_INT,  {.i64 = -1}, -1, INT_MAX, FLAGS }, \
    { "duration", "set duration of a clip, rounded up to 4n+1 frames", OFFSET(duration_us), AV_OPT_TYPE_DURATION, {.i64 = -1}, -1, INT64_MAX, FLAGS }, \
    { "d",        "set duration of a clip, rounded up to 4n+1 frames", OFFSET(duration_us), AV_OPT_TYPE_DURATION, {.i64 = -1}, -1, INT64_MAX, FLAGS }, \
    { "rate",     "set video rate (default: the model's)", OFFSET(rate_str), AV_OPT_TYPE_STRING,   {.str = NULL}, .flags = FLAGS }, \
    { "r",        "set video rate (default: the model's)", OFFSET(rate_str), AV_OPT_TYPE_STRING,   {.str = NULL}, .flags = FLAGS }, \
    { "sar",      "set video sample aspect ratio",         OFFSET(sar),      AV_OPT_TYPE_RATIONAL, {.dbl = 1}, 0, INT_MAX, FLAGS }, \
    { "steps",    "set number of denoising steps, -1: the model's", OFFSET(steps), AV_OPT_TYPE_INT, {.i64 = -1}, -1, 1000, FLAGS }, \
    { "guidance", "set strength of the prompt, 1: ignore the negative prompt, -1: the model's", OFFSET(guidance), AV_OPT_TYPE_DOUBLE, {.dbl = -1}, -1, 100, RFLAGS }, \
    { "shift",    "set time shift of the noise levels, -1: the model's", OFFSET(shift), AV_OPT_TYPE_DOUBLE, {.dbl = -1}, -1, 100, FLAGS }, \
    { "sampler",  "set solver", OFFSET(sampler), AV_OPT_TYPE_INT, {.i64 = WAN_SAMPLER_UNIPC}, WAN_SAMPLER_UNIPC, WAN_SAMPLER_EULER, FLAGS, .unit = "sampler" }, \
        { "unipc", "UniPC of order 2",     0, AV_OPT_TYPE_CONST, {.i64 = WAN_SAMPLER_UNIPC}, .flags = FLAGS, .unit = "sampler" }, \
        { "dpm++", "DPM++ 2M",             0, AV_OPT_TYPE_CONST, {.i64 = WAN_SAMPLER_DPMPP}, .flags = FLAGS, .unit = "sampler" }, \
        { "euler", "Euler",                0, AV_OPT_TYPE_CONST, {.i64 = WAN_SAMPLER_EULER}, .flags = FLAGS, .unit = "sampler" }, \
    { "seed",     "set seed of the noise, -1: random", OFFSET(seed_str), AV_OPT_TYPE_STRING, {.str = "-1"}, .flags = FLAGS }, \
    { "rng",      "set generator of the noise", OFFSET(rng), AV_OPT_TYPE_INT, {.i64 = WAN_RNG_CUDA}, WAN_RNG_CUDA, WAN_RNG_CPU, FLAGS, .unit = "rng" }, \
        { "cuda", "as PyTorch on a GPU",   0, AV_OPT_TYPE_CONST, {.i64 = WAN_RNG_CUDA}, .flags = FLAGS, .unit = "rng" }, \
        { "cpu",  "as PyTorch on the CPU", 0, AV_OPT_TYPE_CONST, {.i64 = WAN_RNG_CPU},  .flags = FLAGS, .unit = "rng" }, \
    { "rng_threads", "set launch size of the GPU whose noise is reproduced", OFFSET(rng_threads), AV_OPT_TYPE_INT, {.i64 = 270336}, 1, INT_MAX, FLAGS }, \
    { "device",   "set device: auto, cpu, cuda, cuda:N, ref", OFFSET(device), AV_OPT_TYPE_STRING, {.str = "auto"}, .flags = FLAGS }, \
    { "memory",   "set memory limit in bytes, 0: what is free", OFFSET(memory), AV_OPT_TYPE_INT64, {.i64 = 0}, 0, INT64_MAX, FLAGS }, \
    { "vae",          "set file or directory of the VAE",          OFFSET(vae),          AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "text_encoder", "set file or directory of the text encoder", OFFSET(text_encoder), AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "tokenizer",    "set file or directory of the tokenizer",    OFFSET(tokenizer),    AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "clip",         "set file or directory of the image encoder", OFFSET(clip),        AV_OPT_TYPE_STRING, {.str = NULL}, .flags = FLAGS }, \
    { "format",   "set pixel format, none: the one the graph prefers", OFFSET(format), AV_OPT_TYPE_PIXEL_FMT, {.i64 = AV_PIX_FMT_YUV420P}, AV_PIX_FMT_NONE, INT_MAX, FLAGS }, \
    { "label",    "mark the frames as AI-generated", OFFSET(label), AV_OPT_TYPE_BOOL, {.i64 = 1}, 0, 1, FLAGS }

static const AVOption wan_t2v_options[] = {
    COMMON_OPTIONS,
    { "clips",    "set number of clips one after another, 0: without end", OFFSET(clips), AV_OPT_TYPE_INT, {.i64 = 1}, 0, INT_MAX, FLAGS },
    { NULL }
};

AVFILTER_DEFINE_CLASS(wan_t2v);

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

static void model_params(AVFilterContext *ctx, WanModelParams *p)
{
    const WanContext *s = ctx->priv;

    wan_model_params_default(p);
    p->path               = s->model_path;
    p->text_encoder       = s->text_encoder;
    p->vae                = s->vae;
    p->tokenizer          = s->tokenizer;
    p->clip               = s->clip;
    p->device             = s->device;
    p->threads            = ctx->nb_threads;
    p->memory             = s->memory;
    p->log                = log_line;
    p->log_opaque         = ctx;
    p->log_level          = log_level();
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

/** One of the pairs text and textfile; *text stays NULL when neither is set. */
static int load_text(AVFilterContext *ctx, const char *option, char **text,
                     const char *file)
{
    char name[32];
    uint8_t *map, *start;
    size_t size;
    int ret;

    if (!file)
        return *text ? set_text(ctx, option, *text, strlen(*text), text) : 0;

    snprintf(name, sizeof(name), "%sfile", option);
    if (*text) {
        av_log(ctx, AV_LOG_ERROR, "%s and %s exclude each other\n",
               option, name);
        return AVERROR(EINVAL);
    }
    /* the offset silences its own message, which does not name the option */
    ret = av_file_map(file, &map, &size, 1000, ctx);
    if (ret < 0) {
        av_log(ctx, AV_LOG_ERROR, "%s: cannot read '%s': %s\n", name, file,
               av_err2str(ret));
        return ret;
    }
    start = map;
    if (size >= 3 && !memcmp(map, "\xEF\xBB\xBF", 3))   /* byte order mark */
        start += 3;
    if (!size) {
        av_log(ctx, AV_LOG_ERROR, "%s: '%s' is empty\n", name, file);
        return AVERROR(EINVAL);
    }
    ret = set_text(ctx, name, start, size - (start - map), text);
    av_file_unmap(map, size);
    return ret;
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
    if (av_strstart(d, "cuda:", &d) && *d && strlen(d) < 4 &&
        strspn(d, "0123456789") == strlen(d))
        return 0;
    av_log(ctx, AV_LOG_ERROR, "device=%s: must be auto, cpu, cuda, cuda:N "
           "or ref\n", s->device ? s->device : "");
    return AVERROR(EINVAL);
}

static int check_format(AVFilterContext *ctx)
{
    const WanContext *s = ctx->priv;
    char names[128] = "";
    int i;

    if (s->format == AV_PIX_FMT_NONE)
        return 0;
    for (i = 0; i < FF_ARRAY_ELEMS(pixel_formats); i++) {
        if (s->format == pixel_formats[i].av)
            return 0;
        av_strlcatf(names, sizeof(names), "%s, ",
                    av_get_pix_fmt_name(pixel_formats[i].av));
    }
    av_log(ctx, AV_LOG_ERROR, "format=%s: must be one of %snone\n",
           av_get_pix_fmt_name(s->format), names);
    return AVERROR(EINVAL);
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

static int check_model_path(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    WanModelParams params;
    int ret;

    if (!s->model_path) {
        const char *env = getenv("WAN_MODEL");

        if (!env || !*env) {
            av_log(ctx, AV_LOG_ERROR, "no model: set the option model or the "
                   "environment variable WAN_MODEL to a Wan checkpoint\n");
            return AVERROR(EINVAL);
        }
        s->model_path = av_strdup(env);
        if (!s->model_path)
            return AVERROR(ENOMEM);
    }
    model_params(ctx, &params);
    s->quiet = 1;                       /* wan_model_open() says it again */
    ret = wan_model_probe(&params);
    s->quiet = 0;
    return ret < 0 ? map_error(ret) : 0;
}

/* Runs twice in some programs: looks only, and leaves nothing behind. */
static av_cold int init(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    int ret;

    if ((ret = load_text(ctx, "prompt", &s->prompt, s->promptfile)) < 0 ||
        (ret = load_text(ctx, "negative_prompt", &s->negative_prompt,
                         s->negative_promptfile)) < 0)
        return ret;
    if (!s->prompt) {
        av_log(ctx, AV_LOG_ERROR, "no prompt: set prompt or promptfile\n");
        return AVERROR(EINVAL);
    }
    if (!*s->prompt) {
        av_log(ctx, AV_LOG_ERROR, "%s: empty\n",
               s->promptfile ? "promptfile" : "prompt");
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
    if ((ret = check_frames(ctx)) < 0 ||
        (ret = check_number(ctx, "steps", s->steps, 1, 1000)) < 0 ||
        (ret = check_number(ctx, "guidance", s->guidance, 0, 100)) < 0 ||
        (ret = check_number(ctx, "shift", s->shift, 0.01, 100)) < 0 ||
        (ret = parse_seed(ctx)) < 0 ||
        (ret = check_device(ctx)) < 0 ||
        (ret = check_format(ctx)) < 0)
        return ret;
    return check_model_path(ctx);
}

/* ---------------------------------------------------------------- request */

/** What the next clip is asked to be: the model's numbers, then ours. */
static void make_request(const WanContext *s, WanRequest *rq)
{
    wan_request_default(rq, s->model);
    rq->prompt = s->prompt;
    if (s->negative_prompt)
        rq->negative_prompt = s->negative_prompt;
    rq->width  = s->w;
    rq->height = s->h;
    rq->frames = s->frames;
    if (s->steps != -1)
        rq->steps = s->steps;
    if (s->guidance != -1)
        rq->guidance = s->guidance;
    if (s->shift != -1)
        rq->shift = s->shift;
    rq->sampler     = s->sampler;
    rq->rng         = s->rng;
    rq->rng_threads = s->rng_threads;
    rq->seed        = s->seed + s->clip_index;
}

static int nearest_multiple(int v, int mul)
{
    int up = v % mul >= mul - v % mul && v <= INT_MAX - mul;

    return FFMAX(v / mul + up, 1) * mul;
}

/** Fill in size, rate and frames, which the model decides if nobody did. */
static int settle_shape(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;
    int mul = s->info->size_multiple;

    if (!s->w) {
        s->w = s->info->width;
        s->h = s->info->height;
    }
    if (s->w % mul || s->h % mul) {
        av_log(ctx, AV_LOG_ERROR, "size=%dx%d: width and height must be "
               "multiples of %d; the nearest is %dx%d\n", s->w, s->h, mul,
               nearest_multiple(s->w, mul), nearest_multiple(s->h, mul));
        return AVERROR(EINVAL);
    }
    if ((s->w + 128LL) * (s->h + 128LL) >= INT_MAX / 8) {    /* imgutils.c */
        av_log(ctx, AV_LOG_ERROR, "size=%dx%d: too large\n", s->w, s->h);
        return AVERROR(EINVAL);
    }

    if (!s->rate.num)
        s->rate = av_make_q(s->info->rate_num, s->info->rate_den);

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
    return 0;
}

/**
 * Open the model and see that the request can be met, so that what is wrong
 * fails here, where every program gives an exit code for it.
 */
static int open_model(AVFilterContext *ctx, enum WanTask task)
{
    WanContext *s = ctx->priv;
    const int64_t start = av_gettime_relative();
    WanModelParams params;
    WanRequest rq;
    WanPlan plan;
    WanJob *job = NULL;
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

    if (s->info->task != task) {
        av_log(ctx, AV_LOG_ERROR, "model=%s: %s makes video from an image and "
               "a prompt, %s only from a prompt\n", s->model_path,
               s->info->name, ctx->filter->name);
        return AVERROR(EINVAL);
    }
    if ((ret = settle_shape(ctx)) < 0)
        return ret;

    make_request(s, &rq);
    if ((ret = wan_request_check(&rq, s->model)) < 0 ||
        (ret = wan_plan(&plan, s->model, &rq)) < 0)
        return map_error(ret);
    av_log(ctx, AV_LOG_INFO, "%s: %dx%d, %d frames, %d steps: %"PRId64" "
           "tokens, needs %.3g GB of memory (weights %.3g, work %.3g) of "
           "%.3g GB\n", s->info->name, rq.width, rq.height, rq.frames, rq.steps,
           plan.tokens, (plan.weight_bytes + plan.work_bytes) / 1e9,
           plan.weight_bytes / 1e9, plan.work_bytes / 1e9,
           plan.available_bytes / 1e9);

    /* libwan alone knows whether that fits; the memory itself is taken when
     * the clip starts, there may be other sources before us */
    s->quiet = 1;
    ret = wan_job_open(&job, s->model, &rq);
    wan_job_close(&job);
    s->quiet = 0;
    return ret < 0 ? map_error(ret) : 0;
}

/* ----------------------------------------------------------------- worker */

static void *worker_main(void *arg)
{
    Worker *w = arg;

    pthread_mutex_lock(&w->lock);
    while (!w->quit) {
        WanProgress progress = { 0 };
        int ret;

        if (w->paused) {
            pthread_cond_wait(&w->cond, &w->lock);
            continue;
        }
        pthread_mutex_unlock(&w->lock);
        ret = wan_job_step(w->job, &progress);
        pthread_mutex_lock(&w->lock);

        w->ret = ret;
        if (ret >= 0) {
            w->progress = progress;
            w->units++;
        }
        if (ret < 0 || progress.stage >= WAN_STAGE_DECODE) {
            w->paused = 1;
            pthread_cond_broadcast(&w->cond);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static int worker_start(Worker *w)
{
    int ret;

    w->paused = 1;
    w->quit   = 0;
    w->units  = 0;
    ret = pthread_mutex_init(&w->lock, NULL);
    if (ret)
        return AVERROR(ret);
    ret = pthread_cond_init(&w->cond, NULL);
    if (ret)
        goto fail_cond;
    ret = pthread_create(&w->thread, NULL, worker_main, w);
    if (ret)
        goto fail_thread;
    w->started = 1;
    return 0;
fail_thread:
    pthread_cond_destroy(&w->cond);
fail_cond:
    pthread_mutex_destroy(&w->lock);
    return AVERROR(ret);
}

/** Give the job to the worker. */
static void worker_go(Worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->paused = 0;
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

/** Wait for the job for at most us. @return 1: it is ours, 0: not yet */
static int worker_wait(Worker *w, int64_t us, WanProgress *progress, int *units)
{
    const int64_t t = av_gettime() + us;    /* wall clock, as timedwait wants */
    const struct timespec ts = { .tv_sec  = t / 1000000,
                                 .tv_nsec = t % 1000000 * 1000 };
    int paused;

    pthread_mutex_lock(&w->lock);
    while (!w->paused && !pthread_cond_timedwait(&w->cond, &w->lock, &ts))
        ;
    paused    = w->paused;
    *progress = w->progress;
    *units    = w->units;
    pthread_mutex_unlock(&w->lock);
    return paused;
}

/** Cancel what runs and wait for its end, a fraction of a second. */
static void worker_stop(Worker *w)
{
    if (w->job)
        wan_job_cancel(w->job);
    if (!w->started)
        return;
    pthread_mutex_lock(&w->lock);
    w->quit = 1;
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->lock);
    w->started = 0;
}

/* ------------------------------------------------------------------ clips */

static void log_progress(AVFilterContext *ctx, int units)
{
    WanContext *s = ctx->priv;
    const WanProgress *p = &s->progress;
    const int64_t now = av_gettime_relative();
    char clip[32] = "";
    double each;

    if (units == s->units_seen || now - s->last_line < LOG_US || p->done < 1)
        return;
    s->units_seen = units;
    s->last_line  = now;

    if (s->clips != 1)
        snprintf(clip, sizeof(clip), "clip %d: ", s->clip_index);
    switch (p->stage) {
    case WAN_STAGE_TEXT:
        av_log(ctx, AV_LOG_INFO, "%stext %d/%d, %.3g s\n", clip, p->done,
               p->total, p->text);
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

/** Make what all frames of a clip carry. */
static int make_labels(WanContext *s, const WanRequest *rq)
{
    const unsigned v = wan_version();
    struct AVSHA *sha = av_sha_alloc();
    uint8_t digest[32];
    char version[32], hex[2 * sizeof(digest) + 1], text[512];
    int i, ret;

    if (!sha)
        return AVERROR(ENOMEM);
    av_sha_init(sha, 256);
    av_sha_update(sha, rq->prompt, strlen(rq->prompt));
    av_sha_final(sha, digest);
    av_free(sha);
    for (i = 0; i < sizeof(digest); i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    snprintf(version, sizeof(version), "%u.%u.%u", v >> 16, v >> 8 & 255,
             v & 255);

    av_dict_free(&s->meta);
    av_buffer_unref(&s->sei);
    if ((ret = av_dict_set(&s->meta, "lavfi.wan.version", version, 0)) < 0 ||
        (ret = av_dict_set(&s->meta, "lavfi.wan.model", s->info->name, 0)) < 0)
        return ret;
    snprintf(text, sizeof(text), "%"PRIu64, rq->seed);
    if ((ret = av_dict_set(&s->meta, "lavfi.wan.seed", text, 0)) < 0 ||
        (ret = av_dict_set_int(&s->meta, "lavfi.wan.steps", rq->steps, 0)) < 0)
        return ret;
    snprintf(text, sizeof(text), "%g", rq->guidance);
    if ((ret = av_dict_set(&s->meta, "lavfi.wan.guidance", text, 0)) < 0 ||
        (ret = av_dict_set(&s->meta, "lavfi.wan.prompt_digest", hex, 0)) < 0 ||
        (ret = av_dict_set(&s->meta, "lavfi.wan.prompt", rq->prompt, 0)) < 0)
        return ret;
    if (!s->label)
        return 0;

    if ((ret = av_dict_set(&s->meta, "lavfi.wan.generated", "1", 0)) < 0 ||
        (ret = av_dict_set(&s->meta, "lavfi.wan.digital_source_type",
                           SOURCE_TYPE, 0)) < 0)
        return ret;
    snprintf(text, sizeof(text), "AI-generated by libwan %s (%.200s); digital "
             "source type " SOURCE_TYPE, version, s->info->name);
    s->sei = av_buffer_alloc(sizeof(label_uuid) + strlen(text));
    if (!s->sei)
        return AVERROR(ENOMEM);
    memcpy(s->sei->data, label_uuid, sizeof(label_uuid));
    memcpy(s->sei->data + sizeof(label_uuid), text, strlen(text));
    return 0;
}

static int start_clip(AVFilterContext *ctx)
{
    static const char *const sampler_names[] = { "unipc", "dpm++", "euler" };
    WanContext *s = ctx->priv;
    Worker *w = &s->worker;
    WanRequest rq;
    int ret;

    if (!s->seed_given) {
        s->seed = av_get_random_seed();
        s->seed_given = 1;
    }
    make_request(s, &rq);
    av_log(ctx, AV_LOG_INFO, "clip %d: seed %"PRIu64", %d steps of %s, "
           "guidance %g, shift %g\n", s->clip_index + 1, rq.seed, rq.steps,
           sampler_names[rq.sampler], rq.guidance, rq.shift);

    if ((ret = make_labels(s, &rq)) < 0)
        return ret;
    s->clip_start = av_gettime_relative();
    ret = wan_job_open(&w->job, s->model, &rq);
    if (ret < 0)
        return map_error(ret);
    if (!w->started && (ret = worker_start(w)) < 0) {
        av_log(ctx, AV_LOG_ERROR, "cannot start a thread: %s\n",
               av_err2str(ret));
        return ret;
    }
    s->clip_index++;
    s->clip_pts = s->next_pts;
    worker_go(w);
    return 0;
}

static void end_clip(AVFilterContext *ctx, int64_t frames)
{
    WanContext *s = ctx->priv;
    const WanProgress *p = &s->progress;
    double load = s->clip_index == 1 ? s->load_seconds : 0;

    av_log(ctx, AV_LOG_INFO, "clip %d: %"PRId64" frames in %.3g s: load %.3g, "
           "text %.3g, steps %.3g, decode %.3g\n", s->clip_index, frames,
           load + (av_gettime_relative() - s->clip_start) / 1e6,
           load, p->text, p->steps, p->decode);
    wan_job_close(&s->worker.job);
}

/** Free all but the options; after it no clip can follow. */
static void shut_down(AVFilterContext *ctx)
{
    WanContext *s = ctx->priv;

    worker_stop(&s->worker);
    wan_job_close(&s->worker.job);
    wan_model_close(&s->model);
    s->info = NULL;
    while (s->queue_pos < s->nb_queued)
        av_frame_free(&s->queue[s->queue_pos++]);
    s->queue_pos = s->nb_queued = 0;
    av_dict_free(&s->meta);
    av_buffer_unref(&s->sei);
}

/* ----------------------------------------------------------------- frames */

static int set_props(WanContext *s, AVFrame *frame, int64_t pts)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(frame->format);

    frame->pts       = pts;
    frame->pict_type = AV_PICTURE_TYPE_I;
#if LAVU_FROM(57, 30)                   /* 6.0 */
    frame->duration  = 1;
#else
    frame->pkt_duration = 1;
#endif
#if LAVU_FROM(58, 7)                    /* 6.1 */
    frame->flags    |= AV_FRAME_FLAG_KEY;
#else
    frame->key_frame = 1;
#endif
    frame->sample_aspect_ratio = s->sar;
    frame->color_primaries     = AVCOL_PRI_BT709;
    frame->color_trc           = AVCOL_TRC_BT709;
    if (desc->flags & AV_PIX_FMT_FLAG_RGB) {
        frame->color_range = AVCOL_RANGE_JPEG;
        frame->colorspace  = AVCOL_SPC_RGB;
    } else {
        frame->color_range = AVCOL_RANGE_MPEG;
        frame->colorspace  = AVCOL_SPC_BT709;
    }
    frame->chroma_location = desc->log2_chroma_w ? AVCHROMA_LOC_LEFT
                                                 : AVCHROMA_LOC_UNSPECIFIED;

    if (s->sei) {
        AVBufferRef *sei = av_buffer_ref(s->sei);

        if (!sei || !av_frame_new_side_data_from_buf(frame,
                        AV_FRAME_DATA_SEI_UNREGISTERED, sei)) {
            av_buffer_unref(&sei);
            return AVERROR(ENOMEM);
        }
    }
    return av_dict_copy(&frame->metadata, s->meta, 0);
}

/**
 * Move the frames that are ready from the paused job to the queue, then let
 * the worker go on: it decodes while the queue is encoded.
 *
 * @return a negative AVERROR, else 0
 */
static int take_frames(AVFilterContext *ctx, AVFilterLink *outlink)
{
    WanContext *s = ctx->priv;
    Worker *w = &s->worker;
    AVFrame *frame;
    WanImage image;
    int i, ret;

    if (w->ret < 0)
        return map_error(w->ret);

    s->nb_queued = s->queue_pos = 0;
    while (s->nb_queued < MAX_QUEUED) {
        frame = ff_get_video_buffer(outlink, outlink->w, outlink->h);
        if (!frame)
            return AVERROR(ENOMEM);

        memset(&image, 0, sizeof(image));
        for (i = 0; i < FF_ARRAY_ELEMS(pixel_formats); i++)
            if (pixel_formats[i].av == outlink->format)
                image.format = pixel_formats[i].wan;
        image.width  = outlink->w;
        image.height = outlink->h;
        for (i = 0; i < 4; i++) {
            image.data[i]   = frame->data[i];
            image.stride[i] = frame->linesize[i];
        }
        ret = wan_job_frame(w->job, &image);
        if (ret >= 0)
            ret = set_props(s, frame, s->next_pts + s->nb_queued);
        if (ret < 0) {
            av_frame_free(&frame);
            if (ret == WAN_ERR(EAGAIN)) {
                worker_go(w);
                return 0;
            }
            if (ret == WAN_EOF) {
                end_clip(ctx, s->next_pts + s->nb_queued - s->clip_pts);
                return 0;
            }
            return map_error(ret);
        }
        s->queue[s->nb_queued++] = frame;
    }
    return 0;                           /* paused still: there may be more */
}

/**
 * @return 1: *frame is the next; 0: none yet, ask again; AVERROR_EOF: there
 *         will be none; another AVERROR: an error, logged
 */
static int next_frame(AVFilterContext *ctx, AVFilterLink *outlink,
                      AVFrame **frame)
{
    WanContext *s = ctx->priv;
    int ret, units;

    for (;;) {
        if (s->queue_pos < s->nb_queued) {
            *frame = s->queue[s->queue_pos++];
            s->next_pts++;
            return 1;
        }
        if (interrupted(ctx)) {
            av_log(ctx, AV_LOG_WARNING, "interrupted, %"PRId64" frames "
                   "delivered\n", s->next_pts);
            return AVERROR_EOF;
        }
        if (!s->worker.job) {
            if (s->clips && s->clip_index >= s->clips)
                return AVERROR_EOF;
            ret = start_clip(ctx);
        } else {
            ret = worker_wait(&s->worker, WAIT_US, &s->progress, &units);
            if (!ret || s->worker.ret >= 0)
                log_progress(ctx, units);
            if (!ret)
                return 0;
            ret = take_frames(ctx, outlink);
        }
        if (ret < 0) {
            av_log(ctx, AV_LOG_ERROR, "stopped in clip %d: %s; %"PRId64" "
                   "frames delivered\n", FFMAX(s->clip_index, 1),
                   av_err2str(ret), s->next_pts);
            return ret;
        }
    }
}

/* ---------------------------------------------------------------- wan_t2v */

static int activate_t2v(AVFilterContext *ctx)
{
    AVFilterLink *outlink = ctx->outputs[0];
    const WanContext *s = ctx->priv;
    AVFrame *frame;
    int ret;

    if (ff_outlink_get_status(outlink)) {
        shut_down(ctx);
        return 0;
    }
    if (!ff_outlink_frame_wanted(outlink))
        return FFERROR_NOT_READY;

    ret = next_frame(ctx, outlink, &frame);
    if (ret > 0)
        return ff_filter_frame(outlink, frame);
    if (!ret) {
        ff_filter_set_ready(ctx, 10);
        return 0;
    }
    /* An error must stay: one that is only returned is asked for again. */
    shut_down(ctx);
    ff_outlink_set_status(outlink, ret, s->next_pts);
    return ret == AVERROR_EOF ? 0 : ret;
}

static int config_props_t2v(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    const WanContext *s  = ctx->priv;
    int ret = open_model(ctx, WAN_TASK_T2V);

    if (ret < 0)
        return ret;
    outlink->w = s->w;
    outlink->h = s->h;
    outlink->sample_aspect_ratio  = s->sar;
    outlink->time_base            = av_inv_q(s->rate);
    WAN_LINK(outlink)->frame_rate = s->rate;
    return 0;
}

static int add_formats(const WanContext *s, AVFilterFormats **list)
{
    int i, ret;

    for (i = 0; i < FF_ARRAY_ELEMS(pixel_formats); i++)
        if (s->format == AV_PIX_FMT_NONE || s->format == pixel_formats[i].av)
            if ((ret = ff_add_format(list, pixel_formats[i].av)) < 0)
                return ret;
    return 0;
}

#if LAVFI_FROM(10, 4)
static int query_formats(const AVFilterContext *ctx,
                         AVFilterFormatsConfig **cfg_in,
                         AVFilterFormatsConfig **cfg_out)
{
    AVFilterFormats *formats = NULL, *spaces = NULL, *ranges = NULL;
    int ret;

    /* spaces and ranges count for YUV only, links of RGB have their own */
    if ((ret = add_formats(ctx->priv, &formats)) < 0 ||
        (ret = ff_set_common_formats2(ctx, cfg_in, cfg_out, formats)) < 0 ||
        (ret = ff_add_format(&spaces, AVCOL_SPC_BT709)) < 0 ||
        (ret = ff_set_common_color_spaces2(ctx, cfg_in, cfg_out, spaces)) < 0 ||
        (ret = ff_add_format(&ranges, AVCOL_RANGE_MPEG)) < 0 ||
        (ret = ff_set_common_color_ranges2(ctx, cfg_in, cfg_out, ranges)) < 0)
        return ret;
    return 0;
}
#else
static int query_formats(AVFilterContext *ctx)
{
    AVFilterFormats *formats = NULL;
    int ret = add_formats(ctx->priv, &formats);

    return ret < 0 ? ret : ff_set_common_formats(ctx, formats);
}
#endif

/** The model's opinion on the options as they are now. */
static int check_request(const WanContext *s)
{
    WanRequest rq;
    int ret;

    if (!s->model)
        return 0;
    make_request(s, &rq);
    ret = wan_request_check(&rq, s->model);
    return ret < 0 ? map_error(ret) : 0;
}

static int command_text(AVFilterContext *ctx, const char *cmd, const char *arg,
                        char **text, int may_be_empty)
{
    char *old = *text, *new = NULL;
    int ret = set_text(ctx, cmd, arg, strlen(arg), &new);

    if (ret < 0)
        return ret;
    if (!*new && !may_be_empty) {
        av_log(ctx, AV_LOG_ERROR, "%s: empty\n", cmd);
        av_free(new);
        return AVERROR(EINVAL);
    }
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

static int command_guidance(AVFilterContext *ctx, const char *arg)
{
    WanContext *s = ctx->priv;
    const double old = s->guidance;
    int ret = av_opt_set(s, "guidance", arg, 0);

    if (ret >= 0)
        ret = check_number(ctx, "guidance", s->guidance, 0, 100);
    if (ret >= 0)
        ret = check_request(s);
    if (ret < 0)
        s->guidance = old;
    return ret;
}

static int process_command(AVFilterContext *ctx, const char *cmd,
                           const char *arg, char *res, int res_len, int flags)
{
    WanContext *s = ctx->priv;
    int ret;

    if (!arg)
        arg = "";
    if (!strcmp(cmd, "prompt"))
        ret = command_text(ctx, cmd, arg, &s->prompt, 0);
    else if (!strcmp(cmd, "negative_prompt"))
        ret = command_text(ctx, cmd, arg, &s->negative_prompt, 1);
    else if (!strcmp(cmd, "guidance"))
        ret = command_guidance(ctx, arg);
    else
        return AVERROR(ENOSYS);
    if (ret < 0)
        return ret;

    if (s->clips && s->clip_index >= s->clips)
        av_log(ctx, AV_LOG_WARNING, "%s: too late, the last clip has begun\n",
               cmd);
    else
        av_log(ctx, AV_LOG_VERBOSE, "%s: applies from clip %d\n", cmd,
               s->clip_index + 1);
    return 0;
}

/* Also after an init() that failed or never ran. */
static av_cold void uninit(AVFilterContext *ctx)
{
    shut_down(ctx);
}

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
    .WAN_PUB(inputs)      = NULL,
    .priv_size            = sizeof(WanContext),
    .init                 = init,
    .uninit               = uninit,
    .activate             = activate_t2v,
    .process_command      = process_command,
    FILTER_OUTPUTS(wan_t2v_outputs),
    WAN_QUERY_FUNC(query_formats),
};
