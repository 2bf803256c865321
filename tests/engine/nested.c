/*
 * nested.c: faults while an exception is delivered: one after the other, a
 * double fault, or shutdown (SDM vol. 3, 6.15, interrupt 8, table 6-5; AMD APM
 * vol. 2, 8.2.9).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

/* Error code bit 0: met while an event was delivered that the program did not ask for, an earlier exception too (SDM
 * vol. 3, 6.13). */
#define EXT 1

#define NOT_PRESENT (ACC_INT_GATE & ~ACC_P)

CODE(code_ud, "ud2");
CODE(code_gp, "hlt");
CODE(code_read, "movl (" BX "), %eax\n int $0x80");
CODE(code_de, "xor %ecx, %ecx\n div %ecx");

static struct context user_at(const char *code, word size)
{
    struct context c;

    paging_64();
    user_init();
    memcpy((void *)USER_CODE, code, size);
    c = user_context(USER_CODE);
    c.bx = TEST_VA;
    return c;
}
#define USER(code) user_at(code, CODE_SIZE(code))

/* Benign, then contributory: the second alone. */
TEST(nested_benign_first)
{
    struct context c = USER(code_ud);

    idt_set_access(UD, NOT_PRESENT);
    context_run(&c);
    EXPECT_END_ERROR(&c, NP, UD * 8 + 2 + EXT);
    EXPECT_EQ(c.ip, USER_CODE);
}

/* Contributory, then contributory: #DF, error code 0. */
TEST(nested_contributory_twice)
{
    struct context c = USER(code_gp);

    idt_set_access(GP, NOT_PRESENT);
    context_run(&c);
    EXPECT_END_ERROR(&c, DF, 0);
    c = USER(code_de);
    idt_set_access(DE, NOT_PRESENT);
    context_run(&c);
    EXPECT_END_ERROR(&c, DF, 0);
}

/* Page fault, then contributory: #DF. CR2 is the page fault's. */
TEST(nested_page_fault_contributory)
{
    struct context c = USER(code_read);

    idt_set_access(PF, NOT_PRESENT);
    context_run(&c);
    EXPECT_END_ERROR(&c, DF, 0);
    EXPECT_EQ(c.cr2, TEST_VA);
}

#ifdef __x86_64__

static void set_kernel_stack(word sp)
{
    tss.rsp[0] = sp;
}

/* #DF itself must find a stack: IST 1. (In prot a task gate does the same, see task.c.) */
static void give_df_a_stack(void)
{
    tss.ist[0] = (word)page_new() + PAGE;
    idt_set_ist(DF, 1);
}

/* Benign, then a page fault while its frame is pushed: the page fault alone. It needs a stack of its own. */
TEST(nested_benign_page_fault)
{
    struct context c = USER(code_ud);

    tss.ist[0] = (word)page_new() + PAGE;
    idt_set_ist(PF, 1);
    set_kernel_stack(TEST_VA + PAGE);
    context_run(&c);
    EXPECT_END_ERROR(&c, PF, PF_W);
    EXPECT_EQ(c.cr2, TEST_VA + PAGE - 8);
    EXPECT_EQ(c.ip, USER_CODE);
    EXPECT_EQ(c.cs, UCODE);
}

/* Contributory, then a page fault: one after the other as well. */
TEST(nested_contributory_page_fault)
{
    struct context c = USER(code_gp);

    tss.ist[0] = (word)page_new() + PAGE;
    idt_set_ist(PF, 1);
    set_kernel_stack(TEST_VA + PAGE);
    context_run(&c);
    EXPECT_END_ERROR(&c, PF, PF_W);
}

/* Page fault, then page fault: #DF. CR2 is the second's. */
TEST(nested_page_fault_twice)
{
    struct context c = USER(code_read);

    give_df_a_stack();
    set_kernel_stack(TEST_VA + 5 * PAGE);
    context_run(&c);
    EXPECT_END_ERROR(&c, DF, 0);
    EXPECT_EQ(c.cr2, TEST_VA + 5 * PAGE - 8);
    EXPECT_EQ(c.ip, USER_CODE);
}

/* A stack that is not canonical, met while #PF is delivered: #SS, contributory, so #DF. */
TEST(nested_stack_not_canonical)
{
    struct context c = USER(code_read);

    give_df_a_stack();
    set_kernel_stack(0x900000000000);
    context_run(&c);
    EXPECT_END_ERROR(&c, DF, 0);
    /* Benign before it: #SS alone. */
    c = USER(code_ud);
    tss.ist[1] = (word)page_new() + PAGE;
    idt_set_ist(SS, 2);
    context_run(&c);
    EXPECT_END_ERROR(&c, SS, EXT);
}

/* In the kernel with a bad RSP, an exception finds its stack through the IST. */
TEST(nested_bad_kernel_stack)
{
    struct context c = kernel_context((word)code_ud);

    paging_64();
    give_df_a_stack();
    tss.ist[1] = (word)page_new() + PAGE;
    idt_set_ist(PF, 2);
    c.sp = TEST_VA + PAGE;
    context_run(&c);
    EXPECT_END_ERROR(&c, PF, PF_W);
    EXPECT_EQ(c.sp, TEST_VA + PAGE);
    EXPECT_EQ(c.cr2, TEST_VA + PAGE - 8);
    /* Without: #PF for the frame of the #PF, #DF. */
    idt_set_ist(PF, 0);
    context_run(&c);
    EXPECT_END_ERROR(&c, DF, 0);
}

#endif

/* An interrupt descriptor table that ends early: #GP with the vector, or #DF. */
TEST(nested_idt_limit)
{
    struct table_register old = read_idtr(), cut = old;
    struct context c = USER(code_ud);
    unsigned gate = LONG_MODE ? 16 : 8;

    *(uint16_t *)USER_CODE = 0x81cd; /* INT 81h */
    cut.limit = (uint16_t)(0x81 * gate + gate - 2);
    idt_set_access(0x81, ACC_INT_GATE | ACC_USER);
    write_idtr(cut);
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0x81 * 8 + 2);
    cut.limit++;
    write_idtr(cut);
    c.ip = USER_CODE;
    context_run(&c);
    EXPECT_END(&c, 0x81);
    write_idtr(old);
}

/* The gate's code segment: null, data, not present, less privileged. */
TEST(nested_gate_target)
{
    extern const char trap_stubs[];
    word target = (word)trap_stubs + 0x81 * 16;
    struct context c = USER(code_ud);
    static const struct {
        unsigned selector, access;
        word vector, error;
    } rows[] = {
        {0, 0, GP, 0},
        {FREE_SEL, ACC_DATA, GP, FREE_SEL},
        {FREE_SEL, ACC_CODE & ~ACC_P, NP, FREE_SEL},
        {GDT_SIZE, 0, GP, GDT_SIZE},
    };

    *(uint16_t *)USER_CODE = 0x81cd;
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].selector == FREE_SEL)
            gdt_set(FREE_SEL, 0, 0xfffff, rows[i].access, LONG_MODE ? FLAG_G | FLAG_L : FLAG_G | FLAG_D);
        idt_set(0x81, target, rows[i].selector, ACC_INT_GATE | ACC_USER, 0);
        c.ip = USER_CODE;
        context_run(&c);
        EXPECT_END_ERROR(&c, rows[i].vector, rows[i].error);
        EXPECT_EQ(c.ip, USER_CODE);
    }
    /* From the kernel to a ring 3 segment: a gate may not lower the privilege. */
    idt_set(0x81, target, UCODE & ~3, ACC_INT_GATE, 0);
    TRY("int $0x81", : : : "memory");
    EXPECT_TRAP_ERROR(GP, UCODE & ~3u);
    /* An unknown type of gate. */
    idt_set(0x81, target, KCODE, 0xe2, 0);
    c.ip = USER_CODE;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0x81 * 8 + 2);
}

/* --- triple faults: these end the virtual machine ---------------------------------------------------- */

static void expect_shutdown(void)
{
    print("expecting shutdown\n");
}

TEST(shutdown_no_idt)
{
    expect_shutdown();
    write_idtr((struct table_register){0, 0});
    asm volatile("ud2");
}

TEST(shutdown_double_fault_gate)
{
    struct context c = USER(code_gp);

    idt_set_access(GP, NOT_PRESENT);
    idt_set_access(DF, NOT_PRESENT);
    expect_shutdown();
    context_run(&c);
}

/* The kernel's page tables go away under it. */
TEST(shutdown_no_pages)
{
    paging_64();
    expect_shutdown();
    write_cr3((word)page_new());
    asm volatile("ud2");
}
