/*
 * x86/mmu.h: linear to guest-physical: page walks (32-bit, PAE, 4-level),
 * permissions, accessed and dirty bits, and the slow side of every memory access.
 * AMD APM vol. 2 chapter 5; SDM vol. 3 chapter 4.
 */
#ifndef X86_MMU_H
#define X86_MMU_H

#include "x86/cpu.h"

enum x86_access {
    ACCESS_READ,
    ACCESS_WRITE,
    ACCESS_FETCH,
    ACCESS_KIND = 3,
    ACCESS_IMPLICIT = 4,   /* as supervisor, whatever the CPL: descriptor tables, TSS. AC does not lift SMAP. */
    ACCESS_USER = 8,       /* as user, whatever the CPL: stack of a less privileged ring */
    ACCESS_STACK = 16,     /* a non-canonical address gives #SS(0), not #GP(0) */
    ACCESS_PROBE = 32,     /* change nothing: no A/D bits, no TLB entry (debugger) */
    ACCESS_UNALIGNED = 64, /* never #AC: masked vector moves, gathers */
};

/* Which of the soft TLB's tables (enum x86_mmu_index) serves such an access now. */
unsigned x86_mmu_index(const struct x86_cpu *cpu, unsigned access);

/* An access of that kind to size bytes at lin is about to be made, if it can be: makes the soft-TLB entry for it, with
 * the A and D bits set. false: there was one already, there can be none, or the bytes cross a page. Raises nothing. */
bool x86_tlb_load(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access);

/* Translates one linear address with all checks; sets A and D. X86_NEXT or X86_FAULT. */
enum x86_rc x86_translate(struct x86_cpu *cpu, gva_t lin, unsigned access, gpa_t *gpa);

/* Reads or writes size bytes (1..512) at a linear address, over page and MMIO edges; all or nothing: both pages are
 * checked before anything is written. X86_NEXT, X86_FAULT, X86_EXIT. */
enum x86_rc x86_read_linear(struct x86_cpu *cpu, gva_t lin, void *data, unsigned size, unsigned access);
enum x86_rc x86_write_linear(struct x86_cpu *cpu, gva_t lin, const void *data, unsigned size, unsigned access);

/* Guest-physical, by the page walker and LAPIC-less tools; RAM only. false: not memory. */
bool x86_read_physical(struct x86_cpu *cpu, gpa_t gpa, void *data, unsigned size);
bool x86_write_physical(struct x86_cpu *cpu, gpa_t gpa, const void *data, unsigned size);

/* Fills in the TLB for a fetch at lin and returns the entry, or NULL: cpu->exc is raised, or (cpu->exc.vector stays,
 * *mmio true) the page is not memory. */
struct x86_tlb_entry *x86_fetch_entry(struct x86_cpu *cpu, gva_t lin, bool *mmio);

/* A host pointer to size bytes of writable RAM for an atomic read-modify-write at lin, after all checks and A/D
 * updates. NULL with X86_NEXT: not possible in place (MMIO, ROM, page-crossing): read and write instead. */
enum x86_rc x86_rmw_pointer(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access, void **host);
/* After writing through x86_rmw_pointer's pointer: lets decoded code on that page be dropped. */
void x86_rmw_written(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access);

/* Data breakpoints (DR0..3) that an access hits go to cpu->dr6_hit. Called from the slow path. */
void x86_check_breakpoints(struct x86_cpu *cpu, gva_t lin, unsigned size, bool write);
/* The same for an access to a port (CR4.DE). */
void x86_check_io_breakpoints(struct x86_cpu *cpu, uint16_t port, unsigned size);

/* MOV to CR0/CR3/CR4/EFER share these: checks (#GP(0)), flushes, PAE PDPTE loads, mode update. */
enum x86_rc x86_write_cr0(struct x86_cpu *cpu, uint64_t value);
enum x86_rc x86_write_cr3(struct x86_cpu *cpu, uint64_t value);
enum x86_rc x86_write_cr4(struct x86_cpu *cpu, uint64_t value);
enum x86_rc x86_write_efer(struct x86_cpu *cpu, uint64_t value);

static inline bool x86_canonical(uint64_t lin)
{
    return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

#endif
