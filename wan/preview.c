/*
 * A small picture of what a step foresees.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A tiny VAE decodes the frame, after the one before it as its past. Another
 * VAE would take as long as the step: in its place stands an affine map from
 * the 16 channels of a latent position to 2 x 2 pixels, the nearest to that
 * VAE in the sense of least squares over latents that are smooth in space and
 * nearly still in time, as those of videos are.
 */

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "preview.h"

#define BOX (WAN_SPACE_STRIDE / WAN_PREVIEW_SCALE)  // pixels that become one

/* The latents of the fit: in all a quarter of a latent frame of 832 x 480. */
enum { CLIPS = 2, FRAMES = 3, SIDE = 16, COARSE = 5 };

/* How large a latent's fine part is beside a coarse one of 1. */
#define FINE 0.35

/* ------------------------------------------------------------ of pixels */

int64_t wan_preview_bytes(int width, int height)
{
    return (int64_t)3 * sizeof(float) * width * height;
}

/* to[h / BOX, w / BOX, 3] += weight * means of boxes of from[h, w, 3] */
static void add_boxes(float *to, const float *from, int64_t h, int64_t w,
                      float weight)
{
    const float each = weight / (BOX * BOX);

    for (int64_t r = 0; r < h; r++)
        for (int64_t c = 0; c < w; c++, from += 3)
            for (int k = 0; k < 3; k++)
                to[(r / BOX * (w / BOX) + c / BOX) * 3 + k] += each * from[k];
}

/* Frames [n, H, W, 3] of the device, their mean, small: [H/4, W/4, 3] on the
 * host, of room for one frame. 0 or -1: the device has an error. */
static int mean_small(WanDev *d, float *to, float *host, const WanTensor *rgb)
{
    const int64_t n = rgb->dim[0], H = rgb->dim[1], W = rgb->dim[2];

    memset(to, 0, H / BOX * (W / BOX) * 3 * sizeof(*to));
    for (int64_t t = 0; t < n; t++) {
        const WanTensor frame = wan_slice(rgb, t, 1);

        wan_op_download(d, host, &frame);
        if (wan_dev_error(d))
            return -1;
        add_boxes(to, host, H, W, 1.f / n);
    }
    return 0;
}

/* Memory of the host's; NULL: none, and the device fails. */
static float *host_alloc(WanDev *d, int64_t n)
{
    float *p = malloc(n * sizeof(*p));

    if (!p)
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for the preview");
    return p;
}

/* -------------------------------------------------------------- the fit */

/* Normal equations: A map^T = B. */
typedef struct Fit {
    double A[WAN_PREVIEW_TERMS][WAN_PREVIEW_TERMS];
    double B[WAN_PREVIEW_TERMS][WAN_PREVIEW_VALUES];
} Fit;

static void add_sample(Fit *f, const double *terms, const double *values)
{
    for (int i = 0; i < WAN_PREVIEW_TERMS; i++) {
        for (int j = 0; j < WAN_PREVIEW_TERMS; j++)
            f->A[i][j] += terms[i] * terms[j];
        for (int j = 0; j < WAN_PREVIEW_VALUES; j++)
            f->B[i][j] += terms[i] * values[j];
    }
}

/* Gauss's way, in place; A is symmetric and positive. */
static void solve(Fit *f)
{
    enum { N = WAN_PREVIEW_TERMS, M = WAN_PREVIEW_VALUES };

    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            const double q = f->A[k][i] / f->A[i][i];

            for (int j = i; j < N && k != i; j++)
                f->A[k][j] -= q * f->A[i][j];
            for (int j = 0; j < M && k != i; j++)
                f->B[k][j] -= q * f->B[i][j];
        }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < M; j++)
            f->B[i][j] /= f->A[i][i];
}

/* The frame of latent z [16, SIDE * SIDE] and its picture [2 SIDE, 2 SIDE, 3],
 * less the border, whose pixels know of zeros around them. */
static void add_frame(Fit *f, const float *z, const float *picture)
{
    enum { S = WAN_PREVIEW_SCALE };

    for (int r = 1; r < SIDE - 1; r++)
        for (int c = 1; c < SIDE - 1; c++) {
            double terms[WAN_PREVIEW_TERMS], values[WAN_PREVIEW_VALUES];

            for (int i = 0; i < WAN_LATENT_CHANNELS; i++)
                terms[i] = z[(i * SIDE + r) * SIDE + c];
            terms[WAN_LATENT_CHANNELS] = 1;
            for (int i = 0; i < WAN_PREVIEW_VALUES; i++) {
                const int row = r * S + i / 3 / S, col = c * S + i / 3 % S;

                values[i] = picture[(row * SIDE * S + col) * 3 + i % 3];
            }
            add_sample(f, terms, values);
        }
}

/* z [16, n, SIDE, SIDE]: a coarse part that stays, and a fine one. */
static void make_latent(WanDev *d, WanTensor *z, int clip)
{
    const WanMark mark = wan_mark(d);
    const int64_t n = z->dim[1];
    WanTensor coarse = wan_tmp(d, z->dim[0], COARSE, COARSE);
    WanTensor smooth = wan_tmp(d, z->dim[0], SIDE, SIDE);
    WanTensor fine = wan_tmp_like(d, z);

    wan_op_noise(d, &coarse, WAN_RNG_CPU, 2 * clip, 256);
    wan_op_noise(d, &fine, WAN_RNG_CPU, 2 * clip + 1, 256);
    wan_op_resize(d, &smooth, &coarse);
    for (int64_t i = 0; i < z->dim[0] * n; i++) {
        const WanTensor planes = wan_reshape(&fine, z->dim[0] * n, SIDE, SIDE);
        const WanTensor a = wan_slice(&smooth, i / n, 1);
        const WanTensor b = wan_slice(&planes, i, 1);
        WanTensor to = wan_reshape(z, z->dim[0] * n, SIDE, SIDE);

        to = wan_slice(&to, i, 1);
        wan_op_lincomb(d, &to, 2, (double[]){ 1, FINE },
                       (const WanTensor *[]){ &a, &b });
    }
    wan_release(d, mark);
}

/* Decode a clip of n latent frames and add those that are like most: a
 * video's first one is of one picture, all others of four. */
static void add_clip(WanDev *d, Fit *f, const WanCodec *vae, int n, int clip,
                     float *host)
{
    enum { PIXELS = SIDE * WAN_SPACE_STRIDE, SMALL = PIXELS / BOX };
    const WanMark mark = wan_mark(d);
    WanTensor z = wan_tmp(d, WAN_LATENT_CHANNELS, n, SIDE, SIDE);
    WanTensor rgb = wan_tmp(d, WAN_TIME_STRIDE, PIXELS, PIXELS, 3);
    float picture[SMALL * SMALL * 3], plane[WAN_LATENT_CHANNELS * SIDE * SIDE];
    WanCodecStream s;

    make_latent(d, &z, clip);
    wan_codec_begin_decode(d, &s, vae, SIDE, SIDE);
    for (int t = 0; t < n; t++) {
        WanTensor now = wan_slice(&rgb, 0, t ? WAN_TIME_STRIDE : 1);

        wan_codec_decode(d, &now, vae, &s, &z);
        if (d->plan || (!t && n > 1) || mean_small(d, picture, host, &now) < 0)
            continue;
        for (int c = 0; c < WAN_LATENT_CHANNELS; c++) {
            const WanTensor of = wan_slice(&z, c, 1);
            const WanTensor frames = wan_reshape(&of, n, SIDE, SIDE);
            const WanTensor frame = wan_slice(&frames, t, 1);

            wan_op_download(d, plane + c * SIDE * SIDE, &frame);
        }
        if (!wan_dev_error(d))
            add_frame(f, plane, picture);
    }
    wan_release(d, mark);
}

static void fit(WanDev *d, WanPreview *p, int64_t T)
{
    const int64_t pixels = SIDE * WAN_SPACE_STRIDE;
    float *host = host_alloc(d, pixels * pixels * 3);
    Fit f = { 0 };

    if (!host)
        return;
    wan_section(d, "preview's map");
    for (int i = 0; i < WAN_PREVIEW_TERMS; i++)
        f.A[i][i] = 1e-3;
    for (int i = 0; i < CLIPS; i++)
        add_clip(d, &f, p->vae, T > 1 ? FRAMES : 1, i, host);
    free(host);
    solve(&f);
    for (int i = 0; i < WAN_PREVIEW_VALUES; i++)
        for (int j = 0; j < WAN_PREVIEW_TERMS; j++)
            p->map[i][j] = (float)f.B[j][i];
}

void wan_preview_begin(WanDev *d, WanPreview *p, const WanCodec *vae,
                       const WanTensor *latent, int lead)
{
    p->vae = vae;
    p->lead = lead;
    p->rgb = wan_tmp(d, WAN_PREVIEW_SCALE * latent->dim[2],
                     WAN_PREVIEW_SCALE * latent->dim[3], 3);
    if (!vae->family->quick)
        fit(d, p, latent->dim[1] - lead);
}

/* -------------------------------------------------------------- a step */

/* Frames [from, from + n) of x - sigma v as z [16, n, h, w]. */
static void foresee(WanDev *d, WanTensor *z, const WanTensor *x,
                    const WanTensor *v, double sigma, int64_t from)
{
    const int64_t T = x->dim[1], n = z->dim[1], h = x->dim[2], w = x->dim[3];

    for (int64_t c = 0; c < x->dim[0]; c++) {
        const WanTensor *const of[] = { x, v };
        WanTensor part[2], to = wan_slice(z, c, 1);

        for (int i = 0; i < 2; i++) {
            part[i] = wan_slice(of[i], c, 1);
            part[i] = wan_reshape(&part[i], T, h, w);
            part[i] = wan_slice(&part[i], from, n);
        }
        wan_op_lincomb(d, &to, 2, (double[]){ 1, -sigma },
                       (const WanTensor *[]){ &part[0], &part[1] });
    }
}

/* picture [2h, 2w, 3] of z [16, h, w], on the host. */
static void map_latent(const WanPreview *p, float *picture, const float *z,
                       int64_t h, int64_t w)
{
    enum { S = WAN_PREVIEW_SCALE };

    for (int64_t r = 0; r < h; r++)
        for (int64_t c = 0; c < w; c++)
            for (int i = 0; i < WAN_PREVIEW_VALUES; i++) {
                const int64_t row = r * S + i / 3 / S, col = c * S + i / 3 % S;
                float sum = p->map[i][WAN_LATENT_CHANNELS];

                for (int k = 0; k < WAN_LATENT_CHANNELS; k++)
                    sum += p->map[i][k] * z[(k * h + r) * w + c];
                picture[(row * w * S + col) * 3 + i % 3] = sum;
            }
}

/* The last of z's frames, decoded and small, on the host. */
static int decode_small(WanDev *d, const WanPreview *p, float *picture,
                        float *host, const WanTensor *z)
{
    const int64_t n = z->dim[1], h = z->dim[2], w = z->dim[3];
    WanTensor rgb = wan_tmp(d, n > 1 ? WAN_TIME_STRIDE : 1,
                            WAN_SPACE_STRIDE * h, WAN_SPACE_STRIDE * w, 3);
    WanTensor frame = wan_slice(&rgb, 0, 1);
    WanCodecStream s;

    wan_codec_begin_decode(d, &s, p->vae, h, w);
    for (int64_t t = 0; t < n; t++) {
        WanTensor now = wan_slice(&rgb, 0, t ? WAN_TIME_STRIDE : 1);

        wan_codec_decode(d, &now, p->vae, &s, z);
    }
    return d->plan ? -1 : mean_small(d, picture, host, &frame);
}

void wan_preview_step(WanDev *d, WanPreview *p, const WanTensor *x,
                      const WanTensor *v, double sigma)
{
    const WanMark mark = wan_mark(d);
    const int quick = p->vae->family->quick;
    const int64_t h = x->dim[2], w = x->dim[3];
    const int64_t middle = p->lead + (x->dim[1] - p->lead) / 2;
    const int64_t n = quick && middle > p->lead ? 2 : 1, pixels = 3 * h * w;
    const int64_t small = pixels * WAN_PREVIEW_SCALE * WAN_PREVIEW_SCALE;
    WanTensor z = wan_tmp(d, WAN_LATENT_CHANNELS, n, h, w);
    float *picture, *host;
    int ready;

    wan_section(d, "preview");
    picture = host_alloc(d, small);
    host = host_alloc(d, pixels * WAN_SPACE_STRIDE * WAN_SPACE_STRIDE);
    if (picture && host) {
        foresee(d, &z, x, v, sigma, middle + 1 - n);
        if (quick) {
            ready = decode_small(d, p, picture, host, &z) >= 0;
        } else {
            wan_op_download(d, host, &z);
            ready = !d->plan && !wan_dev_error(d);
            if (ready)
                map_latent(p, picture, host, h, w);
        }
        if (ready || d->plan)
            wan_op_upload(d, &p->rgb, picture);
    }
    free(picture);
    free(host);
    wan_release(d, mark);
}
