/*
 * x86/tlb.h: the soft TLB: guest linear page to host page, with a tag for each
 * kind of access, so that one compare gives translation, permission, A/D bits,
 * MMIO and write-watch at once. Used by the interpreter and by translated code.
 *
 * Each address space (a PCID) has tables of its own, so that a switch of
 * spaces is a change of pointer; within one, a table for each kind of privilege
 * ("mmu index"): supervisor accesses that may touch user pages, supervisor
 * accesses that may not (SMAP with AC = 0), user accesses. Supervisor fetches
 * go by the first one: while SMAP is on, a kernel's code and data do not take
 * each other's places. Tables are direct-mapped by linear page number; they grow
 * while pages put each other out and shrink when they are cleared almost empty.
 * Global pages (CR4.PGE) stay in the tables they were entered in when their
 * address space is flushed, or given to another PCID.
 *
 * A tag is a linear page address. The check is one subtraction: lin - tag is the
 * offset in the page if it is at most 4096 - size, whatever lin is; this also
 * refuses accesses that cross the page.
 */
#ifndef X86_TLB_H
#define X86_TLB_H

#include "base/types.h"

#define TLB_MIN_BITS    9
#define TLB_MAX_BITS    13
#define TLB_SPACES      8
#define TLB_LOG         512 /* entries a log can name */
#define TLB_LARGE_SHIFT 22
#define TLB_HUGE_SHIFT  30
#define TLB_FETCHED     32768 /* bits */
#define TLB_SHADOW_LOG  32
#define CR3_ROOT        0xffffffffff000ull /* the guest-physical address of the first table, in 64-bit mode */
/* A tag that no linear address of the slot matches: a page of the neighbouring slot. */
#define TLB_NO_TAG(slot) ((gva_t)((slot) ^ 1u) << PAGE_SHIFT)

struct x86_tlb_entry {
    gva_t read, write, fetch; /* tags */
    uint8_t *host;            /* the page */
};

/* Which entries were filled since the table was cleared, so that clearing costs what use did. Once there are more than
 * there is room for, any may be. */
struct x86_tlb_log {
    unsigned fills;
    uint16_t slot[TLB_LOG];
};

#define TLB_GLOBAL 1 /* beside the address in `gpa`: the entry is of a global page */

/* Of the arrays only the part that the mask tells is in use, or in memory. */
struct x86_tlb_table {
    struct x86_tlb_entry entry[1u << TLB_MAX_BITS];
    gpa_t gpa[1u << TLB_MAX_BITS]; /* guest-physical pages of the entries */
    uint32_t mask;                 /* for the offset of an entry: (entries in use - 1) * their size */
    uint32_t replaced;             /* entries that others were put in the place of since it was cleared or resized */
    struct x86_tlb_log local, global;
};

/* An address space's tables. Those for fetches are their own, so that data does not put code out: translated code looks
 * each time it goes from one page to another. */
enum x86_mmu_index { MMU_SUPERVISOR, MMU_SUPERVISOR_SMAP, MMU_USER, MMU_FETCH_SUPERVISOR, MMU_FETCH_USER, MMU_INDEXES };

struct x86_tlb_space {
    uint16_t pcid;
    uint64_t id;            /* another one after each flush */
    bool ready;             /* its tables have been emptied once */
    bool valid;             /* stands for pcid; else free */
    bool used[MMU_INDEXES]; /* the table has had entries since it was cleared */
    struct x86_tlb_table table[MMU_INDEXES];
};

struct x86_tlb {
    /* Where fast accesses to data look: the current table, or `none` where each access must take the slow path
     * (alignment checks or data breakpoints are on). */
    struct x86_tlb_table *current;
    struct x86_tlb_table *table; /* for fetches, of the current privilege and space */
    uint32_t fetch_mask;         /* table->mask */
    struct x86_tlb_space *space; /* the current one */
    unsigned victim;             /* next space to be given to a new PCID */
    /* Where pages larger than 4 KiB have been entered since the last full flush: a bit for each 4 MiB (2 and 4 MiB
     * pages) or 1 GiB of linear addresses, folded. INVLPG there drops the whole region. */
    uint64_t large[16], huge;
    /* A TLB of one entry for the page of the stack last used: may be read and written. Empty: a tag that is no linear
     * address and that nobody can guess, and a page that is nobody's. */
    struct {
        gva_t tag;
        uint8_t *host;
    } stack;
    gva_t no_stack;
    uint8_t nowhere[PAGE_SIZE];
    /* Tells apart the mappings that fetches go by: of the present space, privilege and mode (with what is segmented),
     * as flushed so far. To be added to an address: the sum then stands for the address in that mapping. A kernel whose
     * code is all global and in the upper half of the address space has one mapping in all spaces (with SMEP: it
     * fetches nothing else). */
    uint64_t context;
    uint64_t ids, key;  /* ids given so far; random and odd */
    uint64_t kernel_id; /* for supervisor fetches, unless: */
    bool local_code;    /* supervisor code was fetched that is not global */
    /* Pages that were fetched from since the last full flush, hashed: a flush of another page changes no context. */
    uint64_t fetched[TLB_FETCHED / 64];
    unsigned fetched_bits;
    /* An address space whose user pages the engine keeps in tables of its own, a shadow of the guest's, for user code
     * in 64-bit mode to go by (bt: mapped at the host): what they must be compared with since. */
    struct x86_tlb_shadow {
        bool on;
        bool gone;        /* it stands for nothing any more: the memory map, or the paging mode, may be another */
        gpa_t root;       /* of the guest's tables */
        uint64_t id;      /* of the x86_tlb_space when all of it was compared last; 0: it was not */
        unsigned flushed; /* pages by INVLPG since; TLB_SHADOW_LOG + 1: more than are noted */
        gva_t page[TLB_SHADOW_LOG];
        gva_t wanted; /* a page that user code missed, which the guest may have made meanwhile; 0: none */
    } shadow;
    bool shadowed; /* the present privilege and mode go by it */
    struct x86_tlb_table none;
    struct x86_tlb_space spaces[TLB_SPACES];
};

struct x86_cpu;

void x86_tlb_init(struct x86_cpu *cpu); /* empties cpu->tlb and selects the current table */
void x86_tlb_seed(struct x86_tlb *tlb, uint64_t key, uint64_t no_stack); /* two random numbers, after init */
void x86_tlb_select(struct x86_cpu *cpu);      /* current table and tag; x86_update_mode() calls it */
void x86_tlb_flush(struct x86_cpu *cpu);       /* everything, global entries too */
void x86_tlb_flush_local(struct x86_cpu *cpu); /* all address spaces, but for global entries (INVPCID type 3) */
void x86_tlb_switch(struct x86_cpu *cpu, uint16_t pcid, bool flush); /* MOV CR3: change PCID, maybe flush it */
void x86_tlb_flush_pcid(struct x86_cpu *cpu, uint16_t pcid);         /* INVPCID types 0 and 1 */
void x86_tlb_flush_page(struct x86_cpu *cpu, gva_t lin);             /* INVLPG: in all address spaces */
/* The page at gpa became watched (holds code): drop the write tags of its entries. */
void x86_tlb_protect_gpa(struct x86_cpu *cpu, gpa_t gpa);
void x86_tlb_protect_all(struct x86_cpu *cpu); /* every page */
/* The slot for lin is about to be filled with another page's entry: the entry to fill, of a table that may have grown.
 * gpa: of the page; global: it is. */
struct x86_tlb_entry *x86_tlb_enter(struct x86_tlb *tlb, struct x86_tlb_table *table, gva_t lin, gpa_t gpa,
                                    bool global);
/* The page at lin is entered for fetches. */
void x86_tlb_note_fetch(struct x86_cpu *cpu, gva_t lin, bool global);
/* A page of 1 << shift bytes has been entered at lin. */
void x86_tlb_note_large(struct x86_tlb *tlb, gva_t lin, unsigned shift);

static inline struct x86_tlb_entry *x86_tlb_slot(struct x86_tlb_table *table, gva_t lin)
{
    _Static_assert(sizeof(struct x86_tlb_entry) == 32, "the shift below");
    return (struct x86_tlb_entry *)((char *)table->entry + ((lin >> (PAGE_SHIFT - 5)) & table->mask));
}

/* Has the guest changed, or may it have, what the shadow was made from? */
static inline bool x86_shadow_is_stale(const struct x86_tlb *tlb)
{
    return tlb->shadow.id != tlb->space->id || tlb->shadow.flushed || tlb->shadow.gone || tlb->shadow.wanted;
}

/* The guest-physical page of an entry of the table. */
static inline gpa_t x86_tlb_gpa(const struct x86_tlb_table *table, const struct x86_tlb_entry *e)
{
    return table->gpa[e - table->entry] & PAGE_MASK;
}

/* The host address of size bytes at lin if tag is that of their page and they stay in it, else NULL. */
static inline void *x86_tlb_host(const struct x86_tlb_entry *e, gva_t tag, gva_t lin, unsigned size)
{
    return likely(lin - tag <= PAGE_SIZE - size) ? e->host + (lin - tag) : NULL;
}

#endif
