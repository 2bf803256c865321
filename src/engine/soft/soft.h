/*
 * engine/soft/soft.h: what the software engines share: a vCPU whose local APIC,
 * sleep, events and memory are ours. An engine adds how instructions are run.
 *
 * Thread: the vCPU's own, but for soft_signal, soft_tell_write, soft_wake, soft_kick and soft_nmi.
 */
#ifndef ENGINE_SOFT_SOFT_H
#define ENGINE_SOFT_SOFT_H

#include "base/lock.h"
#include "engine/engine.h"
#include "engine/soft/code.h"
#include "engine/soft/share.h"
#include "x86/bus.h"
#include "x86/tlb.h"

#define SOFT_MAX_CPUS 64

struct soft_vcpu;
struct soft_timer;

/* What an engine that keeps something of its own for code is told; each may be NULL. */
struct soft_hooks {
    void (*dropped)(struct soft_vcpu *vcpu, struct block *block); /* the block will be freed at the next sweep */
    void (*flushed)(struct soft_vcpu *vcpu);                      /* all blocks are */
    void (*protect)(struct soft_vcpu *vcpu, gpa_t gpa); /* the page must not be written any more without asking */
};

/* What was written to RAM from outside the vCPU (DMA, other vCPUs), told by any thread, taken by the vCPU's own between
 * blocks. */
#define SOFT_WRITES 64
struct soft_writes {
    struct lock lock;
    unsigned count; /* SOFT_WRITES + 1: too many to be kept, all decoded code is to go */
    struct {
        gpa_t gpa;
        uint64_t len;
    } range[SOFT_WRITES];
};

struct soft_vm {
    struct mem *mem;
    struct vclock *clock;
    const struct soft_hooks *hooks;
    struct soft_share share;
    struct text_table *texts; /* of several vCPUs; NULL: of one */
    struct soft_timer *timer; /* or NULL: the engine looks at the clock often enough by itself */
    unsigned cpus;
    _Atomic uint64_t stopped_ns; /* when a vCPU found that we had been stopped: the host's monotonic clock */
    bool crowded;                /* more vCPUs than the host has processors: those that wait give way */
    bool shadow_soon;            /* engine_config's */
    size_t code_cache;           /* bytes of translated code a vCPU keeps */
    struct soft_vcpu *vcpu[SOFT_MAX_CPUS];
};

#define SOFT_NEAR 128 /* bytes */

struct soft_vcpu {
    struct soft_place {
        void *begin, *fence; /* what malloc() gave; where the part begins that nobody may touch */
        size_t fenced;       /* bytes */
    } place;
    uint64_t reserved; /* so that the registers begin 32 bytes behind a multiple of 64: bt's ORIGIN wants that */
    /* The engine's own: right before the registers, so that translated code reaches both by one-byte displacements. */
    uint8_t near[SOFT_NEAR];
    struct x86_cpu cpu;
    struct x86_tlb tlb;
    struct soft_vm *vm;

    _Atomic uint32_t wake;     /* futex: counts wake-ups */
    _Atomic uint32_t sleeping; /* in futex wait, or about to be */
    uint32_t wanted;           /* FLAG_IF if an interrupt waits for IF, else 0: tested against RFLAGS */
    int extint;                /* vector injected by the 8259, or -1 */
    bool window;               /* EXIT_IRQ_WINDOW is wanted */
    bool halt_told;            /* EXIT_HALT was returned for the present halt */
    bool io_pending;           /* the caller has cpu.io's answer in the exit */
    uint32_t eois[8];          /* level-triggered vectors acknowledged, to be returned as EXIT_EOI */
    _Atomic uint32_t eoi_any;

    struct soft_writes writes;
    struct soft_requests requests;
    struct code_cache code;
    struct {
        unsigned pauses;                /* in a row: PAUSE after PAUSE, with little between them */
        uint64_t last;                  /* TSC of the last one */
        bool unhalted;                  /* a kick (X86_EV_UNHALT) that no HLT has used up */
        uint64_t begin_ns;              /* of the thread's first run; 0: none */
        uint64_t asleep_ns;             /* since then */
        uint64_t told_ns;               /* when stolen time was told last */
        uint32_t poll_ns;               /* how long a halted processor looks for events before it sleeps */
        uint64_t seen_ns, seen_used_ns; /* when it was last looked whether we had been stopped; processor time then */
        uint64_t rested_ns;             /* since then: of sleep that was wanted */
        uint64_t stopped_ns;            /* the stop that the guest was last told of on this processor */
    } turns;
    unsigned clock_countdown; /* blocks until the clock is looked at again */
    bool restart;             /* the next instruction has I/O answers in its log */
};

/* -EINVAL: that number of processors; -ENOMEM. */
int soft_vm_init(struct soft_vm *vm, const struct engine_config *config, const struct soft_hooks *hooks);
void soft_vm_fini(struct soft_vm *vm);
void soft_vcpu_init(struct soft_vcpu *vcpu, struct soft_vm *vm, unsigned id);
void soft_vcpu_fini(struct soft_vcpu *vcpu);

/* Bytes of RAM were written, perhaps where the vCPU has code. Any thread. */
void soft_tell_write(struct soft_vcpu *vcpu, gpa_t gpa, uint64_t len);
void soft_signal(struct soft_vm *vm, const struct x86_apic_message *message);
void soft_wake(struct soft_vcpu *vcpu); /* after an event was posted. Any thread */
void soft_kick(struct soft_vcpu *vcpu);
void soft_nmi(struct soft_vcpu *vcpu);
bool soft_ready(struct soft_vcpu *vcpu);
void soft_request_irq_window(struct soft_vcpu *vcpu);
void soft_inject(struct soft_vcpu *vcpu, uint8_t vector);
void soft_get_state(struct soft_vcpu *vcpu, struct x86_cpu *state);
void soft_set_state(struct soft_vcpu *vcpu, const struct x86_cpu *state);

/* No write to the page, or to any, goes unnoticed from now on. */
void soft_protect(struct soft_vcpu *vcpu, gpa_t gpa);
void soft_protect_all(struct soft_vcpu *vcpu);

/* At the start of run(): takes the answer to the last exit's access. */
void soft_resume(struct soft_vcpu *vcpu, const struct exit *exit);
/* A semantic returned X86_EXIT: makes the exit from cpu.io. */
void soft_io_exit(struct soft_vcpu *vcpu, struct exit *exit);
/* At the end of run(), after soft_share_leave(): others may have locked the devices. */
void soft_io_leave(struct soft_vcpu *vcpu, struct exit *exit);
/* Between blocks, when soft_attention() says so: timers, INIT, NMI, interrupts, kicks. true: leave with *exit. */
bool soft_attend(struct soft_vcpu *vcpu, struct exit *exit);
/* The vCPU is halted (or waits for a SIPI): sleeps until something happens. true: leave with *exit. */
bool soft_sleep(struct soft_vcpu *vcpu, struct exit *exit);

/* Whose semantics are executed. */
static inline struct soft_vcpu *soft_of(struct x86_cpu *cpu)
{
    return (struct soft_vcpu *)((char *)cpu - offsetof(struct soft_vcpu, cpu));
}

static inline bool soft_attention(const struct soft_vcpu *vcpu)
{
    return (atomic_load_explicit(&vcpu->cpu.events, memory_order_relaxed) & ~X86_EV_TRAP) |
           (vcpu->wanted & vcpu->cpu.rflags);
}

#endif
