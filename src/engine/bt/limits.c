/*
 * engine/bt/limits.c: rounds without checks in loops that step by a register's
 * value, or that want the flags at the begin of a round. One register, the
 * "counter", moves upwards once a round, and addresses with it, perhaps by way of
 * copies: so they stay in their pages as long as it is not above a limit.
 *
 * In the middle of a round, where nothing wants the flags, the loop's second copy
 * looks for the limit and goes over to the third; that compares the counter with
 * the limit at the same place, and goes back.
 */
#include "engine/bt/translate_internal.h"

#define MAX_STEP 256 /* a page is worth some rounds */

/* --- which loops ------------------------------------------------------------------------------- */

/* Does the instruction move the register upwards? limit: by what. */
static bool is_step(const struct translation *t, const struct bt_op *op, unsigned reg, struct bt_limit *limit)
{
    int a = bt_operand_gpr(&op->z.op[0]), b = bt_operand_gpr(&op->z.op[1]);

    if (op->kind != OP_IDENTITY || op->memory || op->in->opsize < 4 || a != (int)reg)
        return false;
    limit->step = NO_REG;
    limit->imm = 1;
    limit->wide = op->in->opsize == 8;
    if (op->in->mnemonic == ZYDIS_MNEMONIC_INC)
        return true;
    if (op->in->mnemonic != ZYDIS_MNEMONIC_ADD)
        return false;
    if (op->in->shape == SHAPE_RI) {
        limit->imm = (int32_t)op->in->imm;
        return limit->imm > 0 && limit->imm <= MAX_STEP;
    }
    limit->step = (unsigned)b;
    return op->in->shape == SHAPE_RR && b >= 0 && b != a && bt_stays(t, (unsigned)b);
}

static unsigned times_written(const struct translation *t, unsigned reg, unsigned *at)
{
    unsigned times = 0;

    for (unsigned i = 0; i <= t->loop_last; i++) {
        if (!(t->op[i].gpr_written >> reg & 1))
            continue;
        times++;
        *at = i;
    }
    return times;
}

/* Where, before instruction i in the same round, the register takes the counter's value; i if it is the counter itself.
 * False: it is neither. */
static bool find_capture(const struct translation *t, unsigned reg, unsigned i, unsigned *at)
{
    const struct bt_limit *limit = &t->limit;
    const struct bt_op *op;

    *at = i;
    if (reg == limit->counter)
        return true;
    if (times_written(t, reg, at) != 1 || *at >= i || (*at < limit->at && limit->at <= i))
        return false;
    op = &t->op[*at];
    return op->kind == OP_IDENTITY && op->in->mnemonic == ZYDIS_MNEMONIC_MOV && op->in->shape == SHAPE_RR &&
           op->in->opsize == (limit->wide ? 8 : 4) && bt_operand_gpr(&op->z.op[0]) == (int)reg &&
           bt_operand_gpr(&op->z.op[1]) == (int)limit->counter;
}

/* Is the window's access at a fixed place, or moved by the counter? */
static bool find_run(const struct translation *t, unsigned first, struct bt_run *run)
{
    const struct bt_limit *limit = &t->limit;
    struct access *a = &run->first;
    unsigned at = 0;

    if (!bt_may_run(t, first, run))
        return false;
    run->base_stays = bt_base_stays(t, a->base);
    if ((a->base == NO_REG || run->base_stays) && (a->index >= 16 || bt_stays(t, a->index)))
        return true;
    if (a->base == NO_REG || run->base_stays) {
        if (!find_capture(t, a->index, first, &at))
            return false;
        a->index = limit->counter;
        run->shift = a->scale;
    } else {
        if ((a->index < 16 && !bt_stays(t, a->index)) || !find_capture(t, a->base, first, &at))
            return false;
        a->base = limit->counter;
    }
    run->step = 1;
    run->late = limit->moves < at && at < limit->at; /* it is the next round's, after the counter moved */
    return !((limit->step == NO_REG ? (uint64_t)limit->imm << run->shift : 1) &
             (t->op[first].align | run->group.align));
}

static bool find_runs(struct translation *t)
{
    bool moving = false;

    for (unsigned i = 0; i <= t->loop_last; i++) {
        struct bt_run *run = t->window[i] ? &t->runs[t->window[i] - 1] : NULL;

        if (!run)
            continue;
        *run = (struct bt_run){0};
        run->on = find_run(t, i, run);
        moving |= run->on && run->step;
    }
    return moving;
}

/* Nothing wants the flags before instruction `at`, and they can be computed anew there: from what wrote them in the
 * same round, as both copies will know. */
static bool flags_are_dead(struct translation *t, unsigned at)
{
    const struct recipe saved = t->recipe;
    bool written = false, dead;

    t->recipe.kind = RECIPE_NONE;
    for (unsigned i = 0; i < at; i++) {
        written |= t->op[i].flags_written && t->op[i].kind == OP_IDENTITY;
        if (t->op[i].kind != OP_JCC && t->op[i].kind != OP_JMP)
            bt_note_flags(t, &t->op[i]);
    }
    dead = written && t->recipe.kind != RECIPE_NONE && bt_flags_are_dead(t, at, &t->recipe);
    t->recipe = saved;
    return dead;
}

/* Looks for a place after the counter's step, between groups. */
static bool find_place(struct translation *t)
{
    struct group g;

    for (unsigned i = 0; i <= t->loop_last; i++) {
        if (i > t->limit.moves && flags_are_dead(t, i)) {
            t->limit.at = i;
            if (find_runs(t))
                return true;
        }
        if (bt_is_access(&t->op[i])) {
            bt_find_group(t, i, &g);
            i = g.last;
        }
    }
    return false;
}

bool bt_find_limit(struct translation *t)
{
    if (t->mode != MODE_LONG64 || t->loop_jumps > 1 || !t->windows)
        return false;
    for (unsigned reg = 0; reg < 16; reg++) {
        t->limit.counter = reg;
        if (bt_host_of[reg] != IN_FRAME && times_written(t, reg, &t->limit.moves) == 1 &&
            is_step(t, &t->op[t->limit.moves], reg, &t->limit) && find_place(t)) {
            bt_choose_held(t);
            return true;
        }
    }
    return false;
}

/* --- their code -------------------------------------------------------------------------------- */

static void fails(struct translation *t, unsigned cc)
{
    bt_run_fails(t, emit_jump(&t->e, cc));
}

/* op S0, the step */
static void emit_step(struct translation *t, unsigned opcode, unsigned imm_opcode, bool wide)
{
    const unsigned step = t->limit.step;

    if (step == NO_REG)
        emit_imm(&t->e, wide, imm_opcode, H_S0, t->limit.imm);
    else if (bt_host_of[step] == IN_FRAME)
        emit_rm(&t->e, wide, opcode, H_S0, H_FRAME, FRAME_GPR(step));
    else
        emit_rr(&t->e, wide, opcode, H_S0, bt_host_of[step]);
}

static void emit_step_test(struct translation *t)
{
    struct emit *e = &t->e;

    if (t->limit.step == NO_REG)
        return;
    emit_step(t, OP_MOV, 0, t->limit.wide);
    emit_lea(e, t->limit.wide, H_S0, H_S0, -1);
    emit_imm(e, t->limit.wide, IMM_CMP, H_S0, MAX_STEP - 1);
    fails(t, CC_A);
}

/* S0 = how much further the counter may move, by the access at offset S0 of its page. */
static void emit_room(struct translation *t, const struct bt_run *run)
{
    struct emit *e = &t->e;

    emit_rr(e, true, 0xf7, 3, H_S0); /* neg */
    emit_imm(e, true, IMM_ADD, H_S0, (int32_t)(PAGE_SIZE - (uint64_t)(run->group.high - run->group.low)));
    if (run->shift)
        emit_shift(e, false, 5, H_S0, run->shift);
    if (!run->late)
        return;
    emit_step(t, OP_SUB, IMM_SUB, t->limit.wide);
    fails(t, CC_B);
}

/* The limit, unless there is none: the counter must not wrap on its way past it either. */
static void emit_limit(struct translation *t)
{
    const bool wide = t->limit.wide;
    struct emit *e = &t->e;

    emit_rm(e, false, OP_MOV, H_S0, H_FRAME, FRAME_BT(rounds));
    emit_rr(e, wide, OP_ADD, H_S0, bt_host_of[t->limit.counter]);
    fails(t, CC_B);
    emit_store(e, H_FRAME, FRAME_BT(last_round), H_S0);
    emit_step(t, OP_ADD, IMM_ADD, wide);
    fails(t, CC_B);
}

static void emit_look(struct translation *t)
{
    bt_mark(t, MARK_RUN);
    t->run_fails = 0;
    emit_step_test(t);
    bt_emit_find_pages(t, emit_room);
    emit_limit(t);
    bt_emit_hold(t);
    t->run_enter = emit_jump(&t->e, CC_ALWAYS);
    bt_end_run_begin(t, emit_here(&t->e));
}

void bt_emit_limit(struct translation *t, unsigned i)
{
    t->at = i;
    bt_settle_flags(t);
    if (t->in_run) {
        emit_rm(&t->e, t->limit.wide, OP_CMP, bt_host_of[t->limit.counter], H_FRAME, FRAME_BT(last_round));
        emit_jump_to(&t->e, CC_A, t->limit.back);
        emit_patch(&t->e, t->run_enter, emit_here(&t->e));
        t->flags_m = false;
    } else if (!t->flags_m) { /* else they were saved before, and going back were not that */
        emit_look(t);
        t->limit.back = emit_here(&t->e);
    }
}
