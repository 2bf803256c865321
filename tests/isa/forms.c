/*
 * tests/isa/forms.c: finds the instruction forms by walking the opcode space:
 * maps, prefixes, REX.W or VEX fields, ModRM.reg and rm. What decodes to
 * something new is a form.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cpuid.h>

#include "isa.h"

static ZydisDecoder decoders[MODE_LONG64 + 1];

bool isa_host_is_intel(void)
{
    unsigned eax, ebx, ecx, edx;

    return __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == 0x756e6547;
}

static void init_decoder(ZydisDecoder *decoder, ZydisMachineMode mode, ZydisStackWidth width)
{
    /* Extensions without which an encoding is a NOP, and that no engine offers. */
    static const ZydisDecoderMode off[] = {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE,
                                           ZYDIS_DECODER_MODE_WBNOINVD};

    ZydisDecoderInit(decoder, mode, width);
    for (unsigned i = 0; i < ARRAY_SIZE(off); i++)
        ZydisDecoderEnableMode(decoder, off[i], ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, !isa_host_is_intel());
}

static const ZydisDecoder *decoder_for(enum x86_mode mode)
{
    if (decoders[MODE_COMPAT16].machine_mode == decoders[MODE_COMPAT32].machine_mode) {
        init_decoder(&decoders[MODE_LONG64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        init_decoder(&decoders[MODE_COMPAT32], ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
        init_decoder(&decoders[MODE_COMPAT16], ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_32);
    }
    return &decoders[mode];
}

/* With mod = 0, a SIB base of 5 is no register whatever REX.B says; Zydis 4.0 says R13D under an address-size prefix.
 */
static void correct_base(struct isa_insn *in)
{
    const ZydisDecodedInstruction *insn = &in->insn;

    if (!(insn->attributes & ZYDIS_ATTRIB_HAS_SIB) || insn->raw.modrm.mod || insn->raw.sib.base != 5)
        return;
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && in->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
            in->op[i].mem.base = ZYDIS_REGISTER_NONE;
            in->op[i].mem.disp.has_displacement = ZYAN_TRUE;
            in->op[i].mem.disp.value = insn->raw.disp.value;
        }
}

bool isa_decode(struct isa_insn *in, enum x86_mode mode, const uint8_t *bytes, unsigned size)
{
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder_for(mode), bytes, size, &in->insn, in->op)))
        return false;
    memmove(in->bytes, bytes, in->insn.length);
    in->length = in->insn.length;
    in->mode = mode;
    correct_base(in);
    return true;
}

/* --- keys ------------------------------------------------------------------------------ */

struct text {
    char *s;
    unsigned size, length;
};

static void __attribute__((format(printf, 2, 3))) add(struct text *text, const char *fmt, ...)
{
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(text->s + text->length, text->size - text->length, fmt, args);
    va_end(args);
    if (n > 0)
        text->length = MIN(text->length + (unsigned)n, text->size - 1);
}

static bool encodes(const struct isa_insn *in, ZydisOperandEncoding encoding)
{
    for (unsigned i = 0; i < in->insn.operand_count; i++)
        if (in->op[i].encoding == encoding)
            return true;
    return false;
}

static void add_register(struct text *text, const ZydisDecodedOperand *op)
{
    static const char *const classes[] = {
        [ZYDIS_REGCLASS_GPR8] = "r8",       [ZYDIS_REGCLASS_GPR16] = "r16",  [ZYDIS_REGCLASS_GPR32] = "r32",
        [ZYDIS_REGCLASS_GPR64] = "r64",     [ZYDIS_REGCLASS_X87] = "st",     [ZYDIS_REGCLASS_MMX] = "mm",
        [ZYDIS_REGCLASS_XMM] = "xmm",       [ZYDIS_REGCLASS_YMM] = "ymm",    [ZYDIS_REGCLASS_SEGMENT] = "sreg",
        [ZYDIS_REGCLASS_CONTROL] = "creg",  [ZYDIS_REGCLASS_DEBUG] = "dreg", [ZYDIS_REGCLASS_MASK] = "k",
        [ZYDIS_REGCLASS_MAX_VALUE] = "bnd",
    };
    ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);

    if (op->encoding == ZYDIS_OPERAND_ENCODING_NONE)
        add(text, "%s", ZydisRegisterGetString(op->reg.value));
    else
        add(text, "%s", classes[class] ? classes[class] : "reg");
    if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) /* r, r/m and r/m, r are two forms */
        add(text, "/m");
}

static void add_operand(struct text *text, const ZydisDecodedOperand *op)
{
    switch (op->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        add_register(text, op);
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        add(text, "%s%u", op->mem.type == ZYDIS_MEMOP_TYPE_VSIB ? "vm" : "m", op->size);
        if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
            add(text, "%c", ZydisRegisterGetClass(op->mem.index) == ZYDIS_REGCLASS_XMM ? 'x' : 'y');
        if (op->encoding == ZYDIS_OPERAND_ENCODING_NONE)
            add(text, "[%s]", ZydisRegisterGetString(op->mem.base));
        else if (op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
            add(text, "offs");
        break;
    case ZYDIS_OPERAND_TYPE_POINTER:
        add(text, "ptr16:%u", op->size - 16);
        break;
    default:
        if (op->encoding == ZYDIS_OPERAND_ENCODING_NONE)
            add(text, "%u", (unsigned)op->imm.value.u);
        else
            add(text, "%s%u", op->imm.is_relative ? "rel" : "imm", op->size);
    }
}

/* Hidden operands that tell forms apart: stack slots, string elements, counters. */
static void add_hidden(struct text *text, const struct isa_insn *in)
{
    bool open = false;

    for (unsigned i = in->insn.operand_count_visible; i < in->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &in->op[i];
        bool gpr =
            op->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(op->reg.value) <= ZYDIS_REGCLASS_GPR64;

        if (!gpr && op->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        add(text, open ? " " : " (");
        open = true;
        add_operand(text, op);
    }
    if (open)
        add(text, ")");
}

static void add_opcode(struct text *text, const struct isa_insn *in)
{
    static const char *const maps[] = {"", "0F ", "0F38 ", "0F3A "};
    const ZydisDecodedInstruction *insn = &in->insn;
    bool vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    bool short_register = encodes(in, ZYDIS_OPERAND_ENCODING_OPCODE);

    add(text, " {%s%s", vex ? "VEX " : "", insn->opcode_map < ARRAY_SIZE(maps) ? maps[insn->opcode_map] : "map? ");
    add(text, "%02X%s", short_register ? insn->opcode & 0xf8 : insn->opcode, short_register ? "+r" : "");
    if (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
        if (!encodes(in, ZYDIS_OPERAND_ENCODING_MODRM_REG))
            add(text, "/%u", insn->raw.modrm.reg);
        if (insn->raw.modrm.mod == 3 && !encodes(in, ZYDIS_OPERAND_ENCODING_MODRM_RM))
            add(text, ".%u", insn->raw.modrm.rm);
    }
    add(text, "}");
}

void isa_key(const struct isa_insn *in, char *s, unsigned size)
{
    struct text text = {.s = s, .size = size};
    ZydisInstructionAttributes attributes = in->insn.attributes;

    *s = 0;
    if (in->mode != MODE_LONG64)
        add(&text, in->mode == MODE_COMPAT32 ? "32: " : "16: ");
    if (attributes & ZYDIS_ATTRIB_HAS_LOCK)
        add(&text, "lock ");
    if (attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        add(&text, "rep ");
    if (attributes & ZYDIS_ATTRIB_HAS_REPNE)
        add(&text, "repne ");
    add(&text, "%s", ZydisMnemonicGetString(in->insn.mnemonic));
    for (unsigned i = 0; i < in->insn.operand_count_visible; i++) {
        add(&text, i ? "," : " ");
        add_operand(&text, &in->op[i]);
    }
    add_hidden(&text, in);
    add_opcode(&text, in);
}

/* --- the walk ---------------------------------------------------------------------------- */

#define TABLE_BITS 16
struct walk {
    struct isa_forms *forms;
    enum x86_mode mode;
    uint32_t table[1 << TABLE_BITS]; /* form number + 1 by the hash of its key */
};

static uint32_t hash(const char *s)
{
    uint32_t h = 2166136261u;

    while (*s)
        h = (h ^ (uint8_t)*s++) * 16777619u;
    return h ^ h >> 15;
}

static void add_form(struct walk *walk, const struct isa_insn *in)
{
    struct isa_forms *forms = walk->forms;
    char key[160];
    uint32_t slot;

    isa_key(in, key, sizeof(key));
    for (slot = hash(key);; slot++) {
        slot &= ARRAY_SIZE(walk->table) - 1;
        if (!walk->table[slot])
            break;
        if (!strcmp(forms->form[walk->table[slot] - 1].name, key))
            return;
    }
    if (!(forms->count & (forms->count - 1)) || !forms->form) /* grows by doubling */
        forms->form = realloc(forms->form, sizeof(*forms->form) * MAX(forms->count * 2, 64));
    forms->form[forms->count] = (struct isa_form){.name = strdup(key), .example = *in, .reason = isa_reason(in)};
    walk->table[slot] = ++forms->count;
}

/* Decodes prefix bytes + tail and adds what comes out; false: undefined. */
static bool try_bytes(struct walk *walk, const uint8_t *prefix, unsigned prefixes, const uint8_t *tail,
                      struct isa_insn *in)
{
    uint8_t bytes[24] = {0};

    if (prefixes)
        memcpy(bytes, prefix, prefixes);
    memcpy(bytes + prefixes, tail, 8);
    if (!isa_decode(in, walk->mode, bytes, 15))
        return false;
    add_form(walk, in);
    return true;
}

/* One opcode with each ModRM that can matter. extra: legacy prefixes before it. */
static void walk_modrm(struct walk *walk, const uint8_t *prefix, unsigned prefixes, const uint8_t *opcode,
                       unsigned length)
{
    struct isa_insn in;
    uint8_t tail[16] = {0}, more[8];
    bool modrm;

    memcpy(tail, opcode, length);
    for (unsigned i = 0; i < 72; i++) {
        /* Registers: all 64; memory: each reg with [rax + rdx]. */
        tail[length] = (uint8_t)(i < 64 ? 0xc0 | i : (i - 64) << 3 | 4);
        tail[length + 1] = 0x10;
        if (prefixes)
            memcpy(more + 1, prefix, prefixes);
        more[0] = 0x67;
        if (!try_bytes(walk, prefix, prefixes, tail, &in)) {
            if (walk->mode == MODE_COMPAT16) /* vector indexes need a SIB byte */
                try_bytes(walk, more, prefixes + 1, tail, &in);
            continue;
        }
        modrm = in.insn.attributes & ZYDIS_ATTRIB_HAS_MODRM;
        if (in.insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
            try_bytes(walk, more, prefixes + 1, tail, &in);
            more[0] = 0xf0;
            try_bytes(walk, more, prefixes + 1, tail, &in);
        }
        if (!modrm)
            break;
    }
}

static bool is_prefix(const struct walk *walk, uint8_t opcode)
{
    static const uint8_t prefixes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x0f};

    for (unsigned i = 0; i < ARRAY_SIZE(prefixes); i++)
        if (opcode == prefixes[i])
            return true;
    return walk->mode == MODE_LONG64 && (opcode & 0xf0) == 0x40;
}

static void walk_legacy(struct walk *walk)
{
    static const struct {
        uint8_t bytes[2], count;
    } sets[] = {{{0}, 0}, {{0x66}, 1}, {{0xf3}, 1}, {{0xf2}, 1}, {{0x66, 0xf3}, 2}, {{0x66, 0xf2}, 2}};
    static const uint8_t escapes[4][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    static const unsigned escape_length[4] = {0, 1, 2, 2};

    for (unsigned map = 0; map < 4; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            uint8_t bytes[4];

            if ((map == 0 && is_prefix(walk, (uint8_t)opcode)) ||
                (map == 1 && (opcode == 0x38 || opcode == 0x3a || opcode == 0x0f)))
                continue;
            memcpy(bytes, escapes[map], 2);
            bytes[escape_length[map]] = (uint8_t)opcode;
            for (unsigned set = 0; set < ARRAY_SIZE(sets); set++)
                for (unsigned w = 0; w < (walk->mode == MODE_LONG64 ? 2 : 1); w++) {
                    uint8_t prefix[4];
                    unsigned n = sets[set].count;

                    memcpy(prefix, sets[set].bytes, 2);
                    if (w)
                        prefix[n++] = 0x48;
                    walk_modrm(walk, prefix, n, bytes, escape_length[map] + 1);
                }
        }
}

static void walk_vex(struct walk *walk)
{
    for (unsigned fields = 0; fields < 3 * 2 * 2 * 4 * 256; fields++) {
        unsigned opcode = fields & 0xff, pp = fields >> 8 & 3, l = fields >> 10 & 1, w = fields >> 11 & 1;
        uint8_t bytes[4] = {0xc4, (uint8_t)(0xe0 | ((fields >> 12) + 1)), (uint8_t)(w << 7 | 0x78 | l << 2 | pp),
                            (uint8_t)opcode};

        walk_modrm(walk, NULL, 0, bytes, 4);
    }
}

void isa_find_forms(struct isa_forms *forms, enum x86_mode mode)
{
    struct walk *walk = calloc(1, sizeof(*walk));

    if (!walk)
        return;
    walk->forms = forms;
    walk->mode = mode;
    walk_legacy(walk);
    walk_vex(walk);
    free(walk);
}

void isa_free_forms(struct isa_forms *forms)
{
    for (unsigned i = 0; i < forms->count; i++)
        free(forms->form[i].name);
    free(forms->form);
}
