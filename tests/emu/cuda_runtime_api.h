/*
 * The part of CUDA's runtime that kernels' launchers use, on the host: memory
 * is memory, a stream does things at once.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Found instead of the toolkit's header when tests/emu is compiled.
 */

#ifndef WAN_EMU_CUDA_RUNTIME_API_H
#define WAN_EMU_CUDA_RUNTIME_API_H

#include <stddef.h>
#include <string.h>

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef int cudaError_t;
enum { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost,
                      cudaMemcpyDeviceToDevice, cudaMemcpyDefault };

static inline cudaError_t cudaMemcpyAsync(void *y, const void *x, size_t n,
                                          enum cudaMemcpyKind kind,
                                          cudaStream_t s)
{
    (void)kind, (void)s;
    memcpy(y, x, n);
    return cudaSuccess;
}

static inline cudaError_t cudaMemcpy2DAsync(void *y, size_t y_pitch,
                                            const void *x, size_t x_pitch,
                                            size_t width, size_t height,
                                            enum cudaMemcpyKind kind,
                                            cudaStream_t s)
{
    (void)kind, (void)s;
    if (width > y_pitch || width > x_pitch)
        return 1;
    for (size_t i = 0; i < height; i++)
        memcpy((char *)y + i * y_pitch, (const char *)x + i * x_pitch, width);
    return cudaSuccess;
}

static inline cudaError_t cudaMemsetAsync(void *p, int v, size_t n,
                                          cudaStream_t s)
{
    (void)s;
    memset(p, v, n);
    return cudaSuccess;
}

enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost,
                      cudaMemoryTypeDevice, cudaMemoryTypeManaged };
struct cudaPointerAttributes { enum cudaMemoryType type; };

/* What a caller's planes are taken for: a test sets it. */
extern enum cudaMemoryType emu_memory_type;

static inline cudaError_t
cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p)
{
    (void)p;
    a->type = emu_memory_type;
    return cudaSuccess;
}

#endif /* WAN_EMU_CUDA_RUNTIME_API_H */
