/*
 * tests/isa/guest.c: runs one instruction in a software engine, through its
 * contract: a guest with the host's windows at the host's addresses, at CPL 3
 * under the control registers Linux sets, whose exception handlers are a HLT
 * each. The frame that the processor pushed is the outcome.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"

/* Guest-physical layout; everything but the windows is mapped at KERNEL + its address, for the supervisor only. */
#define KERNEL     0xffffffff80000000ull
#define TABLES     0x1000 /* page tables, grown as they are needed */
#define TABLES_END 0x10000
#define GDT        0x10000
#define LDT        0x10800
#define IDT        0x11000
#define TSS        0x12000
#define HANDLERS   0x13000 /* 256 of 16 bytes */
#define STACK      0x15000
#define STACK_TOP  0x17000
#define WINDOW_GPA 0x20000
#define RAM_SIZE   0x40000

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_NX (1ull << 63)

#define TSS_SELECTOR 0x40
#define LDT_SELECTOR 0x50

struct guest {
    struct isa_target target;
    const struct engine_ops *engine;
    struct mem *mem;
    struct vclock *clock;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    uint8_t *ram;
    gpa_t next_table;
    struct x86_cpu base, cpu;
};

/* --- memory ------------------------------------------------------------------------- */

static uint64_t *entry(struct guest *g, gpa_t table, unsigned index)
{
    return (uint64_t *)(void *)(g->ram + table) + index;
}

static void map_page(struct guest *g, uint64_t lin, gpa_t gpa, uint64_t flags)
{
    gpa_t table = TABLES;

    for (int shift = 39; shift > 12; shift -= 9) {
        uint64_t *e = entry(g, table, lin >> shift & 511);

        if (!(*e & PTE_P)) {
            *e = g->next_table | PTE_P | PTE_W | PTE_U;
            g->next_table += PAGE_SIZE;
        }
        table = *e & 0xffffff000;
    }
    /* A and D are set from the start: the walker need not. */
    *entry(g, table, lin >> 12 & 511) = gpa | flags | PTE_P | 0x60;
}

static void map_all(struct guest *g)
{
    gpa_t gpa = WINDOW_GPA;
    unsigned page = 0;

    g->next_table = TABLES + PAGE_SIZE;
    for (gpa_t at = 0; at < WINDOW_GPA; at += PAGE_SIZE)
        map_page(g, KERNEL + at, at, PTE_W);
    for (unsigned i = 0; i < WINDOWS; i++)
        for (unsigned k = 0; k < isa_windows[i].pages; k++, gpa += PAGE_SIZE) {
            bool readonly = k + isa_windows[i].readonly >= isa_windows[i].pages;

            map_page(g, isa_windows[i].lin + k * PAGE_SIZE, gpa,
                     PTE_U | (readonly ? 0 : PTE_W) | (i == WINDOW_CODE ? 0 : PTE_NX));
            g->target.page[page++] = g->ram + gpa;
        }
}

static void put(struct guest *g, gpa_t gpa, uint64_t value, unsigned size)
{
    memcpy(g->ram + gpa, &value, size);
}

/* Linux's GDT as far as a program can see it, the IDT, the TSS. */
static void fill_tables(struct guest *g)
{
    static const uint64_t gdt[16] = {
        [1] = 0x00cf9b000000ffff, [2] = 0x00af9b000000ffff, [3] = 0x00cf93000000ffff,
        [4] = 0x00cffb000000ffff, [5] = 0x00cff3000000ffff, [6] = 0x00affb000000ffff,
    };
    uint64_t tss = KERNEL + TSS;

    for (unsigned i = 0; i < ARRAY_SIZE(gdt); i++)
        put(g, GDT + 8 * i, gdt[i], 8);
    put(g, GDT + TSS_SELECTOR, 0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56, 8);
    put(g, GDT + TSS_SELECTOR + 8, tss >> 32, 8);
    for (unsigned i = 0; i < ISA_LDT; i++) {
        const struct isa_segment *s = &isa_ldt[i];
        const uint32_t limit = s->attr & ATTR_G ? s->limit >> PAGE_SHIFT : s->limit;

        put(g, LDT + 8 * i,
            (limit & 0xffff) | (uint64_t)(s->base & 0xffffff) << 16 | (uint64_t)s->attr << 40 |
                (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(s->base >> 24) << 56,
            8);
    }
    for (unsigned v = 0; v < 256; v++) {
        uint64_t handler = KERNEL + HANDLERS + 16 * v;
        bool user = v == VEC_BP || v == VEC_OF || v == 0x80;

        put(g, IDT + 16 * v,
            (handler & 0xffff) | 0x10 << 16 | (user ? 0xeeull : 0x8eull) << 40 | (handler >> 16 & 0xffff) << 48, 8);
        put(g, IDT + 16 * v + 8, handler >> 32, 8);
        put(g, HANDLERS + 16 * v, 0xf4, 1);
    }
    put(g, TSS + 4, KERNEL + STACK_TOP, 8); /* RSP0 */
    put(g, TSS + 0x66, 0x68, 2);            /* no I/O bitmap */
}

/* --- state ----------------------------------------------------------------------------- */

static struct x86_segment data_segment(unsigned entry)
{
    const struct isa_segment *s = &isa_ldt[entry];

    if (!entry)
        return (struct x86_segment){.selector = ISA_DS, .limit = 0xffffffff, .attr = 0xc0f3};
    return (struct x86_segment){
        .selector = isa_data_selector(entry), .base = s->base, .limit = s->limit, .attr = s->attr};
}

static struct x86_segment code_segment(enum x86_mode mode)
{
    uint16_t attr = mode == MODE_LONG64 ? 0xa0fb : mode == MODE_COMPAT32 ? 0xc0fb : 0x80fb;

    return (struct x86_segment){.selector = isa_code_selector(mode), .limit = 0xffffffff, .attr = attr};
}

static void base_state(struct guest *g)
{
    struct x86_cpu *cpu = &g->base;

    g->engine->get_state(g->vcpu, cpu);
    cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    cpu->cr3 = TABLES;
    cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_MCE | CR4_PGE | CR4_DE | CR4_PSE;
    cpu->cr4 |= x86_feature(FEATURE_XSAVE) ? CR4_OSXSAVE : 0;
    cpu->cr4 |= x86_feature(FEATURE_FSGSBASE) ? CR4_FSGSBASE : 0;
    cpu->cr4 |= x86_feature(FEATURE_UMIP) ? CR4_UMIP : 0;
    cpu->cr4 |= x86_feature(FEATURE_SMEP) ? CR4_SMEP : 0;
    cpu->cr4 |= x86_feature(FEATURE_SMAP) ? CR4_SMAP : 0;
    cpu->msr.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    cpu->xcr0 = x86_feature(FEATURE_AVX) ? 7 : 3;
    cpu->gdtr = (struct x86_table){.base = KERNEL + GDT, .limit = 0x7f};
    cpu->idtr = (struct x86_table){.base = KERNEL + IDT, .limit = 0xfff};
    cpu->tr = (struct x86_segment){.selector = TSS_SELECTOR, .base = KERNEL + TSS, .limit = 0x67, .attr = 0x8b};
    cpu->ldtr =
        (struct x86_segment){.selector = LDT_SELECTOR, .base = KERNEL + LDT, .limit = 8 * ISA_LDT - 1, .attr = 0x82};
}

static void load(struct guest *g, const struct isa_state *in, enum x86_mode mode)
{
    struct x86_cpu *cpu = &g->cpu;
    bool wide = mode == MODE_LONG64;

    *cpu = g->base;
    memcpy(cpu->gpr, in->gpr, sizeof(cpu->gpr));
    cpu->rip = in->rip;
    cpu->rflags = in->rflags;
    cpu->fpu = in->fpu;
    cpu->seg[SEG_CS] = code_segment(mode);
    cpu->seg[SEG_SS] = data_segment(in->ldt[SEG_SS]);
    cpu->seg[SEG_DS] = data_segment(in->ldt[SEG_DS]);
    cpu->seg[SEG_ES] = data_segment(in->ldt[SEG_ES]);
    cpu->seg[SEG_FS] = cpu->seg[SEG_GS] = wide ? (struct x86_segment){0} : data_segment(0);
    cpu->seg[SEG_FS].base = in->fs_base;
    cpu->seg[SEG_GS].base = in->gs_base;
    g->engine->set_state(g->vcpu, cpu);
}

/* What the processor pushed for the handler that it halted in. */
static bool unwind(struct guest *g, struct isa_state *out)
{
    static const uint32_t with_error =
        1u << VEC_DF | 1u << VEC_TS | 1u << VEC_NP | 1u << VEC_SS | 1u << VEC_GP | 1u << VEC_PF | 1u << VEC_AC;
    uint64_t vector = (g->cpu.rip - 1 - KERNEL - HANDLERS) / 16, sp = g->cpu.gpr[RSP] - KERNEL, frame[6];
    bool error = vector < 32 && (with_error >> vector & 1);

    if (vector > 255 || (g->cpu.rip - 1) & 15 || sp != STACK_TOP - (error ? 48u : 40u))
        return false;
    memcpy(frame, g->ram + sp, sizeof(frame));
    out->vector = (uint8_t)vector;
    out->error = error ? (uint32_t)frame[0] : 0;
    out->cr2 = vector == VEC_PF ? g->cpu.cr2 : 0;
    out->rip = frame[error];
    out->sel[SEG_CS] = (uint16_t)frame[error + 1];
    out->rflags = frame[error + 2];
    out->gpr[RSP] = frame[error + 3];
    out->sel[SEG_SS] = (uint16_t)frame[error + 4];
    return true;
}

static void store(struct guest *g, const struct exit *exit, struct isa_state *out)
{
    static const enum x86_seg others[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};

    g->engine->get_state(g->vcpu, &g->cpu);
    memset(out, 0, sizeof(*out));
    memcpy(out->gpr, g->cpu.gpr, sizeof(out->gpr));
    out->rip = g->cpu.rip;
    out->rflags = g->cpu.rflags;
    out->fpu = g->cpu.fpu;
    out->fpu.xstate_bv = 7; /* engines keep the contents; in use or not is found when it is asked for */
    out->fs_base = g->cpu.seg[SEG_FS].base;
    out->gs_base = g->cpu.seg[SEG_GS].base;
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        out->sel[others[i]] = g->cpu.seg[others[i]].selector;
    if (exit->reason == EXIT_HALT && unwind(g, out))
        return;
    out->vector = ISA_NO_VECTOR;
    if (exit->reason == EXIT_ERROR)
        snprintf(out->note, sizeof(out->note), "engine: %.140s", exit->error.text);
    else if (exit->reason == EXIT_SHUTDOWN)
        snprintf(out->note, sizeof(out->note), "shutdown: vectors %u %u %u, rip %#lx, cr2 %#lx",
                 exit->shutdown.vectors[0], exit->shutdown.vectors[1], exit->shutdown.vectors[2], exit->shutdown.rip,
                 exit->shutdown.cr2);
    else
        snprintf(out->note, sizeof(out->note), "exit %u at rip %#lx, no handler's halt", exit->reason, g->cpu.rip);
}

static void run(struct isa_target *target, const struct isa_memory *memory, const struct isa_state *in,
                struct isa_state *out, enum x86_mode mode)
{
    struct guest *g = container_of(target, struct guest, target);
    struct exit exit = {0};

    isa_restore_pages(target, memory);
    load(g, in, mode);
    g->engine->run(g->vcpu, &exit, 0);
    store(g, &exit, out);
}

static void load_code(struct isa_target *target, const struct isa_memory *memory, unsigned at, unsigned length)
{
    struct guest *g = container_of(target, struct guest, target);

    mem_write(g->mem, WINDOW_GPA + at, (const uint8_t *)memory->page + at, length);
}

static void kick(struct isa_target *target)
{
    struct guest *g = container_of(target, struct guest, target);

    g->engine->kick(g->vcpu);
}

static const struct isa_target_ops ops = {.load_code = load_code, .run = run, .kick = kick};

struct isa_target *isa_guest_new(const struct engine_ops *engine, bool shadow_soon, struct error *err)
{
    struct guest *g = aligned_alloc(64, ALIGN_UP(sizeof(*g), 64));
    struct engine_config config = {.cpus = 1, .shadow_soon = shadow_soon};

    if (!g) {
        error_set(err, -ENOMEM, "no memory");
        return NULL;
    }
    memset(g, 0, sizeof(*g));
    g->target.ops = &ops;
    g->target.name = engine->name;
    g->engine = engine;
    config.mem = g->mem = mem_new();
    if (engine->maps_ram && g->mem)
        mem_share_ram(g->mem);
    config.clock = g->clock = vclock_new_manual(1000000000);
    if (engine->probe(err) || mem_add_ram(g->mem, 0, RAM_SIZE, err) || engine->vm_create(&g->vm, &config, err) ||
        engine->vcpu_create(&g->vcpu, g->vm, 0, err))
        return NULL;
    g->ram = mem_pointer(g->mem, 0, RAM_SIZE);
    map_all(g);
    fill_tables(g);
    mem_written(g->mem, 0, RAM_SIZE);
    base_state(g);
    return &g->target;
}

void isa_guest_free(struct isa_target *target)
{
    struct guest *g = (struct guest *)target;

    g->engine->vcpu_destroy(g->vcpu);
    g->engine->vm_destroy(g->vm);
    vclock_free(g->clock);
    mem_free(g->mem);
    free(g);
}
