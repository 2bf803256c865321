/*
 * x86/zydis.h: Zydis's view of an instruction while its semantic is selected.
 * Included by decode.c, by the semantics tables (for mnemonics) and by the translator.
 */
#ifndef X86_ZYDIS_H
#define X86_ZYDIS_H

#include <Zydis/Zydis.h>

#include "x86/defs.h"

struct x86_zydis {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT]; /* visible ones first; insn.operand_count, at least 2 are valid */
    const uint8_t *bytes;                            /* insn.length of them */
    uint8_t mode;                                    /* enum x86_mode */
};

/* Decodes the instruction in bytes[0..size). false: there is none. */
bool x86_zydis_decode(struct x86_zydis *zydis, enum x86_mode mode, const uint8_t *bytes, unsigned size);

/* The number of a general-purpose register (AH..BH: that of AX..BX), or -1. Zydis's numbers of them follow each other,
 * by size: AL, CL, DL, BL, AH .. BH, SPL .. R15B, AX .. */
static inline int x86_zydis_gpr(ZydisRegister reg)
{
    if (reg < ZYDIS_REGISTER_AL || reg > ZYDIS_REGISTER_R15)
        return -1;
    if (reg >= ZYDIS_REGISTER_AX)
        return (reg - ZYDIS_REGISTER_AX) % 16;
    return reg >= ZYDIS_REGISTER_SPL ? reg - ZYDIS_REGISTER_AH : (reg - ZYDIS_REGISTER_AL) % 4;
}

/* The mask that the linear address of a vector instruction's memory operand of memsize bytes must have clear. */
uint8_t x86_vector_alignment(const ZydisDecodedInstruction *insn, unsigned memsize);

#endif
