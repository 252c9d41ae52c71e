/*
 * The reference's text cleaning: what a prompt goes through before it is cut
 * into pieces.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The reference runs ftfy.fix_text, html.unescape twice, and collapses
 * whitespace. ftfy is followed with two exceptions: of its repair of text
 * that went through a wrong encoding only the clear case is done (a whole
 * line of UTF-8 read as Latin-1 or Windows-1252), and entities in capitals
 * (&EACUTE;) are left alone.
 */

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "tokenizer.h"
#include "html_entities.h"

#define MAX_PASSES 16       // ftfy has no bound, and takes quadratic time

typedef struct Text {
    int32_t *c;             // code points
    size_t n, room;
    int failed;             // no memory: what was put since is lost
} Text;

static void put(Text *t, int32_t c)
{
    if (t->n == t->room) {
        const size_t room = t->room ? 2 * t->room : 256;
        int32_t *p = t->failed ? NULL : realloc(t->c, room * sizeof(*p));

        if (!p) {
            t->failed = 1;
            return;
        }
        t->c = p;
        t->room = room;
    }
    t->c[t->n++] = c;
}

static void put_text(Text *t, const Text *from)
{
    for (size_t i = 0; i < from->n; i++)
        put(t, from->c[i]);
    t->failed |= from->failed;
}

/* t becomes what was made of it, and out is empty again, its memory kept. */
static void take(Text *t, Text *out)
{
    const Text old = *t;

    *t = *out;
    t->failed |= old.failed;
    *out = old;
    out->n = 0;
}

/* ------------------------------------------------------------ characters */

size_t wan_utf8_check(const char *text, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0;

    while (i < bytes) {
        const size_t left = bytes - i;
        int32_t c;
        const utf8proc_ssize_t n = utf8proc_iterate(p + i, left < 4 ?
                                                    (int)left : 4, &c);
        if (n <= 0)
            break;
        i += (size_t)n;
    }
    return i;
}

/* What str.isspace() and \s mean in Python. */
static int is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) ||
           c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

static int is_digit(int32_t c)
{
    return c >= '0' && c <= '9';
}

static int is_letter(int32_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The value of a digit, or -1. */
static int digit(int32_t c, int base)
{
    if (is_digit(c))
        return c - '0';
    if (base == 16 && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')))
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* Windows-1252 from 0x80 to 0x9f; what it leaves open stays a C1 control. */
static const uint16_t windows_1252[32] = {
    0x20ac, 0x0081, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021,
    0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0x008d, 0x017d, 0x008f,
    0x0090, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
    0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x009d, 0x017e, 0x0178,
};

/* ---------------------------------------------------------- HTML entities */

/* What stands behind an ampersand. */
typedef struct Reference {
    size_t used;            // code points of the input; 0: it is none
    int n;                  // of the result, 0 to 2
    int32_t c[2];
} Reference;

/* &#123; and &#x7b; from the # on */
static Reference numeric_reference(const int32_t *s, size_t n)
{
    const int base = n > 1 && (s[1] == 'x' || s[1] == 'X') ? 16 : 10;
    const size_t first = base == 16 ? 2 : 1;
    Reference r = { .n = 1 };
    size_t i = first;
    int32_t v = 0;

    for (; i < n && digit(s[i], base) >= 0; i++)
        if (v <= 0x10ffff)
            v = v * base + digit(s[i], base);
    if (i == first)
        return r;
    r.used = i + (i < n && s[i] == ';');

    if (v == 0 || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff))
        v = 0xfffd;
    else if (v >= 0x80 && v <= 0x9f)
        v = windows_1252[v - 0x80];
    else if (v <= 0x08 || v == 0x0b || (v >= 0x0e && v <= 0x1f) || v == 0x7f ||
             (v >= 0xfdd0 && v <= 0xfdef) || (v & 0xfffe) == 0xfffe)
        r.n = 0;            // controls and noncharacters vanish
    r.c[0] = v;
    return r;
}

static int compare_entity(const void *name, const void *entity)
{
    return strcmp(name, ((const struct Entity *)entity)->name);
}

/* &eacute; from the e on, &eacute and &notit; if not strict */
static Reference named_reference(const int32_t *s, size_t n, int strict)
{
    char name[ENTITY_MAX + 1];
    const struct Entity *e;
    Reference r = { 0 };
    size_t len = 0;

    while (len < n && len < ENTITY_MAX && (is_letter(s[len]) ||
                                           is_digit(s[len]))) {
        name[len] = (char)s[len];
        len++;
    }
    name[len] = 0;
    if (len < n && s[len] == ';') {
        e = bsearch(name, entities, sizeof(entities) / sizeof(*entities),
                    sizeof(*entities), compare_entity);
        if (e) {
            r.used = len + 1;
            goto found;
        }
    }
    if (strict)
        return r;

    /* the longest beginning that is a name of old */
    for (len = len < LEGACY_MAX ? len : LEGACY_MAX; len >= 2; len--) {
        name[len] = 0;
        e = bsearch(name, entities, sizeof(entities) / sizeof(*entities),
                    sizeof(*entities), compare_entity);
        if (e && e->legacy) {
            r.used = len;
            goto found;
        }
    }
    return r;
found:
    r.n = 1 + (e->c[1] != 0);
    memcpy(r.c, e->c, sizeof(r.c));
    return r;
}

/* strict: only what ends in a semicolon, as ftfy does it */
static void unescape(Text *out, const Text *t, int strict)
{
    for (size_t i = 0; i < t->n; i++) {
        const int32_t *s = t->c + i + 1;
        const size_t left = t->n - i - 1;
        Reference r = { 0 };

        if (t->c[i] == '&' && left)
            r = s[0] == '#' ? numeric_reference(s, left)
                            : named_reference(s, left, strict);
        if (!r.used || (strict && s[r.used - 1] != ';')) {
            put(out, t->c[i]);
            continue;
        }
        for (int k = 0; k < r.n; k++)
            put(out, r.c[k]);
        i += r.used;
    }
}

/* ------------------------------------------------------------ ftfy's fixes */

/* The byte that a wrong decoder made this character of, or -1. */
static int byte_of(int32_t c, int latin1)
{
    if (c < 0x80 || (c < 0x100 && (latin1 || c >= 0xa0)))
        return c;
    for (int i = 0; i < 32 && !latin1; i++)
        if (windows_1252[i] == c)
            return 0x80 + i;
    return -1;
}

/*
 * One line: if its characters stand for the bytes of well-formed UTF-8, put
 * what they mean. A line whose only such bytes are two-byte sequences must
 * have one that begins as hardly any word does ("A with tilde, copyright"),
 * for other pairs do occur ("sharp s, closing guillemet").
 */
static int repair_line(Text *out, const int32_t *s, size_t n, uint8_t *bytes)
{
    int latin1 = 1, clear = 0, any = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        latin1 &= s[i] < 0x100;
        any |= s[i] >= 0x80;
    }
    for (i = 0; any && i < n; i++) {
        const int b = byte_of(s[i], latin1);

        if (b < 0)
            return 0;
        bytes[i] = (uint8_t)b;
        clear |= b == 0xc2 || b == 0xc3 || b == 0xce || b == 0xd0 || b >= 0xe0;
    }
    if (!clear || wan_utf8_check((const char *)bytes, n) < n)
        return 0;

    for (i = 0; i < n;) {
        int32_t c;

        i += (size_t)utf8proc_iterate(bytes + i, (utf8proc_ssize_t)(n - i),
                                      &c);
        put(out, c);
    }
    return 1;
}

static void repair_encoding(Text *out, const Text *t)
{
    uint8_t *bytes = malloc(t->n + 1);

    if (!bytes) {
        out->failed = 1;
        return;
    }
    for (size_t i = 0, end; i < t->n; i = end) {
        for (end = i; end < t->n && t->c[end] != '\n'; end++)
            ;
        end += end < t->n;
        if (!repair_line(out, t->c + i, end - i, bytes))
            for (size_t k = i; k < end; k++)
                put(out, t->c[k]);
    }
    free(bytes);
}

/* Ligatures and digraphs of Latin letters, three at most. */
static const int32_t *ligature(int32_t c)
{
    static const int32_t table[][4] = {
        { 0x0132, 'I', 'J' },       { 0x0133, 'i', 'j' },
        { 0x0149, 0x2bc, 'n' },
        { 0x01c4, 'D', 0x17d },     { 0x01c5, 'D', 0x17e },
        { 0x01c6, 'd', 0x17e },     { 0x01c7, 'L', 'J' },
        { 0x01c8, 'L', 'j' },       { 0x01c9, 'l', 'j' },
        { 0x01ca, 'N', 'J' },       { 0x01cb, 'N', 'j' },
        { 0x01cc, 'n', 'j' },       { 0x01f1, 'D', 'Z' },
        { 0x01f2, 'D', 'z' },       { 0x01f3, 'd', 'z' },
        { 0xfb00, 'f', 'f' },       { 0xfb01, 'f', 'i' },
        { 0xfb02, 'f', 'l' },       { 0xfb03, 'f', 'f', 'i' },
        { 0xfb04, 'f', 'f', 'l' },  { 0xfb05, 0x17f, 't' },
        { 0xfb06, 's', 't' },
    };

    if (c < 0x0132 || c > 0xfb06)
        return NULL;
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
        if (table[i][0] == c)
            return table[i] + 1;
    return NULL;
}

/* One character for one or some. Line breaks need no care: all whitespace
 * ends as spaces. */
static void map_character(Text *out, int32_t c)
{
    const int32_t *l;
    int32_t wide[8];
    int boundary = 0, n;

    if (c >= 0x80 && c <= 0x9f)
        c = windows_1252[c - 0x80];
    l = ligature(c);
    if (l) {
        for (int i = 0; i < 3 && l[i]; i++)
            map_character(out, l[i]);
        return;
    }

    if (c == 0x3000) {                      // half and full width
        c = ' ';
    } else if (c >= 0xff01 && c <= 0xffef) {
        n = (int)utf8proc_decompose_char(c, wide, 8, UTF8PROC_DECOMPOSE |
                                         UTF8PROC_COMPAT, &boundary);
        for (int i = 0; i < n && n <= 8; i++)
            put(out, wide[i]);
        return;
    }

    if (c == 0x02bc || (c >= 0x2018 && c <= 0x201b))
        c = '\'';
    else if (c >= 0x201c && c <= 0x201f)
        c = '"';
    put(out, c);
}

/* Length of a terminal's escape sequence "ESC [ 1 ; 31 m", or 0. */
static size_t terminal_escape(const int32_t *s, size_t n)
{
    size_t i = 2;

    if (n < 3 || s[0] != 0x1b || s[1] != '[')
        return 0;
    while (i < n && (is_digit(s[i]) || s[i] == ';'))
        i++;
    return i < n && is_letter(s[i]) ? i + 1 : 0;
}

static int is_unwanted(int32_t c)
{
    return c <= 0x08 || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f ||
           (c >= 0x206a && c <= 0x206f) || c == 0xfeff ||
           (c >= 0xfff9 && c <= 0xfffc);
}

static void drop_controls(Text *out, const Text *t)
{
    for (size_t i = 0; i < t->n; i++) {
        const size_t escape = terminal_escape(t->c + i, t->n - i);

        if (escape)
            i += escape - 1;
        else if (!is_unwanted(t->c[i]))
            put(out, t->c[i]);
    }
}

static int compare_u64(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/*
 * Marks into canonical order. utf8proc sorts by insertion; a prompt of
 * nothing but marks would keep it busy for minutes.
 */
static void order_marks(Text *t)
{
    uint64_t *key = malloc((t->n + 1) * sizeof(*key));

    if (!key) {
        t->failed = 1;
        return;
    }
    for (size_t i = 0, n; i < t->n; i += n + 1) {
        for (n = 0; i + n < t->n; n++) {
            const uint64_t class =
                utf8proc_get_property(t->c[i + n])->combining_class;

            if (!class)
                break;
            key[n] = class << 56 | (uint64_t)n << 21 | (uint64_t)t->c[i + n];
        }
        if (n > 1)
            qsort(key, n, sizeof(*key), compare_u64);
        for (size_t k = 0; k < n; k++)
            t->c[i + k] = key[k] & 0x1fffff;
    }
    free(key);
}

/* Normal form C. */
static void compose(Text *out, const Text *t)
{
    utf8proc_ssize_t n;

    for (size_t i = 0; i < t->n; i++) {
        int32_t part[32];
        int boundary = 0;

        n = utf8proc_decompose_char(t->c[i], part, 32, UTF8PROC_DECOMPOSE,
                                    &boundary);
        for (int k = 0; k < n && n <= 32; k++)
            put(out, part[k]);
    }
    order_marks(out);
    if (!out->n || out->failed)
        return;
    n = utf8proc_normalize_utf32(out->c, (utf8proc_ssize_t)out->n,
                                 UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0)
        out->failed = 1;
    else
        out->n = (size_t)n;
}

/* The fixes again and again, until they find nothing more. */
static void fix(Text *t, int entity)
{
    Text before = { 0 }, out = { 0 };

    for (int pass = 0; pass < MAX_PASSES && !t->failed; pass++) {
        before.n = 0;
        put_text(&before, t);
        if (entity) {
            unescape(&out, t, 1);
            take(t, &out);
        }
        repair_encoding(&out, t);
        take(t, &out);
        for (size_t i = 0; i < t->n; i++)
            map_character(&out, t->c[i]);
        take(t, &out);
        drop_controls(&out, t);
        take(t, &out);
        compose(&out, t);
        take(t, &out);
        t->failed |= before.failed;
        if (t->n == before.n &&
            (!t->n || !memcmp(t->c, before.c, t->n * sizeof(*t->c))))
            break;
    }
    free(before.c);
    free(out.c);
}

/* -------------------------------------------------------------- the whole */

/* Runs of whitespace become one space, none at the ends. */
static void collapse(Text *out, const Text *t)
{
    for (size_t i = 0; i < t->n; i++) {
        if (is_space(t->c[i]))
            continue;
        if (out->n && is_space(t->c[i - 1]))
            put(out, ' ');
        put(out, t->c[i]);
    }
}

static char *encode(const Text *t)
{
    char *text = malloc(4 * t->n + 1), *p = text;

    if (!text)
        return NULL;
    for (size_t i = 0; i < t->n; i++)
        p += utf8proc_encode_char(t->c[i], (uint8_t *)p);
    *p = 0;
    return text;
}

char *wan_text_clean(const char *text)
{
    const size_t bytes = strlen(text);
    Text t = { 0 }, tail = { 0 }, out = { 0 };
    size_t line = 0;
    char *clean = NULL;

    if (bytes > INT_MAX / 16 || wan_utf8_check(text, bytes) < bytes)
        return NULL;

    /* from the line with the first < on, entities are meant as they stand */
    for (size_t i = 0; i < bytes;) {
        int32_t c;

        i += (size_t)utf8proc_iterate((const uint8_t *)text + i,
                                      (utf8proc_ssize_t)(bytes - i), &c);
        if (c == '<' && !tail.n) {
            for (size_t k = line; k < t.n; k++)
                put(&tail, t.c[k]);
            t.n = line;
        }
        put(tail.n || c == '<' ? &tail : &t, c);
        if (c == '\n')
            line = t.n;
    }
    fix(&t, 1);
    fix(&tail, 0);
    put_text(&t, &tail);

    for (int i = 0; i < 2; i++) {
        unescape(&out, &t, 0);
        take(&t, &out);
    }
    collapse(&out, &t);
    take(&t, &out);
    if (!t.failed)
        clean = encode(&t);
    free(t.c);
    free(tail.c);
    free(out.c);
    return clean;
}
