/*
 * user_pages.c: rights that the user's pages lose and get back, accessed and
 * dirty bits, copies on write, pages of other sizes, frames shown twice: while
 * the user's code is hot, and had the page before (SDM vol. 3, 4.6 to 4.8).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"
#include "user.h"

#define A PTE_A
#define D PTE_D

/* --- kinds of access --------------------------------------------------------------------------------------------- */

/* Each BP times at BX; R8: the same address, 64 bytes on, is also in RSI, RDI or RSP where the kind wants it. */
#define KIND(name, text)                                                                                               \
    CODE(kind_##name,                                                                                                  \
         "mov $0x7fffffff, %ecx\n 1: add $1, %ecx\n" text "\n mov $0x7fffffff, %ecx\n dec %ebp\n jnz 1b\n"             \
         "int $0x80")
#define KINDS(X)                                                                                                       \
    X(load, "mov (%rbx), %rax", 0)                                                                                     \
    X(load_byte, "movzbl 5(%rbx), %eax", 0)                                                                            \
    X(compare, "cmpl $0, 16(%rbx)", 0)                                                                                 \
    X(test_bit, "btl $3, (%rbx)", 0)                                                                                   \
    X(load_vector, "movups 3(%rbx), %xmm1", 0)                                                                         \
    X(cmov, "cmovz (%rbx), %rax", 0)                                                                                   \
    X(pop, "mov %r8, %rsp\n pop %rax", 0)                                                                              \
    X(lods, "mov %r8, %rsi\n lodsl", 0)                                                                                \
    X(push_memory, "push (%rbx)\n pop %rax", 0)                                                                        \
    X(store, "mov %rax, (%rbx)", 1)                                                                                    \
    X(store_byte, "movb $1, 7(%rbx)", 1)                                                                               \
    X(add, "addl $1, (%rbx)", 1)                                                                                       \
    X(locked, "lock xadd %eax, 8(%rbx)", 1)                                                                            \
    X(failing, "mov $-2, %eax\n lock cmpxchg %edx, 0x20(%rbx)", 1)                                                     \
    X(exchange, "xchg %eax, (%rbx)", 1)                                                                                \
    X(set_bit, "lock btsl $7, (%rbx)", 1)                                                                              \
    X(shift, "shrl $2, (%rbx)", 1)                                                                                     \
    X(setcc, "seto (%rbx)", 1)                                                                                         \
    X(store_vector, "movups %xmm1, 5(%rbx)", 1)                                                                        \
    X(push, "mov %r8, %rsp\n push %rax", 1)                                                                            \
    X(call, "mov %r8, %rsp\n call 2f\n 2:", 1)                                                                         \
    X(enter, "mov %r8, %rsp\n mov %rbp, %r10\n enter $8, $0\n mov %r10, %rbp", 1)                                      \
    X(stos, "mov %r8, %rdi\n stosq", 1)
#define X(name, text, writes) KIND(name, text);
KINDS(X)
#undef X

static const struct kind {
    const char *code, *end;
    bool writes;
} kinds[] = {
#define X(name, text, writes) {kind_##name, kind_##name##_end, writes},
    KINDS(X)
#undef X
};
#define KIND_COUNT (sizeof kinds / sizeof *kinds)
#define CODE_STEP  0x80 /* of their copies */

static void place_kinds(void)
{
    for (unsigned i = 0; i < KIND_COUNT; i++) {
        if (i * CODE_STEP % PAGE == 0)
            user_page(USER_CODE + i * CODE_STEP);
        memcpy((void *)(USER_CODE + i * CODE_STEP), kinds[i].code, (size_t)(kinds[i].end - kinds[i].code));
    }
}

static struct context kind_context(unsigned i, word va, word rounds)
{
    struct context c = user_context(USER_CODE + i * CODE_STEP);

    c.bx = va;
    c.r8 = va + 64;
    c.bp = rounds;
    return c;
}

static void hot(unsigned i, word va)
{
    struct context c = kind_context(i, va, 60);

    context_run(&c);
    EXPECT_END(&c, 0x80);
}

/* The first access faults, and nothing has changed. */
static void refused(unsigned i, word va, word error)
{
    struct context c = kind_context(i, va, 60), before = c;

    context_run(&c);
    EXPECT_END_ERROR(&c, PF, error | PF_U | (kinds[i].writes ? PF_W : 0));
    EXPECT((c.cr2 & ~(PAGE - 1)) == (va & ~(PAGE - 1)));
    EXPECT_EQ(c.cx, 0x80000000);
    EXPECT_EQ(c.bp, before.bp);
    EXPECT_EQ(c.bx, before.bx);
    EXPECT_EQ(c.dx, before.dx);
    EXPECT_EQ(c.flags & (FL_CF | FL_OF | FL_SF | FL_ZF | FL_AF | FL_PF), FL_OF | FL_SF | FL_AF | FL_PF);
}

/* --- rights ------------------------------------------------------------------------------------------------------ */

static void set(uint64_t *e, uint64_t bits, word va, bool by_reload)
{
    *e = (*e & ~PTE_PWU) | bits;
    if (by_reload)
        user_flush();
    else
        invlpg(va);
}

/* Hot, then without the right, then hot again: all kinds, by the entry of a level. */
static void losing_rights(word va, unsigned level)
{
    static const uint64_t rights[] = {0, PTE_W | PTE_U, PTE_PW, PTE_P, PTE_P | PTE_U};
    uint64_t *e = entry(va, level);

    for (unsigned r = 0; r < sizeof rights / sizeof *rights; r++)
        for (unsigned i = 0; i < KIND_COUNT; i++) {
            const bool may = rights[r] == (PTE_P | PTE_U) && !kinds[i].writes;

            hot(i, va);
            set(e, rights[r], va, (r + i) & 1);
            if (may)
                hot(i, va);
            else
                refused(i, va, rights[r] & PTE_P ? PF_P : 0);
            set(e, PTE_PWU, va, r & 1);
            hot(i, va);
        }
}

TEST(user_rights)
{
    user_begin();
    place_kinds();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p] + 0x100;

        map(user_places[p], (word)page_new(), PTE_PWU);
        losing_rights(va, 1);
        /* The upper levels of the first place are the kernel's too. */
        for (unsigned level = 2; p && level <= 4; level++)
            losing_rights(va, level);
    }
}

/* What was not present is not kept, and a fault for a right forgets the entry: no need to flush for more rights (SDM
 * vol. 3, 4.10.4.3). A write may fault once, not twice. */
static unsigned faults;

static void on_needless_fault(struct context *c)
{
    faults++;
}

TEST(user_more_rights)
{
    user_begin();
    place_kinds();
    handlers[PF] = on_needless_fault;
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p] + 0x100;
        uint64_t *e;

        map(user_places[p], (word)page_new(), PTE_PWU);
        e = entry(va, 1);
        for (unsigned i = 0; i < KIND_COUNT; i++) {
            hot(i, va);
            set(e, 0, va, false);
            *e |= PTE_PWU;
            faults = 0;
            hot(i, va);
            EXPECT_EQ(faults, 0);
            if (!kinds[i].writes)
                continue;
            set(e, PTE_P | PTE_U, va, false);
            hot(0, va); /* a load */
            *e |= PTE_W;
            faults = 0;
            hot(i, va);
            EXPECT(faults <= 1);
        }
    }
}

/* Bits that must be 0: one beyond the physical addresses; NX without EFER.NXE. */
TEST(user_reserved_bits)
{
    uint32_t regs[4];

    user_begin();
    place_kinds();
    cpuid(0x80000008, 0, regs);
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p] + 0x100;
        const uint64_t reserved = (regs[0] & 0xff) < 52 ? 1ull << 51 : PTE_NX;
        uint64_t *e;

        map(user_places[p], (word)page_new(), PTE_PWU);
        e = entry(va, 1);
        for (unsigned i = 0; i < KIND_COUNT; i++) {
            const uint64_t good = *e;

            hot(i, va);
            *e = good | reserved;
            invlpg(va);
            if (reserved != PTE_NX)
                refused(i, va, PF_P | PF_RSVD);
            *e = good | PTE_NX;
            invlpg(va);
            hot(i, va);
            wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE);
            user_flush();
            refused(i, va, PF_P | PF_RSVD);
            wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
            user_flush();
            hot(i, va);
            *e = good;
            invlpg(va);
        }
    }
}

/* --- accessed and dirty ------------------------------------------------------------------------------------------ */

static void clear(uint64_t *e, word va, uint64_t bits, bool by_reload)
{
    *e &= ~bits;
    if (by_reload)
        user_flush();
    else
        invlpg(va);
}

/* The page at va by an entry; beside it two that must stay as they are. */
static void bits_of(uint64_t *e, word va, const uint64_t *before, const uint64_t *after)
{
    for (unsigned i = 0; i < KIND_COUNT; i++)
        for (unsigned reload = 0; reload < 2; reload++) {
            const uint64_t want = A | (kinds[i].writes ? D : 0);

            hot(i, va);
            clear(e, va, A | D, reload);
            hot(i, va);
            EXPECT_EQ(*e & (A | D), want);
            clear(e, va, A | D, reload);
            hot(0, va); /* a load */
            EXPECT_EQ(*e & (A | D), A);
            hot(i, va);
            EXPECT_EQ(*e & (A | D), want);
            clear(e, va, D, reload);
            hot(i, va);
            EXPECT_EQ(*e & (A | D), want);
            clear(e, va, A, reload);
            EXPECT_EQ(*e & A, 0);
            hot(i, va);
            EXPECT_EQ(*e & (A | D), want);
            EXPECT_EQ((*before | *after) & (A | D), 0);
        }
}

TEST(user_accessed_dirty)
{
    user_begin();
    place_kinds();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p] + PAGE;

        for (unsigned i = 0; i < 3; i++)
            map(user_places[p] + i * PAGE, (word)page_new(), PTE_PWU);
        bits_of(entry(va, 1), va + 0x100, entry(va - PAGE, 1), entry(va + PAGE, 1));
    }
}

#define LARGE   0x200000ul
#define LARGE_A 0x555555600000ul
#define LATE    0x555556e00000ul

TEST(user_accessed_dirty_large)
{
    char *frames = page_new_aligned(LARGE);

    user_begin();
    place_kinds();
    for (unsigned i = 0; i < 3; i++)
        map_large(LARGE_A + i * LARGE, (word)frames, PTE_PWU, 2);
    bits_of(entry(LARGE_A + LARGE, 2), LARGE_A + LARGE + 0x7f100, entry(LARGE_A, 2), entry(LARGE_A + 2 * LARGE, 2));
}

/* A load and then a store, and the kernel looks between; both in one run of hot code. */
CODE(code_load_store, "1: mov (%rbx), %rax\n mov 8(%rbx), %rcx\n int $0x81\n mov %rax, 16(%rbx)\n int $0x81\n"
                      "mov 16(%rbx), %rcx\n int $0x81\n dec %ebp\n jnz 1b\n int $0x80");
static unsigned looks;

static void on_look(struct context *c)
{
    volatile uint64_t *e = entry(c->bx, 1);
    const unsigned look = looks++ % 3;

    EXPECT_EQ(*e & (A | D), look ? A | D : A);
    if (look == 2)
        clear((uint64_t *)e, c->bx, looks & 1 ? A | D : D, looks & 2);
}

TEST(user_load_then_store)
{
    user_begin();
    handlers[CALL_ELSE] = on_look;
    for (unsigned p = 0; p < USER_PLACES; p++) {
        struct context c = USER(code_load_store);

        map(user_places[p], (word)page_new(), PTE_PWU);
        c.bx = user_places[p];
        c.bp = HOT;
        context_run(&c);
        EXPECT_END(&c, 0x80);
    }
    EXPECT_EQ(looks, 3 * HOT * USER_PLACES);
}

/* --- copies on write --------------------------------------------------------------------------------------------- */

/* Each of CX pages from BX on: what is there (its number), made twice as large plus one; AX: the sum of all. */
CODE(code_count, "1: mov %rbx, %rdx\n mov %ecx, %edi\n 2: mov (%rdx), %rsi\n add %rsi, %rax\n lea 1(%rsi, %rsi), %rsi\n"
                 "mov %rsi, (%rdx)\n cmp %rsi, (%rdx)\n jne 3f\n add $0x1000, %rdx\n dec %edi\n jnz 2b\n dec %ebp\n"
                 "jnz 1b\n int $0x80\n 3: ud2");
enum { SHARED = 12, FORKS = 40 };

static word *copies[SHARED];
static unsigned copied;

/* A first write: the page gets a frame of its own. */
static void on_copy(struct context *c)
{
    const word va = c->cr2 & ~(PAGE - 1);
    uint64_t *e = entry(va, 1);

    EXPECT_EQ(c->error, PF_P | PF_W | PF_U);
    EXPECT_EQ(c->cr2, c->dx);
    EXPECT_EQ(*e & (PTE_P | PTE_W | PTE_U | D), PTE_P | PTE_U);
    memcpy(copies[copied], (void *)(*e & ADDRESS), PAGE);
    map(va, (word)copies[copied], PTE_PWU);
    copied++;
}

static void count_pages(word va, unsigned rounds, word sum)
{
    struct context c = USER(code_count);

    c.bx = va;
    c.cx = SHARED;
    c.bp = rounds;
    copied = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, sum);
    EXPECT_EQ(copied, SHARED);
}

/* The child gets the parent's pages; neither may write to them. */
static void share(word va, word parent, word child)
{
    for (unsigned i = 0; i < SHARED; i++) {
        uint64_t *e = entry(va + i * PAGE, 1), shared = *e & ~(PTE_W | D);

        *e = shared;
        page_select(child);
        *entry(va + i * PAGE, 1) = shared;
        page_select(parent);
    }
}

/* The child writes to all pages and is gone; then the parent does, and gets the frames that were the child's, for
 * other pages. */
static void forks(word va, bool pcid)
{
    const word parent = read_cr3() & ADDRESS, keep = pcid ? NO_FLUSH : 0, child = page_space(va);
    word sum = 0;

    for (unsigned i = 0; i < SHARED; i++) {
        map(va + i * PAGE, (word)user_frame(i + 1), PTE_PWU);
        copies[i] = page_new();
        sum += i + 1;
    }
    for (unsigned f = 0; f < FORKS; f++) {
        word *was[SHARED];

        share(va, parent, child);
        for (unsigned i = 0; i < SHARED; i++)
            was[i] = (word *)(*entry(va + i * PAGE, 1) & ADDRESS);
        write_cr3(parent | pcid);
        write_cr3(child | 2 * pcid);
        page_select(child);
        count_pages(va, 2, 3 * sum + SHARED);
        write_cr3(parent | pcid | keep);
        page_select(parent);
        for (unsigned i = 0; i < SHARED / 2; i++) {
            word *const other = copies[SHARED - 1 - i];

            copies[SHARED - 1 - i] = copies[i];
            copies[i] = other;
        }
        count_pages(va, 1, sum);
        sum = 2 * sum + SHARED;
        memcpy(copies, was, sizeof copies);
    }
    write_cr3(parent);
}

TEST(user_copy_on_write)
{
    user_begin();
    handlers[PF] = on_copy;
    for (unsigned p = 0; p < USER_PLACES; p++)
        forks(user_places[p], false);
}

TEST(user_copy_on_write_pcid)
{
    NEED_PCID();
    user_begin();
    handlers[PF] = on_copy;
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned p = 0; p < USER_PLACES; p++)
        forks(user_places[p], true);
}

/* --- sizes ------------------------------------------------------------------------------------------------------- */

/* The first word of each of CX pages from BX on, R8 bytes apart, counted up. AX: their sum before. */
CODE(code_touch, "1: mov %rbx, %rdx\n mov %ecx, %edi\n 2: add (%rdx), %rax\n incq (%rdx)\n add %r8, %rdx\n dec %edi\n"
                 "jnz 2b\n dec %ebp\n jnz 1b\n int $0x80");

static word touch(word va, unsigned pages, word distance, unsigned rounds)
{
    struct context c = USER(code_touch);

    c.bx = va;
    c.cx = pages;
    c.r8 = distance;
    c.bp = rounds;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    return c.ax;
}

static void fill(word *frames, word number)
{
    for (unsigned i = 0; i < LARGE / PAGE; i++)
        frames[i * PAGE / sizeof(word)] = number;
}

static void flush_large(bool by_reload)
{
    if (by_reload)
        user_flush();
    else
        for (unsigned i = 0; i < LARGE / PAGE; i++)
            invlpg(LARGE_A + i * PAGE);
}

/* One address: a large page; 4 KiB pages, every third of which is of other memory; the large page again; another. */
TEST(user_page_sizes)
{
    enum { N = LARGE / PAGE };
    word *frames = page_new_aligned(LARGE), *others = page_new_aligned(LARGE);
    uint64_t *e, table;

    user_begin();
    e = entry(LARGE_A, 2);
    table = (word)page_new() | PTE_PWU;
    fill(frames, 1);
    fill(others, 1000);
    for (unsigned i = 0; i < N; i++)
        ((uint64_t *)(table & ADDRESS))[i] = (word)(i % 3 ? frames : others) + i * PAGE + PTE_PWU;
    for (unsigned round = 0; round < 24; round++) {
        const word of_frames = 1 + 3 * round, of_others = 1000 + 2 * round;
        const word third = (N + 2) / 3;

        *e = (word)frames | PTE_PWU | PTE_PS;
        flush_large(round & 1);
        EXPECT_EQ(touch(LARGE_A, N, PAGE, 1), N * of_frames);
        *e = table;
        flush_large(round & 2);
        EXPECT_EQ(touch(LARGE_A, N, PAGE, 1), (N - third) * (of_frames + 1) + third * of_others);
        *e = (word)others | PTE_PWU | PTE_PS;
        flush_large(round & 1);
        EXPECT_EQ(touch(LARGE_A, N, PAGE, 1), (N - third) * of_others + third * (of_others + 1));
        *e = (word)frames | PTE_PWU | PTE_PS;
        flush_large(round & 2);
        EXPECT_EQ(touch(LARGE_A, N, PAGE, 1), (N - third) * (of_frames + 2) + third * (of_frames + 1));
        /* All as often as the others. */
        for (unsigned i = 0; i < N; i++) {
            frames[i * PAGE / sizeof(word)] = of_frames + 3;
            others[i * PAGE / sizeof(word)] = of_others + 2;
        }
    }
}

/* One INVLPG forgets all of a large page (SDM vol. 3, 4.10.4.1). */
TEST(user_large_page_invlpg)
{
    enum { N = LARGE / PAGE };
    word *frames[2] = {page_new_aligned(LARGE), page_new_aligned(LARGE)};

    user_begin();
    fill(frames[0], 0);
    fill(frames[1], 0x10000);
    for (unsigned round = 0; round < 40; round++) {
        map_large(LARGE_A, (word)frames[round & 1], PTE_PWU, 2);
        invlpg(LARGE_A + round % 3 * 0x7e000);
        EXPECT_EQ(touch(LARGE_A, N, PAGE, 1), N * (round / 2 + (round & 1) * 0x10000));
    }
}

static word *late;

static void on_late(struct context *c)
{
    EXPECT_EQ(c->error, PF_U);
    EXPECT_EQ(c->cr2, LATE);
    *entry(LATE, 2) = (word)late | PTE_PWU | PTE_PS | A | D;
    c->flags &= ~(word)FL_RF;
}

/* Hot code has a large page made by its fault, while all has just been forgotten; then one INVLPG forgets it all, by an
 * address that nobody has looked at. */
TEST(user_large_page_late)
{
    enum { N = 8 };
    word *frames[2] = {page_new_aligned(LARGE), page_new_aligned(LARGE)};

    user_begin();
    handlers[PF] = on_late;
    for (unsigned i = 0; i < N; i++)
        map(LATE - (N - i) * PAGE, (word)page_new(), PTE_PWU);
    for (unsigned round = 0; round < 20; round++) {
        fill(frames[0], 1);
        fill(frames[1], 0x10000);
        for (unsigned i = 0; i < N; i++)
            *(word *)(*entry(LATE - (N - i) * PAGE, 1) & ADDRESS) = 0;
        *entry(LATE, 2) = 0;
        write_cr4(read_cr4() ^ CR4_PGE);
        late = frames[round & 1];
        EXPECT_EQ(touch(LATE - N * PAGE, 2 * N, PAGE, 1), round & 1 ? N * 0x10000 : N);
        *entry(LATE, 2) = (word)frames[~round & 1] | PTE_PWU | PTE_PS | A | D;
        invlpg(LATE + LARGE / 2);
        EXPECT_EQ(touch(LATE - N * PAGE, 2 * N, PAGE, 1), N + (round & 1 ? N : N * 0x10000));
    }
}

/* A page of 1 GiB, of all RAM and of what lies behind it. */
TEST(user_page_1g)
{
    enum { N = 100 };
    const word va = 0x555540000000;
    word *frames = page_new_aligned(N * PAGE);

    NEED_1G();
    user_begin();
    map_large(va, 0, PTE_PWU, 3);
    for (unsigned i = 0; i < N; i++)
        frames[i * PAGE / sizeof(word)] = i;
    for (unsigned round = 0; round < 40; round++) {
        EXPECT_EQ(touch(va + (word)frames, N, PAGE, 1), N * (N - 1) / 2 + N * round);
        /* Nobody is there: reads are all ones, writes go nowhere. */
        EXPECT_EQ(touch(va + 0x3c000000, 20, PAGE, 1), -20ul);
        EXPECT_EQ(*frames, round + 1);
    }
}

/* --- frames shown twice ------------------------------------------------------------------------------------------ */

/* What is stored at BX is loaded at R8 (read-only) and R9 at once, whatever the sizes; BX has two pages, which R9 has
 * the other way round: BX to BX + 1000h is R9 + 1000h on. */
CODE(code_aliases, "1: imul $1103515245, %rax, %rax\n add $12345, %rax\n mov %rax, (%rbx)\n cmp %rax, (%r8)\n jne 9f\n"
                   "cmp %rax, 0x1000(%r9)\n jne 9f\n rol $7, %rax\n mov %eax, 0x1004(%r9)\n mov 4(%rbx), %ecx\n"
                   "cmp %eax, %ecx\n jne 9f\n movb $5, 3(%rbx)\n cmpb $5, 0x1003(%r9)\n jne 9f\n"
                   "lock incl 0x1000(%r9)\n mov (%r8), %edx\n sub (%rbx), %edx\n jne 9f\n"
                   "mov %rax, 0xffc(%rbx)\n cmp %eax, 0x1ffc(%r9)\n jne 9f\n mov (%r9), %ecx\n mov %rax, %rdx\n"
                   "shr $32, %rdx\n cmp %edx, %ecx\n jne 9f\n cmp %rax, 0xffc(%r8)\n jne 9f\n"
                   "movq %rax, %xmm1\n movups %xmm1, 0x20(%rbx)\n cmp %rax, 0x1020(%r9)\n jne 9f\n"
                   "dec %ebp\n jnz 1b\n int $0x80\n 9: ud2");
TEST(user_aliases)
{
    word frames[2] = {(word)page_new(), (word)page_new()};

    user_begin();
    for (unsigned p = 0; p < USER_PLACES; p++)
        for (unsigned q = 0; q < USER_PLACES; q++) {
            struct context c = USER(code_aliases);

            c.bx = user_places[p];
            c.r8 = user_places[q] + 4 * PAGE;
            c.r9 = user_places[p] + 8 * PAGE;
            c.bp = HOT;
            for (unsigned i = 0; i < 2; i++) {
                map(c.bx + i * PAGE, frames[i], PTE_PWU);
                map(c.r8 + i * PAGE, frames[i], PTE_P | PTE_U);
                map(c.r9 + i * PAGE, frames[!i], PTE_PWU);
            }
            context_run(&c);
            EXPECT_END(&c, 0x80);
            EXPECT_EQ(*(word *)(frames[0] + 0x20), c.ax); /* the kernel sees it too */
        }
}

/* Kernel and user by turns, on one frame: the kernel by the frame's own address. */
CODE(code_turns, "1: mov (%rbx), %rax\n lea 3(%rax, %rax), %rax\n mov %rax, (%rbx)\n int $0x81\n cmp 8(%rbx), %rax\n"
                 "jne 9f\n dec %ebp\n jnz 1b\n int $0x80\n 9: ud2");

static void on_turn(struct context *c)
{
    word *frame = (word *)(*entry(c->bx, 1) & ADDRESS);

    EXPECT_EQ(frame[0], c->ax);
    frame[1] = frame[0];
    frame[0] ^= 0x5555;
}

TEST(user_kernel_writes)
{
    user_begin();
    handlers[CALL_ELSE] = on_turn;
    for (unsigned p = 0; p < USER_PLACES; p++) {
        struct context c = USER(code_turns);

        map(user_places[p], (word)page_new(), PTE_PWU);
        c.bx = user_places[p];
        c.bp = HOT;
        context_run(&c);
        EXPECT_END(&c, 0x80);
    }
}

/* --- the kernel's half ------------------------------------------------------------------------------------------- */

/* What is the kernel's is not there for the user, however often the kernel uses it; a page that lies there and is the
 * user's is. */
TEST(user_kernel_pages)
{
    static const word places[] = {0xffff800000000000, 0xffffffff81000000, 0xfffffffffffff000, HEAP_BASE + 0x3ff000};

    user_begin();
    place_kinds();
    for (unsigned p = 0; p < sizeof places / sizeof *places; p++) {
        const word va = places[p] + 0x100;

        if (p < 3)
            map(places[p], (word)page_new(), PTE_PW);
        for (unsigned round = 0; round < 3; round++)
            for (unsigned i = 0; i < KIND_COUNT; i++) {
                *(volatile word *)va += 1;
                refused(i, va, PF_P);
                if (p == 3)
                    continue;
                *entry(va, 1) |= PTE_U;
                invlpg(va);
                hot(i, va);
                *entry(va, 1) &= ~PTE_U;
                invlpg(va);
            }
    }
}
