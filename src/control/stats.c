/* control/stats.c: see stats.h. */
#include "control/stats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "machine/machine.h"

static double seconds(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void print_line(void *file, uint64_t count, const char *text)
{
    if (count)
        fprintf(file, "%16" PRIu64 "  %s\n", count, text);
}

void stats_begin(struct stats *stats)
{
    memset(stats, 0, sizeof(*stats));
    stats->elapsed = seconds(CLOCK_MONOTONIC);
    stats->cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
}

void stats_end(struct stats *stats, const struct machine *machine)
{
    size_t size;
    FILE *file;

    stats->elapsed = seconds(CLOCK_MONOTONIC) - stats->elapsed;
    stats->cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - stats->cpu;
    stats->counts = machine_counters(machine, &stats->sum);
    file = open_memstream(&stats->report, &size);
    if (!file)
        return;
    machine_report(machine, print_line, file);
    fclose(file);
}

void stats_print(const struct stats *stats)
{
    const struct counters *sum = &stats->sum;
    struct counters shown = *sum;

    shown.decode_ns = shown.translate_ns = 0; /* with the times */
    if (!stats->counts) {                     /* incomplete: what ran as host code is not in them */
        fprintf(stderr, "%16s  guest instructions retired, soft-TLB hits (this engine runs guest code as it is)\n",
                "not counted");
        shown.instructions = shown.tlb_hits = 0;
    }
#define X(name, help) print_line(stderr, shown.name, help);
    COUNTER_LIST(X)
#undef X
    if (stats->report && *stats->report)
        fprintf(stderr,
                "What the engine says besides (bt: the most frequent instructions that were not translated):\n%s",
                stats->report);
    fprintf(stderr, "%16.2f  seconds, %.2f of them on a processor", stats->elapsed, stats->cpu);
    if (sum->decode_ns)
        fprintf(stderr, ", %.2f decoding", (double)sum->decode_ns / 1e9);
    if (sum->translate_ns)
        fprintf(stderr, ", %.2f translating", (double)sum->translate_ns / 1e9);
    if (stats->counts && stats->cpu > 0)
        fprintf(stderr, ": %.1f MIPS while it ran", (double)sum->instructions / stats->cpu / 1e6);
    fprintf(stderr, "\n");
}

void stats_free(struct stats *stats)
{
    free(stats->report);
}
