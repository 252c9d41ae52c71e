/*
 * Text to token ids, as the official path does it: Hugging Face's
 * tokenizer.json, read from the spiece.model that it was made of.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Special tokens are cut out of the cleaned text; the rest goes through the
 * model's charsmap, if it has one, and is split before every U+2581, which is
 * what a space becomes and what each text begins with. Each word is then cut
 * into the pieces whose scores sum to the most (Kudo, "Subword
 * Regularization", 2018).
 *
 * Why not libsentencepiece: it keeps its sums in floats, so where two ways to
 * cut a word score the same, such as "0" "00" and "00" "0", rounding picks
 * one, and not the one that the model was trained with; it spells unknown
 * characters in bytes where this path says <unk>; and it ends the process
 * over some damaged models.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

#define EXTRA_IDS   300         // <extra_id_299> has the lowest id
#define MAX_MODEL   (64 << 20)  // bytes; umT5's has 4.5 M
#define MAX_PIECES  (1 << 20)   // umT5: 256000
#define MAX_PIECE   256         // bytes
#define MAX_TEXT    (1 << 20)   // bytes of a prompt
#define SPACE       "\xe2\x96\x81"
#define SPACE_LEN   3

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

typedef struct Piece {
    const char *text;           // into the tokenizer's copy of the file
    int len;
    int id;
    double score;               // of a float
} Piece;

struct WanTokenizer {
    uint8_t *file;
    Piece *piece;               // sorted by text, each text once
    int nb_pieces, room;
    int nb_ids;                 // of the file's pieces
    int unk, eos;
    double unk_score;           // of a character that no piece has

    const uint8_t *trie;        // precompiled_charsmap: units of 4 bytes
    uint32_t nb_units;
    const uint8_t *pool;        // replacements, each ended by a 0
    size_t pool_bytes;
};

/* ------------------------------------------------------------- protobuf */

typedef struct Reader {
    const uint8_t *p, *end;
    const char *bad;            // what is wrong, when next_field() is < 0
    uint64_t field;
    int wire;
    uint64_t value;             // wire types 0, 1, 5
    const uint8_t *bytes;       // wire type 2
    size_t len;
} Reader;

static int varint(Reader *r, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 64 && r->p < r->end; shift += 7) {
        const uint8_t byte = *r->p++;

        *v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return 0;
    }
    r->bad = "a number is cut off";
    return -1;
}

/* 1: one more field, 0: the message ends here, -1: it is damaged */
static int next_field(Reader *r)
{
    uint64_t key, n;

    if (r->p == r->end)
        return 0;
    if (varint(r, &key) < 0)
        return -1;
    r->field = key >> 3;
    r->wire = key & 7;
    switch (r->wire) {
    case 0:
        return varint(r, &r->value) < 0 ? -1 : 1;
    case 1:
    case 5:
        n = r->wire == 1 ? 8 : 4;
        break;
    case 2:
        if (varint(r, &n) < 0)
            return -1;
        break;
    default:
        r->bad = "a field has an unknown wire type";
        return -1;
    }
    if (n > (uint64_t)(r->end - r->p)) {
        r->bad = "a field is cut off";
        return -1;
    }
    r->bytes = r->p;
    r->len = n;
    r->p += n;
    r->value = 0;
    for (int i = 0; r->wire != 2 && i < (int)n; i++)
        r->value |= (uint64_t)r->bytes[i] << 8 * i;
    return 1;
}

static int is_field(const Reader *r, uint64_t field, int wire)
{
    return r->field == field && r->wire == wire;
}

static Reader submessage(const Reader *r)
{
    return (Reader){ .p = r->bytes, .end = r->bytes + r->len };
}

/* ------------------------------------------------------------ charsmap */

static uint32_t read_u32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

/*
 * precompiled_charsmap: u32 size, a double-array trie of that many bytes, and
 * the pool of replacements. A unit of the trie holds a label in its lowest
 * byte, bit 8: a value hangs below, bits 10 to 30: offset to its children, in
 * units of 256 if bit 9 is set; bit 31: it is a value, a place in the pool.
 */
static const char *open_charsmap(WanTokenizer *t, const uint8_t *p, size_t n)
{
    uint32_t size;

    if (!n)
        return NULL;
    size = n < 4 ? 0 : read_u32(p);
    if (!size || size % 4 || size >= n - 4 || p[n - 1])
        return "its precompiled_charsmap has an impossible size or end";
    t->trie = p + 4;
    t->nb_units = size / 4;
    t->pool = p + 4 + size;
    t->pool_bytes = n - 4 - size;
    return NULL;
}

static uint32_t children(uint32_t unit)
{
    return unit >> 10 << ((unit & 0x200) >> 6);
}

/* Length of the longest key that text begins with, or 0. */
static size_t map_prefix(const WanTokenizer *t, const char *text, size_t n,
                         const char **replacement)
{
    uint32_t node = t->nb_units ? children(read_u32(t->trie)) : 0;
    size_t found = 0;

    for (size_t i = 0; i < n; i++) {
        const uint8_t c = (uint8_t)text[i];
        uint32_t unit;

        node ^= c;
        if (node >= t->nb_units)
            break;
        unit = read_u32(t->trie + 4 * (size_t)node);
        if ((unit & 0x800000ff) != c)
            break;
        node ^= children(unit);
        if (unit & 0x100 && node < t->nb_units) {
            const uint32_t at = read_u32(t->trie + 4 * (size_t)node) &
                                0x7fffffff;
            if (at < t->pool_bytes) {
                *replacement = (const char *)t->pool + at;
                found = i + 1;
            }
        }
    }
    return found;
}

/* --------------------------------------------------------------- loading */

static int compare_pieces(const void *a, const void *b)
{
    const Piece *x = a, *y = b;
    const int n = x->len < y->len ? x->len : y->len;
    const int order = memcmp(x->text, y->text, (size_t)n);

    return order ? order : x->len - y->len;
}

static Piece piece_of(const char *text)
{
    return (Piece){ .text = text, .len = (int)strlen(text) };
}

static int more_room(WanTokenizer *t)
{
    const int room = t->room ? 2 * t->room : 4096;
    Piece *p = realloc(t->piece, (size_t)room * sizeof(*p));

    if (!p)
        return WAN_ERR(ENOMEM);
    t->piece = p;
    t->room = room;
    return 0;
}

/* One piece, whose id is the number of those before it. */
static const char *read_piece(WanTokenizer *t, Reader r)
{
    const Piece eos = piece_of("</s>");
    Piece p = { .id = t->nb_ids };
    uint64_t type = NORMAL;
    uint32_t bits = 0;
    float score;
    int ret;

    while ((ret = next_field(&r)) > 0) {
        if (is_field(&r, 1, 2)) {
            p.text = (const char *)r.bytes;
            p.len = r.len <= MAX_PIECE ? (int)r.len : MAX_PIECE + 1;
        } else if (is_field(&r, 2, 5)) {
            bits = (uint32_t)r.value;
        } else if (is_field(&r, 3, 0)) {
            type = r.value;
        }
    }
    if (ret < 0)
        return r.bad;
    if (!p.text)
        p.text = "";
    if (p.len > MAX_PIECE)
        return "it is longer than 256 bytes";
    if (wan_utf8_check(p.text, (size_t)p.len) < (size_t)p.len)
        return "it is not UTF-8";
    memcpy(&score, &bits, sizeof(score));
    if (!(fabsf(score) < 1e6f))
        return "its score is impossible";
    if (type < NORMAL || type > BYTE)
        return "its type is unknown";
    p.score = score;

    if (type == UNKNOWN) {
        if (t->unk >= 0)
            return "it is a second one for unknown characters";
        t->unk = p.id;
    } else if (type == CONTROL && !compare_pieces(&p, &eos)) {
        t->eos = p.id;
    }
    t->unk_score = fmin(t->unk_score, p.score - 10);

    t->piece[t->nb_ids++] = p;
    return NULL;
}

static int by_text_and_id(const void *a, const void *b)
{
    const int order = compare_pieces(a, b);

    return order ? order : ((const Piece *)a)->id - ((const Piece *)b)->id;
}

/* Sort the pieces for look-up. One without text, or with that of an earlier
 * one, keeps its id and never matches: some copies of umT5's vocabulary lost
 * the text of two. */
static void sort_pieces(WanTokenizer *t, const char *name, const WanLog *log)
{
    if (t->nb_ids)
        qsort(t->piece, (size_t)t->nb_ids, sizeof(*t->piece), by_text_and_id);
    for (int i = 0; i < t->nb_ids; i++) {
        const Piece p = t->piece[i];

        if (p.len && (!t->nb_pieces ||
                      compare_pieces(&t->piece[t->nb_pieces - 1], &p)))
            t->piece[t->nb_pieces++] = p;
    }
    if (t->nb_pieces < t->nb_ids)
        wan_log(log, WAN_LOG_INFO, "%s: %d of %d pieces of the tokenizer are "
                "empty or there twice and never match", name,
                t->nb_ids - t->nb_pieces, t->nb_ids);
}

/* All of the file. Logs what is wrong with it. */
static int read_model(WanTokenizer *t, size_t bytes, const char *name,
                      const WanLog *log)
{
    Reader r = { .p = t->file, .end = t->file + bytes }, s;
    const char *bad = NULL;
    int ret;

    while (!bad && (ret = next_field(&r)) > 0) {
        if (r.wire != 2 || r.field > 3)
            continue;
        s = submessage(&r);
        if (r.field == 1) {
            if (t->nb_ids == MAX_PIECES) {
                bad = "more than 1048576 pieces";
                break;
            }
            if (t->nb_ids == t->room && more_room(t) < 0)
                return wan_error_memory(log, name, "the tokenizer");
            bad = read_piece(t, s);
            if (bad)
                return wan_error(log, WAN_INVALIDDATA, "%s: piece %d of the "
                                 "tokenizer: %s", name, t->nb_ids, bad);
            continue;
        }
        while (!bad && (ret = next_field(&s)) > 0) {
            if (r.field == 2 && is_field(&s, 3, 0) && s.value != 1)
                bad = "its type is not unigram";
            else if (r.field == 3 && is_field(&s, 2, 2))
                bad = open_charsmap(t, s.bytes, s.len);
        }
        if (!bad)
            bad = s.bad;
    }
    if (!bad)
        bad = r.bad;
    if (!bad && t->unk < 0)
        bad = "no piece for unknown characters";
    if (!bad && t->eos < 0)
        bad = "no piece </s>";
    if (bad)
        return wan_error(log, WAN_INVALIDDATA, "%s: not a usable sentencepiece "
                         "model: %s", name, bad);

    sort_pieces(t, name, log);
    return 0;
}

int wan_tokenizer_open(WanTokenizer **out, const void *data, size_t bytes,
                       const char *name, const WanLog *log)
{
    WanTokenizer *t = NULL;
    int ret = WAN_ERR(ENOMEM);

    *out = NULL;
    if (bytes > MAX_MODEL) {
        wan_log(log, WAN_LOG_ERROR, "%s: not a usable sentencepiece model: "
                "%zu bytes, at most %d are read", name, bytes, MAX_MODEL);
        return WAN_INVALIDDATA;
    }
    t = calloc(1, sizeof(*t));
    if (!t || !(t->file = malloc(bytes + 1))) {
        ret = wan_error_memory(log, name, "the tokenizer");
        goto fail;
    }
    if (bytes)
        memcpy(t->file, data, bytes);
    t->unk = t->eos = -1;
    t->unk_score = INFINITY;
    ret = read_model(t, bytes, name, log);
    if (ret < 0)
        goto fail;

    *out = t;
    return 0;
fail:
    wan_tokenizer_close(&t);
    return ret;
}

int wan_tokenizer_vocab(const WanTokenizer *t)
{
    return t->nb_ids + EXTRA_IDS;
}

void wan_tokenizer_close(WanTokenizer **t)
{
    if (!*t)
        return;
    free((*t)->piece);
    free((*t)->file);
    free(*t);
    *t = NULL;
}

/* ---------------------------------------------------------------- encoding */

/* The best way to cut a word up to some byte of it. */
typedef struct Path {
    double score;
    int start;                  // of its last piece; -1: no way is known
    int id;
} Path;

typedef struct Encoder {
    const WanTokenizer *t;
    char *text;                 // a section with its spaces marked
    size_t bytes, room;
    Path *path;
    size_t path_room;
    int32_t *ids;               // the caller's, WAN_TEXT_LEN
    int64_t nb_ids;             // all that were found; the first are stored
    int error;                  // what stopped it
    const char *bad;            // and in words
} Encoder;

/* Bytes of the character that well-formed text begins with. */
static size_t character(const char *text)
{
    const uint8_t c = (uint8_t)*text;

    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

static void stop(Encoder *e, int error, const char *bad)
{
    e->error = error;
    e->bad = bad;
}

static void put_id(Encoder *e, int id)
{
    if (e->nb_ids < WAN_TEXT_LEN - 1)
        e->ids[e->nb_ids] = id;
    e->nb_ids++;
}

/* The first piece of [lo, hi), all alike before byte k, whose byte k is not
 * below c; a piece that ends there comes first of all. */
static int first_piece(const WanTokenizer *t, int lo, int hi, int k, int c)
{
    while (lo < hi) {
        const int mid = lo + (hi - lo) / 2;
        const Piece *p = &t->piece[mid];

        if (p->len <= k || (uint8_t)p->text[k] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void offer(Path *to, double score, int start, int id)
{
    /* on a tie the first stays: of equal sums, the longest last piece */
    if (to->start < 0 || score > to->score)
        *to = (Path){ score, start, id };
}

/* One word. Sums run in double from left to right, as tokenizer.json's do;
 * they are exact, since scores are floats of like size: ties are ties. */
static void encode_word(Encoder *e, const char *word, int n)
{
    const WanTokenizer *t = e->t;
    Path *path = e->path;
    int count = 0;

    for (int i = 0; i <= n; i++)
        path[i].start = -1;
    path[0].score = 0;
    for (int i = 0; i < n;) {
        const int len = (int)character(word + i);
        int lo = 0, hi = t->nb_pieces, single = 0;

        for (int k = 0; i + k < n; k++) {
            const int c = (uint8_t)word[i + k];

            lo = first_piece(t, lo, hi, k, c);
            hi = first_piece(t, lo, hi, k, c + 1);
            if (lo == hi)
                break;
            if (t->piece[lo].len == k + 1) {
                offer(&path[i + k + 1], path[i].score + t->piece[lo].score, i,
                      t->piece[lo].id);
                single |= k + 1 == len;
            }
        }
        if (!single)
            offer(&path[i + len], path[i].score + t->unk_score, i, t->unk);
        i += len;
    }

    /* from the end back; the ids take the places of paths done with */
    for (int end = n; end > 0; end = path[end].start) {
        const int id = path[end].id;

        if (id != t->unk || !count || path[n - count + 1].id != id)
            path[n - count++].id = id;      // a run of unknowns is one
    }
    for (int i = n - count + 1; i <= n; i++)
        put_id(e, path[i].id);
}

static void append(Encoder *e, const char *s, size_t n)
{
    if (e->bytes + n > e->room) {
        const size_t room = 2 * (e->bytes + n) + 256;
        char *p = room <= 32 * MAX_TEXT ? realloc(e->text, room) : NULL;

        if (!p) {
            stop(e, WAN_ERR(ENOMEM), "no memory for the normalised text");
            return;
        }
        e->text = p;
        e->room = room;
    }
    memcpy(e->text + e->bytes, s, n);
    e->bytes += n;
}

static int is_mark(const char *s, size_t n)
{
    return n >= SPACE_LEN && !memcmp(s, SPACE, SPACE_LEN);
}

/* Text between special tokens. */
static void encode_section(Encoder *e, const char *s, size_t n)
{
    int blank = 0;

    e->bytes = 0;
    for (size_t i = 0, used; i < n && !e->bad; i += used) {
        const char *r = s + i;
        size_t len = used = map_prefix(e->t, s + i, n - i, &r);

        if (used)
            len = strlen(r);
        else            // a key may have ended within a character
            len = used = character(s + i) < n - i ? character(s + i) : n - i;
        if (!e->bytes && len && *r != ' ' && !is_mark(r, len))
            append(e, SPACE, SPACE_LEN);
        for (size_t k = 0; k < len && !e->bad; k++) {
            if (r[k] != ' ')
                append(e, r + k, 1);
            else if (!blank)                // a run of spaces is one
                append(e, SPACE, SPACE_LEN);
            blank = r[k] == ' ';
        }
    }
    if (!e->bad && wan_utf8_check(e->text, e->bytes) < e->bytes)
        stop(e, WAN_INVALIDDATA,
             "the tokenizer's charsmap makes it something else than UTF-8");
    if (e->bad)
        return;

    if (e->bytes >= e->path_room) {
        Path *p = realloc(e->path, (e->bytes + 1) * sizeof(*p));

        if (!p) {
            stop(e, WAN_ERR(ENOMEM), "no memory for its pieces");
            return;
        }
        e->path = p;
        e->path_room = e->bytes + 1;
    }
    for (size_t i = 0, end; i < e->bytes; i = end) {
        end = i + character(e->text + i);
        while (end < e->bytes && !is_mark(e->text + end, e->bytes - end))
            end += character(e->text + end);
        encode_word(e, e->text + i, (int)(end - i));
    }
}

/* The id of the special token that text begins with, or -1. */
static int special_token(const WanTokenizer *t, const char *text, size_t *len)
{
    static const char *const names[] = { "<pad>", "</s>", "<s>", "<unk>" };
    char *end;
    long k;

    if (*text != '<')
        return -1;
    for (int i = 0; i < 4; i++) {
        const Piece key = piece_of(names[i]);
        const Piece *p;

        if (strncmp(text, key.text, (size_t)key.len))
            continue;
        p = bsearch(&key, t->piece, (size_t)t->nb_pieces, sizeof(*p),
                    compare_pieces);
        *len = (size_t)key.len;
        return p ? p->id : -1;
    }

    if (strncmp(text, "<extra_id_", 10) || text[10] < '0' || text[10] > '9' ||
        (text[10] == '0' && text[11] != '>'))
        return -1;
    k = strtol(text + 10, &end, 10);
    if (*end != '>' || k >= EXTRA_IDS)
        return -1;
    *len = (size_t)(end + 1 - text);
    return t->nb_ids + EXTRA_IDS - 1 - (int)k;
}

int wan_tokenizer_encode(const WanTokenizer *t, int32_t *ids, int *cut,
                         const char *text, const WanLog *log)
{
    const size_t bytes = strlen(text), bad = wan_utf8_check(text, bytes);
    Encoder e = { .t = t, .ids = ids };
    char *clean = NULL;
    size_t start = 0, i = 0, len;
    int n = WAN_ERR(EINVAL);

    if (bad < bytes) {
        wan_log(log, WAN_LOG_ERROR, "prompt: not UTF-8 at byte %zu (0x%02x)",
                bad, (uint8_t)text[bad]);
        goto fail;
    }
    if (bytes > MAX_TEXT) {
        wan_log(log, WAN_LOG_ERROR, "prompt: %zu bytes, at most %d are taken",
                bytes, MAX_TEXT);
        goto fail;
    }

    n = WAN_ERR(ENOMEM);
    clean = wan_text_clean(text);
    if (!clean) {
        wan_log(log, WAN_LOG_ERROR, "prompt: no memory to clean %zu bytes",
                bytes);
        goto fail;
    }
    while (clean[i] && !e.bad) {
        const int id = special_token(t, clean + i, &len);

        if (id < 0) {
            i++;
            continue;
        }
        encode_section(&e, clean + start, i - start);
        put_id(&e, id);
        start = i += len;
    }
    encode_section(&e, clean + start, i - start);
    if (e.bad) {
        wan_log(log, WAN_LOG_ERROR, "prompt: %s", e.bad);
        n = e.error;
        goto fail;
    }

    n = e.nb_ids < WAN_TEXT_LEN - 1 ? (int)e.nb_ids : WAN_TEXT_LEN - 1;
    if (cut)
        *cut = (int)(e.nb_ids - n);
    ids[n++] = t->eos;
fail:
    free(clean);
    free(e.text);
    free(e.path);
    return n;
}
