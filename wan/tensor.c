/*
 * Views of numbers, and the conversions between number formats.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <assert.h>
#include <string.h>

#include "formats/blocks.h"
#include "tensor.h"

const char *wan_type_name(WanType type)
{
    static const char *const name[WAN_NB_TYPES] = {
        "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2",
        "F64", "I64", "I32", "I16", "I8", "U8", "BOOL",
        "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL",
        "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS",
    };
    return (unsigned)type < WAN_NB_TYPES ? name[type] : "?";
}

WanTensor wan_tensor(void *data, WanType type, int nb_dims,
                     const int64_t *dim)
{
    WanTensor t = { .data = data, .type = type, .nb_dims = nb_dims };

    assert(nb_dims > 0 && nb_dims <= WAN_MAX_DIMS);
    memcpy(t.dim, dim, nb_dims * sizeof(*dim));
    t.pitch = dim[nb_dims - 1];
    return t;
}

WanTensor wan_slice(const WanTensor *t, int64_t i, int64_t n)
{
    WanTensor s = *t;
    int64_t rows = 1;   // of the matrix in one slice

    assert(i >= 0 && n >= 0 && i + n <= t->dim[0]);
    for (int k = 1; k < t->nb_dims - 1; k++)
        rows *= t->dim[k];
    s.dim[0] = n;
    if (t->nb_dims == 1)
        s.pitch = n;
    if (s.data) {
        const int64_t step = t->nb_dims == 1 ? 1 : rows * t->pitch;
        s.data = (char *)s.data + wan_type_bytes(t->type, i * step);
    }
    return s;
}

WanTensor wan_columns(const WanTensor *t, int64_t c, int64_t n)
{
    WanTensor s = *t;

    assert(c >= 0 && n > 0 && c + n <= wan_cols(t));
    s.dim[s.nb_dims - 1] = n;
    if (s.data)
        s.data = (char *)s.data + wan_type_bytes(t->type, c);
    return s;
}

WanTensor wan_reshape_(const WanTensor *t, int nb_dims, const int64_t *dim)
{
    WanTensor s = wan_tensor(t->data, t->type, nb_dims, dim);

    assert(wan_count(&s) == wan_count(t));
    if (wan_cols(&s) == wan_cols(t))
        s.pitch = t->pitch;
    else
        assert(t->pitch == wan_cols(t));
    return s;
}

static float bits(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

float wan_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    const int e = h >> 10 & 31;
    const uint32_t m = h & 0x3ff;

    if (!e)
        return m * 0x1p-24f * (sign ? -1 : 1);
    return bits(sign | (uint32_t)(e == 31 ? 255 : e + 112) << 23 | m << 13);
}

uint16_t wan_f32_to_f16(float f)
{
    uint32_t u, sign, rest;

    memcpy(&u, &f, sizeof(u));
    sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return sign | 0x7e00;
    if (u >= 0x477ff000)                    // rounds past 65504
        return sign | 0x7c00;
    if (u < 0x38800000) {                   // subnormal: units of 2^-24
        const float a = bits(u) * 0x1p24f;
        uint32_t n = (uint32_t)a;
        const float left = a - n;

        n += left > 0.5f || (left == 0.5f && (n & 1));
        return sign | n;
    }
    rest = u & 0x1fff;
    u = (u >> 13) - (112 << 10);
    u += rest > 0x1000 || (rest == 0x1000 && (u & 1));
    return sign | u;
}

uint16_t wan_f32_to_bf16(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    if ((u & 0x7fffffff) > 0x7f800000)
        return u >> 16 | 0x40;
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

float wan_e4m3_to_f32(uint8_t v)
{
    const int e = v >> 3 & 15, m = v & 7;
    const float sign = v & 0x80 ? -1 : 1;

    if ((v & 0x7f) == 0x7f)
        return bits(0x7fc00000);
    if (!e)
        return sign * m * 0x1p-9f;
    return sign * bits((uint32_t)(e + 120) << 23 | (uint32_t)m << 20);
}

float wan_e5m2_to_f32(uint8_t v)
{
    return wan_f16_to_f32((uint16_t)(v << 8));
}

void wan_to_f32(float *dst, const void *src, WanType type, int64_t n,
                float scale)
{
    const char *p = src;

    switch (type) {
    case WAN_F32:
        memcpy(dst, p, n * sizeof(*dst));
        break;
    case WAN_BF16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, 2);
            dst[i] = wan_bf16_to_f32(h);
        }
        break;
    case WAN_F16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, 2);
#ifdef __FLT16_MAX__
            _Float16 v;
            memcpy(&v, &h, 2);
            dst[i] = v;
#else
            dst[i] = wan_f16_to_f32(h);
#endif
        }
        break;
    case WAN_F8_E4M3:
        for (int64_t i = 0; i < n; i++)
            dst[i] = wan_e4m3_to_f32(p[i]);
        break;
    case WAN_F8_E5M2:
        for (int64_t i = 0; i < n; i++)
            dst[i] = wan_e5m2_to_f32(p[i]);
        break;
    case WAN_F64:
        for (int64_t i = 0; i < n; i++) {
            double v;
            memcpy(&v, p + 8 * i, 8);
            dst[i] = v;
        }
        break;
    case WAN_I8:
        for (int64_t i = 0; i < n; i++)
            dst[i] = (int8_t)p[i];
        break;
    default:
        wan_blocks_to_f32(dst, src, type, n);
    }
    if (scale != 1)
        for (int64_t i = 0; i < n; i++)
            dst[i] *= scale;
}

void wan_from_f32(void *dst, WanType type, const float *src, int64_t n)
{
    uint16_t *h = dst;

    switch (type) {
    case WAN_F32:
        memcpy(dst, src, n * sizeof(*src));
        break;
    case WAN_F16:
        for (int64_t i = 0; i < n; i++)
            h[i] = wan_f32_to_f16(src[i]);
        break;
    case WAN_BF16:
        for (int64_t i = 0; i < n; i++)
            h[i] = wan_f32_to_bf16(src[i]);
        break;
    default:
        wan_blocks_from_f32(dst, src, type, n);
    }
}

/* Without a branch: of whole matrices compilers make vectors. */
static inline uint8_t to_e4m3(float f)
{
    uint32_t u, tiny, v;

    memcpy(&u, &f, sizeof(u));
    const uint32_t sign = u >> 24 & 0x80;

    u &= 0x7fffffff;
    /* Below 2^-6 in units of 2^-9, which is the last bit of 2^14. */
    f = bits(u) + 0x1p14f;
    memcpy(&tiny, &f, sizeof(tiny));
    v = ((u + 0x7ffff + (u >> 20 & 1)) >> 20) - (120 << 3);
    v = v < 0x7e ? v : 0x7e;
    v = u < 0x3c800000 ? tiny - 0x46800000 : v;
    return (uint8_t)(sign | (u > 0x7f800000 ? 0x7f : v));
}

void wan_to_e4m3(uint8_t *dst, const float *src, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = to_e4m3(src[i] * scale);
}
