/*
 * x86/pvclock_internal.h: KVM's paravirtual clock, behind its MSRs.
 */
#ifndef X86_PVCLOCK_INTERNAL_H
#define X86_PVCLOCK_INTERNAL_H

#include "x86/cpu.h"

/* MSR_KVM_SYSTEM_TIME: bit 0 enables, the rest is the guest-physical address of the vCPU's structure. */
bool x86_pvclock_set_system_time(struct x86_cpu *cpu, uint32_t msr, uint64_t value);
/* MSR_KVM_WALL_CLOCK: the guest-physical address of the structure to be filled in once. */
bool x86_pvclock_set_wall_clock(struct x86_cpu *cpu, uint32_t msr, uint64_t value);
/* The guest's TSC was set: says so in the structure. */
void x86_pvclock_update(struct x86_cpu *cpu);

#endif
