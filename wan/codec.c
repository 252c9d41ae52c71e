/*
 * Between latents and pixels: which family, and what all have.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <string.h>

#include "codec.h"

const float wan_codec_mean[WAN_LATENT_CHANNELS] = {
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
};
const float wan_codec_std[WAN_LATENT_CHANNELS] = {
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
};

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

void wan_codec_scales(WanBinder *b, int n, const float *m, const float *s,
                      WanTensor *std, WanTensor *mean, WanTensor *to_std,
                      WanTensor *to_mean)
{
    float one[WAN_CODEC_CHANNELS], zero[WAN_CODEC_CHANNELS];
    float negative[WAN_CODEC_CHANNELS];

    for (int i = 0; i < n; i++) {
        one[i] = 1;
        zero[i] = 0;
        negative[i] = m ? -m[i] : 0;
    }
    *mean = wan_codec_constant(b, n, m ? m : zero, NULL);
    *std = wan_codec_constant(b, n, s ? s : one, NULL);
    *to_std = wan_codec_constant(b, n, one, s);
    *to_mean = wan_codec_constant(b, n, negative, s);
}

const WanCodecFamily *wan_codec_family(WanVaeFamily family)
{
    static const WanCodecFamily *const table[] = {
        [WAN_VAE_WAN21] = &wan_codec_vae, [WAN_VAE_WAN22] = &wan_codec_vae22,
        [WAN_VAE_TAEHV] = &wan_codec_taehv,
    };

    return table[family];
}

int wan_codec_has_encoder(const WanVaeConfig *config, const WanWeights *w,
                          WanNaming naming)
{
    char name[160];

    return wan_weights_find(w, wan_name_in(naming, WAN_PART_VAE,
                                           config->family == WAN_VAE_TAEHV
                                           ? "encoder.0.weight"
                                           : "encoder.conv1.weight", name,
                                           sizeof(name))) != NULL;
}

int wan_codec_bind(WanCodec *c, const WanVaeConfig *config, int encoder,
                   WanBinder *b)
{
    static const float one[3] = { 1, 1, 1 }, zero[3];

    c->config = *config;
    c->family = wan_codec_family(config->family);
    c->encodes = encoder;
    c->net = wan_pool_alloc(b->pool, c->family->net_bytes);
    if (!c->net)
        return wan_error_memory(b->log, "model", "the VAE");
    memset(c->net, 0, c->family->net_bytes);
    c->one = wan_codec_constant(b, 3, one, NULL);
    c->zero = wan_codec_constant(b, 3, zero, NULL);
    return c->family->bind(c->net, config, encoder, b);
}

void wan_codec_decode_together(WanDev *d, WanTensor *rgb, const WanCodec *c,
                               WanCodecStream *s, const WanTensor *latent)
{
    const int64_t rows = wan_codec_share(d, s, s->rows).n;
    const WanMark mark = wan_mark(d);
    WanTensor own = *rgb;

    if (s->rows)
        own = wan_tmp(d, rgb->dim[0], rows * c->family->stride, rgb->dim[2], 3);
    wan_codec_decode(d, &own, c, s, latent);
    wan_op_finite(d, &own, "decoded chunk %lld: a pixel",
                  (long long)s->frames);
    if (s->rows)
        wan_op_collect(d, rgb, &own, s->rows);
    wan_release(d, mark);
}
