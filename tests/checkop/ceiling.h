/*
 * What a core can do at most: a loop of the instruction that products of a
 * precision are made of, on registers alone.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#if defined(__x86_64__)

#define CEILING_LOOPS 2000000

/* So many sums that do not wait for one another, of vectors of so many bytes. */
#define CEILING(name, features, bytes, sums, instruction)                     \
__attribute__((target(features), noinline)) static void ceiling_##name(void)  \
{                                                                             \
    typedef int Vector __attribute__((vector_size(bytes)));                   \
    Vector sum[sums] = { { 0 } }, x = { 0 };                                  \
                                                                              \
    for (int n = 0; n < CEILING_LOOPS; n++)                                   \
        _Pragma("GCC unroll 24")                                              \
        for (int i = 0; i < sums; i++)                                        \
            __asm__ volatile(instruction " %1, %1, %0"                        \
                             : "+v"(sum[i]) : "v"(x));                        \
}
CEILING(avx512, "avx512f", 64, 24, "vfmadd231ps")
CEILING(bf16, "avx512f,avx512bf16", 64, 24, "vdpbf16ps")
CEILING(vnni, "avx512f,avx512vnni", 64, 24, "vpdpbusd")
CEILING(avx2, "avx2,fma", 32, 12, "vfmadd231ps")

/* GFLOP/s of one core, the best of some passes; 0: not known here. */
static double ceiling(enum WanPrecision p)
{
    const int wide = __builtin_cpu_supports("avx512f");
    void (*loop)(void) = NULL;
    double best = 0, ops = 0;

    if (p == WAN_PRECISION_BF16 && wan_bf16_native())
        loop = ceiling_bf16, ops = 24 * 32 * 2.0;
    else if (p == WAN_PRECISION_INT8 && wan_int8_native())
        loop = ceiling_vnni, ops = 24 * 64 * 2.0;
    else if (p == WAN_PRECISION_F32 && wide)
        loop = ceiling_avx512, ops = 24 * 16 * 2.0;
    else if (p == WAN_PRECISION_F32 && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("avx2"))
        loop = ceiling_avx2, ops = 12 * 8 * 2.0;
    for (int pass = 0; pass < 5 && loop; pass++) {
        struct timespec a, b;
        double s;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        loop();
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        s = b.tv_sec - a.tv_sec + (b.tv_nsec - a.tv_nsec) * 1e-9;
        best = fmax(best, ops * CEILING_LOOPS / s * 1e-9);
    }
    return best;
}

#else

static double ceiling(enum WanPrecision p)
{
    (void)p;
    return 0;
}

#endif
