/*
 * x86/exec/flags.c: RFLAGS as a whole, the interrupt flag, software interrupts.
 * Virtual interrupts (CR4.VME, PVI) are not offered: IOPL alone decides.
 */
#include "x86/exec/system.h"

static unsigned iopl(const struct x86_cpu *cpu)
{
    return (unsigned)(cpu->rflags & FLAG_IOPL) >> 12;
}

/* In virtual-8086 mode PUSHF, POPF, INT n need IOPL 3. */
static bool vm86_forbids(const struct x86_cpu *cpu)
{
    return (cpu->rflags & FLAG_VM) && iopl(cpu) < 3;
}

EXEC(cli)
{
    if (unlikely(cpu->cpl > iopl(cpu)))
        return x86_raise_gp(cpu, 0);
    cpu->rflags &= ~(uint64_t)FLAG_IF;
    return X86_NEXT;
}

EXEC(sti)
{
    if (unlikely(cpu->cpl > iopl(cpu)))
        return x86_raise_gp(cpu, 0);
    if (!(cpu->rflags & FLAG_IF))
        cpu->int_shadow = SHADOW_STI;
    cpu->rflags |= FLAG_IF;
    return X86_NEXT;
}

EXEC(stac)
{
    if (cpu->cpl)
        return x86_raise(cpu, VEC_UD);
    cpu->rflags |= FLAG_AC;
    x86_update_mode(cpu);
    return X86_NEXT;
}

EXEC(clac)
{
    if (cpu->cpl)
        return x86_raise(cpu, VEC_UD);
    cpu->rflags &= ~(uint64_t)FLAG_AC;
    x86_update_mode(cpu);
    return X86_NEXT;
}

EXEC(pushf)
{
    if (vm86_forbids(cpu))
        return x86_raise_gp(cpu, 0);
    return x86_push(cpu, cpu->rflags & ~(uint64_t)(FLAG_VM | FLAG_RF), in->opsize);
}

EXEC(popf)
{
    uint64_t mask = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID, value, changed;
    enum x86_rc rc;

    if (vm86_forbids(cpu))
        return x86_raise_gp(cpu, 0);
    rc = x86_pop(cpu, &value, in->opsize);
    if (rc)
        return rc;
    if (cpu->cpl == 0)
        mask |= FLAG_IOPL;
    if (cpu->cpl <= iopl(cpu))
        mask |= FLAG_IF;
    if (in->opsize == 2)
        mask &= 0xffff;
    changed = (cpu->rflags ^ value) & mask;
    cpu->rflags = (cpu->rflags ^ changed) & ~(uint64_t)FLAG_RF;
    if (changed & (FLAG_TF | FLAG_AC))
        x86_update_mode(cpu);
    return X86_NEXT;
}

EXEC(int)
{
    if (vm86_forbids(cpu))
        return x86_raise_gp(cpu, 0);
    return x86_software_interrupt(cpu, (uint8_t)in->imm, x86_next_rip(cpu, in));
}

EXEC(int1)
{
    return x86_icebp(cpu, x86_next_rip(cpu, in));
}

EXEC(int3)
{
    return x86_software_interrupt(cpu, VEC_BP, x86_next_rip(cpu, in));
}

EXEC(into)
{
    if (!(cpu->rflags & FLAG_OF))
        return X86_NEXT;
    return x86_software_interrupt(cpu, VEC_OF, x86_next_rip(cpu, in));
}
