/*
 * VAEs of other widths and families: what is told from the tensors, what is
 * refused by name, shapes that nobody means.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <math.h>

#include "weights_util.h"

#include "codec.h"

/* ---------------------------------------------------------------- files */

typedef struct Shape {
    char name[48];
    int nb_dims;
    int64_t dim[5];
} Shape;

typedef struct Shapes {
    Shape s[160];
    int n;
} Shapes;

static void add_shape(void *opaque, const char *name, int vector, int nb_dims,
                      const int64_t *dim)
{
    Shapes *all = opaque;
    Shape *s = &all->s[all->n++];

    (void)vector;
    snprintf(s->name, sizeof(s->name), "%s", name);
    for (int i = 0; i < nb_dims; i++)
        if (dim[i] != 1 || i != 2 || nb_dims != 5)  // as torch stores 2-D ones
            s->dim[s->nb_dims++] = dim[i];
}

static const WanVaeConfig narrow = {
    .family = WAN_VAE_TAEHV, .dim = 4, .width = { 8, 6, 4, 4 },
    .grow_rows = { 8, 12, 8 },
};

/* The tensors of a TAEHV, as its own binder asks for them. */
static Shapes taehv_shapes(void)
{
    WanPool pool = { 0 };
    Shapes all = { .n = 0 };
    WanBinder b = { .part = WAN_PART_VAE, .pool = &pool, .log = &test_log,
                    .plan_type = WAN_F32, .visit = add_shape,
                    .visit_opaque = &all };
    WanCodec c;

    CHECK(wan_codec_bind(&c, &narrow, 1, &b) == 0);
    wan_pool_free(&pool);
    return all;
}

static Shape *shape_of(Shapes *all, const char *name)
{
    for (int i = 0; i < all->n; i++)
        if (!strcmp(all->s[i].name, name))
            return &all->s[i];
    printf("Bail out! no %s\n", name);
    exit(1);
}

/* A safetensors file of them, all numbers 1. */
static void store_shapes(const char *path, const Shapes *all, const char *type,
                       int size)
{
    Bytes header = { 0 }, file = { 0 };
    int64_t at = 0;

    put(&header, "{", 1);
    for (int i = 0; i < all->n; i++) {
        const Shape *s = &all->s[i];
        char text[256];
        int64_t count = 1;
        int n = snprintf(text, sizeof(text), "%s\"%s\":{\"dtype\":\"%s\","
                         "\"shape\":[", i ? "," : "", s->name, type);

        for (int k = 0; k < s->nb_dims; k++) {
            n += snprintf(text + n, sizeof(text) - n, "%s%lld", k ? "," : "",
                          (long long)s->dim[k]);
            count *= s->dim[k];
        }
        n += snprintf(text + n, sizeof(text) - n, "],\"data_offsets\":[%lld,"
                      "%lld]}", (long long)at, (long long)(at + count * size));
        put(&header, text, n);
        at += count * size;
    }
    put(&header, "}", 1);
    put_le(&file, header.n, 8);
    put(&file, header.p, header.n);
    for (int64_t i = 0; i < at / size; i++)
        put_le(&file, size == 2 ? 0x3c00 : 0x3f800000, size);
    write_file(path, &file);
    drop(&header);
}

static char folder[] = "/tmp/wan-codec.XXXXXX";

/* Read them as a model does: what is, or how it fails. */
static int try_file(WanVaeConfig *c, const Shapes *all, const char *name,
                    const char *type, int size)
{
    char path[128];
    WanPool pool = { 0 };
    WanWeights *w = NULL;
    WanBinder b = { .part = WAN_PART_VAE, .pool = &pool, .log = &test_log };
    WanCodec codec;
    int ret;

    *last_line = 0;
    error_lines = 0;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    store_shapes(path, all, type, size);
    ret = wan_weights_open(&w, path, &test_log);
    if (ret >= 0)
        ret = wan_config_vae(c, &b.naming, w, &test_log);
    b.weights = w;
    if (ret >= 0)
        ret = wan_codec_bind(&codec, c, 1, &b);
    wan_pool_free(&pool);
    wan_weights_close(&w);
    unlink(path);
    return ret;
}

/* ----------------------------------------------------------- tiny VAEs */

TEST(widths_from_shapes)
{
    Shapes all = taehv_shapes();
    WanVaeConfig c;

    CHECK(all.n == 128);                // as taew2_1 has them
    CHECKF(try_file(&c, &all, "taew2_1.safetensors", "F16", 2) == 0, "%s",
           last_line);
    CHECK(c.family == WAN_VAE_TAEHV && !memcmp(c.width, narrow.width,
                                               sizeof(c.width)));
    CHECK(c.dim == 4);
}

TEST(which_latents)
{
    static const struct {
        const char *name, *type;
        int size, scaled;
    } file[] = {
        { "taew2_1.safetensors", "F16", 2, 0 },
        { "taew2_1.safetensors", "F32", 4, 0 },     // the name is stronger
        { "lighttaew2_1.safetensors", "F16", 2, 1 },
        { "mine.safetensors", "F16", 2, 0 },
        { "mine.safetensors", "F32", 4, 1 },
    };
    Shapes all = taehv_shapes();

    for (size_t i = 0; i < sizeof(file) / sizeof(*file); i++) {
        WanVaeConfig c;

        CHECK(try_file(&c, &all, file[i].name, file[i].type,
                       file[i].size) == 0);
        CHECKF(c.scaled == file[i].scaled, "%s %s", file[i].name,
               file[i].type);
    }
}

/* One error line with these words. */
static void is_refused(const Shapes *all, int error, const char *words)
{
    WanVaeConfig c;
    const int ret = try_file(&c, all, "taew2_1.safetensors", "F16", 2);

    CHECKF(ret == error && strstr(last_line, words) && error_lines == 1,
           "%d, %d lines: %s; expected %s", ret, error_lines, last_line,
           words);
}

TEST(other_families)
{
    static const int latent[] = { 48, 32, 24, 128, 12 };
    Shapes all;
    Shape *s;

    for (int i = 0; i < 5; i++) {
        char words[64];

        all = taehv_shapes();
        shape_of(&all, "decoder.1.weight")->dim[1] = latent[i];
        snprintf(words, sizeof(words), "%d latent channels", latent[i]);
        is_refused(&all, WAN_ERR(ENOSYS), words);
    }
    all = taehv_shapes();
    shape_of(&all, "decoder.22.bias")->dim[0] = 12;     // patches of 2 x 2
    is_refused(&all, WAN_ERR(ENOSYS), "12 numbers a pixel");
    all = taehv_shapes();
    s = shape_of(&all, "decoder.1.weight");
    *s = (Shape){ "decoder.1.conv.0.weight", 4, { 8, 1, 7, 7 } };
    is_refused(&all, WAN_ERR(ENOSYS), "super");
}

TEST(shapes_that_can_not_be)
{
    static const struct {
        const char *name;
        int dim;
        int64_t value;
        const char *words;
    } bad[] = {
        { "decoder.1.weight", 0, 0, "decoder.1.weight has an impossible" },
        { "decoder.14.weight", 0, 0, "decoder.14.weight has an impossible" },
        { "decoder.20.weight", 0, 4097, "wider than 4096" },
        { "encoder.0.weight", 0, 5000, "wider than 4096" },
        { "decoder.13.conv.weight", 0, 11, "has 11 rows, 12 are needed" },
        { "decoder.7.conv.weight", 0, 7, "has 7 rows, 8 are needed" },
        { "decoder.7.conv.weight", 1, 7, "decoder.7.conv.weight" },
        { "decoder.9.conv.0.weight", 1, 6, "decoder.9.conv.0.weight" },
        { "decoder.3.conv.2.bias", 0, 7, "decoder.3.conv.2.bias" },
        { "encoder.7.conv.weight", 1, 4, "encoder.7.conv.weight" },
        { "encoder.17.weight", 0, 32, "encoder.17.weight" },
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        Shapes all = taehv_shapes();

        shape_of(&all, bad[i].name)->dim[bad[i].dim] = bad[i].value;
        is_refused(&all, WAN_INVALIDDATA, bad[i].words);
    }
    /* one tensor after another is not there */
    for (int i = 0; i < taehv_shapes().n; i++) {
        Shapes all = taehv_shapes();
        char name[48];

        strcpy(name, all.s[i].name);
        if (!strcmp(name, "decoder.22.bias"))
            continue;                   // what the family is known by
        all.s[i] = all.s[--all.n];
        is_refused(&all, WAN_INVALIDDATA, name);
    }
}

/* ------------------------------------------------------------ LightVAE */

/* Random numbers of about the size that keeps activations at theirs. */
static void *place(void *opaque, const char *name, WanType *type,
                   int64_t count)
{
    static uint64_t state = 1;
    const int gain = strstr(name, "gamma") != NULL;
    float *p = wan_pool_alloc(opaque, count * sizeof(*p));

    *type = WAN_F32;
    for (int64_t i = 0; i < count; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
        p[i] = gain ? 1 : (float)((state >> 40) * 0x1p-24 - 0.5) * 0.1f;
    }
    return p;
}

/* The official VAE with a quarter of its widths: base 24, whose levels are
 * 96, 96, 48 and 24 wide. It is decoded as it is, on both backends alike. */
TEST(a_quarter_of_the_widths)
{
    const WanVaeConfig config = { .dim = 24 };
    WanPool pool = { 0 };
    WanBinder b = { .part = WAN_PART_VAE, .pool = &pool, .log = &test_log,
                    .plan_type = WAN_F32, .place = place,
                    .place_opaque = &pool };
    static const char *const device[] = { "ref", "cpu" };
    static float out[2][5 * 32 * 48 * 3];
    double err = 0, sum = 0;
    WanCodec c;

    CHECK(wan_codec_bind(&c, &config, 1, &b) == 0);
    for (int i = 0; i < 2; i++) {
        WanDev *d;
        WanCodecStream s;

        CHECK(wan_dev_open(&d, device[i], 2, 256 << 20, &test_log) == 0);
        WanTensor z = wan_tmp(d, 16, 2, 4, 6), rgb = wan_tmp(d, 5, 32, 48, 3);
        wan_op_noise(d, &z, WAN_RNG_CPU, 1, 256);
        wan_codec_begin_decode(d, &s, &c, 4, 6);
        for (int t = 0; t < 2; t++) {
            WanTensor now = wan_slice(&rgb, t, t ? 4 : 1);

            wan_codec_decode(d, &now, &c, &s, &z);
        }
        wan_op_download(d, out[i], &rgb);
        CHECKF(!wan_dev_error(d), "%s", d->message);
        wan_dev_close(&d);
    }
    for (size_t i = 0; i < sizeof(out[0]) / sizeof(float); i++) {
        err += (out[0][i] - out[1][i]) * (out[0][i] - out[1][i]);
        sum += out[0][i] * out[0][i];
    }
    CHECKF(sum > 0 && err <= 16e-12 * sum, "relative L2 %.2e",
           sqrt(err / sum));
    wan_pool_free(&pool);
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    RUN(widths_from_shapes);
    RUN(which_latents);
    RUN(other_families);
    RUN(shapes_that_can_not_be);
    RUN(a_quarter_of_the_widths);
    rmdir(folder);
    return test_end();
}
