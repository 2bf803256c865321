/*
 * exec/x87.c: the table of x87 instructions and of MMX's that have no XMM form (AMD APM
 * vol. 1 chapter 6, vol. 5), and the control instructions, which say what the x87
 * state is. All others run on the host's own unit: exec/x87_exec.c. The environment's
 * memory formats are in x87_env.c.
 */
#include <string.h>

#include "x86/access.h"
#include "x86/exec/fpu.h"
#include "x86/exec/native.h"
#include "x86/exec/x87_env.h"
#include "x86/zydis.h"

/* --- control ---------------------------------------------------------------------------- */

static enum x86_rc exec_fninit(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = x86_need_x87(cpu);

    if (!rc)
        x86_fpu_init(cpu);
    return rc;
}

static enum x86_rc exec_fnclex(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = x86_need_x87(cpu);

    if (!rc)
        cpu->fpu.fsw &= FSW_CC | FSW_TOP;
    return rc;
}

static enum x86_rc exec_fnstcw(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = x86_need_x87(cpu);

    return rc ? rc : x86_write_operand(cpu, in, cpu->fpu.fcw, 2);
}

static enum x86_rc exec_fldcw(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t fcw;
    enum x86_rc rc = x86_need_x87_waiting(cpu);

    if (!rc)
        rc = x86_read_operand(cpu, in, &fcw, 2);
    if (!rc)
        x86_fpu_set_control(&cpu->fpu, (uint16_t)fcw);
    return rc;
}

static enum x86_rc exec_fnstsw(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = x86_need_x87(cpu);

    return rc ? rc : x86_write_operand(cpu, in, cpu->fpu.fsw, 2);
}

static enum x86_rc exec_fnstsw_ax(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = x86_need_x87(cpu);

    if (!rc)
        X86_GPR16(cpu, 8 * RAX) = cpu->fpu.fsw;
    return rc;
}

static enum x86_rc exec_fwait(struct x86_cpu *cpu, const struct x86_insn *in)
{
    if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        return x86_raise(cpu, VEC_NM);
    return x86_check_pending(cpu);
}

/* FENI, FDISI and FSETPM: 8087's and 80287's, no operation since. */
static enum x86_rc exec_nop(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return x86_need_x87(cpu);
}

/* 14 and 94 bytes are the 16-bit formats. */
static unsigned env_opsize(const struct x86_insn *in)
{
    return in->memsize == 14 || in->memsize == 94 ? 2 : 4;
}

static enum x86_rc exec_fnstenv(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t env[X87_ENV_SIZE];
    enum x86_rc rc = x86_need_x87(cpu);

    if (!rc)
        rc = x86_write(cpu, in->seg, x86_effective(cpu, in), env, x86_env_store(cpu, env_opsize(in), env));
    if (!rc)
        x86_fpu_set_control(&cpu->fpu, cpu->fpu.fcw | FSW_EXCEPTIONS);
    return rc;
}

static enum x86_rc exec_fldenv(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t env[X87_ENV_SIZE];
    enum x86_rc rc = x86_need_x87_waiting(cpu);

    if (!rc)
        rc = x86_read(cpu, in->seg, x86_effective(cpu, in), env, x86_env_size(env_opsize(in)));
    if (!rc)
        x86_env_load(cpu, env_opsize(in), env);
    return rc;
}

static enum x86_rc exec_fnsave(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t image[X87_ENV_SIZE + 8 * 10];
    enum x86_rc rc = x86_need_x87(cpu);
    unsigned size;

    if (rc)
        return rc;
    size = x86_env_store(cpu, env_opsize(in), image);
    for (unsigned i = 0; i < 8; i++, size += 10)
        memcpy(image + size, cpu->fpu.st[i], 10);
    rc = x86_write(cpu, in->seg, x86_effective(cpu, in), image, size);
    if (!rc)
        x86_fpu_init(cpu);
    return rc;
}

static enum x86_rc exec_frstor(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t image[X87_ENV_SIZE + 8 * 10];
    unsigned size = x86_env_size(env_opsize(in));
    enum x86_rc rc = x86_need_x87_waiting(cpu);

    if (!rc)
        rc = x86_read(cpu, in->seg, x86_effective(cpu, in), image, size + 8 * 10);
    if (rc)
        return rc;
    x86_env_load(cpu, env_opsize(in), image);
    for (unsigned i = 0; i < 8; i++, size += 10)
        memcpy(cpu->fpu.st[i], image + size, 10);
    return X86_NEXT;
}

/* in->arg: enum control */
enum control {
    CONTROL_FNINIT,
    CONTROL_FNCLEX,
    CONTROL_FNSTCW,
    CONTROL_FLDCW,
    CONTROL_FNSTSW,
    CONTROL_FWAIT,
    CONTROL_NOP,
    CONTROL_FNSTENV,
    CONTROL_FLDENV,
    CONTROL_FNSAVE,
    CONTROL_FRSTOR,
};

static x86_exec_fn *select_control(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static x86_exec_fn *const functions[] = {
        [CONTROL_FNINIT] = exec_fninit, [CONTROL_FNCLEX] = exec_fnclex,   [CONTROL_FNSTCW] = exec_fnstcw,
        [CONTROL_FLDCW] = exec_fldcw,   [CONTROL_FNSTSW] = exec_fnstsw,   [CONTROL_FWAIT] = exec_fwait,
        [CONTROL_NOP] = exec_nop,       [CONTROL_FNSTENV] = exec_fnstenv, [CONTROL_FLDENV] = exec_fldenv,
        [CONTROL_FNSAVE] = exec_fnsave, [CONTROL_FRSTOR] = exec_frstor,
    };

    if (in->arg == CONTROL_FNSTSW && in->shape == SHAPE_R)
        return exec_fnstsw_ax;
    return functions[in->arg];
}

/* clang-format off */
#define HOST(name) {ZYDIS_MNEMONIC_##name, FEATURE_FPU, 0, x86_native_x87}
#define CMOV(name) {ZYDIS_MNEMONIC_##name, FEATURE_CMOV, 0, x86_native_x87}
#define CONTROL(name) {ZYDIS_MNEMONIC_##name, FEATURE_FPU, CONTROL_##name, select_control}
#define MMXEXT(name) {ZYDIS_MNEMONIC_##name, FEATURE_SSE, 0, x86_native_vector}

const struct x86_op x86_ops_fpu[] = {
    HOST(F2XM1), HOST(FABS), HOST(FADD), HOST(FADDP), HOST(FBLD), HOST(FBSTP), HOST(FCHS), HOST(FCOM), HOST(FCOMP),
    HOST(FCOMPP), HOST(FCOS), HOST(FDECSTP), HOST(FDIV), HOST(FDIVP), HOST(FDIVR), HOST(FDIVRP), HOST(FFREE),
    HOST(FFREEP), HOST(FIADD), HOST(FICOM), HOST(FICOMP), HOST(FIDIV), HOST(FIDIVR), HOST(FILD), HOST(FIMUL),
    HOST(FINCSTP), HOST(FIST), HOST(FISTP), HOST(FISUB), HOST(FISUBR), HOST(FLD), HOST(FLD1), HOST(FLDL2E),
    HOST(FLDL2T), HOST(FLDLG2), HOST(FLDLN2), HOST(FLDPI), HOST(FLDZ), HOST(FMUL), HOST(FMULP), HOST(FNOP),
    HOST(FPATAN), HOST(FPREM), HOST(FPREM1), HOST(FPTAN), HOST(FRNDINT), HOST(FSCALE), HOST(FSIN), HOST(FSINCOS),
    HOST(FSQRT), HOST(FST), HOST(FSTP), HOST(FSTPNCE), HOST(FSUB), HOST(FSUBP), HOST(FSUBR), HOST(FSUBRP),
    HOST(FTST), HOST(FUCOM), HOST(FUCOMP), HOST(FUCOMPP), HOST(FXAM), HOST(FXCH), HOST(FXTRACT), HOST(FYL2X),
    HOST(FYL2XP1),

    CMOV(FCMOVB), CMOV(FCMOVBE), CMOV(FCMOVE), CMOV(FCMOVNB), CMOV(FCMOVNBE), CMOV(FCMOVNE), CMOV(FCMOVNU),
    CMOV(FCMOVU), CMOV(FCOMI), CMOV(FCOMIP), CMOV(FUCOMI), CMOV(FUCOMIP),

    {ZYDIS_MNEMONIC_FISTTP, FEATURE_SSE3, 0, x86_native_x87},

    CONTROL(FNINIT), CONTROL(FNCLEX), CONTROL(FNSTCW), CONTROL(FLDCW), CONTROL(FNSTSW), CONTROL(FWAIT),
    CONTROL(FNSTENV), CONTROL(FLDENV), CONTROL(FNSAVE), CONTROL(FRSTOR),
    {ZYDIS_MNEMONIC_FENI8087_NOP, FEATURE_FPU, CONTROL_NOP, select_control},
    {ZYDIS_MNEMONIC_FDISI8087_NOP, FEATURE_FPU, CONTROL_NOP, select_control},
    {ZYDIS_MNEMONIC_FSETPM287_NOP, FEATURE_FPU, CONTROL_NOP, select_control},

    /* MMX and its extensions with no XMM form of the same name; the others are in simd.c. */
    MMXEXT(PSHUFW), MMXEXT(MOVNTQ), MMXEXT(CVTPI2PS), MMXEXT(CVTPS2PI), MMXEXT(CVTTPS2PI), MMXEXT(CVTPI2PD),
    MMXEXT(CVTPD2PI), MMXEXT(CVTTPD2PI), MMXEXT(MOVDQ2Q), MMXEXT(MOVQ2DQ),
    {0},
};
/* clang-format on */
