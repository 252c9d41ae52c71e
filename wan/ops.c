/*
 * The front door of the ops: checks, trace, work count, cancel, composition.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ops.h"
#include "rng.h"

/* ------------------------------------------------------------- the door */

/* Whether an op should run now; keeps WAN_CANCELLED as the first error. */
static int ready(WanDev *d)
{
    if (d->error)
        return 0;
    if (wan_dev_cancelled(d)) {
        wan_dev_fail(d, WAN_CANCELLED, "cancelled");
        return 0;
    }
    return 1;
}

/* A broken contract is our bug, not the user's: name it and stop. */
#define REQUIRE(d, op, cond) \
    do { \
        if (!(cond)) { \
            wan_dev_fail((d), WAN_ERR(EINVAL), "%s: %s does not hold", \
                         op, #cond); \
            return; \
        } \
    } while (0)

/* "[32760,1536]" */
static const char *shape(const WanTensor *t, char *buf, size_t size)
{
    size_t n = snprintf(buf, size, "[");

    for (int i = 0; i < t->nb_dims && n < size; i++)
        n += snprintf(buf + n, size - n, "%s%lld", i ? "," : "",
                      (long long)t->dim[i]);
    if (n < size)
        snprintf(buf + n, size - n, "]");
    return buf;
}

static double bytes_of(const WanTensor *t)
{
    return t ? (double)wan_type_bytes(t->type, wan_count(t)) : 0;
}

/* One line: op, destination, sources, options. x2 and opt may be NULL. */
static void trace(WanDev *d, const char *op, const WanTensor *y,
                  const WanTensor *x, const WanTensor *x2, const char *opt)
{
    char a[64], b[64], c[64], line[256];

    d->bytes += bytes_of(y) + bytes_of(x) + bytes_of(x2);
    if (!d->trace)
        return;
    snprintf(line, sizeof(line), "%s %s%s%s%s%s%s%s", op,
             shape(y, a, sizeof(a)),
             x ? " <- " : "", x ? shape(x, b, sizeof(b)) : "",
             x2 ? " " : "", x2 ? shape(x2, c, sizeof(c)) : "",
             opt && *opt ? " " : "", opt ? opt : "");
    d->trace(d->trace_opaque, line);
}

/* Composed forms run through the front door again, without a trace line and
 * without being counted twice. */
typedef struct Inner {
    void (*trace)(void *, const char *);
    double flops, bytes;
    WanMark mark;
} Inner;

static Inner inner_begin(WanDev *d)
{
    const Inner in = { d->trace, d->flops, d->bytes, wan_mark(d) };

    d->trace = NULL;
    return in;
}

static void inner_end(WanDev *d, Inner in)
{
    d->trace = in.trace;
    d->flops = in.flops;
    d->bytes = in.bytes;
    wan_release(d, in.mark);
}

/* Reserve an entry's scratch; 0 when the arena has no room. */
static int scratch_begin(WanDev *d, int64_t bytes, WanMark *mark)
{
    *mark = wan_mark(d);
    d->scratch = NULL;
    d->scratch_bytes = bytes;
    if (bytes > 0) {
        WanTensor t = wan_tmp_type(d, WAN_U8, bytes);
        d->scratch = t.data;
    }
    return !d->error;
}

static void scratch_end(WanDev *d, WanMark mark)
{
    wan_release(d, mark);
    d->scratch = NULL;
    d->scratch_bytes = 0;
    /* An entry that stopped early left its output unfinished. */
    ready(d);
}

/* Call an entry of the table, but not when only counting. */
#define CALL(d, entry, ...) \
    do { \
        if (!(d)->plan) { \
            wan_dev_enter(d); \
            (d)->backend->ops->entry((d), __VA_ARGS__); \
            wan_dev_leave(d); \
        } \
    } while (0)

/* The plan writes down in which order matrices will be wanted, n as one. */
static void note(WanDev *d, int n, const WanTensor *const *w, int conv,
                 int e4m3, const WanTensor *x)
{
    if (d->plan && d->pager) {
        WanType type = x->type;
        int64_t bytes = 0;

        for (int i = 0; i < n; i++)
            bytes += d->backend->page_bytes(w[i], e4m3, x, &type);
        wan_pager_note_parts(d->pager, n, w, conv, type, bytes);
    }
}

static int same_matrix(const WanTensor *a, const WanTensor *b)
{
    return wan_rows(a) == wan_rows(b) && wan_cols(a) == wan_cols(b);
}

static int is_vector(const WanTensor *t, int64_t n)
{
    return t->nb_dims && t->type == WAN_F32 && wan_count(t) == n;
}

/* F32 or the device's activations. */
static int is_value(const WanDev *d, const WanTensor *t)
{
    return t->type == WAN_F32 || t->type == d->backend->act;
}

static int are_values(const WanDev *d, const WanTensor *a, const WanTensor *b)
{
    return is_value(d, a) && is_value(d, b);
}

static int is_dense(const WanTensor *t)
{
    return t->pitch == wan_cols(t);
}

static const char *act_name(WanAct act)
{
    static const char *const name[] = { "", "silu", "gelu_tanh", "gelu_erf",
                                        "relu", "tanh3" };
    return name[act];
}

/* --------------------------------------------------------- large ops */

/* y = act(x W^T + b + sum of up(down(x))), gated or added. */
static void linear_low(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanLinear *w, WanLinearArgs a)
{
    const Inner in = inner_begin(d);
    WanLinear alone = *w;

    alone.nb_low = 0;
    wan_op_linear(d, y, x, &alone, .add = a.add, .gate = a.gate);
    for (int i = 0; i < w->nb_low; i++) {
        const WanLowRank *low = &w->low[i];
        const WanMark mark = wan_mark(d);
        WanTensor t = wan_tmp_type(d, x->type, wan_rows(x),
                                   low->down.weight.dim[0]);

        wan_op_linear(d, &t, x, &low->down);                    // [L, rank]
        wan_op_linear(d, y, &t, &low->up, .add = 1, .gate = a.gate);
        wan_release(d, mark);
    }
    if (a.act)
        wan_op_act(d, y, y, a.act);
    inner_end(d, in);
}

static int any_low(int n, const WanLinear *const *w)
{
    int low = 0;

    while (n-- > 0)
        low |= w[n]->nb_low;
    return low;
}

void wan_op_linear_(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanLinear *w, WanLinearArgs a)
{
    const WanOps *ops = d->backend->ops;
    const WanTensor *const weight = &w->weight;
    const double m = wan_rows(y), n = wan_cols(y), k = wan_cols(x);
    char opt[64];
    WanMark mark;

    if (!ready(d))
        return;
    REQUIRE(d, "linear", wan_rows(y) == wan_rows(x) && are_values(d, y, x));
    REQUIRE(d, "linear", w->weight.nb_dims >= 2);
    REQUIRE(d, "linear", w->weight.dim[0] == wan_cols(y));
    REQUIRE(d, "linear", wan_count(&w->weight) == wan_cols(x) * wan_cols(y));
    REQUIRE(d, "linear", !w->bias.nb_dims || is_vector(&w->bias, wan_cols(y)));
    REQUIRE(d, "linear", !a.gate || is_vector(a.gate, wan_cols(y)));
    REQUIRE(d, "linear", !w->nb_low || !a.act || !(a.add || a.gate));
    a.add |= a.gate != NULL;
    snprintf(opt, sizeof(opt), "%s%s%s", act_name(a.act),
             a.act && a.add ? " " : "",
             a.gate ? "gate add" : a.add ? "add" : "");
    trace(d, "linear", y, x, &w->weight, opt);
    d->flops += 2 * m * n * k;
    if (w->nb_low) {
        for (int i = 0; i < w->nb_low; i++)
            d->flops += 2 * m * w->low[i].down.weight.dim[0] * (n + k);
        linear_low(d, y, x, w, a);
        return;
    }
    note(d, 1, &weight, 0, w->e4m3, x);

    if (!scratch_begin(d, ops->linear_scratch
                       ? ops->linear_scratch(d->threads, y, x, w, &a) : 0,
                       &mark))
        return;
    CALL(d, linear, y, x, w, &a);
    scratch_end(d, mark);
}

void wan_op_linear_n_(WanDev *d, WanTensor *y, const WanTensor *x, int n,
                      const WanLinear *const *w)
{
    const WanOps *ops = d->backend->ops;
    const WanLinearArgs plain = { 0 };
    const WanTensor *weight[WAN_PAGE_PARTS];
    char opt[64 * WAN_PAGE_PARTS] = "";
    int64_t cols = 0;
    WanMark mark;

    if (!ready(d))
        return;
    REQUIRE(d, "linear_n", n >= 2 && n <= WAN_PAGE_PARTS);
    REQUIRE(d, "linear_n", wan_rows(y) == wan_rows(x) && are_values(d, y, x));
    for (int i = 0; i < n; i++) {
        const WanTensor *b = &w[i]->bias;
        char buf[64];

        weight[i] = &w[i]->weight;
        REQUIRE(d, "linear_n", weight[i]->nb_dims >= 2);
        REQUIRE(d, "linear_n", wan_count(weight[i]) ==
                               wan_cols(x) * weight[i]->dim[0]);
        REQUIRE(d, "linear_n", !b->nb_dims || is_vector(b, weight[i]->dim[0]));
        cols += weight[i]->dim[0];
        if (!i)
            continue;
        snprintf(opt + strlen(opt), sizeof(opt) - strlen(opt), "%s%s",
                 i > 1 ? " " : "", shape(weight[i], buf, sizeof(buf)));
        d->bytes += bytes_of(weight[i]);
    }
    REQUIRE(d, "linear_n", wan_cols(y) == cols);
    trace(d, "linear_n", y, x, weight[0], opt);
    d->flops += 2.0 * wan_rows(y) * cols * wan_cols(x);

    if (ops->linear_n && !any_low(n, w) && ops->linear_n_fits(y, x, n, w)) {
        note(d, n, weight, 0, 0, x);            // that none is e4m3 fits
        if (!scratch_begin(d, ops->linear_scratch
                           ? ops->linear_scratch(d->threads, y, x, w[0],
                                                 &plain) : 0, &mark))
            return;
        CALL(d, linear_n, y, x, n, w);
        scratch_end(d, mark);
    } else {
        const Inner in = inner_begin(d);

        cols = 0;
        for (int i = 0; i < n; i++) {
            WanTensor yi = wan_columns(y, cols, weight[i]->dim[0]);

            wan_op_linear(d, &yi, x, w[i]);
            cols += weight[i]->dim[0];
        }
        inner_end(d, in);
    }
}

/* ---------------------------------------------------------------- ranks */

static WanParcel parcel(const WanTensor *t)
{
    return (WanParcel){ t->data, wan_type_bytes(t->type, wan_count(t)) };
}

static int own_rank(const WanDev *d)
{
    return d->ranks ? d->ranks->rank : 0;
}

/* Of rows in lots, which are not cut, those of rank q of a team. */
static WanShare share_of(WanTeam team, int q, int64_t rows, int64_t lot)
{
    const WanShare s = wan_share_of(team, q, rows / lot);

    return (WanShare){ s.first * lot, s.n * lot };
}

/* The rows of t [L, C], in lots, that are rank q's. */
static WanTensor rows_of(WanTeam team, const WanTensor *t, int q, int64_t lot)
{
    const WanShare s = share_of(team, q, t->dim[0], lot);

    return wan_slice(t, s.first, s.n);
}

/* What this rank sends in an exchange is counted. */
static double counted(WanDev *d, const WanParcel *out)
{
    double sent = 0;

    for (int q = 0; q < d->ranks->size; q++)
        if (q != d->ranks->rank)
            sent += out[q].bytes;
    d->exchanges += d->ranks->size > 1;
    d->sent += sent;
    return sent;
}

static void exchange(WanDev *d, const WanParcel *out, const WanParcel *in,
                     const char *what)
{
    const int by_device = d->backend->exchange != NULL;
    int ret;

    if (d->error)
        return;
    counted(d, out);
    if (d->plan)
        return;
    ret = (by_device ? wan_ranks_promise : wan_ranks_exchange)
          (d->ranks, out, in, what, &d->cancel);
    if (ret < 0) {
        wan_dev_end(d, ret);
    } else if (by_device) {
        wan_dev_enter(d);
        d->backend->exchange(d, out, in);
        wan_dev_leave(d);
    }
}

/* Rows [from, from + n) of each frame of x [T, H, W, C] to row `at` of y's. */
static void copy_rows(WanDev *d, WanTensor *y, int64_t at, const WanTensor *x,
                      int64_t from, int64_t n)
{
    const int64_t W = x->dim[2], C = x->dim[3];

    for (int64_t t = 0; t < x->dim[0]; t++) {
        WanTensor src = wan_slice(x, t, 1), dst = wan_slice(y, t, 1);

        src = wan_reshape(&src, x->dim[1] * W, C);
        dst = wan_reshape(&dst, y->dim[1] * W, C);
        src = wan_slice(&src, from * W, n * W);
        dst = wan_slice(&dst, at * W, n * W);
        wan_op_copy(d, &dst, &src);
    }
}

/* whole [L, C] holds this rank's rows, and gets those of the others. */
static WanExchange to_all(const WanDev *d, const WanTensor *whole, WanTeam t,
                          int64_t lot, const char *what)
{
    const WanTensor own = rows_of(t, whole, own_rank(d), lot);
    WanExchange e = { what, { { 0 } }, { { 0 } } };

    for (int q = t.first; q < t.first + t.size; q++) {
        const WanTensor theirs = rows_of(t, whole, q, lot);

        e.out[q] = parcel(&own);
        e.in[q] = parcel(&theirs);
    }
    return e;
}

static void gather(WanDev *d, WanTensor *whole, WanTeam t, int64_t lot,
                   const char *what)
{
    const WanExchange e = to_all(d, whole, t, lot, what);

    exchange(d, e.out, e.in, what);
}

/* Each rank's rows of the first one's whole [L, C] go to it; own is this
 * one's. */
static void scatter(WanDev *d, WanTensor *own, const WanTensor *whole,
                    WanTeam t)
{
    WanParcel out[WAN_MAX_RANKS] = { { 0 } }, in[WAN_MAX_RANKS] = { { 0 } };
    const int last = own_rank(d) == t.first ? t.first + t.size : t.first;

    for (int q = t.first; q < last; q++) {
        const WanTensor theirs = rows_of(t, whole, q, 1);

        out[q] = parcel(&theirs);
    }
    in[t.first] = parcel(own);
    exchange(d, out, in, "scatter");
}

WanTensor wan_op_scatter(WanDev *d, const WanTensor *x)
{
    const WanTeam t = wan_team(d);
    WanTensor y = *x;

    if (t.size < 2 || !ready(d))
        return y;
    y = wan_tmp_type(d, x->type, wan_share(d, wan_rows(x)).n, wan_cols(x));
    trace(d, "scatter", &y, x, NULL, NULL);
    scatter(d, &y, x, t);
    return y;
}

WanTensor wan_op_gather(WanDev *d, const WanTensor *x, int64_t L)
{
    const WanTeam t = wan_team(d);
    WanTensor y = *x;

    if (t.size < 2 || !ready(d))
        return y;
    y = wan_tmp_type(d, x->type, L, wan_cols(x));
    trace(d, "gather", &y, x, NULL, NULL);
    const Inner in = inner_begin(d);
    WanTensor own = rows_of(t, &y, own_rank(d), 1);

    wan_op_copy(d, &own, x);
    gather(d, &y, t, 1, "gather");
    inner_end(d, in);
    return y;
}

void wan_op_share(WanDev *d, WanTensor *x)
{
    const WanTensor all = wan_reshape(x, wan_count(x), 1);

    if (!d->ranks || !ready(d))
        return;
    trace(d, "share", x, NULL, NULL, NULL);
    const WanTeam t = { 0, d->ranks->size };
    WanTensor own = rows_of(t, &all, own_rank(d), 1);
    WanTensor whole = all;

    scatter(d, &own, &all, t);
    gather(d, &whole, t, 1, "share");
}

void wan_op_swap(WanDev *d, WanTensor *y, const WanTensor *x)
{
    WanParcel out[WAN_MAX_RANKS] = { { 0 } }, in[WAN_MAX_RANKS] = { { 0 } };
    int other;

    if (!ready(d))
        return;
    REQUIRE(d, "swap", d->ranks && d->halves);
    REQUIRE(d, "swap", same_matrix(y, x) && y->type == x->type);
    REQUIRE(d, "swap", is_dense(y) && is_dense(x));
    trace(d, "swap", y, x, NULL, NULL);
    other = (own_rank(d) + d->ranks->size / 2) % d->ranks->size;
    out[other] = parcel(x);
    in[other] = parcel(y);
    exchange(d, out, in, "swap");
}

/* whole [L, c] = the rows of all ranks of some of this one's columns, where each
 * has some rows of all columns, x [n, C]: those from `at` on of its C / P. packed
 * [P n, c] is what is sent. */
static WanExchange to_heads(WanDev *d, const WanTensor *whole,
                            const WanTensor *x, int64_t at, WanTensor *packed)
{
    const WanTeam t = wan_team(d);
    const int64_t n = wan_rows(x), c = wan_cols(whole);
    WanExchange e = { "rows to heads", { { 0 } }, { { 0 } } };

    for (int i = 0; i < t.size; i++) {
        const WanTensor columns = wan_columns(x, i * (wan_cols(x) / t.size) + at,
                                              c);
        const WanTensor theirs = rows_of(t, whole, t.first + i, 1);
        WanTensor part = wan_slice(packed, i * n, n);

        wan_op_copy(d, &part, &columns);
        e.out[t.first + i] = parcel(&part);
        e.in[t.first + i] = parcel(&theirs);
    }
    return e;
}

/* The way back: packed [P n, c] from whole [L, c], and from there y [n, C]. */
static WanExchange to_rows(const WanDev *d, const WanTensor *packed,
                           const WanTensor *whole)
{
    const WanTeam t = wan_team(d);
    const int64_t n = wan_rows(packed) / t.size;
    WanExchange e = { "heads to rows", { { 0 } }, { { 0 } } };

    for (int i = 0; i < t.size; i++) {
        const WanTensor theirs = rows_of(t, whole, t.first + i, 1);
        const WanTensor part = wan_slice(packed, i * n, n);

        e.out[t.first + i] = parcel(&theirs);
        e.in[t.first + i] = parcel(&part);
    }
    return e;
}

static void unpack(WanDev *d, WanTensor *y, int64_t at, const WanTensor *packed)
{
    const int P = wan_team(d).size;
    const int64_t n = wan_rows(y);

    for (int i = 0; i < P; i++) {
        const WanTensor part = wan_slice(packed, i * n, n);
        WanTensor columns = wan_columns(y, i * (wan_cols(y) / P) + at,
                                        wan_cols(packed));

        wan_op_copy(d, &columns, &part);
    }
}

/* Attention over the keys of all ranks that split rows. The heads that a rank
 * attends to come in groups: what the next one needs, and what the one before has
 * given, goes while this one is computed. A head's result does not depend on those
 * beside it. */
typedef struct Heads {
    WanDev *d;
    WanTensor *y;
    const WanTensor *x[3];      // queries, keys, values: own rows; queries may
                                // be NULL where there is a ring
    WanAttentionArgs a;         // of all its heads
    const WanRing *ring;        // they are attended to with kept keys and
    WanTensor *kept[2];         // values, of its heads; NULL: by themselves
    int divided;                // it has some heads of all queries, else all
                                // of its own
    int first;                  // of x that is moved
    int groups;
    int64_t width;              // of a head
    WanTensor room[2][3];       // x of all rows, of a group and of the next
    WanTensor packed[3], back;
    WanExchange move[4];        // to be made, one after the other
    int moves;
} Heads;

/* The most groups. With more of them less is left that nothing hides, but an
 * exchange has its cost too: parcels are to be worth it. */
#define GROUPS 8
#define LEAST_PARCEL (1 << 20)

static int groups_of(const WanDev *d, const Heads *h)
{
    const int64_t least = d->ranks->least_parcel ? d->ranks->least_parcel
                                                 : LEAST_PARCEL;
    const int64_t bytes = h->a.rows / wan_team(d).size *
                          wan_type_bytes(h->x[1]->type, h->a.heads * h->width);
    int64_t n = bytes / least;

    if (d->backend->exchange)           // what it sends waits for what it has
        return 1;                       // to compute, and the other way round
    n = n < GROUPS ? n : GROUPS;
    n = n < h->a.heads ? n : h->a.heads;
    return n > 1 ? (int)n : 1;
}

static int first_head(const Heads *h, int g)
{
    return h->a.heads * g / h->groups;
}

/* Of a group: where its columns begin, and how many there are. */
static int64_t columns_at(const Heads *h, int g)
{
    return first_head(h, g) * h->width;
}

static int64_t columns_of(const Heads *h, int g)
{
    return columns_at(h, g + 1) - columns_at(h, g);
}

/* Room for the largest group, as much as group g wants. */
static WanTensor room_for(const Heads *h, const WanTensor *room, int g)
{
    const int64_t c = columns_of(h, g);

    return wan_tensor_of(room->data, room->type,
                         wan_count(room) / wan_cols(room), c);
}

static WanTensor take_room(const Heads *h, const WanTensor *x, int64_t rows)
{
    const int most = (h->a.heads + h->groups - 1) / h->groups;

    return wan_tmp_type(h->d, x->type, rows, most * h->width);
}

static WanTensor take_packed(const Heads *h, const WanTensor *x)
{
    return take_room(h, x, wan_rows(x) * wan_team(h->d).size);
}

/* With one group alone what is packed is there one after the other. */
static void take_rooms(Heads *h)
{
    for (int i = h->first; i < 3; i++) {
        h->room[0][i] = take_room(h, h->x[i], h->a.rows);
        if (h->groups > 1)
            h->room[1][i] = take_room(h, h->x[i], h->a.rows);
        if (h->groups > 1 && h->divided)
            h->packed[i] = take_packed(h, h->x[i]);
    }
    if (h->groups > 1 && !h->first)
        h->back = take_packed(h, h->y);
}

static void make_moves(Heads *h)
{
    for (int i = 0; i < h->moves; i++)
        exchange(h->d, h->move[i].out, h->move[i].in, h->move[i].what);
    h->moves = 0;
}

/* Room for queries, keys and values of a group are to be filled. */
static void fetch(Heads *h, int g)
{
    WanDev *d = h->d;

    for (int i = h->first; i < 3; i++) {
        const WanTensor whole = room_for(h, &h->room[g % 2][i], g);
        const WanMark mark = wan_mark(d);

        if (h->divided) {
            WanTensor packed = h->groups > 1 ? room_for(h, &h->packed[i], g)
                                             : take_packed(h, h->x[i]);

            h->move[h->moves++] = to_heads(d, &whole, h->x[i], columns_at(h, g),
                                           &packed);
        } else {
            const WanTensor columns = wan_columns(h->x[i], columns_at(h, g),
                                                  columns_of(h, g));
            WanTensor own = rows_of(wan_team(d), &whole, own_rank(d), h->a.lot);

            wan_op_copy(d, &own, &columns);
            h->move[h->moves++] = to_all(d, &whole, wan_team(d), h->a.lot,
                                         i == 1 ? "keys" : "values");
        }
        if (h->groups == 1) {
            make_moves(h);
            wan_release(d, mark);
        }
    }
}

/* With what is kept of the heads of group g, and the block becomes part of it. */
static void attend_ring(Heads *h, int g, WanTensor *y, const WanTensor *q,
                        const WanTensor *k, const WanTensor *v)
{
    WanTensor keys = wan_columns(h->kept[0], columns_at(h, g), columns_of(h, g));
    WanTensor values = wan_columns(h->kept[1], columns_at(h, g),
                                   columns_of(h, g));
    WanRing a = *h->ring;
    WanRope rope;

    a.rows = 0;
    a.scale = h->a.scale;
    a.heads = first_head(h, g + 1) - first_head(h, g);
    if (a.rope) {
        rope = *a.rope;
        rope.heads = a.heads;
        a.rope = &rope;
    }
    wan_op_ring_attention_(h->d, y, q, k, v, &keys, &values, a);
}

static void attend(Heads *h, int g)
{
    const WanTensor *room = h->room[g % 2];
    const WanTensor k = room_for(h, &room[1], g), v = room_for(h, &room[2], g);
    WanAttentionArgs a = h->a;
    WanTensor q, y;

    a.rows = 0;
    a.heads = first_head(h, g + 1) - first_head(h, g);
    if (!h->first) {
        q = y = room_for(h, &room[0], g);
    } else if (h->x[0]) {
        q = wan_columns(h->x[0], columns_at(h, g), columns_of(h, g));
        y = wan_columns(h->y, columns_at(h, g), columns_of(h, g));
    }
    if (h->ring)
        attend_ring(h, g, h->x[0] ? &y : NULL, h->x[0] ? &q : NULL, &k, &v);
    else
        wan_op_attention_(h->d, &y, &q, &k, &v, a);
}

/* What a group gave goes to whom the rows are; with take_back() they have it. */
static void give(Heads *h, int g)
{
    const WanTensor whole = room_for(h, &h->room[g % 2][0], g);
    const WanTensor back = room_for(h, &h->back, g);

    h->move[h->moves++] = to_rows(h->d, &back, &whole);
}

static void take_back(Heads *h, int g)
{
    const WanTensor back = room_for(h, &h->back, g);

    unpack(h->d, h->y, columns_at(h, g), &back);
}

/* Group g is computed while the moves are made. */
static void attend_meanwhile(Heads *h, int g)
{
    WanDev *d = h->d;
    const double before = d->flops;
    const int n = d->error ? 0 : h->moves;
    WanBehind b = { 0 };
    int ret;

    for (int i = 0; i < n; i++)
        d->behind.sent += counted(d, h->move[i].out);
    if (n && !d->plan)
        wan_ranks_behind(&b, d->ranks, h->move, n, &d->cancel);
    attend(h, g);
    if (n && !d->plan && (ret = wan_ranks_join(&b)) < 0)
        wan_dev_end(d, ret);
    d->behind.exchanges += n;
    d->behind.flops += n ? d->flops - before : 0;
    h->moves = 0;
}

static void attend_groups(Heads *h)
{
    take_rooms(h);
    fetch(h, 0);
    make_moves(h);
    for (int g = 0; g < h->groups; g++) {
        const int gives = !h->first && g > 0;

        if (gives)
            give(h, g - 1);
        if (g + 1 < h->groups)
            fetch(h, g + 1);
        attend_meanwhile(h, g);
        if (gives)
            take_back(h, g - 1);
    }
    if (!h->first) {
        if (h->groups == 1)
            h->back = take_packed(h, h->y);
        give(h, h->groups - 1);
        make_moves(h);
        take_back(h, h->groups - 1);
    }
}

/* Attention of ranks to the rows of all; with a ring to what is kept too, then y
 * and q may be NULL. */
static void attention_of_ranks(WanDev *d, WanTensor *y, const WanTensor *q,
                               const WanTensor *k, const WanTensor *v,
                               WanAttentionArgs a, const WanRing *ring,
                               WanTensor *keys, WanTensor *values)
{
    const int P = wan_team(d).size;
    const Inner in = inner_begin(d);
    Heads h = { .d = d, .y = y, .x = { q, k, v }, .a = a, .ring = ring,
                .kept = { keys, values },
                .divided = a.heads % P == 0 && a.lot == 1,
                .width = wan_cols(k) / a.heads };

    h.first = !h.divided || !q;
    h.a.heads /= h.divided ? P : 1;
    h.groups = groups_of(d, &h);
    attend_groups(&h);
    inner_end(d, in);
}

/* A rank's part of frames of the shape of y [T, H, W, C], frame after frame. */
static WanTensor part_of(const WanDev *d, const WanTensor *all,
                         const WanTensor *y, int q, int64_t rows)
{
    const int64_t T = y->dim[0], H = y->dim[1];
    const WanShare s = share_of(wan_team(d), q, H, H / rows);
    const WanTensor part = wan_slice(all, T * s.first, T * s.n);

    return wan_reshape(&part, T, s.n, y->dim[2], y->dim[3]);
}

void wan_op_collect(WanDev *d, WanTensor *y, const WanTensor *x, int64_t rows)
{
    WanParcel out[WAN_MAX_RANKS] = { { 0 } }, in[WAN_MAX_RANKS] = { { 0 } };
    WanTensor all = { 0 };

    if (!ready(d))
        return;
    REQUIRE(d, "collect", d->ranks && y->nb_dims == 4 && x->nb_dims == 4);
    REQUIRE(d, "collect", y->dim[0] == x->dim[0] && y->dim[2] == x->dim[2] &&
                          y->dim[3] == x->dim[3] && y->type == x->type);
    REQUIRE(d, "collect", rows > 0 && y->dim[1] % rows == 0);
    REQUIRE(d, "collect", is_dense(x) && is_dense(y) && !d->halves);
    REQUIRE(d, "collect", x->dim[1] == share_of(wan_team(d), own_rank(d),
                                                y->dim[1], y->dim[1] / rows).n);
    trace(d, "collect", y, x, NULL, NULL);
    const Inner inner = inner_begin(d);

    if (d->ranks->rank)
        out[0] = parcel(x);
    else
        all = wan_tmp_type(d, y->type, y->dim[0] * y->dim[1], y->dim[2],
                           y->dim[3]);
    for (int q = 1; q < d->ranks->size && !d->ranks->rank; q++) {
        const WanTensor theirs = part_of(d, &all, y, q, rows);

        in[q] = parcel(&theirs);
    }
    exchange(d, out, in, "collect");
    for (int q = 0; q < d->ranks->size && !d->ranks->rank; q++) {
        const WanTensor part = q ? part_of(d, &all, y, q, rows) : *x;
        const WanShare s = share_of(wan_team(d), q, y->dim[1],
                                    y->dim[1] / rows);

        copy_rows(d, y, s.first, &part, 0, s.n);
    }
    inner_end(d, inner);
}

/* ------------------------------------------------------------- attention */

int wan_t5_bucket(int64_t delta)
{
    static const unsigned char from[] = { 8, 12, 16, 23, 32, 46, 64, 91 };
    const int64_t a = delta < 0 ? -delta : delta;
    int bucket = 7;

    if (a < 8)
        bucket = (int)a;
    else
        for (int i = 0; i < 8 && a >= from[i]; i++)
            bucket = 8 + i;
    return bucket + (delta > 0 ? 16 : 0);
}

void wan_op_attention_(WanDev *d, WanTensor *y, const WanTensor *q,
                       const WanTensor *k, const WanTensor *v,
                       WanAttentionArgs a)
{
    const WanOps *ops = d->backend->ops;
    const double lq = wan_rows(q), lk = a.rows ? a.rows : wan_rows(k);
    const double c = wan_cols(q);
    const int split = a.rows && wan_team(d).size > 1;
    char opt[128];
    WanMark mark;

    if (!ready(d))
        return;
    a.lot += !a.lot;
    REQUIRE(d, "attention", same_matrix(y, q) && same_matrix(k, v));
    REQUIRE(d, "attention", are_values(d, y, q) && are_values(d, k, v));
    REQUIRE(d, "attention", wan_cols(k) == wan_cols(q));
    REQUIRE(d, "attention", a.heads > 0 && wan_cols(q) % a.heads == 0);
    REQUIRE(d, "attention", (wan_rows(k) > 0 || split) && a.tail >= 0);
    REQUIRE(d, "attention", !a.rows || a.rows % a.lot == 0);
    REQUIRE(d, "attention", !a.rows || wan_rows(k) ==
            share_of(wan_team(d), own_rank(d), a.rows, a.lot).n);
    REQUIRE(d, "attention", !split || (wan_rows(q) == wan_rows(k) && !a.tail &&
                                       !a.add && !a.rel_bias));
    REQUIRE(d, "attention", !a.add || y->data != q->data || d->plan);
    REQUIRE(d, "attention", !a.rel_bias ||
            (a.rel_bias->nb_dims == 2 && a.rel_bias->dim[0] == 32 &&
             a.rel_bias->dim[1] == a.heads));
    if (!a.scale)
        a.scale = (float)(1 / sqrt((double)wan_cols(q) / a.heads));
    snprintf(opt, sizeof(opt), "heads %d%s%s%s", a.heads,
             a.rel_bias ? " rel_bias" : "", a.tail > 1 ? " tail" : "",
             a.add ? " add" : "");
    if (split)
        snprintf(opt + strlen(opt), sizeof(opt) - strlen(opt), " of %lld rows "
                 "by %d ranks", (long long)a.rows, wan_team(d).size);
    trace(d, "attention", y, q, k, opt);
    d->flops += 4 * lq * lk * c;
    if (split) {
        attention_of_ranks(d, y, q, k, v, a, NULL, NULL, NULL);
        return;
    }

    if (!scratch_begin(d, ops->attention_scratch
                       ? ops->attention_scratch(d->threads, q, k, &a) : 0,
                       &mark))
        return;
    CALL(d, attention, y, q, k, v, &a);
    scratch_end(d, mark);
}

int64_t wan_ring_width(const WanDev *d, int heads, int64_t C)
{
    const int P = wan_team(d).size;

    return heads % P ? C : C / P;
}

static int rope_fits(const WanTensor *x, const WanRope *r)
{
    const int64_t pairs = r->pairs[0] + r->pairs[1] + r->pairs[2];
    int ok = r->heads > 0 && wan_cols(x) == 2 * pairs * r->heads &&
             r->first >= 0 && wan_rows(x) <= wan_rope_rows(r) - r->first;

    for (int a = 0; a < 3; a++)
        ok = ok && wan_count(&r->table[a]) ==
                   2 * (int64_t)r->grid[a] * r->pairs[a];
    return ok;
}

/* Rows of a block, some of them from i on, to where they are kept. */
static void keep(WanDev *d, WanTensor *kept, const WanTensor *rows, int64_t i,
                 int64_t at, int64_t n)
{
    const WanTensor from = wan_slice(rows, i, n);
    WanTensor to = wan_slice(kept, at, n);

    wan_op_copy(d, &to, &from);
}

static void ring_composed(WanDev *d, WanTensor *y, const WanTensor *q,
                          const WanTensor *k, const WanTensor *v,
                          WanTensor *keys, WanTensor *values,
                          const WanRing *a)
{
    const int64_t n = wan_rows(k), end = wan_rows(keys) - a->at;
    const int64_t first = n < end ? n : end;
    const Inner in = inner_begin(d);

    keep(d, keys, k, 0, a->at, first);
    keep(d, values, v, 0, a->at, first);
    if (n > first) {
        keep(d, keys, k, first, a->sink, n - first);
        keep(d, values, v, first, a->sink, n - first);
    }
    if (q) {
        const WanTensor held_v = wan_slice(values, 0, a->held);
        WanTensor held_k = wan_slice(keys, 0, a->held);

        if (a->rope) {
            WanTensor turned = wan_tmp_like(d, &held_k);

            wan_op_copy(d, &turned, &held_k);
            wan_op_rope(d, &turned, a->rope);
            held_k = turned;
        }
        wan_op_attention(d, y, q, &held_k, &held_v, .heads = a->heads,
                         .scale = a->scale);
    }
    inner_end(d, in);
}

void wan_op_ring_attention_(WanDev *d, WanTensor *y, const WanTensor *q,
                            const WanTensor *k, const WanTensor *v,
                            WanTensor *keys, WanTensor *values, WanRing a)
{
    const WanOps *ops = d->backend->ops;
    const int split = a.rows && wan_team(d).size > 1;
    const int64_t n = a.rows ? a.rows : wan_rows(k), R = wan_rows(keys);
    const int64_t C = wan_cols(k);
    char opt[128];
    WanMark mark;

    if (!ready(d))
        return;
    REQUIRE(d, "ring_attention", same_matrix(k, v) && are_values(d, k, v));
    REQUIRE(d, "ring_attention", same_matrix(keys, values) &&
            are_values(d, keys, values));
    REQUIRE(d, "ring_attention", keys->nb_dims == 2 && k->nb_dims == 2 &&
            values->nb_dims == 2 && v->nb_dims == 2);
    REQUIRE(d, "ring_attention", n > 0 && wan_cols(keys) ==
            (split ? wan_ring_width(d, a.heads, C) : C));
    REQUIRE(d, "ring_attention", !a.rows || wan_rows(k) ==
            wan_share(d, a.rows).n);
    REQUIRE(d, "ring_attention", a.heads > 0 && C % a.heads == 0);
    REQUIRE(d, "ring_attention", a.sink >= 0 && a.at >= 0 && a.at < R &&
            a.held > 0 && a.held <= R);
    REQUIRE(d, "ring_attention", a.at + n <= R ||
            (a.at >= a.sink && n <= R - a.sink));
    REQUIRE(d, "ring_attention", !y == !q);
    REQUIRE(d, "ring_attention", !q || (same_matrix(y, q) &&
            are_values(d, y, q) && wan_cols(q) == C));
    REQUIRE(d, "ring_attention", !split || !q || wan_rows(q) == wan_rows(k));
    if (a.rope && !split) {
        const WanTensor held = wan_slice(keys, 0, a.held);

        REQUIRE(d, "ring_attention", rope_fits(&held, a.rope));
    }
    if (!a.scale)
        a.scale = (float)(1 / sqrt((double)C / a.heads));
    snprintf(opt, sizeof(opt), "heads %d held %lld%s%s", a.heads,
             (long long)a.held, a.rope ? " rope" : "", q ? "" : " keep");
    if (split)
        snprintf(opt + strlen(opt), sizeof(opt) - strlen(opt), " of %lld rows "
                 "by %d ranks", (long long)a.rows, wan_team(d).size);
    trace(d, "ring_attention", q ? y : keys, q ? q : k, keys, opt);
    d->flops += q ? 4. * wan_rows(q) * a.held * C : 0;
    if (split) {
        attention_of_ranks(d, y, q, k, v,
                           (WanAttentionArgs){ .heads = a.heads, .lot = 1,
                                               .rows = a.rows,
                                               .scale = a.scale },
                           &a, keys, values);
        return;
    }

    if (!ops->ring_attention) {
        ring_composed(d, y, q, k, v, keys, values, &a);
        return;
    }
    const WanTensor held = wan_slice(keys, 0, a.held);
    const WanAttentionArgs plain = { .heads = a.heads, .scale = a.scale };

    if (!scratch_begin(d, q && ops->attention_scratch
                       ? ops->attention_scratch(d->threads, q, &held, &plain)
                       : 0, &mark))
        return;
    CALL(d, ring_attention, y, q, k, v, keys, values, &a);
    scratch_end(d, mark);
}

/* For an entry that knows zeros alone, see ops.h. What is added to the rows that
 * are left out is never looked at. */
static void conv_beside(WanDev *d, WanTensor *y, const WanTensor *x,
                        const WanConv *w, WanConvArgs a)
{
    const Inner in = inner_begin(d);
    const int64_t top = a.above != NULL, up = a.upsample;
    const int64_t rows = top + x->dim[1] + (a.below != NULL);
    WanTensor all = wan_tmp_type(d, x->type, x->dim[0], rows, x->dim[2],
                                 x->dim[3]);
    WanTensor made = wan_tmp_type(d, y->type, y->dim[0], up * rows, y->dim[2],
                                  y->dim[3]);

    if (a.above)
        copy_rows(d, &all, 0, a.above, 0, 1);
    copy_rows(d, &all, top, x, 0, x->dim[1]);
    if (a.below)
        copy_rows(d, &all, rows - 1, a.below, 0, 1);
    if (a.add)
        copy_rows(d, &made, up * top, y, 0, y->dim[1]);
    a.above = a.below = NULL;
    wan_op_conv_(d, &made, &all, w, a);
    copy_rows(d, y, 0, &made, up * top, y->dim[1]);
    inner_end(d, in);
}

/* The rank that has the rows beside this one's, above (-1) or below (1); -1:
 * none has. */
static int beside(const WanDev *d, int64_t rows, int step)
{
    const WanTeam t = wan_team(d);
    int q = own_rank(d);

    if (!wan_share_of(t, q, rows).n)
        return -1;
    do
        q += step;
    while (q >= t.first && q < t.first + t.size &&
           !wan_share_of(t, q, rows).n);
    return q >= t.first && q < t.first + t.size ? q : -1;
}

/* The convolution of this rank's rows: those beside them come from the ranks that
 * have them, in every frame of x. */
static void conv_of_ranks(WanDev *d, WanTensor *y, const WanTensor *x,
                          const WanConv *w, WanConvArgs a)
{
    const Inner inner = inner_begin(d);
    const int rank[2] = { beside(d, a.rows, -1), beside(d, a.rows, 1) };
    WanParcel out[WAN_MAX_RANKS] = { { 0 } }, in[WAN_MAX_RANKS] = { { 0 } };
    WanTensor theirs[2];

    for (int i = 0; i < 2; i++) {
        WanTensor own;

        if (rank[i] < 0)
            continue;
        theirs[i] = wan_tmp_type(d, x->type, x->dim[0], 1, x->dim[2],
                                 x->dim[3]);
        own = wan_tmp_like(d, &theirs[i]);
        copy_rows(d, &own, 0, x, i ? x->dim[1] - 1 : 0, 1);
        out[rank[i]] = parcel(&own);
        in[rank[i]] = parcel(&theirs[i]);
    }
    exchange(d, out, in, "rows beside");
    a.rows = 0;
    a.above = rank[0] < 0 ? NULL : &theirs[0];
    a.below = rank[1] < 0 ? NULL : &theirs[1];
    wan_op_conv_(d, y, x, w, a);
    inner_end(d, inner);
}

/* Whether x has this rank's part of so many rows. */
static int is_part(const WanDev *d, const WanTensor *x, int64_t rows)
{
    const int64_t n = wan_share(d, rows).n;

    return n ? x->dim[1] % n == 0 : !x->dim[1];
}

static int is_beside(const WanTensor *b, const WanTensor *x)
{
    return b->nb_dims == 4 && b->type == x->type && b->dim[0] == x->dim[0] &&
           b->dim[1] == 1 && b->dim[2] == x->dim[2] &&
           b->dim[3] == x->dim[3] && is_dense(b);
}

void wan_op_conv_(WanDev *d, WanTensor *y, const WanTensor *x,
                  const WanConv *w, WanConvArgs a)
{
    const WanOps *ops = d->backend->ops;
    const WanTensor *const weight = &w->weight;
    const int64_t *wd = weight->dim;
    const int split = a.rows && wan_team(d).size > 1 && wd[3] > 1;
    char opt[160];
    WanMark mark;

    if (!ready(d))
        return;
    a.stride_t += !a.stride_t;
    a.stride += !a.stride;
    a.upsample += !a.upsample;
    REQUIRE(d, "conv", x->nb_dims == 4 && y->nb_dims == 4);
    REQUIRE(d, "conv", are_values(d, y, x));
    REQUIRE(d, "conv", w->weight.nb_dims == 5);
    REQUIRE(d, "conv", wd[1] == x->dim[3] && wd[0] == y->dim[3]);
    REQUIRE(d, "conv", is_vector(&w->bias, wd[0]));
    REQUIRE(d, "conv", is_dense(x) && is_dense(y));
    REQUIRE(d, "conv", wd[3] == wd[4] && (wd[3] == 1 || wd[3] == 3));
    REQUIRE(d, "conv", a.stride == 1 || (a.stride == 2 && wd[3] == 3 &&
                                         a.upsample == 1));
    REQUIRE(d, "conv", a.upsample <= 2 && a.stride_t <= 2);
    REQUIRE(d, "conv", !a.centre || a.stride == 2);
    REQUIRE(d, "conv", a.act == WAN_ACT_NONE || a.act == WAN_ACT_RELU);
    REQUIRE(d, "conv", x->dim[0] >= wd[2]);
    REQUIRE(d, "conv", y->dim[0] == (x->dim[0] - wd[2]) / a.stride_t + 1);
    REQUIRE(d, "conv", y->dim[1] == x->dim[1] * a.upsample / a.stride);
    REQUIRE(d, "conv", y->dim[2] == x->dim[2] * a.upsample / a.stride);
    REQUIRE(d, "conv", !a.rows || is_part(d, x, a.rows));
    REQUIRE(d, "conv", a.stride == 1 || !(a.rows || a.above || a.below));
    REQUIRE(d, "conv", !a.rows || !(a.above || a.below));
    REQUIRE(d, "conv", !a.above || is_beside(a.above, x));
    REQUIRE(d, "conv", !a.below || is_beside(a.below, x));
    snprintf(opt, sizeof(opt), "%dx%dx%d%s%s%s%s%s%s%s", (int)wd[2], (int)wd[3],
             (int)wd[4], a.stride_t > 1 ? " stride_t 2" : "",
             a.stride > 1 ? " stride 2" : "", a.centre ? " centre" : "",
             a.upsample > 1 ? " upsample 2" : "", a.add ? " add" : "",
             a.act ? " " : "", act_name(a.act));
    if (split)
        snprintf(opt + strlen(opt), sizeof(opt) - strlen(opt), " by %d ranks",
                 wan_team(d).size);
    trace(d, "conv", y, x, NULL, opt);
    d->flops += 2.0 * wan_count(y) * wd[1] * wd[2] * wd[3] * wd[4];
    if (split) {
        conv_of_ranks(d, y, x, w, a);
        return;
    }
    if ((a.above || a.below) && wd[3] > 1 && !ops->conv_beside) {
        conv_beside(d, y, x, w, a);
        return;
    }
    note(d, 1, &weight, 1, 0, x);

    if (!scratch_begin(d, ops->conv_scratch
                       ? ops->conv_scratch(d->threads, y, x, w, &a) : 0,
                       &mark))
        return;
    CALL(d, conv, y, x, w, &a);
    scratch_end(d, mark);
}

/* -------------------------------------------------------------- norms */

void wan_op_layer_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                       const WanTensor *gain, const WanTensor *bias,
                       float eps)
{
    if (!ready(d))
        return;
    REQUIRE(d, "layer_norm", same_matrix(y, x) && are_values(d, y, x));
    REQUIRE(d, "layer_norm", !gain == !bias);
    REQUIRE(d, "layer_norm", !gain || (is_vector(gain, wan_cols(x)) &&
                                       is_vector(bias, wan_cols(x))));
    trace(d, "layer_norm", y, x, NULL, gain ? "affine" : "");
    CALL(d, layer_norm, y, x, gain, bias, eps);
}

void wan_op_modulate(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *shift, const WanTensor *scale,
                     float eps)
{
    if (!ready(d))
        return;
    REQUIRE(d, "modulate", same_matrix(y, x) && are_values(d, y, x));
    REQUIRE(d, "modulate", is_vector(shift, wan_cols(x)));
    REQUIRE(d, "modulate", is_vector(scale, wan_cols(x)));
    trace(d, "modulate", y, x, NULL, NULL);
    if (d->backend->ops->modulate) {
        CALL(d, modulate, y, x, shift, scale, eps);
    } else {
        const Inner in = inner_begin(d);
        WanTensor gain = wan_tmp(d, wan_cols(x));
        const WanTensor s = wan_reshape(scale, wan_cols(x));

        wan_op_fill(d, &gain, 1);
        wan_op_gate_add(d, &gain, &s, NULL);
        wan_op_layer_norm(d, y, x, &gain, shift, eps);
        inner_end(d, in);
    }
}

/* one: 1 for modulate's norm, 0 for layer_norm's. */
static void gate_add_norm(WanDev *d, const char *op, WanTensor *y,
                          WanTensor *x, const WanTensor *branch,
                          const WanTensor *gate, const WanTensor *gain,
                          const WanTensor *bias, int one, float eps)
{
    char opt[16];

    if (!ready(d))
        return;
    REQUIRE(d, op, same_matrix(y, x) && are_values(d, y, x));
    REQUIRE(d, op, same_matrix(branch, x) && is_value(d, branch));
    REQUIRE(d, op, y->data != x->data || d->plan);
    REQUIRE(d, op, !gate || is_vector(gate, wan_cols(x)));
    REQUIRE(d, op, !gain == !bias && (gain || !one));
    REQUIRE(d, op, !gain || (is_vector(gain, wan_cols(x)) &&
                             is_vector(bias, wan_cols(x))));
    snprintf(opt, sizeof(opt), "%s%s", gate ? "gate" : "",
             one || !gain ? "" : gate ? " affine" : "affine");
    trace(d, op, y, x, branch, opt);
    if (d->backend->ops->gate_add_norm) {
        CALL(d, gate_add_norm, y, x, branch, gate, gain, bias, one, eps);
    } else {
        const Inner in = inner_begin(d);

        wan_op_gate_add(d, x, branch, gate);
        if (one)
            wan_op_modulate(d, y, x, bias, gain, eps);
        else
            wan_op_layer_norm(d, y, x, gain, bias, eps);
        inner_end(d, in);
    }
}

void wan_op_gate_add_norm(WanDev *d, WanTensor *y, WanTensor *x,
                          const WanTensor *branch, const WanTensor *gate,
                          const WanTensor *gain, const WanTensor *bias,
                          float eps)
{
    gate_add_norm(d, "gate_add_norm", y, x, branch, gate, gain, bias, 0, eps);
}

void wan_op_gate_add_modulate(WanDev *d, WanTensor *y, WanTensor *x,
                              const WanTensor *branch, const WanTensor *gate,
                              const WanTensor *shift, const WanTensor *scale,
                              float eps)
{
    gate_add_norm(d, "gate_add_modulate", y, x, branch, gate, scale, shift, 1,
                  eps);
}

void wan_op_rms_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *gain, float eps)
{
    if (!ready(d))
        return;
    REQUIRE(d, "rms_norm", same_matrix(y, x) && are_values(d, y, x));
    REQUIRE(d, "rms_norm", is_vector(gain, wan_cols(x)));
    trace(d, "rms_norm", y, x, NULL, NULL);
    CALL(d, rms_norm, y, x, gain, eps);
}

void wan_op_rope(WanDev *d, WanTensor *x, const WanRope *rope)
{
    if (!ready(d))
        return;
    REQUIRE(d, "rope", rope_fits(x, rope) && is_value(d, x));
    trace(d, "rope", x, NULL, NULL, NULL);
    CALL(d, rope, x, rope);
}

void wan_op_rms_norm_rope(WanDev *d, WanTensor *x, const WanTensor *gain,
                          float eps, const WanRope *rope)
{
    if (!ready(d))
        return;
    REQUIRE(d, "rms_norm_rope", is_vector(gain, wan_cols(x)));
    REQUIRE(d, "rms_norm_rope", rope_fits(x, rope) && is_value(d, x));
    trace(d, "rms_norm_rope", x, NULL, NULL, NULL);
    if (d->backend->ops->rms_norm_rope) {
        CALL(d, rms_norm_rope, x, gain, eps, rope);
    } else {
        const Inner in = inner_begin(d);

        wan_op_rms_norm(d, x, x, gain, eps);
        wan_op_rope(d, x, rope);
        inner_end(d, in);
    }
}

void wan_op_l2_norm(WanDev *d, WanTensor *y, const WanTensor *x,
                    const WanTensor *gain, WanAct act)
{
    if (!ready(d))
        return;
    REQUIRE(d, "l2_norm", same_matrix(y, x) && are_values(d, y, x));
    REQUIRE(d, "l2_norm", is_vector(gain, wan_cols(x)));
    REQUIRE(d, "l2_norm", act == WAN_ACT_NONE || act == WAN_ACT_SILU);
    trace(d, "l2_norm", y, x, NULL, act_name(act));
    CALL(d, l2_norm, y, x, gain, act);
}

void wan_op_row_norm(WanDev *d, WanTensor *y, const WanTensor *a,
                     const WanTensor *b, int p)
{
    if (!ready(d))
        return;
    REQUIRE(d, "row_norm", is_vector(y, wan_rows(a)) && is_dense(y));
    REQUIRE(d, "row_norm", a->type == WAN_F32 && (p == 1 || p == 2));
    REQUIRE(d, "row_norm", !b || (same_matrix(a, b) && b->type == WAN_F32));
    trace(d, "row_norm", y, a, b, p == 1 ? "1" : "2");
    CALL(d, row_norm, y, a, b, p);
}

/* -------------------------------------------------------- elementwise */

void wan_op_act(WanDev *d, WanTensor *y, const WanTensor *x, WanAct act)
{
    if (!ready(d))
        return;
    REQUIRE(d, "act", same_matrix(y, x) && are_values(d, y, x));
    trace(d, "act", y, x, NULL, act_name(act));
    CALL(d, act, y, x, act);
}

void wan_op_mul(WanDev *d, WanTensor *y, const WanTensor *a,
                const WanTensor *b)
{
    if (!ready(d))
        return;
    REQUIRE(d, "mul", same_matrix(y, a) && same_matrix(y, b));
    REQUIRE(d, "mul", is_value(d, y) && are_values(d, a, b));
    trace(d, "mul", y, a, b, NULL);
    CALL(d, mul, y, a, b);
}

void wan_op_geglu(WanDev *d, WanTensor *y, const WanTensor *g,
                  const WanTensor *u)
{
    if (!ready(d))
        return;
    REQUIRE(d, "geglu", same_matrix(y, g) && same_matrix(y, u));
    REQUIRE(d, "geglu", is_value(d, y) && are_values(d, g, u));
    trace(d, "geglu", y, g, u, NULL);
    if (d->backend->ops->geglu) {
        CALL(d, geglu, y, g, u);
    } else {
        const Inner in = inner_begin(d);
        WanTensor t = wan_tmp_like(d, g);

        wan_op_act(d, &t, g, WAN_ACT_GELU_TANH);
        wan_op_mul(d, y, &t, u);
        inner_end(d, in);
    }
}

void wan_op_gate_add(WanDev *d, WanTensor *y, const WanTensor *x,
                     const WanTensor *gate)
{
    if (!ready(d))
        return;
    REQUIRE(d, "gate_add", same_matrix(y, x) && are_values(d, y, x));
    REQUIRE(d, "gate_add", !gate || is_vector(gate, wan_cols(x)));
    trace(d, "gate_add", y, x, NULL, gate ? "gate" : "");
    CALL(d, gate_add, y, x, gate);
}

void wan_op_lincomb(WanDev *d, WanTensor *y, int n, const double *coef,
                    const WanTensor *const *x)
{
    char opt[16];

    if (!ready(d))
        return;
    REQUIRE(d, "lincomb", n >= 1 && n <= 6 && is_dense(y) &&
                          y->type == WAN_F32);
    for (int i = 0; i < n; i++)
        REQUIRE(d, "lincomb", wan_count(x[i]) == wan_count(y) &&
                              is_dense(x[i]) && x[i]->type == WAN_F32);
    snprintf(opt, sizeof(opt), "of %d", n);
    trace(d, "lincomb", y, NULL, NULL, opt);
    CALL(d, lincomb, y, n, coef, x);
}

void wan_op_copy(WanDev *d, WanTensor *y, const WanTensor *x)
{
    if (!ready(d))
        return;
    REQUIRE(d, "copy", same_matrix(y, x) && are_values(d, y, x));
    trace(d, "copy", y, x, NULL, NULL);
    CALL(d, copy, y, x);
}

void wan_op_fill(WanDev *d, WanTensor *y, float value)
{
    if (!ready(d))
        return;
    REQUIRE(d, "fill", is_value(d, y));
    trace(d, "fill", y, NULL, NULL, NULL);
    CALL(d, fill, y, value);
}

void wan_op_upload(WanDev *d, WanTensor *y, const float *host)
{
    if (!ready(d))
        return;
    REQUIRE(d, "upload", is_dense(y) && y->type == WAN_F32);
    trace(d, "upload", y, NULL, NULL, NULL);
    CALL(d, upload, y, host);
}

void wan_op_download(WanDev *d, float *host, const WanTensor *x)
{
    if (!ready(d))
        return;
    REQUIRE(d, "download", is_value(d, x));
    trace(d, "download", x, NULL, NULL, NULL);
    CALL(d, download, host, x);
}

void wan_op_finite(WanDev *d, const WanTensor *x, const char *fmt, ...)
{
    char what[128];
    va_list ap;

    if (!ready(d))
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    REQUIRE(d, "finite", is_value(d, x));
    trace(d, "finite", x, NULL, NULL, NULL);
    CALL(d, finite, x, what);
}

/* ------------------------------------------- text, latents and pixels */

void wan_op_embed(WanDev *d, WanTensor *y, const WanTensor *table,
                  const int32_t *ids)
{
    if (!ready(d))
        return;
    REQUIRE(d, "embed", wan_cols(y) == wan_cols(table) && is_value(d, y));
    for (int64_t i = 0; ids && i < wan_rows(y); i++)
        REQUIRE(d, "embed", ids[i] >= 0 && ids[i] < wan_rows(table));
    trace(d, "embed", y, table, NULL, NULL);
    CALL(d, embed, y, table, ids);
}

void wan_op_patchify(WanDev *d, WanTensor *tokens, const WanTensor *x, int p)
{
    if (!ready(d))
        return;
    REQUIRE(d, "patchify", x->nb_dims == 4 && is_dense(x) && p > 0);
    REQUIRE(d, "patchify", x->dim[2] % p == 0 && x->dim[3] % p == 0);
    REQUIRE(d, "patchify", wan_cols(tokens) == x->dim[0] * p * p);
    REQUIRE(d, "patchify", wan_count(tokens) == wan_count(x));
    REQUIRE(d, "patchify", are_values(d, tokens, x));
    trace(d, "patchify", tokens, x, NULL, NULL);
    CALL(d, patchify, tokens, x, p);
}

void wan_op_unpatchify(WanDev *d, WanTensor *x, const WanTensor *z)
{
    if (!ready(d))
        return;
    REQUIRE(d, "unpatchify", x->nb_dims == 4 && is_dense(x));
    REQUIRE(d, "unpatchify", x->dim[2] % 2 == 0 && x->dim[3] % 2 == 0);
    REQUIRE(d, "unpatchify", wan_cols(z) == x->dim[0] * 4);
    REQUIRE(d, "unpatchify", wan_count(z) == wan_count(x));
    REQUIRE(d, "unpatchify", are_values(d, x, z));
    trace(d, "unpatchify", x, z, NULL, NULL);
    CALL(d, unpatchify, x, z);
}

void wan_op_channels_last(WanDev *d, WanTensor *y, const WanTensor *x,
                          int64_t t0, const WanTensor *scale,
                          const WanTensor *shift)
{
    if (!ready(d))
        return;
    REQUIRE(d, "channels_last", x->nb_dims == 4 && y->nb_dims == 4);
    REQUIRE(d, "channels_last", is_dense(x) && y->dim[3] == x->dim[0]);
    REQUIRE(d, "channels_last", are_values(d, y, x));
    REQUIRE(d, "channels_last", y->dim[1] == x->dim[2] &&
                                y->dim[2] == x->dim[3]);
    REQUIRE(d, "channels_last", t0 >= 0 && t0 + y->dim[0] <= x->dim[1]);
    REQUIRE(d, "channels_last", is_vector(scale, x->dim[0]) &&
                                is_vector(shift, x->dim[0]));
    trace(d, "channels_last", y, x, NULL, NULL);
    CALL(d, channels_last, y, x, t0, scale, shift);
}

void wan_op_channels_first(WanDev *d, WanTensor *y, int64_t t0,
                           const WanTensor *x, const WanTensor *scale,
                           const WanTensor *shift)
{
    if (!ready(d))
        return;
    REQUIRE(d, "channels_first", x->nb_dims == 4 && y->nb_dims == 4);
    REQUIRE(d, "channels_first", is_dense(y) && x->dim[3] >= y->dim[0]);
    REQUIRE(d, "channels_first", are_values(d, y, x));
    REQUIRE(d, "channels_first", x->dim[1] == y->dim[2] &&
                                 x->dim[2] == y->dim[3]);
    REQUIRE(d, "channels_first", t0 >= 0 && t0 + x->dim[0] <= y->dim[1]);
    REQUIRE(d, "channels_first", is_vector(scale, y->dim[0]) &&
                                 is_vector(shift, y->dim[0]));
    trace(d, "channels_first", y, x, NULL, NULL);
    CALL(d, channels_first, y, t0, x, scale, shift);
}

/* Whether few [T, H, W, C] is many, folded. */
static int fold_fits(const WanTensor *few, const WanTensor *many, WanFold a)
{
    return few->nb_dims == 4 && many->nb_dims == 4 && a.t > 0 && a.s > 0 &&
           many->dim[0] <= few->dim[0] * a.t &&
           many->dim[0] > (few->dim[0] - 1) * a.t &&
           many->dim[1] == few->dim[1] * a.s &&
           many->dim[2] == few->dim[2] * a.s;
}

static void trace_fold(WanDev *d, const char *op, const WanTensor *y,
                       const WanTensor *x, WanFold a)
{
    char opt[80];

    snprintf(opt, sizeof(opt), "%dx%dx%d%s%s", a.t, a.s, a.s,
             a.columns_first ? " columns first" : "", a.add ? " add" : "");
    trace(d, op, y, x, NULL, opt);
}

void wan_op_fold_(WanDev *d, WanTensor *y, const WanTensor *x, WanFold a)
{
    if (!ready(d))
        return;
    REQUIRE(d, "fold", fold_fits(y, x, a) && are_values(d, y, x));
    REQUIRE(d, "fold", x->dim[3] * a.t * a.s * a.s % y->dim[3] == 0);
    trace_fold(d, "fold", y, x, a);
    CALL(d, fold, y, x, &a);
}

void wan_op_unfold_(WanDev *d, WanTensor *y, const WanTensor *x, WanFold a)
{
    if (!ready(d))
        return;
    REQUIRE(d, "unfold", fold_fits(x, y, a) && are_values(d, y, x));
    REQUIRE(d, "unfold", y->dim[3] * a.t * a.s * a.s % x->dim[3] == 0);
    trace_fold(d, "unfold", y, x, a);
    CALL(d, unfold, y, x, &a);
}

void wan_op_resize(WanDev *d, WanTensor *y, const WanTensor *x)
{
    if (!ready(d))
        return;
    REQUIRE(d, "resize", x->nb_dims == 3 && y->nb_dims == 3);
    REQUIRE(d, "resize", x->dim[0] == y->dim[0] && is_dense(x) && is_dense(y));
    REQUIRE(d, "resize", wan_count(x) > 0 && wan_count(y) > 0);
    REQUIRE(d, "resize", y->type == WAN_F32 && x->type == WAN_F32);
    trace(d, "resize", y, x, NULL, NULL);
    CALL(d, resize, y, x);
}

void wan_op_image(WanDev *d, const WanImage *img, const WanTensor *rgb)
{
    const WanOps *ops = d->backend->ops;
    WanMark mark;

    if (!ready(d))
        return;
    REQUIRE(d, "image", rgb->nb_dims == 3 && rgb->dim[2] == 3);
    REQUIRE(d, "image", is_value(d, rgb));
    REQUIRE(d, "image", is_dense(rgb) && (d->plan ||
            (img->height == rgb->dim[0] && img->width == rgb->dim[1])));
    trace(d, "image", rgb, NULL, NULL, NULL);
    if (!scratch_begin(d, ops->image_scratch
                       ? ops->image_scratch(d->threads, rgb) : 0, &mark))
        return;
    CALL(d, image, img, rgb);
    scratch_end(d, mark);
}

/* Drawn as [f, C, ...], then each frame's channels go to their places. */
static void noise_by_frames(WanDev *d, WanTensor *y, const WanNoise *n)
{
    const int64_t C = y->dim[0], f = y->dim[1], hw = wan_count(y) / (C * f);
    const WanMark mark = wan_mark(d);
    const WanTensor rows = wan_reshape(y, C, f * hw);
    WanTensor drawn = wan_tmp(d, f * C, hw);
    WanNoise in_order = *n;

    in_order.frame_major = 0;
    wan_op_draw(d, &drawn, &in_order);
    for (int64_t t = 0; t < f; t++) {
        const WanTensor from = wan_slice(&drawn, t * C, C);
        WanTensor to = wan_columns(&rows, t * hw, hw);

        wan_op_copy(d, &to, &from);
    }
    wan_release(d, mark);
}

void wan_op_draw(WanDev *d, WanTensor *y, const WanNoise *n)
{
    if (!ready(d))
        return;
    REQUIRE(d, "noise", is_dense(y) && y->type == WAN_F32);
    REQUIRE(d, "noise", !n->frame_major || y->nb_dims > 2);
    if (n->frame_major) {
        noise_by_frames(d, y, n);
        return;
    }
    trace(d, "noise", y, NULL, NULL, n->rng == WAN_RNG_CPU ? "cpu" : "cuda");
    CALL(d, noise, y, n);
}

uint64_t wan_noise_used(const WanNoise *n, int64_t count)
{
    return n->rng == WAN_RNG_CPU ? wan_randn_used_cpu(count)
                                 : wan_randn_used_cuda(count, n->threads);
}
