/*
 * x86/control.c: writing CR0, CR3, CR4 and EFER: what must not be combined, and
 * what has to be flushed or loaded. SDM vol. 3, 2.5 and 4.1; AMD APM vol. 2, 3.1.
 */
#include "base/log.h"
#include "x86/bus.h"
#include "x86/cpuid.h"
#include "x86/intr.h"
#include "x86/mmu_internal.h"

#define CR0_DEFINED  (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR3_NO_FLUSH BIT(63)

/* CR4 bits that may be set, and what for. */
static const struct {
    uint64_t bit;
    enum x86_feature feature;
} cr4_bits[] = {
    {CR4_TSD, FEATURE_TSC},   {CR4_DE, FEATURE_DE},       {CR4_PSE, FEATURE_PSE},
    {CR4_PAE, FEATURE_PAE},   {CR4_MCE, FEATURE_MCE},     {CR4_PGE, FEATURE_PGE},
    {CR4_PCE, FEATURE_NONE},  {CR4_OSFXSR, FEATURE_FXSR}, {CR4_OSXMMEXCPT, FEATURE_SSE},
    {CR4_UMIP, FEATURE_UMIP}, {CR4_PCIDE, FEATURE_PCID},  {CR4_FSGSBASE, FEATURE_FSGSBASE},
    {CR4_SMEP, FEATURE_SMEP}, {CR4_SMAP, FEATURE_SMAP},   {CR4_OSXSAVE, FEATURE_XSAVE},
};

static const struct {
    uint64_t bit;
    enum x86_feature feature;
} efer_bits[] = {
    {EFER_SCE, FEATURE_SYSCALL},
    {EFER_LME, FEATURE_LM},
    {EFER_NXE, FEATURE_NX},
};

static uint64_t cr4_allowed(void)
{
    uint64_t allowed = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(cr4_bits); i++)
        if (x86_feature(cr4_bits[i].feature))
            allowed |= cr4_bits[i].bit;
    return allowed;
}

static uint64_t efer_allowed(void)
{
    uint64_t allowed = EFER_LMA /* a write leaves it as it is */ | EFER_AIBRSE;

    for (unsigned i = 0; i < ARRAY_SIZE(efer_bits); i++)
        if (x86_feature(efer_bits[i].feature))
            allowed |= efer_bits[i].bit;
    return allowed;
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

enum x86_rc x86_write_cr0(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t new = (value & CR0_DEFINED) | CR0_ET, changed = new ^ cpu->cr0;
    uint64_t efer = cpu->msr.efer;
    bool code64 = cpu->seg[SEG_CS].attr & ATTR_L;

    if (value >> 32 || ((new &CR0_PG) && !(new &CR0_PE)) || ((new &CR0_NW) && !(new &CR0_CD)))
        return x86_raise_gp(cpu, 0);
    if (changed & CR0_PG) {
        if (new &CR0_PG) {
            if ((efer & EFER_LME) && (!(cpu->cr4 & CR4_PAE) || code64))
                return x86_raise_gp(cpu, 0);
            efer = efer & EFER_LME ? efer | EFER_LMA : efer;
        } else {
            if ((cpu->cr4 & CR4_PCIDE) || ((efer & EFER_LMA) && code64))
                return x86_raise_gp(cpu, 0);
            efer &= ~EFER_LMA;
        }
    }
    if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && pae_paging(new, cpu->cr4, efer) && !x86_load_pdptes(cpu, cpu->cr3))
        return x86_raise_gp(cpu, 0);

    TRACE(MMU, "cr0 %#llx", (unsigned long long)new);
    cpu->cr0 = new;
    cpu->msr.efer = efer;
    if (changed & (CR0_PG | CR0_WP | CR0_PE))
        x86_tlb_flush(cpu);
    x86_update_mode(cpu);
    return X86_NEXT;
}

enum x86_rc x86_write_cr3(struct x86_cpu *cpu, uint64_t value)
{
    bool pcide = cpu->cr4 & CR4_PCIDE;
    bool keep = pcide && (value & CR3_NO_FLUSH);

    if (pcide)
        value &= ~CR3_NO_FLUSH;
    if (x86_long_mode(cpu) && value >> x86_phys_bits())
        return x86_raise_gp(cpu, 0);
    if (pae_paging(cpu->cr0, cpu->cr4, cpu->msr.efer) && !x86_load_pdptes(cpu, value))
        return x86_raise_gp(cpu, 0);
    TRACE(MMU, "cr3 %#llx%s", (unsigned long long)value, keep ? ", no flush" : "");
    cpu->cr3 = value;
    x86_tlb_switch(cpu, pcide ? value & 0xfff : 0, !keep);
    return X86_NEXT;
}

enum x86_rc x86_write_cr4(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t changed = value ^ cpu->cr4;

    if (value & ~cr4_allowed())
        return x86_raise_gp(cpu, 0);
    if (x86_long_mode(cpu) ? !(value & CR4_PAE) : !!(value & CR4_PCIDE))
        return x86_raise_gp(cpu, 0);
    if ((changed & value & CR4_PCIDE) && (cpu->cr3 & 0xfff))
        return x86_raise_gp(cpu, 0);
    if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && pae_paging(cpu->cr0, value, cpu->msr.efer) &&
        !x86_load_pdptes(cpu, cpu->cr3))
        return x86_raise_gp(cpu, 0);

    TRACE(MMU, "cr4 %#llx", (unsigned long long)value);
    cpu->cr4 = value;
    if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
        x86_tlb_flush(cpu);
    x86_update_mode(cpu);
    return X86_NEXT;
}

enum x86_rc x86_write_efer(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t changed = value ^ cpu->msr.efer;

    if ((value & ~efer_allowed()) || ((changed & EFER_LME) && (cpu->cr0 & CR0_PG)))
        return x86_raise_gp(cpu, 0);
    cpu->msr.efer = (value & ~EFER_LMA) | (cpu->msr.efer & EFER_LMA);
    if (changed & EFER_NXE)
        x86_tlb_flush(cpu);
    x86_update_mode(cpu);
    return X86_NEXT;
}
