/*
 * Tests of wan/serve.c: what a request is on its way to the other ranks; and of
 * wan/launcher.c.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Every word of a struct is filled with a pointer. What is none must be listed
 * here; of what is left nothing may come out as it went in.
 */

#include "abi.h"
#include "serve.h"
#include "test.h"

/* A string, an image, a list: whatever is looked for there. */
static union {
    char text[sizeof(WanImage) + 8];
    WanImage image;
    double list;
} target = { "a target" };

/* Words [from, to) of a struct, that no pointer is in. */
typedef struct Plain {
    size_t from, to;
} Plain;
#define WORD sizeof(void *)
#define FROM_TO(type, a, b) \
    { offsetof(type, a) / WORD, (offsetof(type, b) + WORD - 1) / WORD }

static const Plain params_plain[] = {
    FROM_TO(WanModelParams, size, path),
    FROM_TO(WanModelParams, fp8, device),
    FROM_TO(WanModelParams, threads, cuda_context),
    FROM_TO(WanModelParams, log_level, interrupted),
    FROM_TO(WanModelParams, vae_scale, model2),
    { offsetof(WanModelParams, precision) / WORD,
      sizeof(WanModelParams) / WORD },
    { 0 }
};
static const Plain request_plain[] = {
    FROM_TO(WanRequest, size, prompt),
    FROM_TO(WanRequest, width, cache_table),
    FROM_TO(WanRequest, nb_timesteps, video),
    FROM_TO(WanRequest, strength, controls),
    FROM_TO(WanRequest, nb_controls, first_timesteps),
    FROM_TO(WanRequest, nb_first_timesteps, clip),
    { 0 }
};
static const Plain control_plain[] = {
    FROM_TO(WanControl, size, video),
    FROM_TO(WanControl, nb_frames, references),
    { offsetof(WanControl, scale) / WORD, sizeof(WanControl) / WORD },
    { 0 }
};

static int is_plain(const Plain *p, size_t word)
{
    for (; p->to; p++)
        if (word >= p->from && word < p->to)
            return 1;
    return 0;
}

static void fill(void *out, size_t size)
{
    const void *p = &target;

    for (size_t i = 0; i < size; i += sizeof(p))
        memcpy((char *)out + i, &p, sizeof(p));
}

/* Words that hold the pointer still. */
static void none_left(const char *name, const void *out, size_t size,
                      const Plain *plain)
{
    const void *p = &target;

    for (size_t i = 0; i < size / sizeof(p); i++)
        CHECKF(is_plain(plain, i) ||
               memcmp((const char *)out + i * sizeof(p), &p, sizeof(p)),
               "%s, byte %zu: a pointer of the host", name, i * sizeof(p));
}

TEST(no_pointer_of_the_host)
{
    WanModelParams p;
    WanRequest r;
    WanControl c;
    const WanControl *list[] = { &c };
    WanServed out;
    WanBytes b = { 0 };
    const void *t = &target;

    fill(&p, sizeof(p));
    fill(&r, sizeof(r));
    fill(&c, sizeof(c));
    c.size = sizeof(c);
    c.nb_frames = 2;
    c.nb_references = 3;
    r.nb_timesteps = r.nb_first_timesteps = r.nb_video = r.nb_controls = 1;
    r.nb_clip = 2;
    r.width = 48;
    r.height = 32;
    r.controls = list;
    fill(target.image.data, sizeof(target.image.data));
    wan_put_params(&b, &p);
    wan_put_request(&b, &r);
    if (!CHECK(!b.failed && !wan_served_read(&out, (char *)b.data, b.n)))
        return;
    none_left("params", &out.params, sizeof(p), params_plain);
    none_left("request", &out.request, sizeof(r), request_plain);
    none_left("control", &out.control[0], sizeof(c), control_plain);
    CHECK(out.request.controls != list);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 4; k++)
            CHECK(!out.image[i].data[k]);
    CHECK(!strcmp(out.params.weights, target.text));
    CHECK(!strcmp(out.params.model2, target.text));
    CHECK(!strcmp(out.request.preset, target.text));
    CHECK(*out.request.timesteps == target.list);
    CHECK(*out.request.first_timesteps == target.list);
    CHECK(out.request.image == &out.image[0]);
    for (int i = 0; i < 2; i++) {
        const WanImage *frame = out.request.clip[i];

        CHECK(frame->width == 48 && frame->height == 32 && !frame->data[0]);
        CHECK(frame->size == sizeof(*frame));
    }
    /* nor in the bytes, so that the same model is told by them */
    memset(&p, 0, sizeof(p));
    p.path = target.text;
    b.n = 0;
    wan_put_params(&b, &p);
    for (size_t i = 0; i + sizeof(t) <= b.n; i += sizeof(t))
        CHECK(memcmp(b.data + i, &t, sizeof(t)));
    free(b.data);
}

/* A request with controls, of which the second is an older caller's. */
typedef struct Controls {
    WanImage image;
    const WanImage *frames[5];
    WanControl control[2];
    const WanControl *list[2];
    WanRequest rq;
} Controls;

static void ask(Controls *c)
{
    *c = (Controls){
        .image = { .size = sizeof(WanImage), .width = 9, .height = 7 },
        .control = { { .size = sizeof(WanControl), .scale = 0.5,
                       .video = c->frames, .mask = c->frames, .nb_frames = 5,
                       .references = c->frames, .nb_references = 2 },
                     { .size = WAN_CONTROL_LEAST, .scale = 3,
                       .video = c->frames, .nb_frames = 5 } },
        .list = { &c->control[0], &c->control[1] },
        .rq = { .size = sizeof(WanRequest), .prompt = "x", .width = 64,
                .height = 48, .controls = c->list, .nb_controls = 2 },
    };
    for (int i = 0; i < 5; i++)
        c->frames[i] = &c->image;
}

static void all_there(const WanImage *const *list, int n)
{
    if (CHECK(list))
        for (int i = 0; i < n; i++)
            CHECK(list[i]->size == sizeof(WanImage) && !list[i]->data[0] &&
                  list[i]->width == 64 && list[i]->height == 48);
}

/* As many frames and references, without pixels; where none were none are. */
TEST(frames_that_are_there)
{
    WanModelParams p = { .size = sizeof(p), .path = "model" };
    WanServed out;
    WanBytes b = { 0 };
    const WanRequest *rq = &out.request;
    Controls c;

    ask(&c);
    wan_put_params(&b, &p);
    wan_put_request(&b, &c.rq);
    if (!CHECK(!b.failed && !wan_served_read(&out, (char *)b.data, b.n)))
        return;
    CHECK(rq->nb_controls == 2 && !rq->video);
    all_there(rq->controls[0]->video, 5);
    all_there(rq->controls[0]->mask, 5);
    all_there(rq->controls[0]->references, 2);
    CHECK(rq->controls[0]->nb_frames == 5 && rq->controls[0]->scale == 0.5);
    CHECK(rq->controls[0]->nb_references == 2);
    all_there(rq->controls[1]->video, 5);
    CHECK(!rq->controls[1]->mask && !rq->controls[1]->references);
    CHECK(rq->controls[1]->scale == 3);
    for (size_t n = 0; n < b.n; n += 8)
        CHECK(wan_served_read(&out, (char *)b.data, n) == WAN_INVALIDDATA);

    b.n = 0;
    c.rq.nb_controls = 0;
    c.rq.video = c.frames;
    c.rq.nb_video = 5;
    c.rq.strength = 0.25;
    wan_put_params(&b, &p);
    wan_put_request(&b, &c.rq);
    CHECK(!wan_served_read(&out, (char *)b.data, b.n));
    CHECK(!rq->controls && rq->nb_video == 5 && rq->strength == 0.25);
    all_there(rq->video, 5);
    free(b.data);
}

/* Cut short anywhere, it is refused. */
TEST(cut_short)
{
    WanModelParams p = { .size = sizeof(p), .path = "model", .device = "cpu",
                         .precision = WAN_PRECISION_BF16 };
    WanRequest r = { .size = sizeof(r), .prompt = "x" };
    WanServed out;
    WanBytes b = { 0 };

    wan_put_params(&b, &p);
    wan_put_request(&b, &r);
    CHECK(!wan_served_read(&out, (char *)b.data, b.n));
    CHECK(!strcmp(out.params.path, "model") && !out.params.weights);
    CHECK(out.params.precision == WAN_PRECISION_BF16);
    for (size_t n = 0; n < b.n; n += 8)
        CHECK(wan_served_read(&out, (char *)b.data, n) == WAN_INVALIDDATA);
    free(b.data);
}

/* A launcher that this process can't join is told of each time. */
static int lines;

static void count_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    lines += level == WAN_LOG_ERROR && strstr(line, "2 processes");
}

TEST(launch_fails_twice)
{
    const WanLog log = { count_line, NULL, WAN_LOG_ERROR };
    WanRanks *r;

    setenv("PMI_SIZE", "2", 1);
    for (int i = 1; i <= 2; i++) {
        CHECK(wan_ranks_from_launcher(&r, 1, &log) < 0 && !r);
        CHECKF(lines == i, "%d lines after call %d", lines, i);
    }
    unsetenv("PMI_SIZE");
}

int main(void)
{
    RUN(no_pointer_of_the_host);
    RUN(frames_that_are_there);
    RUN(cut_short);
    RUN(launch_fails_twice);
    return test_end();
}
