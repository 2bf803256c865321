/*
 * tests/isa/undefined.c: what the manuals leave undefined (AMD APM vol. 3, the
 * "rFLAGS affected" table of each instruction): not compared, but counted.
 */
#include "isa.h"

#define OF FLAG_OF
#define SF FLAG_SF
#define ZF FLAG_ZF
#define AF FLAG_AF
#define PF FLAG_PF
#define CF FLAG_CF

/* Undefined whatever the operands. */
static const struct {
    uint16_t mnemonic, flags;
} always[] = {
    {ZYDIS_MNEMONIC_AND, AF},
    {ZYDIS_MNEMONIC_OR, AF},
    {ZYDIS_MNEMONIC_XOR, AF},
    {ZYDIS_MNEMONIC_TEST, AF},
    {ZYDIS_MNEMONIC_MUL, SF | ZF | AF | PF},
    {ZYDIS_MNEMONIC_IMUL, SF | ZF | AF | PF},
    {ZYDIS_MNEMONIC_DIV, FLAGS_STATUS},
    {ZYDIS_MNEMONIC_IDIV, FLAGS_STATUS},
    {ZYDIS_MNEMONIC_BSF, FLAGS_STATUS & ~ZF},
    {ZYDIS_MNEMONIC_BSR, FLAGS_STATUS & ~ZF},
    {ZYDIS_MNEMONIC_BT, OF | SF | AF | PF},
    {ZYDIS_MNEMONIC_BTS, OF | SF | AF | PF},
    {ZYDIS_MNEMONIC_BTR, OF | SF | AF | PF},
    {ZYDIS_MNEMONIC_BTC, OF | SF | AF | PF},
    {ZYDIS_MNEMONIC_LZCNT, OF | SF | AF | PF},
    {ZYDIS_MNEMONIC_TZCNT, OF | SF | AF | PF},
    {ZYDIS_MNEMONIC_ANDN, AF | PF},
    {ZYDIS_MNEMONIC_BEXTR, SF | AF | PF},
    {ZYDIS_MNEMONIC_BZHI, AF | PF},
    {ZYDIS_MNEMONIC_BLSI, AF | PF},
    {ZYDIS_MNEMONIC_BLSR, AF | PF},
    {ZYDIS_MNEMONIC_BLSMSK, AF | PF},
    {ZYDIS_MNEMONIC_AAA, OF | SF | ZF | PF},
    {ZYDIS_MNEMONIC_AAS, OF | SF | ZF | PF},
    {ZYDIS_MNEMONIC_AAD, OF | AF | CF},
    {ZYDIS_MNEMONIC_AAM, OF | AF | CF},
    {ZYDIS_MNEMONIC_DAA, OF},
    {ZYDIS_MNEMONIC_DAS, OF},
};

/* Shifts and rotates: the count decides. */
static const struct {
    uint16_t mnemonic;
    uint16_t shifted; /* after any count but 0 */
    bool carry;       /* CF is undefined where the count reaches the size */
} shifts[] = {
    {ZYDIS_MNEMONIC_SHL, AF, true},   {ZYDIS_MNEMONIC_SHR, AF, true},   {ZYDIS_MNEMONIC_SAR, AF, false},
    {ZYDIS_MNEMONIC_SHLD, AF, false}, {ZYDIS_MNEMONIC_SHRD, AF, false}, {ZYDIS_MNEMONIC_ROL, 0, false},
    {ZYDIS_MNEMONIC_ROR, 0, false},   {ZYDIS_MNEMONIC_RCL, 0, false},   {ZYDIS_MNEMONIC_RCR, 0, false},
};

static unsigned shift_count(const struct isa_insn *in, const struct isa_state *before)
{
    const ZydisDecodedOperand *op = &in->op[1];
    uint64_t count;

    if (in->insn.mnemonic == ZYDIS_MNEMONIC_SHLD || in->insn.mnemonic == ZYDIS_MNEMONIC_SHRD)
        op++;
    count = op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? op->imm.value.u : before->gpr[RCX];
    return count & (in->op[0].size == 64 ? 63 : 31);
}

uint64_t isa_undefined_flags(const struct isa_insn *in, const struct isa_state *before)
{
    unsigned count;
    uint64_t flags = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(always); i++)
        if (always[i].mnemonic == in->insn.mnemonic)
            return always[i].flags;
    for (unsigned i = 0; i < ARRAY_SIZE(shifts); i++) {
        if (shifts[i].mnemonic != in->insn.mnemonic)
            continue;
        count = shift_count(in, before);
        if (count)
            flags |= shifts[i].shifted;
        if (count > 1)
            flags |= OF;
        if (shifts[i].carry && count >= in->op[0].size)
            flags |= CF;
    }
    return flags;
}

bool isa_undefined_result(const struct isa_insn *in, const struct isa_state *before)
{
    switch (in->insn.mnemonic) {
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return shift_count(in, before) > in->op[0].size;
    case ZYDIS_MNEMONIC_BSWAP:
        return in->op[0].size == 16;
    default:
        return false;
    }
}
