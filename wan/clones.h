/*
 * Copies of a function for each kind of machine.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * WAN_SIMD before a function makes the copies (x86-64 with glibc, whose
 * loader picks one); elsewhere it is the compiler's target. Helpers are
 * WAN_INLINE so that each copy holds its own. What has copies is static, as clang
 * calls it NAME.ifunc, and no two files give the same name to one, as its
 * choosers, NAME.resolver, are not static all the same.
 */

#ifndef WAN_CLONES_H
#define WAN_CLONES_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define WAN_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WAN_SANITIZED 1
#endif

/* Sanitizers start after the loader has chosen among copies: none there.
 * clang takes arch= to mean that very processor, so there features choose. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(WAN_SANITIZED) && \
    !defined(WAN_NO_CLONES) && !defined(__AVX2__)
#if defined(__clang__)
#define WAN_SIMD __attribute__((target_clones("avx512f", "avx2", \
                                              "default")))
#else
#define WAN_SIMD __attribute__((target_clones("arch=x86-64-v4", \
                                              "arch=x86-64-v3", "default")))
#endif
#else
#define WAN_SIMD
#endif

#define WAN_INLINE static inline __attribute__((always_inline))

#endif /* WAN_CLONES_H */
