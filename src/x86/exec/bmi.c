/*
 * x86/exec/bmi.c: BMI1 and BMI2, computed here so that guests have them on any
 * host. Flags that the manuals leave undefined are as AMD's processors leave them.
 */
#include "x86/exec/integer.h"

/* SF, ZF, PF of the result; CF as given; OF and AF cleared. */
static inline void result_flags(struct x86_cpu *cpu, uint64_t result, unsigned n, bool carry)
{
    flags_assign(cpu, (carry ? FLAG_CF : 0) | (result ? 0 : FLAG_ZF) | (result >> (8 * n - 1) & 1 ? FLAG_SF : 0) |
                          (__builtin_parity(result & 0xff) ? 0 : FLAG_PF));
}

/* --- three operands: dst, a, b ---------------------------------------------------------- */

static inline __attribute__((always_inline)) uint64_t andn(struct x86_cpu *cpu, uint64_t a, uint64_t b, unsigned n)
{
    uint64_t result = ~a & b;

    result_flags(cpu, result, n, false);
    return result;
}

static inline __attribute__((always_inline)) uint64_t bextr(struct x86_cpu *cpu, uint64_t a, uint64_t b, unsigned n)
{
    unsigned start = b & 0xff, length = b >> 8 & 0xff;
    uint64_t result = start < 8 * n ? a >> start : 0;

    if (length < 8 * n)
        result &= BIT(length) - 1;
    flags_assign(cpu, FLAG_AF | (result ? 0 : FLAG_ZF) | (__builtin_parity(result & 0xff) ? 0 : FLAG_PF));
    return result;
}

static inline __attribute__((always_inline)) uint64_t bzhi(struct x86_cpu *cpu, uint64_t a, uint64_t b, unsigned n)
{
    unsigned index = b & 0xff;
    uint64_t result = index < 8 * n ? a & (BIT(index) - 1) : a;

    result_flags(cpu, result, n, index >= 8 * n);
    return result;
}

static inline uint64_t pdep(struct x86_cpu *cpu, uint64_t a, uint64_t mask, unsigned n)
{
    uint64_t result = 0;

    for (; mask; mask &= mask - 1, a >>= 1)
        if (a & 1)
            result |= mask & -mask;
    return result;
}

static inline uint64_t pext(struct x86_cpu *cpu, uint64_t a, uint64_t mask, unsigned n)
{
    uint64_t result = 0;

    for (unsigned i = 0; mask; mask &= mask - 1, i++)
        if (a & mask & -mask)
            result |= BIT(i);
    return result;
}

static inline __attribute__((always_inline)) uint64_t shlx(struct x86_cpu *cpu, uint64_t a, uint64_t b, unsigned n)
{
    return a << (b & (8 * n - 1));
}

static inline __attribute__((always_inline)) uint64_t shrx(struct x86_cpu *cpu, uint64_t a, uint64_t b, unsigned n)
{
    return a >> (b & (8 * n - 1));
}

static inline __attribute__((always_inline)) uint64_t sarx(struct x86_cpu *cpu, uint64_t a, uint64_t b, unsigned n)
{
    int64_t value = n == 4 ? (int32_t)a : (int64_t)a;

    return (uint64_t)(value >> (b & (8 * n - 1)));
}

/* ANDN, PDEP and PEXT have their memory operand last, the others in the middle. */
#define THREE_HANDLERS(op, n)                                                                                          \
    static enum x86_rc op##_rrr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                     \
    {                                                                                                                  \
        SET(in->r0, n, op(cpu, GET(in->r1, n), GET(in->r2, n), n));                                                    \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc op##_rrm##n(struct x86_cpu *cpu, const struct x86_insn *in)                                     \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, n);                                                                                        \
        SET(in->r0, n, op(cpu, GET(in->r1, n), value, n));                                                             \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc op##_rmr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                     \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, n);                                                                                        \
        SET(in->r0, n, op(cpu, value, GET(in->r1, n), n));                                                             \
        return X86_NEXT;                                                                                               \
    }
#define THREE(op) THREE_HANDLERS(op, 4) THREE_HANDLERS(op, 8)
THREE(andn)
THREE(bextr)
THREE(bzhi)
THREE(pdep)
THREE(pext)
THREE(shlx)
THREE(shrx)
THREE(sarx)

/* --- two operands: BLSI, BLSMSK, BLSR ------------------------------------------------------- */

#define LOWEST_HANDLERS(op, n, T, result, carry)                                                                       \
    static inline void op##_value##n(struct x86_cpu *cpu, const struct x86_insn *in, T src)                            \
    {                                                                                                                  \
        T value = (T)(result);                                                                                         \
        result_flags(cpu, value, n, carry);                                                                            \
        SET(in->r0, n, value);                                                                                         \
    }                                                                                                                  \
    static enum x86_rc op##_rr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        op##_value##n(cpu, in, (T)GET(in->r1, n));                                                                     \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc op##_rm##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, n);                                                                                        \
        op##_value##n(cpu, in, (T)value);                                                                              \
        return X86_NEXT;                                                                                               \
    }
#define LOWEST(op, result, carry)                                                                                      \
    LOWEST_HANDLERS(op, 4, uint32_t, result, carry)                                                                    \
    LOWEST_HANDLERS(op, 8, uint64_t, result, carry)
LOWEST(blsi, src & -src, src != 0)
LOWEST(blsmsk, src ^ (src - 1), src == 0)
LOWEST(blsr, src &(src - 1), src == 0)

/* --- MULX, RORX -------------------------------------------------------------------------------- */

/* If both destinations are the same register it gets the upper half: written last. */
#define MULX_HANDLER(n, T, form, fetch)                                                                                \
    static enum x86_rc mulx_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        uint64_t src;                                                                                                  \
        unsigned __int128 product;                                                                                     \
        fetch;                                                                                                         \
        product = (unsigned __int128)src * GET(RDX * 8, n);                                                            \
        SET(in->r1, n, (T)product);                                                                                    \
        SET(in->r0, n, (T)(product >> 8 * n));                                                                         \
        return X86_NEXT;                                                                                               \
    }
MULX_HANDLER(4, uint32_t, rrr, src = GET(in->r2, 4))
MULX_HANDLER(8, uint64_t, rrr, src = GET(in->r2, 8))
MULX_HANDLER(4, uint32_t, rrm, READ_OPERAND(src, 4))
MULX_HANDLER(8, uint64_t, rrm, READ_OPERAND(src, 8))

#define RORX_HANDLER(n, T, form, fetch)                                                                                \
    static enum x86_rc rorx_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        unsigned count = in->imm & (8 * n - 1);                                                                        \
        uint64_t src;                                                                                                  \
        fetch;                                                                                                         \
        SET(in->r0, n, (T)src >> count | (T)src << (-count & (8 * n - 1)));                                            \
        return X86_NEXT;                                                                                               \
    }
RORX_HANDLER(4, uint32_t, rri, src = GET(in->r1, 4))
RORX_HANDLER(8, uint64_t, rri, src = GET(in->r1, 8))
RORX_HANDLER(4, uint32_t, rmi, READ_OPERAND(src, 4))
RORX_HANDLER(8, uint64_t, rmi, READ_OPERAND(src, 8))

/* --- selection ------------------------------------------------------------------------------------ */

x86_exec_fn *x86_select_bmi(struct x86_insn *in, const struct x86_zydis *zydis)
{
#define THREE_ROW(op)                                                                                                  \
    {                                                                                                                  \
        [SHAPE_RRR] = BY_SIZE_48(op##_rrr), [SHAPE_RRM] = BY_SIZE_48(op##_rrm), [SHAPE_RMR] = BY_SIZE_48(op##_rmr),    \
    }
#define TWO_ROW(op)                                                                                                    \
    {                                                                                                                  \
        [SHAPE_RR] = BY_SIZE_48(op##_rr), [SHAPE_RM] = BY_SIZE_48(op##_rm)                                             \
    }
    static by_size handlers[BMI_OPS][SHAPE_RMI + 1] = {
        [BMI_ANDN] = THREE_ROW(andn),
        [BMI_BEXTR] = THREE_ROW(bextr),
        [BMI_BZHI] = THREE_ROW(bzhi),
        [BMI_PDEP] = THREE_ROW(pdep),
        [BMI_PEXT] = THREE_ROW(pext),
        [BMI_SHLX] = THREE_ROW(shlx),
        [BMI_SHRX] = THREE_ROW(shrx),
        [BMI_SARX] = THREE_ROW(sarx),
        [BMI_BLSI] = TWO_ROW(blsi),
        [BMI_BLSMSK] = TWO_ROW(blsmsk),
        [BMI_BLSR] = TWO_ROW(blsr),
        [BMI_MULX] = {[SHAPE_RRR] = BY_SIZE_48(mulx_rrr), [SHAPE_RRM] = BY_SIZE_48(mulx_rrm)},
        [BMI_RORX] = {[SHAPE_RRI] = BY_SIZE_48(rorx_rri), [SHAPE_RMI] = BY_SIZE_48(rorx_rmi)},
    };
#undef THREE_ROW
#undef TWO_ROW

    if ((in->flags & (INSN_VEX | INSN_VEX_L)) != INSN_VEX || in->shape > SHAPE_RMI)
        return NULL;
    return pick_size(handlers[in->arg][in->shape], in->w0);
}
