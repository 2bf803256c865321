/*
 * fault.c: which exception, with which error code, when several would do
 * (SDM vol. 3, 6.9 and chapter 6; AMD APM vol. 2, 8.5).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

static struct context user_at(const char *code, word size)
{
    struct context c;

    user_init();
    memcpy((void *)USER_CODE, code, size);
    c = user_context(USER_CODE);
    c.bx = USER_DATA;
    return c;
}
#define USER(code) user_at(code, CODE_SIZE(code))

static void set_cr0(word bits, bool on)
{
    write_cr0(on ? read_cr0() | bits : read_cr0() & ~bits);
}

static void sse_on(void)
{
    set_cr0(CR0_EM | CR0_TS, false);
    set_cr0(CR0_MP, true);
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    asm volatile("fninit"); /* the reset state has all x87 exceptions unmasked */
}

/* --- divide, breakpoints: fault or trap ------------------------------------------------------ */

CODE(code_div, "xor %edx, %edx\n mov $5, %eax\n xor %ecx, %ecx\n div %ecx\n int $0x80");
CODE(code_idiv, "mov $0x80000000, %eax\n cltd\n mov $-1, %ecx\n idiv %ecx\n int $0x80");
CODE(code_div_overflow, "mov $1, %edx\n xor %eax, %eax\n mov $1, %ecx\n div %ecx\n int $0x80");

TEST(fault_divide)
{
    static const struct {
        const char *code, *end;
        word at;
    } rows[] = {
        {code_div, code_div_end, 9}, {code_idiv, code_idiv_end, 11}, {code_div_overflow, code_div_overflow_end, 12}};

    for (unsigned i = 0; i < 3; i++) {
        struct context c = user_at(rows[i].code, (word)(rows[i].end - rows[i].code));

        context_run(&c);
        EXPECT_END(&c, DE);
        EXPECT_EQ(c.ip, USER_CODE + rows[i].at);
        /* A fault: nothing has changed, and it can be mended and run on. */
        c.cx = 2;
        c.dx = 0;
        c.ax = 6;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, 3);
    }
}

CODE(code_int3, "int3\n int $0x80");
CODE(code_int_3, ".byte 0xcd, 3\n int $0x80");
CODE(code_ud2, "ud2");
CODE(code_icebp, ".byte 0xf1\n int $0x80");

/* Traps: IP is of the next instruction. */
TEST(fault_breakpoint)
{
    struct context c = USER(code_int3);

    context_run(&c);
    EXPECT_END_ERROR(&c, BP, 0);
    EXPECT_EQ(c.ip, USER_CODE + 1);
    c = USER(code_int_3);
    context_run(&c);
    EXPECT_END(&c, BP);
    EXPECT_EQ(c.ip, USER_CODE + 2);
    /* INT3 obeys the gate's DPL, like INT n. */
    idt_set_access(BP, ACC_INT_GATE);
    c = USER(code_int3);
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 3 * 8 + 2);
    EXPECT_EQ(c.ip, USER_CODE);
    /* INT1 does not: it is a hardware exception, whatever the gate. */
    c = USER(code_icebp);
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, USER_CODE + 1);
}

/* Faults push RF = 1, so that the return does not hit an instruction breakpoint again; traps do not (SDM vol. 3,
 * 17.3.1.1). */
TEST(fault_resume_flag)
{
    struct context c = USER(code_ud2);

    context_run(&c);
    EXPECT_END(&c, UD);
    EXPECT_EQ(c.flags & FL_RF, FL_RF);
    c = USER(code_int3);
    context_run(&c);
    EXPECT_EQ(c.flags & FL_RF, 0);
    c = USER(code_div);
    context_run(&c);
    EXPECT_EQ(c.flags & FL_RF, FL_RF);
}

/* --- #UD ------------------------------------------------------------------------------------------ */

/* All must be #UD, at both privileges, at the instruction itself. */
static const struct bytes {
    const char *what;
    uint8_t length, code[8];
} undefined[] = {
    {"ud2", 2, {0x0f, 0x0b}},
    {"ud1", 3, {0x0f, 0xb9, 0xc0}},
    {"lock mov", 3, {0xf0, 0x89, 0x03}},
    {"lock add to register", 3, {0xf0, 0x01, 0xc0}},
    {"lock cmp", 3, {0xf0, 0x39, 0x03}},
    {"lock nop", 2, {0xf0, 0x90}},
    {"lock mul", 3, {0xf0, 0xf7, 0x23}},
    {"lock bt", 4, {0xf0, 0x0f, 0xa3, 0x03}},
    {"lock jmp", 3, {0xf0, 0xeb, 0x00}},
    {"mov to cs", 2, {0x8e, 0xc8}},
    {"mov to segment 6", 2, {0x8e, 0xf0}},
    {"mov from segment 7", 2, {0x8c, 0xf8}},
    {"lea of register", 2, {0x8d, 0xc0}},
    {"lds of register / bad vex", 3, {0xc5, 0xc0, 0x0b}},
    {"cmpxchg8b of register", 3, {0x0f, 0xc7, 0xc8}},
    {"lgdt of register", 3, {0x0f, 0x01, 0xd0 | 0x18 | 7}}, /* 0f 01 df: INVLPGA without SVM */
    {"pop with /1", 2, {0x8f, 0xc8}},
    {"mov imm with /1", 3, {0xc6, 0xc8, 0x01}},
    {"group 5 /7", 2, {0xff, 0xf8}},
    {"group 4 /2", 2, {0xfe, 0xd0}},
    {"jmp far register", 2, {0xff, 0xe8}},
    {"call far register", 2, {0xff, 0xd8}},
#ifdef __x86_64__
    {"push es", 1, {0x06}},
    {"pop ds", 1, {0x1f}},
    {"daa", 1, {0x27}},
    {"aaa", 1, {0x37}},
    {"pusha", 1, {0x60}},
    {"popa", 1, {0x61}},
    {"into", 1, {0xce}},
    {"aam", 2, {0xd4, 0x0a}},
    {"salc", 1, {0xd6}},
    {"far call immediate", 7, {0x9a, 0, 0, 0, 0, 8, 0}},
    {"far jmp immediate", 7, {0xea, 0, 0, 0, 0, 8, 0}},
    {"add alias 82", 3, {0x82, 0xc0, 0x01}},
#endif
};

TEST(fault_undefined)
{
    user_init();
    for (unsigned i = 0; i < sizeof undefined / sizeof *undefined; i++) {
        const struct bytes *u = &undefined[i];
        struct context c = user_context(USER_CODE), k;

        memset((void *)USER_CODE, 0x90, 32);
        memcpy((void *)(USER_CODE + 32), "\xcd\x80", 2);
        memcpy((void *)USER_CODE, u->code, u->length);
        c.bx = USER_DATA;
        context_run(&c);
        k = kernel_context(USER_CODE);
        k.bx = USER_DATA;
        context_run(&k);
        if (c.vector != UD || k.vector != UD || c.ip != USER_CODE || k.ip != USER_CODE) {
            print(u->what);
            print(": ");
            EXPECT_END(&c, UD);
            EXPECT_END(&k, UD);
            EXPECT_EQ(c.ip, USER_CODE);
            EXPECT_EQ(k.ip, USER_CODE);
        }
    }
}

/* #UD of an illegal LOCK comes before the operand is looked at; so does that of a privileged one's privilege check. */
CODE(code_lock_unmapped, ".byte 0xf0\n mov %eax, (" BX ")");
TEST(fault_ud_before_pf)
{
    struct context c;

    paging_64();
    c = USER(code_lock_unmapped);
    c.bx = TEST_VA;
    context_run(&c);
    EXPECT_END(&c, UD);
}

/* --- privileged instructions ------------------------------------------------------------------------ */

static const struct bytes privileged[] = {
    {"hlt", 1, {0xf4}},
    {"clts", 2, {0x0f, 0x06}},
    {"invd", 2, {0x0f, 0x08}},
    {"wbinvd", 2, {0x0f, 0x09}},
    {"mov from cr0", 3, {0x0f, 0x20, 0xc0}},
    {"mov to cr0", 3, {0x0f, 0x22, 0xc0}},
    {"mov from cr3", 3, {0x0f, 0x20, 0xd8}},
    {"mov to cr4", 3, {0x0f, 0x22, 0xe0}},
    {"mov from dr7", 3, {0x0f, 0x21, 0xf8}},
    {"mov to dr0", 3, {0x0f, 0x23, 0xc0}},
    {"rdmsr", 2, {0x0f, 0x32}},
    {"wrmsr", 2, {0x0f, 0x30}},
    {"lmsw", 3, {0x0f, 0x01, 0xf0}},
    {"lgdt", 3, {0x0f, 0x01, 0x13}},
    {"lidt", 3, {0x0f, 0x01, 0x1b}},
    {"invlpg", 3, {0x0f, 0x01, 0x3b}},
    {"lldt", 3, {0x0f, 0x00, 0xd0}},
    {"ltr", 3, {0x0f, 0x00, 0xd8}},
    {"cli", 1, {0xfa}},
    {"sti", 1, {0xfb}},
    {"in", 2, {0xe4, 0x80}},
    {"out", 2, {0xe6, 0x80}},
    {"in dx", 1, {0xec}},
    {"insb", 1, {0x6c}},
    {"outsb", 1, {0x6e}},
#ifdef __x86_64__
    {"swapgs", 3, {0x0f, 0x01, 0xf8}},
    {"sysretq", 3, {0x48, 0x0f, 0x07}},
    {"mov to cr8", 4, {0x44, 0x0f, 0x22, 0xc0}},
    {"mov from cr8", 4, {0x44, 0x0f, 0x20, 0xc0}},
#else
    {"sysexit", 2, {0x0f, 0x35}},
#endif
};

TEST(fault_privileged)
{
    user_init();
    for (unsigned i = 0; i < sizeof privileged / sizeof *privileged; i++) {
        const struct bytes *u = &privileged[i];
        struct context c = user_context(USER_CODE);

        memset((void *)USER_CODE, 0x90, 32);
        memcpy((void *)(USER_CODE + 32), "\xcd\x80", 2);
        memcpy((void *)USER_CODE, u->code, u->length);
        c.bx = USER_DATA;
        context_run(&c);
        if (c.vector != GP || c.error || c.ip != USER_CODE) {
            print(u->what);
            print(": ");
            EXPECT_END_ERROR(&c, GP, 0);
            EXPECT_EQ(c.ip, USER_CODE);
        }
    }
}

/* The privilege check comes before the operand is read: #GP, not #PF. */
CODE(code_lgdt_unmapped, "lgdt (" BX ")");
TEST(fault_gp_before_pf)
{
    struct context c;

    paging_64();
    c = USER(code_lgdt_unmapped);
    c.bx = TEST_VA;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
}

/* --- the length of instructions ----------------------------------------------------------------------- */

TEST(fault_instruction_length)
{
    uint8_t *code = (uint8_t *)USER_CODE;
    struct context c;

    paging_64();
    user_init();
    /* 14 prefixes and a NOP: 15 bytes are legal. */
    memset(code, 0x66, 15);
    code[14] = 0x90;
    code[15] = 0xcd;
    code[16] = 0x80;
    c = user_context(USER_CODE);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    /* 16 are not, whatever they would be. */
    memset(code, 0x66, 16);
    code[15] = 0x90;
    c = user_context(USER_CODE);
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.ip, USER_CODE);
    /* The same at the end of the mapped page: 15 bytes decide, the next page is not asked for. */
    memset((void *)(USER_CODE + PAGE - 15), 0x66, 15);
    c = user_context(USER_CODE + PAGE - 15);
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    /* 14 bytes are not enough to tell. */
    c = user_context(USER_CODE + PAGE - 14);
    context_run(&c);
    EXPECT_END(&c, PF);
    EXPECT_EQ(c.cr2, USER_CODE + PAGE);
}

/* --- #NM, #UD, #GP, #PF of FPU and SSE instructions ------------------------------------------------------ */

CODE(code_fld1, "fld1\n int $0x80");
CODE(code_wait, "fwait\n int $0x80");
CODE(code_movaps, "movaps (" BX "), %xmm0\n int $0x80");
CODE(code_movups, "movups (" BX "), %xmm0\n int $0x80");
CODE(code_emms, "emms\n int $0x80");
CODE(code_fxsave, "fxsave (" BX ")\n int $0x80");

static word outcome(const char *code, word size, word address)
{
    struct context c = user_at(code, size);

    c.bx = address;
    context_run(&c);
    return c.vector;
}
#define OUTCOME(code, address) outcome(code, CODE_SIZE(code), address)

/* SDM vol. 3, table 2-2 and 6.15, interrupt 7. */
TEST(fault_fpu_control_bits)
{
    for (unsigned i = 0; i < 8; i++) {
        bool em = i & 1, ts = i & 2, mp = i & 4;

        sse_on();
        set_cr0(CR0_EM, em);
        set_cr0(CR0_TS, ts);
        set_cr0(CR0_MP, mp);
        EXPECT_EQ(OUTCOME(code_fld1, 0), em || ts ? NM : 0x80);
        EXPECT_EQ(OUTCOME(code_wait, 0), mp && ts ? NM : 0x80);
        EXPECT_EQ(OUTCOME(code_emms, 0), em ? UD : ts ? NM : 0x80);
        EXPECT_EQ(OUTCOME(code_movups, USER_DATA), em ? UD : ts ? NM : 0x80);
        EXPECT_EQ(OUTCOME(code_fxsave, USER_DATA), em || ts ? NM : 0x80);
        write_cr4(read_cr4() & ~(word)CR4_OSFXSR);
        EXPECT_EQ(OUTCOME(code_movups, USER_DATA), UD);
    }
}

/* #UD before #NM before #GP (alignment) before #PF. */
TEST(fault_sse_priority)
{
    paging_64();
    sse_on();
    EXPECT_EQ(OUTCOME(code_movaps, USER_DATA), 0x80);
    EXPECT_EQ(OUTCOME(code_movaps, USER_DATA + 1), GP);
    EXPECT_EQ(OUTCOME(code_movaps, TEST_VA), PF);
    EXPECT_EQ(OUTCOME(code_movaps, TEST_VA + 1), GP);
    EXPECT_EQ(OUTCOME(code_movups, TEST_VA + 1), PF);
    set_cr0(CR0_TS, true);
    EXPECT_EQ(OUTCOME(code_movaps, TEST_VA + 1), NM);
    write_cr4(read_cr4() & ~(word)CR4_OSFXSR);
    EXPECT_EQ(OUTCOME(code_movaps, TEST_VA + 1), UD);
    write_cr4(read_cr4() | CR4_OSFXSR);
    set_cr0(CR0_TS, false);
    EXPECT_EQ(OUTCOME(code_fxsave, USER_DATA + 8), GP);
}

/* --- alignment checks ---------------------------------------------------------------------------------------- */

CODE(code_read2, "movw (" BX "), %ax\n int $0x80");
CODE(code_read4, "movl (" BX "), %eax\n int $0x80");
CODE(code_write4, "movl %eax, (" BX ")\n int $0x80");
CODE(code_push, "push " AX "\n int $0x80");

static struct context with_ac(const char *code, word size, word address, bool ac)
{
    struct context c = user_at(code, size);

    c.bx = address;
    c.flags |= ac ? FL_AC : 0;
    context_run(&c);
    return c;
}
#define WITH_AC(code, address, ac) with_ac(code, CODE_SIZE(code), address, ac)

/* #AC: CPL 3, CR0.AM and RFLAGS.AC; error code 0 (SDM vol. 3, 6.15, interrupt 17). */
TEST(fault_alignment)
{
    struct context c, k;

    set_cr0(CR0_AM, true);
    c = WITH_AC(code_read4, USER_DATA + 2, true);
    EXPECT_END_ERROR(&c, AC, 0);
    EXPECT_EQ(c.ip, USER_CODE);
    c = WITH_AC(code_write4, USER_DATA + 1, true);
    EXPECT_END_ERROR(&c, AC, 0);
    c = WITH_AC(code_read2, USER_DATA + 1, true);
    EXPECT_END_ERROR(&c, AC, 0);
    c = WITH_AC(code_read2, USER_DATA + 2, true);
    EXPECT_END(&c, 0x80);
    c = WITH_AC(code_read4, USER_DATA + 4, true);
    EXPECT_END(&c, 0x80);
    c = WITH_AC(code_read4, USER_DATA + 2, false);
    EXPECT_END(&c, 0x80);
    c = USER(code_push);
    c.sp -= 1;
    c.flags |= FL_AC;
    context_run(&c);
    EXPECT_END_ERROR(&c, AC, 0);
    /* Not at CPL 0, and not without CR0.AM. */
    k = kernel_context((word)code_read4);
    k.bx = USER_DATA + 2;
    k.flags |= FL_AC;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    set_cr0(CR0_AM, false);
    c = WITH_AC(code_read4, USER_DATA + 2, true);
    EXPECT_END(&c, 0x80);
}

#ifdef __x86_64__

/* --- canonical addresses ---------------------------------------------------------------------------------------- */

#define HOLE 0x800000000000ul

CODE(code_read8, "mov (%rbx), %rax\n int $0x80");
CODE(code_read8_rbp, "mov (%rbp), %rax\n int $0x80");
CODE(code_read8_rsp, "mov (%rsp), %rax\n int $0x80");
CODE(code_read8_ds_rbp, "mov %ds:(%rbp), %rax\n int $0x80");
CODE(code_read8_ss_rbx, "mov %ss:(%rbx), %rax\n int $0x80");
CODE(code_read8_fs, "mov %fs:(%rbx), %rax\n int $0x80");
CODE(code_jump, "jmp *%rbx");
CODE(code_call, "call *%rbx");
CODE(code_ret, "push %rbx\n ret");
CODE(code_pop, "pop %rax\n int $0x80");

/* #SS for what goes through SS, #GP for all else. */
TEST(fault_canonical_data)
{
    static const struct {
        const char *code, *end;
        word vector;
    } rows[] = {
        {code_read8, code_read8_end, GP},
        {code_read8_rbp, code_read8_rbp_end, SS},
        {code_read8_rsp, code_read8_rsp_end, SS},
        {code_read8_ds_rbp, code_read8_ds_rbp_end, SS}, /* a DS prefix is ignored in 64-bit mode */
        {code_read8_fs, code_read8_fs_end, GP},
        {code_push, code_push_end, SS},
        {code_pop, code_pop_end, SS},
    };
    static const word addresses[] = {
        HOLE, HOLE - 1, HOLE - 7, 0xffff7ffffffffff8, 0xffff7fffffffffff, 0x8000000000000000};

    user_init();
    map(HOLE - PAGE, (word)page_new(), PTE_PWU); /* what lies before the hole is not at fault */
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++)
        for (unsigned a = 0; a < sizeof addresses / sizeof *addresses; a++) {
            struct context c = user_at(rows[i].code, (word)(rows[i].end - rows[i].code));

            c.bx = c.bp = addresses[a];
            c.sp = addresses[a] + (rows[i].code == code_push ? 8 : 0);
            context_run(&c);
            EXPECT_END_ERROR(&c, rows[i].vector, 0);
            EXPECT_EQ(c.ip, USER_CODE);
        }
}

/* A branch to nowhere faults at the branch, with nothing changed. */
TEST(fault_canonical_branch)
{
    struct context c = USER(code_jump);

    c.bx = HOLE;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.ip, USER_CODE);
    c = USER(code_call);
    c.bx = HOLE;
    c.sp = USER_STACK + 0x800;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.ip, USER_CODE);
    EXPECT_EQ(c.sp, USER_STACK + 0x800);
    c = USER(code_ret);
    c.bx = HOLE;
    c.sp = USER_STACK + 0x800;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.ip, USER_CODE + 1);
    EXPECT_EQ(c.sp, USER_STACK + 0x7f8);
}

/* --- alignment that long mode's wide instructions want --------------------------------------------------------------
 */

CODE(code_cmpxchg16b, "lock cmpxchg16b (%rbx)\n int $0x80");
TEST(fault_cmpxchg16b)
{
    struct context c;
    uint64_t *data = (uint64_t *)USER_DATA;

    need("cx16", 1, 0, 2, 13);
    c = USER(code_cmpxchg16b);
    c.bx = USER_DATA + 8;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    c = USER(code_cmpxchg16b);
    c.bx = TEST_VA + 8; /* alignment first, then the page */
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    c = USER(code_cmpxchg16b);
    c.bx = TEST_VA;
    context_run(&c);
    EXPECT_END(&c, PF);
    /* RBX is address and new value at once. */
    data[0] = 1;
    data[1] = 2;
    c = USER(code_cmpxchg16b);
    c.bx = USER_DATA;
    c.ax = 1;
    c.dx = 2;
    c.cx = 9;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.flags & FL_ZF, FL_ZF);
    EXPECT_EQ(data[0], USER_DATA);
    EXPECT_EQ(data[1], 9);
    c.ip = USER_CODE;
    context_run(&c);
    EXPECT_EQ(c.flags & FL_ZF, 0);
    EXPECT_EQ(c.ax, USER_DATA);
    EXPECT_EQ(c.dx, 9);
}

#else

CODE(code_into, "add $0x7fffffff, %eax\n into\n int $0x80");
CODE(code_bound, "bound %eax, (%ebx)\n int $0x80");
CODE(code_aam, "aam $0\n int $0x80");

TEST(fault_into_bound_aam)
{
    struct context c = USER(code_into);

    c.ax = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    c = USER(code_into);
    c.ax = 1;
    context_run(&c);
    EXPECT_END(&c, OF);
    EXPECT_EQ(c.ip, USER_CODE + 6);
    ((int32_t *)USER_DATA)[0] = -5;
    ((int32_t *)USER_DATA)[1] = 5;
    for (int32_t i = -7; i < 8; i++) {
        c = USER(code_bound);
        c.ax = (word)i;
        context_run(&c);
        EXPECT_END(&c, i < -5 || i > 5 ? BR : 0x80);
        EXPECT_EQ(c.ip, USER_CODE + (i < -5 || i > 5 ? 0 : 4));
    }
    c = USER(code_aam);
    context_run(&c);
    EXPECT_END(&c, DE);
    EXPECT_EQ(c.ip, USER_CODE);
}

#endif
