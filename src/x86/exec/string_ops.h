/*
 * x86/exec/string_ops.h: what memory strings (string.c) and port strings (string_io.c)
 * share.
 */
#ifndef X86_EXEC_STRING_OPS_H
#define X86_EXEC_STRING_OPS_H

#include "x86/insn.h"

enum string_op { STRING_MOVS, STRING_CMPS, STRING_STOS, STRING_LODS, STRING_SCAS, STRING_INS, STRING_OUTS, STRING_OPS };

x86_exec_fn *x86_select_string_io(struct x86_insn *in, const struct x86_zydis *zydis);

/* RSI, RDI or RCX as an instruction with its address size sees it. */
static inline uint64_t string_offset(const struct x86_insn *in, uint64_t value)
{
    return in->addrsize == 8 ? value : in->addrsize == 4 ? (uint32_t)value : (uint16_t)value;
}

/* After an iteration: is there something that the engine must see before the next one? I/O done (its log is of this
 * iteration), single step, a data breakpoint, or decoded code (maybe this instruction) written to. */
static inline bool string_must_leave(const struct x86_cpu *cpu)
{
    return cpu->io_count || (cpu->rflags & FLAG_TF) || cpu->dr6_hit || cpu->code_changed;
}

#endif
