/*
 * backend/block/block.c: a disk: its layers, and the threads that serve its
 * requests.
 */
#include "backend/block/block.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "backend/block/block_internal.h"
#include "base/lock.h"
#include "base/log.h"

#define THREADS 4

struct block {
    struct block_layer *layer;
    char *path;
    bool readonly;
    _Atomic int last_error; /* of the last line that was printed: one a kind of trouble is enough */

    struct lock lock;
    pthread_cond_t work, idle;
    struct block_request *first, **last;
    unsigned under_way; /* queued or being served */
    bool closing;
    pthread_t thread[THREADS];
    unsigned threads;
};

/* --- the threads ------------------------------------------------------------------------- */

static const char *const op_names[] = {"a read", "a write", "a flush", "a discard", "writing zeros"};

static void tell(struct block *block, const struct block_request *request)
{
    if (!request->rc) {
        if (request->op == BLOCK_WRITE)
            block->last_error = 0;
        return;
    }
    if (block->last_error != request->rc)
        log_error("disk '%s': %s failed at byte %llu: %s; the guest sees an I/O error", block->path,
                  op_names[request->op], (unsigned long long)request->offset,
                  request->rc == -EIO ? "input/output error, or the file has become shorter" : strerror(-request->rc));
    block->last_error = request->rc;
}

static struct block_request *take(struct block *block)
{
    struct block_request *request;

    while (!block->first && !block->closing)
        pthread_cond_wait(&block->work, &block->lock.mutex);
    request = block->first;
    if (request) {
        block->first = request->next;
        if (!block->first)
            block->last = &block->first;
    }
    return request;
}

static void *serve_requests(void *opaque)
{
    struct block *block = opaque;
    struct block_request *request;

    lock_take(&block->lock);
    while ((request = take(block))) {
        lock_drop(&block->lock);
        request->rc = block->layer->ops->serve(block->layer, request);
        tell(block, request);
        request->done(request);
        lock_take(&block->lock);
        if (!--block->under_way)
            pthread_cond_broadcast(&block->idle);
    }
    lock_drop(&block->lock);
    return NULL;
}

/* Signals are the main thread's. */
static int start_threads(struct block *block)
{
    sigset_t all, old;
    int rc = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (block->threads < THREADS && !rc) {
        rc = pthread_create(&block->thread[block->threads], NULL, serve_requests, block);
        block->threads += !rc;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return block->threads ? 0 : -rc; /* fewer will do */
}

bool block_submit(struct block *block, struct block_request *request)
{
    const struct block_layer_ops *ops = block->layer->ops;

    if (ops->try_serve) {
        request->rc = ops->try_serve(block->layer, request);
        if (request->rc != -EAGAIN)
            return true;
    }
    request->next = NULL;
    lock_take(&block->lock);
    *block->last = request;
    block->last = &request->next;
    block->under_way++;
    pthread_cond_signal(&block->work);
    lock_drop(&block->lock);
    return false;
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
    block->last = &block->first;
    lock_init(&block->lock, LOCK_BACKEND);
    pthread_cond_init(&block->work, NULL);
    pthread_cond_init(&block->idle, NULL);
    block->layer = open_layers(config, err);
    rc = block->layer ? start_threads(block) : -EINVAL;
    if (!rc)
        return block;
    if (block->layer)
        error_set(err, rc, "disk '%s': no threads: %s", config->path, strerror(-rc));
    block_close(block);
    return NULL;
}

void block_close(struct block *block)
{
    lock_take(&block->lock);
    block->closing = true;
    pthread_cond_broadcast(&block->work);
    lock_drop(&block->lock);
    for (unsigned i = 0; i < block->threads; i++)
        pthread_join(block->thread[i], NULL);
    if (block->layer && !block->readonly) {
        struct block_request flush = {.op = BLOCK_FLUSH};

        flush.rc = block->layer->ops->serve(block->layer, &flush);
        tell(block, &flush);
    }
    if (block->layer)
        block->layer->ops->close(block->layer);
    pthread_cond_destroy(&block->work);
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
