/*
 * backend/block/block.c: a disk: its layers, and the server of its requests.
 */
#include "backend/block/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/block/block_internal.h"
#include "base/lock.h"
#include "base/log.h"

struct block {
    struct block_layer *layer;
    struct block_server *server;
    char *path;
    bool readonly;
    _Atomic int last_error; /* of the last line that was printed: one a kind of trouble is enough */

    struct lock lock;
    pthread_cond_t idle;
    struct block_list submitted; /* until the kick */
    unsigned under_way;          /* submitted or being served */
};

/* --- requests ------------------------------------------------------------------------- */

static const char *const op_names[] = {"a read", "a write", "a flush", "a discard", "writing zeros"};

static const char *reason(int rc)
{
    switch (rc) {
    case -EIO:
        return "input/output error, or the file has become shorter";
    case -ENOENT:
        return "the file has been deleted, and what is written goes with it";
    }
    return strerror(-rc);
}

/* A deleted file would take what the guest has been told is safe along with it. */
static bool vanished(const struct block *block)
{
    struct stat st;

    return block->layer->kept >= 0 && fstat(block->layer->kept, &st) == 0 && S_ISREG(st.st_mode) && !st.st_nlink;
}

static void tell(struct block *block, const struct block_request *request)
{
    if (!request->rc) {
        if (request->op == BLOCK_WRITE && block->last_error != -ENOENT)
            block->last_error = 0;
        return;
    }
    if (block->last_error != request->rc)
        log_error("disk '%s': %s failed at byte %llu: %s; the guest sees an I/O error", block->path,
                  op_names[request->op], (unsigned long long)request->offset, reason(request->rc));
    block->last_error = request->rc;
}

static void finished(void *opaque, struct block_request *request)
{
    struct block *block = opaque;

    tell(block, request);
    request->done(request);
    lock_take(&block->lock);
    if (!--block->under_way)
        pthread_cond_broadcast(&block->idle);
    lock_drop(&block->lock);
}

bool block_submit(struct block *block, struct block_request *request)
{
    const struct block_layer_ops *ops = block->layer->ops;

    request->rc = ops->try_serve ? ops->try_serve(block->layer, request) : -EAGAIN;
    if (request->op == BLOCK_FLUSH && vanished(block))
        request->rc = -ENOENT;
    if (request->rc != -EAGAIN) {
        tell(block, request);
        return true;
    }
    lock_take(&block->lock);
    block_list_add(&block->submitted, request);
    block->under_way++;
    lock_drop(&block->lock);
    return false;
}

void block_kick(struct block *block)
{
    struct block_list list;

    block_list_init(&list);
    lock_take(&block->lock);
    block_list_join(&list, &block->submitted);
    lock_drop(&block->lock);
    if (list.first)
        block->server->ops->submit(block->server, &list);
}

int block_read(struct block *block, uint64_t offset, void *data, uint64_t len)
{
    struct iovec iov = {data, len};
    struct block_request request = {.op = BLOCK_READ, .offset = offset, .len = len, .iov = &iov, .iov_count = 1};

    if (offset > block->layer->size || len > block->layer->size - offset)
        return -EIO;
    return block->layer->ops->serve(block->layer, &request);
}

void block_drain(struct block *block)
{
    lock_take(&block->lock);
    while (block->under_way)
        pthread_cond_wait(&block->idle, &block->lock.mutex);
    lock_drop(&block->lock);
}

/* --- life -------------------------------------------------------------------------------- */

struct block_layer *block_layer_open(const char *path, bool readonly, unsigned depth, struct error *err)
{
    static const char suffix[] = ".overlay";
    size_t len = strlen(path), end = sizeof(suffix) - 1;

    if (len > end && !strcmp(path + len - end, suffix))
        return block_overlay_open(path, readonly, depth, err);
    return block_raw_open(path, readonly, err);
}

static struct block_layer *open_layers(const struct block_config *config, struct error *err)
{
    struct block_layer *layer = block_layer_open(config->path, config->readonly || config->scratch, 0, err), *top;

    if (!layer || !config->scratch)
        return layer;
    top = block_scratch_open(layer, config->path, err);
    if (!top)
        layer->ops->close(layer);
    return top;
}

/* The kernel where a file is all there is to it, else threads. */
static int start_server(struct block *block)
{
    const struct block_listener listener = {finished, block};

    if (block->layer->fd >= 0)
        block->server = block_uring_new(block->layer, listener);
    if (!block->server)
        block->server = block_threads_new(block->layer, listener);
    return block->server ? 0 : -EAGAIN;
}

struct block *block_open(const struct block_config *config, struct error *err)
{
    struct block *block = calloc(1, sizeof(*block));
    int rc;

    if (!block || !(block->path = strdup(config->path))) {
        free(block);
        error_set(err, -ENOMEM, "disk '%s': no memory", config->path);
        return NULL;
    }
    block->readonly = config->readonly;
    block_list_init(&block->submitted);
    lock_init(&block->lock, LOCK_BACKEND);
    pthread_cond_init(&block->idle, NULL);
    block->layer = open_layers(config, err);
    rc = block->layer ? start_server(block) : -EINVAL;
    if (!rc)
        return block;
    if (block->layer)
        error_set(err, rc, "disk '%s': no threads: %s", config->path, strerror(-rc));
    block_close(block);
    return NULL;
}

void block_close(struct block *block)
{
    if (block->server) {
        block_kick(block);
        block_drain(block);
        block->server->ops->free(block->server);
    }
    if (block->layer && !block->readonly) {
        struct block_request flush = {.op = BLOCK_FLUSH};

        flush.rc = vanished(block) ? -ENOENT : block->layer->ops->serve(block->layer, &flush);
        if (flush.rc)
            log_error("disk '%s': what was written last may be lost: %s", block->path, reason(flush.rc));
    }
    if (block->layer)
        block->layer->ops->close(block->layer);
    pthread_cond_destroy(&block->idle);
    lock_destroy(&block->lock);
    free(block->path);
    free(block);
}

uint64_t block_size(const struct block *block)
{
    return block->layer->size;
}

bool block_readonly(const struct block *block)
{
    return block->readonly;
}
