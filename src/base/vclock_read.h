/*
 * base/vclock_read.h: the virtual clock's TSC without a call, for translated
 * code's own helpers; all others use vclock_tsc().
 *
 * Guest TSC = base + (host TSC - host base) * rate; a clock that stands still has rate 0. Readers take no lock: the
 * three numbers are one consistent set, guarded by a sequence counter.
 */
#ifndef BASE_VCLOCK_READ_H
#define BASE_VCLOCK_READ_H

#include <stdatomic.h>

#include "base/vclock.h"

#define VCLOCK_RATE_SHIFT 32

/* What struct vclock begins with. */
struct vclock_state {
    atomic_uint sequence; /* odd: being changed */
    _Atomic uint64_t host_base, tsc_base;
    _Atomic uint64_t rate; /* in units of 1 / (1 << VCLOCK_RATE_SHIFT); 0: stands still */
};

struct vclock_reading {
    uint64_t tsc, rate;
};

/* Exactly between what comes before and after it: neither may another thread's reading lie in our future, nor a
 * reading be taken after the sequence that goes with it. */
static inline uint64_t vclock_host_tsc(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

/* As RDTSC does it: before or after its neighbours. */
static inline uint64_t vclock_host_tsc_unordered(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline uint64_t vclock_guest_tsc(uint64_t host, uint64_t host_base, uint64_t tsc_base, uint64_t rate)
{
    if (!rate || host <= host_base) /* another core's TSC may be a little behind */
        return tsc_base;
    return tsc_base + (uint64_t)(((unsigned __int128)(host - host_base) * rate) >> VCLOCK_RATE_SHIFT);
}

/* Not ordered: what another thread changes in the same moment may be seen too soon or too late. */
static inline __attribute__((always_inline)) struct vclock_reading vclock_read_ordered(const struct vclock *clock,
                                                                                       bool ordered)
{
    const struct vclock_state *state = (const struct vclock_state *)clock;
    struct vclock_reading reading;
    unsigned sequence;

    do {
        uint64_t host_base, tsc_base;

        sequence = atomic_load_explicit(&state->sequence, memory_order_acquire);
        host_base = atomic_load_explicit(&state->host_base, memory_order_relaxed);
        tsc_base = atomic_load_explicit(&state->tsc_base, memory_order_relaxed);
        reading.rate = atomic_load_explicit(&state->rate, memory_order_relaxed);
        reading.tsc = vclock_guest_tsc(!reading.rate ? 0
                                       : ordered     ? vclock_host_tsc()
                                                     : vclock_host_tsc_unordered(),
                                       host_base, tsc_base, reading.rate);
        atomic_thread_fence(memory_order_acquire);
    } while ((sequence & 1) || sequence != atomic_load_explicit(&state->sequence, memory_order_relaxed));
    return reading;
}

static inline struct vclock_reading vclock_read(const struct vclock *clock)
{
    return vclock_read_ordered(clock, true);
}

#endif
