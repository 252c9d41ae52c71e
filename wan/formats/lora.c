/*
 * LoRA: low-rank and full differences to a transformer's weights, merged as
 * the weights are bound.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Of a module: W += strength * (alpha / rank) * B A, A [rank, in], B [out,
 * rank], without alpha the factor is 1; or W += strength * diff. Files name
 * modules in several ways; each official name is looked up in all of them.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cpu/pool.h"
#include "../weights.h"

typedef struct File {
    WanWeights *w;
    float strength;
    const WanStored **used;     // tensors that were merged
    int nb_used;
    int skipped;                // modules whose shapes do not fit
} File;

struct WanLora {
    File *files;
    int nb_files;
    int threads;                // of the pool while it is open
};

static const char *const prefixes[] = {
    "", "diffusion_model.", "model.diffusion_model.", "transformer.",
    "base_model.model.", "pipe.dit.",
};

/* Suffixes of A (down) and B (up). */
static const char *const pairs[][2] = {
    { ".lora_A.weight", ".lora_B.weight" },
    { ".lora_A.default.weight", ".lora_B.default.weight" },
    { ".lora_down.weight", ".lora_up.weight" },
    { ".lora.down.weight", ".lora.up.weight" },
    { "_lora.down.weight", "_lora.up.weight" },
};
#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))

/* Other kinds of networks, and parts that change what B A means. */
static const char *const refused[] = {
    "hada_w", "lokr_w", "dora_scale", "reshape_weight",
};

/* -------------------------------------------------------------- opening */

static int open_file(File *f, const char *path, const WanLog *log)
{
    int ret = wan_weights_open(&f->w, path, log);

    if (ret < 0)
        return ret;
    for (int i = 0; i < wan_weights_count(f->w); i++)
        for (int k = 0; k < COUNT(refused); k++)
            if (strstr(wan_weights_at(f->w, i)->name, refused[k])) {
                wan_log(log, WAN_LOG_ERROR, "%s: tensor %s: this kind of "
                        "adapter is not supported, only LoRA", path,
                        wan_weights_at(f->w, i)->raw_name);
                return WAN_ERR(ENOSYS);
            }
    f->used = calloc(wan_weights_count(f->w) + 1, sizeof(*f->used));
    return f->used ? 0 : WAN_ERR(ENOMEM);
}

int wan_lora_open(WanLora **out, const char *list, int threads,
                  const WanLog *log)
{
    WanLora *l = calloc(1, sizeof(*l));
    char *text = strdup(list), *next = text;
    int ret = WAN_ERR(ENOMEM), n = 1;

    *out = NULL;
    for (const char *p = list; *p; p++)
        n += *p == '|';
    if (!l || !text || !(l->files = calloc(n, sizeof(*l->files))))
        goto fail;
    while (next) {
        File *f = &l->files[l->nb_files++];
        char *path = next, *equals, *end;

        if ((next = strchr(path, '|')))
            *next++ = 0;
        f->strength = 1;
        if ((equals = strrchr(path, '='))) {
            const double v = strtod(equals + 1, &end);

            if (end == equals + 1 || *end || !(v >= -100 && v <= 100)) {
                wan_log(log, WAN_LOG_ERROR, "option lora: '%s' is no strength "
                        "from -100 to 100", equals + 1);
                ret = WAN_ERR(EINVAL);
                goto fail;
            }
            f->strength = (float)v;
            *equals = 0;
        }
        if (!*path) {
            wan_log(log, WAN_LOG_ERROR, "option lora: a path is empty");
            ret = WAN_ERR(EINVAL);
            goto fail;
        }
        if ((ret = open_file(f, path, log)) < 0)
            goto fail;
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

void wan_lora_close(WanLora **lp)
{
    WanLora *l = *lp;

    *lp = NULL;
    if (!l)
        return;
    for (int i = 0; l->files && i < l->nb_files; i++) {
        wan_weights_close(&l->files[i].w);
        free(l->files[i].used);
    }
    if (l->threads)
        wan_cpu_pool_close();
    free(l->files);
    free(l);
}

/* -------------------------------------------------------------- look-up */

static void mark(File *f, const WanStored *s)
{
    for (int i = 0; i < f->nb_used; i++)
        if (f->used[i] == s)
            return;
    f->used[f->nb_used++] = s;
}

static int is_used(const File *f, const WanStored *s)
{
    for (int i = 0; i < f->nb_used; i++)
        if (f->used[i] == s)
            return 1;
    return 0;
}

/* The way number i to write a module's name; 0: there is no such. */
static int spelling(char *dst, size_t size, const char *module, int i)
{
    char other[300], weight[300];

    if (i < 2 * COUNT(prefixes)) {
        snprintf(weight, sizeof(weight), "%s.weight", module);
        wan_name_in(i < COUNT(prefixes) ? WAN_NAMES_OFFICIAL
                    : WAN_NAMES_DIFFUSERS, WAN_PART_DIT, weight, other,
                    sizeof(other));
        other[strlen(other) - strlen(".weight")] = 0;
        snprintf(dst, size, "%s%s", prefixes[i % COUNT(prefixes)], other);
        return 1;
    }
    if (i > 2 * COUNT(prefixes))
        return 0;
    snprintf(dst, size, "lora_unet_%s", module);    // kohya
    for (char *p = dst; *p; p++)
        if (*p == '.')
            *p = '_';
    return 1;
}

static const WanStored *find(const File *f, const char *module,
                             const char *suffix)
{
    char name[600];

    snprintf(name, sizeof(name), "%s%s", module, suffix);
    return wan_weights_find(f->w, name);
}

/* What a file holds for one tensor of the model. */
typedef struct Change {
    const WanStored *a, *b, *alpha;     // B A
    const WanStored *diff;              // or the whole difference
} Change;

static int find_change(const File *f, Change *c, const char *name)
{
    char module[256], spelled[512];
    const char *dot = strrchr(name, '.');
    const int weight = dot && !strcmp(dot, ".weight");
    const int bias = dot && !strcmp(dot, ".bias");

    memset(c, 0, sizeof(*c));
    snprintf(module, sizeof(module), "%.*s",
             weight || bias ? (int)(dot - name) : (int)strlen(name), name);
    for (int i = 0; spelling(spelled, sizeof(spelled), module, i); i++) {
        for (int k = 0; weight && k < COUNT(pairs) && !c->a; k++) {
            c->a = find(f, spelled, pairs[k][0]);
            c->b = find(f, spelled, pairs[k][1]);
            if (!c->a != !c->b)
                c->a = c->b = NULL;
        }
        if (c->a)
            c->alpha = find(f, spelled, ".alpha");
        c->diff = find(f, spelled, weight ? ".diff" : bias ? ".diff_b"
                                                           : ".diff_m");
        if (c->a || c->diff)
            return 1;
    }
    return 0;
}

int wan_lora_has(const WanLora *l, const char *name)
{
    Change c;

    for (int i = 0; i < l->nb_files; i++)
        if (find_change(&l->files[i], &c, name))
            return 1;
    return 0;
}

/* -------------------------------------------------------------- merging */

/* n numbers as f32, malloc'd; NULL: no memory or no floats. */
static float *widen(const WanStored *s)
{
    const int64_t n = s->bytes / wan_type_size(s->type);
    float *p = NULL;

    if (s->data && s->type <= WAN_F64 && (p = malloc(n * sizeof(*p) + 1)))
        wan_to_f32(p, s->data, s->type, n, 1);
    return p;
}

static int64_t count(const WanStored *s)
{
    return s->bytes / wan_type_size(s->type);
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

static int merge(File *f, const Change *c, const char *name, float *w,
                 int64_t rows, int64_t cols, int threads, const WanLog *log)
{
    float *a = NULL, *b = NULL, scale = f->strength;
    int ret = WAN_ERR(ENOMEM);

    if (c->diff) {
        if (count(c->diff) != rows * cols)
            goto misfit;
        if (!(a = widen(c->diff)))
            goto end;
        for (int64_t i = 0; i < rows * cols; i++)
            w[i] += scale * a[i];
        mark(f, c->diff);
    } else {
        const int64_t rank = c->a->nb_dims > 1 ? c->a->dim[0] : 0;

        /* A convolution's A and B have more dimensions of the same order. */
        if (rank < 1 || count(c->a) != rank * cols ||
            count(c->b) != rows * rank)
            goto misfit;
        if (!(a = widen(c->a)) || !(b = widen(c->b)))
            goto end;
        if (c->alpha && count(c->alpha) == 1) {
            float *alpha = widen(c->alpha);

            if (!alpha)
                goto end;
            scale *= alpha[0] / rank;
            free(alpha);
            mark(f, c->alpha);
        }
        wan_cpu_pool_run(threads, (rows + ROWS - 1) / ROWS, NULL, add_rows,
                         &(Product){ w, a, b, rows, cols, rank, scale });
        mark(f, c->a);
        mark(f, c->b);
    }
    ret = 0;
    goto end;
misfit:
    f->skipped++;
    wan_log(log, WAN_LOG_WARNING, "%s: what it has for %s does not fit "
            "[%" PRId64 ", %" PRId64 "], skipped", wan_weights_path(f->w),
            name, rows, cols);
    ret = 0;
end:
    free(a);
    free(b);
    return ret;
}

int wan_lora_merge(WanLora *l, const char *name, float *w, int64_t rows,
                   int64_t cols, const WanLog *log)
{
    for (int i = 0; i < l->nb_files; i++) {
        Change c;
        int ret;

        if (find_change(&l->files[i], &c, name) &&
            (ret = merge(&l->files[i], &c, name, w, rows, cols, l->threads,
                         log)) < 0)
            return ret;
    }
    return 0;
}

int wan_lora_end(const WanLora *l, const WanLog *log)
{
    for (int i = 0; i < l->nb_files; i++) {
        const File *f = &l->files[i];
        const int all = wan_weights_count(f->w);

        if (!f->nb_used) {
            wan_log(log, WAN_LOG_ERROR, "%s: none of its %d tensors fits this "
                    "model", wan_weights_path(f->w), all);
            return WAN_INVALIDDATA;
        }
        for (int k = 0; k < all && f->nb_used < all; k++)
            if (!is_used(f, wan_weights_at(f->w, k))) {
                wan_log(log, WAN_LOG_WARNING, "%s: %d of %d tensors were not "
                        "used, the first is %s", wan_weights_path(f->w),
                        all - f->nb_used, all,
                        wan_weights_at(f->w, k)->raw_name);
                break;
            }
    }
    return 0;
}
