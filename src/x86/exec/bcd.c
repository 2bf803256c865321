/*
 * x86/exec/bcd.c: decimal adjustments and SALC; no 64-bit mode has them. Flags
 * that the manuals leave undefined are those of the addition or subtraction an
 * adjustment consists of, as on AMD's processors.
 */
#include "x86/exec/integer.h"

#define AL X86_GPR8(cpu, RAX * 8)
#define AH X86_GPR8(cpu, RAX * 8 + 1)
#define AX X86_GPR16(cpu, RAX * 8)

#define COMPUTE(op, n, T)                                                                                              \
    static inline packed_flags op##n(T *dst, T src)                                                                    \
    {                                                                                                                  \
        packed_flags f;                                                                                                \
        asm(#op " %[src], %[d]" FLAGS_STORE : [d] "+r"(*dst), [f] "=&a"(f) : [src] "r"(src) : "cc");                   \
        return f;                                                                                                      \
    }
COMPUTE(add, 1, uint8_t)
COMPUTE(add, 2, uint16_t)
COMPUTE(sub, 1, uint8_t)
COMPUTE(sub, 2, uint16_t)

/* Those flags, but AF and CF as given. */
static void adjust_flags(struct x86_cpu *cpu, packed_flags f, bool af, bool cf)
{
    flags_set(cpu, f);
    cpu->rflags = (cpu->rflags & ~(uint64_t)(FLAG_AF | FLAG_CF)) | (af ? FLAG_AF : 0) | (cf ? FLAG_CF : 0);
}

/* --- AAA, AAS: AX changes by 106h if the low digit is out of range; AL keeps that digit ------- */

static bool low_digit_wrong(const struct x86_cpu *cpu)
{
    return (AL & 0xf) > 9 || (cpu->rflags & FLAG_AF);
}

static enum x86_rc aaa(struct x86_cpu *cpu, const struct x86_insn *in)
{
    bool adjust = low_digit_wrong(cpu);
    uint16_t ax = AX;

    adjust_flags(cpu, add2(&ax, adjust ? 0x106 : 0), adjust, adjust);
    AX = ax & 0xff0f;
    return X86_NEXT;
}

static enum x86_rc aas(struct x86_cpu *cpu, const struct x86_insn *in)
{
    bool adjust = low_digit_wrong(cpu);
    uint16_t ax = AX;

    adjust_flags(cpu, sub2(&ax, adjust ? 0x106 : 0), adjust, adjust);
    AX = ax & 0xff0f;
    return X86_NEXT;
}

/* --- AAM, AAD ----------------------------------------------------------------------------------- */

static enum x86_rc aam(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t base = (uint8_t)in->imm, al = AL;

    if (!base)
        return x86_raise(cpu, VEC_DE);
    AH = al / base;
    AL = al % base;
    al = AL;
    adjust_flags(cpu, add1(&al, 0), false, false);
    return X86_NEXT;
}

static enum x86_rc aad(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t al = AL;

    flags_set(cpu, add1(&al, (uint8_t)(AH * (uint8_t)in->imm)));
    AX = al;
    return X86_NEXT;
}

/* --- DAA, DAS: 6 for each digit out of range (SDM vol. 2) ----------------------------------------- */

static enum x86_rc daa(struct x86_cpu *cpu, const struct x86_insn *in)
{
    bool low = low_digit_wrong(cpu), high = AL > 0x99 || (cpu->rflags & FLAG_CF);
    uint8_t al = AL;

    adjust_flags(cpu, add1(&al, (uint8_t)((low ? 6 : 0) + (high ? 0x60 : 0))), low, high);
    AL = al;
    return X86_NEXT;
}

static enum x86_rc das(struct x86_cpu *cpu, const struct x86_insn *in)
{
    bool low = low_digit_wrong(cpu), high = AL > 0x99 || (cpu->rflags & FLAG_CF);
    bool borrow = low && AL < 6;
    uint8_t al = AL;

    adjust_flags(cpu, sub1(&al, (uint8_t)((low ? 6 : 0) + (high ? 0x60 : 0))), low, high || borrow);
    AL = al;
    return X86_NEXT;
}

/* --- SALC --------------------------------------------------------------------------------------------- */

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
