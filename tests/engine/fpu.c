/*
 * fpu.c: floating-point exceptions as the system sees them, FXSAVE and XSAVE
 * images, lazy switching (SDM vol. 1, 8.6, 11.5, 13.7; AMD APM vol. 2, 11).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

static uint8_t area[4096] __attribute__((aligned(64)));

static void on(void)
{
    write_cr0((read_cr0() & ~(word)(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    asm volatile("fninit");
}

static void xcr0(uint32_t index, uint64_t value)
{
    TRY("xsetbv", : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

/* An unmasked x87 exception waits for the next waiting instruction. */
TEST(fpu_x87_exception)
{
    uint16_t control = 0x37b, status = 0; /* zero divide unmasked */

    on();
    TRY("fldcw %0\n fld1\n fldz\n fdivrp", : : "m"(control));
    EXPECT_NO_TRAP();
    TRY("fnstsw %0", : "=m"(status));
    EXPECT_NO_TRAP();
    EXPECT_EQ(status & 0x84, 0x84); /* ES, ZE */
    TRY("fwait");
    EXPECT_TRAP(MF);
    EXPECT_EQ(trap.error, 0);
    TRY("fld1");
    EXPECT_TRAP(MF);
    TRY("fnclex\n fld1\n fwait");
    EXPECT_NO_TRAP();
}

/* An unmasked SSE exception is a fault of the instruction itself; without OSXMMEXCPT it is #UD. */
TEST(fpu_sse_exception)
{
    static const uint32_t one = 0x3f800000, zero = 0;
    uint32_t mxcsr = 0x1f80 & ~0x200u, result = 0; /* zero divide unmasked */

    on();
    TRY("ldmxcsr %0\n movss %1, %%xmm0\n divss %2, %%xmm0", : : "m"(mxcsr), "m"(one), "m"(zero));
    EXPECT_TRAP(XM);
    TRY("movss %%xmm0, %0", : "=m"(result));
    EXPECT_EQ(result, one); /* the destination stays */
    asm volatile("stmxcsr %0" : "=m"(mxcsr));
    EXPECT_EQ(mxcsr & 0x3f, 4);
    write_cr4(read_cr4() & ~(word)CR4_OSXMMEXCPT);
    TRY("divss %0, %%xmm0", : : "m"(zero));
    EXPECT_TRAP(UD);
    mxcsr = 0x1f80;
    TRY("ldmxcsr %0\n divss %1, %%xmm0", : : "m"(mxcsr), "m"(zero));
    EXPECT_NO_TRAP();
}

TEST(fpu_mxcsr_reserved)
{
    uint32_t mxcsr = 0x10000;

    on();
    TRY("ldmxcsr %0", : : "m"(mxcsr));
    EXPECT_TRAP_ERROR(GP, 0);
    asm volatile("fxsave %0" : "=m"(area));
    *(uint32_t *)(area + 24) = 0x80000000;
    TRY("fxrstor %0", : : "m"(area));
    EXPECT_TRAP_ERROR(GP, 0);
    asm volatile("stmxcsr %0" : "=m"(mxcsr));
    EXPECT_EQ(mxcsr, 0x1f80);
}

/* The whole state goes through FXSAVE and back. */
TEST(fpu_fxsave)
{
    static uint8_t second[512] __attribute__((aligned(16)));
    uint32_t value = 0x12345678;

    on();
    asm volatile("fld1\n fldpi\n fldz\n movd %0, %%xmm3\n movd %0, %%xmm7" : : "m"(value));
    memset(area, 0, 512);
    asm volatile("fxsave %0" : "=m"(area));
    EXPECT_EQ(*(uint16_t *)area, 0x37f);
    EXPECT_EQ(*(uint16_t *)(area + 2) >> 11 & 7, 5);      /* TOP */
    EXPECT_EQ(area[4], 0xe0);                             /* three not empty */
    EXPECT_EQ(*(uint16_t *)(area + 32 + 16 + 8), 0x4000); /* ST1: pi's exponent */
    EXPECT_EQ(*(uint32_t *)(area + 160 + 3 * 16), value);
    asm volatile("fninit\n pxor %xmm3, %xmm3\n pxor %xmm7, %xmm7");
    asm volatile("fxrstor %1\n fxsave %0" : "=m"(second) : "m"(area));
    EXPECT_EQ(memcmp(area, second, 160 + (LONG_MODE ? 256 : 128)), 0);
}

/* Lazy switching: the first instruction after TS = 1 faults; after CLTS it sees the old registers. */
TEST(fpu_lazy_switch)
{
    uint32_t value = 0x55aa, seen = 0;

    on();
    asm volatile("movd %0, %%xmm1" : : "m"(value));
    write_cr0(read_cr0() | CR0_TS);
    TRY("movd %%xmm1, %0", : "=m"(seen));
    EXPECT_TRAP(NM);
    TRY("fnstsw %%ax", : : : "eax");
    EXPECT_TRAP(NM);
    TRY("clts\n movd %%xmm1, %0", : "=m"(seen));
    EXPECT_NO_TRAP();
    EXPECT_EQ(seen, value);
}

/* --- XSAVE ------------------------------------------------------------------------------------------- */

TEST(fpu_xcr0)
{
    uint32_t lo = 0;
    bool avx;

    NEED_XSAVE();
    avx = cpu_has(1, 0, 2, 28);
    on();
    TRY("xgetbv", : "=a"(lo) : "c"(0) : "edx");
    EXPECT_TRAP(UD); /* CR4.OSXSAVE is 0 */
    xcr0(0, 3);
    EXPECT_TRAP(UD);
    TRY("xsave %0", : : "m"(area), "a"(3), "d"(0));
    EXPECT_TRAP(UD);
    write_cr4(read_cr4() | CR4_OSXSAVE);
    TRY("xgetbv", : "=a"(lo) : "c"(0) : "edx");
    EXPECT_NO_TRAP();
    EXPECT_EQ(lo, 1);
    xcr0(0, 0); /* x87 is a must */
    EXPECT_TRAP_ERROR(GP, 0);
    xcr0(0, 2);
    EXPECT_TRAP_ERROR(GP, 0);
    xcr0(0, 5); /* AVX without SSE */
    EXPECT_TRAP_ERROR(GP, 0);
    xcr0(0, 1ull << 62);
    EXPECT_TRAP_ERROR(GP, 0);
    xcr0(1, 3);
    EXPECT_TRAP_ERROR(GP, 0);
    xcr0(0, avx ? 7 : 3);
    EXPECT_NO_TRAP();
    TRY("xgetbv", : "=a"(lo) : "c"(0) : "edx");
    EXPECT_EQ(lo, avx ? 7 : 3);
    TRY("xgetbv", : : "c"(7) : "eax", "edx");
    EXPECT_TRAP_ERROR(GP, 0);
}

/* CPUID leaf 0Dh: what is enabled, what could be. */
TEST(fpu_cpuid_sizes)
{
    uint32_t regs[4];

    NEED_XSAVE();
    on();
    write_cr4(read_cr4() | CR4_OSXSAVE);
    cpuid(13, 0, regs);
    EXPECT_EQ(regs[0] & 3, 3);
    EXPECT_EQ(regs[1], 576);
    EXPECT(regs[2] >= 576);
    if (cpu_has(1, 0, 2, 28)) {
        EXPECT_EQ(regs[0] & 4, 4);
        EXPECT(regs[2] >= 832);
        xcr0(0, 7);
        cpuid(13, 0, regs);
        EXPECT_EQ(regs[1], 832);
        cpuid(13, 2, regs);
        EXPECT_EQ(regs[0], 256);
        EXPECT_EQ(regs[1], 576);
    }
}

/* AVX needs its bit of XCR0. */
TEST(fpu_avx_enable)
{
    NEED_XSAVE();
    need("avx", 1, 0, 2, 28);
    on();
    TRY("vxorps %%ymm0, %%ymm0, %%ymm0", :);
    EXPECT_TRAP(UD);
    write_cr4(read_cr4() | CR4_OSXSAVE);
    xcr0(0, 3);
    TRY("vxorps %%ymm0, %%ymm0, %%ymm0", :);
    EXPECT_TRAP(UD);
    xcr0(0, 7);
    TRY("vxorps %%ymm0, %%ymm0, %%ymm0", :);
    EXPECT_NO_TRAP();
    write_cr0(read_cr0() | CR0_TS);
    TRY("vxorps %%ymm0, %%ymm0, %%ymm0", :);
    EXPECT_TRAP(NM);
}

/* A register in an immediate's upper half: XMM9, or XMM1 outside 64-bit mode (SDM vol. 2, 2.3.8). The mask is 0: XMM3
 * becomes XMM4. Then it is -1: XMM5. */
CODE(code_is4, "vpxor %xmm1, %xmm1, %xmm1\n vpcmpeqd %xmm4, %xmm4, %xmm4\n vpxor %xmm5, %xmm5, %xmm5\n"
#ifdef __x86_64__
               "vpxor %xmm9, %xmm9, %xmm9\n"
#endif
               "1: .byte 0xc4, 0xe3, 0x59, 0x4a, 0xdd, 0x90\n" /* vblendvps xmm3, xmm4, xmm5, is4 */
               "vmovd %xmm3, %edx\n add %edx, %eax\n"
               "vpcmpeqd %xmm1, %xmm1, %xmm1\n"
#ifdef __x86_64__
               "vpcmpeqd %xmm9, %xmm9, %xmm9\n"
#endif
               "dec %ecx\n jnz 1b\n int $0x80");
TEST(fpu_is4)
{
    struct context c;

    NEED_XSAVE();
    need("avx", 1, 0, 2, 28);
    on();
    write_cr4(read_cr4() | CR4_OSXSAVE);
    xcr0(0, 7);
    for (unsigned round = 0; round < HOT; round++) {
        c = kernel_context((word)code_is4);
        c.ax = 0;
        c.cx = 3;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ((uint32_t)c.ax, 0xffffffff); /* -1 in the first round, 0 in the others */
    }
}

TEST(fpu_xsave_faults)
{
    NEED_XSAVE();
    on();
    write_cr4(read_cr4() | CR4_OSXSAVE);
    xcr0(0, 3);
    TRY("xsave %0", : : "m"(area[16]), "a"(3), "d"(0) : "memory");
    EXPECT_TRAP_ERROR(GP, 0); /* not aligned to 64 */
    TRY("xsave %0", : : "m"(area), "a"(3), "d"(0) : "memory");
    EXPECT_NO_TRAP();
    TRY("xrstor %0", : : "m"(area), "a"(3), "d"(0) : "memory");
    EXPECT_NO_TRAP();
    /* The header: unknown components, XCOMP_BV of the standard form, reserved bytes. */
    area[512] = 0x07;
    TRY("xrstor %0", : : "m"(area), "a"(3), "d"(0) : "memory");
    EXPECT_TRAP_ERROR(GP, 0);
    area[512] = 0x03;
    area[520] = 1;
    TRY("xrstor %0", : : "m"(area), "a"(3), "d"(0) : "memory");
    EXPECT_TRAP_ERROR(GP, 0);
    area[520] = 0;
    area[528] = 1;
    TRY("xrstor %0", : : "m"(area), "a"(3), "d"(0) : "memory");
    EXPECT_TRAP_ERROR(GP, 0);
    area[528] = 0;
    *(uint32_t *)(area + 24) = 0xffff0000; /* MXCSR */
    TRY("xrstor %0", : : "m"(area), "a"(3), "d"(0) : "memory");
    EXPECT_TRAP_ERROR(GP, 0);
    write_cr0(read_cr0() | CR0_TS);
    TRY("xsave %0", : : "m"(area), "a"(3), "d"(0) : "memory");
    EXPECT_TRAP(NM);
}

/* XRSTOR puts components that the header does not hold into their initial state. */
TEST(fpu_xrstor_init)
{
    uint32_t value = 0x1234, seen = 1;
    uint16_t control = 0x27f, seen_control = 0;

    NEED_XSAVE();
    on();
    write_cr4(read_cr4() | CR4_OSXSAVE);
    xcr0(0, 3);
    memset(area, 0, 576);
    *(uint32_t *)(area + 24) = 0x1f80;
    area[512] = 0; /* nothing in it */
    TRY("movd %0, %%xmm2\n fldcw %1\n xrstor %2", : : "m"(value), "m"(control), "m"(area), "a"(3), "d"(0) : "memory");
    EXPECT_NO_TRAP();
    TRY("movd %%xmm2, %0\n fnstcw %1", : "=m"(seen), "=m"(seen_control));
    EXPECT_EQ(seen, 0);
    EXPECT_EQ(seen_control, 0x37f);
    /* What the mask leaves out stays. */
    TRY("movd %0, %%xmm2\n fldcw %1\n xrstor %2", : : "m"(value), "m"(control), "m"(area), "a"(1), "d"(0) : "memory");
    TRY("movd %%xmm2, %0\n fnstcw %1", : "=m"(seen), "=m"(seen_control));
    EXPECT_EQ(seen, value);
    EXPECT_EQ(seen_control, 0x37f);
}
