/*
 * x86/debug_internal.h: the fields of DR7 (AMD APM vol. 2, 13.1.1.4).
 */
#ifndef X86_DEBUG_INTERNAL_H
#define X86_DEBUG_INTERNAL_H

#include "x86/cpu.h"

enum { DR7_EXECUTE, DR7_WRITE, DR7_IO, DR7_READ_WRITE };

/* Bits 7:0: a local and a global enable for each of the four. */
static inline bool x86_breakpoints_enabled(const struct x86_cpu *cpu)
{
    return cpu->dr[7] & 0xff;
}

static inline bool x86_breakpoint_enabled(const struct x86_cpu *cpu, unsigned n)
{
    return cpu->dr[7] >> (2 * n) & 3;
}

static inline unsigned x86_breakpoint_type(const struct x86_cpu *cpu, unsigned n)
{
    return cpu->dr[7] >> (16 + 4 * n) & 3;
}

/* Bytes watched: LEN is 1, 2, 8, 4. */
static inline unsigned x86_breakpoint_size(const struct x86_cpu *cpu, unsigned n)
{
    static const uint8_t size[4] = {1, 2, 8, 4};

    return size[cpu->dr[7] >> (18 + 4 * n) & 3];
}

static inline bool x86_data_breakpoints_enabled(const struct x86_cpu *cpu)
{
    for (unsigned n = 0; x86_breakpoints_enabled(cpu) && n < 4; n++)
        if (x86_breakpoint_enabled(cpu, n) && (x86_breakpoint_type(cpu, n) & 1))
            return true;
    return false;
}

#endif
