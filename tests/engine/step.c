/*
 * step.c: single-stepping by TF (SDM vol. 3, 17.3.1.4; AMD APM vol. 2,
 * 13.1.4): a trap after each instruction and each iteration of a REP string.
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define DR6_BS 0x4000u

/* Steps through the context's code to its INT 80h; the offset from code after each step must be as listed. */
static void steps(struct context *c, const char *code, const uint8_t *offsets, unsigned count)
{
    unsigned n = 0;

    c->flags |= FL_TF;
    for (;;) {
        write_dr6(0);
        context_run(c);
        if (c->vector != DB || n > 100)
            break;
        EXPECT_EQ(c->dr6 & 0xe00f, DR6_BS);
        EXPECT_EQ(c->flags & FL_TF, FL_TF);
        if (n < count)
            EXPECT_EQ(c->ip - (c->cs & 3 ? USER_CODE : (word)code), offsets[n]);
        n++;
    }
    EXPECT_END(c, 0x80);
    EXPECT_EQ(c->flags & FL_TF, FL_TF);
    EXPECT_EQ(n, count);
}

static struct context user_at(const char *code, word size)
{
    struct context c;

    user_init();
    memcpy((void *)USER_CODE, code, size);
    c = user_context(USER_CODE);
    c.bx = USER_DATA;
    return c;
}
#define USER(code) user_at(code, CODE_SIZE(code))
#define STEPS(c, code, ...)                                                                                            \
    do {                                                                                                               \
        static const uint8_t offsets[] = {__VA_ARGS__};                                                                \
        steps(&(c), code, offsets, sizeof offsets);                                                                    \
    } while (0)

CODE(code_plain, "nop\n mov $1, %al\n add $2, %al\n jmp 1f\n nop\n 1: push " CX "\n pop " CX "\n movb %al, (" BX ")\n"
                 "incb (" BX ")\n int $0x80");

TEST(step_instructions)
{
    struct context c = USER(code_plain), k = kernel_context((word)code_plain);

    STEPS(c, code_plain, 1, 3, 5, 8, 9, 10, 12, 14);
    EXPECT_EQ(c.ax & 0xff, 3);
    EXPECT_EQ(*(uint8_t *)USER_DATA, 4);
    k.bx = USER_DATA;
    STEPS(k, code_plain, 1, 3, 5, 8, 9, 10, 12, 14);
}

CODE(code_loop, "mov $3, %cl\n 1: dec %cl\n jnz 1b\n int $0x80");
TEST(step_loop)
{
    struct context c = USER(code_loop);

    STEPS(c, code_loop, 2, 4, 2, 4, 2, 4, 6);
}

/* Instructions that leave the CPU for a device or the monitor: each one step. */
CODE(code_exits, "cpuid\n out %al, $0x80\n in $0x80, %al\n mov (" SI "), %eax\n rdtsc\n mov %cr0, " AX "\n wbinvd\n"
                 "int $0x80");
TEST(step_exits)
{
    struct context k = kernel_context((word)code_exits);

    apic_init();
    k.si = LAPIC_BASE + APIC_VERSION;
    STEPS(k, code_exits, 2, 4, 6, 8, 10, 13, 15);
}

/* The trap comes after each iteration, with IP at the string instruction (and RF set) until the last. */
CODE(code_rep, "rep stosb\n nop\n int $0x80");
CODE(code_repe, "repe cmpsb\n nop\n int $0x80");
TEST(step_rep)
{
    struct context c = USER(code_rep);

    c.cx = 4;
    c.di = USER_DATA;
    STEPS(c, code_rep, 0, 0, 0, 2, 3);
    EXPECT_EQ(c.cx, 0);
    EXPECT_EQ(c.di, USER_DATA + 4);
    c = USER(code_rep);
    c.cx = 0;
    c.di = USER_DATA;
    STEPS(c, code_rep, 2, 3);
    c = USER(code_rep);
    c.cx = 1;
    c.di = USER_DATA;
    STEPS(c, code_rep, 2, 3);
    /* Ends early by its condition. */
    c = USER(code_repe);
    memcpy((void *)USER_DATA, "abXd....abYd", 12);
    c.cx = 4;
    c.si = USER_DATA;
    c.di = USER_DATA + 8;
    STEPS(c, code_repe, 0, 0, 2, 3);
    EXPECT_EQ(c.cx, 1);
}

/* POPF that sets TF: the next instruction is the first to trap; one that clears it does not trap... after itself it
 * does, since TF was set when it began (SDM vol. 3, 17.3.1.4). */
CODE(code_popf_set, "push " AX "\n popf\n nop\n nop\n int $0x80");
TEST(step_popf)
{
    struct context c = USER(code_popf_set);

    write_dr6(0);
    c.ax = FL_1 | FL_TF;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, USER_CODE + 3);
    c = USER(code_popf_set);
    c.ax = FL_1;
    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, USER_CODE + 1);
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, USER_CODE + 2);
    EXPECT_EQ(c.flags & FL_TF, 0);
    context_run(&c);
    EXPECT_END(&c, 0x80);
}

/* IRET that sets TF: the same. (context_run() enters by one.) */
TEST(step_iret)
{
    struct context c = USER(code_plain), k = kernel_context((word)code_plain);

    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, USER_CODE + 1);
    k.flags |= FL_TF;
    k.bx = USER_DATA;
    context_run(&k);
    EXPECT_END(&k, DB);
    EXPECT_EQ(k.ip, (word)code_plain + 1);
}

CODE(code_pushf, "pushf\n pop " AX "\n int $0x80");
TEST(step_pushf)
{
    struct context c = USER(code_pushf);

    STEPS(c, code_pushf, 1, 2);
    EXPECT_EQ(c.ax & FL_TF, FL_TF);
}

/* INT n enters its handler with TF = 0, and is no step of its own; nor is the handler. */
static volatile word handler_flags;
static void note_flags(struct context *c)
{
    handler_flags = read_flags();
    c->dx++;
}
CODE(code_int, "nop\n int $0x90\n nop\n nop\n int $0x80");
TEST(step_int_n)
{
    struct context c = USER(code_int);

    idt_set_access(0x90, ACC_TRAP_GATE | ACC_USER);
    handlers[0x90] = note_flags;
    c.dx = 0;
    STEPS(c, code_int, 1, 4, 5);
    EXPECT_EQ(c.dx, 1);
    EXPECT_EQ(handler_flags & FL_TF, 0);
}

/* A fault is no step: its frame has TF, DR6 shows nothing. */
CODE(code_fault, "nop\n ud2\n nop\n int $0x80");
TEST(step_fault)
{
    struct context c = USER(code_fault);

    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_END(&c, DB);
    write_dr6(0);
    context_run(&c);
    EXPECT_END(&c, UD);
    EXPECT_EQ(c.ip, USER_CODE + 1);
    EXPECT_EQ(c.flags & FL_TF, FL_TF);
    EXPECT_EQ(c.dr6 & DR6_BS, 0);
    c.ip += 2;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, USER_CODE + 4);
}

/* A page fault in the middle of a stepped REP string, and on. */
TEST(step_rep_fault)
{
    struct context c;
    const word end = USER_DATA + 2 * PAGE;

    paging_64();
    c = USER(code_rep);
    c.cx = 3;
    c.di = end - 1;
    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.cx, 2);
    EXPECT_EQ(c.ip, USER_CODE);
    context_run(&c);
    EXPECT_END(&c, PF);
    EXPECT_EQ(c.cx, 2);
    user_page(end);
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.cx, 1);
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.cx, 0);
    EXPECT_EQ(c.ip, USER_CODE + 2);
}

/* An interrupt that is pending when the trap is due: the trap's handler runs first (SDM vol. 3, table 6-2), or the
 * interrupt's; both happen, once. */
static volatile unsigned interrupts;
static void on_interrupt(struct context *c)
{
    interrupts++;
    apic_eoi();
}
CODE(code_sti, "sti\n nop\n nop\n int $0x80");
TEST(step_and_interrupt)
{
    struct context k = kernel_context((word)code_sti);

    apic_init();
    handlers[0x61] = on_interrupt;
    apic_self(0x61);
    STEPS(k, code_sti, 1, 2, 3);
    EXPECT_EQ(interrupts, 1);
}
