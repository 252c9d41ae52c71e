/*
 * What the products with intrinsics share. Each file says in TARGET, before it
 * includes this, which instructions its functions may use.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CPU_AVX512_H
#define WAN_CPU_AVX512_H

#if defined(__x86_64__)
#define WAN_KNOWS_AVX512 1
#else
#define WAN_KNOWS_AVX512 0
#endif

/* gcc below 10 and clang below 9 don't know those for BF16; VNNI is older. */
#if WAN_KNOWS_AVX512 && (defined(__clang__) ? __clang_major__ >= 9 \
                                            : __GNUC__ >= 10)
#define WAN_KNOWS_BF16 1
#else
#define WAN_KNOWS_BF16 0
#endif

#if WAN_KNOWS_AVX512

#include <stdint.h>
#include <immintrin.h>

/* Whether the processor has what all of them need. */
static inline int wan_has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}

#define NATIVE __attribute__((target(TARGET)))
#define NATIVE_INLINE static inline __attribute__((always_inline, \
                                                   target(TARGET)))

/* The first n of 16, all or none if there are more or less. */
NATIVE_INLINE __mmask16 first(int64_t n)
{
    return n >= 16 ? 0xffff : n > 0 ? (1u << n) - 1 : 0;
}

/* Sixteen times sixteen words of 32 bits, turned. */
NATIVE_INLINE void turn(__m512i r[16])
{
    __m512i t[16];

#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

#endif

#endif /* WAN_CPU_AVX512_H */
