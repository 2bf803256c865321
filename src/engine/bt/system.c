/*
 * engine/bt/system.c: privileged instructions that are too frequent to leave
 * translated code for. Each goes to its semantics where it would fault.
 */
#include "engine/bt/leaf.h"
#include "engine/bt/translate_internal.h"

#define RFLAGS_SAVED ((int32_t) ~(FLAGS_STATUS | FLAG_VM | FLAG_RF))

/* op dword [FRAME + disp], imm; n: IMM_* */
static void emit_imm_mem(struct emit *e, unsigned n, int32_t disp, int32_t imm)
{
    emit_rm(e, false, 0x81, n, H_FRAME, disp);
    emit32(e, (uint32_t)imm);
}

/* cmp byte [FRAME + disp], 0 */
static void emit_is_zero8(struct emit *e, int32_t disp)
{
    emit8(e, 0x41);
    emit8(e, 0x80);
    emit_modrm_mem(e, 7, H_FRAME, disp);
    emit8(e, 0);
}

/* What is not at privilege level 0 goes to the semantics: I/O privilege, faults. */
static struct cold *emit_supervisor(struct translation *t, unsigned i)
{
    struct cold *cold;
    unsigned index;

    bt_want_flags_m(t);
    t->flags_h = false;
    bt_new_site(t, i, i, &index)->end = t->op[i].in->flags & INSN_END;
    cold = bt_cold(t, COLD_SITE, index);
    emit_is_zero8(&t->e, FRAME_CPU(cpl));
    bt_cold_jump(t, cold, CC_NE);
    return cold;
}

void bt_emit_pushf(struct translation *t, const struct mem_operand *m)
{
    struct emit *e = &t->e;
    const bool w = t->mode == MODE_LONG64;
    uint32_t no_overflow;

    bt_want_flags_m(t);
    t->flags_h = false;
    emit_rm(e, false, OP_MOV, H_S1, H_FRAME, FRAME_CPU(rflags));
    emit_imm(e, false, IMM_AND, H_S1, RFLAGS_SAVED);
    emit_rm(e, false, 0x0a, H_S1, H_FRAME, FRAME_NEAR(flags) + 1); /* or S1b, [] */
    emit_is_zero8(e, FRAME_NEAR(flags));
    no_overflow = emit_jump(e, CC_E);
    emit_imm(e, false, IMM_OR, H_S1, FLAG_OF);
    emit_patch(e, no_overflow, emit_here(e));
    emit_mem(e, w, OP_MOV_STORE, H_S1, m);
    emit_lea(e, w, H_GSP, H_GSP, w ? -8 : -4);
}

void bt_emit_cli(struct translation *t, unsigned i)
{
    struct cold *cold = emit_supervisor(t, i);

    emit_imm_mem(&t->e, IMM_AND, FRAME_CPU(rflags), ~FLAG_IF);
    cold->after = emit_here(&t->e);
}

/* Its shadow holds by itself, since nothing looks for interrupts before the next instruction is done, if that follows
 * in the same page (struct bt_edge's sti); an interrupt that waits already is the semantics' business. When
 * counting the shadow is state to be compared. */
void bt_emit_sti(struct translation *t, unsigned i, bool same_page)
{
    struct cold *cold = emit_supervisor(t, i);

    if (t->vcpu->counting || !same_page) {
        bt_cold_jump(t, cold, CC_ALWAYS);
        cold->after = emit_here(&t->e);
        return;
    }
    emit_rm(&t->e, false, 0x83, 7, H_FRAME, FRAME_VCPU(soft.wanted));
    emit8(&t->e, 0);
    bt_cold_jump(t, cold, CC_NE);
    emit_imm_mem(&t->e, IMM_OR, FRAME_CPU(rflags), FLAG_IF);
    cold->after = emit_here(&t->e);
}

void bt_emit_swapgs(struct translation *t, unsigned i)
{
    const int32_t base =
        FRAME_CPU(seg) + (int32_t)(SEG_GS * sizeof(struct x86_segment)) + (int32_t)offsetof(struct x86_segment, base);
    struct cold *cold = emit_supervisor(t, i);
    struct emit *e = &t->e;

    emit_load(e, H_S0, H_FRAME, FRAME_CPU(msr.kernel_gs_base));
    emit_load(e, H_S1, H_FRAME, base);
    emit_store(e, H_FRAME, FRAME_CPU(msr.kernel_gs_base), H_S1);
    emit_store(e, H_FRAME, base, H_S0);
    emit_store(e, H_FRAME, FRAME_CPU(seg_base) + 8 * SEG_GS, H_S0);
    cold->after = emit_here(e);
}

/* The flags stay as they are. */
void bt_emit_read_segment(struct translation *t, unsigned i)
{
    const struct bt_op *op = &t->op[i];
    const unsigned seg = (unsigned)ZydisRegisterGetId(op->z.op[1].reg.value);
    const int32_t from =
        FRAME_CPU(seg) + (int32_t)(seg * sizeof(struct x86_segment)) + (int32_t)offsetof(struct x86_segment, selector);
    const int g = bt_operand_gpr(&op->z.op[0]);
    const unsigned to = bt_host_of[g] == IN_FRAME ? H_S1 : bt_host_of[g];

    if (op->in->w0 == 2) {
        emit8(&t->e, 0x66);
        emit_rm(&t->e, false, OP_MOV, to, H_FRAME, from);
    } else {
        emit_rm(&t->e, false, 0x0fb7, to, H_FRAME, from); /* movzx */
    }
    if (to != H_S1)
        return;
    if (op->in->w0 == 2)
        emit8(&t->e, 0x66);
    emit_rm(&t->e, op->in->w0 != 2, OP_MOV_STORE, H_S1, H_FRAME, FRAME_GPR(g));
}

void bt_emit_read_control(struct translation *t, unsigned i)
{
    const struct bt_op *op = &t->op[i];
    static const int32_t from[] = {FRAME_CPU(cr0), 0, FRAME_CPU(cr2), FRAME_CPU(cr3), FRAME_CPU(cr4)};
    struct cold *cold = emit_supervisor(t, i);
    const int g = bt_operand_gpr(&op->z.op[0]);
    const unsigned to = bt_host_of[g] == IN_FRAME ? H_S1 : bt_host_of[g];

    emit_load(&t->e, to, H_FRAME, from[op->z.op[1].reg.value - ZYDIS_REGISTER_CR0]);
    if (to == H_S1)
        emit_store(&t->e, H_FRAME, FRAME_GPR(g), H_S1);
    cold->after = emit_here(&t->e);
}

/* leaf.h */
void bt_emit_leaf(struct translation *t, unsigned i)
{
    unsigned index;
    struct bt_site *site = bt_new_site(t, i, i, &index);

    bt_want_flags_m(t);
    t->flags_h = false;
    site->end = t->op[i].in->flags & INSN_END;
    emit_mov_imm64(&t->e, H_S0, (uint64_t)site);
    emit_mov_imm64(&t->e, H_S1, (uint64_t)bt_leaf_of(t->op[i].in));
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.leaf);
    site->resume = emit_here(&t->e);
}
