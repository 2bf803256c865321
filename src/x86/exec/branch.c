/*
 * x86/exec/branch.c: near control transfers: JMP, CALL, RET, Jcc, LOOPcc, JCXZ,
 * and BOUND. Far ones are in far.c.
 *
 * The handlers called *_long are for 64-bit mode with 64-bit targets; the others
 * truncate the target to the operand size.
 */
#include "x86/exec/integer.h"
#include "x86/exec/stack.h"
#include "x86/zydis.h"

static uint64_t truncate_target(const struct x86_insn *in, uint64_t target)
{
    return in->opsize == 2 ? (uint16_t)target : in->opsize == 4 ? (uint32_t)target : target;
}

static uint64_t next_rip(const struct x86_cpu *cpu, const struct x86_insn *in)
{
    return truncate_target(in, cpu->rip + in->length);
}

static bool is_far(const struct x86_zydis *zydis)
{
    return zydis->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

/* The target in memory, as wide as the operand. */
static enum x86_rc read_target(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t *target)
{
    switch (in->opsize) {
    case 2:
        return x86_read_operand(cpu, in, target, 2);
    case 4:
        return x86_read_operand(cpu, in, target, 4);
    default:
        return x86_read_operand(cpu, in, target, 8);
    }
}

/* --- JMP ---------------------------------------------------------------------------- */

static enum x86_rc jmp_i_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_branch(cpu, cpu->rip + in->imm);
}

static enum x86_rc jmp_i(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_branch(cpu, truncate_target(in, cpu->rip + in->imm));
}

static enum x86_rc jmp_r(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_branch(cpu, truncate_target(in, cpu->gpr[in->r0 / 8]));
}

static enum x86_rc jmp_m(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t target;
    enum x86_rc rc = read_target(cpu, in, &target);

    return rc ? rc : x86_branch(cpu, target);
}

x86_exec_fn *x86_select_jmp(struct x86_insn *in, const struct x86_zydis *zydis)
{
    if (is_far(zydis))
        return NULL;
    in->flags |= INSN_END;
    if (in->shape == SHAPE_I)
        return x86_is_long(in, zydis) ? jmp_i_long : jmp_i;
    return in->shape == SHAPE_R ? jmp_r : jmp_m;
}

/* --- CALL ----------------------------------------------------------------------------- */

/* The target is checked before the push, as nothing may change on #GP; but a fault of the push comes first. */
static enum x86_rc bad_target(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = x86_probe_stack(cpu, cpu->gpr[RSP] - in->opsize, in->opsize);

    return rc ? rc : x86_raise_gp(cpu, 0);
}

static enum x86_rc call(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t target)
{
    enum x86_rc rc;

    if (x86_check_branch(cpu, target))
        return bad_target(cpu, in);
    rc = x86_push(cpu, next_rip(cpu, in), in->opsize);
    if (rc)
        return rc;
    cpu->rip = target;
    return X86_JUMP;
}

static inline enum x86_rc call_long(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t target)
{
    enum x86_rc rc;

    if (unlikely(!x86_canonical(target)))
        return bad_target(cpu, in);
    rc = push_long(cpu, cpu->rip + in->length);
    if (unlikely(rc))
        return rc;
    cpu->rip = target;
    return X86_JUMP;
}

static enum x86_rc call_i(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return call(cpu, in, truncate_target(in, cpu->rip + in->imm));
}

static enum x86_rc call_r(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return call(cpu, in, truncate_target(in, cpu->gpr[in->r0 / 8]));
}

static enum x86_rc call_m(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t target;
    enum x86_rc rc = read_target(cpu, in, &target);

    return rc ? rc : call(cpu, in, target);
}

static enum x86_rc call_i_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return call_long(cpu, in, cpu->rip + in->imm);
}

static enum x86_rc call_r_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return call_long(cpu, in, GET(in->r0, 8));
}

static enum x86_rc call_m_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t target;

    READ_OPERAND(target, 8);
    return call_long(cpu, in, target);
}

x86_exec_fn *x86_select_call(struct x86_insn *in, const struct x86_zydis *zydis)
{
    bool wide = x86_is_long(in, zydis);

    if (is_far(zydis))
        return NULL;
    in->flags |= INSN_END;
    switch (in->shape) {
    case SHAPE_I:
        return wide ? call_i_long : call_i;
    case SHAPE_R:
        return wide ? call_r_long : call_r;
    default:
        return wide ? call_m_long : call_m;
    }
}

/* --- RET ------------------------------------------------------------------------------- */

static enum x86_rc ret(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t rsp = cpu->gpr[RSP], target;
    enum x86_rc rc = x86_pop(cpu, &target, in->opsize);

    if (rc)
        return rc;
    rc = x86_branch(cpu, target);
    if (rc == X86_JUMP)
        x86_set_gpr(cpu, RSP * 8, cpu->stack_size, cpu->gpr[RSP] + (uint16_t)in->imm);
    else
        cpu->gpr[RSP] = rsp;
    return rc;
}

static enum x86_rc ret_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    const void *host = x86_tlb_read(cpu, cpu->gpr[RSP], 8);
    uint64_t target;

    if (unlikely(!host))
        return ret(cpu, in);
    target = x86_host_get(host, 8);
    if (unlikely(!x86_canonical(target)))
        return x86_raise_gp(cpu, 0);
    cpu->gpr[RSP] += 8 + in->imm;
    cpu->rip = target;
    return X86_JUMP;
}

x86_exec_fn *x86_select_ret(struct x86_insn *in, const struct x86_zydis *zydis)
{
    if (is_far(zydis))
        return NULL;
    in->flags |= INSN_END;
    in->imm = (uint16_t)in->imm;
    return x86_is_long(in, zydis) ? ret_long : ret;
}

/* --- Jcc ------------------------------------------------------------------------------- */

#define X(code, cc, test)                                                                                              \
    static enum x86_rc j_##cc##_long(struct x86_cpu *cpu, const struct x86_insn *in)                                   \
    {                                                                                                                  \
        return condition_##cc(cpu) ? jmp_i_long(cpu, in) : X86_NEXT;                                                   \
    }                                                                                                                  \
    static enum x86_rc j_##cc(struct x86_cpu *cpu, const struct x86_insn *in)                                          \
    {                                                                                                                  \
        return condition_##cc(cpu) ? jmp_i(cpu, in) : X86_NEXT;                                                        \
    }
CONDITION_LIST(X)
#undef X

x86_exec_fn *x86_select_jcc(struct x86_insn *in, const struct x86_zydis *zydis)
{
#define X(code, cc, test) [code] = {j_##cc, j_##cc##_long},
    static x86_exec_fn *const handlers[16][2] = {CONDITION_LIST(X)};
#undef X

    in->flags |= INSN_CONDITIONAL;
    return handlers[in->arg][x86_is_long(in, zydis)];
}

/* --- LOOPcc, JCXZ: the count register is as wide as addresses --------------------------- */

static inline enum x86_rc loop_if(struct x86_cpu *cpu, const struct x86_insn *in, bool condition)
{
    uint64_t count = x86_get_gpr(cpu, RCX * 8, in->addrsize) - 1;
    enum x86_rc rc = X86_NEXT;

    count = in->addrsize == 8 ? count : in->addrsize == 4 ? (uint32_t)count : (uint16_t)count;
    if (count && condition)
        rc = jmp_i(cpu, in);
    if (rc != X86_FAULT)
        x86_set_gpr(cpu, RCX * 8, in->addrsize, count);
    return rc;
}

static enum x86_rc loop(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return loop_if(cpu, in, true);
}

static enum x86_rc loope(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return loop_if(cpu, in, condition_Z(cpu));
}

static enum x86_rc loopne(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return loop_if(cpu, in, condition_NZ(cpu));
}

static enum x86_rc jcxz(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_get_gpr(cpu, RCX * 8, in->addrsize) ? X86_NEXT : jmp_i(cpu, in);
}

x86_exec_fn *x86_select_loop(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static x86_exec_fn *const handlers[LOOP_OPS] = {
        [LOOP_LOOP] = loop, [LOOP_LOOPE] = loope, [LOOP_LOOPNE] = loopne, [LOOP_JCXZ] = jcxz};

    in->flags |= INSN_END;
    return handlers[in->arg];
}

/* --- BOUND -------------------------------------------------------------------------------- */

/* Two bounds side by side, each read on its own: they need to be aligned only as one of them. */
#define BOUND_HANDLER(n, T)                                                                                            \
    static enum x86_rc bound##n(struct x86_cpu *cpu, const struct x86_insn *in)                                        \
    {                                                                                                                  \
        struct x86_insn upper_in = *in;                                                                                \
        uint64_t lower, upper;                                                                                         \
        enum x86_rc rc = x86_read_operand(cpu, in, &lower, n);                                                         \
        upper_in.disp += n;                                                                                            \
        if (!rc)                                                                                                       \
            rc = x86_read_operand(cpu, &upper_in, &upper, n);                                                          \
        if (rc)                                                                                                        \
            return rc;                                                                                                 \
        return (T)GET(in->r0, n) < (T)lower || (T)GET(in->r0, n) > (T)upper ? x86_raise(cpu, VEC_BR) : X86_NEXT;       \
    }
BOUND_HANDLER(2, int16_t)
BOUND_HANDLER(4, int32_t)

x86_exec_fn *x86_select_bound(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return in->w0 == 2 ? bound2 : bound4;
}
