/*
 * x86/exec/system.c: the table of system instructions and far transfers.
 */
#include "x86/exec/system.h"
#include "x86/zydis.h"

/* Modes in which an instruction exists; elsewhere it is #UD. */
#define IN_LONG64    BIT(MODE_LONG64)
#define IN_PROTECTED (BIT(MODE_PROT16) | BIT(MODE_PROT32) | BIT(MODE_COMPAT16) | BIT(MODE_COMPAT32) | BIT(MODE_LONG64))
#define IN_ALL       (IN_PROTECTED | BIT(MODE_REAL16) | BIT(MODE_VM86))
#define IN_LEGACY    (IN_ALL & ~IN_LONG64)

/* X(mnemonic, feature, function, modes, flags, arg) */
/* clang-format off */
#define SYSTEM_LIST(X)                                                        \
    X(LDS,      NONE,     load_far_pointer, IN_LEGACY,    INSN_END, SEG_DS)   \
    X(LES,      NONE,     load_far_pointer, IN_LEGACY,    INSN_END, SEG_ES)   \
    X(LSS,      NONE,     load_far_pointer, IN_ALL,       INSN_END, SEG_SS)   \
    X(LFS,      NONE,     load_far_pointer, IN_ALL,       INSN_END, SEG_FS)   \
    X(LGS,      NONE,     load_far_pointer, IN_ALL,       INSN_END, SEG_GS)   \
    X(LGDT,     NONE,     lgdt,             IN_ALL,       INSN_END, 0)        \
    X(LIDT,     NONE,     lidt,             IN_ALL,       INSN_END, 0)        \
    X(SGDT,     NONE,     sgdt,             IN_ALL,       0,        0)        \
    X(SIDT,     NONE,     sidt,             IN_ALL,       0,        0)        \
    X(LLDT,     NONE,     lldt,             IN_PROTECTED, INSN_END, 0)        \
    X(SLDT,     NONE,     sldt,             IN_PROTECTED, 0,        0)        \
    X(LTR,      NONE,     ltr,              IN_PROTECTED, INSN_END, 0)        \
    X(STR,      NONE,     str,              IN_PROTECTED, 0,        0)        \
    X(LAR,      NONE,     lar,              IN_PROTECTED, 0,        0)        \
    X(LSL,      NONE,     lsl,              IN_PROTECTED, 0,        0)        \
    X(VERR,     NONE,     verr,             IN_PROTECTED, 0,        0)        \
    X(VERW,     NONE,     verw,             IN_PROTECTED, 0,        0)        \
    X(ARPL,     NONE,     arpl,             IN_PROTECTED & ~IN_LONG64, 0, 0)  \
    X(CLTS,     NONE,     clts,             IN_ALL,       INSN_END, 0)        \
    X(LMSW,     NONE,     lmsw,             IN_ALL,       INSN_END, 0)        \
    X(SMSW,     NONE,     smsw,             IN_ALL,       0,        0)        \
    X(INVLPG,   NONE,     invlpg,           IN_ALL,       INSN_END, 0)        \
    X(INVPCID,  INVPCID,  invpcid,          IN_ALL,       INSN_END, 0)        \
    X(WBINVD,   NONE,     cache_flush,      IN_ALL,       INSN_END, 0)        \
    X(INVD,     NONE,     cache_flush,      IN_ALL,       INSN_END, 0)        \
    X(HLT,      NONE,     hlt,              IN_ALL,       INSN_END, 0)        \
    X(CLI,      NONE,     cli,              IN_ALL,       0, 0)        \
    X(STI,      NONE,     sti,              IN_ALL,       INSN_END, 0)        \
    X(STAC,     SMAP,     stac,             IN_ALL,       0, 0)        \
    X(CLAC,     SMAP,     clac,             IN_ALL,       0, 0)        \
    X(PUSHF,    NONE,     pushf,            IN_ALL,       0,        0)        \
    X(PUSHFD,   NONE,     pushf,            IN_LEGACY,    0,        0)        \
    X(PUSHFQ,   NONE,     pushf,            IN_LONG64,    0,        0)        \
    X(POPF,     NONE,     popf,             IN_ALL,       INSN_END, 0)        \
    X(POPFD,    NONE,     popf,             IN_LEGACY,    INSN_END, 0)        \
    X(POPFQ,    NONE,     popf,             IN_LONG64,    INSN_END, 0)        \
    X(INT,      NONE,     int,              IN_ALL,       INSN_END, 0)        \
    X(INT1,     NONE,     int1,             IN_ALL,       INSN_END, 0)        \
    X(INT3,     NONE,     int3,             IN_ALL,       INSN_END, 0)        \
    X(INTO,     NONE,     into,             IN_LEGACY,    INSN_END, 0)        \
    X(CPUID,    NONE,     cpuid,            IN_ALL,       INSN_END, 0)        \
    X(RDTSC,    TSC,      rdtsc,            IN_ALL,       0,        0)        \
    X(RDTSCP,   RDTSCP,   rdtscp,           IN_ALL,       0,        0)        \
    X(RDPMC,    NONE,     rdpmc,            IN_ALL,       INSN_END, 0)        \
    X(RDPID,    RDPID,    rdpid,            IN_ALL,       0,        0)        \
    X(RDMSR,    MSR,      rdmsr,            IN_ALL,       0,        0)        \
    X(WRMSR,    MSR,      wrmsr,            IN_ALL,       INSN_END, 0)        \
    X(RDFSBASE, FSGSBASE, rdfsbase,         IN_LONG64,    0,        SEG_FS)   \
    X(RDGSBASE, FSGSBASE, rdfsbase,         IN_LONG64,    0,        SEG_GS)   \
    X(WRFSBASE, FSGSBASE, wrfsbase,         IN_LONG64,    0, SEG_FS)   \
    X(WRGSBASE, FSGSBASE, wrfsbase,         IN_LONG64,    0, SEG_GS)   \
    X(SWAPGS,   LM,       swapgs,           IN_LONG64,    0, 0)        \
    X(VMCALL,   NONE,     hypercall,        IN_PROTECTED, INSN_END, 0)        \
    X(VMMCALL,  NONE,     hypercall,        IN_PROTECTED, INSN_END, 0)        \
    X(IN,       NONE,     in,               IN_ALL,       INSN_END, 0)        \
    X(OUT,      NONE,     out,              IN_ALL,       INSN_END, 0)        \
    X(SYSCALL,  SYSCALL,  syscall,          IN_PROTECTED, INSN_END, 0)        \
    X(SYSRET,   SYSCALL,  sysret,           IN_ALL,       INSN_END, 0)        \
    X(SYSENTER, SEP,      sysenter,         IN_ALL,       INSN_END, 0)        \
    X(SYSEXIT,  SEP,      sysexit,          IN_ALL,       INSN_END, 0)        \
    X(IRET,     NONE,     iret,             IN_ALL,       INSN_END, 0)        \
    X(IRETD,    NONE,     iret,             IN_ALL,       INSN_END, 0)        \
    X(IRETQ,    NONE,     iret,             IN_LONG64,    INSN_END, 0)
/* clang-format on */

enum {
#define X(mnemonic, feature, function, modes, flags, arg) FORM_##mnemonic,
    SYSTEM_LIST(X)
#undef X
};

static const struct {
    x86_exec_fn *exec;
    uint8_t modes, flags, arg;
} forms[] = {
#define X(mnemonic, feature, function, modes, flags, arg) {exec_##function, modes, flags, arg},
    SYSTEM_LIST(X)
#undef X
};

static x86_exec_fn *select_form(struct x86_insn *in, const struct x86_zydis *zydis)
{
    unsigned form = in->arg;

    if (!(forms[form].modes >> zydis->mode & 1))
        return NULL;
    in->flags |= forms[form].flags;
    in->arg = forms[form].arg;
    return forms[form].exec;
}

static ZydisRegisterClass operand_class(const struct x86_zydis *zydis, unsigned n)
{
    if (n >= zydis->insn.operand_count_visible || zydis->op[n].type != ZYDIS_OPERAND_TYPE_REGISTER)
        return ZYDIS_REGCLASS_INVALID;
    return ZydisRegisterGetClass(zydis->op[n].reg.value);
}

static x86_exec_fn *select_mov(struct x86_insn *in, const struct x86_zydis *zydis)
{
    in->flags |= INSN_END;
    switch (operand_class(zydis, 0)) {
    case ZYDIS_REGCLASS_CONTROL:
        return exec_mov_to_cr;
    case ZYDIS_REGCLASS_DEBUG:
        return exec_mov_to_dr;
    case ZYDIS_REGCLASS_SEGMENT:
        return in->r0 == SEG_CS ? NULL : exec_mov_to_seg;
    default:
        break;
    }
    in->flags &= (uint8_t)~INSN_END;
    switch (operand_class(zydis, 1)) {
    case ZYDIS_REGCLASS_CONTROL:
        return exec_mov_from_cr;
    case ZYDIS_REGCLASS_DEBUG:
        return exec_mov_from_dr;
    case ZYDIS_REGCLASS_SEGMENT:
        if (in->shape == SHAPE_MR)
            in->arg = in->r0; /* one register operand: the segment */
        else
            in->arg = in->r1;
        return exec_mov_from_seg;
    default:
        return NULL;
    }
}

static x86_exec_fn *select_push(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return operand_class(zydis, 0) == ZYDIS_REGCLASS_SEGMENT ? exec_push_seg : NULL;
}

static x86_exec_fn *select_pop(struct x86_insn *in, const struct x86_zydis *zydis)
{
    if (operand_class(zydis, 0) != ZYDIS_REGCLASS_SEGMENT)
        return NULL;
    in->flags |= INSN_END;
    return exec_pop_seg;
}

static x86_exec_fn *select_far(struct x86_insn *in, const struct x86_zydis *zydis)
{
    if (zydis->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
        return NULL;
    in->flags |= INSN_END;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return in->shape == SHAPE_M ? exec_jmp_far_memory : exec_jmp_far;
    case ZYDIS_MNEMONIC_CALL:
        return in->shape == SHAPE_M ? exec_call_far_memory : exec_call_far;
    default:
        return exec_ret_far;
    }
}

const struct x86_op x86_ops_system[] = {
    {ZYDIS_MNEMONIC_MOV, FEATURE_NONE, 0, select_mov},
    {ZYDIS_MNEMONIC_PUSH, FEATURE_NONE, 0, select_push},
    {ZYDIS_MNEMONIC_POP, FEATURE_NONE, 0, select_pop},
    {ZYDIS_MNEMONIC_JMP, FEATURE_NONE, 0, select_far},
    {ZYDIS_MNEMONIC_CALL, FEATURE_NONE, 0, select_far},
    {ZYDIS_MNEMONIC_RET, FEATURE_NONE, 0, select_far},
#define X(mnemonic, feature, function, modes, flags, arg)                                                              \
    {ZYDIS_MNEMONIC_##mnemonic, FEATURE_##feature, FORM_##mnemonic, select_form},
    SYSTEM_LIST(X)
#undef X
        {0},
};
