/*
 * The instructions on tiles (AMX) in C, as Intel's manual defines each.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clones.h"
#include "tiles.h"

enum { NAMES = 8, ROWS = 16, ROW = 64 };        // of palette 1

typedef struct Tile {
    int rows, colsb;
    uint8_t row[ROWS][ROW];
} Tile;

static _Thread_local Tile tile[NAMES];
static _Thread_local int configured;
static WanTileCount count;

static void fault(const char *what, const char *why)
{
    fprintf(stderr, "# %s: %s\n", what, why);
    abort();
}

static void counted(long *n)
{
    __atomic_fetch_add(n, 1, __ATOMIC_RELAXED);
}

WanTileCount wan_tile_count(void)
{
    return count;
}

int wan_tile_configured(void)
{
    return configured;
}

static int is_zero(const uint8_t *p, int n)
{
    for (int i = 0; i < n; i++)
        if (p[i])
            return 0;
    return 1;
}

void wan_tile_config(const void *config)
{
    uint8_t p[64];
    Tile want[NAMES] = { { 0 } };

    memcpy(p, config, sizeof(p));
    if (p[0] > 1)
        fault("LDTILECFG", "no such palette");
    if (p[0]) {
        if (!is_zero(p + 2, 14) || !is_zero(p + 32, 16) || !is_zero(p + 56, 8))
            fault("LDTILECFG", "a reserved byte is not zero");
        for (int t = 0; t < NAMES; t++) {
            want[t].colsb = p[16 + 2 * t] | p[17 + 2 * t] << 8;
            want[t].rows = p[48 + t];
            if (want[t].colsb > ROW || want[t].rows > ROWS)
                fault("LDTILECFG", "a tile is too large");
            if (!want[t].colsb != !want[t].rows)
                fault("LDTILECFG", "a tile has rows or columns alone");
        }
        if (p[1])
            fault("LDTILECFG", "it begins within a tile");
    }
    memcpy(tile, want, sizeof(tile));
    configured = p[0];
    counted(&count.config);
}

void wan_tile_release(void)
{
    memset(tile, 0, sizeof(tile));
    configured = 0;
}

static Tile *valid(const char *what, int t)
{
    if (!configured)
        fault(what, "no configuration");
    if (t < 0 || t >= NAMES || !tile[t].rows)
        fault(what, "the configuration has no such tile");
    return &tile[t];
}

void wan_tile_zero(int t)
{
    Tile *to = valid("TILEZERO", t);

    memset(to->row, 0, sizeof(to->row));
}

/* Beyond its rows and columns a tile is zero. */
void wan_tile_load(int t, const void *from, int64_t stride)
{
    Tile *to = valid("TILELOADD", t);

    memset(to->row, 0, sizeof(to->row));
    for (int r = 0; r < to->rows; r++)
        memcpy(to->row[r], (const char *)from + r * stride, to->colsb);
}

void wan_tile_store(int t, void *to, int64_t stride)
{
    const Tile *from = valid("TILESTORED", t);

    for (int r = 0; r < from->rows; r++)
        memcpy((char *)to + r * stride, from->row[r], from->colsb);
}

/* The tiles of a product, which must fit one another. */
static void factors(const char *what, int c, int a, int b)
{
    const Tile *tc = valid(what, c), *ta = valid(what, a), *tb = valid(what, b);

    if (c == a || c == b || a == b)
        fault(what, "a tile is there twice");
    if (tc->colsb % 4 || ta->colsb % 4 || tb->colsb % 4)
        fault(what, "a row has not whole words");
    if (tc->rows != ta->rows || tc->colsb != tb->colsb ||
        ta->colsb / 4 != tb->rows)
        fault(what, "sizes that do not fit");
}

/* A denormal number as 0 of its sign; without a branch, for the compiler. */
WAN_INLINE float flushed(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    u &= u & 0x7f800000 ? UINT32_MAX : 0x80000000;
    memcpy(&f, &u, sizeof(f));
    return f;
}

/* One of a pair, the low half or the high one. */
WAN_INLINE float half(uint32_t pair, int high)
{
    float f;

    pair = high ? pair & 0xffff0000 : pair << 16;
    memcpy(&f, &pair, sizeof(f));
    return flushed(f);
}

enum { WORDS = ROW / 4 };

/* Each row: even and odd inputs have a sum of their own, from 0 on; both
 * together are added to what is there. Denormal numbers are 0 going in and
 * coming out. */
WAN_SIMD static void add_pairs(Tile *c, const Tile *a, const Tile *b)
{
    for (int m = 0; m < c->rows; m++) {
        float even[WORDS] = { 0 }, odd[WORDS] = { 0 }, sum[WORDS];

        for (int k = 0; k < a->colsb / 4; k++) {
            uint32_t x, w[WORDS];

            memcpy(&x, &a->row[m][4 * k], sizeof(x));
            memcpy(w, b->row[k], sizeof(w));
            for (int n = 0; n < WORDS; n++) {
                even[n] = flushed(fmaf(half(x, 0), half(w[n], 0), even[n]));
                odd[n] = flushed(fmaf(half(x, 1), half(w[n], 1), odd[n]));
            }
        }
        memcpy(sum, c->row[m], sizeof(sum));
        for (int n = 0; n < WORDS; n++)
            sum[n] = flushed(flushed(sum[n]) + flushed(even[n] + odd[n]));
        memcpy(c->row[m], sum, c->colsb);
    }
}

void wan_tile_dpbf16(int c, int a, int b)
{
    factors("TDPBF16PS", c, a, b);
    add_pairs(&tile[c], &tile[a], &tile[b]);
    counted(&count.bf16);
}

/* Numbers of a have no sign, those of b one; sums wrap. */
WAN_SIMD static void add_fours(Tile *c, const Tile *a, const Tile *b)
{
    for (int m = 0; m < c->rows; m++) {
        uint32_t sum[WORDS];

        memcpy(sum, c->row[m], sizeof(sum));
        for (int k = 0; k < a->colsb / 4; k++)
            for (int n = 0; n < WORDS; n++)
                for (int i = 0; i < 4; i++)
                    sum[n] += (uint32_t)(a->row[m][4 * k + i] *
                                         (int8_t)b->row[k][4 * n + i]);
        memcpy(c->row[m], sum, c->colsb);
    }
}

void wan_tile_dpbusd(int c, int a, int b)
{
    factors("TDPBUSD", c, a, b);
    add_fours(&tile[c], &tile[a], &tile[b]);
    counted(&count.int8);
}
