/* control/monitor.c: see monitor.h. */
#include "control/monitor.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/unix_socket.h"
#include "control/config.h"

#define CLIENTS   8
#define LINE_ROOM 256
#define WORDS     4
#define ANSWER    1024
/* The guest's driver is asked for statistics and given time to answer. */
#define STATS_STEP_NS 10000000ull
#define STATS_STEPS   50

struct client {
    struct monitor *monitor;
    int fd; /* -1: free */
    unsigned len;
    char line[LINE_ROOM];
    struct timer stats_timer;
    unsigned steps; /* left; 0: nothing is waited for */
    unsigned updates;
};

struct monitor {
    struct loop *loop;
    struct machine *machine; /* NULL: not yet */
    void (*end)(void *opaque, int signal);
    void *opaque;
    int fd;
    struct client client[CLIENTS];
    char path[PATH_MAX];
};

/* --- answers ---------------------------------------------------------------------------------- */

static void on_client(void *opaque, short revents);

static void drop(struct client *client)
{
    timer_cancel(&client->stats_timer);
    loop_watch_fd(client->monitor->loop, client->fd, 0, NULL, NULL);
    close(client->fd);
    client->fd = -1;
    client->steps = 0;
}

/* A client that does not read its answers loses the connection. */
static void answer(struct client *client, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void answer(struct client *client, const char *fmt, ...)
{
    char line[ANSWER];
    va_list ap;
    int len;

    va_start(ap, fmt);
    len = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    len = MIN(len, (int)sizeof(line) - 2);
    line[len++] = '\n';
    if (send(client->fd, line, (size_t)len, MSG_NOSIGNAL) != len)
        drop(client);
}

static void answer_balloon(struct client *client, const struct balloon_info *balloon)
{
    static const char *const names[] = {
#define X(name) #name,
        BALLOON_STATS(X)
#undef X
    };
    char stats[ANSWER / 2] = "";
    size_t len = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (balloon->have & BIT(i))
            len += (size_t)snprintf(stats + len, sizeof(stats) - len, "%s\"%s\": %llu", len ? ", " : "", names[i],
                                    (unsigned long long)balloon->stat[i]);
    answer(client, "{\"driver\": %s, \"target\": %llu, \"actual\": %llu, \"returned\": %llu, \"guest\": {%s}}",
           balloon->driver ? "true" : "false", (unsigned long long)balloon->target, (unsigned long long)balloon->actual,
           (unsigned long long)balloon->returned, stats);
}

/* --- requests ------------------------------------------------------------------------------------- */

static void on_stats(void *opaque)
{
    struct client *client = opaque;
    struct balloon_info balloon;

    machine_balloon_get(client->monitor->machine, &balloon);
    if (balloon.updates == client->updates && --client->steps) {
        timer_arm(&client->stats_timer, vclock_ns(loop_clock(client->monitor->loop)) + STATS_STEP_NS);
        return;
    }
    client->steps = 0;
    answer_balloon(client, &balloon);
}

static void do_balloon(struct client *client, unsigned words, char **word)
{
    struct machine *machine = client->monitor->machine;
    struct balloon_info balloon;
    struct error err;
    uint64_t bytes;

    if (!machine_balloon_get(machine, &balloon)) {
        answer(client, "{\"error\": \"this machine has no balloon\"}");
    } else if (words > 1) {
        if (config_parse_balloon("balloon", word[1], &bytes, &err)) {
            answer(client, "{\"error\": \"the balloon's size is a number of bytes, or one like 256M\"}");
            return;
        }
        machine_balloon_set(machine, bytes);
        answer(client, "{\"target\": %llu}", (unsigned long long)bytes);
    } else {
        client->updates = balloon.updates;
        client->steps = balloon.have ? STATS_STEPS : 1;
        machine_balloon_refresh(machine);
        timer_arm(&client->stats_timer, vclock_ns(loop_clock(client->monitor->loop)) + STATS_STEP_NS);
    }
}

static void do_stop(struct client *client, unsigned words, char **word)
{
    answer(client, "{}");
    client->monitor->end(client->monitor->opaque, 0);
}

static const struct request {
    const char *name, *argument, *help;
    unsigned words; /* at most */
    void (*serve)(struct client *client, unsigned words, char **word);
} requests[] = {
    {"balloon", "[SIZE]", "how much memory the guest is to do without; without SIZE: what it does, in bytes", 2,
     do_balloon},
    {"stop", "", "end the machine at once, as Ctrl-A X does", 1, do_stop},
};

static void serve(struct client *client)
{
    char *word[WORDS], *rest = client->line, *one;
    unsigned words = 0;

    while ((one = strsep(&rest, " \t\r")))
        if (*one && words < WORDS)
            word[words++] = one;
    for (unsigned i = 0; words && i < ARRAY_SIZE(requests); i++)
        if (!strcmp(requests[i].name, word[0]) && words <= requests[i].words) {
            requests[i].serve(client, words, word);
            return;
        }
    answer(client, "{\"error\": \"there are: balloon [SIZE], stop\"}");
}

/* One request at a time: what follows waits for its answer. */
static void on_client(void *opaque, short revents)
{
    struct client *client = opaque;
    ssize_t n = 0;
    char c;

    if (client->steps && !(revents & (POLLERR | POLLHUP)))
        return;
    while (client->fd >= 0 && !client->steps && (n = read(client->fd, &c, 1)) == 1) {
        if (c != '\n') {
            client->line[client->len++] = c;
            if (client->len == LINE_ROOM)
                break;
            continue;
        }
        client->line[client->len] = 0;
        client->len = 0;
        serve(client);
    }
    if (client->fd >= 0 && (client->len == LINE_ROOM || client->steps == 0) &&
        (n >= 0 || (errno != EAGAIN && errno != EINTR)))
        drop(client);
}

/* --- life -------------------------------------------------------------------------------------------- */

static void on_listener(void *opaque, short revents)
{
    struct monitor *monitor = opaque;
    int fd = accept4(monitor->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    for (unsigned i = 0; fd >= 0 && monitor->machine && i < CLIENTS; i++) {
        struct client *client = &monitor->client[i];

        if (client->fd >= 0)
            continue;
        client->fd = fd;
        client->len = 0;
        if (loop_watch_fd(monitor->loop, fd, POLLIN, on_client, client) == 0)
            return;
        client->fd = -1;
        break;
    }
    if (fd >= 0)
        close(fd);
}

struct monitor *monitor_new(struct loop *loop, const char *path, struct error *err)
{
    struct monitor *monitor = calloc(1, sizeof(*monitor));
    int rc;

    if (!monitor) {
        error_set(err, -ENOMEM, "--control: no memory");
        return NULL;
    }
    monitor->loop = loop;
    snprintf(monitor->path, sizeof(monitor->path), "%s", path);
    for (unsigned i = 0; i < CLIENTS; i++) {
        monitor->client[i] = (struct client){.monitor = monitor, .fd = -1};
        timer_init(&monitor->client[i].stats_timer, loop, on_stats, &monitor->client[i]);
    }
    monitor->fd = unix_socket_listen("--control", path, err);
    rc = monitor->fd < 0 ? monitor->fd : loop_watch_fd(loop, monitor->fd, POLLIN, on_listener, monitor);
    if (!rc)
        return monitor;
    if (monitor->fd >= 0) {
        unix_socket_unlisten(monitor->fd, path);
        error_set(err, rc, "--control: %s", strerror(-rc));
    }
    free(monitor);
    return NULL;
}

void monitor_serve(struct monitor *monitor, struct machine *machine, void (*end)(void *opaque, int signal),
                   void *opaque)
{
    monitor->machine = machine;
    monitor->end = end;
    monitor->opaque = opaque;
}

void monitor_free(struct monitor *monitor)
{
    if (!monitor)
        return;
    for (unsigned i = 0; i < CLIENTS; i++)
        if (monitor->client[i].fd >= 0)
            drop(&monitor->client[i]);
    loop_watch_fd(monitor->loop, monitor->fd, 0, NULL, NULL);
    unix_socket_unlisten(monitor->fd, monitor->path);
    free(monitor);
}

/* --- the other end ------------------------------------------------------------------------------------- */

static int fill_line(char *line, size_t size, int words, char **word)
{
    size_t len = 0;

    for (int i = 0; i < words && len < size; i++)
        len += (size_t)snprintf(line + len, size - len, "%s%s", i ? " " : "", word[i]);
    if (len + 2 > size || strchr(line, '\n'))
        return -1;
    line[len] = '\n';
    return (int)len + 1;
}

int monitor_ask(const char *path, int words, char **word)
{
    char line[LINE_ROOM] = "", got[ANSWER + 1];
    size_t len = 0;
    int size = fill_line(line, sizeof(line), words, word), fd;
    ssize_t n;

    fd = size < 0 ? -EINVAL : unix_socket_connect(path);
    if (fd < 0) {
        log_error("%s: %s", path, size < 0 ? "that is no request" : strerror(-fd));
        return STATUS_USAGE;
    }
    n = send(fd, line, (size_t)size, MSG_NOSIGNAL);
    while (n > 0 && len < ANSWER && !memchr(got, '\n', len)) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

        poll(&poll_fd, 1, -1);
        n = read(fd, got + len, ANSWER - len);
        len += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    got[len] = 0;
    if (!len || got[len - 1] != '\n') {
        log_error("%s: no answer", path);
        return STATUS_USAGE;
    }
    fputs(got, stdout);
    return strncmp(got, "{\"error\"", 8) ? 0 : 1;
}

void monitor_help(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
        char left[32];

        snprintf(left, sizeof(left), "%s %s", requests[i].name, requests[i].argument);
        printf("  %-16s %s\n", left, requests[i].help);
    }
}
