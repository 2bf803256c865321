/*
 * x86/exec/stack.h: what stack.c and branch.c share. Eight-byte push and pop in
 * 64-bit mode are inline: a flat segment, RSP whole. Other stacks: x86_push(),
 * x86_pop().
 */
#ifndef X86_EXEC_STACK_H
#define X86_EXEC_STACK_H

#include "x86/access.h"

/* Would a write of size bytes at SS:offset fault? X86_NEXT or X86_FAULT. */
enum x86_rc x86_probe_stack(struct x86_cpu *cpu, uint64_t offset, unsigned size);

static inline enum x86_rc push_long(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t rsp = cpu->gpr[RSP] - 8;
    void *host = x86_tlb_write(cpu, rsp, 8);

    if (unlikely(!host))
        return x86_push(cpu, value, 8);
    x86_host_put(host, value, 8);
    cpu->gpr[RSP] = rsp;
    return X86_NEXT;
}

static inline enum x86_rc pop_long(struct x86_cpu *cpu, uint64_t *value)
{
    const void *host = x86_tlb_read(cpu, cpu->gpr[RSP], 8);
    uint64_t slow;
    enum x86_rc rc;

    if (likely(host)) {
        *value = x86_host_get(host, 8);
        cpu->gpr[RSP] += 8;
        return X86_NEXT;
    }
    rc = x86_pop(cpu, &slow, 8);
    *value = slow;
    return rc;
}

#endif
