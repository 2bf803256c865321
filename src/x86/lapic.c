/*
 * x86/lapic.c: the local APIC's registers, priorities and requests.
 * SDM vol. 3 chapter 11; AMD APM vol. 2 chapter 16.
 */
#include "x86/lapic.h"

#include <string.h>

#include "x86/cpu.h"

#define LVT_MASKED BIT(16)
#define SVR_RESET  0xff

void x86_lapic_init(struct x86_cpu *cpu)
{
    struct x86_lapic *l = &cpu->lapic;
    uint64_t base = l->base_msr;

    memset(l, 0, sizeof(*l));
    l->base_msr = base;
    l->id = cpu->id;
    l->dfr = ~0u;
    l->svr = SVR_RESET;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = LVT_MASKED;
    l->timer_deadline_ns = UINT64_MAX;
}

void x86_lapic_reset(struct x86_cpu *cpu)
{
    cpu->lapic.base_msr = X86_APIC_BASE | X86_APIC_BASE_ENABLE | (cpu->id ? 0 : X86_APIC_BASE_BSP);
    x86_lapic_init(cpu);
}
