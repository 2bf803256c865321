/*
 * exec/native.c: from a decoded guest instruction to a stub: re-encoding with
 * fixed operands, and the code around it that loads and stores them. Whatever
 * comes out is decoded again and must be the same instruction, with no memory
 * operand but [rdi], or it is refused. May know Zydis; runs at decode time only.
 *
 * Host registers by operand position: ModRM.reg is xmm1 (mm1), VEX.vvvv xmm2,
 * ModRM.rm xmm3 (mm3), is4 xmm4, the implicit XMM0 itself; a general-purpose
 * operand is rax. Guest registers are reached through the pointers of
 * x86_stub_fn: rdi memory, rsi, rdx, rcx, r9 by position, r8 struct x86_cpu.
 */
#include <cpuid.h>
#include <string.h>

#include "x86/exec/fpu.h"
#include "x86/exec/native_internal.h"
#include "x86/zydis.h"

#define CPU_XMM0  ((int32_t)offsetof(struct x86_cpu, fpu.xmm))
#define CPU_MXCSR ((int32_t)offsetof(struct x86_cpu, fpu.mxcsr))
#define YMM_HIGH  ((int32_t)(offsetof(struct x86_fpu, ymm_high) - offsetof(struct x86_fpu, xmm)))

enum host_register { HOST_RAX = 0, HOST_RCX = 1, HOST_RDX = 2, HOST_RSI = 6, HOST_RDI = 7, HOST_R8 = 8, HOST_R9 = 9 };

static const struct {
    uint8_t number;  /* of xmm or mm */
    uint8_t pointer; /* enum host_register */
} places[POSITION_COUNT] = {
    [POSITION_REG] = {1, HOST_RSI},
    [POSITION_VVVV] = {2, HOST_RDX},
    [POSITION_RM] = {3, HOST_RCX},
    [POSITION_IS4] = {4, HOST_R9},
};

/* --- emitting ------------------------------------------------------------------ */

static void emit(struct x86_code *code, const void *bytes, unsigned n)
{
    if (n <= sizeof(code->bytes) && code->length <= sizeof(code->bytes) - n)
        memcpy(code->bytes + code->length, bytes, n);
    code->length += n;
}

#define EMIT(code, ...) emit(code, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* ModRM and displacement of [base + disp32]; no base used here needs a SIB byte. */
static void emit_memory(struct x86_code *code, unsigned reg, unsigned base, int32_t disp)
{
    EMIT(code, (uint8_t)(0x80 | (reg & 7) << 3 | (base & 7)));
    emit(code, &disp, 4);
}

/* prefix 0: none; REX only where it is needed */
static void emit_0f(struct x86_code *code, unsigned prefix, unsigned opcode, unsigned reg, unsigned base, int32_t disp)
{
    if (prefix)
        EMIT(code, (uint8_t)prefix);
    if (base & 8)
        EMIT(code, 0x41);
    EMIT(code, 0x0f, (uint8_t)opcode);
    emit_memory(code, reg, base, disp);
}

static void emit_gpr(struct x86_code *code, unsigned opcode, unsigned reg, unsigned base, int32_t disp)
{
    EMIT(code, (uint8_t)(0x48 | (base & 8 ? 1 : 0)), (uint8_t)opcode);
    emit_memory(code, reg, base, disp);
}

static void emit_vmovups(struct x86_code *code, unsigned opcode, unsigned reg, unsigned base, int32_t disp)
{
    EMIT(code, 0xc4, base & 8 ? 0xc1 : 0xe1, 0x78, (uint8_t)opcode);
    emit_memory(code, reg, base, disp);
}

/* vinsertf128 (0x18) or vextractf128 (0x19) of the upper half */
static void emit_high(struct x86_code *code, unsigned opcode, unsigned reg, unsigned base, int32_t disp)
{
    unsigned vvvv = opcode == 0x18 ? ~reg & 15 : 15;

    EMIT(code, 0xc4, base & 8 ? 0xc3 : 0xe3, (uint8_t)(vvvv << 3 | 0x05), (uint8_t)opcode);
    emit_memory(code, reg, base, disp);
    EMIT(code, 1);
}

static void emit_load(struct x86_code *code, const ZydisDecodedOperand *op, bool vex, unsigned reg, unsigned base,
                      int32_t disp)
{
    switch (ZydisRegisterGetClass(op->reg.value)) {
    case ZYDIS_REGCLASS_MMX:
        emit_0f(code, 0, 0x6f, reg, base, disp);
        break;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
        if (!vex) {
            emit_0f(code, 0, 0x10, reg, base, disp);
            break;
        }
        emit_vmovups(code, 0x10, reg, base, disp);
        if (ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_YMM)
            emit_high(code, 0x18, reg, base, disp + YMM_HIGH);
        break;
    default:
        emit_gpr(code, 0x8b, reg, base, disp);
    }
}

/* A legacy SSE instruction leaves the upper YMM half, a VEX one has just zeroed it if it is of 128 bits. */
static void emit_store(struct x86_code *code, const ZydisDecodedOperand *op, bool vex, unsigned reg, unsigned base,
                       int32_t disp)
{
    switch (ZydisRegisterGetClass(op->reg.value)) {
    case ZYDIS_REGCLASS_MMX:
        emit_0f(code, 0, 0x7f, reg, base, disp);
        break;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
        if (!vex) {
            emit_0f(code, 0, 0x11, reg, base, disp);
            break;
        }
        emit_vmovups(code, 0x11, reg, base, disp);
        emit_high(code, 0x19, reg, base, disp + YMM_HIGH);
        break;
    default: /* a 32-bit result has zeroed the upper half of rax */
        emit_gpr(code, 0x89, reg, base, disp);
    }
}

/* --- operands -------------------------------------------------------------------- */

static bool reads(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
}

static bool writes(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

static bool is_gpr(const ZydisDecodedOperand *op)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);

    return class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
}

static bool is_vector(const ZydisDecodedOperand *op)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);

    return class == ZYDIS_REGCLASS_MMX || class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM;
}

/* Where an explicit register operand is encoded; POSITION_COUNT: it is implicit. */
static enum x86_position position_of(const ZydisDecodedOperand *op)
{
    switch (op->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        return POSITION_REG;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        return POSITION_RM;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        return POSITION_VVVV;
    case ZYDIS_OPERAND_ENCODING_IS4:
        return POSITION_IS4;
    default:
        return POSITION_COUNT;
    }
}

static const ZydisDecodedOperand *operand_at(const struct x86_zydis *zydis, enum x86_position position)
{
    for (unsigned i = 0; i < zydis->insn.operand_count; i++)
        if (zydis->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && position_of(&zydis->op[i]) == position)
            return &zydis->op[i];
    return NULL;
}

static const ZydisDecodedOperand *memory_operand(const struct x86_zydis *zydis)
{
    for (unsigned i = 0; i < zydis->insn.operand_count; i++)
        if (zydis->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &zydis->op[i];
    return NULL;
}

/* The guest's registers, as in->imm holds them. */
static uint64_t pack_operands(const struct x86_zydis *zydis)
{
    uint64_t packed = 0;

    _Static_assert(sizeof(struct x86_cpu) < OPERAND_MMX, "offsets into struct x86_cpu fit");
    for (unsigned p = 0; p < POSITION_COUNT; p++) {
        const ZydisDecodedOperand *op = operand_at(zydis, p);
        uint64_t value;

        if (!op)
            continue;
        value = (uint64_t)ZydisRegisterGetId(op->reg.value);
        if (is_gpr(op))
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

static unsigned host_number(const struct x86_zydis *zydis, enum x86_position position)
{
    const ZydisDecodedOperand *op = operand_at(zydis, position);

    return op && is_gpr(op) ? HOST_RAX : places[position].number;
}

static uint8_t host_modrm(const struct x86_zydis *zydis)
{
    unsigned reg = zydis->insn.raw.modrm.reg;

    if (operand_at(zydis, POSITION_REG))
        reg = host_number(zydis, POSITION_REG);
    if (zydis->insn.raw.modrm.mod != 3)
        return (uint8_t)(reg << 3 | HOST_RDI);
    return (uint8_t)(0xc0 | reg << 3 | host_number(zydis, POSITION_RM));
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
    unsigned vvvv = operand_at(zydis, POSITION_VVVV) ? places[POSITION_VVVV].number : 0;

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
    if (operand_at(zydis, POSITION_IS4))
        EMIT(&code, (uint8_t)(places[POSITION_IS4].number << 4));
    else if (insn->raw.imm[0].size)
        EMIT(&code, (uint8_t)insn->raw.imm[0].value.u);
    if (code.length > sizeof(key->bytes) || insn->raw.imm[0].size > 8)
        return false;
    *key = (struct x86_stub_key){.length = code.length & 15, .kind = STUB_VECTOR};
    memcpy(key->bytes, code.bytes, code.length);
    return true;
}

/* --- making a stub ------------------------------------------------------------------ */

static bool decode_key(const struct x86_stub_key *key, struct x86_zydis *zydis)
{
    ZydisDecoder decoder;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, key->bytes, key->length, &zydis->insn, zydis->op)))
        return false;
    return zydis->insn.length == key->length;
}

static bool is_rdi(const ZydisDecodedOperand *op)
{
    return op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && op->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
           op->mem.segment == ZYDIS_REGISTER_DS && op->mem.base == ZYDIS_REGISTER_RDI &&
           op->mem.index == ZYDIS_REGISTER_NONE && !op->mem.disp.has_displacement && op->size <= 64 * 8 &&
           !(reads(op) && writes(op));
}

/* Only the host registers that a stub may touch, only [rdi]. */
static bool operand_allowed(const struct x86_zydis *zydis, const ZydisDecodedOperand *op)
{
    enum x86_position position;

    if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
        return is_rdi(op);
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    position = position_of(op);
    if (position != POSITION_COUNT)
        return (is_gpr(op) || is_vector(op)) &&
               (unsigned)ZydisRegisterGetId(op->reg.value) == host_number(zydis, position);
    switch (op->reg.value) { /* implicit */
    case ZYDIS_REGISTER_XMM0:
    case ZYDIS_REGISTER_RFLAGS:
    case ZYDIS_REGISTER_MXCSR:
        return true;
    case ZYDIS_REGISTER_EAX:
    case ZYDIS_REGISTER_EDX:
    case ZYDIS_REGISTER_RAX:
    case ZYDIS_REGISTER_RDX:
        return !writes(op);
    case ZYDIS_REGISTER_ECX:
    case ZYDIS_REGISTER_RCX:
        return !reads(op);
    default:
        return false;
    }
}

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

static bool host_is_intel(void)
{
    unsigned eax, ebx, ecx, edx;

    return __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == signature_INTEL_ebx;
}

/* SDM vol. 2, 2.4 and table 2-18: legacy instructions want 16-byte operands aligned, VEX ones only those named so.
 * AMD's processors take the SHA instructions' operands unaligned, and the guest is shown the host's vendor. */
static uint8_t alignment_mask(const ZydisDecodedInstruction *insn, unsigned memsize)
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
        if (insn->meta.isa_set == ZYDIS_ISA_SET_SHA && !host_is_intel())
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
    if (!size || !(stub->flags & STUB_FP) || !writes(op) || stub->mmx_result)
        return;
    stub->tiny_size = (uint8_t)size;
    stub->tiny_count =
        class == ZYDIS_EXCEPTION_CLASS_SSE3 || class == ZYDIS_EXCEPTION_CLASS_AVX3 ? 1 : (uint8_t)(op->size / 8 / size);
    stub->tiny_position = op->type == ZYDIS_OPERAND_TYPE_MEMORY ? POSITION_MEM : (uint8_t)position_of(op);
}

static void describe(struct x86_stub *stub, const struct x86_zydis *zydis)
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
            stub->flags |= writes(op) ? STUB_STORE : STUB_LOAD;
            stub->memsize = (uint8_t)(op->size / 8);
            stub->align = alignment_mask(insn, stub->memsize);
        } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);

            if (class == ZYDIS_REGCLASS_MMX)
                stub->flags |= STUB_MMX;
            if (class == ZYDIS_REGCLASS_XMM)
                stub->flags |= STUB_XMM;
            if (class == ZYDIS_REGCLASS_MMX && writes(op))
                stub->mmx_result = (uint8_t)(1 + position_of(op));
            if (class == ZYDIS_REGCLASS_FLAGS && writes(op))
                stub->flags |= STUB_FLAGS;
        }
    }
    find_tiny(stub, zydis);
}

/* Explicit operands first: implicit ones may be in the registers that hold the pointers. A legacy instruction may
 * leave part of its destination, so that is always loaded. */
static void emit_loads(struct x86_code *code, const struct x86_zydis *zydis, bool vex)
{
    for (unsigned p = 0; p < POSITION_COUNT; p++) {
        const ZydisDecodedOperand *op = operand_at(zydis, p);

        if (op && (reads(op) || (!vex && is_vector(op))))
            emit_load(code, op, vex, host_number(zydis, p), places[p].pointer, 0);
    }
    for (unsigned i = 0; i < zydis->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &zydis->op[i];

        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || position_of(op) != POSITION_COUNT)
            continue;
        if (is_vector(op) && (reads(op) || !vex))
            emit_load(code, op, vex, 0, HOST_R8, CPU_XMM0);
        else if (is_gpr(op) && reads(op))
            emit_load(code, op, vex, (unsigned)ZydisRegisterGetId(op->reg.value), HOST_R8,
                      8 * ZydisRegisterGetId(op->reg.value));
    }
}

static void emit_stores(struct x86_code *code, const struct x86_zydis *zydis, bool vex)
{
    for (unsigned i = 0; i < zydis->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &zydis->op[i];
        enum x86_position p = position_of(op);

        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !writes(op) || (!is_vector(op) && !is_gpr(op)))
            continue;
        if (p != POSITION_COUNT)
            emit_store(code, op, vex, host_number(zydis, p), places[p].pointer, 0);
        else if (is_vector(op))
            emit_store(code, op, vex, 0, HOST_R8, CPU_XMM0);
        else
            emit_store(code, op, vex, (unsigned)ZydisRegisterGetId(op->reg.value), HOST_R8,
                       8 * ZydisRegisterGetId(op->reg.value));
    }
}

static bool make_vector(const struct x86_stub_key *key, struct x86_stub *stub, struct x86_code *code)
{
    struct x86_zydis zydis;
    bool vex;

    if (!decode_key(key, &zydis))
        return false;
    for (unsigned i = 0; i < zydis.insn.operand_count; i++)
        if (!operand_allowed(&zydis, &zydis.op[i]))
            return false;
    describe(stub, &zydis);
    vex = stub->flags & STUB_VEX;
    if (stub->flags & STUB_FP)
        emit_0f(code, 0, 0xae, 2, HOST_R8, CPU_MXCSR); /* ldmxcsr */
    emit_loads(code, &zydis, vex);
    emit(code, key->bytes, key->length);
    emit_stores(code, &zydis, vex);
    if (stub->flags & STUB_FP) {
        emit_0f(code, 0, 0xae, 3, HOST_R8, CPU_MXCSR);             /* stmxcsr */
        EMIT(code, 0x68, 0x80, 0x1f, 0, 0, 0x0f, 0xae, 0x14, 0x24, /* push MXCSR_INIT; ldmxcsr [rsp] */
             0x48, 0x8d, 0x64, 0x24, 8);                           /* lea rsp, [rsp + 8]: keeps the flags */
    }
    if (stub->flags & STUB_FLAGS)
        EMIT(code, 0x9c, 0x58); /* pushfq; pop rax */
    if (stub->flags & STUB_MMX)
        EMIT(code, 0x0f, 0x77); /* emms */
    if (vex)
        EMIT(code, 0xc5, 0xf8, 0x77); /* vzeroupper */
    EMIT(code, 0xc3);
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
    const ZydisDecodedOperand *memory = memory_operand(zydis);
    const struct x86_stub *stub;
    struct x86_stub_key key;

    if (!encode(&key, zydis, w))
        return NULL;
    stub = x86_stub_get(&key, make_vector);
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

/* --- x87 -------------------------------------------------------------------------------- */

static bool make_x87(const struct x86_stub_key *key, struct x86_stub *stub, struct x86_code *code)
{
    struct x86_zydis zydis;
    const ZydisDecodedOperand *memory;

    if (!decode_key(key, &zydis))
        return false;
    memory = memory_operand(&zydis);
    if (memory && (!is_rdi(memory) || memory->size > 80))
        return false;
    stub->mnemonic = (uint16_t)zydis.insn.mnemonic;
    if (memory) {
        stub->memsize = (uint8_t)(memory->size / 8);
        stub->flags |= writes(memory) ? STUB_STORE : STUB_LOAD;
    }
    EMIT(code, 0x48, 0x0f, 0xae, 0x0e); /* fxrstor64 [rsi] */
    EMIT(code, 0x52, 0x9d);             /* push rdx; popfq */
    emit(code, key->bytes, key->length);
    EMIT(code, 0x9c, 0x58);             /* pushfq; pop rax */
    EMIT(code, 0x48, 0x0f, 0xae, 0x06); /* fxsave64 [rsi]: does not wait */
    EMIT(code, 0xdb, 0xe3);             /* fninit: nothing pending is left */
    EMIT(code, 0xc3);
    return true;
}

const struct x86_stub *x86_native_x87_stub(const struct x86_insn *in, const struct x86_zydis *zydis)
{
    const ZydisDecodedInstruction *insn = &zydis->insn;
    const ZydisDecodedOperand *memory = memory_operand(zydis);
    struct x86_stub_key key = {.length = 2, .kind = STUB_X87};
    const struct x86_stub *stub;

    if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || insn->opcode < 0xd8 || insn->opcode > 0xdf)
        return NULL;
    key.bytes[0] = insn->opcode;
    key.bytes[1] = (uint8_t)(insn->raw.modrm.reg << 3 | (memory ? HOST_RDI : 0xc0 | insn->raw.modrm.rm));
    stub = x86_stub_get(&key, make_x87);
    if (!stub || stub->mnemonic != in->mnemonic || stub->memsize != (memory ? memory->size / 8 : 0))
        return NULL;
    return stub;
}
