/*
 * bench/report.h: what a measuring program prints, natively and as a guest's
 * init, for bench/common.sh to read: lines of
 *   BENCH start | BENCH GROUP NAME NANOSECONDS | BENCH failed WHAT | BENCH end
 * They may come over a serial console, so each begins a line of its own.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* As root, or in a user namespace where we are. */
static inline bool enter_root(const char *root)
{
    return chroot(root) == 0 || (errno == EPERM && unshare(CLONE_NEWUSER) == 0 && chroot(root) == 0);
}

static inline void run_on(unsigned cpu)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
}

static inline void report_begin(void)
{
    printf("\nBENCH start\n");
    fflush(stdout);
}

/* A guest has one processor, so the programs have only one natively too. */
static inline void report_start(void)
{
    run_on((unsigned)sched_getcpu());
    report_begin();
}

static inline void report(const char *group, const char *name, double nanoseconds)
{
    printf("BENCH %s %s %.3f\n", group, name, nanoseconds);
    fflush(stdout);
}

/* Ends a guest; natively it returns. */
static inline void report_end(void)
{
    printf("BENCH end\n");
    fflush(stdout);
    if (getpid() == 1) {
        sync();
        reboot(RB_POWER_OFF);
        reboot(RB_AUTOBOOT);
    }
}

#endif
