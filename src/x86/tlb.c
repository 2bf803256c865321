/*
 * x86/tlb.c: the soft TLB's tables: address-space numbers, flushes, selection
 * of the table that fast accesses look into. Entries are made in x86/mmu.c.
 */
#include "x86/tlb.h"

#include <string.h>

#include "base/log.h"
#include "x86/cpu.h"
#include "x86/debug_internal.h"
#include "x86/mmu.h"

/* With the last one, 0xfff, the top page's tag would be TLB_NO_TAG. */
#define ASID_LAST 0xffe

static void drop(struct x86_tlb_entry *e)
{
    e->read = e->write = e->fetch = TLB_NO_TAG;
    e->code = NULL;
}

static void clear_tables(struct x86_tlb *tlb)
{
    for (unsigned i = 0; i < MMU_INDEXES; i++)
        for (unsigned n = 0; n < TLB_SIZE; n++)
            drop(&tlb->table[i][n]);
    memset(tlb->pcids, 0, sizeof(tlb->pcids));
    tlb->next_asid = 1;
}

static uint16_t current_pcid(const struct x86_cpu *cpu)
{
    return cpu->cr4 & CR4_PCIDE ? cpu->cr3 & 0xfff : 0;
}

static void set_asid(struct x86_tlb *tlb, uint16_t asid)
{
    tlb->asid = asid;
    tlb->fetch_tag = asid;
    if (tlb->tag)
        tlb->tag = asid;
}

/* A number that no entry has. */
static uint16_t new_asid(struct x86_tlb *tlb)
{
    if (tlb->next_asid > ASID_LAST)
        clear_tables(tlb);
    return tlb->next_asid++;
}

static int find_pcid(const struct x86_tlb *tlb, uint16_t pcid)
{
    for (unsigned i = 0; i < ARRAY_SIZE(tlb->pcids); i++)
        if (tlb->pcids[i].asid && tlb->pcids[i].pcid == pcid)
            return (int)i;
    return -1;
}

void x86_tlb_select(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;
    bool align = cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags & FLAG_AC);

    tlb->current = tlb->table[x86_mmu_index(cpu, ACCESS_READ)];
    tlb->tag = align || x86_data_breakpoints_enabled(cpu) ? 0 : tlb->asid;
}

void x86_tlb_init(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;

    memset(tlb, 0, sizeof(*tlb));
    clear_tables(tlb);
    x86_tlb_switch(cpu, current_pcid(cpu), true);
    x86_tlb_select(cpu);
}

void x86_tlb_flush(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;

    TRACE(MMU, "flush all");
    memset(tlb->pcids, 0, sizeof(tlb->pcids));
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
    int i = find_pcid(tlb, pcid);

    if (i >= 0 && !flush) {
        set_asid(tlb, tlb->pcids[i].asid);
        return;
    }
    cpu->counters.tlb_flushes++;
    TRACE(MMU, "flush address space, pcid %u", pcid);
    uint16_t asid = new_asid(tlb); /* may empty pcids */
    if (i < 0)
        i = (int)(tlb->pcid_next++ % ARRAY_SIZE(tlb->pcids));
    tlb->pcids[i].pcid = pcid;
    tlb->pcids[i].asid = asid;
    set_asid(tlb, asid);
}

void x86_tlb_flush_pcid(struct x86_cpu *cpu, uint16_t pcid)
{
    struct x86_tlb *tlb = cpu->tlb;
    int i = find_pcid(tlb, pcid);

    if (pcid == current_pcid(cpu))
        x86_tlb_flush_asid(cpu);
    else if (i >= 0)
        tlb->pcids[i].asid = 0;
}

/* Drops what lies in the same naturally aligned 1 << shift bytes as lin. */
static void drop_region(struct x86_tlb *tlb, gva_t lin, unsigned shift)
{
    for (unsigned i = 0; i < MMU_INDEXES; i++)
        for (unsigned n = 0; n < TLB_SIZE; n++) {
            struct x86_tlb_entry *e = &tlb->table[i][n];

            if ((e->read ^ lin) >> shift == 0 || (e->write ^ lin) >> shift == 0 || (e->fetch ^ lin) >> shift == 0)
                drop(e);
        }
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
    if (tlb->huge & BIT(lin >> TLB_HUGE_SHIFT & 63))
        drop_region(tlb, lin, TLB_HUGE_SHIFT);
    else if (tlb->large[bit / 64] & BIT(bit % 64))
        drop_region(tlb, lin, TLB_LARGE_SHIFT);
    else
        for (unsigned i = 0; i < MMU_INDEXES; i++)
            drop(x86_tlb_slot(tlb->table[i], lin));
}

void x86_tlb_protect_gpa(struct x86_cpu *cpu, gpa_t gpa)
{
    gpa &= PAGE_MASK;
    for (unsigned i = 0; i < MMU_INDEXES; i++)
        for (unsigned n = 0; n < TLB_SIZE; n++)
            if (cpu->tlb->table[i][n].gpa == gpa)
                cpu->tlb->table[i][n].write = TLB_NO_TAG;
}

void x86_tlb_drop_gpa(struct x86_cpu *cpu, gpa_t gpa)
{
    gpa &= PAGE_MASK;
    for (unsigned i = 0; i < MMU_INDEXES; i++)
        for (unsigned n = 0; n < TLB_SIZE; n++)
            if (cpu->tlb->table[i][n].gpa == gpa)
                drop(&cpu->tlb->table[i][n]);
}
