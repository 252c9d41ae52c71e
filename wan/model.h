/*
 * An opened checkpoint: what every job shares and none changes.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_MODEL_H
#define WAN_MODEL_H

#include "clip.h"
#include "codec.h"
#include "dit.h"
#include "preset.h"
#include "prompts.h"
#include "serve.h"
#include "stepcache.h"
#include "t5.h"
#include "tokenizer.h"

struct WanModel {
    int refs;                   // atomic; freed at 0
    int shapes;                 // of wan_model_open_parts()
    WanLog log;
    WanChoice choice;           // of its backend
    char *device;               // what is opened: that, of a rank with its card
    void *cuda_context;         // the caller's, or NULL
    int threads;
    int64_t memory;             // the user's limit, 0: what is free
    WanRanks *ranks;            // that may share a job; not owned; NULL: none
    struct WanCards *cards;     // whose they are, if they are threads of ours
    int (*interrupted)(void *opaque);   // the caller's, while it waits for them
    void *interrupted_opaque;
    int threads_alone;          // of a job that it makes when the others quit
    int said;                   // atomic: bits of what job.c says once
    WanBytes given;             // to the host: what it was opened with
    WanModelInfo info;
    char name[64];
    const WanPreset *preset;    // recognised; NULL: none
    struct {                    // of info, without it
        int steps;
        double guidance, guidance2, shift;
    } plain;

    WanWeights *files[4];       // transformer, text encoder, VAE, CLIP; NULL:
                                // inside the transformer's
    WanWeights *file2;          // of two experts the low-noise one's
    uint64_t lora_sum;          // of the LoRA files' wan_weights_sum()
    int64_t resting_bytes;      // of the smaller expert: one of them rests
    WanNaming naming[4];        // of the parts
    WanNaming naming2;          // of file2
    WanPool pool;               // their small tensors in f32
    WanDit dit;                 // of two experts the high-noise one
    WanDit dit2;                // the low-noise one; absent without
                                // info.experts
    WanT5 t5;
    WanCodec vae;
    WanClip clip;               // of image models
    WanTokenizer *tokenizer;
    WanPrompts *prompts;        // encoded for a job, kept for the next
    char *spiece;               // where it is from; NULL: the tensor
                                // spiece_model of the text encoder's file
    char *loras;                // WanFiles'
};

/* The file that holds a part of an opened model. */
static inline const WanWeights *wan_model_weights(const WanModel *m,
                                                  WanPart part)
{
    return m->files[part] ? m->files[part] : m->files[0];
}

/* The transformers: number 0, and of two experts 1. */
static inline const WanDit *wan_model_dit(const WanModel *m, int expert)
{
    return expert ? &m->dit2 : &m->dit;
}

/* Number of the one that makes a step at that timestep, 0 to 1000, when the
 * second takes over below that boundary. */
static inline int wan_model_expert(const WanModel *m, double boundary,
                                   double t)
{
    return m->info.experts > 1 && !(t >= boundary * 1000);
}

/* Its files; NULL: it has none. */
static inline const WanWeights *wan_model_expert_file(const WanModel *m,
                                                      int expert)
{
    return expert ? m->file2 : m->files[WAN_PART_DIT];
}

/* Jobs of this model are those of some ranks, which outlive it. Threads, if
 * none were asked for, become this process' share of the machine's cores, but
 * for jobs that it makes when the others were told to quit.
 * p: of the host, what it was opened with; else NULL. 0, or WAN_ERR(ENOMEM). */
int wan_model_join(WanModel *m, WanRanks *ranks, const WanModelParams *p);

/* Take another reference. */
WanModel *wan_model_ref(WanModel *m);

/**
 * A model of known shape without weights or tokenizer, for the plan backend
 * alone: a name of wan_config_named(). Close with wan_model_close().
 */
int wan_model_open_shapes(WanModel **out, const char *name,
                          const WanModelParams *p);

/**
 * A model of which some parts are wanted, and of these shapes alone: for who
 * reads the files itself. The transformer's file must be there in any case;
 * p's LoRA is not looked at. The tokenizer comes with the text encoder.
 *
 * @param parts bits, 1 << WanPart; CLIP is one only of image models
 */
int wan_model_open_parts(WanModel **out, const WanModelParams *p,
                         unsigned parts);

/* Show a job's intermediates to tap as they are made; for tests. Some taps
 * compute what the model never holds, in memory that the plan does not count:
 * a job whose peak lies in the transformer may find its arena full. */
void wan_job_tap(WanJob *job, void (*tap)(void *opaque, const char *name,
                                          const WanTensor *t), void *opaque);

/* A causal job that is not begun: its first block is that of latent frame pos.
 * For tests of what comes after a long time. */
void wan_job_start_at(WanJob *job, int64_t pos);

/* As wan_job_open(), a job that skips nothing and measures MagCache's ratios:
 * wan_stepcache_measured(), once its steps are made. The request has no
 * cache. */
int wan_job_open_measure(WanJob **out, WanModel *m, const WanRequest *r);

/* What its steps remember, and what they measured; lives as the job. */
const WanStepCache *wan_job_cache(const WanJob *job);

/**
 * Run a request's whole pipeline on the plan backend, one denoising step for
 * all of them, and hand each op's line to trace.
 */
int wan_plan_trace(WanPlan *out, const WanModel *m, const WanRequest *r,
                   void (*trace)(void *opaque, const char *line),
                   void *opaque);

#endif /* WAN_MODEL_H */
