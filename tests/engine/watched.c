/*
 * watched.c: hot code under single-stepping, debug registers and interrupts let
 * in at exact places, switched on and off by the code itself (SDM vol. 3, 17.2,
 * 17.3, 6.8). step.c, debug.c and window.c have each once.
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

enum { VECTOR = 0x61 };
#define ROUNDS (2 * HOT)

static volatile unsigned traps, sum;
static word base; /* of the code that runs */

/* --- single steps
 * ----------------------------------------------------------------------------------------------------------- */

static void on_step(struct context *c)
{
    traps++;
    sum = sum * 31 + (unsigned)(c->ip - base);
}

/* TF on for eleven instructions of each round: the offsets of the traps are summed up. MOV SS puts its trap off; the
 * POPF that clears TF still has its own. */
CODE(code_steps,
     "1: push " SI "\n popf\n add %ecx, %eax\n push " AX "\n mov %ss, %edx\n mov %edx, %ss\n call 2f\n 3: pop " AX "\n"
     "adc $0, %eax\n push " DI "\n popf\n imul $5, %eax, %eax\n dec %ecx\n jnz 1b\n int $0x80\n"
     "2: addl $1, (" BX ")\n ret");

static struct context steps(bool user, bool stepping)
{
    struct context c = user ? user_context(USER_CODE) : kernel_context(USER_CODE);

    c.ax = 0;
    c.bx = USER_DATA;
    c.cx = ROUNDS;
    c.si = FL_1 | (stepping ? FL_TF : 0);
    c.di = FL_1;
    *(uint32_t *)USER_DATA = 0;
    traps = sum = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(*(uint32_t *)USER_DATA, ROUNDS);
    return c;
}

TEST(watched_steps)
{
    struct context plain, c;
    unsigned first = 0;

    user_init();
    PLACE(USER_CODE, code_steps);
    base = USER_CODE;
    handlers[DB] = on_step;
    for (unsigned i = 0; i < 6; i++) {
        bool user = i >= 3;

        plain = steps(user, false);
        EXPECT_EQ(traps, 0);
        c = steps(user, true);
        EXPECT_EQ(traps, ROUNDS * 10);
        EXPECT_EQ(c.ax, plain.ax);
        EXPECT_EQ(c.flags, plain.flags);
        first = i ? first : sum;
        EXPECT_EQ(sum, first);
    }
}

/* TF set from outside, in the middle of a hot loop, for a few instructions. */
static unsigned steps_left;
static void few_steps(struct context *c)
{
    traps++;
    if (!--steps_left)
        c->flags &= ~(word)FL_TF;
}

static void step_from_here(struct context *c)
{
    apic_eoi();
    steps_left = 20;
    c->flags |= FL_TF;
    apic_write(APIC_TIMER_INITIAL, 200000);
}

CODE(code_plain, "1: add %ecx, %eax\n xor %eax, (" BX ")\n rol $5, %eax\n call 2f\n dec %ecx\n jnz 1b\n int $0x80\n"
                 "2: adc $1, %eax\n push " AX "\n pop " AX "\n ret");
TEST(watched_steps_from_outside)
{
    struct context plain = kernel_context((word)code_plain), begin, c;
    uint32_t want;

    user_init();
    apic_init();
    plain.ax = 0;
    plain.bx = USER_DATA;
    plain.cx = 100000;
    begin = plain;
    *(uint32_t *)USER_DATA = 0;
    context_run(&plain);
    EXPECT_END(&plain, 0x80);
    want = *(uint32_t *)USER_DATA;
    handlers[DB] = few_steps;
    handlers[VECTOR] = step_from_here;
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, VECTOR);
    for (unsigned i = 0; i < 100 && traps < 19; i++) { /* the host may be too busy for an interrupt to come in time */
        apic_write(APIC_TIMER_INITIAL, 50000);
        c = begin;
        c.flags |= FL_IF;
        *(uint32_t *)USER_DATA = 0;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, plain.ax);
        EXPECT_EQ(*(uint32_t *)USER_DATA, want);
    }
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    EXPECT(traps >= 19);
}

/* --- debug registers
 * ---------------------------------------------------------------------------------------------------------- */

enum { EXECUTE = 0, WRITE = 1, LEN4 = 3 };
#define DR7_ONES 0x400u

static word expected_ip[2]; /* of the breakpoints in DR0 and DR1 */
static void on_breakpoint(struct context *c)
{
    unsigned n = c->dr6 & 1 ? 0 : 1;

    traps++;
    EXPECT_EQ(c->dr6 & 0xe00f, 1u << n);
    EXPECT_EQ(c->ip, expected_ip[n]);
    if (!n)
        c->flags |= FL_RF;
    write_dr6(0);
}

/* The code writes DR7 itself: SI and DI by turns. */
CODE(code_debug,
     "1: mov " SI ", %db7\n xchg " SI ", " DI "\n add %ecx, %eax\n code_debug_at: rol $3, %eax\n mov %eax, (" BX ")\n"
     "code_debug_after: dec %ecx\n jnz 1b\n int $0x80");
extern const char code_debug_at[], code_debug_after[];

TEST(watched_debug_registers)
{
    static const word settings[] = {1u << 0 | EXECUTE << 16, 1u << 2 | (word)(WRITE | LEN4 << 2) << 20,
                                    1u << 0 | EXECUTE << 16 | 1u << 2 | (word)(WRITE | LEN4 << 2) << 20};
    word ax = 0;

    user_init();
    expected_ip[0] = (word)code_debug_at;
    expected_ip[1] = (word)code_debug_after;
    write_dr0((word)code_debug_at);
    write_dr1(USER_DATA);
    write_dr6(0);
    handlers[DB] = on_breakpoint;
    for (unsigned i = 0; i < 12; i++) {
        struct context c = kernel_context((word)code_debug);
        word set = i % 4 == 3 ? 0 : settings[i % 4];

        traps = 0;
        c.ax = 0;
        c.bx = USER_DATA;
        c.cx = ROUNDS;
        c.si = DR7_ONES | set;
        c.di = i & 4 ? DR7_ONES | set : DR7_ONES;
        context_run(&c);
        write_dr7(DR7_ONES);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(traps, (i & 4 ? ROUNDS : ROUNDS / 2) * (i % 4 == 3 ? 0 : i % 4 == 2 ? 2 : 1));
        ax = i ? ax : c.ax;
        EXPECT_EQ(c.ax, ax);
    }
}

/* --- interrupt windows
 * ---------------------------------------------------------------------------------------------------------- */

static word window;
static void in_window(struct context *c)
{
    traps++;
    EXPECT_EQ(c->ip, window);
    EXPECT_EQ(c->flags & FL_IF, FL_IF);
    apic_eoi();
}

/* An interrupt is made pending (BP: the APIC's ICR), then let in. */
#define PENDING "1: movl $0x44061, (" BP_ ")\n add %ecx, %eax\n "
#define AGAIN   "cli\n adc $0, %eax\n dec %ecx\n jnz 1b\n int $0x80\n"
CODE(code_sti, PENDING "sti\n nop\n code_sti_at: nop\n " AGAIN);
CODE(code_sti_call, PENDING "sti\n call 2f\n " AGAIN " 2: code_sti_call_at: nop\n ret");
CODE(code_sti_ret, PENDING "call 2f\n code_sti_ret_at: nop\n " AGAIN " 2: sti\n ret");
CODE(code_sti_jump, PENDING "sti\n jmp *" DI "\n ud2\n code_sti_jump_at: nop\n " AGAIN);
CODE(code_popf, PENDING "push " SI "\n popf\n code_popf_at: nop\n " AGAIN);
CODE(code_sti_fault, PENDING "sti\n ud2\n code_sti_fault_at: nop\n " AGAIN);
CODE(code_halt, PENDING "sti\n hlt\n code_halt_at: nop\n " AGAIN);
#define AT(name) extern const char name##_at[]
AT(code_sti);
AT(code_sti_call);
AT(code_sti_ret);
AT(code_sti_jump);
AT(code_popf);
AT(code_sti_fault);
AT(code_halt);

static void skip_ud2(struct context *c)
{
    c->ip += 2;
}

static void windows(const char *code, const char *at)
{
    struct context c = kernel_context((word)code);
    uint32_t want = 0;

    for (uint32_t i = ROUNDS; i; i--)
        want += i;
    traps = 0;
    window = (word)at;
    c.ax = 0;
    c.cx = ROUNDS;
    c.bp = LAPIC_BASE + APIC_ICR;
    c.si = FL_1 | FL_IF;
    c.di = (word)code_sti_jump_at;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(traps, ROUNDS);
    EXPECT_EQ(c.ax, want);
}

TEST(watched_windows)
{
    apic_init();
    handlers[VECTOR] = in_window;
    handlers[UD] = skip_ud2;
    for (unsigned i = 0; i < 2; i++) {
        windows(code_sti, code_sti_at);
        windows(code_sti_call, code_sti_call_at);
        windows(code_sti_ret, code_sti_ret_at);
        windows(code_sti_jump, code_sti_jump_at);
        windows(code_popf, code_popf_at);
        windows(code_sti_fault, code_sti_fault_at);
        windows(code_halt, code_halt_at);
    }
}
