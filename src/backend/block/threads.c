/* backend/block/threads.c: a server of four threads, each of which carries out one request after another. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "backend/block/block_internal.h"
#include "base/lock.h"

#define THREADS 4

struct threads {
    struct block_server server;
    struct block_layer *layer;
    struct block_listener listener;

    struct lock lock;
    pthread_cond_t work;
    struct block_list waiting;
    bool closing;
    pthread_t thread[THREADS];
    unsigned count;
};

static void *run(void *opaque)
{
    struct threads *threads = opaque;
    struct block_request *request;

    lock_take(&threads->lock);
    for (;;) {
        while (!threads->waiting.first && !threads->closing)
            pthread_cond_wait(&threads->work, &threads->lock.mutex);
        request = block_list_take(&threads->waiting);
        if (!request)
            break;
        lock_drop(&threads->lock);
        request->rc = threads->layer->ops->serve(threads->layer, request);
        threads->listener.finished(threads->listener.opaque, request);
        lock_take(&threads->lock);
    }
    lock_drop(&threads->lock);
    return NULL;
}

static void submit(struct block_server *server, struct block_list *list)
{
    struct threads *threads = container_of(server, struct threads, server);
    bool several = list->first && list->first->next;

    lock_take(&threads->lock);
    block_list_join(&threads->waiting, list);
    if (several)
        pthread_cond_broadcast(&threads->work);
    else
        pthread_cond_signal(&threads->work);
    lock_drop(&threads->lock);
}

static void threads_free(struct block_server *server)
{
    struct threads *threads = container_of(server, struct threads, server);

    lock_take(&threads->lock);
    threads->closing = true;
    pthread_cond_broadcast(&threads->work);
    lock_drop(&threads->lock);
    for (unsigned i = 0; i < threads->count; i++)
        pthread_join(threads->thread[i], NULL);
    pthread_cond_destroy(&threads->work);
    lock_destroy(&threads->lock);
    free(threads);
}

static const struct block_server_ops ops = {submit, threads_free};

int block_start_thread(pthread_t *thread, void *(*fn)(void *), void *opaque)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(thread, NULL, fn, opaque);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rc;
}

struct block_server *block_threads_new(struct block_layer *layer, struct block_listener listener)
{
    struct threads *threads = calloc(1, sizeof(*threads));

    if (!threads)
        return NULL;
    threads->server.ops = &ops;
    threads->layer = layer;
    threads->listener = listener;
    lock_init(&threads->lock, LOCK_BACKEND);
    pthread_cond_init(&threads->work, NULL);
    block_list_init(&threads->waiting);
    while (threads->count < THREADS && !block_start_thread(&threads->thread[threads->count], run, threads))
        threads->count++;
    if (threads->count) /* fewer will do */
        return &threads->server;
    threads_free(&threads->server);
    return NULL;
}
