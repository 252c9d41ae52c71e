/*
 * What the command line tools share: how wrong use is said.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Each tool defines TOOL, its name, before it includes this; who includes dev.h
 * before it has parse_precision() too.
 */

#ifndef WAN_TOOL_H
#define WAN_TOOL_H

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

#ifdef WAN_DEV_H
/* What products are multiplied in: 0, or the exit status of wrong use. */
static inline int parse_precision(enum WanPrecision *out, const char *text)
{
    const char *name;

    for (int p = 0; (name = wan_precision_name((enum WanPrecision)p)); p++)
        if (!strcmp(text, name)) {
            *out = (enum WanPrecision)p;
            return 0;
        }
    return usage("--precision %s: auto, f32, bf16 or int8 can be", text);
}
#endif

/* getopt_long() of long options written out. It would take --cache for
 * --cache-table in a tool that has no --cache. */
static int next_option(int argc, char **argv, const struct option *options)
{
    int at = -1, c;

    opterr = 0;
    if ((c = getopt_long(argc, argv, "h", options, &at)) < 0 || at < 0)
        return c;
    const int apart = optarg == argv[optind - 1];       // --name value
    const char *name = argv[optind - 1 - apart] + 2;
    if (strlen(options[at].name) == strcspn(name, "="))
        return c;
    optind -= apart;                                    // what is at fault
    return '?';
}

#endif /* WAN_TOOL_H */
