/*
 * torch .pth: a zip archive of stored members, one of them a pickle that says
 * which tensor lies where in the others.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The pickle is read by a machine that knows the few opcodes a state dict
 * needs and builds a description: nothing in it is ever called. A tensor is a
 * view of a storage, X/data/<key>, by offset and strides in elements; only
 * dense row-major views can be bound, others are indexed without data.
 */

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats.h"

/* Far above any checkpoint; what a hostile one can cost. */
#define MAX_MEMBERS (1 << 20)
#define MAX_PICKLE  (64 << 20)
#define MAX_VALUES  (1 << 22)
#define MAX_MARKS   1000

static uint32_t u16(const uint8_t *p)
{
    return p[0] | p[1] << 8;
}

static uint32_t u32(const uint8_t *p)
{
    return u16(p) | u16(p + 2) << 16;
}

static uint64_t u64(const uint8_t *p)
{
    return u32(p) | (uint64_t)u32(p + 4) << 32;
}

/* ---------------------------------------------------------------- zip */

typedef struct Member {
    const char *name;       // in the central directory
    size_t len;
    const uint8_t *data;
    int64_t size;
} Member;

typedef struct Zip {
    const WanFile *f;
    const WanLog *log;
    Member *member;         // by name
    int count;
} Zip;

static int zip_error(const Zip *z, const char *what, int64_t at)
{
    wan_log(z->log, WAN_LOG_ERROR, "%s: damaged zip archive: %s (byte %" PRId64
            ")", z->f->path, what, at);
    return WAN_INVALIDDATA;
}

static int compare_names(const char *a, size_t na, const char *b, size_t nb)
{
    const int order = memcmp(a, b, na < nb ? na : nb);

    return order ? order : (na > nb) - (na < nb);
}

static int by_name(const void *pa, const void *pb)
{
    const Member *a = pa, *b = pb;

    return compare_names(a->name, a->len, b->name, b->len);
}

static const Member *zip_find(const Zip *z, const char *name, size_t len)
{
    const Member key = { .name = name, .len = len };

    return bsearch(&key, z->member, z->count, sizeof(key), by_name);
}

/* Where the central directory is and how many members it lists. */
static int zip_end(const Zip *z, int64_t *begin, int64_t *end,
                   uint64_t *count)
{
    const uint8_t *d = z->f->data;
    const int64_t size = z->f->size;
    int64_t at, limit;
    uint64_t offset, bytes;

    for (at = size - 22; at >= 0 && at >= size - 22 - 65535; at--)
        if (u32(d + at) == 0x06054b50 && u16(d + at + 20) == size - 22 - at)
            break;
    if (at < 0 || at < size - 22 - 65535)
        return zip_error(z, "no end record, the file is cut off", size);
    if (u16(d + at + 4) || u16(d + at + 6) ||
        u16(d + at + 8) != u16(d + at + 10))
        return zip_error(z, "one of several volumes", at);
    *count = u16(d + at + 10);
    bytes = u32(d + at + 12);
    offset = u32(d + at + 16);
    limit = at;

    if (*count == 0xffff || bytes == 0xffffffff || offset == 0xffffffff) {
        uint64_t at64;
        const uint8_t *r;

        if (at < 20 + 56 || u32(d + at - 20) != 0x07064b50)
            return zip_error(z, "no ZIP64 locator", at);
        at64 = u64(d + at - 20 + 8);
        if (at64 > (uint64_t)at - 20 - 56 || u32(d + at64) != 0x06064b50)
            return zip_error(z, "no ZIP64 end record where the locator says",
                             at - 20);
        r = d + at64;
        if (u32(r + 16) || u32(r + 20) || u64(r + 24) != u64(r + 32))
            return zip_error(z, "one of several volumes", at64);
        if (*count == 0xffff)
            *count = u64(r + 32);
        if (bytes == 0xffffffff)
            bytes = u64(r + 40);
        if (offset == 0xffffffff)
            offset = u64(r + 48);
        limit = at64;
    }
    if (offset > (uint64_t)limit || bytes > limit - offset)
        return zip_error(z, "the central directory lies outside of the file",
                         at);
    *begin = offset;
    *end = offset + bytes;
    if (*count > bytes / 46 || *count > MAX_MEMBERS)
        return zip_error(z, "more members than its directory holds", at);
    return 0;
}

/* Replace the saturated fields by those of the ZIP64 extra field. */
static int zip64_extra(const Zip *z, const uint8_t *extra, uint32_t size,
                       int64_t at, uint64_t *bytes, uint64_t *stored,
                       uint64_t *offset)
{
    uint64_t *const field[] = { bytes, stored, offset };
    int wanted = 0;

    for (int i = 0; i < 3; i++)
        wanted += *field[i] == 0xffffffff;
    while (wanted && size >= 4) {
        const uint32_t id = u16(extra), n = u16(extra + 2);

        if (n > size - 4)
            break;
        if (id == 1) {
            const uint8_t *p = extra + 4;

            if (n < 8u * wanted)
                break;
            for (int i = 0; i < 3; i++) {
                if (*field[i] != 0xffffffff)
                    continue;
                *field[i] = u64(p);
                p += 8;
            }
            return 0;
        }
        extra += 4 + n;
        size -= 4 + n;
    }
    return wanted ? zip_error(z, "a member without its ZIP64 sizes", at) : 0;
}

/* One record of the central directory at *at, and its local header. */
static int zip_member(const Zip *z, Member *m, int64_t *at, int64_t end)
{
    const uint8_t *d = z->f->data, *r = d + *at, *local;
    uint64_t stored, bytes, offset, skip;
    uint32_t name, extra, comment;
    int ret;

    if (end - *at < 46 || u32(r) != 0x02014b50)
        return zip_error(z, "no directory record", *at);
    name = u16(r + 28);
    extra = u16(r + 30);
    comment = u16(r + 32);
    if ((int64_t)46 + name + extra + comment > end - *at)
        return zip_error(z, "a record longer than the directory", *at);
    stored = u32(r + 20);
    bytes = u32(r + 24);
    offset = u32(r + 42);
    ret = zip64_extra(z, r + 46 + name, extra, *at, &bytes, &stored, &offset);
    if (ret < 0)
        return ret;
    if (u16(r + 10) || (u16(r + 8) & 1) || bytes != stored)
        return zip_error(z, "a member is compressed or encrypted, torch "
                         "stores them as they are", *at);

    if (offset > (uint64_t)z->f->size || z->f->size - offset < 30 ||
        u32(d + offset) != 0x04034b50)
        return zip_error(z, "a member is not where the directory says", *at);
    local = d + offset;
    skip = 30 + u16(local + 26) + u16(local + 28);
    if (skip > z->f->size - offset || bytes > z->f->size - offset - skip)
        return zip_error(z, "a member reaches past the end of the file", *at);
    if (u16(local + 26) != name || memcmp(local + 30, r + 46, name))
        return zip_error(z, "a member has another name than the directory "
                         "says", *at);

    *m = (Member){ (const char *)r + 46, name, local + skip, bytes };
    *at += 46 + name + extra + comment;
    return 0;
}

static int zip_open(Zip *z, const WanFile *f, const WanLog *log)
{
    int64_t at = 0, end = 0;
    uint64_t count = 0;
    int ret;

    *z = (Zip){ .f = f, .log = log };
    ret = zip_end(z, &at, &end, &count);
    if (ret < 0)
        return ret;
    z->member = calloc(count + 1, sizeof(*z->member));
    if (!z->member)
        return wan_error_memory(log, f->path, "its members");
    while (z->count < (int)count) {
        ret = zip_member(z, &z->member[z->count], &at, end);
        if (ret < 0)
            return ret;
        z->count++;
    }
    if (at != end)
        return zip_error(z, "its directory is longer than its members", at);

    qsort(z->member, z->count, sizeof(*z->member), by_name);
    for (int i = 1; i < z->count; i++) {
        if (by_name(&z->member[i - 1], &z->member[i]))
            continue;
        wan_log(log, WAN_LOG_ERROR, "%s: two members are named '%.*s'",
                f->path, (int)z->member[i].len, z->member[i].name);
        return WAN_INVALIDDATA;
    }
    return 0;
}

/* ------------------------------------------------------------- pickle */

typedef enum Kind {
    NONE, BOOL, INT, FLOAT, STRING, GLOBAL, TUPLE, LIST, DICT, STORAGE, TENSOR
} Kind;

/* What a pickle may name. The type is that of a storage's elements. */
enum { ORDERED_DICT = WAN_NB_TYPES, REBUILD_TENSOR, REBUILD_PARAMETER,
       UNTYPED };

static const struct {
    const char *name;
    int what;               // WanType or one of the above
} globals[] = {
    { "torch._utils._rebuild_tensor_v2", REBUILD_TENSOR },
    { "torch._utils._rebuild_parameter", REBUILD_PARAMETER },
    { "collections.OrderedDict", ORDERED_DICT },
    { "torch.FloatStorage", WAN_F32 }, { "torch.HalfStorage", WAN_F16 },
    { "torch.BFloat16Storage", WAN_BF16 }, { "torch.DoubleStorage", WAN_F64 },
    { "torch.LongStorage", WAN_I64 }, { "torch.IntStorage", WAN_I32 },
    { "torch.ShortStorage", WAN_I16 }, { "torch.CharStorage", WAN_I8 },
    { "torch.ByteStorage", WAN_U8 }, { "torch.BoolStorage", WAN_BOOL },
    { "torch.storage.UntypedStorage", UNTYPED },
};

/* Values refer to each other by index, so there is no recursion to exhaust
 * and nothing to free one by one. */
typedef struct Value {
    Kind kind;
    int n;                  // STRING: bytes; else number of items
    union {
        int64_t i;          // INT, BOOL; GLOBAL: what
        const char *s;      // STRING: in the mapping
        int first;          // TUPLE, STORAGE, TENSOR: arguments, in item[];
                            // DICT: newest pair, -1: empty
    };
} Value;

typedef struct Pair {
    int key, value, next;
} Pair;

typedef struct Machine {
    const char *path;
    const WanLog *log;
    const uint8_t *begin, *p, *end, *op;    // op: the opcode being read
    Value *value;
    int nb_values, room_values;
    int *item;                              // of tuples
    int nb_items, room_items;
    Pair *pair;                             // of dicts
    int nb_pairs, room_pairs;
    int *stack, depth, room_stack;
    int *memo, nb_memo;                     // -1: not set
    int mark[MAX_MARKS], nb_marks;
} Machine;

__attribute__((format(printf, 2, 3)))
static int pickle_error(const Machine *m, const char *fmt, ...)
{
    char what[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    wan_log(m->log, WAN_LOG_ERROR, "%s: data.pkl, byte %td: %s", m->path,
            m->op - m->begin, what);
    return WAN_INVALIDDATA;
}

/* Make room for one more element of *array. */
static int reserve(const Machine *m, void *array, int count, int *room,
                   size_t size)
{
    void **p = array, *grown;
    int n;

    if (count < *room)
        return 0;
    if (count >= MAX_VALUES)
        return pickle_error(m, "more than %d objects", MAX_VALUES);
    n = *room ? 2 * *room : 256;
    grown = realloc(*p, n * size);
    if (!grown)
        return wan_error_memory(m->log, m->path, "data.pkl");
    *p = grown;
    *room = n;
    return 0;
}

static int push_index(Machine *m, int index)
{
    int ret = reserve(m, &m->stack, m->depth, &m->room_stack,
                      sizeof(*m->stack));

    if (ret >= 0)
        m->stack[m->depth++] = index;
    return ret;
}

static int push(Machine *m, Value v)
{
    int ret = reserve(m, &m->value, m->nb_values, &m->room_values,
                      sizeof(*m->value));

    if (ret < 0)
        return ret;
    m->value[m->nb_values++] = v;
    return push_index(m, m->nb_values - 1);
}

/* How many values lie above the newest mark. */
static int above_mark(const Machine *m)
{
    return m->depth - (m->nb_marks ? m->mark[m->nb_marks - 1] : 0);
}

/* Is there a value i places below the top? Values under a mark don't count. */
static int need(const Machine *m, int n)
{
    return above_mark(m) >= n ? 0 : pickle_error(m, "too few values on the "
                                                 "stack");
}

/* The value i places below the top. */
static const Value *top(const Machine *m, int i)
{
    return &m->value[m->stack[m->depth - 1 - i]];
}

static int pop_mark(Machine *m)
{
    if (!m->nb_marks)
        return pickle_error(m, "no mark on the stack");
    m->nb_marks--;
    return 0;
}

/* n bytes of arguments, or NULL: the pickle ends before. */
static const uint8_t *take(Machine *m, uint64_t n)
{
    const uint8_t *p = m->p;

    if (n > (uint64_t)(m->end - p)) {
        pickle_error(m, "the pickle is cut off");
        return NULL;
    }
    m->p += n;
    return p;
}

static int push_string(Machine *m, uint64_t n)
{
    const uint8_t *s = take(m, n);

    if (!s)
        return WAN_INVALIDDATA;
    return push(m, (Value){ .kind = STRING, .n = (int)n,
                            .s = (const char *)s });
}

static int push_global(Machine *m, const char *module, int nm,
                       const char *name, int nn)
{
    for (size_t i = 0; i < sizeof(globals) / sizeof(globals[0]); i++) {
        const char *g = globals[i].name;

        if (strlen(g) == (size_t)nm + 1 + nn && strrchr(g, '.') == g + nm &&
            !memcmp(g, module, nm) && !memcmp(g + nm + 1, name, nn))
            return push(m, (Value){ .kind = GLOBAL, .i = globals[i].what });
    }
    if (nm > 100)
        nm = 100;
    if (nn > 100)
        nn = 100;
    return pickle_error(m, "refused: it names '%.*s.%.*s', which no "
                        "checkpoint needs", nm, module, nn, name);
}

/* The n values on top become one. */
static int collect(Machine *m, Kind kind, int n)
{
    const int first = m->nb_items;
    int ret;

    for (int i = 0; i < n; i++) {
        ret = reserve(m, &m->item, m->nb_items, &m->room_items,
                      sizeof(*m->item));
        if (ret < 0)
            return ret;
        m->item[m->nb_items++] = m->stack[m->depth - n + i];
    }
    m->depth -= n;
    return push(m, (Value){ .kind = kind, .n = n, .first = first });
}

static int collect_fixed(Machine *m, int n)
{
    int ret = need(m, n);

    return ret < 0 ? ret : collect(m, TUPLE, n);
}

/* The n values on top are keys and values for the dict below them. */
static int set_items(Machine *m, int n)
{
    int ret = need(m, n + 1), dict;

    if (ret < 0)
        return ret;
    dict = m->stack[m->depth - 1 - n];
    if (m->value[dict].kind != DICT || n % 2)
        return pickle_error(m, "items for something that is not a dict");
    for (int i = m->depth - n; i < m->depth; i += 2) {
        ret = reserve(m, &m->pair, m->nb_pairs, &m->room_pairs,
                      sizeof(*m->pair));
        if (ret < 0)
            return ret;
        m->pair[m->nb_pairs] = (Pair){ m->stack[i], m->stack[i + 1],
                                       m->value[dict].first };
        m->value[dict].first = m->nb_pairs++;
    }
    m->depth -= n;
    return 0;
}

/* The n values on top go to the list below them; what lists hold is of no
 * use here. */
static int append(Machine *m, int n)
{
    int ret = need(m, n + 1);

    if (ret < 0)
        return ret;
    if (top(m, n)->kind != LIST)
        return pickle_error(m, "items for something that is not a list");
    m->depth -= n;
    return 0;
}

/* Stands for the call of a callable with a tuple. */
static int reduce(Machine *m)
{
    int ret = need(m, 2);
    Value args, callable;

    if (ret < 0)
        return ret;
    args = *top(m, 0);
    callable = *top(m, 1);
    if (args.kind != TUPLE || callable.kind != GLOBAL)
        return pickle_error(m, "refused: a call of something that is not a "
                            "known function");
    m->depth -= 2;

    switch (callable.i) {
    case ORDERED_DICT:
        if (!args.n)
            return push(m, (Value){ .kind = DICT, .first = -1 });
        break;
    case REBUILD_TENSOR:
        if (args.n == 6 || args.n == 7) {
            args.kind = TENSOR;
            return push(m, args);
        }
        break;
    case REBUILD_PARAMETER:
        if (args.n == 3 && m->value[m->item[args.first]].kind == TENSOR)
            return push_index(m, m->item[args.first]);
        break;
    }
    return pickle_error(m, "a call with other arguments than torch writes");
}

/* ("storage", class, key, location, numel) */
static int persistent(Machine *m)
{
    int ret = need(m, 1);
    Value v;
    const int *arg;

    if (ret < 0)
        return ret;
    v = *top(m, 0);
    if (v.kind != TUPLE || v.n != 5)
        return pickle_error(m, "a persistent id that is not a storage");
    arg = m->item + v.first;
    if (m->value[arg[0]].kind != STRING || m->value[arg[0]].n != 7 ||
        memcmp(m->value[arg[0]].s, "storage", 7) ||
        m->value[arg[1]].kind != GLOBAL ||
        m->value[arg[2]].kind != STRING || m->value[arg[4]].kind != INT)
        return pickle_error(m, "a persistent id that is not a storage");
    m->depth--;
    v.kind = STORAGE;
    return push(m, v);
}

static int memo_put(Machine *m, uint32_t i)
{
    int ret = need(m, 1), room = m->nb_memo;

    if (ret < 0)
        return ret;
    if (i >= MAX_VALUES)
        return pickle_error(m, "memo %" PRIu32 ", at most %d are kept", i,
                            MAX_VALUES);
    while ((uint32_t)room <= i)
        room = room ? 2 * room : 256;
    if (room > m->nb_memo) {
        int *grown = realloc(m->memo, room * sizeof(*grown));

        if (!grown)
            return wan_error_memory(m->log, m->path, "data.pkl");
        m->memo = grown;
        while (m->nb_memo < room)
            m->memo[m->nb_memo++] = -1;
    }
    m->memo[i] = m->stack[m->depth - 1];
    return 0;
}

static int memo_get(Machine *m, uint32_t i)
{
    if (i >= (uint32_t)m->nb_memo || m->memo[i] < 0)
        return pickle_error(m, "memo %" PRIu32 " was never set", i);
    return push_index(m, m->memo[i]);
}

/* One opcode; 1: that was STOP. */
static int step(Machine *m, int *memoized)
{
    const uint8_t *a = m->p, *nl;
    int ret;

#define ARGS(n)                                                             \
    do {                                                                    \
        if (!(a = take(m, (n))))                                            \
            return WAN_INVALIDDATA;                                         \
    } while (0)
#define MARKED()                                                            \
    do {                                                                    \
        ret = above_mark(m);                                                \
        if (pop_mark(m) < 0)                                                \
            return WAN_INVALIDDATA;                                         \
    } while (0)

    switch (*m->op) {
    case 0x80:                                                  // PROTO
        ARGS(1);
        if (a[0] < 2 || a[0] > 5)
            return pickle_error(m, "pickle protocol %d, 2 to 5 are read", a[0]);
        return 0;
    case 0x95: ARGS(8); return 0;                               // FRAME
    case '}':  return push(m, (Value){ .kind = DICT, .first = -1 });
    case ']':  return push(m, (Value){ .kind = LIST });
    case ')':  return collect(m, TUPLE, 0);
    case 'N':  return push(m, (Value){ .kind = NONE });
    case 0x88: return push(m, (Value){ .kind = BOOL, .i = 1 });
    case 0x89: return push(m, (Value){ .kind = BOOL });
    case 'K':  ARGS(1); return push(m, (Value){ .kind = INT, .i = a[0] });
    case 'M':  ARGS(2); return push(m, (Value){ .kind = INT, .i = u16(a) });
    case 'J':
        ARGS(4);
        return push(m, (Value){ .kind = INT, .i = (int32_t)u32(a) });
    case 0x8a: {                                                // LONG1
        uint64_t v = 0;
        int n;

        ARGS(1);
        n = a[0];
        ARGS(n);
        if (n > 8)
            return pickle_error(m, "an integer of %d bytes", n);
        if (n && a[n - 1] & 0x80)
            v = ~(uint64_t)0;
        for (int i = n - 1; i >= 0; i--)
            v = v << 8 | a[i];
        return push(m, (Value){ .kind = INT, .i = (int64_t)v });
    }
    case 'G':  ARGS(8); return push(m, (Value){ .kind = FLOAT });
    case 'X':  ARGS(4); return push_string(m, u32(a));
    case 0x8c: ARGS(1); return push_string(m, a[0]);
    case 0x8d: ARGS(8); return push_string(m, u64(a));
    case 'c': {                                                 // GLOBAL
        const uint8_t *name;

        nl = memchr(m->p, '\n', m->end - m->p);
        if (!nl)
            return pickle_error(m, "the pickle is cut off");
        name = nl + 1;
        m->p = memchr(name, '\n', m->end - name);
        if (!m->p)
            return pickle_error(m, "the pickle is cut off");
        ret = push_global(m, (const char *)a, (int)(nl - a),
                          (const char *)name, (int)(m->p - name));
        m->p++;
        return ret;
    }
    case 0x93: {                                                // STACK_GLOBAL
        Value module, name;

        ret = need(m, 2);
        if (ret < 0)
            return ret;
        name = *top(m, 0);
        module = *top(m, 1);
        if (name.kind != STRING || module.kind != STRING)
            return pickle_error(m, "a global without a name");
        m->depth -= 2;
        return push_global(m, module.s, module.n, name.s, name.n);
    }
    case '(':                                                   // MARK
        if (m->nb_marks == MAX_MARKS)
            return pickle_error(m, "nested deeper than %d", MAX_MARKS);
        m->mark[m->nb_marks++] = m->depth;
        return 0;
    case 't':  MARKED(); return collect(m, TUPLE, ret);
    case 0x85: return collect_fixed(m, 1);
    case 0x86: return collect_fixed(m, 2);
    case 0x87: return collect_fixed(m, 3);
    case 'q':  ARGS(1); return memo_put(m, a[0]);
    case 'r':  ARGS(4); return memo_put(m, u32(a));
    case 0x94: return memo_put(m, (*memoized)++);               // MEMOIZE
    case 'h':  ARGS(1); return memo_get(m, a[0]);
    case 'j':  ARGS(4); return memo_get(m, u32(a));
    case 'Q':  return persistent(m);
    case 'R':  return reduce(m);
    case 'b':                                                   // BUILD
        ret = need(m, 2);
        if (ret >= 0)
            m->depth--;
        return ret;
    case 's':  return set_items(m, 2);
    case 'u':  MARKED(); return set_items(m, ret);
    case 'a':  return append(m, 1);
    case 'e':  MARKED(); return append(m, ret);
    case '0':                                                   // POP
        if (m->nb_marks && !above_mark(m))
            return pop_mark(m);
        ret = need(m, 1);
        if (ret >= 0)
            m->depth--;
        return ret;
    case '1':  MARKED(); m->depth -= ret; return 0;             // POP_MARK
    case '2':
        ret = need(m, 1);
        return ret < 0 ? ret : push_index(m, m->stack[m->depth - 1]);
    case '.':
        ret = need(m, 1);
        return ret < 0 ? ret : 1;
    }
    return pickle_error(m, "refused: opcode 0x%02x, which no checkpoint needs",
                        *m->op);
#undef ARGS
#undef MARKED
}

/* -------------------------------------------------------- state dict */

/* A storage's member: X/data/<key>, where X/data.pkl is the pickle. */
static const Member *storage_member(const Zip *z, const Member *pickle,
                                    const Value *key)
{
    const size_t folder = pickle->len - strlen("data.pkl");
    char name[512];

    if (key->n <= 0 || folder + strlen("data/") + key->n > sizeof(name))
        return NULL;
    memcpy(name, pickle->name, folder);
    memcpy(name + folder, "data/", 5);
    memcpy(name + folder + 5, key->s, key->n);
    return zip_find(z, name, folder + 5 + key->n);
}

/* A tuple of counts, as many as nb says; nb < 0: any number. */
static int counts(const Machine *m, const Value *tuple, int64_t *dst, int nb)
{
    if (tuple->kind != TUPLE || tuple->n > WAN_STORED_MAX_DIMS ||
        (nb >= 0 && tuple->n != nb))
        return -1;
    for (int i = 0; i < tuple->n; i++) {
        const Value *v = &m->value[m->item[tuple->first + i]];

        if (v->kind != INT || v->i < 0)
            return -1;
        dst[i] = v->i;
    }
    return tuple->n;
}

/* The last element a view reaches, counted from its first; -1: too far for
 * any file. *dense: row-major without holes. */
static int64_t view_reach(const WanStored *t, const int64_t *stride,
                          int *dense)
{
    int64_t reach = 0, step = 1;

    *dense = 1;
    for (int i = t->nb_dims - 1; i >= 0; i--) {
        int64_t way;

        if (t->dim[i] == 1)
            continue;
        *dense &= stride[i] == step;
        step *= t->dim[i];
        if (__builtin_mul_overflow(t->dim[i] - 1, stride[i], &way) ||
            __builtin_add_overflow(reach, way, &reach))
            return -1;
    }
    return reach;
}

/* One tensor of the state dict, from the arguments of its rebuild:
 * (storage, offset, shape, stride, requires_grad, hooks[, metadata]). */
static int add_tensor(WanWeights *w, const Zip *z, const Member *pickle,
                      const Machine *m, const Value *key, const Value *v)
{
    const char *path = z->f->path;
    const int *arg = m->item + v->first, *sarg;
    const Value *storage = &m->value[arg[0]], *offset = &m->value[arg[1]];
    const int nn = key->n < 200 ? key->n : 200;
    const Member *member;
    WanStored t = { 0 };
    int64_t stride[WAN_STORED_MAX_DIMS], numel, reach, what;
    int size, dense = 1;

    if (storage->kind != STORAGE || offset->kind != INT || offset->i < 0) {
        wan_log(z->log, WAN_LOG_ERROR, "%s: tensor %.*s: no storage and "
                "offset", path, nn, key->s);
        return WAN_INVALIDDATA;
    }
    t.nb_dims = counts(m, &m->value[arg[2]], t.dim, -1);
    if (t.nb_dims < 0 ||
        counts(m, &m->value[arg[3]], stride, t.nb_dims) < 0) {
        wan_log(z->log, WAN_LOG_ERROR, "%s: tensor %.*s: shape and stride are "
                "not two tuples of at most %d counts", path, nn, key->s,
                WAN_STORED_MAX_DIMS);
        return WAN_INVALIDDATA;
    }
    sarg = m->item + storage->first;
    what = m->value[sarg[1]].i;
    numel = m->value[sarg[4]].i;
    if (what >= WAN_NB_TYPES) {
        wan_log(z->log, WAN_LOG_ERROR, "%s: tensor %.*s: its storage names no "
                "type", path, nn, key->s);
        return WAN_INVALIDDATA;
    }
    t.type = (WanType)what;
    size = wan_type_size(t.type);
    t.bytes = wan_shape_bytes(t.nb_dims, t.dim, size);

    member = storage_member(z, pickle, &m->value[sarg[2]]);
    if (!member) {
        wan_log(z->log, WAN_LOG_ERROR, "%s: tensor %.*s: its data, member "
                "'data/%.*s', is missing", path, nn, key->s,
                m->value[sarg[2]].n < 40 ? m->value[sarg[2]].n : 40,
                m->value[sarg[2]].s);
        return WAN_INVALIDDATA;
    }
    if (numel < 0 || numel > member->size / size) {
        wan_log(z->log, WAN_LOG_ERROR, "%s: tensor %.*s: a storage of %" PRId64
                " elements in %" PRId64 " bytes", path, nn, key->s, numel,
                member->size);
        return WAN_INVALIDDATA;
    }
    reach = t.bytes > 0 ? view_reach(&t, stride, &dense) : t.bytes;
    if (reach < 0 || offset->i > numel ||
        (t.bytes && reach >= numel - offset->i)) {
        wan_log(z->log, WAN_LOG_ERROR, "%s: tensor %.*s reaches out of its "
                "storage of %" PRId64 " elements", path, nn, key->s, numel);
        return WAN_INVALIDDATA;
    }
    t.data = dense ? member->data + offset->i * size : NULL;
    return wan_weights_add(w, z->f, key->s, key->n, &t, z->log);
}

static int has_tensor(const Machine *m, const Value *dict)
{
    for (int i = dict->first; i >= 0; i = m->pair[i].next)
        if (m->value[m->pair[i].value].kind == TENSOR)
            return 1;
    return 0;
}

/* The dict of tensors: the pickle's object, or the first one in it by usual
 * names, of which programs that train give several. */
static const Value *state_dict(WanWeights *w, const Machine *m)
{
    const char *wanted = wan_weights_wanted(w);
    static const char *const usual[] = { "generator_ema", "generator",
                                         "generator_lora", "state_dict",
                                         "model", "module" };
    const Value *dict = top(m, 0), *found = NULL;
    const char *name = NULL, *other = NULL;

    if (dict->kind != DICT || has_tensor(m, dict))
        return dict->kind == DICT ? dict : NULL;
    for (size_t k = 0; k < sizeof(usual) / sizeof(*usual); k++)
        for (int i = dict->first; i >= 0; i = m->pair[i].next) {
            const Value *key = &m->value[m->pair[i].key];
            const Value *v = &m->value[m->pair[i].value];

            if (key->kind != STRING || v->kind != DICT ||
                (size_t)key->n != strlen(usual[k]) ||
                memcmp(key->s, usual[k], key->n) || !has_tensor(m, v))
                continue;
            if (found && !other)
                other = usual[k];
            if (!found || (wanted && !strcmp(usual[k], wanted))) {
                other = found ? name : NULL;
                found = v;
                name = usual[k];
            }
        }
    if (other)
        wan_log(m->log, WAN_LOG_INFO, "%s: holds %s and %s, the first is used",
                m->path, name, other);
    wan_weights_taken(w, name);
    return found;
}

/* The one member X/data.pkl with a single folder. */
static const Member *find_pickle(const Zip *z)
{
    const Member *found = NULL;

    for (int i = 0; i < z->count; i++) {
        const Member *m = &z->member[i];
        const char *slash = memchr(m->name, '/', m->len);
        const size_t rest = slash ? m->name + m->len - slash : 0;

        if (rest != strlen("/data.pkl") || memcmp(slash, "/data.pkl", rest))
            continue;
        if (found)
            return NULL;
        found = m;
    }
    return found;
}

/* X/byteorder, in newer files. */
static int check_byteorder(const Zip *z, const Member *pickle)
{
    const size_t folder = pickle->len - strlen("data.pkl");
    char name[256];
    const Member *m;

    if (folder + 9 > sizeof(name))
        return 0;
    memcpy(name, pickle->name, folder);
    memcpy(name + folder, "byteorder", 9);
    m = zip_find(z, name, folder + 9);
    if (m && (m->size != 6 || memcmp(m->data, "little", 6))) {
        wan_log(z->log, WAN_LOG_ERROR, "%s: byte order '%.*s', only little is "
                "read", z->f->path, (int)(m->size < 16 ? m->size : 16),
                (const char *)m->data);
        return WAN_ERR(ENOSYS);
    }
    return 0;
}

int wan_torch_zip_read(WanWeights *w, const WanFile *f, const WanLog *log)
{
    Zip z;
    Machine m = { .path = f->path, .log = log };
    const Member *pickle;
    const Value *dict;
    int memoized = 0, ret;

    ret = zip_open(&z, f, log);
    if (ret < 0)
        goto fail;
    pickle = find_pickle(&z);
    if (!pickle || pickle->size > MAX_PICKLE) {
        wan_log(log, WAN_LOG_ERROR, "%s: not a torch file: no one member "
                "FOLDER/data.pkl of at most %d bytes", f->path, MAX_PICKLE);
        ret = WAN_INVALIDDATA;
        goto fail;
    }
    ret = check_byteorder(&z, pickle);
    if (ret < 0)
        goto fail;

    m.begin = m.p = m.op = pickle->data;
    m.end = m.begin + pickle->size;
    do {
        m.op = m.p;
        ret = take(&m, 1) ? step(&m, &memoized) : WAN_INVALIDDATA;
    } while (!ret);
    if (ret < 0)
        goto fail;

    dict = state_dict(w, &m);
    if (!dict) {
        wan_log(log, WAN_LOG_ERROR, "%s: data.pkl holds no dict of tensors",
                f->path);
        ret = WAN_INVALIDDATA;
        goto fail;
    }
    ret = 0;
    for (int i = dict->first; i >= 0 && ret >= 0; i = m.pair[i].next) {
        const Value *key = &m.value[m.pair[i].key];
        const Value *v = &m.value[m.pair[i].value];

        if (v->kind != TENSOR)
            continue;
        if (key->kind != STRING) {
            wan_log(log, WAN_LOG_ERROR, "%s: data.pkl holds a tensor whose "
                    "name is not a string", f->path);
            ret = WAN_INVALIDDATA;
            break;
        }
        ret = add_tensor(w, &z, pickle, &m, key, v);
    }
fail:
    free(m.value);
    free(m.item);
    free(m.pair);
    free(m.stack);
    free(m.memo);
    free(z.member);
    return ret;
}
