/*
 * Between latents and pixels: one interface, a row for each family of VAEs.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A stream goes through a clip once, in one direction, one latent frame at a
 * time, and keeps what the family remembers of the frames before. So memory
 * does not grow with the clip's length. Pixels are f32, -1 to 1, channels
 * last; latents are as the sampler has them.
 */

#ifndef WAN_CODEC_H
#define WAN_CODEC_H

#include "config.h"
#include "ops.h"

/* As much as any family remembers in one direction. */
#define WAN_CODEC_PASTS 32

/* The most channels that latents of any have. */
#define WAN_CODEC_CHANNELS 48

typedef struct WanCodecStream {
    WanTensor past[WAN_CODEC_PASTS];    // in the arena; which is the family's
    int64_t frames;                     // latent frames done so far
    int64_t first;                      // frame of the clip that the latent's
                                        // first is, of who has a part of it
    int64_t rows;                       // of the latent, which all ranks decode
                                        // together; 0: this one has them all
} WanCodecStream;

/* The frame of its latent that a stream is at. */
static inline int64_t wan_codec_at(const WanCodecStream *s)
{
    return s->frames - s->first;
}

/* net: the family's struct of weights. */
typedef struct WanCodecFamily {
    const char *name;
    int64_t net_bytes;
    int quick;                  // to decode a frame is little beside a step
    int channels;               // of a latent
    int stride;                 // pixels of a latent position, each way
    int first_group;            // pixel frames that the first latent frame is
                                // encoded from; WAN_TIME_STRIDE each later
    int (*bind)(void *net, const WanVaeConfig *config, int encoder,
                WanBinder *b);
    void (*begin_decode)(WanDev *d, WanCodecStream *s, const void *net,
                         int64_t h, int64_t w);
    void (*decode)(WanDev *d, WanTensor *rgb, const void *net,
                   WanCodecStream *s, const WanTensor *latent);
    void (*begin_encode)(WanDev *d, WanCodecStream *s, const void *net,
                         int64_t H, int64_t W);
    void (*encode)(WanDev *d, WanTensor *latent, const void *net,
                   WanCodecStream *s, const WanTensor *rgb);
} WanCodecFamily;

extern const WanCodecFamily wan_codec_vae, wan_codec_vae22, wan_codec_taehv;

const WanCodecFamily *wan_codec_family(WanVaeFamily family);

/* A bound VAE; its memory is the binder's pool's. */
typedef struct WanCodec {
    const WanCodecFamily *family;
    WanVaeConfig config;
    void *net;
    int encodes;                // the encoder is bound too
    WanTensor one, zero;        // [3]: pixels go in as they are
} WanCodec;

/* Whether a file holds an encoder: text to video can do without. */
int wan_codec_has_encoder(const WanVaeConfig *config, const WanWeights *w,
                          WanNaming naming);

/* Bind what decoding needs, and with encoder != 0 what encoding does; the
 * binder's error. */
int wan_codec_bind(WanCodec *c, const WanVaeConfig *config, int encoder,
                   WanBinder *b);

/* n numbers of ours where the model's own vectors live; with w: v / w. */
WanTensor wan_codec_constant(WanBinder *b, int n, const float *v,
                             const float *w);

/* Wan 2.1's latent statistics, per channel; the same in every checkpoint. */
extern const float wan_codec_mean[WAN_LATENT_CHANNELS];
extern const float wan_codec_std[WAN_LATENT_CHANNELS];

/* Vectors [n] of the way to a net's latents, x * s + m, and back: of n numbers
 * s and m each, NULL: the latents are the sampler's own, nothing changes. */
void wan_codec_scales(WanBinder *b, int n, const float *m, const float *s,
                      WanTensor *std, WanTensor *mean, WanTensor *to_std,
                      WanTensor *to_mean);

/* What a video's sides are multiples of: tokens are two by two positions. */
static inline int wan_codec_multiple(const WanCodec *c)
{
    return 2 * c->family->stride;
}

/* Of h rows of the latent those that this rank decodes. */
static inline WanShare wan_codec_share(const WanDev *d,
                                       const WanCodecStream *s, int64_t h)
{
    return s->rows ? wan_share(d, h) : (WanShare){ 0, h };
}

/* This rank's rows of z [1, h, w, channels]. */
static inline WanTensor wan_codec_own(const WanDev *d, const WanCodecStream *s,
                                      const WanTensor *z)
{
    const WanShare own = wan_codec_share(d, s, z->dim[1]);
    const WanTensor rows = wan_reshape(z, z->dim[1], z->dim[2] * z->dim[3]);
    const WanTensor mine = wan_slice(&rows, own.first, own.n);

    return wan_reshape(&mine, 1, own.n, z->dim[2], z->dim[3]);
}

/* Take what the stream remembers of a latent of h x w from the arena. */
static inline void wan_codec_begin_decode(WanDev *d, WanCodecStream *s,
                                          const WanCodec *c, int64_t h,
                                          int64_t w)
{
    s->first = s->rows = 0;
    c->family->begin_decode(d, s, c->net, h, w);
}

/* The same where all ranks decode it together, if there are any. */
static inline void wan_codec_begin_rows(WanDev *d, WanCodecStream *s,
                                        const WanCodec *c, int64_t h, int64_t w)
{
    s->first = 0;
    s->rows = d->ranks ? h : 0;
    c->family->begin_decode(d, s, c->net, wan_codec_share(d, s, h).n, w);
}

/**
 * Decode the stream's next latent frame.
 *
 * @param rgb    [1, s h, s w, 3] for the first frame, then [4, s h, s w, 3], s
 *               the stride; need not be clamped. h is wan_codec_share().n
 * @param latent [channels, T, h, w] as sampled; frame wan_codec_at() is read
 */
static inline void wan_codec_decode(WanDev *d, WanTensor *rgb,
                                    const WanCodec *c, WanCodecStream *s,
                                    const WanTensor *latent)
{
    c->family->decode(d, rgb, c->net, s, latent);
}

/**
 * The same by all ranks that the stream's rows say, each its rows of the frame:
 * the host gets them all.
 *
 * @param rgb whole; of a rank that is not the host a shape alone
 */
void wan_codec_decode_together(WanDev *d, WanTensor *rgb, const WanCodec *c,
                               WanCodecStream *s, const WanTensor *latent);

/* The same for encoding pixels of H x W. */
static inline void wan_codec_begin_encode(WanDev *d, WanCodecStream *s,
                                          const WanCodec *c, int64_t H,
                                          int64_t W)
{
    s->first = s->rows = 0;
    c->family->begin_encode(d, s, c->net, H, W);
}

/* The pixel frames that latent frame t is encoded from, *n of them. Frames
 * behind the clip's last one are that one again. */
static inline int64_t wan_codec_group(const WanCodec *c, int64_t t, int *n)
{
    *n = t ? WAN_TIME_STRIDE : c->family->first_group;
    return t ? c->family->first_group + (t - 1) * WAN_TIME_STRIDE : 0;
}

/**
 * Encode the stream's next group of frames.
 *
 * @param latent [channels, T, H/s, W/s], as the sampler has it; frame s->frames is
 *               written
 * @param rgb    [n, H, W, 3] as wan_codec_group() has it; -1 to 1
 */
static inline void wan_codec_encode(WanDev *d, WanTensor *latent,
                                    const WanCodec *c, WanCodecStream *s,
                                    const WanTensor *rgb)
{
    c->family->encode(d, latent, c->net, s, rgb);
}

#endif /* WAN_CODEC_H */
