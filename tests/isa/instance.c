/*
 * tests/isa/instance.c: concrete instructions of a form: registers, addressing
 * modes, immediates and meaningless prefixes are drawn at random around the
 * form's example; what decodes to the same form is taken.
 */
#include <string.h>

#include "isa.h"

#define TRIES 200

/* What an example consists of, taken apart. */
struct parts {
    uint8_t prefix[6], prefixes;
    bool rex, w;
    uint8_t opcode[3], opcode_length;
    uint8_t modrm;
    bool has_modrm;
    unsigned tail; /* bytes of immediates, or of a memory offset */
};

static bool encodes(const struct isa_insn *in, ZydisOperandEncoding encoding)
{
    for (unsigned i = 0; i < in->insn.operand_count; i++)
        if (in->op[i].encoding == encoding)
            return true;
    return false;
}

static const ZydisDecodedOperand *memory_operand(const struct isa_insn *in, bool explicit)
{
    for (unsigned i = 0; i < in->insn.operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (!explicit || in->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM))
            return &in->op[i];
    return NULL;
}

static void take_apart(struct parts *parts, const struct isa_insn *in)
{
    static const uint8_t escapes[4][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    static const uint8_t escape_length[4] = {0, 1, 2, 2};
    unsigned at = 0;
    unsigned map = in->insn.opcode_map & 3;

    memset(parts, 0, sizeof(*parts));
    while (strchr("\x66\x67\xf0\xf2\xf3", in->bytes[at]) && in->bytes[at])
        parts->prefix[parts->prefixes++] = in->bytes[at++];
    if (in->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        if (in->mode == MODE_LONG64 && (in->bytes[at] & 0xf0) == 0x40)
            parts->w = in->bytes[at] >> 3 & 1;
        memcpy(parts->opcode, escapes[map], 2);
        parts->opcode_length = escape_length[map];
    }
    parts->opcode[parts->opcode_length++] = in->insn.opcode;
    parts->has_modrm = in->insn.attributes & ZYDIS_ATTRIB_HAS_MODRM;
    parts->modrm = (uint8_t)(in->insn.raw.modrm.mod << 6 | in->insn.raw.modrm.reg << 3 | in->insn.raw.modrm.rm);
    parts->tail = (in->insn.raw.imm[0].size + in->insn.raw.imm[1].size) / 8u;
    if (!parts->has_modrm && in->insn.raw.disp.size)
        parts->tail = in->insn.raw.disp.size / 8u;
    if (encodes(in, ZYDIS_OPERAND_ENCODING_IS4))
        parts->tail = 1;
}

/* --- bytes ---------------------------------------------------------------------------- */

struct writer {
    uint8_t bytes[24];
    unsigned length;
};

static void put(struct writer *w, unsigned byte)
{
    if (w->length < sizeof(w->bytes))
        w->bytes[w->length++] = (uint8_t)byte;
}

static void put_random(struct writer *w, struct isa_rng *rng, unsigned n)
{
    while (n--)
        put(w, isa_pick(rng, 256));
}

static void put_prefixes(struct writer *w, const struct isa_form *form, const struct parts *parts, struct isa_rng *rng)
{
    static const uint8_t segments[] = {0x64, 0x65, 0x64, 0x65, 0x26, 0x2e, 0x36, 0x3e};

    if (memory_operand(&form->example, false) && isa_chance(rng, 12))
        put(w, segments[isa_pick(rng, sizeof(segments))]);
    if (memory_operand(&form->example, true) && isa_chance(rng, 10) && !memchr(parts->prefix, 0x67, parts->prefixes))
        put(w, 0x67);
    for (unsigned i = 0; i < parts->prefixes; i++)
        put(w, parts->prefix[i]);
    if (w->length >= 2 && isa_chance(rng, 30)) { /* their order means nothing */
        uint8_t first = w->bytes[0];

        w->bytes[0] = w->bytes[1];
        w->bytes[1] = first;
    }
}

static void put_vex(struct writer *w, const struct isa_form *form, struct isa_rng *rng)
{
    const struct isa_insn *in = &form->example;
    bool wide = in->mode == MODE_LONG64;
    unsigned rxb = wide ? isa_pick(rng, 8) : 7; /* inverted */
    unsigned vvvv = !encodes(in, ZYDIS_OPERAND_ENCODING_NDSNDD) && !encodes(in, ZYDIS_OPERAND_ENCODING_MASK) ? 15
                    : wide ? isa_pick(rng, 16)
                           : 8 | isa_pick(rng, 8);
    unsigned l = in->insn.raw.vex.L ^ isa_chance(rng, 20), vw = in->insn.raw.vex.W ^ isa_chance(rng, 20);
    unsigned low;

    /* In 32-bit code W is ignored, but for these, by vendor. */
    if (!wide && (in->insn.mnemonic == ZYDIS_MNEMONIC_VPEXTRD || in->insn.mnemonic == ZYDIS_MNEMONIC_VPINSRD))
        vw = 0;
    low = vvvv << 3 | l << 2 | in->insn.raw.vex.pp;

    if (in->insn.raw.vex.m_mmmm == 1 && !vw && (rxb & 3) == 3 && isa_chance(rng, 70)) {
        put(w, 0xc5);
        put(w, (rxb >> 2) << 7 | low);
    } else {
        put(w, 0xc4);
        put(w, rxb << 5 | in->insn.raw.vex.m_mmmm);
        put(w, vw << 7 | low);
    }
}

/* ModRM, SIB and displacement. */
static void put_modrm(struct writer *w, const struct isa_form *form, const struct parts *parts, struct isa_rng *rng)
{
    const struct isa_insn *in = &form->example;
    unsigned mod = parts->modrm >> 6, reg = parts->modrm >> 3 & 7, rm = parts->modrm & 7;
    bool vsib = false, a67 = memchr(w->bytes, 0x67, w->length);
    bool sixteen = in->mode == MODE_COMPAT32 ? a67 : in->mode == MODE_COMPAT16 ? !a67 : false;

    if (encodes(in, ZYDIS_OPERAND_ENCODING_MODRM_REG))
        reg = isa_pick(rng, 8);
    if (mod == 3) {
        if (encodes(in, ZYDIS_OPERAND_ENCODING_MODRM_RM))
            rm = isa_pick(rng, 8);
        put(w, 0xc0 | reg << 3 | rm);
        return;
    }
    for (unsigned i = 0; i < in->insn.operand_count; i++)
        vsib |= in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && in->op[i].mem.type != ZYDIS_MEMOP_TYPE_MEM &&
                in->op[i].mem.type != ZYDIS_MEMOP_TYPE_AGEN;
    mod = isa_pick(rng, 3);
    rm = vsib ? 4 : isa_pick(rng, 8);
    put(w, mod << 6 | reg << 3 | rm);
    if (sixteen) {
        if (mod == 1)
            put_random(w, rng, 1);
        else if (mod == 2 || rm == 6)
            put_random(w, rng, 2);
        return;
    }
    if (rm == 4) {
        unsigned sib = isa_pick(rng, 256);

        put(w, sib);
        rm = sib & 7;
    }
    if (mod == 1) {
        put_random(w, rng, 1);
    } else if (mod == 2 || rm == 5) {
        uint32_t disp = (uint32_t)isa_rand(rng);

        if (isa_chance(rng, 60)) /* small */
            disp = (uint32_t)((int32_t)disp >> (8 + isa_pick(rng, 20)));
        for (unsigned i = 0; i < 4; i++)
            put(w, disp >> 8 * i & 0xff);
    }
}

static void compose(struct writer *w, const struct isa_form *form, struct isa_rng *rng, unsigned index)
{
    const struct isa_insn *in = &form->example;
    struct parts parts;

    take_apart(&parts, in);
    memset(w, 0, sizeof(*w));
    put_prefixes(w, form, &parts, rng);
    if (in->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        put_vex(w, form, rng);
    } else if (in->mode == MODE_LONG64) {
        unsigned rex = 0x40 | (parts.w ^ isa_chance(rng, 10)) << 3 | isa_pick(rng, 8);

        if ((rex & 8) || isa_chance(rng, 60))
            put(w, rex);
    }
    if (encodes(in, ZYDIS_OPERAND_ENCODING_OPCODE))
        parts.opcode[parts.opcode_length - 1] =
            (uint8_t)((parts.opcode[parts.opcode_length - 1] & 0xf8) | isa_pick(rng, 8));
    for (unsigned i = 0; i < parts.opcode_length; i++)
        put(w, parts.opcode[i]);
    if (parts.has_modrm)
        put_modrm(w, form, &parts, rng);
    if (parts.tail == 1)
        put(w, index & 0xff);
    else
        put_random(w, rng, parts.tail);
}

/* --- what depends on the place -------------------------------------------------------- */

static void patch(struct isa_insn *in, unsigned at, unsigned bits, uint64_t value)
{
    for (unsigned i = 0; i < bits / 8; i++)
        in->bytes[at + i] = (uint8_t)(value >> 8 * i);
}

static void place(struct isa_insn *in, struct isa_rng *rng)
{
    const struct isa_window *code = &isa_windows[WINDOW_CODE];
    unsigned at;

    switch (isa_pick(rng, 8)) {
    case 0:
    case 1: /* ends with the window: the next byte is not mapped */
        at = code->pages * (unsigned)PAGE_SIZE - in->length;
        break;
    case 2: /* lies across two pages, or touches their edge */
        at = (unsigned)PAGE_SIZE - isa_pick(rng, in->length + 1u);
        break;
    default:
        at = isa_pick(rng, (unsigned)PAGE_SIZE * 2 - 32);
    }
    in->rip = code->lin + at;
}

/* Somewhere in the data window, or in the low one for 16-bit addresses. */
static uint64_t some_data(struct isa_rng *rng, bool low)
{
    const struct isa_window *window = &isa_windows[low ? WINDOW_LOW : WINDOW_DATA];
    uint64_t at = isa_rand(rng) % (window->pages * PAGE_SIZE - 64);

    return window->lin + (isa_chance(rng, 60) ? at & ~63ull : at);
}

static uint64_t some_code(const struct isa_insn *in, struct isa_rng *rng)
{
    const struct isa_window *code = &isa_windows[WINDOW_CODE];
    uint64_t target = code->lin + isa_rand(rng) % (code->pages * PAGE_SIZE);

    return target - in->rip < in->length ? in->rip + in->length : target; /* never into itself */
}

static void patch_branch(struct isa_insn *in, struct isa_rng *rng)
{
    unsigned bits = in->insn.raw.imm[0].size, at = in->insn.raw.imm[0].offset;
    uint64_t disp = some_code(in, rng) - in->rip - in->length;

    if (bits == 8) {
        disp = in->bytes[at];
        if (disp >= 256u - in->length)
            disp &= 0x7f;
    } else if (isa_chance(rng, 10)) {
        disp = (uint32_t)isa_rand(rng) & 0x7fffffff;
    }
    patch(in, at, bits, disp);
}

static void patch_pointer(struct isa_insn *in, struct isa_rng *rng)
{
    static const uint16_t selectors[] = {0x23, 0x23, 0x23, 0x33, 0x2b, 0, 3, 0xfff8};
    unsigned offset_bits = in->op[0].size - 16u, at = in->length - 2u;

    patch(in, at, 16, selectors[isa_pick(rng, ARRAY_SIZE(selectors))]);
    patch(in, at - offset_bits / 8, offset_bits, some_code(in, rng));
}

static void patch_operands(struct isa_insn *in, struct isa_rng *rng)
{
    for (unsigned i = 0; i < in->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &in->op[i];
        bool rip = op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;

        if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && op->imm.is_relative)
            patch_branch(in, rng);
        else if (op->type == ZYDIS_OPERAND_TYPE_POINTER)
            patch_pointer(in, rng);
        else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.index == ZYDIS_REGISTER_NONE &&
                 (rip || op->mem.base == ZYDIS_REGISTER_NONE) && in->insn.raw.disp.size)
            patch(in, in->insn.raw.disp.offset, in->insn.raw.disp.size,
                  some_data(rng, in->insn.raw.disp.size == 16) - (rip ? in->rip + in->length : 0));
    }
    if (in->insn.mnemonic == ZYDIS_MNEMONIC_ENTER && isa_chance(rng, 80)) { /* a frame that fits */
        in->bytes[in->length - 2] &= 1;
        in->bytes[in->length - 1] &= isa_chance(rng, 50) ? 0xe3 : 0xff;
    }
    /* INT 80h enters the host's kernel. */
    if (in->insn.mnemonic == ZYDIS_MNEMONIC_INT && in->bytes[in->length - 1] == 0x80)
        in->bytes[in->length - 1] = 0x81;
}

bool isa_make_instance(struct isa_insn *in, const struct isa_form *form, struct isa_rng *rng, unsigned index)
{
    struct writer w;
    char key[160];

    for (unsigned i = 0; i < TRIES; i++) {
        compose(&w, form, rng, index);
        if (!isa_decode(in, form->example.mode, w.bytes, MIN(w.length, 15u)) || in->length != w.length)
            continue;
        isa_key(in, key, sizeof(key));
        if (strcmp(key, form->name))
            continue;
        place(in, rng);
        patch_operands(in, rng);
        return isa_decode(in, form->example.mode, in->bytes, in->length);
    }
    return false;
}
