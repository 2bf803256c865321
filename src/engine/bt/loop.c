/*
 * engine/bt/loop.c: a block that jumps to its own begin: a second copy of its
 * body for the rounds after the first, and a third for those without checks
 * (runs.c).
 */
#include "engine/bt/translate_internal.h"

/* The block's own begin is the target: its second copy is, which starts with the flags as loop_kind says. */
bool bt_is_loop(const struct translation *t, int64_t target)
{
    return t->loop_kind != ENTRY_NONE && target == t->code->offset[0];
}

void bt_emit_loop_jump(struct translation *t, unsigned cc)
{
    uint32_t patch;

    if (t->loop_kind == ENTRY_FRAME)
        bt_want_flags_m(t);
    if (t->loop_kind == ENTRY_HOST || cc != CC_ALWAYS)
        bt_want_flags_h(t);
    patch = emit_jump(&t->e, cc);
    if (!t->in_loop)
        t->loop_patch[t->loop_patches++] = patch;
    else if (t->has_runs && !t->in_run)
        t->loop_again = patch;
    else
        emit_patch(&t->e, patch, t->in_run ? t->run : t->loop);
}

/* Does it jump to the block's begin? offset: its own there. */
bool bt_closes_loop(const struct bt_op *op, unsigned offset)
{
    return (op->kind == OP_JCC || op->kind == OP_JMP) && (int64_t)op->in->imm == -(int64_t)offset;
}

/* Rounds without checks are better than what a shadow space makes of them, and so are windows: they do not lengthen the
 * way from an address to its data by a load. Else nothing is gained there by fewer checks, or by flags that need not be
 * saved before them. */
static void look_for_runs(struct translation *t)
{
    const bool shadow = t->shadow;

    t->shadow = false;
    t->loop_kind = bt_entry_kind(t);
    if (t->loop_kind == ENTRY_FRAME && t->loop_recipe.kind != RECIPE_NONE && bt_flags_are_dead(t, 0, &t->loop_recipe))
        t->loop_kind = ENTRY_ANY;
    bt_find_windows(t);
    t->has_runs = bt_find_runs(t);
    t->has_limit = !t->has_runs && bt_find_limit(t);
    if (!shadow || t->has_runs || t->has_limit || (t->windows && !t->roams))
        return;
    t->shadow = true;
    t->windows = 0;
    memset(t->window, 0, sizeof(t->window));
    t->loop_recipe.kind = RECIPE_NONE;
    t->loop_kind = ENTRY_HOST;
    t->loop_kind = bt_entry_kind(t);
}

/* Does the block jump to its own begin? Then a second copy of it, for the rounds after the first, needs no guards and
 * knows where the flags come from: from the block's own end, if that leaves a recipe. */
void bt_look_for_loop(struct translation *t)
{
    struct recipe recipe = {0}, at_jump = {0};
    unsigned jumps = 0;

    t->loop_kind = ENTRY_NONE;
    if (t->vcpu->counting || t->code->block->crosses)
        return;
    for (unsigned i = 0; i < t->count; i++) {
        const struct bt_op *op = &t->op[i];

        if ((op->kind == OP_JCC || op->kind == OP_JMP) &&
            (int64_t)t->code->offset[i] + (int64_t)op->in->imm == t->code->offset[0]) {
            jumps++;
            at_jump = recipe;
            t->loop_last = i;
        }
        if (op->kind != OP_JCC && op->kind != OP_JMP)
            t->recipe = recipe, bt_note_flags(t, op), recipe = t->recipe;
    }
    if (!jumps)
        return;
    t->loop_jumps = jumps;
    t->loop_recipe = at_jump;
    if (jumps > 1)
        t->loop_recipe.kind = RECIPE_NONE;
    look_for_runs(t);
}

/* Where the flags are at the begin of a round. */
static void begin_round(struct translation *t)
{
    t->recipe = t->loop_recipe;
    t->flags_m = t->loop_kind == ENTRY_FRAME;
    t->flags_h = t->loop_kind == ENTRY_HOST || (t->loop_kind == ENTRY_ANY && t->recipe.kind == RECIPE_NONE);
}

/* The first copy's jumps to its begin lead here. */
static void patch_loop_jumps(struct translation *t)
{
    for (unsigned i = 0; i < t->loop_patches; i++)
        emit_patch(&t->e, t->loop_patch[i], emit_here(&t->e));
}

/* The loop's body once more. Left at its end, it goes on where the first copy does. */
static void emit_round(struct translation *t)
{
    for (unsigned i = 0; i <= t->loop_last;) {
        if (t->has_limit && i == t->limit.at)
            bt_emit_limit(t, i);
        i = bt_emit_op(t, i);
    }
    if (t->op[t->loop_last].kind != OP_JCC || t->loop_last + 1 == t->count)
        return;
    if (t->rejoin.flags_m)
        bt_want_flags_m(t);
    if (t->rejoin.flags_h)
        bt_want_flags_h(t);
    emit_jump_to(&t->e, CC_ALWAYS, t->rejoin.here);
}

/* The rounds of a loop after the first. Once a round it looks whether an event waits. */
void bt_emit_loop(struct translation *t)
{
    struct emit *e = &t->e;
    struct cold *cold;

    bt_mark(t, MARK_LOOP);
    if (!t->has_runs) {
        patch_loop_jumps(t);
        bt_emit_empty_windows(t);
    }
    t->loop = emit_here(e);
    t->in_loop = true;
    begin_round(t);
    cold = bt_cold(t, COLD_LOOP, 0);
    cold->flags_h = t->flags_h;
    bt_emit_event_check(t, cold);
    if (t->loop_kind == ENTRY_ANY)
        t->flags_h = false;
    emit_round(t);
}

/* Rounds without checks: the copy that most rounds go to. */
void bt_emit_runs(struct translation *t)
{
    struct emit *e = &t->e;

    bt_mark(t, MARK_RUN);
    patch_loop_jumps(t);
    bt_emit_empty_windows(t);
    emit_patch(e, t->loop_again, emit_here(e));
    bt_emit_run_begin(t);
    bt_end_run_begin(t, t->loop);
    bt_emit_hold(t);
    bt_mark(t, MARK_LOOP);
    t->in_run = true;
    t->run = emit_here(e);
    begin_round(t);
    bt_emit_run_round(t);
    if (t->run_enter)
        emit_patch(e, t->run_enter, emit_here(e));
    emit_round(t);
}

/* The same where the second copy found a limit. */
void bt_emit_limited_run(struct translation *t)
{
    if (!t->limit.back)
        return;
    bt_mark(t, MARK_RUN);
    t->in_run = true;
    t->run = emit_here(&t->e);
    begin_round(t);
    emit_round(t);
}

/* Already the first round may need no checks. The flags are not what the rounds' recipe says then: there must be
 * nothing that would show them. */
void bt_emit_run_entry(struct translation *t)
{
    if (t->loop_kind == ENTRY_ANY && !t->all_run)
        return;
    bt_mark(t, MARK_RUN);
    bt_emit_run_begin(t);
    bt_emit_empty_windows(t); /* the checked round after the run finds what it needs itself */
    bt_emit_hold(t);
    t->run_enter = emit_jump(&t->e, CC_ALWAYS);
    bt_end_run_begin(t, emit_here(&t->e));
}
