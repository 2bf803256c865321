/*
 * x86/lapic.c: the local APIC: requests, priorities, messages. Its registers are
 * in lapic_regs.c. SDM vol. 3 chapter 11; AMD APM vol. 2 chapter 16.
 */
#include "x86/lapic.h"

#include <string.h>

#include "x86/bus.h"
#include "x86/cpu.h"
#include "x86/lapic_internal.h"

#define SVR_RESET    0xffu
#define SVR_ENABLED  BIT(8)
#define FIRST_VECTOR 16 /* lower ones are illegal */

void x86_lapic_init(struct x86_cpu *cpu)
{
    struct x86_lapic *l = &cpu->lapic;
    const size_t own = offsetof(struct x86_lapic, esr), others = offsetof(struct x86_lapic, sipi_vector);

    /* The start-up IPI may already be there: its vector stays. */
    memset((uint8_t *)l + own, 0, others - own);
    for (unsigned i = 0; i < 8; i++) {
        atomic_store_explicit(&l->posted[i], 0, memory_order_relaxed);
        atomic_store_explicit(&l->posted_level[i], 0, memory_order_relaxed);
    }
    x86_lapic_put(l->id, cpu->id);
    x86_lapic_put(l->ldr, 0);
    x86_lapic_put(l->dfr, ~0u);
    x86_lapic_put(l->svr, SVR_RESET);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = LVT_MASKED;
    l->timer_deadline_ns = UINT64_MAX;
}

void x86_lapic_reset(struct x86_cpu *cpu)
{
    x86_lapic_put(cpu->lapic.base_msr, X86_APIC_BASE | X86_APIC_BASE_ENABLE | (cpu->id ? 0 : X86_APIC_BASE_BSP));
    x86_lapic_init(cpu);
}

/* --- vectors ------------------------------------------------------------------------ */

static int highest(const uint32_t bits[8])
{
    for (int i = 7; i >= 0; i--)
        if (bits[i])
            return 32 * i + 31 - __builtin_clz(bits[i]);
    return -1;
}

static void set_vector(uint32_t bits[8], uint8_t vector)
{
    bits[vector / 32] |= 1u << (vector % 32);
}

static void clear_vector(uint32_t bits[8], uint8_t vector)
{
    bits[vector / 32] &= ~(1u << (vector % 32));
}

static bool test_vector(const uint32_t bits[8], uint8_t vector)
{
    return bits[vector / 32] >> (vector % 32) & 1;
}

static bool globally_enabled(const struct x86_lapic *l)
{
    return x86_lapic_get(l->base_msr) & X86_APIC_BASE_ENABLE;
}

static bool x2apic(const struct x86_lapic *l)
{
    return x86_lapic_get(l->base_msr) & X86_APIC_BASE_X2APIC;
}

uint8_t x86_lapic_ppr(const struct x86_lapic *l)
{
    int serviced = highest(l->isr);

    if (serviced < 0 || (serviced >> 4) <= (int)(l->tpr >> 4))
        return (uint8_t)l->tpr;
    return (uint8_t)(serviced & 0xf0);
}

void x86_lapic_error(struct x86_cpu *cpu, uint32_t error)
{
    bool first = !(cpu->lapic.esr_pending & error);

    cpu->lapic.esr_pending |= error;
    if (first)
        x86_lapic_local(cpu, LVT_ERROR);
}

static void request(struct x86_cpu *cpu, uint8_t vector)
{
    struct x86_lapic *l = &cpu->lapic;

    if (vector < FIRST_VECTOR) {
        /* An illegal vector in the error entry itself reports nothing further. */
        l->esr_pending |= ESR_RECEIVE_VECTOR;
        return;
    }
    set_vector(l->irr, vector);
    clear_vector(l->tmr, vector);
    x86_post_event(cpu, X86_EV_APIC);
}

void x86_lapic_local(struct x86_cpu *cpu, enum x86_lvt lvt)
{
    uint32_t entry = cpu->lapic.lvt[lvt];

    if (!(entry & LVT_MASKED))
        request(cpu, entry & LVT_VECTOR);
}

void x86_lapic_sync(struct x86_cpu *cpu)
{
    struct x86_lapic *l = &cpu->lapic;

    for (unsigned i = 0; i < 8; i++) {
        uint32_t level, bits;

        if (!atomic_load_explicit(&l->posted[i], memory_order_relaxed))
            continue;
        bits = atomic_exchange_explicit(&l->posted[i], 0, memory_order_acquire);
        level = atomic_load_explicit(&l->posted_level[i], memory_order_relaxed);
        if (i == 0 && (bits & 0xffff)) {
            bits &= 0xffff0000;
            x86_lapic_error(cpu, ESR_RECEIVE_VECTOR);
        }
        l->irr[i] |= bits;
        l->tmr[i] = (l->tmr[i] & ~bits) | (level & bits);
    }
    x86_lapic_timer_sync(cpu);
}

int x86_lapic_pending(const struct x86_cpu *cpu)
{
    const struct x86_lapic *l = &cpu->lapic;
    int vector = globally_enabled(l) ? highest(l->irr) : -1;

    return vector >= 0 && (vector >> 4) > (x86_lapic_ppr(l) >> 4) ? vector : -1;
}

void x86_lapic_acknowledge(struct x86_cpu *cpu, uint8_t vector)
{
    clear_vector(cpu->lapic.irr, vector);
    set_vector(cpu->lapic.isr, vector);
    x86_post_event(cpu, X86_EV_APIC); /* there may be more in IRR */
}

void x86_lapic_eoi(struct x86_cpu *cpu)
{
    struct x86_lapic *l = &cpu->lapic;
    int vector = highest(l->isr);

    if (vector < 0)
        return;
    clear_vector(l->isr, (uint8_t)vector);
    if (test_vector(l->tmr, (uint8_t)vector))
        cpu->bus->eoi(cpu, (uint8_t)vector);
    x86_post_event(cpu, X86_EV_APIC);
}

void x86_lapic_set_tpr(struct x86_cpu *cpu, uint8_t tpr)
{
    bool lower = tpr < cpu->lapic.tpr;

    cpu->lapic.tpr = tpr;
    if (lower)
        x86_post_event(cpu, X86_EV_APIC);
}

bool x86_lapic_accepts_extint(const struct x86_cpu *cpu)
{
    const struct x86_lapic *l = &cpu->lapic;
    uint32_t lint0 = l->lvt[LVT_LINT0];

    if (!globally_enabled(l))
        return l->base_msr & X86_APIC_BASE_BSP;
    return !(lint0 & LVT_MASKED) && (lint0 & LVT_DELIVERY) >> 8 == APIC_EXTINT;
}

/* --- messages ------------------------------------------------------------------------ */

uint32_t x86_lapic_x2apic_ldr(const struct x86_lapic *l)
{
    uint32_t id = x86_lapic_get(l->id);

    return id >> 4 << 16 | 1u << (id & 15);
}

static bool matches_logical(const struct x86_lapic *l, uint32_t destination)
{
    uint32_t ldr = x86_lapic_get(l->ldr) >> 24;

    if (x2apic(l)) {
        ldr = x86_lapic_x2apic_ldr(l);
        return destination >> 16 == ldr >> 16 && (destination & ldr & 0xffff);
    }
    if (x86_lapic_get(l->dfr) >> 28 == 0xf) /* flat */
        return destination & ldr & 0xff;
    return (destination >> 4 & 0xf) == ldr >> 4 && (destination & ldr & 0xf);
}

bool x86_lapic_accepts(const struct x86_cpu *cpu, const struct x86_apic_message *m)
{
    const struct x86_lapic *l = &cpu->lapic;
    const uint32_t id = x86_lapic_get(l->id);

    if (!globally_enabled(l))
        return false;
    switch (m->shorthand) {
    case 1:
        return m->source == id;
    case 2:
        return true;
    case 3:
        return m->source != id;
    default:
        break;
    }
    if (m->destination == (m->x2apic ? 0xffffffff : 0xff))
        return true;
    return m->logical ? matches_logical(l, m->destination) : m->destination == id;
}

static void post(struct x86_cpu *cpu, uint8_t vector, bool level)
{
    struct x86_lapic *l = &cpu->lapic;
    uint32_t bit = 1u << (vector % 32);

    if (!(x86_lapic_get(l->svr) & SVR_ENABLED))
        return;
    if (level)
        atomic_fetch_or_explicit(&l->posted_level[vector / 32], bit, memory_order_relaxed);
    else
        atomic_fetch_and_explicit(&l->posted_level[vector / 32], ~bit, memory_order_relaxed);
    atomic_fetch_or_explicit(&l->posted[vector / 32], bit, memory_order_release);
    x86_post_event(cpu, X86_EV_APIC);
}

void x86_lapic_deliver(struct x86_cpu *cpu, const struct x86_apic_message *m)
{
    switch (m->delivery) {
    case APIC_FIXED:
    case APIC_LOWEST:
        post(cpu, m->vector, m->level);
        break;
    case APIC_NMI:
        x86_post_event(cpu, X86_EV_NMI);
        break;
    case APIC_INIT:
        if (m->level && !m->assert_level)
            break;
        atomic_fetch_and_explicit(&cpu->events, ~X86_EV_SIPI, memory_order_relaxed); /* one before INIT is lost */
        x86_post_event(cpu, X86_EV_INIT);
        break;
    case APIC_STARTUP:
        atomic_store_explicit(&cpu->lapic.sipi_vector, m->vector, memory_order_relaxed);
        x86_post_event(cpu, X86_EV_SIPI);
        break;
    default: /* SMI: there is no SMM; ExtINT: comes from the 8259, not as a message */
        break;
    }
}

void x86_lapic_send(struct x86_cpu *cpu, uint64_t icr)
{
    struct x86_apic_message m = {
        .destination = (uint32_t)(x2apic(&cpu->lapic) ? icr >> 32 : icr >> 56),
        .vector = (uint8_t)icr,
        .delivery = icr >> 8 & 7,
        .shorthand = icr >> 18 & 3,
        .logical = icr >> 11 & 1,
        .assert_level = icr >> 14 & 1,
        .x2apic = x2apic(&cpu->lapic),
        .source = cpu->lapic.id,
    };
    bool fixed = m.delivery == APIC_FIXED || m.delivery == APIC_LOWEST;

    m.level = m.delivery == APIC_INIT && (icr >> 15 & 1); /* other IPIs are edges, whatever they say */
    if (fixed && m.vector < FIRST_VECTOR)
        x86_lapic_error(cpu, ESR_SEND_VECTOR);
    else if (m.shorthand == 1 && fixed)
        x86_lapic_deliver(cpu, &m);
    else if ((m.shorthand != 1 && m.shorthand != 2) || fixed || m.delivery == APIC_NMI)
        cpu->bus->send_ipi(cpu, &m);
}
