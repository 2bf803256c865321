/*
 * x86/exec/syscall.c: SYSCALL, SYSRET, SYSENTER, SYSEXIT (AMD APM vol. 3; SDM
 * vol. 2): flat segments without a look at any descriptor.
 */
#include "x86/exec/flat.h"
#include "x86/exec/system.h"
#include "x86/intr.h"

/* Unlike IRET and POPF, SYSCALL and SYSRET trap at once if TF is set when they are done, whatever it was before: no
 * manual says so, processors of both makers do it, and Linux's entry code counts on it. */
static enum x86_rc trap_or_jump(struct x86_cpu *cpu)
{
    if (likely(!(cpu->rflags & FLAG_TF)))
        return X86_JUMP;
    x86_raise(cpu, VEC_DB);
    cpu->exc.cr2 = DR6_BS;
    return X86_FAULT;
}

static enum x86_rc enter_flat(struct x86_cpu *cpu, unsigned cs, unsigned ss, unsigned cpl, bool wide, uint64_t rip)
{
    flat_enter(cpu, cs, ss, cpl, wide, rip);
    x86_update_mode(cpu);
    return X86_JUMP;
}

EXEC(syscall)
{
    const unsigned cs = (uint16_t)(cpu->msr.star >> 32);
    const bool wide = cpu->mode == MODE_LONG64;

    if (unlikely(!(cpu->msr.efer & EFER_SCE) || (!wide && x86_vendor_intel(cpu))))
        return x86_raise(cpu, VEC_UD);
    if (unlikely(!x86_long_mode(cpu))) {
        cpu->gpr[RCX] = x86_next_rip(cpu, in);
        cpu->rflags &= ~(uint64_t)(FLAG_IF | FLAG_VM | FLAG_RF);
        enter_flat(cpu, cs, cs + 8, 0, false, (uint32_t)cpu->msr.star);
        return trap_or_jump(cpu);
    }
    flat_syscall(cpu, x86_next_rip(cpu, in), wide ? cpu->msr.lstar : cpu->msr.cstar);
    x86_update_mode(cpu);
    return trap_or_jump(cpu);
}

EXEC(sysret)
{
    unsigned cs = (uint16_t)(cpu->msr.star >> 48);
    bool wide = cpu->mode == MODE_LONG64;
    uint64_t rip = in->opsize == 8 ? cpu->gpr[RCX] : (uint32_t)cpu->gpr[RCX];

    if (unlikely(!(cpu->msr.efer & EFER_SCE) || (!wide && x86_vendor_intel(cpu))))
        return x86_raise(cpu, VEC_UD);
    if (unlikely(cpu->cpl || !(cpu->cr0 & CR0_PE)))
        return x86_raise_gp(cpu, 0);
    /* Intel checks RIP here, still at privilege 0; AMD when it is fetched from, at 3. */
    if (unlikely(!x86_canonical(rip) && x86_vendor_intel(cpu)))
        return x86_raise_gp(cpu, 0);
    if (unlikely(!wide)) {
        cpu->rflags |= FLAG_IF;
        return enter_flat(cpu, cs, cs + 8, 3, false, rip);
    }
    flat_sysret(cpu, in->opsize == 8, rip);
    x86_update_mode(cpu);
    return trap_or_jump(cpu);
}

/* AMD has no SYSENTER and SYSEXIT in long mode. */
static bool sysenter_undefined(struct x86_cpu *cpu)
{
    return x86_long_mode(cpu) && !x86_vendor_intel(cpu);
}

EXEC(sysenter)
{
    unsigned cs = (uint16_t)cpu->msr.sysenter_cs;
    bool wide = x86_long_mode(cpu);

    if (sysenter_undefined(cpu))
        return x86_raise(cpu, VEC_UD);
    if (!(cpu->cr0 & CR0_PE) || x86_null_selector((uint16_t)cs))
        return x86_raise_gp(cpu, 0);
    cpu->rflags &= ~(uint64_t)(FLAG_VM | FLAG_IF | FLAG_RF);
    cpu->gpr[RSP] = wide ? cpu->msr.sysenter_esp : (uint32_t)cpu->msr.sysenter_esp;
    return enter_flat(cpu, cs, cs + 8, 0, wide, wide ? cpu->msr.sysenter_eip : (uint32_t)cpu->msr.sysenter_eip);
}

EXEC(sysexit)
{
    unsigned cs = (uint16_t)cpu->msr.sysenter_cs;
    bool wide = in->opsize == 8;
    uint64_t rip = wide ? cpu->gpr[RDX] : (uint32_t)cpu->gpr[RDX];
    uint64_t rsp = wide ? cpu->gpr[RCX] : (uint32_t)cpu->gpr[RCX];

    if (sysenter_undefined(cpu))
        return x86_raise(cpu, VEC_UD);
    if (cpu->cpl || !(cpu->cr0 & CR0_PE) || x86_null_selector((uint16_t)cs) || !x86_canonical(rip) ||
        !x86_canonical(rsp))
        return x86_raise_gp(cpu, 0);
    cpu->gpr[RSP] = rsp;
    cs += wide ? 32 : 16;
    return enter_flat(cpu, cs, cs + 8, 3, wide, rip);
}
