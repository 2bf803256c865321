/*
 * bench/smp.c: what a second processor is good for, as a guest's init or natively
 * (smp ROOT): two processes that compute, a byte passed to and fro between two
 * processors, a C project by make -j1 and -j2.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report.h"

#define PROCESSES 2
#define SAMPLES   5
#define SUMS      60000000u /* a process's work: tenths of a second */
#define TRIPS     3000
#define PROJECT   "/bench/project"

static volatile uint64_t sink;

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void report_median(const char *name, double sample[SAMPLES])
{
    qsort(sample, SAMPLES, sizeof(sample[0]), compare);
    report("smp", name, sample[SAMPLES / 2]);
}

/* --- computing ----------------------------------------------------------------------------------------------- */

/* Sums that hang on each other, over a table in the first-level cache. */
static void compute(void)
{
    static uint64_t table[1024];
    uint64_t x = 1;

    for (unsigned i = 0; i < SUMS; i++) {
        uint64_t *p = &table[x >> 20 & 1023];

        x = x * 6364136223846793005u + *p;
        *p = x ^ i;
    }
    sink = x;
}

static double computing(void)
{
    const uint64_t start = now();

    for (unsigned i = 0; i < PROCESSES; i++) {
        if (fork() == 0) {
            compute();
            _exit(0);
        }
    }
    while (wait(NULL) > 0)
        ;
    return (double)(now() - start);
}

static void measure_computing(int cpus)
{
    double sample[SAMPLES];

    computing(); /* the engine's first touches */
    for (unsigned i = 0; i < SAMPLES; i++)
        sample[i] = computing();
    report_median(cpus > 1 ? "two-on-2-cpus" : "two-on-1-cpu", sample);
}

/* --- a byte to and fro ------------------------------------------------------------------------------------------ */

static void answer(int in, int out)
{
    char c;

    while (read(in, &c, 1) == 1 && write(out, &c, 1) == 1)
        ;
    _exit(0);
}

static void measure_pipe(void)
{
    int to[2], from[2];
    double sample[SAMPLES];
    char c = 0;

    if (pipe(to) || pipe(from))
        return;
    if (fork() == 0) {
        run_on(1);
        close(to[1]);
        answer(to[0], from[1]);
    }
    run_on(0);
    close(to[0]);
    for (unsigned i = 0; i < SAMPLES; i++) {
        const uint64_t start = now();

        for (unsigned n = 0; n < TRIPS; n++)
            if (write(to[1], &c, 1) != 1 || read(from[0], &c, 1) != 1)
                return;
        sample[i] = (double)(now() - start) / TRIPS;
    }
    report_median("pipe-to-other", sample);
}

/* --- a C project ---------------------------------------------------------------------------------------------------
 */

static double make(const char *jobs)
{
    const uint64_t start = now();
    int status = 1;

    if (fork() == 0) {
        if (chdir(PROJECT) == 0)
            execl("/usr/bin/make", "make", "-s", "-B", jobs, (char *)NULL);
        _exit(127);
    }
    wait(&status);
    if (status)
        printf("BENCH failed make %s, wait status %#x\n", jobs, (unsigned)status);
    return (double)(now() - start);
}

static void measure_make(void)
{
    make("-j2"); /* the engine's first touches, on both processors */
    report("smp", "make-j1", make("-j1"));
    report("smp", "make-j2", make("-j2"));
}

int main(int argc, char **argv)
{
    cpu_set_t set;
    int cpus;

    sched_getaffinity(0, sizeof(set), &set);
    cpus = CPU_COUNT(&set);
    if (getpid() != 1 && (argc != 2 || !enter_root(argv[1]))) {
        fprintf(stderr, "usage: smp ROOT; it must be possible to chroot there (%s)\n", strerror(errno));
        return 2;
    }
    setenv("PATH", "/usr/bin", 1);
    report_begin();
    measure_computing(cpus);
    if (cpus > 1) {
        measure_make();
        measure_pipe(); /* last: it binds us to a processor */
    }
    report_end();
    return 0;
}
