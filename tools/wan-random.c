/*
 * wan-random: write a random checkpoint of a known architecture.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * For tests and measurements at real size without real weights. The names and
 * shapes are those the library binds, asked through WanBinder.visit; what it
 * never reads is left out: the VAE's encoder for text-to-video, CLIP's text
 * tower. Files are named and built as in the official repositories, see
 * docs/models.md.
 *
 * Element i of a tensor, counted from 0 in row-major order, is
 *
 *     h = mix(key + (i + 1) * 0x9e3779b97f4a7c15)      64 bit, wrapping
 *     z = the sum of h's four 16-bit quarters - 131070
 *     v = float(z) * float(std / 37837.227) + mean     float, each op rounded
 *
 * rounded to bfloat16 whatever type is stored (and from there to e4m3), where mix is SplitMix64's
 * output function (see below), key = mix(seed ^ FNV-1a-64(name)), and
 * mean and std depend on the tensor, see law(). z / 37837.227 has mean 0,
 * variance 1 and a nearly normal distribution, at most 3.5 from 0.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "clip.h"
#include "codec.h"
#include "cpu/pool.h"
#include "files.h"
#include "formats/write.h"
#include "t5.h"

#define TOOL "wan-random"
#include "tool.h"

#define MAX_LAYERS 999

#define CHUNK   (1 << 22)       // elements made and written at a time
#define ALIGN   64              // of tensor data in every file
#define TOP     "archive/"      // the folder inside a torch file

static const char usage_text[] =
"usage: wan-random DIR --shapes NAME [options]\n"
"\n"
"Write a random checkpoint into DIR, in the official layout.\n"
"\n"
"  --shapes NAME       t2v-1.3B, t2v-14B, i2v-14B, flf2v-14B, ti2v-5B,\n"
"                      vace-1.3B, vace-14B, t2v-a14b or i2v-a14b: two experts,\n"
"                      of other numbers each\n"
"  --tokenizer FILE    a spiece.model to copy; without it none is written\n"
"  --dit-type TYPE     bf16, f32 or f8_e4m3 [bf16]; the text encoder is bf16,\n"
"                      VAE and CLIP are f32, as in the official files\n"
"  --dit-layers N      fewer layers than the architecture has\n"
"  --text-layers N     likewise of the text encoder\n"
"  --clip-layers N     likewise of CLIP; one more is written, as the official\n"
"                      file has one that is not run\n"
"  --no-text           no text encoder\n"
"  --no-vae            no VAE\n"
"  --seed N            other numbers [0]\n";

__attribute__((format(printf, 1, 2)))
static int error(const char *fmt, ...)
{
    va_list ap;

    fputs("wan-random: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return -1;
}

static void show_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    (void)level;
    error("%s", line);
}

/* ------------------------------------------------------------- tensors */

typedef struct Entry {
    char name[112];
    int nb_dims;
    int64_t dim[WAN_MAX_DIMS];
    int64_t count;
    float mean, std;
    int64_t header;             // torch: offset of its local header
    uint32_t crc;
} Entry;

/* The tensors of one file. */
typedef struct List {
    WanPart part;
    int head_dim;               // of the text encoder
    WanType type;               // stored
    Entry *e;
    int n, size, no_memory;
} List;

static int ends(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);

    return n >= k && !strcmp(s + n - k, end);
}

/* Mean and deviation that keep activations near 1: products preserve the
 * variance, gains are near 1, and the text encoder's scores, which nothing
 * scales down, get it from q. */
static void law(Entry *e, const List *l)
{
    const double fan_in = (double)e->count / e->dim[0];
    const int vector = e->nb_dims == 1;

    e->mean = 0;
    if (ends(e->name, ".bias")) {
        e->std = 0.05f;
    } else if (ends(e->name, "gamma") || vector) {      // a gain
        e->mean = 1;
        e->std = 0.1f;
    } else if (ends(e->name, "modulation") || ends(e->name, "emb_pos")) {
        e->std = 0.1f;
    } else if (ends(e->name, "cls_embedding") ||
               ends(e->name, "visual.pos_embedding")) {
        e->std = 0.5f;
    } else if (ends(e->name, "token_embedding.weight")) {
        e->std = 1;
    } else if (ends(e->name, "pos_embedding.embedding.weight")) {
        e->std = 0.5f;
    } else if (l->part == WAN_PART_T5 && ends(e->name, "attn.q.weight")) {
        e->std = (float)(1 / sqrt(fan_in * l->head_dim));
    } else {
        e->std = (float)(1 / sqrt(fan_in));
    }
}

static void visit(void *opaque, const char *name, int vector, int nb_dims,
                  const int64_t *dim)
{
    List *l = opaque;
    Entry *e;

    (void)vector;
    if (l->n == l->size) {
        const int size = l->size ? 2 * l->size : 256;

        e = realloc(l->e, size * sizeof(*e));
        if (!e) {
            l->no_memory = 1;
            return;
        }
        l->e = e;
        l->size = size;
    }
    e = &l->e[l->n++];
    memset(e, 0, sizeof(*e));
    snprintf(e->name, sizeof(e->name), "%s", name);
    memcpy(e->dim, dim, nb_dims * sizeof(*dim));
    e->count = 1;
    for (int i = 0; i < nb_dims; i++)
        e->count *= dim[i];
    e->nb_dims = wan_stored_dims(WAN_NAMES_OFFICIAL, l->part, name, nb_dims,
                                 e->dim);
    law(e, l);
}

enum { DIT, T5, VAE, CLIP, NB_LISTS };

typedef struct Shapes {
    WanDitConfig dit;
    WanT5Config t5;
    WanVaeConfig vae;
    WanClipConfig clip;
} Shapes;

static int list_tensors(List list[NB_LISTS], const Shapes *s)
{
    const WanLog log = { show_line, NULL, WAN_LOG_WARNING };
    const int image = s->dit.clip_dim > 0;
    WanClipConfig whole = s->clip;
    WanPool pool = { 0 };
    WanDit dit = { 0 };
    WanT5 t5 = { 0 };
    WanCodec vae = { 0 };
    WanClip clip = { 0 };
    WanBinder b[NB_LISTS];
    int ret;

    for (int i = 0; i < NB_LISTS; i++)
        b[i] = (WanBinder){ .part = list[i].part, .pool = &pool, .log = &log,
                            .plan_type = WAN_BF16, .visit = visit,
                            .visit_opaque = &list[i] };
    list[T5].head_dim = s->t5.attn_dim / s->t5.heads;
    whole.layers++;                     // with the one that is not run
    if ((ret = wan_dit_bind(&dit, &s->dit, &b[DIT])) < 0 ||
        (ret = wan_t5_bind(&t5, &s->t5, &b[T5])) < 0 ||
        (ret = wan_codec_bind(&vae, &s->vae, s->dit.task != WAN_TASK_T2V,
                              &b[VAE])) < 0 ||
        (image && (ret = wan_clip_bind(&clip, &whole, &b[CLIP])) < 0))
        error("the list of tensors: %s", wan_strerror(ret));
    for (int i = 0; i < NB_LISTS && ret >= 0; i++)
        if (list[i].no_memory)
            ret = error("no memory for the list of tensors");
    wan_dit_free(&dit);
    wan_t5_free(&t5);
    wan_clip_free(&clip);
    wan_pool_free(&pool);
    return ret;
}

/* -------------------------------------------------------------- numbers */

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint64_t tensor_key(const char *name, uint64_t seed)
{
    uint64_t h = 0xcbf29ce484222325;

    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3;
    return mix(seed ^ h);
}

#define PIECE   (1 << 14)       // elements a thread makes at a time

/* Elements [first, first + n) of a tensor. */
typedef struct Fill {
    void *dst;
    WanType type;
    const Entry *e;
    uint64_t key;
    int64_t first;
    int n;
} Fill;

static void fill_piece(void *arg, int64_t piece, int worker)
{
    const Fill *f = arg;
    const float scale = (float)(f->e->std / 37837.227);
    const int end = f->n < (piece + 1) * PIECE ? f->n
                                               : (int)(piece + 1) * PIECE;
    uint16_t *half = f->dst;
    float *whole = f->dst;

    (void)worker;
    for (int i = (int)piece * PIECE; i < end; i++) {
        const uint64_t h = mix(f->key + (uint64_t)(f->first + i + 1) *
                                        0x9e3779b97f4a7c15);
        const int z = (int)(h & 0xffff) + (int)(h >> 16 & 0xffff) +
                      (int)(h >> 32 & 0xffff) + (int)(h >> 48) - 131070;
        union { float f; uint32_t u; } v = { z * scale };

        v.f += f->e->mean;      // on its own: never fused with the product
        v.u += 0x7fff + (v.u >> 16 & 1);        // to the nearest bfloat16
        v.u &= 0xffff0000;
        if (f->type == WAN_BF16)
            half[i] = v.u >> 16;
        else if (f->type == WAN_F32)
            whole[i] = v.f;
        else
            wan_to_e4m3((uint8_t *)f->dst + i, &v.f, 1, 1);
    }
}

static void fill(const Fill *f)
{
    wan_cpu_pool_run(wan_dev_threads(0), (f->n + PIECE - 1) / PIECE, NULL,
                     fill_piece, (void *)f);
}

/* -------------------------------------------------------------- writing */

/* A file being written; the first failure sticks. */
typedef struct Out {
    char *path;
    int fd;
    int64_t pos;
    int failed;
    unsigned char *chunk;       // CHUNK elements of 4 bytes
    double start;
} Out;

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void put_at(Out *o, const void *data, int64_t n, int64_t pos)
{
    const char *p = data;

    while (n > 0 && !o->failed) {
        const ssize_t done = pwrite(o->fd, p, n, pos);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            error("%s: %s", o->path, done ? strerror(errno) : "no progress");
            o->failed = 1;
            return;
        }
        p += done;
        n -= done;
        pos += done;
    }
}

static void put(Out *o, const void *data, int64_t n)
{
    put_at(o, data, n, o->pos);
    o->pos += n;
}

/* Call out_close() in any case. */
static int out_open(Out *o, const char *dir, const char *name)
{
    memset(o, 0, sizeof(*o));
    o->start = now();
    o->fd = -1;
    o->chunk = malloc((size_t)CHUNK * 4);
    if (!o->chunk || asprintf(&o->path, "%s/%s", dir, name) < 0) {
        o->path = NULL;
        o->failed = 1;
        return error("no memory");
    }
    o->fd = open(o->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (o->fd < 0) {
        o->failed = 1;
        return error("%s: %s", o->path, strerror(errno));
    }
    return 0;
}

/* Close, say what was written; a file that failed is removed. */
static int out_close(Out *o, const char *what)
{
    const double s = now() - o->start;

    if (o->fd >= 0 && close(o->fd) && !o->failed) {
        error("%s: %s", o->path, strerror(errno));
        o->failed = 1;
    }
    if (o->failed && o->fd >= 0)
        unlink(o->path);
    if (!o->failed)
        printf("%s: %s, %.3f GB in %.1f s\n", o->path, what, o->pos / 1e9, s);
    free(o->path);
    free(o->chunk);
    return -o->failed;
}

/* CRC-32 as zip wants it, eight bytes a turn. */
static uint32_t crc32_add(uint32_t crc, const unsigned char *p, size_t n)
{
    static uint32_t table[8][256];

    if (!table[0][1]) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;

            for (int k = 0; k < 8; k++)
                c = c >> 1 ^ (0xedb88320 & -(c & 1));
            table[0][i] = c;
        }
        for (int t = 1; t < 8; t++)
            for (int i = 0; i < 256; i++)
                table[t][i] = table[t - 1][i] >> 8 ^
                              table[0][table[t - 1][i] & 255];
    }
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        const uint32_t a = crc ^ (p[0] | p[1] << 8 | p[2] << 16 |
                                  (uint32_t)p[3] << 24);

        crc = table[7][a & 255] ^ table[6][a >> 8 & 255] ^
              table[5][a >> 16 & 255] ^ table[4][a >> 24] ^ table[3][p[4]] ^
              table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    while (n--)
        crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
    return ~crc;
}

static void put_tensor(Out *o, Entry *e, WanType type, uint64_t seed,
                       int want_crc)
{
    const uint64_t key = tensor_key(e->name, seed);
    const int size = wan_type_size(type);

    for (int64_t i = 0; i < e->count && !o->failed; i += CHUNK) {
        const int n = e->count - i < CHUNK ? (int)(e->count - i) : CHUNK;

        fill(&(Fill){ o->chunk, type, e, key, i, n });
        if (want_crc)
            e->crc = crc32_add(e->crc, o->chunk, (size_t)n * size);
        put(o, o->chunk, (int64_t)n * size);
    }
}

static void put_bytes(Out *o, WanBytes *b)
{
    if (b->failed && !o->failed) {
        error("%s: no memory", o->path);
        o->failed = 1;
    }
    if (!o->failed)
        put(o, b->data, b->n);
    free(b->data);
    *b = (WanBytes){ 0 };
}

static int64_t list_bytes(const List *l)
{
    int64_t sum = 0;

    for (int i = 0; i < l->n; i++)
        sum += l->e[i].count * wan_type_size(l->type);
    return sum;
}

static const char *describe(const List *l, char *dst, size_t size)
{
    int64_t count = 0;

    for (int i = 0; i < l->n; i++)
        count += l->e[i].count;
    snprintf(dst, size, "%d tensors, %" PRId64 " %s numbers", l->n, count,
             wan_type_name(l->type));
    return dst;
}

/* ---------------------------------------------------------- safetensors */

static int write_safetensors(const char *dir, const char *name, List *l,
                             uint64_t seed)
{
    WanHeadTensor *t = calloc(l->n, sizeof(*t));
    WanBytes b = { 0 };
    char what[96];
    Out o;

    if (out_open(&o, dir, name) < 0 || !t) {
        free(t);
        return out_close(&o, "");
    }
    for (int i = 0; i < l->n; i++) {
        t[i] = (WanHeadTensor){ .name = l->e[i].name, .type = l->type,
                                .nb_dims = l->e[i].nb_dims };
        memcpy(t[i].dim, l->e[i].dim, sizeof(t[i].dim));
    }
    wan_safetensors_head(&b, t, l->n, NULL, 0);
    put_bytes(&o, &b);
    free(t);
    for (int i = 0; i < l->n; i++)
        put_tensor(&o, &l->e[i], l->type, seed, 0);
    return out_close(&o, describe(l, what, sizeof(what)));
}

/* ------------------------------------------------------------ torch zip */

static void pickle_int(WanBytes *b, int64_t v)
{
    if (v >= 0 && v < 256) {
        wan_put(b, "K", 1);                         // BININT1
        wan_put_le(b, v, 1);
    } else if (v >= 0 && v < 65536) {
        wan_put(b, "M", 1);                         // BININT2
        wan_put_le(b, v, 2);
    } else if (v >= 0 && v <= INT32_MAX) {
        wan_put(b, "J", 1);                         // BININT
        wan_put_le(b, v, 4);
    } else {
        wan_put(b, "\x8a\x08", 2);                  // LONG1
        wan_put_le(b, v, 8);
    }
}

static void pickle_string(WanBytes *b, const char *s)
{
    wan_put(b, "X", 1);                             // BINUNICODE
    wan_put_le(b, strlen(s), 4);
    wan_put(b, s, strlen(s));
}

/* The state dict, as torch.save() of protocol 2 but without its memo:
 * OrderedDict(name: _rebuild_tensor_v2(storage, 0, shape, strides, False,
 * OrderedDict())) with one storage a tensor, keyed by its number. */
static WanBytes pickle_state_dict(const List *l)
{
    static const char dict[] = "ccollections\nOrderedDict\n)R";
    WanBytes b = { 0 };
    char key[16];

    wan_putf(&b, "\x80\x02%s(", dict);              // PROTO 2, MARK
    for (int i = 0; i < l->n; i++) {
        const Entry *e = &l->e[i];
        int64_t stride = e->count;

        pickle_string(&b, e->name);
        wan_putf(&b, "ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle_string(&b, "storage");
        wan_putf(&b, "ctorch\n%s\n", l->type == WAN_BF16 ? "BFloat16Storage"
                                                     : "FloatStorage");
        snprintf(key, sizeof(key), "%d", i);
        pickle_string(&b, key);
        pickle_string(&b, "cpu");
        pickle_int(&b, e->count);
        wan_putf(&b, "tQ");                         // TUPLE, BINPERSID
        pickle_int(&b, 0);
        wan_putf(&b, "(");
        for (int k = 0; k < e->nb_dims; k++)
            pickle_int(&b, e->dim[k]);
        wan_putf(&b, "t(");
        for (int k = 0; k < e->nb_dims; k++)
            pickle_int(&b, stride /= e->dim[k]);
        wan_putf(&b, "t\x89%stR", dict);            // NEWFALSE, TUPLE, REDUCE
    }
    wan_putf(&b, "u.");                             // SETITEMS, STOP
    return b;
}

/* A local header whose data starts aligned; crc and sizes are written when
 * they are known, by put_at() of the same bytes. */
static WanBytes local_header(const char *name, int64_t pos, uint32_t crc,
                          int64_t bytes)
{
    const size_t n = strlen(name);
    const int pad = (int)(-(pos + 30 + (int64_t)n + 4) & (ALIGN - 1));
    WanBytes b = { 0 };

    wan_put_le(&b, 0x04034b50, 4);
    wan_put_le(&b, 0, 2);                           // version needed
    wan_put_le(&b, 0x0800, 2);                      // flags: UTF-8 names
    wan_put_le(&b, 0, 2);                           // stored
    wan_put_le(&b, 0x21 << 16, 4);                  // 1980-01-01 00:00
    wan_put_le(&b, crc, 4);
    wan_put_le(&b, bytes, 4);
    wan_put_le(&b, bytes, 4);
    wan_put_le(&b, n, 2);
    wan_put_le(&b, 4 + pad, 2);
    wan_put(&b, name, n);
    wan_put_le(&b, 'F' | 'B' << 8, 2);              // PyTorch's padding field
    wan_put_le(&b, pad, 2);
    for (int i = 0; i < pad; i++)
        wan_put(&b, "Z", 1);
    return b;
}

static void add_central(WanBytes *b, const char *name, uint32_t crc,
                        int64_t bytes, int64_t header)
{
    const int zip64 = header >= UINT32_MAX;

    wan_put_le(b, 0x02014b50, 4);
    wan_put_le(b, 45, 2);                           // made by version 4.5
    wan_put_le(b, zip64 ? 45 : 0, 2);
    wan_put_le(b, 0x0800, 2);
    wan_put_le(b, 0, 2);
    wan_put_le(b, 0x21 << 16, 4);
    wan_put_le(b, crc, 4);
    wan_put_le(b, bytes, 4);
    wan_put_le(b, bytes, 4);
    wan_put_le(b, strlen(name), 2);
    wan_put_le(b, zip64 ? 12 : 0, 2);               // extra
    wan_put_le(b, 0, 2);                            // comment
    wan_put_le(b, 0, 2);                            // disk
    wan_put_le(b, 0, 2);
    wan_put_le(b, 0, 4);                            // attributes
    wan_put_le(b, zip64 ? UINT32_MAX : header, 4);
    wan_put(b, name, strlen(name));
    if (zip64) {
        wan_put_le(b, 1, 2);
        wan_put_le(b, 8, 2);
        wan_put_le(b, header, 8);
    }
}

/* A small member: its bytes are at hand. */
static void put_member(Out *o, WanBytes *central, const char *name,
                       const void *data, size_t n)
{
    const uint32_t crc = crc32_add(0, data, n);
    WanBytes b = local_header(name, o->pos, crc, n);

    add_central(central, name, crc, n, o->pos);
    put_bytes(o, &b);
    put(o, data, n);
}

static void put_end(Out *o, WanBytes *central, int members)
{
    const int64_t start = o->pos, size = central->n;
    const int64_t end = start + size;
    const int zip64 = end >= UINT32_MAX || members >= UINT16_MAX;

    if (zip64) {
        wan_put_le(central, 0x06064b50, 4);         // ZIP64 end record
        wan_put_le(central, 44, 8);
        wan_put_le(central, 45, 2);
        wan_put_le(central, 45, 2);
        wan_put_le(central, 0, 8);
        wan_put_le(central, members, 8);
        wan_put_le(central, members, 8);
        wan_put_le(central, size, 8);
        wan_put_le(central, start, 8);
        wan_put_le(central, 0x07064b50, 4);         // and where it is
        wan_put_le(central, 0, 4);
        wan_put_le(central, end, 8);
        wan_put_le(central, 1, 4);
    }
    wan_put_le(central, 0x06054b50, 4);
    wan_put_le(central, 0, 4);
    wan_put_le(central, members < UINT16_MAX ? members : UINT16_MAX, 2);
    wan_put_le(central, members < UINT16_MAX ? members : UINT16_MAX, 2);
    wan_put_le(central, size, 4);
    wan_put_le(central, zip64 ? UINT32_MAX : start, 4);
    wan_put_le(central, 0, 2);
    put_bytes(o, central);
}

static int write_torch(const char *dir, const char *file, List *l,
                       uint64_t seed)
{
    WanBytes central = { 0 }, pickle;
    char name[64], what[96];
    Out o;

    if (out_open(&o, dir, file) < 0)
        return out_close(&o, "");
    pickle = pickle_state_dict(l);
    if (pickle.failed) {
        error("%s: no memory", o.path);
        o.failed = 1;
    } else {
        put_member(&o, &central, TOP "data.pkl", pickle.data, pickle.n);
    }
    free(pickle.data);
    put_member(&o, &central, TOP "byteorder", "little", 6);
    for (int i = 0; i < l->n && !o.failed; i++) {
        Entry *e = &l->e[i];
        const int64_t bytes = e->count * wan_type_size(l->type);
        WanBytes b;

        if (bytes >= UINT32_MAX) {
            error("%s: tensor %s has 4 GB or more", o.path, e->name);
            o.failed = 1;
            break;
        }
        snprintf(name, sizeof(name), TOP "data/%d", i);
        e->header = o.pos;
        b = local_header(name, o.pos, 0, bytes);
        put_bytes(&o, &b);
        put_tensor(&o, e, l->type, seed, 1);
        b = local_header(name, e->header, e->crc, bytes);
        if (!b.failed && !o.failed)
            put_at(&o, b.data, b.n, e->header);
        free(b.data);
        add_central(&central, name, e->crc, bytes, e->header);
    }
    put_member(&o, &central, TOP "version", "3\n", 2);
    put_end(&o, &central, l->n + 3);
    return out_close(&o, describe(l, what, sizeof(what)));
}

/* ---------------------------------------------------------- small files */

static int write_text(const char *dir, const char *name, const void *data,
                      size_t n, const char *what)
{
    Out o;

    if (out_open(&o, dir, name) < 0)
        return out_close(&o, what);
    put(&o, data, n);
    return out_close(&o, what);
}

static int write_config(const char *dir, const WanDitConfig *c)
{
    WanBytes b = { 0 };
    int ret;

    wan_config_text(&b, c, NULL);
    ret = b.failed ? error("no memory for config.json") :
          write_text(dir, "config.json", b.data, b.n, "the architecture");
    free(b.data);
    return ret;
}

static int make_dir(const char *path)
{
    if (mkdir(path, 0777) < 0 && errno != EEXIST)
        return error("%s: %s", path, strerror(errno));
    return 0;
}

static int copy_tokenizer(const char *dir, const char *from)
{
    const WanLog log = { show_line, NULL, WAN_LOG_WARNING };
    char path[4096], *data;
    size_t n;
    int ret;

    if (wan_read_file(&data, &n, from, 64 << 20, &log) < 0)
        return -1;
    snprintf(path, sizeof(path), "%s/google", dir);
    if ((ret = make_dir(path)) >= 0) {
        snprintf(path, sizeof(path), "%s/google/umt5-xxl", dir);
        ret = make_dir(path);
    }
    if (ret >= 0)
        ret = write_text(dir, "google/umt5-xxl/spiece.model", data, n,
                         "copied");
    free(data);
    return ret;
}

/* One transformer beside the other parts, or two experts in folders of their
 * own, the second of the seed that follows. */
static int write_transformers(const char *dir, const char *file,
                              const WanDitConfig *c, List *l, uint64_t seed)
{
    static const char *const folder[] = { "high_noise_model",
                                          "low_noise_model" };
    int ret = 0;

    if (c->experts < 2)
        return write_config(dir, c) < 0 ? -1
               : write_safetensors(dir, file, l, seed);
    for (int i = 0; i < WAN_EXPERTS && ret >= 0; i++) {
        char path[4096];

        snprintf(path, sizeof(path), "%s/%s", dir, folder[i]);
        if ((ret = make_dir(path)) >= 0 && (ret = write_config(path, c)) >= 0)
            ret = write_safetensors(path, file, l, seed + i);
    }
    return ret;
}

/* ------------------------------------------------------------ the program */

typedef struct Options {
    const char *dir, *shapes, *tokenizer;
    int dit_layers, text_layers, clip_layers;   // 0: the architecture's
    int no_text, no_vae;
    WanType dit_type;
    uint64_t seed;
} Options;

/* 0, -1: help was shown, or the exit status of wrong use. */
static int parse(Options *o, int argc, char **argv)
{
    static const struct option known[] = {
        { "shapes", 1, NULL, 's' }, { "tokenizer", 1, NULL, 't' },
        { "dit-type", 1, NULL, 'd' }, { "dit-layers", 1, NULL, 'D' },
        { "text-layers", 1, NULL, 'T' }, { "clip-layers", 1, NULL, 'C' },
        { "no-text", 0, NULL, 'n' }, { "no-vae", 0, NULL, 'v' },
        { "seed", 1, NULL, 'r' }, { "help", 0, NULL, 'h' }, { 0 },
    };
    int c, ret = 0;
    char *end;

    *o = (Options){ .dit_type = WAN_BF16 };
    while (!ret && (c = next_option(argc, argv, known)) != -1) {
        switch (c) {
        case 's': o->shapes = optarg; break;
        case 't': o->tokenizer = optarg; break;
        case 'd':
            if (!strcmp(optarg, "f32"))
                o->dit_type = WAN_F32;
            else if (!strcmp(optarg, "f8_e4m3"))
                o->dit_type = WAN_F8_E4M3;
            else if (strcmp(optarg, "bf16"))
                ret = usage("--dit-type %s: bf16, f32 or f8_e4m3 can be",
                            optarg);
            break;
        case 'D':
            ret = parse_int(&o->dit_layers, "dit-layers", optarg, MAX_LAYERS);
            break;
        case 'T':
            ret = parse_int(&o->text_layers, "text-layers", optarg, MAX_LAYERS);
            break;
        case 'C':
            ret = parse_int(&o->clip_layers, "clip-layers", optarg, MAX_LAYERS);
            break;
        case 'n': o->no_text = 1; break;
        case 'v': o->no_vae = 1; break;
        case 'r':
            o->seed = strtoull(optarg, &end, 0);
            if (!*optarg || *end || *optarg == '-')
                ret = usage("--seed %s: a whole number from 0 can be", optarg);
            break;
        case 'h':
            fputs(usage_text, stdout);
            return -1;
        default:
            return usage("%s is not known or lacks its value",
                         argv[optind - 1]);
        }
    }
    if (ret)
        return ret;
    if (optind != argc - 1)
        return usage(optind < argc ? "one DIR, not more" : "no DIR is given");
    o->dir = argv[optind];
    if (!o->shapes)
        return usage("--shapes is not given");
    return 0;
}

static int check_space(const char *dir, int64_t bytes)
{
    struct statvfs fs;

    if (statvfs(dir, &fs) < 0)
        return error("%s: %s", dir, strerror(errno));
    if ((double)fs.f_bavail * fs.f_frsize < bytes)
        return error("%s: %.1f GB are needed, %.1f GB are free", dir,
                     bytes / 1e9, (double)fs.f_bavail * fs.f_frsize / 1e9);
    return 0;
}

int main(int argc, char **argv)
{
    const char *file[NB_LISTS] = {
        "diffusion_pytorch_model.safetensors",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "Wan2.1_VAE.pth",
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    };
    List list[NB_LISTS] = {
        [DIT] = { .part = WAN_PART_DIT },
        [T5] = { .part = WAN_PART_T5, .type = WAN_BF16 },
        [VAE] = { .part = WAN_PART_VAE, .type = WAN_F32 },
        [CLIP] = { .part = WAN_PART_CLIP, .type = WAN_F32 },
    };
    const WanLog log = { show_line, NULL, WAN_LOG_WARNING };
    int64_t bytes = 1 << 20;            // for all that is small
    Shapes s;
    Options o;
    int ret = parse(&o, argc, argv);

    if (ret)
        return ret < 0 ? 0 : ret;
    if (wan_config_named(o.shapes, &s.dit, &s.t5, &s.vae, &s.clip) < 0)
        return usage("--shapes %s is not known", o.shapes);
    if (o.dit_layers)
        wan_config_cut(&s.dit, o.dit_layers);
    s.t5.layers = o.text_layers ? o.text_layers : s.t5.layers;
    s.clip.layers = o.clip_layers ? o.clip_layers : s.clip.layers;
    list[DIT].type = o.dit_type;
    if (s.vae.family == WAN_VAE_WAN22)
        file[VAE] = "Wan2.2_VAE.pth";
    wan_cpu_pool_open(wan_dev_threads(0), &log);
    if ((ret = list_tensors(list, &s)) < 0)
        goto end;
    if (o.no_text)
        list[T5].n = 0;
    if (o.no_vae)
        list[VAE].n = 0;

    for (int i = 0; i < NB_LISTS; i++)
        bytes += list_bytes(&list[i]) * (i == DIT ? s.dit.experts : 1);
    if ((ret = make_dir(o.dir)) < 0 ||
        (ret = check_space(o.dir, bytes)) < 0 ||
        (o.tokenizer && (ret = copy_tokenizer(o.dir, o.tokenizer)) < 0) ||
        (ret = write_transformers(o.dir, file[DIT], &s.dit, &list[DIT],
                                  o.seed)) < 0)
        goto end;
    for (int i = T5; i < NB_LISTS && ret >= 0; i++)
        if (list[i].n)
            ret = write_torch(o.dir, file[i], &list[i], o.seed);
end:
    wan_cpu_pool_close();
    for (int i = 0; i < NB_LISTS; i++)
        free(list[i].e);
    return ret < 0;
}
