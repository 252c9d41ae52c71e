/*
 * Encoded prompts that the clips of a model share: a list, the last recalled
 * in front.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "prompts.h"

typedef struct Entry {
    struct Entry *next;
    int n, dim;
    float *encoding;            // [n, dim]
    int32_t ids[];              // [n]
} Entry;

struct WanPrompts {
    pthread_mutex_t lock;       // of all below
    Entry *first;
    int64_t bytes;              // of all encodings
};

WanPrompts *wan_prompts_alloc(void)
{
    WanPrompts *p = calloc(1, sizeof(*p));

    if (p && pthread_mutex_init(&p->lock, NULL)) {
        free(p);
        return NULL;
    }
    return p;
}

static int64_t encoding_bytes(int n, int dim)
{
    return (int64_t)n * dim * sizeof(float);
}

/* Take *e out of the list and free it. */
static void drop(WanPrompts *p, Entry **e)
{
    Entry *entry = *e;

    *e = entry->next;
    p->bytes -= encoding_bytes(entry->n, entry->dim);
    free(entry->encoding);
    free(entry);
}

void wan_prompts_free(WanPrompts **pp)
{
    WanPrompts *p = *pp;

    *pp = NULL;
    if (!p)
        return;
    while (p->first)
        drop(p, &p->first);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* The prompt, moved to the front; NULL: it is not kept. */
static Entry *find(WanPrompts *p, const int32_t *ids, int n, int dim)
{
    for (Entry **at = &p->first; *at; at = &(*at)->next) {
        Entry *e = *at;

        if (e->n == n && e->dim == dim &&
            !memcmp(e->ids, ids, n * sizeof(*ids))) {
            *at = e->next;
            e->next = p->first;
            return p->first = e;
        }
    }
    return NULL;
}

float *wan_prompts_get(WanPrompts *p, const int32_t *ids, int n, int dim)
{
    float *copy = NULL;
    const Entry *e;

    pthread_mutex_lock(&p->lock);
    e = find(p, ids, n, dim);
    if (e && (copy = malloc(encoding_bytes(n, dim))))
        memcpy(copy, e->encoding, encoding_bytes(n, dim));
    pthread_mutex_unlock(&p->lock);
    return copy;
}

static Entry *new_entry(const int32_t *ids, int n, int dim,
                        const float *encoding)
{
    Entry *e = malloc(sizeof(*e) + n * sizeof(*ids));

    if (!e)
        return NULL;
    *e = (Entry){ .n = n, .dim = dim };
    if (!(e->encoding = malloc(encoding_bytes(n, dim)))) {
        free(e);
        return NULL;
    }
    memcpy(e->ids, ids, n * sizeof(*ids));
    memcpy(e->encoding, encoding, encoding_bytes(n, dim));
    return e;
}

void wan_prompts_put(WanPrompts *p, const int32_t *ids, int n, int dim,
                     const float *encoding)
{
    const int64_t bytes = encoding_bytes(n, dim);
    Entry *e;

    if (bytes > WAN_PROMPTS_BYTES)
        return;
    pthread_mutex_lock(&p->lock);
    /* Two jobs may have encoded the same words at the same time. */
    if (!find(p, ids, n, dim) && (e = new_entry(ids, n, dim, encoding))) {
        while (p->bytes + bytes > WAN_PROMPTS_BYTES) {
            Entry **last = &p->first;

            while ((*last)->next)
                last = &(*last)->next;
            drop(p, last);
        }
        e->next = p->first;
        p->first = e;
        p->bytes += bytes;
    }
    pthread_mutex_unlock(&p->lock);
}
