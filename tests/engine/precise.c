/*
 * precise.c: faults in hot code: the frame shows the instruction that faulted,
 * and registers, flags, stack pointer and memory as that instruction found
 * them, whatever comes before and after it (SDM vol. 3, 6.5: faults).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define FIRST  TEST_VA
#define SECOND (TEST_VA + PAGE)

/* --- one access of each kind
 * -------------------------------------------------------------------------------------------- */

enum { R = 0, W_ = 1 };
#define ALIGNED 0x80 /* SSE's 16 bytes */

/* X(name, instruction, what it does to memory, bytes). The ADD before it (2 bytes) leaves flags that live only until
 * the instruction or what follows writes its own. */
#define ACCESS_LIST(X)                                                                                                 \
    X(mov_load1, "movb (" BX "), %al", R, 1)                                                                           \
    X(mov_load2, "movw (" BX "), %ax", R, 2)                                                                           \
    X(mov_load4, "movl (" BX "), %eax", R, 4)                                                                          \
    X(mov_load, "mov (" BX "), " AX, R, WORD)                                                                          \
    X(mov_store1, "movb %al, (" BX ")", W_, 1)                                                                         \
    X(mov_store2, "movw %ax, (" BX ")", W_, 2)                                                                         \
    X(mov_store4, "movl $0x12345678, (" BX ")", W_, 4)                                                                 \
    X(mov_store, "mov " AX ", (" BX ")", W_, WORD)                                                                     \
    X(movzx, "movzwl (" BX "), %eax", R, 2)                                                                            \
    X(movsx, "movsbl (" BX "), %eax", R, 1)                                                                            \
    X(add_load, "add (" BX "), %eax", R, 4)                                                                            \
    X(adc_load, "adc (" BX "), %dx", R, 2)                                                                             \
    X(add_rmw, "add %eax, (" BX ")", W_, 4)                                                                            \
    X(sbb_rmw, "sbb " AX ", (" BX ")", W_, WORD)                                                                       \
    X(sub_imm, "subw $5, (" BX ")", W_, 2)                                                                             \
    X(cmp, "cmp (" BX "), " AX, R, WORD)                                                                               \
    X(cmp_imm, "cmpb $5, (" BX ")", R, 1)                                                                              \
    X(test, "test %eax, (" BX ")", R, 4)                                                                               \
    X(inc, "incl (" BX ")", W_, 4)                                                                                     \
    X(neg, "negb (" BX ")", W_, 1)                                                                                     \
    X(not, "notl (" BX ")", W_, 4)                                                                                     \
    X(shl_cl, "shll %cl, (" BX ")", W_, 4)                                                                             \
    X(rcr, "rcrl $3, (" BX ")", W_, 4)                                                                                 \
    X(shld, "shldl $7, %eax, (" BX ")", W_, 4)                                                                         \
    X(imul, "imul (" BX "), %eax", R, 4)                                                                               \
    X(mul, "mull (" BX ")", R, 4)                                                                                      \
    X(xchg, "xchg %eax, (" BX ")", W_, 4)                                                                              \
    X(xadd, "lock xadd %eax, (" BX ")", W_, 4)                                                                         \
    X(cmpxchg, "cmpxchg %ecx, (" BX ")", W_, 4)                                                                        \
    X(cmpxchg8b, "lock cmpxchg8b (" BX ")", W_, 8)                                                                     \
    X(lock_or, "lock orl $1, (" BX ")", W_, 4)                                                                         \
    X(bt, "btl $3, (" BX ")", R, 4)                                                                                    \
    X(bts, "lock btsl $3, (" BX ")", W_, 4)                                                                            \
    X(setc, "setc (" BX ")", W_, 1)                                                                                    \
    X(cmov, "cmovc (" BX "), %eax", R, 4)                                                                              \
    X(push_mem, "push" W " (" BX ")", R, WORD)                                                                         \
    X(pop_mem, "pop" W " (" BX ")", W_, WORD)                                                                          \
    X(lods, "lodsl", R, 4)                                                                                             \
    X(stos, "stosl", W_, 4)                                                                                            \
    X(scas, "scasl", R, 4)                                                                                             \
    X(jmp_mem, "jmp *(" BX ")", R, WORD)                                                                               \
    X(call_mem, "call *(" BX ")", R, WORD)                                                                             \
    X(fld, "fldl (" BX ")", R, 8)                                                                                      \
    X(fild, "fildl (" BX ")", R, 4)                                                                                    \
    X(fadd, "fadds (" BX ")", R, 4)                                                                                    \
    X(fst, "fstl (" BX ")", W_, 8)                                                                                     \
    X(fstp, "fstpt (" BX ")", W_, 10)                                                                                  \
    X(fnstcw, "fnstcw (" BX ")", W_, 2)                                                                                \
    X(movq_mmx, "movq (" BX "), %mm1", R, 8)                                                                           \
    X(movd, "movd %xmm1, (" BX ")", W_, 4)                                                                             \
    X(movups_load, "movups (" BX "), %xmm1", R, 16)                                                                    \
    X(movups_store, "movups %xmm1, (" BX ")", W_, 16)                                                                  \
    X(movaps_load, "movaps (" BX "), %xmm1", R, 16 | ALIGNED)                                                          \
    X(paddd, "paddd (" BX "), %xmm1", R, 16 | ALIGNED)                                                                 \
    X(mulsd, "mulsd (" BX "), %xmm1", R, 8)                                                                            \
    X(ucomiss, "ucomiss (" BX "), %xmm1", R, 4)                                                                        \
    X(cvtsi2sd, "cvtsi2sdl (" BX "), %xmm1", R, 4)                                                                     \
    X(cvttss2si, "cvttss2si (" BX "), %eax", R, 4)                                                                     \
    X(movnti, "movnti %eax, (" BX ")", W_, 4)                                                                          \
    X(stmxcsr, "stmxcsr (" BX ")", W_, 4)
#define X(name, insn, write, size) CODE(code_##name, "add %ecx, %edx\n" insn "\n int $0x80");
ACCESS_LIST(X)
#undef X
#define AT 2 /* where the instruction is */

static const struct access {
    const char *code, *end;
    uint8_t write, size;
} accesses[] = {
#define X(name, insn, write, size) {code_##name, code_##name##_end, write, size},
    ACCESS_LIST(X)
#undef X
};

/* 7fffffffh + 1 */
#define LIVE_FLAGS (FL_1 | FL_OF | FL_SF | FL_AF | FL_PF)

static void context_same(const struct context *c, const struct context *before)
{
    EXPECT_EQ(c->ax, before->ax);
    EXPECT_EQ(c->cx, before->cx);
    EXPECT_EQ(c->dx, 0x80000000);
    EXPECT_EQ(c->bx, before->bx);
    EXPECT_EQ(c->sp, before->sp);
    EXPECT_EQ(c->bp, before->bp);
    EXPECT_EQ(c->si, before->si);
    EXPECT_EQ(c->di, before->di);
    EXPECT_EQ(c->flags & ~(word)FL_RF, LIVE_FLAGS);
}

static struct context start(const struct access *a, word address)
{
    struct context c = user_context(USER_CODE);

    memset((void *)(FIRST + PAGE - 64), 0x5a, 128);
    *(word *)address = USER_CODE + (word)(a->end - a->code) - 2; /* where JMP and CALL go: INT 80h */
    c.ax = 0x11223344;
    c.bx = c.si = c.di = address;
    c.cx = 0x7fffffff;
    c.dx = 1;
    c.bp = 0x4444;
    return c;
}

/* Both pages there: it runs to its end. Then without the page in question. */
static void fault_at(const struct access *a, word address, word page, uint64_t flags, word error)
{
    const word pa = (word)(*entry(page, 1) & 0xffffffffff000);
    struct context c = start(a, address), before = c;
    uint8_t was[128];

    context_run(&c);
    EXPECT_END(&c, 0x80);
    c = before = start(a, address);
    memcpy(was, (void *)(FIRST + PAGE - 64), 128);
    map(page, pa, flags);
    context_run(&c);
    map(page, pa, PTE_PWU);
    EXPECT_END_ERROR(&c, PF, error);
    EXPECT_EQ(c.cr2, page == SECOND && address < SECOND ? SECOND : address);
    EXPECT_EQ(c.ip, USER_CODE + AT);
    context_same(&c, &before);
    EXPECT_EQ(memcmp(was, (void *)(FIRST + PAGE - 64), 128), 0);
}

static void precise_init(void)
{
    paging_64();
    user_init();
    write_cr0(read_cr0() & ~(word)(CR0_TS | CR0_EM));
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    map(FIRST, (word)page_new(), PTE_PWU);
    page_new();
    map(SECOND, (word)page_new(), PTE_PWU);
}

TEST(precise_access)
{
    precise_init();
    for (unsigned i = 0; i < sizeof accesses / sizeof *accesses; i++) {
        const struct access *a = &accesses[i];
        word write = a->write ? PF_W : 0;

        memcpy((void *)USER_CODE, a->code, (size_t)(a->end - a->code));
        for (unsigned round = 0; round < HOT / 8; round++) {
            asm volatile("fninit\n fld1\n pxor %xmm1, %xmm1");
            fault_at(a, SECOND, SECOND, 0, PF_U | write);
            if (a->write)
                fault_at(a, SECOND, SECOND, PTE_P | PTE_U, PF_U | PF_P | PF_W);
            fault_at(a, SECOND, SECOND, PTE_PW, PF_U | PF_P | write);
        }
    }
}

TEST(precise_access_crossing)
{
    precise_init();
    for (unsigned i = 0; i < sizeof accesses / sizeof *accesses; i++) {
        const struct access *a = &accesses[i];
        word write = a->write ? PF_W : 0;

        if (a->size == 1 || (a->size & ALIGNED))
            continue;
        memcpy((void *)USER_CODE, a->code, (size_t)(a->end - a->code));
        for (unsigned round = 0; round < HOT / 8; round++) {
            word address = SECOND - 1 - round % (a->size - 1u);

            asm volatile("fninit\n fld1\n pxor %xmm1, %xmm1");
            fault_at(a, address, SECOND, 0, PF_U | write);
            fault_at(a, address, FIRST, 0, PF_U | write);
            if (a->write)
                fault_at(a, address, SECOND, PTE_P | PTE_U, PF_U | PF_P | PF_W);
        }
    }
}

/* --- sequences
 * ------------------------------------------------------------------------------------------------------------ */

/* What a sequence does, one instruction after the other: the context before each, found by single-stepping. */
static struct context states[64];
static unsigned state_count;

static void same(const struct context *c, const struct context *want)
{
    EXPECT_EQ(c->ip, want->ip);
    EXPECT_EQ(c->sp, want->sp);
    EXPECT_EQ(c->flags & ~(word)(FL_RF | FL_TF), want->flags & ~(word)(FL_RF | FL_TF));
    EXPECT_EQ(memcmp(&c->ax, &want->ax, 4 * sizeof(word)), 0);
    EXPECT_EQ(memcmp(&c->bp, &want->bp, (LONG_MODE ? 11 : 3) * sizeof(word)), 0);
}

/* Eight bytes that are addresses too. */
static void fill(void)
{
    for (word at = SECOND - 0x100; at < SECOND + 0x180; at += WORD)
        *(word *)at = USER_DATA + (at & 0x7f8);
}

static void record(struct context c)
{
    fill();
    c.flags |= FL_TF;
    for (state_count = 0; state_count < sizeof states / sizeof *states; state_count++) {
        states[state_count] = c;
        if (c.vector == 0x80)
            break;
        context_run(&c);
        c.vector = c.vector == DB ? 0 : 0x80;
    }
    EXPECT(state_count > 3 && state_count < sizeof states / sizeof *states);
    write_dr6(0);
}

/* Runs the sequence with both pages, and without one of them: its fault, and then the rest. */
static void sequence(struct context begin, word missing)
{
    const word pa = (word)(*entry(missing, 1) & 0xffffffffff000);

    record(begin);
    for (unsigned round = 0; round < HOT / 8; round++) {
        struct context c = begin;
        unsigned i = 0;

        fill();
        context_run(&c);
        EXPECT_END(&c, 0x80);
        same(&c, &states[state_count]);
        fill();
        c = begin;
        unmap(missing);
        context_run(&c);
        map(missing, pa, PTE_PWU);
        if (c.vector == PF) {
            EXPECT_EQ(c.cr2 & ~(PAGE - 1), missing);
            while (i < state_count && states[i].ip != c.ip)
                i++;
            same(&c, &states[i]);
            context_run(&c);
        }
        EXPECT_END(&c, 0x80);
        same(&c, &states[state_count]);
    }
}

CODE(code_pushes, "push " AX "\n inc %eax\n push " CX "\n add %eax, %ecx\n push $0x77\n neg %eax\n push " BP_ "\n stc\n"
                  "push" W " (" BX ")\n adc $0, %edx\n pushw $5\n lea 2(" SP "), " SP "\n push %fs\n sub $1, %esi\n"
                  "push " SP "\n cmp %eax, %eax\n push " DI "\n int $0x80");
CODE(code_pops,
     "pop " AX "\n inc %eax\n pop " CX "\n add %eax, %ecx\n pop" W " (" BX ")\n stc\n pop " DX "\n adc %edx, %edx\n"
     "popw %si\n lea 2(" SP "), " SP "\n neg %esi\n pop " DI "\n dec %edi\n pop " BP_ "\n xor %eax, %edx\n"
     "pop " SI "\n sbb %eax, %edx\n pop " SP "\n int $0x80");
CODE(code_calls, "call 2f\n sbb %edx, %edx\n int $0x80\n 2: add %eax, %ecx\n call 3f\n neg %ecx\n ret\n"
                 "3: push " BP_ "\n mov " SP ", " BP_ "\n adc %edx, %ecx\n call 4f\n leave\n stc\n ret\n"
                 "4: enter $16, $0\n mov %eax, -4(" BP_ ")\n enter $8, $2\n leave\n leave\n cmp %eax, %ecx\n ret");
/* BX in the first page, SI and DI in the second. */
CODE(code_mixed,
     "add %eax, (" BX ")\n adc (" SI "), %ecx\n rcl $1, %ecx\n movsl\n sbb %ecx, -4(" DI ")\n inc %edx\n"
     "xchg %edx, 4(" BX ")\n cmpb $0, 1(" SI ")\n cmovz 8(" BX "), %eax\n btsl $5, (" DI ")\n adc $0, %ebp\n"
     "mull 4(" SI ")\n orl $1, 0x10(" BX ")\n lock xadd %eax, (" DI ")\n sbb %ebp, %ebp\n int $0x80");
#ifndef __x86_64__
CODE(code_all, "pusha\n inc %eax\n stc\n pushal\n popal\n adc %eax, %ecx\n popa\n sbb %edx, %edx\n int $0x80");
#endif

static struct context begin_sequence(const char *code, word size, word sp)
{
    struct context c = user_context(USER_CODE);

    memcpy((void *)USER_CODE, code, size);
    c.ax = 0x7fffffff;
    c.cx = 0x80000001;
    c.dx = 0x1234;
    c.bx = USER_DATA + 0x10;
    c.si = 0x5555;
    c.di = 0x6666;
    c.bp = 0x7777;
    c.sp = sp;
    return c;
}
#define SEQUENCE(code, sp, missing) sequence(begin_sequence(code, CODE_SIZE(code), sp), missing)

TEST(precise_stack)
{
    precise_init();
    for (unsigned k = 0; k < 12; k++)
        for (unsigned odd = 0; odd < 4; odd += 3) {
            SEQUENCE(code_pushes, SECOND + k * WORD + odd, FIRST);
            SEQUENCE(code_pushes, SECOND + k * WORD + odd, SECOND);
            SEQUENCE(code_pops, SECOND - k * WORD + odd, SECOND);
            SEQUENCE(code_pops, SECOND - k * WORD + odd, FIRST);
            SEQUENCE(code_calls, SECOND + k * WORD + odd, FIRST);
            SEQUENCE(code_calls, SECOND + k * WORD + odd, SECOND);
#ifndef __x86_64__
            SEQUENCE(code_all, SECOND + 2 * k * WORD + odd, FIRST);
            SEQUENCE(code_all, SECOND + 2 * k * WORD + odd, SECOND);
#endif
        }
}

TEST(precise_sequence)
{
    precise_init();
    for (unsigned k = 0; k < 8; k++)
        for (unsigned page = 0; page < 2; page++) {
            struct context c = begin_sequence(code_mixed, CODE_SIZE(code_mixed), USER_STACK + PAGE - 64);

            c.bx = SECOND - 4 * k - 4; /* some of its accesses in the second page, one or two across */
            c.si = SECOND + 0x20 - 6 * k;
            c.di = SECOND + 0x100 * (k & 1);
            sequence(c, page ? SECOND : FIRST);
        }
}

/* --- exceptions within handlers
 * -------------------------------------------------------------------------------------------- */

static volatile unsigned depth, deepest, entered;

#define NESTED(name, length, provoke)                                                                                  \
    static void name(struct context *c)                                                                                \
    {                                                                                                                  \
        entered++;                                                                                                     \
        deepest = ++depth > deepest ? depth : deepest;                                                                 \
        provoke;                                                                                                       \
        depth--;                                                                                                       \
        c->ip += length;                                                                                               \
    }
NESTED(on_page_fault, 2, )
NESTED(on_divide, 2, asm volatile("movb %%al, (%0)" : : "d"(TEST_VA) : "memory"))
NESTED(on_breakpoint, 0, asm volatile("xor %%ecx, %%ecx\n div %%ecx" : : : "eax", "ecx", "edx"))
NESTED(on_undefined, 2, asm volatile("int3"))

CODE(code_provoke, "1: add %eax, %ecx\n ud2\n adc $1, %eax\n dec %edx\n jnz 1b\n int $0x80");
TEST(precise_nested)
{
    struct context c;
    uint32_t ax = 5, cx = 7;

    paging_64();
    handlers[UD] = on_undefined;
    handlers[BP] = on_breakpoint;
    handlers[DE] = on_divide;
    handlers[PF] = on_page_fault;
    c = kernel_context((word)code_provoke);
    c.ax = ax;
    c.cx = cx;
    c.dx = HOT;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    for (unsigned i = 0; i < HOT; i++) {
        uint64_t sum = (uint64_t)cx + ax;

        cx = (uint32_t)sum;
        ax += 1 + (uint32_t)(sum >> 32);
    }
    EXPECT_EQ(c.ax, ax);
    EXPECT_EQ(c.cx, cx);
    EXPECT_EQ(entered, 4 * HOT);
    EXPECT_EQ(deepest, 4);
}

/* --- atomic operations
 * -------------------------------------------------------------------------------------------------------- */

/* Each once in a round; what they leave is known: see the loop below. */
CODE(code_atomic,
     "1: lock incl (" BX ")\n lock addl $5, (" BX ")\n mov $3, %eax\n lock xadd %eax, (" BX ")\n add %eax, %esi\n"
     "lock subl $1, (" BX ")\n mov (" BX "), %eax\n lea 7(" AX "), %edx\n lock cmpxchg %edx, (" BX ")\n setz %al\n"
     "movzbl %al, %eax\n add %eax, %esi\n mov $0, %eax\n lock cmpxchg %edi, (" BX ")\n setz %al\n movzbl %al, %eax\n"
     "add %eax, %esi\n lock xorl $0x80, (" BX ")\n lock btcl $4, (" BX ")\n adc $0, %esi\n lock negl (" BX ")\n"
     "lock notl (" BX ")\n mov %ecx, %eax\n xchg %eax, 4(" BX ")\n add %eax, %esi\n lock orb $1, 5(" BX
     ")\n dec %ecx\n jnz 1b\n"
     "int $0x80");

TEST(precise_atomic)
{
    static const word at[] = {SECOND, FIRST + 0x13c, FIRST + 0x13e, SECOND - 1, SECOND - 3, SECOND - 5};

    precise_init();
    PLACE(USER_CODE, code_atomic);
    for (unsigned i = 0; i < sizeof at / sizeof *at; i++) {
        struct context c = user_context(USER_CODE);
        uint32_t value = 0x100, other = 0x200, si = 0;

        ((uint32_t *)at[i])[0] = value;
        ((uint32_t *)at[i])[1] = other;
        c.bx = at[i];
        c.cx = 5 * HOT;
        c.si = 0;
        c.di = 0x1111;
        for (uint32_t k = 5 * HOT; k; k--) {
            value += 6;
            si += value;
            value = (value + 2 + 7);
            si += 1;
            if (!value)
                value = 0x1111, si++;
            value ^= 0x80;
            si += value >> 4 & 1;
            value ^= 0x10;
            value = ~-value;
            si += other;
            other = k | 0x100;
        }
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.si, si);
        EXPECT_EQ(((uint32_t *)at[i])[0], value);
        EXPECT_EQ(((uint32_t *)at[i])[1], other);
    }
}

/* A compare that fails writes the old value back: it needs the right to write. */
CODE(code_failing, "cmpxchg %ecx, (" BX ")\n int $0x80");
CODE(code_failing8, "lock cmpxchg8b (" BX ")\n int $0x80");
TEST(precise_atomic_read_only)
{
    static const char *const codes[] = {code_failing, code_failing8};

    precise_init();
    for (unsigned i = 0; i < 2 * HOT; i++) {
        struct context c = user_context(USER_CODE);

        memcpy((void *)USER_CODE, codes[i & 1], 8);
        *(uint64_t *)FIRST = 5;
        c.bx = FIRST;
        c.ax = 6;
        *entry(FIRST, 1) = i & 4 ? *entry(FIRST, 1) & ~PTE_W : *entry(FIRST, 1) | PTE_W;
        invlpg(FIRST);
        context_run(&c);
        EXPECT_EQ(c.vector, i & 4 ? PF : 0x80);
        EXPECT_EQ(c.ax, i & 4 ? 6 : 5);
        *entry(FIRST, 1) |= PTE_W;
        invlpg(FIRST);
    }
}
