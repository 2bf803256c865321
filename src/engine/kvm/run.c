/*
 * engine/kvm/run.c: KVM_RUN, and what it returns as this monitor's exits.
 *
 * A kick sets two flags and sends a signal. The flag in struct kvm_run makes
 * KVM_RUN return at once if it has not begun yet, the signal if it has; `kicked`
 * tells a kick from other reasons. They are set in this order and looked at in
 * the other one, so that none is lost.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/kvm/kvm_internal.h"

#define KVM_INTERNAL_ERROR_EMULATE 1

void kvm_break(struct engine_vcpu *vcpu, const char *what, int rc)
{
    if (!vcpu->broken[0])
        snprintf(vcpu->broken, sizeof(vcpu->broken), "KVM cannot %s: %s", what, strerror(-rc));
}

static bool broken(const struct engine_vcpu *vcpu, struct exit *exit)
{
    if (!vcpu->broken[0])
        return false;
    exit->reason = EXIT_ERROR;
    memcpy(exit->error.text, vcpu->broken, sizeof(exit->error.text));
    return true;
}

/* --- ports and MMIO ----------------------------------------------------------------------- */

/* The next piece of the access in struct kvm_run. */
static void offer_piece(struct engine_vcpu *vcpu, struct exit *exit)
{
    const struct kvm_run *run = vcpu->run;
    const unsigned left = vcpu->access.length - vcpu->access.done;
    const uint8_t *data = vcpu->access.data + vcpu->access.done;

    if (run->exit_reason == KVM_EXIT_IO) {
        vcpu->access.size = run->io.size;
        exit->reason = EXIT_PIO;
        exit->pio.port = run->io.port;
        exit->pio.size = run->io.size;
        exit->pio.write = run->io.direction == KVM_EXIT_IO_OUT;
        exit->pio.data = 0;
        if (exit->pio.write)
            memcpy(&exit->pio.data, data, run->io.size);
        vcpu->cpu.counters.exits_pio++;
    } else {
        vcpu->access.size = 1u << (31 - __builtin_clz(MIN(left, 8)));
        exit->reason = EXIT_MMIO;
        exit->mmio.gpa = run->mmio.phys_addr + vcpu->access.done;
        exit->mmio.size = (uint8_t)vcpu->access.size;
        exit->mmio.write = run->mmio.is_write;
        exit->mmio.data = 0;
        if (exit->mmio.write)
            memcpy(&exit->mmio.data, data, vcpu->access.size);
        vcpu->cpu.counters.exits_mmio++;
    }
}

/* Takes the answer to a piece. true: there is another one to be answered first. */
static bool take_answer(struct engine_vcpu *vcpu, struct exit *exit)
{
    const bool port = vcpu->run->exit_reason == KVM_EXIT_IO;

    if (!vcpu->access.data)
        return false;
    if (port && !exit->pio.write)
        memcpy(vcpu->access.data + vcpu->access.done, &exit->pio.data, vcpu->access.size);
    else if (!port && !exit->mmio.write)
        memcpy(vcpu->access.data + vcpu->access.done, &exit->mmio.data, vcpu->access.size);
    vcpu->access.done += vcpu->access.size;
    if (vcpu->access.done < vcpu->access.length) {
        offer_piece(vcpu, exit);
        return true;
    }
    vcpu->access.data = NULL;
    return false;
}

static bool on_io(struct engine_vcpu *vcpu, struct exit *exit)
{
    struct kvm_run *run = vcpu->run;

    vcpu->access.data = (uint8_t *)run + run->io.data_offset;
    vcpu->access.length = run->io.size * run->io.count;
    vcpu->access.done = 0;
    offer_piece(vcpu, exit);
    return true;
}

static bool on_mmio(struct engine_vcpu *vcpu, struct exit *exit)
{
    vcpu->access.data = vcpu->run->mmio.data;
    vcpu->access.length = vcpu->run->mmio.len;
    vcpu->access.done = 0;
    offer_piece(vcpu, exit);
    return true;
}

/* --- other exits: true: the machine must see it --------------------------------------------- */

static bool on_window(struct engine_vcpu *vcpu, struct exit *exit)
{
    vcpu->run->request_interrupt_window = 0;
    vcpu->cpu.counters.exits_irq_window++;
    exit->reason = EXIT_IRQ_WINDOW;
    return true;
}

static bool on_eoi(struct engine_vcpu *vcpu, struct exit *exit)
{
    vcpu->cpu.counters.exits_eoi++;
    exit->reason = EXIT_EOI;
    exit->eoi.vector = vcpu->run->eoi.vector;
    return true;
}

/* The processor does not say which exceptions led there. */
static bool on_shutdown(struct engine_vcpu *vcpu, struct exit *exit)
{
    exit->reason = EXIT_SHUTDOWN;
    memset(&exit->shutdown, 0, sizeof(exit->shutdown));
    memset(exit->shutdown.vectors, 0xff, sizeof(exit->shutdown.vectors));
    return true;
}

static bool on_halt(struct engine_vcpu *vcpu, struct exit *exit)
{
    vcpu->cpu.counters.exits_halt++;
    exit->reason = EXIT_HALT;
    return true;
}

static bool on_fail_entry(struct engine_vcpu *vcpu, struct exit *exit)
{
    exit->reason = EXIT_ERROR;
    snprintf(exit->error.text, sizeof(exit->error.text),
             "the processor refuses the guest's state (KVM: entry failure %#llx)",
             (unsigned long long)vcpu->run->fail_entry.hardware_entry_failure_reason);
    return true;
}

static bool on_internal(struct engine_vcpu *vcpu, struct exit *exit)
{
    if (vcpu->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATE)
        return kvm_emulate(vcpu, exit);
    exit->reason = EXIT_ERROR;
    snprintf(exit->error.text, sizeof(exit->error.text), "KVM gave up: internal error %u, %#llx %#llx",
             vcpu->run->internal.suberror, (unsigned long long)vcpu->run->internal.data[0],
             (unsigned long long)vcpu->run->internal.data[1]);
    return true;
}

/* A step is done; nothing else is asked of KVM's debugging. */
static bool on_debug(struct engine_vcpu *vcpu, struct exit *exit)
{
    exit->reason = EXIT_BUDGET;
    return true;
}

static bool (*const handlers[])(struct engine_vcpu *vcpu, struct exit *exit) = {
    [KVM_EXIT_IO] = on_io,
    [KVM_EXIT_DEBUG] = on_debug,
    [KVM_EXIT_HLT] = on_halt,
    [KVM_EXIT_MMIO] = on_mmio,
    [KVM_EXIT_IRQ_WINDOW_OPEN] = on_window,
    [KVM_EXIT_SHUTDOWN] = on_shutdown,
    [KVM_EXIT_FAIL_ENTRY] = on_fail_entry,
    [KVM_EXIT_INTERNAL_ERROR] = on_internal,
    [KVM_EXIT_IOAPIC_EOI] = on_eoi,
};

static bool dispatch(struct engine_vcpu *vcpu, struct exit *exit)
{
    const uint32_t reason = vcpu->run->exit_reason;

    if (reason < ARRAY_SIZE(handlers) && handlers[reason])
        return handlers[reason](vcpu, exit);
    exit->reason = EXIT_ERROR;
    snprintf(exit->error.text, sizeof(exit->error.text), "KVM returned for a reason that was not asked for: %u",
             reason);
    return true;
}

/* --- the loop --------------------------------------------------------------------------------- */

/* Once for each thread: it is the one that kicks go to, and it takes their signal. */
static void adopt_thread(struct engine_vcpu *vcpu)
{
    static _Thread_local int self;

    if (!self) {
        sigset_t set;

        self = (int)syscall(SYS_gettid);
        sigemptyset(&set);
        sigaddset(&set, KVM_KICK_SIGNAL);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    }
    if (atomic_load_explicit(&vcpu->tid, memory_order_relaxed) != self)
        atomic_store(&vcpu->tid, self);
}

static void deliver_requests(struct engine_vcpu *vcpu)
{
    const struct kvm_interrupt interrupt = {.irq = (uint32_t)vcpu->extint};
    int rc;

    if (vcpu->extint >= 0) {
        rc = kvm_ioctl(vcpu->fd, KVM_INTERRUPT, &interrupt);
        if (rc >= 0)
            vcpu->extint = -1;
        else if (rc != -EEXIST) /* -EEXIST: the one before it is still waiting */
            kvm_break(vcpu, "inject an interrupt", rc);
    }
    if (atomic_load_explicit(&vcpu->nmi, memory_order_relaxed) && atomic_exchange(&vcpu->nmi, false))
        kvm_ioctl(vcpu->fd, KVM_NMI, NULL);
}

/* KVM_RUN came back without an exit. true: that was a kick. */
static bool interrupted(struct engine_vcpu *vcpu, int rc, struct exit *exit)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    if (rc != -EINTR && rc != -EAGAIN) {
        kvm_break(vcpu, "run the guest", rc);
        return false;
    }
    if (!atomic_exchange(&vcpu->kicked, false))
        return false;
    vcpu->cpu.counters.exits_kick++;
    exit->reason = EXIT_INTERRUPTED;
    return true;
}

/* KVM keeps what is left of an instruction that left for an access, and does it at the next KVM_RUN; one that returns
 * at once does nothing else. A REP string or an access over a page's end may have several parts. */
void kvm_finish_access(struct engine_vcpu *vcpu)
{
    vcpu->access.data = NULL;
    vcpu->access.emulated = false;
    for (unsigned i = 0; vcpu->access.open && i < 16; i++) {
        __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        vcpu->access.open = kvm_ioctl(vcpu->fd, KVM_RUN, NULL) >= 0;
    }
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

/* KVM steps by the trap flag, which it sets for the RIP that is there when it is asked to: each time, as state may have
 * been set in between. */
static void set_stepping(struct engine_vcpu *vcpu, bool on)
{
    const struct kvm_guest_debug debug = {.control = on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0};
    int rc;

    if (!on && !vcpu->stepping)
        return;
    vcpu->stepping = on;
    rc = kvm_ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &debug);
    if (rc < 0)
        kvm_break(vcpu, "step", rc);
}

void kvm_run(struct engine_vcpu *vcpu, struct exit *exit, uint64_t budget)
{
    int rc;

    adopt_thread(vcpu);
    if (take_answer(vcpu, exit))
        return;
    if (vcpu->access.emulated && kvm_emulate(vcpu, exit))
        return;
    set_stepping(vcpu, budget);
    for (;;) {
        deliver_requests(vcpu);
        if (broken(vcpu, exit))
            return;
        rc = atomic_load(&vcpu->kicked) ? -EINTR : kvm_ioctl(vcpu->fd, KVM_RUN, NULL);
        vcpu->access.open = rc >= 0;
        if (rc < 0) {
            if (interrupted(vcpu, rc, exit))
                return;
        } else if (dispatch(vcpu, exit)) {
            return;
        } else if (vcpu->stepping) { /* the step was emulated */
            exit->reason = EXIT_BUDGET;
            return;
        }
    }
}
