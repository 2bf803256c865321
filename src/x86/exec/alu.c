/*
 * x86/exec/alu.c: two-operand arithmetic and logic (ADD to CMP, TEST), INC, DEC,
 * NEG, NOT, ADCX, ADOX. The host's own instruction computes result and flags.
 */
#include "x86/exec/integer.h"

/* --- two operands ------------------------------------------------------------- */

/* X(name, host instruction, CF needed: CARRY_LOAD or "", constraint of the flags) */
#define ALU_WRITE_LIST(X)                                                                                              \
    X(add, "add", "", "=&a")                                                                                           \
    X(or, "or", "", "=&a")                                                                                             \
    X(adc, "adc", CARRY_LOAD, "+&a")                                                                                   \
    X(sbb, "sbb", CARRY_LOAD, "+&a")                                                                                   \
    X(and, "and", "", "=&a")                                                                                           \
    X(sub, "sub", "", "=&a")                                                                                           \
    X(xor, "xor", "", "=&a")
#define ALU_COMPARE_LIST(X) X(cmp, "cmp") X(test, "test")

/* Computing in a register, in memory, and in memory atomically. */
#define ALU_COMPUTE_SIZE(op, insn, pre, constraint, n, T)                                                              \
    static inline packed_flags op##_in_reg##n(const struct x86_cpu *cpu, T *dst, T src)                                \
    {                                                                                                                  \
        packed_flags f = cpu->rflags & FLAG_CF;                                                                        \
        asm(pre insn " %[s], %[d]" FLAGS_STORE : [d] "+r"(*dst), [f] constraint(f) : [s] "r"(src) : "cc");             \
        return f;                                                                                                      \
    }                                                                                                                  \
    static inline packed_flags op##_in_mem##n(const struct x86_cpu *cpu, T *dst, T src)                                \
    {                                                                                                                  \
        packed_flags f = cpu->rflags & FLAG_CF;                                                                        \
        asm volatile(pre insn " %[s], %[d]" FLAGS_STORE                                                                \
                     : [d] "+m"(*dst), [f] constraint(f)                                                               \
                     : [s] "r"(src)                                                                                    \
                     : "cc", "memory");                                                                                \
        return f;                                                                                                      \
    }                                                                                                                  \
    static inline packed_flags op##_locked##n(const struct x86_cpu *cpu, T *dst, T src)                                \
    {                                                                                                                  \
        packed_flags f = cpu->rflags & FLAG_CF;                                                                        \
        asm volatile(pre "lock " insn " %[s], %[d]" FLAGS_STORE                                                        \
                     : [d] "+m"(*dst), [f] constraint(f)                                                               \
                     : [s] "r"(src)                                                                                    \
                     : "cc", "memory");                                                                                \
        return f;                                                                                                      \
    }

#define ALU_REG_HANDLER(op, n, T, form, source)                                                                        \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        T dst = (T)GET(in->r0, n);                                                                                     \
        packed_flags f = op##_in_reg##n(cpu, &dst, (T)(source));                                                       \
        SET(in->r0, n, dst);                                                                                           \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
#define ALU_LOAD_HANDLER(op, n, T)                                                                                     \
    static enum x86_rc op##_rm##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        T dst = (T)GET(in->r0, n);                                                                                     \
        uint64_t src;                                                                                                  \
        packed_flags f;                                                                                                \
        READ_OPERAND(src, n);                                                                                          \
        f = op##_in_reg##n(cpu, &dst, (T)src);                                                                         \
        SET(in->r0, n, dst);                                                                                           \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
#define ALU_RMW_HANDLER(op, n, T, form, source, compute)                                                               \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        T src = (T)(source);                                                                                           \
        struct x86_rmw rmw;                                                                                            \
        packed_flags f;                                                                                                \
        enum x86_rc rc = x86_rmw_begin(cpu, in, &rmw, n);                                                              \
        if (unlikely(rc))                                                                                              \
            return rc;                                                                                                 \
        if (likely(rmw.host)) {                                                                                        \
            f = op##_##compute##n(cpu, rmw.host, src);                                                                 \
        } else {                                                                                                       \
            T dst = (T)rmw.value;                                                                                      \
            f = op##_in_reg##n(cpu, &dst, src);                                                                        \
            rc = x86_rmw_finish(cpu, in, &rmw, dst, n);                                                                \
            if (rc)                                                                                                    \
                return rc;                                                                                             \
        }                                                                                                              \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }

#define ALU_WRITE_SIZE(op, insn, pre, constraint, n, T)                                                                \
    ALU_COMPUTE_SIZE(op, insn, pre, constraint, n, T)                                                                  \
    ALU_REG_HANDLER(op, n, T, rr, GET(in->r1, n))                                                                      \
    ALU_REG_HANDLER(op, n, T, ri, in->imm)                                                                             \
    ALU_LOAD_HANDLER(op, n, T)                                                                                         \
    ALU_RMW_HANDLER(op, n, T, mr, GET(in->r0, n), in_mem)                                                              \
    ALU_RMW_HANDLER(op, n, T, mi, in->imm, in_mem)                                                                     \
    ALU_RMW_HANDLER(op, n, T, lock_mr, GET(in->r0, n), locked)                                                         \
    ALU_RMW_HANDLER(op, n, T, lock_mi, in->imm, locked)
#define ALU_WRITE(op, insn, pre, constraint)                                                                           \
    ALU_WRITE_SIZE(op, insn, pre, constraint, 1, uint8_t)                                                              \
    ALU_WRITE_SIZE(op, insn, pre, constraint, 2, uint16_t)                                                             \
    ALU_WRITE_SIZE(op, insn, pre, constraint, 4, uint32_t)                                                             \
    ALU_WRITE_SIZE(op, insn, pre, constraint, 8, uint64_t)
ALU_WRITE_LIST(ALU_WRITE)

/* CMP and TEST write nothing: a memory destination is only read. */
#define ALU_COMPARE_HANDLER(op, n, T, form, first, second)                                                             \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        flags_set(cpu, op##_values##n((T)(first), (T)(second)));                                                       \
        return X86_NEXT;                                                                                               \
    }
#define ALU_COMPARE_LOAD_HANDLER(op, n, T, form, first, second)                                                        \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        uint64_t mem;                                                                                                  \
        READ_OPERAND(mem, n);                                                                                          \
        flags_set(cpu, op##_values##n((T)(first), (T)(second)));                                                       \
        return X86_NEXT;                                                                                               \
    }
#define ALU_COMPARE_SIZE(op, insn, n, T)                                                                               \
    static inline packed_flags op##_values##n(T a, T b)                                                                \
    {                                                                                                                  \
        packed_flags f;                                                                                                \
        asm(insn " %[b], %[a]" FLAGS_STORE : [f] "=&a"(f) : [a] "r"(a), [b] "r"(b) : "cc");                            \
        return f;                                                                                                      \
    }                                                                                                                  \
    ALU_COMPARE_HANDLER(op, n, T, rr, GET(in->r0, n), GET(in->r1, n))                                                  \
    ALU_COMPARE_HANDLER(op, n, T, ri, GET(in->r0, n), in->imm)                                                         \
    ALU_COMPARE_LOAD_HANDLER(op, n, T, rm, GET(in->r0, n), mem)                                                        \
    ALU_COMPARE_LOAD_HANDLER(op, n, T, mr, mem, GET(in->r0, n))                                                        \
    ALU_COMPARE_LOAD_HANDLER(op, n, T, mi, mem, in->imm)
#define ALU_COMPARE(op, insn)                                                                                          \
    ALU_COMPARE_SIZE(op, insn, 1, uint8_t)                                                                             \
    ALU_COMPARE_SIZE(op, insn, 2, uint16_t)                                                                            \
    ALU_COMPARE_SIZE(op, insn, 4, uint32_t)                                                                            \
    ALU_COMPARE_SIZE(op, insn, 8, uint64_t)
ALU_COMPARE_LIST(ALU_COMPARE)

#define ALU_ROW(op)                                                                                                    \
    {                                                                                                                  \
        [SHAPE_RR] = BY_SIZE(op##_rr), [SHAPE_RI] = BY_SIZE(op##_ri), [SHAPE_RM] = BY_SIZE(op##_rm),                   \
        [SHAPE_MR] = BY_SIZE(op##_mr), [SHAPE_MI] = BY_SIZE(op##_mi),                                                  \
    }
static by_size alu_handlers[ALU_OPS][SHAPE_MI + 1] = {
    [ALU_ADD] = ALU_ROW(add), [ALU_OR] = ALU_ROW(or),   [ALU_ADC] = ALU_ROW(adc),
    [ALU_SBB] = ALU_ROW(sbb), [ALU_AND] = ALU_ROW(and), [ALU_SUB] = ALU_ROW(sub),
    [ALU_XOR] = ALU_ROW(xor), [ALU_CMP] = ALU_ROW(cmp), [ALU_TEST] = ALU_ROW(test),
};

#define ALU_LOCK_ROW(op)                                                                                               \
    {                                                                                                                  \
        [SHAPE_MR] = BY_SIZE(op##_lock_mr), [SHAPE_MI] = BY_SIZE(op##_lock_mi)                                         \
    }
static by_size alu_lock_handlers[ALU_OPS][SHAPE_MI + 1] = {
    [ALU_ADD] = ALU_LOCK_ROW(add), [ALU_OR] = ALU_LOCK_ROW(or),   [ALU_ADC] = ALU_LOCK_ROW(adc),
    [ALU_SBB] = ALU_LOCK_ROW(sbb), [ALU_AND] = ALU_LOCK_ROW(and), [ALU_SUB] = ALU_LOCK_ROW(sub),
    [ALU_XOR] = ALU_LOCK_ROW(xor),
};

x86_exec_fn *x86_select_alu(struct x86_insn *in, const struct x86_zydis *zydis)
{
    if (in->shape > SHAPE_MI)
        return NULL;
    return pick_size((in->flags & INSN_LOCK ? alu_lock_handlers : alu_handlers)[in->arg][in->shape], in->w0);
}

/* --- one operand ---------------------------------------------------------------- */

#define UNARY_COMPUTE(op, n, T, s)                                                                                     \
    static inline packed_flags op##_in_reg##n(T *dst)                                                                  \
    {                                                                                                                  \
        packed_flags f;                                                                                                \
        asm(#op s " %[d]" FLAGS_STORE : [d] "+r"(*dst), [f] "=&a"(f) : : "cc");                                        \
        return f;                                                                                                      \
    }                                                                                                                  \
    static inline packed_flags op##_in_mem##n(T *dst)                                                                  \
    {                                                                                                                  \
        packed_flags f;                                                                                                \
        asm volatile(#op s " %[d]" FLAGS_STORE : [d] "+m"(*dst), [f] "=&a"(f) : : "cc", "memory");                     \
        return f;                                                                                                      \
    }                                                                                                                  \
    static inline packed_flags op##_locked##n(T *dst)                                                                  \
    {                                                                                                                  \
        packed_flags f;                                                                                                \
        asm volatile("lock " #op s " %[d]" FLAGS_STORE : [d] "+m"(*dst), [f] "=&a"(f) : : "cc", "memory");             \
        return f;                                                                                                      \
    }

#define UNARY_RMW_HANDLER(op, n, T, form, compute, commit)                                                             \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        struct x86_rmw rmw;                                                                                            \
        packed_flags f;                                                                                                \
        enum x86_rc rc = x86_rmw_begin(cpu, in, &rmw, n);                                                              \
        if (unlikely(rc))                                                                                              \
            return rc;                                                                                                 \
        if (likely(rmw.host)) {                                                                                        \
            f = op##_##compute##n(rmw.host);                                                                           \
        } else {                                                                                                       \
            T dst = (T)rmw.value;                                                                                      \
            f = op##_in_reg##n(&dst);                                                                                  \
            rc = x86_rmw_finish(cpu, in, &rmw, dst, n);                                                                \
            if (rc)                                                                                                    \
                return rc;                                                                                             \
        }                                                                                                              \
        commit(cpu, f);                                                                                                \
        return X86_NEXT;                                                                                               \
    }
#define UNARY_SIZE(op, commit, n, T, s)                                                                                \
    UNARY_COMPUTE(op, n, T, s)                                                                                         \
    static enum x86_rc op##_r##n(struct x86_cpu *cpu, const struct x86_insn *in)                                       \
    {                                                                                                                  \
        T dst = (T)GET(in->r0, n);                                                                                     \
        packed_flags f = op##_in_reg##n(&dst);                                                                         \
        SET(in->r0, n, dst);                                                                                           \
        commit(cpu, f);                                                                                                \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    UNARY_RMW_HANDLER(op, n, T, m, in_mem, commit)                                                                     \
    UNARY_RMW_HANDLER(op, n, T, lock_m, locked, commit)
#define UNARY(op, commit)                                                                                              \
    UNARY_SIZE(op, commit, 1, uint8_t, "b")                                                                            \
    UNARY_SIZE(op, commit, 2, uint16_t, "w")                                                                           \
    UNARY_SIZE(op, commit, 4, uint32_t, "l")                                                                           \
    UNARY_SIZE(op, commit, 8, uint64_t, "q")

static inline void flags_keep(struct x86_cpu *cpu, packed_flags f)
{
}

UNARY(inc, flags_set_but_carry)
UNARY(dec, flags_set_but_carry)
UNARY(neg, flags_set)
UNARY(not, flags_keep)

enum unary_form { UNARY_R, UNARY_M, UNARY_LOCK_M, UNARY_FORMS };
#define UNARY_ROW(op)                                                                                                  \
    {                                                                                                                  \
        BY_SIZE(op##_r), BY_SIZE(op##_m), BY_SIZE(op##_lock_m)                                                         \
    }
static by_size unary_handlers[UNARY_OPS][UNARY_FORMS] = {
    [UNARY_INC] = UNARY_ROW(inc),
    [UNARY_DEC] = UNARY_ROW(dec),
    [UNARY_NEG] = UNARY_ROW(neg),
    [UNARY_NOT] = UNARY_ROW(not ),
};

x86_exec_fn *x86_select_unary(struct x86_insn *in, const struct x86_zydis *zydis)
{
    enum unary_form form = in->shape == SHAPE_R ? UNARY_R : in->flags & INSN_LOCK ? UNARY_LOCK_M : UNARY_M;

    return pick_size(unary_handlers[in->arg][form], in->w0);
}

/* --- ADCX, ADOX: one carry chain each --------------------------------------------- */

#define ADX_HANDLER(op, flag, n, T, form, fetch)                                                                       \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        uint64_t src;                                                                                                  \
        T sum;                                                                                                         \
        bool carry;                                                                                                    \
        fetch;                                                                                                         \
        carry = __builtin_add_overflow((T)GET(in->r0, n), (T)src, &sum);                                               \
        carry |= __builtin_add_overflow(sum, (T)((cpu->rflags & (flag)) != 0), &sum);                                  \
        SET(in->r0, n, sum);                                                                                           \
        cpu->rflags = (cpu->rflags & ~(uint64_t)(flag)) | (carry ? (flag) : 0);                                        \
        return X86_NEXT;                                                                                               \
    }
#define ADX(op, flag)                                                                                                  \
    ADX_HANDLER(op, flag, 4, uint32_t, rr, src = GET(in->r1, 4))                                                       \
    ADX_HANDLER(op, flag, 8, uint64_t, rr, src = GET(in->r1, 8))                                                       \
    ADX_HANDLER(op, flag, 4, uint32_t, rm, READ_OPERAND(src, 4))                                                       \
    ADX_HANDLER(op, flag, 8, uint64_t, rm, READ_OPERAND(src, 8))                                                       \
    x86_exec_fn *x86_select_##op(struct x86_insn *in, const struct x86_zydis *zydis)                                   \
    {                                                                                                                  \
        static by_size rr = BY_SIZE_48(op##_rr), rm = BY_SIZE_48(op##_rm);                                             \
        return pick_size(in->shape == SHAPE_RR ? rr : rm, in->w0);                                                     \
    }
ADX(adcx, FLAG_CF)
ADX(adox, FLAG_OF)
