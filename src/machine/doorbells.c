/*
 * machine/doorbells.c: devices' doorbells (bus/doorbell.h) on an engine that
 * has them: an eventfd each, and one thread that serves them. Not the loop's:
 * a guest that keeps a queue full holds whoever serves it, and the loop is what
 * ends the machine.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine/machine_internal.h"

#define EVENTS 16

struct bell {
    void (*ring)(void *opaque, unsigned number);
    void *opaque;
    unsigned number;
    int fd;
};

struct doorbells {
    struct machine *machine;
    int epoll_fd, stop_fd;
    struct bell **bells;
    unsigned count;
    pthread_t thread;
    bool started;
};

struct doorbells *doorbells_new(struct machine *machine, struct error *err)
{
    struct doorbells *d = calloc(1, sizeof(*d));
    struct epoll_event event = {.events = EPOLLIN};

    if (!d) {
        error_set(err, -ENOMEM, "no memory for doorbells");
        return NULL;
    }
    d->machine = machine;
    d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    d->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->epoll_fd < 0 || d->stop_fd < 0 || epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, d->stop_fd, &event) < 0) {
        error_set(err, -errno, "doorbells: %s", strerror(errno));
        doorbells_free(d);
        return NULL;
    }
    return d;
}

void doorbells_free(struct doorbells *d)
{
    if (!d)
        return;
    for (unsigned i = 0; i < d->count; i++) {
        close(d->bells[i]->fd);
        free(d->bells[i]);
    }
    if (d->epoll_fd >= 0)
        close(d->epoll_fd);
    if (d->stop_fd >= 0)
        close(d->stop_fd);
    free(d->bells);
    free(d);
}

/* --- for the bus ---------------------------------------------------------------------------- */

static int watch(struct doorbells *d, struct bell *bell)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = bell};

    bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (bell->fd < 0)
        return -errno;
    if (epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, bell->fd, &event) < 0) {
        close(bell->fd);
        return -errno;
    }
    return 0;
}

int doorbells_add(void *opaque, void (*ring)(void *bell_opaque, unsigned number), void *bell_opaque, unsigned number)
{
    struct doorbells *d = opaque;
    struct bell *bell = malloc(sizeof(*bell)), **bells = realloc(d->bells, (d->count + 1) * sizeof(*bells));
    int rc;

    if (bells)
        d->bells = bells;
    if (!bell || !bells) {
        free(bell);
        return -ENOMEM;
    }
    *bell = (struct bell){ring, bell_opaque, number, -1};
    rc = watch(d, bell);
    if (rc) {
        free(bell);
        return rc;
    }
    d->bells[d->count] = bell;
    return (int)d->count++;
}

/* If the engine refuses, the guest's writes come the long way. */
void doorbells_place(void *opaque, int number, gpa_t gpa, bool on)
{
    struct doorbells *d = opaque;

    d->machine->engine->doorbell(d->machine->vm, gpa, d->bells[number]->fd, on);
}

/* --- the thread ------------------------------------------------------------------------------- */

static void serve(const struct bell *bell)
{
    uint64_t times;

    if (read(bell->fd, &times, sizeof(times)) == sizeof(times))
        bell->ring(bell->opaque, bell->number);
}

static void *run(void *opaque)
{
    struct doorbells *d = opaque;
    struct epoll_event event[EVENTS];

    for (;;) {
        int n = epoll_wait(d->epoll_fd, event, EVENTS, -1);

        for (int i = 0; i < n; i++) {
            if (!event[i].data.ptr)
                return NULL;
            serve(event[i].data.ptr);
        }
        if (n < 0 && errno != EINTR)
            return NULL;
    }
}

/* With all signals blocked. 0, or an errno. */
int doorbells_start(struct doorbells *d)
{
    int rc = d && d->count ? pthread_create(&d->thread, NULL, run, d) : 0;

    if (d)
        d->started = d->count && !rc;
    return rc;
}

/* The vCPUs have stopped: nobody fills a queue any more. What has been rung for is still done: a guest's last words. */
void doorbells_stop(struct doorbells *d)
{
    const uint64_t one = 1;

    if (!d || !d->started)
        return;
    while (write(d->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    pthread_join(d->thread, NULL);
    d->started = false;
    for (unsigned i = 0; i < d->count; i++)
        serve(d->bells[i]);
}
