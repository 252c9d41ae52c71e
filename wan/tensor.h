/*
 * A view of numbers: where, of which type, in which shape.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * Shapes are written slowest dimension first. All dimensions but the second
 * last ("rows") are dense: element [.., r, c] of a tensor lies at
 * data + (row * pitch + c) * size, where row counts all leading dimensions in
 * order and pitch >= dim[nb_dims - 1]. Code that treats a tensor as a matrix
 * sees wan_rows() x wan_cols(). Of a type in blocks, whole blocks alone have a
 * place: that of wan_type_bytes(). A tensor owns nothing.
 */

#ifndef WAN_TENSOR_H
#define WAN_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#define WAN_MAX_DIMS 5

typedef enum WanType {
    WAN_F32, WAN_F16, WAN_BF16, WAN_F8_E4M3, WAN_F8_E5M2,
    WAN_F64, WAN_I64, WAN_I32, WAN_I16, WAN_I8, WAN_U8, WAN_BOOL,
    /* In blocks of 32 or 256 along a row, see formats/blocks.c: of weights
     * alone, whose rows are whole blocks. */
    WAN_Q4_0, WAN_Q4_1, WAN_Q5_0, WAN_Q5_1, WAN_Q8_0, WAN_IQ4_NL,
    WAN_Q2_K, WAN_Q3_K, WAN_Q4_K, WAN_Q5_K, WAN_Q6_K, WAN_IQ4_XS,
    WAN_NB_TYPES
} WanType;

typedef struct WanTensor {
    void *data;         // host or device; NULL under the plan backend
    WanType type;
    int nb_dims;        // 0: absent (an optional weight that is not there)
    int64_t dim[WAN_MAX_DIMS];
    int64_t pitch;      // elements from one row to the next
} WanTensor;

/* Elements of a block: 1, but for the types in blocks. */
static inline int wan_type_block(WanType type)
{
    return type < WAN_Q4_0 ? 1 : type < WAN_Q2_K ? 32 : 256;
}

/* Bytes of a block: of one element, but for the types in blocks. */
static inline int wan_type_size(WanType type)
{
    static const unsigned char size[WAN_NB_TYPES] = {
        4, 2, 2, 1, 1, 8, 8, 4, 2, 1, 1, 1,
        18, 20, 22, 24, 34, 18, 84, 110, 144, 176, 210, 136,
    };
    return size[type];
}

/* Bytes of n elements, whole blocks of them. */
static inline int64_t wan_type_bytes(WanType type, int64_t n)
{
    return n / wan_type_block(type) * wan_type_size(type);
}

/* "F32", "BF16", ..., "Q4_K": the words of safetensors and GGUF. */
const char *wan_type_name(WanType type);

/* Columns: the last dimension. */
static inline int64_t wan_cols(const WanTensor *t)
{
    return t->nb_dims ? t->dim[t->nb_dims - 1] : 0;
}

/* Rows: the product of all dimensions but the last. */
static inline int64_t wan_rows(const WanTensor *t)
{
    int64_t n = t->nb_dims > 0;

    for (int i = 0; i < t->nb_dims - 1; i++)
        n *= t->dim[i];
    return n;
}

static inline int64_t wan_count(const WanTensor *t)
{
    return wan_rows(t) * wan_cols(t);
}

/* Row i of an f32 tensor in host memory. */
static inline float *wan_row(const WanTensor *t, int64_t i)
{
    return (float *)t->data + i * t->pitch;
}

/* A dense tensor over data, which may be NULL. */
WanTensor wan_tensor(void *data, WanType type, int nb_dims,
                     const int64_t *dim);

/* wan_tensor_of(p, WAN_F32, L, C) */
#define wan_tensor_of(data, type, ...) \
    wan_tensor((data), (type), \
               (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
               (const int64_t[]){__VA_ARGS__})

/* n slices of the first dimension, from i on. */
WanTensor wan_slice(const WanTensor *t, int64_t i, int64_t n);

/* Columns [c, c + n) of every row; the pitch stays. */
WanTensor wan_columns(const WanTensor *t, int64_t c, int64_t n);

/* The same elements in another shape; t must be dense, or the last
 * dimension must stay. */
#define wan_reshape(t, ...) \
    wan_reshape_((t), \
                 (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                 (const int64_t[]){__VA_ARGS__})
WanTensor wan_reshape_(const WanTensor *t, int nb_dims, const int64_t *dim);

/* One element as float; exact for all types but F64 and the integers. */
float wan_f16_to_f32(uint16_t h);
uint16_t wan_f32_to_f16(float f);   // to nearest even
static inline float wan_bf16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v = { (uint32_t)h << 16 };
    return v.f;
}
uint16_t wan_f32_to_bf16(float f);  // to nearest even
float wan_e4m3_to_f32(uint8_t v);
float wan_e5m2_to_f32(uint8_t v);

/* n elements from any float type, I8 or one in blocks (any alignment) to f32,
 * scaled. */
void wan_to_f32(float *dst, const void *src, WanType type, int64_t n,
                float scale);

/* n elements from f32 to F32, F16, BF16 or blocks that wan_blocks_encoded()
 * knows, whole ones. */
void wan_from_f32(void *dst, WanType type, const float *src, int64_t n);

/* n elements, scaled, to e4m3: to nearest even, beyond 448 to 448. */
void wan_to_e4m3(uint8_t *dst, const float *src, int64_t n, float scale);

#endif /* WAN_TENSOR_H */
