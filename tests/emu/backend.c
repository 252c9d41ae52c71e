/*
 * The backend "cuda-emu": our kernels' launchers over host memory.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * It has what device.c and weights.c give the launchers, in the simplest
 * form: device memory is host memory, weights are where they are.
 */

#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "device.h"
#include "cpu/cpu.h"

enum cudaMemoryType emu_memory_type = cudaMemoryTypeUnregistered;

int wan_cuda_wait(WanDev *d, const char *op)
{
    (void)op;
    return !d->error;
}

const void *wan_cuda_weight(WanDev *d, const WanTensor *w)
{
    (void)d;
    return w->data;
}

void wan_cuda_upload(WanDev *d, WanTensor *y, const float *host)
{
    (void)d;
    memcpy(y->data, host, wan_count(y) * sizeof(*host));
}

/* What the front door will do when image has a _scratch entry. */
static void image(WanDev *d, const WanImage *img, const WanTensor *rgb)
{
    d->scratch_bytes = wan_cuda_image_scratch(1, rgb);
    d->scratch = malloc(d->scratch_bytes);
    wan_cuda_image(d, img, rgb);
    free(d->scratch);
    d->scratch = NULL;
    d->scratch_bytes = 0;
}

static WanOps ops;              // the CPU's and ours over them

static WanBackend backend;

int emu_open(WanDev **out, int64_t bytes)
{
    WanCuda *c = calloc(1, sizeof(*c));
    int ret = wan_dev_open(out, "cpu", 1, bytes, NULL);

    if (ret < 0) {
        free(c);
        return ret;
    }
    c->flag = malloc(sizeof(*c->flag));
    ops = *(*out)->backend->ops;
    ops.layer_norm     = wan_cuda_layer_norm;
    ops.modulate       = wan_cuda_modulate;
    ops.gate_add_norm  = wan_cuda_gate_add_norm;
    ops.rms_norm       = wan_cuda_rms_norm;
    ops.rope           = wan_cuda_rope;
    ops.rms_norm_rope  = wan_cuda_rms_norm_rope;
    ops.l2_norm        = wan_cuda_l2_norm;
    ops.row_norm       = wan_cuda_row_norm;
    ops.act            = wan_cuda_act;
    ops.mul            = wan_cuda_mul;
    ops.geglu          = wan_cuda_geglu;
    ops.gate_add       = wan_cuda_gate_add;
    ops.lincomb        = wan_cuda_lincomb;
    ops.copy           = wan_cuda_copy;
    ops.fill           = wan_cuda_fill;
    ops.finite         = wan_cuda_finite;
    ops.embed          = wan_cuda_embed;
    ops.patchify       = wan_cuda_patchify;
    ops.unpatchify     = wan_cuda_unpatchify;
    ops.channels_last  = wan_cuda_channels_last;
    ops.channels_first = wan_cuda_channels_first;
    ops.fold           = wan_cuda_fold;
    ops.unfold         = wan_cuda_unfold;
    ops.resize         = wan_cuda_resize;
    ops.image          = image;
    ops.noise          = wan_cuda_noise;
    backend = *(*out)->backend;
    backend.name = "cuda-emu";
    backend.ops = &ops;
    (*out)->backend = &backend;
    (*out)->priv = c;
    return 0;
}

void emu_close(WanDev **d)
{
    if (*d) {
        free(((WanCuda *)(*d)->priv)->flag);
        free((*d)->priv);
        (*d)->priv = NULL;
    }
    wan_dev_close(d);
}
