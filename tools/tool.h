/*
 * What the command line tools share: how wrong use is said.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Each tool defines TOOL, its name, before it includes this.
 */

#ifndef WAN_TOOL_H
#define WAN_TOOL_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* One line on standard error; returns 2, the exit status of wrong use. */
__attribute__((format(printf, 1, 2)))
static int usage(const char *fmt, ...)
{
    va_list ap;

    fputs(TOOL ": ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputs("; see " TOOL " --help\n", stderr);
    return 2;
}

/* A whole number from 1 to max: 0, or the exit status of wrong use. */
static int parse_int(int *out, const char *option, const char *text, int max)
{
    char *end;
    const long v = strtol(text, &end, 10);

    if (!*text || *end || v < 1 || v > max)
        return usage("--%s %s: 1 to %d can be", option, text, max);
    *out = (int)v;
    return 0;
}

#endif /* WAN_TOOL_H */
