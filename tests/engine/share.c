/*
 * share.c: memory that several processors use: its order (SDM vol. 3, 8.2.3),
 * atomic operations, page tables, and code that one writes and others run.
 */
#include "kit/apic.h"
#include "kit/page.h"
#include "kit/regs.h"
#include "kit/smp.h"

#define ROUNDS  3000
#define FEW     500 /* of those in which four have to meet: with fewer processors each meeting takes turns */
#define VECTOR  0x42
#define PAGES   32
#define PATTERN 0x5a5a5a5a5a5a5a5aull

/* Each on a cache line of its own. */
struct line {
    volatile word value;
    char rest[64 - sizeof(word)];
} __attribute__((aligned(64)));

static struct line x, y, seen[SMP_MAX][2];
static unsigned forbidden, interesting;

static void begin(unsigned wanted)
{
    paging_64();
    apic_init();
    smp_start(wanted);
}

/* --- order: litmus tests -------------------------------------------------------------------- */

/* Rounds of a test: everything is 0, all run their part at once, one looks at what they saw. */
static void litmus(unsigned cpu, unsigned rounds, void (*part)(unsigned cpu), void (*judge)(void))
{
    for (unsigned round = 0; round < rounds; round++) {
        if (!cpu)
            x.value = y.value = 0;
        smp_barrier();
        for (volatile unsigned delay = round * (cpu + 1) % 13; delay; delay--)
            continue;
        part(cpu);
        smp_barrier();
        if (!cpu)
            judge();
    }
}

static void read_both(unsigned cpu, struct line *first, struct line *second)
{
    word a, b;

    asm volatile("mov %2, %0\n mov %3, %1" : "=&r"(a), "=&r"(b) : "m"(first->value), "m"(second->value) : "memory");
    seen[cpu][0].value = a;
    seen[cpu][1].value = b;
}

/* Store buffering: with a fence, or a locked operation, both cannot miss the other's store. */
static void store_fence_load(unsigned cpu)
{
    struct line *own = cpu ? &y : &x, *other = cpu ? &x : &y;
    word a;

    asm volatile("mov" W " $1, %1\n mfence\n mov %2, %0" : "=&r"(a), "=m"(own->value) : "m"(other->value) : "memory");
    seen[cpu][0].value = a;
}

static void xchg_load(unsigned cpu)
{
    struct line *own = cpu ? &y : &x, *other = cpu ? &x : &y;
    word a = 1;

    asm volatile("xchg %0, %1\n mov %2, %0" : "+&r"(a), "+m"(own->value) : "m"(other->value) : "memory");
    seen[cpu][0].value = a;
}

static void store_load(unsigned cpu)
{
    struct line *own = cpu ? &y : &x, *other = cpu ? &x : &y;
    word a;

    asm volatile("mov" W " $1, %1\n mov %2, %0" : "=&r"(a), "=m"(own->value) : "m"(other->value) : "memory");
    seen[cpu][0].value = a;
}

static void judge_store_buffering(void)
{
    forbidden += !seen[0][0].value && !seen[1][0].value;
}

static void judge_allowed(void)
{
    interesting += !seen[0][0].value && !seen[1][0].value;
}

static void fenced(unsigned cpu)
{
    litmus(cpu, ROUNDS, store_fence_load, judge_store_buffering);
    litmus(cpu, ROUNDS, xchg_load, judge_store_buffering);
    litmus(cpu, ROUNDS, store_load, judge_allowed); /* loads may pass earlier stores: nothing is expected */
}

TEST(smp_order_store_buffering)
{
    begin(2);
    smp_run(2, fenced);
    EXPECT_EQ(forbidden, 0);
}

/* Message passing: who sees the flag sees the data. */
static void pass_message(unsigned cpu)
{
    if (cpu)
        read_both(cpu, &y, &x);
    else
        asm volatile("mov" W " $1, %0\n mov" W " $1, %1" : "=m"(x.value), "=m"(y.value) : : "memory");
}

static void judge_message(void)
{
    forbidden += seen[1][0].value && !seen[1][1].value;
}

/* Load buffering: nobody sees a store before its own load was done. */
static void load_store(unsigned cpu)
{
    struct line *own = cpu ? &y : &x, *other = cpu ? &x : &y;
    word a;

    asm volatile("mov %2, %0\n mov" W " $1, %1" : "=&r"(a), "=m"(own->value) : "m"(other->value) : "memory");
    seen[cpu][0].value = a;
}

static void judge_load_buffering(void)
{
    forbidden += seen[0][0].value && seen[1][0].value;
}

static void ordered(unsigned cpu)
{
    litmus(cpu, ROUNDS, pass_message, judge_message);
    litmus(cpu, ROUNDS, load_store, judge_load_buffering);
}

TEST(smp_order_message)
{
    begin(2);
    smp_run(2, ordered);
    EXPECT_EQ(forbidden, 0);
}

/* Independent reads of independent writes: all agree on the order of stores. */
static void write_or_read(unsigned cpu)
{
    if (cpu == 0)
        x.value = 1;
    else if (cpu == 1)
        y.value = 1;
    else
        read_both(cpu, cpu == 2 ? &x : &y, cpu == 2 ? &y : &x);
}

static void judge_readers(void)
{
    forbidden += seen[2][0].value && !seen[2][1].value && seen[3][0].value && !seen[3][1].value;
}

static void independent(unsigned cpu)
{
    litmus(cpu, FEW, write_or_read, judge_readers);
}

TEST(smp_order_readers)
{
    begin(4);
    smp_run(4, independent);
    EXPECT_EQ(forbidden, 0);
}

/* --- atomic operations ------------------------------------------------------------------------- */

static struct line sums[8];
static uint64_t pair[2] __attribute__((aligned(16)));
static volatile uint32_t bits;

static void pair_up(void)
{
#ifdef __x86_64__
    uint64_t lo = pair[0], hi = pair[1];
    bool done;

    do
        asm volatile("lock cmpxchg16b %0"
                     : "+m"(pair), "+a"(lo), "+d"(hi), "=@ccz"(done)
                     : "b"(lo + 1), "c"(hi + 1)
                     : "memory");
    while (!done);
#else
    uint32_t *p = (uint32_t *)pair, lo = p[0], hi = p[1];
    bool done;

    do
        asm volatile("lock cmpxchg8b %0"
                     : "+m"(*(uint64_t *)p), "+a"(lo), "+d"(hi), "=@ccz"(done)
                     : "b"(lo + 1), "c"(hi + 1)
                     : "memory");
    while (!done);
#endif
}

static void operate(unsigned cpu)
{
    smp_barrier();
    for (unsigned i = 0; i < ROUNDS; i++) {
        word one = 1, old, new;

        asm volatile("lock inc" W " %0" : "+m"(sums[0].value) : : "memory");
        asm volatile("lock add" W " $3, %0" : "+m"(sums[1].value) : : "memory");
        asm volatile("lock xadd %0, %1" : "+r"(one), "+m"(sums[2].value) : : "memory");
        asm volatile("lock sub" W " $1, %0" : "+m"(sums[3].value) : : "memory");
        old = sums[4].value;
        do
            new = old + 1;
        while (!__atomic_compare_exchange_n(&sums[4].value, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
        /* A lock of one bit, and a plain sum under it; another one by XCHG. */
        while (({
            bool set;
            asm volatile("lock btsl $7, %0" : "+m"(bits), "=@ccc"(set) : : "memory");
            set;
        }))
            smp_relax();
        sums[5].value++;
        asm volatile("lock btrl $7, %0" : "+m"(bits) : : "memory");
        while (({
            word taken = 1;
            asm volatile("xchg %0, %1" : "+r"(taken), "+m"(sums[6].value) : : "memory");
            taken;
        }))
            smp_relax();
        sums[7].value++;
        sums[6].value = 0;
        pair_up();
    }
}

TEST(smp_atomic)
{
    word all;

    begin(2);
    all = smp_count * ROUNDS;
    smp_run(smp_count, operate);
    EXPECT_EQ(sums[0].value, all);
    EXPECT_EQ(sums[1].value, 3 * all);
    EXPECT_EQ(sums[2].value, all);
    EXPECT_EQ(sums[3].value, -all);
    EXPECT_EQ(sums[4].value, all);
    EXPECT_EQ(sums[5].value, all);
    EXPECT_EQ(sums[7].value, all);
#ifdef __x86_64__
    EXPECT_EQ(pair[0], all);
    EXPECT_EQ(pair[1], all);
#else
    EXPECT_EQ(pair[0], (uint64_t)all << 32 | all);
#endif
}

/* Locked operands over the edge of a cache line, and of a page whose neighbour lies elsewhere. */
static char *split_line, *split_page;

static void split(unsigned cpu)
{
    smp_barrier();
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint32_t one = 0x10001;

        asm volatile("lock addl $0x10001, %0" : "+m"(*(uint32_t *)split_line) : : "memory");
        if (i % 8)
            continue;
        asm volatile("lock addl $0x10001, %0" : "+m"(*(uint32_t *)split_page) : : "memory");
        asm volatile("lock xaddl %0, %1" : "+r"(one), "+m"(*(uint32_t *)split_page) : : "memory");
    }
}

TEST(smp_split_locks)
{
    char *far, *near;
    uint32_t value;

    begin(2);
    near = page_new();
    page_new();
    far = page_new();
    map(TEST_VA, (word)near, PTE_PW);
    map(TEST_VA + PAGE, (word)far, PTE_PW);
    split_line = near + 62;
    split_page = (char *)TEST_VA + PAGE - 2;
    smp_run(smp_count, split);
    memcpy(&value, split_line, 4);
    EXPECT_EQ(value, 0x10001u * smp_count * ROUNDS);
    memcpy(&value, split_page, 4);
    EXPECT_EQ(value, 0x10001u * smp_count * 2 * (ROUNDS / 8));
}

/* Aligned stores and loads are whole, also those of string instructions and of the stack. */
static volatile word whole[64] __attribute__((aligned(64)));
static volatile unsigned done;

static void tear(unsigned cpu)
{
    smp_barrier();
    if (cpu == 0) {
        for (unsigned i = 0; i < 4 * ROUNDS; i++) {
            word value = i & 1 ? ~0ul : 0, to = (word)whole, count = 8, sp;

            whole[9] = value;
            asm volatile("cld\n rep stos" W : "+D"(to), "+c"(count) : "a"(value) : "memory");
            asm volatile("mov %" SP ", %0\n mov %1, %" SP "\n push %2\n mov %0, %" SP
                         : "=&r"(sp)
                         : "r"(&whole[11]), "r"(value)
                         : "memory");
        }
        done = 1;
        return;
    }
    while (!done) {
        for (unsigned i = 0; i < 11; i++)
            forbidden += (word)(whole[i] + 1) > 1;
    }
}

TEST(smp_whole_words)
{
    begin(2);
    smp_run(2, tear);
    EXPECT_EQ(forbidden, 0);
}

/* --- page tables ---------------------------------------------------------------------------------- */

static volatile unsigned acknowledged;
static volatile word generation, dropped[SMP_MAX];
static volatile word *frames[2];

static void on_shoot_down(struct context *c)
{
    invlpg(TEST_VA);
    dropped[smp_self()] = generation;
    __atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
    apic_eoi();
}

/* One maps the page now here, now there, with a higher number in it each time, and has the others drop it from their
 * TLBs: from then on they see that number, or a later one. */
static void shoot_down(unsigned cpu)
{
    smp_barrier();
    if (cpu == 0) {
        for (word i = 1; i <= ROUNDS / 4; i++) {
            *frames[i & 1] = i;
            *entry(TEST_VA, 1) = (word)frames[i & 1] | PTE_PW;
            invlpg(TEST_VA);
            EXPECT_EQ(*(volatile word *)TEST_VA, i);
            generation = i;
            acknowledged = 0;
            smp_ipi(0, 0xc0000 | ICR_ASSERT | VECTOR);
            if (!SMP_WAIT(acknowledged == smp_count - 1))
                break;
        }
        done = 1;
        return;
    }
    asm volatile("sti");
    while (!done) {
        word least = dropped[cpu];

        forbidden += *(volatile word *)TEST_VA < least;
        smp_relax();
    }
    asm volatile("cli");
}

TEST(smp_shoot_down)
{
    begin(2);
    handlers[VECTOR] = on_shoot_down;
    frames[0] = page_new();
    frames[1] = page_new();
    map(TEST_VA, (word)frames[0], PTE_PW);
    smp_run(smp_count, shoot_down);
    EXPECT_EQ(forbidden, 0);
}

static unsigned field_of(const volatile uint64_t *e)
{
    return *(const volatile uint32_t *)e >> 9 & 7;
}

/* Bits that the system keeps in an entry survive the processors' setting A and D, and no A or D gets lost. */
static void use_page(unsigned cpu)
{
    volatile uint64_t *e = entry(TEST_VA, 1);

    smp_barrier();
    while (cpu && !done) {
        invlpg(TEST_VA);
        *(volatile word *)TEST_VA = cpu;
    }
    for (unsigned i = 0; !cpu && i < ROUNDS; i++) {
        for (unsigned n = 1; n < 8; n++) {
            asm volatile("lock addl $0x200, %0" : "+m"(*(volatile uint32_t *)e) : : "memory");
            forbidden += field_of(e) != n;
        }
        asm volatile("lock andl $~0xe60, %0" : "+m"(*(volatile uint32_t *)e) : : "memory"); /* and A and D */
        forbidden += field_of(e) != 0;
        if (i % 64 == 0 && !SMP_WAIT((*e & (PTE_A | PTE_D)) == (PTE_A | PTE_D)))
            break;
    }
    done = 1;
}

TEST(smp_accessed_dirty)
{
    begin(2);
    map(TEST_VA, (word)page_new(), PTE_PW);
    smp_run(2, use_page);
    EXPECT_EQ(forbidden, 0);
}

/* --- code --------------------------------------------------------------------------------------------- */

typedef uint32_t code_fn(void);

static char *code[PAGES];
static volatile uint32_t version;

/* mov $value, %eax; ret */
static void write_code(char *at, uint32_t value)
{
    at[0] = (char)0xb8;
    at[5] = (char)0xc3;
    *(volatile uint32_t *)(at + 1) = value;
}

static void serialise(void)
{
    uint32_t regs[4];

    cpuid(0, 0, regs);
}

static void execute_versions(unsigned cpu, unsigned pages)
{
    smp_barrier();
    for (uint32_t i = 1; i <= FEW; i++) {
        char *at = code[i % pages];

        if (cpu == 0) {
            write_code(at, i);
            SMP_STORE(version, i);
        } else {
            if (!SMP_WAIT(version == i))
                return;
            serialise();
            for (unsigned n = 0; n < 1 + (i & 3); n++)
                forbidden += ((code_fn *)at)() != i;
        }
        smp_barrier();
    }
}

static void one_page(unsigned cpu)
{
    execute_versions(cpu, 1);
}

static void many_pages(unsigned cpu)
{
    execute_versions(cpu, PAGES);
}

/* Code that one processor writes is what the others execute once they know and have serialised (SDM vol. 3, 8.1.3). */
TEST(smp_code_rewritten)
{
    begin(2);
    for (unsigned i = 0; i < PAGES; i++)
        code[i] = (char *)page_new() + 64 * i;
    smp_run(smp_count, one_page);
    EXPECT_EQ(forbidden, 0);
    smp_run(smp_count, many_pages);
    EXPECT_EQ(forbidden, 0);
}

/* All write, each in turn, and all execute: hot code, in a page that also holds data they all change. */
static void in_turn(unsigned cpu)
{
    volatile word *data = (volatile word *)(code[0] + 512);

    smp_barrier();
    for (uint32_t i = 1; i <= ROUNDS / 4; i++) {
        if (i % smp_count == cpu)
            write_code(code[0], i);
        smp_barrier();
        serialise();
        for (unsigned n = 0; n < 60; n++) {
            forbidden += ((code_fn *)code[0])() != i;
            asm volatile("lock inc" W " %0" : "+m"(data[0]) : : "memory");
            data[1 + cpu]++;
        }
        smp_barrier();
    }
}

TEST(smp_code_and_data)
{
    volatile word *data;

    begin(2);
    code[0] = page_new();
    data = (volatile word *)(code[0] + 512);
    smp_run(smp_count, in_turn);
    EXPECT_EQ(forbidden, 0);
    EXPECT_EQ(data[0], smp_count * (ROUNDS / 4) * 60);
    for (unsigned i = 0; i < smp_count; i++)
        EXPECT_EQ(data[1 + i], ROUNDS / 4 * 60);
}

#define SAME_BYTES(n) (0x01010101u * ((n)&0xff))

/* An aligned operand is rewritten under those that execute it: each sees one of its values, whole (AMD APM vol. 2,
 * 7.6.1), and the last one after serialising. */
static void patched_loop(unsigned cpu)
{
    smp_barrier();
    if (cpu == 0) {
        for (uint32_t i = 1; i <= ROUNDS; i++)
            *(volatile uint32_t *)(code[0] + 4) = SAME_BYTES(i);
        done = 1;
        return;
    }
    serialise();
    while (!done) {
        uint32_t now = ((code_fn *)code[0])();

        forbidden += now != SAME_BYTES(now);
    }
    serialise();
    forbidden += ((code_fn *)code[0])() != SAME_BYTES(ROUNDS);
}

TEST(smp_code_patched)
{
    begin(2);
    code[0] = page_new();
    memset(code[0], 0x90, 3);
    write_code(code[0] + 3, 0);
    smp_run(smp_count, patched_loop);
    EXPECT_EQ(forbidden, 0);
}

/* Code is copied by string instructions to where others write data, run, and becomes data again. */
static void copy_and_run(unsigned cpu)
{
    smp_barrier();
    for (uint32_t i = 1; i <= ROUNDS / 4; i++) {
        const unsigned writer = i % smp_count;
        char *page = code[i * 7 % PAGES], text[16];

        if (cpu == writer) {
            write_code(text, i);
            memcpy(page, text, 6);
        }
        smp_barrier();
        serialise();
        forbidden += ((code_fn *)page)() != i;
        smp_barrier();
        if (cpu == (writer + 1) % smp_count)
            memset(page, 0xcc, PAGE);
        smp_barrier();
    }
}

TEST(smp_code_copied)
{
    begin(2);
    for (unsigned i = 0; i < PAGES; i++)
        code[i] = page_new();
    smp_run(smp_count, copy_and_run);
    EXPECT_EQ(forbidden, 0);
}
