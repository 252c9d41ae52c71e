/*
 * Tests of wan/serve.c: what a request is on its way to the other ranks; and of
 * wan/launcher.c.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Every word of a struct is filled with a pointer. What is none must be listed
 * here; of what is left nothing may come out as it went in.
 */

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
    WanServed out;
    WanBytes b = { 0 };
    const void *t = &target;

    fill(&p, sizeof(p));
    fill(&r, sizeof(r));
    r.nb_timesteps = r.nb_first_timesteps = 1;
    r.nb_clip = 2;
    r.width = 48;
    r.height = 32;
    fill(target.image.data, sizeof(target.image.data));
    wan_put_params(&b, &p);
    wan_put_request(&b, &r);
    if (!CHECK(!b.failed && !wan_served_read(&out, (char *)b.data, b.n)))
        return;
    none_left("params", &out.params, sizeof(p), params_plain);
    none_left("request", &out.request, sizeof(r), request_plain);
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
    RUN(cut_short);
    RUN(launch_fails_twice);
    return test_end();
}
