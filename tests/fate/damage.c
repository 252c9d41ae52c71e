/*
 * Damage a copy of a checkpoint's file in one place, for badinput.sh.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: damage FILE replace OLD NEW     the first OLD of the file
 *        damage FILE float TENSOR VALUE  the first value of an F32 tensor of
 *                                        a safetensors file, say nan
 *        damage FILE bytes OFFSET HEX    HEX: two digits a byte
 *
 * The file keeps its size: NEW is as long as OLD. Exit status 1 if there is
 * no such place.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char *file;
static size_t size;

static int fail(const char *what, const char *name)
{
    fprintf(stderr, "damage: %s: %s\n", name, what);
    exit(1);
}

static unsigned char *find(const void *text, size_t n, unsigned char *from)
{
    for (; from + n <= file + size; from++)
        if (!memcmp(from, text, n))
            return from;
    fail("not in the file", text);
    return NULL;
}

static unsigned char *tensor(const char *name)
{
    uint64_t header = 0;
    char quoted[512];
    unsigned char *at;

    for (int i = 7; i >= 0; i--)
        header = header << 8 | file[i];
    snprintf(quoted, sizeof(quoted), "\"%s\":", name);
    at = find(quoted, strlen(quoted), file);
    at = find("data_offsets\":", 14, at);
    at = find("[", 1, at);
    return file + 8 + header + strtoull((char *)at + 1, NULL, 10);
}

int main(int argc, char **argv)
{
    FILE *f;
    long n;

    if (argc != 5)
        return 2;
    f = fopen(argv[1], "r+b");
    if (!f || fseek(f, 0, SEEK_END) || (n = ftell(f)) < 8 ||
        !(file = calloc(1, (size_t)n + 1)) || fseek(f, 0, SEEK_SET) ||
        fread(file, 1, (size_t)n, f) != (size_t)n)
        return fail("can't be read", argv[1]);
    size = (size_t)n;

    if (!strcmp(argv[2], "replace")) {
        if (strlen(argv[3]) != strlen(argv[4]))
            return fail("not as long as the old text", argv[4]);
        memcpy(find(argv[3], strlen(argv[3]), file), argv[4], strlen(argv[4]));
    } else if (!strcmp(argv[2], "float")) {
        const float v = strtof(argv[4], NULL);
        unsigned char *at = tensor(argv[3]);

        if (at + 4 > file + size)
            return fail("beyond the file", argv[3]);
        memcpy(at, &v, 4);
    } else if (!strcmp(argv[2], "bytes")) {
        size_t at = strtoull(argv[3], NULL, 10);

        for (const char *hex = argv[4]; *hex; hex += 2, at++) {
            unsigned byte;

            if (at >= size || sscanf(hex, "%2x", &byte) != 1)
                return fail("beyond the file, or not hex", argv[4]);
            file[at] = (unsigned char)byte;
        }
    } else {
        return 2;
    }
    if (fseek(f, 0, SEEK_SET) || fwrite(file, 1, size, f) != size || fclose(f))
        return fail("can't be written", argv[1]);
    free(file);
    return 0;
}
