/*
 * x86/stack.c: frames pushed by exceptions, interrupts and far calls, onto the
 * current stack or onto one that is about to become it. Every slot is checked
 * before the first is written.
 */
#include "x86/segment.h"

struct x86_stack x86_legacy_stack(const struct x86_segment *ss, uint64_t sp)
{
    return (struct x86_stack){.ss = *ss, .sp = sp, .mask = ss->attr & ATTR_DB ? 0xffffffff : 0xffff};
}

struct x86_stack x86_current_stack(const struct x86_cpu *cpu)
{
    struct x86_stack stack = {.ss = cpu->seg[SEG_SS], .sp = cpu->gpr[RSP]};

    stack.flat = cpu->stack_size == 8;
    stack.mask = cpu->stack_size == 8 ? ~(uint64_t)0 : cpu->stack_size == 4 ? 0xffffffff : 0xffff;
    return stack;
}

/* The host address of a slot if the soft TLB has it. */
static void *slot_host(struct x86_cpu *cpu, const struct x86_stack *stack, gva_t lin, unsigned size)
{
    return stack->access & ACCESS_IMPLICIT ? x86_tlb_system(cpu, lin, size, true) : x86_tlb_write(cpu, lin, size);
}

static enum x86_rc check_slot(struct x86_cpu *cpu, const struct x86_stack *stack, gva_t lin, unsigned size)
{
    unsigned access = ACCESS_WRITE | ACCESS_STACK | stack->access;
    gpa_t gpa;
    enum x86_rc rc = x86_translate(cpu, lin, access, &gpa);

    if (rc == X86_NEXT && (lin & ~PAGE_MASK) > PAGE_SIZE - size)
        rc = x86_translate(cpu, (lin + size - 1) & PAGE_MASK, access, &gpa);
    return rc;
}

enum x86_rc x86_stack_push(struct x86_cpu *cpu, struct x86_stack *stack, const uint64_t *values, unsigned n,
                           unsigned size)
{
    gva_t lin[X86_STACK_SLOTS];
    uint64_t sp = stack->sp;
    uint8_t *host;
    enum x86_rc rc;

    if (likely(stack->flat && (host = slot_host(cpu, stack, sp - n * size, n * size)) && size == 8)) {
        for (unsigned i = 0; i < n; i++)
            x86_host_put(host + 8 * (n - 1 - i), values[i], 8);
        stack->sp = sp - n * size;
        return X86_NEXT;
    }

    for (unsigned i = 0; i < n; i++) {
        sp = (sp - size) & stack->mask;
        lin[i] = stack->flat ? sp : (uint32_t)(stack->ss.base + sp);
        if (!stack->flat && !x86_in_limit(&stack->ss, sp, size))
            return x86_raise_error(cpu, VEC_SS, stack->error);
        if (slot_host(cpu, stack, lin[i], size))
            continue;
        rc = check_slot(cpu, stack, lin[i], size);
        if (rc)
            return rc;
    }
    for (unsigned i = 0; i < n; i++) {
        host = slot_host(cpu, stack, lin[i], size);
        if (likely(host)) {
            memcpy(host, &values[i], size);
            continue;
        }
        rc = x86_write_linear(cpu, lin[i], &values[i], size, ACCESS_WRITE | ACCESS_STACK | stack->access);
        if (rc)
            return rc;
    }
    stack->sp = sp;
    return X86_NEXT;
}

void x86_stack_load(struct x86_cpu *cpu, const struct x86_stack *stack, uint64_t upper)
{
    cpu->seg[SEG_SS] = stack->ss;
    cpu->gpr[RSP] = (stack->sp & stack->mask) | (upper & ~stack->mask & 0xffffffff);
}
