/* exec/simd_dot.c: see simd_dot.h. */
#include "x86/exec/simd_dot.h"

#include <string.h>

#include "x86/exec/fpu.h"

typedef float vector __attribute__((vector_size(16))); /* 16 bytes of either kind */

bool x86_is_tiny(const uint8_t *p, unsigned size)
{
    uint64_t bits = 0, magnitude;
    unsigned fraction = size == 8 ? 52 : size == 4 ? 23 : 10;

    memcpy(&bits, p, size);
    magnitude = bits & ~BIT(8 * size - 1);
    return magnitude && !(magnitude >> fraction);
}

static uint32_t unmasked(uint32_t mxcsr)
{
    return ~(mxcsr >> MXCSR_MASK_SHIFT) & MXCSR_EXCEPTIONS;
}

uint32_t x86_flagged(uint32_t raised, uint32_t mxcsr)
{
    return raised & unmasked(mxcsr) & EXC_PRE ? raised & EXC_PRE : raised;
}

/* x = x op y under control, which has everything masked; the exceptions raised. */
#define STEP(insn)                                                                                                     \
    __asm__ volatile("ldmxcsr %1\n\t" insn " %2, %0\n\tstmxcsr %1\n\tldmxcsr %3"                                       \
                     : "+x"(value), "+m"(control)                                                                      \
                     : "x"(other), "m"(monitor))

static uint32_t step(bool multiply, unsigned size, uint32_t mxcsr, uint8_t x[16], const uint8_t y[16])
{
    const uint32_t monitor = MXCSR_INIT;
    uint32_t control = (mxcsr & ~(MXCSR_EXCEPTIONS | (unmasked(mxcsr) & EXC_UE ? MXCSR_FTZ : 0))) | MXCSR_MASKS;
    uint32_t raised;
    vector value, other;

    memcpy(&value, x, 16);
    memcpy(&other, y, 16);
    if (multiply && size == 4)
        STEP("mulps");
    else if (multiply)
        STEP("mulpd");
    else if (size == 4)
        STEP("addps");
    else
        STEP("addpd");
    memcpy(x, &value, 16);
    raised = control & MXCSR_EXCEPTIONS;
    for (unsigned i = 0; (unmasked(mxcsr) & EXC_UE) && i < 16; i += size)
        if (x86_is_tiny(x + i, size))
            raised |= EXC_UE;
    return raised;
}

/* The even elements of x are added to its odd ones: half as many remain. */
static uint32_t add_pairs(unsigned size, uint32_t mxcsr, uint8_t x[16])
{
    uint8_t even[16] = {0}, odd[16] = {0};
    uint32_t raised;

    for (unsigned i = 0; i < 16 / size / 2; i++) {
        memcpy(even + i * size, x + 2 * i * size, size);
        memcpy(odd + i * size, x + (2 * i + 1) * size, size);
    }
    raised = step(false, size, mxcsr, even, odd);
    memcpy(x, even, 16);
    return raised;
}

uint32_t x86_dot_exceptions(const uint8_t *const a[2], const uint8_t *const b[2], unsigned lanes, unsigned size,
                            unsigned imm, uint32_t mxcsr)
{
    uint8_t x[2][16] = {{0}}, y[16];
    uint32_t raised = 0, flagged;

    for (unsigned lane = 0; lane < lanes; lane++) {
        memset(y, 0, sizeof(y));
        for (unsigned i = 0; i < 16 / size; i++) { /* what imm leaves out is zero */
            if (!(imm >> (4 + i) & 1))
                continue;
            memcpy(x[lane] + i * size, a[lane] + i * size, size);
            memcpy(y + i * size, b[lane] + i * size, size);
        }
        raised |= step(true, size, mxcsr, x[lane], y);
    }
    flagged = x86_flagged(raised, mxcsr);
    for (unsigned left = 16 / size; left > 1 && !(flagged & unmasked(mxcsr)); left /= 2) {
        raised = 0;
        for (unsigned lane = 0; lane < lanes; lane++)
            raised |= add_pairs(size, mxcsr, x[lane]);
        flagged |= x86_flagged(raised, mxcsr);
    }
    return flagged;
}
