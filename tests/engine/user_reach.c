/*
 * user_reach.c: how far hot code of the user's reaches: into every part of the
 * address space, over very many pages, in very many address spaces; to its own
 * page table, to what devices write, to addresses that are watched.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"
#include "user.h"

/* --- everywhere -------------------------------------------------------------------------------------------------- */

/* For each of CX addresses in the list at BX: adds the word that lies there to RAX and counts it up, R8 times in all.
 */
CODE(code_list, "1: mov %rbx, %rsi\n mov %rcx, %rdi\n 2: mov (%rsi), %rdx\n add (%rdx), %rax\n incq (%rdx)\n"
                "add $8, %rsi\n dec %rdi\n jnz 2b\n dec %r8\n jnz 1b\n int $0x80");

static struct {
    word *list;
    uint64_t *e;
    unsigned count, missing, faults;
} everywhere;

static void on_missing(struct context *c)
{
    EXPECT_EQ(c->error, PF_U);
    EXPECT_EQ(c->cr2, c->dx);
    everywhere.faults++;
    *entry(c->cr2, 1) |= PTE_P;
    if (everywhere.faults > everywhere.count)
        handlers[PF] = NULL;
}

static void add_place(word va)
{
    word *frame = user_frame(everywhere.count);

    map(va & ~(PAGE - 1), (word)frame, PTE_PWU);
    frame[(va & (PAGE - 1)) / sizeof(word)] = everywhere.count;
    everywhere.list[everywhere.count++] = va;
}

/* One page in each 512 GiB, and some that differ in the bits above 32 only; then half of them are missing. */
TEST(user_everywhere)
{
    enum { ROUNDS = 40 };
    const word first = TEST_VA + 0x18;
    word sum = 0;

    user_begin();
    handlers[PF] = on_missing;
    everywhere.list = page_new();
    map(USER_DATA + 4 * PAGE, (word)everywhere.list, PTE_PWU);
    for (word slot = 0; slot < 256; slot++)
        add_place(slot << 39 | first);
    for (word high = 1; high < 0x80; high = high * 2 + 1)
        add_place(high << 32 | first);
    for (unsigned bit = 13; bit < 32; bit++)
        if (bit > 24) /* below lies the kernel */
            add_place(1ul << bit | first);
    for (unsigned round = 0; round < 4; round++) {
        struct context c = USER(code_list);

        everywhere.faults = everywhere.missing = 0;
        for (unsigned i = round; round && i < everywhere.count; i += 2, everywhere.missing++) {
            *entry(everywhere.list[i], 1) &= ~PTE_P;
            invlpg(everywhere.list[i]);
        }
        sum = 0;
        for (unsigned i = 0; i < everywhere.count; i++)
            for (unsigned k = 0; k < ROUNDS; k++)
                sum += i + round * ROUNDS + k;
        c.bx = USER_DATA + 4 * PAGE;
        c.cx = everywhere.count;
        c.r8 = ROUNDS;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, sum);
        EXPECT_EQ(everywhere.faults, everywhere.missing);
    }
}

/* The lowest pages of all are the user's, and are not. */
CODE(code_low, "1: mov (%rbx), %rax\n lea 1(%rax), %rax\n mov %rax, (%rbx)\n addl $3, 0xffe(%rbx)\n dec %ebp\n jnz 1b\n"
               "int $0x80");

TEST(user_null_page)
{
    uint64_t *table = page_new();
    word *frames[2];

    user_begin();
    frames[0] = user_frame(0);
    frames[1] = user_frame(0);
    for (unsigned i = 0; i < 512; i++)
        table[i] = i * PAGE | PTE_PW;
    *entry(0, 2) = (word)table | PTE_PWU;
    user_flush();
    for (unsigned round = 1; round < 8; round++) {
        struct context c = USER(code_low);

        map(0, (word)frames[0], PTE_PWU);
        map(PAGE, (word)frames[1], PTE_PWU);
        c.bx = 0;
        c.bp = HOT;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(frames[0][0], round * HOT);
        EXPECT_EQ((uint32_t)(frames[0][511] >> 48 | frames[1][0] << 16), round * HOT * 3);
        unmap(round & 1 ? PAGE : 0);
        c = USER(code_low);
        c.bx = 0;
        c.bp = HOT;
        context_run(&c);
        EXPECT_END_ERROR(&c, PF, PF_U | (round & 1 ? PF_W : 0));
        EXPECT_EQ(c.cr2, round & 1 ? PAGE : 0);
        EXPECT_EQ(c.bp, HOT);
        frames[0][0] = round * HOT;
    }
}

/* More pages than a host maps one by one; no two neighbours are of neighbouring frames. */
CODE(code_stride, "1: mov %rbx, %rdx\n mov %rcx, %rdi\n 2: add (%rdx), %rax\n incq (%rdx)\n add $0x1000, %rdx\n"
                  "dec %rdi\n jnz 2b\n dec %ebp\n jnz 1b\n int $0x80");

TEST(user_very_many_pages)
{
    enum { TABLES = 140, FRAMES = 128, N = TABLES * 512 };
    const word va = 0x600000000000;
    word *frames[FRAMES];
    struct context c;

    user_begin();
    for (unsigned i = 0; i < FRAMES; i++)
        frames[i] = page_new();
    for (unsigned t = 0; t < TABLES; t++) {
        uint64_t *e = entry(va + t * 0x200000ul, 1);

        for (unsigned i = 0; i < 512; i++)
            e[i] = (word)frames[(t + i) * 59 % FRAMES] | PTE_PWU;
    }
    c = USER(code_stride);
    c.bx = va;
    c.cx = N;
    c.bp = 2;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    for (unsigned i = 0; i < FRAMES; i++)
        EXPECT_EQ(*frames[i], 2 * N / FRAMES);
    EXPECT_EQ(c.ax, FRAMES * (2ul * N / FRAMES) * (2ul * N / FRAMES - 1) / 2);
}

/* More address spaces than anybody keeps; from round to round their pages go from one to the next. */
TEST(user_many_spaces)
{
    enum { SPACES = 160, PAGES = 3, ROUNDS = 6 };
    static word roots[SPACES];
    static word *frames[SPACES];
    const word here = read_cr3(), va = 0x5555555fe000;

    user_begin();
    map(va, 0, 0);
    for (unsigned s = 0; s < SPACES; s++) {
        roots[s] = page_space(va);
        frames[s] = page_new_aligned(4 * PAGE);
    }
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned s = 0; s < SPACES; s++) {
            const unsigned owner = (s + round) % SPACES;
            struct context c = USER(code_stride);

            page_select(roots[s]);
            for (unsigned i = 0; i < PAGES; i++) {
                frames[owner][i * PAGE / sizeof(word)] = s * 100;
                *entry(va + i * PAGE, 1) = (word)frames[owner] + i * PAGE + PTE_PWU;
            }
            write_cr3(roots[s]);
            c.bx = va;
            c.cx = PAGES;
            c.bp = 20;
            context_run(&c);
            EXPECT_END(&c, 0x80);
            EXPECT_EQ(c.ax, PAGES * (20 * s * 100 + 190));
            EXPECT_EQ(frames[owner][0], s * 100 + 20);
        }
    write_cr3(here);
}

/* --- who else writes --------------------------------------------------------------------------------------------- */

/* The user writes its own page table, of which R8 is an entry: that of the page at RBX. SYSCALL is INVLPG. */
CODE(code_own_table, "1: movq $0, (%r8)\n syscall\n mov %r9, (%r8)\n incq (%rbx)\n" /* present at once */
                     "syscall\n mov (%r8), %rdx\n and $0x60, %edx\n cmp $0x60, %edx\n jne 9f\n"
                     "mov %r12, (%r8)\n syscall\n addq $3, (%rbx)\n mov (%rbx), %rdi\n"
                     "andq $~0x60, (%r8)\n syscall\n mov (%rbx), %rsi\n syscall\n mov (%r8), %rdx\n and $0x60, %edx\n"
                     "cmp $0x20, %edx\n jne 9f\n cmp %rsi, %rdi\n jne 9f\n movq $5, 8(%rbx)\n syscall\n"
                     "testb $0x40, (%r8)\n jz 9f\n dec %ebp\n jnz 1b\n int $0x80\n 9: ud2");
CODE(just_invlpg, "invlpg (%r10)\n sysretq");

TEST(user_own_table)
{
    user_begin();
    user_syscall(just_invlpg);
    for (unsigned p = 1; p < USER_PLACES; p++) {
        const word va = user_places[p], table = va + PAGE;
        word *frames[2] = {user_frame(0), user_frame(0)};
        struct context c = USER(code_own_table);

        map(va, (word)frames[0], PTE_PWU);
        map(table, (word)entry(va, 1) & ~(PAGE - 1), PTE_PWU);
        c.bx = c.r10 = va;
        c.r8 = table + ((word)entry(va, 1) & (PAGE - 1));
        c.r9 = (word)frames[0] | PTE_PWU;
        c.r12 = (word)frames[1] | PTE_PWU;
        c.bp = HOT;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(*frames[0], HOT);
        EXPECT_EQ(*frames[1], 3 * HOT);
        EXPECT_EQ(frames[1][1], 5);
    }
}

/* The runner's port that writes to memory. */
#define PORT_ADDRESS 0xe0
#define PORT_BYTE    0xe4
#define PORT_MAGIC   0xe8
#define MEMORY_MAGIC 0x3d

static void device_writes(word at, const void *data, unsigned size)
{
    asm volatile("outl %0, %w1" : : "a"((uint32_t)at), "d"(PORT_ADDRESS));
    for (unsigned i = 0; i < size; i++)
        outb(PORT_BYTE, ((const uint8_t *)data)[i]);
}

static word *device_frames[2];

/* To the user's page; or to the entry that says where it is. */
static void on_device(struct context *c)
{
    const uint64_t e = (word)device_frames[c->bp >> 1 & 1] | PTE_PWU;
    const uint32_t number = (uint32_t)c->bp;

    if (c->bp & 1)
        device_writes((word)entry(c->bx, 1), &e, sizeof e);
    invlpg(c->bx);
    device_writes(*entry(c->bx, 1) & ADDRESS, &number, sizeof number);
}

CODE(code_after_device, "1: mov (%rbx), %rax\n add %rax, 8(%rbx)\n int $0x81\n cmp (%rbx), %ebp\n jne 9f\n dec %ebp\n"
                        "jnz 1b\n int $0x80\n 9: ud2");

TEST(user_device_writes)
{
    if (inb(PORT_MAGIC) != MEMORY_MAGIC)
        skip("no device that writes to memory");
    user_begin();
    handlers[CALL_ELSE] = on_device;
    device_frames[0] = page_new();
    device_frames[1] = page_new();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        struct context c = USER(code_after_device);

        map(user_places[p], (word)device_frames[0], PTE_PWU);
        c.bx = user_places[p];
        c.bp = 2 * HOT;
        context_run(&c);
        EXPECT_END(&c, 0x80);
    }
}

/* --- compatibility mode --------------------------------------------------------------------------------------------
 */

/* From 64-bit code to 32-bit code and back, both with the same page; there is none when they come to it. */
CODE(code_both_sizes, "1: incq (%rbx)\n push $0x1b\n lea 2f(%rip), %rdx\n push %rdx\n int $0x81\n lretq\n .code32\n"
                      "2: addl $1, 8(%ebx)\n int $0x81\n mov $0xfffffff0, %esi\n addl $1, 0x1200020(%esi)\n"
                      "mov 8(%ebx), %eax\n .byte 0xea\n .long 0x1000000 + 3f - code_both_sizes\n .word 0x2b\n .code64\n"
                      "3: mov 0x10(%rbx), %rcx\n cmp %rcx, %rax\n jne 9f\n dec %ebp\n jnz 1b\n int $0x80\n 9: ud2");

static void on_unmap(struct context *c)
{
    *entry(TEST_VA, 1) &= everywhere.missing++ & 2 ? ~PTE_P : ~PTE_W;
    invlpg(TEST_VA);
}

static void on_map(struct context *c)
{
    EXPECT(c->error & PF_U && c->cr2 >= TEST_VA && c->cr2 < TEST_VA + 0x18);
    everywhere.faults++;
    map(TEST_VA, *entry(TEST_VA, 1) & ADDRESS, PTE_PWU);
}

TEST(user_both_code_sizes)
{
    struct context c;
    word *frame = page_new();

    user_begin();
    handlers[CALL_ELSE] = on_unmap;
    handlers[PF] = on_map;
    c = USER(code_both_sizes);
    map(TEST_VA, (word)frame, PTE_PWU);
    c.bx = TEST_VA;
    c.bp = HOT;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(frame[0], HOT);
    EXPECT_EQ(frame[1], HOT);
    EXPECT_EQ(frame[2], HOT);
    EXPECT_EQ(everywhere.faults, 2 * HOT);
}

/* --- addresses that are watched ---------------------------------------------------------------------------------- */

CODE(code_watched, "1: mov %rax, (%rbx)\n add (%rbx), %rax\n movups 3(%rbx), %xmm1\n push %rax\n lock incl 4(%rbx)\n"
                   "pop %rdx\n dec %ebp\n jnz 1b\n int $0x80");
static unsigned hits;

static void on_hit(struct context *c)
{
    EXPECT_EQ(c->dr6 & 15, 1);
    write_dr6(0);
    hits++;
}

/* Hits of four accesses to its eight bytes, of which three are writes to them, in each round (SDM vol. 3, 17.2.4). */
TEST(user_watched)
{
    static const struct {
        word dr7, offset;
        unsigned each;
    } watches[] = {
        {0, 0, 0},        {0x90001, 0, 2}, /* writes of 8 bytes: the store and the increment */
        {0, 0, 0},        {0xb0001, 0, 4}, /* reads too */
        {0xf0001, 0, 3},                   /* of the lower four: not the increment */
        {0xd0001, 4, 2},                   /* of the upper four, writes */
        {0xb0001, 64, 0},                  /* beside them */
    };

    user_begin();
    handlers[DB] = on_hit;
    for (unsigned p = 0; p < USER_PLACES; p++) {
        map(user_places[p], (word)page_new(), PTE_PWU);
        for (unsigned i = 0; i < sizeof watches / sizeof *watches; i++) {
            struct context c = USER(code_watched);

            write_dr0(user_places[p] + 0x100 + watches[i].offset);
            write_dr7(watches[i].dr7 | 0x400);
            hits = 0;
            c.bx = user_places[p] + 0x100;
            c.bp = HOT;
            context_run(&c);
            EXPECT_END(&c, 0x80);
            EXPECT_EQ(hits, watches[i].each * HOT);
        }
        write_dr7(0x400);
    }
}

/* --- long copies ------------------------------------------------------------------------------------------------- */

enum { COPIED = 12 };

static struct {
    word from, to, bytes, unit;
    unsigned faults;
    bool clear;
} copying;

/* As far as the registers say, and not further. */
static void on_copy_fault(struct context *c)
{
    const word done = copying.bytes - c->cx * copying.unit, va = c->cr2 & ~(PAGE - 1);

    EXPECT_EQ(c->di, copying.to + done);
    if (!copying.clear)
        EXPECT_EQ(c->si, copying.from + done);
    EXPECT_EQ(c->cr2, c->error & PF_W ? c->di : c->si);
    EXPECT(!(c->error & PF_P));
    EXPECT_EQ(c->ip, USER_CODE);
    *entry(va, 1) |= PTE_P;
    if (++copying.faults > 2 * COPIED + 2)
        handlers[PF] = NULL;
}

CODE(copy_bytes, "rep movsb\n int $0x80");
CODE(copy_words, "rep movsq\n int $0x80");
CODE(clear_words, "rep stosq\n int $0x80");

static uint8_t byte_of(word i, word seed)
{
    return (uint8_t)(i * 7 + i / 255 + seed);
}

static void copy(const char *code, word size, word unit, word offset, word seed)
{
    struct context c = user_code(code, size);
    unsigned missing = 0;

    copying.bytes = (COPIED - 1) * PAGE;
    copying.unit = unit;
    copying.from = user_places[2] + offset * unit;
    copying.to = user_places[1] + (offset * 5 & 0x1ff) * unit;
    copying.clear = unit == 8 && code == clear_words;
    for (word i = 0; i < copying.bytes; i += 61)
        ((uint8_t *)copying.from)[i] = byte_of(i, seed);
    for (unsigned i = 0; i < COPIED; i++) {
        uint64_t *from = entry(user_places[2] + i * PAGE, 1), *to = entry(user_places[1] + i * PAGE, 1);

        if (!copying.clear && (seed >> i % 5 & 1))
            *from &= ~PTE_P, missing += i * PAGE + PAGE > (copying.from & 0xfff) && i < COPIED - 1;
        if (seed >> i % 3 & 1)
            *to &= ~PTE_P, missing += i < COPIED - 1;
    }
    user_flush();
    copying.faults = 0;
    c.si = copying.from;
    c.di = copying.to;
    c.cx = copying.bytes / unit;
    c.ax = 0x1111111111111111 * (seed & 15);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.cx, 0);
    EXPECT_EQ(c.di, copying.to + copying.bytes);
    EXPECT(copying.faults >= missing);
    for (unsigned i = 0; i < COPIED; i++) {
        *entry(user_places[2] + i * PAGE, 1) |= PTE_P;
        *entry(user_places[1] + i * PAGE, 1) |= PTE_P;
    }
    for (word i = 0; i < copying.bytes; i += 61)
        EXPECT_EQ(((uint8_t *)copying.to)[i], copying.clear ? (uint8_t)c.ax : byte_of(i, seed));
}

TEST(user_long_copies)
{
    user_begin();
    handlers[PF] = on_copy_fault;
    for (unsigned i = 0; i < COPIED; i++) {
        map(user_places[2] + i * PAGE, (word)page_new(), PTE_PWU);
        map(user_places[1] + i * PAGE, (word)page_new(), PTE_PWU);
    }
    for (word seed = 0; seed < 32; seed++) {
        copy(copy_bytes, CODE_SIZE(copy_bytes), 1, seed * 37, seed);
        copy(copy_words, CODE_SIZE(copy_words), 8, seed * 13, seed);
        copy(clear_words, CODE_SIZE(clear_words), 8, seed * 3, seed);
    }
}
