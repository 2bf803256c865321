/* engine/bt/emit.c: see emit.h. */
#include "engine/bt/emit.h"

#include <asm/hwcap2.h>
#include <sys/auxv.h>

const uint8_t bt_host_of[16] = {
    [RAX] = H_RAX, [RCX] = H_RCX, [RDX] = H_RDX, [RBX] = H_RBX,    [RSP] = H_GSP,    [RBP] = H_RBP,
    [RSI] = H_RSI, [RDI] = H_RDI, [R8] = H_R8,   [R9] = IN_FRAME,  [R10] = IN_FRAME, [R11] = IN_FRAME,
    [R12] = H_R12, [R13] = H_R13, [R14] = H_R14, [R15] = IN_FRAME,
};

void emit_rex(struct emit *e, bool w, unsigned reg, unsigned index, unsigned base, bool force)
{
    unsigned rex = 0x40 | (unsigned)w << 3 | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1);

    if (rex != 0x40 || force)
        emit8(e, rex);
}

void emit_modrm_mem(struct emit *e, unsigned reg, unsigned base, int32_t disp)
{
    unsigned mod = !disp && (base & 7) != 5 ? 0 : disp == (int8_t)disp ? 1 : 2;

    emit8(e, mod << 6 | (reg & 7) << 3 | (base & 7));
    if ((base & 7) == 4)
        emit8(e, 0x24);
    if (mod == 1)
        emit8(e, (uint8_t)disp);
    else if (mod == 2)
        emit32(e, (uint32_t)disp);
}

void emit_modrm_operand(struct emit *e, unsigned reg, const struct mem_operand *m)
{
    unsigned mod = !m->disp && (m->base & 7) != 5 ? 0 : m->disp == (int8_t)m->disp ? 1 : 2;

    if (m->index == IN_FRAME) {
        emit_modrm_mem(e, reg, m->base, m->disp);
        return;
    }
    emit8(e, mod << 6 | (reg & 7) << 3 | 4);
    emit8(e, m->scale << 6 | (m->index & 7) << 3 | (m->base & 7));
    if (mod == 1)
        emit8(e, (uint8_t)m->disp);
    else if (mod == 2)
        emit32(e, (uint32_t)m->disp);
}

static void emit_opcode(struct emit *e, unsigned opcode)
{
    if (opcode > 0xff)
        emit8(e, opcode >> 8);
    emit8(e, opcode & 0xff);
}

void emit_rr(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned rm)
{
    emit_rex(e, w, reg, 0, rm, false);
    emit_opcode(e, opcode);
    emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void emit_rm(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned base, int32_t disp)
{
    emit_rex(e, w, reg, 0, base, false);
    emit_opcode(e, opcode);
    emit_modrm_mem(e, reg, base, disp);
}

void emit_lea_sib(struct emit *e, bool w, unsigned to, unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    const struct mem_operand m = {base, index, scale, disp};

    if (base != IN_FRAME && index == IN_FRAME) {
        emit_lea(e, w, to, base, disp);
        return;
    }
    emit_rex(e, w, to, index == IN_FRAME ? 0 : index, base == IN_FRAME ? 0 : base, false);
    emit8(e, OP_LEA);
    if (base != IN_FRAME) {
        emit_modrm_operand(e, to, &m);
        return;
    }
    emit8(e, (to & 7) << 3 | 4);
    emit8(e, scale << 6 | (index == IN_FRAME ? 4 : index & 7) << 3 | 5);
    emit32(e, (uint32_t)disp);
}

void emit_imm(struct emit *e, bool w, unsigned n, unsigned reg, int32_t imm)
{
    emit_rex(e, w, 0, 0, reg, false);
    emit8(e, imm == (int8_t)imm ? 0x83 : 0x81);
    emit8(e, 0xc0 | n << 3 | (reg & 7));
    if (imm == (int8_t)imm)
        emit8(e, (uint8_t)imm);
    else
        emit32(e, (uint32_t)imm);
}

void emit_shift(struct emit *e, bool w, unsigned n, unsigned reg, unsigned count)
{
    emit_rex(e, w, 0, 0, reg, false);
    emit8(e, 0xc1);
    emit8(e, 0xc0 | n << 3 | (reg & 7));
    emit8(e, count);
}

void emit_mov_imm64(struct emit *e, unsigned reg, uint64_t imm)
{
    bool wide = imm >> 32;

    emit_rex(e, wide, 0, 0, reg, false);
    emit8(e, 0xb8 | (reg & 7));
    if (wide)
        emit64(e, imm);
    else
        emit32(e, (uint32_t)imm);
}

uint32_t emit_jump(struct emit *e, unsigned cc)
{
    if (cc < 16) {
        emit8(e, 0x0f);
        emit8(e, 0x80 | cc);
    } else {
        emit8(e, cc == CC_CALL ? 0xe8 : 0xe9);
    }
    emit32(e, 0);
    return emit_here(e) - 4;
}

void emit_patch(struct emit *e, uint32_t patch, uint32_t target)
{
    uint32_t rel = target - (patch + 4);

    if (!e->full)
        memcpy(e->base + patch, &rel, 4);
}

void emit_save_flags(struct emit *e)
{
    static const uint8_t lahf_seto[] = {0x9f, 0x0f, 0x90, 0xc0};

    emit_mov(e, H_S1, H_RAX);
    emit_bytes(e, lahf_seto, sizeof(lahf_seto));
    emit8(e, 0x66);
    emit_rm(e, false, OP_MOV_STORE, H_RAX, H_FRAME, FRAME_NEAR(flags));
    emit_mov(e, H_RAX, H_S1);
}

void emit_restore_flags(struct emit *e)
{
    static const uint8_t add_sahf[] = {0x04, 0x7f, 0x9e};

    emit_mov(e, H_S1, H_RAX);
    emit_rm(e, false, 0x0fb7, H_RAX, H_FRAME, FRAME_NEAR(flags)); /* movzx */
    emit_bytes(e, add_sahf, sizeof(add_sahf));
    emit_mov(e, H_RAX, H_S1);
}

void emit_compare_events(struct emit *e)
{
    emit_rm(e, false, 0x83, 7, H_FRAME, FRAME_CPU(events));
    emit8(e, 0);
}

bool emit_has_bmi2(void)
{
    return __builtin_cpu_supports("bmi2");
}

bool emit_has_gs(void)
{
#ifdef BT_NO_GS /* to test the other way on any host */
    return false;
#else
    return (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) && emit_has_bmi2();
#endif
}

void emit_rotate(struct emit *e, unsigned to, unsigned from, unsigned count)
{
    emit8(e, 0xc4); /* rorx to, from, count */
    emit8(e, (~to >> 3 & 1) << 7 | 1u << 6 | (~from >> 3 & 1) << 5 | 3);
    emit8(e, 0xfb);
    emit8(e, 0xf0);
    emit8(e, 0xc0 | (to & 7) << 3 | (from & 7));
    emit8(e, count);
}

void emit_tlb_slot(struct emit *e)
{
    _Static_assert(sizeof(struct x86_tlb_entry) == 32 && PAGE_SHIFT == 12, "the shift");
    if (e->gs) {
        emit_rotate(e, H_S1, H_S0, 7);
        emit_rm(e, false, OP_AND, H_S1, H_FRAME, FRAME_NEAR(tlb_mask));
        return;
    }
    emit_mov(e, H_S1, H_S0);
    emit_shift(e, true, 5, H_S1, 7);
    emit_rm(e, false, OP_AND, H_S1, H_FRAME, FRAME_NEAR(tlb_mask));
    emit_rm(e, true, OP_ADD, H_S1, H_FRAME, FRAME_NEAR(tlb));
}

void emit_tlb(struct emit *e, unsigned opcode, unsigned reg, size_t member)
{
    if (e->gs)
        emit8(e, 0x65);
    emit_rm(e, true, opcode, reg, H_S1, (int32_t)member);
}

void emit_region(struct emit *e, unsigned to, unsigned reg)
{
    emit8(e, 0xc4); /* shrx to, reg, FRAME */
    emit8(e, (~to >> 3 & 1) << 7 | 1u << 6 | (~reg >> 3 & 1) << 5 | 2);
    emit8(e, 1u << 7 | (~H_FRAME & 15) << 3 | 3);
    emit8(e, 0xf7);
    emit8(e, 0xc0 | (to & 7) << 3 | (reg & 7));
    emit_mem(e, true, OP_MOV, to, &(struct mem_operand){H_FRAME, to, 3, FRAME_VCPU(region)});
}

void emit_mem(struct emit *e, bool w, unsigned opcode, unsigned reg, const struct mem_operand *m)
{
    emit_rex(e, w, reg, m->index == IN_FRAME ? 0 : m->index, m->base, false);
    emit_opcode(e, opcode);
    emit_modrm_operand(e, reg, m);
}

void emit_fetch_slot(struct emit *e)
{
    emit_mov(e, H_S1, H_S0);
    emit_shift(e, true, 5, H_S1, 7);
    emit_rm(e, false, OP_AND, H_S1, H_FRAME, FRAME_TLB(fetch_mask));
    emit_rm(e, true, OP_ADD, H_S1, H_FRAME, FRAME_TLB(table));
}

void emit_jump_table(struct emit *e, unsigned opcode, bool w, unsigned reg, size_t field)
{
    const int32_t disp = FRAME_BT(jump) + (int32_t)field;

    emit_rex(e, w, reg, H_S1, H_FRAME, false);
    emit8(e, opcode);
    emit8(e, 0x80 | (reg & 7) << 3 | 4);
    emit8(e, (H_S1 & 7) << 3 | (H_FRAME & 7));
    emit32(e, (uint32_t)disp);
}

void emit_table_jump(struct emit *e, unsigned n, bool segmented)
{
    emit_rm(e, true, OP_SUB, H_S0, H_FRAME, FRAME_NEAR(salt));
    emit_imm(e, true, IMM_AND, H_S0, (int32_t)PAGE_MASK);
    if (segmented)
        emit_rm(e, false, OP_SUB, H_S0, H_FRAME, FRAME_CPU(seg_base) + 8 * SEG_CS);
    emit_store(e, H_FRAME, FRAME_CPU(rip), H_S0);
    emit_jump_table(e, 0xff, false, n, offsetof(struct bt_jump, entry));
}
