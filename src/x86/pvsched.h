/*
 * x86/pvsched.h: KVM's paravirtual help for guests whose processors take turns
 * on the host's (Linux, Documentation/virt/kvm/x86/hypercalls.rst and msr.rst):
 * a halted processor is kicked, IPIs go to many at once, stolen time is told.
 * Offered (CPUID leaf 40000001h) when there are several processors.
 */
#ifndef X86_PVSCHED_H
#define X86_PVSCHED_H

#include "x86/cpu.h"

#define KVM_FEATURE_STEAL_TIME  BIT(5)
#define KVM_FEATURE_PV_UNHALT   BIT(7)
#define KVM_FEATURE_PV_SEND_IPI BIT(11)

/* VMCALL, VMMCALL: number in RAX, arguments in RBX, RCX, RDX, RSI; the result goes to RAX. */
void x86_hypercall(struct x86_cpu *cpu);

/* MSR_KVM_STEAL_TIME: bit 0 enables, the rest is the guest-physical address of the structure. */
bool x86_set_steal_time(struct x86_cpu *cpu, uint32_t msr, uint64_t value);
/* Tells the guest how long, in all, the processor would have run but had none of the host's. */
void x86_update_steal_time(struct x86_cpu *cpu, uint64_t ns);

/* The processor stood still for long though the guest's clock went on, by no fault of the guest's (the monitor was
 * stopped): says so in the paravirtual clock, so that its watchdogs keep quiet. */
void x86_pvclock_stopped(struct x86_cpu *cpu);

#endif
