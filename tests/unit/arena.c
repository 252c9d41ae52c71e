/*
 * The device's arena, marks, first error and cancel flag.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "ops.h"
#include "test.h"

static char last[256];

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level == WAN_LOG_ERROR)
        snprintf(last, sizeof(last), "%s", line);
}

static const WanLog log_keep = { keep, NULL, WAN_LOG_WARNING };

static WanDev *open_dev(int64_t bytes)
{
    WanDev *d = NULL;

    CHECK(wan_dev_open(&d, "cpu", 2, bytes, &log_keep) == 0);
    return d;
}

TEST(stack)
{
    WanDev *d = open_dev(1 << 20);
    WanTensor a = wan_tmp(d, 3, 5);
    const WanMark mark = wan_mark(d);
    WanTensor b = wan_tmp(d, 7);
    void *first = b.data;

    CHECK((uintptr_t)a.data % 64 == 0 && (uintptr_t)b.data % 64 == 0);
    CHECK((char *)b.data >= (char *)a.data + 15 * 4);
    CHECK(a.pitch == 5 && wan_rows(&a) == 3 && wan_cols(&a) == 5);
    wan_release(d, mark);
    b = wan_tmp_type(d, WAN_BF16, 100);
    CHECK(b.data == first);
    CHECK(d->peak == d->used);
    wan_release(d, 0);
    CHECK(d->used == 0 && d->peak > 0);
    wan_dev_close(&d);
    CHECK(!d);
}

TEST(full_arena_is_the_first_error)
{
    WanDev *d = open_dev(4096);
    WanTensor a = wan_tmp(d, 512), b;

    CHECK(a.data && !wan_dev_error(d));
    b = wan_tmp(d, 1024);
    CHECK(!b.data && wan_dev_error(d) == WAN_ERR(ENOMEM));
    wan_dev_fail(d, WAN_ERR(EIO), "later");
    CHECK(wan_dev_error(d) == WAN_ERR(ENOMEM));
    /* Ops do nothing any more, even with a tensor without data. */
    wan_op_fill(d, &b, 1);
    wan_op_copy(d, &a, &b);
    CHECK(strstr(last, "arena"));
    wan_dev_close(&d);
}

TEST(plan_counts_what_the_device_takes)
{
    WanDev *d = open_dev(1 << 24), *p;
    WanDev *both[2];

    CHECK(wan_dev_open_plan(&p, "cpu", 2, &log_keep) == 0);
    both[0] = d;
    both[1] = p;
    for (int i = 0; i < 2; i++) {
        WanDev *x = both[i];
        WanTensor y = wan_tmp(x, 100, 48), in = wan_tmp(x, 100, 96);
        WanTensor w = wan_tmp(x, 48, 96), g = wan_tmp(x, 100, 48);
        const WanLinear l = { .weight = w };

        wan_op_fill(x, &in, 1);
        wan_op_fill(x, &w, 1);
        wan_op_linear(x, &y, &in, &l);
        wan_op_attention(x, &g, &y, &y, &y, .heads = 2);
        wan_op_geglu(x, &y, &y, &g);
        CHECK(!wan_dev_error(x));
    }
    CHECK(d->peak == p->peak && d->peak > 0);
    CHECK(d->flops == p->flops && d->flops >= 2.0 * 100 * 48 * 96);
    wan_dev_close(&d);
    wan_dev_close(&p);
}

TEST(cancel_stops_ops)
{
    WanDev *d = open_dev(4096);
    WanTensor a = wan_tmp(d, 16);

    wan_op_fill(d, &a, 1);
    wan_dev_cancel(d);
    wan_op_fill(d, &a, 2);
    CHECK(wan_dev_error(d) == WAN_CANCELLED);
    CHECK(((float *)a.data)[3] == 1);
    wan_dev_close(&d);
}

TEST(broken_contracts_are_named)
{
    WanDev *d = open_dev(4096);
    WanTensor a = wan_tmp(d, 2, 8), b = wan_tmp(d, 2, 9);

    wan_op_copy(d, &a, &b);
    CHECK(wan_dev_error(d) == WAN_ERR(EINVAL) && strstr(last, "copy"));
    wan_dev_close(&d);
}

TEST(not_finite_is_named)
{
    const float bad[4] = { 1, 2, NAN, 4 }, good[4] = { 1, 2, 3, 4 };
    WanDev *d = open_dev(4096);
    WanTensor a = wan_tmp(d, 4);

    wan_op_upload(d, &a, good);
    wan_op_finite(d, &a, "step %d: latent", 2);
    CHECK(!wan_dev_error(d));
    wan_op_upload(d, &a, bad);
    wan_op_finite(d, &a, "step %d: latent", 3);
    CHECK(wan_dev_error(d) == WAN_ERR(EDOM));
    CHECKF(strstr(last, "step 3: latent"), "%s", last);
    wan_dev_close(&d);
}

TEST(unknown_devices)
{
    WanDev *d;

    CHECK(wan_dev_open(&d, "tpu", 0, 4096, &log_keep) == WAN_ERR(ENOSYS));
    CHECK(!d && strstr(last, "tpu"));
    CHECK(wan_dev_open(&d, "cuda:99", 0, 4096, &log_keep) == WAN_ERR(ENOSYS));
    CHECK(strstr(last, "cuda"));
}

TEST(number_formats)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float f = wan_f16_to_f32((uint16_t)h), b = wan_bf16_to_f32((uint16_t)h);

        if (f == f)
            CHECKF(wan_f32_to_f16(f) == h, "f16 %04x", h);
        if (b == b)
            CHECKF(wan_f32_to_bf16(b) == h, "bf16 %04x", h);
    }
    CHECK(wan_f16_to_f32(0x3c00) == 1 && wan_f16_to_f32(0x7bff) == 65504);
    CHECK(wan_f16_to_f32(1) == 0x1p-24f && wan_f16_to_f32(0x8400) == -0x1p-14f);
    CHECK(wan_f32_to_f16(65520) == 0x7c00 && wan_f32_to_f16(65519) == 0x7bff);
    CHECK(wan_f32_to_bf16(1.00390625f) == 0x3f80);  // a tie goes to even
    CHECK(wan_e4m3_to_f32(0x7e) == 448 && wan_e4m3_to_f32(1) == 0x1p-9f);
    CHECK(isnan(wan_e4m3_to_f32(0x7f)) && wan_e4m3_to_f32(0xb8) == -1);
    CHECK(wan_e5m2_to_f32(0x7b) == 57344 && isinf(wan_e5m2_to_f32(0x7c)));
}

/* Each number, and what lies between: to the nearer, half way to the even. */
TEST(to_e4m3)
{
    static const float far[] = { 449, 464, 465, 1e30f, INFINITY };
    uint8_t v;

    for (int i = 0; i < 127; i++)
        for (int minus = 0; minus < 2; minus++) {
            const float sign = minus ? -1 : 1, a = wan_e4m3_to_f32((uint8_t)i);
            const float b = i < 126 ? wan_e4m3_to_f32((uint8_t)(i + 1)) : 480;
            const float half = (a + b) / 2;
            const struct { float x; int to; } c[] = {
                { a, i }, { half, i + (i & 1) },
                { nextafterf(half, 0), i }, { nextafterf(half, 999), i + 1 },
            };

            for (int k = 0; k < 4; k++) {
                const int to = c[k].to < 126 ? c[k].to : 126;

                wan_to_e4m3(&v, &(float){ sign * c[k].x }, 1, 1);
                CHECKF(v == (to | minus << 7), "%a: %02x", sign * c[k].x, v);
                wan_to_e4m3(&v, &(float){ sign * c[k].x * 8 }, 1, 0.125f);
                CHECKF(v == (to | minus << 7), "%a: %02x", sign * c[k].x, v);
            }
        }
    for (int i = 0; i < 5; i++) {
        wan_to_e4m3(&v, &far[i], 1, 1);
        CHECKF(v == 0x7e, "%g: %02x", far[i], v);
    }
    wan_to_e4m3(&v, &(float){ NAN }, 1, 1);
    CHECK((v & 0x7f) == 0x7f);
}

TEST(views)
{
    float v[4 * 3 * 10];
    WanTensor t = wan_tensor_of(v, WAN_F32, 4, 3, 10);
    WanTensor s = wan_slice(&t, 2, 2), c = wan_columns(&s, 4, 3);

    CHECK(s.data == v + 60 && wan_rows(&s) == 6);
    CHECK(wan_row(&c, 1) == v + 74 && wan_cols(&c) == 3 && c.pitch == 10);
    s = wan_slice(&c, 1, 1);
    CHECK(wan_row(&s, 2) == v + 114);
    t = wan_reshape(&t, 12, 10);
    CHECK(wan_row(&t, 11) == v + 110);
}

int main(void)
{
    RUN(stack);
    RUN(full_arena_is_the_first_error);
    RUN(plan_counts_what_the_device_takes);
    RUN(cancel_stops_ops);
    RUN(broken_contracts_are_named);
    RUN(not_finite_is_named);
    RUN(unknown_devices);
    RUN(number_formats);
    RUN(to_e4m3);
    RUN(views);
    return test_end();
}
