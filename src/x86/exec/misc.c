/*
 * x86/exec/misc.c: single flags, hints, fences, cache lines, random numbers,
 * undefined instructions.
 */
#include <stdatomic.h>

#include "x86/exec/integer.h"
#include "x86/exec/system.h"
#include "x86/zydis.h"

/* --- flags ------------------------------------------------------------------------------ */

#define LAHF_FLAGS (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF)

static enum x86_rc lahf(struct x86_cpu *cpu, const struct x86_insn *in)
{
    X86_GPR8(cpu, RAX * 8 + 1) = (uint8_t)((cpu->rflags & LAHF_FLAGS) | FLAG_FIXED);
    return X86_NEXT;
}

static enum x86_rc sahf(struct x86_cpu *cpu, const struct x86_insn *in)
{
    cpu->rflags = (cpu->rflags & ~(uint64_t)LAHF_FLAGS) | (X86_GPR8(cpu, RAX * 8 + 1) & LAHF_FLAGS);
    return X86_NEXT;
}

#define FLAG_HANDLER(name, statement)                                                                                  \
    static enum x86_rc name(struct x86_cpu *cpu, const struct x86_insn *in)                                            \
    {                                                                                                                  \
        statement;                                                                                                     \
        return X86_NEXT;                                                                                               \
    }
FLAG_HANDLER(clc, cpu->rflags &= ~(uint64_t)FLAG_CF)
FLAG_HANDLER(stc, cpu->rflags |= FLAG_CF)
FLAG_HANDLER(cmc, cpu->rflags ^= FLAG_CF)
FLAG_HANDLER(cld, cpu->rflags &= ~(uint64_t)FLAG_DF)
FLAG_HANDLER(std, cpu->rflags |= FLAG_DF)

x86_exec_fn *x86_select_flag(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static x86_exec_fn *const handlers[FLAG_OPS] = {lahf, sahf, clc, stc, cmc, cld, std};

    return handlers[in->arg];
}

/* --- hints and fences --------------------------------------------------------------------- */

static enum x86_rc nop(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return X86_NEXT;
}

/* 0F 0D with a register: a prefetch of nothing to AMD, a reserved NOP to Intel. */
static enum x86_rc prefetch_register(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_vendor_intel(cpu) ? X86_NEXT : x86_raise(cpu, VEC_UD);
}

x86_exec_fn *x86_select_nop(struct x86_insn *in, const struct x86_zydis *zydis)
{
    bool prefetch = zydis->insn.opcode_map == ZYDIS_OPCODE_MAP_0F && zydis->insn.opcode == 0x0d;

    return prefetch && in->shape != SHAPE_M && in->shape != SHAPE_MR ? prefetch_register : nop;
}

static enum x86_rc fence(struct x86_cpu *cpu, const struct x86_insn *in)
{
    atomic_thread_fence(memory_order_seq_cst);
    return X86_NEXT;
}

x86_exec_fn *x86_select_fence(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return fence;
}

/* Faults as a read of the byte would (SDM vol. 2, CLFLUSH), but reads no device. */
static enum x86_rc clflush(struct x86_cpu *cpu, const struct x86_insn *in)
{
    gva_t lin;
    gpa_t gpa;
    enum x86_rc rc = x86_linear(cpu, in->seg, x86_effective(cpu, in), 1, ACCESS_READ, &lin);

    if (rc || x86_tlb_read(cpu, lin, 1))
        return rc;
    return x86_translate(cpu, lin, in->seg == SEG_SS ? ACCESS_READ | ACCESS_STACK : ACCESS_READ, &gpa);
}

x86_exec_fn *x86_select_clflush(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return clflush;
}

/* --- RDRAND, RDSEED -------------------------------------------------------------------------- */

static enum x86_rc random_number(struct x86_cpu *cpu, const struct x86_insn *in)
{
    flags_assign(cpu, FLAG_CF); /* there is always one */
    x86_set_gpr(cpu, in->r0, in->opsize, x86_random_next(&cpu->random));
    return X86_NEXT;
}

x86_exec_fn *x86_select_random(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return in->shape == SHAPE_R ? random_number : NULL;
}

/* --- UD0, UD1, UD2 ----------------------------------------------------------------------------- */

static enum x86_rc ud(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_raise(cpu, VEC_UD);
}

x86_exec_fn *x86_select_ud(struct x86_insn *in, const struct x86_zydis *zydis)
{
    in->flags |= INSN_END;
    return ud;
}
