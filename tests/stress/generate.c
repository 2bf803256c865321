/*
 * tests/stress/generate.c: random code: functions of blocks of random
 * instructions, ended by every kind of branch. Registers that hold pointers are
 * mostly left alone, so that most accesses find memory; counters in memory make
 * loops hot, and fuel, used up at function entries, ends those that would not.
 */
#include <string.h>

#include "stress.h"

#define MAX_BLOCKS 8
#define MAX_FIXUPS 40
#define COUNTERS   200
#define TABLE64    (STRESS_DATA + 0x800) /* 64 addresses of code */
#define TABLE32    (STRESS_DATA + 0xa00)
#define FAR32      (STRESS_DATA + 0xb00) /* 32 far pointers to code of the other mode */
#define FAR64      (STRESS_DATA + 0xc00)

struct output {
    struct stress_guest *g;
    struct isa_rng *rng;
    enum x86_mode mode;
    unsigned at;
    struct {
        unsigned at, block;
    } fixup[MAX_FIXUPS];
    unsigned fixups;
};

static bool wide(const struct output *o)
{
    return o->mode == MODE_LONG64;
}

static unsigned pick(struct output *o, unsigned n)
{
    return isa_pick(o->rng, n);
}

static bool chance(struct output *o, unsigned percent)
{
    return isa_chance(o->rng, percent);
}

static void put(struct output *o, const void *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++, o->at++)
        if (o->at < sizeof(o->g->code))
            o->g->code[o->at] = ((const uint8_t *)bytes)[i];
}

static void put1(struct output *o, unsigned byte)
{
    uint8_t b = (uint8_t)byte;

    put(o, &b, 1);
}

static void put4(struct output *o, uint32_t value)
{
    put(o, &value, 4);
}

#define PUT(o, ...)                                                                                                    \
    do {                                                                                                               \
        static const uint8_t bytes_[] = {__VA_ARGS__};                                                                 \
        put(o, bytes_, sizeof(bytes_));                                                                                \
    } while (0)

static uint32_t here(const struct output *o)
{
    return stress_code[0] + o->at;
}

/* ModRM (and SIB) of an absolute address with the given reg field. */
static void put_absolute(struct output *o, unsigned reg, uint32_t address)
{
    if (wide(o)) {
        put1(o, reg << 3 | 4);
        put1(o, 0x25);
    } else {
        put1(o, reg << 3 | 5);
    }
    put4(o, address);
}

/* An entry of the mode, or of any if there is none. */
static uint32_t some_entry(struct output *o, enum x86_mode mode)
{
    for (unsigned i = 0; i < 20 && o->g->entries; i++) {
        const struct stress_entry *e = &o->g->entry[pick(o, o->g->entries)];

        if (e->mode == mode)
            return stress_code[0] + e->offset;
    }
    return stress_code[0];
}

static void add_entry(struct output *o)
{
    if (o->g->entries < ARRAY_SIZE(o->g->entry) && o->at < sizeof(o->g->code))
        o->g->entry[o->g->entries++] = (struct stress_entry){o->at, o->mode};
}

/* --- instructions of all forms -------------------------------------------------------------- */

static bool is_pointer(ZydisMachineMode machine, ZydisRegister reg)
{
    static const uint8_t pointers[] = {ZYDIS_REGISTER_RBX, ZYDIS_REGISTER_RBP, ZYDIS_REGISTER_RSI, ZYDIS_REGISTER_RDI,
                                       ZYDIS_REGISTER_R12, ZYDIS_REGISTER_R13, ZYDIS_REGISTER_R14, ZYDIS_REGISTER_R15};
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(machine, reg);

    for (unsigned i = 0; i < ARRAY_SIZE(pointers); i++)
        if (whole == pointers[i] || whole - ZYDIS_REGISTER_EAX + ZYDIS_REGISTER_RAX == pointers[i])
            return true;
    return false;
}

static bool is_stack(ZydisRegister reg)
{
    return reg == ZYDIS_REGISTER_RSP || reg == ZYDIS_REGISTER_ESP || reg == ZYDIS_REGISTER_SP;
}

static bool operand_wanted(struct output *o, const struct isa_insn *in, const ZydisDecodedOperand *op)
{
    ZydisMachineMode machine = in->insn.machine_mode;
    bool hidden = op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;

    if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) && !hidden) {
        if (is_stack(op->reg.value))
            return chance(o, 1);
        return !is_pointer(machine, op->reg.value) || chance(o, 5);
    }
    if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || hidden)
        return true;
    if (op->mem.index != ZYDIS_REGISTER_NONE && op->mem.type == ZYDIS_MEMOP_TYPE_MEM && !chance(o, 15))
        return false;
    return op->mem.base == ZYDIS_REGISTER_NONE || op->mem.base == ZYDIS_REGISTER_RIP ||
           is_pointer(machine, op->mem.base) || is_stack(op->mem.base) || chance(o, 2);
}

static bool wanted(struct output *o, const struct isa_insn *in)
{
    if (in->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && (o->g->free || !chance(o, 2)))
        return false;
    if (in->insn.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
        return !o->g->ring0 && chance(o, 5);
    switch (in->insn.meta.category) {
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_SEGOP:
        if (o->g->ring0 || !chance(o, 10))
            return false;
        break;
    default:
        break;
    }
    for (unsigned i = 0; i < in->insn.operand_count; i++)
        if (!operand_wanted(o, in, &in->op[i]))
            return false;
    return true;
}

/* The displacement from a pointer becomes small; one from RIP counts from where the instruction really is. */
static void patch_displacement(struct output *o, struct isa_insn *in)
{
    uint8_t *disp = in->bytes + in->insn.raw.disp.offset;
    int32_t value;

    if (in->insn.raw.disp.size != 32)
        return;
    for (unsigned i = 0; i < in->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &in->op[i];

        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.base == ZYDIS_REGISTER_NONE)
            continue;
        memcpy(&value, disp, 4);
        if (op->mem.base == ZYDIS_REGISTER_RIP)
            value += (int32_t)(in->rip - here(o));
        else
            value = (int32_t)pick(o, 0x400) - 0x200;
        memcpy(disp, &value, 4);
        return;
    }
}

static bool is_repeated(const struct isa_insn *in)
{
    return in->insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
}

static const uint16_t common[] = {
    ZYDIS_MNEMONIC_ADD,  ZYDIS_MNEMONIC_SUB,  ZYDIS_MNEMONIC_ADC,   ZYDIS_MNEMONIC_SBB,     ZYDIS_MNEMONIC_AND,
    ZYDIS_MNEMONIC_OR,   ZYDIS_MNEMONIC_XOR,  ZYDIS_MNEMONIC_CMP,   ZYDIS_MNEMONIC_TEST,    ZYDIS_MNEMONIC_MOV,
    ZYDIS_MNEMONIC_LEA,  ZYDIS_MNEMONIC_INC,  ZYDIS_MNEMONIC_DEC,   ZYDIS_MNEMONIC_NEG,     ZYDIS_MNEMONIC_SHL,
    ZYDIS_MNEMONIC_SHR,  ZYDIS_MNEMONIC_SAR,  ZYDIS_MNEMONIC_ROL,   ZYDIS_MNEMONIC_IMUL,    ZYDIS_MNEMONIC_MUL,
    ZYDIS_MNEMONIC_PUSH, ZYDIS_MNEMONIC_POP,  ZYDIS_MNEMONIC_MOVZX, ZYDIS_MNEMONIC_MOVSX,   ZYDIS_MNEMONIC_CMOVZ,
    ZYDIS_MNEMONIC_SETB, ZYDIS_MNEMONIC_XCHG, ZYDIS_MNEMONIC_XADD,  ZYDIS_MNEMONIC_CMPXCHG,
};

/* A common form, or any. */
static const struct isa_form *some_form(struct output *o)
{
    const struct isa_forms *forms = o->g->forms[wide(o) ? 0 : 1];
    bool any = chance(o, 40);
    ZydisMnemonic mnemonic = common[pick(o, ARRAY_SIZE(common))];

    for (unsigned i = 0; i < 3000; i++) {
        const struct isa_form *form = &forms->form[pick(o, forms->count)];

        if (!form->reason && form->example.mode == o->mode && (any || form->example.insn.mnemonic == mnemonic))
            return form;
    }
    return NULL;
}

/* cmp $n, %eax, after what may leave flags as they were, and those are undefined. */
static void define_flags(struct output *o, ZydisMnemonic mnemonic)
{
    static const uint16_t keeping[] = {
        ZYDIS_MNEMONIC_BT,   ZYDIS_MNEMONIC_BTC,  ZYDIS_MNEMONIC_BTR,  ZYDIS_MNEMONIC_BTS,   ZYDIS_MNEMONIC_DIV,
        ZYDIS_MNEMONIC_IDIV, ZYDIS_MNEMONIC_IMUL, ZYDIS_MNEMONIC_MUL,  ZYDIS_MNEMONIC_LZCNT, ZYDIS_MNEMONIC_TZCNT,
        ZYDIS_MNEMONIC_RCL,  ZYDIS_MNEMONIC_RCR,  ZYDIS_MNEMONIC_SHLD, ZYDIS_MNEMONIC_SHRD,  ZYDIS_MNEMONIC_BEXTR};

    for (unsigned i = 0; i < ARRAY_SIZE(keeping); i++)
        if (mnemonic == keeping[i]) {
            PUT(o, 0x83, 0xf8);
            put1(o, pick(o, 128));
            return;
        }
}

static void instruction(struct output *o)
{
    struct isa_insn in;

    for (unsigned i = 0; i < 20; i++) {
        const struct isa_form *form = some_form(o);

        for (unsigned k = 0; form && k < 6; k++) {
            if (!isa_make_instance(&in, form, o->rng, (unsigned)isa_rand(o->rng)) || !wanted(o, &in))
                continue;
            if (is_repeated(&in) && chance(o, 90)) {
                put1(o, 0xb9); /* mov $n, %ecx */
                put4(o, pick(o, 40));
            }
            patch_displacement(o, &in);
            put(o, in.bytes, in.length);
            if (o->g->free)
                define_flags(o, in.insn.mnemonic);
            return;
        }
    }
}

/* --- pieces made by hand ------------------------------------------------------------------------ */

static void move_immediate(struct output *o, unsigned reg, uint32_t value)
{
    if (reg & 8)
        put1(o, 0x41);
    put1(o, 0xb8 | (reg & 7));
    put4(o, value);
}

static void reload_pointer(struct output *o)
{
    static const uint8_t regs[] = {RBX, RBP, RSI, RDI, 12, 13, 14, 15};

    move_immediate(o, regs[pick(o, wide(o) ? 8 : 4)], stress_pointer(o->g));
}

/* The bytes ahead, or somewhere near, are changed through one of the code's addresses. */
static void self_modify(struct output *o)
{
    uint32_t base = stress_code[pick(o, 2)];

    switch (pick(o, o->g->free ? 2 : 4)) {
    case 0: /* incb imm; mov $imm, %eax */
    case 1:
        put1(o, 0xfe);
        put_absolute(o, 0, base + o->at + (wide(o) ? 7 : 6) - 1 + 1 + pick(o, 4));
        move_immediate(o, RAX, (uint32_t)isa_rand(o->rng));
        break;
    case 2: /* movb $imm, a byte near */
        put1(o, 0xc6);
        put_absolute(o, 0, base + (o->at + pick(o, 128) - 64) % (uint32_t)sizeof(o->g->code));
        put1(o, (unsigned)isa_rand(o->rng) & 0xff);
        break;
    default: /* movl $nops, somewhere */
        put1(o, 0xc7);
        put_absolute(o, 0, base + pick(o, (unsigned)sizeof(o->g->code) - 4));
        put4(o, 0x90909090);
    }
}

/* What only the kernel may do; to the user, #GP. */
static void privileged(struct output *o)
{
    switch (pick(o, 13)) {
    case 0:
        PUT(o, 0xfa); /* cli */
        break;
    case 1:
        PUT(o, 0xfb); /* sti */
        break;
    case 2:
        PUT(o, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8); /* mov %cr3, %rax; mov %rax, %cr3 */
        break;
    case 3:
        PUT(o, 0x0f, 0x01, 0xcb); /* stac */
        break;
    case 4:
        PUT(o, 0x0f, 0x01, 0xca); /* clac */
        break;
    case 5:
        PUT(o, 0x0f, 0x01, 0xf8); /* swapgs */
        break;
    case 6:
        PUT(o, 0x9c, 0xfb, 0x9d); /* pushf; sti; popf */
        break;
    case 7:
        PUT(o, 0x8c, 0xd0, 0x8e, 0xd0); /* mov %ss, %eax; mov %eax, %ss */
        break;
    case 8:
        PUT(o, 0x0f, 0x01, 0x3f); /* invlpg (%rdi) */
        break;
    case 9:
        PUT(o, 0x0f, 0x06, 0x0f, 0x20, 0xc0); /* clts; mov %cr0, %rax */
        break;
    case 10:
        PUT(o, 0xb9, 0x01, 0x01, 0x00, 0xc0, 0x0f, 0x32); /* mov $0xc0000101, %ecx; rdmsr */
        break;
    case 11:
        PUT(o, 0x0f, 0x20, 0xe0, 0x0f, 0x22, 0xe0); /* mov %cr4, %rax; mov %rax, %cr4 */
        break;
    default:
        PUT(o, 0x8c, 0xc9, 0x89, 0xe2, 0x9c, 0x0f, 0x21,
            0xf8); /* mov %cs, %ecx; mov %esp, %edx; pushf; mov %dr7, ... */
    }
}

/* mov $selector, %eax; mov %eax, %ds or %es */
static void load_segment(struct output *o)
{
    if (wide(o))
        return;
    move_immediate(o, RAX, stress_data_selector(o->rng, 60));
    put1(o, 0x8e);
    put1(o, 0xc0 | (chance(o, 50) ? SEG_DS : SEG_ES) << 3);
}

static void spice(struct output *o)
{
    switch (pick(o, 9)) {
    case 0:
        self_modify(o);
        break;
    case 1:
        if (o->g->ring0 && wide(o))
            privileged(o);
        else
            PUT(o, 0x0f, 0x05); /* syscall */
        break;
    case 2: /* call next; pop %rdx */
        PUT(o, 0xe8, 0, 0, 0, 0, 0x5a);
        break;
    case 3: /* pushf; pop %rcx */
        PUT(o, 0x9c, 0x59);
        break;
    case 4:
        load_segment(o);
        break;
    default:
        reload_pointer(o);
    }
}

/* subl $1, fuel; jns 1f; int $VECTOR_FUEL; 1: */
static void guard(struct output *o)
{
    put1(o, 0x83);
    put_absolute(o, 5, STRESS_FUEL);
    put1(o, 1);
    PUT(o, 0x79, 0x02, 0xcd, VECTOR_FUEL);
}

/* --- control flow ------------------------------------------------------------------------------------- */

static void put_fixup(struct output *o, unsigned block)
{
    if (o->fixups < MAX_FIXUPS) {
        o->fixup[o->fixups].at = o->at;
        o->fixup[o->fixups++].block = block;
    }
    put4(o, 0);
}

static void conditional(struct output *o, unsigned block)
{
    put1(o, 0x0f);
    put1(o, 0x80 | pick(o, 16));
    put_fixup(o, block);
}

/* subl $1, counter; jns block; movl $n, counter */
static void counted(struct output *o, unsigned block)
{
    uint32_t counter = STRESS_DATA + 0x10 + 4 * pick(o, COUNTERS);

    put1(o, 0x83);
    put_absolute(o, 5, counter);
    put1(o, 1);
    PUT(o, 0x0f, 0x89);
    put_fixup(o, block);
    put1(o, 0xc7);
    put_absolute(o, 0, counter);
    put4(o, pick(o, 60));
}

static void call(struct output *o)
{
    put1(o, 0xe8);
    put4(o, some_entry(o, o->mode) - here(o) - 4);
}

/* movzbl %cl, %eax; and $63, %eax; jmp or call *table(, %rax, 8) */
static void through_table(struct output *o, bool calls)
{
    PUT(o, 0x0f, 0xb6, 0xc1, 0x83, 0xe0, 0x3f, 0xff);
    put1(o, calls ? 0x14 : 0x24);
    put1(o, wide(o) ? 0xc5 : 0x85);
    put4(o, wide(o) ? TABLE64 : TABLE32);
}

static void through_register(struct output *o)
{
    move_immediate(o, RAX, some_entry(o, o->mode));
    put1(o, 0xff);
    put1(o, chance(o, 50) ? 0xe0 : 0xd0); /* jmp, call */
}

static void push_and_return(struct output *o)
{
    put1(o, 0x68);
    put4(o, some_entry(o, o->mode));
    put1(o, 0xc3);
}

/* To the other mode, or from 32-bit code to 32-bit code, perhaps in another segment. */
static void far_jump(struct output *o)
{
    put1(o, 0xff);
    put_absolute(o, 5, (wide(o) || chance(o, 40) ? FAR32 : FAR64) + 8 * pick(o, 32));
}

static void trap(struct output *o)
{
    static const uint8_t traps[5][2] = {{0x0f, 0x0b}, {0xcc, 0x90}, {0xcd, 0x81}, {0xcd, 0x03}, {0x0f, 0x05}};

    put(o, traps[pick(o, 5)], 2);
}

static void end_block(struct output *o, unsigned block, unsigned blocks)
{
    unsigned way = pick(o, 100);

    if (way < 28) {
        conditional(o, pick(o, blocks + 1));
    } else if (way < 48) {
        counted(o, pick(o, block + 1));
    } else if (way < 60) {
        call(o);
    } else if (way < 66) {
        put1(o, 0xe9);
        put_fixup(o, pick(o, blocks + 1));
    } else if (way < 71) {
        through_table(o, chance(o, 70));
    } else if (way < 75) {
        through_register(o);
    } else if (way < 78) {
        push_and_return(o);
    } else if (way < 80) {
        far_jump(o);
    } else if (way < 82) {
        trap(o);
    } else if (way < 83 && !o->g->free) { /* somewhere into the middle */
        put1(o, 0xe9);
        put4(o, some_entry(o, o->mode) + 1 + pick(o, 3) - here(o) - 4);
    } else if (way < 85 && !o->g->free) { /* loop, loopne, jrcxz over the next bytes */
        put1(o, 0xe0 + pick(o, 4));
        put1(o, pick(o, 12));
    } else if (way < 88) {
        put1(o, 0xc3);
    }
}

static void function(struct output *o)
{
    unsigned blocks = 2 + pick(o, MAX_BLOCKS - 2), start[MAX_BLOCKS + 1];

    o->fixups = 0;
    add_entry(o);
    guard(o);
    for (unsigned b = 0; b < blocks; b++) {
        start[b] = o->at;
        if (chance(o, 40))
            add_entry(o);
        if (o->g->free || chance(o, 15))
            guard(o);
        for (unsigned n = 1 + pick(o, 7); n; n--) {
            if (chance(o, 8))
                spice(o);
            else
                instruction(o);
        }
        end_block(o, b, blocks);
    }
    start[blocks] = o->at;
    put1(o, 0xc3);
    for (unsigned i = 0; i < o->fixups; i++) {
        uint32_t distance = start[o->fixup[i].block] - (o->fixup[i].at + 4);

        if (o->fixup[i].at + 4 <= sizeof(o->g->code))
            memcpy(o->g->code + o->fixup[i].at, &distance, 4);
    }
}

void stress_generate(struct stress_guest *g)
{
    struct output o = {.g = g, .rng = &g->rng};

    g->entries = 0;
    while (o.at < sizeof(g->code)) {
        o.mode = isa_chance(&g->rng, 65) ? MODE_LONG64 : MODE_COMPAT32;
        function(&o);
    }
}
