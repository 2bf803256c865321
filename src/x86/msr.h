/*
 * x86/msr.h: RDMSR and WRMSR over one table of the MSRs that exist.
 */
#ifndef X86_MSR_H
#define X86_MSR_H

#include "x86/cpu.h"

/* false: there is no such MSR, or not this value: the instruction gives #GP(0). A trace line says so. */
bool x86_rdmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t *value);
bool x86_wrmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t value);

/* The guest's TSC: the clock's plus this vCPU's offset. */
uint64_t x86_guest_tsc(struct x86_cpu *cpu);

#endif
