/*
 * Log lines, through the callback of one model, and the errors they tell.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

#include "log.h"

#define LINE 2048               // bytes of a line at most, its 0 included

/* Whether a terminal shows the character and goes on in the same line. */
static int is_plain(int32_t c)
{
    return c >= 0x20 && (c < 0x7f || c > 0x9f) && c != 0x2028 && c != 0x2029;
}

/* raw as valid UTF-8 in dst [LINE]: what is no plain character is shown byte
 * by byte, \xNN. cut: raw ends where its room did, perhaps in a character. */
static void escape(char *dst, const char *raw, int cut)
{
    static const char dots[] = "...";
    const char *const last = dst + LINE - sizeof(dots);
    size_t n = strlen(raw);

    while (n) {
        const uint8_t *p = (const uint8_t *)raw;
        int32_t c = 0;
        const utf8proc_ssize_t known = utf8proc_iterate(p, n < 4 ? (int)n : 4,
                                                        &c);
        const size_t used = known > 0 ? (size_t)known : 1;
        const int plain = known > 0 && is_plain(c);

        if (known < 1 && cut && n < 4 && *p >= 0xc0)
            break;
        if (dst + (plain ? used : 4 * used) > last) {
            cut = 1;
            break;
        }
        for (size_t i = 0; i < used; i++)
            if (plain)
                *dst++ = raw[i];
            else
                dst += snprintf(dst, 5, "\\x%02x", p[i]);
        raw += used;
        n -= used;
    }
    strcpy(dst, cut ? dots : "");
}

static void line(const WanLog *log, enum WanLogLevel level, const char *fmt,
                 va_list ap)
{
    char raw[LINE / 2], text[LINE];
    int n;

    if (!log || !log->callback || level > log->level)
        return;
    n = vsnprintf(raw, sizeof(raw), fmt, ap);
    escape(text, raw, n >= (int)sizeof(raw));
    log->callback(log->opaque, level, text);
}

void wan_log(const WanLog *log, enum WanLogLevel level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    line(log, level, fmt, ap);
    va_end(ap);
}

int wan_error(const WanLog *log, int error, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    line(log, WAN_LOG_ERROR, fmt, ap);
    va_end(ap);
    return error;
}

int wan_error_option(const WanLog *log, const char *option, const char *fmt,
                     ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return wan_error(log, WAN_ERR(EINVAL), "option %s: %s", option, text);
}

int wan_error_memory(const WanLog *log, const char *whose, const char *what)
{
    return wan_error(log, WAN_ERR(ENOMEM), "%s: no memory for %s", whose,
                     what);
}

int wan_error_file(const WanLog *log, const char *path, int number)
{
    switch (number) {
    case ENOTDIR:
        return wan_error(log, WAN_ERR(ENOENT), "%s: %s", path,
                         strerror(number));
    case EPERM:
        return wan_error(log, WAN_ERR(EACCES), "%s: %s", path,
                         strerror(number));
    case EINVAL: case EAGAIN: case ENOSYS: case EDOM: case EINTR:
        return wan_error(log, WAN_ERR(EIO), "%s: %s", path, strerror(number));
    }
    return wan_error(log, WAN_ERR(number), "%s: %s", path, strerror(number));
}
