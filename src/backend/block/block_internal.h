/* backend/block/block_internal.h: a disk's layers: each serves whole requests, on any thread, and blocks. */
#ifndef BACKEND_BLOCK_BLOCK_INTERNAL_H
#define BACKEND_BLOCK_BLOCK_INTERNAL_H

#include "backend/block/block.h"

#define BLOCK_DEPTH_MAX 16 /* overlays over overlays */

struct block_layer;

struct block_layer_ops {
    int (*serve)(struct block_layer *layer, struct block_request *request);
    /* Only if that takes no waiting, else -EAGAIN with the request untouched. NULL: never. */
    int (*try_serve)(struct block_layer *layer, struct block_request *request);
    void (*close)(struct block_layer *layer);
};

struct block_layer {
    const struct block_layer_ops *ops;
    uint64_t size;
};

/* depth: how many overlays lie above. */
struct block_layer *block_layer_open(const char *path, bool readonly, unsigned depth, struct error *err);
struct block_layer *block_raw_open(const char *path, bool readonly, struct error *err);
struct block_layer *block_overlay_open(const char *path, bool readonly, unsigned depth, struct error *err);
struct block_layer *block_scratch_open(struct block_layer *base, const char *path, struct error *err);

/* Opens a file or block device, locked against others: -EAGAIN-like conflicts get a message of their own. */
int block_file_open(const char *path, bool readonly, struct error *err);
/* All of iov from or to `offset`. 0 or a negative errno; -EIO: the file ended. */
int block_file_io(int fd, bool write, uint64_t offset, struct iovec *iov, unsigned count);
int block_file_zero(int fd, uint64_t offset, uint64_t len, bool discard);

/* Moves an iovec past its first `n` bytes. */
void block_iov_skip(struct iovec **iov, unsigned *count, uint64_t n);

#endif
