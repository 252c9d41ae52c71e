/*
 * What the host of some ranks tells the others of a job, and how they serve it.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A request as bytes: the parameters its model was opened with, the folder they
 * count from, and the request. All ranks are of one version, so structs go as
 * they lie in memory, their strings and lists behind them. Pixels of images
 * don't go: rank 0 encodes them. Nor do the sizes of a video's frames and of
 * references, on which nothing depends: there are as many, and all are one.
 */

#ifndef WAN_SERVE_H
#define WAN_SERVE_H

#include "formats/write.h"
#include "ranks.h"

/* Append a model's parameters; a request. Look at b->failed at the end. */
void wan_put_params(WanBytes *b, const WanModelParams *p);
void wan_put_request(WanBytes *b, const WanRequest *r);

/* What was taken out of bytes. Its pointers are into them or itself. */
typedef struct WanServed {
    char cwd[4096];
    WanModelParams params;
    int64_t params_bytes;       // of the whole: the same, the same model
    WanRequest request;
    WanImage image[2];          // without pixels
    WanControl control[WAN_CONTROLS];
    const WanControl *controls[WAN_CONTROLS];
    WanImage any;               // each of the frames and references
} WanServed;

/* The way back: 0, or WAN_INVALIDDATA. Bytes stay as long as out. */
int wan_served_read(WanServed *out, char *data, int64_t n);

#endif /* WAN_SERVE_H */
