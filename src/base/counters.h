/*
 * base/counters.h: what --stats prints. One list; each vCPU has its own
 * struct, written by its thread only and read when that thread has stopped.
 */
#ifndef BASE_COUNTERS_H
#define BASE_COUNTERS_H

#include <stdint.h>

/* clang-format off */
#define COUNTER_LIST(X)                                            \
    X(instructions,    "guest instructions retired")               \
    X(exits_pio,       "exits: port I/O")                          \
    X(exits_mmio,      "exits: MMIO")                              \
    X(exits_halt,      "exits: halt")                              \
    X(exits_irq_window, "exits: interrupt window")                 \
    X(exits_eoi,       "exits: end of interrupt, level-triggered") \
    X(exits_kick,      "exits: kicked")                             \
    X(emulated,        "instructions that KVM handed back, emulated") \
    X(tlb_hits,        "soft-TLB hits, of data accesses")           \
    X(tlb_misses,      "soft-TLB misses")                          \
    X(tlb_flushes,     "soft-TLB flushes")                         \
    X(tlb_slow,        "memory accesses off the fast path")        \
    X(page_walks,      "page-table walks")                         \
    X(exceptions,      "exceptions delivered")                     \
    X(interrupts,      "interrupts delivered")                     \
    X(blocks_decoded,  "code blocks decoded")                      \
    X(blocks_run,      "code blocks run")                          \
    X(code_writes,     "writes to pages that hold decoded code")   \
    X(code_dropped,    "code blocks dropped")                       \
    X(blocks_translated, "code blocks translated")                  \
    X(translated_runs, "ways into translated code from the monitor") \
    X(callouts,        "calls of the monitor by translated code: an instruction's semantics") \
    X(links,           "ditto: a direct jump's target")            \
    X(resolves,        "ditto: an address looked up")              \
    X(code_recycled,   "segments of translated code recycled")
/* clang-format on */

struct counters {
#define X(name, help) uint64_t name;
    COUNTER_LIST(X)
#undef X
};

#endif
