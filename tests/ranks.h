/*
 * Ranks without MPI: processes of a test, joined by sockets.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 *     status = ranks_run(3, host, &arg, serve, NULL);
 *
 * forks three processes, since the CPU backend has one pool of threads in each,
 * and returns how the host's ended. Whoever calls it has opened no device.
 */

#ifndef WAN_TEST_RANKS_H
#define WAN_TEST_RANKS_H

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ranks.h"

enum { MOST = 8 };

typedef struct Wires {
    WanTransport t;
    int note[MOST], data[MOST], sign[MOST];     // sockets to each other rank
} Wires;

static int wires_tell(WanTransport *t, int rank, const WanNote *note)
{
    return send(((Wires *)t)->note[rank], note, sizeof(*note), MSG_NOSIGNAL) ==
           sizeof(*note) ? 0 : WAN_ERR(EIO);
}

static int wires_hear(WanTransport *t, int rank, WanNote *note)
{
    const int fd = ((Wires *)t)->note[rank];
    ssize_t n = recv(fd, note, sizeof(*note), MSG_DONTWAIT);

    if (n < 0 && errno == ECONNRESET)   // it left some unread; its own come
        n = recv(fd, note, sizeof(*note), MSG_DONTWAIT);
    return n == sizeof(*note) ? 1 :
           n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : WAN_ERR(EIO);
}

static int wires_exchange(WanTransport *t, const WanParcel *out,
                          const WanParcel *in, int (*alive)(void *), void *arg)
{
    Wires *w = (Wires *)t;
    int64_t sent[MOST] = { 0 }, got[MOST] = { 0 };

    for (;;) {
        struct pollfd fd[MOST];
        int waits = 0, ret;

        for (int q = 0; q < t->size; q++) {
            const int gets = q != t->rank && got[q] < in[q].bytes;
            const int puts = q != t->rank && sent[q] < out[q].bytes;

            fd[q] = (struct pollfd){ gets || puts ? w->data[q] : -1,
                                     (gets ? POLLIN : 0) |
                                     (puts ? POLLOUT : 0), 0 };
            waits |= gets || puts;
        }
        if (!waits)
            return 0;
        if (poll(fd, t->size, 100) == 0 && (ret = alive(arg)) < 0)
            return ret;
        for (int q = 0; q < t->size; q++) {
            ssize_t n;

            if (fd[q].fd >= 0 && fd[q].revents & POLLOUT &&
                (n = send(fd[q].fd, (char *)out[q].data + sent[q],
                          out[q].bytes - sent[q],
                          MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
                sent[q] += n;
            if (fd[q].fd < 0 || !(fd[q].revents & (POLLIN | POLLHUP)) ||
                got[q] == in[q].bytes)
                continue;
            n = recv(fd[q].fd, (char *)in[q].data + got[q],
                     in[q].bytes - got[q], MSG_DONTWAIT);
            if (n > 0)
                got[q] += n;
            else if (!n || errno != EAGAIN)
                return WAN_ERR(EIO);
        }
    }
}

static void wires_beat(WanTransport *t, uint8_t sign, uint8_t *from)
{
    Wires *w = (Wires *)t;

    for (int q = 0; q < t->size; q++) {
        if (q == t->rank)
            continue;
        send(w->sign[q], &sign, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (recv(w->sign[q], &from[q], 1, MSG_DONTWAIT) > 0)
            ;
    }
}

static void wires_close(WanTransport *t, int ordered)
{
    (void)ordered;
    free(t);
}

/* In rank's process: its ends are kept, all others closed. */
static WanTransport *wires_open(int rank, int size, int pair[3][MOST][MOST])
{
    Wires *w = calloc(1, sizeof(*w));

    w->t = (WanTransport){ rank, size, wires_tell, wires_hear, wires_exchange,
                           wires_beat, wires_close, 0 };
    for (int a = 0; a < size; a++)
        for (int b = 0; b < size; b++)
            if (a != b && a != rank) {
                for (int k = 0; k < 3; k++)
                    close(pair[k][a][b]);
            } else if (a != b) {
                w->note[b] = pair[0][a][b];
                w->data[b] = pair[1][a][b];
                w->sign[b] = pair[2][a][b];
            }
    return &w->t;
}

typedef int (*RanksMain)(WanTransport *t, void *arg);

/* The host's exit status, 128 + N for a signal; those of all in status, where
 * it is not NULL. */
static int ranks_run_all(int size, RanksMain host, void *arg, RanksMain other,
                         void *other_arg, int *status)
{
    int pair[3][MOST][MOST], own[MOST];
    pid_t pid[MOST];

    status = status ? status : own;
    for (int a = 0; a < size; a++)
        for (int b = 0; b < a; b++)
            for (int k = 0; k < 3; k++) {
                int fd[2];

                if (socketpair(AF_UNIX, k == 1 ? SOCK_STREAM : SOCK_SEQPACKET, 0,
                               fd) < 0)
                    return 127;
                pair[k][a][b] = fd[0];
                pair[k][b][a] = fd[1];
            }
    fflush(stdout);
    for (int r = 0; r < size; r++)
        if (!(pid[r] = fork())) {
            WanTransport *t = wires_open(r, size, pair);

            prctl(PR_SET_PDEATHSIG, SIGKILL);
            const int ret = r ? other(t, other_arg) : host(t, arg);

            fflush(stdout);
            _exit(ret);
        }
    for (int a = 0; a < size; a++)
        for (int b = 0; b < size; b++)
            for (int k = 0; k < 3 && a != b; k++)
                close(pair[k][a][b]);
    for (int r = 0; r < size; r++) {
        int s = 0;

        waitpid(pid[r], &s, 0);
        status[r] = WIFEXITED(s) ? WEXITSTATUS(s) : 128 + WTERMSIG(s);
    }
    return status[0];
}

static inline int ranks_run(int size, RanksMain host, void *arg,
                            RanksMain other, void *other_arg)
{
    return ranks_run_all(size, host, arg, other, other_arg, NULL);
}

#endif /* WAN_TEST_RANKS_H */
