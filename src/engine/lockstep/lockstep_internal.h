/* engine/lockstep/lockstep_internal.h: the two sides, and how they go on together: lockstep.c, or steps.c if one of
 * them cannot count instructions. */
#ifndef ENGINE_LOCKSTEP_LOCKSTEP_INTERNAL_H
#define ENGINE_LOCKSTEP_LOCKSTEP_INTERNAL_H

#include "base/lock.h"
#include "engine/lockstep/lockstep.h"

#define MESSAGES 64

struct steps;

/* One of the two: an engine with its VM, its processor and its memory. */
struct side {
    const struct engine_ops *ops;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    struct mem *mem;
    struct exit exit;
};

struct engine_vm {
    struct side leader, follower;
    struct vclock *guest_clock; /* the VM's */
    struct vclock *clock;       /* the sides': follows the VM's between chunks */
    bool started;

    struct lock lock; /* messages */
    struct x86_apic_message messages[MESSAGES];
    unsigned message_count;
};

struct engine_vcpu {
    struct engine_vm *vm;
    _Atomic bool kicked;
    bool io_pending;
    uint64_t memory_interval, next_memory_check; /* in instructions */
    unsigned chunks;
    uint64_t chunk_rip; /* the leader's when the last comparison was made */
    unsigned stride;    /* how the follower's steps vary: 1 to MAX_STRIDE instructions */
    struct x86_cpu *state[2];
    struct steps *steps; /* NULL: both count instructions */
};

static inline uint64_t lockstep_retired(const struct side *side)
{
    return side->ops->counters(side->vcpu)->instructions;
}

/* The side whose instructions count: the leader, unless it is hardware. */
static inline struct side *lockstep_counting(struct engine_vm *vm)
{
    return vm->leader.ops->hardware ? &vm->follower : &vm->leader;
}

bool lockstep_same_exit(const struct exit *a, const struct exit *b);
/* Makes it an EXIT_ERROR with that text. */
void lockstep_fail(struct exit *exit, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* steps.c */
struct steps *steps_new(struct engine_vcpu *vcpu); /* NULL: no memory */
void steps_free(struct steps *steps);              /* may be NULL */
void steps_restart(struct steps *steps);           /* state and memory have been set anew, for both */
/* One or more instructions on both sides. False: the exit is for the machine, or a difference. True: go on; EXIT_HALT:
 * after a nap. */
void steps_report(const struct steps *steps, engine_line_fn *line, void *opaque);
void steps_kick(struct steps *steps); /* any thread, async-signal-safe */
bool steps_run(struct steps *steps, struct exit *exit);

#endif
