/*
 * x86/exec/flags.h: status flags of guest operations that run as the same host
 * instruction: LAHF and SETO take them out, so that what a manual calls
 * undefined is the host's too.
 */
#ifndef X86_EXEC_FLAGS_H
#define X86_EXEC_FLAGS_H

#include "x86/cpu.h"

/* In this form AX holds them: AH as LAHF leaves it, AL 1 for OF. An asm statement has it as [f] "+a" or "=&a". */
typedef uint16_t packed_flags;

/* AL + 7Fh overflows exactly if AL is 1; SAHF leaves OF alone. */
#define FLAGS_LOAD  "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_STORE "\n\tlahf\n\tseto %%al"
/* With AL 0 or 1, CF only. */
#define CARRY_LOAD "addb $0xff, %%al\n\t"

static inline packed_flags flags_get(const struct x86_cpu *cpu)
{
    return (packed_flags)((cpu->rflags & 0xff) << 8 | (cpu->rflags >> 11 & 1));
}

static inline void flags_set(struct x86_cpu *cpu, packed_flags f)
{
    cpu->rflags = (cpu->rflags & ~(uint64_t)FLAGS_STATUS) | f >> 8 | (uint32_t)(uint8_t)f << 11;
}

/* INC and DEC: all but CF. */
static inline void flags_set_but_carry(struct x86_cpu *cpu, packed_flags f)
{
    cpu->rflags =
        (cpu->rflags & ~(uint64_t)(FLAGS_STATUS & ~FLAG_CF)) | (f >> 8 & ~FLAG_CF) | (uint32_t)(uint8_t)f << 11;
}

/* Status flags named in `flags` are set, the others cleared. */
static inline void flags_assign(struct x86_cpu *cpu, uint32_t flags)
{
    cpu->rflags = (cpu->rflags & ~(uint64_t)FLAGS_STATUS) | flags;
}

/* IRET's flags: which may change depends on the privilege it is executed at. */
static inline void flags_return(struct x86_cpu *cpu, uint64_t value, unsigned size)
{
    uint64_t mask = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID;

    if (cpu->cpl == 0)
        mask |= FLAG_IOPL | (cpu->cr0 & CR0_PE ? FLAG_VIF | FLAG_VIP : 0);
    if (cpu->cpl <= (cpu->rflags & FLAG_IOPL) >> 12)
        mask |= FLAG_IF;
    if (size == 2)
        mask &= 0xffff;
    cpu->rflags = (cpu->rflags & ~(mask | FLAG_RF)) | (value & mask);
}

/* Condition codes in the order of their encoding (SDM vol. 1 appendix B): X(code, mnemonic suffix, test of fl). */
/* clang-format off */
#define CONDITION_LIST(X)                                                        \
    X(0,  O,   fl & FLAG_OF)                                                     \
    X(1,  NO,  !(fl & FLAG_OF))                                                  \
    X(2,  B,   fl & FLAG_CF)                                                     \
    X(3,  NB,  !(fl & FLAG_CF))                                                  \
    X(4,  Z,   fl & FLAG_ZF)                                                     \
    X(5,  NZ,  !(fl & FLAG_ZF))                                                  \
    X(6,  BE,  fl & (FLAG_CF | FLAG_ZF))                                         \
    X(7,  NBE, !(fl & (FLAG_CF | FLAG_ZF)))                                      \
    X(8,  S,   fl & FLAG_SF)                                                     \
    X(9,  NS,  !(fl & FLAG_SF))                                                  \
    X(10, P,   fl & FLAG_PF)                                                     \
    X(11, NP,  !(fl & FLAG_PF))                                                  \
    X(12, L,   (fl >> 4 ^ fl) & FLAG_SF)                                         \
    X(13, NL,  !((fl >> 4 ^ fl) & FLAG_SF))                                      \
    X(14, LE,  (((fl >> 4 ^ fl) & FLAG_SF) | (fl & FLAG_ZF)))                    \
    X(15, NLE, !(((fl >> 4 ^ fl) & FLAG_SF) | (fl & FLAG_ZF)))
/* clang-format on */

#define X(code, cc, test)                                                                                              \
    static inline bool condition_##cc(const struct x86_cpu *cpu)                                                       \
    {                                                                                                                  \
        uint64_t fl = cpu->rflags;                                                                                     \
        return test;                                                                                                   \
    }
CONDITION_LIST(X)
#undef X

#endif
