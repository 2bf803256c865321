/*
 * exec/native_describe.c: what the executor of a stub has to know about its
 * instruction: memory, alignment, MXCSR, flags, results that can underflow. May
 * know Zydis; runs when a stub is made.
 */
#include <cpuid.h>

#include "x86/exec/native_operand.h"

static bool uses_mxcsr(const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) { /* those with MMX registers have no class in Zydis */
    case ZYDIS_MNEMONIC_CVTPI2PS:
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI:
        return true;
    default:
        break;
    }
    switch (insn->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
        return true;
    default:
        return false;
    }
}

bool x86_host_is_intel(void)
{
    unsigned eax, ebx, ecx, edx;

    return __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == signature_INTEL_ebx;
}

/* SDM vol. 2, 2.4 and table 2-18: legacy instructions want 16-byte operands aligned, VEX ones only those named so.
 * AMD's processors take the SHA instructions' operands unaligned, and the guest is shown the host's vendor. */
uint8_t x86_vector_alignment(const ZydisDecodedInstruction *insn, unsigned memsize)
{
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return insn->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1 ? (uint8_t)(memsize - 1) : 0;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return 0;
    default:
        if (insn->meta.isa_set == ZYDIS_ISA_SET_SHA && !x86_host_is_intel())
            return 0;
        return memsize == 16 ? 15 : 0;
    }
}

/* Results that may be tiny: with underflow unmasked even an exact one is an exception, which the masked run that we do
 * does not show. Minimum, maximum and comparison only pass operands on. */
static void find_tiny(struct x86_stub *stub, const struct x86_zydis *zydis)
{
    const ZydisDecodedOperand *op = &zydis->op[0];
    ZydisExceptionClass class = zydis->insn.meta.exception_class;
    unsigned size = op->element_type == ZYDIS_ELEMENT_TYPE_FLOAT64   ? 8
                    : op->element_type == ZYDIS_ELEMENT_TYPE_FLOAT32 ? 4
                    : op->element_type == ZYDIS_ELEMENT_TYPE_FLOAT16 ? 2
                                                                     : 0;

    switch (zydis->insn.opcode) {
    case 0x5d: /* MIN */
    case 0x5f: /* MAX */
    case 0xc2: /* CMP */
        if (zydis->insn.opcode_map == ZYDIS_OPCODE_MAP_0F)
            return;
    }
    if (zydis->insn.mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH)
        size = 2;
    if (!size || !(stub->flags & STUB_FP) || !x86_operand_writes(op) || stub->mmx_result)
        return;
    stub->tiny_size = (uint8_t)size;
    stub->tiny_count =
        class == ZYDIS_EXCEPTION_CLASS_SSE3 || class == ZYDIS_EXCEPTION_CLASS_AVX3 ? 1 : (uint8_t)(op->size / 8 / size);
    stub->tiny_position = op->type == ZYDIS_OPERAND_TYPE_MEMORY ? POSITION_MEM : (uint8_t)x86_operand_position(op);
}

static void find_dot(struct x86_stub *stub, const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_DPPS:
    case ZYDIS_MNEMONIC_VDPPS:
        stub->dot_size = 4;
        break;
    case ZYDIS_MNEMONIC_DPPD:
    case ZYDIS_MNEMONIC_VDPPD:
        stub->dot_size = 8;
        break;
    default:
        return;
    }
    stub->imm = (uint8_t)insn->raw.imm[0].value.u;
}

void x86_stub_describe(struct x86_stub *stub, const struct x86_zydis *zydis)
{
    const ZydisDecodedInstruction *insn = &zydis->insn;

    stub->mnemonic = (uint16_t)insn->mnemonic;
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        stub->flags |= STUB_VEX;
    if (uses_mxcsr(insn))
        stub->flags |= STUB_FP;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *op = &zydis->op[i];

        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            stub->flags |= x86_operand_writes(op) ? STUB_STORE : STUB_LOAD;
            stub->memsize = (uint8_t)(op->size / 8);
            stub->align = x86_vector_alignment(insn, stub->memsize);
        } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);

            if (class == ZYDIS_REGCLASS_MMX)
                stub->flags |= STUB_MMX;
            if (class == ZYDIS_REGCLASS_XMM)
                stub->flags |= STUB_XMM;
            if (class == ZYDIS_REGCLASS_MMX && x86_operand_writes(op))
                stub->mmx_result = (uint8_t)(1 + x86_operand_position(op));
            if (class == ZYDIS_REGCLASS_FLAGS && x86_operand_writes(op))
                stub->flags |= STUB_FLAGS;
        }
    }
    find_tiny(stub, zydis);
    find_dot(stub, insn);
}
