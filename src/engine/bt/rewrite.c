/*
 * engine/bt/rewrite.c: identity translation: the guest's instruction again, with
 * its registers renamed and its memory operand redirected (SDM vol. 2, chapter 2:
 * encodings).
 */
#include "engine/bt/translate_internal.h"

/* What the fields of the instruction become. */
struct fields {
    unsigned reg, rm, vvvv, opcode_reg;
    bool memory, force_rex, in_opcode;
};

/* The host register for an operand: its own, or the scratch register that stands for it. */
static unsigned host_register(const ZydisDecodedOperand *o, const uint8_t *scratch, unsigned i)
{
    int g = bt_operand_gpr(o);

    if (g < 0)
        return (unsigned)ZydisRegisterGetId(o->reg.value) & 15;
    if (bt_is_high_byte(o) && !scratch[i])
        return (unsigned)g + 4; /* encoded as AH..BH: no REX */
    return scratch[i] ? scratch[i] : bt_host_of[g];
}

static struct fields find_fields(const struct bt_op *op, const uint8_t *scratch)
{
    const ZydisDecodedInstruction *insn = &op->z.insn;
    struct fields f = {.reg = insn->raw.modrm.reg, .rm = insn->raw.modrm.rm};

    for (unsigned i = 0; i < insn->operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &op->z.op[i];
        unsigned host;

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
            f.memory = true;
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        host = host_register(o, scratch, i);
        if (bt_operand_gpr(o) >= 0 && o->size == 8 && host >= 4 && host < 8 && !bt_is_high_byte(o))
            f.force_rex = true; /* SPL..DIL */
        switch (o->encoding) {
        case ZYDIS_OPERAND_ENCODING_MODRM_REG:
            f.reg = host;
            break;
        case ZYDIS_OPERAND_ENCODING_MODRM_RM:
            f.rm = host;
            break;
        case ZYDIS_OPERAND_ENCODING_NDSNDD:
            f.vvvv = host;
            break;
        case ZYDIS_OPERAND_ENCODING_OPCODE:
            f.opcode_reg = host;
            f.in_opcode = true;
            break;
        default:
            break;
        }
    }
    return f;
}

static void emit_prefixes(struct emit *e, const ZydisDecodedInstruction *insn)
{
    for (unsigned i = 0; i < insn->raw.prefix_count; i++) {
        uint8_t value = insn->raw.prefixes[i].value;

        if (value == 0x66 || value == 0xf2 || value == 0xf3 || value == 0xf0)
            emit8(e, value);
    }
}

static void emit_vex(struct emit *e, const ZydisDecodedInstruction *insn, const struct fields *f, unsigned index,
                     unsigned base)
{

    emit8(e, 0xc4);
    emit8(e, (~f->reg >> 3 & 1) << 7 | (~index >> 3 & 1) << 6 | (~base >> 3 & 1) << 5 | insn->raw.vex.m_mmmm);
    emit8(e, (unsigned)insn->raw.vex.W << 7 | (~f->vvvv & 15) << 3 | (unsigned)insn->raw.vex.L << 2 | insn->raw.vex.pp);
}

/* Where the immediate begins. */
static unsigned tail_offset(const ZydisDecodedInstruction *insn)
{
    if (insn->raw.disp.size)
        return insn->raw.disp.offset + insn->raw.disp.size / 8u;
    if (insn->attributes & ZYDIS_ATTRIB_HAS_SIB)
        return insn->raw.sib.offset + 1u;
    if (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM)
        return insn->raw.modrm.offset + 1u;
    return insn->raw.imm[0].size ? insn->raw.imm[0].offset : insn->length;
}

static void emit_map(struct emit *e, ZydisOpcodeMap map)
{
    if (map == ZYDIS_OPCODE_MAP_0F || map == ZYDIS_OPCODE_MAP_0F38 || map == ZYDIS_OPCODE_MAP_0F3A)
        emit8(e, 0x0f);
    if (map == ZYDIS_OPCODE_MAP_0F38)
        emit8(e, 0x38);
    if (map == ZYDIS_OPCODE_MAP_0F3A)
        emit8(e, 0x3a);
}

/* One-byte encodings that 64-bit mode does not have become those it has. */
static unsigned modern_opcode(const ZydisDecodedInstruction *insn, struct fields *f, bool *modrm)
{
    unsigned opcode = insn->opcode;

    *modrm = insn->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        return opcode;
    if (opcode >= 0xa0 && opcode <= 0xa3) { /* MOV with an absolute address */
        static const uint8_t mov[] = {0x8a, 0x8b, 0x88, 0x89};

        *modrm = true;
        f->reg = H_RAX;
        return mov[opcode - 0xa0];
    }
    if (opcode >= 0x40 && opcode <= 0x4f) { /* INC, DEC of a register */
        *modrm = true;
        f->rm = f->opcode_reg;
        f->reg = opcode >> 3 & 1;
        return 0xff;
    }
    return opcode == 0x82 ? 0x80 : opcode;
}

/* Displacement aside, what follows ModRM. A register in an immediate's upper half has three bits outside 64-bit mode
 * (SDM vol. 2, 2.3.8). */
static void emit_tail(struct emit *e, const struct bt_op *op)
{
    const ZydisDecodedInstruction *insn = &op->z.insn;
    const unsigned tail = tail_offset(insn);

    if (tail == insn->length)
        return;
    emit_bytes(e, op->z.bytes + tail, insn->length - tail - 1u);
    for (unsigned i = 0; op->z.mode != MODE_LONG64 && i < insn->operand_count_visible; i++) {
        if (op->z.op[i].encoding == ZYDIS_OPERAND_ENCODING_IS4) {
            emit8(e, op->z.bytes[insn->length - 1] & 0x7f);
            return;
        }
    }
    emit8(e, op->z.bytes[insn->length - 1]);
}

static void emit_instruction(struct emit *e, const struct bt_op *op, const uint8_t *scratch,
                             const struct mem_operand *m)
{
    const ZydisDecodedInstruction *insn = &op->z.insn;
    struct fields f = find_fields(op, scratch);
    unsigned opcode, base, index;
    bool modrm;

    opcode = modern_opcode(insn, &f, &modrm);
    base = !modrm ? f.opcode_reg : f.memory ? m->base : f.rm;
    index = f.memory && m->index != IN_FRAME ? m->index : 0;
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        emit_vex(e, insn, &f, index, base);
    } else {
        emit_prefixes(e, insn);
        emit_rex(e, op->z.mode == MODE_LONG64 && insn->raw.rex.W, modrm ? f.reg : 0, index, base, f.force_rex);
        emit_map(e, insn->opcode_map);
        if (!modrm)
            opcode = f.in_opcode ? (opcode & ~7u) | (f.opcode_reg & 7) : opcode;
    }
    emit8(e, opcode);
    if (modrm && f.memory)
        emit_modrm_operand(e, f.reg, m);
    else if (modrm)
        emit8(e, 0xc0 | (f.reg & 7) << 3 | (f.rm & 7));
    emit_tail(e, op);
}

static bool whole_write(const struct bt_op *op, const ZydisDecodedOperand *o)
{
    switch (op->in->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return o->size >= 32 && !(o->actions & ZYDIS_OPERAND_ACTION_MASK_READ);
    default:
        return false;
    }
}

/* AH..BH of the register are the low byte of S1, for the instruction. Flags stay. */
static void emit_high_byte(struct emit *e, const struct bt_op *op, const struct mem_operand *m)
{
    const ZydisDecodedInstruction *insn = &op->z.insn;
    uint8_t scratch[ZYDIS_MAX_OPERAND_COUNT] = {0};
    unsigned i = 0, host;

    while (i + 1 < insn->operand_count_visible && !bt_is_high_byte(&op->z.op[i]))
        i++;
    host = bt_host_of[bt_operand_gpr(&op->z.op[i])];
    scratch[i] = H_S1;
    emit_rotate(e, H_S1, host, 8);
    emit_instruction(e, op, scratch, m);
    if (!(op->z.op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        return;
    emit_rotate(e, host, host, 8);
    emit_rr(e, false, 0x8a, host, H_S1); /* mov byte */
    emit_rotate(e, host, host, 56);
}

void bt_emit_identity(struct emit *e, const struct bt_op *op, const struct mem_operand *m)
{
    const ZydisDecodedInstruction *insn = &op->z.insn;
    uint8_t scratch[ZYDIS_MAX_OPERAND_COUNT] = {0};
    uint8_t scratch_of[16] = {0};
    unsigned next = H_S1;

    if (op->high_byte) {
        emit_high_byte(e, op, m);
        return;
    }
    for (unsigned i = 0; i < insn->operand_count_visible; i++) {
        int g = bt_operand_gpr(&op->z.op[i]);

        if (g < 0 || bt_host_of[g] != IN_FRAME)
            continue;
        if (!scratch_of[g]) { /* it may be named twice */
            scratch_of[g] = (uint8_t)next;
            next = H_S0;
        }
        scratch[i] = scratch_of[g];
        if (!whole_write(op, &op->z.op[i]))
            emit_load(e, scratch[i], H_FRAME, FRAME_GPR(g));
    }
    emit_instruction(e, op, scratch, m);
    for (unsigned i = 0; i < insn->operand_count_visible; i++)
        if (scratch[i] && (op->z.op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            emit_store(e, H_FRAME, FRAME_GPR(bt_operand_gpr(&op->z.op[i])), scratch[i]);
}
