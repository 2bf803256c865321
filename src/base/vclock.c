/*
 * base/vclock.c: the virtual clock: what it is made of is in vclock_read.h; here
 * are its changes, its other units, and the host's TSC frequency.
 */
#include "base/vclock_read.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define NS_PER_SECOND 1000000000ull
#define RATE_ONE      (1ull << VCLOCK_RATE_SHIFT)

typedef unsigned __int128 u128;

/* A factor as mult / 2^shift, with mult's top bit set, rounded up: what is a whole number comes out as one. */
struct scale {
    uint64_t mult;
    unsigned shift;
};

struct vclock {
    struct vclock_state state; /* first: vclock_read.h */
    uint64_t tsc_hz;
    bool manual;
    int64_t wall_ns;
    struct scale to_ns, to_tsc;

    pthread_mutex_t writers;
    uint64_t run_rate; /* the rate when it runs */
    void (*changed)(void *opaque);
    void *changed_opaque;
};

static struct scale scale_make(uint64_t num, uint64_t den)
{
    struct scale scale = {.shift = 0};
    u128 value = num;

    while (value / den < (1ull << 63)) {
        value <<= 1;
        scale.shift++;
    }
    scale.mult = (uint64_t)((value + den - 1) / den);
    return scale;
}

static uint64_t saturate(u128 value)
{
    return value > UINT64_MAX ? UINT64_MAX : (uint64_t)value;
}

static uint64_t scale_apply(struct scale scale, uint64_t value)
{
    return saturate(((u128)value * scale.mult) >> scale.shift);
}

/* --- the host's TSC frequency ------------------------------------------------------- */

/* SDM vol. 3, 19.7.3: core crystal clock and its ratio. */
static uint64_t hz_from_leaf_15(void)
{
    unsigned den, num, crystal, unused;

    if (!__get_cpuid(0x15, &den, &num, &crystal, &unused) || !den || !num || !crystal)
        return 0;
    return (uint64_t)crystal * num / den;
}

/* A hypervisor's timing leaf: EAX is the TSC's frequency in kHz. */
static uint64_t hz_from_hypervisor(void)
{
    unsigned eax, ebx, ecx, edx;

    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & (1u << 31)))
        return 0;
    __cpuid(0x40000000, eax, ebx, ecx, edx);
    if (eax < 0x40000010 || eax > 0x400000ff)
        return 0;
    __cpuid(0x40000010, eax, ebx, ecx, edx);
    return (uint64_t)eax * 1000;
}

static uint64_t raw_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SECOND + (uint64_t)ts.tv_nsec;
}

/* Both clocks at one moment: the tightest of several attempts. */
static void sample(uint64_t *tsc, uint64_t *ns)
{
    uint64_t best = UINT64_MAX;
    int i;

    for (i = 0; i < 8; i++) {
        uint64_t before = vclock_host_tsc(), now = raw_ns(), after = vclock_host_tsc();

        if (after - before < best) {
            best = after - before;
            *tsc = before + (after - before) / 2;
            *ns = now;
        }
    }
}

static uint64_t hz_measured(void)
{
    const struct timespec pause = {.tv_nsec = 5000000};
    uint64_t tsc0, ns0, tsc1, ns1;

    sample(&tsc0, &ns0);
    nanosleep(&pause, NULL);
    sample(&tsc1, &ns1);
    if (ns1 <= ns0 || tsc1 <= tsc0)
        return 0;
    return (uint64_t)((u128)(tsc1 - tsc0) * NS_PER_SECOND / (ns1 - ns0));
}

/* In whole kHz, as CPUID's timing leaf gives it to the guest. */
static uint64_t host_tsc_hz(void)
{
    uint64_t hz = hz_from_leaf_15();

    if (!hz)
        hz = hz_from_hypervisor();
    if (!hz)
        hz = hz_measured();
    if (!hz)
        hz = NS_PER_SECOND;
    return (hz + 500) / 1000 * 1000;
}

/* --- construction --------------------------------------------------------------------- */

static struct vclock *clock_make(uint64_t tsc_hz, bool manual)
{
    struct vclock *clock = calloc(1, sizeof(*clock));

    if (!clock)
        return NULL;
    clock->tsc_hz = tsc_hz;
    clock->manual = manual;
    clock->to_ns = scale_make(NS_PER_SECOND, tsc_hz);
    clock->to_tsc = scale_make(tsc_hz, NS_PER_SECOND);
    pthread_mutex_init(&clock->writers, NULL);
    clock->run_rate = manual ? 0 : RATE_ONE;
    atomic_init(&clock->state.host_base, manual ? 0 : vclock_host_tsc());
    atomic_init(&clock->state.rate, clock->run_rate);
    return clock;
}

struct vclock *vclock_new(void)
{
    struct vclock *clock = clock_make(host_tsc_hz(), false);
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    if (clock)
        clock->wall_ns = (int64_t)ts.tv_sec * (int64_t)NS_PER_SECOND + ts.tv_nsec - (int64_t)vclock_ns(clock);
    return clock;
}

struct vclock *vclock_new_manual(uint64_t tsc_hz)
{
    return clock_make(tsc_hz ? tsc_hz : NS_PER_SECOND, true);
}

void vclock_free(struct vclock *clock)
{
    if (!clock)
        return;
    pthread_mutex_destroy(&clock->writers);
    free(clock);
}

int64_t vclock_wall_ns(const struct vclock *clock)
{
    return clock->wall_ns;
}

void vclock_set_wall_ns(struct vclock *clock, int64_t ns)
{
    clock->wall_ns = ns;
}

/* --- reading ---------------------------------------------------------------------------- */

uint64_t vclock_tsc_hz(const struct vclock *clock)
{
    return clock->tsc_hz;
}

uint64_t vclock_tsc(const struct vclock *clock)
{
    return vclock_read(clock).tsc;
}

uint64_t vclock_ns(const struct vclock *clock)
{
    return vclock_tsc_to_ns(clock, vclock_tsc(clock));
}

uint64_t vclock_tsc_to_ns(const struct vclock *clock, uint64_t tsc)
{
    return scale_apply(clock->to_ns, tsc);
}

/* The first tick at which the clock shows at least ns. */
uint64_t vclock_ns_to_tsc(const struct vclock *clock, uint64_t ns)
{
    uint64_t tsc = scale_apply(clock->to_tsc, ns);
    int i; /* the two scales' rounding errors are a few ticks, and that only after a century */

    for (i = 0; i < 8 && tsc && vclock_tsc_to_ns(clock, tsc - 1) >= ns; i++)
        tsc--;
    for (i = 0; i < 8 && tsc != UINT64_MAX && vclock_tsc_to_ns(clock, tsc) < ns; i++)
        tsc++;
    return tsc;
}

uint64_t vclock_host_ns_until(const struct vclock *clock, uint64_t ns)
{
    struct vclock_reading now = vclock_read(clock);
    uint64_t then = vclock_ns_to_tsc(clock, ns);
    uint64_t host_ticks, host_ns;

    if (now.tsc >= then)
        return 0;
    if (!now.rate)
        return UINT64_MAX;
    host_ticks = saturate((((u128)(then - now.tsc) << VCLOCK_RATE_SHIFT) + now.rate - 1) / now.rate);
    host_ns = vclock_tsc_to_ns(clock, host_ticks); /* host ticks have the same length */
    return host_ns < UINT64_MAX - 1 ? host_ns + 1 : UINT64_MAX - 1;
}

bool vclock_is_manual(const struct vclock *clock)
{
    return clock->manual;
}

/* --- changing ----------------------------------------------------------------------------- */

/* Continues from the present reading (plus some ticks) at another rate. The reading is taken when the sequence is odd
 * for all: nobody may get a later one at the old rate. The caller holds writers. */
static void rebase(struct vclock *clock, uint64_t rate, uint64_t ticks)
{
    unsigned sequence = atomic_load_explicit(&clock->state.sequence, memory_order_relaxed);
    uint64_t host_base = atomic_load_explicit(&clock->state.host_base, memory_order_relaxed);
    uint64_t tsc_base = atomic_load_explicit(&clock->state.tsc_base, memory_order_relaxed);
    uint64_t old_rate = atomic_load_explicit(&clock->state.rate, memory_order_relaxed), host;

    atomic_store_explicit(&clock->state.sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    host = vclock_host_tsc();
    tsc_base = vclock_guest_tsc(host, host_base, tsc_base, old_rate) + ticks;
    atomic_store_explicit(&clock->state.tsc_base, tsc_base, memory_order_relaxed);
    atomic_store_explicit(&clock->state.host_base, host, memory_order_relaxed);
    atomic_store_explicit(&clock->state.rate, rate, memory_order_relaxed);
    atomic_store_explicit(&clock->state.sequence, sequence + 2, memory_order_release);
}

static void change(struct vclock *clock, uint64_t rate, uint64_t ticks)
{
    rebase(clock, rate, ticks);
    pthread_mutex_unlock(&clock->writers);
    if (clock->changed)
        clock->changed(clock->changed_opaque);
}

void vclock_pause(struct vclock *clock)
{
    pthread_mutex_lock(&clock->writers);
    change(clock, 0, 0);
}

void vclock_resume(struct vclock *clock)
{
    pthread_mutex_lock(&clock->writers);
    change(clock, clock->run_rate, 0);
}

void vclock_set_rate(struct vclock *clock, uint32_t num, uint32_t den)
{
    bool running = vclock_read(clock).rate != 0;

    if (clock->manual || !num || !den)
        return;
    pthread_mutex_lock(&clock->writers);
    clock->run_rate = MAX(((uint64_t)num << VCLOCK_RATE_SHIFT) / den, 1);
    change(clock, running ? clock->run_rate : 0, 0);
}

void vclock_advance_tsc(struct vclock *clock, uint64_t ticks)
{
    if (!clock->manual)
        return;
    pthread_mutex_lock(&clock->writers);
    change(clock, 0, ticks);
}

void vclock_advance_ns(struct vclock *clock, uint64_t ns)
{
    uint64_t now = vclock_ns(clock);

    vclock_advance_tsc(clock, vclock_ns_to_tsc(clock, now + ns) - vclock_tsc(clock));
}

void vclock_set_listener(struct vclock *clock, void (*changed)(void *opaque), void *opaque)
{
    clock->changed = changed;
    clock->changed_opaque = opaque;
}
