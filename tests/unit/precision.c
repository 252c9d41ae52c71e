/*
 * Which backend is opened for a device and a precision, and what is said of it.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The table of backends is made up: here the processor multiplies what a test
 * wants it to, and there is a card, or none.
 */

#include <string.h>

#include "dev.h"
#include "test.h"

static int has_bf16, has_int8, has_card;

static int native_bf16(void)
{
    return has_bf16;
}

static int native_int8(void)
{
    return has_int8;
}

static int usable(int index, const WanLog *log)
{
    (void)index, (void)log;
    return has_card ? 0 : WAN_ERR(ENOSYS);
}

/* As those of a build with all of them. */
static const WanBackend card = {
    .name = "cuda", .device = 1, .precision = WAN_PRECISION_BF16,
    .usable = usable,
}, card_f32 = {
    .name = "cuda-f32", .device = 1, .precision = WAN_PRECISION_F32,
    .usable = usable,
}, cpu = {
    .name = "cpu", .precision = WAN_PRECISION_F32,
}, cpu_bf16 = {
    .name = "cpu-bf16", .precision = WAN_PRECISION_BF16,
    .native = native_bf16,
}, cpu_int8 = {
    .name = "cpu-int8", .precision = WAN_PRECISION_INT8,
    .native = native_int8,
}, plain = {
    .name = "ref", .precision = WAN_PRECISION_F32,
};
static const WanBackend *const all[] = { &card, &cpu, &cpu_bf16, &cpu_int8,
                                         &plain, &card_f32 };
static const WanBackend *const few[] = { &cpu, &cpu_bf16, &plain };

static enum WanLogLevel level;
static char line[256];
static int lines;

static void keep_line(void *opaque, enum WanLogLevel l, const char *text)
{
    (void)opaque;
    level = l;
    lines++;
    snprintf(line, sizeof(line), "%s", text);
}

static const WanLog log_all = { keep_line, NULL, WAN_LOG_DEBUG };

/* The backend's name, or NULL with one line that is an error. */
static const char *choose_among(const WanBackend *const *among, int nb,
                                const char *device, enum WanPrecision p)
{
    static WanChoice c;

    lines = 0;
    *line = 0;
    memset(&c, 0x5a, sizeof(c));
    if (wan_dev_choose_among(&c, among, nb, device, p, &log_all) < 0) {
        CHECKF(lines == 1 && level == WAN_LOG_ERROR, "%s: %d lines", device,
               lines);
        return NULL;
    }
    CHECKF(!lines && c.precision != WAN_PRECISION_AUTO &&
           (!p || c.precision == p) && wan_precision_name(c.precision),
           "%s %d", device, p);
    CHECK(!strncmp(c.why, wan_precision_name(c.precision),
                   strlen(wan_precision_name(c.precision))));
    wan_dev_say_choice(&c, &log_all);
    CHECKF(lines == 1 && strstr(line, c.why) &&
           level == (c.native ? WAN_LOG_INFO : WAN_LOG_WARNING), "%s", line);
    return c.name;
}
#define choose(device, p) \
    choose_among(all, (int)(sizeof(all) / sizeof(*all)), (device), (p))

static void expect(const char *device, enum WanPrecision p, const char *want)
{
    const char *got = choose(device, p);

    CHECKF(!want == !got && (!want || !strcmp(want, got)),
           "%s %s, bf16 %d int8 %d card %d: %s, not %s", device,
           wan_precision_name(p), has_bf16, has_int8, has_card,
           got ? got : line, want ? want : "refused");
}

TEST(every_combination)
{
    for (int i = 0; i < 8; i++) {
        has_bf16 = i & 1;
        has_int8 = i >> 1 & 1;
        has_card = i >> 2;
        expect("cpu", WAN_PRECISION_AUTO, has_bf16 ? "cpu-bf16" : "cpu");
        expect("cpu", WAN_PRECISION_F32, "cpu");
        expect("cpu", WAN_PRECISION_BF16, "cpu-bf16");
        expect("cpu", WAN_PRECISION_INT8, "cpu-int8");
        expect("ref", WAN_PRECISION_AUTO, "ref");
        expect("ref", WAN_PRECISION_F32, "ref");
        expect("ref", WAN_PRECISION_BF16, NULL);
        expect("ref", WAN_PRECISION_INT8, NULL);
        expect("cuda", WAN_PRECISION_AUTO, "cuda");
        expect("cuda", WAN_PRECISION_F32, "cuda-f32");
        expect("cuda", WAN_PRECISION_BF16, "cuda");
        expect("cuda", WAN_PRECISION_INT8, NULL);
        expect("cuda:7", WAN_PRECISION_AUTO, "cuda:7");
        expect("cuda:7", WAN_PRECISION_F32, "cuda-f32:7");
        expect("cuda:7", WAN_PRECISION_BF16, "cuda:7");
        expect("cuda:7", WAN_PRECISION_INT8, NULL);
        expect("auto", WAN_PRECISION_AUTO, has_card ? "cuda" :
                                           has_bf16 ? "cpu-bf16" : "cpu");
        expect("auto", WAN_PRECISION_F32, has_card ? "cuda-f32" : "cpu");
        expect("auto", WAN_PRECISION_BF16, has_card ? "cuda" : "cpu-bf16");
        expect("auto", WAN_PRECISION_INT8, has_card ? NULL : "cpu-int8");
    }
}

/* What has a number or a dash of its own is a backend's name, and nobody's
 * device. */
TEST(no_devices)
{
    static const char *const name[] = {
        "", "cp", "cpux", "cpu:1", "ref:0", "cuda:", "cuda:x", "cuda:1000",
        "cuda:1x", "cuda:-1", "tpu", "-", "cpu-", "cpu-bf17",
    };
    static const struct { const char *name, *say; } inner[] = {
        { "cpu-bf16", "device=cpu with precision=bf16" },
        { "cpu-int8", "device=cpu with precision=int8" },
        { "cuda-f32", "device=cuda with precision=f32" },
        { "cuda-f32:3", "device=cuda with precision=f32" },
    };

    has_card = 0;
    for (size_t i = 0; i < sizeof(name) / sizeof(*name); i++)
        for (int p = WAN_PRECISION_AUTO; p <= WAN_PRECISION_INT8; p++)
            expect(name[i], (enum WanPrecision)p, NULL);
    for (size_t i = 0; i < sizeof(inner) / sizeof(*inner); i++) {
        expect(inner[i].name, WAN_PRECISION_AUTO, NULL);
        CHECKF(strstr(line, inner[i].say), "%s", line);
    }
}

/* A build has what its table has. */
TEST(not_in_this_build)
{
    const int nb = sizeof(few) / sizeof(*few);

    has_bf16 = 1;
    CHECK(!strcmp(choose_among(few, nb, "cpu", WAN_PRECISION_AUTO),
                  "cpu-bf16"));
    CHECK(!choose_among(few, nb, "cpu", WAN_PRECISION_INT8));
    CHECKF(!strcmp(line, "option precision: int8; device cpu of this build has "
                   "f32, bf16"), "%s", line);
    CHECK(!choose_among(few, nb, "ref", WAN_PRECISION_BF16));
    CHECKF(!strcmp(line, "option precision: bf16; device ref of this build has "
                   "f32"), "%s", line);
    CHECK(!strcmp(choose_among(few, 1, "cpu", WAN_PRECISION_AUTO), "cpu"));
    CHECK(!choose_among(few, 1, "ref", WAN_PRECISION_AUTO));
}

static void expect_line(const char *device, enum WanPrecision p,
                        enum WanLogLevel l, const char *want)
{
    choose(device, p);
    CHECKF(level == l && !strcmp(line, want), "%d: %s", level, line);
}

TEST(lines)
{
    has_card = 1;
    has_bf16 = 1;
    expect_line("cpu", WAN_PRECISION_AUTO, WAN_LOG_INFO,
                "precision: bf16, which this processor multiplies");
    expect_line("cpu", WAN_PRECISION_BF16, WAN_LOG_INFO,
                "precision: bf16, as option precision says");
    expect_line("auto", WAN_PRECISION_AUTO, WAN_LOG_INFO,
                "precision: bf16, which this card multiplies");
    expect_line("ref", WAN_PRECISION_AUTO, WAN_LOG_INFO,
                "precision: f32, as device ref has no other");
    has_bf16 = 0;
    expect_line("cpu", WAN_PRECISION_AUTO, WAN_LOG_INFO,
                "precision: f32, as this processor does not multiply bf16");
    expect_line("cpu", WAN_PRECISION_F32, WAN_LOG_INFO,
                "precision: f32, as option precision says");
    expect_line("cpu", WAN_PRECISION_BF16, WAN_LOG_WARNING,
                "precision: bf16 works, but slower than f32: this processor "
                "does not multiply it");
    has_int8 = 0;
    expect_line("cpu", WAN_PRECISION_INT8, WAN_LOG_WARNING,
                "precision: int8 works, but slower than f32: this processor "
                "does not multiply it");
}

/* The table of this build: each name can be opened, and multiplies in what it
 * says. */
TEST(of_this_build)
{
    static const char *const device[] = { "auto", "cpu", "ref" };

    for (int i = 0; i < 3; i++)
        for (int p = WAN_PRECISION_AUTO; p <= WAN_PRECISION_INT8; p++) {
            WanChoice c;
            WanDev *d;

            if (wan_dev_choose(&c, device[i], (enum WanPrecision)p, NULL) < 0)
                continue;
            if (!CHECK(wan_dev_open_plan(&d, c.name, 1, &log_all) == 0))
                continue;
            CHECK(d->backend->precision == c.precision);
            wan_dev_close(&d);
        }
    CHECK(!wan_precision_name((enum WanPrecision)(WAN_PRECISION_INT8 + 1)));
    CHECK(!wan_precision_name((enum WanPrecision)-1));
}

int main(void)
{
    RUN(every_combination);
    RUN(no_devices);
    RUN(not_in_this_build);
    RUN(lines);
    RUN(of_this_build);
    return test_end();
}
