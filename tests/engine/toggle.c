/*
 * toggle.c: control bits that decide what an instruction does, switched on and
 * off around and within code that is hot: translations must not outlive what
 * they were made for, nor be lost for it.
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define ROUNDS (2 * HOT)

static unsigned traps;

static void vector_unit_on(void)
{
    write_cr0(read_cr0() & ~(word)(CR0_TS | CR0_EM));
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    asm volatile("fninit\n fld1\n pxor %xmm0, %xmm0\n pxor %xmm1, %xmm1");
}

/* --- within a block
 * ------------------------------------------------------------------------------------------------------ */

/* X(name, where SI and DI are loaded, the instruction that SI forbids, its length, its exception) */
#define LOADED_LIST(X)                                                                                                 \
    X(ts_sse, "cr0", "paddd %xmm1, %xmm0", 4, NM)                                                                      \
    X(ts_x87, "cr0", "fabs", 2, NM)                                                                                    \
    X(ts_mmx, "cr0", "paddd %mm1, %mm0", 3, NM)                                                                        \
    X(em_sse, "cr0", "movups (" BX "), %xmm0", 3, UD)                                                                  \
    X(em_x87, "cr0", "fabs", 2, NM)                                                                                    \
    X(osfxsr, "cr4", "addps %xmm1, %xmm0", 3, UD)
#define X(name, cr, insn, length, vector)                                                                              \
    CODE(code_##name,                                                                                                  \
         "1: mov " SI ", %" cr "\n " insn "\n mov " DI ", %" cr "\n " insn "\n dec %ecx\n jnz 1b\n int $0x80");
LOADED_LIST(X)
#undef X

static struct {
    word at;
    unsigned length;
} forbidden;

static void skip_forbidden(struct context *c)
{
    traps++;
    EXPECT_EQ(c->ip, forbidden.at);
    c->ip += forbidden.length;
}

static void loaded(const char *code, word vector, unsigned length, word good, word bad)
{
    for (unsigned i = 0; i < 6; i++) {
        struct context c = kernel_context((word)code);

        handlers[vector] = skip_forbidden;
        forbidden.at = (word)code + 3;
        forbidden.length = length;
        traps = 0;
        c.bx = USER_DATA;
        c.cx = ROUNDS;
        c.di = good;
        c.si = i & 1 ? bad : good;
        context_run(&c);
        handlers[vector] = NULL;
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(traps, i & 1 ? ROUNDS : 0);
    }
}

TEST(toggle_within_block)
{
    word cr0, cr4;

    user_init();
    vector_unit_on();
    cr0 = read_cr0();
    cr4 = read_cr4();
    loaded(code_ts_sse, NM, 4, cr0, cr0 | CR0_TS);
    loaded(code_ts_x87, NM, 2, cr0, cr0 | CR0_TS);
    loaded(code_ts_mmx, NM, 3, cr0, cr0 | CR0_TS);
    asm volatile("emms");
    loaded(code_em_sse, UD, 3, cr0, cr0 | CR0_EM);
    loaded(code_em_x87, NM, 2, cr0, cr0 | CR0_EM);
    loaded(code_osfxsr, UD, 3, cr4, cr4 & ~(word)CR4_OSFXSR);
}

/* AC alone, CR0.AM being on. */
CODE(code_ac, "1: push " SI "\n popf\n mov 1(" BX "), %eax\n push " DI "\n popf\n mov 1(" BX
              "), %eax\n dec %ecx\n jnz 1b\n int $0x80");
TEST(toggle_alignment_check)
{
    write_cr0(read_cr0() | CR0_AM);
    user_init();
    PLACE(USER_CODE, code_ac);
    handlers[AC] = skip_forbidden;
    forbidden.at = USER_CODE + 2;
    forbidden.length = 3;
    for (unsigned i = 0; i < 6; i++) {
        struct context c = user_context(USER_CODE);

        traps = 0;
        c.bx = USER_DATA;
        c.cx = ROUNDS;
        c.di = FL_1;
        c.si = FL_1 | (i & 1 ? FL_AC : 0);
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(traps, i & 1 ? ROUNDS : 0);
    }
}

/* SMAP: the kernel reads a page of the user's, with AC and without. */
CODE(code_smap, "1: stac\n mov (" BX "), %eax\n clac\n mov (" BX "), %eax\n dec %ecx\n jnz 1b\n int $0x80");
TEST(toggle_smap)
{
    NEED_SMAP();
    paging_64();
    user_init();
    handlers[PF] = skip_forbidden;
    forbidden.at = (word)code_smap + 8;
    forbidden.length = 2;
    for (unsigned i = 0; i < 6; i++) {
        struct context c = kernel_context((word)code_smap);

        write_cr4(i & 1 ? read_cr4() | CR4_SMAP : read_cr4() & ~(word)CR4_SMAP);
        traps = 0;
        c.bx = USER_DATA;
        c.cx = ROUNDS;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(traps, i & 1 ? ROUNDS : 0);
    }
}

/* --- around it
 * --------------------------------------------------------------------------------------------------------------- */

/* Every 16 rounds INT 81h forbids what the loop does; the exception allows it again, and the instruction is run. */
#define LOOP(insn) "1: " insn "\n inc %edi\n test $15, %cl\n jnz 2f\n int $0x81\n 2: dec %ecx\n jnz 1b\n int $0x80"
CODE(code_rdtsc, LOOP("rdtsc"));
CODE(code_cli, LOOP("cli"));
CODE(code_str, LOOP("str %eax"));
CODE(code_in, LOOP("in $0x80, %al"));
CODE(code_inc, LOOP("incl (" BX ")"));
CODE(code_read, LOOP("mov 1(" BX "), %eax"));
CODE(code_paddd, LOOP("paddd %xmm1, %xmm0"));

static void set_cr4(word bits, bool on)
{
    write_cr4(on ? read_cr4() | bits : read_cr4() & ~bits);
}

static void set_cr0(word bits, bool on)
{
    write_cr0(on ? read_cr0() | bits : read_cr0() & ~bits);
}

#define SWITCH(name, body)                                                                                             \
    static void name(struct context *c, bool on)                                                                       \
    {                                                                                                                  \
        body;                                                                                                          \
    }
SWITCH(tsd, set_cr4(CR4_TSD, on))
SWITCH(umip, set_cr4(CR4_UMIP, on))
SWITCH(smap, set_cr4(CR4_SMAP, on))
SWITCH(osfxsr, set_cr4(CR4_OSFXSR, !on))
SWITCH(ts, set_cr0(CR0_TS, on))
SWITCH(am, set_cr0(CR0_AM, on))
SWITCH(wp, set_cr0(CR0_WP, on))
SWITCH(iopl, c->flags = on ? c->flags & ~(word)FL_IOPL : c->flags | FL_IOPL)
SWITCH(iomap, tss.iomap = on ? sizeof tss : offsetof(typeof(tss), io))
SWITCH(read_only, map(USER_DATA, USER_DATA, on ? PTE_P | PTE_U : PTE_PWU))
SWITCH(not_user, map(USER_DATA, USER_DATA, on ? PTE_PW : PTE_PWU))
SWITCH(not_there, map(USER_DATA, USER_DATA, on ? 0 : PTE_PWU))

static void (*current_switch)(struct context *c, bool on);

static void forbid(struct context *c)
{
    current_switch(c, true);
}

static void allow(struct context *c)
{
    traps++;
    current_switch(c, false);
}

static void around(const char *code, word size, bool user, word vector, void (*how)(struct context *c, bool on))
{
    struct context c = user ? user_context(USER_CODE) : kernel_context((word)code);

    memcpy((void *)USER_CODE, code, size);
    current_switch = how;
    handlers[vector] = allow;
    traps = 0;
    c.bx = USER_DATA;
    c.di = 0;
    c.cx = 4 * HOT;
    c.flags |= how == am ? FL_AC : 0;
    how(&c, false);
    context_run(&c);
    handlers[vector] = NULL;
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.di, 4 * HOT);
    EXPECT_EQ(traps, HOT / 4);
    how(&c, false);
}
#define AROUND(code, user, vector, how) around(code, CODE_SIZE(code), user, vector, how)

TEST(toggle_around)
{
    paging_64();
    user_init();
    vector_unit_on();
    memset(tss.io, 0, sizeof tss.io - 1);
    handlers[0x81] = forbid;
    idt_set_access(0x81, ACC_INT_GATE | ACC_USER);
    AROUND(code_rdtsc, true, GP, tsd);
    if (cpu_has(7, 0, 2, 2))
        AROUND(code_str, true, GP, umip);
    if (cpu_has(7, 0, 1, 20))
        AROUND(code_read, false, PF, smap);
    AROUND(code_paddd, true, UD, osfxsr);
    AROUND(code_paddd, true, NM, ts);
    AROUND(code_read, true, AC, am);
    AROUND(code_cli, true, GP, iopl);
    AROUND(code_in, true, GP, iomap);
    AROUND(code_inc, true, PF, read_only);
    AROUND(code_inc, true, PF, not_user);
    AROUND(code_inc, true, PF, not_there);
    AROUND(code_inc, false, PF, not_there);
    *entry(USER_DATA, 1) &= ~PTE_W;
    invlpg(USER_DATA);
    AROUND(code_inc, false, PF, wp);
}

/* --- vector and x87 state
 * --------------------------------------------------------------------------------------------------- */

/* DX: index of the MXCSR to load. 2.5, -2.5: what they round to tells the mode; 1/3 is another number in each. */
static struct {
    uint32_t mxcsr[4];
    double up, down, one, three;
    uint64_t third[4];
} numbers __attribute__((aligned(16))) = {{0x1f80, 0x3f80, 0x5f80, 0x7f80}, 2.5, -2.5, 1, 3, {0}};
CODE(code_round,
     "1: mov %ecx, %edx\n and $3, %edx\n ldmxcsr (" BX ", " DX ", 4)\n cvtsd2si 16(" BX "), %eax\n add %eax, %esi\n"
     "cvtsd2si 24(" BX "), %eax\n shl $8, %eax\n add %eax, %esi\n movsd 32(" BX "), %xmm0\n divsd 40(" BX "), %xmm0\n"
     "movsd %xmm0, 48(" BX ", " DX ", 8)\n dec %ecx\n jnz 1b\n int $0x80");
TEST(toggle_rounding)
{
    struct context c = kernel_context((word)code_round);
    const uint64_t third = 0x3fd5555555555555;

    vector_unit_on();
    c.bx = (word)&numbers;
    c.cx = ROUNDS;
    c.si = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    /* To nearest, down, up, to zero. */
    EXPECT_EQ(c.si, (uint32_t)(ROUNDS / 4 * ((2 + 2 + 3 + 2) + ((-2 - 3 - 2 - 2) * 256))));
    for (unsigned i = 0; i < 4; i++)
        EXPECT_EQ(numbers.third[i], third + (i == 2));
}

/* The control bits matter, and the flags are set, where no vector register is named either. */
CODE(code_convert, "cvtsd2si 16(" BX "), %eax\n cvtsd2si 24(" BX "), %edx\n int $0x80");
TEST(toggle_rounding_memory)
{
    static const int32_t up[4] = {2, 2, 3, 2}, down[4] = {-2, -3, -2, -2};
    uint32_t mxcsr;

    vector_unit_on();
    for (unsigned i = 0; i < HOT; i++) {
        struct context c = kernel_context((word)code_convert);

        c.bx = (word)&numbers;
        asm volatile("ldmxcsr %0" : : "m"(numbers.mxcsr[i % 4]));
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ((int32_t)c.ax, up[i % 4]);
        EXPECT_EQ((int32_t)c.dx, down[i % 4]);
        asm volatile("stmxcsr %0" : "=m"(mxcsr));
        EXPECT_EQ(mxcsr, numbers.mxcsr[i % 4] | 0x20); /* PE */
    }
}

/* The division by zero is unmasked every fourth round. */
static uint32_t masks[4] = {0x1f80, 0x1f80 & ~0x200u, 0x1f80, 0x1f80};
CODE(code_divide, "1: mov %ecx, %edx\n and $3, %edx\n ldmxcsr (" BX ", " DX ", 4)\n addps %xmm1, %xmm0\n"
                  "movaps %xmm3, %xmm2\n divps %xmm0, %xmm2\n addps %xmm1, %xmm0\n dec %ecx\n jnz 1b\n int $0x80");
TEST(toggle_unmasked)
{
    struct context c = kernel_context((word)code_divide);
    uint32_t mxcsr;

    vector_unit_on();
    handlers[XM] = skip_forbidden;
    forbidden.at = (word)code_divide + 15;
    forbidden.length = 3;
    for (unsigned i = 0; i < 3; i++) {
        traps = 0;
        c = kernel_context((word)code_divide);
        c.bx = (word)masks;
        c.cx = ROUNDS;
        asm volatile("pcmpeqd %xmm3, %xmm3\n psrld $25, %xmm3\n pslld $23, %xmm3"); /* 1.0 four times */
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(traps, ROUNDS / 4);
        asm volatile("stmxcsr %0" : "=m"(mxcsr));
        EXPECT_EQ(mxcsr, masks[1] | 4); /* ZE */
    }
}

/* 16-byte alignment, kept and broken by turns. */
CODE(code_movaps, "1: xor $8, " BX "\n movaps %xmm0, (" BX ")\n add $3, %eax\n dec %ecx\n jnz 1b\n int $0x80");
TEST(toggle_misaligned)
{
    struct context c = kernel_context((word)code_movaps);

    user_init();
    vector_unit_on();
    handlers[GP] = skip_forbidden;
    forbidden.at = (word)code_movaps + (LONG_MODE ? 4 : 3);
    forbidden.length = 3;
    c.ax = 0;
    c.bx = USER_DATA;
    c.cx = ROUNDS;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 3 * ROUNDS);
    EXPECT_EQ(traps, ROUNDS / 2);
}

/* x87, MMX and SSE in one block: each round leaves the same image as the first. */
static uint8_t images[2][512] __attribute__((aligned(16)));
CODE(code_units,
     "fninit\n fldpi\n fild 0(" BX ")\n fmul %st(1), %st\n movups (" BX "), %xmm3\n movq2dq %mm7, %xmm4\n"
     "fstpl 16(" BX ")\n fld1\n faddl 16(" BX ")\n fsqrt\n paddd %xmm3, %xmm4\n fistl 24(" BX ")\n"
     "movq 24(" BX "), %mm1\n paddw %mm1, %mm2\n movdq2q %xmm3, %mm5\n emms\n fld1\n fldl2t\n fyl2x\n"
     "fcomi %st(0)\n adc $5, %eax\n fnstsw 28(" BX ")\n addsd 16(" BX "), %xmm5\n fxsave (" SI ")\n int $0x80");
TEST(toggle_units)
{
    static uint8_t clean[512] __attribute__((aligned(16)));

    *(uint16_t *)clean = 0x37f;
    *(uint32_t *)(clean + 24) = 0x1f80;
    vector_unit_on();
    user_init();
    for (unsigned i = 0; i < HOT; i++) {
        struct context c = kernel_context((word)code_units);

        memset((void *)USER_DATA, 0x11, 64);
        asm volatile("fxrstor %0" : : "m"(clean));
        c.ax = 0;
        c.bx = USER_DATA;
        c.si = (word)images[i > 0];
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, 5);
        memset(images[i > 0] + 6, 0, 18); /* the last instruction's pointers */
        EXPECT_EQ(memcmp(images[0], images[i > 0], 416), 0);
    }
}
