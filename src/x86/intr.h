/*
 * x86/intr.h: raising and delivering exceptions and interrupts (AMD APM vol. 2
 * chapter 8; SDM vol. 3 chapter 6), and far control transfers that share their
 * machinery (IRET, task switch).
 */
#ifndef X86_INTR_H
#define X86_INTR_H

#include "x86/cpu.h"

/* Fill cpu->exc and return X86_FAULT, so that a semantic can `return x86_raise(cpu, VEC_UD);`. */
enum x86_rc x86_raise(struct x86_cpu *cpu, uint8_t vector);                       /* no error code */
enum x86_rc x86_raise_error(struct x86_cpu *cpu, uint8_t vector, uint32_t error); /* #DF #TS #NP #SS #GP #AC */
enum x86_rc x86_raise_pf(struct x86_cpu *cpu, gva_t lin, uint32_t error);
static inline enum x86_rc x86_raise_gp(struct x86_cpu *cpu, uint32_t error)
{
    return x86_raise_error(cpu, VEC_GP, error);
}

enum x86_int_kind {
    INT_EXCEPTION, /* RIP is of the faulting instruction (fault) or after it (trap): the caller set it */
    INT_EXTERNAL,  /* interrupt or NMI */
    INT_SOFTWARE,  /* INT n, INT3, INTO: gate DPL is checked; cpu->rip is already past the instruction */
};

/* Delivers cpu->exc as an exception through the IDT: saves, switches stack, CS:RIP, flags. On faults while
 * delivering: #DF by the contributory table, then shutdown (cpu->shutdown is set). Never fails otherwise. */
void x86_deliver_exception(struct x86_cpu *cpu);
/* Delivers an external interrupt or NMI; faults while delivering are delivered in turn. */
void x86_deliver_interrupt(struct x86_cpu *cpu, uint8_t vector);
/* INT n, INT3, INTO, INT1: next_rip is where the handler returns. X86_JUMP or X86_FAULT (nothing changed). */
enum x86_rc x86_software_interrupt(struct x86_cpu *cpu, uint8_t vector, uint64_t next_rip);

/* May an external interrupt be taken before the next instruction: IF, shadows. */
static inline bool x86_interruptible(const struct x86_cpu *cpu)
{
    return (cpu->rflags & FLAG_IF) && cpu->int_shadow == SHADOW_NONE;
}

#endif
