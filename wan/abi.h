/*
 * Structs that cross the border to programs compiled against another wan.h.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * From version 1.0 on wan.h only grows: new fields go to the ends of its
 * structs, and each struct comes with the size its caller knows. A field that
 * the caller does not know has its default; one that the library does not know
 * must be 0, which is every field's "as before".
 */

#ifndef WAN_ABI_H
#define WAN_ABI_H

#include <stddef.h>

#include "log.h"

/* Sizes in wan.h 1.0, up to the last field there was. */
#define WAN_LEAST(type, last) \
    (offsetof(type, last) + sizeof(((type *)0)->last))
#define WAN_PARAMS_LEAST    WAN_LEAST(WanModelParams, interrupted_opaque)
#define WAN_REQUEST_LEAST   WAN_LEAST(WanRequest, rng_threads)
#define WAN_IMAGE_LEAST     WAN_LEAST(WanImage, stride)
#define WAN_CONTROL_LEAST   WAN_LEAST(WanControl, scale)    // of 1.1

/**
 * Take in a caller's struct.
 *
 * @param dst    the library's, of dst_size bytes, with its defaults
 * @param src    the caller's, which begins with its size_t size
 * @param least  the size in wan.h 1.0, from above
 * @param name   of the struct, for the log
 * @return 0, or WAN_ERR(EINVAL): the size was never set, or a field beyond
 *         dst_size is not 0
 */
int wan_abi_in(void *dst, size_t dst_size, const void *src, size_t least,
               const char *name, const WanLog *log);

/* Hand out a struct to a caller who knows size bytes of it; what it knows
 * beyond ours is 0. */
void wan_abi_out(void *dst, size_t size, const void *src, size_t src_size);

#endif /* WAN_ABI_H */
