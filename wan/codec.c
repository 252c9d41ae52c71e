/*
 * Between latents and pixels: which family, and what all have.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <string.h>

#include "codec.h"

WanTensor wan_codec_constant(WanBinder *b, int n, const float *v,
                             const float *w)
{
    float *p = wan_pool_alloc(b->pool, n * sizeof(*p));

    if (!p) {
        if (!b->error)
            b->error = wan_error_memory(b->log, "model", "the VAE's scales");
        return (WanTensor){ 0 };
    }
    for (int i = 0; i < n; i++)
        p[i] = w ? v[i] / w[i] : v[i];
    return wan_tensor_of(p, WAN_F32, n);
}

int wan_codec_bind(WanCodec *c, const WanVaeConfig *config, int encoder,
                   WanBinder *b)
{
    static const float one[3] = { 1, 1, 1 }, zero[3];

    c->config = *config;
    c->family = &wan_codec_vae;
    c->net = wan_pool_alloc(b->pool, c->family->net_bytes);
    if (!c->net)
        return wan_error_memory(b->log, "model", "the VAE");
    memset(c->net, 0, c->family->net_bytes);
    c->one = wan_codec_constant(b, 3, one, NULL);
    c->zero = wan_codec_constant(b, 3, zero, NULL);
    return c->family->bind(c->net, config, encoder, b);
}
