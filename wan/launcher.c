/*
 * Ranks from an MPI launcher: what the environment says, and the module that
 * alone knows MPI.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * libwan is not linked with MPI. Where a launcher's environment says that there
 * are several processes, libwan-mpi.so is opened, which is; everywhere else
 * nothing of it is loaded, started or looked for.
 */

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ranks.h"

#define MODULE "libwan-mpi.so"

static WanRanks *launched;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int number(const char *name)
{
    const char *value = getenv(name);

    return value ? atoi(value) : 0;
}

/* How many processes the launcher started, 0: there was none. Slurm sets its
 * numbers in batch scripts too, which are one process: there it is srun only
 * where its MPI plugin says a rank. */
static int started(void)
{
    int n = number("OMPI_COMM_WORLD_SIZE");             // Open MPI

    if (n < 2)
        n = number("PMI_SIZE");                         // MPICH and its kin
    if (n < 2 && (getenv("PMIX_RANK") || getenv("PMI_RANK")))
        n = number("SLURM_STEP_NUM_TASKS");
    return n;
}

/* The module beside the library, beside a program's ../lib, or installed. */
static void *open_module(char *why, size_t size)
{
    static const char here;     // an address inside this library
    static const char *const below[] = { "", "/../lib" };
    char path[PATH_MAX];
    const char *slash;
    void *module;
    Dl_info self;

    if (dladdr(&here, &self) && (slash = strrchr(self.dli_fname, '/')))
        for (int i = 0; i < 2; i++) {
            snprintf(path, sizeof(path), "%.*s%s/" MODULE,
                     (int)(slash - self.dli_fname), self.dli_fname, below[i]);
            /* its plugins look for its names among the program's */
            if ((module = dlopen(path, RTLD_NOW | RTLD_GLOBAL)))
                return module;
        }
    if (!(module = dlopen(WAN_LIBDIR "/" MODULE, RTLD_NOW | RTLD_GLOBAL)))
        snprintf(why, size, "%s", dlerror());
    return module;
}

/* At the end of the process, so that the others' launcher sees it end. */
static void leave(void)
{
    wan_ranks_close(&launched);
}

static int launch(int host, int n, const WanLog *log)
{
    WanTransport *(*open)(char *why, size_t size);
    WanTransport *t;
    char why[256] = "";
    void *module;
    int ret;

    if (!(module = open_module(why, sizeof(why))))
        return wan_error(log, WAN_ERR(ENOSYS), "a launcher started %d "
                         "processes, but this build can't join them: %s", n,
                         why);
    *(void **)&open = dlsym(module, "wan_transport_mpi");
    if (!open || !(t = open(why, sizeof(why))))
        return wan_error(log, WAN_ERR(EIO), "MPI: %s",
                         open ? why : MODULE " is of another libwan");
    if (t->size != n) {
        const int size = t->size;

        t->close(t, 1);
        return wan_error(log, WAN_ERR(EINVAL), "a launcher started %d "
                         "processes, the MPI of this build sees %d: use the "
                         "launcher of that MPI", n, size);
    }
    if ((ret = wan_ranks_meet(&launched, t, host, log)) < 0)
        return ret;
    atexit(leave);
    return 0;
}

/* Why it failed, to be said again by who asks again. */
typedef struct Why {
    const WanLog *log;
    char line[512];
} Why;

static void keep_line(void *opaque, enum WanLogLevel level, const char *line)
{
    Why *why = opaque;

    if (level == WAN_LOG_ERROR)
        snprintf(why->line, sizeof(why->line), "%s", line);
    wan_log(why->log, level, "%s", line);
}

int wan_ranks_from_launcher(WanRanks **out, int host, const WanLog *log)
{
    static int tried, result;
    static Why why;
    const int n = started();

    *out = NULL;
    if (n < 2)
        return 0;
    pthread_mutex_lock(&lock);
    if (tried && result < 0)
        wan_error(log, result, "%s", why.line);
    if (!tried) {
        why.log = log;
        result = launch(host, n, &(WanLog){ keep_line, &why, WAN_LOG_DEBUG });
        if (launched)
            launched->log = log ? *log : (WanLog){ 0 };
    }
    tried = 1;
    *out = launched;
    pthread_mutex_unlock(&lock);
    return result;
}
