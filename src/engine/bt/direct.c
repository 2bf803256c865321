/*
 * engine/bt/direct.c: accesses of code that goes by a shadow space (shadow.h): the
 * guest's memory is mapped at the host, so an address needs no check but that its
 * region's word is added to it, which leaves the flags alone. What is not mapped
 * faults at the host, and goes on at a site.
 */
#include "engine/bt/translate_internal.h"

/* What is emitted from here on may fault: then instructions [i, last] are executed by their semantics, and it goes on
 * at the cold part's `after`. */
static struct cold *may_fault(struct translation *t, unsigned index)
{
    struct cold *cold = bt_cold(t, COLD_FAULT, index);
    struct bt_code *code = t->code;

    cold->begin = (struct flags_place){.h = t->flags_h, .m = t->flags_m};
    if (code->faults < code->max_faults)
        code->fault[code->faults++] = (struct bt_fault){.at = emit_here(&t->e), .to = (uint32_t)(cold - t->cold)};
    else
        t->e.full = true;
    return cold;
}

void bt_emit_fault(struct translation *t, const struct cold *cold)
{
    struct bt_site *site = &t->code->site[cold->index];

    if (cold->begin.h && !cold->begin.m)
        emit_save_flags(&t->e);
    emit_mov_imm64(&t->e, H_S0, (uint64_t)site);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.callout);
    site->resume = emit_here(&t->e);
    if (!cold->after) /* it jumps */
        return;
    if (cold->flags_h)
        emit_restore_flags(&t->e);
    emit_jump_to(&t->e, CC_ALWAYS, cold->after);
}

/* S0 = linear address of the group's lowest byte. S1 is lost; flags stay. */
static void emit_linear(struct translation *t, const struct group *g)
{
    const unsigned seg = g->leader.seg;

    bt_emit_sum(t, &g->leader, H_S0, g->low);
    if (seg == SEG_FLAT)
        return;
    emit_load(&t->e, H_S1, H_FRAME, FRAME_CPU(seg_base) + (int32_t)(8 * seg));
    emit_lea_sib(&t->e, true, H_S0, H_S0, H_S1, 0, 0);
}

struct cold *bt_emit_direct_check(struct translation *t, const struct group *g, unsigned site)
{
    struct cold *cold;

    bt_want_flags_m(t);
    t->flags_h = false;
    cold = may_fault(t, site);
    emit_linear(t, g);
    emit_region(&t->e, H_S1, H_S0);
    emit_lea_sib(&t->e, true, H_S0, H_S0, H_S1, 0, 0);
    return cold;
}

/* Is the address a register and a displacement? Then that stays part of the operand: what it leads to beyond the region
 * is not mapped. */
static bool is_single_register(const struct access *a)
{
    return (a->base < 16 || a->base == X86_REG_RIP) && a->index == NO_REG && a->seg == SEG_FLAT && a->addrsize == 8;
}

/* And one that the host has too. */
static bool is_simple(const struct access *a)
{
    return is_single_register(a) && a->base < 16 && bt_host_of[a->base] != IN_FRAME;
}

/* The operand that the group's accesses are made by, but for what each adds to it. */
static struct mem_operand emit_base(struct translation *t, const struct group *g)
{
    const struct bt_op *op = &t->op[g->first];
    const bool is_single = g->last == g->first && op->kind == OP_IDENTITY && !op->displaced;
    struct mem_operand m = {.base = H_S0, .index = IN_FRAME};

    if (is_simple(&g->leader)) {
        m.index = bt_host_of[g->leader.base];
        emit_region(&t->e, H_S0, m.index);
        return m;
    }
    if (is_single && is_single_register(&g->leader)) {
        emit_load(&t->e, H_S0, H_FRAME, g->leader.base < 16 ? FRAME_GPR(g->leader.base) : FRAME_CPU(rip));
    } else {
        emit_linear(t, g);
        m.disp = -(int32_t)g->low;
    }
    emit_region(&t->e, H_S1, H_S0);
    if (is_single)
        m.index = H_S1;
    else
        emit_lea_sib(&t->e, true, H_S0, H_S0, H_S1, 0, 0);
    return m;
}

/* How instructions want the flags before their access may fault: so that nothing moves them between. */
static void place_flags(struct translation *t, const struct bt_op *op)
{
    if (op->kind == OP_CALL || op->kind == OP_RET || op->kind == OP_PUSHF)
        bt_want_flags_m(t);
    else
        bt_flags_before(t, op);
}

unsigned bt_emit_direct(struct translation *t, const struct group *g)
{
    const bool end = t->op[g->last].kind == OP_CALL || t->op[g->last].kind == OP_RET;
    struct cold *faults[BLOCK_MAX_INSNS];
    struct mem_operand m = {.base = H_S0, .index = IN_FRAME};
    unsigned count = 0, site;
    int64_t moved = 0, move;
    int32_t base = 0;

    for (unsigned i = g->first; i <= g->last; i++) {
        const struct bt_op *op = &t->op[i];

        t->at = i;
        bt_mark(t, i);
        if (bt_is_access(op)) {
            place_flags(t, op);
            bt_new_site(t, i, g->last, &site)->end = end;
            faults[count++] = may_fault(t, site);
            if (i == g->first) {
                m = emit_base(t, g);
                base = m.disp;
            }
        }
        /* A register of the guest's in the operand has moved, if it is the stack pointer. */
        m.disp = (int32_t)(base + g->delta[i - g->first] - (m.index == H_GSP ? moved : 0));
        bt_emit_at(t, i, &m);
        bt_stack_move(t, op, &move);
        moved += move;
    }
    for (unsigned n = 0; n < count; n++) {
        faults[n]->after = end ? 0 : emit_here(&t->e);
        faults[n]->flags_h = t->flags_h;
    }
    return g->last + 1;
}
