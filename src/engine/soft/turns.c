/* engine/soft/turns.c: see turns.h. */
#include "engine/soft/turns.h"

#include <sched.h>
#include <time.h>
#include <x86intrin.h>

#include "x86/pvsched.h"

#define SPIN_PAUSES   256           /* PAUSEs after which a processor is taken to be spinning; */
#define SPIN_CROWDED  64            /* the same where threads take turns, */
#define SPIN_GAP      20000         /* with fewer ticks of the host's TSC than these from one to the next */
#define POLL_FIRST_NS 10000u        /* of halts that end soon so much is looked on before sleep, */
#define POLL_MOST_NS  100000u       /* and more each time, up to this */
#define POLL_GAP      30000         /* ticks of the host's TSC between two looks: somebody else wanted the processor */
#define NOTICE_NS     100000000ull  /* how often it is looked whether we were stopped, */
#define STOPPED_NS    1000000000ull /* which means: for so long neither ran nor wanted to sleep */
#define STEAL_TELL_NS 10000000ull   /* how often the guest is told of stolen time, at the most */

bool soft_turns_crowded(unsigned cpus)
{
    cpu_set_t set;

    return cpus > 1 && !sched_getaffinity(0, sizeof(set), &set) && cpus > (unsigned)CPU_COUNT(&set);
}

void soft_turns_pause(struct x86_cpu *cpu)
{
    struct soft_vcpu *vcpu = soft_of(cpu);
    uint64_t now;

    now = __rdtsc();
    if (now - vcpu->turns.last > SPIN_GAP)
        vcpu->turns.pauses = 0;
    vcpu->turns.last = now;
    if (++vcpu->turns.pauses < (vcpu->vm->crowded ? SPIN_CROWDED : SPIN_PAUSES)) {
        __builtin_ia32_pause();
        return;
    }
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

/* --- halts ---------------------------------------------------------------------------------- */

bool soft_turns_poll(struct soft_vcpu *vcpu, uint64_t host_ns)
{
    uint64_t end, tick;

    if (!vcpu->turns.poll_ns || vcpu->vm->crowded || !vcpu->vm->share.on)
        return false;
    end = clock_ns(CLOCK_MONOTONIC) + MIN(vcpu->turns.poll_ns, host_ns);
    tick = __rdtsc();
    while (!soft_attention(vcpu)) {
        uint64_t now = __rdtsc();

        if (now - tick > POLL_GAP) {
            vcpu->turns.poll_ns = 0;
            return false;
        }
        tick = now;
        if (clock_ns(CLOCK_MONOTONIC) >= end)
            return host_ns <= vcpu->turns.poll_ns;
        __builtin_ia32_pause();
    }
    vcpu->cpu.counters.halts_polled++;
    return true;
}

/* It looks longer if that would have spared it a sleep, and no more if the sleep was long. */
void soft_turns_slept(struct soft_vcpu *vcpu, uint64_t ns, uint64_t wanted_ns)
{
    uint32_t *poll = &vcpu->turns.poll_ns;

    vcpu->turns.rested_ns += wanted_ns < ns ? MIN(ns, wanted_ns + NOTICE_NS) : ns;
    if (*poll + ns > POLL_MOST_NS)
        *poll = 0;
    else
        *poll = *poll ? MIN(2 * *poll, POLL_MOST_NS) : POLL_FIRST_NS;
}

/* --- stops ----------------------------------------------------------------------------------- */

static bool was_stopped(struct soft_vcpu *vcpu, uint64_t now)
{
    const uint64_t passed = now - vcpu->turns.seen_ns;
    const bool first = !vcpu->turns.seen_ns;
    uint64_t used, spent;

    if (passed < NOTICE_NS)
        return false;
    used = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    spent = used - vcpu->turns.seen_used_ns + vcpu->turns.rested_ns;
    vcpu->turns.seen_ns = now;
    vcpu->turns.seen_used_ns = used;
    vcpu->turns.rested_ns = 0;
    return !first && passed > spent + STOPPED_NS;
}

/* Who slept at the time cannot know; it hears of it from the others. */
void soft_turns_notice(struct soft_vcpu *vcpu)
{
    struct soft_vm *vm = vcpu->vm;
    const uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint64_t stopped;

    if (was_stopped(vcpu, now) && now - atomic_load(&vm->stopped_ns) > STOPPED_NS)
        atomic_store(&vm->stopped_ns, now);
    stopped = atomic_load(&vm->stopped_ns);
    if (stopped == vcpu->turns.stopped_ns)
        return;
    vcpu->turns.stopped_ns = stopped;
    x86_pvclock_stopped(&vcpu->cpu);
}
