/*
 * x86/exec/tables.c: instructions on descriptor tables and descriptors
 * (SDM vol. 2; AMD APM vol. 3, chapter 4).
 */
#include "x86/exec/system.h"

static enum x86_rc load_table(struct x86_cpu *cpu, const struct x86_insn *in, struct x86_table *table)
{
    bool wide = cpu->mode == MODE_LONG64;
    uint8_t image[10];
    uint64_t base = 0;
    enum x86_rc rc;

    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    rc = x86_read(cpu, in->seg, x86_effective(cpu, in), image, wide ? 10 : 6);
    if (rc)
        return rc;
    memcpy(&base, image + 2, wide ? 8 : 4);
    if (in->opsize == 2 && !wide)
        base &= 0xffffff;
    if (wide && !x86_canonical(base))
        return x86_raise_gp(cpu, 0);
    memcpy(&table->limit, image, 2);
    table->base = base;
    return X86_NEXT;
}

static bool umip_forbids(const struct x86_cpu *cpu)
{
    return cpu->cpl && (cpu->cr4 & CR4_UMIP);
}

static enum x86_rc store_table(struct x86_cpu *cpu, const struct x86_insn *in, const struct x86_table *table)
{
    uint8_t image[10];

    if (umip_forbids(cpu))
        return x86_raise_gp(cpu, 0);
    memcpy(image, &table->limit, 2);
    memcpy(image + 2, &table->base, 8);
    return x86_write(cpu, in->seg, x86_effective(cpu, in), image, cpu->mode == MODE_LONG64 ? 10 : 6);
}

EXEC(lgdt)
{
    return load_table(cpu, in, &cpu->gdtr);
}

EXEC(lidt)
{
    return load_table(cpu, in, &cpu->idtr);
}

EXEC(sgdt)
{
    return store_table(cpu, in, &cpu->gdtr);
}

EXEC(sidt)
{
    return store_table(cpu, in, &cpu->idtr);
}

/* The 16-bit source operand; r: which register operand it is. */
static enum x86_rc read_selector(struct x86_cpu *cpu, const struct x86_insn *in, uint8_t r, uint16_t *selector)
{
    uint64_t value = 0;
    enum x86_rc rc;

    if (in->shape == SHAPE_R || in->shape == SHAPE_RR) {
        *selector = X86_GPR16(cpu, r);
        return X86_NEXT;
    }
    rc = x86_read_operand(cpu, in, &value, 2);
    *selector = (uint16_t)value;
    return rc;
}

static enum x86_rc store_selector(struct x86_cpu *cpu, const struct x86_insn *in, uint16_t selector)
{
    if (umip_forbids(cpu))
        return x86_raise_gp(cpu, 0);
    if (in->shape == SHAPE_M)
        return x86_write_operand(cpu, in, selector, 2);
    x86_set_gpr(cpu, in->r0, in->opsize, selector);
    return X86_NEXT;
}

EXEC(sldt)
{
    return store_selector(cpu, in, cpu->ldtr.selector);
}

EXEC(str)
{
    return store_selector(cpu, in, cpu->tr.selector);
}

EXEC(lldt)
{
    struct x86_segment ldt;
    uint16_t selector;
    enum x86_rc rc;

    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    rc = read_selector(cpu, in, in->r0, &selector);
    if (rc)
        return rc;
    rc = x86_check_ldt(cpu, selector, VEC_GP, VEC_NP, &ldt);
    if (rc)
        return rc;
    cpu->ldtr = ldt;
    return X86_NEXT;
}

static enum x86_rc check_tss(struct x86_cpu *cpu, uint16_t selector, struct x86_descriptor *d)
{
    uint32_t error = selector & SELECTOR_ERROR;
    unsigned type;
    enum x86_rc rc;

    if (x86_null_selector(selector) || (selector & SELECTOR_TI))
        return x86_raise_gp(cpu, error);
    rc = x86_read_descriptor(cpu, selector, VEC_GP, d);
    if (rc)
        return rc;
    type = x86_system_type(d->seg.attr);
    if (type != SYS_TSS && (type != SYS_TSS16 || x86_long_mode(cpu)))
        return x86_raise_gp(cpu, error);
    if (!(d->seg.attr & ATTR_P))
        return x86_raise_error(cpu, VEC_NP, error);
    rc = x86_read_descriptor_high(cpu, VEC_GP, d);
    if (rc)
        return rc;
    return x86_canonical(d->seg.base) ? X86_NEXT : x86_raise_gp(cpu, error);
}

EXEC(ltr)
{
    struct x86_descriptor d;
    uint16_t selector;
    enum x86_rc rc;

    if (cpu->cpl)
        return x86_raise_gp(cpu, 0);
    rc = read_selector(cpu, in, in->r0, &selector);
    if (rc)
        return rc;
    rc = check_tss(cpu, selector, &d);
    if (rc)
        return rc;
    rc = x86_set_busy(cpu, d.lin, true);
    if (rc)
        return rc;
    cpu->tr = d.seg;
    cpu->tr.attr |= TYPE_BUSY;
    return X86_NEXT;
}

/* The descriptor for LAR, LSL, VERR, VERW: *found is false where the selector is null or outside its table. */
static enum x86_rc look_up(struct x86_cpu *cpu, const struct x86_insn *in, uint8_t r, struct x86_descriptor *d,
                           bool *found)
{
    uint16_t selector;
    uint32_t limit;
    enum x86_rc rc = read_selector(cpu, in, r, &selector);

    if (rc)
        return rc;
    limit = selector & SELECTOR_TI ? (cpu->ldtr.attr & ATTR_P ? cpu->ldtr.limit : 0) : cpu->gdtr.limit;
    *found = !x86_null_selector(selector) && (selector | 7u) <= limit;
    return *found ? x86_read_descriptor(cpu, selector, VEC_GP, d) : X86_NEXT;
}

/* Visible at CPL and RPL. */
static bool visible(const struct x86_cpu *cpu, const struct x86_descriptor *d)
{
    return x86_is_conforming(d->seg.attr) ||
           (x86_dpl(&d->seg) >= cpu->cpl && x86_dpl(&d->seg) >= (d->seg.selector & SELECTOR_RPL));
}

static void set_zf(struct x86_cpu *cpu, bool zf)
{
    cpu->rflags = zf ? cpu->rflags | FLAG_ZF : cpu->rflags & ~(uint64_t)FLAG_ZF;
}

/* System types that LAR and LSL accept (SDM vol. 2, tables 3-55 and 3-59). */
#define LSL_TYPES_LONG (BIT(SYS_LDT) | BIT(SYS_TSS) | BIT(SYS_TSS_BUSY))
#define LSL_TYPES      (LSL_TYPES_LONG | BIT(SYS_TSS16) | BIT(SYS_TSS16_BUSY))
#define LAR_TYPES_LONG (LSL_TYPES_LONG | BIT(SYS_CALL))
#define LAR_TYPES      (LSL_TYPES | BIT(SYS_CALL) | BIT(SYS_CALL16) | BIT(SYS_TASK_GATE))

static enum x86_rc inspect(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t types, bool rights)
{
    struct x86_descriptor d;
    bool found, ok;
    enum x86_rc rc = look_up(cpu, in, in->r1, &d, &found);

    if (rc)
        return rc;
    ok = found && ((d.seg.attr & ATTR_S) || (types >> (d.seg.attr & ATTR_TYPE) & 1)) && visible(cpu, &d);
    if (ok)
        x86_set_gpr(cpu, in->r0, in->opsize, rights ? d.raw >> 32 & 0xffff00 : d.seg.limit);
    set_zf(cpu, ok);
    return X86_NEXT;
}

EXEC(lar)
{
    return inspect(cpu, in, x86_long_mode(cpu) ? LAR_TYPES_LONG : LAR_TYPES, true);
}

EXEC(lsl)
{
    return inspect(cpu, in, x86_long_mode(cpu) ? LSL_TYPES_LONG : LSL_TYPES, false);
}

EXEC(verr)
{
    struct x86_descriptor d;
    bool found;
    enum x86_rc rc = look_up(cpu, in, in->r0, &d, &found);

    if (rc)
        return rc;
    set_zf(cpu, found && (x86_is_data(d.seg.attr) || (x86_is_code(d.seg.attr) && (d.seg.attr & ATTR_READABLE))) &&
                    visible(cpu, &d));
    return X86_NEXT;
}

EXEC(verw)
{
    struct x86_descriptor d;
    bool found;
    enum x86_rc rc = look_up(cpu, in, in->r0, &d, &found);

    if (rc)
        return rc;
    set_zf(cpu, found && x86_is_data(d.seg.attr) && (d.seg.attr & ATTR_WRITABLE) && visible(cpu, &d));
    return X86_NEXT;
}

EXEC(arpl)
{
    uint16_t rpl = X86_GPR16(cpu, in->shape == SHAPE_RR ? in->r1 : in->r0) & SELECTOR_RPL;
    uint64_t selector;
    bool raise;
    enum x86_rc rc;

    if (in->shape == SHAPE_RR) {
        selector = X86_GPR16(cpu, in->r0);
        raise = (selector & SELECTOR_RPL) < rpl;
        if (raise)
            X86_GPR16(cpu, in->r0) = (uint16_t)((selector & ~(uint64_t)SELECTOR_RPL) | rpl);
    } else {
        if ((rc = x86_read_operand(cpu, in, &selector, 2)))
            return rc;
        raise = (selector & SELECTOR_RPL) < rpl;
        if (raise && (rc = x86_write_operand(cpu, in, (selector & ~(uint64_t)SELECTOR_RPL) | rpl, 2)))
            return rc;
    }
    set_zf(cpu, raise);
    return X86_NEXT;
}
