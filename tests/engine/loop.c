/*
 * loop.c: loops that only an interrupt ends, loops that interrupts must leave no
 * trace in, calls and returns that do not pair, at depths that no predictor and
 * no private stack holds.
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

enum { TIMER = 0x62 };

static void timer(uint32_t count)
{
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_LVT_TIMER, TIMER);
    apic_write(APIC_TIMER_INITIAL, count);
}

/* --- endless
 * ---------------------------------------------------------------------------------------------------------- */

/* BX is where each begins. */
CODE(code_jmp, "1: jmp 1b");
CODE(code_cond, "1: xor %eax, %eax\n jz 1b");
CODE(code_chain, "1: jmp 2f\n 3: jmp 1b\n 2: jmp 3b");
CODE(code_call, "1: call 2f\n jmp 1b\n 2: ret");
CODE(code_drop, "1: call 2f\n 2: pop " AX "\n jmp 1b");
CODE(code_ret, "1: push " BX "\n ret");
CODE(code_indirect, "1: jmp *" BX);
CODE(code_forward, "lea 1f - code_forward(" BX "), " DX "\n jmp *" DX "\n ud2\n 1: lea 2f - code_forward(" BX "), " DX
                   "\n jmp *" DX "\n"
                   "ud2\n 2: push " BX "\n ret");
CODE(code_count, "1: loop 1b\n jmp 1b");
CODE(code_lods, "1: mov $64, %ecx\n mov " BX ", " SI "\n rep lodsb\n jmp 1b");
CODE(code_int, "1: int $0x81\n jmp 1b");
CODE(code_ud, "1: ud2\n jmp 1b");
CODE(code_window, "1: sti\n nop\n cli\n jmp 1b");
#ifdef __x86_64__
CODE(code_iret,
     "1: mov %rsp, %rdx\n mov %ss, %eax\n push %rax\n push %rdx\n pushf\n mov %cs, %eax\n push %rax\n push %rbx\n"
     "iretq");
#else
CODE(code_iret, "1: pushf\n push %cs\n push %ebx\n iret");
#endif

static const struct {
    const char *code, *end;
    bool kernel_only;
} endless[] = {
    {code_jmp, code_jmp_end},
    {code_cond, code_cond_end},
    {code_chain, code_chain_end},
    {code_call, code_call_end},
    {code_drop, code_drop_end},
    {code_ret, code_ret_end},
    {code_indirect, code_indirect_end},
    {code_forward, code_forward_end},
    {code_count, code_count_end},
    {code_lods, code_lods_end},
    {code_int, code_int_end},
    {code_ud, code_ud_end},
    {code_window, code_window_end, true},
    {code_iret, code_iret_end, true},
};

static void nothing(struct context *c)
{
}

static void skip_ud2(struct context *c)
{
    c->ip += 2;
}

TEST(loop_endless)
{
    apic_init();
    user_init();
    handlers[0x81] = nothing;
    handlers[UD] = skip_ud2;
    idt_set_access(0x81, ACC_INT_GATE | ACC_USER);
    for (unsigned i = 0; i < 2 * sizeof endless / sizeof *endless; i++) {
        const char *code = endless[i / 2].code;
        word size = (word)(endless[i / 2].end - code), start = i & 1 ? USER_CODE : (word)code;
        struct context c = i & 1 ? user_context(start) : kernel_context(start);

        if ((i & 1) && endless[i / 2].kernel_only)
            continue;
        memcpy((void *)USER_CODE, code, size);
        c.bx = start;
        c.cx = 0;
        c.flags |= code == code_window ? 0 : FL_IF; /* there it is set in the loop alone */
        for (unsigned round = 1; round < 6; round++) {
            timer(70000 * round);
            context_run(&c);
            EXPECT_END(&c, TIMER);
            EXPECT(c.ip - start < size);
            EXPECT(code != code_window || c.ip == start + 2);
            apic_eoi();
        }
    }
}

/* --- interrupts anywhere
 * ------------------------------------------------------------------------------------------------- */

/* Every kind of instruction that has state to lose: flags of each kind, memory, the stack, strings, calls, indirect
 * jumps, vector registers. BX: 8 KiB of data. */
CODE(code_busy,
     "mov " BX ", " BP_ "\n"
     "1: imul $1103515245, %eax, %eax\n adc $12345, %eax\n mov %eax, %edx\n and $0xff8, %edx\n"
     "add %eax, (" BP_ ", " DX ")\n adc 4(" BP_ ", " DX "), %esi\n rol %cl, %esi\n"
     "push " SI "\n push " AX "\n call 2f\n pop " AX "\n pop " DX "\n xor %edx, %esi\n"
     "cmp %esi, %eax\n sbb %edx, %edx\n lock xadd %edx, 8(" BP_ ")\n setc %dl\n adc %edx, %edi\n"
     "shld $5, %eax, %edi\n bts %ecx, 16(" BP_ ")\n adc $0, %edi\n"
     "movd %edi, %xmm1\n paddd %xmm1, %xmm0\n movups 0x20(" BP_ "), %xmm2\n pxor %xmm0, %xmm2\n movups %xmm2, 0x20(" BP_
     ")\n"
     "ucomisd %xmm0, %xmm2\n adc $7, %esi\n"
     "push " DI "\n push " SI "\n push " CX "\n lea 0x40(" BP_ "), " SI "\n lea 0x1043(" BP_ "), " DI
     "\n mov $5, %ecx\n"
     "rep movsl\n mov %edi, %edx\n pop " CX "\n pop " SI "\n pop " DI "\n adc %edx, %esi\n" CALL_HERE DX
     "\n test $4, %al\n lea 3f - 771b(" DX "), " DX "\n jz 4f\n lea 5f - 3f(" DX "), " DX "\n 4: jmp *" DX "\n"
     "2: sub %esi, " STRING(WORD) "(" SP ")\n adc $0, %edi\n ret\n"
                                  "5: inc %esi\n cmc\n 3: adc $0x111, %edi\n"
                                  "dec %ecx\n jnz 1b\n movups %xmm0, 0x60(" BP_ ")\n xor %edx, %edx\n int $0x80");

static uint32_t period, random_state;
static unsigned interrupts;

static uint32_t random32(void)
{
    return random_state = random_state * 1664525 + 1013904223;
}

static void next_time(struct context *c)
{
    interrupts++;
    apic_eoi();
    if (period)
        apic_write(APIC_TIMER_INITIAL, period + (random32() >> 8) % (4 * period));
}

/* Twice what an interrupt itself takes: the interrupted code is sure to get on. */
static uint32_t interrupt_period(void)
{
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, LVT_MASKED | TIMER);
    apic_write(APIC_TIMER_INITIAL, 0xffffffff);
    for (unsigned i = 0; i < 50; i++)
        asm volatile("int %0" : : "i"(TIMER) : "memory");
    return (0xffffffff - apic_read(APIC_TIMER_CURRENT)) / 25 + 1;
}

static uint32_t checksum(const uint32_t *data, unsigned count)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum = (sum << 5 | sum >> 27) ^ data[i];
    return sum;
}

static struct context busy(bool user, unsigned rounds, uint32_t *sum)
{
    struct context c = user ? user_context(USER_CODE) : kernel_context((word)code_busy);

    memset((void *)USER_DATA, 0x5a, 2 * PAGE);
    c.ax = 12345;
    c.bx = USER_DATA;
    c.cx = rounds;
    c.dx = c.si = c.di = 0;
    c.flags |= period ? FL_IF : 0;
    asm volatile("pxor %xmm0, %xmm0");
    context_run(&c);
    EXPECT_END(&c, 0x80);
    *sum = checksum((uint32_t *)USER_DATA, 2 * PAGE / 4);
    return c;
}

static void undisturbed(bool user)
{
    enum { ROUNDS = 20000 };
    struct context calm, c;
    uint32_t calm_sum, sum;

    write_cr0(read_cr0() & ~(word)(CR0_TS | CR0_EM));
    write_cr4(read_cr4() | CR4_OSFXSR);
    user_init();
    PLACE(USER_CODE, code_busy);
    apic_init();
    handlers[TIMER] = next_time;
    calm = busy(user, ROUNDS, &calm_sum);
    interrupts = 0;
    for (unsigned round = 0; round < 4 || (round < 50 && interrupts < 200); round++) {
        random_state = round;
        period = interrupt_period();
        timer(period);
        c = busy(user, ROUNDS, &sum);
        apic_write(APIC_LVT_TIMER, LVT_MASKED);
        period = 0;
        EXPECT_EQ(sum, calm_sum);
        EXPECT_EQ(c.ax, calm.ax);
        EXPECT_EQ(c.dx, calm.dx);
        EXPECT_EQ(c.si, calm.si);
        EXPECT_EQ(c.di, calm.di);
        EXPECT_EQ(c.bp, calm.bp);
        EXPECT_EQ(c.sp, calm.sp);
        EXPECT_EQ(c.flags & ~(word)FL_IF, calm.flags);
    }
    EXPECT(interrupts > 10);
}

TEST(loop_undisturbed_kernel)
{
    undisturbed(false);
}

TEST(loop_undisturbed_user)
{
    undisturbed(true);
}

/* --- calls and returns
 * ------------------------------------------------------------------------------------------------------ */

CODE(code_recursion,
     "call 1f\n int $0x80\n 1: inc %eax\n dec %ecx\n jz 2f\n push " CX "\n call 1b\n pop " DX "\n add %edx, %esi\n"
     "2: ret");
TEST(loop_deep_recursion)
{
    enum { LEVELS = 200000, STACK = 0x400000 };
    word stack = (word)page_new_aligned(STACK);

    for (unsigned round = 0; round < 3; round++) {
        struct context c = kernel_context((word)code_recursion);

        c.sp = stack + STACK;
        c.ax = c.si = 0;
        c.cx = LEVELS;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, LEVELS);
        EXPECT_EQ(c.si, (uint32_t)((uint64_t)LEVELS * (LEVELS - 1) / 2));
        EXPECT_EQ(c.sp, stack + STACK);
    }
}

/* From 50 levels deep all the way out at once, as longjmp() does it. */
CODE(code_long_jump, "call 1f\n int $0x80\n 1: mov " SP ", " BP_ "\n mov $50, %ecx\n call 2f\n ud2\n"
                     "2: dec %ecx\n jz 3f\n call 2b\n ud2\n"
                     "3: mov " BP_ ", " SP "\n inc %eax\n cmp $1000, %eax\n jne 1b\n ret");
/* 20 levels out of 50, then the others one by one. */
CODE(code_part, "1: mov $50, %ecx\n call 2f\n dec %eax\n jnz 1b\n int $0x80\n"
                "2: dec %ecx\n jz 3f\n call 2b\n inc %esi\n ret\n 3: add $20 * " STRING(WORD) ", " SP "\n ret");
TEST(loop_long_jump)
{
    struct context c = kernel_context((word)code_long_jump);
    word sp = c.sp;

    c.ax = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 1000);
    EXPECT_EQ(c.sp, sp);
    c = kernel_context((word)code_part);
    c.ax = 1000;
    c.si = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.si, 29 * 1000);
    EXPECT_EQ(c.sp, sp);
}

/* Two stacks that hand over to each other at every call. */
CODE(code_yield, "lea -1024(" SP "), " BX "\n" CALL_HERE AX "\n lea 2f - 771b(" AX "), " AX
                 "\n sub $" STRING(WORD) ", " BX "\n"
                                         "mov " AX ", (" BX ")\n xor %eax, %eax\n"
                                         "1: inc %eax\n call 3f\n dec %ecx\n jnz 1b\n int $0x80\n"
                                         "2: add $0x10000, %eax\n call 3f\n add $0x20000, %eax\n call 3f\n jmp 2b\n"
                                         "3: xchg " BX ", " SP "\n ret");
TEST(loop_coroutines)
{
    struct context c = kernel_context((word)code_yield);

    c.cx = 1000;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 1000 + 1500 * 0x10000);
}

/* Returns as jumps: a list of return addresses that nobody called from, another one each time. */
CODE(code_gadgets, ".set i, 0\n .rept 16\n .balign 16\n rol $3, %eax\n xor $i, %eax\n ret\n .set i, i + 1\n .endr\n"
                   ".balign 16\n int $0x80");
TEST(loop_return_chain)
{
    word *stack = (word *)(USER_DATA + 0x800);

    user_init();
    PLACE(USER_CODE, code_gadgets);
    for (unsigned round = 0; round < HOT; round++) {
        struct context c = user_context(USER_CODE + 16 * (round % 16));
        uint32_t want = 3u << 31 | round;

        c.ax = want;
        c.sp = (word)stack;
        for (unsigned i = 0; i < 40; i++) {
            unsigned gadget = i ? random32() >> 20 & 15 : round % 16;

            want = (want << 3 | want >> 29) ^ gadget;
            if (i)
                stack[i - 1] = USER_CODE + 16 * gadget;
        }
        stack[39] = USER_CODE + 16 * 16;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, want);
        EXPECT_EQ(c.sp, (word)(stack + 40));
    }
}

/* As many jumps back as a block can hold; the last one is taken. */
CODE(code_backward, "1: inc %edx\n dec %ecx\n .rept 29\n jo 1b\n .endr\n jnz 1b\n int $0x80");

TEST(loop_many_jumps)
{
    for (unsigned round = 0; round < HOT; round++) {
        struct context c = kernel_context((word)code_backward);

        c.cx = 100 + round;
        c.dx = 0;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.cx, 0);
        EXPECT_EQ(c.dx, 100 + round);
    }
}
