/*
 * exec/native_operand.h: Zydis's operands as stubs see them, and the host registers
 * that stand for them: ModRM.reg is xmm1 (mm1), VEX.vvvv xmm2, ModRM.rm xmm3 (mm3),
 * is4 xmm4, the implicit XMM0 itself; a general-purpose operand is rax. Guest
 * registers are reached through the pointers of x86_stub_fn: rdi memory, rsi, rdx,
 * rcx, r9 by position, r8 struct x86_cpu.
 */
#ifndef X86_EXEC_NATIVE_OPERAND_H
#define X86_EXEC_NATIVE_OPERAND_H

#include "x86/exec/native_internal.h"
#include "x86/zydis.h"

enum x86_host_register {
    HOST_RAX = 0,
    HOST_RCX = 1,
    HOST_RDX = 2,
    HOST_RSI = 6,
    HOST_RDI = 7,
    HOST_R8 = 8,
    HOST_R9 = 9,
};

static const struct {
    uint8_t number;  /* of xmm or mm */
    uint8_t pointer; /* enum x86_host_register */
} x86_places[POSITION_COUNT] = {
    [POSITION_REG] = {1, HOST_RSI},
    [POSITION_VVVV] = {2, HOST_RDX},
    [POSITION_RM] = {3, HOST_RCX},
    [POSITION_IS4] = {4, HOST_R9},
};

static inline bool x86_operand_reads(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
}

static inline bool x86_operand_writes(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

static inline bool x86_operand_is_gpr(const ZydisDecodedOperand *op)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);

    return class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
}

static inline bool x86_operand_is_vector(const ZydisDecodedOperand *op)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);

    return class == ZYDIS_REGCLASS_MMX || class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM;
}

/* Where an explicit register operand is encoded; POSITION_COUNT: it is implicit. */
static inline enum x86_position x86_operand_position(const ZydisDecodedOperand *op)
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

static inline const ZydisDecodedOperand *x86_operand_at(const struct x86_zydis *zydis, enum x86_position position)
{
    for (unsigned i = 0; i < zydis->insn.operand_count; i++)
        if (zydis->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && x86_operand_position(&zydis->op[i]) == position)
            return &zydis->op[i];
    return NULL;
}

static inline const ZydisDecodedOperand *x86_operand_memory(const struct x86_zydis *zydis)
{
    for (unsigned i = 0; i < zydis->insn.operand_count; i++)
        if (zydis->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &zydis->op[i];
    return NULL;
}

static inline unsigned x86_host_number(const struct x86_zydis *zydis, enum x86_position position)
{
    const ZydisDecodedOperand *op = x86_operand_at(zydis, position);

    return op && x86_operand_is_gpr(op) ? HOST_RAX : x86_places[position].number;
}

/* For what the vendors do differently. */
bool x86_host_is_intel(void);
/* Decodes a key as 64-bit code; false: it is not one instruction. */
bool x86_stub_decode(const struct x86_stub_key *key, struct x86_zydis *zydis);
/* Is the memory operand the buffer at [rdi], read or written, and nothing else? */
bool x86_stub_memory_allowed(const ZydisDecodedOperand *op);

#endif
