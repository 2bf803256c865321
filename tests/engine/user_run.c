/*
 * user_run.c: what hot code of the user's meets as it runs: addresses that are
 * sums, stacks that grow, interrupts that take pages away, devices in its
 * address space, code that it writes itself.
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"
#include "user.h"

/* --- addresses that are sums ------------------------------------------------------------------------------------- */

/* Each BP times at the sum of what is in BX, SI and a displacement; in the last round SI is R8. */
#define SUM(instruction) "1: cmp $1, %ebp\n cmove %r8, %rsi\n" instruction "\n dec %ebp\n jnz 1b\n int $0x80"
CODE(sum_load, SUM("mov (%rbx, %rsi), %rax"));
CODE(sum_store, SUM("mov %rax, (%rbx, %rsi)"));
CODE(sum_down, SUM("lea (%rbx, %rsi), %rdi\n mov -0x20(%rdi), %rax"));
CODE(sum_up, SUM("lea (%rbx, %rsi), %rdi\n mov 0x7fffffff(%rdi), %eax"));
CODE(sum_far_down, SUM("lea (%rbx, %rsi), %rdi\n movb $1, -0x80000000(%rdi)"));
CODE(sum_scaled, SUM("lea (%rsi, %rsi), %rdi\n sub %rsi, %rdi\n mov (%rbx, %rdi, 4), %eax"));
CODE(sum_fs, SUM("mov %fs:(%rbx, %rsi), %rax"));
CODE(sum_gs, SUM("incl %gs:8(%rbx, %rsi)"));
CODE(sum_push, SUM("lea 8(%rbx, %rsi), %rsp\n push %rax"));
CODE(sum_32, SUM("addr32 mov 0x10(%ebx, %esi), %eax"));

#define HIGH    0x7ffffffff000ul /* the last page of the lower half */
#define FS_BASE 0x7fffffff0000ul
#define GS_BASE (-0x10000ul)

/* base, index: such that the access goes to a page that is there; last: the index in the last round. vector: its fault,
 * with that error code, and that address. */
static const struct sum {
    const char *code, *end;
    word base, index, last, vector, error, address;
} sums[] = {
#define ROW(code, ...)                                                                                                 \
    {                                                                                                                  \
        code, code##_end, __VA_ARGS__                                                                                  \
    }
    /* Sums that wrap around to where a page is. */
    ROW(sum_load, TEST_VA, 0, 8, 0x80),
    ROW(sum_load, TEST_VA, 0, 0xff8, 0x80),
    ROW(sum_load, -0x100ul, TEST_VA + 0x100, TEST_VA + 0x108, 0x80),
    ROW(sum_load, 0x8000000000000000, 0x8000000000000000 + TEST_VA, 0x8000000000000008 + TEST_VA, 0x80),
    ROW(sum_scaled, TEST_VA, 4, 0x4000000000000002, 0x80),
    ROW(sum_scaled, TEST_VA, 4, 0xc000000000000001, 0x80),
    ROW(sum_load, TEST_VA + 0x800, 0, -8ul, 0x80),
    ROW(sum_fs, TEST_VA - FS_BASE, 0, 0x10, 0x80),
    ROW(sum_gs, TEST_VA + 0x10000, 0, 0x20, 0x80),
    ROW(sum_32, TEST_VA + 0x8000000000, 0x1000000000, 0x20, 0x80),
    ROW(sum_32, TEST_VA, 0, 0xffffffff00000010, 0x80),
    ROW(sum_32, TEST_VA + 0x1000, -0x800ul, -0x400ul, 0x80),
    /* Below 0, from a small base, and into the upper half. */
    ROW(sum_down, TEST_VA + 0x20, 0, 0x10 - TEST_VA - 0x20, PF, PF_U, -0x10ul),
    ROW(sum_down, TEST_VA + 0x20, 0, -TEST_VA - 0x20, PF, PF_U, -0x20ul),
    ROW(sum_load, 0x10, TEST_VA, -0x20ul, PF, PF_U, -0x10ul),
    ROW(sum_store, 0x10, TEST_VA, -0x8000ul, PF, PF_U | PF_W, -0x7ff0ul),
    ROW(sum_far_down, TEST_VA + 0x80000000, 0, -TEST_VA, PF, PF_P | PF_U | PF_W, 0), /* the kernel's */
    ROW(sum_far_down, TEST_VA + 0x80000000, 0, -TEST_VA - 0x1000, PF, PF_U | PF_W, -0x1000ul),
    ROW(sum_scaled, TEST_VA, 0, -TEST_VA / 4 - 4, PF, PF_U, -0x10ul),
    ROW(sum_scaled, TEST_VA, 0, -(1ul << 45), PF, PF_U, TEST_VA - (1ul << 47)),
    ROW(sum_scaled, TEST_VA, 0, 1ul << 45, GP),
    ROW(sum_push, TEST_VA, 0x100, 0x100 - TEST_VA - 0x200, PF, PF_U | PF_W, -0x100ul),
    /* Beyond the lower half's end; just before the upper one's begin; and right into it. */
    ROW(sum_load, HIGH, 0, 0x1000, GP),
    ROW(sum_load, HIGH, 0, 0xff9, GP),
    ROW(sum_load, HIGH, 0, 0xff8, 0x80),
    ROW(sum_store, HIGH, 0xff8, 0xfff, GP),
    ROW(sum_store, HIGH, 0, 0x7fffffff, GP),
    ROW(sum_up, HIGH - 0x7fffffff, 0, 0x1000, GP),
    ROW(sum_up, HIGH - 0x7fffffff, 0xffc, 0xffd, GP),
    ROW(sum_down, HIGH + 0x20, 0, 0x1000, GP),
    ROW(sum_down, HIGH + 0x20, 0xff8, 0x1000 - 0x20, 0x80),
    ROW(sum_push, HIGH, 0, 0x1000, SS),
    ROW(sum_push, HIGH, 0, 0xff8, 0x80),
    ROW(sum_load, HIGH, 0, 0x1000 - 0x8000000000000000, GP),
    ROW(sum_load, HIGH, 0, 0xffff000000001000, PF, PF_U, 0xffff800000000000),
    ROW(sum_load, HIGH, 0, 0xffff000000000ff8, GP),
    ROW(sum_fs, TEST_VA - FS_BASE, 0, 0x800000000000 - TEST_VA, GP),
    ROW(sum_fs, HIGH - FS_BASE, 0, 0x1000, GP),
    ROW(sum_fs, HIGH - FS_BASE, 0, 0xff8, 0x80),
    ROW(sum_gs, TEST_VA + 0x10000, 0, -TEST_VA - 0x10000, PF, PF_U | PF_W, -0xfff8ul),
    ROW(sum_gs, TEST_VA + 0x10000, 0, -TEST_VA - 0x18, PF, PF_U | PF_W, -0x10ul),
    ROW(sum_gs, TEST_VA + 0x10000, 0, 0x800000000000 - TEST_VA, GP),
    ROW(sum_32, TEST_VA, 0, 0xffffffff, 0x80),
    ROW(sum_32, TEST_VA, 0, -TEST_VA - 0x20, PF, PF_U, 0xfffffff0),
#undef ROW
};

TEST(user_sums)
{
    user_begin();
    wrmsr(MSR_FS_BASE, FS_BASE);
    wrmsr(MSR_GS_BASE, GS_BASE);
    map(TEST_VA, (word)page_new(), PTE_PWU);
    map(HIGH, (word)page_new(), PTE_PWU);
    for (unsigned i = 0; i < sizeof sums / sizeof *sums; i++) {
        const struct sum *s = &sums[i];
        struct context c = user_code(s->code, (word)(s->end - s->code));

        c.bx = s->base;
        c.si = s->index;
        c.r8 = s->last;
        c.bp = HOT;
        context_run(&c);
        if (c.vector != s->vector || (s->vector != 0x80 && (c.bp != 1 || c.error != s->error))) {
            print("row ");
            print_hex(i);
            print(": ");
            EXPECT_END_ERROR(&c, s->vector, s->error);
        }
        if (s->vector == 0x80)
            continue;
        EXPECT_EQ(c.bp, 1);
        EXPECT_EQ(c.bx, s->base);
        EXPECT_EQ(c.si, s->last);
        if (s->vector == PF)
            EXPECT_EQ(c.cr2, s->address);
    }
}

/* Addresses that are part of the instruction: the last one is in the code that the loop ends with. */
#define FIXED(good, bad) "1: dec %ebp\n jz 2f\n " good "\n jmp 1b\n 2: " bad "\n int $0x80"
CODE(fixed_64, FIXED("movabs 0x1200000, %rax", "movabs 0x800001200000, %rax"));
CODE(fixed_64_store, FIXED("movabs %al, 0x1200000", "movabs %al, 0x4000000001200000"));
CODE(fixed_32, FIXED("mov 0x1200000, %eax", "mov 0xffffffffffffff00, %eax"));
CODE(fixed_ip, FIXED("mov 4f(%rip), %eax", "mov 4f + 0x7ff00000(%rip), %eax") "\n 4:");

TEST(user_fixed_addresses)
{
    static const struct {
        const char *code, *end;
        word vector, address;
    } rows[] = {
        {fixed_64, fixed_64_end, GP, 0},
        {fixed_64_store, fixed_64_store_end, GP, 0},
        {fixed_32, fixed_32_end, PF, -0x100ul},
        {fixed_ip, fixed_ip_end, GP, 0},
    };

    user_begin();
    map(TEST_VA, (word)page_new(), PTE_PWU);
    map(HIGH, (word)page_new(), PTE_PWU);
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct context c = user_context(HIGH + 0x100);

        memcpy((void *)c.ip, rows[i].code, (size_t)(rows[i].end - rows[i].code));
        c.bp = HOT;
        context_run(&c);
        EXPECT_END_ERROR(&c, rows[i].vector, rows[i].vector == PF ? PF_U : 0);
        EXPECT_EQ(c.bp, 0);
        if (rows[i].vector == PF)
            EXPECT_EQ(c.cr2, rows[i].address);
    }
}

/* --- flags ------------------------------------------------------------------------------------------------------- */

/* Flags of CMP %rsi, %rdi outlive accesses of all kinds; conditions read them behind. R9: the conditions, as bits. */
CODE(code_live_flags,
     "1: imul $1103515245, %rsi, %rsi\n add $12345, %rsi\n imul $69069, %rdi, %rdi\n inc %rdi\n mov %r13, %rax\n"
     "and %rsi, %rax\n cmovz %rsi, %rdi\n" /* now and then they are equal */
     "cmp %rsi, %rdi\n pushf\n pop %r10\n xor %ecx, %ecx\n cmp %rsi, %rdi\n"
     "mov 8(%rbx), %r8\n ja 2f\n lea 1(%rcx), %ecx\n 2: mov %r8, 24(%rbx)\n jl 3f\n lea 2(%rcx), %ecx\n"
     "3: push %r8\n jp 4f\n lea 4(%rcx), %ecx\n 4: pop 32(%rbx)\n jo 5f\n lea 8(%rcx), %ecx\n"
     "5: movups (%rbx), %xmm1\n jz 6f\n lea 16(%rcx), %ecx\n 6: movups %xmm1, 0xff8(%rbx)\n jbe 7f\n lea 32(%rcx), "
     "%ecx\n"
     "7: call 8f\n js 9f\n lea 64(%rcx), %ecx\n 9: setc 5(%rbx)\n cmovg (%rbx), %r8\n movb $0, 0xfff(%rbx)\n"
     "pushf\n pop %r11\n cmp %r10, %r11\n jne 9f\n mov %rcx, (%rdx)\n mov %r10, 8(%rdx)\n lea 16(%rdx), %rdx\n"
     "dec %ebp\n jnz 1b\n int $0x80\n 8: mov 7(%rbx), %r8\n jge 8f\n lea 128(%rcx), %ecx\n 8: ret\n 9: ud2");

static word conditions(word f)
{
    const bool c = f & FL_CF, z = f & FL_ZF, s = f & FL_SF, o = f & FL_OF, p = f & FL_PF;

    return (c || z) | (s == o) << 1 | !p << 2 | !o << 3 | !z << 4 | (!c && !z) << 5 | !s << 6 | (s != o) << 7;
}

TEST(user_live_flags)
{
    enum { ROUNDS = HOT };

    user_begin();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        struct context c = USER(code_live_flags);
        const word *seen;

        for (unsigned i = 0; i < 6; i++)
            map(user_places[p] + i * PAGE, (word)page_new(), PTE_PWU);
        c.bx = user_places[p] + 0x10;
        c.dx = user_places[p] + 4 * PAGE;
        c.bp = ROUNDS;
        c.si = 1;
        c.di = 0x8000000000000000;
        c.r13 = 0x1f00;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        seen = (word *)(user_places[p] + 4 * PAGE);
        for (unsigned i = 0; i < ROUNDS; i++)
            EXPECT_EQ(seen[2 * i], conditions(seen[2 * i + 1]));
    }
}

/* --- stacks that grow -------------------------------------------------------------------------------------------- */

enum { STACK_PAGES = 16 };

static struct {
    word low, high; /* the stack's pages */
    word *frames[STACK_PAGES];
    bool fetching; /* the pages had been there before */
    unsigned faults;
} stack;

/* The page that lacks comes. */
static void on_stack_fault(struct context *c)
{
    const word va = c->cr2 & ~(PAGE - 1);

    EXPECT_EQ(c->error, PF_U | (stack.fetching ? 0 : PF_W));
    EXPECT(stack.fetching ? c->cr2 == c->sp || c->cr2 == c->bp : c->cr2 == c->sp - 8 || c->cr2 == c->sp);
    if (va < stack.low || va >= stack.high || ++stack.faults > 2 * STACK_PAGES) {
        handlers[PF] = NULL;
        return;
    }
    map(va, (word)stack.frames[(va - stack.low) / PAGE], PTE_PWU);
}

static void take_stack(struct context *c)
{
    for (word va = stack.low; va < stack.high; va += PAGE)
        if (va != (c->sp & ~(PAGE - 1)))
            unmap(va);
    stack.fetching = true;
}

/* RDI calls deep, with R12 bytes of the stack each. At the deepest point the kernel is called. */
CODE(code_deep, "call 1f\n int $0x80\n 1: push %rbp\n mov %rsp, %rbp\n sub %r12, %rsp\n mov %rdi, (%rsp)\n dec %rdi\n"
                "jz 2f\n call 1b\n jmp 3f\n 2: int $0x81\n 3: add (%rsp), %rax\n leave\n ret");
/* RDI pushes; then as many pops. */
CODE(code_pushes, "mov %rdi, %rcx\n 1: push %rcx\n dec %rcx\n jnz 1b\n mov %rsp, %rbp\n int $0x81\n"
                  "2: pop %rdx\n mov %rsp, %rbp\n add %rdx, %rax\n dec %rdi\n jnz 2b\n int $0x80");

static void grow_stack(struct context c, word count, word sp)
{
    struct context none = {0};

    none.sp = 0;
    take_stack(&none);
    stack.fetching = false;
    stack.faults = 0;
    c.di = count;
    c.sp = sp;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, count * (count + 1) / 2);
    EXPECT_EQ(c.sp, sp);
    EXPECT(stack.faults >= 2 * (STACK_PAGES - 2));
}

static void stack_begin(word low)
{
    handlers[PF] = on_stack_fault;
    handlers[CALL_ELSE] = take_stack;
    stack.low = low;
    stack.high = low + STACK_PAGES * PAGE;
    for (unsigned i = 0; i < STACK_PAGES; i++)
        stack.frames[i] = page_new();
}

TEST(user_stack_grows)
{
    user_begin();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        stack_begin(user_places[p]);
        for (unsigned round = 0; round < 40; round++) {
            struct context c = USER(code_deep);
            const word size = 0x88 + 8 * round;

            c.r12 = size;
            grow_stack(c, (STACK_PAGES - 1) * PAGE / (size + 16), stack.high - 8 * (round % 7));
        }
    }
}

TEST(user_stack_pushes)
{
    user_begin();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        stack_begin(user_places[p]);
        for (unsigned round = 0; round < 16; round++)
            grow_stack(USER(code_pushes), (STACK_PAGES - 1) * PAGE / 8, stack.high - 8 * (round % 5));
    }
}

/* --- interrupts that take pages away ----------------------------------------------------------------------------- */

enum { TIMER = 0x62, TAKEN = 6 };

/* Sums, in four pages from BX on and on a stack. */
CODE(code_busy,
     "1: imul $1103515245, %rax, %rax\n add $12345, %rax\n mov %rax, %rdx\n shr $20, %rdx\n and $0x3ff8, %edx\n"
     "add %rax, (%rbx, %rdx)\n adc 8(%rbx, %rdx), %rsi\n adc $3, %rdi\n xor %rsi, 0x10(%rbx)\n push %rsi\n call 2f\n"
     "pop %rcx\n sbb %rcx, %rdi\n lock xadd %rdx, 0xffc(%rbx)\n rol $3, %rdx\n adc %rdx, %rdi\n"
     "movq %rdi, %xmm1\n movups 0x1ff1(%rbx), %xmm2\n paddq %xmm1, %xmm2\n movups %xmm2, 0x1ff1(%rbx)\n"
     "movzbl %dl, %edx\n cmp %rsi, 0x2100(%rbx)\n mov (%rbx, %rdx), %cl\n cmovc %rsi, %rdi\n setp %cl\n"
     "dec %ebp\n jnz 1b\n int $0x80\n 2: sub %rdi, 8(%rsp)\n adc $0, %rsi\n ret");

static struct {
    word pages[TAKEN]; /* data, stack, code */
    word spare;
    uint32_t period, random;
    unsigned interrupts, faults;
} taking;

static uint32_t random32(void)
{
    return taking.random = taking.random * 1664525 + 1013904223;
}

/* One page is gone, or read-only, or somewhere else, or as new. */
static void on_timer(struct context *c)
{
    const word va = taking.pages[(random32() >> 24) % TAKEN];
    const uint32_t what = random32() >> 24;
    uint64_t *e = entry(va, 1);
    const word frame = *e & ADDRESS;

    taking.interrupts++;
    switch (what & 3) {
    case 0:
        *e &= ~PTE_P;
        break;
    case 1:
        *e &= ~PTE_W;
        break;
    case 2:
        memcpy((void *)taking.spare, (void *)frame, PAGE);
        memset((void *)frame, 0xcc, PAGE);
        *e = (*e & ~ADDRESS) | taking.spare;
        taking.spare = frame;
        break;
    default:
        *e &= ~(PTE_A | PTE_D);
    }
    if (what & 4)
        invlpg(va);
    else
        user_flush();
    apic_eoi();
    apic_write(APIC_TIMER_INITIAL, taking.period + (random32() >> 8) % (4 * taking.period));
}

static void on_taken(struct context *c)
{
    const word va = c->cr2 & ~(PAGE - 1);

    EXPECT(c->error & PF_U);
    taking.faults++;
    for (unsigned i = 0; i < TAKEN; i++)
        if (taking.pages[i] == va) {
            *entry(va, 1) |= PTE_PWU;
            invlpg(va);
            return;
        }
    handlers[PF] = NULL;
}

/* Twice what an interrupt itself takes: the interrupted code is sure to get on. */
static void find_period(void)
{
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, LVT_MASKED | TIMER);
    apic_write(APIC_TIMER_INITIAL, 0xffffffff);
    for (unsigned i = 0; i < 50; i++) {
        user_flush();
        asm volatile("int %0" : : "i"(TIMER + 1) : "memory");
    }
    taking.period = (0xffffffff - apic_read(APIC_TIMER_CURRENT)) / 25 + 1;
}

static void nothing(struct context *c)
{
    apic_eoi();
}

static struct context busy(word va, unsigned rounds, bool disturbed, uint64_t *sum)
{
    struct context c = user_context(USER_CODE);

    for (unsigned i = 0; i < TAKEN; i++)
        *entry(taking.pages[i], 1) |= PTE_PWU;
    user_flush();
    memset((void *)va, 0x5a, 4 * PAGE);
    c.ax = 12345;
    c.bx = va;
    c.sp = va + 8 * PAGE + 0x800;
    c.bp = rounds;
    c.flags |= disturbed ? FL_IF : 0;
    asm volatile("pxor %xmm1, %xmm1\n pxor %xmm2, %xmm2");
    apic_write(APIC_LVT_TIMER, disturbed ? TIMER : LVT_MASKED);
    apic_write(APIC_TIMER_INITIAL, disturbed ? taking.period : 0);
    context_run(&c);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    EXPECT_END(&c, 0x80);
    for (unsigned i = 0; i < TAKEN; i++)
        *entry(taking.pages[i], 1) |= PTE_PWU;
    user_flush();
    *sum = 0;
    for (unsigned i = 0; i < 4 * PAGE / sizeof(word); i++)
        *sum = (*sum << 5 | *sum >> 59) ^ ((uint64_t *)va)[i];
    return c;
}

TEST(user_interrupted)
{
    enum { ROUNDS = 20000 };

    user_begin();
    apic_init();
    handlers[TIMER] = on_timer;
    handlers[TIMER + 1] = nothing;
    handlers[PF] = on_taken;
    taking.spare = (word)page_new();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p];
        struct context calm, c;
        uint64_t calm_sum, sum;

        for (unsigned i = 0; i < 9; i++)
            map(va + i * PAGE, (word)page_new(), PTE_PWU);
        for (unsigned i = 0; i < 4; i++)
            taking.pages[i] = va + i * PAGE;
        taking.pages[4] = va + 8 * PAGE;
        taking.pages[5] = USER_CODE;
        map(USER_CODE, (word)page_new(), PTE_PWU); /* a frame that the kernel has at its own address */
        PLACE(USER_CODE, code_busy);
        calm = busy(va, ROUNDS, false, &calm_sum);
        taking.interrupts = taking.faults = 0;
        for (unsigned round = 0; round < 2 || (round < 60 && taking.faults < 200); round++) {
            taking.random = round;
            find_period();
            c = busy(va, ROUNDS, true, &sum);
            EXPECT_EQ(sum, calm_sum);
            c.flags &= ~(word)FL_IF;
            EXPECT_EQ(memcmp(&c.ax, &calm.ax, offsetof(struct context, cs)), 0);
        }
        EXPECT(taking.faults > 0);
    }
}

/* --- devices, and nothing at all --------------------------------------------------------------------------------- */

#define DEVICE       0xd0000000 /* the runner's: eight registers, then a number */
#define DEVICE_MAGIC 0x10cced
#define NOBODY       0x30000000

/* The register at BX: R12 is written in five ways, read in five ways, and added up in RAX. */
CODE(code_device,
     "1: mov %r12, (%rbx)\n add (%rbx), %rax\n mov %r12d, 4(%rbx)\n mov 4(%rbx), %ecx\n add %rcx, %rax\n"
     "movb $0x77, 3(%rbx)\n movzbl 3(%rbx), %ecx\n add %rcx, %rax\n addl $5, (%rbx)\n lock xadd %ecx, (%rbx)\n"
     "add %rcx, %rax\n push (%rbx)\n pop %rdx\n xor %rdx, %rax\n lea 16(%rbx), %rsp\n push %rax\n pop %rdx\n"
     "mov %r11, %rsp\n add %rdx, %rax\n movups (%rbx), %xmm1\n movups %xmm1, 16(%rbx)\n mov 24(%rbx), %rdx\n"
     "sub %rdx, %rax\n mov %rbx, %rsi\n lea 32(%rbx), %rdi\n mov $4, %ecx\n rep movsq\n adc 56(%rbx), %rax\n"
     "cmpb $0, (%rbx)\n cmovs 8(%rbx), %r12\n xchg %r12, 40(%rbx)\n imul 48(%rbx), %rax\n dec %ebp\n jnz 1b\n"
     "int $0x80");

static struct context use_device(word va)
{
    struct context c = USER(code_device);

    c.bx = va;
    c.bp = HOT;
    c.r11 = c.sp;
    c.r12 = 0x123456789abcdef0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    return c;
}

/* A device's registers are as memory is, at the address of hot code that has just had memory there; and again. */
TEST(user_device)
{
    user_begin();
    map(TEST_VA + 0x100000, DEVICE, PTE_PW);
    if (*(volatile uint32_t *)(TEST_VA + 0x100000 + 64) != DEVICE_MAGIC)
        skip("needs a device");
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p];
        word *frame = page_new(), *device = (word *)(TEST_VA + 0x100000);

        for (unsigned round = 0; round < 4; round++) {
            struct context memory, c;

            memset(frame, 0, 64);
            for (unsigned i = 0; i < 8; i++)
                *(volatile word *)&device[i] = 0;
            map(va, (word)frame, PTE_PWU);
            memory = use_device(va);
            map(va, DEVICE, PTE_PWU);
            c = use_device(va);
            EXPECT_EQ(memcmp(&c.ax, &memory.ax, offsetof(struct context, vector)), 0);
            for (unsigned i = 0; i < 8; i++)
                EXPECT_EQ(*(volatile word *)&device[i], frame[i]);
        }
    }
}

/* Over the end of memory into a device's registers, and back: R8 bytes before it. */
CODE(code_into_device, "1: lea 0x1000(%rbx), %rdx\n sub %r8, %rdx\n mov %rax, (%rdx)\n cmp %rax, (%rdx)\n jne 9f\n"
                       "rol $3, %rax\n add %eax, (%rdx)\n mov (%rdx), %ecx\n add %rcx, %rax\n movups (%rdx), %xmm1\n"
                       "movups %xmm1, -8(%rdx)\n add -8(%rdx), %rax\n lea 8(%rdx), %rsp\n push %rax\n pop %rcx\n"
                       "mov %r11, %rsp\n cmp %rcx, %rax\n jne 9f\n imul $69069, %rax, %rax\n dec %ebp\n jnz 1b\n"
                       "int $0x80\n 9: ud2");

TEST(user_into_device)
{
    user_begin();
    map(TEST_VA + 0x100000, DEVICE, PTE_PW);
    if (*(volatile uint32_t *)(TEST_VA + 0x100000 + 64) != DEVICE_MAGIC)
        skip("needs a device");
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p];
        word ax[2], *frame = page_new(), *second = page_new(), *device = (word *)(TEST_VA + 0x100000);

        for (word before = 1; before < 8; before++) {
            memset(second, 0, 64);
            for (unsigned i = 0; i < 8; i++)
                *(volatile word *)&device[i] = 0;
            for (unsigned i = 0; i < 2; i++) {
                struct context c = USER(code_into_device);

                memset((char *)frame + PAGE - 64, 0, 64);
                map(va, (word)frame, PTE_PWU);
                map(va + PAGE, i ? DEVICE : (word)second, PTE_PWU);
                c.ax = 0x123456789abcdef1;
                c.bx = va;
                c.r8 = before;
                c.r11 = c.sp;
                c.bp = HOT;
                context_run(&c);
                EXPECT_END(&c, 0x80);
                ax[i] = c.ax;
            }
            EXPECT_EQ(ax[1], ax[0]);
            for (unsigned i = 0; i < 8; i++)
                EXPECT_EQ(*(volatile word *)&device[i], second[i]);
        }
    }
}

/* The local APIC's registers are not as memory is. */
CODE(code_apic, "1: mov 0x30(%rbx), %eax\n mov %esi, 0x80(%rbx)\n add 0x80(%rbx), %edx\n add $0x10, %sil\n"
                "mov %edi, 0x30(%rbx)\n dec %ebp\n jnz 1b\n int $0x80");

TEST(user_apic_page)
{
    user_begin();
    apic_init();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        struct context c = USER(code_apic);

        map(user_places[p], LAPIC_BASE, PTE_PWU | 0x18);
        c.bx = user_places[p];
        c.bp = 160;
        c.di = 0x55;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, apic_read(APIC_VERSION));
        EXPECT_EQ((uint32_t)c.dx, 160 / 16 * 0x780);
        EXPECT_EQ(apic_read(APIC_TPR), 0xf0);
        apic_write(APIC_TPR, 0);
    }
}

/* Where nobody is, all bits are ones and nothing is kept. */
CODE(code_nobody,
     "1: mov %rbp, (%rbx)\n mov (%rbx), %rax\n incl 8(%rbx)\n mov 8(%rbx), %ecx\n movzbl 0x20(%rbx), %edx\n"
     "movups 0x30(%rbx), %xmm1\n movq %xmm1, %rsi\n lock xadd %rdi, 0x40(%rbx)\n push 0x50(%rbx)\n pop %r8\n"
     "and %rsi, %rax\n and %rdi, %rax\n and %r8, %rax\n cmp $-1, %rax\n jne 9f\n cmp $-1, %ecx\n jne 9f\n"
     "cmp $0xff, %edx\n jne 9f\n dec %ebp\n jnz 1b\n call *(%rbx)\n 9: ud2");

TEST(user_nobody)
{
    user_begin();
    map(TEST_VA + 0x100000, NOBODY, PTE_PW);
    if (*(volatile word *)(TEST_VA + 0x100000) + 1)
        skip("needs a place where nobody is");
    for (unsigned p = 0; p < USER_PLACES; p++) {
        struct context c = USER(code_nobody);

        map(user_places[p], NOBODY, PTE_PWU);
        c.bx = user_places[p];
        c.bp = HOT;
        context_run(&c);
        EXPECT_END_ERROR(&c, PF, PF_U | PF_I); /* at -1 */
        EXPECT_EQ(c.ip, -1ul);
        EXPECT_EQ(c.cr2, -1ul);
    }
}

/* --- code -------------------------------------------------------------------------------------------------------- */

/* The code at BX adds the four bytes at BX + 1 to EAX; they are written by way of R8, another address of the page, each
 * time in another manner, and then by the kernel. */
CODE(code_patching,
     "1: mov %ebp, 1(%r8)\n call *%rbx\n addl $7, 1(%r8)\n call *%rbx\n movb $3, 2(%r8)\n call *%rbx\n"
     "lock incl 1(%r8)\n call *%rbx\n mov %r8, %rdi\n inc %rdi\n push %rax\n mov %ebp, %eax\n stosl\n pop %rax\n"
     "call *%rbx\n movd %ebp, %xmm1\n paddd %xmm1, %xmm1\n movd %xmm1, 1(%r8)\n call *%rbx\n int $0x81\n call *%rbx\n"
     "dec %ebp\n jnz 1b\n int $0x80");
CODE(code_patched, ".byte 0x05, 0, 0, 0, 0\n ret"); /* ADD $imm32, %eax */

static void on_patch(struct context *c)
{
    uint32_t value = 0x10000;

    memcpy((void *)((*entry(c->bx, 1) & ADDRESS) + (c->bx & (PAGE - 1)) + 1), &value, 4);
}

static uint32_t patched_sum(unsigned rounds)
{
    uint32_t sum = 0;

    for (uint32_t i = rounds; i; i--) {
        uint32_t value = i;

        sum += value;
        sum += value += 7;
        sum += value = (value & ~0xff00u) | 0x300;
        sum += value + 1;
        sum += i + 2 * i + 0x10000;
    }
    return sum;
}

TEST(user_patched_by_alias)
{
    user_begin();
    handlers[CALL_ELSE] = on_patch;
    for (unsigned p = 0; p < USER_PLACES; p++)
        for (unsigned q = 0; q < USER_PLACES; q++) {
            struct context c = USER(code_patching);
            char *frame = page_new();

            PLACE(frame + 0x123, code_patched);
            map(user_places[p], (word)frame, PTE_P | PTE_U);
            map(user_places[q] + 8 * PAGE, (word)frame, PTE_PWU);
            c.bx = user_places[p] + 0x123;
            c.r8 = user_places[q] + 8 * PAGE + 0x123;
            c.bp = HOT;
            context_run(&c);
            EXPECT_END(&c, 0x80);
            EXPECT_EQ((uint32_t)c.ax, patched_sum(HOT));
        }
}

/* A page of data becomes one of code, and of data again, at one address. */
CODE(code_turning, "1: movl $0xc0834890, (%rbx)\n mov %bpl, 4(%rbx)\n movb $0xc3, 5(%rbx)\n call *%rbx\n"
                   "mov $20, %ecx\n 2: add %rcx, 0x40(%rbx)\n incq (%rbx)\n dec %ecx\n jnz 2b\n"
                   "movb $0xc3, (%rbx)\n call *%rbx\n int $0x81\n dec %ebp\n jnz 1b\n int $0x80");
static word *turning[2];

static void on_turning(struct context *c)
{
    map(c->bx & ~(PAGE - 1), (word)turning[!(c->bp & 1)], PTE_PWU);
}

TEST(user_code_and_data)
{
    user_begin();
    handlers[CALL_ELSE] = on_turning;
    turning[0] = page_new();
    turning[1] = page_new();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        struct context c = USER(code_turning);
        word want = 0;

        turning[0][0x48] = turning[1][0x48] = 0;
        map(user_places[p], (word)turning[0], PTE_PWU);
        c.bx = user_places[p] + 0x200;
        c.bp = 2 * HOT;
        for (unsigned i = 2 * HOT; i; i--)
            want += (word)(int8_t)i;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, want);
        EXPECT_EQ(turning[0][0x48], HOT * 210);
        EXPECT_EQ(turning[1][0x48], HOT * 210);
    }
}
