/*
 * mix.c: modes, segments and rings that change all the time: code of two modes
 * calling each other, the same bytes run in both, segments reloaded and moved
 * in hot loops, system calls by the thousand.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define ROUNDS (3 * HOT)
#define SEL    FREE_SEL
#define SEL2   (FREE_SEL + 8)
#define SEL3   (FREE_SEL + 16)

#ifdef __x86_64__

/* --- 64-bit mode and compatibility mode
 * ---------------------------------------------------------------------------------- */

/* The bytes 48 83 C0 05 are ADD $5, %rax, or DEC %eax and ADD $5, %eax. BX: far pointer to the 32-bit part; SI: its way
 * back, the offset of the second part. */
CODE(code_two_modes, "1: call 5f\n ljmp *(%rbx)\n 2: dec %ecx\n jnz 1b\n int $0x80\n"
                     ".code32\n 3: call 5f\n push %esi\n push %edi\n lret\n 5: .byte 0x48, 0x83, 0xc0, 0x05\n ret\n"
                     ".code64\n code_two_modes_back = 2b - code_two_modes\n code_two_modes_32 = 3b - code_two_modes\n");
extern const char code_two_modes_back[], code_two_modes_32[];

static void two_modes(bool user)
{
    struct {
        uint32_t offset;
        uint16_t selector;
    } __attribute__((packed)) *pointer = (void *)USER_DATA;
    struct context c = user ? user_context(USER_CODE) : kernel_context(USER_CODE);

    pointer->offset = (uint32_t)(USER_CODE + (word)code_two_modes_32);
    pointer->selector = user ? UCODE32 : KCODE32;
    c.ax = 0;
    c.bx = USER_DATA;
    c.cx = ROUNDS;
    c.di = USER_CODE + (word)code_two_modes_back;
    c.si = user ? UCODE64 : KCODE;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 9 * ROUNDS);
    EXPECT_EQ(c.cs, user ? UCODE64 : KCODE);
}

TEST(mix_compatibility_mode)
{
    user_init();
    PLACE(USER_CODE, code_two_modes);
    for (unsigned i = 0; i < 4; i++)
        two_modes(i & 1);
}

/* --- system calls
 * ----------------------------------------------------------------------------------------------------------- */

CODE(code_calls, "1: mov %edi, %edx\n syscall\n add %edx, %eax\n adc $0, %esi\n dec %edi\n jnz 1b\n int $0x80");
CODE(code_kernel,
     "swapgs\n mov %rsp, %gs:8\n mov %gs:0, %rsp\n push %rcx\n push %r11\n lea 3(%rdx, %rdx), %edx\n cmp %edx, %eax\n"
     "pop %r11\n pop %rcx\n mov %gs:8, %rsp\n swapgs\n sysretq");
TEST(mix_system_calls)
{
    static word kernel_gs[2], stack[64];
    struct context c;

    user_init();
    PLACE(USER_CODE, code_calls);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)(UCODE32 & ~3) << 48 | (uint64_t)KCODE << 32);
    wrmsr(MSR_LSTAR, (word)code_kernel);
    wrmsr(MSR_SFMASK, FL_IF | FL_DF | FL_TF);
    wrmsr(MSR_KERNEL_GS_BASE, (word)kernel_gs);
    kernel_gs[0] = (word)(stack + 64);
    c = user_context(USER_CODE);
    c.ax = c.si = 0;
    c.di = 10 * HOT;
    c.flags |= FL_CF | FL_DF;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, (uint64_t)(10 * HOT) * (10 * HOT + 1) + 3 * 10 * HOT);
    EXPECT_EQ(c.si, 0);
    EXPECT_EQ(c.flags & FL_DF, FL_DF);
}

/* FS and GS: bases from MSRs, by SWAPGS and from descriptors (FS: by selector SI, then base DI). */
CODE(code_bases, "1: mov $0xc0000101, %ecx\n mov %r8d, %eax\n xor %edx, %edx\n wrmsr\n add %gs:8, %r10d\n swapgs\n"
                 "add %gs:8, %r10d\n swapgs\n add %gs:8, %r10d\n mov %esi, %fs\n add %fs:8, %r10d\n"
                 "mov $0xc0000100, %ecx\n mov %edi, %eax\n wrmsr\n add %fs:8, %r10d\n xchg %r8, %r9\n dec %ebp\n jnz "
                 "1b\n int $0x80");
TEST(mix_segment_bases)
{
    static const uint32_t values[] = {1, 0x100, 0x3000, 0x50000, 0x700000};
    struct context c = kernel_context((word)code_bases);

    user_init();
    for (unsigned i = 0; i < 5; i++)
        *(uint32_t *)(USER_DATA + 0x100 * i + 8) = values[i];
    wrmsr(MSR_KERNEL_GS_BASE, USER_DATA + 0x200);
    gdt_set(SEL, (uint32_t)USER_DATA + 0x300, 0xfffff, ACC_DATA, FLAG_G | FLAG_D);
    c.r8 = USER_DATA;
    c.r9 = USER_DATA + 0x100;
    c.r10 = 0;
    c.si = SEL;
    c.di = USER_DATA + 0x400;
    c.bp = ROUNDS;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ((uint32_t)c.r10, (uint32_t)(ROUNDS * (0x3000u + 0x50000 + 0x700000) + ROUNDS * (1u + 0x100)));
}

#else

/* --- 16-bit and 32-bit code
 * ---------------------------------------------------------------------------------------------------- */

/* The shared bytes: in 32-bit code ADD $0x00020001, %eax and a far jump through (ebx); in 16-bit code ADD $1, %ax,
 * ADD (bx + si), %al and a far jump through ss:(bp + di). Both segments begin at the code. */
CODE(code_two_sizes, "1: ljmp $0x68, $5f - code_two_sizes\n 2: ljmp $0x70, $5f - code_two_sizes\n"
                     "3: dec %ecx\n jnz 1b\n int $0x80\n 5: .byte 0x05, 0x01, 0x00, 0x02, 0x00, 0xff, 0x2b\n"
                     "code_two_sizes_2 = 2b - code_two_sizes\n code_two_sizes_3 = 3b - code_two_sizes\n");
extern const char code_two_sizes_2[], code_two_sizes_3[];

TEST(mix_code_sizes)
{
    const word low = 0x2000;
    struct context c;
    uint32_t ax = 0;

    PLACE(USER_CODE, code_two_sizes);
    gdt_set(SEL, USER_CODE, 0xffff, ACC_CODE, 0);
    gdt_set(SEL2, USER_CODE, 0xffff, ACC_CODE, FLAG_D);
    *(uint32_t *)low = (uint32_t)(word)code_two_sizes_3;
    *(uint16_t *)(low + 4) = SEL2;
    *(uint16_t *)(low + 0x10) = (uint16_t)(word)code_two_sizes_2;
    *(uint16_t *)(low + 0x12) = SEL2;
    *(uint8_t *)(low + 0x20) = 7;
    for (unsigned i = 0; i < ROUNDS; i++) {
        ax = (ax & 0xffff0000) | ((ax + 1) & 0xffff);
        ax = (ax & 0xffffff00) | ((ax + 7) & 0xff);
        ax += 0x20001;
    }
    for (unsigned i = 0; i < 3; i++) {
        c = kernel_context(0);
        c.cs = SEL2;
        c.ax = 0;
        c.cx = ROUNDS;
        c.bx = low;
        c.si = 0x20;
        c.bp = low;
        c.di = 0x10;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, ax);
    }
}

/* --- segments
 * --------------------------------------------------------------------------------------------------------------------
 */

CODE(code_two_segments,
     "1: mov %edx, %ds\n add 8(%ebx), %eax\n mov %esi, %ds\n add 8(%ebx), %eax\n mov %edx, %es\n"
     "add %es:8(%ebx), %eax\n mov %esi, %fs\n add %fs:8(%ebx), %eax\n incl 12(%ebx)\n dec %ecx\n jnz 1b\n int $0x80");
TEST(mix_segments)
{
    uint32_t *data = (uint32_t *)USER_DATA;

    user_init();
    PLACE(USER_CODE, code_two_segments);
    for (unsigned i = 0; i < 8; i++) {
        struct context c = user_context(USER_CODE);
        unsigned first = i & 3, second = i / 2 & 3;

        for (unsigned k = 0; k < 4; k++) {
            data[0x40 * k + 2] = 1u << 4 * k;
            data[0x40 * k + 3] = 0;
        }
        gdt_set(SEL, USER_DATA + 0x100 * first, 0xff, ACC_DATA | ACC_USER, FLAG_D);
        gdt_set(SEL2, USER_DATA + 0x100 * second, 0xff, ACC_DATA | ACC_USER, FLAG_D);
        c.ax = c.bx = 0;
        c.cx = ROUNDS;
        c.dx = SEL | 3;
        c.si = SEL2 | 3;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, 2 * ROUNDS * ((1u << 4 * first) + (1u << 4 * second)));
        EXPECT_EQ(data[0x40 * second + 3], ROUNDS);
    }
}

/* Beyond the limit every other round; an expand-down segment; no segment at all. */
CODE(code_limit,
     "1: xor $0x200, %ebx\n add %eax, %edx\n add %fs:(%ebx), %eax\n adc $0, %esi\n dec %ecx\n jnz 1b\n int $0x80");
static unsigned traps;
static void over_limit(struct context *c)
{
    traps++;
    EXPECT_EQ(c->ip, USER_CODE + 8);
    EXPECT_EQ(c->error, 0);
    c->ip += 3;
}

TEST(mix_limits)
{
    user_init();
    PLACE(USER_CODE, code_limit);
    handlers[GP] = over_limit;
    *(uint32_t *)(USER_DATA + 0x100) = *(uint32_t *)(USER_DATA + 0x300) = 1;
    for (unsigned i = 0; i < 8; i++) {
        static const unsigned want[] = {ROUNDS / 2, ROUNDS / 2, 0, ROUNDS};
        struct context c = user_context(USER_CODE);

        gdt_set(SEL, USER_DATA,
                i & 2   ? 0xfff
                : i & 1 ? 0x1ff
                        : 0x103,
                (i & 1 ? ACC_DATA | ACC_DOWN : ACC_DATA) | ACC_USER, FLAG_D);
        traps = 0;
        c.ax = 0;
        c.bx = 0x100;
        c.cx = ROUNDS;
        c.fs = (i & 3) == 3 ? 0 : SEL | 3;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(traps, want[i & 3]);
        EXPECT_EQ(c.ax, ROUNDS - want[i & 3]);
    }
}

/* A stack segment of 16 bits and a flat one by turns: PUSH and POP use SP, then ESP. */
CODE(code_stacks,
     "1: mov %edx, %ss\n push %ecx\n add $3, %eax\n call 2f\n pop %ebx\n add %ebx, %eax\n mov %esi, %ss\n"
     "push %ecx\n addl $5, (%esp)\n call 2f\n pop %ebx\n add %ebx, %eax\n dec %ecx\n jnz 1b\n int $0x80\n 2: inc "
     "%eax\n ret");
TEST(mix_stack_sizes)
{
    struct context c = kernel_context((word)code_stacks);

    c.sp = USER_DATA + 0x7000; /* 7000h in the 16-bit segment */
    c.ax = 0;
    c.cx = ROUNDS;
    c.dx = KDATA16;
    c.si = KDATA;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, ROUNDS * (ROUNDS + 1) + 10 * ROUNDS);
    EXPECT_EQ(c.sp, USER_DATA + 0x7000);
}

#endif
