/*
 * x86/exec/native.h: instructions the host executes for the guest.
 *
 * Vector and floating-point instructions are emulated by the host's own unit:
 * the instruction is copied into a stub with its memory operand redirected to a
 * private, bounded buffer and its general-purpose operands to fixed registers,
 * and runs on the guest's register values and control words. So rounding, NaNs
 * and flags are exactly the hardware's, undefined cases included.
 */
#ifndef X86_EXEC_NATIVE_H
#define X86_EXEC_NATIVE_H

#include "x86/insn.h"

/* Select functions for table rows: make (or find) the stub for the instruction, set in->native, return the executor. */
x86_exec_fn *x86_native_vector(struct x86_insn *in, const struct x86_zydis *zydis);
x86_exec_fn *x86_native_x87(struct x86_insn *in, const struct x86_zydis *zydis);

#endif
