/*
 * engine/bt/leaf.c: see leaf.h. This file is compiled for general-purpose
 * registers only and calls nothing outside, so that the guest's vector registers may
 * stay in the host's.
 *
 * Each function does the usual case: what could fault, or has to be looked at by the
 * run loop (an event, single-stepping), is left to the semantics, before
 * anything has changed. While translated code runs there is no single-stepping, no
 * breakpoint, no shadow (soft_stepping()).
 */
#include "engine/bt/leaf.h"

#include "base/vclock_read.h"
#include "x86/exec/flags.h"
#include "x86/exec/flat.h"
#include "x86/view.h"
#include "x86/zydis.h"

/* --- ways on ---------------------------------------------------------------------------------------------- */

/* bt_near: target and slot become S0 and S1. */
static const void *by_semantics(struct bt_vcpu *vcpu, struct bt_site *site)
{
    bt_near(vcpu)->target = (uint64_t)site;
    return bt_host(vcpu, vcpu->thunk.callout);
}

static const void *next(struct bt_vcpu *vcpu, struct bt_site *site)
{
    vcpu->soft.cpu.counters.leaves++;
    return bt_host(vcpu, site->resume);
}

/* To cpu.rip, in 64-bit mode: by the jump table. */
static const void *jump(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;
    struct bt_near *near = bt_near(vcpu);
    const uint64_t rip = cpu->rip, key = rip + near->salt;
    const struct bt_jump *way = bt_jump_slot(vcpu, rip);

    cpu->counters.leaves++;
    if (unlikely(vcpu->soft.tlb.shadowed && x86_shadow_is_stale(&vcpu->soft.tlb))) {
        near->target = rip;
        return bt_host(vcpu, vcpu->thunk.resolve);
    }
    way += way->key != key;
    if (likely(way->key == key)) {
        cpu->rip = rip & PAGE_MASK;
        return way->entry;
    }
    near->target = rip;
    near->slot = (uint64_t)site;
    return bt_host(vcpu, vcpu->thunk.jump_miss);
}

/* Does the run loop have to look at something, before interrupts or (enable) after they are enabled? */
static bool is_wanted(const struct bt_vcpu *vcpu, bool enable)
{
    return soft_attention(&vcpu->soft) || (enable && vcpu->soft.wanted);
}

static struct x86_cpu *with_flags(struct bt_vcpu *vcpu)
{
    flags_set(&vcpu->soft.cpu, bt_near(vcpu)->flags);
    return &vcpu->soft.cpu;
}

/* After a change of the privilege or of AC, in 64-bit mode. */
static void view_changed(struct bt_vcpu *vcpu)
{
    x86_view_select(&vcpu->soft.cpu);
    bt_take_view(vcpu);
}

/* --- system calls ------------------------------------------------------------------------------------------- */

static const void *leaf_syscall(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = with_flags(vcpu);

    if (unlikely(!(cpu->msr.efer & EFER_SCE) || !x86_canonical(cpu->msr.lstar) || is_wanted(vcpu, false)))
        return by_semantics(vcpu, site);
    flat_syscall(cpu, cpu->rip + site->code->offset[site->last + 1], cpu->msr.lstar);
    cpu->cpl = 0;
    bt_near(vcpu)->flags = flags_get(cpu);
    view_changed(vcpu);
    return jump(vcpu, site);
}

static const void *leaf_sysret(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;

    if (unlikely(!(cpu->msr.efer & EFER_SCE) || cpu->cpl || !x86_canonical(cpu->gpr[RCX]) ||
                 (cpu->gpr[R11] & FLAG_TF) || is_wanted(vcpu, true)))
        return by_semantics(vcpu, site);
    flat_sysret(cpu, true, cpu->gpr[RCX]);
    cpu->cpl = 3;
    bt_near(vcpu)->flags = flags_get(cpu);
    view_changed(vcpu);
    return jump(vcpu, site);
}

/* --- IRETQ ---------------------------------------------------------------------------------------------------- */

/* The segment a selector names, if its descriptor is at hand and marked as accessed already. */
static bool read_segment(struct x86_cpu *cpu, uint16_t selector, struct x86_segment *seg)
{
    const unsigned offset = selector & ~7u;
    const uint64_t *raw;

    if (x86_null_selector(selector) || (selector & SELECTOR_TI) || offset + 7 > cpu->gdtr.limit)
        return false;
    raw = x86_tlb_system(cpu, cpu->gdtr.base + offset, sizeof(*raw), false);
    if (!raw)
        return false;
    *seg = x86_unpack_descriptor(*(const volatile uint64_t *)raw, selector);
    return (seg->attr & (ATTR_P | ATTR_S | ATTR_ACCESSED)) == (ATTR_P | ATTR_S | ATTR_ACCESSED) &&
           x86_dpl(seg) == (selector & SELECTOR_RPL);
}

/* To 64-bit code. */
static bool read_cs(struct x86_cpu *cpu, uint16_t selector, struct x86_segment *cs)
{
    return read_segment(cpu, selector, cs) && x86_is_code(cs->attr) && !x86_is_conforming(cs->attr) &&
           (cs->attr & (ATTR_L | ATTR_DB)) == ATTR_L;
}

static bool read_ss(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, struct x86_segment *ss)
{
    if ((selector & SELECTOR_RPL) != cpl)
        return false;
    if (x86_null_selector(selector) && cpl != 3) {
        *ss = (struct x86_segment){.selector = selector, .attr = (uint16_t)(cpl << ATTR_DPL_SHIFT)};
        return true;
    }
    return read_segment(cpu, selector, ss) && x86_is_data(ss->attr) && (ss->attr & ATTR_WRITABLE);
}

static const void *leaf_iret(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = with_flags(vcpu);
    const uint64_t unusual = FLAG_TF | FLAG_RF | FLAG_VM | FLAG_NT | FLAG_VIF | FLAG_VIP;
    const volatile uint64_t *top = x86_tlb_read(cpu, cpu->gpr[RSP], 5 * sizeof(*top));
    struct x86_segment cs, ss;
    uint64_t frame[5];
    unsigned cpl;

    if (unlikely(!top))
        return by_semantics(vcpu, site);
    for (unsigned i = 0; i < ARRAY_SIZE(frame); i++)
        frame[i] = top[i];
    if (unlikely(cpu->cpl || cpu->nmi_masked || cpu->nmi_pending || ((cpu->rflags | frame[2]) & unusual) ||
                 is_wanted(vcpu, frame[2] & FLAG_IF)))
        return by_semantics(vcpu, site);
    if (unlikely(!x86_canonical(frame[0]) || !read_cs(cpu, (uint16_t)frame[1], &cs)))
        return by_semantics(vcpu, site);
    cpl = cs.selector & SELECTOR_RPL;
    if (unlikely(!read_ss(cpu, (uint16_t)frame[4], cpl, &ss)))
        return by_semantics(vcpu, site);
    flags_return(cpu, frame[2], 8);
    cpu->seg[SEG_CS] = cs;
    cpu->seg[SEG_SS] = ss;
    cpu->gpr[RSP] = frame[3];
    cpu->rip = frame[0];
    if (cpl)
        x86_null_inner_segments(cpu, cpl);
    cpu->cpl = (uint8_t)cpl;
    bt_near(vcpu)->flags = flags_get(cpu);
    view_changed(vcpu);
    return jump(vcpu, site);
}

/* --- flags ------------------------------------------------------------------------------------------------------ */

static const void *leaf_stac(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;

    if (unlikely(cpu->cpl))
        return by_semantics(vcpu, site);
    cpu->rflags |= FLAG_AC;
    view_changed(vcpu);
    return next(vcpu, site);
}

static const void *leaf_clac(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;

    if (unlikely(cpu->cpl))
        return by_semantics(vcpu, site);
    cpu->rflags &= ~(uint64_t)FLAG_AC;
    view_changed(vcpu);
    return next(vcpu, site);
}

/* At privilege 0 all of these may change; others have to be as they are. */
static const void *leaf_popf(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = with_flags(vcpu);
    const uint64_t plain = FLAGS_STATUS | FLAG_IF | FLAG_DF;
    const uint64_t popped = plain | FLAG_TF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID;
    const uint64_t *top = x86_tlb_read(cpu, cpu->gpr[RSP], sizeof(*top));
    uint64_t changed;

    if (unlikely(!top || cpu->cpl))
        return by_semantics(vcpu, site);
    changed = (cpu->rflags ^ *(const volatile uint64_t *)top) & popped;
    if (unlikely((changed & ~plain) || is_wanted(vcpu, changed & FLAG_IF)))
        return by_semantics(vcpu, site);
    cpu->rflags ^= changed;
    cpu->gpr[RSP] += sizeof(*top);
    bt_near(vcpu)->flags = flags_get(cpu);
    return next(vcpu, site);
}

/* --- time-stamp counter ----------------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) bool read_tsc(struct bt_vcpu *vcpu, bool ordered)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;
    uint64_t tsc;

    if (unlikely(cpu->cpl && (cpu->cr4 & CR4_TSD)))
        return false;
    tsc = vclock_read_ordered(vcpu->soft.vm->clock, ordered).tsc + cpu->msr.tsc_offset;
    cpu->gpr[RAX] = (uint32_t)tsc;
    cpu->gpr[RDX] = tsc >> 32;
    return true;
}

static const void *leaf_rdtsc(struct bt_vcpu *vcpu, struct bt_site *site)
{
    return read_tsc(vcpu, false) ? next(vcpu, site) : by_semantics(vcpu, site);
}

static const void *leaf_rdtscp(struct bt_vcpu *vcpu, struct bt_site *site)
{
    if (!read_tsc(vcpu, true))
        return by_semantics(vcpu, site);
    vcpu->soft.cpu.gpr[RCX] = (uint32_t)vcpu->soft.cpu.msr.tsc_aux;
    return next(vcpu, site);
}

/* --- STOS, MOVS, with REP or without ------------------------------------------------------------------------------ */

#define STRING_PIECES 4 /* the semantics do what is longer, and look for events meanwhile */

static uint64_t room(uint64_t lin)
{
    return PAGE_SIZE - (lin & ~PAGE_MASK);
}

static void fill(void *to, uint64_t value, uint64_t count, unsigned size)
{
    if (size == 8)
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    else if (size == 4)
        __asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    else
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
}

static void copy(void *to, const void *from, uint64_t count, unsigned size)
{
    if (size == 8)
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    else if (size == 4)
        __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    else
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

/* How many elements: one, without the prefix. */
static uint64_t elements(const struct x86_cpu *cpu, const struct x86_insn *in)
{
    return in->flags & (INSN_REP | INSN_REPNE) ? cpu->gpr[RCX] : 1;
}

/* false: some are left, for the semantics. */
static bool done(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t left)
{
    if (in->flags & (INSN_REP | INSN_REPNE))
        cpu->gpr[RCX] = left;
    return !left;
}

static const void *leaf_stos(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;
    const struct x86_insn *in = &site->code->block->insn[site->last];
    uint64_t left = elements(cpu, in);
    const unsigned size = in->opsize;

    if (unlikely(cpu->rflags & FLAG_DF))
        return by_semantics(vcpu, site);
    for (unsigned i = 0; i < STRING_PIECES && left; i++) {
        const uint64_t run = MIN(left, room(cpu->gpr[RDI]) / size);
        void *to = run ? x86_tlb_write(cpu, cpu->gpr[RDI], (unsigned)run * size) : NULL;

        if (!to)
            break;
        fill(to, cpu->gpr[RAX], run, size);
        cpu->gpr[RDI] += run * size;
        left -= run;
    }
    return done(cpu, in, left) ? next(vcpu, site) : by_semantics(vcpu, site);
}

static const void *leaf_movs(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;
    const struct x86_insn *in = &site->code->block->insn[site->last];
    uint64_t left = elements(cpu, in);
    const unsigned size = in->opsize;

    if (unlikely(cpu->rflags & FLAG_DF))
        return by_semantics(vcpu, site);
    for (unsigned i = 0; i < STRING_PIECES && left; i++) {
        const uint64_t run = MIN(left, MIN(room(cpu->gpr[RSI]), room(cpu->gpr[RDI])) / size);
        const void *from = run ? x86_tlb_read(cpu, cpu->gpr[RSI], (unsigned)run * size) : NULL;
        void *to = from ? x86_tlb_write(cpu, cpu->gpr[RDI], (unsigned)run * size) : NULL;

        if (!to)
            break;
        copy(to, from, run, size);
        cpu->gpr[RSI] += run * size;
        cpu->gpr[RDI] += run * size;
        left -= run;
    }
    return done(cpu, in, left) ? next(vcpu, site) : by_semantics(vcpu, site);
}

/* --- which -------------------------------------------------------------------------------------------------------- */

static bool is_plain_string(const struct x86_insn *in)
{
    return in->shape == SHAPE_NONE && in->addrsize == 8 && in->seg != SEG_FS && in->seg != SEG_GS;
}

bt_leaf_fn *bt_leaf_of(const struct x86_insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
        return leaf_syscall;
    case ZYDIS_MNEMONIC_SYSRET:
        return in->opsize == 8 ? leaf_sysret : NULL;
    case ZYDIS_MNEMONIC_IRETQ:
        return leaf_iret;
    case ZYDIS_MNEMONIC_STAC:
        return leaf_stac;
    case ZYDIS_MNEMONIC_CLAC:
        return leaf_clac;
    case ZYDIS_MNEMONIC_POPFQ:
        return leaf_popf;
    case ZYDIS_MNEMONIC_RDTSC:
        return leaf_rdtsc;
    case ZYDIS_MNEMONIC_RDTSCP:
        return leaf_rdtscp;
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
        return is_plain_string(in) ? leaf_stos : NULL;
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
        return is_plain_string(in) ? leaf_movs : NULL;
    default:
        return NULL;
    }
}
