/*
 * Random numbers, and numbers of any float type, for the tests of ops and
 * kernels; C and C++.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_TEST_NUMBERS_H
#define WAN_TEST_NUMBERS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "../wan/ops.h"
#ifdef __cplusplus
}
#endif

static uint64_t test_seed = 1;

static inline uint32_t random_u32(void)
{
    test_seed = test_seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(test_seed >> 32);
}

/* About normal: twelve uniform numbers. */
static inline float random_normal(void)
{
    double s = -6;

    for (int i = 0; i < 12; i++)
        s += random_u32() * 0x1p-32;
    return (float)s;
}

/* Element i of a dense array of a type, and the value it can hold. */
static inline double typed_get(const void *p, WanType type, int64_t i)
{
    float f;

    wan_to_f32(&f, (const char *)p + i * wan_type_size(type), type, 1, 1);
    return f;
}

static inline float typed_set(void *p, WanType type, int64_t i, float v)
{
    uint16_t h;

    switch (type) {
    case WAN_F32:
        memcpy((char *)p + 4 * i, &v, 4);
        return v;
    case WAN_BF16:
        h = wan_f32_to_bf16(v);
        break;
    case WAN_F16:
        h = wan_f32_to_f16(v);
        break;
    default:
        abort();                // no test writes others
    }
    memcpy((char *)p + 2 * i, &h, 2);
    return (float)typed_get(p, type, i);
}

#endif /* WAN_TEST_NUMBERS_H */
