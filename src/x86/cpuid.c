/*
 * x86/cpuid.c: CPUID, made from the feature list and a table of leaves. Vendor,
 * signature and brand are the host's; what the guest may use is features.h's.
 * AMD APM vol. 3, appendix E; SDM vol. 2, CPUID.
 */
#include "x86/cpuid.h"

#include <cpuid.h>
#include <pthread.h>
#include <string.h>

#include "x86/bus.h"
#include "x86/pvsched.h"

enum { EAX, EBX, ECX, EDX };

#define LEAF_MAX     0x16
#define LEAF_KVM     0x40000000
#define LEAF_KVM_MAX 0x40000010
#define LEAF_EXT     0x80000000
#define LEAF_EXT_MAX 0x80000021

#define PHYS_BITS_MAX 46
#define PHYS_BITS_MIN 36
#define LINEAR_BITS   48

#define KVM_FEATURE_CLOCKSOURCE        BIT(0)
#define KVM_FEATURE_NOP_IO_DELAY       BIT(1)
#define KVM_FEATURE_CLOCKSOURCE2       BIT(3)
#define KVM_FEATURE_CLOCKSOURCE_STABLE BIT(24)

static const struct {
    uint32_t leaf, subleaf;
    uint8_t reg, bit, host;
} feature_bits[FEATURE_COUNT] = {
#define X(id, name, leaf, subleaf, reg, bit, host) [FEATURE_##id] = {leaf, subleaf, reg, bit, host},
    X86_FEATURE_LIST(X)
#undef X
};

/* The caches a guest is shown; sharing 0: by all processors. */
static const struct cache {
    uint8_t level, type; /* 1 data, 2 code, 3 both */
    uint8_t ways;
    bool shared;
    uint32_t size;
} caches[] = {
    {1, 1, 8, false, KIB(32)},
    {1, 2, 8, false, KIB(32)},
    {2, 3, 8, false, MIB(1)},
    {3, 3, 16, true, MIB(16)},
};
#define CACHE_LINE 64

static pthread_once_t host_once = PTHREAD_ONCE_INIT;
static struct {
    bool feature[FEATURE_COUNT];
    bool amd;
    unsigned phys_bits;
    uint32_t vendor[4], signature;
    uint32_t brand[3][4];
} host;

static void host_leaf(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
    memset(regs, 0, 4 * sizeof(regs[0]));
    __get_cpuid_count(leaf, subleaf, &regs[EAX], &regs[EBX], &regs[ECX], &regs[EDX]);
}

/* Does the host's kernel let us use the vector registers? */
static bool host_has_ymm(void)
{
    uint32_t regs[4], low, high;

    host_leaf(1, 0, regs);
    if (!(regs[ECX] & bit_OSXSAVE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX);
}

static bool needs_ymm(enum x86_feature feature)
{
    return feature == FEATURE_AVX || feature == FEATURE_AVX2 || feature == FEATURE_FMA || feature == FEATURE_F16C;
}

static void read_host(void)
{
    bool ymm = host_has_ymm();
    uint32_t regs[4];

    host_leaf(0, 0, host.vendor);
    host.amd = host.vendor[EBX] == signature_AMD_ebx;
    host_leaf(1, 0, regs);
    host.signature = regs[EAX];
    for (uint32_t i = 0; i < 3; i++)
        host_leaf(0x80000002 + i, 0, host.brand[i]);
    host_leaf(0x80000008, 0, regs);
    host.phys_bits = MAX(PHYS_BITS_MIN, MIN(PHYS_BITS_MAX, regs[EAX] & 0xff));
    host.feature[FEATURE_NONE] = true;
    for (unsigned f = FEATURE_NONE + 1; f < FEATURE_COUNT; f++) {
        host_leaf(feature_bits[f].leaf, feature_bits[f].subleaf, regs);
        host.feature[f] = !feature_bits[f].host || (regs[feature_bits[f].reg] >> feature_bits[f].bit & 1);
        if (needs_ymm(f) && !ymm)
            host.feature[f] = false;
    }
}

bool x86_feature(enum x86_feature feature)
{
    pthread_once(&host_once, read_host);
    return host.feature[feature];
}

bool x86_vendor_amd(void)
{
    pthread_once(&host_once, read_host);
    return host.amd;
}

unsigned x86_phys_bits(void)
{
    pthread_once(&host_once, read_host);
    return host.phys_bits;
}

uint64_t x86_xcr0_allowed(void)
{
    return XCR0_X87 | XCR0_SSE | (x86_feature(FEATURE_AVX) ? XCR0_AVX : 0);
}

/* Bytes of an XSAVE area with these components, in the standard and in the compacted form: they agree up to AVX. */
static uint32_t xsave_size(uint64_t components)
{
    return components & XCR0_AVX ? sizeof(struct x86_fpu) : offsetof(struct x86_fpu, ymm_high);
}

static unsigned cpu_count(struct x86_cpu *cpu)
{
    return cpu->bus && cpu->bus->cpu_count ? cpu->bus->cpu_count(cpu) : 1;
}

/* Bits of an APIC ID that tell the processors of the one package apart. */
static unsigned core_bits(struct x86_cpu *cpu)
{
    unsigned bits = 0;

    while ((1u << bits) < cpu_count(cpu))
        bits++;
    return bits;
}

/* --- leaves: regs come in as the feature bits of the leaf ------------------------------ */

static void leaf_vendor(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    memcpy(regs, host.vendor, sizeof(host.vendor));
    regs[EAX] = LEAF_MAX;
}

static void leaf_features(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    regs[EAX] = host.signature;
    regs[EBX] = cpu->id << 24 | (cpu_count(cpu) & 0xff) << 16 | (CACHE_LINE / 8) << 8;
    if (cpu->cr4 & CR4_OSXSAVE)
        regs[ECX] |= bit_OSXSAVE;
    if (!(cpu->lapic.base_msr & X86_APIC_BASE_ENABLE))
        regs[EDX] &= ~(uint32_t)BIT(9);
    if (cpu_count(cpu) > 1)
        regs[EDX] |= BIT(28); /* HTT: the package has several logical processors */
}

static void leaf_descriptors(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    if (host.amd)
        return;
    regs[EAX] = 0xff01; /* see leaf 4 */
}

/* What Intel's leaf 4 and AMD's 8000001Dh have in common; shared_by: processors, for a cache that is everybody's. */
static void describe_cache(uint32_t subleaf, uint32_t shared_by, uint32_t regs[4])
{
    const struct cache *c = &caches[subleaf];

    regs[EAX] = c->type | c->level << 5 | 1u << 8;
    if (c->shared)
        regs[EAX] |= (shared_by - 1) << 14;
    regs[EBX] = (CACHE_LINE - 1) | (c->ways - 1u) << 22;
    regs[ECX] = c->size / CACHE_LINE / c->ways - 1;
}

static void leaf_caches(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    if (host.amd || subleaf >= ARRAY_SIZE(caches))
        return;
    describe_cache(subleaf, 1u << core_bits(cpu), regs);
    regs[EAX] |= ((1u << core_bits(cpu)) - 1) << 26;
}

static void leaf_caches_amd(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    if (host.amd && subleaf < ARRAY_SIZE(caches))
        describe_cache(subleaf, cpu_count(cpu), regs);
}

/* One thread a core, one node. */
static void leaf_topology_amd(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    if (!host.amd)
        return;
    regs[EAX] = cpu->id;
    regs[EBX] = cpu->id & 0xff;
}

static void leaf_power(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    regs[EAX] = BIT(2); /* ARAT: the APIC timer never stops */
}

static void leaf_topology(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    static const uint8_t type[] = {1, 2}; /* SMT, core */

    regs[ECX] = subleaf & 0xff;
    regs[EDX] = cpu->id;
    if (subleaf >= ARRAY_SIZE(type))
        return;
    regs[EAX] = subleaf ? core_bits(cpu) : 0;
    regs[EBX] = subleaf ? cpu_count(cpu) : 1;
    regs[ECX] |= (uint32_t)type[subleaf] << 8;
}

static void leaf_xsave(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    uint64_t allowed = x86_xcr0_allowed();

    if (!x86_feature(FEATURE_XSAVE))
        memset(regs, 0, 4 * sizeof(regs[0]));
    else if (subleaf == 0) {
        regs[EAX] = (uint32_t)allowed;
        regs[EBX] = xsave_size(cpu->xcr0);
        regs[ECX] = xsave_size(allowed);
    } else if (subleaf == 1) {
        regs[EBX] = xsave_size(cpu->xcr0);
    } else if (subleaf == 2 && (allowed & XCR0_AVX)) {
        regs[EAX] = sizeof(cpu->fpu.ymm_high);
        regs[EBX] = offsetof(struct x86_fpu, ymm_high);
    }
}

static uint32_t tsc_khz(struct x86_cpu *cpu)
{
    return cpu->bus && cpu->bus->tsc_hz ? (uint32_t)(cpu->bus->tsc_hz(cpu) / 1000) : 0;
}

/* TSC ticks = the APIC's clock * EBX / EAX. */
static void leaf_tsc(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    regs[EAX] = X86_APIC_HZ / 1000;
    regs[EBX] = tsc_khz(cpu);
    regs[ECX] = X86_APIC_HZ;
}

static void leaf_frequency(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    regs[EAX] = regs[EBX] = tsc_khz(cpu) / 1000;
}

static void leaf_kvm(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    regs[EAX] = LEAF_KVM_MAX;
    memcpy(&regs[EBX], "KVMKVMKVM\0\0\0", 12);
}

static void leaf_kvm_features(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    regs[EAX] =
        KVM_FEATURE_CLOCKSOURCE | KVM_FEATURE_NOP_IO_DELAY | KVM_FEATURE_CLOCKSOURCE2 | KVM_FEATURE_CLOCKSOURCE_STABLE;
    if (cpu_count(cpu) > 1)
        regs[EAX] |= KVM_FEATURE_STEAL_TIME | KVM_FEATURE_PV_UNHALT | KVM_FEATURE_PV_SEND_IPI;
}

static void leaf_kvm_frequency(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    regs[EAX] = tsc_khz(cpu);
    regs[EBX] = X86_APIC_HZ / 1000;
}

static void leaf_ext(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    if (host.amd)
        memcpy(regs, host.vendor, sizeof(host.vendor));
    regs[EAX] = LEAF_EXT_MAX;
}

static void leaf_ext_features(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    uint32_t basic[4];

    if (!host.amd)
        return;
    x86_cpuid(cpu, 1, 0, basic);
    regs[EAX] = host.signature;
    regs[EDX] |= basic[EDX] & 0x0183f3ff; /* AMD repeats these here */
    regs[ECX] |= BIT(22);                 /* topology extensions: leaves 8000001Dh, 8000001Eh */
    if (cpu_count(cpu) > 1)
        regs[ECX] |= BIT(1); /* CmpLegacy: logical processors are cores */
}

static void leaf_brand(struct x86_cpu *cpu, uint32_t leaf, uint32_t regs[4])
{
    memcpy(regs, host.brand[leaf], sizeof(host.brand[leaf]));
}

static void leaf_brand_0(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    leaf_brand(cpu, 0, regs);
}

static void leaf_brand_1(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    leaf_brand(cpu, 1, regs);
}

static void leaf_brand_2(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    leaf_brand(cpu, 2, regs);
}

static void leaf_l1(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    if (!host.amd)
        return;
    for (unsigned i = 0; i < 2; i++) /* data in ECX, code in EDX */
        regs[ECX + i] = caches[i].size / 1024 << 24 | (uint32_t)caches[i].ways << 16 | 1u << 8 | CACHE_LINE;
}

static void leaf_l2(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    /* Associativity is coded: 6 is 8 ways, 8 is 16. */
    regs[ECX] = caches[2].size / 1024 << 16 | 6u << 12 | 1u << 8 | CACHE_LINE;
    if (host.amd)
        regs[EDX] = (uint32_t)(caches[3].size / KIB(512)) << 18 | 8u << 12 | 1u << 8 | CACHE_LINE;
}

static void leaf_sizes(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    regs[EAX] = host.phys_bits | LINEAR_BITS << 8;
    if (host.amd)
        regs[ECX] = (cpu_count(cpu) - 1) | core_bits(cpu) << 12;
}

/* AMD64 APM vol. 3, appendix E. A software engine's guest gains nothing by working around its host's speculation: its
 * returns and indirect branches are not those that the host executes. (Engines of hardware do not show this leaf.) */
static void leaf_speculation(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4])
{
    if (!host.amd)
        return;
    regs[EAX] = 1u << 2 /* LFENCE serialises */ | 1u << 8 /* automatic IBRS */ | 1u << 29 /* SRSO_NO */;
    regs[ECX] = 1u << 1 /* TSA_SQ_NO */ | 1u << 2 /* TSA_L1_NO */;
}

static const struct {
    uint32_t leaf;
    void (*fill)(struct x86_cpu *cpu, uint32_t subleaf, uint32_t regs[4]);
} leaves[] = {
    {0x0, leaf_vendor},
    {0x1, leaf_features},
    {0x2, leaf_descriptors},
    {0x4, leaf_caches},
    {0x6, leaf_power},
    {0xb, leaf_topology},
    {0xd, leaf_xsave},
    {0x15, leaf_tsc},
    {0x16, leaf_frequency},
    {LEAF_KVM, leaf_kvm},
    {LEAF_KVM + 1, leaf_kvm_features},
    {LEAF_KVM_MAX, leaf_kvm_frequency},
    {LEAF_EXT, leaf_ext},
    {LEAF_EXT + 1, leaf_ext_features},
    {LEAF_EXT + 2, leaf_brand_0},
    {LEAF_EXT + 3, leaf_brand_1},
    {LEAF_EXT + 4, leaf_brand_2},
    {LEAF_EXT + 5, leaf_l1},
    {LEAF_EXT + 6, leaf_l2},
    {LEAF_EXT + 8, leaf_sizes},
    {0x8000001d, leaf_caches_amd},
    {0x8000001e, leaf_topology_amd},
    {LEAF_EXT_MAX, leaf_speculation},
};

/* Leaves whose ECX input selects a part. */
static bool has_subleaves(uint32_t leaf)
{
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x8000001d;
}

void x86_cpuid(struct x86_cpu *cpu, uint32_t eax, uint32_t ecx, uint32_t regs[4])
{
    pthread_once(&host_once, read_host);
    memset(regs, 0, 4 * sizeof(regs[0]));
    for (unsigned f = FEATURE_NONE + 1; f < FEATURE_COUNT; f++)
        if (host.feature[f] && feature_bits[f].leaf == eax && (!has_subleaves(eax) || feature_bits[f].subleaf == ecx))
            regs[feature_bits[f].reg] |= 1u << feature_bits[f].bit;
    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++)
        if (leaves[i].leaf == eax)
            leaves[i].fill(cpu, ecx, regs);
}
