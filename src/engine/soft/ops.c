/* engine/soft/ops.c: see ops.h. */
#include "engine/soft/ops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/soft/timer.h"

static struct soft_vcpu *soft(struct engine_vcpu *vcpu)
{
    return (struct soft_vcpu *)vcpu;
}

int soft_op_probe(struct error *err)
{
    return 0;
}

int soft_op_vm_create(struct engine_vm **vm, const char *name, const struct engine_config *config,
                      const struct soft_hooks *hooks, struct error *err)
{
    struct engine_vm *new = calloc(1, sizeof(*new));
    int rc;

    if (!new)
        return error_set(err, -ENOMEM, "%s: no memory for the VM", name);
    rc = soft_vm_init(&new->soft, config, hooks);
    if (rc) {
        free(new);
        if (rc == -ENOMEM)
            return error_set(err, rc, "%s: no memory for the VM", name);
        return error_set(err, rc, "%s: %u processors; 1 to %u can be had", name, config->cpus, SOFT_MAX_CPUS);
    }
    *vm = new;
    return 0;
}

void soft_op_vm_destroy(struct engine_vm *vm)
{
    soft_timer_free(vm->soft.timer);
    soft_vm_fini(&vm->soft);
    free(vm);
}

void soft_op_signal(struct engine_vm *vm, const struct x86_apic_message *message)
{
    soft_signal(&vm->soft, message);
}

int soft_op_vcpu_create(struct engine_vcpu **vcpu, size_t size, size_t fenced, const char *name, struct engine_vm *vm,
                        unsigned id, struct error *err)
{
    struct soft_place place = {.fenced = fenced};
    struct soft_vcpu *new;

    if (id >= vm->soft.cpus)
        return error_set(err, -EINVAL, "%s: processor %u of %u", name, id, vm->soft.cpus);
    place.begin = calloc(1, size + PAGE_SIZE + fenced); /* most of it, for the soft TLB, is never touched */
    if (!place.begin)
        return error_set(err, -ENOMEM, "%s: no memory for processor %u", name, id);
    place.fence = (void *)ALIGN_UP((uintptr_t)place.begin + size, PAGE_SIZE);
    if (fenced && mprotect(place.fence, fenced, PROT_NONE)) {
        free(place.begin);
        return error_set(err, -ENOMEM, "%s: no memory for processor %u", name, id);
    }
    new = (struct soft_vcpu *)((char *)place.fence - size);
    madvise((void *)ALIGN_UP((uintptr_t) new, PAGE_SIZE), (size - PAGE_SIZE) & PAGE_MASK, MADV_NOHUGEPAGE);
    new->place = place;
    soft_vcpu_init(new, &vm->soft, id);
    *vcpu = (struct engine_vcpu *)new;
    return 0;
}

void soft_op_vcpu_free(struct engine_vcpu *vcpu)
{
    const struct soft_place place = soft(vcpu)->place;

    if (place.fenced)
        mprotect(place.fence, place.fenced, PROT_READ | PROT_WRITE);
    free(place.begin);
}

void soft_op_vcpu_destroy(struct engine_vcpu *vcpu)
{
    soft_vcpu_fini(soft(vcpu));
    soft_op_vcpu_free(vcpu);
}

void soft_op_kick(struct engine_vcpu *vcpu)
{
    soft_kick(soft(vcpu));
}

bool soft_op_ready(struct engine_vcpu *vcpu)
{
    return soft_ready(soft(vcpu));
}

void soft_op_request_irq_window(struct engine_vcpu *vcpu)
{
    soft_request_irq_window(soft(vcpu));
}

void soft_op_inject(struct engine_vcpu *vcpu, uint8_t vector)
{
    soft_inject(soft(vcpu), vector);
}

void soft_op_nmi(struct engine_vcpu *vcpu)
{
    soft_nmi(soft(vcpu));
}

void soft_op_get_state(struct engine_vcpu *vcpu, struct x86_cpu *state)
{
    soft_get_state(soft(vcpu), state);
}

void soft_op_set_state(struct engine_vcpu *vcpu, const struct x86_cpu *state)
{
    soft_set_state(soft(vcpu), state);
}

const struct counters *soft_op_counters(struct engine_vcpu *vcpu)
{
    return &soft(vcpu)->cpu.counters;
}
