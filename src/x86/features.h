/* x86/features.h: the list behind x86/cpuid.h. Leaf, subleaf, register (0 EAX, 1 EBX, 2 ECX, 3 EDX), bit, host. */
#ifndef X86_FEATURES_H
#define X86_FEATURES_H

/* clang-format off */
#define X86_FEATURE_LIST(X)                              \
    X(FPU,       "fpu",        1, 0, 3,  0, 0)           \
    X(DE,        "de",         1, 0, 3,  2, 0)           \
    X(PSE,       "pse",        1, 0, 3,  3, 0)           \
    X(TSC,       "tsc",        1, 0, 3,  4, 0)           \
    X(MSR,       "msr",        1, 0, 3,  5, 0)           \
    X(PAE,       "pae",        1, 0, 3,  6, 0)           \
    X(MCE,       "mce",        1, 0, 3,  7, 0)           \
    X(CX8,       "cx8",        1, 0, 3,  8, 0)           \
    X(APIC,      "apic",       1, 0, 3,  9, 0)           \
    X(SEP,       "sep",        1, 0, 3, 11, 0)           \
    X(MTRR,      "mtrr",       1, 0, 3, 12, 0)           \
    X(PGE,       "pge",        1, 0, 3, 13, 0)           \
    X(MCA,       "mca",        1, 0, 3, 14, 0)           \
    X(CMOV,      "cmov",       1, 0, 3, 15, 0)           \
    X(PAT,       "pat",        1, 0, 3, 16, 0)           \
    X(PSE36,     "pse36",      1, 0, 3, 17, 0)           \
    X(CLFLUSH,   "clflush",    1, 0, 3, 19, 0)           \
    X(MMX,       "mmx",        1, 0, 3, 23, 1)           \
    X(FXSR,      "fxsr",       1, 0, 3, 24, 0)           \
    X(SSE,       "sse",        1, 0, 3, 25, 1)           \
    X(SSE2,      "sse2",       1, 0, 3, 26, 1)           \
    X(SSE3,      "pni",        1, 0, 2,  0, 1)           \
    X(PCLMULQDQ, "pclmulqdq",  1, 0, 2,  1, 1)           \
    X(SSSE3,     "ssse3",      1, 0, 2,  9, 1)           \
    X(FMA,       "fma",        1, 0, 2, 12, 1)           \
    X(CX16,      "cx16",       1, 0, 2, 13, 1)           \
    X(PCID,      "pcid",       1, 0, 2, 17, 0)           \
    X(SSE4_1,    "sse4_1",     1, 0, 2, 19, 1)           \
    X(SSE4_2,    "sse4_2",     1, 0, 2, 20, 1)           \
    X(X2APIC,    "x2apic",     1, 0, 2, 21, 0)           \
    X(MOVBE,     "movbe",      1, 0, 2, 22, 0)           \
    X(POPCNT,    "popcnt",     1, 0, 2, 23, 0)           \
    X(TSC_DEADLINE, "tsc_deadline_timer", 1, 0, 2, 24, 0) \
    X(AES,       "aes",        1, 0, 2, 25, 1)           \
    X(XSAVE,     "xsave",      1, 0, 2, 26, 1)           \
    X(AVX,       "avx",        1, 0, 2, 28, 1)           \
    X(F16C,      "f16c",       1, 0, 2, 29, 1)           \
    X(RDRAND,    "rdrand",     1, 0, 2, 30, 0)           \
    X(HYPERVISOR,"hypervisor", 1, 0, 2, 31, 0)           \
    X(FSGSBASE,  "fsgsbase",   7, 0, 1,  0, 0)           \
    X(TSC_ADJUST,"tsc_adjust", 7, 0, 1,  1, 0)           \
    X(BMI1,      "bmi1",       7, 0, 1,  3, 0)           \
    X(AVX2,      "avx2",       7, 0, 1,  5, 1)           \
    X(SMEP,      "smep",       7, 0, 1,  7, 0)           \
    X(BMI2,      "bmi2",       7, 0, 1,  8, 0)           \
    X(ERMS,      "erms",       7, 0, 1,  9, 0)           \
    X(INVPCID,   "invpcid",    7, 0, 1, 10, 0)           \
    X(RDSEED,    "rdseed",     7, 0, 1, 18, 0)           \
    X(ADX,       "adx",        7, 0, 1, 19, 0)           \
    X(SMAP,      "smap",       7, 0, 1, 20, 0)           \
    X(CLFLUSHOPT,"clflushopt", 7, 0, 1, 23, 0)           \
    X(CLWB,      "clwb",       7, 0, 1, 24, 0)           \
    X(SHA,       "sha_ni",     7, 0, 1, 29, 1)           \
    X(UMIP,      "umip",       7, 0, 2,  2, 0)           \
    X(RDPID,     "rdpid",      7, 0, 2, 22, 0)           \
    X(FSRM,      "fsrm",       7, 0, 3,  4, 0)           \
    X(XSAVEOPT,  "xsaveopt",  13, 1, 0,  0, 1)           \
    X(XSAVEC,    "xsavec",    13, 1, 0,  1, 1)           \
    X(XGETBV1,   "xgetbv1",   13, 1, 0,  2, 1)           \
    X(LAHF_LM,   "lahf_lm",   0x80000001, 0, 2,  0, 0)   \
    X(ABM,       "abm",       0x80000001, 0, 2,  5, 0)   \
    X(PREFETCHW, "3dnowprefetch", 0x80000001, 0, 2, 8, 0) \
    X(SYSCALL,   "syscall",   0x80000001, 0, 3, 11, 0)   \
    X(NX,        "nx",        0x80000001, 0, 3, 20, 0)   \
    X(PDPE1GB,   "pdpe1gb",   0x80000001, 0, 3, 26, 0)   \
    X(RDTSCP,    "rdtscp",    0x80000001, 0, 3, 27, 0)   \
    X(LM,        "lm",        0x80000001, 0, 3, 29, 0)   \
    X(CONSTANT_TSC, "nonstop_tsc", 0x80000007, 0, 3, 8, 0) \
    X(XSAVEERPTR,"xsaveerptr",0x80000008, 0, 1,  2, 1)
/* clang-format on */

#endif
