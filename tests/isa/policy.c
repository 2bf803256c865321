/*
 * tests/isa/policy.c: which forms are compared with the host CPU, and why the
 * others are not: features that CPUID does not offer, results that no two
 * machines share, instructions that enter the host's kernel.
 */
#include "isa.h"

/* What Zydis's instruction sets are in CPUID; two where both are needed. Sets that are not here are not offered. */
static const struct {
    uint8_t set; /* ZydisISASet */
    uint8_t feature[2];
} sets[] = {
    {ZYDIS_ISA_SET_I86, {0}},
    {ZYDIS_ISA_SET_I186, {0}},
    {ZYDIS_ISA_SET_I286REAL, {0}},
    {ZYDIS_ISA_SET_I286PROTECTED, {0}},
    {ZYDIS_ISA_SET_I386, {0}},
    {ZYDIS_ISA_SET_I486, {0}},
    {ZYDIS_ISA_SET_I486REAL, {0}},
    {ZYDIS_ISA_SET_PENTIUMREAL, {0}},
    {ZYDIS_ISA_SET_PPRO, {0}},
    {ZYDIS_ISA_SET_FAT_NOP, {0}},
    {ZYDIS_ISA_SET_PREFETCH_NOP, {0}},
    {ZYDIS_ISA_SET_PREFETCHWT1, {0}}, /* without it, one of the reserved prefetches */
    {ZYDIS_ISA_SET_PAUSE, {0}},
    {ZYDIS_ISA_SET_RDPMC, {0}},
    {ZYDIS_ISA_SET_CMOV, {FEATURE_CMOV}},
    {ZYDIS_ISA_SET_FCMOV, {FEATURE_CMOV, FEATURE_FPU}},
    {ZYDIS_ISA_SET_X87, {FEATURE_FPU}},
    {ZYDIS_ISA_SET_LONGMODE, {FEATURE_LM}},
    {ZYDIS_ISA_SET_AMD, {FEATURE_SYSCALL}}, /* SYSCALL and SYSRET of 32-bit code */
    {ZYDIS_ISA_SET_LAHF, {FEATURE_LAHF_LM}},
    {ZYDIS_ISA_SET_CMPXCHG16B, {FEATURE_CX16}},
    {ZYDIS_ISA_SET_CLFSH, {FEATURE_CLFLUSH}},
    {ZYDIS_ISA_SET_CLFLUSHOPT, {FEATURE_CLFLUSHOPT}},
    {ZYDIS_ISA_SET_CLWB, {FEATURE_CLWB}},
    {ZYDIS_ISA_SET_FXSAVE, {FEATURE_FXSR}},
    {ZYDIS_ISA_SET_FXSAVE64, {FEATURE_FXSR}},
    {ZYDIS_ISA_SET_PENTIUMMMX, {FEATURE_MMX}},
    {ZYDIS_ISA_SET_SSE, {FEATURE_SSE}},
    {ZYDIS_ISA_SET_SSEMXCSR, {FEATURE_SSE}},
    {ZYDIS_ISA_SET_SSE_PREFETCH, {FEATURE_SSE}},
    {ZYDIS_ISA_SET_SSE2, {FEATURE_SSE2}},
    {ZYDIS_ISA_SET_SSE2MMX, {FEATURE_SSE2}},
    {ZYDIS_ISA_SET_SSE3, {FEATURE_SSE3}},
    {ZYDIS_ISA_SET_SSE3X87, {FEATURE_SSE3, FEATURE_FPU}},
    {ZYDIS_ISA_SET_SSSE3, {FEATURE_SSSE3}},
    {ZYDIS_ISA_SET_SSSE3MMX, {FEATURE_SSSE3}},
    {ZYDIS_ISA_SET_SSE4, {FEATURE_SSE4_1}},
    {ZYDIS_ISA_SET_SSE42, {FEATURE_SSE4_2}},
    {ZYDIS_ISA_SET_POPCNT, {FEATURE_POPCNT}},
    {ZYDIS_ISA_SET_AES, {FEATURE_AES}},
    {ZYDIS_ISA_SET_PCLMULQDQ, {FEATURE_PCLMULQDQ}},
    {ZYDIS_ISA_SET_SHA, {FEATURE_SHA}},
    {ZYDIS_ISA_SET_AVX, {FEATURE_AVX}},
    {ZYDIS_ISA_SET_AVXAES, {FEATURE_AVX, FEATURE_AES}},
    {ZYDIS_ISA_SET_AVX2, {FEATURE_AVX2}},
    {ZYDIS_ISA_SET_AVX2GATHER, {FEATURE_AVX2}},
    {ZYDIS_ISA_SET_F16C, {FEATURE_F16C}},
    {ZYDIS_ISA_SET_FMA, {FEATURE_FMA}},
    {ZYDIS_ISA_SET_BMI1, {FEATURE_BMI1}},
    {ZYDIS_ISA_SET_BMI2, {FEATURE_BMI2}},
    {ZYDIS_ISA_SET_LZCNT, {FEATURE_ABM}},
    {ZYDIS_ISA_SET_MOVBE, {FEATURE_MOVBE}},
    {ZYDIS_ISA_SET_ADOX_ADCX, {FEATURE_ADX}},
    {ZYDIS_ISA_SET_RDWRFSGS, {FEATURE_FSGSBASE}},
    {ZYDIS_ISA_SET_RDRAND, {FEATURE_RDRAND}},
    {ZYDIS_ISA_SET_RDSEED, {FEATURE_RDSEED}},
    {ZYDIS_ISA_SET_RDTSCP, {FEATURE_RDTSCP}},
    {ZYDIS_ISA_SET_RDPID, {FEATURE_RDPID}},
    {ZYDIS_ISA_SET_INVPCID, {FEATURE_INVPCID}},
    {ZYDIS_ISA_SET_SMAP, {FEATURE_SMAP}},
    {ZYDIS_ISA_SET_XSAVE, {FEATURE_XSAVE}},
    {ZYDIS_ISA_SET_XSAVEOPT, {FEATURE_XSAVEOPT}},
    {ZYDIS_ISA_SET_XSAVEC, {FEATURE_XSAVEC}},
};

/* Mnemonics that need more than their set says. */
static const struct {
    uint16_t mnemonic;
    uint8_t feature;
} extras[] = {
    {ZYDIS_MNEMONIC_CMPXCHG8B, FEATURE_CX8},
    {ZYDIS_MNEMONIC_RDTSC, FEATURE_TSC},
    {ZYDIS_MNEMONIC_RDMSR, FEATURE_MSR},
    {ZYDIS_MNEMONIC_WRMSR, FEATURE_MSR},
    {ZYDIS_MNEMONIC_SYSCALL, FEATURE_SYSCALL},
    {ZYDIS_MNEMONIC_SYSRET, FEATURE_SYSCALL},
    {ZYDIS_MNEMONIC_SYSENTER, FEATURE_SEP},
    {ZYDIS_MNEMONIC_SYSEXIT, FEATURE_SEP},
    {ZYDIS_MNEMONIC_VPCLMULQDQ, FEATURE_PCLMULQDQ},
};

static const struct {
    uint16_t mnemonic;
    const char *reason;
} reasons[] = {
    {ZYDIS_MNEMONIC_RDTSC, "reads the time"},
    {ZYDIS_MNEMONIC_RDTSCP, "reads the time"},
    {ZYDIS_MNEMONIC_RDRAND, "random"},
    {ZYDIS_MNEMONIC_RDSEED, "random"},
    {ZYDIS_MNEMONIC_CPUID, "the guest's CPUID is its own"},
    {ZYDIS_MNEMONIC_RDPID, "the host's processor number"},
    {ZYDIS_MNEMONIC_XGETBV, "the host's XCR0 has more"},
    {ZYDIS_MNEMONIC_SYSCALL, "enters the kernel"},
    {ZYDIS_MNEMONIC_SYSENTER, "enters the kernel"},
    {ZYDIS_MNEMONIC_SGDT, "UMIP: the host's kernel emulates it"},
    {ZYDIS_MNEMONIC_SIDT, "UMIP: the host's kernel emulates it"},
    {ZYDIS_MNEMONIC_SLDT, "UMIP: the host's kernel emulates it"},
    {ZYDIS_MNEMONIC_SMSW, "UMIP: the host's kernel emulates it"},
    {ZYDIS_MNEMONIC_STR, "UMIP: the host's kernel emulates it"},
    {ZYDIS_MNEMONIC_INT1, "hypervisors that intercept #DB get its RIP wrong"},
    {ZYDIS_MNEMONIC_SYSEXIT, "AMD's #UD in long mode, which hypervisors emulate"},
    {ZYDIS_MNEMONIC_RSM, "#UD but in SMM: hypervisors differ"},
};

bool isa_offered(const struct isa_insn *in)
{
    for (unsigned i = 0; i < ARRAY_SIZE(extras); i++)
        if (extras[i].mnemonic == in->insn.mnemonic && !x86_feature(extras[i].feature))
            return false;
    /* In 32-bit modes LAHF and SAHF have always been there. */
    if (in->insn.meta.isa_set == ZYDIS_ISA_SET_LAHF && in->mode != MODE_LONG64)
        return true;
    for (unsigned i = 0; i < ARRAY_SIZE(sets); i++)
        if (sets[i].set == in->insn.meta.isa_set)
            return x86_feature(sets[i].feature[0]) && x86_feature(sets[i].feature[1]);
    return false;
}

const char *isa_reason(const struct isa_insn *in)
{
    if (!isa_offered(in))
        return "not offered in CPUID";
    if (in->insn.mnemonic == ZYDIS_MNEMONIC_NOP && in->insn.opcode == 0x0d)
        return "prefetch of a register: #UD or NOP, by vendor";
    for (unsigned i = 0; i < ARRAY_SIZE(reasons); i++)
        if (reasons[i].mnemonic == in->insn.mnemonic)
            return reasons[i].reason;
    return NULL;
}
