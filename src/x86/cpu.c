/*
 * x86/cpu.c: a processor's state after RESET and INIT, and everything that is
 * derived from it: mode, privilege, effective segments, the TLB's table.
 */
#include "x86/cpu.h"

#include <string.h>

#include "x86/cpuid.h"
#include "x86/debug_internal.h"
#include "x86/mmu.h"
#include "x86/tlb.h"

#define ATTR_RESET_CODE (ATTR_P | ATTR_S | ATTR_CODE | ATTR_READABLE | ATTR_ACCESSED)
#define ATTR_RESET_DATA (ATTR_P | ATTR_S | ATTR_WRITABLE | ATTR_ACCESSED)
#define ATTR_RESET_LDT  (ATTR_P | 2)
#define ATTR_RESET_TSS  (ATTR_P | 11) /* busy 32-bit TSS */

#define PAT_RESET 0x0007040600070406ull /* AMD APM vol. 2, 7.8.1 */

/* What RESET and INIT have in common: SDM vol. 3, table 10-1. */
static void reset_core(struct x86_cpu *cpu)
{
    uint32_t id[4];

    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    x86_cpuid(cpu, 1, 0, id);
    cpu->gpr[RDX] = id[0];
    cpu->rip = 0xfff0;
    cpu->rflags = FLAG_FIXED;
    for (unsigned s = 0; s < 6; s++)
        cpu->seg[s] = (struct x86_segment){.limit = 0xffff, .attr = ATTR_RESET_DATA};
    cpu->seg[SEG_CS] =
        (struct x86_segment){.base = 0xffff0000, .limit = 0xffff, .selector = 0xf000, .attr = ATTR_RESET_CODE};
    cpu->ldtr = (struct x86_segment){.limit = 0xffff, .attr = ATTR_RESET_LDT};
    cpu->tr = (struct x86_segment){.limit = 0xffff, .attr = ATTR_RESET_TSS};
    cpu->gdtr = cpu->idtr = (struct x86_table){.limit = 0xffff};
    cpu->cr2 = cpu->cr3 = cpu->cr4 = 0;
    memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
    memset(cpu->dr, 0, sizeof(cpu->dr));
    cpu->dr[6] = 0xffff0ff0;
    cpu->dr[7] = 0x400;
    cpu->msr.efer = 0;
    cpu->int_shadow = SHADOW_NONE;
    cpu->nmi_masked = cpu->nmi_pending = false;
    cpu->halted = cpu->shutdown = false;
    cpu->injected_valid = false;
    cpu->wait_for_sipi = !(cpu->lapic.base_msr & X86_APIC_BASE_BSP);
    cpu->dr6_hit = 0;
    cpu->io_count = cpu->io_pos = 0;
    cpu->io.kind = X86_IO_NONE;
    if (cpu->tlb)
        x86_tlb_flush(cpu);
    x86_update_mode(cpu);
}

void x86_cpu_reset(struct x86_cpu *cpu)
{
    uint32_t id = cpu->id;

    memset(cpu, 0, offsetof(struct x86_cpu, events));
    cpu->id = id;
    cpu->cr0 = CR0_CD | CR0_NW | CR0_ET;
    cpu->xcr0 = XCR0_X87;
    cpu->msr.pat = PAT_RESET;
    cpu->msr.misc_enable = 1; /* fast strings */
    cpu->fpu.fcw = 0x40;
    cpu->fpu.ftw = 0xff; /* all registers hold +0 */
    cpu->fpu.mxcsr = 0x1f80;
    cpu->fpu.mxcsr_mask = 0xffff;
    cpu->fpu.xstate_bv = XCR0_X87 | XCR0_SSE | (x86_feature(FEATURE_AVX) ? XCR0_AVX : 0);
    x86_lapic_reset(cpu);
    reset_core(cpu);
}

void x86_fpu_normalise(struct x86_fpu *fpu)
{
    if (!(fpu->xstate_bv & XCR0_X87)) {
        fpu->fcw = 0x37f;
        fpu->fsw = fpu->fop = 0;
        fpu->ftw = 0;
        fpu->fip = fpu->fdp = 0;
        memset(fpu->st, 0, sizeof(fpu->st));
    }
    if (!(fpu->xstate_bv & XCR0_SSE))
        memset(fpu->xmm, 0, sizeof(fpu->xmm));
    if (!(fpu->xstate_bv & XCR0_AVX))
        memset(fpu->ymm_high, 0, sizeof(fpu->ymm_high));
    for (unsigned i = 0; i < 8; i++)
        memset(fpu->st[i] + 10, 0, 6);
    fpu->fcw = (fpu->fcw & 0x1f3f) | 0x40;
    fpu->fop &= 0x7ff;
    fpu->mxcsr &= 0xffff;
    fpu->mxcsr_mask = 0xffff;
    fpu->reserved0 = 0;
    memset(fpu->reserved1, 0, sizeof(fpu->reserved1));
    memset(fpu->reserved2, 0, sizeof(fpu->reserved2));
    fpu->xstate_bv = XCR0_X87 | XCR0_SSE | (x86_feature(FEATURE_AVX) ? XCR0_AVX : 0);
    fpu->xcomp_bv = 0;
}

void x86_cpu_init(struct x86_cpu *cpu)
{
    cpu->cr0 = (cpu->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    x86_lapic_init(cpu);
    reset_core(cpu);
}

static enum x86_mode code_mode(const struct x86_cpu *cpu)
{
    uint16_t cs = cpu->seg[SEG_CS].attr;

    if (!(cpu->cr0 & CR0_PE))
        return MODE_REAL16;
    if (cpu->rflags & FLAG_VM)
        return MODE_VM86;
    if (!x86_long_mode(cpu))
        return cs & ATTR_DB ? MODE_PROT32 : MODE_PROT16;
    if (cs & ATTR_L)
        return MODE_LONG64;
    return cs & ATTR_DB ? MODE_COMPAT32 : MODE_COMPAT16;
}

/* Can x86_check_segment() never refuse an access through this segment? */
static bool flat(const struct x86_cpu *cpu, const struct x86_segment *s)
{
    if (s->limit != 0xffffffff)
        return false;
    if (cpu->mode == MODE_REAL16 || cpu->mode == MODE_VM86)
        return true;
    return (s->attr & (ATTR_P | ATTR_CODE | ATTR_EXPAND_DOWN | ATTR_WRITABLE)) == (ATTR_P | ATTR_WRITABLE);
}

static uint64_t room(const struct x86_segment *s, bool write)
{
    const bool code = s->attr & ATTR_CODE;

    if (!(s->attr & ATTR_P) || (!code && (s->attr & ATTR_EXPAND_DOWN)))
        return 0;
    if (write ? code || !(s->attr & ATTR_WRITABLE) : code && !(s->attr & ATTR_READABLE))
        return 0;
    return (uint64_t)s->limit + 1;
}

static void update_rooms(struct x86_cpu *cpu)
{
    cpu->code_room = (uint64_t)cpu->seg[SEG_CS].limit + 1;
    for (unsigned s = 0; s < 6; s++) {
        cpu->seg_room[false][s] = room(&cpu->seg[s], false);
        cpu->seg_room[true][s] = room(&cpu->seg[s], true);
        if (s < SEG_FS && (cpu->seg[s].base || (s == SEG_CS ? cpu->code_room : cpu->seg_room[true][s]) != BIT(32)))
            cpu->segmented |= 1u << s;
    }
}

static void update_segments(struct x86_cpu *cpu)
{
    unsigned s;

    cpu->segmented = 0;
    if (cpu->mode == MODE_LONG64) { /* AMD APM vol. 2, 4.5.3 */
        cpu->stack_size = 8;
        cpu->lin_mask = ~0ull;
        cpu->seg_flat = 0x3f;
        for (s = 0; s < 6; s++)
            cpu->seg_base[s] = s >= SEG_FS ? cpu->seg[s].base : 0;
        return;
    }
    cpu->stack_size = cpu->mode != MODE_VM86 && (cpu->seg[SEG_SS].attr & ATTR_DB) ? 4 : 2;
    cpu->lin_mask = 0xffffffff;
    cpu->seg_flat = 0;
    for (s = 0; s < 6; s++) {
        cpu->seg_base[s] = cpu->seg[s].base;
        if (flat(cpu, &cpu->seg[s]))
            cpu->seg_flat |= 1u << s;
    }
    if (cpu->mode == MODE_PROT32 || cpu->mode == MODE_COMPAT32)
        update_rooms(cpu);
}

void x86_update_mode(struct x86_cpu *cpu)
{
    uint32_t events = atomic_load_explicit(&cpu->events, memory_order_relaxed);
    bool trap = (cpu->rflags & FLAG_TF) || x86_breakpoints_enabled(cpu);

    cpu->mode = code_mode(cpu);
    if (cpu->mode == MODE_REAL16)
        cpu->cpl = 0;
    else if (cpu->mode == MODE_VM86)
        cpu->cpl = 3;
    else
        cpu->cpl = (cpu->seg[SEG_SS].attr & ATTR_DPL) >> ATTR_DPL_SHIFT;
    update_segments(cpu);
    if (cpu->tlb)
        x86_tlb_select(cpu);

    if (trap && !(events & X86_EV_TRAP))
        atomic_fetch_or_explicit(&cpu->events, X86_EV_TRAP, memory_order_relaxed);
    else if (!trap && (events & X86_EV_TRAP))
        atomic_fetch_and_explicit(&cpu->events, ~X86_EV_TRAP, memory_order_relaxed);
}
