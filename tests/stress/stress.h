/*
 * tests/stress/stress.h: random guests for pairs of engines. A seed makes a
 * whole bare-metal guest: pages of random code in 64-bit and compatibility mode
 * (instruction forms from tests/isa), loops, calls and jumps of every kind, data
 * that is partly not there, page tables that change, and a small kernel
 * (kernel.S) that logs each exception and goes on elsewhere. Two engines must
 * make the same of it.
 *
 * generate.c makes code, guest.c the rest of the guest, main.c runs it.
 */
#ifndef TESTS_STRESS_STRESS_H
#define TESTS_STRESS_STRESS_H

#include "stress_layout.h"

#include "isa/isa.h"
#include "mem/mem.h"

/* --- the guest ---------------------------------------------------------------- */

enum { CODE_PAGES = 8, DATA_PAGES = 16, STACK_PAGES = 8, CONTEXTS = 256, PAGE_CHANGES = 64, SPACES = 4 };

/* Linear addresses of the user's pages. The first is code as it lies in memory, the second the same, the third with the
 * pages in another order. */
static const uint32_t stress_code[3] = {0x10000000, 0x20000000, 0x30000000};
#define STRESS_DATA  0x40000000u
#define STRESS_STACK 0x50000000u
#define STRESS_FUEL  (STRESS_DATA) /* counts down at function entries; below 0: INT 82h */

/* Data segments for the user that are not flat: with a base, with a limit among the data, expand-down, with a limit
 * among the stack. */
#define STRESS_UDATA       0x2b
#define STRESS_BASED       0x53
#define STRESS_SHORT       0x5b
#define STRESS_DOWN        0x63
#define STRESS_STACK_SHORT 0x6b

/* Where a context may begin. */
struct stress_entry {
    uint32_t offset; /* in the code pages */
    enum x86_mode mode;
};

struct stress_guest {
    struct isa_rng rng;
    bool ring0; /* some contexts run at CPL 0; then no privileged instructions at random */
    /* For engines that run alone: flags that the manuals leave undefined are defined at once, and nothing is done that
     * could make endless loops: every block uses fuel, code is overwritten only where it means to. */
    bool free;
    struct isa_forms *forms[2];
    uint8_t code[CODE_PAGES * PAGE_SIZE];
    struct stress_entry entry[1024];
    unsigned entries;
};

/* Fills code and entry. */
void stress_generate(struct stress_guest *g);

/* Writes the guest that the seed makes into mem (STRESS_RAM bytes), and the state it starts in. limit: exceptions after
 * which it writes to STRESS_PORT. */
void stress_build(struct stress_guest *g, uint64_t seed, uint64_t limit, struct mem *mem, struct x86_cpu *cpu);

/* A selector for DS or ES, most often the flat one. */
uint16_t stress_data_selector(struct isa_rng *rng, unsigned flat_percent);

/* A random pointer into data, stack or (now and then, if not free) code; often near a page edge. */
uint32_t stress_pointer(struct stress_guest *g);

#endif
