/*
 * Tests of attention.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

typedef struct AttentionCase {
    int64_t lq, lk, heads, size, extra;
    double spread;              // of the scores; 0: 1
    int bias, add, in_place;
    int64_t tail;
    float scale;
} AttentionCase;

static void attention_double(double *y, const AttentionCase *c,
                             const WanTensor *q, const WanTensor *k,
                             const WanTensor *v, const WanTensor *bias)
{
    const double scale = c->scale ? c->scale : (float)(1 / sqrt(c->size));
    const int64_t keys = c->lk + (c->tail > 1 ? c->tail - 1 : 0);

    for (int64_t h = 0; h < c->heads; h++)
        for (int64_t i = 0; i < c->lq; i++) {
            double *out = y + i * c->heads * c->size + h * c->size;
            double total = 0;

            for (int64_t e = 0; e < c->size; e++)
                out[e] = 0;
            for (int64_t jj = 0; jj < keys; jj++) {     // the tail, repeated
                const int64_t j = jj < c->lk ? jj : c->lk - 1;
                double s = 0;

                for (int64_t e = 0; e < c->size; e++)
                    s += (double)wan_row(q, i)[h * c->size + e] *
                         wan_row(k, j)[h * c->size + e];
                s = s * scale +
                    (bias ? wan_row(bias, wan_t5_bucket(j - i))[h] : 0);
                s = exp(s);                 // scores are small in the tests
                total += s;
                for (int64_t e = 0; e < c->size; e++)
                    out[e] += s * wan_row(v, j)[h * c->size + e];
            }
            for (int64_t e = 0; e < c->size; e++)
                out[e] /= total;
        }
}

/* What rounding q and k adds to the relative error of a score, if that is of a
 * product of so many independent numbers: where the device has scores in 8 bits
 * (cpu/attention_rounded.c) each is off by half a step of the largest over 127
 * at most, which is what a layer's inputs and weights are off by. */
static double score_tolerance(int64_t keys, int64_t size, int others)
{
    return keys >= 1024 && size <= 256 && !others ? int8_tolerance()
                                                  : product_tolerance();
}

static void attention_case(const AttentionCase *c)
{
    const int64_t C = c->heads * c->size;
    const double spread = c->spread ? c->spread : 1;
    Pair q = pair_fill(pair_out(c->extra, c->lq, C), spread, 0);
    Pair k = pair_random(c->extra, c->lk, C);
    Pair v = pair_random(c->extra, c->lk, C);
    Pair y = c->add ? pair_random(c->extra, c->lq, C)
                    : pair_out(c->extra, c->lq, C);
    Pair bias = pair_table(32, c->heads);
    Pair *out = c->in_place ? &q : &y;
    double *want = malloc(c->lq * C * sizeof(*want)), err = 0, sum = 0;
    /* an error e of a score is a relative error e of its weight */
    const double score = spread * (c->scale ? c->scale * sqrt(c->size) : 1);
    const double tol = tolerance(c->lk) + product_tolerance() +
                       score * (tolerance(c->size) + score_tolerance(
                                    c->lk, c->size,
                                    c->bias || c->add || c->tail > 1));

    attention_double(want, c, &q.ref, &k.ref, &v.ref,
                     c->bias ? &bias.ref : NULL);
    for (int64_t i = 0; i < c->lq * C && c->add; i++)
        want[i] += wan_row(&y.ref, i / C)[i % C];
    wan_op_attention(ref, &out->ref, &q.ref, &k.ref, &v.ref,
                     .heads = (int)c->heads, .scale = c->scale,
                     .rel_bias = c->bias ? &bias.ref : NULL, .tail = c->tail,
                     .add = c->add);
    wan_op_attention(dut, &out->dut, &q.dut, &k.dut, &v.dut,
                     .heads = (int)c->heads, .scale = c->scale,
                     .rel_bias = c->bias ? &bias.dut : NULL, .tail = c->tail,
                     .add = c->add);
    for (int64_t i = 0; i < c->lq * C; i++) {
        const double e = wan_row(&out->ref, i / C)[i % C] - want[i];

        err += e * e;
        sum += want[i] * want[i];
    }
    CHECKF(err <= sum * 0x1p-46, "ref: %g", sqrt(err / sum));
    expect_close(out, tol, "%dx%d, %d heads of %d, bias %d tail %d add %d "
                 "in place %d", (int)c->lq, (int)c->lk, (int)c->heads,
                 (int)c->size, c->bias, (int)c->tail, c->add, c->in_place);
    free(want);
    pair_free(&q), pair_free(&k), pair_free(&v), pair_free(&y);
    pair_free(&bias);
}

TEST(attention_shapes)
{
    static const int64_t l[] = { 1, 7, 127, 513 };
    static const int64_t size[] = { 24, 48, 130 };

    for (int i = 0; i < COUNT(l); i++)
        for (int j = 0; j < COUNT(l); j++)
            for (int s = 0; s < COUNT(size); s++)
                attention_case(&(AttentionCase){ l[i], l[j], 1 + s % 2,
                                                 size[s], (i + j) % 2 * 9 });
    attention_case(&(AttentionCase){ 140, 1100, 1, 384, 0 });
    attention_case(&(AttentionCase){ 257, 257, 3, 2, 1 });
    /* BF16 packs so many keys for all threads */
    attention_case(&(AttentionCase){ 130, 8205, 3, 24, 7 });
    attention_case(&(AttentionCase){ 61, 9300, 2, 16, 3, .tail = 9,
                                     .in_place = 1 });
}

TEST(attention_options)
{
    for (int i = 0; i < 16; i++)
        attention_case(&(AttentionCase){ 133, 517, 2, 24, 3, .bias = i & 1,
                                         .tail = i & 2 ? 77 : 0,
                                         .add = i >> 2 & 1,
                                         .in_place = (i >> 2 & 3) == 2,
                                         .scale = i & 8 ? 0.1f : 0 });
    attention_case(&(AttentionCase){ 30, 30, 4, 64, 0, .bias = 1,
                                     .scale = 1, .spread = 0.5 });
    attention_case(&(AttentionCase){ 5, 1, 2, 8, 0, .tail = 500 });
}

/* q, k and v as columns of one buffer, the result in q's place: k and v stay
 * what they were. */
static void attention_in_one(int64_t l, int64_t heads, int64_t size)
{
    const int64_t C = heads * size;
    Pair qkv = pair_random(0, l, 3 * C), was = pair_out(0, l, 3 * C);

    memcpy(was.ref.data, qkv.ref.data, qkv.floats * sizeof(float));
    for (int k = 0; k < 2; k++) {
        const WanTensor *all = k ? &qkv.dut : &qkv.ref;
        const WanTensor key = wan_columns(all, C, C);
        const WanTensor value = wan_columns(all, 2 * C, C);
        WanTensor q = wan_columns(all, 0, C);

        wan_op_attention(k ? dut : ref, &q, &q, &key, &value,
                         .heads = (int)heads);
    }
    dut_done();
    for (int64_t i = 0; i < l; i++)
        for (int64_t c = C; c < 3 * C; c++)
            CHECK(dut_get(&qkv, i, c) == wan_row(&was.ref, i)[c] &&
                  wan_row(&qkv.ref, i)[c] == wan_row(&was.ref, i)[c]);
    double err = 0, sum = 0;
    for (int64_t i = 0; i < l; i++)
        for (int64_t c = 0; c < C; c++) {
            const double e = dut_get(&qkv, i, c) - wan_row(&qkv.ref, i)[c];

            err += e * e;
            sum += wan_row(&qkv.ref, i)[c] * wan_row(&qkv.ref, i)[c];
        }
    CHECK(sqrt(err / sum) <= (dut_act == WAN_BF16 ? 0x1p-8 : 0) +
                             4 * (tolerance(l) + tolerance(size)) +
                             2 * product_tolerance());
    pair_free(&qkv), pair_free(&was);
}

TEST(attention_in_one_buffer)
{
    attention_in_one(1, 1, 24);
    attention_in_one(133, 3, 24);
    attention_in_one(150, 2, 128);
}

/* One key far above the others, found late: the running sum is scaled down
 * again and again and stays exact. Rounding keys would make other scores of
 * them; that of queries makes all scores larger or smaller by as much. */
static void rising_scores(int64_t Lk)
{
    const int64_t D = 16;
    const double rounded = 2 * factor_tolerance();
    double most = 0;
    Pair q = pair_fill(pair_out(0, 3, D), 0, 1), k = pair_out(0, Lk, D);
    Pair v = pair_random(0, Lk, D), y = pair_out(0, 3, D);

    for (int64_t j = 0; j < Lk; j++)
        for (int64_t c = 0; c < D; c++)
            pair_set(&k, j, c, to_few_bits(j * 0.01f));
    wan_op_attention(ref, &y.ref, &q.ref, &k.ref, &v.ref, .heads = 1);
    wan_op_attention(dut, &y.dut, &q.dut, &k.dut, &v.dut, .heads = 1);
    for (int64_t i = 0; i < 3; i++) {
        double terms = 0;

        for (int64_t c = 0; c < D; c++)
            terms += fabs(wan_row(&q.ref, i)[c] * 0.01 * Lk / sqrt(D));
        most = fmax(most, terms);
    }
    /* A weight is off by what two scores are: the key's and the largest. */
    expect_close(&y, 2 * tolerance(D) * most + rounded, "rising");

    for (int64_t i = 0; i < 3; i++)     // and of +-1000: no overflow
        for (int64_t c = 0; c < D; c++)
            pair_set(&q, i, c, i ? 10 : -10);
    wan_op_attention(ref, &y.ref, &q.ref, &k.ref, &v.ref, .heads = 1);
    wan_op_attention(dut, &y.dut, &q.dut, &k.dut, &v.dut, .heads = 1);
    expect_close(&y, 2e-4 + rounded, "far apart");
    pair_free(&q), pair_free(&k), pair_free(&v), pair_free(&y);
}

/* The largest in a block of keys that is not whole, and in one that is. */
TEST(attention_rising_scores)
{
    rising_scores(2600);
    rising_scores(2560);
}

static void attention_on_both(Pair *y, const Pair *q, const Pair *k,
                              const Pair *v, int heads)
{
    wan_op_attention(ref, &y->ref, &q->ref, &k->ref, &v->ref, .heads = heads);
    wan_op_attention(dut, &y->dut, &q->dut, &k->dut, &v->dut, .heads = heads);
}

/* A NaN or an infinity in queries, keys or values of the second head of three:
 * the others are as they were. */
TEST(attention_special)
{
    static const int64_t l[][2] = { { 1, 1 }, { 5, 9 }, { 130, 40 },
                                    { 3, 700 }, { 8, 960 } };
    const float special[] = { NAN, INFINITY, -INFINITY };

    for (int i = 0; i < COUNT(l) * 9; i++) {
        const int64_t Lq = l[i / 9][0], Lk = l[i / 9][1], D = 24;
        Pair q = pair_random(3, Lq, 3 * D), k = pair_random(0, Lk, 3 * D);
        Pair v = pair_random(5, Lk, 3 * D), y = pair_out(1, Lq, 3 * D);
        Pair *in = i % 3 == 0 ? &q : i % 3 == 1 ? &k : &v;

        pair_set(in, (in == &q ? Lq : Lk) - 1, D + 5, special[i / 3 % 3]);
        if (in == &k)                   // a score of infinity, not of minus it
            pair_set(&q, 0, D + 5, special[i / 3 % 3] < 0 ? -1 : 1);
        attention_on_both(&y, &q, &k, &v, 3);
        expect_kinds(&y, "%dx%d, %g in %s", (int)Lq, (int)Lk,
                     special[i / 3 % 3], in == &q ? "q" : in == &k ? "k" : "v");
        pair_free(&q), pair_free(&k), pair_free(&v), pair_free(&y);
    }
}

TEST(attention_denormal)
{
    for (int n = 0; n < 6; n++) {
        const int64_t Lk = n / 3 ? 1100 : 70;
        const int i = n % 3;
        Pair q = pair_fill(pair_out(0, 37, 48), i == 0 ? 1e-39 : 1, 0);
        Pair k = pair_fill(pair_out(0, Lk, 48), i == 1 ? 1e-39 : 1, 0);
        Pair v = pair_fill(pair_out(0, Lk, 48), i == 2 ? 1e-39 : 1, 0);
        Pair y = pair_out(0, 37, 48);

        attention_on_both(&y, &q, &k, &v, 2);
        if (i == 2)
            expect_tiny(&y, "values");
        else
            expect_close(&y, tolerance(Lk) + product_tolerance(), "%s of %d",
                         i ? "keys" : "queries", (int)Lk);
        pair_free(&q), pair_free(&k), pair_free(&v), pair_free(&y);
    }
}

/* A query's bits don't depend on the others, a head's not on other heads, and
 * none on the number of threads: so ranks may have some of them each. */
static void attention_apart(int64_t Lk)
{
    const int64_t Lq = 300, D = 24, C = 3 * D;
    Pair q = pair_random(0, Lq, C), k = pair_random(0, Lk, C);
    Pair v = pair_random(0, Lk, C), y = pair_out(0, Lq, C);
    Pair some = pair_out(0, Lq, C);
    WanDev *more;

    wan_op_attention(dut, &y.dut, &q.dut, &k.dut, &v.dut, .heads = 3);
    for (int64_t i = 0, n = 1; i < Lq; i += n, n = n * 2 + 1) {
        const int64_t rows = n < Lq - i ? n : Lq - i;
        const WanTensor from = wan_slice(&q.dut, i, rows);
        WanTensor to = wan_slice(&some.dut, i, rows);

        wan_op_attention(dut, &to, &from, &k.dut, &v.dut, .heads = 3);
    }
    CHECKF(!memcmp(y.dut.data, some.dut.data, y.floats * sizeof(float)),
           "rows, %d keys", (int)Lk);
    wan_op_fill(dut, &some.dut, 0);
    for (int64_t h = 0; h < C; h += D) {
        const WanTensor from = wan_columns(&q.dut, h, D);
        const WanTensor key = wan_columns(&k.dut, h, D);
        const WanTensor value = wan_columns(&v.dut, h, D);
        WanTensor to = wan_columns(&some.dut, h, D);

        wan_op_attention(dut, &to, &from, &key, &value, .heads = 1);
    }
    CHECKF(!memcmp(y.dut.data, some.dut.data, y.floats * sizeof(float)),
           "heads, %d keys", (int)Lk);
    if (CHECK(wan_dev_open(&more, dut->backend->name, 7, 256 << 20, NULL) ==
              0)) {
        wan_op_fill(more, &some.dut, 0);
        wan_op_attention(more, &some.dut, &q.dut, &k.dut, &v.dut, .heads = 3);
        CHECKF(!memcmp(y.dut.data, some.dut.data, y.floats * sizeof(float)),
               "threads, %d keys", (int)Lk);
        wan_dev_close(&more);
    }
    pair_free(&q), pair_free(&k), pair_free(&v), pair_free(&y);
    pair_free(&some);
}

TEST(attention_bits)
{
    attention_apart(600);
    attention_apart(1300);
    if (!UNDER_SANITIZERS)
        attention_apart(8300);
}

/* ------------------------------------------------------ scores in 8 bits */

TEST(scores_in_8_bits)
{
    static const int64_t lq[] = { 1, 7, 121, 250 };
    static const int64_t lk[] = { 1024, 1025, 1300, 1791, 8449 };
    static const int64_t size[] = { 2, 24, 64, 128, 130, 256 };

    for (int i = 0; i < 20; i += 1 + UNDER_SANITIZERS * 2)
        attention_case(&(AttentionCase){ lq[i % 4], lk[i % 5], 1 + i % 3,
                                         size[i % 6], i % 2 * 9,
                                         .in_place = i % 7 == 0,
                                         .scale = i % 9 == 1 ? 0.1f : 0 });
    attention_case(&(AttentionCase){ 130, 1023, 2, 48, 0 });
    attention_case(&(AttentionCase){ 90, 1100, 2, 64, 0, .spread = 2 });
}

/* Keys with a mean far larger than what they differ by, which rounded as it is
 * would cost them a step of its size over 127. */
TEST(scores_smoothed)
{
    const int64_t Lq = 130, Lk = 1400, D = 64;
    Pair q = pair_random(0, Lq, D), k = pair_random(0, Lk, D);
    Pair v = pair_random(0, Lk, D), y = pair_out(0, Lq, D);

    for (int64_t j = 0; j < Lk; j++)
        for (int64_t c = 0; c < D; c++)
            pair_set(&k, j, c, wan_row(&k.ref, j)[c] +
                               (float)(c % 5 - 2) * 16);
    attention_on_both(&y, &q, &k, &v, 1);
    expect_close(&y, 32 * (tolerance(Lk) + tolerance(D)) + product_tolerance() +
                 int8_tolerance(), "smoothed");
    pair_free(&q), pair_free(&k), pair_free(&v), pair_free(&y);
}

/* One key and one query with a number so large that little is left of their
 * others: in columns in which queries and keys are 0, so that it is in no score
 * itself. Half a step of 100 / 127, by its root of the mean square, is what
 * scores of 1 are off by: all of one query, and one of each other's. */
TEST(scores_with_outliers)
{
    const int64_t Lq = 130, Lk = 1400, D = 64;
    const double lost = 100.0 / 127 / sqrt(12);
    Pair q = pair_random(0, Lq, D), k = pair_random(0, Lk, D);
    Pair v = pair_random(0, Lk, D), y = pair_out(0, Lq, D);

    for (int64_t i = 0; i < Lq; i++)
        pair_set(&q, i, 5, 0);
    for (int64_t j = 0; j < Lk; j++)
        pair_set(&k, j, 9, 0);
    pair_set(&q, 77, 9, 100);
    pair_set(&k, 1111, 5, -100);
    attention_on_both(&y, &q, &k, &v, 1);
    expect_close(&y, tolerance(Lk) + product_tolerance() + int8_tolerance() +
                 lost * (1 / sqrt(Lq) + 1 / sqrt(Lk)), "outliers");
    pair_free(&q), pair_free(&k), pair_free(&v), pair_free(&y);
}

/* What is not finite is seen: a query in its row, a key in all rows, since it
 * is in the mean, a value in its column; other heads are as they were. */
TEST(scores_special)
{
    const float special[] = { NAN, INFINITY, -INFINITY };
    const int64_t Lq = 9, D = 24, at = D + 5;

    for (int i = 0; i < 18; i++) {
        const int64_t Lk = i / 9 ? 8300 : 1100;
        Pair q = pair_random(3, Lq, 3 * D), k = pair_random(0, Lk, 3 * D);
        Pair v = pair_random(5, Lk, 3 * D), y = pair_out(1, Lq, 3 * D);
        Pair *in = i % 3 == 0 ? &q : i % 3 == 1 ? &k : &v;
        int bad = 0;

        pair_set(in, in == &q ? Lq - 2 : Lk - 3, at, special[i / 3 % 3]);
        wan_op_attention(dut, &y.dut, &q.dut, &k.dut, &v.dut, .heads = 3);
        for (int64_t r = 0; r < Lq; r++)
            for (int64_t c = 0; c < 3 * D; c++)
                bad += !isfinite(dut_get(&y, r, c)) !=
                       (c / D == 1 && (in == &q ? r == Lq - 2 :
                                       in == &k || c == at));
        CHECKF(!bad, "%g in %s of %d: %d", special[i / 3 % 3],
               in == &q ? "q" : in == &k ? "k" : "v", (int)Lk, bad);
        pair_free(&q), pair_free(&k), pair_free(&v), pair_free(&y);
    }
}

typedef struct RingCase {
    int64_t frames, sink, tokens;   // of the ring, in frames of tokens
    int64_t block, calls;           // frames of a block, blocks one by one
    int64_t heads, pairs[3];
    int rope, in_place;
} RingCase;

/* Softmax over the last blocks as they were, and the first sink frames, turned
 * by their place among those: a list where the op has a ring. */
static void ring_double(double *y, const RingCase *c, const WanTensor *q,
                        const WanTensor *k, const WanTensor *v,
                        const int64_t *held, int64_t n, const WanRope *rope)
{
    const int64_t C = wan_cols(q), D = C / c->heads;

    for (int64_t i = 0; i < wan_rows(q); i++)
        for (int64_t h = 0; h < C; h += D) {
            double total = 0;

            for (int64_t e = 0; e < D; e++)
                y[i * C + h + e] = 0;
            for (int64_t j = 0; j < n * c->tokens; j++) {
                const int64_t row = held[j / c->tokens] * c->tokens +
                                    j % c->tokens;
                const int64_t cols = rope->grid[2], rows = rope->grid[1];
                const int64_t at[3] = { j / c->tokens,
                                        row % c->tokens / cols % rows,
                                        row % cols };
                double s = 0;

                for (int64_t a = 0, e = h; a < 3; a++)
                    for (int64_t p = 0; p < c->pairs[a]; p++, e += 2) {
                        const float *turn = wan_row(&rope->table[a], at[a]);
                        const double re = wan_row(k, row)[e];
                        const double im = wan_row(k, row)[e + 1];
                        const double cos = c->rope ? turn[2 * p] : 1;
                        const double sin = c->rope ? turn[2 * p + 1] : 0;

                        s += wan_row(q, i)[e] * (re * cos - im * sin) +
                             wan_row(q, i)[e + 1] * (re * sin + im * cos);
                    }
                s = exp(s / sqrt((double)D));
                total += s;
                for (int64_t e = h; e < h + D; e++)
                    y[i * C + e] += s * wan_row(v, row)[e];
            }
            for (int64_t e = h; e < h + D; e++)
                y[i * C + e] /= total;
        }
}

/* Frames that are held when those before end are: the sink, then the last. */
static int64_t ring_held(int64_t *held, const RingCase *c, int64_t end)
{
    int64_t n = 0;

    for (int64_t f = 0; f < end; f++)
        if (f < c->sink || f >= end - (c->frames - c->sink))
            held[n++] = f;
    return n;
}

static int64_t ring_slot(const RingCase *c, int64_t f)
{
    return f < c->sink ? f : c->sink + (f - c->sink) % (c->frames - c->sink);
}

static void ring_case(const RingCase *c)
{
    const int64_t D = 2 * (c->pairs[0] + c->pairs[1] + c->pairs[2]);
    const int64_t C = c->heads * D, L = c->block * c->tokens;
    const int64_t all = c->calls * c->block;
    Pair keys = pair_random(0, c->frames * c->tokens, C);
    Pair values = pair_random(0, c->frames * c->tokens, C);
    Pair k = pair_random(0, all * c->tokens, C);
    Pair v = pair_random(0, all * c->tokens, C);
    Pair table[3], slots = pair_table(c->frames, 2 * c->pairs[0]);
    const int64_t size[3] = { c->frames, 2, c->tokens / 2 };
    WanRope rope = { (int)c->heads, { 0, (int)size[1], (int)size[2] },
                     { (int)c->pairs[0], (int)c->pairs[1],
                       (int)c->pairs[2] } };
    double *want = malloc(L * C * sizeof(*want));
    int64_t *held = malloc(all * sizeof(*held));

    for (int a = 0; a < 3; a++)
        table[a] = pair_table(size[a], 2 * c->pairs[a]);
    for (int64_t b = 0; b < c->calls; b++) {
        const int64_t first = b * c->block;
        const int64_t n = ring_held(held, c, first + c->block);
        Pair q = pair_random(3, L, C), y = pair_out(3, L, C);
        Pair *out = c->in_place ? &q : &y;
        WanRope turn = rope;

        for (int a = 0; a < 3; a++)
            turn.table[a] = table[a].ref;
        ring_double(want, c, &q.ref, &k.ref, &v.ref, held, n, &turn);
        for (int64_t i = 0; i < n; i++)     // the place of each slot's frame
            for (int64_t e = 0; e < 2 * c->pairs[0]; e++)
                pair_set(&slots, ring_slot(c, held[i]), e,
                         wan_row(&table[0].ref, i)[e]);
        for (int w = 0; w < 2; w++) {
            WanDev *d = w ? dut : ref;
            const WanTensor ks = wan_slice(w ? &k.dut : &k.ref,
                                           first * c->tokens, L);
            const WanTensor vs = wan_slice(w ? &v.dut : &v.ref,
                                           first * c->tokens, L);

            turn.grid[0] = (int)n;
            for (int a = 0; a < 3; a++)
                turn.table[a] = w ? table[a].dut : table[a].ref;
            turn.table[0] = wan_slice(w ? &slots.dut : &slots.ref, 0, n);
            wan_op_ring_attention(d, w ? &out->dut : &out->ref,
                                  w ? &q.dut : &q.ref, &ks, &vs,
                                  w ? &keys.dut : &keys.ref,
                                  w ? &values.dut : &values.ref,
                                  .heads = (int)c->heads,
                                  .sink = c->sink * c->tokens,
                                  .at = ring_slot(c, first) * c->tokens,
                                  .held = n * c->tokens,
                                  .rope = c->rope ? &turn : NULL);
        }
        double err = 0, sum = 0;
        for (int64_t i = 0; i < L * C; i++) {
            const double e = wan_row(&out->ref, i / C)[i % C] - want[i];

            err += e * e;
            sum += want[i] * want[i];
        }
        CHECKF(err <= sum * 0x1p-46, "ref, block %d: %g", (int)b,
               sqrt(err / sum));
        expect_close(out, (c->rope ? 2 : 1) * tolerance(n * c->tokens) +
                     2 * tolerance(D) + product_tolerance() +
                     score_tolerance(n * c->tokens, D, 0),
                     "block %d of %d frames, ring %d behind %d, rope %d",
                     (int)b, (int)c->block, (int)c->frames,
                     (int)c->sink, c->rope);
        expect_close(&keys, 1e-12, "keys of block %d", (int)b);
        expect_close(&values, 1e-12, "values of block %d", (int)b);
        pair_free(&q), pair_free(&y);
    }
    for (int a = 0; a < 3; a++)
        pair_free(&table[a]);
    pair_free(&k), pair_free(&v), pair_free(&keys), pair_free(&values);
    pair_free(&slots);
    free(want);
    free(held);
}

TEST(ring_attention)
{
    for (int i = 0; i < 4; i += 1 + UNDER_SANITIZERS * 2) {
        const int rope = i & 1, in_place = i >> 1;

        ring_case(&(RingCase){ 7, 1, 6, 3, 6, 2, { 4, 2, 3 }, rope,
                               in_place });
        ring_case(&(RingCase){ 9, 3, 4, 3, 5, 1, { 2, 3, 3 }, rope,
                               in_place });
        ring_case(&(RingCase){ 4, 0, 70, 1, 7, 3, { 8, 8, 8 }, rope,
                               in_place });
    }
    ring_case(&(RingCase){ 6, 3, 180, 3, 3, 2, { 22, 21, 21 }, 1, 0 });
}

/* A block that is only kept: nothing else is written or read. */
TEST(ring_keeps)
{
    Pair keys = pair_random(0, 20, 8), values = pair_random(0, 20, 8);
    Pair k = pair_random(2, 7, 8), v = pair_random(2, 7, 8);

    for (int w = 0; w < 2; w++)
        wan_op_ring_attention(w ? dut : ref, NULL, NULL, w ? &k.dut : &k.ref,
                              w ? &v.dut : &v.ref, w ? &keys.dut : &keys.ref,
                              w ? &values.dut : &values.ref, .heads = 2,
                              .sink = 5, .at = 17, .held = 20);
    dut_done();
    for (int64_t i = 0; i < 7; i++)
        for (int64_t c = 0; c < 8; c++) {
            const int64_t row = i < 3 ? 17 + i : 5 + i - 3;

            CHECK(wan_row(&keys.ref, row)[c] == wan_row(&k.ref, i)[c]);
            CHECK(wan_row(&values.ref, row)[c] == wan_row(&v.ref, i)[c]);
        }
    expect_close(&keys, 1e-12, "keys");
    expect_close(&values, 1e-12, "values");
    pair_free(&k), pair_free(&v), pair_free(&keys), pair_free(&values);
}

TEST(t5_buckets)
{
    static const int at[][2] = {
        { 0, 0 }, { -1, 1 }, { 1, 17 }, { 7, 23 }, { -7, 7 }, { -8, 8 },
        { 11, 24 }, { 12, 25 }, { -15, 9 }, { 16, 26 }, { -22, 10 },
        { 23, 27 }, { 31, 27 }, { 32, 28 }, { 45, 28 }, { 46, 29 },
        { 63, 29 }, { 64, 30 }, { 90, 30 }, { 91, 31 }, { -91, 15 },
        { 511, 31 }, { -100000, 15 },
    };

    for (int i = 0; i < COUNT(at); i++)
        CHECKF(wan_t5_bucket(at[i][0]) == at[i][1], "%d: %d", at[i][0],
               wan_t5_bucket(at[i][0]));
}

static void test_ring(void)
{
    RUN(ring_attention);
    RUN(ring_keeps);
}

static void test_attention(void)
{
    RUN(attention_shapes);
    RUN(attention_options);
    RUN(attention_in_one_buffer);
    if (factor_tolerance() > 0)
        RUN_FEW_BITS(attention_rising_scores);
    else
        RUN(attention_rising_scores);
    RUN_CPU(attention_bits);
    RUN_CPU(attention_special);
    RUN_CPU(attention_denormal);
    if (dut->backend->precision == WAN_PRECISION_INT8 &&
        !wan_int8_beside_f32()) {
        RUN(scores_in_8_bits);
        RUN(scores_smoothed);
        RUN(scores_with_outliers);
        RUN(scores_special);
    }
    RUN(t5_buckets);
}
