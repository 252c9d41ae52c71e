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
    const double tol = tolerance(c->lk) + score * tolerance(c->size);

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
                             4 * (tolerance(l) + tolerance(size)));
    pair_free(&qkv), pair_free(&was);
}

TEST(attention_in_one_buffer)
{
    attention_in_one(1, 1, 24);
    attention_in_one(133, 3, 24);
    attention_in_one(150, 2, 128);
}

/* One key far above the others, found late: the running sum is scaled down
 * again and again and stays exact. */
TEST(attention_rising_scores)
{
    const int64_t Lk = 2600, D = 16;
    Pair q = pair_fill(pair_out(0, 3, D), 0, 1), k = pair_out(0, Lk, D);
    Pair v = pair_random(0, Lk, D), y = pair_out(0, 3, D);

    for (int64_t j = 0; j < Lk; j++)
        for (int64_t c = 0; c < D; c++)
            pair_set(&k, j, c, j * 0.01f);
    wan_op_attention(ref, &y.ref, &q.ref, &k.ref, &v.ref, .heads = 1);
    wan_op_attention(dut, &y.dut, &q.dut, &k.dut, &v.dut, .heads = 1);
    expect_close(&y, 2e-5, "rising");   // scores of 100 round to 2^-18

    for (int64_t i = 0; i < 3; i++)     // and of +-1000: no overflow
        for (int64_t c = 0; c < D; c++)
            pair_set(&q, i, c, i ? 10 : -10);
    wan_op_attention(ref, &y.ref, &q.ref, &k.ref, &v.ref, .heads = 1);
    wan_op_attention(dut, &y.dut, &q.dut, &k.dut, &v.dut, .heads = 1);
    expect_close(&y, 2e-4, "far apart");
    pair_free(&q), pair_free(&k), pair_free(&v), pair_free(&y);
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

static void test_attention(void)
{
    RUN(attention_shapes);
    RUN(attention_options);
    RUN(attention_in_one_buffer);
    RUN(attention_rising_scores);
    RUN(t5_buckets);
}
