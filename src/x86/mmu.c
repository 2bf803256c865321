/*
 * x86/mmu.c: the slow side of every memory access: fills the soft TLB, splits
 * accesses at page and MMIO edges, tells of writes to watched pages, checks
 * alignment and data breakpoints.
 */
#include "x86/mmu.h"

#include <string.h>

#include "base/log.h"
#include "x86/bus.h"
#include "x86/debug_internal.h"
#include "x86/intr.h"
#include "x86/mmu_internal.h"

/* Part of an access that lies in one page. */
struct piece {
    gpa_t gpa;
    uint8_t *host; /* of the first byte; NULL: not memory */
    unsigned flags;
    unsigned size;
};
struct pieces {
    struct piece piece[2];
    unsigned count;
};

unsigned x86_mmu_index(const struct x86_cpu *cpu, unsigned access)
{
    return x86_view_index(cpu, access);
}

uint8_t *x86_host_page(struct x86_cpu *cpu, gpa_t gpa, unsigned *flags)
{
    *flags = 0;
    if (x86_lapic_at(&cpu->lapic, gpa))
        return NULL;
    return cpu->bus->page(cpu, gpa & PAGE_MASK, flags);
}

static enum x86_rc check_canonical(struct x86_cpu *cpu, gva_t lin, unsigned access)
{
    if (likely(x86_canonical(lin)) || !x86_long_mode(cpu))
        return X86_NEXT;
    return x86_raise_error(cpu, access & ACCESS_STACK ? VEC_SS : VEC_GP, 0);
}

/* Accesses through descriptor tables use all of a 64-bit base, whatever the size of the code. */
static gva_t wrap(const struct x86_cpu *cpu, gva_t lin, unsigned access)
{
    if (access & ACCESS_IMPLICIT)
        return x86_long_mode(cpu) ? lin : (uint32_t)lin;
    return lin & cpu->lin_mask;
}

/* May writes go through the TLB? If the page turns out to be watched the flags say so. */
static bool may_write(struct x86_cpu *cpu, enum x86_mmu_index index, const struct x86_walk *walk, unsigned *flags)
{
    if (!walk->dirty || (*flags & (X86_PAGE_READONLY | X86_PAGE_WATCHED)) ||
        !x86_walk_allows(cpu, walk, index, ACCESS_WRITE))
        return false;
    if (!(*flags & X86_PAGE_SHARED) || cpu->bus->claim(cpu, walk->page))
        return true;
    *flags |= X86_PAGE_WATCHED;
    return false;
}

/* Makes the TLB entry for what a walk has found. Fetches are let through once there was one: x86_tlb_note_fetch(). */
static void fill(struct x86_cpu *cpu, gva_t lin, unsigned access, const struct x86_walk *walk, uint8_t *host,
                 unsigned *flags)
{
    const enum x86_mmu_index index = x86_mmu_index(cpu, access);
    struct x86_tlb_table *table = &cpu->tlb->space->table[index];
    struct x86_tlb_entry *e = x86_tlb_enter(cpu->tlb, table, lin, walk->page, walk->global);
    const gva_t tag = lin & PAGE_MASK, none = TLB_NO_TAG(e - table->entry);

    if ((access & ACCESS_KIND) == ACCESS_FETCH) {
        e->fetch = tag;
        x86_tlb_note_fetch(cpu, tag, walk->global);
    } else {
        e->read = x86_walk_allows(cpu, walk, index, ACCESS_READ) ? tag : none;
        e->write = may_write(cpu, index, walk, flags) ? tag : none;
    }
    e->host = host;
    cpu->tlb->space->used[index] = true;
    x86_tlb_note_large(cpu->tlb, lin, walk->shift);
}

static gva_t entry_tag(const struct x86_tlb_entry *e, unsigned kind)
{
    return kind == ACCESS_READ ? e->read : kind == ACCESS_WRITE ? e->write : e->fetch;
}

/* Translates lin, by the TLB or by a walk, for an access that stays in its page. */
static enum x86_rc translate(struct x86_cpu *cpu, gva_t lin, unsigned access, struct piece *piece)
{
    struct x86_tlb_table *table = &cpu->tlb->space->table[x86_mmu_index(cpu, access)];
    const struct x86_tlb_entry *e = x86_tlb_slot(table, lin);
    struct x86_walk walk;
    enum x86_rc rc;
    uint8_t *page;

    piece->flags = 0;
    if (entry_tag(e, access & ACCESS_KIND) == (lin & PAGE_MASK)) {
        piece->gpa = x86_tlb_gpa(table, e) | (lin & ~PAGE_MASK);
        piece->host = e->host + (lin & ~PAGE_MASK);
        return X86_NEXT;
    }
    rc = x86_walk(cpu, lin, access, &walk);
    if (rc)
        return rc;
    piece->gpa = walk.page | (lin & ~PAGE_MASK);
    page = x86_host_page(cpu, walk.page, &piece->flags);
    piece->host = page ? page + (lin & ~PAGE_MASK) : NULL;
    if (access & ACCESS_PROBE)
        return X86_NEXT;
    cpu->counters.tlb_misses++;
    if (page)
        fill(cpu, lin, access, &walk, page, &piece->flags);
    return X86_NEXT;
}

bool x86_tlb_load(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access)
{
    struct x86_tlb *tlb = cpu->tlb;
    const gva_t page = lin & PAGE_MASK;
    struct piece piece;

    if (tlb->current == &tlb->none || (lin & ~PAGE_MASK) + size > PAGE_SIZE ||
        entry_tag(x86_tlb_slot(tlb->current, lin), access) == page || (x86_long_mode(cpu) && !x86_canonical(lin)) ||
        translate(cpu, lin, access, &piece))
        return false;
    return entry_tag(x86_tlb_slot(tlb->current, lin), access) == page;
}

/* Operands of other sizes are structures: far pointers, pseudo-descriptors, saved state (SDM vol. 3, table 6-7). */
static unsigned natural_alignment(unsigned size)
{
    switch (size) {
    case 1:
    case 2:
    case 4:
    case 8:
    case 16:
        return size;
    case 32: /* of 256 bits too */
        return 16;
    case 10:
        return 8;
    case 14: /* FLDENV, FRSTOR of 16 bits */
    case 94:
        return 2;
    default:
        return 4;
    }
}

static enum x86_rc check_alignment(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access)
{
    if (likely(!(cpu->cr0 & CR0_AM)) || !(cpu->rflags & FLAG_AC) || cpu->cpl != 3 ||
        (access & (ACCESS_IMPLICIT | ACCESS_UNALIGNED)))
        return X86_NEXT;
    if (lin & (natural_alignment(size) - 1))
        return x86_raise_error(cpu, VEC_AC, 0);
    return X86_NEXT;
}

/* Translates a whole access, with every check there is. */
static enum x86_rc prepare(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access, struct pieces *pieces)
{
    unsigned first = (unsigned)MIN((uint64_t)size, PAGE_SIZE - (lin & ~PAGE_MASK));
    gva_t next = wrap(cpu, lin + first, access);
    enum x86_rc rc;

    if (!(access & ACCESS_PROBE))
        cpu->counters.tlb_slow++;
    lin = wrap(cpu, lin, access);
    pieces->count = 1;
    pieces->piece[0].size = first;
    if ((rc = check_canonical(cpu, lin, access)))
        return rc;
    if (first < size) {
        pieces->count = 2;
        pieces->piece[1].size = size - first;
        if ((rc = check_canonical(cpu, next, access)))
            return rc;
    }
    if ((rc = check_alignment(cpu, lin, size, access))) /* before any page fault, as processors do */
        return rc;
    if ((rc = translate(cpu, lin, access, &pieces->piece[0])))
        return rc;
    return first < size ? translate(cpu, next, access, &pieces->piece[1]) : X86_NEXT;
}

/* One piece that is not memory, in naturally aligned parts of up to 8 bytes. */
static enum x86_rc mmio(struct x86_cpu *cpu, const struct piece *piece, uint8_t *data, bool write)
{
    for (unsigned done = 0; done < piece->size;) {
        gpa_t gpa = piece->gpa + done;
        unsigned part = 8;
        uint64_t value = 0;
        enum x86_rc rc;

        while (part > piece->size - done || (gpa & (part - 1)))
            part /= 2;
        if (write)
            memcpy(&value, data + done, part);
        rc = cpu->bus->mmio(cpu, gpa, &value, part, write);
        if (rc)
            return rc;
        if (!write)
            memcpy(data + done, &value, part);
        done += part;
    }
    return X86_NEXT;
}

/* An aligned operand is read and written at once, as other processors see it. */
static void copy(void *to, const void *from, unsigned size)
{
    switch (size) {
    case 1:
        memcpy(to, from, 1);
        break;
    case 2:
        memcpy(to, from, 2);
        break;
    case 4:
        memcpy(to, from, 4);
        break;
    case 8:
        memcpy(to, from, 8);
        break;
    default:
        memcpy(to, from, size);
    }
}

static enum x86_rc not_for_probes(struct x86_cpu *cpu, unsigned access, const struct pieces *pieces)
{
    for (unsigned i = 0; (access & ACCESS_PROBE) && i < pieces->count; i++)
        if (!pieces->piece[i].host)
            return x86_raise_gp(cpu, 0);
    return X86_NEXT;
}

enum x86_rc x86_read_linear(struct x86_cpu *cpu, gva_t lin, void *data, unsigned size, unsigned access)
{
    struct pieces pieces;
    uint8_t *to = data;
    enum x86_rc rc = prepare(cpu, lin, size, access, &pieces);

    if (rc || (rc = not_for_probes(cpu, access, &pieces)))
        return rc;
    for (unsigned i = 0; i < pieces.count; to += pieces.piece[i++].size) {
        const struct piece *p = &pieces.piece[i];

        if (p->host)
            copy(to, p->host, p->size);
        else if ((rc = mmio(cpu, p, to, false)))
            return rc;
    }
    if (!(access & (ACCESS_IMPLICIT | ACCESS_PROBE)))
        x86_check_breakpoints(cpu, lin, size, false);
    return X86_NEXT;
}

static bool is_ram(const struct piece *p)
{
    return p->host && !(p->flags & X86_PAGE_READONLY);
}

enum x86_rc x86_write_linear(struct x86_cpu *cpu, gva_t lin, const void *data, unsigned size, unsigned access)
{
    struct pieces pieces;
    uint8_t *from = (uint8_t *)(uintptr_t)data;
    enum x86_rc rc = prepare(cpu, lin, size, (access & ~ACCESS_KIND) | ACCESS_WRITE, &pieces);

    if (rc || (rc = not_for_probes(cpu, access, &pieces)))
        return rc;
    /* What may still want an exit goes first: memory changes when nothing can stop the instruction any more. */
    for (unsigned i = 0, at = 0; i < pieces.count; at += pieces.piece[i++].size)
        if (!is_ram(&pieces.piece[i]) && (rc = mmio(cpu, &pieces.piece[i], from + at, true)))
            return rc;
    for (unsigned i = 0, at = 0; i < pieces.count; at += pieces.piece[i++].size) {
        const struct piece *p = &pieces.piece[i];

        if (!is_ram(p))
            continue;
        copy(p->host, from + at, p->size);
        if (p->flags & (X86_PAGE_WATCHED | X86_PAGE_SHARED))
            cpu->bus->written(cpu, p->gpa, p->size);
    }
    if (!(access & (ACCESS_IMPLICIT | ACCESS_PROBE)))
        x86_check_breakpoints(cpu, lin, size, true);
    return X86_NEXT;
}

enum x86_rc x86_translate(struct x86_cpu *cpu, gva_t lin, unsigned access, gpa_t *gpa)
{
    struct pieces pieces;
    enum x86_rc rc = prepare(cpu, lin, 1, access, &pieces);

    if (!rc)
        *gpa = pieces.piece[0].gpa;
    return rc;
}

static bool physical(struct x86_cpu *cpu, gpa_t gpa, uint8_t *data, unsigned size, bool write)
{
    for (unsigned part; size; gpa += part, data += part, size -= part) {
        unsigned flags;
        uint8_t *page = cpu->bus->page(cpu, gpa & PAGE_MASK, &flags);

        part = (unsigned)MIN((uint64_t)size, PAGE_SIZE - (gpa & ~PAGE_MASK));
        if (!page || (write && (flags & X86_PAGE_READONLY)))
            return false;
        if (!write) {
            copy(data, page + (gpa & ~PAGE_MASK), part);
            continue;
        }
        copy(page + (gpa & ~PAGE_MASK), data, part);
        if (flags & (X86_PAGE_WATCHED | X86_PAGE_SHARED))
            cpu->bus->written(cpu, gpa, part);
    }
    return true;
}

bool x86_read_physical(struct x86_cpu *cpu, gpa_t gpa, void *data, unsigned size)
{
    return physical(cpu, gpa, data, size, false);
}

bool x86_write_physical(struct x86_cpu *cpu, gpa_t gpa, const void *data, unsigned size)
{
    return physical(cpu, gpa, (uint8_t *)(uintptr_t)data, size, true);
}

struct x86_tlb_entry *x86_fetch_entry(struct x86_cpu *cpu, gva_t lin, bool *mmio_page)
{
    struct x86_tlb_entry *e;
    struct piece piece;

    *mmio_page = false;
    lin = wrap(cpu, lin, ACCESS_FETCH);
    if (check_canonical(cpu, lin, ACCESS_FETCH) || translate(cpu, lin, ACCESS_FETCH, &piece))
        return NULL;
    e = x86_tlb_slot(cpu->tlb->table, lin);
    if (!piece.host) {
        *mmio_page = true;
        return NULL;
    }
    return e;
}

enum x86_rc x86_rmw_prepare(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access, void **host, bool *watched)
{
    struct pieces pieces;
    enum x86_rc rc = prepare(cpu, lin, size, (access & ~ACCESS_KIND) | ACCESS_WRITE, &pieces);

    *host = NULL;
    if (rc || pieces.count > 1 || !is_ram(&pieces.piece[0]))
        return rc;
    *host = pieces.piece[0].host;
    *watched = pieces.piece[0].flags & X86_PAGE_WATCHED;
    if (!(access & ACCESS_IMPLICIT))
        x86_check_breakpoints(cpu, lin, size, true);
    return X86_NEXT;
}

enum x86_rc x86_rmw_pointer(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access, void **host)
{
    bool watched;

    return x86_rmw_prepare(cpu, lin, size, access, host, &watched);
}

void x86_rmw_written(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access)
{
    struct piece piece;

    access = (access & ~ACCESS_KIND) | ACCESS_WRITE | ACCESS_PROBE;
    if (!translate(cpu, wrap(cpu, lin, access), access, &piece) && piece.host &&
        (piece.flags & (X86_PAGE_WATCHED | X86_PAGE_SHARED)))
        cpu->bus->written(cpu, piece.gpa, size);
}

/* Breakpoints of the given types (bit t: type t) that touch [at, at + size) go to dr6_hit. */
static void check_breakpoints(struct x86_cpu *cpu, uint64_t at, unsigned size, unsigned types)
{
    for (unsigned n = 0; n < 4; n++) {
        unsigned len = x86_breakpoint_size(cpu, n);
        uint64_t start = cpu->dr[n] & ~(uint64_t)(len - 1);

        if (x86_breakpoint_enabled(cpu, n) && (types >> x86_breakpoint_type(cpu, n) & 1) &&
            (at - start < len || start - at < size))
            cpu->dr6_hit |= (uint8_t)(1u << n);
    }
}

void x86_check_breakpoints(struct x86_cpu *cpu, gva_t lin, unsigned size, bool write)
{
    if (unlikely(x86_breakpoints_enabled(cpu)))
        check_breakpoints(cpu, wrap(cpu, lin, 0), size, 1u << DR7_READ_WRITE | (write ? 1u << DR7_WRITE : 0));
}

void x86_check_io_breakpoints(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
    if (unlikely(x86_breakpoints_enabled(cpu)) && (cpu->cr4 & CR4_DE))
        check_breakpoints(cpu, port, size, 1u << DR7_IO);
}
