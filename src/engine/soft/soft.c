/* engine/soft/soft.c: events, interrupts and sleep of a software vCPU. */
#include "engine/soft/soft.h"

#include "engine/soft/timer.h"
#include "engine/soft/turns.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "x86/intr.h"
#include "x86/io.h"

void soft_wake(struct soft_vcpu *vcpu)
{
    atomic_fetch_add(&vcpu->wake, 1);
    if (atomic_load(&vcpu->sleeping))
        syscall(SYS_futex, &vcpu->wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void soft_kick(struct soft_vcpu *vcpu)
{
    x86_post_event(&vcpu->cpu, X86_EV_KICK);
    soft_wake(vcpu);
}

void soft_nmi(struct soft_vcpu *vcpu)
{
    x86_post_event(&vcpu->cpu, X86_EV_NMI);
    soft_wake(vcpu);
}

void soft_signal(struct soft_vm *vm, const struct x86_apic_message *message)
{
    const bool one = !message->shorthand && !message->logical && message->destination < vm->cpus;
    const unsigned first = one ? message->destination : 0, end = one ? first + 1 : vm->cpus;

    for (unsigned i = first; i < end; i++) {
        struct soft_vcpu *vcpu = vm->vcpu[i];

        if (!vcpu || !x86_lapic_accepts(&vcpu->cpu, message))
            continue;
        x86_lapic_deliver(&vcpu->cpu, message);
        soft_wake(vcpu);
        if (message->delivery == APIC_LOWEST)
            break; /* any one of those addressed; priorities need not be arbitrated (SDM vol. 3, 11.6.2.4) */
    }
}

void soft_resume(struct soft_vcpu *vcpu, const struct exit *exit)
{
    if (!vcpu->io_pending)
        return;
    vcpu->io_pending = false;
    soft_share_reached_device(vcpu);
    x86_io_complete(&vcpu->cpu, exit->reason == EXIT_PIO ? exit->pio.data : exit->mmio.data);
}

void soft_io_exit(struct soft_vcpu *vcpu, struct exit *exit)
{
    const struct x86_io *io = &vcpu->cpu.io;

    vcpu->io_pending = true;
    if (io->kind == X86_IO_PORT) {
        vcpu->cpu.counters.exits_pio++;
        exit->reason = EXIT_PIO;
        exit->pio.port = (uint16_t)io->addr;
        exit->pio.size = io->size;
        exit->pio.write = io->write;
        exit->pio.data = (uint32_t)io->data;
    } else {
        vcpu->cpu.counters.exits_mmio++;
        exit->reason = EXIT_MMIO;
        exit->mmio.gpa = io->addr;
        exit->mmio.size = io->size;
        exit->mmio.write = io->write;
        exit->mmio.data = io->data;
    }
}

/* Outside of guest code. A kick comes first: then the access is wanted again when the instruction starts anew. */
void soft_io_leave(struct soft_vcpu *vcpu, struct exit *exit)
{
    if (!vcpu->io_pending || soft_share_reach_device(vcpu))
        return;
    vcpu->io_pending = false;
    exit->reason = EXIT_INTERRUPTED;
}

static bool take_eoi(struct soft_vcpu *vcpu, struct exit *exit)
{
    for (unsigned i = 0; i < ARRAY_SIZE(vcpu->eois); i++) {
        if (vcpu->eois[i]) {
            unsigned bit = (unsigned)__builtin_ctz(vcpu->eois[i]);

            vcpu->eois[i] &= vcpu->eois[i] - 1;
            x86_post_event(&vcpu->cpu, X86_EV_APIC); /* there may be more */
            vcpu->cpu.counters.exits_eoi++;
            exit->reason = EXIT_EOI;
            exit->eoi.vector = (uint8_t)(i * 32 + bit);
            return true;
        }
    }
    atomic_store(&vcpu->eoi_any, 0);
    return false;
}

/* A start-up IPI's vector is the page of real-mode code to begin at (SDM vol. 3, 9.4.4). */
static void take_sipi(struct x86_cpu *cpu)
{
    uint8_t page = (uint8_t)atomic_load(&cpu->lapic.sipi_vector);

    if (!cpu->wait_for_sipi)
        return;
    cpu->wait_for_sipi = false;
    cpu->halted = false;
    cpu->seg[SEG_CS].selector = (uint16_t)(page << 8);
    cpu->seg[SEG_CS].base = (uint64_t)page << 12;
    cpu->rip = 0;
    x86_update_mode(cpu);
}

static void take_init(struct x86_cpu *cpu)
{
    x86_cpu_init(cpu);
    x86_tlb_flush(cpu);
    cpu->wait_for_sipi = cpu->id != 0;
}

/* At most one interrupt, the highest: NMI, then the 8259's, then the local APIC's. */
static void take_interrupt(struct soft_vcpu *vcpu)
{
    struct x86_cpu *cpu = &vcpu->cpu;
    int vector;

    if (cpu->nmi_pending && !cpu->nmi_masked) {
        if (cpu->int_shadow != SHADOW_NONE) {
            x86_post_event(cpu, X86_EV_NMI); /* after the next instruction */
            return;
        }
        cpu->nmi_pending = false;
        cpu->nmi_masked = true;
        cpu->halted = false;
        x86_deliver_interrupt(cpu, VEC_NMI);
        return;
    }
    if (!x86_interruptible(cpu))
        return;
    if (vcpu->extint >= 0) {
        vector = vcpu->extint;
        vcpu->extint = -1;
    } else {
        vector = x86_lapic_pending(cpu);
        if (vector < 0)
            return;
        x86_lapic_acknowledge(cpu, (uint8_t)vector);
    }
    cpu->halted = false;
    x86_deliver_interrupt(cpu, (uint8_t)vector);
}

static void take_writes(struct soft_vcpu *vcpu)
{
    struct soft_writes *writes = &vcpu->writes;

    lock_take(&writes->lock);
    if (writes->count > SOFT_WRITES)
        code_free(vcpu);
    for (unsigned i = 0; i < MIN(writes->count, SOFT_WRITES); i++)
        code_written(vcpu, writes->range[i].gpa, writes->range[i].len);
    writes->count = 0;
    lock_drop(&writes->lock);
}

bool soft_attend(struct soft_vcpu *vcpu, struct exit *exit)
{
    struct soft_vm *vm = vcpu->vm;
    struct x86_cpu *cpu = &vcpu->cpu;
    uint32_t events = atomic_fetch_and(&cpu->events, X86_EV_TRAP);

    if (events & X86_EV_SHARE) {
        soft_share_serve(vcpu); /* it may take long, and others write to code meanwhile */
        events |= atomic_fetch_and(&cpu->events, X86_EV_TRAP | X86_EV_SHARE);
    }
    if (events & X86_EV_MEMORY)
        take_writes(vcpu);
    if (events & X86_EV_FLUSH)
        x86_tlb_flush(cpu);
    if (events & X86_EV_INIT)
        take_init(cpu);
    if (events & X86_EV_SIPI)
        take_sipi(cpu);
    if (events & X86_EV_NMI)
        cpu->nmi_pending = true;
    if (!vclock_is_manual(vm->clock))
        soft_turns_notice(vcpu);
    if (vm->share.on)
        soft_turns_attend(vcpu, events);
    x86_lapic_sync(cpu);
    if (!cpu->wait_for_sipi)
        take_interrupt(vcpu);
    if (vcpu->window && vcpu->extint < 0 && x86_interruptible(cpu)) {
        vcpu->window = false;
        x86_post_event(cpu, events & X86_EV_KICK);
        cpu->counters.exits_irq_window++;
        exit->reason = EXIT_IRQ_WINDOW;
        return true;
    }
    if (vm->timer)
        soft_timer_arm(vm->timer, cpu->id, vclock_host_ns_until(vm->clock, x86_lapic_next_ns(cpu)));
    vcpu->wanted = vcpu->extint >= 0 || vcpu->window || x86_lapic_pending(cpu) >= 0 ? FLAG_IF : 0;
    if (atomic_load(&vcpu->eoi_any) && take_eoi(vcpu, exit)) {
        x86_post_event(cpu, events & X86_EV_KICK);
        return true;
    }
    if (events & X86_EV_KICK) {
        cpu->counters.exits_kick++;
        exit->reason = EXIT_INTERRUPTED;
        return true;
    }
    return false;
}

static void futex_sleep(struct soft_vcpu *vcpu, uint64_t host_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(host_ns / 1000000000), .tv_nsec = (long)(host_ns % 1000000000)};
    uint32_t seen;

    soft_turns_sleep(vcpu, true);
    atomic_store(&vcpu->sleeping, 1);
    seen = atomic_load(&vcpu->wake);
    if (!soft_attention(vcpu))
        syscall(SYS_futex, &vcpu->wake, FUTEX_WAIT_PRIVATE, seen, host_ns == UINT64_MAX ? NULL : &ts, NULL, 0);
    atomic_store(&vcpu->sleeping, 0);
    soft_turns_sleep(vcpu, false);
}

/* Until an event is there, or the time is up. */
static void wait_for_event(struct soft_vcpu *vcpu, uint64_t host_ns)
{
    soft_share_leave(vcpu);
    if (!soft_turns_poll(vcpu, host_ns)) {
        const uint64_t begin = counter_ns();

        futex_sleep(vcpu, host_ns);
        soft_turns_slept(vcpu, counter_ns() - begin, host_ns);
    }
    soft_share_enter(vcpu);
}

bool soft_sleep(struct soft_vcpu *vcpu, struct exit *exit)
{
    struct x86_cpu *cpu = &vcpu->cpu;
    bool forever = !(cpu->rflags & FLAG_IF) && !cpu->wait_for_sipi;

    if (vclock_is_manual(vcpu->vm->clock) || (forever && !vcpu->halt_told)) { /* asleep, that clock would stand still */
        vcpu->halt_told = true;
        cpu->counters.exits_halt++;
        exit->reason = EXIT_HALT;
        return true;
    }
    if (!vcpu->halt_told)
        cpu->counters.exits_halt++;
    vcpu->halt_told = true;
    wait_for_event(vcpu, vclock_host_ns_until(vcpu->vm->clock, x86_lapic_next_ns(cpu)));
    if (soft_attend(vcpu, exit))
        return true;
    if (!cpu->halted)
        vcpu->halt_told = false;
    return false;
}

bool soft_ready(struct soft_vcpu *vcpu)
{
    return x86_interruptible(&vcpu->cpu) && vcpu->extint < 0 && !vcpu->io_pending;
}

void soft_request_irq_window(struct soft_vcpu *vcpu)
{
    vcpu->window = true;
    vcpu->wanted = FLAG_IF;
}

void soft_inject(struct soft_vcpu *vcpu, uint8_t vector)
{
    vcpu->extint = vector;
    vcpu->wanted = FLAG_IF;
}

void soft_get_state(struct soft_vcpu *vcpu, struct x86_cpu *state)
{
    memcpy(state, &vcpu->cpu, offsetof(struct x86_cpu, events));
}

void soft_set_state(struct soft_vcpu *vcpu, const struct x86_cpu *state)
{
    memcpy(&vcpu->cpu, state, offsetof(struct x86_cpu, mode));
    x86_fpu_normalise(&vcpu->cpu.fpu);
    vcpu->io_pending = false;
    vcpu->restart = false;
    vcpu->halt_told = false;
    soft_share_reached_device(vcpu);
    soft_share_lock_devices(vcpu, false);
    x86_io_forget(&vcpu->cpu);
    x86_tlb_flush(&vcpu->cpu);
    x86_update_mode(&vcpu->cpu);
    x86_post_event(&vcpu->cpu, X86_EV_APIC);
}

void soft_protect(struct soft_vcpu *vcpu, gpa_t gpa)
{
    x86_tlb_protect_gpa(&vcpu->cpu, gpa);
    if (vcpu->vm->hooks->protect)
        vcpu->vm->hooks->protect(vcpu, gpa);
}

/* The shadow is told by having it made anew. */
void soft_protect_all(struct soft_vcpu *vcpu)
{
    x86_tlb_protect_all(&vcpu->cpu);
    vcpu->tlb.shadow.gone = true;
}

/* --- what the semantics ask: struct x86_bus_ops ---------------------------------- */

static uint8_t *bus_page(struct x86_cpu *cpu, gpa_t gpa, unsigned *flags)
{
    struct soft_vcpu *vcpu = soft_of(cpu);
    const struct mem_slot *slot = mem_find(vcpu->vm->mem, gpa);

    *flags = 0;
    if (!slot)
        return NULL;
    mem_touch(vcpu->vm->mem, gpa, 1);
    if (slot->readonly)
        *flags |= X86_PAGE_READONLY;
    if (vcpu->vm->share.on)
        *flags |= X86_PAGE_SHARED | (soft_share_held(vcpu->vm, gpa) ? X86_PAGE_WATCHED : 0);
    else if (code_watched(vcpu, gpa & PAGE_MASK))
        *flags |= X86_PAGE_WATCHED;
    return slot->host + ((gpa & PAGE_MASK) - slot->gpa);
}

static void bus_written(struct x86_cpu *cpu, gpa_t gpa, unsigned len)
{
    struct soft_vcpu *vcpu = soft_of(cpu);

    code_written(vcpu, gpa, len);
    if (vcpu->vm->share.on)
        soft_share_written(vcpu, gpa, len);
}

static bool bus_claim(struct x86_cpu *cpu, gpa_t page)
{
    return soft_share_claim(soft_of(cpu), page);
}

static void bus_exclusive(struct x86_cpu *cpu, bool begin)
{
    soft_share_exclusive(soft_of(cpu), begin);
}

static enum x86_rc bus_lock_devices(struct x86_cpu *cpu, bool begin)
{
    return soft_share_lock_devices(soft_of(cpu), begin);
}

/* The xAPIC page: 32-bit registers at 16-byte steps; other sizes are undefined (SDM vol. 3, 11.4.1). */
static bool apic_access(struct x86_cpu *cpu, gpa_t gpa, uint64_t *data, unsigned size, bool write)
{
    const uint64_t base = cpu->lapic.base_msr, enabled = 1u << 11, x2apic = 1u << 10;

    if ((base & (enabled | x2apic)) != enabled || (gpa & PAGE_MASK) != (base & PAGE_MASK & ((1ull << 52) - 1)))
        return false;
    if (write) {
        cpu->code_changed = true; /* leave the block: what it may now let through is taken at once */
        if (size == 4)
            x86_lapic_write(cpu, gpa & 0xfff, (uint32_t)*data);
    } else {
        *data = x86_lapic_read(cpu, gpa & 0xffc) >> 8 * (gpa & 3);
    }
    return true;
}

static enum x86_rc bus_mmio(struct x86_cpu *cpu, gpa_t gpa, uint64_t *data, unsigned size, bool write)
{
    if (apic_access(cpu, gpa, data, size, write))
        return X86_NEXT;
    return x86_io(cpu, X86_IO_MMIO, gpa, data, size, write);
}

static enum x86_rc bus_port(struct x86_cpu *cpu, uint16_t port, uint32_t *data, unsigned size, bool write)
{
    uint64_t wide = *data;
    enum x86_rc rc = x86_io(cpu, X86_IO_PORT, port, &wide, size, write);

    *data = (uint32_t)wide;
    return rc;
}

static uint64_t bus_tsc(struct x86_cpu *cpu)
{
    return vclock_tsc(soft_of(cpu)->vm->clock);
}

static uint64_t bus_tsc_hz(struct x86_cpu *cpu)
{
    return vclock_tsc_hz(soft_of(cpu)->vm->clock);
}

static uint64_t bus_ns(struct x86_cpu *cpu)
{
    return vclock_ns(soft_of(cpu)->vm->clock);
}

static uint64_t bus_wall_ns(struct x86_cpu *cpu)
{
    return (uint64_t)vclock_wall_ns(soft_of(cpu)->vm->clock);
}

static void bus_send_ipi(struct x86_cpu *cpu, const struct x86_apic_message *message)
{
    soft_signal(soft_of(cpu)->vm, message);
}

static void bus_eoi(struct x86_cpu *cpu, uint8_t vector)
{
    struct soft_vcpu *vcpu = soft_of(cpu);

    vcpu->eois[vector / 32] |= 1u << vector % 32;
    atomic_store(&vcpu->eoi_any, 1);
    x86_post_event(cpu, X86_EV_APIC);
}

static void bus_unhalt(struct x86_cpu *cpu, uint32_t apic_id)
{
    struct soft_vm *vm = soft_of(cpu)->vm;
    struct soft_vcpu *other = apic_id < vm->cpus ? vm->vcpu[apic_id] : NULL;

    if (!other)
        return;
    x86_post_event(&other->cpu, X86_EV_UNHALT);
    soft_wake(other);
}

static unsigned bus_cpu_count(struct x86_cpu *cpu)
{
    return soft_of(cpu)->vm->cpus;
}

static const struct x86_bus_ops bus_ops = {
    .page = bus_page,
    .written = bus_written,
    .claim = bus_claim,
    .exclusive = bus_exclusive,
    .lock_devices = bus_lock_devices,
    .mmio = bus_mmio,
    .port = bus_port,
    .tsc = bus_tsc,
    .tsc_hz = bus_tsc_hz,
    .ns = bus_ns,
    .wall_ns = bus_wall_ns,
    .send_ipi = bus_send_ipi,
    .eoi = bus_eoi,
    .cpu_count = bus_cpu_count,
    .unhalt = bus_unhalt,
    .pause = soft_turns_pause,
};

/* --- life ---------------------------------------------------------------------------- */

/* What is written in the page of the last range is one with it, and what lies between them: pages are often written as
 * a whole, and only where there is code do we hear of it. */
static bool join_last(struct soft_writes *writes, gpa_t gpa, uint64_t len)
{
    const unsigned n = writes->count;
    gpa_t first, end;

    if (!n || n > SOFT_WRITES)
        return false;
    first = writes->range[n - 1].gpa;
    end = first + writes->range[n - 1].len;
    if (gpa != end && (gpa ^ first) & PAGE_MASK)
        return false;
    writes->range[n - 1].gpa = MIN(first, gpa);
    writes->range[n - 1].len = MAX(end, gpa + len) - MIN(first, gpa);
    return true;
}

static void queue_write(struct soft_writes *writes, gpa_t gpa, uint64_t len)
{
    const unsigned n = writes->count;

    if (join_last(writes, gpa, len))
        return;
    if (n < SOFT_WRITES) {
        writes->range[n].gpa = gpa;
        writes->range[n].len = len;
    }
    writes->count = MIN(n + 1, SOFT_WRITES + 1);
}

/* A vCPU that sleeps while others write is woken before its queue is full. */
void soft_tell_write(struct soft_vcpu *vcpu, gpa_t gpa, uint64_t len)
{
    struct soft_writes *writes = &vcpu->writes;
    bool much;

    if (!code_may_be_in(vcpu, gpa, len))
        return;
    lock_take(&writes->lock);
    queue_write(writes, gpa, len);
    much = writes->count >= SOFT_WRITES / 2;
    lock_drop(&writes->lock);
    x86_post_event(&vcpu->cpu, X86_EV_MEMORY);
    if (much)
        soft_wake(vcpu);
}

/* Any thread. Most of what devices write holds no code and costs a look. The event is there before the writer tells the
 * guest that the data is, so that the guest cannot run stale code. */
static void mem_changed(void *opaque, gpa_t gpa, uint64_t len)
{
    struct soft_vm *vm = opaque;

    atomic_thread_fence(memory_order_seq_cst); /* the data first, then who has code there */
    for (unsigned i = 0; i < vm->cpus; i++)
        if (vm->vcpu[i])
            soft_tell_write(vm->vcpu[i], gpa, len);
}

int soft_vm_init(struct soft_vm *vm, const struct engine_config *config, const struct soft_hooks *hooks)
{
    if (config->cpus < 1 || config->cpus > SOFT_MAX_CPUS)
        return -EINVAL;
    vm->mem = config->mem;
    vm->clock = config->clock;
    vm->cpus = config->cpus;
    vm->crowded = soft_turns_crowded(vm->cpus);
    vm->shadow_soon = config->shadow_soon;
    vm->code_cache = config->code_cache ? config->code_cache : ENGINE_CODE_CACHE;
    vm->hooks = hooks;
    if (soft_share_init(vm))
        return -ENOMEM;
    if (vm->cpus > 1)
        vm->texts = text_table_new();
    if (vm->cpus > 1 && !vm->texts) {
        soft_share_fini(vm);
        return -ENOMEM;
    }
    mem_set_listener(vm->mem, mem_changed, vm);
    return 0;
}

void soft_vm_fini(struct soft_vm *vm)
{
    mem_set_listener(vm->mem, NULL, NULL);
    soft_share_fini(vm);
    text_table_free(vm->texts);
}

void soft_vcpu_init(struct soft_vcpu *vcpu, struct soft_vm *vm, unsigned id)
{
    uint64_t random[2] = {0};

    vcpu->vm = vm;
    vcpu->extint = -1;
    vcpu->cpu.bus = &bus_ops;
    vcpu->cpu.engine = vcpu;
    vcpu->cpu.id = id;
    lock_init(&vcpu->writes.lock, LOCK_ENGINE);
    soft_share_vcpu_init(vcpu);
    x86_cpu_reset(&vcpu->cpu);
    getentropy(vcpu->cpu.random.key, sizeof(vcpu->cpu.random.key));
    vcpu->cpu.tlb = &vcpu->tlb;
    x86_tlb_init(&vcpu->cpu);
    getentropy(random, sizeof(random));
    x86_tlb_seed(&vcpu->tlb, random[0], random[1]);
    x86_update_mode(&vcpu->cpu);
    vcpu->cpu.wait_for_sipi = id != 0;
    vm->vcpu[id] = vcpu;
}

void soft_vcpu_fini(struct soft_vcpu *vcpu)
{
    vcpu->vm->vcpu[vcpu->cpu.id] = NULL;
    code_free(vcpu);
    lock_destroy(&vcpu->writes.lock);
    soft_share_vcpu_fini(vcpu);
}
