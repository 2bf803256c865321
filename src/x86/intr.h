/*
 * x86/intr.h: raising and delivering exceptions and interrupts (AMD APM vol. 2
 * chapter 8; SDM vol. 3 chapter 6), and far control transfers that share their
 * machinery (IRET, task switch).
 */
#ifndef X86_INTR_H
#define X86_INTR_H

#include "x86/cpu.h"

#define DR6_BS BIT(14) /* a step's #DB */

/* Fill cpu->exc and return X86_FAULT, so that a semantic can `return x86_raise(cpu, VEC_UD);`. */
enum x86_rc x86_raise(struct x86_cpu *cpu, uint8_t vector);                       /* no error code */
enum x86_rc x86_raise_error(struct x86_cpu *cpu, uint8_t vector, uint32_t error); /* #DF #TS #NP #SS #GP #AC */
enum x86_rc x86_raise_pf(struct x86_cpu *cpu, gva_t lin, uint32_t error);
static inline enum x86_rc x86_raise_gp(struct x86_cpu *cpu, uint32_t error)
{
    return x86_raise_error(cpu, VEC_GP, error);
}

/* Delivers cpu->exc as an exception through the IDT: saves, switches stack, CS:RIP, flags; a fault's RIP is that of
 * the instruction, a trap's that of the next: the caller has set it. On faults while delivering: #DF by the
 * contributory table, then shutdown (cpu->shutdown is set, shutdown_cause says why; so too where the IDT, GDT, TSS or
 * stack is not memory). Never fails otherwise. */
void x86_deliver_exception(struct x86_cpu *cpu);
/* Delivers an external interrupt or NMI; faults while delivering are delivered in turn. */
void x86_deliver_interrupt(struct x86_cpu *cpu, uint8_t vector);
/* INT n, INT3, INTO: next_rip is where the handler returns; the gate's DPL is checked. X86_JUMP, X86_EXIT, or
 * X86_FAULT: nothing was changed (or, through a task gate, the fault is the new task's and RIP points into it). */
enum x86_rc x86_software_interrupt(struct x86_cpu *cpu, uint8_t vector, uint64_t next_rip);
/* INT1 (ICEBP): a #DB that leaves DR6 alone; no DPL check. */
enum x86_rc x86_icebp(struct x86_cpu *cpu, uint64_t next_rip);

/* May an external interrupt be taken before the next instruction: IF, shadows. */
static inline bool x86_interruptible(const struct x86_cpu *cpu)
{
    return (cpu->rflags & FLAG_IF) && cpu->int_shadow == SHADOW_NONE;
}

#endif
