/* x86/pvsched.c: see pvsched.h. */
#include "x86/pvsched.h"

#include "x86/bus.h"
#include "x86/mmu.h"

enum { HC_KICK_CPU = 5, HC_SEND_IPI = 10 };
enum { KVM_ENOSYS = 1000, KVM_EPERM = 1 };

#define STEAL_ENABLE   BIT(0)
#define STEAL_RESERVED 0x3eull /* the structure is aligned to 64 bytes */

/* --- hypercalls ------------------------------------------------------------------------- */

static int64_t kick(struct x86_cpu *cpu, uint64_t apic_id)
{
    cpu->bus->unhalt(cpu, (uint32_t)apic_id);
    return 0;
}

/* Bit n of the two words: APIC ID min + n. How many were sent. */
static int64_t send_ipi(struct x86_cpu *cpu, const uint64_t set[2], uint32_t min, uint64_t icr)
{
    struct x86_apic_message m = {
        .vector = (uint8_t)icr, .delivery = icr >> 8 & 7, .assert_level = true, .x2apic = true, .source = cpu->id};
    int64_t count = 0;

    if (m.delivery != APIC_FIXED && m.delivery != APIC_NMI)
        return -KVM_ENOSYS;
    for (unsigned i = 0; i < 128; i++) {
        if (!(set[i / 64] >> i % 64 & 1) || min + i < min)
            continue;
        m.destination = min + i;
        cpu->bus->send_ipi(cpu, &m);
        count++;
    }
    return count;
}

void x86_hypercall(struct x86_cpu *cpu)
{
    const bool wide = cpu->mode == MODE_LONG64;
    const uint64_t mask = wide ? UINT64_MAX : UINT32_MAX;
    const uint64_t set[2] = {cpu->gpr[RBX] & mask, cpu->gpr[RCX] & mask};
    const bool offered = cpu->bus->unhalt && cpu->bus->cpu_count(cpu) > 1;
    int64_t result = -KVM_ENOSYS;

    if (cpu->cpl)
        result = -KVM_EPERM;
    else if (offered && (cpu->gpr[RAX] & mask) == HC_KICK_CPU)
        result = kick(cpu, set[1]);
    else if (offered && wide && cpu->gpr[RAX] == HC_SEND_IPI)
        result = send_ipi(cpu, set, (uint32_t)cpu->gpr[RDX], cpu->gpr[RSI]);
    cpu->gpr[RAX] = (uint64_t)result & mask;
}

/* --- stolen time -------------------------------------------------------------------------- */

/* The rest of its 64 bytes, of which `preempted` is one, stays 0: our threads are not told when they lose the host's
 * processor. */
struct steal_time {
    uint64_t steal;
    uint32_t version; /* odd while it changes */
    uint32_t flags;
};

bool x86_set_steal_time(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    if (value & STEAL_RESERVED)
        return false;
    cpu->msr.kvm_steal_time = value;
    return true;
}

void x86_update_steal_time(struct x86_cpu *cpu, uint64_t ns)
{
    const gpa_t gpa = cpu->msr.kvm_steal_time & ~(STEAL_ENABLE | STEAL_RESERVED);
    const gpa_t at = gpa + offsetof(struct steal_time, version);
    uint32_t version;

    if (!(cpu->msr.kvm_steal_time & STEAL_ENABLE) || !x86_read_physical(cpu, at, &version, sizeof(version)))
        return;
    version |= 1;
    if (!x86_write_physical(cpu, at, &version, sizeof(version)))
        return;
    version++;
    x86_write_physical(cpu, gpa, &ns, sizeof(ns));
    x86_write_physical(cpu, at, &version, sizeof(version));
}
