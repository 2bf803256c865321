/* backend/vsock/host.c: see host.h. */
#include "backend/vsock/host.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/unix_socket.h"

#define CALLERS   64 /* that have not said yet which port they want */
#define LINE_MAX_ 32
#define PAUSE_NS  1000000000ull /* when the process has no descriptor left */

/* A program that has connected. */
struct caller {
    struct vsock_host *host;
    int fd; /* -1: free */
    unsigned len;
    char line[LINE_MAX_];
};

struct vsock_host {
    struct loop *loop;
    struct vsock_client client;
    int fd;
    struct timer pause;
    struct caller caller[CALLERS];
    char path[PATH_MAX];
};

static void on_caller(void *opaque, short revents);

static void let_go(struct caller *caller)
{
    loop_watch_fd(caller->host->loop, caller->fd, 0, NULL, NULL);
    caller->fd = -1;
}

static void turn_away(struct caller *caller)
{
    int fd = caller->fd;

    let_go(caller);
    close(fd);
}

/* "CONNECT 1234". */
static bool parse(const char *line, uint32_t *port)
{
    static const char word[] = "CONNECT ";
    const char *digits = line + sizeof(word) - 1;
    unsigned long long n;

    if (strncmp(line, word, sizeof(word) - 1) || !*digits || digits[strspn(digits, "0123456789")])
        return false;
    n = strtoull(digits, NULL, 10);
    *port = (uint32_t)n;
    return n <= UINT32_MAX && strlen(digits) <= 10;
}

static void put_through(struct caller *caller)
{
    struct vsock_host *host = caller->host;
    uint32_t port;
    int fd = caller->fd;

    if (!parse(caller->line, &port) || !host->client.connect) {
        turn_away(caller);
        return;
    }
    let_go(caller);
    host->client.connect(host->client.opaque, fd, port);
}

/* Not a byte more than the line is read: what follows is the guest's. */
static void on_caller(void *opaque, short revents)
{
    struct caller *caller = opaque;
    ssize_t n;
    char c;

    while ((n = read(caller->fd, &c, 1)) == 1) {
        if (c == '\n') {
            caller->line[caller->len] = 0;
            put_through(caller);
            return;
        }
        caller->line[caller->len++] = c;
        if (caller->len == LINE_MAX_)
            break;
    }
    if (n >= 0 || (errno != EAGAIN && errno != EINTR))
        turn_away(caller);
}

static void take_caller(struct vsock_host *host, int fd)
{
    for (unsigned i = 0; i < CALLERS; i++) {
        struct caller *caller = &host->caller[i];

        if (caller->fd >= 0)
            continue;
        *caller = (struct caller){.host = host, .fd = fd};
        if (loop_watch_fd(host->loop, fd, POLLIN, on_caller, caller) == 0)
            return;
        caller->fd = -1;
        break;
    }
    close(fd);
}

static void on_listener(void *opaque, short revents)
{
    struct vsock_host *host = opaque;
    int fd = accept4(host->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        take_caller(host, fd);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        loop_watch_fd(host->loop, host->fd, 0, NULL, NULL); /* it would be ready all the time */
        timer_arm(&host->pause, vclock_ns(loop_clock(host->loop)) + PAUSE_NS);
    }
}

static void listen_again(void *opaque)
{
    struct vsock_host *host = opaque;

    loop_watch_fd(host->loop, host->fd, POLLIN, on_listener, host);
}

struct vsock_host *vsock_host_new(struct loop *loop, const char *path, struct error *err)
{
    struct vsock_host *host = calloc(1, sizeof(*host));
    int rc;

    if (!host) {
        error_set(err, -ENOMEM, "--vsock: no memory");
        return NULL;
    }
    host->loop = loop;
    snprintf(host->path, sizeof(host->path), "%s", path);
    for (unsigned i = 0; i < CALLERS; i++)
        host->caller[i].fd = -1;
    timer_init(&host->pause, loop, listen_again, host);
    host->fd = unix_socket_listen("--vsock", path, err);
    if (host->fd < 0) {
        free(host);
        return NULL;
    }
    rc = loop_watch_fd(loop, host->fd, POLLIN, on_listener, host);
    if (!rc)
        return host;
    error_set(err, rc, "--vsock: %s", strerror(-rc));
    vsock_host_free(host);
    return NULL;
}

void vsock_host_free(struct vsock_host *host)
{
    timer_cancel(&host->pause);
    for (unsigned i = 0; i < CALLERS; i++)
        if (host->caller[i].fd >= 0)
            turn_away(&host->caller[i]);
    loop_watch_fd(host->loop, host->fd, 0, NULL, NULL);
    unix_socket_unlisten(host->fd, host->path);
    free(host);
}

void vsock_host_set_client(struct vsock_host *host, const struct vsock_client *client)
{
    host->client = *client;
}

int vsock_host_connect(struct vsock_host *host, uint32_t port)
{
    char path[PATH_MAX + 16];

    snprintf(path, sizeof(path), "%s_%u", host->path, port);
    return unix_socket_connect(path);
}
