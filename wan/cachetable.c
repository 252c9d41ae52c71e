/*
 * MagCache's ratios: published, read from files, written.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cachetable.h"
#include "files.h"
#include "json.h"

#define VERSION 1
#define MAX_FILE (1 << 20)      // bytes of a table
#define MIN_RATIO 0.001
#define MAX_RATIO 1000.

/* ------------------------------------------------------------ published */

/* MagCache's, behind a leading 1: with the prompt, with the negative one. */
static const double t2v_1_3b[2][49] = {
    { 1.0124, 1.00166, 0.99791, 0.99682, 0.99634, 0.99567, 0.99416, 0.99578,
      0.9957, 0.99511, 0.99535, 0.99552, 0.99541, 0.9954, 0.99489, 0.99518,
      0.99484, 0.99481, 0.99415, 0.99419, 0.99396, 0.99388, 0.99349, 0.99309,
      0.9927, 0.99228, 0.99171, 0.99137, 0.99068, 0.99005, 0.98944, 0.98849,
      0.98758, 0.98644, 0.98504, 0.9836, 0.98202, 0.97977, 0.97717, 0.9741,
      0.97003, 0.96538, 0.9593, 0.95086, 0.94013, 0.92402, 0.90241, 0.86821,
      0.81838 },
    { 1.02213, 1.0041, 1.00061, 0.99762, 0.99685, 0.99586, 0.99422, 0.99575,
      0.99563, 0.99506, 0.99531, 0.99549, 0.99539, 0.99536, 0.99485, 0.99514,
      0.99478, 0.99479, 0.99413, 0.99416, 0.99393, 0.99386, 0.99349, 0.99304,
      0.9927, 0.99226, 0.9917, 0.99135, 0.99063, 0.99003, 0.98942, 0.98849,
      0.98757, 0.98643, 0.98503, 0.98359, 0.98201, 0.97978, 0.97718, 0.97411,
      0.97002, 0.96541, 0.95933, 0.95089, 0.94019, 0.92414, 0.9026, 0.86868,
      0.81939 },
};
static const double t2v_14b[2][49] = {
    { 1.02504, 1.00025, 0.9985, 0.99779, 0.9966, 0.99482, 0.99467, 0.99664,
      0.99434, 0.99533, 0.99468, 0.99438, 0.99516, 0.99384, 0.99404, 0.99517,
      0.99409, 0.99428, 0.99347, 0.99418, 0.99271, 0.99313, 0.99215, 0.99218,
      0.99216, 0.99163, 0.99138, 0.98982, 0.98996, 0.9887, 0.98772, 0.98767,
      0.98573, 0.98501, 0.9838, 0.98177, 0.98037, 0.97678, 0.97546, 0.97184,
      0.96711, 0.96349, 0.95629, 0.94926, 0.93964, 0.92511, 0.90693, 0.8796,
      0.86111 },
    { 1.03017, 1.00251, 0.99962, 0.99771, 0.99658, 0.99476, 0.99451, 0.99656,
      0.99431, 0.99545, 0.99465, 0.99434, 0.99517, 0.9938, 0.99401, 0.99516,
      0.99408, 0.99426, 0.99343, 0.99416, 0.99269, 0.99311, 0.99215, 0.99215,
      0.99217, 0.99161, 0.99135, 0.9898, 0.98995, 0.98866, 0.9877, 0.98765,
      0.9857, 0.98498, 0.98376, 0.98173, 0.98035, 0.97677, 0.97543, 0.97183,
      0.96708, 0.96345, 0.95625, 0.94929, 0.93961, 0.92504, 0.90678, 0.87945,
      0.86189 },
};
static const double i2v_480p[2][39] = {
    { 0.98783, 0.97559, 0.98311, 0.98202, 0.9888, 0.98762, 0.98957, 0.99052,
      0.99383, 0.98857, 0.99065, 0.98845, 0.99057, 0.98957, 0.98601, 0.98823,
      0.98756, 0.98808, 0.98721, 0.98571, 0.98543, 0.98157, 0.98411, 0.97952,
      0.98149, 0.9774, 0.97825, 0.97355, 0.97085, 0.97056, 0.96588, 0.96113,
      0.9567, 0.94961, 0.93973, 0.93217, 0.91878, 0.90955, 0.92617 },
    { 0.98993, 0.97593, 0.98319, 0.98225, 0.98878, 0.98759, 0.98971, 0.99043,
      0.99384, 0.9886, 0.99068, 0.98847, 0.99057, 0.98961, 0.9861, 0.98823,
      0.98759, 0.98814, 0.98724, 0.98572, 0.98544, 0.98165, 0.98413, 0.97953,
      0.9815, 0.97742, 0.97826, 0.97361, 0.97087, 0.97055, 0.96587, 0.96124,
      0.95681, 0.94969, 0.93988, 0.93224, 0.91896, 0.90954, 0.92616 },
};
static const double i2v_720p[2][39] = {
    { 0.99428, 0.98588, 0.98273, 0.99018, 0.98911, 0.98646, 0.99454, 0.9891,
      0.99124, 0.99102, 0.99215, 0.99515, 0.99576, 0.99068, 0.99097, 0.99166,
      0.99041, 0.99201, 0.99101, 0.98599, 0.98845, 0.98848, 0.98862, 0.98718,
      0.98497, 0.98264, 0.98389, 0.97938, 0.97535, 0.97498, 0.973, 0.96827,
      0.96261, 0.95335, 0.94649, 0.93397, 0.91636, 0.89088, 0.8679 },
    { 0.99498, 0.98621, 0.98281, 0.99023, 0.98917, 0.98652, 0.99456, 0.98909,
      0.99127, 0.99103, 0.99212, 0.99515, 0.99572, 0.99072, 0.99097, 0.99169,
      0.99042, 0.99198, 0.99101, 0.98603, 0.98844, 0.98851, 0.98857, 0.98719,
      0.98497, 0.98263, 0.98393, 0.9794, 0.97536, 0.97499, 0.97301, 0.96828,
      0.96263, 0.9534, 0.94655, 0.93414, 0.9165, 0.89109, 0.86768 },
};

static const struct {
    enum WanTask task;
    int dim, layers;
    int height;                 // of the checkpoint's default size, at least
    int steps;
    const double *ratio[2];     // [steps - 1]
    WanCacheDefaults defaults;
} published[] = {
    { WAN_TASK_T2V, 1536, 30, 0, 50, { t2v_1_3b[0], t2v_1_3b[1] },
      { 0.12, 4, 0.2 } },
    { WAN_TASK_T2V, 5120, 40, 0, 50, { t2v_14b[0], t2v_14b[1] },
      { 0.24, 6, 0.2 } },
    { WAN_TASK_I2V, 5120, 40, 720, 40, { i2v_720p[0], i2v_720p[1] },
      { 0.24, 6, 0.2 } },
    { WAN_TASK_I2V, 5120, 40, 0, 40, { i2v_480p[0], i2v_480p[1] },
      { 0.24, 6, 0.2 } },
};

int wan_cache_table_published(WanCacheTable *t, WanCacheDefaults *defaults,
                              const WanModelInfo *info)
{
    const int n = sizeof(published) / sizeof(*published);
    int k = strncmp(info->name, "Wan2.2", 6) ? 0 : n;   // all are of 2.1

    while (k < n && (published[k].task != info->task ||
                     published[k].dim != info->dim ||
                     published[k].layers != info->layers ||
                     published[k].height > info->height))
        k++;
    *defaults = k < n ? published[k].defaults
                      : (WanCacheDefaults){ 0.12, 2, 0.2 };
    if (k == n)
        return 0;
    snprintf(t->model, sizeof(t->model), "%s", info->name);
    t->steps = published[k].steps;
    t->branches = 2;
    for (int b = 0; b < 2; b++) {
        t->ratio[b][0] = 1;
        memcpy(&t->ratio[b][1], published[k].ratio[b],
               (t->steps - 1) * sizeof(double));
    }
    return 1;
}

/* Ties go to the even entry, as Python's round() has it. */
double wan_cache_table_at(const WanCacheTable *t, int branch, int i, int steps)
{
    const double scale = steps > 1 ? (t->steps - 1) / (double)(steps - 1) : 0;
    const int k = steps > 1 ? (int)rint(i * scale) : t->steps - 1;

    return t->ratio[branch][k];
}

/* ---------------------------------------------------------------- files */

/* A branch's list; it is as long as the first branch's. */
static int read_ratios(WanCacheTable *t, int b, const cJSON *list,
                       const char *key, const char *path, const WanLog *log)
{
    const int n = cJSON_GetArraySize(list);
    const cJSON *v;
    int i = 0;

    if (!cJSON_IsArray(list) || n < 1 || n > WAN_MAX_STEPS)
        return wan_error(log, WAN_INVALIDDATA, "%s: \"%s\" must be a list of "
                         "1 to %d ratios", path, key, WAN_MAX_STEPS);
    if (b && n != t->steps)
        return wan_error(log, WAN_INVALIDDATA, "%s: \"%s\" has %d ratios, "
                         "\"cond\" %d", path, key, n, t->steps);
    t->steps = n;
    cJSON_ArrayForEach(v, list) {
        if (!cJSON_IsNumber(v) || !(v->valuedouble >= MIN_RATIO &&
                                    v->valuedouble <= MAX_RATIO))
            return wan_error(log, WAN_INVALIDDATA, "%s: \"%s\": ratio %d must "
                             "be a number from %g to %g", path, key, i,
                             MIN_RATIO, MAX_RATIO);
        t->ratio[b][i++] = v->valuedouble;
    }
    return 0;
}

static int read_table(WanCacheTable *t, const cJSON *root, const char *path,
                      const WanLog *log)
{
    static const char *const key[] = { "cond", "uncond" };
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(root,
                                                      "wan_cache_table");
    const char *model = cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(root, "model"));

    if (!cJSON_IsNumber(version))
        return wan_error(log, WAN_INVALIDDATA, "%s: no table of wan-info "
                         "--calibrate: it has no \"wan_cache_table\"", path);
    if (version->valuedouble != VERSION)
        return wan_error(log, WAN_INVALIDDATA, "%s: a table of version %g; %d "
                         "is known", path, version->valuedouble, VERSION);
    if (!model || !*model || strlen(model) >= sizeof(t->model))
        return wan_error(log, WAN_INVALIDDATA, "%s: \"model\" must be a "
                         "model's name", path);
    *t = (WanCacheTable){ .branches = 1 };
    snprintf(t->model, sizeof(t->model), "%s", model);
    if (cJSON_GetObjectItemCaseSensitive(root, key[1]))
        t->branches = 2;
    for (int b = 0; b < t->branches; b++)
        if (read_ratios(t, b, cJSON_GetObjectItemCaseSensitive(root, key[b]),
                        key[b], path, log) < 0)
            return WAN_INVALIDDATA;
    return 0;
}

int wan_cache_table_parse(WanCacheTable *t, const char *text, size_t bytes,
                          const char *path, const WanLog *log)
{
    cJSON *root;
    int ret = wan_json_parse(&root, path, "table", text, bytes, log);

    if (ret >= 0)
        ret = read_table(t, root, path, log);
    cJSON_Delete(root);
    return ret;
}

int wan_cache_table_read(WanCacheTable *t, const char *path, const WanLog *log)
{
    char *text = NULL;
    size_t bytes;
    int ret = wan_read_file(&text, &bytes, path, MAX_FILE, log);

    if (ret >= 0)
        ret = wan_cache_table_parse(t, text, bytes, path, log);
    free(text);
    return ret;
}

static FILE *create(const char *path, const WanLog *log, int *ret)
{
    FILE *f = fopen(path, "wx");

    *ret = f ? 0 : wan_error_file(log, path, errno);
    return f;
}

int wan_cache_table_writable(const char *path, const WanLog *log)
{
    int ret;
    FILE *f = create(path, log, &ret);

    if (f) {
        fclose(f);
        unlink(path);
    }
    return ret;
}

int wan_cache_table_write(const WanCacheTable *t, const char *path,
                          const char *note, const WanLog *log)
{
    int ret;
    FILE *f = create(path, log, &ret);

    if (!f)
        return ret;
    fprintf(f, "{\n  \"wan_cache_table\": %d,\n  \"model\": \"%s\",\n"
            "  \"measured\": \"%s\"", VERSION, t->model, note);
    for (int b = 0; b < t->branches; b++) {
        fprintf(f, ",\n  \"%s\": [", b ? "uncond" : "cond");
        for (int i = 0; i < t->steps; i++)
            fprintf(f, "%s%.5f", i % 8 ? ", " : i ? ",\n    " : "\n    ",
                    t->ratio[b][i]);
        fputs("\n  ]", f);
    }
    fputs("\n}\n", f);
    errno = 0;
    if (ferror(f) | fclose(f)) {
        ret = wan_error_file(log, path, errno ? errno : EIO);
        unlink(path);
    }
    return ret;
}
