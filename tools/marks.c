/*
 * What a media file says of having been generated.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Small readers of the places where the filters' label goes, one for each
 * container, and nothing else of it. Every byte is hostile: a reader takes a
 * span, hands on smaller ones, and leaves off where a size does not fit. None
 * calls itself, but for that of RIFF, once.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>

#include "marks.h"

#define MAX_TEXT     400    // of a mark is shown
#define MAX_MESSAGES 16     // different ones in a stream
#define MAX_KEYS     1000   // of an MP4

/* The UUID of the filters' user data. It has no zero byte and its text neither,
 * so no emulation prevention is ever inside. */
static const uint8_t label_uuid[16] = {
    0x9a, 0xd6, 0xc2, 0xa1, 0x6f, 0xcd, 0x46, 0xcf,
    0x80, 0x95, 0xe4, 0x21, 0xa0, 0x81, 0x89, 0x03,
};

/* x265 puts its own before what it is given, at each encoding. */
static const uint8_t x265_uuid[16] = {
    0x2c, 0xa2, 0xde, 0x09, 0xb5, 0x17, 0x47, 0xdb,
    0xbb, 0x55, 0xa4, 0xfe, 0x7f, 0xc2, 0xfc, 0x4e,
};

typedef struct Span {
    const uint8_t *p;
    size_t n;
} Span;

typedef struct Marks {
    FILE *out;
    const char *container;
    int found;
    Span said[MAX_MESSAGES];    // in the stream, each once
    int nb_said;
} Marks;

/* ------------------------------------------------------------------- bytes */

static uint32_t be16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static uint32_t be24(const uint8_t *p) { return be16(p) << 8 | p[2]; }
static uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }
static uint32_t le32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static int begins(Span s, const void *text, size_t n)
{
    return s.n >= n && !memcmp(s.p, text, n);
}

static Span skip(Span s, size_t n)
{
    return n <= s.n ? (Span){ s.p + n, s.n - n } : (Span){ s.p, 0 };
}

/* The first n bytes of s, which lose them; what there is if they are fewer. */
static Span take(Span *s, uint64_t n)
{
    const Span head = { s->p, n < s->n ? n : s->n };

    *s = skip(*s, head.n);
    return head;
}

static int is_key(Span s, const char *name)
{
    return s.n == strlen(name) && !strncasecmp((const char *)s.p, name, s.n);
}

/* Where text is in s: from there to the end of s, or an empty span. */
static Span find(Span s, const void *text, size_t n)
{
    const uint8_t *at = s.n ? memmem(s.p, s.n, text, n) : NULL;

    return at ? skip(s, at - s.p) : (Span){ s.p, 0 };
}

/* --------------------------------------------------------------- the lines */

/* What a terminal can be given: UTF-8 without control characters. */
static void put_text(FILE *out, Span s)
{
    const Span all = s;

    while (s.n && s.p < all.p + MAX_TEXT) {
        utf8proc_int32_t c;
        const utf8proc_ssize_t n = utf8proc_iterate(s.p, s.n, &c);

        if (n > 0 && c >= 0x20 && (c < 0x7f || c > 0x9f))
            fwrite(s.p, 1, n, out);
        else
            putc('?', out);
        s = skip(s, n > 0 ? n : 1);
    }
    if (s.n)
        fputs("...", out);
}

static void mark(Marks *m, const char *carrier, const char *key, Span text)
{
    m->found++;
    if (!m->out)
        return;
    fprintf(m->out, "%s%s%s: ", carrier, *key ? " " : "", key);
    put_text(m->out, text);
    putc('\n', m->out);
}

/* The IPTC term in a text if it is one of the two for AI, else empty. */
static Span source_type(Span s)
{
    static const char scheme[] = "http://cv.iptc.org/newscodes/digitalsourcetype/";
    static const char *const terms[] = {
        "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia",
    };
    Span at = s;

    while ((at = find(at, scheme, sizeof(scheme) - 1)).n) {
        const Span term = skip(at, sizeof(scheme) - 1);

        for (int i = 0; i < 2; i++)
            if (begins(term, terms[i], strlen(terms[i])))
                return (Span){ at.p, sizeof(scheme) - 1 + strlen(terms[i]) };
        at = term;
    }
    return at;
}

/* A tag of a file: is it a mark? */
static void tag(Marks *m, Span key, Span value)
{
    static const char *const names[] = { "DigitalSourceType", "comment" };

    while (value.n && !value.p[value.n - 1])    // RIFF counts it, EBML may pad
        value.n--;
    if (is_key(key, "AIGC")) {
        mark(m, m->container, "tag AIGC", value);
        return;
    }
    for (int i = 0; i < 2; i++)
        if (is_key(key, names[i]) && source_type(value).n)
            mark(m, m->container, i ? "tag comment" : "tag DigitalSourceType",
                 value);
}

static Span text(const char *s)
{
    return (Span){ (const uint8_t *)s, strlen(s) };
}

static void c2pa(Marks *m)
{
    mark(m, m->container, "C2PA", text("a manifest, not verified here"));
}

/* What an XMP packet says, in elements or in attributes. */
static void xmp(Marks *m, Span packet)
{
    static const char *const aigc[] = { ":AIGC>", ":AIGC=\"" };
    const Span type = source_type(packet);

    if (type.n)
        mark(m, m->container, "XMP DigitalSourceType", type);
    for (int i = 0; i < 2; i++) {
        Span at = find(packet, aigc[i], strlen(aigc[i]));
        const uint8_t *end;

        at  = skip(at, strlen(aigc[i]));
        end = at.n ? memchr(at.p, i ? '"' : '<', at.n) : NULL;
        if (end)
            mark(m, m->container, "XMP AIGC", (Span){ at.p, end - at.p });
    }
}

/* -------------------------------------------------------------- the stream */

/* The label in a message of type 5, user_data_unregistered, of H.264 (7.3.2.3.1)
 * and H.265: type, size in bytes of 255 and a last smaller one, UUID, text.
 * @return the text, empty if this UUID is of no such message */
static Span sei_label(const uint8_t *begin, Span uuid)
{
    const Span none = { uuid.p, 0 }, said = skip(uuid, sizeof(label_uuid));
    size_t head = sizeof(label_uuid), size;
    const uint8_t *p = uuid.p;

    while (p - begin >= 16 && !memcmp(p - 16, x265_uuid, 16)) {
        p    -= 16;
        head += 16;
    }
    if (p - begin < 2)
        return none;
    for (size = *--p; p > begin && p[-1] == 0xff && size < 4096; p--)
        size += 255;
    if (p == begin || p[-1] != 5 || size <= head || size - head > said.n)
        return none;
    return (Span){ said.p, size - head };
}

/* The same in a metadata OBU of AV1 (5.3.1, 5.8.1): header, size in one or two
 * groups of seven bits, the type of T.35, its two codes, UUID, text, a last 1. */
static Span obu_label(const uint8_t *begin, Span uuid)
{
    static const uint8_t t35[] = { 4, 0xff, 0xff };
    const size_t head = sizeof(t35) + sizeof(label_uuid);
    const Span none = { uuid.p, 0 };
    Span said = skip(uuid, sizeof(label_uuid));
    const uint8_t *p = uuid.p - sizeof(t35);
    size_t size;

    if (uuid.p - begin < 6 || memcmp(p, t35, sizeof(t35)))
        return none;
    size = *--p;
    if (p[-1] & 0x80)
        size = size << 7 | (*--p & 0x7f);
    if (p[-1] != 0x2a || size <= head || size - head > said.n)
        return none;
    said.n = size - head;
    while (said.n && !said.p[said.n - 1])
        said.n--;
    if (!said.n || said.p[said.n - 1] != 0x80)
        return none;
    said.n--;
    return said;
}

/* Labels in the stream, whatever it is packed in. */
static void user_data(Marks *m, Span s)
{
    const uint8_t *const begin = s.p;
    Span at = s;

    for (; (at = find(at, label_uuid, sizeof(label_uuid))).n;
         at = skip(at, sizeof(label_uuid))) {
        Span said = sei_label(begin, at);
        int i;

        if (!said.n)
            said = obu_label(begin, at);
        if (!said.n)
            continue;
        for (i = 0; i < m->nb_said; i++)
            if (m->said[i].n == said.n && begins(said, m->said[i].p, said.n))
                break;
        if (i < m->nb_said || i == MAX_MESSAGES)
            continue;
        m->said[m->nb_said++] = said;
        mark(m, m->container, "user data of the video", said);
    }
}

/* --------------------------------------------------------- MP4, QuickTime */

typedef struct Box {
    uint32_t type;
    Span body;
} Box;

#define BOX(a, b, c, d) ((uint32_t)(a) << 24 | (b) << 16 | (c) << 8 | (d))

static int next_box(Span *s, Box *box)
{
    uint64_t size;
    size_t head = 8;

    if (s->n < 8)
        return 0;
    size      = be32(s->p);
    box->type = be32(s->p + 4);
    if (size == 1 && s->n >= 16) {
        size = (uint64_t)be32(s->p + 8) << 32 | be32(s->p + 12);
        head = 16;
    } else if (!size) {         // to the end
        size = s->n;
    }
    if (size < head || size > s->n)
        return 0;
    box->body = skip(take(s, size), head);
    return 1;
}

/* The value of an item of ilst: its box "data". */
static Span item_value(Span item)
{
    Box box;

    while (next_box(&item, &box))
        if (box.type == BOX('d', 'a', 't', 'a'))
            return skip(box.body, 8);           // type, locale
    return (Span){ item.p, 0 };
}

/* The nth name of "keys", from 1. */
static Span key_name(Span keys, uint32_t n)
{
    Box box;

    keys = skip(keys, 8);       // version, flags, count
    while (n <= MAX_KEYS && next_box(&keys, &box))
        if (!--n)
            return box.body;
    return (Span){ keys.p, 0 };
}

/* In QuickTime it may lack the version and flags of ISO. */
static void meta_box(Marks *m, Span meta)
{
    const int full = meta.n >= 8 && be32(meta.p + 4) != BOX('h', 'd', 'l', 'r');
    Span keys = { meta.p, 0 }, ilst = { meta.p, 0 };
    Box box;

    meta = skip(meta, full ? 4 : 0);
    while (next_box(&meta, &box)) {
        if (box.type == BOX('k', 'e', 'y', 's'))
            keys = box.body;
        else if (box.type == BOX('i', 'l', 's', 't'))
            ilst = box.body;
    }
    for (int i = 0; i < MAX_KEYS && next_box(&ilst, &box); i++) {
        if (box.type == BOX(0xa9, 'c', 'm', 't'))
            tag(m, text("comment"), item_value(box.body));
        else if (keys.n)
            tag(m, key_name(keys, box.type), item_value(box.body));
    }
}

static void udta_box(Marks *m, Span udta)
{
    Box box;

    while (next_box(&udta, &box)) {
        if (box.type == BOX('m', 'e', 't', 'a'))
            meta_box(m, box.body);
        else if (box.type == BOX(0xa9, 'c', 'm', 't'))
            tag(m, text("comment"), skip(box.body, 4));     // size, language
        else if (box.type == BOX('X', 'M', 'P', '_'))
            xmp(m, box.body);
    }
}

static void mp4(Marks *m, Span s)
{
    static const uint8_t uuid_c2pa[16] = {
        0xd8, 0xfe, 0xc3, 0xd6, 0x1b, 0x0e, 0x48, 0x3c,
        0x92, 0x97, 0x58, 0x28, 0x87, 0x7e, 0xc4, 0x81,
    };
    static const uint8_t uuid_xmp[16] = {
        0xbe, 0x7a, 0xcf, 0xcb, 0x97, 0xa9, 0x42, 0xe8,
        0x9c, 0x71, 0x99, 0x94, 0x91, 0xe3, 0xaf, 0xac,
    };
    Box box, inner;

    while (next_box(&s, &box)) {
        if (box.type == BOX('u', 'u', 'i', 'd')) {
            if (begins(box.body, uuid_c2pa, 16))
                c2pa(m);
            if (begins(box.body, uuid_xmp, 16))
                xmp(m, skip(box.body, 16));
        }
        if (box.type != BOX('m', 'o', 'o', 'v'))
            continue;
        while (next_box(&box.body, &inner)) {
            if (inner.type == BOX('u', 'd', 't', 'a'))
                udta_box(m, inner.body);
            else if (inner.type == BOX('m', 'e', 't', 'a'))
                meta_box(m, inner.body);
        }
    }
}

/* --------------------------------------------------------- Matroska, WebM */

enum {
    EBML_SEGMENT = 0x18538067, EBML_CLUSTER = 0x1f43b675,
    EBML_TAGS = 0x1254c367, EBML_TAG = 0x7373, EBML_SIMPLE_TAG = 0x67c8,
    EBML_TAG_NAME = 0x45a3, EBML_TAG_STRING = 0x4487,
};

/* A number of 1 to 8 bytes: the first one's zero bits in front say how many.
 * @return its length, 0 if there is none; *all_ones: the size is not known */
static size_t vint(Span s, int max, int keep_marker, uint64_t *v, int *all_ones)
{
    int n = 1;

    if (!s.n)
        return 0;
    while (n <= max && !(s.p[0] & 0x80 >> (n - 1)))
        n++;
    if (n > max || s.n < (size_t)n)
        return 0;
    *v = keep_marker ? s.p[0] : s.p[0] & (0x7f >> (n - 1));
    *all_ones = (s.p[0] & (0x7f >> (n - 1))) == 0x7f >> (n - 1);
    for (int i = 1; i < n; i++) {
        *v = *v << 8 | s.p[i];
        *all_ones &= s.p[i] == 0xff;
    }
    return n;
}

static int next_element(Span *s, uint64_t *id, Span *body)
{
    uint64_t size;
    int unknown;
    size_t n = vint(*s, 4, 1, id, &unknown);

    if (!n)
        return 0;
    *s = skip(*s, n);
    if (!(n = vint(*s, 8, 0, &size, &unknown)))
        return 0;
    *s = skip(*s, n);
    /* A live stream's: what is inside follows as if it stood beside. */
    if (unknown) {
        *body = (Span){ s->p, 0 };
        return *id == EBML_SEGMENT || *id == EBML_CLUSTER;
    }
    if (*id == EBML_SEGMENT) {
        *body = (Span){ s->p, 0 };
        return 1;
    }
    if (size > s->n)
        return 0;
    *body = take(s, size);
    return 1;
}

static void simple_tags(Marks *m, Span s)
{
    Span body, part, name, value;
    uint64_t id;

    while (next_element(&s, &id, &body)) {
        if (id != EBML_SIMPLE_TAG)
            continue;
        name = value = (Span){ body.p, 0 };
        while (next_element(&body, &id, &part)) {
            if (id == EBML_TAG_NAME)
                name = part;
            else if (id == EBML_TAG_STRING)
                value = part;
        }
        tag(m, name, value);
    }
}

static void matroska(Marks *m, Span s)
{
    Span body, inner;
    uint64_t id;

    while (next_element(&s, &id, &body))
        if (id == EBML_TAGS)
            while (next_element(&body, &id, &inner))
                if (id == EBML_TAG)
                    simple_tags(m, inner);
}

/* --------------------------------------------------------------------- FLV */

/* A string of AMF0: two bytes of length. */
static Span amf_string(Span *s)
{
    const size_t n = s->n >= 2 ? be16(s->p) : 0;

    *s = skip(*s, 2);
    return take(s, n);
}

/* onMetaData: names and values, as far as values are strings, numbers and
 * truths. */
static void on_meta_data(Marks *m, Span s)
{
    static const char head[] = "\2\0\012onMetaData\10";

    if (!begins(s, head, sizeof(head) - 1))
        return;
    s = skip(s, sizeof(head) - 1 + 4);
    while (s.n) {
        const Span name = amf_string(&s);
        const int type = s.n ? s.p[0] : -1;

        s = skip(s, 1);
        if (type == 2) {
            tag(m, name, amf_string(&s));
        } else if (type == 12 && s.n >= 4) {
            const uint32_t n = be32(s.p);

            s = skip(s, 4);
            tag(m, name, take(&s, n));
        } else if (type == 0 || type == 1) {
            s = skip(s, type ? 1 : 8);
        } else {
            return;
        }
    }
}

static void flv(Marks *m, Span s)
{
    s = s.n >= 9 ? skip(s, be32(s.p + 5)) : (Span){ s.p, 0 };
    for (s = skip(s, 4); s.n >= 11; s = skip(s, 4)) {
        const int script = (s.p[0] & 31) == 18;
        const uint32_t size = be24(s.p + 1);

        s = skip(s, 11);
        const Span body = take(&s, size);
        if (script)
            on_meta_data(m, body);
    }
}

/* ---------------------------------------------------------- RIFF: WebP, AVI */

static void riff(Marks *m, Span s, int depth)
{
    while (s.n >= 8) {
        const Span head = s;
        const uint32_t size = le32(s.p + 4);

        s = skip(s, 8);
        Span body = take(&s, size);
        s = skip(s, size & 1);
        if (begins(head, "XMP ", 4))
            xmp(m, body);
        else if (begins(head, "C2PA", 4))
            c2pa(m);
        else if (begins(head, "ICMT", 4))
            tag(m, text("comment"), body);
        else if (!depth && begins(head, "LIST", 4) && begins(body, "INFO", 4))
            riff(m, skip(body, 4), 1);
    }
}

/* --------------------------------------------------------------- PNG, JPEG */

static void png(Marks *m, Span s)
{
    static const char head[] = "XML:com.adobe.xmp\0" "\0\0";    // and not compressed

    for (s = skip(s, 8); s.n >= 12; s = skip(s, 4)) {
        const Span type = skip(s, 4);
        const uint32_t size = be32(s.p);

        s = skip(s, 8);
        const Span body = take(&s, size);
        if (begins(type, "iTXt", 4) && begins(body, head, sizeof(head) - 1))
            xmp(m, body);
        else if (begins(type, "caBX", 4))
            c2pa(m);
    }
}

static void jpeg(Marks *m, Span s)
{
    static const char head[] = "http://ns.adobe.com/xap/1.0/";  // with its zero
    int signed_already = 0;     // a long manifest is in several segments

    for (s = skip(s, 2); s.n >= 4 && s.p[0] == 0xff && s.p[1] != 0xda;) {
        const int app1 = s.p[1] == 0xe1, app11 = s.p[1] == 0xeb;
        const uint32_t size = be16(s.p + 2);

        if (size < 2)
            return;
        s = skip(s, 2);
        const Span body = skip(take(&s, size), 2);
        if (app1 && begins(body, head, sizeof(head)))
            xmp(m, skip(body, sizeof(head)));
        else if (app11 && begins(body, "JP", 2) && find(body, "jumdc2pa", 8).n && !signed_already++)
            c2pa(m);
    }
}

/* ----------------------------------------------------------------- MPEG-TS */

#define TS_SIZE 188
#define TS_PIDS 8192

/* The payload of a packet, and whose it is. */
static Span ts_payload(const uint8_t *p, int *pid)
{
    Span s = { p + 4, TS_SIZE - 4 };

    *pid = be16(p + 1) & (TS_PIDS - 1);
    if (p[3] & 0x20)            // adaptation field
        s = skip(s, 1 + s.p[0]);
    return p[3] & 0x10 ? s : (Span){ s.p, 0 };
}

/* Messages go over the ends of packets: payloads are put together by PID, each
 * after the one before, in one memory. */
static int mpegts(Marks *m, Span s)
{
    size_t *at = calloc(TS_PIDS + 1, sizeof(*at));
    uint8_t *all = malloc(s.n);
    int pid;

    if (!at || !all) {
        free(at);
        free(all);
        return -1;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (Span t = s; t.n >= TS_SIZE;) {
            if (t.p[0] != 0x47) {
                t = skip(t, 1);
                continue;
            }
            const Span body = ts_payload(t.p, &pid);
            if (pass && body.n)
                memcpy(all + at[pid], body.p, body.n);
            at[pass ? pid : pid + 1] += body.n;
            t = skip(t, TS_SIZE);
        }
        for (pid = 0; !pass && pid < TS_PIDS; pid++)
            at[pid + 1] += at[pid];
    }
    /* now at[pid] is where those of the next one begin */
    for (pid = 0; pid < TS_PIDS; pid++) {
        const size_t begin = pid ? at[pid - 1] : 0;

        user_data(m, (Span){ all + begin, at[pid] - begin });
    }
    free(all);
    free(at);
    return 0;
}

/* -------------------------------------------------------------------------- */

int marks_find(const uint8_t *data, size_t size, FILE *out)
{
    const Span s = { data, size };
    Marks m = { .out = out };

    if (s.n >= 3 * TS_SIZE && s.p[0] == 0x47 && s.p[TS_SIZE] == 0x47 &&
        s.p[2 * TS_SIZE] == 0x47) {
        m.container = "MPEG-TS";
        return mpegts(&m, s) < 0 ? -1 : m.found;
    }
    if (s.n >= 12 && be32(s.p + 4) == BOX('f', 't', 'y', 'p')) {
        m.container = "MP4";
        mp4(&m, s);
    } else if (begins(s, "\x1a\x45\xdf\xa3", 4)) {
        m.container = "Matroska";
        matroska(&m, s);
    } else if (begins(s, "FLV\1", 4)) {
        m.container = "FLV";
        flv(&m, s);
    } else if (begins(s, "RIFF", 4) && s.n >= 12) {
        m.container = begins(skip(s, 8), "WEBP", 4) ? "WebP" : "RIFF";
        riff(&m, skip(s, 12), 0);
    } else if (begins(s, "\x89PNG\r\n\x1a\n", 8)) {
        m.container = "PNG";
        png(&m, s);
    } else if (begins(s, "\xff\xd8", 2)) {
        m.container = "JPEG";
        jpeg(&m, s);
    } else {
        m.container = "stream";
    }
    user_data(&m, s);
    return m.found;
}

int marks_show(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *data = MAP_FAILED;
    struct stat st;
    int found = -1;

    if (fd >= 0 && !fstat(fd, &st)) {
        if (!S_ISREG(st.st_mode))
            errno = S_ISDIR(st.st_mode) ? EISDIR : ESPIPE;
        else if (!st.st_size)
            found = 0;
        else
            data = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    if (data != MAP_FAILED) {
        errno = ENOMEM;
        found = marks_find(data, st.st_size, stdout);
        munmap(data, st.st_size);
    }
    if (found < 0)
        fprintf(stderr, "wan-info: %s: %s\n", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (found >= 0 && (fflush(stdout) || ferror(stdout))) {
        fprintf(stderr, "wan-info: standard output can't be written\n");
        return 2;
    }
    return found < 0 ? 2 : !found;
}
