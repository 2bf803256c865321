/*
 * x86/exec/stack.c: PUSH and POP of general registers, memory and immediates,
 * PUSHA, POPA, ENTER, LEAVE.
 *
 * In 64-bit mode the stack is flat and its pointer 64 bits wide: the handlers
 * called *_long rely on that.
 */
#include "x86/exec/stack.h"
#include "x86/exec/integer.h"
#include "x86/zydis.h"

/* --- PUSH ------------------------------------------------------------------------- */

static enum x86_rc push_r_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return push_long(cpu, GET(in->r0, 8));
}

static enum x86_rc push_i_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return push_long(cpu, in->imm);
}

static enum x86_rc push_m_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t value;

    READ_OPERAND(value, 8);
    return push_long(cpu, value);
}

static enum x86_rc push_r(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_push(cpu, x86_get_gpr(cpu, in->r0, in->opsize), in->opsize);
}

static enum x86_rc push_i(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_push(cpu, in->imm, in->opsize);
}

static enum x86_rc push_m(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t value;

    if (in->opsize == 2)
        READ_OPERAND(value, 2);
    else
        READ_OPERAND(value, 4);
    return x86_push(cpu, value, in->opsize);
}

x86_exec_fn *x86_select_push(struct x86_insn *in, const struct x86_zydis *zydis)
{
    bool wide = x86_is_long(in, zydis);

    switch (in->shape) {
    case SHAPE_R:
        return !x86_is_gpr(zydis, 0) ? NULL : wide ? push_r_long : push_r;
    case SHAPE_I:
        return wide ? push_i_long : push_i;
    case SHAPE_M:
        return wide ? push_m_long : push_m;
    default:
        return NULL;
    }
}

/* --- POP ---------------------------------------------------------------------------- */

/* RSP is written last, so that POP RSP keeps the value popped. */
static enum x86_rc pop_r_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t value;
    enum x86_rc rc = pop_long(cpu, &value);

    if (unlikely(rc))
        return rc;
    SET(in->r0, 8, value);
    return X86_NEXT;
}

static enum x86_rc pop_r(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t value;
    enum x86_rc rc = x86_pop(cpu, &value, in->opsize);

    if (rc)
        return rc;
    x86_set_gpr(cpu, in->r0, in->opsize, value);
    return X86_NEXT;
}

/* An address that uses RSP sees it incremented. */
static enum x86_rc pop_m(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t value, rsp = cpu->gpr[RSP];
    enum x86_rc rc = x86_pop(cpu, &value, in->opsize);

    if (rc)
        return rc;
    rc = x86_write(cpu, in->seg, x86_effective(cpu, in), &value, in->opsize);
    if (rc)
        cpu->gpr[RSP] = rsp;
    return rc;
}

x86_exec_fn *x86_select_pop(struct x86_insn *in, const struct x86_zydis *zydis)
{
    if (in->shape == SHAPE_M)
        return pop_m;
    if (in->shape != SHAPE_R || !x86_is_gpr(zydis, 0))
        return NULL;
    return x86_is_long(in, zydis) ? pop_r_long : pop_r;
}

/* --- PUSHA, POPA ----------------------------------------------------------------------- */

static enum x86_rc pusha(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t rsp = cpu->gpr[RSP];

    for (unsigned reg = RAX; reg <= RDI; reg++) {
        enum x86_rc rc = x86_push(cpu, reg == RSP ? rsp : cpu->gpr[reg], in->opsize);

        if (rc) {
            cpu->gpr[RSP] = rsp;
            return rc;
        }
    }
    return X86_NEXT;
}

/* As on processors, registers popped before a fault keep their new values; ESP is back. */
static enum x86_rc popa(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t rsp = cpu->gpr[RSP], value;

    for (int reg = RDI; reg >= RAX; reg--) {
        enum x86_rc rc = x86_pop(cpu, &value, in->opsize);

        if (rc) {
            cpu->gpr[RSP] = rsp;
            return rc;
        }
        if (reg != RSP)
            x86_set_gpr(cpu, (unsigned)reg * 8, in->opsize, value);
    }
    return X86_NEXT;
}

x86_exec_fn *x86_select_pusha(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return pusha;
}

x86_exec_fn *x86_select_popa(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return popa;
}

/* --- ENTER, LEAVE ------------------------------------------------------------------------- */

/* A stack offset, truncated to the stack's size. */
static uint64_t stack_wrap(const struct x86_cpu *cpu, uint64_t offset)
{
    return cpu->stack_size == 8 ? offset : cpu->stack_size == 4 ? (uint32_t)offset : (uint16_t)offset;
}

/* The frame pointers of enclosing procedures, copied from the old frame (SDM vol. 1, 6.6). */
static enum x86_rc enter_display(struct x86_cpu *cpu, unsigned size, unsigned level, uint64_t frame)
{
    uint64_t bp = cpu->gpr[RBP];
    enum x86_rc rc;

    for (unsigned i = 1; i < level; i++) {
        uint64_t value = 0;

        bp -= size;
        rc = x86_read(cpu, SEG_SS, stack_wrap(cpu, bp), &value, size);
        if (!rc)
            rc = x86_push(cpu, value, size);
        if (rc)
            return rc;
    }
    return x86_push(cpu, frame, size);
}

enum x86_rc x86_probe_stack(struct x86_cpu *cpu, uint64_t offset, unsigned size)
{
    gva_t lin;
    void *host;
    enum x86_rc rc = x86_linear(cpu, SEG_SS, stack_wrap(cpu, offset), size, ACCESS_WRITE, &lin);

    return rc ? rc : x86_rmw_pointer(cpu, lin, size, ACCESS_WRITE | ACCESS_STACK, &host);
}

static enum x86_rc enter(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t rsp = cpu->gpr[RSP], frame;
    unsigned level = in->imm2 & 31;
    enum x86_rc rc = x86_push(cpu, cpu->gpr[RBP], in->opsize);

    if (rc)
        return rc;
    frame = cpu->gpr[RSP];
    if (level)
        rc = enter_display(cpu, in->opsize, level, frame);
    if (!rc) {
        x86_set_gpr(cpu, RSP * 8, cpu->stack_size, cpu->gpr[RSP] - (uint16_t)in->imm);
        rc = x86_probe_stack(cpu, cpu->gpr[RSP], in->opsize); /* a write there must be possible */
    }
    if (rc) {
        cpu->gpr[RSP] = rsp;
        return rc;
    }
    x86_set_gpr(cpu, RBP * 8, in->opsize, frame);
    return X86_NEXT;
}

static enum x86_rc leave(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t rsp = cpu->gpr[RSP], value;
    enum x86_rc rc;

    x86_set_gpr(cpu, RSP * 8, cpu->stack_size, cpu->gpr[RBP]);
    rc = x86_pop(cpu, &value, in->opsize);
    if (rc) {
        cpu->gpr[RSP] = rsp;
        return rc;
    }
    x86_set_gpr(cpu, RBP * 8, in->opsize, value);
    return X86_NEXT;
}

static enum x86_rc leave_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t value;
    enum x86_rc rc = x86_load(cpu, SEG_SS, cpu->gpr[RBP], &value, 8);

    if (unlikely(rc))
        return rc;
    cpu->gpr[RSP] = cpu->gpr[RBP] + 8;
    cpu->gpr[RBP] = value;
    return X86_NEXT;
}

x86_exec_fn *x86_select_enter(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return enter;
}

x86_exec_fn *x86_select_leave(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return x86_is_long(in, zydis) ? leave_long : leave;
}
