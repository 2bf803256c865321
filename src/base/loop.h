/*
 * base/loop.h: the event loop: file descriptors, virtual-clock timers and
 * calls from other threads. One thread runs it; it owns devices' and
 * backends' asynchronous work.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stdint.h>

#include "base/types.h"
#include "base/vclock.h"

struct loop;

struct loop *loop_new(struct vclock *clock); /* NULL: errno says why */
void loop_free(struct loop *loop);
struct vclock *loop_clock(struct loop *loop);

/* Runs until loop_stop. Called by one thread. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop); /* any thread, async-signal-safe */
/* Runs what is due now (timers, ready descriptors) and returns: tests, lockstep. */
void loop_poll(struct loop *loop);

/* A timer on the VM's virtual clock. Callbacks run in the loop's thread. */
struct timer {
    struct loop *loop;
    void (*fn)(void *opaque);
    void *opaque;
    uint64_t deadline_ns; /* UINT64_MAX: not armed */
    struct timer *next;
};

void timer_init(struct timer *timer, struct loop *loop, void (*fn)(void *opaque), void *opaque);
/* Arms (or moves) the timer for virtual time ns; any thread. In the past: as soon as possible. */
void timer_arm(struct timer *timer, uint64_t ns);
/* Any thread; a callback that has begun may still be running when this returns. */
void timer_cancel(struct timer *timer);

/* Watches fd; events as poll(2)'s POLLIN | POLLOUT, or POLLERR for errors and hang-up alone, which fn gets in any case.
 * 0: stop watching. A regular file is always ready. Loop's thread, or before it runs. Returns 0 or a negative errno. */
int loop_watch_fd(struct loop *loop, int fd, short events, void (*fn)(void *opaque, short revents), void *opaque);

#endif
