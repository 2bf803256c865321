/*
 * engine/bt/runs.c: rounds of a loop without checks. Where an access's address
 * moves by a constant from round to round ("affine"), it stays in the page of its
 * window for a number of rounds that is known: for so many the loop's third copy
 * runs, in which such accesses are not checked. Then one round of the second copy
 * finds the next page.
 *
 * Nothing between two looks for events can take a page away that was found
 * writable or readable, so what holds at a run's begin holds for all of it.
 */
#include "engine/bt/translate_internal.h"

#define MAX_STEP 128 /* bytes a round: a page is worth some rounds */

#define DELTA(window) (FRAME_BT(delta) + 8 * (int32_t)(window))

/* By how much the instruction moves the register; false: by something else than a constant. */
static bool find_move(const struct bt_op *op, unsigned reg, int64_t *move)
{
    const struct x86_insn *in = op->in;

    *move = 0;
    if (op->kind == OP_POP || op->kind == OP_LEAVE)
        return false;
    if (!(op->gpr_written & BIT(reg)))
        return true;
    if (op->memory || in->opsize != 8)
        return false;
    if (op->kind == OP_LEA_) {
        *move = in->disp;
        return in->base / 8 == reg && in->index / 8 == NO_REG && in->addrsize == 8;
    }
    if (op->kind != OP_IDENTITY || (op->gpr_written & (op->gpr_written - 1)))
        return false;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_INC:
        *move = 1;
        return true;
    case ZYDIS_MNEMONIC_DEC:
        *move = -1;
        return true;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        *move = in->mnemonic == ZYDIS_MNEMONIC_ADD ? (int64_t)in->imm : -(int64_t)in->imm;
        return in->shape == SHAPE_RI && *move == (int32_t)*move;
    default:
        return false;
    }
}

/* Adds what the register moves the address in a round to the step, and what of it comes before instruction `at` to what
 * is ahead. A register that moves can count rounds. */
static bool add_moves(struct translation *t, unsigned reg, unsigned scale, unsigned at, struct bt_run *run)
{
    int64_t step = 0;

    for (unsigned i = 0; reg < 16 && i <= t->loop_last; i++) {
        int64_t move;

        if (!find_move(&t->op[i], reg, &move))
            return false;
        step += move;
        run->ahead += i < at ? (int64_t)((uint64_t)move << scale) : 0;
    }
    run->step += (int64_t)((uint64_t)step << scale);
    if (step && step == (int8_t)step && bt_host_of[reg] != IN_FRAME) {
        t->counter = bt_host_of[reg];
        t->counter_step = (int8_t)step;
    }
    return true;
}

bool bt_stays(const struct translation *t, unsigned reg)
{
    for (unsigned i = 0; i <= t->loop_last; i++)
        if (t->op[i].gpr_written & BIT(reg))
            return false;
    return true;
}

bool bt_base_stays(const struct translation *t, unsigned reg)
{
    return reg == X86_REG_RIP || (reg < 16 && bt_stays(t, reg));
}

bool bt_may_run(const struct translation *t, unsigned first, struct bt_run *run)
{
    const struct access *a = &run->group.leader;

    if (t->op[first].kind != OP_IDENTITY)
        return false;
    bt_find_group(t, first, &run->group);
    run->first = *a;
    return !run->group.maybe && a->seg == SEG_FLAT && a->addrsize == 8 && a->base != RSP &&
           run->group.last <= t->loop_last;
}

static bool find_run(struct translation *t, unsigned first, struct bt_run *run)
{
    const struct access *a = &run->group.leader;
    const uint8_t align = t->op[first].align;

    if (!bt_may_run(t, first, run) || !add_moves(t, a->base, 0, first, run) ||
        !add_moves(t, a->index, a->scale, first, run))
        return false;
    run->base_stays = bt_base_stays(t, a->base);
    return run->step <= MAX_STEP && run->step >= -MAX_STEP && !(run->step & (align | run->group.align)) &&
           run->ahead + run->group.low == (int32_t)(run->ahead + run->group.low);
}

/* Never goes to its semantics. */
static bool is_plain(enum op_kind kind)
{
    return kind == OP_IDENTITY || kind == OP_NOTHING || kind == OP_LEA_ || kind == OP_JCC || kind == OP_JMP;
}

bool bt_find_runs(struct translation *t)
{
    bool any = false;

    t->counter_step = 0;
    t->all_run = true;
    if (t->mode != MODE_LONG64 || t->loop_jumps > 1 || t->loop_kind == ENTRY_HOST ||
        (t->loop_kind == ENTRY_ANY && t->loop_recipe.kind == RECIPE_NONE))
        return false;
    for (unsigned i = 0; i <= t->loop_last; i++) {
        struct bt_run *run = t->window[i] ? &t->runs[t->window[i] - 1] : NULL;

        if (!run) {
            t->all_run &= !bt_is_access(&t->op[i]) && is_plain(t->op[i].kind);
            continue;
        }
        *run = (struct bt_run){0};
        run->on = find_run(t, i, run);
        any |= run->on && run->step;
        t->all_run &= run->on;
        if (run->on)
            i = run->group.last;
    }
    if (!any || !t->counter_step)
        return false;
    bt_choose_held(t);
    return true;
}

void bt_run_fails(struct translation *t, uint32_t patch)
{
    if (t->run_fails < ARRAY_SIZE(t->run_fail))
        t->run_fail[t->run_fails++] = patch;
    else
        t->e.full = true;
}

/* S0 = how many more rounds the offset S0 stays in the page. */
static void emit_rounds(struct translation *t, const struct bt_run *run)
{
    struct emit *e = &t->e;
    const unsigned step = (unsigned)(run->step < 0 ? -run->step : run->step);

    if (run->step > 0) {
        emit_rr(e, true, 0xf7, 3, H_S0); /* neg */
        emit_imm(e, true, IMM_ADD, H_S0, (int32_t)(PAGE_SIZE - (uint64_t)(run->group.high - run->group.low)));
    }
    if (!(step & (step - 1))) {
        emit_shift(e, false, 5, H_S0, (unsigned)__builtin_ctz(step));
        return;
    }
    emit_rr(e, false, 0x69, H_S0, H_S0); /* imul S0d, S0d, 65536 / step: rounded down, at most one too few */
    emit32(e, 65536 / step);
    emit_shift(e, false, 5, H_S0, 16);
}

/* Of the rounds found so far and S0. */
static void emit_minimum(struct emit *e, bool first)
{
    uint32_t less;

    if (first) {
        emit_rm(e, false, OP_MOV_STORE, H_S0, H_FRAME, FRAME_BT(rounds));
        return;
    }
    emit_rm(e, false, OP_CMP, H_S0, H_FRAME, FRAME_BT(rounds));
    less = emit_jump(e, CC_AE);
    emit_rm(e, false, OP_MOV_STORE, H_S0, H_FRAME, FRAME_BT(rounds));
    emit_patch(e, less, emit_here(e));
}

/* S0 += guest register */
static void emit_add_guest(struct emit *e, unsigned reg)
{
    if (reg == X86_REG_RIP)
        emit_rm(e, true, OP_ADD, H_S0, H_FRAME, FRAME_CPU(rip));
    else if (bt_host_of[reg] == IN_FRAME)
        emit_rm(e, true, OP_ADD, H_S0, H_FRAME, FRAME_GPR(reg));
    else
        emit_rr(e, true, OP_ADD, H_S0, bt_host_of[reg]);
}

/* S0 = the offset in its page where the access will be made, S1 = the soft-TLB entry of that page. */
static void emit_find_page(struct translation *t, const struct bt_run *run)
{
    const struct group *g = &run->group;
    struct emit *e = &t->e;
    struct cold jumps = {0};

    bt_emit_sum(t, &run->first, H_S0, g->low + run->ahead);
    emit_tlb_slot(e);
    emit_tlb(e, OP_SUB, H_S0, bt_tlb_tag(g));
    bt_emit_page_test(t, g, &jumps);
    for (unsigned i = 0; i < jumps.patches; i++)
        bt_run_fails(t, jumps.patch[i]);
}

/* For the unchecked accesses: what makes their linear address, or the part of it that moves, the host's. */
static void emit_delta(struct translation *t, const struct bt_run *run, unsigned window)
{
    struct emit *e = &t->e;

    emit_tlb(e, OP_MOV, H_S0, offsetof(struct x86_tlb_entry, host));
    emit_tlb(e, OP_SUB, H_S0, bt_tlb_tag(&run->group));
    if (run->base_stays)
        emit_add_guest(e, run->group.leader.base);
    emit_store(e, H_FRAME, DELTA(window), H_S0);
}

void bt_emit_find_pages(struct translation *t, bt_room_fn *emit_room)
{
    bool first = true;

    for (unsigned n = 0; n < t->windows; n++) {
        const struct bt_run *run = &t->runs[n];

        if (!run->on)
            continue;
        emit_find_page(t, run);
        if (run->step) {
            emit_room(t, run);
            emit_minimum(&t->e, first);
            first = false;
        }
        emit_delta(t, run, n);
    }
}

void bt_emit_run_begin(struct translation *t)
{
    struct emit *e = &t->e;

    t->run_fails = 0;
    bt_emit_find_pages(t, emit_rounds);
    emit_rm(e, false, OP_MOV, H_S0, H_FRAME, FRAME_BT(rounds));
    emit_imm(e, false, IMM_ADD, H_S0, 1);
    emit_rr(e, true, 0x6b, H_S0, H_S0); /* imul S0, S0, imm8 */
    emit8(e, (uint8_t)t->counter_step);
    emit_rr(e, true, OP_ADD, H_S0, t->counter);
    emit_store(e, H_FRAME, FRAME_BT(last_round), H_S0);
}

void bt_end_run_begin(struct translation *t, uint32_t otherwise)
{
    for (unsigned i = 0; i < t->run_fails; i++)
        emit_patch(&t->e, t->run_fail[i], otherwise);
}

void bt_emit_run_round(struct translation *t)
{
    emit_rm(&t->e, true, OP_CMP, t->counter, H_FRAME, FRAME_BT(last_round));
    emit_jump_to(&t->e, CC_E, t->loop);
}

/* The register of the address that moves, and that frame.delta leaves out; false: the address has to be computed. */
static bool moving_part(const struct bt_run *run, struct mem_operand *m)
{
    const struct access *a = &run->group.leader;
    const bool indexed = run->base_stays || a->base == NO_REG;
    const unsigned reg = indexed ? a->index : a->index == NO_REG ? a->base : X86_REG_RIP;

    *m = (struct mem_operand){.base = H_S0, .index = IN_FRAME, .scale = indexed ? a->scale : 0};
    if (reg < 16)
        m->index = bt_host_of[reg];
    return reg == NO_REG || m->index != IN_FRAME;
}

/* Needs no scratch register between the accesses. */
static bool is_simple(const struct bt_op *op)
{
    const struct x86_insn *in = op->in;
    const unsigned base = in->base / 8, index = in->index / 8;

    if (op->kind != OP_LEA_)
        return is_plain(op->kind) && !op->displaced;
    return in->opsize >= 4 && bt_host_of[bt_operand_gpr(&op->z.op[0])] != IN_FRAME &&
           (base == NO_REG || (base < 16 && bt_host_of[base] != IN_FRAME)) &&
           (index == NO_REG || (index < 16 && bt_host_of[index] != IN_FRAME));
}

/* If nothing else wants the scratch registers they hold deltas: two, or one where more have to be loaded. */
void bt_choose_held(struct translation *t)
{
    unsigned in_group = 0; /* the instructions before this one */
    struct mem_operand m;

    for (unsigned i = 0; i <= t->loop_last; i++) {
        const struct bt_run *run = t->window[i] ? &t->runs[t->window[i] - 1] : NULL;

        if (run && run->on && moving_part(run, &m))
            in_group = run->group.last + 1;
        if (!is_simple(&t->op[i]) || (bt_is_access(&t->op[i]) && i >= in_group))
            return;
    }
    if (t->loop_kind != ENTRY_ANY)
        return;
    for (unsigned n = 0; n < MIN(t->windows, t->windows > 2 ? 1 : 2); n++)
        t->runs[n].hold = n ? H_S0 : H_S1;
}

void bt_emit_hold(struct translation *t)
{
    for (unsigned n = 0; n < t->windows; n++)
        if (t->runs[n].on && t->runs[n].hold)
            emit_load(&t->e, t->runs[n].hold, H_FRAME, DELTA(n));
}

bool bt_emit_unchecked(struct translation *t, const struct group *g, struct mem_operand *m)
{
    const unsigned window = t->in_run ? t->window[g->first] : 0;
    const struct bt_run *run = window ? &t->runs[window - 1] : NULL;
    struct emit *e = &t->e;

    if (!run || !run->on)
        return false;
    if (moving_part(run, m)) {
        if (run->hold)
            m->base = run->hold;
        else
            emit_load(e, H_S0, H_FRAME, DELTA(window - 1));
        return true;
    }
    if (run->base_stays) {
        emit_load(e, H_S0, H_FRAME, FRAME_GPR(g->leader.index));
        emit_load(e, H_S1, H_FRAME, DELTA(window - 1));
        emit_lea_sib(e, true, H_S0, H_S1, H_S0, g->leader.scale, 0);
    } else {
        bt_emit_sum(t, &g->leader, H_S0, 0);
        emit_load(e, H_S1, H_FRAME, DELTA(window - 1));
        emit_lea_sib(e, true, H_S0, H_S0, H_S1, 0, 0);
    }
    m->index = IN_FRAME;
    return true;
}
