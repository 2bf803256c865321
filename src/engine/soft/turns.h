/*
 * engine/soft/turns.h: vCPUs that take turns on the host's processors: one that
 * spins gives way, one that is kicked goes on, and the guest learns how much
 * time it lost. Only where there are several vCPUs, but for soft_turns_notice().
 *
 * Thread: the vCPU's own.
 */
#ifndef ENGINE_SOFT_TURNS_H
#define ENGINE_SOFT_TURNS_H

#include "engine/soft/soft.h"

/* More vCPUs than the host has processors for us? */
bool soft_turns_crowded(unsigned cpus);
/* PAUSE: struct x86_bus_ops. */
void soft_turns_pause(struct x86_cpu *cpu);
/* Between blocks: takes X86_EV_UNHALT, tells of stolen time. */
void soft_turns_attend(struct soft_vcpu *vcpu, uint32_t events);
/* The thread is about to sleep, or has slept: that time is not stolen. */
void soft_turns_sleep(struct soft_vcpu *vcpu, bool begin);
/* Halted: looks for an event for a while, if that was worth it lately. true: there is one, or the time (host's ns from
 * now) is up. false: the vCPU is to sleep, and then to say for how long. */
bool soft_turns_poll(struct soft_vcpu *vcpu, uint64_t host_ns);
void soft_turns_slept(struct soft_vcpu *vcpu, uint64_t ns, uint64_t wanted_ns);
/* Between blocks: were we stopped (SIGSTOP, a debugger, a host without time for us)? Then the guest is told. */
void soft_turns_notice(struct soft_vcpu *vcpu);

#endif
