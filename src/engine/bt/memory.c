/*
 * engine/bt/memory.c: how translated code reaches guest memory: one check for a
 * group of neighbouring accesses, through the inline soft TLB or, for the stack,
 * through the TLB's one entry for the stack's page.
 */
#include "engine/bt/translate_internal.h"

#define MAX_SPREAD 1024

static unsigned word(const struct translation *t)
{
    return t->mode == MODE_LONG64 ? 8 : 4;
}

bool bt_is_access(const struct bt_op *op)
{
    switch (op->kind) {
    case OP_IDENTITY:
        return op->memory;
    case OP_PUSH:
    case OP_PUSHF:
    case OP_POP:
    case OP_LEAVE:
    case OP_CALL:
    case OP_RET:
        return true;
    default:
        return false;
    }
}

/* Segments known to be flat are alike. FS and GS have bases, and code need not be readable. */
static unsigned segment_class(const struct translation *t, unsigned seg)
{
    if (seg == SEG_FS || seg == SEG_GS || (t->mode != MODE_LONG64 && seg == SEG_CS))
        return seg;
    return bt_is_segmented(t, seg) ? seg : SEG_FLAT;
}

static struct access access_of(const struct translation *t, unsigned i)
{
    const struct bt_op *op = &t->op[i];
    const struct x86_insn *in = op->in;
    unsigned size = word(t);
    struct access a = {.base = RSP, .index = NO_REG, .seg = segment_class(t, SEG_SS), .addrsize = size, .size = size};

    switch (op->kind) {
    case OP_PUSH:
    case OP_PUSHF:
    case OP_CALL:
        a.disp = -(int64_t)size;
        a.write = true;
        return a;
    case OP_POP:
    case OP_RET:
        return a;
    case OP_LEAVE:
        a.base = RBP;
        return a;
    default:
        break;
    }
    a.base = in->base / 8;
    a.index = in->index / 8;
    a.scale = in->scale;
    a.seg = segment_class(t, in->seg);
    a.addrsize = in->addrsize;
    a.disp = in->disp;
    if (a.base == X86_REG_RIP)
        a.disp += t->code->offset[i];
    a.size = op->mem_size;
    a.write = op->mem_write;
    a.maybe = op->mem_maybe;
    return a;
}

static bool same_base(const struct access *a, const struct access *b)
{
    return a->base == b->base && a->index == b->index && a->scale == b->scale && a->seg == b->seg &&
           a->addrsize == b->addrsize;
}

static unsigned frame_registers(const struct x86_insn *in)
{
    unsigned n = 0;

    n += in->base / 8 < 16 && bt_host_of[in->base / 8] == IN_FRAME;
    n += in->index / 8 < 16 && bt_host_of[in->index / 8] == IN_FRAME;
    return n;
}

/* Can it be executed while S0 holds the group's address? */
static bool keeps_s0(const struct bt_op *op)
{
    switch (op->kind) {
    case OP_IDENTITY:
        return op->memory || op->displaced <= 1;
    case OP_LEA_:
        return frame_registers(op->in) <= 1;
    case OP_NOTHING:
    case OP_PUSH:
    case OP_PUSHF:
    case OP_POP:
        return true;
    default:
        return false;
    }
}

bool bt_stack_move(const struct translation *t, const struct bt_op *op, int64_t *move)
{
    const struct x86_insn *in = op->in;

    *move = 0;
    if (op->kind == OP_PUSH || op->kind == OP_PUSHF || op->kind == OP_POP) {
        *move = op->kind == OP_POP ? (int64_t)word(t) : -(int64_t)word(t);
        return !(op->gpr_written & BIT(RSP));
    }
    if (!(op->gpr_written & BIT(RSP)))
        return true;
    if (op->kind == OP_IDENTITY && !op->memory && in->shape == SHAPE_RI && in->opsize == word(t) &&
        (in->mnemonic == ZYDIS_MNEMONIC_ADD || in->mnemonic == ZYDIS_MNEMONIC_SUB)) {
        *move = in->mnemonic == ZYDIS_MNEMONIC_ADD ? (int64_t)in->imm : -(int64_t)in->imm;
        return *move == (int32_t)*move;
    }
    if (op->kind == OP_LEA_ && in->base / 8 == RSP && in->index / 8 == NO_REG && in->opsize == word(t) &&
        in->addrsize == word(t)) {
        *move = in->disp;
        return true;
    }
    return false;
}

static bool is_on_stack(const struct translation *t, const struct access *a)
{
    return a->base == RSP && a->index == NO_REG && a->seg == segment_class(t, SEG_SS) && a->addrsize == word(t);
}

static uint16_t registers_of(const struct access *a)
{
    return (uint16_t)((a->base < 16 ? BIT(a->base) : 0) | (a->index < 16 ? BIT(a->index) : 0));
}

/* Takes the access into the group if it shares the base and lies near. */
static bool join(struct group *g, unsigned i, const struct access *a, int64_t moved, uint8_t align)
{
    int64_t low = MIN(g->low, a->disp + moved), high = MAX(g->high, a->disp + moved + a->size);

    if (high - low > MAX_SPREAD || low < INT32_MIN || high > INT32_MAX)
        return false;
    /* The alignment of the lowest byte must be that of all who want one. */
    if (((g->low - low) & g->align) || ((a->disp + moved - low) & align))
        return false;
    g->align |= align;
    g->low = low;
    g->high = high;
    g->write |= a->write;
    g->maybe |= a->maybe;
    g->last = i;
    g->delta[i - g->first] = (int32_t)(a->disp + moved);
    return true;
}

static void start(struct group *g, unsigned first, const struct access *leader, uint8_t align)
{
    *g = (struct group){.leader = *leader,
                        .first = first,
                        .last = first,
                        .low = leader->disp,
                        .high = leader->disp + leader->size,
                        .write = leader->write,
                        .maybe = leader->maybe,
                        .align = align};
    g->delta[0] = (int32_t)leader->disp;
}

void bt_find_operand(const struct translation *t, unsigned i, struct group *g)
{
    const struct access a = access_of(t, i);

    start(g, i, &a, t->op[i].align);
}

void bt_find_push(const struct translation *t, unsigned i, struct group *g)
{
    const unsigned size = word(t);
    const struct access a = {.base = RSP,
                             .index = NO_REG,
                             .seg = segment_class(t, SEG_SS),
                             .addrsize = size,
                             .disp = -(int64_t)size,
                             .size = size,
                             .write = true};

    start(g, i, &a, 0);
}

void bt_find_group(const struct translation *t, unsigned first, struct group *g)
{
    const struct access leader = access_of(t, first);
    int64_t moved = 0, move;

    start(g, first, &leader, t->op[first].align);
    if (t->op[first].kind == OP_LEAVE)
        return;
    for (unsigned i = first; i < t->count; i++) {
        const struct bt_op *op = &t->op[i];
        struct access a;

        if (i > first && bt_is_access(op)) {
            a = access_of(t, i);
            if (!same_base(&a, &leader) || !join(g, i, &a, moved, op->align))
                return;
        }
        if (!keeps_s0(op))
            return;
        if (leader.base == RSP && leader.index == NO_REG) {
            if (!bt_stack_move(t, op, &move))
                return;
            moved += move;
        } else if ((op->gpr_written & registers_of(&leader)) ||
                   ((op->kind == OP_PUSH || op->kind == OP_PUSHF || op->kind == OP_POP) &&
                    (registers_of(&leader) & BIT(RSP)))) {
            return;
        }
    }
}

/* --- addresses -------------------------------------------------------------------------------- */

static unsigned place(unsigned reg)
{
    return reg < 16 ? bt_host_of[reg] : IN_FRAME;
}

/* base + index << scale + disp, at the address size. */
void bt_emit_sum(struct translation *t, const struct access *a, unsigned to, int64_t disp)
{
    struct emit *e = &t->e;
    bool w = a->addrsize == 8;
    unsigned base = place(a->base), index = place(a->index);

    if (a->base == X86_REG_RIP) {
        emit_load(e, to, H_FRAME, FRAME_CPU(rip));
        emit_lea(e, w, to, to, (int32_t)disp);
        return;
    }
    if (a->base == BASE_TARGET) {
        emit_load(e, to, H_FRAME, FRAME_NEAR(target));
        return;
    }
    if (a->base < 16 && base == IN_FRAME) {
        base = to == H_S0 ? H_S0 : H_S1;
        emit_load(e, base, H_FRAME, FRAME_GPR(a->base));
    }
    if (a->index < 16 && index == IN_FRAME) {
        index = base == H_S1 ? H_S0 : H_S1;
        emit_load(e, index, H_FRAME, FRAME_GPR(a->index));
    }
    if (base == IN_FRAME && index == IN_FRAME && w && disp == (int32_t)disp) {
        emit_rex(e, true, 0, 0, to, false); /* mov to, imm32, sign-extended */
        emit8(e, 0xc7);
        emit8(e, 0xc0 | (to & 7));
        emit32(e, (uint32_t)disp);
    } else if (base == IN_FRAME && index == IN_FRAME) {
        emit_mov_imm64(e, to, w ? (uint64_t)disp : (uint32_t)disp);
    } else {
        emit_lea_sib(e, w, to, base, index, a->scale, (int32_t)disp);
    }
}

/* --- the check -------------------------------------------------------------------------------- */

/* Does all of it lie in the page S0 is an offset in? */
static void emit_compare(struct translation *t, const struct group *g, struct cold *cold)
{
    const uint64_t span = (uint64_t)(g->high - g->low);

    if (span <= g->align + 1u && g->align) { /* what is aligned lies in one page */
        emit_rr(&t->e, true, 0xf7, 0, H_S0); /* test S0, ~0xfff | align */
        emit32(&t->e, (uint32_t)PAGE_MASK | g->align);
        bt_cold_jump(t, cold, CC_NE);
        return;
    }
    if (span <= 32 && !(span & (span - 1)))
        emit_rm(&t->e, true, OP_CMP, H_S0, H_FRAME, FRAME_NEAR(fits) + 8 * (int32_t)__builtin_ctzll(span));
    else
        emit_imm(&t->e, true, IMM_CMP, H_S0, (int32_t)(PAGE_SIZE - span));
    bt_cold_jump(t, cold, CC_A);
}

/* S0, or the offset in it, has to be aligned. */
static void emit_align(struct translation *t, const struct group *g, struct cold *cold)
{
    if (!g->align || g->high - g->low <= g->align + 1)
        return;         /* emit_compare() has seen to it */
    emit8(&t->e, 0x41); /* test S0b, mask */
    emit8(&t->e, 0xf6);
    emit8(&t->e, 0xc0 | (H_S0 & 7));
    emit8(&t->e, g->align);
    bt_cold_jump(t, cold, CC_NE);
}

void bt_emit_page_test(struct translation *t, const struct group *g, struct cold *cold)
{
    emit_compare(t, g, cold);
    emit_align(t, g, cold);
}

/* An offset in a segment, in S0, becomes linear. */
static void emit_base(struct translation *t, unsigned seg)
{
    if (seg != SEG_FLAT)
        emit_rm(&t->e, t->mode == MODE_LONG64, OP_ADD, H_S0, H_FRAME, FRAME_CPU(seg_base) + (int32_t)(8 * seg));
}

/* The same, if the segment allows the access: else its semantics tell what is wrong. S1 is lost. */
static void emit_segment(struct translation *t, const struct group *g, struct cold *cold)
{
    const unsigned seg = g->leader.seg;

    if (seg != SEG_FLAT && t->mode != MODE_LONG64) {
        emit_lea(&t->e, true, H_S1, H_S0, (int32_t)(g->high - g->low));
        emit_rm(&t->e, true, OP_CMP, H_S1, H_FRAME, FRAME_CPU(seg_room[g->write]) + (int32_t)(8 * seg));
        cold->refused = emit_jump(&t->e, CC_A);
    }
    emit_base(t, seg);
}

static struct cold *emit_stack_check(struct translation *t, const struct group *g, unsigned site)
{
    struct cold *cold = bt_cold(t, COLD_STACK, site);

    cold->back = emit_here(&t->e);
    cold->low = (int32_t)g->low;
    emit_lea(&t->e, word(t) == 8, H_S0, H_GSP, (int32_t)g->low);
    emit_segment(t, g, cold);
    emit_rm(&t->e, true, OP_SUB, H_S0, H_FRAME, FRAME_NEAR(stack_tag));
    bt_emit_page_test(t, g, cold);
    emit_rm(&t->e, true, OP_ADD, H_S0, H_FRAME, FRAME_NEAR(stack_host));
    return cold;
}

static void emit_linear(struct translation *t, const struct group *g)
{
    bt_emit_sum(t, &g->leader, H_S0, g->low);
    emit_base(t, g->leader.seg);
}

#define WINDOW(n, field)                                                                                               \
    (FRAME_BT(window) + (int32_t)((n) * sizeof(struct bt_window) + offsetof(struct bt_window, field)))

size_t bt_tlb_tag(const struct group *g)
{
    return g->write ? offsetof(struct x86_tlb_entry, write) : offsetof(struct x86_tlb_entry, read);
}

/* S1 = the soft-TLB entry for the address in S0; S0 = host address. The loop's window, if there is one, learns it. */
static void emit_full_check(struct translation *t, const struct group *g, struct cold *cold, unsigned window)
{
    const size_t host = offsetof(struct x86_tlb_entry, host), tag = bt_tlb_tag(g);
    struct emit *e = &t->e;

    emit_tlb_slot(e);
    emit_tlb(e, OP_SUB, H_S0, tag);
    bt_emit_page_test(t, g, cold);
    if (window) {
        emit_store(e, H_FRAME, WINDOW(window - 1, offset), H_S0);
        emit_tlb(e, OP_MOV, H_S0, tag);
        emit_store(e, H_FRAME, WINDOW(window - 1, tag), H_S0);
        emit_tlb(e, OP_MOV, H_S0, host);
        emit_store(e, H_FRAME, WINDOW(window - 1, host), H_S0);
        emit_load(e, H_S0, H_FRAME, WINDOW(window - 1, offset));
    }
    emit_tlb(e, OP_ADD, H_S0, host);
}

/* What another loop, or this one in another address space, left in the windows must not be taken for ours. */
void bt_emit_empty_windows(struct translation *t)
{
    if (t->windows)
        emit_load(&t->e, H_S1, H_FRAME, FRAME_TLB(no_stack));
    for (unsigned n = 0; n < t->windows; n++)
        emit_store(&t->e, H_FRAME, WINDOW(n, tag), H_S1);
}

/* In a loop's later rounds the page is most often the last round's. */
static void emit_window_check(struct translation *t, const struct group *g, struct cold *site, unsigned window)
{
    struct cold *miss = bt_cold(t, COLD_WINDOW, (unsigned)(site - t->cold));
    struct emit *e = &t->e;

    miss->group = *g;
    emit_rm(e, true, OP_SUB, H_S0, H_FRAME, WINDOW(window - 1, tag));
    emit_compare(t, g, miss);
    emit_align(t, g, site);
    emit_rm(e, true, OP_ADD, H_S0, H_FRAME, WINDOW(window - 1, host));
    miss->back = emit_here(e);
}

/* Is what the instruction leaves in a register, to be shifted so far, near what it left there the round before? */
static bool stays_near(const struct bt_op *op, unsigned shift)
{
    if (op->kind != OP_IDENTITY)
        return true;
    switch (op->in->mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return true;
    case ZYDIS_MNEMONIC_AND: /* an index in a small table */
        return op->in->shape == SHAPE_RI && op->in->imm << shift < PAGE_SIZE;
    default:
        return false;
    }
}

/* The last instruction of the loop to write the register before instruction i looks at it, perhaps a round before. */
static const struct bt_op *last_writer(const struct translation *t, unsigned i, unsigned reg)
{
    const unsigned rounds = t->loop_last + 1;

    for (unsigned n = 1; n <= rounds; n++) {
        const struct bt_op *op = &t->op[(i + rounds - n) % rounds];

        if (op->gpr_written >> reg & 1)
            return op;
    }
    return NULL;
}

static bool register_is_steady(const struct translation *t, unsigned i, unsigned reg, unsigned shift)
{
    const struct bt_op *writer = reg < 16 ? last_writer(t, i, reg) : NULL;

    return !writer || stays_near(writer, shift);
}

/* Leaves what may be accessed as it is, for certain: call-outs may not (STAC, CLAC). */
static bool is_harmless(enum op_kind kind)
{
    return (kind >= OP_IDENTITY && kind <= OP_PUSH_MEMORY) || kind == OP_DIVIDE || kind >= OP_JMP;
}

/* A register that a loop loads from memory, or computes otherwise than by steps, leads anywhere: no window for what it
 * points to. */
static bool is_steady(const struct translation *t, const struct group *g)
{
    uint16_t registers = registers_of(&g->leader);

    for (unsigned i = 0; i <= t->loop_last; i++) {
        const struct bt_op *op = &t->op[i];

        if (!is_harmless(op->kind) ||
            ((op->memory || op->kind == OP_POP || op->kind == OP_LEAVE) && (op->gpr_written & registers)))
            return false;
    }
    return register_is_steady(t, g->first, g->leader.base, 0) &&
           register_is_steady(t, g->first, g->leader.index, g->leader.scale);
}

void bt_find_windows(struct translation *t)
{
    struct group g;

    for (unsigned i = 0; i <= t->loop_last && t->windows < BT_WINDOWS; i = g.last + 1) {
        g.last = i;
        if (!bt_is_access(&t->op[i]))
            continue;
        bt_find_group(t, i, &g);
        if (is_on_stack(t, &g.leader))
            continue;
        if (is_steady(t, &g))
            t->window[i] = (uint8_t)++t->windows;
        else
            t->roams = true;
    }
}

static struct cold *emit_tlb_check(struct translation *t, const struct group *g, unsigned site, unsigned window)
{
    struct cold *cold = bt_cold(t, g->maybe ? COLD_SITE : COLD_ACCESS, site); /* A and D tell of accesses made */

    cold->group = *g;
    cold->back = emit_here(&t->e);
    bt_emit_sum(t, &g->leader, H_S0, g->low);
    emit_segment(t, g, cold);
    if (window)
        emit_window_check(t, g, cold, window);
    else
        emit_full_check(t, g, cold, 0);
    return cold;
}

struct cold *bt_emit_check(struct translation *t, const struct group *g, unsigned site)
{
    if (t->shadow)
        return bt_emit_direct_check(t, g, site);
    bt_settle_flags(t);
    if (is_on_stack(t, &g->leader))
        return emit_stack_check(t, g, site);
    return emit_tlb_check(t, g, site, t->in_loop ? t->window[g->first] : 0);
}

struct cold *bt_emit_single_check(struct translation *t, unsigned i, unsigned site)
{
    struct group g;

    bt_find_operand(t, i, &g);
    bt_settle_flags(t);
    return emit_tlb_check(t, &g, site, 0);
}

bool bt_may_split(const struct translation *t, const struct group *g)
{
    return g->last > g->first && g->leader.seg == SEG_FLAT && !g->maybe && !t->in_run;
}

/* --- off the straight path ------------------------------------------------------------------------ */

static void emit_cold_flags(struct translation *t, const struct cold *cold)
{
    if (cold->recipe.kind == RECIPE_NONE)
        return;
    bt_emit_recipe(&t->e, &cold->recipe);
    emit_save_flags(&t->e);
}

static void emit_cold_site(struct translation *t, const struct cold *cold)
{
    struct bt_site *site = &t->code->site[cold->index];

    if (cold->refused)
        emit_patch(&t->e, cold->refused, emit_here(&t->e));
    emit_cold_flags(t, cold);
    emit_mov_imm64(&t->e, H_S0, (uint64_t)site);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.callout);
    site->resume = emit_here(&t->e);
    if (site->end && !cold->after) /* it jumps */
        return;
    if (cold->flags_h)
        emit_restore_flags(&t->e);
    emit_jump_to(&t->e, CC_ALWAYS, cold->after);
}

/* Not in the soft TLB: it may be, after a walk. tlb_miss leaves CF set if it cannot help. */
static void emit_cold_access(struct translation *t, const struct cold *cold)
{
    const struct group *g = &cold->group;

    if (cold->split) { /* not in the soft TLB: each access will see to that */
        bt_emit_split(t, cold);
        return;
    }
    emit_linear(t, g);
    emit_mov_imm64(&t->e, H_S1, (uint64_t)g->align << 16 | (uint64_t)(g->high - g->low) << 1 | g->write);
    emit_jump_to(&t->e, CC_CALL, t->vcpu->thunk.tlb_miss);
    emit_jump_to(&t->e, CC_AE, cold->back);
    emit_cold_site(t, cold);
}

/* The stack has moved to another page, crosses two, or may not be touched. stack_miss leaves CF set if it cannot
 * help. */
static void emit_cold_stack(struct translation *t, const struct cold *cold)
{
    emit_lea(&t->e, word(t) == 8, H_S0, H_GSP, cold->low);
    emit_base(t, segment_class(t, SEG_SS));
    emit_jump_to(&t->e, CC_CALL, t->vcpu->thunk.stack_miss);
    emit_jump_to(&t->e, CC_AE, cold->back);
    if (cold->split)
        bt_emit_split(t, cold);
    else
        emit_cold_site(t, cold);
}

static void emit_cold_edge(struct translation *t, const struct cold *cold)
{
    struct bt_edge *edge = &t->code->edge[cold->index];

    edge->stub = emit_here(&t->e);
    if (cold->flags_h)
        emit_save_flags(&t->e);
    emit_mov_imm64(&t->e, H_S1, (uint64_t)edge);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.link);
}

/* S0 = the target of a jump: outside CS the jump faults. */
static void emit_cold_limit(struct translation *t, struct bt_site *site)
{
    uint32_t inside;

    emit_rm(&t->e, true, OP_CMP, H_S0, H_FRAME, FRAME_CPU(code_room));
    inside = emit_jump(&t->e, CC_B);
    emit_mov_imm64(&t->e, H_S0, (uint64_t)site);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.callout);
    site->resume = emit_here(&t->e);
    emit_patch(&t->e, inside, emit_here(&t->e));
}

/* A conditional jump to another page. Each takes a look at events, since it may close a loop. */
static void emit_cold_far(struct translation *t, const struct cold *cold)
{
    struct bt_edge *edge = &t->code->edge[cold->index];
    uint32_t event;

    if (cold->flags_h)
        emit_save_flags(&t->e);
    if (cold->limit_site) {
        emit_load(&t->e, H_S0, H_FRAME, FRAME_CPU(rip));
        emit_lea(&t->e, word(t) == 8, H_S0, H_S0, edge->target);
        emit_cold_limit(t, &t->code->site[cold->limit_site - 1]);
    }
    bt_emit_page_of(t, edge);
    emit_compare_events(&t->e);
    event = emit_jump(&t->e, CC_NE);
    edge->flags_m = true;
    edge->patch = emit_jump(&t->e, CC_ALWAYS);
    edge->stub = emit_here(&t->e);
    emit_patch(&t->e, edge->patch, edge->stub);
    emit_patch(&t->e, event, edge->stub);
    emit_mov_imm64(&t->e, H_S1, (uint64_t)edge);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.link);
}

/* Another page: the check in full. */
static void emit_cold_window(struct translation *t, const struct cold *cold)
{
    const struct cold *site = &t->cold[cold->index];
    struct cold jumps = {0};

    emit_linear(t, &cold->group);
    emit_full_check(t, &cold->group, &jumps, t->window[cold->group.first]);
    for (unsigned i = 0; i < jumps.patches; i++)
        emit_patch(&t->e, jumps.patch[i], site->here);
    emit_jump_to(&t->e, CC_ALWAYS, cold->back);
}

/* An event waits for the vCPU at the begin of a loop's next round; or the block is to be looked up anew. */
static void emit_cold_loop(struct translation *t, const struct cold *cold)
{
    emit_cold_flags(t, cold);
    if (cold->flags_h)
        emit_save_flags(&t->e);
    emit_load(&t->e, H_S0, H_FRAME, FRAME_CPU(rip));
    emit_lea(&t->e, word(t) == 8, H_S0, H_S0, t->code->page_offset);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.resolve);
}

/* The jump table's slot is another address's. Its second way? */
static void emit_cold_jump(struct translation *t, const struct cold *cold)
{
    emit_imm(&t->e, false, IMM_XOR, H_S1, BT_JUMP_WAY);
    emit_jump_table(&t->e, OP_CMP, true, H_S0, offsetof(struct bt_jump, key));
    emit_jump_to(&t->e, CC_E, cold->back);
    emit_rm(&t->e, true, OP_SUB, H_S0, H_FRAME, FRAME_NEAR(salt));
    bt_emit_code_base(t, OP_SUB, H_S0);
    emit_mov_imm64(&t->e, H_S1, (uint64_t)&t->code->site[cold->index]);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.jump_miss);
}

/* S0 = the linear address of the page, and the salt. What the soft TLB has for it is the page, or the block is not what
 * lies at this address any more. */
static void emit_cold_stale(struct translation *t, const struct cold *cold)
{
    const size_t fetch = offsetof(struct x86_tlb_entry, fetch), host = offsetof(struct x86_tlb_entry, host);
    struct emit *e = &t->e;
    uint32_t other, stale;

    emit_rm(e, true, OP_SUB, H_S0, H_FRAME, FRAME_NEAR(salt));
    emit_fetch_slot(e);
    emit_rm(e, true, OP_CMP, H_S0, H_S1, (int32_t)fetch);
    other = emit_jump(e, CC_NE);
    emit_mov_imm64(e, H_S0, (uint64_t)cold->page);
    emit_rm(e, true, OP_CMP, H_S0, H_S1, (int32_t)host);
    stale = emit_jump(e, CC_NE);
    emit_load(e, H_S0, H_S1, (int32_t)fetch);
    emit_rm(e, true, OP_ADD, H_S0, H_FRAME, FRAME_NEAR(salt));
    if (t->place)
        emit_store(e, H_FRAME, FRAME_PLACE(t->place), H_S0);
    emit_jump_to(e, CC_ALWAYS, t->code->entry_m);
    emit_patch(e, other, emit_here(e));
    emit_patch(e, stale, emit_here(e));
    t->code->stale = emit_here(&t->e);
    emit_load(&t->e, H_S0, H_FRAME, FRAME_CPU(rip));
    emit_lea(&t->e, word(t) == 8, H_S0, H_S0, t->code->page_offset);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.resolve);
}

static void emit_cold_vectors(struct translation *t)
{
    emit_mov_imm64(&t->e, H_S0, (uint64_t)t->code);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.need_vectors);
}

static void emit_cold_budget(struct translation *t)
{
    emit_rm(&t->e, true, 0x81, 0, H_FRAME, FRAME_BT(budget)); /* add back */
    emit32(&t->e, t->count);
    emit_load(&t->e, H_S0, H_FRAME, FRAME_CPU(rip));
    emit_lea(&t->e, word(t) == 8, H_S0, H_S0, t->code->page_offset);
    emit_jump_to(&t->e, CC_ALWAYS, t->vcpu->thunk.resolve);
}

void bt_emit_cold(struct translation *t)
{
    for (unsigned i = 0; i < t->colds; i++) {
        struct cold *cold = &t->cold[i];

        bt_mark(t, MARK_COLD + i);
        cold->here = emit_here(&t->e);
        for (unsigned n = 0; n < cold->patches; n++)
            emit_patch(&t->e, cold->patch[n], emit_here(&t->e));
        switch (cold->kind) {
        case COLD_NONE:
            break;
        case COLD_SITE:
            emit_cold_site(t, cold);
            break;
        case COLD_ACCESS:
            emit_cold_access(t, cold);
            break;
        case COLD_STACK:
            emit_cold_stack(t, cold);
            break;
        case COLD_EDGE:
            emit_cold_edge(t, cold);
            break;
        case COLD_VECTORS:
            emit_cold_vectors(t);
            break;
        case COLD_BUDGET:
            emit_cold_budget(t);
            break;
        case COLD_WINDOW:
            emit_cold_window(t, cold);
            break;
        case COLD_FAR:
            emit_cold_far(t, cold);
            break;
        case COLD_FAULT:
            bt_emit_fault(t, cold);
            break;
        case COLD_JUMP:
            emit_cold_jump(t, cold);
            break;
        case COLD_STALE:
            emit_cold_stale(t, cold);
            break;
        case COLD_CROSSING:
        case COLD_LOOP:
            emit_cold_loop(t, cold);
            break;
        }
    }
    for (unsigned i = 0; i < t->code->faults; i++)
        t->code->fault[i].to = t->cold[t->code->fault[i].to].here;
}
