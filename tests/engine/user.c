/*
 * user.c: one address of the user's that shows now this frame, now that: by
 * entries of each level, by other address spaces, by each way to make the
 * processor forget (SDM vol. 3, 4.10; AMD APM vol. 2, 5.5).
 */
#include "user.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

const word user_places[USER_PLACES] = {TEST_VA, 0x5555555fe000, 0x7ffffff00000};

void user_begin(void)
{
    user_init();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)(UCODE32 & ~3) << 48 | (uint64_t)KCODE << 32);
    wrmsr(MSR_SFMASK, FL_IF | FL_TF | FL_DF);
    idt_set_access(CALL_ELSE, ACC_INT_GATE | ACC_USER);
    write_cr0(read_cr0() & ~(word)(CR0_TS | CR0_EM));
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
}

void user_syscall(const char *code)
{
    wrmsr(MSR_LSTAR, (word)code);
}

struct context user_code(const char *code, word size)
{
    memcpy((void *)USER_CODE, code, size);
    return user_context(USER_CODE);
}

void user_flush(void)
{
    write_cr3(read_cr3());
}

word *user_frame(word number)
{
    word *frame = page_new();

    *frame = number;
    return frame;
}

/* --- entries that change ----------------------------------------------------------------------------------------- */

/* The user reads and counts on the page at BX many times, and has the kernel change it (R9 and R12: what to put into
 * the entry at R8, by turns), BP times. The page behind it is always the same. */
#define MANY   50
#define ROUNDS 100
#define LOOP(call)                                                                                                     \
    "1: mov $50, %edi\n 2: add (%rbx), %rax\n incq 8(%rbx)\n push (%rbx)\n pop %rdx\n add %rdx, %rax\n"                \
    "add 0x1000(%rbx), %rsi\n dec %edi\n jnz 2b\n xchg %r9, %r12\n" call "\n dec %ebp\n jnz 1b\n int $0x80"
CODE(code_by_syscall, LOOP("syscall"));
CODE(code_by_interrupt, LOOP("int $0x81"));

CODE(change_invlpg, "mov %r9, (%r8)\n invlpg (%r10)\n sysretq");
CODE(change_reload, "mov %r9, (%r8)\n mov %cr3, %rdx\n mov %rdx, %cr3\n sysretq");
CODE(change_pge,
     "mov %r9, (%r8)\n mov %cr4, %rdx\n xor $0x80, %rdx\n mov %rdx, %cr4\n xor $0x80, %rdx\n mov %rdx, %cr4\n sysretq");
CODE(change_space, "mov %r9, %cr3\n sysretq");

static word *frames[2];

/* With two frames for va, and one for the page behind it. */
static void two_frames(word va)
{
    frames[0] = user_frame(1);
    frames[1] = user_frame(0x100000);
    map(va, (word)frames[0], PTE_PWU);
    map(va + PAGE, (word)user_frame(3), PTE_PWU);
}

static struct context changing(bool by_syscall, word va, uint64_t *e, word first, word second)
{
    struct context c = by_syscall ? USER(code_by_syscall) : USER(code_by_interrupt);

    c.bx = c.r10 = va;
    c.bp = ROUNDS;
    c.r8 = (word)e;
    c.r9 = first;
    c.r12 = second;
    return c;
}

static void run_changes(struct context c)
{
    frames[0][1] = frames[1][1] = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, ROUNDS * MANY * 0x100001ull);
    EXPECT_EQ(c.si, ROUNDS * MANY * 3);
    EXPECT_EQ(frames[0][1], ROUNDS / 2 * MANY);
    EXPECT_EQ(frames[1][1], ROUNDS / 2 * MANY);
}

/* Entries of a level, by turns: that of this address space and that of a copy with the other frame. */
static void change_entries(word va, unsigned level, bool by_syscall)
{
    const word here = read_cr3() & ADDRESS;
    uint64_t *e = entry(va, level), first, second;

    page_select(page_space(va));
    map(va, (word)frames[1], PTE_PWU);
    second = *entry(va, level);
    page_select(here);
    first = *e;
    run_changes(changing(by_syscall, va, e, first, second));
    *e = first;
    user_flush();
}

static void change_all_levels(bool by_syscall)
{
    for (unsigned p = 0; p < USER_PLACES; p++) {
        two_frames(user_places[p]);
        for (unsigned level = 1; level <= 4; level++)
            change_entries(user_places[p], level, by_syscall);
    }
}

TEST(user_remapped_invlpg)
{
    user_begin();
    user_syscall(change_invlpg);
    change_all_levels(true);
}

TEST(user_remapped_reload)
{
    user_begin();
    user_syscall(change_reload);
    change_all_levels(true);
}

static void on_change(struct context *c)
{
    *(uint64_t *)c->r8 = c->r9;
    invlpg(c->r10);
}

TEST(user_remapped_by_interrupt)
{
    user_begin();
    handlers[CALL_ELSE] = on_change;
    change_all_levels(false);
}

TEST(user_remapped_global)
{
    user_begin();
    write_cr4(read_cr4() | CR4_PGE);
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p];
        uint64_t *e = entry(va, 1);

        two_frames(va);
        *e |= PTE_G;
        user_flush();
        user_syscall(change_pge);
        run_changes(changing(true, va, e, *e, (word)frames[1] | PTE_PWU | PTE_G));
        user_syscall(change_invlpg);
        run_changes(changing(true, va, e, *e, (word)frames[1] | PTE_PWU | PTE_G));
    }
}

/* --- address spaces ---------------------------------------------------------------------------------------------- */

/* Bits of each CR3: PCID, no-flush. */
static void change_spaces(word bits0, word bits1)
{
    const word old = read_cr3(), here = old & ADDRESS;

    user_syscall(change_space);
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p];
        word other;

        two_frames(va);
        other = page_space(va);
        page_select(other);
        map(va, (word)frames[1], PTE_PWU);
        page_select(here);
        write_cr3(here | (bits0 & 0xfff));
        /* Nothing is kept of what the PCID meant before. */
        write_cr3(other | (bits1 & 0xfff));
        write_cr3(here | (bits0 & 0xfff));
        run_changes(changing(true, va, NULL, here | bits0, other | bits1));
    }
    write_cr3(old);
}

TEST(user_spaces)
{
    user_begin();
    change_spaces(0, 0);
}

TEST(user_spaces_pcid)
{
    NEED_PCID();
    user_begin();
    write_cr4(read_cr4() | CR4_PCIDE);
    change_spaces(1, 2);
    change_spaces(1 | NO_FLUSH, 2 | NO_FLUSH);
    change_spaces(3, 4 | NO_FLUSH);
    change_spaces(7, 7); /* shared: each load forgets what was the other's */
}

/* The kernel changes the space that is not loaded, forgets for its PCID, and goes there without a flush. */
static struct {
    word roots[2], va, calls;
    unsigned type;
    word *pages[5];
} elsewhere;

static void on_change_elsewhere(struct context *c)
{
    const unsigned other = ++elsewhere.calls & 1;
    const struct {
        uint64_t pcid, address;
    } which = {elsewhere.type < 2 ? other + 1 : 0, elsewhere.type ? 0 : elsewhere.va};

    page_select(elsewhere.roots[other]);
    *entry(elsewhere.va, 1) = (word)elsewhere.pages[elsewhere.calls % 5] | PTE_PWU;
    asm volatile("invpcid %0, %1" : : "m"(which), "r"((word)elsewhere.type) : "memory");
    write_cr3(elsewhere.roots[other] | (other + 1) | NO_FLUSH);
}

TEST(user_spaces_invpcid)
{
    NEED_PCID();
    NEED_INVPCID();
    user_begin();
    handlers[CALL_ELSE] = on_change_elsewhere;
    elsewhere.roots[0] = read_cr3();
    for (unsigned i = 0; i < 5; i++)
        elsewhere.pages[i] = user_frame(1ul << 10 * i);
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned p = 0; p < USER_PLACES; p++)
        for (elsewhere.type = 0; elsewhere.type < 4; elsewhere.type++) {
            const word va = elsewhere.va = user_places[p];
            struct context c;

            page_select(elsewhere.roots[0]);
            map(va, (word)elsewhere.pages[0], PTE_PWU);
            map(va + PAGE, (word)user_frame(3), PTE_PWU);
            elsewhere.roots[1] = page_space(va);
            elsewhere.calls = 0;
            write_cr3(elsewhere.roots[1] | 2);
            write_cr3(elsewhere.roots[0] | 1);
            c = changing(false, va, NULL, 0, 0);
            context_run(&c);
            EXPECT_END(&c, 0x80);
            EXPECT_EQ(c.ax, 2 * MANY * ROUNDS / 5 * 0x10040100401ull);
            EXPECT_EQ(c.si, ROUNDS * MANY * 3);
            for (unsigned i = 0; i < 5; i++) {
                EXPECT_EQ(elsewhere.pages[i][1], ROUNDS / 5 * MANY);
                elsewhere.pages[i][1] = 0;
            }
            write_cr3(elsewhere.roots[0] | 1);
        }
}
