/*
 * x86/cpu.h: the canonical state of one virtual processor, the same for every
 * engine: a VM saved under one engine resumes under another. The second half
 * is not architectural: it belongs to whoever runs this vCPU and is never saved.
 *
 * One thread, the vCPU's own, touches a struct x86_cpu while it runs, except
 * for `events` and the LAPIC's posted requests, which are atomic.
 */
#ifndef X86_CPU_H
#define X86_CPU_H

#include <stdatomic.h>

#include "base/counters.h"
#include "base/types.h"
#include "x86/defs.h"
#include "x86/lapic.h"
#include "x86/random.h"

/* A segment register with its hidden part. attr is laid out as VMX's access
 * rights: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15. limit is in
 * bytes (G already applied). A null selector has P = 0. SS.DPL is always CPL, for
 * a null SS too (CS.DPL is not: conforming code, real mode). */
struct x86_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint16_t attr;
};

struct x86_table { /* GDTR, IDTR */
    uint64_t base;
    uint16_t limit;
};

/* The XSAVE area in its standard (non-compacted) format; the host's FXRSTOR
 * and XRSTOR load it as it is. SDM vol. 1, 13.4. While a processor runs, xstate_bv
 * says that everything is in use; see x86_fpu_normalise(). */
struct x86_fpu {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved0; /* abridged tag: bit = 1 is not empty; by physical register */
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16]; /* by stack position (ST0 first), not by physical register */
    uint8_t xmm[16][16];
    uint8_t reserved1[96];
    uint64_t xstate_bv, xcomp_bv; /* XSAVE header */
    uint8_t reserved2[48];
    uint8_t ymm_high[16][16];
} __attribute__((aligned(32)));

/* MSRs that are plain storage or that the semantics read directly. */
struct x86_msrs {
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, spec_ctrl, xss, debugctl;
    uint64_t tsc_offset; /* guest TSC = the clock's TSC + this; TSC_ADJUST shares it */
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_var[16];
    uint64_t mcg_status, mc_ctl_status[16];
    uint64_t kvm_system_time, kvm_wall_clock, kvm_steal_time, kvm_async_pf, kvm_pv_eoi, kvm_poll_control;
};

/* An exception being raised or an interrupt being delivered. */
struct x86_event {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t cr2; /* for #PF, set into CR2 at delivery; for #DB, the bits to set in DR6 */
};

struct x86_tlb;
struct x86_bus_ops;
struct x86_insn;

/* Why cpu->shutdown: the exceptions that led there, first one first (0xff: none), and what belongs to the first. */
struct x86_shutdown {
    uint8_t vectors[4];
    uint64_t rip, cr2;
    uint32_t error;
};

/* One port or MMIO access, pending or completed; see x86/io.h. */
struct x86_io {
    enum x86_io_kind { X86_IO_NONE, X86_IO_PORT, X86_IO_MMIO } kind;
    bool write;
    uint8_t size; /* bytes: 1, 2, 4, 8 */
    uint64_t addr;
    uint64_t data;
};
#define X86_IO_LOG 40 /* completed accesses of one instruction at the most (page-crossing XSAVE aside) */

struct x86_cpu {
    /* --- architectural ------------------------------------------------------ */
    uint64_t gpr[16]; /* at offset 0: instructions name a GPR by its byte offset (AH is 1) */
    uint64_t rip;     /* "register" 16, for RIP-relative addresses; linear in no mode but flat ones */
    uint64_t zero;    /* "register" 17: always 0, for an address without base or index */
    uint64_t rflags;  /* always whole: no lazy flags */

    struct x86_segment seg[6]; /* enum x86_seg */
    struct x86_segment ldtr, tr;
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, xcr0; /* CR8 is lapic.tpr */
    uint64_t pdpte[4];                 /* PAE: loaded with CR3 */
    uint64_t dr[8];                    /* 0..3, 6, 7 */
    struct x86_msrs msr;
    struct x86_fpu fpu;
    uint16_t fcs, fds; /* selectors of fpu.fip and fdp, for which the 64-bit image has no room */
    struct x86_lapic lapic;
    struct x86_random random; /* behind RDRAND */

    uint8_t int_shadow; /* enum x86_shadow; holds for the next instruction only */
    bool nmi_masked;    /* an NMI is being handled */
    bool nmi_pending;
    bool halted;               /* in HLT: an event wakes it */
    bool wait_for_sipi;        /* after INIT */
    bool shutdown;             /* triple fault */
    struct x86_event injected; /* an event whose delivery was cut off; with injected_valid */
    bool injected_valid;
    uint32_t id; /* APIC ID; 0 is the boot processor */

    /* --- derived from the above by x86_update_mode() -------------------------- */
    uint8_t mode;         /* enum x86_mode: of code at CS:RIP */
    uint8_t cpl;          /* 0..3: SS.DPL; 0 in real mode, 3 in virtual-8086 */
    uint8_t stack_size;   /* bytes of the stack pointer: 2, 4 or 8 */
    uint8_t seg_flat;     /* bit s: accesses through s need no limit or type check */
    uint8_t segmented;    /* 32-bit code: bit s, of ES CS SS DS: has a base, or a limit or type to be looked at */
    uint64_t seg_base[6]; /* effective bases: 0 for ES CS SS DS in 64-bit mode */
    /* 32-bit code, for fast checks: an access of n bytes is allowed that ends at most here; 0: x86_check_segment() has
     * to look. For reads, for writes; for instructions. */
    uint64_t seg_room[2][6], code_room;
    uint64_t lin_mask; /* linear addresses wrap here: 32 or 64 bits */

    /* --- not architectural: the runner's --------------------------------------- */
    _Atomic uint32_t events; /* X86_EV_*: looked at on block edges */
    struct x86_tlb *tlb;     /* the soft TLB; x86/tlb.h */
    const struct x86_bus_ops *bus;
    void *bus_ctx;
    void *engine; /* the engine's private per-vCPU data */

    struct x86_event exc;               /* filled by x86_raise*() when a semantic returns X86_FAULT */
    struct x86_shutdown shutdown_cause; /* with shutdown */
    uint8_t dr6_hit;                    /* data breakpoints hit by the instruction in progress (DR6 B0..B3) */
    bool code_changed; /* the instruction in progress wrote to decoded code or the APIC: leave the block after it */

    struct x86_io io;                 /* wanted, when a semantic returns X86_EXIT */
    struct x86_io io_log[X86_IO_LOG]; /* done, in order, for the instruction in progress */
    uint8_t io_count, io_pos;

    struct counters counters;
};

/* Power-up state (SDM vol. 3, 9.1.1; AMD APM vol. 2, 14.1). Keeps the runner's part. */
void x86_cpu_reset(struct x86_cpu *cpu);
/* State after INIT: as after reset, but for caches, FPU, MSRs. */
void x86_cpu_init(struct x86_cpu *cpu);

/* Makes an image from elsewhere (XSAVE by the host, a snapshot) the one that the semantics work on: components that its
 * header calls initial get their initial values, reserved bits are dropped. */
void x86_fpu_normalise(struct x86_fpu *fpu);

/* Recomputes the derived part. To be called after any change to CR0, CR4, EFER, RFLAGS.{VM,AC,TF}, a segment
 * register, DR7 or CPL. Also selects the TLB's current table. */
void x86_update_mode(struct x86_cpu *cpu);

static inline bool x86_long_mode(const struct x86_cpu *cpu) /* EFER.LMA */
{
    return cpu->msr.efer & EFER_LMA;
}

static inline bool x86_protected(const struct x86_cpu *cpu) /* PE and not virtual-8086 */
{
    return (cpu->cr0 & CR0_PE) && !(cpu->rflags & FLAG_VM);
}

/* Marks an event for the vCPU; any thread. Does not wake a halted one: the engine's kick does. */
static inline void x86_post_event(struct x86_cpu *cpu, uint32_t events)
{
    atomic_fetch_or_explicit(&cpu->events, events, memory_order_release);
}

#endif
