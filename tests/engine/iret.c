/*
 * iret.c: IRET to an outer ring, and everything it refuses (SDM vol. 2, IRET;
 * AMD APM vol. 3, IRET). A context that cannot be entered faults at
 * context_iret, in the kernel.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

CODE(code_int80, "int $0x80");
CODE(code_segments, "mov %ds, %eax\n mov %es, %ecx\n mov %fs, %edx\n mov %gs, %ebx\n int $0x80");

static struct context user(void)
{
    user_init();
    PLACE(USER_CODE, code_int80);
    return user_context(USER_CODE);
}

static void expect_refused(struct context c, word vector, word error)
{
    context_run(&c);
    EXPECT_END_ERROR(&c, vector, error);
    EXPECT_EQ(c.ip, (word)context_iret);
    EXPECT_EQ(c.cs, KCODE);
}

#define USER_FLAGS (LONG_MODE ? FLAG_G | FLAG_L : FLAG_G | FLAG_D)

TEST(iret_bad_cs)
{
    static const struct {
        unsigned selector, access, flags;
        word vector, error;
    } rows[] = {
        {0, 0, 0, GP, 0},
        {3, 0, 0, GP, 0},
        {GDT_SIZE | 3, 0, 0, GP, GDT_SIZE},
        {FREE_SEL | 3, ACC_DATA | ACC_USER, USER_FLAGS, GP, FREE_SEL},
        {FREE_SEL | 3, ACC_CODE, USER_FLAGS, GP, FREE_SEL}, /* DPL 0 for RPL 3 */
        {FREE_SEL | 3, (ACC_CODE | ACC_USER) & ~ACC_P, USER_FLAGS, NP, FREE_SEL},
        {FREE_SEL | 3, ACC_LDT | ACC_USER, 0, GP, FREE_SEL},
        {FREE_SEL | 7, ACC_CODE | ACC_USER, USER_FLAGS, GP, FREE_SEL | 4}, /* there is no LDT */
#ifdef __x86_64__
        {FREE_SEL | 3, ACC_CODE | ACC_USER, FLAG_G | FLAG_L | FLAG_D, GP, FREE_SEL},
#endif
    };

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct context c = user();

        gdt_set(FREE_SEL, 0, 0xfffff, rows[i].access, rows[i].flags);
        c.cs = rows[i].selector;
        if (!(c.cs & 3))
            c.ss = KDATA;
        expect_refused(c, rows[i].vector, rows[i].error);
    }
}

TEST(iret_bad_ss)
{
    static const struct {
        unsigned selector, access;
        word vector, error;
    } rows[] = {
        {0, 0, GP, 0},
        {3, 0, GP, 0},
        {GDT_SIZE | 3, 0, GP, GDT_SIZE},
        {FREE_SEL | 3, ACC_DATA, GP, FREE_SEL},            /* DPL 0 */
        {FREE_SEL, ACC_DATA | ACC_USER, GP, FREE_SEL},     /* RPL 0 */
        {FREE_SEL | 3, 0x90 | ACC_USER, GP, FREE_SEL},     /* read-only */
        {FREE_SEL | 3, ACC_CODE | ACC_USER, GP, FREE_SEL}, /* code */
        {FREE_SEL | 3, (ACC_DATA | ACC_USER) & ~ACC_P, SS, FREE_SEL},
    };

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct context c = user();

        gdt_set(FREE_SEL, 0, 0xfffff, rows[i].access, FLAG_G | FLAG_D);
        c.ss = rows[i].selector;
        expect_refused(c, rows[i].vector, rows[i].error);
    }
}

/* A return address out of reach: still in the kernel. */
TEST(iret_bad_ip)
{
    struct context c = user();

#ifdef __x86_64__
    c.ip = 0x800000000000;
    expect_refused(c, GP, 0);
    c.ip = 0xffff7fffffffffff;
    expect_refused(c, GP, 0);
#else
    gdt_set(FREE_SEL, 0, 0xfff, ACC_CODE | ACC_USER, FLAG_D);
    c.cs = FREE_SEL | 3;
    c.ip = 0x1000;
    expect_refused(c, GP, 0);
#endif
}

/* Data segments of the kernel's do not survive the way out (those of the user's ring do). */
TEST(iret_clears_segments)
{
    struct context c = user();

    PLACE(USER_CODE, code_segments);
    c.ds = KDATA;
    c.es = UDATA;
    c.fs = KDATA;
    c.gs = UDATA2;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 0);
    EXPECT_EQ(c.cx, UDATA);
    EXPECT_EQ(c.dx, 0);
    EXPECT_EQ(c.bx & 0xffff, UDATA2);
}

/* What flags ring 0 may give ring 3: all of them. */
TEST(iret_flags)
{
    static const word flags[] = {FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF | FL_DF, FL_IF | FL_IOPL, FL_AC | FL_ID,
                                 FL_NT};

    for (unsigned i = 0; i < 4; i++) {
        struct context c = user();

        c.flags = FL_1 | flags[i];
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.flags, FL_1 | flags[i]);
    }
}

/* Sets NT for the IRET of ring 3 itself. */
CODE(code_nt_iret, "push " AX "\n popf\n iret" W);
TEST(iret_nested_task)
{
    struct context c = user();

    PLACE(USER_CODE, code_nt_iret);
    c.ax = FL_1 | FL_NT;
    context_run(&c);
    /* Long mode: #GP(0). Else a return to the task in the TSS's back link, which is 0: #TS. */
    if (LONG_MODE)
        EXPECT_END_ERROR(&c, GP, 0);
    else
        EXPECT_END_ERROR(&c, TS, 0);
    EXPECT_EQ(c.ip, USER_CODE + 2);
}

#ifdef __x86_64__

/* 64-bit code below ring 3 may have a null SS; IRETQ always takes RSP and SS. */
TEST(iret_null_ss_in_kernel)
{
    struct context k = kernel_context((word)code_int80);

    k.ss = 0;
    k.sp -= 0x100;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.ss, 0);
    EXPECT_EQ(k.sp, kernel_context(0).sp - 0x100);
}

/* To compatibility mode: 32-bit code, EIP and ESP cut to 32 bits. */
CODE(code_compat, ".code32\n inc %eax\n push %ebx\n pop %ecx\n mov %esp, %edx\n lea (%ebx, %ebx), %esi\n int $0x80");
TEST(iret_to_compat)
{
    struct context c = user();

    PLACE(USER_CODE, code_compat);
    c.cs = UCODE32;
    c.ax = 0xfffffffffffffffe;
    c.bx = 0xf0000001;
    c.cx = ~0ul;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ((uint32_t)c.ax, 0xffffffff);
    EXPECT_EQ((uint32_t)c.cx, 0xf0000001);
    EXPECT_EQ((uint32_t)c.si, 0xe0000002);
    EXPECT_EQ(c.cs, UCODE32);
    EXPECT_EQ((uint32_t)c.dx, c.sp);
}

/* Exceptions align the stack to 16 bytes when the ring stays. */
CODE(code_int81, "int $0x81");
TEST(iret_stack_alignment)
{
    for (unsigned i = 0; i < 16; i++) {
        struct context k = kernel_context((word)code_int81);

        k.sp -= 0x100 + i;
        context_run(&k);
        EXPECT_END(&k, 0x81);
        EXPECT_EQ(k.sp, kernel_context(0).sp - 0x100 - i);
        EXPECT_EQ(*(word *)(((k.sp & ~15ul)) - 8), KDATA); /* SS is the first word below the aligned RSP */
    }
}

/* The IST: another stack, whatever the ring. */
TEST(iret_ist)
{
    extern char run_stack_top[];
    uint8_t *stack = page_new();
    struct context k = kernel_context((word)code_int81), c = user();

    memset(stack, 0xee, PAGE);
    tss.ist[4] = (word)stack + PAGE - 8; /* not aligned: the CPU aligns */
    idt_set_ist(0x81, 5);
    k.sp = (word)run_stack_top - 0x200;
    context_run(&k);
    EXPECT_END(&k, 0x81);
    EXPECT_EQ(*(uint64_t *)(stack + PAGE - 16), 0xeeeeeeeeeeeeeeee);
    EXPECT_EQ(*(uint64_t *)(stack + PAGE - 24), KDATA); /* SS, below the aligned top */
    EXPECT_EQ(*(uint64_t *)(stack + PAGE - 32), (word)run_stack_top - 0x200);
    EXPECT_EQ(*(uint64_t *)(stack + PAGE - 56), (word)code_int81 + 2);
    idt_set_access(0x81, ACC_INT_GATE | ACC_USER);
    PLACE(USER_CODE, code_int81);
    context_run(&c);
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(*(uint64_t *)(stack + PAGE - 24), UDATA);
    EXPECT_EQ(*(uint64_t *)(stack + PAGE - 48), UCODE);
}

#endif
