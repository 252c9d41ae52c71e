/*
 * Tests of libavfilter/wan_windows.c: how a video of any length is cut.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "fakeav.h"

#include "../../libavfilter/wan_windows.c"

#include "test.h"

static AVFrame *numbered(int n)
{
    AVFrame *f = calloc(1, sizeof(*f));

    f->pts = n;
    return f;
}

/* Whether a window has frames from..to - 1, and their masks if there are any. */
static int holds(const FFWanWindow *w, int from, int to, int masks)
{
    int ok = w->nb == to - from;

    for (int i = 0; i < w->nb; i++)
        ok &= w->in[i].frame->pts == from + i &&
              (masks ? w->in[i].mask && w->in[i].mask->pts == -from - i
                     : !w->in[i].mask);
    return ok;
}

/* A video of so many frames, each window taken as soon as it is there. */
static void cut(int size, int overlap, int length, int masks)
{
    FFWanWindows all = { 0 };
    FFWanWindow w;
    int from = 0, put = 0, windows = 0, last = 0, ret;

    CHECK(ff_wan_windows_init(&all, size, overlap) == 0);
    while (!last) {
        while (!(ret = ff_wan_windows_next(&all, &w)) && put < length) {
            CHECK(all.nb <= size);
            ff_wan_windows_put(&all, numbered(put), masks ? numbered(-put) : NULL);
            put++;
        }
        if (!ret) {
            CHECK(put == length && !all.ended);
            ff_wan_windows_end(&all);
            ret = ff_wan_windows_next(&all, &w);
        }
        if (ret != 1)
            break;
        last = w.last;
        CHECKF(w.overlap == (windows ? overlap : 0), "overlap %d", w.overlap);
        CHECKF(holds(&w, from, last ? length : from + size, masks) &&
               w.nb > w.overlap, "%d by %d of %d: window %d", size, overlap,
               length, windows);
        from += size - overlap;
        windows++;
        ff_wan_window_free(&w);
    }
    CHECKF(last == (length > 0), "%d by %d of %d", size, overlap, length);
    CHECK(ff_wan_windows_next(&all, &w) == 0 && !w.nb);
    CHECK(ff_wan_windows_pending(&all) == 0);
    CHECKF(windows == (length <= size ? length > 0 :
                       1 + (length - overlap - 1) / (size - overlap)),
           "%d by %d of %d: %d windows", size, overlap, length, windows);
    ff_wan_windows_free(&all);
}

TEST(every_frame_is_in_its_windows)
{
    for (int length = 0; length < 40; length++) {
        cut(1, 0, length, 0);
        cut(5, 2, length, 0);
        cut(9, 4, length, 1);
        cut(17, 13, length, 1);
        cut(17, 16, length, 0);
    }
}

/* What was not taken goes with it; what is empty can be freed. */
TEST(given_up)
{
    FFWanWindows all = { 0 };
    FFWanWindow none = { 0 };

    ff_wan_window_free(&none);
    ff_wan_windows_free(&all);
    CHECK(ff_wan_windows_init(&all, 5, 2) == 0);
    for (int i = 0; i < 3; i++)
        ff_wan_windows_put(&all, numbered(i), numbered(i));
    CHECK(ff_wan_windows_pending(&all) == 3);
    CHECK(ff_wan_windows_init(&all, 9, 4) == 0);
    CHECK(ff_wan_windows_pending(&all) == 0);
    ff_wan_windows_free(&all);
}

int main(void)
{
    RUN(every_frame_is_in_its_windows);
    RUN(given_up);
    return test_end();
}
