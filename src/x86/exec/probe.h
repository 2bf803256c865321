/*
 * exec/probe.h: may memory be written? For instructions that must know before they
 * write, or that fault without writing.
 */
#ifndef X86_EXEC_PROBE_H
#define X86_EXEC_PROBE_H

#include "x86/access.h"

/* X86_NEXT if size bytes (up to a page) at seg:offset can be written, else the fault that a write would take. flags: 0
 * or ACCESS_UNALIGNED. */
static inline enum x86_rc x86_probe_write(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size,
                                          unsigned flags)
{
    gva_t lin;
    void *host;
    enum x86_rc rc = x86_linear(cpu, seg, offset, size, ACCESS_WRITE, &lin);

    if (rc || x86_tlb_write(cpu, lin, size))
        return rc;
    rc = x86_check_end(cpu, seg, offset, size, ACCESS_WRITE);
    if (rc)
        return rc;
    return x86_rmw_pointer(cpu, lin, size, ACCESS_WRITE | flags | (seg == SEG_SS ? ACCESS_STACK : 0), &host);
}

#endif
