/*
 * engine/kvm/kvm.c: the hardware engine behind the contract of engine/engine.h:
 * KVM with the split interrupt controllers (the local APICs are KVM's, IOAPIC
 * and PIC are ours), on the memory of mem/mem.h.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "engine/kvm/kvm_internal.h"

/* Three pages that VT-x without "unrestricted guest" needs, and one for its identity map: between the APICs and the
 * end of 4 GiB, where no RAM is. */
#define TSS_ADDRESS          0xfffbd000ul
#define IDENTITY_MAP_ADDRESS 0xfffbc000ull

#define QUIRKS_UNWANTED                                                                                                \
    (KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE | KVM_X86_QUIRK_OUT_7E_INC_RIP |                    \
     KVM_X86_QUIRK_FIX_HYPERCALL_INSN)

static int probe(struct error *err)
{
    int fd = kvm_host_open(err), vm;

    if (fd < 0)
        return fd;
    vm = kvm_ioctl(fd, KVM_CREATE_VM, NULL);
    close(fd);
    if (vm < 0)
        return error_set(err, vm, "KVM cannot make a virtual machine: %s%s", strerror(-vm),
                         vm == -EBUSY ? " (another hypervisor has the processor)" : "");
    close(vm);
    return 0;
}

/* --- the VM ------------------------------------------------------------------------------- */

static void on_kick(int number)
{
}

static int enable(int fd, uint32_t capability, uint64_t argument)
{
    const struct kvm_enable_cap cap = {.cap = capability, .args = {argument}};

    return kvm_ioctl(fd, KVM_ENABLE_CAP, &cap);
}

/* What an older KVM lacks of these it does without. */
static void set_options(struct engine_vm *vm)
{
    const struct kvm_host *host = kvm_host();
    struct kvm_clock_data clock = {.clock = vclock_ns(vm->clock)};

    if (host->quirks)
        enable(vm->fd, KVM_CAP_DISABLE_QUIRKS2, host->quirks & QUIRKS_UNWANTED);
    if (host->emulation_exit)
        enable(vm->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
    kvm_ioctl(vm->fd, KVM_SET_CLOCK, &clock); /* the paravirtual clock's nanoseconds are the VM clock's */
}

static int set_up(struct engine_vm *vm, struct error *err)
{
    const uint64_t identity = IDENTITY_MAP_ADDRESS;
    int rc = kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);

    if (rc >= 0)
        rc = kvm_ioctl(vm->fd, KVM_SET_TSS_ADDR, (void *)TSS_ADDRESS);
    if (rc >= 0)
        rc = enable(vm->fd, KVM_CAP_SPLIT_IRQCHIP, KVM_LEVEL_ROUTES);
    if (rc < 0)
        return error_set(err, rc, "KVM does not set up the virtual machine: %s", strerror(-rc));
    set_options(vm);
    return kvm_memory_add(vm, err);
}

static void vm_destroy(struct engine_vm *vm)
{
    kvm_memory_free(vm);
    kvm_routes_free(vm);
    close(vm->fd);
    lock_destroy(&vm->lock);
    free(vm);
}

static int vm_create(struct engine_vm **result, const struct engine_config *config, struct error *err)
{
    const struct sigaction kick = {.sa_handler = on_kick, .sa_flags = SA_RESTART};
    struct engine_vm *vm;
    int fd = kvm_host_open(err), rc;

    if (fd < 0)
        return fd;
    if (config->cpus < 1 || config->cpus > kvm_host()->max_cpus) {
        close(fd);
        return error_set(err, -EINVAL, "kvm: %u processors; 1 to %u can be had", config->cpus, kvm_host()->max_cpus);
    }
    vm = calloc(1, sizeof(*vm));
    rc = vm ? kvm_ioctl(fd, KVM_CREATE_VM, NULL) : -ENOMEM;
    close(fd);
    if (rc < 0) {
        free(vm);
        return error_set(err, rc, "KVM cannot make a virtual machine: %s", strerror(-rc));
    }
    vm->fd = rc;
    vm->mem = config->mem;
    vm->clock = config->clock;
    vm->cpus = config->cpus;
    vm->tsc_offset = vclock_tsc(vm->clock) - __rdtsc();
    lock_init(&vm->lock, LOCK_ENGINE);
    sigaction(KVM_KICK_SIGNAL, &kick, NULL);
    rc = set_up(vm, err);
    if (rc < 0)
        vm_destroy(vm);
    else
        *result = vm;
    return rc;
}

/* --- vCPUs ------------------------------------------------------------------------------------ */

static void vcpu_destroy(struct engine_vcpu *vcpu)
{
    vcpu->vm->vcpu[vcpu->cpu.id] = NULL;
    kvm_emulate_free(vcpu);
    if (vcpu->run)
        munmap(vcpu->run, kvm_host()->run_size);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    free(vcpu);
}

static int vcpu_open(struct engine_vcpu *vcpu)
{
    void *run;

    vcpu->fd = kvm_ioctl(vcpu->vm->fd, KVM_CREATE_VCPU, (void *)(long)vcpu->cpu.id);
    if (vcpu->fd < 0)
        return vcpu->fd;
    run = mmap(NULL, kvm_host()->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return -errno;
    vcpu->run = run;
    return kvm_cpuid_set(vcpu);
}

static int vcpu_create(struct engine_vcpu **result, struct engine_vm *vm, unsigned id, struct error *err)
{
    struct engine_vcpu *vcpu;
    int rc;

    if (id >= vm->cpus)
        return error_set(err, -EINVAL, "kvm: processor %u of %u", id, vm->cpus);
    vcpu = aligned_alloc(64, ALIGN_UP(sizeof(*vcpu), 64));
    if (!vcpu)
        return error_set(err, -ENOMEM, "kvm: no memory for processor %u", id);
    memset(vcpu, 0, sizeof(*vcpu));
    vcpu->vm = vm;
    vcpu->fd = -1;
    vcpu->extint = -1;
    vcpu->cpu.id = id;
    vm->vcpu[id] = vcpu;
    kvm_emulate_init(vcpu);
    x86_cpu_reset(&vcpu->cpu);
    getrandom(vcpu->cpu.random.key, sizeof(vcpu->cpu.random.key), 0);
    rc = vcpu_open(vcpu);
    if (rc >= 0)
        rc = kvm_state_set(vcpu, &vcpu->cpu, KVM_PART_ALL);
    if (rc < 0) {
        error_set(err, rc, "KVM cannot make processor %u: %s%s%s", id, strerror(-rc), vcpu->broken[0] ? ": " : "",
                  vcpu->broken);
        vcpu_destroy(vcpu);
        return rc;
    }
    *result = vcpu;
    return 0;
}

/* Makes a KVM_RUN, present or next, return; see run.c. */
static void interrupt(struct engine_vcpu *vcpu)
{
    int tid;

    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    tid = atomic_load(&vcpu->tid);
    if (tid)
        syscall(SYS_tgkill, getpid(), tid, KVM_KICK_SIGNAL);
}

static void kick(struct engine_vcpu *vcpu)
{
    atomic_store(&vcpu->kicked, true);
    interrupt(vcpu);
}

static void nmi(struct engine_vcpu *vcpu)
{
    atomic_store(&vcpu->nmi, true);
    interrupt(vcpu);
}

static bool ready(struct engine_vcpu *vcpu)
{
    return vcpu->run->ready_for_interrupt_injection && vcpu->extint < 0 && !vcpu->access.data && !vcpu->access.emulated;
}

static void request_irq_window(struct engine_vcpu *vcpu)
{
    vcpu->run->request_interrupt_window = 1;
}

static void inject(struct engine_vcpu *vcpu, uint8_t vector)
{
    vcpu->extint = vector;
}

static void get_state(struct engine_vcpu *vcpu, struct x86_cpu *state)
{
    memcpy(state, &vcpu->cpu, offsetof(struct x86_cpu, events)); /* what KVM does not know: the random generator */
    kvm_state_get(vcpu, state, KVM_PART_ALL);
}

/* Who sets the state may have set the page tables too. A change of CR4.PGE makes KVM forget all translations; then the
 * right one is set. */
static void forget_translations(struct engine_vcpu *vcpu)
{
    struct kvm_sregs s = {0};

    if (kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &s) < 0)
        return;
    s.cr4 ^= CR4_PGE;
    kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &s);
}

static void set_state(struct engine_vcpu *vcpu, const struct x86_cpu *state)
{
    kvm_finish_access(vcpu);
    forget_translations(vcpu);
    memcpy(&vcpu->cpu, state, offsetof(struct x86_cpu, mode));
    kvm_state_set(vcpu, state, KVM_PART_ALL);
}

static const struct counters *counters(struct engine_vcpu *vcpu)
{
    return &vcpu->cpu.counters;
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .summary = "the processor's own virtualization, through Linux's KVM",
    .hardware = true,
    .probe = probe,
    .vm_create = vm_create,
    .vm_destroy = vm_destroy,
    .signal = kvm_signal,
    .signal_again = kvm_signal_again,
    .doorbell = kvm_doorbell,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .run = kvm_run,
    .kick = kick,
    .ready = ready,
    .request_irq_window = request_irq_window,
    .inject = inject,
    .nmi = nmi,
    .get_state = get_state,
    .set_state = set_state,
    .counters = counters,
    .dirty_log = kvm_dirty_log,
    .dirty_fetch = kvm_dirty_fetch,
};
