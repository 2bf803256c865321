/*
 * x86/exec/shift.c: shifts and rotates, single and double. A count of 0 leaves
 * the flags as they are, so the host runs each with the guest's flags loaded.
 */
#include "x86/exec/integer.h"

/* --- ROL to SAR by an immediate (_ri, _mi) or CL (_rc, _mc) --------------------------- */

#define SHIFT_COMPUTE(op, n, T, s)                                                                                     \
    static inline packed_flags op##_in_reg##n(packed_flags f, T *dst, uint8_t count)                                   \
    {                                                                                                                  \
        asm(FLAGS_LOAD #op " %%cl, %[d]" FLAGS_STORE : [d] "+&r"(*dst), [f] "+&a"(f) : "c"(count) : "cc");             \
        return f;                                                                                                      \
    }

#define SHIFT_REG_HANDLER(op, n, T, form, count)                                                                       \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        T dst = (T)GET(in->r0, n);                                                                                     \
        packed_flags f = op##_in_reg##n(flags_get(cpu), &dst, (uint8_t)(count));                                       \
        SET(in->r0, n, dst);                                                                                           \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
#define SHIFT_RMW_HANDLER(op, n, T, form, count)                                                                       \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        struct x86_rmw rmw;                                                                                            \
        packed_flags f;                                                                                                \
        T dst;                                                                                                         \
        enum x86_rc rc = x86_rmw_begin(cpu, in, &rmw, n);                                                              \
        if (unlikely(rc))                                                                                              \
            return rc;                                                                                                 \
        dst = (T)RMW_OLD(rmw, n);                                                                                      \
        f = op##_in_reg##n(flags_get(cpu), &dst, (uint8_t)(count));                                                    \
        RMW_STORE(rmw, dst, n);                                                                                        \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
#define SHIFT_SIZE(op, n, T, s)                                                                                        \
    SHIFT_COMPUTE(op, n, T, s)                                                                                         \
    SHIFT_REG_HANDLER(op, n, T, ri, in->imm)                                                                           \
    SHIFT_REG_HANDLER(op, n, T, rc, X86_GPR8(cpu, RCX * 8))                                                            \
    SHIFT_RMW_HANDLER(op, n, T, mi, in->imm)                                                                           \
    SHIFT_RMW_HANDLER(op, n, T, mc, X86_GPR8(cpu, RCX * 8))
FOR_SIZES(SHIFT_SIZE, rol)
FOR_SIZES(SHIFT_SIZE, ror)
FOR_SIZES(SHIFT_SIZE, rcl)
FOR_SIZES(SHIFT_SIZE, rcr)
FOR_SIZES(SHIFT_SIZE, shl)
FOR_SIZES(SHIFT_SIZE, shr)
FOR_SIZES(SHIFT_SIZE, sar)

x86_exec_fn *x86_select_shift(struct x86_insn *in, const struct x86_zydis *zydis)
{
#define ROW(op)                                                                                                        \
    {                                                                                                                  \
        [SHAPE_RI] = BY_SIZE(op##_ri), [SHAPE_RR] = BY_SIZE(op##_rc), [SHAPE_MI] = BY_SIZE(op##_mi),                   \
        [SHAPE_MR] = BY_SIZE(op##_mc),                                                                                 \
    }
    static by_size handlers[SHIFT_OPS][SHAPE_MI + 1] = {
        [SHIFT_ROL] = ROW(rol), [SHIFT_ROR] = ROW(ror), [SHIFT_RCL] = ROW(rcl), [SHIFT_RCR] = ROW(rcr),
        [SHIFT_SHL] = ROW(shl), [SHIFT_SHR] = ROW(shr), [SHIFT_SAR] = ROW(sar),
    };
#undef ROW

    return in->shape <= SHAPE_MI ? pick_size(handlers[in->arg][in->shape], in->w0) : NULL;
}

/* --- SHLD, SHRD: _r, _m: the destination; count in CL or immediate -------------------- */

static uint8_t double_count(const struct x86_cpu *cpu, const struct x86_insn *in)
{
    return in->shape == SHAPE_RRI || in->shape == SHAPE_MRI ? (uint8_t)in->imm : X86_GPR8(cpu, RCX * 8);
}

#define DOUBLE_SIZE(op, n, T, s)                                                                                       \
    static inline packed_flags op##_in_reg##n(packed_flags f, T *dst, T src, uint8_t count)                            \
    {                                                                                                                  \
        asm(FLAGS_LOAD #op " %%cl, %[src], %[d]" FLAGS_STORE                                                           \
            : [d] "+&r"(*dst), [f] "+&a"(f)                                                                            \
            : [src] "r"(src), "c"(count)                                                                               \
            : "cc");                                                                                                   \
        return f;                                                                                                      \
    }                                                                                                                  \
    static enum x86_rc op##_r##n(struct x86_cpu *cpu, const struct x86_insn *in)                                       \
    {                                                                                                                  \
        T dst = (T)GET(in->r0, n);                                                                                     \
        packed_flags f = op##_in_reg##n(flags_get(cpu), &dst, (T)GET(in->r1, n), double_count(cpu, in));               \
        SET(in->r0, n, dst);                                                                                           \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc op##_m##n(struct x86_cpu *cpu, const struct x86_insn *in)                                       \
    {                                                                                                                  \
        struct x86_rmw rmw;                                                                                            \
        packed_flags f;                                                                                                \
        T dst;                                                                                                         \
        enum x86_rc rc = x86_rmw_begin(cpu, in, &rmw, n);                                                              \
        if (unlikely(rc))                                                                                              \
            return rc;                                                                                                 \
        dst = (T)RMW_OLD(rmw, n);                                                                                      \
        f = op##_in_reg##n(flags_get(cpu), &dst, (T)GET(in->r0, n), double_count(cpu, in));                            \
        RMW_STORE(rmw, dst, n);                                                                                        \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
FOR_SIZES_248(DOUBLE_SIZE, shld)
FOR_SIZES_248(DOUBLE_SIZE, shrd)

x86_exec_fn *x86_select_double_shift(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size shld[2] = {BY_SIZE_248(shld_r), BY_SIZE_248(shld_m)};
    static by_size shrd[2] = {BY_SIZE_248(shrd_r), BY_SIZE_248(shrd_m)};
    bool memory = in->shape == SHAPE_MRR || in->shape == SHAPE_MRI;

    return pick_size((in->arg == SHIFT_SHL ? shld : shrd)[memory], in->w0);
}
