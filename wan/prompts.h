/*
 * Encoded prompts that the clips of a model share: a stream with the same
 * words encodes nothing.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_PROMPTS_H
#define WAN_PROMPTS_H

#include <stdint.h>

/* Of all that is kept, at most: four prompts of 512 tokens and 4096 numbers
 * each, or a few dozen as people write them. */
#define WAN_PROMPTS_BYTES (32 << 20)

typedef struct WanPrompts WanPrompts;

/** @return nothing kept yet; NULL: no memory. Any thread may use it. */
WanPrompts *wan_prompts_alloc(void);
void wan_prompts_free(WanPrompts **p);

/**
 * Recall a prompt.
 *
 * @param ids  its n tokens
 * @param dim  numbers a token
 * @return [n, dim], the caller's to free(); NULL: it is not kept, or there was
 *         no memory for the copy
 */
float *wan_prompts_get(WanPrompts *p, const int32_t *ids, int n, int dim);

/** Keep a copy of a prompt's encoding [n, dim], in place of those that were
 *  not recalled for longest if there is no room. Without memory, or larger
 *  than all that may be kept, it is not kept. */
void wan_prompts_put(WanPrompts *p, const int32_t *ids, int n, int dim,
                     const float *encoding);

#endif /* WAN_PROMPTS_H */
