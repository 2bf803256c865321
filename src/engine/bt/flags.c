/*
 * engine/bt/flags.c: which flags are worth keeping. The check of a memory access
 * loses the host's flags. Where the guest's are read afterwards they are saved
 * before; where they are not, only a fault could show them, and its way out
 * computes them anew.
 */
#include "engine/bt/translate_internal.h"

bool bt_overwrites_flags(const struct bt_op *op)
{
    if (op->flags_kept) /* a fault's frame may show them: they must not be what a check has left */
        return false;
    return op->flags_written == FLAGS_STATUS && !op->flags_maybe && !op->flags_read;
}

static bool uses_register(const struct recipe *recipe, uint16_t registers)
{
    return (registers & BIT(recipe->a)) || (recipe->b != NO_REG && (registers & BIT(recipe->b)));
}

static struct recipe make_recipe(const struct bt_op *op)
{
    const ZydisDecodedOperand *a = &op->z.op[0], *b = &op->z.op[1];
    struct recipe recipe = {.wide = op->in->opsize == 8, .b = NO_REG};
    int ga = bt_operand_gpr(a), gb = bt_operand_gpr(b);

    if (op->kind != OP_IDENTITY || op->memory || op->in->opsize < 4 || ga < 0)
        return recipe;
    recipe.a = (uint8_t)ga;
    switch (op->in->mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR: /* the flags are those of the result alone */
        recipe.kind = RECIPE_TEST;
        recipe.b = (uint8_t)ga;
        return recipe;
    case ZYDIS_MNEMONIC_CMP:
        recipe.kind = RECIPE_CMP;
        break;
    case ZYDIS_MNEMONIC_TEST:
        recipe.kind = RECIPE_TEST;
        break;
    case ZYDIS_MNEMONIC_ADD:
        recipe.kind = RECIPE_ADD;
        break;
    case ZYDIS_MNEMONIC_SUB:
        recipe.kind = RECIPE_SUB;
        break;
    default:
        return recipe;
    }
    if (gb >= 0)
        recipe.b = (uint8_t)gb;
    else if (b->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        recipe.imm = (int32_t)b->imm.value.s;
    else
        recipe.kind = RECIPE_NONE;
    if (ga == gb && (recipe.kind == RECIPE_ADD || recipe.kind == RECIPE_SUB))
        recipe.kind = RECIPE_NONE;
    return recipe;
}

/* The registers an instruction writes, as far as recipes may name them. */
static uint16_t written(const struct bt_op *op)
{
    switch (op->kind) {
    case OP_IDENTITY:
    case OP_LEA_:
        return op->gpr_written;
    case OP_NOTHING:
        return 0;
    case OP_PUSH:
        return BIT(RSP);
    case OP_POP:
        return (uint16_t)(BIT(RSP) | BIT(bt_operand_gpr(&op->z.op[0])));
    case OP_LEAVE:
        return BIT(RSP) | BIT(RBP);
    default:
        return 0xffff;
    }
}

static void note(struct recipe *recipe, const struct bt_op *op)
{
    if (op->flags_written && op->kind == OP_IDENTITY)
        *recipe = make_recipe(op);
    else if (recipe->kind != RECIPE_NONE && uses_register(recipe, written(op)))
        recipe->kind = RECIPE_NONE;
}

void bt_note_flags(struct translation *t, const struct bt_op *op)
{
    note(&t->recipe, op);
}

bool bt_flags_are_dead(const struct translation *t, unsigned i, const struct recipe *recipe)
{
    struct recipe r = *recipe;

    for (; i < t->count; i++) {
        const struct bt_op *op = &t->op[i];

        if (op->kind > OP_LEAVE || op->kind < OP_IDENTITY)
            return false;
        if (bt_is_access(op) && r.kind == RECIPE_NONE)
            return false;
        if (op->flags_written || op->flags_read)
            return bt_overwrites_flags(op);
        note(&r, op);
    }
    return false;
}

static void emit_register_form(struct emit *e, const struct recipe *r, unsigned opcode, unsigned n, unsigned a)
{
    unsigned b;

    if (r->b == NO_REG) {
        if (opcode == 0x85) { /* test */
            emit_rr(e, r->wide, 0xf7, 0, a);
            emit32(e, (uint32_t)r->imm);
        } else {
            emit_imm(e, r->wide, n, a, r->imm);
        }
        return;
    }
    b = bt_host_of[r->b];
    if (b == IN_FRAME) {
        b = H_S0;
        emit_load(e, b, H_FRAME, FRAME_GPR(r->b));
    }
    emit_rr(e, r->wide, opcode, a, b);
}

void bt_emit_recipe(struct emit *e, const struct recipe *r)
{
    unsigned a = bt_host_of[r->a];

    if (a == IN_FRAME || r->kind == RECIPE_ADD || r->kind == RECIPE_SUB) {
        if (a == IN_FRAME)
            emit_load(e, H_S1, H_FRAME, FRAME_GPR(r->a));
        else
            emit_mov(e, H_S1, a);
        a = H_S1;
    }
    switch (r->kind) {
    case RECIPE_CMP:
        emit_register_form(e, r, OP_CMP, IMM_CMP, a);
        break;
    case RECIPE_TEST:
        emit_register_form(e, r, 0x85, 0, a);
        break;
    case RECIPE_ADD: /* what it was before, and again */
        emit_register_form(e, r, OP_SUB, IMM_SUB, a);
        emit_register_form(e, r, OP_ADD, IMM_ADD, a);
        break;
    case RECIPE_SUB:
        emit_register_form(e, r, OP_ADD, IMM_ADD, a);
        emit_register_form(e, r, OP_SUB, IMM_SUB, a);
        break;
    default:
        break;
    }
}
