/*
 * base/vclock.h: the one virtual clock of a VM. TSC, local APIC timers, PIT,
 * RTC, PM timer and pvclock are all functions of it. Any thread may read it.
 *
 * The clock counts guest TSC ticks at vclock_tsc_hz(); nanoseconds are derived.
 * It runs from the host's TSC (scaled by the rate: time dilation), or stands
 * still and is moved by hand (manual: tests, lockstep).
 */
#ifndef BASE_VCLOCK_H
#define BASE_VCLOCK_H

#include <stdint.h>

#include "base/types.h"

struct vclock;

struct vclock *vclock_new(void);                   /* running, at rate 1, from 0; NULL: no memory */
struct vclock *vclock_new_manual(uint64_t tsc_hz); /* standing at 0 */
void vclock_free(struct vclock *clock);

uint64_t vclock_tsc_hz(const struct vclock *clock);
uint64_t vclock_tsc(const struct vclock *clock); /* guest TSC, ticks */
uint64_t vclock_ns(const struct vclock *clock);  /* virtual nanoseconds since the start */
uint64_t vclock_ns_to_tsc(const struct vclock *clock, uint64_t ns);
uint64_t vclock_tsc_to_ns(const struct vclock *clock, uint64_t tsc);

/* The wall clock (Unix time, ns) at which the virtual one showed 0: the host's when a running clock was made, 0 for a
 * manual one until it is set. */
int64_t vclock_wall_ns(const struct vclock *clock);
void vclock_set_wall_ns(struct vclock *clock, int64_t ns); /* before vCPUs run */

/* Host nanoseconds from now until the clock shows ns; 0 if it already does,
 * UINT64_MAX if it stands still. */
uint64_t vclock_host_ns_until(const struct vclock *clock, uint64_t ns);

void vclock_pause(struct vclock *clock);
void vclock_resume(struct vclock *clock);
/* Time dilation: the clock runs num/den times as fast as the host's, from now on. */
void vclock_set_rate(struct vclock *clock, uint32_t num, uint32_t den);
/* Manual clocks only. */
void vclock_advance_ns(struct vclock *clock, uint64_t ns);
void vclock_advance_tsc(struct vclock *clock, uint64_t ticks);
bool vclock_is_manual(const struct vclock *clock);

/* The one who sleeps until a time of this clock (the event loop): called after each of the changes above, by the thread
 * that made it. Set before other threads use the clock; NULL: nobody. */
void vclock_set_listener(struct vclock *clock, void (*changed)(void *opaque), void *opaque);

#endif
