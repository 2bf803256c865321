/*
 * x86/intr.c: exceptions and interrupts: what state an event leaves before it is
 * delivered, and what becomes of an event whose delivery faults (AMD APM vol. 2,
 * 8.2.9; SDM vol. 3, table 6-5). The way through the gate is gate.c's.
 */
#include "x86/intr.h"

#include <inttypes.h>

#include "base/log.h"
#include "x86/gate.h"

/* A guest can make deliveries fault for ever (an #AC on the #AC handler's stack); a processor would, we stop. */
#define MAX_CHAIN 8

#define DR6_TRAPS 0xfull
#define DR6_BD    BIT(13)
#define DR7_GD    BIT(13)

static bool contributory(uint8_t vector)
{
    return vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP);
}

/* Fault-class exceptions save RF set, so that the instruction resumes without its breakpoint (SDM vol. 3, 17.3.1.1).
 */
static bool saves_rf(const struct x86_event *e)
{
    if (e->vector == VEC_DB)
        return e->cr2 & DR6_BD;
    return e->vector != VEC_NMI && e->vector != VEC_BP && e->vector != VEC_OF && e->vector != VEC_DF &&
           e->vector != VEC_MC;
}

/* The state that tells the handler why; set whether or not it is reached. */
static void latch(struct x86_cpu *cpu, const struct x86_event *e)
{
    if (e->vector == VEC_PF)
        cpu->cr2 = e->cr2;
    if (e->vector == VEC_DB && e->cr2) {
        cpu->dr[6] = (cpu->dr[6] & ~DR6_TRAPS) | e->cr2;
        cpu->dr[7] &= ~DR7_GD;
    }
}

static void wake(struct x86_cpu *cpu)
{
    cpu->halted = false;
    cpu->int_shadow = SHADOW_NONE;
}

/* Errors of a delivery that no instruction asked for carry EXT. */
static void mark_external(struct x86_event *e)
{
    if (e->vector >= VEC_TS && e->vector <= VEC_GP)
        e->error |= 1;
}

/* The first event of a chain that may end in shutdown, and those that follow it. */
static struct x86_shutdown start_record(const struct x86_event *first, uint64_t rip)
{
    return (struct x86_shutdown){
        .vectors = {first->vector, 0xff, 0xff, 0xff}, .rip = rip, .cr2 = first->cr2, .error = first->error};
}

static void record(struct x86_shutdown *cause, uint8_t vector)
{
    for (unsigned i = 0; i < ARRAY_SIZE(cause->vectors); i++) {
        if (cause->vectors[i] == 0xff) {
            cause->vectors[i] = vector;
            return;
        }
    }
}

static void shut_down(struct x86_cpu *cpu, const struct x86_shutdown *cause)
{
    cpu->shutdown = true;
    cpu->shutdown_cause = *cause;
    TRACE(INT, "shutdown: vectors %u %u %u %u rip %" PRIx64, cause->vectors[0], cause->vectors[1], cause->vectors[2],
          cause->vectors[3], cause->rip);
}

/* What a second exception while delivering the first makes of the two. */
static struct x86_event combine(const struct x86_event *first, const struct x86_event *second)
{
    bool page_fault = second->vector == VEC_PF || contributory(second->vector);

    if ((contributory(first->vector) && contributory(second->vector)) || (first->vector == VEC_PF && page_fault))
        return (struct x86_event){.vector = VEC_DF, .has_error = true};
    return *second;
}

static enum x86_rc deliver_event(struct x86_cpu *cpu, const struct x86_event *e)
{
    struct x86_delivery d = {
        .vector = e->vector,
        .has_error = e->has_error,
        .error = e->error,
        .rip = cpu->rip,
        .rflags = saves_rf(e) ? cpu->rflags | FLAG_RF : cpu->rflags,
    };

    TRACE(INT, "exception %u error %x rip %" PRIx64 " cr2 %" PRIx64, e->vector, e->error, cpu->rip, e->cr2);
    cpu->counters.exceptions++;
    latch(cpu, e);
    return x86_deliver(cpu, &d);
}

/* The first delivery has failed with rc; go on until a handler is entered or nothing is left. */
static void deliver_nested(struct x86_cpu *cpu, struct x86_event e, uint64_t rip, enum x86_rc rc)
{
    struct x86_shutdown cause = start_record(&e, rip);

    for (unsigned n = 0; n < MAX_CHAIN && rc == X86_FAULT; n++) {
        struct x86_event second = cpu->exc;

        mark_external(&second);
        record(&cause, second.vector);
        latch(cpu, &second);
        if (e.vector == VEC_DF && (contributory(second.vector) || second.vector == VEC_PF))
            break;
        e = combine(&e, &second);
        if (e.vector == VEC_DF && second.vector != VEC_DF)
            record(&cause, VEC_DF);
        rc = deliver_event(cpu, &e);
    }
    if (rc != X86_JUMP)
        shut_down(cpu, &cause);
}

void x86_deliver_exception(struct x86_cpu *cpu)
{
    struct x86_event e = cpu->exc;
    uint64_t rip = cpu->rip;
    enum x86_rc rc;

    wake(cpu);
    rc = deliver_event(cpu, &e);
    if (unlikely(rc != X86_JUMP))
        deliver_nested(cpu, e, rip, rc);
}

void x86_deliver_interrupt(struct x86_cpu *cpu, uint8_t vector)
{
    struct x86_delivery d = {.vector = vector, .rip = cpu->rip, .rflags = cpu->rflags};
    struct x86_shutdown cause;
    enum x86_rc rc;

    TRACE(INT, "interrupt %u rip %" PRIx64, vector, cpu->rip);
    cpu->counters.interrupts++;
    wake(cpu);
    if (vector == VEC_NMI)
        cpu->nmi_masked = true;
    rc = x86_deliver(cpu, &d);
    if (likely(rc == X86_JUMP))
        return;
    if (rc == X86_FAULT) {
        mark_external(&cpu->exc);
        x86_deliver_exception(cpu);
    } else {
        cpu->exc = (struct x86_event){.vector = vector};
        cause = start_record(&cpu->exc, cpu->rip);
        shut_down(cpu, &cause);
    }
}

enum x86_rc x86_software_interrupt(struct x86_cpu *cpu, uint8_t vector, uint64_t next_rip)
{
    struct x86_delivery d = {
        .vector = vector, .soft = true, .rip = next_rip, .rflags = cpu->rflags & ~(uint64_t)FLAG_RF};

    TRACE(INT, "software interrupt %u rip %" PRIx64, vector, cpu->rip);
    return x86_deliver(cpu, &d);
}

enum x86_rc x86_icebp(struct x86_cpu *cpu, uint64_t next_rip)
{
    struct x86_delivery d = {.vector = VEC_DB, .rip = next_rip, .rflags = cpu->rflags};
    enum x86_rc rc;

    TRACE(INT, "INT1 rip %" PRIx64, cpu->rip);
    rc = x86_deliver(cpu, &d);
    if (rc == X86_FAULT)
        mark_external(&cpu->exc);
    return rc;
}
