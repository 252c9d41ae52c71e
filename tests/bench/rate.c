/*
 * How evenly frames leave a filter graph: when each one comes out of a pipe.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: ffmpeg ... -pix_fmt yuv420p -f rawvideo - | rate WIDTH HEIGHT RATE FRAMES
 *
 * Reads FRAMES frames, then ends. Says frames a second from the first one on,
 * the largest hole between two in frame durations, how many holes are over
 * 1.5, and how far the stream was behind its own clock at most, in frames.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    double first = 0, last = 0, hole = 0, behind = 0;
    long n = 0, holes = 0;

    if (argc != 5)
        return fprintf(stderr, "usage: rate WIDTH HEIGHT RATE FRAMES\n"), 2;
    const size_t bytes = (size_t)atol(argv[1]) * atol(argv[2]) * 3 / 2;
    const double rate = atof(argv[3]);
    const long frames = atol(argv[4]);
    char *frame = malloc(bytes);

    if (!frame || setvbuf(stdin, NULL, _IONBF, 0))
        return 2;
    for (; n < frames && fread(frame, 1, bytes, stdin) == bytes; n++) {
        const double t = now();

        if (!n)
            first = t;
        else if ((t - last) * rate > 1.5)
            holes++;
        if (n)
            hole = fmax(hole, (t - last) * rate);
        behind = fmax(behind, (t - first) * rate - n);
        last = t;
    }
    free(frame);
    if (n < 2)
        return fprintf(stderr, "rate: %ld frames\n", n), 1;
    printf("%ld frames, %.2f fps of %g, largest hole %.2f frames, %ld over 1.5, "
           "behind %.2f frames at most\n", n, (n - 1) / (last - first), rate,
           hole, holes, behind);
    return 0;
}
