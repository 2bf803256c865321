/*
 * base/loop.c: one epoll set, an eventfd to wake it, and a list of timers
 * sorted by virtual deadline, which bounds each wait.
 *
 * wake_ns is what the sleeping loop will wake up for: arming an earlier timer
 * writes to the eventfd, arming a later one costs no system call. While the
 * loop is awake wake_ns is 0: it looks at the list again before it sleeps.
 */
#include "base/loop.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/lock.h"

#define NS_PER_SECOND 1000000000ull
#define POLL_ROUNDS   1000 /* loop_poll: a timer that always re-arms in the past must not hold it */
#define EVENTS        32

struct watch {
    void (*fn)(void *opaque, short revents);
    void *opaque;
    short events; /* 0: not watched */
    bool in_epoll;
    bool regular; /* a regular file, which epoll refuses */
    bool always_ready;
};

struct loop {
    struct vclock *clock;
    int epoll_fd, event_fd;
    bool no_epoll_pwait2; /* Linux before 5.11, some sandboxes */
    atomic_bool stop;

    struct lock lock; /* timers, wake_ns */
    struct timer *timers;
    _Atomic uint64_t wake_ns;

    struct watch *watches; /* by file descriptor; the loop's thread */
    unsigned watch_count;
    unsigned always_ready_count;
};

static void wake(struct loop *loop)
{
    uint64_t one = 1;

    while (write(loop->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void clock_changed(void *opaque)
{
    struct loop *loop = opaque;
    uint64_t until = atomic_load(&loop->wake_ns);

    if (until && (!vclock_is_manual(loop->clock) || vclock_ns(loop->clock) >= until))
        wake(loop);
}

struct loop *loop_new(struct vclock *clock)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    struct epoll_event event = {.events = EPOLLIN};
    int saved;

    if (!loop)
        return NULL;
    loop->clock = clock;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    event.data.fd = loop->event_fd;
    if (loop->epoll_fd < 0 || loop->event_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->event_fd, &event) < 0)
        goto fail;
    lock_init(&loop->lock, LOCK_LOOP);
    vclock_set_listener(clock, clock_changed, loop);
    return loop;
fail:
    saved = errno;
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->event_fd >= 0)
        close(loop->event_fd);
    free(loop);
    errno = saved;
    return NULL;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    vclock_set_listener(loop->clock, NULL, NULL);
    lock_destroy(&loop->lock);
    close(loop->epoll_fd);
    close(loop->event_fd);
    free(loop->watches);
    free(loop);
}

struct vclock *loop_clock(struct loop *loop)
{
    return loop->clock;
}

/* --- timers ------------------------------------------------------------------------------ */

void timer_init(struct timer *timer, struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
    *timer = (struct timer){.loop = loop, .fn = fn, .opaque = opaque, .deadline_ns = UINT64_MAX};
}

static void unlink_timer(struct timer *timer)
{
    struct timer **link;

    if (timer->deadline_ns == UINT64_MAX)
        return;
    for (link = &timer->loop->timers; *link; link = &(*link)->next) {
        if (*link == timer) {
            *link = timer->next;
            break;
        }
    }
    timer->next = NULL;
    timer->deadline_ns = UINT64_MAX;
}

void timer_arm(struct timer *timer, uint64_t ns)
{
    struct loop *loop = timer->loop;
    struct timer **link;
    bool earlier;

    if (ns == UINT64_MAX) {
        timer_cancel(timer);
        return;
    }
    lock_take(&loop->lock);
    unlink_timer(timer);
    for (link = &loop->timers; *link && (*link)->deadline_ns <= ns; link = &(*link)->next)
        ;
    timer->next = *link;
    timer->deadline_ns = ns;
    *link = timer;
    earlier = ns < atomic_load(&loop->wake_ns);
    if (earlier)
        atomic_store(&loop->wake_ns, 0); /* one wake-up is enough */
    lock_drop(&loop->lock);
    if (earlier)
        wake(loop);
}

void timer_cancel(struct timer *timer)
{
    lock_take(&timer->loop->lock);
    unlink_timer(timer);
    lock_drop(&timer->loop->lock);
}

static struct timer *take_due(struct loop *loop, uint64_t now)
{
    struct timer *timer;

    lock_take(&loop->lock);
    timer = loop->timers;
    if (timer && timer->deadline_ns <= now)
        unlink_timer(timer);
    else
        timer = NULL;
    lock_drop(&loop->lock);
    return timer;
}

/* Runs what is due at one moment. Taken one by one, since a callback may cancel any other timer; not more than were due
 * at first, since it may also arm itself in the past. */
static bool run_timers(struct loop *loop)
{
    uint64_t now = vclock_ns(loop->clock);
    unsigned due = 0, ran = 0;
    struct timer *timer;

    lock_take(&loop->lock);
    for (timer = loop->timers; timer && timer->deadline_ns <= now; timer = timer->next)
        due++;
    lock_drop(&loop->lock);
    for (; ran < due && (timer = take_due(loop, now)); ran++)
        timer->fn(timer->opaque);
    return ran > 0;
}

/* --- file descriptors ---------------------------------------------------------------------- */

static int grow_watches(struct loop *loop, unsigned count)
{
    struct watch *watches;

    if (count <= loop->watch_count)
        return 0;
    watches = realloc(loop->watches, count * sizeof(*watches));
    if (!watches)
        return -ENOMEM;
    for (loop->watches = watches; loop->watch_count < count; loop->watch_count++)
        watches[loop->watch_count] = (struct watch){.events = 0};
    return 0;
}

static void unwatch(struct loop *loop, int fd)
{
    struct watch *watch = &loop->watches[fd];

    if (watch->in_epoll)
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    if (watch->always_ready)
        loop->always_ready_count--;
    *watch = (struct watch){.events = 0};
}

int loop_watch_fd(struct loop *loop, int fd, short events, void (*fn)(void *opaque, short revents), void *opaque)
{
    struct epoll_event event = {.events = (uint32_t)events, .data.fd = fd};
    struct watch *watch;
    int rc;

    if (fd < 0)
        return -EBADF;
    rc = grow_watches(loop, (unsigned)fd + 1);
    if (rc < 0)
        return rc;
    watch = &loop->watches[fd];
    if (!events) {
        unwatch(loop, fd);
        return 0;
    }
    if (!watch->regular) {
        rc = epoll_ctl(loop->epoll_fd, watch->in_epoll ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
        if (rc < 0 && errno != EPERM)
            return -errno;
        watch->in_epoll = rc == 0;
        watch->regular = rc < 0;
    }
    loop->always_ready_count -= watch->always_ready;
    watch->always_ready = watch->regular && (events & (POLLIN | POLLOUT)); /* never in error */
    loop->always_ready_count += watch->always_ready;
    watch->fn = fn;
    watch->opaque = opaque;
    watch->events = events;
    return 0;
}

static void call_watch(struct loop *loop, int fd, short revents)
{
    struct watch watch = loop->watches[fd];

    if (watch.events) /* not removed by an earlier callback of this round */
        watch.fn(watch.opaque, revents);
}

static int wait_events(struct loop *loop, struct epoll_event *events, uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_SECOND), .tv_nsec = (long)(ns % NS_PER_SECOND)};
    struct timespec *timeout = ns == UINT64_MAX ? NULL : &ts;
    struct pollfd poll_fd = {.fd = loop->epoll_fd, .events = POLLIN};

    if (ns && !loop->no_epoll_pwait2) {
        long n = syscall(SYS_epoll_pwait2, loop->epoll_fd, events, EVENTS, timeout, NULL, 0);

        if (n >= 0 || errno == EINTR)
            return (int)n;
        loop->no_epoll_pwait2 = true;
    }
    if (ns && ppoll(&poll_fd, 1, timeout, NULL) <= 0)
        return 0;
    return epoll_wait(loop->epoll_fd, events, EVENTS, 0);
}

static bool run_fds(struct loop *loop, uint64_t wait_ns)
{
    struct epoll_event events[EVENTS];
    bool any = false;
    unsigned fd;
    int i, n;

    n = wait_events(loop, events, loop->always_ready_count ? 0 : wait_ns);
    atomic_store(&loop->wake_ns, 0);
    for (i = 0; i < n; i++) {
        uint64_t count;

        if (events[i].data.fd != loop->event_fd) {
            call_watch(loop, events[i].data.fd, (short)events[i].events);
            any = true;
        } else if (read(loop->event_fd, &count, sizeof(count)) < 0) {
            continue; /* somebody's wake-up was already taken */
        }
    }
    for (fd = 0; loop->always_ready_count && fd < loop->watch_count; fd++) {
        if (loop->watches[fd].always_ready) {
            call_watch(loop, (int)fd, loop->watches[fd].events & (POLLIN | POLLOUT));
            any = true;
        }
    }
    return any;
}

/* How long the loop may sleep, in host time; publishes what it wakes up for. */
static uint64_t begin_sleep(struct loop *loop)
{
    uint64_t until;

    lock_take(&loop->lock);
    until = loop->timers ? loop->timers->deadline_ns : UINT64_MAX;
    atomic_store(&loop->wake_ns, MAX(until, 1));
    lock_drop(&loop->lock);
    return until == UINT64_MAX ? UINT64_MAX : vclock_host_ns_until(loop->clock, until);
}

void loop_run(struct loop *loop)
{
    while (!atomic_exchange(&loop->stop, false)) {
        run_fds(loop, begin_sleep(loop));
        run_timers(loop);
    }
}

void loop_stop(struct loop *loop)
{
    atomic_store(&loop->stop, true);
    wake(loop);
}

void loop_poll(struct loop *loop)
{
    int i;

    for (i = 0; i < POLL_ROUNDS; i++) {
        bool timers = run_timers(loop);
        bool fds = run_fds(loop, 0);

        if (!timers && !fds)
            break;
    }
}
