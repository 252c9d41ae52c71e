/*
 * Tests of the kernels' number types, and of what has no op.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

static const WanType value_types[] = { WAN_F32, WAN_BF16, WAN_F16 };

/* A typed tensor, and its values once more as dense f32. */
typedef struct Twin {
    WanTensor t, f;
    char *base;
    int64_t bytes;
} Twin;

#define GUARD_BYTE 0xff

/* Row and element sizes of where a twin lies: offset moves it off the
 * alignment that vectors want, extra parts its rows. All that is not an
 * element is 0xff. */
static Twin twin_make(WanType type, int64_t offset, int64_t extra,
                      int64_t rows, int64_t cols)
{
    const int64_t size = wan_type_size(type);
    Twin w = {
        .t = wan_tensor_of(NULL, type, rows, cols),
        .f = wan_tensor_of(NULL, WAN_F32, rows, cols),
    };

    w.t.pitch += extra;
    w.bytes = (offset + rows * w.t.pitch) * size;
    w.base = aligned_alloc(64, (w.bytes + 64) / 64 * 64);
    memset(w.base, GUARD_BYTE, w.bytes);
    w.t.data = w.base + offset * size;
    w.f.data = malloc(rows * cols * sizeof(float) + 1);
    return w;
}

static void *twin_at(const Twin *w, int64_t i, int64_t c)
{
    return (char *)w->t.data +
           (i * w->t.pitch + c) * wan_type_size(w->t.type);
}

static void twin_set(Twin *w, int64_t i, int64_t c, float f)
{
    const uint16_t h = w->t.type == WAN_BF16 ? wan_f32_to_bf16(f)
                                             : wan_f32_to_f16(f);

    if (w->t.type == WAN_F32)
        memcpy(twin_at(w, i, c), &f, 4);
    else
        memcpy(twin_at(w, i, c), &h, 2);
    wan_to_f32(wan_row(&w->f, i) + c, twin_at(w, i, c), w->t.type, 1, 1);
}

static Twin twin_random(WanType type, int64_t offset, int64_t extra,
                        int64_t rows, int64_t cols)
{
    Twin w = twin_make(type, offset, extra, rows, cols);

    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < cols; c++)
            twin_set(&w, i, c, random_normal());
    return w;
}

static void twin_free(Twin *w)
{
    free(w->base);
    free(w->f.data);
}

/* t is f rounded to its type, each element within half a unit in the last
 * place and what f32 sums may lose; nothing beside the rows was written. In
 * F32 the last rounding is one of four that an element's own size bounds: of
 * the row's factor, of two products, of the result. */
static void twin_expect(const Twin *w, double loss, const char *what, int a,
                        int b, int c)
{
    const int64_t rows = wan_rows(&w->t), cols = wan_cols(&w->t);
    const int64_t size = wan_type_size(w->t.type);
    const double half = w->t.type == WAN_BF16 ? 0x1p-8 :
                        w->t.type == WAN_F16 ? 0x1p-11 : 4 * 0x1p-24;
    double sum = 0, worst = 0;
    const uint8_t *p = (const uint8_t *)w->base;
    int outside = 0, at = 0;

    note(&w->t);
    for (int64_t i = 0; i < rows * cols; i++)
        sum += (double)((float *)w->f.data)[i] * ((float *)w->f.data)[i];
    const double rms = sqrt(sum / (double)(rows * cols)) + 1e-30;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < cols; k++) {
            float f;
            const double want = wan_row(&w->f, i)[k];

            wan_to_f32(&f, twin_at(w, i, k), w->t.type, 1, 1);
            const double e = fabs(f - want) /
                (fabs(want) * half * 1.0001 + rms * loss +
                 (w->t.type == WAN_F16 ? 0x1p-25 : 0));
            if (!(e <= worst)) {
                worst = e;
                at = (int)(i * cols + k);
            }
        }
    for (int64_t i = 0; i < w->bytes; i++) {
        const int64_t e = i / size - (w->bytes / size - rows * w->t.pitch);

        if (e < 0 || e % w->t.pitch >= cols)
            outside += p[i] != GUARD_BYTE;
    }
    if (worst > worst_ratio)
        worst_ratio = worst;
    CHECKF(worst <= 1 && !outside && !dut->error, "%s %s [%d,%d] case %d %d "
           "%d: %.3g of what is allowed at %d, %d bytes beside%s%s", what,
           wan_type_name(w->t.type), (int)rows, (int)cols, a, b, c, worst, at,
           outside, dut->error ? ", " : "", dut->error ? dut->message : "");
}

/* Where tensors lie: vectors of 8, of 4, of none. */
static const struct Place { int rows, cols, extra, offset; } places[] = {
    { 7, 96, 0, 0 }, { 3, 192, 8, 8 }, { 5, 384, 4, 0 }, { 2, 100, 0, 4 },
    { 7, 24, 0, 1 }, { 3, 130, 3, 0 }, { 1, 1, 0, 0 }, { 9, 33, 1, 3 },
    { 2, 1536, 1536, 0 }, { 70, 48, 0, 0 },
};
#define NB_PLACES ((int)(sizeof(places) / sizeof(*places)))

enum { T_LN, T_AFFINE, T_MODULATE, T_RMS, T_L2, T_L2_SILU, T_SILU,
       T_GELU_TANH, T_GELU_ERF, T_RELU, T_TANH3, T_COPY, T_MUL, T_GEGLU,
       T_ADD, T_GATE_ADD, T_FILL, T_KINDS };

static const char *const kind_name[] = {
    "layer_norm", "layer_norm affine", "modulate", "rms_norm", "l2_norm",
    "l2_norm silu", "silu", "gelu_tanh", "gelu_erf", "relu", "tanh3", "copy",
    "mul", "geglu",
    "add", "gate_add", "fill",
};

static void type_op(WanDev *d, int kind, WanTensor *y, const WanTensor *a,
                    const WanTensor *b, const WanTensor *g,
                    const WanTensor *h)
{
    const WanOps *ops = d->backend->ops;

    switch (kind) {
    case T_LN:        ops->layer_norm(d, y, a, NULL, NULL, 1e-6f); break;
    case T_AFFINE:    ops->layer_norm(d, y, a, g, h, 1e-6f); break;
    case T_MODULATE:  d == ref ? wan_op_modulate(d, y, a, h, g, 1e-6f)
                               : ops->modulate(d, y, a, h, g, 1e-6f); break;
    case T_RMS:       ops->rms_norm(d, y, a, g, 1e-6f); break;
    case T_L2:        ops->l2_norm(d, y, a, g, WAN_ACT_NONE); break;
    case T_L2_SILU:   ops->l2_norm(d, y, a, g, WAN_ACT_SILU); break;
    case T_SILU:      ops->act(d, y, a, WAN_ACT_SILU); break;
    case T_GELU_TANH: ops->act(d, y, a, WAN_ACT_GELU_TANH); break;
    case T_GELU_ERF:  ops->act(d, y, a, WAN_ACT_GELU_ERF); break;
    case T_RELU:      ops->act(d, y, a, WAN_ACT_RELU); break;
    case T_TANH3:     ops->act(d, y, a, WAN_ACT_TANH3); break;
    case T_COPY:      ops->copy(d, y, a); break;
    case T_MUL:       ops->mul(d, y, a, b); break;
    case T_GEGLU:     d == ref ? wan_op_geglu(d, y, a, b)
                               : ops->geglu(d, y, a, b); break;
    case T_ADD:       ops->gate_add(d, y, a, NULL); break;
    case T_GATE_ADD:  ops->gate_add(d, y, a, g); break;
    default:          ops->fill(d, y, 0.3f);
    }
}

/* Every kind, input and output type, at every place; tables at an address
 * that vectors fit, or not. The output lies a place further. */
TEST(types_and_places)
{
    for (int kind = 0; kind < T_KINDS; kind++)
        for (int tx = 0; tx < 3; tx++)
            for (int ty = 0; ty < 3; ty++)
                for (int i = 0; i < NB_PLACES; i++) {
                    const struct Place p = places[i];
                    const int shift = i % 3 == 2;
                    const int norm = kind <= T_RMS;
                    const WanType tb = value_types[(tx + i) % 3];

                    if (norm && (tx == 2 || ty == 2))
                        continue;       // F16 is the VAE's
                    Twin a = twin_random(value_types[tx], p.offset, p.extra,
                                         p.rows, p.cols);
                    Twin b = twin_random(tb, 0, p.extra, p.rows, p.cols);
                    Twin y = twin_random(value_types[ty], p.offset,
                                         p.extra, p.rows, p.cols);
                    Twin g = twin_random(WAN_F32, shift, 0, 1, p.cols);
                    Twin h = twin_random(WAN_F32, 0, 0, 1, p.cols);

                    type_op(ref, kind, &y.f, &a.f, &b.f, &g.f, &h.f);
                    type_op(dut, kind, &y.t, &a.t, &b.t, &g.t, &h.t);
                    twin_expect(&y, 2e-6, kind_name[kind], tx, ty, i);
                    twin_free(&a), twin_free(&b), twin_free(&y);
                    twin_free(&g), twin_free(&h);
                }
}

/* x += gate branch, y = norm(x): against the ops one after the other. y is
 * the branch itself where its type allows. */
TEST(gate_add_norm)
{
    for (int k = 0; k < 8 * 16; k++)
        for (int i = 0; i < NB_PLACES; i++) {
            const struct Place p = places[i];
            const int gate = k & 1, affine = k >> 1 & 1, one = k >> 2 & 1;
            const int in_place = k >> 6;

            if (in_place && (k >> 4 & 1) != (k >> 5 & 1))
                continue;
            Twin x = twin_random(value_types[k >> 3 & 1], p.offset, 0, p.rows,
                                 p.cols);
            Twin b = twin_random(value_types[k >> 4 & 1], p.offset, p.extra,
                                 p.rows, p.cols);
            Twin y = twin_make(value_types[k >> 5 & 1], 0, p.extra, p.rows,
                               p.cols);
            Twin g = twin_random(WAN_F32, 0, 0, 1, p.cols);
            Twin s = twin_random(WAN_F32, 0, 0, 1, p.cols);
            Twin h = twin_random(WAN_F32, 0, 0, 1, p.cols);
            double parts = 0, sum = 1e-30;  // what a sum loses is its parts'

            for (int64_t e = 0; e < p.rows; e++)
                for (int64_t c = 0; c < p.cols; c++)
                    parts += pow(fabs(wan_row(&x.f, e)[c]) +
                                 fabs(wan_row(&b.f, e)[c] *
                                      (gate ? wan_row(&g.f, 0)[c] : 1)), 2);
            wan_op_gate_add(ref, &x.f, &b.f, gate ? &g.f : NULL);
            for (int64_t e = 0; e < p.rows; e++)
                for (int64_t c = 0; c < p.cols; c++)
                    sum += pow(wan_row(&x.f, e)[c], 2);
            if (in_place) {
                twin_free(&y);
                y = b;
            }
            wan_cuda_gate_add_norm(dut, &y.t, &x.t, &b.t,
                                   gate ? &g.t : NULL, affine ? &s.t : NULL,
                                   affine ? &h.t : NULL, (float)one, 1e-6f);
            twin_expect(&x, 4e-7 * fmax(sqrt(parts / sum), 1),
                        "gate_add_norm x", k, i, 0);
            /* y is the norm of x as it was stored */
            for (int64_t e = 0; e < p.rows; e++)
                wan_to_f32(wan_row(&x.f, e), twin_at(&x, e, 0), x.t.type,
                           p.cols, 1);
            if (affine && one)
                wan_op_modulate(ref, &y.f, &x.f, &h.f, &s.f, 1e-6f);
            else
                wan_op_layer_norm(ref, &y.f, &x.f, affine ? &s.f : NULL,
                                  affine ? &h.f : NULL, 1e-6f);
            twin_expect(&y, 2e-6, "gate_add_norm y", k, i, 0);
            twin_free(&x), twin_free(&y);
            if (!in_place)
                twin_free(&b);
            twin_free(&g), twin_free(&s), twin_free(&h);
        }
}

/* A row wider than registers hold; one that fills all threads. */
TEST(wide_rows)
{
    static const int cols[] = { 5120, 8192, 8196, 16384, 16400 };

    for (int i = 0; i < COUNT(cols); i++)
        for (int bf = 0; bf < 2; bf++) {
            const int C = cols[i];
            WanRope r = { C / 16, { 1, 1, 2 }, { 4, 2, 2 } };
            Twin x = twin_random(value_types[bf], 0, 0, 2, C);
            Twin y = twin_make(value_types[bf], 0, 0, 2, C);
            Twin g = twin_random(WAN_F32, 0, 0, 1, C);
            Twin turn = twin_random(WAN_F32, 0, 0, 2, 8);

            wan_op_rms_norm(ref, &y.f, &x.f, &g.f, 1e-6f);
            dut->backend->ops->rms_norm(dut, &y.t, &x.t, &g.t, 1e-6f);
            twin_expect(&y, 1e-6, "rms_norm", C, bf, 0);
            if (C % 16 == 0) {
                for (int a = 0; a < 3; a++) {
                    r.table[a] = turn.t;
                    r.table[a].dim[0] = r.grid[a];
                    r.table[a].dim[1] = r.table[a].pitch = 2 * r.pairs[a];
                }
                wan_op_rms_norm_rope(ref, &x.f, &g.f, 1e-6f, &r);
                dut->backend->ops->rms_norm_rope(dut, &x.t, &g.t, 1e-6f, &r);
                twin_expect(&x, 2e-6, "rms_norm_rope", C, bf, 0);
            }
            twin_free(&x), twin_free(&y), twin_free(&g), twin_free(&turn);
        }
}

TEST(rope_types)
{
    /* heads of whole vectors; of none; vectors that two heads share */
    static const int kind[3][4] = { { 3, 5, 3, 4 }, { 3, 5, 3, 3 },
                                    { 4, 4, 3, 3 } };

    for (int k = 0; k < 24; k++) {
        const int bf = k & 1, norm = k >> 1 & 1, heads = kind[k / 8][0];
        const int *pairs = kind[k / 8] + 1;
        const int C = 2 * heads * (pairs[0] + pairs[1] + pairs[2]);
        WanRope r = { heads, { 2, 3, 4 }, { pairs[0], pairs[1], pairs[2] } };
        Twin x = twin_random(value_types[bf], k >> 2 & 1, 2 * C, 24, C);
        Twin g = twin_random(WAN_F32, 0, 0, 1, C), table[3];

        for (int a = 0; a < 3; a++) {
            table[a] = twin_random(WAN_F32, 0, 0, r.grid[a], 2 * pairs[a]);
            r.table[a] = table[a].t;
        }
        if (norm) {
            wan_op_rms_norm_rope(ref, &x.f, &g.f, 1e-6f, &r);
            dut->backend->ops->rms_norm_rope(dut, &x.t, &g.t, 1e-6f, &r);
        } else {
            wan_op_rope(ref, &x.f, &r);
            dut->backend->ops->rope(dut, &x.t, &r);
        }
        twin_expect(&x, 2e-6, "rope", k, norm, 0);
        for (int a = 0; a < 3; a++)
            twin_free(&table[a]);
        twin_free(&x), twin_free(&g);
    }
}

/* The ops that reorder, into and out of bf16 and f16. */
TEST(layout_types)
{
    const int I = 5, T = 3, H = 4, W = 10, L = T * H / 2 * W / 2;

    for (int tx = 0; tx < 3; tx++)
        for (int ty = 0; ty < 3; ty++) {
            const WanOps *ops = dut->backend->ops;
            Twin x = twin_random(value_types[tx], 1, 0, I * T * H, W);
            Twin tok = twin_make(value_types[ty], 0, 3, L, I * 4);
            Twin z = twin_random(value_types[tx], 0, 5, L, I * 4);
            Twin back = twin_make(value_types[ty], 0, 0, I * T * H, W);
            Twin a = twin_random(WAN_F32, 1, 0, 1, I);
            Twin b = twin_random(WAN_F32, 0, 0, 1, I);
            Twin last = twin_make(value_types[ty], 0, 0, 2 * H * W, I);
            Twin wide = twin_random(value_types[tx], 0, 0, 2 * H * W, I + 2);
            Twin first = twin_random(value_types[ty], 0, 0, I * T * H, W);
            const WanTensor xs = wan_reshape(&x.t, I, T, H, W);
            const WanTensor xf = wan_reshape(&x.f, I, T, H, W);
            WanTensor bs = wan_reshape(&back.t, I, T, H, W);
            WanTensor bf = wan_reshape(&back.f, I, T, H, W);
            WanTensor ls = wan_reshape(&last.t, 2, H, W, I);
            WanTensor lf = wan_reshape(&last.f, 2, H, W, I);
            const WanTensor ws = wan_reshape(&wide.t, 2, H, W, I + 2);
            const WanTensor wf = wan_reshape(&wide.f, 2, H, W, I + 2);
            WanTensor fs = wan_reshape(&first.t, I, T, H, W);
            WanTensor ff = wan_reshape(&first.f, I, T, H, W);

            if (tx < 2 && ty < 2) {
                wan_op_patchify(ref, &tok.f, &xf, 2);
                ops->patchify(dut, &tok.t, &xs, 2);
                twin_expect(&tok, 0, "patchify", tx, ty, 0);
                wan_op_unpatchify(ref, &bf, &z.f);
                ops->unpatchify(dut, &bs, &z.t);
                twin_expect(&back, 0, "unpatchify", tx, ty, 0);
            }
            wan_op_channels_last(ref, &lf, &xf, 1, &a.f, &b.f);
            ops->channels_last(dut, &ls, &xs, 1, &a.t, &b.t);
            twin_expect(&last, 2e-7, "channels_last", tx, ty, 0);
            wan_op_channels_first(ref, &ff, 1, &wf, &a.f, &b.f);
            ops->channels_first(dut, &fs, 1, &ws, &a.t, &b.t);
            twin_expect(&first, 2e-7, "channels_first", tx, ty, 0);
            twin_free(&x), twin_free(&tok), twin_free(&z), twin_free(&back);
            twin_free(&a), twin_free(&b), twin_free(&last), twin_free(&wide);
            twin_free(&first);
        }
}

/* Positions into channels, and back; both onto what is there. */
TEST(fold_types)
{
    const WanOps *ops = dut->backend->ops;
    const WanFold f = { .t = 2, .s = 2, .add = 1 };
    const int T = 3, H = 2, W = 5, a = 6, b = 12;

    for (int k = 0; k < 3 * 3 * 2; k++) {
        const int tx = k % 3, ty = k / 3 % 3, back = k / 9;
        Twin many = twin_random(value_types[tx], 1, 2, (2 * T - 1) * 4 * H * W,
                                a);
        Twin few = twin_random(value_types[ty], 0, 1, T * H * W, b);
        WanTensor ms = wan_reshape(&many.t, 2 * T - 1, 2 * H, 2 * W, a);
        WanTensor mf = wan_reshape(&many.f, 2 * T - 1, 2 * H, 2 * W, a);
        WanTensor fs = wan_reshape(&few.t, T, H, W, b);
        WanTensor ff = wan_reshape(&few.f, T, H, W, b);

        if (back) {
            wan_op_unfold_(ref, &mf, &ff, f);
            ops->unfold(dut, &ms, &fs, &f);
            twin_expect(&many, 4e-7, "unfold", tx, ty, 0);
        } else {
            wan_op_fold_(ref, &ff, &mf, f);
            ops->fold(dut, &fs, &ms, &f);
            twin_expect(&few, 4e-7, "fold", tx, ty, 0);
        }
        twin_free(&many), twin_free(&few);
    }
}

TEST(embed_types)
{
    static const int32_t ids[] = { 3, 0, 19, 3, 7 };

    for (int t = 0; t < 3; t++)
        for (int i = 0; i < NB_PLACES; i++) {
            WanTensor table = weight_random(t ? WAN_F16 : WAN_F8_E4M3, 1, 20,
                                            places[i].cols);
            Twin y = twin_make(value_types[t], 0, places[i].extra, 5,
                               places[i].cols);

            wan_op_embed(ref, &y.f, &table, ids);
            dut->backend->ops->embed(dut, &y.t, &table, ids);
            twin_expect(&y, 0, "embed", t, i, 0);
            free(table.data);
            twin_free(&y);
        }
}

TEST(finite_types)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };

    for (int t = 0; t < 3; t++)
        for (int i = 0; i < NB_PLACES; i++) {
            const struct Place p = places[i];
            WanDev *d;

            if (!CHECK(emu_open(&d, 4096) == 0))
                return;
            /* what lies between the rows is NaN */
            Twin x = twin_random(value_types[t], p.offset, p.extra, p.rows,
                                 p.cols);
            wan_cuda_finite(d, &x.t, "x");
            CHECKF(!d->error, "%d %d: %s", t, i, d->message);
            twin_set(&x, p.rows - 1, p.cols - 1, bad[i % 3]);
            wan_cuda_finite(d, &x.t, "x");
            CHECKF(d->error == WAN_ERR(EDOM), "%d %d", t, i);
            emu_close(&d);
            twin_free(&x);
        }
}

/* Pixels from activations, into host planes and into the device's: the bytes
 * that image.c writes. */
TEST(image_types)
{
    for (int f = WAN_PIX_YUV420P; f <= WAN_PIX_P010; f++)
        for (int t = 0; t < 3; t++)
            for (int k = 0; k < 4; k++) {
                const int w = 34, h = 10, flip = t == 1;
                const int device = k & 1, dither = k >> 1;
                Twin x = twin_random(value_types[t], 0, 0, h * w, 3);
                const WanTensor rgb = wan_reshape(&x.t, h, w, 3);
                TestImage a = image_make((enum WanPixelFormat)f, w, h, flip);
                TestImage b = image_make((enum WanPixelFormat)f, w, h, flip);

                emu_memory_type = device ? cudaMemoryTypeDevice
                                         : cudaMemoryTypeUnregistered;
                a.img.dither = dither ? WAN_DITHER_BAYER : WAN_DITHER_NONE;
                b.img.dither = a.img.dither;
                wan_image_write(&a.img, x.f.data);
                dut->backend->ops->image(dut, &b.img, &rgb);
                emu_memory_type = cudaMemoryTypeUnregistered;
                for (int p = 0; p < 3; p++)
                    CHECKF(!a.base[p] || !memcmp(a.base[p], b.base[p],
                                                 a.bytes[p]),
                           "format %d type %d plane %d device %d dither %d",
                           f, t, p, device, dither);
                image_free(&a), image_free(&b);
                twin_free(&x);
            }
}

/* nv12 and p010 hold what yuv420p and yuv420p10 do, in the device's planes. */
TEST(image_semiplanar)
{
    for (int ten = 0; ten < 2; ten++) {
        const int w = 34, h = 6, size = 1 + ten, row = (w + 3) * size;
        Twin x = twin_random(WAN_F32, 0, 0, h * w, 3);
        const WanTensor rgb = wan_reshape(&x.t, h, w, 3);
        TestImage a = image_make(ten ? WAN_PIX_YUV420P10 : WAN_PIX_YUV420P, w,
                                 h, 0);
        uint8_t got[2][2 * 37 * 6];
        int bad = 0;
        WanImage b = {
            .format = (enum WanPixelFormat)(WAN_PIX_GBRPF32 + 1 + ten),
            .width = w, .height = h, .data = { got[0], got[1] },
            .stride = { row, row },
        };

        memset(got, IMAGE_GUARD, sizeof(got));
        wan_image_write(&a.img, x.f.data);
        emu_memory_type = cudaMemoryTypeDevice;
        dut->backend->ops->image(dut, &b, &rgb);
        emu_memory_type = cudaMemoryTypeUnregistered;
        for (int p = 0; p < 2; p++)
            for (int i = 0; i < h >> p; i++)
                for (int k = 0; k < row; k++) {
                    const int j = k / size;     // sample of the row
                    int want = IMAGE_GUARD;

                    if (j < w) {
                        want = (int)(p ? image_get(&a, 1 + j % 2, i, j / 2)
                                       : image_get(&a, 0, i, j));
                        want = ten ? want << 6 >> 8 * (k % 2) : want;
                    }
                    bad += got[p][i * row + k] != (uint8_t)want;
                }
        CHECKF(!bad && !dut->error, "%d bits: %d wrong", 8 + 2 * ten, bad);
        image_free(&a);
        twin_free(&x);
    }
}

/* Many rounds of Philox a thread, some of draws before; a launch smaller than the card's. */
TEST(noise_rounds)
{
    static const struct { int64_t n; int threads; } at[] = {
        { 1, 270336 }, { 255, 256 }, { 5000, 512 }, { 70001, 256 },
        { 3000, 1 },
    };

    for (int i = 0; i < COUNT(at); i++) {
        const WanNoise n = { WAN_RNG_CUDA, 0x123456789abcdefu + i,
                             at[i].threads, (uint64_t)i << 31, 0 };
        Pair y = pair_out(0, 1, at[i].n);

        wan_op_draw(ref, &y.ref, &n);
        wan_op_draw(dut, &y.dut, &n);
        expect_close(&y, 1e-7, "%d numbers", (int)at[i].n);
        pair_free(&y);
    }
}

/* ------------------------------------------------- fp8, and conversions */

/* The nearest e4m3 by search, ties to the even code. */
static uint8_t nearest_e4m3(double x)
{
    int best = 0;

    for (int v = 0; v < 127; v++) {
        const double e = fabs(wan_e4m3_to_f32((uint8_t)v) - fabs(x));
        const double b = fabs(wan_e4m3_to_f32((uint8_t)best) - fabs(x));

        if (e < b || (e == b && v % 2 == 0))
            best = v;
    }
    return (uint8_t)(best | (signbit(x) ? 0x80 : 0));
}

TEST(quant_e4m3)
{
    for (int vectors = 0; vectors < 3; vectors++)
        for (int bf = 0; bf < 2; bf++)
            for (int zero = 0; zero < 2; zero++) {
                const int M = 5, K = vectors ? 272 : 77, rowwise = vectors > 1;
                Twin x = twin_random(value_types[bf], 0, vectors ? 8 : 3, M, K);
                uint8_t *q = aligned_alloc(64, 2048);
                float scale[5], want_scale = 0;
                WanTensor y = wan_tensor_of(q, WAN_F8_E4M3, M, K);
                int bad = 0;

                for (int c = 0; c < K && zero; c++)
                    for (int i = 0; i < M; i++)
                        if (!rowwise || i == 2)
                            twin_set(&x, i, c, 0);
                for (int i = 0; i < M * K; i++)
                    want_scale = fmaxf(want_scale,
                                       fabsf(((float *)x.f.data)[i]));
                if (rowwise)
                    wan_cuda_quant_rows_e4m3(dut, &y, scale, &x.t);
                else
                    wan_cuda_quant_e4m3(dut, &y, scale, &x.t);
                for (int i = 0; i < M; i++) {
                    float top = rowwise ? 0 : want_scale, s;

                    for (int c = 0; c < K && rowwise; c++)
                        top = fmaxf(top, fabsf(wan_row(&x.f, i)[c]));
                    s = top > 0 ? top / 448 : 1;
                    bad += scale[rowwise ? i : 0] != s;
                    for (int c = 0; c < K; c++)
                        bad += q[i * K + c] !=
                               nearest_e4m3(wan_row(&x.f, i)[c] * (1 / s));
                }
                CHECKF(!bad, "%d wrong: vectors %d bf16 %d zeros %d", bad,
                       vectors, bf, zero);
                note_bits(q, M * K);
                free(q);
                twin_free(&x);
            }
}

TEST(convert)
{
    static const WanType from[] = { WAN_F32, WAN_BF16, WAN_F16, WAN_F8_E4M3,
                                    WAN_F8_E5M2 };
    const int O = 3, I = 7, P = 27;

    for (int k = 0; k < COUNT(from) * 3 * 2; k++) {
        const WanType tx = from[k % COUNT(from)];
        const WanType ty = value_types[k / COUNT(from) % 3];
        const int taps = k / COUNT(from) / 3 ? P : 1;
        const float scale = taps > 1 ? 1 : 0.37f;
        WanTensor x = weight_random(tx, 1, O, I, taps);
        Twin y = twin_make(ty, 0, 0, O * taps, I);

        for (int o = 0; o < O; o++)
            for (int i = 0; i < I; i++)
                for (int p = 0; p < taps; p++)
                    wan_row(&y.f, o * taps + p)[i] = (float)
                        weight_value(&x, (o * I + i) * taps + p) * scale;
        CHECK(!wan_cuda_convert(NULL, y.t.data, ty, x.data, tx, O, I, taps,
                                scale));
        twin_expect(&y, 0, "convert", k, tx, ty);
        free(x.data);
        twin_free(&y);
    }
    CHECK(wan_cuda_convert(NULL, NULL, WAN_I8, NULL, WAN_F32, 1, 1, 1, 1) < 0);
    CHECK(wan_cuda_convert(NULL, NULL, WAN_F32, NULL, WAN_I8, 1, 1, 1, 1) < 0);
}

/* A whole matrix, in vectors where they fit: every code. */
TEST(widen)
{
    for (int odd = 0; odd < 2; odd++) {
        uint8_t *x = aligned_alloc(64, 1088);
        uint16_t *y = aligned_alloc(64, 2176);
        int bad = 0;

        for (int i = 0; i < 1088; i++)
            x[i] = (uint8_t)i;
        memset(y, 0xff, 2176);
        CHECK(!wan_cuda_convert(NULL, y, WAN_BF16, x + odd, WAN_F8_E4M3, 32,
                                32, 1, 1));
        for (int i = 0; i < 1088; i++)
            bad += y[i] != (i < 1024 ? wan_f32_to_bf16(wan_e4m3_to_f32(
                                           (uint8_t)(i + odd))) : 0xffff);
        CHECKF(!bad, "%d wrong, at +%d", bad, odd);
        free(x), free(y);
    }
}

static void test_types(void)
{
    RUN(types_and_places);
    RUN(gate_add_norm);
    RUN(wide_rows);
    RUN(rope_types);
    RUN(layout_types);
    RUN(fold_types);
    RUN(embed_types);
    RUN(finite_types);
    RUN(image_types);
    RUN(image_semiplanar);
    RUN(noise_rounds);
    RUN(quant_e4m3);
    RUN(convert);
    RUN(widen);
}
