/*
 * The instructions on tiles (AMX) in C, as Intel's manual defines each.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static float flushed(float f)
{
    return fpclassify(f) == FP_SUBNORMAL ? copysignf(0, f) : f;
}

static float float_at(const uint8_t *p)
{
    float f;

    memcpy(&f, p, sizeof(f));
    return flushed(f);
}

static float bf16_at(const uint8_t *p)
{
    const uint8_t wide[4] = { 0, 0, p[0], p[1] };

    return float_at(wide);
}

/* Each row: even and odd inputs have a sum of their own, from 0 on; both
 * together are added to what is there. Denormal numbers are 0 going in and
 * coming out. */
void wan_tile_dpbf16(int c, int a, int b)
{
    factors("TDPBF16PS", c, a, b);
    for (int m = 0; m < tile[c].rows; m++) {
        float sum[ROW / 4][2] = { { 0 } };

        for (int k = 0; k < tile[a].colsb / 4; k++)
            for (int n = 0; n < tile[c].colsb / 4; n++)
                for (int i = 0; i < 2; i++)
                    sum[n][i] = flushed(fmaf(
                        bf16_at(&tile[a].row[m][4 * k + 2 * i]),
                        bf16_at(&tile[b].row[k][4 * n + 2 * i]), sum[n][i]));
        for (int n = 0; n < tile[c].colsb / 4; n++) {
            uint8_t *to = &tile[c].row[m][4 * n];
            const float both = flushed(sum[n][0] + sum[n][1]);
            const float v = flushed(float_at(to) + both);

            memcpy(to, &v, sizeof(v));
        }
    }
    counted(&count.bf16);
}

/* Numbers of a have no sign, those of b one; sums wrap. */
void wan_tile_dpbusd(int c, int a, int b)
{
    factors("TDPBUSD", c, a, b);
    for (int m = 0; m < tile[c].rows; m++)
        for (int k = 0; k < tile[a].colsb / 4; k++)
            for (int n = 0; n < tile[c].colsb / 4; n++) {
                uint8_t *to = &tile[c].row[m][4 * n];
                uint32_t sum;

                memcpy(&sum, to, sizeof(sum));
                for (int i = 0; i < 4; i++)
                    sum += (uint32_t)(tile[a].row[m][4 * k + i] *
                                      (int8_t)tile[b].row[k][4 * n + i]);
                memcpy(to, &sum, sizeof(sum));
            }
    counted(&count.int8);
}
