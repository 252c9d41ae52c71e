/*
 * Log lines, through the callback of one model.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_LOG_H
#define WAN_LOG_H

#include "wan.h"

typedef struct WanLog {
    WanLogCallback callback;    // NULL: silent
    void *opaque;
    enum WanLogLevel level;     // lines above it are not formatted
} WanLog;

/* One line, no newline at the end; log may be NULL. Bytes that are not
 * printable are shown as \xNN: names in lines come from hostile files. */
__attribute__((format(printf, 3, 4)))
void wan_log(const WanLog *log, enum WanLogLevel level, const char *fmt, ...);

#endif /* WAN_LOG_H */
