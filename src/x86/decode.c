/*
 * x86/decode.c: bytes to struct x86_insn. Zydis decodes; here its view is folded
 * into the compact form and the semantics tables are searched for who executes it.
 */
#include <cpuid.h>
#include <pthread.h>
#include <string.h>

#include "x86/insn.h"
#include "x86/intr.h"
#include "x86/zydis.h"

#define MAX_LENGTH 15

static const struct x86_op *const tables[] = {
    x86_ops_integer, x86_ops_string, x86_ops_system, x86_ops_fpu, x86_ops_vector, x86_ops_xsave,
};

/* Rows by mnemonic: a list each, as one mnemonic can be in two tables (MOVSD the string, MOVSD the vector). */
struct row {
    const struct x86_op *op;
    uint16_t next; /* index into rows; 0: none */
};
#define MAX_ROWS 4096
static struct row rows[MAX_ROWS];
static uint16_t first_row[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static ZydisDecoder decoders[MODE_LONG64 + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool host_is_amd(void)
{
    unsigned eax, ebx, ecx, edx;

    return __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx != 0x756e6547; /* not "Genu" */
}

static void init_decoder(enum x86_mode mode, ZydisMachineMode machine, ZydisStackWidth width)
{
    ZydisDecoder *decoder = &decoders[mode];

    ZydisDecoderInit(decoder, machine, width);
    /* Not offered in CPUID: there these encodings are the NOPs they once were. */
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    /* 66h before a near branch in 64-bit mode: AMD truncates RIP, Intel ignores it. The guest sees the host's vendor.
     */
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, host_is_amd());
}

static void init(void)
{
    unsigned n = 1;

    for (unsigned t = 0; t < ARRAY_SIZE(tables); t++) {
        for (const struct x86_op *op = tables[t]; op->mnemonic && n < MAX_ROWS; op++) {
            rows[n] = (struct row){.op = op, .next = first_row[op->mnemonic]};
            first_row[op->mnemonic] = (uint16_t)n++;
        }
    }
    init_decoder(MODE_REAL16, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
    init_decoder(MODE_VM86, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
    init_decoder(MODE_PROT16, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    init_decoder(MODE_PROT32, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    init_decoder(MODE_COMPAT16, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
    init_decoder(MODE_COMPAT32, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    init_decoder(MODE_LONG64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

static enum x86_rc exec_ud(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_raise(cpu, VEC_UD);
}

static enum x86_rc exec_too_long(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_raise_gp(cpu, 0);
}

bool x86_insn_undefined(const struct x86_insn *in)
{
    return in->exec == exec_ud;
}

/* A Zydis register as struct x86_insn names it: byte offset for general-purpose ones, number for the others. */
static uint8_t fold_register(ZydisRegister reg)
{
    const int gpr = x86_zydis_gpr(reg);
    ZyanI8 id;

    if (gpr >= 0)
        return (uint8_t)(gpr * 8 + (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH));
    id = ZydisRegisterGetId(reg);
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_IP:
        return X86_REG_RIP * 8;
    case ZYDIS_REGCLASS_SEGMENT:
        return (uint8_t)(reg - ZYDIS_REGISTER_ES);
    default:
        return id < 0 ? 0 : (uint8_t)id;
    }
}

static uint8_t fold_address_register(ZydisRegister reg)
{
    if (x86_zydis_gpr(reg) >= 0 || ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_IP)
        return fold_register(reg);
    return X86_REG_ZERO * 8; /* none, or a vector index */
}

static uint8_t log2_of(unsigned n)
{
    return n && !(n & (n - 1)) ? (uint8_t)__builtin_ctz(n) : 0;
}

/* ModRM.mod = 0 with SIB.base = 5: a displacement, no base. Zydis 4.0.0 takes it for R13 if the address size is 32 bits
 * and REX.B is set. */
static bool absolute_sib(const ZydisDecodedInstruction *insn)
{
    return (insn->attributes & ZYDIS_ATTRIB_HAS_SIB) && !insn->raw.modrm.mod && insn->raw.sib.base == 5;
}

static void fold_memory(struct x86_insn *in, const ZydisDecodedOperand *op, const ZydisDecodedInstruction *insn)
{
    in->seg = (uint8_t)(op->mem.segment - ZYDIS_REGISTER_ES);
    in->base = fold_address_register(op->mem.base);
    in->index = fold_address_register(op->mem.index);
    in->scale = op->mem.scale ? (uint8_t)__builtin_ctz(op->mem.scale) : 0;
    in->disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
    if (absolute_sib(insn)) {
        in->base = X86_REG_ZERO * 8;
        in->disp = insn->raw.disp.value;
    }
    if (in->base == X86_REG_RIP * 8)
        in->disp += insn->length;
    in->memsize = (uint16_t)(op->size / 8);
    in->memsize_log2 = log2_of(in->memsize);
}

/* String instructions and XLAT have no explicit operand: DS, or the override. */
static uint8_t implicit_segment(const ZydisDecodedInstruction *insn)
{
    static const struct {
        ZydisInstructionAttributes attribute;
        uint8_t seg;
    } overrides[] = {
        {ZYDIS_ATTRIB_HAS_SEGMENT_CS, SEG_CS}, {ZYDIS_ATTRIB_HAS_SEGMENT_SS, SEG_SS},
        {ZYDIS_ATTRIB_HAS_SEGMENT_DS, SEG_DS}, {ZYDIS_ATTRIB_HAS_SEGMENT_ES, SEG_ES},
        {ZYDIS_ATTRIB_HAS_SEGMENT_FS, SEG_FS}, {ZYDIS_ATTRIB_HAS_SEGMENT_GS, SEG_GS},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(overrides); i++)
        if (insn->attributes & overrides[i].attribute)
            return overrides[i].seg;
    return SEG_DS;
}

static uint8_t fold_flags(const ZydisDecodedInstruction *insn)
{
    uint8_t flags = 0;

    if (insn->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        flags |= INSN_LOCK;
    for (unsigned i = 0; i < insn->raw.prefix_count; i++) { /* of F2 and F3 the last counts */
        if (insn->raw.prefixes[i].value == 0xf3)
            flags = (uint8_t)((flags & ~INSN_REPNE) | INSN_REP);
        else if (insn->raw.prefixes[i].value == 0xf2)
            flags = (uint8_t)((flags & ~INSN_REP) | INSN_REPNE);
    }
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        flags |= INSN_VEX;
        if (insn->raw.vex.L)
            flags |= INSN_VEX_L;
    }
    return flags;
}

/* Explicit operands as a number, two bits each: the shapes by that. */
enum { KIND_R = 1, KIND_M, KIND_I, KIND_BITS = 2 };

static uint8_t find_shape(unsigned kinds)
{
#define KINDS2(a, b)    (KIND_##a << KIND_BITS | KIND_##b)
#define KINDS3(a, b, c) (KINDS2(a, b) << KIND_BITS | KIND_##c)
    static const uint8_t shapes[1 << 3 * KIND_BITS] = {
        [KIND_R] = SHAPE_R,
        [KIND_M] = SHAPE_M,
        [KIND_I] = SHAPE_I,
        [KINDS2(R, R)] = SHAPE_RR,
        [KINDS2(R, M)] = SHAPE_RM,
        [KINDS2(M, R)] = SHAPE_MR,
        [KINDS2(R, I)] = SHAPE_RI,
        [KINDS2(M, I)] = SHAPE_MI,
        [KINDS2(I, I)] = SHAPE_II,
        [KINDS3(R, R, R)] = SHAPE_RRR,
        [KINDS3(R, R, M)] = SHAPE_RRM,
        [KINDS3(R, M, R)] = SHAPE_RMR,
        [KINDS3(M, R, R)] = SHAPE_MRR,
        [KINDS3(R, R, I)] = SHAPE_RRI,
        [KINDS3(R, M, I)] = SHAPE_RMI,
        [KINDS3(M, R, I)] = SHAPE_MRI,
    };
#undef KINDS2
#undef KINDS3

    if (!kinds)
        return SHAPE_NONE;
    return kinds < ARRAY_SIZE(shapes) && shapes[kinds] ? shapes[kinds] : SHAPE_OTHER;
}

static void fold_operands(struct x86_insn *in, const struct x86_zydis *zydis)
{
    uint8_t *const reg[] = {&in->r0, &in->r1, &in->r2, &in->r3};
    unsigned regs = 0, imms = 0, kinds = 0, i;

    for (i = 0; i < zydis->insn.operand_count_visible; i++) {
        const ZydisDecodedOperand *op = &zydis->op[i];
        unsigned kind = KIND_I;

        switch (op->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            kind = KIND_R;
            if (regs < ARRAY_SIZE(reg))
                *reg[regs++] = fold_register(op->reg.value);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            kind = KIND_M;
            fold_memory(in, op, &zydis->insn);
            break;
        case ZYDIS_OPERAND_TYPE_POINTER:
            in->imm = op->ptr.offset;
            in->imm2 = op->ptr.segment;
            break;
        default:
            if (imms++)
                in->imm2 = (uint32_t)op->imm.value.u;
            else
                in->imm = op->imm.value.u + (op->imm.is_relative ? zydis->insn.length : 0);
        }
        kinds = kinds << KIND_BITS | kind;
    }
    in->shape = find_shape(kinds);
    in->w0 = (uint8_t)(zydis->op[0].size / 8);
    in->w1 = (uint8_t)(i > 1 ? zydis->op[1].size / 8 : 0);
}

static void fold(struct x86_insn *in, const struct x86_zydis *zydis)
{
    const ZydisDecodedInstruction *insn = &zydis->insn;

    in->mnemonic = (uint16_t)insn->mnemonic;
    in->length = insn->length;
    in->opsize = (uint8_t)(insn->operand_width / 8);
    in->addrsize = (uint8_t)(insn->address_width / 8);
    in->flags = fold_flags(insn);
    in->seg = implicit_segment(insn);
    in->base = in->index = X86_REG_ZERO * 8;
    fold_operands(in, zydis);
}

/* Knights Corner's: VEX forms of instructions that have none (POPCNT, TZCNT, LZCNT). */
static bool knights_corner(const ZydisDecodedInstruction *insn)
{
    return insn->meta.isa_set >= ZYDIS_ISA_SET_KNCE && insn->meta.isa_set <= ZYDIS_ISA_SET_KNC_PF_HINT;
}

static x86_exec_fn *select_exec(struct x86_insn *in, const struct x86_zydis *zydis)
{
    bool v8086 = zydis->mode == MODE_REAL16 || zydis->mode == MODE_VM86;

    if (zydis->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && v8086)
        return NULL; /* VEX and XOP are not recognised there */
    if (knights_corner(&zydis->insn))
        return NULL;
    for (unsigned i = first_row[in->mnemonic]; i; i = rows[i].next) {
        const struct x86_op *op = rows[i].op;
        x86_exec_fn *exec;

        if (!x86_feature(op->feature))
            continue;
        in->arg = op->arg;
        exec = op->select(in, zydis);
        if (exec)
            return exec;
    }
    return NULL;
}

/* As ZydisDecoderDecodeFull(), but does not clear what nobody looks at: operands behind the last one, 800 bytes. */
static ZyanStatus decode(struct x86_zydis *zydis, enum x86_mode mode, const uint8_t *bytes, unsigned size)
{
    ZydisDecoderContext context;
    ZyanStatus status = ZydisDecoderDecodeInstruction(&decoders[mode], &context, bytes, size, &zydis->insn);

    zydis->bytes = bytes;
    zydis->mode = (uint8_t)mode;
    if (!ZYAN_SUCCESS(status))
        return status;
    memset(zydis->op, 0, 2 * sizeof(zydis->op[0]));
    return ZydisDecoderDecodeOperands(&decoders[mode], &context, &zydis->insn, zydis->op, zydis->insn.operand_count);
}

bool x86_zydis_decode(struct x86_zydis *zydis, enum x86_mode mode, const uint8_t *bytes, unsigned size)
{
    pthread_once(&once, init);
    return ZYAN_SUCCESS(decode(zydis, mode, bytes, MIN(size, MAX_LENGTH)));
}

unsigned x86_decode(struct x86_insn *in, enum x86_mode mode, const uint8_t *bytes, unsigned size)
{
    struct x86_zydis zydis;
    ZyanStatus status;

    pthread_once(&once, init);
    size = MIN(size, MAX_LENGTH);
    memset(in, 0, sizeof(*in));
    status = decode(&zydis, mode, bytes, size);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && size < MAX_LENGTH)
        return 0;
    if (!ZYAN_SUCCESS(status)) {
        in->length = 1;
        in->flags = INSN_END;
        in->exec = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || status == ZYDIS_STATUS_NO_MORE_DATA ? exec_too_long
                                                                                                      : exec_ud;
        return in->length;
    }
    fold(in, &zydis);
    in->exec = select_exec(in, &zydis);
    if (!in->exec) {
        in->exec = exec_ud;
        in->flags |= INSN_END;
    }
    return in->length;
}

void x86_disassemble(char *text, unsigned size, enum x86_mode mode, const uint8_t *bytes, unsigned length, uint64_t rip)
{
    struct x86_zydis zydis;
    ZydisFormatter formatter;

    pthread_once(&once, init);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, false);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE, ZYDIS_PADDING_DISABLED);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[mode], bytes, length, &zydis.insn, zydis.op)) ||
        !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &zydis.insn, zydis.op,
                                                      zydis.insn.operand_count_visible, text, size, rip, NULL)))
        strncpy(text, "(bad)", size);
}
