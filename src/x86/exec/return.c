/*
 * x86/exec/return.c: RET far and IRET (SDM vol. 2; AMD APM vol. 3): to the same
 * or an outer level, to virtual-8086 mode, to the task that called.
 */
#include "x86/exec/far.h"
#include "x86/exec/flags.h"
#include "x86/exec/system.h"
#include "x86/task.h"

static enum x86_rc selector_gp(struct x86_cpu *cpu, uint16_t selector)
{
    return x86_raise_gp(cpu, selector & SELECTOR_ERROR);
}

enum x86_rc x86_stack_peek(struct x86_cpu *cpu, uint64_t *values, unsigned n, unsigned size, unsigned skip)
{
    struct x86_stack stack = x86_current_stack(cpu);
    enum x86_rc rc = X86_NEXT;

    if (likely(size == 8 && stack.flat && !(cpu->rflags & FLAG_AC))) /* else each is aligned on its own */
        return x86_read(cpu, SEG_SS, stack.sp + skip, values, n * 8);
    for (unsigned i = 0; i < n && !rc; i++) {
        values[i] = 0;
        rc = x86_read(cpu, SEG_SS, (stack.sp + skip + i * size) & stack.mask, &values[i], size);
    }
    return rc;
}

enum x86_rc x86_check_return_cs(struct x86_cpu *cpu, uint16_t selector, uint64_t rip, struct x86_far_return *ret)
{
    unsigned rpl = selector & SELECTOR_RPL;
    struct x86_descriptor d;
    enum x86_rc rc;

    if (unlikely(x86_null_selector(selector)))
        return x86_raise_gp(cpu, 0);
    rc = x86_read_descriptor(cpu, selector, VEC_GP, &d);
    if (unlikely(rc))
        return rc;
    if (!x86_is_code(d.seg.attr) || rpl < cpu->cpl ||
        (x86_is_conforming(d.seg.attr) ? x86_dpl(&d.seg) > rpl : x86_dpl(&d.seg) != rpl) ||
        (x86_long_mode(cpu) && (d.seg.attr & (ATTR_L | ATTR_DB)) == (ATTR_L | ATTR_DB)))
        return selector_gp(cpu, selector);
    if (!(d.seg.attr & ATTR_P))
        return x86_raise_error(cpu, VEC_NP, selector & SELECTOR_ERROR);
    rc = x86_check_target(cpu, &d.seg, rip);
    if (likely(!rc))
        rc = x86_set_accessed(cpu, &d);
    ret->cs = d.seg;
    ret->rip = rip;
    return rc;
}

enum x86_rc x86_check_return_ss(struct x86_cpu *cpu, uint16_t selector, struct x86_far_return *ret)
{
    bool wide = x86_long_mode(cpu) && (ret->cs.attr & ATTR_L);

    return x86_check_ss(cpu, selector, ret->cs.selector & SELECTOR_RPL, wide, VEC_GP, &ret->ss);
}

enum x86_rc x86_finish_return(struct x86_cpu *cpu, const struct x86_far_return *ret, unsigned release)
{
    unsigned cpl = ret->cs.selector & SELECTOR_RPL, old = cpu->cpl;

    cpu->seg[SEG_CS] = ret->cs;
    cpu->rip = ret->rip;
    if (ret->load_ss)
        cpu->seg[SEG_SS] = ret->ss;
    if (cpl > old)
        x86_null_inner_segments(cpu, cpl);
    x86_update_mode(cpu);
    x86_set_gpr(cpu, RSP * 8, cpu->stack_size, (ret->load_ss ? ret->rsp : cpu->gpr[RSP]) + release);
    return X86_JUMP;
}

static enum x86_rc return_real(struct x86_cpu *cpu, const uint64_t *frame, unsigned release)
{
    struct x86_segment cs = x86_real_segment(cpu, SEG_CS, (uint16_t)frame[1]);

    if (frame[0] > cs.limit)
        return x86_raise_gp(cpu, 0);
    cpu->seg[SEG_CS] = cs;
    cpu->rip = frame[0];
    x86_set_gpr(cpu, RSP * 8, cpu->stack_size, cpu->gpr[RSP] + release);
    x86_update_mode(cpu);
    return X86_JUMP;
}

EXEC(ret_far)
{
    unsigned size = in->opsize, release = in->shape == SHAPE_I ? (uint16_t)in->imm : 0;
    struct x86_far_return ret = {0};
    uint64_t frame[2], outer[2];
    enum x86_rc rc = x86_stack_peek(cpu, frame, 2, size, 0);

    if (rc)
        return rc;
    if (!x86_protected(cpu))
        return return_real(cpu, frame, release + 2 * size);
    rc = x86_check_return_cs(cpu, (uint16_t)frame[1], frame[0], &ret);
    if (rc)
        return rc;
    if ((frame[1] & SELECTOR_RPL) == cpu->cpl)
        return x86_finish_return(cpu, &ret, release + 2 * size);
    rc = x86_stack_peek(cpu, outer, 2, size, 2 * size + release);
    if (!rc)
        rc = x86_check_return_ss(cpu, (uint16_t)outer[1], &ret);
    if (rc)
        return rc;
    ret.load_ss = true;
    ret.rsp = outer[0];
    return x86_finish_return(cpu, &ret, release);
}

static enum x86_rc iret_real(struct x86_cpu *cpu, unsigned size)
{
    uint64_t frame[3];
    enum x86_rc rc;

    if ((cpu->rflags & FLAG_VM) && (cpu->rflags & FLAG_IOPL) != FLAG_IOPL)
        return x86_raise_gp(cpu, 0);
    rc = x86_stack_peek(cpu, frame, 3, size, 0);
    if (rc)
        return rc;
    rc = return_real(cpu, frame, 3 * size);
    if (rc != X86_JUMP)
        return rc;
    flags_return(cpu, frame[2], size);
    x86_update_mode(cpu);
    return X86_JUMP;
}

/* SDM vol. 2, IRET, RETURN-TO-VIRTUAL-8086-MODE; the frame goes on with ESP, SS, ES, DS, FS, GS. */
static enum x86_rc iret_vm86(struct x86_cpu *cpu, const uint64_t *frame)
{
    static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint64_t more[6];
    enum x86_rc rc = x86_stack_peek(cpu, more, 6, 4, 12);

    if (rc)
        return rc;
    if (frame[0] > 0xffff)
        return x86_raise_gp(cpu, 0);
    flags_return(cpu, frame[2], 4);
    cpu->rflags = (cpu->rflags & ~(uint64_t)(FLAG_IOPL | FLAG_IF)) | (frame[2] & (FLAG_IOPL | FLAG_IF)) | FLAG_VM;
    cpu->seg[SEG_CS] = x86_real_segment(cpu, SEG_CS, (uint16_t)frame[1]);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        cpu->seg[order[i]] = x86_real_segment(cpu, order[i], (uint16_t)more[1 + i]);
    cpu->rip = frame[0];
    cpu->gpr[RSP] = more[0];
    x86_update_mode(cpu);
    return X86_JUMP;
}

static enum x86_rc iret_legacy(struct x86_cpu *cpu, unsigned size)
{
    struct x86_far_return ret = {0};
    uint64_t frame[3], outer[2];
    enum x86_rc rc = x86_stack_peek(cpu, frame, 3, size, 0);

    if (rc)
        return rc;
    if (size == 4 && (frame[2] & FLAG_VM) && cpu->cpl == 0 && !x86_long_mode(cpu))
        return iret_vm86(cpu, frame);
    rc = x86_check_return_cs(cpu, (uint16_t)frame[1], frame[0], &ret);
    if (rc)
        return rc;
    if ((frame[1] & SELECTOR_RPL) != cpu->cpl) {
        rc = x86_stack_peek(cpu, outer, 2, size, 3 * size);
        if (!rc)
            rc = x86_check_return_ss(cpu, (uint16_t)outer[1], &ret);
        if (rc)
            return rc;
        ret.load_ss = true;
        ret.rsp = outer[0];
    }
    flags_return(cpu, frame[2], size);
    return x86_finish_return(cpu, &ret, ret.load_ss ? 0 : 3 * size);
}

/* 64-bit mode: SS:RSP are always popped. */
static enum x86_rc iret_long(struct x86_cpu *cpu, unsigned size)
{
    struct x86_far_return ret;
    uint64_t frame[5];
    enum x86_rc rc = x86_stack_peek(cpu, frame, 5, size, 0);

    if (unlikely(rc))
        return rc;
    rc = x86_check_return_cs(cpu, (uint16_t)frame[1], frame[0], &ret);
    if (unlikely(rc))
        return rc;
    rc = x86_check_return_ss(cpu, (uint16_t)frame[4], &ret);
    if (unlikely(rc))
        return rc;
    ret.load_ss = true;
    ret.rsp = frame[3];
    flags_return(cpu, frame[2], size);
    return x86_finish_return(cpu, &ret, 0);
}

EXEC(iret)
{
    enum x86_rc rc;

    if (unlikely(!x86_protected(cpu)))
        rc = iret_real(cpu, in->opsize);
    else if (unlikely(cpu->rflags & FLAG_NT))
        return x86_long_mode(cpu) ? x86_raise_gp(cpu, 0) : x86_task_return(cpu, x86_next_rip(cpu, in));
    else if (likely(cpu->mode == MODE_LONG64))
        rc = iret_long(cpu, in->opsize);
    else
        rc = iret_legacy(cpu, in->opsize);
    if (likely(rc == X86_JUMP)) {
        cpu->nmi_masked = false;
        if (unlikely(cpu->nmi_pending))
            x86_post_event(cpu, X86_EV_NMI); /* it is taken now */
    }
    return rc;
}
