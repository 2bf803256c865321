/*
 * tests/unit/test_vector.c: what the comparison with the host CPU (tests/isa) cannot show of vector, x87 and MMX
 * instructions: control-register conditions, restarts, modes, saved images, the bound on stubs.
 */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xmmintrin.h>

#include "x86/exec/fpu.h"
#include "x86/exec/native_internal.h"
#include "x86/insn.h"

#define DATA          0x40000u
#define RDI_TO(g, at) ((g)->cpu.gpr[RDI] = (at))

/* Everything on, in 64-bit user mode. */
static void all_on(struct guest *g)
{
    guest_long(g, 3);
    g->cpu.cr0 |= CR0_NE | CR0_MP;
    g->cpu.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    g->cpu.xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    x86_fpu_init(&g->cpu);
    RDI_TO(g, DATA);
}

static bool no_avx(void)
{
    if (!x86_feature(FEATURE_AVX2))
        print_message("this host has no AVX2: not tested\n");
    return !x86_feature(FEATURE_AVX2);
}

static void unmap(struct guest *g, gva_t page)
{
    poke(g, PAGES_AT + 0x3000 + (page >> PAGE_SHIFT) * 8, 0, 8);
    x86_tlb_flush(&g->cpu);
}

/* --- may it be executed now --------------------------------------------------------------- */

enum kind { SSE, AVX, X87, WAITING, MMX, FXSAVE, XSAVE, FWAIT_, KINDS };
static const struct {
    uint8_t bytes[5], length;
} samples[KINDS] = {
    [SSE] = {{0x0f, 0x58, 0xc1}, 3},       /* addps xmm0, xmm1 */
    [AVX] = {{0xc5, 0xf0, 0x58, 0xc2}, 4}, /* vaddps xmm0, xmm1, xmm2 */
    [X87] = {{0xdb, 0xe3}, 2},             /* fninit */
    [WAITING] = {{0xd9, 0xe8}, 2},         /* fld1 */
    [MMX] = {{0x0f, 0xfc, 0xc1}, 3},       /* paddb mm0, mm1 */
    [FXSAVE] = {{0x0f, 0xae, 0x07}, 3},    /* fxsave [rdi] */
    [XSAVE] = {{0x0f, 0xae, 0x27}, 3},     /* xsave [rdi] */
    [FWAIT_] = {{0x9b}, 1},
};

enum { OK = 0xff };

static const struct {
    uint64_t cr0_set, cr4_clear, xcr0;
    uint16_t fsw;
    uint8_t expected[KINDS];
} conditions[] = {
    /*                               SSE     AVX     X87     WAITING MMX     FXSAVE  XSAVE   FWAIT */
    {0, 0, 7, 0, {OK, OK, OK, OK, OK, OK, OK, OK}},
    {CR0_TS, 0, 7, 0, {VEC_NM, VEC_NM, VEC_NM, VEC_NM, VEC_NM, VEC_NM, VEC_NM, VEC_NM}},
    {CR0_EM, 0, 7, 0, {VEC_UD, OK, VEC_NM, VEC_NM, VEC_UD, VEC_NM, OK, OK}},
    {CR0_EM | CR0_TS, 0, 7, 0, {VEC_UD, VEC_NM, VEC_NM, VEC_NM, VEC_UD, VEC_NM, VEC_NM, VEC_NM}},
    {0, CR4_OSFXSR, 7, 0, {VEC_UD, OK, OK, OK, OK, OK, OK, OK}},
    {CR0_TS, CR4_OSXSAVE, 7, 0, {VEC_NM, VEC_UD, VEC_NM, VEC_NM, VEC_NM, VEC_NM, VEC_UD, VEC_NM}},
    {0, 0, 3, 0, {OK, VEC_UD, OK, OK, OK, OK, OK, OK}},
    {0, 0, 7, FSW_ES | 1, {OK, OK, OK, VEC_MF, VEC_MF, OK, OK, VEC_MF}},
    {CR0_TS, 0, 7, FSW_ES | 1, {VEC_NM, VEC_NM, VEC_NM, VEC_NM, VEC_NM, VEC_NM, VEC_NM, VEC_NM}},
};

static void test_conditions(void **state)
{
    struct guest *g = *state;

    for (unsigned c = 0; c < ARRAY_SIZE(conditions); c++) {
        for (unsigned k = 0; k < KINDS; k++) {
            enum x86_rc rc;

            if ((k == AVX || k == XSAVE) && !x86_feature(FEATURE_AVX))
                continue;
            all_on(g);
            g->cpu.cr0 = (g->cpu.cr0 & ~(CR0_TS | CR0_EM)) | conditions[c].cr0_set;
            g->cpu.cr4 &= ~conditions[c].cr4_clear;
            g->cpu.xcr0 = conditions[c].xcr0;
            g->cpu.fpu.fsw = conditions[c].fsw;
            rc = exec_bytes(g, samples[k].bytes, samples[k].length);
            if (conditions[c].expected[k] == OK)
                assert_int_equal(rc, X86_NEXT);
            else
                expect_fault(g, rc, conditions[c].expected[k], 0);
        }
    }
}

static void test_fwait_needs_mp(void **state)
{
    struct guest *g = *state;

    all_on(g);
    g->cpu.cr0 = (g->cpu.cr0 & ~CR0_MP) | CR0_TS;
    assert_int_equal(EXEC_BYTES(g, 0x9b), X86_NEXT);
}

static void test_no_vex_in_real_mode(void **state)
{
    struct guest *g = *state;

    all_on(g);
    g->cpu.cr0 &= ~(CR0_PE | CR0_PG);
    g->cpu.msr.efer = 0;
    x86_update_mode(&g->cpu);
    expect_fault(g, EXEC_BYTES(g, 0xc5, 0xf0, 0x58, 0xc2), VEC_UD, 0);
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x58, 0xc1), X86_NEXT); /* addps */
}

/* --- SIMD floating-point exceptions --------------------------------------------------------- */

static void set_float(struct guest *g, unsigned reg, float value)
{
    memset(g->cpu.fpu.xmm[reg], 0, 16);
    memcpy(g->cpu.fpu.xmm[reg], &value, 4);
}

static void test_unmasked_exception(void **state)
{
    struct guest *g = *state;

    for (int enabled = 0; enabled < 2; enabled++) {
        all_on(g);
        if (!enabled)
            g->cpu.cr4 &= ~CR4_OSXMMEXCPT;
        set_float(g, 0, 1.0f);
        set_float(g, 1, 0.0f);
        g->cpu.fpu.mxcsr = MXCSR_INIT & ~(4u << MXCSR_MASK_SHIFT);
        expect_fault(g, EXEC_BYTES(g, 0xf3, 0x0f, 0x5e, 0xc1), enabled ? VEC_XM : VEC_UD, 0); /* divss */
        assert_int_equal(g->cpu.fpu.mxcsr & MXCSR_EXCEPTIONS, 4);
        assert_int_equal(g->cpu.fpu.xmm[0][3], 0x3f); /* still 1.0 */
    }
}

/* Underflow unmasked: an exact denormal result is an exception too. */
static void test_exact_underflow(void **state)
{
    struct guest *g = *state;

    all_on(g);
    set_float(g, 0, 0x1p-126f);
    set_float(g, 1, 0.5f);
    g->cpu.fpu.mxcsr = MXCSR_INIT;
    assert_int_equal(EXEC_BYTES(g, 0xf3, 0x0f, 0x59, 0xc1), X86_NEXT); /* mulss */
    assert_int_equal(g->cpu.fpu.mxcsr, MXCSR_INIT);
    set_float(g, 0, 0x1p-126f);
    g->cpu.fpu.mxcsr = MXCSR_INIT & ~(EXC_UE << MXCSR_MASK_SHIFT);
    expect_fault(g, EXEC_BYTES(g, 0xf3, 0x0f, 0x59, 0xc1), VEC_XM, 0);
    assert_int_equal(g->cpu.fpu.mxcsr & MXCSR_EXCEPTIONS, EXC_UE);
}

static void test_monitor_control_words(void **state)
{
    struct guest *g = *state;
    unsigned before = _mm_getcsr() & ~MXCSR_EXCEPTIONS;
    uint16_t fcw_before, fcw_after;

    __asm__ volatile("fnstcw %0" : "=m"(fcw_before));
    all_on(g);
    g->cpu.fpu.mxcsr = 0xff80; /* DAZ, FTZ, rounding to zero */
    g->cpu.fpu.fcw = 0x0c7f;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x58, 0xc1), X86_NEXT); /* addps */
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0xe8), X86_NEXT);       /* fld1 */
    assert_int_equal(_mm_getcsr() & ~MXCSR_EXCEPTIONS, before);
    __asm__ volatile("fnstcw %0" : "=m"(fcw_after));
    assert_int_equal(fcw_after, fcw_before);
}

/* --- memory ------------------------------------------------------------------------------------ */

static void test_alignment(void **state)
{
    struct guest *g = *state;

    all_on(g);
    RDI_TO(g, DATA + 8);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x28, 0x07), VEC_GP, 0);       /* movaps */
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x58, 0x07), VEC_GP, 0);       /* addps */
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x10, 0x07), X86_NEXT);       /* movups */
    assert_int_equal(EXEC_BYTES(g, 0xf3, 0x0f, 0x58, 0x07), X86_NEXT); /* addss */
    expect_fault(g, EXEC_BYTES(g, 0x66, 0x0f, 0x7f, 0x07), VEC_GP, 0); /* movdqa store */
    if (no_avx())
        return;
    assert_int_equal(EXEC_BYTES(g, 0xc5, 0xf0, 0x58, 0x07), X86_NEXT); /* vaddps */
    expect_fault(g, EXEC_BYTES(g, 0xc5, 0xfc, 0x28, 0x07), VEC_GP, 0); /* vmovaps ymm */
}

/* Nothing changes when a memory operand faults, however late. */
static void test_fault_changes_nothing(void **state)
{
    struct guest *g = *state;
    struct x86_fpu before;

    all_on(g);
    unmap(g, DATA + 0x1000);
    EXEC_BYTES(g, 0xd9, 0xe8); /* fld1 */
    memset(g->cpu.fpu.xmm, 0x5a, sizeof(g->cpu.fpu.xmm));
    before = g->cpu.fpu;
    RDI_TO(g, DATA + 0xffc);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x10, 0x07), VEC_PF, PF_U);        /* movups xmm0, [rdi] */
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x11, 0x07), VEC_PF, PF_U | PF_W); /* movups [rdi], xmm0 */
    expect_fault(g, EXEC_BYTES(g, 0xdb, 0x3f), VEC_PF, PF_U | PF_W);       /* fstp m80 */
    expect_fault(g, EXEC_BYTES(g, 0xdd, 0x37), VEC_PF, PF_U | PF_W);       /* fnsave */
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x7f, 0x07), VEC_PF, PF_U | PF_W); /* movq [rdi], mm0 */
    assert_int_equal(EXEC_BYTES(g, 0x66, 0x0f, 0xf7, 0xc1), X86_NEXT);     /* maskmovdqu: no byte selected */
    assert_memory_equal(&g->cpu.fpu, &before, sizeof(before));
    assert_int_equal(peek(g, DATA + 0xff8, 8), 0);
}

static void test_mmio_restarts(void **state)
{
    struct guest *g = *state;

    all_on(g);
    poke(g, PAGES_AT + 0x3000 + (DATA >> PAGE_SHIFT) * 8, MIB(2) | 7, 8); /* beyond RAM */
    x86_tlb_flush(&g->cpu);
    memset(g->cpu.fpu.xmm, 0x5a, sizeof(g->cpu.fpu.xmm));
    assert_int_equal(EXEC_BYTES(g, 0xf3, 0x0f, 0x7e, 0x07), X86_EXIT); /* movq xmm0, [rdi] */
    assert_int_equal(g->cpu.fpu.xmm[0][0], 0x5a);
}

/* A store to two pages, the second of which is absent, writes neither; unselected elements do not fault. */
static void test_masked_store(void **state)
{
    struct guest *g = *state;
    static const uint32_t both[4] = {1u << 31, 1u << 31, 1u << 31, 1u << 31}, first[4] = {1u << 31};

    if (no_avx())
        return;
    all_on(g);
    unmap(g, DATA + 0x1000);
    RDI_TO(g, DATA + 0xffc);
    memset(g->cpu.fpu.xmm[2], 0x77, 16);
    memcpy(g->cpu.fpu.xmm[1], both, 16);
    expect_fault(g, EXEC_BYTES(g, 0xc4, 0xe2, 0x71, 0x2e, 0x17), VEC_PF,
                 PF_U | PF_W); /* vmaskmovps [rdi], xmm1, xmm2 */
    assert_int_equal(g->cpu.exc.cr2, DATA + 0x1000);
    assert_int_equal(peek(g, DATA + 0xffc, 4), 0);
    memcpy(g->cpu.fpu.xmm[1], first, 16);
    assert_int_equal(EXEC_BYTES(g, 0xc4, 0xe2, 0x71, 0x2e, 0x17), X86_NEXT);
    assert_int_equal(peek(g, DATA + 0xffc, 4), 0x77777777);
    assert_int_equal(EXEC_BYTES(g, 0xc4, 0xe2, 0x71, 0x2c, 0x1f), X86_NEXT); /* vmaskmovps xmm3, xmm1, [rdi] */
    assert_memory_equal(g->cpu.fpu.xmm[3], "\x77\x77\x77\x77\0\0\0\0\0\0\0\0\0\0\0\0", 16);
}

/* vpgatherdd xmm0, [rdi + xmm2], xmm1: the third element faults; what was loaded is not loaded again. */
static void test_gather_restarts(void **state)
{
    struct guest *g = *state;
    static const uint32_t indexes[4] = {0, 4, 0x1000, 8}, all[4] = {~0u, ~0u, ~0u, ~0u};
    static const uint32_t masks_left[4] = {0, 0, ~0u, ~0u}, loaded[4] = {11, 12, 0, 0}, done[4] = {11, 12, 14, 13};

    if (no_avx())
        return;
    all_on(g);
    poke(g, DATA, 11, 4);
    poke(g, DATA + 4, 12, 4);
    poke(g, DATA + 8, 13, 4);
    poke(g, DATA + 0x1000, 14, 4);
    unmap(g, DATA + 0x1000);
    memcpy(g->cpu.fpu.xmm[1], all, 16);
    memcpy(g->cpu.fpu.xmm[2], indexes, 16);
    expect_fault(g, EXEC_BYTES(g, 0xc4, 0xe2, 0x71, 0x90, 0x04, 0x17), VEC_PF, PF_U);
    assert_memory_equal(g->cpu.fpu.xmm[0], loaded, 16);
    assert_memory_equal(g->cpu.fpu.xmm[1], masks_left, 16);
    poke(g, PAGES_AT + 0x3000 + ((DATA + 0x1000) >> PAGE_SHIFT) * 8, (DATA + 0x1000) | 7, 8);
    poke(g, DATA, 99, 4);
    assert_int_equal(EXEC_BYTES(g, 0xc4, 0xe2, 0x71, 0x90, 0x04, 0x17), X86_NEXT);
    assert_memory_equal(g->cpu.fpu.xmm[0], done, 16);
    assert_true(g->cpu.fpu.xmm[1][15] == 0 && g->cpu.fpu.xmm[1][0] == 0);
}

/* --- modes -------------------------------------------------------------------------------------- */

static void test_registers_of_32_bit_mode(void **state)
{
    struct guest *g = *state;

    if (no_avx())
        return;
    guest_protected(g, 0);
    g->cpu.cr4 = CR4_OSFXSR | CR4_OSXSAVE;
    g->cpu.xcr0 = 7;
    RDI_TO(g, DATA);
    memset(g->cpu.fpu.xmm, 0x5a, sizeof(g->cpu.fpu.xmm));
    memset(g->cpu.fpu.ymm_high, 0x5a, sizeof(g->cpu.fpu.ymm_high));
    assert_int_equal(EXEC_BYTES(g, 0xc5, 0xfc, 0x77), X86_NEXT); /* vzeroall */
    assert_int_equal(g->cpu.fpu.xmm[7][15] | g->cpu.fpu.ymm_high[7][15], 0);
    assert_int_equal(g->cpu.fpu.xmm[8][0] & g->cpu.fpu.ymm_high[8][0], 0x5a);
    memset(g->ram + DATA, 0xee, 512);
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0xae, 0x07), X86_NEXT); /* fxsave */
    assert_int_equal(peek(g, DATA + 160, 8), 0);
    assert_int_equal(peek(g, DATA + 160 + 128, 1), 0xee);
    assert_int_equal(EXEC_BYTES(g, 0xc4, 0xe1, 0xfa, 0x2d, 0xc1), X86_NEXT); /* vcvtss2si eax, xmm1: VEX.W ignored */
}

/* --- x87 ---------------------------------------------------------------------------------------- */

static void test_unmasked_x87(void **state)
{
    struct guest *g = *state;
    uint16_t fcw = 0x0340;

    all_on(g);
    poke(g, DATA, fcw, 2);
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0x2f), X86_NEXT); /* fldcw [rdi] */
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0xee), X86_NEXT); /* fldz */
    assert_int_equal(EXEC_BYTES(g, 0xd8, 0xf0), X86_NEXT); /* fdiv st0, st0: invalid, reported later */
    assert_int_equal(g->cpu.fpu.fsw & (FSW_ES | 0x3f), FSW_ES | 1);
    assert_int_equal(g->cpu.fpu.fip, CODE_AT + 4);
    expect_fault(g, EXEC_BYTES(g, 0xd9, 0xe8), VEC_MF, 0); /* fld1 */
    assert_int_equal(EXEC_BYTES(g, 0xdf, 0xe0), X86_NEXT); /* fnstsw ax */
    assert_int_equal(g->cpu.gpr[RAX] & 0xffff, g->cpu.fpu.fsw);
    assert_int_equal(EXEC_BYTES(g, 0xdb, 0xe2), X86_NEXT); /* fnclex */
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0xe8), X86_NEXT);
}

/* An unmasked invalid operation: the integer is not stored, the stack not popped. */
static void test_suppressed_store(void **state)
{
    struct guest *g = *state;

    all_on(g);
    g->cpu.fpu.fcw = 0x037e;
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0xe8), X86_NEXT); /* fld1 */
    memset(g->cpu.fpu.st[0], 0xff, 10);                    /* a NaN */
    poke(g, DATA, 0x1234, 2);
    assert_int_equal(EXEC_BYTES(g, 0xdf, 0x1f), X86_NEXT); /* fistp word [rdi] */
    assert_int_equal(peek(g, DATA, 2), 0x1234);
    assert_int_equal(x86_fpu_top(&g->cpu), 7);
    assert_true(g->cpu.fpu.fsw & FSW_ES);
}

static void test_environment(void **state)
{
    struct guest *g = *state;

    all_on(g);
    RDI_TO(g, DATA + 64);
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0x07), X86_NEXT); /* fld dword [rdi]: 0 */
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0xe8), X86_NEXT); /* fld1 */
    RDI_TO(g, DATA);
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0x37), X86_NEXT); /* fnstenv [rdi] */
    assert_int_equal(peek(g, DATA, 4), 0xffff037f);
    assert_int_equal(peek(g, DATA + 4, 4), 0xffff3000);
    assert_int_equal(peek(g, DATA + 8, 4), 0xffff4fff);   /* R7 zero, R6 valid, the others empty */
    assert_int_equal(peek(g, DATA + 12, 4), CODE_AT + 2); /* FIP: of FLD1 */
    assert_int_equal(peek(g, DATA + 16, 4), 0x01e80000u | USER64);
    assert_int_equal(peek(g, DATA + 20, 4), DATA + 64); /* FDP: of FLD */
    assert_int_equal(peek(g, DATA + 24, 4), 0xffff0000u | DATA3);

    /* The 16-bit format in real mode: linear addresses. */
    g->cpu.cr0 &= ~(CR0_PE | CR0_PG);
    g->cpu.msr.efer = 0;
    g->cpu.seg[SEG_CS].selector = 0x1000;
    g->cpu.seg[SEG_CS].base = 0x10000;
    x86_update_mode(&g->cpu);
    g->cpu.rip = 0x123;
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0xe8), X86_NEXT);
    g->cpu.gpr[RBX] = 0x200;
    g->cpu.seg[SEG_DS] = (struct x86_segment){0, 0xffff, 0, ATTR_P | ATTR_S | ATTR_WRITABLE};
    x86_update_mode(&g->cpu);
    assert_int_equal(EXEC_BYTES(g, 0xd9, 0x37), X86_NEXT); /* fnstenv [bx] */
    assert_int_equal(peek(g, 0x200 + 6, 2), 0x0123);
    assert_int_equal(peek(g, 0x200 + 8, 2), 0x11e8);
}

static void test_mmx_state(void **state)
{
    struct guest *g = *state;

    all_on(g);
    EXEC_BYTES(g, 0xd9, 0xe8);                                   /* fld1: R7 */
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0xef, 0xc0), X86_NEXT); /* pxor mm0, mm0 */
    assert_int_equal(x86_fpu_top(&g->cpu), 0);
    assert_int_equal(g->cpu.fpu.ftw, 0xff);
    assert_memory_equal(g->cpu.fpu.st[0], "\0\0\0\0\0\0\0\0\xff\xff", 10);
    assert_int_equal(g->cpu.fpu.st[7][7], 0x80);           /* 1.0 is MM7's now */
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x77), X86_NEXT); /* emms */
    assert_int_equal(g->cpu.fpu.ftw, 0);
}

/* --- saved images ------------------------------------------------------------------------------------ */

static void test_fxsave(void **state)
{
    struct guest *g = *state;
    struct x86_fpu before;

    all_on(g);
    EXEC_BYTES(g, 0xd9, 0xe8);
    memset(g->cpu.fpu.xmm, 0x5a, sizeof(g->cpu.fpu.xmm));
    memset(g->ram + DATA, 0xee, 512);
    before = g->cpu.fpu;
    assert_int_equal(EXEC_BYTES(g, 0x48, 0x0f, 0xae, 0x07), X86_NEXT); /* fxsave64 */
    assert_int_equal(peek(g, DATA + 28, 4), MXCSR_MASK);
    assert_int_equal(peek(g, DATA + 416, 1), 0xee); /* beyond XMM15: not touched */
    memset(g->cpu.fpu.xmm, 0, sizeof(g->cpu.fpu.xmm));
    assert_int_equal(EXEC_BYTES(g, 0xdb, 0xe3), X86_NEXT);             /* fninit */
    assert_int_equal(EXEC_BYTES(g, 0x48, 0x0f, 0xae, 0x0f), X86_NEXT); /* fxrstor64 */
    assert_memory_equal(g->cpu.fpu.xmm, before.xmm, sizeof(before.xmm));
    assert_memory_equal(g->cpu.fpu.st, before.st, sizeof(before.st));
    assert_int_equal(g->cpu.fpu.ftw, 0x80);
    poke(g, DATA + 24, 0x10000, 4);
    expect_fault(g, EXEC_BYTES(g, 0x48, 0x0f, 0xae, 0x0f), VEC_GP, 0); /* reserved MXCSR bit */
    RDI_TO(g, DATA + 8);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0xae, 0x07), VEC_GP, 0);
}

static void set_mask(struct guest *g, uint64_t mask)
{
    g->cpu.gpr[RAX] = (uint32_t)mask;
    g->cpu.gpr[RDX] = mask >> 32;
}

static void test_xsave(void **state)
{
    struct guest *g = *state;

    if (no_avx())
        return;
    all_on(g);
    set_mask(g, ~0ull);
    memset(g->cpu.fpu.xmm, 0x5a, sizeof(g->cpu.fpu.xmm));
    memset(g->cpu.fpu.st, 0, sizeof(g->cpu.fpu.st));
    memset(g->ram + DATA, 0, 1024);
    poke(g, DATA + 512, 1u << 9, 8);                             /* a component of another's: kept */
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0xae, 0x27), X86_NEXT); /* xsave: x87 and AVX are initial */
    assert_int_equal(peek(g, DATA + 512, 8), 1u << 9 | XCR0_SSE);
    assert_int_equal(peek(g, DATA + 160, 1), 0x5a);

    /* Bits clear in XSTATE_BV: initial values. */
    poke(g, DATA + 512, XCR0_SSE, 8);
    memset(g->cpu.fpu.ymm_high, 0x77, sizeof(g->cpu.fpu.ymm_high));
    memset(g->cpu.fpu.xmm, 0, sizeof(g->cpu.fpu.xmm));
    EXEC_BYTES(g, 0xd9, 0xe8);
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0xae, 0x2f), X86_NEXT); /* xrstor */
    assert_int_equal(g->cpu.fpu.ymm_high[15][15], 0);
    assert_int_equal(g->cpu.fpu.xmm[15][15], 0x5a);
    assert_int_equal(g->cpu.fpu.ftw, 0);
    assert_int_equal(g->cpu.fpu.fcw, FCW_INIT);

    /* Only what EDX:EAX asks for. */
    set_mask(g, XCR0_X87);
    memset(g->cpu.fpu.xmm, 0x11, sizeof(g->cpu.fpu.xmm));
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0xae, 0x2f), X86_NEXT);
    assert_int_equal(g->cpu.fpu.xmm[3][3], 0x11);
}

static void test_xrstor_refuses(void **state)
{
    static const struct {
        uint64_t xstate_bv, xcomp_bv, reserved;
    } headers[] = {
        {BIT(3), 0, 0}, {1, 1, 0}, {0, 0, 1}, {1, BIT(63) | 2, 0}, {0, BIT(63) | BIT(9), 0}, {0, BIT(63) | 7, 1},
    };
    struct guest *g = *state;

    if (no_avx())
        return;
    all_on(g);
    set_mask(g, 7);
    for (unsigned i = 0; i < ARRAY_SIZE(headers); i++) {
        poke(g, DATA + 512, headers[i].xstate_bv, 8);
        poke(g, DATA + 520, headers[i].xcomp_bv, 8);
        poke(g, DATA + 528, headers[i].reserved, 8);
        expect_fault(g, EXEC_BYTES(g, 0x0f, 0xae, 0x2f), VEC_GP, 0);
    }
    RDI_TO(g, DATA + 16);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0xae, 0x27), VEC_GP, 0); /* xsave: 64-byte alignment */
}

static void test_xsavec(void **state)
{
    struct guest *g = *state;

    if (no_avx() || !x86_feature(FEATURE_XSAVEC))
        return;
    all_on(g);
    set_mask(g, 6);
    memset(g->cpu.fpu.ymm_high, 0x33, sizeof(g->cpu.fpu.ymm_high));
    memset(g->cpu.fpu.xmm, 0, sizeof(g->cpu.fpu.xmm));
    g->cpu.fpu.mxcsr = 0x1fa0;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0xc7, 0x27), X86_NEXT);
    assert_int_equal(peek(g, DATA + 512, 8), 6); /* MXCSR is not initial, so neither is SSE */
    assert_int_equal(peek(g, DATA + 520, 8), BIT(63) | 6);
    assert_int_equal(peek(g, DATA + 576, 1), 0x33);
    memset(g->cpu.fpu.ymm_high, 0, sizeof(g->cpu.fpu.ymm_high));
    g->cpu.fpu.mxcsr = MXCSR_INIT;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0xae, 0x2f), X86_NEXT);
    assert_int_equal(g->cpu.fpu.ymm_high[0][0], 0x33);
    assert_int_equal(g->cpu.fpu.mxcsr, 0x1fa0);
}

static void test_xsetbv(void **state)
{
    static const struct {
        uint64_t value;
        uint32_t index;
        bool good;
    } cases[] = {{7, 0, true},  {3, 0, true},  {1, 0, true},           {6, 0, false},
                 {5, 0, false}, {0, 0, false}, {BIT(9) | 7, 0, false}, {7, 1, false}};
    struct guest *g = *state;

    if (no_avx())
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        enum x86_rc rc;

        all_on(g);
        guest_long(g, 0);
        g->cpu.cr4 |= CR4_OSXSAVE;
        g->cpu.gpr[RCX] = cases[i].index;
        set_mask(g, cases[i].value);
        rc = EXEC_BYTES(g, 0x0f, 0x01, 0xd1);
        if (cases[i].good) {
            assert_int_equal(rc, X86_NEXT);
            assert_int_equal(g->cpu.xcr0, cases[i].value);
        } else {
            expect_fault(g, rc, VEC_GP, 0);
        }
    }
    all_on(g);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x01, 0xd1), VEC_GP, 0); /* CPL 3 */
    g->cpu.gpr[RCX] = 0;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x01, 0xd0), X86_NEXT); /* xgetbv */
    assert_int_equal(g->cpu.gpr[RAX], 7);
}

/* --- stubs --------------------------------------------------------------------------------------------- */

static void decode_all_immediates(uint8_t *bytes, unsigned at, unsigned length)
{
    struct x86_insn in;

    for (unsigned imm = 0; imm < 256; imm++) {
        bytes[at] = (uint8_t)imm;
        if (x86_decode(&in, MODE_LONG64, bytes, length) != at + 1)
            return; /* has none */
    }
}

/* Every opcode, operand kind and immediate: the most that a guest can make. There must be room for all. */
static void test_stubs_are_bounded(void **state)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf2, 0xf3}, modrm[2] = {0x07, 0xc0};
    unsigned at;
    uint8_t b[16];

    for (unsigned p = 0; p < 4; p++) {
        for (unsigned v = 0; v < 3 * 2 * 256 * 16; v++) {
            unsigned map = v / (2 * 256 * 16) + 1, w = v / (256 * 16) % 2, opcode = v / 16 % 256, form = v % 16;
            uint8_t rm = (uint8_t)(modrm[form / 8] | (form % 8) << 3);

            memset(b, 0, sizeof(b));
            at = 0;
            if (prefixes[p])
                b[at++] = prefixes[p];
            if (w)
                b[at++] = 0x48;
            b[at++] = 0x0f;
            if (map > 1)
                b[at++] = map == 2 ? 0x38 : 0x3a;
            b[at++] = (uint8_t)opcode;
            b[at++] = rm;
            if (opcode != 0x0f || map > 1) /* 3DNow!: the immediate is the opcode */
                decode_all_immediates(b, at, 15);
            for (unsigned l = 0; l < 4; l++) {
                memset(b, 0, sizeof(b));
                b[0] = 0xc4;
                b[1] = (uint8_t)(0xe0 | map);
                b[2] = (uint8_t)(w << 7 | (l & 1 ? 0x78 : 0x68) | (l & 2) << 1 | p);
                b[3] = (uint8_t)opcode;
                b[4] = rm;
                decode_all_immediates(b, 5, 15);
            }
        }
    }
    print_message("%u stubs\n", x86_stub_count());
    assert_true(x86_stub_count() > 1000);
    /* One more can still be made: FADD, which was not among them. */
    all_on(*state);
    assert_int_equal(EXEC_BYTES((struct guest *)*state, 0xd8, 0xc0), X86_NEXT);
}

static void test_never_writable_and_executable(void **state)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    unsigned seen = 0;

    all_on(*state);
    EXEC_BYTES((struct guest *)*state, 0x0f, 0x58, 0xc1);
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps)) {
        if (!strstr(line, "trapeze-stubs"))
            continue;
        seen++;
        assert_false(strstr(line, "rwx") || strstr(line, " -wx"));
    }
    fclose(maps);
    assert_int_equal(seen, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_conditions),
        TEST(test_fwait_needs_mp),
        TEST(test_no_vex_in_real_mode),
        TEST(test_unmasked_exception),
        TEST(test_exact_underflow),
        TEST(test_monitor_control_words),
        TEST(test_alignment),
        TEST(test_fault_changes_nothing),
        TEST(test_mmio_restarts),
        TEST(test_masked_store),
        TEST(test_gather_restarts),
        TEST(test_registers_of_32_bit_mode),
        TEST(test_unmasked_x87),
        TEST(test_suppressed_store),
        TEST(test_environment),
        TEST(test_mmx_state),
        TEST(test_fxsave),
        TEST(test_xsave),
        TEST(test_xrstor_refuses),
        TEST(test_xsavec),
        TEST(test_xsetbv),
        TEST(test_never_writable_and_executable),
        TEST(test_stubs_are_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
