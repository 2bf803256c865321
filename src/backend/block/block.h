/*
 * backend/block/block.h: what a disk's bytes are in: a raw file or device, or
 * an overlay over another (docs/overlay.md). Requests are carried out by the
 * kernel (io_uring) or threads of the disk's, and may complete in any order; a
 * flush makes durable whatever had completed before it was submitted.
 */
#ifndef BACKEND_BLOCK_BLOCK_H
#define BACKEND_BLOCK_BLOCK_H

#include <sys/uio.h>

#include "base/error.h"
#include "base/types.h"

#define BLOCK_SECTOR 512

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,
    BLOCK_DISCARD, /* the content is of no more use */
    BLOCK_ZERO,    /* reads as zeros from now on; room for it may stay reserved */
};

struct block_request {
    enum block_op op;
    uint64_t offset, len; /* bytes, whole sectors within the disk; the sum of iov's lengths; changed on the way */
    struct iovec *iov;    /* BLOCK_READ, BLOCK_WRITE; changed on the way */
    unsigned iov_count;
    int rc;                                      /* 0 or a negative errno */
    void (*done)(struct block_request *request); /* on a thread of the disk's, with no lock held */
    struct block_request *next;
};

struct block;

struct block_config {
    const char *path;
    bool readonly;
    bool scratch; /* writes go to a throw-away overlay; the file is not changed */
};

/* Opens and locks: for this VM alone, or, if it is only read, for readers alone. NULL with one line for the user. A
 * file is an overlay if its name ends in ".overlay", never because of what is in it: that is the guest's. */
struct block *block_open(const struct block_config *config, struct error *err);
/* Waits for what is under way, and makes it durable. */
void block_close(struct block *block);

uint64_t block_size(const struct block *block); /* bytes, whole sectors */
bool block_readonly(const struct block *block);

/* A request; any thread. True: it is done already, rc is set and done() is not called. False: it begins with the next
 * block_kick(), together with others. */
bool block_submit(struct block *block, struct block_request *request);
void block_kick(struct block *block);
/* Reads at once, for who has no VM running: any bytes within the disk. 0 or a negative errno. */
int block_read(struct block *block, uint64_t offset, void *data, uint64_t len);
/* Waits until nothing is under way. The caller submits nothing meanwhile. */
void block_drain(struct block *block);

/* Makes an empty overlay `path` over `base`, which stays as it is from then on. 0, or a negative errno with a line for
 * the user. */
int block_create_overlay(const char *base, const char *path, struct error *err);

#endif
