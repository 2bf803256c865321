/*
 * engine/null/null.h: the engine without a processor, for tests of devices and
 * of machines: run() sleeps until it is kicked, and the test says which port
 * and memory accesses the processor that is not there makes.
 */
#ifndef ENGINE_NULL_NULL_H
#define ENGINE_NULL_NULL_H

#include "engine/engine.h"

/* Has the vCPU make an access: run() returns it (EXIT_PIO or EXIT_MMIO), and the run() after that completes it. Any
 * thread; waits for the one before. Returns what was read. Only while another thread is in the run loop, or about to
 * be. */
uint64_t null_access(struct engine_vcpu *vcpu, const struct exit *access);

/* The oldest interrupt message signalled to the VM and not yet taken; false: there is none. Up to 256 are kept. Any
 * thread. */
bool null_take_message(struct engine_vm *vm, struct x86_apic_message *message);

/* How many interrupts inject() and how many NMIs nmi() have delivered, and the last vector. Any thread. */
unsigned null_injected(struct engine_vcpu *vcpu, uint8_t *vector);
unsigned null_nmis(struct engine_vcpu *vcpu);
/* Interrupts off: ready() says no until they are on again. Any thread. */
void null_set_interruptible(struct engine_vcpu *vcpu, bool on);

#endif
