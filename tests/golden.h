/*
 * Reference data for tests: safetensors of F32, F64, I32 and U8, and JSON.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * A reader of its own, so that a mistake in wan/weights.c can't hide itself;
 * it trusts the files, which lie in the repository. What is not there ends
 * the test program: a test without its golden proves nothing.
 *
 *     Golden *g = golden_open("vae.safetensors");
 *     const GoldenTensor *z = golden_find(g, "case0.in.z");
 *     cJSON *cases = golden_meta(g, "cases");
 *     golden_close(&g);
 */

#ifndef WAN_TEST_GOLDEN_H
#define WAN_TEST_GOLDEN_H

#include <cjson/cJSON.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef GOLDEN_DIR
#define GOLDEN_DIR "tests/golden"   // tests run in the repository's root
#endif

typedef struct GoldenTensor {
    char name[256];
    char dtype[8];          // "F32", "F64", "I32", "U8"
    int nb_dims;
    int64_t dim[8];
    int64_t n;              // elements
    float *data;            // all of them, whatever the dtype
    const uint8_t *raw;     // as stored, little-endian, not aligned
} GoldenTensor;

typedef struct Golden {
    char *file;             // the bytes, and one 0
    const uint8_t *base;    // where data_offsets count from
    cJSON *header;
    GoldenTensor **found;   // what golden_find() has handed out
    int nb_found;
} Golden;

static inline void *golden_fail(const char *what, const char *name)
{
    printf("Bail out! golden %s: %s\n", name, what);
    exit(99);
}

/* "schedules.json" -> where it lies; $WAN_GOLDEN wins. One static buffer. */
static inline const char *golden_path(const char *name)
{
    static char path[4096];
    const char *dir = getenv("WAN_GOLDEN");

    snprintf(path, sizeof(path), "%s/%s", dir ? dir : GOLDEN_DIR, name);
    return path;
}

/* A whole file and a 0 behind it; free() it. */
static inline char *golden_read(const char *name, size_t *bytes)
{
    FILE *f = fopen(golden_path(name), "rb");
    char *buf = NULL;
    long n;

    if (!f || fseek(f, 0, SEEK_END) || (n = ftell(f)) < 0 ||
        fseek(f, 0, SEEK_SET) || !(buf = malloc((size_t)n + 1)) ||
        fread(buf, 1, (size_t)n, f) != (size_t)n)
        return golden_fail("can't be read", golden_path(name));
    fclose(f);
    buf[n] = 0;
    if (bytes)
        *bytes = (size_t)n;
    return buf;
}

/* A JSON file; cJSON_Delete() it. */
static inline cJSON *golden_json(const char *name)
{
    char *text = golden_read(name, NULL);
    cJSON *json = cJSON_Parse(text);

    free(text);
    return json ? json : golden_fail("is not JSON", name);
}

static inline Golden *golden_open(const char *name)
{
    Golden *g = calloc(1, sizeof(*g));
    size_t bytes;
    uint64_t header = 0;

    if (!g)
        return golden_fail("no memory", name);
    g->file = golden_read(name, &bytes);
    for (int i = 7; i >= 0 && bytes > 8; i--)
        header = header << 8 | (uint8_t)g->file[i];
    if (bytes <= 8 || header > bytes - 8 ||
        !(g->header = cJSON_ParseWithLength(g->file + 8, header)))
        return golden_fail("is no safetensors file", name);
    g->base = (uint8_t *)g->file + 8 + header;
    return g;
}

/* The tensor of this name, or NULL; lives as long as g. */
static inline const GoldenTensor *golden_look(Golden *g, const char *name)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(g->header, name), *d;
    const cJSON *offset = cJSON_GetObjectItemCaseSensitive(j, "data_offsets");
    GoldenTensor *t;

    for (int i = 0; i < g->nb_found; i++)
        if (!strcmp(g->found[i]->name, name))
            return g->found[i];
    if (!j)
        return NULL;

    t = calloc(1, sizeof(*t));
    g->found = realloc(g->found, (size_t)(g->nb_found + 1) * sizeof(t));
    if (!t || !g->found)
        return golden_fail("no memory", name);
    g->found[g->nb_found++] = t;
    snprintf(t->name, sizeof(t->name), "%s", name);
    snprintf(t->dtype, sizeof(t->dtype), "%s",
             cJSON_GetObjectItemCaseSensitive(j, "dtype")->valuestring);
    t->raw = g->base + (size_t)offset->child->valuedouble;
    t->n = 1;
    cJSON_ArrayForEach(d, cJSON_GetObjectItemCaseSensitive(j, "shape")) {
        if (t->nb_dims == 8)
            return golden_fail("more than 8 dimensions", name);
        t->dim[t->nb_dims++] = (int64_t)d->valuedouble;
        t->n *= (int64_t)d->valuedouble;
    }

    t->data = malloc((size_t)(t->n ? t->n : 1) * sizeof(float));
    if (!t->data)
        return golden_fail("no memory", name);
    for (int64_t i = 0; i < t->n; i++) {
        int32_t v;
        double f;

        if (!strcmp(t->dtype, "F32")) {
            memcpy(&t->data[i], t->raw + 4 * i, 4);
        } else if (!strcmp(t->dtype, "I32")) {
            memcpy(&v, t->raw + 4 * i, 4);
            t->data[i] = (float)v;
        } else if (!strcmp(t->dtype, "F64")) {
            memcpy(&f, t->raw + 8 * i, 8);
            t->data[i] = (float)f;
        } else if (!strcmp(t->dtype, "U8")) {
            t->data[i] = t->raw[i];
        } else {
            return golden_fail("a dtype that golden.h doesn't know", name);
        }
    }
    return t;
}

/* The same, where it must be there. */
static inline const GoldenTensor *golden_find(Golden *g, const char *name)
{
    const GoldenTensor *t = golden_look(g, name);

    return t ? t : golden_fail("no such tensor", name);
}

/* An element of an F64 tensor, as it is. */
static inline double golden_double(const GoldenTensor *t, int64_t i)
{
    double v;

    if (strcmp(t->dtype, "F64"))
        golden_fail("no F64", t->name);
    memcpy(&v, t->raw + 8 * i, 8);
    return v;
}

/* A string of __metadata__ as it stands, or NULL. */
static inline const char *golden_meta_string(const Golden *g, const char *key)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(g->header,
                                                      "__metadata__");

    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, key));
}

/* JSON that is kept in a string of __metadata__; cJSON_Delete() it. */
static inline cJSON *golden_meta(const Golden *g, const char *key)
{
    const char *text = golden_meta_string(g, key);
    cJSON *json = text ? cJSON_Parse(text) : NULL;

    return json ? json : golden_fail("no such JSON in the metadata", key);
}

static inline void golden_close(Golden **g)
{
    if (!*g)
        return;
    for (int i = 0; i < (*g)->nb_found; i++) {
        free((*g)->found[i]->data);
        free((*g)->found[i]);
    }
    free((*g)->found);
    cJSON_Delete((*g)->header);
    free((*g)->file);
    free(*g);
    *g = NULL;
}

#endif /* WAN_TEST_GOLDEN_H */
