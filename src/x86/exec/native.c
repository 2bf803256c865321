/*
 * exec/native.c: from a decoded guest instruction to its stub: re-encoding with fixed
 * operands (native_operand.h), which is also the stub's key. May know Zydis; runs at
 * decode time only.
 */
#include <string.h>

#include "x86/exec/native_operand.h"

/* --- operands -------------------------------------------------------------------- */

/* The guest's registers, as in->imm holds them. */
static uint64_t pack_operands(const struct x86_zydis *zydis)
{
    uint64_t packed = 0;

    _Static_assert(sizeof(struct x86_cpu) < OPERAND_MMX, "offsets into struct x86_cpu fit");
    for (unsigned p = 0; p < POSITION_COUNT; p++) {
        const ZydisDecodedOperand *op = x86_operand_at(zydis, p);
        uint64_t value;

        if (!op)
            continue;
        value = (uint64_t)ZydisRegisterGetId(op->reg.value);
        if (x86_operand_is_gpr(op))
            value = 8 * value;
        else if (ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_MMX)
            value |= OPERAND_MMX;
        else
            value = offsetof(struct x86_cpu, fpu.xmm) + 16 * value;
        packed |= value << (16 * p);
    }
    return packed;
}

/* --- re-encoding ----------------------------------------------------------------- */

static uint8_t host_modrm(const struct x86_zydis *zydis)
{
    unsigned reg = zydis->insn.raw.modrm.reg;

    if (x86_operand_at(zydis, POSITION_REG))
        reg = x86_host_number(zydis, POSITION_REG);
    if (zydis->insn.raw.modrm.mod != 3)
        return (uint8_t)(reg << 3 | HOST_RDI);
    return (uint8_t)(0xc0 | reg << 3 | x86_host_number(zydis, POSITION_RM));
}

static void encode_legacy(struct x86_code *code, const ZydisDecodedInstruction *insn)
{
    for (unsigned i = 0; i < insn->raw.prefix_count; i++)
        if (insn->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            EMIT(code, insn->raw.prefixes[i].value);
    if (insn->attributes & ZYDIS_ATTRIB_HAS_REX && insn->raw.rex.W)
        EMIT(code, 0x48);
    EMIT(code, 0x0f);
    if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        EMIT(code, 0x38);
    if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        EMIT(code, 0x3a);
}

static void encode_vex(struct x86_code *code, const struct x86_zydis *zydis, bool w)
{
    const ZydisDecodedInstruction *insn = &zydis->insn;
    unsigned vvvv = x86_operand_at(zydis, POSITION_VVVV) ? x86_places[POSITION_VVVV].number : 0;

    EMIT(code, 0xc4, (uint8_t)(0xe0 | insn->raw.vex.m_mmmm),
         (uint8_t)(w << 7 | (~vvvv & 15) << 3 | insn->raw.vex.L << 2 | insn->raw.vex.pp));
}

static bool encode(struct x86_stub_key *key, const struct x86_zydis *zydis, bool w)
{
    const ZydisDecodedInstruction *insn = &zydis->insn;
    struct x86_code code = {.length = 0};

    if (!insn->raw.modrm.offset)
        return false;
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        encode_vex(&code, zydis, w);
    else if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && insn->opcode_map >= ZYDIS_OPCODE_MAP_0F &&
             insn->opcode_map <= ZYDIS_OPCODE_MAP_0F3A)
        encode_legacy(&code, insn);
    else
        return false;
    EMIT(&code, insn->opcode, host_modrm(zydis));
    if (x86_operand_at(zydis, POSITION_IS4))
        EMIT(&code, (uint8_t)(x86_places[POSITION_IS4].number << 4));
    else if (insn->raw.imm[0].size)
        EMIT(&code, (uint8_t)insn->raw.imm[0].value.u);
    if (code.length > sizeof(key->bytes) || insn->raw.imm[0].size > 8)
        return false;
    *key = (struct x86_stub_key){.length = code.length & 15, .kind = STUB_VECTOR};
    memcpy(key->bytes, code.bytes, code.length);
    return true;
}

/* --- selection ------------------------------------------------------------------------ */

/* A row's feature is that of the mnemonic; AVX's integer instructions at 256 bits are AVX2's. */
static bool offered(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.isa_set) {
    case ZYDIS_ISA_SET_AVX2:
    case ZYDIS_ISA_SET_AVX2GATHER:
        return x86_feature(FEATURE_AVX2);
    case ZYDIS_ISA_SET_SSSE3MMX:
        return x86_feature(FEATURE_SSSE3);
    case ZYDIS_ISA_SET_VAES:
    case ZYDIS_ISA_SET_VPCLMULQDQ:
        return false;
    default:
        return true;
    }
}

static const struct x86_stub *find_stub(const struct x86_insn *in, const struct x86_zydis *zydis, bool w)
{
    const ZydisDecodedOperand *memory = x86_operand_memory(zydis);
    const struct x86_stub *stub;
    struct x86_stub_key key;

    if (!encode(&key, zydis, w))
        return NULL;
    stub = x86_stub_get(&key, x86_stub_make_vector);
    if (!stub || stub->mnemonic != in->mnemonic || stub->memsize != (memory ? memory->size / 8 : 0))
        return NULL;
    return stub;
}

x86_exec_fn *x86_native_vector(struct x86_insn *in, const struct x86_zydis *zydis)
{
    bool w = zydis->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && zydis->insn.raw.vex.W;
    const struct x86_stub *stub;

    if (!offered(&zydis->insn))
        return NULL;
    /* Outside 64-bit mode VEX.W does not widen general-purpose and integer memory operands; where it selects the
     * instruction the one without it is another. */
    stub = find_stub(in, zydis, w && zydis->mode == MODE_LONG64);
    if (!stub && w)
        stub = find_stub(in, zydis, true);
    if (!stub)
        return NULL;
    in->native = stub;
    in->imm = pack_operands(zydis);
    return x86_native_executor(stub);
}

const struct x86_stub *x86_native_x87_stub(const struct x86_insn *in, const struct x86_zydis *zydis)
{
    const ZydisDecodedInstruction *insn = &zydis->insn;
    const ZydisDecodedOperand *memory = x86_operand_memory(zydis);
    struct x86_stub_key key = {.length = 2, .kind = STUB_X87};
    const struct x86_stub *stub;

    if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || insn->opcode < 0xd8 || insn->opcode > 0xdf)
        return NULL;
    key.bytes[0] = insn->opcode;
    key.bytes[1] = (uint8_t)(insn->raw.modrm.reg << 3 | (memory ? HOST_RDI : 0xc0 | insn->raw.modrm.rm));
    stub = x86_stub_get(&key, x86_stub_make_x87);
    if (!stub || stub->mnemonic != in->mnemonic || stub->memsize != (memory ? memory->size / 8 : 0))
        return NULL;
    return stub;
}
