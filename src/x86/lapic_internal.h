/*
 * x86/lapic_internal.h: between the local APIC's registers and its timer.
 */
#ifndef X86_LAPIC_INTERNAL_H
#define X86_LAPIC_INTERNAL_H

#include "x86/cpu.h"

#define LVT_VECTOR     0xffu
#define LVT_DELIVERY   0x700u
#define LVT_MASKED     BIT(16)
#define LVT_TIMER_MODE (BIT(17) | BIT(18))

#define ESR_SEND_VECTOR    BIT(5)
#define ESR_RECEIVE_VECTOR BIT(6)
#define ESR_REGISTER       BIT(7)

/* Of the registers that others look at. */
#define x86_lapic_get(field)        __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define x86_lapic_put(field, value) __atomic_store_n(&(field), value, __ATOMIC_RELAXED)

uint8_t x86_lapic_ppr(const struct x86_lapic *lapic);
uint32_t x86_lapic_x2apic_ldr(const struct x86_lapic *lapic); /* made from the ID */
void x86_lapic_error(struct x86_cpu *cpu, uint32_t error);    /* ESR_*; the error LVT's interrupt */
void x86_lapic_eoi(struct x86_cpu *cpu);
void x86_lapic_send(struct x86_cpu *cpu, uint64_t icr); /* an IPI */

/* An interrupt of a local source: sets IRR unless the LVT entry is masked. */
void x86_lapic_local(struct x86_cpu *cpu, enum x86_lvt lvt);

uint32_t x86_lapic_timer_count(struct x86_cpu *cpu);                  /* TMCCT */
void x86_lapic_timer_set_count(struct x86_cpu *cpu, uint32_t value);  /* TMICT */
void x86_lapic_timer_set_divide(struct x86_cpu *cpu, uint32_t value); /* TDCR */
void x86_lapic_timer_set_lvt(struct x86_cpu *cpu, uint32_t value);
void x86_lapic_timer_set_deadline(struct x86_cpu *cpu, uint64_t value); /* IA32_TSC_DEADLINE */
void x86_lapic_timer_sync(struct x86_cpu *cpu);                         /* fires if it is due */

#endif
