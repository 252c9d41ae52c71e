/*
 * Structs that cross the border to programs compiled against another wan.h.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <string.h>

#include "abi.h"

/* No struct may end in padding: the next field would lie in what an older
 * caller left there. These are its last fields. */
_Static_assert(sizeof(WanModelParams) == WAN_LEAST(WanModelParams,
                                                   reserved) &&
               sizeof(WanRequest) == WAN_LEAST(WanRequest, clip) &&
               sizeof(WanControl) == WAN_LEAST(WanControl, scale) &&
               sizeof(WanImage) == WAN_LEAST(WanImage, stride),
               "padding at the end of a struct of wan.h");

int wan_abi_in(void *dst, size_t dst_size, const void *src, size_t least,
               const char *name, const WanLog *log)
{
    const unsigned char *bytes = src;
    size_t size, n;

    memcpy(&size, src, sizeof(size));
    if (size < least || size > 1 << 16) {
        wan_log(log, WAN_LOG_ERROR, "%s: its size is %zu; its _default "
                "function or sizeof sets it", name, size);
        return WAN_ERR(EINVAL);
    }
    for (n = dst_size; n < size; n++)
        if (bytes[n]) {
            wan_log(log, WAN_LOG_ERROR, "%s: byte %zu is set, which libwan "
                    "%d.%d does not know: a newer one is needed", name, n,
                    WAN_VERSION_MAJOR, WAN_VERSION_MINOR);
            return WAN_ERR(EINVAL);
        }
    memcpy(dst, src, size < dst_size ? size : dst_size);
    memcpy(dst, &dst_size, sizeof(dst_size));
    return 0;
}

void wan_abi_out(void *dst, size_t size, const void *src, size_t src_size)
{
    const size_t n = size < src_size ? size : src_size;

    memcpy(dst, src, n);
    memset((char *)dst + n, 0, size - n);
}
