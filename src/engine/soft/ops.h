/*
 * engine/soft/ops.h: the members of struct engine_ops that are the same in every
 * software engine. Its vCPU begins with a struct soft_vcpu.
 */
#ifndef ENGINE_SOFT_OPS_H
#define ENGINE_SOFT_OPS_H

#include "engine/soft/soft.h"

struct engine_vm {
    struct soft_vm soft;
};

int soft_op_probe(struct error *err);
/* name: the engine's, for messages. */
int soft_op_vm_create(struct engine_vm **vm, const char *name, const struct engine_config *config,
                      const struct soft_hooks *hooks, struct error *err);
void soft_op_vm_destroy(struct engine_vm *vm);
void soft_op_signal(struct engine_vm *vm, const struct x86_apic_message *message);
/* size: bytes of the engine's struct, a multiple of 64; it ends where so many bytes of address space begin that any
 * access to faults. -ENOMEM, -EINVAL: no such processor. */
int soft_op_vcpu_create(struct engine_vcpu **vcpu, size_t size, size_t fenced, const char *name, struct engine_vm *vm,
                        unsigned id, struct error *err);
void soft_op_vcpu_free(struct engine_vcpu *vcpu);    /* after soft_vcpu_fini() */
void soft_op_vcpu_destroy(struct engine_vcpu *vcpu); /* both */
void soft_op_kick(struct engine_vcpu *vcpu);
bool soft_op_ready(struct engine_vcpu *vcpu);
void soft_op_request_irq_window(struct engine_vcpu *vcpu);
void soft_op_inject(struct engine_vcpu *vcpu, uint8_t vector);
void soft_op_nmi(struct engine_vcpu *vcpu);
void soft_op_get_state(struct engine_vcpu *vcpu, struct x86_cpu *state);
void soft_op_set_state(struct engine_vcpu *vcpu, const struct x86_cpu *state);
const struct counters *soft_op_counters(struct engine_vcpu *vcpu);

/* The members that need nothing of the engine's own. */
#define SOFT_OPS                                                                                                       \
    .vm_destroy = soft_op_vm_destroy, .signal = soft_op_signal, .kick = soft_op_kick, .ready = soft_op_ready,          \
    .request_irq_window = soft_op_request_irq_window, .inject = soft_op_inject, .nmi = soft_op_nmi,                    \
    .get_state = soft_op_get_state, .set_state = soft_op_set_state, .counters = soft_op_counters

#endif
