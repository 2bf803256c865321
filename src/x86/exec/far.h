/*
 * x86/exec/far.h: what far transfers have in common.
 */
#ifndef X86_EXEC_FAR_H
#define X86_EXEC_FAR_H

#include "x86/segment.h"

/* Reads the far pointer that an instruction's memory operand is. */
enum x86_rc x86_read_far_pointer(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t *offset, uint16_t *selector);

/* Is rip inside a code segment (or canonical, if that is 64-bit code)? #GP(0) */
enum x86_rc x86_check_target(struct x86_cpu *cpu, const struct x86_segment *cs, uint64_t rip);

/* Reads n values of size bytes from the top of the stack, `skip` bytes up; RSP stays. */
enum x86_rc x86_stack_peek(struct x86_cpu *cpu, uint64_t *values, unsigned n, unsigned size, unsigned skip);

/* A far return in protected mode, all of it checked, nothing of it done. */
struct x86_far_return {
    struct x86_segment cs, ss;
    uint64_t rip, rsp;
    bool load_ss; /* SS:RSP come from the stack */
};
enum x86_rc x86_check_return_cs(struct x86_cpu *cpu, uint16_t selector, uint64_t rip, struct x86_far_return *ret);
enum x86_rc x86_check_return_ss(struct x86_cpu *cpu, uint16_t selector, struct x86_far_return *ret);
/* Loads CS:RIP and, as load_ss says, SS:RSP (plus `release` bytes); nulls segments on the way out. The mode is
 * up to date when it returns X86_JUMP. */
enum x86_rc x86_finish_return(struct x86_cpu *cpu, const struct x86_far_return *ret, unsigned release);

#endif
