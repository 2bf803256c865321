/*
 * backend/block/overlay.c: what was written over a disk that stays as it is.
 *
 * A bitmap says for each piece of 4 KiB whether the overlay has it; the data
 * lies in a sparse file at the same distance as on the disk, so there is no
 * table to be looked up, moved or damaged (docs/overlay.md). The file of a
 * lasting overlay has the bitmap in it; a scratch overlay's file has no name
 * and its bitmap is in memory alone.
 *
 * Order on stable storage: data, then the bits that point to it. So bits go to
 * the file only in a flush, between two fdatasync: whatever moment the machine
 * dies at, a piece is the old one or the new one.
 *
 * The file is a stranger's: everything in its header is checked.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/block_internal.h"
#include "base/lock.h"

#define PIECE       4096ull
#define SIZE_MAX_   (1ull << 46) /* 64 TiB: a bitmap of 2 GiB */
#define MAGIC       "TRPZOVL"
#define VERSION     1
#define HEADER_SIZE 4096

struct header {
    char magic[8];
    uint32_t version, piece;
    uint64_t size;               /* bytes of the disk; the base's too */
    uint64_t bitmap, data;       /* where they begin, multiples of PIECE */
    char base[HEADER_SIZE - 40]; /* path, NUL-terminated; a relative one is from the overlay's folder */
};
_Static_assert(sizeof(struct header) == HEADER_SIZE, "overlay header");

struct overlay {
    struct block_layer layer;
    struct block_layer *base;
    int fd;
    uint64_t data; /* offset in the file */
    bool lasting;
    uint64_t bitmap_offset, words;

    struct lock lock; /* pieces that begin to exist; the flush */
    _Atomic uint64_t *bitmap;
    uint8_t *dirty; /* a byte a page of the bitmap: to be written with the next flush */
};

static uint64_t bitmap_words(uint64_t size)
{
    return ALIGN_UP((size + PIECE - 1) / PIECE, 512 * 64) / 64; /* whole pages of the file */
}

/* --- the bitmap ------------------------------------------------------------------------------ */

static bool present(struct overlay *overlay, uint64_t piece)
{
    return atomic_load_explicit(&overlay->bitmap[piece / 64], memory_order_acquire) & BIT(piece % 64);
}

/* Lock held. */
static void set_present(struct overlay *overlay, uint64_t piece)
{
    atomic_fetch_or(&overlay->bitmap[piece / 64], BIT(piece % 64));
    overlay->dirty[piece / 64 / 512] = 1;
}

static int write_bitmap(struct overlay *overlay)
{
    for (uint64_t page = 0; page < overlay->words / 512; page++) {
        struct iovec iov = {(void *)(uintptr_t)&overlay->bitmap[page * 512], PIECE};
        int rc;

        if (!overlay->dirty[page])
            continue;
        rc = block_file_io(overlay->fd, true, overlay->bitmap_offset + page * PIECE, &iov, 1);
        if (rc)
            return rc;
        overlay->dirty[page] = 0;
    }
    return 0;
}

static bool any_dirty(const struct overlay *overlay)
{
    return memchr(overlay->dirty, 1, overlay->words / 512);
}

static int flush(struct overlay *overlay)
{
    int rc = 0;

    if (!overlay->lasting)
        return 0;
    if (fdatasync(overlay->fd) < 0)
        return -errno;
    lock_take(&overlay->lock);
    if (any_dirty(overlay)) {
        /* Bits that were set since the sync point to data that may be on its way: sync once more under the lock. */
        rc = fdatasync(overlay->fd) < 0 ? -errno : write_bitmap(overlay);
        if (!rc && fdatasync(overlay->fd) < 0)
            rc = -errno;
    }
    lock_drop(&overlay->lock);
    return rc;
}

/* --- reading and writing ------------------------------------------------------------------------ */

/* The first `len` bytes of a request's buffers, at most, as a vector of its own. */
static unsigned clip(struct iovec *out, const struct iovec *iov, unsigned count, uint64_t len)
{
    unsigned n = 0;

    for (; n < count && len; n++) {
        out[n] = iov[n];
        out[n].iov_len = MIN(iov[n].iov_len, len);
        len -= out[n].iov_len;
    }
    return n;
}

static int base_read(struct overlay *overlay, uint64_t offset, uint64_t len, struct iovec *iov, unsigned count)
{
    struct block_request request = {.op = BLOCK_READ, .offset = offset, .len = len, .iov = iov, .iov_count = count};

    return overlay->base->ops->serve(overlay->base, &request);
}

static int data_io(struct overlay *overlay, bool write, uint64_t offset, struct iovec *iov, unsigned count)
{
    return block_file_io(overlay->fd, write, overlay->data + offset, iov, count);
}

/* A run of pieces that are all there, or all not: its end, at most `end`. */
static uint64_t run_end(struct overlay *overlay, uint64_t offset, uint64_t end, bool *there)
{
    uint64_t piece = offset / PIECE;

    *there = present(overlay, piece);
    do
        piece++;
    while (piece * PIECE < end && present(overlay, piece) == *there);
    return MIN(piece * PIECE, end);
}

/* Part of a piece that is not there yet: the rest comes from the base. Lock held. */
static int write_part(struct overlay *overlay, uint64_t offset, uint64_t len, const struct iovec *iov, unsigned count)
{
    uint8_t buffer[PIECE];
    uint64_t start = ALIGN_DOWN(offset, PIECE), whole = MIN(PIECE, overlay->layer.size - start);
    uint8_t *to = buffer + (offset - start);
    struct iovec all = {buffer, whole};
    int rc = base_read(overlay, start, whole, &all, 1);

    if (rc)
        return rc;
    for (unsigned i = 0; i < count && len; i++) {
        uint64_t piece = MIN(len, iov[i].iov_len);

        if (piece)
            memcpy(to, iov[i].iov_base, piece);
        to += piece;
        len -= piece;
    }
    all = (struct iovec){buffer, whole};
    rc = data_io(overlay, true, start, &all, 1);
    if (!rc)
        set_present(overlay, start / PIECE);
    return rc;
}

/* Whole pieces that are not there yet. Lock held, so that no part of one of them is filled in meanwhile. */
static int write_whole(struct overlay *overlay, uint64_t offset, uint64_t len, struct iovec *iov, unsigned count)
{
    int rc = data_io(overlay, true, offset, iov, count);

    for (uint64_t at = offset; !rc && at < offset + len; at += PIECE)
        set_present(overlay, at / PIECE);
    return rc;
}

/* One step: the bytes from offset to the returned end, which is a piece's or the request's. */
static uint64_t write_end(struct overlay *overlay, uint64_t offset, uint64_t end, bool *there, bool *whole)
{
    uint64_t next = ALIGN_DOWN(offset, PIECE) + PIECE;

    *there = present(overlay, offset / PIECE);
    *whole = offset % PIECE == 0 && (next <= end || end == overlay->layer.size);
    if (!*whole)
        return MIN(next, end);
    while (next + PIECE <= end && present(overlay, next / PIECE) == *there)
        next += PIECE;
    return MIN(next, end);
}

static int write_step(struct overlay *overlay, uint64_t *offset, uint64_t end, const struct iovec *iov, unsigned count,
                      struct iovec *clipped)
{
    bool there, whole;
    uint64_t stop;
    unsigned n;
    int rc;

    lock_take(&overlay->lock);
    stop = write_end(overlay, *offset, end, &there, &whole);
    n = clip(clipped, iov, count, stop - *offset);
    if (there)
        lock_drop(&overlay->lock);
    rc = there   ? data_io(overlay, true, *offset, clipped, n)
         : whole ? write_whole(overlay, *offset, stop - *offset, clipped, n)
                 : write_part(overlay, *offset, stop - *offset, clipped, n);
    if (!there)
        lock_drop(&overlay->lock);
    *offset = stop;
    return rc;
}

static int transfer(struct overlay *overlay, struct block_request *request)
{
    struct iovec *clipped = calloc(request->iov_count + 1, sizeof(*clipped)), *iov = request->iov;
    uint64_t offset = request->offset, end = offset + request->len;
    unsigned count = request->iov_count;
    int rc = clipped ? 0 : -ENOMEM;

    while (!rc && offset < end) {
        uint64_t start = offset;

        if (request->op == BLOCK_WRITE) {
            rc = write_step(overlay, &offset, end, iov, count, clipped);
        } else {
            bool there;
            unsigned n;

            offset = run_end(overlay, start, end, &there);
            n = clip(clipped, iov, count, offset - start);
            rc = there ? data_io(overlay, false, start, clipped, n)
                       : base_read(overlay, start, offset - start, clipped, n);
        }
        block_iov_skip(&iov, &count, offset - start);
    }
    free(clipped);
    return rc;
}

/* --- zeros ---------------------------------------------------------------------------------------- */

static int zero_step(struct overlay *overlay, uint64_t *offset, uint64_t end)
{
    static const uint8_t zeros[PIECE];
    uint64_t start = *offset, stop = MIN(ALIGN_DOWN(start, PIECE) + PIECE, end);
    const struct iovec part = {(void *)(uintptr_t)zeros, stop - start};
    int rc;

    if (present(overlay, start / PIECE))
        rc = block_file_zero(overlay->fd, overlay->data + start, stop - start, false);
    else
        rc = write_part(overlay, start, stop - start, &part, 1);
    *offset = stop;
    return rc;
}

/* Whole pieces become a hole that is there; a hole reads as zeros. */
static int zero(struct overlay *overlay, const struct block_request *request)
{
    uint64_t offset = request->offset, end = offset + request->len;
    uint64_t first = ALIGN_UP(offset, PIECE), last = ALIGN_DOWN(end, PIECE);
    int rc = 0;

    lock_take(&overlay->lock);
    while (!rc && offset < MIN(first, end))
        rc = zero_step(overlay, &offset, MIN(first, end));
    if (!rc && first < last) {
        rc = block_file_zero(overlay->fd, overlay->data + first, last - first, false);
        for (uint64_t at = first; !rc && at < last; at += PIECE)
            set_present(overlay, at / PIECE);
        offset = last;
    }
    while (!rc && offset < end)
        rc = zero_step(overlay, &offset, end);
    lock_drop(&overlay->lock);
    return rc;
}

static int serve(struct block_layer *layer, struct block_request *request)
{
    struct overlay *overlay = container_of(layer, struct overlay, layer);

    switch (request->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return transfer(overlay, request);
    case BLOCK_FLUSH:
        return flush(overlay);
    case BLOCK_DISCARD:
    case BLOCK_ZERO:
        return zero(overlay, request);
    }
    return -ENOTSUP;
}

/* --- opening --------------------------------------------------------------------------------------- */

static void overlay_close(struct block_layer *layer)
{
    struct overlay *overlay = container_of(layer, struct overlay, layer);

    if (overlay->base)
        overlay->base->ops->close(overlay->base);
    if (overlay->fd >= 0)
        close(overlay->fd);
    lock_destroy(&overlay->lock);
    free(overlay->bitmap);
    free(overlay->dirty);
    free(overlay);
}

static const struct block_layer_ops ops = {serve, NULL, overlay_close};

static struct overlay *overlay_alloc(uint64_t size, const char *path, struct error *err)
{
    struct overlay *overlay = calloc(1, sizeof(*overlay));

    if (overlay) {
        overlay->layer = (struct block_layer){&ops, size, -1, -1};
        overlay->fd = -1;
        overlay->words = bitmap_words(size);
        lock_init(&overlay->lock, LOCK_OVERLAY);
        overlay->bitmap = calloc(overlay->words, sizeof(*overlay->bitmap));
        overlay->dirty = calloc(overlay->words / 512, 1);
        if (overlay->bitmap && overlay->dirty)
            return overlay;
        overlay_close(&overlay->layer);
    }
    error_set(err, -ENOMEM, "disk '%s': no memory", path);
    return NULL;
}

/* In the disk's own folder if that can be written to: there is room where the disk is; else in TMPDIR. */
static int nameless_file(const char *path)
{
    char copy[PATH_MAX];
    const char *tmp = getenv("TMPDIR");
    int fd;

    snprintf(copy, sizeof(copy), "%s", path);
    fd = open(dirname(copy), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    return fd >= 0 ? fd : open(tmp && *tmp ? tmp : "/var/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
}

struct block_layer *block_scratch_open(struct block_layer *base, const char *path, struct error *err)
{
    struct overlay *overlay = overlay_alloc(base->size, path, err);

    if (!overlay)
        return NULL;
    overlay->fd = nameless_file(path);
    if (overlay->fd < 0 || ftruncate(overlay->fd, (off_t)base->size) < 0) {
        error_set(err, -errno, "disk '%s': no place for its scratch overlay: %s", path, strerror(errno));
        overlay_close(&overlay->layer);
        return NULL;
    }
    overlay->base = base;
    return &overlay->layer;
}

static int read_header(int fd, struct header *header, const char *path, struct error *err)
{
    struct iovec iov = {header, sizeof(*header)};
    int rc = block_file_io(fd, false, 0, &iov, 1);
    uint64_t bitmap_bytes;

    if (rc || memcmp(header->magic, MAGIC, sizeof(MAGIC)))
        return error_set(err, -EINVAL, "disk '%s' is named .overlay, but is none", path);
    if (header->version != VERSION)
        return error_set(err, -EINVAL, "overlay '%s' has version %u; this program knows %d", path, header->version,
                         VERSION);
    bitmap_bytes = header->size <= SIZE_MAX_ ? bitmap_words(header->size) * 8 : 0;
    if (header->piece != PIECE || !header->size || header->size % BLOCK_SECTOR || !bitmap_bytes ||
        header->bitmap % PIECE || header->data % PIECE || header->bitmap < HEADER_SIZE ||
        header->bitmap > header->data || header->data - header->bitmap < bitmap_bytes || header->data > SIZE_MAX_ ||
        !memchr(header->base, 0, sizeof(header->base)))
        return error_set(err, -EINVAL, "overlay '%s' is damaged: its header makes no sense", path);
    return 0;
}

static struct block_layer *open_base(const char *path, const struct header *header, unsigned depth, struct error *err)
{
    char copy[PATH_MAX], full[2 * PATH_MAX];
    struct block_layer *base;

    if (depth >= BLOCK_DEPTH_MAX) {
        error_set(err, -ELOOP, "overlay '%s': more than %d overlays, one over another", path, BLOCK_DEPTH_MAX);
        return NULL;
    }
    snprintf(copy, sizeof(copy), "%s", path);
    if (*header->base == '/')
        snprintf(full, sizeof(full), "%s", header->base);
    else
        snprintf(full, sizeof(full), "%s/%s", dirname(copy), header->base);
    base = block_layer_open(full, true, depth + 1, err);
    if (!base || base->size == header->size)
        return base;
    error_set(err, -EINVAL, "overlay '%s': its base '%s' has %llu bytes now, it had %llu", path, full,
              (unsigned long long)base->size, (unsigned long long)header->size);
    base->ops->close(base);
    return NULL;
}

static int load(struct overlay *overlay, const struct header *header, const char *path, struct error *err)
{
    struct iovec iov = {(void *)(uintptr_t)overlay->bitmap, overlay->words * 8};
    off_t end = lseek(overlay->fd, 0, SEEK_END);

    overlay->data = header->data;
    overlay->bitmap_offset = header->bitmap;
    overlay->lasting = true;
    if (end < 0 || (uint64_t)end < header->data + header->size ||
        block_file_io(overlay->fd, false, header->bitmap, &iov, 1))
        return error_set(err, -EINVAL, "overlay '%s' is damaged: it is too short", path);
    return 0;
}

struct block_layer *block_overlay_open(const char *path, bool readonly, unsigned depth, struct error *err)
{
    int fd = block_file_open(path, readonly, err);
    struct overlay *overlay;
    struct header header;

    if (fd < 0)
        return NULL;
    if (read_header(fd, &header, path, err) || !(overlay = overlay_alloc(header.size, path, err))) {
        close(fd);
        return NULL;
    }
    overlay->fd = fd;
    overlay->layer.kept = readonly ? -1 : fd;
    if (!load(overlay, &header, path, err) && (overlay->base = open_base(path, &header, depth, err)))
        return &overlay->layer;
    overlay_close(&overlay->layer);
    return NULL;
}

/* --- making ---------------------------------------------------------------------------------------- */

/* The base as the overlay will name it: relative if both are in one folder, so that they can be moved together. */
static int base_name(const char *base, const char *path, char *name, size_t size, struct error *err)
{
    char full[PATH_MAX], folder[PATH_MAX], copy[PATH_MAX];
    size_t len;

    snprintf(copy, sizeof(copy), "%s", path);
    if (!realpath(base, full))
        return error_set(err, -errno, "disk '%s': %s", base, strerror(errno));
    if (!realpath(dirname(copy), folder))
        return error_set(err, -errno, "overlay '%s': %s", path, strerror(errno));
    len = strlen(folder);
    if (!strncmp(full, folder, len) && full[len] == '/' && !strchr(full + len + 1, '/'))
        memmove(full, full + len + 1, strlen(full + len + 1) + 1);
    if ((size_t)snprintf(name, size, "%s", full) >= size)
        return error_set(err, -ENAMETOOLONG, "disk '%s': the path is too long for an overlay", base);
    return 0;
}

static int write_overlay(int fd, struct header *header)
{
    struct iovec iov = {header, sizeof(*header)};
    int rc = ftruncate(fd, (off_t)(header->data + header->size)) < 0 ? -errno : 0;

    if (!rc)
        rc = block_file_io(fd, true, 0, &iov, 1);
    return rc || fsync(fd) == 0 ? rc : -errno;
}

int block_create_overlay(const char *base, const char *path, struct error *err)
{
    struct header header = {.magic = MAGIC, .version = VERSION, .piece = PIECE, .bitmap = HEADER_SIZE};
    struct block_layer *layer;
    size_t len = strlen(path);
    int fd, rc;

    if (len <= 8 || strcmp(path + len - 8, ".overlay"))
        return error_set(err, -EINVAL, "'%s': an overlay's name ends in .overlay", path);
    layer = block_layer_open(base, true, 1, err);
    if (!layer)
        return -EINVAL;
    header.size = layer->size;
    header.data = HEADER_SIZE + bitmap_words(header.size) * 8;
    layer->ops->close(layer);
    if (header.size > SIZE_MAX_)
        return error_set(err, -EFBIG, "disk '%s' is larger than an overlay can be", base);
    rc = base_name(base, path, header.base, sizeof(header.base), err);
    if (rc)
        return rc;
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_set(err, -errno, "overlay '%s': %s", path, strerror(errno));
    rc = write_overlay(fd, &header);
    close(fd);
    if (!rc)
        return 0;
    unlink(path);
    return error_set(err, rc, "overlay '%s': %s", path, strerror(-rc));
}
