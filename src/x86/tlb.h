/*
 * x86/tlb.h: the soft TLB: guest linear page to host page, with a tag for each
 * kind of access, so that one compare gives translation, permission, A/D bits,
 * MMIO and write-watch at once. Used by the interpreter and by translated code.
 *
 * Three tables, one for each kind of privilege ("mmu index"): supervisor
 * accesses that may touch user pages, supervisor accesses that may not (SMAP
 * with AC = 0), user accesses. Direct-mapped by linear page number alone, so
 * that INVLPG drops one slot a table whatever its address space.
 *
 * A tag is the linear page address | the address-space number (ASID, 1..0xffe)
 * the entry was filled under. An ASID stands for one PCID (or for none) between
 * two flushes of it: flushing it means taking a new number, and only when the
 * numbers run out are the tables cleared.
 */
#ifndef X86_TLB_H
#define X86_TLB_H

#include "base/types.h"

#define TLB_BITS 10
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_LARGE_SHIFT 22
#define TLB_HUGE_SHIFT 30
#define TLB_NO_TAG (~(uint64_t)0) /* matches no address */

struct x86_tlb_entry {
    uint64_t read, write, fetch; /* tags */
    uint64_t addend;             /* host address = linear address + addend */
    gpa_t gpa;                   /* guest-physical page */
    void *code;                  /* the engine's: decoded code of that page, or NULL */
};

enum x86_mmu_index { MMU_SUPERVISOR, MMU_SUPERVISOR_SMAP, MMU_USER, MMU_INDEXES };

struct x86_tlb {
    struct x86_tlb_entry *current; /* table of the current privilege: [TLB_SIZE] */
    /* What fast accesses compare with (in its low 12 bits). The current ASID, or 0, which no entry has, where each
     * access must take the slow path: alignment checks or data breakpoints are on. */
    uint64_t tag;
    uint64_t fetch_tag; /* the same for fetches: always the current ASID */
    uint16_t asid;
    uint16_t next_asid;
    /* Where pages larger than 4 KiB have been entered since the last full flush: a bit for each 4 MiB (2 and 4 MiB
     * pages) or 1 GiB of linear addresses, folded. INVLPG there drops the whole region. */
    uint64_t large[16], huge;
    struct {
        uint16_t pcid, asid;
    } pcids[16]; /* recently used PCIDs; asid 0: free */
    unsigned pcid_next;
    struct x86_tlb_entry table[MMU_INDEXES][TLB_SIZE];
};

struct x86_cpu;

void x86_tlb_init(struct x86_cpu *cpu);      /* empties cpu->tlb and selects the current table */
void x86_tlb_select(struct x86_cpu *cpu);    /* current table and tag; x86_update_mode() calls it */
void x86_tlb_flush(struct x86_cpu *cpu);     /* everything, global entries too */
void x86_tlb_flush_asid(struct x86_cpu *cpu); /* the current address space (MOV CR3 without PCID) */
void x86_tlb_switch(struct x86_cpu *cpu, uint16_t pcid, bool flush); /* MOV CR3: change PCID, maybe flush it */
void x86_tlb_flush_pcid(struct x86_cpu *cpu, uint16_t pcid);         /* INVPCID types 0 and 1 */
void x86_tlb_flush_page(struct x86_cpu *cpu, gva_t lin);             /* INVLPG: in all address spaces */
/* The page at gpa became watched (holds code) or changed its kind: drop the write tags (or all) of its entries. */
void x86_tlb_protect_gpa(struct x86_cpu *cpu, gpa_t gpa);
void x86_tlb_drop_gpa(struct x86_cpu *cpu, gpa_t gpa);
/* A page of 1 << shift bytes has been entered at lin. */
void x86_tlb_note_large(struct x86_tlb *tlb, gva_t lin, unsigned shift);

static inline struct x86_tlb_entry *x86_tlb_slot(struct x86_tlb_entry *table, gva_t lin)
{
    return &table[(lin >> PAGE_SHIFT) & (TLB_SIZE - 1)];
}

#endif
