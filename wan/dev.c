/*
 * Devices: opening, the arena, the first error.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dev.h"
#include "ops.h"

#if defined(__SANITIZE_ADDRESS__)
#define WAN_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WAN_ASAN 1
#endif
#endif
#ifdef WAN_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n)     ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(p, n)   ((void)0)
#endif

/* Bytes; every tensor begins at a multiple. GPU libraries want theirs of
 * workspaces. */
#define ALIGN 64
#define DEVICE_ALIGN 256

/* "auto" is the first of them that is usable. */
static const WanBackend *const backends[] = {
#if WAN_HAVE_CUDA
    &wan_backend_cuda,
#endif
    &wan_backend_cpu, &wan_backend_cpu_bf16, &wan_backend_cpu_int8,
    &wan_backend_ref,
#if WAN_HAVE_CUDA
    &wan_backend_cuda_f32,
#endif
};
#define NB_BACKENDS ((int)(sizeof(backends) / sizeof(*backends)))

/* The number behind "name:", 0 where there is none, -1 where it is none. */
static int parse_index(const char *rest)
{
    int n = 0;

    if (!*rest)
        return 0;
    if (*rest++ != ':' || !*rest || strlen(rest) > 3)
        return -1;
    for (; *rest; rest++) {
        if (*rest < '0' || *rest > '9')
            return -1;
        n = n * 10 + *rest - '0';
    }
    return n;
}

static const WanBackend *look_up(const WanBackend *const *among, int nb,
                                 const char *name, int *index)
{
    *index = 0;
    for (int i = 0; i < nb; i++) {
        const WanBackend *b = among[i];
        const size_t n = strlen(b->name);

        if (!strcmp(name, "auto") && (!b->usable || b->usable(0, NULL) >= 0))
            return b;
        if (strncmp(name, b->name, n) || (name[n] && !b->device) ||
            (name[n] && name[n] != ':'))
            continue;
        *index = parse_index(name + n);
        return *index >= 0 ? b : NULL;
    }
    return NULL;
}

static void say_unknown(const char *name, const WanLog *log)
{
    if (!WAN_HAVE_CUDA && !strncmp(name, "cuda", 4))
        wan_log(log, WAN_LOG_ERROR, "device '%s': this build has no CUDA "
                "backend; use device=cpu", name);
    else
        wan_log(log, WAN_LOG_ERROR, "device '%s' is not known; there are "
                "auto, cpu%s and ref", name,
                WAN_HAVE_CUDA ? ", cuda, cuda:N" : "");
}

static const WanBackend *find_backend(const char *name, int *index,
                                      const WanLog *log)
{
    const WanBackend *b = look_up(backends, NB_BACKENDS, name, index);

    if (!b)
        say_unknown(name, log);
    return b;
}

int wan_dev_known(const char *name, const WanLog *log)
{
    int index;
    const WanBackend *b = find_backend(name, &index, log);

    return b && (!b->usable || b->usable(index, log) >= 0);
}

/* ------------------------------------------------------------ precision */

const char *wan_precision_name(enum WanPrecision p)
{
    static const char *const name[] = { "auto", "f32", "bf16", "int8" };

    return (unsigned)p <= WAN_PRECISION_INT8 ? name[p] : NULL;
}

/* Of a device's backends that with such products; NULL: it has none. */
static const WanBackend *with_products(const WanBackend *const *among, int nb,
                                       const WanBackend *device,
                                       enum WanPrecision p)
{
    const size_t n = strlen(device->name);

    for (int i = 0; i < nb; i++)
        if (!strncmp(among[i]->name, device->name, n) &&
            (!among[i]->name[n] || among[i]->name[n] == '-') &&
            among[i]->precision == p)
            return among[i];
    return NULL;
}

static int is_native(const WanBackend *b)
{
    return !b->native || b->native();
}

static int say_precisions(const WanBackend *const *among, int nb,
                          const WanBackend *device, enum WanPrecision asked,
                          const WanLog *log)
{
    char list[64] = "";
    size_t n = 0;

    for (int p = WAN_PRECISION_F32; p <= WAN_PRECISION_INT8; p++)
        if (with_products(among, nb, device, (enum WanPrecision)p))
            n += snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "",
                          wan_precision_name((enum WanPrecision)p));
    return wan_error(log, WAN_ERR(ENOSYS), "option precision: %s; device %s of "
                     "this build has %s", wan_precision_name(asked),
                     device->name, list);
}

int wan_dev_choose_among(WanChoice *out, const WanBackend *const *among,
                         int nb, const char *device,
                         enum WanPrecision precision, const WanLog *log)
{
    const WanBackend *b, *of, *bf16;
    const char *name;
    int index, native;

    if (!(of = look_up(among, nb, device, &index))) {
        say_unknown(device, log);
        return WAN_ERR(ENOSYS);
    }
    if (strchr(of->name, '-'))
        return wan_error(log, WAN_ERR(ENOSYS), "device '%s': use device=%.*s "
                         "with precision=%s", device,
                         (int)strcspn(of->name, "-"), of->name,
                         wan_precision_name(of->precision));
    bf16 = with_products(among, nb, of, WAN_PRECISION_BF16);
    b = precision ? with_products(among, nb, of, precision)
        : bf16 && is_native(bf16)
        ? bf16 : with_products(among, nb, of, WAN_PRECISION_F32);
    if (!b)
        return say_precisions(among, nb, of, precision, log);

    name = wan_precision_name(b->precision);
    native = is_native(b);
    *out = (WanChoice){ .precision = b->precision, .native = native };
    snprintf(out->name, sizeof(out->name), "%s%s", b->name,
             strchr(device, ':') ? strchr(device, ':') : "");
    if (!native)
        snprintf(out->why, sizeof(out->why), "%s works, but slower than f32: "
                 "this processor does not multiply it", name);
    else if (precision)
        snprintf(out->why, sizeof(out->why), "%s, as option precision says",
                 name);
    else if (!bf16)
        snprintf(out->why, sizeof(out->why), "%s, as device %s has no other",
                 name, of->name);
    else if (b == bf16)
        snprintf(out->why, sizeof(out->why), "%s, which this %s multiplies",
                 name, b->device ? "card" : "processor");
    else
        snprintf(out->why, sizeof(out->why), "%s, as this processor does not "
                 "multiply %s", name, wan_precision_name(bf16->precision));
    return 0;
}

int wan_dev_choose(WanChoice *out, const char *device,
                   enum WanPrecision precision, const WanLog *log)
{
    return wan_dev_choose_among(out, backends, NB_BACKENDS, device, precision,
                                log);
}

void wan_dev_say_choice(const WanChoice *c, const WanLog *log)
{
    wan_log(log, c->native ? WAN_LOG_INFO : WAN_LOG_WARNING, "precision: %s",
            c->why);
}

/* ---------------------------------------------------------------- names */

int wan_dev_threads(int asked)
{
    const int n = asked > 0 ? asked : (int)sysconf(_SC_NPROCESSORS_ONLN);

    return n > 1 ? n : 1;
}

int64_t wan_dev_available(const char *name, void *context)
{
    int index;
    const WanBackend *b = find_backend(name, &index, NULL);

    return b ? b->available(index, context) : INT64_MAX;
}

int wan_dev_e4m3(const char *name)
{
    int index;
    const WanBackend *b = find_backend(name, &index, NULL);

    return b && b->e4m3 && b->e4m3(index);
}

int wan_dev_of_rank(char *buf, size_t size, const char *name, int number,
                    const WanLog *log)
{
    int index;
    const WanBackend *b = find_backend(name, &index, log);

    if (!b)
        return WAN_ERR(ENOSYS);
    snprintf(buf, size, "%s", name);
    if (!b->join)
        return 0;
    if (!strchr(name, ':')) {
        if (number && b->usable(1, NULL) < 0)   // it was given one of its own
            number = 0;
        snprintf(buf, size, "%s:%d", b->name, number);
        index = number;
    }
    return b->usable(index, log) < 0 || b->joins(log) < 0 ? WAN_ERR(ENOSYS) : 0;
}

/* Host memory above the top of the stack is not to be touched. */
static void poison(const WanDev *d, void *p, int64_t bytes)
{
    if (!d->backend->device)
        ASAN_POISON_MEMORY_REGION(p, bytes);
    (void)p, (void)bytes;
}

static void unpoison(const WanDev *d, void *p, int64_t bytes)
{
    if (!d->backend->device)
        ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    (void)p, (void)bytes;
}

static int dev_open(WanDev **out, const char *name, int threads, int plan,
                    int64_t bytes, void *context, const WanLog *log)
{
    WanDev *d = calloc(1, sizeof(*d));
    int ret = 0;

    *out = NULL;
    if (!d)
        return wan_error_memory(log, name, "the device's state");
    d->backend = find_backend(name, &d->index, log);
    if (!d->backend) {
        free(d);
        return WAN_ERR(ENOSYS);
    }
    d->plan = plan;
    d->context = context;
    d->log = log;
    d->size = d->top = plan ? INT64_MAX : bytes;
    d->threads = wan_dev_threads(threads);

    if (!plan) {
        if (d->backend->open && (ret = d->backend->open(d)) < 0)
            goto fail;
        wan_dev_enter(d);
        d->base = d->backend->alloc(d, bytes);
        wan_dev_leave(d);
        if (!d->base) {
            ret = wan_error(log, WAN_ERR(ENOMEM), "device %s: no memory for "
                            "%.3g GB of work and what libraries take beside "
                            "it", name, bytes / 1e9);
            goto fail;
        }
        poison(d, d->base, bytes);
    }
    *out = d;
    return 0;
fail:
    wan_dev_close(&d);
    return ret;
}

int wan_dev_open(WanDev **out, const char *name, int threads, int64_t bytes,
                 const WanLog *log)
{
    return dev_open(out, name, threads, 0, bytes, NULL, log);
}

int wan_dev_open_in(WanDev **out, const char *name, int threads,
                    int64_t bytes, void *context, const WanLog *log)
{
    return dev_open(out, name, threads, 0, bytes, context, log);
}

int wan_dev_open_plan(WanDev **out, const char *name, int threads,
                      const WanLog *log)
{
    return dev_open(out, name, threads, 1, 0, NULL, log);
}

int wan_dev_join(WanDev *d)
{
    int ret;

    if (!d->ranks || !d->backend->join)
        return 0;
    wan_dev_enter(d);
    ret = d->backend->join(d);
    wan_dev_leave(d);
    return ret;
}

void wan_dev_close(WanDev **dp)
{
    WanDev *d = *dp;

    *dp = NULL;
    if (!d)
        return;
    if (d->base) {
        unpoison(d, d->base, d->size);
        wan_dev_enter(d);
        d->backend->free(d, d->base, d->size);
        wan_dev_leave(d);
    }
    if (!d->plan && d->backend->close)
        d->backend->close(d);
    free(d);
}

void wan_dev_fail(WanDev *d, int error, const char *fmt, ...)
{
    va_list ap;

    if (d->error)
        return;
    d->error = error;
    va_start(ap, fmt);
    vsnprintf(d->message, sizeof(d->message), fmt, ap);
    va_end(ap);
    if (error != WAN_CANCELLED)
        wan_log(d->log, WAN_LOG_ERROR, "%s", d->message);
}

void wan_dev_end(WanDev *d, int error)
{
    if (!d->error)
        d->error = error;
}

/* Bytes from the top of the arena; NULL under plan or when full. */
static void *take(WanDev *d, int64_t bytes)
{
    const int64_t align = d->backend->device ? DEVICE_ALIGN : ALIGN;
    const int64_t n = (bytes + align - 1) / align * align;
    void *p;

    if (d->error)
        return NULL;
    if (n > d->top - d->used) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "the arena of %.3f GB is full: %.3f "
                     "GB more were wanted", d->top / 1e9, bytes / 1e9);
        return NULL;
    }
    p = d->plan ? NULL : d->base + d->used;
    d->used += n;
    if (d->used > d->peak)
        d->peak = d->used;
    if (d->plan && d->pager)
        wan_pager_work(d->pager, d->used);
    if (p)
        unpoison(d, p, bytes);
    return p;
}

WanTensor wan_tmp_(WanDev *d, WanType type, int nb_dims, const int64_t *dim)
{
    WanTensor t = wan_tensor(NULL, type, nb_dims, dim);

    t.data = take(d, wan_count(&t) * wan_type_size(type));
    return t;
}

WanTensor wan_tmp_like(WanDev *d, const WanTensor *t)
{
    return wan_tmp_(d, t->type, t->nb_dims, t->dim);
}

void wan_release(WanDev *d, WanMark mark)
{
    if (d->base)
        poison(d, d->base + mark, d->used - mark);
    d->used = mark;
}

void wan_dev_stage(WanDev *d, int stage)
{
    if (!d->pager || d->error)
        return;
    if (d->plan) {
        wan_pager_stage(d->pager, stage);
        wan_pager_work(d->pager, d->used);
    } else {
        wan_dev_enter(d);
        d->backend->stage(d, stage);
        wan_dev_leave(d);
    }
}

void wan_dev_forget(WanDev *d)
{
    if (d->backend->forget && !d->plan) {
        wan_dev_enter(d);
        d->backend->forget(d);
        wan_dev_leave(d);
    }
}

void *wan_dev_shared_alloc(WanDev *d, int64_t bytes)
{
    void *p;

    if (!d->backend->shared_alloc)
        return malloc(bytes);
    wan_dev_enter(d);
    p = d->backend->shared_alloc(d, bytes);
    wan_dev_leave(d);
    return p;
}

void wan_dev_shared_free(WanDev *d, void *p)
{
    if (!d->backend->shared_free) {
        free(p);
        return;
    }
    wan_dev_enter(d);
    d->backend->shared_free(d, p);
    wan_dev_leave(d);
}

void wan_dev_wait(WanDev *d)
{
    if (d->backend->wait && !d->plan) {
        wan_dev_enter(d);
        d->backend->wait(d);
        wan_dev_leave(d);
    }
}

void wan_dev_repeat(WanDev *d)
{
    if (d->plan && d->pager)
        wan_pager_repeat(d->pager);
}

/* Whether ops may be left out: not where somebody looks at what they do, nor
 * where they exchange notes with other ranks, nor when it is all over. */
static int may_replay(const WanDev *d)
{
    return d->backend->replay && !d->plan && !d->op_by_op && !d->tap &&
           !d->trace && !d->ranks && !d->error && !wan_dev_cancelled(d);
}

int wan_dev_replay(WanDev *d, int key, int nb, const WanTensor *in)
{
    if (d->backend->replay && !d->plan && (d->replaying || may_replay(d))) {
        wan_dev_enter(d);
        d->replaying = d->backend->replay(d, key, nb, in);
        wan_dev_leave(d);
    } else {
        d->replaying = !d->replaying;
    }
    return d->replaying;
}

void wan_tap(WanDev *d, const WanTensor *t, const char *fmt, ...)
{
    char name[128];
    va_list ap;

    if (!d->tap || d->plan || d->error)
        return;
    va_start(ap, fmt);
    vsnprintf(name, sizeof(name), fmt, ap);
    va_end(ap);
    if (!d->backend->device) {
        d->tap(d->tap_opaque, name, t);
        return;
    }
    WanTensor host = wan_tensor(malloc(wan_count(t) * sizeof(float)), WAN_F32,
                                t->nb_dims, t->dim);
    if (!host.data) {
        wan_dev_fail(d, WAN_ERR(ENOMEM), "no memory for tap %s", name);
        return;
    }
    wan_dev_enter(d);
    d->backend->ops->download(d, host.data, t);
    wan_dev_leave(d);
    if (!d->error)
        d->tap(d->tap_opaque, name, &host);
    free(host.data);
}

void wan_section(WanDev *d, const char *fmt, ...)
{
    char line[128] = "# ";
    va_list ap;

    if (!d->trace)
        return;
    va_start(ap, fmt);
    vsnprintf(line + 2, sizeof(line) - 2, fmt, ap);
    va_end(ap);
    d->trace(d->trace_opaque, line);
}
