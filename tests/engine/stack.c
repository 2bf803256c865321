/*
 * stack.c: functions that save registers where the stack goes from one page to
 * another, and structures that lie in two pages: what they leave behind, and where exactly they fault when the second
 * page is missing or may not be written. A translator may have one check for all
 * of a function's accesses to its stack or a structure, and other ways where that does not do.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

enum { TIMES = 100 };

/* Called in a loop, CX times; AX and DX show what came back, flags go through the function. */
CODE(code_saves, "1: stc\n call 2f\n adc $0, %eax\n dec %ecx\n jnz 1b\n int $0x80\n"
                 "2: push " BX "\n push " SI "\n push " DI "\n push $0x1234\n pushf\n lea 1(" SI "), %ebx\n"
                 "mov %eax, %esi\n mov %ecx, %edi\n push " DI "\n push " SI "\n"
                 "pop " DX "\n pop " DI "\n popf\n pop " DX "\n pop " DI "\n pop " SI "\n pop " BX "\n ret");
/* A structure's members, read and written, with flags that go over an access. */
CODE(code_members, "1: mov (" BX "), %eax\n add 8(" BX "), %eax\n mov %eax, 16(" BX ")\n adcl $0, 4(" BX ")\n"
                   "mov %ecx, 12(" BX ")\n cmp %eax, 16(" BX ")\n mov 20(" BX "), %edx\n jne 2f\n incl 20(" BX ")\n"
                   "lea 1(" DX "), %edx\n mov %edx, 24(" BX ")\n dec %ecx\n jnz 1b\n 2: int $0x80");
/* A frame with locals, flags written in its midst. */
CODE(code_locals, "1: call 2f\n dec %ecx\n jnz 1b\n int $0x80\n"
                  "2: push " BX "\n push " SI "\n sub $32, " SP "\n mov %eax, 8(" SP ")\n movl $7, 16(" SP ")\n"
                  "add %ecx, 8(" SP ")\n mov 8(" SP "), %edx\n add 16(" SP "), %edx\n mov %edx, %eax\n"
                  "add $32, " SP "\n pop " SI "\n pop " BX "\n ret");

static char *upper, *lower;

/* USER_STACK's page and the one below it, which lies elsewhere in memory. */
static struct context place(const char *code, word size, word sp)
{
    struct context c;

    paging_64();
    user_init();
    upper = page_new();
    page_new();
    lower = page_new();
    map(TEST_VA + PAGE, (word)upper, PTE_PWU);
    map(TEST_VA, (word)lower, PTE_PWU);
    memcpy((void *)USER_CODE, code, size);
    c = user_context(USER_CODE);
    c.sp = sp;
    c.bx = 0x1111;
    c.si = 0x2222;
    c.di = 0x3333;
    c.cx = TIMES;
    return c;
}

static void expect_kept(const struct context *c, word sp)
{
    EXPECT_END(c, 0x80);
    EXPECT_EQ(c->sp, sp);
    EXPECT_EQ(c->bx, 0x1111);
    EXPECT_EQ(c->si, 0x2222);
    EXPECT_EQ(c->di, 0x3333);
    EXPECT_EQ(c->cx, 0);
}

TEST(stack_saves)
{
    for (unsigned at = 0; at <= 10; at++) {
        const word sp = TEST_VA + PAGE + at * sizeof(word);
        struct context c = place(code_saves, CODE_SIZE(code_saves), sp);

        context_run(&c);
        expect_kept(&c, sp);
        EXPECT_EQ(c.ax, TIMES); /* CF came through POPF */
        EXPECT_EQ(c.dx, 0x1234);
    }
}

/* Not aligned, too: then accesses lie in both pages. */
TEST(stack_locals)
{
    for (unsigned at = 0; at <= 10 * sizeof(word); at++) {
        const word sp = TEST_VA + PAGE + at;
        struct context c = place(code_locals, CODE_SIZE(code_locals), sp);

        context_run(&c);
        expect_kept(&c, sp);
        EXPECT_EQ(c.ax, TIMES * (TIMES + 1) / 2 + 7 * TIMES);
    }
}

/* Worn in, then the lower page goes away: the push that first meets it faults, with what came before it done. */
TEST(stack_page_lost)
{
    for (unsigned at = 2; at <= 6; at++) {
        const word sp = TEST_VA + PAGE + at * sizeof(word);
        struct context c = place(code_saves, CODE_SIZE(code_saves), sp);

        context_run(&c);
        expect_kept(&c, sp);
        for (unsigned i = 0; i < 2; i++) {
            memset(lower, 0, PAGE);
            memset(upper, 0, PAGE);
            if (i)
                map(TEST_VA, (word)lower, 5); /* may not be written */
            else
                unmap(TEST_VA);
            c.ip = USER_CODE;
            c.sp = sp;
            c.ax = 0;
            c.cx = 1;
            context_run(&c);
            EXPECT_END(&c, PF);
            EXPECT_EQ(c.error, i ? 7 : 6);
            EXPECT_EQ(c.cr2, TEST_VA + PAGE - sizeof(word));
            EXPECT_EQ(c.sp, TEST_VA + PAGE);
            EXPECT_EQ(((word *)upper)[at - 2], 0x1111); /* below the return address */
            EXPECT_EQ(((word *)lower)[PAGE / sizeof(word) - 1], 0);
            map(TEST_VA, (word)lower, PTE_PWU);
            context_run(&c); /* on from the fault */
            EXPECT_END(&c, 0x80);
            EXPECT_EQ(c.ax, 1);
            EXPECT_EQ(c.bx, 0x1111);
        }
    }
}

static uint32_t *member(unsigned at, unsigned n) /* structure at TEST_VA + at */
{
    at += 4 * n;
    return (uint32_t *)(at < PAGE ? lower + at : upper + at - PAGE);
}

static struct context place_members(unsigned at)
{
    static const uint32_t values[] = {0xfffffff0, 0, 0x20, 0, 0, 0, 0};
    struct context c = place(code_members, CODE_SIZE(code_members), USER_STACK);

    for (unsigned i = 0; i < 7; i++)
        *member(at, i) = values[i];
    c.bx = TEST_VA + at;
    return c;
}

TEST(stack_members)
{
    for (unsigned at = PAGE - 28; at <= PAGE; at += 4) {
        struct context c = place_members(at);

        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.cx, 0);
        EXPECT_EQ(c.ax, 0x10);
        EXPECT_EQ(*member(at, 1), TIMES);
        EXPECT_EQ(*member(at, 3), 1);
        EXPECT_EQ(*member(at, 4), 0x10);
        EXPECT_EQ(*member(at, 5), TIMES);
        EXPECT_EQ(*member(at, 6), TIMES);
    }
}

TEST(stack_members_lost)
{
    for (unsigned at = PAGE - 24; at < PAGE; at += 4) {
        struct context c = place_members(at);

        context_run(&c);
        EXPECT_END(&c, 0x80);
        map(TEST_VA + PAGE, (word)upper, 5); /* may not be written */
        c.ip = USER_CODE;
        c.cx = 1;
        context_run(&c);
        EXPECT_END(&c, PF);
        EXPECT_EQ(c.error, 7);
        EXPECT_EQ(c.cr2 >= TEST_VA + PAGE && c.cr2 < TEST_VA + PAGE + 20, 1);
        EXPECT_EQ(*member(at, 6), TIMES);
        map(TEST_VA + PAGE, (word)upper, PTE_PWU);
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(*member(at, 1), TIMES + 1);
        EXPECT_EQ(*member(at, 6), TIMES + 1);
    }
}
