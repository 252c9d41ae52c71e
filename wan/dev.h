/*
 * WanDev: where one job computes. Backend, memory, first error, taps.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * A device has one arena, sized before work begins by running the same model
 * code on the plan backend. Memory is taken as a stack: wan_tmp() moves up,
 * wan_release() goes back to a mark. What lives for the whole job is taken
 * first. Ops return nothing; the device keeps its first error, later ops do
 * nothing, and whoever drives the model asks wan_dev_error() once a step.
 */

#ifndef WAN_DEV_H
#define WAN_DEV_H

#include "log.h"
#include "pager.h"
#include "ranks.h"
#include "tensor.h"

typedef struct WanDev WanDev;
typedef struct WanOps WanOps;       // ops.h: the table a backend fills

typedef struct WanBackend {
    const char *name;               // "cpu", "cpu-bf16", "cpu-int8", "ref",
                                    // "cuda", "cuda-f32"
    const WanOps *ops;
    WanType act;                    // of activations: wan_tmp_act()
    enum WanPrecision precision;    // of products
    int device;                     // arena memory is not the host's
    int hidden_rows;                // of a wide hidden layer, at a time
    int (*open)(WanDev *d);         // sets d->priv; may be NULL
    void (*close)(WanDev *d);       // takes half-opened devices; may be NULL
    /* 0, or why there is no such device, in a line; NULL: there is. */
    int (*usable)(int index, const WanLog *log);
    /* Whether its products' type is the machine's own; NULL: it is. */
    int (*native)(void);
    /* Bytes a device could have now, INT64_MAX: not known. */
    int64_t (*available)(int index, void *context);
    /* Arena memory, aligned to 64 bytes; NULL: there is not so much. */
    void *(*alloc)(WanDev *d, int64_t bytes);
    void (*free)(WanDev *d, void *p, int64_t bytes);
    /* Bytes and type of the device's copy of matrix w where it meets x, which
     * may be e4m3 or not, see WanLinear; NULL: weights are used where they
     * lie. */
    int64_t (*page_bytes)(const WanTensor *w, int e4m3, const WanTensor *x,
                          WanType *type);
    /* Whether that device multiplies in e4m3; 1 where it is not there, for
     * plans. NULL: none does. */
    int (*e4m3)(int index);
    /* A stage begins: d->pager has its order; with page_bytes. */
    void (*stage)(WanDev *d, int stage);
    /* Memory both sides can use; all that was asked for has happened. For
     * tests; NULL: the host's is the device's, and ops have happened. */
    void *(*shared_alloc)(WanDev *d, int64_t bytes);
    void (*shared_free)(WanDev *d, void *p);
    void (*wait)(WanDev *d);
    /* Copies of weights are not to be relied on; NULL: there are none. */
    void (*forget)(WanDev *d);
    /* As wan_dev_replay(), where d->replaying says whether the stretch has
     * begun; NULL: nothing is remembered. */
    int (*replay)(WanDev *d, int key, int nb, const WanTensor *in);
    /* Where arena memory of several ranks has a way of its own; else NULL, and
     * the ranks' transport carries it. Whether there could be, or why not, in a
     * line; a device's part of it, called by all ranks at once, with d->ranks;
     * how much device memory it takes beside the arena. */
    int (*joins)(const WanLog *log);
    int (*join)(WanDev *d);
    int64_t join_bytes;
    /* What was promised (wan_ranks_promise()), in order with other work: out[q]
     * to, in[q] from rank q; own parcels are copied. */
    void (*exchange)(WanDev *d, const WanParcel *out, const WanParcel *in);
    /* Around whatever the backend is asked for once it is open; may be NULL. */
    void (*enter)(WanDev *d);
    void (*leave)(WanDev *d);
} WanBackend;

/* What goes to other ranks while a device computes, and what it computes then. */
typedef struct WanUnseen {
    double sent, flops;
    int exchanges;
} WanUnseen;

struct WanDev {
    const WanBackend *backend;
    int index;                      // 1 in "cuda:1"
    void *context;                  // the caller's, or NULL
    int plan;                       // only count what the backend would do
    void *priv;                     // the backend's own
    const WanLog *log;
    int threads;                    // CPU threads, at least 1

    char *base;                     // the arena
    int64_t size, used, peak;       // bytes; size is INT64_MAX under plan
    int64_t top;                    // of the stack: above are weights
    WanPager *pager;                // not owned; NULL: none, weights come as
                                    // they are used and all stay

    void *scratch;                  // what the running op asked for with its
    int64_t scratch_bytes;          // _scratch entry in WanOps; 64-aligned

    int error;                      // the first one, 0: none
    char message[256];              // its line, without a newline
    int cancel;                     // set from any thread: wan_dev_cancel()

    int replaying;                  // inside of a stretch: wan_dev_replay()
    int op_by_op;                   // no stretch is remembered; for a bench
    int tune;                       // time what libraries suggest; else the
                                    // first, and the same bits every run

    /* Shows a named intermediate to a test; NULL: none. */
    void (*tap)(void *opaque, const char *name, const WanTensor *t);
    void *tap_opaque;

    /* One line an op, and one a section; NULL: none. */
    void (*trace)(void *opaque, const char *line);
    void *trace_opaque;

    WanRanks *ranks;                // who computes too; not owned; NULL: alone
    int halves;                     // 1: tokens are split within each half of
                                    // them, which has a branch of guidance
    double sent;                    // bytes to other ranks so far
    int exchanges;                  // with them
    WanUnseen behind;               // of these, and of the work

    struct { int64_t columns, rough, exact; } int8; // so far, atomic: columns
                                    // of weights in 8 bits, a thousand inputs of
                                    // each counted as one; those that would lose
                                    // too much; those that are not rounded, see
                                    // cpu/int8.h

    double flops;                   // 2 x multiply-adds of all ops so far
    double bytes;                   // of their operands, each once
};

/**
 * Open a device.
 *
 * @param name    of a backend, see wan_dev_choose(): "cpu", "cpu-bf16", "ref",
 *                "auto"; with CUDA in the build "cuda", "cuda:N", "cuda-f32"
 * @param threads 0: one a core
 * @param bytes   size of the arena
 * @return 0, WAN_ERR(ENOSYS): no such backend in this build, or no such
 *         device in this machine, the line says which there are;
 *         WAN_ERR(ENOMEM); WAN_ERR(EIO): the device failed
 */
int wan_dev_open(WanDev **out, const char *name, int threads, int64_t bytes,
                 const WanLog *log);

/* The same in the caller's CUcontext, see WanModelParams. */
int wan_dev_open_in(WanDev **out, const char *name, int threads,
                    int64_t bytes, void *context, const WanLog *log);

/* A device that computes nothing and counts what the one of that name would
 * need: peak has the bytes, flops the work. Tensors have no data. */
int wan_dev_open_plan(WanDev **out, const char *name, int threads,
                      const WanLog *log);
void wan_dev_close(WanDev **d);

/* The number of CPU threads that is meant: 0 is one a core. */
int wan_dev_threads(int asked);

/* Bytes a device could have now, INT64_MAX: not known. */
int64_t wan_dev_available(const char *name, void *context);

/* Whether a device multiplies in e4m3, see WanLinear. */
int wan_dev_e4m3(const char *name);

/* Whether this build and machine have such a device; logs a line if not. */
int wan_dev_known(const char *name, const WanLog *log);

/* What is opened for a device as users name it. */
typedef struct WanChoice {
    char name[32];                  // for wan_dev_open(): "cpu-bf16", "cuda:1"
    enum WanPrecision precision;    // of its products, never AUTO
    int native;                     // and the machine's own
    char why[80];                   // a line: what was chosen and why
} WanChoice;

/**
 * The backend for a device and a type of products. Backends of one device are
 * called "DEVICE" and "DEVICE-...", the latter by nobody outside. Whether there
 * is such a device in the machine is wan_dev_known()'s to say.
 *
 * @param device "auto", "cpu", "ref"; with CUDA in the build "cuda", "cuda:N"
 * @return 0, or WAN_ERR(ENOSYS): no such device, or none of that precision, in
 *         this build; the line says what can be
 */
int wan_dev_choose(WanChoice *out, const char *device,
                   enum WanPrecision precision, const WanLog *log);

/* The same among nb backends, "auto" is the first that is usable; for tests. */
int wan_dev_choose_among(WanChoice *out, const WanBackend *const *backends,
                         int nb, const char *device,
                         enum WanPrecision precision, const WanLog *log);

/* Say what was chosen; one that the machine can but slowly is a warning. */
void wan_dev_say_choice(const WanChoice *c, const WanLog *log);

/* "auto", "f32", "bf16", "int8"; NULL: it is none. */
const char *wan_precision_name(enum WanPrecision p);

/**
 * The device of one of some ranks, as it is called: where data goes from device
 * to device and name has no number, the card with that of the process on its
 * machine, or the only one that it sees.
 *
 * @param number of the process among those of its machine
 * @return 0, or WAN_ERR(ENOSYS): there is no such card, or no way between them;
 *         the line says what is missing
 */
int wan_dev_of_rank(char *buf, size_t size, const char *name, int number,
                    const WanLog *log);

/* d->ranks are about to exchange; all of them call it. 0, or an error, whose
 * line was said. */
int wan_dev_join(WanDev *d);

/* Record the first error; the message becomes its line. */
__attribute__((format(printf, 3, 4)))
void wan_dev_fail(WanDev *d, int error, const char *fmt, ...);

/* Record the first error, whose line was said. */
void wan_dev_end(WanDev *d, int error);

/* The ranks that split rows with this one, itself among them: all, or its
 * half. */
static inline WanTeam wan_team(const WanDev *d)
{
    const WanRanks *r = d->ranks;
    const int size = r ? r->size >> d->halves : 1;

    return (WanTeam){ r ? r->rank / size * size : 0, size };
}

/* Whether this process does what is not shared: texts, images, pictures. */
static inline int wan_is_host(const WanDev *d)
{
    return !d->ranks || !d->ranks->rank;
}

/* Which half this rank is in, 0 or 1. */
static inline int wan_half(const WanDev *d)
{
    return d->halves && wan_team(d).first > 0;
}

/* Of that many rows those of this rank: all, if it is alone. */
static inline WanShare wan_share(const WanDev *d, int64_t rows)
{
    return wan_share_of(wan_team(d), d->ranks ? d->ranks->rank : 0, rows);
}

/* Backend calls outside of ops: the device's context becomes current, and the
 * caller's again. */
static inline void wan_dev_enter(WanDev *d)
{
    if (d->backend->enter)
        d->backend->enter(d);
}
static inline void wan_dev_leave(WanDev *d)
{
    if (d->backend->leave)
        d->backend->leave(d);
}

/* The first error, or 0. */
static inline int wan_dev_error(const WanDev *d)
{
    return d->error;
}

/* Make running and later ops end with WAN_CANCELLED. Any thread. */
static inline void wan_dev_cancel(WanDev *d)
{
    __atomic_store_n(&d->cancel, 1, __ATOMIC_RELAXED);
}

/* For loops inside long ops: whether to stop now. Does not set the error;
 * the op table's front door does. */
static inline int wan_dev_cancelled(const WanDev *d)
{
    return __atomic_load_n(&d->cancel, __ATOMIC_RELAXED);
}

/* The job's next stage (enum WanStage) begins: its weights take the place of
 * the last stage's. */
void wan_dev_stage(WanDev *d, int stage);

/* Weights the device was shown have changed or gone. Not for jobs: a model's
 * never do. */
void wan_dev_forget(WanDev *d);

/* Memory that tests make tensors of, and that both sides can use: the host
 * after wan_dev_wait(). */
void *wan_dev_shared_alloc(WanDev *d, int64_t bytes);
void wan_dev_shared_free(WanDev *d, void *p);
void wan_dev_wait(WanDev *d);

/* What a stage does from here on it does again and again; for the plan. */
void wan_dev_repeat(WanDev *d);

#define WAN_REPLAY_TENSORS 20

/**
 * A stretch of work that comes again and again with the same tensors, step by
 * step: a device may remember what it launched for it and launch that as one.
 *
 *     while (wan_dev_replay(d, key, nb, in))
 *         ... the ops ...
 *
 * @param key which stretch it is
 * @param in  nb tensors, at most WAN_REPLAY_TENSORS: all that its ops read and
 *            write but for what they take from the arena themselves. Weights
 *            that follow from the key may be left out, as long as the device's
 *            weights do not change. Other arguments of the ops must follow
 *            from the shapes of these. Nothing of it may wait for the device.
 * @return 1: do the ops, then ask again; 0: they are done
 */
int wan_dev_replay(WanDev *d, int key, int nb, const WanTensor *in);

/* ----------------------------------------------------------- memory */

typedef int64_t WanMark;

/* Everything taken after the mark is given back by wan_release(). */
static inline WanMark wan_mark(const WanDev *d)
{
    return d->used;
}
void wan_release(WanDev *d, WanMark mark);

/* Uninitialised memory of that type and shape. When the arena is full the
 * device fails with WAN_ERR(ENOMEM) and the tensor has no data. */
WanTensor wan_tmp_(WanDev *d, WanType type, int nb_dims, const int64_t *dim);
#define wan_tmp_type(d, type, ...) \
    wan_tmp_((d), (type), \
             (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
             (const int64_t[]){__VA_ARGS__})

/* f32 of that shape: wan_tmp(d, L, C). */
#define wan_tmp(d, ...) wan_tmp_type((d), WAN_F32, __VA_ARGS__)
WanTensor wan_tmp_like(WanDev *d, const WanTensor *t);

/* An activation of that shape, in the backend's type: what is only ever read
 * by the ops that follow, and may be rounded. Residual streams, modulation,
 * time, latents and pixels are f32: wan_tmp(). */
#define wan_tmp_act(d, ...) wan_tmp_type((d), (d)->backend->act, __VA_ARGS__)

/* ------------------------------------------------------- inspection */

/* Show t as name to the tap, if there is one; f32 in host memory. */
__attribute__((format(printf, 3, 4)))
void wan_tap(WanDev *d, const WanTensor *t, const char *fmt, ...);

/* A heading in the op trace: "block 3". */
__attribute__((format(printf, 2, 3)))
void wan_section(WanDev *d, const char *fmt, ...);

extern const WanBackend wan_backend_ref, wan_backend_cpu;
extern const WanBackend wan_backend_cpu_bf16, wan_backend_cpu_int8;
extern const WanBackend wan_backend_cuda, wan_backend_cuda_f32;

#endif /* WAN_DEV_H */
