/*
 * tests/stress/guest.c: the guest around the random code: page tables of
 * several address spaces, descriptors, contexts to begin in, changes of
 * mappings, and the state that the processor starts in.
 */
#include <string.h>

#include "isa/values.h"
#include "stress.h"

extern const uint8_t stress_program[], stress_program_end[], stress_start[], stress_common[], stress_syscall[],
    stress_syscall32[];

/* For instance.c: where absolute and RIP-relative operands point. */
const struct isa_window isa_windows[WINDOWS] = {
    [WINDOW_CODE] = {0x10000000, CODE_PAGES, 0},
    [WINDOW_LOW] = {0x1000, 1, 0},
    [WINDOW_DATA] = {STRESS_DATA, DATA_PAGES, 0},
    [WINDOW_STACK] = {STRESS_STACK, STACK_PAGES, 0},
};

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_G  0x100ull
#define PTE_NX (1ull << 63)

#define KCODE64 0x10
#define KDATA   0x18
#define UCODE32 0x23
#define UCODE64 0x33
#define TSS_SEL 0x40

/* Segments of 32-bit code. With the second one absolute addresses of the code's first copy lead to the second, and
 * those of the second are beyond its limit; the third ends within the code, and absolute addresses are beyond it. The
 * last one puts them into the middle of instructions. */
static const struct code_segment {
    uint16_t selector;
    uint32_t base, limit; /* in pages if flags say so */
    uint8_t flags;
} code_segments[] = {
    {UCODE32, 0, 0xfffff, 0xc},
    {0x73, 0x10000000, 0x1ffff, 0xc},
    {0x7b, 0x10000000, 0x5804, 0x4},
    {0x83, 0x10000000 - 0x123, 0xfffff, 0xc},
};
#define GDT_LIMIT 0x87

struct builder {
    struct stress_guest *g;
    struct isa_rng *rng;
    struct mem *mem;
    uint8_t *ram;
    gpa_t next_table, space[SPACES];
    bool pcid;
};

uint32_t stress_pointer(struct stress_guest *g)
{
    struct isa_rng *rng = &g->rng;
    uint32_t page, base;

    if (isa_chance(rng, 65)) {
        base = STRESS_DATA;
        page = isa_pick(rng, DATA_PAGES);
    } else if (g->free || isa_chance(rng, 70)) {
        base = STRESS_STACK;
        page = isa_pick(rng, STACK_PAGES);
    } else {
        base = stress_code[isa_pick(rng, 3)];
        page = isa_pick(rng, CODE_PAGES);
    }
    base += page * (uint32_t)PAGE_SIZE;
    switch (isa_pick(rng, 4)) {
    case 0: /* at the edge */
        return base + (uint32_t)PAGE_SIZE - isa_pick(rng, 40);
    case 1:
        return base + isa_pick(rng, 256) * 16;
    default:
        return base + isa_pick(rng, (unsigned)PAGE_SIZE);
    }
}

/* --- page tables ------------------------------------------------------------------------ */

static void put(struct builder *b, gpa_t gpa, uint64_t value, unsigned size)
{
    memcpy(b->ram + gpa, &value, size);
}

static gpa_t entry_of(struct builder *b, gpa_t table, uint64_t lin)
{
    for (int shift = 39; shift > 12; shift -= 9) {
        uint64_t e;
        gpa_t at = table + (lin >> shift & 511) * 8;

        memcpy(&e, b->ram + at, 8);
        if (!(e & PTE_P)) {
            e = b->next_table | PTE_P | PTE_W | PTE_U;
            b->next_table += PAGE_SIZE;
            put(b, at, e, 8);
        }
        table = e & 0xffffff000;
    }
    return table + (lin >> 12 & 511) * 8;
}

struct region {
    uint32_t lin;
    unsigned pages;
    gpa_t gpa;
    uint8_t missing, readonly, supervisor, nx, other; /* percent */
};

static const struct region regions[] = {
    {0x10000000, CODE_PAGES, G_CODE, 1, 10, 1, 1, 2},      {0x20000000, CODE_PAGES, G_CODE, 5, 20, 2, 5, 10},
    {0x30000000, CODE_PAGES, G_CODE, 5, 20, 2, 5, 30},     {STRESS_DATA, DATA_PAGES, G_DATA, 8, 10, 3, 50, 5},
    {STRESS_STACK, STACK_PAGES, G_USTACK, 8, 4, 1, 50, 2},
};

static uint64_t some_pte(struct builder *b, const struct region *r, unsigned page)
{
    gpa_t gpa = r->gpa + (r->lin == stress_code[2] ? (page * 3 + 1) % r->pages : page) * PAGE_SIZE;
    uint64_t flags = PTE_P | PTE_W | PTE_U;

    if (r->lin == STRESS_DATA && page == 0)
        return gpa | flags; /* fuel, counters, tables */
    if (isa_chance(b->rng, r->other))
        gpa = G_OTHER + isa_pick(b->rng, 16) * PAGE_SIZE;
    if (isa_chance(b->rng, r->missing))
        flags &= ~PTE_P;
    if (isa_chance(b->rng, r->readonly))
        flags &= ~PTE_W;
    if (isa_chance(b->rng, r->supervisor))
        flags &= ~PTE_U;
    if (isa_chance(b->rng, r->nx))
        flags |= PTE_NX;
    return gpa | flags;
}

static void make_space(struct builder *b, unsigned n)
{
    gpa_t root = b->next_table;

    b->space[n] = root;
    b->next_table += PAGE_SIZE;
    for (gpa_t at = 0; at < STRESS_RAM; at += PAGE_SIZE)
        put(b, entry_of(b, root, STRESS_KERNEL + at), at | PTE_P | PTE_W | PTE_G, 8);
    for (unsigned r = 0; r < ARRAY_SIZE(regions); r++)
        for (unsigned page = 0; page < regions[r].pages; page++)
            put(b, entry_of(b, root, regions[r].lin + page * PAGE_SIZE), some_pte(b, &regions[r], page), 8);
}

/* What the kernel changes now and then: address of an entry, value, address to be forgotten. */
static void make_changes(struct builder *b)
{
    for (unsigned i = 0; i < PAGE_CHANGES; i++) {
        const struct region *r = &regions[isa_pick(b->rng, ARRAY_SIZE(regions))];
        unsigned page = isa_pick(b->rng, r->pages);
        uint64_t lin = r->lin + page * PAGE_SIZE;
        gpa_t pte = entry_of(b, b->space[isa_pick(b->rng, SPACES)], lin), at = G_CHANGES + 24 * i;

        put(b, at, STRESS_KERNEL + pte, 8);
        put(b, at + 8, some_pte(b, r, page), 8);
        put(b, at + 16, lin, 8);
    }
}

/* --- descriptors --------------------------------------------------------------------------- */

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static void make_descriptors(struct builder *b)
{
    static const uint32_t with_error = 1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17;
    const uint64_t tss = STRESS_KERNEL + G_TSS;

    put(b, G_GDT + KCODE64, descriptor(0, 0xfffff, 0x9b, 0xa), 8);
    put(b, G_GDT + KDATA, descriptor(0, 0xfffff, 0x93, 0xc), 8);
    for (unsigned i = 0; i < ARRAY_SIZE(code_segments); i++)
        put(b, G_GDT + (code_segments[i].selector & ~7u),
            descriptor(code_segments[i].base, code_segments[i].limit, 0xfb, code_segments[i].flags), 8);
    put(b, G_GDT + (STRESS_UDATA & ~7), descriptor(0, 0xfffff, 0xf3, 0xc), 8);
    put(b, G_GDT + (UCODE64 & ~7), descriptor(0, 0xfffff, 0xfb, 0xa), 8);
    put(b, G_GDT + TSS_SEL, descriptor((uint32_t)tss, 0x67, 0x8b, 0), 8);
    put(b, G_GDT + TSS_SEL + 8, tss >> 32, 8);
    put(b, G_GDT + (STRESS_BASED & ~7), descriptor(0x1000, 0xfffff, 0xf3, 0xc), 8);
    put(b, G_GDT + (STRESS_SHORT & ~7), descriptor(0, (STRESS_DATA >> 12) + 9, 0xf3, 0xc), 8);
    put(b, G_GDT + (STRESS_DOWN & ~7), descriptor(0, (STRESS_DATA >> 12) + 2, 0xf7, 0xc), 8);
    put(b, G_GDT + (STRESS_STACK_SHORT & ~7), descriptor(0, (STRESS_STACK >> 12) + 4, 0xf3, 0xc), 8);
    put(b, G_TSS + 4, STRESS_KERNEL + G_STACK, 8);
    put(b, G_TSS + 0x24, STRESS_KERNEL + G_STACK, 8); /* IST1 */
    put(b, G_TSS + 0x2c, STRESS_KERNEL + G_NMI, 8);
    put(b, G_TSS + 0x66, 0x68, 2);
    for (unsigned v = 0; v < 256; v++) {
        uint64_t stub = STRESS_KERNEL + G_STUBS + 16 * v;
        bool error = v < 32 && (with_error >> v & 1), user = v == 3 || v == 4 || v == VECTOR_FUEL || v == 0x81;
        gpa_t at = G_STUBS + 16 * v;

        put(b, G_IDT + 16 * v,
            (stub & 0xffff) | KCODE64 << 16 | (v == 2 ? 2ull : 1ull) << 32 | (user ? 0xeeull : 0x8eull) << 40 |
                (stub >> 16 & 0xffff) << 48,
            8);
        put(b, G_IDT + 16 * v + 8, stub >> 32, 8);
        put(b, at, error ? 0x9090 : 0x006a, 2); /* nop; nop, or push $0 */
        put(b, at + 2, 0x68, 1);                /* push $v */
        put(b, at + 3, v, 4);
        put(b, at + 7, 0xe9, 1); /* jmp stress_common */
        put(b, at + 8, (uint32_t)(G_PROGRAM + (stress_common - stress_program) - (at + 12)), 4);
    }
}

/* --- contexts --------------------------------------------------------------------------------- */

static uint64_t some_flags(struct isa_rng *rng, bool ring0)
{
    uint64_t flags = (isa_rand(rng) & FLAGS_STATUS) | FLAG_FIXED;

    flags |= isa_chance(rng, 85) ? FLAG_IF : 0;
    flags |= isa_chance(rng, 4) ? FLAG_TF : 0;
    flags |= isa_chance(rng, ring0 ? 50 : 8) ? FLAG_AC : 0;
    flags |= isa_chance(rng, 4) ? FLAG_DF : 0;
    flags |= isa_chance(rng, 2) ? FLAG_IOPL : 0;
    return flags;
}

uint16_t stress_data_selector(struct isa_rng *rng, unsigned flat_percent)
{
    static const uint16_t selectors[] = {STRESS_BASED, STRESS_SHORT, STRESS_DOWN, 0};

    return isa_chance(rng, flat_percent) ? STRESS_UDATA : selectors[isa_pick(rng, ARRAY_SIZE(selectors))];
}

static uint64_t some_data_selector(struct isa_rng *rng)
{
    return stress_data_selector(rng, 88);
}

/* 32-bit code that is not flat most often has a stack that is not either. */
static uint16_t some_stack_selector(struct isa_rng *rng, bool flat)
{
    static const uint16_t selectors[] = {STRESS_BASED, STRESS_STACK_SHORT};

    return isa_chance(rng, flat ? 90 : 30) ? STRESS_UDATA : selectors[isa_pick(rng, ARRAY_SIZE(selectors))];
}

static const struct code_segment *some_code_segment(struct builder *b)
{
    return &code_segments[isa_chance(b->rng, 65) ? 0 : isa_pick(b->rng, ARRAY_SIZE(code_segments) - b->g->free)];
}

static uint64_t some_cr3(struct builder *b)
{
    unsigned n = isa_pick(b->rng, SPACES);

    if (!b->pcid)
        return b->space[n];
    return b->space[n] | (n + 1) | (isa_chance(b->rng, 60) ? PCID_NO_FLUSH : 0);
}

static void make_context(struct builder *b, gpa_t at)
{
    /* As kernel.S pushes them, the last first. */
    static const uint8_t order[15] = {15, 14, 13, 12, 11, 10, 9, 8, RDI, RSI, RBP, RBX, RDX, RCX, RAX};
    static const uint16_t pointers = 1 << RBX | 1 << RBP | 1 << RSI | 1 << RDI | 0xf000;
    struct isa_rng *rng = b->rng;
    const struct stress_entry *e = &b->g->entry[isa_pick(rng, b->g->entries)];
    bool ring0 = b->g->ring0 && e->mode == MODE_LONG64 && isa_chance(rng, 40);
    uint32_t base = stress_code[isa_chance(rng, 75) ? 0 : isa_pick(rng, b->g->free ? 2 : 3)];
    const struct code_segment *cs = e->mode == MODE_LONG64 ? NULL : some_code_segment(b);

    for (unsigned i = 0; i < 15; i++) {
        uint64_t value = isa_chance(rng, 50) ? isa_pick(rng, 64) : isa_corner(rng);

        if (pointers >> order[i] & 1)
            value = stress_pointer(b->g);
        put(b, at + C_GPR + 8 * i, value, 8);
    }
    base -= cs ? cs->base : 0;
    put(b, at + C_RIP, base + e->offset + (!b->g->free && isa_chance(rng, 3) ? isa_pick(rng, 4) : 0), 8);
    put(b, at + C_CS, ring0 ? KCODE64 : cs ? cs->selector : UCODE64, 8);
    put(b, at + C_FLAGS, some_flags(rng, ring0), 8);
    put(b, at + C_RSP,
        STRESS_STACK + (1 + isa_pick(rng, STACK_PAGES - 1)) * PAGE_SIZE + isa_pick(rng, 128) * 8 +
            (isa_chance(rng, 10) ? isa_pick(rng, 8) : 0),
        8);
    put(b, at + C_SS, ring0 ? KDATA : cs ? some_stack_selector(rng, !cs->base) : STRESS_UDATA, 8);
    put(b, at + C_DS, some_data_selector(rng), 8);
    put(b, at + C_ES, some_data_selector(rng), 8);
    put(b, at + C_FS, some_data_selector(rng), 8);
    put(b, at + C_GS, some_data_selector(rng), 8);
    put(b, at + C_FSBASE, isa_chance(rng, 80) ? isa_pick(rng, 64) : isa_rand(rng) >> 17, 8);
    put(b, at + C_GSBASE, isa_chance(rng, 80) ? isa_pick(rng, 64) : isa_rand(rng) >> 17, 8);
    put(b, at + C_CR3, some_cr3(b), 8);
}

static void make_fpu_images(struct builder *b)
{
    for (unsigned i = 0; i < 4; i++) {
        struct x86_fpu fpu;

        memset(&fpu, 0, sizeof(fpu));
        isa_fill_fpu(&fpu, b->rng);
        if (i < 3) {
            fpu.fcw = 0x37f;
            fpu.mxcsr = 0x1f80;
            fpu.fsw &= 0x3f00;
        }
        fpu.xstate_bv = 7;
        fpu.xcomp_bv = 0;
        memset(fpu.reserved1, 0, sizeof(fpu.reserved1));
        memset(fpu.reserved2, 0, sizeof(fpu.reserved2));
        memcpy(b->ram + G_FPU + 1024 * i, &fpu, 512 + 64 + 256);
    }
}

static uint64_t some_target(struct builder *b, enum x86_mode mode)
{
    const struct stress_entry *e = b->g->entry;

    for (unsigned i = 0; i < 100; i++) {
        e = &b->g->entry[isa_pick(b->rng, b->g->entries)];
        if (e->mode == mode)
            break;
    }
    return stress_code[isa_chance(b->rng, 85) ? 0 : 1] + e->offset;
}

/* Targets of indirect branches, in the first page of data; see generate.c. */
static void make_tables(struct builder *b)
{
    for (unsigned i = 0; i < 64; i++) {
        put(b, G_DATA + 0x800 + 8 * i, some_target(b, MODE_LONG64), 8);
        put(b, G_DATA + 0xa00 + 4 * i, some_target(b, MODE_COMPAT32), 4);
    }
    for (unsigned i = 0; i < 32; i++) {
        const struct code_segment *cs = some_code_segment(b);

        put(b, G_DATA + 0xb00 + 8 * i, (uint32_t)(some_target(b, MODE_COMPAT32) - cs->base), 4);
        put(b, G_DATA + 0xb04 + 8 * i, cs->selector, 4);
        put(b, G_DATA + 0xc00 + 8 * i, some_target(b, MODE_LONG64) | (uint64_t)UCODE64 << 32, 8);
    }
    put(b, G_DATA, FUEL, 4);
}

/* --- all ------------------------------------------------------------------------------------------ */

static void start_state(struct builder *b, struct x86_cpu *cpu)
{
    static const struct x86_segment data = {.selector = KDATA, .limit = 0xffffffff, .attr = 0xc093};
    struct isa_rng *rng = b->rng;

    cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_AM | CR0_PG | (isa_chance(rng, 70) ? CR0_WP : 0);
    cpu->cr3 = b->space[0];
    cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_PGE;
    cpu->cr4 |= x86_feature(FEATURE_XSAVE) ? CR4_OSXSAVE : 0;
    cpu->cr4 |= x86_feature(FEATURE_FSGSBASE) && isa_chance(rng, 80) ? CR4_FSGSBASE : 0;
    cpu->cr4 |= x86_feature(FEATURE_UMIP) && isa_chance(rng, 50) ? CR4_UMIP : 0;
    cpu->cr4 |= x86_feature(FEATURE_SMAP) && isa_chance(rng, 30) ? CR4_SMAP : 0;
    cpu->cr4 |= x86_feature(FEATURE_SMEP) && !b->g->ring0 ? CR4_SMEP : 0;
    cpu->cr4 |= b->pcid ? CR4_PCIDE : 0;
    cpu->msr.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    cpu->msr.star = (uint64_t)UCODE32 << 48 | (uint64_t)KCODE64 << 32;
    cpu->msr.lstar = STRESS_KERNEL + G_PROGRAM + (uint64_t)(stress_syscall - stress_program);
    cpu->msr.cstar = STRESS_KERNEL + G_PROGRAM + (uint64_t)(stress_syscall32 - stress_program);
    cpu->msr.sfmask = 0x47700;
    cpu->xcr0 = x86_feature(FEATURE_AVX) ? 7 : 3;
    cpu->gdtr = (struct x86_table){.base = STRESS_KERNEL + G_GDT, .limit = GDT_LIMIT};
    cpu->idtr = (struct x86_table){.base = STRESS_KERNEL + G_IDT, .limit = 0xfff};
    cpu->tr = (struct x86_segment){.selector = TSS_SEL, .base = STRESS_KERNEL + G_TSS, .limit = 0x67, .attr = 0x8b};
    cpu->ldtr = (struct x86_segment){.attr = 0x82};
    for (unsigned i = 0; i < 6; i++)
        cpu->seg[i] = data;
    cpu->seg[SEG_CS] = (struct x86_segment){.selector = KCODE64, .limit = 0xffffffff, .attr = 0xa09b};
    cpu->rip = STRESS_KERNEL + G_PROGRAM + (uint64_t)(stress_start - stress_program);
    cpu->gpr[RSP] = STRESS_KERNEL + G_STACK;
    cpu->rflags = FLAG_FIXED;
    cpu->lapic.base_msr |= X86_APIC_BASE_ENABLE | X86_APIC_BASE_X2APIC;
    cpu->lapic.svr = 0x1ff;
}

void stress_build(struct stress_guest *g, uint64_t seed, uint64_t limit, struct mem *mem, struct x86_cpu *cpu)
{
    struct builder b = {.g = g, .rng = &g->rng, .mem = mem, .next_table = G_TABLES};

    b.ram = mem_pointer(mem, 0, STRESS_RAM);
    g->rng.s = seed * 0x9e3779b97f4a7c15;
    g->ring0 = isa_chance(&g->rng, 30);
    b.pcid = x86_feature(FEATURE_PCID) && isa_chance(&g->rng, 50);
    stress_generate(g);
    memcpy(b.ram + G_PROGRAM, stress_program, (size_t)(stress_program_end - stress_program));
    memcpy(b.ram + G_CODE, g->code, sizeof(g->code));
    memcpy(b.ram + G_PRISTINE, g->code, sizeof(g->code));
    for (unsigned i = 0; i < 16; i++)
        memcpy(b.ram + G_OTHER + i * PAGE_SIZE, g->code + isa_pick(&g->rng, CODE_PAGES) * PAGE_SIZE, PAGE_SIZE);
    for (unsigned i = 0; i < (DATA_PAGES + STACK_PAGES) * 4; i++)
        isa_fill(b.ram + (i < DATA_PAGES * 4 ? G_DATA : G_USTACK - DATA_PAGES * PAGE_SIZE) + i * 1024, 1024, &g->rng);
    make_tables(&b);
    make_descriptors(&b);
    for (unsigned i = 0; i < SPACES; i++)
        make_space(&b, i);
    make_changes(&b);
    for (unsigned i = 0; i < CONTEXTS; i++)
        make_context(&b, G_CONTEXTS + i * C_SIZE);
    make_fpu_images(&b);
    put(&b, G_KERNEL + K_LIMIT, limit, 8);
    put(&b, G_KERNEL + K_RANDOM, isa_rand(&g->rng), 8);
    put(&b, G_KERNEL + K_FLUSH, b.pcid, 8);
    mem_written(mem, 0, STRESS_RAM);
    start_state(&b, cpu);
}
