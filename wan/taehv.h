/*
 * TAEHV, the tiny autoencoder (taew2_1, lighttaew2_1): its weights. The row of
 * the family is wan_codec_taehv.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Names are the checkpoint's, where the number in decoder.N and encoder.N is
 * the place in a list of layers.
 */

#ifndef WAN_TAEHV_H
#define WAN_TAEHV_H

#include "codec.h"

#define WAN_TAEHV_LEVELS 3
#define WAN_TAEHV_MEMS 3        // blocks of a level
#define WAN_TAEHV_GROW 2        // frames that a frame becomes, at most

/* relu(x + conv[2](relu(conv[1](relu(conv[0]([x, p])))))), p: x one frame
 * before; conv.0, conv.2, conv.4 */
typedef struct WanTaehvMem {
    WanConv conv[3];
} WanTaehvMem;

typedef struct WanTaehv {
    WanVaeConfig config;
    WanTensor to_net, to_net_shift;     // [16]: the net's latent from ours
    WanTensor from_net, from_net_shift; // and the way back
    WanTensor two, half;                // [3]: pixels in [0, 1]
    struct {
        WanConv conv_in;                // decoder.1
        struct {
            WanTaehvMem mem[WAN_TAEHV_MEMS];
            WanLinear grow[WAN_TAEHV_GROW]; // rows of .conv, one a frame
            WanConv conv;               // behind the upsampling
        } level[WAN_TAEHV_LEVELS];
        WanConv conv_out;               // decoder.22
    } decoder;
    struct {                            // bound on request
        WanConv conv_in;                // encoder.0
        struct {
            WanLinear pool;
            WanConv conv;               // stride 2
            WanTaehvMem mem[WAN_TAEHV_MEMS];
        } level[WAN_TAEHV_LEVELS];
        WanConv conv_out;               // encoder.17
    } encoder;
} WanTaehv;

#endif /* WAN_TAEHV_H */
