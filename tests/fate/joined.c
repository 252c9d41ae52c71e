/*
 * Clips that join=fade joined, against the same clips one after another.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: joined CUT FADED WIDTH HEIGHT FRAMES N
 *
 * Both are raw gbrpf32le video; a clip has FRAMES, and N of each end are mixed.
 * In linear light by BT.709's curve, frame i of the mixed has (i + 1) / (N + 1)
 * of the next clip. Says what differs by more than 1e-5 and fails.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static float *load(const char *path, long values, long *frames)
{
    FILE *f = fopen(path, "rb");
    float *v;
    long bytes;

    if (!f || fseek(f, 0, SEEK_END) || (bytes = ftell(f)) < 0) {
        perror(path);
        exit(1);
    }
    rewind(f);
    v = malloc(bytes + 1);
    if (!v || fread(v, 1, bytes, f) != (size_t)bytes) {
        perror(path);
        exit(1);
    }
    fclose(f);
    *frames = bytes / (values * (long)sizeof(*v));
    return v;
}

static double light(double v)
{
    return v < 0.081 ? v / 4.5 : pow((v + 0.099) / 1.099, 1 / 0.45);
}

static double signal_of(double l)
{
    return l < 0.018 ? l * 4.5 : 1.099 * pow(l, 0.45) - 0.099;
}

/* |got - want| at most, over one frame; b NULL: nothing is mixed in. */
static double worst(const float *got, const float *a, const float *b,
                    double weight, long values)
{
    double most = 0;

    for (long i = 0; i < values; i++) {
        const double want = b ? signal_of(light(a[i]) * (1 - weight) +
                                          light(b[i]) * weight) : a[i];

        most = fmax(most, fabs(got[i] - want));
    }
    return most;
}

int main(int argc, char **argv)
{
    long nb_cut, nb_faded, at = 0;
    int bad = 0;

    if (argc != 7)
        return fprintf(stderr, "usage: joined CUT FADED WIDTH HEIGHT FRAMES "
                       "N\n"), 1;
    const long values = 3 * atol(argv[3]) * atol(argv[4]);
    const long F = atol(argv[5]), N = atol(argv[6]);
    float *cut = load(argv[1], values, &nb_cut);
    float *faded = load(argv[2], values, &nb_faded);
    const long clips = nb_cut / F;

    if (nb_cut % F || nb_faded != clips * F - (clips - 1) * N) {
        printf("%ld frames of %ld clips became %ld\n", nb_cut, clips,
               nb_faded);
        return 1;
    }
    for (long c = 0; c < clips; c++)
        for (long n = c ? N : 0; n < F; n++, at++) {
            const int mixed = n >= F - N && c + 1 < clips;
            const long i = n - (F - N);
            const float *a = cut + (c * F + n) * values;
            const float *b = mixed ? cut + ((c + 1) * F + i) * values : NULL;
            const double off = worst(faded + at * values, a, b,
                                     (i + 1.) / (N + 1), values);

            if (!(off <= 1e-5)) {
                printf("frame %ld, %ld of clip %ld%s: off by %g\n", at, n,
                       c + 1, mixed ? ", mixed" : "", off);
                bad = 1;
            }
        }
    free(cut);
    free(faded);
    return bad;
}
