/*
 * apic.h: the local APIC, in xAPIC (MMIO) and x2APIC (MSR) mode; offsets are
 * xAPIC's (SDM vol. 3, table 11-1).
 */
#ifndef KIT_APIC_H
#define KIT_APIC_H

#include "kit/kit.h"

enum {
    APIC_ID = 0x20,
    APIC_VERSION = 0x30,
    APIC_TPR = 0x80,
    APIC_PPR = 0xa0,
    APIC_EOI = 0xb0,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SVR = 0xf0,
    APIC_ISR = 0x100,
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_ICR = 0x300,
    APIC_ICR2 = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_THERMAL = 0x330,
    APIC_LVT_PMC = 0x340,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_LVT_ERROR = 0x370,
    APIC_TIMER_INITIAL = 0x380,
    APIC_TIMER_CURRENT = 0x390,
    APIC_TIMER_DIVIDE = 0x3e0,
    APIC_SELF_IPI = 0x3f0,
};
enum {
    ICR_SELF = 0x40000,
    ICR_NMI = 0x400,
    ICR_ASSERT = 0x4000,
    LVT_MASKED = 0x10000,
    LVT_PERIODIC = 0x20000,
    LVT_DEADLINE = 0x40000
};

extern bool apic_x2; /* in x2APIC mode */

void apic_init(void);  /* mapped (with paging on), enabled, spurious vector 0xff, LINT0 masked */
void apic_x2_on(void); /* apic_init() first */
uint32_t apic_read(unsigned offset);
void apic_write(unsigned offset, uint32_t value);
void apic_self(unsigned vector); /* fixed IPI to self; waits until IRR shows it, unless IF lets it in at once */
void apic_nmi(void);
void apic_eoi(void);
bool apic_bit(unsigned array, unsigned vector); /* of APIC_IRR, APIC_ISR, APIC_TMR */

#endif
