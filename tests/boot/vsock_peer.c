/*
 * tests/boot/vsock_peer.c: both ends of a stream between host and guest; one
 * static program for both.
 *   vsock_peer send PORT|PATH      standard input goes there; what comes back, to standard output
 *   vsock_peer echo PORT|PATH N    serves N connections at once: what comes is sent back; says "serving" first
 * A PORT is the host's (send, in the guest) or the guest's own (echo); PATH is a Unix socket, PATH:PORT one that wants
 * "CONNECT PORT" first.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static int fail(const char *what)
{
    perror(what);
    exit(1);
}

static int make(const char *name, bool listening)
{
    struct sockaddr_vm vm = {.svm_family = AF_VSOCK,
                             .svm_cid = listening ? VMADDR_CID_ANY : VMADDR_CID_HOST,
                             .svm_port = (unsigned)atoi(name)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    bool path = strchr(name, '/');
    struct sockaddr *address = path ? (struct sockaddr *)&un : (struct sockaddr *)&vm;
    socklen_t len = path ? sizeof(un) : sizeof(vm);
    int fd = socket(path ? AF_UNIX : AF_VSOCK, SOCK_STREAM, 0);

    snprintf(un.sun_path, sizeof(un.sun_path), "%s", name);
    if (fd < 0)
        fail("socket");
    if (listening ? bind(fd, address, len) < 0 || listen(fd, 128) < 0 : connect(fd, address, len) < 0)
        fail(name);
    return fd;
}

static void write_all(int fd, const char *data, ssize_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, (size_t)len);

        if (n < 0)
            fail("write");
        data += n;
        len -= n;
    }
}

/* PATH:PORT: "CONNECT PORT" and the answer's line. */
static int reach(char *name)
{
    char *colon = strchr(name, ':'), line[64], c;
    int fd;

    if (colon)
        *colon = 0;
    fd = make(name, false);
    if (!colon)
        return fd;
    snprintf(line, sizeof(line), "CONNECT %s\n", colon + 1);
    write_all(fd, line, (ssize_t)strlen(line));
    do
        if (read(fd, &c, 1) != 1) {
            fprintf(stderr, "%s: turned away\n", name);
            exit(1);
        }
    while (c != '\n');
    return fd;
}

static int send_input(char *name)
{
    int fd = reach(name);
    bool more = true;
    char data[65536];
    ssize_t n;

    for (;;) {
        struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = more ? 0 : -1, .events = POLLIN}};

        poll(fds, 2, -1);
        if (fds[0].revents) {
            n = read(fd, data, sizeof(data));
            if (n <= 0)
                return n < 0;
            write_all(1, data, n);
        }
        if (fds[1].revents) {
            n = read(0, data, 16384);
            if (n > 0)
                write_all(fd, data, n);
            more = n > 0;
            if (!more)
                shutdown(fd, SHUT_WR);
        }
    }
}

static int echo(const char *name, int count)
{
    static struct pollfd fds[1024];
    static char data[16384];
    int open = 0, done = 0;

    fds[0] = (struct pollfd){.fd = make(name, true), .events = POLLIN};
    puts("serving");
    fflush(stdout);
    while (done < count) {
        if (poll(fds, (nfds_t)open + 1, -1) < 0)
            fail("poll");
        for (int i = open; i > 0; i--) {
            ssize_t n = fds[i].revents ? read(fds[i].fd, data, sizeof(data)) : -1;

            if (n > 0)
                write_all(fds[i].fd, data, n);
            if (!fds[i].revents || n > 0)
                continue;
            close(fds[i].fd);
            fds[i] = fds[open--];
            done++;
        }
        if (fds[0].revents && open < 1023)
            fds[++open] = (struct pollfd){.fd = accept(fds[0].fd, NULL, NULL), .events = POLLIN};
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "send"))
        return send_input(argv[2]);
    if (argc == 4 && !strcmp(argv[1], "echo"))
        return echo(argv[2], atoi(argv[3]));
    fprintf(stderr, "usage: vsock_peer send PORT|PATH[:PORT] | echo PORT|PATH COUNT\n");
    return 2;
}
