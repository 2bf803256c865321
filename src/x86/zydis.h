/*
 * x86/zydis.h: Zydis's view of an instruction while its semantic is selected.
 * Included by decode.c and by the semantics tables (for mnemonics) only.
 */
#ifndef X86_ZYDIS_H
#define X86_ZYDIS_H

#include <Zydis/Zydis.h>

struct x86_zydis {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT]; /* visible ones first */
    const uint8_t *bytes;                            /* insn.length of them */
    uint8_t mode;                                    /* enum x86_mode */
};

#endif
