/*
 * Products of BF16 and 8-bit factors on tiles: AMX.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * An instruction multiplies a tile of 16 rows of a, 64 bytes each, by one of 16
 * columns of b, so 32 inputs in BF16 and 64 in 8 bits, and adds to a tile of 16
 * x 16 sums. There are eight: 2 x 2 of sums (0 to 3), two of a (4 and 5), two of
 * b (6 and 7), so that four loads serve four products. a is loaded from where
 * it lies, b from a panel: a row of its tile is one pair of inputs, or four, of
 * 16 columns, a panel's width from the next. Nothing is packed anew.
 *
 * Rows and inputs that fill no tile have tiles of their size, so nothing is
 * read or written that is not there. A product loads a configuration for each
 * of up to four kinds of parts (rows in 32s or the rest of them, inputs in whole
 * tiles or the rest) and not for each panel: that is a load of 64 bytes which
 * clears the tiles, and waits until those before have left. The least of our
 * large products, 120 x 512 x 128 in BF16, is 960 tile products of 16 cycles
 * beside at most four of these. At the end tiles are released: what is in them
 * would be saved with the thread, 8 KB, whenever another gets its core, and
 * keeps the core from deep sleep.
 */

#include "amx.h"
#include "amx_tiles.h"
#include "bf16.h"
#include "../clones.h"

#if WAN_KNOWS_AMX || defined(WAN_AMX_EMULATED)

#if defined(WAN_AMX_EMULATED)

int wan_amx_bf16(void)
{
    return 1;
}

int wan_amx_int8(void)
{
    return 1;
}

#else

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of <asm/prctl.h>, where it is new enough, and Intel's manual. */
enum {
    REQ_XCOMP_PERM = 0x1023,
    XTILECFG = 17, XTILEDATA = 18,
    LEAF_TILES = 0x1d,
    HAS_OSXSAVE = 1 << 27,                              // leaf 1, ecx
    HAS_BF16 = 1 << 22, HAS_TILES = 1 << 24, HAS_INT8 = 1 << 25,    // 7, edx
    ASKED = 1
};

static uint32_t xcr0(void)
{
    uint32_t low, high;

    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Palette 1 is what WanTileConfig says. */
static int has_palette(void)
{
    uint32_t a, b, c, d;

    return __get_cpuid_count(LEAF_TILES, 0, &a, &b, &c, &d) && a >= 1 &&
           __get_cpuid_count(LEAF_TILES, 1, &a, &b, &c, &d) &&
           a >> 16 == 1024 && (b & 0xffff) == 64 && b >> 16 == 8 &&
           (c & 0xffff) == 16;
}

/* HAS_BF16 and HAS_INT8, as far as they can be used. The system saves tiles for
 * a process alone that has asked, before any of its threads touches one; Linux
 * before 5.16 does not know the question, a filter of system calls may refuse
 * it, and so does the kernel where a thread's stack for signals is too small
 * for them, as it refuses such stacks afterwards. fork() keeps the answer. */
static int look(void)
{
    const uint32_t both = 1u << XTILECFG | 1u << XTILEDATA;
    uint32_t a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & HAS_OSXSAVE) ||
        (xcr0() & both) != both ||
        !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & HAS_TILES) ||
        !has_palette() || syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA))
        return 0;
    return (int)d & (HAS_BF16 | HAS_INT8);
}

static int found(void)
{
    static int known;           // threads may all look: they find the same
    int f = __atomic_load_n(&known, __ATOMIC_RELAXED);

    if (!f) {
        f = look() | ASKED;
        __atomic_store_n(&known, f, __ATOMIC_RELAXED);
    }
    return f;
}

int wan_amx_bf16(void)
{
    return (found() & HAS_BF16) != 0;
}

int wan_amx_int8(void)
{
    return (found() & HAS_INT8) != 0;
}

#endif

enum {
    ROW = 64,                   // bytes of a tile's row
    TILE_ROWS = 16, TILE_COLS = 16
};

_Static_assert(WAN_AMX_ROWS == 2 * TILE_ROWS && WAN_AMX_COLS == 2 * TILE_COLS &&
               WAN_BF16_COLS == TILE_COLS, "a block is 2 x 2 tiles");

/* Both kinds, with sizes in bytes: of inputs there are two or four in a word. */
typedef struct Product {
    int int8;                   // else BF16
    int64_t m, n;
    int64_t depth;              // of a tap's inputs in a row of a
    int taps;
    const int64_t *shift;       // numbers of BF16
    const char *a;
    int64_t lda;
    const char *b;
    int add;
    char *c;                    // BF16
    int64_t ldc;
    void (*leave)(const void *opaque, int64_t row, int64_t col, int64_t rows,
                  int64_t cols, const int32_t *sum);        // 8 bits
    const void *opaque;
} Product;

/* A part of a product: all columns of some rows by some inputs of each tap. */
typedef struct Part {
    int64_t row, end;           // rows, block by block
    int64_t from, steps, bytes; // inputs: `steps` tiles of so many from there on
    int add;
} Part;

/* rows: of a block. */
static void configure(int64_t rows, int64_t bytes)
{
    const int first = (int)(rows < TILE_ROWS ? rows : TILE_ROWS);
    const int second = (int)rows - first, words = (int)bytes / 4;
    const int row[8] = { first, first, second, second, first, second, words,
                         words };
    WanTileConfig t = { .palette = 1 };

    for (int i = 0; i < 8; i++) {
        t.rows[i] = (uint8_t)row[i];
        t.colsb[i] = (uint16_t)(!row[i] ? 0 : i == 4 || i == 5 ? bytes : ROW);
    }
    WAN_TILE_CONFIG(&t);
}

/* Of a block of rows by cols tiles of sums, which lie at c. */
#define EACH_SUM(op) \
    do { \
        op(0, c, ldc); \
        if (cols > 1) \
            op(1, c + ROW, ldc); \
        if (rows > 1) \
            op(2, c + TILE_ROWS * ldc, ldc); \
        if (rows > 1 && cols > 1) \
            op(3, c + TILE_ROWS * ldc + ROW, ldc); \
    } while (0)

#define BEGIN_AT_0(t, from, stride) WAN_TILE_ZERO(t)

#define DOT(c, a, b) \
    do { \
        if (int8) \
            WAN_TILE_DPBUSD(c, a, b); \
        else \
            WAN_TILE_DPBF16(c, a, b); \
    } while (0)

/* What one tap adds to a block. */
WAN_INLINE void add_inputs(int int8, int rows, int cols, int64_t steps,
                           const char *a, int64_t lda, const char *b,
                           int64_t ldb)
{
    const char *a2 = rows > 1 ? a + TILE_ROWS * lda : a;

    for (; steps > 0; steps--, a += ROW, a2 += ROW, b += TILE_ROWS * ldb) {
        WAN_TILE_LOAD(4, a, lda);
        WAN_TILE_LOAD(6, b, ldb);
        DOT(0, 4, 6);
        if (cols > 1) {
            WAN_TILE_LOAD(7, b + ROW, ldb);
            DOT(1, 4, 7);
        }
        if (rows > 1) {
            WAN_TILE_LOAD(5, a2, lda);
            DOT(2, 5, 6);
            if (cols > 1)
                DOT(3, 5, 7);
        }
    }
}

/* One block of sums, of so many tiles; b: of its columns, from a panel that is
 * ldb bytes wide. */
WAN_INLINE void block(int int8, int rows, int cols, const Product *p,
                      const Part *part, int64_t row, int64_t col,
                      const char *b, int64_t ldb)
{
    const int64_t left = part->end - row;
    const char *a = p->a + row * p->lda + part->from;
    int32_t sum[WAN_AMX_ROWS * WAN_AMX_COLS];
    char *c = int8 ? (char *)sum
                   : p->c + row * p->ldc + col * (int64_t)sizeof(float);
    const int64_t ldc = int8 ? (int64_t)sizeof(*sum) * WAN_AMX_COLS : p->ldc;

    b += part->from / 4 * ldb;
    if (!int8 && part->add)
        EACH_SUM(WAN_TILE_LOAD);
    else
        EACH_SUM(BEGIN_AT_0);
    for (int t = 0; t < p->taps; t++, b += p->depth / 4 * ldb)
        add_inputs(int8, rows, cols, part->steps,
                   a + p->shift[t] * (int64_t)sizeof(uint16_t), p->lda, b,
                   ldb);
    EACH_SUM(WAN_TILE_STORE);
    if (int8)
        p->leave(p->opaque, row, col,
                 left < WAN_AMX_ROWS ? left : WAN_AMX_ROWS,
                 cols * TILE_COLS, sum);
}

/* Panels are the outer loop as in bf16.c: 32 columns of one are read for each
 * block of rows. */
WAN_INLINE void part_of(int int8, int rows, const Product *p, const Part *part)
{
    const char *b = p->b;
    int width;

    for (int64_t from = 0; from < p->n; from += width) {
        const int64_t ldb = 4 * (width = wan_bf16_panel(p->n - from));
        int col = 0;

        for (; col + WAN_AMX_COLS <= width; col += WAN_AMX_COLS)
            for (int64_t i = part->row; i < part->end; i += WAN_AMX_ROWS)
                block(int8, rows, 2, p, part, i, from + col, b + 4 * col, ldb);
        for (int64_t i = part->row; col < width && i < part->end;
             i += WAN_AMX_ROWS)
            block(int8, rows, 1, p, part, i, from + col, b + 4 * col, ldb);
        b += p->taps * (p->depth / 4) * ldb;
    }
}

/* Some inputs of all rows: of blocks of 32, then of what is left. */
WAN_INLINE void inputs(int int8, const Product *p, int64_t from, int64_t steps,
                       int64_t bytes, int add)
{
    const int64_t whole = p->m / WAN_AMX_ROWS * WAN_AMX_ROWS;
    Part part = { 0, whole, from, steps, bytes, add };

    if (whole) {
        configure(WAN_AMX_ROWS, bytes);
        part_of(int8, 2, p, &part);
    }
    if (whole == p->m)
        return;
    part.row = whole;
    part.end = p->m;
    configure(p->m - whole, bytes);
    if (p->m - whole > TILE_ROWS)
        part_of(int8, 2, p, &part);
    else
        part_of(int8, 1, p, &part);
}

void wan_amx_bf16_product(int64_t m, int64_t n, int64_t k, int taps,
                          const int64_t *shift, const uint16_t *a, int64_t lda,
                          const uint16_t *b, int add, float *c, int64_t ldc)
{
    const int64_t depth = k * (int64_t)sizeof(*a);
    const int64_t whole = depth / ROW * ROW;
    const Product p = {
        .m = m, .n = n, .depth = depth, .taps = taps, .shift = shift,
        .a = (const char *)a, .lda = lda * (int64_t)sizeof(*a),
        .b = (const char *)b, .c = (char *)c,
        .ldc = ldc * (int64_t)sizeof(*c),
    };

    if (whole)
        inputs(0, &p, 0, whole / ROW, ROW, add);
    if (depth > whole)
        inputs(0, &p, whole, 1, depth - whole, add || whole);
    WAN_TILE_RELEASE();
}

void wan_amx_int8_product(int64_t m, int64_t n, int64_t k, const uint8_t *a,
                          int64_t lda, const int8_t *b,
                          void (*leave)(const void *opaque, int64_t row,
                                        int64_t col, int64_t rows,
                                        int64_t cols, const int32_t *sum),
                          const void *opaque)
{
    static const int64_t none;
    const Product p = {
        .m = m, .n = n, .depth = k, .taps = 1, .shift = &none,
        .a = (const char *)a, .lda = lda, .b = (const char *)b,
        .leave = leave, .opaque = opaque,
    };

    inputs(1, &p, 0, k / ROW, ROW, 0);
    WAN_TILE_RELEASE();
}

#endif
