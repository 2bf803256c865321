/*
 * tests/isa/states.c: a processor state for an instruction: registers at
 * random, then addresses solved so that memory operands mostly fall into the
 * windows (at their edges too), then what single instructions need to be
 * interesting (counters, divisors, masks, images to restore).
 */
#include <string.h>

#include "values.h"

struct builder {
    struct isa_state *state;
    struct isa_memory *memory;
    const struct isa_insn *in;
    struct isa_rng *rng;
    uint16_t pinned; /* registers that hold an address already */
};

const struct isa_window isa_windows[WINDOWS] = {
    [WINDOW_CODE] = {0x10001000, 2, 2},
    [WINDOW_LOW] = {0x8000, 1, 0},
    [WINDOW_DATA] = {0x20001000, 4, 1},
    [WINDOW_STACK] = {0x30001000, 2, 0},
};

int isa_page_of(uint64_t lin)
{
    int page = 0;

    for (unsigned i = 0; i < WINDOWS; i++) {
        if (lin - isa_windows[i].lin < isa_windows[i].pages * PAGE_SIZE)
            return page + (int)((lin - isa_windows[i].lin) >> PAGE_SHIFT);
        page += (int)isa_windows[i].pages;
    }
    return -1;
}

void isa_fill_memory(struct isa_memory *memory, struct isa_rng *rng)
{
    for (unsigned page = 2; page < ISA_PAGES; page++)
        for (unsigned at = 0; at < PAGE_SIZE; at += 64)
            isa_fill(memory->page[page] + at, 64, rng);
}

/* Writes to the windows' initial content; what falls outside is dropped. */
static void poke(struct builder *b, uint64_t lin, const void *data, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        int page = isa_page_of(lin + i);

        if (page >= 2)
            b->memory->page[page][(lin + i) & ~PAGE_MASK] = ((const uint8_t *)data)[i];
    }
}

static void poke64(struct builder *b, uint64_t lin, uint64_t value, unsigned size)
{
    poke(b, lin, &value, MIN(size, 8));
}

/* --- registers ------------------------------------------------------------------------ */

/* Number of a general-purpose register, any width; -1: it is none. */
static int gpr_number(ZydisRegister reg)
{
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);

    if (class < ZYDIS_REGCLASS_GPR8 || class > ZYDIS_REGCLASS_GPR64)
        return -1;
    return whole - ZYDIS_REGISTER_RAX;
}

static bool is_high_byte(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

static void set_register(struct builder *b, ZydisRegister reg, uint64_t value)
{
    int n = gpr_number(reg);
    uint64_t *gpr = &b->state->gpr[n];

    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
        memcpy((uint8_t *)gpr + is_high_byte(reg), &value, 1);
        break;
    case ZYDIS_REGCLASS_GPR16:
        memcpy(gpr, &value, 2);
        break;
    case ZYDIS_REGCLASS_GPR32: /* what 32-bit addresses ignore stays as it was */
        memcpy(gpr, &value, 4);
        break;
    default:
        *gpr = value;
    }
}

static uint64_t get_register(const struct isa_insn *in, const struct isa_state *state, ZydisRegister reg)
{
    int n = gpr_number(reg);
    uint64_t value;

    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return in->rip + in->length;
    if (n < 0)
        return 0;
    value = state->gpr[n];
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
        return value >> 8 * is_high_byte(reg) & 0xff;
    case ZYDIS_REGCLASS_GPR16:
        return (uint16_t)value;
    case ZYDIS_REGCLASS_GPR32:
        return (uint32_t)value;
    default:
        return value;
    }
}

static void random_registers(struct builder *b)
{
    struct isa_state *s = b->state;

    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = isa_corner(b->rng);
    if (isa_chance(b->rng, 15))
        s->gpr[isa_pick(b->rng, 16)] = s->gpr[isa_pick(b->rng, 16)];
    s->fs_base = isa_chance(b->rng, 50) ? isa_rand(b->rng) >> 20 & 0xffff : isa_rand(b->rng) >> 18;
    s->gs_base = isa_chance(b->rng, 50) ? isa_rand(b->rng) >> 20 & 0xffff : isa_rand(b->rng) >> 18;
    if (isa_chance(b->rng, 20))
        s->fs_base = -(s->fs_base & 0xffff); /* wraps */
}

/* --- addresses -------------------------------------------------------------------------- */

static uint64_t in_window(struct builder *b, enum isa_window_kind kind, unsigned size)
{
    const struct isa_window *w = &isa_windows[kind];
    uint64_t bytes = w->pages * PAGE_SIZE, writable = bytes - w->readonly * PAGE_SIZE;
    uint64_t r = isa_rand(b->rng) >> 16;
    unsigned way = isa_pick(b->rng, 100);

    size = MAX(1u, MIN(size, 1024u));
    if (kind == WINDOW_CODE)
        writable = bytes;
    if (way < 62 || (size > 64 && way < 85)) /* images must be aligned */
        return w->lin + (r % (writable - size) & ~63ull);
    if (way < 75)
        return w->lin + r % (writable - size);
    if (way < 84) /* across an edge of two pages */
        return w->lin + (w->pages > 2 ? 1 + (r & 1) : 1) * PAGE_SIZE - 1 - (r >> 8) % size;
    if (way < 87) /* across the end of what can be written, or just before it */
        return w->lin + writable - 1 - (r >> 8) % (size + 1);
    if (way < 89) /* the last page, and what follows */
        return w->lin + bytes - 1 - (r >> 8) % (2 * size);
    if (way < 90)
        return w->lin - 1 - (r >> 8) % (size + 1);
    return w->lin + (r % (writable - size) & ~15ull);
}

static uint64_t some_address(struct builder *b, unsigned size, bool low)
{
    static const uint64_t odd[] = {0,
                                   0x1000,
                                   0x7ffffffffffc,
                                   0x800000000000,
                                   0x7fff00000000,
                                   0x1234567812345678,
                                   0xffff7fffffffffff,
                                   0x12340000000000};

    if (low)
        return in_window(b, WINDOW_LOW, size);
    switch (isa_pick(b->rng, 60)) {
    case 0:
        return odd[isa_pick(b->rng, ARRAY_SIZE(odd))];
    case 1:
        return in_window(b, WINDOW_CODE, size);
    case 2:
        return in_window(b, WINDOW_STACK, size);
    default:
        return in_window(b, WINDOW_DATA, size);
    }
}

static uint64_t segment_base(const struct isa_insn *in, const struct isa_state *state, ZydisRegister segment)
{
    uint64_t base = segment == ZYDIS_REGISTER_FS ? state->fs_base : segment == ZYDIS_REGISTER_GS ? state->gs_base : 0;

    return in->mode == MODE_LONG64 ? base : (uint32_t)base;
}

static unsigned address_bits(const struct isa_insn *in, const ZydisDecodedOperand *op)
{
    ZydisRegister reg = op->mem.base != ZYDIS_REGISTER_NONE ? op->mem.base : op->mem.index;
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);

    if (reg == ZYDIS_REGISTER_NONE || reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP ||
        class > ZYDIS_REGCLASS_GPR64)
        return in->insn.address_width;
    return class == ZYDIS_REGCLASS_GPR16 ? 16 : class == ZYDIS_REGCLASS_GPR32 ? 32 : 64;
}

static uint64_t truncate_to(uint64_t value, unsigned bits)
{
    return bits == 16 ? (uint16_t)value : bits == 32 ? (uint32_t)value : value;
}

static uint64_t displacement(const ZydisDecodedOperand *op)
{
    return op->mem.disp.has_displacement ? (uint64_t)op->mem.disp.value : 0;
}

uint64_t isa_linear(const struct isa_insn *in, const struct isa_state *state, const ZydisDecodedOperand *op)
{
    uint64_t ea = get_register(in, state, op->mem.base) + displacement(op);

    if (gpr_number(op->mem.index) >= 0)
        ea += get_register(in, state, op->mem.index) * op->mem.scale;
    ea = segment_base(in, state, op->mem.segment) + truncate_to(ea, address_bits(in, op));
    return in->mode == MODE_LONG64 ? ea : (uint32_t)ea;
}

static uint64_t linear(const struct builder *b, const ZydisDecodedOperand *op)
{
    return isa_linear(b->in, b->state, op);
}

static uint64_t reg_value(const struct builder *b, ZydisRegister reg)
{
    return get_register(b->in, b->state, reg);
}

/* Sets base and index so that the operand lies at target. */
static void aim(struct builder *b, const ZydisDecodedOperand *op, uint64_t target)
{
    int base = gpr_number(op->mem.base), index = gpr_number(op->mem.index);
    bool base_free = base >= 0 && !(b->pinned >> base & 1), index_free = index >= 0 && !(b->pinned >> index & 1);
    uint64_t scale = op->mem.scale ? op->mem.scale : 1;
    uint64_t rest = target - segment_base(b->in, b->state, op->mem.segment) - displacement(op);

    if (base_free && base == index) {
        set_register(b, op->mem.base, truncate_to(rest, address_bits(b->in, op)) / (scale + 1));
    } else if (base_free) {
        if (index_free && isa_chance(b->rng, 70))
            set_register(b, op->mem.index, (uint64_t)((int64_t)isa_rand(b->rng) >> (40 + isa_pick(b->rng, 24))));
        set_register(b, op->mem.base, rest - (index >= 0 ? reg_value(b, op->mem.index) * scale : 0));
    } else if (index_free) {
        set_register(b, op->mem.index, truncate_to(rest - reg_value(b, op->mem.base), address_bits(b->in, op)) / scale);
    } else if (op->mem.segment == ZYDIS_REGISTER_FS && base < 0) {
        b->state->fs_base = rest - reg_value(b, op->mem.base) + b->state->fs_base;
    } else if (op->mem.segment == ZYDIS_REGISTER_GS && base < 0) {
        b->state->gs_base = rest - reg_value(b, op->mem.base) + b->state->gs_base;
    }
    if (base >= 0)
        b->pinned |= (uint16_t)(1u << base);
    if (index >= 0)
        b->pinned |= (uint16_t)(1u << index);
}

/* As aim(), for an operand whose registers were set by it. */
static void aim_again(struct builder *b, const ZydisDecodedOperand *op, uint64_t target)
{
    int base = gpr_number(op->mem.base), index = gpr_number(op->mem.index);

    b->state->fs_base &= 0xffff;
    b->state->gs_base &= 0xffff;
    b->pinned &= (uint16_t) ~((base >= 0 ? 1u << base : 0) | (index >= 0 ? 1u << index : 0));
    aim(b, op, target);
}

static bool is_stack(const ZydisDecodedOperand *op)
{
    int n = op->mem.base - ZYDIS_REGISTER_RSP, m = op->mem.base - ZYDIS_REGISTER_ESP,
        k = op->mem.base - ZYDIS_REGISTER_SP;

    return op->mem.segment == ZYDIS_REGISTER_SS && (n == 0 || n == 1 || m == 0 || m == 1 || k == 0 || k == 1) &&
           op->encoding == ZYDIS_OPERAND_ENCODING_NONE;
}

static void fill_operand(struct builder *b, const ZydisDecodedOperand *op, uint64_t lin)
{
    unsigned size = MIN(op->size / 8u, 64u);
    uint8_t data[64];

    if (op->element_type == ZYDIS_ELEMENT_TYPE_FLOAT80)
        isa_f80(data, b->rng);
    else if (size <= 8 && op->element_type != ZYDIS_ELEMENT_TYPE_FLOAT32 &&
             op->element_type != ZYDIS_ELEMENT_TYPE_FLOAT64)
        memcpy(data, (uint64_t[]){isa_corner(b->rng)}, 8);
    else
        isa_fill(data, sizeof(data), b->rng);
    poke(b, lin, data, size);
}

static void aim_operands(struct builder *b)
{
    for (unsigned i = 0; i < b->in->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &b->in->op[i];
        unsigned size = op->size / 8u;
        bool low;

        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        low = address_bits(b->in, op) == 16 && !is_stack(op);
        aim(b, op, is_stack(op) ? in_window(b, WINDOW_STACK, size) : some_address(b, size, low));
        /* An offset that is not canonical, but with the segment's base is: processors differ. */
        if (op->mem.segment >= ZYDIS_REGISTER_FS && linear(b, op) >> 40)
            aim_again(b, op, in_window(b, low ? WINDOW_LOW : WINDOW_DATA, size));
        if (isa_chance(b->rng, 70))
            fill_operand(b, op, linear(b, op));
    }
}

/* --- code addresses and selectors ----------------------------------------------------- */

static uint64_t some_code(struct builder *b)
{
    const struct isa_window *code = &isa_windows[WINDOW_CODE];
    uint64_t target = code->lin + isa_rand(b->rng) % (code->pages * PAGE_SIZE);

    if (isa_chance(b->rng, 10))
        target = isa_chance(b->rng, 50) ? in_window(b, WINDOW_DATA, 16) : some_address(b, 16, false);
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
    uint64_t lin = b->in->mode == MODE_LONG64 ? b->state->gpr[RSP] : (uint32_t)b->state->gpr[RSP];
    bool far = insn->opcode >= 0xca;
    unsigned size = insn->operand_width / 8u;

    for (unsigned i = 0; i < insn->operand_count && !far; i++)
        if (b->in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            size = b->in->op[i].size / 8u;
    poke64(b, lin, some_code(b), size);
    if (!far)
        return;
    poke64(b, lin + size, isa_chance(b->rng, 70) ? (isa_chance(b->rng, 70) ? 0x33 : 0x23) : some_selector(b), size);
    if (insn->opcode != 0xcf)
        return;
    poke64(b, lin + 2 * size, isa_rand(b->rng) & 0x3f7eff, size);
    poke64(b, lin + 3 * size, isa_chance(b->rng, 50) ? in_window(b, WINDOW_STACK, 8) : isa_corner(b->rng), size);
    poke64(b, lin + 4 * size, isa_chance(b->rng, 80) ? 0x2b : some_selector(b), size);
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
    if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && !(b->pinned >> gpr_number(op->reg.value) & 1)) {
        set_register(b, op->reg.value, some_code(b));
    } else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        size = far ? far_offset_size(op) : op->size / 8u;
        poke64(b, linear(b, op), some_code(b), size);
        if (far)
            poke64(b, linear(b, op) + size,
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

        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_number(op->reg.value) >= 0 &&
            (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) && !(b->pinned >> gpr_number(op->reg.value) & 1))
            b->state->gpr[gpr_number(op->reg.value)] =
                some_selector(b) | (isa_rand(b->rng) & 0xffff0000 & -(uint64_t)isa_chance(b->rng, 50));
        else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
            poke64(b, linear(b, op) + (insn->meta.category == ZYDIS_CATEGORY_SEGOP ? far_offset_size(op) : 0),
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
        poke(b, linear(b, op), pair, MIN(op->size / 8u, 16u));
    else if (!(b->pinned >> gpr_number(op->reg.value) & 1))
        set_register(b, op->reg.value, pair[0]);
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
        (b->pinned >> gpr_number(op->reg.value) & 1) || isa_chance(b->rng, 5))
        return;
    if (b->in->mode != MODE_LONG64)
        offset = (uint32_t)offset;
    set_register(b, op->reg.value, (uint64_t)offset);
}

static void gather_operands(struct builder *b)
{
    const ZydisDecodedOperand *op = &b->in->op[1];
    ZydisMnemonic m = b->in->insn.mnemonic;
    bool dword = m == ZYDIS_MNEMONIC_VPGATHERDD || m == ZYDIS_MNEMONIC_VPGATHERDQ || m == ZYDIS_MNEMONIC_VGATHERDPS ||
                 m == ZYDIS_MNEMONIC_VGATHERDPD;
    unsigned index = (unsigned)ZydisRegisterGetId(op->mem.index) & 15;
    uint64_t disp = displacement(op);
    uint64_t middle = isa_windows[WINDOW_DATA].lin + PAGE_SIZE;
    unsigned scale = op->mem.scale ? op->mem.scale : 1;
    int base = gpr_number(op->mem.base);

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
        set_register(b, op->mem.base, middle - disp - segment_base(b->in, b->state, op->mem.segment));
}

/* An image for FXRSTOR, XRSTOR, FRSTOR, FLDENV at their operand; also what XSAVE finds in the header. */
static void image_operands(struct builder *b)
{
    const ZydisDecodedOperand *op = &b->in->op[0];
    uint64_t lin = linear(b, op);
    struct x86_fpu image;
    uint32_t environment[7] = {0};

    isa_fill_fpu(&image, b->rng);
    if (op->size <= 108 * 8) { /* FNSTENV's and FNSAVE's formats: 14 or 28 bytes, then the stack */
        unsigned width = op->size == 112 || op->size == 752 ? 2 : 4;

        environment[0] = image.fcw;
        environment[1] = image.fsw;
        environment[2] = isa_chance(b->rng, 50) ? 0 : (uint16_t)isa_rand(b->rng);
        for (unsigned i = 0; i < 7; i++)
            poke64(b, lin + i * width, environment[i] | (width == 4 ? 0xffff0000u & -(i < 3u) : 0), width);
        for (unsigned i = 0; i < 8 && op->size > 224; i++)
            poke(b, lin + 7 * width + 10 * i, image.st[i], 10);
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
    poke(b, lin, &image, sizeof(image));
    b->state->gpr[RAX] =
        isa_chance(b->rng, 60) ? 7 : (uint32_t)isa_rand(b->rng) & ~0x2e0u; /* not what only hosts have */
    if (b->pinned >> RAX & 1)
        aim(b, op, lin);
    else
        b->state->gpr[RDX] = b->pinned >> RDX & 1 ? b->state->gpr[RDX] : 0;
}

static void bound_operands(struct builder *b)
{
    const ZydisDecodedOperand *op = &b->in->op[1];
    unsigned size = op->size / 16u;
    uint64_t value = reg_value(b, b->in->op[0].reg.value);

    if (isa_chance(b->rng, 30))
        return;
    poke64(b, linear(b, op), value - isa_pick(b->rng, 3), size);
    poke64(b, linear(b, op) + size, value + isa_pick(b->rng, 3), size);
}

static void special_operands(struct builder *b)
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
            b->state->gpr[RBP] = in_window(b, WINDOW_STACK, 16);
        break;
    case ZYDIS_MNEMONIC_BOUND:
        bound_operands(b);
        break;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        /* Reserved bits sometimes, but not misaligned SSE's, which only hosts have. */
        poke64(b, linear(b, &b->in->op[0]), isa_rand(b->rng) & (isa_chance(b->rng, 80) ? 0xffff : 0xfffdffff), 4);
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

static void random_flags(struct builder *b, uint64_t extra)
{
    uint64_t status = isa_rand(b->rng) & FLAGS_STATUS;
    bool string = b->in->insn.meta.category == ZYDIS_CATEGORY_STRINGOP;

    b->state->rflags = status | FLAG_FIXED | FLAG_IF | (isa_chance(b->rng, string ? 30 : 8) ? FLAG_DF : 0) |
                       (isa_chance(b->rng, 4) ? FLAG_AC & extra : 0) | (isa_chance(b->rng, 10) ? FLAG_TF & extra : 0);
}

void isa_make_state(struct isa_state *state, struct isa_memory *memory, const struct isa_insn *in, struct isa_rng *rng,
                    uint64_t extra)
{
    struct builder b = {.state = state, .memory = memory, .in = in, .rng = rng};

    memset(state, 0, sizeof(*state));
    isa_fill_fpu(&state->fpu, rng);
    random_registers(&b);
    random_flags(&b, extra);
    state->rip = in->rip;
    aim_operands(&b);
    special_operands(&b);
    state->fs_base = (uint64_t)((int64_t)(state->fs_base << 16) >> 16); /* WRFSBASE takes no other */
    state->gs_base = (uint64_t)((int64_t)(state->gs_base << 16) >> 16);
    if (in->mode != MODE_LONG64) /* upper halves are undefined after a switch of modes */
        for (unsigned i = 0; i < 8; i++)
            state->gpr[i] = (uint32_t)state->gpr[i];
}
