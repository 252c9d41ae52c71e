/*
 * The one matrix product everything large is made of: oneDNN's, or a plain
 * one of our own where oneDNN is not there.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The only file that knows oneDNN. dnnl_sgemm() is the same call in 2.x and
 * 3.x; inside a parallel region it runs on the calling thread alone.
 */

#include <stdio.h>

#include "sgemm.h"
#include "simd.h"
#include "../wan.h"

#ifndef WAN_HAVE_ONEDNN
#define WAN_HAVE_ONEDNN 0
#endif

#if WAN_HAVE_ONEDNN

#include <dnnl.h>

int wan_sgemm(int trans, int64_t m, int64_t n, int64_t k, float alpha,
              const float *a, int64_t lda, const float *b, int64_t ldb,
              float beta, float *c, int64_t ldc)
{
    const dnnl_status_t st = dnnl_sgemm('N', trans ? 'T' : 'N', m, n, k,
                                        alpha, a, lda, b, ldb, beta, c, ldc);

    return st == dnnl_success ? 0 : WAN_ERR(ENOMEM);
}

const char *wan_sgemm_name(char *buf, int size)
{
    const dnnl_version_t *v = dnnl_version();

    snprintf(buf, size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return buf;
}

#else

#define MR 4        // rows of c at a time
#define NR 32       // columns of c at a time, not transposed
#define NT 2        // columns of c at a time, transposed

/* c[0..rows, 0..cols] of b [k, n]: a tile of c stays in registers. */
WAN_INLINE void tile_n(int rows, int cols, int64_t k, float alpha,
                       const float *a, int64_t lda, const float *b,
                       int64_t ldb, float beta, float *c, int64_t ldc)
{
    float sum[MR][NR] = { { 0 } };

    for (int64_t p = 0; p < k; p++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
                sum[i][j] += a[i * lda + p] * b[p * ldb + j];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) {
            float *out = c + i * ldc + j;
            *out = alpha * sum[i][j] + (beta ? beta * *out : 0);
        }
}

/* The same of b [n, k]: dot products in lanes along k. */
WAN_INLINE void tile_t(int rows, int cols, int64_t k, float alpha,
                       const float *a, int64_t lda, const float *b,
                       int64_t ldb, float beta, float *c, int64_t ldc)
{
    float sum[MR][NT][WAN_LANES] = { { { 0 } } };
    int64_t p = 0;

    for (; p + WAN_LANES <= k; p += WAN_LANES)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
                for (int l = 0; l < WAN_LANES; l++)
                    sum[i][j][l] += a[i * lda + p + l] * b[j * ldb + p + l];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) {
            float *out = c + i * ldc + j, s = 0;

            for (int64_t q = p; q < k; q++)
                s += a[i * lda + q] * b[j * ldb + q];
            for (int l = 0; l < WAN_LANES; l++)
                s += sum[i][j][l];
            *out = alpha * s + (beta ? beta * *out : 0);
        }
}

WAN_SIMD static void product(int trans, int64_t m, int64_t n, int64_t k,
                             float alpha, const float *a, int64_t lda,
                             const float *b, int64_t ldb, float beta,
                             float *c, int64_t ldc)
{
    const int nr = trans ? NT : NR;

    for (int64_t j = 0; j < n; j += nr)
        for (int64_t i = 0; i < m; i += MR) {
            const int rows = m - i < MR ? (int)(m - i) : MR;
            const int cols = n - j < nr ? (int)(n - j) : nr;
            const float *ai = a + i * lda;
            const float *bj = b + (trans ? j * ldb : j);
            float *cij = c + i * ldc + j;

            if (trans && rows == MR && cols == NT)
                tile_t(MR, NT, k, alpha, ai, lda, bj, ldb, beta, cij, ldc);
            else if (trans)
                tile_t(rows, cols, k, alpha, ai, lda, bj, ldb, beta, cij,
                       ldc);
            else if (rows == MR && cols == NR)
                tile_n(MR, NR, k, alpha, ai, lda, bj, ldb, beta, cij, ldc);
            else
                tile_n(rows, cols, k, alpha, ai, lda, bj, ldb, beta, cij,
                       ldc);
        }
}

/* Sums run in blocks of KB, as in oneDNN, which keeps their error small. */
int wan_sgemm(int trans, int64_t m, int64_t n, int64_t k, float alpha,
              const float *a, int64_t lda, const float *b, int64_t ldb,
              float beta, float *c, int64_t ldc)
{
    enum { KB = 256 };

    for (int64_t p = 0; p < k; p += KB)
        product(trans, m, n, k - p < KB ? k - p : KB, alpha, a + p, lda,
                b + (trans ? p : p * ldb), ldb, p ? 1 : beta, c, ldc);
    return 0;
}

const char *wan_sgemm_name(char *buf, int size)
{
    snprintf(buf, size, "built-in");
    return buf;
}

#endif
