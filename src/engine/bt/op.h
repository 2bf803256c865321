/*
 * engine/bt/op.h: a guest instruction as the translator sees it: what kind of
 * work it is, which flags, registers and memory it uses. May know Zydis.
 */
#ifndef ENGINE_BT_OP_H
#define ENGINE_BT_OP_H

#include "x86/insn.h"
#include "x86/zydis.h"

/* How an instruction is translated. */
enum op_kind {
    OP_CALLOUT,     /* executed by its semantics */
    OP_CALLOUT_END, /* ditto, and the block ends */
    OP_IDENTITY,    /* the same instruction on the host: registers renamed, memory operand redirected */
    OP_NOTHING,     /* hints */
    OP_LEA_,
    OP_PUSH,
    OP_POP,
    OP_LEAVE,
    OP_PUSHF,
    OP_PUSH_MEMORY,
    OP_BIT, /* BT and its like: the bit's number, in a register, reaches beyond the memory operand */
    OP_CLI,
    OP_STI,
    OP_SWAPGS,
    OP_READ_SEGMENT,
    OP_READ_CONTROL,
    OP_LEAF,      /* by a function of leaf.c */
    OP_LEAF_JUMP, /* ditto, and it jumps */
    OP_DIVIDE,
    OP_JMP,
    OP_JCC,
    OP_CALL,
    OP_JMP_INDIRECT,
    OP_CALL_INDIRECT,
    OP_RET,
};

struct bt_op {
    struct x86_zydis z;
    const struct x86_insn *in;
    uint8_t kind;
    uint8_t vectors;                    /* enum bt_vectors */
    uint32_t flags_read, flags_written; /* status flags, as in RFLAGS */
    bool flags_maybe;                   /* some of those written may stay */
    bool flags_kept;                    /* undefined ones may stay */
    bool memory, mem_write;             /* has a memory operand to be checked */
    bool mem_maybe;                     /* may leave it alone, all or in part (masks) */
    uint8_t mem_size;                   /* bytes */
    uint8_t align;                      /* mask that the linear address must have clear */
    uint8_t displaced;                  /* explicit register operands that live in the frame, or: */
    bool high_byte;                     /* the only one is AH..BH, and cannot be named as that */
    uint16_t gpr_written;               /* bit g: explicit or implicit */
};

void bt_op_analyse(struct bt_op *op, const struct x86_insn *in, enum x86_mode mode, const uint8_t *bytes);

bool bt_is_high_byte(const ZydisDecodedOperand *operand); /* AH..BH */
/* The general-purpose register (0..15) an operand names, or -1. */
int bt_operand_gpr(const ZydisDecodedOperand *operand);

#endif
