/*
 * engine/kvm/emulate.c: an instruction that KVM handed back (its own emulator
 * does not know it, or code is where it cannot be fetched from), by the
 * semantics of x86/exec on a copy of the processor: the copy is taken, one
 * instruction done, and what it changed is given back.
 *
 * The local APIC stays KVM's. Thread: the vCPU's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm_internal.h"
#include "x86/access.h"
#include "x86/bus.h"
#include "x86/insn.h"
#include "x86/intr.h"
#include "x86/io.h"
#include "x86/zydis.h"

#define PARTS (KVM_PART_REGS | KVM_PART_FPU | KVM_PART_DEBUG | KVM_PART_MSRS | KVM_PART_EVENTS)

/* --- what the semantics ask: struct x86_bus_ops -------------------------------------------- */

static struct engine_vcpu *vcpu_of(struct x86_cpu *cpu)
{
    return container_of(cpu, struct engine_vcpu, cpu);
}

static uint8_t *bus_page(struct x86_cpu *cpu, gpa_t gpa, unsigned *flags)
{
    const struct mem_slot *slot = mem_find(vcpu_of(cpu)->vm->mem, gpa);

    *flags = 0;
    if (!slot)
        return NULL;
    if (slot->readonly)
        *flags |= X86_PAGE_READONLY;
    if (vcpu_of(cpu)->vm->dirty)
        *flags |= X86_PAGE_WATCHED;
    return slot->host + ((gpa & PAGE_MASK) - slot->gpa);
}

static void bus_written(struct x86_cpu *cpu, gpa_t gpa, unsigned len)
{
    kvm_memory_written(vcpu_of(cpu)->vm, gpa);
}

/* KVM's APIC can be looked at from outside, but writes with all that follows from them are its own only. */
static void apic_access(struct engine_vcpu *vcpu, gpa_t gpa, uint64_t *data, bool write)
{
    struct kvm_lapic_state page = {{0}};
    uint32_t value;

    if (write) {
        kvm_break(vcpu, "let an instruction that it does not emulate write to the local APIC", -EOPNOTSUPP);
        return;
    }
    kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &page);
    memcpy(&value, page.regs + (gpa & 0x3fc), sizeof(value));
    *data = value >> 8 * (gpa & 3);
}

static enum x86_rc bus_mmio(struct x86_cpu *cpu, gpa_t gpa, uint64_t *data, unsigned size, bool write)
{
    if (!x86_lapic_at(&cpu->lapic, gpa))
        return x86_io(cpu, X86_IO_MMIO, gpa, data, size, write);
    apic_access(vcpu_of(cpu), gpa, data, write);
    return X86_NEXT;
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
    return vclock_tsc(vcpu_of(cpu)->vm->clock);
}

static uint64_t bus_tsc_hz(struct x86_cpu *cpu)
{
    return vclock_tsc_hz(vcpu_of(cpu)->vm->clock);
}

static uint64_t bus_ns(struct x86_cpu *cpu)
{
    return vclock_ns(vcpu_of(cpu)->vm->clock);
}

static uint64_t bus_wall_ns(struct x86_cpu *cpu)
{
    return (uint64_t)vclock_wall_ns(vcpu_of(cpu)->vm->clock);
}

/* Nothing comes of these on the copy's APIC: its registers are never written. */
static void bus_send_ipi(struct x86_cpu *cpu, const struct x86_apic_message *message)
{
}

static void bus_eoi(struct x86_cpu *cpu, uint8_t vector)
{
}

static unsigned bus_cpu_count(struct x86_cpu *cpu)
{
    return vcpu_of(cpu)->vm->cpus;
}

static const struct x86_bus_ops bus_ops = {
    .page = bus_page,
    .written = bus_written,
    .mmio = bus_mmio,
    .port = bus_port,
    .tsc = bus_tsc,
    .tsc_hz = bus_tsc_hz,
    .ns = bus_ns,
    .wall_ns = bus_wall_ns,
    .send_ipi = bus_send_ipi,
    .eoi = bus_eoi,
    .cpu_count = bus_cpu_count,
};

void kvm_emulate_init(struct engine_vcpu *vcpu)
{
    vcpu->cpu.bus = &bus_ops;
    vcpu->cpu.engine = vcpu;
}

void kvm_emulate_free(struct engine_vcpu *vcpu)
{
    free(vcpu->before);
    free(vcpu->tlb);
}

/* --- the copy --------------------------------------------------------------------------------- */

/* Most guests never need it. */
static bool make_room(struct engine_vcpu *vcpu)
{
    if (vcpu->before)
        return true;
    vcpu->tlb = malloc(sizeof(*vcpu->tlb));
    vcpu->before = aligned_alloc(64, ALIGN_UP(sizeof(*vcpu->before), 64));
    if (!vcpu->tlb || !vcpu->before) {
        kvm_emulate_free(vcpu);
        vcpu->before = NULL;
        vcpu->tlb = NULL;
        return false;
    }
    vcpu->cpu.tlb = vcpu->tlb;
    x86_tlb_init(&vcpu->cpu);
    return true;
}

static bool take_copy(struct engine_vcpu *vcpu)
{
    struct x86_cpu *cpu = &vcpu->cpu;

    if (kvm_state_get(vcpu, cpu, PARTS) < 0)
        return false;
    cpu->shutdown = false;
    cpu->dr6_hit = 0;
    x86_io_forget(cpu);
    atomic_store(&cpu->events, 0);
    x86_update_mode(cpu);
    x86_tlb_flush(cpu);
    memcpy(vcpu->before, cpu, offsetof(struct x86_cpu, events));
    return true;
}

static void give_back(struct engine_vcpu *vcpu)
{
    const struct x86_cpu *new = &vcpu->cpu, *old = vcpu->before;
    unsigned parts = KVM_PART_REGS | KVM_PART_EVENTS | KVM_PART_KEEP_NMI;

    if (memcmp(&new->fpu, &old->fpu, sizeof(new->fpu)) || new->xcr0 != old->xcr0)
        parts |= KVM_PART_FPU;
    if (memcmp(new->dr, old->dr, sizeof(new->dr)))
        parts |= KVM_PART_DEBUG;
    if (memcmp(&new->msr, &old->msr, sizeof(new->msr)))
        parts |= KVM_PART_MSRS;
    kvm_state_set(vcpu, new, parts);
}

/* --- one instruction ------------------------------------------------------------------------------ */

/* The bytes at CS:RIP, as far as they can be fetched: 15, or fewer if the next page faults (then with X86_FAULT). */
static enum x86_rc fetch(struct x86_cpu *cpu, uint8_t bytes[15], unsigned *size)
{
    gva_t lin = (cpu->seg_base[SEG_CS] + cpu->rip) & cpu->lin_mask;
    unsigned first = (unsigned)MIN(15, PAGE_SIZE - (lin & ~PAGE_MASK));
    struct x86_tlb_entry *e;
    bool mmio = false;

    *size = 0;
    if (cpu->mode != MODE_LONG64 && cpu->rip > cpu->seg[SEG_CS].limit)
        return x86_raise_gp(cpu, 0);
    e = x86_fetch_entry(cpu, lin, &mmio);
    if (!e)
        return mmio ? X86_EXIT : X86_FAULT;
    memcpy(bytes, e->host + (lin & ~PAGE_MASK), first);
    *size = first;
    if (first == 15)
        return X86_NEXT;
    e = x86_fetch_entry(cpu, (lin + first) & cpu->lin_mask, &mmio);
    if (!e)
        return mmio ? X86_EXIT : X86_FAULT;
    memcpy(bytes + first, e->host, 15 - first);
    *size = 15;
    return X86_NEXT;
}

static enum x86_rc decode(struct x86_cpu *cpu, struct x86_insn *in)
{
    uint8_t bytes[15];
    unsigned size;
    enum x86_rc rc = fetch(cpu, bytes, &size);

    if (size && x86_decode(in, cpu->mode, bytes, size)) /* what it needs was there */
        return X86_NEXT;
    return rc;
}

static bool within_limit(const struct x86_cpu *cpu, const struct x86_insn *in)
{
    return cpu->mode == MODE_LONG64 || cpu->rip + in->length - 1 <= cpu->seg[SEG_CS].limit;
}

static bool loads_rf(const struct x86_insn *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_IRET || in->mnemonic == ZYDIS_MNEMONIC_IRETD ||
           in->mnemonic == ZYDIS_MNEMONIC_IRETQ;
}

/* Those that clear TF on their way in: no trap after them. */
static bool clears_trap(const struct x86_insn *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_INT || in->mnemonic == ZYDIS_MNEMONIC_INT1 ||
           in->mnemonic == ZYDIS_MNEMONIC_INT3 || in->mnemonic == ZYDIS_MNEMONIC_INTO ||
           in->mnemonic == ZYDIS_MNEMONIC_SYSCALL || in->mnemonic == ZYDIS_MNEMONIC_SYSRET ||
           in->mnemonic == ZYDIS_MNEMONIC_SYSENTER;
}

/* The trap after a stepped instruction: SDM vol. 3, 17.3.1.4. */
static void trap_after(struct x86_cpu *cpu, bool tf)
{
    uint64_t hit = cpu->dr6_hit | (tf ? DR6_BS : 0);

    cpu->dr6_hit = 0;
    if (!hit || cpu->int_shadow == SHADOW_MOV_SS)
        return;
    x86_raise(cpu, VEC_DB);
    cpu->exc.cr2 = hit;
    x86_deliver_exception(cpu);
}

static enum x86_rc execute(struct x86_cpu *cpu)
{
    const bool tf = cpu->rflags & FLAG_TF;
    const uint8_t shadow = cpu->int_shadow;
    struct x86_insn in;
    enum x86_rc rc;

    x86_io_restart(cpu);
    rc = decode(cpu, &in);
    if (rc != X86_NEXT)
        return rc;
    cpu->int_shadow = SHADOW_NONE;
    rc = within_limit(cpu, &in) ? in.exec(cpu, &in) : x86_raise_gp(cpu, 0);
    if (rc >= X86_FAULT) {
        cpu->int_shadow = shadow;
        return rc;
    }
    if (rc == X86_NEXT)
        cpu->rip += in.length;
    if (rc != X86_AGAIN)
        cpu->counters.emulated++;
    if (rc != X86_AGAIN && !loads_rf(&in))
        cpu->rflags &= ~(uint64_t)FLAG_RF;
    trap_after(cpu, tf && !clears_trap(&in));
    return rc;
}

static void io_exit(struct engine_vcpu *vcpu, struct exit *exit)
{
    const struct x86_io *io = &vcpu->cpu.io;

    vcpu->access.emulated = true;
    if (io->kind == X86_IO_PORT) {
        exit->reason = EXIT_PIO;
        exit->pio.port = (uint16_t)io->addr;
        exit->pio.size = io->size;
        exit->pio.write = io->write;
        exit->pio.data = (uint32_t)io->data;
        vcpu->cpu.counters.exits_pio++;
    } else {
        exit->reason = EXIT_MMIO;
        exit->mmio.gpa = io->addr;
        exit->mmio.size = io->size;
        exit->mmio.write = io->write;
        exit->mmio.data = io->data;
        vcpu->cpu.counters.exits_mmio++;
    }
}

static bool fetch_failed(const struct x86_cpu *cpu, struct exit *exit)
{
    exit->reason = EXIT_ERROR;
    snprintf(exit->error.text, sizeof(exit->error.text), "the guest executes at %#lx, where there is no memory",
             cpu->rip);
    return true;
}

static bool shut_down(const struct x86_cpu *cpu, struct exit *exit)
{
    exit->reason = EXIT_SHUTDOWN;
    memcpy(exit->shutdown.vectors, cpu->shutdown_cause.vectors, sizeof(exit->shutdown.vectors));
    exit->shutdown.rip = cpu->shutdown_cause.rip;
    exit->shutdown.cr2 = cpu->shutdown_cause.cr2;
    exit->shutdown.error = cpu->shutdown_cause.error;
    return true;
}

/* The copy has been taken, and maybe some of its I/O done. */
static bool carry_on(struct engine_vcpu *vcpu, struct exit *exit)
{
    struct x86_cpu *cpu = &vcpu->cpu;
    enum x86_rc rc;

    cpu->io.kind = X86_IO_NONE;
    rc = execute(cpu);
    if (rc == X86_EXIT && cpu->io.kind == X86_IO_NONE)
        return fetch_failed(cpu, exit);
    if (rc == X86_EXIT) {
        io_exit(vcpu, exit);
        return true;
    }
    if (rc == X86_FAULT)
        x86_deliver_exception(cpu);
    x86_io_forget(cpu);
    give_back(vcpu);
    return cpu->shutdown && shut_down(cpu, exit);
}

bool kvm_emulate(struct engine_vcpu *vcpu, struct exit *exit)
{
    if (vcpu->access.emulated) {
        vcpu->access.emulated = false;
        x86_io_complete(&vcpu->cpu, exit->reason == EXIT_PIO ? exit->pio.data : exit->mmio.data);
        return carry_on(vcpu, exit);
    }
    if (!make_room(vcpu)) {
        kvm_break(vcpu, "emulate an instruction", -ENOMEM);
        return false;
    }
    return take_copy(vcpu) && carry_on(vcpu, exit);
}
