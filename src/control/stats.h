/*
 * control/stats.h: what --stats prints: the machine's counters and times, taken
 * while there is a machine, printed when the terminal is the user's again.
 */
#ifndef CONTROL_STATS_H
#define CONTROL_STATS_H

#include "base/counters.h"
#include "base/types.h"

struct machine;

struct stats {
    double elapsed, cpu; /* seconds of the run; while it runs: when it began */
    bool counts;         /* the engine counts each instruction */
    struct counters sum;
    char *report; /* the engine's own lines, or NULL */
};

void stats_begin(struct stats *stats);
void stats_end(struct stats *stats, const struct machine *machine);
void stats_print(const struct stats *stats); /* on standard error; what is 0 is left out */
void stats_free(struct stats *stats);

#endif
