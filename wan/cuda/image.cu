/*
 * Between tokens, latents and pixels: ops that change the order of numbers,
 * and pixels into the caller's planes.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <string.h>

#include "kernel.h"

extern "C" {
#include "image.h"
}

#define THREADS 256

/* -------------------------------------------------------------- patches */

/* tokens[(t, i, j), (c*p + q)*p + r] = x[c, t, p*i + q, p*j + r]: a block
 * column of tokens' features per thread, tokens along the grid. */
template<typename TY, typename TX>
static __global__ void patchify_kernel(TY *y, int64_t pitch, const TX *x,
                                       int T, int H, int W, int p, int cols)
{
    const int64_t token = blockIdx.x;
    const int w = W / p, h = H / p;
    const int j = token % w, i = token / w % h, t = token / w / h;

    for (int f = threadIdx.x; f < cols; f += blockDim.x) {
        const int r = f % p, q = f / p % p, c = f / p / p;
        const int64_t at = (((int64_t)c * T + t) * H + p * i + q) * W +
                           p * j + r;

        y[token * pitch + f] = from_float<TY>(to_float(x[at]));
    }
}

extern "C" void wan_cuda_patchify(WanDev *d, WanTensor *tokens,
                                  const WanTensor *x, int p)
{
    const int cols = (int)wan_cols(tokens);

    if (!wan_count(x) || d->error)
        return;
    with_type(d, "patchify", tokens, [&](auto ty) {
        with_type(d, "patchify", x, [&](auto tx) {
            typedef decltype(ty) TY;
            typedef decltype(tx) TX;

            WAN_LAUNCH((patchify_kernel<TY, TX>), wan_rows(tokens),
                       wan_block(cols, THREADS), 0, wan_cuda_stream(d),
                       (TY *)tokens->data, tokens->pitch, (const TX *)x->data,
                       (int)x->dim[1], (int)x->dim[2], (int)x->dim[3], p,
                       cols);
        });
    });
    wan_cuda_launched(d, "patchify");
}

/* x[c, t, 2i+q, 2j+r] = z[(t, i, j), (q*2 + r)*O + c]: a row of x per block
 * (c, t, row). */
template<typename TX, typename TZ>
static __global__ void unpatchify_kernel(TX *x, const TZ *z, int64_t pitch,
                                         int O, int T, int H, int W)
{
    const int row = blockIdx.x % H, t = blockIdx.x / H % T;
    const int c = blockIdx.x / H / T;

    for (int col = threadIdx.x; col < W; col += blockDim.x) {
        const int64_t token = ((int64_t)t * (H / 2) + row / 2) * (W / 2) +
                              col / 2;
        const int f = (row % 2 * 2 + col % 2) * O + c;

        x[(int64_t)blockIdx.x * W + col] =
            from_float<TX>(to_float(z[token * pitch + f]));
    }
}

extern "C" void wan_cuda_unpatchify(WanDev *d, WanTensor *x,
                                    const WanTensor *z)
{
    const int O = (int)x->dim[0], T = (int)x->dim[1], H = (int)x->dim[2];
    const int W = (int)x->dim[3];

    if (!wan_count(x) || d->error)
        return;
    with_type(d, "unpatchify", x, [&](auto tx) {
        with_type(d, "unpatchify", z, [&](auto tz) {
            typedef decltype(tx) TX;
            typedef decltype(tz) TZ;

            WAN_LAUNCH((unpatchify_kernel<TX, TZ>), (int64_t)O * T * H,
                       wan_block(W, THREADS), 0, wan_cuda_stream(d),
                       (TX *)x->data, (const TZ *)z->data, z->pitch, O, T, H,
                       W);
        });
    });
    wan_cuda_launched(d, "unpatchify");
}

/* -------------------------------------------------------------- folding */

/* Frames, rows and columns of the side with fewer positions, and of a fold of
 * the other. */
typedef struct Folding {
    int H, W, t, s, lead, columns_first;
} Folding;

/* The other side's row of part k of position row; -1: before its start. */
static __device__ inline int64_t folded_row(Folding f, int64_t row, int k)
{
    const int64_t t = row / f.W / f.H * f.t + k / (f.s * f.s) - f.lead;
    const int slow = k / f.s % f.s, fast = k % f.s;
    const int64_t i = row / f.W % f.H * f.s + (f.columns_first ? fast : slow);
    const int64_t j = row % f.W * f.s + (f.columns_first ? slow : fast);

    return t < 0 ? -1 : (t * f.H * f.s + i) * f.W * f.s + j;
}

/* y[row, o] = sum over e < n of x[row of e, channel of e] / n: a row of y per
 * block. */
template<typename TY, typename TX>
static __global__ void fold_kernel(TY *y, int64_t y_pitch, int b, const TX *x,
                                   int64_t x_pitch, int n, int add, Folding f)
{
    const int K = f.t * f.s * f.s;
    const int64_t row = blockIdx.x;

    for (int o = threadIdx.x; o < b; o += blockDim.x) {
        TY *out = y + row * y_pitch + o;
        float sum = 0;

        for (int e = o * n; e < (o + 1) * n; e++) {
            const int64_t from = folded_row(f, row, e % K);

            sum += from < 0 ? 0 : to_float(x[from * x_pitch + e / K]);
        }
        *out = from_float<TY>(sum / n + (add ? to_float(*out) : 0));
    }
}

/* y[row of k, o] = x[row, (o K + k) / n]: a row of x per block, elements of
 * its part of y over the threads, channels fastest. */
template<typename TY, typename TX>
static __global__ void unfold_kernel(TY *y, int64_t y_pitch, int b,
                                     const TX *x, int64_t x_pitch, int n,
                                     int add, Folding f)
{
    const int K = f.t * f.s * f.s;
    const int64_t row = blockIdx.x;

    for (int e = threadIdx.x; e < K * b; e += blockDim.x) {
        const int k = e / b, o = e % b;
        const int64_t to = folded_row(f, row, k);

        if (to < 0)
            continue;
        TY *out = y + to * y_pitch + o;
        const float v = to_float(x[row * x_pitch + ((int64_t)o * K + k) / n]);
        *out = from_float<TY>(v + (add ? to_float(*out) : 0));
    }
}

static Folding folding(const WanTensor *few, const WanTensor *many,
                       const WanFold *a)
{
    Folding f;

    f.H = (int)few->dim[1], f.W = (int)few->dim[2];
    f.t = a->t, f.s = a->s;
    f.lead = (int)(few->dim[0] * a->t - many->dim[0]);
    f.columns_first = a->columns_first;
    return f;
}

extern "C" void wan_cuda_fold(WanDev *d, WanTensor *y, const WanTensor *x,
                              const WanFold *a)
{
    const int b = (int)wan_cols(y), K = a->t * a->s * a->s;

    if (!wan_count(y) || d->error)
        return;
    with_any_type(d, "fold", y, [&](auto ty) {
        with_any_type(d, "fold", x, [&](auto tx) {
            typedef decltype(ty) TY;
            typedef decltype(tx) TX;

            WAN_LAUNCH((fold_kernel<TY, TX>), wan_rows(y),
                       wan_block(b, THREADS), 0, wan_cuda_stream(d),
                       (TY *)y->data, y->pitch, b, (const TX *)x->data,
                       x->pitch, (int)(wan_cols(x) * K / b), a->add,
                       folding(y, x, a));
        });
    });
    wan_cuda_launched(d, "fold");
}

extern "C" void wan_cuda_unfold(WanDev *d, WanTensor *y, const WanTensor *x,
                                const WanFold *a)
{
    const int b = (int)wan_cols(y), K = a->t * a->s * a->s;

    if (!wan_count(x) || d->error)
        return;
    with_any_type(d, "unfold", y, [&](auto ty) {
        with_any_type(d, "unfold", x, [&](auto tx) {
            typedef decltype(ty) TY;
            typedef decltype(tx) TX;

            WAN_LAUNCH((unfold_kernel<TY, TX>), wan_rows(x),
                       wan_block((int64_t)K * b, THREADS), 0,
                       wan_cuda_stream(d), (TY *)y->data, y->pitch, b,
                       (const TX *)x->data, x->pitch,
                       (int)((int64_t)b * K / wan_cols(x)), a->add,
                       folding(x, y, a));
        });
    });
    wan_cuda_launched(d, "unfold");
}

/* ------------------------------------------------------------- channels */

/* y[t, p, c] = x[c, t0 + t, p] * scale[c] + shift[c]; grid (elements of a
 * frame, t). x points at frame t0; step: elements from channel to channel. */
template<typename TY, typename TX>
static __global__ void channels_last_kernel(TY *y, int64_t pitch, const TX *x,
                                            int64_t step, int HW, int C,
                                            const float *scale,
                                            const float *shift)
{
    const int64_t u = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int t = blockIdx.y, c = (int)(u % C);
    const int64_t p = u / C;

    if (p < HW)
        y[((int64_t)t * HW + p) * pitch + c] = from_float<TY>(
            fmaf(to_float(x[c * step + (int64_t)t * HW + p]), scale[c],
                 shift[c]));
}

extern "C" void wan_cuda_channels_last(WanDev *d, WanTensor *y,
                                       const WanTensor *x, int64_t t0,
                                       const WanTensor *scale,
                                       const WanTensor *shift)
{
    const int64_t HW = y->dim[1] * y->dim[2], C = y->dim[3];
    const float *const a = wan_vector(d, scale), *const b = wan_vector(d, shift);

    if (!wan_count(y) || d->error)
        return;
    with_any_type(d, "channels_last", y, [&](auto ty) {
        with_any_type(d, "channels_last", x, [&](auto tx) {
            typedef decltype(ty) TY;
            typedef decltype(tx) TX;

            WAN_LAUNCH((channels_last_kernel<TY, TX>),
                       dim3((unsigned)wan_div_up(HW * C, THREADS),
                            (unsigned)y->dim[0]),
                       THREADS, 0, wan_cuda_stream(d), (TY *)y->data, y->pitch,
                       (const TX *)x->data + t0 * HW, x->dim[1] * HW, (int)HW,
                       (int)C, a, b);
        });
    });
    wan_cuda_launched(d, "channels_last");
}

/* y[c, t0 + t, p] = x[t, p, c] * scale[c] + shift[c]; grid (p, t, c). y
 * points at frame t0; step: elements from channel to channel. */
template<typename TY, typename TX>
static __global__ void channels_first_kernel(TY *y, int64_t step, const TX *x,
                                             int64_t pitch, int HW,
                                             const float *scale,
                                             const float *shift)
{
    const int64_t p = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int t = blockIdx.y, c = blockIdx.z;

    if (p < HW)
        y[c * step + (int64_t)t * HW + p] = from_float<TY>(
            fmaf(to_float(x[((int64_t)t * HW + p) * pitch + c]), scale[c],
                 shift[c]));
}

extern "C" void wan_cuda_channels_first(WanDev *d, WanTensor *y, int64_t t0,
                                        const WanTensor *x,
                                        const WanTensor *scale,
                                        const WanTensor *shift)
{
    const int64_t HW = x->dim[1] * x->dim[2];
    const float *const a = wan_vector(d, scale), *const b = wan_vector(d, shift);

    if (!wan_count(x) || d->error)
        return;
    with_any_type(d, "channels_first", y, [&](auto ty) {
        with_any_type(d, "channels_first", x, [&](auto tx) {
            typedef decltype(ty) TY;
            typedef decltype(tx) TX;

            WAN_LAUNCH((channels_first_kernel<TY, TX>),
                       dim3((unsigned)wan_div_up(HW, THREADS),
                            (unsigned)x->dim[0], (unsigned)y->dim[0]),
                       THREADS, 0, wan_cuda_stream(d),
                       (TY *)y->data + t0 * HW, y->dim[1] * HW,
                       (const TX *)x->data, x->pitch, (int)HW, a, b);
        });
    });
    wan_cuda_launched(d, "channels_first");
}

/* --------------------------------------------------------------- resize */

/* Keys' cubic with a = -0.75 at distance t. */
static __device__ inline double cubic(double t)
{
    const double a = -0.75;

    t = fabs(t);
    if (t <= 1)
        return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/* One output a thread; a row of y per block. In double, as the definition:
 * one picture a job. */
static __global__ void resize_kernel(float *y, const float *x, int H, int W,
                                     int h, int w)
{
    const int64_t row = blockIdx.x, c = row / H;
    const double si = (row % H + 0.5) * h / H - 0.5;
    const int i0 = (int)floor(si);

    for (int j = threadIdx.x; j < W; j += blockDim.x) {
        const double sj = (j + 0.5) * w / W - 0.5;
        const int j0 = (int)floor(sj);
        double sum = 0;

        for (int p = i0 - 1; p <= i0 + 2; p++) {
            const float *const in =
                x + (c * h + (p < 0 ? 0 : p >= h ? h - 1 : p)) * w;

            for (int q = j0 - 1; q <= j0 + 2; q++)
                sum += cubic(si - p) * cubic(sj - q) *
                       in[q < 0 ? 0 : q >= w ? w - 1 : q];
        }
        y[row * W + j] = (float)sum;
    }
}

extern "C" void wan_cuda_resize(WanDev *d, WanTensor *y, const WanTensor *x)
{
    const float *const in = wan_vector(d, x);

    if (d->error)
        return;
    WAN_LAUNCH(resize_kernel, y->dim[0] * y->dim[1],
               wan_block(y->dim[2], THREADS), 0, wan_cuda_stream(d),
               (float *)y->data, in, (int)y->dim[1], (int)y->dim[2],
               (int)x->dim[1], (int)x->dim[2]);
    wan_cuda_launched(d, "resize");
}

/* --------------------------------------------------------------- pixels */

/* The arithmetic of image.c, operation by operation and without fused
 * multiply-adds, so that a frame is the same from every backend. */

/* [-1, 1] to [0, 1]; NaN to 0. */
static __device__ inline float unit(float x)
{
    if (!(x > -1))
        return 0;
    return x < 1 ? (x + 1) / 2 : 1;
}

static __device__ inline float luma(const float u[3])
{
    return __fadd_rn(__fadd_rn(__fmul_rn(0.2126f, u[0]),
                               __fmul_rn(0.7152f, u[1])),
                     __fmul_rn(0.0722f, u[2]));
}

/* Where samples of one plane go: element j of row i is at
 * data + i * stride + j * step. */
struct Plane {
    char *data;
    ptrdiff_t stride;
    int step;
};

struct Planes {
    Plane p[3];
    int w, h;
    int bytes;              // of a sample: 1, 2 or 4 (float)
    int half;               // chroma at half the rows and columns
    int left;               // bits a sample is moved up by: 6 in p010
    int dither;             // by wan_bayer()
};

static __device__ inline void put_sample(const Planes &a, int plane, int i,
                                         int j, float value)
{
    char *const at = a.p[plane].data + i * a.p[plane].stride +
                     (ptrdiff_t)j * a.p[plane].step;
    const int level = a.dither ? (int)__fadd_rn(value, wan_bayer(plane, j, i))
                               : __float2int_rn(value);
    const int v = level << a.left;

    if (a.bytes == 1) {
        *(uint8_t *)at = (uint8_t)v;
    } else {                // planes may have any alignment
        ((uint8_t *)at)[0] = (uint8_t)v;
        ((uint8_t *)at)[1] = (uint8_t)(v >> 8);
    }
}

/* Planes R, G, B of [0, 1] as bytes, truncated or dithered, or as floats. A
 * pixel a thread; grid (columns, rows). rgb: [h, w, 3]. */
template<typename T>
static __global__ void rgb_kernel(Planes a, const T *rgb)
{
    const int j = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y;

    if (j >= a.w)
        return;
    for (int c = 0; c < 3; c++) {
        const float u = unit(to_float(rgb[((int64_t)i * a.w + j) * 3 + c]));
        char *const at = a.p[c].data + i * a.p[c].stride +
                         (ptrdiff_t)j * a.p[c].step;

        if (a.bytes == 4)
            memcpy(at, &u, 4);
        else
            *(uint8_t *)at = (uint8_t)(int)__fadd_rn(
                __fmul_rn(u, 255), a.dither ? wan_bayer(c, j, i) : 0);
    }
}

/* BT.709, limited range. A chroma sample and its luma samples a thread; grid
 * (columns, rows) of chroma. The filter stands in image.h. */
template<typename T>
static __global__ void yuv_kernel(Planes a, const T *rgb)
{
    const int j = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y;
    const float size = a.bytes == 2 ? 4 : 1;    // 10 bits
    float u[3] = { 0, 0, 0 };

    if (j >= a.w >> a.half)
        return;
    for (int q = 0; q <= a.half; q++) {
        const int row = (i << a.half) + q, at = j << a.half;
        const T *const in = rgb + (int64_t)row * a.w * 3;

        for (int s = 0; s <= a.half; s++) {
            float v[3];

            for (int c = 0; c < 3; c++)
                v[c] = unit(to_float(in[(int64_t)(at + s) * 3 + c]));
            put_sample(a, 0, row, at + s,
                       __fmul_rn(__fadd_rn(16, __fmul_rn(219, luma(v))),
                                 size));
        }
        for (int c = 0; c < 3; c++) {
            const int left = at ? at - 1 : 0;
            const int right = at + 1 < a.w ? at + 1 : at;
            const float l = unit(to_float(in[(int64_t)left * 3 + c]));
            const float m = unit(to_float(in[(int64_t)at * 3 + c]));
            const float r = unit(to_float(in[(int64_t)right * 3 + c]));

            u[c] = a.half ? u[c] + (l + 2 * m + r) * 0.125f : m;
        }
    }

    const float y = luma(u);
    const float b = __fmul_rn(224, u[2] - y) / 1.8556f;
    const float r = __fmul_rn(224, u[0] - y) / 1.5748f;
    put_sample(a, 1, i, j, __fmul_rn(__fadd_rn(128, b), size));
    put_sample(a, 2, i, j, __fmul_rn(__fadd_rn(128, r), size));
}

/* Samples as they lie in the planes of a format; in `plane` and `offset` the
 * place of R, G, B or Y, Cb, Cr. */
struct Layout {
    signed char plane[3], offset[3];    // offset in samples
    signed char step, chroma_step;      // in samples
    signed char bytes, half, left, yuv;
};

static bool layout_of(Layout *l, int format)
{
    static const Layout planar = { { 0, 1, 2 }, { 0, 0, 0 }, 1, 1, 1, 1, 0,
                                   1 };

    *l = planar;
    switch (format) {
    case WAN_PIX_YUV420P:
        return true;
    case WAN_PIX_YUV444P:
        l->half = 0;
        return true;
    case WAN_PIX_YUV420P10:
        l->bytes = 2;
        return true;
    case WAN_PIX_NV12:
    case WAN_PIX_P010:
        l->plane[2] = 1;
        l->offset[2] = 1;
        l->chroma_step = 2;
        l->bytes = format == WAN_PIX_P010 ? 2 : 1;
        l->left = format == WAN_PIX_P010 ? 6 : 0;
        return true;
    case WAN_PIX_RGB24:
        *l = { { 0, 0, 0 }, { 0, 1, 2 }, 3, 3, 1, 0, 0, 0 };
        return true;
    case WAN_PIX_GBRP:
        *l = { { 2, 0, 1 }, { 0, 0, 0 }, 1, 1, 1, 0, 0, 0 };
        return true;
    case WAN_PIX_GBRPF32:
        *l = { { 2, 0, 1 }, { 0, 0, 0 }, 1, 1, 4, 0, 0, 0 };
        return true;
    }
    return false;
}

/* Fill planes that kernels can write; nothing is waited for. */
static void write_planes(WanDev *d, const WanImage *img, const Layout *l,
                         const WanTensor *rgb)
{
    Planes a = {};

    a.w = img->width, a.h = img->height;
    a.bytes = l->bytes, a.half = l->half, a.left = l->left;
    a.dither = img->dither == WAN_DITHER_BAYER;
    for (int c = 0; c < 3; c++) {
        const int plane = l->plane[c];

        a.p[c].data = (char *)img->data[plane] + l->offset[c] * l->bytes;
        a.p[c].stride = img->stride[plane];
        a.p[c].step = (c && l->yuv ? l->chroma_step : l->step) * l->bytes;
    }
    with_any_type(d, "image", rgb, [&](auto t) {
        typedef decltype(t) T;

        WAN_LAUNCH((l->yuv ? yuv_kernel<T> : rgb_kernel<T>),
                   dim3((unsigned)wan_div_up(a.w >> a.half, THREADS),
                        (unsigned)(a.h >> a.half)),
                   THREADS, 0, wan_cuda_stream(d), a, (const T *)rgb->data);
    });
    wan_cuda_launched(d, "image");
}

/* Planes of the device's memory are written where they are; others by way of
 * d->scratch, which wan_cuda_image_scratch() asked for. */
extern "C" void wan_cuda_image(WanDev *d, const WanImage *img,
                               const WanTensor *rgb)
{
    const int w = img->width, h = img->height;
    struct cudaPointerAttributes where;
    WanImage staged = *img;
    Layout l;
    int64_t used = 0;

    if (!layout_of(&l, img->format)) {
        wan_dev_fail(d, WAN_ERR(EINVAL), "image: format %d is not known",
                     (int)img->format);
        return;
    }
    if (!wan_cuda_ok(d, cudaPointerGetAttributes(&where, img->data[0]),
                     "the caller's planes"))
        return;
    if (where.type == cudaMemoryTypeDevice ||
        where.type == cudaMemoryTypeManaged) {
        write_planes(d, img, &l, rgb);
        wan_cuda_wait(d, "image");
        return;
    }

    for (int p = 0; p < 4 && wan_image_rows(img->format, h, p); p++) {
        staged.data[p] = (char *)d->scratch + used;
        staged.stride[p] = wan_image_row_bytes(img->format, w, p);
        used += wan_div_up(staged.stride[p] *
                           wan_image_rows(img->format, h, p), 64) * 64;
    }
    if (used > d->scratch_bytes) {
        wan_dev_fail(d, WAN_ERR(EINVAL), "image: %lld bytes of scratch are "
                     "not enough", (long long)d->scratch_bytes);
        return;
    }
    write_planes(d, &staged, &l, rgb);
    for (int p = 0; p < 4 && wan_image_rows(img->format, h, p); p++) {
        const int rows = wan_image_rows(img->format, h, p);
        const int64_t bytes = staged.stride[p];
        const bool flip = img->stride[p] < 0;   // a pitch can't be negative

        if (!flip)
            wan_cuda_ok(d, cudaMemcpy2DAsync(
                img->data[p], img->stride[p], staged.data[p], bytes, bytes,
                rows, cudaMemcpyDeviceToHost, wan_cuda_stream(d)), "image");
        for (int i = 0; flip && i < rows; i++)
            wan_cuda_ok(d, cudaMemcpyAsync(
                (char *)img->data[p] + i * img->stride[p],
                (char *)staged.data[p] + i * bytes, bytes,
                cudaMemcpyDeviceToHost, wan_cuda_stream(d)), "image");
    }
    wan_cuda_wait(d, "image");
}

/* The largest format, floats in three planes, and their alignment. */
extern "C" int64_t wan_cuda_image_scratch(int threads, const WanTensor *rgb)
{
    (void)threads;
    return wan_count(rgb) * 4 + 3 * 64;
}
