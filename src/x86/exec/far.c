/*
 * x86/exec/far.c: far JMP, CALL and RET (SDM vol. 2; AMD APM vol. 3, and vol. 2,
 * 4.11): direct, through call gates, to tasks. returns are in return.c.
 */
#include "x86/exec/far.h"
#include "x86/exec/system.h"
#include "x86/task.h"

struct far {
    uint16_t selector;
    uint64_t offset;
    unsigned size; /* of what a call pushes */
    bool call;
    uint64_t next; /* where a call returns to */
};

static enum x86_rc selector_gp(struct x86_cpu *cpu, uint16_t selector)
{
    return x86_raise_gp(cpu, selector & SELECTOR_ERROR);
}

enum x86_rc x86_check_target(struct x86_cpu *cpu, const struct x86_segment *cs, uint64_t rip)
{
    bool ok = x86_long_mode(cpu) && (cs->attr & ATTR_L) ? x86_canonical(rip) : rip <= cs->limit;

    return ok ? X86_NEXT : x86_raise_gp(cpu, 0);
}

/* AMD's processors know no 64-bit offset: with REX.W they read the one of 32 bits (AMD APM vol. 3, LFS). */
enum x86_rc x86_read_far_pointer(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t *offset, uint16_t *selector)
{
    unsigned size = in->opsize == 8 && !x86_vendor_intel(cpu) ? 4 : in->opsize;
    uint64_t ea = x86_effective(cpu, in), mask = in->addrsize == 8 ? ~0ull : BIT(8 * in->addrsize) - 1;
    enum x86_rc rc;

    *offset = 0;
    rc = x86_read(cpu, in->seg, ea, offset, size); /* each part is aligned on its own */
    return rc ? rc : x86_read(cpu, in->seg, (ea + size) & mask, selector, 2);
}

static enum x86_rc far_real(struct x86_cpu *cpu, const struct far *f)
{
    struct x86_segment cs = x86_real_segment(cpu, SEG_CS, f->selector);
    struct x86_stack stack = x86_current_stack(cpu);
    uint64_t frame[] = {cpu->seg[SEG_CS].selector, f->next};
    enum x86_rc rc = f->offset <= cs.limit ? X86_NEXT : x86_raise_gp(cpu, 0);

    if (!rc && f->call)
        rc = x86_stack_push(cpu, &stack, frame, 2, f->size);
    if (rc)
        return rc;
    x86_set_gpr(cpu, RSP * 8, cpu->stack_size, stack.sp);
    cpu->seg[SEG_CS] = cs;
    cpu->rip = f->offset;
    x86_update_mode(cpu);
    return X86_JUMP;
}

/* To a code segment that has passed all checks but the target's, at the same privilege. */
static enum x86_rc same_level(struct x86_cpu *cpu, const struct far *f, struct x86_descriptor *code)
{
    struct x86_stack stack = x86_current_stack(cpu);
    uint64_t frame[] = {cpu->seg[SEG_CS].selector, f->next};
    enum x86_rc rc = x86_check_target(cpu, &code->seg, f->offset);

    /* What is called in 64-bit code finds its frame where that sees the stack: SS's base and limit are not looked at.
     * The manuals do not say so, processors (AMD's) do. */
    stack.flat |= x86_long_mode(cpu) && (code->seg.attr & ATTR_L);
    if (!rc)
        rc = x86_set_accessed(cpu, code);
    if (!rc && f->call)
        rc = x86_stack_push(cpu, &stack, frame, 2, f->size);
    if (rc)
        return rc;
    x86_set_gpr(cpu, RSP * 8, cpu->stack_size, stack.sp);
    cpu->seg[SEG_CS] = code->seg;
    cpu->seg[SEG_CS].selector = (uint16_t)((code->seg.selector & ~SELECTOR_RPL) | cpu->cpl);
    cpu->rip = f->offset;
    x86_update_mode(cpu);
    return X86_JUMP;
}

static enum x86_rc to_code(struct x86_cpu *cpu, const struct far *f, struct x86_descriptor *d)
{
    unsigned dpl = x86_dpl(&d->seg);

    if (x86_is_conforming(d->seg.attr) ? dpl > cpu->cpl : dpl != cpu->cpl || (f->selector & SELECTOR_RPL) > cpu->cpl)
        return selector_gp(cpu, f->selector);
    if (x86_long_mode(cpu) && (d->seg.attr & (ATTR_L | ATTR_DB)) == (ATTR_L | ATTR_DB))
        return selector_gp(cpu, f->selector);
    if (!(d->seg.attr & ATTR_P))
        return x86_raise_error(cpu, VEC_NP, f->selector & SELECTOR_ERROR);
    return same_level(cpu, f, d);
}

/* The stack of a more privileged level, and in legacy modes the call's parameters from the current one. frame takes
 * SS, RSP and them; returns how many in *n. */
static enum x86_rc inner_stack(struct x86_cpu *cpu, unsigned cpl, unsigned params, unsigned size,
                               struct x86_stack *stack, uint64_t *frame, unsigned *n)
{
    struct x86_stack old = x86_current_stack(cpu);
    struct x86_segment ss = {.selector = (uint16_t)cpl, .attr = (uint16_t)(cpl << ATTR_DPL_SHIFT)};
    bool wide = x86_long_mode(cpu);
    uint16_t selector = 0;
    uint64_t sp;
    enum x86_rc rc = x86_tss_stack(cpu, cpl, &sp, &selector);

    if (!rc && !wide)
        rc = x86_check_ss(cpu, selector, cpl, false, VEC_TS, &ss);
    if (rc)
        return rc;
    frame[0] = old.ss.selector;
    frame[1] = cpu->gpr[RSP];
    *n = 2;
    for (unsigned i = wide ? 0 : params; i--; (*n)++) {
        frame[*n] = 0;
        rc = x86_read(cpu, SEG_SS, (old.sp + i * size) & old.mask, &frame[*n], size);
        if (rc)
            return rc;
    }
    *stack = x86_legacy_stack(&ss, sp);
    if (wide) {
        stack->flat = true;
        stack->mask = ~(uint64_t)0;
    }
    stack->access = ACCESS_IMPLICIT;
    stack->error = selector & SELECTOR_ERROR;
    return X86_NEXT;
}

static enum x86_rc call_inner(struct x86_cpu *cpu, const struct far *f, struct x86_descriptor *code, unsigned params)
{
    uint64_t frame[X86_STACK_SLOTS], upper;
    unsigned n, cpl = x86_dpl(&code->seg);
    struct x86_stack stack;
    enum x86_rc rc = inner_stack(cpu, cpl, params, f->size, &stack, frame, &n);

    if (rc)
        return rc;
    rc = x86_check_target(cpu, &code->seg, f->offset);
    if (!rc)
        rc = x86_set_accessed(cpu, code);
    if (rc)
        return rc;
    frame[n++] = cpu->seg[SEG_CS].selector;
    frame[n++] = f->next;
    upper = stack.sp;
    rc = x86_stack_push(cpu, &stack, frame, n, f->size);
    if (rc)
        return rc;
    x86_stack_load(cpu, &stack, upper);
    cpu->seg[SEG_CS] = code->seg;
    cpu->seg[SEG_CS].selector = (uint16_t)((code->seg.selector & ~SELECTOR_RPL) | cpl);
    cpu->rip = f->offset;
    x86_update_mode(cpu);
    return X86_JUMP;
}

static enum x86_rc through_gate(struct x86_cpu *cpu, const struct far *f, struct x86_descriptor *gate)
{
    struct far g = {.selector = (uint16_t)(gate->raw >> 16), .call = f->call, .next = f->next};
    struct x86_descriptor code;
    bool wide = x86_long_mode(cpu), conforming;
    enum x86_rc rc = x86_read_descriptor_high(cpu, VEC_GP, gate);

    if (!rc && !(gate->seg.attr & ATTR_P))
        rc = x86_raise_error(cpu, VEC_NP, f->selector & SELECTOR_ERROR);
    if (!rc && x86_null_selector(g.selector))
        rc = x86_raise_gp(cpu, 0);
    if (!rc)
        rc = x86_read_descriptor(cpu, g.selector, VEC_GP, &code);
    if (rc)
        return rc;
    conforming = x86_is_conforming(code.seg.attr);
    if (!x86_is_code(code.seg.attr) || x86_dpl(&code.seg) > cpu->cpl ||
        (!f->call && !conforming && x86_dpl(&code.seg) != cpu->cpl) ||
        (wide && (code.seg.attr & (ATTR_L | ATTR_DB)) != ATTR_L))
        return selector_gp(cpu, g.selector);
    if (!(code.seg.attr & ATTR_P))
        return x86_raise_error(cpu, VEC_NP, g.selector & SELECTOR_ERROR);
    g.offset = (gate->raw & 0xffff) | (gate->raw >> 32 & 0xffff0000);
    g.size = wide ? 8 : x86_system_type(gate->seg.attr) == SYS_CALL ? 4 : 2;
    if (wide)
        g.offset |= gate->high << 32;
    if (g.size == 2)
        g.offset &= 0xffff;
    if (f->call && !conforming && x86_dpl(&code.seg) < cpu->cpl)
        return call_inner(cpu, &g, &code, gate->raw >> 32 & 31);
    return same_level(cpu, &g, &code);
}

static enum x86_rc to_task(struct x86_cpu *cpu, const struct far *f, const struct x86_descriptor *d)
{
    bool gate = x86_system_type(d->seg.attr) == SYS_TASK_GATE;

    if (gate && !(d->seg.attr & ATTR_P))
        return x86_raise_error(cpu, VEC_NP, f->selector & SELECTOR_ERROR);
    return x86_task_switch(cpu, gate ? (uint16_t)(d->raw >> 16) : f->selector, f->call ? TASK_CALL : TASK_JMP, f->next);
}

static enum x86_rc far_protected(struct x86_cpu *cpu, const struct far *f)
{
    struct x86_descriptor d;
    unsigned type;
    enum x86_rc rc;

    if (x86_null_selector(f->selector))
        return x86_raise_gp(cpu, 0);
    rc = x86_read_descriptor(cpu, f->selector, VEC_GP, &d);
    if (rc)
        return rc;
    if (x86_is_code(d.seg.attr))
        return to_code(cpu, f, &d);
    type = x86_system_type(d.seg.attr);
    if (!type || x86_dpl(&d.seg) < cpu->cpl || x86_dpl(&d.seg) < (f->selector & SELECTOR_RPL))
        return selector_gp(cpu, f->selector);
    if (type == SYS_CALL || (type == SYS_CALL16 && !x86_long_mode(cpu)))
        return through_gate(cpu, f, &d);
    if ((type == SYS_TASK_GATE || type == SYS_TSS || type == SYS_TSS16) && !x86_long_mode(cpu))
        return to_task(cpu, f, &d);
    return selector_gp(cpu, f->selector);
}

static enum x86_rc far_branch(struct x86_cpu *cpu, const struct x86_insn *in, bool call, uint64_t offset,
                              uint16_t selector)
{
    struct far f = {
        .selector = selector, .offset = offset, .size = in->opsize, .call = call, .next = x86_next_rip(cpu, in)};

    return x86_protected(cpu) ? far_protected(cpu, &f) : far_real(cpu, &f);
}

static enum x86_rc far_branch_memory(struct x86_cpu *cpu, const struct x86_insn *in, bool call)
{
    uint64_t offset;
    uint16_t selector;
    enum x86_rc rc = x86_read_far_pointer(cpu, in, &offset, &selector);

    if (rc)
        return rc;
    return far_branch(cpu, in, call, offset, selector);
}

EXEC(jmp_far)
{
    return far_branch(cpu, in, false, in->imm, (uint16_t)in->imm2);
}

EXEC(jmp_far_memory)
{
    return far_branch_memory(cpu, in, false);
}

EXEC(call_far)
{
    return far_branch(cpu, in, true, in->imm, (uint16_t)in->imm2);
}

EXEC(call_far_memory)
{
    return far_branch_memory(cpu, in, true);
}
