/*
 * LoRA: low-rank and full differences to a transformer's weights, merged as
 * the weights are bound.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Of a module:
 *
 *     W += strength * (alpha / rank) * B A        A [rank, in], B [out, rank]
 *     W += strength * diff
 *     bias += strength * diff_b, or strength * (alpha / rank) * lora_B.bias
 *     table += strength * diff_m
 *
 * Who writes such files puts this or that before a module's name and dots or
 * underscores into it. So names are compared as one form, the key: underscores
 * alone, nothing before the module. Each official name is looked up by two
 * keys, its own and that of Diffusers' name.
 */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cpu/pool.h"
#include "../files.h"
#include "../json.h"
#include "formats.h"

#define MAX_NAME 512            // of a tensor; longer ones are no module's
#define MAX_RANK 8192           // the widest layer has less
#define CHUNK (1 << 26)         // products between two looks at the interrupt

typedef enum Role { PRODUCT, DIFF, DIFF_BIAS, DIFF_TABLE } Role;

typedef struct Change {
    char *key;                  // of the module
    int len;                    // of its name, at the start of a tensor's
    int second;                 // it is the other expert's
    Role role;
    const WanStored *a, *b;     // PRODUCT: A and B; else b: the difference
    const WanStored *alpha;     // or NULL
    float factor;               // alpha / rank, or 1
} Change;

typedef struct File {
    WanWeights *w;
    float strength;
    Change *change;             // by key
    int nb_changes;
    char *used;                 // of each tensor: it was merged
    int nb_used, nb_left;       // left: of the other expert
    int other;                  // it is for the other expert alone
} File;

struct WanLora {
    File *files;
    int nb_files;
    int threads;                // of the pool while it is open
};

/* What may stand before a module's name, in any order and number. */
static const char *const prefixes[] = {
    "lora_unet_", "lora_transformer_", "lycoris_", "base_model_", "model_",
    "diffusion_model_", "transformer_2_", "transformer_", "unet_", "pipe_",
    "dit_", "net_", "module_", "generator_", "_",
};
#define SECOND "transformer_2_"     // Wan 2.2's other expert

/* A (down) and B (up); behind it .weight or, of an adapter with a name,
 * .NAME.weight, and of B perhaps .bias. */
static const char *const pairs[][2] = {
    { ".lora_A", ".lora_B" }, { ".lora_down", ".lora_up" },
    { ".lora.down", ".lora.up" }, { "_lora.down", "_lora.up" },
};

static const struct {
    const char *suffix;
    Role role;
} differences[] = {
    { ".diff", DIFF }, { ".diff_b", DIFF_BIAS }, { ".diff_m", DIFF_TABLE },
    { ".w_norm", DIFF }, { ".b_norm", DIFF_BIAS },      // LyCORIS
};
#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))

/* Other kinds of networks, and parts that change what B A means. */
static const char *const refused[] = {
    "hada_w", "lokr_w", "lora_mid", "dora_scale", "lora_magnitude_vector",
    "reshape_weight", "set_weight", ".oft_", ".vera_", ".scale_weight",
    ".weight_scale",
};

/* ---------------------------------------------------------------- names */

/* The key of n bytes of a name; whether it is of the second expert. */
static int make_key(char *dst, const char *module, int n)
{
    const char *p = dst;
    int second = 0;

    for (int i = 0; i < n; i++)
        dst[i] = module[i] == '.' ? '_' : module[i];
    dst[n] = 0;
    for (int k = 0; k < COUNT(prefixes); k++) {
        const size_t len = strlen(prefixes[k]);

        if (strncmp(p, prefixes[k], len))
            continue;
        second |= !strcmp(prefixes[k], SECOND);
        p += len;
        k = -1;
    }
    memmove(dst, p, strlen(p) + 1);
    return second;
}

static const WanStored *find_raw(const File *f, const char *raw)
{
    char name[MAX_NAME];
    const WanStored *s;

    wan_name_clean(name, raw);
    s = wan_weights_find(f->w, name);
    return s && !strcmp(s->raw_name, raw) ? s : NULL;
}

/* Is what follows A's or B's word .weight (or the like), or .NAME.weight? */
static int is_tail(const char *tail, const char *end)
{
    const char *dot = *tail == '.' ? strchr(tail + 1, '.') : NULL;

    return !strcmp(tail, end) ||
           (dot && dot > tail + 1 && !strcmp(dot, end));
}

/* Where in a name the word of a pair stands, with such an end; or NULL. */
static const char *find_word(const char *name, const char *word,
                             const char *end)
{
    const char *at = strstr(name, word);

    return at && is_tail(at + strlen(word), end) ? at : NULL;
}

/* ------------------------------------------------------- alpha and rank */

/* What PEFT and Diffusers write beside their matrices, for modules without an
 * alpha of their own. */
typedef struct Settings {
    cJSON *json;
    const char *from;           // where it stands
    char *path;                 // of a file of its own, or NULL
    double alpha, rank;         // rank 0: not given
    int root;                   // rslora: alpha / sqrt(rank)
} Settings;

static void settings_free(Settings *s)
{
    cJSON_Delete(s->json);
    free(s->path);
}

/* Of the transformer's settings, which may stand under its name. */
static const cJSON *setting(const Settings *s, const char *key)
{
    static const char *const of[] = { "", "transformer.", "transformer_2.",
                                      "unet.", "dit." };
    char name[64];

    for (int i = 0; i < COUNT(of); i++) {
        const cJSON *v;

        snprintf(name, sizeof(name), "%s%s", of[i], key);
        v = cJSON_GetObjectItemCaseSensitive(s->json, name);
        if (v && !cJSON_IsNull(v))
            return v;
    }
    return NULL;
}

/* A number from min on, which may be written as text; 0: not there. */
static int read_setting(double *out, const Settings *s, const char *key,
                        double min, const char *path, const WanLog *log)
{
    const cJSON *v = setting(s, key);
    char *end = NULL;
    double d;

    if (!v)
        return 0;
    d = cJSON_IsString(v) ? strtod(v->valuestring, &end) : v->valuedouble;
    if ((cJSON_IsString(v) ? !*v->valuestring || *end : !cJSON_IsNumber(v)) ||
        !(d >= min && d <= 1e6))
        return wan_error(log, WAN_INVALIDDATA, "%s: \"%s\" of %s must be a "
                         "number from %g to 1e6", path, key, s->from, min);
    *out = d;
    return 1;
}

/* 1: they say alpha. */
static int read_settings(Settings *s, const char *path, const WanLog *log)
{
    int ret = read_setting(&s->alpha, s, "lora_alpha", -1e6, path, log);

    if (ret > 0) {
        int rank = read_setting(&s->rank, s, "r", 1, path, log);

        if (!rank)
            rank = read_setting(&s->rank, s, "rank", 1, path, log);
        s->root = cJSON_IsTrue(setting(s, "use_rslora"));
        ret = rank < 0 ? rank : 1;
    }
    return ret;
}

/* Is the module one that a key of alpha_pattern means: its whole name after
 * '^', else the end of it? */
static int pattern_fits(const char *key, const char *module, int n)
{
    const int whole = *key == '^', k = (int)strlen(key + whole);

    return k <= n && !strncmp(module + n - k, key + whole, k) &&
           (k == n || (!whole && module[n - k - 1] == '.'));
}

/* alpha of a module by settings. Keys are regular expressions in PEFT; those
 * that are more than names are refused. */
static int settings_alpha(double *alpha, const Settings *s,
                          const char *module, int n, const char *path,
                          const WanLog *log)
{
    const cJSON *it;

    *alpha = s->alpha;
    cJSON_ArrayForEach(it, setting(s, "alpha_pattern")) {
        if (!it->string || !cJSON_IsNumber(it) ||
            strpbrk(it->string + (*it->string == '^'), "*+?()[]{}|\\^$"))
            return wan_error(log, WAN_ERR(ENOSYS), "%s: alpha_pattern '%s' of "
                             "%s is not read, only names of modules", path,
                             it->string ? it->string : "", s->from);
        if (pattern_fits(it->string, module, n)) {
            *alpha = it->valuedouble;
            break;
        }
    }
    return 0;
}

/* Settings of the file's header, or of an adapter_config.json beside it. */
static int find_settings(Settings *s, const File *f, const WanLog *log)
{
    static const char *const header[] = { "lora_alpha", "r", "rank" };
    const char *path = wan_weights_path(f->w);
    const char *text = wan_weights_metadata(f->w, "lora_adapter_metadata");
    size_t bytes;
    char *json;
    int ret;

    *s = (Settings){ .from = "lora_adapter_metadata" };
    if (text) {
        ret = wan_json_parse(&s->json, path, s->from, text, strlen(text), log);
        if (ret >= 0)
            ret = read_settings(s, path, log);
        return ret;
    }
    if (wan_weights_metadata(f->w, header[0])) {
        s->from = "the header";
        s->json = cJSON_CreateObject();
        for (int i = 0; s->json && i < COUNT(header); i++) {
            text = wan_weights_metadata(f->w, header[i]);
            if (text && !cJSON_AddStringToObject(s->json, header[i], text))
                return wan_error_memory(log, path, "its metadata");
        }
        return s->json ? read_settings(s, path, log)
                       : wan_error_memory(log, path, "its metadata");
    }
    s->from = "adapter_config.json";
    ret = wan_files_beside(&s->path, path, s->from, log);
    if (ret <= 0)
        return ret;
    ret = wan_read_file(&json, &bytes, s->path, 1 << 20, log);
    if (ret < 0)
        return ret;
    ret = wan_json_parse(&s->json, s->path, "text", json, bytes, log);
    free(json);
    return ret < 0 ? ret : read_settings(s, s->path, log);
}

/* Whether settings that lie beside a file are its own: of a rank it has. */
static int settings_fit(const Settings *s, const File *f)
{
    if (!s->path || !s->rank || setting(s, "rank_pattern"))
        return 1;
    for (int i = 0; i < f->nb_changes; i++)
        if (f->change[i].role == PRODUCT && f->change[i].a->dim[0] == s->rank)
            return 1;
    return 0;
}

/* ------------------------------------------------------------- changes */

/* Numbers that can be added to weights as they are. */
static int check_floats(const File *f, const WanStored *s, const WanLog *log)
{
    if (s->foreign || s->type > WAN_F64)
        return wan_error(log, WAN_INVALIDDATA, "%s: tensor %s: expected F32, "
                         "F16, BF16, F64 or fp8, found %s",
                         wan_weights_path(f->w), s->raw_name,
                         wan_stored_type(s));
    if (!s->data)
        return wan_error(log, WAN_ERR(ENOSYS), "%s: tensor %s is stored with "
                         "strides (a transposed view), only dense tensors are "
                         "read", wan_weights_path(f->w), s->raw_name);
    return 0;
}

/* The one number of an alpha tensor, of any type of number. */
static int read_alpha(double *out, const File *f, const WanStored *s,
                      const WanLog *log)
{
    int ok = s->data && !s->foreign && wan_stored_count(s) == 1;
    int64_t i = 0;
    float v;

    if (ok && s->type <= WAN_F64) {
        wan_to_f32(&v, s->data, s->type, 1, 1);
        *out = v;
    } else if (ok) {                    // little-endian; U8 has no sign
        memcpy(&i, s->data, s->bytes);
        *out = (double)(s->type == WAN_I8 ? (int8_t)i :
                        s->type == WAN_I16 ? (int16_t)i :
                        s->type == WAN_I32 ? (int32_t)i : i);
    }
    if (!ok || !(*out >= -1e6 && *out <= 1e6))
        return wan_error(log, WAN_INVALIDDATA, "%s: tensor %s is not one "
                         "number up to 1e6", wan_weights_path(f->w),
                         s->raw_name);
    return 0;
}

static void mark(File *f, const WanStored *s)
{
    char *used = s ? &f->used[s - wan_weights_at(f->w, 0)] : NULL;

    if (used && !*used) {
        *used = 1;
        f->nb_used++;
    }
}

/* A change of the module that a name's first n bytes mean. */
static int add(File *f, Change c, const char *name, int n, const WanLog *log)
{
    int ret;

    if ((c.a && (ret = check_floats(f, c.a, log)) < 0) ||
        (ret = check_floats(f, c.b, log)) < 0)
        return ret;
    c.key = malloc(n + 1);
    if (!c.key)
        return wan_error_memory(log, wan_weights_path(f->w), "its modules");
    c.factor = 1;
    c.len = n;
    c.second = make_key(c.key, name, n);
    f->change[f->nb_changes++] = c;
    return 0;
}

/* A's counterpart: B, or B's bias; and the alpha of both. */
static const WanStored *counterpart(const File *f, const char *name,
                                    const char *at, int pair, const char *end)
{
    const char *tail = at + strlen(pairs[pair][0]);
    const int n = (int)(strlen(tail) - strlen(".weight"));
    char other[MAX_NAME + 16];

    snprintf(other, sizeof(other), "%.*s%s%.*s%s", (int)(at - name), name,
             pairs[pair][1], n, tail, end);
    return find_raw(f, other);
}

/* What tensor s, and those that belong to it, change. */
static int add_changes(File *f, const WanStored *s, const WanLog *log)
{
    const char *name = s->raw_name;
    int ret = 0;

    for (int k = 0; k < COUNT(pairs); k++) {
        const char *at = find_word(name, pairs[k][0], ".weight");
        const int n = at ? (int)(at - name) : 0;
        char alpha_name[MAX_NAME + 16];
        Change c = { .role = PRODUCT, .a = s };

        if (!at || !(c.b = counterpart(f, name, at, k, ".weight")))
            continue;
        if (s->nb_dims > 0 && s->dim[0] > MAX_RANK)
            return wan_error(log, WAN_INVALIDDATA, "%s: tensor %s has rank %"
                             PRId64 ", up to %d can be",
                             wan_weights_path(f->w), name, s->dim[0],
                             MAX_RANK);
        snprintf(alpha_name, sizeof(alpha_name), "%.*s.alpha", n, name);
        c.alpha = find_raw(f, alpha_name);
        ret = add(f, c, name, n, log);
        c.role = DIFF_BIAS;
        if (ret >= 0 && (c.b = counterpart(f, name, at, k, ".bias")))
            ret = add(f, c, name, n, log);
        return ret;
    }
    for (int k = 0; k < COUNT(differences); k++) {
        const int n = (int)(strlen(name) - strlen(differences[k].suffix));

        if (n >= 0 && !strcmp(name + n, differences[k].suffix))
            return add(f, (Change){ .role = differences[k].role, .b = s },
                       name, n, log);
    }
    return 0;
}

/* alpha / rank of each product and of its bias. */
static int find_factors(File *f, const WanLog *log)
{
    const char *path = wan_weights_path(f->w);
    Settings s;
    int ret = find_settings(&s, f, log), have = ret > 0;

    if (have && !settings_fit(&s, f)) {
        wan_log(log, WAN_LOG_WARNING, "%s: is of rank %g and not used for %s, "
                "which has other ranks", s.path, s.rank, path);
        have = 0;
    }
    for (int i = 0, said = 0; i < f->nb_changes && ret >= 0; i++) {
        Change *c = &f->change[i];
        const int64_t rank = c->a && c->a->nb_dims > 1 ? c->a->dim[0] : 0;
        double alpha = 0;

        if (rank < 1 || (!c->alpha && !have))
            continue;
        if (c->alpha)
            ret = read_alpha(&alpha, f, c->alpha, log);
        else
            ret = settings_alpha(&alpha, &s, c->a->raw_name, c->len, path,
                                 log);
        if (ret >= 0)
            c->factor = (float)(alpha / (!c->alpha && s.root ? sqrt(rank)
                                                             : rank));
        if (ret >= 0 && !c->alpha && !said++)
            wan_log(log, WAN_LOG_INFO, "%s: alpha and rank are those of %s: "
                    "factor %g", path, s.path ? s.path : s.from, c->factor);
    }
    settings_free(&s);
    return ret < 0 ? ret : 0;
}

/* -------------------------------------------------------------- opening */

static void file_close(File *f)
{
    for (int k = 0; k < f->nb_changes; k++)
        free(f->change[k].key);
    free(f->change);
    free(f->used);
    wan_weights_close(&f->w);
    *f = (File){ 0 };
}

static int by_key(const void *pa, const void *pb)
{
    const Change *a = pa, *b = pb;

    return strcmp(a->key, b->key);
}

/* A tensor that nobody will miss. */
static void leave(File *f, const WanStored *s)
{
    char *used = s ? &f->used[s - wan_weights_at(f->w, 0)] : NULL;

    if (used && !*used) {
        *used = 1;
        f->nb_left++;
    }
}

/* Of changes for each of two experts keep one's. The other's are read for the
 * other, if there is one. */
static void keep_changes(File *f, WanExpert expert)
{
    int n = 0;

    for (int i = 0; i < f->nb_changes; i++) {
        const Change c = f->change[i];

        if (c.second == (expert == WAN_EXPERT_LOW)) {
            f->change[n++] = c;
            continue;
        }
        free(c.key);
        if (expert) {
            leave(f, c.a);
            leave(f, c.b);
            leave(f, c.alpha);
        }
    }
    f->nb_changes = n;
}

/* Leave out what is not for this expert, and say once what is for which.
 * asked: what the file's item says. A single transformer is the first. */
static void choose_changes(File *f, WanExpert expert, WanExpert asked,
                           const WanLog *log)
{
    const char *path = wan_weights_path(f->w), *by = "as it was asked for";
    WanExpert to = asked;
    int second = 0, both;

    for (int i = 0; i < f->nb_changes; i++)
        second += f->change[i].second;
    both = second && second < f->nb_changes;
    if (both)
        keep_changes(f, expert);
    if (!to && second && !both) {
        to = WAN_EXPERT_LOW;
        by = "by its tensors' names";
    } else if (!to && !both) {
        to = wan_expert_of(path);
        by = "by its name";
    }
    f->other = expert && to && to != expert;
    if (expert && to && !f->other)
        wan_log(log, WAN_LOG_INFO, "%s: for the %s expert, %s", path,
                wan_expert_name(to), by);
    else if (expert == WAN_EXPERT_HIGH && !to)
        wan_log(log, WAN_LOG_INFO, "%s: %s", path, both ? "a part for each "
                "expert, by its tensors' names" : "for both experts: no name "
                "tells, @high or @low behind it would");
}

static int read_file(File *f, WanExpert expert, WanExpert asked,
                     const WanLog *log)
{
    const char *path = wan_weights_path(f->w);
    const int n = wan_weights_count(f->w);
    int ret;

    f->used = calloc(n + 1, 1);
    f->change = calloc(2 * n + 1, sizeof(*f->change));
    if (!f->used || !f->change)
        return wan_error_memory(log, path, "its modules");
    for (int i = 0; i < n; i++) {
        const WanStored *s = wan_weights_at(f->w, i);

        for (int k = 0; k < COUNT(refused); k++)
            if (strstr(s->raw_name, refused[k]))
                return wan_error(log, WAN_ERR(ENOSYS), "%s: tensor %s: this "
                                 "kind of adapter is not supported, only "
                                 "LoRA", path, s->raw_name);
        if (strlen(s->raw_name) < MAX_NAME &&
            (ret = add_changes(f, s, log)) < 0)
            return ret;
    }
    choose_changes(f, expert, asked, log);
    ret = find_factors(f, log);
    qsort(f->change, f->nb_changes, sizeof(*f->change), by_key);
    return ret;
}

/* The expert that the end of an item names; it is cut off. A file whose name
 * ends so is one that is there. */
static WanExpert split_expert(char *item)
{
    static const char *const end[] = { [WAN_EXPERT_HIGH] = "@high",
                                       [WAN_EXPERT_LOW] = "@low" };
    const size_t n = strlen(item);

    for (WanExpert e = WAN_EXPERT_HIGH; e <= WAN_EXPERT_LOW; e++) {
        const size_t k = strlen(end[e]);

        if (n > k && !strcmp(item + n - k, end[e]) &&
            !wan_files_exists(item)) {
            item[n - k] = 0;
            return e;
        }
    }
    return WAN_EXPERT_NONE;
}

/* path[=strength][@expert]; expert: the model's. A file whose name holds '=' is
 * one that is there. */
static int split(char *item, float *strength, WanExpert *asked,
                 WanExpert expert, const WanLog *log)
{
    char *equals, *end;
    double v;

    *asked = split_expert(item);
    if (*asked && !expert)
        return wan_error(log, WAN_ERR(EINVAL), "option lora: '%s' for one "
                         "expert, but the model has no two", item);
    equals = strrchr(item, '=');
    *strength = 1;
    if (equals && !wan_files_exists(item)) {
        v = strtod(equals + 1, &end);
        if (end == equals + 1 || *end || !(v >= -100 && v <= 100))
            return wan_error(log, WAN_ERR(EINVAL), "option lora: '%s' is no "
                             "file, and '%s' no strength from -100 to 100",
                             item, equals + 1);
        *strength = (float)v;
        *equals = 0;
    }
    return *item ? 0 : wan_error(log, WAN_ERR(EINVAL), "option lora: a path is "
                                 "empty");
}

int wan_lora_open(WanLora **out, const char *list, const char *loras,
                  WanExpert expert, int threads, const WanLog *log)
{
    WanLora *l = calloc(1, sizeof(*l));
    char *text = strdup(list), *next = text;
    int ret = 0, n = 1;

    *out = NULL;
    for (const char *p = list; *p; p++)
        n += *p == '|';
    if (!l || !text || !(l->files = calloc(n, sizeof(*l->files)))) {
        ret = wan_error_memory(log, "option lora", "its files");
        goto fail;
    }
    while (next) {
        File *f = &l->files[l->nb_files++];
        char *item = next, *path = NULL;
        WanExpert asked;

        if ((next = strchr(item, '|')))
            *next++ = 0;
        if ((ret = split(item, &f->strength, &asked, expert, log)) < 0 ||
            (ret = wan_files_lora(&path, item, loras, log)) < 0)
            goto fail;
        ret = wan_weights_open(&f->w, path, log);
        free(path);
        if (ret < 0 || (ret = read_file(f, expert, asked, log)) < 0)
            goto fail;
        if (f->other)
            file_close(&l->files[--l->nb_files]);
    }
    free(text);
    wan_cpu_pool_open(threads, log);
    l->threads = threads;
    *out = l;
    return 0;
fail:
    free(text);
    wan_lora_close(&l);
    return ret;
}

int wan_lora_open_memory(WanLora **out, const char *path, const void *data,
                         size_t size, const WanLog *log)
{
    WanLora *l = calloc(1, sizeof(*l));
    int ret = 0;

    *out = NULL;
    if (!l || !(l->files = calloc(1, sizeof(*l->files))))
        ret = wan_error_memory(log, path, "its modules");
    if (ret >= 0) {
        l->nb_files = 1;
        l->files->strength = 1;
        ret = wan_weights_open_memory(&l->files->w, path, data, size, log);
    }
    if (ret >= 0)
        ret = read_file(l->files, WAN_EXPERT_NONE, WAN_EXPERT_NONE, log);
    if (ret < 0) {
        wan_lora_close(&l);
        return ret;
    }
    wan_cpu_pool_open(1, log);
    l->threads = 1;
    *out = l;
    return 0;
}

void wan_lora_close(WanLora **lp)
{
    WanLora *l = *lp;

    *lp = NULL;
    if (!l)
        return;
    for (int i = 0; l->files && i < l->nb_files; i++)
        file_close(&l->files[i]);
    if (l->threads)
        wan_cpu_pool_close();
    free(l->files);
    free(l);
}

/* -------------------------------------------------------------- look-up */

/* What changes a tensor: changes of these roles under these keys. */
typedef struct Target {
    struct {
        char key[256];
        unsigned roles;         // bits, 1 << Role
    } at[4];
    int n;
} Target;

static void add_key(Target *t, const char *module, int n, unsigned roles)
{
    make_key(t->at[t->n].key, module, n);
    t->at[t->n++].roles = roles;
}

/* A tensor's module by one vocabulary. A table has none of its own: files name
 * it, or the module that it belongs to. */
static void add_names(Target *t, WanNaming naming, const char *official)
{
    char name[256];
    const char *dot;
    int n;

    wan_name_in(naming, WAN_PART_DIT, official, name, sizeof(name));
    dot = strrchr(name, '.');
    n = dot ? (int)(dot - name) : 0;
    if (dot && !strcmp(dot, ".weight")) {
        add_key(t, name, n, 1 << PRODUCT | 1 << DIFF);
    } else if (dot && !strcmp(dot, ".bias")) {
        add_key(t, name, n, 1 << DIFF_BIAS);
    } else {
        add_key(t, name, (int)strlen(name), 1 << DIFF | 1 << DIFF_TABLE);
        add_key(t, name, n, 1 << DIFF_TABLE);
    }
}

static Target target(const char *official)
{
    Target t = { .n = 0 };

    add_names(&t, WAN_NAMES_OFFICIAL, official);
    add_names(&t, WAN_NAMES_DIFFUSERS, official);
    for (int i = t.n / 2, k = 0; k < t.n / 2; i++, k++)
        if (!strcmp(t.at[i].key, t.at[k].key))      // one word in both
            t.at[i].roles = 0;
    return t;
}

/* Number i of f's changes of a target, or NULL. */
static const Change *find_change(const File *f, const Target *t, int i)
{
    for (int k = 0; k < t->n; k++) {
        int lo = 0, hi = f->nb_changes;

        while (lo < hi) {
            const int mid = lo + (hi - lo) / 2;

            if (strcmp(f->change[mid].key, t->at[k].key) < 0)
                lo = mid + 1;
            else
                hi = mid;
        }
        for (; lo < f->nb_changes &&
               !strcmp(f->change[lo].key, t->at[k].key); lo++)
            if (t->at[k].roles >> f->change[lo].role & 1 && !i--)
                return &f->change[lo];
    }
    return NULL;
}

const WanWeights *wan_lora_file(const WanLora *l, int i, float *strength)
{
    if (!l || i >= l->nb_files)
        return NULL;
    *strength = l->files[i].strength;
    return l->files[i].w;
}

int wan_lora_has(const WanLora *l, const char *name)
{
    const Target t = target(name);

    for (int i = 0; i < l->nb_files; i++)
        if (find_change(&l->files[i], &t, 0))
            return 1;
    return 0;
}

/* -------------------------------------------------------------- merging */

/* All numbers as f32, malloc'd, or NULL. */
static float *widen(const WanStored *s)
{
    const int64_t n = wan_stored_count(s);
    float *p = malloc(n * sizeof(*p) + 1);

    if (p)
        wan_to_f32(p, s->data, s->type, n, 1);
    return p;
}

typedef struct Product {
    float *w;                   // [rows, cols]
    const float *a, *b;         // [rank, cols], [rows, rank]
    int64_t rows, cols, rank;
    float scale;
} Product;

enum { ROWS = 16 };             // that a thread adds to at a time

/* w += scale * B A, some of its rows. */
static void add_rows(void *arg, int64_t index, int worker)
{
    const Product *p = arg;
    const int64_t end = (index + 1) * ROWS, cols = p->cols;

    (void)worker;
    for (int64_t i = index * ROWS; i < end && i < p->rows; i++)
        for (int64_t r = 0; r < p->rank; r++) {
            const float s = p->scale * p->b[i * p->rank + r];

            for (int64_t j = 0; j < cols; j++)
                p->w[i * cols + j] += s * p->a[r * cols + j];
        }
}

/* A piece of rows at a time: in between the interrupt is asked. */
static int merge_product(const Change *c, Product p, const File *f,
                         int threads, const WanInterrupt *interrupt,
                         const WanLog *log)
{
    const int64_t all = p.rows, work = p.rank * p.cols;
    const int64_t step = work < CHUNK / ROWS ? CHUNK / work : ROWS;
    float *a = widen(c->a), *b = widen(c->b), *const w = p.w;
    int ret = 0;

    if (!a || !b)
        ret = wan_error_memory(log, wan_weights_path(f->w), c->a->raw_name);
    for (int64_t i = 0; i < all && ret >= 0; i += step) {
        p.w = w + i * p.cols;
        p.a = a;
        p.b = b + i * p.rank;
        p.rows = all - i < step ? all - i : step;
        if (wan_interrupted(interrupt))
            ret = WAN_CANCELLED;
        else
            wan_cpu_pool_run(threads, (p.rows + ROWS - 1) / ROWS, NULL,
                             add_rows, &p);
    }
    free(a);
    free(b);
    return ret;
}

static int merge_difference(const Change *c, float *w, int64_t n, float scale,
                            const File *f, const WanLog *log)
{
    float *b = widen(c->b);

    if (!b)
        return wan_error_memory(log, wan_weights_path(f->w), c->b->raw_name);
    for (int64_t i = 0; i < n; i++)
        w[i] += scale * b[i];
    free(b);
    return 0;
}

/* Whether a change is one of [rows, cols], else a warning. A convolution's A
 * and B have more dimensions of the same order. */
static int fits(const File *f, const Change *c, const char *name,
                int64_t rows, int64_t cols, const WanLog *log)
{
    const int64_t rank = c->a && c->a->nb_dims > 1 ? c->a->dim[0] : 0;
    const int64_t a = c->a ? wan_stored_count(c->a) : 0;
    const int64_t b = wan_stored_count(c->b);
    const int ok = c->role != PRODUCT ? b == rows * cols
                   : rank > 0 && a == rank * cols && b == rows * rank;

    if (!ok)
        wan_log(log, WAN_LOG_WARNING, "%s: what it has for %s does not fit "
                "[%" PRId64 ", %" PRId64 "], skipped", wan_weights_path(f->w),
                name, rows, cols);
    return ok;
}

int wan_lora_merge(WanLora *l, const char *name, float *w, int64_t rows,
                   int64_t cols, const WanInterrupt *interrupt,
                   const WanLog *log)
{
    const Target t = target(name);
    const Change *c;

    for (int k = 0; k < l->nb_files; k++) {
        File *f = &l->files[k];

        for (int i = 0, ret; (c = find_change(f, &t, i)); i++) {
            const float scale = f->strength * c->factor;

            if (!fits(f, c, name, rows, cols, log))
                continue;
            ret = c->role != PRODUCT ?
                  merge_difference(c, w, rows * cols, scale, f, log) :
                  merge_product(c, (Product){ .w = w, .rows = rows,
                                .cols = cols, .rank = c->a->dim[0],
                                .scale = scale }, f, l->threads, interrupt,
                                log);
            if (ret < 0)
                return ret;
            mark(f, c->a);
            mark(f, c->b);
            mark(f, c->alpha);
        }
    }
    return 0;
}

int wan_lora_products(WanLora *l, const char *name, int64_t rows,
                      int64_t cols, WanLoraProduct **out, const WanLog *log)
{
    const Target t = target(name);
    const Change *c;
    int n = 0;

    *out = NULL;
    for (int k = 0; k < l->nb_files; k++) {
        File *f = &l->files[k];

        for (int i = 0; (c = find_change(f, &t, i)); i++) {
            WanLoraProduct *more;

            if (c->role != PRODUCT)
                return WAN_ERR(ENOSYS);
            if (!fits(f, c, name, rows, cols, log))
                continue;
            more = realloc(*out, (n + 1) * sizeof(**out));
            if (!more)
                return wan_error_memory(log, wan_weights_path(f->w), name);
            *out = more;
            more[n++] = (WanLoraProduct){ c->a, c->b, f->strength * c->factor };
            mark(f, c->a);
            mark(f, c->b);
            mark(f, c->alpha);
        }
    }
    return n;
}

int wan_lora_end(const WanLora *l, const WanLog *log)
{
    for (int i = 0; i < l->nb_files; i++) {
        const File *f = &l->files[i];
        const int all = wan_weights_count(f->w);

        if (!f->nb_used)
            return wan_error(log, WAN_INVALIDDATA, "%s: none of its %d tensors "
                             "fits this model", wan_weights_path(f->w), all);
        for (int k = 0; k < all && f->nb_used + f->nb_left < all; k++)
            if (!f->used[k]) {
                wan_log(log, WAN_LOG_WARNING, "%s: %d of %d tensors were not "
                        "used, the first is %s", wan_weights_path(f->w),
                        all - f->nb_used - f->nb_left, all,
                        wan_weights_at(f->w, k)->raw_name);
                break;
            }
    }
    return 0;
}
