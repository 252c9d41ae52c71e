/*
 * A link between two network namespaces, of a given rate and delay.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: link NAMESPACE NAMESPACE GBIT MS
 *
 * Makes an interface wan0 in each, 10.77.0.1 and 10.77.0.2, and carries packets
 * between them until it is ended. A packet waits until those before it have
 * left at that rate, then MS on its way: one way, so a round trip has twice
 * that. Says "up" when packets pass. For ranks.sh: kernels need not have netem.
 *
 * Packets come as the network stack hands them to a card that cuts them, up to
 * 64 KB each, so two copies of a byte are all that this costs.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 1024              // on their way or waiting, each direction
#define LARGEST (64 << 10)      // of a packet, with what tun puts before it
#define HEADER 10               // struct virtio_net_hdr

typedef struct Packet {
    double due;                 // when it arrives
    ssize_t bytes;
    char data[LARGEST];
} Packet;

typedef struct Direction {
    int from, to;
    double rate, delay;         // bytes a second, s
    double free;                // when the link has sent what it has
    Packet *ring;
    unsigned in, out;           // packets that came, that left
} Direction;

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* Takes what is there; a full ring leaves it with the sender's queue. */
static void take(Direction *d)
{
    while (d->in - d->out < SLOTS) {
        Packet *p = &d->ring[d->in % SLOTS];
        const double t = now();

        if ((p->bytes = read(d->from, p->data, LARGEST)) <= 0)
            return;
        d->free = (d->free > t ? d->free : t) + (p->bytes - HEADER) / d->rate;
        p->due = d->free + d->delay;
        d->in++;
    }
}

static void *carry(void *arg)
{
    Direction *d = arg;

    prctl(PR_SET_TIMERSLACK, 1UL);
    for (;;) {
        struct pollfd ready = { d->from, POLLIN, 0 };
        struct timespec ts = { 0 }, *wait = NULL;

        take(d);
        while (d->in != d->out && d->ring[d->out % SLOTS].due <= now()) {
            const Packet *p = &d->ring[d->out++ % SLOTS];

            /* a receiver with a full queue loses it, as a card would */
            if (write(d->to, p->data, p->bytes) < 0 && errno == EBADF)
                return NULL;
        }
        if (d->in != d->out) {
            const double left = d->ring[d->out % SLOTS].due - now();

            ts.tv_nsec = left > 0 ? (long)(left * 1e9) % 1000000000 : 0;
            wait = &ts;
        }
        ready.events = d->in - d->out < SLOTS ? POLLIN : 0;
        ppoll(&ready, 1, wait, NULL);
    }
}

/* The interface of that namespace; -1: a line says why there is none. */
static int interface(const char *name, const char *address)
{
    const unsigned offload = TUN_F_CSUM | TUN_F_TSO4;
    struct ifreq r = { .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR };
    char path[256], command[512];
    int ns, fd = -1;

    snprintf(path, sizeof(path), "/var/run/netns/%s", name);
    snprintf(r.ifr_name, sizeof(r.ifr_name), "wan0");
    snprintf(command, sizeof(command), "ip link set lo up && ip addr add "
             "%s/24 dev wan0 && ip link set wan0 txqueuelen 4000 up", address);
    if ((ns = open(path, O_RDONLY | O_CLOEXEC)) < 0 || setns(ns, 0) < 0 ||
        (fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0 ||
        ioctl(fd, TUNSETIFF, &r) < 0 || ioctl(fd, TUNSETOFFLOAD, offload) < 0) {
        fprintf(stderr, "link: no interface in %s: %s\n", name,
                strerror(errno));
        return -1;
    }
    close(ns);
    return system(command) ? -1 : fd;
}

int main(int argc, char **argv)
{
    const struct sched_param first = { .sched_priority = 1 };
    Direction d[2] = { { 0 } };
    pthread_t t;
    int fd[2];

    if (argc != 5 || atof(argv[3]) <= 0 || atof(argv[4]) < 0 ||
        atof(argv[4]) >= 1000) {
        fputs("usage: link NAMESPACE NAMESPACE GBIT MS\n", stderr);
        return 2;
    }
    if ((fd[0] = interface(argv[1], "10.77.0.1")) < 0 ||
        (fd[1] = interface(argv[2], "10.77.0.2")) < 0)
        return 1;
    for (int i = 0; i < 2; i++) {
        d[i] = (Direction){ .from = fd[i], .to = fd[!i],
                            .rate = atof(argv[3]) * 1e9 / 8,
                            .delay = atof(argv[4]) * 1e-3,
                            .ring = malloc(SLOTS * sizeof(Packet)) };
        if (!d[i].ring)
            return 1;
    }
    sched_setscheduler(0, SCHED_FIFO, &first);  // a packet waits for no rank
    if (pthread_create(&t, NULL, carry, &d[1]))
        return 1;
    puts("up");
    fflush(stdout);
    carry(&d[0]);
    return 0;
}
