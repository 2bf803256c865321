/*
 * backend/char/fd.c: a character backend over host file descriptors.
 *
 * A guest writes byte by byte, and each host system call costs more than the
 * guest's exit: output gathers in a ring until a newline, FLUSH_SIZE bytes or
 * FLUSH_NS. Whoever fills the ring writes it out; what the host does not take
 * then goes out from the loop's thread. Only that thread reads and watches.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/char/backends.h"
#include "base/lock.h"
#include "base/log.h"

#define QUEUE_SIZE 65536u /* a power of two: positions wrap */
#define FLUSH_SIZE 1024u
#define FLUSH_NS   2000000u
#define STALL_MS   1000 /* a reader that takes nothing for so long loses output */
#define READ_SIZE  256

struct chardev_fd {
    struct chardev chardev; /* first */
    struct loop *loop;
    int in, out;
    int in_flags, out_flags; /* as they were; -1: unchanged */

    /* The loop's thread's. */
    bool want_in, want_out; /* watched for */
    bool end_of_input;
    int end_byte; /* sent at the end of input instead of hanging up; -1: none */

    struct lock lock;
    struct timer flush_timer, input_timer;
    bool no_room;    /* input waits for accept_input */
    bool stalled;    /* the reader has not taken anything for STALL_MS */
    bool out_failed; /* output is dropped from now on */
    bool flush_armed;
    uint32_t head, tail; /* of the queue; tail - head bytes */
    uint8_t queue[QUEUE_SIZE];
};

static uint32_t queued(const struct chardev_fd *fd)
{
    return fd->tail - fd->head;
}

/* --- output ------------------------------------------------------------------------------------ */

/* Writes until the queue is empty (true) or the host takes no more. With the lock. */
static bool flush(struct chardev_fd *fd)
{
    while (queued(fd) && !fd->out_failed) {
        uint32_t at = fd->head % QUEUE_SIZE;
        ssize_t n = write(fd->out, &fd->queue[at], MIN(queued(fd), QUEUE_SIZE - at));

        if (n > 0) {
            fd->head += (uint32_t)n;
            fd->stalled = false;
        } else if (n < 0 && errno == EAGAIN) {
            return false;
        } else if (n < 0 && errno != EINTR) {
            fd->out_failed = true;
        }
    }
    fd->head = fd->tail;
    return true;
}

/* Waits for the host to take something; false: it took nothing for STALL_MS. With the lock. */
static bool wait_for_host(struct chardev_fd *fd)
{
    struct pollfd poll_fd = {.fd = fd->out, .events = POLLOUT};
    uint32_t before = queued(fd);
    int rc;

    if (fd->stalled)
        return false;
    do
        rc = poll(&poll_fd, 1, STALL_MS);
    while (rc < 0 && errno == EINTR);
    flush(fd);
    if (queued(fd) < before)
        return true;
    fd->stalled = true;
    log_warn("serial output is not being read; dropping it");
    return false;
}

static void fd_write(struct chardev *chardev, const uint8_t *data, size_t len)
{
    struct chardev_fd *fd = container_of(chardev, struct chardev_fd, chardev);
    bool now = false, arm;

    if (fd->out < 0)
        return;
    lock_take(&fd->lock);
    for (size_t i = 0; i < len && !fd->out_failed; i++) {
        if (queued(fd) == QUEUE_SIZE && !flush(fd) && queued(fd) == QUEUE_SIZE && !wait_for_host(fd))
            break;
        fd->queue[fd->tail++ % QUEUE_SIZE] = data[i];
        now |= data[i] == '\n';
    }
    if (now || queued(fd) >= FLUSH_SIZE)
        flush(fd);
    arm = queued(fd) && !fd->flush_armed;
    fd->flush_armed |= arm;
    lock_drop(&fd->lock);
    if (arm)
        timer_arm(&fd->flush_timer, vclock_ns(loop_clock(fd->loop)) + FLUSH_NS);
}

/* --- the loop's thread ---------------------------------------------------------------------------- */

static void fd_ready(void *opaque, short revents);

static void watch(struct chardev_fd *fd)
{
    short in = fd->want_in ? POLLIN : 0, out = fd->want_out ? POLLOUT : 0;

    if (fd->in == fd->out)
        in = out = in | out;
    if (fd->in >= 0)
        loop_watch_fd(fd->loop, fd->in, in, fd_ready, fd);
    if (fd->out >= 0 && fd->out != fd->in)
        loop_watch_fd(fd->loop, fd->out, out, fd_ready, fd);
}

static void set_want(struct chardev_fd *fd, bool in, bool out)
{
    if (in == fd->want_in && out == fd->want_out)
        return;
    fd->want_in = in;
    fd->want_out = out;
    watch(fd);
}

static void output_ready(void *opaque)
{
    struct chardev_fd *fd = opaque;
    bool done;

    lock_take(&fd->lock);
    done = flush(fd);
    fd->flush_armed = !done; /* while it is watched for, no timer is needed */
    lock_drop(&fd->lock);
    set_want(fd, fd->want_in, !done);
}

static size_t room(struct chardev_fd *fd)
{
    return fd->chardev.client.can_receive ? fd->chardev.client.can_receive(fd->chardev.client.opaque) : 0;
}

/* The room, or 0 when accept_input will tell. It may have come between the two looks. */
static size_t room_or_wait(struct chardev_fd *fd)
{
    size_t len = room(fd);

    if (len)
        return len;
    lock_take(&fd->lock);
    fd->no_room = true;
    lock_drop(&fd->lock);
    len = room(fd);
    if (len) {
        lock_take(&fd->lock);
        fd->no_room = false;
        lock_drop(&fd->lock);
    }
    return len;
}

/* The client has room for a byte at least. */
static void end_input(struct chardev_fd *fd)
{
    uint8_t byte = (uint8_t)fd->end_byte;

    fd->end_of_input = true;
    set_want(fd, false, fd->want_out);
    if (fd->end_byte >= 0)
        fd->chardev.client.receive(fd->chardev.client.opaque, &byte, 1);
    else if (fd->chardev.client.hangup)
        fd->chardev.client.hangup(fd->chardev.client.opaque);
}

static void input_ready(void *opaque)
{
    struct chardev_fd *fd = opaque;
    uint8_t data[READ_SIZE];
    size_t len;
    ssize_t n;

    if (fd->end_of_input)
        return;
    len = room_or_wait(fd);
    if (!len) {
        set_want(fd, false, fd->want_out);
        return;
    }
    n = read(fd->in, data, MIN(len, sizeof(data)));
    if (n > 0)
        fd->chardev.client.receive(fd->chardev.client.opaque, data, (size_t)n);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        end_input(fd);
    else
        set_want(fd, true, fd->want_out);
}

static void fd_ready(void *opaque, short revents)
{
    struct chardev_fd *fd = opaque;

    if (fd->want_out && (revents & (POLLOUT | POLLERR | POLLHUP)))
        output_ready(fd);
    if (fd->want_in && (revents & (POLLIN | POLLERR | POLLHUP)))
        input_ready(fd);
}

/* --- construction --------------------------------------------------------------------------------- */

static void fd_accept_input(struct chardev *chardev)
{
    struct chardev_fd *fd = container_of(chardev, struct chardev_fd, chardev);
    bool waited;

    lock_take(&fd->lock);
    waited = fd->no_room;
    fd->no_room = false;
    lock_drop(&fd->lock);
    if (waited && fd->in >= 0)
        timer_arm(&fd->input_timer, 0);
}

static int set_nonblocking(int fd, int *flags)
{
    *flags = -1;
    if (fd < 0)
        return 0;
    *flags = fcntl(fd, F_GETFL);
    if (*flags < 0 || fcntl(fd, F_SETFL, *flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

static void restore(int fd, int flags)
{
    if (flags >= 0)
        fcntl(fd, F_SETFL, flags);
}

static void fd_free(struct chardev *chardev)
{
    struct chardev_fd *fd = container_of(chardev, struct chardev_fd, chardev);

    timer_cancel(&fd->flush_timer);
    timer_cancel(&fd->input_timer);
    set_want(fd, false, false);
    lock_take(&fd->lock);
    while (!flush(fd) && wait_for_host(fd))
        ;
    lock_drop(&fd->lock);
    restore(fd->out, fd->out_flags);
    restore(fd->in, fd->in_flags);
    lock_destroy(&fd->lock);
    free(fd);
}

static const struct chardev_ops fd_ops = {
    .write = fd_write,
    .accept_input = fd_accept_input,
    .free = fd_free,
};

struct chardev *chardev_fd_new(struct loop *loop, int in, int out, struct error *err)
{
    struct chardev_fd *fd = calloc(1, sizeof(*fd));
    int rc;

    if (!fd) {
        error_set(err, -ENOMEM, "serial backend: no memory");
        return NULL;
    }
    rc = set_nonblocking(in, &fd->in_flags);
    if (rc == 0) {
        rc = set_nonblocking(out, &fd->out_flags);
        if (rc < 0)
            restore(in, fd->in_flags);
    }
    if (rc < 0) {
        error_set(err, rc, "serial backend: descriptors %d and %d: %s", in, out, strerror(-rc));
        free(fd);
        return NULL;
    }
    *fd = (struct chardev_fd){.chardev.ops = &fd_ops,
                              .loop = loop,
                              .in = in,
                              .out = out,
                              .in_flags = fd->in_flags,
                              .out_flags = fd->out_flags,
                              .end_byte = -1,
                              .no_room = true}; /* until a device is connected */
    lock_init(&fd->lock, LOCK_BACKEND);
    timer_init(&fd->flush_timer, loop, output_ready, fd);
    timer_init(&fd->input_timer, loop, input_ready, fd);
    return &fd->chardev;
}

void chardev_fd_set_end_byte(struct chardev *chardev, uint8_t byte)
{
    container_of(chardev, struct chardev_fd, chardev)->end_byte = byte;
}
