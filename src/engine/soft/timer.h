/*
 * engine/soft/timer.h: tells vCPUs that are running when their local APIC's
 * timer is due, so that what they run need not look at the clock.
 */
#ifndef ENGINE_SOFT_TIMER_H
#define ENGINE_SOFT_TIMER_H

#include "engine/soft/soft.h"

/* A thread of its own. NULL: it cannot be had. */
struct soft_timer *soft_timer_new(struct soft_vm *vm);
void soft_timer_free(struct soft_timer *timer);

/* X86_EV_APIC is posted to the vCPU in host_ns nanoseconds; UINT64_MAX: never. Replaces what was armed before. */
void soft_timer_arm(struct soft_timer *timer, unsigned cpu, uint64_t host_ns);

#endif
