/*
 * x86/mmu_internal.h: what the page walker tells the MMU's fast and slow sides.
 */
#ifndef X86_MMU_INTERNAL_H
#define X86_MMU_INTERNAL_H

#include "x86/mmu.h"
#include "x86/view.h"

struct x86_walk {
    gpa_t page;    /* of the 4 KiB that the linear address lies in */
    uint8_t shift; /* log2 of the size of the page that maps it */
    bool writable; /* R/W of all levels */
    bool user;     /* U/S of all levels */
    bool no_execute;
    bool dirty;  /* D of the leaf */
    bool global; /* G of the leaf, with CR4.PGE */
};

/* Walks the tables for a canonical address, checks the access, sets A and D. X86_NEXT, or X86_FAULT: #PF. */
enum x86_rc x86_walk(struct x86_cpu *cpu, gva_t lin, unsigned access, struct x86_walk *walk);

/* May that kind of access (ACCESS_READ, _WRITE, _FETCH) be made with the rights of a TLB table? */
bool x86_walk_allows(const struct x86_cpu *cpu, const struct x86_walk *walk, enum x86_mmu_index index, unsigned kind);

/* The host's view of the page at gpa for the processor itself: NULL where the local APIC or no memory is. */
uint8_t *x86_host_page(struct x86_cpu *cpu, gpa_t gpa, unsigned *flags);

/* x86_rmw_pointer() that also says whether the page is watched. */
enum x86_rc x86_rmw_prepare(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access, void **host, bool *watched);

/* Loads the PAE page-directory-pointer registers from the table at cr3. false: a reserved bit is set. */
bool x86_load_pdptes(struct x86_cpu *cpu, uint64_t cr3);

#endif
