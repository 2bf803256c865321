/*
 * base/counters.h: what --stats prints. One list; each vCPU has its own
 * struct, written by its thread only and read when that thread has stopped.
 */
#ifndef BASE_COUNTERS_H
#define BASE_COUNTERS_H

#include <stdint.h>
#include <time.h>

/* clang-format off */
#define COUNTER_LIST(X) \
    X(instructions,         "guest instructions retired") \
    X(exits_pio,            "exits: port I/O") \
    X(exits_mmio,           "exits: MMIO") \
    X(exits_halt,           "exits: halt") \
    X(exits_irq_window,     "exits: interrupt window") \
    X(exits_eoi,            "exits: end of interrupt, level-triggered") \
    X(exits_kick,           "exits: kicked") \
    X(emulated,             "instructions that KVM handed back, emulated") \
    X(tlb_hits,             "soft-TLB hits, of data accesses") \
    X(tlb_misses,           "soft-TLB misses") \
    X(tlb_flushes,          "soft-TLB flushes") \
    X(tlb_slow,             "memory accesses off the fast path") \
    X(page_walks,           "page-table walks") \
    X(exceptions,           "exceptions delivered") \
    X(interrupts,           "interrupts delivered") \
    X(blocks_decoded,       "code blocks decoded") \
    X(blocks_shared,        "  of these: as another processor had") \
    X(blocks_run,           "code blocks interpreted") \
    X(code_writes,          "writes to pages that hold decoded code") \
    X(code_dropped,         "code blocks dropped") \
    X(code_evicted,         "  of these: to make room") \
    X(code_flushed,         "all code forgotten") \
    X(spins,                "turns given away while spinning") \
    X(halts_polled,         "halts that ended while the processor was still looking for events") \
    X(pages_asked,          "pages of code that other processors had to stop writing to") \
    X(code_told,            "writes that other processors with code there were told of") \
    X(blocks_translated,    "code blocks translated") \
    X(code_recycled,        "segments of translated code recycled") \
    X(translated_runs,      "ways into translated code from the monitor") \
    X(links,                "direct jumps of translated code linked to their target") \
    X(resolves,             "addresses looked up for translated code") \
    X(callouts,             "instructions executed for translated code by their semantics") \
    X(callouts_memory,      "  of these: an access off the fast path") \
    X(callouts_branch,      "  of these: a branch to what the jump table or return stack does not have") \
    X(callouts_instruction, "  of these: not translated") \
    X(leaves,               "instructions done for translated code without leaving it") \
    X(shadows,              "shadow spaces: how often a process got one") \
    X(shadow_faults,        "  faults of the host in them") \
    X(shadow_maps,          "  pages or runs of pages mapped") \
    X(shadow_compared,      "  comparisons with the guest's page tables") \
    X(decode_ns,            "ns spent on decoding") \
    X(translate_ns,         "ns spent on translating")
/* clang-format on */

/* The host's clock, for counters of time. */
static inline uint64_t counter_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

struct counters {
#define X(name, help) uint64_t name;
    COUNTER_LIST(X)
#undef X
};

#endif
