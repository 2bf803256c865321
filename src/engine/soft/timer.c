/* engine/soft/timer.c: see timer.h. */
#include "engine/soft/timer.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct soft_timer {
    struct soft_vm *vm;
    pthread_t thread;
    _Atomic uint32_t changed; /* futex: counts what was armed earlier than the thread would wake */
    _Atomic uint64_t wakes;   /* when it will, host's monotonic ns */
    _Atomic bool stop;
    _Atomic uint64_t due[SOFT_MAX_CPUS]; /* host's monotonic ns; UINT64_MAX: not armed */
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Posts what is due; returns the next time. */
static uint64_t expire(struct soft_timer *timer, uint64_t now)
{
    uint64_t next = UINT64_MAX;

    for (unsigned i = 0; i < timer->vm->cpus; i++) {
        uint64_t due = atomic_load(&timer->due[i]);

        if (due <= now && atomic_compare_exchange_strong(&timer->due[i], &due, UINT64_MAX)) {
            if (timer->vm->vcpu[i])
                x86_post_event(&timer->vm->vcpu[i]->cpu, X86_EV_APIC);
            continue;
        }
        next = MIN(next, due);
    }
    return next;
}

static void *timer_thread(void *opaque)
{
    struct soft_timer *timer = opaque;

    while (!atomic_load(&timer->stop)) {
        uint32_t seen = atomic_load(&timer->changed);
        uint64_t next;
        struct timespec ts;

        atomic_store(&timer->wakes, 0); /* who arms now is seen below, or wakes us in vain */
        next = expire(timer, now_ns());
        atomic_store(&timer->wakes, next);
        if (expire(timer, 0) < next)
            continue;
        ts = (struct timespec){.tv_sec = (time_t)(next / 1000000000), .tv_nsec = (long)(next % 1000000000)};
        syscall(SYS_futex, &timer->changed, FUTEX_WAIT_BITSET_PRIVATE, seen, next == UINT64_MAX ? NULL : &ts, NULL,
                FUTEX_BITSET_MATCH_ANY);
    }
    return NULL;
}

static void wake(struct soft_timer *timer)
{
    atomic_fetch_add(&timer->changed, 1);
    syscall(SYS_futex, &timer->changed, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void soft_timer_arm(struct soft_timer *timer, unsigned cpu, uint64_t host_ns)
{
    uint64_t due = host_ns == UINT64_MAX ? UINT64_MAX : now_ns() + host_ns;

    if (due == UINT64_MAX && atomic_load(&timer->due[cpu]) == UINT64_MAX)
        return;
    atomic_store(&timer->due[cpu], due);
    if (due < atomic_load(&timer->wakes))
        wake(timer);
}

struct soft_timer *soft_timer_new(struct soft_vm *vm)
{
    struct soft_timer *timer = calloc(1, sizeof(*timer));

    if (!timer)
        return NULL;
    timer->vm = vm;
    for (unsigned i = 0; i < SOFT_MAX_CPUS; i++)
        timer->due[i] = UINT64_MAX;
    if (pthread_create(&timer->thread, NULL, timer_thread, timer)) {
        free(timer);
        return NULL;
    }
    return timer;
}

void soft_timer_free(struct soft_timer *timer)
{
    if (!timer)
        return;
    atomic_store(&timer->stop, true);
    wake(timer);
    pthread_join(timer->thread, NULL);
    free(timer);
}
