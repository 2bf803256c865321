/*
 * x86/lapic.h: the local APIC: xAPIC and x2APIC, timer with TSC-deadline.
 * SDM vol. 3 chapter 11 (APIC), AMD APM vol. 2 chapter 16.
 *
 * Registers are touched by the vCPU's thread only. Others post requests
 * (posted-interrupt style: an atomic bitmap drained on block edges).
 */
#ifndef X86_LAPIC_H
#define X86_LAPIC_H

#include <stdatomic.h>

#include "base/types.h"

#define X86_APIC_BASE        0xfee00000ull
#define X86_APIC_BASE_BSP    BIT(8)
#define X86_APIC_BASE_X2APIC BIT(10)
#define X86_APIC_BASE_ENABLE BIT(11)
#define X86_APIC_HZ          1000000000ull /* timer's input clock: one tick is one virtual nanosecond */

enum x86_lvt { LVT_TIMER, LVT_THERMAL, LVT_PMC, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

enum x86_apic_delivery { /* ICR and MSI delivery modes */
                         APIC_FIXED = 0,
                         APIC_LOWEST = 1,
                         APIC_SMI = 2,
                         APIC_NMI = 4,
                         APIC_INIT = 5,
                         APIC_STARTUP = 6,
                         APIC_EXTINT = 7,
};

/* One message on the APIC bus: an IPI, an IOAPIC's or an MSI. */
struct x86_apic_message {
    uint32_t destination; /* APIC ID, or a logical destination; 0xff (0xffffffff in x2APIC form): all */
    uint8_t vector;
    uint8_t delivery;  /* enum x86_apic_delivery */
    uint8_t shorthand; /* 0 none, 1 self, 2 all, 3 all but self (IPIs) */
    bool logical;
    bool level; /* trigger mode */
    bool assert_level;
    bool x2apic;     /* destination is 32 bits wide */
    uint32_t source; /* sender's APIC ID (IPIs) */
};

struct x86_lapic {
    /* What says which messages are ours: senders look at it too, so that changes are single stores (x86_lapic_put). */
    uint64_t base_msr; /* IA32_APIC_BASE: address, enable 11, x2APIC 10, BSP 8 */
    uint32_t id, ldr, dfr, svr;
    uint32_t esr, esr_pending, tpr;
    uint64_t icr;
    uint32_t lvt[LVT_COUNT];
    uint32_t irr[8], isr[8], tmr[8];
    uint32_t timer_initial, timer_divide; /* TMICT, TDCR */
    uint64_t timer_start_ns;              /* when the current count began (one-shot, periodic) */
    uint64_t timer_deadline_ns;           /* when it fires; UINT64_MAX: not armed (one-shot, periodic) */
    uint64_t tsc_deadline;                /* IA32_TSC_DEADLINE; 0: not armed */

    _Atomic uint32_t sipi_vector;                /* of the last start-up IPI, with X86_EV_SIPI */
    _Atomic uint32_t posted[8], posted_level[8]; /* requests by other threads, not yet in IRR */
};

struct x86_cpu;

void x86_lapic_reset(struct x86_cpu *cpu); /* power-up; cpu->id 0 is the boot processor */
void x86_lapic_init(struct x86_cpu *cpu);  /* INIT: all but the ID, mode and base address (SDM vol. 3, 11.4.7.3) */

/* Register access by MMIO: offset 0..0xfff, 32 bits. The engine calls these for accesses to the APIC page. */
uint32_t x86_lapic_read(struct x86_cpu *cpu, unsigned offset);
void x86_lapic_write(struct x86_cpu *cpu, unsigned offset, uint32_t value);
/* x2APIC MSRs 0x800..0x8ff, IA32_APIC_BASE and IA32_TSC_DEADLINE are reached through x86/msr.h. false: #GP */
bool x86_lapic_msr_read(struct x86_cpu *cpu, uint32_t msr, uint64_t *value);
bool x86_lapic_msr_write(struct x86_cpu *cpu, uint32_t msr, uint64_t value);

/* Does a message address this APIC? Any thread. */
bool x86_lapic_accepts(const struct x86_cpu *cpu, const struct x86_apic_message *message);
/* Delivers a message: fixed ones are posted, others set an event. Any thread; the caller then kicks. */
void x86_lapic_deliver(struct x86_cpu *cpu, const struct x86_apic_message *message);

/* vCPU's thread: takes in posted requests and an expired timer. */
void x86_lapic_sync(struct x86_cpu *cpu);
/* The vector to be delivered now (above the processor priority), or -1. Does not look at IF. */
int x86_lapic_pending(const struct x86_cpu *cpu);
void x86_lapic_acknowledge(struct x86_cpu *cpu, uint8_t vector); /* IRR to ISR: delivered */
/* Virtual ns at which the timer fires next; UINT64_MAX: never. */
uint64_t x86_lapic_next_ns(struct x86_cpu *cpu);
/* Will LINT0 pass an 8259's interrupt (ExtINT, unmasked, or APIC disabled)? */
bool x86_lapic_accepts_extint(const struct x86_cpu *cpu);

/* Does the APIC page answer at gpa (xAPIC mode)? Then x86_lapic_read and _write serve it. */
static inline bool x86_lapic_at(const struct x86_lapic *lapic, gpa_t gpa)
{
    return (lapic->base_msr & (X86_APIC_BASE_ENABLE | X86_APIC_BASE_X2APIC)) == X86_APIC_BASE_ENABLE &&
           (lapic->base_msr & PAGE_MASK) == (gpa & PAGE_MASK);
}

/* TPR, all eight bits; CR8 is its upper four. */
void x86_lapic_set_tpr(struct x86_cpu *cpu, uint8_t tpr);
static inline uint64_t x86_read_cr8(const struct x86_lapic *lapic)
{
    return lapic->tpr >> 4;
}

#endif
