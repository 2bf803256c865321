/*
 * unusual.c: instructions that a translator does fast in the usual case, in hot
 * code in which the unusual one comes now and then (SDM vol. 2: BT, IRET, POPF, SYSCALL,
 * SYSRET, REP).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define ROUNDS (2 * HOT)
#define EVERY  16 /* rounds between two unusual ones */
#define DR6_BS 0x4000u
#define STATUS (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

static unsigned traps;
static word expected_ip;

/* --- bits in memory --------------------------------------------------------------------------------------- */

#define BITS 1024

static uint8_t bitmap[PAGE * 2] __attribute__((aligned(4096)));
static uint8_t model[BITS / 8];

#define CODE_BIT(name, insn) CODE(name, insn "\n setc %al\n int $0x80")
CODE_BIT(code_bt, "btl %ecx, (" BX ")");
CODE_BIT(code_bts, "btsl %ecx, (" BX ")");
CODE_BIT(code_btr, "lock btrl %ecx, (" BX ")");
CODE_BIT(code_btc, "btcl %ecx, (" BX ")");
#ifdef __x86_64__
CODE_BIT(code_bt64, "btq %rcx, (%rbx)");
CODE_BIT(code_bts64, "lock btsq %r9, (%rbx)");
CODE_BIT(code_btr64, "btrq %rcx, (%rbx)");
CODE_BIT(code_btc64, "btcq %r9, (%rbx)");
#endif

static void model_bit(unsigned operation, unsigned bit)
{
    uint8_t *byte = &model[bit / 8], mask = (uint8_t)(1u << bit % 8);

    if (operation == 1)
        *byte |= mask;
    else if (operation == 2)
        *byte &= (uint8_t)~mask;
    else if (operation == 3)
        *byte ^= mask;
}

/* The operand's address is in the middle of the bits. Those that lie before it have negative numbers. */
static void one_bit(const char *code, unsigned operation, uint8_t *base, int number)
{
    struct context c = kernel_context((word)code);
    const unsigned bit = (unsigned)(number + BITS / 2);
    const bool was = model[bit / 8] >> bit % 8 & 1;

    c.ax = 0;
    c.bx = (word)base + BITS / 16;
    c.cx = (word)number;
#ifdef __x86_64__
    c.r9 = (word)number;
#endif
    c.flags |= FL_ZF | (number & 1 ? FL_CF : 0);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, was);
    EXPECT_EQ(c.flags & (FL_CF | FL_ZF), (was ? FL_CF : 0) | FL_ZF);
    model_bit(operation, bit);
    EXPECT_EQ(base[bit / 8], model[bit / 8]);
}

static void all_bits(const char *const code[4], uint8_t *base)
{
    memset(model, 0, sizeof(model));
    memset(base, 0, sizeof(model));
    for (unsigned operation = 1; operation <= 4; operation++)
        for (int n = -BITS / 2; n < BITS / 2; n += operation == 4 ? 3 : 5)
            one_bit(code[operation % 4], operation % 4, base, n);
    EXPECT_EQ(memcmp(model, base, sizeof(model)), 0);
}

TEST(unusual_bits)
{
    static const char *const code[4] = {code_bt, code_bts, code_btr, code_btc};

    all_bits(code, bitmap);
    all_bits(code, bitmap + PAGE - BITS / 16 + 1); /* in two pages, and a word in both */
#ifdef __x86_64__
    static const char *const wide[4] = {code_bt64, code_bts64, code_btr64, code_btc64};

    all_bits(wide, bitmap);
    all_bits(wide, bitmap + PAGE - BITS / 16 + 3);
#endif
}

/* The page that the bit is in goes away now and then. */
CODE(code_bit_loop,
     "1: stc\n btcl %edx, (" BX ")\n sbb %eax, %eax\n sub %eax, %esi\n dec %ecx\n jz 3f\n test $15, %ecx\n"
     "jnz 1b\n int $0x81\n jmp 1b\n 3: int $0x80");
static void take_page(struct context *c)
{
    unmap(USER_DATA);
}

static void give_page(struct context *c)
{
    traps++;
    EXPECT_EQ(c->ip, expected_ip);
    EXPECT_EQ(c->cr2, USER_DATA + 12);
    EXPECT_EQ(c->error, PF_U | PF_W);
    EXPECT_EQ(c->flags & FL_CF, FL_CF);
    map(USER_DATA, USER_DATA, PTE_PWU);
}

TEST(unusual_bit_page)
{
    struct context c;

    paging_64();
    user_init();
    PLACE(USER_CODE, code_bit_loop);
    idt_set_access(0x81, ACC_INT_GATE | ACC_USER);
    handlers[0x81] = take_page;
    handlers[PF] = give_page;
    expected_ip = USER_CODE + 1;
    c = user_context(USER_CODE);
    c.bx = USER_DATA + 32;
    c.dx = (word)-133; /* word -5, bit 27 */
    c.cx = ROUNDS;
    c.si = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(traps, ROUNDS / EVERY - 1);
    EXPECT_EQ(c.si, ROUNDS / 2);
}

/* --- division by memory --------------------------------------------------------------------------------------- */

CODE(code_divide, "1: mov %ecx, %eax\n xor %edx, %edx\n divl (" BX ")\n add %edx, %esi\n mov %ecx, %eax\n cltd\n"
                  "idivl 4(" BX ")\n sub %eax, %edi\n dec %ecx\n jnz 1b\n int $0x80");
static word divisor_at;
static void mend_divisor(struct context *c)
{
    traps++;
    *(int32_t *)divisor_at = divisor_at == USER_DATA ? 7 : -7;
}

TEST(unusual_division)
{
    struct context c = kernel_context((word)code_divide);
    word remainders = 0, quotients = 0;

    user_init();
    handlers[DE] = mend_divisor;
    for (unsigned i = 1; i <= ROUNDS; i++) {
        remainders += i % 7;
        quotients += i / 7;
    }
    for (unsigned i = 0; i < 3; i++) {
        *(int32_t *)USER_DATA = i == 1 ? 0 : 7;
        *(int32_t *)(USER_DATA + 4) = i == 2 ? 0 : -7;
        divisor_at = USER_DATA + (i == 2 ? 4 : 0);
        traps = 0;
        c = kernel_context((word)code_divide);
        c.bx = USER_DATA;
        c.cx = ROUNDS;
        c.si = c.di = 0;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(traps, i > 0);
        EXPECT_EQ(c.si, remainders);
        EXPECT_EQ((uint32_t)c.di, (uint32_t)quotients);
    }
}

/* --- POPF ------------------------------------------------------------------------------------------------------- */

/* SI is what is popped, now and then DI. */
CODE(code_popf, "1: push " SI "\n popf\n pushf\n pop " DX "\n xor " SI ", " DX "\n or " DX ", " BX
                "\n dec %ecx\n jz 3f\n test $15, %ecx\n"
                "jnz 1b\n push " DI "\n popf\n nop\n push " SI "\n popf\n jmp 1b\n 3: int $0x80");
static word popped;
static void trapped(struct context *c)
{
    traps++;
    EXPECT_EQ(c->dr6 & DR6_BS, DR6_BS);
    EXPECT_EQ(c->flags, popped);
    c->flags &= ~(word)FL_TF;
}

TEST(unusual_popf)
{
    static const word plain[] = {FL_1, FL_1 | FL_CF | FL_OF, FL_1 | STATUS, FL_1 | FL_DF | FL_ZF, FL_1 | FL_AC | FL_SF};

    handlers[DB] = trapped;
    for (unsigned i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        struct context c = kernel_context((word)code_popf);

        c.bx = 0;
        c.cx = ROUNDS;
        c.si = plain[i];
        c.di = popped = FL_1 | FL_TF | FL_PF | FL_OF;
        traps = 0;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.bx, 0);
        EXPECT_EQ(traps, ROUNDS / EVERY - 1);
    }
}

#ifdef __x86_64__

/* --- system calls --------------------------------------------------------------------------------------------- */

/* R11's bit 8 is set by the kernel's side every so often: unlike IRET, SYSRET traps at once. */
CODE(code_calls, "1: stc\n syscall\n inc %esi\n adc $0, %ebp\n dec %ebx\n jnz 1b\n int $0x80");
CODE(code_called, "adc $0, %edx\n inc %edi\n test $15, %edi\n jnz 1f\n xor %r12, %r11\n xor %r13, %rcx\n 1: sysretq");

static void stepped(struct context *c)
{
    traps++;
    EXPECT_EQ(c->ip, USER_CODE + 3); /* before INC */
    EXPECT_EQ(c->dr6 & DR6_BS, DR6_BS);
    EXPECT_EQ(c->cs, UCODE64);
    c->flags &= ~(word)FL_TF;
}

static struct context calls(word flags, word rip)
{
    struct context c;

    user_init();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)(UCODE32 & ~3) << 48 | (uint64_t)KCODE << 32);
    wrmsr(MSR_LSTAR, (word)code_called);
    wrmsr(MSR_SFMASK, FL_CF);
    PLACE(USER_CODE, code_calls);
    c = user_context(USER_CODE);
    c.dx = c.si = c.di = c.bp = 0;
    c.bx = ROUNDS;
    c.r12 = flags;
    c.r13 = rip;
    traps = 0;
    return c;
}

static void expect_calls(const struct context *c)
{
    EXPECT_END(c, 0x80);
    EXPECT_EQ(c->si, ROUNDS);
    EXPECT_EQ(c->di, ROUNDS);
    EXPECT_EQ(c->bp, ROUNDS); /* CF came back each time */
    EXPECT_EQ(c->dx, 0);      /* and was masked on the way in */
}

TEST(unusual_system_calls)
{
    struct context c = calls(0, 0);

    handlers[DB] = stepped;
    context_run(&c);
    expect_calls(&c);
    EXPECT_EQ(traps, 0);
    c = calls(FL_TF, 0);
    context_run(&c);
    expect_calls(&c);
    EXPECT_EQ(traps, ROUNDS / EVERY);
    c = calls(FL_ID | FL_AC, 0); /* kept from round to round */
    context_run(&c);
    expect_calls(&c);
}

/* Every so often SYSRET goes to no canonical address, which faults in the kernel or in the program. */
static void return_address(struct context *c)
{
    traps++;
    c->flags |= FL_CF;
    if (c->cs & 3) {
        EXPECT_EQ(c->ip >> 63, 1);
        c->ip ^= c->r13;
        return;
    }
    EXPECT_EQ(c->ip, expected_ip);
    c->cx ^= c->r13;
}

TEST(unusual_return_address)
{
    struct context c = calls(0, 1ull << 63);

    handlers[GP] = return_address;
    expected_ip = (word)code_called + CODE_SIZE(code_called) - 3;
    context_run(&c);
    expect_calls(&c);
    EXPECT_EQ(traps, ROUNDS / EVERY);
}

/* SYSCALL is switched off every so often, and on again by what it raises. */
CODE(code_calls_off, "1: test $15, %ebx\n jnz 2f\n int $0x81\n 2: stc\n syscall\n inc %esi\n adc $0, %ebp\n dec %ebx\n"
                     "jnz 1b\n int $0x80");
static void switch_off(struct context *c)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
}

static void switch_on(struct context *c)
{
    traps++;
    EXPECT_EQ(*(const uint16_t *)c->ip, 0x050f);
    EXPECT_EQ(c->flags & FL_CF, FL_CF);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
}

TEST(unusual_disabled_calls)
{
    struct context c = calls(0, 0);

    PLACE(USER_CODE, code_calls_off);
    idt_set_access(0x81, ACC_INT_GATE | ACC_USER);
    handlers[0x81] = switch_off;
    handlers[UD] = switch_on;
    context_run(&c);
    expect_calls(&c);
    EXPECT_EQ(traps, ROUNDS / EVERY);
}

/* --- IRETQ -------------------------------------------------------------------------------------------------------- */

/* To itself, as a kernel does to serialise; SI is the CS it names, now and then DI; R8 the flags, now and then R12. */
CODE(code_iret,
     "1: mov %rsp, %rdx\n mov %ss, %eax\n push %rax\n push %rdx\n push %r8\n push %rsi\n lea 2f(%rip), %rax\n"
     "push %rax\n iretq\n 2: pushf\n pop %rax\n xor %r8, %rax\n or %rax, %rbp\n sub %rsp, %rdx\n or %rdx, %rbp\n"
     "xchg %rsi, %r14\n xchg %rsi, %r14\n dec %ecx\n jz 3f\n test $15, %ecx\n jnz 1b\n"
     "xchg %rsi, %rdi\n xchg %r8, %r12\n int $0x81\n jmp 1b\n 3: int $0x80");
static void back_to_usual(struct context *c)
{
    const word cs = c->si, flags = c->r8;

    traps++;
    c->si = c->di;
    c->di = cs;
    c->r8 = c->r12;
    c->r12 = flags;
}

/* The IRETQ itself faulted: once more from the pushes on. */
static void bad_return(struct context *c)
{
    EXPECT_EQ(c->error, c->si & 0xfffc);
    back_to_usual(c);
    c->ip = (word)code_iret;
    c->sp = c->dx;
}

static void stepped_return(struct context *c)
{
    EXPECT_EQ(c->dr6 & DR6_BS, DR6_BS);
    back_to_usual(c);
    c->flags &= ~(word)FL_TF;
    c->ip = (word)code_iret; /* a round more */
    c->sp = c->dx;
}

static void nothing(struct context *c)
{
}

static void returns(word cs, word flags, word unusual_cs, word unusual_flags)
{
    struct context c = kernel_context((word)code_iret);

    c.bp = 0;
    c.cx = ROUNDS;
    c.si = cs;
    c.di = unusual_cs;
    c.r8 = flags;
    c.r12 = unusual_flags;
    traps = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.bp, 0);
}

TEST(unusual_iret)
{
    handlers[0x81] = nothing;
    handlers[GP] = bad_return;
    handlers[DB] = stepped_return;
    returns(KCODE, FL_1 | FL_ZF, KCODE, FL_1 | FL_CF | FL_OF | FL_DF);
    EXPECT_EQ(traps, 0);
    returns(KCODE, FL_1 | FL_AC | FL_ID, KDATA, FL_1);
    EXPECT_EQ(traps, ROUNDS / EVERY - 1);
    returns(KCODE, FL_1 | FL_CF, 0, FL_1);
    EXPECT_EQ(traps, ROUNDS / EVERY - 1);
    returns(KCODE, FL_1, KCODE, FL_1 | FL_TF);
    EXPECT_EQ(traps, ROUNDS / EVERY - 1);
}

/* --- REP STOS, REP MOVS ------------------------------------------------------------------------------------------- */

CODE(code_stosb, "rep stosb\n int $0x80");
CODE(code_stosq, "rep stosq\n int $0x80");
CODE(code_movsb, "rep movsb\n int $0x80");
CODE(code_movsq, "rep movsq\n int $0x80");

static struct context string(const char *code, word to, word from, word count, bool down)
{
    struct context c = kernel_context((word)code);

    c.ax = 0x8877665544332211;
    c.di = to;
    c.si = from;
    c.cx = count;
    c.flags |= STATUS | (down ? FL_DF : 0);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.cx, 0);
    EXPECT_EQ(c.flags & (STATUS | FL_DF), STATUS | (down ? FL_DF : 0));
    return c;
}

/* Lengths, places, both directions, over a page's edge; up to seven pages at once. */
TEST(unusual_strings)
{
    static uint8_t memory[8 * PAGE] __attribute__((aligned(4096)));

    for (unsigned i = 0; i < HOT; i++) {
        const bool down = i % EVERY == 15;
        const unsigned count = i % 37 == 36 ? 7 * PAGE / 8 - 32 : i % 37, at = PAGE - 128 + i % 11;
        uint8_t *to = memory + at;
        struct context c;

        memset(memory, 0, sizeof(memory));
        if (down && count > 100)
            continue;
        c = string(code_stosq, (word)to, 0, count, down);
        EXPECT_EQ(c.di, (word)to + (down ? -8 * (word)count : 8 * (word)count));
        for (unsigned n = 0; n < count; n++)
            EXPECT_EQ(*(uint64_t *)(down ? to - 8 * n : to + 8 * n), 0x8877665544332211);
        EXPECT_EQ(to[down ? 8 : -1], 0);
        EXPECT_EQ(*(down ? to - 8 * count : to + 8 * count), 0);
        c = string(code_stosb, (word)to, 0, count, down);
        EXPECT_EQ(c.di, (word)to + (down ? -(word)count : (word)count));
        for (unsigned n = 0; n < 2 * PAGE; n++)
            memory[n] = (uint8_t)(n * 7);
        /* Upwards the one before repeats itself. */
        c = string(code_movsb, (word)to, (word)to - 1, count, down);
        EXPECT_EQ(c.si, c.di - 1);
        for (unsigned n = 0; n < count && n < PAGE; n++)
            EXPECT_EQ(*(down ? to - n : to + n), (uint8_t)((down ? at - n - 1 : at - 1) * 7));
        memcpy(memory + 3 * PAGE + 5, to, PAGE);
        if (count > 100)
            continue;
        c = string(code_movsq, (word)memory + 4 * PAGE, (word)to, count, false);
        EXPECT_EQ(memcmp(memory + 4 * PAGE, to, 8 * count), 0);
    }
}

#endif
