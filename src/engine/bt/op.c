/* engine/bt/op.c: see op.h. */
#include "engine/bt/op.h"

#include "engine/bt/emit.h"
#include "engine/bt/leaf.h"

int bt_operand_gpr(const ZydisDecodedOperand *operand)
{
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER ? x86_zydis_gpr(operand->reg.value) : -1;
}

static bool is_written(const ZydisDecodedOperand *operand)
{
    return operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

/* May it leave its memory operand alone, all or in part? */
static bool is_masked(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return true;
    default:
        return false;
    }
}

/* Instructions the host may execute for the guest, by category: no side effect but on registers, flags, memory. */
static bool identity_category(ZydisInstructionCategory category)
{
    switch (category) {
    case ZYDIS_CATEGORY_ADOX_ADCX:
    case ZYDIS_CATEGORY_AES:
    case ZYDIS_CATEGORY_AVX:
    case ZYDIS_CATEGORY_AVX2:
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_BITBYTE:
    case ZYDIS_CATEGORY_BMI1:
    case ZYDIS_CATEGORY_BMI2:
    case ZYDIS_CATEGORY_BROADCAST:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_CONVERT:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_GFNI:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_LOGICAL_FP:
    case ZYDIS_CATEGORY_LZCNT:
    case ZYDIS_CATEGORY_PCLMULQDQ:
    case ZYDIS_CATEGORY_ROTATE:
    case ZYDIS_CATEGORY_SEMAPHORE:
    case ZYDIS_CATEGORY_SETCC:
    case ZYDIS_CATEGORY_SHA:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_SSE:
    case ZYDIS_CATEGORY_STTNI:
    case ZYDIS_CATEGORY_VAES:
    case ZYDIS_CATEGORY_VFMA:
    case ZYDIS_CATEGORY_VPCLMULQDQ:
        return true;
    default:
        return false;
    }
}

/* Exceptions from that. */
static bool identity_mnemonic(const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
        return true;
    case ZYDIS_MNEMONIC_LDMXCSR: /* may unmask exceptions */
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
    case ZYDIS_MNEMONIC_XLAT:
    case ZYDIS_MNEMONIC_SALC:
        return false;
    default:
        return identity_category(insn->meta.category);
    }
}

/* Is it a bit in memory whose number is in a register? */
static bool names_bit(const struct bt_op *op)
{
    if (op->z.op[0].type != ZYDIS_OPERAND_TYPE_MEMORY || op->z.op[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
        return false;
    switch (op->in->mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTS:
        return true;
    default:
        return false;
    }
}

static bool memory_operand_ok(const struct bt_op *op, const ZydisDecodedOperand *m)
{
    if (m->mem.type != ZYDIS_MEMOP_TYPE_MEM || op->in->addrsize < 4)
        return false;
    if (op->in->addrsize == 4 && m->mem.base == ZYDIS_REGISTER_EIP)
        return false;
    if (op->in->base / 8 == X86_REG_RIP && op->in->disp > INT32_MAX - 2 * (int64_t)PAGE_SIZE)
        return false;
    return m->size >= 8 && m->size <= 256;
}

/* Looks at one operand: may the instruction be executed on the host with it? Notes what it uses. */
static bool look_at_operand(struct bt_op *op, const ZydisDecodedOperand *o)
{
    bool hidden = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
    int g = bt_operand_gpr(o);

    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        return true;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        if (hidden || names_bit(op) || !memory_operand_ok(op, o))
            return false;
        op->memory = true;
        op->mem_write = is_written(o);
        op->mem_maybe = is_masked(op->z.insn.mnemonic);
        op->mem_size = (uint8_t)(o->size / 8);
        return true;
    case ZYDIS_OPERAND_TYPE_REGISTER:
        break;
    default:
        return false;
    }
    if (g >= 0) {
        if (is_written(o))
            op->gpr_written |= (uint16_t)BIT(g);
        if (o->encoding == ZYDIS_OPERAND_ENCODING_NONE) /* implicit: these are the same on the host */
            return g == RAX || g == RCX || g == RDX || g == RBX;
        op->displaced += bt_host_of[g] == IN_FRAME;
        return true;
    }
    switch (ZydisRegisterGetClass(o->reg.value)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
        op->vectors = op->z.insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? BT_AVX : MAX(op->vectors, BT_SSE);
        return true;
    case ZYDIS_REGCLASS_FLAGS:
        return true;
    default:
        return o->reg.value == ZYDIS_REGISTER_MXCSR;
    }
}

/* Converts from memory to a general-purpose register: no vector register is named, but MXCSR is used. */
static bool converts(const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CVTSD2SI:
    case ZYDIS_MNEMONIC_CVTSS2SI:
    case ZYDIS_MNEMONIC_CVTTSD2SI:
    case ZYDIS_MNEMONIC_CVTTSS2SI:
    case ZYDIS_MNEMONIC_VCVTSD2SI:
    case ZYDIS_MNEMONIC_VCVTSS2SI:
    case ZYDIS_MNEMONIC_VCVTTSD2SI:
    case ZYDIS_MNEMONIC_VCVTTSS2SI:
        return true;
    default:
        return false;
    }
}

bool bt_is_high_byte(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value >= ZYDIS_REGISTER_AH &&
           o->reg.value <= ZYDIS_REGISTER_BH;
}

/* The registers AH..BH cannot be named beside one that needs REX, as S0 and S1 do. */
static bool high_byte_conflict(const struct bt_op *op)
{
    bool high = false, extended = op->memory;

    for (unsigned i = 0; i < op->z.insn.operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &op->z.op[i];
        int g = bt_operand_gpr(o);

        if (g < 0)
            continue;
        if (bt_is_high_byte(o))
            high = true;
        else if (bt_host_of[g] >= 8 || (o->size == 8 && g >= RSP))
            extended = true;
    }
    return high && extended;
}

/* Outside 64-bit mode there are eight vector registers, and VEX.W does not widen integers (SDM vol. 2, 2.3). */
static bool differs_in_32_bits(const struct bt_op *op)
{
    const ZydisDecodedInstruction *insn = &op->z.insn;

    if (op->z.mode == MODE_LONG64 || insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return false;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_VZEROUPPER:
        return true;
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VMOVQ:
    case ZYDIS_MNEMONIC_VPCMPESTRI:
    case ZYDIS_MNEMONIC_VPCMPESTRM:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VPEXTRQ:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VPINSRQ:
        return insn->raw.vex.W;
    default:
        break;
    }
    for (unsigned i = 0; i < insn->operand_count_visible; i++)
        if (insn->raw.vex.W && bt_operand_gpr(&op->z.op[i]) >= 0)
            return true;
    return false;
}

static bool is_identity(struct bt_op *op)
{
    const ZydisDecodedInstruction *insn = &op->z.insn;

    if (differs_in_32_bits(op))
        return false;

    if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return false;
    if (insn->meta.isa_set == ZYDIS_ISA_SET_X87 || !identity_mnemonic(insn))
        return false;
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (!look_at_operand(op, &op->z.op[i]))
            return false;
    if (insn->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
        op->vectors = BT_AVX;
    if (converts(insn))
        op->vectors = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? BT_AVX : BT_SSE;
    if (op->vectors && op->memory)
        op->align = x86_vector_alignment(insn, op->mem_size);
    if (insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
        op->align = 15;
    if (high_byte_conflict(op)) { /* beside memory S1's low byte stands for it: rewrite.c */
        op->high_byte = op->memory && emit_has_bmi2();
        op->displaced += op->high_byte;
        if (!op->high_byte)
            return false;
    }
    return op->displaced <= (op->memory ? 1 : 2);
}

/* Near and of the mode's own size? */
static bool plain_branch(const struct bt_op *op)
{
    unsigned size = op->z.mode == MODE_LONG64 ? 8 : 4;

    return op->z.insn.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR && op->in->opsize == size;
}

static enum op_kind branch_kind(struct bt_op *op, enum op_kind direct, enum op_kind indirect)
{
    const ZydisDecodedOperand *o = &op->z.op[0];

    if (!plain_branch(op))
        return OP_CALLOUT_END;
    if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return direct;
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && !memory_operand_ok(op, o))
        return OP_CALLOUT_END;
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        op->memory = true;
        op->mem_size = (uint8_t)(o->size / 8);
    }
    return indirect;
}

static enum op_kind stack_kind(struct bt_op *op, enum op_kind kind)
{
    unsigned size = op->z.mode == MODE_LONG64 ? 8 : 4;
    const ZydisDecodedOperand *o = &op->z.op[0];
    int g = bt_operand_gpr(o);

    if (op->in->opsize != size)
        return OP_CALLOUT;
    if (kind == OP_PUSH && o->type == ZYDIS_OPERAND_TYPE_MEMORY && memory_operand_ok(op, o)) {
        op->memory = true;
        op->mem_size = (uint8_t)size;
        return OP_PUSH_MEMORY;
    }
    if (g < 0 && (kind == OP_POP || o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE))
        return OP_CALLOUT;
    if (kind == OP_POP && g == RSP)
        op->gpr_written = BIT(RSP); /* by something else than a known distance */
    return kind;
}

static enum op_kind divide_kind(struct bt_op *op)
{
    if (op->in->opsize < 4)
        return OP_CALLOUT;
    return is_identity(op) ? OP_DIVIDE : OP_CALLOUT;
}

static enum op_kind bit_kind(struct bt_op *op)
{
    if (op->in->opsize < 4 || !memory_operand_ok(op, &op->z.op[0]))
        return OP_CALLOUT;
    op->memory = true;
    op->mem_write = op->in->mnemonic != ZYDIS_MNEMONIC_BT;
    op->mem_size = op->in->opsize;
    return OP_BIT;
}

/* MOV from CR0, CR2, CR3 or CR4, which are as struct x86_cpu has them. */
static bool reads_control(struct bt_op *op)
{
    const ZydisDecodedOperand *o = &op->z.op[1];

    if (op->z.mode != MODE_LONG64 || o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
        ZydisRegisterGetClass(o->reg.value) != ZYDIS_REGCLASS_CONTROL || o->reg.value > ZYDIS_REGISTER_CR4 ||
        o->reg.value == ZYDIS_REGISTER_CR1 || (op->in->flags & INSN_LOCK))
        return false;
    op->gpr_written = (uint16_t)BIT(bt_operand_gpr(&op->z.op[0]));
    return true;
}

/* MOV from a segment register to a general-purpose one? */
static bool reads_segment(struct bt_op *op)
{
    const int g = bt_operand_gpr(&op->z.op[0]);

    if (g < 0 || op->z.op[1].type != ZYDIS_OPERAND_TYPE_REGISTER ||
        ZydisRegisterGetClass(op->z.op[1].reg.value) != ZYDIS_REGCLASS_SEGMENT)
        return false;
    op->gpr_written = (uint16_t)BIT(g);
    return true;
}

static enum op_kind leaf_kind(enum x86_mode mode, const struct x86_insn *in)
{
    if (mode != MODE_LONG64 || !bt_leaf_of(in))
        return OP_CALLOUT;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_IRETQ:
        return OP_LEAF_JUMP;
    default:
        return OP_LEAF;
    }
}

static enum op_kind classify(struct bt_op *op)
{
    const ZydisDecodedInstruction *insn = &op->z.insn;
    enum op_kind leaf = leaf_kind(op->z.mode, op->in);

    if (leaf != OP_CALLOUT)
        return leaf;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return branch_kind(op, OP_JMP, OP_JMP_INDIRECT);
    case ZYDIS_MNEMONIC_CALL:
        return branch_kind(op, OP_CALL, OP_CALL_INDIRECT);
    case ZYDIS_MNEMONIC_RET:
        return plain_branch(op) ? OP_RET : OP_CALLOUT_END;
    case ZYDIS_MNEMONIC_PUSH:
        return stack_kind(op, OP_PUSH);
    case ZYDIS_MNEMONIC_POP:
        return stack_kind(op, OP_POP);
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        op->flags_read = FLAGS_STATUS;
        return OP_PUSHF;
    case ZYDIS_MNEMONIC_CLI:
        return OP_CLI;
    case ZYDIS_MNEMONIC_STI:
        return OP_STI;
    case ZYDIS_MNEMONIC_SWAPGS:
        return OP_SWAPGS;
    case ZYDIS_MNEMONIC_LEAVE:
        return op->in->opsize == (op->z.mode == MODE_LONG64 ? 8 : 4) ? OP_LEAVE : OP_CALLOUT;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        return divide_kind(op);
    case ZYDIS_MNEMONIC_LEA:
        if (op->in->addrsize < 4 || op->z.op[1].mem.base == ZYDIS_REGISTER_EIP ||
            (op->in->base / 8 == X86_REG_RIP && op->in->disp > INT32_MAX - 2 * (int64_t)PAGE_SIZE))
            return OP_CALLOUT;
        op->gpr_written = (uint16_t)BIT(bt_operand_gpr(&op->z.op[0]));
        return OP_LEA_;
    case ZYDIS_MNEMONIC_MOV:
        if (reads_segment(op))
            return OP_READ_SEGMENT;
        if (reads_control(op))
            return OP_READ_CONTROL;
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTS:
        if (names_bit(op))
            return bit_kind(op);
        break;
    case ZYDIS_MNEMONIC_PAUSE: /* with REX.B it exchanges registers */
        return insn->raw.rex.B ? OP_CALLOUT : OP_NOTHING;
    default:
        break;
    }
    if (insn->meta.category == ZYDIS_CATEGORY_COND_BR && insn->mnemonic != ZYDIS_MNEMONIC_LOOP &&
        insn->mnemonic != ZYDIS_MNEMONIC_LOOPE && insn->mnemonic != ZYDIS_MNEMONIC_LOOPNE &&
        insn->mnemonic != ZYDIS_MNEMONIC_JCXZ && insn->mnemonic != ZYDIS_MNEMONIC_JECXZ &&
        insn->mnemonic != ZYDIS_MNEMONIC_JRCXZ)
        return plain_branch(op) ? OP_JCC : OP_CALLOUT_END;
    if (insn->meta.category == ZYDIS_CATEGORY_NOP || insn->meta.category == ZYDIS_CATEGORY_WIDENOP ||
        insn->meta.category == ZYDIS_CATEGORY_PREFETCH)
        return OP_NOTHING;
    return is_identity(op) ? OP_IDENTITY : OP_CALLOUT;
}

/* Shifts by a count that may be 0 leave the flags alone then. */
static bool count_may_be_zero(const struct bt_op *op)
{
    const ZydisDecodedInstruction *insn = &op->z.insn;
    const ZydisDecodedOperand *count;

    if (insn->meta.category != ZYDIS_CATEGORY_SHIFT && insn->meta.category != ZYDIS_CATEGORY_ROTATE)
        return false;
    if (insn->operand_count_visible < 2)
        return false;
    count = &op->z.op[insn->operand_count_visible - 1];
    if (count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return true;
    return !(count->imm.value.u & (op->in->opsize == 8 ? 63 : 31));
}

/* Where the manuals leave flags undefined, most instructions compute them from their operands; these leave some as they
 * were (AMD's processors). */
static bool keeps_undefined(const struct bt_op *op)
{
    switch (op->in->mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_LZCNT:
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_TZCNT:
        return true;
    default:
        return false;
    }
}

static void look_at_flags(struct bt_op *op)
{
    const ZydisAccessedFlags *f = op->z.insn.cpu_flags;

    if (!f)
        return;
    op->flags_read = f->tested & FLAGS_STATUS;
    op->flags_written = (f->modified | f->set_0 | f->set_1 | f->undefined) & FLAGS_STATUS;
    op->flags_kept = keeps_undefined(op);
    op->flags_maybe = op->flags_written && count_may_be_zero(op);
}

void bt_op_analyse(struct bt_op *op, const struct x86_insn *in, enum x86_mode mode, const uint8_t *bytes)
{
    memset((char *)op + sizeof(op->z), 0, sizeof(*op) - sizeof(op->z));
    op->in = in;
    if (x86_insn_undefined(in) || !x86_zydis_decode(&op->z, mode, bytes, in->length)) {
        memset(&op->z, 0, sizeof(op->z));
        op->kind = OP_CALLOUT_END;
        return;
    }
    op->kind = (uint8_t)classify(op);
    look_at_flags(op);
    if ((op->kind == OP_CALLOUT || op->kind == OP_IDENTITY || op->kind == OP_NOTHING) && (in->flags & INSN_END))
        op->kind = OP_CALLOUT_END;
}
