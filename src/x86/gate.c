/*
 * x86/gate.c: through one IDT gate, or IVT entry, to its handler (SDM vol. 3,
 * 6.12 and 6.14, and vol. 2, INT n; AMD APM vol. 2, 8.7 to 8.9). Everything is
 * checked and pushed before any register changes.
 */
#include "x86/gate.h"
#include "x86/segment.h"
#include "x86/task.h"

struct gate {
    uint16_t selector, attr; /* attr as in struct x86_segment */
    uint64_t offset;
    unsigned ist;
};

static enum x86_rc deliver_real(struct x86_cpu *cpu, const struct x86_delivery *d)
{
    struct x86_stack stack = x86_current_stack(cpu);
    uint64_t frame[] = {d->rflags, cpu->seg[SEG_CS].selector, d->rip};
    uint32_t entry;
    enum x86_rc rc;

    if (d->vector * 4u + 3 > cpu->idtr.limit)
        return x86_raise_gp(cpu, IDT_ERROR(d->vector));
    rc = x86_system_read(cpu, x86_table_linear(cpu, cpu->idtr.base + d->vector * 4u), &entry, 4);
    if (rc)
        return rc;
    rc = x86_stack_push(cpu, &stack, frame, ARRAY_SIZE(frame), 2);
    if (rc)
        return rc;
    x86_stack_load(cpu, &stack, cpu->gpr[RSP]);
    cpu->seg[SEG_CS] = x86_real_segment(cpu, SEG_CS, (uint16_t)(entry >> 16));
    cpu->rip = (uint16_t)entry;
    cpu->rflags &= ~(uint64_t)(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
    x86_update_mode(cpu);
    return X86_JUMP;
}

/* Reads the gate and checks all that lies in itself. */
static enum x86_rc read_gate(struct x86_cpu *cpu, const struct x86_delivery *d, struct gate *gate)
{
    bool wide = x86_long_mode(cpu);
    unsigned size = wide ? 16 : 8, type;
    uint64_t raw[2] = {0};
    enum x86_rc rc;

    if (unlikely(d->vector * size + size - 1 > cpu->idtr.limit))
        return x86_raise_gp(cpu, IDT_ERROR(d->vector));
    rc = x86_system_read(cpu, x86_table_linear(cpu, cpu->idtr.base + d->vector * size), raw, size);
    if (unlikely(rc))
        return rc;
    gate->selector = (uint16_t)(raw[0] >> 16);
    gate->attr = (uint16_t)(raw[0] >> 40 & 0xff);
    gate->offset = (raw[0] & 0xffff) | (raw[0] >> 32 & 0xffff0000);
    gate->ist = 0;
    if (wide) {
        gate->offset |= raw[1] << 32;
        gate->ist = raw[0] >> 32 & 7;
    }
    type = x86_system_type(gate->attr);
    if (type != SYS_INT && type != SYS_TRAP &&
        (wide || (type != SYS_TASK_GATE && type != SYS_INT16 && type != SYS_TRAP16)))
        return x86_raise_gp(cpu, IDT_ERROR(d->vector));
    if (d->soft && (gate->attr & ATTR_DPL) >> ATTR_DPL_SHIFT < cpu->cpl)
        return x86_raise_gp(cpu, IDT_ERROR(d->vector));
    if (!(gate->attr & ATTR_P))
        return x86_raise_error(cpu, VEC_NP, IDT_ERROR(d->vector));
    return X86_NEXT;
}

/* The handler's code segment, RPL replaced by the privilege level it will run at. */
static enum x86_rc read_handler_cs(struct x86_cpu *cpu, const struct gate *gate, struct x86_segment *cs, unsigned *cpl)
{
    uint16_t selector = gate->selector & ~SELECTOR_RPL;
    struct x86_descriptor desc;
    enum x86_rc rc;

    if (x86_null_selector(selector))
        return x86_raise_gp(cpu, 0);
    rc = x86_read_descriptor(cpu, selector, VEC_GP, &desc);
    if (unlikely(rc))
        return rc;
    if (!x86_is_code(desc.seg.attr) || x86_dpl(&desc.seg) > cpu->cpl)
        return x86_raise_gp(cpu, selector);
    if (x86_long_mode(cpu) && (desc.seg.attr & (ATTR_L | ATTR_DB)) != ATTR_L)
        return x86_raise_gp(cpu, selector);
    *cpl = x86_is_conforming(desc.seg.attr) ? cpu->cpl : x86_dpl(&desc.seg);
    if ((cpu->rflags & FLAG_VM) && *cpl != 0)
        return x86_raise_gp(cpu, selector);
    if (!(desc.seg.attr & ATTR_P))
        return x86_raise_error(cpu, VEC_NP, selector);
    rc = x86_set_accessed(cpu, &desc);
    *cs = desc.seg;
    cs->selector |= (uint16_t)*cpl;
    return rc;
}

static void enter_handler(struct x86_cpu *cpu, const struct gate *gate, const struct x86_segment *cs)
{
    uint64_t clear = FLAG_NT | FLAG_TF | FLAG_VM | FLAG_RF;

    if (!(gate->attr & 1)) /* interrupt gates; trap gates leave IF */
        clear |= FLAG_IF;
    cpu->rflags &= ~clear;
    cpu->seg[SEG_CS] = *cs;
    cpu->rip = gate->offset;
    x86_update_mode(cpu);
}

/* APM vol. 2, 8.9: always SS:RSP too, on a stack aligned to 16 bytes. */
static enum x86_rc deliver_long(struct x86_cpu *cpu, const struct x86_delivery *d)
{
    uint64_t frame[6] = {cpu->seg[SEG_SS].selector, cpu->gpr[RSP], d->rflags,
                         cpu->seg[SEG_CS].selector, d->rip,        d->error};
    struct x86_stack stack = {.ss = cpu->seg[SEG_SS], .sp = cpu->gpr[RSP], .mask = ~(uint64_t)0, .flat = true};
    struct x86_segment cs;
    struct gate gate;
    unsigned cpl;
    enum x86_rc rc = read_gate(cpu, d, &gate);

    if (unlikely(rc))
        return rc;
    rc = read_handler_cs(cpu, &gate, &cs, &cpl);
    if (unlikely(rc))
        return rc;
    if (gate.ist)
        rc = x86_tss_ist(cpu, gate.ist, &stack.sp);
    else if (cpl < cpu->cpl)
        rc = x86_tss_stack(cpu, cpl, &stack.sp, NULL);
    if (unlikely(rc))
        return rc;
    /* Compatibility mode's accesses wrap at 32 bits, the handler's stack does not. */
    if (cpl < cpu->cpl || (cpl < 3 && cpu->mode != MODE_LONG64))
        stack.access = ACCESS_IMPLICIT;
    if (cpl < cpu->cpl)
        stack.ss = (struct x86_segment){.selector = (uint16_t)cpl, .attr = (uint16_t)(cpl << ATTR_DPL_SHIFT)};
    if (unlikely(!x86_canonical(gate.offset)))
        return x86_raise_gp(cpu, 0);
    stack.sp &= ~(uint64_t)15;
    rc = x86_stack_push(cpu, &stack, frame, 5 + d->has_error, 8);
    if (unlikely(rc))
        return rc;
    cpu->seg[SEG_SS] = stack.ss;
    cpu->gpr[RSP] = stack.sp;
    enter_handler(cpu, &gate, &cs);
    return X86_JUMP;
}

/* Virtual-8086 mode's data segments are saved and become null. */
static unsigned push_vm86_segments(const struct x86_cpu *cpu, uint64_t *frame)
{
    frame[0] = cpu->seg[SEG_GS].selector;
    frame[1] = cpu->seg[SEG_FS].selector;
    frame[2] = cpu->seg[SEG_DS].selector;
    frame[3] = cpu->seg[SEG_ES].selector;
    return 4;
}

static void null_data_segments(struct x86_cpu *cpu)
{
    cpu->seg[SEG_DS] = cpu->seg[SEG_ES] = cpu->seg[SEG_FS] = cpu->seg[SEG_GS] = (struct x86_segment){0};
}

/* The stack of the handler's level, from the TSS. */
static enum x86_rc inner_stack(struct x86_cpu *cpu, unsigned cpl, struct x86_stack *stack)
{
    struct x86_segment ss;
    uint16_t selector;
    uint64_t sp;
    enum x86_rc rc = x86_tss_stack(cpu, cpl, &sp, &selector);

    if (rc)
        return rc;
    rc = x86_check_ss(cpu, selector, cpl, false, VEC_TS, &ss);
    if (rc)
        return rc;
    *stack = x86_legacy_stack(&ss, sp);
    stack->access = ACCESS_IMPLICIT;
    stack->error = selector & SELECTOR_ERROR;
    return X86_NEXT;
}

static enum x86_rc deliver_protected(struct x86_cpu *cpu, const struct x86_delivery *d)
{
    bool vm86 = cpu->rflags & FLAG_VM;
    struct x86_stack stack = x86_current_stack(cpu);
    uint64_t frame[10], upper = cpu->gpr[RSP];
    struct x86_segment cs;
    struct gate gate;
    unsigned cpl, n = 0;
    enum x86_rc rc = read_gate(cpu, d, &gate);

    if (rc)
        return rc;
    if (x86_system_type(gate.attr) == SYS_TASK_GATE)
        return x86_task_interrupt(cpu, gate.selector, d);
    rc = read_handler_cs(cpu, &gate, &cs, &cpl);
    if (rc)
        return rc;
    if (cpl < cpu->cpl) {
        rc = inner_stack(cpu, cpl, &stack);
        if (rc)
            return rc;
        upper = stack.sp;
        if (vm86)
            n = push_vm86_segments(cpu, frame);
        frame[n++] = cpu->seg[SEG_SS].selector;
        frame[n++] = cpu->gpr[RSP];
    }
    if (!(gate.attr & 8))
        gate.offset = (uint16_t)gate.offset;
    if (gate.offset > cs.limit)
        return x86_raise_gp(cpu, 0);
    frame[n++] = d->rflags;
    frame[n++] = cpu->seg[SEG_CS].selector;
    frame[n++] = d->rip;
    if (d->has_error)
        frame[n++] = d->error;
    rc = x86_stack_push(cpu, &stack, frame, n, gate.attr & 8 ? 4 : 2);
    if (rc)
        return rc;
    x86_stack_load(cpu, &stack, upper);
    if (vm86)
        null_data_segments(cpu);
    enter_handler(cpu, &gate, &cs);
    return X86_JUMP;
}

enum x86_rc x86_deliver(struct x86_cpu *cpu, const struct x86_delivery *d)
{
    if (likely(x86_long_mode(cpu)))
        return deliver_long(cpu, d);
    return cpu->cr0 & CR0_PE ? deliver_protected(cpu, d) : deliver_real(cpu, d);
}
