/*
 * backend/net/user.c: user-mode networking: libslirp ends the guest's
 * connections here and makes them anew with the host's sockets.
 *
 * libslirp knows no threads: all of it runs in ours. Frames from the guest wait
 * in a list for it, with the checksum still to be filled in; a frame for which
 * the guest has no room waits too, and until it is taken nothing more is read
 * from the sockets.
 *
 * A TCP packet that the guest leaves to be cut into segments stays whole: what
 * is behind libslirp are streams. (IPv6 packets it compares with its MTU.)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "backend/net/net.h"
#include "base/lock.h"
#include "base/log.h"

#define WAITING_MAX MIB(4) /* bytes in each direction's list */
#define MTU         16384  /* larger than what fits into a window of 64 KiB several times, TCP stalls */
#define NS_PER_MS   1000000

struct frame {
    struct frame *next;
    struct net_offload offload;
    size_t len;
    uint8_t data[];
};

struct list {
    struct frame *first, **last;
    size_t bytes;
};

struct slirp_timer {
    struct user *user;
    SlirpTimerCb fn;
    void *opaque;
    int64_t expires_ms; /* -1: not armed */
    struct slirp_timer *next;
};

struct user {
    struct net net;
    Slirp *slirp;
    int wake_fd;
    pthread_t thread;
    bool started;

    struct lock lock; /* from_guest, refused, stopping */
    struct list from_guest;
    bool refused; /* a frame: the client is to be told when there is room */
    bool stopping;

    /* The thread's own. */
    struct list to_guest;
    struct slirp_timer *timers;
    struct pollfd *fds;
    unsigned fd_count, fd_room;
    uint8_t segment[NET_FRAME_MAX];
};

/* --- lists of frames ------------------------------------------------------------------------- */

static void list_init(struct list *list)
{
    list->first = NULL;
    list->last = &list->first;
    list->bytes = 0;
}

/* A frame at the list's end, its bytes not yet there. NULL: no room. */
static struct frame *list_add(struct list *list, size_t len)
{
    struct frame *frame = list->bytes + len <= WAITING_MAX ? malloc(sizeof(*frame) + len) : NULL;

    if (!frame)
        return NULL;
    frame->next = NULL;
    frame->len = len;
    *list->last = frame;
    list->last = &frame->next;
    list->bytes += len;
    return frame;
}

static void list_drop(struct list *list)
{
    struct frame *frame = list->first;

    list->first = frame->next;
    if (!list->first)
        list->last = &list->first;
    list->bytes -= frame->len;
    free(frame);
}

/* --- what libslirp asks for -------------------------------------------------------------------- */

static const struct net_offload ready_made = {.flags = NET_CSUM_VALID};

static ssize_t on_packet(const void *data, size_t len, void *opaque)
{
    struct user *user = opaque;
    struct frame *frame;

    if (!user->to_guest.first && user->net.client.receive(user->net.client.opaque, data, len, &ready_made))
        return (ssize_t)len;
    frame = list_add(&user->to_guest, len);
    if (frame)
        memcpy(frame->data, data, len);
    return (ssize_t)len;
}

static void on_guest_error(const char *message, void *opaque)
{
    TRACE(IO, "user networking: %s", message);
}

static int64_t clock_ns(void *opaque)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void *timer_new(SlirpTimerCb fn, void *fn_opaque, void *opaque)
{
    struct user *user = opaque;
    struct slirp_timer *timer = calloc(1, sizeof(*timer));

    if (!timer)
        return NULL;
    *timer = (struct slirp_timer){user, fn, fn_opaque, -1, user->timers};
    user->timers = timer;
    return timer;
}

static void timer_free(void *opaque_timer, void *opaque)
{
    struct user *user = opaque;
    struct slirp_timer **link = &user->timers;

    while (*link && *link != opaque_timer)
        link = &(*link)->next;
    if (*link)
        *link = (*link)->next;
    free(opaque_timer);
}

static void timer_mod(void *opaque_timer, int64_t expires_ms, void *opaque)
{
    struct slirp_timer *timer = opaque_timer;

    if (timer)
        timer->expires_ms = expires_ms;
}

static void on_fd(int fd, void *opaque)
{
}

static void on_notify(void *opaque)
{
}

static const SlirpCb callbacks = {
    .send_packet = on_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = clock_ns,
    .timer_new = timer_new,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = on_fd,
    .unregister_poll_fd = on_fd,
    .notify = on_notify,
};

static const struct {
    short poll;
    int slirp;
} events[] = {
    {POLLIN, SLIRP_POLL_IN},   {POLLOUT, SLIRP_POLL_OUT}, {POLLPRI, SLIRP_POLL_PRI},
    {POLLERR, SLIRP_POLL_ERR}, {POLLHUP, SLIRP_POLL_HUP},
};

static int add_poll(int fd, int wanted, void *opaque)
{
    struct user *user = opaque;
    short mask = 0;

    if (user->fd_count == user->fd_room) {
        struct pollfd *fds = realloc(user->fds, 2 * user->fd_room * sizeof(*fds));

        if (!fds)
            return -1;
        user->fds = fds;
        user->fd_room *= 2;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(events); i++)
        if (wanted & events[i].slirp)
            mask |= events[i].poll;
    user->fds[user->fd_count] = (struct pollfd){.fd = fd, .events = mask};
    return (int)user->fd_count++;
}

static int get_revents(int index, void *opaque)
{
    struct user *user = opaque;
    int got = 0;

    for (unsigned i = 0; index >= 0 && i < ARRAY_SIZE(events); i++)
        if (user->fds[index].revents & events[i].poll)
            got |= events[i].slirp;
    return got;
}

/* --- the thread -------------------------------------------------------------------------------- */

/* Milliseconds to the next timer, at most `limit`. */
static uint32_t next_timer(const struct user *user, uint32_t limit)
{
    int64_t now = clock_ns(NULL) / NS_PER_MS;

    for (const struct slirp_timer *t = user->timers; t; t = t->next)
        if (t->expires_ms >= 0)
            limit = (uint32_t)MIN((int64_t)limit, MAX(t->expires_ms - now, 0));
    return limit;
}

static void run_timers(struct user *user)
{
    int64_t now = clock_ns(NULL) / NS_PER_MS;

    for (struct slirp_timer *t = user->timers; t; t = t->next) {
        if (t->expires_ms < 0 || t->expires_ms > now)
            continue;
        t->expires_ms = -1;
        t->fn(t->opaque);
        break; /* it may have freed others; the next comes in the next round */
    }
}

static void input(void *opaque, const uint8_t *frame, size_t len)
{
    slirp_input(((struct user *)opaque)->slirp, frame, (int)len);
}

static void take_frame(struct user *user, struct frame *frame)
{
    const struct net_offload *offload = &frame->offload;

    if ((offload->gso_type & ~NET_GSO_ECN) == NET_GSO_TCP6 && frame->len > NET_HEADER + MTU) {
        net_segment(frame->data, frame->len, offload, user->segment, input, user);
        return;
    }
    if (offload->flags & NET_NEEDS_CSUM)
        net_fill_checksum(frame->data, frame->len, offload);
    input(user, frame->data, frame->len);
}

/* The next frame from the guest; NULL: none. */
static struct frame *next_frame(struct user *user, bool *stopping)
{
    struct frame *frame;
    bool room;

    lock_take(&user->lock);
    frame = user->from_guest.first;
    *stopping = user->stopping;
    if (frame) {
        user->from_guest.first = frame->next;
        user->from_guest.bytes -= frame->len;
        if (!frame->next)
            user->from_guest.last = &user->from_guest.first;
    }
    room = user->refused && user->from_guest.bytes <= WAITING_MAX / 2;
    if (room)
        user->refused = false;
    lock_drop(&user->lock);
    if (room && !*stopping)
        user->net.client.writable(user->net.client.opaque);
    return frame;
}

/* False: it is time to stop. */
static bool take_frames(struct user *user)
{
    struct frame *frame;
    bool stopping;

    while ((frame = next_frame(user, &stopping)) && !stopping) {
        take_frame(user, frame);
        free(frame);
    }
    free(frame);
    return !stopping;
}

static void deliver_waiting(struct user *user)
{
    struct frame *frame;

    while ((frame = user->to_guest.first) &&
           user->net.client.receive(user->net.client.opaque, frame->data, frame->len, &ready_made))
        list_drop(&user->to_guest);
}

static void *run(void *opaque)
{
    struct user *user = opaque;

    while (take_frames(user)) {
        uint32_t timeout = 1000;
        bool polled = !user->to_guest.first;
        uint64_t count;
        int n;

        user->fds[0] = (struct pollfd){.fd = user->wake_fd, .events = POLLIN};
        user->fd_count = 1;
        if (polled)
            slirp_pollfds_fill(user->slirp, &timeout, add_poll, user);
        n = poll(user->fds, user->fd_count, (int)next_timer(user, MIN(timeout, 1000)));
        if (n > 0 && user->fds[0].revents && read(user->wake_fd, &count, sizeof(count)) < 0)
            continue;
        if (polled)
            slirp_pollfds_poll(user->slirp, n < 0, get_revents, user);
        run_timers(user);
        deliver_waiting(user);
    }
    return NULL;
}

/* --- the backend ------------------------------------------------------------------------------- */

static void wake(struct user *user)
{
    const uint64_t one = 1;

    while (write(user->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static int user_start(struct net *net)
{
    struct user *user = container_of(net, struct user, net);
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&user->thread, NULL, run, user);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    user->started = !rc;
    return -rc;
}

static void user_stop(struct net *net)
{
    struct user *user = container_of(net, struct user, net);

    if (!user->started)
        return;
    lock_take(&user->lock);
    user->stopping = true;
    lock_drop(&user->lock);
    wake(user);
    pthread_join(user->thread, NULL);
    user->started = false;
}

static bool user_send(struct net *net, const struct iovec *iov, unsigned count, const struct net_offload *offload)
{
    struct user *user = container_of(net, struct user, net);
    struct frame *frame;
    size_t len = 0;
    bool first;

    for (unsigned i = 0; i < count; i++)
        len += iov[i].iov_len;
    lock_take(&user->lock);
    first = !user->from_guest.first;
    frame = list_add(&user->from_guest, len);
    if (frame) {
        uint8_t *to = frame->data;

        frame->offload = *offload;
        for (unsigned i = 0; i < count; to += iov[i++].iov_len)
            memcpy(to, iov[i].iov_base, iov[i].iov_len);
    }
    user->refused |= !frame;
    lock_drop(&user->lock);
    if (first) /* else the thread has been woken and not yet been there */
        wake(user);
    return frame;
}

/* All that comes from libslirp is complete. */
static void user_set_takes(struct net *net, unsigned takes)
{
}

static void user_ready(struct net *net)
{
    wake(container_of(net, struct user, net));
}

static void user_free(struct net *net)
{
    struct user *user = container_of(net, struct user, net);

    user_stop(net);
    if (user->slirp)
        slirp_cleanup(user->slirp);
    while (user->from_guest.first)
        list_drop(&user->from_guest);
    while (user->to_guest.first)
        list_drop(&user->to_guest);
    if (user->wake_fd >= 0)
        close(user->wake_fd);
    lock_destroy(&user->lock);
    free(user->fds);
    free(user);
}

static const struct net_ops ops = {user_start, user_stop, user_send, user_set_takes, user_ready, user_free};

static struct in_addr address(uint32_t value)
{
    return (struct in_addr){.s_addr = htonl(value)};
}

static int publish_all(struct user *user, const struct net_publish *publish, unsigned count, struct error *err)
{
    for (unsigned i = 0; i < count; i++) {
        const struct net_publish *p = &publish[i];

        if (slirp_add_hostfwd(user->slirp, p->udp, address(p->host_address), p->host_port, address(NET_USER_GUEST),
                              p->guest_port) < 0)
            return error_set(err, -errno, "--publish: port %u of the host cannot be had: %s", p->host_port,
                             strerror(errno));
    }
    return 0;
}

struct net *net_user_new(const struct net_publish *publish, unsigned count, struct error *err)
{
    const SlirpConfig config = {
        .version = 1,
        .in_enabled = true,
        .vnetwork = address(NET_USER_NETWORK),
        .vnetmask = address(0xffffff00),
        .vhost = address(NET_USER_GATEWAY),
        .vnameserver = address(NET_USER_DNS),
        .vdhcp_start = address(NET_USER_GUEST),
        .vhostname = "trapeze",
        .if_mtu = MTU,
        .if_mru = MTU,
    };
    struct user *user = calloc(1, sizeof(*user));

    if (!user) {
        error_set(err, -ENOMEM, "user networking: no memory");
        return NULL;
    }
    user->net = (struct net){.ops = &ops, .mtu = MTU};
    lock_init(&user->lock, LOCK_BACKEND);
    list_init(&user->from_guest);
    list_init(&user->to_guest);
    user->fd_room = 64;
    user->fds = calloc(user->fd_room, sizeof(*user->fds));
    user->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    user->slirp = slirp_new(&config, &callbacks, user);
    if (!user->fds || user->wake_fd < 0 || !user->slirp) {
        error_set(err, -ENOMEM, "user networking: %s", strerror(errno ? errno : ENOMEM));
    } else if (!publish_all(user, publish, count, err)) {
        return &user->net;
    }
    user_free(&user->net);
    return NULL;
}
