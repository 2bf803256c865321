/*
 * exec/native_stub.c: making stubs: the re-encoded instruction is decoded again, must
 * have no memory operand but [rdi] and no register but those of native_operand.h,
 * and gets the loads and stores around it. May know Zydis; runs at decode time only.
 */
#include <string.h>

#include "x86/exec/native_operand.h"

#define CPU_XMM0  ((int32_t)offsetof(struct x86_cpu, fpu.xmm))
#define CPU_MXCSR ((int32_t)offsetof(struct x86_cpu, fpu.mxcsr))
#define YMM_HIGH  ((int32_t)(offsetof(struct x86_fpu, ymm_high) - offsetof(struct x86_fpu, xmm)))

/* --- emitting ------------------------------------------------------------------ */

/* ModRM and displacement of [base + disp32]; no base used here needs a SIB byte. */
static void emit_memory(struct x86_code *code, unsigned reg, unsigned base, int32_t disp)
{
    EMIT(code, (uint8_t)(0x80 | (reg & 7) << 3 | (base & 7)));
    x86_code_put(code, &disp, 4);
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

/* --- making a stub ------------------------------------------------------------------ */

bool x86_stub_decode(const struct x86_stub_key *key, struct x86_zydis *zydis)
{
    ZydisDecoder decoder;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, key->bytes, key->length, &zydis->insn, zydis->op)))
        return false;
    return zydis->insn.length == key->length;
}

bool x86_stub_memory_allowed(const ZydisDecodedOperand *op)
{
    return op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && op->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
           op->mem.segment == ZYDIS_REGISTER_DS && op->mem.base == ZYDIS_REGISTER_RDI &&
           op->mem.index == ZYDIS_REGISTER_NONE && !op->mem.disp.has_displacement && op->size <= 64 * 8 &&
           !(x86_operand_reads(op) && x86_operand_writes(op));
}

/* Only the host registers that a stub may touch, only [rdi]. */
static bool operand_allowed(const struct x86_zydis *zydis, const ZydisDecodedOperand *op)
{
    enum x86_position position;

    if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
        return x86_stub_memory_allowed(op);
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    position = x86_operand_position(op);
    if (position != POSITION_COUNT)
        return (x86_operand_is_gpr(op) || x86_operand_is_vector(op)) &&
               (unsigned)ZydisRegisterGetId(op->reg.value) == x86_host_number(zydis, position);
    switch (op->reg.value) { /* implicit */
    case ZYDIS_REGISTER_XMM0:
    case ZYDIS_REGISTER_RFLAGS:
    case ZYDIS_REGISTER_MXCSR:
        return true;
    case ZYDIS_REGISTER_EAX:
    case ZYDIS_REGISTER_EDX:
    case ZYDIS_REGISTER_RAX:
    case ZYDIS_REGISTER_RDX:
        return !x86_operand_writes(op);
    case ZYDIS_REGISTER_ECX:
    case ZYDIS_REGISTER_RCX:
        return !x86_operand_reads(op);
    default:
        return false;
    }
}

/* Explicit operands first: implicit ones may be in the registers that hold the pointers. A legacy instruction may
 * leave part of its destination, so that is always loaded. */
static void emit_loads(struct x86_code *code, const struct x86_zydis *zydis, bool vex)
{
    for (unsigned p = 0; p < POSITION_COUNT; p++) {
        const ZydisDecodedOperand *op = x86_operand_at(zydis, p);

        if (op && (x86_operand_reads(op) || (!vex && x86_operand_is_vector(op))))
            emit_load(code, op, vex, x86_host_number(zydis, p), x86_places[p].pointer, 0);
    }
    for (unsigned i = 0; i < zydis->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &zydis->op[i];

        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || x86_operand_position(op) != POSITION_COUNT)
            continue;
        if (x86_operand_is_vector(op) && (x86_operand_reads(op) || !vex))
            emit_load(code, op, vex, 0, HOST_R8, CPU_XMM0);
        else if (x86_operand_is_gpr(op) && x86_operand_reads(op))
            emit_load(code, op, vex, (unsigned)ZydisRegisterGetId(op->reg.value), HOST_R8,
                      8 * ZydisRegisterGetId(op->reg.value));
    }
}

static void emit_stores(struct x86_code *code, const struct x86_zydis *zydis, bool vex)
{
    for (unsigned i = 0; i < zydis->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &zydis->op[i];
        enum x86_position p = x86_operand_position(op);

        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !x86_operand_writes(op) ||
            (!x86_operand_is_vector(op) && !x86_operand_is_gpr(op)))
            continue;
        if (p != POSITION_COUNT)
            emit_store(code, op, vex, x86_host_number(zydis, p), x86_places[p].pointer, 0);
        else if (x86_operand_is_vector(op))
            emit_store(code, op, vex, 0, HOST_R8, CPU_XMM0);
        else
            emit_store(code, op, vex, (unsigned)ZydisRegisterGetId(op->reg.value), HOST_R8,
                       8 * ZydisRegisterGetId(op->reg.value));
    }
}

bool x86_stub_make_vector(const struct x86_stub_key *key, struct x86_stub *stub, struct x86_code *code)
{
    struct x86_zydis zydis;
    bool vex;

    if (!x86_stub_decode(key, &zydis))
        return false;
    for (unsigned i = 0; i < zydis.insn.operand_count; i++)
        if (!operand_allowed(&zydis, &zydis.op[i]))
            return false;
    x86_stub_describe(stub, &zydis);
    vex = stub->flags & STUB_VEX;
    if (stub->flags & STUB_FP)
        emit_0f(code, 0, 0xae, 2, HOST_R8, CPU_MXCSR); /* ldmxcsr */
    emit_loads(code, &zydis, vex);
    x86_code_put(code, key->bytes, key->length);
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
