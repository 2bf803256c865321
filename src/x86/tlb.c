/*
 * x86/tlb.c: the soft TLB's tables: address spaces, flushes, selection
 * of the table that fast accesses look into. Entries are made in x86/mmu.c.
 */
#include "x86/tlb.h"

#include <string.h>

#include "base/log.h"
#include "x86/cpu.h"
#include "x86/view.h"

static unsigned entries(const struct x86_tlb_table *table)
{
    return table->mask / sizeof(struct x86_tlb_entry) + 1;
}

static void drop(struct x86_tlb_table *table, unsigned slot)
{
    struct x86_tlb_entry *e = &table->entry[slot];

    e->read = e->write = e->fetch = TLB_NO_TAG(slot);
    table->gpa[slot] = 0;
}

static void set_size(struct x86_tlb_table *table, unsigned count)
{
    table->mask = (uint32_t)((count - 1) * sizeof(struct x86_tlb_entry));
    table->replaced = 0;
}

/* Empty, as small as they come. */
static void make(struct x86_tlb_table *table)
{
    set_size(table, 1u << TLB_MIN_BITS);
    table->local.fills = table->global.fills = 0;
    for (unsigned slot = 0; slot < entries(table); slot++)
        drop(table, slot);
}

/* Any of the tags of a filled entry is that of a page that belongs in the slot. false: it is empty. */
static bool page_of(const struct x86_tlb_table *table, unsigned slot, gva_t *page)
{
    const struct x86_tlb_entry *e = &table->entry[slot];
    const gva_t none = TLB_NO_TAG(slot);

    *page = e->read != none ? e->read : e->write != none ? e->write : e->fetch;
    return *page != none;
}

/* --- what was filled ---------------------------------------------------------------------------- */

typedef void slot_fn(struct x86_tlb_table *table, unsigned slot, uint64_t arg, unsigned shift);

static inline __attribute__((always_inline)) void for_each_slot(struct x86_tlb_table *table, slot_fn *fn, uint64_t arg,
                                                                unsigned shift)
{
    if (table->local.fills > TLB_LOG || table->global.fills > TLB_LOG) {
        for (unsigned slot = 0; slot < entries(table); slot++)
            fn(table, slot, arg, shift);
        return;
    }
    for (unsigned i = 0; i < table->local.fills; i++)
        fn(table, table->local.slot[i], arg, shift);
    for (unsigned i = 0; i < table->global.fills; i++)
        fn(table, table->global.slot[i], arg, shift);
}

static void note_fill(struct x86_tlb_log *log, unsigned slot)
{
    if (log->fills < TLB_LOG)
        log->slot[log->fills] = (uint16_t)slot;
    if (log->fills < 1u << TLB_MAX_BITS)
        log->fills++;
}

/* After a change of all of it. */
static void note_all(struct x86_tlb_table *table)
{
    gva_t page;

    table->local.fills = table->global.fills = 0;
    for (unsigned slot = 0; slot < entries(table); slot++)
        if (page_of(table, slot, &page))
            note_fill(table->gpa[slot] & TLB_GLOBAL ? &table->global : &table->local, slot);
}

/* --- size ------------------------------------------------------------------------------------------ */

static void move(struct x86_tlb_table *table, unsigned from, unsigned to)
{
    gva_t page;

    if (!page_of(table, to, &page)) {
        const struct x86_tlb_entry e = table->entry[from];
        const gva_t none = TLB_NO_TAG(from);

        table->entry[to].read = e.read == none ? TLB_NO_TAG(to) : e.read;
        table->entry[to].write = e.write == none ? TLB_NO_TAG(to) : e.write;
        table->entry[to].fetch = e.fetch == none ? TLB_NO_TAG(to) : e.fetch;
        table->entry[to].host = e.host;
        table->gpa[to] = table->gpa[from];
    }
    drop(table, from);
}

static void grow(struct x86_tlb_table *table)
{
    const unsigned old = entries(table);
    gva_t page;

    for (unsigned slot = old; slot < 2 * old; slot++)
        drop(table, slot);
    for (unsigned slot = 0; slot < old; slot++)
        if (page_of(table, slot, &page) && (page >> PAGE_SHIFT & old))
            move(table, slot, slot + old);
    set_size(table, 2 * old);
    note_all(table);
}

static void shrink(struct x86_tlb_table *table)
{
    const unsigned half = entries(table) / 2;
    gva_t page;

    for (unsigned slot = half; slot < 2 * half; slot++)
        if (page_of(table, slot, &page))
            move(table, slot, slot - half);
    set_size(table, half);
    note_all(table);
}

static bool is_too_large(const struct x86_tlb_table *table)
{
    return table->local.fills + table->global.fills < entries(table) / 8 && entries(table) > 1u << TLB_MIN_BITS;
}

struct x86_tlb_entry *x86_tlb_enter(struct x86_tlb *tlb, struct x86_tlb_table *table, gva_t lin, gpa_t gpa, bool global)
{
    unsigned slot = (unsigned)(x86_tlb_slot(table, lin) - table->entry);
    bool other;
    gva_t page;

    if (page_of(table, slot, &page) && page != (lin & PAGE_MASK) && ++table->replaced > entries(table) / 2 &&
        entries(table) < 1u << TLB_MAX_BITS) {
        grow(table);
        tlb->fetch_mask = tlb->table->mask;
        slot = (unsigned)(x86_tlb_slot(table, lin) - table->entry);
    }
    other = !page_of(table, slot, &page) || page != (lin & PAGE_MASK);
    if (other)
        drop(table, slot);
    if (other || global != (table->gpa[slot] & TLB_GLOBAL))
        note_fill(global ? &table->global : &table->local, slot);
    table->gpa[slot] = gpa | (global ? TLB_GLOBAL : 0);
    return &table->entry[slot];
}

/* --- flushes ------------------------------------------------------------------------------------------ */

static void drop_slot(struct x86_tlb_table *table, unsigned slot, uint64_t arg, unsigned shift)
{
    drop(table, slot);
}

static void drop_local(struct x86_tlb_table *table, unsigned slot)
{
    if (!(table->gpa[slot] & TLB_GLOBAL))
        drop(table, slot);
}

static void clear(struct x86_tlb_table *table)
{
    for_each_slot(table, drop_slot, 0, 0);
    if (is_too_large(table))
        set_size(table, entries(table) / 2);
    table->local.fills = table->global.fills = table->replaced = 0;
}

static void clear_local(struct x86_tlb_table *table)
{
    const bool too_large = is_too_large(table), any = table->local.fills > TLB_LOG;

    for (unsigned i = 0; i < (any ? entries(table) : table->local.fills); i++)
        drop_local(table, any ? i : table->local.slot[i]);
    table->local.fills = table->replaced = 0;
    if (too_large)
        shrink(table);
    else if (any)
        note_all(table);
}

static void make_space(struct x86_tlb_space *space)
{
    for (unsigned i = 0; i < MMU_INDEXES; i++) {
        make(&space->table[i]);
        space->used[i] = false;
    }
    space->ready = true;
}

static void clear_space(struct x86_tlb *tlb, struct x86_tlb_space *space, void (*fn)(struct x86_tlb_table *table))
{
    space->id = ++tlb->ids;
    for (unsigned i = 0; i < MMU_INDEXES && space->ready; i++) {
        if (space->used[i])
            fn(&space->table[i]);
        space->used[i] = space->table[i].local.fills || space->table[i].global.fills;
    }
    if (tlb->table)
        tlb->fetch_mask = tlb->table->mask;
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

/* --- contexts ------------------------------------------------------------------------------------------ */

static unsigned fetched_bit(gva_t lin)
{
    return (unsigned)((lin >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 32) % TLB_FETCHED;
}

void x86_tlb_note_fetch(struct x86_cpu *cpu, gva_t lin, bool global)
{
    struct x86_tlb *tlb = cpu->tlb;
    const unsigned bit = fetched_bit(lin);

    tlb->fetched_bits += !(tlb->fetched[bit / 64] & BIT(bit % 64));
    tlb->fetched[bit / 64] |= BIT(bit % 64);
    if (x86_view_is_kernel(cpu) && (!global || !(lin >> 63))) {
        tlb->local_code = true;
        x86_view_set_context(cpu);
    }
}

/* What was fetched from at lin may be another page's now. */
static void renew_contexts(struct x86_tlb *tlb, gva_t lin)
{
    for (unsigned i = 0; i < TLB_SPACES; i++)
        tlb->spaces[i].id = ++tlb->ids;
    if (lin >> 63)
        tlb->kernel_id = ++tlb->ids;
}

void x86_tlb_select(struct x86_cpu *cpu)
{
    x86_view_select(cpu);
}

void x86_tlb_seed(struct x86_tlb *tlb, uint64_t key, uint64_t no_stack)
{
    tlb->key = key | 1;
    tlb->no_stack = BIT(63) | (no_stack & (BIT(62) - 1) & PAGE_MASK); /* not canonical: bits 63 and 62 differ */
    x86_view_forget_stack(tlb);
}

void x86_tlb_init(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;

    memset(tlb, 0, offsetof(struct x86_tlb, none));
    x86_tlb_seed(tlb, 0x9e3779b97f4a7c15ull, 0);
    make(&tlb->none);
    tlb->kernel_id = ++tlb->ids; /* no id is 0: no context is */
    for (unsigned i = 0; i < TLB_SPACES; i++)
        tlb->spaces[i].valid = tlb->spaces[i].ready = false;
    x86_tlb_switch(cpu, current_pcid(cpu), true);
}

static void flush(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;

    TRACE(MMU, "flush all");
    for (unsigned i = 0; i < TLB_SPACES; i++) {
        clear_space(tlb, &tlb->spaces[i], clear);
        tlb->spaces[i].valid = false;
    }
    memset(tlb->large, 0, sizeof(tlb->large));
    tlb->huge = 0;
    memset(tlb->fetched, 0, sizeof(tlb->fetched));
    tlb->fetched_bits = 0;
    tlb->local_code = false;
    tlb->kernel_id = ++tlb->ids;
    x86_tlb_switch(cpu, current_pcid(cpu), true);
}

void x86_tlb_flush(struct x86_cpu *cpu)
{
    cpu->tlb->shadow.gone = true;
    flush(cpu);
}

void x86_tlb_flush_local(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;

    for (unsigned i = 0; i < TLB_SPACES; i++)
        clear_space(tlb, &tlb->spaces[i], clear_local);
    x86_tlb_select(cpu);
}

void x86_tlb_switch(struct x86_cpu *cpu, uint16_t pcid, bool flush)
{
    struct x86_tlb *tlb = cpu->tlb;
    struct x86_tlb_space *space = find_space(tlb, pcid);

    if (!space) {
        space = &tlb->spaces[tlb->victim++ % TLB_SPACES];
        if (!space->ready)
            make_space(space);
        flush = true;
    }
    if (flush) {
        cpu->counters.tlb_flushes++;
        TRACE(MMU, "flush address space, pcid %u", pcid);
        clear_space(tlb, space, clear_local);
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
        clear_space(tlb, space, clear_local);
    x86_tlb_select(cpu);
}

/* Calls fn for each table that may have entries. */
static void for_each_table(struct x86_tlb *tlb, void (*fn)(struct x86_tlb_table *table, uint64_t arg, unsigned shift),
                           uint64_t arg, unsigned shift)
{
    for (unsigned i = 0; i < TLB_SPACES; i++)
        for (unsigned n = 0; n < MMU_INDEXES; n++)
            if (tlb->spaces[i].ready && tlb->spaces[i].used[n])
                fn(&tlb->spaces[i].table[n], arg, shift);
}

/* Drops what lies in the same naturally aligned 1 << shift bytes as lin. */
static void drop_slot_region(struct x86_tlb_table *table, unsigned slot, uint64_t lin, unsigned shift)
{
    gva_t page;

    if (page_of(table, slot, &page) && (page ^ lin) >> shift == 0)
        drop(table, slot);
}

static void drop_region(struct x86_tlb_table *table, uint64_t lin, unsigned shift)
{
    for_each_slot(table, drop_slot_region, lin, shift);
}

static void drop_page(struct x86_tlb_table *table, uint64_t lin, unsigned shift)
{
    drop_slot_region(table, (unsigned)(x86_tlb_slot(table, lin) - table->entry), lin, shift);
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

void x86_tlb_note_large(struct x86_tlb *tlb, gva_t lin, unsigned shift)
{
    unsigned bit = (lin >> TLB_LARGE_SHIFT) % (64 * ARRAY_SIZE(tlb->large));

    if (shift >= TLB_HUGE_SHIFT)
        tlb->huge |= BIT(lin >> TLB_HUGE_SHIFT & 63);
    else if (shift > PAGE_SHIFT)
        tlb->large[bit / 64] |= BIT(bit % 64);
}

/* Of a large page all may have changed. */
static void note_shadow(struct x86_tlb_shadow *shadow, unsigned pages, gva_t lin)
{
    if (!shadow->on)
        return;
    if (shadow->flushed < TLB_SHADOW_LOG)
        shadow->page[shadow->flushed] = lin & PAGE_MASK;
    shadow->flushed = MIN(shadow->flushed + pages, TLB_SHADOW_LOG + 1);
}

void x86_tlb_flush_page(struct x86_cpu *cpu, gva_t lin)
{
    struct x86_tlb *tlb = cpu->tlb;
    unsigned bit = (lin >> TLB_LARGE_SHIFT) % (64 * ARRAY_SIZE(tlb->large));

    const bool large = tlb->large[bit / 64] & BIT(bit % 64), huge = tlb->huge & BIT(lin >> TLB_HUGE_SHIFT & 63);
    const unsigned fetched = fetched_bit(lin);

    TRACE(MMU, "flush page %#llx", (unsigned long long)lin);
    if (tlb->fetched_bits > TLB_FETCHED / 4) { /* it would tell little */
        flush(cpu);
        return;
    }
    note_shadow(&tlb->shadow, large || huge ? TLB_SHADOW_LOG + 1 : 1, lin);
    if (large || huge || (tlb->fetched[fetched / 64] & BIT(fetched % 64)))
        renew_contexts(tlb, lin);
    if (huge)
        for_each_table(tlb, drop_region, lin, TLB_HUGE_SHIFT);
    else if (large)
        for_each_table(tlb, drop_region, lin, TLB_LARGE_SHIFT);
    else
        for_each_table(tlb, drop_page, lin, PAGE_SHIFT);
    x86_tlb_select(cpu);
}

void x86_tlb_protect_gpa(struct x86_cpu *cpu, gpa_t gpa)
{
    for_each_table(cpu->tlb, protect_gpa, gpa, PAGE_SHIFT);
    x86_view_forget_stack(cpu->tlb);
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
    x86_view_forget_stack(cpu->tlb);
}
