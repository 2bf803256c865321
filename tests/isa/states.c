/*
 * tests/isa/states.c: a processor state for an instruction: registers at
 * random, then addresses solved so that memory operands mostly fall into the
 * windows (at their edges too), then what operands.c adds.
 */
#include <string.h>

#include "builder.h"

const struct isa_window isa_windows[WINDOWS] = {
    [WINDOW_CODE] = {0x10001000, 2, 2},
    [WINDOW_LOW] = {0x8000, 1, 0},
    [WINDOW_DATA] = {0x20001000, 4, 1},
    [WINDOW_STACK] = {0x30001000, 2, 0},
};

/* Code of 16 bits; then data: with a base; with a limit within the data; expand-down, without the first page of data;
 * read-only; with a limit within the stack. */
const struct isa_segment isa_ldt[ISA_LDT] = {
    {0, 0xffffffff, 0x80fb},      {0x12345678, 0xffffffff, 0xc0f3}, {0x1fff0123, 0x13012, 0x40f3},
    {0x1fffe000, 0x3fff, 0xc0f7}, {0x20000100, 0x7fffff, 0xc0f1},   {0x30000ffb, 0x1234, 0x40f3},
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

void build_poke(struct builder *b, uint64_t lin, const void *data, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        int page = isa_page_of(lin + i);

        if (page >= 2)
            b->memory->page[page][(lin + i) & ~PAGE_MASK] = ((const uint8_t *)data)[i];
    }
}

void build_poke64(struct builder *b, uint64_t lin, uint64_t value, unsigned size)
{
    build_poke(b, lin, &value, MIN(size, 8));
}

/* --- registers ------------------------------------------------------------------------ */

int build_gpr_number(ZydisRegister reg)
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

void build_set_register(struct builder *b, ZydisRegister reg, uint64_t value)
{
    int n = build_gpr_number(reg);
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
    int n = build_gpr_number(reg);
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

uint64_t build_in_window(struct builder *b, enum isa_window_kind kind, unsigned size)
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

uint64_t build_some_address(struct builder *b, unsigned size, bool low)
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
        return build_in_window(b, WINDOW_LOW, size);
    switch (isa_pick(b->rng, 60)) {
    case 0:
        return odd[isa_pick(b->rng, ARRAY_SIZE(odd))];
    case 1:
        return build_in_window(b, WINDOW_CODE, size);
    case 2:
        return build_in_window(b, WINDOW_STACK, size);
    default:
        return build_in_window(b, WINDOW_DATA, size);
    }
}

uint64_t build_segment_base(const struct isa_insn *in, const struct isa_state *state, ZydisRegister segment)
{
    uint64_t base = segment == ZYDIS_REGISTER_FS ? state->fs_base : segment == ZYDIS_REGISTER_GS ? state->gs_base : 0;

    if (segment >= ZYDIS_REGISTER_ES && segment <= ZYDIS_REGISTER_DS) { /* in the order of enum x86_seg */
        const unsigned entry = state->ldt[segment - ZYDIS_REGISTER_ES];

        return entry ? isa_ldt[entry].base : 0;
    }
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

uint64_t build_displacement(const ZydisDecodedOperand *op)
{
    return op->mem.disp.has_displacement ? (uint64_t)op->mem.disp.value : 0;
}

uint64_t isa_linear(const struct isa_insn *in, const struct isa_state *state, const ZydisDecodedOperand *op)
{
    uint64_t ea = get_register(in, state, op->mem.base) + build_displacement(op);

    if (build_gpr_number(op->mem.index) >= 0)
        ea += get_register(in, state, op->mem.index) * op->mem.scale;
    ea = build_segment_base(in, state, op->mem.segment) + truncate_to(ea, address_bits(in, op));
    return in->mode == MODE_LONG64 ? ea : (uint32_t)ea;
}

uint64_t build_linear(const struct builder *b, const ZydisDecodedOperand *op)
{
    return isa_linear(b->in, b->state, op);
}

uint64_t build_reg_value(const struct builder *b, ZydisRegister reg)
{
    return get_register(b->in, b->state, reg);
}

void build_aim(struct builder *b, const ZydisDecodedOperand *op, uint64_t target)
{
    int base = build_gpr_number(op->mem.base), index = build_gpr_number(op->mem.index);
    bool base_free = base >= 0 && !(b->pinned >> base & 1), index_free = index >= 0 && !(b->pinned >> index & 1);
    uint64_t scale = op->mem.scale ? op->mem.scale : 1;
    uint64_t rest = target - build_segment_base(b->in, b->state, op->mem.segment) - build_displacement(op);

    if (base_free && base == index) {
        build_set_register(b, op->mem.base, truncate_to(rest, address_bits(b->in, op)) / (scale + 1));
    } else if (base_free) {
        if (index_free && isa_chance(b->rng, 70))
            build_set_register(b, op->mem.index, (uint64_t)((int64_t)isa_rand(b->rng) >> (40 + isa_pick(b->rng, 24))));
        build_set_register(b, op->mem.base, rest - (index >= 0 ? build_reg_value(b, op->mem.index) * scale : 0));
    } else if (index_free) {
        build_set_register(b, op->mem.index,
                           truncate_to(rest - build_reg_value(b, op->mem.base), address_bits(b->in, op)) / scale);
    } else if (op->mem.segment == ZYDIS_REGISTER_FS && base < 0) {
        b->state->fs_base = rest - build_reg_value(b, op->mem.base) + b->state->fs_base;
    } else if (op->mem.segment == ZYDIS_REGISTER_GS && base < 0) {
        b->state->gs_base = rest - build_reg_value(b, op->mem.base) + b->state->gs_base;
    }
    if (base >= 0)
        b->pinned |= (uint16_t)(1u << base);
    if (index >= 0)
        b->pinned |= (uint16_t)(1u << index);
}

/* As build_aim(), for an operand whose registers were set by it. */
static void aim_again(struct builder *b, const ZydisDecodedOperand *op, uint64_t target)
{
    int base = build_gpr_number(op->mem.base), index = build_gpr_number(op->mem.index);

    b->state->fs_base &= 0xffff;
    b->state->gs_base &= 0xffff;
    b->pinned &= (uint16_t) ~((base >= 0 ? 1u << base : 0) | (index >= 0 ? 1u << index : 0));
    build_aim(b, op, target);
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
    build_poke(b, lin, data, size);
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
        build_aim(b, op, is_stack(op) ? build_in_window(b, WINDOW_STACK, size) : build_some_address(b, size, low));
        /* An offset that is not canonical, but with the segment's base is: processors differ. */
        if (op->mem.segment >= ZYDIS_REGISTER_FS && build_linear(b, op) >> 40)
            aim_again(b, op, build_in_window(b, low ? WINDOW_LOW : WINDOW_DATA, size));
        if (isa_chance(b->rng, 70))
            fill_operand(b, op, build_linear(b, op));
    }
}

/* Now and then 32-bit code gets segments that are not flat. Offsets of 16 bits would not reach the windows. */
static void random_segments(struct builder *b)
{
    static const uint8_t stacks[] = {1, 3, 5};

    if (b->in->mode != MODE_COMPAT32 || b->in->insn.address_width != 32 || !isa_native_ldt() || !isa_chance(b->rng, 35))
        return;
    if (isa_chance(b->rng, 70))
        b->state->ldt[SEG_DS] = (uint8_t)(1 + isa_pick(b->rng, 4));
    if (isa_chance(b->rng, 60))
        b->state->ldt[SEG_ES] = (uint8_t)(1 + isa_pick(b->rng, 4));
    if (isa_chance(b->rng, 60))
        b->state->ldt[SEG_SS] = stacks[isa_pick(b->rng, ARRAY_SIZE(stacks))];
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
    random_segments(&b);
    state->rip = in->rip;
    aim_operands(&b);
    build_special_operands(&b);
    state->fs_base = (uint64_t)((int64_t)(state->fs_base << 16) >> 16); /* WRFSBASE takes no other */
    state->gs_base = (uint64_t)((int64_t)(state->gs_base << 16) >> 16);
    if (in->mode != MODE_LONG64) /* upper halves are undefined after a switch of modes */
        for (unsigned i = 0; i < 8; i++)
            state->gpr[i] = (uint32_t)state->gpr[i];
}
