/*
 * Fuzz target: the index JSON of a checkpoint in shards. The seeds' shards
 * a-00001-of-00002.safetensors and a-00002-of-00002.safetensors are written
 * to a scratch directory first, so that an intact index opens.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#define _XOPEN_SOURCE 700
#include <stdio.h>
#include <unistd.h>

#include "weights_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char dir[512], index_path[600];

static void shard_path(char *dst, size_t size, int i)
{
    snprintf(dst, size, "%s/a-0000%d-of-00002.safetensors", dir, i);
}

static void clean(void)
{
    char path[600];

    for (int i = 1; i <= 2; i++) {
        shard_path(path, sizeof(path), i);
        unlink(path);
    }
    rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *tmp = getenv("TMPDIR");

    (void)argc;
    (void)argv;
    snprintf(dir, sizeof(dir), "%s/wan-fuzz-XXXXXX", tmp ? tmp : P_tmpdir);
    if (!mkdtemp(dir))
        abort();
    atexit(clean);
    snprintf(index_path, sizeof(index_path), "%s/a.safetensors.index.json",
             dir);
    for (int i = 1; i <= 2; i++) {
        char path[600], json[100];
        FILE *f;

        shard_path(path, sizeof(path), i);
        snprintf(json, sizeof(json), "{\"%c\":{\"dtype\":\"U8\",\"shape\":[1],"
                 "\"data_offsets\":[0,1]}}", "ab"[i - 1]);
        f = fopen(path, "wb");
        if (!f || fprintf(f, "%c%c%c%c%c%c%c%c%s.", (int)strlen(json), 0, 0, 0,
                          0, 0, 0, 0, json) < 9 || fclose(f))
            abort();
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_weights(index_path, data, size);
    return 0;
}
