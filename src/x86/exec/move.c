/*
 * x86/exec/move.c: instructions that move, extend or convert and touch no flags:
 * MOV, MOVZX, MOVSX, MOVBE, LEA, XLAT, BSWAP, CMOVcc, SETcc, CBW to CQO.
 */
#include "x86/exec/integer.h"
#include "x86/zydis.h"

/* --- MOV (general-purpose registers and memory; others are the system's) ------- */

#define MOV_HANDLERS(op, n, T, s)                                                                                      \
    static enum x86_rc mov_rr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                       \
    {                                                                                                                  \
        SET(in->r0, n, GET(in->r1, n));                                                                                \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc mov_ri##n(struct x86_cpu *cpu, const struct x86_insn *in)                                       \
    {                                                                                                                  \
        SET(in->r0, n, in->imm);                                                                                       \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc mov_rm##n(struct x86_cpu *cpu, const struct x86_insn *in)                                       \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, n);                                                                                        \
        SET(in->r0, n, value);                                                                                         \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc mov_mr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                       \
    {                                                                                                                  \
        return x86_write_operand(cpu, in, GET(in->r0, n), n);                                                          \
    }                                                                                                                  \
    static enum x86_rc mov_mi##n(struct x86_cpu *cpu, const struct x86_insn *in)                                       \
    {                                                                                                                  \
        return x86_write_operand(cpu, in, in->imm, n);                                                                 \
    }
FOR_SIZES(MOV_HANDLERS, mov)

x86_exec_fn *x86_select_mov(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size handlers[SHAPE_MI + 1] = {
        [SHAPE_RR] = BY_SIZE(mov_rr), [SHAPE_RI] = BY_SIZE(mov_ri), [SHAPE_RM] = BY_SIZE(mov_rm),
        [SHAPE_MR] = BY_SIZE(mov_mr), [SHAPE_MI] = BY_SIZE(mov_mi),
    };

    for (unsigned i = 0; i < 2; i++)
        if (zydis->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && !x86_is_gpr(zydis, i))
            return NULL;
    return in->shape <= SHAPE_MI ? pick_size(handlers[in->shape], in->w0) : NULL;
}

/* --- MOVZX, MOVSX, MOVSXD: from w1 bytes to w0 --------------------------------------- */

#define EXTEND_HANDLERS(op, from, to, T)                                                                               \
    static enum x86_rc op##_rr##from##to(struct x86_cpu *cpu, const struct x86_insn *in)                               \
    {                                                                                                                  \
        SET(in->r0, to, (uint64_t)(T)GET(in->r1, from));                                                               \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc op##_rm##from##to(struct x86_cpu *cpu, const struct x86_insn *in)                               \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, from);                                                                                     \
        SET(in->r0, to, (uint64_t)(T)value);                                                                           \
        return X86_NEXT;                                                                                               \
    }
#define EXTEND(op, from, T)                                                                                            \
    EXTEND_HANDLERS(op, from, 2, T)                                                                                    \
    EXTEND_HANDLERS(op, from, 4, T)                                                                                    \
    EXTEND_HANDLERS(op, from, 8, T)
EXTEND(movzx, 1, uint8_t)
EXTEND(movzx, 2, uint16_t)
EXTEND(movsx, 1, int8_t)
EXTEND(movsx, 2, int16_t)
EXTEND(movsx, 4, int32_t)

x86_exec_fn *x86_select_movzx(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size rr[] = {BY_SIZE_248(movzx_rr1), BY_SIZE_248(movzx_rr2)};
    static by_size rm[] = {BY_SIZE_248(movzx_rm1), BY_SIZE_248(movzx_rm2)};

    return pick_size((in->shape == SHAPE_RR ? rr : rm)[in->w1 == 2], in->w0);
}

x86_exec_fn *x86_select_movsx(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size rr[] = {BY_SIZE_248(movsx_rr1), BY_SIZE_248(movsx_rr2), BY_SIZE_248(movsx_rr4)};
    static by_size rm[] = {BY_SIZE_248(movsx_rm1), BY_SIZE_248(movsx_rm2), BY_SIZE_248(movsx_rm4)};

    return pick_size((in->shape == SHAPE_RR ? rr : rm)[in->w1 / 2], in->w0);
}

/* --- LEA --------------------------------------------------------------------------------- */

static enum x86_rc lea2(struct x86_cpu *cpu, const struct x86_insn *in)
{
    SET(in->r0, 2, x86_effective(cpu, in));
    return X86_NEXT;
}

static enum x86_rc lea4(struct x86_cpu *cpu, const struct x86_insn *in)
{
    SET(in->r0, 4, x86_effective(cpu, in));
    return X86_NEXT;
}

static enum x86_rc lea8(struct x86_cpu *cpu, const struct x86_insn *in)
{
    SET(in->r0, 8, x86_effective(cpu, in));
    return X86_NEXT;
}

x86_exec_fn *x86_select_lea(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size handlers = BY_SIZE_248(lea);

    return in->shape == SHAPE_RM ? pick_size(handlers, in->w0) : NULL;
}

/* --- byte order ---------------------------------------------------------------------------- */

#define bswap2 __builtin_bswap16
#define bswap4 __builtin_bswap32
#define bswap8 __builtin_bswap64

#define MOVBE_HANDLERS(op, n, T, s)                                                                                    \
    static enum x86_rc movbe_rm##n(struct x86_cpu *cpu, const struct x86_insn *in)                                     \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, n);                                                                                        \
        SET(in->r0, n, bswap##n((T)value));                                                                            \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc movbe_mr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                     \
    {                                                                                                                  \
        return x86_write_operand(cpu, in, bswap##n((T)GET(in->r0, n)), n);                                             \
    }
FOR_SIZES_248(MOVBE_HANDLERS, movbe)

x86_exec_fn *x86_select_movbe(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size rm = BY_SIZE_248(movbe_rm), mr = BY_SIZE_248(movbe_mr);

    return pick_size(in->shape == SHAPE_RM ? rm : mr, in->opsize);
}

/* Undefined by the manuals; processors since the Pentium clear the register. */
static enum x86_rc bswap_r2(struct x86_cpu *cpu, const struct x86_insn *in)
{
    SET(in->r0, 2, 0);
    return X86_NEXT;
}

static enum x86_rc bswap_r4(struct x86_cpu *cpu, const struct x86_insn *in)
{
    SET(in->r0, 4, bswap4(GET(in->r0, 4)));
    return X86_NEXT;
}

static enum x86_rc bswap_r8(struct x86_cpu *cpu, const struct x86_insn *in)
{
    SET(in->r0, 8, bswap8(GET(in->r0, 8)));
    return X86_NEXT;
}

x86_exec_fn *x86_select_bswap(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size handlers = BY_SIZE_248(bswap_r);

    return pick_size(handlers, in->w0);
}

/* --- XLAT --------------------------------------------------------------------------------- */

static enum x86_rc xlat(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t offset = cpu->gpr[RBX] + X86_GPR8(cpu, RAX * 8), value;
    enum x86_rc rc;

    offset = in->addrsize == 8 ? offset : in->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
    rc = x86_load(cpu, in->seg, offset, &value, 1);
    if (rc)
        return rc;
    X86_GPR8(cpu, RAX * 8) = (uint8_t)value;
    return X86_NEXT;
}

x86_exec_fn *x86_select_xlat(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return xlat;
}

/* --- CMOVcc, SETcc -------------------------------------------------------------------------- */

/* The source is read, and the upper half of a 32-bit destination cleared, whatever the condition. */
#define CMOV_SIZE(cc, n)                                                                                               \
    static enum x86_rc cmov_##cc##_rr##n(struct x86_cpu *cpu, const struct x86_insn *in)                               \
    {                                                                                                                  \
        SET(in->r0, n, condition_##cc(cpu) ? GET(in->r1, n) : GET(in->r0, n));                                         \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc cmov_##cc##_rm##n(struct x86_cpu *cpu, const struct x86_insn *in)                               \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, n);                                                                                        \
        SET(in->r0, n, condition_##cc(cpu) ? value : GET(in->r0, n));                                                  \
        return X86_NEXT;                                                                                               \
    }
#define X(code, cc, test) CMOV_SIZE(cc, 2) CMOV_SIZE(cc, 4) CMOV_SIZE(cc, 8)
CONDITION_LIST(X)
#undef X

x86_exec_fn *x86_select_cmov(struct x86_insn *in, const struct x86_zydis *zydis)
{
#define X(code, cc, test) [code] = BY_SIZE_248(cmov_##cc##_rr),
    static by_size rr[16] = {CONDITION_LIST(X)};
#undef X
#define X(code, cc, test) [code] = BY_SIZE_248(cmov_##cc##_rm),
    static by_size rm[16] = {CONDITION_LIST(X)};
#undef X

    return pick_size((in->shape == SHAPE_RR ? rr : rm)[in->arg], in->w0);
}

#define X(code, cc, test)                                                                                              \
    static enum x86_rc set_##cc##_r(struct x86_cpu *cpu, const struct x86_insn *in)                                    \
    {                                                                                                                  \
        X86_GPR8(cpu, in->r0) = condition_##cc(cpu);                                                                   \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc set_##cc##_m(struct x86_cpu *cpu, const struct x86_insn *in)                                    \
    {                                                                                                                  \
        return x86_write_operand(cpu, in, condition_##cc(cpu), 1);                                                     \
    }
CONDITION_LIST(X)
#undef X

x86_exec_fn *x86_select_set(struct x86_insn *in, const struct x86_zydis *zydis)
{
#define X(code, cc, test) [code] = {set_##cc##_r, set_##cc##_m},
    static x86_exec_fn *const handlers[16][2] = {CONDITION_LIST(X)};
#undef X

    return handlers[in->arg][in->shape == SHAPE_M];
}

/* --- CBW to CQO -------------------------------------------------------------------------------- */

#define CONVERT(name, reg, n, value)                                                                                   \
    static enum x86_rc name(struct x86_cpu *cpu, const struct x86_insn *in)                                            \
    {                                                                                                                  \
        int64_t rax = (int64_t)cpu->gpr[RAX];                                                                          \
        SET((reg)*8, n, (uint64_t)(value));                                                                            \
        return X86_NEXT;                                                                                               \
    }
CONVERT(cbw, RAX, 2, (int8_t)rax)
CONVERT(cwde, RAX, 4, (int16_t)rax)
CONVERT(cdqe, RAX, 8, (int32_t)rax)
CONVERT(cwd, RDX, 2, (int16_t)rax < 0 ? -1 : 0)
CONVERT(cdq, RDX, 4, (int32_t)rax < 0 ? -1 : 0)
CONVERT(cqo, RDX, 8, rax < 0 ? -1 : 0)

x86_exec_fn *x86_select_convert(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static x86_exec_fn *const handlers[CONVERT_OPS] = {
        [CONVERT_CBW] = cbw, [CONVERT_CWDE] = cwde, [CONVERT_CDQE] = cdqe,
        [CONVERT_CWD] = cwd, [CONVERT_CDQ] = cdq,   [CONVERT_CQO] = cqo,
    };

    return handlers[in->arg];
}
