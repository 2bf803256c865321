/*
 * x86/exec/control.c: control and debug registers, TLB and cache control, HLT.
 */
#include "x86/exec/system.h"

#define DR6_FIXED    0xffff0ff0ull
#define DR6_WRITABLE 0xe00full
#define DR6_BD       BIT(13)
#define DR7_FIXED    0x400ull
#define DR7_WRITABLE 0xffff2fffull
#define DR7_GD       BIT(13)

/* Control and debug registers move 64 bits in 64-bit mode, else 32, whatever the prefixes. */
static unsigned register_size(const struct x86_cpu *cpu)
{
    return cpu->mode == MODE_LONG64 ? 8 : 4;
}

static enum x86_rc write_cr8(struct x86_cpu *cpu, uint64_t value)
{
    if (value > 15)
        return x86_raise_gp(cpu, 0);
    x86_lapic_set_tpr(cpu, (uint8_t)(value << 4));
    return X86_NEXT;
}

EXEC(mov_to_cr)
{
    uint64_t value = x86_get_gpr(cpu, in->r1, register_size(cpu));

    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    switch (in->r0) {
    case 0:
        return x86_write_cr0(cpu, value);
    case 2:
        cpu->cr2 = value;
        return X86_NEXT;
    case 3:
        return x86_write_cr3(cpu, value);
    case 4:
        return x86_write_cr4(cpu, value);
    case 8:
        return write_cr8(cpu, value);
    default:
        return x86_raise(cpu, VEC_UD);
    }
}

EXEC(mov_from_cr)
{
    uint64_t value;

    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    switch (in->r1) {
    case 0:
        value = cpu->cr0;
        break;
    case 2:
        value = cpu->cr2;
        break;
    case 3:
        value = cpu->cr3;
        break;
    case 4:
        value = cpu->cr4;
        break;
    case 8:
        value = x86_read_cr8(&cpu->lapic);
        break;
    default:
        return x86_raise(cpu, VEC_UD);
    }
    x86_set_gpr(cpu, in->r0, register_size(cpu), value);
    return X86_NEXT;
}

/* Which of DR0..3, 6, 7 is meant (DR4 and DR5 are 6 and 7, or #UD with CR4.DE), and may it be touched? */
static enum x86_rc check_dr(struct x86_cpu *cpu, unsigned *dr)
{
    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    if (*dr > 7 || ((*dr == 4 || *dr == 5) && (cpu->cr4 & CR4_DE)))
        return x86_raise(cpu, VEC_UD);
    if (cpu->dr[7] & DR7_GD) {
        x86_raise(cpu, VEC_DB);
        cpu->exc.cr2 = DR6_BD;
        return X86_FAULT;
    }
    if (*dr == 4 || *dr == 5)
        *dr += 2;
    return X86_NEXT;
}

EXEC(mov_to_dr)
{
    uint64_t value = x86_get_gpr(cpu, in->r1, register_size(cpu));
    unsigned dr = in->r0;
    enum x86_rc rc = check_dr(cpu, &dr);

    if (rc)
        return rc;
    if (dr >= 6 && value >> 32)
        return x86_raise_gp(cpu, 0);
    if (dr == 6)
        value = (value & DR6_WRITABLE) | DR6_FIXED;
    if (dr == 7)
        value = (value & DR7_WRITABLE) | DR7_FIXED;
    cpu->dr[dr] = value;
    x86_update_mode(cpu);
    return X86_NEXT;
}

EXEC(mov_from_dr)
{
    unsigned dr = in->r1;
    enum x86_rc rc = check_dr(cpu, &dr);

    if (rc)
        return rc;
    x86_set_gpr(cpu, in->r0, register_size(cpu), cpu->dr[dr]);
    return X86_NEXT;
}

EXEC(clts)
{
    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    cpu->cr0 &= ~CR0_TS;
    x86_update_mode(cpu);
    return X86_NEXT;
}

EXEC(lmsw)
{
    uint64_t value = X86_GPR16(cpu, in->r0);
    enum x86_rc rc;

    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    if (in->shape == SHAPE_M) {
        rc = x86_read_operand(cpu, in, &value, 2);
        if (rc)
            return rc;
    }
    /* PE can be set but not cleared. */
    return x86_write_cr0(cpu, (cpu->cr0 & ~(CR0_MP | CR0_EM | CR0_TS)) | (value & 0xf));
}

EXEC(smsw)
{
    if (cpu->cpl && (cpu->cr4 & CR4_UMIP))
        return x86_raise_gp(cpu, 0);
    if (in->shape == SHAPE_M)
        return x86_write_operand(cpu, in, cpu->cr0, 2);
    x86_set_gpr(cpu, in->r0, in->opsize, cpu->cr0);
    return X86_NEXT;
}

EXEC(invlpg)
{
    gva_t lin = (cpu->seg_base[in->seg] + x86_effective(cpu, in)) & cpu->lin_mask;

    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    if (x86_canonical(lin))
        x86_tlb_flush_page(cpu, lin);
    return X86_NEXT;
}

/* SDM vol. 2, INVPCID: a type in the register, PCID and address in the descriptor. */
EXEC(invpcid)
{
    uint64_t type = x86_get_gpr(cpu, in->r0, register_size(cpu)), descriptor[2], pcid;
    enum x86_rc rc;

    if (cpu->cpl || type > 3)
        return x86_raise_gp(cpu, 0);
    rc = x86_read(cpu, in->seg, x86_effective(cpu, in), descriptor, sizeof(descriptor));
    if (rc)
        return rc;
    pcid = descriptor[0];
    if (pcid >> 12 || (type < 2 && pcid && !(cpu->cr4 & CR4_PCIDE)) || (type == 0 && !x86_canonical(descriptor[1])))
        return x86_raise_gp(cpu, 0);
    if (type == 0)
        x86_tlb_flush_page(cpu, descriptor[1]);
    else if (type == 1)
        x86_tlb_flush_pcid(cpu, (uint16_t)pcid);
    else if (type == 2)
        x86_tlb_flush(cpu);
    else
        x86_tlb_flush_local(cpu);
    return X86_NEXT;
}

EXEC(cache_flush) /* WBINVD, INVD: there are no caches to be seen */
{
    return cpu->cpl ? x86_raise_gp(cpu, 0) : X86_NEXT;
}

EXEC(hlt)
{
    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    cpu->halted = true;
    return X86_NEXT;
}
