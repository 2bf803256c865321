/*
 * x86/pvclock.c: KVM's paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst):
 * tells the guest how to make nanoseconds of its TSC, so that it calibrates
 * nothing. TSC and nanoseconds are one clock here, so that all vCPUs share one
 * reference point, the clock's zero, and what was written once stays true.
 */
#include "x86/pvclock_internal.h"

#include "base/log.h"
#include "x86/bus.h"
#include "x86/mmu.h"
#include "x86/pvsched.h"

#define SYSTEM_TIME_ENABLE BIT(0)
#define FLAG_TSC_STABLE    BIT(0) /* the same on all vCPUs */
#define FLAG_GUEST_STOPPED BIT(1) /* the guest clears it */

struct time_info {
    uint32_t version; /* odd while it changes */
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time; /* ns at tsc_timestamp */
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
};

struct wall_clock {
    uint32_t version, sec, nsec;
};

/* ns = (ticks << shift) * mul >> 32 with the largest mul. */
static void set_scale(struct time_info *info, uint64_t hz)
{
    unsigned __int128 mul = ((unsigned __int128)1000000000 << 64) / MAX(hz, 1);
    int shift = 0;

    while (mul >> 64) {
        mul >>= 1;
        shift++;
    }
    while (!(mul >> 63 & 1) && mul) {
        mul <<= 1;
        shift--;
    }
    info->tsc_to_system_mul = (uint32_t)(mul >> 32);
    info->tsc_shift = (int8_t)shift;
}

/* The version a structure gets next: even, and another than it has. false: not memory. */
static bool next_version(struct x86_cpu *cpu, gpa_t gpa, uint32_t *version)
{
    if (!x86_read_physical(cpu, gpa, version, sizeof(*version)))
        return false;
    *version = (*version + 2) & ~1u;
    return true;
}

/* Writes a structure that begins with its version: odd first, even last. */
static void publish(struct x86_cpu *cpu, gpa_t gpa, const void *data, unsigned size, uint32_t version)
{
    const uint32_t odd = version - 1;
    const uint8_t *rest = (const uint8_t *)data + sizeof(version);

    if (x86_write_physical(cpu, gpa, &odd, sizeof(odd)) &&
        x86_write_physical(cpu, gpa + sizeof(version), rest, size - sizeof(version)))
        x86_write_physical(cpu, gpa, &version, sizeof(version));
}

void x86_pvclock_update(struct x86_cpu *cpu)
{
    struct time_info info = {.tsc_timestamp = cpu->msr.tsc_offset, .system_time = 0, .flags = FLAG_TSC_STABLE};
    gpa_t gpa = cpu->msr.kvm_system_time & ~SYSTEM_TIME_ENABLE;

    if (!(cpu->msr.kvm_system_time & SYSTEM_TIME_ENABLE) || !next_version(cpu, gpa, &info.version))
        return;
    set_scale(&info, cpu->bus->tsc_hz(cpu));
    publish(cpu, gpa, &info, sizeof(info), info.version);
    TRACE(MSR, "pvclock at %#llx: mul %#x, shift %d", (unsigned long long)gpa, info.tsc_to_system_mul, info.tsc_shift);
}

void x86_pvclock_stopped(struct x86_cpu *cpu)
{
    const gpa_t gpa = (cpu->msr.kvm_system_time & ~SYSTEM_TIME_ENABLE) + offsetof(struct time_info, flags);
    uint8_t flags;

    if (!(cpu->msr.kvm_system_time & SYSTEM_TIME_ENABLE) || !x86_read_physical(cpu, gpa, &flags, sizeof(flags)))
        return;
    flags |= FLAG_GUEST_STOPPED;
    x86_write_physical(cpu, gpa, &flags, sizeof(flags));
}

bool x86_pvclock_set_system_time(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    cpu->msr.kvm_system_time = value;
    x86_pvclock_update(cpu);
    return true;
}

bool x86_pvclock_set_wall_clock(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    uint64_t ns = cpu->bus->wall_ns ? cpu->bus->wall_ns(cpu) : 0;
    struct wall_clock wall = {.sec = (uint32_t)(ns / 1000000000), .nsec = (uint32_t)(ns % 1000000000)};

    cpu->msr.kvm_wall_clock = value;
    if (next_version(cpu, value, &wall.version))
        publish(cpu, value, &wall, sizeof(wall), wall.version);
    return true;
}
