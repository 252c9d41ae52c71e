/*
 * Bytes to and from one TCP connection of the loopback interface, for
 * recipes.sh and live.sh.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: wire connect PORT UNTIL < SENT > ANSWER
 *        wire listen PORT UNTIL ANSWER > SENT
 *
 * connect sends its standard input, then writes what comes. listen takes one
 * connection, writes what comes, then sends the file ANSWER. What comes is
 * over when it holds the text UNTIL, which is exit status 0, or when the other
 * side closes. Nothing takes longer than 30 seconds.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LIMIT 120           // seconds
#define MAX_TEXT (1 << 16)

/* Everything in from to the end goes out to to; 0, or -1 with errno. */
static int copy(int from, int to)
{
    char buf[65536];
    ssize_t n, sent;

    while ((n = read(from, buf, sizeof(buf))) > 0)
        for (const char *p = buf; n; p += sent, n -= sent)
            if ((sent = write(to, p, n)) < 0)
                return -1;
    return n;
}

/* What comes goes to standard output; 0 when it held the text. */
static int receive(int fd, const char *until)
{
    static char text[MAX_TEXT];
    size_t size = 0;
    ssize_t n;

    while (size < sizeof(text) && (n = read(fd, text + size, sizeof(text) - size)) > 0) {
        if (write(STDOUT_FILENO, text + size, n) != n)
            return 1;
        size += n;
        if (memmem(text, size, until, strlen(until)))
            return 0;
    }
    return 1;
}

static int connected(const struct sockaddr_in *at)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    return fd < 0 || connect(fd, (const struct sockaddr *)at, sizeof(*at)) ? -1 : fd;
}

static int accepted(const struct sockaddr_in *at)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
        bind(fd, (const struct sockaddr *)at, sizeof(*at)) || listen(fd, 1))
        return -1;
    return accept(fd, NULL, NULL);
}

int main(int argc, char **argv)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    int fd, ret, listens = argc == 5 && !strcmp(argv[1], "listen");
    FILE *answer = NULL;

    if (!listens && (argc != 4 || strcmp(argv[1], "connect"))) {
        fprintf(stderr, "usage: wire connect PORT UNTIL | wire listen PORT UNTIL ANSWER\n");
        return 1;
    }
    at.sin_port = htons(atoi(argv[2]));
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    signal(SIGPIPE, SIG_IGN);
    alarm(LIMIT);

    if (listens && !(answer = fopen(argv[4], "rb"))) {
        perror(argv[4]);
        return 1;
    }
    fd = listens ? accepted(&at) : connected(&at);
    if (fd < 0) {
        perror("wire");
        return 1;
    }
    // a listener that closes early is one of the answers
    if (!listens && copy(STDIN_FILENO, fd) && errno != EPIPE && errno != ECONNRESET) {
        perror("wire");
        return 1;
    }
    ret = receive(fd, argv[3]);
    if (listens && copy(fileno(answer), fd)) {
        perror("wire");
        return 1;
    }
    return ret;
}
