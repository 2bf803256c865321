/*
 * flow.c: control flow and precise state: what a translator that keeps code in
 * blocks could get wrong. All of it runs many times, so that caches engage.
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

static struct context place(const char *code, word size)
{
    struct context c;

    user_init();
    memcpy((void *)USER_CODE, code, size);
    c = user_context(USER_CODE);
    c.bx = USER_DATA;
    return c;
}
#define USER(code) place(code, CODE_SIZE(code))

/* A fault at every load of a long block: registers, memory and flags are those of the instructions before it. */
CODE(code_block, "mov $1, %eax\n add %eax, %eax\n movl %eax, (" BX ")\n 1: movl (" SI "), %ecx\n"
                 "sub $3, %eax\n movl %eax, 4(" BX ")\n 2: addl (" SI "), %ecx\n"
                 "stc\n sbb %edx, %edx\n movl %edx, 8(" BX ")\n 3: cmpl %ecx, (" SI ")\n"
                 "xor %edx, %edx\n movl %edx, 12(" BX ")\n 4: movl %edx, (" DI ")\n int $0x80");

TEST(flow_precise_faults)
{
    struct context c;
    uint32_t *data = (uint32_t *)USER_DATA;

    paging_64();
    for (unsigned round = 0; round < 50; round++) {
        /* Each fault in turn: its page is mapped when it has come. */
        c = USER(code_block);
        memset(data, 0xee, 16);
        unmap(TEST_VA);
        unmap(TEST_VA + PAGE);
        c.si = TEST_VA;
        c.di = TEST_VA + PAGE;
        c.cx = c.dx = 0x7777;
        context_run(&c);
        EXPECT_END_ERROR(&c, PF, PF_U);
        EXPECT_EQ(c.cr2, TEST_VA);
        EXPECT_EQ(c.ax, 2);
        EXPECT_EQ(c.cx, 0x7777);
        EXPECT_EQ(data[0], 2);
        EXPECT_EQ(data[1], 0xeeeeeeee);
        EXPECT_EQ(c.flags & (FL_CF | FL_ZF | FL_SF | FL_OF), 0);
        user_page(TEST_VA);
        *(uint32_t *)TEST_VA = 0x1000;
        context_run(&c);
        EXPECT_END_ERROR(&c, PF, PF_U | PF_W);
        EXPECT_EQ(c.cr2, TEST_VA + PAGE);
        EXPECT_EQ(c.ax, 0xffffffff);
        EXPECT_EQ(c.cx, 0x2000);
        EXPECT_EQ(c.dx, 0);
        EXPECT_EQ(data[1], 0xffffffff);
        EXPECT_EQ(data[2], 0xffffffff);
        EXPECT_EQ(data[3], 0);
        EXPECT_EQ(c.flags & (FL_CF | FL_ZF | FL_SF | FL_PF), FL_ZF | FL_PF);
        user_page(TEST_VA + PAGE);
        context_run(&c);
        EXPECT_END(&c, 0x80);
    }
}

/* Interrupts at any point of a computation leave no trace in registers and flags. */
static volatile unsigned interrupts;
static void on_interrupt(struct context *c)
{
    interrupts++;
    apic_eoi();
}
CODE(code_compute, "1: imul $1103515245, %eax, %eax\n adc $12345, %eax\n rol $7, %edx\n adc %eax, %edx\n sbb $0, %esi\n"
                   "lea 1(" DI "), " DI "\n dec %ecx\n jnz 1b\n int $0x80");

TEST(flow_interrupted_computation)
{
    struct context calm, busy;
    unsigned rounds = 0;

    apic_init();
    handlers[0x61] = on_interrupt;
    calm = kernel_context((word)code_compute);
    calm.ax = 12345;
    calm.cx = 200000;
    calm.dx = calm.si = calm.di = 0;
    busy = calm;
    context_run(&calm);
    EXPECT_END(&calm, 0x80);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, 0x61 | LVT_PERIODIC);
    apic_write(APIC_TIMER_INITIAL, 20000);
    for (; rounds < 50 && interrupts < 200; rounds++) {
        struct context c = busy;

        c.flags |= FL_IF;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, calm.ax);
        EXPECT_EQ(c.dx, calm.dx);
        EXPECT_EQ(c.si, calm.si);
        EXPECT_EQ(c.di, calm.di);
        EXPECT_EQ(c.flags & ~(word)FL_IF, calm.flags);
    }
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    EXPECT(interrupts > 0);
}

#if !LONG_MODE /* there processors differ in the size of the displacement */
/* Conditional jumps of 16 bits, in the midst of a block and not taken: nothing happens. */
CODE(code_short_jumps, "1: add $3, %eax\n clc\n .byte 0x66, 0x0f, 0x82, 0, 0\n"          /* jc */
                       "add $5, %eax\n test %eax, %eax\n .byte 0x66, 0x0f, 0x88, 0, 0\n" /* js */
                       "xor $1, %edx\n dec %ecx\n jnz 1b\n int $0x80");

TEST(flow_short_jumps)
{
    struct context c = kernel_context((word)code_short_jumps);

    c.ax = c.dx = 0;
    c.cx = 1001;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 8 * 1001);
    EXPECT_EQ(c.dx, 1);
}
#endif

/* A loop without an exit of its own: only an interrupt ends it. */
CODE(code_forever, "1: jmp 1b");
TEST(flow_endless_loop)
{
    struct context k = kernel_context((word)code_forever);

    apic_init();
    for (unsigned i = 0; i < 3; i++) {
        apic_write(APIC_TIMER_DIVIDE, 0xb);
        apic_write(APIC_LVT_TIMER, 0x62);
        apic_write(APIC_TIMER_INITIAL, 1000000);
        k.flags |= FL_IF;
        context_run(&k);
        EXPECT_END(&k, 0x62);
        EXPECT_EQ(k.ip, (word)code_forever);
        apic_eoi();
    }
}

/* --- calls and returns that do not pair --------------------------------------------------------------- */

/* The return address is changed, dropped, pushed by hand, or popped as data. */
CODE(code_returns, "mov $1000, %ecx\n"
                   "1: call 2f\n jmp 9f\n 3: call 4f\n 4: pop " DX "\n" /* call to the next instruction */
     CALL_HERE DX "\n lea 5f - 771b(" DX "), " DX "\n push " DX "\n ret\n jmp 9f\n"
                   "5: call 6f\n jmp 9f\n 7: dec %ecx\n jnz 1b\n mov $0x600d, %eax\n int $0x80\n"
                   "2: add" W " $2, (" SP ")\n ret\n"            /* past the JMP of 2 bytes, to 3 */
                   "6: add $" STRING(WORD) ", " SP "\n jmp 7b\n" /* never returns */
                                           "9: mov $0xbad, %eax\n int $0x80");

TEST(flow_odd_returns)
{
    struct context c = USER(code_returns);
    word sp = c.sp;

    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 0x600d);
    EXPECT_EQ(c.sp, sp);
}

/* Recursion, deeper than any return predictor or private stack. */
CODE(code_recursion,
     "call 1f\n int $0x80\n 1: inc %eax\n dec %ecx\n jz 2f\n push " CX "\n call 1b\n pop " DX "\n add %edx, %esi\n"
     "2: ret $0");
TEST(flow_deep_recursion)
{
    for (word depth = 1; depth < 500; depth += 83) {
        struct context c = kernel_context((word)code_recursion);
        char *stack = page_new_aligned(16 * PAGE);

        c.sp = (word)stack + 16 * PAGE;
        c.ax = c.si = 0;
        c.cx = depth;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, depth);
        EXPECT_EQ(c.si, depth * (depth - 1) / 2);
    }
}

/* A stack switched between call and return: the return goes where the memory says. */
CODE(code_switch, "call 1f\n inc %eax\n int $0x80\n 1: xchg " SP ", " BX "\n call 2f\n xchg " SP ", " BX "\n ret\n"
                  "2: add $0x10, %eax\n ret");
TEST(flow_switched_stack)
{
    for (unsigned i = 0; i < 100; i++) {
        struct context c = USER(code_switch);

        c.ax = 0;
        c.bx = USER_DATA + 0x800;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, 0x11);
    }
}

/* --- indirect jumps ---------------------------------------------------------------------------------------- */

/* One jump, eight targets of 4 bytes each in turn: add i to ESI, jump back. */
CODE(code_table, "1: mov %ecx, %eax\n and $7, %eax\n lea 2f - code_table(" BX ", " AX ", 8), " DX "\n jmp *" DX "\n"
                 ".balign 8\n 2: .set i, 1\n .rept 8\n add $i, %esi\n jmp 3f\n .balign 8\n .set i, i * 2\n .endr\n"
                 "3: dec %ecx\n jnz 1b\n int $0x80");
TEST(flow_jump_table)
{
    struct context c = USER(code_table);

    c.bx = USER_CODE;
    c.cx = 8000;
    c.si = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.si, 255000);
}

/* Into the middle of an instruction: BA is MOV to EDX, its immediate 04 01 90 90 is ADD $1, %al and two NOPs. */
CODE(code_overlap, "xor %eax, %eax\n mov $200, %ecx\n 1: jmp 2f + 1\n 2: mov $0x90900104, %edx\n dec %ecx\n jz 3f\n"
                   "test $1, %cl\n jnz 2b\n jmp 1b\n 3: int $0x80");
TEST(flow_overlapping_code)
{
    struct context c = USER(code_overlap);

    c.dx = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 100); /* every other time */
    EXPECT_EQ(c.dx, 0x90900104);
}

CODE(code_conditions,
     "xor %eax, %eax\n mov $300, %ecx\n 1: test $1, %cl\n jz 2f\n add $3, %eax\n 2: test $2, %cl\n jnz 3f\n"
     "add $5, %eax\n 3: cmp $100, %ecx\n ja 4f\n jb 5f\n add $1000, %eax\n 4: inc %eax\n 5: loop 1b\n"
     "jecxz 6f\n ud2\n 6: int $0x80");
TEST(flow_conditions)
{
    struct context c = USER(code_conditions);

    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 150 * 3 + 150 * 5 + 1000 + 201);
}

/* Functions on many pages calling each other: one call, a different target page each time. */
CODE(code_hop,
     "1: mov (" SI "), " DX "\n add $" STRING(WORD) ", " SI "\n call *" DX "\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_leaf, "add $0x1, %eax\n ret");
TEST(flow_many_pages)
{
    enum { PAGES = 64 };
    struct context k = kernel_context((word)code_hop);
    word *list = page_new_aligned(PAGE);

    for (unsigned i = 0; i < PAGES; i++) {
        char *page = page_new();

        PLACE(page + i * 16, code_leaf);
        page[i * 16 + 2] = (char)i;
        list[(i * 29) % PAGES] = (word)page + i * 16;
    }
    for (unsigned round = 0; round < 20; round++) {
        k = kernel_context((word)code_hop);
        k.si = (word)list;
        k.cx = PAGES;
        k.ax = 0;
        context_run(&k);
        EXPECT_END(&k, 0x80);
        EXPECT_EQ(k.ax, PAGES * (PAGES - 1) / 2);
    }
}

/* More code than a small code cache holds, part after part: each runs until any translator has made room for it among
 * what ran before, with calls out on the stack. Copies follow each other, over page edges too. */
CODE(code_copy, "add $0x01010101, %eax\n rol $3, %eax\n call 2f\n jmp 3f\n 2: add %eax, (" BX ")\n ret\n 3:");
CODE(code_again, "dec %ecx\n jz 1f\n jmp *" SI "\n 1: int $0x80");
TEST(flow_much_code)
{
    enum { PARTS = 6, SIZE = 0x8000, ROUNDS = 40 };
    const word copies = SIZE / CODE_SIZE(code_copy);
    char *code = page_new_aligned(2 * SIZE);
    volatile uint32_t *sum = page_new();

    for (unsigned part = 0; part < PARTS; part++) {
        struct context c;
        uint32_t a = part, want = 0;

        for (word i = 0; i < copies; i++) {
            char *copy = code + i * CODE_SIZE(code_copy);

            PLACE(copy, code_copy);
            copy[4] = (char)i;
            copy[3] = (char)(part & 7);
        }
        PLACE(code + copies * CODE_SIZE(code_copy), code_again);
        for (word i = 0; i < ROUNDS * copies; i++) {
            a += (uint32_t)(i % copies) << 24 | (part & 7) << 16 | 0x0101;
            a = a << 3 | a >> 29;
            want += a;
        }
        c = kernel_context((word)code);
        c.ax = part;
        c.bx = (word)sum;
        c.cx = ROUNDS;
        c.si = (word)code;
        *sum = 0;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ((uint32_t)c.ax, a);
        EXPECT_EQ(*sum, want);
    }
}

/* --- data over page edges whose pages lie apart ------------------------------------------------------------------ */

TEST(flow_split_data)
{
    uint8_t *first, *second;
    const word edge = TEST_VA + PAGE;
    uint64_t value = 0;
    word result;

    paging_64();
    second = page_new();
    page_new();
    first = page_new();
    map(TEST_VA, (word)first, PTE_PW);
    map(edge, (word)second, PTE_PW);
    for (unsigned i = 1; i < 8; i++) {
        memset(first + PAGE - 16, 0, 16);
        memset(second, 0, 16);
        *(volatile uint32_t *)(edge - i) = 0x11223344;
        for (unsigned b = 0; b < 4; b++)
            EXPECT_EQ(b < i ? first[PAGE - i + b] : second[b - i], (0x11223344 >> 8 * b) & 0xff);
        asm volatile("lock addl %1, %0" : "+m"(*(uint32_t *)(edge - i)) : "r"(0x01010101) : "memory");
        EXPECT_EQ(*(volatile uint32_t *)(edge - i), 0x12233445);
        result = 0x77;
        asm volatile("xchg %0, %1" : "+r"(result), "+m"(*(word *)(edge - i)) : : "memory");
        EXPECT_EQ((uint32_t)result, 0x12233445);
        EXPECT_EQ(*(volatile uint8_t *)(edge - i), 0x77);
        value = 0;
        asm volatile("lock cmpxchg8b %0"
                     : "+m"(*(uint64_t *)(edge - i))
                     : "a"(0x77), "d"(0), "b"(0x89abcdef), "c"(0x01234567)
                     : "memory");
        memcpy(&value, (void *)(edge - i), 8);
        EXPECT_EQ(value, 0x0123456789abcdef);
        memset((void *)(edge - 8), 0x5a, 16);
        EXPECT_EQ(first[PAGE - 1], 0x5a);
        EXPECT_EQ(second[7], 0x5a);
    }
}

/* Read-modify-write of a device register: the APIC's task priority. */
TEST(flow_mmio_rmw)
{
    volatile uint32_t *tpr = (volatile uint32_t *)(LAPIC_BASE + APIC_TPR);
    uint32_t old = 0x20;

    apic_init();
    *tpr = 0x40;
    asm volatile("orl $0x15, %0" : "+m"(*tpr));
    EXPECT_EQ(*tpr, 0x55);
    asm volatile("lock andl $0xf0, %0" : "+m"(*tpr));
    EXPECT_EQ(*tpr, 0x50);
    asm volatile("xchgl %0, %1" : "+r"(old), "+m"(*tpr));
    EXPECT_EQ(old, 0x50);
    EXPECT_EQ(*tpr, 0x20);
    *tpr = 0;
}

/* A function called through a register gets a translation of its own for data over a page's edge: the calls go there,
 * not each time by way of whoever knows. */
CODE(code_across, "jmp 2f\n 1: mov -4(" BX "), %eax\n add 4(" BX "), %eax\n ret\n"
                  "2: sub %edi, %edi\n call 3f\n 3: pop " DX "\n sub $(3b - 1b), " DX "\n 4: call *" DX
                  "\n add %eax, %edi\n dec %ecx\n jnz 4b\n int $0x80");

static uint32_t lookups(void)
{
    uint32_t value;

    asm volatile("inl %w1, %0" : "=a"(value) : "Nd"(0xec));
    return value;
}

TEST(flow_translated_anew)
{
    uint8_t *first = page_new(), *second = page_new();
    struct context c = kernel_context((word)code_across);
    uint32_t before, i = 7, j = 5;

    paging_64();
    map(TEST_VA, (word)first, PTE_PW);
    map(TEST_VA + PAGE, (word)second, PTE_PW);
    memcpy(first + PAGE - 4, &i, 4);
    memcpy(second + 4, &j, 4);
    c.bx = TEST_VA + PAGE;
    c.cx = 20000;
    before = lookups();
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ((uint32_t)c.di, 12 * 20000);
    EXPECT(lookups() - before < 2000);
}
