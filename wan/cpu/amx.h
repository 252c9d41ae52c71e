/*
 * Products of BF16 and 8-bit factors on tiles: AMX.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * bf16.c and int8.c come here where the processor and the system have tiles.
 * Factors are packed as these two do it.
 */

#ifndef WAN_CPU_AMX_H
#define WAN_CPU_AMX_H

#include <stdint.h>

/* Older assemblers don't know tiles, and those compilers come with newer. */
#if defined(__x86_64__) && defined(__linux__) && \
    (defined(__clang__) ? __clang_major__ >= 11 : __GNUC__ >= 11)
#define WAN_KNOWS_AMX 1
#else
#define WAN_KNOWS_AMX 0
#endif

/* What follows is there if WAN_KNOWS_AMX. */

/* Whether the processor has tiles that multiply these, and the system lets this
 * process use them: Linux is asked the first time. */
int wan_amx_bf16(void);
int wan_amx_int8(void);

/* wan_bf16_product(), with shift never NULL. */
void wan_amx_bf16_product(int64_t m, int64_t n, int64_t k, int taps,
                          const int64_t *shift, const uint16_t *a, int64_t lda,
                          const uint16_t *b, int add, float *c, int64_t ldc);

#define WAN_AMX_ROWS 32         // of a block of sums, and its columns
#define WAN_AMX_COLS 32

/**
 * The exact sums of a product in 8 bits, block by block.
 *
 * @param a, b, k as in wan_int8_product()
 * @param leave takes a block of rows by cols from (row, col) on, cols a multiple
 *              of 16 and up to wan_bf16_cols(n): sum [rows, WAN_AMX_COLS]
 */
void wan_amx_int8_product(int64_t m, int64_t n, int64_t k, const uint8_t *a,
                          int64_t lda, const int8_t *b,
                          void (*leave)(const void *opaque, int64_t row,
                                        int64_t col, int64_t rows,
                                        int64_t cols, const int32_t *sum),
                          const void *opaque);

#endif /* WAN_CPU_AMX_H */
