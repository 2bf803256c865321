/*
 * x86/walk.c: the page walker: 32-bit, PAE and 4-level tables, all alike but for
 * a row of struct format. AMD APM vol. 2 chapter 5; SDM vol. 3 chapter 4.
 */
#include "base/log.h"
#include "x86/bus.h"
#include "x86/cpuid.h"
#include "x86/intr.h"
#include "x86/mmu_internal.h"

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_U  BIT(2)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_G  BIT(8)
#define PTE_PS BIT(7)
#define PTE_NX BIT(63)

/* Bits low..high, both included. */
#define BITS(low, high) ((~0ull >> (63 - (high))) & (~0ull << (low)))

#define LEVELS 4
/* Another processor would have to change the same entry at each try. */
#define WALK_TRIES 100

struct format {
    uint8_t levels;     /* tables that are walked in memory */
    uint8_t index_bits; /* of an index into a table */
    uint8_t entry_size; /* bytes */
};
static const struct format format_32 = {2, 10, 4};
static const struct format format_pae = {2, 9, 8}; /* its third level is in registers */
static const struct format format_long = {4, 9, 8};

/* An entry as it was read. */
struct entry {
    uint64_t value;
    gpa_t gpa;
    void *host; /* NULL: cannot be updated */
    bool watched;
};

static void read_entry(struct x86_cpu *cpu, const struct format *format, gpa_t gpa, struct entry *entry)
{
    unsigned flags = 0;
    uint8_t *page = x86_host_page(cpu, gpa & PAGE_MASK, &flags);
    void *host = page ? page + (gpa & ~PAGE_MASK) : NULL;

    entry->gpa = gpa;
    entry->host = flags & X86_PAGE_READONLY ? NULL : host;
    entry->watched = flags & (X86_PAGE_WATCHED | X86_PAGE_SHARED);
    if (!page)
        entry->value = ~0ull; /* what a bus with nobody there reads as */
    else if (format->entry_size == 4)
        entry->value = __atomic_load_n((uint32_t *)host, __ATOMIC_ACQUIRE);
    else
        entry->value = __atomic_load_n((uint64_t *)host, __ATOMIC_ACQUIRE);
    if (format->entry_size == 4)
        entry->value = (uint32_t)entry->value;
}

/* Sets A or D in the entry if it still is what was read. */
static bool update_entry(struct x86_cpu *cpu, const struct format *format, const struct entry *entry, uint64_t bits)
{
    uint64_t old = entry->value, new = old | bits;
    uint32_t old32 = (uint32_t)old;
    bool done;

    if (new == old || !entry->host)
        return true;
    if (format->entry_size == 4)
        done = __atomic_compare_exchange_n((uint32_t *)entry->host, &old32, (uint32_t) new, false, __ATOMIC_ACQ_REL,
                                           __ATOMIC_ACQUIRE);
    else
        done =
            __atomic_compare_exchange_n((uint64_t *)entry->host, &old, new, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    if (done && entry->watched)
        cpu->bus->written(cpu, entry->gpa, format->entry_size);
    return done;
}

static bool is_leaf(const struct x86_cpu *cpu, const struct format *format, unsigned level, uint64_t value)
{
    if (level == 0)
        return true;
    if (format == &format_32)
        return (value & PTE_PS) && (cpu->cr4 & CR4_PSE);
    return level <= 2 && (value & PTE_PS); /* level 2 without 1 GiB pages: PS is reserved and has been refused */
}

/* Bits that must be 0 in a present entry. */
static uint64_t reserved_bits(const struct x86_cpu *cpu, const struct format *format, unsigned level, bool leaf)
{
    unsigned bits = x86_phys_bits();
    uint64_t mask;

    if (format == &format_32) {
        if (level == 0 || !leaf)
            return 0;
        return BIT(21) | (bits < 40 ? BITS(bits - 19, 20) : 0); /* PSE36: 20:13 are address bits 39:32 */
    }
    mask = BITS(bits, 51);
    if (format == &format_pae)
        mask |= BITS(52, 62);
    if (!(cpu->msr.efer & EFER_NXE))
        mask |= PTE_NX;
    if (level == 3 || (level == 2 && !x86_feature(FEATURE_PDPE1GB)))
        mask |= PTE_PS;
    else if (level && leaf)
        mask |= BITS(13, 12 + 9 * level - 1);
    return mask;
}

static gpa_t leaf_base(const struct format *format, unsigned level, uint64_t value)
{
    unsigned shift = PAGE_SHIFT + format->index_bits * level;
    gpa_t base = value & BITS(shift, 51) & (format->entry_size == 4 ? 0xffffffff : ~0ull);

    if (format == &format_32 && level)
        base |= (value & BITS(13, 20)) << 19;
    return base;
}

static bool fetch_is_reported(const struct x86_cpu *cpu)
{
    return (cpu->cr4 & CR4_SMEP) || ((cpu->cr4 & CR4_PAE) && (cpu->msr.efer & EFER_NXE));
}

static enum x86_rc page_fault(struct x86_cpu *cpu, gva_t lin, unsigned access, uint32_t error)
{
    unsigned kind = access & ACCESS_KIND;

    if (kind == ACCESS_WRITE)
        error |= PF_W;
    if (kind == ACCESS_FETCH && fetch_is_reported(cpu))
        error |= PF_I;
    if (x86_access_user(cpu, access))
        error |= PF_U;
    TRACE(MMU, "fault at %#llx, error %#x, rip %#llx", (unsigned long long)lin, error, (unsigned long long)cpu->rip);
    return x86_raise_pf(cpu, lin, error);
}

bool x86_walk_allows(const struct x86_cpu *cpu, const struct x86_walk *walk, enum x86_mmu_index index, unsigned kind)
{
    const bool user = index == MMU_USER || index == MMU_FETCH_USER;

    if (user && !walk->user)
        return false;
    if (kind == ACCESS_FETCH)
        return !walk->no_execute && (user || !walk->user || !(cpu->cr4 & CR4_SMEP));
    if (index == MMU_SUPERVISOR_SMAP && walk->user)
        return false;
    return kind == ACCESS_READ || walk->writable || (!user && !(cpu->cr0 & CR0_WP));
}

/* One attempt. X86_AGAIN: an entry changed under our hands before A or D could be set in it. */
static enum x86_rc walk_once(struct x86_cpu *cpu, const struct format *format, gpa_t table, gva_t lin, unsigned access,
                             struct x86_walk *walk)
{
    struct entry path[LEVELS];
    unsigned level = format->levels - 1u;
    struct entry *e = &path[level];

    *walk = (struct x86_walk){.writable = true, .user = true};
    for (;; level--, e--) {
        unsigned shift = PAGE_SHIFT + format->index_bits * level;
        uint64_t index = lin >> shift & (BIT(format->index_bits) - 1);
        bool leaf;

        read_entry(cpu, format, table + index * format->entry_size, e);
        if (!(e->value & PTE_P))
            return page_fault(cpu, lin, access, 0);
        leaf = is_leaf(cpu, format, level, e->value);
        if (e->value & reserved_bits(cpu, format, level, leaf))
            return page_fault(cpu, lin, access, PF_P | PF_RSVD);
        walk->writable &= !!(e->value & PTE_W);
        walk->user &= !!(e->value & PTE_U);
        walk->no_execute |= format->entry_size == 8 && (e->value & PTE_NX);
        if (leaf) {
            walk->shift = (uint8_t)shift;
            walk->page = leaf_base(format, level, e->value) | (lin & (BIT(shift) - 1) & PAGE_MASK);
            break;
        }
        table = e->value & BITS(12, 51);
    }
    if (!x86_walk_allows(cpu, walk, x86_mmu_index(cpu, access), access & ACCESS_KIND))
        return page_fault(cpu, lin, access, PF_P);

    uint64_t bits = PTE_A | ((access & ACCESS_KIND) == ACCESS_WRITE ? PTE_D : 0);
    walk->dirty = (e->value | bits) & PTE_D;
    walk->global = (e->value & PTE_G) && (cpu->cr4 & CR4_PGE);
    for (; !(access & ACCESS_PROBE) && e < path + format->levels; e++, bits = PTE_A)
        if (!update_entry(cpu, format, e, bits))
            return X86_AGAIN;
    return X86_NEXT;
}

enum x86_rc x86_walk(struct x86_cpu *cpu, gva_t lin, unsigned access, struct x86_walk *walk)
{
    const struct format *format = &format_32;
    gpa_t root = cpu->cr3 & BITS(12, 31);
    enum x86_rc rc = X86_AGAIN;

    if (!(cpu->cr0 & CR0_PG)) {
        *walk = (struct x86_walk){
            .page = lin & PAGE_MASK, .shift = PAGE_SHIFT, .writable = true, .user = true, .dirty = true};
        return X86_NEXT;
    }
    cpu->counters.page_walks++;
    if (x86_long_mode(cpu)) {
        format = &format_long;
        root = cpu->cr3 & BITS(12, 51);
    } else if (cpu->cr4 & CR4_PAE) {
        uint64_t pdpte = cpu->pdpte[lin >> 30 & 3];

        if (!(pdpte & PTE_P))
            return page_fault(cpu, lin, access, 0);
        format = &format_pae;
        root = pdpte & BITS(12, 51);
    }
    for (unsigned i = 0; rc == X86_AGAIN && i < WALK_TRIES; i++)
        rc = walk_once(cpu, format, root, lin, access, walk);
    if (rc == X86_AGAIN)
        return page_fault(cpu, lin, access, 0); /* spurious: the guest tries again */
    if (rc == X86_NEXT)
        TRACE(MMU, "walk %#llx to %#llx, %s%s%s, 1 << %u", (unsigned long long)lin, (unsigned long long)walk->page,
              walk->writable ? "w" : "r", walk->user ? "u" : "s", walk->no_execute ? "" : "x", walk->shift);
    return rc;
}

bool x86_load_pdptes(struct x86_cpu *cpu, uint64_t cr3)
{
    uint64_t pdpte[4];
    uint64_t reserved = BITS(1, 2) | BITS(5, 8) | BITS(x86_phys_bits(), 63);

    if (!x86_read_physical(cpu, cr3 & BITS(5, 31), pdpte, sizeof(pdpte)))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if ((pdpte[i] & PTE_P) && (pdpte[i] & reserved))
            return false;
    for (unsigned i = 0; i < 4; i++)
        cpu->pdpte[i] = pdpte[i];
    return true;
}
