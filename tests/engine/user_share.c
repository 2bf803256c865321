/*
 * user_share.c: several processors in hot code of the user's, while one changes
 * the pages that they all have, as kernels do: an entry, and then an IPI to all
 * who may have kept it (SDM vol. 3, 4.10.5).
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"
#include "kit/smp.h"
#include "user.h"

enum { VECTOR = 0x42, ROUNDS = 400 };

/* --- each processor's way to the user and back -------------------------------------------------------------------- */

/* Of the TSS no more than what is used. */
struct small_tss {
    uint32_t reserved;
    uint64_t rsp[3];
    uint8_t rest[104 - 28];
} __attribute__((packed));

static struct processor {
    struct small_tss tss;
    word kernel_sp;
    char stack[0x2000] __attribute__((aligned(16)));
} processors[SMP_MAX];

/* user_enter(&kernel_sp, ip, RBX, R9, R10): to CPL 3, with interrupts on, until the user calls INT 81h. */
void user_enter(word *kernel_sp, word ip, word bx, word r9, word r10);
extern const char user_leave[];
asm(".pushsection .text\nuser_enter:\n push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, (%rdi)\n push $0x23\n push $0\n push $0x202\n push $0x2b\n push %rsi\n mov %rdx, %rbx\n mov %r8, %r10\n"
    "mov %rcx, %r9\n iretq\n user_leave: pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
    ".popsection");

static void on_leave(struct context *c)
{
    c->ip = (word)user_leave;
    c->cs = KCODE;
    c->sp = processors[smp_self()].kernel_sp;
    c->ss = KDATA;
    c->flags = FL_1;
}

static void own_tss(unsigned cpu)
{
    struct processor *p = &processors[cpu];
    const unsigned selector = FREE_SEL + 8 + 16 * cpu;

    p->tss.rsp[0] = (word)p->stack + sizeof p->stack;
    gdt_set_system(selector, (word)&p->tss, sizeof p->tss - 1, ACC_TSS);
    load_tr(selector);
}

/* --- a page that moves -------------------------------------------------------------------------------------------- */

#define VA    0x5555555fe000ul /* the page */
#define BOARD (USER_DATA + 4 * PAGE)

/* What kernel and user tell each other. */
static volatile struct board {
    word stop, forbidden;
    word dropped[SMP_MAX]; /* the number that each is sure to see, or a later one */
} * board;

static volatile word generation;
static volatile unsigned acknowledged;
static volatile word *frames[2];

CODE(code_reader, "1: mov (%r9), %rcx\n mov (%rbx), %rax\n cmp %rcx, %rax\n jae 2f\n lock incq 8(%r10)\n"
                  "2: inc %edx\n test $63, %dl\n jnz 3f\n pause\n 3: cmpq $0, (%r10)\n je 1b\n int $0x81");

static void on_shoot_down(struct context *c)
{
    invlpg(VA);
    board->dropped[smp_self()] = generation;
    __atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
    apic_eoi();
}

static bool shoot_down(void)
{
    invlpg(VA);
    acknowledged = 0;
    smp_ipi(0, 0xc0000 | ICR_ASSERT | VECTOR);
    return SMP_WAIT(acknowledged == smp_count - 1);
}

static void begin(void)
{
    user_begin();
    apic_init();
    handlers[CALL_ELSE] = on_leave;
    handlers[VECTOR] = on_shoot_down;
    board = page_new();
    map(BOARD, (word)board, PTE_PWU);
    frames[0] = page_new();
    frames[1] = page_new();
    map(VA, (word)frames[0], PTE_PWU);
    smp_start(2);
}

static void move_page(unsigned cpu)
{
    if (cpu) {
        own_tss(cpu);
        smp_barrier();
        user_enter(&processors[cpu].kernel_sp, USER_CODE, VA, BOARD + offsetof(struct board, dropped[cpu]), BOARD);
        return;
    }
    smp_barrier();
    for (word i = 1; i <= ROUNDS; i++) {
        *frames[i & 1] = i;
        *entry(VA, 1) = (word)frames[i & 1] | PTE_PWU;
        generation = i;
        if (!shoot_down())
            break;
    }
    board->stop = 1;
}

TEST(smp_user_shoot_down)
{
    begin();
    PLACE(USER_CODE, code_reader);
    smp_run(smp_count, move_page);
    EXPECT_EQ(board->forbidden, 0);
}

/* --- a page that is written, and may not be ----------------------------------------------------------------------- */

CODE(code_writer, "1: lock incq (%rbx)\n addq $1, 8(%r9)\n mov %rax, 64(%rbx)\n inc %edx\n test $63, %dl\n"
                  "jnz 2f\n pause\n 2: cmpq $0, (%r10)\n je 1b\n int $0x81");

/* They try again until it is right. */
static void on_refused_write(struct context *c)
{
    smp_relax();
    if (c->error == (PF_P | PF_W | PF_U) && c->cr2 - VA < PAGE)
        return;
    board->forbidden++;
    board->stop = 1;
    on_leave(c);
}

static void protect_page(unsigned cpu)
{
    volatile uint64_t *e = entry(VA, 1);

    if (cpu) {
        own_tss(cpu);
        smp_barrier();
        user_enter(&processors[cpu].kernel_sp, USER_CODE, VA, BOARD + 0x100 + 64 * cpu, BOARD);
        return;
    }
    smp_barrier();
    for (unsigned i = 0; i < ROUNDS / 2 && !board->stop; i++) {
        word before;

        __atomic_and_fetch(e, ~(PTE_W | PTE_D), __ATOMIC_SEQ_CST);
        if (!shoot_down())
            break;
        before = *frames[0];
        for (unsigned k = 0; k < 30; k++)
            smp_relax();
        board->forbidden += *frames[0] != before;
        board->forbidden += !!(*e & PTE_D);
        __atomic_or_fetch(e, PTE_W, __ATOMIC_SEQ_CST);
        if (!SMP_WAIT(*frames[0] != before))
            break;
        board->forbidden += !(*e & PTE_D);
    }
    board->stop = 1;
}

TEST(smp_user_write_protect)
{
    begin();
    handlers[PF] = on_refused_write;
    PLACE(USER_CODE, code_writer);
    smp_run(smp_count, protect_page);
    EXPECT_EQ(board->forbidden, 0);
}

/* --- address spaces that go from one processor to the other --------------------------------------------------------
 */

CODE(code_counter, "mov $40, %ecx\n 1: mov (%rbx), %rax\n cmp %rax, %r9\n jne 2f\n lock incq 8(%rbx)\n dec %ecx\n"
                   "jnz 1b\n int $0x81\n 2: lock incq 8(%r10)\n int $0x81");

static word roots[SMP_MAX], own_frames[SMP_MAX];

static void change_spaces(unsigned cpu)
{
    const word old = read_cr3();

    own_tss(cpu);
    smp_barrier();
    for (unsigned i = 0; i < ROUNDS; i++) {
        const unsigned space = (cpu + i) % smp_count;

        write_cr3(roots[space]);
        user_enter(&processors[cpu].kernel_sp, USER_CODE, VA, space, BOARD);
    }
    write_cr3(old);
}

TEST(smp_user_spaces)
{
    begin();
    PLACE(USER_CODE, code_counter);
    for (unsigned i = 0; i < smp_count; i++) {
        own_frames[i] = (word)user_frame(i);
        roots[i] = page_space(VA);
        page_select(roots[i]);
        *entry(VA, 1) = own_frames[i] | PTE_PWU;
        page_select(read_cr3());
    }
    smp_run(smp_count, change_spaces);
    EXPECT_EQ(board->forbidden, 0);
    for (unsigned i = 0; i < smp_count; i++)
        EXPECT_EQ(((word *)own_frames[i])[1], 40 * ROUNDS);
}
