/*
 * engine/kvm/kvm_internal.h: a VM and a vCPU of the kvm engine, and what its
 * files do for each other. Nothing outside this folder includes it.
 */
#ifndef ENGINE_KVM_KVM_INTERNAL_H
#define ENGINE_KVM_KVM_INTERNAL_H

#include <linux/kvm.h>

#include "base/lock.h"
#include "engine/engine.h"
#include "x86/tlb.h"

#define KVM_MAX_CPUS     64
#define KVM_KICK_SIGNAL  (SIGRTMIN + 3)
#define KVM_FIRST_VECTOR 16 /* lower ones are no interrupts */
#define KVM_LEVEL_ROUTES (256 - KVM_FIRST_VECTOR)
#define KVM_MSI_ROUTES   256
#define KVM_XSAVE_SIZE   4096

/* What /dev/kvm can do, found out once (host.c). */
struct kvm_host {
    unsigned max_cpus;
    size_t run_size;          /* bytes of struct kvm_run's mapping */
    bool sregs2;              /* PDPTEs are part of the state */
    bool xcrs;                /* XCR0 is part of the state: the processor has XSAVE */
    bool emulation_exit;      /* user code that it cannot emulate comes to us too */
    uint64_t quirks;          /* those that can be switched off */
    struct kvm_cpuid2 *cpuid; /* what a guest may be shown */
    bool tsc_deadline;
    bool irqfd, ioeventfd;
};

/* A source of messages that has a descriptor of its own: writing to it sends the message. */
struct kvm_route {
    struct kvm_msi msi;
    int fd;
};

struct engine_vm {
    int fd;
    struct mem *mem;
    struct vclock *clock;
    unsigned cpus;
    struct engine_vcpu *vcpu[KVM_MAX_CPUS];
    uint64_t tsc_offset;      /* clock's TSC - host's */
    _Atomic uint64_t **dirty; /* with the dirty log on: pages written by emulate.c, a bitmap a slot */
    struct lock lock;         /* routes: see routes.c */
    bool level[KVM_LEVEL_ROUTES];
    struct kvm_route route[KVM_MSI_ROUTES];
    unsigned routes;
};

struct engine_vcpu {
    struct x86_cpu cpu;     /* CPUID's caller, and the processor that instructions are emulated on: see emulate.c */
    struct x86_cpu *before; /* as KVM has it, while an instruction is emulated; NULL until the first one */
    struct x86_tlb *tlb;
    struct engine_vm *vm;
    int fd;
    struct kvm_run *run;

    _Atomic int tid;     /* of the thread that runs it; 0: none yet */
    _Atomic bool kicked; /* run() is to return */
    _Atomic bool nmi;    /* to be delivered by the next KVM_RUN */
    bool stepping;       /* KVM has been told to */
    int extint;          /* the 8259's vector, to be delivered by the next KVM_RUN; -1: none */

    /* The exit's access is answered in pieces: a REP string's elements, an odd length's parts. */
    struct {
        uint8_t *data;               /* in struct kvm_run; NULL: there is none */
        unsigned length, done, size; /* bytes: of all, before the present piece, of it */
        bool open;                   /* KVM is in the middle of an instruction */
        bool emulated;               /* cpu.io is meant instead */
    } access;
    char broken[160]; /* KVM refused something it must do: why */
};

/* An ioctl: its result, or -errno. */
int kvm_ioctl(int fd, unsigned long request, const void *argument);

/* host.c */
int kvm_host_open(struct error *err);  /* a descriptor of /dev/kvm that has all we need */
const struct kvm_host *kvm_host(void); /* after kvm_host_open */

/* memory.c: see engine.h for the dirty log */
int kvm_memory_add(struct engine_vm *vm, struct error *err);
void kvm_memory_free(struct engine_vm *vm);
void kvm_memory_written(struct engine_vm *vm, gpa_t gpa);
int kvm_dirty_log(struct engine_vm *vm, bool on);
int kvm_dirty_fetch(struct engine_vm *vm, unsigned slot, uint64_t *bitmap);

/* routes.c: see engine.h */
void kvm_signal(struct engine_vm *vm, const struct x86_apic_message *message);
void kvm_signal_again(struct engine_vm *vm, unsigned *route, const struct x86_apic_message *message);
int kvm_doorbell(struct engine_vm *vm, gpa_t gpa, int fd, bool on);
void kvm_routes_free(struct engine_vm *vm);

/* cpuid.c: gives the vCPU the CPUID of x86/cpuid.h, less what KVM does not know. */
int kvm_cpuid_set(struct engine_vcpu *vcpu);

/* state.c; the vCPU's thread, or nobody's. 0, or -errno and vcpu->broken is set. */
enum kvm_part {
    KVM_PART_REGS = 1, /* general, segment, control registers */
    KVM_PART_FPU = 2,
    KVM_PART_DEBUG = 4,
    KVM_PART_MSRS = 8,
    KVM_PART_EVENTS = 16, /* shadows, NMIs, halt */
    KVM_PART_APIC = 32,
    KVM_PART_ALL = 63,
    KVM_PART_KEEP_NMI = 64, /* set: whether an NMI is pending stays as it is: one may have come meanwhile */
};
int kvm_state_get(struct engine_vcpu *vcpu, struct x86_cpu *cpu, unsigned parts);
int kvm_state_set(struct engine_vcpu *vcpu, const struct x86_cpu *cpu, unsigned parts);

/* apic.c: the local APIC's page as KVM has it, and back. */
void kvm_apic_unpack(struct engine_vcpu *vcpu, struct x86_lapic *lapic, const struct kvm_lapic_state *page);
void kvm_apic_pack(struct engine_vcpu *vcpu, const struct x86_lapic *lapic, struct kvm_lapic_state *page);

/* run.c */
void kvm_run(struct engine_vcpu *vcpu, struct exit *exit, uint64_t budget);
void kvm_finish_access(struct engine_vcpu *vcpu);
void kvm_break(struct engine_vcpu *vcpu, const char *what, int rc);

/* emulate.c: the instruction at CS:RIP, which KVM handed back. true: there is an exit; false: on with KVM. */
bool kvm_emulate(struct engine_vcpu *vcpu, struct exit *exit);
void kvm_emulate_init(struct engine_vcpu *vcpu);
void kvm_emulate_free(struct engine_vcpu *vcpu);

#endif
