/*
 * tests/unit/test_integer_native.c: integer instructions on random and corner
 * states, in the emulator and on the host: registers, flags and memory must agree.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_fixture.h"
#include "native.h"
#include "x86/cpuid.h"

#define RUNS     100
#define COMPARED (FLAGS_STATUS | FLAG_DF)

enum {
    BYTE = 1,   /* no operand size: 8 bits */
    WIDE = 2,   /* 16, 32 and 64 bits */
    WIDE48 = 4, /* 32 and 64 */
    MODRM = 8,  /* register or memory */
    GROUP = 16, /* ModRM.reg is `ext` */
    IMM8 = 32,
    IMMZ = 64,       /* 16 or 32 bits by operand size */
    MEMORY = 128,    /* only memory */
    LOCK = 256,      /* may be locked where it has memory */
    BITS = 512,      /* small register values: bit offsets stay in the data */
    STRING = 1024,   /* RSI, RDI point into the data, RCX is small; REP by prefix */
    VEX = 2048,      /* vvvv is a third register */
    REGISTER = 4096, /* only registers */
    ALIGNED = 8192,
};

struct form {
    const char *name;
    uint8_t prefix; /* mandatory; 0: none */
    uint8_t map;    /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A */
    uint8_t opcode;
    uint8_t ext;
    unsigned kind;
    uint32_t ignored; /* flags that are undefined and not the host's */
    enum x86_feature feature;
};

/* Undefined flags of instructions that are computed, not run, by the emulator: as AMD's. */
#define BMI_UNDEFINED   (FLAG_AF | FLAG_PF)
#define COUNT_UNDEFINED (FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF)

/* clang-format off */
#define ALU_FORMS(name, n, lock)                                                                 \
    {name, 0, 0, 8 * n + 0, 0, BYTE | MODRM | lock},                                        \
    {name, 0, 0, 8 * n + 1, 0, WIDE | MODRM | lock},                                        \
    {name, 0, 0, 8 * n + 2, 0, BYTE | MODRM},                                               \
    {name, 0, 0, 8 * n + 3, 0, WIDE | MODRM},                                               \
    {name, 0, 0, 8 * n + 4, 0, BYTE | IMM8},                                                \
    {name, 0, 0, 8 * n + 5, 0, WIDE | IMMZ},                                                \
    {name, 0, 0, 0x80, n, BYTE | MODRM | GROUP | IMM8 | lock},                              \
    {name, 0, 0, 0x81, n, WIDE | MODRM | GROUP | IMMZ | lock},                              \
    {name, 0, 0, 0x83, n, WIDE | MODRM | GROUP | IMM8 | lock}
#define SHIFT_FORMS(name, n)                                                                \
    {name, 0, 0, 0xc0, n, BYTE | MODRM | GROUP | IMM8},                                     \
    {name, 0, 0, 0xc1, n, WIDE | MODRM | GROUP | IMM8},                                     \
    {name, 0, 0, 0xd0, n, BYTE | MODRM | GROUP},                                            \
    {name, 0, 0, 0xd1, n, WIDE | MODRM | GROUP},                                            \
    {name, 0, 0, 0xd2, n, BYTE | MODRM | GROUP},                                            \
    {name, 0, 0, 0xd3, n, WIDE | MODRM | GROUP}
#define BIT_FORMS(name, n, lock)                                                            \
    {name, 0, 1, 0x83 + 8 * n, 0, WIDE | MODRM | BITS | lock},                              \
    {name, 0, 1, 0xba, n, WIDE | MODRM | GROUP | IMM8 | lock}
#define CC_FORMS(n)                                                                         \
    {"setcc", 0, 1, 0x90 + n, 0, BYTE | MODRM | GROUP},                                     \
    {"cmovcc", 0, 1, 0x40 + n, 0, WIDE | MODRM}
#define STRING_FORMS(name, opcode)                                                          \
    {name, 0, 0, opcode, 0, BYTE | STRING}, {name, 0, 0, opcode + 1, 0, WIDE | STRING},     \
    {name, 0xf2, 0, opcode, 0, BYTE | STRING}, {name, 0xf2, 0, opcode + 1, 0, WIDE | STRING}, \
    {name, 0xf3, 0, opcode, 0, BYTE | STRING}, {name, 0xf3, 0, opcode + 1, 0, WIDE | STRING}

static const struct form forms[] = {
    ALU_FORMS("add", 0, LOCK), ALU_FORMS("or", 1, LOCK), ALU_FORMS("adc", 2, LOCK), ALU_FORMS("sbb", 3, LOCK), ALU_FORMS("and", 4, LOCK),
    ALU_FORMS("sub", 5, LOCK), ALU_FORMS("xor", 6, LOCK), ALU_FORMS("cmp", 7, 0),
    SHIFT_FORMS("rol", 0), SHIFT_FORMS("ror", 1), SHIFT_FORMS("rcl", 2), SHIFT_FORMS("rcr", 3),
    SHIFT_FORMS("shl", 4), SHIFT_FORMS("shr", 5), SHIFT_FORMS("sal", 6), SHIFT_FORMS("sar", 7),
    BIT_FORMS("bt", 4, 0), BIT_FORMS("bts", 5, LOCK), BIT_FORMS("btr", 6, LOCK), BIT_FORMS("btc", 7, LOCK),
    CC_FORMS(0), CC_FORMS(1), CC_FORMS(2), CC_FORMS(3), CC_FORMS(4), CC_FORMS(5), CC_FORMS(6), CC_FORMS(7),
    CC_FORMS(8), CC_FORMS(9), CC_FORMS(10), CC_FORMS(11), CC_FORMS(12), CC_FORMS(13), CC_FORMS(14), CC_FORMS(15),
    STRING_FORMS("movs", 0xa4), STRING_FORMS("cmps", 0xa6), STRING_FORMS("stos", 0xaa),
    STRING_FORMS("lods", 0xac), STRING_FORMS("scas", 0xae),

    {"test", 0, 0, 0x84, 0, BYTE | MODRM}, {"test", 0, 0, 0x85, 0, WIDE | MODRM},
    {"test", 0, 0, 0xa8, 0, BYTE | IMM8}, {"test", 0, 0, 0xa9, 0, WIDE | IMMZ},
    {"test", 0, 0, 0xf6, 0, BYTE | MODRM | GROUP | IMM8}, {"test", 0, 0, 0xf7, 0, WIDE | MODRM | GROUP | IMMZ},
    {"inc", 0, 0, 0xfe, 0, BYTE | MODRM | GROUP | LOCK}, {"inc", 0, 0, 0xff, 0, WIDE | MODRM | GROUP | LOCK},
    {"dec", 0, 0, 0xfe, 1, BYTE | MODRM | GROUP | LOCK}, {"dec", 0, 0, 0xff, 1, WIDE | MODRM | GROUP | LOCK},
    {"not", 0, 0, 0xf6, 2, BYTE | MODRM | GROUP | LOCK}, {"not", 0, 0, 0xf7, 2, WIDE | MODRM | GROUP | LOCK},
    {"neg", 0, 0, 0xf6, 3, BYTE | MODRM | GROUP | LOCK}, {"neg", 0, 0, 0xf7, 3, WIDE | MODRM | GROUP | LOCK},
    {"mul", 0, 0, 0xf6, 4, BYTE | MODRM | GROUP}, {"mul", 0, 0, 0xf7, 4, WIDE | MODRM | GROUP},
    {"imul", 0, 0, 0xf6, 5, BYTE | MODRM | GROUP}, {"imul", 0, 0, 0xf7, 5, WIDE | MODRM | GROUP},
    {"div", 0, 0, 0xf6, 6, BYTE | MODRM | GROUP}, {"div", 0, 0, 0xf7, 6, WIDE | MODRM | GROUP},
    {"idiv", 0, 0, 0xf6, 7, BYTE | MODRM | GROUP}, {"idiv", 0, 0, 0xf7, 7, WIDE | MODRM | GROUP},
    {"imul", 0, 1, 0xaf, 0, WIDE | MODRM}, {"imul", 0, 0, 0x69, 0, WIDE | MODRM | IMMZ},
    {"imul", 0, 0, 0x6b, 0, WIDE | MODRM | IMM8},
    {"adcx", 0x66, 2, 0xf6, 0, WIDE48 | MODRM, 0, FEATURE_ADX}, {"adox", 0xf3, 2, 0xf6, 0, WIDE48 | MODRM, 0, FEATURE_ADX},

    {"mov", 0, 0, 0x88, 0, BYTE | MODRM}, {"mov", 0, 0, 0x89, 0, WIDE | MODRM},
    {"mov", 0, 0, 0x8a, 0, BYTE | MODRM}, {"mov", 0, 0, 0x8b, 0, WIDE | MODRM},
    {"mov", 0, 0, 0xc6, 0, BYTE | MODRM | GROUP | IMM8}, {"mov", 0, 0, 0xc7, 0, WIDE | MODRM | GROUP | IMMZ},
    {"mov", 0, 0, 0xb1, 0, BYTE | IMM8}, {"mov", 0, 0, 0xb5, 0, BYTE | IMM8},
    {"movzx", 0, 1, 0xb6, 0, WIDE | MODRM}, {"movzx", 0, 1, 0xb7, 0, WIDE | MODRM},
    {"movsx", 0, 1, 0xbe, 0, WIDE | MODRM}, {"movsx", 0, 1, 0xbf, 0, WIDE | MODRM},
    {"movsxd", 0, 0, 0x63, 0, WIDE | MODRM},
    {"movbe", 0, 2, 0xf0, 0, WIDE | MODRM | MEMORY, 0, FEATURE_MOVBE},
    {"movbe", 0, 2, 0xf1, 0, WIDE | MODRM | MEMORY, 0, FEATURE_MOVBE},
    {"movnti", 0, 1, 0xc3, 0, WIDE48 | MODRM | MEMORY},
    {"lea", 0, 0, 0x8d, 0, WIDE | MODRM | MEMORY},
    {"bswap", 0, 1, 0xca, 0, WIDE}, {"bswap", 0, 1, 0xcf, 0, WIDE},
    {"cbw", 0, 0, 0x98, 0, WIDE}, {"cwd", 0, 0, 0x99, 0, WIDE},
    {"xchg", 0, 0, 0x86, 0, BYTE | MODRM | LOCK}, {"xchg", 0, 0, 0x87, 0, WIDE | MODRM | LOCK},
    {"xchg", 0, 0, 0x91, 0, WIDE}, {"xchg", 0, 0, 0x90, 0, WIDE},
    {"xadd", 0, 1, 0xc0, 0, BYTE | MODRM | LOCK}, {"xadd", 0, 1, 0xc1, 0, WIDE | MODRM | LOCK},
    {"cmpxchg", 0, 1, 0xb0, 0, BYTE | MODRM | LOCK}, {"cmpxchg", 0, 1, 0xb1, 0, WIDE | MODRM | LOCK},
    {"cmpxchg8b", 0, 1, 0xc7, 1, WIDE48 | MODRM | GROUP | MEMORY | LOCK | ALIGNED},

    {"shld", 0, 1, 0xa4, 0, WIDE | MODRM | IMM8}, {"shld", 0, 1, 0xa5, 0, WIDE | MODRM},
    {"shrd", 0, 1, 0xac, 0, WIDE | MODRM | IMM8}, {"shrd", 0, 1, 0xad, 0, WIDE | MODRM},
    {"bsf", 0, 1, 0xbc, 0, WIDE | MODRM}, {"bsr", 0, 1, 0xbd, 0, WIDE | MODRM},
    {"tzcnt", 0xf3, 1, 0xbc, 0, WIDE | MODRM, COUNT_UNDEFINED, FEATURE_BMI1},
    {"lzcnt", 0xf3, 1, 0xbd, 0, WIDE | MODRM, COUNT_UNDEFINED, FEATURE_ABM},
    {"popcnt", 0xf3, 1, 0xb8, 0, WIDE | MODRM, 0, FEATURE_POPCNT},
    {"crc32", 0xf2, 2, 0xf0, 0, WIDE48 | MODRM, 0, FEATURE_SSE4_2},
    {"crc32", 0xf2, 2, 0xf1, 0, WIDE | MODRM, 0, FEATURE_SSE4_2},

    {"andn", 0, 2, 0xf2, 0, WIDE48 | MODRM | VEX, BMI_UNDEFINED, FEATURE_BMI1},
    {"bextr", 0, 2, 0xf7, 0, WIDE48 | MODRM | VEX, BMI_UNDEFINED | FLAG_SF, FEATURE_BMI1},
    {"blsr", 0, 2, 0xf3, 1, WIDE48 | MODRM | GROUP | VEX, BMI_UNDEFINED, FEATURE_BMI1},
    {"blsmsk", 0, 2, 0xf3, 2, WIDE48 | MODRM | GROUP | VEX, BMI_UNDEFINED, FEATURE_BMI1},
    {"blsi", 0, 2, 0xf3, 3, WIDE48 | MODRM | GROUP | VEX, BMI_UNDEFINED, FEATURE_BMI1},
    {"bzhi", 0, 2, 0xf5, 0, WIDE48 | MODRM | VEX, BMI_UNDEFINED, FEATURE_BMI2},
    {"pext", 0xf3, 2, 0xf5, 0, WIDE48 | MODRM | VEX, 0, FEATURE_BMI2},
    {"pdep", 0xf2, 2, 0xf5, 0, WIDE48 | MODRM | VEX, 0, FEATURE_BMI2},
    {"mulx", 0xf2, 2, 0xf6, 0, WIDE48 | MODRM | VEX, 0, FEATURE_BMI2},
    {"shlx", 0x66, 2, 0xf7, 0, WIDE48 | MODRM | VEX, 0, FEATURE_BMI2},
    {"sarx", 0xf3, 2, 0xf7, 0, WIDE48 | MODRM | VEX, 0, FEATURE_BMI2},
    {"shrx", 0xf2, 2, 0xf7, 0, WIDE48 | MODRM | VEX, 0, FEATURE_BMI2},

    {"push", 0, 0, 0x56, 0, WIDE}, {"push", 0, 0, 0x54, 0, WIDE}, {"push", 0, 0, 0x6a, 0, WIDE | IMM8},
    {"push", 0, 0, 0x68, 0, WIDE | IMMZ}, {"push", 0, 0, 0xff, 6, WIDE | MODRM | GROUP},
    {"pop", 0, 0, 0x5e, 0, WIDE}, {"pop", 0, 0, 0x5c, 0, WIDE}, {"pop", 0, 0, 0x8f, 0, WIDE | MODRM | GROUP},
    {"leave", 0, 0, 0xc9, 0, WIDE},
    {"lahf", 0, 0, 0x9f}, {"sahf", 0, 0, 0x9e}, {"cmc", 0, 0, 0xf5}, {"clc", 0, 0, 0xf8}, {"stc", 0, 0, 0xf9},
    {"cld", 0, 0, 0xfc}, {"std", 0, 0, 0xfd}, {"xlat", 0, 0, 0xd7},
    {"nop", 0, 1, 0x1f, 0, WIDE | MODRM | GROUP}, {"clflush", 0, 1, 0xae, 7, MODRM | GROUP | MEMORY},
};
/* clang-format on */

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static unsigned below(unsigned n)
{
    return (unsigned)(rnd() >> 33) % n;
}

static uint64_t value(void)
{
    static const uint64_t corners[] = {0,      1,          0x7f,       0x80,       0xff,
                                       0x7fff, 0x8000,     0xffff,     0x7fffffff, 0x80000000,
                                       ~0ull,  1ull << 63, ~0ull >> 1, 0xffffffff, 0x3f};

    switch (below(4)) {
    case 0:
        return corners[below(ARRAY_SIZE(corners))];
    case 1:
        return rnd() & 0xff;
    default:
        return rnd();
    }
}

struct instruction {
    uint8_t bytes[15];
    unsigned size;
};

static void put(struct instruction *i, unsigned byte)
{
    i->bytes[i->size++] = (uint8_t)byte;
}

static void put_n(struct instruction *i, uint64_t v, unsigned n)
{
    for (; n; n--, v >>= 8)
        put(i, (unsigned)(v & 0xff));
}

/* ModRM, with [RBX + disp8] or [R11 + disp8] as the memory form. */
static void put_modrm(struct instruction *i, const struct form *form, bool memory)
{
    unsigned reg = form->kind & GROUP ? form->ext : below(8);

    if ((reg == 3 || reg == 4) && (form->kind & (BITS | GROUP)) == BITS)
        reg = 2; /* pointers are no small bit offsets */
    if (memory) {
        put(i, 0x43 | reg << 3);
        put(i, form->kind & ALIGNED ? below(2) * 16 : below(16));
    } else {
        put(i, 0xc0 | reg << 3 | below(8));
    }
}

static void put_vex(struct instruction *i, const struct form *form, bool wide)
{
    unsigned pp = form->prefix == 0x66 ? 1 : form->prefix == 0xf3 ? 2 : form->prefix == 0xf2 ? 3 : 0;

    put(i, 0xc4);
    put(i, (below(2) << 7) | 0x40 | (below(2) << 5) | form->map);
    put(i, (unsigned)wide << 7 | below(16) << 3 | pp);
}

static struct instruction make(const struct form *form)
{
    struct instruction i = {.size = 0};
    bool memory = (form->kind & MEMORY) || ((form->kind & MODRM) && !(form->kind & REGISTER) && below(2));
    unsigned size = form->kind & WIDE ? below(3) : form->kind & WIDE48 ? 1 + below(2) : 1; /* 0: 16 bits, 2: 64 */

    if (form->kind & VEX) {
        put_vex(&i, form, size == 2);
        put(&i, form->opcode);
    } else {
        unsigned rex = size == 2 ? 8 : 0;

        if (memory && (form->kind & LOCK) && below(2))
            put(&i, 0xf0);
        if (size == 0)
            put(&i, 0x66);
        if (form->prefix)
            put(&i, form->prefix);
        if (form->kind & MODRM)
            rex |= below(2) << 2 | below(2);
        if (rex || below(2))
            put(&i, 0x40 | rex);
        if (form->map)
            put(&i, 0x0f);
        if (form->map > 1)
            put(&i, form->map == 2 ? 0x38 : 0x3a);
        put(&i, form->opcode);
    }
    if (form->kind & MODRM)
        put_modrm(&i, form, memory);
    if (form->kind & IMM8)
        put_n(&i, value(), 1);
    if (form->kind & IMMZ)
        put_n(&i, value(), size ? 4 : 2);
    return i;
}

static void make_state(struct native_state *s, const struct form *form)
{
    /* Around the end of a page, so that some operands cross it. */
    uint64_t pointer = FIX_DATA + PAGE_SIZE - 32 + (form->kind & ALIGNED ? 16 * below(2) : below(32));

    for (unsigned r = 0; r < 16; r++)
        s->gpr[r] = form->kind & BITS ? (uint64_t)((int64_t)below(600) - 300) : value();
    if (form->kind & STRING) {
        s->gpr[RCX] = below(40) * (1 + below(10));
        s->gpr[RSI] = pointer + below(64);
        s->gpr[RDI] = pointer + below(64);
    }
    if (form->kind & ALIGNED && below(2)) /* CMPXCHG8B: equal now and then */
        memcpy(&s->gpr[RDX], (void *)(uintptr_t)pointer, 4);
    s->gpr[RSP] = FIX_DATA + 0x2000 + below(16);
    s->gpr[RBP] = form->opcode == 0xc9 ? FIX_DATA + 0x2000 + below(100) : s->gpr[RBP];
    s->gpr[RBX] = s->gpr[R11] = pointer;
    s->rflags = rnd() & (FLAGS_STATUS | (form->kind & STRING && below(4) == 0 ? FLAG_DF : 0));
}

static uint8_t data[FIX_DATA_SIZE], after[FIX_DATA_SIZE];

static void make_data(void)
{
    uint64_t same = value();

    for (unsigned i = 0; i < FIX_DATA_SIZE; i += 8) {
        uint64_t v = below(3) ? same : value();

        memcpy(data + i, &v, 8);
    }
}

static void explain(const struct form *form, const struct instruction *i, const struct native_state *before,
                    const struct native_state *native, const struct x86_cpu *cpu)
{
    char hex[32] = "";

    for (unsigned n = 0; n < i->size; n++)
        snprintf(hex + 2 * n, 3, "%02x", i->bytes[n]);
    print_error("%s, %s: flags %lx -> %lx, emulated %lx\n", form->name, hex, before->rflags, native->rflags & COMPARED,
                cpu->rflags & COMPARED);
    for (unsigned r = 0; r < 16; r++)
        if (native->gpr[r] != cpu->gpr[r] || before->gpr[r] != native->gpr[r])
            print_error("  r%u: %lx -> %lx, emulated %lx\n", r, before->gpr[r], native->gpr[r], cpu->gpr[r]);
}

static bool agrees(const struct form *form, const struct native_state *native, const struct x86_cpu *cpu)
{
    return !memcmp(native->gpr, cpu->gpr, sizeof(native->gpr)) &&
           !((native->rflags ^ cpu->rflags) & COMPARED & ~form->ignored) &&
           !memcmp(after, (void *)FIX_DATA, FIX_DATA_SIZE);
}

static void compare(struct fixture *f, const struct form *form)
{
    struct instruction i = make(form);
    struct native_state before, native;
    enum x86_rc rc;
    bool ran;

    make_data();
    memcpy((void *)FIX_DATA, data, FIX_DATA_SIZE);
    make_state(&before, form);
    native = before;
    ran = native_run(&native, i.bytes, i.size);
    memcpy(after, (void *)FIX_DATA, FIX_DATA_SIZE);

    memcpy((void *)FIX_DATA, data, FIX_DATA_SIZE);
    memcpy(f->cpu.gpr, before.gpr, sizeof(before.gpr));
    f->cpu.rflags = before.rflags | FLAG_FIXED;
    f->cpu.rip = FIX_CODE;
    rc = fixture_exec_all(f, i.bytes, i.size, NULL);
    if (rc == (ran ? X86_NEXT : X86_FAULT) && agrees(form, &native, &f->cpu))
        return;
    explain(form, &i, &before, &native, &f->cpu);
    fail_msg("%s: rc %u, native %s", form->name, rc, ran ? "ran" : "#DE");
}

static void test_against_host(void **state)
{
    struct fixture *f = fixture_new();

    fixture_long64(f);
    for (unsigned n = 0; n < ARRAY_SIZE(forms); n++) {
        if (!x86_feature(forms[n].feature))
            continue;
        for (unsigned run = 0; run < RUNS; run++)
            compare(f, &forms[n]);
    }
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_host)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
