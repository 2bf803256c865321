/*
 * engine/bt/translate.c: a block of guest code becomes host code: its ways in,
 * then instruction after instruction, with the flags' whereabouts tracked.
 */
#include "engine/bt/translate_internal.h"

#include <stdlib.h>

/* --- flags ------------------------------------------------------------------------------------- */

void bt_want_flags_m(struct translation *t)
{
    if (!t->flags_m)
        emit_save_flags(&t->e);
    t->flags_m = true;
}

void bt_want_flags_h(struct translation *t)
{
    if (!t->flags_h)
        emit_restore_flags(&t->e);
    t->flags_h = true;
}

void bt_settle_flags(struct translation *t)
{
    bool neither = !t->flags_h && !t->flags_m;

    if (!t->flags_m && !neither && !bt_flags_are_dead(t, t->at, &t->recipe))
        bt_want_flags_m(t);
    t->flags_h = false;
}

void bt_flags_before(struct translation *t, const struct bt_op *op)
{
    if (op->flags_read || (op->flags_written && !bt_overwrites_flags(op)))
        bt_want_flags_h(t);
}

static void flags_after(struct translation *t, const struct bt_op *op)
{
    if (!op->flags_written)
        return;
    t->flags_h = true;
    t->flags_m = false;
}

/* --- sites, cold code ---------------------------------------------------------------------------- */

struct cold *bt_cold(struct translation *t, int kind, unsigned index)
{
    struct cold *cold = &t->cold[t->colds];

    if (t->colds < MAX_COLD - 1)
        t->colds++;
    else
        t->e.full = true;
    memset(cold, 0, sizeof(*cold));
    cold->kind = kind;
    cold->index = index;
    if (!t->flags_h && !t->flags_m)
        cold->recipe = t->recipe;
    return cold;
}

void bt_cold_jump(struct translation *t, struct cold *cold, unsigned cc)
{
    cold->patch[cold->patches++] = emit_jump(&t->e, cc);
}

static enum bt_site_kind site_kind(const struct bt_op *op)
{
    if (bt_is_access(op))
        return SITE_MEMORY;
    return op->kind == OP_JMP_INDIRECT || op->kind == OP_CALL_INDIRECT ? SITE_BRANCH : SITE_INSTRUCTION;
}

struct bt_site *bt_new_site(struct translation *t, unsigned first, unsigned last, unsigned *index)
{
    struct bt_site *site;

    if (t->code->sites < t->code->max_sites)
        t->code->sites++;
    else
        t->e.full = true;
    *index = t->code->sites - 1u;
    site = &t->code->site[*index];
    site->code = t->code;
    site->first = (uint8_t)first;
    site->last = (uint8_t)last;
    site->end = false;
    site->kind = site_kind(&t->op[first]);
    return site;
}

/* Executes instructions first..last by their semantics, here and now. */
static void emit_callout(struct translation *t, unsigned first, unsigned last, bool end)
{
    unsigned index;
    struct bt_site *site = bt_new_site(t, first, last, &index);

    bt_want_flags_m(t);
    site->end = end;
    emit_mov_imm64(&t->e, H_S0, (uint64_t)site);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.callout);
    site->resume = emit_here(&t->e);
    t->flags_h = false;
}

/* --- instructions -------------------------------------------------------------------------------- */

/* Frame registers go through S1. */
static unsigned source(struct translation *t, int g)
{
    if (bt_host_of[g] != IN_FRAME)
        return bt_host_of[g];
    emit_load(&t->e, H_S1, H_FRAME, FRAME_GPR(g));
    return H_S1;
}

static void emit_push(struct translation *t, const struct bt_op *op, const struct mem_operand *m)
{
    const ZydisDecodedOperand *o = &op->z.op[0];

    if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        emit_mem(&t->e, bt_is_wide(t), 0xc7, 0, m);
        emit32(&t->e, (uint32_t)o->imm.value.u);
    } else {
        emit_mem(&t->e, bt_is_wide(t), OP_MOV_STORE, source(t, bt_operand_gpr(o)), m);
    }
    emit_lea(&t->e, bt_is_wide(t), H_GSP, H_GSP, -(int32_t)bt_word(t));
}

static void emit_pop(struct translation *t, const struct bt_op *op, const struct mem_operand *m)
{
    int g = bt_operand_gpr(&op->z.op[0]);
    unsigned to = bt_host_of[g] == IN_FRAME ? H_S1 : bt_host_of[g];

    emit_mem(&t->e, bt_is_wide(t), OP_MOV, to, m);
    if (g == RSP)
        return;
    if (to == H_S1)
        emit_store(&t->e, H_FRAME, FRAME_GPR(g), H_S1);
    emit_lea(&t->e, bt_is_wide(t), H_GSP, H_GSP, (int32_t)bt_word(t));
}

static void emit_leave(struct translation *t, const struct mem_operand *m)
{
    emit_lea(&t->e, bt_is_wide(t), H_S1, H_RBP, (int32_t)bt_word(t));
    emit_mem(&t->e, bt_is_wide(t), OP_MOV, H_RBP, m);
    emit_mov(&t->e, H_GSP, H_S1);
}

static void emit_lea_op(struct translation *t, unsigned i)
{
    const struct bt_op *op = &t->op[i];
    const struct x86_insn *in = op->in;
    int g = bt_operand_gpr(&op->z.op[0]);
    unsigned to = in->opsize == 2 || bt_host_of[g] == IN_FRAME ? H_S1 : bt_host_of[g];
    int64_t disp = in->disp + (in->base / 8 == X86_REG_RIP ? t->code->offset[i] : 0);
    const struct access a = {
        .base = in->base / 8, .index = in->index / 8, .scale = in->scale, .addrsize = in->addrsize};

    bt_emit_sum(t, &a, to, disp);
    if (in->opsize == 4 && in->addrsize == 8)
        emit_rr(&t->e, false, OP_MOV, to, to);
    if (in->opsize == 2) {
        if (bt_host_of[g] == IN_FRAME) {
            emit8(&t->e, 0x66);
            emit_rm(&t->e, false, OP_MOV_STORE, H_S1, H_FRAME, FRAME_GPR(g));
        } else {
            emit8(&t->e, 0x66);
            emit_rr(&t->e, false, OP_MOV, bt_host_of[g], H_S1);
        }
    } else if (to == H_S1) {
        emit_store(&t->e, H_FRAME, FRAME_GPR(g), H_S1);
    }
}

/* Nothing changes before both accesses have been checked: until then the semantics can do it all. */
static void emit_push_memory(struct translation *t, unsigned i)
{
    struct group operand, push;
    struct cold *load, *store;
    unsigned index;

    bt_find_operand(t, i, &operand);
    bt_new_site(t, i, i, &index);
    load = bt_emit_check(t, &operand, index);
    emit_rm(&t->e, bt_is_wide(t), OP_MOV, H_S0, H_S0, 0);
    emit_store(&t->e, H_FRAME, FRAME_NEAR(target), H_S0);
    bt_find_push(t, i, &push);
    bt_new_site(t, i, i, &index);
    store = bt_emit_check(t, &push, index);
    emit_load(&t->e, H_S1, H_FRAME, FRAME_NEAR(target));
    emit_rm(&t->e, bt_is_wide(t), OP_MOV_STORE, H_S1, H_S0, 0);
    emit_lea(&t->e, bt_is_wide(t), H_GSP, H_GSP, -(int32_t)bt_word(t));
    load->after = store->after = emit_here(&t->e);
}

/* S1 = the bit's number: the register as a signed number. */
static void emit_bit_number(struct translation *t, const struct bt_op *op)
{
    const int g = bt_operand_gpr(&op->z.op[1]);
    const unsigned opcode = op->in->opsize == 8 ? OP_MOV : 0x63; /* MOVSXD */

    if (bt_host_of[g] == IN_FRAME)
        emit_rm(&t->e, true, opcode, H_S1, H_FRAME, FRAME_GPR(g));
    else
        emit_rr(&t->e, true, opcode, H_S1, bt_host_of[g]);
}

/* The word that holds the bit is checked like any access. */
static void emit_bit(struct translation *t, unsigned i)
{
    const struct bt_op *op = &t->op[i];
    const bool w = op->in->opsize == 8;
    struct emit *e = &t->e;
    struct group group;
    struct cold *cold;
    unsigned index;

    bt_want_flags_m(t);
    t->flags_h = false;
    bt_find_operand(t, i, &group);
    bt_emit_sum(t, &group.leader, H_S0, group.low);
    emit_bit_number(t, op);
    emit_shift(e, true, 7, H_S1, w ? 6 : 5);
    emit_lea_sib(e, group.leader.addrsize == 8, H_S0, H_S0, H_S1, w ? 3 : 2, 0);
    emit_store(e, H_FRAME, FRAME_NEAR(target), H_S0);
    emit_bit_number(t, op);
    emit_imm(e, false, IMM_AND, H_S1, w ? 63 : 31);
    emit_store(e, H_FRAME, FRAME_NEAR(slot), H_S1);
    group.leader.base = BASE_TARGET;
    group.leader.index = NO_REG;
    group.high -= group.low;
    group.low = 0;
    bt_new_site(t, i, i, &index);
    cold = bt_emit_check(t, &group, index);
    bt_flags_before(t, op);
    emit_load(e, H_S1, H_FRAME, FRAME_NEAR(slot));
    if (op->in->flags & INSN_LOCK)
        emit8(e, 0xf0);
    emit_rm(e, w, 0x0f00 | op->z.insn.opcode, H_S1, H_S0, 0);
    flags_after(t, op);
    cold->after = emit_here(e);
    cold->flags_h = t->flags_h;
}

/* S1 = the divisor in memory. */
static struct cold *emit_divisor(struct translation *t, unsigned i)
{
    struct group group;
    struct cold *cold;
    unsigned index;

    bt_find_operand(t, i, &group);
    bt_new_site(t, i, i, &index);
    cold = bt_emit_check(t, &group, index);
    emit_rm(&t->e, t->op[i].in->opsize == 8, OP_MOV, H_S1, H_S0, 0);
    return cold;
}

/* DIV faults if the quotient does not fit: RDX < divisor makes sure that it does. IDIV is sure to fit where RDX only
 * extends RAX's sign and the divisor is neither 0 nor -1. What is not sure goes to the semantics. */
static void emit_divide(struct translation *t, unsigned i)
{
    const struct bt_op *op = &t->op[i];
    const bool w = op->in->opsize == 8;
    int g = bt_operand_gpr(&op->z.op[0]);
    struct emit *e = &t->e;
    struct cold *cold, *load = NULL;
    unsigned index, divisor;

    bt_want_flags_m(t);
    t->flags_h = false;
    if (op->memory)
        load = emit_divisor(t, i);
    bt_new_site(t, i, i, &index);
    cold = bt_cold(t, COLD_SITE, index);
    divisor = load ? H_S1 : source(t, g);
    if (op->in->mnemonic == ZYDIS_MNEMONIC_DIV) {
        emit_rr(e, w, OP_CMP, H_RDX, divisor);
        bt_cold_jump(t, cold, CC_AE);
    } else {
        emit_mov(e, H_S0, H_RAX);
        emit_shift(e, w, 7, H_S0, w ? 63 : 31);
        emit_rr(e, w, OP_CMP, H_S0, H_RDX);
        bt_cold_jump(t, cold, CC_NE);
        emit_lea(e, w, H_S0, divisor, 1);
        emit_imm(e, w, IMM_CMP, H_S0, 1);
        bt_cold_jump(t, cold, CC_BE);
    }
    emit_rr(e, w, 0xf7, op->in->mnemonic == ZYDIS_MNEMONIC_DIV ? 6 : 7, divisor);
    cold->after = emit_here(e);
    if (load)
        load->after = cold->after;
}

void bt_emit_at(struct translation *t, unsigned i, const struct mem_operand *m)
{
    const struct bt_op *op = &t->op[i];

    t->at = i;
    bt_mark(t, i);
    switch (op->kind) {
    case OP_IDENTITY:
        bt_flags_before(t, op);
        bt_emit_identity(&t->e, op, m);
        flags_after(t, op);
        break;
    case OP_LEA_:
        emit_lea_op(t, i);
        break;
    case OP_PUSH:
        emit_push(t, op, m);
        break;
    case OP_PUSHF:
        bt_emit_pushf(t, m);
        break;
    case OP_POP:
        emit_pop(t, op, m);
        break;
    case OP_LEAVE:
        emit_leave(t, m);
        break;
    case OP_CALL:
        bt_want_flags_m(t);
        t->flags_h = false;
        bt_emit_call(t, i, m);
        break;
    case OP_RET:
        bt_want_flags_m(t);
        t->flags_h = false;
        bt_emit_ret(t, i, m);
        break;
    default:
        break;
    }
    bt_note_flags(t, op);
}

static void emit_one(struct translation *t, unsigned i, int32_t disp)
{
    bt_emit_at(t, i, &(struct mem_operand){.base = H_S0, .index = IN_FRAME, .disp = disp});
}

static bool ends_block(const struct bt_op *op)
{
    return op->kind == OP_CALL || op->kind == OP_RET;
}

#define NEVER_SPLIT UINT32_MAX /* it would be too long */

static bool is_split(const struct block *block, unsigned first)
{
    return block->split != NEVER_SPLIT && (block->split >> first & 1);
}

static struct flags_place flags_place(const struct translation *t)
{
    return (struct flags_place){.h = t->flags_h, .m = t->flags_m, .recipe = t->recipe};
}

/* m: of what is at its common base. */
static unsigned emit_unchecked(struct translation *t, const struct group *group, struct mem_operand m)
{
    const int32_t base = m.disp;

    for (unsigned i = group->first; i <= group->last; i++) {
        m.disp = base + group->delta[i - group->first];
        bt_emit_at(t, i, &m);
    }
    return group->last + 1;
}

/* A group that lies in two pages is executed by its semantics; or, where that happens often, once more here with a
 * check for each access. */
static unsigned emit_group(struct translation *t, unsigned first)
{
    struct group group;
    struct mem_operand m;
    struct cold *cold;
    struct bt_site *site;
    unsigned index;

    bt_find_group(t, first, &group);
    if (t->shadow)
        return bt_emit_direct(t, &group);
    if (bt_emit_unchecked(t, &group, &m))
        return emit_unchecked(t, &group, m);
    site = bt_new_site(t, first, group.last, &index);
    site->end = ends_block(&t->op[group.last]);
    cold = bt_emit_check(t, &group, index);
    if (bt_may_split(t, &group)) {
        site->group = true;
        cold->split = is_split(t->code->block, first);
        cold->group = group;
        cold->begin = flags_place(t);
    }
    for (unsigned i = first; i <= group.last; i++) {
        if (i == group.last && site->end) {
            cold->last = emit_here(&t->e);
            cold->rejoin = flags_place(t);
        }
        emit_one(t, i, (int32_t)(group.delta[i - first] - group.low));
    }
    if (!site->end)
        cold->rejoin = flags_place(t);
    cold->after = emit_here(&t->e);
    cold->flags_h = t->flags_h;
    return group.last + 1;
}

static void emit_own_check(struct translation *t, const struct cold *cold, unsigned i)
{
    unsigned index;
    struct bt_site *site = bt_new_site(t, i, cold->group.last, &index);
    struct cold *own;

    site->end = ends_block(&t->op[cold->group.last]);
    own = bt_emit_single_check(t, i, index);
    own->after = cold->after;
    own->flags_h = cold->flags_h;
}

/* Flags are where what follows wants them; if they are nowhere, they are dead. */
static void bring_flags(struct translation *t, const struct flags_place *place)
{
    if (place->h && !t->flags_h && t->flags_m)
        emit_restore_flags(&t->e);
    if (place->m && !t->flags_m && t->flags_h)
        emit_save_flags(&t->e);
}

void bt_emit_split(struct translation *t, const struct cold *cold)
{
    const struct group *g = &cold->group;
    const bool end = ends_block(&t->op[g->last]);

    t->flags_h = cold->begin.h;
    t->flags_m = cold->begin.m;
    t->recipe = cold->begin.recipe;
    for (unsigned i = g->first; i < g->last + !end; i++) {
        t->at = i;
        if (bt_is_access(&t->op[i]))
            emit_own_check(t, cold, i);
        emit_one(t, i, 0);
    }
    if (end) {
        t->at = g->last;
        emit_own_check(t, cold, g->last);
        emit_lea(&t->e, true, H_S0, H_S0, (int32_t)(g->low - g->delta[g->last - g->first]));
    }
    bring_flags(t, &cold->rejoin);
    emit_jump_to(&t->e, CC_ALWAYS, end ? cold->last : cold->after);
}

/* Translates the instruction i, and others it is grouped with. Returns the next one's number. */
unsigned bt_emit_op(struct translation *t, unsigned i)
{
    const struct bt_op *op = &t->op[i];

    t->at = i;
    bt_mark(t, i);
    if (bt_is_access(op))
        return emit_group(t, i);
    switch (op->kind) {
    case OP_CALLOUT:
        emit_callout(t, i, i, false);
        break;
    case OP_CALLOUT_END:
        emit_callout(t, i, i, true);
        bt_emit_edge(t, CC_ALWAYS, t->code->offset[i + 1], 0);
        break;
    case OP_DIVIDE:
        if (t->vcpu->counting) /* in lockstep the flags that it leaves undefined are compared too */
            emit_callout(t, i, i, false);
        else
            emit_divide(t, i);
        break;
    case OP_PUSH_MEMORY:
        emit_push_memory(t, i);
        break;
    case OP_STI:
        bt_emit_sti(t, i, t->code->offset[i + 1] < PAGE_SIZE);
        bt_emit_edge(t, CC_ALWAYS, t->code->offset[i + 1], 0);
        t->code->edge[t->code->edges - 1].sti = true;
        break;
    case OP_CLI:
        bt_emit_cli(t, i);
        break;
    case OP_SWAPGS:
        bt_emit_swapgs(t, i);
        break;
    case OP_BIT:
        emit_bit(t, i);
        break;
    case OP_READ_CONTROL:
        bt_emit_read_control(t, i);
        bt_note_flags(t, op);
        break;
    case OP_READ_SEGMENT:
        bt_emit_read_segment(t, i);
        bt_note_flags(t, op);
        break;
    case OP_LEAF:
    case OP_LEAF_JUMP:
        if (t->vcpu->counting)
            emit_callout(t, i, i, op->in->flags & INSN_END);
        else
            bt_emit_leaf(t, i);
        break;
    case OP_JMP:
        bt_emit_jmp(t, i);
        break;
    case OP_JCC:
        bt_emit_jcc(t, i);
        break;
    case OP_JMP_INDIRECT:
        bt_emit_jmp_indirect(t, i);
        break;
    case OP_CALL_INDIRECT:
        bt_emit_call_indirect(t, i);
        break;
    default:
        emit_one(t, i, 0);
    }
    return i + 1;
}

/* --- the block ------------------------------------------------------------------------------------ */

/* Has it an access that keeps the flags, if the host checks it? */
static bool is_direct(const struct bt_op *op)
{
    return bt_is_access(op) && op->kind != OP_CALL && op->kind != OP_RET && op->kind != OP_PUSHF;
}

/* What comes first: something that overwrites the flags, something that needs them in the frame, or a use of those in
 * the host's RFLAGS? */
enum entry_kind bt_entry_kind(const struct translation *t)
{
    for (unsigned i = 0; i < t->count; i++) {
        const struct bt_op *op = &t->op[i];

        if (t->shadow && is_direct(op)) /* only a fault would want them: where they come from they may stay */
            return op->flags_read || t->loop_kind != ENTRY_NONE || t->vcpu->flags_in_host ? ENTRY_HOST : ENTRY_FRAME;
        if (bt_is_access(op) || op->kind == OP_CALLOUT || op->kind == OP_CALLOUT_END ||
            (op->kind >= OP_PUSHF && op->kind <= OP_DIVIDE) || op->kind == OP_JMP_INDIRECT ||
            op->kind == OP_CALL_INDIRECT)
            return ENTRY_FRAME;
        if (op->kind == OP_JCC || op->flags_read || op->flags_written)
            return bt_overwrites_flags(op) ? ENTRY_ANY : ENTRY_HOST;
    }
    return ENTRY_HOST;
}

/* An instruction that crosses into the next page: is that page's begin still what it was decoded from? */
static void emit_crossing_guard(struct translation *t)
{
    const struct block *block = t->code->block;
    const unsigned first = (unsigned)(PAGE_SIZE - t->code->page_offset), n = block->bytes - first;
    struct cold *cold = bt_cold(t, COLD_CROSSING, 0);
    struct emit *e = &t->e;

    emit_load(e, H_S0, H_FRAME, FRAME_CPU(rip));
    emit_lea(e, bt_is_wide(t), H_S0, H_S0, (int32_t)PAGE_SIZE);
    bt_emit_code_base(t, OP_ADD, H_S0);
    emit_fetch_slot(e);
    emit_rm(e, true, OP_CMP, H_S0, H_S1, (int32_t)offsetof(struct x86_tlb_entry, fetch));
    bt_cold_jump(t, cold, CC_NE);
    emit_load(e, H_S0, H_S1, (int32_t)offsetof(struct x86_tlb_entry, host));
    for (unsigned i = 0, size; i < n; i += size) {
        uint64_t raw = 0;

        size = n - i >= 8 ? 8 : n - i >= 4 ? 4 : n - i >= 2 ? 2 : 1;
        memcpy(&raw, block_bytes(block) + first + i, size);
        emit_mov_imm64(e, H_S1, raw);
        if (size == 2)
            emit8(e, 0x66);
        emit_rm(e, size == 8, size == 1 ? 0x38 : 0x39, H_S1, H_S0, (int32_t)i); /* cmp [S0 + i], S1 */
        bt_cold_jump(t, cold, CC_NE);
    }
    t->flags_h = false;
}

/* Does all of the block lie within CS? */
static void emit_limit_guard(struct translation *t)
{
    struct emit *e = &t->e;

    emit_load(e, H_S0, H_FRAME, FRAME_CPU(rip));
    emit_lea(e, false, H_S0, H_S0, t->code->page_offset);
    emit_imm(e, true, IMM_ADD, H_S0, t->code->block->bytes);
    emit_rm(e, true, OP_CMP, H_S0, H_FRAME, FRAME_CPU(code_room));
    bt_cold_jump(t, bt_cold(t, COLD_CROSSING, 0), CC_A);
    t->flags_h = false;
}

static void emit_guards(struct translation *t)
{
    struct emit *e = &t->e;

    if (bt_is_segmented(t, SEG_CS))
        emit_limit_guard(t);
    if (t->code->block->crosses)
        emit_crossing_guard(t);
    if (t->code->vectors) {
        emit8(e, 0x41); /* cmp byte [vectors], n */
        emit8(e, 0x80);
        emit_modrm_mem(e, 7, H_FRAME, FRAME_NEAR(vectors));
        emit8(e, t->code->vectors);
        bt_cold_jump(t, bt_cold(t, COLD_VECTORS, 0), CC_B);
        t->flags_h = false;
    }
    if (t->vcpu->counting) {
        emit_rm(e, true, 0x81, 5, H_FRAME, FRAME_BT(budget)); /* sub qword [budget], count */
        emit32(e, t->count);
        bt_cold_jump(t, bt_cold(t, COLD_BUDGET, 0), CC_S);
        t->flags_h = false;
    }
}

/* The way in from another page, by way of entry_m: the address of this one is in S0. Is it now what this block was
 * translated from? It is if it was when somebody last came to the page this way by the same address and salt. */
static void emit_checked_entry(struct translation *t, const uint8_t *page)
{
    struct emit *e = &t->e;
    struct cold *stale = bt_cold(t, COLD_STALE, 0);

    bt_mark(t, MARK_CHECKED);
    stale->page = page;
    t->place = code_place(&t->vcpu->soft, t->code->block);
    t->code->entry_checked = emit_here(e);
    emit_store(e, H_FRAME, FRAME_CPU(rip), H_S0);
    bt_emit_code_base(t, OP_ADD, H_S0);
    emit_rm(e, true, OP_ADD, H_S0, H_FRAME, FRAME_NEAR(salt));
    emit_rm(e, true, OP_CMP, H_S0, H_FRAME, FRAME_PLACE(t->place));
    bt_cold_jump(t, stale, CC_NE);
}

/* Two ways in, by where the flags are: the one that the block would like falls through from the other. */
static void emit_entries(struct translation *t, const uint8_t *page)
{
    struct bt_code *code = t->code;
    bool guarded = t->vcpu->counting || code->vectors || code->block->crosses || bt_is_segmented(t, SEG_CS);
    enum entry_kind kind = guarded ? ENTRY_FRAME : bt_entry_kind(t);
    uint32_t over = 0;

    emit_checked_entry(t, page);
    if (kind == ENTRY_FRAME)
        over = emit_jump(&t->e, CC_ALWAYS);
    bt_mark(t, MARK_ENTRY);
    t->recipe.kind = RECIPE_NONE;
    t->flags_h = kind == ENTRY_HOST;
    t->flags_m = kind == ENTRY_FRAME;
    if (kind == ENTRY_HOST) {
        code->entry_m = emit_here(&t->e);
        emit_restore_flags(&t->e);
    }
    code->entry_h = emit_here(&t->e);
    if (kind == ENTRY_FRAME)
        emit_save_flags(&t->e);
    if (kind != ENTRY_HOST)
        code->entry_m = emit_here(&t->e);
    if (over)
        emit_patch(&t->e, over, code->entry_m);
    emit_guards(t);
}

/* Has the block an edge to what follows it, beside those of its last instruction? */
static bool goes_on_behind(const struct bt_op *last)
{
    return last->kind < OP_JMP && last->kind != OP_CALLOUT_END && last->kind != OP_STI && last->kind != OP_LEAF_JUMP;
}

static void emit_body(struct translation *t)
{
    unsigned i = 0;

    while (i < t->count) {
        i = bt_emit_op(t, i);
        if (i == t->loop_last + 1) {
            t->rejoin.here = emit_here(&t->e);
            t->rejoin.flags_h = t->flags_h;
            t->rejoin.flags_m = t->flags_m;
        }
    }
    bt_mark(t, MARK_END);
    if (goes_on_behind(&t->op[t->count - 1]))
        bt_emit_edge(t, CC_ALWAYS, t->code->offset[t->count], 0);
}

/* How many edges and sites an instruction of each kind has at the most, in one copy of the body. */
static const uint8_t edges_of[] = {
    [OP_CALLOUT_END] = 1, [OP_STI] = 1, [OP_JMP] = 1, [OP_JCC] = 1, [OP_CALL] = 2, [OP_CALL_INDIRECT] = 1};
static const uint8_t sites_of[] = {
    [OP_CALLOUT] = 1,      [OP_CALLOUT_END] = 1,  [OP_IDENTITY] = 1,      [OP_PUSH] = 1,   [OP_POP] = 1,
    [OP_LEAVE] = 1,        [OP_LEAF] = 1,         [OP_LEAF_JUMP] = 1,     [OP_PUSHF] = 1,  [OP_PUSH_MEMORY] = 2,
    [OP_CLI] = 1,          [OP_STI] = 1,          [OP_SWAPGS] = 1,        [OP_DIVIDE] = 2, [OP_BIT] = 1,
    [OP_READ_CONTROL] = 1, [OP_JMP_INDIRECT] = 2, [OP_CALL_INDIRECT] = 4, [OP_CALL] = 2,   [OP_RET] = 2};
_Static_assert(ARRAY_SIZE(edges_of) <= OP_RET + 1 && ARRAY_SIZE(sites_of) == OP_RET + 1, "one for each kind");

static struct bt_code *new_code(struct block *block, const struct bt_op *op, unsigned count)
{
    size_t head = ALIGN_UP(sizeof(struct bt_code) + (count + 1) * sizeof(uint16_t), 8);
    const struct bt_op *last = &op[count - 1];
    unsigned offset = 0, edges = goes_on_behind(last) || last->kind == OP_JCC, sites = 0, copies = 1, faults;
    struct bt_code *code;

    for (unsigned i = 0; i < count; i++) {
        edges += op[i].kind < ARRAY_SIZE(edges_of) ? edges_of[op[i].kind] : 0;
        sites += op[i].kind == OP_IDENTITY && !op[i].memory ? 0 : sites_of[op[i].kind];
        sites += (op[i].kind == OP_JMP || op[i].kind == OP_JCC) && (block_segmented(block) >> SEG_CS & 1);
        copies = bt_closes_loop(&op[i], offset) ? 3 : copies;
        offset += op[i].in->length;
    }
    edges = MAX(edges * copies, 1);
    sites = MAX(sites * copies * (block->split ? 2 : 1), 1);
    faults = block_shadowed(block) && !block->checked ? sites : 0;
    code = calloc(1, head + edges * sizeof(struct bt_edge) + sites * sizeof(struct bt_site) +
                         faults * sizeof(struct bt_fault));
    if (!code)
        return NULL;
    offset = (unsigned)(block_gpa(block) & ~PAGE_MASK);
    code->block = block;
    code->page_offset = (uint16_t)offset;
    code->edge = (struct bt_edge *)((char *)code + head);
    code->site = (struct bt_site *)(code->edge + edges);
    code->max_edges = (uint16_t)edges;
    code->max_sites = (uint16_t)sites;
    code->fault = (struct bt_fault *)(code->site + sites);
    code->max_faults = (uint16_t)faults;
    for (unsigned i = 0; i < count; i++) {
        code->offset[i] = (uint16_t)offset;
        offset += op[i].in->length;
        code->vectors = MAX(code->vectors, op[i].kind == OP_IDENTITY ? op[i].vectors : 0);
    }
    code->offset[count] = (uint16_t)offset;
    return code;
}

/* Upper bounds of the host code for `count` instructions. */
#define MAX_HOT_BYTES(count)  (512 + (count)*320)
#define MAX_COLD_BYTES(count) (512 + (count)*320)
_Static_assert(MAX_HOT_BYTES(BLOCK_MAX_INSNS) + KIB(8) <= BT_SEGMENT_MIN * BT_HOT_SHARE &&
                   MAX_COLD_BYTES(BLOCK_MAX_INSNS) + KIB(8) <= BT_SEGMENT_MIN - BT_SEGMENT_MIN * BT_HOT_SHARE,
               "a translation fits into a segment");

/* From here on the code is emitted at `at` in the region. */
static void place(struct translation *t, uint32_t at, size_t room)
{
    t->e.p = t->e.base + at;
    t->e.end = t->e.p + room;
}

static void emit_block(struct translation *t, const uint8_t *page)
{
    bt_look_for_loop(t);
    emit_entries(t, page);
    if (t->has_runs)
        bt_emit_run_entry(t);
    emit_body(t);
    if (t->loop_patches)
        bt_emit_loop(t);
    if (t->loop_patches && t->has_runs)
        bt_emit_runs(t);
    else if (t->loop_patches && t->has_limit)
        bt_emit_limited_run(t);
    t->code->end = emit_here(&t->e);
    place(t, t->vcpu->cache.cold_used, MAX_COLD_BYTES(t->count));
    t->code->cold_start = emit_here(&t->e);
    bt_emit_cold(t);
    t->code->cold_end = emit_here(&t->e);
}

struct bt_code *bt_translate(struct bt_vcpu *vcpu, struct block *block, const uint8_t *page)
{
    struct bt_op op[BLOCK_MAX_INSNS];
    struct cold cold[MAX_COLD]; /* bt_cold() clears those that are used */
    struct translation t = {.vcpu = vcpu,
                            .op = op,
                            .cold = cold,
                            .count = block->count,
                            .mode = block_mode(block),
                            .segmented = block_segmented(block),
                            .shadow = block_shadowed(block) && !block->checked};
    const uint64_t begin = counter_ns();
    const uint8_t *at = block_bytes(block);

    for (unsigned i = 0; i < block->count; i++) {
        bt_op_analyse(&op[i], &block->insn[i], t.mode, at);
        if (vcpu->soft.vm->share.on && op[i].kind == OP_NOTHING && block->insn[i].mnemonic == ZYDIS_MNEMONIC_PAUSE)
            op[i].kind = OP_CALLOUT /* it may have to give its turn away */;
        at += block->insn[i].length;
    }
    t.code = new_code(block, op, t.count);
    if (!t.code)
        return NULL;
    bt_cache_reserve(vcpu, MAX_HOT_BYTES(t.count), MAX_COLD_BYTES(t.count));
    t.e.base = vcpu->cache.rw;
    t.e.gs = vcpu->gs;
    place(&t, vcpu->cache.used, MAX_HOT_BYTES(t.count));
    t.code->start = emit_here(&t.e);
    t.marks = bt_marks_new();
    emit_block(&t, page);
    if (unlikely(t.marks != NULL))
        bt_trace_block(&t);
    if (t.e.full) {
        free(t.code);
        if (!block->split || block->split == NEVER_SPLIT)
            return NULL;
        block->split = NEVER_SPLIT;
        return bt_translate(vcpu, block, page);
    }
    if (!bt_cache_enter(vcpu, t.code)) {
        free(t.code);
        return NULL;
    }
    bt_perf_map_code(vcpu, t.code);
    vcpu->soft.cpu.counters.translate_ns += counter_ns() - begin;
    return t.code;
}
