/*
 * Causal models: a video block by block, each from noise to pixels before the
 * next one begins, and each looking back on those before it.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * "Self Forcing" (Huang et al. 2025), "LongLive" (Yang et al. 2025). The
 * network is the text-to-video transformer; keys and values of earlier frames
 * come from a ring (kvcache.h). A block is denoised in a few steps, each to x0
 * and back by fresh noise; then one more pass over x0 at time 0, the clean
 * pass, leaves the keys and values that later blocks see. Memory does not grow
 * with the video, which need not have an end; counters have 64 bits.
 *
 * The driver asks which stage comes next and does its units one by one.
 */

#ifndef WAN_STREAM_H
#define WAN_STREAM_H

#include "condition.h"
#include "sampler.h"

#define WAN_STREAM_WINDOW 21    // of a video without end, unless another one is
                                // asked for; what the models were trained on
#define WAN_STREAM_BLOCK 64     // latent frames, at most

typedef struct WanStream {
    const WanModel *model;
    WanSchedule steps, first;       // of a block, of the first one
    int block, first_block;         // latent frames
    int window, relative;           // latent frames; positions are
    int recache, reset;
    int width, height;
    int64_t frames;                 // latent frames that are wanted; 0: no end
    int given;                      // of them not made but given
    int drop;                       // pixel frames at the start that nobody
                                    // asked for
    WanNoise generator;
    int ordered;                    // one for all blocks; else each has one
    uint64_t drawn;                 // of an ordered one, by all so far but for
                                    // what blocks begin with
    int64_t *times;                 // scratch: of the frames of a pass, or held

    int64_t start;                  // latent frame it began with, 0
    /* The block in work. */
    int64_t pos;                    // its first latent frame
    int n;                          // latent frames
    int64_t number;                 // of blocks that were made, not given
    int keeping;                    // it is done but for its clean pass
    int turned;                     // the prompt is another one than before
    WanTensor text;                 // and this one's; absent: it was read

    /* In the job's arena, for its whole life. */
    WanTensor x, noise;             // [channels, n, h, w]
    WanTensor past;                 // [channels, window, h, w]: the last frames
    WanDitContext context;
    WanRope rope;                   // of as many frames as a pass may have
    WanTensor slots;                // rotary table of held frames, if relative
    WanKvCache cache;
    WanCodecStream codec;
    WanTensor rgb;                  // [4, H, W, 3] of the last latent frame; of
                                    // ranks but the host a shape alone
} WanStream;

/**
 * Whether what a request says of causal models can be done by this one, and
 * what other requests must not say.
 *
 * @return 0, or WAN_ERR(EINVAL) with a line that names the option
 */
int wan_stream_check(const WanRequest *r, const WanModel *m);

/**
 * Begin for a request that was checked.
 *
 * @return 0, or WAN_ERR(ENOMEM), said. wan_stream_free() in any case
 */
int wan_stream_init(WanStream *s, const WanModel *m, const WanRequest *r);
void wan_stream_free(WanStream *s);

/* All memory that it needs besides that of a running pass. rows: all ranks
 * decode, if there are some, each its rows of every frame. */
void wan_stream_reserve(WanStream *s, WanDev *d, int rows);

/* The text of the block that begins now, and of those behind it. It must stay
 * where it is until the next unit is done. */
void wan_stream_text(WanStream *s, const WanTensor *text);

/* Behind that stage, WAN_STAGE_STEPS or _DECODE. Steps behind steps are those of
 * another block, before which there may be another text. */
enum WanStage wan_stream_next(WanStream *s, const WanDev *d,
                              enum WanStage stage);

/* Units of either stage, 0: none. */
int wan_stream_units(const WanStream *s, enum WanStage stage);

/* Step i of the block, or what comes before its steps or after them. */
void wan_stream_step(WanStream *s, WanDev *d, int i);

/**
 * Decode latent frame i of the block.
 *
 * @param given what the video begins with, [channels, s->given, h, w]
 * @return pixel frames in s->rgb, at the host
 */
int wan_stream_decode(WanStream *s, WanDev *d, int i, const WanTensor *given);

/* For tests: the first block is that of latent frame pos, and nothing is known
 * of those before it. */
void wan_stream_start(WanStream *s, int64_t pos);

/* One block of each kind of pass with a full window, on a plan's device: what
 * the job needs at most. Work and bytes sent of a step, a block's decoding, if it
 * decodes, and of all of a block are added to out. */
void wan_stream_plan(WanStream *s, WanDev *d, int decodes, WanPlan *out);

#endif /* WAN_STREAM_H */
