/*
 * cudnn.c's choice of plans, with a library of our own in cuDNN's place and a
 * clock that it moves.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The stand-in offers four engines. What each takes, needs and does wrong is
 * said by the test; what was asked of it is counted.
 */

#include <dlfcn.h>
#include <stdarg.h>
#include <cudnn_graph.h>

#include "../test.h"
#include "../../wan/cuda/cudnn.h"

#define EXPORT __attribute__((visibility("default"), used))

/* ------------------------------------------------------------ stand-ins */

enum { ENGINES = 4 };
static struct Engine {
    double ms;
    int64_t workspace;
    int note;                   // a numerical note, -1: none
    int plan_fails, run_fails;
} engine[ENGINES];

static double clock_ms;
static int runs[ENGINES], plans, alive, out_of_memory, version = 91900, lines;
static char line[256];
static void *written;           // where the last run wrote
static char y[64], workspace[64];
static int to_y;                // runs that wrote there
static void *beside;            // memory from cudaMalloc

typedef struct Fake { int type, index; void *pointer[8]; } Fake;

EXPORT size_t cudnnGetVersion(void) { return version; }
EXPORT cudnnStatus_t cudnnCreate(cudnnHandle_t *h) { *h = (void *)8; return 0; }
EXPORT cudnnStatus_t cudnnDestroy(cudnnHandle_t h) { (void)h; return 0; }
EXPORT cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s)
{
    (void)h, (void)s;
    return 0;
}
EXPORT void cudnnGetLastErrorString(char *s, size_t n)
{
    snprintf(s, n, "because\nof this");
}

EXPORT cudnnStatus_t
cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t t,
                             cudnnBackendDescriptor_t *d)
{
    Fake *const f = calloc(1, sizeof(*f));

    f->type = t;
    *d = f;
    alive++;
    return 0;
}

EXPORT cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    alive--;
    free(d);
    return 0;
}

EXPORT cudnnStatus_t
cudnnBackendSetAttribute(cudnnBackendDescriptor_t d,
                         cudnnBackendAttributeName_t name,
                         cudnnBackendAttributeType_t t, int64_t n,
                         const void *v)
{
    Fake *const f = d;

    (void)t;
    if (name == CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)
        f->index = (*(Fake *const *)v)->index;
    if (name == CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)
        memcpy(f->pointer, v, n * sizeof(void *));
    return 0;
}

EXPORT cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d)
{
    const Fake *const f = d;

    if (f->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
        return 0;
    plans++;
    return engine[f->index].plan_fails ? CUDNN_STATUS_NOT_SUPPORTED : 0;
}

EXPORT cudnnStatus_t
cudnnBackendGetAttribute(cudnnBackendDescriptor_t const d,
                         cudnnBackendAttributeName_t name,
                         cudnnBackendAttributeType_t t, int64_t max,
                         int64_t *n, void *v)
{
    const Fake *const f = d;

    (void)t, (void)max;
    *n = 1;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS)
        for (*n = 0; *n < ENGINES; ++*n)
            ((Fake **)v)[*n]->index = (int)*n;
    else if (name == CUDNN_ATTR_ENGINECFG_ENGINE)
        (*(Fake **)v)->index = f->index;
    else if (name == CUDNN_ATTR_ENGINE_GLOBAL_INDEX)
        *(int64_t *)v = 100 + f->index;
    else if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE)
        *n = engine[f->index].note >= 0,
        *(cudnnBackendNumericalNote_t *)v = engine[f->index].note;
    else
        *(int64_t *)v = engine[f->index].workspace;
    return 0;
}

EXPORT cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h,
                                         cudnnBackendDescriptor_t p,
                                         cudnnBackendDescriptor_t pack)
{
    const int i = ((Fake *)p)->index;

    (void)h;
    if (engine[i].run_fails)
        return CUDNN_STATUS_EXECUTION_FAILED;
    runs[i]++;
    clock_ms += engine[i].ms;
    written = ((Fake *)pack)->pointer[3];
    to_y += written == y;
    return 0;
}

cudaError_t cudaEventCreate(cudaEvent_t *e) { *e = calloc(1, 8); return 0; }
cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); return 0; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    (void)s;
    *(double *)e = clock_ms;
    return 0;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) { (void)e; return 0; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)
{
    *ms = (float)(*(double *)b - *(double *)a);
    return 0;
}
cudaError_t cudaMalloc(void **p, size_t n)
{
    if (out_of_memory)
        return cudaErrorMemoryAllocation;
    *p = beside = malloc(n);
    return 0;
}
cudaError_t cudaFree(void *p) { free(p); return 0; }
cudaError_t cudaGetLastError(void) { return 0; }

void *wan_cuda_library(int n, const char *const *names)
{
    return n == 1 && !strcmp(names[0], "libcudnn.so.9") ? dlopen(NULL, RTLD_NOW)
                                                        : NULL;
}

static int forgotten;
void wan_cuda_replay_forget(WanDev *d) { (void)d; forgotten++; }

int wan_cuda_check(WanDev *d, int ok, const char *what, const char *text)
{
    if (!ok) {
        d->error = WAN_ERR(EIO);
        snprintf(d->message, sizeof(d->message), "%s: %s", what, text);
    }
    return ok;
}

static void print_log(void *opaque, enum WanLogLevel level, const char *text)
{
    (void)opaque, (void)level;
    lines++;
    snprintf(line, sizeof(line), "%s", text);
}

/* ---------------------------------------------------------------- cases */

static const WanLog logger = { print_log, NULL, WAN_LOG_VERBOSE };
static WanCuda cuda;
static WanDev dev;
static double rival_ms;
static int rival_runs;

static void rival(const void *opaque, void *to, cudaStream_t s)
{
    (void)opaque, (void)s;
    rival_runs++;
    clock_ms += rival_ms;
    written = to;
}

static void begin(void)
{
    for (int i = 0; i < ENGINES; i++) {
        engine[i] = (struct Engine){ 4 - i, 32, -1, 0, 0 };
        runs[i] = 0;
    }
    memset(&cuda, 0, sizeof(cuda));
    memset(&dev, 0, sizeof(dev));
    dev.tune = 1;
    dev.priv = &cuda;
    dev.log = &logger;
    to_y = plans = alive = out_of_memory = lines = rival_runs = 0;
    forgotten = 0;
    version = 91900;
    rival_ms = 0;
}

static int use(int64_t tokens, int in_place)
{
    const WanCudnnOp op = { .kind = WAN_CUDNN_SDPA, .type = WAN_BF16,
                            .heads = 1, .size = 64, .lq = tokens,
                            .lk = tokens };
    const WanCudnnData data = { .y = y, .workspace = workspace,
                                .workspace_bytes = sizeof(workspace) };

    return wan_cudnn_run(&dev, &op, &data, sizeof(y), in_place,
                         rival_ms ? rival : NULL, NULL);
}

static void end(void)
{
    wan_cudnn_close(&cuda.cudnn);
    CHECKF(alive == 0, "%d descriptors left", alive);
}

TEST(the_fastest_from_the_eighth_use)
{
    begin();
    for (int i = 0; i < 7; i++)
        CHECK(use(10, 0) == 1);
    CHECK(plans == 1 && runs[0] == 7);
    cuda.recording = 1;         // no time for it: nothing runs
    CHECK(use(10, 0) == 1 && plans == 1 && !forgotten);
    cuda.recording = 0;
    CHECK(use(10, 0) == 1);
    CHECK(forgotten == 1);      // graphs may have the first plan's kernels
    CHECK(plans == 5 && runs[1] && runs[2] && runs[3] && written == y);
    const int before = runs[3];
    CHECK(use(10, 0) == 1 && runs[3] == before + 1 && plans == 5);
    CHECK(use(11, 0) == 1 && plans == 6);       // another shape
    CHECK(!dev.error);
    end();
}

TEST(the_first_without_tuning)
{
    begin();
    dev.tune = 0;
    for (int i = 0; i < 20; i++)
        CHECK(use(10, 0) == 1);
    CHECK(plans == 1 && runs[0] == 20);
    dev.tune = 1;
    CHECK(use(10, 0) == 1 && plans == 5 && runs[3]);
    end();
}

TEST(what_is_not_taken)
{
    begin();
    engine[0].workspace = 65;                   // more than there is
    engine[1].plan_fails = 1;
    engine[3].note = CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
    for (int i = 0; i < 9; i++)
        CHECK(use(10, 0) == 1);
    CHECK(!runs[0] && !runs[1] && runs[2] >= 9 && !runs[3]);
    end();

    begin();
    for (int i = 0; i < ENGINES; i++)
        engine[i].plan_fails = 1;
    CHECK(use(10, 0) == 0 && use(10, 0) == 0 && !dev.error);
    CHECK(plans == ENGINES);                    // asked once
    CHECKF(strstr(line, "because") && !strchr(line, '\n'), "%s", line);
    end();
}

TEST(in_place_is_timed_beside)
{
    begin();
    for (int i = 0; i < 7; i++)
        use(10, 1);
    engine[3].ms = 0.5;
    use(10, 1);
    CHECK(beside && written == y && runs[3] > 2 && to_y == 8);
    end();

    begin();
    out_of_memory = 1;
    for (int i = 0; i < 9; i++)
        CHECK(use(10, 1) == 1);
    CHECK(runs[0] == 9 && !runs[3] && !dev.error);      // the first offered
    end();
}

TEST(a_rival)
{
    begin();
    rival_ms = 0.9;                             // the best engine takes 1
    for (int i = 0; i < 7; i++)
        CHECK(use(10, 0) == 1);
    CHECK(use(10, 0) == 0 && use(10, 0) == 0 && rival_runs > 1);
    end();

    begin();
    rival_ms = 1.1;
    for (int i = 0; i < 9; i++)
        CHECK(use(10, 0) == 1);
    CHECK(rival_runs > 1);
    end();
}

TEST(runs_that_fail)
{
    begin();
    engine[0].run_fails = 1;                    // from the first: not used
    CHECK(use(10, 0) == 0 && use(10, 0) == 0 && !dev.error);
    end();

    begin();
    CHECK(use(10, 0) == 1);
    engine[0].run_fails = 1;                    // later: the device failed
    CHECK(use(10, 0) == 1 && dev.error);
    CHECKF(strstr(dev.message, "cuDNN attention: execute: status"), "%s",
           dev.message);
    end();

    begin();
    engine[3].run_fails = 1;                    // while timing: another wins
    for (int i = 0; i < 9; i++)
        CHECK(use(10, 0) == 1);
    CHECK(!runs[3] && runs[2] >= 4 && !dev.error);
    end();
}

TEST(too_old)
{
    begin();
    version = 91300;
    CHECK(use(10, 0) == 0 && use(10, 0) == 0 && !dev.error);
    CHECKF(lines == 1 && strstr(line, "9.13.0 is too old"), "%d lines, %s",
           lines, line);
    end();
}

int main(void)
{
    RUN(the_fastest_from_the_eighth_use);
    RUN(the_first_without_tuning);
    RUN(what_is_not_taken);
    RUN(in_place_is_timed_beside);
    RUN(a_rival);
    RUN(runs_that_fail);
    RUN(too_old);
    return test_end();
}
