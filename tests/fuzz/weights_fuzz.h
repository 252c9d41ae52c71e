/*
 * For the fuzz targets of weight files: open, look at every tensor, close.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_WEIGHTS_FUZZ_H
#define WAN_WEIGHTS_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../wan/formats/formats.h"

static inline void fuzz_line(void *opaque, enum WanLogLevel level,
                             const char *line)
{
    (void)opaque;
    (void)level;
    if (!*line)
        abort();
}

/* The bytes as a file of that name: opened or refused. Every stored byte can
 * be read, and every tensor bound. */
static inline void fuzz_weights(const char *path, const uint8_t *data,
                                size_t size)
{
    static const WanLog log = { fuzz_line, NULL, WAN_LOG_DEBUG };
    WanPool pool = { 0 };
    WanWeights *w;
    volatile uint8_t seen;

    if (wan_weights_open_memory(&w, path, data, size, &log) < 0) {
        if (w)
            abort();
        return;
    }
    for (int i = 0; i < wan_weights_count(w); i++) {
        const WanStored *s = wan_weights_at(w, i);
        WanBinder b = { .weights = w, .pool = &pool, .log = &log };
        int64_t dim[WAN_STORED_MAX_DIMS] = { 1 };
        const int n = s->nb_dims ? s->nb_dims : 1;
        WanTensor t;

        memcpy(dim, s->dim, s->nb_dims * sizeof(*dim));
        if (wan_weights_find(w, s->name) != s)
            abort();
        if (s->data && s->bytes) {
            seen = ((const uint8_t *)s->data)[0];
            seen = ((const uint8_t *)s->data)[s->bytes - 1];
        }
        /* more than any model asks for; of a type that is not read any number
         * of elements takes no bytes */
        if (n > WAN_MAX_DIMS || s->bytes > 4096 ||
            wan_shape_bytes(n, dim, 1) > 1 << 24)
            continue;
        wan_bind_matrix_(&b, &t, s->name, n, dim);
        b.error = 0;
        wan_bind_vector_(&b, &t, s->name, n, dim);
        b.error = 0;
        /* no model has a longer side, see dim_of() in config.c */
        if (n == 2 && dim[0] <= 1 << 24 && strlen(s->name) > 7 &&
            !strcmp(s->name + strlen(s->name) - 7, ".weight")) {
            char prefix[200];
            WanLinear l;

            snprintf(prefix, sizeof(prefix), "%.*s",
                     (int)strlen(s->name) - 7, s->name);
            wan_bind_linear(&b, &l, prefix, dim[0], dim[1], 1);
        }
    }
    (void)seen;
    wan_pool_free(&pool);
    wan_weights_close(&w);
}

#endif /* WAN_WEIGHTS_FUZZ_H */
