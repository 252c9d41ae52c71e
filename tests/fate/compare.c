/*
 * Raw video from ffmpeg against the golden videos.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: compare GOLDEN TENSOR RAW --format F --size WxH [--limit L]
 *        compare --bytes RAW RAW [--limit LEVELS]
 *        compare --rgb24 GOLDEN RAW
 *        compare --arguments GOLDEN DIR
 *
 * First form: the golden [3, frames, H, W] in [-1, 1] against rawvideo of the
 * same frames. F is gbrpf32le: the relative L2 error of 2 x - 1, over L 5e-5
 * is a failure. F is rgb24, gbrp, yuv444p, yuv420p, nv12, yuv420p10le or
 * p010le: the golden is converted here, in double, and values may be L = 1
 * level apart; of RGB at most every 200th may differ at all.
 *
 * Second form: two files of 8-bit video, at most LEVELS (1) apart.
 *
 * Third form: rgb24 against the golden's frames_u8, at most one level apart,
 * in less than every 1000th value.
 *
 * Fourth form: prints the golden's arguments of generate() as options of
 * wan_t2v, but for the texts, which go to DIR/prompt and DIR/negative.
 *
 * GOLDEN is looked for in $WAN_GOLDEN. Exit status: 0, 1 over the limit or
 * not the same size, 2 usage, 99 no golden.
 */

#include "golden.h"
#include "test.h"

typedef struct Format {
    const char *name;
    int planes, bytes, packed, half, yuv;
    int pairs;      // Cb and Cr in turn in plane 1
    int left;       // bits a value is moved up by
} Format;

static const Format formats[] = {
    { "gbrpf32le",   3, 4, 0, 0, 0, 0, 0 },
    { "gbrp",        3, 1, 0, 0, 0, 0, 0 },
    { "rgb24",       1, 1, 1, 0, 0, 0, 0 },
    { "yuv444p",     3, 1, 0, 0, 1, 0, 0 },
    { "yuv420p",     3, 1, 0, 1, 1, 0, 0 },
    { "nv12",        2, 1, 0, 1, 1, 1, 0 },
    { "yuv420p10le", 3, 2, 0, 1, 1, 0, 0 },
    { "p010le",      2, 2, 0, 1, 1, 1, 6 },
};

static const GoldenTensor *golden;
static int width, height;
static int64_t frames;

static uint8_t *read_all(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    uint8_t *p = NULL;
    long n;

    if (!f || fseek(f, 0, SEEK_END) || (n = ftell(f)) < 0 ||
        fseek(f, 0, SEEK_SET) || !(p = malloc((size_t)n + 1)) ||
        fread(p, 1, (size_t)n, f) != (size_t)n) {
        printf("%s: can't be read\n", path);
        exit(1);
    }
    fclose(f);
    *bytes = (size_t)n;
    return p;
}

/* Channel c (R, G, B) in [0, 1]; columns outside repeat the edge. */
static double pixel(int c, int64_t frame, int y, int x)
{
    x = x < 0 ? 0 : x >= width ? width - 1 : x;
    return (golden->data[((c * frames + frame) * height + y) * width + x] +
            1.0) / 2;
}

/* Full size: the pixel. Half size: the mean over two rows, weights 1 2 1 over
 * columns, because chroma samples lie on the even columns. */
static double channel(int c, int64_t frame, int y, int x, int half)
{
    double sum = 0;

    if (!half)
        return pixel(c, frame, y, x);
    for (int row = 2 * y; row < 2 * y + 2; row++)
        sum += pixel(c, frame, row, 2 * x - 1) / 8 +
               pixel(c, frame, row, 2 * x) / 4 +
               pixel(c, frame, row, 2 * x + 1) / 8;
    return sum;
}

/* What a sample of an integer format should be. */
static double expected(const Format *f, int plane, int64_t frame, int y, int x)
{
    static const int gbr[3] = { 1, 2, 0 };
    const int half = f->half && plane > 0;
    const double scale = f->bytes == 2 ? 4 : 1;
    double r, g, b, luma;

    if (f->pairs && plane)
        plane += x & 1, x /= 2;
    if (f->packed)
        return trunc(pixel(x % 3, frame, y, x / 3) * 255);
    if (!f->yuv)
        return trunc(pixel(gbr[plane], frame, y, x) * 255);
    r = channel(0, frame, y, x, half);
    g = channel(1, frame, y, x, half);
    b = channel(2, frame, y, x, half);
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    switch (plane) {
    case 0:  return rint(scale * (16 + 219 * luma));
    case 1:  return rint(scale * (128 + 224 * (b - luma) / 1.8556));
    default: return rint(scale * (128 + 224 * (r - luma) / 1.5748));
    }
}

static int compare_float(const uint8_t *raw, double limit)
{
    static const int gbr[3] = { 1, 2, 0 };
    const int64_t HW = (int64_t)width * height;
    float *video = malloc((size_t)golden->n * sizeof(*video));
    double err;

    if (!video)
        exit(2);
    for (int64_t t = 0; t < frames; t++)
        for (int p = 0; p < 3; p++)
            for (int64_t i = 0; i < HW; i++) {
                float v;

                memcpy(&v, raw + 4 * ((t * 3 + p) * HW + i), 4);
                video[(gbr[p] * frames + t) * HW + i] = v * 2 - 1;
            }
    err = test_rel_l2(video, golden->data, (size_t)golden->n);
    printf("relative L2 %.2e, limit %.1e\n", err, limit);
    free(video);
    return !(err <= limit);
}

static int compare_levels(const Format *f, const uint8_t *raw, double limit)
{
    int64_t n = 0, differ = 0, over = 0;
    double worst = 0;

    for (int64_t t = 0; t < frames; t++)
        for (int p = 0; p < f->planes; p++) {
            const int half = f->half && p > 0;
            const int w = f->packed ? 3 * width :
                          f->pairs  ? width     : width >> half;

            for (int y = 0; y < height >> half; y++)
                for (int x = 0; x < w; x++, n++) {
                    const int v = f->bytes == 2 ? raw[2 * n] | raw[2 * n + 1] << 8
                                                : raw[n];
                    const double e = fabs(ldexp(v, -f->left) -
                                          expected(f, p, t, y, x));

                    differ += e > 0;
                    over += e > limit;
                    worst = e > worst ? e : worst;
                }
        }
    printf("%lld of %lld values differ, %lld by more than %g, at most by %g\n",
           (long long)differ, (long long)n, (long long)over, limit, worst);
    return over || (!f->yuv && differ > n / 200);
}

static int compare_video(const char *path, const Format *f, double limit)
{
    const int64_t HW = (int64_t)width * height;
    const int64_t samples = f->half ? HW * 3 / 2 : HW * 3;
    size_t bytes;
    uint8_t *raw = read_all(path, &bytes);
    int ret;

    if (golden->nb_dims != 4 || golden->dim[0] != 3 ||
        golden->dim[2] != height || golden->dim[3] != width) {
        printf("the golden is not %dx%d\n", width, height);
        return 1;
    }
    frames = golden->dim[1];
    if (bytes != (size_t)(frames * samples * f->bytes)) {
        printf("%s: %zu bytes, %lld frames of %dx%d in %s are %lld\n", path,
               bytes, (long long)frames, width, height, f->name,
               (long long)(frames * samples * f->bytes));
        free(raw);
        return 1;
    }
    ret = f->bytes == 4 ? compare_float(raw, limit)
                        : compare_levels(f, raw, limit);
    free(raw);
    return ret;
}

/* At most limit levels apart, in a share of them at most. */
static int compare_buffers(const uint8_t *a, size_t na, const uint8_t *b,
                           size_t nb, int limit, double share)
{
    size_t differ = 0;
    int worst = 0;

    for (size_t i = 0; i < na && na == nb; i++) {
        const int e = abs(a[i] - b[i]);

        differ += e > 0;
        worst = e > worst ? e : worst;
    }
    printf("%zu and %zu bytes, %zu differ, at most by %d\n", na, nb, differ,
           worst);
    return !na || na != nb || worst > limit || (double)differ > share * (double)na;
}

static int compare_bytes(const char *pa, const char *pb, int limit)
{
    size_t na, nb;
    uint8_t *a = read_all(pa, &na), *b = read_all(pb, &nb);
    const int ret = compare_buffers(a, na, b, nb, limit, 1);

    free(a);
    free(b);
    return ret;
}

static int compare_rgb24(const char *name, const char *path)
{
    Golden *g = golden_open(name);
    const GoldenTensor *t = golden_find(g, "frames_u8");
    size_t n;
    uint8_t *raw = read_all(path, &n);
    const int ret = compare_buffers(t->raw, (size_t)t->n, raw, n, 1, 0.001);

    free(raw);
    golden_close(&g);
    return ret;
}

static void write_text(const char *dir, const char *name, const char *text)
{
    char path[4096];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    if (!f || fputs(text, f) < 0 || fclose(f)) {
        printf("%s: can't be written\n", path);
        exit(1);
    }
}

static double number(const cJSON *a, const char *key)
{
    const cJSON *v = cJSON_GetObjectItem(a, key);

    if (!cJSON_IsNumber(v))
        golden_fail("no such argument", key);
    return v->valuedouble;
}

static int arguments(Golden *g, const char *dir)
{
    cJSON *a = golden_meta(g, "arguments");
    const cJSON *size = cJSON_GetObjectItem(a, "size");
    const char *solver = cJSON_GetStringValue(
        cJSON_GetObjectItem(a, "sample_solver"));
    const cJSON *scale = cJSON_GetObjectItem(a, "guide_scale");
    const int two = cJSON_IsArray(scale);   // of low noise, of high noise

    write_text(dir, "prompt",
               cJSON_GetStringValue(cJSON_GetObjectItem(a, "prompt")));
    write_text(dir, "negative", golden_meta_string(g, "negative_prompt"));
    printf("size=%dx%d:frames=%.0f:steps=%.0f:guidance=%g:shift=%g:"
           "sampler=%s:seed=%.0f:rng=cpu",
           size->child->valueint, size->child->next->valueint,
           number(a, "frame_num"), number(a, "sampling_steps"),
           two ? scale->child->next->valuedouble : number(a, "guide_scale"),
           number(a, "shift"), solver ? solver : "unipc", number(a, "seed"));
    if (two)
        printf(":guidance2=%g:boundary=%s", scale->child->valuedouble,
               golden_meta_string(g, "boundary"));
    putchar('\n');
    cJSON_Delete(a);
    return 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: compare GOLDEN TENSOR RAW --format F --size WxH "
            "[--limit L]\n       compare --bytes RAW RAW [--limit LEVELS]\n"
            "       compare --rgb24 GOLDEN RAW\n"
            "       compare --arguments GOLDEN DIR\n");
    return 2;
}

int main(int argc, char **argv)
{
    const Format *format = NULL;
    double limit = -1;
    Golden *g;
    int ret;

    if (argc < 4)
        return usage();
    for (int i = 4; i < argc; i += 2) {
        if (i + 1 == argc)
            return usage();
        if (!strcmp(argv[i], "--format")) {
            for (size_t k = 0; k < sizeof(formats) / sizeof(*formats); k++)
                if (!strcmp(argv[i + 1], formats[k].name))
                    format = &formats[k];
        } else if (!strcmp(argv[i], "--size")) {
            if (sscanf(argv[i + 1], "%dx%d", &width, &height) != 2)
                return usage();
        } else if (!strcmp(argv[i], "--limit")) {
            limit = atof(argv[i + 1]);
        } else {
            return usage();
        }
    }

    if (!strcmp(argv[1], "--bytes"))
        return compare_bytes(argv[2], argv[3], limit < 0 ? 1 : (int)limit);
    if (!strcmp(argv[1], "--rgb24"))
        return compare_rgb24(argv[2], argv[3]);
    if (!strcmp(argv[1], "--arguments")) {
        g = golden_open(argv[2]);
        ret = arguments(g, argv[3]);
        golden_close(&g);
        return ret;
    }
    if (!format || width < 1 || height < 1)
        return usage();
    g = golden_open(argv[1]);
    golden = golden_find(g, argv[2]);
    ret = compare_video(argv[3], format,
                        limit >= 0 ? limit : format->bytes == 4 ? 5e-5 : 1);
    golden_close(&g);
    return ret;
}
