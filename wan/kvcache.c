/*
 * Keys and values of the frames a causal model looks back on.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include "kvcache.h"

void wan_kvcache_init(WanKvCache *c, int window, int sink, int64_t tokens)
{
    *c = (WanKvCache){ .tokens = tokens, .window = window, .sink = sink };
}

void wan_kvcache_restart(WanKvCache *c, int64_t origin)
{
    c->origin = origin;
}

int wan_kvcache_slot(const WanKvCache *c, int64_t frame)
{
    const int64_t n = frame - c->origin;

    return (int)(n < c->sink ? n : c->sink + (n - c->sink) %
                                             (c->window - c->sink));
}

int wan_kvcache_held(const WanKvCache *c)
{
    const int64_t n = c->first + c->frames - c->origin;

    return (int)(n < c->window ? n : c->window);
}

int wan_kvcache_rank(const WanKvCache *c, int slot)
{
    const int ring = c->window - c->sink;
    const int64_t end = c->first + c->frames;

    if (slot < c->sink || end - c->origin <= c->window)
        return slot;
    return c->sink + (slot - wan_kvcache_slot(c, end - ring) + ring) % ring;
}

void wan_kvcache_place(WanKvCache *c, int64_t first, int n)
{
    c->first = first;
    c->frames = n;
    c->at = wan_kvcache_slot(c, first) * c->tokens;
    c->held = wan_kvcache_held(c) * c->tokens;
    c->rope.grid[0] = wan_kvcache_held(c);
}

void wan_kvcache_reserve(WanKvCache *c, WanDev *d, int layers, int heads,
                         int64_t D)
{
    const int64_t width = wan_ring_width(d, heads, D);

    c->k = wan_tmp_act(d, layers, c->window * c->tokens, width);
    c->v = wan_tmp_act(d, layers, c->window * c->tokens, width);
}

WanTensor wan_kvcache_layer(const WanTensor *all, int layer)
{
    const WanTensor one = wan_slice(all, layer, 1);

    return wan_reshape(&one, all->dim[1], all->dim[2]);
}
