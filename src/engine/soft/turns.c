/* engine/soft/turns.c: see turns.h. */
#include "engine/soft/turns.h"

#include <sched.h>
#include <time.h>
#include <x86intrin.h>

#include "x86/pvsched.h"

#define SPIN_PAUSES   64          /* PAUSEs after which a processor is taken to be spinning, */
#define SPIN_GAP      20000       /* with fewer ticks of the host's TSC than these from one to the next */
#define STEAL_TELL_NS 10000000ull /* how often the guest is told of stolen time, at the most */

bool soft_turns_crowded(unsigned cpus)
{
    cpu_set_t set;

    return cpus > 1 && !sched_getaffinity(0, sizeof(set), &set) && cpus > (unsigned)CPU_COUNT(&set);
}

void soft_turns_pause(struct x86_cpu *cpu)
{
    struct soft_vcpu *vcpu = soft_of(cpu);
    uint64_t now;

    if (!vcpu->vm->crowded) {
        __builtin_ia32_pause();
        return;
    }
    now = __rdtsc();
    if (now - vcpu->turns.last > SPIN_GAP)
        vcpu->turns.pauses = 0;
    vcpu->turns.last = now;
    if (++vcpu->turns.pauses < SPIN_PAUSES)
        return;
    vcpu->turns.pauses = 0;
    vcpu->cpu.counters.spins++;
    sched_yield();
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Time in which the thread neither ran nor slept: it was ready, and others had the processors. (It may also have waited
 * in a device's code for the host; that is no less lost to the guest.) */
static void tell_stolen(struct soft_vcpu *vcpu)
{
    const uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint64_t used, spent;

    if (now - vcpu->turns.told_ns < STEAL_TELL_NS)
        return;
    vcpu->turns.told_ns = now;
    used = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    if (!vcpu->turns.begin_ns)
        vcpu->turns.begin_ns = now - used;
    spent = used + vcpu->turns.asleep_ns;
    if (now - vcpu->turns.begin_ns > spent)
        x86_update_steal_time(&vcpu->cpu, now - vcpu->turns.begin_ns - spent);
}

void soft_turns_attend(struct soft_vcpu *vcpu, uint32_t events)
{
    struct x86_cpu *cpu = &vcpu->cpu;

    if (events & X86_EV_UNHALT)
        vcpu->turns.unhalted = true;
    if (cpu->halted && vcpu->turns.unhalted) {
        cpu->halted = false;
        vcpu->turns.unhalted = false;
    }
    if (cpu->msr.kvm_steal_time & 1)
        tell_stolen(vcpu);
}

void soft_turns_sleep(struct soft_vcpu *vcpu, bool begin)
{
    const uint64_t now = clock_ns(CLOCK_MONOTONIC);

    if (!vcpu->turns.begin_ns)
        return;
    vcpu->turns.asleep_ns += begin ? -now : now;
}
