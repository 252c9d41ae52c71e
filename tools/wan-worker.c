/*
 * wan-worker: a process that an MPI launcher starts beside ffmpeg, to compute a
 * part of its clips. docs/cluster.md has the commands.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ranks.h"

static const char usage[] =
    "usage: mpirun -n 1 ffmpeg ARGUMENTS : -n N wan-worker [options]\n"
    "\n"
    "  --threads N    CPU threads [the machine's cores, divided among its\n"
    "                 processes]\n"
    "  --device NAME  cpu, ref, cuda or cuda:N [the one of ffmpeg's filter; of\n"
    "                 cuda the card with the number that the process has on its\n"
    "                 machine]\n"
    "  --verbose      say more\n"
    "\n"
    "A worker takes models, prompts and sizes from ffmpeg. It opens the model by\n"
    "the same path, so that must be on every machine.\n";

/* s from TERM or INT to the end, of a process that is kept waiting. */
#define GRACE 5

/* s from then, of one that has served and waits for the others to leave. */
#define LEAVING 1

static int rank = -1;

static void print_line(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque, (void)level;
    if (rank > 0)
        fprintf(stderr, "wan-worker %d: %s\n", rank, line);
    else
        fprintf(stderr, "wan-worker: %s\n", line);
}

/* A launcher sends TERM to all as soon as one has died. Those that are left stay
 * for a moment: a process that is gone is then the one that died, and they say
 * so. INT goes to all too, of which ffmpeg ends in order and tells the others. A
 * second one ends it at once. */
static void end_soon(int number)
{
    signal(number, SIG_DFL);
    alarm(GRACE);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "threads", required_argument, NULL, 't' },
        { "device", required_argument, NULL, 'd' },
        { "verbose", no_argument, NULL, 'v' },
        { "help", no_argument, NULL, 'h' },
        { 0 }
    };
    WanLog log = { print_line, NULL, WAN_LOG_ERROR };
    const char *device = NULL;
    WanRanks *ranks;
    int threads = 0, c, ret;

    while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        char *end = "";

        if (c == 't')
            threads = (int)strtol(optarg, &end, 10);
        else if (c == 'd')
            device = optarg;
        else if (c == 'v')
            log.level = WAN_LOG_VERBOSE;
        else
            return fputs(usage, c == 'h' ? stdout : stderr), c != 'h';
        if (*end || threads < 0 || threads > 1024) {
            fprintf(stderr, "wan-worker: --threads %s: 0 to 1024 can be\n",
                    optarg);
            return 1;
        }
    }
    if (optind < argc)
        return fputs(usage, stderr), 1;
    if (wan_ranks_from_launcher(&ranks, 0, &log) < 0)
        return 1;
    if (!ranks) {
        fputs("wan-worker: no MPI launcher started it beside an ffmpeg, as in "
              "mpirun -n 1 ffmpeg ... : -n 3 wan-worker\n", stderr);
        return 1;
    }
    rank = ranks->rank;
    signal(SIGTERM, end_soon);
    signal(SIGINT, end_soon);
    ret = wan_ranks_serve(ranks, threads, device, &log);
    if (ret >= 0) {
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        if (alarm(0))
            alarm(LEAVING);
    }
    return ret < 0;             // who was started by a launcher leaves at exit
}
