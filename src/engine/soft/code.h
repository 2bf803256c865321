/*
 * engine/soft/code.h: decoded instructions, kept by guest-physical address and
 * mode, so that they survive process switches and serve shared pages. Part of
 * the mode is, in 32-bit code, which segments are more than flat.
 */
#ifndef ENGINE_SOFT_CODE_H
#define ENGINE_SOFT_CODE_H

#include <stdatomic.h>

#include "engine/soft/ghosts.h"
#include "engine/soft/text.h"
#include "x86/insn.h"

struct soft_vcpu;

/* A run of decoded instructions that ends with a jump, or at the page's end; conditional jumps may lie in it. It lies
 * in one page, except that a block of one instruction may cross into the next: then its bytes tell whether the second
 * page still holds the same. */
struct block {
    uint64_t key; /* block_key(): guest-physical address, mode, segments */
    struct block *page_next;
    void *translation; /* the engine's own: what it made of the block, or NULL */
    uint16_t bytes;
    uint16_t heat;  /* the engine's own: how often it ran */
    uint32_t split; /* the engine's own: groups of accesses, by their first instruction, that often lie in two pages */
    uint8_t count;
    bool crosses;
    bool checked;                /* the engine's own: its accesses are better checked, though it goes by a shadow */
    bool dropped;                /* its code was overwritten: to be left after the present instruction */
    struct text *text;           /* where they are, if shared with other vCPUs */
    const struct x86_insn *insn; /* and then the bytes that they were decoded from */
    struct x86_insn own[];       /* or they are here */
};

struct code_page;

#define BLOCK_MAX_INSNS        32
#define BLOCK_MAX_CONDITIONALS 4
#define JUMP_CACHE_BITS        12
#define BLOCK_SLOT_BITS        12 /* at first */
#define PAGE_HASH_BITS         11
#define CODE_WATCH_BITS        16
#ifndef CODE_PLACES
#define CODE_PLACES 16384
#endif

/* Where a block lies, with some bits of its key's hash above the address: what is another's block is not looked at, as
 * that would be a cache miss. 0: empty. */
typedef uint64_t block_ref;

struct code_cache {
    block_ref jump[1 << JUMP_CACHE_BITS]; /* direct-mapped, by key: the fast way in */
    block_ref *slot;                      /* all blocks, each at or behind where its key's hash tells */
    unsigned slot_bits, blocks;
    unsigned slots_used; /* not empty: blocks, and places of those that are gone */
    struct code_page *pages[1 << PAGE_HASH_BITS];
    struct block *dropped; /* not in use any more, freed between blocks */
    size_t bytes, bound;   /* of blocks that are not translated; the most there may be now */
    struct ghosts ghosts;
    uint64_t place[CODE_PLACES]; /* the engine's own: a word a page. Those not in use: the next one's number */
    unsigned places, free_place; /* how many were ever in use, without the first, which is nobody's; 0: none */
    unsigned hand;               /* where the next eviction begins */
    _Atomic uint16_t watched[1 << CODE_WATCH_BITS]; /* how many pages of that number, modulo: for other threads */
};

#define BLOCK_KEY_SHIFT 8

/* shadowed: it goes by the soft TLB's shadow. */
static inline uint64_t block_key(gpa_t gpa, enum x86_mode mode, unsigned segmented, bool shadowed)
{
    return gpa << BLOCK_KEY_SHIFT | (unsigned)shadowed << 7 | segmented << 3 | mode;
}

static inline size_t block_size(const struct block *block)
{
    return sizeof(*block) + block->count * sizeof(block->insn[0]) + block->bytes;
}

/* Not what is in memory: that may be changing. */
static inline const uint8_t *block_bytes(const struct block *block)
{
    return (const uint8_t *)&block->insn[block->count];
}

static inline gpa_t block_gpa(const struct block *block)
{
    return block->key >> BLOCK_KEY_SHIFT;
}

static inline enum x86_mode block_mode(const struct block *block)
{
    return (enum x86_mode)(block->key & 7);
}

/* As in struct x86_cpu. */
static inline unsigned block_segmented(const struct block *block)
{
    return block->key >> 3 & 15;
}

static inline bool block_shadowed(const struct block *block)
{
    return block->key >> 7 & 1;
}

/* The block at CS:RIP. NULL with X86_FAULT: cpu.exc is raised; with X86_EXIT: code is not in memory. */
struct block *code_find(struct soft_vcpu *vcpu, enum x86_rc *rc);
/* Frees what was dropped, and everything if the cache is over its bound. Between blocks only. */
void code_sweep(struct soft_vcpu *vcpu);
void code_free(struct soft_vcpu *vcpu);

/* Which code_cache.place is that of the page that a block of the cache begins in; it was 0 when the page got it. 0: it
 * has none, there are too many. */
unsigned code_place(struct soft_vcpu *vcpu, const struct block *block);
/* The 64-byte lines of a page that [offset, offset + len) touches, as bits; len > 0, within the page. */
uint64_t code_lines(unsigned offset, unsigned len);
/* Does the page hold decoded code? Then its writes are to be told: */
bool code_watched(const struct soft_vcpu *vcpu, gpa_t page);
/* Could [gpa, gpa + len) hold decoded code? Any thread. */
bool code_may_be_in(const struct soft_vcpu *vcpu, gpa_t gpa, uint64_t len);
/* Bytes of RAM were written, or the memory map changed there: drops the blocks that lie in them. */
void code_written(struct soft_vcpu *vcpu, gpa_t gpa, uint64_t len);

#endif
