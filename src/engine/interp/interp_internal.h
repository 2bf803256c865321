/*
 * engine/interp/interp_internal.h: the interpreter's vCPU and its cache of
 * decoded instructions.
 */
#ifndef ENGINE_INTERP_INTERP_INTERNAL_H
#define ENGINE_INTERP_INTERP_INTERNAL_H

#include "engine/soft/soft.h"
#include "x86/insn.h"

/* A run of decoded instructions that ends with a jump, or at the page's end. It lies in one page, except that a block
 * of one instruction may cross into the next: then `raw` tells whether the second page still holds the same bytes. */
struct block {
    uint64_t key; /* block_key(): guest-physical address and mode */
    struct block *hash_next;
    struct block *page_next;
    uint16_t bytes;
    uint8_t count;
    bool crosses;
    uint8_t raw[15];
    struct x86_insn insn[];
};

struct code_page;

#define JUMP_CACHE_BITS 12
#define BLOCK_HASH_BITS 14
#define PAGE_HASH_BITS  11

struct code_cache {
    struct block *jump[1 << JUMP_CACHE_BITS]; /* direct-mapped, by key: the fast way in */
    struct block *hash[1 << BLOCK_HASH_BITS];
    struct code_page *pages[1 << PAGE_HASH_BITS];
    struct block *dropped; /* not in use any more, freed between blocks */
    size_t bytes;
};

struct interp_vcpu {
    struct soft_vcpu soft; /* first */
    struct code_cache code;
    unsigned clock_countdown; /* blocks until the clock is looked at again */
    bool restart;             /* the next instruction has I/O answers in its log */
};

static inline uint64_t block_key(gpa_t gpa, enum x86_mode mode)
{
    return gpa << 3 | mode;
}

static inline unsigned jump_slot(uint64_t key)
{
    return (unsigned)((key >> 3 ^ key >> 14) & ((1u << JUMP_CACHE_BITS) - 1));
}

/* The block at CS:RIP. NULL with X86_FAULT: cpu.exc is raised; with X86_EXIT: code is not in memory. */
struct block *code_find(struct interp_vcpu *vcpu, enum x86_rc *rc);
/* Frees what was dropped, and everything if the cache is over its bound. Between blocks only. */
void code_sweep(struct interp_vcpu *vcpu);
void code_free(struct interp_vcpu *vcpu);
extern const struct soft_hooks code_hooks;

/* The run loop's body: run.c. */
void interp_run(struct interp_vcpu *vcpu, struct exit *exit, uint64_t budget);

#endif
