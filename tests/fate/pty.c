/*
 * Run a program on a terminal of its own and press a key at a given moment,
 * for interrupt.sh.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: pty KEY DELAY LIMIT PATTERN PROGRAM [ARGUMENT...]
 *
 *   KEY      ctrl-c, q, or none
 *   DELAY    seconds from the pattern to the key
 *   LIMIT    seconds until the program is killed
 *   PATTERN  text that its output shows when it is time
 *
 * The program's output goes to standard error. One line on standard output:
 *
 *   exit STATUS after SECONDS work SECONDS key SEEN
 *
 * STATUS is 128 + N for a program that signal N ended; SECONDS are counted
 * from the key (-1 without one), those of work are of all processors together;
 * SEEN is 1 when the pattern came. The exit status is 0 unless the program could
 * not be run.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MAX_OUTPUT (4 << 20)

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* What a running process has had of all processors, in seconds. */
static double work_of(pid_t pid)
{
    struct timespec ts;
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ts))
        return 0;
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static double seconds_of(struct timeval t)
{
    return t.tv_sec + t.tv_usec * 1e-6;
}

static pid_t start(int *terminal, char **command)
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY);
    pid_t pid;

    if (fd < 0 || grantpt(fd) || unlockpt(fd))
        return -1;
    pid = fork();
    if (!pid) {
        int tty;

        setsid();
        tty = open(ptsname(fd), O_RDWR);    // the first one controls us
        if (tty < 0)
            _exit(126);
        ioctl(tty, TIOCSCTTY, 0);
        dup2(tty, 0);
        dup2(tty, 1);
        dup2(tty, 2);
        close(fd);
        if (tty > 2)
            close(tty);
        execvp(command[0], command);
        _exit(127);
    }
    *terminal = fd;
    return pid;
}

int main(int argc, char **argv)
{
    static char output[MAX_OUTPUT + 1];
    size_t n = 0;
    int terminal, status = 0, open = 1;
    double begin, due = -1, pressed = -1, seconds = -1, limit, delay;
    double before = 0, work = -1;
    struct rusage used;
    const char *key;
    pid_t pid, done = 0;

    if (argc < 6)
        return 2;
    key = !strcmp(argv[1], "ctrl-c") ? "\3" : !strcmp(argv[1], "q") ? "q" : NULL;
    delay = atof(argv[2]);
    limit = atof(argv[3]);
    pid = start(&terminal, argv + 5);
    if (pid < 0) {
        perror("pty");
        return 1;
    }

    begin = now();
    while (!done) {
        struct pollfd p = { terminal, POLLIN, 0 };

        /* also drains what the program left behind: it may block on it */
        if (open && poll(&p, 1, 10) > 0) {
            char buf[4096];
            const ssize_t got = read(terminal, buf, sizeof(buf));

            if (got > 0) {
                if (fwrite(buf, 1, (size_t)got, stderr) != (size_t)got)
                    return 1;
                for (ssize_t i = 0; i < got && n < MAX_OUTPUT; i++)
                    output[n++] = buf[i] ? buf[i] : ' ';
                output[n] = 0;
            } else if (got < 0 && errno != EINTR) {
                open = 0;                   // EIO: nobody holds it any more
            }
        } else if (!open) {
            usleep(5000);
        }
        if (due < 0 && strstr(output, argv[4]))
            due = now() + delay;
        if (key && due >= 0 && pressed < 0 && now() >= due) {
            pressed = now();
            before  = work_of(pid);
            if (write(terminal, key, 1) != 1)
                return 1;
        }
        done = wait4(pid, &status, WNOHANG, &used);
        if (!done && now() - begin > limit)
            kill(-pid, SIGKILL);
    }
    if (pressed >= 0) {
        seconds = now() - pressed;
        work    = seconds_of(used.ru_utime) + seconds_of(used.ru_stime) - before;
    }
    printf("exit %d after %.2f work %.2f key %d\n",
           WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status),
           seconds, work, due >= 0);
    return 0;
}
