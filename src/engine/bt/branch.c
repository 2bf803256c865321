/*
 * engine/bt/branch.c: ways out of a block: jumps, calls, returns. Edges are ways
 * that are known when a block is translated; other targets are looked up in the
 * return stack and the jump table.
 */
#include "engine/bt/translate_internal.h"

/* --- edges -------------------------------------------------------------------------------------- */

/* Leaves to the stub if something waits for the vCPU. The flags stay where they are. */
void bt_emit_event_check(struct translation *t, struct cold *stub)
{
    struct emit *e = &t->e;

    if (t->flags_m || !t->flags_h) {
        emit_compare_events(e);
        bt_cold_jump(t, stub, CC_NE);
        t->flags_h = false;
        return;
    }
    emit_mov(e, H_S1, H_RCX);
    emit_rm(e, false, OP_MOV, H_RCX, H_FRAME, FRAME_CPU(events));
    emit8(e, 0xe3); /* jrcxz over the next two */
    emit8(e, 8);
    emit_mov(e, H_RCX, H_S1);
    bt_cold_jump(t, stub, CC_ALWAYS);
    emit_mov(e, H_RCX, H_S1);
}

static unsigned new_edge(struct translation *t, int64_t target)
{
    unsigned index;
    struct bt_edge *edge;

    if (t->code->edges < t->code->max_edges)
        t->code->edges++;
    else
        t->e.full = true;
    index = t->code->edges - 1u;
    edge = &t->code->edge[index];
    *edge = (struct bt_edge){
        .from = t->code, .target = (int32_t)target, .cross = target < 0 || target >= (int64_t)PAGE_SIZE};
    return index;
}

/* S0 = the address of the page that an edge into another page leads to. */
void bt_emit_page_of(struct translation *t, const struct bt_edge *edge)
{
    emit_load(&t->e, H_S0, H_FRAME, FRAME_CPU(rip));
    emit_lea(&t->e, bt_is_wide(t), H_S0, H_S0, edge->target & (int32_t)PAGE_MASK);
}

/* Goes on at `target`, an offset from this page's start. cc: a condition in the host's flags, or CC_ALWAYS, CC_CALL.
 * from: offset of the jump. A jump on a condition to another page goes by way of the stub's cold neighbour. */
void bt_emit_edge(struct translation *t, unsigned cc, int64_t target, unsigned from)
{
    unsigned index = new_edge(t, target);
    struct bt_edge *edge = &t->code->edge[index];
    struct cold *stub;

    if (edge->cross)
        bt_want_flags_m(t);
    stub = bt_cold(t, COLD_EDGE, index);
    if (edge->cross)
        bt_emit_page_of(t, edge);
    if (target <= (int64_t)from && cc == CC_ALWAYS)
        bt_emit_event_check(t, stub);
    stub->flags_h = !t->flags_m;
    edge->flags_h = t->flags_h && !edge->cross;
    edge->flags_m = t->flags_m;
    edge->patch = emit_jump(&t->e, cc);
    stub->patch[stub->patches++] = edge->patch;
}

/* The test of a condition on flags that are only in the frame: 0 if it takes more than a bit test. */
static unsigned frame_test(unsigned cc, unsigned *byte)
{
    static const uint8_t masks[] = {1, 0x01, 0x40, 0x41, 0x80, 0x04}; /* O; CF, ZF, CF|ZF, SF, PF in AH */

    *byte = cc >= 2;
    return cc < 12 ? masks[cc >> 1] : 0;
}

/* Jumps over what follows if the condition does not hold: returns the patch. */
static uint32_t emit_condition(struct translation *t, unsigned cc, bool negate)
{
    unsigned byte, mask = frame_test(cc, &byte);

    if (!t->flags_h && mask) {
        emit8(&t->e, 0x41); /* test byte [flags + byte], mask */
        emit8(&t->e, 0xf6);
        emit_modrm_mem(&t->e, 0, H_FRAME, FRAME_NEAR(flags) + (int32_t)byte);
        emit8(&t->e, mask);
        return emit_jump(&t->e, ((cc & 1) ? CC_E : CC_NE) ^ (unsigned)negate);
    }
    bt_want_flags_h(t);
    return emit_jump(&t->e, cc ^ (unsigned)negate);
}

/* May the target of a branch, an offset from this page's start, lie outside CS? What the block itself covers does not:
 * emit_limit_guard() has looked. */
static bool is_beyond(const struct translation *t, int64_t target)
{
    return bt_is_segmented(t, SEG_CS) && (target < t->code->offset[0] || target >= t->code->offset[t->count]);
}

/* The branch is left to its semantics, which make it fault, if the target is outside CS. Flags and S1 are lost. */
static void emit_target_check(struct translation *t, int64_t target, struct cold *site)
{
    if (!is_beyond(t, target))
        return;
    emit_load(&t->e, H_S1, H_FRAME, FRAME_CPU(rip));
    emit_lea(&t->e, false, H_S1, H_S1, (int32_t)target);
    emit_rm(&t->e, true, OP_CMP, H_S1, H_FRAME, FRAME_CPU(code_room));
    bt_cold_jump(t, site, CC_AE);
}

/* Before a jump by an edge. */
static void emit_jump_check(struct translation *t, unsigned i, int64_t target)
{
    unsigned index;

    if (!is_beyond(t, target))
        return;
    bt_want_flags_m(t);
    t->flags_h = false;
    bt_new_site(t, i, i, &index)->end = true;
    emit_target_check(t, target, bt_cold(t, COLD_SITE, index));
}

/* The same for the address in S0. */
static void emit_indirect_check(struct translation *t, struct cold *site)
{
    if (!bt_is_segmented(t, SEG_CS))
        return;
    emit_rm(&t->e, true, OP_CMP, H_S0, H_FRAME, FRAME_CPU(code_room));
    bt_cold_jump(t, site, CC_AE);
}

/* What the block's count was too much, as it is left before its end. The flags stay as they are. */
static void emit_refund(struct translation *t, unsigned i)
{
    if (!t->vcpu->counting || i + 1 == t->count)
        return;
    emit_load(&t->e, H_S1, H_FRAME, FRAME_BT(budget));
    emit_lea(&t->e, true, H_S1, H_S1, (int32_t)(t->count - 1 - i));
    emit_store(&t->e, H_FRAME, FRAME_BT(budget), H_S1);
}

void bt_emit_jmp(struct translation *t, unsigned i)
{
    const unsigned from = t->code->offset[i];
    const int64_t target = (int64_t)from + (int64_t)t->op[i].in->imm;

    if (bt_is_loop(t, target)) {
        bt_emit_loop_jump(t, CC_ALWAYS);
        return;
    }
    emit_jump_check(t, i, target);
    bt_emit_edge(t, CC_ALWAYS, target, from);
}

void bt_emit_jcc(struct translation *t, unsigned i)
{
    const struct bt_op *op = &t->op[i];
    const unsigned cc = op->z.insn.opcode & 15, from = t->code->offset[i];
    const int64_t target = (int64_t)from + (int64_t)op->in->imm;
    const bool cross = target < 0 || target >= (int64_t)PAGE_SIZE;
    unsigned index;
    bool h, m;

    if (bt_is_loop(t, target)) {
        bt_emit_loop_jump(t, cc);
    } else if ((cross || is_beyond(t, target)) && !t->vcpu->counting) {
        uint32_t patch = emit_condition(t, cc, false);
        struct cold *far = bt_cold(t, COLD_FAR, new_edge(t, target));

        if (is_beyond(t, target)) {
            bt_new_site(t, i, i, &index)->end = true;
            far->limit_site = (uint16_t)(index + 1);
        }
        far->flags_h = !t->flags_m;
        far->patch[far->patches++] = patch;
    } else if (target > (int64_t)from && !t->vcpu->counting) {
        struct cold *stub;
        uint32_t patch = emit_condition(t, cc, false);

        index = new_edge(t, target);
        stub = bt_cold(t, COLD_EDGE, index);
        stub->flags_h = !t->flags_m;
        t->code->edge[index].flags_h = t->flags_h;
        t->code->edge[index].flags_m = t->flags_m;
        t->code->edge[index].patch = stub->patch[stub->patches++] = patch;
    } else {
        uint32_t over = emit_condition(t, cc, true);

        h = t->flags_h;
        m = t->flags_m;
        emit_jump_check(t, i, target);
        emit_refund(t, i);
        bt_emit_edge(t, CC_ALWAYS, target, from);
        emit_patch(&t->e, over, emit_here(&t->e));
        t->flags_h = h;
        t->flags_m = m;
    }
    if (i + 1 == t->count)
        bt_emit_edge(t, CC_ALWAYS, t->code->offset[i + 1], from);
}

/* --- calls, returns, indirect branches -------------------------------------------------------------- */

/* Key of a return address on the return stack: the address, and the address space it is of. */
static void emit_key(struct translation *t, unsigned to, unsigned rip)
{
    emit_mov(&t->e, to, rip);
    bt_emit_code_base(t, OP_ADD, to);
    emit_rm(&t->e, true, OP_ADD, to, H_FRAME, FRAME_NEAR(salt));
}

/* Where the host comes back to after a call: S0 = the guest address, flags in the frame. */
static void emit_after_call(struct translation *t, unsigned i)
{
    const struct bt_code *code = t->code;

    emit_lea(&t->e, true, H_RSP, H_RSP, 8);
    emit_lea(&t->e, bt_is_wide(t), H_S0, H_S0, -(int32_t)code->offset[i + 1]);
    emit_store(&t->e, H_FRAME, FRAME_CPU(rip), H_S0);
    t->flags_h = false;
    t->flags_m = true;
    bt_emit_edge(t, CC_ALWAYS, code->offset[i + 1], 0);
}

/* The return address, in S1, is stored at m and its key put on the return stack. */
static void emit_call_tail(struct translation *t, unsigned i, const struct mem_operand *m)
{
    unsigned index;
    struct cold *limit;

    bt_new_site(t, i, i, &index)->end = true;
    limit = bt_cold(t, COLD_SITE, index);
    emit_rm(&t->e, true, OP_CMP, H_RSP, H_FRAME, FRAME_NEAR(limit));
    bt_cold_jump(t, limit, CC_B);
    if (t->op[i].kind == OP_CALL)
        emit_target_check(t, (int64_t)t->code->offset[i] + (int64_t)t->op[i].in->imm, limit);
    emit_load(&t->e, H_S1, H_FRAME, FRAME_CPU(rip));
    emit_lea(&t->e, bt_is_wide(t), H_S1, H_S1, t->code->offset[i + 1]);
    emit_mem(&t->e, bt_is_wide(t), OP_MOV_STORE, H_S1, m);
    emit_lea(&t->e, bt_is_wide(t), H_GSP, H_GSP, -(int32_t)bt_word(t));
    emit_key(t, H_S1, H_S1);
    emit8(&t->e, 0x41); /* push S1 */
    emit8(&t->e, 0x50 | (H_S1 & 7));
}

void bt_emit_call(struct translation *t, unsigned i, const struct mem_operand *m)
{
    const unsigned from = t->code->offset[i];

    emit_call_tail(t, i, m);
    bt_emit_edge(t, CC_CALL, (int64_t)from + (int64_t)t->op[i].in->imm, from);
    emit_after_call(t, i);
}

/* S1 = offset in the jump table of the entry for the address in S0, which becomes its key; what is not there goes to
 * the site. */
static void emit_table_lookup(struct translation *t, unsigned site)
{
    struct cold *cold = bt_cold(t, COLD_JUMP, site);
    struct emit *e = &t->e;

    bt_emit_code_base(t, OP_ADD, H_S0);
    emit_rr(e, false, 0x69, H_S1, H_S0); /* imul S1d, S0d, imm32 */
    emit32(e, BT_JUMP_HASH);
    emit_imm(e, false, IMM_AND, H_S1, (int32_t)BT_JUMP_MASK);
    emit_rm(e, true, OP_ADD, H_S0, H_FRAME, FRAME_NEAR(salt));
    emit_jump_table(e, OP_CMP, true, H_S0, offsetof(struct bt_jump, key));
    bt_cold_jump(t, cold, CC_NE);
    cold->back = emit_here(e);
}

static void emit_events(struct translation *t, struct cold *cold)
{
    emit_compare_events(&t->e);
    bt_cold_jump(t, cold, CC_NE);
}

void bt_emit_ret(struct translation *t, unsigned i, const struct mem_operand *m)
{
    struct emit *e = &t->e;
    unsigned index;
    uint32_t miss;
    struct bt_site *site;
    struct cold *cold;
    int64_t extra = t->op[i].in->shape == SHAPE_I ? (int64_t)t->op[i].in->imm : 0;

    site = bt_new_site(t, i, i, &index);
    site->end = true;
    site->kind = SITE_BRANCH;
    cold = bt_cold(t, COLD_SITE, index);
    emit_mem(e, bt_is_wide(t), OP_MOV, H_S0, m);
    emit_indirect_check(t, cold);
    emit_key(t, H_S1, H_S0);
    emit_rm(e, true, OP_CMP, H_S1, H_RSP, 8);
    miss = emit_jump(e, CC_NE);
    emit_lea(e, bt_is_wide(t), H_GSP, H_GSP, (int32_t)((int64_t)bt_word(t) + extra));
    emit8(e, 0xc3);
    emit_patch(e, miss, emit_here(e));
    emit_events(t, cold);
    emit_table_lookup(t, index);
    emit_lea(e, bt_is_wide(t), H_GSP, H_GSP, (int32_t)((int64_t)bt_word(t) + extra));
    emit_table_jump(e, 4, bt_is_segmented(t, SEG_CS));
}

/* S0 = the target of an indirect branch; flags: in the frame. */
static void emit_target(struct translation *t, unsigned i)
{
    const struct bt_op *op = &t->op[i];
    struct group group;
    struct cold *cold;
    unsigned index;

    bt_want_flags_m(t);
    t->flags_h = false;
    if (!op->memory) {
        int g = bt_operand_gpr(&op->z.op[0]);

        if (bt_host_of[g] == IN_FRAME)
            emit_load(&t->e, H_S0, H_FRAME, FRAME_GPR(g));
        else
            emit_rr(&t->e, bt_is_wide(t), OP_MOV, H_S0, bt_host_of[g]);
        return;
    }
    bt_find_operand(t, i, &group);
    bt_new_site(t, i, i, &index)->end = true;
    cold = bt_emit_check(t, &group, index);
    emit_rm(&t->e, bt_is_wide(t), OP_MOV, H_S0, H_S0, 0);
    cold->after = emit_here(&t->e);
}

void bt_emit_jmp_indirect(struct translation *t, unsigned i)
{
    unsigned index;
    struct cold *cold;

    emit_target(t, i);
    bt_new_site(t, i, i, &index)->end = true;
    cold = bt_cold(t, COLD_SITE, index);
    emit_indirect_check(t, cold);
    emit_events(t, cold);
    emit_table_lookup(t, index);
    emit_table_jump(&t->e, 4, bt_is_segmented(t, SEG_CS));
}

/* Nothing changes before both the target is known and the push is sure: until then the semantics can do it all. */
void bt_emit_call_indirect(struct translation *t, unsigned i)
{
    struct emit *e = &t->e;
    struct group push;
    struct cold *cold;
    unsigned index;

    emit_target(t, i);
    bt_new_site(t, i, i, &index)->end = true;
    cold = bt_cold(t, COLD_SITE, index);
    emit_indirect_check(t, cold);
    if (t->vcpu->soft.vm->share.on) /* it may go to what another processor has just written */
        emit_events(t, cold);
    emit_table_lookup(t, index);
    emit_store(e, H_FRAME, FRAME_NEAR(slot), H_S1);
    emit_store(e, H_FRAME, FRAME_NEAR(target), H_S0);
    bt_find_push(t, i, &push);
    bt_new_site(t, i, i, &index)->end = true;
    cold = bt_emit_check(t, &push, index);
    emit_call_tail(t, i, &(struct mem_operand){.base = H_S0, .index = IN_FRAME});
    emit_load(e, H_S0, H_FRAME, FRAME_NEAR(target));
    emit_load(e, H_S1, H_FRAME, FRAME_NEAR(slot));
    emit_table_jump(e, 2, bt_is_segmented(t, SEG_CS));
    emit_after_call(t, i);
    cold->after = emit_here(e);
}
