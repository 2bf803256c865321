/*
 * tests/isa/operands.c: what single instructions need to be interesting: code
 * addresses, selectors, counters, divisors, masks, images to restore.
 */
#include <string.h>

#include "builder.h"

/* --- code addresses and selectors ----------------------------------------------------- */

static uint64_t some_code(struct builder *b)
{
    const struct isa_window *code = &isa_windows[WINDOW_CODE];
    uint64_t target = code->lin + isa_rand(b->rng) % (code->pages * PAGE_SIZE);

    if (isa_chance(b->rng, 10))
        target = isa_chance(b->rng, 50) ? build_in_window(b, WINDOW_DATA, 16) : build_some_address(b, 16, false);
    return target - b->in->rip < b->in->length ? b->in->rip + b->in->length : target;
}

static uint16_t some_selector(struct builder *b)
{
    /* Any, but often one that can be loaded. */
    static const uint16_t selectors[] = {0x33, 0x33, 0x23, 0x23,   0x2b, 0x2b, 0x2b, 0,    1,
                                         3,    0x30, 0x20, 0x28,   0x10, 0x18, 0x08, 0x40, 0x50,
                                         0x63, 0x73, 0x83, 0xfff8, 0x07, 0x2f, 0x2a, 0x31};

    return isa_chance(b->rng, 45) ? 0x2b : selectors[isa_pick(b->rng, ARRAY_SIZE(selectors))];
}

/* Bytes of the offset in a far pointer in memory. AMD's processors know no 64-bit one. */
static unsigned far_offset_size(const ZydisDecodedOperand *op)
{
    return op->size == 80 && !isa_host_is_intel() ? 4 : op->size / 8u - 2;
}

/* What RET, RETF and IRET pop. */
static void return_operands(struct builder *b)
{
    const ZydisDecodedInstruction *insn = &b->in->insn;
    uint64_t lin = b->state->gpr[RSP] + build_segment_base(b->in, b->state, ZYDIS_REGISTER_SS);
    bool far = insn->opcode >= 0xca;
    unsigned size = insn->operand_width / 8u;

    lin = b->in->mode == MODE_LONG64 ? lin : (uint32_t)lin;
    for (unsigned i = 0; i < insn->operand_count && !far; i++)
        if (b->in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            size = b->in->op[i].size / 8u;
    build_poke64(b, lin, some_code(b), size);
    if (!far)
        return;
    build_poke64(b, lin + size, isa_chance(b->rng, 70) ? (isa_chance(b->rng, 70) ? 0x33 : 0x23) : some_selector(b),
                 size);
    if (insn->opcode != 0xcf)
        return;
    build_poke64(b, lin + 2 * size, isa_rand(b->rng) & 0x3f7eff, size);
    build_poke64(b, lin + 3 * size, isa_chance(b->rng, 50) ? build_in_window(b, WINDOW_STACK, 8) : isa_corner(b->rng),
                 size);
    build_poke64(b, lin + 4 * size, isa_chance(b->rng, 80) ? 0x2b : some_selector(b), size);
}

/* Operands that are code addresses or selectors. */
static void branch_operands(struct builder *b)
{
    const ZydisDecodedInstruction *insn = &b->in->insn;
    const ZydisDecodedOperand *op = &b->in->op[0];
    bool far = insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    unsigned size = insn->operand_width / 8u;

    if (insn->meta.category == ZYDIS_CATEGORY_RET) {
        return_operands(b);
        return;
    }
    if (insn->meta.category != ZYDIS_CATEGORY_CALL && insn->meta.category != ZYDIS_CATEGORY_UNCOND_BR)
        return;
    if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && !(b->pinned >> build_gpr_number(op->reg.value) & 1)) {
        build_set_register(b, op->reg.value, some_code(b));
    } else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        size = far ? far_offset_size(op) : op->size / 8u;
        build_poke64(b, build_linear(b, op), some_code(b), size);
        if (far)
            build_poke64(b, build_linear(b, op) + size,
                         isa_chance(b->rng, 70) ? (isa_chance(b->rng, 60) ? 0x33 : 0x23) : some_selector(b), 2);
    }
}

/* MOV Sreg, LDS and its kind, LAR, LSL, VERR, VERW, POP Sreg. The last entry of Linux's GDT holds the processor's
 * number: it is left alone. */
static void selector_operands(struct builder *b)
{
    const ZydisDecodedInstruction *insn = &b->in->insn;

    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *op = &b->in->op[i];

        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && build_gpr_number(op->reg.value) >= 0 &&
            (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) && !(b->pinned >> build_gpr_number(op->reg.value) & 1))
            b->state->gpr[build_gpr_number(op->reg.value)] =
                some_selector(b) | (isa_rand(b->rng) & 0xffff0000 & -(uint64_t)isa_chance(b->rng, 50));
        else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
            build_poke64(b,
                         build_linear(b, op) + (insn->meta.category == ZYDIS_CATEGORY_SEGOP ? far_offset_size(op) : 0),
                         some_selector(b), 2);
    }
}

/* --- single instructions ------------------------------------------------------------------ */

static void count_registers(struct builder *b)
{
    uint64_t count = isa_pick(b->rng, 24);

    if (isa_chance(b->rng, 15))
        count = isa_pick(b->rng, 400);
    else if (isa_chance(b->rng, 3))
        count = isa_corner(b->rng);
    b->state->gpr[RCX] = count;
    if (isa_chance(b->rng, 20) && b->in->insn.address_width == 32 && b->in->mode == MODE_LONG64)
        b->state->gpr[RCX] |= isa_rand(b->rng) << 32;
    if ((b->pinned >> RSI & 1) && isa_chance(b->rng, 15)) /* overlapping, or the same */
        b->state->gpr[RDI] = b->state->gpr[RSI] + isa_pick(b->rng, 9) - 4;
}

/* CMPXCHG: equal half of the time. */
static void compare_operands(struct builder *b)
{
    const ZydisDecodedOperand *op = &b->in->op[0];
    uint64_t pair[2] = {b->state->gpr[RAX], b->state->gpr[RDX]};

    if (isa_chance(b->rng, 50))
        return;
    if (op->size == 64 && b->in->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B)
        pair[0] = (uint32_t)pair[0] | pair[1] << 32;
    if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
        build_poke(b, build_linear(b, op), pair, MIN(op->size / 8u, 16u));
    else if (!(b->pinned >> build_gpr_number(op->reg.value) & 1))
        build_set_register(b, op->reg.value, pair[0]);
}

static void divide_operands(struct builder *b)
{
    unsigned bits = b->in->insn.operand_width;
    bool sign = b->in->insn.mnemonic == ZYDIS_MNEMONIC_IDIV;
    uint64_t rax = b->state->gpr[RAX], high;

    if (isa_chance(b->rng, 30))
        return;
    high = sign ? (uint64_t)((int64_t)(rax << (64 - bits)) >> 63) : 0;
    if (isa_chance(b->rng, 30))
        high += isa_pick(b->rng, 4);
    if (bits == 8)
        b->state->gpr[RAX] = (rax & ~0xff00ull) | (high & 0xff) << 8;
    else if (!(b->pinned >> RDX & 1))
        b->state->gpr[RDX] = bits == 64 || b->in->mode == MODE_LONG64 ? high : (uint32_t)high;
}

static void bit_operands(struct builder *b)
{
    const ZydisDecodedOperand *op = &b->in->op[1];
    int64_t offset = (int64_t)isa_rand(b->rng) >> (52 + isa_pick(b->rng, 4));

    if (b->in->op[0].type != ZYDIS_OPERAND_TYPE_MEMORY || op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
        (b->pinned >> build_gpr_number(op->reg.value) & 1) || isa_chance(b->rng, 5))
        return;
    if (b->in->mode != MODE_LONG64)
        offset = (uint32_t)offset;
    build_set_register(b, op->reg.value, (uint64_t)offset);
}

static void gather_operands(struct builder *b)
{
    const ZydisDecodedOperand *op = &b->in->op[1];
    ZydisMnemonic m = b->in->insn.mnemonic;
    bool dword = m == ZYDIS_MNEMONIC_VPGATHERDD || m == ZYDIS_MNEMONIC_VPGATHERDQ || m == ZYDIS_MNEMONIC_VGATHERDPS ||
                 m == ZYDIS_MNEMONIC_VGATHERDPD;
    unsigned index = (unsigned)ZydisRegisterGetId(op->mem.index) & 15;
    uint64_t disp = build_displacement(op);
    uint64_t middle = isa_windows[WINDOW_DATA].lin + PAGE_SIZE;
    unsigned scale = op->mem.scale ? op->mem.scale : 1;
    int base = build_gpr_number(op->mem.base);

    b->state->fpu.xstate_bv = 7;
    for (unsigned i = 0; i < 8; i++) {
        int64_t element = (int64_t)(isa_pick(b->rng, 4000) / scale);
        uint8_t *half = i < 4 ? b->state->fpu.xmm[index] : b->state->fpu.ymm_high[index];
        unsigned at = (i & 3) * 4;

        if (base < 0)
            element += (int64_t)(middle - disp) / scale;
        if (isa_chance(b->rng, 1))
            element = (int32_t)isa_rand(b->rng);
        if (dword)
            memcpy(half + at, &element, 4);
        else if (!(i & 1))
            memcpy(half + at, &element, 8);
    }
    if (base >= 0)
        build_set_register(b, op->mem.base, middle - disp - build_segment_base(b->in, b->state, op->mem.segment));
}

/* An image for FXRSTOR, XRSTOR, FRSTOR, FLDENV at their operand; also what XSAVE finds in the header. */
static void image_operands(struct builder *b)
{
    const ZydisDecodedOperand *op = &b->in->op[0];
    uint64_t lin = build_linear(b, op);
    struct x86_fpu image;
    uint32_t environment[7] = {0};

    isa_fill_fpu(&image, b->rng);
    if (op->size <= 108 * 8) { /* FNSTENV's and FNSAVE's formats: 14 or 28 bytes, then the stack */
        unsigned width = op->size == 112 || op->size == 752 ? 2 : 4;

        environment[0] = image.fcw;
        environment[1] = image.fsw;
        environment[2] = isa_chance(b->rng, 50) ? 0 : (uint16_t)isa_rand(b->rng);
        for (unsigned i = 0; i < 7; i++)
            build_poke64(b, lin + i * width, environment[i] | (width == 4 ? 0xffff0000u & -(i < 3u) : 0), width);
        for (unsigned i = 0; i < 8 && op->size > 224; i++)
            build_poke(b, lin + 7 * width + 10 * i, image.st[i], 10);
        return;
    }
    if (isa_chance(b->rng, 5))
        image.mxcsr ^= (1u << isa_pick(b->rng, 32)) & ~(1u << 17); /* misaligned SSE: only hosts have it */
    image.xstate_bv = isa_chance(b->rng, 60) ? 7 : isa_pick(b->rng, 8);
    if (isa_chance(b->rng, 10))
        image.xcomp_bv = 1ull << 63 | (isa_chance(b->rng, 70) ? 7 : image.xstate_bv);
    if (isa_chance(b->rng, 3))
        image.xstate_bv |= 1ull << 11; /* reserved */
    if (isa_chance(b->rng, 3))
        image.reserved2[isa_pick(b->rng, 48)] = 1;
    build_poke(b, lin, &image, sizeof(image));
    b->state->gpr[RAX] =
        isa_chance(b->rng, 60) ? 7 : (uint32_t)isa_rand(b->rng) & ~0x2e0u; /* not what only hosts have */
    if (b->pinned >> RAX & 1)
        build_aim(b, op, lin);
    else
        b->state->gpr[RDX] = b->pinned >> RDX & 1 ? b->state->gpr[RDX] : 0;
}

static void bound_operands(struct builder *b)
{
    const ZydisDecodedOperand *op = &b->in->op[1];
    unsigned size = op->size / 16u;
    uint64_t value = build_reg_value(b, b->in->op[0].reg.value);

    if (isa_chance(b->rng, 30))
        return;
    build_poke64(b, build_linear(b, op), value - isa_pick(b->rng, 3), size);
    build_poke64(b, build_linear(b, op) + size, value + isa_pick(b->rng, 3), size);
}

void build_special_operands(struct builder *b)
{
    const ZydisDecodedInstruction *insn = &b->in->insn;

    branch_operands(b);
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        compare_operands(b);
        break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        divide_operands(b);
        break;
    case ZYDIS_MNEMONIC_ENTER: /* the outer frames */
        if (isa_chance(b->rng, 80))
            b->state->gpr[RBP] = build_in_window(b, WINDOW_STACK, 16);
        break;
    case ZYDIS_MNEMONIC_BOUND:
        bound_operands(b);
        break;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        /* Reserved bits sometimes, but not misaligned SSE's, which only hosts have. */
        build_poke64(b, build_linear(b, &b->in->op[0]),
                     isa_rand(b->rng) & (isa_chance(b->rng, 80) ? 0xffff : 0xfffdffff), 4);
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        bit_operands(b);
        break;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
        image_operands(b);
        break;
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
        selector_operands(b);
        break;
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_POP:
        if (b->in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(b->in->op[0].reg.value) == ZYDIS_REGCLASS_SEGMENT)
            selector_operands(b);
        break;
    default:
        if (insn->meta.category == ZYDIS_CATEGORY_AVX2GATHER)
            gather_operands(b);
        else if (insn->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
            count_registers(b);
        else if (isa_chance(b->rng, 50) && !(b->pinned >> RCX & 1)) /* shift and loop counts */
            b->state->gpr[RCX] = (b->state->gpr[RCX] & ~0xffull) | isa_pick(b->rng, 70);
    }
}
