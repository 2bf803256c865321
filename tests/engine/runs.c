/*
 * runs.c: loops whose addresses move by a constant from round to round, over
 * pages that lie scattered in memory: what they compute, and where exactly they
 * fault when one of the pages is missing or may not be written. A translator may
 * leave out checks in them.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

enum { PAGES = 6, BYTES = PAGES * PAGE, MARGIN = 64, HOLE = 3, TIMES = 30 };

/* BX: where it begins; CX: rounds; AX: sum, 0 at first. Each touches `size` bytes a round from BX + first + step *
 * round on. The write goes to the same place. */
#define BX_D "(" BX ", " DX ")"
CODE(code_up4, "1: add (" BX "), %eax\n add $4, " BX "\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_down8, "1: mov -8(" BX "), %edx\n sub $8, " BX "\n add %edx, %eax\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_index, "xor %edx, %edx\n 1: movzbl " BX_D ", %esi\n add %esi, %eax\n add $1, " DX "\n cmp " CX ", " DX
                 "\n jne 1b\n int $0x80");
CODE(code_lea3, "1: movzwl (" BX "), %edx\n lea 3(" BX "), " BX "\n add %edx, %eax\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_ahead, "1: add $16, " BX "\n mov -16(" BX "), %edx\n add %edx, %eax\n add -4(" BX
                 "), %eax\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_store1, "1: mov %al, (" BX ")\n add $3, %eax\n inc " BX "\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_store8,
     "1: add %eax, (" BX ")\n add $5, %eax\n mov %eax, 4(" BX ")\n add $8, " BX "\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_both, "lea 1020(" BX "), " SI "\n 1: mov (" BX "), %edx\n add %edx, (" SI ")\n add (" SI
                "), %eax\n add $4, " BX "\n add $4, " SI "\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_still, "mov " BX ", " SI "\n 1: add (" SI "), %eax\n xor (" BX "), %eax\n add $4, " BX
                 "\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_leave, "1: cmpb $0x77, (" BX ")\n je 2f\n inc " BX "\n dec %ecx\n jnz 1b\n 2: int $0x80");

/* SI: what a round steps by; DX: 0 at first, but for its upper half where the loop does not look at that. */
#define BX_DI "(" BX ", " DI ")"
CODE(code_by_add, "1: mov %edx, %edi\n movzbl " BX_DI ", %edi\n add %edi, %eax\n add %esi, %edx\n sub $1, %ecx\n"
                  " jnz 1b\n int $0x80");
CODE(code_by_store, "1: mov %edx, %edi\n add %esi, %edx\n mov %al, " BX_DI "\n add $3, %eax\n sub $1, %ecx\n"
                    " jnz 1b\n int $0x80");
CODE(code_by_late, "1: add " SI ", " BX "\n adc $0, %eax\n mov -16(" BX "), %edx\n add %edx, %eax\n"
                   " sub $1, %ecx\n jnz 1b\n int $0x80");
CODE(code_by_scale, "xor %edx, %edx\n 1: mov (" BX ", " DX ", 4), %edi\n add %edi, %eax\n add " SI ", " DX
                    "\n sub $1, %ecx\n jnz 1b\n int $0x80");
CODE(code_by_flags, "jmp 1f\n 2: add $8, " BX "\n sub $1, %ecx\n jz 3f\n 1: add (" BX "), %eax\n testb $0, (" BX
                    ")\n jz 2b\n 3: int $0x80");

static uint8_t *page[PAGES];

static uint32_t get(unsigned at, unsigned size)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < size; i++, at++)
        value |= (uint32_t)page[at / PAGE][at % PAGE] << 8 * i;
    return value;
}

static void put(unsigned at, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++, at++)
        page[at / PAGE][at % PAGE] = (uint8_t)(value >> 8 * i);
}

/* What each loop does, a round a call. */
static uint32_t up4(unsigned at, unsigned n, uint32_t ax)
{
    return ax + get(at + 4 * n, 4);
}

static uint32_t down8(unsigned at, unsigned n, uint32_t ax)
{
    return ax + get(at - 8 * n - 8, 4);
}

static uint32_t up1(unsigned at, unsigned n, uint32_t ax)
{
    return ax + get(at + n, 1);
}

static uint32_t lea3(unsigned at, unsigned n, uint32_t ax)
{
    return ax + get(at + 3 * n, 2);
}

static uint32_t ahead(unsigned at, unsigned n, uint32_t ax)
{
    return ax + get(at + 16 * n, 4) + get(at + 16 * n + 12, 4);
}

static uint32_t store1(unsigned at, unsigned n, uint32_t ax)
{
    put(at + n, 1, ax);
    return ax + 3;
}

static uint32_t store8(unsigned at, unsigned n, uint32_t ax)
{
    put(at + 8 * n, 4, get(at + 8 * n, 4) + ax);
    put(at + 8 * n + 4, 4, ax + 5);
    return ax + 5;
}

static uint32_t both(unsigned at, unsigned n, uint32_t ax)
{
    uint32_t sum = get(at + 4 * n, 4) + get(at + 1020 + 4 * n, 4);

    put(at + 1020 + 4 * n, 4, sum);
    return ax + sum;
}

static uint32_t still(unsigned at, unsigned n, uint32_t ax)
{
    return (ax + get(at, 4)) ^ get(at + 4 * n, 4);
}

static uint32_t up16(unsigned at, unsigned n, uint32_t ax)
{
    return ax + get(at + 16 * n, 4);
}

static uint32_t up8(unsigned at, unsigned n, uint32_t ax)
{
    return ax + get(at + 8 * n, 4);
}

/* By any step. */
static int by;

static uint32_t by_add(unsigned at, unsigned n, uint32_t ax)
{
    return ax + get(at + (unsigned)by * n, 1);
}

static uint32_t by_store(unsigned at, unsigned n, uint32_t ax)
{
    put(at + (unsigned)by * n, 1, ax);
    return ax + 3;
}

static uint32_t none(unsigned at, unsigned n, uint32_t ax)
{
    return ax;
}

static const struct loop {
    const char *code;
    uint32_t (*round)(unsigned at, unsigned n, uint32_t ax);
    int step;       /* bytes */
    unsigned reach; /* the bytes that its rounds reach beyond what they step over */
    bool write;
    int by; /* SI, if it is not the step */
} loops[] = {
    {code_up4, up4, 4, 0, false},
    {code_down8, down8, -8, 0, false},
    {code_index, up1, 1, 0, false},
    {code_lea3, lea3, 3, 0, false},
    {code_ahead, ahead, 16, 0, false},
    {code_store1, store1, 1, 0, true},
    {code_store8, store8, 8, 0, true},
    {code_both, both, 4, 1020, true},
    {code_still, still, 4, 0, false},
    {code_leave, none, 1, 0, false},
    {code_by_add, by_add, 1, 0, false},
    {code_by_add, by_add, 3, 0, false},
    {code_by_add, by_add, 250, 0, false},
    {code_by_add, by_add, 1000, 0, false},
    {code_by_store, by_store, 2, 0, true},
    {code_by_store, by_store, 7, 0, true},
    {code_by_store, by_store, 100, 0, true},
    {code_by_late, up16, 16, 0, false},
    {code_by_scale, up8, 8, 0, false, 2},
    {code_by_flags, up8, 8, 0, false},
};

static uint32_t random_state = 1;

static unsigned pick(unsigned n)
{
    random_state = random_state * 1664525 + 1013904223;
    return (random_state >> 8) % n;
}

static void fill(void)
{
    for (unsigned i = 0; i < BYTES; i += 4) {
        put(i, 4, (uint32_t)pick(0x1000000) * 167u);
        for (unsigned b = 0; b < 4; b++)
            if (get(i + b, 1) == 0x77)
                put(i + b, 1, 0x76);
    }
}

static void scatter(void)
{
    uint8_t *all = page_new_aligned(8 * PAGE);

    for (unsigned i = 0; i < PAGES; i++) {
        page[i] = all + (i * 5 + 3) % 8 * PAGE;
        map(TEST_VA + i * PAGE, (word)page[i], PTE_PW);
    }
    fill();
}

/* A place to begin at, and rounds that stay inside. */
static unsigned place(const struct loop *loop, unsigned *rounds)
{
    const unsigned step = (unsigned)(loop->step < 0 ? -loop->step : loop->step);
    const unsigned room = BYTES - 2 * MARGIN - loop->reach, at = MARGIN + pick(room - step);

    *rounds = loop->step < 0 ? (at - MARGIN) / step + 1 : (room - (at - MARGIN)) / step;
    *rounds = *rounds > 1 && pick(4) ? 1 + pick(*rounds) : *rounds;
    return loop->step < 0 ? at + step : at;
}

static struct context begin(const struct loop *loop, unsigned at, unsigned rounds)
{
    struct context c = kernel_context((word)loop->code);

    c.ax = 0;
    c.bx = TEST_VA + at;
    c.cx = rounds;
    c.dx = sizeof(word) == 8 && loop->code != code_index ? (word)0xbad << 31 << 1 : 0;
    by = loop->step;
    c.si = (word)(loop->by ? loop->by : loop->step);
    return c;
}

/* All rounds at once. */
static void whole(const struct loop *loop)
{
    unsigned rounds, at = place(loop, &rounds);
    struct context c = begin(loop, at, rounds);
    uint32_t ax = 0;

    context_run(&c);
    EXPECT_END(&c, 0x80);
    for (unsigned n = 0; n < rounds; n++)
        ax = loop->round(at, n, ax);
    EXPECT_EQ((uint32_t)c.ax, ax);
}

/* Once by the loop, once by its model, from the same memory. */
static uint8_t saved[BYTES], made[BYTES];

static void stores(const struct loop *loop)
{
    unsigned rounds, at = place(loop, &rounds);
    struct context c = begin(loop, at, rounds);
    uint32_t ax = 0;

    for (unsigned i = 0; i < PAGES; i++)
        memcpy(saved + i * PAGE, page[i], PAGE);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    for (unsigned i = 0; i < PAGES; i++) {
        memcpy(made + i * PAGE, page[i], PAGE);
        memcpy(page[i], saved + i * PAGE, PAGE);
    }
    for (unsigned n = 0; n < rounds; n++)
        ax = loop->round(at, n, ax);
    EXPECT_EQ((uint32_t)c.ax, ax);
    for (unsigned i = 0; i < PAGES; i++)
        EXPECT_EQ(memcmp(made + i * PAGE, page[i], PAGE), 0);
}

TEST(runs_sums)
{
    paging_64();
    scatter();
    for (unsigned n = 0; n < TIMES; n++)
        for (unsigned i = 0; i < sizeof loops / sizeof *loops; i++)
            if (!loops[i].write)
                whole(&loops[i]);
}

TEST(runs_stores)
{
    paging_64();
    scatter();
    for (unsigned n = 0; n < TIMES; n++)
        for (unsigned i = 0; i < sizeof loops / sizeof *loops; i++)
            if (loops[i].write)
                stores(&loops[i]);
}

/* A page may not be accessed: the loop ends where it first wants to, and goes on when it may. */
static void hole(const struct loop *loop, uint64_t flags)
{
    const word from = TEST_VA + HOLE * PAGE;
    unsigned rounds, at, faults = 0;
    struct context c;
    uint32_t ax = 0;

    at = place(loop, &rounds);
    c = begin(loop, at, rounds);
    map(from, (word)page[HOLE], flags);
    for (;;) {
        context_run(&c);
        if (c.vector != PF)
            break;
        faults++;
        EXPECT(c.cr2 >= from && c.cr2 < from + PAGE);
        if (loop->code == code_up4 || loop->code == code_store1) {
            const unsigned done = rounds - (unsigned)c.cx, step = (unsigned)loop->step;

            EXPECT_EQ(c.bx, TEST_VA + at + step * done);
            EXPECT_EQ(c.ip, (word)loop->code);
            EXPECT_EQ(c.cr2, c.bx < from ? from : c.bx);
            if (loop->code == code_store1)
                EXPECT_EQ(c.ax, 3 * done);
        }
        map(from, (word)page[HOLE], PTE_PW);
    }
    EXPECT_END(&c, 0x80);
    EXPECT(faults <= 1);
    map(from, (word)page[HOLE], PTE_PW);
    for (unsigned n = 0; n < rounds && !loop->write; n++)
        ax = loop->round(at, n, ax);
    if (!loop->write)
        EXPECT_EQ((uint32_t)c.ax, ax);
}

TEST(runs_faults)
{
    paging_64();
    scatter();
    write_cr0(read_cr0() | CR0_WP);
    for (unsigned n = 0; n < TIMES; n++)
        for (unsigned i = 0; i < sizeof loops / sizeof *loops; i++) {
            hole(&loops[i], n & 1 ? 0 : loops[i].write ? PTE_P : PTE_PW);
            if (n % 16 == 0)
                fill();
        }
}

/* The loop is left in its midst, at any place. */
TEST(runs_left)
{
    paging_64();
    scatter();
    for (unsigned n = 0; n < TIMES; n++) {
        unsigned at = MARGIN + pick(2 * PAGE), end = at + pick(3 * PAGE);
        const uint8_t old = (uint8_t)get(end, 1);
        struct context c;

        put(end, 1, 0x77);
        c = begin(&loops[9], at, BYTES - 2 * MARGIN - at);
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.bx, TEST_VA + end);
        EXPECT_EQ(c.cx, BYTES - 2 * MARGIN - at - (end - at));
        EXPECT_EQ(c.flags & FL_ZF, FL_ZF);
        put(end, 1, old);
    }
}

/* It comes up to its own code, of which the first instruction becomes a NOP. */
CODE(code_own, "1: xchg %eax, %edx\n .fill 8, 1, 0x90\n movb $0x90, (" BX ")\n add $1, " BX
               "\n inc %eax\n dec %ecx\n jnz 1b\n int $0x80");
TEST(runs_own_code)
{
    paging_64();
    scatter();
    for (unsigned n = 0; n < 100; n++) {
        const unsigned at = 2 * PAGE + 256 + 16 * (n % 8), away = 100 + pick(3000), rounds = away + 1 + n % 9;
        uint32_t ax = 0, dx = 1000, t;
        struct context c;

        PLACE(TEST_VA + at, code_own);
        c = kernel_context(TEST_VA + at);
        c.ax = ax;
        c.dx = dx;
        c.bx = TEST_VA + at - away;
        c.cx = rounds;
        for (unsigned i = 0; i < rounds; i++) {
            if (i <= away)
                t = ax, ax = dx, dx = t;
            ax++;
        }
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, ax);
        EXPECT_EQ(c.dx, dx);
    }
}

/* A step by a register that is 0, or goes down, or wraps: what is stored where. */
static void strange(word bx, uint32_t dx, int32_t step, unsigned rounds)
{
    struct context c = kernel_context((word)code_by_store);
    uint32_t at = dx, ax = 1;

    c.ax = ax;
    c.bx = bx;
    c.cx = rounds;
    c.dx = dx;
    c.si = (uint32_t)step;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ((uint32_t)c.dx, dx + (uint32_t)step * rounds);
    for (unsigned n = 0; n < rounds; n++, at += (uint32_t)step, ax += 3)
        if (step)
            EXPECT_EQ(*(volatile uint8_t *)(bx + at), (uint8_t)ax);
    if (!step)
        EXPECT_EQ(*(volatile uint8_t *)(bx + at), (uint8_t)(ax - 3));
}

TEST(runs_strange_steps)
{
    paging_64();
    scatter();
    strange(TEST_VA, 100, 0, 50);
    strange(TEST_VA, 2 * PAGE, -4, 1500);
    strange(TEST_VA, 5, 3 * PAGE / 2, 3);
#ifdef __x86_64__
    map(TEST_VA + ((word)1 << 32), (word)page[4], PTE_PW);
    map(TEST_VA + ((word)1 << 32) - PAGE, (word)page[5], PTE_PW);
    strange(TEST_VA, 0xffffff80, 1, 100);
    strange(TEST_VA, 0xffffff80, 1, 2000);
    strange(TEST_VA, 0xfffff080, 9, 500);
#endif
}

/* As many accesses as a loop may leave unchecked, after the register that moves them all. */
#define SUM_BYTE(base, scale) "movzbl (" base ", " DX ", " scale "), %edi\n lea (" AX ", " DI "), %eax\n"
#define SUM_BYTES(base)       SUM_BYTE(base, "1") SUM_BYTE(base, "2") SUM_BYTE(base, "4") SUM_BYTE(base, "8")
CODE(code_many, "1: add " SI ", " DX "\n adc $0, %eax\n" SUM_BYTES(BX)
                    SUM_BYTES(BP_) "test %eax, %eax\n sub $1, %ecx\n jnz 1b\n int $0x80");

TEST(runs_many)
{
    paging_64();
    scatter();
    for (unsigned n = 0; n < TIMES; n++) {
        struct context c = kernel_context((word)code_many);
        const unsigned rounds = 1 + pick(600), second = pick(PAGE);
        uint32_t ax = 0;

        c.ax = 0;
        c.bx = TEST_VA;
        c.bp = TEST_VA + second;
        c.dx = 0;
        c.si = 1 + n % 3;
        c.cx = rounds;
        for (unsigned i = 1; i <= rounds; i++)
            for (unsigned scale = 1; scale <= 8; scale *= 2)
                ax += get((unsigned)c.si * i * scale, 1) + get(second + (unsigned)c.si * i * scale, 1);
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ((uint32_t)c.ax, ax);
    }
}
