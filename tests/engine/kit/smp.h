/*
 * smp.h: the other processors: started by INIT and start-up IPIs into the boot
 * processor's mode, address space, GDT and IDT, each with a stack of its own.
 */
#ifndef KIT_SMP_H
#define KIT_SMP_H

#include "kit/kit.h"

#define SMP_MAX      8
#define SMP_WAKE     0x30           /* vector with which smp_run() wakes them */
#define SMP_PATIENCE 40000000000ull /* TSC ticks: more than anything takes */
#define SMP_STEP     2000000000ull  /* of them, at most, between two looks */

extern unsigned smp_count; /* processors that run, the boot processor among them */
extern uint32_t smp_apic_id[SMP_MAX];

/* Starts them; the test is skipped if there are fewer than `wanted`. To be called once the mode is what it shall be. */
void smp_start(unsigned wanted);
/* Runs fn(0) here and fn(1), ... on `count` processors in all; the others sleep. Returns when all have. */
void smp_run(unsigned count, void (*fn)(unsigned cpu));
/* Of those that smp_run() runs: none goes on before all are there. */
void smp_barrier(void);
unsigned smp_self(void); /* the number of the processor that asks */
/* An IPI: vector and mode bits of the ICR, to an APIC ID. */
void smp_ipi(uint32_t apic_id, uint32_t icr);

static inline void smp_relax(void)
{
    asm volatile("pause" : : : "memory");
}

#define SMP_LOAD(x)         __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define SMP_STORE(x, value) __atomic_store_n(&(x), value, __ATOMIC_RELAXED)

/* Waits; false, and a failed check, if it takes for ever. A machine that stood still meanwhile has not waited. */
#define SMP_WAIT(condition)                                                                                            \
    ({                                                                                                                 \
        uint64_t last_ = rdtsc(), waited_ = 0;                                                                         \
        bool done_;                                                                                                    \
        while (!(done_ = (condition)) && waited_ < SMP_PATIENCE) {                                                     \
            const uint64_t now_ = rdtsc();                                                                             \
            waited_ += now_ - last_ < SMP_STEP ? now_ - last_ : SMP_STEP;                                              \
            last_ = now_;                                                                                              \
            smp_relax();                                                                                               \
        }                                                                                                              \
        if (!done_)                                                                                                    \
            EXPECT(!"waited in vain for " #condition);                                                                 \
        done_;                                                                                                         \
    })

#endif
