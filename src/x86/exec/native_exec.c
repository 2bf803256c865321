/*
 * exec/native_exec.c: executing stubs: checks, the memory operand through its
 * buffer, SIMD floating-point exceptions, MMX's side effects. Knows stubs, not
 * how they are made.
 */
#include <string.h>

#include "x86/exec/fpu.h"
#include "x86/exec/native_internal.h"
#include "x86/exec/probe.h"
#include "x86/exec/simd_dot.h"

#define BUFFER_SIZE 64

static inline void *operand(struct x86_cpu *cpu, const struct x86_insn *in, enum x86_position position)
{
    unsigned value = x86_native_operand(in, position);

    if (unlikely(value & OPERAND_MMX))
        return cpu->fpu.st[((value & 7) - x86_fpu_top(cpu)) & 7];
    return (uint8_t *)cpu + value;
}

static inline uint64_t run(struct x86_cpu *cpu, const struct x86_insn *in, const struct x86_stub *stub, void *buffer)
{
    return stub->run(buffer, operand(cpu, in, POSITION_REG), operand(cpu, in, POSITION_VVVV),
                     operand(cpu, in, POSITION_RM), cpu, operand(cpu, in, POSITION_IS4));
}

/* --- SIMD floating-point exceptions ------------------------------------------------ */

static const uint8_t *high_half(const uint8_t *xmm)
{
    return xmm + offsetof(struct x86_fpu, ymm_high) - offsetof(struct x86_fpu, xmm);
}

static bool has_tiny_result(struct x86_cpu *cpu, const struct x86_insn *in, const uint8_t *buffer)
{
    const struct x86_stub *stub = in->native;
    const uint8_t *low, *high;
    bool memory = stub->tiny_position == POSITION_MEM;

    if (!stub->tiny_size)
        return false;
    low = memory ? buffer : operand(cpu, in, stub->tiny_position);
    high = memory ? buffer + 16 : high_half(low);
    for (unsigned i = 0; i < stub->tiny_count; i++) {
        unsigned at = i * stub->tiny_size;

        if (x86_is_tiny(at < 16 ? low + at : high + at - 16, stub->tiny_size))
            return true;
    }
    return false;
}

static uint32_t dot_exceptions(struct x86_cpu *cpu, const struct x86_insn *in, const uint8_t *buffer, uint32_t mxcsr)
{
    const struct x86_stub *stub = in->native;
    const uint8_t *a = operand(cpu, in, stub->flags & STUB_VEX ? POSITION_VVVV : POSITION_REG);
    const uint8_t *b = stub->flags & STUB_LOAD ? buffer : operand(cpu, in, POSITION_RM);
    const uint8_t *const left[2] = {a, high_half(a)};
    const uint8_t *const right[2] = {b, stub->flags & STUB_LOAD ? buffer + 16 : high_half(b)};

    return x86_dot_exceptions(left, right, in->flags & INSN_VEX_L ? 2 : 1, stub->dot_size, stub->imm, mxcsr);
}

/* The guest has exceptions unmasked. The instruction is run with all masked, and undone if one of the guest's would
 * have been raised. */
static __attribute__((noinline)) enum x86_rc run_unmasked(struct x86_cpu *cpu, const struct x86_insn *in,
                                                          uint8_t *buffer, uint64_t *flags)
{
    const struct x86_stub *stub = in->native;
    uint32_t guest = cpu->fpu.mxcsr & MXCSR_MASK, raised, dot = 0;
    uint32_t unmasked = ~(guest >> MXCSR_MASK_SHIFT) & MXCSR_EXCEPTIONS;
    struct x86_fpu fpu = cpu->fpu;
    uint64_t gpr[ARRAY_SIZE(cpu->gpr)];

    memcpy(gpr, cpu->gpr, sizeof(gpr));
    if (stub->dot_size)
        dot = dot_exceptions(cpu, in, buffer, guest);
    cpu->fpu.mxcsr = (guest & ~MXCSR_EXCEPTIONS) | MXCSR_MASKS;
    if (unmasked & EXC_UE) /* flush-to-zero is for masked underflow only */
        cpu->fpu.mxcsr &= ~MXCSR_FTZ;
    *flags = run(cpu, in, stub, buffer);
    raised = cpu->fpu.mxcsr & MXCSR_EXCEPTIONS;
    if ((unmasked & EXC_UE) && has_tiny_result(cpu, in, buffer))
        raised |= EXC_UE;
    raised = stub->dot_size ? dot : x86_flagged(raised, guest);
    if (raised & unmasked) {
        cpu->fpu = fpu;
        memcpy(cpu->gpr, gpr, sizeof(gpr));
    }
    cpu->fpu.mxcsr = guest | raised;
    if (raised & unmasked)
        return x86_raise(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
    return X86_NEXT;
}

static inline enum x86_rc run_fp(struct x86_cpu *cpu, const struct x86_insn *in, uint8_t *buffer, uint64_t *flags)
{
    if (unlikely((cpu->fpu.mxcsr & (MXCSR_MASKS | ~MXCSR_MASK)) != MXCSR_MASKS))
        return run_unmasked(cpu, in, buffer, flags);
    *flags = run(cpu, in, in->native, buffer);
    return X86_NEXT;
}

/* --- SSE and AVX ---------------------------------------------------------------------- */

enum memory_kind { MEMORY_NONE, MEMORY_LOAD16, MEMORY_LOAD, MEMORY_STORE };

/* Constant sizes so that the copy is inline. */
static inline enum x86_rc load(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t ea, uint8_t *buffer)
{
    switch (in->memsize) {
    case 4:
        return x86_read(cpu, in->seg, ea, buffer, 4);
    case 8:
        return x86_read(cpu, in->seg, ea, buffer, 8);
    case 16:
        return x86_read(cpu, in->seg, ea, buffer, 16);
    case 32:
        return x86_read(cpu, in->seg, ea, buffer, 32);
    default:
        return x86_read(cpu, in->seg, ea, buffer, MIN(in->memsize, BUFFER_SIZE));
    }
}

static inline enum x86_rc store(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t ea, const uint8_t *buffer)
{
    switch (in->memsize) {
    case 4:
        return x86_write(cpu, in->seg, ea, buffer, 4);
    case 8:
        return x86_write(cpu, in->seg, ea, buffer, 8);
    case 16:
        return x86_write(cpu, in->seg, ea, buffer, 16);
    case 32:
        return x86_write(cpu, in->seg, ea, buffer, 32);
    default:
        return x86_write(cpu, in->seg, ea, buffer, MIN(in->memsize, BUFFER_SIZE));
    }
}

static inline __attribute__((always_inline)) enum x86_rc exec_native(struct x86_cpu *cpu, const struct x86_insn *in,
                                                                     bool vex, bool fp, enum memory_kind kind)
{
    const struct x86_stub *stub = in->native;
    uint8_t buffer[BUFFER_SIZE] __attribute__((aligned(64)));
    uint32_t mxcsr = cpu->fpu.mxcsr;
    uint64_t flags, ea = 0;
    enum x86_rc rc = vex ? x86_need_avx(cpu) : x86_need_sse(cpu);

    if (unlikely(rc))
        return rc;
    if (kind != MEMORY_NONE) {
        ea = x86_effective(cpu, in);
        if (unlikely((cpu->seg_base[in->seg] + ea) & stub->align))
            return x86_raise_gp(cpu, 0);
        if (kind == MEMORY_LOAD16)
            rc = x86_read(cpu, in->seg, ea, buffer, 16);
        else if (kind == MEMORY_LOAD)
            rc = load(cpu, in, ea, buffer);
        else if (fp) /* VCVTPS2PH: a fault of the store comes before the computation's exceptions */
            rc = x86_probe_write(cpu, in->seg, ea, in->memsize, 0);
        if (unlikely(rc))
            return rc;
    }
    if (fp) {
        rc = run_fp(cpu, in, buffer, &flags);
        if (unlikely(rc))
            return rc;
    } else {
        flags = run(cpu, in, stub, buffer);
    }
    if (stub->flags & STUB_FLAGS)
        cpu->rflags = (cpu->rflags & ~(uint64_t)FLAGS_STATUS) | (flags & FLAGS_STATUS);
    if (kind == MEMORY_STORE) {
        rc = store(cpu, in, ea, buffer);
        if (fp && rc) /* MMIO: the instruction will be started anew */
            cpu->fpu.mxcsr = mxcsr;
    }
    return rc;
}

#define EXECUTOR(name, vex, fp, kind)                                                                                  \
    static enum x86_rc name(struct x86_cpu *cpu, const struct x86_insn *in)                                            \
    {                                                                                                                  \
        return exec_native(cpu, in, vex, fp, kind);                                                                    \
    }
EXECUTOR(exec_sse, false, false, MEMORY_NONE)
EXECUTOR(exec_sse_load16, false, false, MEMORY_LOAD16)
EXECUTOR(exec_sse_load, false, false, MEMORY_LOAD)
EXECUTOR(exec_sse_store, false, false, MEMORY_STORE)
EXECUTOR(exec_sse_fp, false, true, MEMORY_NONE)
EXECUTOR(exec_sse_fp_load, false, true, MEMORY_LOAD)
EXECUTOR(exec_avx, true, false, MEMORY_NONE)
EXECUTOR(exec_avx_load16, true, false, MEMORY_LOAD16)
EXECUTOR(exec_avx_load, true, false, MEMORY_LOAD)
EXECUTOR(exec_avx_store, true, false, MEMORY_STORE)
EXECUTOR(exec_avx_fp, true, true, MEMORY_NONE)
EXECUTOR(exec_avx_fp_load, true, true, MEMORY_LOAD)
EXECUTOR(exec_avx_fp_store, true, true, MEMORY_STORE)

/* --- MMX ------------------------------------------------------------------------------- */

/* MMX registers are the x87 registers by physical number: with TOP 0 that is the stack order too. */
void x86_mmx_enter(struct x86_cpu *cpu)
{
    x86_fpu_set_top(cpu, 0);
    cpu->fpu.ftw = 0xff;
}

static enum x86_rc exec_mmx(struct x86_cpu *cpu, const struct x86_insn *in)
{
    const struct x86_stub *stub = in->native;
    uint8_t buffer[BUFFER_SIZE] __attribute__((aligned(64)));
    uint64_t ea = x86_effective(cpu, in), flags;
    enum x86_rc rc = stub->flags & STUB_XMM ? x86_need_sse(cpu) : X86_NEXT;

    if (!rc)
        rc = x86_need_mmx(cpu);
    if (rc)
        return rc;
    if ((stub->flags & (STUB_LOAD | STUB_STORE)) && ((cpu->seg_base[in->seg] + ea) & stub->align))
        return x86_raise_gp(cpu, 0);
    if (stub->flags & STUB_LOAD)
        rc = load(cpu, in, ea, buffer);
    if (rc)
        return rc;
    if (stub->flags & STUB_FP)
        rc = run_fp(cpu, in, buffer, &flags);
    else
        run(cpu, in, stub, buffer);
    if (rc) { /* a SIMD exception is found after the change to MMX state */
        x86_mmx_enter(cpu);
        return rc;
    }
    if (stub->flags & STUB_STORE)
        rc = store(cpu, in, ea, buffer);
    if (rc)
        return rc;
    if (stub->mmx_result) { /* exponent and sign read as ones */
        uint8_t *result = operand(cpu, in, stub->mmx_result - 1);

        result[8] = result[9] = 0xff;
    }
    x86_mmx_enter(cpu);
    return X86_NEXT;
}

x86_exec_fn *x86_native_executor(const struct x86_stub *stub)
{
    bool vex = stub->flags & STUB_VEX, fp = stub->flags & STUB_FP;

    if (stub->flags & STUB_MMX)
        return exec_mmx;
    if (stub->flags & STUB_STORE)
        return fp ? exec_avx_fp_store : vex ? exec_avx_store : exec_sse_store;
    if (!(stub->flags & STUB_LOAD))
        return vex ? (fp ? exec_avx_fp : exec_avx) : fp ? exec_sse_fp : exec_sse;
    if (fp)
        return vex ? exec_avx_fp_load : exec_sse_fp_load;
    if (stub->memsize == 16)
        return vex ? exec_avx_load16 : exec_sse_load16;
    return vex ? exec_avx_load : exec_sse_load;
}
