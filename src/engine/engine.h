/*
 * engine/engine.h: the contract of every way to run a virtual processor: KVM's
 * own split. A VM has memory and vCPUs; run() returns an exit; kick() from any
 * thread makes it return soon; state is read and written whole, between runs.
 *
 * The local APIC belongs to the engine's side; a halted vCPU sleeps inside
 * run(). Devices are never seen from here.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/error.h"
#include "base/vclock.h"
#include "engine/exit.h"
#include "mem/mem.h"
#include "x86/cpu.h"

struct engine_vm;   /* an engine's own */
struct engine_vcpu; /* an engine's own */

struct engine_config {
    struct mem *mem;
    struct vclock *clock;
    unsigned cpus;
    size_t code_cache; /* for engines that translate: bytes of translated code a vCPU keeps at most; 0:
                          ENGINE_CODE_CACHE */
    bool shadow_soon;  /* ditto: user code goes by a shadow space (bt) at once: for tests */
    bool perf_map;     /* ditto: tell perf the names of translated code, in /tmp/perf-PID.map */
};

#define ENGINE_CODE_CACHE     MIB(256)
#define ENGINE_CODE_CACHE_MIN KIB(256)
#define ENGINE_CODE_CACHE_MAX GIB(1) /* jumps in it are of 32 bits */

/* A line of --stats. */
typedef void engine_line_fn(void *opaque, uint64_t count, const char *text);

struct engine_ops {
    const char *name;
    const char *summary; /* for --help and doctor: a few words */
    bool counts;         /* each instruction, even if run() is given no budget */
    bool maps_ram;       /* its memory is best such that it can be mapped again: mem_share_ram() */
    bool hardware; /* guest code runs on the processor itself: `auto` takes it unless a software engine is faster */

    /* Can it work on this host? 0, or a negative errno and why not. */
    int (*probe)(struct error *err);

    int (*vm_create)(struct engine_vm **vm, const struct engine_config *config, struct error *err);
    void (*vm_destroy)(struct engine_vm *vm);
    /* Sends an interrupt message (IOAPIC, MSI) to the local APICs. Any thread. */
    void (*signal)(struct engine_vm *vm, const struct x86_apic_message *message);

    int (*vcpu_create)(struct engine_vcpu **vcpu, struct engine_vm *vm, unsigned id, struct error *err);
    void (*vcpu_destroy)(struct engine_vcpu *vcpu);

    /* Runs until there is an exit; budget: at most so many instructions (0: no limit; engines that cannot count
     * do one by the trap flag, and if that delivers an event, all until the handler has returned). For EXIT_PIO and
     * EXIT_MMIO reads the caller fills in exit->*.data and passes the same struct to the next run(), which completes
     * the instruction. The vCPU's thread only. */
    void (*run)(struct engine_vcpu *vcpu, struct exit *exit, uint64_t budget);
    void (*kick)(struct engine_vcpu *vcpu); /* any thread, async-signal-safe */

    /* External interrupts of an 8259 (ExtINT): the vCPU's thread asks ready(); if not, request_irq_window() makes
     * run() return EXIT_IRQ_WINDOW when it is; inject() delivers the vector at the next run(). */
    bool (*ready)(struct engine_vcpu *vcpu);
    void (*request_irq_window)(struct engine_vcpu *vcpu);
    void (*inject)(struct engine_vcpu *vcpu, uint8_t vector);
    void (*nmi)(struct engine_vcpu *vcpu); /* any thread */

    /* Whole state, while not in run(). get copies the architectural part; set takes it over (derived parts are
     * recomputed). An access that has not been answered is over then; KVM ends it its own way, and may write what was
     * not answered to memory. */
    void (*get_state)(struct engine_vcpu *vcpu, struct x86_cpu *state);
    void (*set_state)(struct engine_vcpu *vcpu, const struct x86_cpu *state);
    const struct counters *(*counters)(struct engine_vcpu *vcpu);
    /* What the engine has counted besides: which instructions it did not run by its own means. May be NULL. */
    void (*report)(struct engine_vcpu *vcpu, engine_line_fn *line, void *opaque);

    /* Short ways past run(), where there are such; NULL, or failure: it goes without. Any thread. signal_again:
     * signal() for a source that sends the same message again and again; *route is the source's own, 0 at first, its
     * calls come one at a time. doorbell: from now on writes at gpa, whatever their size and value, only signal fd, an
     * eventfd, and run() goes on; or no longer. */
    void (*signal_again)(struct engine_vm *vm, unsigned *route, const struct x86_apic_message *message);
    int (*doorbell)(struct engine_vm *vm, gpa_t gpa, int fd, bool on);

    /* Pages that vCPUs write to, for those who copy memory of a running guest; NULL: the engine has no such log. While
     * it is on, fetch gives the pages of mem_slot(slot) written to since the last fetch (bit n: page n) in a bitmap of
     * engine_dirty_words(). Some that were only read may be among them; what the monitor writes itself is not. Between
     * runs of all vCPUs: dirty_log only. */
    int (*dirty_log)(struct engine_vm *vm, bool on);
    int (*dirty_fetch)(struct engine_vm *vm, unsigned slot, uint64_t *bitmap);
};

static inline uint64_t engine_dirty_words(const struct mem_slot *slot)
{
    return ((slot->size >> PAGE_SHIFT) + 63) / 64;
}

/* One per folder; machine/board.c alone lists them. */
extern const struct engine_ops engine_interp;
extern const struct engine_ops engine_bt;
extern const struct engine_ops engine_kvm;
extern const struct engine_ops engine_null;

#endif
