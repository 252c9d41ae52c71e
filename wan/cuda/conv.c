/*
 * Convolution: cuDNN, or with WanDev.tune our own kernel where it is faster;
 * and our own where cuDNN is not there or has not the form.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Channels last is the layout of both, and device copies of weights already
 * lie as [O, kt, kh, kw, I]. An upsampling 3 x 3 convolution is four 2 x 2
 * ones, for even and odd rows and columns of the result, with the taps that
 * meet the same input summed: 4/9 of the work, exact but for one rounding of
 * the sums. They are ours alone, as are channels that are not in eights and
 * F32, whose products are F32 too. cuDNN takes the bias rounded to the type of
 * the activations; ours takes it in F32.
 */

#include "cudnn.h"
#include "own.h"

static int is_16_bit(WanType type)
{
    return type == WAN_BF16 || type == WAN_F16;
}

static WanOwnConv own(const WanTensor *y, const WanTensor *x,
                      const WanConv *w, const WanConvArgs *a)
{
    const int64_t *wd = w->weight.dim;
    const int phases = a->upsample == 2 ? 2 : 1;
    const int k = phases == 2 && wd[3] == 3 ? 2 : (int)wd[3];
    const int pad = k == 3 && (a->stride == 1 || a->centre);

    return (WanOwnConv){
        .y = y->data, .x = x->data, .y_type = y->type, .x_type = x->type,
        .tin = x->dim[0], .h = x->dim[1], .width = x->dim[2],
        .in = x->dim[3],
        .t = y->dim[0], .ho = y->dim[1], .wo = y->dim[2], .out = y->dim[3],
        .kt = (int)wd[2], .kh = k, .kw = k,
        .stride_t = a->stride_t, .stride = a->stride,
        .pad_r = pad, .pad_c = pad, .phases = phases, .add = a->add,
    };
}

WanCudnnOp wan_cudnn_conv(const WanTensor *y, const WanTensor *x,
                          const WanConv *w, const WanConvArgs *a)
{
    const WanOwnConv o = own(y, x, w, a);
    const int k3 = o.kh == 3;

    return (WanCudnnOp){
        .kind = WAN_CUDNN_CONV, .type = x->type, .add = a->add,
        .x = { o.tin, o.h, o.width, o.in },
        .y = { o.t, o.ho, o.wo, o.out },
        .kernel = { o.kt, o.kh, o.kw },
        .stride = { o.stride_t, o.stride, o.stride },
        .before = { 0, o.pad_r, o.pad_c },
        .after = { 0, k3, k3 },
    };
}

/* Whether cuDNN is asked, as far as plan can know. Upsampling is not: a phase
 * is every second row and column of y, which its engines write by way of a
 * workspace as large. */
static int asks_cudnn(const WanTensor *y, const WanTensor *x,
                      const WanConvArgs *a)
{
    return is_16_bit(x->type) && y->type == x->type && a->upsample == 1 &&
           x->dim[3] % 8 == 0 && y->dim[3] % 8 == 0;
}

static void rival(const void *opaque, void *y, cudaStream_t stream)
{
    WanOwnConv c = *(const WanOwnConv *)opaque;

    c.y = y;
    wan_conv_mma(&c, stream);
}

/* Bytes of a bias in the type of the activations, of d->scratch. */
static int64_t bias_bytes(const WanTensor *y)
{
    return (y->dim[3] * 2 + 63) / 64 * 64;
}

static int by_cudnn(WanDev *d, const WanOwnConv *o, WanTensor *y,
                    const WanTensor *x, const WanConv *w, const WanConvArgs *a)
{
    const WanCudnnOp op = wan_cudnn_conv(y, x, w, a);
    WanTensor bias = wan_tensor_of(d->scratch, x->type, o->out);
    const WanCudnnData data = {
        .x = o->x, .w = o->w, .bias = bias.data, .y = o->y,
        .workspace = wan_cudnn_workspace((char *)d->scratch + bias_bytes(y)),
        .workspace_bytes = WAN_CUDNN_CONV_WORKSPACE,
    };

    wan_cuda_copy(d, &bias, &w->bias);
    return wan_cudnn_run(d, &op, &data, wan_count(y) * wan_type_size(y->type),
                         a->add, rival, o);
}

/* Of the summed weights. */
static int64_t phase_bytes(const WanConv *w, const WanConvArgs *a)
{
    const int64_t *wd = w->weight.dim;

    /* Device copies are of the activations' type: at most F32. */
    return a->upsample == 2 && wd[3] == 3 ? 16 * wd[0] * wd[1] * wd[2] * 4 : 0;
}

int64_t wan_cuda_conv_scratch(int threads, const WanTensor *y,
                              const WanTensor *x, const WanConv *w,
                              const WanConvArgs *a)
{
    (void)threads;
    return phase_bytes(w, a) +
           (asks_cudnn(y, x, a) ? bias_bytes(y) + WAN_CUDNN_ALIGN +
                                  WAN_CUDNN_CONV_WORKSPACE : 0);
}

static void sums(WanDev *d, WanTensor *y, const WanTensor *x,
                 const WanConv *w, const WanConvArgs *a)
{
    const cudaStream_t stream = wan_cuda_stream(d);
    WanOwnConv o = own(y, x, w, a);

    o.w_type = wan_cuda_weight_type(d, &w->weight);
    o.w = wan_cuda_weight(d, &w->weight);
    o.bias = wan_cuda_weight(d, &w->bias);
    if (!o.w || !o.bias || !wan_count(y))
        return;
    if (wan_count(x) > UINT32_MAX || wan_count(y) > UINT32_MAX) {
        wan_dev_fail(d, WAN_ERR(ENOSYS), "convolution: more than 2^32 numbers "
                     "at once: not on CUDA");
        return;
    }
    if (o.phases == 2 && o.kh == 2) {
        wan_conv_phase_weights(d->scratch, o.w, o.w_type, o.out, o.kt, o.in,
                               stream);
        wan_cuda_launched(d, "conv weights");
        o.w = d->scratch;
    }
    if (!is_16_bit(o.x_type) || o.w_type != o.x_type) {
        wan_conv_f32(&o, stream);
    } else {
        if (asks_cudnn(y, x, a) && by_cudnn(d, &o, y, x, w, a))
            return;
        wan_conv_mma(&o, stream);
    }
    wan_cuda_launched(d, "conv");
}

void wan_cuda_conv(WanDev *d, WanTensor *y, const WanTensor *x,
                   const WanConv *w, const WanConvArgs *a)
{
    sums(d, y, x, w, a);
    if (a->act)             // relu: the same before and after rounding
        d->backend->ops->act(d, y, y, a->act);
}
