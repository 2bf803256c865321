/* tests/unit/test_loop.c: base/loop.h and base/lock.h. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/lock.h"
#include "base/loop.h"

#define MS 1000000ull

struct counted {
    struct loop *loop;
    struct timer timer, *cancel;
    unsigned calls;
    uint64_t again, at;
    int fd;
    bool stop;
};

static void count(void *opaque)
{
    struct counted *c = opaque;

    c->calls++;
    c->at = vclock_ns(loop_clock(c->loop));
    if (c->again)
        timer_arm(&c->timer, c->at + c->again);
    if (c->cancel)
        timer_cancel(c->cancel);
    if (c->stop)
        loop_stop(c->loop);
}

static void counted_init(struct counted *c, struct loop *loop)
{
    *c = (struct counted){.loop = loop};
    timer_init(&c->timer, loop, count, c);
}

static void test_timers(void **state)
{
    struct vclock *clock = vclock_new_manual(1000000000);
    struct loop *loop = loop_new(clock);
    struct counted a, b, c;

    counted_init(&a, loop);
    counted_init(&b, loop);
    counted_init(&c, loop);
    timer_arm(&a.timer, 100);
    timer_arm(&b.timer, 50);
    timer_arm(&c.timer, 0);
    loop_poll(loop);
    assert_int_equal(a.calls + b.calls, 0);
    assert_int_equal(c.calls, 1);
    vclock_advance_ns(clock, 49);
    loop_poll(loop);
    assert_int_equal(b.calls, 0);
    vclock_advance_ns(clock, 1);
    loop_poll(loop);
    assert_int_equal(b.calls, 1);
    assert_int_equal(a.calls, 0);
    timer_arm(&a.timer, 1000); /* later */
    vclock_advance_ns(clock, 500);
    loop_poll(loop);
    assert_int_equal(a.calls, 0);
    timer_arm(&a.timer, 10); /* past */
    loop_poll(loop);
    assert_int_equal(a.calls, 1);
    timer_arm(&a.timer, 600);
    timer_cancel(&a.timer);
    timer_cancel(&a.timer);
    timer_arm(&b.timer, 600);
    timer_arm(&b.timer, UINT64_MAX); /* never */
    vclock_advance_ns(clock, 1000);
    loop_poll(loop);
    assert_int_equal(a.calls, 1);
    assert_int_equal(b.calls, 1);

    /* one due timer cancels the other; one always due again does not hold the loop */
    timer_arm(&a.timer, 1600);
    timer_arm(&b.timer, 1601);
    a.cancel = &b.timer;
    vclock_advance_ns(clock, 1000);
    loop_poll(loop);
    assert_int_equal(a.calls, 2);
    assert_int_equal(b.calls, 1);
    loop_free(loop);
    vclock_free(clock);
}

static void again_at_once(void *opaque)
{
    struct counted *c = opaque;

    c->calls++;
    timer_arm(&c->timer, 0);
}

static void test_always_due(void **state)
{
    struct vclock *clock = vclock_new_manual(1000000000);
    struct loop *loop = loop_new(clock);
    struct counted c = {.loop = loop};

    timer_init(&c.timer, loop, again_at_once, &c);
    timer_arm(&c.timer, 0);
    loop_poll(loop);
    assert_in_range(c.calls, 1, 1000);
    timer_cancel(&c.timer);
    loop_free(loop);
    vclock_free(clock);
}

static void take_byte(void *opaque, short revents)
{
    struct counted *c = opaque;
    char byte;

    assert_true(revents & (POLLIN | POLLHUP));
    if (read(c->fd, &byte, 1) == 1)
        c->calls++;
    else
        loop_watch_fd(c->loop, c->fd, 0, NULL, NULL);
}

static void test_fds(void **state)
{
    struct vclock *clock = vclock_new_manual(1000000000);
    struct loop *loop = loop_new(clock);
    struct counted c = {.loop = loop};
    char path[] = "/tmp/trapeze-loop-XXXXXX";
    int pipes[2], file;

    assert_int_equal(pipe(pipes), 0);
    c.fd = pipes[0];
    assert_int_equal(loop_watch_fd(loop, c.fd, POLLIN, take_byte, &c), 0);
    loop_poll(loop);
    assert_int_equal(c.calls, 0);
    assert_int_equal(write(pipes[1], "abc", 3), 3);
    loop_poll(loop);
    assert_int_equal(c.calls, 3);
    assert_int_equal(loop_watch_fd(loop, c.fd, 0, NULL, NULL), 0);
    assert_int_equal(write(pipes[1], "d", 1), 1);
    loop_poll(loop);
    assert_int_equal(c.calls, 3);
    assert_int_equal(loop_watch_fd(loop, c.fd, POLLIN, take_byte, &c), 0);
    close(pipes[1]);
    loop_poll(loop);
    assert_int_equal(c.calls, 4);
    close(pipes[0]);

    /* a regular file, which epoll does not take, is always ready */
    file = mkstemp(path);
    assert_int_equal(write(file, "xyz", 3), 3);
    lseek(file, 0, SEEK_SET);
    unlink(path);
    c.fd = file;
    assert_int_equal(loop_watch_fd(loop, file, POLLIN, take_byte, &c), 0);
    loop_poll(loop);
    assert_int_equal(c.calls, 7);
    assert_int_equal(lseek(file, 0, SEEK_SET), 0);
    assert_int_equal(loop_watch_fd(loop, file, POLLERR, take_byte, &c), 0); /* but never in error */
    loop_poll(loop);
    assert_int_equal(c.calls, 7);
    assert_int_equal(loop_watch_fd(loop, file, POLLIN, take_byte, &c), 0);
    loop_poll(loop);
    assert_int_equal(c.calls, 10);
    close(file);
    assert_true(loop_watch_fd(loop, -1, POLLIN, take_byte, &c) < 0);
    assert_true(loop_watch_fd(loop, 999, POLLIN, take_byte, &c) < 0);
    loop_free(loop);
    vclock_free(clock);
}

static void *run(void *opaque)
{
    loop_run(opaque);
    return NULL;
}

/* A sleeping loop wakes up for an earlier timer of another thread, for the clock's changes, and to stop. */
static void test_threads(void **state)
{
    struct vclock *clock = vclock_new();
    struct loop *loop = loop_new(clock);
    struct counted far, near;
    pthread_t thread;
    uint64_t begin = vclock_ns(clock);

    counted_init(&far, loop);
    counted_init(&near, loop);
    timer_arm(&far.timer, begin + 3600000 * MS);
    pthread_create(&thread, NULL, run, loop);
    usleep(5000);
    near.stop = true;
    timer_arm(&near.timer, vclock_ns(clock) + 2 * MS);
    pthread_join(thread, NULL);
    assert_int_equal(near.calls, 1);
    assert_in_range(near.at - begin, 7 * MS, 2000 * MS);

    vclock_pause(clock);
    begin = vclock_ns(clock);
    timer_arm(&near.timer, begin + MS);
    pthread_create(&thread, NULL, run, loop);
    usleep(10000);
    assert_int_equal(near.calls, 1);
    vclock_resume(clock);
    pthread_join(thread, NULL);
    assert_int_equal(near.calls, 2);

    loop_stop(loop); /* before it runs */
    loop_run(loop);
    pthread_create(&thread, NULL, run, loop);
    usleep(2000);
    loop_stop(loop);
    pthread_join(thread, NULL);
    assert_int_equal(far.calls, 0);
    loop_free(loop);
    vclock_free(clock);
}

static void *tick_from_outside(void *opaque)
{
    struct counted *c = opaque;
    unsigned i;

    for (i = 0; i < 2000; i++)
        timer_arm(&c->timer, vclock_ns(loop_clock(c->loop)) + i % 3 * 1000);
    return NULL;
}

static void test_contention(void **state)
{
    struct vclock *clock = vclock_new();
    struct loop *loop = loop_new(clock);
    struct counted c[2];
    pthread_t threads[2], runner;
    unsigned i;

    pthread_create(&runner, NULL, run, loop);
    for (i = 0; i < 2; i++) {
        counted_init(&c[i], loop);
        pthread_create(&threads[i], NULL, tick_from_outside, &c[i]);
    }
    for (i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    usleep(20000);
    loop_stop(loop);
    pthread_join(runner, NULL);
    assert_true(c[0].calls > 0 && c[1].calls > 0);
    assert_true(c[0].timer.deadline_ns == UINT64_MAX && c[1].timer.deadline_ns == UINT64_MAX);
    loop_free(loop);
    vclock_free(clock);
}

/* The order of ranks is checked, and told on stderr. */
static void test_lock_order(void **state)
{
    struct lock device, backend;
    int saved = dup(STDERR_FILENO), pipes[2];
    char text[256] = "";

    lock_init(&device, LOCK_DEVICE);
    lock_init(&backend, LOCK_BACKEND);
    assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
    dup2(pipes[1], STDERR_FILENO);
    lock_take(&device);
    lock_take(&backend);
    lock_drop(&device); /* in any order */
    lock_drop(&backend);
    assert_true(read(pipes[0], text, sizeof(text) - 1) < 0);
    lock_take(&backend);
    lock_take(&device);
    lock_drop(&device);
    lock_drop(&backend);
    dup2(saved, STDERR_FILENO);
#ifndef NDEBUG
    assert_true(read(pipes[0], text, sizeof(text) - 1) > 0);
    assert_non_null(strstr(text, "lock order: rank 1 taken while rank 4 is held"));
#endif
    close(saved);
    close(pipes[0]);
    close(pipes[1]);
    lock_destroy(&device);
    lock_destroy(&backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timers),  cmocka_unit_test(test_always_due), cmocka_unit_test(test_fds),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_contention), cmocka_unit_test(test_lock_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
