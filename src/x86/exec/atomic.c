/*
 * x86/exec/atomic.c: XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B. Where the
 * operand is RAM the host's instruction works on it in place, locked if the
 * guest's is.
 */
#include "x86/bus.h"
#include "x86/exec/integer.h"
#include "x86/zydis.h"

/* --- XCHG: with memory always locked --------------------------------------------------- */

#define XCHG_SIZE(op, n, T, s)                                                                                         \
    static enum x86_rc xchg_rr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        T a = (T)GET(in->r0, n), b = (T)GET(in->r1, n);                                                                \
        SET(in->r0, n, b);                                                                                             \
        SET(in->r1, n, a);                                                                                             \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc xchg_mr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        T value = (T)GET(in->r0, n);                                                                                   \
        struct x86_rmw rmw;                                                                                            \
        enum x86_rc rc = x86_rmw_begin(cpu, in, &rmw, n);                                                              \
        if (unlikely(rc))                                                                                              \
            return rc;                                                                                                 \
        if (likely(rmw.host)) {                                                                                        \
            value = __atomic_exchange_n((T *)rmw.host, value, __ATOMIC_SEQ_CST);                                       \
        } else {                                                                                                       \
            rc = x86_rmw_finish(cpu, in, &rmw, value, n);                                                              \
            if (rc)                                                                                                    \
                return rc;                                                                                             \
            value = (T)rmw.value;                                                                                      \
        }                                                                                                              \
        SET(in->r0, n, value);                                                                                         \
        return X86_NEXT;                                                                                               \
    }
FOR_SIZES(XCHG_SIZE, xchg)

x86_exec_fn *x86_select_xchg(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size rr = BY_SIZE(xchg_rr), mr = BY_SIZE(xchg_mr);

    return pick_size(in->shape == SHAPE_RR ? rr : mr, in->w0);
}

static enum x86_rc exec_pause(struct x86_cpu *cpu, const struct x86_insn *in)
{
    if (cpu->bus->pause)
        cpu->bus->pause(cpu);
    return X86_NEXT;
}

/* F3 90 with REX.B is no PAUSE: XCHG R8, rAX with a prefix that means nothing. */
x86_exec_fn *x86_select_pause(struct x86_insn *in, const struct x86_zydis *zydis)
{
    if (!zydis->insn.raw.rex.B)
        return exec_pause;
    in->shape = SHAPE_RR;
    in->r0 = R8 * 8;
    in->r1 = RAX * 8;
    in->w0 = in->w1 = in->opsize;
    return x86_select_xchg(in, zydis);
}

/* --- XADD ---------------------------------------------------------------------------------- */

#define XADD_COMPUTE(name, prefix, constraint, T)                                                                      \
    static inline packed_flags name(T *dst, T *src)                                                                    \
    {                                                                                                                  \
        packed_flags f;                                                                                                \
        asm volatile(prefix "xadd %[s], %[d]" FLAGS_STORE                                                              \
                     : [d] constraint(*dst), [s] "+&r"(*src), [f] "=&a"(f)                                             \
                     :                                                                                                 \
                     : "cc", "memory");                                                                                \
        return f;                                                                                                      \
    }
/* With one register as both operands the sum stays: the destination is written last. */
#define XADD_SIZE(op, n, T, s)                                                                                         \
    XADD_COMPUTE(xadd_in_reg##n, "", "+&r", T)                                                                         \
    XADD_COMPUTE(xadd_in_mem##n, "", "+m", T)                                                                          \
    XADD_COMPUTE(xadd_locked##n, "lock ", "+m", T)                                                                     \
    static enum x86_rc xadd_rr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        T dst = (T)GET(in->r0, n), src = (T)GET(in->r1, n);                                                            \
        flags_set(cpu, xadd_in_reg##n(&dst, &src));                                                                    \
        SET(in->r1, n, src);                                                                                           \
        SET(in->r0, n, dst);                                                                                           \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc xadd_mr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        T src = (T)GET(in->r0, n);                                                                                     \
        struct x86_rmw rmw;                                                                                            \
        packed_flags f;                                                                                                \
        enum x86_rc rc = x86_rmw_begin(cpu, in, &rmw, n);                                                              \
        if (unlikely(rc))                                                                                              \
            return rc;                                                                                                 \
        if (likely(rmw.host)) {                                                                                        \
            f = in->flags & INSN_LOCK ? xadd_locked##n(rmw.host, &src) : xadd_in_mem##n(rmw.host, &src);               \
        } else {                                                                                                       \
            T dst = (T)rmw.value;                                                                                      \
            f = xadd_in_reg##n(&dst, &src);                                                                            \
            rc = x86_rmw_finish(cpu, in, &rmw, dst, n);                                                                \
            if (rc)                                                                                                    \
                return rc;                                                                                             \
        }                                                                                                              \
        SET(in->r0, n, src);                                                                                           \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
FOR_SIZES(XADD_SIZE, xadd)

x86_exec_fn *x86_select_xadd(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size rr = BY_SIZE(xadd_rr), mr = BY_SIZE(xadd_mr);

    return pick_size(in->shape == SHAPE_RR ? rr : mr, in->w0);
}

/* --- CMPXCHG --------------------------------------------------------------------------------- */

/* The accumulator, and a register destination, are whole registers: what becomes of their upper halves is the host's
 * word. RAX is free for the flags afterwards. */
#define CMPXCHG_COMPUTE(name, prefix, constraint, D, T, r)                                                             \
    static inline packed_flags name(uint64_t *acc, D *dst, T src)                                                      \
    {                                                                                                                  \
        packed_flags f;                                                                                                \
        asm volatile("movq %[acc], %%rax\n\t" prefix "cmpxchg %[s], %" r "[d]\n\tmovq %%rax, %[acc]" FLAGS_STORE       \
                     : [acc] "+&r"(*acc), [d] constraint(*dst), [f] "=&a"(f)                                           \
                     : [s] "r"(src)                                                                                    \
                     : "cc", "memory");                                                                                \
        return f;                                                                                                      \
    }
#define CMPXCHG_SIZE(n, T, r)                                                                                          \
    CMPXCHG_COMPUTE(cmpxchg_in_reg##n, "", "+&r", uint64_t, T, r)                                                      \
    CMPXCHG_COMPUTE(cmpxchg_in_mem##n, "", "+m", T, T, "")                                                             \
    CMPXCHG_COMPUTE(cmpxchg_locked##n, "lock ", "+m", T, T, "")                                                        \
    static enum x86_rc cmpxchg_rr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                   \
    {                                                                                                                  \
        uint64_t acc = cpu->gpr[RAX], dst = n < 4 ? GET(in->r0, n) : X86_GPR64(cpu, in->r0);                           \
        packed_flags f = cmpxchg_in_reg##n(&acc, &dst, (T)GET(in->r1, n));                                             \
        cpu->gpr[RAX] = acc;                                                                                           \
        x86_set_gpr(cpu, in->r0, n < 4 ? n : 8, dst);                                                                  \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc cmpxchg_mr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                   \
    {                                                                                                                  \
        T src = (T)GET(in->r0, n);                                                                                     \
        uint64_t acc = cpu->gpr[RAX];                                                                                  \
        struct x86_rmw rmw;                                                                                            \
        packed_flags f;                                                                                                \
        enum x86_rc rc = x86_rmw_begin(cpu, in, &rmw, n);                                                              \
        if (unlikely(rc))                                                                                              \
            return rc;                                                                                                 \
        if (likely(rmw.host)) {                                                                                        \
            f = in->flags & INSN_LOCK ? cmpxchg_locked##n(&acc, rmw.host, src)                                         \
                                      : cmpxchg_in_mem##n(&acc, rmw.host, src);                                        \
        } else {                                                                                                       \
            T dst = (T)rmw.value;                                                                                      \
            f = cmpxchg_in_mem##n(&acc, &dst, src);                                                                    \
            rc = x86_rmw_finish(cpu, in, &rmw, dst, n);                                                                \
            if (rc)                                                                                                    \
                return rc;                                                                                             \
        }                                                                                                              \
        cpu->gpr[RAX] = acc;                                                                                           \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
CMPXCHG_SIZE(1, uint8_t, "b")
CMPXCHG_SIZE(2, uint16_t, "w")
CMPXCHG_SIZE(4, uint32_t, "k")
CMPXCHG_SIZE(8, uint64_t, "q")

x86_exec_fn *x86_select_cmpxchg(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size rr = BY_SIZE(cmpxchg_rr), mr = BY_SIZE(cmpxchg_mr);

    return pick_size(in->shape == SHAPE_RR ? rr : mr, in->w0);
}

/* --- CMPXCHG8B, CMPXCHG16B: ZF alone changes ---------------------------------------------------- */

static void set_zf(struct x86_cpu *cpu, bool equal)
{
    cpu->rflags = (cpu->rflags & ~(uint64_t)FLAG_ZF) | (equal ? FLAG_ZF : 0);
}

static enum x86_rc cmpxchg8b(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t expected = (uint64_t)GET(RDX * 8, 4) << 32 | GET(RAX * 8, 4);
    uint64_t desired = (uint64_t)GET(RCX * 8, 4) << 32 | GET(RBX * 8, 4);
    struct x86_rmw rmw;
    bool equal;
    enum x86_rc rc = x86_rmw_begin(cpu, in, &rmw, 8);

    if (rc)
        return rc;
    if (rmw.host) {
        equal = __atomic_compare_exchange_n((uint64_t *)rmw.host, &expected, desired, false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST);
    } else {
        equal = rmw.value == expected;
        expected = rmw.value;
        rc = x86_rmw_finish(cpu, in, &rmw, equal ? desired : expected, 8);
        if (rc)
            return rc;
    }
    set_zf(cpu, equal);
    if (!equal) {
        SET(RAX * 8, 4, (uint32_t)expected);
        SET(RDX * 8, 4, expected >> 32);
    }
    return X86_NEXT;
}

struct pair {
    uint64_t lo, hi;
};

/* Compares *p with expected; equal: puts desired there, else expected becomes *p. */
static bool exchange16(void *p, struct pair *expected, struct pair desired)
{
    bool equal;

    asm volatile("lock cmpxchg16b %[p]"
                 : [p] "+m"(*(struct pair *)p), "+a"(expected->lo), "+d"(expected->hi), "=@ccz"(equal)
                 : "b"(desired.lo), "c"(desired.hi)
                 : "memory");
    return equal;
}

/* Not in place (MMIO, watched page, data breakpoints): read, compare, write. */
static enum x86_rc exchange16_slow(struct x86_cpu *cpu, const struct x86_insn *in, gva_t lin, struct pair *expected,
                                   struct pair desired, bool *equal)
{
    const unsigned stack = in->seg == SEG_SS ? ACCESS_STACK : 0;
    struct pair old __attribute__((aligned(16)));
    struct pair found = *expected;
    void *host;
    enum x86_rc rc = x86_rmw_pointer(cpu, lin, 16, ACCESS_WRITE | stack, &host);

    if (rc)
        return rc;
    if (host) {
        *equal = exchange16(host, expected, desired);
        x86_rmw_written(cpu, lin, 16, ACCESS_WRITE);
        return X86_NEXT;
    }
    rc = x86_lock_devices(cpu, in);
    if (rc)
        return rc;
    rc = x86_read_linear(cpu, lin, &old, 16, ACCESS_READ | stack);
    if (rc)
        return x86_unlock_devices(cpu, in, rc);
    *equal = exchange16(&old, &found, desired);
    rc = x86_write_linear(cpu, lin, &old, 16, ACCESS_WRITE | stack);
    if (!rc)
        *expected = found;
    return x86_unlock_devices(cpu, in, rc);
}

static enum x86_rc cmpxchg16b(struct x86_cpu *cpu, const struct x86_insn *in)
{
    struct pair expected = {cpu->gpr[RAX], cpu->gpr[RDX]}, desired = {cpu->gpr[RBX], cpu->gpr[RCX]};
    bool equal = false;
    gva_t lin;
    void *host;
    enum x86_rc rc = x86_linear(cpu, in->seg, x86_effective(cpu, in), 16, ACCESS_WRITE, &lin);

    if (rc)
        return rc;
    if (lin & 15)
        return x86_raise_gp(cpu, 0);
    host = x86_tlb_write(cpu, lin, 16);
    if (host)
        equal = exchange16(host, &expected, desired);
    else
        rc = exchange16_slow(cpu, in, lin, &expected, desired, &equal);
    if (rc)
        return rc;
    set_zf(cpu, equal);
    cpu->gpr[RAX] = expected.lo;
    cpu->gpr[RDX] = expected.hi;
    return X86_NEXT;
}

x86_exec_fn *x86_select_cmpxchg8b(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return cmpxchg8b;
}

x86_exec_fn *x86_select_cmpxchg16b(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return cmpxchg16b;
}
