/*
 * syscall.c: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the segment bases
 * they need (SDM vol. 2; AMD APM vol. 2, 6.1). The vendors differ in long
 * mode: AMD's has no SYSENTER, and a SYSCALL from compatibility mode.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define GIB4 0x100000000ull

CODE(code_entry, "int $0x81"); /* the kernel's side: ends the context there */

#ifdef __x86_64__

CODE(code_syscall, "syscall\n nop\n int $0x80");
CODE(code_sysret, "sysretq");
CODE(code_sysretl, "sysretl");
CODE(code_int80, "int $0x80");
CODE(code_compat, ".code32\n mov %cs, %eax\n mov %ss, %ecx\n inc %edx\n int $0x80"); /* 42h is INC in 32-bit code */
CODE(code_compat_syscall, ".code32\n syscall\n nop\n int $0x80");
CODE(code_sysenter, "sysenter\n nop\n int $0x80");

static void init(void)
{
    user_init();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)(UCODE32 & ~3) << 48 | (uint64_t)KCODE << 32);
    wrmsr(MSR_LSTAR, (word)code_entry);
    wrmsr(MSR_SFMASK, 0);
}

static bool intel(void)
{
    uint32_t regs[4];

    cpuid(0, 0, regs);
    return regs[1] == 0x756e6547; /* "Genu" */
}

static struct context user(const char *code, word size)
{
    memcpy((void *)USER_CODE, code, size);
    return user_context(USER_CODE);
}
#define USER(code) user(code, CODE_SIZE(code))

TEST(syscall_enter)
{
    struct context c;

    init();
    c = USER(code_syscall);
    c.flags |= FL_CF | FL_AC | FL_DF;
    c.cx = c.r11 = 1;
    context_run(&c);
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(c.ip, (word)code_entry + 2);
    EXPECT_EQ(c.cs, KCODE);
    EXPECT_EQ(c.ss, KDATA);
    EXPECT_EQ(c.cx, USER_CODE + 2);
    EXPECT_EQ(c.r11, FL_1 | FL_CF | FL_AC | FL_DF);
    EXPECT_EQ(c.flags, FL_1 | FL_CF | FL_AC | FL_DF);
    EXPECT_EQ(c.sp, user_context(0).sp); /* the stack stays */
}

TEST(syscall_mask)
{
    struct context c;

    init();
    wrmsr(MSR_SFMASK, FL_IF | FL_DF | FL_AC | FL_TF | FL_NT);
    c = USER(code_syscall);
    c.flags |= FL_CF | FL_ZF | FL_AC | FL_DF | FL_IF | FL_NT;
    context_run(&c);
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(c.flags, FL_1 | FL_CF | FL_ZF);
    EXPECT_EQ(c.r11, FL_1 | FL_CF | FL_ZF | FL_AC | FL_DF | FL_IF | FL_NT);
    /* TF masked: not stepped into the kernel. */
    c = USER(code_syscall);
    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(c.r11 & FL_TF, FL_TF);
}

/* The selectors come from STAR, the rest is fixed: no descriptor is looked at. */
TEST(syscall_flat_segments)
{
    struct context c;
    uint64_t old;

    init();
    old = gdt[KCODE >> 3];
    wrmsr(MSR_STAR, (uint64_t)(UCODE32 & ~3) << 48 | (uint64_t)FREE_SEL << 32);
    gdt[FREE_SEL >> 3] = 0;
    gdt[(FREE_SEL >> 3) + 1] = 0;
    c = USER(code_syscall);
    context_run(&c);
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(c.cs, FREE_SEL);
    EXPECT_EQ(c.ss, FREE_SEL + 8);
    EXPECT_EQ(gdt[KCODE >> 3], old);
}

TEST(syscall_disabled)
{
    struct context c;

    init();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
    c = USER(code_syscall);
    context_run(&c);
    EXPECT_END(&c, UD);
    EXPECT_EQ(c.ip, USER_CODE);
    c = kernel_context((word)code_sysret);
    c.cx = USER_CODE;
    context_run(&c);
    EXPECT_END(&c, UD);
}

TEST(syscall_sysret)
{
    struct context c;

    init();
    PLACE(USER_CODE, code_int80);
    c = kernel_context((word)code_sysret);
    c.cx = USER_CODE;
    c.r11 = FL_1 | FL_CF | FL_IF | FL_IOPL | FL_RF | FL_VM | FL_AC;
    c.sp = USER_STACK + 0x100;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ip, USER_CODE + 2);
    EXPECT_EQ(c.cs, UCODE64);
    EXPECT_EQ(c.ss, UDATA);
    EXPECT_EQ(c.flags, FL_1 | FL_CF | FL_IF | FL_IOPL | FL_AC);
    EXPECT_EQ(c.sp, USER_STACK + 0x100);
}

TEST(syscall_sysret_compat)
{
    struct context c;

    init();
    PLACE(USER_CODE, code_compat);
    c = kernel_context((word)code_sysretl);
    c.cx = USER_CODE | 5 * GIB4; /* ECX counts */
    c.r11 = FL_1;
    c.dx = 0x1ffffffff;
    c.sp = USER_STACK + 0x100;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.cs, UCODE32);
    EXPECT_EQ(c.ax, UCODE32);
    EXPECT_EQ(c.cx, UDATA);
    EXPECT_EQ((uint32_t)c.dx, 0);
}

/* A return address that is not canonical: Intel faults in the kernel, AMD at the user's first fetch. */
TEST(syscall_sysret_not_canonical)
{
    struct context c;

    init();
    c = kernel_context((word)code_sysret);
    c.cx = 0x800000000000;
    c.r11 = FL_1;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.cs & 3, intel() ? 0 : 3);
}

TEST(syscall_from_compat)
{
    struct context c;

    init();
    wrmsr(MSR_CSTAR, (word)code_entry);
    wrmsr(MSR_LSTAR, 0x123456789000);
    c = USER(code_compat_syscall);
    c.cs = UCODE32;
    context_run(&c);
    if (intel()) {
        EXPECT_END(&c, UD);
    } else {
        EXPECT_END(&c, 0x81);
        EXPECT_EQ(c.cs, KCODE);
        EXPECT_EQ(c.ip, (word)code_entry + 2);
        EXPECT_EQ(c.cx, USER_CODE + 2);
    }
}

TEST(syscall_sysenter_long)
{
    struct context c;

    init();
    wrmsr(MSR_SYSENTER_CS, KCODE);
    wrmsr(MSR_SYSENTER_ESP, USER_STACK + 0x800);
    wrmsr(MSR_SYSENTER_EIP, (word)code_entry);
    c = USER(code_sysenter);
    context_run(&c);
    if (!intel()) {
        EXPECT_END(&c, UD);
        return;
    }
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(c.ip, (word)code_entry + 2);
    EXPECT_EQ(c.sp, USER_STACK + 0x800);
    EXPECT_EQ(c.cs, KCODE);
    EXPECT_EQ(c.ss, KCODE + 8);
}

/* --- FS and GS ------------------------------------------------------------------------------------- */

CODE(code_swapgs, "swapgs\n mov %gs:(%rbx), %rax\n swapgs\n mov %gs:(%rbx), %rcx\n int $0x80");

TEST(syscall_swapgs)
{
    uint64_t *a = page_new(), *b = page_new();
    struct context k = kernel_context((word)code_swapgs);

    *a = 0x1111;
    *b = 0x2222;
    wrmsr(MSR_GS_BASE, (word)a - 0x10);
    wrmsr(MSR_KERNEL_GS_BASE, (word)b - 0x10);
    k.bx = 0x10;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.ax, 0x2222);
    EXPECT_EQ(k.cx, 0x1111);
    EXPECT_EQ(rdmsr(MSR_GS_BASE), (word)a - 0x10);
    EXPECT_EQ(rdmsr(MSR_KERNEL_GS_BASE), (word)b - 0x10);
    wrmsr(MSR_GS_BASE, 0);
}

/* A base of 64 bits wins over the descriptor; a selector load sets it from the descriptor. */
CODE(code_read_fs, "mov %fs:(%rbx), %rax\n mov %ecx, %fs\n mov %fs:(%rbx), %rdx\n int $0x80");
TEST(syscall_fs_base)
{
    uint64_t *low = page_new(), *high = page_new();
    struct context k = kernel_context((word)code_read_fs);

    *low = 0x1111;
    *high = 0x2222;
    map(0x7ffffffff000, (word)high, PTE_PW);
    gdt_set(FREE_SEL, (uint32_t)(word)low, 0, ACC_DATA, 0); /* the limit means nothing */
    wrmsr(MSR_FS_BASE, 0x7ffffffff000 - 0x8);
    k.bx = 0x8;
    k.cx = FREE_SEL;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.ax, 0x2222);
    EXPECT_EQ(k.dx, low[1]);
    EXPECT_EQ(rdmsr(MSR_FS_BASE), (word)low);
    /* FS:offset that leaves the canonical range faults; negative offsets wrap. */
    wrmsr(MSR_FS_BASE, 0x7ffffffff000);
    TRY("mov %%fs:(%0), %%rax", : : "r"(0x1000ul) : "rax");
    EXPECT_TRAP_ERROR(GP, 0);
    wrmsr(MSR_FS_BASE, (word)low + 0x100);
    k.ip = (word)code_read_fs;
    k.bx = (word)-0x100;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.ax, 0x1111);
    asm volatile("mov %0, %%fs" : : "r"(0));
}

TEST(syscall_fsgsbase)
{
    uint64_t value = 0;

    need("fsgsbase", 7, 0, 1, 0);
    write_cr4(read_cr4() & ~(word)CR4_FSGSBASE);
    TRY("rdfsbase %0", : "=r"(value));
    EXPECT_TRAP(UD);
    write_cr4(read_cr4() | CR4_FSGSBASE);
    TRY("wrfsbase %0", : : "r"(0xffff800012345678));
    EXPECT_NO_TRAP();
    EXPECT_EQ(rdmsr(MSR_FS_BASE), 0xffff800012345678);
    TRY("rdfsbase %0", : "=r"(value));
    EXPECT_EQ(value, 0xffff800012345678);
    TRY("wrgsbase %0", : : "r"(0x800000000000));
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("wrgsbase %k0", : : "r"(0xfedcba98));
    TRY("rdgsbase %0", : "=r"(value));
    EXPECT_EQ(value, 0xfedcba98);
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
}

#else

CODE(code_sysenter, "sysenter\n nop\n int $0x80");
CODE(code_sysexit, "sysexit");
CODE(code_int80, "int $0x80");

/* Legacy mode: the same for both vendors. */
TEST(syscall_sysenter)
{
    struct context c;

    need("sep", 1, 0, 3, 11);
    user_init();
    PLACE(USER_CODE, code_sysenter);
    wrmsr(MSR_SYSENTER_CS, 0);
    c = user_context(USER_CODE);
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    wrmsr(MSR_SYSENTER_CS, KCODE);
    wrmsr(MSR_SYSENTER_ESP, USER_STACK + 0x800);
    wrmsr(MSR_SYSENTER_EIP, (word)code_entry);
    EXPECT_EQ(rdmsr(MSR_SYSENTER_EIP), (word)code_entry);
    c = user_context(USER_CODE);
    c.flags |= FL_IF | FL_CF;
    context_run(&c);
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(c.ip, (word)code_entry + 2);
    EXPECT_EQ(c.sp, USER_STACK + 0x800);
    EXPECT_EQ(c.cs, KCODE);
    EXPECT_EQ(c.ss, KDATA);
    EXPECT_EQ(c.flags, FL_1 | FL_CF);
}

TEST(syscall_sysexit)
{
    struct context c = kernel_context((word)code_sysexit);

    need("sep", 1, 0, 3, 11);
    user_init();
    PLACE(USER_CODE, code_int80);
    wrmsr(MSR_SYSENTER_CS, 0);
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    wrmsr(MSR_SYSENTER_CS, KCODE);
    c = kernel_context((word)code_sysexit);
    c.dx = USER_CODE;
    c.cx = USER_STACK + 0x100;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ip, USER_CODE + 2);
    EXPECT_EQ(c.cs, KCODE + 16 + 3);
    EXPECT_EQ(c.ss, KCODE + 24 + 3);
    EXPECT_EQ(c.sp, USER_STACK + 0x100);
}

#endif
