/*
 * control.c: control registers, EFER and XCR0: what may not be written, and
 * what else changes with them (SDM vol. 3, 2.5; AMD APM vol. 2, 3.1).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define WRITE_CR(reg, value)                                                                                           \
    do {                                                                                                               \
        TRY("mov %0, %%" reg, : : "r"((word)(value)) : "memory");                                                      \
    } while (0)
#define WRITE_MSR(msr, value)                                                                                          \
    TRY("wrmsr", : : "c"(msr), "a"((uint32_t)(value)), "d"((uint32_t)((uint64_t)(value) >> 32)) : "memory")
#define READ_MSR(msr) TRY("rdmsr", : : "c"(msr) : "eax", "edx")

TEST(control_cr0)
{
    word cr0 = read_cr0();

    WRITE_CR("cr0", (cr0 & ~(word)CR0_PE) | CR0_PG); /* paging without protection */
    EXPECT_TRAP_ERROR(GP, 0);
    WRITE_CR("cr0", (cr0 & ~(word)CR0_CD) | CR0_NW);
    EXPECT_TRAP_ERROR(GP, 0);
    EXPECT_EQ(read_cr0(), cr0);
    WRITE_CR("cr0", cr0 | CR0_CD | CR0_NW);
    EXPECT_NO_TRAP();
    write_cr0(cr0);
    /* ET is 1 whatever is written; reserved bits of the low half are ignored. */
    WRITE_CR("cr0", cr0 & ~0x10u);
    EXPECT_NO_TRAP();
    EXPECT_EQ(read_cr0(), cr0);
#ifdef __x86_64__
    WRITE_CR("cr0", cr0 | 1ul << 32);
    EXPECT_TRAP_ERROR(GP, 0);
    /* Long mode: neither paging nor PAE can be turned off from 64-bit code. */
    WRITE_CR("cr0", cr0 & ~(word)CR0_PG);
    EXPECT_TRAP_ERROR(GP, 0);
#endif
}

TEST(control_lmsw_clts)
{
    word cr0 = read_cr0();

    write_cr0(cr0 | CR0_TS);
    TRY("clts");
    EXPECT_NO_TRAP();
    EXPECT_EQ(read_cr0(), cr0 & ~(word)CR0_TS);
    /* LMSW reaches the low four bits, and cannot clear PE. */
    TRY("lmsw %w0", : : "r"(CR0_TS | CR0_MP));
    EXPECT_NO_TRAP();
    EXPECT_EQ(read_cr0() & 0xf, CR0_PE | CR0_TS | CR0_MP);
    EXPECT_EQ(read_cr0() & ~(word)0xf, cr0 & ~(word)0xf);
    write_cr0(cr0);
}

TEST(control_cr4)
{
    word cr4 = read_cr4();

    WRITE_CR("cr4", cr4 | 1u << 31);
    EXPECT_TRAP_ERROR(GP, 0);
    WRITE_CR("cr4", cr4 | 1u << 15);
    EXPECT_TRAP_ERROR(GP, 0);
    EXPECT_EQ(read_cr4(), cr4);
#ifdef __x86_64__
    WRITE_CR("cr4", cr4 & ~(word)CR4_PAE);
    EXPECT_TRAP_ERROR(GP, 0);
    WRITE_CR("cr4", cr4 | 1ul << 40);
    EXPECT_TRAP_ERROR(GP, 0);
#endif
    /* A feature that CPUID does not show cannot be turned on; one that it shows can. */
    static const struct {
        word bit;
        uint32_t leaf;
        unsigned reg, index;
    } features[] = {
        {CR4_VME, 1, 3, 1},
        {CR4_DE, 1, 3, 2},
        {CR4_PGE, 1, 3, 13},
        {CR4_OSXSAVE, 1, 2, 26},
        {CR4_UMIP, 7, 2, 2},
        {CR4_SMEP, 7, 1, 7},
        {CR4_SMAP, 7, 1, 20},
        {CR4_FSGSBASE, 7, 1, 0},
        {1u << 22, 7, 2, 3 /* PKU */},
        {1u << 14, 1, 2, 6 /* SMX */},
    };
    for (unsigned i = 0; i < sizeof features / sizeof *features; i++) {
        bool has = cpu_has(features[i].leaf, 0, features[i].reg, features[i].index);

        WRITE_CR("cr4", cr4 | features[i].bit);
        if (has)
            EXPECT_NO_TRAP();
        else
            EXPECT_TRAP_ERROR(GP, 0);
        EXPECT_EQ(read_cr4(), has ? cr4 | features[i].bit : cr4);
        write_cr4(cr4);
    }
}

TEST(control_efer)
{
    uint64_t efer = rdmsr(MSR_EFER);

    WRITE_MSR(MSR_EFER, efer | 1ull << 2);
    EXPECT_TRAP_ERROR(GP, 0);
    WRITE_MSR(MSR_EFER, efer | 1ull << 63);
    EXPECT_TRAP_ERROR(GP, 0);
    EXPECT_EQ(rdmsr(MSR_EFER), efer);
    WRITE_MSR(MSR_EFER, efer ^ EFER_SCE);
    EXPECT_NO_TRAP();
    EXPECT_EQ(rdmsr(MSR_EFER), efer ^ EFER_SCE);
    wrmsr(MSR_EFER, efer);
    /* LME does not change while paging is on. */
    paging_64();
    WRITE_MSR(MSR_EFER, efer ^ EFER_LME);
    EXPECT_TRAP_ERROR(GP, 0);
}

/* MOV CR3: bits beyond the physical address width (long). */
TEST(control_cr3)
{
    word cr3;

    paging_64();
    cr3 = read_cr3();
    /* PWT and PCD are kept. */
    WRITE_CR("cr3", cr3 | 0x18);
    EXPECT_NO_TRAP();
    EXPECT_EQ(read_cr3(), cr3 | 0x18);
    write_cr3(cr3);
#ifdef __x86_64__
    {
        uint32_t regs[4];

        cpuid(0x80000008, 0, regs);
        WRITE_CR("cr3", cr3 | 1ul << (regs[0] & 0xff));
        EXPECT_TRAP_ERROR(GP, 0);
        WRITE_CR("cr3", cr3 | 1ul << 60);
        EXPECT_TRAP_ERROR(GP, 0);
        EXPECT_EQ(read_cr3(), cr3);
    }
#else
    /* PAE: the four PDPTEs are read now, and reserved bits in them fault now (SDM vol. 3, 4.4.1). */
    {
        uint64_t *table = page_new();

        memcpy(table, (void *)cr3, 32);
        table[3] |= PTE_W;
        WRITE_CR("cr3", (word)table);
        EXPECT_TRAP_ERROR(GP, 0);
        EXPECT_EQ(read_cr3(), cr3);
        table[3] &= ~PTE_P; /* not present: nothing is looked at */
        WRITE_CR("cr3", (word)table);
        EXPECT_NO_TRAP();
        /* And they are kept: a change in memory alone changes nothing. */
        table[0] = 0;
        invlpg(0);
        EXPECT_EQ(read_cr3(), (word)table);
        write_cr3(cr3);
    }
#endif
}

TEST(control_cr2)
{
    write_cr2((word)0x123456789abcdef0ull);
    EXPECT_EQ(read_cr2(), (word)0x123456789abcdef0ull);
}

/* --- model-specific registers ------------------------------------------------------------------------ */

TEST(control_unknown_msr)
{
    static const uint32_t unknown[] = {0x2, 0x5f, 0x3fffffff, 0x40000f00, 0xc0000085, 0xc0001fff, 0xffffffff};

    for (unsigned i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        READ_MSR(unknown[i]);
        EXPECT_TRAP_ERROR(GP, 0);
        WRITE_MSR(unknown[i], 0);
        EXPECT_TRAP_ERROR(GP, 0);
        EXPECT_EQ(*(uint8_t *)trap.ip, 0x0f); /* at the WRMSR */
    }
}

TEST(control_msr_values)
{
    uint64_t pat = rdmsr(MSR_PAT);

    /* Memory types 2, 3 and above 7 are reserved. */
    WRITE_MSR(MSR_PAT, (pat & ~7ull) | 2);
    EXPECT_TRAP_ERROR(GP, 0);
    WRITE_MSR(MSR_PAT, (pat & ~7ull) | 8);
    EXPECT_TRAP_ERROR(GP, 0);
    WRITE_MSR(MSR_PAT, (pat & ~7ull) | 5);
    EXPECT_NO_TRAP();
    EXPECT_EQ(rdmsr(MSR_PAT), (pat & ~7ull) | 5);
    wrmsr(MSR_PAT, pat);
    EXPECT_EQ(pat, 0x0007040600070406); /* as at reset */
#ifdef __x86_64__
    {
        static const uint32_t addresses[] = {MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_LSTAR, MSR_CSTAR};

        for (unsigned i = 0; i < 5; i++) {
            WRITE_MSR(addresses[i], 0xffff800000000000);
            EXPECT_NO_TRAP();
            EXPECT_EQ(rdmsr(addresses[i]), 0xffff800000000000);
            WRITE_MSR(addresses[i], 0x800000000000);
            EXPECT_TRAP_ERROR(GP, 0);
            EXPECT_EQ(rdmsr(addresses[i]), 0xffff800000000000);
            wrmsr(addresses[i], 0);
        }
    }
#endif
}

/* --- time ---------------------------------------------------------------------------------------------------- */

CODE(code_rdtsc, "rdtsc\n int $0x80");
TEST(control_tsc)
{
    uint64_t before = rdtsc(), after;
    struct context c;

    for (unsigned i = 0; i < 1000; i++) {
        after = rdtsc();
        EXPECT(after >= before);
        before = after;
    }
    wrmsr(0x10, 1ull << 50); /* IA32_TIME_STAMP_COUNTER */
    after = rdtsc();
    EXPECT(after >= 1ull << 50 && after < (1ull << 50) + 10000000000ull);
    user_init();
    PLACE(USER_CODE, code_rdtsc);
    c = user_context(USER_CODE);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    write_cr4(read_cr4() | CR4_TSD);
    c.ip = USER_CODE;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT(rdtsc() > after); /* the kernel may */
}

/* --- what CPUID shows of the state ------------------------------------------------------------------------------ */

TEST(control_cpuid)
{
    uint32_t regs[4];

    cpuid(0, 0, regs);
    EXPECT(regs[0] >= 7);
    cpuid(0x80000000, 0, regs);
    EXPECT(regs[0] >= 0x80000008 && regs[0] < 0x80000100);
    /* OSXSAVE mirrors CR4. */
    if (cpu_has(1, 0, 2, 26)) {
        EXPECT(!cpu_has(1, 0, 2, 27));
        write_cr4(read_cr4() | CR4_OSXSAVE);
        EXPECT(cpu_has(1, 0, 2, 27));
        write_cr4(read_cr4() & ~(word)CR4_OSXSAVE);
        EXPECT(!cpu_has(1, 0, 2, 27));
    }
    EXPECT(cpu_has(1, 0, 3, 9)); /* the APIC is on */
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~0x800ull);
    EXPECT(!cpu_has(1, 0, 3, 9));
    /* Upper halves are cleared (64-bit). */
    {
        word a = ~0ul, b = ~0ul, c = ~(word)0 << 31 << 1, d = ~0ul;

        a = (word)0x1111111100000000ull;
        asm volatile("cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
        EXPECT_EQ(a >> 16 >> 16, 0);
        EXPECT_EQ(b >> 16 >> 16, 0);
        EXPECT_EQ(c >> 16 >> 16, 0);
        EXPECT_EQ(d >> 16 >> 16, 0);
    }
}

/* --- UMIP -----------------------------------------------------------------------------------------------------------
 */

CODE(code_umip, "sgdt (" BX ")\n nop\n sidt (" BX ")\n nop\n sldt (" BX ")\n nop\n str (" BX ")\n nop\n"
                "smsw (" BX ")\n nop");

TEST(control_umip)
{
    struct context c;

    NEED_UMIP();
    user_init();
    PLACE(USER_CODE, code_umip);
    write_cr4(read_cr4() | CR4_UMIP);
    for (word at = 0; at < CODE_SIZE(code_umip); at += 4) {
        c = user_context(USER_CODE + at);
        c.bx = USER_DATA;
        context_run(&c);
        EXPECT_END_ERROR(&c, GP, 0);
        EXPECT_EQ(c.ip, USER_CODE + at);
    }
    /* The kernel may. */
    {
        struct context k = kernel_context((word)code_umip);

        k.bx = (word)page_new();
        TRY("sgdt %0\n", : "=m"(*(struct table_register *)k.bx));
        EXPECT_NO_TRAP();
    }
}
