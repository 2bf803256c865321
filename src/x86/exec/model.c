/*
 * x86/exec/model.c: CPUID, time-stamp counter, MSRs, FS and GS bases, and the
 * hypercall instructions.
 */
#include "x86/bus.h"
#include "x86/exec/system.h"
#include "x86/msr.h"
#include "x86/pvsched.h"

/* EDX:EAX, as 32-bit writes. */
static void set_edx_eax(struct x86_cpu *cpu, uint64_t value)
{
    cpu->gpr[RAX] = (uint32_t)value;
    cpu->gpr[RDX] = value >> 32;
}

EXEC(cpuid)
{
    uint32_t regs[4];

    x86_cpuid(cpu, (uint32_t)cpu->gpr[RAX], (uint32_t)cpu->gpr[RCX], regs);
    cpu->gpr[RAX] = regs[0];
    cpu->gpr[RBX] = regs[1];
    cpu->gpr[RCX] = regs[2];
    cpu->gpr[RDX] = regs[3];
    return X86_NEXT;
}

EXEC(rdtsc)
{
    if (cpu->cpl && (cpu->cr4 & CR4_TSD))
        return x86_raise_gp(cpu, 0);
    set_edx_eax(cpu, x86_guest_tsc(cpu));
    return X86_NEXT;
}

EXEC(rdtscp)
{
    if (cpu->cpl && (cpu->cr4 & CR4_TSD))
        return x86_raise_gp(cpu, 0);
    set_edx_eax(cpu, x86_guest_tsc(cpu));
    cpu->gpr[RCX] = (uint32_t)cpu->msr.tsc_aux;
    return X86_NEXT;
}

EXEC(rdpmc) /* no counters are offered: every index is invalid */
{
    return x86_raise_gp(cpu, 0);
}

EXEC(rdpid)
{
    x86_set_gpr(cpu, in->r0, in->w0, (uint32_t)cpu->msr.tsc_aux);
    return X86_NEXT;
}

EXEC(rdmsr)
{
    uint64_t value;

    if (cpu->cpl || !x86_rdmsr(cpu, (uint32_t)cpu->gpr[RCX], &value))
        return x86_raise_gp(cpu, 0);
    set_edx_eax(cpu, value);
    return X86_NEXT;
}

EXEC(wrmsr)
{
    uint64_t value = cpu->gpr[RDX] << 32 | (uint32_t)cpu->gpr[RAX];

    if (cpu->cpl || !x86_wrmsr(cpu, (uint32_t)cpu->gpr[RCX], value))
        return x86_raise_gp(cpu, 0);
    return X86_NEXT;
}

EXEC(rdfsbase) /* arg: FS or GS */
{
    if (!(cpu->cr4 & CR4_FSGSBASE))
        return x86_raise(cpu, VEC_UD);
    x86_set_gpr(cpu, in->r0, in->opsize, cpu->seg[in->arg].base);
    return X86_NEXT;
}

EXEC(wrfsbase) /* arg: FS or GS */
{
    uint64_t base = x86_get_gpr(cpu, in->r0, in->opsize);

    if (!(cpu->cr4 & CR4_FSGSBASE))
        return x86_raise(cpu, VEC_UD);
    if (!x86_canonical(base))
        return x86_raise_gp(cpu, 0);
    cpu->seg[in->arg].base = cpu->seg_base[in->arg] = base;
    return X86_NEXT;
}

EXEC(swapgs)
{
    uint64_t base = cpu->msr.kernel_gs_base;

    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    cpu->msr.kernel_gs_base = cpu->seg[SEG_GS].base;
    cpu->seg[SEG_GS].base = cpu->seg_base[SEG_GS] = base;
    return X86_NEXT;
}

/* KVM's ABI. */
EXEC(hypercall)
{
    x86_hypercall(cpu);
    return X86_NEXT;
}
