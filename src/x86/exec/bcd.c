/*
 * x86/exec/bcd.c: decimal adjustments and SALC; no 64-bit mode has them. Flags
 * that the manuals leave undefined are as AMD's processors leave them.
 */
#include "x86/exec/integer.h"

#define AL X86_GPR8(cpu, RAX * 8)
#define AH X86_GPR8(cpu, RAX * 8 + 1)

/* SF, ZF, PF of AL, and the flags given. */
static void adjust_flags(struct x86_cpu *cpu, uint32_t carries)
{
    flags_assign(cpu, carries | (AL ? 0 : FLAG_ZF) | (AL & 0x80 ? FLAG_SF : 0) | (__builtin_parity(AL) ? 0 : FLAG_PF));
}

/* AAA adds, AAS subtracts 106h to AX if the low digit is out of range; then AL keeps its low digit. */
static enum x86_rc ascii_adjust(struct x86_cpu *cpu, int step)
{
    bool adjust = (AL & 0xf) > 9 || (cpu->rflags & FLAG_AF);

    if (adjust)
        X86_GPR16(cpu, RAX * 8) = (uint16_t)(X86_GPR16(cpu, RAX * 8) + step);
    AL &= 0xf;
    adjust_flags(cpu, adjust ? FLAG_AF | FLAG_CF : 0);
    return X86_NEXT;
}

static enum x86_rc aaa(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return ascii_adjust(cpu, 0x106);
}

static enum x86_rc aas(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return ascii_adjust(cpu, -0x106);
}

static enum x86_rc aam(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t base = (uint8_t)in->imm, al = AL;

    if (!base)
        return x86_raise(cpu, VEC_DE);
    AH = al / base;
    AL = al % base;
    adjust_flags(cpu, 0);
    return X86_NEXT;
}

static enum x86_rc aad(struct x86_cpu *cpu, const struct x86_insn *in)
{
    AL = (uint8_t)(AL + AH * (uint8_t)in->imm);
    AH = 0;
    adjust_flags(cpu, 0);
    return X86_NEXT;
}

/* SDM vol. 2, DAA and DAS: sign is 1 or -1. */
static enum x86_rc decimal_adjust(struct x86_cpu *cpu, int sign)
{
    uint8_t al = AL;
    bool low = (al & 0xf) > 9 || (cpu->rflags & FLAG_AF);
    bool high = al > 0x99 || (cpu->rflags & FLAG_CF);
    bool borrow = sign < 0 && low && al < 6;

    AL = (uint8_t)(al + sign * ((low ? 6 : 0) + (high ? 0x60 : 0)));
    adjust_flags(cpu, (low ? FLAG_AF : 0) | (high || borrow ? FLAG_CF : 0));
    return X86_NEXT;
}

static enum x86_rc daa(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return decimal_adjust(cpu, 1);
}

static enum x86_rc das(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return decimal_adjust(cpu, -1);
}

static enum x86_rc salc(struct x86_cpu *cpu, const struct x86_insn *in)
{
    AL = cpu->rflags & FLAG_CF ? 0xff : 0;
    return X86_NEXT;
}

x86_exec_fn *x86_select_bcd(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static x86_exec_fn *const handlers[BCD_OPS] = {aaa, aas, aam, aad, daa, das, salc};

    return handlers[in->arg];
}
