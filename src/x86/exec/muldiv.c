/*
 * x86/exec/muldiv.c: MUL, IMUL, DIV, IDIV. A division is checked for #DE before
 * the host performs it.
 */
#include "x86/exec/integer.h"

typedef unsigned __int128 u128;

/* Both halves of a product, or of a dividend: in AX for bytes, else in xDX:xAX. */
static inline __attribute__((always_inline)) void get_pair(const struct x86_cpu *cpu, uint64_t *lo, uint64_t *hi,
                                                           unsigned n)
{
    *lo = GET(RAX * 8, n);
    *hi = n == 1 ? X86_GPR8(cpu, RAX * 8 + 1) : GET(RDX * 8, n);
}

static inline __attribute__((always_inline)) void set_pair(struct x86_cpu *cpu, uint64_t lo, uint64_t hi, unsigned n)
{
    SET(RAX * 8, n, lo);
    if (n == 1)
        X86_GPR8(cpu, RAX * 8 + 1) = (uint8_t)hi;
    else
        SET(RDX * 8, n, hi);
}

/* --- one operand ------------------------------------------------------------------------ */

/* The host's instruction on lo and hi (in, out). RAX carries the flags in and out. */
#define PAIR_COMPUTE(op, n, s, ax)                                                                                     \
    static inline packed_flags op##_pair##n(packed_flags f, uint64_t *lo, uint64_t *hi, uint64_t src)                  \
    {                                                                                                                  \
        asm(FLAGS_LOAD "movq %[lo], %%rax\n\t" #op s " %" ax "[src]\n\tmovq %%rax, %[lo]" FLAGS_STORE                  \
            : [f] "+&a"(f), [lo] "+&r"(*lo), "+&d"(*hi)                                                                \
            : [src] "r"(src)                                                                                           \
            : "cc");                                                                                                   \
        return f;                                                                                                      \
    }
/* Bytes: AX holds both halves. */
#define PAIR_COMPUTE_BYTE(op)                                                                                          \
    static inline packed_flags op##_pair1(packed_flags f, uint64_t *lo, uint64_t *hi, uint64_t src)                    \
    {                                                                                                                  \
        uint64_t ax = *hi << 8 | *lo;                                                                                  \
        asm(FLAGS_LOAD "movq %[ax], %%rax\n\t" #op "b %b[src]\n\tmovq %%rax, %[ax]" FLAGS_STORE                        \
            : [f] "+&a"(f), [ax] "+&r"(ax)                                                                             \
            : [src] "r"(src)                                                                                           \
            : "cc");                                                                                                   \
        *lo = ax & 0xff;                                                                                               \
        *hi = ax >> 8 & 0xff;                                                                                          \
        return f;                                                                                                      \
    }
#define PAIR_COMPUTE_ALL(op)                                                                                           \
    PAIR_COMPUTE_BYTE(op)                                                                                              \
    PAIR_COMPUTE(op, 2, "w", "w")                                                                                      \
    PAIR_COMPUTE(op, 4, "l", "k")                                                                                      \
    PAIR_COMPUTE(op, 8, "q", "q")
PAIR_COMPUTE_ALL(mul)
PAIR_COMPUTE_ALL(imul)
PAIR_COMPUTE_ALL(div)
PAIR_COMPUTE_ALL(idiv)

static inline bool product_fits(uint64_t lo, uint64_t hi, uint64_t src, unsigned n)
{
    return true;
}
#define mul_allowed  product_fits
#define imul_allowed product_fits

/* The quotient fits in n bytes exactly if the upper half is below the divisor. */
static inline bool div_allowed(uint64_t lo, uint64_t hi, uint64_t src, unsigned n)
{
    return hi < src;
}

/* The quotient, truncated towards 0, lies in [-max, max - 1] with max = 2^(8n - 1). */
static inline bool idiv_allowed(uint64_t lo, uint64_t hi, uint64_t src, unsigned n)
{
    unsigned unused = 64 - 8 * n;
    int64_t divisor = (int64_t)(src << unused) >> unused;
    u128 dividend = (u128)hi << 8 * n | lo, max = (u128)1 << (8 * n - 1);
    u128 magnitude = divisor < 0 ? -(u128)divisor : (u128)divisor;
    bool negative = (hi >> (8 * n - 1) & 1) != 0;

    if (negative)
        dividend = (n == 8 ? (u128)0 : (u128)1 << 16 * n) - dividend;
    return dividend < magnitude * (max + (negative != (divisor < 0)));
}

#define PAIR_HANDLER(op, n, form, fetch)                                                                               \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        uint64_t src, lo, hi;                                                                                          \
        fetch;                                                                                                         \
        get_pair(cpu, &lo, &hi, n);                                                                                    \
        if (unlikely(!op##_allowed(lo, hi, src, n)))                                                                   \
            return x86_raise(cpu, VEC_DE);                                                                             \
        flags_set(cpu, op##_pair##n(flags_get(cpu), &lo, &hi, src));                                                   \
        set_pair(cpu, lo, hi, n);                                                                                      \
        return X86_NEXT;                                                                                               \
    }
#define PAIR_HANDLERS(op, n, T, s)                                                                                     \
    PAIR_HANDLER(op, n, r, src = GET(in->r0, n))                                                                       \
    PAIR_HANDLER(op, n, m, READ_OPERAND(src, n))
FOR_SIZES(PAIR_HANDLERS, mul)
FOR_SIZES(PAIR_HANDLERS, imul)
FOR_SIZES(PAIR_HANDLERS, div)
FOR_SIZES(PAIR_HANDLERS, idiv)

/* --- IMUL with two and three operands ------------------------------------------------------ */

#define IMUL_HANDLER(n, T, form, first, fetch)                                                                         \
    static enum x86_rc imul_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        uint64_t src;                                                                                                  \
        packed_flags f = flags_get(cpu);                                                                               \
        T dst;                                                                                                         \
        fetch;                                                                                                         \
        dst = (T)(first);                                                                                              \
        asm(FLAGS_LOAD "imul %[s], %[d]" FLAGS_STORE : [d] "+&r"(dst), [f] "+&a"(f) : [s] "r"((T)src) : "cc");         \
        SET(in->r0, n, dst);                                                                                           \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
#define IMUL_HANDLERS(op, n, T, s)                                                                                     \
    IMUL_HANDLER(n, T, rr, GET(in->r0, n), src = GET(in->r1, n))                                                       \
    IMUL_HANDLER(n, T, rm, GET(in->r0, n), READ_OPERAND(src, n))                                                       \
    IMUL_HANDLER(n, T, rri, in->imm, src = GET(in->r1, n))                                                             \
    IMUL_HANDLER(n, T, rmi, in->imm, READ_OPERAND(src, n))
FOR_SIZES_248(IMUL_HANDLERS, imul)

x86_exec_fn *x86_select_muldiv(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size r[MULDIV_OPS] = {BY_SIZE(mul_r), BY_SIZE(imul_r), BY_SIZE(div_r), BY_SIZE(idiv_r)};
    static by_size m[MULDIV_OPS] = {BY_SIZE(mul_m), BY_SIZE(imul_m), BY_SIZE(div_m), BY_SIZE(idiv_m)};
    static by_size rr = BY_SIZE_248(imul_rr), rm = BY_SIZE_248(imul_rm);
    static by_size rri = BY_SIZE_248(imul_rri), rmi = BY_SIZE_248(imul_rmi);

    switch (in->shape) {
    case SHAPE_R:
        return pick_size(r[in->arg], in->w0);
    case SHAPE_M:
        return pick_size(m[in->arg], in->w0);
    case SHAPE_RR:
        return pick_size(rr, in->w0);
    case SHAPE_RM:
        return pick_size(rm, in->w0);
    case SHAPE_RRI:
        return pick_size(rri, in->w0);
    case SHAPE_RMI:
        return pick_size(rmi, in->w0);
    default:
        return NULL;
    }
}
