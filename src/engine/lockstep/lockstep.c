/* engine/lockstep/lockstep.c: see lockstep.h. */
#include "engine/lockstep/lockstep.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/lock.h"
#include "base/log.h"
#include "engine/lockstep/compare.h"
#include "engine/lockstep/lockstep_internal.h"

#define CHUNK        48 /* instructions between two comparisons of processor state */
#define LONG_CHUNK   1000
#define CHUNKS       8  /* one of so many is a long one */
#define MEMORY_PRICE 16 /* bytes of memory for which one instruction is run before memory is compared again */
#define MAX_STRIDE   5

static const struct engine_ops *leader_ops, *follower_ops;

static int probe(struct error *err)
{
    int rc;

    if (leader_ops->hardware && follower_ops->hardware)
        return error_set(err, -EINVAL, "lockstep: %s can only be compared with an engine that counts instructions",
                         leader_ops->name);
    rc = leader_ops->probe(err);
    return rc ? rc : follower_ops->probe(err);
}

/* Only pages that somebody has touched are compared: in a huge one, all are. mem_touch() obeys that too. */
static void small_pages(const struct mem *mem)
{
    for (unsigned i = 0; i < mem_slot_count(mem); i++)
        madvise(mem_slot(mem, i)->host, mem_slot(mem, i)->size, MADV_NOHUGEPAGE);
}

/* The follower's memory: of the same shape, filled in before the first instruction. */
static int make_memory(struct engine_vm *vm, const struct mem *from, struct error *err)
{
    vm->follower.mem = mem_new();
    if (!vm->follower.mem)
        return error_set(err, -ENOMEM, "lockstep: no memory");
    if (mem_slot_count(from) && mem_slot(from, 0)->fd >= 0)
        mem_share_ram(vm->follower.mem);
    for (unsigned i = 0; i < mem_slot_count(from); i++) {
        const struct mem_slot *slot = mem_slot(from, i);
        int rc = mem_add_ram(vm->follower.mem, slot->gpa, slot->size, err);

        if (rc)
            return rc;
    }
    small_pages(from);
    small_pages(vm->follower.mem);
    return 0;
}

/* Only what differs: the follower keeps what it has derived from the rest. */
static void copy_memory(struct engine_vm *vm)
{
    for (unsigned i = 0; i < mem_slot_count(vm->leader.mem); i++) {
        const struct mem_slot *from = mem_slot(vm->leader.mem, i), *to = mem_slot(vm->follower.mem, i);

        for (uint64_t at = 0; compare_next_page(from, to, &at); at += PAGE_SIZE)
            mem_write(vm->follower.mem, to->gpa + at, from->host + at, PAGE_SIZE);
    }
}

static int make_side(struct side *side, const struct engine_ops *ops, const struct engine_config *both,
                     struct vclock *clock, struct error *err)
{
    struct engine_config config = *both;

    config.mem = side->mem;
    config.clock = clock;
    side->ops = ops;
    return ops->vm_create(&side->vm, &config, err);
}

static void vm_destroy(struct engine_vm *vm)
{
    if (vm->leader.vm)
        vm->leader.ops->vm_destroy(vm->leader.vm);
    if (vm->follower.vm)
        vm->follower.ops->vm_destroy(vm->follower.vm);
    mem_free(vm->follower.mem);
    if (vm->clock)
        vclock_free(vm->clock);
    lock_destroy(&vm->lock);
    free(vm);
}

static int vm_create(struct engine_vm **result, const struct engine_config *config, struct error *err)
{
    struct engine_vm *vm;
    int rc;

    if (config->cpus != 1)
        return error_set(err, -EINVAL, "lockstep compares one processor only, not %u", config->cpus);
    vm = calloc(1, sizeof(*vm));
    if (!vm)
        return error_set(err, -ENOMEM, "lockstep: no memory");
    lock_init(&vm->lock, LOCK_ENGINE);
    vm->guest_clock = config->clock;
    vm->clock = vclock_new_manual(vclock_tsc_hz(config->clock));
    if (vm->clock)
        vclock_set_wall_ns(vm->clock, vclock_wall_ns(config->clock));
    vm->leader.mem = config->mem;
    rc = vm->clock ? make_memory(vm, config->mem, err) : error_set(err, -ENOMEM, "lockstep: no memory");
    if (!rc)
        rc = make_side(&vm->leader, leader_ops, config, vm->clock, err);
    if (!rc)
        rc = make_side(&vm->follower, follower_ops, config, vm->clock, err);
    if (rc)
        vm_destroy(vm);
    else
        *result = vm;
    return rc;
}

static void vcpu_destroy(struct engine_vcpu *vcpu)
{
    steps_free(vcpu->steps);
    if (vcpu->vm->leader.vcpu)
        vcpu->vm->leader.ops->vcpu_destroy(vcpu->vm->leader.vcpu);
    if (vcpu->vm->follower.vcpu)
        vcpu->vm->follower.ops->vcpu_destroy(vcpu->vm->follower.vcpu);
    free(vcpu->state[0]);
    free(vcpu->state[1]);
    free(vcpu);
}

static int vcpu_create(struct engine_vcpu **result, struct engine_vm *vm, unsigned id, struct error *err)
{
    struct engine_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    int rc = 0;

    if (!vcpu)
        return error_set(err, -ENOMEM, "lockstep: no memory");
    vcpu->vm = vm;
    for (unsigned i = 0; i < mem_slot_count(vm->leader.mem); i++)
        vcpu->memory_interval += mem_slot(vm->leader.mem, i)->size / MEMORY_PRICE;
    vcpu->next_memory_check = vcpu->memory_interval;
    for (unsigned i = 0; i < 2; i++)
        vcpu->state[i] = aligned_alloc(64, ALIGN_UP(sizeof(struct x86_cpu), 64));
    if (!vcpu->state[0] || !vcpu->state[1])
        rc = error_set(err, -ENOMEM, "lockstep: no memory");
    if (!rc)
        rc = vm->leader.ops->vcpu_create(&vm->leader.vcpu, vm->leader.vm, id, err);
    if (!rc)
        rc = vm->follower.ops->vcpu_create(&vm->follower.vcpu, vm->follower.vm, id, err);
    if (!rc && (leader_ops->hardware || follower_ops->hardware)) {
        vcpu->steps = steps_new(vcpu);
        rc = vcpu->steps ? 0 : error_set(err, -ENOMEM, "lockstep: no memory");
    }
    if (rc)
        vcpu_destroy(vcpu);
    else
        *result = vcpu;
    return rc;
}

static void signal_message(struct engine_vm *vm, const struct x86_apic_message *message)
{
    lock_take(&vm->lock);
    if (vm->message_count < MESSAGES)
        vm->messages[vm->message_count++] = *message;
    lock_drop(&vm->lock);
}

/* Between chunks: both get the interrupts that came meanwhile, and the time. */
static void synchronize(struct engine_vm *vm)
{
    uint64_t now = vclock_tsc(vm->guest_clock), was = vclock_tsc(vm->clock);

    if (now > was)
        vclock_advance_tsc(vm->clock, now - was);
    lock_take(&vm->lock);
    for (unsigned i = 0; i < vm->message_count; i++) {
        vm->leader.ops->signal(vm->leader.vm, &vm->messages[i]);
        vm->follower.ops->signal(vm->follower.vm, &vm->messages[i]);
    }
    vm->message_count = 0;
    lock_drop(&vm->lock);
}

bool lockstep_same_exit(const struct exit *a, const struct exit *b)
{
    if (a->reason != b->reason)
        return false;
    if (a->reason == EXIT_PIO)
        return a->pio.port == b->pio.port && a->pio.size == b->pio.size && a->pio.write == b->pio.write &&
               (!a->pio.write || a->pio.data == b->pio.data);
    if (a->reason == EXIT_MMIO)
        return a->mmio.gpa == b->mmio.gpa && a->mmio.size == b->mmio.size && a->mmio.write == b->mmio.write &&
               (!a->mmio.write || a->mmio.data == b->mmio.data);
    return true;
}

void lockstep_fail(struct exit *exit, const char *fmt, ...)
{
    va_list ap;

    exit->reason = EXIT_ERROR;
    va_start(ap, fmt);
    vsnprintf(exit->error.text, sizeof(exit->error.text), fmt, ap);
    va_end(ap);
}

/* Equal states? If not: the differences, and where the last chunk began (what was equal then is in state[1]). */
static bool compare(struct engine_vcpu *vcpu, struct exit *exit)
{
    struct engine_vm *vm = vcpu->vm;
    char text[900];
    uint64_t leader = 0, follower = 0;
    gpa_t where;

    vm->leader.ops->get_state(vm->leader.vcpu, vcpu->state[0]);
    vm->follower.ops->get_state(vm->follower.vcpu, vcpu->state[1]);
    if (compare_cpus(vcpu->state[0], vcpu->state[1], false, text, sizeof(text))) {
        log_error("lockstep: leader / follower: %s", text);
        lockstep_fail(exit,
                      "lockstep: the engines differ after %lu instructions, in what began at rip %#lx and led to %#lx",
                      lockstep_retired(&vm->leader), vcpu->chunk_rip, vcpu->state[0]->rip);
        return false;
    }
    vcpu->chunk_rip = vcpu->state[0]->rip;
    if (lockstep_retired(&vm->leader) < vcpu->next_memory_check)
        return true;
    vcpu->next_memory_check = lockstep_retired(&vm->leader) + vcpu->memory_interval;
    if (compare_memory(vm->leader.mem, vm->follower.mem, &where))
        return true;
    mem_read(vm->leader.mem, where & ~7ull, &leader, 8);
    mem_read(vm->follower.mem, where & ~7ull, &follower, 8);
    lockstep_fail(exit, "lockstep: memory differs at %#lx after %lu instructions: %#lx / %#lx", where & ~(gpa_t)7,
                  lockstep_retired(&vm->leader), leader, follower);
    return false;
}

/* The follower does what the leader did: count instructions, in other portions, then the same exit. */
static bool follow(struct engine_vcpu *vcpu, uint64_t count, struct exit *exit)
{
    struct side *leader = &vcpu->vm->leader, *follower = &vcpu->vm->follower;
    const uint64_t end = lockstep_retired(follower) + count;

    for (;;) {
        uint64_t left = end - lockstep_retired(follower);

        if (!left && leader->exit.reason == EXIT_BUDGET)
            return true;
        vcpu->stride = vcpu->stride % MAX_STRIDE + 1;
        follower->ops->run(follower->vcpu, &follower->exit, left ? MIN(left, vcpu->stride) : 1);
        if (follower->exit.reason == EXIT_BUDGET && left)
            continue;
        if (lockstep_retired(follower) == end && lockstep_same_exit(&leader->exit, &follower->exit))
            return true;
        lockstep_fail(
            exit, "lockstep: leader left with exit %d after %lu instructions from rip %#lx, follower with %d after %lu",
            leader->exit.reason, count, vcpu->chunk_rip, follower->exit.reason,
            count - (end - lockstep_retired(follower)));
        return false;
    }
}

static void take_answers(struct engine_vcpu *vcpu, const struct exit *exit)
{
    if (!vcpu->io_pending)
        return;
    vcpu->io_pending = false;
    vcpu->vm->leader.exit = *exit;
    vcpu->vm->follower.exit = *exit;
}

/* Both are halted: a moment's sleep, then time has passed for both. */
static void nap(void)
{
    const struct timespec ts = {.tv_nsec = 200000};

    nanosleep(&ts, NULL);
}

static void run(struct engine_vcpu *vcpu, struct exit *exit, uint64_t budget)
{
    struct engine_vm *vm = vcpu->vm;
    struct side *leader = &vm->leader, *counting = lockstep_counting(vm);
    const uint64_t end = budget ? lockstep_retired(counting) + budget : UINT64_MAX;

    if (!vm->started)
        copy_memory(vm);
    vm->started = true;
    take_answers(vcpu, exit);
    while (!atomic_exchange(&vcpu->kicked, false)) {
        uint64_t before = lockstep_retired(counting), chunk = ++vcpu->chunks % CHUNKS ? CHUNK : LONG_CHUNK;

        if (before >= end) {
            exit->reason = EXIT_BUDGET;
            return;
        }
        synchronize(vm);
        if (vcpu->steps) {
            if (!steps_run(vcpu->steps, exit))
                return;
            if (exit->reason == EXIT_HALT)
                nap();
            continue;
        }
        leader->ops->run(leader->vcpu, &leader->exit, MIN(chunk, end - before));
        if (!follow(vcpu, lockstep_retired(leader) - before, exit) || !compare(vcpu, exit))
            return;
        if (leader->exit.reason == EXIT_HALT && !budget) {
            nap();
            continue;
        }
        if (leader->exit.reason == EXIT_BUDGET)
            continue;
        vcpu->io_pending = leader->exit.reason == EXIT_PIO || leader->exit.reason == EXIT_MMIO;
        *exit = leader->exit;
        return;
    }
    exit->reason = EXIT_INTERRUPTED;
}

static void kick(struct engine_vcpu *vcpu)
{
    atomic_store(&vcpu->kicked, true);
    if (vcpu->steps)
        steps_kick(vcpu->steps);
}

static bool ready(struct engine_vcpu *vcpu)
{
    return vcpu->vm->leader.ops->ready(vcpu->vm->leader.vcpu);
}

#define BOTH(vcpu, call, ...)                                                                                          \
    do {                                                                                                               \
        (vcpu)->vm->leader.ops->call((vcpu)->vm->leader.vcpu, ##__VA_ARGS__);                                          \
        (vcpu)->vm->follower.ops->call((vcpu)->vm->follower.vcpu, ##__VA_ARGS__);                                      \
    } while (0)

static void request_irq_window(struct engine_vcpu *vcpu)
{
    BOTH(vcpu, request_irq_window);
}

static void inject(struct engine_vcpu *vcpu, uint8_t vector)
{
    BOTH(vcpu, inject, vector);
}

static void nmi(struct engine_vcpu *vcpu)
{
    const struct x86_apic_message message = {.destination = 0xff, .delivery = APIC_NMI};

    signal_message(vcpu->vm, &message);
}

static void get_state(struct engine_vcpu *vcpu, struct x86_cpu *state)
{
    vcpu->vm->leader.ops->get_state(vcpu->vm->leader.vcpu, state);
}

/* Whoever sets the state may have set the memory too. */
static void set_state(struct engine_vcpu *vcpu, const struct x86_cpu *state)
{
    vcpu->vm->started = false;
    vcpu->io_pending = false;
    BOTH(vcpu, set_state, state);
    if (vcpu->steps)
        steps_restart(vcpu->steps);
}

static const struct counters *counters(struct engine_vcpu *vcpu)
{
    const struct side *side = lockstep_counting(vcpu->vm);

    return side->ops->counters(side->vcpu);
}

static void report(struct engine_vcpu *vcpu, engine_line_fn *line, void *opaque)
{
    if (vcpu->steps)
        steps_report(vcpu->steps, line, opaque);
}

static const struct engine_ops engine_lockstep = {
    .name = "lockstep",
    .summary = "two engines run side by side and compared",
    .counts = true,
    .maps_ram = true,
    .probe = probe,
    .vm_create = vm_create,
    .vm_destroy = vm_destroy,
    .signal = signal_message,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .run = run,
    .kick = kick,
    .ready = ready,
    .request_irq_window = request_irq_window,
    .inject = inject,
    .nmi = nmi,
    .get_state = get_state,
    .set_state = set_state,
    .counters = counters,
    .report = report,
};

const struct engine_ops *lockstep_engine(const struct engine_ops *leader, const struct engine_ops *follower)
{
    leader_ops = leader;
    follower_ops = follower;
    return &engine_lockstep;
}
