/* apic.c: the local APIC. */
#include "kit/apic.h"
#include "kit/page.h"

bool apic_x2;

void apic_init(void)
{
    if (read_cr0() & CR0_PG)
        map_large(LAPIC_BASE & ~0x1ffffful, LAPIC_BASE & ~0x1ffffful, PTE_PW | 0x18 /* uncacheable */, 2);
    wrmsr(MSR_APIC_BASE, LAPIC_BASE | 0x800 | (rdmsr(MSR_APIC_BASE) & 0x100));
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_LVT_LINT0, LVT_MASKED);
    apic_write(APIC_TPR, 0);
}

void apic_x2_on(void)
{
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00);
    apic_x2 = true;
}

uint32_t apic_read(unsigned offset)
{
    if (apic_x2)
        return (uint32_t)rdmsr(MSR_X2APIC + offset / 16);
    return *(volatile uint32_t *)(LAPIC_BASE + offset);
}

void apic_write(unsigned offset, uint32_t value)
{
    if (apic_x2)
        wrmsr(MSR_X2APIC + offset / 16, value);
    else
        *(volatile uint32_t *)(LAPIC_BASE + offset) = value;
}

bool apic_bit(unsigned array, unsigned vector)
{
    return apic_read(array + vector / 32 * 16) >> vector % 32 & 1;
}

void apic_self(unsigned vector)
{
    apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | vector);
    for (unsigned i = 0; i < 100000 && !apic_bit(APIC_IRR, vector) && !(read_flags() & FL_IF); i++)
        continue;
}

void apic_nmi(void)
{
    apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | ICR_NMI);
}

void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}
