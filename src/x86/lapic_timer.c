/*
 * x86/lapic_timer.c: the local APIC's timer as a function of the VM's clock: no
 * host timer runs; x86_lapic_next_ns() says when to look again. SDM vol. 3, 11.5.4.
 */
#include "x86/bus.h"
#include "x86/lapic_internal.h"
#include "x86/msr.h"

enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE };

static unsigned mode(const struct x86_lapic *l)
{
    return l->lvt[LVT_TIMER] >> 17 & 3;
}

/* TDCR bits 3, 1, 0: 0 is /2, 6 is /128, 7 is /1. */
static unsigned divide_shift(const struct x86_lapic *l)
{
    unsigned code = (l->timer_divide >> 1 & 4) | (l->timer_divide & 3);

    return (code + 1) & 7;
}

/* Counts down from count, beginning now. */
static void start(struct x86_cpu *cpu, uint32_t count)
{
    struct x86_lapic *l = &cpu->lapic;

    l->timer_deadline_ns = UINT64_MAX;
    if (!count || mode(l) == TIMER_TSC_DEADLINE)
        return;
    l->timer_start_ns = cpu->bus->ns(cpu);
    l->timer_deadline_ns = l->timer_start_ns + ((uint64_t)count << divide_shift(l));
    x86_post_event(cpu, X86_EV_APIC);
}

/* Moves a periodic timer past now, or stops a one-shot one. */
static void expire(struct x86_lapic *l, uint64_t now)
{
    uint64_t period = (uint64_t)l->timer_initial << divide_shift(l);

    if (mode(l) != TIMER_PERIODIC || !period) {
        l->timer_deadline_ns = UINT64_MAX;
        return;
    }
    l->timer_start_ns = now - (now - l->timer_deadline_ns) % period;
    l->timer_deadline_ns = l->timer_start_ns + period;
}

void x86_lapic_timer_sync(struct x86_cpu *cpu)
{
    struct x86_lapic *l = &cpu->lapic;

    if (l->tsc_deadline && x86_guest_tsc(cpu) >= l->tsc_deadline) {
        l->tsc_deadline = 0;
        x86_lapic_local(cpu, LVT_TIMER);
    }
    if (l->timer_deadline_ns != UINT64_MAX) {
        uint64_t now = cpu->bus->ns(cpu);

        if (now < l->timer_deadline_ns)
            return;
        expire(l, now);
        x86_lapic_local(cpu, LVT_TIMER);
    }
}

uint32_t x86_lapic_timer_count(struct x86_cpu *cpu)
{
    struct x86_lapic *l = &cpu->lapic;

    x86_lapic_timer_sync(cpu);
    if (l->timer_deadline_ns == UINT64_MAX)
        return 0;
    return (uint32_t)((l->timer_deadline_ns - cpu->bus->ns(cpu)) >> divide_shift(l));
}

void x86_lapic_timer_set_count(struct x86_cpu *cpu, uint32_t value)
{
    if (mode(&cpu->lapic) == TIMER_TSC_DEADLINE)
        return;
    cpu->lapic.timer_initial = value;
    start(cpu, value);
}

void x86_lapic_timer_set_divide(struct x86_cpu *cpu, uint32_t value)
{
    uint32_t count = x86_lapic_timer_count(cpu);

    cpu->lapic.timer_divide = value & 0xb;
    start(cpu, count);
}

void x86_lapic_timer_set_lvt(struct x86_cpu *cpu, uint32_t value)
{
    struct x86_lapic *l = &cpu->lapic;
    unsigned old = mode(l);

    x86_lapic_timer_sync(cpu);
    l->lvt[LVT_TIMER] = value;
    if (old != mode(l) && (old == TIMER_TSC_DEADLINE || mode(l) == TIMER_TSC_DEADLINE)) {
        l->timer_deadline_ns = UINT64_MAX;
        l->timer_initial = 0;
        l->tsc_deadline = 0;
    }
    x86_post_event(cpu, X86_EV_APIC);
}

void x86_lapic_timer_set_deadline(struct x86_cpu *cpu, uint64_t value)
{
    if (mode(&cpu->lapic) != TIMER_TSC_DEADLINE)
        return;
    cpu->lapic.tsc_deadline = value;
    if (value)
        x86_post_event(cpu, X86_EV_APIC);
}

/* When the VM's clock will have counted so many ticks more; a nanosecond late rather than early. */
static uint64_t ns_after_ticks(struct x86_cpu *cpu, uint64_t ticks)
{
    unsigned __int128 ns = (unsigned __int128)ticks * 1000000000u / cpu->bus->tsc_hz(cpu) + 2;

    ns += cpu->bus->ns(cpu);
    return ns < UINT64_MAX ? (uint64_t)ns : UINT64_MAX;
}

uint64_t x86_lapic_next_ns(struct x86_cpu *cpu)
{
    const struct x86_lapic *l = &cpu->lapic;
    uint64_t tsc;

    if (l->lvt[LVT_TIMER] & LVT_MASKED)
        return UINT64_MAX;
    if (!l->tsc_deadline)
        return l->timer_deadline_ns;
    tsc = x86_guest_tsc(cpu);
    return tsc >= l->tsc_deadline ? 0 : ns_after_ticks(cpu, l->tsc_deadline - tsc);
}
