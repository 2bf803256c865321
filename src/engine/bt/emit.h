/*
 * engine/bt/emit.h: writes host instructions. One function an instruction form;
 * operands are host register numbers. May know the frame's layout, no guest code.
 */
#ifndef ENGINE_BT_EMIT_H
#define ENGINE_BT_EMIT_H

#include <string.h>

#include "engine/bt/bt_internal.h"

enum host_reg {
    H_RAX,
    H_RCX,
    H_RDX,
    H_RBX,
    H_RSP,
    H_RBP,
    H_RSI,
    H_RDI,
    H_R8,
    H_R9,
    H_R10,
    H_R11,
    H_R12,
    H_R13,
    H_R14,
    H_R15
};
/* The translator's own: the return stack is RSP; S0 addresses, S1 is a temporary; FRAME points to where one-byte
 * displacements reach what is used most: struct bt_near, the registers, RIP. */
#define H_GSP   H_R9 /* the guest's RSP */
#define H_S0    H_R10
#define H_S1    H_R11
#define H_FRAME H_R15
/* Of FRAME in struct bt_vcpu: so that its lowest bits are the count of a shift that makes a linear address a region's
 * number. */
#define ORIGIN (offsetof(struct bt_vcpu, soft.cpu) + 10)
_Static_assert(ORIGIN % 64 == BT_REGION_SHIFT, "struct bt_vcpu begins at a multiple of 64");

/* Where a guest register is: a host register, or IN_FRAME. Those in the frame are the ones that compiled code uses
 * least. RAX to RDI but RSP are themselves, since instructions name them implicitly. */
#define IN_FRAME 0xff
extern const uint8_t bt_host_of[16];

bool emit_has_bmi2(void); /* RORX, SHRX */
/* May GS be the soft TLB's base (and is there RORX)? */
bool emit_has_gs(void);

struct emit {
    uint8_t *p, *end; /* writable view */
    uint8_t *base;    /* writable view's begin */
    bool full;
    bool gs; /* emit_has_gs() */
};

static inline uint32_t emit_here(const struct emit *e)
{
    return (uint32_t)(e->p - e->base);
}

static inline void emit8(struct emit *e, unsigned byte)
{
    if (e->p < e->end)
        *e->p++ = (uint8_t)byte;
    else
        e->full = true;
}

static inline void emit_bytes(struct emit *e, const void *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        emit8(e, ((const uint8_t *)bytes)[i]);
}

static inline void emit32(struct emit *e, uint32_t value)
{
    emit_bytes(e, &value, 4);
}

static inline void emit64(struct emit *e, uint64_t value)
{
    emit_bytes(e, &value, 8);
}

/* A memory operand: [base + index << scale + disp]; index: IN_FRAME: none. */
struct mem_operand {
    unsigned base, index, scale;
    int32_t disp;
};

/* ModRM, SIB and displacement of it; of [base + disp]. */
void emit_modrm_operand(struct emit *e, unsigned reg, const struct mem_operand *m);
void emit_modrm_mem(struct emit *e, unsigned reg, unsigned base, int32_t disp);
void emit_rex(struct emit *e, bool w, unsigned reg, unsigned index, unsigned base, bool force);

/* op reg, rm and op reg, [base + disp]; w: 64 bits. opcode: one byte, or 0x0fXX. */
void emit_rr(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned rm);
void emit_rm(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned base, int32_t disp);

enum {
    OP_ADD = 0x03,
    OP_OR = 0x0b,
    OP_AND = 0x23,
    OP_SUB = 0x2b,
    OP_XOR = 0x33,
    OP_CMP = 0x3b,
    OP_MOV = 0x8b,
    OP_MOV_STORE = 0x89,
    OP_LEA = 0x8d
};

static inline void emit_mov(struct emit *e, unsigned to, unsigned from)
{
    if (to != from)
        emit_rr(e, true, OP_MOV, to, from);
}

static inline void emit_load(struct emit *e, unsigned to, unsigned base, int32_t disp)
{
    emit_rm(e, true, OP_MOV, to, base, disp);
}

static inline void emit_store(struct emit *e, unsigned base, int32_t disp, unsigned from)
{
    emit_rm(e, true, OP_MOV_STORE, from, base, disp);
}

static inline void emit_lea(struct emit *e, bool w, unsigned to, unsigned base, int32_t disp)
{
    if (w && !disp)
        emit_mov(e, to, base); /* which takes no time */
    else
        emit_rm(e, w, OP_LEA, to, base, disp);
}

/* lea to, [base + index << scale + disp]; base or index may be IN_FRAME: none. */
void emit_lea_sib(struct emit *e, bool w, unsigned to, unsigned base, unsigned index, unsigned scale, int32_t disp);
/* op rm, imm32: the /n of opcode 81. */
enum { IMM_ADD, IMM_OR, IMM_ADC, IMM_SBB, IMM_AND, IMM_SUB, IMM_XOR, IMM_CMP };
void emit_imm(struct emit *e, bool w, unsigned n, unsigned reg, int32_t imm);
void emit_shift(struct emit *e, bool w, unsigned n, unsigned reg, unsigned count); /* n: 4 SHL, 5 SHR, 7 SAR */
void emit_rotate(struct emit *e, unsigned to, unsigned from, unsigned count); /* 64 bits, to the right; flags stay */
void emit_mov_imm64(struct emit *e, unsigned reg, uint64_t imm);

/* Jumps: return the offset of the rel32, for emit_patch(). cc: condition code, or CC_ALWAYS, CC_CALL. */
#define CC_ALWAYS 16
#define CC_CALL   17
enum { CC_O = 0, CC_B = 2, CC_AE = 3, CC_E = 4, CC_NE = 5, CC_BE = 6, CC_A = 7, CC_S = 8 };
uint32_t emit_jump(struct emit *e, unsigned cc);
void emit_patch(struct emit *e, uint32_t patch, uint32_t target);
static inline void emit_jump_to(struct emit *e, unsigned cc, uint32_t target)
{
    emit_patch(e, emit_jump(e, cc), target);
}

/* Displacements from FRAME. */
#define FRAME_VCPU(field) ((int32_t)(offsetof(struct bt_vcpu, field) - ORIGIN))
#define FRAME_NEAR(field) (FRAME_VCPU(soft.near) + (int32_t)offsetof(struct bt_near, field))
#define FRAME_CPU(field)  FRAME_VCPU(soft.cpu.field)
#define FRAME_BT(field)   FRAME_VCPU(frame.field)
#define FRAME_TLB(field)  FRAME_VCPU(soft.tlb.field)
#define FRAME_CODE(field) FRAME_VCPU(soft.code.field)
#define FRAME_PLACE(n)    (FRAME_CODE(place) + (int32_t)(8 * (n)))
#define FRAME_GPR(g)      (FRAME_CPU(gpr) + (int32_t)(8 * (g)))

/* Host flags to near.flags, and back; S1 is lost. */
void emit_save_flags(struct emit *e);
void emit_restore_flags(struct emit *e);
/* cmp dword [cpu.events], 0 */
void emit_compare_events(struct emit *e);
/* S1 = where the soft TLB's entry for accesses to the linear address in S0 is, to be used by emit_tlb(); flags are
 * lost. If the host lets us, GS is the table's base: then two instructions suffice, else four. */
void emit_tlb_slot(struct emit *e);
/* op reg, that entry's member at the offset */
void emit_tlb(struct emit *e, unsigned opcode, unsigned reg, size_t member);
/* S1 = the soft TLB's entry for fetches at the linear address in S0; flags are lost. */
void emit_fetch_slot(struct emit *e);

/* to = what makes the linear address in `reg`, of a region that is mapped, the host's. Flags stay. */
void emit_region(struct emit *e, unsigned to, unsigned reg);
/* op reg, [m]; w: 64 bits */
void emit_mem(struct emit *e, bool w, unsigned opcode, unsigned reg, const struct mem_operand *m);

/* op reg, the field of the jump table's entry at offset S1 */
void emit_jump_table(struct emit *e, unsigned opcode, bool w, unsigned reg, size_t field);
/* To that entry, of which S0 is the key. n: 4 JMP, 2 CALL. segmented: CS has a base. */
void emit_table_jump(struct emit *e, unsigned n, bool segmented);

#endif
