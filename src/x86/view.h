/*
 * x86/view.h: what the present privilege sees of the soft TLB: its tables, and
 * the context that fetches go by. Inline, for code that changes the privilege, or
 * AC, without the rest of x86_update_mode(): it may be compiled for general-purpose
 * registers only.
 */
#ifndef X86_VIEW_H
#define X86_VIEW_H

#include "x86/debug_internal.h"
#include "x86/mmu.h"
#include "x86/tlb.h"

/* Is the access made with user rights? */
static inline bool x86_access_user(const struct x86_cpu *cpu, unsigned access)
{
    if (access & (ACCESS_USER | ACCESS_IMPLICIT))
        return access & ACCESS_USER;
    return cpu->cpl == 3;
}

static inline enum x86_mmu_index x86_view_index(const struct x86_cpu *cpu, unsigned access)
{
    const bool user = x86_access_user(cpu, access);

    if ((access & ACCESS_KIND) == ACCESS_FETCH)
        return user ? MMU_FETCH_USER : MMU_FETCH_SUPERVISOR;
    if (user)
        return MMU_USER;
    if ((cpu->cr4 & CR4_SMAP) && ((access & ACCESS_IMPLICIT) || !(cpu->rflags & FLAG_AC)))
        return MMU_SUPERVISOR_SMAP;
    return MMU_SUPERVISOR;
}

static inline void x86_view_forget_stack(struct x86_tlb *tlb)
{
    tlb->stack.tag = tlb->no_stack;
    tlb->stack.host = tlb->nowhere;
}

/* Are its fetches the same in all address spaces? */
static inline bool x86_view_is_kernel(const struct x86_cpu *cpu)
{
    return cpu->cpl != 3 && !cpu->tlb->local_code && (cpu->cr4 & CR4_SMEP) && x86_long_mode(cpu);
}

static inline void x86_view_set_context(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;
    const uint64_t id = x86_view_is_kernel(cpu) ? tlb->kernel_id : tlb->space->id;

    tlb->context = (id << 4 | (unsigned)(cpu->cpl == 3) << 3 | cpu->mode | (uint64_t)tlb->shadowed << 59 |
                    (uint64_t)cpu->segmented << 60) *
                   tlb->key;
}

/* Tables, context: after a change of what they go by. */
static inline void x86_view_select(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;
    const bool align = cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags & FLAG_AC);

    tlb->table = &tlb->space->table[x86_view_index(cpu, ACCESS_FETCH)];
    tlb->fetch_mask = tlb->table->mask;
    tlb->current = unlikely(align || x86_data_breakpoints_enabled(cpu))
                       ? &tlb->none
                       : &tlb->space->table[x86_view_index(cpu, ACCESS_READ)];
    tlb->shadowed = tlb->shadow.on && cpu->cpl == 3 && cpu->mode == MODE_LONG64 && tlb->current != &tlb->none &&
                    (cpu->cr3 & CR3_ROOT) == tlb->shadow.root;
    x86_view_forget_stack(tlb);
    x86_view_set_context(cpu);
}

#endif
