/*
 * tests/isa/features.c: CPUID and the semantics hold together. Every form of an
 * instruction whose features are offered has a semantic; every other one raises
 * #UD.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "x86/insn.h"

/* Instructions that no feature bit tells of. */
static bool is_exception(const struct isa_insn *in)
{
    switch (in->insn.mnemonic) {
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_RSM:    /* there is no SMM */
    case ZYDIS_MNEMONIC_VMCALL: /* hypercalls, of the paravirtual leaves */
    case ZYDIS_MNEMONIC_VMMCALL:
        return true;
    case ZYDIS_MNEMONIC_NOP: /* a prefetch of a register */
        return in->insn.opcode == 0x0d;
    default:
        return false;
    }
}

static unsigned check_form(const struct isa_form *form)
{
    struct x86_insn decoded;
    bool offered = isa_offered(&form->example), undefined;

    x86_decode(&decoded, form->example.mode, form->example.bytes, 15);
    undefined = x86_insn_undefined(&decoded);
    if (undefined != offered || is_exception(&form->example))
        return 0;
    printf("%s: %s\n", form->name, offered ? "offered in CPUID, but #UD" : "not offered in CPUID, but executed");
    return 1;
}

/* Encodings of which nothing is offered, walked byte by byte: EVEX, XOP, 3DNow!. */
static unsigned check_bytes(const uint8_t *prefix, unsigned length, ZydisInstructionEncoding encoding,
                            unsigned *decoded)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < 256 * 16; i++) {
        uint8_t bytes[16] = {0};
        struct isa_insn in;
        struct x86_insn insn;

        memcpy(bytes, prefix, length);
        if (encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW) {
            bytes[length] = i & 0x1000 ? 0x00 : 0xc1;
            bytes[length + 1] = (uint8_t)i;
        } else {
            bytes[length] = (uint8_t)i;
            bytes[length + 1] = (uint8_t)((i >> 8 & 7) << 3 | (i >> 11 ? 0x00 : 0xc1));
        }
        if (!isa_decode(&in, MODE_LONG64, bytes, 15) || in.insn.encoding != encoding)
            continue;
        (*decoded)++;
        x86_decode(&insn, MODE_LONG64, bytes, 15);
        if (x86_insn_undefined(&insn))
            continue;
        printf("%s (%s): not offered, but executed\n", ZydisMnemonicGetString(in.insn.mnemonic),
               ZydisISASetGetString(in.insn.meta.isa_set));
        wrong++;
    }
    return wrong;
}

static unsigned check_encodings(unsigned *decoded)
{
    static const uint8_t now[] = {0x0f, 0x0f};
    unsigned wrong = check_bytes(now, 2, ZYDIS_INSTRUCTION_ENCODING_3DNOW, decoded);

    for (unsigned fields = 0; fields < 128; fields++) { /* pp, W, vector length, map */
        uint8_t pp = fields & 3, w = fields >> 2 & 1, l = fields >> 3 & 3, map = (fields >> 5) + 1;
        uint8_t evex[] = {0x62, 0xf0 | map, (uint8_t)(w << 7 | 0x7c | pp), (uint8_t)(l << 5 | 0x08)};
        uint8_t xop[] = {0x8f, 0xe0 | (map + 7), (uint8_t)(w << 7 | 0x78 | (l & 1) << 2 | pp)};

        wrong += check_bytes(evex, sizeof(evex), ZYDIS_INSTRUCTION_ENCODING_EVEX, decoded);
        wrong += check_bytes(xop, sizeof(xop), ZYDIS_INSTRUCTION_ENCODING_XOP, decoded);
    }
    return wrong;
}

int main(void)
{
    struct isa_forms forms = {0};
    unsigned wrong = 0, offered = 0, others = 0;

    isa_find_forms(&forms, MODE_LONG64);
    isa_find_forms(&forms, MODE_COMPAT32);
    isa_find_forms(&forms, MODE_COMPAT16);
    for (unsigned i = 0; i < forms.count; i++) {
        wrong += check_form(&forms.form[i]);
        offered += isa_offered(&forms.form[i].example);
    }
    wrong += check_encodings(&others);
    printf("%u forms offered and executed, %u not offered, %u encodings of EVEX, XOP and 3DNow!: %u wrong\n", offered,
           forms.count - offered, others, wrong);
    isa_free_forms(&forms);
    return wrong || !offered || !others;
}
