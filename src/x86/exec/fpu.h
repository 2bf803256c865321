/*
 * exec/fpu.h: what x87, MMX, SSE and AVX semantics share: whether the unit may be
 * used now, and the few constants of its control words. Knows struct x86_cpu only.
 */
#ifndef X86_EXEC_FPU_H
#define X86_EXEC_FPU_H

#include "x86/cpu.h"
#include "x86/intr.h"

#define FSW_EXCEPTIONS  0x003fu
#define FSW_STACK_FAULT 0x0040u
#define FSW_ES          0x0080u
#define FSW_C1          0x0200u
#define FSW_CC          0x4700u
#define FSW_TOP         0x3800u
#define FSW_TOP_SHIFT   11
#define FSW_B           0x8000u

#define FCW_INIT     0x037fu
#define FCW_WRITABLE 0x1f3fu
#define FCW_FIXED    0x0040u /* reads as 1 */

#define MXCSR_INIT       0x1f80u
#define MXCSR_MASK       0xffffu /* no misaligned-SSE bit: it is not offered */
#define MXCSR_EXCEPTIONS 0x003fu
#define MXCSR_MASK_SHIFT 7
#define MXCSR_MASKS      0x1f80u
#define MXCSR_FTZ        0x8000u
#define EXC_IE           0x01u
#define EXC_DE           0x02u
#define EXC_ZE           0x04u
#define EXC_UE           0x10u
#define EXC_PRE          (EXC_IE | EXC_DE | EXC_ZE) /* found before the result is computed */

static inline unsigned x86_fpu_top(const struct x86_cpu *cpu)
{
    return cpu->fpu.fsw >> FSW_TOP_SHIFT & 7;
}

/* FCW as loaded, with FSW's summary bits following it: they say whether an unmasked exception is pending. */
static inline void x86_fpu_set_control(struct x86_fpu *fpu, uint16_t fcw)
{
    fpu->fcw = (uint16_t)((fcw & FCW_WRITABLE) | FCW_FIXED);
    if (fpu->fsw & ~fpu->fcw & FSW_EXCEPTIONS)
        fpu->fsw |= FSW_ES | FSW_B;
    else
        fpu->fsw &= (uint16_t) ~(FSW_ES | FSW_B);
}

/* Changes TOP; the registers stay what they are, so their places in the stack order change. */
void x86_fpu_set_top(struct x86_cpu *cpu, unsigned top);

/* The state after FNINIT; registers keep their contents. */
static inline void x86_fpu_init(struct x86_cpu *cpu)
{
    x86_fpu_set_top(cpu, 0);
    cpu->fpu.fcw = FCW_INIT;
    cpu->fpu.fsw = cpu->fpu.fop = 0;
    cpu->fpu.ftw = 0;
    cpu->fpu.fip = cpu->fpu.fdp = 0;
    cpu->fcs = cpu->fds = 0;
}

/* May this kind of instruction be executed now? X86_NEXT, or the fault of AMD APM vol. 1, 4.10.1 and 6.8.1. */
static inline enum x86_rc x86_need_sse(struct x86_cpu *cpu)
{
    if (likely(!(cpu->cr0 & (CR0_EM | CR0_TS)) && (cpu->cr4 & CR4_OSFXSR)))
        return X86_NEXT;
    return x86_raise(cpu, (cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR) ? VEC_UD : VEC_NM);
}

static inline enum x86_rc x86_need_avx(struct x86_cpu *cpu)
{
    const uint64_t state = XCR0_SSE | XCR0_AVX;

    if (unlikely(!(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & state) != state))
        return x86_raise(cpu, VEC_UD);
    if (unlikely(cpu->cr0 & CR0_TS))
        return x86_raise(cpu, VEC_NM);
    return X86_NEXT;
}

/* x87 instructions that do not look at pending exceptions (FNINIT, FNSTSW ...). */
static inline enum x86_rc x86_need_x87(struct x86_cpu *cpu)
{
    if (unlikely(cpu->cr0 & (CR0_EM | CR0_TS)))
        return x86_raise(cpu, VEC_NM);
    return X86_NEXT;
}

/* A pending unmasked exception is reported by #MF whatever CR0.NE says: the FERR# line of the PC is not modelled. */
static inline enum x86_rc x86_check_pending(struct x86_cpu *cpu)
{
    if (unlikely(cpu->fpu.fsw & FSW_ES))
        return x86_raise(cpu, VEC_MF);
    return X86_NEXT;
}

static inline enum x86_rc x86_need_x87_waiting(struct x86_cpu *cpu)
{
    enum x86_rc rc = x86_need_x87(cpu);

    return rc ? rc : x86_check_pending(cpu);
}

static inline enum x86_rc x86_need_mmx(struct x86_cpu *cpu)
{
    if (unlikely(cpu->cr0 & (CR0_EM | CR0_TS)))
        return x86_raise(cpu, cpu->cr0 & CR0_EM ? VEC_UD : VEC_NM);
    return x86_check_pending(cpu);
}

/* What every MMX instruction but EMMS does to the x87 state: TOP is 0, all registers valid. */
void x86_mmx_enter(struct x86_cpu *cpu);

#endif
