/*
 * What an exchange between ranks takes: beside its bytes, and by them.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: mpirun -n 1 exchange host : -n N exchange
 *
 * Every rank sends as many bytes to all others together, so the second number is
 * what one sends a second. Medians; the last line is for wan-info --speed.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ranks.h"

#define LARGEST (32 << 20)
#define TIMES 15

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* s of an exchange in which each rank sends so many bytes; below 0: it failed. */
static double seconds(WanRanks *r, char *out, char *in, int64_t bytes)
{
    const int64_t each = bytes / (r->size - 1);
    WanParcel to[WAN_MAX_RANKS] = { { 0 } }, from[WAN_MAX_RANKS] = { { 0 } };
    double time[TIMES];

    for (int q = 0; q < r->size; q++)
        if (q != r->rank) {
            to[q] = (WanParcel){ out, each };
            from[q] = (WanParcel){ in + q * each, each };
        }
    for (int i = 0; i < TIMES; i++) {
        const double start = now();

        if (wan_ranks_exchange(r, to, from, "bench", NULL) < 0)
            return -1;
        time[i] = now() - start;
    }
    qsort(time, TIMES, sizeof(*time), ascending);
    return time[TIMES / 2];
}

static void show_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque, (void)level;
    fprintf(stderr, "exchange: %s\n", line);
}

int main(int argc, char **argv)
{
    static const int64_t size[] = { 1 << 10, 1 << 16, 1 << 20, 4 << 20,
                                    LARGEST };
    const int nb = sizeof(size) / sizeof(*size);
    const WanLog log = { show_line, NULL, WAN_LOG_WARNING };
    const int host = argc > 1 && !strcmp(argv[1], "host");
    WanRanks *r = NULL;
    double s[sizeof(size) / sizeof(*size)];
    char *out, *in;

    if (wan_ranks_from_launcher(&r, host, &log) < 0 || !r) {
        fputs("usage: mpirun -n 1 exchange host : -n N exchange\n", stderr);
        return 1;
    }
    out = calloc(1, LARGEST);
    in = calloc(2, LARGEST);        // of size / (size - 1) parts each
    for (int i = 0; i < nb; i++) {
        if (!out || !in || (s[i] = seconds(r, out, in, size[i])) < 0)
            return 1;
        if (host)
            printf("  %9lld bytes: %8.3f ms, %6.2f Gbit/s\n",
                   (long long)size[i], s[i] * 1e3, size[i] * 8e-9 / s[i]);
    }
    if (host)
        printf("  fitted: %.3f Gbit/s and %.3f ms an exchange\n",
               (size[nb - 1] - size[0]) * 8e-9 / (s[nb - 1] - s[0]),
               s[0] * 1e3);
    free(out);
    free(in);
    return 0;
}
