/*
 * What a golden of causal models asks for.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_CAUSAL_CASE_H
#define WAN_CAUSAL_CASE_H

#include "model_test.h"

#define MAX_CLIP 64

typedef struct CausalCase {
    Golden *golden;
    cJSON *what;                // the metadata's "case"
    WanRequest rq;
    double timesteps[2][8];     // and of the first block
    WanImage frame[MAX_CLIP];   // what it goes on from
    const WanImage *clip[MAX_CLIP];
} CausalCase;

static inline int list_of(double out[8], const cJSON *list)
{
    const cJSON *v;
    int n = 0;

    cJSON_ArrayForEach(v, list)
        out[n++] = v->valuedouble;
    return n;
}

static inline int asks_for(const CausalCase *c, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItem(c->what, key));
}

static inline const char *causal_prompt(const CausalCase *c, int i)
{
    const cJSON *p = cJSON_GetObjectItem(c->what, "prompts")->child;

    return (i ? p->next : p)->valuestring;
}

static inline void read_pixels(CausalCase *c)
{
    const GoldenTensor *t = golden_look(c->golden, "pixels");
    const int64_t size = t ? t->dim[1] * t->dim[2] * 3 : 0;

    for (int i = 0; t && i < t->dim[0]; i++) {
        c->frame[i] = (WanImage){ .size = sizeof(WanImage),
                                  .format = WAN_PIX_RGB24,
                                  .width = (int)t->dim[2],
                                  .height = (int)t->dim[1],
                                  .data = { (void *)(t->raw + i * size) },
                                  .stride = { 3 * t->dim[2] } };
        c->clip[i] = &c->frame[i];
    }
    if (t && t->dim[0] == 1)
        c->rq.image = c->frame;
    if (t && t->dim[0] > 1) {
        c->rq.clip = c->clip;
        c->rq.nb_clip = (int)t->dim[0];
    }
}

static inline void causal_open(CausalCase *c, const char *name)
{
    *c = (CausalCase){ .golden = golden_open(name) };
    c->what = golden_meta(c->golden, "case");
}

/* The folder of its checkpoint. */
static inline const char *causal_folder(const CausalCase *c)
{
    return strcmp(golden_meta_string(c->golden, "dit"), "wan-t2v")
           ? "tiny/wan-t2v-hd128" : "tiny/wan-t2v";
}

static inline void causal_request(CausalCase *c, WanModel *m)
{
    const cJSON *hw = cJSON_GetObjectItem(c->what, "hw");
    const cJSON *shift = cJSON_GetObjectItem(c->what, "shift");
    const cJSON *warp = cJSON_GetObjectItem(c->what, "warp");
    WanRequest *rq = &c->rq;

    wan_request_default(rq, m);
    CHECK(wan_request_preset(rq, m, "self-forcing") == 0);
    CHECK(rq->causal && rq->block == 3 && rq->steps == 4 && rq->warp);
    rq->prompt = causal_prompt(c, 0);
    rq->seed = golden_number(c->what, "seed", 0);
    rq->rng = WAN_RNG_CPU;
    rq->height = 8 * hw->child->valueint;
    rq->width = 8 * hw->child->next->valueint;
    rq->block = golden_number(c->what, "block", 0);
    rq->first_block = asks_for(c, "independent");
    rq->window = golden_number(c->what, "local", 0);
    rq->sink = golden_number(c->what, "sink", 0);
    rq->positions = asks_for(c, "infinity") ? WAN_POSITIONS_WINDOW
                                            : WAN_POSITIONS_ABSOLUTE;
    rq->prompt_switch = cJSON_GetObjectItem(c->what, "switch") &&
                        !asks_for(c, "plain_switch") ? WAN_SWITCH_RECACHE
                                                     : WAN_SWITCH_PLAIN;
    rq->sink_reset = cJSON_IsFalse(cJSON_GetObjectItem(c->what,
                                                       "global_sink"));
    rq->frames = 1 + 4 * (golden_number(c->what, "frames", 0) +
                          golden_number(c->what, "initial", 0) - 1);
    if (shift)
        rq->shift = shift->valuedouble;
    if (warp)
        rq->warp = cJSON_IsTrue(warp);
    if ((rq->nb_timesteps = list_of(c->timesteps[0], cJSON_GetObjectItem(
                                        c->what, "steps")))) {
        rq->timesteps = c->timesteps[0];
        rq->steps = rq->nb_timesteps;
    }
    if ((rq->nb_first_timesteps = list_of(c->timesteps[1], cJSON_GetObjectItem(
                                              c->what, "first_steps"))))
        rq->first_timesteps = c->timesteps[1];
    read_pixels(c);
}

static inline void causal_close(CausalCase *c)
{
    cJSON_Delete(c->what);
    golden_close(&c->golden);
}

/* When the prompt changes: the frame where it is asked for. */
static inline int causal_switch_at(const CausalCase *c)
{
    const cJSON *at = cJSON_GetObjectItem(c->what, "switch");

    return at ? at->child->valueint : -1;
}

/* Whether the second prompt is to be given now, so that it is there when the
 * block that begins at that frame or behind it begins. */
static inline int causal_switches(const CausalCase *c, const WanProgress *p)
{
    return causal_switch_at(c) >= 0 && p->stage == WAN_STAGE_STEPS &&
           (p->block + 1) * c->rq.block >= causal_switch_at(c);
}

#endif /* WAN_CAUSAL_CASE_H */
