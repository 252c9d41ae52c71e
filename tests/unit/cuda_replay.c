/*
 * replay.c on a runtime that is made up: a stream does at once what it is
 * given, or records it.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * What counts is what the stream did in the end: the same launches in the same
 * order, each once, whatever was recorded, replayed, or failed on the way.
 */

#include <math.h>
#include <stdio.h>

#include "../../wan/cuda/replay.c"
#include "test.h"

/* --------------------------------------------------------- made-up runtime */

#define MOST 4096

typedef struct Launches { int id[MOST], nb; } Launches;

struct Stream { int recording; };
struct Graph { Launches l; };

static struct Stream stream;
static Launches done, recorded;
static int graphs, execs, begun, launched;  // alive; calls
/* The n-th call of each that fails, counted on; 0: none. */
static struct { int begin, end, instantiate, launch, op; } fails;

static int bad(int *countdown)
{
    return *countdown && !--*countdown;
}

static void put(Launches *l, int id)
{
    if (l->nb < MOST)
        l->id[l->nb++] = id;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m)
{
    begun++;
    CHECK(m == cudaStreamCaptureModeThreadLocal && !s->recording);
    if (bad(&fails.begin))
        return cudaErrorMemoryAllocation;
    s->recording = 1;
    recorded.nb = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    CHECK(s->recording);
    s->recording = 0;
    *g = NULL;
    if (bad(&fails.end))
        return cudaErrorMemoryAllocation;
    *g = malloc(sizeof(**g));
    (*g)->l = recorded;
    graphs++;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g,
                                 unsigned long long flags)
{
    (void)flags;
    if (bad(&fails.instantiate))
        return cudaErrorMemoryAllocation;
    *e = malloc(sizeof(**e));
    **e = *g;
    execs++;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
    launched++;
    CHECK(!s->recording);
    if (bad(&fails.launch))
        return cudaErrorMemoryAllocation;
    for (int i = 0; i < e->l.nb; i++)
        put(&done, e->l.id[i]);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    graphs--;
    free(g);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
    execs--;
    free(e);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    CHECK(!s->recording);
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t e)
{
    (void)e;
    return "made up";
}

/* weights.c's part */
static int weights_stay;
static int64_t turn;

int wan_cuda_weights_stay(WanDev *d) { (void)d; return weights_stay; }
int64_t wan_cuda_weights_turn(WanDev *d) { (void)d; return turn; }
void wan_cuda_weights_skip(WanDev *d, int64_t n) { (void)d; turn += n; }

/* ----------------------------------------------------------------- fixture */

#define STRETCHES 5
#define OPS 4

static WanDev dev;
static WanBackend backend;
static WanCuda cuda;
static WanTensor in[2];
static int issues, lines, errors;
static double op_flops;
static char line[256];

static void keep(void *opaque, enum WanLogLevel level, const char *text)
{
    (void)opaque;
    lines++;
    errors += level <= WAN_LOG_WARNING;
    snprintf(line, sizeof(line), "%s", text);
}
static const WanLog a_log = { keep, NULL, WAN_LOG_DEBUG };

static void begin_test(void)
{
    static float data[2][8];

    backend = (WanBackend){ .name = "made up", .replay = wan_cuda_replay };
    cuda = (WanCuda){ .stream = &stream };
    dev = (WanDev){ .backend = &backend, .priv = &cuda, .log = &a_log,
                    .used = 256 };
    memset(&fails, 0, sizeof(fails));
    in[0] = wan_tensor_of(data[0], WAN_F32, 2, 4);
    in[1] = wan_tensor_of(data[1], WAN_BF16, 8);
    issues = lines = errors = begun = launched = 0;
    turn = 0;
    weights_stay = 1;
    op_flops = 10;
}

static void end_test(void)
{
    wan_cuda_replay_close(&dev);
    CHECKF(!execs && !graphs, "%d, %d not freed", execs, graphs);
    CHECK(!stream.recording && !cuda.recording && !cuda.replay);
    CHECK(dev.log == &a_log);
}

/* The ops of a stretch: launches, work and uses of weights are counted. */
static void issue(int key)
{
    issues++;
    for (int i = 0; i < OPS && !dev.error; i++) {
        if (wan_dev_cancelled(&dev)) {
            wan_dev_fail(&dev, WAN_CANCELLED, "cancelled");
            return;
        }
        if (stream.recording && bad(&fails.op)) {
            wan_dev_fail(&dev, WAN_ERR(EIO), "not while recording");
            return;
        }
        put(stream.recording ? &recorded : &done, OPS * key + i);
        dev.flops += op_flops;
        dev.bytes += 3;
        turn += 2;
    }
}

/* All stretches once, as a step of the transformer does them. */
static int round_of(void)
{
    const double flops = dev.flops, bytes = dev.bytes;
    int good;

    done.nb = 0;
    for (int key = 0; key < STRETCHES; key++)
        while (wan_dev_replay(&dev, key, 2, in))
            issue(key);
    good = CHECKF(done.nb == STRETCHES * OPS, "%d launches", done.nb);
    for (int i = 0; i < done.nb; i++)
        good &= done.id[i] == i;
    CHECKF(good, "launches are others");
    CHECK(dev.flops - flops == op_flops * STRETCHES * OPS);
    CHECK(dev.bytes - bytes == 3. * STRETCHES * OPS);
    return good && !dev.error && !dev.replaying;
}

/* ------------------------------------------------------------------- tests */

TEST(the_third_time_it_is_replayed)
{
    begin_test();
    for (int round = 0; round < 6; round++) {
        CHECK(round_of());
        CHECKF(issues == STRETCHES * (round < 2 ? round + 1 : 2),
               "round %d: issued %d times", round, issues);
        CHECK(turn == 2 * STRETCHES * OPS * (round + 1));
    }
    CHECK(begun == STRETCHES && execs == STRETCHES && !graphs);
    CHECK(launched == 5 * STRETCHES && !lines);
    end_test();
}

TEST(what_changes_is_recorded_anew)
{
    static float other[8];

    for (int what = 0; what < 7; what++) {
        begin_test();
        for (int round = 0; round < 3; round++)
            CHECK(round_of());
        issues = begun = 0;
        switch (what) {
        case 0: in[0].data = other; break;
        case 1: in[1].dim[0] = 7; in[1].pitch = 7; break;
        case 2: in[0].pitch = 8; break;
        case 3: in[1].type = WAN_F16; break;
        case 4: dev.used += 64; break;
        case 5: wan_cuda_replay_forget(&dev); break;
        case 6: in[0].nb_dims = 1; break;
        }
        for (int round = 0; round < 4; round++)
            CHECK(round_of());
        CHECKF(issues == 2 * STRETCHES && begun == STRETCHES,
               "change %d: issued %d times, recorded %d", what, issues, begun);
        end_test();
    }
}

static void on_line(void *opaque, const char *text) { (void)opaque, (void)text; }
static void on_tap(void *opaque, const char *name, const WanTensor *t)
{
    (void)opaque, (void)name, (void)t;
}

/* Whoever looks at ops sees them, pages that move are not remembered, and other
 * ranks get their notes. */
TEST(not_while_somebody_looks)
{
    static WanRanks ranks;

    for (int what = 0; what < 5; what++) {
        begin_test();
        for (int round = 0; round < 3; round++)
            CHECK(round_of());
        issues = begun = launched = 0;
        dev.tap = what == 0 ? on_tap : NULL;
        dev.trace = what == 1 ? on_line : NULL;
        dev.op_by_op = what == 2;
        weights_stay = what != 3;
        dev.ranks = what == 4 ? &ranks : NULL;
        for (int round = 0; round < 3; round++)
            CHECK(round_of());
        CHECK(issues == 3 * STRETCHES && !begun && !launched);
        end_test();
    }
}

/* A cancelled job is to end soon: only what is short is one launch. */
TEST(not_what_takes_long)
{
    for (int more = 0; more < 2; more++) {
        begin_test();
        op_flops = WAN_CUDA_PACE_FLOPS / OPS * (1 + more);
        for (int round = 0; round < 4; round++)
            CHECK(round_of());
        CHECK(issues == STRETCHES * (more ? 4 : 2));
        end_test();
    }
}

/* Each failure costs one more issue of a stretch, none fails the job; three,
 * and it is left. */
TEST(failures_cost_an_issue)
{
    for (int what = 0; what < 5; what++)
        for (int times = 1; times < 5; times++) {
            begin_test();
            for (int round = 0; round < 7; round++) {
                if (round && round <= times) {
                    /* a launch of what was recorded, at last */
                    fails.begin = what == 0;
                    fails.end = what == 1;
                    fails.instantiate = what == 2;
                    fails.launch = what == 3;
                    fails.op = 3 * (what == 4);
                }
                CHECKF(round_of(), "failure %d, round %d: %s", what, round,
                       dev.message);
                memset(&fails, 0, sizeof(fails));
            }
            CHECKF(lines == 1 && !errors && strstr(line, "op by op"),
                   "%d lines, %d errors: %s", lines, errors, line);
            /* what was recorded is still replayed after the third */
            CHECK(cuda.replay->failures == (times < 3 || what == 3 ? times
                                                                   : 3));
            begun = 0;
            wan_cuda_replay_forget(&dev);
            CHECK(round_of() && round_of());
            CHECKF(begun == (times < 3 ? STRETCHES : 0), "recorded %d", begun);
            end_test();
        }
}

/* In the middle of a recording: nothing of it is launched. */
TEST(cancelled)
{
    begin_test();
    CHECK(round_of());
    done.nb = issues = 0;
    for (int key = 0; key < STRETCHES; key++)
        while (wan_dev_replay(&dev, key, 2, in)) {
            if (key == 2)
                wan_dev_cancel(&dev);
            issue(key);
        }
    CHECK(dev.error == WAN_CANCELLED && done.nb == 2 * OPS && !lines);
    CHECK(issues == STRETCHES && !dev.replaying && execs == 2);
    end_test();

    /* and before what would be replayed */
    begin_test();
    for (int round = 0; round < 3; round++)
        CHECK(round_of());
    done.nb = 0;
    wan_dev_cancel(&dev);
    while (wan_dev_replay(&dev, 0, 2, in))
        issue(0);
    CHECK(dev.error == WAN_CANCELLED && !done.nb);
    end_test();
}

/* Devices that remember nothing do it once. */
TEST(others)
{
    begin_test();
    backend.replay = NULL;
    for (int round = 0; round < 3; round++)
        CHECK(round_of());
    CHECK(issues == 3 * STRETCHES && !begun);
    backend.replay = wan_cuda_replay;
    dev.plan = 1;
    CHECK(round_of());
    CHECK(!begun && !cuda.replay);
    end_test();
}

int main(void)
{
    RUN(the_third_time_it_is_replayed);
    RUN(what_changes_is_recorded_anew);
    RUN(not_while_somebody_looks);
    RUN(not_what_takes_long);
    RUN(failures_cost_an_issue);
    RUN(cancelled);
    RUN(others);
    return test_end();
}
