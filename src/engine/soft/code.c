/*
 * engine/soft/code.c: decoded instructions, kept by guest-physical address
 * and mode, so that they survive process switches and serve shared pages.
 *
 * A page that holds decoded code is watched: its soft-TLB entries lose their
 * write tag, every write to it comes through code_written(), and the blocks
 * that the write overlaps are dropped. A block being executed is dropped like
 * any other: cpu.code_changed tells the run loop to leave it, and its memory is
 * freed only between blocks.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/soft/soft.h"
#include "x86/access.h"
#include "x86/zydis.h"

/* Decoded instructions that a vCPU keeps, not counting those the engine has translated: so much at first, and up to a
 * share of the code cache's bound if that is too little for what the guest runs. */
#define FIRST_BYTES MIB(8)
#define LEAST_BYTES MIB(4)
#define CACHE_SHARE 4

struct code_page {
    gpa_t gpa;
    struct code_page *next;
    struct block *blocks;
    uint64_t lines; /* bit i: bytes [64 i, 64 i + 64) may hold decoded code */
    unsigned place; /* code_place() */
};

static unsigned jump_slot(uint64_t key)
{
    return (unsigned)((key >> BLOCK_KEY_SHIFT ^ key >> (BLOCK_KEY_SHIFT + 11)) & ((1u << JUMP_CACHE_BITS) - 1));
}

static unsigned page_slot(gpa_t gpa)
{
    return (unsigned)((gpa >> PAGE_SHIFT) & ((1u << PAGE_HASH_BITS) - 1));
}

static unsigned watch_slot(gpa_t gpa)
{
    return (unsigned)((gpa >> PAGE_SHIFT) & ((1u << CODE_WATCH_BITS) - 1));
}

/* --- all blocks, by key ------------------------------------------------------------------------------------- */

#define REF_TAG_SHIFT 48   /* user space ends below */
#define REF_GONE      1ull /* a block was there: others may lie behind */

static uint64_t hash_of(uint64_t key)
{
    return key * 0x9e3779b97f4a7c15ull;
}

/* Never 0. */
static uint64_t tag_of(uint64_t key)
{
    return (hash_of(key) >> 28 | 1) << REF_TAG_SHIFT;
}

static struct block *block_of(block_ref ref)
{
    return (struct block *)(ref & (BIT(REF_TAG_SHIFT) - 1));
}

static bool refers_to(block_ref ref, uint64_t key)
{
    return (ref ^ tag_of(key)) >> REF_TAG_SHIFT == 0 && block_of(ref)->key == key;
}

static size_t slot_count(const struct code_cache *code)
{
    return code->slot ? (size_t)1 << code->slot_bits : 0;
}

static size_t first_slot(const struct code_cache *code, uint64_t key)
{
    return hash_of(key) >> (64 - code->slot_bits);
}

static size_t next_slot(const struct code_cache *code, size_t i)
{
    return (i + 1) & (slot_count(code) - 1);
}

static void enter_ref(struct code_cache *code, block_ref ref, uint64_t key)
{
    size_t i = first_slot(code, key);

    while (code->slot[i])
        i = next_slot(code, i);
    code->slot[i] = ref;
    code->slots_used++;
}

/* At least half of the slots stay empty, or as many as there is memory for. */
static bool make_room(struct code_cache *code)
{
    const size_t count = slot_count(code);
    block_ref *old = code->slot, *slot;
    unsigned bits;

    if (likely(code->slots_used < count / 2))
        return true;
    bits = !count ? BLOCK_SLOT_BITS : code->slot_bits + (code->blocks >= count / 4);
    slot = calloc((size_t)1 << bits, sizeof(*slot));
    if (!slot)
        return code->slots_used + 1 < count;
    code->slot = slot;
    code->slot_bits = bits;
    code->slots_used = 0;
    for (size_t i = 0; i < count; i++)
        if (old[i] > REF_GONE)
            enter_ref(code, old[i], block_of(old[i])->key);
    free(old);
    return true;
}

static struct block *find_block(const struct code_cache *code, uint64_t key)
{
    if (unlikely(!code->slot))
        return NULL;
    for (size_t i = first_slot(code, key); code->slot[i]; i = next_slot(code, i))
        if (refers_to(code->slot[i], key))
            return block_of(code->slot[i]);
    return NULL;
}

static void forget_block(struct code_cache *code, const struct block *block)
{
    const block_ref ref = (uint64_t)block | tag_of(block->key);
    size_t i = first_slot(code, block->key);

    while (code->slot[i] != ref)
        i = next_slot(code, i);
    code->slot[i] = REF_GONE;
    code->blocks--;
    if (code->jump[jump_slot(block->key)] == ref)
        code->jump[jump_slot(block->key)] = 0;
}

/* --- pages ---------------------------------------------------------------------------------------------------- */

static struct code_page *find_page(const struct code_cache *code, gpa_t gpa)
{
    struct code_page *page = code->pages[page_slot(gpa)];

    while (page && page->gpa != gpa)
        page = page->next;
    return page;
}

/* The page's record; a new one begins to be watched. NULL: no memory. */
static struct code_page *watch_page(struct soft_vcpu *vcpu, gpa_t gpa)
{
    struct code_cache *code = &vcpu->code;
    struct code_page *page = find_page(code, gpa);

    if (page)
        return page;
    page = calloc(1, sizeof(*page));
    if (!page)
        return NULL;
    page->gpa = gpa;
    page->next = code->pages[page_slot(gpa)];
    code->pages[page_slot(gpa)] = page;
    atomic_fetch_add(&code->watched[watch_slot(gpa)], 1);
    if (vcpu->vm->share.on)
        soft_share_hold(vcpu, gpa);
    else
        soft_protect(vcpu, gpa);
    return page;
}

unsigned code_place(struct soft_vcpu *vcpu, const struct block *block)
{
    struct code_cache *code = &vcpu->code;
    struct code_page *page = find_page(code, block_gpa(block) & PAGE_MASK);

    if (page->place)
        return page->place;
    page->place = code->free_place;
    if (page->place)
        code->free_place = (unsigned)code->place[page->place];
    else if (code->places + 1 < CODE_PLACES)
        page->place = ++code->places;
    code->place[page->place] = 0;
    return page->place;
}

static void free_place(struct code_cache *code, unsigned place)
{
    if (!place)
        return;
    code->place[place] = code->free_place;
    code->free_place = place;
}

uint64_t code_lines(unsigned offset, unsigned len)
{
    unsigned first = offset / 64, last = (offset + len - 1) / 64;

    return (~0ull >> (63 - last)) & (~0ull << first);
}

/* How much of the block lies in the page it begins in. */
static unsigned block_extent(const struct block *block)
{
    return (unsigned)MIN(block->bytes, PAGE_SIZE - (block_gpa(block) & ~PAGE_MASK));
}

static void unlink_block(struct soft_vcpu *vcpu, struct block *block)
{
    struct code_cache *code = &vcpu->code;

    forget_block(code, block);
    block->page_next = code->dropped;
    block->dropped = true;
    code->dropped = block;
    if (vcpu->vm->hooks->dropped)
        vcpu->vm->hooks->dropped(vcpu, block);
    vcpu->cpu.code_changed = true;
    vcpu->cpu.counters.code_dropped++;
}

static void drop_page(struct soft_vcpu *vcpu, struct code_page *page)
{
    struct code_cache *code = &vcpu->code;
    struct code_page **link = &code->pages[page_slot(page->gpa)];

    while (*link != page)
        link = &(*link)->next;
    *link = page->next;
    atomic_fetch_sub(&code->watched[watch_slot(page->gpa)], 1);
    if (vcpu->vm->share.on)
        soft_share_release(vcpu, page->gpa);
    free_place(code, page->place);
    free(page);
}

static void page_written(struct soft_vcpu *vcpu, gpa_t gpa, unsigned len)
{
    struct code_page *page = find_page(&vcpu->code, gpa & PAGE_MASK);
    unsigned offset = (unsigned)(gpa & ~PAGE_MASK);
    struct block **link;

    if (!page)
        return;
    vcpu->cpu.counters.code_writes++;
    if (!(page->lines & code_lines(offset, len)))
        return;
    page->lines = 0;
    for (link = &page->blocks; *link;) {
        struct block *block = *link;
        unsigned start = (unsigned)(block_gpa(block) & ~PAGE_MASK);

        if (start < offset + len && offset < start + block_extent(block)) {
            *link = block->page_next;
            unlink_block(vcpu, block);
        } else {
            page->lines |= code_lines(start, block_extent(block));
            link = &block->page_next;
        }
    }
    if (!page->blocks)
        drop_page(vcpu, page);
}

void code_written(struct soft_vcpu *vcpu, gpa_t gpa, uint64_t len)
{
    while (len) {
        unsigned piece = (unsigned)MIN(len, PAGE_SIZE - (gpa & ~PAGE_MASK));

        page_written(vcpu, gpa, piece);
        gpa += piece;
        len -= piece;
    }
}

bool code_may_be_in(const struct soft_vcpu *vcpu, gpa_t gpa, uint64_t len)
{
    gpa_t first = gpa & PAGE_MASK;

    if (len > PAGE_SIZE << CODE_WATCH_BITS)
        return true;
    for (gpa_t page = first; page < gpa + len; page += PAGE_SIZE)
        if (atomic_load(&vcpu->code.watched[watch_slot(page)]))
            return true;
    return false;
}

bool code_watched(const struct soft_vcpu *vcpu, gpa_t page)
{
    const struct code_cache *code = &vcpu->code;

    return atomic_load_explicit(&code->watched[watch_slot(page)], memory_order_relaxed) && find_page(code, page);
}

static void free_list(struct soft_vcpu *vcpu, struct block *block)
{
    while (block) {
        struct block *next = block->page_next;

        vcpu->code.bytes -= block_size(block);
        if (block->text)
            text_release(vcpu->vm->texts, block->text);
        free(block);
        block = next;
    }
}

void code_free(struct soft_vcpu *vcpu)
{
    struct code_cache *code = &vcpu->code;

    if (vcpu->vm->hooks->flushed)
        vcpu->vm->hooks->flushed(vcpu);
    for (unsigned i = 0; i < ARRAY_SIZE(code->pages); i++) {
        while (code->pages[i]) {
            struct code_page *page = code->pages[i];

            free_list(vcpu, page->blocks);
            drop_page(vcpu, page);
        }
    }
    free_list(vcpu, code->dropped);
    free(code->slot);
    memset(code, 0, offsetof(struct code_cache, watched)); /* that has counted down to 0; others look at it */
    vcpu->cpu.counters.code_flushed++;
}

static size_t most_bytes(const struct soft_vcpu *vcpu)
{
    return MAX(vcpu->vm->code_cache / CACHE_SHARE, LEAST_BYTES);
}

static bool is_full(struct soft_vcpu *vcpu)
{
    struct code_cache *code = &vcpu->code;

    if (likely(code->bytes <= code->bound))
        return false;
    if (!code->bound)
        code->bound = MIN(FIRST_BYTES, most_bytes(vcpu));
    else if (ghosts_many(&code->ghosts))
        code->bound = MIN(2 * code->bound, most_bytes(vcpu));
    return code->bytes > code->bound;
}

/* Makes room: page after page loses the blocks that are not translated, until an eighth is free. */
static void evict(struct soft_vcpu *vcpu)
{
    struct code_cache *code = &vcpu->code;
    const size_t enough = code->bound / 8;
    size_t dropped = 0;

    for (unsigned n = 0; n < ARRAY_SIZE(code->pages) && dropped < enough; n++) {
        struct code_page *page = code->pages[code->hand++ % ARRAY_SIZE(code->pages)], *next;

        for (; page; page = next) {
            struct block **link = &page->blocks;

            next = page->next;
            while (*link) {
                struct block *block = *link;

                if (block->translation) {
                    link = &block->page_next;
                    continue;
                }
                dropped += block_size(block);
                vcpu->cpu.counters.code_evicted++;
                ghosts_put_out(&code->ghosts, block->key);
                *link = block->page_next;
                unlink_block(vcpu, block);
            }
            if (!page->blocks)
                drop_page(vcpu, page);
        }
    }
}

void code_sweep(struct soft_vcpu *vcpu)
{
    if (unlikely(is_full(vcpu)))
        evict(vcpu);
    if (unlikely(vcpu->code.dropped != NULL)) {
        free_list(vcpu, vcpu->code.dropped);
        vcpu->code.dropped = NULL;
    }
}

/* The soft-TLB entry for fetching at lin. */
static struct x86_tlb_entry *fetch_entry(struct soft_vcpu *vcpu, gva_t lin, enum x86_rc *rc)
{
    struct x86_cpu *cpu = &vcpu->cpu;
    struct x86_tlb_entry *e = x86_tlb_slot(cpu->tlb->table, lin);
    bool mmio = false;

    if (likely(e->fetch == (lin & PAGE_MASK)))
        return e;
    e = x86_fetch_entry(cpu, lin, &mmio);
    if (!e)
        *rc = mmio ? X86_EXIT : X86_FAULT;
    return e;
}

/* Bytes at lin up to the page's end, and the following page's, for an instruction that crosses: 15 in all. */
static enum x86_rc fetch_crossing(struct soft_vcpu *vcpu, gva_t lin, uint8_t raw[15])
{
    unsigned first = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));
    gva_t second = (lin + first) & vcpu->cpu.lin_mask;
    enum x86_rc rc = X86_NEXT;
    struct x86_tlb_entry *e = fetch_entry(vcpu, lin, &rc);

    if (!e)
        return rc;
    memcpy(raw, e->host + (lin & ~PAGE_MASK), first);
    e = fetch_entry(vcpu, second, &rc);
    if (!e)
        return rc;
    memcpy(raw + first, e->host, 15 - first);
    return X86_NEXT;
}

/* How many bytes the decoder has looked at: what is no instruction may be one with other bytes behind its first. */
static unsigned seen_bytes(const struct x86_insn *in, unsigned size)
{
    return in->mnemonic == ZYDIS_MNEMONIC_INVALID ? MIN(15u, size) : in->length;
}

/* Decodes from bytes, which end with their page, up to the first INSN_END. 0 instructions: the first one crosses. */
static unsigned decode_run(struct x86_insn *insn, enum x86_mode mode, const uint8_t *bytes, unsigned size,
                           unsigned *used)
{
    unsigned count = 0, conditionals = 0;

    *used = 0;
    while (count < BLOCK_MAX_INSNS && *used < size && conditionals < BLOCK_MAX_CONDITIONALS) {
        unsigned length = x86_decode(&insn[count], mode, bytes + *used, size - *used);

        if (!length)
            break;
        *used += seen_bytes(&insn[count], size - *used);
        conditionals += insn[count].flags / INSN_CONDITIONAL & 1;
        if (insn[count++].flags & INSN_END)
            break;
    }
    return count;
}

static void enter_block(struct soft_vcpu *vcpu, struct block *block, struct code_page *page)
{
    struct code_cache *code = &vcpu->code;

    enter_ref(code, (uint64_t)block | tag_of(block->key), block->key);
    block->page_next = page->blocks;
    page->blocks = block;
    page->lines |= code_lines((unsigned)(block_gpa(block) & ~PAGE_MASK), block_extent(block));
    code->bytes += block_size(block);
    code->blocks++;
    ghosts_made(&code->ghosts, block->key);
    vcpu->cpu.counters.blocks_decoded++;
}

/* Instructions and the bytes they were decoded from. Memory may change meanwhile: only the copy is looked at. */
struct decoded {
    struct x86_insn insn[BLOCK_MAX_INSNS];
    uint8_t raw[BLOCK_MAX_INSNS * 15];
    unsigned count, used;
    bool crosses;
};

static enum x86_rc decode(struct soft_vcpu *vcpu, gva_t lin, enum x86_mode mode, const uint8_t *bytes,
                          struct decoded *d)
{
    const unsigned size = (unsigned)MIN(sizeof(d->raw), PAGE_SIZE - (lin & ~PAGE_MASK));
    enum x86_rc rc;

    memcpy(d->raw, bytes, size);
    d->count = decode_run(d->insn, mode, d->raw, size, &d->used);
    d->crosses = d->count == 0;
    if (!d->crosses)
        return X86_NEXT;
    memset(d->raw, 0, 15);
    rc = fetch_crossing(vcpu, lin, d->raw);
    if (!rc) {
        x86_decode(&d->insn[0], mode, d->raw, 15);
        d->used = seen_bytes(&d->insn[0], 15);
    }
    d->count = 1;
    return rc;
}

/* Another processor writes what we decode: it tells us only of what it knows to be code. What it has written before it
 * knew is seen here; if there was something, all of the page is code from now on. */
static enum x86_rc decode_shared(struct soft_vcpu *vcpu, gva_t lin, uint64_t key, const uint8_t *bytes,
                                 struct decoded *d)
{
    const gpa_t gpa = key >> BLOCK_KEY_SHIFT;
    enum x86_rc rc = decode(vcpu, lin, key & 7, bytes, d);
    unsigned first;

    if (rc)
        return rc;
    first = (unsigned)MIN(d->used, PAGE_SIZE - (gpa & ~PAGE_MASK));
    soft_share_add_lines(vcpu, gpa & PAGE_MASK, code_lines((unsigned)(gpa & ~PAGE_MASK), first));
    if (!memcmp(d->raw, bytes, first))
        return rc;
    soft_share_add_lines(vcpu, gpa & PAGE_MASK, ~0ull);
    return decode(vcpu, lin, key & 7, bytes, d);
}

static struct block *new_block(struct soft_vcpu *vcpu, uint64_t key, const struct decoded *d)
{
    const size_t size = d->count * sizeof(d->insn[0]);
    const bool shared = vcpu->vm->texts && !d->crosses;
    struct block *block = malloc(sizeof(*block) + (shared ? 0 : size + d->used));
    struct text *text = shared ? malloc(text_size(d->count, d->used)) : NULL;
    struct x86_insn *insn;

    if (!block || (shared && !text)) {
        free(block);
        free(text);
        return NULL;
    }
    insn = shared ? text->insn : block->own;
    memcpy(insn, d->insn, size);
    memcpy(&insn[d->count], d->raw, d->used);
    *block = (struct block){.key = key, .bytes = (uint16_t)d->used, .count = (uint8_t)d->count, .crosses = d->crosses};
    block->text = text;
    block->insn = insn;
    if (!shared)
        return block;
    *text = (struct text){.key = key, .bytes = block->bytes, .count = block->count};
    text_enter(vcpu->vm->texts, text);
    return block;
}

/* The block as another vCPU has decoded it, from the same bytes. As in decode_shared() others are told that there is
 * code before the bytes are looked at. NULL: there is none, or no memory. */
static struct block *find_decoded(struct soft_vcpu *vcpu, uint64_t key, const uint8_t *bytes)
{
    const gpa_t gpa = key >> BLOCK_KEY_SHIFT;
    struct text *text = vcpu->vm->texts ? text_find(vcpu->vm->texts, key) : NULL;
    struct block *block;

    if (!text)
        return NULL;
    soft_share_add_lines(vcpu, gpa & PAGE_MASK, code_lines((unsigned)(gpa & ~PAGE_MASK), text->bytes));
    block = memcmp(text_bytes(text), bytes, text->bytes) ? NULL : malloc(sizeof(*block));
    if (!block) {
        text_release(vcpu->vm->texts, text);
        return NULL;
    }
    *block = (struct block){.key = key, .bytes = text->bytes, .count = text->count, .text = text, .insn = text->insn};
    vcpu->cpu.counters.blocks_shared++;
    return block;
}

static struct block *decode_block(struct soft_vcpu *vcpu, gva_t lin, uint64_t key, const uint8_t *bytes,
                                  enum x86_rc *rc)
{
    struct block *block;
    struct decoded d;

    *rc = vcpu->vm->share.on ? decode_shared(vcpu, lin, key, bytes, &d) : decode(vcpu, lin, key & 7, bytes, &d);
    if (*rc)
        return NULL;
    block = new_block(vcpu, key, &d);
    *rc = block ? X86_NEXT : X86_EXIT;
    return block;
}

static struct block *make_block(struct soft_vcpu *vcpu, gva_t lin, uint64_t key, const uint8_t *bytes, enum x86_rc *rc)
{
    const uint64_t begin = counter_ns();
    struct code_page *page = make_room(&vcpu->code) ? watch_page(vcpu, key >> BLOCK_KEY_SHIFT & PAGE_MASK) : NULL;
    struct block *block;

    *rc = X86_EXIT;
    if (!page)
        return NULL;
    block = find_decoded(vcpu, key, bytes);
    if (block)
        *rc = X86_NEXT;
    else
        block = decode_block(vcpu, lin, key, bytes, rc);
    if (block)
        enter_block(vcpu, block, page);
    else if (!page->blocks)
        drop_page(vcpu, page);
    vcpu->cpu.counters.decode_ns += counter_ns() - begin;
    return block;
}

/* Does the second page of a crossing block still hold the bytes it was decoded from? If not it is dropped. */
static bool still_valid(struct soft_vcpu *vcpu, struct block *block, gva_t lin, enum x86_rc *rc)
{
    uint8_t raw[15];

    *rc = fetch_crossing(vcpu, lin, raw);
    if (*rc)
        return false;
    if (!memcmp(raw, block_bytes(block), block->bytes))
        return true;
    page_written(vcpu, block_gpa(block), 1);
    return false;
}

struct block *code_find(struct soft_vcpu *vcpu, enum x86_rc *rc)
{
    struct x86_cpu *cpu = &vcpu->cpu;
    struct code_cache *code = &vcpu->code;
    struct x86_tlb_entry *e;
    struct block *block;
    block_ref ref;
    uint64_t key;
    gva_t lin;

    if (cpu->mode != MODE_LONG64 && unlikely(cpu->rip > cpu->seg[SEG_CS].limit)) {
        cpu->rip = (uint32_t)cpu->rip; /* at a limit of 4 GiB it wraps */
        if (cpu->rip > cpu->seg[SEG_CS].limit) {
            *rc = x86_raise_gp(cpu, 0);
            return NULL;
        }
    }
    lin = (cpu->seg_base[SEG_CS] + cpu->rip) & cpu->lin_mask;
    e = fetch_entry(vcpu, lin, rc);
    if (unlikely(!e))
        return NULL;
    key =
        block_key(x86_tlb_gpa(cpu->tlb->table, e) | (lin & ~PAGE_MASK), cpu->mode, cpu->segmented, cpu->tlb->shadowed);
    ref = code->jump[jump_slot(key)];
    if (likely(refers_to(ref, key) && !block_of(ref)->crosses))
        return block_of(ref);
    block = find_block(code, key);
    *rc = X86_NEXT;
    if (block && block->crosses && !still_valid(vcpu, block, lin, rc)) {
        if (*rc)
            return NULL;
        e = fetch_entry(vcpu, lin, rc);
        if (!e)
            return NULL;
        block = NULL;
    }
    if (!block)
        block = make_block(vcpu, lin, key, e->host + (lin & ~PAGE_MASK), rc);
    if (block)
        code->jump[jump_slot(key)] = (uint64_t)block | tag_of(key);
    return block;
}
