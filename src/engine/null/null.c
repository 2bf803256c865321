/* engine/null/null.c: see null.h. */
#include "engine/null/null.h"

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"

#define MESSAGES 256u

struct engine_vm {
    struct engine_config config;
    struct lock lock;
    unsigned head, tail;
    struct x86_apic_message messages[MESSAGES];
};

struct engine_vcpu {
    struct x86_cpu cpu;
    sem_t wake; /* posted after each change that run() looks at: kick() is async-signal-safe */
    _Atomic bool kicked;

    struct lock lock;
    enum { NO_ACCESS, WANTED, SERVED } access_state;
    struct exit access;
    sem_t access_free, access_done;
    bool window, masked;
    int pending; /* injected, to be delivered by the next run(); -1: none */
    uint8_t last_vector;
    unsigned injected, nmis;
};

static int probe(struct error *err)
{
    return 0;
}

static int vm_create(struct engine_vm **vm, const struct engine_config *config, struct error *err)
{
    struct engine_vm *new = calloc(1, sizeof(*new));

    if (!new)
        return error_set(err, -ENOMEM, "null: no memory");
    new->config = *config;
    lock_init(&new->lock, LOCK_ENGINE);
    *vm = new;
    return 0;
}

static void vm_destroy(struct engine_vm *vm)
{
    lock_destroy(&vm->lock);
    free(vm);
}

static void signal_message(struct engine_vm *vm, const struct x86_apic_message *message)
{
    lock_take(&vm->lock);
    if (vm->tail - vm->head < MESSAGES)
        vm->messages[vm->tail++ % MESSAGES] = *message;
    lock_drop(&vm->lock);
}

bool null_take_message(struct engine_vm *vm, struct x86_apic_message *message)
{
    bool any;

    lock_take(&vm->lock);
    any = vm->head != vm->tail;
    if (any)
        *message = vm->messages[vm->head++ % MESSAGES];
    lock_drop(&vm->lock);
    return any;
}

static int vcpu_create(struct engine_vcpu **vcpu, struct engine_vm *vm, unsigned id, struct error *err)
{
    struct engine_vcpu *new;

    if (id >= vm->config.cpus)
        return error_set(err, -EINVAL, "null: processor %u of %u", id, vm->config.cpus);
    new = aligned_alloc(64, ALIGN_UP(sizeof(*new), 64));
    if (!new)
        return error_set(err, -ENOMEM, "null: no memory for processor %u", id);
    memset(new, 0, sizeof(*new));
    lock_init(&new->lock, LOCK_ENGINE);
    sem_init(&new->wake, 0, 0);
    sem_init(&new->access_free, 0, 1);
    sem_init(&new->access_done, 0, 0);
    new->pending = -1;
    new->cpu.id = id;
    x86_cpu_reset(&new->cpu);
    *vcpu = new;
    return 0;
}

static void vcpu_destroy(struct engine_vcpu *vcpu)
{
    sem_destroy(&vcpu->wake);
    sem_destroy(&vcpu->access_free);
    sem_destroy(&vcpu->access_done);
    lock_destroy(&vcpu->lock);
    free(vcpu);
}

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0 && errno == EINTR)
        ;
}

/* --- running --------------------------------------------------------------------------------------- */

static void complete_access(struct engine_vcpu *vcpu, const struct exit *exit)
{
    if (vcpu->access_state != SERVED)
        return;
    vcpu->access = *exit;
    vcpu->access_state = NO_ACCESS;
    sem_post(&vcpu->access_done);
}

static bool begin_access(struct engine_vcpu *vcpu, struct exit *exit)
{
    if (vcpu->access_state != WANTED)
        return false;
    vcpu->access_state = SERVED;
    *exit = vcpu->access;
    if (exit->reason == EXIT_PIO)
        vcpu->cpu.counters.exits_pio++;
    else
        vcpu->cpu.counters.exits_mmio++;
    return true;
}

static void deliver(struct engine_vcpu *vcpu)
{
    if (vcpu->pending < 0)
        return;
    vcpu->last_vector = (uint8_t)vcpu->pending;
    vcpu->pending = -1;
    vcpu->injected++;
    vcpu->cpu.counters.interrupts++;
}

static bool is_ready(const struct engine_vcpu *vcpu)
{
    return vcpu->pending < 0 && !vcpu->masked;
}

/* Is there something to return for? With the lock. */
static bool find_exit(struct engine_vcpu *vcpu, struct exit *exit)
{
    if (atomic_exchange(&vcpu->kicked, false)) {
        exit->reason = EXIT_INTERRUPTED;
        return true;
    }
    if (vcpu->window && is_ready(vcpu)) {
        vcpu->window = false;
        exit->reason = EXIT_IRQ_WINDOW;
        return true;
    }
    return begin_access(vcpu, exit);
}

static void run(struct engine_vcpu *vcpu, struct exit *exit, uint64_t budget)
{
    bool found;

    lock_take(&vcpu->lock);
    complete_access(vcpu, exit);
    deliver(vcpu);
    while (!(found = find_exit(vcpu, exit))) {
        lock_drop(&vcpu->lock);
        wait_for(&vcpu->wake);
        lock_take(&vcpu->lock);
    }
    lock_drop(&vcpu->lock);
}

static void kick(struct engine_vcpu *vcpu)
{
    atomic_store(&vcpu->kicked, true);
    sem_post(&vcpu->wake);
}

static bool ready(struct engine_vcpu *vcpu)
{
    bool is;

    lock_take(&vcpu->lock);
    is = is_ready(vcpu);
    lock_drop(&vcpu->lock);
    return is;
}

static void request_irq_window(struct engine_vcpu *vcpu)
{
    lock_take(&vcpu->lock);
    vcpu->window = true;
    lock_drop(&vcpu->lock);
}

static void inject(struct engine_vcpu *vcpu, uint8_t vector)
{
    lock_take(&vcpu->lock);
    vcpu->pending = vector;
    lock_drop(&vcpu->lock);
}

static void nmi(struct engine_vcpu *vcpu)
{
    lock_take(&vcpu->lock);
    vcpu->nmis++;
    lock_drop(&vcpu->lock);
}

/* --- state ------------------------------------------------------------------------------------------- */

static void get_state(struct engine_vcpu *vcpu, struct x86_cpu *state)
{
    memcpy(state, &vcpu->cpu, offsetof(struct x86_cpu, events));
}

static void set_state(struct engine_vcpu *vcpu, const struct x86_cpu *state)
{
    memcpy(&vcpu->cpu, state, offsetof(struct x86_cpu, mode));
    x86_update_mode(&vcpu->cpu);
}

static const struct counters *counters(struct engine_vcpu *vcpu)
{
    return &vcpu->cpu.counters;
}

/* --- the test's side ------------------------------------------------------------------------------------ */

uint64_t null_access(struct engine_vcpu *vcpu, const struct exit *access)
{
    uint64_t data;

    wait_for(&vcpu->access_free);
    lock_take(&vcpu->lock);
    vcpu->access = *access;
    vcpu->access_state = WANTED;
    lock_drop(&vcpu->lock);
    sem_post(&vcpu->wake);
    wait_for(&vcpu->access_done);
    lock_take(&vcpu->lock);
    data = vcpu->access.reason == EXIT_PIO ? vcpu->access.pio.data : vcpu->access.mmio.data;
    lock_drop(&vcpu->lock);
    sem_post(&vcpu->access_free);
    return data;
}

unsigned null_injected(struct engine_vcpu *vcpu, uint8_t *vector)
{
    unsigned count;

    lock_take(&vcpu->lock);
    count = vcpu->injected;
    *vector = vcpu->last_vector;
    lock_drop(&vcpu->lock);
    return count;
}

unsigned null_nmis(struct engine_vcpu *vcpu)
{
    unsigned count;

    lock_take(&vcpu->lock);
    count = vcpu->nmis;
    lock_drop(&vcpu->lock);
    return count;
}

void null_set_interruptible(struct engine_vcpu *vcpu, bool on)
{
    lock_take(&vcpu->lock);
    vcpu->masked = !on;
    lock_drop(&vcpu->lock);
    sem_post(&vcpu->wake);
}

const struct engine_ops engine_null = {
    .name = "null",
    .summary = "no processor: tests of devices",
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
};
