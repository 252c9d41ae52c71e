/*
 * Jobs for the ranks that are not the host.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi.h"
#include "cards.h"
#include "model.h"
#include "serve.h"

/* The strings of both structs. Their other pointers are set to NULL. */
static const size_t params_strings[] = {
    offsetof(WanModelParams, path), offsetof(WanModelParams, text_encoder),
    offsetof(WanModelParams, vae), offsetof(WanModelParams, tokenizer),
    offsetof(WanModelParams, clip), offsetof(WanModelParams, lora),
    offsetof(WanModelParams, device), offsetof(WanModelParams, model2),
    offsetof(WanModelParams, weights),
};
static const size_t request_strings[] = {
    offsetof(WanRequest, prompt), offsetof(WanRequest, negative_prompt),
    offsetof(WanRequest, cache_table), offsetof(WanRequest, preset),
};
#define NB(list) (sizeof(list) / sizeof(*list))

#define BEYOND(type, last) (sizeof(type) - WAN_LEAST(type, last))

_Static_assert(BEYOND(WanModelParams, reserved) < 8 &&
               BEYOND(WanRequest, clip) < 8,
               "a field is new: does it go to the other ranks?");

/* --------------------------------------------------------------- writing */

/* Pieces begin at multiples of 8, so that structs can be used in place. */
static int64_t padded(int64_t n)
{
    return (n + 7) / 8 * 8;
}

static void put(WanBytes *b, const void *data, int64_t n)
{
    static const char zeros[8];

    wan_put(b, &n, sizeof(n));
    wan_put(b, data, n);
    wan_put(b, zeros, padded(n) - n);
}

static void put_strings(WanBytes *b, const void *of, const size_t *at, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *s = *(const char *const *)((const char *)of + at[i]);

        put(b, s, s ? (int64_t)strlen(s) + 1 : 0);
    }
}

static void clear(void *of, const size_t *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        *(const char **)((char *)of + at[i]) = NULL;
}

void wan_put_params(WanBytes *b, const WanModelParams *p)
{
    WanModelParams own = *p;
    char cwd[4096] = "";

    if (!getcwd(cwd, sizeof(cwd)))
        *cwd = 0;
    clear(&own, params_strings, NB(params_strings));
    own.cuda_context = own.log_opaque = own.interrupted_opaque = NULL;
    own.log = NULL;
    own.interrupted = NULL;
    put(b, &own, sizeof(own));
    put(b, cwd, (int64_t)strlen(cwd) + 1);
    put_strings(b, p, params_strings, NB(params_strings));
}

static void put_image(WanBytes *b, const WanImage *img)
{
    WanImage own;

    if (img) {
        own = *img;
        memset(own.data, 0, sizeof(own.data));
        img = &own;
    }
    put(b, img, img ? sizeof(*img) : 0);
}

static void put_doubles(WanBytes *b, const double *list, int n)
{
    put(b, list, list ? n * (int64_t)sizeof(*list) : 0);
}

/* A control as this library knows it, which a request that was checked has. */
static WanControl control_of(const WanRequest *r, int i)
{
    WanControl own = { .size = 0 };

    wan_abi_in(&own, sizeof(own), r->controls[i], WAN_CONTROL_LEAST,
               "WanControl", &(WanLog){ 0 });
    return own;
}

static void longer(int64_t *most, const void *list, int n)
{
    if (list && n > *most)
        *most = n;
}

/* Which lists of images a request can have: video, clip, and three of each
 * control. */
enum { HAS_CONTROLS = 2, HAS = HAS_CONTROLS + 3 * WAN_CONTROLS };

/* Which there are, in the order of get_lists(); and room for the longest, which
 * whoever reads it makes all of them. */
static void put_lists(WanBytes *b, const WanRequest *r)
{
    uint8_t has[HAS] = { r->video != NULL, r->clip != NULL };
    int64_t most = 0;
    void *room;

    longer(&most, r->video, r->nb_video);
    longer(&most, r->clip, r->nb_clip);
    for (int i = 0; i < r->nb_controls; i++) {
        WanControl own = control_of(r, i);
        uint8_t *of = &has[HAS_CONTROLS + 3 * i];

        longer(&most, own.video, own.nb_frames);
        longer(&most, own.mask, own.nb_frames);
        longer(&most, own.references, own.nb_references);
        of[0] = own.video != NULL;
        of[1] = own.mask != NULL;
        of[2] = own.references != NULL;
        own.video = own.mask = own.references = NULL;
        put(b, &own, sizeof(own));
    }
    put(b, has, sizeof(has));
    if (!(room = calloc(most + 1, sizeof(void *))))
        b->failed = 1;
    else
        put(b, room, most * (int64_t)sizeof(void *));
    free(room);
}

void wan_put_request(WanBytes *b, const WanRequest *r)
{
    WanRequest own = *r;

    clear(&own, request_strings, NB(request_strings));
    own.timesteps = own.first_timesteps = NULL;
    own.image = own.last_image = NULL;
    own.video = own.clip = NULL;
    own.controls = NULL;
    put(b, &own, sizeof(own));
    put_strings(b, r, request_strings, NB(request_strings));
    put_doubles(b, r->timesteps, r->nb_timesteps);
    put_doubles(b, r->first_timesteps, r->nb_first_timesteps);
    put_image(b, r->image);
    put_image(b, r->last_image);
    put_lists(b, r);
}

/* --------------------------------------------------------------- reading */

typedef struct Reader {
    char *data;
    int64_t n, at;
    int bad;
} Reader;

/* The next piece; NULL: it is empty, or there is none. */
static void *get(Reader *r, int64_t *n)
{
    char *p = NULL;

    *n = 0;
    if (r->bad || r->n - r->at < 8) {
        r->bad = 1;
        return NULL;
    }
    memcpy(n, r->data + r->at, 8);
    r->at += 8;
    if (*n < 0 || *n > r->n - r->at || padded(*n) > r->n - r->at) {
        r->bad = 1;
        *n = 0;
        return NULL;
    }
    if (*n)
        p = r->data + r->at;
    r->at += padded(*n);
    return p;
}

static void get_struct(Reader *r, void *out, int64_t size)
{
    int64_t n;
    const void *p = get(r, &n);

    if (p && n == size)
        memcpy(out, p, size);
    else
        r->bad = 1;
}

static const char *get_string(Reader *r)
{
    int64_t n;
    const char *s = get(r, &n);

    if (s && s[n - 1]) {
        r->bad = 1;
        return NULL;
    }
    return s;
}

static void get_strings(Reader *r, void *of, const size_t *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        *(const char **)((char *)of + at[i]) = get_string(r);
}

static const WanImage *get_image(Reader *r, WanImage *own)
{
    int64_t n;
    const void *p = get(r, &n);

    if (!p)
        return NULL;
    if (n != sizeof(*own)) {
        r->bad = 1;
        return NULL;
    }
    memcpy(own, p, sizeof(*own));
    return own;
}

static const double *get_doubles(Reader *r, int n)
{
    int64_t bytes;
    const double *list = get(r, &bytes);

    if (list && bytes != n * (int64_t)sizeof(*list))
        r->bad = 1;
    return list;
}

/* The list for n images, if there was one. */
static const WanImage *const *list_for(Reader *r, const WanImage *const *list,
                                       int64_t most, int has, int n)
{
    if (!has)
        return NULL;
    r->bad |= n < 0 || n > most;
    return list;
}

static void get_lists(Reader *r, WanServed *out)
{
    WanRequest *rq = &out->request;
    uint8_t has[HAS] = { 0 };
    const WanImage **list;
    int64_t most;

    if (rq->nb_controls < 0 || rq->nb_controls > WAN_CONTROLS) {
        r->bad = 1;
        return;
    }
    for (int i = 0; i < rq->nb_controls; i++) {
        out->controls[i] = &out->control[i];
        get_struct(r, &out->control[i], sizeof(out->control[i]));
    }
    rq->controls = rq->nb_controls ? out->controls : NULL;
    get_struct(r, has, sizeof(has));
    list = get(r, &most);
    most /= (int64_t)sizeof(*list);
    out->any = (WanImage){ .size = sizeof(out->any), .format = WAN_PIX_RGB24,
                           .width = rq->width, .height = rq->height };
    for (int64_t i = 0; i < most; i++)
        list[i] = &out->any;
    rq->video = list_for(r, list, most, has[0], rq->nb_video);
    rq->clip = list_for(r, list, most, has[1], rq->nb_clip);
    for (int i = 0; i < rq->nb_controls; i++) {
        WanControl *c = &out->control[i];
        const uint8_t *of = &has[HAS_CONTROLS + 3 * i];

        c->video = list_for(r, list, most, of[0], c->nb_frames);
        c->mask = list_for(r, list, most, of[1], c->nb_frames);
        c->references = list_for(r, list, most, of[2], c->nb_references);
    }
}

int wan_served_read(WanServed *out, char *data, int64_t n)
{
    Reader r = { data, n, 0, 0 };
    const char *cwd;

    get_struct(&r, &out->params, sizeof(out->params));
    cwd = get_string(&r);
    snprintf(out->cwd, sizeof(out->cwd), "%s", cwd ? cwd : "");
    get_strings(&r, &out->params, params_strings, NB(params_strings));
    out->params_bytes = r.at;
    get_struct(&r, &out->request, sizeof(out->request));
    get_strings(&r, &out->request, request_strings, NB(request_strings));
    out->request.timesteps = get_doubles(&r, out->request.nb_timesteps);
    out->request.first_timesteps = get_doubles(&r,
                                               out->request.nb_first_timesteps);
    out->request.image = get_image(&r, &out->image[0]);
    out->request.last_image = get_image(&r, &out->image[1]);
    get_lists(&r, out);
    return r.bad || r.at != n ? WAN_INVALIDDATA : 0;
}

/* ---------------------------------------------------------------- serving */

typedef struct Server {
    WanRanks *ranks;
    int threads;
    const char *device;
    const WanLog *log;
    char error[228];            // the last line of one, for the host
    WanModel *model;            // opened for the job before
    char *opened;               // with these bytes
    int64_t opened_bytes;
} Server;

/* Lines go where the worker's go; the host is told of the last error. */
static void keep_line(void *opaque, enum WanLogLevel level, const char *line)
{
    Server *s = opaque;

    if (level <= WAN_LOG_ERROR)
        snprintf(s->error, sizeof(s->error), "%s", line);
    if (s->log && s->log->callback && level <= s->log->level)
        s->log->callback(s->log->opaque, level, line);
}

static int quit_told(void *ranks)
{
    return wan_ranks_told_to_quit(ranks);
}

/* This process' own device: one. */
static int check_own(const Server *s)
{
    const WanLog log = { keep_line, (void *)s, WAN_LOG_ERROR };
    WanCardList list;
    const int ret = s->device ? wan_cards_read(&list, s->device, &log) : 0;

    return ret < 0 || !s->device || !list.nb ? ret
           : wan_error(&log, WAN_ERR(EINVAL), "device %s: a process that an MPI "
                       "launcher started has one card", s->device);
}

/* The host has chosen the precision. That this processor is slow in it is said
 * by who says errors alone too: all the others wait for it. */
static void say_slow(const Server *s)
{
    WanLog log;

    if (!s->log || s->log->level >= WAN_LOG_WARNING || s->model->choice.native)
        return;
    log = *s->log;
    log.level = WAN_LOG_WARNING;
    wan_dev_say_choice(&s->model->choice, &log);
}

/* The model of the request: the last one's, if it was opened likewise. */
static int open_model(Server *s, WanServed *job, const char *data)
{
    WanModelParams *p = &job->params;
    int ret;

    if (s->model && s->opened_bytes == job->params_bytes &&
        !memcmp(s->opened, data, job->params_bytes))
        return 0;
    wan_model_close(&s->model);
    free(s->opened);
    if ((s->opened = malloc(job->params_bytes))) {
        memcpy(s->opened, data, job->params_bytes);
        s->opened_bytes = job->params_bytes;
    } else {
        s->opened_bytes = -1;           // opened again for the next
    }
    if (*job->cwd && !wan_ranks_are_threads(s->ranks) && chdir(job->cwd) < 0)
        return wan_error(&(WanLog){ keep_line, s, WAN_LOG_ERROR },
                         WAN_ERR(ENOENT), "%s: %s", job->cwd, strerror(errno));
    p->log = keep_line;
    p->log_opaque = s;
    p->interrupted = quit_told;
    p->interrupted_opaque = s->ranks;
    p->log_level = s->log ? s->log->level : WAN_LOG_ERROR;
    p->threads = s->threads;
    if (!wan_ranks_are_threads(s->ranks))
        p->memory = 0;                  // that of the host's machine
    p->processes = 0;                   // they are known
    if ((ret = check_own(s)) < 0)
        return ret;
    if (s->device)
        p->device = s->device;
    ret = wan_model_open(&s->model, p);
    if (ret >= 0)
        say_slow(s);
    if (ret >= 0 && (ret = wan_model_join(s->model, s->ranks, NULL)) < 0)
        wan_model_close(&s->model);     // the next job tries again
    return ret;
}

/* One job, to its last step. */
static int serve(Server *s, char *data, int64_t n)
{
    WanProgress p = { .stage = WAN_STAGE_TEXT };
    WanServed job;
    WanJob *j = NULL;
    int ret;

    *s->error = 0;
    if ((ret = wan_served_read(&job, data, n)) >= 0 &&
        (ret = open_model(s, &job, data)) >= 0 &&
        (ret = wan_job_open(&j, s->model, &job.request)) >= 0)
        while ((ret = wan_job_step(j, &p)) >= 0 && p.stage != WAN_STAGE_DONE)
            continue;
    wan_ranks_end(s->ranks, ret, s->error);
    wan_job_close(&j);
    return ret;
}

int wan_ranks_serve(WanRanks *r, int threads, const char *device,
                    const WanLog *log)
{
    Server s = { .ranks = r, .threads = threads, .device = device,
                 .log = log };
    char *data;
    int64_t n;
    int ret;

    while ((ret = wan_ranks_wait(r, &data, &n)) > 0) {
        serve(&s, data, n);
        free(data);
        if (r->broken) {
            ret = WAN_ERR(EIO);
            break;
        }
    }
    wan_model_close(&s.model);
    free(s.opened);
    return ret;
}
