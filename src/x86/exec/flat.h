/*
 * x86/exec/flat.h: what SYSCALL and SYSRET do in 64-bit mode, but for their checks
 * and the derived state. Inline: translated code has it done by code that uses
 * general-purpose registers only.
 */
#ifndef X86_EXEC_FLAT_H
#define X86_EXEC_FLAT_H

#include "x86/segment.h"

#define FLAT_CODE    (ATTR_P | ATTR_S | ATTR_CODE | ATTR_READABLE | ATTR_ACCESSED | ATTR_G)
#define FLAT_DATA    (ATTR_P | ATTR_S | ATTR_WRITABLE | ATTR_ACCESSED | ATTR_G | ATTR_DB)
#define SYSRET_FLAGS 0x3c7fd7ull /* all but RF and VM */

static inline struct x86_segment flat_segment(unsigned selector, unsigned cpl, unsigned attr)
{
    return (struct x86_segment){.limit = 0xffffffff,
                                .selector = (uint16_t)((selector & ~SELECTOR_RPL) | cpl),
                                .attr = (uint16_t)(attr | cpl << ATTR_DPL_SHIFT)};
}

static inline void flat_enter(struct x86_cpu *cpu, unsigned cs, unsigned ss, unsigned cpl, bool wide, uint64_t rip)
{
    cpu->seg[SEG_CS] = flat_segment(cs, cpl, FLAT_CODE | (wide ? ATTR_L : ATTR_DB));
    cpu->seg[SEG_SS] = flat_segment(ss, cpl, FLAT_DATA);
    cpu->rip = rip;
}

/* In long mode, from there to `target`. */
static inline void flat_syscall(struct x86_cpu *cpu, uint64_t next, uint64_t target)
{
    const unsigned cs = (uint16_t)(cpu->msr.star >> 32);

    cpu->gpr[RCX] = next;
    cpu->gpr[R11] = cpu->rflags & ~(uint64_t)FLAG_RF;
    cpu->rflags &= ~(cpu->msr.sfmask | FLAG_RF);
    cpu->rflags |= FLAG_FIXED;
    flat_enter(cpu, cs, cs + 8, 0, true, target);
}

/* From 64-bit mode; to it, if wide. */
static inline void flat_sysret(struct x86_cpu *cpu, bool wide, uint64_t rip)
{
    const unsigned cs = (uint16_t)(cpu->msr.star >> 48);

    cpu->rflags = (cpu->gpr[R11] & SYSRET_FLAGS) | FLAG_FIXED;
    flat_enter(cpu, wide ? cs + 16 : cs, cs + 8, 3, wide, rip);
}

#endif
