/*
 * exec/xsave.c: saving and restoring vector and x87 state: FXSAVE, the XSAVE family
 * for x87, SSE and AVX, MXCSR, XCR0, EMMS. SDM vol. 1 chapter 13; AMD APM vol. 2, 11.5.
 */
#include <string.h>

#include "x86/exec/fpu.h"
#include "x86/exec/probe.h"
#include "x86/zydis.h"

#define X87_SIZE        offsetof(struct x86_fpu, mxcsr)
#define ST_OFFSET       offsetof(struct x86_fpu, st)
#define MXCSR_OFFSET    offsetof(struct x86_fpu, mxcsr)
#define XMM_OFFSET      offsetof(struct x86_fpu, xmm)
#define HEADER_OFFSET   512
#define HEADER_SIZE     64
#define AVX_OFFSET      576 /* compacted or not: it is the only extended component */
#define XCOMP_COMPACTED BIT(63)
#define SUPPORTED       (XCR0_X87 | XCR0_SSE | XCR0_AVX)

/* How many vector registers there are depends on the mode; the others are neither saved nor restored. */
static unsigned vector_bytes(const struct x86_cpu *cpu)
{
    return cpu->mode == MODE_LONG64 ? 256 : 128;
}

/* --- the legacy region ------------------------------------------------------------------ */

/* The 24 bytes before MXCSR. Exception pointers are there only if an exception is pending (APM vol. 2, 11.5.4). The
 * 32-bit form has selectors in the middle of the 64-bit fields. */
static void store_x87(const struct x86_cpu *cpu, bool wide, uint8_t *image)
{
    struct x86_fpu fpu;

    memcpy(&fpu, &cpu->fpu, X87_SIZE);
    fpu.reserved0 = 0;
    if (!(fpu.fsw & FSW_ES)) {
        fpu.fop = 0;
        fpu.fip = fpu.fdp = 0;
    } else if (!wide) {
        fpu.fip = (uint32_t)fpu.fip | (uint64_t)cpu->fcs << 32;
        fpu.fdp = (uint32_t)fpu.fdp | (uint64_t)cpu->fds << 32;
    }
    memcpy(image, &fpu, X87_SIZE);
}

static void load_x87(struct x86_cpu *cpu, bool wide, const uint8_t *image)
{
    struct x86_fpu fpu;

    memcpy(&fpu, image, X87_SIZE);
    cpu->fcs = wide ? 0 : (uint16_t)(fpu.fip >> 32);
    cpu->fds = wide ? 0 : (uint16_t)(fpu.fdp >> 32);
    cpu->fpu.fip = wide ? fpu.fip : (uint32_t)fpu.fip;
    cpu->fpu.fdp = wide ? fpu.fdp : (uint32_t)fpu.fdp;
    cpu->fpu.fsw = fpu.fsw;
    cpu->fpu.ftw = fpu.ftw;
    cpu->fpu.fop = fpu.fop & 0x7ff;
    x86_fpu_set_control(&cpu->fpu, fpu.fcw);
    for (unsigned i = 0; i < 8; i++)
        memcpy(cpu->fpu.st[i], image + ST_OFFSET + 16 * i, 10);
}

static void init_x87(struct x86_cpu *cpu)
{
    x86_fpu_init(cpu);
    memset(cpu->fpu.st, 0, sizeof(cpu->fpu.st));
}

/* --- FXSAVE, FXRSTOR; in->arg: the REX.W form --------------------------------------------- */

static enum x86_rc check_fx(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t *ea)
{
    *ea = x86_effective(cpu, in);
    if (cpu->cr0 & (CR0_EM | CR0_TS))
        return x86_raise(cpu, VEC_NM);
    if ((cpu->seg_base[in->seg] + *ea) & 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags & FLAG_AC) && cpu->cpl == 3)
        return x86_raise_error(cpu, VEC_AC, 0);
    if ((cpu->seg_base[in->seg] + *ea) & 15)
        return x86_raise_gp(cpu, 0);
    return X86_NEXT;
}

static enum x86_rc exec_fxsave(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t image[XMM_OFFSET + 256] = {0};
    uint32_t mxcsr[2] = {cpu->fpu.mxcsr, MXCSR_MASK};
    unsigned size = XMM_OFFSET + vector_bytes(cpu);
    uint64_t ea;
    enum x86_rc rc = check_fx(cpu, in, &ea);

    if (!rc) /* the bytes that are not written can fault too */
        rc = x86_probe_write(cpu, in->seg, ea, 512, 0);
    if (rc)
        return rc;
    store_x87(cpu, in->arg, image);
    memcpy(image + MXCSR_OFFSET, mxcsr, sizeof(mxcsr));
    memcpy(image + ST_OFFSET, cpu->fpu.st, sizeof(cpu->fpu.st) + vector_bytes(cpu));
    return x86_write(cpu, in->seg, ea, image, size);
}

static enum x86_rc exec_fxrstor(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t image[512];
    uint32_t mxcsr;
    uint64_t ea;
    enum x86_rc rc = check_fx(cpu, in, &ea);

    if (!rc)
        rc = x86_read(cpu, in->seg, ea, image, sizeof(image));
    if (rc)
        return rc;
    memcpy(&mxcsr, image + MXCSR_OFFSET, 4);
    if (mxcsr & ~MXCSR_MASK)
        return x86_raise_gp(cpu, 0);
    load_x87(cpu, in->arg, image);
    cpu->fpu.mxcsr = mxcsr;
    memcpy(cpu->fpu.xmm, image + XMM_OFFSET, vector_bytes(cpu));
    return X86_NEXT;
}

/* --- XSAVE, XSAVEOPT, XSAVEC --------------------------------------------------------------- */

static bool all_zero(const uint8_t *p, unsigned size)
{
    uint64_t any = 0, word;

    for (unsigned i = 0; i < size; i += 8) {
        memcpy(&word, p + i, 8);
        any |= word;
    }
    return !any;
}

/* XINUSE: which components are not in their initial state. Exact, so that a save can leave out what is not. */
static uint64_t in_use(const struct x86_cpu *cpu)
{
    const struct x86_fpu *fpu = &cpu->fpu;
    uint64_t bits = 0;

    if (fpu->fcw != FCW_INIT || fpu->fsw || fpu->ftw || fpu->fop || fpu->fip || fpu->fdp ||
        !all_zero(fpu->st[0], sizeof(fpu->st)))
        bits |= XCR0_X87;
    if (!all_zero(fpu->xmm[0], sizeof(fpu->xmm)))
        bits |= XCR0_SSE;
    if (!all_zero(fpu->ymm_high[0], sizeof(fpu->ymm_high)))
        bits |= XCR0_AVX;
    return bits;
}

/* What all of them check; *rfbm: the components asked for and enabled. */
static enum x86_rc check_xsave(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t *ea, uint64_t *rfbm)
{
    *ea = x86_effective(cpu, in);
    *rfbm = ((uint32_t)cpu->gpr[RAX] | cpu->gpr[RDX] << 32) & cpu->xcr0 & SUPPORTED;
    if (!(cpu->cr4 & CR4_OSXSAVE))
        return x86_raise(cpu, VEC_UD);
    if (cpu->cr0 & CR0_TS)
        return x86_raise(cpu, VEC_NM);
    if ((cpu->seg_base[in->seg] + *ea) & 63)
        return x86_raise_gp(cpu, 0);
    return X86_NEXT;
}

enum xsave_form { XSAVE_WIDE = 1, XSAVE_OPT = 2, XSAVE_COMPACT = 4 }; /* in->arg */

static enum x86_rc write_part(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t ea, unsigned offset,
                              const void *data, unsigned size)
{
    return x86_write(cpu, in->seg, ea + offset, data, size);
}

/* Writes the components of `saved`; the parts of the area between them keep what they had. The whole area for
 * what was asked is checked first. */
static enum x86_rc write_components(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t ea, uint64_t asked,
                                    uint64_t saved, bool mxcsr)
{
    uint32_t control[2] = {cpu->fpu.mxcsr, MXCSR_MASK};
    uint8_t image[X87_SIZE];
    unsigned size = AVX_OFFSET + (asked & XCR0_AVX ? sizeof(cpu->fpu.ymm_high) : 0);
    enum x86_rc rc = x86_probe_write(cpu, in->seg, ea, size, 0);

    if (!rc && (saved & XCR0_X87)) {
        store_x87(cpu, in->arg & XSAVE_WIDE, image);
        rc = write_part(cpu, in, ea, 0, image, X87_SIZE);
        if (!rc)
            rc = write_part(cpu, in, ea, ST_OFFSET, cpu->fpu.st, sizeof(cpu->fpu.st));
    }
    if (!rc && mxcsr)
        rc = write_part(cpu, in, ea, MXCSR_OFFSET, control, sizeof(control));
    if (!rc && (saved & XCR0_SSE))
        rc = write_part(cpu, in, ea, XMM_OFFSET, cpu->fpu.xmm, vector_bytes(cpu));
    if (!rc && (saved & XCR0_AVX))
        rc = write_part(cpu, in, ea, AVX_OFFSET, cpu->fpu.ymm_high, vector_bytes(cpu));
    return rc;
}

/* XSAVE writes every component asked for; XSAVEOPT those in use. Both keep the header but for RFBM's bits of
 * XSTATE_BV. */
static enum x86_rc exec_xsave(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t ea, rfbm, xstate_bv, used = in_use(cpu);
    enum x86_rc rc = check_xsave(cpu, in, &ea, &rfbm);

    if (!rc)
        rc = x86_read(cpu, in->seg, ea + HEADER_OFFSET, &xstate_bv, 8);
    if (!rc)
        rc =
            write_components(cpu, in, ea, rfbm, in->arg & XSAVE_OPT ? rfbm & used : rfbm, rfbm & (XCR0_SSE | XCR0_AVX));
    if (rc)
        return rc;
    xstate_bv = (xstate_bv & ~rfbm) | (rfbm & used);
    return write_part(cpu, in, ea, HEADER_OFFSET, &xstate_bv, 8);
}

/* MXCSR belongs to the SSE component here, which counts as in use if MXCSR is not initial. */
static enum x86_rc exec_xsavec(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t ea, rfbm, header[2], used = in_use(cpu) | (cpu->fpu.mxcsr != MXCSR_INIT ? XCR0_SSE : 0);
    enum x86_rc rc = check_xsave(cpu, in, &ea, &rfbm);

    if (!rc)
        rc = write_components(cpu, in, ea, rfbm, rfbm & used, rfbm & used & XCR0_SSE);
    if (rc)
        return rc;
    header[0] = rfbm & used;
    header[1] = rfbm | XCOMP_COMPACTED;
    return write_part(cpu, in, ea, HEADER_OFFSET, header, sizeof(header));
}

/* --- XRSTOR ----------------------------------------------------------------------------------- */

static bool header_valid(const struct x86_cpu *cpu, const uint64_t header[8])
{
    uint64_t reserved = 0;

    for (unsigned i = 2; i < 8; i++)
        reserved |= header[i];
    if (header[1] & XCOMP_COMPACTED)
        return x86_feature(FEATURE_XSAVEC) && !(header[1] & ~XCOMP_COMPACTED & ~cpu->xcr0) &&
               !(header[0] & ~header[1]) && !reserved;
    /* The standard form looks at bytes 8 to 23 only. */
    return !(header[0] & ~cpu->xcr0) && !header[1] && !header[2];
}

static enum x86_rc read_part(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t ea, unsigned offset, void *data,
                             unsigned size)
{
    return x86_read(cpu, in->seg, ea + offset, data, size);
}

/* Everything is read and checked before any register changes. */
static enum x86_rc exec_xrstor(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t ea, rfbm, load, header[8];
    uint8_t legacy[XMM_OFFSET + 256], high[256];
    unsigned bytes = vector_bytes(cpu);
    uint32_t mxcsr = MXCSR_INIT;
    enum x86_rc rc = check_xsave(cpu, in, &ea, &rfbm);
    bool wants_mxcsr;

    if (!rc)
        rc = read_part(cpu, in, ea, HEADER_OFFSET, header, sizeof(header));
    if (rc)
        return rc;
    if (!header_valid(cpu, header))
        return x86_raise_gp(cpu, 0);
    load = rfbm & header[0];
    /* MXCSR is loaded with either vector component in the standard form, whatever XSTATE_BV says (SDM 13.8.1). */
    wants_mxcsr = header[1] & XCOMP_COMPACTED ? load & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
    if (load & XCR0_X87)
        rc = read_part(cpu, in, ea, 0, legacy, XMM_OFFSET);
    if (!rc && wants_mxcsr)
        rc = read_part(cpu, in, ea, MXCSR_OFFSET, &mxcsr, 4);
    if (!rc && (load & XCR0_SSE))
        rc = read_part(cpu, in, ea, XMM_OFFSET, legacy + XMM_OFFSET, bytes);
    if (!rc && (load & XCR0_AVX))
        rc = read_part(cpu, in, ea, AVX_OFFSET, high, bytes);
    if (rc)
        return rc;
    if (mxcsr & ~MXCSR_MASK)
        return x86_raise_gp(cpu, 0);
    if (load & XCR0_X87)
        load_x87(cpu, in->arg & XSAVE_WIDE, legacy);
    else if (rfbm & XCR0_X87)
        init_x87(cpu);
    if (wants_mxcsr || ((rfbm & XCR0_SSE) && (header[1] & XCOMP_COMPACTED)))
        cpu->fpu.mxcsr = mxcsr;
    if (load & XCR0_SSE)
        memcpy(cpu->fpu.xmm, legacy + XMM_OFFSET, bytes);
    else if (rfbm & XCR0_SSE)
        memset(cpu->fpu.xmm, 0, bytes);
    if (load & XCR0_AVX)
        memcpy(cpu->fpu.ymm_high, high, bytes);
    else if (rfbm & XCR0_AVX)
        memset(cpu->fpu.ymm_high, 0, bytes);
    return X86_NEXT;
}

/* --- XCR0, MXCSR, EMMS ---------------------------------------------------------------------------- */

static enum x86_rc exec_xgetbv(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint32_t index = (uint32_t)cpu->gpr[RCX];
    uint64_t value = cpu->xcr0;

    if (!(cpu->cr4 & CR4_OSXSAVE))
        return x86_raise(cpu, VEC_UD);
    if (index > 1 || (index == 1 && !x86_feature(FEATURE_XGETBV1)))
        return x86_raise_gp(cpu, 0);
    if (index == 1)
        value &= in_use(cpu);
    x86_set_gpr(cpu, 8 * RAX, 4, value);
    x86_set_gpr(cpu, 8 * RDX, 4, value >> 32);
    return X86_NEXT;
}

static enum x86_rc exec_xsetbv(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t value = (uint32_t)cpu->gpr[RAX] | cpu->gpr[RDX] << 32;
    uint64_t supported = XCR0_X87 | XCR0_SSE | (x86_feature(FEATURE_AVX) ? XCR0_AVX : 0);

    if (!(cpu->cr4 & CR4_OSXSAVE))
        return x86_raise(cpu, VEC_UD);
    if (cpu->cpl || (uint32_t)cpu->gpr[RCX] || (value & ~supported) || !(value & XCR0_X87) ||
        ((value & XCR0_AVX) && !(value & XCR0_SSE)))
        return x86_raise_gp(cpu, 0);
    cpu->xcr0 = value;
    return X86_NEXT;
}

static enum x86_rc need_mxcsr(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return in->flags & INSN_VEX ? x86_need_avx(cpu) : x86_need_sse(cpu);
}

static enum x86_rc exec_ldmxcsr(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t value;
    enum x86_rc rc = need_mxcsr(cpu, in);

    if (!rc)
        rc = x86_read_operand(cpu, in, &value, 4);
    if (rc)
        return rc;
    if (value & ~(uint64_t)MXCSR_MASK)
        return x86_raise_gp(cpu, 0);
    cpu->fpu.mxcsr = (uint32_t)value;
    return X86_NEXT;
}

static enum x86_rc exec_stmxcsr(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = need_mxcsr(cpu, in);

    return rc ? rc : x86_write_operand(cpu, in, cpu->fpu.mxcsr, 4);
}

static enum x86_rc exec_emms(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = x86_need_mmx(cpu);

    if (rc)
        return rc;
    x86_mmx_enter(cpu);
    cpu->fpu.ftw = 0;
    return X86_NEXT;
}

/* --- table ------------------------------------------------------------------------------------------ */

#define SELECT(function)                                                                                               \
    static x86_exec_fn *select_##function(struct x86_insn *in, const struct x86_zydis *zydis)                          \
    {                                                                                                                  \
        return exec_##function;                                                                                        \
    }
SELECT(fxsave)
SELECT(fxrstor)
SELECT(xsave)
SELECT(xsavec)
SELECT(xrstor)
SELECT(xgetbv)
SELECT(xsetbv)
SELECT(ldmxcsr)
SELECT(stmxcsr)
SELECT(emms)

const struct x86_op x86_ops_xsave[] = {
    {ZYDIS_MNEMONIC_FXSAVE, FEATURE_FXSR, 0, select_fxsave},
    {ZYDIS_MNEMONIC_FXSAVE64, FEATURE_FXSR, 1, select_fxsave},
    {ZYDIS_MNEMONIC_FXRSTOR, FEATURE_FXSR, 0, select_fxrstor},
    {ZYDIS_MNEMONIC_FXRSTOR64, FEATURE_FXSR, 1, select_fxrstor},
    {ZYDIS_MNEMONIC_XSAVE, FEATURE_XSAVE, 0, select_xsave},
    {ZYDIS_MNEMONIC_XSAVE64, FEATURE_XSAVE, XSAVE_WIDE, select_xsave},
    {ZYDIS_MNEMONIC_XSAVEOPT, FEATURE_XSAVEOPT, XSAVE_OPT, select_xsave},
    {ZYDIS_MNEMONIC_XSAVEOPT64, FEATURE_XSAVEOPT, XSAVE_OPT | XSAVE_WIDE, select_xsave},
    {ZYDIS_MNEMONIC_XSAVEC, FEATURE_XSAVEC, 0, select_xsavec},
    {ZYDIS_MNEMONIC_XSAVEC64, FEATURE_XSAVEC, XSAVE_WIDE, select_xsavec},
    {ZYDIS_MNEMONIC_XRSTOR, FEATURE_XSAVE, 0, select_xrstor},
    {ZYDIS_MNEMONIC_XRSTOR64, FEATURE_XSAVE, XSAVE_WIDE, select_xrstor},
    {ZYDIS_MNEMONIC_XGETBV, FEATURE_XSAVE, 0, select_xgetbv},
    {ZYDIS_MNEMONIC_XSETBV, FEATURE_XSAVE, 0, select_xsetbv},
    {ZYDIS_MNEMONIC_LDMXCSR, FEATURE_SSE, 0, select_ldmxcsr},
    {ZYDIS_MNEMONIC_VLDMXCSR, FEATURE_AVX, 0, select_ldmxcsr},
    {ZYDIS_MNEMONIC_STMXCSR, FEATURE_SSE, 0, select_stmxcsr},
    {ZYDIS_MNEMONIC_VSTMXCSR, FEATURE_AVX, 0, select_stmxcsr},
    {ZYDIS_MNEMONIC_EMMS, FEATURE_MMX, 0, select_emms},
    {0},
};
