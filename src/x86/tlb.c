/*
 * x86/tlb.c: the soft TLB's tables: address spaces, flushes, selection
 * of the table that fast accesses look into. Entries are made in x86/mmu.c.
 */
#include "x86/tlb.h"

#include <string.h>

#include "base/log.h"
#include "x86/cpu.h"
#include "x86/debug_internal.h"
#include "x86/mmu.h"

static void drop(struct x86_tlb_entry *entries, unsigned slot)
{
    entries[slot].read = entries[slot].write = entries[slot].fetch = TLB_NO_TAG(slot);
}

static void clear(struct x86_tlb_entry *entries)
{
    for (unsigned slot = 0; slot < TLB_SIZE; slot++)
        drop(entries, slot);
}

/* Calls fn for each slot of the table that may be filled. */
static inline __attribute__((always_inline)) void for_each_slot(struct x86_tlb_table *table,
                                                                void (*fn)(struct x86_tlb_table *table, unsigned slot,
                                                                           uint64_t arg, unsigned shift),
                                                                uint64_t arg, unsigned shift)
{
    if (table->fills <= TLB_LOG)
        for (unsigned i = 0; i < table->fills; i++)
            fn(table, table->log[i], arg, shift);
    else
        for (unsigned slot = 0; slot < TLB_SIZE; slot++)
            fn(table, slot, arg, shift);
}

static void drop_slot(struct x86_tlb_table *table, unsigned slot, uint64_t arg, unsigned shift)
{
    drop(table->entry, slot);
}

static void clear_table(struct x86_tlb_table *table)
{
    for_each_slot(table, drop_slot, 0, 0);
    table->fills = 0;
}

void x86_tlb_note_fill(struct x86_tlb_table *table, unsigned slot)
{
    if (table->fills < TLB_LOG)
        table->log[table->fills] = (uint16_t)slot;
    if (table->fills <= TLB_LOG)
        table->fills++;
}

static void clear_space(struct x86_tlb *tlb, struct x86_tlb_space *space)
{
    space->id = ++tlb->ids;
    for (unsigned i = 0; i < MMU_INDEXES; i++) {
        if (space->used[i])
            clear_table(&space->table[i]);
        space->used[i] = false;
    }
}

static uint16_t current_pcid(const struct x86_cpu *cpu)
{
    return cpu->cr4 & CR4_PCIDE ? cpu->cr3 & 0xfff : 0;
}

static struct x86_tlb_space *find_space(struct x86_tlb *tlb, uint16_t pcid)
{
    for (unsigned i = 0; i < TLB_SPACES; i++)
        if (tlb->spaces[i].valid && tlb->spaces[i].pcid == pcid)
            return &tlb->spaces[i];
    return NULL;
}

static void forget_stack(struct x86_tlb *tlb)
{
    tlb->stack.tag = tlb->no_stack;
    tlb->stack.host = tlb->nowhere;
}

void x86_tlb_select(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;
    bool align = cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags & FLAG_AC);

    tlb->table = &tlb->space->table[x86_mmu_index(cpu, ACCESS_FETCH)];
    tlb->current = unlikely(align || x86_data_breakpoints_enabled(cpu))
                       ? tlb->none
                       : tlb->space->table[x86_mmu_index(cpu, ACCESS_READ)].entry;
    forget_stack(tlb);
    tlb->context = (((tlb->space->id << 20) + tlb->epoch) << 4 | (unsigned)(cpu->cpl == 3) << 3 | cpu->mode |
                    (uint64_t)cpu->segmented << 60) *
                   tlb->key;
}

void x86_tlb_seed(struct x86_tlb *tlb, uint64_t key, uint64_t no_stack)
{
    tlb->key = key | 1;
    tlb->no_stack = BIT(63) | (no_stack & (BIT(62) - 1) & PAGE_MASK); /* not canonical: bits 63 and 62 differ */
    forget_stack(tlb);
}

void x86_tlb_init(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;

    memset(tlb, 0, sizeof(*tlb));
    x86_tlb_seed(tlb, 0x9e3779b97f4a7c15ull, 0);
    clear(tlb->none);
    x86_tlb_switch(cpu, current_pcid(cpu), true);
}

void x86_tlb_flush(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;

    TRACE(MMU, "flush all");
    for (unsigned i = 0; i < TLB_SPACES; i++) {
        clear_space(tlb, &tlb->spaces[i]);
        tlb->spaces[i].valid = false;
    }
    memset(tlb->large, 0, sizeof(tlb->large));
    tlb->huge = 0;
    x86_tlb_switch(cpu, current_pcid(cpu), true);
}

void x86_tlb_flush_asid(struct x86_cpu *cpu)
{
    x86_tlb_switch(cpu, current_pcid(cpu), true);
}

void x86_tlb_switch(struct x86_cpu *cpu, uint16_t pcid, bool flush)
{
    struct x86_tlb *tlb = cpu->tlb;
    struct x86_tlb_space *space = find_space(tlb, pcid);

    if (!space) {
        space = &tlb->spaces[tlb->victim++ % TLB_SPACES];
        for (unsigned n = 0; n < MMU_INDEXES && !space->ready; n++)
            clear(space->table[n].entry);
        space->ready = true;
        flush = true;
    }
    if (flush) {
        cpu->counters.tlb_flushes++;
        TRACE(MMU, "flush address space, pcid %u", pcid);
        clear_space(tlb, space);
    }
    space->pcid = pcid;
    space->valid = true;
    tlb->space = space;
    x86_tlb_select(cpu);
}

void x86_tlb_flush_pcid(struct x86_cpu *cpu, uint16_t pcid)
{
    struct x86_tlb *tlb = cpu->tlb;
    struct x86_tlb_space *space = find_space(tlb, pcid);

    if (space)
        clear_space(tlb, space);
    x86_tlb_select(cpu);
}

/* Calls fn for each table that may have entries. */
static void for_each_table(struct x86_tlb *tlb, void (*fn)(struct x86_tlb_table *table, uint64_t arg, unsigned shift),
                           uint64_t arg, unsigned shift)
{
    for (unsigned i = 0; i < TLB_SPACES; i++)
        for (unsigned n = 0; n < MMU_INDEXES; n++)
            if (tlb->spaces[i].used[n])
                fn(&tlb->spaces[i].table[n], arg, shift);
}

/* Drops what lies in the same naturally aligned 1 << shift bytes as lin. */
static void drop_slot_region(struct x86_tlb_table *table, unsigned slot, uint64_t lin, unsigned shift)
{
    const struct x86_tlb_entry *e = &table->entry[slot];

    if ((e->read ^ lin) >> shift == 0 || (e->write ^ lin) >> shift == 0 || (e->fetch ^ lin) >> shift == 0)
        drop(table->entry, slot);
}

static void drop_region(struct x86_tlb_table *table, uint64_t lin, unsigned shift)
{
    for_each_slot(table, drop_slot_region, lin, shift);
}

static void drop_page(struct x86_tlb_table *table, uint64_t lin, unsigned shift)
{
    drop(table->entry, (lin >> shift) & (TLB_SIZE - 1));
}

static void protect_slot(struct x86_tlb_table *table, unsigned slot, uint64_t gpa, unsigned shift)
{
    if (table->gpa[slot] >> shift == gpa >> shift)
        table->entry[slot].write = TLB_NO_TAG(slot);
}

static void protect_gpa(struct x86_tlb_table *table, uint64_t gpa, unsigned shift)
{
    for_each_slot(table, protect_slot, gpa, shift);
}

static void drop_slot_gpa(struct x86_tlb_table *table, unsigned slot, uint64_t gpa, unsigned shift)
{
    if (table->gpa[slot] >> shift == gpa >> shift)
        drop(table->entry, slot);
}

static void drop_gpa(struct x86_tlb_table *table, uint64_t gpa, unsigned shift)
{
    for_each_slot(table, drop_slot_gpa, gpa, shift);
}

void x86_tlb_note_large(struct x86_tlb *tlb, gva_t lin, unsigned shift)
{
    unsigned bit = (lin >> TLB_LARGE_SHIFT) % (64 * ARRAY_SIZE(tlb->large));

    if (shift >= TLB_HUGE_SHIFT)
        tlb->huge |= BIT(lin >> TLB_HUGE_SHIFT & 63);
    else if (shift > PAGE_SHIFT)
        tlb->large[bit / 64] |= BIT(bit % 64);
}

void x86_tlb_flush_page(struct x86_cpu *cpu, gva_t lin)
{
    struct x86_tlb *tlb = cpu->tlb;
    unsigned bit = (lin >> TLB_LARGE_SHIFT) % (64 * ARRAY_SIZE(tlb->large));

    TRACE(MMU, "flush page %#llx", (unsigned long long)lin);
    tlb->epoch++;
    if (tlb->huge & BIT(lin >> TLB_HUGE_SHIFT & 63))
        for_each_table(tlb, drop_region, lin, TLB_HUGE_SHIFT);
    else if (tlb->large[bit / 64] & BIT(bit % 64))
        for_each_table(tlb, drop_region, lin, TLB_LARGE_SHIFT);
    else
        for_each_table(tlb, drop_page, lin, PAGE_SHIFT);
    x86_tlb_select(cpu);
}

void x86_tlb_protect_gpa(struct x86_cpu *cpu, gpa_t gpa)
{
    for_each_table(cpu->tlb, protect_gpa, gpa, PAGE_SHIFT);
    forget_stack(cpu->tlb);
}

static void protect_any(struct x86_tlb_table *table, unsigned slot, uint64_t arg, unsigned shift)
{
    table->entry[slot].write = TLB_NO_TAG(slot);
}

static void protect_table(struct x86_tlb_table *table, uint64_t arg, unsigned shift)
{
    for_each_slot(table, protect_any, arg, shift);
}

void x86_tlb_protect_all(struct x86_cpu *cpu)
{
    for_each_table(cpu->tlb, protect_table, 0, 0);
    forget_stack(cpu->tlb);
}

void x86_tlb_drop_gpa(struct x86_cpu *cpu, gpa_t gpa)
{
    for_each_table(cpu->tlb, drop_gpa, gpa, PAGE_SHIFT);
    cpu->tlb->epoch++;
    x86_tlb_select(cpu);
}
