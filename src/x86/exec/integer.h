/*
 * x86/exec/integer.h: what the files of user-mode integer semantics share: their
 * select functions (rows in integer.c) and the generation of handlers by size.
 *
 * A handler is specialised by operation, operand shape and size, so that it runs
 * without a decision about any of them.
 */
#ifndef X86_EXEC_INTEGER_H
#define X86_EXEC_INTEGER_H

#include "x86/access.h"
#include "x86/exec/flags.h"

typedef x86_exec_fn *x86_select_fn(struct x86_insn *in, const struct x86_zydis *zydis);

/* alu.c; arg: enum alu_op, enum unary_op */
enum alu_op { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST, ALU_OPS };
enum unary_op { UNARY_INC, UNARY_DEC, UNARY_NEG, UNARY_NOT, UNARY_OPS };
x86_select_fn x86_select_alu, x86_select_unary, x86_select_adcx, x86_select_adox;

/* move.c; arg of CMOV, SET: condition code; of CONVERT: enum convert_op */
enum convert_op { CONVERT_CBW, CONVERT_CWDE, CONVERT_CDQE, CONVERT_CWD, CONVERT_CDQ, CONVERT_CQO, CONVERT_OPS };
x86_select_fn x86_select_mov, x86_select_movzx, x86_select_movsx, x86_select_movbe, x86_select_lea, x86_select_bswap,
    x86_select_xlat, x86_select_cmov, x86_select_set, x86_select_convert;

/* stack.c */
x86_select_fn x86_select_push, x86_select_pop, x86_select_pusha, x86_select_popa, x86_select_enter, x86_select_leave;

/* branch.c; arg of JCC: condition code; of LOOP: enum loop_op */
enum loop_op { LOOP_LOOP, LOOP_LOOPE, LOOP_LOOPNE, LOOP_JCXZ, LOOP_OPS };
x86_select_fn x86_select_jmp, x86_select_call, x86_select_ret, x86_select_jcc, x86_select_loop, x86_select_bound;

/* shift.c; arg of the double ones: SHIFT_SHL, SHIFT_SHR */
enum shift_op { SHIFT_ROL, SHIFT_ROR, SHIFT_RCL, SHIFT_RCR, SHIFT_SHL, SHIFT_SHR, SHIFT_SAR, SHIFT_OPS };
x86_select_fn x86_select_shift, x86_select_double_shift;

/* muldiv.c */
enum muldiv_op { MULDIV_MUL, MULDIV_IMUL, MULDIV_DIV, MULDIV_IDIV, MULDIV_OPS };
x86_select_fn x86_select_muldiv;

/* bit.c */
enum bit_op { BIT_BT, BIT_BTS, BIT_BTR, BIT_BTC, BIT_OPS };
enum scan_op { SCAN_BSF, SCAN_BSR, SCAN_TZCNT, SCAN_LZCNT, SCAN_POPCNT, SCAN_OPS };
x86_select_fn x86_select_bt, x86_select_scan, x86_select_crc32;

/* bmi.c */
enum bmi_op {
    BMI_ANDN,
    BMI_BEXTR,
    BMI_BZHI,
    BMI_PDEP,
    BMI_PEXT,
    BMI_SHLX,
    BMI_SHRX,
    BMI_SARX,
    BMI_BLSI,
    BMI_BLSMSK,
    BMI_BLSR,
    BMI_MULX,
    BMI_RORX,
    BMI_OPS
};
x86_select_fn x86_select_bmi;

/* atomic.c */
x86_select_fn x86_select_xchg, x86_select_pause, x86_select_xadd, x86_select_cmpxchg, x86_select_cmpxchg8b,
    x86_select_cmpxchg16b;

/* bcd.c */
enum bcd_op { BCD_AAA, BCD_AAS, BCD_AAM, BCD_AAD, BCD_DAA, BCD_DAS, BCD_SALC, BCD_OPS };
x86_select_fn x86_select_bcd;

/* misc.c */
enum flag_op { FLAG_OP_LAHF, FLAG_OP_SAHF, FLAG_OP_CLC, FLAG_OP_STC, FLAG_OP_CMC, FLAG_OP_CLD, FLAG_OP_STD, FLAG_OPS };
x86_select_fn x86_select_flag, x86_select_nop, x86_select_fence, x86_select_clflush, x86_select_random, x86_select_ud;

/* X(op, n, T, s): for each operand size n in bytes, its type and its AT&T suffix. */
#define FOR_SIZES(X, op)     FOR_SIZES_248(X, op) X(op, 1, uint8_t, "b")
#define FOR_SIZES_248(X, op) X(op, 2, uint16_t, "w") FOR_SIZES_48(X, op)
#define FOR_SIZES_48(X, op)  X(op, 4, uint32_t, "l") X(op, 8, uint64_t, "q")

/* Handlers by log2 of the size. */
#define BY_SIZE(name)                                                                                                  \
    {                                                                                                                  \
        name##1, name##2, name##4, name##8                                                                             \
    }
#define BY_SIZE_248(name)                                                                                              \
    {                                                                                                                  \
        NULL, name##2, name##4, name##8                                                                                \
    }
#define BY_SIZE_48(name)                                                                                               \
    {                                                                                                                  \
        NULL, NULL, name##4, name##8                                                                                   \
    }
typedef x86_exec_fn *const by_size[4];

static inline x86_exec_fn *pick_size(by_size table, unsigned size)
{
    switch (size) {
    case 1:
        return table[0];
    case 2:
        return table[1];
    case 4:
        return table[2];
    case 8:
        return table[3];
    default:
        return NULL;
    }
}

/* A register operand of n bytes; GET zero-extends. */
#define GET(off, n)                                                                                                    \
    ((n) == 1   ? X86_GPR8(cpu, off)                                                                                   \
     : (n) == 2 ? X86_GPR16(cpu, off)                                                                                  \
     : (n) == 4 ? X86_GPR32(cpu, off)                                                                                  \
                : X86_GPR64(cpu, off))
#define SET(off, n, value) x86_set_gpr(cpu, off, n, value)

/* Of a read-modify-write that has begun: the old value; and the end of a plain one, which may leave the handler. */
#define RMW_OLD(rmw, n) (likely((rmw).host) ? x86_host_get((rmw).host, n) : (rmw).value)
#define RMW_STORE(rmw, new, n)                                                                                         \
    do {                                                                                                               \
        if (likely((rmw).host)) {                                                                                      \
            x86_host_put((rmw).host, new, n);                                                                          \
        } else {                                                                                                       \
            enum x86_rc rc_ = x86_rmw_finish(cpu, in, &(rmw), new, n);                                                 \
            if (rc_)                                                                                                   \
                return rc_;                                                                                            \
        }                                                                                                              \
    } while (0)

/* Is operand i one of the general-purpose registers? (Not a segment, control or debug register.) */
bool x86_is_gpr(const struct x86_zydis *zydis, unsigned i);

/* 64-bit mode and 64-bit operands: of stack operations and branches. */
bool x86_is_long(const struct x86_insn *in, const struct x86_zydis *zydis);

/* Reads the memory operand into uint64_t v, or leaves the handler. */
#define READ_OPERAND(v, n)                                                                                             \
    do {                                                                                                               \
        enum x86_rc rc_ = x86_read_operand(cpu, in, &(v), n);                                                          \
        if (unlikely(rc_))                                                                                             \
            return rc_;                                                                                                \
    } while (0)

#endif
