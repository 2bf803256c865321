/*
 * space.c: one linear address that shows now this code, now that: address
 * spaces in turn, remapped pages, pages shown at two addresses, rights that
 * come and go. All of it thousands of times, by every kind of branch that can
 * lead there (SDM vol. 3, 4.10; AMD APM vol. 2, 5.5).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define HERE   TEST_VA          /* the page before: shown by all spaces */
#define THERE  (TEST_VA + PAGE) /* the page that differs */
#define ELSE   (TEST_VA + 0x10000)
#define ROUNDS 2000

/* --- address spaces in turn --------------------------------------------------------------------------------------- */

/* Each goes to THERE in space SI and in space DI by turns, CX times; THERE adds to EAX and comes back: by RET, or, if
 * BP is set, to BP. */
CODE(code_call,
     "1: mov " SI ", %cr3\n call 0x1201000\n mov " DI ", %cr3\n call 0x1201000\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_call_indirect,
     "mov $0x1201000, %edx\n 1: mov " SI ", %cr3\n call *" DX "\n mov " DI ", %cr3\n call *" DX "\n dec %ecx\n jnz 1b\n"
     "int $0x80");
CODE(code_return,
     "mov $0x1201000, %edx\n 1: mov " SI ", %cr3\n call 2f\n mov " DI ", %cr3\n call 2f\n dec %ecx\n jnz 1b\n"
     "int $0x80\n 2: push " DX "\n ret");
CODE(code_jump, "1: mov " SI ", %cr3\n call 2f\n mov " DI ", %cr3\n call 2f\n dec %ecx\n jnz 1b\n int $0x80\n"
                "2: jmp 0x1201000");
/* Over the page edge: the last byte of HERE is a NOP. */
CODE(code_fall,
     "1: mov " SI ", %cr3\n call 0x1200fff\n mov " DI ", %cr3\n call 0x1200fff\n dec %ecx\n jnz 1b\n int $0x80");
/* The switch lies between the call and the return: THERE calls (at 100h) what loads the other CR3. */
CODE(code_straddle,
     "mov $2f, %edx\n mov " SI ", %cr3\n 1: call 0x1201100\n call 0x1201100\n dec %ecx\n jnz 1b\n int $0x80\n"
     "2: xor " DI ", " SI "\n mov " SI ", %cr3\n ret");
/* The switch is in HERE, right before the edge. */
CODE(code_edge, "1: call 0x1200ffc\n xchg " SI ", " DI "\n call 0x1200ffc\n xchg " SI ", " DI "\n dec %ecx\n jnz 1b\n"
                "int $0x80");

/* Data: a loop over the last of four words, its first round being the first access after the switch. */
CODE(code_data, "1: mov $0x1201800, %edx\n mov " SI ", %cr3\n call 2f\n mov $0x1201800, %edx\n mov " DI ", %cr3\n"
                "call 2f\n dec %ecx\n jnz 1b\n int $0x80\n"
                "2: add (" DX "), %eax\n add $4, %edx\n cmp $0x1201810, %edx\n jne 2b\n ret");

/* Data: a loop that begins in a page that all spaces show and goes down into the one that differs. */
CODE(code_data_edge, "1: mov $0x1202040, %edx\n mov " SI ", %cr3\n call 2f\n mov $0x1202040, %edx\n mov " DI ", %cr3\n"
                     "call 2f\n dec %ecx\n jnz 1b\n int $0x80\n"
                     "2: add (" DX "), %eax\n sub $4, " DX "\n cmp $0x1201ff8, " DX "\n jne 2b\n ret");

CODE(code_add_1, "add $1, %eax\n ret");
CODE(code_add_100, "add $0x10000, %eax\n ret");
CODE(code_switch_1, "call *" DX "\n add $1, %eax\n ret");
CODE(code_switch_100, "call *" DX "\n add $0x10000, %eax\n ret");

static word spaces[2];

static void two_spaces(uint64_t flags)
{
    uint8_t *here = page_new(), *pages[2] = {page_new(), page_new()};

    spaces[0] = read_cr3() & ~(PAGE - 1);
    map(HERE, (word)here, PTE_PW | flags);
    map(THERE, 0, 0);
    map(THERE + PAGE, (word)page_new(), PTE_PW | flags);
    spaces[1] = page_space(THERE);
    here[PAGE - 1] = 0x90;
    memcpy(here + PAGE - 4, "\x0f\x22\xde", 3); /* mov si, %cr3 */
    PLACE(pages[0], code_add_1);
    PLACE(pages[1], code_add_100);
    PLACE(pages[0] + 0x100, code_switch_1);
    PLACE(pages[1] + 0x100, code_switch_100);
    *(uint32_t *)(pages[0] + 0x80c) = 1;
    *(uint32_t *)(pages[1] + 0x80c) = 0x10000;
    *(uint32_t *)(pages[0] + 0xffc) = 1;
    *(uint32_t *)(pages[1] + 0xffc) = 0x10000;
    for (unsigned i = 0; i < 2; i++) {
        page_select(spaces[i]);
        map(THERE, (word)pages[i], PTE_PW);
    }
    page_select(spaces[0]);
}

/* cr3: bits to load with each space: PCID, no-flush. */
static void alternate(word bits0, word bits1)
{
    static const struct {
        const char *code;
        uint32_t sum;
    } ways[] = {
        {code_call, 0x10001},     {code_call_indirect, 0x10001}, {code_return, 0x10001},
        {code_jump, 0x10001},     {code_fall, 0x10001},          {code_edge, 0x10001},
        {code_straddle, 0x10001}, {code_data, 0x10001},          {code_data_edge, 0x10001},
    };
    word cr3[2] = {spaces[0] | bits0, spaces[1] | bits1}, old = read_cr3();

    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct context c = kernel_context((word)ways[i].code);

        c.ax = 0;
        c.cx = ROUNDS;
        c.si = cr3[0];
        c.di = ways[i].code == code_straddle ? cr3[0] ^ cr3[1] : cr3[1];
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, (uint32_t)(ways[i].sum * ROUNDS));
    }
    write_cr3(old);
}

TEST(space_alternating)
{
    paging_64();
    two_spaces(0);
    alternate(0, 0);
}

/* With everything but the page in question global. */
TEST(space_alternating_global)
{
    paging_64();
    write_cr4(read_cr4() | CR4_PGE);
    for (word va = 0; va < IDENTITY; va += 0x200000)
        *entry(va, 2) |= PTE_G;
    two_spaces(PTE_G);
    alternate(0, 0);
}

#ifdef __x86_64__
#define NO_FLUSH (1ul << 63)

TEST(space_alternating_pcid)
{
    NEED_PCID();
    two_spaces(0);
    write_cr4(read_cr4() | CR4_PCIDE);
    alternate(1, 2);
    alternate(1 | NO_FLUSH, 2 | NO_FLUSH);
    alternate(3, 4 | NO_FLUSH);
    write_cr4(read_cr4() | CR4_PGE);
    for (word va = 0; va < IDENTITY; va += 0x200000)
        *entry(va, 2) |= PTE_G;
    alternate(5 | NO_FLUSH, 6 | NO_FLUSH);
}

/* Two spaces share a PCID: the load of each flushes what was kept for the other. */
TEST(space_alternating_pcid_shared)
{
    NEED_PCID();
    two_spaces(0);
    write_cr4(read_cr4() | CR4_PCIDE);
    alternate(7, 7);
    alternate(0, 0);
}
#endif

/* --- remapping
 * -------------------------------------------------------------------------------------------------------- */

/* BP: the page-table entry of DX; SI and DI: what to write there by turns. */
CODE(code_invlpg,
     "1: mov " SI ", (" BP_ ")\n invlpg (" DX ")\n call *" DX "\n mov " DI ", (" BP_ ")\n invlpg (" DX ")\n"
     "call *" DX "\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_reload,
     "1: mov " SI ", (" BP_ ")\n mov %cr3, " BX "\n mov " BX ", %cr3\n call 0x1201000\n mov " DI ", (" BP_ ")\n"
     "mov %cr3, " BX "\n mov " BX ", %cr3\n call 0x1201000\n dec %ecx\n jnz 1b\n int $0x80");
/* Global pages: CR4.PGE off and on (BX: CR4 with PGE). */
CODE(code_pge,
     "1: mov " SI ", (" BP_ ")\n call 2f\n call 0x1201000\n mov " DI ", (" BP_ ")\n call 2f\n call 0x1201000\n"
     "dec %ecx\n jnz 1b\n int $0x80\n"
     "2: xor $0x80, " BX "\n mov " BX ", %cr4\n xor $0x80, " BX "\n mov " BX ", %cr4\n ret");

TEST(space_remapped)
{
    static const char *const codes[] = {code_invlpg, code_reload, code_pge};

    paging_64();
    two_spaces(0);
    for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++) {
        struct context c = kernel_context((word)codes[i]);
        word global = codes[i] == code_pge ? PTE_G : 0;

        page_select(spaces[1]);
        c.di = (word)*entry(THERE, 1) | global;
        page_select(spaces[0]);
        c.si = ((word)*entry(THERE, 1) & ~(word)PTE_G) | global;
        c.bp = (word)entry(THERE, 1);
        c.bx = read_cr4() | CR4_PGE;
        c.dx = THERE;
        c.ax = 0;
        c.cx = ROUNDS;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, (uint32_t)(ROUNDS * 0x10001));
        map(THERE, c.si & ~(PAGE - 1), PTE_PW);
        write_cr4(read_cr4() & ~(word)CR4_PGE);
    }
}

/* --- one page at two addresses
 * ------------------------------------------------------------------------------------------ */

static uint32_t called(word at)
{
    return ((uint32_t(*)(void))at)();
}

/* A branch of the given bytes at an offset of the page, to the page that follows. */
static void branch_out(uint8_t *page, unsigned offset, const char *bytes, unsigned size)
{
    uint32_t distance = PAGE - (offset + size + 4);

    memcpy(page + offset, bytes, size);
    memcpy(page + offset + size, &distance, 4);
    page[offset + size + 4] = 0xc3;
}

/* MOV $value, %eax; RET */
static void returner(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

/* What its code computes depends on the address it is called at, and so does what comes after it. */
CODE(code_where, "call 1f\n 1: pop " AX "\n ret");
TEST(space_page_shown_twice)
{
    static const word at[] = {HERE, ELSE, ELSE + 0x200000};
    uint8_t *page = page_new();

    paging_64();
    PLACE(page, code_where);
    branch_out(page, 0x100, "\xe9", 1);             /* jmp */
    branch_out(page, 0x200, "\x85\xe4\x0f\x85", 4); /* test %esp, %esp; jnz */
    branch_out(page, 0x300, "\xe8", 1);             /* call */
    page[PAGE - 1] = 0x90;
    for (unsigned i = 0; i < 3; i++) {
        uint8_t *next = page_new();

        returner(next, 1000 + i);
        map(at[i], (word)page, PTE_PW);
        map(at[i] + PAGE, (word)next, PTE_PW);
    }
    for (unsigned i = 0; i < 3 * HOT; i++) {
        word va = at[i % 3];

        EXPECT_EQ(called(va), va + 5);
        EXPECT_EQ(called(va + 0x100), 1000 + i % 3);
        EXPECT_EQ(called(va + 0x200), 1000 + i % 3);
        EXPECT_EQ(called(va + 0x300), 1000 + i % 3);
        EXPECT_EQ(called(va + PAGE - 1), 1000 + i % 3);
    }
}

/* An instruction that begins in the shared page and ends in one that is not. */
TEST(space_crossing_shown_twice)
{
    static const word at[] = {HERE, ELSE, ELSE + 0x200000};
    uint8_t *page = page_new();

    paging_64();
    memcpy(page + PAGE - 3, "\xb8\x34\x12", 3);
    for (unsigned i = 0; i < 3; i++) {
        uint8_t *next = page_new();

        next[0] = (uint8_t)i;
        next[2] = 0xc3;
        map(at[i], (word)page, PTE_PW);
        map(at[i] + PAGE, (word)next, PTE_PW);
    }
    for (unsigned i = 0; i < 3 * HOT; i++)
        EXPECT_EQ(called(at[i % 3] + PAGE - 3), (i % 3) << 16 | 0x1234);
    /* The third's second page, now for the first too. */
    map(at[0] + PAGE, (word)*entry(at[2] + PAGE, 1) & ~(PAGE - 1), PTE_PW);
    for (unsigned i = 0; i < 3 * HOT; i++)
        EXPECT_EQ(called(at[i % 3] + PAGE - 3), (i % 3 == 1 ? 1u : 2u) << 16 | 0x1234);
}

/* --- rights that come and go
 * ---------------------------------------------------------------------------------------------- */

/* Ways from HERE to THERE: the offset to begin at. */
static const struct {
    uint16_t offset;
    uint8_t size, code[8];
} ways_there[] = {
    {0x100, 5, {0xe9, 0xfb, 0x0e, 0, 0}},                   /* jmp */
    {0x200, 5, {0xe8, 0xfb, 0x0d, 0, 0}},                   /* call */
    {0x300, 2, {0xff, 0xe2}},                               /* jmp *dx */
    {0x400, 2, {0xff, 0xd2}},                               /* call *dx */
    {0x500, 2, {0x52, 0xc3}},                               /* push dx; ret */
    {0x600, 8, {0x85, 0xe4, 0x0f, 0x85, 0xf8, 0x09, 0, 0}}, /* test %esp, %esp; jnz */
    {0xffe, 2, {0x90, 0x90}},                               /* over the edge */
};
#define WAYS (sizeof ways_there / sizeof *ways_there)

static bool has_nx(void)
{
    return cpu_has(0x80000001, 0, 3, 20);
}

static void make_ways(bool user)
{
    paging_64();
    user_init();
    if (has_nx())
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    map(HERE, (word)page_new(), user ? PTE_PWU : PTE_PW);
    map(THERE, (word)page_new(), user ? PTE_PWU : PTE_PW);
    memcpy((void *)THERE, "\xcd\x80", 2);
    for (unsigned i = 0; i < WAYS; i++)
        memcpy((void *)(HERE + ways_there[i].offset), ways_there[i].code, ways_there[i].size);
}

/* All the ways; error: the #PF's error code, or NO_TRAP. */
static void go_there(bool user, word error)
{
    for (unsigned i = 0; i < WAYS; i++) {
        struct context c =
            user ? user_context(HERE + ways_there[i].offset) : kernel_context(HERE + ways_there[i].offset);

        c.dx = THERE;
        context_run(&c);
        if (error == NO_TRAP) {
            EXPECT_END(&c, 0x80);
            continue;
        }
        EXPECT_END_ERROR(&c, PF, error);
        EXPECT_EQ(c.ip, THERE);
        EXPECT_EQ(c.cr2, THERE);
    }
}

TEST(space_rights_user)
{
    word fetch;
    uint64_t page;

    make_ways(true);
    fetch = PF_U | (has_nx() ? PF_I : 0);
    page = *entry(THERE, 1) & ~(uint64_t)0xfff;
    for (unsigned i = 0; i < HOT; i++) {
        map(THERE, (word)page, PTE_PWU);
        go_there(true, NO_TRAP);
        if (i % 4 == 0)
            map(THERE, (word)page, 0), go_there(true, fetch);
        if (i % 4 == 1)
            map(THERE, (word)page, PTE_PW), go_there(true, fetch | PF_P);
        if (i % 4 == 2 && has_nx())
            map(THERE, (word)page, PTE_PWU | PTE_NX), go_there(true, fetch | PF_P);
        if (i % 4 == 3)
            map(THERE, (word)page, PTE_P | PTE_U), go_there(true, NO_TRAP);
    }
}

/* NXE off makes the NX bit a reserved one. */
TEST(space_rights_nxe)
{
    uint64_t page;

    make_ways(true);
    if (!has_nx())
        skip("nx");
    page = *entry(THERE, 1) & ~(uint64_t)0xfff;
    for (unsigned i = 0; i < HOT / 4; i++) {
        map(THERE, (word)page, PTE_PWU | (i & 1 ? PTE_NX : 0));
        go_there(true, i & 1 ? PF_U | PF_I | PF_P : NO_TRAP);
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE);
        go_there(true, i & 1 ? PF_U | PF_RSVD | PF_P : NO_TRAP);
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
        go_there(true, i & 1 ? PF_U | PF_I | PF_P : NO_TRAP);
    }
}

/* The kernel in pages of the user, SMEP on and off (the way there is the kernel's). */
TEST(space_rights_smep)
{
    NEED_SMEP();
    make_ways(false);
    *entry(THERE, 1) |= PTE_U;
    invlpg(THERE);
    for (unsigned i = 0; i < HOT; i++) {
        go_there(false, NO_TRAP);
        write_cr4(read_cr4() | CR4_SMEP);
        go_there(false, PF_P | PF_I);
        write_cr4(read_cr4() & ~(word)CR4_SMEP);
    }
}

/* One page, run by kernel and user by turns: the same bytes at the same address, with other rights. */
CODE(code_both, "mov %cs, %eax\n add $1, %eax\n cli\n add $1, %eax\n int $0x80");
TEST(space_user_and_kernel)
{
    paging_64();
    user_init();
    PLACE(USER_CODE, code_both);
    for (unsigned i = 0; i < 2 * HOT; i++) {
        bool user = i & 1, may = !user || i & 2;
        struct context c = user ? user_context(USER_CODE) : kernel_context(USER_CODE);

        c.flags |= may && user ? FL_IOPL : 0;
        context_run(&c);
        EXPECT_END(&c, may ? 0x80 : GP);
        EXPECT_EQ(c.ax, (user ? UCODE : KCODE) + (may ? 2 : 1));
    }
}
