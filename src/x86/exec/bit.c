/*
 * x86/exec/bit.c: BT, BTS, BTR, BTC; BSF, BSR; TZCNT, LZCNT, POPCNT; CRC32.
 */
#include "x86/exec/integer.h"

/* --- BT to BTC -------------------------------------------------------------------------- */

/* A bit index in a register reaches beyond a memory operand: a signed bit offset from it (SDM vol. 2, BT). The
 * instruction with the displacement of the operand that holds the bit. */
static inline __attribute__((always_inline)) struct x86_insn displaced(const struct x86_insn *in, int64_t index,
                                                                       unsigned n)
{
    struct x86_insn at = *in;

    at.disp += (index >> (n == 2 ? 4 : n == 4 ? 5 : 6)) * n;
    return at;
}

#define BIT_COMPUTE(op, n, T, s)                                                                                       \
    static inline packed_flags op##_in_reg##n(packed_flags f, T *dst, T index)                                         \
    {                                                                                                                  \
        asm(FLAGS_LOAD #op " %[i], %[d]" FLAGS_STORE : [d] "+&r"(*dst), [f] "+&a"(f) : [i] "r"(index) : "cc");         \
        return f;                                                                                                      \
    }                                                                                                                  \
    static enum x86_rc op##_r##n(struct x86_cpu *cpu, const struct x86_insn *in)                                       \
    {                                                                                                                  \
        T dst = (T)GET(in->r0, n);                                                                                     \
        T index = in->shape == SHAPE_RI ? (T)in->imm : (T)GET(in->r1, n);                                              \
        packed_flags f = op##_in_reg##n(flags_get(cpu), &dst, index);                                                  \
        SET(in->r0, n, dst);                                                                                           \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
FOR_SIZES_248(BIT_COMPUTE, bts)
FOR_SIZES_248(BIT_COMPUTE, btr)
FOR_SIZES_248(BIT_COMPUTE, btc)

/* Within the operand the index counts modulo its size. */
#define BIT_MASK(index, n) ((index) & (8 * (n)-1))

#define BIT_RMW_SIZE(op, n, T, s)                                                                                      \
    static inline packed_flags op##_locked##n(packed_flags f, T *dst, T index)                                         \
    {                                                                                                                  \
        asm volatile(FLAGS_LOAD "lock " #op " %[i], %[d]" FLAGS_STORE                                                  \
                     : [d] "+m"(*dst), [f] "+&a"(f)                                                                    \
                     : [i] "r"(index)                                                                                  \
                     : "cc", "memory");                                                                                \
        return f;                                                                                                      \
    }                                                                                                                  \
    static inline enum x86_rc op##_at##n(struct x86_cpu *cpu, const struct x86_insn *in, T index)                      \
    {                                                                                                                  \
        struct x86_rmw rmw;                                                                                            \
        packed_flags f = flags_get(cpu);                                                                               \
        enum x86_rc rc = x86_rmw_begin(cpu, in, &rmw, n);                                                              \
        if (unlikely(rc))                                                                                              \
            return rc;                                                                                                 \
        index = BIT_MASK(index, n);                                                                                    \
        if (rmw.host && (in->flags & INSN_LOCK)) {                                                                     \
            f = op##_locked##n(f, rmw.host, index);                                                                    \
        } else {                                                                                                       \
            T dst = (T)RMW_OLD(rmw, n);                                                                                \
            f = op##_in_reg##n(f, &dst, index);                                                                        \
            RMW_STORE(rmw, dst, n);                                                                                    \
        }                                                                                                              \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc op##_mi##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        return op##_at##n(cpu, in, (T)in->imm);                                                                        \
    }                                                                                                                  \
    static enum x86_rc op##_mr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        T index = (T)GET(in->r0, n);                                                                                   \
        struct x86_insn at = displaced(in, (SIGNED(n))index, n);                                                       \
        return op##_at##n(cpu, &at, index);                                                                            \
    }
#define SIGNED(n) SIGNED_##n
#define SIGNED_2  int16_t
#define SIGNED_4  int32_t
#define SIGNED_8  int64_t
FOR_SIZES_248(BIT_RMW_SIZE, bts)
FOR_SIZES_248(BIT_RMW_SIZE, btr)
FOR_SIZES_248(BIT_RMW_SIZE, btc)

/* BT only reads. */
#define BT_SIZE(op, n, T, s)                                                                                           \
    static inline enum x86_rc bt_value##n(struct x86_cpu *cpu, uint64_t value, uint64_t index)                         \
    {                                                                                                                  \
        cpu->rflags = (cpu->rflags & ~(uint64_t)FLAG_CF) | (value >> BIT_MASK(index, n) & 1);                          \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc bt_r##n(struct x86_cpu *cpu, const struct x86_insn *in)                                         \
    {                                                                                                                  \
        return bt_value##n(cpu, GET(in->r0, n), in->shape == SHAPE_RI ? in->imm : GET(in->r1, n));                     \
    }                                                                                                                  \
    static enum x86_rc bt_mi##n(struct x86_cpu *cpu, const struct x86_insn *in)                                        \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, n);                                                                                        \
        return bt_value##n(cpu, value, in->imm);                                                                       \
    }                                                                                                                  \
    static enum x86_rc bt_mr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                        \
    {                                                                                                                  \
        T index = (T)GET(in->r0, n);                                                                                   \
        struct x86_insn at = displaced(in, (SIGNED(n))index, n);                                                       \
        uint64_t value;                                                                                                \
        enum x86_rc rc = x86_read_operand(cpu, &at, &value, n);                                                        \
        return unlikely(rc) ? rc : bt_value##n(cpu, value, index);                                                     \
    }
FOR_SIZES_248(BT_SIZE, bt)

x86_exec_fn *x86_select_bt(struct x86_insn *in, const struct x86_zydis *zydis)
{
#define ROW(op)                                                                                                        \
    {                                                                                                                  \
        [SHAPE_RR] = BY_SIZE_248(op##_r), [SHAPE_RI] = BY_SIZE_248(op##_r), [SHAPE_MR] = BY_SIZE_248(op##_mr),         \
        [SHAPE_MI] = BY_SIZE_248(op##_mi),                                                                             \
    }
    static by_size handlers[BIT_OPS][SHAPE_MI + 1] = {ROW(bt), ROW(bts), ROW(btr), ROW(btc)};
#undef ROW

    return in->shape <= SHAPE_MI ? pick_size(handlers[in->arg][in->shape], in->w0) : NULL;
}

/* --- BSF, BSR: of 0 they leave the destination as the host does -------------------------- */

#define SCAN_HANDLER(op, n, T, r, form, fetch)                                                                         \
    static enum x86_rc op##_##form##n(struct x86_cpu *cpu, const struct x86_insn *in)                                  \
    {                                                                                                                  \
        uint64_t src, dst = X86_GPR64(cpu, in->r0);                                                                    \
        packed_flags f = flags_get(cpu);                                                                               \
        fetch;                                                                                                         \
        asm(FLAGS_LOAD #op " %[s], %" r "[d]" FLAGS_STORE : [d] "+&r"(dst), [f] "+&a"(f) : [s] "r"((T)src) : "cc");    \
        X86_GPR64(cpu, in->r0) = dst;                                                                                  \
        flags_set(cpu, f);                                                                                             \
        return X86_NEXT;                                                                                               \
    }
#define SCAN_HANDLERS(op, n, T, r)                                                                                     \
    SCAN_HANDLER(op, n, T, r, rr, src = GET(in->r1, n))                                                                \
    SCAN_HANDLER(op, n, T, r, rm, READ_OPERAND(src, n))
#define SCAN(op)                                                                                                       \
    SCAN_HANDLERS(op, 2, uint16_t, "w")                                                                                \
    SCAN_HANDLERS(op, 4, uint32_t, "k")                                                                                \
    SCAN_HANDLERS(op, 8, uint64_t, "q")
SCAN(bsf)
SCAN(bsr)

/* --- TZCNT, LZCNT, POPCNT ------------------------------------------------------------------ */

/* CF and ZF are defined; SF, AF and PF are cleared and OF is kept, as AMD's processors do. */
static inline void count_flags(struct x86_cpu *cpu, bool source_zero, bool result_zero)
{
    cpu->rflags = (cpu->rflags & ~(uint64_t)(FLAGS_STATUS & ~FLAG_OF)) | (source_zero ? FLAG_CF : 0) |
                  (result_zero ? FLAG_ZF : 0);
}

static inline __attribute__((always_inline)) uint64_t tzcnt(struct x86_cpu *cpu, uint64_t value, unsigned n)
{
    uint64_t count = value ? (unsigned)__builtin_ctzll(value) : 8 * n;

    count_flags(cpu, !value, !count);
    return count;
}

static inline __attribute__((always_inline)) uint64_t lzcnt(struct x86_cpu *cpu, uint64_t value, unsigned n)
{
    uint64_t count = value ? (unsigned)__builtin_clzll(value) - (64 - 8 * n) : 8 * n;

    count_flags(cpu, !value, !count);
    return count;
}

static inline __attribute__((always_inline)) uint64_t popcnt(struct x86_cpu *cpu, uint64_t value, unsigned n)
{
    flags_assign(cpu, value ? 0 : FLAG_ZF);
    return (unsigned)__builtin_popcountll(value);
}

#define COUNT_SIZE(op, n, T, s)                                                                                        \
    static enum x86_rc op##_rr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        SET(in->r0, n, op(cpu, GET(in->r1, n), n));                                                                    \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc op##_rm##n(struct x86_cpu *cpu, const struct x86_insn *in)                                      \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, n);                                                                                        \
        SET(in->r0, n, op(cpu, value, n));                                                                             \
        return X86_NEXT;                                                                                               \
    }
FOR_SIZES_248(COUNT_SIZE, tzcnt)
FOR_SIZES_248(COUNT_SIZE, lzcnt)
FOR_SIZES_248(COUNT_SIZE, popcnt)

x86_exec_fn *x86_select_scan(struct x86_insn *in, const struct x86_zydis *zydis)
{
#define ROW(op)                                                                                                        \
    {                                                                                                                  \
        BY_SIZE_248(op##_rr), BY_SIZE_248(op##_rm)                                                                     \
    }
    static by_size handlers[SCAN_OPS][2] = {
        [SCAN_BSF] = ROW(bsf),     [SCAN_BSR] = ROW(bsr),       [SCAN_TZCNT] = ROW(tzcnt),
        [SCAN_LZCNT] = ROW(lzcnt), [SCAN_POPCNT] = ROW(popcnt),
    };
#undef ROW

    return pick_size(handlers[in->arg][in->shape == SHAPE_RM], in->w0);
}

/* --- CRC32: offered only where the host has SSE4.2 -------------------------------------------- */

#define CRC32_SIZE(op, n, T, s)                                                                                        \
    static inline void crc32_add##n(struct x86_cpu *cpu, const struct x86_insn *in, T value)                           \
    {                                                                                                                  \
        uint64_t crc = X86_GPR32(cpu, in->r0);                                                                         \
        CRC32_ASM_##n(crc, value);                                                                                     \
        X86_GPR64(cpu, in->r0) = crc;                                                                                  \
    }                                                                                                                  \
    static enum x86_rc crc32_rr##n(struct x86_cpu *cpu, const struct x86_insn *in)                                     \
    {                                                                                                                  \
        crc32_add##n(cpu, in, (T)GET(in->r1, n));                                                                      \
        return X86_NEXT;                                                                                               \
    }                                                                                                                  \
    static enum x86_rc crc32_rm##n(struct x86_cpu *cpu, const struct x86_insn *in)                                     \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        READ_OPERAND(value, n);                                                                                        \
        crc32_add##n(cpu, in, (T)value);                                                                               \
        return X86_NEXT;                                                                                               \
    }
#define CRC32_ASM_1(crc, value) asm("crc32b %1, %k0" : "+r"(crc) : "r"(value))
#define CRC32_ASM_2(crc, value) asm("crc32w %1, %k0" : "+r"(crc) : "r"(value))
#define CRC32_ASM_4(crc, value) asm("crc32l %1, %k0" : "+r"(crc) : "r"(value))
#define CRC32_ASM_8(crc, value) asm("crc32q %1, %q0" : "+r"(crc) : "r"(value))
FOR_SIZES(CRC32_SIZE, crc32)

x86_exec_fn *x86_select_crc32(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static by_size rr = BY_SIZE(crc32_rr), rm = BY_SIZE(crc32_rm);

    return pick_size(in->shape == SHAPE_RR ? rr : rm, in->w1);
}
