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

/* One line, no newline at the end; log may be NULL. It is valid UTF-8, cut at
 * a character if it is too long; bytes that are not printable are shown as
 * \xNN: names in lines come from hostile files. */
__attribute__((format(printf, 3, 4)))
void wan_log(const WanLog *log, enum WanLogLevel level, const char *fmt, ...);

/* The line of a failure, and its error handed back: whoever finds a cause
 * returns through these, and those above it only pass the number on. */
__attribute__((format(printf, 3, 4)))
int wan_error(const WanLog *log, int error, const char *fmt, ...);

/* An option, or the request's field of that name, that can't be: "option
 * NAME: ..." and WAN_ERR(EINVAL). */
__attribute__((format(printf, 3, 4)))
int wan_error_option(const WanLog *log, const char *option, const char *fmt,
                     ...);

/* There is no memory for it: WAN_ERR(ENOMEM). */
int wan_error_memory(const WanLog *log, const char *whose, const char *what);

/* A call on that file failed with this errno. Numbers that mean something else
 * here (EAGAIN: no frame yet, EINVAL: a field, ...) become EIO; what is not
 * allowed is EACCES, what is not there ENOENT. */
int wan_error_file(const WanLog *log, const char *path, int number);

#endif /* WAN_LOG_H */
