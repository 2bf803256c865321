/*
 * device/virtio/vsock.c: each stream is a socket of the host's and two windows.
 *
 * Guest to host: a packet's data is written to the socket, what that does not
 * take is kept, at most WINDOW bytes, which is all the guest may have on its
 * way; it learns of room as data leaves. Host to guest: the socket is read only
 * when the driver has given a buffer and the guest's program has room, so
 * nothing is kept. What else there is to say to the driver is one bit for each
 * stream and kind of packet; answers to streams that do not exist are a short
 * list, and while it is full no more packets are taken. So a guest costs what
 * VIRTIO_VSOCK_STREAMS streams cost, whatever it does.
 *
 * All of it happens on the loop's thread; the vCPU's only wakes it.
 */
#include "device/virtio/vsock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device/virtio/virtio.h"

#define CLASS_OTHER 0xff0000
#define WINDOW      131072u        /* a power of two: positions wrap */
#define DATA_MAX    65536u         /* bytes of one packet to the guest */
#define BUDGET      256            /* packets at a time; then others of the loop's have their turn */
#define ANSWERS     64             /* resets for streams that do not exist */
#define BUCKETS     256            /* a power of two */
#define FIRST_PORT  (1u << 30)     /* of the host's programs that connect to the guest */
#define PATIENCE_NS 10000000000ull /* for the guest's answer to a connection, or to the end of one */
#define TICK_NS     1000000000ull

#define F_STREAM BIT(0)

enum { RX = 0, TX = 1, EVENT = 2, QUEUES = 3 };

/* 5.10.6 */
enum op {
    OP_REQUEST = 1,
    OP_RESPONSE = 2,
    OP_RST = 3,
    OP_SHUTDOWN = 4,
    OP_RW = 5,
    OP_CREDIT_UPDATE = 6,
    OP_CREDIT_REQUEST = 7,
};
#define TYPE_STREAM 1

#define END_RECEIVE 1u /* SHUTDOWN's flags: the sender will receive, or send, no more */
#define END_SEND    2u
#define END_BOTH    3u

struct header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

enum state {
    CONNECTING, /* the guest has not answered yet */
    OPEN,
    ENDED, /* the guest knows it no more: what is left is written, then it goes */
};

struct stream {
    struct virtio_vsock *vsock;
    unsigned slot;
    struct stream *next;      /* in its bucket */
    struct stream *next_work; /* in the list of those that have something for the driver */
    bool queued;
    uint32_t host_port, guest_port;
    enum state state;
    uint32_t due;         /* bit n: packet n is to be sent */
    uint64_t deadline_ns; /* UINT64_MAX: none */

    int fd; /* -1: closed */
    short watched;
    bool readable; /* perhaps */
    bool hung_up;  /* the program is gone; what it wrote may still be read */
    bool deaf;     /* nobody reads what is written to it: it is lost */
    bool told_end; /* the program has been told that the guest sends no more */

    /* Guest to host: bytes received, passed on, and told of. */
    uint32_t rx_cnt, fwd_cnt, told;
    uint8_t *kept; /* WINDOW bytes while there are some */
    uint32_t head, tail;
    unsigned guest_ended; /* END_* */

    /* Host to guest. */
    uint32_t tx_cnt, peer_alloc, peer_fwd;
    unsigned host_ended, told_ended;
};

struct answer {
    uint32_t host_port, guest_port;
    uint64_t host_cid;
    uint16_t type;
};

struct virtio_vsock {
    struct virtio_device virtio;
    struct loop *loop;
    struct vsock_host *host;
    struct timer work, tick;
    bool was_reset; /* with the device's lock */

    /* The loop's thread's. */
    uint32_t next_port;
    unsigned streams;
    struct stream *slot[VIRTIO_VSOCK_STREAMS];
    struct stream *bucket[BUCKETS];
    struct stream *first, **last; /* those with something for the driver */
    unsigned answers;
    struct answer answer[ANSWERS];
    struct virtq_chain chain;
    uint8_t data[DATA_MAX];
};

static uint64_t guest_cid(const struct virtio_vsock *vsock)
{
    uint64_t cid;

    memcpy(&cid, vsock->virtio.config, sizeof(cid));
    return cid;
}

/* --- the streams there are -------------------------------------------------------------------- */

static struct stream **bucket_of(struct virtio_vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
    return &vsock->bucket[(host_port * 31 + guest_port) % BUCKETS];
}

static struct stream *find(struct virtio_vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
    struct stream *stream = *bucket_of(vsock, host_port, guest_port);

    while (stream && (stream->host_port != host_port || stream->guest_port != guest_port))
        stream = stream->next;
    return stream;
}

/* Takes over fd. NULL: there are too many, or no memory; fd is closed. */
static struct stream *add(struct virtio_vsock *vsock, uint32_t host_port, uint32_t guest_port, int fd)
{
    struct stream *stream = vsock->streams < VIRTIO_VSOCK_STREAMS ? calloc(1, sizeof(*stream)) : NULL;
    struct stream **bucket = bucket_of(vsock, host_port, guest_port);

    if (!stream) {
        close(fd);
        return NULL;
    }
    while (vsock->slot[stream->slot])
        stream->slot++;
    vsock->slot[stream->slot] = stream;
    vsock->streams++;
    stream->vsock = vsock;
    stream->host_port = host_port;
    stream->guest_port = guest_port;
    stream->fd = fd;
    stream->deadline_ns = UINT64_MAX;
    stream->next = *bucket;
    *bucket = stream;
    return stream;
}

static void forget(struct stream *stream)
{
    struct stream **link = bucket_of(stream->vsock, stream->host_port, stream->guest_port);

    while (*link && *link != stream)
        link = &(*link)->next;
    if (*link)
        *link = stream->next;
}

static void enqueue(struct stream *stream)
{
    struct virtio_vsock *vsock = stream->vsock;

    if (stream->queued)
        return;
    stream->queued = true;
    stream->next_work = NULL;
    *vsock->last = stream;
    vsock->last = &stream->next_work;
}

static struct stream *dequeue(struct virtio_vsock *vsock)
{
    struct stream *stream = vsock->first;

    vsock->first = stream->next_work;
    if (!vsock->first)
        vsock->last = &vsock->first;
    stream->queued = false;
    return stream;
}

static void on_socket(void *opaque, short revents);

static void close_socket(struct stream *stream)
{
    if (stream->fd < 0)
        return;
    if (stream->watched)
        loop_watch_fd(stream->vsock->loop, stream->fd, 0, NULL, NULL);
    stream->watched = 0;
    close(stream->fd);
    stream->fd = -1;
    free(stream->kept);
    stream->kept = NULL;
    stream->head = stream->tail = 0;
}

/* Not queued, not in a bucket. */
static void destroy(struct stream *stream)
{
    close_socket(stream);
    stream->vsock->slot[stream->slot] = NULL;
    stream->vsock->streams--;
    free(stream);
}

/* --- the socket ----------------------------------------------------------------------------------- */

static uint32_t kept(const struct stream *stream)
{
    return stream->tail - stream->head;
}

/* Bytes the guest's program takes. */
static uint32_t credit(const struct stream *stream)
{
    uint32_t on_the_way = stream->tx_cnt - stream->peer_fwd;

    return on_the_way < stream->peer_alloc ? stream->peer_alloc - on_the_way : 0;
}

static bool wants_data(const struct stream *stream)
{
    return stream->state == OPEN && !(stream->host_ended & END_SEND) && !(stream->guest_ended & END_RECEIVE) &&
           credit(stream);
}

/* The guest knows it no more. */
static void end(struct stream *stream, bool tell_guest)
{
    if (stream->state == ENDED)
        return;
    forget(stream);
    stream->state = ENDED;
    stream->due = tell_guest ? BIT(OP_RST) : 0;
    stream->deadline_ns = UINT64_MAX;
    stream->readable = false;
    enqueue(stream);
}

/* A program that is gone is not watched: its socket would be ready all the time. */
static void watch(struct stream *stream)
{
    short events = 0;

    if (stream->fd < 0)
        return;
    if (!stream->hung_up) {
        events |= wants_data(stream) && !stream->readable ? POLLIN : 0;
        events |= kept(stream) ? POLLOUT : 0;
        events = events ? events : POLLERR;
    }
    if (events == stream->watched)
        return;
    stream->watched = events;
    if (loop_watch_fd(stream->vsock->loop, stream->fd, events, on_socket, stream) < 0)
        end(stream, true);
}

static void end_host(struct stream *stream, unsigned ends)
{
    if ((stream->host_ended | ends) == stream->host_ended)
        return;
    stream->host_ended |= ends;
    stream->due |= BIT(OP_SHUTDOWN);
}

/* Nobody reads it any more: what the guest sends is lost, as with any socket. */
static void become_deaf(struct stream *stream)
{
    stream->fwd_cnt += kept(stream);
    stream->head = stream->tail;
    stream->deaf = true;
    end_host(stream, END_RECEIVE);
}

/* Writes what it takes; returns how much that was, all of it if nobody reads it. */
static uint32_t put(struct stream *stream, const uint8_t *data, uint32_t len)
{
    uint32_t done = 0;

    while (done < len && !stream->deaf) {
        ssize_t n = send(stream->fd, data + done, len - done, MSG_NOSIGNAL);

        if (n > 0)
            done += (uint32_t)n;
        else if (n < 0 && errno == EAGAIN)
            break;
        else if (n < 0 && errno != EINTR)
            become_deaf(stream);
    }
    return stream->deaf ? len : done;
}

static void write_kept(struct stream *stream)
{
    while (kept(stream)) {
        uint32_t at = stream->head % WINDOW, len = MIN(kept(stream), WINDOW - at), n;

        n = put(stream, stream->kept + at, len);
        if (stream->deaf)
            break; /* nothing is kept any more */
        stream->head += n;
        stream->fwd_cnt += n;
        if (n < len)
            return;
    }
    free(stream->kept);
    stream->kept = NULL;
}

/* --- life and end ------------------------------------------------------------------------------------- */

static void set_deadline(struct stream *stream)
{
    struct virtio_vsock *vsock = stream->vsock;
    uint64_t now = vclock_ns(loop_clock(vsock->loop));

    stream->deadline_ns = now + PATIENCE_NS;
    if (vsock->tick.deadline_ns == UINT64_MAX)
        timer_arm(&vsock->tick, now + TICK_NS);
}

/* After anything has happened to it: what follows from that. */
static void settle(struct stream *stream)
{
    if (stream->state == CONNECTING && stream->hung_up)
        end(stream, !(stream->due & BIT(OP_REQUEST)));
    if (stream->state == OPEN && stream->guest_ended == END_BOTH)
        end(stream, true);
    if (stream->state == OPEN && stream->hung_up && (stream->host_ended & END_SEND) && !stream->deaf)
        become_deaf(stream);
    if (stream->state == ENDED && !kept(stream))
        close_socket(stream);
    if (stream->state == OPEN && !kept(stream) && (stream->guest_ended & END_SEND) && !stream->told_end) {
        shutdown(stream->fd, SHUT_WR);
        stream->told_end = true;
    }
    if (stream->state == OPEN && stream->fwd_cnt - stream->told >= WINDOW / 2)
        stream->due |= BIT(OP_CREDIT_UPDATE);
    watch(stream);
    if (stream->due || (stream->readable && wants_data(stream)) || (stream->state == ENDED && stream->fd < 0))
        enqueue(stream);
}

static void start_work(struct virtio_vsock *vsock)
{
    timer_arm(&vsock->work, 0);
}

/* The program is gone? The loop's word may be of an older socket with that number. */
static bool is_gone(const struct stream *stream)
{
    struct pollfd poll_fd = {.fd = stream->fd, .events = 0};

    return poll(&poll_fd, 1, 0) == 1;
}

static void hang_up(struct stream *stream)
{
    stream->hung_up = stream->readable = true;
}

static void on_socket(void *opaque, short revents)
{
    struct stream *stream = opaque;

    if ((revents & (POLLHUP | POLLERR)) && is_gone(stream))
        hang_up(stream);
    if (revents & POLLIN)
        stream->readable = true;
    if (revents & (POLLOUT | POLLHUP | POLLERR))
        write_kept(stream);
    settle(stream);
    start_work(stream->vsock);
}

static void on_tick(void *opaque)
{
    struct virtio_vsock *vsock = opaque;
    uint64_t now = vclock_ns(loop_clock(vsock->loop));
    bool more = false;

    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS; i++) {
        struct stream *stream = vsock->slot[i];

        if (!stream || stream->deadline_ns == UINT64_MAX)
            continue;
        if (stream->deadline_ns > now) {
            more = true;
            continue;
        }
        end(stream, true);
        settle(stream);
    }
    if (more)
        timer_arm(&vsock->tick, now + TICK_NS);
    start_work(vsock);
}

/* --- packets to the guest ---------------------------------------------------------------------------------- */

static bool next_room(struct virtio_vsock *vsock)
{
    do
        if (virtio_pop(&vsock->virtio, RX, &vsock->chain)) {
            if (vsock->chain.writable_bytes >= sizeof(struct header))
                return true;
            virtio_fail(&vsock->virtio, "a buffer without room for a packet's header");
            return false;
        }
    while (virtio_ask_notification(&vsock->virtio, RX));
    return false;
}

/* Into the chain that next_room() took. */
static void send_packet(struct stream *stream, enum op op, const void *data, uint32_t len)
{
    struct virtio_vsock *vsock = stream->vsock;
    const struct header header = {
        .src_cid = VIRTIO_VSOCK_HOST,
        .dst_cid = guest_cid(vsock),
        .src_port = stream->host_port,
        .dst_port = stream->guest_port,
        .len = len,
        .type = TYPE_STREAM,
        .op = (uint16_t)op,
        .flags = op == OP_SHUTDOWN ? stream->host_ended : 0,
        .buf_alloc = WINDOW,
        .fwd_cnt = stream->fwd_cnt,
    };

    virtq_write(&vsock->chain, 0, &header, sizeof(header));
    virtq_write(&vsock->chain, sizeof(header), data, len);
    virtio_push(&vsock->virtio, RX, &vsock->chain, sizeof(header) + len);
    stream->told = stream->fwd_cnt;
    stream->tx_cnt += len;
    stream->due &= ~(uint32_t)(BIT(op) | BIT(OP_CREDIT_UPDATE));
}

static void send_answer(struct virtio_vsock *vsock, const struct answer *answer)
{
    const struct header header = {
        .src_cid = answer->host_cid,
        .dst_cid = guest_cid(vsock),
        .src_port = answer->host_port,
        .dst_port = answer->guest_port,
        .type = answer->type,
        .op = OP_RST,
    };

    virtio_push(&vsock->virtio, RX, &vsock->chain, virtq_write(&vsock->chain, 0, &header, sizeof(header)));
}

/* What is due before data, and after it. */
static bool send_due(struct stream *stream)
{
    static const uint8_t order[] = {OP_REQUEST, OP_RESPONSE, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST, OP_SHUTDOWN, OP_RST};

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
        if (!(stream->due & BIT(order[i])))
            continue;
        if (!next_room(stream->vsock))
            return false;
        send_packet(stream, order[i], NULL, 0);
        if (order[i] == OP_SHUTDOWN && stream->host_ended == END_BOTH)
            set_deadline(stream);
    }
    return true;
}

/* The end of what the program has to say. Is it gone altogether? */
static void end_of_input(struct stream *stream)
{
    stream->hung_up |= is_gone(stream);
    stream->readable = false;
    end_host(stream, END_SEND);
    if (stream->hung_up)
        become_deaf(stream);
}

/* One packet of data. False: there was no room for it. */
static bool send_data(struct stream *stream)
{
    struct virtio_vsock *vsock = stream->vsock;
    uint64_t len;
    ssize_t n;

    if (!next_room(vsock))
        return false;
    len = MIN(MIN(vsock->chain.writable_bytes - sizeof(struct header), credit(stream)), DATA_MAX);
    n = len ? read(stream->fd, vsock->data, len) : -1;
    if (n > 0) {
        send_packet(stream, OP_RW, vsock->data, (uint32_t)n);
        if (!credit(stream))
            stream->due |= BIT(OP_CREDIT_REQUEST);
        return true;
    }
    virtio_unpop(&vsock->virtio, RX, &vsock->chain);
    if (!len)
        virtio_fail(&vsock->virtio, "a buffer without room for data");
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        end_of_input(stream);
    else
        stream->readable = stream->hung_up;
    return true;
}

/* The first of the list. False: the driver has given no room for what it has. */
static bool serve_first(struct virtio_vsock *vsock)
{
    struct stream *stream = vsock->first;

    if (!send_due(stream) || (stream->readable && wants_data(stream) && !send_data(stream)))
        return false;
    dequeue(vsock);
    if (stream->state == ENDED && !stream->due && stream->fd < 0)
        destroy(stream);
    else
        settle(stream);
    return true;
}

/* --- packets from the guest ----------------------------------------------------------------------------------- */

/* Data beyond what it was granted ends the stream. */
static void take_data(struct stream *stream, uint32_t len)
{
    struct virtio_vsock *vsock = stream->vsock;
    uint64_t at = sizeof(struct header), end_at = at + len, n;

    if (stream->state != OPEN || len > WINDOW - (stream->rx_cnt - stream->fwd_cnt)) {
        end(stream, true);
        return;
    }
    stream->rx_cnt += len;
    while (at < end_at && (n = virtq_read(&vsock->chain, at, vsock->data, MIN(end_at - at, DATA_MAX)))) {
        uint32_t done = kept(stream) ? 0 : put(stream, vsock->data, (uint32_t)n);

        stream->fwd_cnt += done;
        if (done < n && !stream->kept)
            stream->kept = malloc(WINDOW);
        if (done < n && !stream->kept) {
            end(stream, true);
            return;
        }
        for (; done < n; done++)
            stream->kept[stream->tail++ % WINDOW] = vsock->data[done];
        at += n;
    }
}

static void take_response(struct stream *stream)
{
    char line[32];
    int len = snprintf(line, sizeof(line), "OK %u\n", stream->host_port);

    if (stream->state != CONNECTING) {
        end(stream, true);
        return;
    }
    stream->state = OPEN;
    stream->deadline_ns = UINT64_MAX;
    if (send(stream->fd, line, (size_t)len, MSG_NOSIGNAL) != len)
        hang_up(stream);
}

static void add_answer(struct virtio_vsock *vsock, const struct header *header)
{
    vsock->answer[vsock->answers++] = (struct answer){
        .host_port = header->dst_port,
        .guest_port = header->src_port,
        .host_cid = header->dst_cid,
        .type = header->type,
    };
}

static void take_request(struct virtio_vsock *vsock, const struct header *header)
{
    int fd = vsock_host_connect(vsock->host, header->dst_port);
    struct stream *stream = fd < 0 ? NULL : add(vsock, header->dst_port, header->src_port, fd);

    if (!stream) {
        add_answer(vsock, header);
        return;
    }
    stream->state = OPEN;
    stream->due = BIT(OP_RESPONSE);
    stream->peer_alloc = header->buf_alloc;
    stream->peer_fwd = header->fwd_cnt;
    settle(stream);
}

static void take_for_stream(struct stream *stream, const struct header *header)
{
    stream->peer_alloc = header->buf_alloc;
    stream->peer_fwd = header->fwd_cnt;
    switch (header->op) {
    case OP_RESPONSE:
        take_response(stream);
        break;
    case OP_RST:
        end(stream, false);
        break;
    case OP_SHUTDOWN:
        stream->guest_ended |= header->flags & END_BOTH;
        break;
    case OP_RW:
        take_data(stream, header->len);
        break;
    case OP_CREDIT_UPDATE:
        break;
    case OP_CREDIT_REQUEST:
        stream->due |= BIT(OP_CREDIT_UPDATE);
        break;
    default:
        end(stream, true);
    }
    settle(stream);
}

static void take_packet(struct virtio_vsock *vsock)
{
    struct stream *stream;
    struct header header;

    if (virtq_read(&vsock->chain, 0, &header, sizeof(header)) < sizeof(header) ||
        header.len > vsock->chain.readable_bytes - sizeof(header)) {
        virtio_fail(&vsock->virtio, "a packet that is shorter than it says");
        return;
    }
    if (header.src_cid != guest_cid(vsock) || header.dst_cid != VIRTIO_VSOCK_HOST)
        return; /* nobody is there */
    stream = header.type == TYPE_STREAM ? find(vsock, header.dst_port, header.src_port) : NULL;
    if (stream)
        take_for_stream(stream, &header);
    else if (header.type == TYPE_STREAM && header.op == OP_REQUEST)
        take_request(vsock, &header);
    else if (header.op != OP_RST)
        add_answer(vsock, &header);
}

/* --- the loop's thread -----------------------------------------------------------------------------------------------
 */

/* The driver was reset and knows of none. */
static void end_streams(struct virtio_vsock *vsock)
{
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS; i++)
        if (vsock->slot[i]) {
            end(vsock->slot[i], false);
            vsock->slot[i]->due = 0;
            settle(vsock->slot[i]);
        }
    vsock->answers = 0;
}

static void take_packets(struct virtio_vsock *vsock, unsigned *budget)
{
    do {
        while (*budget && vsock->answers < ANSWERS && virtio_pop(&vsock->virtio, TX, &vsock->chain)) {
            take_packet(vsock);
            virtio_push(&vsock->virtio, TX, &vsock->chain, 0);
            --*budget;
        }
    } while (*budget && vsock->answers < ANSWERS && virtio_ask_notification(&vsock->virtio, TX));
    virtio_flush(&vsock->virtio, TX);
}

static void give_packets(struct virtio_vsock *vsock, unsigned *budget)
{
    while (*budget && vsock->answers && next_room(vsock)) {
        send_answer(vsock, &vsock->answer[--vsock->answers]);
        --*budget;
    }
    while (*budget && vsock->first && serve_first(vsock))
        --*budget;
    virtio_flush(&vsock->virtio, RX);
}

static void work(void *opaque)
{
    struct virtio_vsock *vsock = opaque;
    unsigned budget = BUDGET;
    bool full;

    lock_take(&vsock->virtio.lock);
    if (vsock->was_reset)
        end_streams(vsock);
    vsock->was_reset = false;
    take_packets(vsock, &budget);
    full = vsock->answers == ANSWERS;
    give_packets(vsock, &budget);
    lock_drop(&vsock->virtio.lock);
    if (!budget || (full && vsock->answers < ANSWERS))
        start_work(vsock);
}

/* A program of the host's wants the guest's port. Without a driver nobody is there. */
static void on_connect(void *opaque, int fd, uint32_t port)
{
    struct virtio_vsock *vsock = opaque;
    struct stream *stream;
    bool running;

    lock_take(&vsock->virtio.lock);
    running = virtio_running(&vsock->virtio) && !vsock->was_reset;
    lock_drop(&vsock->virtio.lock);
    if (!running) {
        close(fd);
        return;
    }
    do
        vsock->next_port = (vsock->next_port + 1) | FIRST_PORT;
    while (find(vsock, vsock->next_port, port));
    stream = add(vsock, vsock->next_port, port, fd);
    if (!stream)
        return;
    stream->due = BIT(OP_REQUEST);
    set_deadline(stream);
    settle(stream);
    start_work(vsock);
}

/* --- the device
 * ------------------------------------------------------------------------------------------------------- */

static void notify(struct virtio_device *device, unsigned queue)
{
    start_work(container_of(device, struct virtio_vsock, virtio));
}

static void reset(struct virtio_device *device)
{
    struct virtio_vsock *vsock = container_of(device, struct virtio_vsock, virtio);

    vsock->was_reset = true;
    start_work(vsock);
}

static const struct virtio_ops ops = {
    .name = "virtio-vsock",
    .type = VIRTIO_VSOCK,
    .class_code = CLASS_OTHER,
    .notify = notify,
    .reset = reset,
};

struct virtio_vsock *virtio_vsock_new(struct pci_host *pci, struct mem *mem, struct loop *loop, struct vsock_host *host,
                                      uint32_t cid, struct error *err)
{
    const uint64_t config = cid; /* 5.10.4 */
    struct virtio_vsock *vsock = calloc(1, sizeof(*vsock));

    if (!vsock) {
        error_set(err, -ENOMEM, "virtio-vsock: no memory");
        return NULL;
    }
    vsock->loop = loop;
    vsock->host = host;
    vsock->next_port = FIRST_PORT;
    vsock->last = &vsock->first;
    timer_init(&vsock->work, loop, work, vsock);
    timer_init(&vsock->tick, loop, on_tick, vsock);
    if (virtio_init(&vsock->virtio, &ops, pci, mem, QUEUES, F_STREAM, &config, sizeof(config), err)) {
        virtio_fini(&vsock->virtio);
        free(vsock);
        return NULL;
    }
    vsock_host_set_client(host, &(struct vsock_client){.opaque = vsock, .connect = on_connect});
    return vsock;
}

void virtio_vsock_free(struct virtio_vsock *vsock)
{
    vsock_host_set_client(vsock->host, &(struct vsock_client){.opaque = NULL});
    work(vsock); /* what the guest sent at the very last */
    timer_cancel(&vsock->work);
    timer_cancel(&vsock->tick);
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS; i++)
        if (vsock->slot[i])
            destroy(vsock->slot[i]);
    virtio_fini(&vsock->virtio);
    free(vsock);
}
