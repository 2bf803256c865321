/*
 * task.c: hardware task switches (SDM vol. 3, chapter 7; AMD APM vol. 2, 12.4).
 * The kit runs in the task of TSS_SEL; a test's other task ends its context by
 * INT 81h, and back() makes the kit's task the current one again.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define OTHER (FREE_SEL + 0x00)
#define GATE  (FREE_SEL + 0x08)
#define LDT   (FREE_SEL + 0x10)
#define SPARE (FREE_SEL + 0x18)
#define THIRD (FREE_SEL + 0x20)

#define BUSY     2u
#define TSS_SIZE 104

static struct tss32 *other;
static uint8_t pointer[6];

CODE(code_jump, "ljmp *(%ebx)\n mov $0x600d, %ecx\n int $0x80");
CODE(code_call, "lcall *(%ebx)\n mov $0x600d, %ecx\n int $0x80");
CODE(code_end, "int $0x81");
CODE(code_read, "mov (%esi), %eax\n int $0x81");
CODE(code_iret, "mov $0x77, %edx\n iret\n mov $0x88, %edx\n int $0x81");

static unsigned access_of(unsigned selector)
{
    return gdt[selector >> 3] >> 40 & 0xff;
}

/* Another task at ring 0, about to run code. */
static void make_other(const char *code)
{
    other = page_new_aligned(4 * PAGE);
    other->eip = (uint32_t)(word)code;
    other->eflags = FL_1 | FL_CF;
    other->esp = (uint32_t)(word)page_new() + PAGE;
    other->cs = KCODE;
    other->ss = other->ds = other->es = KDATA;
    other->fs = UDATA;
    other->gs = 0;
    other->eax = 0xa1;
    other->ecx = 0xc1;
    other->edx = 0xd1;
    other->ebx = 0xb1;
    other->ebp = 0xb2;
    other->esi = 0x51;
    other->edi = 0xd2;
    other->ss0 = KDATA;
    other->esp0 = (uint32_t)(word)page_new() + PAGE;
    other->iomap = sizeof *other;
    other->cr3 = (uint32_t)read_cr3();
    gdt_set_system(OTHER, (word)other, sizeof *other - 1, ACC_TSS);
    *(uint16_t *)(pointer + 4) = OTHER;
}

static struct context kernel(const char *code)
{
    struct context k = kernel_context((word)code);

    k.bx = (word)pointer;
    k.si = 0x1234;
    return k;
}

static void back(void)
{
    gdt_set_system(TSS_SEL, (word)&tss, sizeof tss - 1, ACC_TSS);
    load_tr(TSS_SEL);
    write_cr0(read_cr0() & ~(word)CR0_TS);
    asm volatile("lldt %w0" : : "r"(0));
}

static unsigned task_register(void)
{
    unsigned selector;

    asm volatile("str %0" : "=r"(selector));
    return selector;
}

/* JMP: this task is no longer busy, the other is; all state is saved and loaded. */
TEST(task_jump)
{
    struct context k;

    make_other(code_end);
    k = kernel(code_jump);
    context_run(&k);
    EXPECT_END(&k, 0x81);
    EXPECT_EQ(k.ip, (word)code_end + 2);
    EXPECT_EQ(k.ax, 0xa1);
    EXPECT_EQ(k.cx, 0xc1);
    EXPECT_EQ(k.dx, 0xd1);
    EXPECT_EQ(k.bx, 0xb1);
    EXPECT_EQ(k.bp, 0xb2);
    EXPECT_EQ(k.si, 0x51);
    EXPECT_EQ(k.di, 0xd2);
    EXPECT_EQ(k.sp, other->esp);
    EXPECT_EQ(k.flags, FL_1 | FL_CF);
    EXPECT_EQ(k.fs, UDATA);
    EXPECT_EQ(k.gs, 0);
    EXPECT_EQ(task_register(), OTHER);
    EXPECT_EQ(read_cr0() & CR0_TS, CR0_TS);
    EXPECT_EQ(access_of(OTHER), ACC_TSS | BUSY);
    EXPECT_EQ(access_of(TSS_SEL), ACC_TSS);
    EXPECT_EQ(other->link, 0);
    EXPECT_EQ(tss.eip, (word)code_jump + 2);
    EXPECT_EQ(tss.esi, 0x1234);
    EXPECT_EQ(tss.ebx, (word)pointer);
    EXPECT_EQ(tss.cs, KCODE);
    EXPECT_EQ(tss.ss, KDATA);
    EXPECT_EQ(tss.esp, kernel_context(0).sp);
    EXPECT_EQ(tss.eflags & ~0x8d5u, FL_1);
    back();
}

/* CALL: both busy, a back link, NT; IRET comes back. */
TEST(task_call_and_return)
{
    struct context k;

    make_other(code_iret);
    k = kernel(code_call);
    k.dx = 0x11;
    context_run(&k);
    EXPECT_END(&k, 0x80); /* the instruction after the LCALL has run */
    EXPECT_EQ(k.cx, 0x600d);
    EXPECT_EQ(k.dx, 0x11); /* this task's */
    EXPECT_EQ(k.flags & FL_NT, 0);
    EXPECT_EQ(task_register(), TSS_SEL);
    EXPECT_EQ(access_of(OTHER), ACC_TSS);
    EXPECT_EQ(access_of(TSS_SEL), ACC_TSS | BUSY);
    EXPECT_EQ(other->link & 0xffff, TSS_SEL);
    EXPECT_EQ(other->edx, 0x77);
    EXPECT_EQ(other->eip, (word)code_iret + 6); /* after its IRET: a second call goes on there */
    EXPECT_EQ(other->eflags & FL_NT, 0);
    k = kernel(code_call);
    context_run(&k);
    EXPECT_END(&k, 0x81);
    EXPECT_EQ(k.dx, 0x88);
    EXPECT_EQ(k.flags & FL_NT, FL_NT);
    EXPECT_EQ(access_of(TSS_SEL), ACC_TSS | BUSY);
    EXPECT_EQ(access_of(OTHER), ACC_TSS | BUSY);
    back();
}

/* Through a task gate in the GDT, whose DPL counts, not the TSS's. */
TEST(task_gate)
{
    struct context c;

    make_other(code_end);
    user_init();
    PLACE(USER_CODE, code_jump);
    memcpy((void *)USER_DATA, pointer, 6);
    c = user_context(USER_CODE);
    c.bx = USER_DATA;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, OTHER); /* the TSS's DPL is 0 */
    gdt_set_gate(GATE, 0, OTHER, ACC_TASK_GATE | ACC_USER, 0);
    *(uint16_t *)(USER_DATA + 4) = GATE | 3;
    c.ip = USER_CODE;
    context_run(&c);
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(c.ax, 0xa1);
    EXPECT_EQ(task_register(), OTHER);
    EXPECT_EQ(tss.cs, UCODE32);
    EXPECT_EQ(tss.ss, UDATA);
    back();
}

/* An interrupt through a task gate, and back. */
CODE(code_int, "int $0x90\n mov $0x600d, %ecx\n int $0x80");
TEST(task_interrupt)
{
    struct context c;

    make_other(code_iret);
    user_init();
    idt_set(0x90, 0, OTHER, ACC_TASK_GATE | ACC_USER, 0);
    PLACE(USER_CODE, code_int);
    c = user_context(USER_CODE);
    c.flags |= FL_IF | FL_DF;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.cx, 0x600d);
    EXPECT_EQ(c.flags, FL_1 | FL_IF | FL_DF);
    EXPECT_EQ(other->link & 0xffff, TSS_SEL);
    EXPECT_EQ(task_register(), TSS_SEL);
    back();
}

/* A fault's error code goes to the new task's stack. */
CODE(code_gp, "mov %ecx, %ds\n int $0x80");
TEST(task_fault)
{
    struct context c;
    uint32_t sp;

    make_other(code_end);
    user_init();
    idt_set(GP, 0, OTHER, ACC_TASK_GATE, 0);
    PLACE(USER_CODE, code_gp);
    c = user_context(USER_CODE);
    c.cx = KCODE16 | 3;
    sp = other->esp;
    context_run(&c);
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(c.sp, sp - 4);
    EXPECT_EQ(*(uint32_t *)c.sp, KCODE16);
    EXPECT_EQ(tss.eip, USER_CODE);
    EXPECT_EQ(tss.eflags & FL_RF, FL_RF);
    back();
}

/* The double fault's task gate: the one way out of a bad kernel stack in 32-bit mode. */
CODE(code_push, "push %eax\n int $0x80");
TEST(task_double_fault)
{
    struct context k;
    uint32_t sp;

    paging_64();
    make_other(code_end);
    idt_set(DF, 0, OTHER, ACC_TASK_GATE, 0);
    k = kernel(code_push);
    gdt_set(SPARE, 0, 0xfffff, ACC_DATA, FLAG_G | FLAG_D);
    /* The IRET of context_run() still needs its frame; the stack's last page ends below it. */
    {
        word stack = (word)page_new();

        map(TEST_VA + PAGE, stack, PTE_PW);
        k.sp = TEST_VA + PAGE + 12;
    }
    k.ip = (word)code_push;
    sp = other->esp;
    k.bp = 0x600d;
    /* Six pushes lead into the unmapped page: the frames of #PF, then #DF. */
    PLACE(0x7000, code_push);
    memset((void *)0x7000, 0x50, 16); /* PUSH EAX */
    k.ip = 0x7000;
    context_run(&k);
    EXPECT_END(&k, 0x81);
    EXPECT_EQ(*(uint32_t *)(sp - 4), 0); /* error code */
    EXPECT_EQ(tss.ebp, 0x600d);
    EXPECT_EQ(tss.eip, 0x7003); /* the fourth PUSH */
    EXPECT_EQ(tss.esp, TEST_VA + PAGE);
    EXPECT_EQ(k.cr2, TEST_VA + PAGE - 4);
    back();
}

TEST(task_refused)
{
    static const struct {
        unsigned access, limit;
        word vector;
    } rows[] = {
        {ACC_TSS_BUSY, 0x3000, GP},
        {ACC_TSS & ~ACC_P, 0x3000, NP},
        {ACC_TSS, TSS_SIZE - 2, TS},
        {ACC_LDT, 0x3000, GP},
    };
    struct context k;

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        make_other(code_end);
        gdt_set_system(OTHER, (word)other, rows[i].limit, rows[i].access);
        k = kernel(code_jump);
        context_run(&k);
        EXPECT_END_ERROR(&k, rows[i].vector, OTHER);
        EXPECT_EQ(k.ip, (word)code_jump); /* still in the old task */
        EXPECT_EQ(task_register(), TSS_SEL);
    }
}

/* Bad contents are found when the switch is done: the fault is the new task's, before its first instruction. It has
 * perhaps no stack yet, so that the fault goes to a third task, whose back link is the second. */
TEST(task_invalid)
{
    static const struct {
        size_t field;
        uint32_t value;
        word error;
    } rows[] = {
        {offsetof(struct tss32, cs), 0, 0},
        {offsetof(struct tss32, cs), KDATA, KDATA},
        {offsetof(struct tss32, cs), UCODE32 & ~3u, UCODE32 & ~3u}, /* DPL 3, RPL 0 */
        {offsetof(struct tss32, ds), KCODE16 - 8 + GDT_SIZE, KCODE16 - 8 + GDT_SIZE},
        {offsetof(struct tss32, es), TSS_SEL, TSS_SEL},
        {offsetof(struct tss32, ldt), KDATA, KDATA},
        {offsetof(struct tss32, ldt), SPARE, SPARE}, /* not present */
        {offsetof(struct tss32, fs), LDT, LDT},      /* not present */
    };
    struct context k;

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tss32 *third;

        make_other(code_end);
        third = other;
        gdt_set_system(THIRD, (word)third, sizeof *third - 1, ACC_TSS);
        idt_set(TS, 0, THIRD, ACC_TASK_GATE, 0);
        idt_set(NP, 0, THIRD, ACC_TASK_GATE, 0);
        make_other(code_read);
        gdt_set_system(SPARE, 0, 0xff, ACC_LDT & ~ACC_P);
        gdt_set(LDT, 0, 0xff, ACC_DATA & ~ACC_P, 0);
        *(uint32_t *)((char *)other + rows[i].field) = rows[i].value;
        k = kernel(code_jump);
        context_run(&k);
        EXPECT_END(&k, 0x81);
        EXPECT_EQ(task_register(), THIRD);
        EXPECT_EQ(third->link & 0xffff, OTHER);
        EXPECT_EQ(*(uint32_t *)(third->esp - 4), rows[i].error);
        EXPECT_EQ(other->eip, (word)code_read);
        EXPECT_EQ(other->eax, 0xa1);
        back();
    }
}

/* The new task's LDT and, with paging, its address space. */
TEST(task_ldt)
{
    uint64_t *ldt = page_new();
    struct context k;
    unsigned selector;

    make_other(code_end);
    gdt_set_system(LDT, (word)ldt, 0xff, ACC_LDT);
    gdt_set(SPARE, 0, 0xfffff, ACC_DATA, FLAG_G | FLAG_D);
    ldt[1] = gdt[SPARE >> 3];
    other->ldt = LDT;
    other->fs = 8 | 4;
    k = kernel(code_jump);
    context_run(&k);
    EXPECT_END(&k, 0x81);
    EXPECT_EQ(k.fs, 8 | 4);
    asm volatile("sldt %0" : "=r"(selector));
    EXPECT_EQ(selector, LDT);
    back();
}

TEST(task_cr3)
{
    struct context k;
    uint64_t *table = page_new(), *directory = page_new(), *leaves = page_new();
    uint32_t *mine, *theirs, cr3;

    paging_64();
    mine = page_new();
    theirs = page_new();
    *mine = 0x1111;
    *theirs = 0x2222;
    map(TEST_VA, (word)mine, PTE_PW);
    cr3 = (uint32_t)read_cr3();
    EXPECT_EQ(*(volatile uint32_t *)TEST_VA, 0x1111);
    /* The first gigabyte anew, with another page at TEST_VA. */
    memcpy(table, (void *)cr3, 32);
    memcpy(directory, (void *)(word)(table[0] & 0xfffff000), PAGE);
    table[0] = (word)directory | PTE_P;
    directory[TEST_VA >> 21] = (word)leaves | PTE_PWU;
    leaves[0] = (word)theirs | PTE_PW;
    make_other(code_read);
    other->cr3 = (uint32_t)(word)table;
    other->esi = TEST_VA;
    k = kernel(code_jump);
    context_run(&k);
    EXPECT_END(&k, 0x81);
    EXPECT_EQ(k.ax, 0x2222);
    EXPECT_EQ(read_cr3(), (word)table);
    write_cr3(cr3);
    EXPECT_EQ(*(volatile uint32_t *)TEST_VA, 0x1111);
    back();
}

/* The T bit: #DB on entry, DR6.BT; local breakpoints do not follow (SDM vol. 3, 17.2.4). */
TEST(task_debug)
{
    struct context k;

    make_other(code_end);
    other->trap = 1;
    k = kernel(code_jump);
    write_dr6(0);
    write_dr0(0x1234);
    write_dr1(0x5678);
    write_dr7(0x400 | 0x01 | 0x08); /* L0, G1: execution */
    context_run(&k);
    EXPECT_END(&k, DB);
    EXPECT_EQ(k.ip, (word)code_end);
    EXPECT_EQ(k.dr6 & 0xe00f, 0x8000);
    EXPECT_EQ(read_dr7() & 0xff, 0x08);
    write_dr7(0x400);
    back();
}

/* A call gate whose new stack is bad: the fault can only be taken by another task. */
CODE(code_gate_call, "lcall *(%ebx)");
TEST(task_bad_inner_stack)
{
    static const struct {
        unsigned selector, access;
        uint32_t sp;
        word vector, error;
    } rows[] = {
        {0, 0, 0x1000, TS, 0},
        {SPARE, ACC_DATA | ACC_USER, 0x1000, TS, SPARE},
        {SPARE, 0x90, 0x1000, TS, SPARE},
        {SPARE, ACC_DATA & ~ACC_P, 0x1000, SS, SPARE},
        {GDT_SIZE, 0, 0x1000, TS, GDT_SIZE},
        {SPARE, ACC_DATA, 0x2000, SS, SPARE}, /* beyond the limit */
    };

    user_init();
    PLACE(USER_CODE, code_gate_call);
    gdt_set_gate(GATE, (word)code_end, KCODE, ACC_CALL_GATE | ACC_USER, 0);
    *(uint16_t *)(USER_DATA + 4) = GATE | 3;
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct context c = user_context(USER_CODE);
        uint32_t old_sp = tss.esp0, sp;

        make_other(code_end);
        sp = other->esp;
        idt_set(rows[i].vector, 0, OTHER, ACC_TASK_GATE, 0);
        gdt_set(SPARE, (uint32_t)(word)page_new(), 0xfff, rows[i].access, FLAG_D);
        c.bx = USER_DATA;
        tss.ss0 = rows[i].selector;
        tss.esp0 = rows[i].sp;
        context_run(&c);
        tss.ss0 = KDATA;
        tss.esp0 = old_sp;
        EXPECT_END(&c, 0x81);
        EXPECT_EQ(task_register(), OTHER);
        EXPECT_EQ(*(uint32_t *)(sp - 4), rows[i].error);
        EXPECT_EQ(tss.eip, USER_CODE);
        EXPECT_EQ(tss.cs, UCODE32);
        back();
    }
}
