/*
 * engine/kvm/cpuid.c: CPUID as all engines show it (x86/cpuid.h), less the
 * features that this KVM cannot give.
 */
#include "x86/cpuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/kvm/kvm_internal.h"

enum { EAX, EBX, ECX, EDX };

#define LEAF_HYPERVISOR 0x40000000u
#define MAX_ENTRIES     80

/* All leaves that are not zero, and how many subleaves they have (0: ECX does not matter). */
static const struct {
    uint32_t first, last;
    unsigned subleaves;
} leaves[] = {
    {0x0, 0x2, 0},
    {0x4, 0x4, 5},
    {0x6, 0x6, 0},
    {0x7, 0x7, 1},
    {0xb, 0xb, 3},
    {0xd, 0xd, 3},
    {0x15, 0x16, 0},
    {LEAF_HYPERVISOR, LEAF_HYPERVISOR + 1, 0},
    {LEAF_HYPERVISOR + 0x10, LEAF_HYPERVISOR + 0x10, 0},
    {0x80000000, 0x80000008, 0},
    {0x8000001d, 0x8000001d, 5},
    {0x8000001e, 0x8000001e, 0},
};

/* Words of feature bits: only what KVM supports is left of them, and `also`, which it does not list: what belongs to
 * the in-kernel APIC, and what only describes. */
static const struct word {
    uint32_t leaf, subleaf;
    uint8_t reg;
    uint32_t also;
} words[] = {
    {0x1, 0, ECX, 1u << 31 /* a hypervisor is present */ | 1u << 21 /* x2APIC */},
    {0x1, 0, EDX, 1u << 28 /* several logical processors */},
    {0x7, 0, EBX, 0},
    {0x7, 0, ECX, 0},
    {0x7, 0, EDX, 0},
    {0xd, 0, EAX, 0},
    {0xd, 1, EAX, 0},
    {LEAF_HYPERVISOR + 1, 0, EAX, 0},
    {0x80000001, 0, ECX, 1u << 1 /* CmpLegacy */},
    {0x80000001, 0, EDX, 0},
    {0x80000007, 0, EDX, 0},
    {0x80000008, 0, EBX, 0},
};
#define TSC_DEADLINE (1u << 24) /* leaf 1, ECX */

static const struct kvm_cpuid_entry2 *supported(uint32_t leaf, uint32_t subleaf)
{
    const struct kvm_cpuid2 *all = kvm_host()->cpuid;

    for (unsigned i = 0; i < all->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &all->entries[i];

        if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
            return e;
    }
    return NULL;
}

static void intersect(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
    const struct kvm_cpuid_entry2 *e = supported(leaf, subleaf);
    const uint32_t have[4] = {e ? e->eax : 0, e ? e->ebx : 0, e ? e->ecx : 0, e ? e->edx : 0};

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        const struct word *word = &words[i];
        uint32_t also = word->also;

        if (word->leaf != leaf || word->subleaf != subleaf)
            continue;
        if (leaf == 1 && word->reg == ECX && kvm_host()->tsc_deadline)
            also |= TSC_DEADLINE;
        regs[word->reg] &= have[word->reg] | also;
    }
}

static void add(struct engine_vcpu *vcpu, struct kvm_cpuid2 *cpuid, uint32_t leaf, uint32_t subleaf, bool indexed)
{
    uint32_t regs[4];

    if (cpuid->nent == MAX_ENTRIES)
        return;
    x86_cpuid(&vcpu->cpu, leaf, subleaf, regs);
    intersect(leaf, subleaf, regs);
    cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
        .function = leaf,
        .index = subleaf,
        .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
        .eax = regs[EAX],
        .ebx = regs[EBX],
        .ecx = regs[ECX],
        .edx = regs[EDX],
    };
}

int kvm_cpuid_set(struct engine_vcpu *vcpu)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + MAX_ENTRIES * sizeof(cpuid->entries[0]));
    int rc;

    if (!cpuid)
        return -ENOMEM;
    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++)
        for (uint32_t leaf = leaves[i].first; leaf <= leaves[i].last; leaf++)
            for (uint32_t sub = 0; sub < MAX(leaves[i].subleaves, 1); sub++)
                add(vcpu, cpuid, leaf, sub, leaves[i].subleaves != 0);
    rc = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid);
    free(cpuid);
    return rc;
}
