/* engine/interp/interp.c: the reference engine behind the contract of engine/engine.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/run.h"

static const struct soft_hooks hooks;

struct engine_vm {
    struct soft_vm soft;
};

struct engine_vcpu {
    struct soft_vcpu soft;
};

static int probe(struct error *err)
{
    return 0;
}

static int vm_create(struct engine_vm **vm, const struct engine_config *config, struct error *err)
{
    struct engine_vm *new = calloc(1, sizeof(*new));
    int rc;

    if (!new)
        return error_set(err, -ENOMEM, "interp: no memory for the VM");
    rc = soft_vm_init(&new->soft, config, &hooks);
    if (rc) {
        free(new);
        return error_set(err, rc, "interp: %u processors; 1 to %u can be had", config->cpus, SOFT_MAX_CPUS);
    }
    *vm = new;
    return 0;
}

static void vm_destroy(struct engine_vm *vm)
{
    mem_set_listener(vm->soft.mem, NULL, NULL);
    free(vm);
}

static void signal_message(struct engine_vm *vm, const struct x86_apic_message *message)
{
    soft_signal(&vm->soft, message);
}

static int vcpu_create(struct engine_vcpu **vcpu, struct engine_vm *vm, unsigned id, struct error *err)
{
    struct engine_vcpu *new;

    if (id >= vm->soft.cpus)
        return error_set(err, -EINVAL, "interp: processor %u of %u", id, vm->soft.cpus);
    new = aligned_alloc(64, ALIGN_UP(sizeof(*new), 64));
    if (!new)
        return error_set(err, -ENOMEM, "interp: no memory for processor %u", id);
    memset(new, 0, sizeof(*new));
    soft_vcpu_init(&new->soft, &vm->soft, id);
    *vcpu = new;
    return 0;
}

static void vcpu_destroy(struct engine_vcpu *vcpu)
{
    soft_vcpu_fini(&vcpu->soft);
    free(vcpu);
}

static void run(struct engine_vcpu *vcpu, struct exit *exit, uint64_t budget)
{
    soft_run(&vcpu->soft, exit, budget, soft_run_block);
}

static void kick(struct engine_vcpu *vcpu)
{
    soft_kick(&vcpu->soft);
}

static bool ready(struct engine_vcpu *vcpu)
{
    return soft_ready(&vcpu->soft);
}

static void request_irq_window(struct engine_vcpu *vcpu)
{
    soft_request_irq_window(&vcpu->soft);
}

static void inject(struct engine_vcpu *vcpu, uint8_t vector)
{
    soft_inject(&vcpu->soft, vector);
}

static void nmi(struct engine_vcpu *vcpu)
{
    soft_nmi(&vcpu->soft);
}

static void get_state(struct engine_vcpu *vcpu, struct x86_cpu *state)
{
    soft_get_state(&vcpu->soft, state);
}

static void set_state(struct engine_vcpu *vcpu, const struct x86_cpu *state)
{
    soft_set_state(&vcpu->soft, state);
}

static const struct counters *counters(struct engine_vcpu *vcpu)
{
    return &vcpu->soft.cpu.counters;
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .summary = "emulates every instruction; works everywhere",
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
