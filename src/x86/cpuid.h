/*
 * x86/cpuid.h: what the guest is told it has: exactly what is implemented and
 * what the host has. One table of features; the semantics' tables name them, so
 * that an instruction whose feature is off gives #UD.
 */
#ifndef X86_CPUID_H
#define X86_CPUID_H

#include "x86/cpu.h"

/* X(id, /proc/cpuinfo name, leaf, subleaf, register, bit, host): host 1: only where the host has it too (its
 * semantics run on the host's own unit); 0: emulated everywhere. */
#include "x86/features.h"

enum x86_feature {
    FEATURE_NONE, /* 8086 to Pentium: always there */
#define X(id, name, leaf, subleaf, reg, bit, host) FEATURE_##id,
    X86_FEATURE_LIST(X)
#undef X
        FEATURE_COUNT
};

/* Is the feature shown to guests on this host? Constant for the life of the process. */
bool x86_feature(enum x86_feature feature);
/* CPUID with the inputs in eax, ecx; the four outputs in regs[0..3] (EAX, EBX, ECX, EDX). */
void x86_cpuid(struct x86_cpu *cpu, uint32_t eax, uint32_t ecx, uint32_t regs[4]);
/* Is the guest shown an AMD processor (else an Intel one)? */
bool x86_vendor_amd(void);
/* MAXPHYADDR: bits of a guest-physical address: the host's, at most 46. */
unsigned x86_phys_bits(void);
/* Components that XSETBV may enable. */
uint64_t x86_xcr0_allowed(void);

#endif
