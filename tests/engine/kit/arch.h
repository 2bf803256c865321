/*
 * arch.h: the architecture's numbers and one-instruction helpers, under the
 * manuals' names.
 */
#ifndef KIT_ARCH_H
#define KIT_ARCH_H

#include <stdint.h>

#ifdef __x86_64__
#define W          "q" /* operand suffix of a word */
#define CODE_RESET ".code64\n"
#define LONG_MODE  1
#else
#define W          "l"
#define CODE_RESET ".code32\n"
#define LONG_MODE  0
#endif

enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

enum {
    FL_CF = 1,
    FL_1 = 2,
    FL_PF = 4,
    FL_AF = 0x10,
    FL_ZF = 0x40,
    FL_SF = 0x80,
    FL_TF = 0x100,
    FL_IF = 0x200,
    FL_DF = 0x400,
    FL_OF = 0x800,
    FL_IOPL = 0x3000,
    FL_NT = 0x4000,
    FL_RF = 0x10000,
    FL_VM = 0x20000,
    FL_AC = 0x40000,
    FL_VIF = 0x80000,
    FL_VIP = 0x100000,
    FL_ID = 0x200000,
};

#define CR0_PE 0x1u
#define CR0_MP 0x2u
#define CR0_EM 0x4u
#define CR0_TS 0x8u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u

#define CR4_VME        0x1u
#define CR4_TSD        0x4u
#define CR4_DE         0x8u
#define CR4_PSE        0x10u
#define CR4_PAE        0x20u
#define CR4_PGE        0x80u
#define CR4_OSFXSR     0x200u
#define CR4_OSXMMEXCPT 0x400u
#define CR4_UMIP       0x800u
#define CR4_FSGSBASE   0x10000u
#define CR4_PCIDE      0x20000u
#define CR4_OSXSAVE    0x40000u
#define CR4_SMEP       0x100000u
#define CR4_SMAP       0x200000u

#define PTE_P   0x1ull
#define PTE_W   0x2ull
#define PTE_U   0x4ull
#define PTE_A   0x20ull
#define PTE_D   0x40ull
#define PTE_PS  0x80ull
#define PTE_G   0x100ull
#define PTE_NX  0x8000000000000000ull
#define PTE_PWU (PTE_P | PTE_W | PTE_U)
#define PTE_PW  (PTE_P | PTE_W)

#define MSR_APIC_BASE      0x1b
#define MSR_SYSENTER_CS    0x174
#define MSR_SYSENTER_ESP   0x175
#define MSR_SYSENTER_EIP   0x176
#define MSR_PAT            0x277
#define MSR_TSC_DEADLINE   0x6e0
#define MSR_X2APIC         0x800
#define MSR_EFER           0xc0000080
#define MSR_STAR           0xc0000081
#define MSR_LSTAR          0xc0000082
#define MSR_CSTAR          0xc0000083
#define MSR_SFMASK         0xc0000084
#define MSR_FS_BASE        0xc0000100
#define MSR_GS_BASE        0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

#define EFER_SCE 0x1u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u
#define EFER_NXE 0x800u

static inline void outb(uint16_t port, uint8_t value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;

    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

#define CONTROL_REGISTER(name, reg)                                                                                    \
    static inline unsigned long read_##name(void)                                                                      \
    {                                                                                                                  \
        unsigned long value;                                                                                           \
                                                                                                                       \
        asm volatile("mov %%" reg ", %0" : "=r"(value) : : "memory");                                                  \
        return value;                                                                                                  \
    }                                                                                                                  \
    static inline void write_##name(unsigned long value)                                                               \
    {                                                                                                                  \
        asm volatile("mov %0, %%" reg : : "r"(value) : "memory");                                                      \
    }
CONTROL_REGISTER(cr0, "cr0")
CONTROL_REGISTER(cr2, "cr2")
CONTROL_REGISTER(cr3, "cr3")
CONTROL_REGISTER(cr4, "cr4")
CONTROL_REGISTER(dr0, "dr0")
CONTROL_REGISTER(dr1, "dr1")
CONTROL_REGISTER(dr2, "dr2")
CONTROL_REGISTER(dr3, "dr3")
CONTROL_REGISTER(dr6, "dr6")
CONTROL_REGISTER(dr7, "dr7")
#ifdef __x86_64__
CONTROL_REGISTER(cr8, "cr8")
#endif

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;

    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
    return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
    asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;

    asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (uint64_t)hi << 32 | lo;
}

static inline void invlpg(unsigned long va)
{
    asm volatile("invlpg (%0)" : : "r"(va) : "memory");
}

static inline unsigned long read_flags(void)
{
    unsigned long value;

    asm volatile("pushf\n pop %0" : "=r"(value) : : "memory");
    return value;
}

static inline void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
    asm volatile("cpuid" : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3]) : "a"(leaf), "c"(subleaf));
}

#endif
