/*
 * engine/kvm/apic.c: the local APIC's registers between KVM's form, the page an
 * xAPIC shows (SDM vol. 3, table 11-1), and x86/lapic.h's.
 */
#include <string.h>

#include "engine/kvm/kvm_internal.h"

enum {
    REG_ID = 0x20,
    REG_VERSION = 0x30,
    REG_TPR = 0x80,
    REG_LDR = 0xd0,
    REG_DFR = 0xe0,
    REG_SVR = 0xf0,
    REG_ISR = 0x100,
    REG_TMR = 0x180,
    REG_IRR = 0x200,
    REG_ESR = 0x280,
    REG_ICR = 0x300,
    REG_ICR_HIGH = 0x310,
    REG_LVT = 0x320,
    REG_TMICT = 0x380,
    REG_TMCCT = 0x390,
    REG_TDCR = 0x3e0,
};

#define VERSION (0x14u | (LVT_COUNT - 1) << 16)

static uint32_t get(const struct kvm_lapic_state *page, unsigned reg)
{
    uint32_t value;

    memcpy(&value, page->regs + reg, sizeof(value));
    return value;
}

static void set(struct kvm_lapic_state *page, unsigned reg, uint32_t value)
{
    memcpy(page->regs + reg, &value, sizeof(value));
}

/* SDM vol. 3, figure 11-10: 0 is /2, 6 is /128, 7 is /1. */
static unsigned divide_shift(uint32_t tdcr)
{
    return (((tdcr >> 1 & 4) | (tdcr & 3)) + 1) & 7;
}

static void unpack_timer(struct engine_vcpu *vcpu, struct x86_lapic *l, const struct kvm_lapic_state *page)
{
    const unsigned shift = divide_shift(get(page, REG_TDCR));
    const uint64_t left = (uint64_t)get(page, REG_TMCCT) << shift;

    l->timer_initial = get(page, REG_TMICT);
    l->timer_divide = get(page, REG_TDCR);
    l->timer_start_ns = 0;
    l->timer_deadline_ns = UINT64_MAX;
    if (!left)
        return;
    l->timer_deadline_ns = vclock_ns(vcpu->vm->clock) + left;
    l->timer_start_ns = l->timer_deadline_ns - ((uint64_t)l->timer_initial << shift);
}

void kvm_apic_unpack(struct engine_vcpu *vcpu, struct x86_lapic *l, const struct kvm_lapic_state *page)
{
    l->id = vcpu->cpu.id;
    l->tpr = get(page, REG_TPR);
    l->ldr = l->base_msr & X86_APIC_BASE_X2APIC ? 0 : get(page, REG_LDR);
    l->dfr = get(page, REG_DFR);
    l->svr = get(page, REG_SVR);
    l->esr = get(page, REG_ESR);
    l->icr = get(page, REG_ICR) | (uint64_t)get(page, REG_ICR_HIGH) << 32;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = get(page, REG_LVT + 16 * i);
    for (unsigned i = 0; i < 8; i++) {
        l->isr[i] = get(page, REG_ISR + 16 * i);
        l->tmr[i] = get(page, REG_TMR + 16 * i);
        l->irr[i] = get(page, REG_IRR + 16 * i);
    }
    unpack_timer(vcpu, l, page);
}

/* A timer that has fired, or never started, is given no initial count either: KVM would start it anew. */
static void pack_timer(struct engine_vcpu *vcpu, const struct x86_lapic *l, struct kvm_lapic_state *page)
{
    const uint64_t now = vclock_ns(vcpu->vm->clock);
    uint64_t left;

    set(page, REG_TDCR, l->timer_divide);
    if (l->timer_deadline_ns == UINT64_MAX)
        return;
    left = l->timer_deadline_ns > now ? (l->timer_deadline_ns - now) >> divide_shift(l->timer_divide) : 0;
    set(page, REG_TMICT, l->timer_initial);
    set(page, REG_TMCCT, (uint32_t)MAX(left, 1));
}

void kvm_apic_pack(struct engine_vcpu *vcpu, const struct x86_lapic *l, struct kvm_lapic_state *page)
{
    const bool x2apic = l->base_msr & X86_APIC_BASE_X2APIC;

    memset(page, 0, sizeof(*page));
    set(page, REG_ID, l->id << 24); /* in this place in x2APIC mode too: KVM_CAP_X2APIC_API is not asked for */
    set(page, REG_VERSION, VERSION);
    set(page, REG_TPR, l->tpr);
    set(page, REG_LDR, x2apic ? l->id >> 4 << 16 | 1u << (l->id & 15) : l->ldr);
    set(page, REG_DFR, l->dfr);
    set(page, REG_SVR, l->svr);
    set(page, REG_ESR, l->esr);
    set(page, REG_ICR, (uint32_t)l->icr);
    set(page, REG_ICR_HIGH, (uint32_t)(l->icr >> 32));
    for (unsigned i = 0; i < LVT_COUNT; i++)
        set(page, REG_LVT + 16 * i, l->lvt[i]);
    for (unsigned i = 0; i < 8; i++) {
        set(page, REG_ISR + 16 * i, l->isr[i]);
        set(page, REG_TMR + 16 * i, l->tmr[i]);
        set(page, REG_IRR + 16 * i, l->irr[i]);
    }
    pack_timer(vcpu, l, page);
}
