/*
 * The test harness: TAP lines, counted by tests/run.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 *     TEST(rejects_header_past_end) { CHECK(open_bytes(b, 8) < 0); }
 *     TEST_MAIN(rejects_header_past_end, ...)
 *
 * A CHECK that fails prints where and goes on; the test then is 'not ok'. One that
 * would begin behind WAN_TESTS_UNTIL, in seconds since 1970, is skipped.
 */

#ifndef WAN_TEST_H
#define WAN_TEST_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../wan/clones.h"

/* They make loops several times as slow and look at addresses, not at numbers: of
 * many like cases they are given a few. */
#ifdef WAN_SANITIZED
#define UNDER_SANITIZERS 1
#else
#define UNDER_SANITIZERS 0
#endif

static int test_failures;           // in the running test
static int test_count, test_bad;    // of the program

static inline int test_failed(const char *file, int line, const char *what)
{
    printf("# %s:%d: %s\n", file, line, what);
    fflush(stdout);                 // the next check may be the last
    test_failures++;
    return 0;
}

#define CHECK(cond) \
    ((cond) ? 1 : test_failed(__FILE__, __LINE__, #cond))

/* CHECK with printf-style values to see when it fails. */
#define CHECKF(cond, ...) \
    ((cond) ? 1 : (printf("# " __VA_ARGS__), putchar('\n'), \
                   test_failed(__FILE__, __LINE__, #cond)))

#define TEST(name) static void test_##name(void)

static inline void test_run(const char *name, void (*fn)(void))
{
    const char *until = getenv("WAN_TESTS_UNTIL");

    test_count++;
    if (until && *until && time(NULL) > strtoll(until, NULL, 10)) {
        printf("ok %d - %s # SKIP no time left\n", test_count, name);
        return;
    }
    test_failures = 0;
    fn();
    test_bad += test_failures != 0;
    printf("%s %d - %s\n", test_failures ? "not ok" : "ok", test_count, name);
    fflush(stdout);
}

#define RUN(name) test_run(#name, test_##name)

/* Call last in main(). */
static inline int test_end(void)
{
    printf("1..%d\n", test_count);
    return test_bad != 0;
}

/* |a - b|_2 / |b|_2 over n floats; b all zero: |a|_2. NaN counts as inf. */
static inline double test_rel_l2(const float *a, const float *b, size_t n)
{
    double err = 0, ref = 0;

    for (size_t i = 0; i < n; i++) {
        const double e = (double)a[i] - b[i];
        err += e * e;
        ref += (double)b[i] * b[i];
    }
    if (!(err >= 0) || !isfinite(err))
        return INFINITY;
    return ref > 0 ? sqrt(err / ref) : sqrt(err);
}

#endif /* WAN_TEST_H */
