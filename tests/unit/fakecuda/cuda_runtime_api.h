/*
 * The part of CUDA's runtime that weights.c, replay.c and nccl.c use, made up by
 * tests/unit/cuda_weights.c, where streams are threads, cuda_replay.c and
 * nccl_played.h.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_FAKE_CUDA_RUNTIME_API_H
#define WAN_FAKE_CUDA_RUNTIME_API_H

#include <stddef.h>

typedef struct Stream *cudaStream_t;
typedef struct Event *cudaEvent_t;
typedef enum cudaError { cudaSuccess, cudaErrorMemoryAllocation = 2,
                         cudaErrorNotReady = 600 } cudaError_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToDevice = 3 };
enum { cudaEventDisableTiming = 2, cudaEventBlockingSync = 1,
       cudaHostAllocDefault = 0 };

cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                            enum cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device);

typedef struct Graph *cudaGraph_t;
typedef struct Graph *cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal,
                             cudaStreamCaptureModeThreadLocal };

cudaError_t cudaStreamBeginCapture(cudaStream_t s,
                                   enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);

#endif /* WAN_FAKE_CUDA_RUNTIME_API_H */
