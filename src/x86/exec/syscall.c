/*
 * x86/exec/syscall.c: SYSCALL, SYSRET, SYSENTER, SYSEXIT (AMD APM vol. 3; SDM
 * vol. 2): flat segments without a look at any descriptor.
 */
#include "x86/exec/system.h"

#define FLAT_CODE    (ATTR_P | ATTR_S | ATTR_CODE | ATTR_READABLE | ATTR_ACCESSED | ATTR_G)
#define FLAT_DATA    (ATTR_P | ATTR_S | ATTR_WRITABLE | ATTR_ACCESSED | ATTR_G | ATTR_DB)
#define SYSRET_FLAGS 0x3c7fd7ull /* all but RF and VM */

static struct x86_segment flat(unsigned selector, unsigned cpl, unsigned attr)
{
    return (struct x86_segment){.limit = 0xffffffff,
                                .selector = (uint16_t)((selector & ~SELECTOR_RPL) | cpl),
                                .attr = (uint16_t)(attr | cpl << ATTR_DPL_SHIFT)};
}

static enum x86_rc enter_flat(struct x86_cpu *cpu, unsigned cs, unsigned ss, unsigned cpl, bool wide, uint64_t rip)
{
    cpu->seg[SEG_CS] = flat(cs, cpl, FLAT_CODE | (wide ? ATTR_L : ATTR_DB));
    cpu->seg[SEG_SS] = flat(ss, cpl, FLAT_DATA);
    cpu->rip = rip;
    x86_update_mode(cpu);
    return X86_JUMP;
}

EXEC(syscall)
{
    unsigned cs = (uint16_t)(cpu->msr.star >> 32);
    bool wide = cpu->mode == MODE_LONG64;

    if (unlikely(!(cpu->msr.efer & EFER_SCE) || (!wide && x86_vendor_intel(cpu))))
        return x86_raise(cpu, VEC_UD);
    cpu->gpr[RCX] = x86_next_rip(cpu, in);
    if (unlikely(!x86_long_mode(cpu))) {
        cpu->rflags &= ~(uint64_t)(FLAG_IF | FLAG_VM | FLAG_RF);
        return enter_flat(cpu, cs, cs + 8, 0, false, (uint32_t)cpu->msr.star);
    }
    cpu->gpr[R11] = cpu->rflags & ~(uint64_t)FLAG_RF;
    cpu->rflags &= ~(cpu->msr.sfmask | FLAG_RF);
    cpu->rflags |= FLAG_FIXED;
    return enter_flat(cpu, cs, cs + 8, 0, true, wide ? cpu->msr.lstar : cpu->msr.cstar);
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
    cpu->rflags = (cpu->gpr[R11] & SYSRET_FLAGS) | FLAG_FIXED;
    return enter_flat(cpu, in->opsize == 8 ? cs + 16 : cs, cs + 8, 3, in->opsize == 8, rip);
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
