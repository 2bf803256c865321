/*
 * x86/msr.c: the model-specific registers, one table. A guest finds what CPUID
 * offers and what its kernel touches without asking; the rest is #GP.
 * AMD APM vol. 2, appendix A; SDM vol. 4.
 */
#include "x86/msr.h"

#include "base/log.h"
#include "x86/bus.h"
#include "x86/cpuid.h"
#include "x86/mmu.h"
#include "x86/pvclock_internal.h"
#include "x86/pvsched.h"

enum { ANY, AMD, INTEL };

struct msr {
    uint32_t first, last;
    const char *name;
    uint8_t vendor;
    bool (*read)(struct x86_cpu *cpu, uint32_t msr, uint64_t *value);
    bool (*write)(struct x86_cpu *cpu, uint32_t msr, uint64_t value);
    /* Without functions: a field of struct x86_cpu at this offset (consecutive MSRs, consecutive fields), with the
     * bits that may be set; offset 0: reads as `writable`, and what is written is dropped. */
    uint32_t field;
    uint64_t writable;
};

uint64_t x86_guest_tsc(struct x86_cpu *cpu)
{
    return cpu->bus->tsc(cpu) + cpu->msr.tsc_offset;
}

static bool read_tsc(struct x86_cpu *cpu, uint32_t msr, uint64_t *value)
{
    *value = x86_guest_tsc(cpu);
    return true;
}

static bool write_tsc(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    cpu->msr.tsc_offset = value - cpu->bus->tsc(cpu);
    x86_pvclock_update(cpu);
    return true;
}

static bool write_tsc_adjust(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    cpu->msr.tsc_offset = value;
    x86_pvclock_update(cpu);
    return true;
}

static bool write_efer(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    return x86_write_efer(cpu, value) == X86_NEXT;
}

static bool read_segment_base(struct x86_cpu *cpu, uint32_t msr, uint64_t *value)
{
    *value = cpu->seg[msr & 1 ? SEG_GS : SEG_FS].base;
    return true;
}

static bool write_segment_base(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    unsigned s = msr & 1 ? SEG_GS : SEG_FS;

    if (!x86_canonical(value))
        return false;
    cpu->seg[s].base = cpu->seg_base[s] = value;
    return true;
}

/* Where an MSR without functions is kept. */
static uint64_t *field(struct x86_cpu *cpu, const struct msr *m, uint32_t msr)
{
    return (uint64_t *)((uint8_t *)cpu + m->field) + (msr - m->first);
}

static const struct msr *find(uint32_t msr);

static bool write_address(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    if (!x86_canonical(value))
        return false;
    *field(cpu, find(msr), msr) = value;
    return true;
}

/* Are all eight bytes memory types? mask: bit t, type t is one. */
static bool all_types(uint64_t value, unsigned mask)
{
    for (unsigned i = 0; i < 8; i++, value >>= 8)
        if ((value & 0xff) > 7 || !(mask >> (value & 7) & 1))
            return false;
    return true;
}
#define MTRR_TYPES    0x73u /* UC 0, WC 1, WT 4, WP 5, WB 6 */
#define PAT_TYPES     0xf3u /* UC- 7 too */
#define MTRR_DEF_E_FE 0xc00u

static bool write_pat(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    if (!all_types(value, PAT_TYPES))
        return false;
    cpu->msr.pat = value;
    return true;
}

static bool write_mtrr_fixed(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    if (!all_types(value, MTRR_TYPES))
        return false;
    *field(cpu, find(msr), msr) = value;
    return true;
}

static bool write_mtrr_def(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    uint64_t type = value & ~(uint64_t)MTRR_DEF_E_FE;

    if (type > 7 || !(MTRR_TYPES >> type & 1))
        return false;
    cpu->msr.mtrr_def_type = value;
    return true;
}

static bool write_mtrr_var(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    uint64_t reserved = msr & 1 ? 0x7ff : 0xf00; /* PHYSMASK: valid 11; PHYSBASE: type 7:0 */

    if ((value & reserved) || value >> x86_phys_bits())
        return false;
    if (!(msr & 1) && ((value & 0xff) > 7 || !(MTRR_TYPES >> (value & 7) & 1)))
        return false;
    *field(cpu, find(msr), msr) = value;
    return true;
}

#define MISC_ENABLE_READ_ONLY (BIT(7) | BIT(11) | BIT(12))
static bool write_misc_enable(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    cpu->msr.misc_enable = (value & ~MISC_ENABLE_READ_ONLY) | (cpu->msr.misc_enable & MISC_ENABLE_READ_ONLY);
    return true;
}

static bool read_only(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    return false;
}

#define ALL        (~0ull)
#define LOW32      0xffffffffull
#define AT(member) .field = offsetof(struct x86_cpu, member)
#define FIELD(number, text, member, mask)                                                                              \
    {                                                                                                                  \
        .first = number, .last = number, .name = text, AT(member), .writable = mask                                    \
    }
#define CONSTANT(number, text, who, value)                                                                             \
    {                                                                                                                  \
        .first = number, .last = number, .name = text, .vendor = who, .writable = value                                \
    }
#define LAPIC(from, to, text)                                                                                          \
    {                                                                                                                  \
        .first = from, .last = to, .name = text, .read = x86_lapic_msr_read, .write = x86_lapic_msr_write              \
    }

/* Sorted by number. */
/* clang-format off */
static const struct msr msrs[] = {
    {.first = 0x10, .last = 0x10, .name = "TSC", .read = read_tsc, .write = write_tsc},
    {.first = 0x11, .last = 0x11, .name = "KVM_WALL_CLOCK", AT(msr.kvm_wall_clock),
     .write = x86_pvclock_set_wall_clock},
    {.first = 0x12, .last = 0x12, .name = "KVM_SYSTEM_TIME", AT(msr.kvm_system_time),
     .write = x86_pvclock_set_system_time},
    CONSTANT(0x17, "PLATFORM_ID", INTEL, 0),
    LAPIC(0x1b, 0x1b, "APIC_BASE"),
    {.first = 0x3b, .last = 0x3b, .name = "TSC_ADJUST", AT(msr.tsc_offset), .write = write_tsc_adjust},
    CONSTANT(0x8b, "BIOS_SIGN_ID", INTEL, 1ull << 32),
    CONSTANT(0x8b, "PATCH_LEVEL", AMD, 0x01000065),
    {.first = 0xfe, .last = 0xfe, .name = "MTRRcap", .write = read_only, .writable = 0x508},
    FIELD(0x174, "SYSENTER_CS", msr.sysenter_cs, LOW32),
    {.first = 0x175, .last = 0x175, .name = "SYSENTER_ESP", AT(msr.sysenter_esp), .write = write_address},
    {.first = 0x176, .last = 0x176, .name = "SYSENTER_EIP", AT(msr.sysenter_eip), .write = write_address},
    {.first = 0x179, .last = 0x179, .name = "MCG_CAP", .write = read_only},
    FIELD(0x17a, "MCG_STATUS", msr.mcg_status, 7),
    {.first = 0x1a0, .last = 0x1a0, .name = "MISC_ENABLE", .vendor = INTEL, AT(msr.misc_enable),
     .write = write_misc_enable},
    FIELD(0x1d9, "DEBUGCTL", msr.debugctl, 3),
    {.first = 0x200, .last = 0x20f, .name = "MTRRphys", AT(msr.mtrr_var), .write = write_mtrr_var},
    {.first = 0x250, .last = 0x250, .name = "MTRRfix64K", AT(msr.mtrr_fixed[0]), .write = write_mtrr_fixed},
    {.first = 0x258, .last = 0x259, .name = "MTRRfix16K", AT(msr.mtrr_fixed[1]), .write = write_mtrr_fixed},
    {.first = 0x268, .last = 0x26f, .name = "MTRRfix4K", AT(msr.mtrr_fixed[3]), .write = write_mtrr_fixed},
    {.first = 0x277, .last = 0x277, .name = "PAT", AT(msr.pat), .write = write_pat},
    {.first = 0x2ff, .last = 0x2ff, .name = "MTRRdefType", AT(msr.mtrr_def_type), .write = write_mtrr_def},
    LAPIC(0x6e0, 0x6e0, "TSC_DEADLINE"),
    LAPIC(0x800, 0x83f, "X2APIC"),
    {.first = 0x4b564d00, .last = 0x4b564d00, .name = "KVM_WALL_CLOCK_NEW", AT(msr.kvm_wall_clock),
     .write = x86_pvclock_set_wall_clock},
    {.first = 0x4b564d01, .last = 0x4b564d01, .name = "KVM_SYSTEM_TIME_NEW", AT(msr.kvm_system_time),
     .write = x86_pvclock_set_system_time},
    {.first = 0x4b564d03, .last = 0x4b564d03, .name = "KVM_STEAL_TIME", AT(msr.kvm_steal_time),
     .write = x86_set_steal_time},
    {.first = 0xc0000080, .last = 0xc0000080, .name = "EFER", AT(msr.efer), .write = write_efer},
    FIELD(0xc0000081, "STAR", msr.star, ALL),
    {.first = 0xc0000082, .last = 0xc0000082, .name = "LSTAR", AT(msr.lstar), .write = write_address},
    {.first = 0xc0000083, .last = 0xc0000083, .name = "CSTAR", AT(msr.cstar), .write = write_address},
    FIELD(0xc0000084, "SFMASK", msr.sfmask, LOW32),
    {.first = 0xc0000100, .last = 0xc0000101, .name = "FS_BASE, GS_BASE", .read = read_segment_base,
     .write = write_segment_base},
    {.first = 0xc0000102, .last = 0xc0000102, .name = "KERNEL_GS_BASE", AT(msr.kernel_gs_base),
     .write = write_address},
    FIELD(0xc0000103, "TSC_AUX", msr.tsc_aux, LOW32),
    /* Of AMD's, what Linux reads unasked. */
    CONSTANT(0xc0010010, "SYSCFG", AMD, 0),
    CONSTANT(0xc0010015, "HWCR", AMD, BIT(24)), /* TscFreqSel: the TSC counts at one frequency */
    CONSTANT(0xc001001f, "NB_CFG", AMD, 0),
    CONSTANT(0xc0010055, "INT_PENDING", AMD, 0),
    CONSTANT(0xc0010058, "MMIO_CONF_BASE", AMD, 0),
    CONSTANT(0xc0011029, "DE_CFG", AMD, BIT(1)), /* LFENCE waits for what is before it */
};
/* clang-format on */

static const struct msr *find(uint32_t msr)
{
    unsigned low = 0, high = ARRAY_SIZE(msrs);
    uint8_t other = x86_vendor_amd() ? INTEL : AMD;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (msrs[middle].last < msr)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < ARRAY_SIZE(msrs) && msrs[low].first <= msr; low++)
        if (msrs[low].vendor != other)
            return &msrs[low];
    return NULL;
}

bool x86_rdmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t *value)
{
    const struct msr *m = find(msr);
    bool ok = m;

    *value = 0;
    if (m && m->read)
        ok = m->read(cpu, msr, value);
    else if (m)
        *value = m->field ? *field(cpu, m, msr) : m->writable;
    TRACE(MSR, "rdmsr %#x %s: %#llx%s", msr, m ? m->name : "unknown", (unsigned long long)*value, ok ? "" : ", #GP");
    return ok;
}

bool x86_wrmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    const struct msr *m = find(msr);
    bool ok = m;

    if (m && m->write)
        ok = m->write(cpu, msr, value);
    else if (m && m->field) {
        ok = !(value & ~m->writable);
        if (ok)
            *field(cpu, m, msr) = value;
    }
    TRACE(MSR, "wrmsr %#x %s: %#llx%s", msr, m ? m->name : "unknown", (unsigned long long)value, ok ? "" : ", #GP");
    return ok;
}
