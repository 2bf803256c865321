/*
 * x86/lapic_regs.c: the local APIC's registers, as memory (xAPIC) and as MSRs
 * (x2APIC), and the changes between the two. SDM vol. 3, 11.4 and 11.12.
 */
#include <string.h>

#include "base/log.h"
#include "x86/bus.h"
#include "x86/cpuid.h"
#include "x86/lapic_internal.h"
#include "x86/tlb.h"

/* Offsets in the APIC page; an x2APIC MSR is 0x800 + offset / 16. */
enum {
    REG_ID = 0x20,
    REG_VERSION = 0x30,
    REG_TPR = 0x80,
    REG_APR = 0x90,
    REG_PPR = 0xa0,
    REG_EOI = 0xb0,
    REG_RRD = 0xc0,
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
    REG_SELF_IPI = 0x3f0,
};

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC       0x800u

#define VERSION      (0x14u | (LVT_COUNT - 1) << 16)
#define SVR_ENABLED  BIT(8)
#define SVR_WRITABLE 0x3ffu
#define ICR_WRITABLE 0x000ccfffull       /* delivery status, bit 12, is never seen set */
#define LVT_LINT_PIN (BIT(13) | BIT(15)) /* polarity, trigger mode */

/* In the order of the registers: enum x86_lvt. */
static const uint32_t lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = LVT_VECTOR | LVT_MASKED | LVT_TIMER_MODE,
    [LVT_THERMAL] = LVT_VECTOR | LVT_DELIVERY | LVT_MASKED,
    [LVT_PMC] = LVT_VECTOR | LVT_DELIVERY | LVT_MASKED,
    [LVT_LINT0] = LVT_VECTOR | LVT_DELIVERY | LVT_MASKED | LVT_LINT_PIN,
    [LVT_LINT1] = LVT_VECTOR | LVT_DELIVERY | LVT_MASKED | LVT_LINT_PIN,
    [LVT_ERROR] = LVT_VECTOR | LVT_MASKED,
};

static bool x2apic(const struct x86_cpu *cpu)
{
    return cpu->lapic.base_msr & X86_APIC_BASE_X2APIC;
}

static bool is_lvt(unsigned reg)
{
    return reg >= REG_LVT && reg < REG_LVT + 16 * LVT_COUNT;
}

/* false: no such register. */
static bool read_register(struct x86_cpu *cpu, unsigned reg, uint64_t *value)
{
    struct x86_lapic *l = &cpu->lapic;

    *value = 0;
    if (reg >= REG_ISR && reg < REG_ESR) {
        const uint32_t *bits = reg < REG_TMR ? l->isr : reg < REG_IRR ? l->tmr : l->irr;

        *value = bits[reg >> 4 & 7];
        return true;
    }
    if (is_lvt(reg)) {
        *value = l->lvt[(reg - REG_LVT) >> 4];
        return true;
    }
    switch (reg) {
    case REG_ID:
        *value = x2apic(cpu) ? l->id : l->id << 24;
        return true;
    case REG_VERSION:
        *value = VERSION;
        return true;
    case REG_TPR:
        *value = l->tpr;
        return true;
    case REG_PPR:
        *value = x86_lapic_ppr(l);
        return true;
    case REG_APR:
    case REG_RRD:
        return !x2apic(cpu);
    case REG_LDR:
        *value = x2apic(cpu) ? x86_lapic_x2apic_ldr(l) : l->ldr;
        return true;
    case REG_DFR:
        *value = l->dfr;
        return !x2apic(cpu);
    case REG_SVR:
        *value = l->svr;
        return true;
    case REG_ESR:
        *value = l->esr;
        return true;
    case REG_ICR:
        *value = x2apic(cpu) ? l->icr : (uint32_t)l->icr;
        return true;
    case REG_ICR_HIGH:
        *value = l->icr >> 32;
        return !x2apic(cpu);
    case REG_TMICT:
        *value = l->timer_initial;
        return true;
    case REG_TMCCT:
        *value = x86_lapic_timer_count(cpu);
        return true;
    case REG_TDCR:
        *value = l->timer_divide;
        return true;
    default:
        return false;
    }
}

static void write_lvt(struct x86_cpu *cpu, enum x86_lvt n, uint32_t value)
{
    value &= lvt_writable[n];
    if (!(cpu->lapic.svr & SVR_ENABLED))
        value |= LVT_MASKED;
    if (n == LVT_TIMER)
        x86_lapic_timer_set_lvt(cpu, value);
    else
        cpu->lapic.lvt[n] = value;
    x86_post_event(cpu, X86_EV_APIC);
}

static void write_svr(struct x86_cpu *cpu, uint32_t value)
{
    x86_lapic_put(cpu->lapic.svr, value & SVR_WRITABLE);
    for (unsigned n = 0; n < LVT_COUNT && !(value & SVR_ENABLED); n++)
        cpu->lapic.lvt[n] |= LVT_MASKED;
}

static void write_icr(struct x86_cpu *cpu, uint64_t value)
{
    cpu->lapic.icr = value & (ICR_WRITABLE | 0xffffffffull << 32);
    x86_lapic_send(cpu, cpu->lapic.icr);
}

/* false: there is no such register, or it cannot be written. */
static bool write_register(struct x86_cpu *cpu, unsigned reg, uint64_t value)
{
    struct x86_lapic *l = &cpu->lapic;

    if (is_lvt(reg)) {
        write_lvt(cpu, (reg - REG_LVT) >> 4, (uint32_t)value);
        return true;
    }
    switch (reg) {
    case REG_TPR:
        x86_lapic_set_tpr(cpu, (uint8_t)value);
        return true;
    case REG_EOI:
        x86_lapic_eoi(cpu);
        return true;
    case REG_ID: /* fixed */
        return !x2apic(cpu);
    case REG_LDR:
        x86_lapic_put(l->ldr, (uint32_t)value & 0xff000000);
        return !x2apic(cpu);
    case REG_DFR:
        x86_lapic_put(l->dfr, (uint32_t)value | 0x0fffffff);
        return !x2apic(cpu);
    case REG_SVR:
        write_svr(cpu, (uint32_t)value);
        return true;
    case REG_ESR: /* shows what has come up since the last write */
        l->esr = l->esr_pending;
        l->esr_pending = 0;
        return true;
    case REG_ICR:
        write_icr(cpu, x2apic(cpu) ? value : (l->icr & ~0xffffffffull) | (uint32_t)value);
        return true;
    case REG_ICR_HIGH:
        l->icr = (uint32_t)l->icr | value << 32;
        return !x2apic(cpu);
    case REG_TMICT:
        x86_lapic_timer_set_count(cpu, (uint32_t)value);
        return true;
    case REG_TDCR:
        x86_lapic_timer_set_divide(cpu, (uint32_t)value);
        return true;
    case REG_SELF_IPI:
        if (x2apic(cpu))
            x86_lapic_send(cpu, (value & 0xff) | 1u << 18);
        return x2apic(cpu);
    default:
        return false;
    }
}

uint32_t x86_lapic_read(struct x86_cpu *cpu, unsigned offset)
{
    uint64_t value = 0;

    /* Registers are 32 bits in each 16 bytes; what lies between them is undefined. */
    if (!(offset & 0xf) && !read_register(cpu, offset, &value)) {
        value = 0;
        x86_lapic_error(cpu, ESR_REGISTER);
    }
    TRACE(IO, "apic read %#x: %#x", offset, (uint32_t)value);
    return (uint32_t)value;
}

void x86_lapic_write(struct x86_cpu *cpu, unsigned offset, uint32_t value)
{
    TRACE(IO, "apic write %#x: %#x", offset, value);
    if (!(offset & 0xf) && !write_register(cpu, offset, value))
        x86_lapic_error(cpu, ESR_REGISTER);
}

/* Bits that must be 0 in a write to an x2APIC MSR: SDM vol. 3, 11.12.1.2 and 11.12.1.3. */
static uint64_t x2apic_reserved(unsigned reg)
{
    if (is_lvt(reg))
        return ~(uint64_t)(lvt_writable[(reg - REG_LVT) >> 4] | BIT(12) | BIT(14));
    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI:
        return ~0xffull;
    case REG_EOI:
    case REG_ESR:
        return ~0ull;
    case REG_SVR:
        return ~(uint64_t)SVR_WRITABLE;
    case REG_TDCR:
        return ~0xbull;
    case REG_ICR:
        return ~(ICR_WRITABLE | BIT(12) | 0xffffffffull << 32);
    default:
        return ~0xffffffffull;
    }
}

/* disabled -> xAPIC -> x2APIC -> disabled, and xAPIC -> disabled: SDM vol. 3, 11.12.5. */
static bool write_base(struct x86_cpu *cpu, uint64_t value)
{
    struct x86_lapic *l = &cpu->lapic;
    const uint64_t mode = X86_APIC_BASE_ENABLE | X86_APIC_BASE_X2APIC;
    uint64_t address = (BIT(x86_phys_bits()) - 1) & PAGE_MASK;
    uint64_t old = l->base_msr & mode, new = value &mode;

    if ((value & ~(address | mode | X86_APIC_BASE_BSP)) || new == X86_APIC_BASE_X2APIC)
        return false;
    if ((new &X86_APIC_BASE_X2APIC) && !old)
        return false;
    if ((old & X86_APIC_BASE_X2APIC) && new == X86_APIC_BASE_ENABLE)
        return false;
    x86_lapic_put(l->base_msr, value);
    if (old != new && (!old || !new))
        x86_lapic_init(cpu);
    if (cpu->tlb)
        x86_tlb_flush(cpu); /* the page at the address is, or was, not memory */
    x86_post_event(cpu, X86_EV_APIC);
    return true;
}

bool x86_lapic_msr_read(struct x86_cpu *cpu, uint32_t msr, uint64_t *value)
{
    switch (msr) {
    case MSR_APIC_BASE:
        *value = cpu->lapic.base_msr;
        return true;
    case MSR_TSC_DEADLINE:
        x86_lapic_timer_sync(cpu);
        *value = cpu->lapic.tsc_deadline;
        return true;
    default:
        return x2apic(cpu) && msr >= MSR_X2APIC && read_register(cpu, (msr - MSR_X2APIC) << 4, value);
    }
}

bool x86_lapic_msr_write(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    unsigned reg = (msr - MSR_X2APIC) << 4;

    switch (msr) {
    case MSR_APIC_BASE:
        return write_base(cpu, value);
    case MSR_TSC_DEADLINE:
        x86_lapic_timer_set_deadline(cpu, value);
        return true;
    default:
        return x2apic(cpu) && msr >= MSR_X2APIC && reg != REG_ID && !(value & x2apic_reserved(reg)) &&
               write_register(cpu, reg, value);
    }
}
