/*
 * What bf16.c and int8.c do by arm64's own instructions: FEAT_BF16 and
 * FEAT_I8MM, which Neoverse V1, N2, Cortex-A710 and later ones have. Arguments
 * are those of the plain loops there; panels have 16 columns.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CPU_NEON_H
#define WAN_CPU_NEON_H

#include "int8.h"

/* gcc below 10 and clang below 11 don't know the instructions. */
#if defined(__aarch64__) && defined(__linux__) && \
    (defined(__clang__) ? __clang_major__ >= 11 : __GNUC__ >= 10)
#define WAN_KNOWS_NEON 1
#else
#define WAN_KNOWS_NEON 0
#endif

#if WAN_KNOWS_NEON

/* Whether the processor has them. */
int wan_neon_bf16(void);
int wan_neon_int8(void);

void wan_neon_pack_rows16(uint16_t *b, const uint16_t *w, int64_t ld,
                          int64_t n, int64_t k);
void wan_neon_pack_rows(uint16_t *b, const float *w, int64_t ld, int64_t n,
                        int64_t k);
void wan_neon_pack(uint16_t *b, const float *v, int64_t ld, int64_t n,
                   int64_t k);
void wan_neon_panel(int64_t m, int cols, int64_t k, int taps,
                    const int64_t *shift, const uint16_t *a, int64_t lda,
                    const uint16_t *b, int add, float *c, int64_t ldc);
float wan_neon_exp2(uint16_t *p, const float *s, int64_t n, float max,
                    float *above);

uint32_t wan_neon_column8(const void *w, WanType type, int64_t at, int64_t k,
                          float *squares);
void wan_neon_pack8(int8_t *b, int cols, const void *w, WanType type,
                    int64_t ld, int64_t n, int64_t k, const float *by,
                    int32_t *sum);
void wan_neon_panel8(int64_t m, int cols, int64_t k, const uint8_t *a,
                     int64_t lda, const int8_t *b, const WanInt8Result *to);
void wan_neon_pack_blocks(int8_t *b, int cols, const char *w, int64_t ld,
                          int64_t n, int64_t blocks);
void wan_neon_blocks(int64_t m, int cols, int64_t k, const uint8_t *a,
                     int64_t lda, const int8_t *b, const WanInt8Result *to);

#endif

#endif /* WAN_CPU_NEON_H */
