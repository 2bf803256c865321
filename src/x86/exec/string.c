/*
 * x86/exec/string.c: MOVS, CMPS, STOS, LODS, SCAS, with and without REP.
 * INS and OUTS are in string_io.c.
 *
 * With REP each iteration is committed before the next one. Where both operands
 * are plain RAM a run of iterations up to the end of the page is done at once
 * through host pointers; else they are done one by one, a bounded number a
 * call. X86_AGAIN tells the engine that more remain.
 */
#include <string.h>

#include "x86/exec/integer.h"
#include "x86/exec/string_ops.h"
#include "x86/zydis.h"

/* Iterations off the fast path in one call: interrupts wait so long. */
#define SLOW_RUN 64

static inline __attribute__((always_inline)) bool uses_source(enum string_op op)
{
    return op == STRING_MOVS || op == STRING_CMPS || op == STRING_LODS;
}

static inline __attribute__((always_inline)) bool uses_destination(enum string_op op)
{
    return op != STRING_LODS;
}

/* --- one iteration: reads, writes, flags; no registers but the accumulator's -------- */

#define COMPARE(op, n, T, s)                                                                                           \
    static inline packed_flags compare##n(T a, T b)                                                                    \
    {                                                                                                                  \
        packed_flags f;                                                                                                \
        asm("cmp %[b], %[a]" FLAGS_STORE : [f] "=&a"(f) : [a] "r"(a), [b] "r"(b) : "cc");                              \
        return f;                                                                                                      \
    }
FOR_SIZES(COMPARE, )

static inline __attribute__((always_inline)) packed_flags compare(uint64_t a, uint64_t b, unsigned n)
{
    return n == 1   ? compare1((uint8_t)a, (uint8_t)b)
           : n == 2 ? compare2((uint16_t)a, (uint16_t)b)
           : n == 4 ? compare4((uint32_t)a, (uint32_t)b)
                    : compare8(a, b);
}

static inline __attribute__((always_inline)) enum x86_rc step(struct x86_cpu *cpu, const struct x86_insn *in,
                                                              enum string_op op, unsigned n)
{
    uint64_t si = string_offset(in, cpu->gpr[RSI]), di = string_offset(in, cpu->gpr[RDI]);
    uint64_t a = GET(RAX * 8, n), b = 0;
    enum x86_rc rc;

    /* CMPS reads ES:DI first; REPE CMPSB, on AMD's processors, last. */
    if (op == STRING_CMPS && n == 1 && (in->flags & INSN_REP)) {
        rc = x86_load(cpu, in->seg, si, &a, n);
        if (unlikely(rc))
            return rc;
    }
    if (op == STRING_CMPS || op == STRING_SCAS) {
        rc = x86_load(cpu, SEG_ES, di, &b, n);
        if (unlikely(rc))
            return rc;
    }
    if (uses_source(op)) {
        rc = x86_load(cpu, in->seg, si, &a, n);
        if (unlikely(rc))
            return rc;
    }
    if (op == STRING_CMPS || op == STRING_SCAS)
        flags_set(cpu, compare(a, b, n));
    if (op == STRING_MOVS || op == STRING_STOS) {
        rc = x86_store(cpu, SEG_ES, di, a, n);
        if (unlikely(rc))
            return rc;
    }
    if (op == STRING_LODS)
        SET(RAX * 8, n, a);
    return X86_NEXT;
}

/* --- runs of iterations -------------------------------------------------------------- */

/* How many elements of n bytes from offset on, of count, lie whole in its page and below the wrap of addresses. */
static uint64_t run_length(const struct x86_cpu *cpu, const struct x86_insn *in, unsigned seg, uint64_t offset,
                           uint64_t count, unsigned n)
{
    uint64_t lin = (cpu->seg_base[seg] + offset) & cpu->lin_mask;
    uint64_t room = PAGE_SIZE - (lin & ~PAGE_MASK);

    if (in->addrsize == 2)
        room = MIN(room, 0x10000 - offset);
    else if (in->addrsize == 4)
        room = MIN(room, ((uint64_t)1 << 32) - offset);
    return MIN(count, room / n);
}

/* Where size bytes at seg:offset are in the host, or NULL: not to be reached in one piece (the slow path finds out). */
static void *run_pointer(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, unsigned access)
{
    gva_t lin;

    if (x86_linear(cpu, seg, offset, size, access, &lin))
        return NULL;
    return access == ACCESS_WRITE ? x86_tlb_write(cpu, lin, size) : x86_tlb_read(cpu, lin, size);
}

/* Elements lie where the guest puts them. */
typedef uint16_t __attribute__((aligned(1))) any_u16;
typedef uint32_t __attribute__((aligned(1))) any_u32;
typedef uint64_t __attribute__((aligned(1))) any_u64;

#define ELEMENT(p, i, n)                                                                                               \
    ((n) == 1   ? ((const uint8_t *)(p))[i]                                                                            \
     : (n) == 2 ? ((const any_u16 *)(p))[i]                                                                            \
     : (n) == 4 ? ((const any_u32 *)(p))[i]                                                                            \
                : ((const any_u64 *)(p))[i])

static inline __attribute__((always_inline)) void put_element(void *p, uint64_t i, uint64_t value, unsigned n)
{
    if (n == 1)
        ((uint8_t *)p)[i] = (uint8_t)value;
    else if (n == 2)
        ((any_u16 *)p)[i] = (uint16_t)value;
    else if (n == 4)
        ((any_u32 *)p)[i] = (uint32_t)value;
    else
        ((any_u64 *)p)[i] = value;
}

/* A destination that begins inside the source must repeat its pattern, as the element-wise copy does. */
static inline __attribute__((always_inline)) void copy(uint8_t *d, const uint8_t *s, uint64_t run, unsigned n)
{
    if (d <= s || d >= s + run * n) {
        memmove(d, s, run * n);
        return;
    }
    for (uint64_t i = 0; i < run; i++)
        put_element(d, i, ELEMENT(s, i, n), n);
}

static inline __attribute__((always_inline)) void fill(void *d, uint64_t value, uint64_t run, unsigned n)
{
    if (n == 1) {
        memset(d, (int)value, run);
        return;
    }
    for (uint64_t i = 0; i < run; i++)
        put_element(d, i, value, n);
}

/* Compares until the condition of REPE or REPNE fails; returns the iterations done (run is not 0). a: the elements,
 * or NULL: all are `acc`. */
static inline __attribute__((always_inline)) uint64_t scan(struct x86_cpu *cpu, const void *a, uint64_t acc,
                                                           const void *b, uint64_t run, bool equal, unsigned n)
{
    uint64_t i = 0, x, y;

    do {
        x = a ? ELEMENT(a, i, n) : acc;
        y = ELEMENT(b, i, n);
        i++;
    } while (i < run && (x == y) == equal);
    flags_set(cpu, compare(x, y, n));
    return i;
}

/* Does up to count iterations at once; returns how many, 0 if none can be. DF is 0. */
static inline __attribute__((always_inline)) uint64_t string_run(struct x86_cpu *cpu, const struct x86_insn *in,
                                                                 uint64_t count, enum string_op op, unsigned n)
{
    uint64_t si = string_offset(in, cpu->gpr[RSI]), di = string_offset(in, cpu->gpr[RDI]);
    uint64_t acc = GET(RAX * 8, n), run = count;
    void *s = NULL, *d = NULL;

    if (uses_source(op))
        run = run_length(cpu, in, in->seg, si, run, n);
    if (uses_destination(op))
        run = run_length(cpu, in, SEG_ES, di, run, n);
    if (!run)
        return 0;
    if (uses_source(op)) {
        s = run_pointer(cpu, in->seg, si, (unsigned)run * n, ACCESS_READ);
        if (!s)
            return 0;
    }
    if (uses_destination(op)) {
        d = run_pointer(cpu, SEG_ES, di, (unsigned)run * n,
                        op == STRING_MOVS || op == STRING_STOS ? ACCESS_WRITE : ACCESS_READ);
        if (!d)
            return 0;
    }
    switch (op) {
    case STRING_MOVS:
        copy(d, s, run, n);
        return run;
    case STRING_STOS:
        fill(d, acc, run, n);
        return run;
    case STRING_LODS:
        SET(RAX * 8, n, ELEMENT(s, run - 1, n));
        return run;
    case STRING_CMPS:
    case STRING_SCAS:
    default:
        return scan(cpu, s, acc, d, run, in->flags & INSN_REP, n);
    }
}

/* --- handlers ------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) void advance(struct x86_cpu *cpu, const struct x86_insn *in,
                                                          uint64_t iterations, enum string_op op, unsigned n)
{
    uint64_t distance = cpu->rflags & FLAG_DF ? -iterations * n : iterations * n;

    if (uses_source(op))
        x86_set_gpr(cpu, RSI * 8, in->addrsize, cpu->gpr[RSI] + distance);
    if (uses_destination(op))
        x86_set_gpr(cpu, RDI * 8, in->addrsize, cpu->gpr[RDI] + distance);
}

static inline __attribute__((always_inline)) enum x86_rc once(struct x86_cpu *cpu, const struct x86_insn *in,
                                                              enum string_op op, unsigned n)
{
    enum x86_rc rc = step(cpu, in, op, n);

    if (unlikely(rc))
        return rc;
    advance(cpu, in, 1, op, n);
    return X86_NEXT;
}

/* CMPS and SCAS end where ZF is not what the prefix wants. */
static inline __attribute__((always_inline)) bool goes_on(const struct x86_cpu *cpu, const struct x86_insn *in,
                                                          enum string_op op)
{
    if (op != STRING_CMPS && op != STRING_SCAS)
        return true;
    return condition_Z(cpu) == !!(in->flags & INSN_REP);
}

static inline __attribute__((always_inline)) enum x86_rc repeat(struct x86_cpu *cpu, const struct x86_insn *in,
                                                                enum string_op op, unsigned n)
{
    for (unsigned slow = 0; slow < SLOW_RUN; slow++) {
        uint64_t count = string_offset(in, cpu->gpr[RCX]), run = 0;

        if (!count)
            return X86_NEXT;
        if (likely(!(cpu->rflags & (FLAG_DF | FLAG_TF))))
            run = string_run(cpu, in, count, op, n);
        if (likely(run)) {
            slow = SLOW_RUN;
        } else {
            enum x86_rc rc = step(cpu, in, op, n);

            if (rc)
                return rc;
            run = 1;
        }
        advance(cpu, in, run, op, n);
        x86_set_gpr(cpu, RCX * 8, in->addrsize, count - run);
        if (count == run || !goes_on(cpu, in, op))
            return X86_NEXT;
        if (string_must_leave(cpu))
            break;
    }
    return X86_AGAIN;
}

#define HANDLERS(op, n, T, s)                                                                                          \
    static enum x86_rc op##_once##n(struct x86_cpu *cpu, const struct x86_insn *in)                                    \
    {                                                                                                                  \
        return once(cpu, in, STRING_##op, n);                                                                          \
    }                                                                                                                  \
    static enum x86_rc op##_rep##n(struct x86_cpu *cpu, const struct x86_insn *in)                                     \
    {                                                                                                                  \
        return repeat(cpu, in, STRING_##op, n);                                                                        \
    }
FOR_SIZES(HANDLERS, MOVS)
FOR_SIZES(HANDLERS, CMPS)
FOR_SIZES(HANDLERS, STOS)
FOR_SIZES(HANDLERS, LODS)
FOR_SIZES(HANDLERS, SCAS)

static x86_exec_fn *select_string(struct x86_insn *in, const struct x86_zydis *zydis)
{
#define ROW(op) [STRING_##op] = { BY_SIZE(op##_once), BY_SIZE(op##_rep) }
    static by_size handlers[STRING_OPS][2] = {ROW(MOVS), ROW(CMPS), ROW(STOS), ROW(LODS), ROW(SCAS)};
#undef ROW

    if (in->shape != SHAPE_NONE) /* MOVSD and CMPSD are vector instructions too */
        return NULL;
    return pick_size(handlers[in->arg][!!(in->flags & (INSN_REP | INSN_REPNE))], in->opsize);
}

#define OP(mnemonic, op, select)                                                                                       \
    {                                                                                                                  \
        ZYDIS_MNEMONIC_##mnemonic, FEATURE_NONE, STRING_##op, select                                                   \
    }
#define STRING(op) OP(op##B, op, select_string), OP(op##W, op, select_string), OP(op##D, op, select_string)

const struct x86_op x86_ops_string[] = {
    STRING(MOVS),
    OP(MOVSQ, MOVS, select_string),
    STRING(CMPS),
    OP(CMPSQ, CMPS, select_string),
    STRING(STOS),
    OP(STOSQ, STOS, select_string),
    STRING(LODS),
    OP(LODSQ, LODS, select_string),
    STRING(SCAS),
    OP(SCASQ, SCAS, select_string),
    OP(INSB, INS, x86_select_string_io),
    OP(INSW, INS, x86_select_string_io),
    OP(INSD, INS, x86_select_string_io),
    OP(OUTSB, OUTS, x86_select_string_io),
    OP(OUTSW, OUTS, x86_select_string_io),
    OP(OUTSD, OUTS, x86_select_string_io),
    {0},
};
