/*
 * What a clip of the demo model shows, measured in its pixels.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: judge WIDTHxHEIGHT RAW           one line, separated by tabs:
 *            colour shape motion background, then a margin for each
 *        judge --live FIRST FRAMES WIDTHxHEIGHT RAW
 *            the same line, of so many frames of a scene that goes on, from
 *            FIRST (0 on)
 *        judge --drift FRAMES WIDTHxHEIGHT RAW
 *            a line for every so many frames of a stream: means of red, green
 *            and blue, their standard deviations, saturation, sharpness
 *        judge --psnr WIDTHxHEIGHT RAW RAW   dB between the first frames
 *
 * RAW is rawvideo in rgb24, 3 to 256 frames, of a stream any number; '-' is
 * the standard input. The world is that of tools/demo-model/world.py: one vivid
 * or white object before a muted background that rests. What can't be told is
 * "none".
 *
 * The object is cut out by its colour. Its shape is the one of six outlines
 * that, turned, covers the cut-out best, over all frames. Its motion is the
 * path that explains the track of its centre, or a change of its size, or of
 * the angle at which the outline fitted. The background is the mean of what
 * the object leaves free.
 *
 * Margins are 0 where the decision is a toss-up. Colour: how much more often
 * than the second. Shape: difference of the intersections over unions. Motion
 * and background: distance from the nearest threshold, as a part of it.
 *
 * Of a scene that goes on (tools/demo-model/live.py) a stretch is judged. What
 * it looks like is what its last block, four frames, shows: all that was
 * another before has faded by then. How it moves is told from all of its
 * frames, by paths that begin in any phase, drift to where there is room, and
 * end. Each frame's object is cut out by that frame's colour.
 *
 * With JUDGE_VERBOSE in the environment the measures go to standard error.
 *
 * Exit status: 0, 2 usage, 1 a file that can't be judged.
 */

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PI 3.14159265358979323846

enum { MAX_FRAMES = 256, MAX_SIDE = 4096 };

typedef struct Clip {
    int w, h, frames;
    double unit;            // pixels to one of the world's, which is 96 high
    const uint8_t *rgb;     // [frames, h, w, 3]
} Clip;

/* The object in one frame: the mask's box, area and centre in pixels. */
typedef struct Object {
    int x0, y0, x1, y1;     // x1, y1: first outside
    double area;            // 0: none was found
    double x, y;
    double angle;           // of the outline that fits best, radians
} Object;

typedef struct Verdict {
    const char *name;
    double margin;
} Verdict;

static const Verdict unknown = { "none", 0 };


static void *room(size_t bytes)
{
    void *p = malloc(bytes);

    if (!p) {
        fprintf(stderr, "judge: no memory\n");
        exit(1);
    }
    return p;
}

static int min3(const uint8_t *p)
{
    const int m = p[0] < p[1] ? p[0] : p[1];
    return m < p[2] ? m : p[2];
}

static int max3(const uint8_t *p)
{
    const int m = p[0] > p[1] ? p[0] : p[1];
    return m > p[2] ? m : p[2];
}

// ------------------------------------------------------------------ colour

enum { WHITE = 7, COLOURS = 8 };

static const struct {
    const char *name;
    double rgb[3];
} colours[COLOURS] = {
    { "red",    { 226, 36, 40 } },   { "orange", { 248, 132, 20 } },
    { "yellow", { 250, 216, 28 } },  { "green",  { 44, 178, 60 } },
    { "blue",   { 34, 92, 232 } },   { "purple", { 140, 54, 204 } },
    { "pink",   { 252, 100, 180 } }, { "white",  { 248, 248, 248 } },
};

/* Backgrounds differ by less than 60 between channels and are darker than
 * 175 in their darkest one. */
enum { VIVID = 85, BRIGHT = 195, PALE = 50 };

/* The colour without its brightness, at length 1: invariant to shading and
 * to highlights. */
static void chroma(double out[3], double r, double g, double b)
{
    const double grey = (r + g + b) / 3;
    double norm;

    out[0] = r - grey;
    out[1] = g - grey;
    out[2] = b - grey;
    norm = sqrt(out[0] * out[0] + out[1] * out[1] + out[2] * out[2]);
    for (int i = 0; i < 3 && norm > 0; i++)
        out[i] /= norm;
}

static double dot(const double *a, const double *b)
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/* Index of the colour that a pixel of an object has, or -1: background. */
static int pixel_colour(const uint8_t *p)
{
    double c[3], best = -2;
    int found = -1;

    if (max3(p) - min3(p) < VIVID)
        return min3(p) >= BRIGHT && max3(p) - min3(p) < PALE ? WHITE : -1;
    chroma(c, p[0], p[1], p[2]);
    for (int i = 0; i < WHITE; i++) {
        const double *v = colours[i].rgb;
        double reference[3];
        chroma(reference, v[0], v[1], v[2]);
        if (dot(c, reference) > best) {
            best = dot(c, reference);
            found = i;
        }
    }
    return found;
}

static Verdict dominant_colour(const Clip *clip, int *index)
{
    const int64_t pixels = (int64_t)clip->w * clip->h * clip->frames;
    int64_t count[COLOURS] = { 0 }, second = 0;
    int best = 0;

    for (int64_t i = 0; i < pixels; i++) {
        const int c = pixel_colour(clip->rgb + 3 * i);
        if (c >= 0)
            count[c]++;
    }
    for (int i = 1; i < COLOURS; i++)
        if (count[i] > count[best])
            best = i;
    for (int i = 0; i < COLOURS; i++)
        if (i != best && count[i] > second)
            second = count[i];
    *index = best;
    if (count[best] < 60 * clip->unit * clip->unit * clip->frames)
        return unknown;
    return (Verdict){ colours[best].name,
                      (double)(count[best] - second) / (double)count[best] };
}

// --------------------------------------------------------------- the cut-out

/* How much of the object's colour a pixel has. */
static double amount(const uint8_t *p, int colour, const double *direction)
{
    const double v[3] = { p[0], p[1], p[2] };
    return colour == WHITE ? min3(p) : dot(v, direction);
}

/* Halfway between the object and what lies behind it. */
static double threshold(const Clip *clip, int colour, const double *direction)
{
    const int64_t pixels = (int64_t)clip->w * clip->h * clip->frames;
    double object = 0, rest = 0;
    int64_t objects = 0, rests = 0;

    for (int64_t i = 0; i < pixels; i++) {
        const uint8_t *p = clip->rgb + 3 * i;
        const int c = pixel_colour(p);
        if (c == colour) {
            object += amount(p, colour, direction);
            objects++;
        } else if (c < 0) {
            rest += amount(p, colour, direction);
            rests++;
        }
    }
    object /= objects ? (double)objects : 1;
    rest /= rests ? (double)rests : 1;
    // a pale sky is brighter than the mean of its picture
    return colour == WHITE ? fmax((object + rest) / 2, 190) : (object + rest) / 2;
}

/* Marks with label what is connected to pixel start and has the value 1;
 * returns how much. stack holds w * h. */
static int flood(int *map, int w, int h, int start, int label, int *stack)
{
    int depth = 0, count = 0;

    stack[depth++] = start;
    map[start] = label;
    while (depth) {
        const int i = stack[--depth], x = i % w, y = i / w;
        const int next[4] = { x > 0 ? i - 1 : i, x < w - 1 ? i + 1 : i,
                              y > 0 ? i - w : i, y < h - 1 ? i + w : i };
        count++;
        for (int k = 0; k < 4; k++)
            if (map[next[k]] == 1) {
                map[next[k]] = label;
                stack[depth++] = next[k];
            }
    }
    return count;
}

/* Keeps of the 1s in map the largest connected part. Returns its size. */
static int largest_part(int *map, int w, int h, int *stack)
{
    int best = 0, best_label = 0, label = 2;

    for (int i = 0; i < w * h; i++)
        if (map[i] == 1) {
            const int count = flood(map, w, h, i, label, stack);
            if (count > best) {
                best = count;
                best_label = label;
            }
            label++;
        }
    for (int i = 0; i < w * h; i++)
        map[i] = best && map[i] == best_label;
    return best;
}

/* A highlight leaves a hole that is none: small ones are filled. */
static void fill_holes(uint8_t *mask, int w, int h, int limit, int *map,
                       int *stack)
{
    for (int i = 0; i < w * h; i++)
        map[i] = !mask[i];
    for (int i = 0, label = 2; i < w * h; i++)
        if (map[i] == 1) {
            if (flood(map, w, h, i, label, stack) <= limit)
                for (int j = 0; j < w * h; j++)
                    if (map[j] == label)
                        mask[j] = 1;
            label++;
        }
}

static Object measure(const uint8_t *mask, int w, int h)
{
    Object o = { .x0 = w, .y0 = h };

    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            if (mask[y * w + x]) {
                o.area++;
                o.x += x;
                o.y += y;
                o.x0 = x < o.x0 ? x : o.x0;
                o.y0 = y < o.y0 ? y : o.y0;
                o.x1 = x >= o.x1 ? x + 1 : o.x1;
                o.y1 = y >= o.y1 ? y + 1 : o.y1;
            }
    if (o.area > 0) {
        o.x /= o.area;
        o.y /= o.area;
    }
    return o;
}

/* The object's mask [frames, h, w] and its measures. Returns in how many
 * frames there is one. */
static int cut_out(const Clip *clip, int colour, uint8_t *mask, Object *objects)
{
    const int w = clip->w, h = clip->h;
    int *map = room(sizeof(*map) * w * h), *stack = room(sizeof(*stack) * w * h);
    const double *v = colours[colour].rgb;
    double direction[3], limit;
    int found = 0;

    chroma(direction, v[0], v[1], v[2]);
    limit = threshold(clip, colour, direction);
    for (int t = 0; t < clip->frames; t++) {
        const uint8_t *frame = clip->rgb + (size_t)t * w * h * 3;
        uint8_t *m = mask + (size_t)t * w * h;
        int size;

        for (int i = 0; i < w * h; i++)
            map[i] = amount(frame + 3 * i, colour, direction) > limit;
        size = largest_part(map, w, h, stack);
        for (int i = 0; i < w * h; i++)
            m[i] = (uint8_t)map[i];
        fill_holes(m, w, h, size / 16, map, stack);
        objects[t] = measure(m, w, h);
        if (objects[t].area < 60 * clip->unit * clip->unit || 2 * size > w * h)
            objects[t].area = 0;        // a speck, or no object but a wall
        found += objects[t].area > 0;
    }
    free(map);
    free(stack);
    return found;
}

// ------------------------------------------------------------------- shape

/* Is the point inside the outline of radius 1? x right, y down. */

static int ball(double x, double y)
{
    return x * x + y * y < 1;
}

static int square(double x, double y)
{
    return fabs(x) < 0.86 && fabs(y) < 0.86;
}

static int triangle(double x, double y)
{
    return y < 0.66 && 0.8660254 * fabs(x) - 0.5 * y < 0.66;
}

static int star(double x, double y)
{
    const double sector = PI / 5, angle = atan2(x, -y);
    const double turn = angle - 2 * sector * floor(angle / (2 * sector) + 0.5);
    const double r = sqrt(x * x + y * y), away = fabs(turn);
    const double px = r * sin(away), py = r * cos(away);
    const double notch_x = 0.58 * sin(sector), notch_y = 0.58 * cos(sector);

    // left of the line from the tip (0, 1.2) to the notch
    return px * (1.2 - notch_y) + (py - 1.2) * notch_x < 0;
}

static int heart(double x, double y)
{
    const double s = 0.6, d = s * sqrt(0.5), left = fabs(x) - d;

    y -= 0.2;
    return fabs(x) + fabs(y) < s * sqrt(2) ||
           left * left + (y + d) * (y + d) < s * s;
}

static int ring(double x, double y)
{
    return fabs(sqrt(x * x + y * y) - 0.74) < 0.27;
}

enum { SHAPES = 6, STEP = 6 };  // STEP: degrees between the angles tried

typedef struct Shape {
    const char *name;
    int (*inside)(double x, double y);
    int period;             // degrees after which it looks the same, 0: any
} Shape;

static const Shape shapes[SHAPES] = {
    { "ball", ball, 0 },      { "square", square, 90 },
    { "triangle", triangle, 120 }, { "star", star, 72 },
    { "heart", heart, 360 },  { "ring", ring, 0 },
};

/* Area and height of the centre of mass of an outline of radius 1. */
static void outline(const Shape *s, double *area, double *centre)
{
    const int n = 200;
    int count = 0;

    *centre = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const double x = 2.8 * (j + 0.5) / n - 1.4, y = 2.8 * (i + 0.5) / n - 1.4;
            if (s->inside(x, y)) {
                count++;
                *centre += y;
            }
        }
    *centre /= count;
    *area = count * (2.8 / n) * (2.8 / n);
}

/* Intersection over union of the mask and the outline of the same area and
 * centre, turned by angle. */
static double overlap(const uint8_t *mask, int w, int h, const Object *o,
                      const Shape *s, double area, double centre, double angle)
{
    const double r = sqrt(o->area / area), c = cos(angle), d = sin(angle);
    const int reach = (int)ceil(1.3 * r);
    int both = 0, drawn = 0;

    for (int y = (int)o->y - reach; y <= (int)o->y + reach; y++)
        for (int x = (int)o->x - reach; x <= (int)o->x + reach; x++) {
            const double px = (x - o->x) / r, py = (y - o->y) / r;
            if (s->inside(px * c + py * d, py * c - px * d + centre)) {
                drawn++;
                both += x >= 0 && y >= 0 && x < w && y < h && mask[y * w + x];
            }
        }
    return both / (o->area + drawn - both);
}

/* Also notes at which angle the outline of the best shape lies; *found is NULL
 * if there is none. */
static Verdict shape_of(const Clip *clip, const uint8_t *mask, Object *objects,
                        const Shape **found)
{
    static double angle[SHAPES][MAX_FRAMES];
    double score[SHAPES] = { 0 }, second = 0;
    int best = 0, count = 0;

    for (int k = 0; k < SHAPES; k++) {
        const Shape *s = &shapes[k];
        double area, centre;

        outline(s, &area, &centre);
        count = 0;
        for (int t = 0; t < clip->frames; t++) {
            double top = -1;
            if (objects[t].area <= 0)
                continue;
            for (int a = 0; a < (s->period ? s->period : 1); a += STEP) {
                const double at = a * PI / 180;
                const double iou =
                    overlap(mask + (size_t)t * clip->w * clip->h, clip->w,
                            clip->h, &objects[t], s, area, centre, at);
                if (iou > top) {
                    top = iou;
                    angle[k][t] = at;
                }
            }
            score[k] += top;
            count++;
        }
        score[k] /= count ? count : 1;
    }
    for (int k = 1; k < SHAPES; k++)
        if (score[k] > score[best])
            best = k;
    for (int k = 0; k < SHAPES; k++)
        if (k != best && score[k] > second)
            second = score[k];
    for (int t = 0; t < clip->frames; t++)
        objects[t].angle = angle[best][t];
    *found = &shapes[best];
    if (score[best] < 0.6) {
        *found = NULL;
        return unknown;
    }
    return (Verdict){ shapes[best].name, score[best] - second };
}

// ------------------------------------------------------------------ motion

/* n points of a curve over time, 0 to 1. */
typedef struct Track {
    int n;
    double t[MAX_FRAMES], x[MAX_FRAMES], y[MAX_FRAMES];
} Track;

static double mean(const double *v, int n)
{
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += v[i];
    return sum / n;
}

/* The multiple of curve u, both taken without their means, that is nearest to
 * v. Adds the square of what is left to *rest. */
static double fit(const double *v, const double *u, int n, double *rest)
{
    const double mv = mean(v, n), mu = mean(u, n);
    double uv = 0, uu = 0, vv = 0, k;

    for (int i = 0; i < n; i++) {
        uv += (u[i] - mu) * (v[i] - mv);
        uu += (u[i] - mu) * (u[i] - mu);
        vv += (v[i] - mv) * (v[i] - mv);
    }
    k = uu > 0 ? uv / uu : 0;
    *rest += vv - k * uv;
    return k;
}

static double spread(const double *v, int n)
{
    const double m = mean(v, n);
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += (v[i] - m) * (v[i] - m);
    return sum;
}

/* What is left of the track without the best circle in one sense. */
static double off_circle(const Track *k, int sense)
{
    // (x, y) = centre + a (cos, sense sin) + b (-sin, sense cos): x and y
    // stacked, each without its mean, against two curves that are orthogonal
    // up to the sampling; solved as a 2 x 2 system.
    double c[2][2 * MAX_FRAMES], v[2 * MAX_FRAMES];
    const int n = k->n;
    double aa = 0, ab = 0, bb = 0, av = 0, bv = 0, vv = 0, det, a, b;

    for (int i = 0; i < n; i++) {
        const double turn = 2 * PI * k->t[i];
        c[0][i] = cos(turn);
        c[0][n + i] = sense * sin(turn);
        c[1][i] = -sin(turn);
        c[1][n + i] = sense * cos(turn);
        v[i] = k->x[i];
        v[n + i] = k->y[i];
    }
    for (int half = 0; half < 2; half++) {
        const double m0 = mean(c[0] + half * n, n), m1 = mean(c[1] + half * n, n);
        const double mv = mean(v + half * n, n);
        for (int i = half * n; i < (half + 1) * n; i++) {
            const double p = c[0][i] - m0, q = c[1][i] - m1, u = v[i] - mv;
            aa += p * p;
            ab += p * q;
            bb += q * q;
            av += p * u;
            bv += q * u;
            vv += u * u;
        }
    }
    det = aa * bb - ab * ab;
    a = (av * bb - bv * ab) / det;
    b = (bv * aa - av * ab) / det;
    return vv - a * av - b * bv;
}

/* Which path explains the track best. The margin is how much more it leaves
 * unexplained to lose against the next, or to be none at all. */
static Verdict path_of(const Track *k)
{
    enum { PATHS = 4 };
    const double all = spread(k->x, k->n) + spread(k->y, k->n);
    double bounce[MAX_FRAMES], rest[PATHS], slope_x, slope_y, hop;
    const char *name[PATHS];
    int best = 0;
    double second = 0.35;           // of what was to explain

    for (int i = 0; i < k->n; i++)
        bounce[i] = -fabs(sin(2 * PI * k->t[i]));

    rest[0] = spread(k->y, k->n);
    slope_x = fit(k->x, k->t, k->n, &rest[0]);
    name[0] = slope_x < 0 ? "left" : "right";
    rest[1] = spread(k->x, k->n);
    slope_y = fit(k->y, k->t, k->n, &rest[1]);
    name[1] = slope_y < 0 ? "up" : "down";
    rest[2] = spread(k->x, k->n);
    hop = fit(k->y, bounce, k->n, &rest[2]);
    if (hop < 0)
        rest[2] = all;
    name[2] = "bounces";
    rest[3] = fmin(off_circle(k, 1), off_circle(k, -1));
    name[3] = "circles";

    for (int i = 1; i < PATHS; i++)
        if (rest[i] < rest[best])
            best = i;
    for (int i = 0; i < PATHS; i++)
        if (i != best && rest[i] / all < second)
            second = rest[i] / all;
    if (rest[best] / all >= 0.35)
        return unknown;
    return (Verdict){ name[best], (second - rest[best] / all) / 0.35 };
}

/* Path, size or angle: whichever changed most, each measured by how much it
 * takes to count as a change. */
static Verdict motion_of(const Clip *clip, const Object *objects,
                         const Shape *shape)
{
    const double enough_path = 4.5 * clip->unit;    // standard deviation
    const double enough_size = log(1.45);           // log of the radii's ratio
    const double enough_turn = 50 * PI / 180;
    const double off_line = 15 * PI / 180;          // standard deviation: more
                                    // is no turn, but an outline that tells
                                    // little of its angle
    const double period = shape ? shape->period * PI / 180 : 0;
    double radius[MAX_FRAMES], angle[MAX_FRAMES], slope, first, rest = 0, off = 0;
    double path, size, turn = 0, margin;
    Verdict v;
    Track k = { 0 };

    for (int i = 0; i < clip->frames; i++)
        if (objects[i].area > 0) {
            k.t[k.n] = (double)i / (clip->frames - 1);
            k.x[k.n] = objects[i].x;
            k.y[k.n] = objects[i].y;
            radius[k.n] = sqrt(objects[i].area);
            angle[k.n] = objects[i].angle;
            if (k.n && period > 0)      // the turn of least size
                angle[k.n] -= period *
                    floor((angle[k.n] - angle[k.n - 1]) / period + 0.5);
            k.n++;
        }

    path = sqrt((spread(k.x, k.n) + spread(k.y, k.n)) / k.n) / enough_path;
    slope = fit(radius, k.t, k.n, &rest);
    first = mean(radius, k.n) - slope * mean(k.t, k.n);
    first = fmax(first, 1);
    size = log(fmax(first + slope, 1) / first) / enough_size;
    if (period > 0)
        turn = fabs(fit(angle, k.t, k.n, &off)) / enough_turn;
    if (sqrt(off / k.n) > off_line)
        turn = 0;

    if (path < 1 && fabs(size) < 1 && turn < 1)
        return unknown;
    if (path > fabs(size) && path > turn) {
        v = path_of(&k);
        margin = path - fmax(1, fmax(fabs(size), turn));
        v.margin = fmin(v.margin, margin);
    } else if (fabs(size) > turn) {
        margin = fabs(size) - fmax(1, fmax(path, turn));
        v = (Verdict){ size > 0 ? "grows" : "shrinks", margin };
    } else {
        margin = turn - fmax(1, fmax(path, fabs(size)));
        v = (Verdict){ "spins", margin };
    }
    return v;
}

// ------------------------------------------------- motion that began before

enum { HOP = 12, TURN = 24 };    // frames from ground to ground, of a circle
enum { MOST_COLUMNS = 6 };

/* Curves of which a track is a mix: x stacked on y, in the world's pixels. */
typedef struct Mix {
    int n, columns;             // points of the track; 2 n rows
    double column[MOST_COLUMNS][2 * MAX_FRAMES];
} Mix;

/* A column of zeros. */
static double *another(Mix *m)
{
    double *c = m->column[m->columns++];

    for (int i = 0; i < 2 * m->n; i++)
        c[i] = 0;
    return c;
}

/* A centre that rests at first and at last: on that axis it goes from begin to
 * end, frames. */
static void add_way(Mix *m, const Track *k, int axis, double begin, double end)
{
    double *c = another(m) + axis * m->n;

    for (int i = 0; i < m->n; i++)
        c[i] = fmin(fmax(k->t[i] - begin, 0), end - begin);
}

/* A mix with the centre as it is in one place. */
static void place(Mix *m, const Track *k)
{
    m->n = k->n;
    m->columns = 0;
    for (int axis = 0; axis < 2; axis++) {
        double *c = another(m) + axis * m->n;
        for (int i = 0; i < m->n; i++)
            c[i] = 1;
    }
}

/* The sum of squares that the best mix leaves of the track; takes[columns]: how
 * much it takes of each. The columns are made orthogonal. */
static double unmixed(Mix *m, const Track *k, double *takes)
{
    const int rows = 2 * m->n, n = m->columns;
    double v[2 * MAX_FRAMES], rest = 0;
    double share[MOST_COLUMNS][MOST_COLUMNS + 1];   // of a column in a later one

    for (int i = 0; i < m->n; i++) {
        v[i] = k->x[i];
        v[m->n + i] = k->y[i];
    }
    for (int j = 0; j < n; j++) {
        double *c = m->column[j], length = 0;
        for (int i = 0; i < rows; i++)
            length += c[i] * c[i];
        for (int l = j + 1; l <= n; l++) {
            double *u = l < n ? m->column[l] : v;
            share[j][l] = 0;
            if (length < 1e-6)      // a mix of those before
                continue;
            for (int i = 0; i < rows; i++)
                share[j][l] += u[i] * c[i] / length;
            for (int i = 0; i < rows; i++)
                u[i] -= share[j][l] * c[i];
        }
    }
    for (int j = n - 1; j >= 0; j--) {
        takes[j] = share[j][n];
        for (int l = j + 1; l < n; l++)
            takes[j] -= share[j][l] * takes[l];
    }
    for (int i = 0; i < rows; i++)
        rest += v[i] * v[i];
    return rest;
}

/* What a line along one axis leaves, which begins and ends at any time, but
 * takes four frames; *way is its length, with its direction. */
static double off_line(const Track *k, int axis, double *way)
{
    const int from = (int)k->t[0], to = (int)k->t[k->n - 1];
    double best = INFINITY, takes[MOST_COLUMNS];
    Mix m;

    *way = 0;
    for (int begin = from; begin <= to - 4; begin++)
        for (int end = begin + 4; end <= to; end++) {
            place(&m, k);
            add_way(&m, k, axis, begin, end);
            const double rest = unmixed(&m, k, takes);
            if (rest < best) {
                best = rest;
                *way = takes[m.columns - 1] * (end - begin);
            }
        }
    return best;
}

/* What hops in any phase leave (sense 0), or a circle in one sense: around a
 * place that goes to another at first, x and y each as long as it takes. A small
 * one would explain how any line wavers. */
static double off_round(const Track *k, int sense)
{
    const double from = k->t[0], least = sense ? 8 : 6;    // pixels of a radius, a hop
    double best = INFINITY, takes[MOST_COLUMNS];
    Mix m;

    for (int long_x = 0; long_x <= TURN; long_x += 2)
        for (int long_y = 0; long_y <= TURN; long_y += 2)
            for (double phase = 0; phase < (sense ? 0.5 : HOP); phase += 0.5) {
                // a circle's phase is in its columns
                double *a, *b;

                place(&m, k);
                add_way(&m, k, 0, from, from + long_x);
                add_way(&m, k, 1, from, from + long_y);
                a = another(&m);
                b = sense ? another(&m) : NULL;
                for (int i = 0; i < k->n; i++) {
                    const double turn = 2 * PI * k->t[i] / TURN;
                    if (sense) {
                        a[i] = b[k->n + i] = cos(turn);
                        a[k->n + i] = sense * sin(turn);
                        b[i] = -sense * sin(turn);
                    } else {
                        a[k->n + i] = -fabs(sin(PI * (k->t[i] - phase) / HOP));
                    }
                }
                const double rest = unmixed(&m, k, takes);
                const double *last = takes + m.columns - 1;
                if (rest < best &&
                    (sense ? hypot(last[-1], *last) : *last) > least)
                    best = rest;
            }
    return best;
}

/* Which path explains the track best, frames in t: the least of the logarithm
 * of what it leaves, in points each with a pixel's error, and a price for all
 * that it is free to choose (Schwarz's criterion). The margin is by how much
 * that is less, per point and axis, than the next one's. */
static Verdict live_path(const Track *k)
{
    enum { PATHS = 4 };
    // a line's place, speed, begin, end; a place, its ways, height and phase
    static const int chosen[PATHS] = { 5, 5, 8, 8 };
    const double rows = 2 * k->n, all = spread(k->x, k->n) + spread(k->y, k->n);
    double rest[PATHS], score[PATHS], way_x, way_y, next = INFINITY;
    const char *name[PATHS] = { "left", "up", "bounces", "circles" };
    int best = 0;

    rest[0] = off_line(k, 0, &way_x);
    rest[1] = off_line(k, 1, &way_y);
    rest[2] = off_round(k, 0);
    rest[3] = fmin(off_round(k, 1), off_round(k, -1));
    if (way_x > 0)
        name[0] = "right";
    if (way_y > 0)
        name[1] = "down";
    for (int i = 0; i < PATHS; i++) {
        score[i] = log(rest[i] / rows + 1) + chosen[i] * log(rows) / rows;
        if (score[i] < score[best])
            best = i;
    }
    for (int i = 0; i < PATHS; i++)
        if (i != best)
            next = fmin(next, score[i]);
    if (getenv("JUDGE_VERBOSE"))
        fprintf(stderr, "path: of %.0f line %.1f %.1f hops %.1f circle %.1f\n",
                all, rest[0], rest[1], rest[2], rest[3]);
    return rest[best] < 0.35 * all ? (Verdict){ name[best], next - score[best] }
                                   : unknown;
}

/* A stretch of a scene: where the object is in which frame, how large, and at
 * which angle, if it has the shape that it has at last. */
typedef struct Course {
    Track track, size;          // size.x: the radius's logarithm
    int turns;
    double when[MAX_FRAMES], angle[MAX_FRAMES];
} Course;

/* As motion_of, of what may begin late or end early. */
static Verdict live_motion(const Course *c)
{
    const double enough_path = 2.2;             // standard deviation
    const double enough_size = log(1.2);
    const double enough_turn = 50 * PI / 180 / TURN;    // a frame
    const double off_turn = 15 * PI / 180;      // standard deviation
    const Track *k = &c->track;
    const int n = k->n;
    double path, size, turn = 0, off = 0;
    Verdict v;

    if (n < 6)
        return unknown;
    path = sqrt((spread(k->x, n) + spread(k->y, n)) / n) / enough_path;
    off_line(&c->size, 0, &size);
    size /= enough_size;
    if (c->turns >= 6)
        turn = fabs(fit(c->angle, c->when, c->turns, &off)) / enough_turn;
    if (c->turns && sqrt(off / c->turns) > off_turn)
        turn = 0;
    if (getenv("JUDGE_VERBOSE"))
        fprintf(stderr, "motion: path %.2f size %.2f turn %.2f\n", path, size, turn);

    if (path < 1 && fabs(size) < 1 && turn < 1)
        return unknown;
    if (path > fabs(size) && path > turn) {
        v = live_path(k);
        v.margin = fmin(v.margin, path - fmax(1, fmax(fabs(size), turn)));
    } else if (fabs(size) > turn) {
        v = (Verdict){ size > 0 ? "grows" : "shrinks",
                       fabs(size) - fmax(1, fmax(path, turn)) };
    } else {
        v = (Verdict){ "spins", turn - fmax(1, fmax(path, fabs(size))) };
    }
    return v;
}

// -------------------------------------------------------------- background

/* The mean over the frames of what neither the object nor its shadow covers:
 * [h, w, 3], seen [h, w] says in how many frames. */
static void behind(const Clip *clip, const Object *objects, double *picture,
                   int *seen)
{
    const int w = clip->w, h = clip->h;
    const int before = (int)(4 * clip->unit), after = (int)(9 * clip->unit);

    for (int t = 0; t < clip->frames; t++) {
        const Object *o = &objects[t];
        const uint8_t *frame = clip->rgb + (size_t)t * w * h * 3;
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) {
                const int i = y * w + x;
                if (o->area > 0 && x >= o->x0 - before && x < o->x1 + after &&
                    y >= o->y0 - before && y < o->y1 + after)
                    continue;
                seen[i]++;
                for (int c = 0; c < 3; c++)
                    picture[3 * i + c] += frame[3 * i + c];
            }
    }
    for (int i = 0; i < w * h; i++)
        for (int c = 0; c < 3 && seen[i]; c++)
            picture[3 * i + c] /= seen[i];
}

/* Contrast of a checkerboard with cells of 16 pixels: the amplitude of the
 * two diagonal waves that it is made of, rows taken without their means. */
static double checkers(const Clip *clip, const double *grey,
                       const double *row, const int *seen)
{
    const double turn = 2 * PI / (32 * clip->unit);
    double re[2] = { 0 }, im[2] = { 0 };
    int n = 0;

    for (int y = 0; y < clip->h; y++)
        for (int x = 0; x < clip->w; x++) {
            const int i = y * clip->w + x;
            if (!seen[i])
                continue;
            n++;
            for (int k = 0; k < 2; k++) {
                const double a = turn * (x + (k ? -y : y));
                re[k] += (grey[i] - row[y]) * cos(a);
                im[k] += (grey[i] - row[y]) * sin(a);
            }
        }
    // both are there, or it's no checkerboard
    return n ? fmin(hypot(re[0], im[0]), hypot(re[1], im[1])) / n : 0;
}

/* Mean of the rows from..to (in the world's pixels) that were seen. */
static double band(const Clip *clip, const double *row, double from, double to)
{
    double sum = 0;
    int n = 0;

    for (int y = (int)(from * clip->unit); y < to * clip->unit; y++)
        if (y >= 0 && y < clip->h && row[y] >= 0) {
            sum += row[y];
            n++;
        }
    return n ? sum / n : -1;
}

/* How much darker it gets at a horizon, beyond what the picture darkens on
 * its way there. *at is where. */
static double horizon_of(const Clip *clip, const double *row, double *at)
{
    double best = -1;

    *at = 43;
    for (double y = 30; y <= 56; y++) {
        const double above = band(clip, row, y - 12, y - 6);
        const double below = band(clip, row, y + 6, y + 12);
        if (above >= 0 && below >= 0 && above - below > best) {
            best = above - below;
            *at = y;
        }
    }
    return best;
}

/* How far value is from limit, as a part of it. */
static double away(double value, double limit)
{
    return fabs(value - limit) / limit;
}

static Verdict background_of(const Clip *clip, const Object *objects)
{
    const double dark = 75, check = 2.5, step = 30, slope = 25, tint = 10;
    const int w = clip->w, h = clip->h;
    double *picture = calloc((size_t)w * h, 3 * sizeof(*picture));
    double *grey = calloc((size_t)w * h, sizeof(*grey));
    double *row = calloc(h, sizeof(*row)), *green = calloc(h, sizeof(*green));
    int *seen = calloc((size_t)w * h, sizeof(*seen));
    double level, pattern, drop, range, at, margin;
    const char *name;

    if (!picture || !grey || !row || !green || !seen) {
        fprintf(stderr, "judge: no memory\n");
        exit(1);
    }
    behind(clip, objects, picture, seen);
    for (int y = 0; y < h; y++) {
        int n = 0;
        for (int x = 0; x < w; x++) {
            const int i = y * w + x;
            const double *p = picture + 3 * i;
            grey[i] = (p[0] + p[1] + p[2]) / 3;
            if (seen[i]) {
                n++;
                row[y] += grey[i];
                green[y] += p[1] - p[2];
            }
        }
        row[y] = n ? row[y] / n : -1;
        green[y] = n ? 128 + green[y] / n : -1;
    }

    level = band(clip, row, 0, 96);
    pattern = checkers(clip, grey, row, seen);
    drop = horizon_of(clip, row, &at);
    range = fabs(band(clip, row, 0, 12) - band(clip, row, 84, 96));
    if (level < 0) {
        name = unknown.name;
        margin = 0;
    } else if (level < dark) {
        name = "night sky";
        margin = away(level, dark);
    } else if (pattern > check) {
        name = "checkerboard";
        margin = fmin(away(level, dark), away(pattern, check));
    } else if (drop > step) {
        const double hue = band(clip, green, at + 6, 96) - 128;
        name = hue > tint ? "field" : "sea";
        margin = fmin(away(drop, step), away(hue, tint));
        margin = fmin(margin, away(pattern, check));
    } else {
        name = range > slope ? "gradient" : "plain";
        margin = fmin(away(drop, step), away(range, slope));
        margin = fmin(margin, fmin(away(pattern, check), away(level, dark)));
    }
    if (getenv("JUDGE_VERBOSE"))
        fprintf(stderr, "background: level %.1f pattern %.2f drop %.1f at %.0f"
                " range %.1f\n", level, pattern, drop, at, range);
    free(picture);
    free(grey);
    free(row);
    free(green);
    free(seen);
    return (Verdict){ name, margin };
}

// ----------------------------------------------------------------- the whole

static void print_verdicts(Verdict colour, Verdict shape, Verdict motion,
                           Verdict background)
{
    printf("%s\t%s\t%s\t%s\t%.2f\t%.3f\t%.2f\t%.2f\n", colour.name, shape.name,
           motion.name, background.name, colour.margin, shape.margin,
           motion.margin, background.margin);
}

static void judge(const Clip *clip)
{
    static Object objects[MAX_FRAMES];
    uint8_t *mask = room((size_t)clip->w * clip->h * clip->frames);
    Verdict colour, shape = unknown, motion = unknown, background;
    const Shape *outline = NULL;
    int index;

    colour = dominant_colour(clip, &index);
    if (colour.margin > 0 &&
        cut_out(clip, index, mask, objects) >= 0.8 * clip->frames) {
        shape = shape_of(clip, mask, objects, &outline);
        motion = motion_of(clip, objects, outline);
    }
    background = background_of(clip, objects);
    print_verdicts(colour, shape, motion, background);
    if (getenv("JUDGE_VERBOSE"))
        for (int t = 0; t < clip->frames; t++)
            fprintf(stderr, "frame %d: area %.0f at %.1f,%.1f turned %.0f\n", t,
                    objects[t].area, objects[t].x, objects[t].y,
                    objects[t].angle * 180 / PI);
    free(mask);
}

/* Every frame by itself; shape is that of the last ones. */
static void follow(const Clip *clip, const Shape *shape, uint8_t *mask, Course *c)
{
    const double period = shape ? shape->period * PI / 180 : 0;

    *c = (Course){ 0 };
    for (int t = 0; t < clip->frames; t++) {
        const Clip one = { clip->w, clip->h, 1, clip->unit,
                           clip->rgb + (size_t)t * clip->w * clip->h * 3 };
        const Shape *fits;
        double area, centre, *angle = &c->angle[c->turns];
        Track *k = &c->track, *s = &c->size;
        Object o;
        int index;

        if (dominant_colour(&one, &index).margin <= 0 ||
            !cut_out(&one, index, mask, &o))
            continue;
        shape_of(&one, mask, &o, &fits);
        if (!fits)
            continue;
        outline(fits, &area, &centre);
        k->t[k->n] = s->t[s->n] = t;
        k->x[k->n] = o.x / clip->unit;
        k->y[k->n++] = o.y / clip->unit;
        s->x[s->n++] = log(o.area / area) / 2;
        if (fits != shape || period <= 0)
            continue;
        *angle = o.angle;
        if (c->turns)           // the turn of least size
            *angle -= period * floor((*angle - angle[-1]) / period + 0.5);
        c->when[c->turns++] = t;
    }
}

static void judge_live(const Clip *clip)
{
    enum { BLOCK = 4 };
    static Course course;
    static Object objects[BLOCK];
    const int last = clip->frames < BLOCK ? clip->frames : BLOCK;
    const size_t frame = (size_t)clip->w * clip->h;
    const Clip end = { clip->w, clip->h, last, clip->unit,
                       clip->rgb + 3 * frame * (clip->frames - last) };
    uint8_t *mask = room(frame * BLOCK);
    Verdict colour, shape = unknown, motion, background;
    const Shape *outline = NULL;
    int index;

    colour = dominant_colour(&end, &index);
    if (colour.margin > 0 && cut_out(&end, index, mask, objects))
        shape = shape_of(&end, mask, objects, &outline);
    background = background_of(&end, objects);
    follow(clip, outline, mask, &course);
    motion = live_motion(&course);
    print_verdicts(colour, shape, motion, background);
    if (getenv("JUDGE_VERBOSE"))
        for (int i = 0; i < course.track.n; i++)
            fprintf(stderr, "frame %.0f: radius %.1f at %.1f,%.1f\n",
                    course.track.t[i], exp(course.size.x[i]), course.track.x[i],
                    course.track.y[i]);
    free(mask);
}

// ------------------------------------------------------------------- drift

static double squared(double v)
{
    return v * v;
}

/* Sums over frames. Steps are the squares of neighbours' differences: the sum
 * of differences itself is the same for an edge and for a blurred one. */
typedef struct Sums {
    double value[3], square[3], saturation, steps;
    int64_t pixels, neighbours;
} Sums;

static void add_frame(Sums *s, const uint8_t *rgb, int w, int h)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const uint8_t *p = rgb + 3 * ((size_t)y * w + x);
            for (int c = 0; c < 3; c++) {
                s->value[c] += p[c];
                s->square[c] += squared(p[c]);
                if (x + 1 < w)
                    s->steps += squared(p[3 + c] - p[c]);
                if (y + 1 < h)
                    s->steps += squared(p[3 * w + c] - p[c]);
            }
            s->saturation += max3(p) - min3(p);
        }
    s->pixels += (int64_t)w * h;
    s->neighbours += 3 * ((int64_t)(w - 1) * h + (int64_t)w * (h - 1));
}

static void print_sums(const Sums *s)
{
    const double n = (double)s->pixels;

    for (int c = 0; c < 3; c++)
        printf("%.2f\t", s->value[c] / n);
    for (int c = 0; c < 3; c++) {
        const double m = s->value[c] / n;
        printf("%.2f\t", sqrt(fmax(s->square[c] / n - squared(m), 0)));
    }
    printf("%.2f\t%.3f\n", s->saturation / n,
           sqrt(s->steps / (double)s->neighbours));
}

// ---------------------------------------------------------------- the program

static FILE *open_raw(const char *path)
{
    FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;

    if (!f) {
        fprintf(stderr, "judge: %s: can't be opened\n", path);
        exit(1);
    }
    return f;
}

/* Returns whether it could not be read. */
static int close_raw(FILE *f, const char *path)
{
    const int bad = ferror(f) != 0;

    if (bad)
        fprintf(stderr, "judge: %s: can't be read\n", path);
    if (f != stdin)
        fclose(f);
    return bad;
}

/* All of a file; at most limit bytes. */
static uint8_t *read_all(const char *path, size_t limit, size_t *bytes)
{
    FILE *f = open_raw(path);
    size_t capacity = 1 << 20, n = 0;
    uint8_t *p = room(capacity);

    for (;;) {
        const size_t got = fread(p + n, 1, capacity - n, f);
        n += got;
        if (!got || n > limit)
            break;
        if (n == capacity) {
            uint8_t *more = realloc(p, capacity *= 2);
            if (!more) {
                fprintf(stderr, "judge: %s: no memory\n", path);
                exit(1);
            }
            p = more;
        }
    }
    if (close_raw(f, path))
        exit(1);
    *bytes = n;
    return p;
}

/* A line for every count frames; what is left at the end has none. */
static int drift(int w, int h, int count, const char *path)
{
    const size_t frame = (size_t)w * h * 3;
    FILE *f = open_raw(path);
    uint8_t *rgb = room(frame);
    Sums s = { 0 };
    int frames = 0;

    while (fread(rgb, 1, frame, f) == frame) {
        add_frame(&s, rgb, w, h);
        if (++frames == count) {
            print_sums(&s);
            s = (Sums){ 0 };
            frames = 0;
        }
    }
    free(rgb);
    return close_raw(f, path);
}

static void usage(void)
{
    fprintf(stderr, "usage: judge WIDTHxHEIGHT RAW\n"
                    "       judge --live FIRST FRAMES WIDTHxHEIGHT RAW\n"
                    "       judge --drift FRAMES WIDTHxHEIGHT RAW\n"
                    "       judge --psnr WIDTHxHEIGHT RAW RAW\n");
    exit(2);
}

static int parse_number(const char *text, int least, int most)
{
    char end;
    int n;

    if (sscanf(text, "%d%c", &n, &end) != 1 || n < least || n > most) {
        fprintf(stderr, "judge: '%s' is no number from %d to %d\n", text, least,
                most);
        exit(2);
    }
    return n;
}

static void parse_size(const char *text, int *w, int *h)
{
    char end;

    if (sscanf(text, "%dx%d%c", w, h, &end) != 2 || *w < 16 || *h < 16 ||
        *w > MAX_SIDE || *h > MAX_SIDE) {
        fprintf(stderr, "judge: '%s' is no size from 16x16 to %dx%d\n", text,
                MAX_SIDE, MAX_SIDE);
        exit(2);
    }
}

static int psnr(int w, int h, const char *one, const char *other)
{
    const size_t frame = (size_t)w * h * 3;
    size_t na, nb;
    uint8_t *a = read_all(one, frame * MAX_FRAMES, &na);
    uint8_t *b = read_all(other, frame * MAX_FRAMES, &nb);
    double sum = 0;

    const int enough = na >= frame && nb >= frame;
    if (enough) {
        for (size_t i = 0; i < frame; i++)
            sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        // no difference at all counts as the smallest that there can be
        printf("%.2f\n", 10 * log10(255. * 255 * (double)frame / fmax(sum, 1)));
    } else {
        fprintf(stderr, "judge: %s: no frame of %dx%d\n",
                na < frame ? one : other, w, h);
    }
    free(a);
    free(b);
    return !enough;
}

static int clip_verdict(int w, int h, const char *path)
{
    const size_t frame = (size_t)w * h * 3;
    size_t bytes;
    uint8_t *rgb = read_all(path, frame * MAX_FRAMES, &bytes);
    const int bad = bytes % frame || bytes / frame < 3 || bytes / frame > MAX_FRAMES;

    if (bad)
        fprintf(stderr, "judge: %s: not 3 to %d frames of %dx%d in rgb24\n",
                path, MAX_FRAMES, w, h);
    else
        judge(&(Clip){ w, h, (int)(bytes / frame), h / 96.0, rgb });
    free(rgb);
    return bad;
}

/* Of a stream what is before the stretch is read over. */
static int live_verdict(int w, int h, int first, int count, const char *path)
{
    const size_t frame = (size_t)w * h * 3;
    uint8_t *rgb = room(frame * count);
    FILE *f = open_raw(path);
    size_t got = frame;
    int bad;

    for (int i = 0; i < first && got == frame; i++)
        got = fread(rgb, 1, frame, f);
    if (got == frame)
        got = fread(rgb, 1, frame * count, f);
    bad = close_raw(f, path);
    if (!bad && got < frame * count) {
        fprintf(stderr, "judge: %s: no %d frames of %dx%d in rgb24 from %d on\n",
                path, count, w, h, first);
        bad = 1;
    }
    if (!bad)
        judge_live(&(Clip){ w, h, count, h / 96.0, rgb });
    free(rgb);
    return bad;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 && argv[1][0] == '-' && argv[1][1] ? argv[1] : "";
    const int live = !strcmp(mode, "--live") && argc == 6;
    const int drifts = !strcmp(mode, "--drift") && argc == 5;
    const int compares = !strcmp(mode, "--psnr") && argc == 5;
    int w, h, first = 0, count = 0;

    if (!live && !drifts && !compares && (*mode || argc != 3))
        usage();
    if (live) {
        first = parse_number(argv[2], 0, INT_MAX);
        count = parse_number(argv[3], 3, MAX_FRAMES);
    }
    if (drifts)
        count = parse_number(argv[2], 1, INT_MAX);
    parse_size(argv[argc - 2 - compares], &w, &h);
    if (compares)
        return psnr(w, h, argv[3], argv[4]);
    if (drifts)
        return drift(w, h, count, argv[4]);
    return live ? live_verdict(w, h, first, count, argv[5])
                : clip_verdict(w, h, argv[2]);
}
