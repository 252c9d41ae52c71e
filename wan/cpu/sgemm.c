/*
 * The one matrix product everything large is made of: our own on processors
 * with AVX-512, else oneDNN's, or where oneDNN is not there or may not make code
 * our own by AVX2 or plain loops.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * The only file that knows oneDNN. dnnl_sgemm() is the same call in 2.x and
 * 3.x; between wan_sgemm_begin() and wan_sgemm_end() it runs on the calling
 * thread alone.
 */

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "f32.h"
#include "sgemm.h"
#include "simd.h"

#ifndef WAN_HAVE_ONEDNN
#define WAN_HAVE_ONEDNN 0
#endif

/* ------------------------------------------------------------ the plain one */

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
static void plain_sgemm(int trans, int64_t m, int64_t n, int64_t k,
                        float alpha, const float *a, int64_t lda,
                        const float *b, int64_t ldb, float beta, float *c,
                        int64_t ldc)
{
    enum { KB = 256 };

    for (int64_t p = 0; p < k; p += KB)
        product(trans, m, n, k - p < KB ? k - p : KB, alpha, a + p, lda,
                b + (trans ? p : p * ldb), ldb, p ? 1 : beta, c, ldc);
}

/* ----------------------------------------------- those of AVX-512 and AVX2 */

/* oneDNN is not there, or may not make any code. */
static int no_code = !WAN_HAVE_ONEDNN;

/* Of AVX2's only weights that are packed as they lie are faster than oneDNN's,
 * which linear.c does: docs/performance.md. */
static int is_own(void)
{
    const int native = wan_f32_native();

    return native == WAN_F32_AVX512 || (native && no_code);
}

/* A b that oneDNN copies it scales in the copy, others' sums at the end. */
static int own_sgemm(int trans, int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb,
                     float beta, float *c, int64_t ldc)
{
    const int copied = trans && n > WAN_F32_COPIED;
    const int64_t cols = trans ? wan_f32_cols() : n;
    float *packed = NULL;

    if (trans && !(packed = aligned_alloc(64, WAN_F32_COLS * WAN_F32_DEPTH *
                                              sizeof(*packed))))
        return WAN_ERR(ENOMEM);
    for (int64_t j = 0; j < n; j += cols)
        for (int64_t p = 0, z; p < k; p += z) {
            const int64_t nj = n - j < cols ? n - j : cols;

            z = wan_f32_depth(k - p, k, copied);
            if (trans)
                wan_f32_pack(packed, b + j * ldb + p, ldb, nj, z,
                             copied ? alpha : 1);
            wan_f32_product(m, nj, z, copied ? 1 : alpha, a + p, lda,
                            trans ? packed : b + p * ldb, trans ? cols : ldb,
                            p || beta, c + j, ldc);
        }
    free(packed);
    return 0;
}

static const char *own_name(char *buf, int size)
{
    static const char *const by[] = { "", ", AVX2", ", AVX-512" };

    snprintf(buf, size, "built-in%s", by[wan_f32_native()]);
    return buf;
}

/* ---------------------------------------------------------------- oneDNN */

#if WAN_HAVE_ONEDNN

#include <dnnl.h>

enum {
    CODE_ROOM = 16 << 20,       // bytes for its code; 6 MB were seen
    PRODUCT_ROOM = 8 << 20      // for one product's copies; 4 MB were seen
};

/* Those of the OpenMP that oneDNN was built on, which we neither link nor
 * need; NULL: it has other threads. */
static void (*omp_set)(int);
static int (*omp_get)(void);

static void find_omp(void)
{
    *(void **)&omp_set = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    *(void **)&omp_get = dlsym(RTLD_DEFAULT, "omp_get_max_threads");
}

int wan_sgemm_begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int saved;

    pthread_once(&once, find_omp);
    if (!omp_set || !omp_get)
        return 0;
    saved = omp_get();
    if (saved != 1)
        omp_set(1);
    return saved;
}

void wan_sgemm_end(int saved)
{
    if (saved > 1)
        omp_set(saved);
}

/* Every kind of product once, so that all code is there; 0 or a status. */
static int try_products(void)
{
    enum { N = 48 };
    static const int64_t rows[] = { N, 1 };
    static float a[N * N], b[N * N], c[N * N];
    const int saved = wan_sgemm_begin();
    int st = 0;

    for (int i = 0; i < 8 && !st; i++)
        st = dnnl_sgemm('N', i & 1 ? 'T' : 'N', rows[i >> 1 & 1], N, N, 1, a,
                        N, b, N, i >> 2, c, N);
    wan_sgemm_end(saved);
    return st;
}

/* oneDNN makes its code in the first product, and where there is no address
 * space for it, it crashes or throws through C. */
static int make_code(const WanLog *log)
{
    void *room = mmap(NULL, CODE_ROOM, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int st;

    if (room == MAP_FAILED) {
        wan_log(log, WAN_LOG_ERROR, "device cpu: no address space for the "
                "code of products, %d MB are needed", CODE_ROOM >> 20);
        return WAN_ERR(ENOMEM);
    }
    munmap(room, CODE_ROOM);
    st = try_products();
    if (st == dnnl_out_of_memory) {
        wan_log(log, WAN_LOG_ERROR, "device cpu: no memory for a product");
        return WAN_ERR(ENOMEM);
    }
    if (st) {
        no_code = 1;
        if (wan_f32_native())
            return 0;
        wan_log(log, WAN_LOG_WARNING, "oneDNN can't make its code here (does "
                "this system forbid executable memory?): products are by "
                "plain loops, many times slower");
    }
    return 0;
}

int wan_sgemm_open(const WanLog *log)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int made;
    int ret = 0;

    if (is_own())
        return 0;
    pthread_mutex_lock(&lock);
    if (!made && (ret = make_code(log)) >= 0)
        made = 1;
    pthread_mutex_unlock(&lock);
    return ret;
}

int64_t wan_sgemm_room(void)
{
    return no_code || is_own() ? 0 : PRODUCT_ROOM;
}

int wan_sgemm(int trans, int64_t m, int64_t n, int64_t k, float alpha,
              const float *a, int64_t lda, const float *b, int64_t ldb,
              float beta, float *c, int64_t ldc)
{
    if (is_own())
        return own_sgemm(trans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    if (no_code) {
        plain_sgemm(trans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return 0;
    }
    return dnnl_sgemm('N', trans ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb,
                      beta, c, ldc) ? WAN_ERR(ENOMEM) : 0;
}

const char *wan_sgemm_name(char *buf, int size)
{
    const dnnl_version_t *v = dnnl_version();

    if (no_code || is_own())
        return own_name(buf, size);
    snprintf(buf, size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return buf;
}

#else

int wan_sgemm_open(const WanLog *log)
{
    (void)log;
    return 0;
}

int64_t wan_sgemm_room(void)
{
    return 0;
}

int wan_sgemm_begin(void)
{
    return 0;
}

void wan_sgemm_end(int saved)
{
    (void)saved;
}

int wan_sgemm(int trans, int64_t m, int64_t n, int64_t k, float alpha,
              const float *a, int64_t lda, const float *b, int64_t ldb,
              float beta, float *c, int64_t ldc)
{
    if (is_own())
        return own_sgemm(trans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    plain_sgemm(trans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    return 0;
}

const char *wan_sgemm_name(char *buf, int size)
{
    return own_name(buf, size);
}

#endif

/* ---------------------------------------------------- whole tiles of rows */

int wan_sgemm_rows(int trans, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb,
                   float beta, float *c, int64_t ldc)
{
    enum { R = WAN_SGEMM_ROWS };
    const int64_t rest = is_own() ? 0 : m % R, whole = m - rest;
    float *own, *rows;
    int ret = 0;

    if (whole)
        ret = wan_sgemm(trans, whole, n, k, alpha, a, lda, b, ldb, beta, c,
                        ldc);
    if (!rest || ret < 0)
        return ret;
    /* c's last rows [R, n]; where a has fewer than R, it too [R, k] */
    if (!(own = calloc(R * (n + (whole ? 0 : k)), sizeof(*own))))
        return WAN_ERR(ENOMEM);
    rows = own + (R - rest) * n;
    if (whole) {
        a += (m - R) * lda;
    } else {
        for (int64_t i = 0; i < rest; i++)
            memcpy(own + R * n + (R - rest + i) * k, a + i * lda,
                   k * sizeof(*a));
        a = own + R * n;
        lda = k;
    }
    for (int64_t i = 0; i < rest && beta; i++)
        memcpy(rows + i * n, c + (whole + i) * ldc, n * sizeof(*c));
    ret = wan_sgemm(trans, R, n, k, alpha, a, lda, b, ldb, beta, own, n);
    for (int64_t i = 0; i < rest && ret >= 0; i++)
        memcpy(c + (whole + i) * ldc, rows + i * n, n * sizeof(*c));
    free(own);
    return ret;
}
