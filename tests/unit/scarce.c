/*
 * A job where threads, address space or executable memory can't be had, and
 * how many threads one takes where they can.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/f32.h"
#include "cpu/sgemm.h"
#include "golden.h"
#include "model.h"
#include "test.h"

/* Sanitizers map terabytes. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* Stands before the C library's, for all libraries of this process. */
static int no_threads;

int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                   void *(*fn)(void *), void *arg)
{
    static int (*real)(pthread_t *, const pthread_attr_t *,
                       void *(*)(void *), void *);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return no_threads ? EAGAIN : real(thread, attr, fn, arg);
}

static char last[1024];
static int errors, warnings;

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level > WAN_LOG_WARNING)
        return;
    snprintf(last, sizeof(last), "%s", line);
    errors += level == WAN_LOG_ERROR;
    warnings += level == WAN_LOG_WARNING;
}

/* Threads of this process, and how many of them are the pool's. */
static int count_threads(int *helpers)
{
    DIR *dir = opendir("/proc/self/task");
    int n = 0;

    *helpers = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[300], name[32] = "";
        FILE *f;

        if (e->d_name[0] == '.')
            continue;
        n++;
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
        if ((f = fopen(path, "r"))) {
            if (fgets(name, sizeof(name), f))
                *helpers += !strcmp(name, "wan-cpu\n");
            fclose(f);
        }
    }
    if (dir)
        closedir(dir);
    return n;
}

static int most_threads, most_helpers;

static void count_at_tap(void *opaque, const char *name, const WanTensor *t)
{
    int helpers, n = count_threads(&helpers);

    (void)opaque, (void)name, (void)t;
    most_threads = n > most_threads ? n : most_threads;
    most_helpers = helpers > most_helpers ? helpers : most_helpers;
}

static WanModel *open_model(int threads)
{
    WanModelParams p;
    WanModel *m = NULL;

    wan_model_params_default(&p);
    p.path = golden_path("tiny/wan-t2v");
    p.device = "cpu";
    p.precision = WAN_PRECISION_F32;
    p.threads = threads;
    p.log = keep;
    if (!CHECKF(wan_model_open(&m, &p) == 0, "%s", last))
        exit(1);
    return m;
}

/* A job from open to its last frame; the pixels' sum in *sum. */
static int run_job(WanModel *m, int tapped, uint64_t *sum)
{
    static uint8_t rgb[3 * 32 * 32];
    const WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                           .width = 32, .height = 32, .data = { rgb },
                           .stride = { 3 * 32 } };
    WanJob *job = NULL;
    WanRequest rq;
    int ret;

    wan_request_default(&rq, m);
    rq.prompt = "a cat";
    rq.width = rq.height = 32;
    rq.frames = 5;
    rq.steps = 2;
    ret = wan_job_open(&job, m, &rq);
    if (ret >= 0 && tapped)
        wan_job_tap(job, count_at_tap, NULL);
    *sum = 0;
    while (ret >= 0 && (ret = wan_job_step(job, NULL)) >= 0) {
        while ((ret = wan_job_frame(job, &img)) >= 0)
            for (size_t i = 0; i < sizeof(rgb); i++)
                *sum = *sum * 31 + rgb[i];
        if (ret == WAN_EOF)
            break;
        ret = ret == WAN_ERR(EAGAIN) ? 0 : ret;
    }
    wan_job_close(&job);
    return ret;
}

static int run(int threads, int tapped, uint64_t *sum)
{
    WanModel *m = open_model(threads);
    const int ret = run_job(m, tapped, sum);

    wan_model_close(&m);
    return ret;
}

static void *nothing(void *unused)
{
    return unused;
}

/* One helper less than threads, and nobody else: no library has a team of its
 * own. None is left at the end. */
TEST(threads_are_counted)
{
    uint64_t one, sum;
    pthread_t thread;
    int none, before;

    pthread_create(&thread, NULL, nothing, NULL);
    pthread_join(thread, NULL);         // a sanitizer's begins with the first
    CHECK(run(1, 0, &one) == WAN_EOF);
    before = count_threads(&none);
    for (int threads = 1; threads <= 4; threads++) {
        int after = 0;

        most_threads = most_helpers = 0;
        CHECK(run(threads, 1, &sum) == WAN_EOF);
        CHECKF(most_threads == before + threads - 1 &&
               most_helpers == threads - 1, "%d threads: %d more, %d helpers",
               threads, most_threads - before, most_helpers);
        for (int i = 0; i < 1000 && (after = count_threads(&none)) != before;
             i++)
            usleep(1000);       // one that was joined may still be listed
        CHECKF(after == before, "%d are left", after - before);
        CHECKF(sum == one, "%d threads make other pixels", threads);
    }
    CHECK(!errors && !warnings);
}

TEST(no_threads)
{
    uint64_t one, sum = 0;

    CHECK(run(1, 0, &one) == WAN_EOF);
    errors = warnings = 0;
    no_threads = 1;
    CHECK(run(4, 0, &sum) == WAN_EOF);
    no_threads = 0;
    CHECK(sum == one);
    CHECKF(warnings == 1 && !errors && strstr(last, "threads are wanted"),
           "%d warnings, %s", warnings, last);
}

#if !SANITIZED

/* What a child that tries a job returns: how it ended. */
enum { FINE = 10, REFUSED, WRONG };

static int64_t mapped_bytes(void)
{
    long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (!f || fscanf(f, "%lld", &pages) != 1)
        exit(WRONG);
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* With limit bytes of address space more than an open model has. */
static int try_job(int64_t limit)
{
    WanModel *m = open_model(2);
    const rlim_t most = mapped_bytes() + limit;
    uint64_t sum;
    int ret;

    setrlimit(RLIMIT_AS, &(struct rlimit){ most, most });
    ret = run_job(m, 0, &sum);

    if (ret == WAN_EOF && !errors)
        return FINE;
    if (ret == WAN_ERR(ENOMEM) && errors == 1)
        return REFUSED;
    printf("# ret %d, %d errors, the last line: %s\n", ret, errors, last);
    return WRONG;
}

/* A child's end: its exit status, or -1 with a line. */
static int wait_child(pid_t pid)
{
    int status;

    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    printf("# signal %d\n", WTERMSIG(status));
    return -1;
}

/* From nearly nothing to enough: an error with its line or frames, never the
 * end of the process. Products must not have been made here before: children
 * would find their code. */
TEST(little_address_space)
{
    int fine = 0, refused = 0;

    for (int64_t kb = 256; kb <= 64 << 10; kb += kb < 32 << 10 ? 512 : 4096) {
        int end;
        pid_t pid;

        fflush(stdout);
        if (!(pid = fork())) {
            end = try_job(kb * 1024);
            fflush(stdout);
            _exit(end);
        }
        end = wait_child(pid);
        fine += end == FINE;
        refused += end == REFUSED;
        CHECKF(end == FINE || end == REFUSED, "with %d kB more", (int)kb);
    }
    CHECKF(fine > 2 && refused > 2, "%d fine, %d refused", fine, refused);
}

/* Linux 6.3 and later: memory of this process never becomes executable. */
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif

TEST(no_executable_memory)
{
    char name[64];
    int end;
    pid_t pid;

    fflush(stdout);
    if (!(pid = fork())) {
        if (prctl(PR_SET_MDWE, 1, 0, 0, 0))
            _exit(0);
        wan_f32_at_most(WAN_F32_NONE);  // else oneDNN is not needed
        end = try_job(INT64_C(1) << 40);
        if (strncmp(wan_sgemm_name(name, sizeof(name)), "built-in", 8) ||
            (WAN_HAVE_ONEDNN && (warnings != 1 || !strstr(last, "plain"))))
            end = WRONG;
        fflush(stdout);
        _exit(end);
    }
    end = wait_child(pid);
    if (!end)
        printf("# this kernel has no PR_SET_MDWE\n");
    CHECK(end == FINE || !end);
}

#endif

int main(void)
{
#if !SANITIZED
    RUN(little_address_space);
    RUN(no_executable_memory);
#endif
    RUN(threads_are_counted);
    RUN(no_threads);
    return test_end();
}
