/*
 * window.c: where exactly interrupts are let in. A self-IPI makes one pending
 * with IF = 0; the place where it is then taken is the IP its handler sees
 * (SDM vol. 2, STI, MOV, POP SS; vol. 3, 6.8).
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

enum { VECTOR = 0x61 };

/* Runs kernel code with an interrupt pending and IF = 0. It ends at the interrupt, or at the INT 80h. */
static struct context pending(const char *code)
{
    struct context c = kernel_context((word)code);

    apic_init();
    apic_self(VECTOR);
    EXPECT(apic_bit(APIC_IRR, VECTOR));
    context_run(&c);
    return c;
}

#define EXPECT_AT(c, code, offset)                                                                                     \
    do {                                                                                                               \
        EXPECT_END(&(c), VECTOR);                                                                                      \
        EXPECT_EQ((c).ip, (word)code + (offset));                                                                      \
    } while (0)

CODE(code_sti_nop, "sti\n nop\n nop\n int $0x80");
CODE(code_sti_cli, "sti\n cli\n nop\n int $0x80");
CODE(code_sti_hlt, "sti\n hlt\n nop\n int $0x80");
CODE(code_sti_sti, "sti\n sti\n nop\n int $0x80");
CODE(code_sti_ret, "call 1f\n nop\n int $0x80\n 1: sti\n ret");
CODE(code_sti_jump, "sti\n jmp 1f\n nop\n 1: nop\n int $0x80");
CODE(code_popf, "push " AX "\n popf\n nop\n int $0x80");
CODE(code_cli_popf, "cli\n push " AX "\n popf\n nop\n int $0x80");

/* One instruction after STI runs. */
TEST(window_sti)
{
    struct context c = pending(code_sti_nop);

    EXPECT_AT(c, code_sti_nop, 2);
    EXPECT_EQ(c.flags & FL_IF, FL_IF);
}

TEST(window_sti_cli)
{
    struct context c = pending(code_sti_cli);

    EXPECT_END(&c, 0x80);
    EXPECT(apic_bit(APIC_IRR, VECTOR));
}

/* The idle loop's race: HLT is entered, and left at once. */
TEST(window_sti_hlt)
{
    struct context c = pending(code_sti_hlt);

    EXPECT_AT(c, code_sti_hlt, 2);
}

/* The second STI finds IF set: no new shadow. */
TEST(window_sti_sti)
{
    struct context c = pending(code_sti_sti);

    EXPECT_AT(c, code_sti_sti, 2);
}

TEST(window_sti_branch)
{
    struct context c = pending(code_sti_ret);

    EXPECT_AT(c, code_sti_ret, 5);
    asm volatile("" : : : "memory");
    apic_eoi();
    c = pending(code_sti_jump);
    EXPECT_AT(c, code_sti_jump, 4);
}

/* POPF and IRET have no shadow. */
TEST(window_popf)
{
    struct context c = kernel_context((word)code_popf);

    apic_init();
    apic_self(VECTOR);
    c.ax = FL_1 | FL_IF;
    context_run(&c);
    EXPECT_AT(c, code_popf, 2);
}

TEST(window_iret)
{
    struct context c = kernel_context((word)code_sti_nop);

    apic_init();
    apic_self(VECTOR);
    c.flags |= FL_IF;
    context_run(&c);
    EXPECT_AT(c, code_sti_nop, 0);
    /* To the user as well. */
    paging_64();
    user_init();
    apic_init();
    apic_eoi();
    apic_self(VECTOR);
    c = user_context(USER_CODE);
    c.flags |= FL_IF;
    context_run(&c);
    EXPECT_END(&c, VECTOR);
    EXPECT_EQ(c.ip, USER_CODE);
    EXPECT_EQ(c.cs, UCODE);
}

/* A fault in the shadow: STI's shadow is used up by the faulting instruction's handler entry, IF is saved as 1. */
CODE(code_sti_fault, "sti\n ud2\n int $0x80");
TEST(window_fault_in_shadow)
{
    struct context c = pending(code_sti_fault);

    EXPECT_END(&c, UD);
    EXPECT_EQ(c.ip, (word)code_sti_fault + 1);
    EXPECT_EQ(c.flags & FL_IF, FL_IF);
    /* Past the UD2, with IF = 1, it comes. */
    c.ip += 2;
    context_run(&c);
    EXPECT_AT(c, code_sti_fault, 3);
}

/* MOV SS shadows the next instruction: seen with single-stepping, whose trap is put off too (SDM vol. 2, MOV). */
CODE(code_mov_ss, "mov %ecx, %ss\n nop\n nop\n int $0x80");
CODE(code_mov_ds, "mov %ecx, %ds\n nop\n nop\n int $0x80");
TEST(window_mov_ss)
{
    struct context c = kernel_context((word)code_mov_ss);

    write_dr6(0);
    c.cx = KDATA;
    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, (word)code_mov_ss + 3);
    /* No other segment register does that. */
    c = kernel_context((word)code_mov_ds);
    c.cx = KDATA;
    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_EQ(c.ip, (word)code_mov_ds + 2);
}

#ifndef __x86_64__
CODE(code_pop_ss, "push %ecx\n pop %ss\n nop\n nop\n int $0x80");
CODE(code_lss, "lss (%ebx), %eax\n nop\n nop\n int $0x80");
TEST(window_pop_ss)
{
    struct context c = kernel_context((word)code_pop_ss + 1);
    uint8_t pointer[6] = {0, 0, 0, 0, KDATA, 0};

    c.sp -= 4;
    *(uint32_t *)c.sp = KDATA;
    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, (word)code_pop_ss + 3);
    /* LSS does not inhibit: it loads both at once. */
    c = kernel_context((word)code_lss);
    c.bx = (word)pointer;
    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, (word)code_lss + 3);
}
#endif

/* An interrupt gate clears IF, a trap gate leaves it. */
static word seen_flags;
static void note_flags(struct context *c)
{
    seen_flags = read_flags();
}
CODE(code_int, "sti\n int $0x90\n int $0x91\n int $0x80");
TEST(window_gate_types)
{
    struct context c = kernel_context((word)code_int);

    handlers[0x90] = handlers[0x91] = note_flags;
    c.flags |= FL_IF | FL_NT | FL_AC;
    idt_set_access(0x91, ACC_TRAP_GATE);
    c.ip = (word)code_int + 1;
    TRY("sti\n int $0x90\n cli", : : : "memory");
    EXPECT_EQ(seen_flags & (FL_IF | FL_TF | FL_NT | FL_RF | FL_VM), 0);
    TRY("sti\n int $0x91\n cli", : : : "memory");
    EXPECT_EQ(seen_flags & (FL_IF | FL_TF | FL_NT | FL_RF | FL_VM), FL_IF);
}

/* An interrupt wakes HLT wherever it came from: the timer. */
CODE(code_hlt, "sti\n hlt\n int $0x80");
TEST(window_hlt_timer)
{
    struct context c = kernel_context((word)code_hlt);

    apic_init();
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_LVT_TIMER, VECTOR);
    apic_write(APIC_TIMER_INITIAL, 2000000);
    context_run(&c);
    EXPECT_AT(c, code_hlt, 2);
    EXPECT_EQ(apic_read(APIC_TIMER_CURRENT), 0);
}

/* REP strings are interrupted between two elements, and go on after the handler. */
static volatile unsigned taken;
static word taken_cx;
static void take(struct context *c)
{
    taken++;
    taken_cx = c->cx;
    apic_eoi();
}
TEST(window_rep_string)
{
    uint8_t *buffer = page_new_aligned(0x100000);
    word count = 0x100000, di = (word)buffer;

    apic_init();
    handlers[VECTOR] = take;
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, VECTOR | LVT_PERIODIC);
    apic_write(APIC_TIMER_INITIAL, 100000);
    for (unsigned round = 0; round < 2000 && taken < 20; round++) {
        count = 0x100000;
        di = (word)buffer;
        asm volatile("sti\n rep stosb\n cli" : "+c"(count), "+D"(di) : "a"(round) : "memory");
        EXPECT_EQ(count, 0);
        EXPECT_EQ(di, (word)buffer + 0x100000);
        EXPECT_EQ(buffer[0], round & 0xff);
        EXPECT_EQ(buffer[0xfffff], round & 0xff);
    }
    EXPECT(taken >= 20);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}
