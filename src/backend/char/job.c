/*
 * backend/char/job.c: frames from the guest are taken apart on the vCPU's
 * thread, which fills two bounded rings (stdout, stderr); everything else, the
 * rings' way to the host included, happens on the loop's thread.
 *
 * The protocol is in docs/job-channel.md. The guest may send anything.
 */
#include "backend/char/job.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/char/job_protocol.h"
#include "base/lock.h"
#include "base/log.h"

#define TX_SIZE     (JOB_HEADER + JOB_PAYLOAD + 64)
#define SIGNALS_MAX 64
#define CREDIT_UNIT (JOB_OUT_WINDOW / 8) /* smaller grants wait for more */
#define WRITE_MAX   PIPE_BUF             /* a pipe that polls writable takes so much without blocking */

struct stream {
    int fd;
    bool failed;      /* the reader is gone: output is dropped */
    bool tell_closed; /* and the guest is to be told */
    bool watched;     /* loop's thread: POLLOUT is watched for */
    uint32_t head, tail;
    uint8_t ring[JOB_OUT_WINDOW]; /* a power of two: positions wrap */
};

struct job {
    struct chardev chardev; /* first */
    struct loop *loop;
    struct timer work_timer; /* calls work() on the loop's thread */
    int in;
    uint8_t *start; /* frames that start the job */
    size_t start_len;

    /* The loop's thread's. */
    bool in_watched, in_ended, in_eof_sent;
    size_t start_sent;
    size_t tx_len, tx_pos;
    uint8_t tx[TX_SIZE];

    struct lock lock;
    bool ready, broken, exited;
    uint8_t status;
    bool no_room; /* the port's FIFO is full: accept_input will come */
    bool winsize_changed;
    uint16_t rows, cols;
    uint64_t signals;    /* to be sent: bit n - 1 */
    uint32_t in_credit;  /* bytes of stdin that may be sent */
    uint32_t out_credit; /* bytes the guest may send; what it has not been granted yet is in out_ungranted */
    uint32_t out_ungranted;
    struct stream out[2];
    size_t rx_len;
    uint8_t rx[JOB_HEADER + JOB_PAYLOAD];
};

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint32_t queued(const struct stream *s)
{
    return s->tail - s->head;
}

static void wake_loop(struct job *job)
{
    timer_arm(&job->work_timer, 0);
}

/* --- frames from the guest: the vCPU's thread, with the lock ----------------------------------- */

static void take_output(struct job *job, struct stream *s, const uint8_t *data, uint32_t len)
{
    job->out_credit -= len;
    if (s->failed) {
        job->out_ungranted += len;
        return;
    }
    for (uint32_t i = 0; i < len; i++)
        s->ring[s->tail++ % JOB_OUT_WINDOW] = data[i];
}

/* False: not a frame the guest may send now. */
static bool take_frame(struct job *job, uint8_t type, const uint8_t *data, uint32_t len)
{
    switch (type) {
    case JOB_STDOUT:
    case JOB_STDERR:
        if (len > job->out_credit)
            return false;
        take_output(job, &job->out[type == JOB_STDERR], data, len);
        return true;
    case JOB_IN_CREDIT:
        if (len != 4 || get32(data) > JOB_IN_WINDOW - job->in_credit)
            return false;
        job->in_credit += get32(data);
        return true;
    case JOB_EXIT:
        if (len != 1)
            return false;
        job->exited = true;
        job->status = data[0];
        return true;
    default:
        return false;
    }
}

/* Before READY everything is noise: bytes are dropped from the front until they begin one. */
static void seek_ready(struct job *job)
{
    static const uint8_t ready[] = {JOB_READY, JOB_MAGIC_LEN, 0, 't', 'r', 'a', 'p', 'e', 'z', 'e', '1'};

    while (job->rx_len > 0 && memcmp(job->rx, ready, MIN(job->rx_len, sizeof(ready))) != 0)
        memmove(job->rx, job->rx + 1, --job->rx_len);
    if (job->rx_len == sizeof(ready)) {
        job->ready = true;
        job->rx_len = 0;
    }
}

/* One byte; true: there is something to do for the loop. */
static bool take_byte(struct job *job, uint8_t byte)
{
    uint32_t len;

    if (job->broken || job->exited)
        return false;
    job->rx[job->rx_len++] = byte;
    if (!job->ready) {
        seek_ready(job);
        return job->ready;
    }
    if (job->rx_len < JOB_HEADER)
        return false;
    len = (uint32_t)job->rx[1] | (uint32_t)job->rx[2] << 8;
    if (len <= JOB_PAYLOAD && job->rx_len < JOB_HEADER + len)
        return false;
    if (len > JOB_PAYLOAD || !take_frame(job, job->rx[0], job->rx + JOB_HEADER, len)) {
        job->broken = true;
        log_warn("job channel: the guest sent a frame of type %#x and %u bytes that is not allowed now; "
                 "the channel is closed",
                 job->rx[0], len);
    }
    job->rx_len = 0;
    return true;
}

static void job_write(struct chardev *chardev, const uint8_t *data, size_t len)
{
    struct job *job = container_of(chardev, struct job, chardev);
    bool work = false;

    lock_take(&job->lock);
    for (size_t i = 0; i < len; i++)
        work |= take_byte(job, data[i]);
    lock_drop(&job->lock);
    if (work)
        wake_loop(job);
}

static void job_accept_input(struct chardev *chardev)
{
    struct job *job = container_of(chardev, struct job, chardev);
    bool waited;

    lock_take(&job->lock);
    waited = job->no_room;
    job->no_room = false;
    lock_drop(&job->lock);
    if (waited)
        wake_loop(job);
}

/* --- output: the loop's thread ----------------------------------------------------------------------- */

static void work(void *opaque);

static void stream_ready(void *opaque, short revents)
{
    work(opaque);
}

static bool writable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int rc;

    do
        rc = poll(&p, 1, timeout_ms);
    while (rc < 0 && errno == EINTR);
    return rc > 0;
}

static void fail_stream(struct job *job, struct stream *s)
{
    s->failed = s->tell_closed = true;
    job->out_ungranted += queued(s);
    s->head = s->tail;
}

/* Writes what the host takes without blocking (or, with timeout -1, everything). The lock is not held while writing:
 * only this thread takes from the ring, and what is in it stays. */
static void flush_stream(struct job *job, struct stream *s, int timeout_ms)
{
    for (;;) {
        uint32_t at, len;
        ssize_t n;

        lock_take(&job->lock);
        at = s->head % JOB_OUT_WINDOW;
        len = MIN(MIN(queued(s), JOB_OUT_WINDOW - at), WRITE_MAX);
        lock_drop(&job->lock);
        if (len == 0 || !writable(s->fd, timeout_ms))
            return;
        n = write(s->fd, s->ring + at, len);
        if (n < 0 && errno == EAGAIN && timeout_ms == 0)
            return;
        lock_take(&job->lock);
        if (n > 0) {
            s->head += (uint32_t)n;
            job->out_ungranted += (uint32_t)n;
        } else if (n < 0 && errno != EINTR && errno != EAGAIN) {
            fail_stream(job, s);
        }
        lock_drop(&job->lock);
    }
}

static void flush_output(struct job *job)
{
    for (unsigned i = 0; i < ARRAY_SIZE(job->out); i++) {
        struct stream *s = &job->out[i];
        bool left;

        flush_stream(job, s, 0);
        lock_take(&job->lock);
        left = queued(s) > 0;
        lock_drop(&job->lock);
        if (left != s->watched && s->fd >= 0)
            loop_watch_fd(job->loop, s->fd, left ? POLLOUT : 0, stream_ready, job);
        s->watched = left;
    }
}

/* --- frames to the guest: the loop's thread ------------------------------------------------------- */

static void put_frame(struct job *job, uint8_t type, const void *data, size_t len)
{
    uint8_t *at = job->tx + job->tx_len;

    at[0] = type;
    at[1] = (uint8_t)len;
    at[2] = (uint8_t)(len >> 8);
    if (len > 0)
        memcpy(at + JOB_HEADER, data, len);
    job->tx_len += JOB_HEADER + len;
}

/* Whatever small frame is due, one at a time. With the lock. */
static bool put_control(struct job *job)
{
    if (job->out_ungranted >= CREDIT_UNIT) {
        uint32_t n = job->out_ungranted;
        const uint8_t data[] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};

        job->out_ungranted = 0;
        job->out_credit += n;
        put_frame(job, JOB_OUT_CREDIT, data, sizeof(data));
        return true;
    }
    for (uint8_t i = 0; i < ARRAY_SIZE(job->out); i++)
        if (job->out[i].tell_closed) {
            const uint8_t number = (uint8_t)(i + 1);

            job->out[i].tell_closed = false;
            put_frame(job, JOB_OUT_CLOSED, &number, 1);
            return true;
        }
    if (job->winsize_changed) {
        const uint8_t data[] = {(uint8_t)job->rows, (uint8_t)(job->rows >> 8), (uint8_t)job->cols,
                                (uint8_t)(job->cols >> 8)};

        job->winsize_changed = false;
        put_frame(job, JOB_WINSIZE, data, sizeof(data));
        return true;
    }
    if (job->signals) {
        const uint8_t number = (uint8_t)__builtin_ffsll((long long)job->signals);

        job->signals &= job->signals - 1;
        put_frame(job, JOB_SIGNAL, &number, 1);
        return true;
    }
    return false;
}

static void in_ready(void *opaque, short revents);

static void watch_input(struct job *job, bool on)
{
    if (job->in < 0 || on == job->in_watched)
        return;
    job->in_watched = on;
    if (loop_watch_fd(job->loop, job->in, on ? POLLIN : 0, in_ready, job) < 0) {
        job->in_ended = true; /* not a descriptor one can read from */
        job->in_watched = false;
        wake_loop(job);
    }
}

/* The next bytes for the guest into tx: how the job starts, then small frames, then the end of input. */
static bool refill(struct job *job)
{
    bool any;

    job->tx_len = job->tx_pos = 0;
    lock_take(&job->lock);
    any = job->ready && !job->broken && !job->exited;
    if (any && job->start_sent < job->start_len) {
        job->tx_len = MIN(job->start_len - job->start_sent, sizeof(job->tx));
        memcpy(job->tx, job->start + job->start_sent, job->tx_len);
        job->start_sent += job->tx_len;
    } else if (any && !put_control(job)) {
        any = false;
        if (job->start && job->in_ended && !job->in_eof_sent) {
            job->in_eof_sent = any = true;
            put_frame(job, JOB_STDIN_EOF, NULL, 0);
        }
    }
    lock_drop(&job->lock);
    return any;
}

static size_t room(struct job *job)
{
    const struct chardev_client *client = &job->chardev.client;

    return client->can_receive ? client->can_receive(client->opaque) : 0;
}

/* The port's room, or 0 when accept_input will tell. It may have come between the two looks. */
static size_t room_or_wait(struct job *job)
{
    size_t len = room(job);

    if (len)
        return len;
    lock_take(&job->lock);
    job->no_room = true;
    lock_drop(&job->lock);
    len = room(job);
    if (len) {
        lock_take(&job->lock);
        job->no_room = false;
        lock_drop(&job->lock);
    }
    return len;
}

/* True: everything has been sent. */
static bool send_to_guest(struct job *job)
{
    while (job->tx_pos < job->tx_len || refill(job)) {
        size_t len = room_or_wait(job);

        if (!len)
            return false;
        len = MIN(len, job->tx_len - job->tx_pos);
        job->chardev.client.receive(job->chardev.client.opaque, job->tx + job->tx_pos, len);
        job->tx_pos += len;
    }
    return true;
}

/* Reads no more than the guest has room for; one frame is under way at a time. */
static void in_ready(void *opaque, short revents)
{
    struct job *job = opaque;
    uint8_t data[JOB_PAYLOAD];
    size_t max;
    ssize_t n;

    if (job->tx_pos < job->tx_len)
        return;
    lock_take(&job->lock);
    max = MIN(job->in_credit, sizeof(data));
    lock_drop(&job->lock);
    if (max == 0)
        return;
    n = read(job->in, data, max);
    if (n > 0) {
        lock_take(&job->lock);
        job->in_credit -= (uint32_t)n;
        lock_drop(&job->lock);
        job->tx_len = job->tx_pos = 0;
        put_frame(job, JOB_STDIN, data, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        job->in_ended = true;
    }
    work(job);
}

static void work(void *opaque)
{
    struct job *job = opaque;
    bool idle, more;

    flush_output(job);
    idle = send_to_guest(job);
    lock_take(&job->lock);
    more = idle && job->start && job->ready && job->in_credit > 0 && !job->exited && !job->broken;
    lock_drop(&job->lock);
    watch_input(job, more && !job->in_ended);
}

/* --- for the control layer ------------------------------------------------------------------------- */

void chardev_job_winsize(struct chardev *chardev, uint16_t rows, uint16_t cols)
{
    struct job *job = container_of(chardev, struct job, chardev);

    lock_take(&job->lock);
    job->rows = rows;
    job->cols = cols;
    job->winsize_changed = true;
    lock_drop(&job->lock);
    wake_loop(job);
}

void chardev_job_signal(struct chardev *chardev, int number)
{
    struct job *job = container_of(chardev, struct job, chardev);

    if (number <= 0 || number > SIGNALS_MAX)
        return;
    lock_take(&job->lock);
    job->signals |= BIT(number - 1);
    lock_drop(&job->lock);
    wake_loop(job);
}

void chardev_job_drain(struct chardev *chardev)
{
    struct job *job = container_of(chardev, struct job, chardev);

    for (unsigned i = 0; i < ARRAY_SIZE(job->out); i++)
        flush_stream(job, &job->out[i], -1);
}

bool chardev_job_status(struct chardev *chardev, int *status)
{
    struct job *job = container_of(chardev, struct job, chardev);
    bool exited;

    lock_take(&job->lock);
    exited = job->exited;
    *status = job->status;
    lock_drop(&job->lock);
    return exited;
}

/* --- construction ---------------------------------------------------------------------------------- */

static void job_free(struct chardev *chardev)
{
    struct job *job = container_of(chardev, struct job, chardev);

    timer_cancel(&job->work_timer);
    watch_input(job, false);
    for (unsigned i = 0; i < ARRAY_SIZE(job->out); i++)
        if (job->out[i].watched)
            loop_watch_fd(job->loop, job->out[i].fd, 0, stream_ready, job);
    lock_destroy(&job->lock);
    free(job->start);
    free(job);
}

static const struct chardev_ops job_ops = {
    .write = job_write,
    .accept_input = job_accept_input,
    .free = job_free,
};

static size_t strings_size(const char *const *strings)
{
    size_t size = 0;

    for (; strings && *strings; strings++)
        size += strlen(*strings) + 1;
    return size;
}

/* The strings one after another with their NULs, cut into frames. Returns where it stopped. */
static uint8_t *put_strings(uint8_t *out, uint8_t type, const char *const *strings)
{
    uint8_t *header = NULL;
    size_t len = 0;

    for (; strings && *strings; strings++)
        for (const char *c = *strings;; c++) {
            if (!header || len == JOB_PAYLOAD) {
                header = out;
                out += JOB_HEADER;
                len = 0;
            }
            *out++ = (uint8_t)*c;
            len++;
            header[0] = type;
            header[1] = (uint8_t)len;
            header[2] = (uint8_t)(len >> 8);
            if (!*c)
                break;
        }
    return out;
}

/* One frame; none if it is empty. */
static uint8_t *add_frame(uint8_t *out, uint8_t type, const void *data, size_t len)
{
    if (!len)
        return out;
    out[0] = type;
    out[1] = (uint8_t)len;
    out[2] = (uint8_t)(len >> 8);
    memcpy(out + JOB_HEADER, data, len);
    return out + JOB_HEADER + len;
}

static int build_start(struct job *job, const struct job_config *config, struct error *err)
{
    size_t args = strings_size(config->argv), env = strings_size(config->env);
    size_t dir = config->dir ? strlen(config->dir) : 0, ids = config->id_count * sizeof(*config->ids);
    const uint8_t tail[] = {JOB_START,
                            5,
                            0,
                            config->terminal ? JOB_TERMINAL : 0,
                            (uint8_t)config->rows,
                            (uint8_t)(config->rows >> 8),
                            (uint8_t)config->cols,
                            (uint8_t)(config->cols >> 8)};
    uint8_t *out;

    if (args > JOB_ARGS_MAX || env > JOB_ARGS_MAX)
        return error_set(err, -E2BIG, "the command's %s: %zu bytes; at most %d can be given to the guest",
                         args > JOB_ARGS_MAX ? "arguments" : "environment", MAX(args, env), JOB_ARGS_MAX);
    if (dir > JOB_PAYLOAD)
        return error_set(err, -ENAMETOOLONG,
                         "the current directory's name has %zu bytes; at most %d can be given to "
                         "the guest",
                         dir, JOB_PAYLOAD);
    job->start = malloc((args + env + dir + ids) + 2 * JOB_HEADER + ((args + env) / JOB_PAYLOAD + 2) * JOB_HEADER +
                        sizeof(tail));
    if (!job->start)
        return error_set(err, -ENOMEM, "job channel: no memory");
    out = put_strings(job->start, JOB_ENV, config->env);
    out = put_strings(out, JOB_ARGV, config->argv);
    out = add_frame(out, JOB_DIR, config->dir, dir);
    out = add_frame(out, JOB_USER, config->ids, ids);
    memcpy(out, tail, sizeof(tail));
    job->start_len = (size_t)(out - job->start) + sizeof(tail);
    return 0;
}

struct chardev *chardev_job_new(struct loop *loop, const struct job_config *config, struct error *err)
{
    struct job *job = calloc(1, sizeof(*job));

    if (!job) {
        error_set(err, -ENOMEM, "job channel: no memory");
        return NULL;
    }
    if (config->argv && build_start(job, config, err) < 0) {
        free(job);
        return NULL;
    }
    job->chardev.ops = &job_ops;
    job->loop = loop;
    job->in = config->in;
    job->in_ended = config->in < 0;
    job->out[0].fd = config->out;
    job->out[1].fd = config->err;
    for (unsigned i = 0; i < ARRAY_SIZE(job->out); i++)
        job->out[i].failed = job->out[i].fd < 0;
    job->rows = config->rows;
    job->cols = config->cols;
    job->winsize_changed = !config->argv && config->rows;
    job->out_ungranted = config->argv ? JOB_OUT_WINDOW : 0;
    job->no_room = true; /* until a device is connected */
    lock_init(&job->lock, LOCK_BACKEND);
    timer_init(&job->work_timer, loop, work, job);
    return &job->chardev;
}
