/*
 * The one matrix product everything large is made of.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CPU_SGEMM_H
#define WAN_CPU_SGEMM_H

#include <stdint.h>

#include "../log.h"

/**
 * Before the first product of a device: makes what oneDNN's products need, once
 * a process. Where memory may not be executable that is the plain loops, with a
 * warning.
 *
 * @return 0, or WAN_ERR(ENOMEM) with a line
 */
int wan_sgemm_open(const WanLog *log);

/* Bytes that each thread's products may take while they run. */
int64_t wan_sgemm_room(void);

/* From begin to end products run on the calling thread alone, whatever threads
 * the library under them has; end takes what begin returned. Other settings of
 * the thread are as before. */
int wan_sgemm_begin(void);
void wan_sgemm_end(int saved);

/**
 * c = alpha a b + beta c, row-major, all f32.
 *
 * @param trans  0: b is [k, n], rows ldb apart; 1: b is [n, k], transposed
 * @param m,n,k  a: [m, k], c: [m, n]; lda >= k, ldc >= n
 * @param beta   1, or 0: c need not be initialised
 * @return 0, or WAN_ERR(ENOMEM)
 */
int wan_sgemm(int trans, int64_t m, int64_t n, int64_t k, float alpha,
              const float *a, int64_t lda, const float *b, int64_t ldb,
              float beta, float *c, int64_t ldc);

/* Rows that wan_sgemm_rows() makes at a time: whole micro-tiles of oneDNN's
 * kernels, 6 rows (AVX2) or 8 (AVX-512). */
#define WAN_SGEMM_ROWS 24

/* Rows of each tile but the last, where m are to be so many tiles; of no more
 * rows than a multiple of WAN_SGEMM_ROWS that is enough for all. */
static inline int64_t wan_sgemm_tile(int64_t m, int64_t tiles)
{
    const int64_t whole = (m + WAN_SGEMM_ROWS - 1) / WAN_SGEMM_ROWS;

    return tiles ? (whole + tiles - 1) / tiles * WAN_SGEMM_ROWS : 0;
}

/**
 * The same, and a row of c has the same bits whatever m is and wherever in a it
 * stands. oneDNN sums the last rows of a product otherwise than the others: there
 * they are the last of a product of WAN_SGEMM_ROWS rows, which is one call more
 * if m is no multiple of that.
 */
int wan_sgemm_rows(int trans, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb,
                   float beta, float *c, int64_t ldc);

/* "built-in, AVX-512", "built-in, AVX2", "oneDNN 2.6.3" or "built-in", for the
 * log and the benchmarks. */
const char *wan_sgemm_name(char *buf, int size);

#endif /* WAN_CPU_SGEMM_H */
