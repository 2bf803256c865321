/*
 * backend/block/block_internal.h: a disk's layers, each of which serves whole
 * requests, on any thread, and blocks; and its server, which has them served
 * while others go on.
 */
#ifndef BACKEND_BLOCK_BLOCK_INTERNAL_H
#define BACKEND_BLOCK_BLOCK_INTERNAL_H

#include <pthread.h>

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
    int fd;   /* a file that holds the layer's bytes and nothing else; -1: it is not so simple */
    int kept; /* the file that is to hold what is written when all is over; -1: nothing is to */
};

/* Requests that wait, oldest first. */
struct block_list {
    struct block_request *first, **last;
};

static inline void block_list_init(struct block_list *list)
{
    list->first = NULL;
    list->last = &list->first;
}

static inline void block_list_add(struct block_list *list, struct block_request *request)
{
    request->next = NULL;
    *list->last = request;
    list->last = &request->next;
}

static inline struct block_request *block_list_take(struct block_list *list)
{
    struct block_request *request = list->first;

    if (request && !(list->first = request->next))
        list->last = &list->first;
    return request;
}

/* Moves all of `from` to the end of `to`. */
static inline void block_list_join(struct block_list *to, struct block_list *from)
{
    if (!from->first)
        return;
    *to->last = from->first;
    to->last = from->last;
    block_list_init(from);
}

/* Told of each request that has been served, rc set, on a thread of the server's with no lock held. */
struct block_listener {
    void (*finished)(void *opaque, struct block_request *request);
    void *opaque;
};

struct block_server;
struct block_server_ops {
    void (*submit)(struct block_server *server, struct block_list *list); /* empties the list; any thread */
    void (*free)(struct block_server *server);                            /* nothing waits or is under way */
};
struct block_server {
    const struct block_server_ops *ops;
};

/* NULL: that cannot be had here. */
struct block_server *block_threads_new(struct block_layer *layer, struct block_listener listener);
struct block_server *block_uring_new(struct block_layer *layer, struct block_listener listener); /* layer->fd >= 0 */

/* pthread_create, all signals blocked. 0 or a negative errno. */
int block_start_thread(pthread_t *thread, void *(*fn)(void *), void *opaque);

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
