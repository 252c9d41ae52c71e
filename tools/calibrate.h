/*
 * wan-info --calibrate: the steps of a clip, for the ratios that MagCache
 * needs.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_CALIBRATE_H
#define WAN_CALIBRATE_H

#include "model.h"

/**
 * Make the request's steps without a cache and write what was measured. Says
 * on standard error how far it is.
 *
 * @param image PPM files of what an image model looks at, or NULL
 * @param path  must not exist
 * @return 0, or an error that was logged to the model's log
 */
int calibrate(WanModel *m, WanRequest *rq, const char *const image[2],
              const char *path);

#endif /* WAN_CALIBRATE_H */
