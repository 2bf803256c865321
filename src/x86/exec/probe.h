/*
 * exec/probe.h: may memory be written? For instructions that must know before they
 * write, or that fault without writing.
 */
#ifndef X86_EXEC_PROBE_H
#define X86_EXEC_PROBE_H

#include "x86/access.h"

/* X86_NEXT if size bytes (up to a page) at seg:offset can be written, else the fault that a write would take. */
static inline enum x86_rc x86_probe_write(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size)
{
    unsigned access = seg == SEG_SS ? ACCESS_WRITE | ACCESS_STACK : ACCESS_WRITE;
    gva_t lin, last;
    gpa_t gpa;
    enum x86_rc rc = x86_linear(cpu, seg, offset, size, ACCESS_WRITE, &lin);

    if (rc || x86_tlb_write(cpu, lin, size))
        return rc;
    if (unlikely(cpu->mode != MODE_LONG64 && (uint32_t)(lin - cpu->seg_base[seg]) + (uint64_t)size > 1ull << 32))
        return x86_raise_error(cpu, seg == SEG_SS ? VEC_SS : VEC_GP, 0); /* the limit of a flat segment */
    last = (lin + size - 1) & cpu->lin_mask;
    if (cpu->mode == MODE_LONG64 && !x86_canonical(last))
        return x86_translate(cpu, last, access, &gpa); /* before a page fault on the first page */
    rc = x86_translate(cpu, lin, access, &gpa);
    if (!rc && (last & PAGE_MASK) != (lin & PAGE_MASK))
        rc = x86_translate(cpu, last & PAGE_MASK, access, &gpa);
    return rc;
}

#endif
