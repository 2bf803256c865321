/*
 * x86/segment.c: descriptor fetch, the checks of each kind of segment load, and
 * the stack pointers of the TSS. Loads are two steps, check and assign, so that
 * an instruction that loads several registers changes none before all faults.
 */
#include "x86/segment.h"

static enum x86_rc selector_fault(struct x86_cpu *cpu, uint8_t vector, uint16_t selector)
{
    return x86_raise_error(cpu, vector, selector & SELECTOR_ERROR);
}

enum x86_rc x86_read_descriptor(struct x86_cpu *cpu, uint16_t selector, uint8_t vector, struct x86_descriptor *d)
{
    unsigned offset = selector & ~7u;
    uint64_t base = cpu->gdtr.base;
    uint32_t limit = cpu->gdtr.limit;
    enum x86_rc rc;

    if (selector & SELECTOR_TI) {
        if (!(cpu->ldtr.attr & ATTR_P))
            return selector_fault(cpu, vector, selector);
        base = cpu->ldtr.base;
        limit = cpu->ldtr.limit;
    }
    if (offset + 7 > limit)
        return selector_fault(cpu, vector, selector);
    d->lin = x86_table_linear(cpu, base + offset);
    d->high = 0;
    rc = x86_system_read(cpu, d->lin, &d->raw, 8);
    if (unlikely(rc))
        return rc;
    d->seg = x86_unpack_descriptor(d->raw, selector);
    return X86_NEXT;
}

enum x86_rc x86_read_descriptor_high(struct x86_cpu *cpu, uint8_t vector, struct x86_descriptor *d)
{
    uint16_t selector = d->seg.selector;
    uint32_t limit = selector & SELECTOR_TI ? cpu->ldtr.limit : cpu->gdtr.limit;
    enum x86_rc rc;

    if (!x86_long_mode(cpu))
        return X86_NEXT;
    if ((selector & ~7u) + 15 > limit)
        return selector_fault(cpu, vector, selector);
    rc = x86_system_read(cpu, d->lin + 8, &d->high, 8);
    if (rc)
        return rc;
    if (d->high >> 32 & 0x1f00)
        return selector_fault(cpu, vector, selector);
    d->seg.base |= d->high << 32;
    return X86_NEXT;
}

/* Sets or clears bits of a descriptor's type byte, whatever other processors do to it. */
static enum x86_rc change_type(struct x86_cpu *cpu, gva_t descriptor, uint8_t bits, bool set)
{
    const gva_t lin = descriptor + 5;
    uint8_t type;
    void *host;
    enum x86_rc rc = x86_rmw_pointer(cpu, lin, 1, ACCESS_WRITE | ACCESS_IMPLICIT, &host);

    if (rc)
        return rc;
    if (host) {
        if (set)
            __atomic_fetch_or((uint8_t *)host, bits, __ATOMIC_SEQ_CST);
        else
            __atomic_fetch_and((uint8_t *)host, (uint8_t)~bits, __ATOMIC_SEQ_CST);
        x86_rmw_written(cpu, lin, 1, ACCESS_WRITE | ACCESS_IMPLICIT);
        return X86_NEXT;
    }
    rc = x86_system_read(cpu, lin, &type, 1); /* not in RAM */
    if (rc)
        return rc;
    type = (uint8_t)(set ? type | bits : type & ~bits);
    return x86_system_write(cpu, lin, &type, 1);
}

enum x86_rc x86_set_accessed(struct x86_cpu *cpu, struct x86_descriptor *d)
{
    if (likely(d->seg.attr & ATTR_ACCESSED))
        return X86_NEXT;
    d->seg.attr |= ATTR_ACCESSED;
    return change_type(cpu, d->lin, ATTR_ACCESSED, true);
}

enum x86_rc x86_set_busy(struct x86_cpu *cpu, gva_t descriptor, bool busy)
{
    return change_type(cpu, descriptor, TYPE_BUSY, busy);
}

enum x86_rc x86_check_data(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, uint8_t vector,
                           struct x86_segment *out)
{
    struct x86_descriptor d;
    enum x86_rc rc;

    if (x86_null_selector(selector)) {
        *out = (struct x86_segment){.selector = selector};
        return X86_NEXT;
    }
    rc = x86_read_descriptor(cpu, selector, vector, &d);
    if (rc)
        return rc;
    if (!x86_is_data(d.seg.attr) && !(x86_is_code(d.seg.attr) && (d.seg.attr & ATTR_READABLE)))
        return selector_fault(cpu, vector, selector);
    if (!x86_is_conforming(d.seg.attr) && (x86_dpl(&d.seg) < cpl || x86_dpl(&d.seg) < (selector & SELECTOR_RPL)))
        return selector_fault(cpu, vector, selector);
    if (!(d.seg.attr & ATTR_P))
        return selector_fault(cpu, VEC_NP, selector);
    rc = x86_set_accessed(cpu, &d);
    *out = d.seg;
    return rc;
}

enum x86_rc x86_check_ss(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, bool null_ok, uint8_t vector,
                         struct x86_segment *out)
{
    struct x86_descriptor d;
    enum x86_rc rc;

    if (x86_null_selector(selector)) {
        if (!null_ok || cpl == 3 || (selector & SELECTOR_RPL) != cpl)
            return x86_raise_error(cpu, vector, 0);
        *out = (struct x86_segment){.selector = selector, .attr = (uint16_t)(cpl << ATTR_DPL_SHIFT)};
        return X86_NEXT;
    }
    rc = x86_read_descriptor(cpu, selector, vector, &d);
    if (rc)
        return rc;
    if ((selector & SELECTOR_RPL) != cpl || x86_dpl(&d.seg) != cpl || !x86_is_data(d.seg.attr) ||
        !(d.seg.attr & ATTR_WRITABLE))
        return selector_fault(cpu, vector, selector);
    if (!(d.seg.attr & ATTR_P))
        return selector_fault(cpu, VEC_SS, selector);
    rc = x86_set_accessed(cpu, &d);
    *out = d.seg;
    return rc;
}

enum x86_rc x86_check_ldt(struct x86_cpu *cpu, uint16_t selector, uint8_t vector, uint8_t absent,
                          struct x86_segment *out)
{
    struct x86_descriptor d;
    enum x86_rc rc;

    if (x86_null_selector(selector)) {
        *out = (struct x86_segment){.selector = selector};
        return X86_NEXT;
    }
    if (selector & SELECTOR_TI)
        return selector_fault(cpu, vector, selector);
    rc = x86_read_descriptor(cpu, selector, vector, &d);
    if (rc)
        return rc;
    if (x86_system_type(d.seg.attr) != SYS_LDT)
        return selector_fault(cpu, vector, selector);
    rc = x86_read_descriptor_high(cpu, vector, &d);
    if (rc)
        return rc;
    if (!(d.seg.attr & ATTR_P))
        return selector_fault(cpu, absent, selector);
    if (!x86_canonical(d.seg.base))
        return selector_fault(cpu, vector, selector);
    *out = d.seg;
    return X86_NEXT;
}

struct x86_segment x86_real_segment(const struct x86_cpu *cpu, unsigned seg, uint16_t selector)
{
    struct x86_segment s = cpu->seg[seg];

    s.selector = selector;
    s.base = (uint64_t)selector << 4;
    if (cpu->rflags & FLAG_VM) { /* SDM vol. 3, 20.1.1: always these; real mode keeps limit and attributes */
        s.limit = 0xffff;
        s.attr = ATTR_P | ATTR_DPL | ATTR_S | ATTR_WRITABLE | ATTR_ACCESSED;
    } else if (!(s.attr & ATTR_P)) { /* null in protected mode, loaded after the way back to real mode */
        s.limit = 0xffff;
        s.attr = ATTR_P | ATTR_S | ATTR_WRITABLE | ATTR_ACCESSED;
    }
    return s;
}

enum x86_rc x86_check_segment_load(struct x86_cpu *cpu, unsigned seg, uint16_t selector, struct x86_segment *out)
{
    if (!x86_protected(cpu)) {
        *out = x86_real_segment(cpu, seg, selector);
        return X86_NEXT;
    }
    if (seg == SEG_SS)
        return x86_check_ss(cpu, selector, cpu->cpl, cpu->mode == MODE_LONG64, VEC_GP, out);
    return x86_check_data(cpu, selector, cpu->cpl, VEC_GP, out);
}

/* SDM vol. 3, 7.2.1, 7.6, 7.7: the layouts of the three TSSs. */
enum x86_rc x86_tss_stack(struct x86_cpu *cpu, unsigned level, uint64_t *sp, uint16_t *ss)
{
    bool wide = x86_long_mode(cpu), tss32 = (cpu->tr.attr & ATTR_TYPE) & 8;
    unsigned offset = wide || tss32 ? 4 + level * 8 : 2 + level * 4;
    unsigned size = wide ? 8 : tss32 ? 6 : 4;
    uint64_t slot = 0;
    enum x86_rc rc;

    if (offset + size - 1 > cpu->tr.limit || !(cpu->tr.attr & ATTR_P))
        return selector_fault(cpu, VEC_TS, cpu->tr.selector);
    rc = x86_system_read(cpu, x86_table_linear(cpu, cpu->tr.base + offset), &slot, size);
    if (unlikely(rc))
        return rc;
    if (wide) {
        *sp = slot;
    } else {
        *sp = tss32 ? (uint32_t)slot : (uint16_t)slot;
        *ss = (uint16_t)(slot >> (tss32 ? 32 : 16));
    }
    return X86_NEXT;
}

enum x86_rc x86_tss_ist(struct x86_cpu *cpu, unsigned ist, uint64_t *sp)
{
    unsigned offset = 0x1c + ist * 8;

    if (offset + 7 > cpu->tr.limit || !(cpu->tr.attr & ATTR_P))
        return selector_fault(cpu, VEC_TS, cpu->tr.selector);
    return x86_system_read(cpu, cpu->tr.base + offset, sp, 8);
}

bool x86_in_limit(const struct x86_segment *seg, uint64_t offset, unsigned size)
{
    uint64_t last = offset + size - 1;

    if (x86_is_data(seg->attr) && (seg->attr & ATTR_EXPAND_DOWN))
        return offset > seg->limit && last <= (seg->attr & ATTR_DB ? 0xffffffffu : 0xffffu);
    return last <= seg->limit;
}
