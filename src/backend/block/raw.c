/* backend/block/raw.c: a file or block device, byte for byte. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backend/block/block_internal.h"

#define ZEROS   KIB(64)
#define SLOW_NS 1000000  /* longer than a write to the page cache takes, apart from the copying */
#define REST_NS 20000000 /* how long writes are given to other threads after one that took longer */

struct raw {
    struct block_layer layer;
    int fd;
    _Atomic uint64_t slow_until; /* monotonic ns: writes may take their time, so another thread does them */
};

/* --- files ------------------------------------------------------------------------------- */

static int lock_file(int fd, const char *path, bool readonly, struct error *err)
{
    struct flock lock = {.l_type = (short)(readonly ? F_RDLCK : F_WRLCK), .l_whence = SEEK_SET};

    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return error_set(err, -EBUSY, "disk '%s' is in use by another virtual machine%s", path,
                         readonly ? ", which writes to it" : "");
    return error_set(err, -errno, "disk '%s' cannot be locked: %s", path, strerror(errno));
}

int block_file_open(const char *path, bool readonly, struct error *err)
{
    struct stat st;
    int fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK), rc;

    if (fd < 0)
        return error_set(err, -errno, "disk '%s': %s%s", path, strerror(errno),
                         !readonly && (errno == EACCES || errno == EROFS) ? " (to only read it: ,ro or ,scratch)" : "");
    if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
        rc = error_set(err, -EINVAL, "disk '%s' is neither a file nor a block device", path);
    else
        rc = lock_file(fd, path, readonly, err);
    if (!rc)
        return fd;
    close(fd);
    return rc;
}

void block_iov_skip(struct iovec **iov, unsigned *count, uint64_t n)
{
    while (*count && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)++;
        (*count)--;
    }
    if (*count) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
}

int block_file_io(int fd, bool write, uint64_t offset, struct iovec *iov, unsigned count)
{
    block_iov_skip(&iov, &count, 0);
    while (count) {
        ssize_t n = write ? pwritev(fd, iov, (int)count, (off_t)offset) : preadv(fd, iov, (int)count, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        offset += (uint64_t)n;
        block_iov_skip(&iov, &count, (uint64_t)n);
    }
    return 0;
}

static int write_zeros(int fd, uint64_t offset, uint64_t len)
{
    static const uint8_t zeros[ZEROS];

    while (len) {
        struct iovec iov = {(void *)(uintptr_t)zeros, MIN(len, ZEROS)};
        uint64_t piece = iov.iov_len;
        int rc = block_file_io(fd, true, offset, &iov, 1);

        if (rc)
            return rc;
        offset += piece;
        len -= piece;
    }
    return 0;
}

/* Where the file system can do neither, a discard need do nothing. */
int block_file_zero(int fd, uint64_t offset, uint64_t len, bool discard)
{
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) == 0)
        return 0;
    if (errno == ENOSPC || errno == EIO)
        return -errno;
    return discard ? 0 : write_zeros(fd, offset, len);
}

/* --- the layer --------------------------------------------------------------------------- */

static int serve(struct block_layer *layer, struct block_request *request)
{
    int fd = container_of(layer, struct raw, layer)->fd;

    switch (request->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return block_file_io(fd, request->op == BLOCK_WRITE, request->offset, request->iov, request->iov_count);
    case BLOCK_FLUSH:
        return fdatasync(fd) < 0 ? -errno : 0;
    case BLOCK_DISCARD:
    case BLOCK_ZERO:
        return block_file_zero(fd, request->offset, request->len, request->op == BLOCK_DISCARD);
    }
    return -ENOTSUP;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* The page cache takes a write of whole pages in the time of copying it, until the host has too many of them or is out
 * of memory: once that was seen, writes go the long way for a while. */
static int write_now(struct raw *raw, struct block_request *request)
{
    uint64_t began = now_ns(), took;
    int rc;

    if ((request->offset | request->len) % PAGE_SIZE || began < atomic_load(&raw->slow_until))
        return -EAGAIN;
    rc = block_file_io(raw->fd, true, request->offset, request->iov, request->iov_count);
    took = now_ns() - began;
    if (took > SLOW_NS + request->len) /* a byte a nanosecond */
        atomic_store(&raw->slow_until, began + took + REST_NS);
    return rc == -EAGAIN ? -EIO : rc;
}

/* What the page cache has, or takes, is done at once: that is faster than to wake a thread. */
static int try_serve(struct block_layer *layer, struct block_request *request)
{
    struct raw *raw = container_of(layer, struct raw, layer);
    ssize_t n;

    if (request->op == BLOCK_WRITE)
        return write_now(raw, request);
    if (request->op != BLOCK_READ)
        return -EAGAIN;
    n = preadv2(raw->fd, request->iov, (int)request->iov_count, (off_t)request->offset, RWF_NOWAIT);
    return n >= 0 && (uint64_t)n == request->len ? 0 : -EAGAIN;
}

static void raw_close(struct block_layer *layer)
{
    struct raw *raw = container_of(layer, struct raw, layer);

    close(raw->fd);
    free(raw);
}

static const struct block_layer_ops ops = {serve, try_serve, raw_close};

struct block_layer *block_raw_open(const char *path, bool readonly, struct error *err)
{
    struct raw *raw = calloc(1, sizeof(*raw));
    off_t size;

    if (!raw) {
        error_set(err, -ENOMEM, "disk '%s': no memory", path);
        return NULL;
    }
    raw->fd = block_file_open(path, readonly, err);
    if (raw->fd < 0) {
        free(raw);
        return NULL;
    }
    size = lseek(raw->fd, 0, SEEK_END);
    raw->layer = (struct block_layer){&ops, size > 0 ? (uint64_t)size : 0, raw->fd, readonly ? -1 : raw->fd};
    if (size > 0 && size % BLOCK_SECTOR == 0)
        return &raw->layer;
    error_set(err, -EINVAL, "disk '%s' has %lld bytes; a disk has whole sectors of %d, at least one", path,
              (long long)size, BLOCK_SECTOR);
    raw_close(&raw->layer);
    return NULL;
}
