/*
 * backend/block/uring.c: a server that hands a file's requests to the kernel
 * through an io_uring (io_uring(7)): one thread, many requests under way.
 *
 * All of the ring is the thread's own: others put requests into a list and wake
 * it through an eventfd that it reads through the ring too. Nothing of the ring
 * is needed from a library: two mappings and one system call.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/block/block_internal.h"
#include "base/lock.h"
#include "base/log.h"

#define ENTRIES 128

/* IORING_FEAT_NODROP: completions are never lost; SINGLE_MMAP: both rings are one mapping; RW_CUR_POS stands for a
 * kernel (5.6) that knows the operations below. */
#define FEATURES_NEEDED (IORING_FEAT_NODROP | IORING_FEAT_SINGLE_MMAP | IORING_FEAT_RW_CUR_POS)

struct uring {
    struct block_server server;
    struct block_layer *layer;
    struct block_listener listener;

    struct lock lock; /* waiting, awake, closing */
    struct block_list waiting;
    bool awake, closing;
    int wake_fd;
    pthread_t thread;
    bool started;

    /* The thread's own. */
    int fd;
    void *rings;
    size_t rings_size;
    struct io_uring_sqe *sqe;
    unsigned *sq_tail, sq_mask, *sq_array;
    unsigned *cq_head, *cq_tail, cq_mask;
    struct io_uring_cqe *cqe;
    unsigned under_way; /* requests in the ring, the eventfd's read not counted */
    unsigned prepared;  /* entries the kernel does not know of yet */
    uint64_t wakes;     /* what was read from the eventfd */
    bool listening;     /* that read is under way */
};

/* --- into the ring -------------------------------------------------------------------------------- */

static struct io_uring_sqe *next_entry(struct uring *uring)
{
    unsigned tail = *uring->sq_tail, index = tail & uring->sq_mask;
    struct io_uring_sqe *sqe = &uring->sqe[index];

    *sqe = (struct io_uring_sqe){0};
    uring->sq_array[index] = index;
    __atomic_store_n(uring->sq_tail, tail + 1, __ATOMIC_RELEASE);
    uring->prepared++;
    return sqe;
}

static void listen_for_wakes(struct uring *uring)
{
    struct io_uring_sqe *sqe = next_entry(uring);

    sqe->opcode = IORING_OP_READ;
    sqe->fd = uring->wake_fd;
    sqe->addr = (uint64_t)(uintptr_t)&uring->wakes;
    sqe->len = sizeof(uring->wakes);
    uring->listening = true; /* user_data 0 is it */
}

static void prepare(struct uring *uring, struct block_request *request)
{
    struct io_uring_sqe *sqe = next_entry(uring);

    sqe->fd = uring->layer->fd;
    sqe->user_data = (uint64_t)(uintptr_t)request;
    sqe->off = request->offset;
    switch (request->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        sqe->opcode = request->op == BLOCK_WRITE ? IORING_OP_WRITEV : IORING_OP_READV;
        sqe->addr = (uint64_t)(uintptr_t)request->iov;
        sqe->len = request->iov_count;
        break;
    case BLOCK_FLUSH: /* of all the file */
        sqe->opcode = IORING_OP_FSYNC;
        sqe->fsync_flags = IORING_FSYNC_DATASYNC;
        sqe->off = 0;
        break;
    case BLOCK_DISCARD:
    case BLOCK_ZERO:
        sqe->opcode = IORING_OP_FALLOCATE;
        sqe->addr = request->len;
        sqe->len = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        break;
    }
    uring->under_way++;
}

/* Hands over what is prepared, and waits until something is done. */
static long enter(struct uring *uring)
{
    long n = syscall(SYS_io_uring_enter, uring->fd, uring->prepared, 1, IORING_ENTER_GETEVENTS, NULL, 0);

    if (n > 0)
        uring->prepared -= (unsigned)n;
    return n;
}

/* --- out of it -------------------------------------------------------------------------------------- */

/* Has the kernel done it all? Else `request` is what is left to do. */
static bool all_done(struct block_request *request, int result)
{
    bool transfer = request->op == BLOCK_READ || request->op == BLOCK_WRITE;
    uint64_t done = transfer && result > 0 ? (uint64_t)result : 0;

    if (!transfer)
        return result == 0;
    block_iov_skip(&request->iov, &request->iov_count, done);
    request->offset += done;
    request->len -= done;
    return !request->len;
}

/* What has failed or ended early is tried in the plain way, which finds out why, or knows another. Not so a flush: its
 * error is told once, and a second one would succeed. */
static void finish(struct uring *uring, struct block_request *request, int result)
{
    bool gave_up = result == -EAGAIN || result == -EINTR || result == -ECANCELED;

    uring->under_way--;
    request->rc = 0;
    if (!all_done(request, result))
        request->rc = request->op == BLOCK_FLUSH && !gave_up ? result : uring->layer->ops->serve(uring->layer, request);
    uring->listener.finished(uring->listener.opaque, request);
}

static void reap(struct uring *uring)
{
    unsigned head = *uring->cq_head, tail = __atomic_load_n(uring->cq_tail, __ATOMIC_ACQUIRE);

    while (head != tail) {
        struct io_uring_cqe cqe = uring->cqe[head & uring->cq_mask];

        __atomic_store_n(uring->cq_head, ++head, __ATOMIC_RELEASE);
        if (cqe.user_data)
            finish(uring, (struct block_request *)(uintptr_t)cqe.user_data, cqe.res);
        else
            uring->listening = false;
        tail = __atomic_load_n(uring->cq_tail, __ATOMIC_ACQUIRE);
    }
}

/* --- the thread -------------------------------------------------------------------------------------- */

/* As many as the ring has room for, beside the eventfd's read. False: it is time to end. */
static bool take_waiting(struct uring *uring)
{
    struct block_request *request = NULL;
    bool closing;

    do {
        lock_take(&uring->lock);
        request = uring->under_way < ENTRIES - 1 ? block_list_take(&uring->waiting) : NULL;
        uring->awake = request;
        closing = uring->closing && !uring->waiting.first;
        lock_drop(&uring->lock);
        if (request)
            prepare(uring, request);
    } while (request);
    return !closing || uring->under_way;
}

static void *run(void *opaque)
{
    struct uring *uring = opaque;

    while (take_waiting(uring)) {
        if (!uring->listening)
            listen_for_wakes(uring);
        enter(uring);
        reap(uring);
    }
    return NULL;
}

/* --- the server -------------------------------------------------------------------------------------- */

static void wake(struct uring *uring)
{
    const uint64_t one = 1;

    while (write(uring->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void submit(struct block_server *server, struct block_list *list)
{
    struct uring *uring = container_of(server, struct uring, server);
    bool awake;

    lock_take(&uring->lock);
    block_list_join(&uring->waiting, list);
    awake = uring->awake; /* it looks at the list again before it sleeps */
    lock_drop(&uring->lock);
    if (!awake)
        wake(uring);
}

static void uring_free(struct block_server *server)
{
    struct uring *uring = container_of(server, struct uring, server);

    if (uring->started) {
        lock_take(&uring->lock);
        uring->closing = true;
        lock_drop(&uring->lock);
        wake(uring);
        pthread_join(uring->thread, NULL);
    }
    if (uring->fd >= 0)
        close(uring->fd); /* ends the eventfd's read, before what it writes to is gone */
    if (uring->rings)
        munmap(uring->rings, uring->rings_size);
    if (uring->sqe)
        munmap(uring->sqe, ENTRIES * sizeof(*uring->sqe));
    if (uring->wake_fd >= 0)
        close(uring->wake_fd);
    lock_destroy(&uring->lock);
    free(uring);
}

static const struct block_server_ops ops = {submit, uring_free};

static void *map(struct uring *uring, size_t size, off_t what)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, uring->fd, what);

    return p == MAP_FAILED ? NULL : p;
}

static int map_rings(struct uring *uring, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(unsigned);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    uint8_t *rings;

    uring->rings_size = MAX(sq, cq);
    uring->rings = rings = map(uring, uring->rings_size, IORING_OFF_SQ_RING);
    uring->sqe = map(uring, p->sq_entries * sizeof(*uring->sqe), IORING_OFF_SQES);
    if (!rings || !uring->sqe)
        return -errno;
    uring->sq_tail = (unsigned *)(void *)(rings + p->sq_off.tail);
    uring->sq_mask = *(unsigned *)(void *)(rings + p->sq_off.ring_mask);
    uring->sq_array = (unsigned *)(void *)(rings + p->sq_off.array);
    uring->cq_head = (unsigned *)(void *)(rings + p->cq_off.head);
    uring->cq_tail = (unsigned *)(void *)(rings + p->cq_off.tail);
    uring->cq_mask = *(unsigned *)(void *)(rings + p->cq_off.ring_mask);
    uring->cqe = (struct io_uring_cqe *)(void *)(rings + p->cq_off.cqes);
    return 0;
}

/* Where the kernel has none, a sandbox forbids it (ENOSYS, EPERM), or locked memory is short (ENOMEM). */
static int set_up(struct uring *uring)
{
    struct io_uring_params params = {0};
    int rc;

    uring->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &params);
    if (uring->fd < 0)
        return -errno;
    if ((params.features & FEATURES_NEEDED) != FEATURES_NEEDED)
        return -ENOSYS;
    rc = map_rings(uring, &params);
    if (rc)
        return rc;
    uring->wake_fd = eventfd(1, EFD_CLOEXEC); /* so that the first read is done at once, as a trial */
    if (uring->wake_fd < 0)
        return -errno;
    listen_for_wakes(uring);
    if (enter(uring) != 1)
        return -errno;
    reap(uring);
    if (uring->listening || !uring->wakes)
        return -ENOSYS;
    rc = block_start_thread(&uring->thread, run, uring);
    uring->started = !rc;
    return rc;
}

struct block_server *block_uring_new(struct block_layer *layer, struct block_listener listener)
{
    struct uring *uring = calloc(1, sizeof(*uring));
    int rc;

    if (!uring)
        return NULL;
    uring->server.ops = &ops;
    uring->layer = layer;
    uring->listener = listener;
    uring->fd = uring->wake_fd = -1;
    uring->awake = true;
    lock_init(&uring->lock, LOCK_BACKEND);
    block_list_init(&uring->waiting);
    rc = set_up(uring);
    if (!rc)
        return &uring->server;
    TRACE(IO, "no io_uring (%s): threads serve disks", strerror(-rc));
    uring_free(&uring->server);
    return NULL;
}
