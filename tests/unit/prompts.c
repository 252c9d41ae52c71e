/*
 * Encoded prompts that are kept: which are recalled, and which have gone.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <stdlib.h>

#include "prompts.h"
#include "test.h"

#define DIM 4096

/* A prompt of n tokens that begins with id, and its encoding. */
static void put(WanPrompts *p, int32_t id, int n, int dim)
{
    int32_t *ids = calloc(n, sizeof(*ids));
    float *x = malloc(sizeof(*x) * n * dim);

    ids[0] = id;
    for (int i = 0; i < n * dim; i++)
        x[i] = id + i * 0.5f;
    wan_prompts_put(p, ids, n, dim, x);
    free(ids);
    free(x);
}

/* Whether it is kept, as it was put. */
static int kept(WanPrompts *p, int32_t id, int n, int dim)
{
    int32_t *ids = calloc(n, sizeof(*ids));
    float *x;

    ids[0] = id;
    x = wan_prompts_get(p, ids, n, dim);
    for (int i = 0; x && i < n * dim; i++)
        if (x[i] != id + i * 0.5f) {
            CHECKF(0, "prompt %d of %d tokens: number %d is %g", id, n, i,
                   x[i]);
            break;
        }
    free(ids);
    free(x);
    return x != NULL;
}

TEST(all_tokens_tell)
{
    WanPrompts *p = wan_prompts_alloc();

    put(p, 1, 3, 8);
    put(p, 2, 3, 8);
    put(p, 2, 3, 8);                            // by another job
    CHECK(kept(p, 1, 3, 8) && kept(p, 2, 3, 8));
    CHECK(!kept(p, 3, 3, 8));
    CHECK(!kept(p, 1, 2, 8) && !kept(p, 1, 4, 8) && !kept(p, 1, 3, 7));
    wan_prompts_free(&p);
    CHECK(!p);
    wan_prompts_free(&p);
}

/* Four prompts of 512 tokens fit; the fifth takes the place of the one that
 * was not recalled for longest, which is not the oldest. */
TEST(bounded)
{
    WanPrompts *p = wan_prompts_alloc();

    for (int i = 1; i <= 4; i++)
        put(p, i, 512, DIM);
    for (int i = 1; i <= 4; i++)
        CHECKF(kept(p, i, 512, DIM), "prompt %d has gone", i);
    CHECK(kept(p, 1, 512, DIM));
    put(p, 5, 512, DIM);
    CHECK(kept(p, 1, 512, DIM) && !kept(p, 2, 512, DIM) &&
          kept(p, 3, 512, DIM) && kept(p, 4, 512, DIM) &&
          kept(p, 5, 512, DIM));
    put(p, 6, 1, DIM);                          // one has to go for a small one
    CHECK(!kept(p, 1, 512, DIM) && kept(p, 6, 1, DIM));
    put(p, 7, WAN_PROMPTS_BYTES / DIM / 4 + 1, DIM);
    CHECK(!kept(p, 7, WAN_PROMPTS_BYTES / DIM / 4 + 1, DIM));
    CHECK(kept(p, 6, 1, DIM) && kept(p, 3, 512, DIM));
    put(p, 8, WAN_PROMPTS_BYTES / DIM / 4, DIM);
    CHECK(kept(p, 8, WAN_PROMPTS_BYTES / DIM / 4, DIM));
    CHECK(!kept(p, 6, 1, DIM) && !kept(p, 3, 512, DIM));
    wan_prompts_free(&p);
}

int main(void)
{
    RUN(all_tokens_tell);
    RUN(bounded);
    return test_end();
}
