/*
 * On which nodes weights lie that are read ahead.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: ahead FILE THREADS
 * Nothing of FILE may be in the page cache. Prints its line of numa_maps.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights.h"

int main(int argc, char **argv)
{
    volatile char sum = 0;
    char line[4096];
    WanWeights *w;
    FILE *f;

    if (argc != 3 || wan_weights_open(&w, argv[1], NULL) < 0)
        return 2;
    wan_weights_expect(w, "", atoi(argv[2]), NULL);
    for (int i = 0; i < wan_weights_count(w); i++)      // pages that are mapped
        for (int64_t at = 0; at < wan_weights_at(w, i)->bytes; at += 4096)
            sum += ((const char *)wan_weights_at(w, i)->data)[at];
    f = fopen("/proc/self/numa_maps", "re");
    while (f && fgets(line, sizeof(line), f))
        if (strstr(line, argv[1]))
            fputs(line, stdout);
    if (f)
        fclose(f);
    wan_weights_close(&w);
    return 0;
}
