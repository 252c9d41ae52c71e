/*
 * Log lines, through the callback of one model.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <stdarg.h>
#include <stdio.h>

#include "log.h"

void wan_log(const WanLog *log, enum WanLogLevel level, const char *fmt, ...)
{
    static const char hex[] = "0123456789abcdef";
    char raw[1024], line[2048];
    size_t n = 0;
    va_list ap;

    if (!log || !log->callback || level > log->level)
        return;

    va_start(ap, fmt);
    vsnprintf(raw, sizeof(raw), fmt, ap);
    va_end(ap);

    for (const unsigned char *p = (const unsigned char *)raw; *p; p++) {
        if (n + 5 > sizeof(line))
            break;
        if (*p >= 0x20 && *p != 0x7f) {
            line[n++] = *p;
        } else {
            line[n++] = '\\';
            line[n++] = 'x';
            line[n++] = hex[*p >> 4];
            line[n++] = hex[*p & 15];
        }
    }
    line[n] = 0;
    log->callback(log->opaque, level, line);
}
