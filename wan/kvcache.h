/*
 * Keys and values of the frames a causal model looks back on: a ring of slots,
 * one a latent frame, behind some that stay, the sink.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Frame f is in slot f - origin, until the slots are used up; then the oldest
 * frame behind the sink makes room, so that the frames held are the sink's and
 * the last ones. Attention does not see in which order slots lie. Frames are
 * counted in 64 bits from the start of the video.
 */

#ifndef WAN_KVCACHE_H
#define WAN_KVCACHE_H

#include "ops.h"

typedef struct WanKvCache {
    int64_t tokens;             // of a frame: rows of a slot
    int window, sink;           // slots; sink < window
    int64_t origin;             // frame of the first slot

    /* What a forward runs on: wan_kvcache_place(). */
    int64_t first;
    int frames;
    int64_t at, held;           // in rows, as wan_op_ring_attention() has them

    WanTensor k, v;             // [layers, window * tokens, D], activations; of
                                // ranks those of its heads: wan_ring_width()
    /* Positions relative to the window: keys are kept unturned, and this turns
     * those that are held. table[0] is NULL: keys are kept turned. */
    WanRope rope;
} WanKvCache;

/* Counters alone: an empty ring. */
void wan_kvcache_init(WanKvCache *c, int window, int sink, int64_t tokens);

/* Empty it; frame origin will be its first. */
void wan_kvcache_restart(WanKvCache *c, int64_t origin);

/* The next forward is of n frames from first on, none before origin, and no
 * more than fit behind the sink once it is full. They are the newest: frames
 * behind them count as never seen. */
void wan_kvcache_place(WanKvCache *c, int64_t first, int n);

/* Where a frame is kept. */
int wan_kvcache_slot(const WanKvCache *c, int64_t frame);

/* Slots in use once the placed frames are there. */
int wan_kvcache_held(const WanKvCache *c);

/* The place of a slot's frame among those held, oldest first. */
int wan_kvcache_rank(const WanKvCache *c, int slot);

/* Memory of all layers from the arena. */
void wan_kvcache_reserve(WanKvCache *c, WanDev *d, int layers, int heads,
                         int64_t D);

/* Keys and values of a layer, [window * tokens, D]. */
WanTensor wan_kvcache_layer(const WanTensor *all, int layer);

#endif /* WAN_KVCACHE_H */
